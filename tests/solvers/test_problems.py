"""solve_problem: parameters of a batch in, checked values and duals out."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch

from convexblocks.formulations import Subproblem
from convexblocks.formulations.description import Symbol
from convexblocks.formulations.errors import NotDisciplinedError, UsageError
from convexblocks.formulations.subproblem import PER_INSTANCE, SHARED
from convexblocks.solvers import Status, problems, solve, solve_problem
from convexblocks.solvers.conic_engines import CONIC_ENGINES
from convexblocks.solvers.conic_program import INFEASIBLE, POINT, UNBOUNDED

RNG = np.random.default_rng(0)


def projection(n: int = 3) -> cp.Problem:
    """The point of the nonnegative orthant nearest to p: the model that a peer stack answers wrongly."""
    x, p = cp.Variable(n, name="x"), cp.Parameter(n, name="p")
    positive = x >= 0
    positive.set_label("positive")
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p) / 2), [positive])


def half_space() -> cp.Problem:
    """Nearest point with a'x <= c, |x| <= 1: a second-order cone and an inequality."""
    x = cp.Variable(2, name="x")
    p, a, c = cp.Parameter(2, name="p"), cp.Parameter(2, name="a"), cp.Parameter(name="c")
    limit, ball = a @ x <= c, cp.norm(x) <= 1
    limit.set_label("limit")
    ball.set_label("ball")
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [limit, ball])


HALF_SPACE = {"p": RNG.standard_normal((5, 2)), "a": np.array([1.0, 2.0]), "c": RNG.random(5)}


def test_the_promise_of_the_documentation() -> None:
    solution = solve_problem(projection(), {"p": np.array([[-1.0, 2.0, -3.0]])})
    np.testing.assert_allclose(solution.variables["x"], [[0, 2, 0]], atol=1e-6)
    np.testing.assert_allclose(solution.duals["positive"], [[1, 0, 3]], atol=1e-6)
    assert solution.status == (Status.SOLVED,)
    assert solution.engine == "projected_gradient"
    assert solution.residuals.worst().keys() == {"primal", "dual", "gap"}
    assert max(solution.residuals.worst().values()) <= 1e-6
    assert float(solution.objective[0]) == pytest.approx(5)


def test_cones_with_several_duals_give_them_by_number() -> None:
    problem = half_space()
    solution = solve_problem(problem, HALF_SPACE, tolerance=1e-8)
    for place in range(5):
        for parameter in problem.parameters():
            value = HALF_SPACE[parameter.name()]
            parameter.value = value if parameter.name() == "a" else value[place]
        problem.solve(cp.CLARABEL)
        np.testing.assert_allclose(solution.variables["x"][place], problem.variables()[0].value, atol=1e-4)
        np.testing.assert_allclose(solution.duals["limit"][place], problem.constraints[0].dual_value, atol=1e-3)
        assert float(solution.objective[place]) == pytest.approx(problem.value, abs=1e-6)


@pytest.mark.parametrize("kind", ["numpy", "torch", "float32", "integers"])
def test_numpy_and_torch_of_any_real_type_are_taken(kind) -> None:
    p = np.array([[-1, 2, -3], [4, 5, 6]])
    given = {"numpy": p.astype(float), "torch": torch.tensor(p), "float32": p.astype("float32"), "integers": p}
    x = solve_problem(projection(), {"p": given[kind]}).variables["x"]
    assert x.dtype == torch.float64
    np.testing.assert_allclose(x, p.clip(min=0), atol=1e-6)


def test_a_problem_without_batched_parameters_is_a_batch_of_one() -> None:
    assert solve_problem(projection(), {"p": np.ones(3)}).variables["x"].shape == (1, 3)
    x = cp.Variable(name="x")
    alone = solve_problem(cp.Problem(cp.Minimize(cp.square(x - 3)), [x <= 1]))
    assert float(alone.variables["x"]) == pytest.approx(1, abs=1e-6)


