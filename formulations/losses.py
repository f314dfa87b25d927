"""Training losses, each the Fenchel-Young gap of an activation.

With the activation phi of a loss, its potential Phi and an encoded target y in the range of phi,

    loss(u; y) = B(y, u) = Phi(u) + Phi*(y) - <u, y>,        grad_u loss = phi(u) - y :

    loss                     phi        encoded target y             loss(u; y)
    squared                  identity   any real vector              1/2 |u - y|^2
    logistic                 sigmoid    0 or 1                       log(1 + e^u) - y u
    softmax_cross_entropy    softmax    one-hot row                  log sum_k e^{u_k} - u_y

Losses are SUMS over samples (the squared loss with its 1/2). The conjugate in u is

    loss*(s; y) = Phi*(s + y) - Phi*(y).

Source: Blondel, Martins & Niculae, "Learning with Fenchel-Young losses", JMLR 21 (2020), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np

from .activations import Activation, Array, activation
from .errors import UsageError
from .potential_models import ModelTerm


@dataclass(frozen=True)
class Loss:
    """A training loss L(u; y), one number per sample.

    Attributes
    ----------
    name : str
        Name on the command line.
    activation : Activation
        The activation whose Fenchel-Young gap the loss is.
    task : str
        ``"regression"`` or ``"classification"``.
    """

    name: str
    activation: Activation
    task: str

    def values(self, u: Array, y: Array) -> Array:
        """Loss of every sample; u and y of shape (samples, outputs), y encoded."""
        # Computed without Phi*(y), a constant that is zero for labels, except where it belongs to the square.
        if self.name == "squared":
            return ((u - y) ** 2).sum(-1) / 2
        return self.activation.row_sum(self.activation.potential(u)) - (u * y).sum(-1)

    def gradient(self, u: Array, y: Array) -> Array:
        """Gradient in u of the loss of every sample."""
        return self.activation.phi(u) - y

    def conjugate(self, s: Array, y: Array) -> Array:
        """``sup_u <s, u> - loss(u; y)`` of every sample; +inf outside its domain."""
        phi_star = self.activation.conjugate
        return self.activation.row_sum(phi_star(s + y)) - self.activation.row_sum(phi_star(y))

    def model(self, u: Any, y: Any) -> ModelTerm:
        """The loss of one sample as a cvxpy expression of u, with y a parameter; exact, constants included."""
        if self.name == "squared":
            return ModelTerm(0.5 * cp.sum_squares(u - y))
        term = self.activation.model_potential(u)
        return ModelTerm(term.expression - y @ u, term.constraints, term.completions)

    def encode(self, y: Any, outputs: int) -> np.ndarray:
        """Targets as a float64 array of shape (samples, outputs).

        Raises
        ------
        UsageError
            If y does not fit the loss: wrong shape, labels that are no integers or out of range.
        """
        y = np.asarray(y)
        if self.name == "squared":
            return _encode_numbers(y, outputs)
        labels = class_labels(y)
        if self.name == "logistic":
            _require_range(labels, 2, "the logistic loss has the two labels 0 and 1")
            if outputs != 1:
                raise UsageError(
                    f"the logistic loss needs a network with 1 output, but this one has {outputs}. "
                    "Give the last layer 1 output, or take the loss 'softmax_cross_entropy'."
                )
            return labels[:, None].astype(float)
        _require_range(labels, outputs, f"the network has {outputs} outputs, one for each class")
        return np.eye(outputs)[labels]

    def predict(self, u: Array) -> np.ndarray:
        """Predictions from the network's outputs: labels (classification) or the outputs themselves."""
        u = np.asarray(u.detach().cpu() if hasattr(u, "detach") else u)
        if self.name == "squared":
            return u
        return (u[:, 0] > 0).astype(int) if self.name == "logistic" else u.argmax(axis=1)


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("squared", activation("identity"), "regression"),
        Loss("logistic", activation("sigmoid"), "classification"),
        Loss("softmax_cross_entropy", activation("softmax"), "classification"),
    )
}


def find_loss(which: str | Loss) -> Loss:
    """The loss of a name.

    Raises
    ------
    UsageError
        If there is no such loss.
    """
    if isinstance(which, Loss):
        return which
    if which not in LOSSES:
        raise UsageError(f"unknown loss {which!r}; known: {', '.join(LOSSES)}.")
    return LOSSES[which]


def infer_task(y: Any) -> str:
    """``"classification"`` for integers, booleans and whole-number floats of few values, else ``"regression"``.

    Whole-number floats count as labels when they are 0, 1, ..., K-1, all present, with at most 100 classes.
    """
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        return "regression"
    if y.dtype.kind not in "fc":
        # Text is no label either, but what it lacks is a number for each class.
        return "classification"
    values = np.unique(y)
    consecutive = 2 <= len(values) <= 100 and np.array_equal(values, np.arange(len(values)))
    return "classification" if consecutive else "regression"


def choose_loss(task: str, outputs: int) -> Loss:
    """The usual loss of a task: squared; logistic for one output; softmax cross-entropy for several.

    Raises
    ------
    UsageError
        If the task is unknown.
    """
    if task not in ("classification", "regression"):
        raise UsageError(f"unknown task {task!r}; expected 'classification' or 'regression'.")
    if task == "regression":
        return LOSSES["squared"]
    return LOSSES["logistic" if outputs == 1 else "softmax_cross_entropy"]


def class_labels(y: np.ndarray) -> np.ndarray:
    """Labels as an integer vector.

    Raises
    ------
    UsageError
        If y is no vector of whole numbers.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise UsageError(
            f"the labels have shape {y.shape}; expected one integer label for each sample, shape (samples,)."
        )
    if y.dtype.kind not in "iubf":
        raise UsageError(
            f"the labels have type {y.dtype}; expected integers 0, 1, ..., K-1. Number the classes first, "
            "e.g. with sklearn.preprocessing.LabelEncoder."
        )
    wrong = y[~np.isfinite(y) | (y != np.floor(y))] if y.dtype.kind == "f" else y[:0]
    if len(wrong):
        raise UsageError(
            f"the labels are not whole numbers (seen {wrong[0]:g}); expected integers 0, 1, ..., K-1. "
            "For a real-valued target choose the task 'regression'."
        )
    return y.astype(np.int64)


def _require_range(labels: np.ndarray, classes: int, why: str) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise UsageError(
            f"the labels run from {labels.min()} to {labels.max()}; expected 0 to {classes - 1}, because {why}. "
            "Number the classes 0, 1, ..., K-1, or change the last layer of the network."
        )


def _encode_numbers(y: np.ndarray, outputs: int) -> np.ndarray:
    if y.dtype.kind not in "iubf":
        raise UsageError(f"the targets have type {y.dtype}; expected numbers.")
    if y.ndim not in (1, 2):
        raise UsageError(f"the targets have shape {y.shape}; expected (samples,) or (samples, outputs).")
    values = y.astype(float)[:, None] if y.ndim == 1 else y.astype(float)
    if not np.isfinite(values).all():
        raise UsageError("the targets hold NaN or infinite values; expected finite numbers: remove these samples.")
    if values.shape[1] != outputs:
        raise UsageError(
            f"the targets have {values.shape[1]} columns, but the network has {outputs} outputs; "
            "expected one column for each output."
        )
    return values
