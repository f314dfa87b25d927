"""A zoo of disciplined parametrized models, each with a drawn batch and what is to come of it.

Small, seeded, of every kind that `solve_problem` is to take: linear and quadratic programs, regressions, second-order,
semidefinite, exponential and power cones, the blocks of the catalogue, and instances that are infeasible, unbounded,
badly scaled or degenerate. How they end and what of their answers is unique is stated here, and checked by tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cvxpy as cp
import numpy as np
from instances import LOSS_NAMES, MODELLED, data_of

from convexblocks.formulations import FenchelActivation, FenchelOutput, FenchelWeight

BATCH = 6
Data = dict[str, np.ndarray]
Rng = np.random.Generator


@dataclass(frozen=True)
class Model:
    """A model, a drawer of batches for it, and what is to come of them.

    Attributes
    ----------
    name : str
    write : callable
        Writes the problem anew; variables, parameters and constraints have names.
    drawn : callable
        Generator -> parameters of a batch; what varies has a leading axis of `BATCH`.
    infeasible, unbounded : tuple of int
        Places of the batch that end so, whatever the seed; all others have a solution.
    unique_values, unique_duals : bool
        Whether every instance has a single solution, and single duals.
    engines : tuple of str
        Engines that have to claim the model.
    accuracy : float
        Relative agreement of objectives that may be asked for, at a tolerance of 1e-6.
    """

    name: str
    write: Callable[[], cp.Problem]
    drawn: Callable[[Rng], Data]
    infeasible: tuple[int, ...] = ()
    unbounded: tuple[int, ...] = ()
    unique_values: bool = True
    unique_duals: bool = True
    engines: tuple[str, ...] = ()
    accuracy: float = 1e-5

    def draw(self, seed: int = 0) -> Data:
        """Parameters of a batch."""
        return self.drawn(np.random.default_rng(seed))

    def __str__(self) -> str:
        return self.name


_MODELS: list[Model] = []
BOX, OWN, SOFTMAX, SHARED = "projected_gradient", "projected_newton", "log_sum_exp", "shared_admm"
MANY_VALUES = {"unique_values": False}
MANY_DUALS = {"unique_duals": False}
MANY_ANSWERS = MANY_VALUES | MANY_DUALS


def model(
    drawn: Callable[[Rng], Data], *engines: str, **expected: Any
) -> Callable[[Callable[[], cp.Problem]], Callable[[], cp.Problem]]:
    """Enter the model that the decorated function writes, under that function's name."""

    def enter(write: Callable[[], cp.Problem]) -> Callable[[], cp.Problem]:
        _MODELS.append(Model(write.__name__, write, drawn, engines=engines, **expected))
        return write

    return enter


def variable(name: str, *shape: int, **attributes: Any) -> cp.Variable:
    return cp.Variable(shape, name=name, **attributes)


def parameter(name: str, *shape: int, **attributes: Any) -> cp.Parameter:
    return cp.Parameter(shape, name=name, **attributes)


def minimize(objective: Any, **constraints: Any) -> cp.Problem:
    return cp.Problem(cp.Minimize(objective), labelled(constraints))


def maximize(objective: Any, **constraints: Any) -> cp.Problem:
    return cp.Problem(cp.Maximize(objective), labelled(constraints))


def labelled(constraints: dict[str, Any]) -> list[Any]:
    for label, constraint in constraints.items():
        constraint.set_label(label)
    return list(constraints.values())


def fixed(*shape: int, seed: int = 1) -> np.ndarray:
    """Numbers that belong to a model, and to no drawn batch."""
    return np.random.default_rng([1_000, seed]).standard_normal(shape)


def own(rng: Rng, *shape: int) -> np.ndarray:
    """Normal numbers, different for every instance."""
    return rng.standard_normal((BATCH, *shape))


def definite(rng: Rng, order: int) -> np.ndarray:
    """A positive definite matrix for every instance."""
    factor = own(rng, order, order + 2)
    return factor @ factor.mT / order + 0.1 * np.eye(order)


def half_squares(expression: Any) -> Any:
    return 0.5 * cp.sum_squares(expression)


GRAM = fixed(6, 8) @ fixed(6, 8).T / 6


# ------------------------------------------------------------------------------------ linear programs


@model(
    lambda r: {
        "cost": r.random((BATCH, 3, 4)),
        "supply": np.array([5.0, 6.0, 7.0]),
        "demand": 2 + 2 * r.random((BATCH, 4)),
    },
    SHARED,
)
def transport() -> cp.Problem:
    x = variable("x", 3, 4, nonneg=True)
    cost, supply, demand = parameter("cost", 3, 4), parameter("supply", 3), parameter("demand", 4)
    return minimize(
        cp.sum(cp.multiply(cost, x)), supply=cp.sum(x, axis=1) <= supply, demand=cp.sum(x, axis=0) >= demand
    )


@model(lambda r: {"c": own(r, 5), "limit": 0.5 + r.random((BATCH, 8))}, SHARED)
def linear_program() -> cp.Problem:
    x, c, limit = variable("x", 5), parameter("c", 5), parameter("limit", 8)
    return maximize(c @ x, limit=fixed(8, 5) @ x <= limit, low=x >= -1, high=x <= 1)


@model(lambda r: {"A": np.abs(own(r, 3, 5)), "b": 1 + r.random((BATCH, 3)), "c": 1 + r.random(5)})
def own_linear_program() -> cp.Problem:
    x, A, b, c = variable("x", 5), parameter("A", 3, 5), parameter("b", 3), parameter("c", 5)
    return maximize(c @ x, resources=A @ x <= b, sign=x >= 0)


@model(lambda r: {"total": r.random((BATCH,)) - 0.2}, SHARED, **MANY_ANSWERS)
def many_solutions() -> cp.Problem:
    # Every split of the total is a solution; below zero the bounds alone are active.
    x, total = variable("x", 4), parameter("total")
    return minimize(cp.sum(x), total=cp.sum(x) >= total, sign=x >= 0)


