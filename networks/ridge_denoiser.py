"""Denoisers that are convex programs: learned (weakly) convex ridge regularizers as torch modules."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..formulations.subproblem import require_size
from ..solvers.convolution_norm import PROOF_GRID, convolution_norm_bound, squared_symbol
from ..solvers.ridge_denoising import denoise, differentiable, gradient_steps
from ..solvers.ridge_regularizer import RidgeRegularizer

LEVELS = (5.0, 15.0, 25.0)
TRAINING_GRID = 48
# Standard deviation, in pixels, of the window over the first filters.
WINDOW = 1.5
# Training would make the kinks sharper and sharper, with little gain, and the solver slower by the square root.
STEEPEST = 32.0
# Below one, so that the objective stays strongly convex with rho = 1, and gaps have a bound.
SQUARED_NORM = 0.99


class RidgeDenoiser(nn.Module):
    """D(y) = argmin over x of 1/2 |x - y|^2 + R(x; sigma), R a learned ridge regularizer with |W| <= 1.

    The bank holds pairs of a filter and its mirror image, each even or odd under a half turn: closed under both
    mirrorings, so that the norm bound holds with mirrored borders (solvers/ridge_regularizer.py). Even filters have
    zero mean, odd ones have it by nature. The bank is divided by (an upper bound of) its norm. Heights depend on the
    noise level: log-linear between the levels 5, 15 and 25, and beyond them.

    Parameters
    ----------
    pairs : int
        Half the channels; half of the pairs are even, half odd.
    side : int
        Side of the filters, odd.
    rho : float
        0 for a convex regularizer, then D is firmly non-expansive; 1 for a 1-weakly convex one, then the objective is
        convex.
    steps : int, optional
        D is that many steps of gradient descent from y instead of the minimizer: trained through all of them, in
        training and in use.
    random_state : int
        Seed of the first filters.

    Raises
    ------
    UsageError
        If a size is impossible, or rho is outside [0, 1].
    """

    def __init__(
        self, *, pairs: int = 24, side: int = 7, rho: float = 1.0, steps: int | None = None, random_state: int = 0
    ) -> None:
        super().__init__()
        if steps is not None:
            require_size(steps=steps)
        if pairs < 2 or pairs % 2 or side < 3 or side % 2 == 0 or not 0 <= rho <= 1:
            raise UsageError(
                f"pairs is {pairs}, side {side}, rho {rho}; expected an even number of pairs, an odd side of 3 or "
                "more, and rho between 0 and 1."
            )
        generator = torch.Generator().manual_seed(random_state)
        self.rho, self.steps = rho, steps
        self.raw = nn.Parameter(windowed_noise(pairs, side, generator))
        self.register_buffer("norm_bound", torch.ones((), dtype=torch.float64))
        self.norm_bound: Tensor
        self._bounded: Tensor | None = None
        self.log_slope = nn.Parameter(torch.full((pairs,), math.log(16.0)))
        with torch.no_grad():
            sizes = self.filters().flatten(1).norm(dim=1)[:pairs]
        # About the thresholds of wavelet shrinkage: some standard deviations of the noise in a channel.
        factor = 3.0 if rho else 1.0
        start = torch.stack([(factor * level / 255 * sizes).log() for level in LEVELS])
        self.log_height = nn.Parameter(start)

    def filters(self) -> Tensor:
        """The bank, divided such that |W|^2 <= 0.99.

        In evaluation by the bound of its norm over all frequencies; in training by the maximum over a grid, which is a
        per cent or so smaller, and differentiable.
        """
        bank = pair_bank(self.raw)
        if not self.training:
            self._bound_norm(bank)
            return math.sqrt(SQUARED_NORM) / self.norm_bound.to(bank.dtype) * bank
        symbol = squared_symbol(bank, TRAINING_GRID).sum(0)
        return math.sqrt(SQUARED_NORM) / symbol.max().sqrt() * bank

    @torch.no_grad()
    def _bound_norm(self, bank: Tensor) -> None:
        """Bound the norm anew where the filters, or the bound itself, are not those of the last time."""
        seen = torch.cat([bank.flatten().double(), self.norm_bound.reshape(1).double()]).cpu()
        # Compared by value: a file that is loaded, or a change in place, does not pass by here.
        if self._bounded is None or not torch.equal(self._bounded, seen):
            self.norm_bound.fill_(convolution_norm_bound(bank[:, None], grid=PROOF_GRID).upper)
            seen[-1] = float(self.norm_bound)
            self._bounded = seen

    def modulus(self) -> float:
        """A modulus of strong convexity of the objective, 1 - rho |W|^2, by a norm bound that holds up to rounding.

        Above zero: the objective is convex, D is 1/modulus-Lipschitz (for rho = 0 even firmly non-expansive), and the
        gap of an answer is at most |gradient|^2 / (2 modulus).
        """
        return 1.0 - self.rho * convolution_norm_bound(self.filters()[:, None], grid=PROOF_GRID).upper ** 2

    def lipschitz_bound(self) -> float:
        """An upper bound of the Lipschitz constant of D, of the minimizer as of steps towards it, up to rounding.

        In training the norm is known roughly, and the bound may be infinite.
        """
        if self.rho == 0:
            return 1.0
        modulus = self.modulus()
        return 1 / modulus if modulus > 0 else math.inf

    def heights(self, sigma: Tensor) -> Tensor:
        """Heights of the potentials at noise levels sigma (batch,) on the scale 0..255, shape (batch, 2 pairs)."""
        place = sigma.log()
        knots = [math.log(level) for level in LEVELS]
        upper = place > knots[1]
        left, right = torch.where(upper, knots[1], knots[0]), torch.where(upper, knots[2], knots[1])
        share = ((place - left) / (right - left))[:, None]
        low, middle, high = self.log_height
        above = upper[:, None]
        logs = torch.where(above, middle, low) * (1 - share) + torch.where(above, high, middle) * share
        return torch.cat([logs, logs], 1).exp()

    def regularizer(self, sigma: Tensor | float) -> RidgeRegularizer:
        """The regularizer at a noise level, a number or one for each image, on the scale 0..255."""
        levels = torch.as_tensor(sigma, dtype=self.raw.dtype, device=self.raw.device).reshape(-1)
        slope = torch.cat([self.log_slope, self.log_slope]).exp().clamp(max=STEEPEST)
        return RidgeRegularizer(self.filters(), slope, self.heights(levels), self.rho)

    def forward(
        self, noisy: Tensor, sigma: Tensor | float, *, tolerance: float = 1e-3, max_iterations: int = 100
    ) -> Tensor:
        """Denoise; differentiable in parameters and images: of the minimizer by implicit differentiation.

        Parameters
        ----------
        noisy : Tensor, shape (batch, 1, rows, columns)
            Images with values in [0, 1], plus noise.
        sigma : Tensor or float
            Standard deviation of the noise on the scale 0..255; a number or one for each image.
        tolerance, max_iterations : float, int
            Of `solvers.ridge_denoising.denoise`; without a meaning for a number of steps.
        """
        regularizer = self.regularizer(sigma)
        if self.steps is not None:
            return gradient_steps(noisy, regularizer, self.steps)
        found = denoise(noisy, regularizer, tolerance=tolerance, max_iterations=max_iterations)
        if not torch.is_grad_enabled():
            return found.images
        return differentiable(found.images, noisy, regularizer)


def windowed_noise(pairs: int, side: int, generator: torch.Generator) -> Tensor:
    """First filters, (pairs, side, side): noise that fades away from the middle, where most of what is learned lies."""
    place = torch.arange(side) - side // 2
    window = torch.exp(-(place[:, None].square() + place.square()) / (2 * WINDOW**2))
    return torch.randn(pairs, side, side, generator=generator) * window / (2 * WINDOW)


def pair_bank(raw: Tensor) -> Tensor:
    """Filters made even (the first half, of zero mean) or odd under a half turn, and their mirror images.

    From shape (pairs, side, side) to (2 pairs, side, side).
    """
    half, turned = len(raw) // 2, raw.flip(-2, -1)
    even, odd = (raw + turned)[:half] / 2, (raw - turned)[half:] / 2
    kernels = torch.cat([even - even.mean((-2, -1), keepdim=True), odd])
    return torch.cat([kernels, kernels.flip(-1)])
