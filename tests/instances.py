"""Instances of the blocks for the tests: ordinary, ill-scaled and degenerate ones, seeded and small."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from convexblocks.formulations import ACTIVATIONS, LOSSES, FenchelActivation, FenchelOutput, FenchelWeight, activation
from convexblocks.formulations.activations import Activation
from convexblocks.formulations.losses import Loss

ALL = tuple(ACTIVATIONS)
MODELLED = tuple(name for name in ALL if activation(name).has_model)
UNMODELLED = tuple(name for name in ALL if name not in MODELLED)
# Rows with another parameter than the default one; the ends of what is allowed are among them.
OTHER_PARAMETERS = ("leaky_relu(0.3)", "leaky_relu(1)", "clipped_relu(1.5)", "soft_shrink(0.2)", "soft_shrink(0)")
QUADRATIC = ("identity", "relu", "leaky_relu", "clipped_relu", "hardtanh", "soft_shrink")
LOSS_NAMES = tuple(LOSSES)

KINDS = ("random", "ill-scaled", "degenerate")

Data = dict[str, np.ndarray]


def conditioned(rng: np.random.Generator, rows: int, columns: int, condition: float, norm: float) -> np.ndarray:
    """A matrix with the given ratio of its extreme singular values and the given largest one."""
    left, _ = np.linalg.qr(rng.standard_normal((rows, rows)))
    right, _ = np.linalg.qr(rng.standard_normal((columns, columns)))
    rank = min(rows, columns)
    return (left[:, :rank] * (norm * np.geomspace(1, 1 / condition, rank))) @ right[:, :rank].T


def targets(phi: Activation, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Points in the range of an activation, as a next layer would want them."""
    return phi.phi(rng.standard_normal(shape))


def encoded(loss: Loss, rng: np.random.Generator, samples: int, outputs: int) -> np.ndarray:
    """Encoded targets of a loss; with the logistic loss every output is a label of its own."""
    if loss.name == "squared":
        return rng.standard_normal((samples, outputs))
    if loss.name == "logistic":
        return rng.integers(0, 2, (samples, outputs)).astype(float)
    return np.eye(outputs)[rng.integers(0, outputs, samples)]


def activation_data(block: FenchelActivation, kind: str, *, batch: int = 4, seed: int = 0) -> Data:
    """Data of an activation block."""
    rng = np.random.default_rng(seed)
    n, m = block.width, block.next_width
    if block.loss:
        v = encoded(block.loss, rng, batch, m)
    else:
        v = targets(block.next_activation, rng, (batch, m))
    data = {
        "u": rng.standard_normal((batch, n)),
        "v": v,
        "W": rng.standard_normal((m, n)) / np.sqrt(n),
        "b": 0.3 * rng.standard_normal(m),
    }
    if kind == "ill-scaled":
        data["W"] = conditioned(rng, m, n, 1e4, 4.0)
    elif kind == "degenerate":
        data["W"][:, 0] = 0  # a unit that sends nothing
        data["W"][0] = 0  # a unit above that receives nothing
        data["W"][:, -1] = data["W"][:, -2]
        data["b"][0] = 0
        data["u"][0] = 0  # ties: every unit sits on its kink
        data["u"][1] = -30  # dead or saturated units
        data["u"][-1], data["v"][-1] = data["u"][-2], data["v"][-2]
        if not block.loss and not block.next_activation.couples_units:
            data["v"][0] = block.next_activation.phi(np.zeros(m))
    return data


