"""Graph convolutional networks over a fixed graph; its normalized adjacency is made in graph_data.py.

Source: Kipf & Welling, "Semi-supervised classification with graph convolutional networks", ICLR 2017.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..formulations.activations import Activation
from ..formulations.errors import UsageError
from ..solvers.graph_convolution import GraphConvolution
from ..solvers.layered import activation_module

__all__ = ["GraphConvolution", "graph_network"]


def graph_network(
    adjacency: Any, widths: tuple[int, ...], which: str | Activation = "relu", *, random_state: int,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:  # fmt: skip
    """A fresh network of graph convolutions, drawn from a seed without touching the global generator.

    Parameters
    ----------
    adjacency : matrix, shape (nodes, nodes)
        The fixed matrix of all layers, of torch, scipy or numpy, dense or sparse; e.g. of `normalized_adjacency`.
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
    >>> from convexblocks.networks import normalized_adjacency
    >>> graph_network(normalized_adjacency([[0, 1], [1, 2]], 3), (5, 16, 2), random_state=0)
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
