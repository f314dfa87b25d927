"""The three Fenchel blocks: what they minimize, what their residuals promise, and what they refuse."""

from __future__ import annotations

import re
import warnings
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from instances import (
    ALL,
    LOSS_NAMES,
    MODELLED,
    OTHER_PARAMETERS,
    QUADRATIC,
    UNMODELLED,
    activation_block,
    data_of,
    feasible_point,
    output_block,
    set_parameters,
    targets,
    weight_block,
)

from convexblocks.formulations import (
    FenchelActivation,
    FenchelOutput,
    FenchelWeight,
    NoConvexModelError,
    NotDisciplinedError,
    Subproblem,
    Symbol,
    UsageError,
    activation,
)
from convexblocks.solvers import Status, solve
from convexblocks.solvers.agreement import evaluate

PAIRS = [(phi, after) for phi in MODELLED for after in (*MODELLED, *LOSS_NAMES)]
# Every activation and every next layer at least once, for what needs a solver.
FEW_PAIRS = [
    (phi, after)
    for place, phi in enumerate(MODELLED)
    for after in {(*MODELLED, *LOSS_NAMES)[(place + 3) % 15], (*MODELLED, *LOSS_NAMES)[(place + 8) % 15]}
]
BLOCKS = {
    **{f"activation {phi} {after}": (activation_block, (phi, after)) for phi, after in PAIRS},
    **{
        f"weight {what} {'with' if bias else 'no'} bias": (weight_block, (what, bias))
        for what in (*MODELLED, *LOSS_NAMES)
        for bias in (True, False)
    },
    **{f"output {loss}": (output_block, (loss,)) for loss in LOSS_NAMES},
}


def make(name: str) -> Any:
    maker, arguments = BLOCKS[name]
    return maker(*arguments)


def solve_model(block: Any) -> float:
    """Optimum of the cvxpy model whose parameters are set, by Clarabel."""
    with warnings.catch_warnings():
        # Clarabel warns where it misses this accuracy by a little; the tests say what they need.
        warnings.simplefilter("ignore", UserWarning)
        block.program().solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return float(block.program().value)


def tensors(values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value) for name, value in values.items()}


# ------------------------------------------------------------------------------------ the programs


@pytest.mark.parametrize("name", BLOCKS)
def test_programs_are_disciplined_in_their_parameters(name: str) -> None:
    problem = make(name).program()
    assert problem.is_dcp()
    assert problem.is_dcp(dpp=True)


@pytest.mark.parametrize("phi", [*QUADRATIC, *OTHER_PARAMETERS])
@pytest.mark.parametrize("after", [*QUADRATIC, "squared"])
def test_blocks_of_piecewise_linear_activations_need_no_cones_but_the_orthant(phi: str, after: str) -> None:
    block = FenchelActivation(width=2, next_width=2, activation=phi, **role(after))
    set_parameters(block, data_of(block, batch=1))
    dims = block.program().get_problem_data("CLARABEL")[0]["dims"]
    assert (dims.soc, dims.exp, dims.psd) == ([], 0, [])


def role(after: str) -> dict[str, str]:
    return {"loss": after} if after in LOSS_NAMES else {"next_activation": after}


@pytest.mark.parametrize("name", BLOCKS)
def test_data_shapes_and_symbols_are_those_of_the_program(name: str) -> None:
    block = make(name)
    problem = block.program()
    assert block.data_shapes() == {p.name(): p.shape for p in problem.parameters()}
    described = {symbol.name for symbol in block.symbols}
    variables = {variable.name() for variable in problem.variables()}
    # Auxiliary variables of the potentials explain themselves by the labels of their constraints.
    assert described == (variables - {"m", "n", "s", "r"}) | set(block.data_shapes())
    assert all(constraint.label for constraint in problem.constraints)


def test_what_is_shared_by_a_batch() -> None:
    assert {name for name in "uvWb" if activation_block("relu", "relu").is_shared(name)} == {"W", "b"}
    assert {name for name in ("X", "v", "w_old", "c_old") if weight_block("relu").is_shared(name)} == {"X"}
    assert not any(output_block("squared").is_shared(name) for name in "uy")


