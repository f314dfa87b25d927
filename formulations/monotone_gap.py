"""The gap of a variational inequality in exact rational arithmetic: what may be called proven.

For F(z) = M z + q and any z of the set C, sup_{w in C} <F(z), z - w> is a finite formula. Floating-point numbers are
rational, so that over a box it is computed without any error; over a ball the one square root is rounded upwards.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np

from .errors import UsageError

ROOT_DIGITS = 10**24


def proven_gap(
    M: Any, q: Any, z: Any, *, radius: float | None = None, low: Any = None, high: Any = None
) -> tuple[Fraction, list[Fraction]]:
    """An upper bound on the gap of a point of C, with the point that it holds for.

    Parameters
    ----------
    M : array, shape (n, n)
        Matrix of the operator; it need not be monotone for the bound to hold.
    q : array, shape (n,)
        The operator at zero.
    z : array, shape (n,)
        The point. Where rounding left it outside of C, it is first moved into C.
    radius : float, optional
        C is the ball |z| <= radius ...
    low, high : floats or arrays, optional
        ... or the box low <= z <= high.

    Returns
    -------
    gap : Fraction
        At least sup over w in C of <F(z), z - w>; over a box equal to it, over a ball larger by at most
        1e-24 * radius.
    point : list of Fraction
        z, exactly a point of C.

    Raises
    ------
    UsageError
        If no set or two are given, or an entry is not finite.

    Examples
    --------
    >>> gap, point = proven_gap([[0.0, -1.0], [1.0, 0.0]], [0.5, 0.25], [-0.25, 0.5], radius=1.0)
    >>> gap
    Fraction(0, 1)
    """
    if (radius is None) == (low is None or high is None):
        raise UsageError("C is not stated once; expected a radius (ball), or low and high (box).")
    size = np.size(z)
    if np.shape(M) != (size, size) or np.shape(q) != (size,):
        seen = f"{np.shape(M)}, {np.shape(q)}, {np.shape(z)}"
        raise UsageError(f"M, q and z have the shapes {seen}; expected (n, n), (n,), (n,).")
    rows, shift, point = [_vector(row, size) for row in np.asarray(M)], _vector(q, size), _vector(z, size)
    ends: list[tuple[Fraction, Fraction]] = []
    if radius is not None:
        point = _into_ball(point, _exact(radius))
    else:
        ends = list(zip(_vector(low, size), _vector(high, size), strict=True))
        point = [min(max(entry, least), most) for entry, (least, most) in zip(point, ends, strict=True)]
    operator = [_inner(row, point) + add for row, add in zip(rows, shift, strict=True)]
    own = _inner(operator, point)
    if radius is not None:
        return own + _exact(radius) * root_above(_inner(operator, operator)), point
    return own + sum(max(-a * y, -b * y) for y, (a, b) in zip(operator, ends, strict=True)), point


def root_above(square: Fraction) -> Fraction:
    """A fraction at least the square root, and above it by at most 1e-24; exact for squares.

    >>> root_above(Fraction(9, 4))
    Fraction(3, 2)
    """
    scaled = square * ROOT_DIGITS**2
    whole = isqrt(scaled.numerator // scaled.denominator)
    return Fraction(whole, ROOT_DIGITS) if whole * whole == scaled else Fraction(whole + 1, ROOT_DIGITS)


def _into_ball(point: list[Fraction], radius: Fraction) -> list[Fraction]:
    if _inner(point, point) <= radius * radius:
        return point
    shrink = radius / root_above(_inner(point, point))
    return [entry * shrink for entry in point]


def _inner(left: list[Fraction], right: list[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))


def _vector(values: Any, size: int) -> list[Fraction]:
    return [_exact(value) for value in np.broadcast_to(np.asarray(values), size)]


def _exact(value: Any) -> Fraction:
    number = float(value)
    if not np.isfinite(number):
        raise UsageError(f"a number is {number}; expected finite ones.")
    return Fraction(number)
