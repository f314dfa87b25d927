"""Moreau on batches: what its runner hands over, before anyone repairs it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from conic_cases import answers_of_cvxpy, case, ends, objectives, recovered, runner_of, solve, worst, zoo_case
from zoo import ZOO, Model

from convexblocks.solvers import moreau_batch
from convexblocks.solvers.conic_engine import Start
from convexblocks.solvers.conic_loop import CLARABEL
from convexblocks.solvers.conic_program import INFEASIBLE, NOTHING, POINT, UNBOUNDED
from convexblocks.solvers.moreau_batch import ENGINE
from convexblocks.solvers.single_programs import optional_package

BY_NAME = {model.name: model for model in ZOO}
ENDED = [model for model in ZOO if model.infeasible or model.unbounded]
KINDS = [
    "box_quadratic",
    "own_hessian",
    "robust_linear_program",
    "nearest_correlation",
    "entropy_projection",
    "power_cones",
]
NEEDED = pytest.mark.skipif(
    optional_package("moreau") is None, reason="the package moreau is not installed: pip install 'convexblocks[moreau]'"
)


# ------------------------------------------------------------------------------------ without the package


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moreau", None)
    program = zoo_case(BY_NAME["box_quadratic"]).program
    assert ENGINE.prepare(program) == "the package moreau (pip install 'convexblocks[moreau]')"


def test_the_engine_says_where_it_runs_and_what_a_start_does() -> None:
    assert ENGINE.name == "moreau"
    assert "on the CPU" in ENGINE.solves
    assert "needs the package moreau" in ENGINE.solves
    assert "last x, y and s" in ENGINE.warm


# ------------------------------------------------------------------------------------ answers


@NEEDED
@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("model", ZOO, ids=str)
def test_what_the_runner_hands_over_meets_the_tolerance(model: Model, tolerance: float) -> None:
    made = zoo_case(model)
    points = solve(ENGINE, made.program, tolerance)
    claims, residuals = worst(made.program, points, tolerance)
    for place, expected in enumerate(ends(model, made.program.batch)):
        # Some that are infeasible have a ray of the objective too; both are true.
        assert claims[place] == expected or (expected, claims[place]) == (INFEASIBLE, UNBOUNDED)
        assert expected != POINT or float(residuals[place]) <= tolerance
    assert points.x.isfinite().all()
    assert points.y.isfinite().all()


@NEEDED
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", KINDS)
def test_agrees_with_cvxpy(name: str, seed: int) -> None:
    model = BY_NAME[name]
    made = zoo_case(model, seed)
    points = solve(ENGINE, made.program, 1e-8)
    values = objectives(made, points.x)
    for place in range(made.program.batch):
        objective, variables, duals = answers_of_cvxpy(made, place)
        assert float(values[place]) == pytest.approx(objective, abs=1e-6 * (1 + abs(objective)))
        for name_, value in variables.items() if model.unique_values else ():
            np.testing.assert_allclose(recovered(made.form.values[name_], points.x)[place], value, atol=1e-3)
        for name_, value in duals.items() if model.unique_duals else ():
            np.testing.assert_allclose(recovered(made.form.duals[name_], points.y)[place], value, atol=1e-3)


@NEEDED
def test_bounds_are_not_lost() -> None:
    """In cvxpy's own form for Moreau, x >= 0 is no row of A; a layer that does not read it returns p."""
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    made = case(cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - p)), [x >= 0]), {"p": np.array([[-1.0, 2, -3]])})
    points = solve(ENGINE, made.program, 1e-8)
    np.testing.assert_allclose(recovered(made.form.values["x"], points.x), [[0, 2, 0]], atol=1e-6)


