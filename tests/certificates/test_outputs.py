"""Several outputs: what is proven is below every network, agrees with the models, and with one output where it must."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from torch import nn

from convexblocks.certificates import (
    Certificate,
    OutputsProblem,
    TwoLayerProblem,
    certify,
    checker,
    largest_outputs_weight_decay,
    largest_weight_decay,
    prepare,
    train_outputs,
)
from convexblocks.certificates.certificate import make_certificate
from convexblocks.certificates.checker import NotACertificate, check_text, data_digest, describe
from convexblocks.certificates.outputs_directions import Directions
from convexblocks.certificates.outputs_incumbent import network_outputs_incumbent, train_separate
from convexblocks.certificates.outputs_polish import Column, polish_outputs
from convexblocks.certificates.outputs_search import first_columns, outputs_evidence
from convexblocks.certificates.outputs_support import worst_output_neurons
from convexblocks.formulations import OutputMoments, UsageError
from convexblocks.formulations.sample_pairs import nearest_pairs

KINDS = [("squared", 3, "relu"), ("softmax", 4, "relu"), ("softmax", 4, "leaky_relu"), ("squared", 3, "absolute_value")]


def outputs_problem(
    loss: str, outputs: int, activation: str = "relu", *, samples: int = 15, share: float = 0.3
) -> OutputsProblem:
    rng = np.random.default_rng(outputs)
    X = np.hstack([rng.standard_normal((samples, 2)), np.ones((samples, 1))])
    Z = np.abs(X @ rng.standard_normal((3, outputs))) + 0.3 * rng.standard_normal((samples, outputs))
    y = Z - Z.mean(0) if loss == "squared" else np.argmax(Z - Z.mean(0), axis=1)
    problem = OutputsProblem(X, y, loss, outputs, 1.0, activation, 0.2, "column")
    return replace(problem, weight_decay=share * largest_outputs_weight_decay(problem))


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def certified(request: Any) -> tuple[OutputsProblem, Certificate]:
    problem = outputs_problem(*request.param)
    return problem, certify(problem, seconds=3)


def test_no_network_is_below_the_bound(certified: tuple[OutputsProblem, Certificate]) -> None:
    problem, made = certified
    assert made.bound.proven
    assert made.incumbent is not None
    assert 0 < made.lower_bound <= made.incumbent
    rng, best = np.random.default_rng(0), np.inf
    network = json.loads(made.text)["network"]
    weights, outputs = (
        np.vectorize(float.fromhex)(np.array(network[name])) for name in ("weights", "outputs")
    )
    assert problem.objective(weights, outputs) == pytest.approx(made.incumbent, rel=1e-12)
    for _ in range(1500):
        width, scale = int(rng.integers(1, 9)), 10.0 ** rng.uniform(-2, 0.3)
        W, A = scale * rng.standard_normal((width, 3)), scale * rng.standard_normal((width, problem.outputs))
        best = min(best, problem.objective(W, A))
        noise = 10.0 ** rng.uniform(-4, 0)
        near = problem.objective(
            weights * (1 + noise * rng.standard_normal(weights.shape)),
            outputs * (1 + noise * rng.standard_normal(outputs.shape)),
        )
        assert made.lower_bound <= min(best, near)


def test_the_bound_is_what_separate_networks_reach(certified: tuple[OutputsProblem, Certificate]) -> None:
    problem, made = certified
    _, separate = train_separate(problem, seconds=2)
    assert made.lower_bound <= separate * (1 + 1e-9)
    assert made.lower_bound >= 0.8 * separate
    assert separate <= (made.incumbent or 0) * (1 + 1e-6)


def test_the_whole_statement_is_said(certified: tuple[OutputsProblem, Certificate]) -> None:
    problem, made = certified
    said = describe(made.bound)
    loss = "|f(x_i) - y_i|^2 / 2" if problem.loss == "squared" else "(log sum_k exp f(x_i)_k - f(x_i)_{y_i})"
    for words in (loss, f"a_m in R^{problem.outputs},", "|a_j|^2)", f"{problem.outputs} outputs", "bounded one by one",
                  data_digest(problem.X, problem.y)):  # fmt: skip
        assert words in said
    assert max(len(line) for line in said.splitlines()) <= 140


@pytest.mark.parametrize("seed", range(8))
def test_tampered_evidence_proves_nothing_false(certified: tuple[OutputsProblem, Certificate], seed: int) -> None:
    problem, made = certified
    rng, content = np.random.default_rng(seed), json.loads(made.text)
    evidence = content["evidence"]
    numbers = "v" if problem.loss == "squared" else "probabilities"
    side = evidence["columns"][int(rng.integers(problem.outputs))][str(rng.choice(["plus", "minus"]))]
    owners = [(row, k) for row in evidence[numbers] for k in range(len(row))]
    owners += [(side[key], k) for key in ("quadratic", "linear") for k in range(len(problem.y))] + [(side, "rho")]
    for place in rng.choice(len(owners), 1 + 5 * (seed % 2), replace=False):
        owner, key = owners[place]
        value = float.fromhex(owner[key])
        owner[key] = float(rng.choice([2 * value, -value, 0.0, value + 0.1, 1e300, -1e300, value / 2])).hex()
    content["statement"]["lower_bound"] = (0.0).hex()
    bound = check_text(json.dumps(content))
    assert 0 <= bound.lower_bound <= (made.incumbent or 0)


REJECTED = {
    "a probability below 0": ("probabilities", [(-0.1).hex(), (0.2).hex()], "no number below 0"),
    "probabilities above 1": ("probabilities", [(0.6).hex(), (0.5).hex()], "sum to 1 or less"),
    "a small rho": ("rho", (-1e3).hex(), "evidence.columns[1]: evidence.plus: rho I - A"),
    "no class number": ("y", (0.5).hex(), "class numbers 0 to 2"),
    "a class too large": ("y", (3.0).hex(), "class numbers 0 to 2"),
    "a claim too large": ("lower_bound", (1e6).hex(), "claims 1000000.0"),
    "a network too bad": ("outputs", [(9.0).hex()] * 3, "above the incumbent"),
}


@pytest.fixture(scope="module")
def softmax() -> Certificate:
    """By columns, which three classes may have too."""
    problem = outputs_problem("softmax", 3)
    evidence = outputs_evidence(problem, Directions(np.eye(3), None), *first_columns(problem, 1, 1))
    return make_certificate(problem, evidence, train_outputs(problem, seconds=1), 0.0)


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_rejected(softmax: Certificate, name: str) -> None:
    content = json.loads(softmax.text)
    key, value, message = REJECTED[name]
    if key == "probabilities":
        content["evidence"][key][4] = value
    elif key == "rho":
        content["evidence"]["columns"][1]["plus"][key] = value
    elif key == "outputs":
        content["network"][key][0] = value
    elif key == "lower_bound":
        content["statement"][key] = value
    else:
        content["data"]["y"][2] = value
        X, y = ([[float.fromhex(x) for x in row] for row in content["data"]["X"]], content["data"]["y"])
        content["statement"]["data_sha256"] = data_digest(X, map(float.fromhex, y))
    bound = check_text(json.dumps(content))
    assert not bound.proven
    assert message in bound.reason


MALFORMED = {
    "a column less": lambda content: content["evidence"]["columns"].pop(),
    "a probability more": lambda content: content["evidence"]["probabilities"][0].append((0.0).hex()),
    "v of the squared loss": lambda content: content["evidence"].update(v=content["evidence"]["probabilities"]),
    "the logistic loss": lambda content: content["statement"].update(loss="logistic"),
    "no outputs": lambda content: content["statement"].pop("outputs"),
    "outputs is text": lambda content: content["statement"].update(outputs="3"),
    "outputs is true": lambda content: content["statement"].update(outputs=True),
    "outputs is huge": lambda content: content["statement"].update(outputs=10**400),
    "one output": lambda content: content["statement"].update(network="two_layer"),
    "y has rows": lambda content: content["data"].update(y=[[label] for label in content["data"]["y"]]),
    "an output weight less": lambda content: content["network"]["outputs"][0].pop(),
    "output weights are numbers": lambda content: content["network"]["outputs"].__setitem__(0, (1.0).hex()),
    "a sign less": lambda content: content["evidence"]["columns"][2].pop("minus"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_certificate(softmax: Certificate, name: str) -> None:
    content = json.loads(softmax.text)
    MALFORMED[name](content)
    with pytest.raises(NotACertificate):
        check_text(json.dumps(content))


def test_the_data_are_compared(softmax: Certificate, certified: tuple[OutputsProblem, Certificate]) -> None:
    for problem, made in (certified, (outputs_problem("softmax", 3), softmax)):
        X, y = problem.X.tolist(), problem.y.tolist()
        assert check_text(made.text, (X, y)).proven
        assert check_text(made.text, (problem.X, problem.y)).proven
        if problem.loss == "squared":
            y[3][1] += 1e-9
            assert "y[3][1] is " in check_text(made.text, (X, y)).reason
            assert "rows of" in check_text(made.text, (X, [row[:-1] for row in y])).reason
            with pytest.raises(ValueError, match="rows of numbers"):
                check_text(made.text, (X, [row[0] for row in y]))
        else:
            y[3] = (y[3] + 1) % 3
            assert "y[3] is " in check_text(made.text, (X, y)).reason


def test_two_classes_are_a_logistic_loss_with_the_weight_decay_over_the_root_of_two() -> None:
    # z_1 - z_0 = b'phi with |a|^2 = b^2 / 2 where a = (-b, b) / 2: the penalty of a neuron is |b| |w| / 2^(1/2).
    rng = np.random.default_rng(1)
    X = np.hstack([rng.standard_normal((20, 2)), np.ones((20, 1))])
    y = (np.abs(X[:, 0]) + 0.2 * rng.standard_normal(20) > 0.7).astype(float)
    several = OutputsProblem(X, y, "softmax", 2, 1.0, bias="column")
    one = TwoLayerProblem(X, 2 * y - 1, "logistic", 1.0, bias="column")
    most = largest_weight_decay(one)
    assert largest_outputs_weight_decay(several) == pytest.approx(np.sqrt(2) * most, rel=1e-6)
    several = replace(several, weight_decay=0.3 * np.sqrt(2) * most)
    one = replace(one, weight_decay=0.3 * most)
    ours, theirs = certify(several, seconds=6), certify(one, seconds=4)
    assert ours.incumbent == pytest.approx(theirs.incumbent, rel=1e-4)
    # Nothing is lost: the searches differ, and end before they have converged.
    assert ours.lower_bound == pytest.approx(theirs.lower_bound, rel=2e-2)


def test_one_output_is_what_it_was() -> None:
    problem = outputs_problem("squared", 1, samples=12)
    columns, start = first_columns(problem, 1, 1)
    evidence = outputs_evidence(problem, Directions(np.eye(1), None), columns, start)
    text = certificate_text(problem, evidence)
    content = json.loads(text)
    one = problem.column(problem.y[:, 0], problem.weight_decay)
    content["statement"]["network"] = "two_layer"
    del content["statement"]["outputs"]
    flat = [row[0] for row in problem.y.tolist()]
    content["data"]["y"] = [value.hex() for value in flat]
    sides = evidence["columns"][0]
    content["evidence"] = {"kind": "paired_moments", "v": [row[0] for row in evidence["v"]], **sides}
    assert data_digest(one.X, flat) == content["statement"]["data_sha256"]
    bounds = check_text(text), check_text(json.dumps(content))
    assert all(bound.proven for bound in bounds)
    assert 0 < bounds[0].lower_bound == pytest.approx(bounds[1].lower_bound, rel=1e-15)


def certificate_text(problem: OutputsProblem, evidence: dict[str, Any]) -> str:
    return make_certificate(problem, evidence, None, 0.0).text


@pytest.mark.parametrize(("loss", "name"), [("squared", "squared"), ("softmax", "softmax_cross_entropy")])
def test_the_search_reaches_the_optimum_of_the_model(loss: str, name: str) -> None:
    problem = outputs_problem(loss, 3, samples=10)
    pairs = nearest_pairs(problem.X)
    y = problem.y if loss == "squared" else problem.y.astype(int)
    model = OutputMoments.of(problem.X, y, loss=name, weight_decay=problem.weight_decay, pairs=pairs)
    optimum = float(model.program().solve(solver=cp.CLARABEL))
    columns, start = first_columns(problem, 1, 1)
    columns = [Column.of(column.problem, pairs) for column in columns]
    none = np.zeros((2, len(pairs)))
    start = [replace(part, pairs=none, pair_width=none + 1) for part in start]
    # It ends when it gains nothing more: the time is a limit for slow machines.
    _, reached = polish_outputs(problem, Directions(np.eye(3), None), columns, start, 120)
    assert reached <= optimum * (1 + 1e-4)
    assert reached == pytest.approx(optimum, rel=5e-3)


@pytest.mark.parametrize("loss", ["squared", "softmax"])
def test_gradients_duals_and_scales(loss: str) -> None:
    problem, rng = outputs_problem(loss, 3), np.random.default_rng(0)
    Z, other, step = rng.standard_normal((15, 3)), rng.standard_normal((15, 3)), 1e-6
    V = problem.negative_gradient(Z)
    assert problem.dual(V) == pytest.approx(problem.loss_value(Z) + float(np.sum(V * Z)))
    assert problem.dual(V) <= problem.loss_value(other) + float(np.sum(V * other))
    difference = problem.loss_value(Z + step * other) - problem.loss_value(Z - step * other)
    assert difference / (2 * step) == pytest.approx(-float(np.sum(V * other)), rel=1e-6)
    best = problem.best_scale(V, 0.8)
    assert all(problem.dual(t * V) <= problem.dual(best * V) + 1e-12 for t in np.linspace(0, 0.8, 30))
    if loss == "softmax":
        assert problem.dual(-V) == problem.dual(V[:, ::-1]) == -np.inf


def test_neurons_have_the_values_they_claim() -> None:
    problem = outputs_problem("softmax", 3)
    V = problem.negative_gradient(np.zeros((15, 3)))
    found = worst_output_neurons(problem, V)
    reached = problem.phi(found.directions @ problem.X.T) @ V
    np.testing.assert_allclose(np.linalg.norm(reached, axis=1), found.values)
    np.testing.assert_allclose((reached * found.outputs).sum(1), found.values)
    rng = np.random.default_rng(0)
    U = rng.standard_normal((20_000, 3))
    values = np.linalg.norm(problem.phi(U @ problem.X.T) @ V, axis=1) / np.linalg.norm(U, axis=1)
    assert values.max() <= found.values[0] * (1 + 1e-9)
    assert values.max() >= 0.98 * found.values[0]


def test_above_the_largest_weight_decay_zero_is_best() -> None:
    problem = outputs_problem("softmax", 3, share=1.001)
    assert train_outputs(problem, seconds=1).objective == pytest.approx(15 * np.log(3), rel=1e-6)


@pytest.mark.parametrize(("loss", "outputs"), [("squared", 2), ("softmax", 3)])
def test_objectives_are_rounded_up(loss: str, outputs: int) -> None:
    problem, rng = outputs_problem(loss, outputs, "leaky_relu"), np.random.default_rng(2)
    statement = {"activation": "leaky_relu", "slope": 0.2, "loss": loss, "weight_decay": 0.5, "outputs": outputs}
    problem = replace(problem, weight_decay=0.5)
    for size in (0.0, 1e-3, 1.0, 30.0):
        W, A = size * rng.standard_normal((4, 3)), size * rng.standard_normal((4, outputs))
        ours = checker.objective(statement, problem.X.tolist(), problem.y.tolist(), W.tolist(), A.tolist())
        assert ours == pytest.approx(problem.objective(W, A), rel=1e-12)
        assert ours >= problem.objective(W, A) * (1 - 1e-15)
    assert checker.objective(statement, problem.X.tolist(), problem.y.tolist(), [], []) == pytest.approx(
        problem.loss_value(np.zeros((15, outputs))), rel=1e-15
    )


def test_roots_are_rounded_up() -> None:
    for value in (Fraction(0), Fraction(2), Fraction(1, 3), Fraction(10**400), Fraction(1, 10**400)):
        root = checker._root_above(value)
        assert value <= root**2 <= value * (1 + Fraction(1, 2**100)) + Fraction(1, 2**200)


@pytest.mark.parametrize("bias", [False, True])
def test_a_torch_network_is_an_incumbent(bias: bool) -> None:
    problem = outputs_problem("softmax", 3)
    network = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3, bias=bias)).double()
    found = network_outputs_incumbent(problem, network)
    import torch

    with torch.no_grad():
        expected = network(torch.as_tensor(problem.X[:, :2])).numpy()
    np.testing.assert_allclose(problem.predictions(found.weights, found.outputs), expected, atol=1e-12)
    with pytest.raises(UsageError, match="3 outputs"):
        network_outputs_incumbent(problem, nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)))
    with pytest.raises(UsageError, match="bias"):
        network_outputs_incumbent(replace(problem, bias="none"), network)


def test_prepared_targets() -> None:
    X = np.random.default_rng(0).standard_normal((9, 2))
    _, y, words = prepare(X, np.array([7, 3, 5] * 3), "softmax")
    assert y.tolist() == [2, 0, 1] * 3
    assert "classes 3 to 7 numbered from 0" in words
    _, y, _ = prepare(X, np.column_stack([np.arange(9), np.arange(9) ** 2]), "squared")
    np.testing.assert_allclose([y.mean(0), y.std(0)], [[0, 0], [1, 1]], atol=1e-12)
    with pytest.raises(UsageError, match="two classes or more"):
        prepare(X, np.ones(9), "softmax")
    with pytest.raises(UsageError, match=r"expected \(samples, features\)"):
        prepare(X, np.ones((9, 2)), "softmax")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "logistic"}, "known: squared, softmax"),
        ({"outputs": 0}, "outputs is 0"),
        ({"outputs": 2}, "class numbers 0 to 1"),
        ({"y": np.full(15, 0.5)}, "class numbers 0 to 2"),
        ({"y": np.zeros((15, 3))}, "y has shape"),
        ({"X": np.full((15, 3), np.nan)}, "NaN or infinite"),
        ({"loss": "squared", "y": np.full((15, 3), np.inf)}, "NaN or infinite"),
        ({"weight_decay": 0.0}, "expected a number above 0"),
        ({"activation": "tanh"}, "no bound is known for the activation 'tanh'"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(outputs_problem("softmax", 3), **change)


def test_a_bare_interpreter_is_enough(softmax: Certificate, tmp_path: Path) -> None:
    copied, path = tmp_path / "checker.py", softmax.write(tmp_path / "certificate.json")
    shutil.copy(checker.__file__, copied)
    problem = outputs_problem("softmax", 3)
    np.savez(tmp_path / "data.npz", X=problem.X, y=problem.y.astype(int))
    for arguments in ((), ("--data", str(tmp_path / "data.npz"))):
        run = subprocess.run([sys.executable, "-I", "-S", str(copied), str(path), *arguments], capture_output=True,
                             text=True, check=False)  # fmt: skip
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith("PROVEN in exact arithmetic\n")
