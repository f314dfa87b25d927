"""One sweep of training: the blocks of every batch in order, then the safeguard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..formulations.formulation import (
    Architecture,
    Block,
    Formulation,
    LiftedState,
    Step,
    penalty,
)
from ..formulations.waiting import reading_waits
from .audit import audit_block, count_iterations
from .batch import choose_engine, solve_checked
from .engine import Engine
from .history import History
from .layered import LayeredNetwork
from .measured import Measured
from .safeguards import accept, all_finite, curvature, look, rebalance
from .solution import Solution
from .training_data import TrainingData
from .training_run import Event, SweepOverflowError, deployed_figures

Rows = slice | Tensor
SHRINK, GROW = 0.8, 2.0
# A sweep without any descent asked for more than the network can follow: its gaps weigh more from then on.
TIGHTEN, LOOSEN, TIGHTEST = 4.0, 0.9, 1e8
LEAST_PROXIMITY, GREATEST_PROXIMITY = 1e-6, 1e6


@dataclass
class Training:
    """What a run carries from sweep to sweep."""

    network: LayeredNetwork
    architecture: Architecture
    formulation: Formulation
    data: TrainingData
    validation: TrainingData | None
    history: History
    weights: list[Tensor]
    biases: list[Tensor]
    proximity: float
    batch_size: int | None
    tolerance: float
    generator: np.random.Generator
    emit: Callable[[Event], None]
    memory: dict[Step, dict[str, Tensor]] = field(default_factory=dict)
    uncounted_seconds: float = 0.0
    tightening: float = 1.0


def measure(training: Training) -> dict[str, Any]:
    """Figures of the network as deployed: its forward pass on the training and the test data."""
    return deployed_figures(
        training.architecture, training.weights, training.biases, training.data, training.validation
    )  # fmt: skip


def run_sweep(training: Training, sweep: int, audit: bool, count: bool) -> dict[str, Any]:
    """Run one sweep; the training ends with the accepted weights. Gives its record, with numbers on the device.

    With `audit` its first batch is compared with Clarabel; with `count` only its iterations with those of cold starts.
    """
    architecture, network = training.architecture, training.network
    rebalance(architecture, training.weights, training.biases)
    old = (training.weights, training.biases)
    whole = _state(training, slice(None))
    before = look(architecture, network, whole)
    record: dict[str, Any] = {
        "proximity": training.proximity,
        "tightening": training.tightening,
        "lifted_estimate": penalty(architecture, training.weights),
        "layer_gaps": [],
        "blocks": {},
    }
    batches = _batches(training)
    undone = False
    try:
        for place, rows in enumerate(batches):
            state = _state(training, rows)
            first = place == 0
            audited = sweep if audit and first else None
            _solve_blocks(training, state, before.squares, rows, record, audited, count and first)
            training.weights, training.biases = state.weights, state.biases
        whole.weights, whole.biases = training.weights, training.biases
    except SweepOverflowError:
        undone, (whole.weights, whole.biases) = True, old
    if len(batches) == 1:
        record["step"] = accept(architecture, network, whole, old, before.objective)
        training.proximity *= SHRINK if record["step"] == 1 else GROW if record["step"] else GROW**2
        training.tightening *= LOOSEN if record["step"] == 1 else 1.0 if record["step"] else TIGHTEN
        training.tightening = min(max(training.tightening, 1.0), TIGHTEST)
    else:
        # Mini-batches may raise the objective; only a sweep that leaves the finite numbers is undone.
        whole.weights, whole.biases = network.round(whole.weights), network.round(whole.biases)
        after = look(architecture, network, whole)
        sound = not undone and after.finite and after.objective < float("inf")
        record["step"] = 1.0 if sound else 0.0
        training.proximity *= 1.0 if sound and after.objective < before.objective else GROW
        if not record["step"]:
            whole.weights, whole.biases = old
    training.weights, training.biases = whole.weights, whole.biases
    training.proximity = min(max(training.proximity, LEAST_PROXIMITY), GREATEST_PROXIMITY)
    return record


def _batches(training: Training) -> list[Rows]:
    samples = len(training.data.inputs)
    if training.batch_size is None or training.batch_size >= samples:
        return [slice(None)]
    order = torch.as_tensor(training.generator.permutation(samples), device=training.network.device)
    return list(order.split(training.batch_size))


def _state(training: Training, rows: Rows) -> LiftedState:
    """The state before the blocks of a batch: the weights and the batch's rows."""
    data = training.data
    return LiftedState(data.inputs[rows], data.targets[rows], list(training.weights), list(training.biases))


