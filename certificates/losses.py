"""The losses of certified training problems, sums over samples: their values, gradients and duals.

Squared: sum_i (z_i - y_i)^2 / 2. Logistic, labels +1 and -1: sum_i log(1 + exp(-y_i z_i)). D(v) = min_z loss(z) + v'z.
"""

from __future__ import annotations

import numpy as np

from ..formulations.errors import UsageError

LOSSES = ("squared", "logistic")


def loss_value(loss: str, y: np.ndarray, z: np.ndarray) -> float:
    """Loss of the predictions z (samples,)."""
    if loss == "squared":
        return float(0.5 * np.sum((z - y) ** 2))
    return float(np.logaddexp(0, -y * z).sum())


def negative_gradient(loss: str, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """-grad loss at the predictions z: what a dual point is made of."""
    if loss == "squared":
        return y - z
    return y * np.exp(-np.logaddexp(0, y * z))


def dual_value(loss: str, y: np.ndarray, v: np.ndarray) -> float:
    """D(v); minus infinity outside of its domain."""
    if loss == "squared":
        return float(v @ y - 0.5 * v @ v)
    p = v * y
    if (p < 0).any() or (p > 1).any():
        return -np.inf
    return float(sum(-np.sum(part * np.log(part, where=part > 0, out=np.zeros_like(part))) for part in (p, 1 - p)))


def checked_training(X: np.ndarray, y: np.ndarray, loss: str, weight_decay: float) -> tuple[np.ndarray, np.ndarray]:
    """X and y as contiguous floats.

    Raises
    ------
    UsageError
        If they are no training set of this loss, or there is no weight decay.
    """
    X, y = np.asarray(X, dtype=float), np.asarray(y, dtype=float)
    if X.ndim != 2 or y.shape != X.shape[:1] or not X.size:
        raise UsageError(
            f"X has shape {X.shape} and y {y.shape}; expected (samples, features) and (samples,), not empty."
        )
    if not (np.isfinite(X).all() and np.isfinite(y).all()):
        raise UsageError("X or y holds NaN or infinite values; expected finite numbers: remove these samples.")
    if loss not in LOSSES:
        raise UsageError(f"no bound is known for the loss {loss!r}; known: {', '.join(LOSSES)}.")
    if loss == "logistic" and not np.isin(y, (-1, 1)).all():
        raise UsageError("the logistic loss has the labels +1 and -1; y holds others: encode the two classes so.")
    if not 0 < weight_decay < np.inf:
        raise UsageError(f"the weight decay is {weight_decay!r}; expected a number above 0.")
    return np.ascontiguousarray(X), np.ascontiguousarray(y)


def require_constant_column(X: np.ndarray) -> None:
    """Refuse data whose last column cannot stand for the biases.

    Raises
    ------
    UsageError
        If it is not constant, or zero.
    """
    if np.ptp(X[:, -1]) > 0 or X[0, -1] == 0:
        raise UsageError("the bias is 'column', but the last column of X is no constant other than 0; append one.")
