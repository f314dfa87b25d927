"""The steps of training by target blocks: every layer towards the minimizer of its block, or of the block's majorizer.

See formulations/target_blocks.py for the convex program of a step. Everything stays on the device of the network and in
its dtype, and a step waits for nothing: factorizations are made every few steps and report no failure, and weights that
are not finite are noticed after the sweep. Only exact solves of the blocks, on request, wait for each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..formulations.formulation import Architecture
from ..formulations.target_blocks import TargetBlocks, explicit_target, layer_slopes, target_block
from .batch import solve
from .layered import LayeredNetwork
from .training_data import TrainingData

NEWEST_SHARE = 0.1
GRAM_SAMPLES = 5000
EXACT_TOLERANCE = 1e-8


@dataclass
class Layer:
    """One layer in training: weights with the bias as last column, and what its steps are made of."""

    packed: Tensor
    move: Tensor
    gram: Tensor
    inverse: Tensor
    bias: bool

    @property
    def weight(self) -> Tensor:
        """A view without the bias."""
        return self.packed[:, :-1] if self.bias else self.packed


@dataclass
class Training:
    """What a run carries from step to step."""

    network: LayeredNetwork
    architecture: Architecture
    method: TargetBlocks
    inputs: Tensor
    targets: Tensor
    layers: list[Layer]
    batch_size: int
    sweeps: int
    preconditioned: Tensor | None = None
    shortening: float = 1.0
    done: int = 0
    grams: int = 0

    @property
    def steps_of_a_sweep(self) -> int:
        """Mini-batches in a pass over the data."""
        return math.ceil(len(self.inputs) / self.batch_size)

    def copies(self) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases that the steps to come leave alone."""
        return [weight.clone() for weight in self.weights()], [bias.clone() for bias in self.biases()]

    def weights(self) -> list[Tensor]:
        """Views of the weights of every layer."""
        return [layer.weight for layer in self.layers]

    def biases(self) -> list[Tensor]:
        """The biases of every layer; zeros where it has none."""
        return [
            layer.packed[:, -1] if layer.bias else layer.packed.new_zeros(len(layer.packed)) for layer in self.layers
        ]


def start_training(
    network: LayeredNetwork, architecture: Architecture, method: TargetBlocks, data: TrainingData, batch_size: int,
    sweeps: int,
) -> Training:  # fmt: skip
    """The network's present weights, and data in its dtype, before the first step."""
    layers = []
    for weight, bias, has_bias in zip(*network.parameters(), architecture.biases, strict=True):
        packed = (torch.cat([weight, bias[:, None]], 1) if has_bias else weight).to(network.dtype)
        square = packed.new_zeros(packed.shape[1], packed.shape[1])
        layers.append(Layer(packed, torch.zeros_like(packed), square, square.clone(), has_bias))
    inputs, targets = data.inputs.to(network.dtype), data.targets.to(network.dtype)
    return Training(network, architecture, method, inputs, targets, layers, batch_size, sweeps)


def prepare_first_layer(training: Training, generator: torch.Generator) -> None:
    """Invert the Hessian of the first layer, whose inputs never change; multiply them by it where that pays."""
    layer, inputs = training.layers[0], training.inputs
    rows = torch.randperm(len(inputs), generator=generator)[:GRAM_SAMPLES].to(inputs.device)
    layer.gram = _gram(layer, inputs[rows])
    layer.inverse = _inverse(training, layer)
    # One product of all samples against one of the gradient in every step: units * steps_of_a_sweep * sweeps of them.
    pays = len(layer.packed) * training.steps_of_a_sweep * training.sweeps > len(inputs)
    if pays and not training.architecture.weight_decay:
        training.preconditioned = _columns(layer, inputs) @ layer.inverse


def run_sweep(training: Training, generator: torch.Generator) -> None:
    """One pass over the data in mini-batches."""
    order = torch.randperm(len(training.inputs), generator=generator).to(training.inputs.device)
    length = training.sweeps * training.steps_of_a_sweep
    for rows in order.split(training.batch_size):
        share = training.shortening * training.method.step * (1 + math.cos(math.pi * training.done / length)) / 2
        _step(training, rows, share)
        training.done += 1


def _step(training: Training, rows: Tensor, share: float) -> None:
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


def _gradient(training: Training, layer: Layer, inputs: Tensor, slopes: Tensor) -> Tensor:
    """Gradient of the block at the present weights: G'X/n, and the weight decay's share."""
    batch, samples = len(inputs), len(training.inputs)
    gradient = slopes.T @ inputs / batch
    gradient.add_(layer.weight, alpha=training.architecture.weight_decay / samples)
    return torch.cat([gradient, slopes.mean(0)[:, None]], 1) if layer.bias else gradient


def _factorize(training: Training, below: list[Tensor]) -> None:
    """Average the Gram matrices of the layers above the first, and invert the Hessians of their majorizers."""
    training.grams += 1
    for layer, inputs in zip(training.layers[1:], below[1:], strict=True):
        layer.gram.lerp_(_gram(layer, inputs), max(1 / training.grams, NEWEST_SHARE))
        layer.inverse = _inverse(training, layer)


def _columns(layer: Layer, inputs: Tensor) -> Tensor:
    return torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1) if layer.bias else inputs


def _gram(layer: Layer, inputs: Tensor) -> Tensor:
    columns = _columns(layer, inputs)
    return columns.T @ columns / len(columns)


def _inverse(training: Training, layer: Layer) -> Tensor:
    """Inverse of the Hessian of a layer's majorizer: Gram matrix, proximal term, weight decay (not of the bias)."""
    hessian = layer.gram.clone()
    diagonal = hessian.diagonal()
    diagonal.add_(training.method.proximity)
    (diagonal[:-1] if layer.bias else diagonal).add_(training.architecture.weight_decay / len(training.inputs))
    # Unlike `cholesky`, this does not wait for the device to say that it succeeded; where it failed, activations have
    # outgrown the precision, and NaN tells so after the sweep.
    factor, failed = torch.linalg.cholesky_ex(hessian)
    return torch.cholesky_inverse(torch.where(failed == 0, factor, torch.nan))


def _minimizer(training: Training, place: int, inputs: Tensor, pre_activations: Tensor, slopes: Tensor) -> Tensor:
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
