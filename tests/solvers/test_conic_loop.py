"""Clarabel, SCS and OSQP on batches: what their runners hand over, before anyone repairs it.

Models of the zoo x engines for the tolerance and the rays; a few models x engines x seeds against cvxpy's own solves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import clarabel
import cvxpy as cp
import numpy as np
import pytest
import scs
import torch
from conic_cases import (
    Case,
    answers_of_cvxpy,
    case,
    ends,
    objectives,
    recovered,
    runner_of,
    solve,
    worst,
    zoo_case,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import ZOO, Data, Model

from convexblocks.formulations import UsageError
from convexblocks.solvers import clarabel_loop, short_form
from convexblocks.solvers.conic_engine import ConicEngine, Start
from convexblocks.solvers.conic_loop import CLARABEL, LOOPS, OSQP, SCS, in_processes
from convexblocks.solvers.conic_program import INFEASIBLE, NOTHING, POINT, UNBOUNDED, Cones, ConicProgram, Points
from convexblocks.solvers.layouts import lay_out, layouts
from convexblocks.solvers.matrix import Matrix, OwnEntries
from convexblocks.solvers.shared_matrix import SharedMatrix
from convexblocks.solvers.short_form import choose_form
from convexblocks.solvers.single_programs import Table, solve_twice

try:
    import osqp  # noqa: F401
except ImportError:
    HAS_OSQP = False
else:
    HAS_OSQP = True
NEEDS_OSQP = pytest.mark.skipif(not HAS_OSQP, reason="the package osqp is not installed: pip install osqp")

LOOPED = [
    pytest.param(CLARABEL, id="clarabel"),
    pytest.param(SCS, id="scs"),
    pytest.param(OSQP, id="osqp", marks=NEEDS_OSQP),
]
WARM = LOOPED[1:]
BY_NAME = {model.name: model for model in ZOO}
ENDED = [model for model in ZOO if model.infeasible or model.unbounded]
# Splitting methods do not come to an end where scales lie this far apart; they may say so, and claim nothing false.
TOO_FAR = {"scs": ("far_vertex", "far_points"), "osqp": (), "clarabel": ()}
Make = Callable[[np.random.Generator], tuple[cp.Problem, Data]]


def labelled(**constraints: Any) -> list[Any]:
    return [constraint.set_label(label) for label, constraint in constraints.items()]


def claimed(engine: ConicEngine, made: Case) -> None:
    lacking = engine.prepare(made.program)
    if isinstance(lacking, str):
        pytest.skip(f"{engine.name} needs {lacking}")


# ------------------------------------------------------------------------------------ the zoo


@pytest.mark.parametrize("model", ZOO, ids=str)
@pytest.mark.parametrize("engine", LOOPED)
def test_what_a_runner_hands_over_meets_the_tolerance(engine: ConicEngine, model: Model) -> None:
    made = zoo_case(model)
    claimed(engine, made)
    points = solve(engine, made.program)
    claims, residuals = worst(made.program, points, 1e-6)
    hard = model.name in TOO_FAR[engine.name]
    for place, expected in enumerate(ends(model, made.program.batch)):
        # Some that are infeasible have a ray of the objective too; both are true.
        both = (expected, claims[place]) == (INFEASIBLE, UNBOUNDED)
        assert claims[place] == expected or both or (hard and claims[place] == NOTHING)
        assert expected != POINT or hard or float(residuals[place]) <= 1e-6
    assert points.x.isfinite().all()
    assert points.y.isfinite().all()


@pytest.mark.parametrize("model", [model for model in ZOO if not model.name.startswith(("scaled", "weights"))], ids=str)
def test_the_reference_reaches_a_hundredth_of_the_default(model: Model) -> None:
    made = zoo_case(model, seed=1)
    claims, residuals = worst(made.program, solve(CLARABEL, made.program, 1e-8), 1e-8)
    good = [claim != POINT or float(residual) <= 1e-8 for claim, residual in zip(claims, residuals, strict=True)]
    assert all(good)
    assert NOTHING not in claims


@pytest.mark.parametrize("model", ENDED, ids=str)
@pytest.mark.parametrize("engine", LOOPED)
def test_neighbours_without_a_solution_disturb_nobody(engine: ConicEngine, model: Model) -> None:
    made = zoo_case(model)
    claimed(engine, made)
    program = made.program
    run = runner_of(engine, program)
    together = run(program, {}, 1e-6)
    for place, expected in enumerate(ends(model)):
        if expected != POINT:
            continue
        one = program.take(torch.tensor([place]))
        alone = run(one, {}, 1e-6)
        own = objectives(replace(made, program=one), alone.x)
        among = objectives(replace(made, program=one), together.x[[place]])
        if engine is CLARABEL:
            torch.testing.assert_close(together.x[place], alone.x[0], rtol=0, atol=0)
        assert float(own) == pytest.approx(float(among), abs=1e-5 * (1 + abs(float(own))))


# ------------------------------------------------------------------------------------ against cvxpy


def own_box(rng: np.random.Generator) -> tuple[cp.Problem, Data]:
    x, A, y = cp.Variable(4, name="x"), cp.Parameter((6, 4), name="A"), cp.Parameter(6, name="y")
    constraints = labelled(lower=x >= 0, upper=x <= 1)
    data = {"A": rng.standard_normal((5, 6, 4)), "y": rng.standard_normal((5, 6))}
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - y)), constraints), data


def shared_rows(rng: np.random.Generator) -> tuple[cp.Problem, Data]:
    x, p, b = cp.Variable(5, name="x"), cp.Parameter(5, name="p"), cp.Parameter(3, name="b")
    G = rng.standard_normal((3, 5))
    constraints = labelled(rows=G @ x <= b, total=cp.sum(x) == 1)
    data = {"p": rng.standard_normal((5, 5)), "b": 1 + rng.random((5, 3))}
    return cp.Problem(cp.Maximize(p @ x - cp.sum_squares(x)), constraints), data


def linear(rng: np.random.Generator) -> tuple[cp.Problem, Data]:
    x, c = cp.Variable((2, 3), name="x"), cp.Parameter((2, 3), name="c")
    constraints = labelled(supply=cp.sum(x, axis=1) <= [2.2, 3.1], demand=cp.sum(x, axis=0) == [1, 1.5, 1], sign=x >= 0)
    return cp.Problem(cp.Minimize(cp.sum(cp.multiply(c, x))), constraints), {"c": rng.random((5, 2, 3))}


def ball(rng: np.random.Generator) -> tuple[cp.Problem, Data]:
    x, p, r = cp.Variable(4, name="x"), cp.Parameter(4, name="p"), cp.Parameter(name="r", nonneg=True)
    constraints = labelled(ball=cp.norm(x) <= r, half=x[0] >= 0.1)
    data = {"p": 2 * rng.standard_normal((5, 4)), "r": 0.5 + rng.random(5)}
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints), data


def matrices(rng: np.random.Generator) -> tuple[cp.Problem, Data]:
    """Two cones of different orders: each package has its own order of their entries."""
    X, Y = cp.Variable((3, 3), name="X", symmetric=True), cp.Variable((2, 2), name="Y", symmetric=True)
    S = cp.Parameter((3, 3), name="S")
    constraints = labelled(X=X >> 0, Y=Y >> 0, tied=X[:2, :2] + Y == np.eye(2), trace=cp.trace(X) == 1.5)
    S_values = rng.standard_normal((5, 3, 3))
    return cp.Problem(cp.Minimize(cp.sum_squares(X - S) + cp.sum_squares(Y)), constraints), {"S": S_values}


def entropies(rng: np.random.Generator) -> tuple[cp.Problem, Data]:
    x, c = cp.Variable(4, name="x"), cp.Parameter(4, name="c")
    constraints = labelled(total=cp.sum(x) == 1, most=x <= 0.6)
    return cp.Problem(cp.Minimize(c @ x - cp.sum(cp.entr(x))), constraints), {"c": rng.standard_normal((5, 4))}


def powers(rng: np.random.Generator) -> tuple[cp.Problem, Data]:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c", nonneg=True)
    cone = cp.constraints.PowCone3D(x[0], x[1], x[2], 0.3).set_label("cone")
    constraints = [cone, *labelled(most=x[:2] <= 2)]
    return cp.Problem(cp.Maximize(x[2] - cp.sum_squares(cp.multiply(c, x))), constraints), {
        "c": 0.2 + rng.random((5, 3))
    }


MAKES = [own_box, shared_rows, linear, ball, matrices, entropies, powers]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("engine", LOOPED)
def test_agrees_with_cvxpy(engine: ConicEngine, make: Make, seed: int) -> None:
    made = case(*make(np.random.default_rng(seed)))
    claimed(engine, made)
    points = solve(engine, made.program, 1e-8)
    assert points.claim.tolist() == [POINT] * made.program.batch
    values = objectives(made, points.x)
    for place in range(made.program.batch):
        objective, variables, duals = answers_of_cvxpy(made, place)
        assert float(values[place]) == pytest.approx(objective, abs=1e-6 * (1 + abs(objective)))
        for kind, rows, expected in ((made.form.values, points.x, variables), (made.form.duals, points.y, duals)):
            assert expected
            for name, value in expected.items():
                np.testing.assert_allclose(recovered(kind[name], rows)[place], value, atol=3e-4, err_msg=name)


def test_known_answers_with_duals() -> None:
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - p)), labelled(sign=x >= 0, first=x[0] <= 1))
    made = case(problem, {"p": np.array([[-1.0, 2, -3], [3, -1, 0.5]])})
    for engine in LOOPS.values():
        if engine is OSQP and not HAS_OSQP:
            continue
        points = solve(engine, made.program, 1e-8)
        x_values = recovered(made.form.values["x"], points.x)
        np.testing.assert_allclose(x_values, [[0, 2, 0], [1, 0, 0.5]], atol=1e-6)
        np.testing.assert_allclose(recovered(made.form.duals["sign"], points.y), [[1, 0, 3], [0, 1, 0]], atol=1e-6)
        np.testing.assert_allclose(recovered(made.form.duals["first"], points.y).ravel(), [0, 2], atol=1e-6)


# ------------------------------------------------------------------------------------ starts, again, state


@pytest.mark.parametrize("name", ["box_quadratic", "lasso", "own_hessian", "ball_projection", "entropy_projection"])
@pytest.mark.parametrize("engine", WARM)
def test_warm_starts_take_fewer_iterations(engine: ConicEngine, name: str) -> None:
    made = zoo_case(BY_NAME[name])
    claimed(engine, made)
    program = made.program
    run = runner_of(engine, program)
    state = run(program, {}, 1e-8).state
    moved = replace(program, q=program.q * (1 + 1e-5), b=program.b * (1 + 1e-5))
    cold, warm = run(moved, {}, 1e-6), run(moved, state, 1e-6)
    assert int(warm.iterations.sum()) < int(cold.iterations.sum())
    assert max(worst(moved, warm, 1e-6)[1]) <= 1e-6


@pytest.mark.parametrize("engine", WARM)
def test_an_instance_without_a_state_starts_cold(engine: ConicEngine) -> None:
    program = zoo_case(BY_NAME["box_quadratic"]).program
    run = runner_of(engine, program)
    cold = run(program, {}, 1e-6)
    state = {name: rows.clone() for name, rows in cold.state.items()}
    for rows in state.values():
        rows[2] = torch.nan
    mixed = run(program, state, 1e-6)
    assert int(mixed.iterations[2]) > int(mixed.iterations[torch.arange(6) != 2].max())
    assert max(worst(program, mixed, 1e-6)[1]) <= 1e-6


@pytest.mark.parametrize("engine", LOOPED)
@pytest.mark.parametrize(
    "state",
    [{"t": torch.zeros(6, 3)}, {"x": torch.zeros(2, 6), "y": torch.zeros(2, 12), "s": torch.zeros(2, 12)}],
    ids=["another engine's", "another batch's"],
)
def test_what_is_no_start_is_ignored(engine: ConicEngine, state: Start) -> None:
    program = zoo_case(BY_NAME["box_quadratic"]).program
    run = runner_of(engine, program)
    torch.testing.assert_close(run(program, state, 1e-6).x, run(program, {}, 1e-6).x, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["box_quadratic", "own_hessian", "linear_program"])
@pytest.mark.parametrize("engine", LOOPED)
def test_the_same_question_has_the_same_answer(engine: ConicEngine, name: str) -> None:
    program = zoo_case(BY_NAME[name]).program
    run = runner_of(engine, program)
    first = run(program, {}, 1e-6)
    run(replace(program, q=-3 * program.q), {}, 1e-6)
    again = run(program, {}, 1e-6)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, again.y)


def test_clarabel_makes_one_solver_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted:
        def __new__(cls, *arguments: Any) -> Any:
            made.append(arguments)
            return clarabel.DefaultSolver(*arguments)

    program = zoo_case(BY_NAME["box_quadratic"]).program
    run = runner_of(CLARABEL, program)
    monkeypatch.setattr(clarabel_loop, "clarabel", replace_solver(Counted))
    run(program, {}, 1e-6)
    run(program, {}, 1e-6)
    assert len(made) == 1


@pytest.mark.parametrize(("name", "needed"), [("box_quadratic", False), ("unreachable_total", True)])
def test_clarabel_refines_only_where_the_first_instances_need_it(
    name: str, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refined = []

    class Watched:
        def __new__(cls, *arguments: Any) -> Any:
            refined.append(arguments[-1].iterative_refinement_enable)
            return clarabel.DefaultSolver(*arguments)

    program = zoo_case(BY_NAME[name]).program
    run = runner_of(CLARABEL, program)
    monkeypatch.setattr(clarabel_loop, "clarabel", replace_solver(Watched))
    run(program, {}, 1e-6)
    assert refined[0] is False
    assert any(refined) is needed


def test_clarabel_solves_anew_with_refinement_what_needs_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers without refinement are spoiled; the batch is solved all the same."""
    program = zoo_case(BY_NAME["box_quadratic"]).program
    run = runner_of(CLARABEL, program)
    plain, loop = run(program, {}, 1e-6), clarabel_loop._loop

    def spoiled(*arguments: Any, refine: bool) -> Points:
        points = loop(*arguments, refine=refine)
        return points if refine else replace(points, x=points.x + 1)

    monkeypatch.setattr(clarabel_loop, "_loop", spoiled)
    again = run(program, {}, 1e-6)
    assert bool((again.iterations > plain.iterations).all())
    assert max(worst(program, again, 1e-6)[1]) <= 1e-6


