"""Training by target blocks: mini-batches, one majorize-minimize step of every layer's block, momentum, cosine steps.

See formulations/target_blocks.py for the convex program of a step. Everything stays on the device of the network and in
its dtype, and a step waits for nothing: factorizations are made every few steps and report no failure, and weights that
are not finite are noticed after the sweep. Only exact solves of the blocks, on request, wait for each other.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..formulations.formulation import Architecture
from ..formulations.losses import Loss
from ..formulations.subproblem import require_count, require_nonnegative, require_positive, require_size
from ..formulations.target_blocks import (
    TargetBlocks,
    explicit_target,
    layer_slopes,
    require_lipschitz,
    target_block,
)
from .batch import solve
from .checkpoint import RunWriter
from .coordinator import check_notes, check_weights
from .history import History
from .layered import LayeredNetwork, read_network
from .safeguards import all_finite
from .training_data import TrainingData, prepare, prepare_validation

log = logging.getLogger("convexblocks")
NEWEST_SHARE = 0.1
SHORTER, UNDONE_PATIENCE = 0.25, 8
GRAM_SAMPLES = 5000
EXACT_TOLERANCE = 1e-8

Event = dict[str, Any]


def fit_targets(
    network: nn.Module,
    data: tuple[Any, Any],
    method: TargetBlocks | None = None,
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
    """Train a network by target blocks; afterwards it is an ordinary trained torch module.

    The objective is that of `fit`: the SUM of the loss over samples plus (weight_decay / 2) times the sum of squares of
    all weights (not biases). It may rise in a sweep, as mini-batches let it.

    Parameters
    ----------
    network : torch.nn.Sequential
        Linear layers with known activations between them; its present weights are the start.
    data : pair of arrays
        X of shape (samples, features) and y: labels 0, 1, ..., K-1, or real targets (samples,) or (samples, outputs).
    method : TargetBlocks, optional
        Step, proximity, momentum, batch size, and whether blocks are solved exactly.
    loss, task, weight_decay : str, str, float
        As for `fit`.
    sweeps : int
        Passes over the data; the steps fall to zero along a cosine over all of them.
    time_limit : float, optional
        Stop after the sweep that passes this many seconds, wherever the cosine is then.
    validation : pair of arrays, optional
        Test data, measured after each sweep and never used for training.
    random_state : int
        Seed of the mini-batches.
    out, notes, on_event
        As for `fit`; the one event is ``"sweep"``.

    Returns
    -------
    History
        Its records hold the true training loss of the network, and no lifted values. `step` is 0 for a sweep that ended
        above the untrained network and was undone, else the fraction to which such sweeps have shortened the steps.
        `cpu_seconds` counts the steps, not the measurements between sweeps. An interrupt (Ctrl-C) ends training after
        the last complete sweep.

    Raises
    ------
    UsageError
        If the network, the data or a setting cannot be used; nothing is changed or written then.

    Examples
    --------
    >>> import numpy as np
    >>> from convexblocks.solvers import build_network
    >>> X = np.linspace(-1, 1, 100)[:, None]
    >>> history = fit_targets(build_network((1, 8, 1), "tanh", random_state=0), (X, abs(X)), sweeps=20)
    >>> history.last["true_loss"] < history.records[0]["true_loss"] / 2
    True
    """
    method = TargetBlocks() if method is None else method
    require_size(sweeps=sweeps)
    require_count(random_state=random_state)
    require_nonnegative(weight_decay=weight_decay)
    if time_limit is not None:
        require_positive(time_limit=time_limit)
    layered = read_network(network)
    check_weights(layered)
    check_notes(notes or {})
    require_lipschitz(layered.activations)
    checked = prepare(data, layered.widths, layered.device, loss=loss, task=task)
    widths, device, samples = layered.widths, layered.device, len(checked.inputs)
    tested = None if validation is None else prepare_validation(validation, widths, device, checked.loss)
    architecture = layered.architecture(checked.loss, float(weight_decay))
    history = History({
        "method": method.name, "formulation": asdict(method), "widths": list(widths),
        "activations": [phi.label for phi in layered.activations], "biases": list(architecture.biases),
        "dtype": str(layered.dtype).removeprefix("torch."), "device": str(device), "loss": checked.loss.name,
        "task": checked.loss.task, "weight_decay": float(weight_decay), "sweeps": sweeps, "time_limit": time_limit,
        "batch_size": min(method.batch_size, samples), "random_state": random_state, "samples": samples,
    })  # fmt: skip
    training = _start(layered, architecture, method, checked, history.settings["batch_size"], sweeps)
    first = _measure(training, checked, tested)
    if not math.isfinite(first["objective"]):
        raise UsageError(
            f"the objective of the untrained network is {first['objective']}; expected a finite number: scale the "
            "features, or start from smaller weights."
        )
    history.records.append({"sweep": 0, **first, "cpu_seconds": 0.0})
    writer = None if out is None else RunWriter(out, network, history, checked, notes or {})
    _train(training, checked, tested, history, writer, time_limit, on_event or (lambda event: None))
    return history


@dataclass
class _Layer:
    """One layer in training: weights with the bias as last column, and what its steps are made of."""

    packed: Tensor
    move: Tensor
    gram: Tensor
    inverse: Tensor
    bias: bool

    @property
    def weight(self) -> Tensor:
        return self.packed[:, :-1] if self.bias else self.packed


@dataclass
class _Training:
    """What a run carries from step to step."""

    network: LayeredNetwork
    architecture: Architecture
    method: TargetBlocks
    inputs: Tensor
    targets: Tensor
    layers: list[_Layer]
    batch_size: int
    sweeps: int
    preconditioned: Tensor | None = None
    shortening: float = 1.0
    done: int = 0
    grams: int = 0

    @property
    def steps_of_a_sweep(self) -> int:
        return math.ceil(len(self.inputs) / self.batch_size)

    def weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]

    def biases(self) -> list[Tensor]:
        return [
            layer.packed[:, -1] if layer.bias else layer.packed.new_zeros(len(layer.packed)) for layer in self.layers
        ]


def _start(
    network: LayeredNetwork, architecture: Architecture, method: TargetBlocks, data: TrainingData, batch_size: int,
    sweeps: int,
) -> _Training:  # fmt: skip
    layers = []
    for weight, bias, has_bias in zip(*network.parameters(), architecture.biases, strict=True):
        packed = (torch.cat([weight, bias[:, None]], 1) if has_bias else weight).to(network.dtype)
        square = packed.new_zeros(packed.shape[1], packed.shape[1])
        layers.append(_Layer(packed, torch.zeros_like(packed), square, square.clone(), has_bias))
    inputs, targets = data.inputs.to(network.dtype), data.targets.to(network.dtype)
    return _Training(network, architecture, method, inputs, targets, layers, batch_size, sweeps)


def _train(
    training: _Training, data: TrainingData, tested: TrainingData | None, history: History, writer: RunWriter | None,
    time_limit: float | None, emit: Callable[[Event], None],
) -> None:  # fmt: skip
    seed = history.settings["random_state"]
    generator, began, seconds = torch.Generator().manual_seed(seed), time.perf_counter(), 0.0
    try:
        if writer:
            writer.start(training.weights(), training.biases())
        for sweep in range(1, training.sweeps + 1):
            before = time.process_time()
            if sweep == 1 and not training.method.exact:
                _prepare_first_layer(training, generator)
            start = [layer.packed.clone() for layer in training.layers]
            _run_sweep(training, generator)
            sound = all_finite([layer.packed for layer in training.layers])
            seconds += time.process_time() - before
            figures = _measure(training, data, tested) if sound else {}
            if not (sound and figures["objective"] <= history.records[0]["objective"]):
                figures = _undo(training, start, history)
            training.network.write(training.weights(), training.biases())
            history.records.append({"sweep": sweep, "step": training.shortening, **figures, "cpu_seconds": seconds})
            if writer:
                writer.sweep(sweep, training.weights(), training.biases())
            emit({"event": "sweep", "sweeps": training.sweeps, "record": history.last})
            history.stop_reason = _stop_reason(history, time_limit, time.perf_counter() - began)
            if history.stop_reason:
                break
        else:
            history.stop_reason = f"all {training.sweeps} sweeps done"
    except KeyboardInterrupt:
        # The network still holds the weights of the last complete sweep.
        history.stop_reason = f"interrupted after sweep {history.last['sweep']}"
    if writer:
        writer.finish()
    log.info("training ended: %s", history.stop_reason)


def _stop_reason(history: History, time_limit: float | None, seconds: float) -> str:
    if time_limit is not None and seconds >= time_limit:
        return f"the time limit of {time_limit:g} s is reached"
    if [record.get("step") for record in history.records[-UNDONE_PATIENCE:]] == [0.0] * UNDONE_PATIENCE:
        return f"{UNDONE_PATIENCE} sweeps in a row were undone, with ever shorter steps; take another activation"
    return ""


def _undo(training: _Training, start: list[Tensor], history: History) -> dict[str, Any]:
    """Put the weights before a sweep back, and shorten the steps to come; the record of the sweep has step 0.

    Targets are made for each layer as if the others stood still. Where they do not, steps of any fixed size can be too
    long; a sweep that ends above the untrained network has left the region where they make sense.
    """
    for layer, packed in zip(training.layers, start, strict=True):
        layer.packed = packed
        layer.move.zero_()
    # Activations that overflowed would stay in the averages.
    for layer in training.layers[1:]:
        layer.gram.zero_()
    training.grams = 0
    training.shortening *= SHORTER
    return {key: value for key, value in history.last.items() if key not in ("sweep", "cpu_seconds")} | {"step": 0.0}


def _measure(training: _Training, data: TrainingData, tested: TrainingData | None) -> dict[str, Any]:
    """Figures of the network as deployed: its forward pass in its own dtype on the training and the test data."""

    def output(inputs: Tensor) -> Tensor:
        # The pass alone, layer by layer: the activations of all samples are not kept.
        for place, (weight, bias) in enumerate(zip(training.weights(), training.biases(), strict=True)):
            inputs = inputs @ weight.T + bias
            if place < training.architecture.hidden:
                inputs = training.architecture.activations[place].phi(inputs)
        return inputs.double()

    trained = output(training.inputs)
    loss = float(data.loss.values(trained, data.targets).sum())
    squares = sum(float((weight.double() ** 2).sum()) for weight in training.weights())
    decay = training.architecture.weight_decay / 2 * squares
    figures = {"true_loss": loss, "penalty": decay, "objective": loss + decay}
    figures |= {f"train_{name}": value for name, value in data.score(trained).items()}
    if tested is not None:
        tested_output = output(tested.inputs.to(training.inputs.dtype))
        figures |= {f"test_{name}": value for name, value in tested.score(tested_output).items()}
    return figures


def _prepare_first_layer(training: _Training, generator: torch.Generator) -> None:
    """Invert the Hessian of the first layer, whose inputs never change; multiply them by it where that pays."""
    layer, inputs = training.layers[0], training.inputs
    rows = torch.randperm(len(inputs), generator=generator)[:GRAM_SAMPLES].to(inputs.device)
    layer.gram = _gram(layer, inputs[rows])
    layer.inverse = _inverse(training, layer)
    # One product of all samples against one of the gradient in every step: units * steps_of_a_sweep * sweeps of them.
    pays = len(layer.packed) * training.steps_of_a_sweep * training.sweeps > len(inputs)
    if pays and not training.architecture.weight_decay:
        training.preconditioned = _columns(layer, inputs) @ layer.inverse


def _run_sweep(training: _Training, generator: torch.Generator) -> None:
    order = torch.randperm(len(training.inputs), generator=generator).to(training.inputs.device)
    length = training.sweeps * training.steps_of_a_sweep
    for rows in order.split(training.batch_size):
        share = training.shortening * training.method.step * (1 + math.cos(math.pi * training.done / length)) / 2
        _step(training, rows, share)
        training.done += 1


def _step(training: _Training, rows: Tensor, share: float) -> None:
    """One step of every layer: towards the minimizer of its block, or of the block's majorizer."""
    inputs, targets = training.inputs[rows], training.targets[rows]
    passed = layer_slopes(training.architecture, training.weights(), training.biases(), inputs, targets)
    below, _, slopes = passed
    due = not training.grams or _factorizes(training.done, training.method.factorize_every)
    if due and not training.method.exact:
        _factorize(training, below)
    for place, layer in enumerate(training.layers):
        layer.move.mul_(training.method.momentum)
        if training.method.exact:
            layer.move.add_(layer.packed - _minimizer(training, place, *(arrays[place] for arrays in passed)))
        elif place == 0 and training.preconditioned is not None:
            layer.move.addmm_(slopes[0].T, training.preconditioned[rows], alpha=1 / len(rows))
        else:
            layer.move.addmm_(_gradient(training, layer, below[place], slopes[place]), layer.inverse)
    # All layers move together: every target was made at the weights before the step.
    for layer in training.layers:
        layer.packed.sub_(layer.move, alpha=share)


