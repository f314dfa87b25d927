"""Data sets: what ships with scikit-learn, what is read from a folder, and files of the user's. Nothing is downloaded.

Features are scaled by numbers that are kept, so that a run can apply them to new inputs: (X - shift) / scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from ..formulations.errors import UsageError
from ..formulations.losses import infer_task
from ..solvers.training_data import check_inputs, check_targets
from .data_files import find_in_folder, read_file, read_image_file
from .graph_data import augmented_features, load_graph

BUILT_IN: dict[str, str] = {
    "digits": "1797 pictures of digits, 8 x 8 pixels, 10 classes",
    "iris": "150 flowers, 4 features, 3 classes",
    "wine": "178 wines, 13 features, 3 classes",
    "breast_cancer": "569 tumours, 30 features, 2 classes",
    "diabetes": "442 patients, 10 features, regression",
}
"""Data sets that ship with scikit-learn: name -> what they are."""

FROM_FOLDER: dict[str, str] = {
    "mnist": "70000 pictures of digits, 28 x 28 pixels, 10 classes",
    "fashion_mnist": "70000 pictures of clothes, 28 x 28 pixels, 10 classes",
    "cora": "1140 papers (140 for training), 7165 features: words of 1433, smoothed over 0 to 4 citations, 7 classes",
}
"""Data sets that are read from a folder of npz files: name -> what they are."""

GRAPHS = ("cora",)
TEST_FRACTION = 0.2
LARGEST_PIXEL = {"digits": 16.0, "mnist": 255.0, "fashion_mnist": 255.0}

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """Checked data, ready for training.

    Attributes
    ----------
    name : str
        Name, or the file's name.
    X_train, y_train : array
        Training part: scaled features (samples, features), and labels or real targets.
    X_test, y_test : array or None
        Test part, scaled like the training part.
    task : str
        ``"classification"`` or ``"regression"``.
    scaling : dict or None
        ``shift`` and ``scale`` of every feature: the network sees (X - shift) / scale. None where features are raw.
    source : dict
        JSON notes: where the data come from, their SHA-256, how they were split and scaled, and the `arguments` with
        which `load_dataset` gives them again.
    """

    name: str
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray | None
    y_test: np.ndarray | None
    task: str
    scaling: dict[str, list[float]] | None
    source: dict[str, Any]

    @property
    def train(self) -> Arrays:
        """The training part as a pair."""
        return self.X_train, self.y_train

    @property
    def test(self) -> Arrays | None:
        """The test part as a pair, where there is one."""
        return None if self.X_test is None or self.y_test is None else (self.X_test, self.y_test)

    @property
    def sizes(self) -> tuple[int, int]:
        """Samples of the training and of the test part; of a graph, the nodes that have a label there."""
        parts = (self.y_train, np.zeros(0) if self.y_test is None else self.y_test)
        known = [y >= 0 if self.task == "classification" else np.ones(len(y), dtype=bool) for y in parts]
        return int(known[0].sum()), int(known[1].sum())

    @property
    def outputs(self) -> int:
        """Outputs that a network for these data needs: classes, or columns of y."""
        if self.task == "classification":
            # Nodes of a graph that are in no loss have the label -1.
            return len(np.unique(self.y_train[self.y_train >= 0]))
        return 1 if self.y_train.ndim == 1 else int(self.y_train.shape[1])


def load_dataset(
    which: str | Path,
    *,
    data_dir: str | Path | None = None,
    random_state: int = 0,
    task: str | None = None,
    split: bool = True,
    standardize: bool = True,
) -> Dataset:
    """Load a data set by name or from a file, split and scaled.

    Parameters
    ----------
    which : str or path
        A name of `BUILT_IN` or `FROM_FOLDER`; or an .npz file with X and y (and X_test and y_test, if it has a test
        part of its own); or a .csv file with a header and the target last.
    data_dir : path, optional
        Folder of the data sets of `FROM_FOLDER`; by default the environment variable ``CONVEXBLOCKS_DATA`` names it.
    random_state : int
        Seed of the split.
    task : {"classification", "regression"}, optional
        By default inferred from y.
    split : bool
        Whether data without a test part of their own give up a random fifth of their samples to one (with equal shares
        of the classes). Otherwise there is no test part.
    standardize : bool
        Whether features are scaled: pixels to [0, 1], other features to mean 0 and variance 1 over the training part;
        the augmented features of a graph (see graph_data.py) never.

    Returns
    -------
    Dataset
        Regression targets are left as they are.

    Raises
    ------
    UsageError
        If there is no such data set or file, or it holds something else than finite numbers and whole labels.

    Examples
    --------
    >>> load_dataset("iris").X_train.shape
    (120, 4)
    """
    name, train, test, source = _read(str(which), data_dir)
    source["arguments"] = {
        "which": which if which in BUILT_IN or which in FROM_FOLDER else str(Path(which).resolve()),
        "data_dir": str(Path(source["from"]).resolve().parent) if which in FROM_FOLDER else None,
        "random_state": random_state, "task": task, "split": split, "standardize": standardize,
    }  # fmt: skip
    task = task or infer_task(train[1])
    if task not in ("classification", "regression"):
        raise UsageError(f"unknown task {task!r}; expected 'classification' or 'regression'.")
    train = _checked(train, task)
    if test is not None:
        test = _checked(test, task, which="the test ", features=train[0].shape[1])
        source["split"] = "the data's own"
    elif split:
        train, test = _split(train, task, random_state)
        source["split"] = {
            "test_fraction": TEST_FRACTION, "random_state": random_state, "stratified": task == "classification",
        }  # fmt: skip
    else:
        source["split"] = "none: all samples are for training"
    # Augmented features of a graph stay as they are: counts of words, mostly zeros.
    scaling = _scaling(name, train[0]) if standardize and which not in GRAPHS else None
    source["features"] = "raw" if scaling is None else _scaling_in_words(name)
    if scaling is not None:
        train = (_scaled(train[0], scaling), train[1])
        test = None if test is None else (_scaled(test[0], scaling), test[1])
    X_test, y_test = (None, None) if test is None else test
    return Dataset(name, *train, X_test, y_test, task, scaling, source)


def _read(which: str, data_dir: str | Path | None) -> tuple[str, Arrays, Arrays | None, dict[str, Any]]:
    """Name, training part, the data's own test part, and notes on where they come from."""
    if which in BUILT_IN:
        load: Callable[..., Any] = getattr(sklearn.datasets, f"load_{which}")
        return which, load(return_X_y=True), None, {"name": which, "from": "scikit-learn"}
    if which in FROM_FOLDER:
        path = find_in_folder(which, data_dir)
        train, test = _read_graph(which, data_dir) if which in GRAPHS else read_image_file(path)
        return which, train, test, {"name": which, **file_notes(path)}
    path = Path(which)
    if path.suffix.lower() not in (".npz", ".csv"):
        raise UsageError(
            f"unknown data set {which!r}; known: {', '.join([*BUILT_IN, *FROM_FOLDER])}; "
            "or give the path of an .npz file (arrays X and y) or a .csv file (a header, the target last)."
        )
    train, own_test = read_file(path)
    return path.stem, train, own_test, {"name": path.stem, **file_notes(path)}


