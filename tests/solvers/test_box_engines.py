"""The engines of boxes and squared hinges, found in cvxpy models, against Clarabel on the same instances."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexblocks.formulations import FenchelActivation
from convexblocks.formulations.errors import UsageError
from convexblocks.solvers import Status, solve_problem

BATCH = 6
TIGHT = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}


def relu_block(n: int = 7, m: int = 5, alpha: float = 1.0) -> cp.Problem:
    x = cp.Variable(n, nonneg=True, name="x")
    u, v = cp.Parameter(n, name="u"), cp.Parameter(m, name="v")
    W = cp.Parameter((m, n), name="W")
    z = cp.Variable(m, name="z")
    sent = z == W @ x + 0.1
    sent.set_label("sent")
    below = alpha / 2 * cp.sum_squares(x) - alpha * u @ x
    return cp.Problem(cp.Minimize(below + cp.sum_squares(cp.pos(z)) / 2 - v @ z), [sent])


def box_block(n: int = 7, m: int = 9, delta: float = 1e-2) -> cp.Problem:
    a = cp.Variable(n, name="a")
    W, z, p = cp.Parameter((m, n), name="W"), cp.Parameter(m, name="z"), cp.Parameter(n, name="p")
    low, high = cp.Parameter(n, name="low"), cp.Parameter(n, name="high")
    fit = cp.sum_squares(W @ a - z) / 2 + delta / 2 * cp.sum_squares(a - p)
    below, above = a >= low, a <= high
    below.set_label("below")
    above.set_label("above")
    return cp.Problem(cp.Minimize(fit), [below, above])


def own_block(n: int = 6, m: int = 8) -> cp.Problem:
    x = cp.Variable(n, name="x")
    A, y = cp.Parameter((m, n), name="A"), cp.Parameter(m, name="y")
    positive = x >= 0
    positive.set_label("positive")
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - y) / 2), [positive])


def draw(problem: cp.Problem, kind: str, seed: int, shared: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Random, ill-scaled (six orders between columns) or degenerate (repeated columns, zeros) data."""
    rng = np.random.default_rng(seed)
    data = {}
    for parameter in problem.parameters():
        batch = () if parameter.name() in shared else (BATCH,)
        values = rng.standard_normal((*batch, *parameter.shape))
        if len(parameter.shape) == 2:
            values /= np.sqrt(parameter.shape[1])
            if kind == "ill-scaled":
                values *= 10 ** rng.uniform(-1.5, 1.5, parameter.shape[1])
            if kind == "degenerate":
                values[..., 1] = values[..., 0]
                values[..., 2] = 0
        elif kind == "ill-scaled":
            values *= 10 ** rng.uniform(-3, 3, (*batch, 1))
        data[parameter.name()] = values
    if "low" in data:
        data["high"] = data["low"] + (0 if kind == "degenerate" else 1) * rng.random(data["low"].shape)
    return data


def reference(problem: cp.Problem, data: dict[str, np.ndarray], place: int) -> float:
    """Solve one instance by cvxpy and Clarabel; the variables and duals hold the answer."""
    for parameter in problem.parameters():
        value = data[parameter.name()]
        parameter.value = value[place] if value.ndim > len(parameter.shape) else value
    problem.solve(cp.CLARABEL, **TIGHT)
    return float(problem.value)


CASES = [
    pytest.param(relu_block, ("W",), "projected_gradient", id="relu"),
    pytest.param(lambda: relu_block(alpha=0.01), ("W",), "projected_gradient", id="relu, stiff"),
    pytest.param(box_block, ("W",), "projected_gradient", id="box"),
    pytest.param(lambda: box_block(delta=1e-4), ("W",), "projected_gradient", id="box, stiff"),
    pytest.param(box_block, ("W",), "projected_newton", id="box by Newton"),
    pytest.param(box_block, (), "projected_newton", id="box, own matrices"),
    pytest.param(own_block, (), "projected_newton", id="nonnegative least squares"),
]