# ------------------------------------------------------------------------------------ objective and residuals


@pytest.mark.parametrize("name", BLOCKS)
def test_batched_objective_is_that_of_the_model_at_feasible_points(name: str) -> None:
    block = make(name)
    data, rng = data_of(block, batch=3, seed=1), np.random.default_rng(2)
    values = feasible_point(block, data, rng)
    arrays_say = block.objective(values, data)
    torch_says = block.objective(tensors(values), tensors(data))
    np.testing.assert_allclose(torch_says.numpy(), arrays_say, rtol=1e-11, atol=1e-11)
    for place, batched in enumerate(arrays_say):
        set_parameters(block, data, place)
        model, violation = evaluate(block, {n: torch.as_tensor(v[place]) for n, v in values.items()})
        assert violation <= 1e-12
        assert batched == pytest.approx(model, rel=1e-11, abs=1e-11)


def few_blocks() -> list[str]:
    names = [f"activation {phi} {after}" for phi, after in sorted(FEW_PAIRS)]
    return names + [name for name in BLOCKS if not name.startswith("activation")]


@pytest.mark.parametrize("name", few_blocks())
def test_gap_bounds_the_distance_to_the_optimum_and_vanishes_there(name: str) -> None:
    block = make(name)
    data, rng = data_of(block, batch=1, seed=4), np.random.default_rng(5)
    set_parameters(block, data)
    optimum = solve_model(block)
    for _ in range(6):
        values = feasible_point(block, data, rng)
        residuals, objective = block.residuals(values, data), float(block.objective(values, data)[0])
        assert objective - optimum <= float(residuals.gap[0] * (1 + block.size(values, data)[0])) + 1e-7
        # Random points are not optimal, and the residuals say so.
        assert float(residuals.dual[0]) > 1e-4
        assert float(residuals.gap[0]) > 1e-4
        assert float(residuals.primal[0]) <= 1e-15
    found = {symbol: block.program().var_dict[symbol].value[None] for symbol in values}
    worst = block.residuals(tensors(found), tensors(data)).worst()
    assert worst["primal"] <= 1e-7
    assert worst["gap"] <= 1e-6
    assert worst["dual"] <= 1e-3


