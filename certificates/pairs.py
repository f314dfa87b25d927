"""Pairs of a sample and its partners, by which the relaxation sees samples cancel.

The ReLU is subadditive and positively homogeneous: for any c_j >= 0

    (x_i'u)_+  <=  sum_j c_j (x_j'u)_+  +  (delta'u)_+,        delta = x_i - sum_j c_j x_j .

The smaller delta, the more such a pair is worth: partners are near neighbours, in the direction too, among all samples
and among those that pull the other way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BLOCK = 1_000
"""Samples whose distances to all others are held together."""


@dataclass(frozen=True)
class Pairs:
    """Pairs as the sparse matrix S with S_ki = 1 at the sample of pair k and -c_j at its partners.

    Attributes
    ----------
    pair, sample : array of int, shape (entries,)
        Row and column of every entry.
    value : array, shape (entries,)
    of : array of int, shape (pairs,)
        The sample x_i of every pair.
    differences : array, shape (pairs, features)
        The rows delta = S X.
    """

    pair: np.ndarray
    sample: np.ndarray
    value: np.ndarray
    of: np.ndarray
    differences: np.ndarray

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.of)

    def pulled(self, weights: np.ndarray, samples: int) -> np.ndarray:
        """S'pi: what the pairs take from every sample."""
        return np.bincount(self.sample, self.value * weights[self.pair], samples)

    @cached_property
    def partners(self) -> list[list[tuple[int, float]]]:
        """The partners of every pair with their c_j."""
        found: list[list[tuple[int, float]]] = [[] for _ in self.of]
        for pair, sample, value in zip(self.pair.tolist(), self.sample.tolist(), self.value.tolist(), strict=True):
            if value < 0:
                found[pair].append((sample, -value))
        return found


def nearest_pairs(X: np.ndarray, y: np.ndarray, neighbours: int) -> Pairs:
    """Every sample with its nearest neighbours, and with its nearest ones of the other sign of y; one partner each.

    Distances are |x_i - c x_j| with the best c >= 0, which is max(0, x_i'x_j / |x_j|^2).
    """
    samples, squares = len(X), np.maximum(np.einsum("nd,nd->n", X, X), 1e-300)
    neighbours = min(neighbours, samples - 1)
    found: list[np.ndarray] = [np.zeros((0, 2), int)]
    for first in range(0, samples if neighbours > 0 else 0, BLOCK):
        here = np.arange(first, min(first + BLOCK, samples))
        inner = X[here] @ X.T
        factors = np.maximum(inner / squares, 0)
        distances = squares[here, None] - 2 * factors * inner + factors**2 * squares
        distances[np.arange(len(here)), here] = np.inf
        found.append(_smallest(distances, here, neighbours))
        distances[np.sign(y[here])[:, None] == np.sign(y)] = np.inf
        found.append(_smallest(distances, here, neighbours))
    of, partner = np.unique(np.concatenate(found), axis=0).T
    factors = np.maximum(np.einsum("nd,nd->n", X[of], X[partner]) / squares[partner], 0)
    return make_pairs(X, of, np.arange(len(of)), partner, factors)


def make_pairs(X: np.ndarray, of: np.ndarray, pair: np.ndarray, partner: np.ndarray, factors: np.ndarray) -> Pairs:
    """Pairs of the samples `of`, whose partners are listed with their pair and factor c_j >= 0."""
    used = factors > 0
    pairs = np.concatenate([np.arange(len(of)), pair[used]])
    samples = np.concatenate([of, partner[used]])
    values = np.concatenate([np.ones(len(of)), -factors[used]])
    differences = X[of].copy()
    np.add.at(differences, pair[used], -factors[used][:, None] * X[partner[used]])
    return Pairs(pairs, samples, values, of, differences)


def _smallest(distances: np.ndarray, here: np.ndarray, count: int) -> np.ndarray:
    """Places (sample, partner) of the smallest finite entries of every row."""
    columns = np.argpartition(distances, count - 1, axis=1)[:, :count]
    rows = np.repeat(np.arange(len(here)), count)
    finite = np.isfinite(distances[rows, columns.ravel()])
    return np.column_stack([here[rows], columns.ravel()])[finite]
