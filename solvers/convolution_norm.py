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
proven: the bound is verified, not proven. Kernels are first scaled by a power of two, so that no square of
their entries leaves the range of the type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..formulations.errors import UsageError

ROUNDING = 1e-12
PROOF_GRID = 512
"""Frequencies in each axis where a bound is to be tight: the margin is some hundredths of a per cent."""
PART = 2**19
"""Entries of the symbol that are held at a time, 16 bytes each."""


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
        If the kernel has another shape, complex entries or such that are not finite; if its bound is beyond the range
        of float64, or the grid is too coarse.

    Examples
    --------
    >>> print(convolution_norm_bound(torch.tensor([[[[-1.0, 1.0]]]]), grid=1024))
    norm between 2.000000 and 2.000005 (margin 0.000 %; grid 1024 x 1024; upper bound up to rounding)
    """
    if kernel.dim() != 4 or not kernel.numel() or kernel.is_complex() or not bool(torch.isfinite(kernel).all()):
        raise UsageError(
            f"kernel has shape {tuple(kernel.shape)} and type {kernel.dtype}, or entries that are not finite; expected "
            "finite real numbers of shape (outputs, inputs, rows, columns), as the weight of torch.nn.Conv2d."
        )
    degrees = [side - 1 for side in kernel.shape[-2:]]
    if grid <= 2 * max(degrees):
        raise UsageError(
            f"grid is {grid}; expected more than {2 * max(degrees)}, twice the degree of the symbol: take 256 or more."
        )
    scaled, exponent = _scale(kernel.detach().double())
    lower = _squared_norm(scaled, grid)
    factor = math.prod(math.cos(math.pi * degree / grid) for degree in degrees)
    # Rounding of the transform is relative to the sum of the absolute entries, not to the norm itself.
    upper = math.sqrt(lower / factor) + ROUNDING * float(scaled.abs().sum())
    try:
        # Scaled back the bound may be subnormal and rounded down: one step up covers it.
        bound = math.nextafter(math.ldexp(upper, exponent), math.inf) if upper else 0.0
        return ConvolutionNorm(math.ldexp(math.sqrt(lower), exponent), bound, grid)
    except OverflowError:
        raise UsageError("the norm of the kernel is beyond the range of float64; expected smaller entries.") from None


def squared_symbol(filters: Tensor, grid: int) -> Tensor:
    """|k_c(w)|^2 of filters (channels, side, side) on half a grid of frequencies, (channels, grid, grid // 2 + 1)."""
    return torch.fft.rfft2(filters, s=(grid, grid)).abs().square()


def _scale(kernel: Tensor) -> tuple[Tensor, int]:
    """The kernel over a power of two, its largest entry between 1/2 and 1 (or all zero), and the exponent."""
    exponent = math.frexp(float(kernel.abs().max()))[1]
    # In two steps, for the power itself may be out of range.
    half = exponent // 2
    return kernel * 2.0**-half * 2.0 ** (half - exponent), exponent


def _squared_norm(kernel: Tensor, grid: int) -> float:
    """Largest squared singular value of the symbol on half the grid, some columns at a time; the rest is conjugate."""
    columns = torch.fft.rfft(kernel, n=grid)
    outputs, inputs = kernel.shape[:2]
    largest = 0.0
    for part in columns.split(max(1, PART // (outputs * inputs * grid)), dim=-1):
        symbol = torch.fft.fft(part, n=grid, dim=-2).flatten(2).permute(2, 0, 1)
        if min(outputs, inputs) == 1:
            found = symbol.abs().square().sum((1, 2))
        else:
            gram = symbol @ symbol.mH if outputs < inputs else symbol.mH @ symbol
            found = torch.linalg.eigvalsh(gram)[:, -1]
        largest = max(largest, float(found.max()))
    return largest
