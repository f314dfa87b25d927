"""The zoo: every model, by every engine that claims it, instance by instance against cvxpy with Clarabel.

Objective, violation and rays are evaluated by cvxpy on the models themselves, so that no error of the canonical form
can agree with itself. An answer that is called solved and is wrong fails here, whoever gave it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from zoo import BATCH, ZOO, Data, Model

from convexblocks.formulations import UsageError
from convexblocks.solvers import Solution, Status
from convexblocks.solvers.conic_engine import ConicEngine, Runner
from convexblocks.solvers.conic_engines import CONIC_ENGINES
from convexblocks.solvers.conic_program import INFEASIBLE, NOTHING, POINT, UNBOUNDED, Points
from convexblocks.solvers.problem_batch import check_batch
from convexblocks.solvers.problems import compile_problem, make_plan, solve_problem

TIGHT = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
BY_NAME = {model.name: model for model in ZOO}
EXTRAS = {"moreau", "osqp"}
ENDED = tuple(model for model in ZOO if model.infeasible or model.unbounded)


# ------------------------------------------------------------------------------------ the truth, by plain cvxpy


@dataclass(frozen=True)
class Truth:
    """How one instance ends, and what Clarabel finds for it."""

    status: Status
    objective: float = np.nan
    values: dict[str, np.ndarray] | None = None
    duals: dict[str, np.ndarray] | None = None


def dense(value: Any) -> np.ndarray:
    return np.asarray(value.toarray() if sp.issparse(value) else value, dtype=float)


def split(problem: cp.Problem, data: Data) -> list[Data]:
    """The parameters of every instance."""
    shapes = {parameter.name(): parameter.shape for parameter in problem.parameters()}
    batch = next((len(value) for name, value in data.items() if value.ndim > len(shapes[name])), 1)
    return [
        {name: value[place] if value.ndim > len(shapes[name]) else value for name, value in data.items()}
        for place in range(batch)
    ]


def give(problem: cp.Problem, data: Data) -> None:
    for parameter in problem.parameters():
        value = data[parameter.name()]
        parameter.value = sp.diags_array(np.diag(value)) if parameter.attributes["diag"] else value


def by_label(problem: cp.Problem) -> dict[str, Any]:
    return {c.label or f"constraint {place + 1}": c for place, c in enumerate(problem.constraints)}


def dual_parts(problem: cp.Problem) -> dict[str, np.ndarray]:
    found = {}
    for label, constraint in by_label(problem).items():
        parts = [dense(variable.value) for variable in constraint.dual_variables]
        names = [label] if len(parts) == 1 else [f"{label}[{place}]" for place in range(len(parts))]
        found |= dict(zip(names, parts, strict=True))
    return found


def solve_plainly(problem: cp.Problem) -> Truth:
    with warnings.catch_warnings():
        # Clarabel calls an answer inaccurate that meets 1e-8 and misses the 1e-10 that is asked of it.
        warnings.simplefilter("ignore")
        try:
            problem.solve(solver=cp.CLARABEL, warm_start=False, **TIGHT)
        except (cp.SolverError, KeyError):  # cvxpy does not know all of its statuses
            problem.solve(solver=cp.CLARABEL, warm_start=False)
    if problem.status in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        values = {variable.name(): dense(variable.value) for variable in problem.variables()}
        return Truth(Status.SOLVED, float(problem.value), values, dual_parts(problem))
    return Truth({cp.INFEASIBLE: Status.INFEASIBLE, cp.UNBOUNDED: Status.UNBOUNDED}[problem.status])


@cache
def truths(model: Model) -> tuple[Truth, ...]:
    problem, found = plain(model), []
    for data in split(problem, model.draw()):
        give(problem, data)
        found.append(solve_plainly(problem))
    return tuple(found)


@cache
def plain(model: Model) -> cp.Problem:
    """The model for cvxpy alone; `solve_problem` gets one of its own."""
    return model.write()


@cache
def written(model: Model) -> cp.Problem:
    return model.write()


# ------------------------------------------------------------------------------------ the zoo itself


def test_the_zoo_is_large_and_its_names_are_distinct() -> None:
    assert len(ZOO) >= 28
    assert len(BY_NAME) == len(ZOO)


@pytest.mark.parametrize("model", ZOO, ids=str)
def test_instances_end_as_the_zoo_says(model: Model) -> None:
    ends = [truth.status for truth in truths(model)]
    expected = [Status.SOLVED] * len(ends)
    for place in model.infeasible:
        expected[place] = Status.INFEASIBLE
    for place in model.unbounded:
        expected[place] = Status.UNBOUNDED
    assert ends == expected


@pytest.mark.parametrize("model", ZOO, ids=str)
def test_parameters_and_labels_are_complete(model: Model) -> None:
    problem, data = plain(model), model.draw()
    assert {parameter.name() for parameter in problem.parameters()} == set(data)
    assert all(constraint.label for constraint in problem.constraints)
    assert len(by_label(problem)) == len(problem.constraints)
    again = model.draw()
    assert all(np.array_equal(again[name], data[name]) for name in data)


# ------------------------------------------------------------------------------------ comparison


def compare(model: Model, solution: Solution, expected: tuple[Truth, ...], tolerance: float, *, must: bool) -> None:
    """Hold a solution against the truth; with `must` no instance may be called inaccurate."""
    assert len(solution.status) == len(expected)
    for place, (truth, data) in enumerate(zip(expected, split(plain(model), model.draw()), strict=True)):
        status = solution.status[place]
        honest = not must and status in (Status.INACCURATE, Status.FAILED)
        assert status is truth.status or honest, f"instance {place}: {status.name}, in truth {truth.status.name}"
        if status is not truth.status:
            continue
        give(plain(model), data)
        if status is Status.SOLVED:
            assert place not in solution.rays
            compare_point(model, solution, place, truth, tolerance)
        else:
            assert all(bool(value[place].isnan().all()) for value in solution.variables.values())
            check = check_infeasibility if status is Status.INFEASIBLE else check_unboundedness
            check(plain(model), {name: part.numpy() for name, part in solution.rays[place].items()})


def compare_point(model: Model, solution: Solution, place: int, truth: Truth, tolerance: float) -> None:
    problem = plain(model)
    residuals = (solution.residuals.primal, solution.residuals.dual, solution.residuals.gap)
    assert max(float(part[place]) for part in residuals) <= tolerance
    accuracy = max(model.accuracy * tolerance / 1e-6, 1e-7) * (1 + abs(truth.objective))
    assert solution.objective is not None
    assert float(solution.objective[place]) == pytest.approx(truth.objective, rel=0, abs=accuracy)
    objective, violation = evaluate(problem, {name: part[place].numpy() for name, part in solution.variables.items()})
    assert violation <= 10 * tolerance
    # Rounding may leave the domain of a logarithm, where the model's objective is infinite.
    assert objective == pytest.approx(truth.objective, rel=0, abs=accuracy) or not np.isfinite(objective)
    # A gap bounds the objective; points and duals are as good as its root.
    near = 30 * tolerance**0.5 * (model.accuracy / 1e-5)
    if model.unique_values:
        close(truth.values, solution.variables, place, near)
    if model.unique_duals:
        close(truth.duals, solution.duals, place, near)


def close(expected: dict[str, np.ndarray] | None, seen: dict[str, torch.Tensor], place: int, near: float) -> None:
    assert expected is not None
    assert set(seen) == set(expected)
    for name, value in expected.items():
        assert seen[name][place].shape == value.shape, name
        scale = 1 + np.max(np.abs(value), initial=0.0)
        np.testing.assert_allclose(seen[name][place].numpy(), value, rtol=0, atol=near * scale, err_msg=name)


def evaluate(problem: cp.Problem, values: dict[str, np.ndarray]) -> tuple[float, float]:
    """Objective and relative violation of a model at a point, its parameters being set."""
    size, moved = 1.0, 0.0
    for variable in problem.variables():
        value = values[variable.name()]
        variable.project_and_assign(value)
        size = max(size, np.max(np.abs(value), initial=0.0))
        moved = max(moved, np.max(np.abs(dense(variable.value) - value), initial=0.0))
    sides = [side.value for constraint in problem.constraints for side in constraint.args]
    size = max(size, *(np.max(np.abs(dense(side)), initial=0.0) for side in sides), 1.0)
    with np.errstate(all="ignore"):
        broken = [np.max(constraint.violation(), initial=0.0) for constraint in problem.constraints]
        objective = problem.objective.value
    worst = max([moved, *map(float, broken)]) / (1 + size)
    return (np.nan if objective is None else float(np.squeeze(dense(objective)))), worst


def check_infeasibility(problem: cp.Problem, ray: dict[str, np.ndarray]) -> None:
    """The constraints, weighed by the ray, cannot all hold: their sum stays above zero."""
    total: Any = 0.0
    for label, constraint in by_label(problem).items():
        weight = ray[label]
        if isinstance(constraint, cp.constraints.PSD):
            assert np.linalg.eigvalsh((weight + weight.T) / 2).min() >= -1e-6
            total -= cp.trace(weight @ constraint.args[0])
            continue
        excess = constraint.args[0] - constraint.args[1]
        if isinstance(constraint, cp.constraints.Inequality):
            assert weight.min() >= -1e-9
            weight = np.maximum(weight, 0)
        total += cp.sum(cp.multiply(weight, excess))
    within = [cp.norm_inf(cp.vec(variable, order="F")) <= 100 for variable in problem.variables()]
    within += problem.objective.args[0].domain
    least = cp.Problem(cp.Minimize(total), within)
    least.solve(solver=cp.CLARABEL)
    assert least.value > 1e-3


def check_unboundedness(problem: cp.Problem, ray: dict[str, np.ndarray]) -> None:
    """From a feasible point the objective gets better without end, and the constraints stay met."""
    cp.Problem(cp.Minimize(0), problem.constraints).solve(solver=cp.CLARABEL)
    start = {v.name(): np.zeros(v.shape) if v.value is None else dense(v.value) for v in problem.variables()}
    sign = 1 if isinstance(problem.objective, cp.Minimize) else -1
    reached = []
    for far in (0.0, 1e2, 1e4):
        objective, violation = evaluate(problem, {name: start[name] + far * ray[name] for name in start})
        assert violation <= 1e-6
        reached.append(sign * objective)
    assert reached[1] < reached[0] - 1
    assert reached[2] < reached[0] - 100


# ------------------------------------------------------------------------------------ every model by every engine


@cache
def solved(model: Model, engine: str) -> Solution | None:
    """The solution by an engine; None where it refuses the model, which has to say what it lacks."""
    try:
        return solve_problem(written(model), model.draw(), engine=engine)
    except UsageError as refusal:
        said = str(refusal)
    assert re.search(rf"the engine '{engine}' cannot solve this problem \(.+\): it needs .+", said)
    return None


@pytest.mark.parametrize("model", ZOO, ids=str)
def test_the_default_engine_solves_every_instance(model: Model) -> None:
    solution = solve_problem(written(model), model.draw())
    compiled = compile_problem(written(model))
    batch = check_batch(compiled.form, model.draw())
    program = make_plan(compiled, batch, "clarabel").program(batch, torch.arange(batch.size))
    able = (name for name, engine in CONIC_ENGINES.items() if solved(model, name) and engine.suits(program))
    assert solution.engine == next(able)
    compare(model, solution, truths(model), 1e-6, must=True)


@pytest.mark.parametrize("model", ZOO, ids=str)
@pytest.mark.parametrize("engine", CONIC_ENGINES)
def test_no_engine_is_wrong(model: Model, engine: str) -> None:
    solution = solved(model, engine)
    if solution is None:
        assert engine not in model.engines
        return
    assert solution.engine == engine
    compare(model, solution, truths(model), 1e-6, must=False)


@pytest.mark.parametrize("model", [model for model in ZOO if model.engines], ids=str)
def test_engines_claim_what_they_are_made_for(model: Model) -> None:
    assert [engine for engine in model.engines if solved(model, engine) is None] == []


def test_every_engine_claims_something() -> None:
    idle = [engine for engine in CONIC_ENGINES if not any(solved(model, engine) for model in ZOO)]
    # Extras that are not installed refuse everything.
    assert set(idle) <= EXTRAS


@pytest.mark.parametrize("engine", [name for name in CONIC_ENGINES if name not in {*EXTRAS, "scs"}])
def test_what_an_engine_claims_it_solves_without_the_reference(engine: str) -> None:
    asked = {}
    for model in ZOO:
        if (solution := solved(model, engine)) is not None:
            places = solution.again.get("clarabel", torch.zeros(0)).tolist()
            # That there is no solution is for the reference to show, where an engine finds no ray.
            asked[model.name] = [place for place in places if truths(model)[place].status is Status.SOLVED]
    assert {name: places for name, places in asked.items() if places} == {}


@pytest.mark.parametrize("model", ZOO, ids=str)
def test_a_tighter_tolerance_gives_closer_points(model: Model) -> None:
    compare(model, solve_problem(written(model), model.draw(), tolerance=1e-8), truths(model), 1e-8, must=True)


@pytest.mark.parametrize("engine", CONIC_ENGINES)
def test_a_start_from_other_instances_does_no_harm(engine: str) -> None:
    for model in ZOO:
        if (first := solved(model, engine)) is None or not first.state:
            continue
        past = solve_problem(written(model), model.draw(seed=1), engine=engine)
        warm = solve_problem(written(model), model.draw(), engine=engine, warm_start=past)
        compare(model, warm, truths(model), 1e-6, must=True)


@pytest.mark.parametrize("engine", CONIC_ENGINES)
@pytest.mark.parametrize("name", ["box_quadratic", "softmax_proximal_map", "own_hessian", "crossed_box"])
@pytest.mark.parametrize("spoilt", [1e6, 1e100, 0.0, float("nan"), float("inf")])
def test_a_spoilt_start_does_no_harm(engine: str, name: str, spoilt: float) -> None:
    model = BY_NAME[name]
    if (first := solved(model, engine)) is None or not first.state:
        return
    state = {name: torch.full_like(value, spoilt) for name, value in first.state.items()}
    warm = solve_problem(written(model), model.draw(), engine=engine, warm_start=replace(first, state=state))
    compare(model, warm, truths(model), 1e-6, must=True)


# ------------------------------------------------------------------------------------ shared or not, alone or together


@pytest.mark.parametrize("model", ZOO, ids=str)
def test_answers_do_not_depend_on_what_is_shared(model: Model) -> None:
    # The same instances with every parameter given for each of them.
    instances = split(plain(model), model.draw())
    data = {name: np.stack([instance[name] for instance in instances]) for name in instances[0]}
    compare(model, solve_problem(written(model), data), truths(model), 1e-6, must=True)


@pytest.mark.parametrize("model", ZOO, ids=str)
def test_an_instance_alone_needs_no_batch_axis(model: Model) -> None:
    for place in {0, len(truths(model)) - 1}:
        data = split(plain(model), model.draw())[place]
        solution = solve_problem(written(model), data)
        one = replace(model, drawn=lambda rng, data=data: data)
        compare(one, solution, truths(model)[place : place + 1], 1e-6, must=True)


@pytest.mark.parametrize("model", ENDED, ids=str)
def test_ended_instances_leave_their_neighbours_alone(model: Model) -> None:
    shapes = {parameter.name(): len(parameter.shape) for parameter in plain(model).parameters()}
    kept = [place for place in range(BATCH) if place not in (*model.infeasible, *model.unbounded)]
    data = {name: value[kept] if value.ndim > shapes[name] else value for name, value in model.draw().items()}
    alone, together = solve_problem(written(model), data), solve_problem(written(model), model.draw())
    assert alone.solved
    assert alone.rays == {}
    for name, value in alone.variables.items():
        torch.testing.assert_close(together.variables[name][kept], value, rtol=0, atol=3e-2)


# ------------------------------------------------------------------------------------ engines that lie

Spoil = Callable[[Points, torch.Tensor], Points]


def noise(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype)


def called(points: Points, claim: int, **changes: torch.Tensor) -> Points:
    return replace(points, claim=torch.full_like(points.claim, claim), state={}, **changes)


LIES: dict[str, Spoil] = {
    "a point beside": lambda points, _: called(points, POINT, x=points.x + 0.1 * noise(points.x)),
    "duals beside": lambda points, _: called(points, POINT, y=1.5 * points.y + 0.1),
    "duals of the wrong sign": lambda points, _: called(points, POINT, y=-points.y - 0.1),
    "zeros": lambda points, _: called(points, POINT, x=0 * points.x, y=0 * points.y),
    "garbage": lambda points, _: called(points, POINT, x=1e6 * noise(points.x), y=1e6 * noise(points.y)),
    "no numbers": lambda points, _: called(points, POINT, x=points.x * torch.nan, y=points.y * torch.nan),
    "infinite": lambda points, _: called(points, POINT, x=points.x * torch.inf, y=points.y * torch.inf),
    "nothing": lambda points, _: called(points, NOTHING),
    "a false ray of constraints": lambda points, _: called(points, INFEASIBLE, y=noise(points.y)),
    "duals for a ray": lambda points, _: called(points, INFEASIBLE),
    "a ray of zeros": lambda points, _: called(points, INFEASIBLE, y=0 * points.y),
    "a ray without numbers": lambda points, _: called(points, INFEASIBLE, y=points.y * torch.nan),
    "a false direction": lambda points, _: called(points, UNBOUNDED, x=noise(points.x)),
    "a point for a direction": lambda points, _: called(points, UNBOUNDED),
    "a direction of zeros": lambda points, _: called(points, UNBOUNDED, x=0 * points.x),
    "a neighbour's answer": lambda points, _: called(points, POINT, x=points.x.roll(1, 0), y=points.y.roll(1, 0)),
}
DECEIVED = (
    "linear_program", "box_quadratic", "equalities_and_inequalities", "ball_projection", "nearest_semidefinite",
    "entropy_projection", "power_cones", "crossed_box", "open_cone", "either_end",
)  # fmt: skip


def liar(honest: ConicEngine, spoil: Spoil, name: str = "liar") -> ConicEngine:
    def prepare(program: Any) -> Runner | str:
        runner = honest.prepare(program)
        if isinstance(runner, str):
            return runner

        def lie(some: Any, start: Any, tolerance: float) -> Points:
            return spoil(runner(some, start, tolerance), some.q)

        return lie

    return replace(honest, name=name, prepare=prepare)


@pytest.mark.parametrize("name", DECEIVED)
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_and_the_reference_asked(name: str, lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BY_NAME[name]
    monkeypatch.setitem(CONIC_ENGINES, "liar", liar(CONIC_ENGINES["clarabel"], LIES[lie]))
    solution = solve_problem(model.write(), model.draw(), engine="liar")
    compare(model, solution, truths(model), 1e-6, must=True)
    assert solution.engine == "liar"
    found = solution.again["clarabel"].tolist()
    # A lie may happen to be the truth: the duals of an instance that is infeasible are its ray.
    harmless = [place for place in range(BATCH) if place not in found]
    assert all(truths(model)[place].status is not Status.SOLVED for place in harmless)


@pytest.mark.parametrize("name", DECEIVED)
@pytest.mark.parametrize("lie", LIES)
def test_no_lie_is_told_when_the_reference_lies_as_well(name: str, lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BY_NAME[name]
    monkeypatch.setitem(CONIC_ENGINES, "clarabel", liar(CONIC_ENGINES["clarabel"], LIES[lie], "clarabel"))
    solution = solve_problem(model.write(), model.draw(), engine="clarabel")
    for truth, status in zip(truths(model), solution.status, strict=True):
        assert status is not Status.SOLVED
        assert status in (truth.status, Status.INACCURATE, Status.FAILED)


def test_a_single_wrong_row_is_solved_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_row(points: Points, _: torch.Tensor) -> Points:
        x = points.x.clone()
        x[3] += 0.01
        return called(points, POINT, x=x)

    model = BY_NAME["equalities_and_inequalities"]
    monkeypatch.setitem(CONIC_ENGINES, "liar", liar(CONIC_ENGINES["clarabel"], one_row))
    solution = solve_problem(model.write(), model.draw(), engine="liar")
    assert {kind: places.tolist() for kind, places in solution.again.items()} == {"clarabel": [3]}
    compare(model, solution, truths(model), 1e-6, must=True)


def test_a_factorization_that_fails_costs_nothing_but_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(points: Points, _: torch.Tensor) -> Points:
        raise torch.linalg.LinAlgError("singular")

    model = BY_NAME["portfolio"]
    monkeypatch.setitem(CONIC_ENGINES, "liar", liar(CONIC_ENGINES["clarabel"], fail))
    solution = solve_problem(model.write(), model.draw(), engine="liar")
    assert solution.again["clarabel"].tolist() == list(range(BATCH))
    compare(model, solution, truths(model), 1e-6, must=True)
