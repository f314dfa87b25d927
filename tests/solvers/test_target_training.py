"""Training by target blocks: what a step is, that training falls, what is kept of it, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import (
    OUTPUTS,
    SAMPLES,
    data_for,
    digits_split,
    half_squares,
    network_for,
    same_parameters,
    true_loss,
    without_times,
)

from convexblocks.formulations import ACTIVATIONS, LOSSES, TargetBlocks, UsageError, activation
from convexblocks.solvers import History, build_network, fit, fit_targets, load
from convexblocks.solvers.target_steps import run_sweep

LIPSCHITZ = [name for name in ACTIVATIONS if activation(name).slopes[1] <= 1]
DEPTHS = {"1 hidden": (5,), "2 hidden": (5, 4)}
# Plain majorize-minimize steps: one batch, no momentum; the cosine begins at the whole step.
WHOLE = {"step": 1.0, "momentum": 0.0, "batch_size": SAMPLES}


def trained(
    loss: str = "softmax_cross_entropy", name: str = "relu", hidden: tuple[int, ...] = (5,),
    method: TargetBlocks | None = None, *, dtype: torch.dtype = torch.float64, **settings: Any,
) -> tuple[nn.Sequential, History]:  # fmt: skip
    network = network_for(loss, name, hidden, dtype=dtype)
    return network, fit_targets(network, data_for(loss), method, loss=loss, **{"sweeps": 40, **settings})


@pytest.mark.parametrize("hidden", DEPTHS.values(), ids=DEPTHS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", LIPSCHITZ)
def test_the_objective_falls(name: str, loss: str, hidden: tuple[int, ...]) -> None:
    network, history = trained(loss, name, hidden, TargetBlocks(batch_size=8), dtype=torch.float32)
    first, last = history.records[0], history.last
    assert last["objective"] < 0.97 * first["objective"]
    assert last["true_loss"] == pytest.approx(true_loss(network, loss, data_for(loss)), rel=1e-5)
    assert last["penalty"] == pytest.approx(half_squares(network, 0.1), rel=1e-6)
    assert history.stop_reason == "all 40 sweeps done"
    assert "lifted_estimate" not in last


@pytest.mark.parametrize("weight_decay", [0.0, 2.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_step_is_the_gradient_of_the_objective_times_the_inverse_of_the_shared_matrix(
    loss: str, weight_decay: float
) -> None:
    """Against torch's own gradient, for one batch of all samples: with and without products made in advance."""
    network = network_for(loss, "tanh", (5, 4))
    before, (X, y) = copy.deepcopy(network), data_for(loss)
    fit_targets(network, (X, y), TargetBlocks(proximity=0.3, **WHOLE), loss=loss, weight_decay=weight_decay, sweeps=1)

    wanted = torch.as_tensor(LOSSES[loss].encode(y, OUTPUTS[loss]))
    below, linears, moved = torch.as_tensor(X), [m for m in before if isinstance(m, nn.Linear)], []
    penalty = weight_decay / 2 * sum((linear.weight**2).sum() for linear in linears)
    (LOSSES[loss].values(before(below), wanted).sum() + penalty).backward()
    for module in before:
        if isinstance(module, nn.Linear):
            columns = torch.cat([below, torch.ones(SAMPLES, 1, dtype=torch.float64)], 1)
            ridge = torch.full((columns.shape[1],), 0.3 + weight_decay / SAMPLES, dtype=torch.float64)
            ridge[-1] = 0.3
            hessian = columns.T @ columns / SAMPLES + torch.diag(ridge)
            gradient = torch.cat([module.weight.grad, module.bias.grad[:, None]], 1) / SAMPLES
            packed = torch.cat([module.weight, module.bias[:, None]], 1)
            moved.append(packed - torch.linalg.solve(hessian, gradient.T).T)
        below = module(below).detach()
    for linear, packed in zip((m for m in network if isinstance(m, nn.Linear)), moved, strict=True):
        torch.testing.assert_close(torch.cat([linear.weight, linear.bias[:, None]], 1), packed, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["relu", "tanh", "softmax", "arctan"])
def test_exact_steps_solve_the_block(name: str, loss: str) -> None:
    """With a large proximal factor the minimizer and the majorizer's agree; with a small one they do not."""
    ends = {}
    for proximity in (1e4, 0.1):
        for exact in (False, True):
            method = TargetBlocks(proximity=proximity, exact=exact, **WHOLE)
            ends[proximity, exact] = trained(loss, name, (5,), method, sweeps=1)[0]
    start = network_for(loss, name)
    for proximity, agrees in ((1e4, True), (0.1, False)):
        step, exact = ((ends[proximity, which][0].weight - start[0].weight).detach() for which in (False, True))
        assert (float((step - exact).norm()) < 1e-2 * float(step.norm())) is agrees


def test_exact_training_falls() -> None:
    _, history = trained(method=TargetBlocks(exact=True, batch_size=12), sweeps=10)
    assert history.last["objective"] < 0.9 * history.records[0]["objective"]


def test_weight_decay_shrinks_the_weights() -> None:
    sizes = [half_squares(trained(weight_decay=decay, sweeps=100)[0], 1.0) for decay in (0.0, 1.0, 10.0)]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


def test_a_layer_without_bias_and_a_network_without_hidden_layer() -> None:
    X, y = data_for("squared")
    network = nn.Sequential(nn.Linear(4, 2, bias=False)).double()
    fit_targets(network, (X, y), TargetBlocks(proximity=1e-3, **WHOLE), weight_decay=0.5, sweeps=400)
    ridge = np.linalg.solve(X.T @ X + 0.5 * np.eye(4), X.T @ y)
    np.testing.assert_allclose(network[0].weight.detach().numpy(), ridge.T, atol=1e-6)


