"""Training by blocks: what it promises about the objective, the record, the network, stops and bad input."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn
from training_runs import (
    FEATURES,
    OUTPUTS,
    SAMPLES,
    data_for,
    digits_split,
    half_squares,
    labels_of,
    network_for,
    output_of,
    same_parameters,
    small_fit,
    summed_loss,
    true_loss,
    without_times,
)

from convexblocks.formulations import ACTIVATIONS, LOSSES, FenchelLifting, UsageError
from convexblocks.solvers import ENGINES, History, build_network, fit, load
from convexblocks.solvers.sweep import Event

LOSS_NAMES = tuple(LOSSES)
SOFTMAX = "softmax_cross_entropy"
WEIGHT_DECAY = 0.1  # the default of fit
METHODS = [
    FenchelLifting(),
    FenchelLifting(weight_inputs="lifted"),
    FenchelLifting(output_multiplier=1.0),
    FenchelLifting(multiplier=1.0, output_multiplier=0.5, weight_inputs="lifted"),
]
METHOD_IDS = ["default", "lifted inputs", "lifted output", "both"]


def falls(values: list[float]) -> list[float]:
    return [before - after for before, after in pairwise(values)]


# --- the objective -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(5,), (5, 4)], ids=["1 hidden", "2 hidden"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_objective_never_rises_and_falls_at_first(activation: str, loss: str, hidden: tuple[int, ...]) -> None:
    _, history = small_fit(loss, activation, hidden, dtype=torch.float32, sweeps=4)
    steps = falls(history.column("objective"))
    assert min(steps) >= 0
    assert steps[0] > 0
    assert all(block["unsolved"] == 0 for record in history.records[1:] for block in record["blocks"].values())


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("formulation", METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("activation", ["relu", "tanh", "softmax"])
def test_objective_never_rises_with_any_setting(activation: str, formulation: FenchelLifting, loss: str) -> None:
    _, history = small_fit(loss, activation, (5, 4), formulation=formulation, sweeps=4)
    steps = falls(history.column("objective"))
    assert min(steps) >= 0
    assert sum(steps) > 0.01 * history.records[0]["objective"]


@pytest.mark.parametrize("weight_decay", [0.0, 1e-6, 10.0])
@pytest.mark.parametrize("proximity", [1e-4, 10.0])
def test_objective_never_rises_for_extreme_factors(weight_decay: float, proximity: float) -> None:
    _, history = small_fit(weight_decay=weight_decay, proximity=proximity, sweeps=5)
    assert min(falls(history.column("objective"))) >= 0
    assert history.last["objective"] < history.records[0]["objective"]


DEGENERATE = {
    "one feature never changes": lambda X: np.column_stack([np.full(len(X), 2.0), X[:, 1:]]),
    "all inputs are zero": lambda X: 0 * X,
    "all samples are equal": lambda X: X[[0] * len(X)],
    "large features": lambda X: 1e3 * X,
    "tiny features": lambda X: 1e-3 * X,
    "features of unlike scale": lambda X: X * np.geomspace(1e-3, 1e3, X.shape[1]),
}


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("change", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_objective_never_rises_on_degenerate_data(change: Any, weight_decay: float, loss: str) -> None:
    X, y = data_for(loss)
    history = fit(network_for(loss), (change(X), y), loss=loss, weight_decay=weight_decay, sweeps=4)
    assert min(falls(history.column("objective"))) >= 0
    assert history.last["objective"] < history.records[0]["objective"]


def test_one_sample_can_be_fitted() -> None:
    X, y = data_for("squared", samples=3)
    history = fit(network_for("squared"), (X[:1], y[:1]), sweeps=3)
    assert history.last["objective"] < history.records[0]["objective"]


@pytest.mark.parametrize(("scale", "seed"), [(5, 1), (8, 0)])
def test_numbers_that_overflow_on_the_way_do_not_end_training(scale: float, seed: int) -> None:
    # The start is finite, but what the first layer is asked for makes the exponentials above it infinite.
    X, y = data_for(SOFTMAX)
    network = network_for(SOFTMAX, "exponential", (5, 4), seed=seed)
    before = true_loss(network, SOFTMAX, (scale * X, y))
    assert math.isfinite(before)
    history = fit(network, (scale * X, y), sweeps=4)
    assert min(falls(history.column("objective"))) >= 0
    assert true_loss(network, SOFTMAX, (scale * X, y)) <= before


def test_run_that_stands_still_for_long_ends_in_order() -> None:
    # The proximal factor grows with every sweep that is undone; it must not overflow. (A start of 1e300 stands for the
    # 500 such sweeps that lead there from the default.)
    _, history = small_fit("squared", "tanh", sweeps=30, proximity=1e300)
    assert history.last["sweep"] == 30
    assert all(math.isfinite(value) for value in history.column("proximity")[1:])


# --- digits --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Sequential, History]:
    train, test = digits_split(0)
    network = build_network((64, 64, 10), "relu", random_state=0)
    return network, fit(network, train, validation=test, sweeps=10, tolerance=0, audit_every=5)


def test_true_loss_falls_in_each_of_the_first_ten_sweeps_on_digits(digits: tuple[nn.Sequential, History]) -> None:
    losses = digits[1].column("true_loss")
    assert len(losses) == 11
    assert min(falls(losses)) > 0


def test_every_block_on_digits_is_solved_by_a_batched_engine(digits: tuple[nn.Sequential, History]) -> None:
    for record in digits[1].records[1:]:
        assert set(record["blocks"]) == {"activation 1", "weight 1", "weight 2"}
        for block in record["blocks"].values():
            assert block["engine"] in ENGINES
            assert block["unsolved"] == 0
            assert block["gap"] <= 1e-6
            assert block["primal"] <= 1e-6


def test_engines_agree_with_clarabel_on_instances_of_the_run(digits: tuple[nn.Sequential, History]) -> None:
    audits = digits[1].audits
    assert [(audit["sweep"], audit["block"]) for audit in audits] == [
        (sweep, block) for sweep in (1, 6) for block in ("activation 1", "weight 1", "weight 2")
    ]
    for audit in audits:
        assert audit["agrees"] is True
        assert audit["instances"] == (1 if audit["block"] == "weight 2" else 3)
    # The softmax layer is one instance over all samples, too large for the reference: the record says so.
    assert [bool(audit["note"]) for audit in audits] == [False, False, True] * 2


def test_warm_starts_save_iterations_on_digits(digits: tuple[nn.Sequential, History]) -> None:
    found = digits[1].warm_and_cold()
    assert set(found) == {"activation 1", "weight 1", "weight 2"}
    assert all(figures["sweeps"] == 2 for figures in found.values())
    assert all(figures["warm"] < figures["cold"] for figures in found.values())


def test_deployed_network_reproduces_the_figures_of_the_record(digits: tuple[nn.Sequential, History]) -> None:
    network, history = digits
    train, test = digits_split(0)
    assert history.last["true_loss"] == pytest.approx(true_loss(network, SOFTMAX, train), rel=1e-5)
    for name, (X, y) in (("train", train), ("test", test)):
        accuracy = float(np.mean(labels_of(output_of(network, X)) == y))
        assert history.last[f"{name}_accuracy"] == pytest.approx(accuracy, abs=1e-12)


# --- the network and its record ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("batch_size", [None, 7])
def test_network_is_trained_in_place_and_reproduces_the_last_record(
    loss: str, dtype: torch.dtype, batch_size: int | None
) -> None:
    network = network_for(loss, "relu", (5, 4), dtype=dtype)
    before, layers = copy.deepcopy(network), list(network)
    X, y = data_for(loss)
    history = fit(network, (X, y), loss=loss, sweeps=4, batch_size=batch_size)
    assert list(network) == layers
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not same_parameters(before, network)
    # The record is of the weights that the network holds; in double precision its forward pass gives it exactly.
    last, exact = history.last, copy.deepcopy(network).double()
    assert last["true_loss"] == pytest.approx(true_loss(exact, loss, (X, y)), rel=1e-10)
    assert last["penalty"] == pytest.approx(half_squares(network, WEIGHT_DECAY), rel=1e-10)
    assert last["objective"] == pytest.approx(last["true_loss"] + last["penalty"], rel=1e-12)
    first = history.records[0]
    assert first["true_loss"] == pytest.approx(true_loss(before.double(), loss, (X, y)), rel=1e-10)
    output = output_of(exact, X)
    if loss == "squared":
        assert last["train_error"] == pytest.approx(float(((output - torch.tensor(y)) ** 2).mean()), rel=1e-10)
    else:
        assert last["train_accuracy"] == pytest.approx(float(np.mean(labels_of(output) == y)))


def test_trained_network_is_an_ordinary_torch_module() -> None:
    network, _ = small_fit(dtype=torch.float32)
    X, y = data_for(SOFTMAX)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    value = nn.functional.cross_entropy(network(torch.tensor(X, dtype=torch.float32)), torch.tensor(y))
    value.backward()
    optimizer.step()
    again = build_network((FEATURES, 5, 3), "relu", random_state=9)
    again.load_state_dict(network.state_dict())
    assert same_parameters(again, network)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_test_data_are_measured_and_never_trained_on(loss: str) -> None:
    fresh = data_for(loss, samples=11, seed=5)
    with_test, history = small_fit(loss, validation=fresh)
    without, plain = small_fit(loss)
    assert same_parameters(with_test, without)
    output = output_of(with_test, fresh[0])
    if loss == "squared":
        expected, key = float(((output - torch.tensor(fresh[1])) ** 2).mean()), "test_error"
    else:
        expected, key = float(np.mean(labels_of(output) == fresh[1])), "test_accuracy"
    assert history.last[key] == pytest.approx(expected)
    assert len([value for value in history.column(key) if value is not None]) == len(history.records)
    assert key not in plain.last


@pytest.mark.parametrize("as_given", [np.asarray, torch.as_tensor, lambda array: array.tolist()])
def test_data_of_every_make_give_the_same_network(as_given: Any) -> None:
    X, y = data_for(SOFTMAX)
    network = network_for()
    fit(network, (as_given(X), as_given(y)), sweeps=3, tolerance=0)
    assert same_parameters(network, small_fit()[0])


@pytest.mark.parametrize("make", [lambda y: y.astype(float), lambda y: y[:, None], lambda y: y.astype(np.uint8)])
def test_labels_of_every_make_give_the_same_network(make: Any) -> None:
    X, y = data_for(SOFTMAX)
    network = network_for()
    fit(network, (X, make(y)), sweeps=3, tolerance=0)
    assert same_parameters(network, small_fit()[0])


def test_tensors_that_require_gradients_are_data_like_any_other() -> None:
    X, y = data_for("squared")
    tensors = tuple(torch.tensor(array, requires_grad=True) for array in (X, y))
    network = network_for("squared")
    fit(network, tensors, sweeps=3, tolerance=0)
    assert same_parameters(network, small_fit("squared")[0])


def test_data_are_not_changed() -> None:
    X, y = data_for(SOFTMAX)
    kept = X.copy(), y.copy()
    fit(network_for(), (X, y), sweeps=2)
    assert np.array_equal(X, kept[0])
    assert np.array_equal(y, kept[1])


# --- the lifted problem in the record ------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("formulation", METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("hidden", [(5,), (5, 4), (5, 4, 3)])
def test_lifted_estimate_is_at_most_the_objective_before_the_sweep(
    hidden: tuple[int, ...], formulation: FenchelLifting, loss: str
) -> None:
    _, history = small_fit(loss, "tanh", hidden, formulation=formulation, sweeps=5, block_tolerance=1e-9)
    lifted, objectives = history.column("lifted_estimate"), history.column("objective")
    assert lifted[0] is None
    for estimate, objective in zip(lifted[1:], objectives[:-1], strict=True):
        assert 0 <= estimate <= objective + 1e-9 * (1 + objective)
    # The blocks do move: an estimate that only repeated the objective would pass the line above.
    assert lifted[1] < objectives[0] - 1e-3


@pytest.mark.parametrize("formulation", METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("hidden", [(5,), (5, 4), (5, 4, 3)])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_every_layer_has_a_gap_and_none_is_negative(
    hidden: tuple[int, ...], formulation: FenchelLifting, batch_size: int | None
) -> None:
    _, history = small_fit(SOFTMAX, "relu", hidden, formulation=formulation, batch_size=batch_size)
    lifted_layers = len(hidden) + (formulation.output_multiplier is not None)
    assert "layer_gaps" not in history.records[0]
    for record in history.records[1:]:
        assert len(record["layer_gaps"]) == lifted_layers
        assert min(record["layer_gaps"]) >= 0
        assert max(record["layer_gaps"]) > 0


def test_lifted_estimate_is_the_sum_of_its_parts() -> None:
    # One hidden layer, solved here once more by hand: loss, penalty and gap of the activations that minimize the block.
    multiplier = 0.7
    start = network_for(SOFTMAX, "tanh")
    X, y = data_for(SOFTMAX)
    network = copy.deepcopy(start)
    history = fit(
        network, (X, y), FenchelLifting(multiplier=multiplier), sweeps=1, block_tolerance=1e-12
    )
    u, last = torch.tensor(X) @ start[0].weight.T.detach() + start[0].bias.detach(), start[2]
    t = u.clone().requires_grad_()

    def parts() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tanh(t)
        # B(tanh(t), u) without logarithms of the range: Phi(u) - Phi(t) - <u - t, tanh(t)>, Phi = log cosh.
        gap = (torch.log(torch.cosh(u)) - torch.log(torch.cosh(t)) - (u - t) * x).sum()
        output = x @ last.weight.T.detach() + last.bias.detach()
        return nn.functional.cross_entropy(output, torch.tensor(y), reduction="sum"), gap

    optimizer = torch.optim.LBFGS([t], max_iter=500, tolerance_grad=1e-10, tolerance_change=0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss, gap = parts()
        value = loss + multiplier * gap
        value.backward()
        return value

    optimizer.step(closure)
    loss, gap = (float(part.detach()) for part in parts())
    record = history.records[1]
    assert record["layer_gaps"] == pytest.approx([gap], rel=1e-4)
    expected = loss + half_squares(start, WEIGHT_DECAY) + multiplier * gap
    assert record["lifted_estimate"] == pytest.approx(expected, rel=1e-9)


def test_larger_multiplier_keeps_the_activations_nearer_to_the_forward_pass() -> None:
    gaps = [
        small_fit(SOFTMAX, "tanh", formulation=FenchelLifting(multiplier=multiplier), sweeps=1)[1].last["layer_gaps"][0]
        for multiplier in (0.1, 1.0, 10.0)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0


@pytest.mark.parametrize("formulation", METHODS, ids=METHOD_IDS)
def test_record_of_a_sweep_holds_every_block_with_its_figures(formulation: FenchelLifting) -> None:
    _, history = small_fit(SOFTMAX, "relu", (5, 4), formulation=formulation)
    expected = ["activation 2", "activation 1", "weight 1", "weight 2", "weight 3"]
    if formulation.output_multiplier is not None:
        expected.insert(0, "output 3")
    softmax_layer = formulation.output_multiplier is None
    counts = {
        "output 3": SAMPLES, "activation 2": SAMPLES, "activation 1": SAMPLES, "weight 1": 5, "weight 2": 4,
        "weight 3": 1 if softmax_layer else 3,
    }  # fmt: skip
    for record in history.records[1:]:
        assert list(record["blocks"]) == expected
        for name, block in record["blocks"].items():
            assert block["instances"] == counts[name]
            assert block["engine"] in ENGINES
            assert block["seconds"] > 0
            assert block["iterations"] >= 0
            assert 0 <= block["gap"] <= 1e-6
            assert 0 <= block["dual"] < 1e-2
            assert block["primal"] <= 1e-6
            assert block["unsolved"] == 0
    assert history.column("sweep") == [0, 1, 2, 3]
    assert history.column("cpu_seconds") == sorted(history.column("cpu_seconds"))


def test_proximal_factor_falls_after_full_steps_and_grows_after_short_ones() -> None:
    _, history = small_fit("squared", "relu", sweeps=8)
    records = history.records[1:]
    factors = {1.0: 0.8, 0.0: 4.0}
    assert {factors.get(record["step"], 2.0) for record in records} == {0.8, 2.0, 4.0}, "all kinds of steps were meant"
    for record, after in pairwise(records):
        expected = factors.get(record["step"], 2.0)
        assert after["proximity"] == pytest.approx(expected * record["proximity"], rel=1e-12)


# --- reproducibility -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_same_seed_gives_the_same_numbers_twice(activation: str, batch_size: int | None) -> None:
    settings = {"batch_size": batch_size, "audit_every": 2, "random_state": 3}
    first, second = (small_fit(SOFTMAX, activation, (5, 4), dtype=torch.float32, **settings) for _ in range(2))
    assert same_parameters(first[0], second[0])
    assert without_times(first[1].records) == without_times(second[1].records)
    assert without_times(first[1].audits) == without_times(second[1].audits)
    assert first[1].settings == second[1].settings


def test_seed_matters_for_mini_batches_only() -> None:
    assert same_parameters(small_fit(random_state=0)[0], small_fit(random_state=1)[0])
    batched = [small_fit(random_state=seed, batch_size=7)[0] for seed in (0, 1)]
    assert not same_parameters(*batched)


def test_global_generators_are_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, _ = small_fit(batch_size=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    torch.manual_seed(1)
    assert same_parameters(first, small_fit(batch_size=7)[0])


def test_audits_and_test_data_do_not_change_the_training() -> None:
    plain, _ = small_fit(batch_size=7)
    watched, _ = small_fit(batch_size=7, audit_every=1, validation=data_for(SOFTMAX, seed=4))
    assert same_parameters(plain, watched)


# --- mini-batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("batch_size", [1, 7, SAMPLES - 1])
def test_mini_batches_reach_a_lower_objective(loss: str, batch_size: int) -> None:
    _, history = small_fit(loss, "relu", (5,), batch_size=batch_size, sweeps=6)
    assert history.last["objective"] < 0.95 * history.records[0]["objective"]


def test_mini_batches_reach_good_accuracy_on_digits() -> None:
    train, test = digits_split(0)
    network = build_network((64, 64, 10), "relu", random_state=0)
    history = fit(network, train, validation=test, batch_size=300, sweeps=5)
    assert history.last["test_accuracy"] > 0.9


@pytest.mark.parametrize("batch_size", [1, 7, SAMPLES - 1])
def test_every_sweep_of_mini_batches_sees_every_sample_once(batch_size: int) -> None:
    _, history = small_fit(SOFTMAX, "relu", (5, 4), batch_size=batch_size)
    batches = math.ceil(SAMPLES / batch_size)
    for record in history.records[1:]:
        assert record["blocks"]["activation 1"]["instances"] == SAMPLES
        assert record["blocks"]["activation 2"]["instances"] == SAMPLES
        assert record["blocks"]["weight 1"]["instances"] == 5 * batches
        assert record["blocks"]["weight 3"]["instances"] == batches


@pytest.mark.parametrize("batch_size", [SAMPLES, SAMPLES + 1, 10_000])
def test_batch_of_all_samples_is_full_batch_training(batch_size: int) -> None:
    assert same_parameters(small_fit(batch_size=batch_size)[0], small_fit()[0])


def test_mini_batches_are_drawn_anew_in_every_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    from convexblocks.solvers import sweep as module

    seen: list[list[int]] = []
    real = module._batches

    def watched(training: Any) -> Any:
        batches = real(training)
        seen.append(torch.cat([torch.as_tensor(rows) for rows in batches]).tolist())
        return batches

    monkeypatch.setattr(module, "_batches", watched)
    small_fit(batch_size=7)
    assert [sorted(rows) for rows in seen] == [list(range(SAMPLES))] * 3
    assert seen[0] != seen[1]
    assert seen[1] != seen[2]


# --- stops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sweeps", [1, 4])
def test_number_of_sweeps_is_a_stop(sweeps: int) -> None:
    _, history = small_fit(sweeps=sweeps)
    assert history.last["sweep"] == sweeps
    assert history.stop_reason == f"all {sweeps} sweeps done"


def test_small_decrease_in_three_sweeps_in_a_row_is_a_stop() -> None:
    _, history = small_fit(sweeps=500, tolerance=1e-3)
    objectives = history.column("objective")
    assert 3 < history.last["sweep"] < 500
    assert "fell by less than a fraction 0.001" in history.stop_reason
    slow = [fall <= 1e-3 * abs(objectives[place]) * 1.01 for place, fall in enumerate(falls(objectives))]
    assert slow[-3:] == [True] * 3
    # It stops at the first such three.
    assert not any(all(slow[place : place + 3]) for place in range(len(slow) - 3))


def test_tolerance_of_zero_never_stops() -> None:
    # Without hidden layers the optimum is reached after a few sweeps.
    _, stopped = small_fit("logistic", hidden=(), sweeps=80, tolerance=1e-4)
    assert stopped.last["sweep"] < 80, "the run was meant to slow down"
    _, history = small_fit("logistic", hidden=(), sweeps=80, tolerance=0)
    assert history.last["sweep"] == 80


def test_a_run_does_not_stand_still_at_a_point_that_is_not_stationary() -> None:
    # With the first multiplier no sweep goes down any more at an objective of about 2.03; raised multipliers go on.
    _, history = small_fit("squared", "tanh", sweeps=60, tolerance=0)
    steps = history.column("step")[1:]
    assert 0.0 in steps
    assert history.last["objective"] < 1.8
    first = steps.index(0.0)
    assert history.records[first + 2]["tightening"] == pytest.approx(4 * history.records[first + 1]["tightening"])


def test_time_limit_is_a_stop() -> None:
    _, history = small_fit(sweeps=100_000, time_limit=0.3)
    assert 1 <= history.last["sweep"] < 100_000
    assert history.stop_reason == "the time limit of 0.3 s is reached"


def test_at_least_one_sweep_is_made() -> None:
    assert small_fit(sweeps=5, time_limit=1e-9)[1].last["sweep"] == 1


# --- events and audits ---------------------------------------------------------------------------------------------


def test_events_come_in_order_with_what_they_promise() -> None:
    events: list[Event] = []
    _, history = small_fit(SOFTMAX, "relu", (5, 4), sweeps=2, audit_every=2, on_event=events.append)
    blocks = ["activation 2", "activation 1", "weight 1", "weight 2", "weight 3"]
    expected = [(kind, block) for block in blocks for kind in ("audit", "block")] + [("sweep", 1)]
    expected += [("block", block) for block in blocks] + [("sweep", 2)]
    found = []
    for event in events:
        kind = event["event"]
        if kind == "audit":
            found.append((kind, event["audit"]["block"]))
        else:
            found.append((kind, event["block"] if kind == "block" else event["record"]["sweep"]))
    assert found == expected
    assert all(event["seconds"] > 0 for event in events if event["event"] == "block")
    sweeps = [event for event in events if event["event"] == "sweep"]
    assert [event["record"] for event in sweeps] == history.records[1:]
    assert {event["sweeps"] for event in sweeps} == {2}
    assert [event["audit"] for event in events if event["event"] == "audit"] == history.audits


def test_network_already_holds_the_weights_of_the_sweep_when_the_event_comes() -> None:
    X, y = data_for(SOFTMAX)
    network, seen = network_for(), []

    def watch(event: Event) -> None:
        if event["event"] == "sweep":
            seen.append((event["record"]["true_loss"], true_loss(network, SOFTMAX, (X, y))))

    fit(network, (X, y), sweeps=3, tolerance=0, on_event=watch)
    assert len(seen) == 3
    assert all(recorded == pytest.approx(measured, rel=1e-10) for recorded, measured in seen)


@pytest.mark.parametrize("audit_every", [0, 1, 3])
def test_audits_come_every_so_many_sweeps(audit_every: int) -> None:
    _, history = small_fit(sweeps=5, audit_every=audit_every)
    expected = [] if not audit_every else list(range(1, 6, audit_every))
    assert sorted({audit["sweep"] for audit in history.audits}) == expected
    assert len(history.audits) == 3 * len(expected)


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("activation", ["relu", "tanh", "softmax", "softsign"])
@pytest.mark.parametrize("formulation", [METHODS[0], METHODS[3]], ids=["default", "both"])
def test_audits_find_the_engines_in_agreement(activation: str, loss: str, formulation: FenchelLifting) -> None:
    _, history = small_fit(loss, activation, (5, 4), formulation=formulation, sweeps=2, audit_every=1)
    assert len(history.audits) == 2 * len(history.last["blocks"])
    for audit in history.audits:
        assert audit["agrees"] is True, audit
        assert audit["engine"] in ENGINES
        assert audit["objective_gap"] <= audit["allowed_gap"] <= 1e-5
        assert audit["violation"] <= audit["allowed_violation"] <= 1e-8
        assert 1 <= audit["instances"] <= 3


@pytest.mark.parametrize("activation", ["arctan", "probit"])
def test_audit_says_where_there_is_no_model_to_compare_with(activation: str) -> None:
    _, history = small_fit(SOFTMAX, activation, sweeps=1, audit_every=1)
    compared = {audit["block"]: audit["agrees"] for audit in history.audits}
    assert compared == {"activation 1": None, "weight 1": None, "weight 2": True}
    assert all(audit["note"] for audit in history.audits if audit["agrees"] is None)


def test_audit_counts_the_iterations_of_warm_and_cold_starts() -> None:
    _, history = small_fit("squared", "tanh", (5, 4), sweeps=9, audit_every=4)
    for audit in history.audits:
        block = history.records[audit["sweep"]]["blocks"][audit["block"]]
        assert audit["warm_iterations"] == pytest.approx(block["iterations"])
    found = history.warm_and_cold()
    assert list(found) == list(history.last["blocks"])
    for name, figures in found.items():
        of_block = [audit for audit in history.audits if audit["block"] == name]
        assert figures["sweeps"] == len(of_block) == 3
        assert figures["cold"] == pytest.approx(np.mean([audit["cold_iterations"] for audit in of_block]))
        assert figures["warm"] == pytest.approx(np.mean([audit["warm_iterations"] for audit in of_block]))
    assert sum(f["warm"] for f in found.values()) < sum(f["cold"] for f in found.values())


# --- networks and tasks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y_shape", [(SAMPLES,), (SAMPLES, 1)])
def test_regression_with_one_output(y_shape: tuple[int, ...]) -> None:
    X, y = data_for("squared")
    network = build_network((FEATURES, 8, 1), "tanh", random_state=0, dtype=torch.float64)
    history = fit(network, (X, y[:, 0].reshape(y_shape)), sweeps=30)
    assert history.settings["loss"] == "squared"
    output = output_of(network, X)
    assert history.last["true_loss"] == pytest.approx(summed_loss("squared", output, y[:, 0]), rel=1e-10)
    assert history.last["train_error"] < 0.2 * float(np.var(y[:, 0]))


@pytest.mark.parametrize(
    ("outputs", "y", "task", "expected"),
    [
        (1, np.arange(SAMPLES) % 2, None, "logistic"),
        (2, np.arange(SAMPLES) % 2, None, SOFTMAX),
        (3, np.arange(SAMPLES) % 3.0, None, SOFTMAX),
        (1, np.arange(SAMPLES) % 2 == 0, None, "logistic"),
        (1, np.arange(SAMPLES) % 2, "regression", "squared"),
        (1, np.linspace(0, 1, SAMPLES), None, "squared"),
        (2, np.eye(2)[np.arange(SAMPLES) % 2], None, "squared"),
    ],
)
def test_loss_follows_from_the_targets_the_task_and_the_outputs(
    outputs: int, y: np.ndarray, task: str | None, expected: str
) -> None:
    network = build_network((FEATURES, outputs), "relu", random_state=0)
    history = fit(network, (data_for(SOFTMAX)[0], y), task=task, sweeps=1)
    assert history.settings["loss"] == expected
    assert history.settings["task"] == LOSSES[expected].task


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("biases", [(False, True), (True, False), (False, False)])
def test_layers_without_bias_are_trained(loss: str, biases: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(FEATURES, 5, bias=biases[0]), nn.ReLU(), nn.Linear(5, OUTPUTS[loss], bias=biases[1])
    )
    history = fit(network, data_for(loss), loss=loss, sweeps=4)
    assert min(falls(history.column("objective"))) >= 0
    assert history.last["objective"] < 0.98 * history.records[0]["objective"]
    assert [network[0].bias is not None, network[2].bias is not None] == list(biases)
    assert history.settings["biases"] == list(biases)
    assert history.last["true_loss"] == pytest.approx(true_loss(network.double(), loss, data_for(loss)), rel=1e-10)


@pytest.mark.parametrize("activations", [("relu", "tanh", "sigmoid"), ("softmax", "leaky_relu", "elu")])
def test_deep_network_of_unlike_activations(activations: tuple[str, ...]) -> None:
    from convexblocks.solvers.layered import activation_module

    torch.manual_seed(0)
    modules: list[nn.Module] = []
    for inputs, outputs, name in zip((FEATURES, 6, 5), (6, 5, 4), activations, strict=True):
        modules += [nn.Linear(inputs, outputs), activation_module(name)]
    network = nn.Sequential(*modules, nn.Linear(4, 3))
    history = fit(network, data_for(SOFTMAX), sweeps=6)
    assert min(falls(history.column("objective"))) >= 0
    assert history.last["objective"] < history.records[0]["objective"]
    assert len(history.last["layer_gaps"]) == 3


def test_linear_layers_in_a_row_are_trained() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(FEATURES, 5), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    history = fit(network, data_for(SOFTMAX), sweeps=4)
    assert history.settings["activations"] == ["identity", "relu"]
    assert history.last["true_loss"] == pytest.approx(
        true_loss(network.double(), SOFTMAX, data_for(SOFTMAX)), rel=1e-10
    )
    assert history.last["objective"] < history.records[0]["objective"]


def optimum(loss: str, weight_decay: float) -> Ridge | LogisticRegression:
    """Scikit-learn's ridge and logistic regression have the same objective: alpha = weight_decay = 1 / C."""
    X, y = data_for(loss)
    if loss == "squared":
        return Ridge(alpha=weight_decay, solver="cholesky").fit(X, y)
    return LogisticRegression(C=1 / weight_decay, tol=1e-10, max_iter=10_000).fit(X, y)


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("weight_decay", [0.1, 3.0])
def test_without_hidden_layers_the_convex_optimum_is_found(loss: str, weight_decay: float) -> None:
    network, history = small_fit(loss, hidden=(), weight_decay=weight_decay, sweeps=60, block_tolerance=1e-12)
    assert list(history.last["blocks"]) == ["weight 1"]
    model, (X, _) = optimum(loss, weight_decay), data_for(loss)
    np.testing.assert_allclose(network[0].weight.detach().numpy(), np.atleast_2d(model.coef_), atol=1e-4)
    found, expected = output_of(network, X).numpy(), X @ np.atleast_2d(model.coef_).T + model.intercept_
    if loss == SOFTMAX:  # the same number added to all scores changes nothing
        found, expected = (scores - scores.mean(axis=1, keepdims=True) for scores in (found, expected))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("weight_decay", [0.1, 3.0])
