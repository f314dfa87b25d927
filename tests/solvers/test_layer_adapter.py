"""Our engines under cvxpylayers: the same values, duals and gradients, sharing found again, and no silent answers.

What cvxpylayers calls is also driven without it, by `bare_layer`; the tests with a real CvxpyLayer need it installed.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from convexblocks.formulations.errors import UsageError
from convexblocks.solvers import SolveError, layer_adapter
from convexblocks.solvers.canonical import canonicalize
from convexblocks.solvers.layer_adapter import layer_program, layer_solver
from convexblocks.solvers.problems import solve_problem
from convexblocks.solvers.recoveries import CanonicalFormError

BATCH = 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def canonical_data(problem: cp.Problem, solver: str = "CLARABEL") -> Any:
    """What cvxpylayers takes from cvxpy."""
    for parameter in problem.parameters():
        parameter.value = parameter.project(np.ones(parameter.shape))
    data = problem.get_problem_data(solver)[0]
    program = data["param_prob"]
    for reduced in (program.reduced_P, program.reduced_A):
        reduced.cache(False)
    return SimpleNamespace(
        problem=problem, gp=False, var_recover=[], cone_dims=data["dims"], reduced_P=program.reduced_P,
        reduced_A=program.reduced_A, q=program.q,
    )  # fmt: skip


def entries(ctx: Any, form: Any, batch: dict[str, Tensor]) -> tuple[Tensor | None, Tensor, Tensor]:
    """Entries of P, q and [-A | b] for each instance, as cvxpylayers hands them over."""
    found: list[list[Any]] = [[], [], []]
    for place in range(BATCH):
        # cvxpy's own order, which goes through a matrix column by column.
        vector = np.ones(form.size + 1)
        for name, values in batch.items():
            first = form.parameters[name].column
            vector[first : first + values[place].numel()] = values[place].numpy().ravel(order="F")
        maps = (ctx.reduced_P.reduced_mat, ctx.q, ctx.reduced_A.reduced_mat)
        for rows, mapped in zip(found, maps, strict=True):
            rows.append(None if mapped is None else mapped @ vector[-mapped.shape[1] :])
    P, q, A = (None if rows[0] is None else torch.as_tensor(np.stack(rows)) for rows in found)
    assert q is not None
    assert A is not None
    return P, q, A


@pytest.fixture
def bare_layer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A LayerSolver without cvxpylayers."""
    monkeypatch.setattr(layer_adapter, "optional_package", lambda name: SimpleNamespace(SolverInterface=object))
    return layer_solver


def least_squares() -> tuple[cp.Problem, dict[str, Tensor]]:
    x, A, b = cp.Variable(3, name="x"), cp.Parameter((5, 3), name="A"), cp.Parameter(5, name="b")
    weight, limit = cp.Parameter(nonneg=True, name="weight"), cp.Parameter(name="limit")
    cost = cp.sum_squares(A @ x - b) + weight * cp.norm1(x)
    return cp.Problem(cp.Minimize(cost), [x >= -1, cp.sum(x) == limit, A @ x <= 9]), {
        "A": draw(BATCH, 5, 3), "b": draw(BATCH, 5, seed=1), "weight": draw(BATCH, seed=2).abs(),
        "limit": 0.1 * draw(BATCH, seed=3),
    }  # fmt: skip


def nearest_nonnegative() -> tuple[cp.Problem, cp.Parameter, cp.Variable]:
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - p)), [x >= 0]), p, x


# ------------------------------------------------------------------------------------ without cvxpylayers


def test_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_adapter, "optional_package", lambda name: None)
    with pytest.raises(UsageError, match=r"cvxpylayers, 1\.2 or newer, .* pip install 'cvxpylayers>=1\.2'"):
        layer_solver()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"engine": "best"}, "unknown engine 'best'; known: "),
        ({"tolerance": 0}, "tolerance is 0; expected a number between"),
        ({"tolerance": 1}, "tolerance is 1; expected a number between"),
    ],
)
def test_wrong_options(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        layer_solver(**options)


@pytest.mark.parametrize("shared", [(), ("A",), ("b", "weight", "limit"), ("A", "b", "weight", "limit")])
def test_sharing_is_found_again(shared: tuple[str, ...]) -> None:
    problem, batch = least_squares()
    batch = {name: values[:1].expand_as(values) if name in shared else values for name, values in batch.items()}
    form = canonicalize(problem)
    program = layer_program(form, *entries(canonical_data(problem), form, batch))
    assert program.A.shared == ("A" in shared)
    assert program.P.shared
    assert (len(program.q), len(program.b)) == (1 if "weight" in shared else BATCH, 1 if "b" in shared else BATCH)
    if program.A.own is not None:
        assert len(program.A.own.rows) == 2 * 5 * 3  # A stands in the definition of A x - b and in A x <= 9.
    for place in range(BATCH):
        for parameter in problem.parameters():
            parameter.value = batch[parameter.name()][place].numpy()
        data = problem.get_problem_data("CLARABEL")[0]
        one = program.take(torch.tensor([place]))
        for ours, theirs in ((one.P.dense(), data["P"].toarray()), (one.A.dense(), data["A"].toarray())):
            np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-12)
        np.testing.assert_allclose(one.q[0], data["c"], atol=1e-12)
        np.testing.assert_allclose(one.b[0], data["b"], atol=1e-12)


