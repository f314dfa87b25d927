"""Residuals and rays of conic programs: cones x what is shared, against plain numpy, Clarabel and known rays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convexblocks.formulations.subproblem import Residuals
from convexblocks.solvers.cone_points import into_cone, into_dual_cone
from convexblocks.solvers.conic_program import (
    INFEASIBLE,
    NOTHING,
    POINT,
    UNBOUNDED,
    Cones,
    ConicProgram,
    Points,
    no_points,
)
from convexblocks.solvers.conic_residuals import conic_residuals, measure
from convexblocks.solvers.matrix import Matrix, OwnEntries
from convexblocks.solvers.shared_matrix import SharedMatrix

BATCH, N = 4, 5
CONES = {
    "no rows": Cones(),
    "equalities": Cones(2),
    "inequalities": Cones(0, 6),
    "linear": Cones(2, 5),
    "second-order": Cones(1, 2, (3, 4, 1)),
    "semidefinite": Cones(1, 0, (), (3, 2)),
    "exponential": Cones(0, 2, (), (), 2),
    "power": Cones(1, 0, (), (), 0, (0.3, 0.6)),
    "all": Cones(1, 2, (3,), (2,), 1, (0.5,)),
}
SHARED = {"matrices shared": True, "own matrices": False}


@dataclass(frozen=True)
class Case:
    """A batch of programs that have solutions, and its data one by one in plain numpy."""

    program: ConicProgram
    P: np.ndarray
    A: np.ndarray
    q: np.ndarray
    b: np.ndarray


def matrix_of(values: np.ndarray, shared: bool) -> Matrix:
    """A matrix with all its entries stored, half of an own one in the common part."""
    rows, columns = (torch.as_tensor(part.ravel()) for part in np.indices(values.shape[1:]))
    shape = (values.shape[1], values.shape[2])
    first = torch.tensor(values[0].ravel() * (1 if shared else 0.5))
    common = SharedMatrix(rows, columns, first, shape)
    if shared or not len(rows):
        return Matrix(common)
    return Matrix(common, OwnEntries(rows, columns, torch.tensor(values.reshape(len(values), -1)) - first, shape))


@cache
def case_of(cones: str, sharing: str) -> Case:
    rng, kinds, shared = np.random.default_rng(3), CONES[cones], SHARED[sharing]
    m, count = kinds.rows, 1 if shared else BATCH
    factor, A = rng.standard_normal((count, N, N)), rng.standard_normal((count, m, N))
    P = factor @ factor.swapaxes(1, 2) / N + 0.1 * np.eye(N)
    P, A = (np.broadcast_to(part, (BATCH, *part.shape[1:])) for part in (P, A))
    q = rng.standard_normal((BATCH, N))
    # An inner point of the cone as the slack of a random x: the program then has a solution.
    inner = into_cone(torch.tensor(rng.standard_normal((BATCH, m))), kinds).numpy() + centre(kinds)
    b = np.einsum("bmn,bn->bm", A, rng.standard_normal((BATCH, N))) + inner
    program = ConicProgram(
        matrix_of(P, shared), torch.tensor(q), matrix_of(A, shared), torch.tensor(b), torch.zeros(1), kinds, BATCH
    )
    return Case(program, P, A, q, b)


def centre(cones: Cones) -> np.ndarray:
    """A point inside of the cone; zero for equalities."""
    parts = [np.zeros(cones.zero), np.ones(cones.nonnegative)]
    parts += [np.eye(size)[0] for size in cones.second_order]
    for order in cones.semidefinite:
        parts.append(np.concatenate([np.eye(column + 1)[-1] for column in range(order)]))
    parts += [np.array([-1.0, 1.0, 1.0])] * cones.exponential + [np.array([1.0, 1.0, 0.0])] * len(cones.power)
    return np.concatenate(parts)


@cache
def solved(cones: str, sharing: str) -> tuple[Tensor, Tensor]:
    """x and y of every instance by Clarabel."""
    case, found = case_of(cones, sharing), []
    for place in range(BATCH):
        answer = by_clarabel(case.P[place], case.q[place], case.A[place], case.b[place], case.program.cones)
        assert str(answer.status) in ("Solved", "AlmostSolved")
        found.append((answer.x, answer.z))
    x, y = (torch.tensor(np.array(part)).reshape(BATCH, -1) for part in zip(*found, strict=True))
    return x, y


def by_clarabel(P: np.ndarray, q: np.ndarray, A: np.ndarray, b: np.ndarray, cones: Cones) -> Any:
    kinds = [clarabel.ZeroConeT(cones.zero)] if cones.zero else []
    kinds += [clarabel.NonnegativeConeT(cones.nonnegative)] if cones.nonnegative else []
    kinds += [clarabel.SecondOrderConeT(size) for size in cones.second_order]
    kinds += [clarabel.PSDTriangleConeT(order) for order in cones.semidefinite]
    kinds += [clarabel.ExponentialConeT()] * cones.exponential + [clarabel.PowerConeT(a) for a in cones.power]
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.presolve_enable = False, False
    settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = 1e-10
    settings.tol_infeas_abs = settings.tol_infeas_rel = 1e-10
    return clarabel.DefaultSolver(sp.csc_matrix(np.triu(P)), q, sp.csc_matrix(A), b, kinds, settings).solve()


def plain(case: Case, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The residuals as the module defines them, one instance after the other: (3, batch)."""
    rows = []
    for P, A, q, b, point, dual in zip(case.P, case.A, case.q, case.b, x, y, strict=True):
        sent = A @ point
        s = into_cone(torch.tensor((b - sent)[None]), case.program.cones)[0].numpy()
        curved, pulled = P @ point, A.T @ dual
        terms = point @ curved, q @ point, b @ dual
        rows.append(
            (
                size(sent + s - b) / (1 + max(map(size, (sent, s, b)))),
                size(curved + q + pulled) / (1 + max(map(size, (curved, pulled, q)))),
                abs(sum(terms)) / (1 + max(map(abs, terms))),
            )
        )
    return np.array(rows).T


