"""Graph convolutional networks over a fixed graph: its normalized adjacency, and a network of graph convolutions.

Source: Kipf & Welling, "Semi-supervised classification with graph convolutional networks", ICLR 2017.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..formulations.activations import Activation
from ..formulations.errors import UsageError
from ..solvers.graph_convolution import GraphConvolution
from ..solvers.layered import activation_module

__all__ = ["GraphConvolution", "graph_network", "normalized_adjacency"]


def normalized_adjacency(edges: Any, nodes: int | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix A = D^-1/2 (E + I) D^-1/2 of a graph without directions, as a sparse tensor.

    E has a 1 for every edge, in both directions, however often and in whichever direction it is given; loops are
    ignored, because I adds one to each node. D is the diagonal of the row sums of E + I.

    Parameters
    ----------
    edges : array of int
        A list of pairs, shape (edges, 2), or two rows of nodes, shape (2, edges), as PyTorch Geometric's `edge_index`.
        Of shape (2, 2) the rows are pairs.
    nodes : int, optional
        Number of nodes; by default the largest node that has an edge, and 1.
    dtype : torch.dtype
        Type of the entries.

    Returns
    -------
    Tensor
        Shape (nodes, nodes), sparse (COO), coalesced.

    Raises
    ------
    UsageError
        If the edges are no pairs of nodes from 0 to nodes - 1.

    Examples
    --------
    >>> normalized_adjacency([[0, 1]], nodes=3).to_dense()
    tensor([[0.5000, 0.5000, 0.0000],
            [0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    pairs = np.asarray(edges.detach().cpu() if isinstance(edges, Tensor) else edges)
    if pairs.ndim != 2 or 2 not in pairs.shape or pairs.dtype.kind not in "iu":
        raise UsageError(
            f"the edges have shape {pairs.shape} and type {pairs.dtype}; expected whole numbers of shape (edges, 2) or "
            "(2, edges)."
        )
    pairs = (pairs if pairs.shape[1] == 2 else pairs.T).astype(np.int64)
    count = int(pairs.max(initial=-1)) + 1 if nodes is None else nodes
    if count < 1 or pairs.min(initial=0) < 0 or pairs.max(initial=-1) >= count:
        raise UsageError(
            f"the edges join nodes {pairs.min(initial=0)} to {pairs.max(initial=-1)} of {count}; expected nodes 0 to "
            f"{count - 1}: give the number of nodes."
        )
    distinct = pairs[pairs[:, 0] != pairs[:, 1]]
    loops = np.repeat(np.arange(count)[:, None], 2, axis=1)
    entries = np.unique(np.concatenate([distinct, distinct[:, ::-1], loops]), axis=0)
    degrees = np.bincount(entries[:, 0], minlength=count).astype(float)
    values = 1 / np.sqrt(degrees[entries[:, 0]] * degrees[entries[:, 1]])
    return torch.sparse_coo_tensor(
        torch.as_tensor(entries.T.copy()), torch.as_tensor(values, dtype=dtype), (count, count), check_invariants=True
    ).coalesce()


def graph_network(
    adjacency: Tensor, widths: tuple[int, ...], which: str | Activation = "relu", *, random_state: int,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:  # fmt: skip
    """A fresh network of graph convolutions, drawn from a seed without touching the global generator.

    Parameters
    ----------
    adjacency : Tensor
        The fixed matrix of all layers, e.g. of `normalized_adjacency`.
    widths : tuple of int
        Features of a node, hidden widths, outputs: three numbers make two layers.
    which : str or Activation
        Activation of every hidden layer.
    random_state : int
        Seed.
    dtype : torch.dtype
        Type of the weights.

    Raises
    ------
    UsageError
        If a width is below 1, or the adjacency or the activation cannot be used.

    Examples
    --------
    >>> graph_network(normalized_adjacency([[0, 1], [1, 2]]), (5, 16, 2), random_state=0)
    Sequential(
      (0): GraphConvolution(5, 16, nodes=3, bias=True)
      (1): ReLU()
      (2): GraphConvolution(16, 2, nodes=3, bias=True)
    )
    """
    if len(widths) < 2 or any(width < 1 for width in widths):
        raise UsageError(f"the widths are {widths}; expected two or more, of 1 feature or more each.")
    modules: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(random_state)
        for inputs, outputs in pairwise(widths):
            modules += [GraphConvolution(inputs, outputs, adjacency, dtype=dtype), activation_module(which)]
    return nn.Sequential(*modules[:-1])