def test_bounds_stay(bare_layer: Any) -> None:
    """min 1/2 |x - p|^2, x >= 0: a canonical form for solvers with cones on variables would lose the bounds."""
    problem, _, _ = nearest_nonnegative()
    solver, ctx = bare_layer(), canonical_data(problem)
    solver.setup(ctx)
    form = canonicalize(problem)
    batch = {"p": torch.tensor([[-1.0, 2, -3]] * BATCH, dtype=torch.float64)}
    handed = entries(ctx, form, batch)
    primal, _, state = solver.solve_torch_batch(*handed, ctx.cone_dims, {}, True)
    found = primal[:, form.values["x"].places]
    torch.testing.assert_close(found, torch.tensor([[0.0, 2, 0]] * BATCH, dtype=torch.float64), atol=1e-6, rtol=0)
    gradients = solver.derivative_torch_batch(torch.ones_like(primal), torch.zeros(BATCH, form.rows), state)
    assert [None if part is None else part.shape for part in gradients] == [part.shape for part in handed]
    assert solver.solve_torch_batch(*handed, ctx.cone_dims, {}, False)[2] is None
    with pytest.raises(UsageError, match=r"unexpected solver_args \['eps'\]"):
        solver.solve_torch_batch(*handed, ctx.cone_dims, {"eps": 1e-3}, False)


def test_forms_that_lose_constraints_are_refused(bare_layer: Any) -> None:
    problem, _, _ = nearest_nonnegative()
    other, _ = least_squares()
    ctx = canonical_data(other)
    ctx.problem = problem
    with pytest.raises(CanonicalFormError, match="not the one that cvxpy solves"):
        bare_layer().setup(ctx)


def test_engines_are_prepared_once_for_what_is_shared(bare_layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, batch = least_squares()
    asked = []
    prepare = layer_adapter._prepare
    monkeypatch.setattr(layer_adapter, "_prepare", lambda program, engine: asked.append(1) or prepare(program, engine))
    form, ctx, solver = canonicalize(problem), canonical_data(problem), bare_layer("clarabel")
    solver.setup(ctx)
    batch["A"] = batch["A"][:1].expand_as(batch["A"])
    for matrix, shift, times in ((1, 0, 1), (1, 1, 1), (2, 1, 2), (2, 0, 2)):
        changed = batch | {"A": matrix * batch["A"], "b": batch["b"] + shift}
        primal, _, _ = solver.solve_torch_batch(*entries(ctx, form, changed), ctx.cone_dims, {}, False)
        expected = solve_problem(problem, changed).variables["x"]
        torch.testing.assert_close(primal[:, form.values["x"].places], expected, atol=1e-4, rtol=0)
        assert len(asked) == times


def test_infeasible_instances_raise(bare_layer: Any) -> None:
    problem, batch = least_squares()
    form, ctx, solver = canonicalize(problem), canonical_data(problem), bare_layer()
    solver.setup(ctx)
    batch["limit"][2] = -10
    with pytest.raises(SolveError, match="1 of the 4 instances of this layer are not solved; instance 2 is infeasible"):
        solver.solve_torch_batch(*entries(ctx, form, batch), ctx.cone_dims, {}, True)


# ------------------------------------------------------------------------------------ with cvxpylayers


@pytest.fixture
def layer_class() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("cvxpylayers.torch", reason="cvxpylayers is not installed; it is an extra")
    return module.CvxpyLayer


def ball() -> tuple[cp.Problem, dict[str, Tensor]]:
    x, c, A = cp.Variable(3, name="x"), cp.Parameter(3, name="c"), cp.Parameter((4, 3), name="A")
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x) + c @ x), [cp.norm(x) <= 0.3, x[0] + x[1] == 0.1]), {
        "c": draw(BATCH, 3), "A": draw(BATCH, 4, 3, seed=1)
    }  # fmt: skip


def semidefinite() -> tuple[cp.Problem, dict[str, Tensor]]:
    x = cp.Variable((3, 3), symmetric=True, name="x")
    C = cp.Parameter((3, 3), symmetric=True, name="C")
    drawn = draw(BATCH, 3, 3)
    return cp.Problem(cp.Minimize(cp.sum_squares(x - C)), [cp.trace(x) == 1, x >> 0]), {"C": drawn + drawn.mT}


