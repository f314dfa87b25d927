"""The loss of a spline fit as the interior point sees it: squared, another residual loss, or smooth.

A residual loss is a maximum over multipliers theta in an interval (`formulations.spline_losses`). The interior point
keeps Theta = w theta for every sample, and the residual f - y - bend theta as the difference of two positive numbers,
which price the two ends of the interval. The squared loss has no interval, a smooth loss has no multipliers of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from ..formulations.activation_row import Array, library
from ..formulations.spline_losses import SplineLoss, residual_loss
from .spline_certificate import balance
from .spline_statistics import Moments, Samples


class Units(NamedTuple):
    """Units of inputs, values, weights and multipliers theta, each (channels,) or (1,): a loss has weight*theta*y."""

    x: Array
    y: Array
    weight: Array
    theta: Array


class Boxes(NamedTuple):
    """Intervals of the multipliers Theta, (samples, channels), with a start; no rows where a loss has none.

    `over` and `under` are the start of the prices of the upper and the lower end.
    """

    low: Array
    high: Array
    over: Array
    under: Array


class Linearization(NamedTuple):
    """The loss at a point to second order: entries of the quadratics of the cells, and two functions.

    ``gradient(shift)`` gives the linear terms of values and slopes, ``multipliers(dv, ds, shift)`` the step of Theta;
    `shift` is what the residuals of the complementarity of its intervals come to.
    """

    Q0: Array
    Q1: Array
    Q2: Array
    gradient: Callable[[Array], tuple[Array, Array]]
    multipliers: Callable[[Array, Array, Array], Array]


class Measure(NamedTuple):
    """What a gap needs of every channel: loss, sum of conjugates, and sums over cells of balanced multipliers."""

    loss: Array
    conjugates: Array
    sums: tuple[Array, Array]


class Term(Protocol):
    """What the interior point asks of a loss; v and s are the states of the splines."""

    smooth: bool

    def boxes(self, v: Array, s: Array) -> Boxes:
        """Intervals of multipliers."""

    def centre(self, v: Array, s: Array) -> Array:
        """What to add to all values before a gap is measured, (channels,)."""

    def linearize(self, v: Array, s: Array, theta: Array, box_weight: Array) -> Linearization:
        """The Newton step's part of the loss; `box_weight` is what the intervals add to the inverse curvature."""

    def measure(self, v: Array, s: Array, theta: Array) -> Measure:
        """What a gap needs."""

    def slopes(self, v: Array, s: Array) -> tuple[Array, Array]:
        """Sums over cells of the derivative of a smooth loss, and of it times offsets."""

    def take(self, kept: Any) -> Any:
        """The term of some channels."""

    def scaled(self, units: Units) -> Any:
        """The term in other units; smooth losses have values and multipliers of the unit one."""


@dataclass(frozen=True)
class SquaredTerm:
    """Least squares: sums over cells say all. `pinned` splines keep their first value, others are centred."""

    moments: Moments
    pinned: bool = False
    smooth = False

    def centre(self, v: Array, s: Array) -> Array:
        return 0 * v[0] if self.pinned else self.moments.centre(v, s)

    def boxes(self, v: Array, s: Array) -> Boxes:
        none = s[:0]
        return Boxes(none, none, none, none)

    def linearize(self, v: Array, s: Array, theta: Array, box_weight: Array) -> Linearization:
        m, gradient = self.moments, self.moments.gradient(v, s)
        return Linearization(m.S0, m.S1, m.S2, lambda shift: gradient, lambda dv, ds, shift: theta)

    def measure(self, v: Array, s: Array, theta: Array) -> Measure:
        loss, sums = self.moments.value(v, s), self.moments.gradient(v, s)
        # Fenchel's equality at theta = f - y: the conjugates are w theta f less the loss.
        return Measure(loss, (sums[0] * v + sums[1] * s).sum(0) - loss, sums)

    def slopes(self, v: Array, s: Array) -> tuple[Array, Array]:
        return self.moments.gradient(v, s)

    def take(self, kept: Any) -> SquaredTerm:
        return SquaredTerm(self.moments.take(kept), self.pinned)

    def scaled(self, units: Units) -> SquaredTerm:
        return replace(self, moments=self.moments.scaled(units.x, units.y, units.weight))


