"""The search for several outputs: evidence for every column of V.

It starts from networks whose neurons feed one output each: V = -grad loss at their predictions Z, and column k is the
residual of a problem of one output with the squared loss and targets Z_k + V_k, whose first multipliers are found as
ever. From there all columns are improved together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..formulations.sample_pairs import nearest_pairs
from .evidence import Multipliers, as_evidence, hexes
from .incumbent import make_incumbent
from .moment_start import first_multipliers
from .outputs_incumbent import train_separate
from .outputs_polish import Column, outputs_estimate, polish_outputs
from .outputs_problem import OutputsProblem

SHARES = (0.2, 0.2)
"""Of the time, for the separate networks and for the first multipliers."""
FEW_FEATURES = 12
NEIGHBOURS = (5, 1)
"""Neighbours of each sample in pairs, for up to and above FEW_FEATURES features; few ones get several partners too."""
ROOM = 1e-15
"""By which the probabilities of a sample are lowered, so that their sum does not pass 1 in exact arithmetic."""


def search_outputs(problem: OutputsProblem, seconds: float, *, random_state: int = 0) -> dict[str, Any]:
    """Evidence as it stands in a certificate file, after about so many seconds."""
    began = time.perf_counter()
    columns, start = first_columns(problem, SHARES[0] * seconds, SHARES[1] * seconds, random_state=random_state)
    left = max((1 - sum(SHARES)) * seconds, seconds - (time.perf_counter() - began))
    found, _ = polish_outputs(problem, columns, start, left)
    _, scale = outputs_estimate(problem, columns, found)
    return outputs_evidence(problem, columns, [part.scaled(scale) for part in found])


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
    problem: OutputsProblem, columns: Sequence[Column], found: Sequence[Multipliers]
) -> dict[str, Any]:
    """The evidence as it stands in a certificate file."""
    V = np.column_stack([part.v for part in found])
    sides = []
    for column, part in zip(columns, found, strict=True):
        written = as_evidence(column.problem, column.pairs, part)
        sides.append({name: written[name] for name in ("plus", "minus")})
    if problem.loss == "squared":
        return {"kind": "paired_moments", "v": [hexes(row) for row in V], "columns": sides}
    others = np.maximum(-V[problem.targets == 0].reshape(len(V), -1), 0)
    others *= (1 - ROOM) / np.maximum(others.sum(axis=1, keepdims=True), 1)
    return {"kind": "paired_moments", "probabilities": [hexes(row) for row in others], "columns": sides}
