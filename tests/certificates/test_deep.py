"""The Lipschitz bound at any depth: against networks, by hand, tampered with, and against the convex model."""

from __future__ import annotations

import copy
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convexblocks.certificates import (
    Certificate,
    DeepProblem,
    NotACertificate,
    TwoLayerProblem,
    certify_deep,
    checker,
    train_deep,
)
from convexblocks.certificates.checker import check_text, data_digest, deep_objective, describe, objective
from convexblocks.certificates.deep_incumbent import make_deep_incumbent, network_deep_incumbent
from convexblocks.certificates.lipschitz_search import (
    Cut,
    best_cut,
    find_cuts,
    least_over_norms,
    on_envelope,
    plain_flow,
)
from convexblocks.formulations import UsageError
from convexblocks.formulations.lipschitz_regression import LipschitzRegression

Content = dict[str, Any]
LOSSES, BIASES = ("squared", "logistic"), ("none", "column", "free")
ACTIVATIONS = checker.DEEP_ACTIVATIONS
SMALL = settings(deadline=None, derandomize=True, max_examples=60)


def deep_problem(
    loss: str = "logistic", bias: str = "none", *, depth: int = 3, activation: str = "relu", samples: int = 14,
    decay: float = 0.05, seed: int = 0,
) -> DeepProblem:  # fmt: skip
    """Targets of which some are noise on samples that stand twice: the bound is far above zero."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.standard_normal((samples, 2)), np.ones(samples)])
    X[-5:] = X[:5]
    y = np.sin(2 * X[:, 0]) + 0.5 * rng.standard_normal(samples)
    y[-5:-2] = -y[:3]
    if loss == "logistic":
        y = np.where(y > 0, 1.0, -1.0)
    return DeepProblem(X, y, loss, decay, depth, activation, 0.25, bias)


@cache
def made(loss: str = "logistic", bias: str = "none", depth: int = 3, activation: str = "relu") -> Certificate:
    problem = deep_problem(loss, bias, depth=depth, activation=activation)
    return certify_deep(problem, train_deep(problem, seconds=0.4, width=6), seconds=5.0)


def content_of(*which: Any) -> Content:
    found: Content = json.loads(made(*which).text)
    return found


def checked(content: Content) -> checker.Bound:
    return check_text(json.dumps(content))


def numbers_of(content: Content) -> tuple[list[list[float]], list[float]]:
    data = content["data"]
    return [[float.fromhex(entry) for entry in row] for row in data["X"]], [float.fromhex(entry) for entry in data["y"]]


def random_layers(
    problem: DeepProblem, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    widths = [problem.X.shape[1], *rng.integers(1, 6, problem.depth - 1).tolist(), 1]
    size = 10.0 ** rng.uniform(-1, 0.4)
    weights = [size * rng.standard_normal((b, a)) for a, b in pairwise(widths)]
    biases = [size * rng.standard_normal(b) for b in widths[1:]] if problem.bias == "free" else None
    return weights, biases


# ------------------------------------------------------------------------------------ what is proven


@pytest.mark.parametrize(("loss", "bias", "depth"), list(product(LOSSES, BIASES, (2, 3, 5))))
def test_no_network_is_below_the_bound(loss: str, bias: str, depth: int) -> None:
    problem, certificate = deep_problem(loss, bias, depth=depth), made(loss, bias, depth)
    assert certificate.bound.proven
    assert certificate.incumbent is not None
    # The duplicates alone keep the loss up: the evidence is not a useless one.
    assert 0.3 * certificate.incumbent < certificate.lower_bound <= certificate.incumbent
    rng = np.random.default_rng(depth)
    for _ in range(400):
        assert problem.objective(*random_layers(problem, rng)) >= certificate.lower_bound * (1 - 1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_activation_is_covered(loss: str, activation: str) -> None:
    problem, certificate = deep_problem(loss, activation=activation), made(loss, "none", 3, activation)
    assert certificate.bound.proven
    rng = np.random.default_rng(7)
    for _ in range(300):
        assert problem.objective(*random_layers(problem, rng)) >= certificate.lower_bound * (1 - 1e-12)
    word = "word of its writer" if activation == "tanh" else "computed again in exact arithmetic"
    assert word in certificate.bound.notes[-1]
    # The activation is not used but for its constant: the bound is the same.
    assert certificate.lower_bound == pytest.approx(made(loss).lower_bound, rel=1e-9)


@pytest.mark.parametrize(("loss", "bias"), list(product(LOSSES, BIASES)))
def test_every_cut_holds_for_every_network(loss: str, bias: str) -> None:
    problem = deep_problem(loss, bias)
    read = checker._read(made(loss, bias).text)
    assert read.lipschitz is not None
    lines = [(float(D), float(h)) for D, h in checker._cut_lines(read, read.lipschitz)]
    assert len(lines) > 2
    rng, closest = np.random.default_rng(3), math.inf
    for _ in range(1_000):
        weights, biases = random_layers(problem, rng)
        R = math.prod(float(np.linalg.norm(matrix)) for matrix in weights)
        value = problem.loss_value(problem.predictions(weights, biases))
        for D, h in lines:
            assert value >= (D - R * h) * (1 - 1e-12) - 1e-12
            closest = min(closest, value / max(D - R * h, 1e-9))
    assert closest < 2


def by_hand(depth: int, decay: float, value: float, bias: str = "none") -> Content:
    """Two samples in one place with targets 1 and -1, and one cut between them."""
    X, y = [[2.0], [2.0]], [1.0, -1.0]
    statement = {
        "network": "deep", "depth": depth, "activation": "relu", "loss": "squared", "weight_decay": decay.hex(),
        "bias": bias, "samples": 2, "features": 1, "data_sha256": data_digest(X, y), "lower_bound": (0.0).hex(),
        "incumbent": None, "preparation": "by hand",
    }  # fmt: skip
    cut = {"edges": [[0, 1, value.hex()]], "each": None, "all": None}
    return {
        "format": checker.FORMAT, "statement": statement,
        "data": {"X": [[x.hex() for x in row] for row in X], "y": [x.hex() for x in y]},
        "evidence": {"kind": "lipschitz", "spectral_norm": None, "cuts": [cut]}, "network": None,
    }  # fmt: skip


@pytest.mark.parametrize("depth", [2, 3, 7, checker.MOST_LAYERS])
@pytest.mark.parametrize("bias", ["none", "column", "free"])
def test_duplicates_cost_what_they_cost(depth: int, bias: str) -> None:
    # No function has less than 1/2 + 1/2 there, and the zero network has that.
    bound = checked(by_hand(depth, 0.5, 1.0, bias))
    assert bound.proven, bound.reason
    assert bound.lower_bound == 1.0
    # D(v) = 2 v - v^2 for v (1, -1).
    assert checked(by_hand(depth, 0.5, 0.5, bias)).lower_bound == 0.75
    assert checked(by_hand(depth, 0.5, 3.0, bias)).lower_bound == 0.0


@pytest.mark.parametrize(("depth", "power"), [(2, 1.0), (3, 2 / 3), (4, 0.5), (6, 1 / 3)])
@pytest.mark.parametrize("part", ["each", "all"])
def test_one_sample_is_known(depth: int, power: float, part: str) -> None:
    # One sample x = 2, y = 3, one cut v: 3 v - v^2 / 2 - 2 v R where that is above 0, plus decay L/2 R^(2/L).
    content = by_hand(depth, 0.5, 0.0)
    content["statement"] |= {"samples": 1, "data_sha256": data_digest([[2.0]], [3.0])}
    content["data"] = {"X": [[(2.0).hex()]], "y": [(3.0).hex()]}
    content["evidence"]["spectral_norm"] = (2.0 + 2.0**-30).hex()
    content["evidence"]["cuts"] = [{"edges": [], "each": None, "all": None, part: [(2.0).hex()]}]
    # D = 4, h = 4, the breakpoint is R = 1, and there the penalty is L/4; at R = 0 the value is 4.
    bound = checked(content)
    assert bound.lower_bound == pytest.approx(min(4.0, depth / 4 * 1.0**power), rel=1e-8)
    assert bound.lower_bound <= min(4.0, depth / 4)


@SMALL
@given(
    lines=st.lists(st.tuples(st.integers(-20, 40), st.integers(0, 30)), max_size=8), depth=st.integers(2, 9),
    decay=st.integers(1, 30),
)  # fmt: skip
def test_the_outer_step_against_a_fine_grid(lines: list[tuple[int, int]], depth: int, decay: int) -> None:
    found, R = outer(lines, depth, decay / 8)
    grid = np.concatenate([[0.0], np.geomspace(1e-6, 1e4, 4_000)])
    heights = np.max([0 * grid, *(D - h * grid for D, h in lines)], axis=0) + decay / 16 * depth * grid ** (2 / depth)
    assert float(found) <= heights.min() * (1 + 1e-12)
    at = max([0.0, *(D - h * float(R) for D, h in lines)]) + decay / 16 * depth * float(R) ** (2 / depth)
    assert at == pytest.approx(float(found), rel=1e-9, abs=1e-9)
    problem = deep_problem(depth=depth, decay=decay / 8)
    empty = np.zeros(0)
    cuts = [Cut(np.zeros((0, 2), dtype=int), empty, empty, empty, float(D), float(h)) for D, h in lines]
    assert least_over_norms(problem, cuts)[0] == pytest.approx(float(found), rel=1e-9, abs=1e-9)
    if cuts:
        # What is not on the envelope does not matter.
        kept = on_envelope(cuts)
        assert least_over_norms(problem, kept)[0] == pytest.approx(float(found), rel=1e-9, abs=1e-9)


def outer(lines: list[tuple[int, int]], depth: int, decay: float) -> tuple[Fraction, Fraction]:
    read = checker._read(json.dumps(by_hand(depth, decay, 1.0)))
    assert read.lipschitz is not None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checker, "_cut_lines", lambda *_: [(Fraction(D), Fraction(h)) for D, h in lines])
        return checker._least_over_norms(read, read.lipschitz)


@SMALL
@given(x=st.fractions(min_value=0, max_value=10**12), degree=st.integers(1, checker.MOST_LAYERS))
def test_roots_are_rounded_down(x: Fraction, degree: int) -> None:
    root = checker._root_below(x, degree)
    assert root**degree <= x
    assert x == 0 or (root * (1 + Fraction(1, 2**110))) ** degree > x


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 1), (1, 4)])
def test_spectral_norms_are_proved(shape: tuple[int, int]) -> None:
    X = np.random.default_rng(0).standard_normal(shape)
    rows, bits = checker._integer_rows(X.tolist())
    norm = float(np.linalg.norm(X, 2))
    assert checker._spectral_norm(rows, bits, Fraction(norm * (1 + 1e-12))) == Fraction(norm * (1 + 1e-12))
    for wrong in (norm * (1 - 1e-12), 0.0, -2 * norm):
        with pytest.raises(checker._Rejected, match="spectral_norm is not proved"):
            checker._spectral_norm(rows, bits, Fraction(wrong))


# ------------------------------------------------------------------------------------ the search


@pytest.mark.parametrize(("loss", "bias"), list(product(LOSSES, ("none", "free"))))
def test_cuts_touch_the_readable_model(loss: str, bias: str) -> None:
    problem = deep_problem(loss, bias)
    y = problem.y if loss == "squared" else (problem.y > 0).astype(int)
    block = LipschitzRegression.of(problem.X, y, price=0.0, loss=loss, biases=bias == "free")
    for R in (0.05, 0.5, 2.0):
        program = block.program()
        held = next(variable for variable in program.variables() if variable.name() == "R")
        value = cp.Problem(program.objective, [*program.constraints, held == R]).solve(solver=cp.CLARABEL)
        cut = best_cut(problem, block.edges, R)
        assert cut is not None
        assert cut.value - R * cut.slope == pytest.approx(value, rel=1e-5)


def test_edges_that_were_left_out_are_found() -> None:
    problem = deep_problem(samples=40)
    y = (problem.y > 0).astype(int)
    block = LipschitzRegression.of(problem.X, y, price=0.0, loss="logistic")
    least, R = least_over_norms(problem, find_cuts(problem, 20.0))
    program = block.program()
    held = next(variable for variable in program.variables() if variable.name() == "R")
    value = cp.Problem(program.objective, [*program.constraints, held == R]).solve(solver=cp.CLARABEL)
    # All pairs are in this model.
    assert least == pytest.approx(value + problem.penalty(R), rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_two_layers_are_the_priced_model(loss: str) -> None:
    problem = deep_problem(loss, depth=2, decay=0.7)
    y = problem.y if loss == "squared" else (problem.y > 0).astype(int)
    value = LipschitzRegression.of(problem.X, y, price=0.7, loss=loss).program().solve(solver=cp.CLARABEL)
    certificate = certify_deep(problem, train_deep(problem, seconds=0.5, width=4), seconds=5.0)
    assert certificate.lower_bound == pytest.approx(value, rel=1e-4)
    assert "a linear program" in str(certificate)
    assert certificate.lower_bound <= value * (1 + 1e-6)


def test_plain_flows_are_even() -> None:
    problem = deep_problem(samples=23)
    p = problem.y * plain_flow(problem).v
    for label in (1, -1):
        assert np.ptp(p[problem.y == label]) < 1e-12
    assert 0.4 < p.max() <= 0.5 + 1e-12
    assert p.min() > 0


@pytest.mark.parametrize("bias", BIASES)
def test_a_single_label_can_be_fitted(bias: str) -> None:
    problem = DeepProblem(np.array([[1.0], [2.0], [3.0]]), np.ones(3), "logistic", 0.1, 3, bias="none")
    problem = DeepProblem(np.hstack([problem.X, np.ones((3, 1))]), problem.y, "logistic", 0.1, 3, bias=bias)
    certificate = certify_deep(problem, train_deep(problem, seconds=0.3, width=2), seconds=2.0)
    assert certificate.bound.proven
    assert (certificate.lower_bound == 0) == (bias == "free")


def test_strong_decay_has_the_zero_network_for_its_optimum() -> None:
    problem = deep_problem("squared", decay=1e4)
    certificate = certify_deep(problem, train_deep(problem, seconds=0.5, width=2), seconds=3.0)
    assert certificate.incumbent == pytest.approx(float(problem.y @ problem.y) / 2, rel=1e-9)
    assert certificate.gap_percent < 0.2


# ------------------------------------------------------------------------------------ incumbents


@pytest.mark.parametrize(("loss", "bias"), list(product(LOSSES, ("none", "free"))))
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "absolute_value"])
def test_objectives_are_rounded_up(loss: str, bias: str, activation: str) -> None:
    problem = deep_problem(loss, bias, activation=activation, depth=4)
    statement = {"activation": activation, "slope": 0.25, "loss": loss, "weight_decay": problem.weight_decay}
    rng = np.random.default_rng(0)
    for _ in range(5):
        weights, biases = random_layers(problem, rng)
        plain = None if biases is None else [bias.tolist() for bias in biases]
        layers = [matrix.tolist() for matrix in weights]
        ours = deep_objective(statement, problem.X.tolist(), problem.y.tolist(), layers, plain)
        assert ours == pytest.approx(problem.objective(weights, biases), rel=1e-10)
        # A network with the same function and balanced norms is not worse.
        assert make_deep_incumbent(problem, weights, biases).objective <= ours * (1 + 1e-10)


def test_two_layers_have_the_objective_of_two_layers() -> None:
    problem, rng = deep_problem(depth=2), np.random.default_rng(1)
    weights, outputs = rng.standard_normal((4, 3)), rng.standard_normal(4)
    statement = {"activation": "relu", "loss": "logistic", "weight_decay": problem.weight_decay}
    X, y = problem.X.tolist(), problem.y.tolist()
    ours = deep_objective(statement, X, y, [weights.tolist(), [outputs.tolist()]])
    assert ours == objective(statement, X, y, weights.tolist(), outputs.tolist())
    twin = TwoLayerProblem(problem.X, problem.y, "logistic", problem.weight_decay)
    assert problem.objective([weights, outputs[None]]) == pytest.approx(twin.objective(weights, outputs))


@pytest.mark.parametrize("bias", BIASES)
def test_a_torch_network_is_an_incumbent(bias: str) -> None:
    problem = deep_problem("squared", bias)
    inputs = 2 if bias == "column" else 3
    places = {"none": (False, False, False), "column": (True, False, False), "free": (True, True, True)}[bias]
    network = nn.Sequential(
        nn.Linear(inputs, 5, bias=places[0]), nn.ReLU(), nn.Linear(5, 4, bias=places[1]), nn.ReLU(),
        nn.Linear(4, 1, bias=places[2]),
    ).double()  # fmt: skip
    found = network_deep_incumbent(problem, network)
    import torch

    outputs = network(torch.tensor(problem.X[:, :inputs]))[:, 0].detach().numpy()
    assert problem.predictions(found.weights, found.biases) == pytest.approx(outputs)
    for wrong in (nn.Sequential(nn.Linear(3, 1)), nn.Sequential(*list(network)[:3], nn.Tanh(), network[4])):
        with pytest.raises(UsageError, match="this bound is for 3 Linear layers"):
            network_deep_incumbent(problem, wrong)


def test_biases_must_be_those_of_the_problem() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with pytest.raises(UsageError, match="expected bias='free'"):
        network_deep_incumbent(deep_problem(), network)


@pytest.mark.parametrize(("change", "message"), [
    ({"depth": 1}, "expected a number of weight matrices"), ({"depth": True}, "expected a number of weight matrices"),
    ({"activation": "sigmoid"}, "no bound is known for the activation 'sigmoid' at any depth"),
    ({"bias": "output"}, "expected 'none', 'column', 'free'"), ({"slope": 1.0}, "from 0 to below 1"),
    ({"weight_decay": 0.0}, "expected a number above 0"), ({"loss": "hinge"}, "no bound is known for the loss"),
    ({"bias": "column", "X": np.eye(14)}, "append one"),
])  # fmt: skip
def test_what_no_bound_is_known_for(change: dict[str, Any], message: str) -> None:
    problem = deep_problem()
    with pytest.raises(UsageError, match=message):
        DeepProblem(**{"X": problem.X, "y": problem.y, "loss": "logistic", "weight_decay": 1.0, **change})


# ------------------------------------------------------------------------------------ tampering


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all real numbers."""
    if isinstance(value, str) and path != ("kind",):
        yield path
    elif isinstance(value, list | dict):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(entry, (*path, key))


