"""The checker: losses x activations x evidence against networks and known answers, tampering, files that are none."""

from __future__ import annotations

import ast
import copy
import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificate_files import Content, numbers_of, permuted, places, put
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from convexblocks.certificates import checker
from convexblocks.certificates.checker import (
    FORMAT,
    Bound,
    NotACertificate,
    check,
    check_text,
    data_digest,
    describe,
    main,
    objective,
)

LOSSES = ("squared", "logistic")
ACTIVATIONS = {"relu": 0.0, "leaky_relu": 0.25, "absolute_value": -1.0}
"""With their slopes below zero."""
EVIDENCE = ("data", "pairs", "partners", "rows", "everything")


# ------------------------------------------------------------------------------------ problems and networks


@cache
def problem(loss: str, n: int = 12, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """X with a bias column, and y, which depends on X but for some noise."""
    rng = np.random.default_rng(n + d)
    X = np.column_stack([rng.standard_normal((n, d - 1)), np.ones(n)]) / np.sqrt(d)
    y = np.abs(X[:, 0]) * 3 - 1 + 0.3 * rng.standard_normal(n)
    return X, (y if loss == "squared" else np.where(y > 0, 1.0, -1.0))


def phi(activation: str, z: np.ndarray) -> np.ndarray:
    return np.where(z >= 0, z, ACTIVATIONS[activation] * z)


def value_and_gradient(
    loss: str, activation: str, X: np.ndarray, y: np.ndarray, decay: float, flat: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Objective and gradient of a network given as one vector, and its predictions."""
    network = flat.reshape(-1, X.shape[1] + 1)
    weights, outputs = network[:, :-1], network[:, -1]
    inner = X @ weights.T
    hidden = phi(activation, inner)
    z = hidden @ outputs
    value = ((z - y) ** 2).sum() / 2 if loss == "squared" else np.logaddexp(0, -y * z).sum()
    pull = negative_gradient(loss, y, z)
    slopes = np.where(inner >= 0, 1, ACTIVATIONS[activation])
    gradient = np.column_stack([-((pull[:, None] * slopes).T @ X) * outputs[:, None], -hidden.T @ pull])
    return value + decay / 2 * (flat**2).sum(), (gradient + decay * network).ravel(), z


def negative_gradient(loss: str, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return y - z if loss == "squared" else y * np.exp(-np.logaddexp(0, y * z))


@cache
def trained(loss: str, activation: str, n: int, d: int, decay: float) -> tuple[float, np.ndarray]:
    """The best of a few networks of width 8, with its objective."""
    X, y = problem(loss, n, d)
    rng = np.random.default_rng(0)
    runs = [
        minimize(lambda flat: value_and_gradient(loss, activation, X, y, decay, flat)[:2],
                 rng.standard_normal(8 * (d + 1)), jac=True, method="L-BFGS-B", options={"maxiter": 300})
        for _ in range(4)
    ]  # fmt: skip
    best = min(runs, key=lambda run: run.fun)
    return float(best.fun), best.x


# ------------------------------------------------------------------------------------ certificates made here


def hexes(values: Any) -> Any:
    return [hexes(value) for value in values] if np.ndim(values) else float(values).hex()


def side_of(X: np.ndarray, v0: np.ndarray, linear_part: np.ndarray, kind: str, seed: int) -> Content:
    """Valid evidence for one sign; how good it is does not matter much."""
    rng = np.random.default_rng(seed)
    n, d = X.shape
    norms = np.linalg.norm(X, axis=1)
    v0, pairs, parts = v0.copy(), [], []
    for i in np.flatnonzero(v0 > 0) if kind in ("pairs", "partners", "everything") else []:
        others = rng.permutation(np.setdiff1d(np.arange(n), i))[: 1 if kind == "pairs" else int(rng.integers(4))]
        factors = np.maximum(X[others] @ X[i] / norms[others] ** 2, 0) / max(1, len(others))
        delta, weight = X[i] - factors @ X[others], 0.4 * v0[i]
        tau = np.linalg.norm(delta) / 2
        v0[i] -= weight
        np.add.at(v0, others, weight * factors)
        pairs.append({
            "of": int(i), "partners": [[int(j), c.hex()] for j, c in zip(others, factors.tolist(), strict=True)],
            **{key: float(value).hex()
               for key, value in (("weight", weight), ("quadratic", weight / (4 * tau)), ("linear", weight / 2))},
        })  # fmt: skip
        parts.append((delta, weight / (4 * tau), weight / 2))
    rows = np.zeros((n, d))
    if kind in ("rows", "everything"):
        rows = 0.1 * rng.standard_normal((n, d)) * (rng.random((n, 1)) < 0.7)
    lift = v0 / 2 + np.linalg.norm(rows, axis=1)
    quadratic, linear = np.where(lift > 0, lift / norms, lift / norms / 2), v0 / 2
    A = (X * quadratic[:, None]).T @ X - (X.T @ rows + rows.T @ X) / 2
    g = X.T @ (linear + linear_part)
    for delta, a, b in parts:
        A, g = A + a * np.outer(delta, delta), g + b * delta
    values, vectors = np.linalg.eigh(A)
    rhos = max(values[-1], 0) + (np.abs(values).max() + np.linalg.norm(g) or 1.0) * np.geomspace(1e-3, 1e2, 200)
    rho = min(rhos, key=lambda r: r + ((vectors.T @ g / 2) ** 2 / (r - values)).sum())
    given = [hexes(row) if row.any() else None for row in rows]
    return {"rho": float(rho).hex(), "quadratic": hexes(quadratic), "linear": hexes(linear), "pairs": pairs,
            "rows": given if rows.any() else None}  # fmt: skip


def certificate(
    X: np.ndarray, y: np.ndarray, v: np.ndarray, *, loss: str, activation: str = "relu", kind: str = "data",
    decay: float = 0.5, claim: float = 0.0, bias: str = "none", incumbent: float | None = None, network: Any = None,
) -> Content:  # fmt: skip
    q = ACTIVATIONS[activation]
    sides = {name: side_of(X, sign * (1 - q) * v, sign * q * v, kind, 7) for name, sign in (("plus", 1), ("minus", -1))}
    statement = {
        "network": "two_layer", "activation": activation, "loss": loss, "weight_decay": decay.hex(), "bias": bias,
        "samples": len(y), "features": X.shape[1], "data_sha256": data_digest(X, y), "lower_bound": claim.hex(),
        "incumbent": None if incumbent is None else incumbent.hex(), "preparation": "drawn at random",
    }  # fmt: skip
    if activation == "leaky_relu":
        statement["slope"] = q.hex()
    if network is not None:
        network = {"weights": hexes(network[:, :-1]), "outputs": hexes(network[:, -1])}
    return {
        "format": FORMAT, "statement": statement, "data": {"X": hexes(X), "y": hexes(y)},
        "evidence": {"kind": "paired_moments", "v": hexes(v), **sides}, "network": network,
    }  # fmt: skip


@cache
def _case(loss: str, activation: str, kind: str, n: int, d: int, decay: float) -> tuple[str, float]:
    X, y = problem(loss, n, d)
    best, flat = trained(loss, activation, n, d, decay)
    v = negative_gradient(loss, y, value_and_gradient(loss, activation, X, y, decay, flat)[2])
    network = flat.reshape(-1, d + 1)
    above = objective({"activation": activation, "slope": 0.25, "loss": loss, "weight_decay": decay}, X.tolist(),
                      y.tolist(), network[:, :-1].tolist(), network[:, -1].tolist())  # fmt: skip
    made = certificate(X, y, v, loss=loss, activation=activation, kind=kind, decay=decay, bias="column",
                       incumbent=above, network=network)  # fmt: skip
    return json.dumps(made), best


def case(
    loss: str = "squared", activation: str = "relu", kind: str = "everything", n: int = 12, d: int = 3,
    decay: float = 0.5,
) -> tuple[Content, float]:  # fmt: skip
    """A certificate made of a trained network, and the objective of that network."""
    text, best = _case(loss, activation, kind, n, d, decay)
    return json.loads(text), best


def checked(content: Content, data: Any = None) -> Bound:
    return check_text(json.dumps(content), data)


def read(content: Content) -> Any:
    return checker._read(json.dumps(content))


# ------------------------------------------------------------------------------------ what is proven


@pytest.mark.parametrize(("loss", "activation", "kind"), list(product(LOSSES, ACTIVATIONS, EVIDENCE)))
def test_no_network_is_below_the_bound(loss: str, activation: str, kind: str) -> None:
    content, best = case(loss, activation, kind)
    bound = checked(content)
    assert bound.proven, bound.reason
    assert 0 < bound.lower_bound <= best
    X, y = problem(loss)
    rng = np.random.default_rng(1)
    for width, size in product((1, 2, 5, 20), (0.03, 0.3, 1.0)):
        for _ in range(20):
            flat = size * rng.standard_normal(width * (X.shape[1] + 1))
            assert value_and_gradient(loss, activation, X, y, 0.5, flat)[0] >= bound.lower_bound * (1 - 1e-12)


@pytest.mark.parametrize(("activation", "kind", "d"), list(product(ACTIVATIONS, EVIDENCE, (2, 5))))
def test_support_bounds_hold_in_every_direction(activation: str, kind: str, d: int) -> None:
    content, _ = case("squared", activation, kind, 12, d)
    made = read(content)
    X, v = np.array(made.X), np.array(made.v)
    u = np.random.default_rng(2).standard_normal((100_000, d))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    values = phi(activation, u @ X.T) @ v
    for sign in (1, -1):
        H = checker._support_bound(made, sign)
        assert isinstance(H, Fraction)
        assert (sign * values).max() <= H
        # Not far above either: the evidence is a plain one, not a useless one.
        assert H <= 3 * np.abs(values).max() + 1


def test_a_stronger_penalty_has_a_larger_bound() -> None:
    bounds = [checked(case("squared", decay=decay)[0]).lower_bound for decay in (0.1, 0.5, 1.0)]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1]


@pytest.mark.parametrize(("loss", "activation"), list(product(LOSSES, ACTIVATIONS)))
@pytest.mark.parametrize("x", [2.0, -0.5, 2.0**200, -(2.0**-200)])
@pytest.mark.parametrize("sign_of_y", [1.0, -1.0])
@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_one_datum_is_known(loss: str, activation: str, x: float, sign_of_y: float, stretch: float) -> None:
    # By hand: h(v) = |v x|. With the weight decay |x| / 4 the best v has the size 1 / 4; a larger one is scaled down.
    q, v, y = ACTIVATIONS[activation], stretch * sign_of_y / 4, sign_of_y * (4 if loss == "squared" else 1)
    content = certificate(np.ones((1, 1)), np.array([y]), np.array([v]), loss=loss, activation=activation)
    content["data"]["X"] = hexes([[x]])
    content["statement"] |= {"weight_decay": (abs(x) / 4).hex(), "data_sha256": data_digest([[x]], [y])}
    for name, sign in (("plus", 1), ("minus", -1)):
        v0 = sign * (1 - q) * v
        g = v0 / 2 + sign * q * v
        # v0 (z)_+ = v0 z / 2 + v0 |z| / 2, and |z| is at most z^2 / (2 |x|) + |x| / 2, at least z^2 / |x|.
        quadratic = v0 / (4 if v0 > 0 else 2)
        # Of either sign: on the sphere it is the price of an equality.
        rho = quadratic + max(abs(g) / 2, 2.0**-40)
        content["evidence"][name] = {
            "rho": (rho * abs(x)).hex(), "quadratic": [(quadratic / abs(x)).hex()], "linear": [(v0 / 2).hex()],
            "pairs": [], "rows": None,
        }  # fmt: skip
    bound = checked(content)
    assert bound.proven, bound.reason
    optimum = 4 / 4 - 1 / 32 if loss == "squared" else 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert bound.lower_bound <= optimum * (1 + 1e-15)
    assert bound.lower_bound == pytest.approx(optimum, rel=1e-11)


@pytest.mark.parametrize("power", [-150, 150])
@pytest.mark.parametrize("kind", ["everything", "pairs"])
def test_units_do_not_matter(power: int, kind: str) -> None:
    # Features and weight decay in another unit: the same problem. The evidence changes with them.
    content, _ = case("logistic", "leaky_relu", kind)
    bound, scale = checked(content), 2.0**power
    statement = content["statement"]
    statement |= {"incumbent": None, "weight_decay": times(statement["weight_decay"], scale)}
    content["data"]["X"] = times(content["data"]["X"], scale)
    statement["data_sha256"] = data_digest(*numbers_of(content))
    for name in ("plus", "minus"):
        side = content["evidence"][name]
        side["rho"] = times(side["rho"], scale)
        side["quadratic"] = times(side["quadratic"], 1 / scale)
        for pair in side["pairs"]:
            pair["quadratic"] = times(pair["quadratic"], 1 / scale)
    other = checked(content | {"network": None})
    assert other.proven, other.reason
    assert other.lower_bound == bound.lower_bound


def times(value: Any, factor: float) -> Any:
    if isinstance(value, str):
        return (float.fromhex(value) * factor).hex()
    return [times(entry, factor) for entry in value]


@pytest.mark.parametrize("kind", EVIDENCE)
def test_the_order_of_the_samples_does_not_matter(kind: str) -> None:
    content, _ = case("logistic", kind=kind)
    bound = checked(content)
    order = np.random.default_rng(5).permutation(len(content["data"]["y"])).tolist()
    other = checked(permuted(content, order))
    assert other.proven
    assert other.lower_bound == bound.lower_bound


# ------------------------------------------------------------------------------------ tampering


CHANGES: dict[str, Callable[[float], float]] = {
    "negated": lambda x: -x, "doubled": lambda x: 2 * x, "halved": lambda x: x / 2, "zero": lambda _: 0.0,
    "more": lambda x: x + 0.1, "less": lambda x: x - 0.1, "huge": lambda _: 1e300, "tiny": lambda _: 1e-300,
    "hugely negative": lambda _: -1e300, "a little more": lambda x: x * (1 + 1e-9), "inverse": lambda x: 1 / (x or 1),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("loss", "activation"), list(product(LOSSES, ACTIVATIONS)))
def test_corrupted_evidence_proves_nothing_false(loss: str, activation: str, change: str) -> None:
    original, best = case(loss, activation, n=6, d=2, decay=0.2)
    first, rng = checked(original), np.random.default_rng(len(change))
    paths = [path for path in places(original["evidence"]) if path != ("kind",)]
    outcomes = set()
    for place in rng.choice(len(paths), 15, replace=False):
        content = copy.deepcopy(original)
        put(content["evidence"], paths[place], CHANGES[change])
        bound = checked(content)
        assert 0 <= bound.lower_bound <= best
        outcomes.add(bound.proven and bound.lower_bound == first.lower_bound)
    assert outcomes != {True}


@pytest.mark.parametrize("seed", range(40))
def test_random_evidence_proves_nothing_false(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss, activation = LOSSES[seed % 2], list(ACTIVATIONS)[seed % 3]
    content, best = case(loss, activation, n=6, d=2, decay=0.2)
    for path in places(content["evidence"]):
        if path != ("kind",) and rng.random() < 0.3:
            put(content["evidence"], path, lambda x: x * float(np.exp(rng.standard_normal() / 3)))
    assert 0 <= checked(content).lower_bound <= best


@pytest.mark.parametrize(("key", "value"), [
    ("weight_decay", (1.0).hex()), ("loss", "logistic"), ("activation", "absolute_value"), ("bias", "none"),
    ("data_sha256", "0" * 64), ("incumbent", (1000.0).hex()), ("preparation", "otherwise"),
    ("lower_bound", (0.5).hex()),
])  # fmt: skip
def test_a_changed_statement_is_caught_or_shown(key: str, value: str) -> None:
    content, _ = case()
    said = describe(checked(content))
    content["statement"][key] = value
    bound = checked(content)
    assert not bound.proven or describe(bound) != said


@pytest.mark.parametrize("where", ["X", "y"])
def test_changed_data_are_caught(where: str) -> None:
    content, _ = case()
    data = numbers_of(content)
    assert checked(content, data).proven
    put(content["data"], (where, 3, 1) if where == "X" else (where, 3), lambda x: x + 2.0**-40)
    bound = checked(content)
    assert not bound.proven
    assert "sha256" in bound.reason
    assert bound.lower_bound == 0
    # With the hash mended the file is consistent, and about other data.
    content["statement"]["data_sha256"] = data_digest(*numbers_of(content))
    assert checked(content | {"network": None}).proven
    bound = checked(content, data)
    assert not bound.proven
    assert ("X[3][1]" if where == "X" else "y[3]") in bound.reason


@pytest.mark.parametrize("change", ["a row less", "a target less", "a column less", "a ragged row"])
def test_data_of_another_shape_are_caught(change: str) -> None:
    content, _ = case()
    X, y = numbers_of(content)
    X, y = {
        "a row less": (X[1:], y[1:]), "a target less": (X, y[1:]), "a column less": ([row[1:] for row in X], y),
        "a ragged row": ([X[0][1:], *X[1:]], y),
    }[change]  # fmt: skip
    bound = checked(content, (X, y))
    assert not bound.proven
    assert "rows of" in bound.reason


@pytest.mark.parametrize("data", [3, ([1.0], [2.0]), ([["x"]], [1.0]), ([[1.0]], [[1.0]]), ([[1.0]],)])
def test_data_that_are_none_are_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="rows of numbers"):
        checked(case()[0], data)


def test_data_are_compared_as_they_are() -> None:
    content, _ = case()
    X, y = (np.array(part) for part in numbers_of(content))
    assert checked(content, (X, y)).proven
    # A float of 32 bits is not the number that it was rounded from, and an integer beyond 2^53 is itself.
    assert not checked(content, (X.astype(np.float32), y)).proven
    large = certificate(np.array([[2.0**53]]), np.array([1.0]), np.array([0.0]), loss="squared")
    assert "9007199254740993" in checked(large, (np.array([[2**53 + 1]]), [1])).reason
    assert "9007199254740993" not in checked(large, (np.array([[2**53]]), [1])).reason


Change = Callable[[Content], None]


def set_at(*path_and_value: Any) -> Change:
    *path, key, value = path_and_value

    def change(content: Any) -> None:
        for step in path:
            content = content[step]
        content[key] = value

    return change


REJECTED: dict[str, tuple[Change, str, str]] = {
    "negative rho": (set_at("evidence", "plus", "rho", (-1.0).hex()), "squared", "positive definite"),
    "small rho": (set_at("evidence", "minus", "rho", (0.0).hex()), "squared", "positive definite"),
    "negative weight": (set_at("evidence", "plus", "pairs", 0, "weight", (-0.1).hex()), "squared", "not be negative"),
    "negative factor": (
        set_at("evidence", "plus", "pairs", 0, "partners", [[0, (-0.1).hex()]]), "squared", "not be negative"),
    "flat majorant": (set_at("evidence", "plus", "pairs", 0, "quadratic", (0.0).hex()), "squared", "above 0"),
    "claim too large": (set_at("statement", "lower_bound", (1e6).hex()), "squared", "claims 1000000.0"),
    "incumbent too small": (set_at("statement", "incumbent", (1e-3).hex()), "squared", "contradiction"),
    "network too bad": (set_at("network", "outputs", 0, (50.0).hex()), "squared", "above the incumbent"),
    "labels": (set_at("data", "y", 0, (2.0).hex()), "logistic", "labels"),
    "probability above 1": (set_at("evidence", "v", hexes(3 * problem("logistic")[1])), "logistic", "y v in"),
    "probability below 0": (set_at("evidence", "v", hexes(-problem("logistic")[1] / 9)), "logistic", "y v in"),
    "no bias column": (set_at("data", "X", 0, 2, (0.5).hex()), "squared", "constant"),
    "hash": (set_at("statement", "data_sha256", "f" * 64), "squared", "sha256"),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_rejected(name: str) -> None:
    change, loss, message = REJECTED[name]
    content, _ = case(loss)
    pair = content["evidence"]["plus"]["pairs"][0]
    pair["of"], pair["partners"] = 1, [[0, (0.5).hex()]]
    change(content)
    if name in ("labels", "no bias column"):
        content["statement"]["data_sha256"] = data_digest(*numbers_of(content))
    if name.startswith("probability"):
        content["evidence"]["plus"]["rho"] = content["evidence"]["minus"]["rho"] = (1e6).hex()
    bound = checked(content)
    assert not bound.proven
    assert message in bound.reason
    assert describe(bound).startswith(f"NOT PROVEN: {bound.reason}")


def test_claims_up_to_the_bound_are_proven() -> None:
    content, _ = case("logistic", kind="pairs")
    value = checked(content).lower_bound
    for claim, proven in ((value, True), (math.nextafter(value, 0), True), (math.nextafter(value, math.inf), False)):
        content["statement"]["lower_bound"] = claim.hex()
        bound = checked(content)
        assert bound.proven is proven
        assert bound.lower_bound == value
        assert bound.claim == claim
        assert proven or (claim.hex() in bound.reason and value.hex() in bound.reason)


def test_pairs_without_weight_are_left_out() -> None:
    content, _ = case(kind="data")
    value = checked(content).lower_bound
    zero = (0.0).hex()
    content["evidence"]["plus"]["pairs"] = [
        {"of": 1, "partners": [[0, (2.0).hex()]], "weight": zero, "quadratic": zero, "linear": (7.0).hex()}
    ]
    assert checked(content).lower_bound == value


def test_a_dual_point_of_zero_proves_the_trivial_bound() -> None:
    X, y = problem("squared")
    bound = checked(certificate(X, y, 0 * y, loss="squared"))
    assert bound.proven
    assert bound.lower_bound == 0
    X, y = problem("logistic")
    assert checked(certificate(X, y, 0 * y, loss="logistic")).lower_bound == 0


# ------------------------------------------------------------------------------------ incumbents


def test_what_is_known_of_the_incumbent(monkeypatch: pytest.MonkeyPatch) -> None:
    content, best = case()
    bound = checked(content)
    assert bound.incumbent == pytest.approx(best, rel=1e-12)
    assert bound.gap_percent == pytest.approx(100 * (1 - bound.lower_bound / best))
    assert "computed again" in bound.notes[-1]
    assert "word of its writer" in checked(content | {"network": None}).notes[-1]
    monkeypatch.setattr(checker, "MOST_NETWORK_PRODUCTS", 10)
    assert "word of its writer" in checked(content).notes[-1]
    content["statement"]["incumbent"], content["network"] = None, None
    bound = checked(content)
    assert bound.proven
    assert bound.incumbent is None
    assert bound.gap_percent is None


@pytest.mark.parametrize(("loss", "activation"), list(product(LOSSES, ACTIVATIONS)))
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_objectives_are_rounded_up(loss: str, activation: str, size: float) -> None:
    X, y = problem(loss)
    network = size * np.random.default_rng(3).standard_normal((5, 4))
    value = value_and_gradient(loss, activation, X, y, 0.5, network.ravel())[0]
    statement = {"activation": activation, "slope": 0.25, "loss": loss, "weight_decay": 0.5}
    ours = objective(statement, X.tolist(), y.tolist(), network[:, :-1].tolist(), network[:, -1].tolist())
    assert ours == pytest.approx(value, rel=1e-12)
    exact = Decimal(0)
    with localcontext(prec=60):
        for sample, target in zip(X.tolist(), y.tolist(), strict=True):
            f = Fraction(0)
            for *w, a in network.tolist():
                inner = sum(Fraction(p) * Fraction(r) for p, r in zip(sample, w, strict=True))
                f += Fraction(a) * inner * (1 if inner > 0 else Fraction(ACTIVATIONS[activation]))
            error, exponent = decimal(f - Fraction(target)), decimal(-f * Fraction(target))
            exact += error**2 / 2 if loss == "squared" else (1 + exponent.exp()).ln()
        exact += decimal(sum(Fraction(entry) ** 2 for entry in network.ravel().tolist()) / 4)
        assert exact - Decimal("1e-30") <= Decimal(ours)
        assert Decimal(math.nextafter(ours, 0)) <= exact + Decimal("1e-30")


def decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


@pytest.mark.parametrize("z", [0.0, 1e-9, 0.5, 20.0, 700.0, 1e5])
@pytest.mark.parametrize("label", [1.0, -1.0])
def test_logistic_losses_far_out(z: float, label: float) -> None:
    statement = {"activation": "absolute_value", "loss": "logistic", "weight_decay": 2.0**-1000}
    value = objective(statement, [[z]], [label], [[1.0]], [1.0])
    expected = float(np.logaddexp(0, -label * z))
    assert expected <= value * (1 + 1e-14)
    assert value == pytest.approx(expected, rel=1e-14, abs=1e-36)


# ------------------------------------------------------------------------------------ numbers

property_test = settings(deadline=None, derandomize=True, max_examples=100)
POSITIVE = st.fractions(min_value=Fraction(1, 10**12), max_value=10**12)
FRACTIONS = st.fractions(min_value=-(10**9), max_value=10**9)


@property_test
@given(x=POSITIVE)
def test_logarithms_lie_in_their_bounds(x: Fraction) -> None:
    low, high = checker._log_bounds(x)
    assert low <= high <= low + Fraction(1, 2**115)
    with localcontext(prec=80):
        assert decimal(low) <= decimal(x).ln() <= decimal(high)


@pytest.mark.parametrize("power", [-2000, -1, 0, 1, 2000])
def test_logarithms_of_powers_of_two(power: int) -> None:
    low, high = checker._log_bounds(Fraction(2) ** power)
    digits = Fraction("0.693147180559945309417232121458176568075500134360255254120680009")
    assert low <= power * digits <= high


@property_test
@given(s=st.fractions(min_value=0, max_value=300))
def test_exponentials_are_bounded(s: Fraction) -> None:
    above = checker._exp_above(s)
    with localcontext(prec=80):
        exact = (-decimal(s)).exp()
        assert exact <= decimal(above)
        assert s > 256 or decimal(above) <= exact * (1 + Decimal(2) ** -110)


@property_test
@given(p=st.fractions(min_value=0, max_value=1))
def test_entropies_are_bounded(p: Fraction) -> None:
    with localcontext(prec=80):
        exact = -sum(decimal(x) * decimal(x).ln() for x in (p, 1 - p) if x > 0)
        below = decimal(checker._entropy_below(p))
        assert exact - Decimal("1e-33") <= below <= exact
    assert checker._entropy_below(Fraction(0)) == checker._entropy_below(Fraction(1)) == 0


@property_test
@given(x=st.fractions())
def test_roundings(x: Fraction) -> None:
    low, high = checker._float_below(x), checker._float_above(x)
    assert Fraction(low) <= x <= Fraction(high)
    assert high in (low, math.nextafter(low, math.inf))
    assert checker._below(x) <= x <= checker._above(x)
    assert checker._above(x) - checker._below(x) <= abs(x) * Fraction(1, 2**120)


def test_roundings_beyond_floats() -> None:
    large = Fraction(10**400)
    assert checker._float_below(large) == sys.float_info.max
    assert checker._float_above(large) == math.inf
    assert checker._float_below(-large) == -math.inf
    assert checker._float_above(1 / large) == math.ulp(0.0)
    assert checker._float_below(1 / large) == 0.0


@property_test
@given(slope=FRACTIONS, curvature=FRACTIONS, reach=st.fractions(min_value=0, max_value=1000))
def test_maxima_on_a_ray(slope: Fraction, curvature: Fraction, reach: Fraction) -> None:
    largest = checker._ray_maximum(slope, curvature, reach)
    points = [reach * k / 16 for k in range(17)]
    if curvature != 0 and 0 <= slope / (2 * curvature) <= reach:
        points.append(slope / (2 * curvature))
    assert largest == max(slope * t - curvature * t * t for t in points)


@property_test
@given(row=st.lists(st.integers(-(10**20), 10**20), max_size=5), bits=st.integers(0, 200))
def test_norms_are_rounded_up(row: list[int], bits: int) -> None:
    exact = sum(Fraction(entry, 2**bits) ** 2 for entry in row)
    norm = checker._norm(row, bits)
    assert exact <= norm**2 <= exact * (1 + Fraction(1, 2**100))


@property_test
@given(numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_integers_stand_for_floats(numbers: list[float]) -> None:
    integers, bits = checker._integers(numbers)
    assert [Fraction(integer, 2**bits) for integer in integers] == [Fraction(number) for number in numbers]


@property_test
@given(d=st.integers(1, 6), seed=st.integers(0, 1000), spread=st.integers(0, 60), condition=st.integers(0, 12))
def test_peaks_of_quadratics(d: int, seed: int, spread: int, condition: int) -> None:
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((d, d)) * np.logspace(0, -condition / 2, d)
    units = 2.0 ** rng.integers(-spread, spread + 1, d)
    half = [Fraction(x) for x in (units * (factor @ rng.standard_normal(d))).tolist()]
    rows = [[Fraction(x) for x in row] for row in (units[:, None] * factor).tolist()]
    B = [[sum((p * r for p, r in zip(rows[i], rows[k], strict=True)), Fraction()) for k in range(d)] for i in range(d)]
    exact = peak_by_elimination(B, half)
    peak = checker._peak([B[k][: k + 1] for k in range(d)], half)
    assert peak is not None
    assert exact <= peak <= exact * (1 + Fraction(1, 2**50)) + Fraction(1, 2**300)

    B[d - 1][d - 1] -= Fraction(1) / last_of_inverse(B)
    assert checker._peak([B[k][: k + 1] for k in range(d)], half) is None


def peak_by_elimination(B: list[list[Fraction]], half: list[Fraction]) -> Fraction:
    """half'B^-1 half."""
    rows, d = [[*row, entry] for row, entry in zip(B, half, strict=True)] + [[*half, Fraction(0)]], len(B)
    for k in range(d):
        for i in range(k + 1, d + 1):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [p - factor * r for p, r in zip(rows[i], rows[k], strict=True)]
    return -rows[d][d]


def last_of_inverse(B: list[list[Fraction]]) -> Fraction:
    return peak_by_elimination(B, [Fraction(0)] * (len(B) - 1) + [Fraction(1)])


@property_test
@given(weight=st.integers(1, 8), linear=st.integers(-20, 20), quadratic=st.integers(1, 20))
def test_majorants_of_pairs_touch(weight: int, linear: int, quadratic: int) -> None:
    pair = checker._Pair(0, [], float(weight), float(quadratic), float(linear))
    v0 = [Fraction(3)]
    [term] = checker._pair_terms([[1]], [pair], v0, "")
    points = [Fraction(0), Fraction(-linear, 2 * quadratic), Fraction(weight - linear, 2 * quadratic)]
    assert term.constant == max(weight * max(z, 0) - quadratic * z * z - linear * z for z in points)
    assert v0 == [3 - weight]


def test_pairs_move_what_they_say() -> None:
    v0 = [Fraction(3)] * 4
    [term] = checker._pair_terms([[1], [2], [5], [7]], [checker._Pair(0, [(2, 2.0), (1, 0.25)], 3.0, 8.0, 4.0)], v0, "")
    assert v0 == [0, Fraction(15, 4), 9, 3]
    # delta = 1 - 2 * 5 - 2 / 4
    assert (term.linear * term.row[0], term.quadratic * term.row[0] ** 2) == (4 * Fraction(-19, 2), 2 * 19**2)


@property_test
@given(v0=FRACTIONS, a=st.integers(-99, 99), b=st.integers(-99, 99), r=st.integers(0, 9), lift=st.integers(0, 99))
def test_majorants_of_data_touch(v0: Fraction, a: int, b: int, r: int, lift: int) -> None:
    side = checker._Side(0.0, [float(a)], [float(b)], [], [[]])
    [term] = checker._datum_terms([[1]], side, [v0], [Fraction(r)], [Fraction(lift)])
    points = [Fraction(0), Fraction(r), Fraction(-r)]
    if a:
        points += [z for z in ((v0 + lift - b) / (2 * a), (-lift - b) / Fraction(2 * a)) if abs(z) <= r]
    assert term.constant == max(v0 * max(z, 0) + lift * abs(z) - a * z * z - b * z for z in points)


@pytest.mark.parametrize("kind", EVIDENCE)
@pytest.mark.parametrize("precision", [12, 128])
def test_support_bounds_are_those_of_exact_sums(kind: str, precision: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # With few bits an error in the direction of a rounding would be large.
    monkeypatch.setattr(checker, "PRECISION", precision)
    made = read(case("squared", "leaky_relu", kind)[0])
    side, (X, _) = made.sides[-1], checker._integer_rows(made.X)
    v0 = [Fraction(-0.75) * Fraction(value) for value in made.v]
    terms = checker._pair_terms(X, side.pairs, v0, "")
    reaches, lifts = ([checker._norm(*checker._integers(row)) for row in rows] for rows in (made.X, side.rows))
    terms += checker._datum_terms(X, side, v0, reaches, lifts)
    A, g = exact_sums(made, -1)
    B = [[(Fraction(side.rho) if k == j else 0) - entry for j, entry in enumerate(row)] for k, row in enumerate(A)]
    exact = Fraction(side.rho) + sum(term.constant for term in terms) + peak_by_elimination(B, [x / 2 for x in g])
    assert exact <= checker._support_bound(made, -1) <= exact * (1 + Fraction(2) ** (10 - precision))


def exact_sums(made: Any, sign: int) -> tuple[list[list[Fraction]], list[Fraction]]:
    """A and g, as the mathematics writes them."""
    side, X, d = made.sides[sign], [[Fraction(entry) for entry in row] for row in made.X], len(made.X[0])
    A, g = [[Fraction()] * d for _ in range(d)], [Fraction()] * d
    q = Fraction(ACTIVATIONS[made.statement["activation"]])
    own = zip(X, side.quadratic, side.linear, made.v, strict=True)
    terms = [(x, a, Fraction(b) + sign * q * Fraction(v)) for x, a, b, v in own]
    for pair in side.pairs:
        delta = list(X[pair.of])
        for j, c in pair.partners:
            delta = [entry - Fraction(c) * other for entry, other in zip(delta, X[j], strict=True)]
        terms.append((delta, pair.quadratic, Fraction(pair.linear)))
    for x, a, b in terms:
        g = [entry + b * other for entry, other in zip(g, x, strict=True)]
        A = [[A[k][j] + Fraction(a) * x[k] * x[j] for j in range(d)] for k in range(d)]
    for x, w in zip(X, side.rows, strict=True):
        if w:
            A = [[A[k][j] - (x[k] * Fraction(w[j]) + Fraction(w[k]) * x[j]) / 2 for j in range(d)] for k in range(d)]
    return A, g


# ------------------------------------------------------------------------------------ files that are no certificates


def first_pair(content: Content) -> Content:
    return content["evidence"]["plus"]["pairs"][0]


MALFORMED: dict[str, Change] = {
    "another format": set_at("format", "convexblocks certificate 2"),
    "no format": lambda content: content.pop("format"),
    "no network": lambda content: content.pop("network"),
    "a key too many": set_at("extra", 1),
    "a key too many inside": set_at("evidence", "plus", "gamma", []),
    "no rho": lambda content: content["evidence"]["plus"].pop("rho"),
    "statement is a list": set_at("statement", []),
    "evidence is null": set_at("evidence", None),
    "another kind": set_at("evidence", "kind", "cones"),
    "another network": set_at("statement", "network", "three_layer"),
    "activation is a list": set_at("statement", "activation", ["relu"]),
    "another loss": set_at("statement", "loss", "hinge"),
    "slope of a ReLU": set_at("statement", "slope", (0.5).hex()),
    "leaky ReLU without a slope": set_at("statement", "activation", "leaky_relu"),
    "no weight decay": set_at("statement", "weight_decay", (0.0).hex()),
    "negative weight decay": set_at("statement", "weight_decay", (-1.0).hex()),
    "samples is text": set_at("statement", "samples", "12"),
    "samples is true": set_at("statement", "samples", True),
    "no samples": set_at("statement", "samples", 0),
    "too many samples": set_at("statement", "samples", 13),
    "huge samples": set_at("statement", "samples", 10**400),
    "features wrong": set_at("statement", "features", 2),
    "hash too short": set_at("statement", "data_sha256", "ab"),
    "hash in capitals": set_at("statement", "data_sha256", "A" * 64),
    "preparation is a number": set_at("statement", "preparation", 3),
    "preparation is endless": set_at("statement", "preparation", "x" * 10_001),
    "incumbent is a number": set_at("statement", "incumbent", 3),
    "a number for X": set_at("data", "X", 0, 0, 1),
    "a decimal": set_at("data", "X", 0, 0, "1.5"),
    "no digits": set_at("data", "X", 0, 0, ""),
    "another spelling": set_at("data", "X", 0, 0, "0x3p-1"),
    "more digits than a float has": set_at("data", "X", 0, 0, "0x1.80000000000000001p+0"),
    "a blank": set_at("data", "X", 0, 0, " 0x1.8000000000000p+0"),
    "nan": set_at("data", "X", 0, 0, "nan"),
    "inf": set_at("data", "X", 0, 0, "inf"),
    "-inf": set_at("evidence", "plus", "rho", "-inf"),
    "beyond floats": set_at("data", "X", 0, 0, "0x1.0000000000000p+1024"),
    "null for a number": set_at("evidence", "v", 0, None),
    "a short row": lambda content: content["data"]["X"][3].pop(),
    "a row less": lambda content: content["data"]["X"].pop(),
    "a target less": lambda content: content["data"]["y"].pop(),
    "a multiplier less": lambda content: content["evidence"]["v"].pop(),
    "a quadratic less": lambda content: content["evidence"]["minus"]["quadratic"].pop(),
    "rows of another length": set_at("evidence", "plus", "rows", [None]),
    "a row of another length": lambda content: content["evidence"]["plus"]["rows"].__setitem__(0, [(1.0).hex()]),
    "pairs is an object": set_at("evidence", "plus", "pairs", {}),
    "a pair is a list": set_at("evidence", "plus", "pairs", 0, [0, 1]),
    "index too large": set_at("evidence", "plus", "pairs", 0, "of", 12),
    "index negative": set_at("evidence", "plus", "pairs", 0, "of", -1),
    "index huge": set_at("evidence", "plus", "pairs", 0, "of", 10**300),
    "index is true": set_at("evidence", "plus", "pairs", 0, "of", True),
    "index is text": set_at("evidence", "plus", "pairs", 0, "of", "0"),
    "partner out of range": set_at("evidence", "plus", "pairs", 0, "partners", [[12, (1.0).hex()]]),
    "partner twice": set_at("evidence", "plus", "pairs", 0, "partners", [[3, (1.0).hex()], [3, (1.0).hex()]]),
    "partner of itself": lambda content: first_pair(content).update(of=3, partners=[[3, "0x0.0p+0"]]),
    "partner without a factor": set_at("evidence", "plus", "pairs", 0, "partners", [[3]]),
    "partner is an index": set_at("evidence", "plus", "pairs", 0, "partners", [3]),
    "an output less": lambda content: content["network"]["outputs"].pop(),
    "network is a list": set_at("network", []),
    "network without an incumbent": set_at("statement", "incumbent", None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_certificate(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, _ = case()
    content["evidence"]["plus"]["pairs"][0]["partners"] = []
    MALFORMED[name](content)
    with pytest.raises(NotACertificate):
        checked(content)
    refused(json.dumps(content).encode(), tmp_path, capsys)


def refused(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says so on stderr in a line that is no traceback, and nothing on stdout."""
    path = tmp_path / "certificate.json"
    path.write_bytes(content)
    assert main([str(path), "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(str(path))
    assert len(said.err) < 1500


TEXTS = {
    "empty": b"", "blank": b" \n", "no JSON": b"hello", "a number": b"1.5", "an integer": b"7", "a text": b'"x"',
    "null": b"null", "a list": b"[]", "an empty object": b"{}", "no UTF-8": b'{"format": "\xff"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"), "zeros": b"\0" * 100, "deep lists": b"[" * 200_000,
    "closed deep lists": b"[" * 100_000 + b"]" * 100_000, "deep objects": b'{"a":' * 100_000, "NaN": b'{"format": NaN}',
    "Infinity": b"[-Infinity]", "an endless integer": b"1" * 100_000, "a key twice": b'{"format": 1, "format": 1}',
    "half a surrogate": b'{"\\ud800": 1}',
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_are_no_certificates(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(TEXTS[name], tmp_path, capsys)


def test_a_file_cut_off_anywhere_is_no_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps(case(n=6, d=2, decay=0.2)[0]).encode()
    for length in range(0, len(text), 97):
        refused(text[:length], tmp_path, capsys)
    refused(text + b"}", tmp_path, capsys)


@pytest.mark.parametrize("value", [1, 0.5, None, True, [], {}, "x", "0x1p", 10**30, [[[[[]]]]], {"a": {"b": []}}])
def test_anything_anywhere_is_answered(value: Any) -> None:
    original, best = case(n=6, d=2, decay=0.2)
    for path in every_place(original):
        content = copy.deepcopy(original)
        set_at(*path, value)(content)
        with suppress(NotACertificate):
            assert 0 <= checked(content).lower_bound <= best


def every_place(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All paths, but only the first two entries of lists."""
    if path:
        yield path
    if isinstance(value, list | dict):
        for key, entry in value.items() if isinstance(value, dict) else list(enumerate(value))[:2]:
            yield from every_place(entry, (*path, key))


@pytest.mark.parametrize("limit", ["MOST_BYTES", "MOST_PRODUCTS"])
def test_what_is_too_large_is_refused(
    limit: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, _ = case()
    monkeypatch.setattr(checker, limit, 500)
    with pytest.raises(NotACertificate, match="too large"):
        checked(content)
    refused(json.dumps(content).encode(), tmp_path, capsys)


def test_subnormal_and_largest_numbers_are_bounded_work() -> None:
    content, best = case(n=6, d=2, decay=0.2)
    for path, number in zip(places(content["evidence"]["plus"]), [5e-324, 1e-310, 1e300, 1e-200] * 100, strict=False):
        put(content["evidence"]["plus"], path, lambda _, number=number: number)  # type: ignore[misc]
    bound = checked(content)
    assert 0 <= bound.lower_bound <= best
    assert bound.seconds < 5


# ------------------------------------------------------------------------------------ the command


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The one file alone, in an interpreter that sees no installed package."""
    copied = Path(shutil.copy(checker.__file__, tmp_path / "copied_checker.py"))

    def run(*arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", *options, str(copied), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.mark.parametrize("options", [(), ("-O",), ("-X", "utf8=0")])
def test_exit_codes_of_a_bare_interpreter(
    bare: Callable[..., subprocess.CompletedProcess[str]], options: tuple[str, ...], tmp_path: Path
) -> None:
    content, _ = case("logistic")
    content["statement"]["preparation"] = "centred,\nβ \ud800 \x1b[2J"
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    run = bare(str(path), options=options)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("PROVEN in exact arithmetic\n")
    assert "\x1b" not in run.stdout

    run = bare(str(path), "--json", options=options)
    assert run.returncode == 0
    result = json.loads(run.stdout.splitlines()[-1])
    bound = checked(content)
    assert {"proven", "lower_bound", "statement", "gap_percent", "incumbent", "reason"} <= set(result)
    assert (result["proven"], result["lower_bound"]) == (True, bound.lower_bound)
    assert result["statement"] == bound.statement

    content["statement"]["lower_bound"] = (1e6).hex()
    path.write_text(json.dumps(content), encoding="utf-8")
    run = bare(str(path), options=options)
    assert (run.returncode, run.stderr) == (1, "")
    assert run.stdout.startswith("NOT PROVEN")

    content["evidence"]["plus"]["rho"] = "nan"
    path.write_text(json.dumps(content), encoding="utf-8")
    run = bare(str(path), options=options)
    assert (run.returncode, run.stdout) == (2, "")
    assert "evidence.plus.rho is 'nan'" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("arguments", [(), ("missing.json",), (".",), ("a.json", "--data"), ("a.json", "--loud")])
def test_wrong_usage(bare: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...]) -> None:
    run = bare(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert "Traceback" not in run.stderr


def write_data(path: Path, X: np.ndarray, y: np.ndarray, how: str) -> None:
    if how == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*(f"x{k}" for k in range(X.shape[1])), "y"])
            writer.writerows([*row, target] for row, target in zip(X.tolist(), y.tolist(), strict=True))
    elif how == "json":
        path.write_text(json.dumps({"X": X.tolist(), "y": y.tolist()}), encoding="utf-8")
    elif how == "compressed":
        np.savez_compressed(path, X=X, y=y)
    else:
        order: Any = "F" if how == "columns" else "C"
        np.savez(path, X=np.array(X, order=order), y=y)


@pytest.mark.parametrize("how", ["csv", "json", "rows", "columns", "compressed"])
@pytest.mark.parametrize("kind", ["f8", "f4", ">f8", "f2", "i8", "i4", "u1", ">i2"])
def test_data_from_files(how: str, kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    X, y = (rng.integers(0, 100, shape).astype(kind) for shape in ((6, 3), 6))
    content = certificate(X.astype(float), y.astype(float), y / 100.0, loss="squared", kind="pairs")
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    data = tmp_path / ("data.csv" if how == "csv" else "data.json" if how == "json" else "data.npz")
    write_data(data, X, y, how)
    assert main([str(path), "--data", str(data)]) == 0
    X[4, 1] += 1
    write_data(data, X, y, how)
    assert main([str(path), "--data", str(data)]) == 1
    write_data(data, X[:4], y[:4], how)
    assert main([str(path), "--data", str(data)]) == 1


UNREADABLE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "missing": ("data.npz", lambda path: None),
    "another kind": ("data.txt", lambda path: path.write_text("1")),
    "no archive": ("data.npz", lambda path: path.write_bytes(b"PK\3\4" + b"x" * 50)),
    "pickled": ("data.npz", lambda path: np.savez(path, X=np.array([[1, "a"]], dtype=object), y=np.ones(1))),
    "complex": ("data.npz", lambda path: np.savez(path, X=np.ones((1, 1), dtype=complex), y=np.ones(1))),
    "texts": ("data.npz", lambda path: np.savez(path, X=np.array([["1"]]), y=np.ones(1))),
    "three axes": ("data.npz", lambda path: np.savez(path, X=np.ones((1, 1, 1)), y=np.ones(1))),
    "targets with two axes": ("data.npz", lambda path: np.savez(path, X=np.ones((1, 1)), y=np.ones((1, 1)))),
    "a number": ("data.npz", lambda path: np.savez(path, X=np.ones(()), y=np.ones(1))),
    "no numbers": ("data.npz", lambda path: np.savez(path, X=np.ones((10**9, 0)), y=np.ones(1))),
    "no targets": ("data.npz", lambda path: np.savez(path, X=np.ones((1, 1)))),
    "no table": ("data.csv", lambda path: path.write_text("a,y\n1,b\n")),
    "an empty table": ("data.csv", lambda path: path.write_bytes(b"\xff\xfe")),
    "no keys": ("data.json", lambda path: path.write_text("[1]")),
    "deep": ("data.json", lambda path: path.write_text("[" * 200_000)),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_data_that_cannot_be_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(case()[0]), encoding="utf-8")
    file, write = UNREADABLE[name]
    write(tmp_path / file)
    assert main([str(path), "--data", str(tmp_path / file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "data" in said.err


def test_a_mismatch_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, _ = case()
    X, y = (np.array(part) for part in numbers_of(content))
    y[5] += 1e-9
    (tmp_path / "certificate.json").write_text(json.dumps(content), encoding="utf-8")
    np.savez(tmp_path / "data.npz", X=X, y=y)
    assert main([str(tmp_path / "certificate.json"), "--data", str(tmp_path / "data.npz"), "--json"]) == 1
    assert "y[5] is " in json.loads(capsys.readouterr().out)["reason"]


def test_the_words_of_a_proof() -> None:
    content, _ = case("logistic", "leaky_relu")
    bound = checked(content)
    said = describe(bound)
    for words in (
        "PROVEN in exact arithmetic", "For every width m", "log(1 + exp(-y_i f(x_i)))", "max(z, 0.25 z)",
        "(0.5 / 2) sum_j (|w_j|^2 + a_j^2)", "a sum over the samples, not a mean", "12 samples, 3 features",
        content["statement"]["data_sha256"], "drawn at random", "the last feature is a constant", "gap ", "incumbent ",
    ):  # fmt: skip
        assert words in said
    # What is printed in decimals must not be above what was proved.
    printed = said.split(">=")[1].split(",")[0]
    assert Fraction(printed.strip()) <= Fraction(bound.lower_bound)
    assert Fraction(said.split("incumbent    ")[1].split()[0]) >= Fraction(bound.incumbent or 0)
    assert max(len(line) for line in said.splitlines()) <= 140


def test_the_standard_library_is_enough() -> None:
    tree = ast.parse(Path(checker.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." * node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)
    # No check may vanish with -O.
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))


def test_check_reads_a_file(tmp_path: Path) -> None:
    content, _ = case()
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    ours, other = check(path), checked(content)
    assert (ours.lower_bound, ours.statement, ours.notes) == (other.lower_bound, other.statement, other.notes)
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "none.json")
