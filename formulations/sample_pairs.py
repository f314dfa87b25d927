"""Pairs of a sample and its partners, by which relaxations of two-layer training see samples cancel.

The ReLU is subadditive and positively homogeneous: for any c_j >= 0

    (x_i'u)_+  <=  sum_j c_j (x_j'u)_+  +  (delta'u)_+,        delta = x_i - sum_j c_j x_j .

The smaller delta, the more such a pair is worth: partners are near neighbours, up to a factor, among all samples and
among those that pull the other way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import nnls

from .errors import UsageError
from .subproblem import require_size

BLOCK = 1_000
"""Samples whose distances to all others are held together."""
CONIC = 12
"""Neighbours of each kind of which a pair with several partners takes those it needs."""
NEGLIGIBLE = 1e-8


@dataclass(frozen=True)
class Pairs:
    """Pairs as the sparse matrix P with P_ki = 1 at the sample of pair k and -c_j at its partners.

    Attributes
    ----------
    pair, sample : array of int, shape (entries,)
        Row and column of every entry.
    value : array, shape (entries,)
    of : array of int, shape (pairs,)
        The sample x_i of every pair.
    differences : array, shape (pairs, features)
        The rows delta = P X.
    samples : int
    """

    pair: np.ndarray
    sample: np.ndarray
    value: np.ndarray
    of: np.ndarray
    differences: np.ndarray
    samples: int

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.of)

    @property
    def matrix(self) -> np.ndarray:
        """P, dense: (pairs, samples)."""
        dense = np.zeros((len(self), self.samples))
        np.add.at(dense, (self.pair, self.sample), self.value)
        return dense

    def pulled(self, weights: np.ndarray) -> np.ndarray:
        """P'pi: what the pairs take from every sample."""
        return np.bincount(self.sample, self.value * weights[self.pair], self.samples)

    def only(self, kept: np.ndarray) -> Pairs:
        """The pairs where `kept` (pairs,) holds."""
        places, entries = np.cumsum(kept) - 1, kept[self.pair]
        return Pairs(
            places[self.pair[entries]], self.sample[entries], self.value[entries], self.of[kept],
            self.differences[kept], self.samples,
        )  # fmt: skip

    @cached_property
    def partners(self) -> list[list[tuple[int, float]]]:
        """The partners of every pair with their c_j."""
        found: list[list[tuple[int, float]]] = [[] for _ in self.of]
        for pair, sample, value in zip(self.pair.tolist(), self.sample.tolist(), self.value.tolist(), strict=True):
            if value < 0:
                found[pair].append((sample, -value))
        return found


def nearest_pairs(X: Any, y: Any = None, *, neighbours: int = 2, conic: bool = False) -> Pairs:
    """Pair every sample with its nearest neighbours, and with its nearest ones of the other sign of y.

    Parameters
    ----------
    X : array, shape (samples, features)
    y : array, shape (samples,), or None
        Targets, or labels of which one is not above zero; None leaves the neighbours of the other sign out.
    neighbours : int
        Of each kind; distances are |x_i - c x_j| with the best c >= 0, which is max(0, x_i'x_j / |x_j|^2).
    conic : bool
        Whether every sample also gets pairs with several partners: the nonnegative combinations nearest to it of some
        neighbours of any, of the same and of the other sign.

    Raises
    ------
    UsageError
        If `neighbours` is below 1, or the data have the wrong shape.

    Examples
    --------
    >>> nearest_pairs([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], neighbours=1).matrix.tolist()
    [[1.0, -0.5, 0.0], [-2.0, 1.0, 0.0]]
    """
    require_size(neighbours=neighbours)
    X = np.asarray(X, dtype=float)
    if X.ndim != 2 or not len(X):
        raise UsageError(f"X has shape {X.shape}; expected (samples, features), with at least one sample.")
    above = None if y is None else np.asarray(y) > 0
    if above is not None and above.shape != (len(X),):
        raise UsageError(f"y has shape {above.shape}; expected ({len(X)},), one target for each row of X.")
    single: list[np.ndarray] = [np.zeros((0, 2), dtype=int)]
    several: list[tuple[int, np.ndarray, np.ndarray]] = []
    squares = np.maximum(np.einsum("nd,nd->n", X, X), 1e-300)
    for first in range(0, len(X), BLOCK):
        here = np.arange(first, min(first + BLOCK, len(X)))
        inner, itself = X[here] @ X.T, here[:, None] == np.arange(len(X))
        factors = np.maximum(inner / squares, 0)
        distances = np.where((factors <= 0) | itself, np.inf, squares[here, None] - factors**2 * squares)
        single += [_smallest(kind, here, neighbours) for kind in _kinds(distances, above, here)[:2]]
        if conic:
            # A sample that is no partner by itself may be one among others.
            distances = np.where(itself, np.inf, squares[here, None] - 2 * inner + squares)
            several += [found for kind in _kinds(distances, above, here) for found in _combinations(X, kind, here)]
    return _assemble(X, np.unique(np.concatenate(single), axis=0), squares, several)


