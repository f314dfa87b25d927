"""What `certify` and `check` share: a data set as the bounds want it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..formulations.errors import UsageError


@dataclass(frozen=True)
class Prepared:
    """Prepared data: X, y, the loss, whether X has a bias "column" or "none", and in words how they were made.

    `outputs` is the number of classes or of columns of y where there are several, else None.
    """

    X: np.ndarray
    y: np.ndarray
    loss: str
    bias: str
    words: str
    outputs: int | None = None


def load_prepared(
    data: str,
    *,
    classes: str | None = None,
    samples: int | None = None,
    components: int | None = None,
    bias: bool = True,
    loss: str | None = None,
    data_dir: Path | None = None,
) -> Prepared:
    """Load all samples of a data set, pick classes and samples, and prepare them.

    Raises
    ------
    UsageError
        If the data cannot be read, or classes, samples or the loss do not fit them.
    """
    from ..certificates.problem import prepare
    from ..networks.datasets import load_dataset

    dataset = load_dataset(data, data_dir=data_dir, split=False, standardize=False)
    X, y = dataset.train
    said = [f"{dataset.name}"]
    if y.ndim > 1 and y.shape[1] == 1:
        y = y[:, 0]
    if classes is not None:
        if y.ndim > 1:
            raise UsageError(f"y has {y.shape[1]} columns and hence no classes; leave --classes out.")
        wanted = _classes(classes, y)
        X, y = X[np.isin(y, wanted)], y[np.isin(y, wanted)]
        said.append(f"classes {wanted[0]} and {wanted[1]}")
    count = len(np.unique(y))
    if loss is None:
        loss = "squared" if dataset.task != "classification" else "logistic" if count == 2 else "softmax"
    if samples is not None:
        if not 2 <= samples <= len(y):
            raise UsageError(f"--samples is {samples}; expected 2 to {len(y)}, which the data have.")
        X, y = X[:samples], y[:samples]
        said.append(f"the first {samples} samples")
    if loss == "logistic" and len(np.unique(y)) != 2:
        raise UsageError(
            f"{dataset.name} has {len(np.unique(y))} classes, and the logistic loss takes two: choose two, "
            "--classes 3,8, or take --loss softmax."
        )
    if loss == "squared" and dataset.task == "classification" and count > 2:
        labels = np.unique(y)
        y = (y[:, None] == labels).astype(float)
        said.append(f"a column of y for each of the {len(labels)} classes, 1 where a sample is of it, else 0")
    X, y, words = prepare(X, y, loss, components=components, bias=bias)
    outputs = len(np.unique(y)) if loss == "softmax" else y.shape[1] if y.ndim > 1 else None
    return Prepared(X, y, loss, "column" if bias else "none", f"{', '.join(said)}; {words}", outputs)


def _classes(text: str, y: np.ndarray) -> tuple[int, int]:
    try:
        first, second = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--classes is {text!r}; expected two labels, such as 3,8.") from None
    known = np.unique(y)
    if first == second or not np.isin([first, second], known).all():
        some = ", ".join(f"{label:g}" for label in known[:10])
        raise UsageError(f"--classes is {text!r}; expected two different ones of {some}.")
    return first, second
