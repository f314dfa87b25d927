"""What `compare` says of its runs: the table, the notes, and the object of --json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .console import cells, number, output, say, table
from .results import kink_note

if TYPE_CHECKING:
    from rich.table import Table

    from ..networks.comparison import Goal, Run
    from ..networks.datasets import Dataset

MEANS = ("true_loss", "penalty", "objective", "kink_price", "train_accuracy", "test_accuracy", "train_error",
         "test_error", "cpu_seconds", "search_seconds", "sweeps", "steps")  # fmt: skip


@dataclass
class Comparison:
    """What was found so far: the runs of each method, and why others have none."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def summary(found: Comparison, dataset: Dataset, goal: Goal, seeds: int, plot: Path | None) -> dict[str, Any]:
    """What --json prints; others rely on the keys of `methods`."""
    return {
        "methods": {name: _averages(runs) for name, runs in found.runs.items()},
        "failed": found.failed,
        "interrupted": found.interrupted,
        "data": dataset.name,
        "task": dataset.task,
        "loss": goal.loss,
        "weight_decay": goal.weight_decay,
        "seconds": goal.seconds,
        "seeds": seeds,
        "split": _split_in_words(dataset, seeds),
        "plot": None if plot is None or not plot.is_file() else str(plot),
    }


def _averages(runs: list[Run]) -> dict[str, Any]:
    """Mean of every figure, its standard deviation (`spread`; none for one run), and the runs without their traces."""
    columns = {
        "train_loss" if key == "true_loss" else key: [run[key] for run in runs]
        for key in MEANS if all(run.get(key) is not None for run in runs)
    }  # fmt: skip
    return {
        **{key: float(np.mean(values)) for key, values in columns.items()},
        "spread": {key: float(np.std(values, ddof=1)) for key, values in columns.items() if len(runs) > 1},
        "runs": [{key: value for key, value in run.items() if key not in ("trace", "name")} for run in runs],
    }


def tell(found: Comparison, dataset: Dataset, goal: Goal, seeds: int, network: str) -> None:
    """Print what was compared, the table, and what has to be said of it."""
    tested = "no test part" if dataset.X_test is None else f"{dataset.sizes[1]} for testing"
    which = "seed 0" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    facts = table("", "")
    for row in (
        ("data", f"{dataset.name}: {dataset.sizes[0]} samples for training, {tested}"),
        ("runs", f"{which}; {_split_in_words(dataset, seeds)}"),
        ("network", network),
        ("objective", f"{goal.loss}, summed, + {goal.weight_decay:g}/2 sum of squared weights"),
    ):
        facts.add_row(*cells(*row))
    facts.show_header = False
    output().print(facts, "")
    if found.runs:
        output().print(_result_table(found, dataset.task, seeds), "")
    for text in _notes(found, goal):
        say(text)


def _result_table(found: Comparison, task: str, seeds: int) -> Table:
    heads = ("test accuracy, %" if task == "classification" else "test error", "training loss", "loss + penalty",
             "CPU s", "sweeps")  # fmt: skip
    made = table("method", *heads, numbers=heads)
    for name, runs in found.runs.items():
        label = name if len(runs) == seeds else f"{name} ({len(runs)} of {seeds})"
        if task == "classification":
            score = _mean_and_spread([100 * run["test_accuracy"] for run in runs if "test_accuracy" in run], decimals=2)
        else:
            score = _mean_and_spread([run["test_error"] for run in runs if "test_error" in run])
        figures = (_mean_and_spread([run[key] for run in runs]) for key in ("true_loss", "objective"))
        seconds = _mean_and_spread([run["cpu_seconds"] for run in runs], decimals=2)
        sweeps = number(float(np.mean([run["sweeps"] for run in runs])), 3) if "sweeps" in runs[0] else "-"
        made.add_row(*cells(label, score, *figures, seconds, sweeps))
    return made


def _mean_and_spread(values: list[float], decimals: int | None = None) -> str:
    """Mean, and the standard deviation with as many decimals; four digits of the mean where no decimals are given."""
    if not values:
        return "-"
    middle = float(np.mean(values))
    text = number(middle) if decimals is None else f"{middle:.{decimals}f}"
    if len(values) < 2:
        return text
    if not np.isfinite(values).all():
        return text
    spread = float(np.std(values, ddof=1))
    return f"{text} ± {spread:.1e}" if "e" in text else f"{text} ± {spread:.{len(text.partition('.')[2])}f}"


def _notes(found: Comparison, goal: Goal) -> list[str]:
    """What has to be said of the figures."""
    notes = [f"{name} is left out: {text}" for name, text in found.failed.items()]
    if found.interrupted:
        notes.append("Interrupted: these are the runs that were complete.")
    if any(len(runs) > 1 for runs in found.runs.values()):
        notes.append("Mean ± standard deviation over the seeds. In a seed all methods start from the same network.")
    searched = {name: runs for name, runs in found.runs.items() if "search_seconds" in runs[0]}
    for runs in searched.values():
        rates = ", ".join(f"{rate:g}" for rate in sorted({run["learning_rate"] for run in runs}))
        searching = np.mean([run["search_seconds"] for run in runs])
        how = f"chosen on a held-out fifth of the training data ({searching:.1f} CPU s more)"
        notes.append(
            f"{runs[0]['name']}: {round(np.mean([run['steps'] for run in runs]))} steps; rate {rates}, "
            f"{how if searching else 'not chosen among others'}."
        )
    notes += [kink_note(name, float(np.mean([run["kink_price"] for run in runs])))
              for name, runs in found.runs.items() if "kink_price" in runs[0]]  # fmt: skip
    if goal.seconds is not None:
        notes.append(
            f"Methods that iterate had {goal.seconds:g} CPU seconds each: they end with the sweep that passes them, or "
            "where the objective stands still. Short runs that measure their speed are not counted."
        )
    return notes


def _split_in_words(dataset: Dataset, seeds: int) -> str:
    if not isinstance(dataset.source["split"], dict):
        return "the data's own split, the same for every seed"
    return "one split for each seed" if seeds > 1 else "split of seed 0"
