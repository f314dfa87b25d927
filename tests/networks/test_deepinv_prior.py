"""Learned regularizers as priors of deepinv: value, gradient, proximal map, and a run of its algorithms."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from convexblocks.formulations import UsageError
from convexblocks.networks import deepinv_prior
from convexblocks.networks.deepinv_prior import RidgePotential, ridge_prior
from convexblocks.networks.ridge_denoiser import SQUARED_NORM, RidgeDenoiser
from convexblocks.networks.ridge_models import load_denoiser
from convexblocks.solvers.image_operators import Blur, gaussian_kernel
from convexblocks.solvers.ridge_denoising import denoise
from convexblocks.solvers.ridge_reconstruction import reconstruct_ridge

LEVEL = 25 / 255


def potential(name: str = "crr", tolerance: float = 1e-9) -> RidgePotential:
    model = load_denoiser(name)[0]
    assert isinstance(model, RidgeDenoiser)
    return RidgePotential(model, tolerance, 5000)


def pictures(colours: int = 1, side: int = 20) -> torch.Tensor:
    """Two noisy pictures, well within 0 and 1, each of an edge and a slope."""
    axis = torch.arange(side, dtype=torch.float64) / side
    clean = 0.3 + 0.2 * (axis[:, None] + axis > 1) + 0.1 * axis
    generator = torch.Generator().manual_seed(0)
    return clean + 0.05 * torch.randn(2, colours, side, side, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def deepinv() -> Any:
    with warnings.catch_warnings():
        # Of packages that it imports.
        warnings.simplefilter("ignore")
        return pytest.importorskip("deepinv", reason="deepinv is not installed; it is an extra")


@pytest.mark.parametrize("name", ["crr", "wcrr"])
def test_gradient_is_that_of_the_value(name: str) -> None:
    prior, x = potential(name), pictures(3).requires_grad_()
    values = prior.fn(x, torch.tensor([0.1, 0.05]))
    assert values.shape == (2,)
    (expected,) = torch.autograd.grad(values.sum(), x)
    torch.testing.assert_close(prior.grad(x, torch.tensor([0.1, 0.05])), expected)
    single = prior.fn(x[1:, :1], 0.05) + prior.fn(x[1:, 1:2], 0.05) + prior.fn(x[1:, 2:], 0.05)
    torch.testing.assert_close(values[1:], single)


@pytest.mark.parametrize(("name", "gamma"), [("crr", 0.03), ("crr", 5.0), ("wcrr", 0.3), ("wcrr", 1.0)])
def test_proximal_map_is_where_the_gradient_vanishes(name: str, gamma: float) -> None:
    prior, x = potential(name), pictures(3)
    z = prior.prox(x, LEVEL, gamma=gamma)
    assert z.dtype == torch.float64
    assert float((z - x + gamma * prior.grad(z, LEVEL)).norm()) < 1e-6
    assert float((z - x).norm()) > 0.1


def test_proximal_map_with_factor_one_is_the_denoiser() -> None:
    prior, x = potential("wcrr", 1e-5), pictures().float()
    expected = denoise(x, prior.model.regularizer(25.0), tolerance=1e-5).images
    torch.testing.assert_close(prior.prox(x, LEVEL), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(prior.prox(x, LEVEL, gamma=0.0), x)


def test_proximal_map_has_derivatives_in_images_and_factor() -> None:
    prior, x = potential("wcrr"), pictures(side=16)[:1].requires_grad_()
    gamma = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    ramp = torch.linspace(0, 1, 256, dtype=torch.float64).reshape(1, 1, 16, 16)
    (prior.prox(x, LEVEL, gamma=gamma) * ramp).sum().backward()
    assert x.grad is not None
    assert gamma.grad is not None
    with torch.no_grad():
        step, direction = 1e-5, torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        ends = [float((prior.prox(x, LEVEL, gamma=0.4 + sign * step) * ramp).sum()) for sign in (1, -1)]
        moved = [float((prior.prox(x + sign * step * direction, LEVEL, gamma=0.4) * ramp).sum()) for sign in (1, -1)]
    assert float(gamma.grad) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.01)
    assert float((x.grad * direction).sum()) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_derivative_at_factor_zero_is_minus_the_gradient(dtype: torch.dtype) -> None:
    prior, x = potential("crr"), pictures(side=16).to(dtype)
    gamma = torch.zeros((), dtype=dtype, requires_grad=True)
    prior.prox(x, LEVEL, gamma=gamma).square().sum().backward()
    assert gamma.grad is not None
    assert float(gamma.grad) == pytest.approx(-2 * float((x * prior.grad(x, LEVEL)).sum()), rel=1e-3)


def test_factors_that_lose_convexity_are_refused() -> None:
    prior, x = potential("wcrr"), pictures()
    prior.prox(x, LEVEL, gamma=0.999 / SQUARED_NORM)
    for gamma in (1 / SQUARED_NORM, -1.0, float("nan"), torch.ones(2)):
        with pytest.raises(UsageError, match=r"below 1\.01.*smaller step"):
            prior.prox(x, LEVEL, gamma=gamma)


def test_wrong_use_is_refused() -> None:
    prior, x = potential(), pictures()
    for level in (None, 0.0, 25.0, torch.tensor([0.1, 0.1, 0.1])):
        with pytest.raises(UsageError, match="g_param=25/255"):
            prior.grad(x, level)
    with pytest.raises(UsageError, match="batch, colours, rows, columns"):
        prior.fn(x[0], LEVEL)
    with pytest.raises(UsageError, match="'crr'"):
        ridge_prior(load_denoiser("one_step_25")[0])  # type: ignore[arg-type]


def test_without_deepinv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepinv_prior, "optional_package", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'convexblocks\[deepinv\]'"):
        ridge_prior(potential().model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", ["PGD", "DRS"])
def test_algorithms_of_deepinv_find_the_same_image(deepinv: Any, algorithm: str) -> None:
    """The picture lies within 0 and 1, so that the bounds of `reconstruct_ridge` do not matter."""
    blur, x = Blur(gaussian_kernel(5, 1.0)), pictures(side=24)
    measured, price = blur(x), 0.05
    prior = ridge_prior(potential().model, tolerance=1e-7)
    assert isinstance(prior, deepinv.optim.Prior)
    physics = deepinv.physics.LinearPhysics(A=lambda x, **_: blur(x), A_adjoint=lambda y, **_: blur.adjoint(y))
    physics.max_iter, physics.tol = 50, 1e-8
    run = getattr(deepinv.optim, algorithm)(
        data_fidelity=deepinv.optim.L2(), prior=prior, g_param=LEVEL, lambda_reg=price, stepsize=1.0, max_iter=200,
        thres_conv=1e-6, early_stop=True,
    )  # fmt: skip
    # Six digits of the iterates, hence less than that of the images.
    made = run(measured, physics)
    regularizer = prior.model.regularizer(25.0)
    regularizer = replace(
        regularizer, filters=regularizer.filters.double(), slope=regularizer.slope.double(),
        height=regularizer.height.double(),
    )  # fmt: skip
    ours = reconstruct_ridge(blur, measured, regularizer, price, tolerance=1e-9, max_iterations=5000)

    def objective(images: torch.Tensor) -> torch.Tensor:
        return (blur(images) - measured).square().flatten(1).sum(1) / 2 + price * prior(images, LEVEL)

    torch.testing.assert_close(objective(ours.images), ours.objective)
    torch.testing.assert_close(objective(made), ours.objective, rtol=1e-5, atol=0)
    torch.testing.assert_close(made, ours.images, rtol=0, atol=2e-3)
