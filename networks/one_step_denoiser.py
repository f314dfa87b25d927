"""A denoiser of one step that does not expand, with learned filters, as a torch module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..solvers.convolution_norm import squared_symbol
from ..solvers.ridge_refit import OneStep
from .ridge_denoiser import TRAINING_GRID, pair_bank, windowed_noise

TRAINING_KNOTS = (0.0, 0.75, 1.5, 2.25, 3.0, 4.0, 6.0, 10.0)


class OneStepDenoiser(nn.Module):
    """D(y) = y - W' sigma(W y), for one noise level: learn the filters here, then fit the activations with `refit`.

    Activations are odd, with slopes >= 0 that are divided by what the step would expand on a grid of frequencies: they
    may move the filters, but are refitted afterwards by a convex program with a rigorous constraint.

    Parameters
    ----------
    pairs, side : int
        As for RidgeDenoiser.
    sigma : float
        Standard deviation of the noise on the scale 0..255, for the knots.
    random_state : int
        Seed of the first filters.

    Raises
    ------
    UsageError
        If a size is impossible.
    """

    def __init__(self, *, pairs: int = 24, side: int = 13, sigma: float = 25.0, random_state: int = 0) -> None:
        super().__init__()
        if pairs < 1 or side < 3 or side % 2 == 0 or not sigma > 0:
            raise UsageError(
                f"pairs is {pairs}, side {side}, sigma {sigma:g}; expected one pair or more, an odd side of 3 or more, "
                "and a noise level above 0."
            )
        generator = torch.Generator().manual_seed(random_state)
        self.sigma = sigma
        self.raw = nn.Parameter(windowed_noise(pairs, side, generator))
        # Steep where noise is, flat where edges are.
        start = torch.tensor([1.5 if knot < 2 else 0.1 for knot in TRAINING_KNOTS])
        self.log_slopes = nn.Parameter(start.log().expand(pairs, -1).clone())

    def filters(self) -> Tensor:
        """The bank, shape (2 pairs, side, side), divided by its norm on a grid."""
        bank = pair_bank(self.raw)
        return bank / squared_symbol(bank, TRAINING_GRID).sum(0).max().sqrt()

    def knots(self, units: tuple[float, ...] = TRAINING_KNOTS) -> Tensor:
        """Knots in standard deviations of the noise in each channel, as cells of |u|, shape (2 pairs, cells)."""
        sizes = self.filters().detach().flatten(1).norm(dim=1)
        return self.sigma / 255 * sizes[:, None] * torch.tensor(units, dtype=sizes.dtype)

    def step(self) -> OneStep:
        """The denoiser with the activations of the training."""
        # Repeated after exp, which may round the same number otherwise at another place.
        filters, slopes = self.filters(), self.log_slopes.exp().repeat(2, 1)
        expansion = (slopes.amax(1)[:, None, None] * squared_symbol(filters, TRAINING_GRID)).sum(0).max()
        return OneStep(filters, self.knots(), slopes * (2 / expansion).clamp(max=1))

    def forward(self, noisy: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """D(y), for images of shape (batch, 1, rows, columns); sigma is ignored, the level is that of the module."""
        denoised: Tensor = self.step()(noisy)
        return denoised
