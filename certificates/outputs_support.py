"""h(V) = max over |u| = 1 of |V'phi(X u)|, estimated from below by seeded multistart ascent: never a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .outputs_problem import OutputsProblem
from .support import LONGEST_STEP, MOST_ENTRIES, STEPS

STARTS = 256


@dataclass(frozen=True)
class OutputNeurons:
    """Unit neurons, best first: `directions` (neurons, features), `outputs` (neurons, K) of length one, `values`."""

    directions: np.ndarray
    outputs: np.ndarray
    values: np.ndarray

    def distinct(self, most: int, nearest: float = 0.9999) -> OutputNeurons:
        """The best ones that differ, at most so many."""
        kept: list[int] = []
        for place in range(len(self.values)):
            if not (self.directions[kept] @ self.directions[place] > nearest).any():
                kept.append(place)
            if len(kept) == most:
                break
        return OutputNeurons(self.directions[kept], self.outputs[kept], self.values[kept])


def worst_output_neurons(
    problem: OutputsProblem, V: np.ndarray, *, random_state: int = 0, starts: np.ndarray | None = None
) -> OutputNeurons:
    """Ascend |V'phi(X u)| from samples of either sign, random directions and given starts."""
    rng, (samples, features) = np.random.default_rng(random_state), problem.X.shape
    count = max(16, min(STARTS, MOST_ENTRIES // samples))
    U = rng.standard_normal((count, features))
    typical = np.linalg.norm(problem.X, axis=1).mean() / np.sqrt(features)
    half = count // 2
    U[:half] = rng.choice([-1.0, 1.0], (half, 1)) * problem.X[rng.integers(0, samples, half)] + 0.1 * typical * U[:half]
    if starts is not None:
        U = np.vstack([U, starts])
    U = _units(U)
    values, outputs, gradient = _look(problem, V, U)
    steps = np.full(len(U), 0.5)
    for _ in range(STEPS):
        tried = _units(U + steps[:, None] * _units(gradient))
        reached, outputs_there, gradient_there = _look(problem, V, tried)
        better = reached > values
        U, outputs, gradient = (
            np.where(better[:, None], new, old)
            for new, old in ((tried, U), (outputs_there, outputs), (gradient_there, gradient))
        )
        values = np.where(better, reached, values)
        steps = np.where(better, np.minimum(1.5 * steps, LONGEST_STEP), steps / 2)
    order = np.argsort(-values, kind="stable")
    return OutputNeurons(U[order], outputs[order], values[order])


def largest_outputs_weight_decay(problem: OutputsProblem, *, random_state: int = 0) -> float:
    """h(-grad loss(0)), estimated: the weight decay above which the zero network is optimal."""
    V = problem.negative_gradient(np.zeros((len(problem.y), problem.outputs)))
    return float(worst_output_neurons(problem, V, random_state=random_state).values[0])


def _units(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


def _look(problem: OutputsProblem, V: np.ndarray, U: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """|V'phi(X u)|, the output weights of length one that reach it, and the gradient in u."""
    Z, (p, q) = U @ problem.X.T, problem.coefficients
    reached = problem.phi(Z) @ V
    outputs = _units(reached)
    return np.linalg.norm(reached, axis=1), outputs, ((p * (Z > 0) + q) * (outputs @ V.T)) @ problem.X
