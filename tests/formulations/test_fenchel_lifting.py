"""Fenchel lifting of a network: the order of its blocks, what they read and write, and what never rises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from instances import ALL, LOSS_NAMES, encoded

from convexblocks.formulations import (
    LOSSES,
    Architecture,
    FenchelLifting,
    FenchelOutput,
    LiftedState,
    Step,
    UsageError,
    activation,
)
from convexblocks.formulations.formulation import forward, penalty, training_objective
from convexblocks.solvers import solve

SAMPLES = 9


def network(
    activations: tuple[str, ...] = ("relu", "tanh"),
    loss: str = "softmax_cross_entropy",
    *,
    widths: tuple[int, ...] | None = None,
    biases: tuple[bool, ...] | None = None,
    weight_decay: float = 0.2,
    proximity: float = 0.3,
    seed: int = 0,
) -> tuple[Architecture, LiftedState]:
    rng = np.random.default_rng(seed)
    outputs = 1 if loss == "logistic" else 3
    widths = widths or (4, *(5 - place for place in range(len(activations))), outputs)
    layers = len(widths) - 1
    biases = biases or (True,) * layers
    rows = tuple(activation(name) for name in activations)
    architecture = Architecture(widths, rows, biases, LOSSES[loss], weight_decay)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    return architecture, LiftedState(
        inputs=torch.tensor(rng.standard_normal((SAMPLES, widths[0]))),
        targets=torch.tensor(encoded(LOSSES[loss], rng, SAMPLES, widths[-1])),
        weights=[torch.tensor(0.7 * rng.standard_normal(shape)) for shape in shapes],
        biases=[
            torch.tensor(0.3 * rng.standard_normal(shape[0]) * has) for shape, has in zip(shapes, biases, strict=True)
        ],
        proximity=[proximity] * layers,
    )


def disturb(formulation: FenchelLifting, architecture: Architecture, state: LiftedState) -> None:
    """Move the lifted variables off the forward pass, within their ranges."""
    rng = torch.Generator().manual_seed(1)
    for place, phi in enumerate(architecture.activations):
        shape = state.activations[place].shape
        state.activations[place] = phi.phi(torch.randn(shape, generator=rng, dtype=torch.float64))
    if state.output is not None:
        state.output = state.output + torch.randn(state.output.shape, generator=rng, dtype=torch.float64)


def present(step: Step, architecture: Architecture, state: LiftedState) -> dict[str, torch.Tensor]:
    """The state's values of the variables of a step, in the shapes of its block."""
    place = step.layer - 1
    if step.block == "activation":
        return {"x": state.activations[place]}
    if step.block == "output":
        assert state.output is not None
        return {"z": state.output}
    return {"w": state.weights[place], "c": state.biases[place]}


def true_objective(architecture: Architecture, state: LiftedState) -> float:
    return sum(training_objective(architecture, state.weights, state.biases, state.inputs, state.targets))


# ------------------------------------------------------------------------------------ order


def labels(groups: tuple[tuple[Step, ...], ...]) -> list[list[str]]:
    return [[step.label for step in group] for group in groups]


def test_order_of_a_sweep_with_published_weight_blocks() -> None:
    architecture, _ = network()
    assert labels(FenchelLifting(weight_inputs="lifted").groups(architecture)) == [
        ["activation 2"], ["activation 1"], ["weight 1", "weight 2", "weight 3"],
    ]  # fmt: skip


def test_order_of_a_sweep_with_forward_weight_blocks_and_an_output_variable() -> None:
    architecture, _ = network()
    assert labels(FenchelLifting(output_multiplier=2.0).groups(architecture)) == [
        ["output 3"], ["activation 2"], ["activation 1"], ["weight 1"], ["weight 2"], ["weight 3"],
    ]  # fmt: skip


def test_order_of_a_network_without_hidden_layers_is_its_output_weights() -> None:
    architecture, state = network(())
    assert labels(FenchelLifting().groups(architecture)) == [["weight 1"]]
    FenchelLifting().start(architecture, state)
    assert state.activations == []


