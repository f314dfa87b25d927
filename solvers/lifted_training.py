"""Training by a method that keeps its lifted variables: sweeps of its blocks over all data, the network read off.

The methods are in formulations/ (lifted_method.py says what they share). The blocks of a sweep go through the engines
of `solve`; what is deployed, written and measured is the network of the weights, by its forward pass.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..formulations.formulation import Architecture, Block
from ..formulations.inequality_lifting import InequalityLifting
from ..formulations.lifted_method import LiftedMethod, LiftedVariables
from ..formulations.losses import Loss
from ..formulations.waiting import reading_waits
from .batch import ENGINES, choose_engine, solve_checked
from .devices import require_double
from .engine import Engine
from .history import History
from .layered import LayeredNetwork, read_network
from .measured import plain_record
from .safeguards import all_finite
from .training_data import TrainingData, prepare, prepare_validation
from .training_run import (
    EndOfTraining,
    Event,
    SweepOverflowError,
    check_goal,
    check_weights,
    deployed_figures,
    first_record,
    network_settings,
    run_sweeps,
)

log = logging.getLogger("convexblocks")
BLOCK_TOLERANCE = 1e-6
CLOSED_FORM = "ridge"


@dataclass
class Training:
    """A lifted training run: what it trains, its variables, and what the blocks of the present sweep reported."""

    network: LayeredNetwork
    architecture: Architecture
    method: LiftedMethod
    data: TrainingData
    tested: TrainingData | None
    state: LiftedVariables
    history: History
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)


def fit_lifted(
    network: nn.Module,
    data: tuple[Any, Any],
    method: LiftedMethod | None = None,
    *,
    loss: str | Loss | None = None,
    task: str | None = None,
    weight_decay: float = 0.1,
    sweeps: int = 30,
    time_limit: float | None = None,
    validation: tuple[Any, Any] | None = None,
    random_state: int = 0,
    out: str | Path | None = None,
    notes: dict[str, Any] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> History:
    """Train a network by a method that keeps its lifted variables; afterwards it is an ordinary trained torch module.

    The objective is that of `fit`: the SUM of the loss over samples plus (weight_decay / 2) times the sum of squares of
    all weights (not biases). The true loss may rise from sweep to sweep: the methods lower their own lifted objectives.

    Parameters
    ----------
    network : torch.nn.Sequential
        Linear layers with known activations between them; its present weights are the start.
    data : pair of arrays
        X of shape (samples, features) and y: labels 0, 1, ..., K-1, or real targets (samples,) or (samples, outputs).
        Every sweep sees all samples.
    method : LiftedMethod, optional
        Settings of a method, by default ``InequalityLifting()``.
    loss, task, weight_decay : str, str, float
        As for `fit`.
    sweeps : int
        Passes over the blocks.
    time_limit : float, optional
        Stop after the sweep that passes this many seconds.
    validation : pair of arrays, optional
        Test data, measured after each sweep and never used for training.
    random_state : int
        Kept in the settings; the methods draw no numbers.
    out, notes, on_event
        As for `fit`; the one event is ``"sweep"``.

    Returns
    -------
    History
        Its records hold, beside the true loss of the network, `lifted_estimate` (an estimate, not a bound),
        `layer_gaps`, the `blocks` that engines solved, and the method's own numbers (`epsilon`). `cpu_seconds` counts
        the sweeps, not the measurements between them. An interrupt (Ctrl-C) ends training after the last complete
        sweep, and so do numbers that are not finite: the network keeps the weights before that sweep.

    Raises
    ------
    UsageError
        If the network, the data or a setting cannot be used; nothing is changed or written then.

    Examples
    --------
    >>> import numpy as np
    >>> from convexblocks.solvers import build_network
    >>> X = np.linspace(-1, 1, 100)[:, None]
    >>> history = fit_lifted(build_network((1, 8, 1), "relu", random_state=0), (X, abs(X)), InequalityLifting(1.0))
    >>> history.last["true_loss"] < history.records[0]["true_loss"]
    True
    """
    method = InequalityLifting() if method is None else method
    check_goal(
        weight_decay=weight_decay, sweeps=sweeps, time_limit=time_limit, random_state=random_state, notes=notes
    )  # fmt: skip
    layered = read_network(network)
    require_double(layered.device, "the blocks of this method are solved")
    check_weights(layered)
    checked = prepare(data, layered.widths, layered.device, loss=loss, task=task)
    widths, device = layered.widths, layered.device
    tested = None if validation is None else prepare_validation(validation, widths, device, checked.loss)
    architecture = layered.architecture(checked.loss, float(weight_decay))
    method.check(architecture)
    history = History({
        "method": method.name, "formulation": asdict(method),  # type: ignore[call-overload]
        **network_settings(layered, architecture, checked.loss), "sweeps": sweeps, "time_limit": time_limit,
        "batch_size": None, "block_tolerance": BLOCK_TOLERANCE, "random_state": random_state,
        "samples": len(checked.inputs),
    })  # fmt: skip
    state = LiftedVariables(checked.inputs, checked.targets, *layered.parameters())
    method.start(architecture, state)
    training = Training(layered, architecture, method, checked, tested, state, history)
    history.records.append(first_record(_measure(training)))
    run_sweeps(
        history, lambda sweep: _sweep_and_measure(training, sweep), lambda: (state.weights, state.biases),
        time_limit=time_limit, emit=on_event, run=(out, network, checked, notes),
    )  # fmt: skip
    return history


def _sweep_and_measure(training: Training, sweep: int) -> tuple[dict[str, Any], float]:
    """One sweep: its record, and its CPU seconds."""
    state, before = training.state, time.process_time()
    training.blocks = {}
    kept = (list(state.weights), list(state.biases))
    if not _sweep(training):
        state.weights, state.biases = kept
        raise EndOfTraining(f"numbers of sweep {sweep} were not finite; the weights before it were kept")
    seconds = time.process_time() - before
    training.network.write(state.weights, state.biases)
    lifted = plain_record({
        "lifted_estimate": training.method.lifted_value(training.architecture, state),
        "layer_gaps": training.method.layer_gaps(training.architecture, state),
        **training.method.figures(state), "blocks": training.blocks,
    })  # fmt: skip
    return {**_measure(training), **lifted}, seconds


def _sweep(training: Training) -> bool:
    """One sweep; whether its weights are finite numbers."""

    def solve_block(label: str, block: Block) -> Mapping[str, Tensor]:
        return _solve(training, label, block)

    try:
        training.method.sweep(training.architecture, training.state, solve_block)
    except (UsageError, SweepOverflowError, torch.linalg.LinAlgError) as refusal:
        log.info("a sweep was given up: %s", refusal)
        return False
    return all_finite([*training.state.weights, *training.state.biases])


def _solve(training: Training, label: str, block: Block) -> Mapping[str, Tensor]:
    closed = not ENGINES[CLOSED_FORM].missing(block.subproblem)
    engine = choose_engine(block.subproblem, CLOSED_FORM if closed else None)
    assert isinstance(engine, Engine), "every block of a method has an engine of its own"
    # Where a look waits for the device, numbers that overflowed are found after the sweep.
    if not reading_waits(training.state.inputs) and not all_finite([*block.data.values(), *block.start.values()]):
        raise SweepOverflowError(f"the data of {label} are not finite")
    measured = solve_checked(block.subproblem, block.data, engine, block.start, BLOCK_TOLERANCE)
    training.blocks[label] = measured.figures(BLOCK_TOLERANCE)
    return measured.answer.values


def _measure(training: Training) -> dict[str, Any]:
    """Figures of the network as deployed: its weights in its own type, its forward pass."""
    weights, biases = (training.network.round(part) for part in (training.state.weights, training.state.biases))
    return deployed_figures(training.architecture, weights, biases, training.data, training.tested)