@model(lambda r: {"supply": own(r, 6)}, SHARED, **MANY_DUALS)
def shortest_path() -> cp.Problem:
    # The equalities of a network are dependent: their duals are unique up to a constant.
    flow, supply = variable("flow", 9), parameter("supply", 6)
    tails, heads = [0, 0, 1, 1, 2, 3, 3, 4, 5], [1, 2, 2, 3, 4, 4, 5, 5, 0]
    edges = np.zeros((6, 9))
    edges[tails, range(9)], edges[heads, range(9)] = 1, -1
    cost = 1 + np.abs(fixed(9))
    return minimize(cost @ flow, balance=edges @ flow == supply - cp.sum(supply) / 6, sign=flow >= 0)


@model(lambda r: {"A": own(r, 9, 3), "y": own(r, 9)})
def chebyshev_fit() -> cp.Problem:
    x, A, y = variable("x", 3), parameter("A", 9, 3), parameter("y", 9)
    return minimize(cp.norm_inf(A @ x - y))


@model(lambda r: {"returns": own(r, 20, 4) + 0.1})
def tail_risk() -> cp.Problem:
    x, returns = variable("x", 4), parameter("returns", 20, 4)
    return minimize(cp.sum_largest(-returns @ x, 4) / 4, budget=cp.sum(x) == 1, long=x >= 0)


# ------------------------------------------------------------------------------------ quadratic programs


@model(lambda r: {"p": np.concatenate([[[-1.0, 2.0, -3.0]], own(r, 3)[1:]])}, BOX, SHARED)
def nonnegative_projection() -> cp.Problem:
    x, p = variable("x", 3), parameter("p", 3)
    return minimize(half_squares(x - p), sign=x >= 0)


@model(lambda r: {"p": own(r, 3)}, BOX, SHARED)
def attribute_projection() -> cp.Problem:
    x, p = variable("x", 3, nonneg=True), parameter("p", 3)
    return minimize(half_squares(x - p))


@model(lambda r: {"mu": own(r, 6)}, SHARED)
def portfolio() -> cp.Problem:
    x, mu = variable("x", 6), parameter("mu", 6)
    return maximize(mu @ x - cp.quad_form(x, GRAM), budget=cp.sum(x) == 1, long=x >= 0)


@model(lambda r: {"mu": own(r, 6), "F": own(r, 8, 6) / 2, "aversion": 0.5 + r.random((BATCH,))})
def factor_portfolio() -> cp.Problem:
    # The factor carries the aversion: a product of parameters would not be DPP.
    x, mu, F = variable("x", 6), parameter("mu", 6), parameter("F", 8, 6)
    risk, aversion = variable("risk", 8), parameter("aversion", nonneg=True)
    return maximize(
        mu @ x - aversion * cp.sum_squares(risk), risk=risk == F @ x, budget=cp.sum(x) == 1, long=x >= 0, most=x <= 0.6
    )


@model(lambda r: {"start": 2 * own(r, 2), "goal": r.standard_normal(2)}, SHARED)
def model_predictive_control() -> cp.Problem:
    states, inputs = variable("states", 7, 2), variable("inputs", 6, 1)
    start, goal = parameter("start", 2), parameter("goal", 2)
    moved = states[:-1] @ np.array([[1.0, 0.3], [0.0, 1.0]]).T + inputs @ np.array([[0.05, 0.3]])
    return minimize(
        cp.sum_squares(states[1:] - goal[None, :]) + 0.1 * cp.sum_squares(inputs),
        start=states[0] == start, dynamics=states[1:] == moved, thrust=cp.abs(inputs) <= 1,
    )  # fmt: skip


@model(lambda r: {"q": own(r, 6), "low": -r.random((BATCH, 6)), "high": r.random(6)}, BOX, SHARED)
def box_quadratic() -> cp.Problem:
    x, q, low, high = variable("x", 6), parameter("q", 6), parameter("low", 6), parameter("high", 6)
    return minimize(0.5 * cp.quad_form(x, GRAM) + q @ x, low=x >= low, high=x <= high)


@model(lambda r: {"F": own(r, 7, 5), "q": own(r, 5)}, OWN)
def own_hessian() -> cp.Problem:
    x, F, q = variable("x", 5), parameter("F", 7, 5), parameter("q", 5)
    return minimize(half_squares(F @ x) + q @ x, low=x >= -1, high=x <= 1)


@model(lambda r: {"S": definite(r, 4), "q": own(r, 4)})
def parametric_form() -> cp.Problem:
    x, S, q = variable("x", 4), parameter("S", 4, 4, PSD=True), parameter("q", 4)
    return minimize(cp.quad_form(x, S) + q @ x, limit=fixed(3, 4) @ x <= 1, sign=x >= -2)


@model(lambda r: {"S": definite(r, 4)[0], "q": own(r, 4)}, BOX, SHARED)
def shared_parametric_form() -> cp.Problem:
    x, S, q = variable("x", 4), parameter("S", 4, 4, PSD=True), parameter("q", 4)
    return minimize(cp.quad_form(x, S) + q @ x, sign=x >= 0)


@model(lambda r: {"q": own(r, 6), "b": own(r, 2), "h": 1 + r.random((BATCH, 3))}, SHARED)
def equalities_and_inequalities() -> cp.Problem:
    x, q, b, h = variable("x", 6), parameter("q", 6), parameter("b", 2), parameter("h", 3)
    return minimize(
        0.5 * cp.quad_form(x, GRAM) + q @ x, tied=fixed(2, 6) @ x == b, limited=cp.abs(fixed(3, 6, seed=2) @ x) <= 2 + h
    )


@model(lambda r: {"A": own(r, 2, 5), "b": own(r, 2)})
def own_equalities() -> cp.Problem:
    x, A, b = variable("x", 5), parameter("A", 2, 5), parameter("b", 2)
    return minimize(cp.sum_squares(x), tied=A @ x == b)