def weight_data(block: FenchelWeight, kind: str, *, batch: int = 4, seed: int = 0) -> Data:
    """Data of a weight block; a coupled layer comes with half as many instances."""
    rng = np.random.default_rng(seed)
    batch = (batch + 1) // 2 if block.coupled else batch
    shape = (batch, block.samples, *block.lead)
    X = rng.standard_normal((block.samples, block.inputs))
    if kind == "ill-scaled":
        X = conditioned(rng, block.samples, block.inputs, 1e4, 10.0)
    elif kind == "degenerate":
        X[:, 0] = 0
        X[0] = 0
        X[2] = X[1]
        X[:, -1] = X[:, -2]
    if block.loss and block.loss.name == "squared":
        v = rng.standard_normal(shape)
    elif block.loss and block.coupled:
        v = np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]
    elif block.loss:
        v = rng.integers(0, 2, shape).astype(float)
    else:
        v = targets(block.activation, rng, shape)
    if kind == "degenerate" and not block.coupled:
        # A dead unit; an activation that never reaches zero gets its own value at zero.
        v[0] = 0.0 if block.activation.low <= 0 else block.activation.phi(np.zeros(block.samples))
    old = 0.5 * rng.standard_normal((batch, *block.lead, block.inputs))
    data = {"X": X, "v": v, "w_old": old}
    if block.bias:
        data["c_old"] = 0.5 * rng.standard_normal((batch, *block.lead))
    return data


def output_data(block: FenchelOutput, kind: str, *, batch: int = 4, seed: int = 0) -> Data:
    """Data of an output block."""
    rng = np.random.default_rng(seed)
    data = {
        "u": 2 * rng.standard_normal((batch, block.outputs)),
        "y": encoded(block.loss, rng, batch, block.outputs),
    }
    if kind == "ill-scaled":
        data["u"] *= np.geomspace(1e-2, 1e2, block.outputs)
    elif kind == "degenerate":
        data["u"][0] = 0
        data["u"][1] = -40
        data["u"][-1], data["y"][-1] = data["u"][-2], data["y"][-2]
    return data


def data_of(block: Any, kind: str = "random", *, batch: int = 4, seed: int = 0) -> Data:
    """Data of any block."""
    if isinstance(block, FenchelActivation):
        return activation_data(block, kind, batch=batch, seed=seed)
    if isinstance(block, FenchelWeight):
        return weight_data(block, kind, batch=batch, seed=seed)
    return output_data(block, kind, batch=batch, seed=seed)


@cache
def activation_block(phi: str, after: str, below: float = 0.7, above: float = 1.3) -> FenchelActivation:
    """A block that is made once; `after` is the next activation or the loss."""
    role = {"loss": after} if after in LOSSES else {"next_activation": after}
    # The logistic loss belongs to a single output.
    next_width = 1 if after == "logistic" else 4
    return FenchelActivation(width=6, next_width=next_width, activation=phi, below=below, above=above, **role)


@cache
def weight_block(
    what: str,
    bias: bool = True,
    multiplier: float = 0.8,
    weight_decay: float = 0.1,
    proximity: float = 0.5,
    units: int = 3,
) -> FenchelWeight:
    """A block that is made once; `what` is the activation or the loss."""
    role = {"loss": what} if what in LOSSES else {"activation": what}
    return FenchelWeight(
        samples=12, inputs=5, units=units, bias=bias,
        multiplier=multiplier, weight_decay=weight_decay, proximity=proximity, **role,
    )  # fmt: skip


@cache
def output_block(loss: str, multiplier: float = 0.6) -> FenchelOutput:
    """A block that is made once."""
    return FenchelOutput(outputs=1 if loss == "logistic" else 4, loss=loss, multiplier=multiplier)


def set_parameters(block: Any, data: Data, place: int = 0) -> None:
    """Give the cvxpy model the data of one instance."""
    for parameter in block.program().parameters():
        value = data[parameter.name()]
        parameter.value = value if block.is_shared(parameter.name()) else value[place]


def feasible_point(block: Any, data: Data, rng: np.random.Generator) -> Data:
    """Values of all variables that meet the constraints, one for every instance, and far from optimal."""
    if isinstance(block, FenchelActivation):
        x = targets(block.activation, rng, data["u"].shape)
        return {"x": x, "z": x @ data["W"].T + data["b"]}
    if isinstance(block, FenchelWeight):
        values = {"w": rng.standard_normal(data["w_old"].shape)}
        if block.bias:
            values["c"] = rng.standard_normal(data["c_old"].shape)
        return {**values, "u": block.pre_activations(values, data)}
    return {"z": rng.standard_normal(data["u"].shape)}
