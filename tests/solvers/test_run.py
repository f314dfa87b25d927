"""Runs as folders: what is written, what load gives back, instances of blocks that are alive, and damaged folders."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_runs import (
    FEATURES,
    SAMPLES,
    data_for,
    labels_of,
    network_for,
    output_of,
    same_parameters,
    small_fit,
    true_loss,
    without_times,
)

from convexblocks.formulations import ACTIVATIONS, LOSSES, FenchelLifting, NoConvexModelError, UsageError
from convexblocks.formulations.formulation import penalty
from convexblocks.solvers import Instance, Run, build_network, fit, load
from convexblocks.solvers import checkpoint as checkpoint_module
from convexblocks.solvers.checkpoint import versions
from convexblocks.solvers.history import History, to_line
from convexblocks.solvers.layered import read_network
from convexblocks.solvers.safeguards import rebalance

SOFTMAX = "softmax_cross_entropy"
LOSS_NAMES = tuple(LOSSES)
SWEEPS = 3
WEIGHT_DECAY = 0.1


def written(
    out: Path, loss: str = SOFTMAX, activation: str = "relu", hidden: tuple[int, ...] = (5, 4), **settings: Any
) -> tuple[nn.Sequential, History]:
    return small_fit(loss, activation, hidden, **{"dtype": torch.float32, "out": out, "sweeps": SWEEPS, **settings})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Sequential, History]:
    out = tmp_path_factory.mktemp("runs") / "run"
    fresh, notes = data_for(SOFTMAX, seed=3), {"data": {"name": "toy"}}
    network, history = written(out, audit_every=2, validation=fresh, notes=notes)
    return out, network, history


@pytest.fixture
def copied(saved: tuple[Path, nn.Sequential, History], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


# --- the folder ----------------------------------------------------------------------------------------------------


def test_folder_holds_these_files_and_no_others(saved: tuple[Path, nn.Sequential, History]) -> None:
    found = sorted(path.relative_to(saved[0]).as_posix() for path in saved[0].rglob("*") if path.is_file())
    weights = [f"weights/{sweep:04d}.safetensors" for sweep in range(SWEEPS + 1)]
    plain = ["audits.jsonl", "data.npz", "history.jsonl", "network.safetensors", "run.json"]
    assert found == sorted(plain + weights)


def test_run_json_says_what_was_asked_for_and_how_it_ended(saved: tuple[Path, nn.Sequential, History]) -> None:
    out, _, history = saved
    described = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert described["format"] == 1
    assert described["settings"] == history.settings
    assert described["random_state"] == 0
    assert described["notes"] == {"data": {"name": "toy"}}
    assert described["stop_reason"] == history.stop_reason == f"all {SWEEPS} sweeps done"
    assert described["versions"] == versions()
    assert described["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__
    assert described["versions"]["cvxpy"] == cp.__version__
    assert {"python", "numpy", "scipy", "clarabel", "scs", "scikit-learn", "convexblocks"} <= set(described["versions"])
    assert described["last"]["objective"] == history.last["objective"]
    assert described["last"]["test_accuracy"] == history.last["test_accuracy"]
    assert described["iterations_warm_and_cold"] == history.warm_and_cold()
    settings = described["settings"]
    assert settings["widths"] == [FEATURES, 5, 4, 3]
    assert settings["activations"] == ["relu", "relu"]
    assert settings["formulation"] == {"multiplier": 0.1, "output_multiplier": None, "weight_inputs": "forward"}
    assert (settings["dtype"], settings["device"], settings["samples"]) == ("float32", "cpu", SAMPLES)
    assert (settings["loss"], settings["task"], settings["weight_decay"]) == (SOFTMAX, "classification", WEIGHT_DECAY)


def test_lines_of_the_history_are_the_records(saved: tuple[Path, nn.Sequential, History]) -> None:
    out, _, history = saved
    for name, expected in (("history", history.records), ("audits", history.audits)):
        lines = (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == expected
        assert len(lines) > 1


def test_weights_of_every_sweep_reproduce_its_record(saved: tuple[Path, nn.Sequential, History]) -> None:
    out, network, history = saved
    for record in history.records:
        again = build_network((FEATURES, 5, 4, 3), "relu", random_state=9)
        again.load_state_dict(load_file(out / "weights" / f"{record['sweep']:04d}.safetensors"))
        found = true_loss(again.double(), SOFTMAX, data_for(SOFTMAX))
        assert record["true_loss"] == pytest.approx(found, rel=1e-10)
    start = load_file(out / "weights" / "0000.safetensors")
    assert torch.equal(start["0.weight"], network_for(SOFTMAX, "relu", (5, 4), dtype=torch.float32)[0].weight.detach())
    last = load_file(out / "network.safetensors")
    assert set(last) == set(network.state_dict())
    assert all(torch.equal(last[name], array) for name, array in network.state_dict().items())


def test_data_are_kept_as_the_network_saw_them_without_pickle(saved: tuple[Path, nn.Sequential, History]) -> None:
    with np.load(saved[0] / "data.npz", allow_pickle=False) as arrays:
        X, y = data_for(SOFTMAX)
        assert set(arrays.files) == {"X", "y"}
        assert np.array_equal(arrays["X"], X)
        assert np.array_equal(arrays["y"], y)


def test_every_file_is_plain_data(saved: tuple[Path, nn.Sequential, History]) -> None:
    for path in saved[0].rglob("*.json*"):
        for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            assert isinstance(json.loads(line), dict)
    for path in saved[0].rglob("*.safetensors"):
        assert len(load_file(path)) == 6
    with np.load(saved[0] / "data.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "if" for name in arrays.files)


def test_pickle_is_never_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pickle

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read or written")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    monkeypatch.setattr(torch, "save", forbidden)
    written(tmp_path / "run")
    assert load(tmp_path / "run").data is not None


def test_run_is_loadable_after_each_sweep(tmp_path: Path) -> None:
    out, seen = tmp_path / "run", []

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "sweep":
            run = load(out)
            seen.append((run.history.last["sweep"], true_loss(run.module.double(), SOFTMAX, data_for(SOFTMAX))))
            assert run.history.last == event["record"]
            assert "running" in run.history.stop_reason

    _, history = written(out, on_event=look)
    assert [sweep for sweep, _ in seen] == [1, 2, 3]
    assert [found for _, found in seen] == pytest.approx(history.column("true_loss")[1:], rel=1e-10)


def test_written_and_unwritten_runs_are_the_same_training(saved: tuple[Path, nn.Sequential, History]) -> None:
    network, history = small_fit(
        SOFTMAX, "relu", (5, 4), dtype=torch.float32, audit_every=2, validation=data_for(SOFTMAX, seed=3), sweeps=SWEEPS
    )
    assert same_parameters(network, saved[1])
    assert without_times(history.records) == without_times(saved[2].records)


def test_numbers_that_are_not_finite_become_null() -> None:
    line = to_line({"a": math.inf, "b": [math.nan, 1.5], "c": {"d": -math.inf, 3: "x"}})
    assert json.loads(line) == {"a": None, "b": [None, 1.5], "c": {"d": None, "3": "x"}}


# --- what load gives back ------------------------------------------------------------------------------------------


def test_loaded_run_is_the_run(saved: tuple[Path, nn.Sequential, History]) -> None:
    out, network, history = saved
    run = load(out)
    assert isinstance(run, Run)
    assert same_parameters(run.module, network)
    assert str(run.module) == str(network)
    assert run.history == history
    assert run.settings == history.settings
    assert run.notes == {"data": {"name": "toy"}}
    assert run.path == out
    assert load(str(out)).history == history


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(
    "activation", [*ACTIVATIONS, "leaky_relu(0.3)", "clipped_relu(1.5)", "soft_shrink(0.2)", "soft_shrink(0)"]
)
def test_every_network_comes_back_to_the_last_bit(tmp_path: Path, activation: str, dtype: torch.dtype) -> None:
    network, _ = written(tmp_path / "run", SOFTMAX, activation, (4,), dtype=dtype, sweeps=1)
    run = load(tmp_path / "run")
    assert same_parameters(run.module, network)
    X, _ = data_for(SOFTMAX)
    assert torch.equal(output_of(run.module, 3 * X), output_of(network, 3 * X))


@pytest.mark.parametrize("module", [nn.LeakyReLU(1 / 3), nn.Hardtanh(0, 1 / 3), nn.Softshrink(1 / 3), nn.ReLU6()])
def test_parameter_of_an_activation_comes_back_to_the_last_bit(tmp_path: Path, module: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(FEATURES, 5), module, nn.Linear(5, 3)).double()
    X, y = data_for(SOFTMAX)
    fit(network, (X, y), sweeps=1, out=tmp_path / "run")
    assert torch.equal(output_of(load(tmp_path / "run").module, 100 * X), output_of(network, 100 * X))


def test_network_with_linear_layers_in_a_row_and_without_bias_comes_back(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(FEATURES, 5, bias=False), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    X, y = data_for(SOFTMAX)
    fit(network, (X, y), sweeps=2, out=tmp_path / "run")
    run = load(tmp_path / "run")
    assert same_parameters(run.module, network)
    assert torch.equal(output_of(run.module, X), output_of(network, X))
    assert run.instance(2, 3).solution.solved


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("scaling", [False, True])
def test_predictions_are_those_of_the_network_on_scaled_inputs(tmp_path: Path, loss: str, scaling: bool) -> None:
    numbers = {"shift": [1.0, -2.0, 0.5, 3.0], "scale": [2.0, 0.5, 1.0, 10.0]}
    network, _ = written(tmp_path / "run", loss, notes={"scaling": numbers} if scaling else {})
    run = load(tmp_path / "run")
    raw = np.random.default_rng(1).standard_normal((9, FEATURES)) * 2
    seen = (raw - np.array(numbers["shift"])) / np.array(numbers["scale"]) if scaling else raw
    output = output_of(network, seen)
    found = run.predict(raw)
    assert isinstance(found, np.ndarray)
    if loss == "squared":
        assert found.shape == (9, 2)
        np.testing.assert_allclose(found, output.numpy(), rtol=1e-6)
    else:
        assert found.dtype.kind == "i"
        assert np.array_equal(found, labels_of(output))
        assert len(np.unique(found)) > 1
    assert np.array_equal(run.predict(torch.tensor(raw)), found)
    assert np.array_equal(run.predict(raw.tolist()), found)


@pytest.mark.parametrize(
    ("X", "fragments"),
    [
        (np.ones((2, 3)), ["3 features", "reads 4"]),
        (np.ones(4), ["shape (4,)", "expected (samples, features)"]),
        (np.full((2, 4), np.nan), ["NaN or infinite", "expected finite"]),
        (np.full((2, 4), "a"), ["expected numbers"]),
        (np.ones((0, 4)), ["is empty"]),
    ],
)
def test_inputs_that_cannot_be_predicted_are_refused(
    saved: tuple[Path, nn.Sequential, History], X: Any, fragments: list[str]
) -> None:
    with pytest.raises(UsageError) as refusal:
        load(saved[0]).predict(X)
    assert [fragment for fragment in fragments if fragment not in str(refusal.value)] == []


# --- instances of blocks -------------------------------------------------------------------------------------------


def before_sweep(run: Run, sweep: int) -> tuple[list[Tensor], list[Tensor]]:
    """The weights that the blocks of a sweep start from."""
    weights, biases = run.saved.weights_after(sweep - 1)
    layered = read_network(run.module)
    rebalance(layered.architecture(LOSSES[run.settings["loss"]], WEIGHT_DECAY), weights, biases)
    return weights, biases


def one_hot(label: Any, outputs: int) -> np.ndarray:
    return np.eye(outputs)[label]


def checked(run: Run, layer: int, sample: int, sweep: int) -> Instance:
    """An instance, once its live problem is found to be at its optimum and the engine to agree."""
    instance = run.instance(layer, sample, sweep)
    problem = run.subproblem(layer, sample, sweep)
    assert isinstance(problem, cp.Problem)
    assert problem.status == cp.OPTIMAL
    assert instance.solution.solved
    assert instance.reference is not None
    assert instance.reference.solved
    assert instance.reference.engine == "clarabel"
    for variable in problem.variables():
        assert variable.value is not None
        assert np.isfinite(variable.value).all()
    objective = instance.subproblem.objective(instance.solution.variables, instance.data)
    assert problem.value == pytest.approx(float(objective), rel=1e-5, abs=1e-5)
    assert problem.objective.value == pytest.approx(problem.value, rel=1e-6, abs=1e-6)
    assert max((float(np.max(constraint.violation())) for constraint in problem.constraints), default=0.0) < 1e-6
    assert instance.residuals.worst()["gap"] <= 1e-6
    return instance


def parameters_of(problem: cp.Problem) -> dict[str, np.ndarray]:
    return {parameter.name(): np.asarray(parameter.value) for parameter in problem.parameters()}


@pytest.mark.parametrize("sweep", [1, SWEEPS])
@pytest.mark.parametrize("sample", [0, 17, SAMPLES - 1])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_block_of_the_only_hidden_layer_holds_the_data_of_its_sample(
    tmp_path: Path, loss: str, activation: str, sample: int, sweep: int
) -> None:
    written(tmp_path / "run", loss, activation, (5,))
    run = load(tmp_path / "run")
    instance = checked(run, 1, sample, sweep)
    (W1, W2), (b1, b2) = before_sweep(run, sweep)
    X, y = data_for(loss)
    found = parameters_of(instance.problem)
    assert set(found) == {"u", "v", "W", "b"}
    np.testing.assert_allclose(found["u"], W1.numpy() @ X[sample] + b1.numpy(), rtol=1e-12, atol=1e-13)
    wanted = y[sample] if loss == "squared" else [y[sample]] if loss == "logistic" else one_hot(y[sample], 3)
    np.testing.assert_array_equal(found["v"], wanted)
    np.testing.assert_array_equal(found["W"], W2.numpy())
    np.testing.assert_array_equal(found["b"], b2.numpy())
    assert (instance.subproblem.below, instance.subproblem.above) == (0.1, 1.0)
    values = {variable.name(): variable.value for variable in instance.problem.variables()}
    np.testing.assert_allclose(values["x"], instance.solution.variables["x"][0].numpy(), atol=2e-3)
    np.testing.assert_allclose(values["z"], W2.numpy() @ values["x"] + b2.numpy(), atol=1e-6)


@pytest.mark.parametrize("sweep", [1, 2, SWEEPS])
@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu(0.3)"])
def test_lower_blocks_of_a_deep_network_are_fed_with_the_solved_blocks_above(
    tmp_path: Path, activation: str, sweep: int
) -> None:
    written(tmp_path / "run", SOFTMAX, activation, (5, 4, 3), block_tolerance=1e-10)
    run, sample = load(tmp_path / "run"), 6
    weights, biases = before_sweep(run, sweep)
    X, y = data_for(SOFTMAX)
    forward, below = [], torch.tensor(X[sample])
    phi = read_network(run.module).activations[0].phi
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        forward.append(weight @ below + bias)
        below = phi(forward[-1])
    above = one_hot(y[sample], 3)
    for layer in (3, 2, 1):
        instance = checked(run, layer, sample, sweep)
        found = parameters_of(instance.problem)
        # From below comes the forward pass; from above what the block there has just found.
        np.testing.assert_allclose(found["u"], forward[layer - 1].numpy(), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(found["v"], above, atol=1e-9)
        np.testing.assert_array_equal(found["W"], weights[layer].numpy())
        assert (instance.subproblem.loss is not None) is (layer == 3)
        assert instance.subproblem.above == (1.0 if layer == 3 else 0.1)
        above = instance.solution.variables["x"][0].numpy()
        assert not np.allclose(above, phi(forward[layer - 1]).numpy(), atol=1e-6)


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_run_with_lifted_output_has_a_block_of_the_output_layer(
    tmp_path: Path, loss: str, hidden: tuple[int, ...]
) -> None:
    written(tmp_path / "run", loss, "relu", hidden, formulation=FenchelLifting(output_multiplier=0.5))
    run, sample, sweep = load(tmp_path / "run"), 4, 2
    last = len(hidden) + 1
    instance = checked(run, last, sample, sweep)
    assert instance.subproblem.name == "fenchel.output"
    weights, biases = before_sweep(run, sweep)
    X, y = data_for(loss)
    below = torch.tensor(X[sample])
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        below = torch.relu(weight @ below + bias)
    found = parameters_of(instance.problem)
    np.testing.assert_allclose(found["u"], (weights[-1] @ below + biases[-1]).numpy(), rtol=1e-11, atol=1e-12)
    wanted = y[sample] if loss == "squared" else [y[sample]] if loss == "logistic" else one_hot(y[sample], 3)
    np.testing.assert_array_equal(found["y"], wanted)
    if hidden:
        # The layer below aims at the output variable, not at the label.
        lower = checked(run, last - 1, sample, sweep)
        np.testing.assert_allclose(parameters_of(lower.problem)["v"], instance.solution.variables["z"][0], atol=1e-9)
        assert lower.subproblem.loss is None
        assert lower.subproblem.above == 0.5


def test_block_values_are_those_that_training_found(tmp_path: Path) -> None:
    # Full batch and one hidden layer: the gaps of all instances of a sweep add up to the gap in its record.
    written(tmp_path / "run", SOFTMAX, "tanh", (5,), block_tolerance=1e-12)
    run = load(tmp_path / "run")
    phi = read_network(run.module).activations[0]
    for sweep in (1, SWEEPS):
        total = 0.0
        for sample in range(SAMPLES):
            instance = run.instance(1, sample, sweep)
            total += float(phi.gap(instance.solution.variables["x"], instance.data["u"]).sum())
        assert run.history.records[sweep]["layer_gaps"][0] == pytest.approx(total, rel=1e-6)


def test_last_sweep_is_the_default_and_instances_of_mini_batch_runs_exist(tmp_path: Path) -> None:
    written(tmp_path / "run", batch_size=7)
    run = load(tmp_path / "run")
    default, last = run.subproblem(1, 2), run.subproblem(1, 2, SWEEPS)
    assert default.value == last.value
    for name, value in parameters_of(default).items():
        np.testing.assert_array_equal(value, parameters_of(last)[name])
    assert checked(run, 2, 5, 1).solution.solved


def test_problem_is_alive(saved: tuple[Path, nn.Sequential, History]) -> None:
    problem = load(saved[0]).subproblem(1, 3, 2)
    before = problem.value
    parameter = next(p for p in problem.parameters() if p.name() == "u")
    parameter.value = parameter.value + 1.0
    problem.solve(solver=cp.CLARABEL)
    assert problem.status == cp.OPTIMAL
    assert problem.value != pytest.approx(before, rel=1e-6)


def test_reference_has_duals_under_the_labels_of_the_constraints(saved: tuple[Path, nn.Sequential, History]) -> None:
    instance = load(saved[0]).instance(2, 3, 1)
    assert "sent to the next layer" in instance.reference.duals
    assert bool(instance.reference.duals["sent to the next layer"].isfinite().all())


@pytest.mark.parametrize(
    ("request_", "fragments"),
    [
        ((0, 0, 1), ["no activation block of layer 0", "layers 1, 2"]),
        ((3, 0, 1), ["no activation block of layer 3", "layers 1, 2"]),
        ((-1, 0, 1), ["no activation block of layer -1"]),
        ((1, -1, 1), ["no training sample -1", "samples 0 to 23"]),
        ((1, SAMPLES, 1), ["no training sample 24", "samples 0 to 23"]),
        ((1, 0, 0), ["no sweep 0", "sweeps 1 to 3"]),
        ((1, 0, SWEEPS + 1), ["no sweep 4", "sweeps 1 to 3"]),
        ((1, 0, -1), ["no sweep -1"]),
    ],
)
def test_instance_that_does_not_exist_is_refused(
    saved: tuple[Path, nn.Sequential, History], request_: tuple[int, int, int], fragments: list[str]
) -> None:
    with pytest.raises(UsageError) as refusal:
        load(saved[0]).subproblem(*request_)
    assert [fragment for fragment in fragments if fragment not in str(refusal.value)] == []


def test_network_without_hidden_layers_has_no_blocks_to_show(tmp_path: Path) -> None:
    written(tmp_path / "run", SOFTMAX, "relu", ())
    with pytest.raises(UsageError, match="its network has no hidden layer"):
        load(tmp_path / "run").subproblem(1, 0)


@pytest.mark.parametrize("activation", ["arctan", "probit"])
def test_run_without_convex_model_says_why_and_still_predicts(tmp_path: Path, activation: str) -> None:
    network, history = written(tmp_path / "run", SOFTMAX, activation, (5,))
    run = load(tmp_path / "run")
    assert run.history == history
    X, _ = data_for(SOFTMAX)
    assert np.array_equal(run.predict(X), labels_of(output_of(network, X)))
    instance = run.instance(1, 0)
    assert instance.solution.solved
    assert instance.reference is None
    for ask in (lambda: instance.problem, lambda: run.subproblem(1, 0)):
        with pytest.raises(NoConvexModelError, match=rf"'{activation}' has no disciplined convex model"):
            ask()


# --- data that are not kept ----------------------------------------------------------------------------------------


@pytest.fixture
def without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint_module, "LARGEST_SAVED_DATA", 0)
    written(tmp_path / "large")
    return tmp_path / "large"


def test_large_data_are_left_out_and_can_be_given(without_data: Path) -> None:
    assert not (without_data / "data.npz").exists()
    X, y = data_for(SOFTMAX)
    run = load(without_data)
    assert len(run.predict(X)) == SAMPLES
    with pytest.raises(UsageError, match=r"does not hold its training data.*load\(RUN, data=\(X, y\)\)"):
        run.subproblem(1, 0)
    found = load(without_data, data=(X, y)).subproblem(1, 0)
    assert found.status == cp.OPTIMAL
    assert load(without_data, data=(torch.tensor(X), y.tolist())).subproblem(1, 0).value == found.value


@pytest.mark.parametrize(
    "change",
    [
        lambda X, y: (X + 1e-12, y),
        lambda X, y: (X[::-1], y),
        lambda X, y: (X, (y + 1) % 3),
        lambda X, y: (X[:-1], y[:-1]),
    ],
    ids=["one digit", "order", "labels", "fewer"],
)
def test_other_data_are_refused_by_their_fingerprint(without_data: Path, change: Any) -> None:
    with pytest.raises(UsageError, match="not the training data of the run"):
        load(without_data, data=change(*data_for(SOFTMAX)))


def test_given_data_are_checked_like_any_data(without_data: Path) -> None:
    X, y = data_for(SOFTMAX)
    with pytest.raises(UsageError, match="3 features, but the network reads 4"):
        load(without_data, data=(X[:, :3], y))


def test_data_of_a_whole_run_may_be_given_too(saved: tuple[Path, nn.Sequential, History]) -> None:
    assert load(saved[0], data=data_for(SOFTMAX)).subproblem(1, 0).status == cp.OPTIMAL


# --- damage and wrong places ---------------------------------------------------------------------------------------

FILES = ("run.json", "history.jsonl", "network.safetensors", "weights/0001.safetensors", "data.npz")
DAMAGE = {
    "cut in half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "other content": lambda content: b"[1, 2]\n",
    "bytes": lambda content: bytes(range(128, 256)) * 4,
}


def use(path: Path) -> None:
    """Everything that a run is for."""
    run = load(path)
    run.predict(data_for(SOFTMAX)[0])
    run.subproblem(1, 0, 2)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_file_is_refused_with_its_run(copied: Path, name: str, damage: Any) -> None:
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(damage(content))
    with pytest.raises(UsageError, match=str(copied)):
        use(copied)


@pytest.mark.parametrize("name", [*FILES, "weights"])
def test_missing_file_is_refused_with_its_run(copied: Path, name: str) -> None:
    path = copied / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UsageError, match=str(copied)):
        use(copied)


@pytest.mark.parametrize("key", ["settings", "notes", "data_sha256", "stop_reason"])
def test_description_without_a_key_is_refused(copied: Path, key: str) -> None:
    described = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    del described[key]
    (copied / "run.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(UsageError, match="damaged"):
        load(copied, data=data_for(SOFTMAX)).predict(data_for(SOFTMAX)[0])


@pytest.mark.parametrize("key", ["widths", "activations", "biases", "dtype"])
def test_settings_without_a_key_are_refused(copied: Path, key: str) -> None:
    described = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    del described["settings"][key]
    (copied / "run.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(UsageError, match="damaged"):
        load(copied)


def test_weights_of_another_network_are_refused(copied: Path, tmp_path: Path) -> None:
    written(tmp_path / "other", hidden=(6, 4))
    shutil.copy(tmp_path / "other" / "network.safetensors", copied / "network.safetensors")
    with pytest.raises(UsageError, match="damaged"):
        load(copied)


def test_data_of_another_run_are_refused(copied: Path) -> None:
    X, y = data_for(SOFTMAX, seed=8)
    np.savez(copied / "data.npz", X=X, y=y)
    with pytest.raises(UsageError, match=r"damaged|not the training data"):
        use(copied)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch], ids=["nothing", "empty folder", "file"])
def test_path_that_is_no_run_is_refused(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "what"
    make(path)
    with pytest.raises(UsageError, match=r"is not a run: it has no run\.json.*--out"):
        load(path)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_that_holds_a_run_is_never_written_to(copied: Path) -> None:
    before, network = content_of(copied), network_for()
    with pytest.raises(UsageError, match=r"is not empty; expected a new or empty folder: choose another"):
        fit(network, data_for(SOFTMAX), out=copied)
    assert content_of(copied) == before
    assert same_parameters(network, network_for())


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a folder; expected a new or empty folder"):
        fit(network_for(), data_for(SOFTMAX), out=tmp_path / "file")
    with pytest.raises(UsageError, match=r"cannot be written .*choose another"):
        fit(network_for(), data_for(SOFTMAX), out=tmp_path / "file" / "run")
    assert content_of(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom file modes bind")
def test_folder_without_permission_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(UsageError, match=r"cannot be written .*choose another"):
        fit(network_for(), data_for(SOFTMAX), out=closed / "run")


def test_deep_new_folder_is_made(tmp_path: Path) -> None:
    written(tmp_path / "a" / "b" / "run")
    assert load(tmp_path / "a" / "b" / "run").history.last["sweep"] == SWEEPS


def test_penalty_of_the_record_is_that_of_the_saved_weights(saved: tuple[Path, nn.Sequential, History]) -> None:
    run = load(saved[0])
    architecture = read_network(run.module).architecture(LOSSES[SOFTMAX], WEIGHT_DECAY)
    for record in run.history.records:
        weights, _ = run.saved.weights_after(record["sweep"])
        assert record["penalty"] == pytest.approx(float(penalty(architecture, weights)), rel=1e-12)
