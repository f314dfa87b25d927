"""Phi and Phi* of the activations as cvxpy expressions.

Each function takes a cvxpy expression (a vector, or a matrix with samples as rows) and the row's
parameter, and gives the sum over all entries. ELU and softsign need an auxiliary variable in an
inequality; they are exact because the auxiliary term decreases in the direction that makes the
inequality tight. `completions` tell the tight value, so that a point given by another solver can be
put into the model and measured there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import cvxpy as cp
import numpy as np

Expression = Any


@dataclass(frozen=True)
class ModelTerm:
    """A convex term: its expression, its constraints, and the tight values of its auxiliary variables."""

    expression: Expression
    constraints: tuple[Any, ...] = ()
    completions: tuple[tuple[cp.Variable, Callable[[], np.ndarray]], ...] = ()


def _labelled(constraint: Any, label: str) -> Any:
    constraint.set_label(label)
    return constraint


def _box(v: Expression, low: float, high: float) -> tuple[Any, ...]:
    return (_labelled(v >= low, "range, lower end"), _labelled(v <= high, "range, upper end"))


def _identity(u: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(0.5 * cp.sum_squares(u))


def _relu_potential(u: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(0.5 * cp.sum_squares(cp.pos(u)))


def _relu_conjugate(v: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(0.5 * cp.sum_squares(v), (_labelled(v >= 0, "range of the activation"),))


def _leaky_potential(u: Expression, a: float) -> ModelTerm:
    return ModelTerm(0.5 * (a * cp.sum_squares(u) + (1 - a) * cp.sum_squares(cp.pos(u))))


def _leaky_conjugate(v: Expression, a: float) -> ModelTerm:
    return ModelTerm(0.5 * cp.sum_squares(v) + 0.5 * (1 / a - 1) * cp.sum_squares(cp.neg(v)))


def _clipped_potential(u: Expression, level: float) -> ModelTerm:
    # cvxpy annotates the threshold as int; any positive number is right.
    return ModelTerm(0.5 * cp.sum(cp.huber(cp.pos(u), level)))  # type: ignore[arg-type]


def _clipped_conjugate(v: Expression, level: float) -> ModelTerm:
    return ModelTerm(0.5 * cp.sum_squares(v), _box(v, 0, level))


def _hardtanh_potential(u: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(0.5 * cp.sum(cp.huber(u, 1)))


def _hardtanh_conjugate(v: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(0.5 * cp.sum_squares(v), _box(v, -1, 1))


def _shrink_potential(u: Expression, t: float) -> ModelTerm:
    return ModelTerm(0.5 * cp.sum_squares(cp.pos(cp.abs(u) - t)))


def _shrink_conjugate(v: Expression, t: float) -> ModelTerm:
    return ModelTerm(0.5 * cp.sum_squares(v) + t * cp.sum(cp.abs(v)))


def _sigmoid_potential(u: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(cp.sum(cp.logistic(u)))


def _sigmoid_conjugate(v: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(-cp.sum(cp.entr(v) + cp.entr(1 - v)))


def _tanh_potential(u: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(cp.sum(cp.logistic(2 * u) - u) - log(2) * u.size)


def _tanh_conjugate(v: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(-0.5 * cp.sum(cp.entr(1 + v) + cp.entr(1 - v)))


def _softmax_potential(u: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(cp.log_sum_exp(u) if u.ndim == 1 else cp.sum(cp.log_sum_exp(u, axis=1)))


def _softmax_conjugate(v: Expression, _: float | None) -> ModelTerm:
    total = _labelled(cp.sum(v, axis=v.ndim - 1) == 1, "probabilities sum to one")
    return ModelTerm(-cp.sum(cp.entr(v)), (_labelled(v >= 0, "range of the activation"), total))


def _elu_potential(u: Expression, _: float | None) -> ModelTerm:
    m = cp.Variable(u.shape, name="m")
    below, sign = _labelled(m <= u, "m is below u"), _labelled(m <= 0, "m is the negative part")
    return ModelTerm(
        0.5 * cp.sum_squares(cp.pos(u)) + cp.sum(cp.exp(m) - 1 - m),
        (below, sign),
        ((m, lambda: np.minimum(u.value, 0)),),
    )


def _elu_conjugate(v: Expression, _: float | None) -> ModelTerm:
    n = cp.Variable(v.shape, name="n")
    below, sign = _labelled(n <= v, "n is below x"), _labelled(n <= 0, "n is the negative part")
    return ModelTerm(
        0.5 * cp.sum_squares(cp.pos(v)) + cp.sum(-cp.entr(1 + n) - n),
        (below, sign),
        ((n, lambda: np.minimum(v.value, 0)),),
    )


def _softsign_potential(u: Expression, _: float | None) -> ModelTerm:
    s = cp.Variable(u.shape, name="s")
    tie = _labelled(s >= cp.abs(u), "s is the size of u")
    return ModelTerm(cp.sum(s - cp.log1p(s)), (tie,), ((s, lambda: np.abs(u.value)),))


def _softsign_conjugate(v: Expression, _: float | None) -> ModelTerm:
    r = cp.Variable(v.shape, name="r")
    tie = _labelled(r >= cp.abs(v), "r is the size of x")
    return ModelTerm(cp.sum(-cp.log1p(-r) - r), (tie,), ((r, lambda: np.abs(v.value)),))


def _exponential_potential(u: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(cp.sum(cp.exp(u)))


def _exponential_conjugate(v: Expression, _: float | None) -> ModelTerm:
    return ModelTerm(-cp.sum(cp.entr(v)) - cp.sum(v))


MODELS: dict[str, tuple[Callable[..., ModelTerm], Callable[..., ModelTerm]]] = {
    "identity": (_identity, _identity),
    "relu": (_relu_potential, _relu_conjugate),
    "leaky_relu": (_leaky_potential, _leaky_conjugate),
    "clipped_relu": (_clipped_potential, _clipped_conjugate),
    "hardtanh": (_hardtanh_potential, _hardtanh_conjugate),
    "soft_shrink": (_shrink_potential, _shrink_conjugate),
    "sigmoid": (_sigmoid_potential, _sigmoid_conjugate),
    "tanh": (_tanh_potential, _tanh_conjugate),
    "softmax": (_softmax_potential, _softmax_conjugate),
    "elu": (_elu_potential, _elu_conjugate),
    "softsign": (_softsign_potential, _softsign_conjugate),
    "exponential": (_exponential_potential, _exponential_conjugate),
}
"""name -> (Phi, Phi*). Arctan and probit are absent: no composition of atoms gives them."""