def test_a_maximization_keeps_its_sign() -> None:
    x, p = cp.Variable(2, name="x"), cp.Parameter(2, name="p")
    problem = cp.Problem(cp.Maximize(p @ x - cp.sum_squares(x) / 2), [x <= 1])
    solution = solve_problem(problem, {"p": np.array([[0.5, 3.0]])})
    np.testing.assert_allclose(solution.variables["x"], [[0.5, 1]], atol=1e-6)
    assert float(solution.objective[0]) == pytest.approx(0.125 + 2.5, abs=1e-6)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, ["missing 'p'", "expected the parameters 'p'"]),
        ({"p": np.ones(3), "r": 1.0}, ["unexpected 'r'"]),
        ({"p": np.ones(4)}, ["'p'", "(4,)", "('batch', 3)"]),
        ({"p": np.ones((2, 2, 3))}, ["'p'", "(2, 2, 3)"]),
        ({"p": np.ones((0, 3))}, ["'p'", "(0, 3)"]),
        ({"p": np.array([[1, np.nan, 2]])}, ["'p'", "NaN"]),
        ({"p": np.array([[1, np.inf, 2]])}, ["'p'", "infinite"]),
        ({"p": np.array([["a", "b", "c"]])}, ["'p'", "real numbers"]),
        ({"p": np.ones((2, 3)) * 1j}, ["'p'", "real numbers"]),
    ],
)  # fmt: skip
def test_unfit_parameters_are_refused(parameters, words) -> None:
    with pytest.raises(UsageError) as caught:
        solve_problem(projection(), parameters)
    for word in words:
        assert word in str(caught.value)


def test_batches_of_different_lengths_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'c' has 4 instances and 'p' has 5"):
        solve_problem(half_space(), {**HALF_SPACE, "c": np.ones(4)})


def test_a_parameter_that_breaks_its_sign_is_refused_with_its_instance() -> None:
    x, w = cp.Variable(2, name="x"), cp.Parameter(2, name="w", nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 1) + w @ cp.abs(x)))
    with pytest.raises(UsageError, match="'w' of instance 1 is not at least zero"):
        solve_problem(problem, {"w": np.array([[1.0, 1.0], [1.0, -1.0]])})


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"tolerance": 0}, "tolerance"), ({"tolerance": "1e-6"}, "tolerance"),
        ({"engine": "gurobi"}, "unknown engine 'gurobi'"),
        ({"processes": 0}, "processes"), ({"warm_start": {"x": 1}}, "warm_start"), ({"ids": [1, 2]}, "2 ids"),
        ({"ids": [[1]]}, "hashed"),
    ],
)  # fmt: skip
def test_unfit_arguments_are_refused(arguments, word) -> None:
    with pytest.raises(UsageError, match=word):
        solve_problem(projection(), {"p": np.ones((1, 3))}, **arguments)


def test_what_is_no_problem_or_not_disciplined_is_refused() -> None:
    with pytest.raises(UsageError, match=r"expected a cvxpy\.Problem"):
        solve_problem("x >= 0")  # type: ignore[arg-type]
    x, a, b = cp.Variable(name="x"), cp.Parameter(name="a"), cp.Parameter(name="b")
    with pytest.raises(NotDisciplinedError, match="DPP"):
        solve_problem(cp.Problem(cp.Minimize(a * b * x), [x >= 0]), {"a": 1.0, "b": 1.0})


def test_an_engine_that_does_not_fit_says_what_it_lacks_and_who_can() -> None:
    with pytest.raises(UsageError) as caught:
        solve_problem(half_space(), HALF_SPACE, engine="projected_gradient")
    for word in ("'projected_gradient' cannot solve this problem", "second-order cone", "it needs", "clarabel"):
        assert word in str(caught.value)


def test_a_problem_is_canonicalized_once(monkeypatch) -> None:
    made = []
    genuine = problems.canonicalize
    monkeypatch.setattr(problems, "canonicalize", lambda problem: made.append(1) or genuine(problem))
    problem = projection()
    for batch in (2, 3):
        solve_problem(problem, {"p": np.ones((batch, 3))})
    solve_problem(problem, {"p": np.ones(3)})
    assert len(made) == 1


def test_the_canonical_form_dies_with_its_problem() -> None:
    problem = projection()
    solve_problem(problem, {"p": np.ones((2, 3))})
    form = weakref.ref(problems.compile_problem(problem))
    assert form() is not None
    del problem
    gc.collect()
    assert form() is None


