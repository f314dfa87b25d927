"""Relaxations of training: every network is a feasible point of them, and where the truth is known they are near it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse
from instances import encoded
from latex2mathml.converter import convert

from convexblocks.formulations import (
    LipschitzRegression,
    Loss,
    OutputMoments,
    PairedMoments,
    SecondMoments,
    SpectralRegression,
    UsageError,
    activation,
)
from convexblocks.formulations.catalogue import subproblem
from convexblocks.formulations.lipschitz_regression import nearest_edges
from convexblocks.formulations.losses import find_loss
from convexblocks.formulations.sample_pairs import nearest_pairs
from convexblocks.solvers import solve

LOSSES = ("squared", "logistic")
PHI = {
    "relu": lambda t: np.maximum(t, 0),
    "leaky_relu(0.2)": lambda t: np.where(t > 0, t, 0.2 * t),
    "absolute_value": abs,
    "identity": lambda t: t,
}
PAIRINGS = ("none", "default", "nearest", "conic", "sparse")
# A loss of the user's own: Poisson regression, e^z - y z.
POISSON = Loss("poisson", activation("exponential"), "regression")
# Bounds compare solver values; Clarabel's own tolerance is 1e-8.
CLOSE = 1e-5


def training_data(loss: str, samples: int = 7, features: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs with a duplicate and a multiple among them, so that some pairs have length zero."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((samples, features))
    X[1], X[2] = X[0], 2 * X[0]
    return X, encoded(find_loss(loss), rng, samples, 1)[:, 0]


def pairing(name: str, X: np.ndarray, y: np.ndarray) -> Any:
    if name == "none":
        return np.zeros((0, len(X)))
    if name == "default":
        return np.eye(len(X))[:-1] - np.eye(len(X))[1:]
    found = nearest_pairs(X, y, conic=name == "conic")
    return scipy.sparse.csr_array(found.matrix) if name == "sparse" else found


def two_layer_models(loss: str, X: np.ndarray, y: np.ndarray, **settings: Any) -> Iterator[Any]:
    for rlt in (False, True):
        yield SecondMoments.of(X, y, loss=loss, rlt=rlt, **settings)
        for name in PAIRINGS:
            yield PairedMoments.of(X, y, loss=loss, rlt=rlt, pairs=pairing(name, X, y), **settings)


def optimum(block: Any, **options: Any) -> float:
    return float(block.program().solve(**({"solver": cp.CLARABEL} | options)))


def put(block: Any, values: dict[str, Any]) -> None:
    variables = block.program().var_dict
    assert set(values) == set(variables)
    for name, variable in variables.items():
        variable.value = values[name]


def violations(block: Any) -> dict[str, float]:
    # At the tip of a second-order cone cvxpy divides zero by zero before it chooses the right case.
    with np.errstate(invalid="ignore"):
        return {item.label: float(np.max(item.violation())) for item in block.program().constraints}


def training_loss(loss: str, z: np.ndarray, y: np.ndarray) -> float:
    return float(0.5 * ((z - y) ** 2).sum() if loss == "squared" else (np.logaddexp(0, z) - y * z).sum())


# ------------------------------------------------------------------------------------ two layers


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("phi", PHI)
def test_networks_are_feasible_points_with_their_own_objective(loss: str, phi: str) -> None:
    X, y = training_data(loss)
    X[3] = 0
    for block in two_layer_models(loss, X, y, activation=phi, weight_decay=0.3):
        best, rng = np.inf, np.random.default_rng(1)
        for width in (1, 4, 30):
            W, a = rng.standard_normal((width, 3)) / width, rng.standard_normal(width)
            W[-1] *= width > 1  # A dead unit.
            put(block, block.network_moments(block.data(X, y, 0.3), W, a))
            assert max(violations(block).values()) <= 1e-12
            z = PHI[phi](X @ W.T) @ a
            sizes = np.sqrt(np.linalg.norm(W, axis=1) * abs(a))
            objective = training_loss(loss, z, y) + 0.3 / 2 * (sizes**2 + sizes**2).sum()
            np.testing.assert_allclose(block.program().var_dict["z"].value, z, atol=1e-12)
            assert block.program().objective.value == pytest.approx(objective, rel=1e-12)
            best = min(best, objective)
        assert optimum(block) <= best


def test_violated_constraints_are_noticed() -> None:
    X, y = training_data("squared")
    block = PairedMoments.of(X, y, weight_decay=0.3, pairs=nearest_pairs(X, y))
    values = block.network_moments(block.data(X, y, 0.3), np.eye(3), np.ones(3))
    for name in values:
        put(block, values | {name: values[name] + 0.5})
        assert max(violations(block).values()) > 0.01, name


def exact_optimum(loss: str, phi: str, X: np.ndarray, y: np.ndarray, weight_decay: float, units: np.ndarray) -> float:
    """Least objective of the networks whose hidden units point in these directions: the convex problem in a."""
    outputs = PHI[phi](X @ units.T)
    a = cp.Variable(len(units))
    z = outputs @ a
    fit = 0.5 * cp.sum_squares(z - y) if loss == "squared" else cp.sum(cp.logistic(z)) - y @ z
    return float(cp.Problem(cp.Minimize(fit + weight_decay * cp.norm1(a))).solve(solver=cp.CLARABEL))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("phi", PHI)
def test_with_one_feature_all_are_exact(loss: str, phi: str) -> None:
    # The unit vectors are -1 and 1: nothing is lost.
    X, y = training_data(loss, features=1)
    expected = exact_optimum(loss, phi, X, y, 0.2, np.array([[1.0], [-1.0]]))
    for block in two_layer_models(loss, X, y, activation=phi, weight_decay=0.2):
        assert optimum(block) == pytest.approx(expected, abs=CLOSE)


def test_with_one_feature_and_squared_loss_the_closed_form_holds() -> None:
    X, y = training_data("squared", samples=9, features=1)
    for weight_decay in (0.01, 0.4, 100.0):
        expected = 0.5 * y @ y
        for side in (np.maximum(X[:, 0], 0), np.maximum(-X[:, 0], 0)):
            expected -= max(abs(side @ y) - weight_decay, 0) ** 2 / (2 * side @ side)
        assert optimum(SecondMoments.of(X, y, weight_decay=weight_decay)) == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cuts_never_lower_the_value_and_never_pass_the_truth(loss: str, seed: int) -> None:
    X, y = training_data(loss, samples=10, features=2, seed=seed)
    angles = np.linspace(0, 2 * np.pi, 721)
    units = np.column_stack([np.cos(angles), np.sin(angles)])
    truth = exact_optimum(loss, "relu", X, y, 0.1, units)
    value = {}
    for rlt in (False, True):
        value["alone", rlt] = optimum(SecondMoments.of(X, y, loss=loss, rlt=rlt, weight_decay=0.1))
        for name in PAIRINGS:
            block = PairedMoments.of(X, y, loss=loss, rlt=rlt, pairs=pairing(name, X, y), weight_decay=0.1)
            value[name, rlt] = optimum(block)
        assert value["none", rlt] == pytest.approx(value["alone", rlt], abs=CLOSE)
        assert value["sparse", rlt] == pytest.approx(value["nearest", rlt], abs=CLOSE)
        for weaker, stronger in (("alone", "default"), ("alone", "nearest"), ("nearest", "conic")):
            assert value[weaker, rlt] <= value[stronger, rlt] + CLOSE
    assert all(value[name, False] <= value[name, True] + CLOSE for name in ("alone", *PAIRINGS))
    assert max(value.values()) <= truth + CLOSE
    # They are cuts, and with them little is lost.
    assert value["alone", False] < value["conic", True] - 1e-3
    assert value["conic", True] > 0.75 * truth


@pytest.mark.parametrize("loss", LOSSES)
def test_duplicates_of_opposite_label_cost_what_they_must_once_they_are_paired(loss: str) -> None:
    X = np.random.default_rng(0).standard_normal((4, 6))
    X, y = np.vstack([X, X]), np.repeat([1.0, 0.0], 4)
    noise = 4 * (0.25 if loss == "squared" else 2 * np.log(2))
    alone = SecondMoments.of(X, y, loss=loss, weight_decay=1e-3)
    paired = PairedMoments.of(X, y, loss=loss, weight_decay=1e-3, pairs=nearest_pairs(X, y, neighbours=1))
    assert optimum(alone) < 0.5 * noise
    assert noise - CLOSE <= optimum(paired) <= noise + 0.02


def test_a_larger_weight_decay_ends_in_the_zero_network() -> None:
    X, y = training_data("squared")
    block = PairedMoments.of(X, y, weight_decay=1e3)
    assert optimum(block) == pytest.approx(0.5 * y @ y, abs=CLOSE)
    np.testing.assert_allclose(block.program().var_dict["z"].value, 0, atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("make", [SecondMoments, PairedMoments, LipschitzRegression])
def test_two_solvers_and_the_engine_agree(loss: str, make: Any) -> None:
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((6, 2)), training_data(loss, samples=6)[1]
    price = {"price" if make is LipschitzRegression else "weight_decay": 0.2}
    block = make.of(X, y, loss=loss, **price)
    first = optimum(block)
    assert optimum(block, solver=cp.SCS, eps_abs=1e-7, eps_rel=1e-7) == pytest.approx(first, abs=1e-4)
    solution = solve(block, block.data(X, y, 0.2)).require_solved()
    found = {name: values[0].numpy() for name, values in solution.variables.items()}
    put(block, {name: found[name].reshape(variable.shape) for name, variable in block.program().var_dict.items()})
    assert block.program().objective.value == pytest.approx(first, abs=1e-4)
    assert max(violations(block).values()) <= 1e-4


def test_a_loss_of_ones_own() -> None:
    X, _ = training_data("squared", features=1)
    y = np.array([0.0, 1.0, 3.0, 2.0, 0.0, 4.0, 1.0])
    a = cp.Variable(2)
    z = np.maximum(X @ [[1.0, -1.0]], 0) @ a
    truth = cp.Problem(cp.Minimize(cp.sum(cp.exp(z)) - y @ z + 0.2 * cp.norm1(a))).solve(solver=cp.CLARABEL)
    # Its target is encoded by the squared loss's rules: any number will do.
    block = SecondMoments(samples=7, features=1, loss=POISSON)
    data = {"X": X, "y": y, "weight_decay": 0.2, "norms": abs(X[:, 0])}
    for parameter in block.program().parameters():
        parameter.value = data[parameter.name()]
    assert optimum(block) == pytest.approx(truth, abs=CLOSE)


# ------------------------------------------------------------------------------------ several outputs

SEVERAL = ("squared", "softmax_cross_entropy")


def outputs_data(loss: str, outputs: int, samples: int = 6, features: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    X = rng.standard_normal((samples, features))
    return X, rng.standard_normal((samples, outputs)) if loss == "squared" else np.arange(samples) % outputs


def outputs_loss_value(loss: str, Z: np.ndarray, y: np.ndarray) -> float:
    if loss == "squared":
        return float(0.5 * ((Z - y) ** 2).sum())
    return float(np.log(np.exp(Z).sum(axis=1)).sum() - Z[np.arange(len(Z)), y].sum())


@pytest.mark.parametrize("loss", SEVERAL)
@pytest.mark.parametrize("phi", ["relu", "absolute_value"])
def test_networks_of_several_outputs_are_feasible_and_not_cheaper(loss: str, phi: str) -> None:
    X, y = outputs_data(loss, 3)
    rng = np.random.default_rng(1)
    moments = OutputMoments.of(X, y, loss=loss, activation=phi, weight_decay=0.3)
    spectral = SpectralRegression.of(X, y, loss=loss, weight_decay=0.3)
    values = [optimum(moments), optimum(spectral)]
    for width in (1, 4, 20):
        W, a = rng.standard_normal((width, 2)) / width, rng.standard_normal((width, 3))
        Z, mass = PHI[phi](X @ W.T) @ a, float(np.linalg.norm(W, axis=1) @ np.linalg.norm(a, axis=1))
        objective = outputs_loss_value(loss, Z, y) + 0.3 * mass
        put(moments, moments.network_moments(moments.data(X, y, 0.3), W, a))
        put(spectral, {"Z": Z, "R": mass})
        for block in (moments, spectral):
            assert max(violations(block).values()) <= 1e-12
            np.testing.assert_allclose(block.program().var_dict["Z"].value, Z, atol=1e-12)
        assert spectral.program().objective.value == pytest.approx(objective)
        # Neurons that are shared cost less here than in truth; those that feed one output each do not.
        assert moments.program().objective.value <= objective + 1e-12
        assert max(values) <= objective
    put(moments, {name: value.value + 0.5 for name, value in moments.program().var_dict.items()})
    assert max(violations(moments).values()) > 0.01
    put(spectral, {"Z": Z, "R": 0.0})
    assert max(violations(spectral).values()) > 0.01


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_one_output_is_what_it_was(loss: str) -> None:
    X, y = training_data(loss)
    if loss == "squared":
        one = PairedMoments.of(X, y, weight_decay=0.3, pairs=nearest_pairs(X))
        several = OutputMoments.of(X, y[:, None], weight_decay=0.3)
    else:
        # Two classes have the columns v and -v: a logistic loss whose weight decay is 2^(-1/2) of it.
        one = PairedMoments.of(X, y, loss=loss, weight_decay=0.3 / np.sqrt(2), pairs=nearest_pairs(X))
        several = OutputMoments.of(X, y.astype(int), loss="softmax_cross_entropy", weight_decay=0.3)
    assert optimum(several) == pytest.approx(optimum(one), abs=1e-4)


def test_targets_that_are_orthogonal_split_into_problems_of_their_own() -> None:
    # One feature, one sample on each side: outputs do not compete, and only the length of the masses couples them.
    X, y = np.array([[1.0], [-1.0]]), np.array([[3.0, 0.0], [0.0, 4.0]])
    r = cp.Variable(2)
    value = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(r - np.array([3.0, 4.0])) + cp.norm(r))).solve()
    assert optimum(OutputMoments.of(X, y, weight_decay=1.0)) == pytest.approx(value, abs=CLOSE)
    # The nuclear norm of diag(a, b) is a + b, and |X|_2 is the root of 2.
    price = 1 / np.sqrt(2)
    expected = sum(0.5 * price**2 + price * (t - price) for t in (3.0, 4.0))
    assert optimum(SpectralRegression.of(X, y, weight_decay=1.0)) == pytest.approx(expected, abs=CLOSE)


# ------------------------------------------------------------------------------------ any depth


def deep_network(X: np.ndarray, depth: int, phi: Any, biases: bool, rng: Any) -> tuple[np.ndarray, float]:
    """Predictions, and the product of the Frobenius norms of the matrices."""
    h, R = X, 1.0
    for layer, (inputs, outputs) in enumerate(pairwise([X.shape[1], *[5] * (depth - 1), 1])):
        W = rng.standard_normal((outputs, inputs))
        h = h @ W.T + biases * rng.standard_normal(outputs)
        h = phi(h) if layer < depth - 1 else h
        R *= np.linalg.norm(W)
    return h[:, 0], R


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("biases", [False, True])
def test_networks_of_any_depth_are_feasible_points(loss: str, biases: bool) -> None:
    X, y = training_data(loss)
    rng = np.random.default_rng(0)
    for edges in (None, nearest_edges(X, 2)):
        block = LipschitzRegression.of(X, y, loss=loss, price=0.1, biases=biases, edges=edges)
        value = optimum(block)
        for depth in (1, 2, 3, 5):
            for phi in (np.tanh, PHI["relu"], PHI["leaky_relu(0.2)"]):
                z, R = deep_network(X, depth, phi, biases, rng)
                put(block, {"z": z, "R": R})
                assert max(violations(block).values()) <= 1e-12
                assert block.program().objective.value == pytest.approx(training_loss(loss, z, y) + 0.1 * R)
                assert block.program().objective.value >= value - CLOSE
    # The constraint that biases break is absent there, and present without.
    put(block, {"z": np.full(7, 50.0), "R": 1.0})
    assert (max(violations(block).values()) <= 1e-12) is biases


def test_duplicates_of_opposite_label_cost_something_at_any_price() -> None:
    X = np.array([[1.0, 2.0], [1.0, 2.0], [-1.0, 0.5]])
    for price in (0.0, 1e-3):
        squared = LipschitzRegression.of(X, [1.0, -1.0, 3.0], price=price)
        logistic = LipschitzRegression.of(X, [1, 0, 1], loss="logistic", price=price + 1e-6, biases=True)
        assert optimum(squared) >= 1 - CLOSE
        assert optimum(logistic) >= 2 * np.log(2) - CLOSE


def test_lipschitz_regression_is_below_the_moments() -> None:
    # Two layers: pairs with c = 1 both ways, and the unit ball, imply every constraint of it but the spectral one.
    X, y = training_data("squared")
    edges = np.transpose(np.triu_indices(7, 1))
    ways = np.eye(7)[edges[:, 0]] - np.eye(7)[edges[:, 1]]
    paired = PairedMoments.of(X, y, weight_decay=0.3, pairs=np.vstack([ways, -ways]))
    optimum(paired)
    found = {name: variable.value for name, variable in paired.program().var_dict.items()}
    block = LipschitzRegression.of(X, y, price=0.3)
    put(block, {"z": found["z"], "R": found["R_plus"] + found["R_minus"]})
    assert max(value for label, value in violations(block).items() if label != "all predictions") <= CLOSE


# ------------------------------------------------------------------------------------ what is shown


def shown_models() -> Iterator[Any]:
    for loss in LOSSES:
        X, y = training_data(loss)
        yield from two_layer_models(loss, X, y, activation="leaky_relu(0.2)", weight_decay=0.3)
        yield from (LipschitzRegression.of(X, y, loss=loss, price=0.3, biases=biases) for biases in (True, False))
        yield SpectralRegression.of(X, y, loss=loss, weight_decay=0.3)
    for loss in SEVERAL:
        X, y = outputs_data(loss, 3)
        yield SpectralRegression.of(X, y, loss=loss, weight_decay=0.3)
        yield OutputMoments.of(X, y, loss=loss, weight_decay=0.3, activation="leaky_relu(0.2)")
        yield OutputMoments.of(X, y, loss=loss, weight_decay=0.3, rlt=True, pairs=np.zeros((0, 6)))


def test_models_are_disciplined_labelled_and_shown_without_numbers() -> None:
    for block in shown_models():
        problem = block.program()
        assert problem.is_dcp(dpp=True)
        labels = [item.label for item in problem.constraints]
        assert all(labels)
        assert len(set(labels)) == len(labels)
        data = block.json()
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert all(symbol["meaning"] for symbol in data["symbols"])
        assert {symbol["name"] for symbol in data["symbols"] if symbol["kind"] == "constant"} <= {"P", "E"}
        ElementTree.fromstring(convert(block.latex()))
        ElementTree.fromstring(block.html())
        # The docstring in full, with the numbers of its example.
        del data["mathematics"]
        for text in (block.show(), block.latex(), block.html(), json.dumps(data)):
            assert not re.search(r"\d\.\d{3}|array\(", text)


@pytest.mark.parametrize("name", ["two_layer.second_moments", "two_layer.paired_moments", "deep.lipschitz_regression"])
def test_settings_from_a_command_line(name: str) -> None:
    block = subproblem(name, {"samples": "6", "loss": "logistic"})
    assert block.data_shapes()["y"] == (6,)
    if name.startswith("two"):
        shown = subproblem(name, {"rlt": "true", "activation": "absolute_value"}).show()
        assert "pnorm(V_plus, 2, axis=1) <= w_plus" in shown
        assert "norms" not in shown
        assert "z == 2 * (s_plus - s_minus) - X @ (m_plus - m_minus)" in " ".join(shown.split())
    assert subproblem(name, {"samples": "1"}).program().is_dcp(dpp=True)


X, Y = np.ones((4, 3)), np.array([0.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SecondMoments(samples=0), "samples is 0; expected a whole number, 1 or more"),
        (lambda: SecondMoments(loss="hinge"), "unknown loss 'hinge'; known: squared"),
        (lambda: SecondMoments(loss="softmax_cross_entropy"), "has several outputs, and this program has one"),
        (lambda: SecondMoments(activation="tanh"), "'tanh' is not positively homogeneous"),
        (lambda: SecondMoments(activation="magic"), "unknown activation"),
        (lambda: SecondMoments.of(X, Y, weight_decay=-1.0), "weight_decay is -1.0; expected a finite number, zero"),
        (lambda: SecondMoments.of(X[0], Y, weight_decay=1.0), r"shape \(3,\) and type float64; expected numbers"),
        (lambda: SecondMoments.of(X, Y[:3], weight_decay=1.0), "y has 3 targets, but X has 4 rows"),
        (lambda: SecondMoments.of(X * np.nan, Y, weight_decay=1.0), "X holds NaN or infinite values"),
        (lambda: SecondMoments.of(X, 2 * Y - 1, loss="logistic", weight_decay=1.0), "labels run from -1 to 1"),
        (lambda: SecondMoments().data(X[:, :2], Y, 0.1), r"shape \(4, 2\); expected \(4, 3\)"),
        (lambda: PairedMoments(pairs=np.eye(3)), r"pairs has shape \(3, 3\) .*; expected numbers of shape \(pairs"),
        (lambda: PairedMoments(pairs="nearest"), "pairs has shape"),
        (lambda: PairedMoments(pairs=np.ones((2, 4))), "row 0 of pairs has 4 entries above zero; expected exactly one"),
        (lambda: PairedMoments(pairs=-np.eye(4)), "row 0 of pairs has 0 entries above zero"),
        (lambda: PairedMoments(pairs=np.eye(4) * np.nan), "pairs holds NaN"),
        (lambda: nearest_pairs(X, neighbours=0), "neighbours is 0"),
        (lambda: nearest_pairs(X, Y[:2]), r"y has shape \(2,\); expected \(4,\)"),
        (lambda: OutputMoments(loss="logistic"), "not one of several outputs"),
        (lambda: OutputMoments(outputs=0), "outputs is 0"),
        (lambda: OutputMoments.of(X, np.ones((3, 2)), weight_decay=1.0), "y has 3 targets, but X has 4 rows"),
        (lambda: OutputMoments().data(X, np.ones((4, 3)), 0.1), "the targets have 3 columns"),
        (lambda: SpectralRegression(loss="logistic", outputs=2), "one output, not 2"),
        (lambda: SpectralRegression().data(X[:3], Y[:3], 0.1), "expected 4 of each"),
        (lambda: SpectralRegression.of(X, Y, weight_decay=-1.0), "weight_decay is -1.0"),
        (lambda: LipschitzRegression(loss="softmax_cross_entropy"), "has several outputs"),
        (lambda: LipschitzRegression(edges=[[0, 1, 2]]), r"edges has shape \(1, 3\)"),
        (lambda: LipschitzRegression(edges=[[0, 1], [2, 4]]), r"row 1 of edges is \[2, 4\]"),
        (lambda: LipschitzRegression(edges=[[2, 2]]), "expected two different samples"),
        (lambda: LipschitzRegression().data(X[:3], Y[:3], 0.1), "X has 3 rows; expected 4"),
        (lambda: LipschitzRegression.of(X, Y, price=float("inf")), "price is inf"),
        (lambda: nearest_edges(X[0]), "expected numbers of shape"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