def test_equal_seeds_give_equal_runs_and_other_seeds_other_ones() -> None:
    method = TargetBlocks(batch_size=7)
    runs = [trained(method=method, random_state=seed, sweeps=5) for seed in (3, 3, 4)]
    assert same_parameters(runs[0][0], runs[1][0])
    assert without_times(runs[0][1].records) == without_times(runs[1][1].records)
    assert not same_parameters(runs[0][0], runs[2][0])


def test_digits_are_learned() -> None:
    train, test = digits_split(0)
    network = build_network((64, 64, 10), "relu", random_state=0)
    history = fit_targets(network, train, validation=test)
    assert history.last["test_accuracy"] > 0.96
    assert all(record["cpu_seconds"] > 0 for record in history.records[1:])


def test_a_run_is_written_and_loaded(tmp_path: Path) -> None:
    out, events = tmp_path / "run", []
    network, history = trained(sweeps=3, out=out, notes={"data": {"name": "small"}}, on_event=events.append)
    assert [event["record"]["sweep"] for event in events] == [1, 2, 3]
    run = load(out)
    assert same_parameters(network, run.module)
    assert run.history.records == history.records
    assert TargetBlocks(**run.settings["formulation"]) == TargetBlocks()
    assert run.settings["batch_size"] == SAMPLES
    with pytest.raises(UsageError, match=r"'targets', which has no activation blocks.*fenchel"):
        run.instance(1, 0)


def test_time_limit_and_interrupts_end_a_run(tmp_path: Path) -> None:
    _, history = trained(time_limit=1e-9)
    assert (history.last["sweep"], history.stop_reason) == (1, "the time limit of 1e-09 s is reached")

    def interrupt(event: dict[str, Any]) -> None:
        if event["record"]["sweep"] == 2:
            raise KeyboardInterrupt

    network, history = trained(on_event=interrupt, out=tmp_path / "run")
    assert history.stop_reason == "interrupted after sweep 2"
    assert same_parameters(network, load(tmp_path / "run").module)


def test_an_interrupt_within_a_sweep_keeps_the_sweep_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit without bias: its weights would be written as they are, not as a copy."""
    X, y = data_for("logistic")
    sweeps = []

    def interrupted(training: Any, generator: torch.Generator) -> None:
        sweeps.append(run_sweep(training, generator))
        if len(sweeps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("convexblocks.solvers.target_training.run_sweep", interrupted)
    network = nn.Sequential(nn.Linear(4, 1, bias=False))
    history = fit_targets(network, (X, y), loss="logistic", out=tmp_path / "run")
    assert history.stop_reason == "interrupted after sweep 2"
    run = load(tmp_path / "run")
    assert same_parameters(network, run.module)
    assert run.history.last["true_loss"] == pytest.approx(true_loss(network, "logistic", (X, y)), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("step", [1e30, 30.0])
def test_a_sweep_that_diverges_is_undone_and_shortens_the_steps(step: float, loss: str) -> None:
    method = TargetBlocks(step=step, batch_size=8)
    network, history = trained(loss, "identity", (5, 4), method, dtype=torch.float32)
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    first, last = history.records[0], history.last
    assert history.records[1]["step"] == 0.0
    assert all(record["objective"] <= first["objective"] for record in history.records)
    assert last["true_loss"] == pytest.approx(true_loss(network, loss, data_for(loss)), rel=1e-5)
    if step == 1e30:
        assert last["sweep"] == 8
        assert "8 sweeps in a row were undone" in history.stop_reason
    else:
        assert last["objective"] < 0.97 * first["objective"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sweeps": 0}, "sweeps is 0"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"time_limit": 0}, "time_limit is 0"),
        ({"random_state": -1}, "random_state is -1"),
        ({"loss": "magic"}, "unknown loss 'magic'"),
        ({"task": "regression"}, "the loss 'softmax_cross_entropy' is for classification"),
        ({"notes": {"a": {1, 2}}}, "no JSON data"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    network, out = network_for(), tmp_path / "run"
    before = copy.deepcopy(network)
    arguments = {"loss": "softmax_cross_entropy", **settings}
    with pytest.raises(UsageError, match=words):
        fit_targets(network, data_for("softmax_cross_entropy"), out=out, **arguments)
    assert same_parameters(network, before)
    assert not out.exists()


def test_networks_that_cannot_be_trained_are_refused() -> None:
    data = data_for("squared")
    with pytest.raises(UsageError, match=r"'exponential' has slopes up to inf"):
        fit_targets(network_for("squared", "exponential"), data)
    with pytest.raises(UsageError, match="cannot be trained by convex blocks"):
        fit_targets(nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)), data)
    frozen = network_for("squared")
    frozen[0].weight.requires_grad_(False)
    with pytest.raises(UsageError, match="frozen"):
        fit_targets(frozen, data)
    with pytest.raises(UsageError, match=r"'targets'.*fit_targets"):
        fit(network_for("squared"), data, "targets")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_gpu_gives_the_same_network_and_a_step_waits_for_nothing(weight_decay: float) -> None:
    data = data_for("softmax_cross_entropy")
    ends = []
    for device in ("cpu", "cuda"):
        network = network_for(hidden=(5, 4)).to(device)
        fit_targets(network, data, TargetBlocks(batch_size=8), weight_decay=weight_decay, sweeps=10)
        ends.append(network.cpu())
    for ours, theirs in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
