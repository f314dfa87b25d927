"""`convexblocks compare`: training methods side by side on the same data, splits, starts and objective."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formulations.catalogue import METHODS
from ..formulations.errors import UsageError
from ..formulations.losses import choose_loss, find_loss
from ..formulations.subproblem import require_nonnegative, require_positive, require_size
from .comparison_text import Comparison, summary, tell
from .console import print_json, read_settings, say, working
from .training import DENSE, LENET, check_seed, limit_threads, load_data, make_network, outputs_for
from .training_options import (
    COURSE,
    GOAL,
    ActivationName,
    DataFolder,
    DataName,
    Device,
    Hidden,
    Json,
    LossName,
    NetworkKind,
    NoStandardize,
    Sweeps,
    Task,
    WeightDecay,
)

if TYPE_CHECKING:
    from ..networks.comparison import BlockMethod, Goal
    from ..networks.datasets import Dataset

Option = typer.Option
SHOWN = ("fenchel", "inequality", "monotone", "targets")
BASELINES = ("adam", "sgd")


def compare(
    data: DataName,
    methods: Annotated[
        str | None, Option(metavar="A,B,...", help="Of `list`, and adam, sgd, logistic.", rich_help_panel=GOAL)
    ] = None,
    task: Task = None,
    no_standardize: NoStandardize = False,
    data_dir: DataFolder = None,
    kind: NetworkKind = DENSE,
    hidden: Hidden = [64],  # noqa: B006 - typer reads the default and hands out a copy
    activation: ActivationName = "relu",
    device: Device = "cpu",
    loss: LossName = None,
    weight_decay: WeightDecay = 0.1,
    settings: Annotated[
        list[str] | None,
        Option("--set", metavar="METHOD.NAME=VALUE", help="E.g. fenchel.batch_size=500.", rich_help_panel=GOAL),
    ] = None,
    seeds: Annotated[int, Option(metavar="N", help="Runs: seeds 0, 1, ..., N-1.", rich_help_panel=COURSE)] = 3,
    sweeps: Sweeps = 30,
    seconds: Annotated[
        float | None, Option(metavar="S", help="CPU seconds for each method.", rich_help_panel=COURSE)
    ] = None,
    plot: Annotated[Path | None, Option(metavar="FILE.png", help="Draw the loss against CPU time.")] = None,
    json: Json = False,
) -> None:
    """Compare training methods: same splits, starts and objective; Adam, SGD and a linear model beside them."""
    check_seed(seeds)
    require_size(seeds=seeds, sweeps=sweeps)
    require_nonnegative(weight_decay=weight_decay)
    if seconds is not None:
        require_positive(seconds=seconds)
    _check_plot(plot)
    chosen = _chosen(methods, settings or [])
    wanted_task = task if task or loss is None else find_loss(loss).task

    def load(seed: int) -> Dataset:
        return load_data(
            data, kind, data_dir=data_dir, random_state=seed, task=wanted_task, standardize=not no_standardize
        )

    dataset = load(0)
    limit_threads(dataset.X_train.size)
    outputs = outputs_for(dataset, loss)
    from ..networks.comparison import Goal

    goal = Goal(loss or choose_loss(dataset.task, outputs).name, weight_decay, sweeps, seconds)
    # What no method could train is refused here, before anything runs.
    make_network(dataset, hidden, activation, outputs=outputs, seed=0, device=device, kind=kind)
    found = Comparison()
    try:
        for seed in range(seeds):
            dataset = load(seed) if seed else dataset
            network = make_network(
                dataset, hidden, activation, outputs=outputs, seed=seed, device=device, kind=kind
            )
            _run_all(chosen, network, dataset, goal, seed, outputs, found, quiet=json)
    except KeyboardInterrupt:
        found.interrupted = True
    if plot is not None and any(run.get("trace") for runs in found.runs.values() for run in runs):
        from .comparison_figure import draw

        draw(plot, found.runs, dataset.task)
    if json:
        print_json(summary(found, dataset, goal, seeds, plot))
    else:
        widths = " - ".join(map(str, _widths(dataset, hidden, outputs)))
        tell(found, dataset, goal, seeds, f"{kind if kind == LENET else widths}, {activation}")
        if plot is not None and plot.is_file():
            say(f"Loss against CPU time: {plot}")
    if found.interrupted:
        raise typer.Exit(130)
    if not set(found.runs) & set(chosen):
        raise typer.Exit(1)


def _check_plot(plot: Path | None) -> None:
    if plot is None:
        return
    if plot.suffix.lower() != ".png":
        raise UsageError(f"--plot is {str(plot)!r}; expected the name of a PNG file, e.g. --plot compare.png.")
    if not plot.parent.is_dir():
        raise UsageError(f"--plot: the folder {str(plot.parent)!r} does not exist; make it, or choose another one.")


def _chosen(methods: str | None, pairs: list[str]) -> dict[str, BlockMethod | None]:
    """The methods in order, with settings where they have any; the linear model is the last, asked for or not.

    Raises
    ------
    UsageError
        If a method or a setting is unknown, or a setting is of a method that is not compared.
    """
    from ..networks.comparison import LINEAR, known_methods, read_method

    default = [*(name for name in SHOWN if name in METHODS), *BASELINES]
    names = default if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    unknown = [name for name in names if name not in known_methods()]
    if unknown or not names:
        seen = f"unknown method {unknown[0]!r}" if unknown else "--methods names none"
        raise UsageError(f"{seen}; known: {', '.join(known_methods())}.")
    given: dict[str, dict[str, str]] = {name: {} for name in names}
    for key, value in read_settings(pairs).items():
        method, dot, setting = key.partition(".")
        if not dot or method not in given or method not in METHODS:
            able = [name for name in names if name in METHODS]
            raise UsageError(
                f"--set {key}={value} cannot be read; expected METHOD.NAME=VALUE, where METHOD is one of those compared"
                f" that have settings: {', '.join(able) or 'none here'}."
            )
        given[method][setting] = value
    return {
        name: read_method(name, settings) if name in METHODS else None
        for name, settings in given.items() if name not in LINEAR.values()
    }  # fmt: skip


def _run_all(
    chosen: dict[str, BlockMethod | None], network: Any, dataset: Dataset, goal: Goal, seed: int, outputs: int,
    found: Comparison, *, quiet: bool,
) -> None:  # fmt: skip
    """One seed of every method that has not failed yet."""
    from ..networks.comparison import LINEAR, train_blocks, train_gradients, train_linear
    from ..solvers.solution import SolveError

    for name, method in [*chosen.items(), (LINEAR[dataset.task], None)]:
        if name in found.failed:
            continue
        try:
            with working(f"{name}, seed {seed} ...", quiet=quiet):
                if method is not None:
                    run = train_blocks(method, network, dataset, goal, seed)
                elif name in LINEAR.values():
                    run = train_linear(dataset, goal, outputs)
                else:
                    run = train_gradients(name, network, dataset, goal, seed)
        except (UsageError, SolveError) as error:
            found.failed[name] = str(error)
        else:
            found.runs.setdefault(name, []).append(run | {"seed": seed})


def _widths(dataset: Dataset, hidden: list[int], outputs: int) -> list[int]:
    return [dataset.X_train.shape[1], *hidden, outputs]