@model(lambda r: {"q": own(r, 6)}, SHARED)
def no_constraints() -> cp.Problem:
    x, q = variable("x", 6), parameter("q", 6)
    return minimize(0.5 * cp.quad_form(x, GRAM) + q @ x)


@model(lambda r: {"p": own(r, 4)}, SHARED)
def halfspace_projection() -> cp.Problem:
    # No parameter in the constraints.
    x, p = variable("x", 4), parameter("p", 4)
    return minimize(cp.sum_squares(x - p), half=np.arange(1.0, 5.0) @ x <= 1, whole=x[0] - x[3] == 0.5)


@model(lambda r: {"a": own(r), "b": r.random((BATCH,)), "c": np.array(2.0)})
def scalars() -> cp.Problem:
    x, y, z = variable("x"), variable("y"), variable("z", nonneg=True)
    a, b, c = parameter("a"), parameter("b", nonneg=True), parameter("c", pos=True)
    return minimize(
        cp.square(x - a) + c * cp.square(y) + b * cp.abs(x) + z, low=x + y >= b, high=y <= c, tied=z - x == 1
    )


@model(lambda r: {"p": r.standard_normal(3)}, BOX, SHARED)
def shared_alone() -> cp.Problem:
    # A batch of one: nothing varies.
    x, p = variable("x", 3), parameter("p", 3)
    return minimize(half_squares(x - p), sign=x >= 0)


@model(lambda r: {}, SHARED)
def no_parameters() -> cp.Problem:
    x = variable("x", 3)
    return minimize(half_squares(x - np.array([1.0, -2.0, 0.5])), total=cp.sum(x) == 1, sign=x >= 0)


@model(lambda r: {"b": own(r, 2)}, SHARED)
def feasible_point() -> cp.Problem:
    # A constant objective, and constraints that leave a single point.
    x, b = variable("x", 2), parameter("b", 2)
    return minimize(3.0, tied=np.array([[1.0, 2.0], [0.0, 1.0]]) @ x == b)


# ------------------------------------------------------------------------------------ matrices and their attributes


@model(lambda r: {"B": r.standard_normal((3, 5)), "C": own(r, 4, 5), "most": 0.1 + r.random((BATCH, 3, 2))}, SHARED)
def matrix_unknown() -> cp.Problem:
    X, B, C, most = variable("X", 2, 3), parameter("B", 3, 5), parameter("C", 4, 5), parameter("most", 3, 2)
    return minimize(
        half_squares(fixed(4, 2) @ X @ B - C) + 0.1 * cp.sum_squares(X),
        most=X.T <= most, rows=X @ np.array([1.0, -2.0, 3.0]) >= np.array([-0.5, 0.5]),
        square=X[:, :2] @ np.array([[1.0], [2.0]]) == np.array([[0.3], [0.1]]),
    )  # fmt: skip


@model(lambda r: {"A": own(r, 5, 3), "Y": own(r, 2, 5)}, OWN)
def transposed_regression() -> cp.Problem:
    X, A, Y = variable("X", 3, 2), parameter("A", 5, 3), parameter("Y", 2, 5)
    return minimize(half_squares((A @ X).T - Y), sign=X.T >= 0)


@model(lambda r: {"p": own(r, 2, 3, 2)}, BOX, SHARED)
def three_axes() -> cp.Problem:
    X, p = variable("X", 2, 3, 2), parameter("p", 2, 3, 2)
    return minimize(cp.sum_squares(X - p), sign=X >= 0, most=X[:, 1, :] <= 0.2)


@model(lambda r: {"C": own(r, 3, 3)}, SHARED)
def symmetric_unknown() -> cp.Problem:
    X, C = variable("X", 3, 3, symmetric=True), parameter("C", 3, 3)
    return minimize(cp.sum_squares(X - C), trace=cp.trace(X) == 1, corner=X[0, 2] >= 0.2)


@model(lambda r: {name: own(r, 3) for name in ("a", "b", "d", "e")} | {"S": own(r, 2, 2)})
def attributes() -> cp.Problem:
    a, b = variable("a", 3, nonneg=True), variable("b", 3, nonpos=True)
    d, e = variable("d", 3, 3, diag=True), variable("e", 3, bounds=[np.array([-1.0, -np.inf, 0.0]), 0.5])
    S, given = variable("S", 2, 2, PSD=True), {name: parameter(name, 3) for name in "abde"}
    C, N = parameter("S", 2, 2), variable("N", 2, 2, NSD=True)
    far = cp.sum_squares(a - given["a"]) + cp.sum_squares(b - given["b"]) + cp.sum_squares(e - given["e"])
    matrices = cp.sum_squares(cp.diag(d) - given["d"]) + cp.sum_squares(S - C) + cp.sum_squares(N - C)
    return minimize(far + matrices, coupled=cp.sum(a) + cp.trace(S) <= 2, tied=cp.diag(d)[0] + b[1] == e[2])


@model(
    lambda r: {
        "w": r.random((BATCH, 4)),
        "low": -r.random((BATCH, 4)),
        "S": (lambda X: X + X.mT)(own(r, 4, 4)),
        "D": np.eye(4) * (0.5 + r.random((BATCH, 4, 1))),
    },
    SHARED,
)
def parameter_attributes() -> cp.Problem:
    x, w, low = variable("x", 4), parameter("w", 4, nonneg=True), parameter("low", 4, nonpos=True)
    S, D = parameter("S", 4, 4, symmetric=True), parameter("D", 4, 4, diag=True)
    return minimize(
        w @ cp.abs(x) + half_squares(x - cp.sum(S, axis=1) / 4) + half_squares(x - cp.diag(D)),
        low=x >= low, high=x <= -2 * low, total=cp.sum(x) <= cp.sum(w),
    )  # fmt: skip


# ------------------------------------------------------------------------------------ regressions


@model(lambda r: {"A": own(r, 9, 5), "y": own(r, 9)}, OWN)
def nonnegative_least_squares() -> cp.Problem:
    x, A, y = variable("x", 5), parameter("A", 9, 5), parameter("y", 9)
    return minimize(half_squares(A @ x - y), sign=x >= 0)


