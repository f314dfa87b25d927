"""Images from measurements: adjoints and norms of the operators, fast solvers against Clarabel, gaps."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from convexblocks.formulations import UsageError
from convexblocks.formulations.image_reconstruction import RidgeReconstruction, TotalVariationReconstruction
from convexblocks.formulations.subproblem import Subproblem
from convexblocks.networks.ridge_denoiser import pair_bank
from convexblocks.solvers.convolution_norm import convolution_norm_bound
from convexblocks.solvers.image_operators import (
    Blur,
    ImageOperator,
    Inpainting,
    Radon,
    SubsampledFourier,
    fourier_mask,
    gaussian_kernel,
)
from convexblocks.solvers.ridge_reconstruction import reconstruct_ridge
from convexblocks.solvers.ridge_regularizer import RidgeRegularizer
from convexblocks.solvers.total_variation import differences, differences_adjoint, reconstruct_tv, tv_objective

NAMES = ("blur", "crooked blur", "inpainting", "fourier", "radon")
SIDE = 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, side: int = SIDE) -> ImageOperator:
    if name == "blur":
        return Blur(gaussian_kernel(5, 1.2))
    if name == "crooked blur":
        return Blur(torch.randn(3, 3, generator=seeded(3), dtype=torch.float64))
    if name == "inpainting":
        return Inpainting(torch.rand(side, side, generator=seeded(1)) < 0.6)
    return SubsampledFourier(fourier_mask(side, side, 0.5)) if name == "fourier" else Radon(side, 5)


def measured(operator: ImageOperator, noise: float = 0.05, side: int = SIDE, batch: int = 2) -> Tensor:
    axis = torch.arange(side, dtype=torch.float64) / side
    image = torch.stack([(axis[:, None] + axis > 0.9) * 0.7 + 0.2 * axis, (axis[:, None] > 0.4) * axis])[:batch, None]
    exact = operator(image)
    return exact + noise * torch.randn(exact.shape, generator=seeded(2), dtype=torch.float64)


def optimum(block: Subproblem, data: dict[str, np.ndarray], place: int) -> tuple[float, np.ndarray]:
    problem = block.program()
    for name, parameter in problem.param_dict.items():
        parameter.value = data[name] if block.is_shared(name) else data[name][place]
    value = problem.solve(
        solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-10, reduced_tol_gap_abs=1e-8,
        reduced_tol_gap_rel=1e-8,
    )  # fmt: skip
    return value, problem.var_dict["x"].value


@pytest.mark.parametrize("name", NAMES)
def test_adjoint_and_norm(name: str) -> None:
    operator = make(name, 16)
    x = torch.randn(3, 1, 16, 16, generator=seeded(4), dtype=torch.float64)
    y = torch.randn(operator(x).shape, generator=seeded(5), dtype=torch.float64)
    left, right = (operator(x) * y).sum(), (x * operator.adjoint(y)).sum()
    size = operator(x).norm() * y.norm()
    assert abs(float(left - right)) <= 1e-12 * float(size)
    norm = float(torch.linalg.matrix_norm(operator.matrix(16, 16), 2))
    assert 0.7 * operator.norm_bound <= norm <= operator.norm_bound * (1 + 1e-12) or name == "crooked blur"
    assert norm <= operator.norm_bound * (1 + 1e-12)
    # What is read in float32 is answered in float32.
    assert operator.float()(x.float()).dtype == torch.float32
    assert operator.adjoint(y.float()).dtype == torch.float32


def test_the_norm_of_a_blur_is_that_of_the_kernel_it_has() -> None:
    operator = Blur(gaussian_kernel(3, 1.0))
    assert operator.norm_bound == pytest.approx(1)
    operator.load_state_dict({"kernel": 5 * gaussian_kernel(3, 1.0)})
    assert operator.norm_bound == pytest.approx(5)
    for wrong in (torch.zeros(3, 3), torch.full((3, 3), float("nan")), torch.full((3, 3), float("inf"))):
        with pytest.raises(UsageError, match="expected a number above 0"):
            Blur(wrong)
    # Nothing is believed of an operator that does not say its norm.
    with pytest.raises(NotImplementedError):
        _ = ImageOperator().norm_bound


def test_blur_is_centred_and_circular() -> None:
    kernel = torch.zeros(3, 3, dtype=torch.float64)
    kernel[1, 2] = 1
    image = torch.arange(12.0, dtype=torch.float64).reshape(1, 1, 3, 4)
    torch.testing.assert_close(Blur(kernel)(image), image.roll(1, -1))
    assert float(gaussian_kernel(5, 1.0).sum()) == pytest.approx(1)


def test_radon_integrates_over_the_picture() -> None:
    """Straight lines are sums of rows or columns, and all lines of an angle together hold the whole picture."""
    operator, image = Radon(16, 4), torch.rand(1, 1, 16, 16, generator=seeded(6), dtype=torch.float64)
    image[..., [0, 1, 14, 15], :], image[..., [0, 1, 14, 15]] = 0, 0
    sums = operator(image)[0] / operator.scale
    torch.testing.assert_close(sums.sum(1), image.sum().expand(4), rtol=0.02, atol=0)
    # Bins lie between columns of an even side: each is the mean of two neighbours.
    columns = image[0, 0].sum(0)
    middle = (columns[:-1] + columns[1:]) / 2
    inner = sums[0][operator.bins // 2 - 7 : operator.bins // 2 + 8]
    torch.testing.assert_close(inner, middle, rtol=1e-9, atol=1e-9)


def test_fourier_mask_keeps_the_middle() -> None:
    mask = fourier_mask(6, 48, 0.25, random_state=3)
    assert mask.shape == (6, 48)
    assert int(mask[0].sum()) == 12
    assert bool(mask[:, [0, 1, 47]].all())
    assert bool((mask == mask[:1]).all())
    assert not torch.equal(mask, fourier_mask(6, 48, 0.25, random_state=4))


def test_differences_have_their_adjoint() -> None:
    x = torch.randn(2, 1, 5, 7, generator=seeded(7), dtype=torch.float64)
    q = torch.randn(2, 2, 5, 7, generator=seeded(8), dtype=torch.float64)
    assert float((differences(x) * q).sum()) == pytest.approx(float((x * differences_adjoint(q)).sum()), abs=1e-12)


@pytest.mark.parametrize(("name", "price"), [*((name, 0.03) for name in NAMES), ("inpainting", 1e-3), ("blur", 10.0)])
def test_total_variation_against_clarabel(name: str, price: float) -> None:
    operator = make(name)
    y = measured(operator)
    H = operator.matrix(SIDE, SIDE)
    block = TotalVariationReconstruction(pixels=SIDE**2, measurements=len(H))
    data = block.data(y.flatten(1), H, columns=SIDE, price=price)
    found = reconstruct_tv(operator, y, price, tolerance=1e-4, max_iterations=5000)
    for place in range(2):
        value, image = optimum(block, data, place)
        objective, gap = float(found.objective[place]), float(found.gap[place])
        assert -1e-7 * value <= objective - value <= gap + 1e-7 * value
        assert gap <= 1e-4 * objective
        # At Clarabel's answer the objective of the fast solver has the value of the model.
        there = torch.as_tensor(image).reshape(1, 1, SIDE, SIDE)
        assert float(tv_objective(operator, y[place : place + 1], price, there)) == pytest.approx(value, rel=1e-6)


def regularizer(rho: float = 0.0) -> RidgeRegularizer:
    bank = pair_bank(torch.randn(4, 3, 3, generator=seeded(9), dtype=torch.float64))
    bank = bank / convolution_norm_bound(bank[:, None]).upper
    slope, height = torch.linspace(3, 20, 4).double(), torch.linspace(0.02, 0.3, 4).double()
    return RidgeRegularizer(bank, torch.cat([slope, slope]), torch.cat([height, height]), rho)


@pytest.mark.parametrize(("name", "price"), [*((name, 0.3) for name in NAMES), ("fourier", 1e-3), ("radon", 50.0)])
def test_ridge_against_clarabel(name: str, price: float) -> None:
    operator, prior = make(name), regularizer()
    y = measured(operator)
    H, W = operator.matrix(SIDE, SIDE), prior.matrix(SIDE, SIDE)
    block = RidgeReconstruction(pixels=SIDE**2, measurements=len(H), responses=len(W))
    by_response = [value.repeat_interleave(SIDE**2) for value in (prior.slope, prior.height)]
    data = block.data(y.flatten(1), H, W, slope=by_response[0], height=by_response[1], price=price)
    found = reconstruct_ridge(operator, y, prior, price, tolerance=1e-9, max_iterations=50000)
    for place in range(2):
        value, _ = optimum(block, data, place)
        objective, gap = float(found.objective[place]), float(found.gap[place])
        assert -1e-7 * value <= objective - value <= gap + 1e-7 * value
        assert gap <= 1e-6 * objective
    assert float(found.residual.max()) < 1e-7
    assert bool(((found.images >= 0) & (found.images <= 1)).all())
    early = reconstruct_ridge(operator, y, prior, price, max_iterations=2)
    assert early.iterations == 2
    assert bool((early.objective - found.objective <= early.gap).all())


def test_weakly_convex_answers_are_stationary() -> None:
    operator = make("blur")
    y = measured(operator)
    found = reconstruct_ridge(operator, y, regularizer(1.0), 0.3, tolerance=1e-8, max_iterations=5000)
    assert float(found.residual.max()) < 1e-6
    assert bool(torch.isinf(found.gap).all())

    # Stationary in the box: the way down, by a gradient that the solver has no part in, is barred.
    def objective(images: Tensor) -> Tensor:
        return (operator(images) - y).square().flatten(1).sum(1) / 2 + 0.3 * regularizer(1.0).value(images)

    def descent(images: Tensor) -> Tensor:
        at = images.clone().requires_grad_()
        return (images - torch.autograd.grad(objective(at).sum(), at)[0]).clamp(0, 1) - images

    torch.testing.assert_close(objective(found.images), found.objective)
    down = descent(found.images)
    assert float(down.abs().max()) < 1e-6
    early = reconstruct_ridge(operator, y, regularizer(1.0), 0.3, max_iterations=3).images
    assert float(descent(early).abs().max()) > 1e-3
    for length in (1e-3, 1e-2, 0.1):
        way = length * down / down.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-300)
        moved = (found.images + way).clamp(0, 1)
        assert bool((objective(moved) >= found.objective - 1e-9).all())
    again = reconstruct_ridge(operator, y, regularizer(1.0), 0.3, start=found.images, tolerance=1e-7)
    assert again.iterations <= 2


def test_one_price_of_zero_fits_the_data() -> None:
    operator = Inpainting(torch.ones(SIDE, SIDE))
    y = measured(operator).clamp(0, 1)
    torch.testing.assert_close(reconstruct_tv(operator, y, 0.0).images, y, rtol=0, atol=1e-6)


def test_refusals() -> None:
    operator = make("blur")
    y = measured(operator)
    with pytest.raises(UsageError, match="price is -1"):
        reconstruct_tv(operator, y, -1.0)
    with pytest.raises(UsageError, match="price is nan"):
        reconstruct_ridge(operator, y, regularizer(), float("nan"))
    with pytest.raises(UsageError, match="odd side"):
        Blur(torch.ones(2, 2))
    with pytest.raises(UsageError, match="no fewer than the kernel"):
        operator(torch.zeros(1, 1, 3, 9))
    with pytest.raises(UsageError, match="side is 1"):
        Radon(1, 3)
    with pytest.raises(UsageError, match="share"):
        fourier_mask(8, 8, 0.01)
    block = TotalVariationReconstruction(pixels=6, measurements=2)
    with pytest.raises(UsageError, match="divisor"):
        block.data(np.zeros((1, 2)), np.zeros((2, 6)), columns=4, price=1.0)
    with pytest.raises(UsageError, match="shapes"):
        block.data(np.zeros((1, 3)), np.zeros((2, 6)), columns=3, price=1.0)
    ridge = RidgeReconstruction(pixels=6, measurements=2, responses=1)
    given = {"slope": [1.0], "height": [1.0]}
    with pytest.raises(UsageError, match="shapes"):
        ridge.data(np.zeros((1, 2)), np.zeros((2, 6)), np.zeros((2, 6)), **given)
    with pytest.raises(UsageError, match="above zero"):
        ridge.data(np.zeros((1, 2)), np.zeros((2, 6)), np.zeros((1, 6)), slope=[0.0], height=[1.0])
