"""Canonical forms: kinds of programs x what the batch shares, against the programs and answers of cvxpy itself."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from convexblocks.formulations.errors import NotDisciplinedError, UsageError
from convexblocks.solvers import canonical, recoveries
from convexblocks.solvers.canonical import Canonical, canonicalize, parameter_vector
from convexblocks.solvers.conic_program import ConicProgram
from convexblocks.solvers.matrix import Matrix
from convexblocks.solvers.parametrized import Sharing, check_parameters
from convexblocks.solvers.problem_answers import recover
from convexblocks.solvers.recoveries import CanonicalFormError

BATCH = 3
ROUNDING = 1e-11
Data = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator], Data]
EXACT = {"tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}


def normal(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.standard_normal((BATCH, *shape))


def positive(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.uniform(0.5, 1.5, (BATCH, *shape))


def definite(order: int, sign: float = 1.0) -> Callable[[np.random.Generator], np.ndarray]:
    def drawn(rng: np.random.Generator) -> np.ndarray:
        factor = rng.standard_normal((BATCH, order, order))
        return sign * (factor @ factor.swapaxes(1, 2) + np.eye(order))

    return drawn


def symmetric(order: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: (lambda drawn: drawn + drawn.swapaxes(1, 2))(rng.standard_normal((BATCH, order, order)))


def diagonal(order: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: np.eye(order) * rng.uniform(0.5, 1.5, (BATCH, order, 1))


def variable(name: str, *shape: int, **attributes: Any) -> cp.Variable:
    return cp.Variable(shape, name=name, **attributes)


def parameter(name: str, *shape: int, **attributes: Any) -> cp.Parameter:
    return cp.Parameter(shape, name=name, **attributes)


def labelled(**constraints: Any) -> list[Any]:
    for label, constraint in constraints.items():
        constraint.set_label(label)
    return list(constraints.values())


# ------------------------------------------------------------------------------------ the programs


def least_squares() -> cp.Problem:
    x, A, b = variable("x", 3, nonneg=True), parameter("A", 5, 3), parameter("b", 5)
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + 2.5), labelled(most=x <= 4))


def linear_maximum() -> cp.Problem:
    x, c, scale = variable("x", 4), parameter("c", 4), parameter("scale", nonneg=True)
    total, limit = parameter("total"), parameter("limit", 2)
    mixed = np.arange(8.0).reshape(2, 4) / 7
    bounds = labelled(total=cp.sum(x) == total, low=x >= -scale, high=x <= scale, mixed=mixed @ x <= limit)
    return cp.Problem(cp.Maximize(c @ x + 3 * scale - total), bounds)


def matrices() -> cp.Problem:
    X, limit, target = variable("X", 3, 2), parameter("limit", 2, 3, nonneg=True), parameter("T", 4, 5)
    left, right = parameter("left", 4, 3), parameter("right", 2, 5)
    most, rows = X.T <= limit, X @ np.array([1.0, -2.0]) >= np.array([-1.0, 0.0, -2.0])
    # A product with both parameters would not be DPP: the one with `right` gets a variable of its own.
    Y = variable("Y", 3, 5)
    tied = Y == X @ right
    cost = cp.sum_squares(left @ X) + cp.sum_squares(left @ Y - target) + 0.1 * cp.sum_squares(X)
    return cp.Problem(cp.Minimize(cost), labelled(most=most, rows=rows, tied=tied))


def three_axes() -> cp.Problem:
    X, p, weight = variable("X", 2, 3, 2), parameter("p", 2, 3, 2), parameter("weight", 3, pos=True)
    cost = cp.sum_squares(X - p) + weight @ cp.abs(X[0, :, 1])
    return cp.Problem(cp.Minimize(cost), labelled(sign=X >= -1, most=X[:, 1, :] <= 0.2))


def second_order() -> cp.Problem:
    x, A, b, d = variable("x", 3), parameter("A", 4, 3), parameter("b", 4), parameter("d")
    t, rows = variable("t", 2), variable("rows", 2, 3)
    cones = labelled(ball=cp.SOC(d + 10, x), cones=cp.SOC(t, rows, axis=1), norm=cp.norm(rows[0]) <= 3)
    tied = labelled(tied=rows[1] - x == 1)
    return cp.Problem(cp.Minimize(cp.norm(A @ x - b) + cp.sum(t) + d * x[0]), [*cones, *tied])


def semidefinite() -> cp.Problem:
    X, Y, C = variable("X", 3, 3, symmetric=True), variable("Y", 2, 2, PSD=True), parameter("C", 3, 3, symmetric=True)
    shift = parameter("shift", 3, 3, PSD=True)
    bounds = labelled(
        cone=X + shift >> 0, linked=X[:2, :2] - Y << np.eye(2), trace=cp.trace(X) == 1, corner=Y[0, 1] >= 0.1,
    )  # fmt: skip
    return cp.Problem(cp.Minimize(cp.trace(C @ X) + cp.sum_squares(Y)), bounds)


def exponential() -> cp.Problem:
    x, p, y = variable("x", 3), parameter("p", 3), parameter("y", 3, nonneg=True)
    a, b, c = (variable(name, 2) for name in "abc")
    return cp.Problem(
        cp.Minimize(cp.log_sum_exp(x - p) - y @ x + cp.sum_squares(x) + cp.sum(c)),
        labelled(cone=cp.ExpCone(a, b, c), one=b == 1, low=a >= p[:2], entropy=cp.sum(cp.entr(b + 1)) >= -4),
    )


def powers() -> cp.Problem:
    x, y, z, p = (variable("x", 2), variable("y", 2), variable("z", 2), parameter("p", 2))
    return cp.Problem(
        cp.Minimize(cp.sum(x) + 2 * cp.sum(y)), labelled(cone=cp.PowCone3D(x, y, z, np.array([0.3, 0.8])), z=z >= p)
    )


def parametric_form() -> cp.Problem:
    x, S, q, W = variable("x", 3), parameter("S", 3, 3, PSD=True), parameter("q", 3), parameter("W", 2, 3)
    return cp.Problem(cp.Minimize(cp.quad_form(x, S) + q @ x), labelled(limit=W @ x <= 1))


def concave_form() -> cp.Problem:
    x, S, q = variable("x", 3), parameter("S", 3, 3, NSD=True), parameter("q", 3)
    return cp.Problem(cp.Maximize(cp.quad_form(x, S) + q @ x - 4), labelled(total=cp.sum(x) == 1))


def parameter_kinds() -> cp.Problem:
    x, S, D = variable("x", 3), parameter("S", 3, 3, symmetric=True), parameter("D", 3, 3, diag=True)
    up, down = parameter("up", 3, nonneg=True), parameter("down", 3, nonpos=True)
    pos, neg = parameter("pos", pos=True), parameter("neg", neg=True)
    cost = cp.sum_squares(D @ x - cp.sum(S, axis=1)) + up @ cp.abs(x) + pos * cp.square(x[0]) - neg * cp.square(x[1])
    return cp.Problem(cp.Minimize(cost), labelled(low=x >= down, high=x <= up))


def variable_kinds() -> cp.Problem:
    a, d, p, C = variable("a", 3, nonneg=True), variable("d", 3, 3, diag=True), parameter("p", 3), parameter("C", 3, 3)
    S, N, Y = variable("S", 3, 3, PSD=True), variable("N", 2, 2, NSD=True), variable("Y", 3, 3, symmetric=True)
    far = cp.sum_squares(a - p) + cp.sum_squares(cp.diag(d) - p) + cp.sum_squares(Y - C)
    near = cp.sum_squares(S - C) + cp.sum_squares(N - C[:2, 1:])
    bounds = labelled(coupled=cp.sum(a) + cp.trace(S) <= 2, tied=d[0, 0] + a[1] == Y[2, 1])
    return cp.Problem(cp.Minimize(far + near), bounds)


def negative_variables() -> cp.Problem:
    a, b, p = variable("a", 3, nonpos=True), variable("b", 3, neg=True), parameter("p", 3)
    return cp.Problem(cp.Minimize(cp.sum_squares(a - p) + cp.sum_squares(b + 1)), labelled(apart=a - b <= 3))


def bounded_variables() -> cp.Problem:
    a, b = variable("a", 3, bounds=[np.array([-1.0, -np.inf, 0.0]), 0.5]), variable("b", 3, bounds=[-2, 0])
    c, p = variable("c", 3, bounds=[3, None]), parameter("p", 3)
    far = cp.sum_squares(a - p) + cp.sum_squares(b - p) + cp.sum_squares(c - p)
    return cp.Problem(cp.Minimize(far), labelled(total=cp.sum(a + b + c) <= 12))


def no_parameters() -> cp.Problem:
    x = variable("x", 3)
    return cp.Problem(cp.Minimize(cp.sum_squares(x - np.array([1.0, -2.0, 0.5])) - 7), labelled(total=cp.sum(x) == 1))


def unlabelled() -> cp.Problem:
    x, p = variable("x", 2), parameter("p", 2)
    doubled = [(x >= p - 4).set_label("twice"), (x <= p + 4).set_label("twice")]
    return cp.Problem(cp.Minimize(cp.sum(cp.abs(x))), [cp.sum(x) == 0.3, *doubled])


PROGRAMS: dict[str, tuple[Callable[[], cp.Problem], dict[str, Callable[[np.random.Generator], np.ndarray]]]] = {
    "least squares": (least_squares, {"A": normal(5, 3), "b": normal(5)}),
    "linear maximum": (
        linear_maximum, {"c": normal(4), "scale": positive(), "total": normal(), "limit": positive(2)}
    ),
    "matrices": (
        matrices, {"left": normal(4, 3), "right": normal(2, 5), "T": normal(4, 5), "limit": positive(2, 3)}
    ),
    "three axes": (three_axes, {"p": normal(2, 3, 2), "weight": positive(3)}),
    "second-order": (second_order, {"A": normal(4, 3), "b": normal(4), "d": positive()}),
    "semidefinite": (semidefinite, {"C": definite(3), "shift": definite(3)}),
    "exponential": (exponential, {"p": normal(3), "y": positive(3)}),
    "powers": (powers, {"p": normal(2)}),
    "parametric form": (parametric_form, {"S": definite(3), "q": normal(3), "W": normal(2, 3)}),
    "concave form": (concave_form, {"S": definite(3, -1.0), "q": normal(3)}),
    "parameter kinds": (
        parameter_kinds,
        {"S": symmetric(3), "D": diagonal(3), "up": positive(3), "down": lambda rng: -positive(3)(rng),
         "pos": positive(), "neg": lambda rng: -positive()(rng)},
    ),
    "variable kinds": (variable_kinds, {"p": normal(3), "C": normal(3, 3)}),
    "negative variables": (negative_variables, {"p": normal(3)}),
    "bounded variables": (bounded_variables, {"p": normal(3)}),
    "no parameters": (no_parameters, {}),
    "unlabelled": (unlabelled, {"p": normal(2)}),
}  # fmt: skip
# Every so manieth parameter has a batch axis.
SHARED = {"nothing shared": 1, "some shared": 2, "all shared": None}


@cache
def form_of(name: str) -> Canonical:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return canonicalize(PROGRAMS[name][0]())


def drawn(name: str, sharing: str, seed: int = 0) -> tuple[Data, tuple[str, ...]]:
    """Parameters, and the names of those with a batch axis."""
    rng = np.random.default_rng(seed)
    data, batched, every = {}, [], SHARED[sharing]
    for place, (symbol, draw) in enumerate(PROGRAMS[name][1].items()):
        data[symbol] = draw(rng)
        if every and place % every == 0:
            batched.append(symbol)
        else:
            data[symbol] = data[symbol][0]
    return data, tuple(batched)


def program_of(form: Canonical, data: Data, batched: tuple[str, ...]) -> ConicProgram:
    tensors = {symbol: torch.as_tensor(value) for symbol, value in data.items()}
    sharing = Sharing(form, batched)
    constants = sharing.constants({symbol: value for symbol, value in tensors.items() if symbol not in batched})
    return sharing.program(constants, {symbol: tensors[symbol] for symbol in batched}, BATCH if batched else 1)


def set_parameters(problem: cp.Problem, data: Data, batched: tuple[str, ...], place: int) -> None:
    for item in problem.parameters():
        value = data[item.name()]
        item.value = value[place] if item.name() in batched else value


def densely(matrix: Matrix, place: int) -> np.ndarray:
    dense = matrix.dense().numpy()
    return dense if matrix.shared else dense[place]


def row(vector: torch.Tensor, place: int) -> np.ndarray:
    return vector[place if len(vector) > 1 else 0].numpy()


def canonical_data(problem: cp.Problem) -> tuple[dict[str, Any], Any, Any]:
    with warnings.catch_warnings():
        # cvxpy warns that it has to evaluate the parameter of a quadratic form, which is fine here.
        warnings.simplefilter("ignore")
        return problem.get_problem_data("CLARABEL", solver_opts={})


def check_instance(program: ConicProgram, place: int, data: dict[str, Any], offset: float) -> None:
    n = len(data["c"])
    P = data["P"].toarray() if data.get("P") is not None else np.zeros((n, n))
    np.testing.assert_allclose(densely(program.P, place), P, rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(densely(program.A, place), data["A"].toarray(), rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(row(program.q, place), data["c"], rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(row(program.b, place), data["b"], rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(row(program.offset, place), offset, rtol=ROUNDING, atol=ROUNDING)


# ------------------------------------------------------------------------------------ programs as cvxpy has them


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_instance_is_the_program_that_cvxpy_solves(name: str, sharing: str) -> None:
    data, batched = drawn(name, sharing)
    program = program_of(form_of(name), data, batched)
    # Written anew: the first may remember what was canonicalized.
    problem = PROGRAMS[name][0]()
    for place in range(program.batch):
        set_parameters(problem, data, batched, place)
        theirs, _, inverse = canonical_data(problem)
        check_instance(program, place, theirs, inverse[-1]["offset"])


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_no_batched_parameter_reaches_stays_shared(name: str) -> None:
    data, batched = drawn(name, "all shared")
    program = program_of(form_of(name), data, batched)
    assert program.shared
    assert len(program.q) == len(program.b) == len(program.offset) == 1
    program, again = (program_of(form_of(name), *drawn(name, "nothing shared", seed)) for seed in (0, 1))
    for matrix, other in ((program.P, again.P), (program.A, again.A)):
        assert matrix.shared is bool((matrix.dense() == other.dense()).all())
    for vector, drawn_again in ((program.q, again.q), (program.b, again.b), (program.offset, again.offset)):
        assert (len(vector) == 1) is bool((vector == drawn_again).all())


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_and_duals_are_those_that_cvxpy_gives(name: str) -> None:
    form, (data, batched) = form_of(name), drawn(name, "nothing shared", seed=2)
    program, problem = program_of(form, data, batched), PROGRAMS[name][0]()
    for place in range(program.batch):
        set_parameters(problem, data, batched, place)
        theirs, chain, inverse = canonical_data(problem)
        raw = chain.solve_via_data(problem, theirs, solver_opts=EXACT)
        problem.unpack_results(raw, chain, inverse)
        x, y = (torch.tensor([part], dtype=torch.float64) for part in (raw.x, raw.z))
        assert set(form.values) == {item.name() for item in problem.variables()}
        for item in problem.variables():
            ours = recover(form.values[item.name()], x)[0].numpy()
            if any(item.attributes[sign] for sign in ("nonneg", "pos", "nonpos", "neg", "bounds")):
                # What cvxpy gives is moved into its bounds, which solvers miss by rounding.
                ours = item.project(ours)
            np.testing.assert_allclose(ours, in_full(item), rtol=0, atol=1e-12, err_msg=item.name())
        expected = named_duals(problem)
        assert set(form.duals) == set(expected)
        for label, dual in expected.items():
            np.testing.assert_allclose(recover(form.duals[label], y)[0], dual, rtol=0, atol=1e-12, err_msg=label)
        P = torch.as_tensor(densely(program.P, place))
        value = x[0] @ P @ x[0] / 2 + torch.as_tensor(row(program.q, place)) @ x[0] + float(row(program.offset, place))
        assert form.sign * float(value) == pytest.approx(problem.value, rel=1e-7, abs=1e-7)


def in_full(item: cp.Variable) -> np.ndarray:
    value: Any = item.value
    return np.asarray(value.toarray() if sp.issparse(value) else value)


def named_duals(problem: cp.Problem) -> Data:
    """Duals as cvxpy has them; cones with several parts as "label[0]", "label[1]", ..."""
    found: Data = {}
    for place, constraint in enumerate(problem.constraints):
        label = constraint.label or f"constraint {place + 1}"
        label = f"{label} ({place + 1})" if label in found else label
        parts = [np.asarray(item.value) for item in constraint.dual_variables]
        found |= {label: parts[0]} if len(parts) == 1 else {f"{label}[{k}]": part for k, part in enumerate(parts)}
    return found


def test_signs_of_duals_are_those_of_the_lagrangian() -> None:
    # minimize x^2 / 2 - 3 x with x == 1, x <= 1 or x >= 4: by hand, the slope of the objective is cancelled.
    for write, expected in ((lambda x: x == 1, 2.0), (lambda x: x <= 1, 2.0), (lambda x: x >= 4, 1.0)):
        x = variable("x")
        bound = write(x)
        form = canonicalize(cp.Problem(cp.Minimize(cp.square(x) / 2 - 3 * x), labelled(bound=bound)))
        program = program_of(form, {}, ())
        point = 4.0 if expected == 1 else 1.0
        slope = densely(program.P, 0) @ [point] + row(program.q, 0)
        multiplier = torch.linalg.lstsq(program.A.dense().T, -torch.as_tensor(slope)[:, None]).solution.T
        assert float(recover(form.duals["bound"], multiplier)) == pytest.approx(expected)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_vector_of_parameters_gives_the_same_program(name: str) -> None:
    form, (data, _) = form_of(name), drawn(name, "all shared")
    vector, program = parameter_vector(form, data), program_of(form, data, ())
    assert vector.shape == (form.size + 1,)
    b = np.zeros(form.rows)
    b[form.b.rows] = form.b.map @ vector[-form.b.map.shape[1] :]
    np.testing.assert_allclose(row(program.b, 0), b, rtol=ROUNDING, atol=ROUNDING)


def test_the_sign_of_the_objective_and_the_rows_of_the_cones() -> None:
    assert form_of("linear maximum").sign == -1
    assert form_of("least squares").sign == 1
    for name in PROGRAMS:
        assert form_of(name).cones.rows == form_of(name).rows


def test_a_form_holds_no_cvxpy_objects() -> None:
    stored = pickle.dumps(form_of("variable kinds"))
    assert b"cvxpy" not in stored


# ------------------------------------------------------------------------------------ kinds of matrices that are rare


SPARSE = {"three of four": ((1, 0, 0), (0, 1, 0)), "all, by rows": ((0, 0, 1, 1), (0, 1, 0, 1))}


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "shared"])
@pytest.mark.parametrize("pattern", SPARSE)
def test_sparse_parameters(pattern: str, batched: bool) -> None:
    def write() -> tuple[cp.Problem, cp.Parameter]:
        X, W = variable("X", 2, 2), parameter("W", 2, 2, sparsity=[np.array(part) for part in SPARSE[pattern]])
        return cp.Problem(cp.Minimize(cp.sum_squares(X - W)), [X >= 0]), W

    rng = np.random.default_rng(0)
    values = np.zeros((BATCH, 2, 2))
    values[:, *SPARSE[pattern]] = rng.standard_normal((BATCH, len(SPARSE[pattern][0])))
    form, (problem, W) = canonicalize(write()[0]), write()
    program = program_of(form, {"W": values if batched else values[0]}, ("W",) if batched else ())
    for place in range(program.batch):
        W.value_sparse = sp.coo_array((values[place][SPARSE[pattern]], SPARSE[pattern]), (2, 2))
        theirs, _, inverse = canonical_data(problem)
        check_instance(program, place, theirs, inverse[-1]["offset"])


def test_sparse_variables() -> None:
    X = variable("X", 2, 3, sparsity=[(0, 1, 1), (2, 0, 1)])
    form = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(X - 1))))
    drawn = torch.arange(1.0, form.variables + 1, dtype=torch.float64)[None]
    value = recover(form.values["X"], drawn)[0]
    assert value.shape == (2, 3)
    assert {tuple(place) for place in value.nonzero().tolist()} == {(0, 2), (1, 0), (1, 1)}


def test_memory_order_of_parameters_does_not_matter() -> None:
    form, (data, batched) = form_of("matrices"), drawn("matrices", "nothing shared")
    laid = {name: np.asfortranarray(value) for name, value in data.items()}
    ours, other = program_of(form, laid, batched), program_of(form, data, batched)
    assert torch.equal(ours.A.dense(), other.A.dense())
    assert torch.equal(ours.P.dense(), other.P.dense())


UNCONSTRAINED: dict[str, Callable[[cp.Variable, cp.Parameter], Any]] = {
    "squares": lambda x, p: cp.sum_squares(x) + p @ x,
    "form": lambda x, p: cp.quad_form(x, np.eye(2)) + p @ x,
    "linear": lambda x, p: p @ x,
}


@pytest.mark.parametrize("kind", UNCONSTRAINED)
def test_programs_without_rows(kind: str) -> None:
    x, p = variable("x", 2), parameter("p", 2)
    form = canonicalize(cp.Problem(cp.Minimize(UNCONSTRAINED[kind](x, p))))
    program = program_of(form, {"p": np.ones((BATCH, 2))}, ("p",))
    assert program.A.shape == (0, 2)
    np.testing.assert_array_equal(program.q, np.ones((BATCH, 2)))


def test_a_parameter_that_cancels_changes_nothing() -> None:
    x, p = variable("x", 2), parameter("p", 2)
    form = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(x - 1) + 0 * cp.sum(p)), [x >= p - p]))
    one, two = (program_of(form, {"p": value * np.ones((BATCH, 2))}, ("p",)) for value in (0.0, 5.0))
    assert torch.equal(one.A.dense().expand(BATCH, -1, -1), two.A.dense().expand(BATCH, -1, -1))
    assert torch.equal(one.b.expand(BATCH, -1), two.b.expand(BATCH, -1))


# ------------------------------------------------------------------------------------ the user's problem


def test_the_problem_of_the_user_is_left_as_it_was() -> None:
    problem = linear_maximum()
    data, batched = drawn("linear maximum", "all shared")
    set_parameters(problem, data, batched, 0)
    problem.solve(solver="CLARABEL")
    status, value = problem.status, problem.value
    variables = {item.name(): np.array(item.value) for item in problem.variables()}
    duals = [np.array(constraint.dual_value) for constraint in problem.constraints]
    canonicalize(problem)
    assert (problem.status, problem.value) == (status, value)
    for item in problem.parameters():
        np.testing.assert_array_equal(item.value, data[item.name()])
    for item in problem.variables():
        np.testing.assert_array_equal(item.value, variables[item.name()])
    for constraint, dual in zip(problem.constraints, duals, strict=True):
        np.testing.assert_array_equal(constraint.dual_value, dual)
    problem.solve(solver="CLARABEL")
    assert problem.value == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("name", PROGRAMS)
def test_parameters_without_values_stay_so(name: str) -> None:
    problem = PROGRAMS[name][0]()
    canonicalize(problem)
    assert all(item.value is None for item in (*problem.parameters(), *problem.variables()))
    assert all(item.value is None for constraint in problem.constraints for item in constraint.dual_variables)


def test_parameters_keep_their_values_where_the_problem_is_refused() -> None:
    x, p = variable("x"), parameter("p")
    p.value = 3.0
    with pytest.raises(NotDisciplinedError):
        canonicalize(cp.Problem(cp.Minimize(p * p * x)))
    assert p.value == 3.0


# ------------------------------------------------------------------------------------ refusals


def not_dcp(x: Any, p: Any, q: Any) -> Any:
    return cp.sqrt(cp.sum_squares(x))


def not_dpp(x: Any, p: Any, q: Any) -> Any:
    return cp.sum_squares(x) + p * q * cp.sum(x)


def parameter_of_unknown_sign(x: Any, p: Any, q: Any) -> Any:
    return q * cp.sum_squares(x)


@pytest.mark.parametrize(
    ("cost", "said"),
    [(not_dcp, "not DCP: sqrt"), (not_dpp, "not DPP: p * q"), (parameter_of_unknown_sign, "not DCP: q")],
)
def test_undisciplined_programs_are_refused_by_name(cost: Callable[..., Any], said: str) -> None:
    problem = cp.Problem(cp.Minimize(cost(variable("x", 2), parameter("p"), parameter("q"))))
    with pytest.raises(NotDisciplinedError, match=re.escape(said)):
        canonicalize(problem)


@pytest.mark.parametrize("kind", [cp.Variable, cp.Parameter])
@pytest.mark.parametrize("attribute", ["boolean", "integer", "complex", "imag", "hermitian"])
def test_leaves_that_are_not_real_and_continuous_are_refused(attribute: str, kind: Any) -> None:
    strange = kind((2, 2), name="strange", **{attribute: True})
    problem = cp.Problem(cp.Minimize(cp.sum(cp.abs(strange - variable("x", 2, 2)))))
    with pytest.raises(UsageError, match=f"'strange' is {attribute}; expected a continuous real program"):
        canonicalize(problem)


@pytest.mark.parametrize("kind", ["variables", "parameters"])
def test_two_leaves_of_one_name_are_refused(kind: str) -> None:
    make = variable if kind == "variables" else parameter
    same, x = [make("same", 2), make("same", 2)], variable("x", 2)
    with pytest.raises(UsageError, match=f"two {kind} are named 'same'; expected distinct names"):
        canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(same[0] + same[1] - x))))


def test_labels_that_clash_lose_no_dual() -> None:
    x = variable("x", 2)
    bounds = [(x >= 0).set_label("a (3)"), (x <= 1).set_label("a"), (x <= 2).set_label("a")]
    assert len(canonicalize(cp.Problem(cp.Minimize(cp.sum(x)), bounds)).duals) == 3
    parts = [(x[0] >= 0).set_label("a[0]"), cp.SOC(x[0], x[1:]).set_label("a")]
    assert len(canonicalize(cp.Problem(cp.Minimize(cp.sum(x)), parts)).duals) == 3


def wrong_sign(reduced: Any, n: int) -> Any:
    rows, columns, mapped = ENTRIES(reduced, n)
    return rows, columns, -mapped


def moved_rows(reduced: Any, n: int) -> Any:
    rows, columns, mapped = ENTRIES(reduced, n)
    return rows[::-1], columns, mapped


def other_coefficient(reduced: Any, n: int) -> Any:
    rows, columns, mapped = ENTRIES(reduced, n)
    mapped = mapped.copy()
    mapped.data[-1] += 1e-6
    return rows, columns, mapped


ENTRIES = canonical._entries


@pytest.mark.parametrize("tamper", [wrong_sign, moved_rows, other_coefficient])
def test_a_form_that_is_not_the_one_of_cvxpy_is_refused(tamper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "_entries", tamper)
    with pytest.raises(CanonicalFormError, match=re.escape(f"cvxpy {cp.__version__} canonicalizes")):
        canonicalize(least_squares())


@pytest.mark.parametrize("side", ["variables", "duals"])
@pytest.mark.parametrize("tamper", [lambda value: value + 1, lambda value: value**2, lambda value: 1 - value])
def test_values_that_are_no_selection_are_refused(tamper: Any, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    invert = recoveries._invert

    def tampered(*arguments: Any) -> Any:
        values, duals = invert(*arguments)
        changed = {name: tamper(value) for name, value in (values if side == "variables" else duals).items()}
        return (changed, duals) if side == "variables" else (values, changed)

    monkeypatch.setattr(recoveries, "_invert", tampered)
    name = "x" if side == "variables" else "most"
    with pytest.raises(CanonicalFormError, match=f"the value of {name!r} is no selection of its entries"):
        canonicalize(least_squares())


def test_other_cones_are_named() -> None:
    x, t = variable("x", 4, nonneg=True), variable("t")
    cones = canonicalize(cp.Problem(cp.Maximize(t), [cp.PowConeND(x, t, np.full(4, 0.25)), cp.sum(x) <= 1])).cones
    assert cones.others == "power cones of more than three rows"
    assert "power cones of more than three rows" in str(cones)


# ------------------------------------------------------------------------------------ attributes of parameters


ATTRIBUTES: dict[str, tuple[dict[str, bool], float | list[list[float]], float | list[list[float]], str]] = {
    "nonneg": ({"nonneg": True}, 0.0, -0.1, "at least zero"),
    "nonpos": ({"nonpos": True}, 0.0, 0.1, "at most zero"),
    "pos": ({"pos": True}, 0.1, -0.1, "above zero"),
    "neg": ({"neg": True}, -0.1, 0.1, "below zero"),
    "symmetric": ({"symmetric": True}, [[1.0, 2], [2, -3]], [[1.0, 2], [2.1, -3]], "symmetric"),
    "PSD": ({"PSD": True}, [[1.0, 1], [1, 1]], [[1.0, 2], [2, 1]], "PSD"),
    "PSD, skew": ({"PSD": True}, [[2.0, 1], [1, 2]], [[2.0, 1], [0, 2]], "symmetric"),
    "NSD": ({"NSD": True}, [[-1.0, 1], [1, -1]], [[-1.0, 2], [2, -1]], "NSD"),
    "diag": ({"diag": True}, [[1.0, 0], [0, -1]], [[1.0, 0.1], [0, -1]], "diag"),
}


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_values_that_miss_an_attribute_are_refused_by_instance(kind: str) -> None:
    attribute, good, bad, expected = ATTRIBUTES[kind]
    shape = np.shape(good) or (2, 2)
    p, X = parameter("p", *shape, **attribute), variable("X", *shape)
    form = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(X - p))))
    value = torch.tensor(np.broadcast_to(good, (4, *shape)).copy())
    check_parameters(form, {"p": value}, {"p": True})
    check_parameters(form, {"p": value[0]}, {"p": False})
    rounded = value + 1e-12 * torch.eye(shape[0]) * (-1 if kind in ("nonneg", "PSD") else 1)
    check_parameters(form, {"p": rounded}, {"p": True})
    value[2] = torch.tensor(np.broadcast_to(bad, shape).copy())
    name = next(iter(attribute))
    said = re.escape(f"'p' of instance 2 is not {expected}, as its definition says ({name}=True)")
    with pytest.raises(UsageError, match=said):
        check_parameters(form, {"p": value}, {"p": True})
    with pytest.raises(UsageError, match=re.escape(f"the parameter 'p' is not {expected}")):
        check_parameters(form, {"p": value[2]}, {"p": False})


def test_values_outside_of_a_sparse_pattern_are_refused() -> None:
    p, X = parameter("p", 2, 2, sparsity=[(0, 1), (1, 0)]), variable("X", 2, 2)
    form = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(X - p))))
    inside = torch.tensor([[[0.0, 1], [2, 0]]], dtype=torch.float64)
    check_parameters(form, {"p": inside}, {"p": True})
    with pytest.raises(UsageError, match="'p' of instance 0"):
        check_parameters(form, {"p": inside + torch.eye(2)}, {"p": True})
