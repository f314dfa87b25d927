"""Unrolled proximal gradient: a few plug-and-play iterations as a network whose numbers are learned, still certified.

    x_0 = H'y,      x_(k+1) = D_k(x_k - t_k H'(H x_k - y)),      D_k = I - a_k W' sigma(W .)

With 0 < t_k < 2/|H|^2 and 0 < a_k <= 1 every iteration is non-expansive in x, whatever training does (D is firmly non-
expansive, networks/inverse_problems.py), and moves by at most t_k |H| times what y moves. Hence the reconstruction is
Lipschitz in the measurements, with the constant at most

    |H| (1 + t_0 + t_1 + ...).

Source: Gregor & LeCun, "Learning fast approximations of sparse coding", ICML 2010 (unrolling); the bound is derived.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..solvers.image_operators import ImageOperator
from ..solvers.ridge_refit import OneStep
from .inverse_problems import firm, require_firm


class UnrolledProximalGradient(nn.Module):
    """Iterations of plug-and-play with a step and a strength of the denoiser of their own, to be trained.

    Parameters
    ----------
    operator : ImageOperator
        H; it is not trained.
    denoiser : OneStep
        Made firmly non-expansive by `firm`; it is not trained. Its filters, knots and slopes are copied, and go where
        the module goes: into its files, and to other types.
    iterations : int
        How many, one or more.

    Raises
    ------
    UsageError
        If there is no iteration, or the denoiser has no bound.
    """

    filters: Tensor
    knots: Tensor
    slopes: Tensor
    step_logits: Tensor
    strength_logits: Tensor

    def __init__(self, operator: ImageOperator, denoiser: OneStep, *, iterations: int = 8) -> None:
        super().__init__()
        if iterations < 1:
            raise UsageError(f"iterations is {iterations}; expected one or more.")
        self.operator, made = operator, firm(denoiser)
        for name in ("filters", "knots", "slopes"):
            self.register_buffer(name, getattr(made, name).detach().clone())
        # Steps begin at 1/|H|^2 and strengths at a half, the middle of what is admitted.
        self.step_logits = nn.Parameter(torch.zeros(iterations))
        self.strength_logits = nn.Parameter(torch.zeros(iterations))

    def denoiser(self) -> OneStep:
        """D at the strength 1."""
        return OneStep(self.filters, self.knots, self.slopes)

    def steps(self) -> Tensor:
        """t_k, shape (iterations,), above 0 and below 2/|H|^2."""
        # Kept away from the end, which the sigmoid reaches in floating point.
        return 1.99 / self.operator.norm_bound**2 * self.step_logits.sigmoid()

    def lipschitz_bound(self) -> float:
        """What a change of the measurements is multiplied by at most, up to rounding.

        Raises
        ------
        UsageError
            If the denoiser, which a file may have changed, is not certified to be firmly non-expansive any more.
        """
        require_firm(self.denoiser())
        with torch.no_grad():
            return self.operator.norm_bound * (1 + float(self.steps().double().sum()))

    def forward(self, measured: Tensor) -> Tensor:
        """Images (batch, 1, rows, columns) of measurements as the operator gives them."""
        back = self.operator.adjoint(measured)
        x = back
        for step, strength in zip(self.steps(), self.strength_logits.sigmoid(), strict=True):
            denoise = replace(self.denoiser(), slopes=strength * self.slopes)
            x = denoise(x - step * (self.operator.adjoint(self.operator(x)) - back))
        return x
