"""Every engine against the cvxpy model solved by Clarabel: blocks x engines x kinds of instances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from instances import (
    ALL,
    KINDS,
    LOSS_NAMES,
    MODELLED,
    OTHER_PARAMETERS,
    QUADRATIC,
    UNMODELLED,
    activation_block,
    data_of,
    output_block,
    weight_block,
)

from convexblocks.formulations import FenchelActivation, FenchelOutput, FenchelWeight
from convexblocks.solvers import ENGINES, agree, solve

NEXT = (*MODELLED, *LOSS_NAMES)
# No engine claims a piecewise linear activation below exp; Clarabel solves these.
PAIRS = [(phi, after) for phi in MODELLED for after in NEXT if not (phi in QUADRATIC and after == "exponential")]
# Small multipliers below make a block stiff: the term above dominates.
STIFF = {"random": 0.7, "ill-scaled": 0.05, "degenerate": 0.7}


def role(after: str) -> dict[str, str]:
    return {"loss": after} if after in LOSS_NAMES else {"next_activation": after}


def claimants(block: Any) -> list[str]:
    return [name for name, engine in ENGINES.items() if not engine.missing(block)]


def check_agreement(block: Any, data: Any) -> None:
    names = claimants(block)
    assert names
    for name in names:
        agreement = agree(block, data, engine=name)
        assert agreement.agrees, str(agreement)
        assert agreement.engine == name
        assert agreement.instances == len(data["v" if "v" in data else "u"])
        assert agreement.objective_gap <= 1e-5
        assert agreement.violation <= 1e-8
        solution = solve(block, data, engine=name, tolerance=1e-8)
        assert solution.solved, solution.residuals.worst()


# ------------------------------------------------------------------------------------ which engine solves what


def test_engines_claim_what_they_say() -> None:
    claims = {
        (phi, after): claimants(FenchelActivation(width=1, next_width=1, activation=phi, **role(after)))
        for phi in ALL
        for after in (*ALL, *LOSS_NAMES)
    }
    for (phi, after), names in claims.items():
        if phi not in QUADRATIC:
            assert names == ["newton"]
        else:
            # The gradient step needs a bounded slope of what comes next; that of exp has no bound.
            closed = ["ridge"] if phi == "identity" and after in ("identity", "squared") else []
            assert names == ([] if after == "exponential" else ["projected_gradient", *closed])
    for what in (*ALL, *LOSS_NAMES):
        kind = {"loss": what} if what in LOSS_NAMES else {"activation": what}
        closed = ["ridge"] if what in ("identity", "squared") else []
        assert claimants(FenchelWeight(samples=2, inputs=1, **kind)) == ["weight_newton", *closed]
    for loss in LOSS_NAMES:
        assert claimants(FenchelOutput(outputs=1, loss=loss)) == ["sherman_morrison"]


# ------------------------------------------------------------------------------------ agreement: the product of lists


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("phi", "after"), PAIRS)
def test_activation_blocks_agree(phi: str, after: str, kind: str) -> None:
    block = activation_block(phi, after, STIFF[kind])
    # The degenerate kind has one instance of each degeneracy.
    check_agreement(block, data_of(block, kind, batch=4 if kind == "degenerate" else 2, seed=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phi", [*OTHER_PARAMETERS, "relu", "tanh", "softmax"])
def test_activation_blocks_with_other_parameters_agree(phi: str, kind: str) -> None:
    after = "clipped_relu(1.5)" if phi in ("relu", "tanh", "softmax") else "sigmoid"
    block = activation_block(phi, after, STIFF[kind])
    check_agreement(block, data_of(block, kind, batch=4, seed=2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("what", [*MODELLED, *LOSS_NAMES, *OTHER_PARAMETERS])
def test_weight_blocks_agree(what: str, bias: bool, kind: str) -> None:
    block = weight_block(what, bias)
    check_agreement(block, data_of(block, kind, batch=3, seed=3))


@pytest.mark.parametrize("kind", ["random", "ill-scaled"])
@pytest.mark.parametrize("what", [*MODELLED, *LOSS_NAMES])
def test_weight_blocks_held_by_little_agree(what: str, kind: str) -> None:
    block = weight_block(what, True, 3.0, 0.0, 0.01)
    check_agreement(block, data_of(block, kind, batch=2, seed=4))


@pytest.mark.parametrize("what", ["identity", "squared", "leaky_relu", "tanh", "softmax_cross_entropy"])
@pytest.mark.parametrize(("weight_decay", "bias"), [(0.2, True), (0.0, False)])
def test_weight_blocks_without_proximal_term_agree(what: str, weight_decay: float, bias: bool) -> None:
    # The gap is then infinite (nothing bends the bias), and the dual residual decides.
    block = weight_block(what, bias, 1.0, weight_decay, 0.0)
    data = data_of(block, "random", batch=2, seed=5)
    if what == "softmax_cross_entropy":
        # Labels that no hyperplane separates: all classes at the same few points.
        data["X"] = np.repeat(data["X"][:4], 3, axis=0)
        data["v"] = np.tile(np.eye(3), (len(data["v"]), 4, 1))
    check_agreement(block, data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multiplier", [0.6, 0.01, 50.0])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_output_blocks_agree(loss: str, multiplier: float, kind: str) -> None:
    block = output_block(loss, multiplier)
    check_agreement(block, data_of(block, kind, batch=5, seed=6))


@pytest.mark.parametrize(
    ("phi", "after"), [("relu", "relu"), ("leaky_relu", "softmax_cross_entropy"), ("tanh", "tanh")]
)
def test_larger_activation_blocks_agree(phi: str, after: str) -> None:
    block = FenchelActivation(width=32, next_width=10, activation=phi, below=0.2, **role(after))
    check_agreement(block, data_of(block, batch=3))


@pytest.mark.parametrize("what", ["relu", "sigmoid", "softmax_cross_entropy"])
def test_larger_weight_blocks_agree(what: str) -> None:
    kind = {"loss": what} if what in LOSS_NAMES else {"activation": what}
    block = FenchelWeight(samples=60, inputs=32, units=4, weight_decay=0.05, proximity=0.1, **kind)
    check_agreement(block, data_of(block, batch=2))


def test_a_layer_with_more_features_than_samples_agrees() -> None:
    block = FenchelWeight(samples=8, inputs=32, activation="relu", proximity=0.1)
    check_agreement(block, data_of(block, batch=3))


@pytest.mark.parametrize(
    "block",
    [
        FenchelActivation(width=3, next_width=2, activation="relu", next_activation="relu"),
        FenchelWeight(samples=6, inputs=2, activation="relu"),
        FenchelOutput(outputs=2, loss="squared"),
    ],
    ids=["activation", "weight", "output"],
)
def test_the_second_reference_agrees_with_the_first(block: Any) -> None:
    agreement = agree(block, data_of(block, batch=3), engine="scs")
    assert agreement.objective_gap <= 1e-6
    assert agreement.violation <= 1e-7
    assert agreement.engine == "scs"


def test_the_second_reference_solves_exponential_cones() -> None:
    block = FenchelOutput(outputs=3, loss="softmax_cross_entropy")
    data = data_of(block, batch=2)
    slow, fast = solve(block, data, engine="scs"), solve(block, data, tolerance=1e-10)
    np.testing.assert_allclose(slow.variables["z"], fast.variables["z"], atol=1e-5)


# ------------------------------------------------------------------------------------ what has no model


PERTURBATIONS = (0.3, 1e-2, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("phi", "after"),
    [(phi, after) for phi in UNMODELLED for after in ("relu", "tanh", "exponential", "squared", *UNMODELLED)]
    + [(phi, after) for phi in ("relu", "sigmoid", "softmax") for after in UNMODELLED],
)
def test_activation_blocks_without_a_model_are_solved_and_no_nearby_point_is_better(
    phi: str, after: str, kind: str
) -> None:
    block = activation_block(phi, after, STIFF[kind])
    data = data_of(block, kind, batch=5)
    solution = solve(block, data, tolerance=1e-10).require_solved()
    assert solution.residuals.worst()["gap"] <= 1e-10
    tensors, rng = {name: torch.tensor(value) for name, value in data.items()}, np.random.default_rng(0)
    best = block.objective(solution.variables, tensors)
    for size in PERTURBATIONS:
        for _ in range(20):
            noise = torch.tensor(size * rng.standard_normal(data["u"].shape))
            # The absolute value keeps a row of softmax from losing all its entries.
            other = solution.variables["x"] + (noise.abs() if phi == "softmax" else noise)
            nearby = block.objective({"x": block.activation.project(other)}, tensors)
            assert bool((nearby >= best - 1e-9 * (1 + best.abs())).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", UNMODELLED)
def test_weight_blocks_without_a_model_are_solved_and_no_nearby_point_is_better(what: str, kind: str) -> None:
    block = weight_block(what)
    data = data_of(block, kind)
    solution = solve(block, data, tolerance=1e-10).require_solved()
    tensors, rng = {name: torch.tensor(value) for name, value in data.items()}, np.random.default_rng(0)
    best = block.objective(solution.variables, tensors)
    for size in PERTURBATIONS:
        for _ in range(20):
            other = {
                name: values + torch.tensor(size * rng.standard_normal(values.shape))
                for name, values in solution.variables.items()
            }
            assert bool((block.objective(other, tensors) >= best - 1e-9 * (1 + best.abs())).all())


# ------------------------------------------------------------------------------------ batches


BATCHED = {
    "projected_gradient": activation_block("relu", "tanh", 0.05),
    "projected_gradient, loss": activation_block("clipped_relu", "softmax_cross_entropy", 0.05),
    "newton": activation_block("tanh", "relu", 0.05),
    "newton, simplex": activation_block("softmax", "sigmoid", 0.05),
    "weight_newton": weight_block("relu", True, 1.0, 0.0, 0.05),
    "weight_newton, coupled": weight_block("softmax_cross_entropy", True, 1.0, 0.01, 0.05),
    "sherman_morrison": output_block("softmax_cross_entropy", 0.05),
}


def only(block: Any, data: Any, place: int) -> Any:
    return {name: value if block.is_shared(name) else value[place : place + 1] for name, value in data.items()}


@pytest.mark.parametrize("name", BATCHED)
def test_instances_of_a_batch_do_not_know_of_each_other(name: str) -> None:
    block = BATCHED[name]
    data = data_of(block, batch=12, seed=7)
    tensors = {symbol: torch.tensor(value) for symbol, value in data.items()}
    together = solve(block, data, tolerance=1e-11).require_solved()
    assert together.engine == name.partition(",")[0]
    objectives = block.objective(together.variables, tensors)
    for place in range(len(objectives)):
        alone = solve(block, only(block, data, place), tolerance=1e-11).require_solved()
        expected = float(block.objective(alone.variables, only(block, tensors, place))[0])
        assert float(objectives[place]) == pytest.approx(expected, abs=1e-9)
        for symbol, values in alone.variables.items():
            torch.testing.assert_close(together.variables[symbol][place : place + 1], values, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", BATCHED)
def test_rows_that_converge_early_leave_the_others_undisturbed(name: str) -> None:
    # Every other row starts at its solution, and is therefore done at once.
    block = BATCHED[name]
    data = data_of(block, batch=12, seed=8)
    cold = solve(block, data, tolerance=1e-11).require_solved()
    exact = solve(block, data, tolerance=1e-13)
    symbols = {"x"} if "x" in cold.variables else {"w", "c"} if "w" in cold.variables else {"z"}
    start = {symbol: exact.variables[symbol].clone() for symbol in symbols}
    for values in start.values():
        values[1::2] = 0.4 if "newton, simplex" != name else 1 / values.shape[1]
    mixed = solve(block, data, tolerance=1e-11, warm_start=start).require_solved()
    assert int(mixed.iterations[::2].max()) <= (1 if "newton" in name else 10)
    assert int(mixed.iterations[1::2].min()) > 1
    tensors = {symbol: torch.tensor(value) for symbol, value in data.items()}
    torch.testing.assert_close(
        block.objective(mixed.variables, tensors), block.objective(cold.variables, tensors), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("name", BATCHED)
def test_start_at_the_solution_needs_no_iteration(name: str) -> None:
    block = BATCHED[name]
    data = data_of(block, batch=4, seed=9)
    cold = solve(block, data, tolerance=1e-9).require_solved()
    assert int(cold.iterations.min()) > 0
    again = solve(block, data, tolerance=1e-9, warm_start=cold)
    assert again.iterations.tolist() == [0] * len(again.iterations)
    for symbol, values in cold.variables.items():
        torch.testing.assert_close(again.variables[symbol], values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BATCHED)
def test_start_near_the_solution_saves_iterations(name: str) -> None:
    block = BATCHED[name]
    data = data_of(block, batch=6, seed=10)
    cold = solve(block, data, tolerance=1e-9).require_solved()
    moved = "w_old" if "w_old" in data else "u"
    close = {**data, moved: data[moved] + 1e-5}
    warm = solve(block, close, tolerance=1e-9, warm_start=cold).require_solved()
    assert int(warm.iterations.sum()) <= 0.6 * int(cold.iterations.sum())


@pytest.mark.parametrize("name", BATCHED)
def test_a_tighter_tolerance_gives_a_smaller_gap(name: str) -> None:
    block = BATCHED[name]
    data = data_of(block, batch=6, seed=11)
    loose, tight = solve(block, data, tolerance=1e-2), solve(block, data, tolerance=1e-12)
    assert loose.residuals.worst()["gap"] <= 1e-2
    assert tight.residuals.worst()["gap"] <= 1e-12
    assert int(loose.iterations.sum()) < int(tight.iterations.sum())


@pytest.mark.parametrize("name", BATCHED)
def test_arguments_are_left_alone(name: str) -> None:
    block = BATCHED[name]
    data = {symbol: torch.tensor(value) for symbol, value in data_of(block, batch=4, seed=12).items()}
    cold = solve(block, data)
    copies = {symbol: value.clone() for symbol, value in data.items()}
    values = {symbol: value.clone() for symbol, value in cold.variables.items()}
    solve(block, data, warm_start=cold, tolerance=1e-12)
    assert all(torch.equal(data[symbol], copies[symbol]) for symbol in data)
    assert all(torch.equal(cold.variables[symbol], values[symbol]) for symbol in values)


@pytest.mark.parametrize("what", ["identity", "squared"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_newton_solves_quadratic_blocks_in_one_step(what: str, bias: bool) -> None:
    # Decay bends the weights and not the bias: a wrong Hessian would take more steps.
    block = weight_block(what, bias, 0.8, 2.0, 0.1)
    assert set(solve(block, data_of(block), tolerance=1e-12).iterations.tolist()) == {1}


def test_newton_solves_a_squared_loss_in_one_step() -> None:
    block = output_block("squared")
    assert set(solve(block, data_of(block), tolerance=1e-12).iterations.tolist()) == {1}


# ------------------------------------------------------------------------------------ extremes


@pytest.mark.parametrize("scale", [1e3, 1e-3])
@pytest.mark.parametrize("name", ["projected_gradient", "newton", "weight_newton", "sherman_morrison"])
def test_data_of_another_size_are_solved(name: str, scale: float) -> None:
    block = {
        "projected_gradient": activation_block("relu", "relu"),
        "newton": activation_block("sigmoid", "tanh"),
        "weight_newton": weight_block("relu"),
        "sherman_morrison": output_block("softmax_cross_entropy"),
    }[name]
    data = data_of(block, batch=4)
    data[{"weight_newton": "X"}.get(name, "u")] *= scale
    solution = solve(block, data, tolerance=1e-8)
    assert solution.engine == name
    assert solution.solved, solution.residuals.worst()


@pytest.mark.parametrize("phi", ["sigmoid", "tanh", "softmax", "elu", "softsign", "arctan", "probit"])
def test_stiff_blocks_of_smooth_activations_are_solved(phi: str) -> None:
    # above |W|^2 / below is about a thousand here.
    for after in ("identity", "relu", "tanh", "squared"):
        block = FenchelActivation(width=8, next_width=6, activation=phi, below=0.01, **role(after))
        data = data_of(block, batch=25)
        data["W"] *= 3
        solution = solve(block, data)
        assert solution.solved, (after, solution.residuals.worst())


@pytest.mark.parametrize("after", ["tanh", "softmax_cross_entropy"])
@pytest.mark.parametrize("phi", ["sigmoid", "tanh", "softmax", "elu", "arctan", "probit"])
def test_fully_saturated_units_are_solved(phi: str, after: str) -> None:
    # All slopes vanish at u = 700 in floating point: Newton's matrix has nothing of the layer itself.
    block = activation_block(phi, after)
    data = data_of(block, batch=4)
    data["u"] = np.where(data["u"] > 0, 700.0, -700.0)
    solution = solve(block, data, tolerance=1e-8)
    assert solution.solved, solution.residuals.worst()
    assert all(bool(value.isfinite().all()) for value in solution.variables.values())


def test_zero_weights_everywhere_are_solved() -> None:
    for phi in ALL:
        block = activation_block(phi, "tanh")
        data = data_of(block, batch=3)
        data["W"] = np.zeros_like(data["W"])
        solution = solve(block, data, tolerance=1e-12).require_solved()
        torch.testing.assert_close(
            solution.variables["x"], torch.tensor(block.activation.phi(data["u"])), rtol=0, atol=1e-12
        )


def test_weight_block_that_falls_without_end_is_not_called_solved() -> None:
    # ReLU cannot reach a negative target, and nothing holds the weights.
    block = FenchelWeight(samples=4, inputs=2, activation="relu", proximity=0.0)
    data = data_of(block, batch=2)
    data["v"] = np.full((2, 4), -1.0)
    assert not solve(block, data).solved
