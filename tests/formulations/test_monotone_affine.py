"""Affine variational inequalities: the gap function, its minimizer, and its bound in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from convexblocks.formulations import AffineInequality, UsageError, proven_gap
from convexblocks.formulations.monotone_affine import modulus_of, symmetric_factor
from convexblocks.formulations.monotone_gap import root_above
from convexblocks.solvers import solve

N = 5
KINDS = ("skew", "mixed", "ill-scaled", "degenerate")
SETS = ("ball", "box")


def instance(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A monotone operator, never a gradient."""
    rng = np.random.default_rng(seed)
    turn = rng.standard_normal((N, N))
    M = turn - turn.T
    if kind == "mixed":
        root = rng.standard_normal((N, N))
        M = M + root.T @ root
    elif kind == "ill-scaled":
        M = M + np.diag(np.geomspace(1e-3, 1e3, N))
    elif kind == "degenerate":
        M[:, 0] = M[0] = 0
        M = M + np.outer(np.arange(N), np.arange(N)) / 10
    return M, rng.standard_normal(N)


def limits(over: str) -> dict[str, Any]:
    return {"radius": 0.8} if over == "ball" else {"low": -0.3, "high": 0.5}


def project(z: np.ndarray, over: str) -> np.ndarray:
    return z * min(1.0, 0.8 / max(np.linalg.norm(z), 1e-300)) if over == "ball" else z.clip(-0.3, 0.5)


def extragradient(M: np.ndarray, q: np.ndarray, over: str, steps: int = 200_000) -> np.ndarray:
    """Korpelevich's method: converges for every monotone Lipschitz operator, gradient or not."""
    z, step = np.zeros(N), 0.7 / np.linalg.norm(M, 2)
    for _ in range(steps):
        half = project(z - step * (M @ z + q), over)
        new = project(z - step * (M @ half + q), over)
        if np.linalg.norm(new - z) < 1e-15:
            break
        z = new
    return z