@pytest.mark.parametrize("kind", ["random", "ill-scaled", "degenerate"])
@pytest.mark.parametrize(("make", "shared", "engine"), CASES)
def test_engine_agrees_with_clarabel(make, shared, engine, kind) -> None:
    problem = make()
    data = draw(problem, kind, seed=3, shared=shared)
    solution = solve_problem(problem, data, engine=engine, tolerance=1e-8)
    assert solution.engine == engine
    assert solution.solved
    for place in range(BATCH):
        best = reference(problem, data, place)
        assert float(solution.objective[place]) == pytest.approx(best, rel=2e-6, abs=2e-6)
        for constraint in problem.constraints:
            dual = solution.duals[constraint.label][place].numpy()
            assert (dual >= 0).all() or constraint.label == "sent"
            if kind == "random":
                np.testing.assert_allclose(dual, constraint.dual_value, atol=2e-4)
        for variable in problem.variables():
            if kind == "random":
                np.testing.assert_allclose(solution.variables[variable.name()][place], variable.value, atol=2e-4)


@pytest.mark.parametrize(("make", "shared", "engine"), CASES)
def test_engine_itself_solves_and_the_reference_is_not_asked(make, shared, engine) -> None:
    problem = make()
    solution = solve_problem(problem, draw(problem, "random", seed=5, shared=shared), engine=engine)
    assert solution.solved
    assert not solution.again


@pytest.mark.parametrize(("make", "shared", "engine"), CASES)
def test_the_right_engine_is_found_without_being_named(make, shared, engine) -> None:
    problem = make()
    found = solve_problem(problem, draw(problem, "random", seed=1, shared=shared)).engine
    assert found == ("projected_gradient" if shared else "projected_newton")


def test_the_package_model_of_a_relu_block_needs_no_registration() -> None:
    block = FenchelActivation(width=6, next_width=4, activation="relu", next_activation="relu")
    rng = np.random.default_rng(0)
    data = {"u": rng.standard_normal((BATCH, 6)), "v": rng.random((BATCH, 4)), "W": rng.standard_normal((4, 6)),
            "b": rng.standard_normal(4)}  # fmt: skip
    solution = solve_problem(block.program(), data)
    assert solution.engine == "projected_gradient"
    for place in range(BATCH):
        assert float(solution.objective[place]) == pytest.approx(reference(block.program(), data, place), abs=2e-6)


def test_crossing_bounds_are_infeasible_with_a_ray_and_leave_their_neighbours_alone() -> None:
    problem = box_block()
    data = draw(problem, "random", seed=2, shared=("W",))
    alone = solve_problem(problem, data)
    data["low"][2, 3] = data["high"][2, 3] + 0.5
    solution = solve_problem(problem, data)
    assert [status is Status.INFEASIBLE for status in solution.status] == [False, False, True, False, False, False]
    ray = solution.rays[2]
    # Farkas: nonnegative multipliers whose combination of the constraints reads 0 <= upper - lower < 0.
    np.testing.assert_allclose(ray["above"] - ray["below"], np.zeros(7), atol=1e-12)
    assert float(ray["above"] @ torch.tensor(data["high"][2]) - ray["below"] @ torch.tensor(data["low"][2])) < 0
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(solution.variables["a"][others], alone.variables["a"][others], rtol=0, atol=1e-12)
    assert bool(solution.variables["a"][2].isnan().all())


