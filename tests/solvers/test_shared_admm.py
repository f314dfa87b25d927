"""The engine shared_admm: programs x kinds of data against Clarabel, rays, warm starts, and the mathematics below."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from conic_cases import Case, answers_of_cvxpy, case, objectives, recovered, runner_of, solve, worst
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zoo import fixed, half_squares, maximize, minimize, parameter, variable

from convexblocks.solvers import admm_newton, elimination, shared_admm
from convexblocks.solvers.admm_basis import Basis, equilibrate
from convexblocks.solvers.cone_points import into_cone, into_dual_cone
from convexblocks.solvers.conic_program import INFEASIBLE, POINT, UNBOUNDED, Cones, ConicProgram, Points
from convexblocks.solvers.conic_residuals import conic_residuals
from convexblocks.solvers.elimination import Reduction, find_stages, reduce_program
from convexblocks.solvers.matrix import Matrix
from convexblocks.solvers.shared_admm import ENGINE
from convexblocks.solvers.shared_matrix import SharedMatrix

BATCH = 5
TOLERANCES = [1e-4, 1e-6, 1e-8]
KINDS = ["random", "ill-scaled", "degenerate"]
Rng = np.random.Generator


# ------------------------------------------------------------------------------------ programs


def drawn(rng: Rng, kind: str, *shape: int) -> np.ndarray:
    """Data of a batch: normal, over four orders of size among the instances, or with zeros and repetitions."""
    values = rng.standard_normal((BATCH, *shape))
    if kind == "ill-scaled":
        values *= np.geomspace(1e-2, 1e2, BATCH).reshape(-1, *[1] * len(shape))
    if kind == "degenerate":
        values[0] = 0
        values[2] = values[1]
        values[..., 0] = 0
    return values


def scales(kind: str, size: int) -> np.ndarray:
    """Sizes of what a program fixes: rows or columns over three orders where it is ill-scaled."""
    return np.geomspace(0.03, 30, size) if kind == "ill-scaled" else np.ones(size)


def rows(kind: str, m: int, n: int) -> np.ndarray:
    """The matrix of a program; degenerate ones have a row twice and one without entries."""
    A = scales(kind, m)[:, None] * fixed(m, n)
    if kind == "degenerate":
        A[1], A[2] = 2 * A[0], 0
    return A


def quadratic(kind: str, rng: Rng) -> tuple[cp.Problem, dict[str, np.ndarray]]:
    x, p, b = variable("x", 6), parameter("p", 6), parameter("b", 4)
    A, S = rows(kind, 4, 6), scales(kind, 6)
    problem = minimize(half_squares(cp.multiply(S, x)) + p @ x, below=A @ x <= b, least=x >= -2)
    return problem, {"p": drawn(rng, kind, 6), "b": np.abs(drawn(rng, kind, 4))}


def tied(kind: str, rng: Rng) -> tuple[cp.Problem, dict[str, np.ndarray]]:
    x, p, b = variable("x", 6), parameter("p", 6), parameter("b", 3)
    A = rows(kind, 3, 6)
    fit = half_squares(fixed(8, 6, seed=3) @ x - 1)
    problem = minimize(fit + p @ x, tied=A @ x == A @ np.ones(6) * b[0], high=x <= 9)
    return problem, {"p": drawn(rng, kind, 6), "b": rng.random((BATCH, 3))}


def linear(kind: str, rng: Rng) -> tuple[cp.Problem, dict[str, np.ndarray]]:
    x, c, b = variable("x", 5), parameter("c", 5), parameter("b", 7)
    problem = minimize(c @ x, below=rows(kind, 7, 5) @ x <= b, least=x >= -3, most=x <= 3)
    return problem, {"c": drawn(rng, kind, 5), "b": scales(kind, 7) * rng.random((BATCH, 7))}


def simplex(kind: str, rng: Rng) -> tuple[cp.Problem, dict[str, np.ndarray]]:
    x, mu = variable("x", 6), parameter("mu", 6)
    F = scales(kind, 2)[:, None] * fixed(2, 6)
    return maximize(mu @ x - cp.sum_squares(F @ x), total=cp.sum(x) == 1, sign=x >= 0), {"mu": drawn(rng, kind, 6)}


def sparse(kind: str, rng: Rng) -> tuple[cp.Problem, dict[str, np.ndarray]]:
    x, y = variable("x", 8), parameter("y", 6)
    return minimize(half_squares(rows(kind, 6, 8) @ x - y) + 0.3 * cp.norm1(x)), {"y": drawn(rng, kind, 6)}


def ball(kind: str, rng: Rng) -> tuple[cp.Problem, dict[str, np.ndarray]]:
    x, p = variable("x", 4), parameter("p", 4)
    problem = minimize(half_squares(x - p), ball=cp.norm(cp.multiply(scales(kind, 4), x)) <= 1, sign=x[:2] >= 0)
    return problem, {"p": drawn(rng, kind, 4)}


def groups(kind: str, rng: Rng) -> tuple[cp.Problem, dict[str, np.ndarray]]:
    X, y = variable("X", 3, 3), parameter("y", 10)
    A = fixed(10, 9)
    fit = half_squares(A @ cp.vec(cp.multiply(scales(kind, 3)[:, None], X), order="C") - y)
    return minimize(fit + cp.sum(cp.norm(X, axis=1))), {"y": drawn(rng, kind, 10)}


def risk(kind: str, rng: Rng) -> tuple[cp.Problem, dict[str, np.ndarray]]:
    x, mu = variable("x", 5), parameter("mu", 5)
    L = fixed(5, 5) * scales(kind, 5)
    return minimize(cp.norm(L @ x) - mu @ x, total=cp.sum(x) == 1, sign=x >= 0), {"mu": drawn(rng, kind, 5)}


PROGRAMS: list[Callable[[str, Rng], tuple[cp.Problem, dict[str, np.ndarray]]]] = [
    quadratic, tied, linear, simplex, sparse, ball, groups, risk,
]  # fmt: skip
# What is not unique where the data are degenerate, or at all.
MANY_VALUES = {("linear", "degenerate"), ("simplex", "degenerate"), ("sparse", "degenerate"), ("simplex", "ill-scaled")}
MANY_DUALS = {
    ("quadratic", "degenerate"), ("tied", "degenerate"), ("linear", "degenerate"), ("simplex", "degenerate"),
    ("ball", "degenerate"), ("risk", "degenerate"), ("linear", "ill-scaled"),
}  # fmt: skip


@cache
def made(program: Any, kind: str, seed: int = 0) -> Case:
    return case(*program(kind, np.random.default_rng(seed)))


def named(program: Any) -> str:
    return str(program.__name__)


each_program = pytest.mark.parametrize("program", PROGRAMS, ids=named)
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_program
@each_kind
def test_answers_are_those_of_clarabel(program: Any, kind: str) -> None:
    it = made(program, kind)
    points = solve(ENGINE, it.program, 1e-9)
    claims, residuals = worst(it.program, points, 1e-9)
    assert claims == [POINT] * BATCH
    assert residuals.max() <= 1e-9
    found = objectives(it, points.x)
    values = {name: recovered(recovery, points.x) for name, recovery in it.form.values.items()}
    duals = {name: recovered(recovery, points.y) for name, recovery in it.form.duals.items()}
    for place in range(BATCH):
        objective, theirs, their_duals = answers_of_cvxpy(it, place)
        assert found[place].item() == pytest.approx(objective, rel=1e-6, abs=1e-6)
        for name in theirs if (named(program), kind) not in MANY_VALUES else ():
            assert values[name][place] == pytest.approx(theirs[name], rel=1e-3, abs=1e-3), name
        for name in their_duals if (named(program), kind) not in MANY_DUALS else ():
            assert duals[name][place] == pytest.approx(np.asarray(their_duals[name]), rel=1e-3, abs=1e-3), name


@each_program
@each_kind
@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_residuals_meet_every_tolerance(program: Any, kind: str, tolerance: float) -> None:
    it = made(program, kind, seed=1)
    points = solve(ENGINE, it.program, tolerance)
    residuals = conic_residuals(it.program, points.x, into_dual_cone(points.y, it.program.cones))
    for part in (residuals.primal, residuals.dual, residuals.gap):
        assert part.max() <= tolerance
    assert int(points.iterations.max()) < shared_admm.MAX_ITERATIONS
    assert (points.y - into_dual_cone(points.y, it.program.cones)).abs().max() <= 1e-12 * points.y.abs().max()


# ------------------------------------------------------------------------------------ programs with a known solution


def shared(matrix: np.ndarray) -> Matrix:
    dense = torch.as_tensor(matrix, dtype=torch.float64)
    places = dense.nonzero()
    return Matrix(SharedMatrix(places[:, 0], places[:, 1], dense[dense != 0], (dense.shape[0], dense.shape[1])))


def program_of(P: Any, A: Any, q: Any, b: Any, cones: Cones) -> ConicProgram:
    q, b = (torch.as_tensor(np.asarray(part), dtype=torch.float64) for part in (q, b))
    A = np.reshape(A, (b.shape[1], q.shape[1]))
    return ConicProgram(shared(np.asarray(P)), q, shared(A), b, torch.zeros(1), cones, max(len(q), len(b)))


def planted(seed: int, unknowns: int, rank: int, cones: Cones, batch: int = 4) -> tuple[ConicProgram, Tensor, Tensor]:
    """Programs whose solution is chosen first: any x, and s in K, y in K* with s'y = 0 as the parts of one point."""
    rng = np.random.default_rng(seed)
    A, root = rng.standard_normal((cones.rows, unknowns)), rng.standard_normal((rank, unknowns))
    x, point = rng.standard_normal((batch, unknowns)), torch.as_tensor(rng.standard_normal((batch, cones.rows)))
    s = into_cone(point, cones)
    y = s - point
    P = root.T @ root
    q, b = -(x @ P + y.numpy() @ A), x @ A.T + s.numpy()
    return program_of(P, A, q, b, cones), torch.as_tensor(x), y


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    unknowns=st.integers(1, 8),
    rank=st.integers(0, 8),
    zero=st.integers(0, 3),
    nonnegative=st.integers(0, 9),
    second_order=st.lists(st.integers(1, 5), max_size=3),
)
def test_planted_solutions_are_found(
    seed: int, unknowns: int, rank: int, zero: int, nonnegative: int, second_order: list[int]
) -> None:
    cones = Cones(min(zero, unknowns), nonnegative, tuple(second_order))
    program, x, _ = planted(seed, unknowns, rank, cones)
    points = solve(ENGINE, program, 1e-8)
    claims, residuals = worst(program, points, 1e-8)
    assert claims == [POINT] * program.batch
    # A solution next to the tip of a cone may take more iterations than there are; no others do.
    late = points.iterations >= shared_admm.MAX_ITERATIONS
    assert (residuals[~late] <= 1e-8).all()
    assert late.sum() <= len(second_order)
    assert residuals.max() <= 1e-3
    if late.any():
        return
    best = 0.5 * (x * program.P.times(x)).sum(1) + (program.q * x).sum(1)
    ours = 0.5 * (points.x * program.P.times(points.x)).sum(1) + (program.q * points.x).sum(1)
    assert ours.numpy() == pytest.approx(best.numpy(), rel=1e-6, abs=1e-6)
    if rank >= unknowns and np.linalg.cond(program.P.dense()) < 1e4:
        assert points.x.numpy() == pytest.approx(x.numpy(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("cones", "q", "A", "b", "x"),
    [
        (Cones(), [1.0, 1.0], [], [], [-1.0, -1.0]),
        (Cones(zero=2), [1.0, 1.0], [[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0], [0.5, 0.5]),
        (Cones(zero=1, nonnegative=1), [-1.0, -2.0], [[1.0, 1.0], [0.0, 1.0]], [1.0, 0.25], [0.75, 0.25]),
        (Cones(second_order=(2,)), [1.0, 1.0], [[1.0, 0.0], [0.0, 0.0]], [0.0, 3.0], [-3.0, -1.0]),
    ],
    ids=str,
)
def test_the_smallest_programs(cones: Cones, q: Any, A: Any, b: Any, x: list[float]) -> None:
    """Programs solved by hand, with P = I: no rows, equalities alone (one of them twice), a bound, a cone."""
    points = solve(ENGINE, program_of(np.eye(2), A, [q], [b], cones), 1e-9)
    assert points.x[0].tolist() == pytest.approx(x, abs=1e-7)


def test_equalities_that_fix_every_unknown() -> None:
    program = program_of(np.zeros((2, 2)), [[1.0, 1], [1, -1]], [[1.0, 2.0], [3, 4]], [[3.0, 1.0]], Cones(zero=2))
    points = solve(ENGINE, program, 1e-10)
    assert points.x.tolist() == [pytest.approx([2.0, 1.0])] * 2
    assert points.y[0].tolist() == pytest.approx([-1.5, 0.5])


# ------------------------------------------------------------------------------------ no solution


def window() -> tuple[cp.Problem, dict[str, np.ndarray], int]:
    x, low = variable("x", 3), parameter("low", 3)
    values = np.zeros((BATCH, 3))
    values[2, 1] = 2.5
    return minimize(cp.sum_squares(x - 4), low=x >= low, total=cp.sum(x) <= 2, high=x <= 1), {"low": values}, INFEASIBLE


def farther_than_it_reaches() -> tuple[cp.Problem, dict[str, np.ndarray], int]:
    x, total, c = variable("x", 3), parameter("total"), parameter("c", 3)
    data = {"total": np.array([1.0, 2, 3.2, 0, 3]), "c": fixed(BATCH, 3)}
    return minimize(c @ x, total=cp.sum(x) == total, low=x >= 0, high=x <= 1), data, INFEASIBLE


def contradiction() -> tuple[cp.Problem, dict[str, np.ndarray], int]:
    # Row scales differ, so that a ray of the scaled rows is none of these.
    x, b, p = variable("x", 3), parameter("b", 2), parameter("p", 3)
    sides = np.array([[1.0, 100], [2, 200], [1, 101], [0, 0], [-1, -100]])
    A = np.array([[1.0, 2, 3], [100, 200, 300]])
    return minimize(half_squares(x - p), tied=A @ x == b, high=x <= 9), {"b": sides, "p": fixed(BATCH, 3)}, INFEASIBLE


def unreachable_ball() -> tuple[cp.Problem, dict[str, np.ndarray], int]:
    x, r, p = variable("x", 3), parameter("r"), parameter("p", 3)
    data = {"r": np.array([1.0, 2, 0.5, 3, 1.5]), "p": fixed(BATCH, 3)}
    return minimize(half_squares(x - p), ball=cp.norm(x) <= r, far=cp.sum(x) >= 1.5), data, INFEASIBLE


def slide() -> tuple[cp.Problem, dict[str, np.ndarray], int]:
    x, c = variable("x", 3), parameter("c", 3)
    slopes = 1 + np.random.default_rng(0).random((BATCH, 3))
    slopes[2] = [1, 1, -0.1]
    return minimize(c @ x, rows=np.abs(fixed(4, 3)) @ x >= 1, sign=x >= 0), {"c": slopes}, UNBOUNDED


def uncurved() -> tuple[cp.Problem, dict[str, np.ndarray], int]:
    # No row holds the last unknown.
    x, p = variable("x", 4), parameter("p", 4)
    costs = np.random.default_rng(0).standard_normal((BATCH, 4)) * [1, 1, 1, 0]
    costs[2, 3] = 0.3
    return minimize(half_squares(fixed(5, 3) @ x[:3]) + p @ x, high=x[:3] <= 1), {"p": costs}, UNBOUNDED


def valley() -> tuple[cp.Problem, dict[str, np.ndarray], int]:
    # Flat along (1, 1), where the bounds leave one side open.
    x, p = variable("x", 2), parameter("p", 2)
    costs = np.array([[1.0, 1], [2, 0], [-1, 0.5], [0, 0.5], [1, -0.5]])
    return minimize(half_squares(x[0] - x[1]) + p @ x, low=x >= -1), {"p": costs}, UNBOUNDED


def steep_cone() -> tuple[cp.Problem, dict[str, np.ndarray], int]:
    x, s, c = variable("x", 3), variable("s"), parameter("c", 3)
    costs = 0.3 * np.random.default_rng(0).standard_normal((BATCH, 3))
    costs[2] = [1, 1, 0]
    return minimize(s + c @ x, cone=cp.norm(x) <= s, away=s >= 1), {"c": costs}, UNBOUNDED


HOPELESS = [window, farther_than_it_reaches, contradiction, unreachable_ball, slide, uncurved, valley, steep_cone]


@pytest.mark.parametrize("write", HOPELESS, ids=named)
@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_rays_in_the_middle_of_a_batch(write: Any, tolerance: float) -> None:
    problem, data, claim = write()
    it = case(problem, data)
    runner = runner_of(ENGINE, it.program)
    points = runner(it.program, {}, tolerance)
    assert points.claim.tolist() == [POINT, POINT, claim, POINT, POINT]
    others = torch.tensor([0, 1, 3, 4])
    _, residuals = worst(it.program.take(others), take(points, others), tolerance)
    assert residuals.max() <= tolerance
    alone = runner(it.program.take(others), {}, tolerance)
    assert (points.x[others] - alone.x).abs().max() <= 1e-9
    assert torch.equal(points.iterations[others], alone.iterations)

    # The ray, by its definition and with plain matrices.
    P, A = it.program.P.dense(), it.program.A.dense()
    q, b = it.program.take(torch.tensor([2])).q[0], it.program.take(torch.tensor([2])).b[0]
    if claim == INFEASIBLE:
        y = points.y[2]
        assert (y - into_dual_cone(y[None], it.program.cones)[0]).abs().max() <= 1e-12 * y.abs().max()
        assert b @ y < 0
        assert (A.T @ y).abs().max() <= min(tolerance, 1e-6) * -(b @ y)
    else:
        x = points.x[2]
        assert q @ x < 0
        sent = -(A @ x)
        outside = (sent - into_cone(sent[None], it.program.cones)[0]).abs().max()
        assert max((P @ x).abs().max(), outside) <= min(tolerance, 1e-6) * -(q @ x)
    assert not np.isfinite(answers_of_cvxpy(it, 2)[0])


def take(points: Points, places: Tensor) -> Points:
    state = {name: values[places] for name, values in points.state.items()}
    return Points(points.x[places], points.y[places], points.iterations[places], points.claim[places], state)


def test_a_narrow_feasible_set_is_not_called_infeasible() -> None:
    x, width, p = variable("x", 3), parameter("width"), parameter("p", 3)
    problem = minimize(half_squares(x - p), low=cp.sum(x) >= 1, high=cp.sum(x) <= 1 + width)
    widths = np.array([1e-2, 1e-4, 1e-6, 1e-8, 0])
    it = case(problem, {"width": widths, "p": 100 * fixed(BATCH, 3)})
    for tolerance in TOLERANCES:
        claims, residuals = worst(it.program, solve(ENGINE, it.program, tolerance), tolerance)
        assert claims == [POINT] * BATCH
        assert residuals.max() <= tolerance


@pytest.mark.parametrize("seed", [0, 1, 5, 50])
@pytest.mark.parametrize(("unknowns", "cones"), [(2, Cones(0, 1)), (4, Cones(0, 2)), (4, Cones(2, 1))], ids=str)
def test_rounding_is_no_ray(seed: int, unknowns: int, cones: Cones) -> None:
    """More unknowns than rows, and costs that are combinations of these but for rounding."""
    program, _, _ = planted(seed, unknowns, 0, cones, batch=20)
    points = solve(ENGINE, program, 1e-8)
    assert points.claim.tolist() == [POINT] * 20
    assert worst(program, points, 1e-8)[1].max() <= 1e-8


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_a_point_that_meets_the_tolerance_comes_before_a_ray(tolerance: float) -> None:
    """Equalities that contradict each other, and costs without a counterpart, by one millionth."""
    rows, away = [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0 + 1e-6]]
    tied = program_of(np.eye(2), rows, np.zeros((1, 2)), away, Cones(zero=2))
    sloped = program_of(np.zeros((2, 2)), rows[:1], -np.array(away), [[1.0]], Cones(nonnegative=1))
    claims = [solve(ENGINE, program, tolerance).claim.item() for program in (tied, sloped)]
    assert claims == ([POINT, POINT] if tolerance >= 1e-6 else [INFEASIBLE, UNBOUNDED])


# ------------------------------------------------------------------------------------ warm starts, neighbours


@each_program
def test_warm_starts_save_iterations(program: Any) -> None:
    it = made(program, "random")
    runner = runner_of(ENGINE, it.program)
    before = runner(it.program, {}, 1e-6)
    again = runner(it.program, before.state, 1e-6)
    assert again.iterations.max() <= shared_admm.FIRST_CHECK
    rng = np.random.default_rng(1)
    near = {name: values * (1 + 0.01 * rng.standard_normal(values.shape)) for name, values in it.data.items()}
    moved = case(it.problem, near, it.form)
    cold, warm = runner(moved.program, {}, 1e-6), runner(moved.program, before.state, 1e-6)
    assert warm.iterations.sum() < cold.iterations.sum()
    assert worst(moved.program, warm, 1e-6)[1].max() <= 1e-6
    assert objectives(moved, warm.x).numpy() == pytest.approx(objectives(moved, cold.x).numpy(), rel=1e-5, abs=1e-5)


def test_rho_is_part_of_the_state() -> None:
    it = made(sparse, "ill-scaled")
    before = solve(ENGINE, it.program)
    assert (before.state["rho"] != 1).any()
    assert torch.equal(solve(ENGINE, it.program, start=before.state).state["rho"], before.state["rho"])


def test_states_are_not_scaled_and_rays_leave_none() -> None:
    problem, data, _ = window()
    it = case(problem, data)
    points = solve(ENGINE, it.program)
    known = torch.tensor([True, True, False, True, True])
    assert torch.equal(points.state["x"].isfinite().all(1), known)
    assert torch.equal(points.state["y"].isfinite().all(1), known)
    remaining = reduce_program(it.program, find_stages(it.program)).columns
    assert torch.equal(points.state["x"][known], points.x[known][:, remaining])
    again = solve(ENGINE, it.program, start=points.state)
    assert again.claim.tolist() == points.claim.tolist()
    assert again.iterations[known].max() <= shared_admm.FIRST_CHECK


@pytest.mark.parametrize("name", ["x", "y"])
def test_states_of_another_form_are_left_alone(name: str) -> None:
    it = made(quadratic, "random")
    points = solve(ENGINE, it.program)
    other = points.state | {name: points.state[name][:, :-1]}
    started = solve(ENGINE, it.program, start=other)
    assert worst(it.program, started, 1e-6)[1].max() <= 1e-6


def apart(program: Any, kind: str, it: Case, one: Points, other: Points) -> float:
    """How far two answers are apart: in objective and unique values, relative to one and their size."""
    pairs = [(objectives(it, one.x).numpy(), objectives(it, other.x).numpy())]
    if (named(program), kind) not in MANY_VALUES:
        pairs += [(recovered(part, one.x), recovered(part, other.x)) for part in it.form.values.values()]
    return max(float((np.abs(left - right) / (1 + np.abs(left))).max()) for left, right in pairs)


@each_program
@each_kind
def test_neighbours_do_not_matter(program: Any, kind: str) -> None:
    it = made(program, kind, seed=2)
    runner = runner_of(ENGINE, it.program)
    together = runner(it.program, {}, 1e-6)
    for place in range(BATCH):
        places = torch.tensor([place])
        some = Case(it.problem, it.data, it.form, it.program.take(places))
        alone = runner(some.program, {}, 1e-6)
        assert alone.iterations[0] == together.iterations[place]
        assert apart(program, kind, some, alone, take(together, places)) <= 1e-9


@each_program
def test_chunks_do_not_matter(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = made(program, "random", seed=3)
    whole = solve(ENGINE, it.program)
    monkeypatch.setattr(shared_admm, "CHUNK_ENTRIES", 1)
    monkeypatch.setattr(shared_admm, "SMALLEST_CHUNK", 2)
    monkeypatch.setattr(admm_newton, "GROUP_ENTRIES", 1)
    parts = solve(ENGINE, it.program)
    assert torch.equal(parts.iterations, whole.iterations)
    assert apart(program, "random", it, parts, whole) <= 1e-9
    assert (parts.state["rho"] - whole.state["rho"]).abs().max() <= 1e-9 * whole.state["rho"].max()


def test_vectors_that_the_batch_shares() -> None:
    program, _, _ = planted(5, 4, 4, Cones(1, 6, (3,)), batch=1)
    wide = ConicProgram(program.P, program.q, program.A, program.b, program.offset, program.cones, 3)
    points = solve(ENGINE, wide, 1e-8)
    assert points.x.shape == (3, 4)
    assert worst(wide, points, 1e-8)[1].max() <= 1e-8


def test_what_is_left_at_the_end_is_given_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_admm, "TOGETHER", 20)
    monkeypatch.setattr(shared_admm, "MAX_ITERATIONS", 40)
    monkeypatch.setattr(shared_admm, "improve", lambda basis, v, *rest: v)
    it = made(linear, "random")
    points = solve(ENGINE, it.program, 1e-12)
    assert points.claim.tolist() == [POINT] * BATCH
    assert points.x.isfinite().all()
    assert points.y.isfinite().all()
    assert points.iterations.max() == 40
    assert points.state["x"].isfinite().all()


# ------------------------------------------------------------------------------------ what is refused


def own_matrix() -> cp.Problem:
    x, A = variable("x", 3), parameter("A", 4, 3)
    return minimize(cp.sum_squares(x), rows=A @ x <= 1)


def own_hessian() -> cp.Problem:
    x, P = variable("x", 3), parameter("P", 3, 3, PSD=True)
    return minimize(cp.quad_form(x, P) + cp.sum(x))


def entropy() -> cp.Problem:
    x, c = variable("x", 3), parameter("c", 3)
    return maximize(cp.sum(cp.entr(x)) + c @ x)


def definite() -> cp.Problem:
    X, C = variable("X", 2, 2, symmetric=True), parameter("C", 2, 2)
    return minimize(cp.sum_squares(X - C), definite=X >> 0)


SHARED_ALONE = "a Hessian and a constraint matrix shared by the batch "
THREE_CONES = "zero, nonnegative and second-order cones alone "


@pytest.mark.parametrize(
    ("write", "needs"),
    [
        (own_matrix, SHARED_ALONE + "(every instance has its own constraint matrix)"),
        (own_hessian, SHARED_ALONE + "(every instance has its own Hessian)"),
        (entropy, THREE_CONES + "(this program has 3 exponential cones)"),
        (definite, THREE_CONES + "(this program has 4 equalities, 1 semidefinite cone)"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_what_is_missing_is_named(write: Any, needs: str) -> None:
    problem = write()
    rng = np.random.default_rng(0)
    values = {p.name(): np.abs(rng.standard_normal((BATCH, *p.shape))) for p in problem.parameters()}
    if "P" in values:
        values["P"] = values["P"] @ values["P"].mT
    assert ENGINE.prepare(case(problem, values).program) == needs


def test_programs_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "MOST_ENTRIES", 10)
    needs = ENGINE.prepare(made(quadratic, "random").program)
    assert isinstance(needs, str)
    assert re.match("a program of at most 10 entries", needs)


# ------------------------------------------------------------------------------------ the mathematics below


def reduction_of(seed: int, n: int, rank: int, equalities: int, inequalities: int, repeated: bool) -> Reduction:
    rng = np.random.default_rng(seed)
    root, A = rng.standard_normal((rank, n)), rng.standard_normal((equalities + inequalities, n))
    if repeated and equalities > 1:
        A[1] = 3 * A[0]
    if repeated and n > 1:
        root[:, -1], A[:, -1] = root[:, 0], A[:, 0]
    parts = (torch.as_tensor(part) for part in (root.T @ root, A))
    return Reduction(*parts, Cones(equalities, inequalities), [], torch.arange(n))


sizes = given(
    seed=st.integers(0, 10**6), n=st.integers(1, 7), rank=st.integers(0, 7), equalities=st.integers(0, 3),
    inequalities=st.integers(0, 8), repeated=st.booleans(),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@sizes
def test_the_basis_makes_both_matrices_diagonal(
    seed: int, n: int, rank: int, equalities: int, inequalities: int, repeated: bool
) -> None:
    reduction = reduction_of(seed, n, rank, equalities, inequalities, repeated)
    basis, P, A = Basis.of(reduction), reduction.P, reduction.A
    U, flat = basis.directions, basis.flat
    assert U.T @ P @ U == close(torch.diag(basis.p))
    assert basis.T.T @ basis.T == close(torch.diag(basis.r))
    assert basis.p + basis.r == close(torch.ones_like(basis.p))
    assert basis.scales[:, None] * (A[equalities:] @ U) == close(basis.T)
    assert A[:equalities] @ U == close(torch.zeros(equalities, U.shape[1]))
    assert torch.cat([P, A]) @ flat == close(torch.zeros(len(P) + len(A), flat.shape[1]), 1e-5)
    # Together with what the equalities fix, the directions span everything.
    rank_tied = int(torch.linalg.matrix_rank(A[:equalities])) if equalities else 0
    assert U.shape[1] + flat.shape[1] + rank_tied == n


@settings(max_examples=60, deadline=None)
@sizes
def test_right_sides_are_met_or_contradicted(
    seed: int, n: int, rank: int, equalities: int, inequalities: int, repeated: bool
) -> None:
    reduction = reduction_of(seed, n, rank, equalities, inequalities, repeated)
    basis, tied = Basis.of(reduction), reduction.A[:equalities]
    rng = np.random.default_rng(seed + 1)
    met = torch.as_tensor(rng.standard_normal((3, n))) @ tied.T
    x0 = met @ basis.particular.T
    assert x0 @ tied.T == close(met)
    assert met @ basis.contradictions == close(torch.zeros_like(met))
    sides = torch.as_tensor(rng.standard_normal((3, equalities)))
    ray = -sides @ basis.contradictions
    assert ray @ tied == close(torch.zeros(3, n))
    dependent = equalities > 0 and int(torch.linalg.matrix_rank(tied)) < equalities
    assert bool(((ray * sides).sum(1) < -1e-8).all()) == dependent


@settings(max_examples=40, deadline=None)
@sizes
def test_one_basis_solves_for_every_rho(
    seed: int, n: int, rank: int, equalities: int, inequalities: int, repeated: bool
) -> None:
    reduction = reduction_of(seed, n, n, 0, inequalities, repeated=False)
    basis, rng = Basis.of(reduction), np.random.default_rng(seed)
    q, h = (torch.as_tensor(rng.standard_normal((4, size))) for size in (n, inequalities))
    rho = torch.tensor([1e-3, 1.0, 7.0, 1e3], dtype=torch.float64)
    x0, g, _ = basis.vectors(q, h)
    x = x0 + basis.nearest(h, g, rho) @ basis.directions.T
    A = basis.scales[:, None] * reduction.A
    for row in range(4):
        dense = torch.linalg.solve(reduction.P + rho[row] * A.T @ A, rho[row] * A.T @ h[row] - q[row])
        assert x[row] == close(dense, 1e-5)


def close(expected: Tensor, tolerance: float = 1e-7) -> Any:
    return Close(expected, tolerance)


class Close:
    """Equal to tensors that differ by at most the tolerance, relative to one and the largest entry."""

    def __init__(self, expected: Tensor, tolerance: float) -> None:
        self.expected, self.tolerance = expected, tolerance

    def __eq__(self, found: object) -> bool:
        assert isinstance(found, Tensor)
        assert found.shape == self.expected.shape
        if not found.numel():
            return True
        return bool((found - self.expected).abs().max() <= self.tolerance * (1 + self.expected.abs().max()))

    def __repr__(self) -> str:
        return f"about {self.expected}"


def test_rows_of_one_cone_share_their_scale() -> None:
    cones = Cones(1, 2, (3, 3, 2))
    A = torch.as_tensor(np.geomspace(1e-4, 1e4, 11)[:, None] * fixed(11, 5) * np.geomspace(1e-2, 1e2, 5))
    P = torch.diag(torch.tensor([1e4, 0, 1e-4, 1, 0], dtype=torch.float64))
    columns, found = equilibrate(P, A, cones)
    for first, last in ((3, 6), (6, 9), (9, 11)):
        assert (found[first:last] == found[first]).all()
    scaled = found[:, None] * A * columns
    assert scaled.abs().amax(1)[:3].tolist() == pytest.approx([1, 1, 1], rel=0.05)
    largest = torch.maximum(scaled.abs().amax(0), (columns[:, None] * P * columns).abs().amax(0))
    assert largest.tolist() == pytest.approx([1] * 5, rel=0.05)


FORMS = {
    "quadratic": (6, Cones(0, 12)),
    "linear": (0, Cones(0, 12)),
    "cones": (6, Cones(0, 4, (3, 5, 3))),
    "linear cones": (0, Cones(0, 4, (3, 5, 3))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attempt", range(4))
def test_newton_steps_end_at_the_solution(form: str, attempt: int) -> None:
    rank, cones = FORMS[form]
    program, _, _ = planted(3, 6, rank, cones, batch=30)
    basis = Basis.of(reduction_from(program))
    rho = torch.full((30,), 0.7, dtype=torch.float64)
    x0, g, h = basis.vectors(program.q, program.b)
    points = solve(ENGINE, program, 1e-10)
    there = basis.lower(points.x, points.y, x0, rho)
    noise = 1e-4 * torch.as_tensor(np.random.default_rng(attempt).standard_normal(there.shape))
    before = admm_newton.distance(basis, there + noise, g, h, rho)
    after = admm_newton.distance(basis, admm_newton.improve(basis, there + noise, g, h, rho, attempt), g, h, rho)
    assert before.min() > 1e-5
    assert (after <= 1e-7).sum() >= 24


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), attempt=st.integers(0, 7), form=st.sampled_from(list(FORMS)))
def test_newton_steps_never_lead_away(seed: int, attempt: int, form: str) -> None:
    rank, cones = FORMS[form]
    program, _, _ = planted(seed, 6, rank, cones, batch=6)
    basis = Basis.of(reduction_from(program))
    rng = np.random.default_rng(seed)
    rho = torch.as_tensor(10 ** rng.uniform(-2, 2, 6))
    _, g, h = basis.vectors(program.q, program.b)
    v = torch.as_tensor(10 * rng.standard_normal(h.shape))
    before = admm_newton.distance(basis, v, g, h, rho)
    moved = admm_newton.improve(basis, v, g, h, rho, attempt)
    after = admm_newton.distance(basis, moved, g, h, rho)
    assert (after <= before * (1 + 1e-6)).all()


def test_long_ways_are_gone_at_once() -> None:
    """Minimize -x / 1000 over x <= 1: from zero, ADMM goes in steps of a thousandth."""
    basis = Basis.of(reduction_from(program_of([[0.0]], [[1.0]], [[-1e-3]], [[1.0]], Cones(nonnegative=1))))
    one = torch.ones(1, 1, dtype=torch.float64)
    _, g, h = basis.vectors(-1e-3 * one, one)
    begun = torch.zeros_like(h)
    v, far = admm_newton._follow(basis, begun, g, h, one[0])
    assert far <= admm_newton.distance(basis, begun, g, h, one[0]) * (1 + 1e-6)
    assert v[0, 0] >= 0.2 * h[0, 0]
    assert v[0, 0] <= 2 * h[0, 0]


def reduction_from(program: ConicProgram) -> Reduction:
    return Reduction(program.P.dense(), program.A.dense(), program.cones, [], torch.arange(program.q.shape[1]))


def test_linear_programs_need_their_newton_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _, _ = planted(0, 10, 0, Cones(0, 25), batch=50)
    quick = solve(ENGINE, program, 1e-8)
    assert worst(program, quick, 1e-8)[1].max() <= 1e-8
    monkeypatch.setattr(shared_admm, "improve", lambda basis, v, *rest: v)
    slow = solve(ENGINE, program, 1e-8)
    assert 3 * quick.iterations.sum() < slow.iterations.sum()


def test_the_engine_says_what_it_does() -> None:
    assert ENGINE.name == "shared_admm"
    assert "second-order" in ENGINE.solves
    assert "rho" in ENGINE.warm
