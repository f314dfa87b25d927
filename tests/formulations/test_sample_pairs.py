"""Pairs of samples: the nearest ones, and nonnegative combinations, against brute force."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from convexblocks.formulations import UsageError, sample_pairs
from convexblocks.formulations.sample_pairs import make_pairs, nearest_pairs


def draw(samples: int = 15, features: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((samples, features))
    return X, np.where(X[:, 0] + 0.3 * rng.standard_normal(samples) > 0, 1.0, -1.0)


def lengths_of(X: np.ndarray) -> np.ndarray:
    """|x_i - c x_j| with the best c >= 0; infinite for i = j and where c = 0."""
    factors = np.maximum(X @ X.T, 0) / (X * X).sum(1)
    lengths = np.linalg.norm(X[:, None] - factors[..., None] * X, axis=2)
    return np.where((factors > 0) & ~np.eye(len(X), dtype=bool), lengths, np.inf)


@pytest.mark.parametrize("block", [4, 1000])
@pytest.mark.parametrize("neighbours", [1, 3, 100])
def test_partners_are_the_nearest_of_all_and_of_the_other_sign(
    neighbours: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_pairs, "BLOCK", block)
    X, y = draw()
    pairs, lengths = nearest_pairs(X, y, neighbours=neighbours), lengths_of(X)
    chosen = {(int(i), partners[0][0]) for i, partners in zip(pairs.of, pairs.partners, strict=True)}
    wanted = set()
    for i in range(len(X)):
        order = [int(j) for j in np.argsort(lengths[i]) if np.isfinite(lengths[i, j])]
        wanted |= {(i, j) for j in order[:neighbours]}
        wanted |= {(i, j) for j in [j for j in order if y[j] != y[i]][:neighbours]}
    assert chosen == wanted
    np.testing.assert_allclose(pairs.matrix @ X, pairs.differences, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(pairs.differences, axis=1), [lengths[i, p[0][0]] for i, p in
                               zip(pairs.of, pairs.partners, strict=True)])  # fmt: skip


def test_without_targets_only_the_nearest_ones_are_taken() -> None:
    X, _ = draw()
    pairs = nearest_pairs(X, neighbours=1)
    assert [partners[0][0] for partners in pairs.partners] == lengths_of(X).argmin(1).tolist()


def test_several_partners_are_the_nearest_combination() -> None:
    X, y = draw(8)
    pairs = nearest_pairs(X, y, neighbours=1, conic=True)
    several = [place for place, partners in enumerate(pairs.partners) if len(partners) > 1]
    assert several
    distances = np.linalg.norm(pairs.differences, axis=1)
    least = {}
    for i in {int(pairs.of[place]) for place in several}:
        c = cp.Variable(len(X), nonneg=True)
        least[i] = cp.Problem(cp.Minimize(cp.norm(X[i] - c @ X)), [c[i] == 0]).solve(solver=cp.CLARABEL)
    for i, length in least.items():
        # Of all samples together: the combination of neighbours of any sign, which here are all that help.
        assert min(distances[place] for place in several if pairs.of[place] == i) == pytest.approx(length, abs=1e-5)
    assert (pairs.matrix[np.arange(len(pairs)), pairs.of] == 1).all()
    assert ((pairs.matrix > 0).sum(1) == 1).all()


def test_pulled_is_the_transpose_and_zero_factors_are_left_out() -> None:
    X, _ = draw()
    pairs = make_pairs(X, np.array([3, 5]), np.array([0, 0, 1]), np.array([1, 2, 0]), np.array([0.5, 0.2, 0.0]))
    weights = np.array([2.0, 3.0])
    np.testing.assert_allclose(pairs.pulled(weights), pairs.matrix.T @ weights)
    assert pairs.partners == [[(1, 0.5), (2, 0.2)], []]
    assert len(pairs) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neighbours": 0}, "neighbours is 0"),
        ({"y": [1.0, 2.0]}, r"y has shape \(2,\); expected \(15,\)"),
        ({"X": np.zeros(3)}, r"X has shape \(3,\)"),
    ],
)
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        nearest_pairs(**({"X": draw()[0]} | arguments))


def test_some_of_the_pairs() -> None:
    X = np.random.default_rng(0).standard_normal((9, 3))
    pairs = nearest_pairs(X, neighbours=2, conic=True)
    kept = np.arange(len(pairs)) % 3 == 1
    some = pairs.only(kept)
    np.testing.assert_array_equal(some.matrix, pairs.matrix[kept])
    np.testing.assert_array_equal(some.differences, pairs.differences[kept])
    assert some.partners == [part for part, held in zip(pairs.partners, kept, strict=True) if held]
    assert not len(pairs.only(np.zeros(len(pairs), dtype=bool)))
