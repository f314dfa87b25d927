"""The support function h(v) = max over |u| = 1 of |v'phi(X u)|, estimated from below by seeded multistart ascent.

Steps go along the gradient on the unit sphere, longer where the value rose and shorter where it did not. What is found
is a neuron that a network may want, and a value that h exceeds or equals: an ESTIMATE, never a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .problem import TwoLayerProblem

STARTS, STEPS = 256, 120
LONGEST_STEP = 10.0
MOST_ENTRIES = 20_000_000
"""Entries of the products of X with the starts that are held together."""


@dataclass(frozen=True)
class Neurons:
    """Unit neurons, best first.

    Attributes
    ----------
    directions : array, shape (neurons, features)
    signs : array, shape (neurons,)
        Of the output weight.
    values : array, shape (neurons,)
        sign v'phi(X u).
    """

    directions: np.ndarray
    signs: np.ndarray
    values: np.ndarray

    def distinct(self, most: int, nearest: float = 0.9999) -> Neurons:
        """The best ones that differ, at most so many."""
        kept: list[int] = []
        for place in range(len(self.values)):
            same = self.signs[kept] == self.signs[place]
            if not (same & (self.directions[kept] @ self.directions[place] > nearest)).any():
                kept.append(place)
            if len(kept) == most:
                break
        return Neurons(self.directions[kept], self.signs[kept], self.values[kept])


def worst_neurons(
    problem: TwoLayerProblem, v: np.ndarray, *, random_state: int = 0, starts: np.ndarray | None = None,
    count: int = STARTS,
) -> Neurons:  # fmt: skip
    """Ascend sign v'phi(X u) from samples, random directions and given starts, for both signs."""
    rng = np.random.default_rng(random_state)
    count = max(16, min(count, MOST_ENTRIES // len(problem.X)))
    found = [_ascend(problem, sign * v, _starts(problem, sign * v, starts, count, rng)) for sign in (1.0, -1.0)]
    signs = np.repeat([1.0, -1.0], [len(values) for _, values in found])
    directions, values = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
    order = np.argsort(-values, kind="stable")
    return Neurons(directions[order], signs[order], values[order])


def largest_weight_decay(problem: TwoLayerProblem, *, random_state: int = 0) -> float:
    """h(-grad loss(0)), estimated: the weight decay above which the zero network is optimal."""
    v = problem.negative_gradient(np.zeros(len(problem.y)))
    return float(worst_neurons(problem, v, random_state=random_state).values[0])


def _starts(
    problem: TwoLayerProblem, v: np.ndarray, given: np.ndarray | None, count: int, rng: np.random.Generator
) -> np.ndarray:
    X, half = problem.X, count // 2
    U = rng.standard_normal((count, X.shape[1]))
    chosen = rng.integers(0, len(X), half)
    typical = np.linalg.norm(X, axis=1).mean() / np.sqrt(X.shape[1])
    # Directions of samples, towards those that want more and away from the others.
    U[:half] = X[chosen] * np.where(v[chosen] >= 0, 1.0, -1.0)[:, None] + 0.1 * typical * U[:half]
    if given is not None and len(given):
        U = np.vstack([U, given])
    return U / np.maximum(np.linalg.norm(U, axis=1, keepdims=True), 1e-300)


def _ascend(problem: TwoLayerProblem, v: np.ndarray, U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    X, (p, q) = problem.X, problem.coefficients
    Z = U @ X.T
    values, steps = problem.phi(Z) @ v, np.full(len(U), 0.5)
    for _ in range(STEPS):
        gradient = ((p * (Z > 0) + q) * v) @ X
        gradient /= np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-300)
        tried = U + steps[:, None] * gradient
        tried /= np.maximum(np.linalg.norm(tried, axis=1, keepdims=True), 1e-300)
        there = tried @ X.T
        reached = problem.phi(there) @ v
        better = reached > values
        U, Z = np.where(better[:, None], tried, U), np.where(better[:, None], there, Z)
        values = np.where(better, reached, values)
        steps = np.where(better, np.minimum(1.5 * steps, LONGEST_STEP), steps / 2)
    return U, values
