"""Denoising with ridge regularizers: accelerated gradient with restart, and derivatives of the solution.

P(x) = 1/2 |x - y|^2 + R(x) is strongly convex with modulus m = 1 - rho |W|^2 where that is positive. Then

    P(x) - min P  <=  |grad P(x)|^2 / (2 m),      |x - x*| <= |grad P(x)| / m,

which the solver reports as computed, in floating point: it verifies an answer and proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..formulations.subproblem import require_nonnegative
from .ridge_regularizer import RidgeRegularizer


@dataclass(frozen=True)
class Denoised:
    """What `denoise` found, of the objective P(x) = 1/2 |x - y|^2 + price R(x).

    Attributes
    ----------
    images : Tensor, shape (batch, 1, rows, columns)
        The minimizers, as far as they were found.
    gradient_norm : Tensor, shape (batch,)
        |grad P| at them.
    iterations : int
        Of the whole batch.
    """

    images: Tensor
    gradient_norm: Tensor
    iterations: int

    def gap(self, modulus: float) -> Tensor:
        """Upper estimate |grad P|^2 / (2 modulus) of P(x) - min P, shape (batch,); infinite where modulus <= 0."""
        if modulus <= 0:
            return torch.full_like(self.gradient_norm, float("inf"))
        return self.gradient_norm.square() / (2 * modulus)


@torch.no_grad()
def denoise(
    noisy: Tensor,
    regularizer: RidgeRegularizer,
    *,
    price: float = 1.0,
    start: Tensor | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 1000,
) -> Denoised:
    """Minimize 1/2 |x - y|^2 + price R(x) over x, for every image y of a batch.

    Nesterov's acceleration, restarted for each image where the step and the gradient point the same way (O'Donoghue &
    Candes 2015). The step 1/(1 + price largest slope) needs |W| <= 1.

    Parameters
    ----------
    noisy : Tensor, shape (batch, 1, rows, columns)
        y; sides of at least the filters'.
    regularizer : RidgeRegularizer
        With |W| <= 1, and price rho <= 1 for a convex problem.
    price : float
        Of the regularizer, >= 0.
    start : Tensor, optional
        A warm start; by default y.
    tolerance : float
        Stop when |grad P| <= tolerance * (1 + |y|) for every image.
    max_iterations : int
        Stop there in any case.

    Raises
    ------
    UsageError
        If the price is below zero.
    """
    require_nonnegative(price=price)
    x = noisy if start is None else start
    ahead, momentum = x, torch.ones(len(noisy), dtype=noisy.dtype, device=noisy.device)
    slope = regularizer.slope.max(-1).values.expand(len(noisy))
    step = (1 / (1 + price * slope))[:, None, None, None]
    limit = tolerance * (1 + norms(noisy))
    iterations = 0
    for iterations in range(1, max_iterations + 1):
        gradient = ahead - noisy + price * regularizer.gradient(ahead)
        if bool((norms(gradient) <= limit).all()):
            return Denoised(ahead, norms(gradient), iterations)
        new = ahead - step * gradient
        turned = ((gradient * (new - x)).flatten(1).sum(1) > 0).to(noisy.dtype)
        following = torch.where(turned > 0, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
        weight = (1 - turned) * (momentum - 1) / following
        ahead = new + weight[:, None, None, None] * (new - x)
        x, momentum = new, following
    return Denoised(x, norms(x - noisy + price * regularizer.gradient(x)), iterations)


def gradient_steps(noisy: Tensor, regularizer: RidgeRegularizer, steps: int) -> Tensor:
    """Steps of gradient descent on 1/2 |x - y|^2 + R(x) from x = y, to be differentiated through all of them.

    With the step a = 2/(2 + L), L the largest slope, x -> x - a (x + grad R(x)) is (1 - a m)-Lipschitz for |W| <= 1, m
    = 1 - rho |W|^2 the modulus of the objective. By induction what comes after any number of steps is 1/m-Lipschitz in
    y, and for rho = 0 does not expand.

    Parameters
    ----------
    noisy : Tensor, shape (batch, 1, rows, columns)
        y.
    regularizer : RidgeRegularizer
        With |W| <= 1.
    steps : int
        How many.

    Source: Goujon, Neumayer, Bohra, Ducotterd & Unser, "A neural-network-based convex regularizer for inverse
    problems", 2023, section IV.
    """
    a = 2 / (2 + regularizer.slope.amax(-1)).reshape(-1, 1, 1, 1)
    x = noisy
    for _ in range(steps):
        x = x - a * (x - noisy + regularizer.gradient(x))
    return x


def differentiable(
    denoised: Tensor, noisy: Tensor, regularizer: RidgeRegularizer, *, tolerance: float = 3e-2
) -> Tensor:
    """The minimizers, with derivatives in y, filters, slopes and heights by the implicit function theorem.

    With v = H^-1 g, H = I + W' diag(psi''(W x)) W the Hessian at the minimizer and g the gradient of what follows, the
    gradient in a parameter is that of -v'(x - y + W' psi'(W x)). v comes from conjugate gradients. There are no second
    derivatives: torch raises RuntimeError.

    Parameters
    ----------
    denoised : Tensor, shape (batch, 1, rows, columns)
        Minimizers from `denoise`.
    noisy : Tensor
        y, of the same shape.
    regularizer : RidgeRegularizer
        Whose tensors may require gradients.
    tolerance : float
        Relative residual of the conjugate gradients.
    """
    tensors = (regularizer.filters, regularizer.slope, regularizer.height)
    answer: Tensor = _Implicit.apply(denoised.detach(), noisy, *tensors, regularizer.rho, tolerance)
    return answer


class _Implicit(torch.autograd.Function):
    """The identity in x; backwards it solves with the Hessian and differentiates -v' W' psi'(W x) = -<W v, psi'(W x)>.

    The second form has no adjoint operator in it, whose derivatives are several times as slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, noisy: Tensor, *arguments: Any) -> Tensor:
        *tensors, ctx.rho, ctx.tolerance = arguments
        ctx.save_for_backward(x, *tensors)
        return x.clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, filters, slope, height = ctx.saved_tensors
        fixed = RidgeRegularizer(filters, slope, height, ctx.rho)
        v = solve_hessian(fixed, fixed.curvature(fixed.analysis(x)), gradients[0], ctx.tolerance)
        with torch.enable_grad():
            moving = [tensor.detach().requires_grad_() for tensor in (filters, slope, height)]
            regularizer = RidgeRegularizer(moving[0], moving[1], moving[2], ctx.rho)
            product = regularizer.analysis(v) * regularizer.activation(regularizer.analysis(x))
            found = torch.autograd.grad(-product.sum(), moving)
        return None, v, *found, None, None


@torch.no_grad()
def solve_hessian(
    regularizer: RidgeRegularizer, curvature: Tensor, right: Tensor, tolerance: float, max_iterations: int = 200
) -> Tensor:
    """(I + W' diag(curvature) W)^-1 right, by conjugate gradients on every image of the batch."""
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square = residual, _inner(residual, residual)
    limit = (tolerance**2 * square).clamp(min=torch.finfo(right.dtype).tiny)
    for _ in range(max_iterations):
        if bool((square <= limit).all()):
            break
        product = direction + regularizer.synthesis(curvature * regularizer.analysis(direction))
        # Where the residual is zero already, the step is too.
        step = square / _inner(direction, product).clamp(min=torch.finfo(right.dtype).tiny)
        solution = solution + step * direction
        residual = residual - step * product
        square, before = _inner(residual, residual), square
        direction = residual + square / before.clamp(min=torch.finfo(right.dtype).tiny) * direction
    return solution


def norms(images: Tensor) -> Tensor:
    """Euclidean norm of every image, shape (batch,)."""
    return images.flatten(1).norm(dim=1)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)[:, None, None, None]
