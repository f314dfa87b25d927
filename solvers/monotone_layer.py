"""One layer by its monotone variational inequality: the exact solution, and the published stochastic steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..formulations.activations import ACTIVATIONS, Activation, activation
from ..formulations.errors import UsageError
from ..formulations.losses import LOSSES, Loss
from ..formulations.monotone_layer import MonotoneLayer
from ..formulations.subproblem import require_count, require_positive, require_size
from .batch import solve
from .training_data import check_inputs, check_targets

TOLERANCE = 1e-13


@dataclass(frozen=True)
class LayerFit:
    """A layer, and how well it solves its variational inequality. F_N is the operator as a mean over samples.

    Attributes
    ----------
    weight : Tensor, shape (units, inputs)
    bias : Tensor, shape (units,), or None
    operator_residual : float
        |F_N|: zero at a solution inside the ball; at one on its boundary F_N points inwards.
    natural_residual : float
        |th - P(th - F_N(th))|, P the projection to the ball: zero exactly at a solution.
    gap : float
        sup over V in the ball of <F_N(th), th - V>; without a ball |F_N|^2 over twice the weight decay of a sample, and
        infinite where the part of the biases, which have none, is not exactly zero.
    modulus : float
        Modulus of strong monotonicity of F_N over the ball, from below.
    iterations : int
        Newton iterations, or stochastic steps.
    cpu_seconds : float
        Process time.
    """

    weight: Tensor
    bias: Tensor | None
    operator_residual: float
    natural_residual: float
    gap: float
    modulus: float
    iterations: int
    cpu_seconds: float

    def predict(self, features: Any) -> Tensor:
        """Pre-activations W x + c of rows of features."""
        u = torch.as_tensor(features, dtype=self.weight.dtype, device=self.weight.device) @ self.weight.T
        return u if self.bias is None else u + self.bias


def fit_layer(
    features: Any,
    y: Any,
    activation_or_loss: str | Activation | Loss,
    *,
    radius: float | None = None,
    weight_decay: float = 0.0,
    bias: bool = True,
    outputs: int | None = None,
) -> LayerFit:
    """Solve the variational inequality of a layer exactly: see `MonotoneLayer` for the convex program.

    Parameters
    ----------
    features : array, shape (samples, inputs)
        What the layer reads: raw data, or outputs of frozen layers (`frozen_features`).
    y : array
        With a loss its targets (labels 0, 1, ..., or numbers); with an activation what it is to be on average, of shape
        (samples,) or (samples, units), inside the range of the activation.
    activation_or_loss : str, Activation or Loss
        A row of the table of activations (``"sigmoid"``, ``"probit"``, ...), or a training loss.
    radius : float, optional
        Radius of the ball in which weights and biases lie together.
    weight_decay : float
        Factor of half the sum of squares of the weights (not biases); the loss is a sum over samples.
    bias : bool
        Whether the layer has biases.
    outputs : int, optional
        Units of the layer; by default what y needs.

    Returns
    -------
    LayerFit

    Raises
    ------
    UsageError
        If the data cannot be used, a target is out of the range of the activation, or neither a ball nor weight decay
        is given.

    Examples
    --------
    >>> X = np.linspace(-2, 2, 50)[:, None]
    >>> found = fit_layer(X, (X[:, 0] > 0.3).astype(int), "logistic", radius=5.0)
    >>> found.natural_residual < 1e-10
    True
    """
    block, data = layer_block(
        features, y, activation_or_loss, radius=radius, weight_decay=weight_decay, bias=bias, outputs=outputs
    )
    began = time.process_time()
    found = solve(block, data, tolerance=TOLERANCE)
    seconds = time.process_time() - began
    return measured(block, data, dict(found.variables), int(found.iterations), seconds)


def stochastic_steps(
    features: Any,
    y: Any,
    activation_or_loss: str | Activation | Loss,
    *,
    radius: float,
    weight_decay: float = 0.0,
    bias: bool = True,
    outputs: int | None = None,
    rate: float | None = None,
    averaged: bool = True,
    steps: int = 1000,
    batch_size: int = 200,
    random_state: int = 0,
) -> LayerFit:
    """The published stochastic method for the same inequality: th <- P(th - gamma_k F_batch(th)), k = 0, 1, ...

    With the modulus kappa > 0 of F_N the steps are gamma_k = 1 / (kappa (k + 1)) and the last point is the answer;
    where a `rate` is given they are rate / sqrt(k + 1), and the answer is the mean of the points, weighed by the steps,
    for which the theory speaks, or the last point.

    Parameters
    ----------
    features, y, activation_or_loss, radius, weight_decay, bias, outputs
        As for `fit_layer`.
    rate : float, optional
        First step; by default the steps of the strongly monotone case are taken.
    averaged : bool
        With a rate, whether the answer is the mean.
    steps : int
        How many.
    batch_size : int
        Samples of a step; every pass over the data is shuffled anew.
    random_state : int
        Seed of the passes.

    Raises
    ------
    UsageError
        As `fit_layer`; or if no rate is given and the modulus is zero.
    """
    block, data = layer_block(
        features, y, activation_or_loss, radius=radius, weight_decay=weight_decay, bias=bias, outputs=outputs
    )
    require_size(steps=steps, batch_size=batch_size)
    require_count(random_state=random_state)
    modulus = block.modulus(data["X"].cpu())
    if rate is not None:
        require_positive(rate=rate)
    elif modulus == 0:
        raise UsageError(
            "the modulus of the operator is zero, so that there are no steps 1/(modulus (k + 1)); expected slopes "
            "above zero over the ball, or weight decay without biases: give a rate, for steps rate/sqrt(k + 1)."
        )
    generator, began = np.random.default_rng(random_state), time.process_time()
    columns, targets, samples = block.columns(data["X"]), data["y"][0], block.samples
    decay = columns.new_full((columns.shape[1],), block.weight_decay / samples)
    if block.bias:
        decay[-1] = 0.0
    packed = columns.new_zeros(block.units, columns.shape[1])
    mean, total, batches = torch.zeros_like(packed), 0.0, list[Tensor]()
    for step in range(steps):
        if not batches:
            batches = list(torch.as_tensor(generator.permutation(samples)).split(batch_size))
        rows = batches.pop()
        part = columns[rows]
        error = block.activation.phi(part @ packed.T) - targets[rows]
        gamma = 1 / (modulus * (step + 1)) if rate is None else rate / (step + 1) ** 0.5
        packed = block.project((packed - gamma * (error.T @ part / len(rows) + decay * packed))[None])[0]
        total += gamma
        mean += (packed - mean) * (gamma / total)
    seconds = time.process_time() - began
    return measured(block, data, block.unpack((packed if rate is None or not averaged else mean)[None]), steps, seconds)


def layer_block(
    features: Any, y: Any, activation_or_loss: str | Activation | Loss, *, radius: float | None, weight_decay: float,
    bias: bool, outputs: int | None,
) -> tuple[MonotoneLayer, dict[str, Tensor]]:  # fmt: skip
    """The program of a layer and its checked data; see `fit_layer`."""
    X = check_inputs(features, name="the features")
    loss, phi = _residual_of(activation_or_loss)
    plain = check_targets(y, len(X), loss.task if loss else "regression")
    if loss:
        classes = 1 if loss.name == "logistic" else int(plain.max()) + 1
        needed = (1 if plain.ndim == 1 else plain.shape[1]) if loss.task == "regression" else classes
        targets = loss.encode(plain, outputs or needed)
    else:
        targets = LOSSES["squared"].encode(plain, outputs or (1 if plain.ndim == 1 else plain.shape[1]))
    block = MonotoneLayer(
        samples=len(X), inputs=X.shape[1], units=targets.shape[1], activation=phi, loss=loss,
        weight_decay=weight_decay, radius=radius, bias=bias,
    )  # fmt: skip
    block.require_targets(targets)
    device = features.device if isinstance(features, Tensor) else torch.device("cpu")
    return block, {"X": torch.as_tensor(X, device=device), "y": torch.as_tensor(targets, device=device)[None]}


def measured(
    block: MonotoneLayer, data: dict[str, Tensor], values: dict[str, Tensor], iterations: int, seconds: float
) -> LayerFit:
    """A layer with the residuals of its inequality."""
    operator = block.operator(values, data)[0] / block.samples
    return LayerFit(
        values["W"][0], values["c"][0] if block.bias else None, float(operator.norm()),
        float(block.natural_residual(values, data)[0]), max(0.0, float(block.gap(values, data)[0])) / block.samples,
        block.modulus(data["X"].cpu()), iterations, seconds,
    )  # fmt: skip


def _residual_of(which: str | Activation | Loss) -> tuple[Loss | None, Activation]:
    if isinstance(which, Loss):
        return which, which.activation
    if isinstance(which, str) and which in LOSSES:
        return LOSSES[which], LOSSES[which].activation
    if isinstance(which, str) and which.partition("(")[0] not in ACTIVATIONS:
        raise UsageError(
            f"{which!r} is neither an activation nor a loss; known: {', '.join(ACTIVATIONS)}; {', '.join(LOSSES)}."
        )
    return None, activation(which)