@pytest.mark.parametrize("phi", [*MODELLED, *UNMODELLED, *OTHER_PARAMETERS])
def test_gap_of_an_activation_block_is_exact_where_the_layer_above_is_cut_off(phi: str) -> None:
    # With W = 0 the objective is below * B(x, u) up to a constant, and its minimum is at x = phi(u).
    block = FenchelActivation(width=5, next_width=2, activation=phi, next_activation="identity", below=0.3, above=2.0)
    rng = np.random.default_rng(0)
    data = {**data_of(block, batch=6), "W": np.zeros((2, 5))}
    values = {"x": targets(block.activation, rng, (6, 5))}
    objective = block.objective(values, data)
    optimum = block.objective({"x": block.activation.phi(data["u"])}, data)
    gap = block.residuals(values, data).gap * (1 + block.size(values, data))
    np.testing.assert_allclose(gap, objective - optimum, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_gap_of_a_weight_block_is_exact_where_only_the_quadratic_terms_are_left(bias: bool) -> None:
    block = FenchelWeight(samples=4, inputs=3, activation="identity", weight_decay=0.3, proximity=0.7, bias=bias)
    data = {**data_of(block, batch=5), "X": np.zeros((4, 3))}
    values = feasible_point(block, data, np.random.default_rng(1))
    best_w = 0.7 * data["w_old"] / (0.3 + 0.7)
    best = {"w": best_w, "c": np.zeros(0)}
    if bias:
        # 4 samples pull the bias with curvature 1 each; the gap knows of the curvature 0.7 alone.
        best["c"] = values["c"] = (data["v"].sum(1) + 0.7 * data["c_old"]) / 4.7
    objective = block.objective(values, data)
    gap = block.residuals(values, data).gap * (1 + block.size(values, data))
    np.testing.assert_allclose(gap, objective - block.objective(best, data), rtol=1e-10, atol=1e-12)


def test_gap_of_an_output_block_by_hand() -> None:
    # Squared loss: gradient g, curvature 1 + m; the true excess is |g|^2 / (2 (1 + m)), the gap says |g|^2 / (2 m).
    block = FenchelOutput(outputs=2, loss="squared", multiplier=0.5)
    data = {"u": np.array([[1.0, 2.0]]), "y": np.array([[0.0, 1.0]])}
    z = {"z": np.array([[2.0, 2.0]])}
    residuals, objective = block.residuals(z, data), 0.5 * (4 + 1) + 0.25
    gradient = np.array([2 + 0.5, 1.0])
    assert block.objective(z, data)[0] == objective
    assert residuals.gap[0] == pytest.approx(gradient @ gradient / (1 + objective))
    assert residuals.dual[0] == pytest.approx(2.5 / 2)
    assert residuals.primal[0] == 0


@pytest.mark.parametrize("name", [name for name in BLOCKS if not name.startswith("activation")])
def test_gradients_are_derivatives_of_the_objective(name: str) -> None:
    block = make(name)
    data, rng = data_of(block, batch=2, seed=3), np.random.default_rng(4)
    values = feasible_point(block, data, rng)
    free = [key for key in ("w", "c") if key in values] or ["z"]
    gradient = block.gradient(values, data) if free != ["z"] else {"z": block.gradient(values["z"], data)}
    assert set(gradient) == set(free)
    for key in free:
        direction = rng.standard_normal(values[key].shape)
        up, down = ({**values, key: values[key] + sign * 1e-5 * direction} for sign in (1, -1))
        numeric = (block.objective(up, data) - block.objective(down, data)) / 2e-5
        expected = (gradient[key] * direction).reshape(len(direction), -1).sum(-1)
        # A kink within 1e-5 of a pre-activation shifts the difference by about that much.
        np.testing.assert_allclose(numeric, expected, rtol=1e-6, atol=1e-4)


def test_gap_without_curvature_is_infinite_unless_the_gradient_vanishes() -> None:
    block = FenchelWeight(samples=2, inputs=1, activation="identity", proximity=0.0, bias=False)
    data = {"X": np.array([[1.0], [0.0]]), "v": np.array([[3.0, 0.0], [3.0, 0.0]]), "w_old": np.zeros((2, 1))}
    residuals = block.residuals({"w": np.array([[3.0], [2.0]])}, data)
    np.testing.assert_array_equal(residuals.gap, [0, np.inf])
    np.testing.assert_array_equal(residuals.dual, [0, 1 / 4])


def test_violation_of_the_range_is_reported_not_hidden() -> None:
    block = activation_block("relu", "relu")
    data = data_of(block, batch=2)
    x = np.ones((2, 6))
    x[1, 3] = -0.25
    np.testing.assert_array_equal(block.residuals({"x": x}, data).primal, [0, 0.25])


# ------------------------------------------------------------------------------------ identities


@pytest.mark.parametrize("name", [*MODELLED, *OTHER_PARAMETERS])
def test_weight_block_reaches_its_own_activations_exactly(name: str) -> None:
    # Targets phi(X w* + c*) and nothing that holds the weights: B = 0, the optimum is -sum Phi*(v).
    block = FenchelWeight(samples=8, inputs=3, units=2, activation=name, multiplier=0.7, proximity=0.0)
    rng = np.random.default_rng(0)
    data = data_of(block, batch=1)
    wanted = {"w": 0.7 * rng.standard_normal(data["w_old"].shape), "c": rng.standard_normal(data["c_old"].shape)}
    data["v"] = block.activation.phi(block.pre_activations(wanted, data))
    expected = -0.7 * float(block.activation.conjugate(data["v"]).sum())
    assert float(block.objective(wanted, data)[0]) == pytest.approx(expected, rel=1e-11, abs=1e-11)
    set_parameters(block, data)
    assert solve_model(block) == pytest.approx(expected, abs=2e-6 * (1 + abs(expected)))


@pytest.mark.parametrize("name", [*MODELLED, *OTHER_PARAMETERS])
def test_activation_block_alone_gives_the_activation(name: str) -> None:
    block = FenchelActivation(width=4, next_width=2, activation=name, next_activation="relu", below=0.4)
    data = {**data_of(block, batch=1, seed=3), "W": np.zeros((2, 4))}
    data["u"] = np.array([[-1.3, 0.2, 0.7, 2.0]])
    set_parameters(block, data)
    solve_model(block)
    # Clarabel's argmin is good to 1e-5, over exponential cones to 1e-4; its value is much better.
    accuracy = 2e-5 if name.partition("(")[0] in QUADRATIC else 2e-4
    np.testing.assert_allclose(block.program().var_dict["x"].value, block.activation.phi(data["u"])[0], atol=accuracy)


@pytest.mark.parametrize("name", [name for name in (*ALL, *OTHER_PARAMETERS) if activation(name).homogeneous])
@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    u=arrays(np.float64, (2, 3), elements=st.floats(-9, 9)),
    w=arrays(np.float64, (2, 3), elements=st.floats(-9, 9)),
    t=st.floats(1e-2, 50),
)
def test_gap_of_a_homogeneous_activation_scales_with_the_square(
    name: str, u: np.ndarray, w: np.ndarray, t: float
) -> None:
    phi = activation(name)
    v = phi.phi(w)
    size = t * t * (1 + (u**2).sum(-1) + phi.conjugate(v).sum(-1))
    assert (abs(phi.gap(t * v, t * u) - t * t * phi.gap(v, u)) <= 1e-12 * size).all()