@pytest.mark.parametrize("weight_inputs", ["lifted", "forward"])
@pytest.mark.parametrize("output_multiplier", [None, 0.5])
def test_steps_of_a_group_do_not_depend_on_each_other(weight_inputs: str, output_multiplier: float | None) -> None:
    # Solving the steps of a group in reverse order must give the same state.
    formulation = FenchelLifting(weight_inputs=weight_inputs, output_multiplier=output_multiplier)
    results = []
    for order in (1, -1):
        architecture, state = network()
        formulation.start(architecture, state)
        for group in formulation.groups(architecture):
            for step in group[::order]:
                block = formulation.gather(step, architecture, state)
                formulation.scatter(step, architecture, state, solve(block.subproblem, block.data).variables)
        results.append(state)
    for first, second in zip(results[0].weights, results[1].weights, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------ the forward pass


def test_forward_pass_by_hand() -> None:
    architecture, state = network(("relu",), "squared", widths=(1, 1, 1))
    state.inputs, state.targets = torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0], [0.0]])
    state.weights, state.biases = [torch.tensor([[3.0]]), torch.tensor([[-2.0]])], [torch.tensor([1.0])] * 2
    hidden, output = forward(architecture, state.weights, state.biases, state.inputs)
    assert hidden[0].tolist() == [[7.0], [0.0]]
    assert output.tolist() == [[-13.0], [1.0]]
    assert penalty(architecture, state.weights) == pytest.approx(0.1 * 13)
    loss, decay = training_objective(architecture, state.weights, state.biases, state.inputs, state.targets)
    assert (loss, decay) == (pytest.approx(98.5), pytest.approx(1.3))


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("output_multiplier", [None, 0.8])
@pytest.mark.parametrize("name", ALL)
def test_feed_forward_state_has_no_gaps_and_the_value_of_training(
    name: str, output_multiplier: float | None, loss: str
) -> None:
    architecture, state = network(("tanh", name), loss)
    formulation = FenchelLifting(multiplier=0.4, output_multiplier=output_multiplier)
    formulation.start(architecture, state)
    gaps = formulation.layer_gaps(architecture, state)
    assert len(gaps) == (2 if output_multiplier is None else 3)
    assert max(gaps) <= 1e-10
    assert (state.output is None) == (output_multiplier is None)
    value = formulation.lifted_value(architecture, state)
    assert value == pytest.approx(true_objective(architecture, state), rel=1e-10)


def test_lifted_value_by_hand() -> None:
    # One sample, one unit a layer: x = 1 where the forward pass has 2, z = 3 where it has 1.
    architecture, state = network(("relu",), "squared", widths=(1, 1, 1), weight_decay=0.2)
    state.inputs, state.targets = torch.tensor([[2.0]]), torch.tensor([[5.0]])
    state.weights, state.biases = [torch.ones(1, 1), torch.ones(1, 1)], [torch.zeros(1), torch.zeros(1)]
    state.activations, state.output = [torch.tensor([[1.0]])], torch.tensor([[3.0]])
    formulation = FenchelLifting(multiplier=0.5, output_multiplier=10.0)
    assert formulation.layer_gaps(architecture, state) == [0.5, 2.0]
    # loss 1/2 (3 - 5)^2 + penalty 0.1 * 2 + 0.5 * 0.5 + 10 * 2
    assert formulation.lifted_value(architecture, state) == pytest.approx(2 + 0.2 + 0.25 + 20)


# ------------------------------------------------------------------------------------ gather and scatter


@pytest.mark.parametrize("output_multiplier", [None, 0.8])
@pytest.mark.parametrize("weight_inputs", ["lifted", "forward"])
@pytest.mark.parametrize("activations", [("relu", "tanh"), ("softmax", "softmax"), ("sigmoid",)])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_scatter_of_what_gather_gives_changes_nothing(
    activations: tuple[str, ...], weight_inputs: str, output_multiplier: float | None, loss: str
) -> None:
    architecture, state = network(activations, loss)
    formulation = FenchelLifting(weight_inputs=weight_inputs, output_multiplier=output_multiplier)
    formulation.start(architecture, state)
    disturb(formulation, architecture, state)
    for step in (step for group in formulation.groups(architecture) for step in group):
        block = formulation.gather(step, architecture, state)
        before = [*state.weights, *state.biases, *state.activations, state.output]
        values = present(step, architecture, state)
        if step.block == "weight":
            # An instance is a unit, or the whole layer where softmax couples its units.
            values = {name: value.reshape(block.data[f"{name}_old"].shape) for name, value in values.items()}
            assert all(torch.equal(value, block.data[f"{name}_old"]) for name, value in values.items())
        # A start may name other coordinates, too: the pre-activations.
        assert all(torch.equal(block.start[name], value) for name, value in values.items() if name in block.start)
        formulation.scatter(step, architecture, state, values)
        after = [*state.weights, *state.biases, *state.activations, state.output]
        for old, new in zip(before, after, strict=True):
            assert old is new or torch.equal(old, new)
            assert old is None or old.shape == new.shape