def test_the_users_problem_is_left_as_it_was() -> None:
    problem = projection()
    parameter = problem.parameters()[0]
    parameter.value = np.array([7.0, 8.0, 9.0])
    solve_problem(problem, {"p": np.ones((2, 3))})
    np.testing.assert_array_equal(parameter.value, [7, 8, 9])
    assert problem.variables()[0].value is None
    assert problem.status is None


@pytest.mark.parametrize("engine", list(CONIC_ENGINES))
def test_answers_do_not_depend_on_how_a_batch_is_cut(engine, monkeypatch) -> None:
    problem = projection()
    data = {"p": np.random.default_rng(2).standard_normal((9, 3))}
    if isinstance(CONIC_ENGINES[engine].prepare(_program(problem, data)), str):
        pytest.skip(f"{engine} does not solve this problem here")
    whole = solve_problem(problem, data, engine=engine)
    monkeypatch.setattr(problems, "MOST_ROWS", 2)
    cut = solve_problem(problem, data, engine=engine)
    assert whole.solved
    assert cut.solved
    torch.testing.assert_close(cut.variables["x"], whole.variables["x"], rtol=0, atol=1e-5)
    torch.testing.assert_close(cut.objective, whole.objective, rtol=0, atol=1e-5)


def _program(problem, data):
    compiled = problems.compile_problem(problem)
    batch = problems.check_batch(compiled.form, data)
    return problems.make_plan(compiled, batch, "clarabel").program(batch, torch.arange(batch.size))


# Warm starts


def test_instances_find_their_own_past_by_name() -> None:
    problem = projection(5)
    p = np.random.default_rng(1).standard_normal((6, 5)) * 10
    first = solve_problem(problem, {"p": p[:3]}, ids=["a", "b", "c"])
    second = solve_problem(problem, {"p": p[3:]}, ids=["d", "e", "f"], warm_start=first)
    assert second.ids == ("d", "e", "f", "a", "b", "c")
    third = solve_problem(problem, {"p": p[[4, 0, 5]]}, ids=["e", "a", "f"], warm_start=second)
    assert third.iterations.tolist() == [0, 0, 0]
    mixed = solve_problem(problem, {"p": p[[1, 2]]}, ids=["b", "new"], warm_start=third)
    assert int(mixed.iterations[0]) == 0 < int(mixed.iterations[1])
    torch.testing.assert_close(mixed.variables["x"], torch.tensor(p[[1, 2]]).clamp(min=0), rtol=0, atol=1e-5)


def test_a_warm_start_of_other_size_needs_names() -> None:
    first = solve_problem(projection(), {"p": np.ones((2, 3))})
    with pytest.raises(UsageError, match=r"has 2 instances and this batch 3.*ids="):
        solve_problem(projection(), {"p": np.ones((3, 3))}, warm_start=first)
    with pytest.raises(UsageError, match="the warm start has none"):
        solve_problem(projection(), {"p": np.ones((2, 3))}, warm_start=first, ids=[1, 2])


def test_ids_must_be_distinct() -> None:
    with pytest.raises(UsageError, match="only 1 of 2 ids are distinct"):
        solve_problem(projection(), {"p": np.ones((2, 3))}, ids=["a", "a"])


def test_a_warm_start_of_another_engine_is_a_cold_start() -> None:
    data = {"p": np.ones((2, 3))}
    other = solve_problem(projection(), data, engine="clarabel")
    cold, warm = solve_problem(projection(), data), solve_problem(projection(), data, warm_start=other)
    assert warm.iterations.tolist() == cold.iterations.tolist()


# Residuals decide


def lying(change):
    """An engine that changes Clarabel's points before it gives them back."""
    genuine = CONIC_ENGINES["clarabel"]

    def prepare(program):
        run = genuine.prepare(program)
        return lambda program, start, tolerance: change(run(program, {}, tolerance))

    return replace(genuine, name="liar", prepare=prepare)


def _moved(points):
    points.x[1] += 0.1
    return points


def _dual_moved(points):
    points.y[1] += 0.1
    return points


def _nan(points):
    points.x[1] = torch.nan
    return points


def _claiming(claim):
    def change(points):
        points.claim[1] = claim
        return points

    return change


