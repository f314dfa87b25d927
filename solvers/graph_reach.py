"""The part of a graph that a loss depends on: nodes with targets, their neighbours, and so on down the layers.

Rows of nodes that no target depends on have no slopes, and do not belong to the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from .linear_maps import GraphMap, LinearMap


def restrict(
    maps: Sequence[LinearMap], inputs: Tensor, targets: Tensor, labelled: Tensor
) -> tuple[list[LinearMap], Tensor, Tensor]:
    """Leave out the nodes that the loss does not depend on.

    Parameters
    ----------
    maps : sequence of LinearMap
        Of a network for graphs.
    inputs, targets : Tensor
        Shapes (graphs, nodes, features) and (graphs, nodes, outputs).
    labelled : Tensor
        Which nodes are in the loss, shape (graphs, nodes).

    Returns
    -------
    maps, inputs, targets
        Graph convolutions with some rows and columns of their matrices, the nodes that these read, and the nodes that
        are in the loss of one graph or more.
    """
    nodes = labelled.any(0).nonzero()[:, 0]
    targets, restricted = targets[:, nodes], list(maps)
    for place in range(len(maps) - 1, -1, -1):
        layer = maps[place]
        if isinstance(layer, GraphMap):
            mixing = layer.mixing.index_select(0, nodes)
            nodes = _columns_used(mixing)
            mixing = mixing.index_select(1, nodes)
            restricted[place] = replace(layer, mixing=mixing.coalesce() if mixing.is_sparse else mixing)
    return restricted, inputs[:, nodes], targets


def _columns_used(matrix: Tensor) -> Tensor:
    """Places of the columns with an entry, in order."""
    if matrix.is_sparse:
        used: Tensor = matrix.coalesce().indices()[1].unique()
        return used
    return (matrix != 0).any(0).nonzero()[:, 0]