def _solve_blocks(
    training: Training, state: LiftedState, squares: list[float], rows: Rows, record: dict[str, Any],
    audit: int | None, count: bool,
) -> None:  # fmt: skip
    """Solve all blocks of one batch in order; the state ends with the new weights."""
    formulation = training.formulation.tightened(training.tightening)
    share = len(state.inputs) / len(training.data.inputs)
    # A mini-batch answers for its share of the penalty; its proximal terms stand in for the samples it does not see.
    architecture = replace(training.architecture, weight_decay=training.architecture.weight_decay * share)
    formulation.start(architecture, state)
    scales = curvature(training.architecture, squares, formulation.factors(training.architecture))
    if not all(map(math.isfinite, scales)):
        raise SweepOverflowError
    state.proximity = [training.proximity * scale for scale in scales]
    lifted_measured = False
    for step in (step for group in formulation.groups(architecture) for step in group):
        if step.block == "weight" and not lifted_measured:
            with _uncounted(training):
                _add_lifted(formulation, architecture, state, record)
            lifted_measured = True
        block = formulation.gather(step, architecture, state)
        # Where a look waits for the device, numbers that overflowed are found by the safeguard of the sweep.
        looks = audit is not None or count or not reading_waits(state.inputs)
        if looks and not all_finite([*block.data.values(), *block.start.values()]):
            raise SweepOverflowError
        warm = _better_start(block, _recall(training, step, rows))
        engine = choose_engine(block.subproblem)
        assert isinstance(engine, Engine), "every block of a formulation has an engine of its own"
        measured = solve_checked(block.subproblem, block.data, engine, warm, training.tolerance)
        _add_block(record, step, measured, training.tolerance)
        if audit is not None or count:
            with _uncounted(training):
                _compare(training, step, block, measured.solution(training.tolerance), record, audit, count)
        if step.block == "activation":
            _remember(training, step, rows, measured.answer.state)
        formulation.scatter(step, architecture, state, measured.answer.values)
        training.emit({"event": "block", "block": step.label, "seconds": measured.seconds})


@contextmanager
def _uncounted(training: Training) -> Iterator[None]:
    """Work whose CPU seconds are not those of training."""
    began = time.process_time()
    yield
    training.uncounted_seconds += time.process_time() - began


def _compare(
    training: Training, step: Step, block: Block, solution: Solution, record: dict[str, Any], audit: int | None,
    count: bool,
) -> None:  # fmt: skip
    """Compare answers with Clarabel's, and iterations with those of cold starts, as far as asked."""
    if audit is not None:
        found = {"sweep": audit, **audit_block(step, block, solution, training.tolerance, seed=audit)}
        training.history.audits.append(found)
        training.emit({"event": "audit", "audit": found})
    if count:
        found = {"block": step.label, **count_iterations(block, solution, training.tolerance)}
        record.setdefault("starts", []).append(found)


def _recall(training: Training, step: Step, rows: Rows) -> dict[str, Tensor]:
    """What the engine left for these samples the last time: NaN for those that are new."""
    return {name: value[rows] for name, value in training.memory.get(step, {}).items()}


def _better_start(block: Block, past: dict[str, Tensor]) -> dict[str, Tensor]:
    """For every instance the better of two starts: the present state, or what solved it in the last sweep.

    Early on the state (the forward pass) is better, because the weights have moved far; later often the past. What is
    NaN is never better.
    """
    if not past:
        return block.start
    here = block.subproblem.objective(block.start, block.data)
    there = block.subproblem.objective(past, block.data)
    return {
        name: torch.where((there < here).reshape(-1, *[1] * (value.ndim - 1)), value, block.start[name])
        for name, value in past.items()
    }


def _remember(training: Training, step: Step, rows: Rows, left: Mapping[str, Tensor]) -> None:
    """Keep the engine's state for each sample, so that mini-batches find their own past."""
    known = training.memory.setdefault(step, {})
    samples = len(training.data.inputs)
    for name, value in left.items():
        if name not in known:
            known[name] = value.new_full((samples, *value.shape[1:]), torch.nan)
        known[name][rows] = value


def _add_lifted(
    formulation: Formulation, architecture: Architecture, state: LiftedState, record: dict[str, Any]
) -> None:
    """Add a batch's part of the lifted loss and gaps; the penalty is in the record already."""
    value = formulation.lifted_value(architecture, state) - penalty(architecture, state.weights)
    gaps = formulation.layer_gaps(architecture, state)
    record["lifted_estimate"] += value
    before = record["layer_gaps"] or [0.0] * len(gaps)
    record["layer_gaps"] = [a + b for a, b in zip(before, gaps, strict=True)]


def _add_block(record: dict[str, Any], step: Step, measured: Measured, tolerance: float) -> None:
    found, known = measured.figures(tolerance), record["blocks"].get(step.label)
    record["blocks"][step.label] = found if known is None else _merge(known, found)


def _merge(known: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Figures of a block over several mini-batches: sums, the mean of iterations, the worst residuals."""
    total = known["instances"] + found["instances"]
    mean = (known["iterations"] * known["instances"] + found["iterations"] * found["instances"]) / total
    sums = {key: known[key] + found[key] for key in ("seconds", "instances", "unsolved")}
    worst = {key: torch.maximum(known[key], found[key]) for key in ("primal", "dual", "gap")}
    return {"engine": found["engine"], "iterations": mean, **sums, **worst}
