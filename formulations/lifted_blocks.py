"""Steps that several of the methods with kept variables share, and the blocks behind them.

Where a step minimizes its block exactly, the block is one of Fenchel lifting with its settings chosen so that the
programs are the same: a quadratic term is the Fenchel-Young gap of the identity, 1/2 |a - u|^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .activations import Activation, Array, activation, library
from .fenchel_activation import FenchelActivation
from .fenchel_output import FenchelOutput
from .fenchel_weight import FenchelWeight
from .formulation import Architecture, Block, Step, penalty
from .lifted_method import LiftedVariables, SolveBlock
from .spectral_norm import squared_norm_above

IDENTITY = activation("identity")


def fit_weights(
    step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock, *, multiplier: float,
    wanted: Array, proximity: float = 0.0,
) -> None:  # fmt: skip
    """Weights and bias of a layer by ridge regression: FenchelWeight with the identity for its activation.

    minimize  multiplier/2 |wanted - a_{l-1} W' - 1 b'|^2  +  weight_decay/2 |W|^2  +  proximity/2 |(W, b) - old|^2
    """
    place, inputs = step.layer - 1, state.below(step.layer)
    has_bias = architecture.biases[place]
    block = _ridge_block(len(inputs), inputs.shape[1], multiplier, architecture.weight_decay, proximity, has_bias)
    data = {"X": inputs, "v": wanted.T, "w_old": state.weights[place]}
    if has_bias:
        data["c_old"] = state.biases[place]
    put_weights(step, architecture, state, solve(step.label, Block(block, data, {})))


def fit_output(
    architecture: Architecture, state: LiftedVariables, solve: SolveBlock, *, multiplier: float, arrives: Array
) -> None:
    """The output variable by the proximal map of the loss: loss(z; y) + multiplier/2 |z - arrives|^2."""
    block = _output_block(architecture.widths[-1], architecture.loss.name, multiplier)
    label = Step("pre_activation", architecture.layers).label
    data = {"u": arrives, "y": state.targets}
    state.pre_activations[-1] = solve(label, Block(block, data, {"z": state.pre_activations[-1]}))["z"]


def move_weights(
    step: Step, architecture: Architecture, state: LiftedVariables, *, multiplier: float, wanted: Array
) -> None:
    """One step on the quadratic majorizer of the ridge block, then the bias exactly (mean of the residuals).

    The majorizer has the curvature theta = multiplier |a_{l-1}|^2 (spectral norm), within 1.4 % of the least that a
    multiple of the identity can have; the published codes find one by doubling.
    """
    place, inputs = step.layer - 1, state.below(step.layer)
    theta = multiplier * squared_norm(inputs, state.memory if step.layer == 1 else None)
    slope = multiplier * (state.sent(step.layer) - wanted).T @ inputs
    weight, where = state.weights[place], library(theta).where
    moved = (theta * weight - slope) / where(theta > 0, theta + architecture.weight_decay, 1.0)
    state.weights[place] = where(theta > 0, moved, weight)
    if architecture.biases[place]:
        residual = wanted - inputs @ state.weights[place].T
        state.biases[place] = residual.mean(0)


def squared_norm(matrix: Array, memory: dict[str, Any] | None = None) -> Array:
    """Largest squared singular value, as `squared_norm_above`; kept in `memory` where one is given."""
    if memory is not None and "squared_norm" in memory:
        return memory["squared_norm"]
    found = squared_norm_above(matrix)
    if memory is not None:
        memory["squared_norm"] = found
    return found


def squared_distance(first: Array, second: Array) -> Array:
    """1/2 the sum of squares of a difference."""
    return ((first - second) ** 2).sum() / 2


def network_residuals(architecture: Architecture, state: LiftedVariables) -> list[Array]:
    """1/2 |z_l - W_l a_{l-1} - b_l|^2 of every layer."""
    layers = range(1, architecture.layers + 1)
    return [squared_distance(state.pre_activations[layer - 1], state.sent(layer)) for layer in layers]


def activation_residuals(architecture: Architecture, state: LiftedVariables) -> list[Array]:
    """1/2 |a_l - phi_l(z_l)|^2 of every hidden layer."""
    return [
        squared_distance(a, phi.phi(z))
        for a, phi, z in zip(state.activations, architecture.activations, state.pre_activations, strict=False)
    ]


def output_loss(architecture: Architecture, state: LiftedVariables) -> Array:
    """The loss of the output variable, which is not that of the network."""
    return architecture.loss.values(state.pre_activations[-1], state.targets).sum()


def activation_block(
    step: Step, architecture: Architecture, state: LiftedVariables, *, multiplier: float,
    above: Activation | None = None,
) -> tuple[FenchelActivation, dict[str, Array]]:  # fmt: skip
    """The block of a_l that fits a_{l+1} (by B, or by B of the activation `above` in the place of its own) or the loss.

    minimize  multiplier * B(a_l, u_l)  +  multiplier * B_above(a_{l+1}, W_{l+1} a_l + b_{l+1})  [or the loss]
    """
    layer, place, last = step.layer, step.layer - 1, step.layer == architecture.hidden
    block = FenchelActivation(
        width=architecture.widths[layer], next_width=architecture.widths[layer + 1],
        activation=architecture.activations[place], loss=architecture.loss if last else None,
        next_activation=IDENTITY if last else above or architecture.activations[layer],
        below=multiplier, above=1.0 if last else multiplier,
    )  # fmt: skip
    wanted = state.targets if last else state.activations[layer]
    return block, {"u": state.sent(layer), "v": wanted, "W": state.weights[layer], "b": state.biases[layer]}


def weight_block(
    step: Step, architecture: Architecture, state: LiftedVariables, *, multiplier: float, proximity: float = 0.0
) -> tuple[FenchelWeight, dict[str, Array]]:
    """The block of (W_l, b_l) that fits a_l by multiplier * B, or the loss in the output layer."""
    place, inputs, last = step.layer - 1, state.below(step.layer), step.layer == architecture.layers
    block = FenchelWeight(
        samples=len(inputs), inputs=inputs.shape[1], units=architecture.widths[step.layer],
        activation=IDENTITY if last else architecture.activations[place], loss=architecture.loss if last else None,
        multiplier=1.0 if last else multiplier, weight_decay=architecture.weight_decay, proximity=proximity,
        bias=architecture.biases[place],
    )  # fmt: skip
    wanted = state.targets if last else state.activations[place]
    data = {"X": inputs, "v": wanted[None] if block.coupled else wanted.T}
    lead = (None,) if block.coupled else ()
    data["w_old"] = state.weights[place][lead]
    if block.bias:
        data["c_old"] = state.biases[place][lead]
    return block, data


def put_weights(step: Step, architecture: Architecture, state: LiftedVariables, values: Mapping[str, Array]) -> None:
    """Put the answer of a weight block into the state."""
    place = step.layer - 1
    state.weights[place] = values["w"].reshape(state.weights[place].shape)
    if architecture.biases[place]:
        state.biases[place] = values["c"].reshape(state.biases[place].shape)


def fit_by_gap(
    step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock, *, multiplier: float,
    proximity: float,
) -> None:  # fmt: skip
    """Solve `weight_block`."""
    block, data = weight_block(step, architecture, state, multiplier=multiplier, proximity=proximity)
    start = {"w": data["w_old"]} | ({"c": data["c_old"]} if block.bias else {})
    put_weights(step, architecture, state, solve(step.label, Block(block, data, start)))


def fit_activations(
    step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock, *, multiplier: float,
    above: Activation | None = None,
) -> None:  # fmt: skip
    """Solve `activation_block`."""
    block, data = activation_block(step, architecture, state, multiplier=multiplier, above=above)
    start = {"x": state.activations[step.layer - 1]}
    state.activations[step.layer - 1] = solve(step.label, Block(block, data, start))["x"]


def fit_between(
    step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock, *, below: float, above: float,
    wanted: Array,
) -> None:  # fmt: skip
    """Activations by least squares: below/2 |a_l - phi(z_l)|^2 + above/2 |W_{l+1} a_l + b_{l+1} - wanted|^2."""
    layer, place = step.layer, step.layer - 1
    block = _square_block(architecture.widths[layer], architecture.widths[layer + 1], below, above)
    phi = architecture.activations[place].phi(state.pre_activations[place])
    data = {"u": phi, "v": wanted, "W": state.weights[layer], "b": state.biases[layer]}
    state.activations[place] = solve(step.label, Block(block, data, {}))["x"]


def gap_values(architecture: Architecture, state: LiftedVariables) -> list[Array]:
    """B(a_l, W_l a_{l-1} + b_l) of every hidden layer, summed over samples."""
    pairs = zip(architecture.activations, state.activations, strict=True)
    return [phi.gap(a, state.sent(layer)).sum() for layer, (phi, a) in enumerate(pairs, start=1)]


def lifted_loss(architecture: Architecture, state: LiftedVariables) -> Array:
    """The loss of W_L a_{L-1} + b_L with the lifted activations, and the penalty."""
    loss = architecture.loss.values(state.sent(architecture.layers), state.targets).sum()
    return loss + penalty(architecture, state.weights)


# A block is written once with cvxpy and checked when it is made; sweeps ask for the same ones again and again.


@lru_cache(maxsize=64)
def _ridge_block(
    samples: int, inputs: int, multiplier: float, weight_decay: float, proximity: float, bias: bool
) -> FenchelWeight:
    return FenchelWeight(
        samples=samples, inputs=inputs, activation="identity", multiplier=multiplier, weight_decay=weight_decay,
        proximity=proximity, bias=bias,
    )  # fmt: skip


@lru_cache(maxsize=64)
def _output_block(outputs: int, loss: str, multiplier: float) -> FenchelOutput:
    return FenchelOutput(outputs=outputs, loss=loss, multiplier=multiplier)


@lru_cache(maxsize=64)
def _square_block(width: int, next_width: int, below: float, above: float) -> FenchelActivation:
    return FenchelActivation(
        width=width, next_width=next_width, activation=IDENTITY, next_activation=IDENTITY, below=below, above=above
    )
