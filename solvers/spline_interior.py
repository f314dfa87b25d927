"""Fitting many splines at once: an interior point whose Newton step is a sweep over the knots or a banded system.

Unknowns: the first value and the slopes of each spline, and a multiplier nu_j, |nu_j| <= penalty, for each jump a_j =
s_(j+1) - s_j; losses with intervals have a multiplier Theta_i for every sample too. All inequalities stand in one array
of *slacks*, one row each, beside one array of their *prices*:

    slack        penalty - nu    nu + penalty    high - s    s - low    high - Theta    Theta - low
    price        m+              m-              al          be         e+              e-

so that a = m+ - m- at every iterate, and the residual of a sample is e+ - e- (and bend theta). The central path is
price * slack = tau in all rows. Rows of an infinite bound are switched off, channel by channel. Steps are Mehrotra's: a
predictor says how far tau can fall, a corrector takes the second-order term along; one factorization, two sweeps. Every
channel has its own step length, and leaves the batch when its verified gap is small enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ..formulations.activation_row import Array, library
from . import spline_banded, spline_riccati
from .spline_program import Program, measure_splines
from .spline_statistics import integrate, running_sums, some

ITERATIONS = 80
PATIENCE = 30
FRACTION = 0.999
FEW = 20
"""Channels up to which the Newton step is a banded system for each: a sweep costs as much for one as for many."""


@dataclass(frozen=True)
class Point:
    """An iterate; `on` says which rows of slacks and prices are not switched off."""

    first: Array
    s: Array
    nu: Array
    theta: Array
    slack: Array
    price: Array
    on: Array

    def take(self, kept: Any) -> Point:
        """The iterates of some channels."""
        return Point(**{name: some(part, kept) for name, part in vars(self).items()})

    def rows(self) -> tuple[slice, ...]:
        """The rows of m+, m-, al, be, e+ and e-."""
        jumps, cells, samples = len(self.nu), len(self.s), len(self.theta)
        ends = np.cumsum([0, jumps, jumps, cells, cells, samples, samples]).tolist()
        return tuple(slice(*pair) for pair in pairwise(ends))


@dataclass(frozen=True)
class Fitted:
    """The best points found, of every channel, with their relative gaps; and the iterations spent."""

    first: Array
    s: Array
    nu: Array
    theta: Array
    gap: Array
    iterations: Array

    def take(self, kept: Any) -> Fitted:
        """The points of some channels."""
        return Fitted(**{name: some(part, kept) for name, part in vars(self).items()})

    def put(self, channels: Any, other: Fitted) -> None:
        """Write the points of some channels."""
        for name, part in vars(self).items():
            part[..., channels] = getattr(other, name)

    def or_better(self, other: Fitted) -> Fitted:
        """Of every channel the point with the smaller gap, and the iterations of `other`."""
        better = other.gap < self.gap
        if bool(better.all()):
            return other
        arrays = library(better)
        parts = {name: arrays.where(better, getattr(other, name), part) for name, part in vars(self).items()}
        return Fitted(**parts | {"iterations": other.iterations})


def fit_scaled(program: Program, point: Point, tolerance: float) -> Fitted:
    """Fit all channels to a verified relative gap, or as far as it goes.

    Parameters
    ----------
    program : Program
        Data of about the size one.
    point : Point
        Where to start; inside all bounds.
    tolerance : float
        Of the relative gap.
    """
    arrays = library(point.s)
    channels = arrays.where(point.first == point.first)[0]
    progress = 0 * point.first
    held = Fitted(point.first, point.s, point.nu, point.theta, progress + np.inf, progress)
    best = held.take(channels)
    for iteration in range(ITERATIONS + 1):
        first, s, _, _, gap, _ = measure_splines(program, point.first, point.s, point.nu, point.theta)
        progress = arrays.where(gap < 0.5 * held.gap, 0 * progress + iteration, progress)
        held = held.or_better(Fitted(first, s, point.nu, point.theta, gap, 0 * gap + iteration))
        going = (held.gap > tolerance) & (progress > iteration - PATIENCE)
        if iteration == ITERATIONS or not bool(going.any()):
            break
        if not bool(going.all()):
            left, kept = arrays.where(~going)[0], arrays.where(going)[0]
            best.put(channels[left], held.take(left))
            program, point, held = program.take(kept), point.take(kept), held.take(kept)
            channels, progress = channels[kept], progress[kept]
        point = advance(program, point)
    best.put(channels, held)
    return best


def advance(program: Program, point: Point) -> Point:
    """One step: predictor, corrector, and as far as the bounds allow.

    With r = d_slack / slack and q = d_price / price, Newton's equations are q + r = target / (price * slack) - 1. The
    target of the predictor is zero.
    """
    arrays = library(point.s)
    up, down, top, bottom, over, under = point.rows()
    slack, price, on = point.slack, point.price, point.on
    inverse = on / slack
    weight = price * inverse
    S = weight[up] + weight[down]
    v = integrate(program.widths, point.first, point.s)
    model = program.term.linearize(v, point.s, point.theta, weight[over] + weight[under])
    solve = _newton_solver(program, model.Q0, model.Q1, model.Q2 + weight[top] + weight[bottom], S)

    def direction(aim: Array) -> tuple[Array, ...]:
        """The step after which the price is, to first order, `aim` less weight * d_slack; its last entry is r."""
        rho = (aim[up] - aim[down] - (price[up] - price[down])) / S
        shift = aim[over] - aim[under] - (price[over] - price[under])
        g0, g1 = model.gradient(shift)
        dv, ds, forces = solve(g0, g1 + (aim[top] - aim[bottom]), point.nu - rho)
        dnu = forces - rho
        d_theta = model.multipliers(dv, ds, shift)
        return dv[0], ds, dnu, d_theta, inverse * arrays.concatenate([-dnu, dnu, -ds, ds, -d_theta, d_theta])

    product = price * slack
    gap = product.sum(0)
    r = direction(0 * price)[-1]
    a = 1.0 / arrays.clip(arrays.maximum(-arrays.amin(r, 0), 1 + arrays.amax(r, 0)), 1.0, None)
    # The second-order term, d_slack * d_price = price * slack * r * q, where q = -1 - r.
    bend = product * r * (-1 - r)
    left = (1 - a) * gap + a * a * bend.sum(0)
    # Lines without bounds have no rows.
    rows = arrays.clip(on.sum(0), 1.0, None)
    tau = arrays.clip(left / arrays.where(gap > 0, gap, 1 + gap), 0.0, 1.0) ** 3 * gap / rows
    # The whole of it, of a step that can be taken in small part only, can lead back and forth for ever.
    target = on * tau - a * bend
    d_first, ds, dnu, d_theta, r = direction(target * inverse)
    change = target - product
    q = change / (product + (1.0 - on)) - r
    a = FRACTION / arrays.clip(-arrays.minimum(arrays.amin(r, 0), arrays.amin(q, 0)), FRACTION, None)
    # Of a convex program the gap can rise along a step: go no further than to where it is least.
    change, bend = change.sum(0), (product * r * q).sum(0)
    least = -change / (2 * arrays.where(bend > 0, bend, 1 + 0 * bend))
    a = arrays.where(bend > 0, arrays.minimum(a, arrays.maximum(least, a / 10)), a)

    def moved(a: Array) -> Point:
        return Point(
            point.first + a * d_first, point.s + a * ds, point.nu + a * dnu, point.theta + a * d_theta,
            slack * (1 + a * r), price * (1 + a * q), on,
        )  # fmt: skip

    return _damp(program, point, moved, a, 1e-3 * gap) if program.term.smooth else moved(a)


def _newton_solver(program: Program, *matrix: Array) -> Callable[[Array, Array, Array], tuple[Array, Array, Array]]:
    """What solves for a linear term: LAPACK for a few channels, sweeps over the knots for many."""
    Q0, pinned = matrix[0], program.pinned
    if isinstance(Q0, np.ndarray) and Q0.shape[1] <= FEW:
        bands = spline_banded.factorize(program.widths, *matrix, pinned=pinned)
        if bands is not None:
            return partial(spline_banded.substitute, bands, pinned=pinned)
    return partial(spline_riccati.substitute, spline_riccati.factorize(program.widths, *matrix), pinned=pinned)


def _damp(program: Program, point: Point, moved: Any, a: Array, allowed: Array) -> Point:
    """Halve the steps after which the equations of a smooth loss hold worse than before."""
    arrays = library(a)
    limit = arrays.maximum(1.5 * _imbalance(program, point), allowed)
    for _ in range(12):
        # Also true of what is not a number.
        bad = ~(_imbalance(program, moved(a)) <= limit)
        if not bool(bad.any()):
            break
        a = arrays.where(bad, a / 2, a)
    return moved(a)  # type: ignore[no-any-return]


def _imbalance(program: Program, point: Point) -> Array:
    """Largest violation of the equations that say the point is stationary in the first value and the slopes."""
    arrays = library(point.s)
    _, _, top, bottom, _, _ = point.rows()
    first, second = program.term.slopes(integrate(program.widths, point.first, point.s), point.s)
    total = first.sum(0)
    rest = second + program.widths * (total - running_sums(first)) + point.price[top] - point.price[bottom]
    rest[1:] += point.nu
    rest[:-1] -= point.nu
    return arrays.maximum(arrays.amax(abs(rest), 0), abs(total))