@dataclass(frozen=True)
class IntervalTerm:
    """A residual loss whose multipliers have an interval: absolute value, quantile, Huber."""

    samples: Samples
    loss: SplineLoss
    smooth = False

    def centre(self, v: Array, s: Array) -> Array:
        return 0 * v[0]

    def boxes(self, v: Array, s: Array) -> Boxes:
        w, loss = self.samples.weights, self.loss
        theta = (loss.low + loss.high) / 2
        rest = self.samples.values(v, s) - self.samples.y - loss.bend * theta
        positive = library(rest).clip(rest, 0.0, None)
        return Boxes(w * loss.low, w * loss.high, positive + 1.0, positive - rest + 1.0)

    def linearize(self, v: Array, s: Array, theta: Array, box_weight: Array) -> Linearization:
        w = self.samples.weights
        arrays = library(w)
        used = w > 0
        weight = arrays.where(used, 1 / (self.loss.bend / arrays.where(used, w, 1 + w) + box_weight), 0 * w)
        weighted = weight * self.samples.offset
        Q0, Q1 = self.samples.sums(weight)
        Q2 = self.samples.sums(weighted)[1]
        return Linearization(
            Q0, Q1, Q2,
            lambda shift: self.samples.sums(theta - shift * weight),
            lambda dv, ds, shift: (self.samples.values(dv, ds) - shift) * weight,
        )  # fmt: skip

    def measure(self, v: Array, s: Array, theta: Array) -> Measure:
        return measure_samples(self.samples, self.loss, v, s, theta)

    def slopes(self, v: Array, s: Array) -> tuple[Array, Array]:
        raise NotImplementedError("only smooth losses have a derivative everywhere")

    def take(self, kept: Any) -> IntervalTerm:
        return IntervalTerm(self.samples.take(kept), self._with(*(end[kept] for end in self._numbers())))

    def scaled(self, units: Units) -> IntervalTerm:
        low, high, bend = self._numbers()
        loss = self._with(low / units.theta, high / units.theta, bend * units.theta / units.y)
        return IntervalTerm(self.samples.scaled(units.x, units.y, units.weight), loss)

    def _numbers(self) -> tuple[Array, Array, Array]:
        """The interval and the quadratic of every channel."""
        none = 0 * self.samples.y[0]
        return self.loss.low + none, self.loss.high + none, self.loss.bend + none

    def _with(self, low: Array, high: Array, bend: Array) -> SplineLoss:
        return residual_loss(self.loss.name, low, high, bend, self.loss.model)


@dataclass(frozen=True)
class SmoothTerm:
    """A loss with two derivatives: logistic, Poisson."""

    samples: Samples
    loss: SplineLoss
    smooth = True

    def centre(self, v: Array, s: Array) -> Array:
        return 0 * v[0]

    def boxes(self, v: Array, s: Array) -> Boxes:
        none = s[:0]
        return Boxes(none, none, none, none)

    def linearize(self, v: Array, s: Array, theta: Array, box_weight: Array) -> Linearization:
        assert self.loss.curvature is not None
        f = self.samples.values(v, s)
        gradient = self.samples.sums(self._slope(f))
        weight = self.samples.weights * self.loss.curvature(f, self.samples.y)
        Q0, Q1 = self.samples.sums(weight)
        Q2 = self.samples.sums(weight * self.samples.offset)[1]
        return Linearization(Q0, Q1, Q2, lambda shift: gradient, lambda dv, ds, shift: theta)

    def measure(self, v: Array, s: Array, theta: Array) -> Measure:
        return measure_samples(self.samples, self.loss, v, s, self._slope(self.samples.values(v, s)))

    def slopes(self, v: Array, s: Array) -> tuple[Array, Array]:
        return self.samples.sums(self._slope(self.samples.values(v, s)))

    def _slope(self, f: Array) -> Array:
        return self.samples.weights * self.loss.slope(f, self.samples.y)

    def take(self, kept: Any) -> SmoothTerm:
        return SmoothTerm(self.samples.take(kept), self.loss)

    def scaled(self, units: Units) -> SmoothTerm:
        return SmoothTerm(self.samples.scaled(units.x, units.y, units.weight), self.loss)


def measure_samples(
    samples: Samples, loss: SplineLoss, v: Array, s: Array, theta: Array, *, pinned: bool = False
) -> Measure:
    """What a gap needs, sample by sample; `theta` holds w theta, in the domain, and is balanced here.

    With `pinned`, the first value is fixed and nothing has to be balanced.
    """
    w, y = samples.weights, samples.y
    theta = theta if pinned else balance(theta)
    used = w > 0
    arrays = library(w)
    each = arrays.where(used, theta / arrays.where(used, w, 1 + w), 0 * w)
    f = samples.values(v, s)
    return Measure((w * loss.value(f, y)).sum(0), (w * loss.conjugate(each, y)).sum(0), samples.sums(theta))
