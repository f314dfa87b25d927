"""One-step denoisers D(y) = y - W' sigma(W y): their operator, and the convex fit of all activations.

The activations are odd and piecewise linear: sigma_c(u) = sign(u) sum_k s_ck ramp_k(|u|), where ramp_k rises with slope
1 from knot k to the next one, the last without end. D is linear in the slopes s, so that least squares in the image is
one quadratic program (formulations/ridge_regularizer.py, RidgeRefit), with the constraint that D does not expand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from ..formulations.errors import UsageError
from ..formulations.ridge_regularizer import RidgeRefit
from .convolution_norm import PROOF_GRID, ConvolutionNorm, convolution_norm_bound, squared_symbol
from .ridge_regularizer import RidgeRegularizer, is_mirrored
from .solution import SolveError

KNOTS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 11.0, 16.0)
FIT_GRID = 96


@dataclass(frozen=True)
class OneStep:
    """A denoiser D(y) = y - W' sigma(W y) with mirrored borders.

    Attributes
    ----------
    filters : Tensor, shape (channels, side, side)
        Correlation kernels. For the bounds the bank, each filter times the root of its largest slope, has to be closed
        under both mirrorings up to signs, see solvers/ridge_regularizer.py; `pair_bank` of networks makes such banks.
    knots : Tensor, shape (channels, cells)
        Where the cells of |u| begin, increasing; the first at 0, the last cell has no end.
    slopes : Tensor, shape (channels, cells)
        Slopes of sigma on the cells, >= 0.
    """

    filters: Tensor
    knots: Tensor
    slopes: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """D(y), for images of shape (batch, 1, rows, columns)."""
        operator = RidgeRegularizer(self.filters, self.slopes[:, 0], self.slopes[:, 0])
        responses = operator.analysis(images)
        return images - operator.synthesis(spline(responses, self.knots, self.slopes))

    def expansion(self, grid: int = PROOF_GRID) -> ConvolutionNorm:
        """Bounds of the square root of sup_w sum_c (largest slope of c) |k_c(w)|^2; D is non-expansive if upper^2 <= 2.

        In general |D(y) - D(y')| <= max(1, upper^2 - 1) |y - y'|.

        Raises
        ------
        UsageError
            If a slope is negative, the knots do not increase from 0, or the bank is not closed under both mirrorings:
            then this says nothing of D.
        """
        self._check_activations()
        largest = self.slopes.amax(1).double().sqrt()
        bank = largest[:, None, None] * self.filters.double()
        if not is_mirrored(bank):
            raise UsageError(
                "the filters, each times the root of its largest slope, are not closed under mirroring rows and "
                "columns up to signs; expected that, for at mirrored borders nothing is known of others: make them by "
                "pair_bank."
            )
        return convolution_norm_bound(bank[:, None], grid=grid)

    def lipschitz_bound(self, grid: int = PROOF_GRID) -> float:
        """An upper bound of the Lipschitz constant of D, verified up to rounding, for images of any size.

        Raises
        ------
        UsageError
            As `expansion`.
        """
        return max(1.0, self.expansion(grid).upper ** 2 - 1.0)

    def _check_activations(self) -> None:
        knots, slopes = self.knots, self.slopes
        if slopes.dim() != 2 or knots.shape != slopes.shape or len(slopes) != len(self.filters):
            shapes = [tuple(part.shape) for part in (self.filters, knots, slopes)]
            raise UsageError(
                f"filters, knots and slopes have the shapes {shapes}; expected (channels, side, side) and twice "
                "(channels, cells)."
            )
        if not bool(torch.isfinite(slopes).all()) or not bool((slopes >= 0).all()):
            raise UsageError(f"the least slope is {float(slopes.min()):g}; expected finite numbers of 0 or more.")
        if bool((knots[:, 0] != 0).any()) or not bool((torch.diff(knots, dim=1) > 0).all()):
            raise UsageError("the knots do not increase from 0; expected rows that begin at 0, each above the last.")


def spline(responses: Tensor, knots: Tensor, slopes: Tensor) -> Tensor:
    """sigma_c of every response (batch, channels, rows, columns): changes of slope, one for each knot."""
    size = responses.abs()
    changes = torch.diff(slopes, dim=1, prepend=torch.zeros_like(slopes[:, :1]))
    total = changes[:, 0, None, None] * size
    for cell in range(1, knots.shape[1]):
        total = total + changes[:, cell, None, None] * (size - knots[:, cell, None, None]).relu()
    return total * responses.sign()


def ramps(responses: Tensor, knots: Tensor) -> Tensor:
    """Odd ramps of every cell: (channels, rows, columns) and (channels, cells) -> (channels, cells, rows, columns)."""
    widths = torch.diff(knots, dim=1, append=torch.full_like(knots[:, :1], float("inf")))
    above = (responses.abs()[:, None] - knots[..., None, None]).relu()
    return torch.minimum(above, widths[..., None, None]) * responses.sign()[:, None]


@dataclass(frozen=True)
class RefitStatistics:
    """What the fit needs of the training images: means over pixels.

    Attributes
    ----------
    gram : array, shape (pairs * cells, pairs * cells)
        Products of the features W' ramp(W y), a filter and its mirror image together.
    products : array, shape (pairs * cells,)
        Their products with the noise y - x.
    noise : float
        Mean square of the noise.
    """

    gram: np.ndarray
    products: np.ndarray
    noise: float

    def error(self, slopes: np.ndarray) -> float:
        """Mean squared error of the denoiser with these slopes (pairs, cells), on the training images."""
        s = slopes.ravel()
        return float(s @ self.gram @ s - 2 * s @ self.products + self.noise)


@torch.no_grad()
def refit_statistics(
    filters: Tensor, knots: Tensor, clean: Tensor, sigma: float, random_state: int = 0
) -> RefitStatistics:
    """Accumulate Gram matrix and products over images, one at a time.

    Parameters
    ----------
    filters : Tensor, shape (2 pairs, side, side)
        The second half mirror images of the first.
    knots : Tensor, shape (2 pairs, cells)
        The same for both halves.
    clean : Tensor, shape (images, 1, rows, columns)
        Training images with values in [0, 1].
    sigma : float
        Standard deviation of the noise on the scale 0..255.
    random_state : int
        Seed of the noise.
    """
    generator = torch.Generator().manual_seed(random_state)
    pairs, cells = len(filters) // 2, knots.shape[1]
    gram = torch.zeros(pairs * cells, pairs * cells, dtype=torch.float64)
    products, noise, pixels = torch.zeros(pairs * cells, dtype=torch.float64), 0.0, 0
    for x in clean:
        error = sigma / 255 * torch.randn(x.shape, generator=generator)
        features = torch.empty(pairs * cells, x.numel())
        for pair in range(pairs):
            members = [pair, pair + pairs]
            operator = RidgeRegularizer(filters[members], knots[members, 0], knots[members, 0])
            ramp = ramps(operator.analysis((x + error)[None])[0], knots[members]).transpose(0, 1)
            features[pair * cells : (pair + 1) * cells] = operator.synthesis(ramp).reshape(cells, -1)
        gram += (features @ features.T).double()
        products += (features @ error.reshape(-1)).double()
        noise, pixels = noise + float(error.double().square().sum()), pixels + x.numel()
    return RefitStatistics((gram / pixels).numpy(), (products / pixels).numpy(), noise / pixels)


def refit(
    filters: Tensor, knots: Tensor, statistics: RefitStatistics, *, cap: float = 2.0, price: float = 1e-8
) -> OneStep:
    """Fit all slopes by one convex program, such that the denoiser does not expand.

    The constraint is imposed on a grid of 96 x 96 frequencies; then the slopes are divided by what the bound over all
    frequencies exceeds it, usually a fraction of a per cent.

    Parameters
    ----------
    filters : Tensor, shape (2 pairs, side, side)
        The second half mirror images of the first.
    knots : Tensor, shape (2 pairs, cells)
        The same for both halves.
    statistics : RefitStatistics
        Of the training images.
    cap : float
        2 for a non-expansive denoiser, 1 for a firmly non-expansive one.
    price : float
        Of total variation of the slopes, for filters of norm 1 and mean squared errors of images in [0, 1].

    Raises
    ------
    SolveError
        If Clarabel finds no solution.
    """
    pairs, cells = len(filters) // 2, knots.shape[1]
    symbol = squared_symbol(filters.double(), FIT_GRID)
    # Mirrored frequencies give the same row.
    rows = (symbol[:pairs] + symbol[pairs:])[:, : FIT_GRID // 2 + 1].reshape(pairs, -1).T.numpy()
    values, vectors = np.linalg.eigh(statistics.gram)
    kept = values > 1e-12 * values[-1]
    # Errors relative to the noise: the data are then of the order of one.
    root = np.sqrt(values[kept] / statistics.noise)
    factor = root[:, None] * vectors[:, kept].T
    right = vectors[:, kept].T @ statistics.products / statistics.noise / root

    block = RidgeRefit(channels=pairs, cells=cells, frequencies=len(rows), rank=len(factor))
    problem = block.program()
    data = {"R": factor, "d": right, "H": rows, "price": price / statistics.noise, "cap": cap}
    for parameter in problem.parameters():  # with one cell there are no jumps to be priced
        parameter.value = data[parameter.name()]
    problem.solve(solver=cp.CLARABEL)
    found = problem.var_dict["s"].value
    if found is None:
        raise SolveError(f"Clarabel answers {problem.status} to {block.name}; expected a solution: check the filters.")
    slopes = torch.as_tensor(np.maximum(found, 0), dtype=filters.dtype)
    made = OneStep(filters, knots, torch.cat([slopes, slopes]))
    excess = made.expansion().upper ** 2 / cap
    return replace(made, slopes=made.slopes / max(1.0, excess * (1 + 1e-6)))