def _read_graph(name: str, data_dir: str | Path | None) -> tuple[Arrays, Arrays]:
    """Training and test nodes of the public split, each a row of its augmented features; the others are left out."""
    graph = load_graph(name, data_dir)
    features = augmented_features(graph)
    train, test = ((features[mask], graph.labels[mask]) for mask in (graph.train_mask, graph.test_mask))
    return train, test


def file_notes(path: Path) -> dict[str, Any]:
    """Where a file is, and its SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"from": str(path), "sha256": digest}


def _checked(part: Arrays, task: str, *, which: str = "", features: int | None = None) -> Arrays:
    X = check_inputs(part[0], name=f"{which}X")
    if features is not None and X.shape[1] != features:
        raise UsageError(f"{which}X has {X.shape[1]} features, but X has {features}; give both the same features.")
    y = check_targets(part[1], len(X), task, name=f"{which}y")
    if y.dtype.kind not in "iubf":
        raise UsageError(f"{which}y has type {y.dtype}; expected numbers.")
    if task == "classification" and not which:
        _check_labels(y)
    return X, y


def _check_labels(y: np.ndarray) -> None:
    seen = np.unique(y)
    if not np.array_equal(seen, np.arange(len(seen))):
        some = ", ".join(map(str, seen[:5])) + (", ..." if len(seen) > 5 else "")
        wanted = ", ".join(map(str, range(len(seen)))) if len(seen) <= 3 else f"0, 1, ..., {len(seen) - 1}"
        raise UsageError(
            f"there are {len(seen)} different labels, {some}; expected {wanted}. Number the "
            "classes 0, 1, ..., K-1; or, if these are amounts and no classes, choose the task 'regression' "
            "(--task regression)."
        )


def _split(data: Arrays, task: str, random_state: int) -> tuple[Arrays, Arrays]:
    X, y = data
    stratify = y if task == "classification" else None
    try:
        parts = train_test_split(X, y, test_size=TEST_FRACTION, random_state=random_state, stratify=stratify)
    except ValueError as error:
        raise UsageError(
            f"the {len(X)} samples cannot be split into a training and a test part ({error}). Give more samples, a "
            "test part of your own (X_test and y_test in an .npz file), or train on all of them (--no-split)."
        ) from None
    X_train, X_test, y_train, y_test = parts
    return (X_train, y_train), (X_test, y_test)


def _scaling(name: str, X: np.ndarray) -> dict[str, list[float]]:
    if name in LARGEST_PIXEL:
        features = X.shape[1]
        return {"shift": [0.0] * features, "scale": [LARGEST_PIXEL[name]] * features}
    # The scaler gives a constant feature the scale 1.
    scaler = StandardScaler().fit(X)
    return {"shift": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}


def _scaling_in_words(name: str) -> str:
    if name in LARGEST_PIXEL:
        return f"divided by {LARGEST_PIXEL[name]:g}"
    return "standardized: mean 0 and variance 1 over the training part"


def _scaled(X: np.ndarray, scaling: dict[str, list[float]]) -> np.ndarray:
    return (X - np.asarray(scaling["shift"])) / np.asarray(scaling["scale"])
