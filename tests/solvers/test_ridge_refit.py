"""One-step denoisers: their activations, the convex fit, and the Lipschitz bound, up to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexblocks.networks.ridge_denoiser import pair_bank
from convexblocks.solvers.convolution_norm import convolution_norm_bound
from convexblocks.solvers.ridge_refit import OneStep, ramps, refit, refit_statistics, spline

SIGMA = 25.0


def filters_and_knots() -> tuple[torch.Tensor, torch.Tensor]:
    bank = pair_bank(torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0)))
    bank = bank / convolution_norm_bound(bank[:, None]).upper
    sizes = bank.flatten(1).norm(dim=1)
    return bank, SIGMA / 255 * sizes[:, None] * torch.tensor([0.0, 1.0, 2.0, 4.0])


def smooth_images() -> torch.Tensor:
    noise = torch.rand(3, 1, 36, 36, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1)


def test_spline_is_a_sum_of_ramps() -> None:
    _, knots = filters_and_knots()
    u = torch.randn(1, 8, 5, 6, generator=torch.Generator().manual_seed(2)) / 5
    slopes = torch.rand(8, 4, generator=torch.Generator().manual_seed(3))
    expected = (slopes[..., None, None] * ramps(u[0], knots)).sum(1)
    torch.testing.assert_close(spline(u, knots, slopes)[0], expected)


def test_statistics_give_the_error_of_the_denoiser() -> None:
    (filters, knots), clean = filters_and_knots(), smooth_images()
    statistics = refit_statistics(filters, knots, clean, SIGMA, random_state=4)
    slopes = torch.rand(4, 4, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(4)
    noisy = torch.stack([x + SIGMA / 255 * torch.randn(x.shape, generator=generator) for x in clean])
    made = OneStep(filters, knots, torch.cat([slopes, slopes]))
    expected = float((made(noisy) - clean).square().mean())
    assert statistics.error(slopes.numpy().astype(float)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("cap", [1.0, 2.0])
def test_refit_is_best_and_does_not_expand(cap: float) -> None:
    (filters, knots), clean = filters_and_knots(), smooth_images()
    statistics = refit_statistics(filters, knots, clean, SIGMA)
    made = refit(filters, knots, statistics, cap=cap, price=1e-9)
    assert made.expansion().upper ** 2 <= cap * (1 + 1e-5)
    assert float(made.slopes.min()) >= 0
    best = statistics.error(made.slopes[:4].numpy().astype(float))
    assert best < statistics.noise
    rng = np.random.default_rng(6)
    for _ in range(50):
        other = np.maximum(made.slopes[:4].numpy() + 0.1 * rng.normal(size=(4, 4)), 0)
        trial = OneStep(filters, knots, torch.tensor(np.vstack([other, other]), dtype=torch.float32))
        other *= min(1.0, cap / trial.expansion(64).upper ** 2)
        assert statistics.error(other) > best * (1 - 1e-3)


def test_refit_of_linear_activations() -> None:
    """One cell: the denoiser is linear in the image too."""
    (filters, knots), clean = filters_and_knots(), smooth_images()
    statistics = refit_statistics(filters, knots[:, :1], clean, SIGMA)
    made = refit(filters, knots[:, :1], statistics)
    assert made.slopes.shape == (8, 1)
    assert made.expansion().upper ** 2 <= 2 * (1 + 1e-5)
    assert statistics.error(made.slopes[:4].numpy().astype(float)) < statistics.noise


def test_no_pair_of_images_is_moved_apart() -> None:
    filters, knots = (value.double() for value in filters_and_knots())
    slopes = torch.rand(4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    made = OneStep(filters, knots, torch.cat([slopes, slopes]))
    made = OneStep(filters, knots, made.slopes * 2.5 / made.expansion().upper ** 2)  # expands a little: 1.5
    assert made.lipschitz_bound() == pytest.approx(1.5)
    y, generator = smooth_images()[:1].double(), torch.Generator().manual_seed(8)
    move = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    found = 0.0
    for _ in range(60):  # climbs like a power iteration
        move *= 1e-3 / move.norm()
        moved = made(y + move) - made(y)
        found = max(found, float(moved.norm()) / 1e-3)
        move = moved
    assert 0.9 < found <= 1.5
