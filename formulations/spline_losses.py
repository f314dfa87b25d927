"""Losses of a spline fit, convex in the value f of the spline at a sample; once for arrays, once as cvxpy expressions.

Two families. *Residual losses* are maxima over a multiplier theta in an interval,

    loss(f; y) = max { theta (f - y) - bend theta^2 / 2  :  low <= theta <= high },

which is also their conjugate: loss*(theta; y) = theta y + bend theta^2 / 2 on the interval.

    loss            low        high      bend    loss(f; y), r = f - y
    squared         -inf       inf       1       r^2 / 2
    huber(m)        -m         m         1       r^2 / 2 where |r| <= m, else m |r| - m^2 / 2
    absolute        -1         1         0       |r|
    quantile(t)     -t         1 - t     0       max(-t r, (1 - t) r), lowest at the t-quantile of y

*Smooth losses* of a natural parameter f:

    logistic        log(1 + e^f) - y f           y from 0 to 1
    poisson         e^f - y f                    y >= 0, the mean is e^f

A test holds arrays and models together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import cvxpy as cp

from .activation_row import Array, library, special
from .errors import UsageError
from .subproblem import require_positive


@dataclass(frozen=True)
class SplineLoss:
    """One loss; all functions act entry by entry.

    Attributes
    ----------
    name : str
        As `spline_loss` reads it.
    value : callable
        loss(f; y).
    slope : callable
        Its derivative in f; of a residual loss with a kink, one subgradient.
    conjugate : callable
        loss*(theta; y), for theta in the domain.
    lowest : callable
        Least value over f, for every y: what is left of the loss in a perfect fit.
    model : callable
        The loss of every sample, of cvxpy expressions: of a residual loss ``model(r)``, r = f - y; of a smooth loss
        ``model(f)``, without the term -y f.
    low, high, bend : float
        The interval and the quadratic of a residual loss.
    curvature : callable or None
        Second derivative in f of a smooth loss; residual losses have None.
    targets : tuple of float
        The interval that y comes from.
    """

    name: str
    value: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    conjugate: Callable[[Array, Array], Array]
    lowest: Callable[[Array], Array]
    model: Callable[[Any], Any]
    low: float = -inf
    high: float = inf
    bend: float = 0.0
    curvature: Callable[[Array, Array], Array] | None = None
    targets: tuple[float, float] = (-inf, inf)

    @property
    def is_quadratic(self) -> bool:
        """Whether this is the squared loss, whose sums over samples can be formed once for all."""
        return self.curvature is None and self.low == -inf


def residual_loss(name: str, low: Any, high: Any, bend: Any, model: Callable[[Any], Any]) -> SplineLoss:
    """The residual loss of an interval and a quadratic; see the opening of this file.

    In other units these numbers may differ from channel to channel: then they are arrays of shape (channels,).
    """

    def slope(f: Array, y: Array) -> Array:
        r, arrays = f - y, library(f)
        kinked = 0 * r + bend == 0
        smooth = arrays.clip(r / arrays.where(kinked, 1 + 0 * r, 0 * r + bend), low, high)
        return arrays.where(kinked, arrays.where(r > 0, 0 * r + high, 0 * r + low), smooth)

    def value(f: Array, y: Array) -> Array:
        theta = slope(f, y)
        return theta * (f - y) - bend / 2 * theta * theta

    return SplineLoss(
        name, value, slope, lambda theta, y: theta * y + bend / 2 * theta * theta, lambda y: 0 * y, model,
        low, high, bend,
    )  # fmt: skip


def _squared() -> SplineLoss:
    return residual_loss("squared", -inf, inf, 1.0, lambda r: cp.square(r) / 2)


def _absolute() -> SplineLoss:
    return residual_loss("absolute", -1.0, 1.0, 0.0, cp.abs)


def _half_huber(r: Any, threshold: Any) -> Any:
    return cp.huber(r, threshold) / 2


def _huber(threshold: float = 1.0) -> SplineLoss:
    require_positive(threshold=threshold)
    # cvxpy's atom is r^2 where |r| <= m.
    return residual_loss(f"huber({threshold:g})", -threshold, threshold, 1.0, lambda r: _half_huber(r, threshold))


def _quantile(level: float = 0.5) -> SplineLoss:
    if not 0 < level < 1:
        raise UsageError(f"the level of the quantile loss is {level:g}; expected a number between 0 and 1.")
    model = lambda r: cp.maximum(-level * r, (1 - level) * r)  # noqa: E731 - one line of the table
    return residual_loss(f"quantile({level:g})", -level, 1 - level, 0.0, model)


def _logistic() -> SplineLoss:
    def mean(f: Array) -> Array:
        return special(f).expit(f)

    def conjugate(theta: Array, y: Array) -> Array:
        p = library(theta).clip(theta + y, 0.0, 1.0)
        return special(p).xlogy(p, p) + special(p).xlogy(1 - p, 1 - p)

    return SplineLoss(
        "logistic",
        lambda f, y: library(f).logaddexp(f, 0 * f) - y * f,
        lambda f, y: mean(f) - y,
        conjugate,
        lambda y: -conjugate(0 * y, y),
        cp.logistic,
        curvature=lambda f, y: mean(f) * mean(-f),
        targets=(0.0, 1.0),
    )


def _poisson() -> SplineLoss:
    def conjugate(theta: Array, y: Array) -> Array:
        mean = library(theta).clip(theta + y, 0.0, None)
        return special(mean).xlogy(mean, mean) - mean

    return SplineLoss(
        "poisson",
        lambda f, y: library(f).exp(f) - y * f,
        lambda f, y: library(f).exp(f) - y,
        conjugate,
        lambda y: -conjugate(0 * y, y),
        cp.exp,
        curvature=lambda f, y: library(f).exp(f),
        targets=(0.0, inf),
    )


SPLINE_LOSSES: dict[str, Callable[..., SplineLoss]] = {
    "squared": _squared, "huber": _huber, "absolute": _absolute, "quantile": _quantile,
    "logistic": _logistic, "poisson": _poisson,
}  # fmt: skip
"""Name -> function that makes the loss (with its number, where it has one)."""

NUMBERED = ("huber", "quantile")


def spline_loss(which: str | SplineLoss) -> SplineLoss:
    """Find a loss.

    Parameters
    ----------
    which : str or SplineLoss
        A name, with its number in parentheses where it has one: ``"squared"``, ``"huber(0.5)"``, ``"quantile(0.9)"``.

    Raises
    ------
    UsageError
        If there is no such loss, or the number does not fit.

    Examples
    --------
    >>> spline_loss("quantile(0.9)").low
    -0.9
    """
    if isinstance(which, SplineLoss):
        return which
    match = re.fullmatch(r"\s*([a-z_]+)\s*(?:\(([^()]*)\))?\s*", str(which))
    name, number = match.groups() if match else (which, None)
    if name not in SPLINE_LOSSES or (number is not None and name not in NUMBERED):
        known = ", ".join(f"{known}(number)" if known in NUMBERED else known for known in SPLINE_LOSSES)
        raise UsageError(f"unknown loss of a spline fit {which!r}; known: {known}.")
    if number is None:
        return SPLINE_LOSSES[name]()
    try:
        value = float(number)
    except ValueError:
        raise UsageError(f"the number of {which!r} cannot be read; write e.g. '{name}(0.5)'.") from None
    return SPLINE_LOSSES[name](value)
