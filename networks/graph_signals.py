"""Many samples on one graph: every node of a fixed graph has features and a label in every sample.

The solar experiment of Xu, Cheng & Xie (arXiv 2202.08876): at sites (nodes) it was recorded for every day whether the
solar radiation ramped abnormally. A sample is a day: features of a site are its labels of the last days, and each
site's label of the day is to be predicted. The year 2017 is for training, 2018 for testing. Sites are joined whose
labels agree on the most training days: each names its nearest ones, itself included, and an edge is kept where both
ends name each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..formulations.errors import UsageError
from ..formulations.subproblem import require_size
from .data_files import find_in_folder, read_arrays, require_arrays

SOLAR_FILE = "solar_ramping"
REGIONS = ("ca", "la")
TRAINING_YEAR, TEST_YEAR = 2017, 2018


@dataclass(frozen=True)
class GraphSignals:
    """Samples of features and labels on the nodes of one graph, as graph networks read them.

    Attributes
    ----------
    name : str
        Name of the data.
    edges : array, shape (2, edges)
        Ends of the edges, each edge once, without self-loops; see `normalized_adjacency`.
    X_train, X_test : arrays, shape (samples, nodes, features)
        Features.
    y_train, y_test : arrays, shape (samples, nodes)
        Labels 0, 1, ...
    """

    name: str
    edges: np.ndarray
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return int(self.X_train.shape[1])


def load_solar(
    region: str = "ca", data_dir: str | Path | None = None, *, days: int = 5, neighbours: int = 4
) -> GraphSignals:
    """Read the solar ramping data.

    Parameters
    ----------
    region : {"ca", "la"}
        California (10 sites) or Los Angeles (9 sites).
    data_dir : path, optional
        Folder of solar_ramping.npz; by default the environment variable ``CONVEXBLOCKS_DATA`` names it.
    days : int
        Days before a day whose labels are its features, the latest last.
    neighbours : int
        Sites that a site names as nearest, itself included.

    Raises
    ------
    UsageError
        If there is no such file or region, or the file holds something else.
    """
    require_size(days=days, neighbours=neighbours)
    if region not in REGIONS:
        raise UsageError(f"the region is {region!r}; expected one of {', '.join(map(repr, REGIONS))}.")
    path = find_in_folder(SOLAR_FILE, data_dir)
    names = tuple(f"{region}_{year}" for year in (TRAINING_YEAR, TEST_YEAR))
    arrays = read_arrays(path)
    require_arrays(path, arrays, names)
    train, test = (arrays[name] for name in names)
    if train.ndim != 2 or train.shape[1:] != test.shape[1:] or min(len(train), len(test)) <= days:
        raise UsageError(
            f"{', '.join(names)} in {str(path)!r} have shapes {train.shape} and {test.shape}; expected (days, sites), "
            f"with the same sites and more than {days} days."
        )
    for name, part in zip(names, (train, test), strict=True):
        if not np.isin(part, (0, 1)).all():
            raise UsageError(
                f"{name} in {str(path)!r} holds {part[~np.isin(part, (0, 1))][0]:g}; expected labels 0 and 1 alone."
            )
    # The first days of the test year have the end of the training year before them.
    windows = (*_windows(train, days), *_windows(np.concatenate([train[-days:], test]), days))
    return GraphSignals(f"solar_{region}", agreeing_pairs(windows[1], neighbours), *windows)


def agreeing_pairs(labels: np.ndarray, neighbours: int) -> np.ndarray:
    """Edges between nodes that name each other among the nodes with the most equal labels.

    Parameters
    ----------
    labels : array, shape (samples, nodes)
        Labels.
    neighbours : int
        Nodes that each one names, itself included; of equally near ones the first.

    Returns
    -------
    array, shape (2, edges)
        Each edge once, the lower node first; without self-loops.

    Examples
    --------
    >>> agreeing_pairs(np.array([[0, 0, 1], [1, 1, 0], [1, 1, 1]]), 2)
    array([[0],
           [1]])
    """
    agreement = (labels[:, :, None] == labels[:, None, :]).sum(0)
    np.fill_diagonal(agreement, len(labels) + 1)
    order = np.argsort(-agreement, axis=1, kind="stable")[:, :neighbours]
    named = np.zeros(agreement.shape, dtype=bool)
    np.put_along_axis(named, order, True, axis=1)
    return np.stack(np.triu(named & named.T, 1).nonzero())


def _windows(labels: np.ndarray, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (samples, nodes, days) and labels (samples, nodes) of the days that have so many before them."""
    windows = np.lib.stride_tricks.sliding_window_view(labels, days, axis=0)[:-1]
    return windows.astype(float), labels[days:].astype(np.int64)
