"""Norms of convolutions from above and below.

A convolution with kernels k_oi (outputs o, inputs i) acts at the frequency w as the matrix H(w)_oi = sum_n k_oi(n)
exp(-j w.n); its norm on the plane, and the largest on all tori, is the supremum over w of the largest singular value of
H(w). For a fixed vector v the function w -> |H(w) v|^2 is a real trigonometric polynomial, of degree d = side - 1 in
each axis. On a grid of N > 2d frequencies in an axis such a polynomial p has

    max |p|  <=  max over the grid |p| / cos(pi d / N)                (Ehlich & Zeller 1964, in each axis)

because p(w) >= max|p| cos(d (w - w0)) around its peak w0, as far as pi/d. The supremum over v of both sides gives

    sup over w of |H(w)|^2  <=  max over the grid of |H(w)|^2 / prod over axes of cos(pi d / N).

The maximum over the grid, like every power iteration, is a LOWER bound. The upper one holds in exact arithmetic; it is
computed in float64 and enlarged by a margin for rounding that is generous but not itself
proven: the bound is verified, not proven.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..formulations.errors import UsageError

ROUNDING = 1e-12


@dataclass(frozen=True)
class ConvolutionNorm:
    """Bounds of the norm of a convolution.

    Attributes
    ----------
    lower : float
        Largest singular value of the symbol on the grid: reached, up to rounding.
    upper : float
        Bound over all frequencies: valid in exact arithmetic, enlarged by 1e-12 times the size of the kernel for the
        rounding of float64.
    grid : int
        Frequencies in each axis.
    """

    lower: float
    upper: float
    grid: int

    @property
    def margin(self) -> float:
        """Relative distance of the bounds, (upper - lower)/upper; 0 for a kernel of zeros."""
        return (self.upper - self.lower) / self.upper if self.upper else 0.0

    def __str__(self) -> str:
        return (
            f"norm between {self.lower:.6f} and {self.upper:.6f} (margin {100 * self.margin:.3f} %; "
            f"grid {self.grid} x {self.grid}; upper bound up to rounding)"
        )


def convolution_norm_bound(kernel: Tensor, *, grid: int = 256) -> ConvolutionNorm:
    """Bound the operator norm of a convolution of stride 1, without bias, from above and below.

    The bound holds for circular boundaries on any torus, and for zero padding or none (compressions of the plane); not
    for layers stacked with zero padding, whose product is no convolution: collapse them into one kernel first.

    Parameters
    ----------
    kernel : Tensor, shape (outputs, inputs, rows, columns)
        As of torch.nn.Conv2d with groups = 1.
    grid : int
        Frequencies in each axis, more than twice the side of the kernel. The margin falls like 1/grid^2.

    Raises
    ------
    UsageError
        If the kernel has another shape or entries that are not finite, or the grid is too coarse.

    Examples
    --------
    >>> print(convolution_norm_bound(torch.tensor([[[[-1.0, 1.0]]]]), grid=1024))
    norm between 2.000000 and 2.000005 (margin 0.000 %; grid 1024 x 1024; upper bound up to rounding)
    """
    if kernel.dim() != 4 or not kernel.numel() or not bool(torch.isfinite(kernel).all()):
        raise UsageError(
            f"kernel has shape {tuple(kernel.shape)}, or entries that are not finite; expected finite numbers of shape "
            "(outputs, inputs, rows, columns), as the weight of torch.nn.Conv2d."
        )
    degrees = [side - 1 for side in kernel.shape[-2:]]
    if grid <= 2 * max(degrees):
        raise UsageError(
            f"grid is {grid}; expected more than {2 * max(degrees)}, twice the degree of the symbol: take 256 or more."
        )
    lower = float(_squared_norms(kernel.detach().double(), grid).max())
    factor = math.prod(math.cos(math.pi * degree / grid) for degree in degrees)
    # Rounding of the transform is relative to the sum of the absolute entries, not to the norm itself.
    size = float(kernel.detach().double().abs().sum())
    upper = math.sqrt(lower / factor) + ROUNDING * size
    return ConvolutionNorm(math.sqrt(lower), upper, grid)


def _squared_norms(kernel: Tensor, grid: int) -> Tensor:
    """Largest squared singular value of the symbol at every frequency of half the grid; the rest is conjugate."""
    symbol = torch.fft.rfft2(kernel, s=(grid, grid)).flatten(2).permute(2, 0, 1)
    outputs, inputs = symbol.shape[1:]
    if min(outputs, inputs) == 1:
        return symbol.abs().square().sum((1, 2))
    gram = symbol @ symbol.mH if outputs < inputs else symbol.mH @ symbol
    return torch.linalg.eigvalsh(gram)[:, -1]
