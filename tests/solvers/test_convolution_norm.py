"""Norms of convolutions: bounds from both sides, and what they say of random layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from convexblocks.formulations import UsageError
from convexblocks.solvers.convolution_norm import convolution_norm_bound


def random_kernel(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("seed", "shape"),
    [(0, (8, 4, 3, 3)), (1, (4, 16, 5, 5)), (2, (16, 1, 7, 7)), (3, (3, 3, 1, 5)), (4, (6, 6, 5, 3))],
)
def test_within_one_per_cent_of_the_norm(seed: int, shape: tuple[int, ...]) -> None:
    """The five layers: the true norm lies between the bounds, and these are less than 1 % apart."""
    kernel = random_kernel(seed, *shape)
    bound = convolution_norm_bound(kernel)
    assert 0 < bound.lower <= bound.upper
    assert bound.margin < 0.01
    # A climb from the best frequency of another grid finds no point above.
    frequency = torch.rand(64, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 * torch.pi
    frequency.requires_grad_(True)
    places = [torch.arange(side, dtype=torch.float64) for side in shape[-2:]]

    def norms() -> torch.Tensor:
        phases = [torch.exp(-1j * frequency[:, axis, None] * places[axis]) for axis in range(2)]
        symbol = torch.einsum("oiab,fa,fb->foi", kernel.to(torch.complex128), *phases)
        return torch.linalg.matrix_norm(symbol, 2)

    optimizer = torch.optim.Adam([frequency], lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (-norms().sum()).backward()
        optimizer.step()
    best = norms().max().item()
    assert best <= bound.upper
    assert best >= 0.99 * bound.upper


@pytest.mark.parametrize("padding", ["zeros", "none", "circular"])
def test_upper_bound_holds_for_layers(padding: str) -> None:
    kernel, size = random_kernel(5, 3, 2, 3, 3), 8
    units = torch.eye(2 * size * size, dtype=torch.float64).reshape(-1, 2, size, size)
    if padding == "circular":
        units = functional.pad(units, (1, 1, 1, 1), mode="circular")
    images = functional.conv2d(units, kernel, padding=1 if padding == "zeros" else 0)
    norm = float(torch.linalg.matrix_norm(images.flatten(1), 2))
    assert norm <= convolution_norm_bound(kernel).upper


def test_bounds_approach_each_other() -> None:
    kernel = random_kernel(6, 4, 3, 5, 5)
    bounds = [convolution_norm_bound(kernel, grid=grid) for grid in (16, 32, 64, 128)]
    assert np.all(np.diff([bound.margin for bound in bounds]) < 0)
    assert max(bound.lower for bound in bounds) <= min(bound.upper for bound in bounds)


def test_exact_cases() -> None:
    assert convolution_norm_bound(torch.zeros(2, 2, 3, 3)).margin == 0
    one = convolution_norm_bound(torch.eye(3)[..., None, None])
    assert one.lower == pytest.approx(1.0)
    assert one.upper == pytest.approx(1.0)
    assert "margin" in str(one)


@pytest.mark.parametrize("factor", [1e-310, 1e-200, 1e200, 1e300])
def test_extreme_kernels_have_their_norm(factor: float) -> None:
    """Their squares are out of range, the norms are not."""
    kernel = random_kernel(7, 3, 2, 3, 3)
    expected, bound = convolution_norm_bound(kernel), convolution_norm_bound(kernel * factor)
    assert 0 < bound.lower <= bound.upper
    assert bound.upper == pytest.approx(expected.upper * factor, rel=1e-6)
    assert convolution_norm_bound(torch.full((1, 1, 1, 1), 5e-324, dtype=torch.float64)).upper >= 5e-324


def test_scaling_by_a_power_of_two_changes_nothing() -> None:
    kernel = random_kernel(8, 2, 4, 5, 5)
    small, large = (convolution_norm_bound(kernel * 2.0**exponent) for exponent in (-600, 600))
    assert small.lower * 2.0**600 == large.lower * 2.0**-600
    assert small.upper * 2.0**600 == pytest.approx(large.upper * 2.0**-600, rel=1e-15)


def test_the_symbol_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [random_kernel(9, *shape) for shape in ((3, 5, 3, 5), (4, 1, 5, 3))]
    expected = [convolution_norm_bound(kernel, grid=33).lower for kernel in kernels]
    monkeypatch.setattr("convexblocks.solvers.convolution_norm.PART", 1)
    assert [convolution_norm_bound(kernel, grid=33).lower for kernel in kernels] == pytest.approx(expected, rel=1e-12)
    for kernel, lower in zip(kernels, expected, strict=True):
        symbol = torch.fft.fft2(kernel, s=(33, 33)).permute(2, 3, 0, 1)
        assert float(torch.linalg.matrix_norm(symbol, 2).max()) == pytest.approx(lower, rel=1e-12)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="real numbers"):
        convolution_norm_bound(torch.ones(1, 1, 3, 3, dtype=torch.complex64))
    with pytest.raises(UsageError, match="beyond the range"):
        convolution_norm_bound(torch.full((1, 1, 3, 3), 1.7e308, dtype=torch.float64))
    with pytest.raises(UsageError, match="kernel has shape"):
        convolution_norm_bound(torch.ones(3, 3))
    with pytest.raises(UsageError, match="not finite"):
        convolution_norm_bound(torch.full((1, 1, 3, 3), float("nan")))
    with pytest.raises(UsageError, match="grid is 8"):
        convolution_norm_bound(torch.ones(1, 1, 5, 5), grid=8)
