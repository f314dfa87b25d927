"""The block behind a step of `targets`: its gradient, its majorizer, and what one step minimizes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch

from convexblocks.formulations import ACTIVATIONS, LOSSES, Architecture, FenchelWeight, TargetBlocks, UsageError
from convexblocks.formulations.activations import activation
from convexblocks.formulations.catalogue import formulation, method
from convexblocks.formulations.losses import find_loss
from convexblocks.formulations.target_blocks import explicit_target, require_lipschitz, target_block
from convexblocks.solvers.layer_pass import LayerPass, layer_pass
from convexblocks.solvers.linear_maps import LinearMap

BATCH, SAMPLES, WIDTHS = 7, 20, (4, 5, 3, 3)
PROXIMITY, WEIGHT_DECAY = 0.7, 0.6
LIPSCHITZ = [name for name in ACTIVATIONS if activation(name).slopes[1] <= 1]
CASES = [(name, loss) for name in LIPSCHITZ for loss in LOSSES]

Arrays = list[Any]


def architecture_for(name: str, loss: str) -> Architecture:
    widths = (*WIDTHS[:-1], 1 if loss == "logistic" else WIDTHS[-1])
    phi = activation(name)
    return Architecture(widths, (phi, phi), (True, False, True), find_loss(loss), WEIGHT_DECAY)


def batch_for(network: Architecture, seed: int = 0) -> tuple[Arrays, Arrays, Any, Any]:
    """Weights, biases (zeros where a layer has none), inputs and encoded targets."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((out, into)) for into, out in zip(network.widths, network.widths[1:], strict=False)]
    biases = [rng.standard_normal(len(w)) * has for w, has in zip(weights, network.biases, strict=True)]
    inputs = rng.standard_normal((BATCH, network.widths[0]))
    outputs = network.widths[-1]
    if network.loss.name == "squared":
        return weights, biases, inputs, rng.standard_normal((BATCH, outputs))
    labels = rng.integers(0, max(outputs, 2), BATCH)
    return weights, biases, inputs, network.loss.encode(labels, outputs)


def passed(network: Architecture, weights: Arrays, biases: Arrays, inputs: Any, wanted: Any) -> LayerPass:
    """The trainer's pass of a dense network, from numpy arrays."""
    maps = [LinearMap(torch.nn.Linear(w.shape[1], len(w))) for w in weights]
    tensors = [[torch.as_tensor(array) for array in part] for part in (weights, biases, [inputs, wanted])]
    (inputs, wanted) = tensors.pop()
    return layer_pass(maps, network.activations, lambda u: network.loss.gradient(u, wanted), *tensors, inputs)


def block_of(network: Architecture, layer: int, seed: int = 0) -> tuple[FenchelWeight, dict[str, Any], Any]:
    """The block of a layer, its data, and G."""
    weights, biases, inputs, wanted = batch_for(network, seed)
    below, pre_activations, slopes = (
        [array.numpy() for array in part] for part in passed(network, weights, biases, inputs, wanted)[:3]
    )
    block = target_block(network, layer, batch=BATCH, samples=SAMPLES, proximity=PROXIMITY)
    place = layer - 1
    v = explicit_target(block.activation, pre_activations[place], slopes[place])
    data = {"X": below[place], "v": v[None] if block.coupled else v.T}
    data["w_old"] = weights[place][None] if block.coupled else weights[place]
    if block.bias:
        data["c_old"] = biases[place][None] if block.coupled else biases[place]
    return block, data, slopes[place]


def objective_at(block: FenchelWeight, data: dict[str, Any], weight: Any, bias: Any) -> float:
    """The block's objective summed over its instances."""
    values = {"w": weight[None], "c": bias[None]} if block.coupled else {"w": weight, "c": bias}
    return float(block.objective(values, data).sum())