def test_lifted_output_without_hidden_layers_comes_near_the_convex_optimum(loss: str, weight_decay: float) -> None:
    # Near only: the minimum of the lifted problem is another point.
    formulation = FenchelLifting(output_multiplier=1.0)
    network, history = small_fit(loss, hidden=(), weight_decay=weight_decay, sweeps=100, formulation=formulation)
    assert list(history.last["blocks"]) == ["output 1", "weight 1"]
    model, best = optimum(loss, weight_decay), copy.deepcopy(network)
    best[0].weight.data = torch.as_tensor(np.atleast_2d(model.coef_))
    best[0].bias.data = torch.as_tensor(np.atleast_1d(model.intercept_))
    least = true_loss(best, loss, data_for(loss)) + half_squares(best, weight_decay)
    assert least * (1 - 1e-9) <= history.last["objective"] <= 1.05 * least


# --- interrupts ----------------------------------------------------------------------------------------------------


def interrupt_at(count: int) -> Any:
    """A listener that presses Ctrl-C at its so many-th event."""
    seen = iter(range(1, 10**6))

    def listen(event: Event) -> None:
        if next(seen) == count:
            raise KeyboardInterrupt

    return listen


# 3 blocks and a sweep make 4 events; with mini-batches of 7 samples 4 times 3 blocks and a sweep make 13.
@pytest.mark.parametrize(("batch_size", "events"), [(None, 4), (7, 13)], ids=["full batch", "mini-batches"])
@pytest.mark.parametrize("where", ["first block", "inside", "at the end", "later"])
def test_interrupt_leaves_the_network_and_the_record_of_the_last_complete_sweep(
    tmp_path: Path, batch_size: int | None, events: int, where: str
) -> None:
    count = {"first block": 1, "inside": events + events - 2, "at the end": 2 * events, "later": 3 * events + 3}[where]
    done = count // events
    X, y = data_for(SOFTMAX)
    network, out = network_for(dtype=torch.float32), tmp_path / "run"
    history = fit(network, (X, y), batch_size=batch_size, sweeps=9, tolerance=0, out=out, on_event=interrupt_at(count))
    assert history.stop_reason == f"interrupted after sweep {done}"
    assert history.column("sweep") == list(range(done + 1))
    run = load(out)
    assert run.history.records == history.records
    assert run.history.stop_reason == history.stop_reason
    for name, module in (("network", network), ("loaded", run.module)):
        found = true_loss(copy.deepcopy(module).double(), SOFTMAX, (X, y))
        assert history.last["true_loss"] == pytest.approx(found, rel=1e-10), name
    assert np.array_equal(run.predict(X), labels_of(output_of(network, X)))