def put(content: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


CHANGES: dict[str, Callable[[float], float]] = {
    "negated": lambda x: -x, "doubled": lambda x: 2 * x, "zero": lambda _: 0.0, "more": lambda x: x + 0.1,
    "huge": lambda _: 1e300, "tiny": lambda _: 1e-300, "a little more": lambda x: x * (1 + 1e-9),
    "less": lambda x: x - 0.1, "a little less": lambda x: x * (1 - 1e-7),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("loss", "bias"), list(product(LOSSES, ("none", "free"))))
def test_corrupted_evidence_proves_nothing_false(loss: str, bias: str, change: str) -> None:
    original, rng = content_of(loss, bias), np.random.default_rng(len(change))
    best = checked(original).incumbent
    assert best is not None
    paths = list(places(original["evidence"]))
    for place in rng.choice(len(paths), 12, replace=False):
        content = copy.deepcopy(original)
        value = content["evidence"]
        for key in paths[place]:
            value = value[key]
        put(content["evidence"], paths[place], CHANGES[change](float.fromhex(value)).hex())
        bound = checked(content)
        assert 0 <= bound.lower_bound <= best


@pytest.mark.parametrize("seed", range(20))
def test_random_evidence_proves_nothing_false(seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = content_of(LOSSES[seed % 2], BIASES[seed % 3])
    for path in places(content["evidence"]):
        value = content["evidence"]
        for key in path:
            value = value[key]
        if rng.random() < 0.3:
            put(content["evidence"], path, (float.fromhex(value) * float(np.exp(rng.standard_normal()))).hex())
    bound = checked(content)
    assert bound.incumbent is not None
    assert 0 <= bound.lower_bound <= bound.incumbent


def edge(content: Content) -> list[Any]:
    found: list[Any] = content["evidence"]["cuts"][0]["edges"][0]
    return found


REJECTED: dict[str, tuple[str, Callable[[Content], Any], str]] = {
    "spectral norm too small": (
        "none", lambda c: put(c, ("evidence", "spectral_norm"), (0.1).hex()), "not proved to be at least"),
    "negative spectral norm": (
        "none", lambda c: put(c, ("evidence", "spectral_norm"), (-1e3).hex()), "not proved to be at least"),
    "no spectral norm": ("none", lambda c: put(c, ("evidence", "spectral_norm"), None), "which is null"),
    "rest with free biases": (
        "free", lambda c: put(c, ("evidence", "cuts", 0, "each"), [(0.0).hex()] * 14), "must be null"),
    "all with free biases": (
        "free", lambda c: c["evidence"].update(spectral_norm=(1e3).hex()) or
        put(c, ("evidence", "cuts", 0, "all"), [(0.0).hex()] * 14), "must be null"),
    "probability above 1": ("none", lambda c: put(edge(c), (2,), (9.0).hex()), "y v in [0, 1]"),
    "statement free": ("none", lambda c: put(c, ("statement", "bias"), "free"), "must be null"),
    "claim": ("none", lambda c: put(c, ("statement", "lower_bound"), (1e6).hex()), "claims"),
    "incumbent": ("none", lambda c: put(c, ("statement", "incumbent"), (1e-3).hex()), "contradiction"),
    "network": ("none", lambda c: put(c, ("network", "weights", 2, 0, 0), (50.0).hex()), "above the incumbent"),
    "data": ("none", lambda c: put(c, ("data", "X", 0, 0), (50.0).hex()), "sha256"),
    "no constant": ("none", lambda c: put(c, ("statement", "bias"), "column") or
                    put(c, ("data", "X", 0, 2), (0.5).hex()), "sha256"),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_rejected(name: str) -> None:
    bias, change, message = REJECTED[name]
    content = content_of("logistic", bias)
    change(content)
    bound = checked(content)
    assert not bound.proven
    assert message in bound.reason
    assert describe(bound).startswith(f"NOT PROVEN: {bound.reason}")


@pytest.mark.parametrize(("key", "value"), [
    ("depth", 4), ("weight_decay", (1.0).hex()), ("activation", "absolute_value"), ("bias", "column"),
    ("preparation", "otherwise"), ("loss", "squared"), ("incumbent", (1000.0).hex()),
])  # fmt: skip
def test_a_changed_statement_is_caught_or_shown(key: str, value: Any) -> None:
    content = content_of()
    said = describe(checked(content))
    content["statement"][key] = value
    if key == "depth":
        content["network"] = None
    bound = checked(content)
    assert not bound.proven or describe(bound).split("time ")[0] != said.split("time ")[0]


MALFORMED: dict[str, Callable[[Content], Any]] = {
    "another kind": lambda c: put(c, ("evidence", "kind"), "paired_moments"),
    "another network": lambda c: put(c, ("statement", "network"), "two_layer"),
    "no depth": lambda c: c["statement"].pop("depth"),
    "depth 1": lambda c: put(c, ("statement", "depth"), 1),
    "depth too large": lambda c: put(c, ("statement", "depth"), checker.MOST_LAYERS + 1),
    "depth is true": lambda c: put(c, ("statement", "depth"), True),
    "another activation": lambda c: put(c, ("statement", "activation"), "sigmoid"),
    "another bias": lambda c: put(c, ("statement", "bias"), "some"),
    "a key too many": lambda c: put(c, ("evidence", "v"), []),
    "a key too many in a cut": lambda c: put(c, ("evidence", "cuts", 0, "v"), []),
    "cuts is an object": lambda c: put(c, ("evidence", "cuts"), {}),
    "too many cuts": lambda c: put(c, ("evidence", "cuts"), [{}] * (checker.MOST_CUTS + 1)),
    "an edge is short": lambda c: edge(c).pop(),
    "an edge to nowhere": lambda c: put(edge(c), (0,), 14),
    "an edge from below": lambda c: put(edge(c), (1,), -1),
    "an amount is a number": lambda c: put(edge(c), (2,), 1),
    "each is short": lambda c: c["evidence"]["cuts"][0]["each"].pop(),
    "spectral norm is nan": lambda c: put(c, ("evidence", "spectral_norm"), "nan"),
    "a layer less": lambda c: c["network"]["weights"].pop(),
    "layers that do not fit": lambda c: c["network"]["weights"][1][0].pop(),
    "an empty layer": lambda c: put(c, ("network", "weights", 0), []),
    "two outputs": lambda c: c["network"]["weights"][2].append(c["network"]["weights"][2][0]),
    "biases that are not free": lambda c: put(c, ("network", "biases"), [[], [], []]),
    "tanh with a network": lambda c: put(c, ("statement", "activation"), "tanh"),
    "network without an incumbent": lambda c: put(c, ("statement", "incumbent"), None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_certificate(name: str) -> None:
    content = content_of()
    MALFORMED[name](content)
    with pytest.raises(NotACertificate):
        checked(content)


@pytest.mark.parametrize("value", [1, 0.5, None, True, [], {}, "x", 10**30, [[[]]], {"a": 1}])
def test_anything_anywhere_is_answered(value: Any) -> None:
    original = content_of("squared")
    best = checked(original).incumbent
    assert best is not None
    for path in every_place(original):
        content = copy.deepcopy(original)
        put(content, path, value)
        with suppress(NotACertificate):
            assert 0 <= checked(content).lower_bound <= best


def every_place(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All paths, but only the first entry of lists."""
    if path:
        yield path
    if isinstance(value, list | dict):
        for key, entry in value.items() if isinstance(value, dict) else list(enumerate(value))[:1]:
            yield from every_place(entry, (*path, key))


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = content_of()
    monkeypatch.setattr(checker, "MOST_PRODUCTS", 500)
    with pytest.raises(NotACertificate, match="too large"):
        checked(content)
    monkeypatch.setattr("convexblocks.certificates.deep_certificate.MOST_PRODUCTS", 10)
    with pytest.raises(UsageError, match="more than the exact checker takes"):
        certify_deep(deep_problem())
    monkeypatch.setattr("convexblocks.certificates.deep_certificate.MOST_SAMPLES", 13)
    with pytest.raises(UsageError, match="at most 13: take fewer"):
        certify_deep(deep_problem())


def test_extreme_numbers_are_bounded_work() -> None:
    content = content_of("squared")
    for path, number in zip(places(content["evidence"]), [5e-324, 1e300, 1e-310, 1e-200] * 999, strict=False):
        if path[0] != "spectral_norm":
            put(content["evidence"], path, number.hex())
    bound = checked(content)
    assert bound.incumbent is not None
    assert 0 <= bound.lower_bound <= bound.incumbent
    assert bound.seconds < 5


@pytest.mark.parametrize("options", [(), ("-O",)])
def test_a_bare_interpreter_is_enough(options: tuple[str, ...], tmp_path: Path) -> None:
    copied, path = shutil.copy(checker.__file__, tmp_path / "alone.py"), tmp_path / "certificate.json"
    content = content_of("logistic", "free")
    for claim, code in ((0.5, 0), (1e6, 1)):
        content["statement"]["lower_bound"] = claim.hex()
        path.write_text(json.dumps(content), encoding="utf-8")
        command = [sys.executable, "-I", "-S", *options, str(copied), str(path), "--json"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert (run.returncode, run.stderr) == (code, "")
        assert json.loads(run.stdout)["lower_bound"] == made("logistic", "free").lower_bound


@pytest.mark.parametrize(("bias", "words"), [
    ("none", "none in any layer"), ("column", "penalized; no other layer"), ("free", "not penalized"),
])  # fmt: skip
def test_the_words_of_a_proof(bias: str, words: str) -> None:
    said = describe(made("logistic", bias).bound)
    for expected in (
        "PROVEN in exact arithmetic", "For the depth L = 3, every width", "log(1 + exp(-y_i f(x_i)))", "max(z, 0)",
        "(0.05 / 2) sum_l |W_l|^2", "3 weight matrices", "a sum over the samples", "14 samples, 3 features", words,
        "least over the product R",
    ):  # fmt: skip
        assert expected in said
    assert ("+ b_L" in said) == (bias == "free")
    printed = said.split(">=")[1].split(",")[0]
    assert Fraction(printed.strip()) <= Fraction(made("logistic", bias).lower_bound)
    assert max(len(line) for line in said.splitlines()) <= 140
