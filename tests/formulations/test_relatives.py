"""The relatives of Fenchel lifting: closed forms by brute force, identities of their papers, steps that never raise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lifted_runs import PIECEWISE, lifted_problem, run_sweeps, solve_block, solve_model
from scipy.integrate import quad
from torch import Tensor

from convexblocks.formulations import LOSSES, Architecture, FenchelActivation, UsageError, activation
from convexblocks.formulations.admm_lifting import Admm, DeepAdmm
from convexblocks.formulations.catalogue import LIFTED, method
from convexblocks.formulations.contrastive_lifting import ContrastiveLifting
from convexblocks.formulations.fenchel_weight import FenchelWeight
from convexblocks.formulations.formulation import training_objective
from convexblocks.formulations.lifted_blocks import weight_block
from convexblocks.formulations.lifted_method import LiftedMethod, LiftedVariables
from convexblocks.formulations.lpom import LiftedProximalOperators, accelerated_gradient, fixed_point
from convexblocks.formulations.penalty_blocks import PenaltyPreActivation, best_pre_activation, pieces
from convexblocks.formulations.quadratic_penalty import QuadraticPenalty
from convexblocks.formulations.square_lift import SquareLift
from convexblocks.solvers import solve

GRID = np.linspace(-10, 10, 20001)
FACTORS = {"equal": (1.0, 1.0), "paper": (2.0, 20.0), "loose": (3.0, 0.01), "tight": (0.01, 3.0)}
WITH_PARAMETERS = (*PIECEWISE, "leaky_relu(0.3)", "clipped_relu(1.5)", "soft_shrink(1.2)")
KINDS = ("random", "ill-scaled", "degenerate")


def penalty_value(z: Any, u: Any, a: Any, name: str, below: float, above: float) -> Any:
    return below / 2 * (z - u) ** 2 + above / 2 * (a - activation(name).phi(z)) ** 2


# ------------------------------------------------------------------------------------- pre-activations of a penalty


@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_the_best_piece_is_the_minimum_by_brute_force(name: str, factors: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    u, a = rng.normal(size=60) * 2, rng.normal(size=60) * 2
    found = best_pre_activation(activation(name), u, a, *factors)
    values = penalty_value(found, u, a, name, *factors)
    by_grid = penalty_value(GRID[:, None], u, a, name, *factors).min(0)
    # Half a step of the grid costs at most this much on a piece of curvature below + above.
    allowed = sum(factors) / 2 * 0.0006**2
    assert (values <= by_grid + 1e-12).all()
    # A leaky piece may have its minimizer beyond the grid.
    reached = np.abs(found) < 9.9
    assert reached.mean() > 0.5
    assert (values >= by_grid - allowed)[reached].all()


@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
def test_relu_has_the_two_cases_of_admm_and_the_three_branches_of_block_descent(factors: tuple[float, float]) -> None:
    below, above = factors
    rng = np.random.default_rng(1)
    u, a = rng.normal(size=500), rng.normal(size=500) * 2
    found = best_pre_activation(activation("relu"), u, a, below, above)

    left, right = np.minimum(u, 0), np.maximum((below * u + above * a) / (below + above), 0)
    better = penalty_value(left, u, a, "relu", *factors) <= penalty_value(right, u, a, "relu", *factors)
    np.testing.assert_allclose(found, np.where(better, left, right))

    # Zeng et al., ICML 2019: gamma/2 (z - u)^2 + 1/2 (a - relu(z))^2, by where u lies.
    gamma = below / above
    edge = a * (gamma - np.sqrt(gamma * (gamma + 1))) / gamma
    dead, joined = a + gamma * u < 0, (a + gamma * u) / (1 + gamma)
    branches = np.where(dead, np.minimum(u, 0), np.where((u >= 0) | (u >= edge), joined, u))
    np.testing.assert_allclose(found, branches, atol=1e-12)
    assert min(np.mean(dead), np.mean(found == u), np.mean(found == joined)) > 0


def penalty_instances(kind: str, width: int = 5, batch: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    scale = np.geomspace(1e-3, 1e2, width) if kind == "ill-scaled" else 1.0
    u, a = rng.normal(size=(batch, width)) * scale, rng.normal(size=(batch, width)) * scale
    if kind == "degenerate":
        u[:, 0], a[:, :2] = 0.0, 0.0
    return {"u": u, "a": a}


PIECES = {f"{name} {piece}": (name, piece) for name in PIECEWISE for piece in range(len(pieces(activation(name))))}


@pytest.mark.parametrize("case", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_closed_form_of_a_piece_is_the_optimum_of_the_model(kind: str, case: tuple[str, int]) -> None:
    name, piece = case
    block = PenaltyPreActivation(width=5, activation=name, piece=piece, below=0.7, above=2.0)
    assert block.program().is_dcp(dpp=True)
    data = penalty_instances(kind)
    best = {"z": block.minimizer(block.piece, data["u"], data["a"], 0.7, 2.0)}
    for row, value in enumerate(block.objective(best, data)):
        wanted = solve_model(block, {"u": data["u"][row], "a": data["a"][row]})
        assert value == pytest.approx(wanted, rel=1e-6, abs=1e-7)
    # The pieces join, and on each of them the line is the activation.
    inside = np.clip(np.linspace(-3, 3, 61), block.piece.low, block.piece.high)
    np.testing.assert_allclose(block.piece.slope * inside + block.piece.offset, activation(name).phi(inside))


@pytest.mark.parametrize("kind", KINDS)
def test_engines_solve_the_block_of_a_piece(kind: str) -> None:
    block, data = PenaltyPreActivation(width=5), penalty_instances(kind)
    solution = solve(block, data)
    assert solution.solved
    best = block.minimizer(block.piece, data["u"], data["a"], 1.0, 1.0)
    np.testing.assert_allclose(solution.variables["z"].numpy(), best, rtol=0, atol=1e-3)


def test_residuals_of_a_piece_see_wrong_answers() -> None:
    block, data = PenaltyPreActivation(width=5), penalty_instances("random")
    best = block.minimizer(block.piece, data["u"], data["a"], 1.0, 1.0)
    good = block.residuals({"z": best}, data).worst()
    assert max(good.values()) < 1e-12
    outside = block.residuals({"z": -0.5 + 0.0 * best}, data)
    np.testing.assert_allclose(outside.primal, 0.5)
    moved = block.residuals({"z": best + 0.1}, data)
    assert min(moved.dual) > 0.01
    assert min(moved.gap) > 1e-4


def test_unknown_pieces_and_curved_activations_are_refused() -> None:
    with pytest.raises(UsageError, match="piece is 2; expected one of 0 to 1"):
        PenaltyPreActivation(piece=2)
    with pytest.raises(UsageError, match=r"'tanh' is curved.*the method 'inequality'"):
        PenaltyPreActivation(activation="tanh")


# ---------------------------------------------------------------------------------------------------- ADMM


def lagrangian(method: Admm | DeepAdmm, architecture: Architecture, state: LiftedVariables) -> Tensor:
    """The augmented Lagrangian as the module states it, differentiable in everything."""
    multiplier, coupling, output = method.factors()
    below, value = state.inputs, architecture.weight_decay / 2 * sum((weight**2).sum() for weight in state.weights)
    for place, (weight, bias, z) in enumerate(zip(state.weights, state.biases, state.pre_activations, strict=True)):
        residual = z - below @ weight.T - bias
        if place < architecture.hidden:
            below = state.activations[place]
            phi = torch.relu(z) if architecture.activations[place].name == "relu" else z
            value = value + multiplier / 2 * (residual**2).sum() + coupling / 2 * ((below - phi) ** 2).sum()
        else:
            loss = architecture.loss.values(z, state.targets).sum()
            value = value + loss + (state.multiplier * residual).sum() + output / 2 * (residual**2).sum()
    return value


def slope(method: Admm | DeepAdmm, architecture: Architecture, state: LiftedVariables, part: str, place: int) -> Tensor:
    """The gradient of the Lagrangian in one array of the state, by torch."""
    arrays = getattr(state, part)
    kept, arrays[place] = arrays[place], arrays[place].clone().requires_grad_()
    lagrangian(method, architecture, state).backward()
    gradient, arrays[place] = arrays[place].grad, kept
    return gradient


def midway(method: LiftedMethod, loss: str, name: str = "relu") -> tuple[Architecture, LiftedVariables]:
    """Variables after some sweeps, away from the forward pass, with a multiplier that is not zero."""
    architecture, state = lifted_problem(name, loss, hidden=(6, 5))
    for _ in run_sweeps(method, architecture, state, 3):
        pass
    if state.multiplier is not None:
        assert float(state.multiplier.abs().max()) > 1e-3
    return architecture, state


ADMM = Admm(multiplier=0.5, coupling=3.0, warm_up=1)
DLADMM = DeepAdmm(multiplier=0.5, output=2.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_blocks_of_admm_are_stationary_points_of_its_lagrangian(loss: str) -> None:
    architecture, state = midway(ADMM, loss)
    parts = {"weight": ("weights", "biases"), "activation": ("activations",)}
    for group in ADMM.groups(architecture):
        for step in group:
            ADMM.update(step, architecture, state, solve_block)
            watched = ("pre_activations",) if step.layer == architecture.layers else ()
            for part in parts.get(step.block, watched):
                assert float(slope(ADMM, architecture, state, part, step.layer - 1).abs().max()) < 2e-4


@pytest.mark.parametrize("loss", LOSSES)
def test_blocks_of_dladmm_minimize_majorizers_of_its_lagrangian(loss: str) -> None:
    architecture, state = midway(DLADMM, loss)
    for group in DLADMM.groups(architecture):
        for step in group:
            place, now = step.layer - 1, {part: list(getattr(state, part)) for part in ("weights", "activations")}
            part = {"weight": "weights", "activation": "activations"}.get(step.block)
            before = float(lagrangian(DLADMM, architecture, state))
            gradient = slope(DLADMM, architecture, state, part, place) if part else None
            DLADMM.update(step, architecture, state, solve_block)
            if part is None:
                if step.layer == architecture.layers:
                    assert float(slope(DLADMM, architecture, state, "pre_activations", place).abs().max()) < 2e-4
                continue
            # The least factor of the identity above the Hessian of the block.
            if part == "weights":
                inputs = state.below(step.layer)
                factor = DLADMM.factor(step.layer, architecture)
                curvature = factor * float(torch.linalg.matrix_norm(inputs, 2)) ** 2 + architecture.weight_decay
                assert float(slope(DLADMM, architecture, state, "biases", place).abs().max()) < 1e-8
            else:
                factor = DLADMM.factor(step.layer + 1, architecture)
                norm = float(torch.linalg.matrix_norm(state.weights[step.layer], 2))
                curvature = factor * norm**2 + DLADMM.multiplier
            wanted = now[part][place] - gradient / curvature
            torch.testing.assert_close(getattr(state, part)[place], wanted, rtol=1e-8, atol=1e-10)
            assert float(lagrangian(DLADMM, architecture, state)) <= before + 1e-9


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", [ADMM, DLADMM], ids=["admm", "dladmm"])
def test_the_multiplier_is_the_negative_slope_of_the_loss_after_a_sweep(method: Admm | DeepAdmm, loss: str) -> None:
    """z_L is the last block: 0 = loss'(z_L) + u + output (z_L - W_L a_{L-1} - b_L), and the sum is the new u."""
    architecture, state = midway(method, loss)
    z = state.pre_activations[-1].clone().requires_grad_()
    architecture.loss.values(z, state.targets).sum().backward()
    torch.testing.assert_close(state.multiplier, -z.grad, rtol=0, atol=2e-4)
    assert method.lifted_value(architecture, state) == pytest.approx(float(lagrangian(method, architecture, state)))