@pytest.mark.parametrize("written", range(1, 9))
def test_interrupt_while_a_file_is_written_leaves_a_loadable_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    from convexblocks.solvers import checkpoint

    # Two files of weights are written before the first sweep and after each.
    calls, real = iter(range(1, 100)), checkpoint.save_file

    def save(tensors: Any, path: Path) -> None:
        if next(calls) == written:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save)
    X, y = data_for(SOFTMAX)
    network, out = network_for(), tmp_path / "run"
    history = fit(network, (X, y), sweeps=9, tolerance=0, out=out)
    assert history.stop_reason.startswith("interrupted after sweep")
    run = load(out)
    last = run.history.last["sweep"]
    assert run.history.records == history.records[: last + 1]
    recorded = run.history.last["true_loss"]
    assert recorded == pytest.approx(true_loss(run.module, SOFTMAX, (X, y)), rel=1e-10)
    assert history.last["true_loss"] == pytest.approx(true_loss(network, SOFTMAX, (X, y)), rel=1e-10)
    for sweep in range(1, last + 1):
        assert run.instance(1, 0, sweep).solution.solved


@pytest.mark.parametrize("measured", range(2, 6))
@pytest.mark.parametrize("batch_size", [None, 7])
def test_interrupt_while_a_sweep_is_measured_undoes_that_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int | None, measured: int
) -> None:
    from convexblocks.solvers import coordinator

    # The untrained network is measured first, then the network after each sweep.
    calls, real = iter(range(1, 100)), coordinator.measure

    def measure(training: Any) -> dict[str, Any]:
        if next(calls) == measured:
            raise KeyboardInterrupt
        return real(training)

    monkeypatch.setattr(coordinator, "measure", measure)
    X, y = data_for(SOFTMAX)
    network = network_for()
    history = fit(network, (X, y), sweeps=9, tolerance=0, batch_size=batch_size, out=tmp_path / "run")
    assert history.stop_reason == f"interrupted after sweep {measured - 2}"
    for module in (network, load(tmp_path / "run").module):
        assert history.last["true_loss"] == pytest.approx(true_loss(module, SOFTMAX, (X, y)), rel=1e-10)


