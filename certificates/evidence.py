"""Evidence for an upper bound on h(v) by paired moments, its value in floating point, and its file form.

For a sign s let v0 = s p v - S'pi, S and delta the pairs and their differences. With multipliers pi, lm, l4 >= 0 and
widths tau > 0 every sample and every pair has a quadratic majorant (z = x_i'u, |z| <= r_i; z = delta'u),

    v0_i (z)_+  <=  al_i z^2 + b_i z + ga_i,      al = lh / (2 tau) - l4 / r,   b = lh - l4 - lm,
                                                  lh = max(0, (v0 + 2 l4 + lm) / 2),
    pi_k (z)_+  <=  a2_k z^2 + b2_k z + g2_k,     a2 = pi / (4 tau_k),   b2 = pi / 2,   g2 = pi tau_k / 4,

so that s v'phi(X u) is at most G + g'u + u'A u for |u| = 1, and that at most  rho + G + (g/2)'(rho I - A)^{-1}(g/2).
Instead of the multiplier l4 a sample may have a row w_i with l4 = |w_i| (SOC-RLT): -l4 |z| <= -z w_i'u. The formulas
make good evidence; ANY numbers make valid evidence, because whoever checks it takes the least ga and g2.

Values here are floating-point ESTIMATES. What is proven is what checker.py finds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..formulations.sample_pairs import Pairs
from .problem import TwoLayerProblem

SIGNS = (1.0, -1.0)
NEGLIGIBLE = 1e-9
"""Pairs with a weight below this share of the largest are left out of the file."""
BISECTIONS = 100


@dataclass(frozen=True)
class Multipliers:
    """Multipliers of the relaxation, one row for each sign; see the module.

    Attributes
    ----------
    v : array, shape (samples,)
    pairs, mean, local : array, shapes (2, pairs), (2, samples) and (2, samples)
        pi, lm and l4, at least zero.
    width, pair_width : array, shapes (2, samples) and (2, pairs)
        tau, above zero.
    rows : array, shape (2, samples, features), or None
        w, whose lengths then stand for l4.
    """

    v: np.ndarray
    pairs: np.ndarray
    mean: np.ndarray
    local: np.ndarray
    width: np.ndarray
    pair_width: np.ndarray
    rows: np.ndarray | None = None

    def scaled(self, factor: float) -> Multipliers:
        """All but the widths times a factor, which multiplies h by it."""
        rows = None if self.rows is None else factor * self.rows
        return Multipliers(
            factor * self.v, factor * self.pairs, factor * self.mean, factor * self.local, self.width,
            self.pair_width, rows,
        )  # fmt: skip


@dataclass(frozen=True)
class Side:
    """The majorants of one sign: quadratic and linear coefficients of samples and of pairs, and rho.

    Attributes
    ----------
    quadratic, linear : array, shape (samples,)
    weight, pair_quadratic, pair_linear : array, shape (pairs,)
    rows : array, shape (samples, features), or None
    rho : float
    estimate : float
        Of the bound on max over |u| = 1 of s v'phi(X u) that these prove, in floating point.
    """

    quadratic: np.ndarray
    linear: np.ndarray
    weight: np.ndarray
    pair_quadratic: np.ndarray
    pair_linear: np.ndarray
    rows: np.ndarray | None
    rho: float
    estimate: float


def sides(problem: TwoLayerProblem, pairs: Pairs, multipliers: Multipliers) -> list[Side]:
    """The majorants of both signs."""
    return [_side(problem, pairs, multipliers, place) for place in range(2)]


def support_estimate(problem: TwoLayerProblem, pairs: Pairs, multipliers: Multipliers) -> float:
    """About the upper bound on h(v) that the evidence will prove."""
    return max(side.estimate for side in sides(problem, pairs, multipliers))


def value_estimate(problem: TwoLayerProblem, pairs: Pairs, multipliers: Multipliers) -> float:
    """About the lower bound on the training objective that the evidence will prove."""
    support = support_estimate(problem, pairs, multipliers)
    scale = problem.best_scale(multipliers.v, problem.weight_decay / max(support, 1e-300))
    return problem.dual(scale * multipliers.v)


def busy(pairs: Pairs, start: Multipliers, share: float = 0.0) -> tuple[Pairs, Multipliers]:
    """The pairs whose multiplier is above a share of the largest, and theirs."""
    kept = start.pairs.max(axis=0) > share * start.pairs.max(initial=0.0)
    return pairs.only(kept), replace(start, pairs=start.pairs[:, kept], pair_width=start.pair_width[:, kept])


def as_evidence(problem: TwoLayerProblem, pairs: Pairs, multipliers: Multipliers) -> dict[str, Any]:
    """The evidence as it stands in a certificate file."""
    found: dict[str, Any] = {}
    for name, side in zip(("plus", "minus"), sides(problem, pairs, multipliers), strict=True):
        largest = float(side.weight.max(initial=0.0))
        kept = np.flatnonzero(side.weight > NEGLIGIBLE * largest) if largest > 0 else ()
        found[name] = {
            "rho": side.rho.hex(), "quadratic": hexes(side.quadratic), "linear": hexes(side.linear),
            "pairs": [_pair(pairs, side, int(place)) for place in kept],
            "rows": None if side.rows is None else [hexes(row) if row.any() else None for row in side.rows],
        }  # fmt: skip
    return {"kind": "paired_moments", "v": hexes(multipliers.v), **found}


def _side(problem: TwoLayerProblem, pairs: Pairs, multipliers: Multipliers, place: int) -> Side:
    X, (p, q), sign = problem.X, problem.coefficients, SIGNS[place]
    norms = np.linalg.norm(X, axis=1)
    pi = np.maximum(multipliers.pairs[place], 0)
    v0 = sign * p * multipliers.v - pairs.pulled(pi)
    rows = None if multipliers.rows is None else multipliers.rows[place]
    local = np.maximum(multipliers.local[place], 0) if rows is None else np.linalg.norm(rows, axis=1)
    mean = np.maximum(multipliers.mean[place], 0)
    half = np.maximum(0, (v0 + 2 * local + mean) / 2)
    quadratic, linear = half / (2 * multipliers.width[place]), half - local - mean
    if rows is None:
        quadratic = quadratic - local / np.maximum(norms, 1e-300)
    pair_quadratic, pair_linear = pi / (4 * multipliers.pair_width[place]), pi / 2
    constants = _constants(v0, quadratic, linear, norms, local if rows is not None else 0.0)
    A = (X * quadratic[:, None]).T @ X + (pairs.differences * pair_quadratic[:, None]).T @ pairs.differences
    g = X.T @ (linear + sign * q * multipliers.v) + pairs.differences.T @ pair_linear
    if rows is not None:
        mixed = X.T @ rows
        A = A - (mixed + mixed.T) / 2
    rho, most = _trust(A, g)
    estimate = float(constants.sum() + (pi * multipliers.pair_width[place]).sum() / 4 + most)
    return Side(quadratic, linear, pi, pair_quadratic, pair_linear, rows, rho, estimate)


def _constants(
    v0: np.ndarray, quadratic: np.ndarray, linear: np.ndarray, radii: np.ndarray, local: np.ndarray | float
) -> np.ndarray:
    """max over |z| <= r of v0 (z)_+ + l |z| - quadratic z^2 - linear z."""
    constants = np.zeros_like(v0)
    for slope in (v0 + local - linear, local + linear):
        constants = np.maximum(constants, slope * radii - quadratic * radii**2)
        inside = (quadratic > 0) & (slope > 0) & (slope < 2 * quadratic * radii)
        constants[inside] = np.maximum(constants[inside], slope[inside] ** 2 / (4 * quadratic[inside]))
    return constants


def _trust(A: np.ndarray, g: np.ndarray) -> tuple[float, float]:
    """The rho above the eigenvalues of A with the least rho + (g/2)'(rho I - A)^{-1}(g/2), and that value."""
    if not (np.isfinite(A).all() and np.isfinite(g).all()):
        return np.inf, np.inf
    values, vectors = np.linalg.eigh(A)
    squares = (vectors.T @ g / 2) ** 2
    room = 1e-9 * max(float(np.abs(values).max()), 1e-300)
    low = float(values[-1]) + room
    high = low + float(np.sqrt(squares.sum()))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float((squares / (middle - values) ** 2).sum()) > 1:
            low = middle
        else:
            high = middle
    return high, high + float((squares / (high - values)).sum())


def _pair(pairs: Pairs, side: Side, place: int) -> dict[str, Any]:
    return {
        "of": int(pairs.of[place]), "partners": [[j, c.hex()] for j, c in pairs.partners[place]],
        "weight": float(side.weight[place]).hex(), "quadratic": float(side.pair_quadratic[place]).hex(),
        "linear": float(side.pair_linear[place]).hex(),
    }  # fmt: skip


def hexes(numbers: np.ndarray) -> list[str]:
    """Numbers as a certificate file has them."""
    return [float(number).hex() for number in numbers]
