"""Baselines: they minimize the objective of `fit`, and do so well."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from convexblocks.formulations import UsageError
from convexblocks.networks import linear_baseline, load_dataset, train_adam, train_sgd
from convexblocks.solvers import build_network, fit

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(30, 3))
LABELS = np.arange(30) % 3
TARGETS = X @ np.array([1.0, -2.0, 0.5]) + 1.0


def linear_network(outputs: int) -> torch.nn.Sequential:
    return build_network((3, outputs), "relu", random_state=0, dtype=torch.float64)


PROBLEMS = {
    "squared": (TARGETS, 1),
    "logistic": (LABELS % 2, 1),
    "softmax_cross_entropy": (LABELS, 3),
    "softmax_cross_entropy, two classes": (LABELS % 2, 2),
}


@pytest.mark.parametrize("weight_decay", [0.3, 3.0])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_linear_baseline_is_the_optimum_of_the_objective(problem: str, weight_decay: float) -> None:
    """An independent minimizer of the same objective over the weights finds the same value."""
    (y, outputs), loss = PROBLEMS[problem], problem.split(",")[0]
    found = linear_baseline((X, y), loss=loss, weight_decay=weight_decay, outputs=outputs)

    def objective(flat: np.ndarray) -> float:
        weights, biases = flat[: 3 * outputs].reshape(outputs, 3), flat[3 * outputs :]
        scores, targets = X @ weights.T + biases, y
        if loss == "squared":
            value = ((scores[:, 0] - targets) ** 2).sum() / 2
        elif loss == "logistic":
            value = (np.logaddexp(0, scores[:, 0]) - targets * scores[:, 0]).sum()
        else:
            value = (np.logaddexp.reduce(scores, axis=1) - scores[np.arange(30), targets]).sum()
        return float(value + weight_decay / 2 * (weights**2).sum())

    best = minimize(objective, np.zeros(4 * outputs), method="BFGS", options={"gtol": 1e-4}).fun
    assert found["objective"] == pytest.approx(best, rel=1e-4)
    assert found["objective"] == pytest.approx(found["true_loss"] + found["penalty"])


@pytest.mark.parametrize("train", [train_adam, train_sgd])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_gradients_come_near_the_optimum_of_a_convex_problem(
    problem: str, train: Callable[..., dict[str, Any]]
) -> None:
    (y, outputs), loss = PROBLEMS[problem], problem.split(",")[0]
    optimum = linear_baseline((X, y), loss=loss, weight_decay=0.3, outputs=outputs)["objective"]
    found = train(linear_network(outputs), (X, y), loss=loss, weight_decay=0.3, steps=1000, learning_rates=(0.03,))
    assert optimum * (1 - 1e-4) <= found["objective"] <= optimum * 1.02


def test_figures_are_those_of_fit() -> None:
    """A network that `fit` measures has the same loss and penalty when Adam makes no step."""
    network = build_network((3, 4, 3), "relu", random_state=0)
    start = fit(build_network((3, 4, 3), "relu", random_state=0), (X, LABELS), sweeps=1).records[0]
    found = train_adam(network, (X, LABELS), loss="softmax_cross_entropy", steps=0, learning_rates=(0.01,))
    for key in ("true_loss", "penalty", "objective", "train_accuracy"):
        assert found[key] == pytest.approx(start[key], rel=1e-6)


def test_without_weight_decay() -> None:
    assert linear_baseline((X, TARGETS), loss="squared", weight_decay=0.0, outputs=1)["true_loss"] < 1e-20
    found = linear_baseline((X, LABELS), loss="softmax_cross_entropy", weight_decay=0.0, outputs=3)
    assert found["penalty"] == 0.0


@pytest.mark.parametrize("train", [train_adam, train_sgd])
def test_training_is_deterministic_and_leaves_the_global_generator_alone(train: Callable[..., dict[str, Any]]) -> None:
    def once() -> dict[str, Any]:
        network = build_network((3, 4, 3), "relu", random_state=0)
        found = train(network, (X, LABELS), loss="softmax_cross_entropy", steps=40, batch_size=8, random_state=1)
        return {key: value for key, value in found.items() if not key.endswith("seconds")}

    before = torch.get_rng_state()
    assert once() == once()
    assert torch.equal(before, torch.get_rng_state())


def test_test_data_are_measured_and_a_diverging_rate_is_not_chosen() -> None:
    network = build_network((3, 4, 1), "relu", random_state=0)
    found = train_adam(
        network, (X, TARGETS), loss="squared", validation=(X, TARGETS), steps=200, learning_rates=(1e30, 1e-2)
    )
    assert found["learning_rate"] == 1e-2
    assert found["test_error"] == pytest.approx(found["train_error"], rel=1e-5)


def test_iris_is_learned() -> None:
    iris = load_dataset("iris")
    network = build_network((4, 8, 3), "tanh", random_state=0)
    adam = train_adam(network, iris.train, loss="softmax_cross_entropy", validation=iris.test, steps=300)
    linear = linear_baseline(iris.train, loss="softmax_cross_entropy", outputs=3, validation=iris.test)
    assert min(adam["test_accuracy"], linear["test_accuracy"]) > 0.85


def test_a_rate_is_not_called_chosen_where_nothing_can_be_held_out() -> None:
    network, data = build_network((2, 1), "relu", random_state=0), (np.ones((1, 2)), np.ones(1))
    found = train_adam(network, data, loss="squared", steps=2)
    assert found["search_seconds"] == 0
    assert "not chosen among others" in found["note"]


def test_unfit_data_are_refused() -> None:
    with pytest.raises(UsageError, match="expected 0 to 1"):
        train_adam(linear_network(2), (X, LABELS), loss="softmax_cross_entropy")
    with pytest.raises(UsageError, match="expected 0 to 1"):
        linear_baseline((X, LABELS), loss="logistic", outputs=1)


def test_the_trace_is_that_of_the_training_and_changes_nothing() -> None:
    settings: dict[str, Any] = {"loss": "softmax_cross_entropy", "steps": 50, "learning_rates": (0.01,)}
    plain, traced = (build_network((3, 4, 3), "tanh", random_state=0) for _ in range(2))
    quiet = train_sgd(plain, (X, LABELS), **settings)
    found = train_sgd(traced, (X, LABELS), validation=(X, LABELS), measurements=10, **settings)
    assert "trace" not in quiet
    assert found["objective"] == quiet["objective"]
    assert [point["steps"] for point in found["trace"]] == list(range(0, 51, 5))
    assert found["trace"][0]["cpu_seconds"] < 1e-3
    assert found["trace"][-1] == found["trace"][-1] | {key: found[key] for key in ("objective", "test_accuracy")}
    assert all(before["cpu_seconds"] <= after["cpu_seconds"] for before, after in pairwise(found["trace"]))


def test_as_many_steps_as_fit_into_the_seconds() -> None:
    def trained(seconds: float) -> dict[str, Any]:
        network = build_network((3, 4, 3), "relu", random_state=0)
        return train_sgd(network, (X, LABELS), loss="softmax_cross_entropy", seconds=seconds, learning_rates=(0.01,))

    short, long = trained(0.05), trained(0.4)
    assert 2 * short["steps"] < long["steps"]
    assert 0.1 < long["cpu_seconds"] < 2.0
    assert long["search_seconds"] < 0.01
    with pytest.raises(UsageError, match="seconds"):
        trained(-1.0)
