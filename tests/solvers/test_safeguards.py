"""Safeguards: rebalanced layers are the same network, steps never climb, proximal factors follow the data."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convexblocks.formulations import ACTIVATIONS, LOSSES, Architecture, LiftedState, activation
from convexblocks.formulations.formulation import forward, penalty
from convexblocks.solvers import build_network
from convexblocks.solvers.layered import LayeredNetwork, read_network
from convexblocks.solvers.safeguards import HALVINGS, accept, curvature, look, rebalance

HOMOGENEOUS = [name for name in ACTIVATIONS if activation(name).homogeneous]
OTHERS = [name for name in ACTIVATIONS if name not in HOMOGENEOUS]
DTYPES = [torch.float32, torch.float64]


def shape(names: tuple[str, ...], widths: tuple[int, ...], weight_decay: float = 0.3) -> Architecture:
    rows = tuple(activation(name) for name in names)
    return Architecture(widths, rows, (True,) * (len(widths) - 1), LOSSES["softmax_cross_entropy"], weight_decay)


def weights_of(
    widths: tuple[int, ...], seed: int, spread: float, zeros: float, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Random weights whose units differ in scale; some units receive nothing, some send nothing."""
    draw = torch.Generator().manual_seed(seed)

    def units(count: int) -> Tensor:
        scale = torch.exp2(spread * torch.randn(count, generator=draw, dtype=torch.float64))
        return scale * (torch.rand(count, generator=draw) >= zeros)

    weights, biases = [], []
    for inputs, outputs in pairwise(widths):
        weight = torch.randn(outputs, inputs, generator=draw, dtype=torch.float64)
        weight = units(outputs)[:, None] * weight * units(inputs)
        bias = torch.randn(outputs, generator=draw, dtype=torch.float64)
        weights.append(weight.to(dtype).double())
        biases.append(bias.to(dtype).double())
    return weights, biases


NETWORKS: dict[str, Any] = {
    "names": st.lists(st.sampled_from(HOMOGENEOUS), min_size=1, max_size=3),
    "seed": st.integers(0, 10_000),
    "spread": st.sampled_from([0.0, 1.0, 8.0]),
    "zeros": st.sampled_from([0.0, 0.4, 1.0]),
    "dtype": st.sampled_from(DTYPES),
}


@settings(max_examples=150, deadline=None)
@given(**NETWORKS)
def test_rebalanced_network_gives_the_same_outputs_to_the_last_bit(
    names: list[str], seed: int, spread: float, zeros: float, dtype: torch.dtype
) -> None:
    widths = (4, *(5 - place for place in range(len(names))), 3)
    architecture = shape(tuple(names), widths)
    weights, biases = weights_of(widths, seed, spread, zeros, dtype)
    X = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    _, before = forward(architecture, weights, biases, X)
    new_weights, new_biases = list(weights), list(biases)
    rebalance(architecture, new_weights, new_biases)
    _, after = forward(architecture, new_weights, new_biases, X)
    assert torch.equal(before, after)
    # Powers of two keep the weights exact in the type of the network.
    assert all(torch.equal(array.to(dtype).double(), array) for array in (*new_weights, *new_biases))


@settings(max_examples=150, deadline=None)
@given(**NETWORKS)
def test_rebalancing_never_raises_the_penalty_and_the_second_time_changes_little(
    names: list[str], seed: int, spread: float, zeros: float, dtype: torch.dtype
) -> None:
    widths = (4, *(5 - place for place in range(len(names))), 3)
    architecture = shape(tuple(names), widths)
    weights, biases = weights_of(widths, seed, spread, zeros, dtype)
    before = penalty(architecture, weights)
    rebalance(architecture, weights, biases)
    once = penalty(architecture, weights)
    assert once <= before * (1 + 1e-14)
    rebalance(architecture, weights, biases)
    assert penalty(architecture, weights) <= once * (1 + 1e-14)


