"""Figures of a run beside its baselines, for the terminal, for --json and for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from ..formulations.errors import UsageError
from .console import LIFTED, cells, number, percent, small, table

BASELINES = "baselines.json"
OURS = "convex blocks"
ROWS = {
    "true_loss": "training loss (sum)",
    "penalty": "penalty",
    "objective": "loss + penalty",
    "lifted_estimate": LIFTED,
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "train_error": "training error (mean square)",
    "test_error": "test error (mean square)",
    "cpu_seconds": "CPU seconds",
}


def own_figures(last: dict[str, Any]) -> dict[str, Any]:
    """The figures of our own training, in the form of a baseline."""
    figures = {key: last[key] for key in ROWS if key in last}
    return {"name": OURS, **figures}


def kink_note(name: str, price: float) -> str:
    """What has to be said of a method that learns activations."""
    return (
        f"{name}: the activations are learned, which are more parameters; the price of their kinks, {number(price)}, "
        "is minimized too and not in these figures."
    )


def side_by_side(methods: list[dict[str, Any]]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of the methods, and for each figure its label and one text for each method."""
    names = [method["name"] for method in methods]
    rows = [
        (label, [_written(key, method.get(key)) for method in methods])
        for key, label in ROWS.items()
        if any(method.get(key) is not None for method in methods)
    ]
    return names, rows


def result_table(methods: list[dict[str, Any]]) -> Table:
    """The figures of all methods side by side."""
    names, rows = side_by_side(methods)
    made = table("", *names, numbers=tuple(names))
    for label, texts in rows:
        made.add_row(*cells(label, *texts))
    return made


def audit_table(audits: list[dict[str, Any]]) -> Table:
    """Comparisons of the engines with Clarabel."""
    numbers = ("sweep", "instances", "gap", "violation")
    made = table("sweep", "block", "engine", "instances", "gap", "violation", "agrees", numbers=numbers)
    for audit in audits:
        made.add_row(*cells(*audit_row(audit)))
    return made


def audit_notes(audits: list[dict[str, Any]]) -> list[str]:
    """What has to be said of the audits, once for each block."""
    return list(dict.fromkeys(f"{audit['block']}: {audit['note']}." for audit in audits if audit.get("note")))


def warm_and_cold_table(means: dict[str, dict[str, float]]) -> Table:
    """Mean iterations of each block from warm and from cold starts."""
    made = table("block", "iterations, warm start", "cold start", numbers=("iterations, warm start", "cold start"))
    for label, mean in means.items():
        made.add_row(*cells(label, number(mean["warm"], 3), number(mean["cold"], 3)))
    return made


def audit_row(audit: dict[str, Any]) -> list[str]:
    """One audit as texts; `agrees` is yes, NO, or unknown where there is no model to compare with."""
    verdict = {True: "yes", False: "NO", None: "no model"}[audit.get("agrees")]
    gap, violation = (small(audit.get(key)) for key in ("objective_gap", "violation"))
    instances = number(audit.get("instances"))
    return [str(audit["sweep"]), audit["block"], audit["engine"], instances, gap, violation, verdict]


def save_baselines(out: Path | None, baselines: list[dict[str, Any]]) -> None:
    """Keep the baselines in the run's folder, for its report."""
    from ..solvers.history import finite

    if out is not None:
        text = json.dumps(finite(baselines), indent=2, allow_nan=False)
        (out / BASELINES).write_text(text + "\n", encoding="utf-8")


def read_baselines(folder: Path) -> list[dict[str, Any]]:
    """The baselines of a run; none where it was trained without them.

    Raises
    ------
    UsageError
        If the file is damaged.
    """
    path = folder / BASELINES
    if not path.is_file():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        if not all({"name", "note"} <= set(method) for method in found):
            raise ValueError("a baseline lacks its name or note")
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(f"the file {str(path)!r} is damaged ({error}); remove it, or train the run again.") from None
    return found


def _written(key: str, value: Any) -> str:
    if key.endswith("_accuracy"):
        return percent(value)
    return number(value, 3) if key == "cpu_seconds" else number(value)