def replace_solver(solver: Any) -> Any:
    class Package:
        DefaultSolver = solver
        DefaultSettings = clarabel.DefaultSettings

    return Package


@pytest.mark.parametrize(
    "name", ["box_quadratic", "own_hessian", "nearest_correlation", "unreachable_total", "open_cone"]
)
def test_clarabel_solves_again_what_was_not_accurate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = zoo_case(BY_NAME[name])
    plain = solve(CLARABEL, made.program)
    monkeypatch.setattr(clarabel_loop, "MARGIN", 3e4)
    points = solve(CLARABEL, made.program)
    claims, residuals = worst(made.program, points, 1e-6)
    assert claims == worst(made.program, plain, 1e-6)[0]
    assert all(claim != POINT or float(residual) <= 1e-6 for claim, residual in zip(claims, residuals, strict=True))
    assert int(points.iterations.sum()) > int(plain.iterations.sum())


def test_the_better_of_two_answers_is_kept() -> None:
    """min x^2 / 2 + q x, whose answer is -q: the first attempt misses two instances, the second is worse for one."""
    q = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    program = scalars(q)
    asked: list[tuple[int, bool]] = []

    def attempt(part: ConicProgram, start: Start, tight: bool) -> Points:
        asked.append((part.batch, tight))
        off = torch.tensor([[0.5], [1e-3]] if tight else [[0.0], [0.1], [0.1]], dtype=torch.float64)
        table = Table.of(part)
        table.x[:], table.iterations[:], table.claim[:] = (off - part.q).numpy(), 7, POINT
        return table.points(part, ("x",))

    points = solve_twice(program, {}, 1e-6, attempt)
    assert asked == [(3, False), (2, True)]
    torch.testing.assert_close(points.x + q, torch.tensor([[0.0], [0.1], [1e-3]], dtype=torch.float64))
    torch.testing.assert_close(points.state["x"], points.x)
    assert points.iterations.tolist() == [7, 14, 14]


