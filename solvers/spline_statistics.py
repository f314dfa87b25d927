"""Samples of many splines at once, sorted into the cells between knots; and what least squares needs of them.

A batch holds one spline for every channel. Arrays are knot-major: (cells, channels), (samples, channels). Cell k lies
between knots t_k and t_(k+1) and has the width h_k; the first and the last reach to infinity. A spline is given by its
*states*: the value v_k at the left knot of each cell and the slope s_k in it, so that f(x) = v_k + s_k u with u = x -
t_k. Everything here takes numpy arrays or torch tensors, and gives back the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..formulations.activation_row import Array, library


@dataclass(frozen=True)
class Samples:
    """Samples in cells.

    Attributes
    ----------
    cell : array of int, shape (samples, channels)
        Cell of each sample.
    offset : array, shape (samples, channels)
        u = x - t_k, its distance from the left knot of the cell; below zero, or above the width, beyond the knots.
    y, weights : array, shape (samples, channels)
        Targets and weights.
    cells : int
        How many cells there are.
    """

    cell: Array
    offset: Array
    y: Array
    weights: Array
    cells: int

    def values(self, v: Array, s: Array) -> Array:
        """f(x) of every sample, for the states v and s."""
        return pick(v, self.cell) + self.offset * pick(s, self.cell)

    def sums(self, values: Array) -> tuple[Array, Array]:
        """Sums over the samples of each cell, of values and of values times offsets: each (cells, channels)."""
        first, second = cell_sums(self.cell, self.cells, (values, values * self.offset))
        return first, second

    def take(self, kept: Array) -> Samples:
        """The samples of some channels."""
        cell, offset, y, weights = (some(part, kept) for part in (self.cell, self.offset, self.y, self.weights))
        return Samples(cell, offset, y, weights, self.cells)

    def scaled(self, x: Array, y: Array, weight: Array) -> Samples:
        """The samples in other units of inputs, targets and weights."""
        return Samples(self.cell, self.offset / x, self.y / y, self.weights / weight, self.cells)


def sort_samples(knots: Array, x: Array, y: Array, weights: Array) -> Samples:
    """Find the cell of every sample.

    Parameters
    ----------
    knots : array, shape (knots, 1) or (knots, channels)
        Increasing; shared by the channels or each channel's own.
    x, y, weights : array, shape (samples, channels)
    """
    cells, arrays = len(knots) - 1, library(x)
    # torch warns where it has to make a copy itself.
    x = getattr(x, "contiguous", lambda: x)()
    if knots.shape[1] == 1:
        place = _places(knots[:, 0], x)
    else:
        columns = [
            arrays.searchsorted(1.0 * knots[:, c], 1.0 * x[:, c], side="right") for c in range(knots.shape[1])
        ]
        place = arrays.stack(columns, 1)
    cell = arrays.clip(place - 1, 0, cells - 1)
    return Samples(cell, x - pick(knots, cell), y, weights, cells)


def _places(t: Array, x: Array) -> Array:
    """How many knots are at or below each x, knots beyond the first and the last left out of account."""
    arrays, cells = library(x), len(t) - 1
    width = (t[-1] - t[0]) / cells
    if not bool((abs(t[1:] - t[:-1] - width) <= 1e-3 * width / cells).all()):
        return arrays.searchsorted(t, x, side="right")
    # Evenly spaced, to a thousandth of a cell: a division is one cell off at most, and six times as fast as a search.
    place = arrays.clip((x - t[0]) / width, 0, cells - 1)
    # NaN is in the first cell, and its value NaN.
    place = np.fmax(place, 0).astype(int) if isinstance(place, np.ndarray) else place.nan_to_num().long()
    return place + 1 + 1 * (x >= t[1:][place]) - 1 * (x < t[place])


def pick(values: Array, cell: Array) -> Array:
    """values[cell[i, c], c]; one column of values stands for all channels."""
    if values.shape[1] == 1:
        return values[:, 0][cell]
    return values[cell, _columns(cell)]


def _columns(cell: Array) -> Array:
    return library(cell).cumsum(cell[:1] * 0 + 1, 1) - 1


def some(part: Array, kept: Array) -> Array:
    """The entries of some channels, the last axis; numpy takes columns five times as fast as it indexes them."""
    return part.take(kept, axis=-1) if isinstance(part, np.ndarray) else part[..., kept]


def cell_sums(cell: Array, cells: int, values: Sequence[Array]) -> list[Array]:
    """Sums of each array of values over the samples of each cell, (cells, channels)."""
    channels = cell.shape[1]
    place = (cell * channels + _columns(cell)).reshape(-1)
    arrays = library(cell)
    return [
        arrays.bincount(place, weights=part.reshape(-1), minlength=cells * channels).reshape(cells, channels)
        for part in values
    ]


@dataclass(frozen=True)
class Moments:
    """What least squares needs of the samples, independent of their number: sums over each cell.

    With w the weights: S0, S1, S2 are sums of w, w u, w u^2 and T0, T1 of w y, w y u, each of shape (cells, channels);
    yy of shape (channels,) is the sum of w y^2.
    """

    S0: Array
    S1: Array
    S2: Array
    T0: Array
    T1: Array
    yy: Array

    @classmethod
    def of(cls, samples: Samples) -> Moments:
        """The sums of samples."""
        w, u, y = samples.weights, samples.offset, samples.y
        wu, wy = w * u, w * y
        S0, S1, S2, T0, T1 = cell_sums(samples.cell, samples.cells, (w, wu, wu * u, wy, wy * u))
        return cls(S0, S1, S2, T0, T1, (wy * y).sum(0))

    def value(self, v: Array, s: Array) -> Array:
        """1/2 sum w (f - y)^2 of every channel."""
        squares = self.S0 * v * v + 2 * self.S1 * v * s + self.S2 * s * s
        total = self.yy + (squares - 2 * (self.T0 * v + self.T1 * s)).sum(0)
        # Rounding can take what is left of a perfect fit below zero.
        return library(total).clip(total, 0.0, None) / 2

    def gradient(self, v: Array, s: Array) -> tuple[Array, Array]:
        """Sums over each cell of w (f - y) and w (f - y) u."""
        return self.S0 * v + self.S1 * s - self.T0, self.S1 * v + self.S2 * s - self.T1

    def centre(self, v: Array, s: Array) -> Array:
        """What to add to all values so that the residuals sum to zero, (channels,)."""
        return (self.T0 - self.S0 * v - self.S1 * s).sum(0) / self.S0.sum(0)

    def take(self, kept: Any) -> Moments:
        """The sums of some channels."""
        return Moments(*(some(part, kept) for part in (self.S0, self.S1, self.S2, self.T0, self.T1, self.yy)))

    def scaled(self, x: Array, y: Array, weight: Array) -> Moments:
        """The sums in other units of inputs, targets and weights."""
        return Moments(
            self.S0 / weight, self.S1 / (weight * x), self.S2 / (weight * x * x),
            self.T0 / (weight * y), self.T1 / (weight * x * y), self.yy / (weight * y * y),
        )  # fmt: skip


def integrate(widths: Array, start: Array, s: Array) -> Array:
    """Values at the left knots of the cells, from the first value and the slopes: (cells, channels)."""
    return running_sums(library(s).concatenate([start[None] + 0 * s[:1], widths[:-1] * s[:-1]]))


def running_sums(values: Array) -> Array:
    """Sums of the first 1, 2, ... rows, of the shape of `values`."""
    if not isinstance(values, np.ndarray) or values.shape[1] < 32:
        return library(values).cumsum(values, 0)
    # For many columns six times as fast as numpy's own sum, which goes down one column after the other.
    sums = values.copy()
    for above, row in pairwise(sums):
        row += above
    return sums
