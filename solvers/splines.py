"""fit_splines: linear splines with few kinks and bounded slopes, many at once, each with a verified gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formulations.activation_row import Array, library
from ..formulations.errors import UsageError
from ..formulations.slope_properties import SlopeProperty
from ..formulations.spline_losses import SplineLoss
from .solution import Status
from .spline_input import SplineData, check_spline_data
from .spline_interior import Fitted, fit_scaled
from .spline_program import Quality, measure_splines
from .spline_start import Earlier, start_point, warm_point
from .spline_statistics import integrate, sort_samples
from .spline_terms import Units

KINK = 1e-6


@dataclass(frozen=True, repr=False)
class SplineFit:
    """Linear splines of a batch of channels; arrays are knot-major, channels last.

    Attributes
    ----------
    knots : array, shape (knots, 1) or (knots, channels)
        Shared by the channels or each channel's own.
    coefficients : array, shape (knots, channels)
        Values at the knots.
    slopes : array, shape (knots - 1, channels)
        Slopes between them, exactly within their bounds; `coefficients` are their sums, rounded.
    multipliers : array, shape (knots - 2, channels)
        Of the jumps of the slope at the inner knots, nu of `solvers.spline_certificate`: up to the penalty in size,
        which they reach where the spline bends. Exact fits keep those of all their samples.
    objective : array, shape (channels,)
        Loss and penalty of these very splines.
    dual_value : array, shape (channels,)
        A lower bound on the objective of every spline on these knots. It holds in exact arithmetic for the multipliers
        at hand, whatever made them, and is evaluated in floating point: the gap is *verified*, not proven.
    relative_gap : array, shape (channels,)
        (objective - dual_value) / objective; where the fit is all but perfect, over a millionth of what a constant
        leaves instead. Of the Poisson loss, what a perfect fit leaves is taken from the objective first.
    status : tuple of Status
        Solved where the relative gap is at most the tolerance.
    low, high : array, shape (channels,)
        Bounds of the slopes.
    reach : array, shape (channels,)
        Where a bound is infinite, the dual value is a lower bound over splines with slopes up to `reach` in size;
        infinite where both bounds are finite. For the squared loss and a positive penalty the best spline is among
        them, so that the bound holds for all (`solvers.spline_certificate`). For others `reach` is a thousand times
        the largest slope found, or a thousand units (the deviation of the targets over the length of x and knots)
        where that is more.
    iterations : array, shape (channels,)
        Newton steps.
    """

    knots: Array
    coefficients: Array
    slopes: Array
    multipliers: Array
    objective: Array
    dual_value: Array
    relative_gap: Array
    status: tuple[Status, ...]
    low: Array
    high: Array
    reach: Array
    iterations: Array

    @property
    def solved(self) -> bool:
        """Whether every channel met the tolerance."""
        return all(status is Status.SOLVED for status in self.status)

    @property
    def at_low(self) -> Array:
        """Which slopes are at their lower bound, (knots - 1, channels), to a millionth of the largest slope."""
        return self.slopes - self.low <= self._small()

    @property
    def at_high(self) -> Array:
        """Which slopes are at their upper bound, (knots - 1, channels), to a millionth of the largest slope."""
        return self.high - self.slopes <= self._small()

    @property
    def kinks(self) -> Array:
        """Which inner knots bend the spline, (knots - 2, channels): jumps above a millionth of the largest slope."""
        return abs(self.slopes[1:] - self.slopes[:-1]) > self._small()

    @property
    def slope_violation(self) -> Array:
        """Largest violation of a slope bound, (channels,): exactly zero."""
        outside = library(self.slopes).maximum(self.low - self.slopes, self.slopes - self.high)
        return library(self.slopes).clip(library(outside).amax(outside, 0), 0.0, None)

    def _small(self) -> Array:
        return KINK * library(self.slopes).amax(abs(self.slopes), 0)

    def values(self, x: Array) -> Array:
        """The splines at inputs of shape (points, channels) or (points, 1): (points, channels)."""
        x = x + 0 * self.coefficients[:1]
        return sort_samples(self.knots, x, x, x).values(self.coefficients[:-1], self.slopes)

    def __repr__(self) -> str:
        """One line: sizes, and how good the worst channel is."""
        knots, channels = self.coefficients.shape
        solved = sum(status is Status.SOLVED for status in self.status)
        gap = float(self.relative_gap.max())
        return f"SplineFit of {channels} channels, {knots} knots: {solved} solved, largest relative gap {gap:.1e}"


def fit_splines(
    x: Any, y: Any, knots: Any, *,
    slopes: str | tuple[Any, Any] | SlopeProperty = "firmly_nonexpansive", penalty: Any = 1.0,
    loss: str | SplineLoss = "squared", weights: Any = None, odd: bool = False, tolerance: float = 1e-9,
    start: SplineFit | None = None,
) -> SplineFit:  # fmt: skip
    """Fit a linear spline with bounded slopes to the samples of every channel.

    Minimizes sum_i w_i loss(f(x_i); y_i) + penalty * (sum of |jumps of the slope|) subject to low <= f' <= high; the
    model is `formulations.SlopeSpline`. Numbers are taken to float64; tensors on a GPU are solved there, all other
    arrays by numpy, which is quicker at these sizes.

    Parameters
    ----------
    x, y : array, shape (samples,) or (samples, channels)
        Inputs and targets; a single column of x stands for all channels. Equal inputs are fine.
    knots : array, shape (knots,) or (knots, channels)
        Increasing, two or more, shared or each channel's own. Beyond the ends the splines go on straight.
    slopes : str, pair, or SlopeProperty
        A property (``"monotone"``, `formulations.slope_properties`), or the bounds (low, high), each a number or one
        for every channel; both may be infinite.
    penalty : float or array, shape (channels,)
        Price of the kinks, at least zero.
    loss : str or SplineLoss
        See `formulations.spline_losses`: a SUM over samples, the squared loss with 1/2.
    weights : array like y, optional
        Weights of the samples, at least zero; a channel without any weight gets a straight line.
    odd : bool
        Whether f(-x) = -f(x), for the squared loss; then the knots start at zero.
    tolerance : float
        Of the relative gap. A channel that misses it says so in `status`.
    start : SplineFit, optional
        An earlier fit of as many channels on the same knots, of other samples, weights, penalties or bounds, to start
        from: it saves more than half of the iterations where the samples are about as before. A channel that is better
        off without it, or misses its tolerance from there, starts from nothing. Convex splines and the losses
        ``"absolute"``, ``"quantile"`` and ``"huber"`` always do.

    Returns
    -------
    SplineFit
        Arrays of the library of `x`.

    Raises
    ------
    UsageError
        For shapes that do not fit, NaN, knots that do not increase, bounds that are not in order, targets that do not
        fit the loss, a start of other knots or channels.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 50)
    >>> fit = fit_splines(x, 2 * x, [-1.0, 0.0, 1.0], slopes=(0, 1), penalty=0.1)
    >>> fit.slopes[:, 0].round(6).tolist(), fit.solved
    ([1.0, 1.0], True)
    """
    data = check_spline_data(
        x, y, knots, slopes=slopes, penalty=penalty, loss=loss, weights=weights, odd=odd, tolerance=tolerance
    )
    with np.errstate(all="ignore"):
        return _solve(data, tolerance, start)


def _solve(data: SplineData, tolerance: float, start: SplineFit | None) -> SplineFit:
    program = data.program
    found, quality = _found(data, tolerance, start)
    if bool(data.empty.any()):
        quality = _without_samples(data, quality)
    v = integrate(program.widths, quality.first + data.centre, quality.s)
    arrays = library(v)
    coefficients = arrays.concatenate([v, v[-1:] + program.widths[-1:] * quality.s[-1:]])
    finite = (program.low > -np.inf) & (program.high < np.inf)
    reach = arrays.where(finite, np.inf + 0 * quality.gap, quality.reach)
    back = data.back
    return SplineFit(
        knots=back(1.0 * data.knots), coefficients=back(coefficients), slopes=back(quality.s),
        multipliers=back(found.nu * _forces(data.units)),
        objective=back(quality.objective), dual_value=back(quality.dual), relative_gap=back(quality.gap),
        status=tuple(Status.SOLVED if good else Status.INACCURATE for good in (quality.gap <= tolerance).tolist()),
        low=back(data.low), high=back(data.high), reach=back(reach), iterations=back(found.iterations),
    )  # fmt: skip


def _found(data: SplineData, tolerance: float, start: SplineFit | None) -> tuple[Fitted, Quality]:
    """The fits in scaled units, and measured. What misses its tolerance from an earlier fit is tried without it."""
    program, cold = data.program.scaled(data.units), start_point(data.program.scaled(data.units))
    earlier = None if start is None else _earlier(data, start)
    if earlier is None or not program.can_start_warm:
        found = fit_scaled(program, cold, tolerance)
        return found, _measured(data, found)
    point, used = warm_point(program, cold, earlier, tolerance)
    found = fit_scaled(program, point, tolerance)
    quality, arrays = _measured(data, found), library(used)
    missed = used & ~(quality.gap <= tolerance)
    if not bool(missed.any()):
        return found, quality
    which = arrays.where(missed)[0]
    second = found.take(arrays.where(used | ~used)[0])
    second.put(which, fit_scaled(program.take(which), cold.take(which), tolerance))
    other = _measured(data, second)
    better = other.gap < quality.gap
    parts = {name: arrays.where(better, getattr(second, name), part) for name, part in vars(found).items()}
    parts["iterations"] = found.iterations + missed * second.iterations
    measured = (arrays.where(better, *pair) for pair in zip(other, quality, strict=True))
    return Fitted(**parts), Quality(*measured)


def _measured(data: SplineData, found: Fitted) -> Quality:
    """Measured on the program in the user's units, whatever the scaled one said."""
    units = data.units
    slope, theta = units.y / units.x, units.weight * units.theta
    return measure_splines(
        data.program, found.first * units.y, found.s * slope, found.nu * _forces(units), found.theta * theta
    )