@pytest.mark.parametrize(
    "change", [_moved, _dual_moved, _nan, _claiming(INFEASIBLE), _claiming(UNBOUNDED), _claiming(99)],
    ids=["x", "y", "nan", "false infeasibility", "false ray", "nothing"],
)  # fmt: skip
def test_a_wrong_answer_is_found_out_and_replaced_and_said(change, monkeypatch) -> None:
    monkeypatch.setitem(CONIC_ENGINES, "liar", lying(change))
    p = np.random.default_rng(3).standard_normal((3, 3))
    solution = solve_problem(projection(), {"p": p}, engine="liar")
    assert solution.solved
    assert solution.engine == "liar"
    assert solution.again["clarabel"].tolist() == [1]
    np.testing.assert_allclose(solution.variables["x"], p.clip(min=0), atol=1e-5)


def test_a_failing_factorization_takes_nothing_with_it(monkeypatch) -> None:
    def prepare(program):
        def run(program, start, tolerance):
            raise torch.linalg.LinAlgError("not positive definite")

        return run

    monkeypatch.setitem(CONIC_ENGINES, "fragile", replace(CONIC_ENGINES["clarabel"], name="fragile", prepare=prepare))
    solution = solve_problem(projection(), {"p": np.ones((2, 3))}, engine="fragile")
    assert solution.solved
    assert solution.again["clarabel"].tolist() == [0, 1]


def test_a_poisoned_warm_start_is_followed_by_a_cold_one() -> None:
    problem = projection()
    data = {"p": np.random.default_rng(4).standard_normal((3, 3))}
    good = solve_problem(problem, data)
    state = {name: values.clone() for name, values in good.state.items()}
    state["x"][1] = torch.nan
    solution = solve_problem(problem, data, warm_start=replace(good, state=state))
    assert solution.solved
    torch.testing.assert_close(solution.variables["x"], good.variables["x"], rtol=0, atol=1e-6)


def test_infeasible_and_unbounded_instances_have_checked_rays_and_quiet_neighbours() -> None:
    x = cp.Variable(2, name="x")
    c, r = cp.Parameter(2, name="c"), cp.Parameter(name="r")
    above, below = x >= 0, cp.sum(x) <= r
    above.set_label("above")
    below.set_label("below")
    free = cp.Variable(name="y")
    problem = cp.Problem(cp.Minimize(c @ x + free), [above, below, free >= 0])
    c_values = np.array([[1.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    solution = solve_problem(problem, {"c": c_values, "r": np.array([1.0, -1.0, 2.0])})
    assert solution.status == (Status.SOLVED, Status.INFEASIBLE, Status.SOLVED)
    ray = solution.rays[1]
    assert float(ray["below"]) > 0
    np.testing.assert_allclose(ray["above"], ray["below"].expand(2), atol=1e-6)
    assert bool(solution.objective[1].isnan())
    np.testing.assert_allclose(solution.objective[[0, 2]], [0, -2], atol=1e-5)


def test_an_unbounded_instance_gives_its_direction() -> None:
    x, c = cp.Variable(2, name="x"), cp.Parameter(2, name="c")
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0])
    solution = solve_problem(problem, {"c": np.array([[1.0, 1.0], [1.0, -1.0]])})
    assert solution.status == (Status.SOLVED, Status.UNBOUNDED)
    direction = solution.rays[1]["x"]
    assert float(direction.min()) >= -1e-6
    assert float(direction[0] - direction[1]) < 0


def test_both_infeasible_and_unbounded_below_is_called_infeasible() -> None:
    x, r = cp.Variable(2, name="x"), cp.Parameter(name="r")
    problem = cp.Problem(cp.Minimize(-x[0]), [x[1] >= r, x[1] <= 0])
    solution = solve_problem(problem, {"r": np.array([1.0, -1.0])})
    assert solution.status == (Status.INFEASIBLE, Status.UNBOUNDED)


# A user's own Subproblem


class Ridge(Subproblem):
    """Ridge regression within limits; one target."""

    name, source, instance = "ridge", "", "one target"
    symbols = (
        Symbol("w", "weights", PER_INSTANCE),
        Symbol("X", "features", SHARED),
        Symbol("y", "target", PER_INSTANCE),
    )

    def write(self) -> cp.Problem:
        w, X, y = cp.Variable(3, name="w"), cp.Parameter((8, 3), name="X"), cp.Parameter(8, name="y")
        within = cp.abs(w) <= 0.5
        within.set_label("within")
        return cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) / 2 + cp.sum_squares(w) / 2), [within])