def _factorizes(step: int, every: int) -> bool:
    """Every so many steps; early on, where activations change fast, in the steps 0, 1, 2, 4, 8, ... too."""
    return step % every == 0 or (step < every and step & (step - 1) == 0)


def _gradient(training: _Training, layer: _Layer, inputs: Tensor, slopes: Tensor) -> Tensor:
    """Gradient of the block at the present weights: G'X/n, and the weight decay's share."""
    batch, samples = len(inputs), len(training.inputs)
    gradient = slopes.T @ inputs / batch
    gradient.add_(layer.weight, alpha=training.architecture.weight_decay / samples)
    return torch.cat([gradient, slopes.mean(0)[:, None]], 1) if layer.bias else gradient


def _factorize(training: _Training, below: list[Tensor]) -> None:
    """Average the Gram matrices of the layers above the first, and invert the Hessians of their majorizers."""
    training.grams += 1
    for layer, inputs in zip(training.layers[1:], below[1:], strict=True):
        layer.gram.lerp_(_gram(layer, inputs), max(1 / training.grams, NEWEST_SHARE))
        layer.inverse = _inverse(training, layer)


def _columns(layer: _Layer, inputs: Tensor) -> Tensor:
    return torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1) if layer.bias else inputs


def _gram(layer: _Layer, inputs: Tensor) -> Tensor:
    columns = _columns(layer, inputs)
    return columns.T @ columns / len(columns)


