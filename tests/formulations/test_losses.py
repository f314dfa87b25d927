"""Losses: each is the Fenchel-Young gap of its activation; targets are encoded, or refused with a reason."""

from __future__ import annotations

import re
from math import inf, log
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from instances import LOSS_NAMES, encoded
from scipy.optimize import minimize

from convexblocks.formulations import LOSSES, UsageError
from convexblocks.formulations.losses import choose_loss, find_loss, infer_task

property_test = settings(deadline=None, derandomize=True, max_examples=60)
numbers = arrays(np.float64, (3, 4), elements=st.floats(-20, 20))
seeds = st.integers(0, 2**32 - 1)


def target(name: str, seed: int) -> np.ndarray:
    return encoded(LOSSES[name], np.random.default_rng(seed), 3, 4)


def test_losses_by_hand() -> None:
    u = np.array([[log(2), 0.0]])
    assert LOSSES["squared"].values(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]]))[0] == 2.5
    assert LOSSES["logistic"].values(u[:, :1], np.array([[1.0]]))[0] == pytest.approx(log(1.5))
    assert LOSSES["logistic"].values(u[:, :1], np.array([[0.0]]))[0] == pytest.approx(log(3))
    assert LOSSES["softmax_cross_entropy"].values(u, np.array([[1.0, 0.0]]))[0] == pytest.approx(log(1.5))
    assert LOSSES["softmax_cross_entropy"].values(u, np.array([[0.0, 1.0]]))[0] == pytest.approx(log(3))


def test_tasks_and_activations() -> None:
    seen = {name: (loss.activation.name, loss.task) for name, loss in LOSSES.items()}
    assert seen == {
        "squared": ("identity", "regression"),
        "logistic": ("sigmoid", "classification"),
        "softmax_cross_entropy": ("softmax", "classification"),
    }


@pytest.mark.parametrize("name", LOSS_NAMES)
@property_test
@given(u=numbers, seed=seeds)
def test_loss_is_the_gap_of_its_activation_constants_included(name: str, u: np.ndarray, seed: int) -> None:
    loss, y = LOSSES[name], target(name, seed)
    rounding = 1e-13 * (1 + (u**2).sum(-1) + (y**2).sum(-1))
    assert (abs(loss.values(u, y) - loss.activation.gap(y, u)) <= rounding).all()


@pytest.mark.parametrize("name", LOSS_NAMES)
@property_test
@given(u=arrays(np.float64, (3, 4), elements=st.floats(-8, 8)), seed=seeds)
def test_gradient_is_the_derivative(name: str, u: np.ndarray, seed: int) -> None:
    loss, y = LOSSES[name], target(name, seed)
    gradient = loss.gradient(u, y)
    for entry in range(u.shape[1]):
        shift = np.zeros_like(u)
        shift[:, entry] = 1e-5
        numeric = (loss.values(u + shift, y) - loss.values(u - shift, y)) / 2e-5
        np.testing.assert_allclose(numeric, gradient[:, entry], atol=2e-8)