def _forces(units: Units) -> Array:
    """The unit of the multipliers of the jumps, as of the penalty."""
    return units.weight * units.theta * units.x


def _earlier(data: SplineData, start: SplineFit) -> Earlier:
    """An earlier fit of as many channels on the same knots, in scaled units."""
    units = data.units
    t, first, s, nu = (
        data.read(f"start.{name}", part)
        for name, part in (
            ("knots", start.knots), ("coefficients", start.coefficients[0]), ("slopes", start.slopes),
            ("multipliers", start.multipliers),
        )
    )  # fmt: skip
    shape = (len(data.knots) - 1, len(data.centre))
    if tuple(s.shape) != shape or tuple(nu.shape) != (shape[0] - 1, shape[1]):
        raise UsageError(
            f"start has slopes of shape {tuple(s.shape)} and multipliers of shape {tuple(nu.shape)}; expected {shape} "
            "and one row less: an earlier fit of as many channels on the same knots."
        )
    if not bool((t == data.knots).all()):
        raise UsageError("start has other knots than this fit; expected an earlier fit on the same knots.")
    # An odd spline stays at zero, wherever the earlier one began.
    first = 0 * data.centre if data.program.pinned else first - data.centre
    return Earlier(first / units.y, s * (units.x / units.y), nu / _forces(units))


def _without_samples(data: SplineData, quality: Quality) -> Quality:
    """Straight lines, whose objective is zero, for channels without any weight."""
    arrays, empty = library(quality.s), data.empty
    lines = arrays.clip(0 * quality.s, data.low, data.high)
    s = arrays.where(empty, lines, quality.s)
    first, objective, dual, gap = (
        arrays.where(empty, 0 * part, part) for part in (quality.first, quality.objective, quality.dual, quality.gap)
    )
    return Quality(first, s, objective, dual, gap, quality.reach)
