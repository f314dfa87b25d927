"""The steps of training by target blocks: every layer towards the minimizer of its block, or of the block's majorizer.

See formulations/target_blocks.py for the convex program of a step. Everything stays on the device of the network and in
its dtype, and a step waits for nothing: factorizations are made every few steps and report no failure, and weights that
are not finite are noticed after the sweep. Only exact solves of the blocks, on request, wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..formulations.formulation import Architecture
from ..formulations.target_blocks import TargetBlocks, explicit_target, target_block
from .batch import solve
from .graph_reach import restrict
from .layer_pass import LayerPass, layer_pass
from .layered import LayeredNetwork
from .linear_maps import LinearMap
from .training_data import TrainingData
from .whitening import Whitening, whiten

NEWEST_SHARE = 0.1
GRAM_INPUTS = 5000
EIGENVECTORS = 10
"""Cost of a whitening, in products of all its columns with a matrix of as many."""
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

    @property
    def offset(self) -> Tensor:
        """The bias; zeros where there is none."""
        return self.packed[:, -1] if self.bias else self.packed.new_zeros(len(self.packed))


@dataclass(frozen=True)
class StepRule:
    """What tells a method that trains by steps from another one.

    Attributes
    ----------
    residuals : callable
        Of a run, the pass of a batch and its samples: phi(u) - v of every layer, v the targets, in the layout of the
        layer. Multiplied with the rows of the layer it is the gradient of the block.
    plain : bool
        Whether steps of a constant length are taken on these gradients themselves, without a majorizer.
    hidden_decay : float
        Factor of the weight decay in the blocks of hidden layers, where their residuals have such a factor too.
    """

    residuals: Callable[[Training, LayerPass, float], list[Tensor]]
    plain: bool = False
    hidden_decay: float = 1.0


@dataclass
class Training:
    """What a run carries from step to step.

    `maps` read `inputs`: those of the network, but that what is fixed before the first weights is already done, and
    that of a graph only the nodes are left that the loss depends on. `per_input` are the samples (terms of the loss)
    of an entry of `inputs`: 1, or the labelled nodes of a graph.
    """

    network: LayeredNetwork
    maps: list[LinearMap]
    architecture: Architecture
    method: TargetBlocks
    rule: StepRule
    inputs: Tensor
    targets: Tensor
    layers: list[Layer]
    samples: int
    batch_size: int
    sweeps: int
    gaps: bool = False
    whitening: Whitening | None = None
    shortening: float = 1.0
    done: int = 0
    grams: int = 0

    @property
    def per_input(self) -> float:
        """Terms of the loss for each entry of the inputs."""
        return self.samples / len(self.inputs)

    def decay(self, place: int) -> float:
        """The weight decay of a layer, for each sample."""
        share = self.rule.hidden_decay if place < len(self.layers) - 1 else 1.0
        return share * self.architecture.weight_decay / self.samples

    @property
    def majorizes(self) -> bool:
        """Whether steps go to the minimizer of a quadratic, for which Gram matrices are factorized."""
        return not (self.method.exact or self.rule.plain)

    @property
    def steps_of_a_sweep(self) -> int:
        """Mini-batches in a pass over the data."""
        return math.ceil(len(self.inputs) / self.batch_size)

    def copies(self) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases that the steps to come leave alone."""
        return [weight.clone() for weight in self.weights()], [bias.clone() for bias in self.biases()]

    def weights(self) -> list[Tensor]:
        """The weights of every layer, in the coordinates of the network."""
        return [layer.weight for layer in self._deployed()]

    def biases(self) -> list[Tensor]:
        """The biases of every layer; zeros where it has none."""
        return [layer.offset for layer in self._deployed()]

    def _deployed(self) -> list[Layer]:
        if self.whitening is None:
            return self.layers
        first = self.layers[0]
        bias = self.architecture.biases[0]
        return [replace(first, packed=self.whitening.restore(first.packed), bias=bias), *self.layers[1:]]

    def gradient(self, output: Tensor, targets: Tensor) -> Tensor:
        """Gradient of the loss of every sample in the network's output; zero where a node has no target."""
        gradient: Tensor = self.architecture.loss.gradient(output, targets)
        return gradient.where(~targets.isnan(), 0.0) if self.gaps else gradient


