"""The search for several outputs: evidence of one output for every V a_j, a_j the directions of outputs_directions.py.

Where the outputs lie in a plane it starts from V = -grad loss at the incumbent. V a_j is the residual of a problem of
one output with the squared loss, whose targets are made so, and whose first multipliers are found as ever.

Elsewhere, by columns, it starts from networks whose neurons feed one output each: V = -grad loss at their predictions
Z, and column k is the residual of a problem with targets Z_k + V_k. From there all are improved together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..formulations.sample_pairs import Pairs, make_pairs, nearest_pairs
from .evidence import Multipliers, as_evidence, busy, hexes
from .incumbent import Incumbent, make_incumbent
from .moment_start import Data, first_multipliers
from .outputs_directions import Directions, output_directions
from .outputs_incumbent import train_separate
from .outputs_polish import Column, outputs_estimate, polish_outputs
from .outputs_problem import OutputsProblem
from .support import worst_neurons

SHARES = (0.2, 0.2)
"""Of the time, for the separate networks and for the first multipliers."""
BUSY = 0.03
"""Pairs in a plane whose first multiplier is below this share of the largest are dropped: all directions share them."""
STARTS = 32
"""Of the ascent to the neuron that a direction wants most."""
FEW_FEATURES = 12
NEIGHBOURS = (5, 1)
"""Neighbours of each sample in pairs, for up to and above FEW_FEATURES features; few ones get several partners too."""
ROOM = 1e-15
"""By which the probabilities of a sample are lowered, so that their sum does not pass 1 in exact arithmetic."""


def search_outputs(
    problem: OutputsProblem, incumbent: Incumbent, seconds: float, *, random_state: int = 0
) -> dict[str, Any]:
    """Evidence as it stands in a certificate file, after about so many seconds."""
    began, directions = time.perf_counter(), output_directions(problem)
    if directions.turn is None:
        columns, start = first_columns(problem, SHARES[0] * seconds, SHARES[1] * seconds, random_state=random_state)
    else:
        columns, start = first_in_plane(problem, directions, incumbent, SHARES[1] * seconds, random_state=random_state)
    left = max((1 - sum(SHARES)) * seconds, seconds - (time.perf_counter() - began))
    found, _ = polish_outputs(problem, directions, columns, start, left)
    _, scale = outputs_estimate(problem, directions, columns, found)
    return outputs_evidence(problem, directions, columns, [part.scaled(scale) for part in found])


def first_in_plane(
    problem: OutputsProblem, directions: Directions, incumbent: Incumbent, seconds: float, *, random_state: int = 0
) -> tuple[list[Column], list[Multipliers]]:
    """The problem of one output of every direction, and its first multipliers."""
    few, problems, start = problem.X.shape[1] <= FEW_FEATURES, [], []
    lengths = [np.linalg.norm(part, axis=1) for part in (incumbent.weights, incumbent.outputs)]
    mass = max(float(lengths[0] @ lengths[1]), 1e-9)
    for v in directions.rows @ incumbent.v.T:
        wanted = worst_neurons(problem.column(v, problem.weight_decay), v, random_state=random_state,
                               starts=incumbent.weights, count=STARTS)  # fmt: skip
        weights, outputs = np.sqrt(mass) * wanted.directions[:1], np.sqrt(mass) * wanted.signs[:1]
        # With this weight decay the network of this neuron alone is optimal for these targets, and v its residual.
        decay = max(float(wanted.values[0]), 1e-9 * problem.weight_decay)
        one = problem.column(problem.phi(problem.X @ weights.T) @ outputs + v, decay)
        pairs = nearest_pairs(problem.X, v, neighbours=NEIGHBOURS[True], conic=few)
        found, _ = first_multipliers(one, pairs, make_incumbent(one, weights, outputs), seconds / len(directions.rows))
        pairs, found = busy(pairs, found, BUSY)
        problems.append(one)
        start.append((pairs, replace(found, v=v)))
    every, all_found = _with_all_pairs(problem.X, start)
    data = Data.of(problems[0], every)
    return [Column(one, every, data) for one in problems], all_found


def _with_all_pairs(
    X: np.ndarray, start: Sequence[tuple[Pairs, Multipliers]]
) -> tuple[Pairs, list[Multipliers]]:
    """The pairs of all directions, idle in those where they were not: what is shared is faster than what is fitting."""
    places: dict[tuple[int, tuple[tuple[int, float], ...]], int] = {}
    owned = []
    for pairs, _ in start:
        keys = [(int(of), tuple(partners)) for of, partners in zip(pairs.of, pairs.partners, strict=True)]
        owned.append([places.setdefault(key, len(places)) for key in keys])
    entries = [(place, j, c) for (_, partners), place in places.items() for j, c in partners]
    pair, partner = (np.array([entry[part] for entry in entries], dtype=int) for part in (0, 1))
    factors = np.array([c for _, _, c in entries], dtype=float)
    every = make_pairs(X, np.array([of for of, _ in places], dtype=int), pair, partner, factors)
    lengths = np.maximum(np.linalg.norm(every.differences, axis=1), 1e-12)
    found = []
    for (_, part), own in zip(start, owned, strict=True):
        weights, widths = np.zeros((2, len(every))), np.tile(lengths, (2, 1))
        weights[:, own], widths[:, own] = part.pairs, part.pair_width
        found.append(replace(part, pairs=weights, pair_width=widths))
    return every, found


def first_columns(
    problem: OutputsProblem, training_seconds: float, seconds: float, *, random_state: int = 0
) -> tuple[list[Column], list[Multipliers]]:
    """The problem of one output of every column, and its first multipliers."""
    neurons, _ = train_separate(problem, seconds=training_seconds, random_state=random_state)
    Z, masses = problem.predictions(neurons.weights, neurons.outputs), neurons.masses(problem.outputs)
    V = problem.negative_gradient(Z)
    shares = np.maximum(masses / max(float(np.linalg.norm(masses)), 1e-300), 1e-3)
    few = problem.X.shape[1] <= FEW_FEATURES
    columns, start = [], []
    for k in range(problem.outputs):
        one = problem.column(Z[:, k] + V[:, k], problem.weight_decay * float(shares[k]))
        # Of the softmax loss the samples of the class pull one way, all others the other way.
        pairs = nearest_pairs(problem.X, problem.targets[:, k], neighbours=NEIGHBOURS[not few], conic=few)
        chosen = neurons.groups == k
        incumbent = make_incumbent(one, neurons.weights[chosen], neurons.outputs[chosen, k])
        found, _ = first_multipliers(one, pairs, incumbent, seconds / problem.outputs)
        columns.append(Column.of(one, pairs))
        start.append(replace(found, v=V[:, k]) if problem.loss == "softmax" else found)
    return columns, start


def outputs_evidence(
    problem: OutputsProblem, directions: Directions, columns: Sequence[Column], found: Sequence[Multipliers]
) -> dict[str, Any]:
    """The evidence as it stands in a certificate file."""
    V, parts = directions.together(found), []
    for direction, column, part in zip(directions.rows, columns, found, strict=True):
        written = as_evidence(column.problem, column.pairs, part)
        sides = {name: written[name] for name in ("plus", "minus")}
        parts.append(sides if directions.turn is None else {"direction": hexes(direction), **sides})
    made = {"kind": "paired_moments", "columns" if directions.turn is None else "directions": parts}
    if problem.loss == "squared":
        return made | {"v": [hexes(row) for row in V]}
    others = np.maximum(-V[problem.targets == 0].reshape(len(V), -1), 0)
    others *= (1 - ROOM) / np.maximum(others.sum(axis=1, keepdims=True), 1)
    return made | {"probabilities": [hexes(row) for row in others]}