def test_an_own_subproblem_is_batched_warm_started_and_measured_with_no_extra_code() -> None:
    rng = np.random.default_rng(0)
    data = {"X": rng.standard_normal((8, 3)), "y": rng.standard_normal((20, 8))}
    first = solve(Ridge(), data)
    assert first.solved
    assert first.engine != "clarabel"
    assert first.duals["within"].shape == (20, 3)
    names = [f"target {place}" for place in range(20)]
    named = solve(Ridge(), data, ids=names)
    again = solve(Ridge(), {**data, "y": data["y"][::-1].copy()}, ids=names[::-1], warm_start=named)
    assert int(again.iterations.sum()) < int(named.iterations.sum())
    torch.testing.assert_close(again.variables["w"].flip(0), first.variables["w"], rtol=0, atol=1e-4)


def test_claims_are_the_documented_numbers() -> None:
    assert (POINT, INFEASIBLE, UNBOUNDED) == (0, 1, 2)


# Odd data


def test_one_instance_that_overflows_takes_nobody_with_it() -> None:
    p = np.array([[1e200, -2.0, 3.0], [1.0, 1.0, 1.0]])
    solution = solve_problem(projection(), {"p": p})
    assert solution.status[1] is Status.SOLVED
    np.testing.assert_allclose(solution.variables["x"][1], [1, 1, 1], atol=1e-6)


def test_a_warm_start_from_a_program_of_another_structure_is_a_cold_one() -> None:
    x, p, W = cp.Variable(4, name="x"), cp.Parameter(4, name="p"), cp.Parameter((3, 4), name="W")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum_squares(cp.pos(W @ x + 1))), [x >= 0])
    rng = np.random.default_rng(0)
    data = {"p": rng.standard_normal((5, 4)), "W": rng.standard_normal((3, 4))}
    first = solve_problem(problem, data, ids=range(5))
    data["W"][0] = 0
    cold = solve_problem(problem, data)
    warm = solve_problem(problem, data, ids=range(5), warm_start=first)
    assert warm.solved
    torch.testing.assert_close(warm.variables["x"], cold.variables["x"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1e-5])
def test_small_data_do_not_make_the_start_a_solution(scale) -> None:
    x, M, p = cp.Variable(2, name="x"), cp.Parameter((2, 2), name="M"), cp.Parameter(2, name="p")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(M @ x - p)), [x >= 0])
    M_values = np.array([[[1.0, 2.0], [3.0, 4.0]]]) * scale
    solution = solve_problem(problem, {"M": M_values, "p": np.array([[3.0, 7.0]]) * scale})
    np.testing.assert_allclose(solution.variables["x"], [[1, 1]], atol=1e-3)


@pytest.mark.parametrize("eps", [1e-4, 1e-6])
def test_a_far_solution_is_not_called_infeasible(eps) -> None:
    # x_0 = 1 / eps is the only way to meet the first constraint.
    x, least = cp.Variable(2, name="x"), cp.Parameter(name="least")
    problem = cp.Problem(cp.Minimize(x[0]), [eps * x[0] + x[1] >= least, x[1] <= 0, x[0] <= 1e12])
    solution = solve_problem(problem, {"least": np.ones(2)})
    assert Status.INFEASIBLE not in solution.status
    assert Status.UNBOUNDED not in solution.status