@pytest.mark.parametrize("name", HOMOGENEOUS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_incoming_and_outgoing_norms_meet_within_the_rounding_to_a_power_of_two(
    name: str, dtype: torch.dtype
) -> None:
    weights, biases = weights_of((4, 5, 3), 0, 6.0, 0.0, dtype)
    rebalance(shape((name,), (4, 5, 3)), weights, biases)
    ratio = weights[1].norm(dim=0) / weights[0].norm(dim=1)
    assert bool((ratio >= 0.5).all())
    assert bool((ratio <= 2).all())


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_unit_that_receives_or_sends_nothing_stays_as_it_is(name: str) -> None:
    weights, biases = weights_of((4, 5, 3), 0, 6.0, 0.0, torch.float64)
    weights[0][1], weights[1][:, 2] = 0.0, 0.0
    weights[0][3], weights[1][:, 3] = 0.0, 0.0
    old = [array.clone() for array in (*weights, *biases)]
    rebalance(shape((name,), (4, 5, 3)), weights, biases)
    dead = [1, 2, 3]
    assert torch.equal(weights[0][dead], old[0][dead])
    assert torch.equal(weights[1][:, dead], old[1][:, dead])
    assert torch.equal(biases[0][dead], old[2][dead])
    assert not torch.equal(weights[0], old[0])
    assert torch.equal(biases[1], old[3])


@pytest.mark.parametrize("size", [1e-200, 1e-155, 1e155, 1e-320])
def test_extreme_weights_stay_finite(size: float) -> None:
    weights, biases = weights_of((4, 5, 3), 0, 0.0, 0.0, torch.float64)
    weights[0] = weights[0] * size
    rebalance(shape(("relu",), (4, 5, 3)), weights, biases)
    assert all(bool(array.isfinite().all()) for array in (*weights, *biases))


@pytest.mark.parametrize("name", OTHERS)
def test_layers_of_other_activations_are_left_alone(name: str) -> None:
    widths = (4, 5, 4, 3)
    weights, biases = weights_of(widths, 0, 6.0, 0.0, torch.float64)
    old = [array.clone() for array in (*weights, *biases)]
    rebalance(shape((name, name), widths), weights, biases)
    assert all(torch.equal(a, b) for a, b in zip(old, (*weights, *biases), strict=True))


def test_rebalancing_replaces_arrays_and_does_not_write_into_them() -> None:
    # The caller keeps the old ones to fall back on.
    weights, biases = weights_of((4, 5, 3), 0, 6.0, 0.0, torch.float64)
    kept = [array.clone() for array in (*weights, *biases)]
    first, second = list(weights), list(biases)
    rebalance(shape(("relu",), (4, 5, 3)), first, second)
    assert all(torch.equal(a, b) for a, b in zip(kept, (*weights, *biases), strict=True))
    assert first[0] is not weights[0]


def setting(
    dtype: torch.dtype = torch.float64, names: tuple[str, ...] = ("tanh",), weight_decay: float = 0.3
) -> tuple[Architecture, LayeredNetwork, LiftedState]:
    """A network with data, its state at its own weights."""
    widths = (4, *(5,) * len(names), 3)
    network = read_network(build_network(widths, names[0], random_state=0, dtype=dtype))
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(12, 4, generator=draw, dtype=torch.float64)
    y = torch.eye(3, dtype=torch.float64)[torch.randint(0, 3, (12,), generator=draw)]
    weights, biases = network.parameters()
    return shape(names, widths, weight_decay), network, LiftedState(X, y, weights, biases)


def downhill(architecture: Architecture, state: LiftedState, length: float) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases moved along the negative gradient of the training objective, by automatic differentiation."""
    weights = [weight.clone().requires_grad_() for weight in state.weights]
    biases = [bias.clone().requires_grad_() for bias in state.biases]
    _, output = forward(architecture, weights, biases, state.inputs)
    value = architecture.loss.values(output, state.targets).sum()
    value = value + architecture.weight_decay / 2 * sum((weight**2).sum() for weight in weights)
    value.backward()
    moved = [[(a - length * a.grad).detach() for a in arrays] for arrays in (weights, biases)]
    return moved[0], moved[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_step_is_taken_where_it_descends(dtype: torch.dtype) -> None:
    architecture, network, state = setting(dtype)
    old, before = (state.weights, state.biases), look(architecture, network, state).objective
    new = downhill(architecture, state, 1e-2)
    state.weights, state.biases = new
    assert accept(architecture, network, state, old, before) == 1.0
    for found, wanted in zip((*state.weights, *state.biases), (*new[0], *new[1]), strict=True):
        assert torch.equal(found, wanted.to(dtype).double())
    assert look(architecture, network, state).objective < before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [3.0, 100.0])
def test_step_that_is_too_long_is_halved_until_it_descends(dtype: torch.dtype, length: float) -> None:
    architecture, network, state = setting(dtype)
    old, before = (state.weights, state.biases), look(architecture, network, state).objective
    new = downhill(architecture, state, length)
    state.weights, state.biases = new
    step = accept(architecture, network, state, old, before)
    assert 0 < step < 1
    assert torch.log2(torch.tensor(step)) == torch.log2(torch.tensor(step)).round()
    assert look(architecture, network, state).objective < before
    for found, was, now in zip(state.weights, old[0], new[0], strict=True):
        assert torch.equal(found, (was + step * (now - was)).to(dtype).double())
    # The step twice as long did not descend: otherwise it would have been taken.
    state.weights, state.biases = (
        [a + 2 * step * (b - a) for a, b in zip(was, now, strict=True)] for was, now in zip(old, new, strict=True)
    )
    assert look(architecture, network, state).objective >= before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [-1e-2, 0.0])
def test_without_descent_the_old_weights_come_back(dtype: torch.dtype, length: float) -> None:
    architecture, network, state = setting(dtype)
    old, before = (state.weights, state.biases), look(architecture, network, state).objective
    state.weights, state.biases = downhill(architecture, state, length)
    assert accept(architecture, network, state, old, before) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(state.weights, old[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state.biases, old[1], strict=True))
    # New lists: the next sweep changes them in place and must not reach what is kept elsewhere.
    assert state.weights is not old[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["weights", "biases"])
@pytest.mark.parametrize("weight_decay", [0.3, 0.0])
def test_weights_that_are_not_finite_are_never_accepted(value: float, where: str, weight_decay: float) -> None:
    # tanh is finite at infinity, so that without a penalty the objective alone does not tell.
    architecture, network, state = setting(weight_decay=weight_decay)
    old, before = (state.weights, state.biases), look(architecture, network, state).objective
    state.weights, state.biases = downhill(architecture, state, 1e-2)
    getattr(state, where)[0].view(-1)[0] = value
    assert accept(architecture, network, state, old, before) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(state.weights, old[0], strict=True))


@pytest.mark.parametrize("weight_decay", [0.3, 0.0])
def test_weights_that_overflow_only_in_the_type_of_the_network_are_never_accepted(weight_decay: float) -> None:
    # 1e39 is a number in double precision and infinite in single precision, in which the network would hold it.
    architecture, network, state = setting(torch.float32, weight_decay=weight_decay)
    old, before = (state.weights, state.biases), look(architecture, network, state).objective
    state.weights, state.biases = downhill(architecture, state, 1e-2)
    state.weights[0][0, 0] = 1e39
    assert accept(architecture, network, state, old, before) < 1
    assert bool(state.weights[0].to(torch.float32).isfinite().all())


def test_objective_that_is_not_finite_at_the_start_is_left_for_any_finite_one() -> None:
    architecture, network, state = setting()
    new = downhill(architecture, state, 1e-2)
    old = ([weight * 1e200 for weight in state.weights], state.biases)
    state.weights, state.biases = new
    assert accept(architecture, network, state, old, float("inf")) == 1.0


def test_move_is_halved_a_limited_number_of_times() -> None:
    assert 2.0**-HALVINGS < 1e-3


@pytest.mark.parametrize("names", [("tanh",), ("tanh", "tanh")])
def test_curvature_is_the_mean_diagonal_of_the_gram_matrix_plus_the_weight_decay(names: tuple[str, ...]) -> None:
    architecture, network, state = setting(names=names)
    activations, _ = forward(architecture, state.weights, state.biases, state.inputs)
    factors = [0.1] * len(names) + [1.0]
    found = curvature(architecture, look(architecture, network, state).squares, factors)
    for scale, factor, inputs in zip(found, factors, [state.inputs, *activations], strict=True):
        diagonal = (factor * inputs.T @ inputs).diagonal()
        assert scale == pytest.approx(float(diagonal.mean()) + architecture.weight_decay, rel=1e-6)


def test_curvature_follows_the_scale_and_the_number_of_the_samples() -> None:
    architecture, network, state = setting()
    plain = Architecture(architecture.widths, architecture.activations, architecture.biases, architecture.loss, 0.0)
    once = curvature(plain, look(plain, network, state).squares, [1.0, 1.0])
    state.inputs, state.targets = state.inputs.repeat(2, 1), state.targets.repeat(2, 1)
    twice = curvature(plain, look(plain, network, state).squares, [1.0, 2.0])
    assert twice == pytest.approx([2 * once[0], 4 * once[1]], rel=1e-12)
    state.inputs = 3 * state.inputs
    scaled = curvature(plain, look(plain, network, state).squares, [1.0, 1.0])
    assert scaled[0] == pytest.approx(18 * once[0], rel=1e-12)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_look_sees_weights_that_are_not_finite(place: int, value: float) -> None:
    architecture, network, state = setting()
    assert look(architecture, network, state).finite
    state.weights[place] = state.weights[place].clone()
    state.weights[place][0, 0] = value
    assert not look(architecture, network, state).finite

