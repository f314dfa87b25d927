"""Training methods side by side: the same start, split and objective for each, on one clock.

Methods are those of formulations/catalogue.py, by fit_method; gradient methods and the linear model stand beside them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from ..formulations.catalogue import METHODS, Method
from ..formulations.catalogue import method as find_method
from ..formulations.errors import UsageError
from ..formulations.formulation import Formulation
from ..solvers.history import History
from ..solvers.methods import TRAINERS, fit_method
from .baselines import linear_baseline
from .datasets import Dataset
from .gradients import GRADIENT_METHODS, train_by_gradients
from .node_data import labelled

LINEAR = {"classification": "logistic", "regression": "ridge"}
"""Name of the linear model for each task."""
FIGURES = ("true_loss", "penalty", "objective")
MEASUREMENTS = 40
UNLIMITED = 1_000_000
PROBES, WELL_MEASURED = (2, 20, 200), 0.05
# What a comparison sets alike for all methods.
SHARED = {"loss", "task", "weight_decay", "sweeps", "time_limit", "validation", "random_state", "out", "notes",
          "on_event", "audit_every"}  # fmt: skip

Run = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """What every method of a comparison is asked for: the objective, and when to stop.

    Attributes
    ----------
    loss : str
        Name of the training loss.
    weight_decay : float
        Factor of the penalty.
    sweeps : int
        Sweeps of methods that sweep; not used where `seconds` are given.
    seconds : float or None
        CPU seconds of every method that iterates.
    """

    loss: str
    weight_decay: float
    sweeps: int
    seconds: float | None


@dataclass(frozen=True)
class BlockMethod:
    """A method of the catalogue with its settings, and settings of its trainer."""

    settings: Method
    trainer: dict[str, Any]


def read_method(name: str, settings: dict[str, str]) -> BlockMethod:
    """A method of the catalogue with settings as the command line gives them: its own ones and those of its trainer.

    Raises
    ------
    UsageError
        If the name or a setting is unknown, or a value cannot be read.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; known: {', '.join(METHODS)}.")
    trainer = next(trainer for kind, trainer in TRAINERS if issubclass(METHODS[name], kind))
    keywords = [
        key for key, parameter in inspect.signature(trainer).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and key not in SHARED
    ]  # fmt: skip
    own = [field.name for field in fields(METHODS[name])]  # type: ignore[arg-type]
    unknown = [key for key in settings if key not in own and key not in keywords]
    if unknown:
        raise UsageError(f"{name} has no setting {unknown[0]!r}; known: {', '.join([*own, *keywords])}.")
    return BlockMethod(
        find_method(name, **{key: value for key, value in settings.items() if key in own}),
        {key: _number(name, key, value) for key, value in settings.items() if key not in own},
    )


def train_blocks(method: BlockMethod, start: nn.Module, dataset: Dataset, goal: Goal, seed: int) -> Run:
    """Train a copy of a network by a method of the catalogue.

    With `Goal.seconds` a run ends after the sweep that passes them. Methods that are no formulation follow a schedule
    over all their sweeps: short runs beforehand, not counted, say how many sweeps fit.

    Returns
    -------
    dict
        Figures of the trained network, `cpu_seconds`, `sweeps`, `trace` (figures after each sweep), `stop_reason`.

    Raises
    ------
    UsageError
        If the method cannot train this network on these data.
    KeyboardInterrupt
        If the run was interrupted.
    """
    sweeps = goal.sweeps
    if goal.seconds is not None:
        scheduled = not isinstance(method.settings, Formulation)
        sweeps = _sweeps_for(method, start, dataset, goal, seed) if scheduled else UNLIMITED
    history = _fit(method, start, dataset, goal, seed, sweeps, goal.seconds)
    kept = ("cpu_seconds", *FIGURES, "kink_price", *(f"{part}_{_score(dataset)}" for part in ("train", "test")))
    trace = [{key: record[key] for key in kept if key in record} for record in history.records]
    return {**trace[-1], "sweeps": history.last["sweep"], "stop_reason": history.stop_reason, "trace": trace}


def train_gradients(name: str, start: nn.Module, dataset: Dataset, goal: Goal, seed: int) -> Run:
    """Train a copy of a network by a gradient method; `cpu_seconds` are those at the chosen rate alone.

    Raises
    ------
    UsageError
        If the network or the data cannot be used.
    """
    found = train_by_gradients(
        copy.deepcopy(start), dataset.train, name, loss=goal.loss, weight_decay=goal.weight_decay,
        validation=dataset.test, seconds=goal.seconds, random_state=seed, measurements=MEASUREMENTS,
    )  # fmt: skip
    return found | {"cpu_seconds": found["cpu_seconds"] - found["search_seconds"]}


def train_linear(dataset: Dataset, goal: Goal, outputs: int) -> Run:
    """Fit the linear model of the same objective.

    Raises
    ------
    UsageError
        If the data do not fit the loss.
    """
    train, test = dataset.train, dataset.test
    if dataset.task == "classification":
        train, test = labelled(train), None if test is None else labelled(test)
    return linear_baseline(train, loss=goal.loss, weight_decay=goal.weight_decay, outputs=outputs, validation=test)


def known_methods() -> list[str]:
    """Names that a comparison takes."""
    return [*METHODS, *GRADIENT_METHODS, *LINEAR.values()]


def _score(dataset: Dataset) -> str:
    return "accuracy" if dataset.task == "classification" else "error"


def _fit(
    method: BlockMethod, start: nn.Module, dataset: Dataset, goal: Goal, seed: int, sweeps: int, seconds: float | None
) -> History:
    """Train a copy; all trainers end cleanly at an interrupt, and by one the budget ends them too."""
    spent = False

    def on_event(event: dict[str, Any]) -> None:
        nonlocal spent
        if event["event"] == "sweep" and seconds is not None and event["record"]["cpu_seconds"] >= seconds:
            spent = True
            raise KeyboardInterrupt

    history = fit_method(
        copy.deepcopy(start), dataset.train, method.settings, loss=goal.loss, weight_decay=goal.weight_decay,
        validation=dataset.test, sweeps=sweeps, random_state=seed, on_event=on_event, **method.trainer,
    )  # fmt: skip
    if spent:
        history.stop_reason = f"{seconds:g} CPU seconds are spent"
    elif history.stop_reason.startswith("interrupted"):
        raise KeyboardInterrupt
    return history


def _sweeps_for(method: BlockMethod, start: nn.Module, dataset: Dataset, goal: Goal, seed: int) -> int:
    """How many sweeps fit into the seconds; the first one of a run may also prepare something."""
    assert goal.seconds is not None
    sweeps = 1
    # What a method does every so many sweeps is in all probes as often as in a long run.
    period = getattr(method.settings, "every", 1)
    for probe in PROBES:
        length = probe * period
        clock = _fit(method, start, dataset, goal, seed, length, None).column("cpu_seconds")
        first, rest = clock[1], clock[-1] - clock[1]
        if len(clock) > 2 and rest > 0:
            sweeps = max(1, 1 + int((goal.seconds - first) / (rest / (len(clock) - 2))))
        if clock[-1] >= WELL_MEASURED * goal.seconds:
            break
    return sweeps


def _number(name: str, key: str, text: str) -> int | float:
    """A setting of a trainer, which are all numbers."""
    readers: tuple[Callable[[str], int | float], ...] = (int, float)
    for read in readers:
        try:
            return read(text)
        except ValueError:
            continue
    raise UsageError(f"{name}: {key} is {text!r}; expected a number.")
