"""Incumbents: what is trained, merged, and taken from torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certificate_problems import KINDS, random_network, small_problem
from torch import nn

from convexblocks.certificates.incumbent import balance, merge, network_incumbent, train_incumbent, train_width
from convexblocks.certificates.problem import TwoLayerProblem
from convexblocks.formulations import UsageError


@pytest.mark.parametrize(("loss", "activation"), KINDS)
def test_training_beats_random_networks_and_nothing(loss: str, activation: str) -> None:
    problem, rng = small_problem(loss, activation), np.random.default_rng(0)
    found = train_incumbent(problem, seconds=1)
    assert found.objective == pytest.approx(problem.objective(found.weights, found.outputs))
    assert found.objective <= problem.loss_value(np.zeros(len(problem.y)))
    assert found.objective <= min(problem.objective(*random_network(problem, rng)) for _ in range(300))
    assert 0 <= found.estimated_gap < 0.01
    np.testing.assert_allclose(np.linalg.norm(found.weights, axis=1), np.abs(found.outputs))
    z = problem.predictions(found.weights, found.outputs)
    np.testing.assert_allclose(found.v, problem.negative_gradient(z))


def test_training_goes_on_from_a_start_and_is_the_same_for_a_seed() -> None:
    problem = small_problem()
    first, again = (train_incumbent(problem, seconds=0.5, random_state=3) for _ in range(2))
    assert first.objective == again.objective
    assert train_incumbent(problem, seconds=1, start=first).objective <= first.objective


def test_targets_of_zero_need_no_neurons() -> None:
    problem = TwoLayerProblem(small_problem().X, np.zeros(12), "squared", 1.0)
    assert train_incumbent(problem, seconds=0.1).objective == 0


def test_small_networks_stay() -> None:
    _, outputs = balance(np.array([[1e-5, 0, 0]]), np.array([1e-5]))
    assert len(outputs) == 1


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_width_is_kept(width: int) -> None:
    found = train_width(small_problem(), width, seconds=2)
    assert len(found.outputs) <= width
    assert found.objective >= train_incumbent(small_problem(), seconds=2).objective - 1e-9


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("activation", ["relu", "absolute_value"])
def test_merged_networks_predict_the_same_and_cost_no_more(activation: str, seed: int) -> None:
    problem, rng = small_problem(activation=activation), np.random.default_rng(seed)
    weights, outputs = random_network(problem, rng)
    weights = np.vstack([weights, 2 * weights + 1e-3 * rng.standard_normal(weights.shape)])
    outputs = np.concatenate([outputs, 0.3 * outputs])
    before = problem.objective(*balance(weights, outputs))
    merged = merge(problem, *balance(weights, outputs))
    np.testing.assert_allclose(
        problem.predictions(*merged), problem.predictions(weights, outputs), rtol=1e-6, atol=1e-7
    )
    assert problem.objective(*merged) <= before + 1e-9
    assert problem.objective(*balance(weights, outputs)) <= problem.objective(weights, outputs) + 1e-9
    assert len(merged[1]) < len(outputs)


def network(inputs: int, *, bias: bool, output_bias: bool, activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(inputs, 5, bias=bias, dtype=torch.float64), activation or nn.ReLU(),
        nn.Linear(5, 1, bias=output_bias, dtype=torch.float64),
    )  # fmt: skip


@pytest.mark.parametrize("entry", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("output_bias", [False, True])
@pytest.mark.parametrize(("inputs", "bias"), [(2, True), (2, False), (3, False)])
def test_a_torch_network_predicts_the_same_as_an_incumbent(
    inputs: int, bias: bool, output_bias: bool, entry: float
) -> None:
    plain = small_problem()
    X = np.hstack([plain.X[:, :-1], np.full((len(plain.X), 1), entry)])
    problem = TwoLayerProblem(X, plain.y, "squared", 0.5, bias="column")
    module = network(inputs, bias=bias, output_bias=output_bias)
    found = network_incumbent(problem, module)
    with torch.no_grad():
        wanted = module(torch.as_tensor(X[:, :inputs]))[:, 0].numpy()
    np.testing.assert_allclose(problem.predictions(found.weights, found.outputs), wanted, atol=1e-9)


def test_slopes_have_to_agree() -> None:
    problem = small_problem(activation="leaky_relu")
    good = network(2, bias=True, output_bias=False, activation=nn.LeakyReLU(0.2))
    assert network_incumbent(problem, good).objective > 0
    with pytest.raises(UsageError, match="slope"):
        network_incumbent(problem, network(2, bias=True, output_bias=False, activation=nn.LeakyReLU(0.1)))


@pytest.mark.parametrize(
    ("module", "bias", "message"),
    [
        (network(3, bias=True, output_bias=False), "column", "a bias that is not penalized is not covered"),
        (network(2, bias=True, output_bias=False), "none", "a bias that is not penalized is not covered"),
        (network(3, bias=False, output_bias=True), "none", "output bias .* is not covered"),
        (network(5, bias=False, output_bias=False), "column", "the network reads 5 features"),
        (network(2, bias=True, output_bias=False, activation=nn.Tanh()), "column", "the activation relu"),
        (nn.Sequential(nn.Linear(2, 1)), "column", "this bound is for two layers"),
        (nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), "column", "one output"),
    ],
)
def test_what_the_bound_does_not_cover_is_refused(module: nn.Module, bias: str, message: str) -> None:
    plain = small_problem()
    with pytest.raises(UsageError, match=message):
        network_incumbent(TwoLayerProblem(plain.X, plain.y, "squared", 0.5, bias=bias), module)
