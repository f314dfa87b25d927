"""Denoising with ridge regularizers: the operator, the solver against Clarabel, gaps and derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cvxpy as cp
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from convexblocks.formulations import UsageError
from convexblocks.formulations.ridge_regularizer import RidgeDenoising
from convexblocks.networks.ridge_denoiser import pair_bank
from convexblocks.solvers.convolution_norm import convolution_norm_bound
from convexblocks.solvers.ridge_denoising import denoise, differentiable, gradient_steps, norms
from convexblocks.solvers.ridge_regularizer import RidgeRegularizer, extend, fold_back


def regularizer(
    rho: float, *, side: int = 3, seed: int = 0, scale: float = 0.1, steep: float = 20.0
) -> RidgeRegularizer:
    generator = torch.Generator().manual_seed(seed)
    bank = pair_bank(torch.randn(4, side, side, generator=generator, dtype=torch.float64))
    bank = 0.99 * bank / convolution_norm_bound(bank[:, None]).upper
    slope = 1 + steep * torch.rand(8, generator=generator, dtype=torch.float64)
    height = scale * (0.2 + torch.rand(8, generator=generator, dtype=torch.float64))
    return RidgeRegularizer(bank, slope, height, rho)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_border_and_adjoints() -> None:
    x, made = image(2, 1, 6, 7), regularizer(1.0)
    z = image(2, 1, 10, 11, seed=1)
    assert float((extend(x, 2) * z).sum()) == pytest.approx(float((x * fold_back(z, 2)).sum()), rel=1e-13)
    u = image(2, 8, 6, 7, seed=2)
    assert float((made.analysis(x) * u).sum()) == pytest.approx(float((x * made.synthesis(u)).sum()), rel=1e-12)
    torch.testing.assert_close(made.matrix(6, 7) @ x[1].flatten(), made.analysis(x)[1].flatten())


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_derivatives_of_the_operators(check: Callable[..., bool]) -> None:
    made, x, u = regularizer(0.0), image(2, 1, 4, 5), image(2, 8, 4, 5, seed=1)

    def operator(filters: Tensor) -> RidgeRegularizer:
        return RidgeRegularizer(filters, made.slope, made.height)

    filters = made.filters.clone().requires_grad_()
    assert check(lambda x, k: operator(k).analysis(x), (x.requires_grad_(), filters))
    assert check(lambda u, k: operator(k).synthesis(u), (u.requires_grad_(), filters))


@pytest.mark.parametrize("side", [3, 5, 7])
def test_the_synthesis_is_a_transposed_convolution(side: int) -> None:
    made, u = regularizer(0.0, side=side), image(2, 8, 9, 7)
    whole = torch.nn.functional.conv_transpose2d(u, made.filters[:, None])
    torch.testing.assert_close(made.synthesis(u), fold_back(whole, side // 2))


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_steps_lead_to_the_minimizer_and_do_not_expand(rho: float) -> None:
    made, y, other = regularizer(rho, steep=5.0), image(2, 1, 8, 8), image(2, 1, 8, 8, seed=1)
    other[1] = y[1] + 1e-3 * other[1]
    apart = norms(y - other)
    for steps in (1, 3, 10, 100):
        moved = norms(gradient_steps(y, made, steps) - gradient_steps(other, made, steps))
        assert bool((moved <= apart / (1 - rho * 0.99**2) * (1 + 1e-12)).all())
    best = denoise(y, made, tolerance=1e-12, max_iterations=20000).images
    torch.testing.assert_close(gradient_steps(y, made, 4000), best, rtol=0, atol=1e-9)
    # The same step for every image of a batch, or each its own.
    own = RidgeRegularizer(made.filters, made.slope.expand(2, -1), made.height.expand(2, -1), rho)
    torch.testing.assert_close(gradient_steps(y, own, 3), gradient_steps(y, made, 3))


@pytest.mark.parametrize("shape", [(5, 5), (6, 9), (12, 12)])
def test_norm_bound_holds_with_mirrored_borders(shape: tuple[int, int]) -> None:
    for seed in range(3):
        made = regularizer(0.0, side=5, seed=seed)
        assert float(torch.linalg.matrix_norm(made.matrix(*shape), 2)) <= 0.99


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_gradient_and_curvature_by_differences(rho: float) -> None:
    made, u = regularizer(rho), image(1, 8, 4, 4) - 0.5
    u.requires_grad_(True)
    (slope,) = torch.autograd.grad(made.potential(u).sum(), u)
    torch.testing.assert_close(slope, made.activation(u))
    (bend,) = torch.autograd.grad(made.activation(u).sum(), u)
    torch.testing.assert_close(bend, made.curvature(u).detach())
    x = image(1, 1, 6, 6).requires_grad_(True)
    (gradient,) = torch.autograd.grad(made.value(x).sum(), x)
    torch.testing.assert_close(gradient, made.gradient(x).detach())


@pytest.mark.parametrize(
    ("rho", "scale", "steep"),
    [(0.0, 0.1, 20.0), (1.0, 0.1, 20.0), (1.0, 1e-2, 50.0), (0.0, 10.0, 2.0), (0.5, 0.1, 100.0)],
)
def test_solver_agrees_with_clarabel(rho: float, scale: float, steep: float) -> None:
    made, noisy = regularizer(rho, scale=scale, steep=steep), image(2, 1, 6, 6)
    noisy[1] = 0.5  # a constant image is its own denoised image
    found = denoise(noisy, made, tolerance=1e-11, max_iterations=20000)
    W = made.matrix(6, 6).numpy()
    block = RidgeDenoising(pixels=36, responses=len(W), weakly_convex=rho > 0)
    slope, height = (value.repeat_interleave(36).numpy() for value in (made.slope, made.height))
    data = block.data(noisy.reshape(2, 36).numpy(), W, slope=slope, height=height, rho=rho)
    problem = block.program()
    for place in range(2):
        for parameter in problem.parameters():
            value = data[parameter.name()]
            parameter.value = value if block.is_shared(parameter.name()) else value[place]
        best = problem.solve(solver=cp.CLARABEL)
        x = torch.tensor(problem.var_dict["x"].value).reshape(1, 1, 6, 6)
        value = float(made.energy(found.images, noisy)[place])
        assert value == pytest.approx(best, rel=1e-6, abs=1e-7)
        # Never above the answer of Clarabel, as far as the gap says.
        reference = float(made.energy(x, noisy[place : place + 1]))
        assert value <= reference + float(found.gap(1 - rho * 0.99**2)[place]) + 1e-12
    torch.testing.assert_close(found.images[1], noisy[1])


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_gap_bounds_the_error(rho: float) -> None:
    made, noisy = regularizer(rho), image(1, 1, 10, 10)
    best = float(made.energy(denoise(noisy, made, tolerance=1e-12, max_iterations=20000).images, noisy))
    modulus = 1 - rho * 0.99**2
    for limit in (1, 3, 10, 30):
        early = denoise(noisy, made, tolerance=0.0, max_iterations=limit)
        excess = float(made.energy(early.images, noisy)) - best
        assert -1e-12 <= excess <= float(early.gap(modulus)) + 1e-12
    assert bool(early.gap(0.0).isinf().all())


def test_gap_of_the_convex_case_is_a_duality_gap() -> None:
    """With the dual v = psi'(W x), primal minus dual value is |grad P|^2 / 2."""
    made, y = regularizer(0.0), image(1, 1, 8, 8)
    x = image(1, 1, 8, 8, seed=3)
    u = made.analysis(x)
    v = made.activation(u)
    conjugate = (u * v - made.potential(u)).sum()  # Fenchel's equality
    back = made.synthesis(v)
    dual = (y * back).sum() - back.square().sum() / 2 - conjugate
    gradient = x - y + back
    assert float(made.energy(x, y) - dual) == pytest.approx(float(gradient.square().sum()) / 2, rel=1e-10)


