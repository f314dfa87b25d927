"""A tree of cones gone through again in floating point, every rounding counted against the bound: fast and rigorous.

checker.py does the same in exact arithmetic, up to as many cones as that takes minutes for. Here numpy multiplies
matrices, and each c_k of cone_search.py is raised by more than all roundings can have lowered it. For an inner product
of n terms, summed in any order,

    |fl(x'y) - x'y|  <=  gamma_n |x|'|y|,      gamma_n = n e / (1 - n e),      e = 2^-53

(Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1). What is assumed is IEEE arithmetic in
double precision and products of matrices that are sums of products. Generators are integers below 2^50, hence exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .checker import LONGEST_GENERATOR, SYMBOLS, Matrix
from .cone_search import proposals, together

UNIT_ROUNDOFF = 2.0**-53
SAFETY = 4.0
"""The errors of a computation are taken so many times: that covers those of the margins themselves."""
TINIEST, HUGEST = 1e-60, 1e60
"""Nonzero data have to be within, so that nothing underflows that matters or overflows."""
UNDERFLOW = 1e-150
TIE = 1e-12
"""Relative inner products up to this are zero for the choice of the active samples."""


def replay(X: Matrix, v: Sequence[float], slope: float, sign: int, levels: Sequence[str]) -> float:
    """At least sign * v'phi(X u) for all |u| = 1, phi(z) = z for z >= 0 and slope z below: a proven upper bound.

    Parameters
    ----------
    X : sequences of floats, shape (samples, features)
    v : sequence of floats, shape (samples,)
    slope : float
    sign : int
        1 or -1.
    levels : sequence of str
        The tree: well formed, as checker.py reads it.

    Raises
    ------
    ValueError
        If data are too large or too small for margins to hold, or the generators for being exact.
    """
    walk = _Walk(np.array(X, dtype=float), sign * np.array(v, dtype=float), slope)
    return walk.largest([np.frombuffer(level.encode(), dtype=np.uint8) for level in levels])


class _Walk:
    """F of one sign, with the margins of its values."""

    def __init__(self, X: np.ndarray, v: np.ndarray, slope: float) -> None:
        sizes = np.abs(np.concatenate([X.ravel(), v]))
        if not ((sizes == 0) | ((sizes >= TINIEST) & (sizes <= HUGEST))).all():
            raise ValueError(
                f"the data or v have entries outside of {TINIEST:g} to {HUGEST:g}, for which floating point proves "
                "nothing; scale the data."
            )
        self.samples, self.features = X.shape
        v0 = (1 - slope) * v
        up, down = v0 > 0, v0 < 0
        self.above = np.ascontiguousarray((X[up] * v0[up, None]).T)
        self.below = np.ascontiguousarray(X[down].T)
        self.ties = TIE * np.abs(self.below).max(0, initial=0)
        self.below_gradients = X[down] * v0[down, None]
        self.linear = slope * (v @ X)
        # At most samples + features + a few roundings stand behind each term of a value.
        gamma = SAFETY * (self.samples + 2 * self.features + 20) * UNIT_ROUNDOFF
        self.margins = gamma * (1 + 2 * abs(slope)) * (np.abs(v) @ np.abs(X))
        self.inner_gamma = SAFETY * (self.features + 4) * UNIT_ROUNDOFF
        self.edges = np.transpose(np.triu_indices(self.features, 1))

    def convex(self, U: np.ndarray) -> np.ndarray:
        return np.maximum(U @ self.above, 0).sum(-1) + U @ self.linear

    def largest(self, levels: list[np.ndarray]) -> float:
        """The largest bound on a leaf; chunks of a level are worked off with all of their descendants."""
        symbols = np.full(256, -1)
        symbols[np.frombuffer(SYMBOLS.encode(), dtype=np.uint8)] = np.arange(len(SYMBOLS))
        signs = 1.0 - 2.0 * (np.arange(1 << self.features)[:, None] >> np.arange(self.features) & 1)
        U = signs[:, :, None] * np.eye(self.features)
        batch = together(self.samples)
        places, todo, found = [0] * (len(levels) + 1), [(0, U, self.convex(U))], 0.0
        while todo:
            level, U, values = todo.pop()
            if len(U) > batch:
                todo += [(level, U[batch:], values[batch:]), (level, U[:batch], values[:batch])]
                continue
            here = symbols[levels[level][places[level] : places[level] + len(U)]]
            places[level] += len(U)
            leaf = here == 0
            if leaf.any():
                found = max(found, self._leaves(U[leaf], values[leaf], found))
            if not leaf.all():
                todo.append((level + 1, *self._halves(U[~leaf], values[~leaf], self.edges[here[~leaf] - 1])))
        return found

    def _leaves(self, U: np.ndarray, values: np.ndarray, known: float) -> float:
        """The largest bound on some leaves, or any below what is known already."""
        centres = U.sum(1)
        # Any choice of the active samples will do; this one is the same on all machines if a centre is on the border.
        active = (centres @ self.below > np.abs(centres).sum(1, keepdims=True) * self.ties).astype(float)
        c = values + (U @ (active @ self.below_gradients)[..., None])[..., 0]
        c = c + np.abs(U) @ self.margins + UNDERFLOW
        lengths = np.linalg.norm(U, axis=2)
        units = U / lengths[..., None]
        bounds = self._reached(U, c, units.sum(1))
        left = np.flatnonzero(bounds > known)
        if len(left):
            found = proposals(torch.as_tensor(units[left]), torch.as_tensor(c[left] / lengths[left]))
            for w in (centres[left], *(proposal.numpy() for proposal in found)):
                bounds[left] = np.fmin(bounds[left], self._reached(U[left], c[left], w))
        return float(bounds.max())

    def _reached(self, U: np.ndarray, c: np.ndarray, w: np.ndarray) -> np.ndarray:
        """The bound that any w gives on each cone, rounded up; infinite where w is of no use."""
        with np.errstate(all="ignore"):
            w = w / np.linalg.norm(w, axis=1, keepdims=True)
            inner = (U @ w[..., None])[..., 0]
            inner = inner - self.inner_gamma * (np.abs(U) @ np.abs(w)[..., None])[..., 0] - UNDERFLOW
            theta = np.where(inner > 0, c / inner, np.inf).max(1)
            length = np.linalg.norm(w, axis=1)
            bounds = np.maximum(theta, 0) * length * (1 + self.inner_gamma) + UNDERFLOW
        return np.where(np.isfinite(bounds) & np.isfinite(length), bounds, np.inf)

    def _halves(self, U: np.ndarray, values: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The two cones that each is split into; the arithmetic is that of whole numbers."""
        place, (first, second) = np.arange(len(U)), edges.T
        sizes = np.abs(U).max(2)
        a, b = sizes[place, first], sizes[place, second]
        factors = [np.maximum(np.floor((2 * other + size) / (2 * size)), 1) for size, other in ((a, b), (b, a))]
        middle = factors[0][:, None] * U[place, first] + factors[1][:, None] * U[place, second]
        if np.abs(middle).max() > LONGEST_GENERATOR:
            raise ValueError(f"cones are split too finely: their generators have entries above {LONGEST_GENERATOR}.")
        U, values, there = (np.repeat(part, 2, axis=0) for part in (U, values, self.convex(middle)))
        place, replaced = np.arange(len(U)), edges.ravel()
        U[place, replaced], values[place, replaced] = np.repeat(middle, 2, axis=0), there
        return U, values
