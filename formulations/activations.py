"""The table of activations: every training method of the package is fed by it.

An activation phi is the derivative of a convex potential Phi. With the conjugate Phi*, the
*Fenchel-Young gap*

    B(v, u) = Phi(u) + Phi*(v) - <u, v>  >=  0,      B(v, u) = 0  exactly when  v = phi(u),

is convex in u for fixed v and convex in v for fixed u. Its gradients need no derivative of phi:

    grad_u B = phi(u) - v,        grad_v B = phi^{-1}(v) - u.

Every row gives phi, Phi, Phi*, the range of phi and the bounds of its slope, for arrays (numpy or
torch: the functions take the array's own library) and, where an atom exists, as cvxpy expressions.
A test holds the two together.

Source: Fenchel-Young inequality and its use for networks: Gu, Askari & El Ghaoui, "Fenchel Lifted
Networks", AISTATS 2020, section 4.1 (arXiv 1811.08039). The rows are derived, and checked by tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf, pi, sqrt

from .activation_row import Activation, Array, largest_entry, library, special
from .errors import UsageError

__all__ = ["ACTIVATIONS", "Activation", "Array", "activation", "largest_entry", "library", "special"]


def _positive(u: Array) -> Array:
    return library(u).clip(u, 0.0, None)


def _negative(u: Array) -> Array:
    return library(u).clip(-u, 0.0, None)


def _where(condition: Array, yes: Array, no: Array) -> Array:
    """`where` that accepts numbers and keeps the dtype of the array branch, in both libraries."""
    return library(condition).where(condition, yes, no)


def _inside(v: Array, low: float, high: float, value: Array) -> Array:
    return _where((v >= low) & (v <= high), value, inf)


def _indicator(u: Array, condition: Array) -> Array:
    return condition + 0.0 * u


def _xlogx(v: Array) -> Array:
    # Outside the domain the value is replaced by +inf; clipping first keeps the logarithm quiet there.
    return special(v).xlogy(_positive(v), _positive(v))


def _identity() -> Activation:
    return Activation(
        "identity", lambda u: u, lambda u: u * u / 2, lambda v: v * v / 2, lambda u: 0.0 * u + 1.0,
        -inf, inf, (1.0, 1.0), r"u", shrink=lambda c, s: c / (1 + s), homogeneous=True,
    )  # fmt: skip


def _relu() -> Activation:
    return Activation(
        "relu", _positive, lambda u: _positive(u) ** 2 / 2, lambda v: _inside(v, 0.0, inf, v * v / 2),
        lambda u: _indicator(u, u >= 0), 0.0, inf, (0.0, 1.0), r"\max(u, 0)",
        shrink=lambda c, s: _positive(c) / (1 + s), homogeneous=True,
    )  # fmt: skip


def _leaky_relu(slope: float = 0.01) -> Activation:
    _require(0 < slope <= 1, "leaky_relu", f"0 < slope <= 1, not {slope:g}")
    return Activation(
        "leaky_relu", lambda u: _positive(u) - slope * _negative(u),
        lambda u: (_positive(u) ** 2 + slope * _negative(u) ** 2) / 2,
        lambda v: (_positive(v) ** 2 + _negative(v) ** 2 / slope) / 2,
        lambda u: _where(u >= 0, 0.0 * u + 1.0, 0.0 * u + slope), -inf, inf, (slope, 1.0), r"\max(u, a u)",
        shrink=lambda c, s: _positive(c) / (1 + s) - _negative(c) * slope / (1 + slope * s),
        homogeneous=True, parameter=slope,
    )  # fmt: skip


def _clipped_relu(level: float = 6.0) -> Activation:
    _require(0 < level < inf, "clipped_relu", f"a finite level > 0, not {level:g}")
    return Activation(
        "clipped_relu", lambda u: library(u).clip(u, 0.0, level),
        lambda u: _where(u > level, level * u - level**2 / 2, library(u).clip(u, 0.0, level) ** 2 / 2),
        lambda v: _inside(v, 0.0, level, v * v / 2), lambda u: _indicator(u, (u >= 0) & (u < level)),
        0.0, level, (0.0, 1.0), r"\min(\max(u, 0), c)",
        shrink=lambda c, s: library(c).clip(c / (1 + s), 0.0, level), parameter=level,
    )  # fmt: skip


def _hardtanh() -> Activation:
    return Activation(
        "hardtanh", lambda u: library(u).clip(u, -1.0, 1.0),
        lambda u: _where(abs(u) > 1, abs(u) - 0.5, u * u / 2),
        lambda v: _inside(v, -1.0, 1.0, v * v / 2), lambda u: _indicator(u, abs(u) < 1),
        -1.0, 1.0, (0.0, 1.0), r"\min(\max(u, -1), 1)",
        shrink=lambda c, s: library(c).clip(c / (1 + s), -1.0, 1.0),
    )  # fmt: skip


def _soft_shrink(threshold: float = 0.5) -> Activation:
    _require(0 <= threshold < inf, "soft_shrink", f"a finite threshold >= 0, not {threshold:g}")

    def shrunk(u: Array) -> Array:
        return library(u).sign(u) * _positive(abs(u) - threshold)

    return Activation(
        "soft_shrink", shrunk, lambda u: _positive(abs(u) - threshold) ** 2 / 2,
        lambda v: v * v / 2 + threshold * abs(v), lambda u: _indicator(u, abs(u) >= threshold),
        -inf, inf, (0.0, 1.0), r"\operatorname{sign}(u)\,(|u| - t)_+",
        shrink=lambda c, s: shrunk(c) / (1 + s), parameter=threshold,
    )  # fmt: skip


def _sigmoid() -> Activation:
    return Activation(
        "sigmoid", lambda u: special(u).expit(u), lambda u: library(u).logaddexp(u, 0.0 * u),
        lambda v: _inside(v, 0.0, 1.0, _xlogx(v) + _xlogx(1 - v)),
        lambda u: special(u).expit(u) * special(u).expit(-u), 0.0, 1.0, (0.0, 0.25), r"\frac{1}{1 + e^{-u}}",
        inverse=lambda v: special(v).logit(v),
    )  # fmt: skip


def _tanh() -> Activation:
    return Activation(
        "tanh", lambda u: library(u).tanh(u), lambda u: library(u).logaddexp(u, -u) - 0.6931471805599453,
        lambda v: _inside(v, -1.0, 1.0, (_xlogx(1 + v) + _xlogx(1 - v)) / 2),
        # 4 s(2u) s(-2u) keeps its relative accuracy where 1 - tanh(u)^2 cancels to zero.
        lambda u: 4 * special(u).expit(2 * u) * special(u).expit(-2 * u), -1.0, 1.0, (0.0, 1.0), r"\tanh u",
        inverse=lambda v: library(v).arctanh(v),
    )  # fmt: skip


def _softmax() -> Activation:
    def on_simplex(v: Array) -> Array:
        # Rounding of a row sum: 1e-9 in double precision, and what single precision allows.
        rounding = max(1e-9, 16 * v.shape[-1] * float(library(v).finfo(v.dtype).eps))
        inside = (library(v).amin(v, -1) >= 0) & (abs(v.sum(-1) - 1) <= rounding)
        return _where(inside, _xlogx(v).sum(-1), inf)

    return Activation(
        "softmax", lambda u: special(u).softmax(u, -1), lambda u: special(u).logsumexp(u, -1), on_simplex,
        lambda u: special(u).softmax(u, -1), 0.0, 1.0, (0.0, 0.5), r"\frac{e^{u_i}}{\sum_j e^{u_j}}",
        inverse=lambda v: library(v).log(v), couples_units=True,
    )  # fmt: skip


def _elu() -> Activation:
    return Activation(
        "elu", lambda u: _positive(u) + library(u).expm1(-_negative(u)),
        lambda u: _positive(u) ** 2 / 2 + library(u).expm1(-_negative(u)) + _negative(u),
        lambda v: _inside(v, -1.0, inf, _positive(v) ** 2 / 2 + _xlogx(1 - _negative(v)) + _negative(v)),
        lambda u: library(u).exp(-_negative(u)), -1.0, inf, (0.0, 1.0),
        r"\max(u, 0) + e^{\min(u, 0)} - 1", inverse=lambda v: _positive(v) + library(v).log1p(-_negative(v)),
    )  # fmt: skip


def _softsign() -> Activation:
    def conjugate(v: Array) -> Array:
        # Outside the domain the value is replaced by +inf; zero there keeps the logarithm quiet.
        size = _where(abs(v) < 1, abs(v), 0.0 * v)
        return _where(abs(v) < 1, -library(v).log1p(-size) - size, inf)

    return Activation(
        "softsign", lambda u: u / (1 + abs(u)), lambda u: abs(u) - library(u).log1p(abs(u)), conjugate,
        lambda u: (1 + abs(u)) ** -2.0, -1.0, 1.0, (0.0, 1.0), r"\frac{u}{1 + |u|}",
        inverse=lambda v: v / (1 - abs(v)),
    )  # fmt: skip


def _exponential() -> Activation:
    return Activation(
        "exponential", lambda u: library(u).exp(u), lambda u: library(u).exp(u),
        lambda v: _inside(v, 0.0, inf, _xlogx(v) - v), lambda u: library(u).exp(u),
        0.0, inf, (0.0, inf), r"e^{u}", inverse=lambda v: library(v).log(v),
    )  # fmt: skip


def _arctan() -> Activation:
    def conjugate(v: Array) -> Array:
        inside = abs(v) < pi / 2
        return _where(inside, -library(v).log(library(v).cos(_where(inside, v, 0.0 * v))), inf)

    return Activation(
        "arctan", lambda u: library(u).arctan(u),
        lambda u: u * library(u).arctan(u) - library(u).log1p(u * u) / 2, conjugate,
        lambda u: 1 / (1 + u * u), -pi / 2, pi / 2, (0.0, 1.0), r"\arctan u",
        inverse=lambda v: library(v).tan(v),
        refusal="neither u arctan(u) - log(1 + u^2)/2 nor -log(cos(v)) is a composition of cvxpy atoms",
    )  # fmt: skip


def _probit() -> Activation:
    def density(u: Array) -> Array:
        return library(u).exp(-u * u / 2) / sqrt(2 * pi)

    def conjugate(v: Array) -> Array:
        inside = (v > 0) & (v < 1)
        value = -density(special(v).ndtri(_where(inside, v, 0.0 * v + 0.5)))
        # Phi* is continuous on [0, 1] and vanishes at both ends.
        return _where(inside, value, _inside(v, 0.0, 1.0, 0.0 * v))

    return Activation(
        "probit", lambda u: special(u).ndtr(u), lambda u: u * special(u).ndtr(u) + density(u), conjugate,
        density, 0.0, 1.0, (0.0, 1 / sqrt(2 * pi)), r"\frac{1}{\sqrt{2\pi}}\int_{-\infty}^{u} e^{-s^2/2}\,ds",
        inverse=lambda v: special(v).ndtri(v),
        refusal="neither u N(u) + n(u) (N, n: normal distribution and density) nor -n(N^{-1}(v)) is a "
        "composition of cvxpy atoms",
    )  # fmt: skip


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise UsageError(f"the activation {name!r} needs {expected}.")


ACTIVATIONS: dict[str, Callable[..., Activation]] = {
    "identity": _identity, "relu": _relu, "leaky_relu": _leaky_relu, "clipped_relu": _clipped_relu,
    "hardtanh": _hardtanh, "soft_shrink": _soft_shrink, "sigmoid": _sigmoid, "tanh": _tanh,
    "softmax": _softmax, "elu": _elu, "softsign": _softsign, "exponential": _exponential,
    "arctan": _arctan, "probit": _probit,
}  # fmt: skip
"""The table: name -> function that makes the row (with its parameter, where it has one)."""

WITH_PARAMETER = ("leaky_relu", "clipped_relu", "soft_shrink")


def activation(which: str | Activation) -> Activation:
    """Find a row of the table.

    Parameters
    ----------
    which : str or Activation
        A name of the table, with its parameter in parentheses where it has one:
        ``"relu"``, ``"leaky_relu(0.1)"``. An `Activation` is given back as it is.

    Raises
    ------
    UsageError
        If the name is not in the table or the parameter does not fit.

    Examples
    --------
    >>> activation("leaky_relu(0.1)").slopes
    (0.1, 1.0)
    """
    if isinstance(which, Activation):
        return which
    match = re.fullmatch(r"\s*([a-z_]+)\s*(?:\(([^()]*)\))?\s*", str(which))
    name, number = match.groups() if match else (which, None)
    if name not in ACTIVATIONS:
        raise UsageError(f"unknown activation {which!r}; known: {', '.join(ACTIVATIONS)}.")
    if number is None:
        return ACTIVATIONS[name]()
    if name not in WITH_PARAMETER:
        raise UsageError(f"the activation {name!r} has no parameter, but {which!r} gives one: write {name!r}.")
    try:
        value = float(number)
    except ValueError:
        raise UsageError(f"the parameter of {which!r} is not a number; write e.g. '{name}(0.1)'.") from None
    return ACTIVATIONS[name](value)