def test_interrupted_training_can_be_continued() -> None:
    X, y = data_for(SOFTMAX)
    network = network_for()
    first = fit(network, (X, y), sweeps=9, tolerance=0, on_event=interrupt_at(9))
    second = fit(network, (X, y), sweeps=2, tolerance=0)
    assert second.records[0]["true_loss"] == pytest.approx(first.last["true_loss"], rel=1e-10)
    assert second.last["objective"] < first.last["objective"]


# --- bad input -----------------------------------------------------------------------------------------------------

X_GOOD, Y_GOOD = data_for(SOFTMAX)
NUMBERS = data_for("squared")[1]


def changed(array: np.ndarray, place: Any, value: Any) -> np.ndarray:
    copied = array.astype(float)
    copied[place] = value
    return copied


class Case:
    """One wrong request: what differs from a good one, and what the message must say."""

    def __init__(self, name: str, fragments: list[str], **given: Any) -> None:
        self.name, self.fragments, self.given = name, fragments, given


REFUSED = [
    Case("NaN in X", ["1 values that are NaN or infinite", "row 3, column 2", "expected finite", "remove"],
         X=changed(X_GOOD, (3, 2), np.nan)),
    Case("inf in X", ["2 values that are NaN or infinite", "row 5, column 1", "expected finite", "fill the gaps"],
         X=changed(X_GOOD, ([5, 7], [1, 0]), np.inf)),
    Case("minus inf in X", ["NaN or infinite", "expected finite"], X=changed(X_GOOD, (0, 0), -np.inf)),
    Case("X is a vector", ["shape (24,)", "expected (samples, features)", "reshape"], X=X_GOOD[:, 0]),
    Case("X has three axes", ["shape (24, 2, 2)", "expected (samples, features)"], X=X_GOOD.reshape(-1, 2, 2)),
    Case("X has no samples", ["empty (shape (0, 4))", "expected at least one sample"], X=X_GOOD[:0], y=Y_GOOD[:0]),
    Case("X has no features", ["empty (shape (24, 0))", "one feature"], X=X_GOOD[:, :0]),
    Case("X is text", ["type <U1", "expected numbers"], X=np.full((24, 4), "a")),
    Case("X is complex", ["complex", "expected numbers"], X=X_GOOD.astype(complex)),
    Case("X is ragged", ["expected"], X=[[1.0, 2.0, 3.0, 4.0], [1.0, 2.0]]),
    Case("X has too many features", ["5 features", "reads 4", "change the first layer"],
         X=np.column_stack([X_GOOD, X_GOOD[:, 0]])),
    Case("y is shorter", ["24 samples", "23 targets", "expected one for each"], y=Y_GOOD[:-1]),
    Case("y is longer", ["24 samples", "25 targets", "expected one for each"], y=[*Y_GOOD, 0]),
    Case("y is missing", ["targets", "expected one for each"], y=None),
    Case("y is one number", ["targets", "expected one for each"], y=3),
    Case("y holds NaN", ["1 values that are NaN", "remove these samples"], y=changed(Y_GOOD, 2, np.nan)),
    Case("targets hold inf", ["1 values that are NaN or infinite", "remove"], loss="squared",
         y=changed(NUMBERS, (2, 1), np.inf), outputs=2),
    Case("labels are fractions", ["not whole numbers", "seen 0.5", "expected integers", "'regression'"],
         task="classification", y=changed(Y_GOOD, 2, 0.5)),
    Case("labels are text", ["expected integers 0, 1, ..., K-1", "Number the classes"],
         y=np.array(["a", "b", "c"])[Y_GOOD]),
    Case("labels are text in objects", ["expected integers 0, 1, ..., K-1", "Number the classes"],
         y=np.array(["a", "b", "c"], dtype=object)[Y_GOOD]),
    Case("label too large", ["from 0 to 3", "expected 0 to 2", "change the last layer"], y=[*Y_GOOD[:-1], 3]),
    Case("label below zero", ["from -1 to 2", "expected 0 to 2", "Number the classes"], y=[*Y_GOOD[:-1], -1]),
    Case("labels start at one", ["from 1 to 3", "expected 0 to 2", "Number the classes"], y=Y_GOOD + 1),
    Case("three labels for the logistic loss", ["from 0 to 2", "expected 0 to 1"], outputs=1),
    Case("logistic loss with two outputs", ["1 output", "has 2", "softmax_cross_entropy"], outputs=2,
         loss="logistic", y=Y_GOOD % 2),
    Case("one class", ["all 24 labels are 1", "only one class", "expected at least two"], y=0 * Y_GOOD + 1),
    Case("labels of two axes", ["shape (24, 3)", "expected one integer label"], loss=SOFTMAX, y=np.eye(3)[Y_GOOD]),
    Case("too few outputs for the targets", ["2 columns", "3 outputs", "expected one column"], y=NUMBERS),
    Case("data are one array", ["ndarray", "expected a pair (X, y)"], data=X_GOOD),
    Case("data are three arrays", ["expected a pair (X, y)"], data=(X_GOOD, Y_GOOD, Y_GOOD)),
    Case("test X of another width", ["the test X has 3 features", "reads 4"], validation=(X_GOOD[:, :3], Y_GOOD)),
    Case("NaN in the test X", ["the test X", "NaN"], validation=(changed(X_GOOD, (0, 0), np.nan), Y_GOOD)),
    Case("test label out of range", ["from 0 to 3", "expected 0 to 2"], validation=(X_GOOD, [*Y_GOOD[:-1], 3])),
    Case("test data are one array", ["expected a pair (X, y)"], validation=X_GOOD),
    Case("test data are an empty pair", ["expected a pair (X, y)"], validation=()),
    Case("unknown loss", ["unknown loss 'hinge'", "known: squared"], loss="hinge"),
    Case("unknown task", ["unknown task 'ranking'", "expected 'classification' or 'regression'"], task="ranking"),
    Case("loss of another task", ["is for regression", "task is 'classification'", "drop one"],
         task="classification", loss="squared"),
    Case("unknown method", ["unknown method 'adam'", "known: fenchel"], formulation="adam"),
    Case("no sweeps", ["sweeps is 0", "expected a whole number"], sweeps=0),
    Case("half a sweep", ["sweeps is 1.5", "expected a whole number"], sweeps=1.5),
    Case("batch of nothing", ["batch_size is 0", "expected a whole number"], batch_size=0),
    Case("weight decay below zero", ["weight_decay is -1", "expected a finite number"], weight_decay=-1),
    Case("weight decay is NaN", ["weight_decay is nan", "expected a finite number"], weight_decay=math.nan),
    Case("tolerance below zero", ["tolerance is -0.1", "expected"], tolerance=-0.1),
    Case("no proximity", ["proximity is 0", "expected a finite number above zero"], proximity=0),
    Case("no block tolerance", ["block_tolerance is 0", "expected"], block_tolerance=0),
    Case("block tolerance of one", ["tolerance is 1", "expected"], block_tolerance=1.0),
    Case("time limit of zero", ["time_limit is 0", "expected"], time_limit=0),
    Case("audits below zero", ["audit_every is -1", "expected"], audit_every=-1),
    Case("audits every half sweep", ["audit_every is 0.5", "expected a whole number"], audit_every=0.5),
    Case("seed below zero", ["random_state is -1", "expected"], random_state=-1),
    Case("seed is a fraction", ["random_state is 0.5", "expected"], random_state=0.5),
    Case("notes that are no JSON data", ["notes", "JSON"], notes={"shift": X_GOOD}),
    Case("weights of the network are NaN", ["layer 0", "NaN", "expected"], spoil=math.nan),
    Case("weights of the network are infinite", ["layer 0", "infinite", "expected"], spoil=math.inf),
    Case("inputs whose squares overflow", ["X", "expected", "scale"], X=1e200 * X_GOOD),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
@pytest.mark.parametrize("existed", [False, True], ids=["new folder", "empty folder"])
def test_bad_input_is_refused_and_nothing_is_changed_or_written(case: Case, existed: bool, tmp_path: Path) -> None:
    given = dict(case.given)
    network = build_network((FEATURES, 5, given.pop("outputs", 3)), "relu", random_state=0)
    if "spoil" in given:
        network[0].weight.data[1, 2] = given.pop("spoil")
    before = copy.deepcopy(network.state_dict())
    data = given.pop("data", (given.pop("X", X_GOOD), given.pop("y", Y_GOOD)))
    out = tmp_path / "deep" / "run"
    if existed:
        out.mkdir(parents=True)
    with pytest.raises(UsageError) as refusal:
        fit(network, data, out=out, **{"sweeps": 2, **given})
    assert [fragment for fragment in case.fragments if fragment not in str(refusal.value)] == []
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == (["deep", "deep/run"] if existed else [])
    for name, array in network.state_dict().items():
        torch.testing.assert_close(array, before[name], rtol=0, atol=0, equal_nan=True)


def test_unsupported_network_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(FEATURES, 5), nn.GELU(), nn.Linear(5, 3))
    with pytest.raises(UsageError, match=r"layer 1 \(GELU"):
        fit(network, (X_GOOD, Y_GOOD), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [{"multiplier": 0.0}, {"output_multiplier": -1.0}, {"weight_inputs": "both"}])