def scalars(q: torch.Tensor) -> ConicProgram:
    zero, none = torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    values = torch.ones(1, dtype=torch.float64)
    return ConicProgram(
        Matrix(SharedMatrix(zero, zero, values, (1, 1))), q, Matrix(SharedMatrix(none, none, values[:0], (0, 1))),
        torch.zeros(1, 0, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), Cones(), len(q),
    )  # fmt: skip


# ------------------------------------------------------------------------------------ data that solvers dislike


def spoiled(program: ConicProgram, part: str, places: list[int], wrong: float) -> ConicProgram:
    """A batch with a number that is none, in q, in b or in the own entries of A, in some of its instances."""
    if part != "A":
        rows = getattr(program, part).expand(program.batch, -1).clone()
        rows[places, 0] = wrong
        return replace(program, **{part: rows})
    assert program.A.own is not None
    values = program.A.own.values.clone()
    values[places, 0] = wrong
    return replace(program, A=replace(program.A, own=replace(program.A.own, values=values)))


SPOILED = [("box_quadratic", "q"), ("box_quadratic", "b"), ("own_hessian", "q"), ("nonnegative_least_squares", "A")]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("places", [[0], [3], [0, 1, 2, 4, 5]], ids=str)
@pytest.mark.parametrize(("name", "part"), SPOILED)
@pytest.mark.parametrize("engine", LOOPED)
def test_instances_that_are_not_finite_are_left_alone(
    engine: ConicEngine, name: str, part: str, places: list[int], wrong: float, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even the first of them is seen, on which solvers are set up."""
    made = zoo_case(BY_NAME[name])
    program = spoiled(made.program, part, places, wrong)
    points = solve(engine, program)
    good = [place for place in range(program.batch) if place not in places]
    assert points.claim.tolist() == [POINT if place in good else NOTHING for place in range(program.batch)]
    assert not points.x[places].any()
    assert all(bool(rows[places].isnan().all()) for rows in points.state.values())
    expected = objectives(made, solve(CLARABEL, made.program, 1e-8).x)
    torch.testing.assert_close(objectives(made, points.x)[good], expected[good], rtol=1e-5, atol=1e-5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "part"), SPOILED)
@pytest.mark.parametrize("engine", LOOPED)
def test_a_runner_outlives_a_batch_without_any_finite_instance(engine: ConicEngine, name: str, part: str) -> None:
    program = zoo_case(BY_NAME[name]).program
    bad = spoiled(program, part, list(range(6)), np.nan)
    run = runner_of(engine, bad)
    assert run(bad, {}, 1e-6).claim.tolist() == [NOTHING] * 6
    points = run(program, {}, 1e-6)
    assert points.claim.tolist() == [POINT] * 6
    assert max(worst(program, points, 1e-6)[1]) <= 1e-6


def triangular(rng: np.random.Generator, batch: int, *, full: bool) -> Data:
    R = rng.standard_normal((batch, 4, 4)) + 3 * np.eye(4)
    return {"R": R if full else np.triu(R), "y": rng.standard_normal((batch, 4))}


@pytest.mark.parametrize("engine", LOOPED)
def test_a_pattern_that_later_batches_leave_is_given_up(engine: ConicEngine) -> None:
    """Patterns are taken from the first batch, whose factors are triangular; the second batch has full ones."""
    x, R, y = cp.Variable(4, name="x"), cp.Parameter((4, 4), name="R"), cp.Parameter(4, name="y")
    problem = cp.Problem(cp.Minimize(cp.norm1(x) + cp.sum_squares(R @ x - y)), [x >= -1])
    rng = np.random.default_rng(0)
    first = case(problem, triangular(rng, 5, full=False))
    second = case(problem, triangular(rng, 7, full=True), first.form)
    run = runner_of(engine, first.program)
    for made in (first, second, first):
        points = run(made.program, {}, 1e-8)
        assert max(worst(made.program, points, 1e-8)[1]) <= 1e-8
        for place in range(made.program.batch):
            objective, variables, _ = answers_of_cvxpy(made, place)
            assert float(objectives(made, points.x)[place]) == pytest.approx(objective, abs=1e-6)
            np.testing.assert_allclose(recovered(made.form.values["x"], points.x)[place], variables["x"], atol=1e-4)


@pytest.mark.parametrize("engine", LOOPED)
def test_few_values_at_a_time(engine: ConicEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    made = zoo_case(BY_NAME["own_hessian"])
    expected = solve(engine, made.program, 1e-8)
    monkeypatch.setattr(short_form, "MOST_VALUES", 1)
    monkeypatch.setattr("convexblocks.solvers.layouts.MOST_VALUES", 1)
    points = solve(engine, made.program, 1e-8)
    assert points.claim.tolist() == expected.claim.tolist()
    torch.testing.assert_close(points.x, expected.x, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------ forms and patterns


@pytest.mark.parametrize(
    "name", ["box_quadratic", "squared_hinges", "spline", "lasso", "own_hessian", "robust_linear_program"]
)
def test_the_shorter_form_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = zoo_case(BY_NAME[name]).program
    factors = {"short": choose_form(program).factor}
    monkeypatch.setattr(short_form, "find_stages", lambda program: [])
    factors["whole"] = choose_form(program).factor
    assert factors["short"] <= factors["whole"]


def test_a_definition_is_taken_out_where_that_helps() -> None:
    form = choose_form(zoo_case(BY_NAME["shared_nonnegative_least_squares"]).program)
    assert form.stages
    assert form.example.cones.zero == 0


@pytest.mark.parametrize("model", ENDED, ids=str)
def test_rays_of_the_short_form_are_rays_of_the_program(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever form is the shorter one: both are forced."""
    program = zoo_case(model).program
    for factor in (lambda part: part.A.shape[1], lambda part: -part.A.shape[1]):
        monkeypatch.setattr(short_form, "factor_entries", factor)
        claims, _ = worst(program, solve(CLARABEL, program), 1e-6)
        expected = ends(model)
        assert all(a == b or (a, b) == (UNBOUNDED, INFEASIBLE) for a, b in zip(claims, expected, strict=True))


def drawn_matrix(seed: int, rows: int, columns: int, batch: int, *, symmetric: bool) -> Matrix:
    """A matrix with a shared part and own entries, which may share places; some values are zero."""
    rng = np.random.default_rng(seed)
    shape = (rows, columns)

    def entries(count: int, *lead: int) -> tuple[torch.Tensor, ...]:
        places = rng.choice(rows * columns, min(count, rows * columns), replace=False)
        i, j = places // columns, places % columns
        values = rng.integers(-2, 3, (*lead, len(i))).astype(float)
        if symmetric:
            i, j, values = np.r_[i, j], np.r_[j, i], np.concatenate([values, values], axis=-1)
        return tuple(torch.as_tensor(part) for part in (i, j, values))

    common = SharedMatrix(*entries(5), shape)
    return Matrix(common, OwnEntries(*entries(4, batch), shape) if batch else None)


def dense(matrix: Matrix) -> np.ndarray:
    """Every instance's matrix; entries that share a place add up."""
    common = np.zeros(matrix.shape)
    np.add.at(common, (matrix.common.rows.numpy(), matrix.common.columns.numpy()), matrix.common.values.numpy())
    if matrix.own is None:
        return common[None]
    made = np.repeat(common[None], len(matrix.own.values), axis=0)
    for one, values in zip(made, matrix.own.values.numpy(), strict=True):
        np.add.at(one, (matrix.own.rows.numpy(), matrix.own.columns.numpy()), values)
    return made


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000), rows=st.integers(1, 5), columns=st.integers(1, 5), batch=st.integers(0, 3),
    upper=st.booleans(), by_rows=st.booleans(), narrow=st.booleans(), moved=st.booleans(),
)  # fmt: skip
def test_layouts_hold_the_matrix(
    seed: int, rows: int, columns: int, batch: int, upper: bool, by_rows: bool, narrow: bool, moved: bool
) -> None:
    matrix = drawn_matrix(seed, rows, rows if upper else columns, batch, symmetric=upper)
    columns = matrix.shape[1]
    new_rows = np.random.default_rng(seed).permutation(rows) if moved and not upper else None
    layout = lay_out(matrix, upper=upper, by_rows=by_rows, narrow=narrow, new_rows=new_rows)
    assert layout.holds(matrix)
    expected = dense(matrix)
    if new_rows is not None:
        expected = expected[:, np.argsort(new_rows)]
    if upper:
        expected = np.triu(expected)
    values = np.atleast_2d(layout.values(matrix))
    assert np.all(np.diff(layout.pointers) >= 0)
    assert layout.pointers[-1] == len(layout.indices) == values.shape[1]
    for place, row in enumerate(values):
        made = np.zeros((rows, columns))
        lines = np.repeat(np.arange(len(layout.pointers) - 1), np.diff(layout.pointers))
        made[(lines, layout.indices) if by_rows else (layout.indices, lines)] = row
        np.testing.assert_array_equal(made, expected[place])
        if not by_rows:
            np.testing.assert_array_equal(layout.columns(row).toarray(), made)
    listed = [row for row, _ in zip(layout.rows(matrix), values, strict=False)]
    np.testing.assert_array_equal(listed, values)


