"""Newton steps on the unknowns that are not held at a bound, for batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GROUP = 64
"""Rows solved together; they are sorted by their number of free unknowns, so that little is padded."""
FAR = 1e200
"""Curvature of the unknowns that fill up a row: whatever they are coupled to, they do not move."""
TINY = 1e-12
"""Added to the diagonal, relative to its largest entry, where free unknowns have no curvature."""


def among(H: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Entries of H, (n, n) or (batch, n, n), among the given unknowns of some rows: (rows, k) -> (rows, k, k)."""
    n = H.shape[-1]
    first = (rows * n * n)[:, None, None] if H.ndim > 2 else 0
    # One flat index is several times quicker than torch's indexing by three.
    flat = first + (places * n)[:, :, None] + places[:, None, :]
    return H.reshape(-1).index_select(0, flat.reshape(-1)).reshape(flat.shape)


def free_direction(hessian: Callable[[Tensor, Tensor], Tensor], gradient: Tensor, free: Tensor) -> Tensor:
    """Solve ``H_ff d_f = -gradient_f`` for every row; d is zero elsewhere.

    Parameters
    ----------
    hessian : callable
        Rows (k,) and places (k, size) of unknowns -> second derivatives among them, (k, size, size), a new tensor.
    gradient : Tensor, shape (rows, n)
    free : Tensor of bool, shape (rows, n)

    Returns
    -------
    Tensor, shape (rows, n)
        Rows whose matrix has no Cholesky factor get zero.
    """
    counts, order = free.sum(1).sort()
    size = int(counts[-1]) if len(counts) else 0
    result = torch.zeros_like(gradient)
    if not size:
        return result
    # The free unknowns of every row, first to last, in a table that is padded with the first of them.
    at, unknowns = free[order].nonzero(as_tuple=True)
    starts = counts.cumsum(0) - counts
    rank, owners = torch.arange(len(at), device=at.device) - starts[at], order[at]
    places = unknowns[starts.clamp(max=len(at) - 1)][:, None].repeat(1, size)
    places[at, rank] = unknowns
    moves = gradient.new_zeros(len(order), size)
    moves[at, rank] = -gradient[owners, unknowns]
    padding = (torch.arange(size, device=at.device) >= counts[:, None]) * moves.new_tensor(FAR)
    for first in range(0, len(order), GROUP):
        group = slice(first, first + GROUP)
        longest = int(counts[group][-1])
        if longest:
            chosen = places[group, :longest]
            matrices = hessian(order[group], chosen)
            diagonal = torch.diagonal(matrices, dim1=1, dim2=2)
            diagonal += TINY * diagonal.abs().amax(1, keepdim=True) + padding[group, :longest]
            factors, failed = torch.linalg.cholesky_ex(matrices)
            # Two triangular solves are several times quicker than torch's cholesky_solve on batches.
            half = torch.linalg.solve_triangular(factors, moves[group, :longest, None], upper=False)
            solved = torch.linalg.solve_triangular(factors.mT, half, upper=True)[..., 0]
            moves[group, :longest] = torch.where((failed == 0)[:, None], solved, 0.0)
    result[owners, unknowns] = moves[at, rank].nan_to_num_(0, 0, 0)
    return result