def test_warm_start_and_batch() -> None:
    made, noisy = regularizer(1.0), image(3, 1, 8, 8)
    cold = denoise(noisy, made, tolerance=1e-9, max_iterations=5000)
    warm = denoise(noisy, made, start=cold.images, tolerance=1e-8)
    assert warm.iterations < cold.iterations / 5
    alone = denoise(noisy[1:2], made, tolerance=1e-9, max_iterations=5000)
    torch.testing.assert_close(alone.images, cold.images[1:2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_implicit_derivatives_by_differences(rho: float) -> None:
    base, noisy, weight = regularizer(rho, steep=5.0), image(1, 1, 6, 6), image(1, 1, 6, 6, seed=5)

    def solve(filters: Tensor, slope: Tensor, height: Tensor, y: Tensor) -> tuple[Tensor, RidgeRegularizer]:
        made = RidgeRegularizer(filters, slope, height, rho)
        return denoise(y, made, tolerance=1e-13, max_iterations=50000).images, made

    inputs = [value.clone().requires_grad_(True) for value in (base.filters, base.slope, base.height, noisy)]
    found, made = solve(*inputs)
    loss = (weight * differentiable(found, inputs[3], made, tolerance=1e-12)).sum()
    gradients = torch.autograd.grad(loss, inputs)
    step = 1e-7  # kinks lie as near as 1e-4
    for place, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = [value.detach().clone() for value in inputs]
            moved[place] += sign * step * direction
            ends.append(float((weight * solve(*moved)[0]).sum()))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=2e-3, abs=1e-5)


def test_convex_denoiser_is_firmly_non_expansive() -> None:
    made = regularizer(0.0)
    a, b = image(1, 1, 9, 9), image(1, 1, 9, 9, seed=7)
    Da, Db = (denoise(y, made, tolerance=1e-11, max_iterations=20000).images for y in (a, b))
    assert float(((Da - Db) * (a - b)).sum()) >= float(norms(Da - Db) ** 2) - 1e-9


@pytest.mark.parametrize(("rho", "price"), [(0.0, 8.0), (0.0, 0.01), (1.0, 0.3)])
def test_price_is_that_of_scaled_filters_and_heights(rho: float, price: float) -> None:
    made, noisy = regularizer(rho), image(2, 1, 8, 8)
    found = denoise(noisy, made, price=price, tolerance=1e-10, max_iterations=20000)
    assert float(found.gradient_norm.max()) < 1e-8
    root = price**0.5
    scaled = replace(made, filters=root * made.filters, height=root * made.height)
    torch.testing.assert_close(scaled.value(noisy), price * made.value(noisy))
    assert float(norms(found.images - noisy + scaled.gradient(found.images)).max()) < 1e-8
    with pytest.raises(UsageError, match="price"):
        denoise(noisy, made, price=-1.0)


def test_second_derivatives_of_minimizers_refuse() -> None:
    made, noisy = regularizer(0.0), image(1, 1, 8, 8).requires_grad_()
    found = differentiable(denoise(noisy.detach(), made).images, noisy, made)
    (gradient,) = torch.autograd.grad((found**3).sum(), noisy, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