@NEEDED
@pytest.mark.parametrize("model", ENDED, ids=str)
def test_neighbours_without_a_solution_disturb_nobody(model: Model) -> None:
    program = zoo_case(model).program
    run = runner_of(ENGINE, program)
    together = run(program, {}, 1e-6)
    for place, expected in enumerate(ends(model)):
        if expected == POINT:
            alone = run(program.take(torch.tensor([place])), {}, 1e-6)
            torch.testing.assert_close(together.x[place], alone.x[0], rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------ starts


@NEEDED
@pytest.mark.parametrize("name", KINDS)
def test_warm_starts_take_fewer_iterations(name: str) -> None:
    program = zoo_case(BY_NAME[name]).program
    run = runner_of(ENGINE, program)
    state = run(program, {}, 1e-6).state
    moved = replace(program, q=program.q * (1 + 1e-4), b=program.b * (1 + 1e-4))
    cold, warm = run(moved, {}, 1e-6), run(moved, state, 1e-6)
    assert int(warm.iterations.sum()) < int(cold.iterations.sum())
    assert max(worst(moved, warm, 1e-6)[1]) <= 1e-6


@NEEDED
@pytest.mark.parametrize("name", ["box_quadratic", "own_hessian"])
def test_an_instance_without_a_state_starts_cold(name: str) -> None:
    """Instances with and without a start are solved apart, and come back in their order."""
    program = zoo_case(BY_NAME[name]).program
    run = runner_of(ENGINE, program)
    cold = run(program, {}, 1e-6)
    state = {key: rows.clone() for key, rows in cold.state.items()}
    for key in state:
        state[key][2] = torch.nan
    mixed = run(program, state, 1e-6)
    assert int(mixed.iterations[2]) == int(cold.iterations[2])
    assert bool((mixed.iterations[torch.arange(6) != 2] < cold.iterations[torch.arange(6) != 2]).all())
    torch.testing.assert_close(mixed.x, cold.x, rtol=0, atol=1e-4)


@NEEDED
def test_a_bad_start_does_no_harm() -> None:
    program = zoo_case(BY_NAME["linear_program"]).program
    run = runner_of(ENGINE, program)
    cold = run(program, {}, 1e-6)
    state = {key: 1e6 * torch.ones_like(rows) for key, rows in cold.state.items()}
    points = run(program, state, 1e-6)
    assert max(worst(program, points, 1e-6)[1]) <= 1e-6


@NEEDED
@pytest.mark.parametrize(
    "state", [{"t": torch.zeros(6, 3)}, {"x": torch.zeros(2, 6)}], ids=["other names", "other batch"]
)
def test_what_is_no_start_is_ignored(state: Start) -> None:
    program = zoo_case(BY_NAME["box_quadratic"]).program
    run = runner_of(ENGINE, program)
    torch.testing.assert_close(run(program, state, 1e-6).x, run(program, {}, 1e-6).x, rtol=0, atol=0)


# ------------------------------------------------------------------------------------ chunks, patterns, solvers kept


@NEEDED
@pytest.mark.parametrize("name", ["box_quadratic", "own_hessian", "unreachable_total"])
def test_chunks_give_what_one_batch_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = zoo_case(BY_NAME[name]).program
    expected = solve(ENGINE, program)
    monkeypatch.setattr(moreau_batch, "MOST_CHUNK", 4)
    points = solve(ENGINE, program)
    assert torch.equal(points.claim, expected.claim)
    torch.testing.assert_close(points.x, expected.x, rtol=0, atol=1e-9)
    monkeypatch.setattr(moreau_batch, "MOST_ENTRIES", 1)
    torch.testing.assert_close(solve(ENGINE, program).x, expected.x, rtol=0, atol=1e-9)


@NEEDED
def test_a_compiled_solver_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    compiled = moreau_batch._compile

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return compiled(*arguments)

    monkeypatch.setattr(moreau_batch, "_compile", counted)
    for name in ("box_quadratic", "own_hessian"):
        program = zoo_case(BY_NAME[name]).program
        run = runner_of(ENGINE, program)
        first = run(program, {}, 1e-6)
        run(replace(program, q=-3 * program.q), {}, 1e-6)
        again = run(program, {}, 1e-6)
        assert torch.equal(first.x, again.x)
        assert len(made) == 1
        for batch in range(1, 7):
            run(program.take(torch.arange(batch)), {}, 1e-6)
        # One for each size; the first was given up for the others.
        assert len(made) == moreau_batch.KEPT_SOLVERS + 3
        made.clear()


@NEEDED
def test_a_pattern_that_later_batches_leave_is_given_up() -> None:
    x, R, y = cp.Variable(4, name="x"), cp.Parameter((4, 4), name="R"), cp.Parameter(4, name="y")
    problem = cp.Problem(cp.Minimize(cp.norm1(x) + cp.sum_squares(R @ x - y)), [x >= -1])
    rng = np.random.default_rng(0)
    full = rng.standard_normal((5, 4, 4)) + 3 * np.eye(4)
    first = case(problem, {"R": np.triu(full), "y": rng.standard_normal((5, 4))})
    second = case(problem, {"R": full, "y": rng.standard_normal((5, 4))}, first.form)
    run = runner_of(ENGINE, first.program)
    for made in (first, second, first):
        expected = solve(CLARABEL, made.program, 1e-8)
        torch.testing.assert_close(run(made.program, {}, 1e-8).x, expected.x, rtol=0, atol=1e-5)


@NEEDED
@pytest.mark.parametrize("place", [0, 3])
def test_an_instance_that_is_not_finite_is_left_alone(place: int) -> None:
    program = zoo_case(BY_NAME["box_quadratic"]).program
    expected = solve(ENGINE, program)
    q = program.q.expand(program.batch, -1).clone()
    q[place, 0] = np.nan
    points = solve(ENGINE, replace(program, q=q))
    others = torch.arange(program.batch) != place
    assert points.claim.tolist() == [NOTHING if other == place else POINT for other in range(program.batch)]
    torch.testing.assert_close(points.x[others], expected.x[others], rtol=0, atol=1e-6)


@NEEDED
def test_what_is_refused() -> None:
    program = zoo_case(BY_NAME["ball_projection"]).program
    short = replace(program, cones=replace(program.cones, second_order=(1, 5)))
    assert ENGINE.prepare(short) == "second-order cones of at least two rows (write t >= 0 for one)"
    strange = replace(program, cones=replace(program.cones, others="power cones of more than three rows"))
    assert isinstance(ENGINE.prepare(strange), str)
