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


def check_inputs(
    X: Any, *, name: str = "X", features: int | None = None, shape: tuple[int | None, ...] | None = None
) -> np.ndarray:
    """Inputs as a float64 array of shape (samples, features), or (samples, *shape) where a shape is given.

    Raises
    ------
    UsageError
        If they are no finite numbers, empty, or of another number of features.
    """
    X = _as_array(X, name)
    if X.dtype.kind not in "iubf":
        raise UsageError(f"{name} has type {X.dtype}; expected numbers, one row for each sample.")
    if shape is not None and len(shape) > 1:
        _check_shape(X, shape, name)
    elif X.ndim != 2:
        raise UsageError(f"{name} has shape {X.shape}; expected (samples, features): reshape it to two axes.")
    if 0 in X.shape:
        raise UsageError(f"{name} is empty (shape {X.shape}); expected at least one sample and one feature.")
    X = X.astype(np.float64)
    wrong = np.argwhere(~np.isfinite(X))
    if len(wrong):
        row, column = wrong[0][0], ", ".join(map(str, wrong[0][1:]))
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
    if features is not None and X.ndim == 2 and X.shape[1] != features:
        raise UsageError(
            f"{name} has {X.shape[1]} features, but the network reads {features}; change the first layer or the data."
        )
    return X


