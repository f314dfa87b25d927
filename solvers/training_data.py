"""Training data, checked once: what `fit` accepts, and the loss that fits it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..formulations.errors import UsageError
from ..formulations.losses import Loss, choose_loss, class_labels, find_loss, infer_task
from .devices import finest

LARGEST_INPUT = 1e100


def _as_array(values: Any, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise UsageError(f"{name} is no array: {error}; expected rows of equal length.") from None


def check_inputs(X: Any, *, name: str = "X", features: int | None = None) -> np.ndarray:
    """Inputs as a float64 array of shape (samples, features).

    Raises
    ------
    UsageError
        If they are no finite numbers, empty, or of another number of features.
    """
    X = _as_array(X, name)
    if X.dtype.kind not in "iubf":
        raise UsageError(f"{name} has type {X.dtype}; expected numbers, one row for each sample.")
    if X.ndim != 2:
        raise UsageError(f"{name} has shape {X.shape}; expected (samples, features): reshape it to two axes.")
    if 0 in X.shape:
        raise UsageError(f"{name} is empty (shape {X.shape}); expected at least one sample and one feature.")
    X = X.astype(np.float64)
    wrong = np.argwhere(~np.isfinite(X))
    if len(wrong):
        row, column = wrong[0]
        raise UsageError(
            f"{name} holds {len(wrong)} values that are NaN or infinite, the first in row {row}, column {column}; "
            "expected finite numbers: remove these rows or fill the gaps (sklearn.impute.SimpleImputer)."
        )
    largest = float(np.max(np.abs(X)))
    if largest > LARGEST_INPUT:
        raise UsageError(
            f"{name} holds values up to {largest:.1e}, whose squares overflow; expected at most {LARGEST_INPUT:.0e}: "
            "scale the features (sklearn.preprocessing.StandardScaler)."
        )
    if features is not None and X.shape[1] != features:
        raise UsageError(
            f"{name} has {X.shape[1]} features, but the network reads {features}; change the first layer or the data."
        )
    return X


def check_targets(y: Any, samples: int, task: str, *, name: str = "y") -> np.ndarray:
    """Targets as an array with one row for each sample.

    Raises
    ------
    UsageError
        If the length differs, values are not finite, labels are no whole numbers, or there is only one class.
    """
    y = _as_array(y, name)
    if y.ndim == 0 or len(y) != samples:
        raise UsageError(
            f"X has {samples} samples, but {name} has {0 if y.ndim == 0 else len(y)} targets; expected one for each."
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise UsageError(
            f"{name} holds {int((~np.isfinite(y)).sum())} values that are NaN or infinite; remove these samples."
        )
    if task == "classification":
        y = class_labels(y)
        if name == "y" and len(np.unique(y)) < 2:
            raise UsageError(
                f"all {samples} labels are {y[0]}: there is only one class; expected at least two, 0, 1, ..., K-1."
            )
    return y


@dataclass(frozen=True)
class TrainingData:
    """Checked data on the network's device: inputs (samples, features), encoded targets, plain targets."""

    inputs: Tensor
    targets: Tensor
    plain: np.ndarray
    loss: Loss

    def score(self, output: Tensor) -> dict[str, float]:
        """Accuracy (classification) or mean squared error (regression) of network outputs on these data."""
        predicted = self.loss.predict(output.detach().cpu().numpy())
        if self.loss.task == "classification":
            return {"accuracy": float(np.mean(predicted == self.plain))}
        return {"error": float(np.mean((predicted - self.targets.cpu().numpy()) ** 2))}


def prepare(
    data: Any, widths: tuple[int, ...], device: torch.device, *, loss: str | Loss | None, task: str | None
) -> TrainingData:
    """Check a pair (X, y), choose the loss, and move both to the device.

    Raises
    ------
    UsageError
        If the data do not fit the network or the loss.
    """
    X, y = _pair(data)
    X = check_inputs(X, features=widths[0])
    chosen = find_loss(loss) if loss is not None else choose_loss(task or infer_task(_as_array(y, "y")), widths[-1])
    if task is not None and chosen.task != task:
        raise UsageError(f"the loss {chosen.name!r} is for {chosen.task}, but the task is {task!r}; drop one of them.")
    y = check_targets(y, len(X), chosen.task)
    return _encode(X, y, chosen, widths[-1], device)


def prepare_validation(data: Any, widths: tuple[int, ...], device: torch.device, loss: Loss) -> TrainingData:
    """Check a pair (X, y) of test data for a loss that is known.

    Raises
    ------
    UsageError
        If the data do not fit the network or the loss.
    """
    X, y = _pair(data)
    X = check_inputs(X, name="the test X", features=widths[0])
    return _encode(X, check_targets(y, len(X), loss.task, name="the test y"), loss, widths[-1], device)


def _pair(data: Any) -> tuple[Any, Any]:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UsageError(f"the data are a {type(data).__name__}; expected a pair (X, y).")
    return data[0], data[1]


def _encode(X: np.ndarray, y: np.ndarray, loss: Loss, outputs: int, device: torch.device) -> TrainingData:
    targets = loss.encode(y, outputs)
    inputs, encoded = (torch.as_tensor(array, dtype=finest(device), device=device) for array in (X, targets))
    return TrainingData(inputs, encoded, y, loss)