def majorizer(block: FenchelWeight, data: dict[str, Any], slopes: Any, weight: Any, bias: Any) -> cp.Expression:
    """The quadratic of the module's text, as a cvxpy expression of W and b."""
    old = data["w_old"].reshape(-1, block.inputs)
    old_bias = data["c_old"].reshape(-1) if block.bias else np.zeros(len(old))
    X, decay = data["X"], block.weight_decay
    move = weight - old
    shift = X @ move.T + (np.ones((BATCH, 1)) @ cp.reshape(bias - old_bias, (1, len(old)), order="C"))
    return (
        objective_at(block, data, old, old_bias)
        + cp.sum(cp.multiply(slopes, shift)) / BATCH
        + decay * cp.sum(cp.multiply(old, move))
        + cp.sum_squares(shift) / (2 * BATCH)
        + (decay + PROXIMITY) / 2 * cp.sum_squares(move)
        + PROXIMITY / 2 * cp.sum_squares(bias - old_bias)
    )


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_slopes_are_those_of_the_loss(name: str, loss: str) -> None:
    network = architecture_for(name, loss)
    weights, biases, inputs, wanted = (
        [torch.tensor(a) for a in part] if isinstance(part, list) else torch.tensor(part) for part in batch_for(network)
    )
    found = passed(network, weights, biases, inputs, wanted)
    for place in range(network.layers):
        below = found.pre_activations[place].clone().requires_grad_()
        u = below
        for above in range(place, network.hidden):
            activated = network.activations[above].phi(u)
            if above == place:
                activated.retain_grad()
                first = activated
            u = activated @ weights[above + 1].T + biases[above + 1]
        network.loss.values(u, wanted).sum().backward()
        torch.testing.assert_close(found.slopes[place], below.grad, rtol=1e-9, atol=1e-11)
        if place < network.hidden:
            torch.testing.assert_close(found.activation_slopes[place], first.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_gradient_of_the_block_is_that_of_training(name: str, loss: str, layer: int) -> None:
    """G'X/n with W as (out, in), and the batch's share of the weight decay."""
    block, data, slopes = block_of(architecture_for(name, loss), layer)
    old = {"w": data["w_old"], "c": data.get("c_old", np.zeros(data["w_old"].shape[:-1]))}
    gradient = block.gradient(old, data)
    expected = slopes.T @ data["X"] / BATCH + WEIGHT_DECAY / SAMPLES * data["w_old"].reshape(-1, block.inputs)
    np.testing.assert_allclose(gradient["w"].reshape(expected.shape), expected, rtol=1e-9, atol=1e-12)
    if block.bias:
        np.testing.assert_allclose(gradient["c"].reshape(-1), slopes.mean(0), rtol=1e-9, atol=1e-12)


def test_the_target_of_the_output_is_the_encoded_target() -> None:
    for loss in LOSSES:
        network = architecture_for("tanh", loss)
        block, data, _ = block_of(network, 3)
        wanted = batch_for(network)[3]
        wanted = wanted if block.coupled else wanted.T
        np.testing.assert_allclose(data["v"].reshape(-1), wanted.reshape(-1), atol=1e-12)


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_the_majorizer_is_above_the_block_and_touches_it(name: str, loss: str, layer: int) -> None:
    block, data, slopes = block_of(architecture_for(name, loss), layer)
    units = slopes.shape[1]
    weight, bias = cp.Parameter((units, block.inputs)), cp.Parameter(units)
    above = majorizer(block, data, slopes, weight, bias)
    old = data["w_old"].reshape(units, -1)
    old_bias = data["c_old"].reshape(-1)
    weight.value, bias.value = old, old_bias
    assert above.value == pytest.approx(objective_at(block, data, old, old_bias), abs=1e-12)
    rng = np.random.default_rng(1)
    for size in (1e-2, 0.3, 1.0, 10.0):
        for _ in range(10):
            weight.value = old + size * rng.standard_normal(old.shape)
            bias.value = old_bias + size * rng.standard_normal(units)
            below = objective_at(block, data, weight.value, bias.value)
            assert float(above.value) >= below - 1e-10 * (1 + abs(below))


def test_the_activation_without_a_lipschitz_slope_is_not_majorized() -> None:
    """The refusal of `exponential` is not idle: the same quadratic falls below its block."""
    block, data, _ = block_of(architecture_for("exponential", "squared"), 1)
    weight, bias = cp.Parameter(data["w_old"].shape), cp.Parameter(len(data["w_old"]))
    data["v"] = 0 * data["v"]
    slopes = block.activation.phi(block.pre_activations({"w": data["w_old"], "c": data["c_old"]}, data)).T
    above = majorizer(block, data, slopes, weight, bias)
    weight.value, bias.value = data["w_old"], data["c_old"] + 3
    assert float(above.value) < objective_at(block, data, weight.value, bias.value)
    with pytest.raises(UsageError, match=r"'exponential'.*slopes up to inf.*expect at most 1"):
        require_lipschitz((activation("relu"), activation("exponential")))


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize(("layer", "name"), [(1, "relu"), (2, "tanh"), (3, "relu"), (1, "softmax")])
def test_one_step_is_the_minimizer_of_the_majorizer(layer: int, name: str, loss: str) -> None:
    """Gradient times the inverse of the shared matrix, against the quadratic written in cvxpy."""
    block, data, slopes = block_of(architecture_for(name, loss), layer)
    units = slopes.shape[1]
    weight, bias = cp.Variable((units, block.inputs)), cp.Variable(units)
    held = [] if block.bias else [bias == 0]
    problem = cp.Problem(cp.Minimize(majorizer(block, data, slopes, weight, bias)), held)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)

    old = data["w_old"].reshape(units, -1)
    packed = np.hstack([old, data["c_old"].reshape(-1, 1)]) if block.bias else old
    columns = np.hstack([data["X"], np.ones((BATCH, 1))]) if block.bias else data["X"]
    decay = np.full(columns.shape[1], WEIGHT_DECAY / SAMPLES)
    if block.bias:
        decay[-1] = 0.0
    hessian = columns.T @ columns / BATCH + np.diag(decay + PROXIMITY)
    step = packed - np.linalg.solve(hessian, (slopes.T @ columns / BATCH + decay * packed).T).T
    found = np.hstack([weight.value, bias.value[:, None]]) if block.bias else weight.value
    np.testing.assert_allclose(found, step, atol=1e-7)
    # One step lowers the block, and by at least what the quadratic promises.
    new_bias = step[:, -1] if block.bias else np.zeros(units)
    assert objective_at(block, data, step[:, : block.inputs], new_bias) <= problem.value + 1e-9


def test_settings_are_checked_and_frozen() -> None:
    for settings, words in (
        ({"step": 0.0}, "step is 0.0; expected a finite number above zero"),
        ({"proximity": -1.0}, "proximity is -1.0"),
        ({"momentum": 1.0}, "momentum is 1.0; expected a number from 0 to below 1"),
        ({"momentum": -0.1}, "momentum is -0.1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"factorize_every": 0}, "factorize_every is 0"),
        ({"exact": 1}, "exact is 1; expected True or False"),
    ):
        with pytest.raises(UsageError, match=words):
            TargetBlocks(**settings)  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        TargetBlocks().step = 1.0  # type: ignore[misc]


def test_the_catalogue_knows_the_method_and_says_who_trains_it() -> None:
    assert method("targets", step=0.25) == TargetBlocks(step=0.25)
    assert method("fenchel") == formulation("fenchel")
    with pytest.raises(UsageError, match=r"no setting 'multiplier'; known: step, proximity"):
        method("targets", multiplier=1.0)
    with pytest.raises(UsageError, match="unknown method 'magic'; known: fenchel, targets"):
        method("magic")
    with pytest.raises(UsageError, match=r"'targets'.*no formulation.*fit_targets"):
        formulation("targets")