def _inverse(training: _Training, layer: _Layer) -> Tensor:
    """Inverse of the Hessian of a layer's majorizer: Gram matrix, proximal term, weight decay (not of the bias)."""
    hessian = layer.gram.clone()
    diagonal = hessian.diagonal()
    diagonal.add_(training.method.proximity)
    (diagonal[:-1] if layer.bias else diagonal).add_(training.architecture.weight_decay / len(training.inputs))
    # Unlike `cholesky`, this does not wait for the device to say that it succeeded; where it failed, activations have
    # outgrown the precision, and NaN tells so after the sweep.
    factor, failed = torch.linalg.cholesky_ex(hessian)
    return torch.cholesky_inverse(torch.where(failed == 0, factor, torch.nan))


def _minimizer(training: _Training, place: int, inputs: Tensor, pre_activations: Tensor, slopes: Tensor) -> Tensor:
    """The exact solution of a layer's block, in the layout of its packed weights."""
    layer, architecture = training.layers[place], training.architecture
    sizes = {"batch": len(inputs), "samples": len(training.inputs)}
    block = target_block(architecture, place + 1, proximity=training.method.proximity, **sizes)
    target = explicit_target(block.activation, pre_activations, slopes)
    # A coupled layer is one instance: a batch of one. Otherwise the units are the batch.
    wrap = (lambda array: array[None]) if block.coupled else (lambda array: array)
    data = {"X": inputs, "v": wrap(target) if block.coupled else target.T, "w_old": wrap(layer.weight)}
    if layer.bias:
        data["c_old"] = wrap(layer.packed[:, -1])
    data = {name: array.double() for name, array in data.items()}
    start = {"w": data["w_old"], **({"c": data["c_old"]} if layer.bias else {})}
    found = solve(block, data, warm_start=start, tolerance=EXACT_TOLERANCE).variables
    weight = found["w"].reshape(layer.weight.shape)
    packed = torch.cat([weight, found["c"].reshape(-1, 1)], 1) if layer.bias else weight
    return packed.to(layer.packed.dtype)