def test_warm_up_leaves_the_multiplier_at_zero() -> None:
    architecture, state = lifted_problem("relu", "squared")
    sizes = [float(state.multiplier.abs().max()) for _ in run_sweeps(Admm(warm_up=2), architecture, state, 3)]
    assert sizes[:2] == [0.0, 0.0]
    assert sizes[2] > 1e-3


# ---------------------------------------------------------------------------------------------------- LPOM


@pytest.mark.parametrize(
    ("name", "constant"),
    [("sigmoid", 0.125), ("tanh", 0.0), ("softsign", 0.0), ("arctan", 0.0), ("leaky_relu(0.3)", 0.0)],
)
def test_the_penalty_of_lpom_is_the_fenchel_young_gap_and_a_constant(name: str, constant: float) -> None:
    """Integrals of phi^{-1}(t) - t from phi(0) and of phi(t) - t from 0, by quadrature."""
    phi, rng = activation(name), np.random.default_rng(3)

    def inverse(t: float) -> float:
        if phi.name == "leaky_relu":
            return t if t >= 0 else t / 0.3
        assert phi.inverse is not None
        return float(phi.inverse(np.array(t)))

    start = float(phi.phi(np.array(0.0)))
    for u, v in zip(rng.normal(size=12) * 2, phi.phi(rng.normal(size=12) * 1.5), strict=True):
        f = quad(lambda t: inverse(t) - t, start, v)[0]
        g = quad(lambda t: float(phi.phi(np.array(t))) - t, 0.0, u)[0]
        gap = float(phi.gap(np.array([v]), np.array([u])))
        assert f + g + (v - u) ** 2 / 2 == pytest.approx(gap + constant, abs=1e-7)


