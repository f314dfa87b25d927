"""Figures that the package promises, on real runs: accuracy on digits over five seeds, and what warm starts save."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from training_runs import digits_run, digits_split, labels_of, output_of

from convexblocks.solvers import build_network, fit
from convexblocks.solvers.history import History

pytestmark = pytest.mark.slow

SEEDS = range(5)
PROMISED = [
    ("relu", (64,), 0.970),
    ("leaky_relu", (64,), 0.965),
    ("tanh", (64,), 0.965),
    ("sigmoid", (64,), 0.965),
    ("relu", (64, 64, 64), 0.96),
]
IDS = [f"{activation} {'-'.join(map(str, hidden))}" for activation, hidden, _ in PROMISED]


def measured_accuracy(network: nn.Module, seed: int) -> float:
    """Test accuracy of the deployed network, in its own precision."""
    X, y = digits_split(seed)[1]
    return float(np.mean(labels_of(output_of(network, X)) == y))


@cache
def mean_accuracy(activation: str, hidden: tuple[int, ...]) -> float:
    return float(np.mean([measured_accuracy(digits_run(activation, hidden, seed)[0], seed) for seed in SEEDS]))


@pytest.mark.parametrize(("activation", "hidden", "promised"), PROMISED, ids=IDS)
def test_mean_test_accuracy_on_digits(activation: str, hidden: tuple[int, ...], promised: float) -> None:
    assert mean_accuracy(activation, hidden) >= promised


def test_blocks_beat_logistic_regression_on_digits() -> None:
    linear = []
    for seed in SEEDS:
        train, (X, y) = digits_split(seed)
        linear.append(LogisticRegression(max_iter=5000).fit(*train).score(X, y))
    assert mean_accuracy("relu", (64,)) > float(np.mean(linear))


@pytest.mark.parametrize(("activation", "hidden"), [row[:2] for row in PROMISED], ids=IDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_run_is_monotone_and_solves_its_blocks(activation: str, hidden: tuple[int, ...], seed: int) -> None:
    network, history = digits_run(activation, hidden, seed)
    objectives = history.column("objective")
    assert all(after <= before for before, after in pairwise(objectives))
    assert history.last["test_accuracy"] == pytest.approx(measured_accuracy(network, seed), abs=1 / 360)
    missed = [
        (record["sweep"], name, block["unsolved"])
        for record in history.records[1:]
        for name, block in record["blocks"].items()
        if block["unsolved"]
    ]
    assert missed == []


@pytest.mark.parametrize("seed", SEEDS)
def test_true_loss_falls_in_each_of_the_first_ten_sweeps(seed: int) -> None:
    losses = digits_run("relu", (64,), seed)[1].column("true_loss")[:11]
    assert len(losses) == 11
    assert all(after < before for before, after in pairwise(losses))


@pytest.fixture(scope="session")
def audited() -> History:
    return digits_run("relu", (64,), 0, audit_every=10)[1]


def test_warm_starts_need_fewer_iterations_than_cold_ones(audited: History) -> None:
    found = audited.warm_and_cold()
    assert set(found) == {"activation 1", "weight 1", "weight 2"}
    for figures in found.values():
        assert figures["sweeps"] >= 2
        assert figures["warm"] < figures["cold"]


def test_engines_agree_with_clarabel_on_the_real_run(audited: History) -> None:
    assert len(audited.audits) >= 6
    assert all(audit["agrees"] for audit in audited.audits)


def test_real_run_gives_the_same_numbers_twice() -> None:
    train, test = digits_split(0)
    first, history = digits_run("relu", (64,), 0)
    again = build_network((64, 64, 10), "relu", random_state=0)
    repeated = fit(again, train, validation=test, random_state=0)
    assert repeated.column("true_loss") == history.column("true_loss")
    assert repeated.column("lifted_estimate") == history.column("lifted_estimate")
    pairs: Any = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