@model(lambda r: {"A": r.standard_normal((9, 5)), "y": own(r, 9)}, BOX, SHARED)
def shared_nonnegative_least_squares() -> cp.Problem:
    return nonnegative_least_squares()


@model(
    lambda r: {"A": own(r, 8, 4), "y": 2 * own(r, 8), "low": -r.random((BATCH, 4)), "high": r.random((BATCH, 4))}, OWN
)
def bounded_least_squares() -> cp.Problem:
    x, A, y, low, high = (
        variable("x", 4), parameter("A", 8, 4), parameter("y", 8), parameter("low", 4), parameter("high", 4)
    )  # fmt: skip
    return minimize(cp.sum_squares(A @ x - y), low=x >= low, high=x <= high)


@model(lambda r: {"A": own(r, 8, 4), "y": own(r, 8)})
def least_squares() -> cp.Problem:
    x, A, y = variable("x", 4), parameter("A", 8, 4), parameter("y", 8)
    return minimize(cp.sum_squares(A @ x - y))


@model(lambda r: {"y": own(r, 9), "weight": 0.2 + r.random((BATCH,))}, SHARED)
def lasso() -> cp.Problem:
    x, y, weight = variable("x", 5), parameter("y", 9), parameter("weight", nonneg=True)
    return minimize(half_squares(fixed(9, 5) @ x - y) + weight * cp.norm1(x))


@model(lambda r: {"A": own(r, 9, 5), "y": own(r, 9)})
def elastic_net() -> cp.Problem:
    x, A, y = variable("x", 5), parameter("A", 9, 5), parameter("y", 9)
    return minimize(half_squares(A @ x - y) + 0.5 * cp.norm1(x) + 0.1 * cp.sum_squares(x))


@model(lambda r: {"y": own(r, 12) * (1 + 9 * (r.random((BATCH, 12)) < 0.2))}, SHARED)
def huber_regression() -> cp.Problem:
    x, y = variable("x", 3), parameter("y", 12)
    return minimize(cp.sum(cp.huber(fixed(12, 3) @ x - y, 1.0)))


@model(lambda r: {"y": own(r, 11)}, SHARED)
def least_absolute_deviations() -> cp.Problem:
    x, y = variable("x", 3), parameter("y", 11)
    return minimize(cp.norm1(fixed(11, 3) @ x - y))


@model(lambda r: {"A": own(r, 12, 2), "y": own(r, 12)})
def quantile_regression() -> cp.Problem:
    x, c, A, y = variable("x", 2), variable("c"), parameter("A", 12, 2), parameter("y", 12)
    residual = y - A @ x - c
    return minimize(cp.sum(cp.maximum(0.9 * residual, -0.1 * residual)))


@model(lambda r: {"signed": own(r, 12, 3), "signs": np.sign(own(r, 12))})
def squared_hinge_machine() -> cp.Problem:
    w, c, signed, signs = variable("w", 3), variable("c"), parameter("signed", 12, 3), parameter("signs", 12)
    return minimize(half_squares(w) + cp.sum_squares(cp.pos(1 - signed @ w - signs * c)))


@model(lambda r: {"shift": own(r, 12)}, BOX, SHARED)
def squared_hinges() -> cp.Problem:
    w, shift = variable("w", 3), parameter("shift", 12)
    return minimize(half_squares(w) + half_squares(cp.pos(fixed(12, 3) @ w + shift)), low=w >= -0.1)


@model(lambda r: {"signed": own(r, 12, 3), "signs": np.sign(own(r, 12))}, **MANY_VALUES)
def support_vector_machine() -> cp.Problem:
    # The intercept may be an interval.
    w, c, signed, signs = variable("w", 3), variable("c"), parameter("signed", 12, 3), parameter("signs", 12)
    return minimize(half_squares(w) + cp.sum(cp.pos(1 - signed @ w - signs * c)))


@model(lambda r: {"y": np.cumsum(own(r, 8), axis=1)}, SHARED)
def isotonic_regression() -> cp.Problem:
    x, y = variable("x", 8), parameter("y", 8)
    return minimize(half_squares(x - y), order=cp.diff(x) >= 0)


KNOTS, SPACING = 10, 0.6
SLOPES = (np.eye(KNOTS, KNOTS, 1) - np.eye(KNOTS))[:-1] / SPACING


def _spline_data(rng: Rng) -> Data:
    """Factor and right side of the normal equations of a linear spline, through noisy samples of a function."""
    knots = SPACING * np.arange(KNOTS)
    factors, sides = np.empty((BATCH, KNOTS, KNOTS)), np.empty((BATCH, KNOTS))
    for place in range(BATCH):
        at = rng.uniform(0, knots[-1], 60)
        values = np.sin(at) + at / 2 + 0.1 * rng.standard_normal(60)
        basis = np.maximum(0, 1 - np.abs(at[:, None] - knots) / SPACING)
        lower = np.linalg.cholesky(basis.T @ basis / 60 + 1e-4 * np.eye(KNOTS))
        factors[place], sides[place] = lower.T, np.linalg.solve(lower, basis.T @ values / 60)
    return {"R": factors, "z": sides}


@model(_spline_data, **MANY_DUALS)
def spline() -> cp.Problem:
    # A linear spline with slopes in [0, 1] and a penalty on their changes.
    c, R, z = variable("c", KNOTS), parameter("R", KNOTS, KNOTS), parameter("z", KNOTS)
    return minimize(
        half_squares(R @ c - z) + 0.01 * cp.norm1(cp.diff(SLOPES @ c)),
        flattest=SLOPES @ c >= 0,
        steepest=SLOPES @ c <= 1,
    )


@model(lambda r: {"y": np.sign(np.sin(np.arange(12) / 2)) + 0.3 * own(r, 12)}, SHARED)
def total_variation() -> cp.Problem:
    x, y = variable("x", 12), parameter("y", 12)
    return minimize(half_squares(x - y) + 0.4 * cp.tv(x))


