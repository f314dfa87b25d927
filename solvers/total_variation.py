"""Images from measurements with little total variation: the primal-dual method of Chambolle and Pock, with its gap.

    minimize over 0 <= x <= 1          1/2 |H x - y|^2 + price sum_i |(D x)_i|
    maximize over p, |q_i| <= price    -1/2 |p|^2 - p'y - sum_i max(0, -(H'p + D'q)_i)

The model is TotalVariationReconstruction (formulations/image_reconstruction.py). Any p and admissible q give a lower
bound, because the pixels are bounded: the gap of the two values, reported as computed in floating point, verifies the
answer. Steps t (of x) and s (of p and q) need s t (|H|^2 + |D|^2) <= 1, and |D|^2 <= 8.

Source: Chambolle & Pock, "A first-order primal-dual algorithm for convex problems with applications to imaging", JMIV
40 (2011), algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..formulations.subproblem import require_nonnegative
from .image_operators import ImageOperator

BALANCE = 10.0
"""Root of the ratio of the steps t/s: pixels are of the order of one, the duals of the order of the noise."""
GAP_EVERY = 20


@dataclass(frozen=True)
class TotalVariationImage:
    """What `reconstruct_tv` found.

    Attributes
    ----------
    images : Tensor, shape (batch, 1, rows, columns)
        Within [0, 1].
    objective : Tensor, shape (batch,)
        At the images.
    gap : Tensor, shape (batch,)
        No image is better by more, up to rounding.
    iterations : int
        Of the whole batch.
    """

    images: Tensor
    objective: Tensor
    gap: Tensor
    iterations: int


@torch.no_grad()
def reconstruct_tv(
    operator: ImageOperator, measured: Tensor, price: float, *, tolerance: float = 1e-3, max_iterations: int = 2000
) -> TotalVariationImage:
    """Minimize 1/2 |H x - y|^2 + price TV(x) over images between 0 and 1, for every y of a batch.

    Parameters
    ----------
    operator : ImageOperator
        H.
    measured : Tensor, shape (batch, ...)
        y, as `operator` gives it.
    price : float
        Of the isotropic total variation, >= 0.
    tolerance : float
        Stop when the gap of every image is at most this share of its objective.
    max_iterations : int
        Stop there in any case.

    Raises
    ------
    UsageError
        If the price is below zero.
    """
    require_nonnegative(price=price)
    size = 1 / math.sqrt(operator.norm_bound**2 + 8)
    step, dual_step = size * BALANCE, size / BALANCE
    x = operator.adjoint(measured).clamp(0, 1)
    ahead, p, q = x, torch.zeros_like(measured), torch.zeros_like(differences(x))
    iteration = 0
    while True:
        if iteration % GAP_EVERY == 0 or iteration == max_iterations:
            objective = tv_objective(operator, measured, price, x)
            gap = objective - _dual_value(operator, measured, p, q)
            if iteration == max_iterations or bool((gap <= tolerance * objective).all()):
                return TotalVariationImage(x, objective, gap, iteration)
        p = (p + dual_step * (operator(ahead) - measured)) / (1 + dual_step)
        q = q + dual_step * differences(ahead)
        # Onto the discs of radius `price`; with price zero onto their middle.
        q = q * (price / q.norm(dim=1, keepdim=True).clamp(min=max(price, torch.finfo(q.dtype).tiny)))
        new = (x - step * (operator.adjoint(p) + differences_adjoint(q))).clamp(0, 1)
        ahead, x, iteration = 2 * new - x, new, iteration + 1


def tv_objective(operator: ImageOperator, measured: Tensor, price: float, images: Tensor) -> Tensor:
    """1/2 |H x - y|^2 + price TV(x) of every image, shape (batch,)."""
    misfit = (operator(images) - measured).square().flatten(1).sum(1) / 2
    return misfit + price * differences(images).norm(dim=1).flatten(1).sum(1)


def differences(images: Tensor) -> Tensor:
    """To the next row and column, zero at the last: (batch, 1, rows, columns) -> (batch, 2, rows, columns)."""
    down = torch.diff(images, dim=-2, append=images[..., -1:, :])
    return torch.cat([down, torch.diff(images, dim=-1, append=images[..., -1:])], 1)


def differences_adjoint(fields: Tensor) -> Tensor:
    """The adjoint of `differences`."""
    down, right = fields[:, :1].clone(), fields[:, 1:].clone()
    # What `differences` never writes, its adjoint never reads.
    down[..., -1, :] = 0
    right[..., -1] = 0
    zero_row, zero_column = torch.zeros_like(down[..., :1, :]), torch.zeros_like(right[..., :1])
    return -torch.diff(down, dim=-2, prepend=zero_row) - torch.diff(right, dim=-1, prepend=zero_column)


def _dual_value(operator: ImageOperator, measured: Tensor, p: Tensor, q: Tensor) -> Tensor:
    linear = operator.adjoint(p) + differences_adjoint(q)
    return -(p.square() / 2 + p * measured).flatten(1).sum(1) - (-linear).clamp(min=0).flatten(1).sum(1)
