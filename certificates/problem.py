"""Two-layer training problems whose optimum is bounded, and the data of their tables.

With X (samples, features), where a bias is a column of ones, and an activation phi(z) = p (z)_+ + q z,

    minimize    loss(f(X)) + weight_decay / 2  sum_j (|w_j|^2 + a_j^2),       f(x) = sum_j a_j phi(w_j'x),

over any number of neurons. phi is positively homogeneous: rescaling w_j and a_j makes the penalty
weight_decay sum_j |a_j| |w_j|. The loss is a SUM over samples: squared (with its 1/2), or logistic with labels +1, -1.

With D(v) = min_z loss(z) + v'z the training objective of every network is at least D(v) as soon as
h(v) = max over |u| = 1 of |v'phi(X u)| is at most weight_decay: loss(z) >= D(v) - v'z, and |v'z| is at most h(v) times
sum_j |a_j| |w_j|. The first v to try is -grad loss at a good network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..formulations.errors import UsageError
from .losses import checked_training, dual_value, loss_value, negative_gradient, require_constant_column

ACTIVATIONS = ("relu", "leaky_relu", "absolute_value")
CONSTANT = 1e-9
"""Features whose standard deviation is below this share of the largest are constant, and dropped."""


@dataclass(frozen=True)
class TwoLayerProblem:
    """A two-layer training problem; see the module for the mathematics.

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
    activation : str
        "relu", "leaky_relu" or "absolute_value".
    slope : float
        Of the leaky ReLU below zero, in [0, 1).
    bias : str
        "column" where the last column of X is constant and acts as a penalized hidden bias; else "none".
    preparation : str
        How X and y were made from the raw data, in words.
    """

    X: np.ndarray
    y: np.ndarray
    loss: str
    weight_decay: float
    activation: str = "relu"
    slope: float = 0.01
    bias: str = "none"
    preparation: str = "as given"

    def __post_init__(self) -> None:
        """Refuse what no bound is known for."""
        X, y = checked_training(self.X, self.y, self.loss, self.weight_decay)
        if self.activation not in ACTIVATIONS:
            raise UsageError(
                f"no bound is known for the activation {self.activation!r}; known: {', '.join(ACTIVATIONS)}."
            )
        if not 0 <= self.slope < 1:
            raise UsageError(f"the slope is {self.slope!r}; expected a number from 0 to below 1.")
        if self.bias not in ("column", "none"):
            raise UsageError(f"the bias is {self.bias!r}; expected 'column' or 'none'.")
        if self.bias == "column":
            require_constant_column(X)
        object.__setattr__(self, "X", X)
        object.__setattr__(self, "y", y)

    @property
    def coefficients(self) -> tuple[float, float]:
        """The p and q of phi(z) = p (z)_+ + q z."""
        return {"relu": (1.0, 0.0), "leaky_relu": (1 - self.slope, self.slope), "absolute_value": (2.0, -1.0)}[
            self.activation
        ]

    def phi(self, z: np.ndarray) -> np.ndarray:
        """The activation."""
        p, q = self.coefficients
        return p * np.maximum(z, 0) + q * z

    def loss_value(self, z: np.ndarray) -> float:
        """Loss of the predictions z (samples,)."""
        return loss_value(self.loss, self.y, z)

    def negative_gradient(self, z: np.ndarray) -> np.ndarray:
        """-grad loss at the predictions z: what a dual point is made of."""
        return negative_gradient(self.loss, self.y, z)

    def predictions(self, weights: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """f(X) of a network with weights (neurons, features) and output weights (neurons,)."""
        return self.phi(self.X @ weights.T) @ outputs

    def objective(self, weights: np.ndarray, outputs: np.ndarray) -> float:
        """The training objective of a network."""
        penalty = 0.5 * self.weight_decay * float(np.sum(weights**2) + np.sum(outputs**2))
        return self.loss_value(self.predictions(weights, outputs)) + penalty

    def dual(self, v: np.ndarray) -> float:
        """D(v) = min_z loss(z) + v'z; minus infinity outside of its domain."""
        return dual_value(self.loss, self.y, v)

    def best_scale(self, v: np.ndarray, most: float) -> float:
        """The t in [0, most] with the largest D(t v) for the squared loss; min(most, 1) for the logistic loss."""
        if self.loss == "squared":
            square = float(v @ v)
            return max(0.0, min(most, float(v @ self.y) / square)) if square > 0 else 0.0
        return min(most, 1.0)