# ------------------------------------------------------------------------------------ second-order cones


@model(lambda r: {"p": own(r, 4) * np.array([3, 0.1, 3, 1, 2, 3])[:, None], "radius": 0.5 + r.random((BATCH,))}, SHARED)
def ball_projection() -> cp.Problem:
    # The second point lies inside.
    x, p, radius = variable("x", 4), parameter("p", 4), parameter("radius", nonneg=True)
    return minimize(half_squares(x - p), ball=cp.norm(x) <= radius)


@model(lambda r: {"p": own(r, 3), "t": own(r)}, SHARED)
def cone_projection() -> cp.Problem:
    x, s, p, t = variable("x", 3), variable("s"), parameter("p", 3), parameter("t")
    return minimize(half_squares(x - p) + half_squares(s - t), cone=cp.SOC(s, x))


@model(lambda r: {"y": own(r, 10)}, SHARED)
def group_lasso() -> cp.Problem:
    x, y = variable("x", 6), parameter("y", 10)
    groups = cp.norm(x[:2]) + cp.norm(x[2:4]) + cp.norm(x[4:])
    return minimize(half_squares(fixed(10, 6) @ x - y) + 1.5 * groups)


@model(lambda r: {"c": own(r, 3), "b": 1 + r.random((BATCH, 5))}, SHARED)
def robust_linear_program() -> cp.Problem:
    x, c, b = variable("x", 3), parameter("c", 3), parameter("b", 5)
    rows, spread = fixed(5, 3), 0.3 * fixed(5, 3, 3, seed=2)
    robust = {f"row_{i}": rows[i] @ x + cp.norm(spread[i] @ x) <= b[i] for i in range(5)}
    return maximize(c @ x, **robust, box=cp.norm_inf(x) <= 3)


@model(lambda r: {"points": own(r, 7, 2)}, SHARED)
def geometric_median() -> cp.Problem:
    x, points = variable("x", 2), parameter("points", 7, 2)
    return minimize(cp.sum(cp.norm(points - x[None, :], 2, axis=1)))


@model(lambda r: {"F": own(r, 4, 4) + 2 * np.eye(4), "c": own(r, 4)})
def own_ellipsoid() -> cp.Problem:
    x, F, c = variable("x", 4), parameter("F", 4, 4), parameter("c", 4)
    return minimize(c @ x, ellipsoid=cp.norm(F @ x) <= 1)


@model(lambda r: {"a": 1 + r.random((BATCH, 4)), "budget": 2 + r.random((BATCH,))})
def ratios() -> cp.Problem:
    x, t, a, budget = variable("x", 4), variable("t"), parameter("a", 4, nonneg=True), parameter("budget")
    return minimize(a @ cp.inv_pos(x) + cp.quad_over_lin(x - 1, t) + t, budget=cp.sum(x) + t <= budget, least=t >= 0.1)


# ------------------------------------------------------------------------------------ semidefinite cones


def _symmetric(rng: Rng, order: int) -> np.ndarray:
    matrices = own(rng, order, order)
    return matrices + matrices.mT


@model(lambda r: {"C": _symmetric(r, 3)})
def nearest_semidefinite() -> cp.Problem:
    X, C = variable("X", 3, 3, symmetric=True), parameter("C", 3, 3, symmetric=True)
    return minimize(cp.sum_squares(X - C), definite=X >> 0)


@model(lambda r: {"C": _symmetric(r, 3)})
def nearest_correlation() -> cp.Problem:
    X, C = variable("X", 3, 3, PSD=True), parameter("C", 3, 3)
    return minimize(cp.sum_squares(X - C), unit=cp.diag(X) == 1)


@model(lambda r: {"C": _symmetric(r, 3)})
def largest_eigenvalue() -> cp.Problem:
    x, C = variable("x", 2), parameter("C", 3, 3, symmetric=True)
    A, B = (matrix + matrix.T for matrix in fixed(2, 3, 3))
    return minimize(cp.lambda_max(C + x[0] * A + x[1] * B) + half_squares(x))


@model(lambda r: {"L": _symmetric(r, 4)})
def maximal_cut() -> cp.Problem:
    X, L = variable("X", 4, 4, symmetric=True), parameter("L", 4, 4, symmetric=True)
    return maximize(cp.trace(L @ X) / 4, unit=cp.diag(X) == 1, definite=X >> 0)


@model(lambda r: {"C": own(r, 2, 3)})
def nuclear_proximal_map() -> cp.Problem:
    X, C = variable("X", 2, 3), parameter("C", 2, 3)
    return minimize(half_squares(X - C) + 0.7 * cp.norm(X, "nuc"))


@model(lambda r: {"S": definite(r, 2)}, accuracy=2e-5)
def sparse_precision() -> cp.Problem:
    X, S = variable("X", 2, 2, PSD=True), parameter("S", 2, 2, PSD=True)
    return maximize(cp.log_det(X) - cp.trace(S @ X) - 0.1 * cp.sum(cp.abs(X)))


# ------------------------------------------------------------------------------------ exponential and power cones


@model(
    lambda r: {
        "w": 2 * own(r, 5) * np.array([0, 1, 1, 1, 1, 10])[:, None],
        "y": np.eye(5)[r.integers(0, 5, BATCH)],
        "rho": np.array(0.7),
    },
    SOFTMAX,
)
def softmax_proximal_map() -> cp.Problem:
    z, w, y = variable("z", 5), parameter("w", 5), parameter("y", 5)
    scaled, rho = variable("scaled", 5), parameter("rho", nonneg=True)
    return minimize(cp.log_sum_exp(z) - y @ z + rho * half_squares(scaled), scaled=scaled == z - w)


@model(lambda r: {"shift": own(r, 5), "p": own(r, 3)})
def softmax_of_affine() -> cp.Problem:
    x, shift, p = variable("x", 3), parameter("shift", 5), parameter("p", 3)
    return minimize(cp.log_sum_exp(fixed(5, 3) @ x + shift) + half_squares(x - p), sign=x >= 0)


