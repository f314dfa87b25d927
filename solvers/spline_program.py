"""What a batch of spline fits minimizes, and how good given splines are: objective, dual value, gap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..formulations.activation_row import Array, library
from .spline_certificate import dual_value, free_dual_value, relative_gap, slope_forces, total_variation
from .spline_statistics import integrate, some
from .spline_terms import IntervalTerm, Measure, Term, Units

FAR = 1e3


@dataclass(frozen=True)
class Program:
    """A batch of fits in scaled units; everything but `widths` and the loss has one entry a channel.

    Attributes
    ----------
    widths : array, shape (cells, 1) or (cells, channels)
    term : Term
        The loss.
    penalty, low, high : array, shape (channels,)
        Price of the kinks, bounds of the slopes; these may be infinite.
    lowest, start, level : array, shape (channels,)
        Loss of a perfect fit, and of a constant, the level.
    regression, spread : array, shape (channels,)
        Slope of regression of y on x, and weighted sum of squares of x about its mean; a spread of zero says that
        neither is known.
    steep : array, shape (channels,)
        The unit of the slopes.
    convex, pinned : bool
        Whether the slopes may only rise; whether the first value stays zero.
    """

    widths: Array
    term: Term
    penalty: Array
    low: Array
    high: Array
    lowest: Array
    start: Array
    level: Array
    regression: Array
    spread: Array
    steep: Array
    convex: bool = False
    pinned: bool = False

    @property
    def can_start_warm(self) -> bool:
        """Whether slopes and multipliers of the jumps say enough of an earlier fit to start from it."""
        return not self.convex and not isinstance(self.term, IntervalTerm)

    @property
    def has_reach(self) -> Array:
        """In which channels the slopes of the best spline have a bound, (channels,): see `spline_certificate`."""
        return (self.spread > 0) & (self.penalty > 0)

    @property
    def free(self) -> Array:
        """In which channels the squared loss has splines that any straight line may be added to, (channels,)."""
        known = 0 * self.spread if self.convex else self.spread
        return (known > 0) & (self.low == -np.inf) & (self.high == np.inf)

    def take(self, kept: Any) -> Program:
        """The fits of some channels."""
        names = ("penalty", "low", "high", "lowest", "start", "level", "regression", "spread", "steep")
        widths = self.widths if self.widths.shape[1] == 1 else some(self.widths, kept)
        parts = {name: some(getattr(self, name), kept) for name in names}
        return replace(self, widths=widths, term=self.term.take(kept), **parts)

    def scaled(self, units: Units) -> Program:
        """The same fits in other units."""
        x, y, weight, theta = units
        loss = weight * theta * y
        return replace(
            self, widths=self.widths / x, term=self.term.scaled(units), penalty=self.penalty / (weight * theta * x),
            low=self.low * (x / y), high=self.high * (x / y), lowest=self.lowest / loss, start=self.start / loss,
            level=self.level / y, regression=self.regression * (x / y), spread=self.spread / (weight * x * x),
            steep=self.steep * (x / y),
        )  # fmt: skip


class Quality(NamedTuple):
    """Feasible splines and how good they are: first values, slopes; objective, dual value and relative gap."""

    first: Array
    s: Array
    objective: Array
    dual: Array
    gap: Array
    reach: Array


def measure_splines(program: Program, first: Array, s: Array, nu: Array, theta: Array) -> Quality:
    """Clip the slopes into their bounds, add the straight lines that help, and measure the gap.

    Parameters
    ----------
    program : Program
        In any units.
    first, s : array, shapes (channels,) and (cells, channels)
        First values and slopes.
    nu, theta : array, shapes (cells - 1, channels) and (samples or 0, channels)
        Any multipliers of the jumps; multipliers w theta of losses with intervals.
    """
    arrays, free = library(s), program.free
    s = arrays.clip(s, program.low, program.high)
    shift, measure = _centred(program, first, s, theta)
    if bool(free.any()):
        tilt = slope_forces(measure.sums, program.widths, 0 * nu).sum(0)
        s = s - arrays.where(free, tilt / arrays.where(free, program.spread, 1 + 0 * tilt), 0 * tilt)
        shift, measure = _centred(program, first, s, theta)
    objective = measure.loss + program.penalty * total_variation(s)
    reach = find_reach(program, s, objective)
    # A stand-in that is not known to hold takes the place of infinite bounds only.
    near = arrays.where(program.has_reach, reach, np.inf + 0 * reach)
    low, high = arrays.maximum(program.low, -near), arrays.minimum(program.high, near)
    low, high = arrays.where(low > -np.inf, low, -reach), arrays.where(high < np.inf, high, reach)
    dual = dual_value(measure.conjugates, measure.sums, program.widths, nu, program.penalty, low, high,
                      convex=program.convex)  # fmt: skip
    if bool(free.any()):
        forces = slope_forces(measure.sums, program.widths, 0 * nu)
        linear = measure.conjugates - measure.loss
        other = free_dual_value(measure.loss, linear, forces, program.penalty, program.regression)
        dual = arrays.where(free, arrays.maximum(dual, other), dual)
    # No spline leaves less than a perfect fit without kinks would.
    dual = arrays.maximum(dual, program.lowest)
    gap = relative_gap(objective, dual, program.lowest, program.start)
    # An iterate that has gone astray never counts as good.
    return Quality(first + shift, s, objective, dual, arrays.where(gap >= 0, gap, 0 * gap + np.inf), reach)


def _centred(program: Program, first: Array, s: Array, theta: Array) -> tuple[Array, Measure]:
    """What to add to all values, and the loss after that."""
    v = integrate(program.widths, first, s)
    shift = program.term.centre(v, s)
    return shift, program.term.measure(v + shift, s, theta)


def find_reach(program: Program, s: Array, objective: Array) -> Array:
    """What stands in for infinite bounds: see `spline_certificate`; far beyond all slopes where that says nothing."""
    arrays = library(s)
    known = program.has_reach
    spread, penalty = (arrays.where(known, part, 1 + 0 * part) for part in (program.spread, program.penalty))
    excess = arrays.clip(objective, 0.0, None)
    reach = abs(program.regression) + (2 * excess / spread) ** 0.5 + excess / penalty
    # Slopes found may all but vanish: what they miss would not count then.
    return arrays.where(known, reach, FAR * arrays.maximum(arrays.amax(abs(s), 0), program.steep))
