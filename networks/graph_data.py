"""Graphs with features on their nodes: reading them, the normalized adjacency, and features smoothed along edges.

With H the features (nodes as rows), A the adjacency of the undirected graph, D the degrees of A + I, and

    P = D^{-1/2} (A + I) D^{-1/2}      (symmetric, of norm 1),

the features of graph-augmented networks (GA-MLP) are [P^K H, ..., P H, H]: an ordinary dense network on them sees the
K-hop neighbourhood of every node. The released code of mDLAM adds the identity a second time, P + I in the place of P,
which weighs near nodes more.

Source: Chen, Chen & Ming, "Graph-augmented MLPs" (arXiv 2010.15116); Kipf & Welling, ICLR 2017, for P.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..formulations.errors import UsageError
from ..formulations.subproblem import require_count, require_size
from .data_files import find_in_folder, read_arrays, require_arrays

MASKS = ("train_mask", "val_mask", "test_mask")
NEEDED = ("feat_data", "feat_indices", "feat_indptr", "feat_shape", "edges", "labels", *MASKS)


@dataclass(frozen=True)
class Graph:
    """A graph whose nodes have features and classes, with a public split.

    Attributes
    ----------
    name : str
        Name of the data set.
    features : scipy.sparse.csr_array, shape (nodes, features)
        Features of the nodes, float64, as in the file.
    edges : array, shape (2, edges)
        Ends of the edges; see `normalized_adjacency` for what is accepted.
    labels : array, shape (nodes,)
        Classes 0, 1, ...
    train_mask, val_mask, test_mask : arrays of bool, shape (nodes,)
        The split: nodes of no mask are seen only through their features and edges.
    """

    name: str
    features: sp.csr_array
    edges: np.ndarray
    labels: np.ndarray
    train_mask: np.ndarray
    val_mask: np.ndarray
    test_mask: np.ndarray

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return int(self.features.shape[0])


def load_graph(name: str, data_dir: str | Path | None = None) -> Graph:
    """Read a graph from a folder of npz files; no pickle is read.

    Parameters
    ----------
    name : str
        E.g. ``"cora"``: the file is NAME.npz.
    data_dir : path, optional
        The folder; by default the environment variable ``CONVEXBLOCKS_DATA`` names it.

    Raises
    ------
    UsageError
        If there is no such file, or it holds something else: an array is missing, or their shapes do not fit.
    """
    path = find_in_folder(name, data_dir)
    arrays = read_arrays(path)
    require_arrays(path, arrays, NEEDED)
    nodes, width = (int(size) for size in arrays["feat_shape"])
    columns, data = arrays["feat_indices"], arrays["feat_data"].astype(float)
    try:
        features = sp.csr_array((data, columns, arrays["feat_indptr"]), shape=(nodes, width))
        features.check_format(full_check=True)
    except ValueError as error:
        raise UsageError(
            f"the features in {str(path)!r} are no sparse matrix of {nodes} x {width} ({error}); expected the arrays "
            "of a scipy csr_array: feat_data, feat_indices, feat_indptr, feat_shape."
        ) from None
    for array in ("labels", *MASKS):
        if arrays[array].shape != (nodes,):
            raise UsageError(
                f"{array} in {str(path)!r} has shape {arrays[array].shape}; expected {(nodes,)}: one for each node."
            )
    _check_edges(arrays["edges"], nodes)
    train, validation, test = (arrays[mask].astype(bool) for mask in MASKS)
    return Graph(name, features, arrays["edges"], arrays["labels"].astype(np.int64), train, validation, test)


def normalized_adjacency(edges: Any, nodes: int) -> sp.csr_array:
    """P = D^{-1/2} (A + I) D^{-1/2} of an undirected graph; every node has exactly one self-loop in A + I.

    Parameters
    ----------
    edges : array of integers, shape (2, edges)
        Ends of the edges, each edge once in any direction (as in the Planetoid files) or in both (``edge_index`` of
        PyTorch Geometric). Repeated edges count once, and self-loops of the data are dropped.
    nodes : int
        Number of nodes.

    Returns
    -------
    scipy.sparse.csr_array, shape (nodes, nodes)
        Symmetric.

    Raises
    ------
    UsageError
        If the edges have another shape or type, or name a node that is not there.

    Examples
    --------
    >>> normalized_adjacency([[0], [1]], 3).toarray()
    array([[0.5, 0.5, 0. ],
           [0.5, 0.5, 0. ],
           [0. , 0. , 1. ]])
    """
    require_size(nodes=nodes)
    ends = np.asarray(edges)
    _check_edges(ends, nodes)
    first, second = ends[:, ends[0] != ends[1]].astype(np.int64)
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    loops = sp.eye_array(nodes, format="csr")
    joined = sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(nodes, nodes)) + loops
    # Repeated edges were summed.
    joined.data[:] = 1.0
    scale = sp.diags_array(1 / np.sqrt(joined.sum(axis=1)))
    return sp.csr_array(scale @ joined @ scale)


def augmented_features(graph: Graph, hops: int = 4, *, extra_self_loop: bool = True) -> np.ndarray:
    """[P^hops H, ..., P H, H]: the features and their means over ever larger neighbourhoods.

    Parameters
    ----------
    graph : Graph
        The graph, with features H.
    hops : int
        Largest power of P.
    extra_self_loop : bool
        Whether P + I takes the place of P, as in the released code of mDLAM.

    Returns
    -------
    array, shape (nodes, (hops + 1) * features)
        float64.

    Raises
    ------
    UsageError
        If `hops` is no whole number, 0 or more.
    """
    require_count(hops=hops)
    smooth = normalized_adjacency(graph.edges, graph.nodes)
    if extra_self_loop:
        smooth = smooth + sp.eye_array(graph.nodes, format="csr")
    powers = [graph.features]
    for _ in range(hops):
        powers.append(smooth @ powers[-1])
    return np.hstack([power.toarray() for power in reversed(powers)])


def _check_edges(edges: np.ndarray, nodes: int) -> None:
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "iu":
        raise UsageError(
            f"the edges have shape {edges.shape} and type {edges.dtype}; expected whole numbers of shape (2, edges): "
            "one column with both ends for each edge."
        )
    if edges.size and not 0 <= int(edges.min()) <= int(edges.max()) < nodes:
        raise UsageError(
            f"the edges name the nodes {edges.min()} to {edges.max()}; expected 0 to {nodes - 1}, its nodes."
        )