@model(lambda r: {"c": own(r, 5), "mean": 1.5 + r.random((BATCH,))})
def entropy_projection() -> cp.Problem:
    x, c, mean = variable("x", 5), parameter("c", 5), parameter("mean")
    return maximize(cp.sum(cp.entr(x)) + c @ x, total=cp.sum(x) == 1, mean=np.arange(5) @ x == mean)


@model(lambda r: {"p": r.dirichlet(2 * np.ones(5), BATCH), "mean": 1.5 + r.random((BATCH,))})
def divergence_projection() -> cp.Problem:
    x, p, mean = variable("x", 5), parameter("p", 5, nonneg=True), parameter("mean")
    return minimize(cp.sum(cp.kl_div(x, p)), total=cp.sum(x) == 1, mean=np.arange(5) @ x == mean)


@model(lambda r: {"signed": own(r, 10, 3)})
def logistic_regression() -> cp.Problem:
    w, signed = variable("w", 3), parameter("signed", 10, 3)
    return minimize(cp.sum(cp.logistic(-signed @ w)) + 0.5 * cp.sum_squares(w))


@model(lambda r: {"c": own(r, 3), "b": 1 + r.random((BATCH, 4))})
def log_barrier() -> cp.Problem:
    x, c, b = variable("x", 3), parameter("c", 3), parameter("b", 4)
    return minimize(c @ x - cp.sum(cp.log(b - fixed(4, 3) @ x)) - cp.sum(cp.log(2 - x)) - cp.sum(cp.log(2 + x)))


@model(lambda r: {"c": own(r, 4)})
def exponential_fit() -> cp.Problem:
    x, c = variable("x", 4), parameter("c", 4)
    return minimize(cp.sum(cp.exp(fixed(5, 4) @ x)) + c @ x + half_squares(x), low=cp.exp(x[0]) <= 2)


@model(lambda r: {"p": 1 + r.random((BATCH, 4))})
def power_penalty() -> cp.Problem:
    # Second-order cones in disguise.
    x, p = variable("x", 4), parameter("p", 4)
    return minimize(cp.sum(cp.power(x, 1.5)) - p @ x, total=cp.sum(x) >= 1)


@model(lambda r: {"p": 1 + r.random((BATCH, 3))})
def power_cones() -> cp.Problem:
    x, p = variable("x", 3), parameter("p", 3)
    return minimize(cp.sum(cp.power(x, 2.5, approx=False)) - p @ x, total=cp.sum(x) >= 1)


@model(lambda r: {"p": 2 * own(r, 3)})
def other_norm_projection() -> cp.Problem:
    x, p = variable("x", 3), parameter("p", 3)
    return minimize(half_squares(x - p), ball=cp.pnorm(x, 3) <= 1)


@model(lambda r: {"prices": 0.5 + r.random((BATCH, 3)), "budget": 1 + r.random((BATCH,))})
def geometric_mean() -> cp.Problem:
    x, prices, budget = variable("x", 3), parameter("prices", 3, pos=True), parameter("budget")
    return maximize(cp.geo_mean(x), budget=prices @ x <= budget)


# ------------------------------------------------------------------------------------ infeasible and unbounded ones


def _crossed(rng: Rng) -> Data:
    low = own(rng, 4)
    high = low + rng.random((BATCH, 4))
    high[2, 1] = low[2, 1] - 0.5
    return {"p": own(rng, 4), "low": low, "high": high}


@model(_crossed, BOX, SHARED, infeasible=(2,))
def crossed_box() -> cp.Problem:
    x, p, low, high = variable("x", 4), parameter("p", 4), parameter("low", 4), parameter("high", 4)
    return minimize(half_squares(x - p), low=x >= low, high=x <= high)


@model(lambda r: _crossed(r) | {"A": own(r, 6, 4), "y": own(r, 6)}, OWN, infeasible=(2,))
def crossed_least_squares() -> cp.Problem:
    x, A, y, p = variable("x", 4), parameter("A", 6, 4), parameter("y", 6), parameter("p", 4)
    low, high = parameter("low", 4), parameter("high", 4)
    return minimize(half_squares(A @ x - y) + p @ x, low=x >= low, high=x <= high)


@model(lambda r: {"c": own(r, 3), "total": np.array([0.8, 1.7, 9.0, 0.5, -9.0, 2.3])}, SHARED, infeasible=(2, 4))
def unreachable_total() -> cp.Problem:
    x, c, total = variable("x", 3), parameter("c", 3), parameter("total")
    return minimize(c @ x, total=cp.sum(x) == total, low=x >= 0, high=x <= 1)


@model(
    lambda r: {"A": own(r, 3, 4), "b": own(r, 3), "gap": np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0])},
    infeasible=(3,), **MANY_DUALS,
)  # fmt: skip
def contradiction() -> cp.Problem:
    # The same equality twice, once with another right side; where they agree the duals may be split.
    x, A, b, gap = variable("x", 4), parameter("A", 3, 4), parameter("b", 3), parameter("gap")
    return minimize(cp.sum_squares(x), tied=A @ x == b, again=A[0] @ x == b[0] + gap)


@model(lambda r: {"radius": np.array([2.0, 1.5, 0.5, 3.0, 1.2, -1.0]), "p": own(r, 3)}, SHARED, infeasible=(2, 5))
def unreachable_ball() -> cp.Problem:
    x, radius, p = variable("x", 3), parameter("radius"), parameter("p", 3)
    return minimize(half_squares(x - p), ball=cp.norm(x) <= radius, far=x[0] >= 1)


@model(lambda r: {"corner": np.array([1.0, 0.5, -0.5, 2.0, 1.5, -2.0]), "C": _symmetric(r, 2)}, infeasible=(2, 5))
def indefinite_corner() -> cp.Problem:
    X, corner, C = variable("X", 2, 2, symmetric=True), parameter("corner"), parameter("C", 2, 2)
    return minimize(cp.sum_squares(X - C), corner=X[0, 0] == corner, definite=X >> 0)