@pytest.mark.parametrize("over", SETS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_minimizer_solves_the_inequality(kind: str, over: str) -> None:
    block = AffineInequality(unknowns=N, over=over)
    pairs = [instance(kind, seed) for seed in range(3)]
    data = block.data(np.stack([M for M, _ in pairs]), np.stack([q for _, q in pairs]), **limits(over))
    found = solve(block, data, tolerance=1e-8).require_solved().variables["z"].numpy()
    gaps = block.objective({"z": found}, data)
    scale = 1 + abs(data["M"]).sum((1, 2))
    assert (gaps <= 1e-6 * scale).all()
    for (M, q), z in zip(pairs, found, strict=True):
        # Natural residual, whose square the gap bounds: |z - P(z - F)|^2 <= <F, z - P(z - F)>.
        moved = z - project(z - (M @ z + q), over)
        assert np.linalg.norm(moved) <= 2e-3 * np.sqrt(1 + np.linalg.norm(M))
        # No point of the set does better against F(z) than the gap says.
        rivals = np.array([project(point, over) for point in np.random.default_rng(1).standard_normal((200, N))])
        gap, exact = proven_gap(M, q, z, **limits(over))
        inside = np.array([float(entry) for entry in exact])
        assert float(gap) >= max((M @ inside + q) @ (inside - rival) for rival in rivals) - 1e-12


@pytest.mark.parametrize("over", SETS)
def test_agrees_with_extragradient_where_the_solution_is_unique(over: str) -> None:
    M, q = instance("mixed", 3)
    block = AffineInequality(unknowns=N, over=over)
    data = block.data(M, q, **limits(over))
    found = solve(block, data, tolerance=1e-8).variables["z"][0].numpy()
    reference = extragradient(M, q, over)
    # Within sqrt(gap / modulus) of the only solution.
    gap, _ = proven_gap(M, q, found, **limits(over))
    assert modulus_of(M) > 0
    assert np.linalg.norm(found - reference) <= np.sqrt(float(gap) / modulus_of(M)) + 1e-9
    np.testing.assert_allclose(found, reference, atol=2e-4)


def test_a_rotation_with_known_solutions() -> None:
    """F(z) = J z + q vanishes at -J'q... inside the ball; with a small ball the answer is on its boundary."""
    turn, q = np.array([[0.0, -1.0], [1.0, 0.0]]), np.array([0.3, 0.4])
    block = AffineInequality(unknowns=2)
    inside = solve(block, block.data(turn, q, radius=1.0), tolerance=1e-8).variables["z"][0].numpy()
    np.testing.assert_allclose(inside, [-0.4, 0.3], atol=1e-4)
    # At the boundary F(z) points to the centre: J z + q = -s z, s > 0, |z| = 0.25, so |q|^2 = (1 + s^2) |z|^2.
    outside = solve(block, block.data(turn, q, radius=0.25), tolerance=1e-8).variables["z"][0].numpy()
    known = np.linalg.solve(turn + np.sqrt(3) * np.eye(2), -q)
    np.testing.assert_allclose(outside, known, atol=1e-4)
    # Plain projected steps turn around the solution for ever: the operator is no gradient.
    z = np.array([0.9, 0.0])
    for _ in range(1000):
        z = z - 0.1 * (turn @ z + q)
        z = z / max(1.0, np.linalg.norm(z))
    assert np.linalg.norm(z - [-0.4, 0.3]) > 0.4


@pytest.mark.parametrize("over", SETS)
def test_the_gap_formula_is_the_supremum(over: str) -> None:
    M, q = instance("mixed", 5)
    block, z = AffineInequality(unknowns=N, over=over), project(np.ones(N), over)
    value = float(block.objective({"z": z[None]}, block.data(M, q, **limits(over)))[0])
    y = M @ z + q
    best = -0.8 * y / np.linalg.norm(y) if over == "ball" else np.where(y > 0, -0.3, 0.5)
    assert value == pytest.approx(y @ (z - best), abs=1e-12)
    gap, _ = proven_gap(M, q, z, **limits(over))
    assert float(gap) == pytest.approx(value, abs=1e-12)


def test_the_model_is_the_gap_function() -> None:
    for over in SETS:
        M, q = instance("skew", 2)
        block = AffineInequality(unknowns=N, over=over)
        data = block.data(M, q, **limits(over))
        problem = block.program()
        for parameter in problem.parameters():
            parameter.value = data[parameter.name()][0]
        z = project(np.linspace(-1, 1, N), over)
        problem.var_dict["z"].value, problem.var_dict["y"].value = z, M @ z + q
        assert problem.objective.value == pytest.approx(float(block.objective({"z": z[None]}, data)[0]), abs=1e-12)
        assert problem.is_dcp(dpp=True)


def test_the_proof_is_exact() -> None:
    gap, point = proven_gap([[0.1]], [0.2], [2.0], low=[-1.0], high=[1.0])
    third = Fraction(0.1) + Fraction(0.2)
    assert point == [Fraction(1)]
    assert gap == third + third
    # A point outside the ball is moved into it, exactly.
    gap, point = proven_gap(np.eye(3), np.ones(3), np.ones(3), radius=1.0)
    assert sum(entry**2 for entry in point) <= 1
    y = [entry + 1 for entry in point]
    excess = gap - sum(a * b for a, b in zip(point, y, strict=True))
    assert excess**2 >= sum(entry**2 for entry in y)
    for square in (Fraction(2), Fraction(1, 3), Fraction(10) ** -60, Fraction(7, 10**50)):
        above = root_above(square)
        assert above**2 >= square
        assert (above - Fraction(1, 10**24)) ** 2 <= square or above == Fraction(1, 10**24)


def test_refusals_say_what_is_wrong() -> None:
    block = AffineInequality(unknowns=2)
    with pytest.raises(UsageError, match=r"not monotone.*eigenvalue -1"):
        symmetric_factor(np.diag([1.0, -1.0]))
    with pytest.raises(UsageError, match="radius is missing; over a ball"):
        block.data(np.eye(2), [0, 0])
    with pytest.raises(UsageError, match="low is given; over a ball"):
        block.data(np.eye(2), [0, 0], radius=1.0, low=0.0)
    with pytest.raises(UsageError, match="q has shape"):
        block.data(np.eye(2), [0, 0, 0], radius=1.0)
    with pytest.raises(UsageError, match="M has shape"):
        block.data(np.eye(3), [0, 0], radius=1.0)
    with pytest.raises(UsageError, match="low is above high"):
        AffineInequality(unknowns=2, over="box").data(np.eye(2), [0, 0], low=1.0, high=0.0)
    with pytest.raises(UsageError, match="over is 'cube'"):
        AffineInequality(over="cube")
    with pytest.raises(UsageError, match="NaN or infinite"):
        block.data(np.full((2, 2), np.nan), [0, 0], radius=1.0)
    with pytest.raises(UsageError, match="not stated once"):
        proven_gap(np.eye(2), [0, 0], [0, 0], radius=1.0, low=[0, 0], high=[1, 1])
    with pytest.raises(UsageError, match="expected finite"):
        proven_gap(np.eye(1), [0], [np.inf], radius=1.0)