def each_step(formulation: FenchelLifting, architecture: Architecture) -> list[Step]:
    return [step for group in formulation.groups(architecture) for step in group]


@pytest.mark.parametrize("output_multiplier", [None, 0.8])
@pytest.mark.parametrize("activations", [("relu", "tanh"), ("softmax", "leaky_relu")])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_objective_of_a_block_is_the_lifted_value_up_to_a_constant(
    activations: tuple[str, ...], output_multiplier: float | None, loss: str
) -> None:
    # Two points of a block's variables must differ by as much in the block's objective as in the whole one.
    formulation = FenchelLifting(multiplier=0.4, output_multiplier=output_multiplier, weight_inputs="lifted")
    for step in each_step(formulation, network(activations, loss)[0]):
        architecture, state = network(activations, loss, proximity=0.0)
        formulation.start(architecture, state)
        disturb(formulation, architecture, state)
        block = formulation.gather(step, architecture, state)
        generator = torch.Generator().manual_seed(3)
        whole, part = [float(formulation.lifted_value(architecture, state))], []
        values = present(step, architecture, state)
        if step.block == "weight":
            values = {name: value.reshape(block.data[f"{name}_old"].shape) for name, value in values.items()}
        part.append(float(block.subproblem.objective(values, block.data).sum()))
        moved = {
            name: value + 0.3 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
            for name, value in values.items()
        }
        if step.block == "activation":
            moved = {"x": architecture.activations[step.layer - 1].phi(moved["x"])}
        formulation.scatter(step, architecture, state, moved)
        whole.append(float(formulation.lifted_value(architecture, state)))
        part.append(float(block.subproblem.objective(moved, block.data).sum()))
        assert part[1] - part[0] == pytest.approx(whole[1] - whole[0], rel=1e-9, abs=1e-9), step.label


def test_weight_blocks_read_the_lifted_or_the_forward_activations() -> None:
    architecture, state = network()
    lifted, below = FenchelLifting(weight_inputs="lifted"), FenchelLifting()
    lifted.start(architecture, state)
    disturb(lifted, architecture, state)
    hidden, _ = forward(architecture, state.weights, state.biases, state.inputs)
    for layer in (1, 2, 3):
        block = lifted.gather(Step("weight", layer), architecture, state)
        torch.testing.assert_close(block.data["X"], state.inputs if layer == 1 else state.activations[layer - 2])
        block = below.gather(Step("weight", layer), architecture, state)
        torch.testing.assert_close(block.data["X"], state.inputs if layer == 1 else hidden[layer - 2])


def test_factors_and_roles_of_the_blocks() -> None:
    architecture, state = network(("relu", "tanh"))
    state.proximity = [0.1, 0.2, 0.3]
    exact, lifted = FenchelLifting(multiplier=0.4), FenchelLifting(multiplier=0.4, output_multiplier=0.8)
    for formulation in (exact, lifted):
        formulation.start(architecture, state)
        output_is_lifted = formulation is lifted
        first: Any = formulation.gather(Step("activation", 1), architecture, state).subproblem
        last: Any = formulation.gather(Step("activation", 2), architecture, state).subproblem
        assert (first.below, first.above, first.loss) == (0.4, 0.4, None)
        assert (first.activation.name, first.next_activation.name) == ("relu", "tanh")
        assert (last.below, last.above) == (0.4, 0.8 if output_is_lifted else 1.0)
        assert last.loss is (None if output_is_lifted else architecture.loss)
        assert last.next_activation.name == ("identity" if output_is_lifted else "softmax")
        assert formulation.factors(architecture) == [0.4, 0.4, 0.8 if output_is_lifted else 1.0]
        for layer in (1, 2, 3):
            weight: Any = formulation.gather(Step("weight", layer), architecture, state).subproblem
            assert weight.multiplier == formulation.factors(architecture)[layer - 1]
            assert (weight.weight_decay, weight.proximity) == (0.2, state.proximity[layer - 1])
            assert (weight.loss is architecture.loss) == (layer == 3 and not output_is_lifted)
    output = lifted.gather(Step("output", 3), architecture, state)
    assert isinstance(output.subproblem, FenchelOutput)
    assert output.subproblem.multiplier == 0.8
    torch.testing.assert_close(output.data["y"], state.targets)


