"""One-step denoisers are bounded where their bank is mirrored, and refused where it is not: the borders expand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from convexblocks.formulations import UsageError
from convexblocks.networks.one_step_denoiser import OneStepDenoiser
from convexblocks.networks.ridge_denoiser import pair_bank
from convexblocks.networks.ridge_models import SHIPPED, load_denoiser
from convexblocks.solvers.convolution_norm import convolution_norm_bound
from convexblocks.solvers.ridge_refit import OneStep
from convexblocks.solvers.ridge_regularizer import RidgeRegularizer, is_mirrored

STEPS = [name for name in SHIPPED if name.startswith("one_step")]


def with_slopes(bank: torch.Tensor, largest: float = 1.0) -> OneStep:
    bank = bank.double()
    slopes = torch.tensor([[largest, largest / 2]], dtype=torch.float64).repeat(len(bank), 1)
    return OneStep(bank, torch.tensor([[0.0, 0.1]], dtype=torch.float64).repeat(len(bank), 1), slopes)


def shift() -> torch.Tensor:
    """The pixel below, and its mirror image left to right, which is the same."""
    bank = torch.zeros(2, 3, 3, dtype=torch.float64)
    bank[:, 2, 1] = 0.5**0.5
    return bank


def random_pairs() -> torch.Tensor:
    kernels = torch.randn(1, 5, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return torch.cat([kernels, kernels.flip(-1)])


def expands(bank: torch.Tensor) -> float:
    """The largest eigenvalue of W'W on small images, over the square of the bound from the symbol."""
    W = RidgeRegularizer(bank, bank[:, 0, 0], bank[:, 0, 0]).matrix(6, 6)
    return float(torch.linalg.eigvalsh(W.T @ W)[-1]) / convolution_norm_bound(bank[:, None]).upper ** 2


@pytest.mark.parametrize("bank", [shift(), random_pairs()], ids=["shift", "random pairs"])
def test_banks_that_are_not_mirrored_do_expand_and_are_refused(bank: torch.Tensor) -> None:
    assert expands(bank) > 1.05
    step = with_slopes(bank)
    for use in (step.expansion, step.lipschitz_bound):
        with pytest.raises(UsageError, match="not closed under mirroring"):
            use()


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_banks_do_not(seed: int) -> None:
    bank = pair_bank(torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    assert is_mirrored(bank)
    assert is_mirrored(bank.flip(0))
    assert is_mirrored(-bank)
    assert expands(bank) <= 1
    assert with_slopes(bank).expansion().upper > 0
    # Of a pair each has to have the same slope; what is never used is not asked.
    step = with_slopes(bank)
    step.slopes[0] *= 1.5
    with pytest.raises(UsageError, match="not closed"):
        step.expansion()
    with pytest.raises(UsageError, match="not closed"):
        with_slopes(bank * torch.linspace(1, 1.01, 8, dtype=torch.float64)[:, None, None]).expansion()


def test_closed_up_to_signs_and_order() -> None:
    """Sobel filters: each is its own mirror image, or the negative of it."""
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    assert is_mirrored(torch.stack([sobel, sobel.T]))
    corner = torch.zeros(4, 3, 3)
    corner[0, 0, 0] = corner[1, 2, 2] = corner[2, 0, 2] = 1.0
    assert not is_mirrored(corner[:3])
    corner[3, 2, 0] = -1.0
    assert is_mirrored(corner)


@pytest.mark.parametrize("name", STEPS)
def test_shipped_steps_are_mirrored(name: str) -> None:
    step, _ = load_denoiser(name)
    assert isinstance(step, OneStep)
    assert step.expansion().upper ** 2 <= 2.00001


def test_steps_in_training_are_mirrored() -> None:
    model = OneStepDenoiser(pairs=5, side=5)
    with torch.no_grad():
        model.log_slopes += torch.randn(model.log_slopes.shape, generator=torch.Generator().manual_seed(1))
    assert model.step().expansion().upper ** 2 < 2.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slopes": [[-5.0, 0.5]]}, "least slope is -5"),
        ({"slopes": [[0.5, float("nan")]]}, "least slope"),
        ({"knots": [[0.1, 0.2]]}, "increase from 0"),
        ({"knots": [[0.0, 0.0]]}, "increase from 0"),
        ({"knots": [[0.0, float("nan")]]}, "increase from 0"),
        ({"knots": [[0.0, 0.1, 0.2]]}, "shapes"),
    ],
    ids=["negative", "nan", "begins late", "twice", "nan knot", "shape"],
)
def test_activations_that_are_not_as_assumed_are_refused(change: dict[str, list[list[float]]], message: str) -> None:
    step = with_slopes(pair_bank(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(2))))
    changed = {name: torch.tensor(rows, dtype=torch.float64).repeat(4, 1) for name, rows in change.items()}
    with pytest.raises(UsageError, match=message):
        replace(step, **changed).lipschitz_bound()


def test_images_smaller_than_the_filters_reach_are_refused() -> None:
    step = with_slopes(pair_bank(torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(3))))
    assert step(torch.rand(1, 1, 4, 4, dtype=torch.float64)).shape == (1, 1, 4, 4)
    for size in ((3, 8), (8, 1)):
        with pytest.raises(UsageError, match=f"{size[0]} x {size[1]} pixels; expected 4"):
            step(torch.rand(1, 1, *size, dtype=torch.float64))
    with pytest.raises(UsageError, match="expected 1 or more"):
        RidgeRegularizer(torch.ones(1, 1, 1), torch.ones(1), torch.ones(1)).analysis(torch.ones(1, 1, 0, 3))