def test_a_layout_tells_what_it_does_not_hold() -> None:
    made = case(*own_box(np.random.default_rng(0)))
    program = made.program
    values = program.A.own.values.clone() if program.A.own is not None else torch.zeros(0)
    values[:, 3] = 0
    assert program.A.own is not None
    sparse = Matrix(program.A.common, replace(program.A.own, values=values))
    narrow, wide = (layouts(replace(program, A=sparse), narrow=narrow) for narrow in (True, False))
    assert narrow.hold(replace(program, A=sparse))
    assert not narrow.hold(program)
    assert wide.hold(program)
    assert len(narrow.A.indices) == len(wide.A.indices) - 1


# ------------------------------------------------------------------------------------ processes


def many(name: str, batch: int) -> ConicProgram:
    """A larger batch of a model of the zoo, its instances drawn anew."""
    model = BY_NAME[name]
    problem = model.write()
    shapes = {parameter.name(): parameter.shape for parameter in problem.parameters()}
    draws = [model.draw(seed) for seed in range(-(-batch // 6))]
    data = {
        key: np.concatenate([draw[key] for draw in draws])[:batch] if value.ndim > len(shapes[key]) else value
        for key, value in draws[0].items()
    }
    return case(problem, data).program


@pytest.mark.parametrize("name", ["box_quadratic", "nonnegative_least_squares"])
@pytest.mark.parametrize("engine", LOOPED)
def test_processes_give_what_one_process_gives(engine: ConicEngine, name: str) -> None:
    program = many(name, 150)
    expected = solve(engine, program)
    points = in_processes(engine.name, program, {}, 1e-6, 2)
    assert torch.equal(points.claim, expected.claim)
    exact = engine is CLARABEL
    for part in ("x", "y"):
        torch.testing.assert_close(
            getattr(points, part), getattr(expected, part), rtol=0, atol=0 if exact else 1e-3
        )  # fmt: skip
    assert max(worst(program, points, 1e-6)[1]) <= 1e-6
    assert points.state.keys() == expected.state.keys()
    if points.state:
        warm = in_processes(engine.name, program, points.state, 1e-6, 2)
        assert int(warm.iterations.sum()) < int(points.iterations.sum())


def test_small_batches_stay_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joblib", None)
    program = many("box_quadratic", 127)
    assert torch.equal(in_processes("clarabel", program, {}, 1e-6, 8).x, solve(CLARABEL, program).x)
    assert in_processes("clarabel", many("box_quadratic", 128), {}, 1e-6, 1).x.shape[0] == 128


@pytest.mark.parametrize(("name", "model", "told"), [
    ("moreau", "box_quadratic", "does not share a batch among processes; those that do: clarabel, scs, osqp"),
    ("scs", "no_constraints", "it needs a constraint"),
])  # fmt: skip
def test_processes_refuse(name: str, model: str, told: str) -> None:
    program = (
        scalars(torch.ones(2, 1, dtype=torch.float64))
        if model == "no_constraints"
        else zoo_case(BY_NAME[model]).program
    )
    with pytest.raises(UsageError, match=told):
        in_processes(name, program, {}, 1e-6, 2)


# ------------------------------------------------------------------------------------ what is refused


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "osqp", None)
    assert (
        OSQP.prepare(zoo_case(BY_NAME["box_quadratic"]).program)
        == "the package osqp (pip install 'convexblocks[osqp]')"
    )


@NEEDS_OSQP
@pytest.mark.parametrize("name", ["ball_projection", "entropy_projection", "nearest_correlation", "power_cones"])
def test_osqp_needs_linear_cones(name: str) -> None:
    lacking = OSQP.prepare(zoo_case(BY_NAME[name]).program)
    assert isinstance(lacking, str)
    assert lacking.startswith("equalities and inequalities alone (this program has ")


@pytest.mark.parametrize("engine", LOOPED)
def test_other_cones_are_refused(engine: ConicEngine) -> None:
    program = zoo_case(BY_NAME["box_quadratic"]).program
    strange = replace(program, cones=replace(program.cones, others="power cones of more than three rows"))
    assert engine.prepare(strange) == (
        "cones of the kinds that solvers share (this program has power cones of more than three rows)"
    )


def test_scs_takes_no_program_without_constraints() -> None:
    assert SCS.prepare(scalars(torch.ones(2, 1, dtype=torch.float64))) == "a constraint (SCS takes no program without)"
    points = solve(CLARABEL, scalars(torch.tensor([[1.0], [-2.0]], dtype=torch.float64)))
    torch.testing.assert_close(points.x, torch.tensor([[-1.0], [2.0]], dtype=torch.float64))


def test_scs_is_given_its_plain_factorization_where_it_has_a_choice() -> None:
    from convexblocks.solvers import scs_loop

    assert scs_loop.PLAIN == ({"linear_solver": "qdldl"} if hasattr(scs, "LinearSolver") else {})


@pytest.mark.parametrize("engine", LOOPED)
def test_engines_say_where_they_run_and_what_a_start_does(engine: ConicEngine) -> None:
    assert LOOPS[engine.name] is engine
    assert "on the CPU" in engine.solves
    assert ("no starting point" in engine.warm) is (engine is CLARABEL)
