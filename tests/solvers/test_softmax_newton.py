"""The engine log_sum_exp: programs x kinds of data against Clarabel, closed forms, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from instances import activation_block, activation_data, output_block, output_data, weight_block, weight_data
from scipy.special import log_softmax, logsumexp, softmax
from torch import Tensor

from convexblocks.solvers import softmax_newton
from convexblocks.solvers.canonical import Canonical, canonicalize
from convexblocks.solvers.cone_points import into_cone, into_dual_cone
from convexblocks.solvers.conic_program import NOTHING, POINT, ConicProgram, Points
from convexblocks.solvers.conic_residuals import conic_residuals
from convexblocks.solvers.log_sum_exp import LogSumExp, Shared, find_log_sum_exp, share
from convexblocks.solvers.parametrized import Sharing
from convexblocks.solvers.softmax_newton import ENGINE

BATCH = 4
Data = dict[str, np.ndarray]
# Curvature of the quadratic and size of the logits.
KINDS = {
    "random": (1.0, 2.0),
    "loose": (1e-4, 2.0),
    "tight": (1e4, 2.0),
    "large logits": (1.0, 50.0),
    "extreme logits": (0.1, 500.0),
    "loose and extreme": (1e-4, 500.0),
}


@dataclass(frozen=True)
class Case:
    """A program with data; those named in `shared` have no batch axis."""

    problem: cp.Problem
    data: Data
    shared: tuple[str, ...] = ()


def one_hot(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]


def prox(rho: float, size: float, rng: np.random.Generator, outputs: int = 5) -> Case:
    z = cp.Variable(outputs, name="z")
    w, y = cp.Parameter(outputs, name="w"), cp.Parameter(outputs, name="y")
    cost = cp.log_sum_exp(z) - y @ z + rho / 2 * cp.sum_squares(z - w)
    return Case(
        cp.Problem(cp.Minimize(cost)),
        {"w": size * rng.standard_normal((BATCH, outputs)), "y": one_hot(rng, BATCH, outputs)},
    )


def single(rho: float, size: float, rng: np.random.Generator) -> Case:
    return prox(rho, size, rng, outputs=1)


def tied(rho: float, size: float, rng: np.random.Generator) -> Case:
    case = prox(rho, size, rng)
    return replace(case, data={"w": np.full((BATCH, 5), size), "y": np.full((BATCH, 5), 0.2)})


def centred(rho: float, size: float, rng: np.random.Generator) -> Case:
    case = prox(rho, size, rng)
    (z,) = case.problem.variables()
    return replace(case, problem=cp.Problem(case.problem.objective, [(cp.sum(z) == 0).set_label("centred")]))


def logistic_prox(rho: float, size: float, rng: np.random.Generator) -> Case:
    z, w, y = cp.Variable(4, name="z"), cp.Parameter(4, name="w"), cp.Parameter(4, name="y")
    cost = cp.sum(cp.logistic(z)) - y @ z + rho / 2 * cp.sum_squares(z - w)
    data = {"w": size * rng.standard_normal((BATCH, 4)), "y": rng.integers(0, 2, (BATCH, 4)).astype(float)}
    return Case(cp.Problem(cp.Minimize(cost)), data)


def weighted_rows(rho: float, size: float, rng: np.random.Generator) -> Case:
    Z, W, Y = (kind((3, 4), name=name) for kind, name in ((cp.Variable, "Z"), (cp.Parameter, "W"), (cp.Parameter, "Y")))
    weights = cp.Parameter(3, nonneg=True, name="weights")
    cost = weights @ cp.log_sum_exp(Z, axis=1) - cp.sum(cp.multiply(Y, Z)) + rho / 2 * cp.sum_squares(Z - W)
    factors = rng.uniform(0.1, 10, (BATCH, 3))
    factors[0, 0] = 0
    Y_values = factors[..., None] * one_hot(rng, BATCH, 3, 4)
    data = {"W": size * rng.standard_normal((BATCH, 3, 4)), "Y": Y_values, "weights": factors}
    return Case(cp.Problem(cp.Minimize(cost)), data)


def overlapping(rho: float, size: float, rng: np.random.Generator) -> Case:
    """Terms of several widths that share variables, and a coupled quadratic."""
    z, w, shift = cp.Variable(5, name="z"), cp.Parameter(5, name="w"), cp.Parameter(3, name="shift")
    mix = np.eye(5) + 0.3 * rng.standard_normal((5, 5))
    terms = cp.log_sum_exp(z[:2]) + 3 * cp.log_sum_exp(2 * z[1:4] - shift) + cp.logistic(z[0] - z[4])
    cost = terms - z[1] + rho / 2 * cp.sum_squares(mix @ z - w)
    data = {"w": size * rng.standard_normal((BATCH, 5)), "shift": size * rng.standard_normal((BATCH, 3))}
    return Case(cp.Problem(cp.Minimize(cost)), data)


def regression(rho: float, size: float, rng: np.random.Generator) -> Case:
    w, z = cp.Variable(3, name="w"), cp.Variable(8, name="z")
    X, y = cp.Parameter((8, 3), name="X"), cp.Parameter(8, name="y")
    cost = cp.sum(cp.logistic(z)) - y @ z + rho / 2 * cp.sum_squares(w)
    features = size * rng.standard_normal((8, 3))
    data = {"X": features, "y": rng.integers(0, 2, (BATCH, 8)).astype(float)}
    return Case(cp.Problem(cp.Minimize(cost), [(z == X @ w).set_label("scores")]), data, ("X",))


PROGRAMS: dict[str, Callable[[float, float, np.random.Generator], Case]] = {
    maker.__name__: maker
    for maker in (prox, single, tied, centred, logistic_prox, weighted_rows, overlapping, regression)
}


def block_cases() -> dict[str, tuple[Any, Callable[..., Data]]]:
    return {
        "output softmax": (output_block("softmax_cross_entropy"), output_data),
        "output logistic": (output_block("logistic"), output_data),
        "activation softmax": (activation_block("identity", "softmax_cross_entropy"), activation_data),
        "activation logistic": (activation_block("identity", "logistic"), activation_data),
        "weight softmax": (weight_block("softmax_cross_entropy"), weight_data),
        "weight logistic": (weight_block("logistic"), weight_data),
    }


@cache
def form_of(problem: cp.Problem) -> Canonical:
    return canonicalize(problem)


def program_of(case: Case) -> ConicProgram:
    form = form_of(case.problem)
    own = tuple(name for name in case.data if name not in case.shared)
    tensors = {name: torch.as_tensor(values) for name, values in case.data.items()}
    sharing = Sharing(form, own)
    constants = sharing.constants({name: tensors[name] for name in case.shared})
    batch = len(tensors[own[0]]) if own else BATCH
    return sharing.program(constants, {name: tensors[name] for name in own}, batch)


def run(program: ConicProgram, start: dict[str, Tensor] | None = None, tolerance: float = 1e-8) -> Points:
    runner = ENGINE.prepare(program)
    assert not isinstance(runner, str), runner
    return runner(program, start or {}, tolerance)


def check_optimal(program: ConicProgram, points: Points, tolerance: float = 1e-8) -> None:
    """A point in the cone, a dual in the dual cone, and residuals that prove the point optimal."""
    assert bool((points.claim == POINT).all())
    slack = program.b - program.A.times(points.x)
    scale = 1 + slack.abs().amax(1, keepdim=True)
    assert float(((slack - into_cone(slack, program.cones)).abs() / scale).max()) <= 1e-12
    assert float((points.y - into_dual_cone(points.y, program.cones)).abs().max() / (1 + points.y.abs().max())) <= 1e-12
    assert max(conic_residuals(program, points.x, points.y).worst().values()) <= tolerance


def recovered(case: Case, points: Points) -> tuple[Data, Data]:
    """Variables and duals by name."""
    form = form_of(case.problem)

    def values(answers: Tensor, recoveries: Any) -> Data:
        return {
            name: (part.coefficients * answers.numpy()[:, part.places]).reshape(-1, *part.shape)
            for name, part in recoveries.items()
        }

    return values(points.x, form.values), values(points.y, form.duals)


def check_against_clarabel(case: Case, points: Points) -> None:
    """Objective, variables and duals at Clarabel's accuracy on exponential cones."""
    variables, duals = recovered(case, points)
    problem = case.problem
    for place in range(len(points.x)):
        for parameter in problem.parameters():
            values = case.data[parameter.name()]
            parameter.value = values if parameter.name() in case.shared else values[place]
        for variable in problem.variables():
            variable.value = variables[variable.name()][place]
        ours = problem.objective.value
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        assert ours == pytest.approx(problem.value, rel=1e-5, abs=1e-5)
        for variable in problem.variables():
            np.testing.assert_allclose(variables[variable.name()][place], variable.value, rtol=1e-4, atol=1e-4)
        for constraint in problem.constraints:
            if constraint.label in duals:
                np.testing.assert_allclose(duals[constraint.label][place], constraint.dual_value, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------- right answers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_optimal_by_its_own_certificate(name: str, kind: str) -> None:
    program = program_of(PROGRAMS[name](*KINDS[kind], np.random.default_rng(3)))
    points = run(program)
    check_optimal(program, points)
    assert int(points.iterations.max()) < 30


@pytest.mark.parametrize("kind", ["random", "tight", "large logits"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_agrees_with_clarabel(name: str, kind: str) -> None:
    case = PROGRAMS[name](*KINDS[kind], np.random.default_rng(4))
    check_against_clarabel(case, run(program_of(case)))


@pytest.mark.parametrize("kind", ["random", "ill-scaled", "degenerate"])
@pytest.mark.parametrize("name", block_cases())
def test_blocks_of_the_package(name: str, kind: str) -> None:
    block, data_of = block_cases()[name]
    data = data_of(block, kind, batch=BATCH)
    case = Case(block.program(), data, tuple(key for key in data if block.is_shared(key)))
    program = program_of(case)
    points = run(program)
    check_optimal(program, points)
    check_against_clarabel(case, points)


@cache
def separate() -> tuple[cp.Problem, Canonical]:
    """The proximal map with its curvature as a parameter: one canonical form for all of them."""
    z, pull, rho = cp.Variable(6, name="z"), cp.Parameter(6, name="pull"), cp.Parameter(nonneg=True, name="rho")
    problem = cp.Problem(cp.Minimize(cp.log_sum_exp(z) + rho / 2 * cp.sum_squares(z) - pull @ z))
    return problem, canonicalize(problem)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-4, 4),
    st.lists(st.lists(st.floats(-500, 500), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(0, 5),
)
def test_gradient_of_the_closed_form_is_zero(exponent: float, logits: list[list[float]], target: int) -> None:
    rho, w, y = 10.0**exponent, np.array(logits), np.eye(6)[target]
    case = Case(separate()[0], {"rho": np.array(rho), "pull": y + rho * w}, ("rho",))
    points = run(program_of(case), tolerance=1e-9)
    z = recovered(case, points)[0]["z"]
    gradient = softmax(z, axis=1) - y + rho * (z - w)
    # z is rounded relative to its size, and so is rho z.
    assert np.abs(gradient).max() <= 1e-9 * (1 + 1e-3 * rho * np.abs(w).max())


@pytest.mark.parametrize("kind", [0.1, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_steps_that_count_as_safe_pass_the_search(name: str, kind: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every step searched for, the same steps are taken: the search accepts each that was thought safe."""
    program = program_of(PROGRAMS[name](1.0, kind, np.random.default_rng(5)))
    searched: list[int] = []
    search = softmax_newton._search
    monkeypatch.setattr(softmax_newton, "_search", lambda line: searched.append(len(line.slope)) or search(line))
    trusting, few = run(program), sum(searched)
    searched.clear()
    monkeypatch.setattr(softmax_newton, "SURE", -1.0)
    wary = run(program)
    assert torch.equal(trusting.iterations, wary.iterations)
    torch.testing.assert_close(trusting.x, wary.x, rtol=1e-12, atol=1e-12 * (1 + float(wary.x.abs().max())))
    assert few < sum(searched)


def test_targets_that_are_met_move_nothing() -> None:
    """With y = sigmoid(w) the gradient is zero at z = w."""
    half = np.full((1, 4), 0.5)
    case = replace(logistic_prox(1.0, 1.0, np.random.default_rng(0)), data={"w": half, "y": 1 / (1 + np.exp(-half))})
    points = run(program_of(case))
    np.testing.assert_allclose(recovered(case, points)[0]["z"], half, atol=1e-10)


def test_the_dual_of_every_cone_is_the_one_of_the_softmax() -> None:
    case = prox(1.0, 2.0, np.random.default_rng(0))
    program = program_of(case)
    points = run(program, tolerance=1e-10)
    z = recovered(case, points)[0]["z"]
    p, logs = softmax(z, axis=1), log_softmax(z, axis=1)
    rows = points.y[:, program.cones.zero :].numpy()
    np.testing.assert_allclose(rows[:, 0], 1)
    expected = np.stack([-p, p * (logs - 1), np.ones_like(p)], -1)
    np.testing.assert_allclose(rows[:, 1:].reshape(expected.shape), expected, atol=1e-9)
    at_cones = (program.b - program.A.times(points.x))[:, program.cones.zero + 1 :].numpy().reshape(expected.shape)
    inside = np.stack([z - logsumexp(z, axis=1)[:, None], np.ones_like(p), p], -1)
    np.testing.assert_allclose(at_cones, inside, atol=1e-9)


def test_a_program_without_unknowns_in_its_terms() -> None:
    """The argument is a parameter: nothing to solve, and still a point with its dual."""
    x, w = cp.Variable(2, name="x"), cp.Parameter(3, name="w")
    problem = cp.Problem(cp.Minimize(cp.log_sum_exp(w) + cp.sum_squares(x - 1)))
    w_values = 100 * np.random.default_rng(0).standard_normal((BATCH, 3))
    case = Case(problem, {"w": w_values})
    program = program_of(case)
    points = run(program)
    check_optimal(program, points)
    np.testing.assert_allclose(recovered(case, points)[0]["x"], 1)


# ------------------------------------------------------------------------------------------------- how it works


@pytest.mark.parametrize(("name", "diagonal"), [
    ("prox", True), ("weighted_rows", True), ("logistic_prox", True), ("centred", False), ("overlapping", False),
])  # fmt: skip
def test_which_programs_get_sherman_morrison(name: str, diagonal: bool) -> None:
    structure = find_log_sum_exp(program_of(PROGRAMS[name](1.0, 2.0, np.random.default_rng(0))))
    assert isinstance(structure, LogSumExp)
    assert (share(structure).spread.ndim == 1) == diagonal


@pytest.mark.parametrize("name", ["prox", "weighted_rows", "logistic_prox"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_to_solve_newtons_equations_agree(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(PROGRAMS[name](*KINDS[kind], np.random.default_rng(5)))
    fast = run(program)
    monkeypatch.setattr(softmax_newton, "share", lambda structure: densely(share(structure)))
    slow = run(program)
    torch.testing.assert_close(fast.x, slow.x, rtol=1e-7, atol=1e-7)


def densely(shared: Shared) -> Shared:
    return replace(shared, spread=torch.diag(shared.spread))


def test_only_what_the_arguments_see_is_solved_for() -> None:
    """Many unknowns, two of three arguments alike: two coordinates."""
    x, w = cp.Variable(30, name="x"), cp.Parameter(30, name="w")
    rows = np.random.default_rng(0).standard_normal((3, 30))
    rows[2] = rows[1]
    problem = cp.Problem(cp.Minimize(cp.log_sum_exp(rows @ x) + cp.sum_squares(x - w)))
    program = program_of(Case(problem, {"w": np.random.default_rng(1).standard_normal((BATCH, 30))}))
    structure = find_log_sum_exp(program)
    assert isinstance(structure, LogSumExp)
    assert share(structure).spread.shape == (3, 2)
    check_optimal(program, run(program))


def test_a_split_batch_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(PROGRAMS["regression"](1.0, 2.0, np.random.default_rng(0)))
    whole = run(program)
    monkeypatch.setattr(softmax_newton, "DENSE_ENTRIES", 1)
    torch.testing.assert_close(run(program).x, whole.x, rtol=1e-12, atol=1e-12)


def test_few_iterations_for_an_ordinary_proximal_map() -> None:
    points = run(program_of(prox(1.0, 2.0, np.random.default_rng(0), outputs=10)))
    assert 1 <= int(points.iterations.min()) <= int(points.iterations.max()) <= 5


@pytest.mark.parametrize("name", ["prox", "weighted_rows", "overlapping", "regression"])
def test_the_tolerance_decides_how_long_it_runs(name: str) -> None:
    program = program_of(PROGRAMS[name](0.1, 5.0, np.random.default_rng(0)))
    loose, fine = run(program, tolerance=1e-2), run(program, tolerance=1e-10)
    assert int(loose.iterations.sum()) < int(fine.iterations.sum())
    check_optimal(program, loose, 1e-2)
    check_optimal(program, fine, 1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_separable_data_without_much_decay(seed: int) -> None:
    """Saturated from the minimizer of the quadratic: Newton's steps from there reach nowhere."""
    program = program_of(regression(1e-4, 500.0, np.random.default_rng(seed)))
    points = run(program)
    check_optimal(program, points)
    assert int(points.iterations.max()) <= 30


# --------------------------------------------------------------------------------------------------- warm starts


@pytest.mark.parametrize("name", ["prox", "weighted_rows", "overlapping", "regression"])
def test_a_warm_start_takes_fewer_iterations(name: str) -> None:
    case = PROGRAMS[name](0.1, 5.0, np.random.default_rng(0))
    cold = run(program_of(case))
    again = run(program_of(case), dict(cold.state))
    assert int(again.iterations.max()) <= 1
    rng = np.random.default_rng(1)
    moved = {key: values if key in case.shared else values + 1e-3 * rng.uniform(size=values.shape)
             for key, values in case.data.items()}  # fmt: skip
    program = program_of(replace(case, data=moved))
    warm, cold = run(program, dict(cold.state)), run(program)
    check_optimal(program, warm)
    assert int(warm.iterations.sum()) < int(cold.iterations.sum())
    torch.testing.assert_close(warm.x, cold.x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("state", ["nan", "shape", "wrong"])
def test_a_bad_start_costs_no_accuracy(state: str) -> None:
    program = program_of(prox(0.1, 5.0, np.random.default_rng(0)))
    good = run(program).state["probabilities"]
    start = {"nan": good * torch.nan, "shape": good[:, :2], "wrong": good.flip(1)}[state]
    check_optimal(program, run(program, {"probabilities": start}))


@pytest.mark.parametrize("name", ["prox", "overlapping"])
def test_an_instance_without_numbers_leaves_the_others_alone(name: str) -> None:
    case = PROGRAMS[name](0.1, 5.0, np.random.default_rng(0))
    whole = run(program_of(case))
    case.data["w"][1] = np.nan
    points = run(program_of(case))
    rest = torch.tensor([0, 2, 3])
    torch.testing.assert_close(points.x[rest], whole.x[rest])
    assert int(points.iterations[1]) <= 1
    assert points.claim.tolist() == [POINT, NOTHING, POINT, POINT]


# ----------------------------------------------------------------------------------------------------- refusals


def refused_programs() -> dict[str, tuple[cp.Problem, tuple[str, ...], str]]:
    z, w, own = cp.Variable(3, name="z"), cp.Parameter(3, name="w"), cp.Parameter((3, 3), name="own")
    near = cp.sum_squares(z - w)
    cost = cp.Minimize(cp.log_sum_exp(z) + near)
    return {
        "no exponential cone": (cp.Problem(cp.Minimize(near), [z >= 0]), (), "log_sum_exp or logistic terms"),
        "another cone": (cp.Problem(cost, [cp.norm(z) <= 1]), (), "no other cones"),
        "bounds": (cp.Problem(cost, [z >= 0]), (), "no inequalities but those of log_sum_exp"),
        "an inequality": (cp.Problem(cost, [cp.sum(z) <= 1]), (), r"\(there are 1, bounds included\)"),
        "a parameter": (cp.Problem(cost, [w[0] <= 9]), (), "no inequalities but those of log_sum_exp"),
        "other atoms": (cp.Problem(cp.Minimize(cp.sum(cp.exp(z)) + near)), (), "not of exp, log, entropy"),
        "other atoms too": (cp.Problem(cp.Minimize(cost.expr - cp.sum(cp.entr(z)))), (), "not of exp, log, entropy"),
        "a constraint on it": (cp.Problem(cp.Minimize(near), [cp.log_sum_exp(z) <= 1]), (), "no inequalities but"),
        "squared": (cp.Problem(cp.Minimize(cp.square(cp.logistic(z[0])) + near)), (), "objective alone, as summands"),
        "no curvature": (cp.Problem(cp.Minimize(cp.log_sum_exp(z) - w @ z)), (), "positive definite"),
        "partial curvature": (cp.Problem(cp.Minimize(cp.log_sum_exp(z) + cp.sum_squares(z[:2] - w[:2]))), (),
                              r"positive definite .* run from 0.0e\+00 to 2.0e\+00"),
        "own arguments": (cp.Problem(cp.Minimize(cp.log_sum_exp(own @ z) + cp.sum_squares(z))), (), "one P and one A"),
    }  # fmt: skip


@pytest.mark.parametrize("name", refused_programs())
def test_refusals_say_what_is_missing(name: str) -> None:
    problem, shared, words = refused_programs()[name]
    rng = np.random.default_rng(0)
    data = {parameter.name(): rng.standard_normal((BATCH, *parameter.shape)) for parameter in problem.parameters()}
    missing = ENGINE.prepare(program_of(Case(problem, data, shared)))
    assert isinstance(missing, str)
    assert re.search(words, missing)


def test_own_curvature_is_refused() -> None:
    problem, _ = separate()
    data = {"rho": np.linspace(1, 2, BATCH), "pull": np.zeros((BATCH, 6))}
    missing = ENGINE.prepare(program_of(Case(problem, data)))
    assert isinstance(missing, str)
    assert "one P and one A for the whole batch" in missing


def test_too_large_a_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convexblocks.solvers.elimination.MOST_ENTRIES", 10)
    missing = ENGINE.prepare(program_of(prox(1.0, 1.0, np.random.default_rng(0))))
    assert isinstance(missing, str)
    assert "at most 10 entries" in missing


def negative_weight(program: ConicProgram, row: int) -> ConicProgram:
    structure = find_log_sum_exp(program)
    assert isinstance(structure, LogSumExp)
    q = program.q.expand(program.batch, -1).clone()
    q[row, structure.reduction.columns[structure.tops]] = -1
    return replace(program, q=q)


@pytest.mark.parametrize("name", ["prox", "overlapping"])
def test_negative_weights_are_refused_and_never_claimed(name: str) -> None:
    program = program_of(PROGRAMS[name](1.0, 1.0, np.random.default_rng(0)))
    other = negative_weight(program, 2)
    missing = ENGINE.prepare(other)
    assert isinstance(missing, str)
    assert "of at least zero (here one is -1)" in missing
    runner = ENGINE.prepare(program)
    assert not isinstance(runner, str)
    points = runner(other, {}, 1e-8)
    assert points.claim.tolist() == [POINT, POINT, NOTHING, POINT]
    rest = torch.tensor([0, 1, 3])
    assert max(conic_residuals(other.take(rest), points.x[rest], points.y[rest]).worst().values()) <= 1e-8


def written_out() -> cp.Problem:
    """Log-sum-exp written with its cones; `scale` 1 makes it one."""
    z, t, u = cp.Variable(3, name="z"), cp.Variable(name="t"), cp.Variable(3, name="u")
    w, scale = cp.Parameter(3, name="w"), cp.Parameter(name="scale")
    cone = cp.ExpCone(z - t, scale * np.ones(3), u)
    return cp.Problem(cp.Minimize(t + cp.sum_squares(z - w)), [cone, cp.sum(u) <= 1])


def test_other_constants_in_the_cones_are_never_claimed() -> None:
    problem, w = written_out(), np.random.default_rng(0).standard_normal((BATCH, 3))
    good = program_of(Case(problem, {"w": w, "scale": np.ones(BATCH)}))
    other = program_of(Case(problem, {"w": w, "scale": np.array([1.0, 2.0, 1.0, 0.5])}))
    check_optimal(good, run(good))
    missing = ENGINE.prepare(other)
    assert isinstance(missing, str)
    assert "the constants of some cones are others" in missing
    runner = ENGINE.prepare(good)
    assert not isinstance(runner, str)
    assert runner(other, {}, 1e-8).claim.tolist() == [POINT, NOTHING, POINT, NOTHING]
