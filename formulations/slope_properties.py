"""Properties of a learnable activation that are bounds on its slope, by name.

For a function f of one variable, and almost everywhere,

    property                     slopes f' in      it says
    free                         (-inf, inf)       nothing
    nonexpansive                 [-1, 1]           |f(x) - f(y)| <= |x - y|, 1-Lipschitz
    contraction(q)               [-q, q]           |f(x) - f(y)| <= q |x - y|
    firmly_nonexpansive          [0, 1]            f is the proximal map of a convex function
    monotone                     [0, inf)          f is the gradient of a convex function
    invertible(e)                [e, 1/e]          f and its inverse are 1/e-Lipschitz and increasing
    weakly_convex_gradient(r)    [-r, inf)         f is the gradient of an r-weakly convex function
    convex                       nondecreasing     f itself is convex

Source: Unser, Goujon & Ducotterd, "Controlled learning of pointwise nonlinearities in neural-network-like
architectures", arXiv 2408.13114 (the first rows); the others follow from the definitions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isnan
from typing import Any

from .errors import UsageError


@dataclass(frozen=True)
class SlopeProperty:
    """Bounds on the slopes of a spline.

    Attributes
    ----------
    name : str
        As `slope_property` reads it.
    low, high : float
        low <= f' <= high, low < high; either may be infinite.
    convex : bool
        Whether the slopes may only rise.
    """

    name: str
    low: float
    high: float
    convex: bool = False

    def __post_init__(self) -> None:
        if isnan(self.low) or isnan(self.high) or not self.low < self.high:
            raise UsageError(
                f"the slopes are to lie from {self.low:g} to {self.high:g}; expected a lower bound below the upper "
                "one: exchange them, or move them apart (a function with one slope is a straight line)."
            )
        if self.low == inf or self.high == -inf:
            raise UsageError(
                f"the slopes are to lie from {self.low:g} to {self.high:g}, where no number does; expected e.g. "
                "-inf,1 or 0,inf."
            )


def _invertible(least: float) -> SlopeProperty:
    return SlopeProperty(f"invertible({least:g})", least, 1 / least)


WITHOUT_NUMBER: dict[str, SlopeProperty] = {
    made.name: made
    for made in (
        SlopeProperty("free", -inf, inf),
        SlopeProperty("nonexpansive", -1.0, 1.0),
        SlopeProperty("firmly_nonexpansive", 0.0, 1.0),
        SlopeProperty("monotone", 0.0, inf),
        SlopeProperty("convex", -inf, inf, convex=True),
    )
}
WITH_NUMBER: dict[str, tuple[Callable[[float], SlopeProperty], float, float]] = {
    "contraction": (lambda q: SlopeProperty(f"contraction({q:g})", -q, q), 0.0, 1.0),
    "invertible": (_invertible, 0.0, 1.0),
    "weakly_convex_gradient": (lambda r: SlopeProperty(f"weakly_convex_gradient({r:g})", -r, inf), 0.0, inf),
}
"""Name -> the property of its number, and the open interval that the number is taken from."""


def slope_property(which: str | tuple[float, float] | SlopeProperty) -> SlopeProperty:
    """Find a property, or make one of two bounds.

    Parameters
    ----------
    which : str, pair of float, or SlopeProperty
        A name, with its number in parentheses where it has one (``"monotone"``, ``"contraction(0.5)"``); or two
        bounds, as numbers or as text (``(0, 1)``, ``"0,1"``, ``"0,inf"``).

    Raises
    ------
    UsageError
        If there is no such property, or the bounds are not in order.

    Examples
    --------
    >>> slope_property("invertible(0.25)").high
    4.0
    >>> slope_property("-1,inf").low
    -1.0
    """
    if isinstance(which, SlopeProperty):
        return which
    if isinstance(which, str) and "," not in which:
        return _named(which)
    parts: Any = which.split(",") if isinstance(which, str) else which
    try:
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError):
        raise UsageError(
            f"the slopes {which!r} cannot be read; expected two bounds, e.g. 0,1 or 0,inf, or one of {_names()}."
        ) from None
    return SlopeProperty(f"{low:g},{high:g}", low, high)


def _names() -> str:
    return ", ".join([*WITHOUT_NUMBER, *(f"{name}(number)" for name in WITH_NUMBER)])


def _named(which: str) -> SlopeProperty:
    match = re.fullmatch(r"\s*([a-z_]+)\s*(?:\(([^()]*)\))?\s*", which)
    name, number = match.groups() if match else (which, None)
    if name in WITHOUT_NUMBER and number is None:
        return WITHOUT_NUMBER[name]
    if name not in WITH_NUMBER or number is None:
        raise UsageError(f"unknown property of slopes {which!r}; expected two bounds, e.g. 0,1, or one of {_names()}.")
    make, above, below = WITH_NUMBER[name]
    try:
        value = float(number)
    except ValueError:
        value = inf
    if not above < value < below:
        raise UsageError(f"the number of {which!r} is {number}; expected one between {above:g} and {below:g}.")
    return make(value)
