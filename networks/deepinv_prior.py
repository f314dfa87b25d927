"""Learned ridge regularizers as priors of deepinv (https://deepinv.github.io): value, gradient and proximal map.

    prox(x) = argmin over z of 1/2 |z - x|^2 + gamma R(z; sigma)

R is rho-weakly convex along W with |W|^2 <= 0.99 (networks/ridge_denoiser.py), so that the objective is convex for
gamma rho |W|^2 < 1: for every gamma if rho = 0, for gamma < 1/(0.99 rho) if rho > 0. Beyond that it is refused, for the
minimizer need not be the only one. Scaled filters and heights give the scaled regularizer, which yields derivatives:

    gamma R(z) = R~(z),     W~ = sqrt(gamma) W,   heights~ = sqrt(gamma) heights,   slopes and rho as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..solvers.ridge_denoising import denoise, differentiable
from ..solvers.ridge_regularizer import RidgeRegularizer
from ..solvers.single_programs import optional_package
from .ridge_denoiser import SQUARED_NORM, RidgeDenoiser


class RidgePotential(nn.Module):
    """R(x; sigma) of a learned denoiser, with the methods that deepinv asks of a prior; see `ridge_prior`.

    Images have the shape (batch, colours, rows, columns), of any floating type; every colour is an image by itself, and
    values are summed over them. sigma, which deepinv calls `g_param`, is the noise level in units of the pixels, as of
    all its denoisers (25/255), one number or one for each image of the batch.
    """

    def __init__(self, model: RidgeDenoiser, tolerance: float, max_iterations: int) -> None:
        super().__init__()
        self.model, self.tolerance, self.max_iterations = model, tolerance, max_iterations

    def fn(self, x: Tensor, sigma: Tensor | float | None = None, **_: Any) -> Tensor:
        """R of every image, shape (batch,)."""
        return self._regularizer(x, sigma).value(_grey(x)).reshape(x.shape[:2]).sum(1)

    def grad(self, x: Tensor, sigma: Tensor | float | None = None, **_: Any) -> Tensor:
        """The gradient of R, of the shape of the images."""
        return self._regularizer(x, sigma).gradient(_grey(x)).reshape(x.shape)

    def prox(
        self, x: Tensor, sigma: Tensor | float | None = None, *, gamma: Tensor | float = 1.0, **_: Any
    ) -> Tensor:
        """The minimizer of 1/2 |z - x|^2 + gamma R(z); differentiable in x, gamma, sigma and the model.

        Raises
        ------
        UsageError
            If gamma is not one number, or so large that the objective need not be convex.
        """
        regularizer, noisy = self._regularizer(x, sigma), _grey(x)
        factor = torch.as_tensor(gamma, dtype=x.dtype, device=x.device)
        price = float(factor.detach()) if factor.numel() == 1 else float("nan")
        largest = 1 / (SQUARED_NORM * regularizer.rho) if regularizer.rho else float("inf")
        if not 0 <= price < largest:
            raise UsageError(
                f"gamma is {gamma}; expected one number >= 0 and below {largest:.4g}, that 1/2 |z - x|^2 + gamma R(z) "
                "is convex: take a smaller step or a smaller lambda, or 'crr', which takes any."
            )
        found = denoise(
            noisy, regularizer, price=price, tolerance=self.tolerance, max_iterations=self.max_iterations
        ).images
        if torch.is_grad_enabled():
            # Away from zero, where the root has no derivative.
            root = (factor.reshape(()) + 1e-12).sqrt()
            priced = replace(regularizer, filters=root * regularizer.filters, height=root * regularizer.height)
            found = differentiable(found, noisy, priced, tolerance=1e-4)
        return found.reshape(x.shape)

    def _regularizer(self, x: Tensor, sigma: Tensor | float | None) -> RidgeRegularizer:
        """That of the noise level, in the type and at the place of the images."""
        if x.dim() != 4:
            raise UsageError(f"images have the shape {tuple(x.shape)}; expected (batch, colours, rows, columns).")
        levels = 255 * torch.as_tensor(float("nan") if sigma is None else sigma, device=x.device).reshape(-1)
        if len(levels) not in (1, len(x)) or not bool(((levels > 0) & (levels <= 100)).all()):
            raise UsageError(
                f"the noise level is {sigma}; expected a number above 0 and up to 100/255, in units of the pixels, or "
                "one for each image: give g_param=25/255 to the algorithm of deepinv."
            )
        levels = levels.expand(len(x)).repeat_interleave(x.shape[1])
        made = self.model.regularizer(levels)
        return replace(made, filters=made.filters.to(x), slope=made.slope.to(x), height=made.height.to(x))


def ridge_prior(model: RidgeDenoiser, *, tolerance: float = 1e-5, max_iterations: int = 1000) -> Any:
    """A learned regularizer as a `Prior` of deepinv, for its algorithms with g_param = the noise level (25/255).

    Parameters
    ----------
    model : RidgeDenoiser
        In evaluation mode: load_denoiser("crr")[0], or "wcrr".
    tolerance : float
        Of the proximal map: |gradient| <= tolerance (1 + |x|).
    max_iterations : int
        Of the proximal map, at most.

    Returns
    -------
    deepinv.optim.Prior
        Explicit, a torch module with the methods of `RidgePotential`.

    Raises
    ------
    UsageError
        If deepinv is not installed, or the model is another one.
    """
    if not isinstance(model, RidgeDenoiser):
        raise UsageError(
            f"the model is a {type(model).__name__}; expected a RidgeDenoiser, which has a regularizer: "
            "load_denoiser('crr')[0], or 'wcrr'."
        )
    package = optional_package("deepinv.optim")
    if package is None:
        raise UsageError("deepinv is not installed; expected it: pip install 'convexblocks[deepinv]'.")
    prior = type("RidgePrior", (RidgePotential, package.Prior), {})(model, tolerance, max_iterations)
    prior.explicit_prior = True
    return prior


def _grey(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, *x.shape[-2:])
