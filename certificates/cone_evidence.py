"""Evidence by cones: trees of cones for both signs, finer and finer as long as there is time.

The dual point is that of the incumbent, v = -grad loss. The finer the trees the nearer their bound on h(v) is to h(v)
itself; what then is left of the gap is how far the incumbent is from the optimum. Trees that exact arithmetic can go
through are preferred to larger ones that gain little.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checker import too_many_cones
from .cone_search import Cones, search_cones
from .evidence import SIGNS
from .incumbent import Incumbent
from .problem import TwoLayerProblem
from .support import worst_neurons

TOLERANCES = (0.2, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4)
"""How far, relatively, the bound on h(v) may be above what h(v) or the weight decay is known to reach."""
FINE = 0.03
"""A tolerance at which the bound on h(v) is sharp."""
LITTLE = {True: 1e-4, False: 1e-3}
"""Relative gains for which no larger tree is taken that exact arithmetic, or only floating point, goes through."""


@dataclass(frozen=True)
class ConeEvidence:
    """Trees for both signs and the lower bound that they will prove, an estimate.

    Attributes
    ----------
    trees : tuple of Cones
        For the signs + and -.
    estimate : float
    tolerance : float
        One of TOLERANCES.
    """

    v: np.ndarray
    trees: tuple[Cones, ...]
    estimate: float
    tolerance: float

    @property
    def fine(self) -> bool:
        """Whether finer trees would gain little."""
        return self.tolerance <= FINE

    @property
    def exact(self) -> bool:
        """Whether exact arithmetic goes through so many cones."""
        return not too_many_cones([tree.levels for tree in self.trees], len(self.v))

    def as_evidence(self) -> dict[str, Any]:
        """As it stands in a certificate file."""
        plus, minus = (tree.levels for tree in self.trees)
        return {"kind": "cone_search", "v": [float(entry).hex() for entry in self.v], "plus": plus, "minus": minus}


def search_evidence(
    problem: TwoLayerProblem, incumbent: Incumbent, first: float, last: float
) -> ConeEvidence | None:
    """The best evidence until the `last` deadline, on `time.perf_counter`; None where none was found.

    Where it is not fine at the `first` deadline the search ends then.
    """
    lengths = np.linalg.norm(incumbent.weights, axis=1, keepdims=True)
    worst = worst_neurons(problem, incumbent.v, starts=incumbent.weights / np.maximum(lengths, 1e-300))
    least = max(problem.weight_decay, float(worst.values[0]))
    best: ConeEvidence | None = None
    for tolerance in TOLERANCES:
        began, deadline = time.perf_counter(), last if best is not None and best.fine else first
        found = _search(problem, incumbent.v, least, tolerance, deadline)
        if found is None:
            break
        gain = np.inf if best is None or best.estimate <= 0 else found.estimate / best.estimate - 1
        if gain > LITTLE[found.exact]:
            best = found
        # The next one takes longer than this one.
        if began + 2 * (time.perf_counter() - began) > deadline:
            break
    return best


def _search(
    problem: TwoLayerProblem, v: np.ndarray, least: float, tolerance: float, deadline: float
) -> ConeEvidence | None:
    (p, q), trees = problem.coefficients, []
    for sign in SIGNS:
        linear = sign * q * (problem.X.T @ v)
        tree = search_cones(problem.X, sign * p * v, linear, least * (1 + tolerance), deadline=deadline)
        if tree is None:
            return None
        trees.append(tree)
    bound = max(tree.bound for tree in trees)
    scale = problem.best_scale(v, problem.weight_decay / max(bound, 1e-300))
    return ConeEvidence(v, tuple(trees), problem.dual(scale * v), tolerance)
