"""Two-layer training problems with several outputs.

With K outputs the output weights a_j are vectors of K numbers,

    minimize    loss(f(X)) + weight_decay / 2  sum_j (|w_j|^2 + |a_j|^2),       f(x) = sum_j a_j phi(w_j'x),

the loss a SUM over samples: squared, |f(x_i) - y_i|^2 / 2, or softmax, log sum_k exp f(x_i)_k - f(x_i)_{y_i} with class
numbers y_i from 0 to K - 1. For V (samples, K) and D(V) = min_Z loss(Z) + <V, Z> the objective is at least D(V) as soon
as h(V) = max over |u| = 1 of |V'phi(X u)| is at most weight_decay.

What is proven by columns is less: h(V)^2 <= sum_k h(v_k)^2, with a bound of one output for every column v_k of V. That
is the bound of the problem in which every neuron feeds one output alone,

    minimize    loss(Z) + weight_decay (R_1^2 + ... + R_K^2)^(1/2),      Z's column k a network of one output, mass R_k,

and nothing is lost where only one column matters, or, as for two classes, all columns are multiples of one up to a
factor that is the same everywhere. It can be too low by up to what a factor of the root of K in the weight decay makes.
Where V'phi(X u) lies in a plane, for two outputs of the squared loss and for the softmax loss of three classes,
directions of the plane lose much less: see outputs_directions.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import logsumexp, softmax, xlogy

from ..formulations.errors import UsageError
from .problem import TwoLayerProblem

LOSSES = ("squared", "softmax")


@dataclass(frozen=True)
class OutputsProblem:
    """A two-layer training problem with several outputs; see the module for the mathematics.

    Attributes
    ----------
    X : array, shape (samples, features)
        The bias column included, if there is one.
    y : array, shape (samples, outputs) or (samples,)
        Targets of the squared loss; class numbers from 0 of the softmax loss.
    loss : str
        "squared" or "softmax".
    outputs : int
        K.
    weight_decay, activation, slope, bias, preparation
        As of `TwoLayerProblem`.
    """

    X: np.ndarray
    y: np.ndarray
    loss: str
    outputs: int
    weight_decay: float
    activation: str = "relu"
    slope: float = 0.01
    bias: str = "none"
    preparation: str = "as given"

    def __post_init__(self) -> None:
        """Refuse what no bound is known for."""
        y = np.asarray(self.y, dtype=float)
        if self.loss not in LOSSES:
            raise UsageError(
                f"no bound is known for the loss {self.loss!r} of several outputs; known: {', '.join(LOSSES)}."
            )
        if self.outputs < 1:
            raise UsageError(f"outputs is {self.outputs}; expected 1 or more.")
        expected = (len(self.X), self.outputs) if self.loss == "squared" else (len(self.X),)
        if y.shape != expected:
            raise UsageError(f"y has shape {y.shape}; expected {expected} for the {self.loss} loss.")
        if self.loss == "softmax" and not np.isin(y, np.arange(self.outputs)).all():
            raise UsageError(f"the softmax loss has the class numbers 0 to {self.outputs - 1}; y holds others.")
        object.__setattr__(self, "y", np.ascontiguousarray(y))
        # The rest is looked at there.
        object.__setattr__(self, "X", self.column(np.zeros(len(y)), self.weight_decay).X)
        if not np.isfinite(y).all():
            raise UsageError("y holds NaN or infinite values; expected finite numbers: remove these samples.")

    def column(self, y: np.ndarray, weight_decay: float) -> TwoLayerProblem:
        """The problem of one output with these inputs, and targets of the squared loss."""
        return TwoLayerProblem(self.X, y, "squared", weight_decay, self.activation, self.slope, self.bias)

    @cached_property
    def targets(self) -> np.ndarray:
        """(samples, outputs): y, or its classes as rows of the identity."""
        return self.y if self.loss == "squared" else np.eye(self.outputs)[self.y.astype(int)]

    @property
    def coefficients(self) -> tuple[float, float]:
        """The p and q of phi(z) = p (z)_+ + q z."""
        return self.column(np.zeros(len(self.y)), self.weight_decay).coefficients

    def phi(self, z: np.ndarray) -> np.ndarray:
        """The activation."""
        p, q = self.coefficients
        return p * np.maximum(z, 0) + q * z

    def loss_value(self, Z: np.ndarray) -> float:
        """Loss of the predictions Z (samples, outputs)."""
        if self.loss == "squared":
            return float(0.5 * np.sum((Z - self.y) ** 2))
        return float(np.sum(logsumexp(Z, axis=1)) - np.sum(Z * self.targets))

    def negative_gradient(self, Z: np.ndarray) -> np.ndarray:
        """-grad loss at the predictions Z: what a dual point is made of."""
        return self.targets - (Z if self.loss == "squared" else softmax(Z, axis=1))

    def predictions(self, weights: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """f(X) of a network with weights (neurons, features) and output weights (neurons, outputs)."""
        return self.phi(self.X @ weights.T) @ outputs

    def objective(self, weights: np.ndarray, outputs: np.ndarray) -> float:
        """The training objective of a network."""
        penalty = 0.5 * self.weight_decay * float(np.sum(weights**2) + np.sum(outputs**2))
        return self.loss_value(self.predictions(weights, outputs)) + penalty

    def dual(self, V: np.ndarray) -> float:
        """D(V) = min_Z loss(Z) + <V, Z>; minus infinity outside of its domain."""
        if self.loss == "squared":
            return float(np.sum(V * self.y) - 0.5 * np.sum(V**2))
        P = self.targets - V
        # A row that sums to one but for the rounding of floats is meant to.
        if P.min() < -1e-12 or np.abs(P.sum(axis=1) - 1).max() > 1e-9:
            return -np.inf
        P = np.maximum(P, 0)
        return float(-xlogy(P, P).sum())

    def best_scale(self, V: np.ndarray, most: float) -> float:
        """The t in [0, most] with the largest D(t V) for the squared loss; min(most, 1) for the softmax loss."""
        if self.loss == "squared":
            square = float(np.sum(V**2))
            return max(0.0, min(most, float(np.sum(V * self.y)) / square)) if square > 0 else 0.0
        return min(most, 1.0)
