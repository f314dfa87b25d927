"""Outputs in a plane: evidence in directions is put together as it must be, and no network is below what it proves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from convexblocks.certificates import Certificate, OutputsProblem, certify, largest_outputs_weight_decay
from convexblocks.certificates.checker import MOST_DIRECTIONS, NotACertificate, check_text, data_digest, describe
from convexblocks.certificates.outputs_directions import Directions, output_directions
from convexblocks.certificates.outputs_support import worst_output_neurons

KINDS = [("squared", 2, "relu"), ("softmax", 3, "relu"), ("softmax", 3, "leaky_relu"), ("squared", 2, "absolute_value")]
COUNT = 5


def plane_problem(loss: str, outputs: int, activation: str = "relu", *, share: float = 0.3) -> OutputsProblem:
    rng = np.random.default_rng(outputs)
    X = np.hstack([rng.standard_normal((15, 2)), np.ones((15, 1))])
    Z = np.abs(X @ rng.standard_normal((3, outputs))) + 0.3 * rng.standard_normal((15, outputs))
    y = Z - Z.mean(0) if loss == "squared" else np.argmax(Z - Z.mean(0), axis=1)
    problem = OutputsProblem(X, y, loss, outputs, 1.0, activation, 0.2, "column")
    return replace(problem, weight_decay=share * largest_outputs_weight_decay(problem))


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def certified(request: Any) -> tuple[OutputsProblem, Certificate]:
    problem = plane_problem(*request.param)
    return problem, certify(problem, seconds=4)


def by_hand(loss: str, directions: np.ndarray, rhos: np.ndarray) -> tuple[str, float]:
    """A certificate with majorants of zero, H_j = max over signs s of sum_i (s v_i)_+ |x_i| + rho_j; and its bound."""
    problem = plane_problem(loss, directions.shape[1])
    V = problem.negative_gradient(np.zeros(problem.targets.shape)) / 2
    norms = np.linalg.norm(problem.X, axis=1)
    supports = [max(np.maximum(s * V @ a, 0) @ norms for s in (1, -1)) for a in directions] + rhos
    inside = np.eye(2) if loss == "squared" else np.linalg.svd(np.ones((1, 3)))[2][1:]
    seen, corners = directions @ inside.T, []
    for j in range(len(seen)):
        last = j == len(seen) - 1
        rows = np.array([seen[j], -seen[0] if last else seen[j + 1]])
        corners.append(np.linalg.solve(rows, [supports[j], supports[0 if last else j + 1]]))
    H = max(np.linalg.norm(corners, axis=1))
    t = min(1.0, problem.weight_decay / H) if loss == "softmax" else problem.best_scale(V, problem.weight_decay / H)
    zeros = [(0.0).hex()] * 15
    parts = []
    for a, rho in zip(directions, rhos, strict=True):
        side = {"rho": float(rho).hex(), "quadratic": zeros, "linear": zeros, "pairs": [], "rows": None}
        parts.append({"direction": [float(entry).hex() for entry in a], "plus": side, "minus": side})
    duals = {"v": V} if loss == "squared" else {"probabilities": -V[problem.targets == 0].reshape(15, 2)}
    evidence = {name: [[number.hex() for number in row] for row in rows.tolist()] for name, rows in duals.items()}
    X, y = problem.X.tolist(), problem.y.tolist()
    statement = {
        "network": "two_layer_outputs", "outputs": problem.outputs, "activation": "relu", "loss": loss,
        "weight_decay": problem.weight_decay.hex(), "bias": "column", "samples": 15, "features": 3,
        "data_sha256": data_digest(X, y), "lower_bound": (0.0).hex(), "incumbent": None, "preparation": "as given",
    }  # fmt: skip
    data = {"X": [[x.hex() for x in row] for row in X],
            "y": [[z.hex() for z in row] if loss == "squared" else row.hex() for row in y]}  # fmt: skip
    made = {"format": "convexblocks certificate 1", "statement": statement, "data": data, "network": None,
            "evidence": {"kind": "paired_moments", "directions": parts, **evidence}}  # fmt: skip
    return json.dumps(made), problem.dual(t * V)


def spread(loss: str, count: int = COUNT) -> np.ndarray:
    """Uneven directions of various lengths, counterclockwise in half a turn."""
    outputs = 2 if loss == "squared" else 3
    even = output_directions(plane_problem(loss, outputs), count).rows
    rows = even * np.linspace(0.5, 2, count)[:, None]
    rows[1:] += 0.2 * rows[:-1]
    # What is added to all outputs is not seen in the plane.
    return rows if loss == "squared" else rows + np.arange(count)[:, None]


@pytest.mark.parametrize("loss", ["squared", "softmax"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_corners_are_those_of_plain_geometry(loss: str, count: int) -> None:
    text, expected = by_hand(loss, spread(loss, count), np.linspace(0.1, 0.5, count))
    bound = check_text(text)
    assert bound.proven
    assert 0 < bound.lower_bound == pytest.approx(expected, rel=1e-12)


def test_turns_of_more_than_half_a_turn_together_are_covered_too() -> None:
    # Nine turns of sixty degrees lead from the first direction to its negative, once around more than needed.
    angles = np.pi / 3 * np.arange(9)
    bound = check_text(by_hand("squared", np.column_stack([np.cos(angles), np.sin(angles)]), np.full(9, 0.1))[0])
    assert bound.proven
    assert "9 directions of the plane" in bound.notes[1]


GAPS = {
    "reversed": lambda rows: rows * np.where(np.arange(COUNT) == 2, -1, 1)[:, None],
    "doubled": lambda rows: rows[[0, 1, 1, 2, 3, 4]],
    "out of order": lambda rows: rows[[0, 2, 1, 3, 4]],
    "clockwise": lambda rows: rows[::-1],
    "one": lambda rows: rows[:1],
    "one and its negative": lambda rows: rows[[0, 0]] * [[1], [-1]],
    "zero": lambda rows: rows * (np.arange(COUNT) != 3)[:, None],
    "a turn of more than a half": lambda rows: rows[[0, 1, 4]] * [[1], [-1], [-1]],
}


@pytest.mark.parametrize("loss", ["squared", "softmax"])
@pytest.mark.parametrize("name", GAPS)
def test_directions_that_leave_a_gap_are_rejected(loss: str, name: str) -> None:
    rows = GAPS[name](spread(loss))
    seen = rows @ (np.eye(2) if loss == "squared" else np.eye(3) - 1 / 3)
    if name == "zero":
        rows = np.where(np.abs(seen).max(1, keepdims=True) > 0, rows, 7.0)
    text = without_geometry(loss, rows)
    bound = check_text(text)
    assert not bound.proven
    assert bound.lower_bound == 0
    assert "must be counterclockwise and less than a half turn" in bound.reason


def without_geometry(loss: str, rows: np.ndarray) -> str:
    """The certificate of good directions with others in their place."""
    content = json.loads(by_hand(loss, spread(loss), np.full(COUNT, 0.1))[0])
    part = content["evidence"]["directions"][0]
    content["evidence"]["directions"] = [part | {"direction": [float(entry).hex() for entry in row]} for row in rows]
    return json.dumps(content)


def test_a_direction_that_the_plane_does_not_see_is_rejected() -> None:
    rows = spread("softmax")
    rows[2] = 4.0
    assert not check_text(without_geometry("softmax", rows)).proven


@pytest.mark.parametrize("loss", ["squared", "softmax"])
@pytest.mark.parametrize("power", [-1000, 1000])
def test_directions_of_any_length_are_accepted(loss: str, power: int) -> None:
    bound = check_text(without_geometry(loss, spread(loss) * 2.0**power))
    assert bound.proven
    assert f"{COUNT} directions of the plane" in bound.notes[1]


def test_no_network_is_below_the_bound(certified: tuple[OutputsProblem, Certificate]) -> None:
    problem, made = certified
    assert made.bound.proven
    assert made.incumbent is not None
    assert 0 < made.lower_bound <= made.incumbent
    rng, best = np.random.default_rng(0), np.inf
    network = json.loads(made.text)["network"]
    weights, outputs = (np.vectorize(float.fromhex)(np.array(network[name])) for name in ("weights", "outputs"))
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


def test_little_is_lost(certified: tuple[OutputsProblem, Certificate]) -> None:
    _, made = certified
    assert "directions" in json.loads(made.text)["evidence"]
    assert made.gap_percent < 5


def test_h_is_bounded_as_brute_force_finds_it(certified: tuple[OutputsProblem, Certificate]) -> None:
    problem, made = certified
    evidence = json.loads(made.text)["evidence"]
    numbers = evidence["v" if problem.loss == "squared" else "probabilities"]
    V = np.vectorize(float.fromhex)(np.array(numbers))
    if problem.loss == "softmax":
        P = np.zeros(problem.targets.shape)
        P[problem.targets == 0] = V.ravel()
        V = np.where(problem.targets == 1, P.sum(1, keepdims=True), -P)
    U = np.random.default_rng(0).standard_normal((20_000, 3))
    g = problem.phi(U @ problem.X.T) @ V / np.linalg.norm(U, axis=1)[:, None]
    h = max(float(np.linalg.norm(g, axis=1).max()), float(worst_output_neurons(problem, V).values[0]))
    # The search scales V so that its bound on h is the weight decay.
    assert h <= problem.weight_decay * (1 + 1e-6)
    assert h >= 0.93 * problem.weight_decay


def test_the_statement_says_in_how_many_directions(certified: tuple[OutputsProblem, Certificate]) -> None:
    _, made = certified
    count = len(json.loads(made.text)["evidence"]["directions"])
    said, lost = describe(made.bound), 100 * (1 - np.cos(np.pi / (2 * count)))
    assert f"outputs bounded in {count} directions of the plane" in said
    assert f"a weight decay smaller by {lost:.2g} %" in said
    assert "one by one" not in said
    assert max(len(line) for line in said.splitlines()) <= 140


@pytest.mark.parametrize("seed", range(8))
def test_tampered_evidence_proves_nothing_false(certified: tuple[OutputsProblem, Certificate], seed: int) -> None:
    problem, made = certified
    rng, content = np.random.default_rng(seed), json.loads(made.text)
    evidence = content["evidence"]
    part = evidence["directions"][int(rng.integers(len(evidence["directions"])))]
    side = part[str(rng.choice(["plus", "minus"]))]
    numbers = evidence["v" if problem.loss == "squared" else "probabilities"]
    owners = [(row, k) for row in numbers for k in range(len(row))] + [(side, "rho")]
    owners += [(side[key], k) for key in ("quadratic", "linear") for k in range(len(problem.y))]
    owners += 20 * [(part["direction"], k) for k in range(problem.outputs)]
    for place in rng.choice(len(owners), 1 + 5 * (seed % 2), replace=False):
        owner, key = owners[place]
        value = float.fromhex(owner[key])
        owner[key] = float(rng.choice([2 * value, -value, 0.0, value + 0.1, 1e300, -1e300, value / 2])).hex()
    content["statement"]["lower_bound"] = (0.0).hex()
    assert 0 <= check_text(json.dumps(content)).lower_bound <= (made.incumbent or 0)


def test_supports_that_are_too_small_cannot_be_had() -> None:
    content = json.loads(by_hand("softmax", spread("softmax"), np.full(COUNT, 0.1))[0])
    content["evidence"]["directions"][3]["minus"] |= {"rho": (-0.1).hex()}
    bound = check_text(json.dumps(content))
    assert not bound.proven
    assert bound.reason.startswith("evidence.directions[3]: evidence.minus: rho I - A")


MALFORMED = {
    "none": lambda content: content["evidence"]["directions"].clear(),
    "too many": lambda content: content["evidence"].update(
        directions=(content["evidence"]["directions"] * MOST_DIRECTIONS)[: MOST_DIRECTIONS + 1]
    ),
    "no list": lambda content: content["evidence"].update(directions={}),
    "a number less": lambda content: content["evidence"]["directions"][1]["direction"].pop(),
    "a number more": lambda content: content["evidence"]["directions"][1]["direction"].append((0.0).hex()),
    "no direction": lambda content: content["evidence"]["directions"][1].pop("direction"),
    "a sign less": lambda content: content["evidence"]["directions"][1].pop("minus"),
    "columns too": lambda content: content["evidence"].update(columns=content["evidence"]["directions"]),
    "columns with directions": lambda content: content["evidence"].update(
        columns=content["evidence"].pop("directions")[:2]
    ),
    "a class number": lambda content: content["evidence"]["directions"][1]["direction"].__setitem__(0, 1),
    "infinite": lambda content: content["evidence"]["directions"][1]["direction"].__setitem__(0, "inf"),
    "evidence is a list": lambda content: content.update(evidence=["directions"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_certificate(name: str) -> None:
    content = json.loads(by_hand("squared", spread("squared"), np.full(COUNT, 0.1))[0])
    MALFORMED[name](content)
    with pytest.raises(NotACertificate):
        check_text(json.dumps(content))


def test_directions_are_for_planes_alone() -> None:
    content = json.loads(by_hand("softmax", spread("softmax"), np.full(COUNT, 0.1))[0])
    content["statement"]["loss"] = "squared"
    content["data"]["y"] = [[label] * 3 for label in content["data"]["y"]]
    content["evidence"]["v"] = [[*row, row[0]] for row in content["evidence"].pop("probabilities")]
    with pytest.raises(NotACertificate, match="expected kind v columns"):
        check_text(json.dumps(content))


def test_both_ways_can_be_read_and_directions_are_tighter() -> None:
    problem = plane_problem("softmax", 3)
    content = json.loads(certify(problem, seconds=3).text)
    directions = check_text(json.dumps(content))
    # Any sides prove something of any vector.
    part = content["evidence"]["directions"][0]
    content["evidence"]["columns"] = [{name: part[name] for name in ("plus", "minus")}] * 3
    del content["evidence"]["directions"]
    content["statement"]["lower_bound"] = (0.0).hex()
    columns = check_text(json.dumps(content))
    assert columns.proven
    assert "outputs bounded one by one" in columns.notes[1]
    assert columns.lower_bound < directions.lower_bound


@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_bound_of_the_search_is_that_of_the_corners(count: int) -> None:
    rng, turn = np.random.default_rng(0), np.pi / count
    directions = output_directions(plane_problem("squared", 2), count)
    np.testing.assert_allclose(np.linalg.norm(directions.rows, axis=1), 1)
    # Points of a set in the plane: exact supports lose no more than the corner of two tangents of a circle.
    g = rng.standard_normal((50, 2))
    supports = torch.as_tensor(np.abs(g @ directions.rows.T).max(0))
    bound, longest = float(directions.bound(supports)), float(np.linalg.norm(g, axis=1).max())
    assert longest <= bound * (1 + 1e-12)
    assert bound <= longest / np.cos(turn / 2) * (1 + 1e-12)
    assert bound <= float(directions.bound(supports, 1e-3)) <= bound + 1.001e-3 * np.log(count)
    columns = Directions(np.eye(2), None)
    assert float(columns.bound(torch.tensor([3.0, 4.0]))) == pytest.approx(5)
