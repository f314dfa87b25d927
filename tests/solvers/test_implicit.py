"""Gradients through batches of solves: against finite differences, known derivatives, and degenerate programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import clarabel
import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convexblocks.formulations.errors import UsageError
from convexblocks.solvers import SolveError, Status, adjoint_system, cone_derivatives, implicit
from convexblocks.solvers.canonical import canonicalize
from convexblocks.solvers.cone_points import onto_second_order, onto_semidefinite
from convexblocks.solvers.conic_program import Cones, ConicProgram
from convexblocks.solvers.implicit import conic_vector_jacobian, differentiable
from convexblocks.solvers.matrix import Matrix
from convexblocks.solvers.parametrized import Sharing
from convexblocks.solvers.problem_answers import recover
from convexblocks.solvers.problem_batch import check_batch
from convexblocks.solvers.shared_matrix import SharedMatrix
from convexblocks.solvers.single_programs import clarabel_cones

BATCH = 3
STATUSES = {"Solved": Status.SOLVED, "PrimalInfeasible": Status.INFEASIBLE, "DualInfeasible": Status.UNBOUNDED}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(matrices: Tensor) -> Tensor:
    return (matrices + matrices.mT) / 2


def clarabel_points(program: ConicProgram, tolerance: float = 1e-11) -> tuple[Tensor, Tensor, list[Status]]:
    """Solutions of each instance on its own, NaN where there is none."""
    found, status = [], []
    for place in range(program.batch):
        one = program.take(torch.tensor([place]))
        P, A = (sp.csc_matrix(part.dense().reshape(part.shape).numpy()) for part in (one.P, one.A))
        options = clarabel.DefaultSettings()
        options.verbose = False
        options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = tolerance
        cones = clarabel_cones(one.cones)
        answer = clarabel.DefaultSolver(sp.triu(P, format="csc"), one.q[0].numpy(), A, one.b[0].numpy(), cones, options)
        solution = answer.solve()
        # Clarabel stops short of such a tolerance on exponential cones.
        ended = str(solution.status).replace("AlmostSolved", "Solved").replace("InsufficientProgress", "Solved")
        status.append(STATUSES[ended])
        nothing = np.nan if status[-1] is not Status.SOLVED else 1.0
        found.append([torch.tensor(np.array(part)) * nothing for part in (solution.x, solution.z)])
    x, y = (torch.stack(parts) for parts in zip(*found, strict=True))
    return x, y, status


class Solver:
    """A problem, canonicalized once; calls give values, duals and objective with gradients."""

    def __init__(self, problem: cp.Problem) -> None:
        self.form = canonicalize(problem)
        self.reached: list[int] = []

    def __call__(self, **parameters: Tensor) -> dict[str, Tensor]:
        batch = check_batch(self.form, parameters)
        sharing = Sharing(self.form, batch.batched)
        constants = sharing.constants(batch.shared)

        def program_of(places: Tensor) -> ConicProgram:
            self.reached += places.tolist()
            return sharing.program(constants, batch.own(places), len(places))

        program = program_of(torch.arange(batch.size))
        self.reached = []
        x, y, self.status = clarabel_points(program)
        value = (x * (program.P.times(x) / 2 + program.q)).sum(1) + program.offset
        x, y, value = differentiable(sharing, parameters, program_of, x, y, value, self.status)
        found = {name: recover(recovery, x) for name, recovery in self.form.values.items()}
        found |= {name: recover(recovery, y) for name, recovery in self.form.duals.items()}
        return found | {"objective": self.form.sign * value}


def directional(
    solver: Solver, parameters: Mapping[str, Tensor], name: str, loss: Callable[[dict[str, Tensor]], Tensor], seed: int
) -> tuple[float, float]:
    """Central difference along a random direction of one parameter, and the gradient along it."""
    step, given = 1e-5, parameters[name]
    direction = draw(*given.shape, seed=seed)
    attributes = set(solver.form.parameters[name].attributes)
    if {"symmetric", "PSD"} & attributes:
        direction = symmetric(direction)
    if "diag" in attributes:
        direction = torch.diag_embed(torch.diagonal(direction, dim1=-2, dim2=-1))
    ahead, behind = (loss(solver(**{**parameters, name: given + sign * step * direction})) for sign in (1, -1))
    variable = given.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(solver(**{**parameters, name: variable})), variable)
    assert gradient.shape == given.shape
    return float(ahead - behind) / (2 * step), float((gradient * direction).sum())


# ------------------------------------------------------------------------------------ finite differences


def quadratic() -> tuple[cp.Problem, dict[str, Tensor]]:
    """Equality, inequality, bounds, hinges, absolute values, a scalar in the objective, a matrix that is not square."""
    x, W, b = cp.Variable(4, name="x"), cp.Parameter((3, 4), name="W"), cp.Parameter(3, name="b")
    p, total, weight = cp.Parameter(4, name="p"), cp.Parameter(name="total"), cp.Parameter(nonneg=True, name="weight")
    cost = 0.5 * cp.sum_squares(x - p) + weight * cp.norm1(x) + cp.sum_squares(cp.pos(W @ x - b))
    limits = [(x[0] + x[1] == total).set_label("total"), (x <= 1).set_label("top"), (W @ x >= -2).set_label("rows")]
    drawn = {"W": draw(BATCH, 3, 4), "b": draw(BATCH, 3, seed=1), "p": draw(BATCH, 4, seed=2)}
    return cp.Problem(cp.Minimize(cost), limits), drawn | {
        "total": draw(BATCH, seed=3), "weight": 0.3 * draw(BATCH, seed=4).abs()
    }  # fmt: skip


def nonnegative_least_squares() -> tuple[cp.Problem, dict[str, Tensor]]:
    x, A, b = cp.Variable(3, name="x"), cp.Parameter((6, 3), name="A"), cp.Parameter(6, name="b")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [(x >= 0).set_label("sign")])
    return problem, {"A": draw(BATCH, 6, 3), "b": draw(BATCH, 6, seed=1)}


def quadratic_form() -> tuple[cp.Problem, dict[str, Tensor]]:
    x, H, q = cp.Variable(3, name="x"), cp.Parameter((3, 3), PSD=True, name="H"), cp.Parameter(3, name="q")
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, H) + q @ x), [cp.sum(x) == 1, x >= -0.2])
    root = draw(BATCH, 3, 3)
    return problem, {"H": root @ root.mT + torch.eye(3, dtype=torch.float64), "q": draw(BATCH, 3, seed=1)}


def maximization() -> tuple[cp.Problem, dict[str, Tensor]]:
    """A matrix variable that is not square, a diagonal parameter, an objective with a constant."""
    X, C = cp.Variable((2, 3), name="X"), cp.Parameter((2, 3), name="C")
    D, offset = cp.Parameter((3, 3), diag=True, name="D"), cp.Parameter(name="offset")
    value = offset + cp.sum(cp.multiply(C, X)) - cp.sum_squares(X)
    return cp.Problem(cp.Maximize(value), [(X @ D <= 0.1).set_label("limit")]), {
        "C": draw(BATCH, 2, 3), "D": torch.diag_embed(1 + draw(BATCH, 3, seed=1).abs()), "offset": draw(BATCH, seed=2)
    }  # fmt: skip


def linear() -> tuple[cp.Problem, dict[str, Tensor]]:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    G, h = cp.Parameter((5, 3), name="G"), cp.Parameter(5, name="h")
    limits = [(G @ x <= h).set_label("rows"), cp.norm1(x) <= 4]
    return cp.Problem(cp.Minimize(c @ x), limits), {
        "c": draw(BATCH, 3), "G": draw(BATCH, 5, 3, seed=1), "h": 0.2 + draw(BATCH, 5, seed=2).abs()
    }  # fmt: skip


MODELS = [quadratic, nonnegative_least_squares, quadratic_form, maximization, linear]
NAMES = [(model, name) for model in MODELS for name in model()[1]]


@pytest.mark.parametrize("shared", ["none", "this one", "the others", "all"])
@pytest.mark.parametrize(("model", "name"), NAMES, ids=[f"{model.__name__}-{name}" for model, name in NAMES])
def test_finite_differences(model: Callable[[], Any], name: str, shared: str) -> None:
    problem, drawn = model()
    alone = {"none": [], "this one": [name], "the others": [n for n in drawn if n != name], "all": [*drawn]}[shared]
    parameters = {n: values[0] if n in alone else values for n, values in drawn.items()}
    solver = Solver(problem)
    found = solver(**parameters)
    labels = {"total", "top", "sign", "limit"} & set(found)
    for what in sorted({"x", "X", "objective"} & set(found) | labels):
        weights = draw(*found[what].shape, seed=7)

        def loss(answer: dict[str, Tensor], what: str = what, weights: Tensor = weights) -> Tensor:
            return (weights * answer[what]).sum()

        expected, gradient = directional(solver, parameters, name, loss, seed=8)
        assert gradient == pytest.approx(expected, rel=1e-4, abs=1e-5), what


def test_gradcheck() -> None:
    problem, drawn = nonnegative_least_squares()
    solver = Solver(problem)

    def values(A: Tensor, b: Tensor) -> Tensor:
        return solver(A=A, b=b)["x"]

    both = (drawn["A"].requires_grad_(), drawn["b"].requires_grad_())
    assert torch.autograd.gradcheck(values, both, eps=1e-5, atol=1e-5, rtol=1e-4)
    assert torch.autograd.gradcheck(values, (drawn["A"][0].detach().requires_grad_(), both[1]), eps=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------ known derivatives of cones


def check_against(
    problem: cp.Problem, known: Callable[[Tensor], Tensor], given: Tensor, tolerance: float = 1e-6
) -> None:
    """A problem in one parameter p and one variable x whose solution is a known smooth function of p."""
    ours, theirs = (given.clone().requires_grad_() for _ in range(2))
    x, expected = Solver(problem)(p=ours)["x"], known(theirs)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)
    weights = draw(*x.shape, seed=9)
    found, wanted = (torch.autograd.grad((weights * at).sum(), of)[0] for at, of in ((x, ours), (expected, theirs)))
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ball(size: int) -> None:
    x, p = cp.Variable(size, name="x"), cp.Parameter(size, name="p")
    given = torch.cat([3 + draw(2, size), 0.1 * draw(2, size, seed=1)])

    def projection(p: Tensor) -> Tensor:
        return p / torch.linalg.vector_norm(p, dim=1, keepdim=True).clamp_min(1)

    check_against(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm(x) <= 1]), projection, given)
    if size > 1:
        farthest = cp.Problem(cp.Maximize(p @ x), [cp.norm(x) <= 1])
        check_against(farthest, lambda p: p / torch.linalg.vector_norm(p, dim=1, keepdim=True), given, 1e-5)


def test_second_order_tip() -> None:
    """Near the tip the solution does not move, inside it follows."""
    x, p = cp.Variable(2, name="x"), cp.Parameter(2, name="p")
    problem = cp.Problem(cp.Minimize(cp.norm(x) + cp.sum_squares(x - p)))
    given = torch.tensor([[0.1, 0.2], [2.0, 1.0]], dtype=torch.float64)

    def shrunk(p: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(p, dim=1, keepdim=True)
        return p * (1 - 0.5 / length).clamp_min(0)

    check_against(problem, shrunk, given)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_semidefinite_projection(order: int) -> None:
    X, C = cp.Variable((order, order), symmetric=True, name="x"), cp.Parameter((order, order), symmetric=True, name="p")
    given = symmetric(draw(BATCH, order, order))

    def projection(C: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(symmetric(C))
        return (vectors * values.clamp_min(0)[:, None]) @ vectors.mT

    check_against(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0]), projection, given)


def test_largest_eigenvector() -> None:
    X, C = cp.Variable((3, 3), symmetric=True, name="x"), cp.Parameter((3, 3), symmetric=True, name="p")

    def outer(C: Tensor) -> Tensor:
        vector = torch.linalg.eigh(symmetric(C))[1][:, :, -1]
        return vector[:, :, None] * vector[:, None]

    problem = cp.Problem(cp.Maximize(cp.trace(C @ X)), [X >> 0, cp.trace(X) == 1])
    check_against(problem, outer, symmetric(draw(BATCH, 3, 3)), 1e-4)


def test_symmetric_gradients_are_symmetric() -> None:
    X, C = cp.Variable((3, 3), symmetric=True, name="x"), cp.Parameter((3, 3), symmetric=True, name="p")
    given = symmetric(draw(BATCH, 3, 3)).requires_grad_()
    found = Solver(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0]))(p=given)["x"]
    (gradient,) = torch.autograd.grad((draw(BATCH, 3, 3) * found).sum(), given)
    assert gradient.abs().max() > 0.1
    torch.testing.assert_close(gradient, gradient.mT)


def test_entropy_is_softmax() -> None:
    x, p = cp.Variable(4, name="x"), cp.Parameter(4, name="p")
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) + p @ x), [cp.sum(x) == 1])
    check_against(problem, lambda p: torch.softmax(p, dim=1), 2 * draw(BATCH, 4), 1e-4)


def test_log_sum_exp() -> None:
    """At x = p - softmax(x) the derivative of x in p is (I + the Hessian of log-sum-exp)^-1."""
    x, p = cp.Variable(4, name="x"), cp.Parameter(4, name="p")
    given = draw(BATCH, 4).requires_grad_()
    found = Solver(cp.Problem(cp.Minimize(cp.log_sum_exp(x) + 0.5 * cp.sum_squares(x - p))))(p=given)["x"]
    share = torch.softmax(found.detach(), dim=1)
    hessian = torch.diag_embed(share) - share[:, :, None] * share[:, None]
    weights = draw(BATCH, 4, seed=3)
    expected = torch.linalg.solve(torch.eye(4, dtype=torch.float64) + hessian, weights)
    (gradient,) = torch.autograd.grad((weights * found).sum(), given)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_power_cones() -> None:
    x, p = cp.Variable(2, name="x"), cp.Parameter(2, name="p")
    cube = cp.Problem(cp.Minimize(cp.sum(cp.power(x, 3, approx=False)) + cp.sum_squares(x - p)))
    # Below zero the cost is infinite.
    given = torch.tensor([[0.5, 1.0], [3.0, 0.2], [-1.0, 2.0]], dtype=torch.float64)
    check_against(cube, lambda p: torch.where(p > 0, ((1 + 6 * p.clamp_min(0)).sqrt() - 1) / 3, 0), given, 1e-3)
    root = cp.Problem(cp.Maximize(cp.sum(cp.power(x, 0.3, approx=False)) - p @ x))
    check_against(root, lambda p: (0.3 / p) ** (1 / 0.7), 0.5 + draw(BATCH, 2).abs(), 1e-3)


# ------------------------------------------------------------------------------------ derivatives of projections


def matrix_of(part: cone_derivatives.Curved) -> Tensor:
    assert ((0 <= part.values) & (part.values <= 1)).all()
    identity = torch.eye(part.values.shape[-1], dtype=torch.float64).expand_as(part.vectors)
    torch.testing.assert_close(part.vectors.mT @ part.vectors, identity)
    return (part.vectors * part.values[..., None, :]) @ part.vectors.mT


KNOWN = {
    "second-order": (Cones(second_order=(4, 4)), 4, onto_second_order),
    "semidefinite": (Cones(semidefinite=(3, 3)), 6, lambda v: onto_semidefinite(v, 3)),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_projections_are_differentiated(kind: str) -> None:
    cones, size, project = KNOWN[kind]
    v = torch.cat([draw(6, 2 * size), torch.eye(2 * size, dtype=torch.float64)[:1] * 0.3])
    # In the last row one block is near the axis of the cone and the other near that of its polar.
    v[-1] += 0.01 * draw(2 * size, seed=1) - 2 * torch.eye(2 * size, dtype=torch.float64)[size]
    s = project(v.reshape(-1, 2, size)).reshape(v.shape)
    (part,) = cone_derivatives.curved_derivatives(s, s - v, cones)
    found = matrix_of(part)
    for row in range(len(v)):
        for block in range(2):
            point = v[row, block * size : (block + 1) * size]
            expected = torch.autograd.functional.jacobian(project, point)
            torch.testing.assert_close(found[row, block], expected, rtol=1e-6, atol=1e-8)


def exponential_surface(where: Tensor) -> Tensor:
    """v = s - λ g(s) and s, stacked, at s = (x, y, y exp(x / y))."""
    x, y, pull = where
    z = y * torch.exp(x / y)
    s = torch.stack([x, y, z])
    return torch.stack([s - pull * torch.stack([-torch.ones_like(x), torch.log(z / y) - 1, y / z]), s])


def power_surface(where: Tensor, a: float, sign: float) -> Tensor:
    """The same at s = (x, y, ± x^a y^(1 - a))."""
    x, y, pull = where
    mean = x**a * y ** (1 - a)
    s = torch.stack([x, y, sign * mean])
    return torch.stack([s - pull * torch.stack([a * mean / x, (1 - a) * mean / y, -sign * torch.ones_like(x)]), s])


positive = st.floats(0.1, 3)


def check_surface(surface: Callable[[Tensor], Tensor], where: Tensor, cones: Cones) -> None:
    v, s = surface(where)
    of_v, of_s = torch.autograd.functional.jacobian(surface, where)
    (part,) = cone_derivatives.curved_derivatives(s[None], (s - v)[None], cones)
    torch.testing.assert_close(matrix_of(part)[0, 0], of_s @ torch.linalg.inv(of_v), rtol=1e-6, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.floats(-3, 3), positive, positive)
def test_exponential_surface(x: float, y: float, pull: float) -> None:
    check_surface(exponential_surface, torch.tensor([x * y, y, pull], dtype=torch.float64), Cones(exponential=1))


@settings(max_examples=25, deadline=None)
@given(positive, positive, positive, st.sampled_from([0.2, 0.5, 0.9]), st.sampled_from([-1.0, 1.0]))
def test_power_surface(x: float, y: float, pull: float, a: float, sign: float) -> None:
    where = torch.tensor([x, y, pull], dtype=torch.float64)
    check_surface(lambda at: power_surface(at, a, sign), where, Cones(power=(a,)))


@pytest.mark.parametrize(
    ("cones", "s", "y", "expected"),
    [
        (Cones(exponential=1), (0, 1, 3), (0, 0, 0), (1, 1, 1)),
        (Cones(exponential=1), (0, 0, 0), (-1, 0, 3), (0, 0, 0)),
        (Cones(exponential=1), (0, 0, 0), (0, 1, 1), (0, 0, 0)),
        (Cones(exponential=1), (-1, 0, 2), (0, 1, 0), (1, 0, 1)),
        (Cones(exponential=1), (-1, 0, 0), (0, 1, 1), (1, 0, 0)),
        (Cones(power=(0.4,)), (1, 1, 0.5), (0, 0, 0), (1, 1, 1)),
        (Cones(power=(0.4,)), (0, 0, 0), (1, 1, 0.5), (0, 0, 0)),
        (Cones(power=(0.3,)), (2, 0, 0), (0, 1, 0), (1, 0, 0)),
        (Cones(power=(0.8,)), (2, 0, 0), (0, 1, 0), (1, 0, 1)),
        (Cones(second_order=(3,)), (2, 1, 0), (0, 0, 0), (1, 1, 1)),
        (Cones(second_order=(3,)), (0, 0, 0), (2, 1, 0), (0, 0, 0)),
        (Cones(second_order=(1, 1)), (2, 0), (0, 2), (1, 0)),
    ],
)
def test_faces(cones: Cones, s: Any, y: Any, expected: Any) -> None:
    points, duals = (torch.tensor([row], dtype=torch.float64) for row in (s, y))
    (part,) = cone_derivatives.curved_derivatives(points, duals, cones)
    found = torch.block_diag(*matrix_of(part)[0])
    torch.testing.assert_close(found, torch.diag(torch.tensor(expected, dtype=torch.float64)), rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------ degenerate programs


def closest(*limits: Callable[[cp.Variable], Any]) -> Solver:
    """The point of a set that is closest to p."""
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    return Solver(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [limit(x) for limit in limits]))


def jacobian(solver: Solver, given: Tensor) -> Tensor:
    """Derivative of x in p for one instance."""
    p = given.clone().requires_grad_()
    x = solver(p=p)["x"][0]
    return torch.stack([torch.autograd.grad(entry, p, retain_graph=True)[0] for entry in x])


def test_constraints_twice() -> None:
    """Multipliers are not unique; the solution is, and so is its derivative."""
    third = torch.eye(3, dtype=torch.float64) - 1 / 3
    given = draw(3)
    twice = closest(lambda x: cp.sum(x) == 1, lambda x: 2 * cp.sum(x) == 2)
    torch.testing.assert_close(jacobian(twice, given), third, rtol=0, atol=1e-7)
    held = closest(lambda x: x <= -9, lambda x: x <= -9, lambda x: x >= -9)
    torch.testing.assert_close(jacobian(held, given), torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=1e-7)
    both = closest(lambda x: cp.sum(x) <= -9, lambda x: 3 * cp.sum(x) <= -27)
    torch.testing.assert_close(jacobian(both, given), third, rtol=0, atol=1e-7)


def test_no_constraints() -> None:
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    free = Solver(cp.Problem(cp.Minimize(cp.quad_form(x, np.diag([1.0, 2.0, 4.0])) + p @ x)))
    assert free.form.rows == 0
    expected = torch.diag(torch.tensor([-0.5, -0.25, -0.125], dtype=torch.float64))
    torch.testing.assert_close(jacobian(free, draw(3)), expected)


def test_bad_scales() -> None:
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    solver = Solver(cp.Problem(cp.Minimize(1e4 * cp.sum_squares(x - p)), [1e-3 * cp.sum(x) <= -1e-3, x >= -1e3]))
    expected = torch.eye(3, dtype=torch.float64) - 1 / 3
    torch.testing.assert_close(jacobian(solver, draw(3).abs()), expected, rtol=0, atol=1e-6)


def test_strict_complementarity_fails() -> None:
    """At a kink the derivative is between those of the two sides."""
    found = jacobian(closest(lambda x: x >= 0), torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64))
    assert 0 <= found[0, 0] <= 1
    found[0, 0] = 0
    torch.testing.assert_close(found, torch.diag(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)), atol=1e-6, rtol=0)


def test_solutions_that_are_not_unique() -> None:
    """Without curvature along (1, -1, 0) the part of the gradient along it is left out."""
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    solver = Solver(cp.Problem(cp.Minimize(cp.square(x[0] + x[1] - p[0]) + cp.square(x[2] - p[2]))))
    expected = torch.tensor([[0.5, 0, 0], [0.5, 0, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(jacobian(solver, draw(3)), expected, rtol=0, atol=1e-6)


def test_inexact_points() -> None:
    """Points that meet a tolerance of 1e-6 give gradients as good."""
    problem, drawn = quadratic()
    form = canonicalize(problem)
    sharing = Sharing(form, tuple(drawn))
    program = sharing.program(sharing.constants({}), drawn, BATCH)
    x, y, _ = clarabel_points(program)
    given = draw(*x.shape)
    exact, rough = (
        conic_vector_jacobian(program, x + size * draw(*x.shape, seed=1), (y + size * draw(*y.shape, seed=2)), given)
        for size in (0, 1e-7)
    )
    pairs = zip(*(implicit.pull_back(sharing, found, tuple(drawn)).values() for found in (exact, rough)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------ batches, chunks, refusals


def test_chunks_and_eliminations_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, drawn = quadratic()
    given = {name: values.clone().requires_grad_() for name, values in drawn.items()}
    given["W"] = drawn["W"][0].clone().requires_grad_()
    solver = Solver(problem)

    def gradients() -> tuple[Tensor, ...]:
        answer = solver(**given)
        return torch.autograd.grad((answer["x"] ** 3).sum() + answer["top"].sum(), list(given.values()))

    whole = gradients()
    assert solver.reached == [0, 1, 2]
    monkeypatch.setattr(implicit, "CHUNK_ENTRIES", 1)
    for one, other in zip(whole, gradients(), strict=True):
        torch.testing.assert_close(one, other)
    monkeypatch.setattr(implicit, "find_stages", lambda program: [])
    for one, other in zip(whole, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)
    monkeypatch.setattr(adjoint_system, "RESIDUAL", -1)  # All by eigenvalues.
    for one, other in zip(whole, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_only_what_the_loss_needs_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = closest(lambda x: x >= 0)
    p = draw(4, 3).requires_grad_()
    answer = solver(p=p)
    assert solver.reached == []
    answer["x"][[1, 3]].sum().backward()
    assert solver.reached == [1, 3]
    assert p.grad is not None
    assert p.grad[[0, 2]].abs().max() == 0
    torch.testing.assert_close(p.grad[[1, 3]], (p[[1, 3]] > 0).to(p))
    monkeypatch.setattr(implicit, "reduce_program", None)  # The objective needs no system.
    (gradient,) = torch.autograd.grad(solver(p=p)["objective"].sum(), p)
    torch.testing.assert_close(gradient, 2 * p.clamp_max(0).detach(), rtol=0, atol=1e-7)
    assert solver(p=p.detach())["x"].requires_grad is False
    with torch.no_grad():
        assert solver(p=p)["x"].requires_grad is False


def test_gradients_have_the_type_of_their_parameter() -> None:
    p = draw(2, 3).float().requires_grad_()
    found = closest(lambda x: x >= 0)(p=p)["x"]
    assert found.dtype == torch.float64
    found.sum().backward()
    assert p.grad is not None
    assert p.grad.dtype == torch.float32
    assert torch.equal(p.grad, (p > 0).float())


@pytest.mark.parametrize("changed", ["A", "b"])
def test_changed_parameters_are_noticed(changed: str) -> None:
    problem, drawn = nonnegative_least_squares()
    drawn["b"].requires_grad_()
    loss = Solver(problem)(**drawn)["x"].sum()
    with torch.no_grad():
        drawn[changed] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_infeasible_rows_refuse() -> None:
    x, p, limit = cp.Variable(2, name="x"), cp.Parameter(2, name="p"), cp.Parameter(name="limit")
    solver = Solver(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, cp.sum(x) <= limit]))
    p, limit = draw(3, 2).abs().requires_grad_(), torch.tensor([0.1, -1.0, 9.0], dtype=torch.float64)
    found = solver(p=p, limit=limit)["x"]
    assert solver.status == [Status.SOLVED, Status.INFEASIBLE, Status.SOLVED]
    with pytest.raises(SolveError, match=r"depends on 1 of the instances .* instance 1 is infeasible"):
        torch.autograd.grad(found.sum(), p, retain_graph=True)
    good = torch.tensor([0, 2])
    for loss in (found[good].sum(), torch.where(torch.tensor([[True], [False], [True]]), found, 0).sum()):
        (gradient,) = torch.autograd.grad(loss, p, retain_graph=True)
        expected = torch.tensor([[0.0, 0], [0, 0], [1, 1]], dtype=torch.float64)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-7)


def empty_program(m: int, n: int, cones: Cones) -> ConicProgram:
    """All zeros."""
    none, zeros = torch.zeros(0, dtype=torch.int64), torch.zeros(1, n + m, dtype=torch.float64)
    P, A = (Matrix(SharedMatrix(none, none, zeros[0, :0], shape)) for shape in ((n, n), (m, n)))
    return ConicProgram(P, zeros[:, :n], A, zeros[:, n:], zeros[0, :1], cones, 1)


@pytest.mark.parametrize(
    ("n", "cones", "told"),
    [
        (3000, Cones(zero=1), "the gradient of a batch of solves needs a program of at most"),
        (1, Cones(zero=1, others="power cones of more than three rows"), "no gradient is known for power cones"),
    ],
)
def test_refusals(n: int, cones: Cones, told: str) -> None:
    x, y = torch.ones(1, n, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(UsageError, match=told):
        conic_vector_jacobian(empty_program(1, n, cones), x, y, x)


def test_second_derivatives_refuse() -> None:
    p = draw(2, 3).requires_grad_()
    (gradient,) = torch.autograd.grad((closest(lambda x: x >= 0)(p=p)["x"] ** 3).sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
