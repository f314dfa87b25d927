"""Images from measurements with a learned ridge regularizer: accelerated projected gradient, with restart and a gap.

    minimize over 0 <= x <= 1     P(x) = 1/2 |H x - y|^2 + price R(x)

The model is RidgeReconstruction (formulations/image_reconstruction.py). P is smooth: its gradient g has the
Lipschitz constant |H|^2 + price max slope, where |W| <= 1. If R is convex (rho = 0), no image between 0 and 1 is better
than x by more than

    gap(x) = max over 0 <= z <= 1 of g'(x - z) = sum_i max(g_i x_i, -g_i (1 - x_i)),

reported as computed, in floating point. If R is weakly convex, P in general is not convex, since H may lose what R
bends down; what is found is then a stationary point as far as the residual |x - (x - g)^+| says, (.)^+ the projection.

Source: Beck & Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging Sci. 2 (2009); the
restart, O'Donoghue & Candes, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15 (2015); the
gap is that of Frank & Wolfe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..formulations.subproblem import require_nonnegative
from .image_operators import ImageOperator
from .ridge_denoising import norms
from .ridge_regularizer import RidgeRegularizer


@dataclass(frozen=True)
class RidgeImage:
    """What `reconstruct_ridge` found.

    Attributes
    ----------
    images : Tensor, shape (batch, 1, rows, columns)
        Within [0, 1].
    objective : Tensor, shape (batch,)
        P at the images.
    residual : Tensor, shape (batch,)
        |x - (x - g)^+|, zero exactly at stationary points.
    gap : Tensor, shape (batch,)
        No image is better by more, up to rounding; infinite for a weakly convex regularizer.
    iterations : int
        Of the whole batch.
    """

    images: Tensor
    objective: Tensor
    residual: Tensor
    gap: Tensor
    iterations: int


@torch.no_grad()
def reconstruct_ridge(
    operator: ImageOperator,
    measured: Tensor,
    regularizer: RidgeRegularizer,
    price: float = 1.0,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 1000,
) -> RidgeImage:
    """Minimize 1/2 |H x - y|^2 + price R(x) over images between 0 and 1, for every y of a batch.

    Parameters
    ----------
    operator : ImageOperator
        H.
    measured : Tensor, shape (batch, ...)
        y, as `operator` gives it.
    regularizer : RidgeRegularizer
        With |W| <= 1.
    price : float
        Of the regularizer, >= 0.
    start : Tensor, optional
        Where to begin; by default H'y, clipped.
    tolerance : float
        Stop when the residual is at most tolerance (1 + |H'y|) for every image.
    max_iterations : int
        Stop there in any case.

    Raises
    ------
    UsageError
        If the price is below zero.
    """
    require_nonnegative(price=price)
    back = operator.adjoint(measured)

    def gradient_at(images: Tensor) -> Tensor:
        return operator.adjoint(operator(images)) - back + price * regularizer.gradient(images)

    x = (back if start is None else start).clamp(0, 1)
    ahead, momentum = x, torch.ones(len(x), dtype=x.dtype, device=x.device)
    slope = regularizer.slope.max(-1).values.expand(len(x))
    step = (1 / (operator.norm_bound**2 + price * slope))[:, None, None, None]
    limit, iteration = tolerance * (1 + norms(back)), 0
    while iteration < max_iterations:
        gradient, iteration = gradient_at(ahead), iteration + 1
        if bool((norms(ahead - (ahead - gradient).clamp(0, 1)) <= limit).all()):
            x = ahead
            break
        new = (ahead - step * gradient).clamp(0, 1)
        turned = (((ahead - new) / step * (new - x)).flatten(1).sum(1) > 0).to(x.dtype)
        following = torch.where(turned > 0, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
        weight = (1 - turned) * (momentum - 1) / following
        # Clipped too: P is smooth everywhere, but the answer may be taken from here.
        ahead = (new + weight[:, None, None, None] * (new - x)).clamp(0, 1)
        x, momentum = new, following
    gradient = gradient_at(x)
    objective = (operator(x) - measured).square().flatten(1).sum(1) / 2 + price * regularizer.value(x)
    gap = torch.maximum(gradient * x, gradient * (x - 1)).flatten(1).sum(1)
    if regularizer.rho:
        gap = torch.full_like(gap, math.inf)
    return RidgeImage(x, objective, norms(x - (x - gradient).clamp(0, 1)), gap, iteration)
