"""Plug-and-play: what is certified of the denoiser, and what follows for the iteration."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from convexblocks.formulations import UsageError
from convexblocks.networks.inverse_problems import firm, plug_and_play
from convexblocks.networks.one_step_denoiser import OneStepDenoiser
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


@pytest.mark.parametrize("strength", [1.0, 0.2])
def test_acceleration_finds_the_same_point_in_fewer_iterations(strength: float) -> None:
    operator, made = Blur(gaussian_kernel(5, 1.5)), denoiser(strength)
    noise = 0.02 * torch.randn(2, 1, 24, 24, generator=seeded(4), dtype=torch.float64)
    y = operator(picture() + noise)
    plain = plug_and_play(operator, y, made, 0.99, tolerance=1e-7, max_iterations=20000)
    quick = plug_and_play(operator, y, made, 0.99, accelerate=True, tolerance=1e-7, max_iterations=20000)
    assert quick.iterations < plain.iterations / 2
    torch.testing.assert_close(quick.images, plain.images, rtol=0, atol=1e-3)
    again = plug_and_play(operator, y, made, 0.99, start=quick.images, max_iterations=1)
    assert bool((again.residual <= quick.residual * (1 + 1e-9)).all())
    with pytest.raises(UsageError, match="to accelerate"):
        plug_and_play(operator, y, made, 1.5, accelerate=True)


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
    assert 1 < network.lipschitz_bound() <= 1 + 4 * 1.99
    assert bool((network.steps() < 2).all())


@pytest.mark.parametrize("norm", [0.2, 5.0])
def test_the_bound_of_unrolled_iterations_is_nearly_reached(norm: float) -> None:
    """Climbed to the worst direction: without any of its terms the bound would be false (|H| small), or loose."""
    network = UnrolledProximalGradient(Blur(norm * gaussian_kernel(5, 1.0)), denoiser(), iterations=4).double()
    with torch.no_grad():
        # Steps of about 0.02/|H|^2: what is fitted in one iteration is hardly taken back by the next.
        network.step_logits.fill_(-4.6)
    y = norm * picture(12)
    direction = torch.randn(y.shape, generator=seeded(8), dtype=torch.float64)
    for _ in range(30):
        direction = direction / direction.norm()
        _, forward = torch.autograd.functional.jvp(network, y, direction)
        _, direction = torch.autograd.functional.vjp(network, y, forward)
    moved = 1e-3 * direction / direction.norm()
    ratio = float(((network(y + moved) - network(y)).norm() / moved.norm()).detach())
    bound, steps = network.lipschitz_bound(), network.steps().detach()
    assert 0.9 * bound < ratio <= bound
    assert bound == pytest.approx(norm * (1 + float(steps.sum())))
    if norm < 1:
        dropped = (norm * float(steps.sum()), norm * (1 + float(steps[1:].sum())))
        assert all(other < ratio for other in dropped)
    else:
        assert 1 + float(steps.sum()) < ratio


def test_unrolled_iterations_own_their_denoiser() -> None:
    """Copies: filters of a module in training are not followed, types and files take them along."""
    model = OneStepDenoiser(pairs=2, side=3)
    network = UnrolledProximalGradient(Blur(gaussian_kernel(3, 1.0)), model.step(), iterations=2)
    y = picture().float()
    expected = network(y).detach()
    for _ in range(2):
        network(y).square().sum().backward()
    assert model.raw.grad is None
    with torch.no_grad():
        model.raw *= 2
    torch.testing.assert_close(network(y).detach(), expected)
    other = UnrolledProximalGradient(
        Blur(gaussian_kernel(3, 2.0)), OneStepDenoiser(pairs=2, side=3).step(), iterations=2
    )
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(y).detach(), expected)
    assert network.double()(y.double()).dtype == torch.float64
    assert network.lipschitz_bound() == pytest.approx(1 + 1.99, rel=1e-6)
    network.slopes *= 1.5
    with pytest.raises(UsageError, match="expand by"):
        network.lipschitz_bound()
    with pytest.raises(UsageError, match="iterations is 0"):
        UnrolledProximalGradient(Blur(gaussian_kernel(3, 1.0)), model.step(), iterations=0)


def test_the_norm_of_a_blur_that_is_loaded_counts() -> None:
    network = UnrolledProximalGradient(Blur(gaussian_kernel(3, 1.0).double()), denoiser(), iterations=2)
    network.load_state_dict(network.state_dict() | {"operator.kernel": 5 * gaussian_kernel(3, 1.0)})
    assert network.lipschitz_bound() == pytest.approx(5 + 1.99 / 5, rel=1e-6)
    with pytest.raises(UsageError, match="2/"):
        plug_and_play(network.operator, picture(), denoiser(), 1.5)


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
    with pytest.raises(UsageError, match="max_iterations is 0"):
        plug_and_play(operator, y, denoiser(), max_iterations=0)