def test_of_several_bounds_the_tightest_gets_the_dual() -> None:
    x, p = cp.Variable(2, name="x"), cp.Parameter(2, name="p")
    loose, tight, upper = x >= 0, 2 * x >= 2, x <= 5
    for constraint, label in ((loose, "loose"), (tight, "tight"), (upper, "upper")):
        constraint.set_label(label)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [loose, tight, upper])
    solution = solve_problem(problem, {"p": np.array([[-1.0, 9.0], [3.0, 0.5]])}, tolerance=1e-10)
    assert solution.engine == "projected_gradient"
    np.testing.assert_allclose(solution.variables["x"], [[1, 5], [3, 1]], atol=1e-9)
    np.testing.assert_allclose(solution.duals["loose"], np.zeros((2, 2)), atol=1e-9)
    np.testing.assert_allclose(solution.duals["tight"], [[2, 0], [0, 0.5]], atol=1e-8)
    np.testing.assert_allclose(solution.duals["upper"], [[0, 8], [0, 0]], atol=1e-8)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(lambda x, p: cp.sum_squares(x - p) + cp.sum(cp.pos(x)), id="hinges with kinks"),
        pytest.param(
            lambda x, p: cp.sum_squares(x - p) + cp.square(cp.pos(x[0] + x[1])) + cp.pos(x[2] - x[1]), id="mixed"
        ),
        pytest.param(lambda x, p: cp.sum_squares(x - p) + cp.norm(x, 1), id="absolute values"),
        pytest.param(lambda x, p: cp.sum_squares(x - p) + cp.square(cp.pos(cp.max(x))), id="maximum of several"),
    ],
)  # fmt: skip
def test_what_is_no_squared_hinge_is_left_to_other_engines(objective) -> None:
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    problem = cp.Problem(cp.Minimize(objective(x, p)))
    data = {"p": np.random.default_rng(0).standard_normal((4, 3))}
    with pytest.raises(UsageError, match="squared hinges alone"):
        solve_problem(problem, data, engine="projected_gradient")
    solution = solve_problem(problem, data)
    assert solution.solved
    for place in range(4):
        assert float(solution.objective[place]) == pytest.approx(reference(problem, data, place), abs=1e-5)


def test_a_shifted_hinge_and_a_hinge_with_a_cost_are_squared_hinges_all_the_same() -> None:
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    t = cp.Variable(name="t")
    # min over t of t^2 + 2 t  with  t >= sum(x) - 1:  a hinge with its vertex at t = -1.
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.square(t) + 2 * t), [t >= cp.sum(x) - 1])
    data = {"p": np.random.default_rng(0).standard_normal((4, 3)) * 3}
    solution = solve_problem(problem, data, engine="projected_gradient", tolerance=1e-9)
    for place in range(4):
        assert float(solution.objective[place]) == pytest.approx(reference(problem, data, place), abs=1e-7)
        assert float(solution.variables["t"][place]) == pytest.approx(float(t.value), abs=1e-4)


def test_a_warm_start_needs_fewer_iterations() -> None:
    for make, shared, engine in (case.values for case in CASES):
        problem = make()
        data = draw(problem, "random", seed=7, shared=shared)
        first = solve_problem(problem, data, engine=engine)
        again = solve_problem(problem, data, engine=engine, warm_start=first)
        assert int(again.iterations.sum()) < int(first.iterations.sum())
        for name, values in first.variables.items():
            torch.testing.assert_close(again.variables[name], values, rtol=0, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), m=st.integers(1, 6), scale=st.floats(1e-3, 1e3))
def test_any_relu_block_is_solved_to_its_optimality_conditions(seed: int, n: int, m: int, scale: float) -> None:
    problem = relu_block(n, m)
    data = draw(problem, "random", seed, ("W",))
    data["v"] = data["v"] * scale
    solution = solve_problem(problem, data, tolerance=1e-8)
    assert solution.solved
    x, W = solution.variables["x"], torch.tensor(data["W"])
    z = x @ W.T + 0.1
    gradient = x - torch.tensor(data["u"]) + (z.clamp(min=0) - torch.tensor(data["v"])) @ W
    natural = x - (x - gradient).clamp(min=0)
    assert float(natural.abs().max()) <= 1e-3 * max(1.0, scale)
    assert bool((x >= 0).all())