def start_training(
    network: LayeredNetwork, architecture: Architecture, method: TargetBlocks, rule: StepRule, data: TrainingData,
    batch_size: int, sweeps: int,
) -> Training:  # fmt: skip
    """The network's present weights, and data in its dtype, before the first step."""
    layers = []
    for weight, bias, has_bias in zip(*network.parameters(), architecture.biases, strict=True):
        packed = (torch.cat([weight, bias[:, None]], 1) if has_bias else weight).to(network.dtype)
        square = packed.new_zeros(packed.shape[1], packed.shape[1])
        layers.append(Layer(packed, torch.zeros_like(packed), square, square.clone(), has_bias))
    maps = list(network.maps)
    inputs, targets, gaps = data.inputs.to(network.dtype), data.targets.to(network.dtype), False
    if data.labelled is not None:
        maps, inputs, targets = restrict(maps, inputs, targets, data.labelled)
        gaps = bool(targets.isnan().any())
    # What is fixed before the first weights is done once.
    maps[0], inputs = maps[0].settled(inputs)
    return Training(
        network, maps, architecture, method, rule, inputs, targets, layers, data.samples, batch_size, sweeps, gaps=gaps
    )  # fmt: skip


def prepare_first_layer(training: Training, generator: torch.Generator) -> None:
    """Invert the Hessian of the first layer, whose inputs never change; whiten them where that pays."""
    layer, inputs = training.layers[0], training.inputs
    chosen = torch.randperm(len(inputs), generator=generator)[:GRAM_INPUTS].to(inputs.device)
    parts = chosen.split(training.batch_size)
    for rows in parts:
        layer.gram += _gram(training, 0, inputs[rows]) * (len(rows) / len(chosen))
    if not _whitening_pays(training):
        layer.inverse = _inverse(training, 0)
        return
    training.whitening = whiten(_hessian(training, 0), training.decay(0), bias=layer.bias)
    training.inputs = training.whitening.inputs(_columns(layer, inputs))
    layer.packed, layer.bias = training.whitening.weights(layer.packed), False


def _whitening_pays(training: Training) -> bool:
    """Whether one product of all rows costs less than one of the gradient in every step, and rows are ready made."""
    layer, inputs = training.layers[0], training.inputs
    if type(training.maps[0]) is not LinearMap:
        return False
    products = len(layer.packed) * training.steps_of_a_sweep * training.sweeps
    columns = layer.packed.shape[1]
    return products > inputs.numel() // inputs.shape[-1] + EIGENVECTORS * columns


def run_sweep(training: Training, generator: torch.Generator) -> None:
    """One pass over the data in mini-batches."""
    order = torch.randperm(len(training.inputs), generator=generator).to(training.inputs.device)
    length = training.sweeps * training.steps_of_a_sweep
    for rows in order.split(training.batch_size):
        cosine = 1.0 if training.rule.plain else (1 + math.cos(math.pi * training.done / length)) / 2
        _step(training, rows, training.shortening * training.method.step * cosine)
        training.done += 1


def _step(training: Training, rows: Tensor, share: float) -> None:
    """One step of every layer: towards the minimizer of its block, or of the block's majorizer."""
    inputs, targets, layers = training.inputs[rows], training.targets[rows], training.layers
    passed = layer_pass(
        training.maps, training.architecture.activations, lambda output: training.gradient(output, targets),
        [layer.weight for layer in layers], [layer.offset for layer in layers], inputs,
    )  # fmt: skip
    due = not training.grams or _factorizes(training.done, training.method.factorize_every)
    if due and training.majorizes:
        _factorize(training, passed)
    samples = training.per_input * len(rows)
    residuals = training.rule.residuals(training, passed, samples)
    for place, layer in enumerate(layers):
        layer.move.mul_(training.method.momentum)
        if training.method.exact:
            layer.move.add_(layer.packed - _minimizer(training, place, passed, residuals[place], samples))
        elif place == 0 and training.whitening is not None:
            residual, columns = training.maps[0].as_rows(residuals[0]), training.maps[0].rows(inputs)
            layer.move.addmm_(residual.T, columns, alpha=1 / samples)
            if training.architecture.weight_decay:
                layer.move.addcmul_(layer.packed, training.whitening.decay)
        else:
            gradient = _gradient(training, place, passed.arriving[place], residuals[place], samples)
            if training.rule.plain:
                layer.move.add_(gradient)
            else:
                layer.move.addmm_(gradient, layer.inverse)
    # All layers move together: every target was made at the weights before the step.
    for layer in layers:
        layer.packed.sub_(layer.move, alpha=share)


