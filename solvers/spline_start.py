"""Where the interior point of a spline fit starts: from nothing, or from an earlier fit.

An earlier fit has its slopes and the multipliers nu of its jumps. An interior point does not start well from where
another one ended: there every slack or its price is all but zero. So the gap of the earlier fit *on the new data* says
how far to step back: tau is a tenth of its share of one row, and slacks and prices are widened until their products are
about tau or more; what was large stays what it was. The prices of the bounds of the slopes are what the new data ask of
them (gamma of `spline_certificate`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..formulations.activation_row import Array, library
from .spline_certificate import slope_forces
from .spline_interior import Point
from .spline_program import Program, Quality, measure_splines
from .spline_statistics import integrate

LEAST_PENALTY, LEAST_PRICE = 1e-13, 1e-4
SHARE = 0.1


class Earlier(NamedTuple):
    """First values, slopes and multipliers of the jumps of earlier fits, in the units of the program."""

    first: Array
    s: Array
    nu: Array


def start_point(program: Program) -> Point:
    """A point inside all bounds: a straight line of small slope, or rising slopes where only these are allowed."""
    arrays = library(program.penalty)
    zero = 0 * program.penalty
    has_low, has_high = program.low > -np.inf, program.high < np.inf
    # A stand-in for a missing bound keeps the start near slope zero.
    low = arrays.where(has_low, program.low, arrays.minimum(program.high, zero) - 2.0)
    high = arrays.where(has_high, program.high, arrays.maximum(low, zero) + 2.0)
    margin = arrays.clip((high - low) / 2, None, 1.0)
    # Cells along the first axis, channels along the second; own widths or shared ones.
    cells = 0 * (program.widths + zero)
    s = cells + arrays.clip(zero, low + margin, high - margin)
    if program.convex and len(s) > 1:
        rank = arrays.cumsum(cells + 1.0, 0) - 1.0
        s = s + margin * (rank / (len(s) - 1) - 0.5)
    jumps, none = s[1:] - s[:-1], 0 * s[1:]
    penalty = arrays.clip(program.penalty, LEAST_PENALTY, None)
    above = none + (arrays.clip(penalty, 1.0, None) if program.convex else penalty)
    first = 1.0 * program.level
    boxes = program.term.boxes(integrate(program.widths, first, s), s)
    theta = (boxes.low + boxes.high) / 2
    half = (boxes.high - boxes.low) / 2
    sampled = 1.0 * (half > 0)
    tops, bottoms = 0 * s + 1.0 * has_high, 0 * s + 1.0 * has_low
    downs = none + (0.0 if program.convex else 1.0)
    on = arrays.concatenate([none + 1.0, downs, tops, bottoms, sampled, sampled])
    slack = arrays.concatenate([above, none + penalty, high - s, s - low, half, half])
    # A tiny penalty would start the bounds of the slopes off as if they cost nothing.
    bound = arrays.clip(0.3 * penalty, LEAST_PRICE, None)
    price = arrays.concatenate(
        [jumps if program.convex else none + 1.0, none + 1.0, 0 * s + bound, 0 * s + bound, boxes.over, boxes.under]
    )
    off = on == 0
    return Point(first, s, none + penalty - above, theta, arrays.where(off, 1.0, slack), price * on, on)


def warm_point(program: Program, cold: Point, earlier: Earlier, tolerance: float) -> tuple[Point, Array]:
    """Points near earlier fits where these are better than a cold start; and in which channels they are.

    Where an earlier fit is good enough as it is, it is the point.

    Parameters
    ----------
    program : Program
        Of a loss without intervals, and without the rule that slopes rise.
    cold : Point
        What `start_point` gives.
    earlier : Earlier
        Fits of other data.
    tolerance : float
        Of the relative gap.
    """
    arrays, on, rows = library(cold.s), cold.on, cold.on.sum(0)
    quality = measure_splines(program, *earlier, cold.theta)
    done = quality.gap <= tolerance
    gamma, gap = _asked_of_bounds(program, quality, earlier.nu, cold.theta)
    tau = arrays.clip(SHARE * gap / rows, 1e-18, None)
    used = done | (gap < (cold.slack * cold.price).sum(0))
    s, al, be = _within(program, quality.s, gamma, tau)
    penalty = arrays.clip(program.penalty, LEAST_PENALTY, None)
    nu, over, under = _split(s[1:] - s[:-1], earlier.nu, penalty, tau)
    slack = arrays.concatenate([penalty - nu, penalty + nu, program.high - s, s - program.low])
    price = arrays.concatenate([over, under, al, be])
    warm = Point(
        quality.first, arrays.where(done, quality.s, s), arrays.where(done, earlier.nu, nu), cold.theta,
        arrays.where(on > 0, slack, cold.slack), price * on, on,
    )  # fmt: skip
    parts = {name: arrays.where(used, getattr(warm, name), part) for name, part in vars(cold).items()}
    return Point(**parts), used


def _asked_of_bounds(program: Program, quality: Quality, nu: Array, theta: Array) -> tuple[Array, Array]:
    """What the data ask of the bounds of the slopes, gamma; and a gap, an estimate.

    In place of infinite bounds it has the largest slope. The verified gap has bounds so far away that tau would be much
    too large.
    """
    arrays, s = library(quality.s), quality.s
    measure = program.term.measure(integrate(program.widths, quality.first, s), s, theta)
    gamma = slope_forces(measure.sums, program.widths, arrays.clip(nu, -program.penalty, program.penalty))
    reach = arrays.amax(abs(s), 0)
    low, high = arrays.maximum(program.low, -reach), arrays.minimum(program.high, reach)
    return gamma, quality.objective + measure.conjugates - arrays.minimum(low * gamma, high * gamma).sum(0)


def _within(program: Program, s: Array, gamma: Array, tau: Array) -> tuple[Array, Array, Array]:
    """Slopes away from their bounds, and the prices of the upper and the lower one."""
    arrays = library(tau)
    al, be = arrays.clip(-gamma, 0.0, None), arrays.clip(gamma, 0.0, None)
    quarter = (program.high - program.low) / 4
    # Where nothing is asked of a bound that is met, slack and price share tau, each in its unit.
    least = (tau * arrays.clip(program.penalty, LEAST_PRICE, None)) ** 0.5
    upper = arrays.minimum(tau / arrays.maximum(al, least), quarter)
    lower = arrays.minimum(tau / arrays.maximum(be, least), quarter)
    s = arrays.clip(s, program.low + lower, program.high - upper)
    return s, arrays.maximum(al, tau / (program.high - s)), arrays.maximum(be, tau / (s - program.low))


def _split(jumps: Array, nu: Array, penalty: Array, tau: Array) -> tuple[Array, Array, Array]:
    """Multipliers away from the penalty; and two prices, whose difference is the jump."""
    arrays = library(tau)
    rise, fall = arrays.clip(jumps, 0.0, None), arrays.clip(-jumps, 0.0, None)
    least = (tau / penalty) ** 0.5
    upper = arrays.minimum(tau / arrays.maximum(rise, least), penalty / 2)
    lower = arrays.minimum(tau / arrays.maximum(fall, least), penalty / 2)
    nu = arrays.clip(nu, lower - penalty, penalty - upper)
    # Equal additions leave the difference.
    both = arrays.maximum(tau / (penalty - nu) - rise, tau / (penalty + nu) - fall)
    both = arrays.maximum(both, 1e-3 * tau / penalty)
    return nu, rise + both, fall + both
