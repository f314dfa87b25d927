"""The nodes of one graph as a data set: every node has features, those of the public split have labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..formulations.errors import UsageError
from .data_files import find_in_folder
from .datasets import GRAPHS, Arrays, Dataset, file_notes
from .graph_data import load_graph

UNLABELLED = -1


def load_nodes(which: str, *, data_dir: str | Path | None = None, split: bool = True) -> Dataset:
    """Load a graph for networks that read all of it, such as `graph_network`.

    Parameters
    ----------
    which : str
        Name of a data set that is a graph, e.g. ``"cora"``.
    data_dir : path, optional
        As for `load_graph`.
    split : bool
        Whether there is a test part: the test nodes of the public split.

    Returns
    -------
    Dataset
        X_train and X_test are the same: the raw features (nodes, features) of all nodes. y_train and y_test have a
        label for the nodes of their part, and -1 for the others, which are in no loss.

    Raises
    ------
    UsageError
        If the data are no graph, or there is no such file.
    """
    if which not in GRAPHS:
        raise UsageError(
            f"the data {which!r} are no graph, which a graph network reads; expected one of {', '.join(GRAPHS)}: "
            "choose such data, or --network dense."
        )
    graph, path = load_graph(which, data_dir), find_in_folder(which, data_dir)
    X = graph.features.toarray()
    parts = graph.train_mask, graph.test_mask
    y_train, y_test = (np.where(mask, graph.labels, UNLABELLED) for mask in parts)
    source = {
        "name": which, **file_notes(path), "split": "the data's own", "features": "raw",
        "arguments": {"which": which, "data_dir": str(path.resolve().parent), "split": split},
    }  # fmt: skip
    tested = (X, y_test) if split else (None, None)
    return Dataset(which, X, y_train, tested[0], tested[1], "classification", None, source)


def labelled(part: Arrays) -> Arrays:
    """The samples of a part that have a class: all but the other nodes of a graph."""
    X, y = part
    known = y >= 0
    return X[known], y[known]