def make_pairs(X: np.ndarray, of: np.ndarray, pair: np.ndarray, partner: np.ndarray, factors: np.ndarray) -> Pairs:
    """Pairs of the samples `of`, whose partners are listed with their pair and factor c_j >= 0."""
    used = factors > 0
    pairs = np.concatenate([np.arange(len(of)), pair[used]])
    samples = np.concatenate([of, partner[used]])
    values = np.concatenate([np.ones(len(of)), -factors[used]])
    differences = X[of].copy()
    np.add.at(differences, pair[used], -factors[used][:, None] * X[partner[used]])
    return Pairs(pairs, samples, values, of, differences, len(X))


def _kinds(distances: np.ndarray, above: np.ndarray | None, here: np.ndarray) -> list[np.ndarray]:
    """Distances to all samples, to those of the other sign alone and to those of the same sign alone."""
    if above is None:
        return [distances]
    same = above[here][:, None] == above
    return [distances, np.where(same, np.inf, distances), np.where(same, distances, np.inf)]


def _smallest(distances: np.ndarray, here: np.ndarray, count: int) -> np.ndarray:
    """Places (sample, partner) of the smallest finite entries of every row."""
    count = min(count, distances.shape[1])
    columns = np.argpartition(distances, count - 1, axis=1)[:, :count]
    rows = np.repeat(np.arange(len(here)), count)
    finite = np.isfinite(distances[rows, columns.ravel()])
    return np.column_stack([here[rows], columns.ravel()])[finite]


def _combinations(X: np.ndarray, distances: np.ndarray, here: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Of every sample the partners and factors of its nearest combination, where there are several."""
    found = []
    places = _smallest(distances, here, CONIC)
    for i in here:
        near = places[places[:, 0] == i, 1]
        factors = nnls(X[near].T, X[i])[0] if len(near) > 1 else np.zeros(len(near))
        used = factors > NEGLIGIBLE
        if used.sum() > 1:
            found.append((int(i), near[used], factors[used]))
    return found


def _assemble(
    X: np.ndarray, single: np.ndarray, squares: np.ndarray, several: list[tuple[int, np.ndarray, np.ndarray]]
) -> Pairs:
    of, partner = single.T
    factors = np.einsum("nd,nd->n", X[of], X[partner]) / squares[partner]
    numbers = [np.full(len(near), len(of) + place) for place, (_, near, _) in enumerate(several)]
    return make_pairs(
        X, np.concatenate([of, [i for i, _, _ in several]]).astype(int),
        np.concatenate([np.arange(len(of)), *numbers]).astype(int),
        np.concatenate([partner, *(near for _, near, _ in several)]).astype(int),
        np.concatenate([factors, *(given for _, _, given in several)]),
    )  # fmt: skip