@model(lambda r: {"cap": np.array([0.5, 0.4, 0.2, 0.6, 0.45, 0.1]), "c": own(r, 3)}, infeasible=(2, 5))
def capped_entropy() -> cp.Problem:
    x, cap, c = variable("x", 3), parameter("cap"), parameter("c", 3)
    return maximize(cp.sum(cp.entr(x)) + c @ x, total=cp.sum(x) == 1, cap=x <= cap)


@model(lambda r: {"slope": np.array([1.0, 0.5, -1.0, 2.0, 0.1, -0.3])}, SHARED, unbounded=(2, 5))
def slide() -> cp.Problem:
    x, slope = variable("x"), parameter("slope")
    return minimize(slope * x, least=x >= 1)


@model(
    lambda r: {"c": np.where(np.arange(BATCH) == 1, -1.0, 1.0)[:, None] * (0.1 + r.random((BATCH, 3)))},
    SHARED,
    unbounded=(1,),
)
def open_cone() -> cp.Problem:
    x, c = variable("x", 3), parameter("c", 3)
    return minimize(c @ x, least=np.array([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]]) @ x >= 1, sign=x >= 0)


@model(lambda r: {"p": own(r, 3), "slope": np.array([1.0, 0.5, 2.0, -1.0, 0.3, 1.0])}, BOX, SHARED, unbounded=(3,))
def half_curved() -> cp.Problem:
    # The last unknown has no curvature.
    x, p, slope = variable("x", 3), parameter("p", 3), parameter("slope")
    return minimize(half_squares(x[:2] - p[:2]) + slope * x[2], sign=x >= 0)


@model(lambda r: {"c": own(r, 3) * np.array([1, 1, 20, 1, 1, 20])[:, None] / 8}, SHARED, unbounded=(2, 5))
def steep_cone() -> cp.Problem:
    # Bounded exactly while |c| <= 1.
    x, s, c = variable("x", 3), variable("s"), parameter("c", 3)
    return minimize(s + c @ x, cone=cp.norm(x) <= s, away=s >= 1)


@model(lambda r: {"slope": np.array([1.0, 2.0, -1.0, 0.5, 3.0, -2.0])}, unbounded=(2, 5))
def falling_exponential() -> cp.Problem:
    x, slope = variable("x"), parameter("slope")
    return minimize(cp.exp(x) - slope * x)


@model(
    lambda r: {"p": np.array([1.0, -1.0, 1.0, -1.0, 2.0, 0.5]), "high": np.array([2.0, 2.0, -1.0, -1.0, 0.5, 3.0])},
    SHARED, infeasible=(2, 3), unbounded=(1,),
)  # fmt: skip
def either_end() -> cp.Problem:
    # The fourth is infeasible, and its objective would fall without end: no feasible point is what counts.
    x, y, p, high = variable("x"), variable("y"), parameter("p"), parameter("high")
    return minimize(p * y + x, order=y >= 0, least=x >= 0, most=x <= high)


# ------------------------------------------------------------------------------------ badly scaled and degenerate ones

SCALES = np.geomspace(1e-4, 1e4, 5)


@model(lambda r: {"y": own(r, 9)}, BOX, SHARED, accuracy=1e-4)
def scaled_unknowns() -> cp.Problem:
    # Columns from 1e-2 to 1e2: a condition of 1e8.
    x, y = variable("x", 5), parameter("y", 9)
    sizes = np.sqrt(SCALES)
    return minimize(half_squares(fixed(9, 5) @ np.diag(sizes) @ x - y), low=x >= -1 / sizes, high=x <= 1 / sizes)


@model(lambda r: {"A": own(r, 9, 4) * np.geomspace(1e-4, 1e4, BATCH)[:, None, None], "y": own(r, 9)}, OWN)
def scaled_instances() -> cp.Problem:
    x, A, y = variable("x", 4), parameter("A", 9, 4), parameter("y", 9)
    return minimize(half_squares(A @ x - y), low=x >= -10, high=x <= 10)


@model(lambda r: {"p": own(r, 5) * np.geomspace(1e-4, 1e4, BATCH)[:, None]}, SHARED, accuracy=1e-4)
def scaled_sides() -> cp.Problem:
    x, p = variable("x", 5), parameter("p", 5)
    return minimize(half_squares(x - p), total=cp.sum(x) == 0, most=x[0] <= cp.sum(p))


@model(lambda r: {"c": (0.5 + r.random((BATCH, 5))), "b": 1 + r.random((BATCH, 3))}, accuracy=1e-4)
def scaled_linear_program() -> cp.Problem:
    # Rows from 1e-4 to 1e4, and costs in other units for every unknown.
    x, c, b = variable("x", 5), parameter("c", 5), parameter("b", 3)
    rows = np.array([1e-4, 1.0, 1e4])
    A = np.abs(fixed(3, 5)) + 0.1
    return maximize(c @ x, resources=np.diag(rows) @ A @ x <= cp.multiply(rows, b), sign=x >= 0)


@model(lambda r: {"c": np.geomspace(1, 1e4, BATCH)[:, None] * (0.5 + r.random((BATCH, 3)))}, SHARED)
def far_vertex() -> cp.Problem:
    # Bounded, though the weight of the row that bounds it is small beside the costs.
    x, c = variable("x", 3), parameter("c", 3)
    return maximize(c @ x, weight=1e-4 * cp.sum(x) <= 1, sign=x >= 0)


@model(lambda r: {"level": np.geomspace(1, 1e4, BATCH)[:, None] * (0.5 + r.random((BATCH, 3)))}, SHARED)
def far_points() -> cp.Problem:
    # Feasible, though only at points up to 1e8.
    x, level = variable("x", 3), parameter("level", 3)
    return minimize(cp.sum(x), level=1e-4 * x >= level, sign=x >= 0)


