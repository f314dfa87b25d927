"""solve() and agree(): what they refuse, what they say of an answer, and that they measure it themselves."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from instances import activation_block, activation_data, data_of, output_block, set_parameters, weight_block

from convexblocks.formulations import (
    FenchelActivation,
    FenchelOutput,
    FenchelWeight,
    Residuals,
    Subproblem,
    Symbol,
    UsageError,
)
from convexblocks.solvers import ENGINES, Solution, SolveError, Status, agree, solve
from convexblocks.solvers import batch as batch_module
from convexblocks.solvers.agreement import evaluate
from convexblocks.solvers.solution import judge

BLOCK = FenchelActivation(width=3, next_width=2)
DATA = {name: value.copy() for name, value in activation_data(BLOCK, "random", batch=4).items()}


class Projection(Subproblem):
    """Nearest point of the nonnegative orthant."""

    name = "my.projection"
    symbols = (Symbol("x", "the projection", "per instance"), Symbol("y", "the point", "per instance"))

    def write(self) -> cp.Problem:
        x, y = cp.Variable(3, name="x"), cp.Parameter(3, name="y")
        nonnegative, capped, tied = x >= 0, x[2] <= 2, x[0] + x[1] == 1
        for constraint, label in ((nonnegative, "nonnegative"), (capped, "cap"), (tied, "tie")):
            constraint.set_label(label)
        return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - y)), [nonnegative, capped, tied])


class Window(Subproblem):
    """Least number between two ends: infeasible where they are crossed."""

    name = "my.window"
    symbols = tuple(Symbol(name, name, "per instance") for name in ("x", "low", "high"))

    def write(self) -> cp.Problem:
        x = cp.Variable(1, name="x")
        low, high = cp.Parameter(1, name="low"), cp.Parameter(1, name="high")
        return cp.Problem(cp.Minimize(cp.sum(x)), [x >= low, x <= high])


class Slide(Subproblem):
    """Linear objective over a half line: unbounded for a negative slope."""

    name = "my.slide"
    symbols = tuple(Symbol(name, name, "per instance") for name in ("x", "slope"))

    def write(self) -> cp.Problem:
        x, slope = cp.Variable(1, name="x"), cp.Parameter(1, name="slope")
        return cp.Problem(cp.Minimize(cp.sum(cp.multiply(slope, x))), [x >= 1])


# ------------------------------------------------------------------------------------ data


def changed(**values: Any) -> dict[str, Any]:
    return {**DATA, **values}


def spoiled(name: str, bad: float) -> dict[str, Any]:
    array = DATA[name].copy()
    array.flat[-1] = bad
    return changed(**{name: array})


REFUSED_DATA = [
    ({name: DATA[name] for name in "vWb"}, "missing 'u'; expected the data 'u', 'v', 'W', 'b'"),
    ({name: DATA[name] for name in "vW"}, "missing 'u', missing 'b'"),
    ({}, "missing 'u', missing 'v', missing 'W', missing 'b'"),
    (changed(y=np.ones(3)), "unexpected 'y'"),
    ({**{name: DATA[name] for name in "uvW"}, "B": DATA["b"]}, "unexpected 'B', missing 'b'"),
    (changed(u=np.ones((4, 5))), "'u' has shape (4, 5); expected ('batch', 3)"),
    (changed(u=np.ones(3)), "'u' has shape (3,); expected ('batch', 3)"),
    (changed(u=np.ones((4, 3, 1))), "'u' has shape (4, 3, 1); expected ('batch', 3)"),
    (changed(u=1.0), "'u' has shape (); expected ('batch', 3)"),
    (changed(u=np.ones((0, 3)), v=np.ones((0, 2))), "'u' has shape (0, 3); expected ('batch', 3), one row or more"),
    (changed(W=np.ones((3, 2))), "'W' has shape (3, 2); expected (2, 3)"),
    (changed(W=np.ones((4, 2, 3))), "'W' has shape (4, 2, 3); expected (2, 3)"),
    (changed(v=np.ones((3, 2))), "'v' has 3 instances"),
    (spoiled("u", np.nan), "'u' holds NaN or infinite values"),
    (spoiled("v", np.inf), "'v' holds NaN or infinite values"),
    (spoiled("W", -np.inf), "'W' holds NaN or infinite values"),
    (spoiled("b", np.nan), "'b' holds NaN or infinite values"),
]


@pytest.mark.parametrize(("data", "expected"), REFUSED_DATA, ids=[message[:30] for _, message in REFUSED_DATA])
@pytest.mark.parametrize("engine", [None, "clarabel"])
def test_unfit_data_are_refused(data: Any, expected: str, engine: str | None) -> None:
    with pytest.raises(UsageError, match=re.escape(expected)) as seen:
        solve(BLOCK, data, engine=engine)
    assert "fenchel.activation" in str(seen.value)
    with pytest.raises(UsageError, match=re.escape(expected)):
        agree(BLOCK, data, engine=engine)


@pytest.mark.parametrize(
    "bad",
    [np.full((4, 3), "a"), None, np.full((4, 3), None), DATA["u"] * 1j],
    ids=["text", "None", "objects", "complex"],
)
def test_data_that_are_no_real_numbers_are_refused(bad: Any) -> None:
    with pytest.raises(UsageError, match="'u'"):
        solve(BLOCK, changed(u=bad))


EXPECTED = solve(BLOCK, DATA)


@pytest.mark.parametrize(
    "make",
    [
        lambda array: torch.tensor(array),
        lambda array: array.tolist(),
        lambda array: np.asfortranarray(array),
        lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    ],
    ids=["tensor", "lists", "Fortran order", "strided"],
)
def test_arrays_of_every_make_give_the_same_solution(make: Any) -> None:
    # To the last bit: nothing may pass through single precision on the way.
    solution = solve(BLOCK, {name: make(value) for name, value in DATA.items()})
    assert torch.equal(solution.variables["x"], EXPECTED.variables["x"])
    assert solution.variables["x"].dtype == torch.float64


@pytest.mark.parametrize(
    "make",
    [
        lambda array: np.flip(np.flip(array).copy()),
        lambda array: array.astype(">f8"),
    ],
    ids=["negative strides", "other byte order"],
)
def test_unusual_numpy_arrays_give_the_same_solution(make: Any) -> None:
    solution = solve(BLOCK, {name: make(value) for name, value in DATA.items()})
    assert torch.equal(solution.variables["x"], EXPECTED.variables["x"])


def test_arrays_that_must_not_be_written_are_read_without_a_warning() -> None:
    # Memory-mapped files and arrays shared between processes are like this. torch warns once per process.
    torch.set_warn_always(True)
    try:
        data = {name: value.copy() for name, value in DATA.items()}
        for value in data.values():
            value.flags.writeable = False
        assert torch.equal(solve(BLOCK, data).variables["x"], EXPECTED.variables["x"])
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize("engine", [None, "clarabel"])
def test_weights_of_a_network_need_not_be_detached(engine: str | None) -> None:
    # Parameters of a module require gradients; solutions are plain numbers.
    data = changed(W=torch.nn.Parameter(torch.tensor(DATA["W"])), b=torch.nn.Parameter(torch.tensor(DATA["b"])))
    solution = solve(BLOCK, data, engine=engine)
    assert not any(value.requires_grad for value in solution.variables.values())
    torch.testing.assert_close(solution.variables["x"], EXPECTED.variables["x"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_other_number_types_are_solved_in_double_precision(dtype: torch.dtype) -> None:
    data = {name: torch.tensor(value).mul(4).round().to(dtype) for name, value in DATA.items()}
    solution = solve(BLOCK, data, tolerance=1e-12)
    assert solution.solved
    assert solution.variables["x"].dtype == torch.float64


# ------------------------------------------------------------------------------------ engines and tolerances


def test_the_first_engine_that_can_is_taken_and_named() -> None:
    assert solve(BLOCK, DATA).engine == "projected_gradient"
    assert solve(BLOCK, DATA, engine="clarabel").engine == "clarabel"
    smooth = activation_block("tanh", "relu")
    assert solve(smooth, data_of(smooth)).engine == "newton"
    stuck = activation_block("relu", "exponential")
    assert solve(stuck, data_of(stuck, batch=1)).engine == "clarabel"


def test_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown engine 'gurobi'") as seen:
        solve(BLOCK, DATA, engine="gurobi")
    for name in (*ENGINES, "clarabel", "scs"):
        assert name in str(seen.value)


UNABLE = [
    (
        "newton",
        activation_block("relu", "relu"),
        "a smooth activation ('relu' has kinks",
        "projected_gradient, clarabel, scs",
    ),
    (
        "projected_gradient",
        activation_block("tanh", "relu"),
        "proximal map of the conjugate of 'tanh'",
        "newton, clarabel, scs",
    ),
    (
        "projected_gradient",
        activation_block("relu", "exponential"),
        "a bounded slope of 'exponential'",
        "can: clarabel, scs",
    ),
    ("newton", weight_block("tanh"), "an activation block (fenchel.activation)", "weight_newton, clarabel, scs"),
    (
        "projected_gradient",
        weight_block("relu"),
        "an activation block (fenchel.activation)",
        "weight_newton, clarabel, scs",
    ),
    ("weight_newton", output_block("squared"), "a weight block (fenchel.weight)", "sherman_morrison, clarabel, scs"),
    ("sherman_morrison", BLOCK, "an output block (fenchel.output)", "projected_gradient, clarabel, scs"),
    ("weight_newton", Projection(), "a weight block (fenchel.weight)", "can: clarabel, scs"),
]


@pytest.mark.parametrize(("engine", "block", "lacking", "able"), UNABLE)
def test_unable_engine_says_what_it_lacks_and_who_can(engine: str, block: Any, lacking: str, able: str) -> None:
    data = {"y": np.zeros((1, 3))} if isinstance(block, Projection) else data_of(block, batch=1)
    with pytest.raises(UsageError) as seen:
        solve(block, data, engine=engine)
    for part in (repr(block.name), repr(engine), lacking, able):
        assert part in str(seen.value)


@pytest.mark.parametrize("tolerance", [0, 0.0, -1e-6, 1, 2.0, float("nan"), float("inf")])
def test_tolerance_out_of_range_is_refused(tolerance: float) -> None:
    with pytest.raises(UsageError, match=r"tolerance is .*; expected a number between 0 and 1"):
        solve(BLOCK, DATA, tolerance=tolerance)


def test_agree_needs_an_engine_to_compare() -> None:
    with pytest.raises(UsageError, match=r"'my\.projection' has no batched engine.*engine='scs'"):
        agree(Projection(), {"y": np.zeros((1, 3)) + 0.3})


# ------------------------------------------------------------------------------------ warm starts


def test_start_of_another_batch_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the warm start 'x' has shape \(3, 3\); expected \(4, 3\)"):
        solve(BLOCK, DATA, warm_start={"x": np.ones((3, 3))})


def test_start_with_nan_is_refused() -> None:
    with pytest.raises(UsageError, match="the warm start 'x' holds NaN"):
        solve(BLOCK, DATA, warm_start={"x": np.full((4, 3), np.nan)})


@pytest.mark.parametrize("shape", [(4, 5), (4, 1), (4,), (4, 3, 1)])
def test_start_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="warm start 'x'"):
        solve(BLOCK, DATA, warm_start={"x": np.ones(shape)})


@pytest.mark.parametrize(
    "block",
    [activation_block("tanh", "relu"), weight_block("relu"), weight_block("softmax"), output_block("squared")],
    ids=["activation", "weight", "layer", "output"],
)
def test_start_of_another_shape_is_refused_by_every_block(block: Any) -> None:
    data = data_of(block, batch=4)
    solution = solve(block, data)
    for name, value in solution.state.items():
        wrong = {**solution.state, name: torch.ones((*value.shape, 2), dtype=torch.float64)}
        with pytest.raises(UsageError, match=f"warm start '{name}'"):
            solve(block, data, warm_start=wrong)


def test_start_that_is_a_number_is_refused() -> None:
    with pytest.raises(UsageError, match="warm start 'x'"):
        solve(BLOCK, DATA, warm_start={"x": 0.0})


def test_start_with_an_unknown_name_is_refused() -> None:
    # A misspelt name would otherwise be a cold start without a word.
    with pytest.raises(UsageError, match="'X'"):
        solve(BLOCK, DATA, warm_start={"X": np.ones((4, 3))})


def test_start_outside_the_range_is_moved_into_it() -> None:
    solution = solve(BLOCK, DATA, warm_start={"x": np.full((4, 3), -5.0)}, tolerance=1e-10)
    assert solution.solved
    assert bool((solution.variables["x"] >= 0).all())


def test_start_given_as_numpy_or_as_solution_is_the_same() -> None:
    cold = solve(BLOCK, DATA, tolerance=1e-3)
    one = solve(BLOCK, DATA, warm_start=cold)
    two = solve(BLOCK, DATA, warm_start={"x": cold.variables["x"].numpy()})
    assert torch.equal(one.variables["x"], two.variables["x"])


# ------------------------------------------------------------------------------------ statuses


def test_infeasible_instance_is_marked_and_the_others_are_solved() -> None:
    solution = solve(Window(), {"low": np.array([[0.0], [2.0], [-1.0]]), "high": np.array([[1.0], [1.0], [3.0]])})
    assert solution.status == (Status.SOLVED, Status.INFEASIBLE, Status.SOLVED)
    assert not solution.solved
    np.testing.assert_allclose(solution.variables["x"], [[0.0], [np.nan], [-1.0]], atol=1e-7)
    assert solution.residuals.primal[1] == np.inf


def test_unbounded_instance_is_marked_and_the_others_are_solved() -> None:
    solution = solve(Slide(), {"slope": np.array([[2.0], [-1.0]])})
    assert solution.status == (Status.SOLVED, Status.UNBOUNDED)
    np.testing.assert_allclose(solution.variables["x"], [[1.0], [np.nan]], atol=1e-7)


@pytest.mark.parametrize("bias", [True, False])
def test_reference_solves_weight_blocks_without_proximal_term(bias: bool) -> None:
    # The data still hold w_old and c_old, which the program then does not mention.
    block = FenchelWeight(samples=6, inputs=2, loss="squared", weight_decay=0.5, proximity=0.0, bias=bias)
    data = data_of(block, batch=2)
    slow, fast = solve(block, data, engine="clarabel"), solve(block, data, tolerance=1e-10)
    torch.testing.assert_close(slow.variables["w"], fast.variables["w"], rtol=0, atol=1e-6)


def test_unbounded_weight_block_is_called_so_by_the_reference() -> None:
    block = FenchelWeight(samples=3, inputs=1, activation="relu", proximity=0.0, bias=False)
    data = {"X": np.ones((3, 1)), "v": np.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]), "w_old": np.zeros((2, 1))}
    assert solve(block, data, engine="clarabel").status == (Status.SOLVED, Status.UNBOUNDED)


def test_require_solved_names_the_instance_and_the_remedy() -> None:
    solution = solve(Window(), {"low": np.array([[0.0], [2.0], [5.0]]), "high": np.array([[1.0], [1.0], [3.0]])})
    with pytest.raises(SolveError) as seen:
        solution.require_solved()
    assert "2 of 3 instances are not solved by 'shared_admm'; instance 1 is infeasible" in str(seen.value)
    assert "look at this instance's data" in str(seen.value)
    fine = solve(BLOCK, DATA)
    assert fine.require_solved() is fine


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.SOLVED])
def test_every_other_status_raises_with_its_remedy(status: Status) -> None:
    solution = replace(EXPECTED, status=(Status.SOLVED, status, Status.SOLVED, Status.SOLVED))
    assert ";" in status.value
    with pytest.raises(SolveError, match="1 of 4 instances are not solved by 'projected_gradient'; instance 1") as seen:
        solution.require_solved()
    assert status.value in str(seen.value)


def test_judge_looks_at_every_residual() -> None:
    inf, nan = float("inf"), float("nan")
    rows = [
        # primal, dual, gap, expected
        (0.0, 0.0, 0.0, True),
        (1e-6, 9.0, 1e-6, True),
        (2e-6, 0.0, 0.0, False),
        (0.0, 0.0, 2e-6, False),
        (0.0, 1e-7, inf, True),
        (0.0, 1e-5, inf, False),
        (nan, 0.0, 0.0, False),
        (0.0, nan, nan, False),
    ]
    columns = [torch.tensor(column, dtype=torch.float64) for column in list(zip(*rows, strict=True))[:3]]
    expected = tuple(Status.SOLVED if row[3] else Status.INACCURATE for row in rows)
    assert judge(Residuals(*columns), 1e-6) == expected


# ------------------------------------------------------------------------------------ the reference


def test_duals_by_hand() -> None:
    # Stationarity x - y - nonnegative + cap e_3 + tie (e_1 + e_2) = 0, signs as in cvxpy.
    data = {"y": np.array([[-1.0, 1.0, 5.0], [0.5, 0.5, -3.0], [1.0, 1.5, 1.0], [-3.0, 1.0, 0.5]])}
    solution = solve(Projection(), data)
    assert solution.status == (Status.SOLVED,) * 4
    np.testing.assert_allclose(
        solution.variables["x"], [[0, 1, 2], [0.5, 0.5, 0], [0.25, 0.75, 1], [0, 1, 0.5]], atol=1e-6
    )
    assert set(solution.duals) == {"nonnegative", "cap", "tie"}
    np.testing.assert_allclose(solution.duals["nonnegative"], [[1, 0, 0], [0, 0, 3], [0, 0, 0], [3, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(solution.duals["cap"], [3, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(solution.duals["tie"], [0, 0, 0.75, 0], atol=1e-5)


def test_duals_of_a_batch_keep_the_batch_axis_and_the_shape_of_the_constraint() -> None:
    solution = solve(BLOCK, DATA, engine="clarabel")
    assert {label: tuple(dual.shape) for label, dual in solution.duals.items()} == {
        "sent to the next layer": (4, 2),
        "range of the activation": (4, 3),
    }
    # The dual of z = W x + b is minus the gradient of the term above: v - relu(z).
    expected = torch.tensor(DATA["v"]) - solution.variables["z"].clamp(min=0)
    torch.testing.assert_close(solution.duals["sent to the next layer"], expected, rtol=0, atol=1e-5)
    assert bool((solution.duals["range of the activation"] >= -1e-8).all())


def test_infeasible_instances_have_no_duals_and_others_keep_theirs() -> None:
    solution = solve(Window(), {"low": np.array([[0.0], [2.0]]), "high": np.array([[1.0], [1.0]])})
    np.testing.assert_allclose(solution.duals["constraint 1"], [[1.0], [np.nan]], atol=1e-6)


@pytest.mark.parametrize("engine", ["clarabel", "scs"])
def test_reference_agrees_with_the_engine_and_measures_with_the_same_formulas(engine: str) -> None:
    block = activation_block("relu", "softmax_cross_entropy")
    data = data_of(block, batch=2)
    slow, fast = solve(block, data, engine=engine), solve(block, data, tolerance=1e-12)
    assert slow.solved
    assert slow.engine == engine
    torch.testing.assert_close(slow.variables["x"], fast.variables["x"], rtol=0, atol=1e-4)
    again = block.residuals(slow.variables, {name: torch.tensor(value) for name, value in data.items()})
    for name in ("primal", "dual", "gap"):
        assert torch.equal(getattr(slow.residuals, name), getattr(again, name))


def test_times_of_the_parts_do_not_exceed_the_whole() -> None:
    block = FenchelActivation(width=12, next_width=10, activation="sigmoid")
    data = data_of(block, batch=2)
    began = time.perf_counter()
    solution = solve(block, data, engine="clarabel")
    whole = time.perf_counter() - began
    assert 0 < solution.compile_seconds
    assert 0 < solution.seconds
    assert solution.seconds + solution.compile_seconds <= whole


# ------------------------------------------------------------------------------------ wrong engines are found out


def corrupted(name: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an engine give wrong values of its variables."""
    honest = ENGINES[name]

    def run(*arguments: Any) -> Any:
        answer = honest.run(*arguments)
        return replace(answer, values={symbol: change(symbol, value) for symbol, value in answer.values.items()})

    monkeypatch.setitem(batch_module.ENGINES, name, replace(honest, run=run))


