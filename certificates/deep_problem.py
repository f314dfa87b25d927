"""Training problems of networks of any depth, whose optimum is bounded.

With L weight matrices W_1, ..., W_L of any widths, one output, and an activation phi,

    minimize    loss(f(X)) + weight_decay / 2  sum_l |W_l|^2,       f(x) = W_L phi(W_{L-1} ... phi(W_1 x)),

|W| the Frobenius norm. The loss is a SUM over samples. |phi(a) - phi(b)| <= |a - b| and phi(0) = 0 is all that the
bound knows of phi; `formulations/lipschitz_regression.py` is the convex program that it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..formulations.errors import UsageError
from .checker import DEEP_ACTIVATIONS, MOST_LAYERS
from .losses import checked_training, dual_value, loss_value, negative_gradient, require_constant_column

BIASES = ("none", "column", "free")


@dataclass(frozen=True)
class DeepProblem:
    """A training problem of networks with so many weight matrices, of any widths; see the module for the mathematics.

    Attributes
    ----------
    X : array, shape (samples, features)
        The bias column included, if there is one.
    y : array, shape (samples,)
        Targets, or labels +1 and -1.
    loss : str
        "squared" or "logistic".
    weight_decay : float
        Above zero; absolute.
    depth : int
        Number of weight matrices L, at least 2.
    activation : str
        "relu", "leaky_relu", "absolute_value" or "tanh".
    slope : float
        Of the leaky ReLU below zero, in [0, 1).
    bias : str
        "none"; "column" where the last column of X is constant and acts as a penalized bias of the first layer; "free"
        where every layer has biases that are not penalized (the bound also holds where they are).
    preparation : str
        How X and y were made from the raw data, in words.
    """

    X: np.ndarray
    y: np.ndarray
    loss: str
    weight_decay: float
    depth: int = 3
    activation: str = "relu"
    slope: float = 0.01
    bias: str = "none"
    preparation: str = "as given"

    def __post_init__(self) -> None:
        """Refuse what no bound is known for."""
        X, y = checked_training(self.X, self.y, self.loss, self.weight_decay)
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or not 2 <= self.depth <= MOST_LAYERS:
            raise UsageError(f"the depth is {self.depth!r}; expected a number of weight matrices, 2 to {MOST_LAYERS}.")
        if self.activation not in DEEP_ACTIVATIONS:
            raise UsageError(
                f"no bound is known for the activation {self.activation!r} at any depth; known: "
                f"{', '.join(DEEP_ACTIVATIONS)}."
            )
        if not 0 <= self.slope < 1:
            raise UsageError(f"the slope is {self.slope!r}; expected a number from 0 to below 1.")
        if self.bias not in BIASES:
            raise UsageError(f"the bias is {self.bias!r}; expected {', '.join(map(repr, BIASES))}.")
        if self.bias == "column":
            require_constant_column(X)
        object.__setattr__(self, "X", X)
        object.__setattr__(self, "y", y)

    @property
    def slope_below_zero(self) -> float:
        """The q of phi(z) = z above and q z below zero; NaN for tanh."""
        return {"relu": 0.0, "leaky_relu": self.slope, "absolute_value": -1.0}.get(self.activation, np.nan)

    def predictions(self, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """f(X) of a network with these matrices (out, in), and biases (out,) if they are free."""
        hidden = self.X
        for place, matrix in enumerate(weights):
            hidden = hidden @ matrix.T + (0.0 if biases is None else biases[place])
            if place < len(weights) - 1:
                hidden = np.tanh(hidden) if self.activation == "tanh" else _bent(hidden, self.slope_below_zero)
        return hidden[:, 0]

    def objective(self, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray] | None = None) -> float:
        """The training objective of a network."""
        squares = sum(float(np.sum(matrix**2)) for matrix in weights)
        return self.loss_value(self.predictions(weights, biases)) + 0.5 * self.weight_decay * squares

    def loss_value(self, z: np.ndarray) -> float:
        """Loss of the predictions z (samples,)."""
        return loss_value(self.loss, self.y, z)

    def negative_gradient(self, z: np.ndarray) -> np.ndarray:
        """-grad loss at the predictions z."""
        return negative_gradient(self.loss, self.y, z)

    def dual(self, v: np.ndarray) -> float:
        """D(v) = min_z loss(z) + v'z; minus infinity outside of its domain."""
        return dual_value(self.loss, self.y, v)

    def penalty(self, product: float) -> float:
        """The least penalty of networks whose norms have this product: weight_decay L/2 R^(2/L)."""
        return self.weight_decay * self.depth / 2 * product ** (2 / self.depth)


def _bent(z: np.ndarray, slope: float) -> np.ndarray:
    return np.where(z >= 0, z, slope * z)