@pytest.mark.parametrize("name", LOSS_NAMES)
@property_test
@given(u=arrays(np.float64, (3, 4), elements=st.floats(-8, 8)), seed=seeds)
def test_conjugate_meets_fenchel_young_with_equality_at_the_gradient(name: str, u: np.ndarray, seed: int) -> None:
    loss, y = LOSSES[name], target(name, seed)
    s = loss.gradient(u, y)
    total = loss.values(u, y) + loss.conjugate(s, y)
    np.testing.assert_allclose(total, (s * u).sum(-1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_conjugate_is_the_largest_difference_to_a_line(name: str) -> None:
    loss, rng = LOSSES[name], np.random.default_rng(3)
    y = encoded(loss, rng, 4, 3)
    s = loss.gradient(rng.standard_normal((4, 3)), y)
    for place in range(len(y)):
        one = slice(place, place + 1)

        def below(u: np.ndarray, one: slice = one) -> float:
            return float(loss.values(u[None], y[one])[0] - s[one][0] @ u)

        found = minimize(below, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
        assert -found.fun == pytest.approx(float(loss.conjugate(s[one], y[one])[0]), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "s", "y"),
    [
        ("logistic", [[0.5]], [[1.0]]),  # s + y leaves [0, 1]
        ("logistic", [[-0.5]], [[0.0]]),
        ("softmax_cross_entropy", [[0.5, 0.0]], [[1.0, 0.0]]),  # s + y leaves the simplex
        ("softmax_cross_entropy", [[0.1, -0.1]], [[1.0, 0.0]]),
    ],
)
def test_conjugate_is_infinite_outside_its_domain(name: str, s: Any, y: Any) -> None:
    assert LOSSES[name].conjugate(np.array(s), np.array(y))[0] == inf


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_model_has_the_value_of_the_arrays(name: str) -> None:
    loss, rng = LOSSES[name], np.random.default_rng(0)
    outputs = 1 if name == "logistic" else 4
    u, y = cp.Variable(outputs), cp.Parameter(outputs)
    term = loss.model(u, y)
    problem = cp.Problem(cp.Minimize(term.expression), list(term.constraints))
    assert problem.is_dcp(dpp=True)
    for _ in range(5):
        values, targets = rng.uniform(-3, 3, (1, outputs)), encoded(loss, rng, 1, outputs)
        u.value, y.value = values[0], targets[0]
        assert float(term.expression.value) == pytest.approx(float(loss.values(values, targets)[0]), rel=1e-12)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_numpy_and_torch_agree(name: str) -> None:
    loss, rng = LOSSES[name], np.random.default_rng(0)
    u, y = 3 * rng.standard_normal((20, 4)), encoded(loss, rng, 20, 4)
    s = loss.gradient(u, y)
    tensors = [torch.tensor(array) for array in (u, y, s)]
    np.testing.assert_allclose(loss.values(*tensors[:2]).numpy(), loss.values(u, y), rtol=1e-13)
    np.testing.assert_allclose(loss.gradient(*tensors[:2]).numpy(), s, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        loss.conjugate(tensors[2], tensors[1]).numpy(), loss.conjugate(s, y), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("name", ["logistic", "softmax_cross_entropy"])
def test_confidently_wrong_outputs_cost_their_margin_and_no_overflow(name: str) -> None:
    u, y = np.array([[700.0, -700.0]]), np.array([[0.0, 1.0]])
    assert LOSSES[name].values(u, y)[0] == pytest.approx(1400)
    assert LOSSES[name].values(-u, y)[0] == pytest.approx(0)


# ------------------------------------------------------------------------------------ targets


@pytest.mark.parametrize(
    "y", [[2, 0, 1], np.array([2.0, 0.0, 1.0]), np.array([[2], [0], [1]]), np.array([2, 0, 1], np.uint8)]
)
def test_classes_become_one_hot_rows(y: Any) -> None:
    encoded_y = LOSSES["softmax_cross_entropy"].encode(y, 3)
    np.testing.assert_array_equal(encoded_y, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert encoded_y.dtype == np.float64


@pytest.mark.parametrize("y", [[0, 1, 1], [False, True, True], np.array([[0.0], [1.0], [1.0]])])
def test_two_labels_become_a_column(y: Any) -> None:
    encoded_y = LOSSES["logistic"].encode(y, 1)
    np.testing.assert_array_equal(encoded_y, [[0], [1], [1]])
    assert encoded_y.dtype == np.float64


@pytest.mark.parametrize(("y", "outputs"), [([1.5, -2], 1), ([[1, 2], [3, 4]], 2), ([[0.5]], 1)])
def test_numbers_become_rows(y: Any, outputs: int) -> None:
    encoded_y = LOSSES["squared"].encode(y, outputs)
    np.testing.assert_array_equal(encoded_y, np.asarray(y, float).reshape(-1, outputs))
    assert encoded_y.dtype == np.float64


REFUSED = [
    ("softmax_cross_entropy", [0, 1, 3], 3, "labels run from 0 to 3; expected 0 to 2"),
    ("softmax_cross_entropy", [-1, 1, 2], 3, "labels run from -1 to 2; expected 0 to 2"),
    ("softmax_cross_entropy", [0.5, 1.0], 3, "not whole numbers (seen 0.5)"),
    ("softmax_cross_entropy", [0.0, np.nan], 3, "not whole numbers (seen nan)"),
    ("softmax_cross_entropy", [0.0, inf], 3, "not whole numbers (seen inf)"),
    ("softmax_cross_entropy", ["cat", "dog"], 2, "sklearn.preprocessing.LabelEncoder"),
    ("softmax_cross_entropy", np.eye(3), 3, "shape (3, 3); expected one integer label for each sample"),
    ("softmax_cross_entropy", 1, 3, "shape (); expected one integer label"),
    ("logistic", [0, 2], 1, "labels run from 0 to 2; expected 0 to 1, because the logistic loss has the two"),
    ("logistic", [-1, 1], 1, "labels run from -1 to 1; expected 0 to 1"),
    ("logistic", [0, 1], 2, "network with 1 output, but this one has 2"),
    ("logistic", [0.0, 0.3], 1, "choose the task 'regression'"),
    ("logistic", [0.0, np.nan], 1, "not whole numbers (seen nan)"),
    ("logistic", ["no", "yes"], 1, "expected integers 0, 1, ..., K-1"),
    ("squared", ["a", "b"], 1, "expected numbers"),
    ("squared", [1j, 2.0], 1, "expected numbers"),
    ("squared", [1.0, 2.0], 3, "the targets have 1 columns, but the network has 3 outputs"),
    ("squared", np.zeros((2, 3)), 1, "the targets have 3 columns, but the network has 1 outputs"),
]


@pytest.mark.parametrize(("name", "y", "outputs", "expected"), REFUSED)
def test_unfit_targets_are_refused(name: str, y: Any, outputs: int, expected: str) -> None:
    with pytest.raises(UsageError, match=re.escape(expected)):
        LOSSES[name].encode(y, outputs)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_mixture_of_types_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="type object"):
        LOSSES[name].encode(np.array([0, "a"], dtype=object), 1)


@pytest.mark.parametrize("bad", [np.nan, inf, -inf])
def test_targets_of_regression_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(UsageError):
        LOSSES["squared"].encode([1.0, bad], 1)


@pytest.mark.parametrize("y", [3.0, np.zeros((2, 2, 2))], ids=["a number", "three axes"])
def test_targets_of_regression_with_a_wrong_number_of_axes_are_refused(y: Any) -> None:
    with pytest.raises(UsageError):
        LOSSES["squared"].encode(y, 4)


@pytest.mark.parametrize(("name", "outputs"), [("squared", 1), ("logistic", 1), ("softmax_cross_entropy", 2)])
def test_no_targets_at_all_are_refused_or_encoded_as_no_rows(name: str, outputs: int) -> None:
    try:
        rows = LOSSES[name].encode(np.zeros(0), outputs)
    except UsageError:
        return
    assert rows.shape == (0, outputs)


# ------------------------------------------------------------------------------------ names, tasks, predictions


def test_losses_are_found_by_name() -> None:
    for name, loss in LOSSES.items():
        assert find_loss(name) is loss
        assert find_loss(loss) is loss
    with pytest.raises(UsageError, match=r"unknown loss 'hinge'; known: squared, logistic, softmax_cross_entropy\."):
        find_loss("hinge")


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([0, 1, 2], "classification"),
        ([5, 17], "classification"),
        ([True, False], "classification"),
        (np.array([3, 1], np.uint8), "classification"),
        ([0.0, 1.0, 1.0, 2.0], "classification"),
        ([[0.0], [1.0]], "classification"),
        ([0.0, 2.0], "regression"),  # 1 is missing: these are numbers
        ([1.0, 2.0], "regression"),
        ([0.0, 0.0], "regression"),  # a single value is no class to tell from another
        ([0.0, 0.5, 1.0], "regression"),
        ([0.0, 1.0, np.nan], "regression"),
        (np.arange(100.0), "classification"),
        (np.arange(101.0), "regression"),
        ([[0, 1], [1, 0]], "regression"),
    ],
)
def test_task_is_inferred_from_the_targets(y: Any, expected: str) -> None:
    assert infer_task(y) == expected


@pytest.mark.parametrize(
    ("task", "outputs", "expected"),
    [
        ("regression", 1, "squared"),
        ("regression", 3, "squared"),
        ("classification", 1, "logistic"),
        ("classification", 2, "softmax_cross_entropy"),
        ("classification", 10, "softmax_cross_entropy"),
    ],
)
def test_usual_loss_of_a_task(task: str, outputs: int, expected: str) -> None:
    assert choose_loss(task, outputs).name == expected


def test_unknown_task_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown task 'ranking'; expected 'classification' or 'regression'"):
        choose_loss("ranking", 1)


def test_predictions() -> None:
    u = np.array([[0.2, 1.0, -3.0], [-0.1, -2.0, -0.3]])
    np.testing.assert_array_equal(LOSSES["softmax_cross_entropy"].predict(u), [1, 0])
    np.testing.assert_array_equal(LOSSES["logistic"].predict(u[:, :1]), [1, 0])
    np.testing.assert_array_equal(LOSSES["logistic"].predict(np.zeros((1, 1))), [0])
    np.testing.assert_array_equal(LOSSES["squared"].predict(u), u)
    np.testing.assert_array_equal(LOSSES["softmax_cross_entropy"].predict(torch.tensor(u)), [1, 0])


@pytest.mark.parametrize("name", ["logistic", "softmax_cross_entropy"])
def test_predictions_undo_the_encoding(name: str) -> None:
    loss, outputs = LOSSES[name], 1 if name == "logistic" else 3
    labels = np.array([0, 1, 1, 0]) if outputs == 1 else np.array([2, 0, 1, 2])
    np.testing.assert_array_equal(loss.predict(4 * loss.encode(labels, outputs) - 2), labels)