def test_rescaling_two_layers_of_relu_keeps_the_block_optimum_up_to_the_square() -> None:
    # (x, u) times t, W divided by t: the first gap scales with t^2, the second does not change.
    t, block = 1.7, FenchelActivation(width=3, next_width=2, below=1.7**-2)
    unscaled = FenchelActivation(width=3, next_width=2)
    data = data_of(unscaled, batch=1)
    set_parameters(unscaled, data)
    set_parameters(block, {**data, "u": t * data["u"], "W": data["W"] / t})
    assert solve_model(block) == pytest.approx(solve_model(unscaled), abs=1e-8)


@pytest.mark.parametrize("after", ["relu", "tanh", "softmax", "leaky_relu(0.3)", "softmax_cross_entropy"])
@pytest.mark.parametrize("name", MODELLED)
def test_fixed_point_of_the_proximal_operator_machine_is_the_solution(name: str, after: str) -> None:
    # x = phi(u - r W'(phi_next(W x + b) - v)), r = above/below, is a contraction while r |W|^2 sup phi' < 1.
    ratio = 0.6
    block = FenchelActivation(width=4, next_width=3, activation=name, below=0.5, above=0.5 * ratio, **role(after))
    rng = np.random.default_rng(6)
    data = data_of(block, batch=1)
    data["u"] = rng.uniform(-1.5, 0.5, (1, 4))  # exp stays below a slope of e^0.8
    data["W"] *= 0.7 / np.linalg.norm(data["W"], 2)
    x, before = block.activation.phi(data["u"]), None
    for _ in range(400):
        z = x @ data["W"].T + data["b"]
        before, x = x, block.activation.phi(data["u"] - ratio * (block.next_activation.phi(z) - data["v"]) @ data["W"])
    assert abs(x - before).max() <= 1e-14
    residuals = block.residuals({"x": x}, data).worst()
    assert residuals["dual"] <= 1e-13
    assert residuals["gap"] <= 1e-13
    set_parameters(block, data)
    optimum = solve_model(block)
    assert float(block.objective({"x": x}, data)[0]) == pytest.approx(optimum, abs=1e-6)