@model(lambda r: {"b": np.abs(own(r, 4)), "p": own(r, 5)}, SHARED, **MANY_DUALS)
def redundant_rows() -> cp.Problem:
    # Every row twice, one of them three times, and a row of zeros.
    x, b, p = variable("x", 5), parameter("b", 4), parameter("p", 5)
    A = fixed(4, 5)
    return minimize(
        half_squares(x - p), once=A @ x <= b, twice=A @ x <= b, thrice=2 * A[0] @ x <= 2 * b[0],
        nothing=np.zeros((2, 5)) @ x <= np.array([0.0, 1.0]), tied=x[:1] - x[1:2] == 0, again=x[1] - x[0] == 0,
    )  # fmt: skip


def _zero_rows(rng: Rng) -> Data:
    A, b = own(rng, 4, 3), np.abs(own(rng, 4))
    A[:, 1] = 0
    b[4, 1] = -1
    A[2] = 0
    return {"A": A, "b": b, "p": own(rng, 3)}


@model(_zero_rows, infeasible=(4,))
def zero_rows() -> cp.Problem:
    # 0'x <= b: void, or impossible in one instance.
    x, A, b, p = variable("x", 3), parameter("A", 4, 3), parameter("b", 4), parameter("p", 3)
    return minimize(half_squares(x - p), rows=A @ x <= b)


@model(
    lambda r: {"c": -np.array([[1, 1, 1.0], [2, 1, 1], [1, 2, 1], [1, 1, 2], [3, 1, 2], [1, 3, 2]])},
    SHARED,
    **MANY_ANSWERS,
)
def degenerate_vertex() -> cp.Problem:
    # More constraints meet in a vertex than there are unknowns, and an edge may be optimal.
    x, c = variable("x", 3), parameter("c", 3)
    rows = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1], [2, 1, 1], [1, 2, 1.0]])
    return minimize(c @ x, rows=rows @ x <= rows @ np.ones(3), sign=x >= 0)


@model(lambda r: {"p": own(r, 4), "at": r.random((BATCH, 4))}, BOX, SHARED, **MANY_DUALS)
def pinned_box() -> cp.Problem:
    # Two of the unknowns have equal bounds.
    x, p, at = variable("x", 4), parameter("p", 4), parameter("at", 4)
    width = np.array([0.0, 1.0, 0.0, 1.0])
    return minimize(half_squares(x - p), low=x >= at, high=x <= at + width)


@model(lambda r: {"A": np.repeat(own(r, 7, 3), 2, axis=2), "y": own(r, 7)}, **MANY_VALUES)
def repeated_columns() -> cp.Problem:
    # A singular Hessian: the fit is unique, the coefficients are not.
    x, A, y = variable("x", 6), parameter("A", 7, 6), parameter("y", 7)
    return minimize(half_squares(A @ x - y), sign=x >= 0)


@model(lambda r: {"p": np.zeros((BATCH, 3))}, BOX, SHARED)
def everything_at_zero() -> cp.Problem:
    x, p = variable("x", 3), parameter("p", 3)
    return minimize(half_squares(x - p) + half_squares(cp.pos(fixed(4, 3) @ x)), sign=x >= 0)


# ------------------------------------------------------------------------------------ blocks of training methods


@model(
    lambda r: (lambda h: {"z": own(r, 4), "h": h, "low": h - 0.2, "high": h + 0.2})(np.maximum(own(r, 5), 0)),
    BOX, SHARED,
)  # fmt: skip
def box_lifted_layer() -> cp.Problem:
    # Activations near those of the network, and what they send near what the next layer wants.
    W, bias = fixed(4, 5) / 2, 0.1 * fixed(4)
    a, z, h = variable("a", 5), parameter("z", 4), parameter("h", 5)
    low, high = parameter("low", 5), parameter("high", 5)
    return minimize(half_squares(W @ a + bias - z) + 0.01 * half_squares(a - h), low=a >= low, high=a <= high)


@model(lambda r: {"W": r.standard_normal((4, 5)) / 2, "z": own(r, 4), "h": own(r, 5)}, BOX, SHARED)
def weighted_lifted_layer() -> cp.Problem:
    # The weights are a shared parameter.
    a, W, z, h = variable("a", 5), parameter("W", 4, 5), parameter("z", 4), parameter("h", 5)
    return minimize(half_squares(W @ a - z) + 0.05 * half_squares(a - h), low=a >= h - 0.3, high=a <= h + 0.3)


def _block(name: str, make: Callable[[], Any], *engines: str, **expected: Any) -> None:
    """Enter a block of the catalogue; it is made when it is asked for."""
    _MODELS.append(
        Model(
            name, lambda: make().program(), lambda rng: _block_data(make(), int(rng.integers(1_000))),
            engines=engines, **expected,
        )
    )  # fmt: skip


def _block_data(block: Any, seed: int) -> Data:
    names = {parameter.name() for parameter in block.program().parameters()}
    batch = 2 * BATCH if getattr(block, "coupled", False) else BATCH
    return {name: value for name, value in data_of(block, batch=batch, seed=seed).items() if name in names}


def _enter_blocks() -> None:
    for phi in MODELLED:
        layer = partial(FenchelActivation, width=4, next_width=3, below=0.7, above=1.3)
        _block(f"activations_{phi}", partial(layer, activation=phi, next_activation="relu"))
        _block(f"activations_below_{phi}", partial(layer, activation="relu", next_activation=phi))
        weights = partial(FenchelWeight, samples=6, inputs=3, units=2, weight_decay=0.1, proximity=0.5)
        _block(f"weights_{phi}", partial(weights, activation=phi))
    for loss in LOSS_NAMES:
        outputs = 1 if loss == "logistic" else 3
        _block(f"activations_{loss}", partial(FenchelActivation, width=4, next_width=outputs, loss=loss))
        _block(f"weights_{loss}", partial(weights, units=outputs, loss=loss))
        _block(f"outputs_{loss}", partial(FenchelOutput, outputs=outputs, loss=loss, multiplier=0.6))


_enter_blocks()
ZOO = tuple(_MODELS)
