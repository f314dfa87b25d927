"""The coordinator: a torch forward pass and batched convex block solves, in turn; the only loop.

    weights --forward--> lifted state --gather--> block data --solve, warm--> values --scatter--> state --> weights

After every sweep the network itself is measured by its forward pass; that is what is deployed and what the
safeguard compares. In full-batch training the training objective (loss + penalty) never rises.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..formulations.catalogue import formulation as find_formulation
from ..formulations.errors import UsageError
from ..formulations.formulation import Formulation
from ..formulations.losses import Loss
from ..formulations.subproblem import require_count, require_nonnegative, require_positive, require_size
from .devices import require_double
from .history import History
from .layered import read_network
from .measured import plain_record
from .sweep import Event, Training, measure, run_sweep
from .training_data import prepare, prepare_validation
from .training_run import check_goal, check_weights, first_record, network_settings, run_sweeps

PATIENCE = 3
UNDONE_PATIENCE = 8
COUNTED_SWEEP = 3


def fit(
    network: nn.Module,
    data: tuple[Any, Any],
    formulation: str | Formulation = "fenchel",
    *,
    loss: str | Loss | None = None,
    task: str | None = None,
    weight_decay: float = 0.1,
    sweeps: int = 30,
    tolerance: float = 1e-4,
    time_limit: float | None = None,
    batch_size: int | None = None,
    proximity: float = 0.1,
    block_tolerance: float = 1e-6,
    audit_every: int = 0,
    validation: tuple[Any, Any] | None = None,
    random_state: int = 0,
    out: str | Path | None = None,
    notes: dict[str, Any] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> History:
    """Train a network by alternating convex blocks; afterwards it is an ordinary trained torch module.

    The objective is the SUM of the loss over samples plus (weight_decay / 2) times the sum of squares of all
    weights (not biases). Blocks are solved in float64 on the device of the network.

    Parameters
    ----------
    network : torch.nn.Sequential
        Linear layers with known activations between them; its present weights are the start.
    data : pair of arrays
        X of shape (samples, features) and y: labels 0, 1, ..., K-1, or real targets (samples,) or (samples, outputs).
    formulation : str or Formulation
        ``"fenchel"``, or e.g. ``FenchelLifting(multiplier=1.0)``.
    loss : str or Loss, optional
        ``"squared"``, ``"logistic"`` or ``"softmax_cross_entropy"``; by default chosen from the task and the outputs.
    task : {"classification", "regression"}, optional
        By default inferred from y: whole numbers are labels.
    weight_decay : float
        See above.
    sweeps : int
        At most this many sweeps over the data.
    tolerance : float
        Stop when the objective has fallen by less than this fraction in 3 sweeps in a row; 0 never stops so.
    time_limit : float, optional
        Stop after the sweep that passes this many seconds.
    batch_size : int, optional
        Samples of a mini-batch; by default all samples are one batch. With mini-batches the objective may rise.
    proximity : float
        First factor of the proximal terms of the weight blocks, as a fraction of each block's mean curvature; it
        falls while sweeps succeed and grows when one had to be shortened.
    block_tolerance : float
        Fenchel-Young gap asked of each block instance, relative to 1 + |objective|.
    audit_every : int
        Re-solve a few instances of every block by Clarabel each so many sweeps; 0 never.
    validation : pair of arrays, optional
        Test data, measured after each sweep and never used for training.
    random_state : int
        Seed of mini-batches and audits.
    out : path, optional
        Folder to write the run to, sweep by sweep; it must not hold another run.
    notes : dict, optional
        JSON data for run.json, e.g. where the data come from.
    on_event : callable, optional
        Called with a dict after each block (``event="block"``), sweep (``"sweep"``) and audit (``"audit"``).

    Returns
    -------
    History
        An interrupt (Ctrl-C) ends training after the last complete sweep; `stop_reason` says so.

    Raises
    ------
    UsageError
        If the network, the data or a setting cannot be used; nothing is changed or written then.
    """
    chosen = find_formulation(formulation) if isinstance(formulation, str) else formulation
    check_goal(
        weight_decay=weight_decay, sweeps=sweeps, time_limit=time_limit, random_state=random_state, notes=notes
    )  # fmt: skip
    if batch_size is not None:
        require_size(batch_size=batch_size)
    require_count(audit_every=audit_every)
    require_nonnegative(tolerance=tolerance)
    require_positive(proximity=proximity, block_tolerance=block_tolerance)
    if block_tolerance >= 1:
        raise UsageError(f"block_tolerance is {block_tolerance!r}; expected a number between 0 and 1, e.g. 1e-6.")
    layered = read_network(network)
    require_double(layered.device, "the blocks of this method are solved")
    check_weights(layered)
    checked = prepare(data, layered.widths, layered.device, loss=loss, task=task)
    widths, device = layered.widths, layered.device
    tested = None if validation is None else prepare_validation(validation, widths, device, checked.loss)
    architecture = layered.architecture(checked.loss, float(weight_decay))
    history = History({
        "method": chosen.name, "formulation": asdict(chosen),  # type: ignore[call-overload]
        **network_settings(layered, architecture, checked.loss), "sweeps": sweeps, "tolerance": tolerance,
        "time_limit": time_limit, "batch_size": batch_size, "proximity": proximity, "block_tolerance": block_tolerance,
        "audit_every": audit_every, "random_state": random_state, "samples": len(checked.inputs),
    })  # fmt: skip
    weights, biases = layered.parameters()
    training = Training(
        layered, architecture, chosen, checked, tested, history, weights, biases, proximity, batch_size,
        block_tolerance, np.random.default_rng(random_state), on_event or (lambda event: None),
    )  # fmt: skip
    history.records.append(first_record(measure(training)))
    run_sweeps(
        history, lambda sweep: _sweep(training, sweep, audit_every), lambda: (training.weights, training.biases),
        stop_reason=lambda: _stop_reason(history, tolerance), time_limit=time_limit, emit=on_event,
        run=(out, network, checked, notes),
    )  # fmt: skip
    return history


def _sweep(training: Training, sweep: int, audit_every: int) -> tuple[dict[str, Any], float]:
    """One sweep: its record, and its CPU seconds."""
    audit = bool(audit_every) and (sweep - 1) % audit_every == 0
    # A run without audits counts the iterations of cold starts once, when there is a past to start from.
    count = not audit_every and sweep == min(COUNTED_SWEEP, training.history.settings["sweeps"])
    before, training.uncounted_seconds = time.process_time(), 0.0
    record = run_sweep(training, sweep, audit, count)
    seconds = time.process_time() - before - training.uncounted_seconds
    record = plain_record(record) | measure(training)
    training.network.write(training.weights, training.biases)
    return record, seconds


def _stop_reason(history: History, tolerance: float) -> str:
    if not tolerance:
        return ""
    if [record.get("step") for record in history.records[-UNDONE_PATIENCE:]] == [0.0] * UNDONE_PATIENCE:
        return f"{UNDONE_PATIENCE} sweeps in a row could not lower the objective, with raised multipliers either"
    newest = history.records[-PATIENCE - 1 :]
    falls = [before["objective"] - after["objective"] for before, after in pairwise(newest)]
    # A sweep that was undone says nothing yet: the next one tries with raised multipliers.
    done = all(record.get("step") != 0.0 for record in newest)
    if done and len(falls) == PATIENCE and all(fall <= tolerance * abs(newest[0]["objective"]) for fall in falls):
        return f"the objective fell by less than a fraction {tolerance:g} in {PATIENCE} sweeps in a row"
    return ""
