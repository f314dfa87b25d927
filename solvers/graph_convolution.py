"""Graph convolution with a fixed normalized adjacency, as a torch module.

    u = A (x W') + 1 b',        A = D^-1/2 (E + I) D^-1/2,

with one row of x for each node, E the adjacency of the edges and D the diagonal of the row sums of E + I.

Source: Kipf & Welling, "Semi-supervised classification with graph convolutional networks", ICLR 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError


def spread(adjacency: Tensor, x: Tensor) -> Tensor:
    """The product A x for x of shape (nodes, features) or (graphs, nodes, features); A dense or sparse (COO)."""
    if not adjacency.is_sparse:
        return adjacency @ x
    if x.ndim == 2:
        return torch.sparse.mm(adjacency, x)
    # A sparse matrix multiplies one matrix: the graphs stand side by side as columns.
    columns = x.transpose(0, 1).reshape(x.shape[1], -1)
    return torch.sparse.mm(adjacency, columns).reshape(len(adjacency), x.shape[0], x.shape[2]).transpose(0, 1)


class GraphConvolution(nn.Module):
    """A layer that mixes every node with its neighbours, then maps features linearly.

    Parameters
    ----------
    in_features, out_features : int
        Features of a node that are read and made.
    adjacency : matrix, shape (nodes, nodes)
        The fixed matrix A, of torch, scipy or numpy, dense or sparse; see `normalized_adjacency`. It becomes a buffer:
        it follows the module to a device, and it is not among the weights that are saved.
    bias : bool
        Whether there is a bias.
    dtype : torch.dtype, optional
        Type of the weights.

    Raises
    ------
    UsageError
        If the adjacency is no square matrix of finite numbers.
    """

    adjacency: Tensor

    def __init__(
        self, in_features: int, out_features: int, adjacency: Any, *, bias: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        # The initialization of torch.nn.Linear: uniform, with the inverse root of the inputs as limit.
        linear = nn.Linear(in_features, out_features, bias=bias, dtype=dtype)
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("adjacency", _checked(adjacency).to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (nodes, features) or (graphs, nodes, features)."""
        u = spread(self.adjacency, x @ self.weight.T)
        return u if self.bias is None else u + self.bias

    def extra_repr(self) -> str:
        """Sizes, as torch shows its own layers."""
        return f"{self.in_features}, {self.out_features}, nodes={len(self.adjacency)}, bias={self.bias is not None}"


def _checked(adjacency: Any) -> Tensor:
    """The matrix as a tensor, dense or sparse (COO)."""
    if sp.issparse(adjacency):
        entries = sp.coo_array(adjacency)
        places = torch.as_tensor(np.stack(entries.coords).astype(np.int64))
        matrix = torch.sparse_coo_tensor(places, torch.as_tensor(entries.data), entries.shape, check_invariants=True)
    else:
        matrix = torch.as_tensor(adjacency)
        matrix = matrix if matrix.layout in (torch.strided, torch.sparse_coo) else matrix.to_sparse_coo()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UsageError(
            f"the adjacency has shape {tuple(matrix.shape)}; expected a square matrix (nodes, nodes): make it from the "
            "edges with normalized_adjacency."
        )
    matrix = matrix.coalesce() if matrix.is_sparse else matrix
    if not bool((matrix.values() if matrix.is_sparse else matrix).isfinite().all()):
        raise UsageError("the adjacency holds values that are NaN or infinite; expected finite numbers.")
    return matrix