CORRUPTIONS = [
    ("projected_gradient", BLOCK, "x"),
    ("newton", activation_block("tanh", "relu"), "x"),
    ("weight_newton", weight_block("relu"), "w"),
    ("weight_newton", weight_block("relu"), "c"),
    ("sherman_morrison", output_block("softmax_cross_entropy"), "z"),
]


@pytest.mark.parametrize(("engine", "block", "symbol"), CORRUPTIONS)
def test_wrong_answer_is_called_inaccurate_and_disagrees(
    engine: str, block: Any, symbol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(block, batch=3)
    assert agree(block, data).agrees
    corrupted(engine, lambda name, value: 0.9 * value + 0.05 if name == symbol else value, monkeypatch)
    solution = solve(block, data)
    assert solution.engine == engine
    assert solution.status == (Status.INACCURATE,) * 3
    with pytest.raises(SolveError, match="inaccurate"):
        solution.require_solved()
    agreement = agree(block, data)
    assert not agreement.agrees
    assert "DISAGREES" in str(agreement)


@pytest.mark.parametrize(("engine", "block", "symbol"), CORRUPTIONS)
def test_an_answer_of_nan_is_called_inaccurate(
    engine: str, block: Any, symbol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupted(engine, lambda name, value: value * float("nan"), monkeypatch)
    solution = solve(block, data_of(block, batch=3))
    assert not any(status is Status.SOLVED for status in solution.status)


def test_wrong_row_is_the_only_one_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    corrupted("projected_gradient", lambda _, v: torch.cat([v[:2], v[2:3] + 0.5, v[3:]]), monkeypatch)
    solution = solve(BLOCK, DATA)
    assert [status is Status.SOLVED for status in solution.status] == [True, True, False, True]


def test_answer_outside_the_range_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    corrupted("projected_gradient", lambda _, value: value - 1e-4, monkeypatch)
    solution = solve(BLOCK, DATA)
    assert float(solution.residuals.primal.max()) == pytest.approx(1e-4)
    assert Status.INACCURATE in solution.status
    assert not agree(BLOCK, DATA).agrees


def test_wrong_dependent_variable_disagrees_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    # x is right, but z is not W x + b: the model's own constraint says so.
    corrupted("projected_gradient", lambda name, v: v + 1e-3 if name == "z" else v, monkeypatch)
    agreement = agree(BLOCK, DATA)
    assert not agreement.agrees
    assert agreement.violation == pytest.approx(1e-3)


def test_agreement_reads_as_a_sentence() -> None:
    agreement = agree(BLOCK, DATA)
    assert str(agreement).startswith("projected_gradient agrees with Clarabel on 4 instances: relative objective gap ")
    assert "(allowed 1e-06)" in str(agreement)
    assert "(allowed 1e-08)" in str(agreement)
    smooth = activation_block("tanh", "relu")
    assert "(allowed 1e-05)" in str(agree(smooth, data_of(smooth, batch=1)))
    assert not replace(agreement, objective_gap=2e-6).agrees
    assert not replace(agreement, violation=2e-8).agrees


def test_agreement_draws_a_sample() -> None:
    data = data_of(BLOCK, batch=20)
    assert agree(BLOCK, data, sample=3).instances == 3
    assert agree(BLOCK, data).instances == 8
    assert agree(BLOCK, data, sample=3, random_state=1).instances == 3


def test_agreement_samples_other_instances_with_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Only instance 7 of 20 is wrong: some seeds see it and others do not.
    data = data_of(BLOCK, batch=20)
    marked = torch.tensor(data["u"][7])
    honest = ENGINES["projected_gradient"]

    def run(subproblem: Any, tensors: Any, *rest: Any) -> Any:
        answer = honest.run(subproblem, tensors, *rest)
        wrong = (tensors["u"] == marked).all(1)
        return replace(answer, values={**answer.values, "x": answer.values["x"] + wrong[:, None] * 1.0})

    monkeypatch.setitem(batch_module.ENGINES, "projected_gradient", replace(honest, run=run))
    verdicts = {agree(BLOCK, data, sample=5, random_state=seed).agrees for seed in range(8)}
    assert verdicts == {True, False}


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "exponential"])
def test_a_point_that_misses_the_domain_by_rounding_has_a_finite_objective(name: str) -> None:
    # entr is -inf outside its domain; a miss by one ulp is a tiny violation, not an infinite objective.
    block = FenchelActivation(width=2, next_width=2, activation=name)
    data = data_of(block, batch=1)
    set_parameters(block, data)
    x = np.nextafter(block.activation.low, -9) * np.ones(2)
    point = {"x": torch.tensor(x), "z": torch.tensor(data["W"] @ x + data["b"])}
    objective, violation = evaluate(block, point)
    assert np.isfinite(objective)
    assert violation <= 1e-12


# ------------------------------------------------------------------------------------ what a solution carries


def test_solution_carries_what_it_says() -> None:
    solution = solve(BLOCK, DATA)
    assert isinstance(solution, Solution)
    assert set(solution.variables) == {"x", "z"}
    assert solution.variables["x"].shape == (4, 3)
    assert solution.variables["z"].shape == (4, 2)
    torch.testing.assert_close(
        solution.variables["z"], solution.variables["x"] @ torch.tensor(DATA["W"]).T + torch.tensor(DATA["b"])
    )
    assert solution.iterations.shape == (4,)
    assert solution.seconds > 0
    assert solution.solved
    worst = solution.residuals.worst()
    assert set(worst) == {"primal", "dual", "gap"}
    assert worst["gap"] == float(solution.residuals.gap.max()) <= 1e-6


def test_example_by_hand() -> None:
    # (z - y) + m (z - u) = 0
    block = FenchelOutput(outputs=2, loss="squared", multiplier=3.0)
    solution = solve(block, {"u": np.array([[1.0, 2.0]]), "y": np.array([[5.0, -2.0]])}, tolerance=1e-12)
    torch.testing.assert_close(solution.variables["z"], torch.tensor([[2.0, 1.0]], dtype=torch.float64))
