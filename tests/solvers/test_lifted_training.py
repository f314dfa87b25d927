"""Training with kept lifted variables: that it learns, what its records hold, what is saved, and what is refused."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from torch import Tensor, nn
from training_runs import (
    SAMPLES,
    data_for,
    digits_split,
    half_squares,
    network_for,
    same_parameters,
    true_loss,
    without_times,
)

from convexblocks.commands.report import write_report
from convexblocks.formulations import LOSSES, InequalityLifting, UsageError
from convexblocks.formulations.catalogue import LIFTED, METHODS, method
from convexblocks.networks import linear_baseline, load_dataset
from convexblocks.solvers import History, build_network, fit_lifted, fit_method, load
from convexblocks.solvers.history import finite

FEW_DIGITS = 300


def trained(
    name: str, loss: str = "softmax_cross_entropy", *, dtype: torch.dtype = torch.float64, **settings: Any
) -> tuple[nn.Sequential, History]:
    network = network_for(loss, "relu", (5, 4), dtype=dtype)
    arguments = {"loss": loss, "sweeps": 4, **settings}
    return network, fit_method(network, data_for(loss), method(name), **arguments)


def test_every_method_without_a_test_of_its_own_is_tested_here() -> None:
    assert set(METHODS) - {"fenchel", "targets", "monotone", "splines"} == set(LIFTED)


@pytest.mark.parametrize("name", LIFTED)
def test_digits_are_learned(name: str) -> None:
    (X, y), test = digits_split(0)
    data = X[:FEW_DIGITS], y[:FEW_DIGITS]
    network = build_network((64, 32, 10), "relu", random_state=0)
    history = fit_method(network, data, method(name), validation=test, sweeps=10)
    first, last = history.records[0], history.last
    assert history.stop_reason == "all 10 sweeps done"
    assert last["train_accuracy"] > 0.75
    assert last["test_accuracy"] > 0.7
    assert last["true_loss"] < 0.7 * first["true_loss"]
    assert last["true_loss"] == pytest.approx(true_loss(network, "softmax_cross_entropy", data), rel=1e-5)
    with torch.no_grad():
        predicted = network(torch.as_tensor(test[0], dtype=torch.float32)).argmax(1).numpy()
    assert last["test_accuracy"] == pytest.approx(np.mean(predicted == test[1]))


@pytest.mark.parametrize("name", LIFTED)
@pytest.mark.parametrize("data", ["iris", "breast_cancer", "diabetes"])
def test_the_defaults_come_near_the_linear_model(data: str, name: str) -> None:
    """A training accuracy at most .03 lower, or an error at most a tenth larger."""
    X, y = load_dataset(data).train
    loss = "squared" if data == "diabetes" else "softmax_cross_entropy"
    outputs = 1 if data == "diabetes" else int(y.max()) + 1
    linear = linear_baseline((X, y), loss=loss, outputs=outputs)
    network = build_network((X.shape[1], 64, outputs), "relu", random_state=0)
    found = fit_method(network, (X, y), method(name), loss=loss, sweeps=30).last
    if data == "diabetes":
        assert found["train_error"] < 1.1 * linear["train_error"]
    else:
        assert found["train_accuracy"] > linear["train_accuracy"] - 0.03


@pytest.mark.parametrize("name", ["inequality", "lpom", "contrastive"])
def test_curved_activations_learn_iris(name: str) -> None:
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    network = build_network((4, 10, 3), "tanh", random_state=0)
    history = fit_method(network, (X, y), method(name), sweeps=20)
    assert history.last["train_accuracy"] > 0.85


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", LIFTED)
def test_every_record_holds_the_loss_of_the_deployed_network(name: str, loss: str) -> None:
    """Measured by torch itself inside the run, after every sweep."""
    data, seen = data_for(loss), []
    network = network_for(loss, "relu", (5, 4), dtype=torch.float32)
    before = true_loss(network, loss, data)

    def look(event: dict[str, Any]) -> None:
        seen.append((true_loss(network, loss, data), half_squares(network, 0.2), event["record"]["sweep"]))

    history = fit_method(network, data, method(name), loss=loss, weight_decay=0.2, sweeps=3, on_event=look)
    assert history.records[0]["true_loss"] == pytest.approx(before, rel=1e-5)
    assert [sweep for *_, sweep in seen] == [1, 2, 3]
    for (loss_then, penalty_then, _), record in zip(seen, history.records[1:], strict=True):
        assert record["true_loss"] == pytest.approx(loss_then, rel=1e-5)
        assert record["penalty"] == pytest.approx(penalty_then, rel=1e-5)
        assert record["objective"] == pytest.approx(record["true_loss"] + record["penalty"])
        assert np.isfinite(record["lifted_estimate"])
        assert min(record["layer_gaps"]) >= 0
        assert all(block["unsolved"] == 0 for block in record["blocks"].values())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("steps", ["exact", "majorized"])
def test_the_objective_of_inequality_lifting_never_rises_at_a_fixed_epsilon(steps: str, loss: str) -> None:
    network = network_for(loss, "relu", (6, 5))
    fixed = InequalityLifting(multiplier=0.5, epsilon=0.3, decay=1.0, steps=steps)
    history = fit_lifted(network, data_for(loss), fixed, loss=loss, sweeps=25)
    values = [record["lifted_estimate"] for record in history.records[1:]]
    assert {record["epsilon"] for record in history.records[1:]} == {0.3}
    assert np.diff(values).max() <= 1e-6 * (1 + values[0])
    assert values[-1] < 0.95 * values[0]


def test_with_a_schedule_it_rises_only_where_epsilon_changed() -> None:
    shrinking = InequalityLifting(multiplier=0.5, epsilon=10.0, least_epsilon=0.05, decay=0.3)
    history = fit_lifted(network_for(hidden=(6, 5)), data_for("softmax_cross_entropy"), shrinking, sweeps=20)
    records = history.records[1:]
    rises = [
        (before["epsilon"], after["epsilon"])
        for before, after in pairwise(records)
        if after["lifted_estimate"] > before["lifted_estimate"] + 1e-6 * (1 + before["lifted_estimate"])
    ]
    assert rises
    assert all(after < before for before, after in rises)
    assert records[-1]["epsilon"] == 0.05


@pytest.mark.parametrize("name", LIFTED)
def test_a_run_is_written_and_loaded(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    network, history = trained(name, out=out, notes={"data": {"name": "small"}}, dtype=torch.float32)
    run = load(out)
    assert same_parameters(network, run.module)
    # Numbers that are not finite (the gap of a block without curvature) are null in a file.
    assert run.history.records == finite(history.records)
    assert type(method(name))(**run.settings["formulation"]) == method(name)
    assert run.settings["samples"] == SAMPLES
    with pytest.raises(UsageError, match=f"'{name}'"):
        run.instance(1, 0)


@pytest.mark.parametrize("name", ["inequality", "lpom", "dladmm"])
def test_a_run_has_a_report(name: str, tmp_path: Path) -> None:
    """Also where closed forms do all, and no block goes to an engine."""
    trained(name, out=tmp_path / "run", sweeps=2)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "Layer gaps" in page
    assert ("Seconds of the blocks" in page) is (name != "lpom")


@pytest.mark.parametrize("name", LIFTED)
def test_equal_seeds_give_equal_runs(name: str) -> None:
    runs = [trained(name, random_state=3) for _ in range(2)]
    assert same_parameters(runs[0][0], runs[1][0])
    assert without_times(runs[0][1].records) == without_times(runs[1][1].records)


@pytest.mark.parametrize("name", LIFTED)
def test_layers_without_bias_keep_none(name: str) -> None:
    layers = nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers[::2]:
            nn.init.xavier_uniform_(layer.weight)
    network = nn.Sequential(*layers)
    data = data_for("softmax_cross_entropy")
    history = fit_method(network, data, method(name), sweeps=3)
    assert len(list(network.parameters())) == 2
    assert history.last["true_loss"] == pytest.approx(true_loss(network, "softmax_cross_entropy", data), rel=1e-5)


def test_time_limit_and_interrupts_end_a_run(tmp_path: Path) -> None:
    _, history = trained("inequality", time_limit=1e-9)
    assert (history.last["sweep"], history.stop_reason) == (1, "the time limit of 1e-09 s is reached")

    def interrupt(event: dict[str, Any]) -> None:
        if event["record"]["sweep"] == 2:
            raise KeyboardInterrupt

    network, history = trained("inequality", on_event=interrupt, out=tmp_path / "run")
    assert history.stop_reason == "interrupted after sweep 2"
    assert same_parameters(network, load(tmp_path / "run").module)


@pytest.mark.parametrize("broken", ["values", "refusal", "interrupt"])
def test_a_sweep_that_breaks_leaves_the_network_of_the_sweep_before(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, sweeps = InequalityLifting.sweep, []

    def breaks(self: InequalityLifting, architecture: Any, state: Any, solve: Any) -> None:
        sweep(self, architecture, state, solve)
        sweeps.append([weight.clone() for weight in state.weights])
        if len(sweeps) < 3:
            return
        state.weights[0] = state.weights[0] * float("nan")
        if broken == "refusal":
            raise UsageError("u holds NaN")
        if broken == "interrupt":
            raise KeyboardInterrupt

    monkeypatch.setattr(InequalityLifting, "sweep", breaks)
    network, history = trained("inequality", out=tmp_path / "run", sweeps=6)
    assert history.last["sweep"] == 2
    assert ("interrupted after sweep 2" if broken == "interrupt" else "of sweep 3 were not finite") in (
        history.stop_reason
    )
    kept: list[Tensor] = [layer.weight for layer in network if isinstance(layer, nn.Linear)]
    for now, then in zip(kept, sweeps[1], strict=True):
        torch.testing.assert_close(now.detach(), then)
    assert same_parameters(network, load(tmp_path / "run").module)


# ------------------------------------------------------------------------------------------------ refusals


REFUSED = {
    "sweeps": ({"sweeps": 0}, "sweeps is 0; expected"),
    "weight decay": ({"weight_decay": -1}, "weight_decay is -1; expected"),
    "time limit": ({"time_limit": 0}, "time_limit is 0; expected"),
    "random state": ({"random_state": -1}, "random_state is -1; expected"),
    "loss": ({"loss": "magic"}, "unknown loss 'magic'; known: squared"),
    "task": ({"task": "regression"}, "the loss 'softmax_cross_entropy' is for classification.*drop one of them"),
    "notes": ({"notes": {"a": {1, 2}}}, "no JSON data"),
}


@pytest.mark.parametrize(("settings", "words"), REFUSED.values(), ids=REFUSED)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    network, out = network_for(), tmp_path / "run"
    before = copy.deepcopy(network)
    arguments = {"loss": "softmax_cross_entropy", **settings}
    with pytest.raises(UsageError, match=words):
        fit_lifted(network, data_for("softmax_cross_entropy"), out=out, **arguments)
    assert same_parameters(network, before)
    assert not out.exists()


@pytest.mark.parametrize("name", LIFTED)
def test_networks_and_data_that_cannot_be_trained_are_refused(name: str, tmp_path: Path) -> None:
    settings, out = method(name), tmp_path / "run"
    X, y = data_for("squared")
    pictures = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    convolution = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    for network in (pictures, convolution):
        with pytest.raises(UsageError, match=r"dense networks.*trained by the method 'targets' or 'monotone': take it"):
            fit_method(network, (X.reshape(-1, 1, 2, 2), y), settings, out=out)
    with pytest.raises(UsageError, match="cannot be trained by convex blocks"):
        fit_method(nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)), (X, y), settings, out=out)
    frozen = network_for("squared")
    frozen[0].weight.requires_grad_(False)
    with pytest.raises(UsageError, match=r"layer 0 of the network is frozen.*call requires_grad_\(True\)"):
        fit_method(frozen, (X, y), settings, out=out)
    gone = network_for("squared")
    with torch.no_grad():
        gone[0].weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match="NaN or infinite; expected finite weights: initialize"):
        fit_method(gone, (X, y), settings, out=out)
    holes = X.copy()
    holes[3, 1] = np.nan
    with pytest.raises(UsageError, match=r"NaN or infinite, the first in row 3, column 1.*remove these rows or fill"):
        fit_method(network_for("squared"), (holes, y), settings, out=out)
    holes = y.copy()
    holes[3, 1] = np.nan
    with pytest.raises(UsageError, match="y holds 1 values that are NaN or infinite; remove these samples"):
        fit_method(network_for("squared"), (X, holes), settings, out=out)
    with pytest.raises(UsageError, match="X has 3 features, but the network reads 4; change"):
        fit_method(network_for("squared"), (X[:, :3], y), settings, out=out)
    assert not out.exists()


def test_an_untrained_network_with_an_infinite_objective_is_refused() -> None:
    network = network_for(activation="identity")
    with torch.no_grad():
        network[0].weight.mul_(1e200)
        network[2].weight.mul_(1e200)
    with pytest.raises(UsageError, match=r"objective of the untrained network is (inf|nan).*scale the features"):
        fit_lifted(network, data_for("softmax_cross_entropy"))


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(UsageError, match="the method is a str; expected the settings of a method"):
        fit_method(network_for("squared"), data_for("squared"), "inequality")  # type: ignore[arg-type]