def entropy() -> tuple[cp.Problem, dict[str, Tensor]]:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    return cp.Problem(cp.Minimize(-cp.sum(cp.entr(x)) - c @ x), [cp.sum(x) == 1]), {"c": draw(BATCH, 3)}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # In cvxpylayers' own interface.
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("model", [least_squares, ball, semidefinite, entropy])
def test_agreement_with_diffcp(layer_class: Any, model: Any, shared: bool) -> None:
    problem, batch = model()
    names = list(batch)
    if shared and len(names) > 1:
        batch[names[0]] = batch[names[0]][0]
    given = [values.clone().requires_grad_() for values in batch.values()]
    parameters = [problem.param_dict[name] for name in names]
    equality = next(part for part in problem.constraints if isinstance(part, cp.constraints.Equality))
    wanted = [problem.var_dict["x"], equality.dual_variables[0]]
    answers = []
    for solver, options in ((layer_solver(tolerance=1e-8), {}), ("DIFFCP", {"eps": 1e-9, "max_iters": 100_000})):
        layer = layer_class(problem, parameters=parameters, variables=wanted, solver=solver)
        x, dual = layer(*given, solver_args=options)
        loss = (draw(*x.shape, seed=5) * x).sum() + dual.sum()
        answers.append((x.detach(), dual.detach(), *torch.autograd.grad(loss, given)))
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-4)


def test_layer_keeps_bounds(layer_class: Any) -> None:
    problem, p, x = nearest_nonnegative()
    layer = layer_class(problem, parameters=[p], variables=[x], solver=layer_solver())
    given = torch.tensor([-1.0, 2, -3], dtype=torch.float64, requires_grad=True)
    for values in (given, given[None], given.float()):
        (found,) = layer(values)
        assert found.shape == values.shape
        expected = torch.tensor([0.0, 2, 0]).expand_as(values).to(found)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    layer(given)[0].sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad, torch.tensor([0.0, 1, 0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_quadratic_forms_and_several_layers(layer_class: Any) -> None:
    """P varies over the batch; one solver serves two layers."""
    x, H, q = cp.Variable(3, name="x"), cp.Parameter((3, 3), PSD=True, name="H"), cp.Parameter(3, name="q")
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, H) + q @ x), [cp.sum(x) == 1, x >= -0.2])
    solver = layer_solver(tolerance=1e-8)
    layer = layer_class(problem, parameters=[H, q], variables=[x], solver=solver)
    again, p, z = nearest_nonnegative()
    second = layer_class(again, parameters=[p], variables=[z], solver=solver)
    root = draw(BATCH, 3, 3)
    given = {"H": (root @ root.mT + torch.eye(3)).requires_grad_(), "q": draw(BATCH, 3, seed=1).requires_grad_()}
    (found,) = layer(*given.values())
    torch.testing.assert_close(second(given["q"])[0], given["q"].clamp_min(0), atol=1e-6, rtol=0)
    expected = solve_problem(problem, given, tolerance=1e-8).variables["x"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    ours, theirs = (torch.autograd.grad((value**2).sum(), list(given.values())) for value in (found, expected))
    # cvxpylayers gives the gradient of a symmetric parameter in its upper triangle.
    for one, two in zip(ours, theirs, strict=True):
        square = one.ndim == 3
        torch.testing.assert_close((one + one.mT) / 2 if square else one, two, atol=1e-6, rtol=1e-4)


def test_geometric_programs(layer_class: Any) -> None:
    """min x + p / x over x > 0 is at the root of p."""
    x, p = cp.Variable(pos=True, name="x"), cp.Parameter(pos=True, name="p")
    layer = layer_class(cp.Problem(cp.Minimize(x + p / x)), [p], [x], solver=layer_solver(tolerance=1e-8), gp=True)
    given = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64, requires_grad=True)
    (found,) = layer(given)
    torch.testing.assert_close(found, given.sqrt(), atol=1e-4, rtol=0)
    found.sum().backward()
    torch.testing.assert_close(given.grad, 0.5 / given.detach().sqrt(), atol=1e-4, rtol=0)


def test_infeasible_layers_raise(layer_class: Any) -> None:
    x, p = cp.Variable(2, name="x"), cp.Parameter(name="p")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= 1, cp.sum(x) == p])
    layer = layer_class(problem, parameters=[p], variables=[x], solver=layer_solver())
    with pytest.raises(SolveError, match="instance 1 is infeasible"):
        layer(torch.tensor([3.0, 1.0], dtype=torch.float64))


def test_duals_that_would_be_unpacked_wrongly_are_refused(layer_class: Any) -> None:
    problem, _ = semidefinite()
    dual = problem.constraints[1].dual_variables[0]
    with pytest.raises(UsageError, match="the dual of a semidefinite constraint"):
        layer_class(problem, parameters=problem.parameters(), variables=[dual], solver=layer_solver())