def test_layers_without_bias_keep_their_zeros() -> None:
    architecture, state = network(biases=(False, True, False))
    formulation = FenchelLifting()
    formulation.start(architecture, state)
    for step in each_step(formulation, architecture):
        block = formulation.gather(step, architecture, state)
        if step.block == "weight":
            assert ("c_old" in block.data) == architecture.biases[step.layer - 1]
        formulation.scatter(step, architecture, state, solve(block.subproblem, block.data).variables)
    assert not state.biases[0].any()
    assert state.biases[1].all()
    assert not state.biases[2].any()


# ------------------------------------------------------------------------------------ descent


NETWORKS = [
    ("relu", "relu"), ("tanh", "sigmoid"), ("leaky_relu", "softsign"), ("clipped_relu", "softmax"),
    ("softmax", "elu"), ("hardtanh", "soft_shrink"), ("sigmoid", "exponential"), ("arctan", "probit"),
    ("identity", "tanh"),
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("output_multiplier", [None, 0.8])
@pytest.mark.parametrize("activations", NETWORKS, ids="-".join)
def test_no_step_raises_the_lifted_value_where_weights_read_the_lifted_activations(
    activations: tuple[str, ...], output_multiplier: float | None, loss: str
) -> None:
    architecture, state = network(activations, loss)
    formulation = FenchelLifting(multiplier=0.3, output_multiplier=output_multiplier, weight_inputs="lifted")
    formulation.start(architecture, state)
    value = true_objective(architecture, state)
    start = value
    for sweep in range(2):
        for step in each_step(formulation, architecture):
            block = formulation.gather(step, architecture, state)
            solution = solve(block.subproblem, block.data, warm_start=block.start, tolerance=1e-9)
            formulation.scatter(step, architecture, state, solution.require_solved().variables)
            after = formulation.lifted_value(architecture, state)
            assert after <= value + 1e-8 * (1 + abs(value)), f"{step.label} of sweep {sweep}"
            value = after
        if sweep == 0:
            # From the forward pass, the first sweep gains something that can be seen.
            assert value < start - 1e-3 * (1 + abs(start))


@pytest.mark.parametrize("weight_inputs", ["lifted", "forward"])
@pytest.mark.parametrize("output_multiplier", [None, 0.8])
def test_after_its_activation_steps_the_lifted_value_is_at_most_the_training_objective(
    weight_inputs: str, output_multiplier: float | None
) -> None:
    architecture, state = network(("relu", "sigmoid"))
    formulation = FenchelLifting(multiplier=0.3, output_multiplier=output_multiplier, weight_inputs=weight_inputs)
    formulation.start(architecture, state)
    training = true_objective(architecture, state)
    for step in each_step(formulation, architecture):
        if step.block != "weight":
            block = formulation.gather(step, architecture, state)
            formulation.scatter(step, architecture, state, solve(block.subproblem, block.data).variables)
    assert formulation.lifted_value(architecture, state) < training - 1e-3
    # The weights have not moved: training still has its value, the activations have left the forward pass.
    assert true_objective(architecture, state) == training
    assert min(formulation.layer_gaps(architecture, state)) > 1e-6


def test_a_larger_multiplier_keeps_the_activations_nearer_to_the_forward_pass() -> None:
    moves = []
    for multiplier in (0.1, 1.0, 10.0, 1000.0):
        architecture, state = network(("tanh",))
        formulation = FenchelLifting(multiplier=multiplier)
        formulation.start(architecture, state)
        block = formulation.gather(Step("activation", 1), architecture, state)
        values = solve(block.subproblem, block.data, tolerance=1e-10).variables
        moves.append(float((values["x"] - state.activations[0]).abs().max()))
    assert moves == sorted(moves, reverse=True)
    assert moves[0] > 0.1
    assert moves[-1] < 1e-2


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("bad", [0, -0.1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["multiplier", "output_multiplier"])
def test_multipliers_out_of_range_are_refused(name: str, bad: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is .*; expected a finite number above zero"):
        FenchelLifting(**{name: bad})


def test_unknown_source_of_the_weight_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match="weight_inputs is 'both'; expected 'forward' or 'lifted'"):
        FenchelLifting(weight_inputs="both")


def test_settings_are_fixed() -> None:
    formulation = FenchelLifting(multiplier=0.2)
    with pytest.raises(AttributeError):
        formulation.multiplier = 0.3  # type: ignore[misc]
