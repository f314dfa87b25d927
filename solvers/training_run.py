"""What all trainers of networks share: what they ask for, what their records begin with, and the loop over sweeps."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..formulations.formulation import Architecture, forward, objective_at
from ..formulations.losses import Loss
from ..formulations.subproblem import require_count, require_nonnegative, require_positive, require_size
from .checkpoint import RunWriter
from .history import History
from .layered import LayeredNetwork
from .training_data import TrainingData

log = logging.getLogger("convexblocks")

Event = dict[str, Any]
Copies = Callable[[], tuple[list[Tensor], list[Tensor]]]
"""Gives the weights and the biases, as they are to be written."""


def check_goal(
    *, weight_decay: float, sweeps: int, time_limit: float | None, random_state: int, notes: dict[str, Any] | None
) -> None:
    """Refuse what no trainer can follow; arguments as for `fit`.

    Raises
    ------
    UsageError
        If a number is out of its range, or the notes are no JSON data.
    """
    require_size(sweeps=sweeps)
    require_count(random_state=random_state)
    require_nonnegative(weight_decay=weight_decay)
    if time_limit is not None:
        require_positive(time_limit=time_limit)
    try:
        json.dumps(notes)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the notes are no JSON data: {error}; expected numbers, text, lists and dicts.") from None


def check_weights(network: LayeredNetwork) -> None:
    """Refuse weights that are frozen or not finite.

    Raises
    ------
    UsageError
        Naming the layer.
    """
    trainable = [all(parameter.requires_grad for parameter in layer.module.parameters()) for layer in network.maps]
    frozen = [place for place, free in enumerate(trainable) if not free]
    if frozen:
        raise UsageError(
            f"linear layer {frozen[0]} of the network is frozen (requires_grad is False); expected weights that may be "
            "trained: call requires_grad_(True), or train a network without this layer on its outputs."
        )
    for place, arrays in enumerate(zip(*network.parameters(), strict=True)):
        if not all(bool(array.isfinite().all()) for array in arrays):
            raise UsageError(
                f"linear layer {place} of the network holds weights that are NaN or infinite; expected finite weights: "
                "initialize the network again."
            )


def network_settings(network: LayeredNetwork, architecture: Architecture, loss: Loss) -> dict[str, Any]:
    """What a history says of the network and the objective, as JSON data."""
    return {
        "widths": list(network.widths), "activations": [phi.label for phi in network.activations],
        "biases": list(architecture.biases), "dtype": str(network.dtype).removeprefix("torch."),
        "device": str(network.device), "loss": loss.name, "task": loss.task,
        "weight_decay": architecture.weight_decay,
    }  # fmt: skip


class SweepOverflowError(ArithmeticError):
    """Numbers of a sweep are not finite; the sweep is undone."""


def deployed_figures(
    architecture: Architecture, weights: list[Tensor], biases: list[Tensor], data: TrainingData,
    tested: TrainingData | None,
) -> dict[str, Any]:  # fmt: skip
    """Figures of a network as deployed: its forward pass on the training and the test data."""
    _, output = forward(architecture, weights, biases, data.inputs)
    loss, decay = objective_at(architecture, weights, output, data.targets)
    figures: dict[str, Any] = {"true_loss": loss, "penalty": decay, "objective": loss + decay}
    figures |= {f"train_{name}": value for name, value in data.score(output).items()}
    if tested is not None:
        _, output = forward(architecture, weights, biases, tested.inputs)
        figures |= {f"test_{name}": value for name, value in tested.score(output).items()}
    return figures


def first_record(figures: dict[str, Any]) -> dict[str, Any]:
    """The record of the untrained network.

    Raises
    ------
    UsageError
        If its outputs overflow.
    """
    if not math.isfinite(figures["objective"]):
        raise UsageError(
            f"the objective of the untrained network is {figures['objective']}; expected a finite number: scale the "
            "features, start from smaller weights, or take another activation."
        )
    return {"sweep": 0, **figures, "cpu_seconds": 0.0}


def run_sweeps(
    history: History, sweep_once: Callable[[int], tuple[dict[str, Any], float]], copies: Copies, *,
    stop_reason: Callable[[], str] = str, time_limit: float | None, emit: Callable[[Event], None] | None,
    run: tuple[str | Path | None, nn.Module, TrainingData, dict[str, Any] | None],
) -> None:  # fmt: skip
    """Sweep, record, write and tell, until there is a reason to stop; fills the history.

    Parameters
    ----------
    history : History
        With its settings and the record of the untrained network.
    sweep_once : callable
        Runs the sweep of a number, leaves the network with its weights, and gives its record and its CPU seconds.
        Raises `EndOfTraining` where the weights before the sweep are the last ones.
    copies : callable
        See `Copies`.
    stop_reason : callable
        Why training ends after the newest record; empty where it goes on.
    time_limit, emit : float, callable, optional
        As `time_limit` and `on_event` of `fit`.
    run : tuple
        Folder, network, training data and notes of the run that is written; nothing is, without a folder.
    """
    folder, network, data, notes = run
    writer = None if folder is None else RunWriter(folder, network, history, data, notes or {})
    sweeps, began, seconds = history.settings["sweeps"], time.perf_counter(), 0.0
    try:
        if writer:
            writer.start(*copies())
        for sweep in range(1, sweeps + 1):
            record, spent = sweep_once(sweep)
            seconds += spent
            history.records.append({"sweep": sweep, **record, "cpu_seconds": seconds})
            if writer:
                writer.sweep(sweep, *copies())
            if emit:
                emit({"event": "sweep", "sweeps": sweeps, "record": history.last})
            late = time_limit is not None and time.perf_counter() - began >= time_limit
            history.stop_reason = f"the time limit of {time_limit:g} s is reached" if late else stop_reason()
            if history.stop_reason:
                break
        else:
            history.stop_reason = f"all {sweeps} sweeps done"
    except EndOfTraining as end:
        history.stop_reason = str(end)
    except KeyboardInterrupt:
        # The network still holds the weights of the last complete sweep.
        history.stop_reason = f"interrupted after sweep {history.last['sweep']}"
    if writer:
        writer.finish()
    log.info("training ended: %s", history.stop_reason)


class EndOfTraining(Exception):  # noqa: N818 - no error: a reason to stop
    """A sweep left nothing to go on with; its text says why training ends."""