def _check_shape(X: np.ndarray, shape: tuple[int | None, ...], name: str) -> None:
    """Compare the axes behind the first with those of a sample; None fits any size."""
    fits = X.ndim == 1 + len(shape) and all(want in (None, seen) for want, seen in zip(shape, X.shape[1:], strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UsageError(
            f"{name} has shape {X.shape}; expected (samples, {wanted}), what the first layer reads: reshape it."
        )


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
    """Checked data on the network's device.

    Attributes
    ----------
    inputs : Tensor
        Shape (samples, features), (samples, channels, height, width) or (graphs, nodes, features).
    targets : Tensor
        Encoded targets, shape (samples, outputs) or (graphs, nodes, outputs).
    plain : array
        Targets as they came.
    loss : Loss
        The training loss.
    labelled : Tensor or None
        For graphs, which nodes are in the loss: shape (graphs, nodes). Their number is that of the samples.
    """

    inputs: Tensor
    targets: Tensor
    plain: np.ndarray
    loss: Loss
    labelled: Tensor | None = None

    @property
    def samples(self) -> int:
        """Terms of the loss: rows of the data, or nodes with a label."""
        return len(self.inputs) if self.labelled is None else int(self.labelled.sum())

    def in_loss(self, values: Tensor) -> Tensor:
        """Rows of an array (outputs, targets) that are in the loss, shape (samples, ...)."""
        return values if self.labelled is None else values[self.labelled]

    def score(self, output: Tensor) -> dict[str, float]:
        """Accuracy (classification) or mean squared error (regression) of network outputs on these data."""
        predicted = self.loss.predict(self.in_loss(output).detach().cpu().numpy())
        if self.loss.task == "classification":
            plain = self.plain if self.labelled is None else self.plain[self.labelled.cpu().numpy()]
            return {"accuracy": float(np.mean(predicted == plain))}
        # Of a sweep that diverged, and will be undone, the squares overflow.
        with np.errstate(over="ignore"):
            return {"error": float(np.mean((predicted - self.in_loss(self.targets).cpu().numpy()) ** 2))}


def prepare(
    data: Any, widths: tuple[int, ...], device: torch.device, *, loss: str | Loss | None, task: str | None,
    shape: tuple[int | None, ...] | None = None,
) -> TrainingData:  # fmt: skip
    """Check a pair (X, y), choose the loss, and move both to the device.

    Where a sample has a shape of two axes, it is a graph: X (nodes, features) or (graphs, nodes, features), and y
    (nodes,) or (graphs, nodes) with a label for each node, or -1 (targets: NaN) for nodes that are not in the loss.

    Raises
    ------
    UsageError
        If the data do not fit the network or the loss.
    """
    X, y = _pair(data)
    if shape is not None and len(shape) == 2:
        return prepare_graphs((X, y), widths, device, loss=loss, task=task, shape=shape)
    X = check_inputs(X, features=widths[0], shape=shape)
    chosen = _choose_loss(loss, task, _as_array(y, "y"), widths[-1])
    y = check_targets(y, len(X), chosen.task)
    return _encode(X, y, chosen, widths[-1], device)


def prepare_validation(
    data: Any, widths: tuple[int, ...], device: torch.device, loss: Loss,
    *, shape: tuple[int | None, ...] | None = None,
) -> TrainingData:  # fmt: skip
    """Check a pair (X, y) of test data for a loss that is known; see `prepare`.

    Raises
    ------
    UsageError
        If the data do not fit the network or the loss.
    """
    X, y = _pair(data)
    if shape is not None and len(shape) == 2:
        return prepare_graphs((X, y), widths, device, loss=loss, task=None, shape=shape, prefix="the test ")
    X = check_inputs(X, name="the test X", features=widths[0], shape=shape)
    return _encode(X, check_targets(y, len(X), loss.task, name="the test y"), loss, widths[-1], device)


def prepare_graphs(
    data: tuple[Any, Any], widths: tuple[int, ...], device: torch.device, *, loss: str | Loss | None,
    task: str | None, shape: tuple[int | None, ...], prefix: str = "",
) -> TrainingData:  # fmt: skip
    """Check features and targets of the nodes of one graph, or of several with the same edges.

    Raises
    ------
    UsageError
        If the data do not fit the network or the loss, or no node is in the loss.
    """
    X, y = _as_array(data[0], f"{prefix}X"), _as_array(data[1], f"{prefix}y")
    if X.ndim == len(shape):
        X, y = X[None], y[None]
    X = check_inputs(X, name=f"{prefix}X", shape=shape)
    if y.shape[:2] != X.shape[:2]:
        raise UsageError(
            f"{prefix}X has {X.shape[1]} nodes in {len(X)} graphs, but {prefix}y has shape {y.shape}; expected one "
            "target for each node, and -1 (a label) or NaN (a number) for nodes that are not in the loss."
        )
    # Labels are whole numbers, and -1 none; a real target is missing where it is NaN.
    known = y >= 0 if y.dtype.kind in "iu" else np.isfinite(y.reshape(*y.shape[:2], -1)).all(-1)
    if not known.any():
        raise UsageError(f"{prefix}y has no node with a target; expected at least one that is not -1 or NaN.")
    chosen = _choose_loss(loss, task, y[known], widths[-1])
    rows = check_targets(y[known], int(known.sum()), chosen.task, name=f"{prefix}y")
    targets = np.full((*known.shape, widths[-1]), np.nan)
    targets[known] = chosen.encode(rows, widths[-1])
    return TrainingData(
        torch.as_tensor(X, device=device), torch.as_tensor(targets, device=device), y, chosen,
        torch.as_tensor(known, device=device),
    )  # fmt: skip


def _choose_loss(loss: str | Loss | None, task: str | None, y: np.ndarray, outputs: int) -> Loss:
    chosen = find_loss(loss) if loss is not None else choose_loss(task or infer_task(y), outputs)
    if task is not None and chosen.task != task:
        raise UsageError(f"the loss {chosen.name!r} is for {chosen.task}, but the task is {task!r}; drop one of them.")
    return chosen


def _pair(data: Any) -> tuple[Any, Any]:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UsageError(f"the data are a {type(data).__name__}; expected a pair (X, y).")
    return data[0], data[1]


def _encode(X: np.ndarray, y: np.ndarray, loss: Loss, outputs: int, device: torch.device) -> TrainingData:
    targets = loss.encode(y, outputs)
    inputs, encoded = (torch.as_tensor(array, dtype=finest(device), device=device) for array in (X, targets))
    return TrainingData(inputs, encoded, y, loss)
