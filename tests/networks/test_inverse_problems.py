"""Plug-and-play: what is certified of the denoiser, and what follows for the iteration."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from convexblocks.formulations import UsageError
from convexblocks.networks.inverse_problems import firm, plug_and_play
from convexblocks.networks.ridge_denoiser import pair_bank
from convexblocks.networks.ridge_models import load_denoiser
from convexblocks.networks.unrolled import UnrolledProximalGradient
from convexblocks.solvers.image_operators import Blur, Inpainting, gaussian_kernel
from convexblocks.solvers.ridge_refit import OneStep


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def denoiser(strength: float = 1.0) -> OneStep:
    """Differences of first and second order, small changes of which are taken to be noise."""
    rows = torch.zeros(4, 3, 3, dtype=torch.float64)
    rows[0, 1], rows[2, 1] = torch.tensor([1.0, -2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    rows[1], rows[3] = rows[0].T.clone(), rows[2].T.clone()
    knots = torch.tensor([[0.0, 0.1]], dtype=torch.float64).repeat(8, 1)
    slopes = torch.tensor([[1.0, 0.05]], dtype=torch.float64).repeat(8, 1)
    return firm(OneStep(pair_bank(rows), knots, slopes), strength)


def picture(side: int = 24) -> torch.Tensor:
    axis = torch.arange(side, dtype=torch.float64) / side
    return ((axis[:, None] + axis > 1) * 0.5 + 0.3 * axis)[None, None]


def test_firm_denoisers_are_firmly_non_expansive() -> None:
    for strength in (1.0, 0.3):
        made = denoiser(strength)
        assert made.expansion().upper ** 2 == pytest.approx(strength, abs=1e-4)
        assert made.expansion().upper ** 2 <= 1
        for seed in range(4):
            x, y = (picture() + 0.1 * torch.randn(1, 1, 24, 24, generator=seeded(9 * k + seed)) for k in (1, 2))
            moved = made(x) - made(y)
            assert float((moved * (x - y)).sum()) >= float(moved.square().sum()) * (1 - 1e-9)
    torch.testing.assert_close(firm(made).slopes, made.slopes)


def test_shipped_steps_are_halved() -> None:
    shipped, _ = load_denoiser("one_step_5")
    assert isinstance(shipped, OneStep)
    made = firm(shipped)
    assert shipped.expansion().upper ** 2 > 1.5
    assert 0.999 <= made.expansion().upper ** 2 <= 1
    x = picture().float()
    share = (made.slopes / shipped.slopes)[0, 0]
    torch.testing.assert_close(made(x), (1 - share) * x + share * shipped(x))


@pytest.mark.parametrize("which", ["blur", "inpainting"])
def test_residuals_never_rise_and_go_to_zero(which: str) -> None:
    mask = torch.rand(24, 24, generator=seeded(3)) < 0.7
    operator = Blur(gaussian_kernel(5, 1.0)) if which == "blur" else Inpainting(mask)
    y = operator(picture() + 0.02 * torch.randn(1, 1, 24, 24, generator=seeded(4)))
    made, x, residuals = denoiser(), None, []
    for _ in range(30):
        found = plug_and_play(operator, y, made, 1.5, start=x, max_iterations=1)
        x = found.images
        residuals.append(float(found.residual))
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(residuals))
    assert found.averaged == pytest.approx(0.8)

    converged = plug_and_play(operator, y, made, 1.5, tolerance=1e-4, max_iterations=1000)
    assert float(converged.residual) <= 1e-4 * (1 + float(operator.adjoint(y).norm()))
    # A fixed point is one: the map moves it no more.
    again = plug_and_play(operator, y, made, 1.5, start=converged.images, max_iterations=1)
    assert float(again.residual) <= float(converged.residual)


def test_it_restores() -> None:
    mask = torch.rand(24, 24, generator=seeded(3)) < 0.7
    operator = Inpainting(mask)
    y = operator(picture() + 0.02 * torch.randn(1, 1, 24, 24, generator=seeded(4)))
    found = plug_and_play(operator, y, denoiser(0.3), 1.5)
    before, after = ((images - picture()).square().mean() for images in (y, found.images))
    assert float(after) < 0.1 * float(before)


def test_unrolled_iterations_are_plug_and_play_and_keep_their_bound_while_they_are_trained() -> None:
    operator = Blur(gaussian_kernel(5, 1.0))
    network = UnrolledProximalGradient(operator, denoiser(), iterations=4).double()
    noisy = picture() + 0.05 * torch.randn(3, 1, 24, 24, generator=seeded(5))
    y = operator(noisy)
    with torch.no_grad():
        network.strength_logits.fill_(40.0)
    expected = plug_and_play(operator, y, denoiser(), 0.995, tolerance=0.0, max_iterations=4).images
    torch.testing.assert_close(network(y).detach(), expected, rtol=0, atol=1e-9)

    optimizer, losses = torch.optim.Adam(network.parameters(), lr=0.3), []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (network(y) - picture()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.97 * losses[0]
    with torch.no_grad():
        network.step_logits += 60 * torch.randn(4, generator=seeded(6))
        network.strength_logits += 60 * torch.randn(4, generator=seeded(7))
        moved = 0.3 * torch.randn(y.shape, generator=seeded(8), dtype=torch.float64)
        ratio = float((network(y + moved) - network(y)).norm() / moved.norm())
    assert ratio <= network.lipschitz_bound() <= 1 + 4 * 1.99
    assert bool((network.steps() < 2).all())


def test_refusals() -> None:
    operator, y = Blur(gaussian_kernel(5, 1.0)), picture()
    with pytest.raises(UsageError, match="2/"):
        plug_and_play(operator, y, denoiser(), 2.0)
    shipped, _ = load_denoiser("one_step_5")
    assert isinstance(shipped, OneStep)
    with pytest.raises(UsageError, match=r"take firm\(denoiser\)"):
        plug_and_play(operator, y.float(), shipped)
    with pytest.raises(UsageError, match="strength"):
        firm(shipped, 0.0)
