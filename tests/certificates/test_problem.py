"""Training problems: gradients, duals, what is prepared and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from certificate_problems import KINDS, random_network, small_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from convexblocks.certificates import TwoLayerProblem, largest_weight_decay, prepare
from convexblocks.certificates.support import worst_neurons
from convexblocks.formulations import UsageError


@pytest.mark.parametrize(("loss", "activation"), KINDS)
def test_negative_gradient_by_differences(loss: str, activation: str) -> None:
    problem, step = small_problem(loss, activation), 1e-6
    z = np.random.default_rng(1).standard_normal(len(problem.y))
    for place, wanted in enumerate(problem.negative_gradient(z)):
        unit = step * np.eye(len(z))[place]
        slope = (problem.loss_value(z + unit) - problem.loss_value(z - unit)) / (2 * step)
        assert slope == pytest.approx(-wanted, abs=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["squared", "logistic"]), st.integers(0, 10_000))
def test_the_dual_is_below_the_loss_and_meets_it_at_the_gradient(loss: str, seed: int) -> None:
    problem, rng = small_problem(loss), np.random.default_rng(seed)
    z, other = 3 * rng.standard_normal((2, len(problem.y)))
    v = problem.negative_gradient(z)
    assert problem.dual(v) == pytest.approx(problem.loss_value(z) + v @ z, rel=1e-9, abs=1e-9)
    assert problem.dual(v) <= problem.loss_value(other) + v @ other + 1e-9


def test_the_dual_of_the_logistic_loss_ends_at_its_domain() -> None:
    problem = small_problem("logistic")
    assert problem.dual(-0.1 * problem.y) == -np.inf
    assert problem.dual(1.1 * problem.y) == -np.inf
    assert problem.dual(problem.y) == 0


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_best_scale_is_the_best(loss: str) -> None:
    problem = small_problem(loss)
    v = problem.negative_gradient(np.zeros(len(problem.y)))
    best = problem.best_scale(v, 0.8)
    assert all(problem.dual(t * v) <= problem.dual(best * v) + 1e-12 for t in np.linspace(0, 0.8, 50))


@pytest.mark.parametrize(("loss", "activation"), KINDS)
def test_neurons_have_the_values_they_claim(loss: str, activation: str) -> None:
    problem = small_problem(loss, activation)
    v = problem.negative_gradient(np.zeros(len(problem.y)))
    found = worst_neurons(problem, v, count=32)
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1)
    values = found.signs * (v @ problem.phi(problem.X @ found.directions.T))
    np.testing.assert_allclose(found.values, values)
    assert (np.diff(found.values) <= 0).all()
    few = found.distinct(4)
    inner = (few.directions @ few.directions.T)[np.equal.outer(few.signs, few.signs)]
    assert (inner[inner < 1 - 1e-12] < 1).all()


def test_one_feature_has_a_closed_form() -> None:
    x, y = np.array([1.0, -2.0, 0.5]), np.array([1.0, 1.0, -3.0])
    problem = TwoLayerProblem(x[:, None], y, "squared", 1.0)
    wanted = max(abs(y @ np.maximum(x, 0)), abs(y @ np.maximum(-x, 0)))
    assert largest_weight_decay(problem) == pytest.approx(wanted)


def test_above_the_largest_weight_decay_zero_is_best() -> None:
    problem = small_problem()
    problem = replace(problem, weight_decay=1.001 * largest_weight_decay(problem))
    nothing = problem.loss_value(np.zeros(len(problem.y)))
    rng = np.random.default_rng(0)
    assert all(problem.objective(*random_network(problem, rng)) > nothing for _ in range(500))


@pytest.mark.parametrize("components", [None, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_prepared_data(components: int | None, bias: bool) -> None:
    rng = np.random.default_rng(0)
    raw = np.hstack([5 + 3 * rng.standard_normal((20, 4)), np.full((20, 1), 7.0)])
    X, y, words = prepare(raw, rng.standard_normal(20), "squared", components=components, bias=bias)
    columns = (components or 4) + bias
    assert X.shape == (20, columns)
    np.testing.assert_allclose(X[:, : columns - bias].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-12)
    if bias:
        np.testing.assert_allclose(X[:, -1], 1 / np.sqrt(columns))
    if components is None:
        np.testing.assert_allclose(X[:, :4].std(0), 1 / np.sqrt(columns))
        assert "1 constant columns dropped" in words
    assert ("principal components" in words) == (components is not None)


def test_of_two_classes_the_larger_label_is_positive() -> None:
    _, y, words = prepare(np.arange(8.0).reshape(4, 2) ** 2, np.array([8, 3, 3, 8]), "logistic")
    assert y.tolist() == [1, -1, -1, 1]
    assert "y = +1 for the class 8" in words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.ones(3)}, "expected .samples, features. and .samples,."),
        ({"X": np.full((12, 3), np.nan)}, "NaN or infinite"),
        ({"loss": "hinge"}, "no bound is known for the loss 'hinge'; known: squared, logistic"),
        ({"activation": "tanh"}, "no bound is known for the activation 'tanh'"),
        ({"loss": "logistic"}, "labels .1 and -1"),
        ({"weight_decay": 0.0}, "expected a number above 0"),
        ({"weight_decay": np.nan}, "expected a number above 0"),
        ({"slope": 1.0}, "from 0 to below 1"),
        ({"bias": "free"}, "expected 'column' or 'none'"),
        ({"X": np.arange(36.0).reshape(12, 3)}, "the last column of X is no constant"),
    ],
)
def test_refusals(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(small_problem(), **change)


@pytest.mark.parametrize("components", [0, -1, 3])
def test_so_many_components_there_are_not(components: int) -> None:
    with pytest.raises(UsageError, match="expected 1 to 2 for these data"):
        prepare(np.random.default_rng(0).standard_normal((9, 2)), np.arange(9.0), "squared", components=components)


def test_components_do_not_depend_on_the_order_of_columns() -> None:
    X = np.random.default_rng(0).standard_normal((20, 4))
    one, other = (prepare(part, np.arange(20.0), "squared", components=2)[0] for part in (X, X[:, ::-1]))
    np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([[1.0, np.nan], [2, 3]], [0.0, 1], "NaN or infinite"),
        ([[1.0, 1], [2, 3]], [0.0, np.nan], "NaN or infinite"),
        ([[1.0, 1], [1, 1]], [0.0, 1], "no column of X varies"),
        ([1.0, 2.0], [0.0, 1], "expected .samples, features."),
    ],
)
def test_data_that_cannot_be_prepared(X: list, y: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(X, y, "squared")


def test_other_than_two_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="needs two classes, but y has 3"):
        prepare(np.eye(3), np.array([0, 1, 2]), "logistic")
    with pytest.raises(UsageError, match="all targets are equal"):
        prepare(np.eye(3), np.ones(3), "squared")
