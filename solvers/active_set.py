"""Newton steps on the unknowns that are not held at a bound, for batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GROUP = 64
"""Rows solved together; they are sorted by their number of free unknowns, so that little is padded."""
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
        Rows (k,) and places (k, size) of unknowns -> second derivatives among them, (k, size, size).
    gradient : Tensor, shape (rows, n)
    free : Tensor of bool, shape (rows, n)

    Returns
    -------
    Tensor, shape (rows, n)
        Rows whose matrix has no Cholesky factor get zero.
    """
    result = torch.zeros_like(gradient)
    counts = free.sum(1)
    for rows in torch.split(torch.argsort(counts), GROUP):
        size = int(counts[rows].max())
        if not size:
            continue
        places = torch.argsort(free[rows].to(torch.int8), dim=1, descending=True, stable=True)[:, :size]
        real = torch.gather(free[rows], 1, places).to(gradient)
        matrices = hessian(rows, places) * real[:, :, None] * real[:, None, :]
        diagonal = torch.diagonal(matrices, dim1=1, dim2=2)
        diagonal += TINY * diagonal.abs().amax(1, keepdim=True) + (1 - real)
        factors, failed = torch.linalg.cholesky_ex(matrices)
        wanted = -torch.gather(gradient[rows], 1, places) * real
        # Two triangular solves are several times quicker than torch's cholesky_solve on batches.
        half = torch.linalg.solve_triangular(factors, wanted[..., None], upper=False)
        moves = torch.linalg.solve_triangular(factors.mT, half, upper=True)[..., 0] * (failed == 0)[:, None]
        result[rows] = result[rows].scatter(1, places, moves.nan_to_num(0, 0, 0))
    return result