def _factorizes(step: int, every: int) -> bool:
    """Every so many steps; early on, where activations change fast, in the steps 0, 1, 2, 4, 8, ... too."""
    return step % every == 0 or (step < every and step & (step - 1) == 0)


def _gradient(training: Training, place: int, arriving: Tensor, residual: Tensor, samples: float) -> Tensor:
    """Gradient of the block at the present weights: residual' rows(x) / n, and the weight decay's share."""
    layer, which = training.layers[place], training.maps[place]
    gradient = which.gradient(residual, arriving) / samples
    gradient.add_(layer.weight, alpha=training.decay(place))
    if not layer.bias:
        return gradient
    return torch.cat([gradient, which.bias_gradient(residual)[:, None] / samples], 1)


def _factorize(training: Training, passed: LayerPass) -> None:
    """Average the Gram matrices of the layers above the first, and invert the Hessians of their majorizers."""
    training.grams += 1
    for place, layer in enumerate(training.layers[1:], start=1):
        gram = _gram(training, place, passed.arriving[place])
        layer.gram.lerp_(gram, max(1 / training.grams, NEWEST_SHARE))
        layer.inverse = _inverse(training, place)


def _columns(layer: Layer, rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones_like(rows[..., :1])], -1) if layer.bias else rows


def _gram(training: Training, place: int, arriving: Tensor) -> Tensor:
    """The Gram matrix of a batch's rows, divided by its samples."""
    columns = _columns(training.layers[place], training.maps[place].rows(arriving))
    return columns.T @ columns / (training.per_input * len(arriving))


def _hessian(training: Training, place: int) -> Tensor:
    """Hessian of a layer's majorizer: Gram matrix, proximal term, weight decay (not of the bias)."""
    layer = training.layers[place]
    hessian = layer.gram.clone()
    diagonal = hessian.diagonal()
    diagonal.add_(training.method.proximity)
    (diagonal[:-1] if layer.bias else diagonal).add_(training.decay(place))
    return hessian


def _inverse(training: Training, place: int) -> Tensor:
    # Unlike `cholesky`, this does not wait for the device to say that it succeeded; where it failed, activations have
    # outgrown the precision, and NaN tells so after the sweep.
    factor, failed = torch.linalg.cholesky_ex(_hessian(training, place))
    return torch.cholesky_inverse(torch.where(failed == 0, factor, torch.nan))


def _minimizer(training: Training, place: int, passed: LayerPass, residual: Tensor, samples: float) -> Tensor:
    """The exact solution of a layer's block, in the layout of its packed weights."""
    layer, which = training.layers[place], training.maps[place]
    # The block divides the weight decay by the samples again.
    architecture = replace(training.architecture, weight_decay=training.decay(place) * training.samples)
    rows = which.rows(passed.arriving[place])
    block = target_block(
        architecture, place + 1, batch=samples, samples=training.samples, proximity=training.method.proximity,
        rows=len(rows), inputs=rows.shape[1],
    )  # fmt: skip
    pre_activations = which.as_rows(passed.pre_activations[place])
    target = explicit_target(block.activation, pre_activations, which.as_rows(residual))
    # A coupled layer is one instance: a batch of one. Otherwise the units are the batch.
    wrap = (lambda array: array[None]) if block.coupled else (lambda array: array)
    data = {"X": rows, "v": wrap(target) if block.coupled else target.T, "w_old": wrap(layer.weight)}
    if layer.bias:
        data["c_old"] = wrap(layer.packed[:, -1])
    data = {name: array.double() for name, array in data.items()}
    start = {"w": data["w_old"], **({"c": data["c_old"]} if layer.bias else {})}
    found = solve(block, data, warm_start=start, tolerance=EXACT_TOLERANCE).variables
    weight = found["w"].reshape(layer.weight.shape)
    packed = torch.cat([weight, found["c"].reshape(-1, 1)], 1) if layer.bias else weight
    return packed.to(layer.packed.dtype)