def size(vector: np.ndarray) -> float:
    return float(np.max(np.abs(vector), initial=0.0))


def as_array(residuals: Residuals) -> np.ndarray:
    return torch.stack([residuals.primal, residuals.dual, residuals.gap]).numpy()


def points_of(x: Tensor, y: Tensor, claim: int) -> Points:
    count = torch.zeros(len(x), dtype=torch.int64)
    return Points(x, y, count, torch.full_like(count, claim), {})


def random_points(case: Case, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(5)
    x, y = (scale * rng.standard_normal((BATCH, len(part[0]))) for part in (case.q, case.b))
    return torch.tensor(x), torch.tensor(y)


# ------------------------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("cones", CONES)
def test_residuals_are_those_of_the_formulas(cones: str, sharing: str, scale: float) -> None:
    case = case_of(cones, sharing)
    x, y = random_points(case, scale)
    ours = as_array(conic_residuals(case.program, x, y))
    assert ours.shape == (3, BATCH)
    np.testing.assert_allclose(ours, plain(case, x.numpy(), y.numpy()), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("cones", CONES)
def test_vectors_of_the_whole_batch_are_those_of_every_instance(cones: str) -> None:
    case = case_of(cones, "own matrices")
    first = replace(case.program, q=case.program.q[:1], b=case.program.b[:1])
    written_out = replace(first, q=first.q.expand(BATCH, -1), b=first.b.expand(BATCH, -1))
    x, y = random_points(case)
    np.testing.assert_array_equal(
        as_array(conic_residuals(first, x, y)), as_array(conic_residuals(written_out, x, y))
    )


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("cones", CONES)
def test_a_solution_has_small_residuals(cones: str, sharing: str) -> None:
    case, (x, y) = case_of(cones, sharing), solved(cones, sharing)
    checked, residuals = measure(case.program, points_of(x, y, POINT), 1e-6)
    assert checked.claim.tolist() == [POINT] * BATCH
    assert as_array(residuals).max() <= 1e-7
    np.testing.assert_allclose(checked.y, y, atol=1e-6)


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("cones", CONES)
def test_residuals_are_of_the_order_of_the_error(cones: str, sharing: str) -> None:
    case, (x, y) = case_of(cones, sharing), solved(cones, sharing)
    rng = np.random.default_rng(6)
    moves = torch.tensor(rng.standard_normal(x.shape)), torch.tensor(rng.standard_normal(y.shape))
    for step in (1e-1, 1e-3, 1e-5):
        moved = x + step * moves[0], into_dual_cone(y + step * moves[1], case.program.cones)
        primal, dual, gap = as_array(conic_residuals(case.program, *moved))
        assert primal.max() <= 20 * step
        assert 1e-3 * step <= dual.min() <= dual.max() <= 20 * step
        assert gap.max() <= 20 * step
        if case.program.cones.zero:
            # Other rows may be far from their cone's surface.
            assert primal.max() >= 1e-3 * step


def test_by_hand() -> None:
    # minimize x^2 / 2 - 3 x subject to x <= 1, at x = 2 with the multiplier 4.
    one = matrix_of(np.ones((1, 1, 1)), True)
    program = ConicProgram(
        one, torch.tensor([[-3.0]]).double(), one, torch.tensor([[1.0]]).double(), torch.zeros(1), Cones(0, 1), 1
    )
    residuals = conic_residuals(program, torch.tensor([[2.0]]).double(), torch.tensor([[4.0]]).double())
    assert residuals.primal.tolist() == pytest.approx([1 / 3])
    assert residuals.dual.tolist() == pytest.approx([3 / 5])
    assert residuals.gap.tolist() == pytest.approx([2 / 7])
    best = conic_residuals(program, torch.tensor([[1.0]]).double(), torch.tensor([[2.0]]).double())
    assert as_array(best).max() == 0


# ------------------------------------------------------------------------------------ measure


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("cones", CONES)
def test_duals_are_moved_into_the_dual_cone_before_they_count(cones: str, sharing: str) -> None:
    case = case_of(cones, sharing)
    x, y = random_points(case)
    points = points_of(x, y, POINT)
    kept = y.clone()
    checked, residuals = measure(case.program, points, 1e-6)
    assert torch.equal(y, kept)
    assert torch.equal(checked.y, into_dual_cone(y, case.program.cones))
    np.testing.assert_array_equal(as_array(residuals), as_array(conic_residuals(case.program, x, checked.y)))


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("cones", CONES)
def test_instances_do_not_know_of_each_other(cones: str, sharing: str) -> None:
    case = case_of(cones, sharing)
    x, y = random_points(case)
    claim = torch.tensor([POINT, INFEASIBLE, UNBOUNDED, POINT])
    together, residuals = measure(case.program, replace(points_of(x, y, POINT), claim=claim), 1e-6)
    for place in range(BATCH):
        chosen = torch.tensor([place])
        lone = replace(points_of(x[chosen], y[chosen], POINT), claim=claim[chosen])
        alone, expected = measure(case.program.take(chosen), lone, 1e-6)
        assert alone.claim.tolist() == together.claim[chosen].tolist()
        np.testing.assert_allclose(as_array(residuals)[:, [place]], as_array(expected), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("cones", CONES)
def test_a_row_without_numbers_has_infinite_residuals_and_leaves_the_others(cones: str, sharing: str) -> None:
    case, (x, y) = case_of(cones, sharing), solved(cones, sharing)
    spoiled = x.clone(), y.clone()
    spoiled[0][1], spoiled[1][2] = torch.nan, torch.nan
    _, residuals = measure(case.program, points_of(*spoiled, POINT), 1e-6)
    worst = as_array(residuals).max(0)
    assert worst[[0, 3]].max() <= 1e-7
    assert np.isinf(worst[1])
    if case.program.cones.rows:
        assert np.isinf(worst[2])


@pytest.mark.parametrize("cones", CONES)
def test_where_nothing_is_claimed_residuals_are_infinite(cones: str) -> None:
    case, (x, y) = case_of(cones, "own matrices"), solved(cones, "own matrices")
    _, residuals = measure(case.program, points_of(x, y, NOTHING), 1e-6)
    assert np.isinf(as_array(residuals)).all()
    checked, residuals = measure(case.program, no_points(case.program), 1e-6)
    assert checked.claim.tolist() == [NOTHING] * BATCH
    assert np.isinf(as_array(residuals)).all()


# ------------------------------------------------------------------------------------ rays


@dataclass(frozen=True)
class Rays:
    """A batch of two programs with a ray, and vectors that are none; the second instance has a solution."""

    program: ConicProgram
    kind: int
    ray: list[float]
    others: list[list[float]]


def linear(P: float, q: list[list[float]], A: list[list[float]], b: list[list[float]], cones: Cones) -> ConicProgram:
    n = len(q[0])
    return ConicProgram(
        matrix_of(P * np.eye(n)[None], True), torch.tensor(q).double(), matrix_of(np.array([A]), True),
        torch.tensor(b).double(), torch.zeros(1), cones, 2,
    )  # fmt: skip


RAYS = {
    # 1 <= x <= 0; 1 <= x <= 2
    "crossed bounds": Rays(
        linear(1.0, [[0.0]], [[-1.0], [1.0]], [[-1.0, 0.0], [-1.0, 2.0]], Cones(0, 2)),
        INFEASIBLE, [1.0, 1.0], [[1.001, 1.0], [1.0, 0.0], [-1.0, -1.0]],
    ),
    # x == 1 and x == 0; x == 1 twice
    "two equalities": Rays(
        linear(1.0, [[0.0]], [[1.0], [1.0]], [[1.0, 0.0], [1.0, 1.0]], Cones(2)),
        INFEASIBLE, [-1.0, 1.0], [[1.0, -1.0], [-1.0, 0.999]],
    ),
    # |(1, 0)| <= x with x <= 0; with x <= 2
    "second-order": Rays(
        linear(1.0, [[0.0]], [[1.0], [-1.0], [0.0], [0.0]], [[0.0, 0.0, 1.0, 0.0], [2.0, 0.0, 1.0, 0.0]],
               Cones(0, 1, (3,))),
        INFEASIBLE, [1.0, 1.0, -1.0, 0.0], [[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, -1.0, 0.0], [1.0, 1.001, -1.0, 0.0]],
    ),
    # diag(x - 1, -x - 1); diag(x + 1, -x + 1)
    "semidefinite": Rays(
        linear(1.0, [[0.0]], [[-1.0], [0.0], [1.0]], [[-1.0, 0.0, -1.0], [1.0, 0.0, 1.0]], Cones(semidefinite=(2,))),
        INFEASIBLE, [1.0, 0.5, 1.0], [[1.0, 0.0, 0.0], [-1.0, 0.0, -1.0]],
    ),
    # exp(1) <= x with x <= 0; with x <= 3
    "exponential": Rays(
        linear(1.0, [[0.0]], [[1.0], [0.0], [0.0], [-1.0]], [[0.0, 1.0, 1.0, 0.0], [3.0, 1.0, 1.0, 0.0]],
               Cones(0, 1, exponential=1)),
        INFEASIBLE, [0.25, -1.0, 0.5, 0.25], [[0.25, -1.0, 1.5, 0.25], [0.25, -1.0, 0.5, 0.26], [0.0, -1.0, 0.5, 0.0]],
    ),
    # minimize -x or x, x >= 0
    "half line": Rays(linear(0.0, [[-1.0], [1.0]], [[-1.0]], [[0.0]], Cones(0, 1)), UNBOUNDED, [1.0], [[-1.0]]),
    # minimize -x + y or x + y, x >= 0, |y| <= 1
    "one free direction": Rays(
        linear(0.0, [[-1.0, 1.0], [1.0, 1.0]], [[-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [[0.0, 1.0, 1.0]], Cones(0, 3)),
        UNBOUNDED, [1.0, 0.0], [[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0], [0.0, -1.0]],
    ),
    # minimize t + 2 x or 2 t + x, |x| <= t
    "second-order direction": Rays(
        linear(0.0, [[1.0, 2.0], [2.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]], [[0.0, 0.0]], Cones(0, 0, (2,))),
        UNBOUNDED, [1.0, -1.0], [[1.0, 1.0], [1.0, -2.0], [-1.0, -1.0]],
    ),
    # minimize b or a, |a| <= 5: no variable stands in the row of the radius, and the ray is right to rounding
    "constant radius": Rays(
        linear(0.0, [[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [-1.0, 0.0]], [[5.0, 0.0]], Cones(0, 0, (2,))),
        UNBOUNDED, [1e-10, -1.0], [[1.0, -1.0], [0.0, 1.0]],
    ),
    # minimize -x or x, x times a definite matrix with a zero in it: its projection moves the zero by rounding
    "constant entry": Rays(
        linear(0.0, [[-1.0], [1.0]], [[-1.0], [-0.5 * 2**0.5], [-1.0], [0.0], [-0.3 * 2**0.5], [-1.0]], [[0.0] * 6],
               Cones(semidefinite=(3,))),
        UNBOUNDED, [1.0], [[-1.0]],
    ),
    # minimize x^2 - x: the quadratic stops the fall
    "curved": Rays(
        linear(2.0, [[-1.0, -1.0], [1.0, 1.0]], [[-1.0, 0.0]], [[0.0]], Cones(0, 1)), NOTHING, [1.0, 1.0], [[1.0, 0.0]]
    ),
}  # fmt: skip


def claimed(case: Rays, ray: Tensor, tolerance: float = 1e-6) -> list[int]:
    m, n = case.program.A.shape
    claim = INFEASIBLE if case.kind == INFEASIBLE else UNBOUNDED
    none = torch.zeros(2, n if claim == INFEASIBLE else m).double()
    x, y = (none, ray) if claim == INFEASIBLE else (ray, none)
    checked, residuals = measure(case.program, points_of(x, y, claim), tolerance)
    assert np.isinf(as_array(residuals)).all()
    return checked.claim.tolist()


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", RAYS)
def test_true_rays_are_accepted_where_they_hold(name: str, length: float) -> None:
    case = RAYS[name]
    ray = length * torch.tensor([case.ray, case.ray]).double()
    assert claimed(case, ray) == [case.kind, NOTHING]


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", RAYS)
def test_false_rays_are_rejected(name: str, length: float) -> None:
    case = RAYS[name]
    nothing = [[0.0] * len(case.ray), [float("nan")] * len(case.ray)]
    for other in (*case.others, *nothing):
        assert claimed(case, length * torch.tensor([other, other]).double())[0] == NOTHING, other


def test_a_ray_is_as_good_as_the_tolerance_says() -> None:
    case = RAYS["crossed bounds"]
    bent = torch.tensor([[1.0 + 1e-4, 1.0]] * 2).double()
    assert claimed(case, bent, 1e-3) == [INFEASIBLE, NOTHING]
    assert claimed(case, bent, 1e-6) == [NOTHING, NOTHING]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([INFEASIBLE, UNBOUNDED]))
def test_no_random_ray_is_believed_of_programs_that_have_solutions(seed: int, kind: int) -> None:
    case = case_of("all", "own matrices")
    rng = np.random.default_rng(seed)
    x, y = (torch.tensor(rng.standard_normal(part.shape)) for part in (case.q, case.b))
    checked, _ = measure(case.program, points_of(x, y, kind), 1e-6)
    assert checked.claim.tolist() == [NOTHING] * BATCH


@pytest.mark.parametrize("cones", ["linear", "second-order", "semidefinite", "exponential", "power"])
def test_rays_that_a_solver_finds_are_accepted(cones: str) -> None:
    # The first row's  a x + s = b  with  -a x + s' = -b - 10: no point has both s and s' above zero.
    case, kinds = case_of(cones, "own matrices"), CONES[cones]
    first, rest = slice(0, 1), slice(kinds.zero, None)
    A = np.concatenate([case.A[:, first], -case.A[:, first], case.A[:, rest]], axis=1)
    b = np.concatenate([case.b[:, first], -case.b[:, first] - 10, case.b[:, rest]], axis=1)
    apart = replace(kinds, zero=0, nonnegative=kinds.nonnegative + 2)
    found = []
    for place in range(BATCH):
        answer = by_clarabel(case.P[place], case.q[place], A[place], b[place], apart)
        assert str(answer.status) == "PrimalInfeasible"
        found.append(answer.z)
    program = replace(case.program, A=matrix_of(A, False), b=torch.tensor(b), cones=apart)
    ray = torch.tensor(np.array(found))
    checked, _ = measure(program, points_of(torch.zeros(BATCH, N).double(), ray, INFEASIBLE), 1e-6)
    assert checked.claim.tolist() == [INFEASIBLE] * BATCH