@pytest.mark.parametrize("name", [*MODELLED, *UNMODELLED])
def test_stationary_point_is_where_the_gradient_of_the_block_vanishes(name: str) -> None:
    # Moving x = phi(t) along t, the objective changes by below <t - stationary point, phi'(t) d>.
    block = FenchelActivation(width=4, next_width=3, activation=name, next_activation="tanh", below=0.3, above=0.9)
    data, rng = data_of(block, batch=5), np.random.default_rng(2)
    t, d = rng.uniform(0.2, 0.4, (5, 4)), rng.standard_normal((5, 4))

    def along(step: float) -> np.ndarray:
        return block.objective({"x": block.activation.phi(t + step * d)}, data)

    residual = t - block.stationary_point(block.activation.phi(t), data)
    expected = 0.3 * (residual * block.activation.jacobian(t)(d)).sum(-1)
    if name == "soft_shrink":  # phi vanishes near these t: nothing moves
        assert (expected == 0).all()
    np.testing.assert_allclose((along(1e-5) - along(-1e-5)) / 2e-5, expected, atol=1e-8)


def test_monotone_direction_is_the_gradient_of_a_weight_block() -> None:
    # grad_W B(phi(U) - gamma G, U) = gamma X'G, without any derivative of phi.
    block = FenchelWeight(samples=7, inputs=3, activation="sigmoid", proximity=0.0)
    rng = np.random.default_rng(0)
    data = data_of(block, batch=2)
    values = {"w": data["w_old"], "c": data["c_old"]}
    G, gamma = rng.standard_normal((2, 7)), 0.01
    data["v"] = block.activation.phi(block.pre_activations(values, data)) - gamma * G
    gradient = block.gradient(values, data)
    np.testing.assert_allclose(gradient["w"], gamma * G @ data["X"], atol=1e-15)
    np.testing.assert_allclose(gradient["c"], gamma * G.sum(1), atol=1e-15)


# ------------------------------------------------------------------------------------ refusals


BAD_SIZES = [0, -1, 2.0, True, "3", None]
BAD_POSITIVE = [0, -1.0, float("inf"), float("nan")]
BAD_NONNEGATIVE = [-1e-9, float("inf"), float("nan")]
REFUSED = (
    [(FenchelActivation, name, bad) for name in ("width", "next_width") for bad in BAD_SIZES]
    + [(FenchelActivation, name, bad) for name in ("below", "above") for bad in BAD_POSITIVE]
    + [(FenchelWeight, name, bad) for name in ("samples", "inputs", "units") for bad in BAD_SIZES]
    + [(FenchelWeight, "multiplier", bad) for bad in BAD_POSITIVE]
    + [(FenchelWeight, name, bad) for name in ("weight_decay", "proximity") for bad in BAD_NONNEGATIVE]
    + [(FenchelOutput, "outputs", bad) for bad in BAD_SIZES]
    + [(FenchelOutput, "multiplier", bad) for bad in BAD_POSITIVE]
)


@pytest.mark.parametrize(("kind", "name", "bad"), REFUSED)
def test_sizes_and_multipliers_out_of_range_are_refused(kind: type[Subproblem], name: str, bad: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} is {re.escape(repr(bad))}; expected a"):
        kind(**{name: bad})