def activation_data(ratio: float, share: float, width: int = 6, next_width: int = 4) -> dict[str, Tensor]:
    """Data of an activation block with ratio |W|^2 = share."""
    rng = np.random.default_rng(4)
    W = rng.normal(size=(next_width, width))
    W *= np.sqrt(share / ratio) / np.linalg.norm(W, 2)
    arrays = {"u": rng.normal(size=(8, width)), "v": np.abs(rng.normal(size=(8, next_width))) / 4}
    arrays |= {"W": W, "b": rng.normal(size=next_width)}
    return {name: torch.as_tensor(array) for name, array in arrays.items()}


@pytest.mark.parametrize("ratio", [0.3, 4.0])
@pytest.mark.parametrize("names", [("relu", "relu"), ("tanh", "sigmoid"), ("leaky_relu(0.3)", "relu")], ids="-".join)
def test_the_fixed_point_is_the_minimizer_of_the_block_where_it_contracts(
    names: tuple[str, str], ratio: float
) -> None:
    first, second = names
    block = FenchelActivation(
        width=6, next_width=4, activation=first, next_activation=second, below=0.5, above=0.5 * ratio
    )
    data = activation_data(ratio, share=0.9)
    found = fixed_point(block, data, activation(first).phi(data["u"]), repeats=300)
    assert max(block.residuals({"x": found}, data).worst().values()) < 1e-9
    torch.testing.assert_close(found, solve(block, data, tolerance=1e-10).variables["x"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_fixed_point_before_the_output_meets_the_loss(loss: str) -> None:
    outputs = {"squared": 2, "logistic": 1, "softmax_cross_entropy": 4}[loss]
    block = FenchelActivation(width=6, next_width=outputs, activation="relu", loss=loss, below=2.0)
    data = activation_data(0.5, 0.9, next_width=outputs)
    data["v"] = torch.zeros_like(data["v"])
    data["v"][:, 0] = 1.0
    found = fixed_point(block, data, torch.relu(data["u"]), repeats=300)
    torch.testing.assert_close(found, solve(block, data, tolerance=1e-10).variables["x"], rtol=0, atol=1e-4)


def test_a_fixed_point_that_leaves_is_not_taken() -> None:
    block = FenchelActivation(width=6, next_width=4, activation="relu", next_activation="relu")
    data = activation_data(1.0, share=400.0)
    x = solve(block, data, tolerance=1e-10).variables["x"]
    assert torch.equal(fixed_point(block, data, x, repeats=5), x)
    start = torch.relu(data["u"])
    after = block.objective({"x": fixed_point(block, data, start, repeats=1)}, data)
    assert bool((after <= block.objective({"x": start}, data)).all())


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_accelerated_steps_reach_the_minimizer_of_a_weight_block(name: str, bias: bool) -> None:
    rng = np.random.default_rng(5)
    arrays = {"X": rng.normal(size=(30, 4)), "v": activation(name).phi(rng.normal(size=(3, 30)))}
    arrays |= {"w_old": rng.normal(size=(3, 4))} | ({"c_old": rng.normal(size=3)} if bias else {})
    data = {key: torch.as_tensor(array) for key, array in arrays.items()}
    block = FenchelWeight(
        samples=30, inputs=4, activation=name, multiplier=0.5, weight_decay=0.2, proximity=0.0, bias=bias
    )
    wanted = solve(block, data, tolerance=1e-10).variables
    found = accelerated_gradient(block, data, repeats=500)
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------- square lift, relaxations, descent


def feed_forward(method: LiftedMethod, loss: str) -> tuple[float, float, Architecture, LiftedVariables]:
    """The lifted value at the forward pass and the training objective of its weights."""
    architecture, state = lifted_problem("relu", loss, hidden=(6, 5))
    method.start(architecture, state)
    trained = sum(training_objective(architecture, state.weights, state.biases, state.inputs, state.targets))
    return method.lifted_value(architecture, state), trained, architecture, state


@pytest.mark.parametrize("loss", LOSSES)
def test_the_square_lift_charges_feed_forward_points_and_is_no_relaxation(loss: str) -> None:
    square = SquareLift(multiplier=0.7)
    value, trained, architecture, state = feed_forward(square, loss)
    negative = [float(torch.relu(-z).square().sum()) / 2 for z in state.pre_activations[:-1]]
    assert min(negative) > 0.1
    assert square.layer_gaps(architecture, state) == pytest.approx(negative)
    assert value == pytest.approx(trained + 0.7 * sum(negative))
    assert LiftedProximalOperators().layer_gaps(architecture, state) == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", [name for name in LIFTED if name != "square"])
def test_the_others_charge_feed_forward_points_what_the_network_costs(name: str, loss: str) -> None:
    value, trained, *_ = feed_forward(method(name), loss)
    assert value == pytest.approx(trained)


DESCENTS: dict[str, LiftedMethod] = {
    "lpom": LiftedProximalOperators(multiplier=0.5), "square": SquareLift(multiplier=0.5, proximity=0.1),
    "penalty": QuadraticPenalty(multiplier=0.5, coupling=2.0, proximity=1.0), "admm": ADMM, "dladmm": DLADMM,
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["relu", "hardtanh"])
@pytest.mark.parametrize("method", DESCENTS.values(), ids=DESCENTS)
def test_no_step_raises_the_lifted_value(method: LiftedMethod, name: str, loss: str) -> None:
    """At a fixed multiplier, for the methods that have one."""
    architecture, state = lifted_problem(name, loss, hidden=(6, 5))
    values = []
    for _ in run_sweeps(method, architecture, state, 2):
        values = [method.lifted_value(architecture, state)]
    for step in (step for group in method.groups(architecture) for step in group):
        method.update(step, architecture, state, solve_block)
        values.append(method.lifted_value(architecture, state))
    assert np.diff(values).max() <= 1e-7 * (1 + abs(values[0]))
    assert values[-1] < values[0] - 1e-6


# ---------------------------------------------------------------------------------------------------- contrast


def clamped(
    nudge: float, name: str, loss: str, rounds: int = 2
) -> tuple[ContrastiveLifting, Architecture, LiftedVariables]:
    """The state of a sweep after its activation blocks, before its weight blocks."""
    contrast = ContrastiveLifting(nudge=nudge, rounds=rounds)
    architecture, state = lifted_problem(name, loss, hidden=(6, 5))
    contrast.start(architecture, state)
    for group in contrast.groups(architecture)[:-1]:
        for step in group:
            contrast.update(step, architecture, state, solve_block)
    return contrast, architecture, state


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_a_small_nudge_gives_the_gradient_of_backpropagation(name: str, loss: str) -> None:
    """Up to O(nudge), at the clamped minimum: with two hidden layers it takes several rounds."""
    contrast, architecture, state = clamped(1e-3, name, loss, rounds=40)
    weights = [weight.clone().requires_grad_() for weight in state.weights]
    below = state.inputs
    for weight, bias, phi in zip(weights, state.biases, architecture.activations, strict=False):
        below = phi.phi(below @ weight.T + bias)
    output = below @ weights[-1].T + state.biases[-1]
    decay = architecture.weight_decay / 2 * sum((weight**2).sum() for weight in weights)
    (architecture.loss.values(output, state.targets).sum() + decay).backward()
    for step, weight in zip(contrast.groups(architecture)[-1], weights, strict=True):
        block, data = weight_block(step, architecture, state, multiplier=1e3)
        start = {"w": data["w_old"]} | ({"c": data["c_old"]} if block.bias else {})
        found = block.gradient(start, data)["w"].reshape(weight.shape)
        assert float((found - weight.grad).norm()) < 1e-2 * float(weight.grad.norm())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("nudge", [0.01, 1.0, 30.0])
def test_the_contrast_is_at_most_the_training_objective(nudge: float, loss: str) -> None:
    contrast, architecture, state = clamped(nudge, "relu", loss)
    trained = sum(training_objective(architecture, state.weights, state.biases, state.inputs, state.targets))
    assert contrast.lifted_value(architecture, state) < trained


# ---------------------------------------------------------------------------------------------------- refusals

REFUSED_SETTINGS = {
    "lpom": ({"repeats": 0}, "repeats is 0"),
    "contrastive": ({"nudge": 0.0}, "nudge is 0.0"),
    "square": ({"multiplier": -1.0}, "multiplier is -1"),
    "penalty": ({"proximity": -1.0}, "proximity is -1"),
    "admm": ({"warm_up": -1}, "warm_up is -1"),
    "dladmm": ({"output": 0.0}, "output is 0.0"),
}
REFUSED_ACTIVATIONS = {
    "lpom": ("exponential", "'exponential' has slopes up to inf"),
    "contrastive": ("softmax", "'softmax' couples the units.*the method 'fenchel'"),
    "square": ("leaky_relu", r"'leaky_relu\(0.01\)' is no projection.*take one of these, or the method 'fenchel'"),
    "penalty": ("tanh", "'tanh' is curved.*take one of these, or the method 'inequality'"),
    "admm": ("sigmoid", "'sigmoid' is curved.*take one of these, or the method 'inequality'"),
    "dladmm": ("softmax", "'softmax' is curved.*take one of these, or the method 'inequality'"),
}


@pytest.mark.parametrize("name", REFUSED_SETTINGS)
def test_settings_out_of_range_are_refused(name: str) -> None:
    settings, message = REFUSED_SETTINGS[name]
    with pytest.raises(UsageError, match=message):
        method(name, **settings)


@pytest.mark.parametrize("name", REFUSED_ACTIVATIONS)
def test_activations_that_a_method_cannot_take_are_refused(name: str) -> None:
    which, message = REFUSED_ACTIVATIONS[name]
    architecture, _ = lifted_problem(which, "squared")
    with pytest.raises(UsageError, match=message):
        method(name).check(architecture)
