"""Plug-and-play: proximal gradient whose proximal map is a learned denoiser, certified to be firmly non-expansive.

    x  <-  D(x - t H'(H x - y)),      0 < t < 2/|H|^2

The gradient step is t |H|^2/2-averaged, a firmly non-expansive D is 1/2-averaged, so that the whole is averaged: it
has the Lipschitz constant 1, its residuals |x_(k+1) - x_k| never rise, and where it has a fixed point the iteration
converges to one (Krasnoselskii and Mann). A one-step denoiser D(y) = y - W' sigma(W y) is the gradient of
a function, which is convex if D is firmly non-expansive; D is then the proximal map of a convex one (Moreau): a fixed
point minimizes t/2 |H x - y|^2 plus that function. The step t thus says how much the data count.

So the iteration is a proximal gradient method, and with t <= 1/|H|^2 it may be accelerated (Beck & Teboulle, SIAM J.
Imaging Sci. 2, 2009; with the restart of O'Donoghue & Candes, 2015). It takes a few times fewer iterations then, and
its residuals may rise on the way.

What has to be known is the norm of the operator and that of W' diag(max sigma') W, both bounded up to rounding.
Source: Goujon et al., "A neural-network-based convex regularizer for inverse problems", IEEE TCI 2023 (the denoiser);
Bauschke & Combettes, "Convex Analysis and Monotone Operator Theory" (2017), propositions 4.44 and 5.16, corollary 24.6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..formulations.errors import UsageError
from ..solvers.image_operators import ImageOperator
from ..solvers.ridge_denoising import norms
from ..solvers.ridge_refit import OneStep


@dataclass(frozen=True)
class FixedPoint:
    """What `plug_and_play` found.

    Attributes
    ----------
    images : Tensor, shape (batch, 1, rows, columns)
        The last iterates.
    residual : Tensor, shape (batch,)
        How far the last iteration moved, by which they miss being fixed points at most.
    iterations : int
        Of the whole batch.
    averaged : float
        The iteration is so much of a non-expansive map, the rest identity; below 1.
    """

    images: Tensor
    residual: Tensor
    iterations: int
    averaged: float


def firm(denoiser: OneStep, strength: float = 1.0) -> OneStep:
    """A firmly non-expansive denoiser (1 - a) I + a D, a as large as is certified, times the strength.

    Of the steps that ship with the package it takes half, at strength 1.

    Parameters
    ----------
    denoiser : OneStep
        D.
    strength : float
        Above 0, at most 1.

    Raises
    ------
    UsageError
        If the strength is out of range, or the denoiser has no bound (`OneStep.expansion`).
    """
    if not 0 < strength <= 1:
        raise UsageError(f"strength is {strength:g}; expected a number above 0, at most 1.")
    expansion = denoiser.expansion().upper ** 2
    share = strength / (expansion * (1 + 1e-6)) if expansion > 1 else strength
    return replace(denoiser, slopes=share * denoiser.slopes)


def require_firm(denoiser: OneStep) -> None:
    """Refuse denoisers that are not certified to be firmly non-expansive.

    Raises
    ------
    UsageError
        With the bound, and what to do.
    """
    expansion = denoiser.expansion().upper ** 2
    if expansion > 1:
        raise UsageError(
            f"the slopes of the denoiser expand by up to {expansion:.6g}; expected at most 1, that it is firmly "
            "non-expansive and the iteration converges: take firm(denoiser)."
        )


@torch.no_grad()
def plug_and_play(
    operator: ImageOperator,
    measured: Tensor,
    denoiser: OneStep,
    step: float = 1.0,
    *,
    accelerate: bool = False,
    start: Tensor | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 500,
) -> FixedPoint:
    """Iterate x <- D(x - step H'(H x - y)) for every y of a batch.

    Parameters
    ----------
    operator : ImageOperator
        H.
    measured : Tensor, shape (batch, ...)
        y, as `operator` gives it.
    denoiser : OneStep
        Firmly non-expansive, see `firm`.
    step : float
        Above 0 and below 2/|H|^2; the smaller, the more the denoiser counts.
    accelerate : bool
        Whether to go beyond each new point in the direction in which it was reached; then the step is at most 1/|H|^2.
    start : Tensor, optional
        Where to begin; by default H'y.
    tolerance : float
        Stop when the residual is at most tolerance (1 + |H'y|) for every image.
    max_iterations : int
        Stop there in any case.

    Raises
    ------
    UsageError
        If the step or the number of iterations is out of range, or the denoiser is not certified to be firmly
        non-expansive.
    """
    moved = step * operator.norm_bound**2 / 2
    if not 0 < moved < 1:
        raise UsageError(f"step is {step:g}; expected one above 0 and below {2 / operator.norm_bound**2:g}, 2/|H|^2.")
    if accelerate and moved > 0.5:
        raise UsageError(f"step is {step:g}; expected at most {1 / operator.norm_bound**2:g}, 1/|H|^2, to accelerate.")
    if max_iterations < 1:
        raise UsageError(f"max_iterations is {max_iterations}; expected one or more.")
    require_firm(denoiser)
    back = operator.adjoint(measured)
    x = ahead = back if start is None else start
    momentum = torch.ones(len(x), dtype=x.dtype, device=x.device)
    limit, iteration = tolerance * (1 + norms(back)), 0
    while True:
        new = denoiser(ahead - step * (operator.adjoint(operator(ahead)) - back))
        residual, iteration = norms(new - ahead), iteration + 1
        if iteration >= max_iterations or bool((residual <= limit).all()):
            # Of a map that is 1/2-averaged after one that is b-averaged: 1/(2 - b).
            return FixedPoint(new, residual, iteration, 1 / (2 - moved))
        weight = torch.zeros_like(momentum)
        if accelerate:
            turned = ((ahead - new) * (new - x)).flatten(1).sum(1) > 0
            following = torch.where(turned, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
            weight, momentum = torch.where(turned, 0.0, (momentum - 1) / following), following
        ahead, x = new + weight[:, None, None, None] * (new - x), new