@pytest.mark.parametrize(("kind", "name"), [(FenchelActivation, "below"), (FenchelWeight, "proximity")])
@pytest.mark.parametrize("bad", ["1", None])
def test_multipliers_that_are_no_numbers_are_refused(kind: type[Subproblem], name: str, bad: Any) -> None:
    with pytest.raises((UsageError, TypeError)):
        kind(**{name: bad})


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        (FenchelActivation, {"activation": "swish"}, "unknown activation 'swish'"),
        (FenchelActivation, {"next_activation": "swish"}, "unknown activation 'swish'"),
        (FenchelActivation, {"loss": "hinge"}, "unknown loss 'hinge'"),
        (FenchelWeight, {"activation": "swish"}, "unknown activation 'swish'"),
        (FenchelWeight, {"loss": "hinge"}, "unknown loss 'hinge'"),
        (FenchelOutput, {"loss": "hinge"}, "unknown loss 'hinge'"),
    ],
)
def test_unknown_names_are_refused(kind: type[Subproblem], arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        kind(**arguments)


def test_output_block_refuses_several_outputs_with_the_logistic_loss() -> None:
    assert FenchelOutput(outputs=1, loss="logistic").has_model
    with pytest.raises(UsageError, match="logistic"):
        FenchelOutput(outputs=3, loss="logistic")


@pytest.mark.parametrize("name", UNMODELLED)
def test_blocks_without_a_model_are_made_but_refuse_to_show_one(name: str) -> None:
    for block in (
        FenchelActivation(activation=name),
        FenchelActivation(next_activation=name),
        FenchelWeight(activation=name),
    ):
        assert not block.has_model
        assert block.data_shapes()
        for ask in (block.program, block.show, block.latex, block.html, block.json):
            with pytest.raises(NoConvexModelError, match=f"{name!r} has no disciplined convex model"):
                ask()


# ------------------------------------------------------------------------------------ a program of one's own


class NonnegativeFit(Subproblem):
    """Nonnegative least squares with a price for each unknown."""

    name = "my.fit"
    symbols = (
        Symbol("x", "the unknowns", "per instance"),
        Symbol("A", "the features", "shared"),
        Symbol("y", "the measurements", "per instance"),
        Symbol("price", "price of each unknown", "per instance"),
    )

    def write(self) -> cp.Problem:
        x = cp.Variable(2, name="x")
        A, y = cp.Parameter((2, 2), name="A"), cp.Parameter(2, name="y")
        price = cp.Parameter(2, name="price")
        return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(A @ x - y) + price @ x), [x >= 0])


def test_own_program_is_solved_in_a_batch_with_no_extra_code() -> None:
    # With A = 2 I the solution is max(2 y - price, 0) / 4.
    data = {
        "A": 2 * np.eye(2),
        "y": np.array([[1.0, -1.0], [3.0, 0.5], [0.0, 2.0]]),
        "price": np.array([[0.0, 0.0], [2.0, 0.5], [1.0, 0.0]]),
    }
    solution = solve(NonnegativeFit(), data, tolerance=1e-10)
    assert solution.engine == "projected_gradient"
    assert solution.status == (Status.SOLVED,) * 3
    np.testing.assert_allclose(solution.variables["x"], [[0.5, 0], [1, 0.125], [0, 1]], atol=1e-7)
    assert float(solution.residuals.primal.max()) <= 1e-8


def test_own_program_has_displays_with_no_extra_code() -> None:
    block = NonnegativeFit()
    for display in (block.show(), block.latex(), block.html(), str(block.json())):
        assert "my.fit" in display or "price" in display


class ProductOfParameters(Subproblem):
    """Disciplined in its variable, not in its parameters."""

    name = "my.product"

    def write(self) -> cp.Problem:
        x = cp.Variable(name="x")
        gain, load = cp.Parameter(name="gain"), cp.Parameter(name="load")
        return cp.Problem(cp.Minimize(cp.square(x) + gain * load * x))


class Nonconvex(Subproblem):
    """Not convex at all."""

    name = "my.root"

    def write(self) -> cp.Problem:
        x = cp.Variable(name="distance", nonneg=True)
        return cp.Problem(cp.Minimize(cp.sqrt(x)))


def test_product_of_two_parameters_is_refused_by_name() -> None:
    with pytest.raises(NotDisciplinedError, match=r"my\.product") as seen:
        ProductOfParameters().program()
    assert "gain" in str(seen.value)
    assert "load" in str(seen.value)


def test_nonconvex_program_is_refused_by_name() -> None:
    with pytest.raises(NotDisciplinedError, match=r"my\.root") as seen:
        Nonconvex().program()
    assert "concave" in str(seen.value)