def prepare(
    X: np.ndarray, y: np.ndarray, loss: str, *, components: int | None = None, bias: bool = True
) -> tuple[np.ndarray, np.ndarray, str]:
    """Data as the tables of bounds have them, and what was done in words.

    Columns are centred and scaled to variance 1, constant ones dropped; with `components` the scores of that many
    principal components, over their common standard deviation; then a column of ones; then everything over the root of
    the number of columns. Targets of the squared loss, of shape (samples,) or (samples, outputs), are standardized; of
    two classes the larger label becomes +1; the softmax loss numbers the classes from 0.

    Raises
    ------
    UsageError
        If X or y hold no finite numbers, no column varies, there are not so many components, all targets of the squared
        loss are equal, the logistic loss has other than two classes or the softmax loss fewer.
    """
    X, y = np.asarray(X, dtype=float), np.asarray(y)
    axes = (1, 2) if loss == "squared" else (1,)
    if X.ndim != 2 or y.ndim not in axes or len(y) != len(X) or not X.size:
        raise UsageError(
            f"X has shape {X.shape} and y {y.shape}; expected (samples, features) and (samples,), not empty."
        )
    if not (np.isfinite(X).all() and np.isfinite(y.astype(float)).all()):
        raise UsageError("X or y holds NaN or infinite values; expected finite numbers: remove these samples.")
    centred = X - X.mean(0)
    spread = centred.std(0)
    kept = spread > CONSTANT * max(float(spread.max(initial=0.0)), 1e-300)
    if not kept.any():
        raise UsageError("no column of X varies; expected features that tell the samples apart.")
    X = centred[:, kept] / spread[kept]
    if components is not None and not 1 <= components <= X.shape[1]:
        raise UsageError(
            f"{components} principal components were asked for; expected 1 to {X.shape[1]} for these data."
        )
    done = ["columns centred and scaled to variance 1"]
    if not kept.all():
        done.append(f"{int((~kept).sum())} constant columns dropped")
    if components is not None and components < X.shape[1]:
        left, sizes, _ = np.linalg.svd(X, full_matrices=False)
        # The sign of a component is a matter of taste: its largest entry is to be positive.
        signs = np.sign(np.take_along_axis(left, np.abs(left).argmax(0)[None], axis=0))
        X = (left * signs)[:, :components] * sizes[:components]
        X = X / X.std()
        done.append(f"{components} principal components over their common standard deviation")
    if bias:
        X = np.hstack([X, np.ones((len(X), 1))])
        done.append("a column of ones appended")
    X = X / np.sqrt(X.shape[1])
    done.append(f"divided by the root of {X.shape[1]}")
    return X, *_targets(y, loss, done)


def _targets(y: np.ndarray, loss: str, done: list[str]) -> tuple[np.ndarray, str]:
    if loss == "logistic":
        classes = np.unique(y)
        if len(classes) != 2:
            raise UsageError(
                f"the logistic loss needs two classes, but y has {len(classes)}; choose two of them (--classes A,B)."
            )
        return np.where(y == classes[1], 1.0, -1.0), "; ".join([*done, f"y = +1 for the class {classes[1]}, else -1"])
    if loss == "softmax":
        classes, numbers = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise UsageError("the softmax loss needs two classes or more, but y has one.")
        return numbers.astype(float), "; ".join([*done, f"classes {classes[0]:g} to {classes[-1]:g} numbered from 0"])
    spread = np.std(y, axis=0)
    if not (spread > 0).all():
        raise UsageError("all targets are equal: there is nothing to learn.")
    return (y - np.mean(y, axis=0)) / spread, "; ".join([*done, "y standardized"])
