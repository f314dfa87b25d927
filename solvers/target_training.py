"""Training by target blocks: mini-batches, one majorize-minimize step of every layer's block, momentum, cosine steps.

See formulations/target_blocks.py for the convex program of a step. Everything stays on the device of the network and in
its dtype: a step waits for nothing (factorizations are made every few steps and report no failure by themselves; weights
that are not finite are noticed after the sweep). Only exact solves of the blocks, on request, wait for each other.
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
SMALLEST_BATCH, LARGEST_BATCH = 50, 500
NEWEST_SHARE = 0.1
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
        Its records hold the true training loss of the network, and no lifted values. `cpu_seconds` counts the steps,
        not the measurements between sweeps. An interrupt (Ctrl-C) ends training after the last complete sweep.

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
    batch = method.batch_size or min(max(samples // 10, SMALLEST_BATCH), LARGEST_BATCH)
    history = History({
        "method": method.name, "formulation": asdict(method), "widths": list(widths),
        "activations": [phi.label for phi in layered.activations], "biases": list(architecture.biases),
        "dtype": str(layered.dtype).removeprefix("torch."), "device": str(device), "loss": checked.loss.name,
        "task": checked.loss.task, "weight_decay": float(weight_decay), "sweeps": sweeps, "time_limit": time_limit,
        "batch_size": min(batch, samples), "random_state": random_state, "samples": samples,
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
        layers.append(_Layer(packed, torch.zeros_like(packed), square, square, has_bias))
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
            _run_sweep(training, generator)
            sound = all_finite([layer.packed for layer in training.layers])
            seconds += time.process_time() - before
            figures = _measure(training, data, tested) if sound else {}
            if not (sound and math.isfinite(figures["objective"])):
                history.stop_reason = (
                    f"sweep {sweep} left the finite numbers and was undone: give the method a smaller step or a larger "
                    "proximity"
                )
                break
            training.network.write(training.weights(), training.biases())
            history.records.append({"sweep": sweep, **figures, "cpu_seconds": seconds})
            if writer:
                writer.sweep(sweep, training.weights(), training.biases())
            emit({"event": "sweep", "sweeps": training.sweeps, "record": history.last})
            if time_limit is not None and time.perf_counter() - began >= time_limit:
                history.stop_reason = f"the time limit of {time_limit:g} s is reached"
                break
        else:
            history.stop_reason = f"all {training.sweeps} sweeps done"
    except KeyboardInterrupt:
        # The network still holds the weights of the last complete sweep.
        history.stop_reason = f"interrupted after sweep {history.last['sweep']}"
    if writer:
        writer.finish()
    log.info("training ended: %s", history.stop_reason)


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


def _run_sweep(training: _Training, generator: torch.Generator) -> None:
    order = torch.randperm(len(training.inputs), generator=generator).to(training.inputs.device)
    length = training.sweeps * training.steps_of_a_sweep
    for rows in order.split(training.batch_size):
        share = training.method.step * (1 + math.cos(math.pi * training.done / length)) / 2
        _step(training, training.inputs[rows], training.targets[rows], share)
        training.done += 1


def _step(training: _Training, inputs: Tensor, targets: Tensor, share: float) -> None:
    """One step of every layer: towards the minimizer of its block, or of the block's majorizer."""
    passed = layer_slopes(training.architecture, training.weights(), training.biases(), inputs, targets)
    below, _, slopes = passed
    every = training.method.factorize_every
    # Early on the activations change fast: the steps 0, 1, 2, 4, 8, ... factorize too.
    if training.done % every == 0 or (training.done < every and training.done & (training.done - 1) == 0):
        _factorize(training, below)
    for place, layer in enumerate(training.layers):
        if training.method.exact:
            move = layer.packed - _minimizer(training, place, *(arrays[place] for arrays in passed))
        else:
            move = _gradient(training, layer, below[place], slopes[place]) @ layer.inverse
        layer.move.mul_(training.method.momentum).add_(move)
    # All layers move together: every target was made at the weights before the step.
    for layer in training.layers:
        layer.packed.sub_(layer.move, alpha=share)


def _gradient(training: _Training, layer: _Layer, inputs: Tensor, slopes: Tensor) -> Tensor:
    """Gradient of the block at the present weights: G'X/n, and the weight decay's share."""
    batch, samples = len(inputs), len(training.inputs)
    gradient = slopes.T @ inputs / batch
    gradient.add_(layer.weight, alpha=training.architecture.weight_decay / samples)
    return torch.cat([gradient, slopes.mean(0)[:, None]], 1) if layer.bias else gradient


def _factorize(training: _Training, below: list[Tensor]) -> None:
    """Average the Gram matrices, and invert the majorizer's Hessian of every layer."""
    training.grams += 1
    newest = max(1 / training.grams, NEWEST_SHARE)
    decay = training.architecture.weight_decay / len(training.inputs)
    for layer, inputs in zip(training.layers, below, strict=True):
        columns = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1) if layer.bias else inputs
        layer.gram.lerp_(columns.T @ columns / len(inputs), newest)
        hessian = layer.gram.clone()
        diagonal = hessian.diagonal()
        diagonal.add_(training.method.proximity)
        (diagonal[:-1] if layer.bias else diagonal).add_(decay)
        # Unlike `cholesky`, this does not wait for the device to say that it succeeded.
        layer.inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(hessian)[0])


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