def test_a_batch_that_its_engine_cannot_solve_makes_the_next_one_choose_anew() -> None:
    x, t = cp.Variable(3, name="x"), cp.Variable(2, name="t")
    p, W, low = cp.Parameter(3, name="p"), cp.Parameter((2, 3), name="W"), cp.Parameter(2, name="low")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(t) + cp.sum_squares(x) + p @ x), [t >= W @ x, t >= low])
    rng = np.random.default_rng(0)
    data = {"p": rng.standard_normal((4, 3)), "W": rng.standard_normal((2, 3)), "low": np.full((4, 2), -1.0)}
    assert solve_problem(problem, data).engine == "projected_gradient"
    data["low"] = np.full((4, 2), 1.0)
    kinked = solve_problem(problem, data)
    assert kinked.solved
    assert kinked.again["clarabel"].tolist() == [0, 1, 2, 3]
    chosen = solve_problem(problem, data)
    assert chosen.engine == "shared_admm"
    assert not chosen.again
    torch.testing.assert_close(chosen.objective, kinked.objective, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ([np.ones(3)], "expected a dict"),
        ({"p": [[1.0, 2.0, 3.0], [1.0]]}, "rows of one length"),
        ({"p": torch.eye(3).to_sparse()}, "sparse tensor"),
        ({"p": np.ma.masked_less(np.array([[1.0, -1.0, 2.0]]), 0)}, "masked"),
    ],
)
def test_odd_containers_are_refused(parameters, word) -> None:
    with pytest.raises(UsageError, match=word):
        solve_problem(projection(), parameters)


def test_a_parameter_without_a_name_is_told_to_have_one() -> None:
    x, p = cp.Variable(3), cp.Parameter(3)
    with pytest.raises(UsageError, match="name them"):
        solve_problem(cp.Problem(cp.Minimize(cp.sum_squares(x - p))), {"p": np.ones((2, 3))})


def test_a_solution_tells_itself_in_a_few_lines() -> None:
    x, r = cp.Variable(name="x"), cp.Parameter(name="r")
    solution = solve_problem(cp.Problem(cp.Minimize(cp.square(x)), [x >= r, x <= 0]), {"r": np.array([-1.0, 1.0])})
    assert solution.solved_rows.tolist() == [True, False]
    told = repr(solution)
    for word in ("2 instances", "1 SOLVED", "1 INFEASIBLE", solution.engine, "x (2,)", "worst residuals"):
        assert word in told
    assert len(told.splitlines()) == 3


def test_names_of_engines_are_taken_as_cvxpy_writes_them() -> None:
    assert solve_problem(projection(), {"p": np.ones(3)}, engine=cp.CLARABEL).engine == "clarabel"


def test_not_a_number_is_found_in_its_instance() -> None:
    with pytest.raises(UsageError, match="in instance 1"):
        solve_problem(projection(), {"p": np.array([[1.0, 2, 3], [1, np.nan, 2]])})


def test_processes_and_odd_arguments() -> None:
    with pytest.raises(UsageError, match="expected a name"):
        solve_problem(projection(), {"p": np.ones(3)}, engine=["clarabel"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a sequence of names"):
        solve_problem(projection(), {"p": np.ones(3)}, ids=3)  # type: ignore[arg-type]


def test_own_diagonal_matrices_are_held_a_few_at_a_time(monkeypatch) -> None:
    from convexblocks.solvers import projected_newton

    x, w = cp.Variable(6, name="x"), cp.Parameter(6, nonneg=True, name="w")
    problem = cp.Problem(cp.Minimize(cp.sum(cp.multiply(w, cp.square(x))) - cp.sum(x)), [x >= 0])
    data = {"w": np.random.default_rng(0).random((9, 6)) + 0.5}
    whole = solve_problem(problem, data, engine="projected_newton")
    monkeypatch.setattr(projected_newton, "MOST_TOGETHER", 72)
    cut = solve_problem(problem, data, engine="projected_newton")
    assert torch.equal(whole.variables["x"], cut.variables["x"])
    np.testing.assert_allclose(whole.variables["x"], 0.5 / data["w"], atol=1e-5)


def test_a_large_linear_program_is_not_taken_by_the_splitting_method_unless_it_is_named() -> None:
    x, b = cp.Variable(30, name="x"), cp.Parameter(120, name="b")
    rng = np.random.default_rng(0)
    A, cost = rng.standard_normal((120, 30)), rng.standard_normal(120)
    # Bounded: the cost is minus a positive combination of the rows.
    problem = cp.Problem(cp.Minimize(-(np.abs(cost) @ A) @ x), [A @ x <= b])
    data = {"b": rng.random((3, 120)) + 1}
    chosen = solve_problem(problem, data)
    assert chosen.engine in ("clarabel", "moreau")
    named = solve_problem(problem, data, engine="shared_admm")
    assert named.engine == "shared_admm"
    torch.testing.assert_close(named.objective, chosen.objective, rtol=1e-4, atol=1e-4)