def test_wrong_settings_of_the_method_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"expected"):
        FenchelLifting(**settings)


def test_test_data_of_one_class_or_one_sample_are_fine() -> None:
    X, y = data_for(SOFTMAX)
    _, history = small_fit(validation=(X[:1], y[:1]))
    assert history.last["test_accuracy"] in (0.0, 1.0)


# --- accelerators --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("on_device", [False, True], ids=["data on the host", "data on the device"])
def test_blocks_are_solved_on_the_device_of_the_network(
    tmp_path: Path, batch_size: int | None, on_device: bool
) -> None:
    X, y = data_for(SOFTMAX)
    data: Any = tuple(torch.as_tensor(array).cuda() for array in (X, y)) if on_device else (X, y)
    network = network_for(SOFTMAX, "relu", (5, 4)).cuda()
    history = fit(network, data, sweeps=3, tolerance=0, batch_size=batch_size, audit_every=2, out=tmp_path / "run")
    assert all(parameter.is_cuda for parameter in network.parameters())
    assert history.settings["device"].startswith("cuda")
    assert all(audit["agrees"] for audit in history.audits)
    expected, _ = small_fit(SOFTMAX, "relu", (5, 4), batch_size=batch_size)
    for found, wanted in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-3, atol=1e-3)
    assert same_parameters(load(tmp_path / "run").module, network.cpu())
