"""`convexblocks compare`: what it computes, what it says, and what it refuses before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from convexblocks.commands.main import app
from convexblocks.formulations.catalogue import METHODS, method
from convexblocks.networks import comparison, load_dataset
from convexblocks.networks.comparison import Goal, read_method, train_blocks, train_gradients
from convexblocks.solvers import build_network, fit_targets

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(60, 3))
LABELS = (X[:, 0] + X[:, 1] > 0).astype(int)
TARGETS = X @ np.array([1.0, -2.0, 0.5]) + 0.1 * GENERATOR.normal(size=60)
QUICK = ("--hidden", "4", "--sweeps", "3", "--methods", "fenchel,targets")
GOAL = Goal("softmax_cross_entropy", 0.1, sweeps=3, seconds=None)


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, ["compare", *(str(word) for word in words)])


def save(folder: Path, name: str = "two", **arrays: Any) -> Path:
    np.savez(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return save(tmp_path, X=X, y=LABELS)


def found(result: Result) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    data: dict[str, Any] = json.loads(result.stdout.splitlines()[-1], parse_constant=refuse)
    return data


def test_methods_are_compared_with_means_spreads_and_a_figure(two: Path, tmp_path: Path) -> None:
    plot = tmp_path / "loss.png"
    result = run(two, *QUICK, "--seeds", 2, "--plot", plot, "--json")
    assert result.exit_code == 0, result.output
    data = found(result)
    assert list(data["methods"]) == ["fenchel", "targets", "logistic"]
    assert (data["failed"], data["interrupted"]) == ({}, False)
    assert data["split"] == "one split for each seed"
    for name, figures in data["methods"].items():
        runs = figures["runs"]
        assert [each["seed"] for each in runs] == [0, 1]
        for key, own in (("test_accuracy", "test_accuracy"), ("train_loss", "true_loss"), ("cpu_seconds",) * 2):
            values = [each[own] for each in runs]
            assert figures[key] == pytest.approx(np.mean(values)), (name, key)
            assert figures["spread"][key] == pytest.approx(np.std(values, ddof=1))
    assert data["methods"]["targets"]["sweeps"] == 3
    assert data["plot"] == str(plot)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_run_is_that_of_the_method_itself(two: Path) -> None:
    """The split, the start and the settings are those that the seed and the options say."""
    words = (two, *QUICK[:4], "--methods", "targets", "--seeds", 2, "--set", "targets.batch_size=7", "--json")
    figures = found(run(*words))["methods"]["targets"]
    for seed, each in enumerate(figures["runs"]):
        dataset = load_dataset(two, random_state=seed)
        network = build_network((3, 4, 2), "relu", random_state=seed)
        history = fit_targets(
            network, dataset.train, method("targets", batch_size=7), validation=dataset.test, sweeps=3,
            random_state=seed,
        )  # fmt: skip
        for key in ("true_loss", "objective", "test_accuracy"):
            assert each[key] == history.last[key]


def test_baselines_and_the_linear_model_of_regression(tmp_path: Path) -> None:
    path = save(tmp_path, X=X, y=TARGETS)
    result = run(path, "--hidden", 4, "--methods", "adam,sgd", "--seeds", 1, "--seconds", 0.1, "--json")
    assert result.exit_code == 0, result.output
    methods = found(result)["methods"]
    assert list(methods) == ["adam", "sgd", "ridge"]
    assert all(methods[name]["test_error"] < 1.0 for name in methods)
    assert all(methods[name]["spread"] == {} for name in methods)
    assert all(methods[name]["search_seconds"] > 0 for name in ("adam", "sgd"))


def test_text_fits_the_screen_and_says_what_was_done(two: Path) -> None:
    result = run(two, *QUICK[:4], "--methods", "fenchel,targets,adam", "--seeds", 2, "--seconds", 0.1)
    assert result.exit_code == 0, result.output
    for words in ("two: 48 samples for training, 12 for testing", "one split for each seed", "3 - 4 - 2, relu", " ± ",
                  "Adam:", "held-out fifth", "0.1 CPU seconds each", "logistic"):  # fmt: skip
        assert words in " ".join(result.stdout.split()), words
    assert "bound" not in result.stdout
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= 80


def test_an_own_test_part_is_the_same_for_every_seed(tmp_path: Path) -> None:
    path = save(tmp_path, X=X[:40], y=LABELS[:40], X_test=X[40:], y_test=LABELS[40:])
    assert found(run(path, *QUICK, "--seeds", 2, "--json"))["split"].startswith("the data's own split")


def test_a_method_that_cannot_is_said_and_the_others_go_on(two: Path) -> None:
    words = (two, *QUICK, "--activation", "exponential", "--seeds", 1)
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "targets is left out: the activation 'exponential' has slopes up to inf" in " ".join(result.stdout.split())
    data = found(run(*words, "--json"))
    assert list(data["failed"]) == ["targets"]
    assert list(data["methods"]) == ["fenchel", "logistic"]


def test_where_all_methods_fail_the_exit_code_says_so(two: Path) -> None:
    result = run(two, "--hidden", 4, "--methods", "targets", "--activation", "exponential", "--seeds", 1, "--json")
    assert result.exit_code == 1
    assert list(found(result)["methods"]) == ["logistic"]


def test_an_interrupt_prints_the_runs_that_were_complete(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "train_gradients", interrupted)
    result = run(two, *QUICK[:4], "--methods", "targets,adam", "--seeds", 2)
    assert result.exit_code == 130
    assert "targets (1 of 2)" in result.stdout
    assert "Interrupted" in result.stdout


WRONG = {
    "unknown method": (("--methods", "fenchel,magic"), "unknown method 'magic'; known: fenchel, targets"),
    "no method": (("--methods", ","), "--methods names none"),
    "setting without method": (("--set", "multiplier=2"), "expected METHOD.NAME=VALUE"),
    "setting of a method left out": (("--methods", "adam", "--set", "targets.step=1"), "one of those compared"),
    "unknown setting": (("--set", "targets.speed=1"), "targets has no setting 'speed'"),
    "setting that is no number": (("--set", "fenchel.batch_size=many"), "batch_size is 'many'; expected a number"),
    "no seeds": (("--seeds", "0"), "seeds is 0"),
    "no time": (("--seconds", "0"), "seconds is 0"),
    "weight decay": (("--weight-decay", "-1"), "weight_decay is -1"),
    "figure": (("--plot", "loss.svg"), "expected the name of a PNG file"),
    "folder of the figure": (("--plot", "nowhere/loss.png"), "the folder 'nowhere' does not exist"),
    "device": (("--device", "abacus"), "the device 'abacus' cannot be used here"),
    "width": (("--hidden", "0"), "expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses_are_refused_before_anything_runs(
    case: str, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = WRONG[case]
    result = run(two, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == [two]


def test_settings_of_the_trainer_are_read_too() -> None:
    read = read_method("fenchel", {"multiplier": "0.5", "batch_size": "20", "proximity": "1"})
    assert read.settings == method("fenchel", multiplier=0.5)
    assert read.trainer == {"batch_size": 20, "proximity": 1}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_to_its_cpu_seconds(name: str) -> None:
    dataset = load_dataset("iris")
    network = build_network((4, 8, 3), "relu", random_state=0)
    before = [parameter.clone() for parameter in network.parameters()]
    found = train_blocks(read_method(name, {}), network, dataset, Goal("softmax_cross_entropy", 0.1, 3, 0.3), 0)
    assert found["cpu_seconds"] < 1.5
    assert found["sweeps"] >= 1
    assert found["trace"][0]["cpu_seconds"] == 0.0
    assert found["trace"][-1]["objective"] == found["objective"] < found["trace"][0]["objective"]
    assert all(bool((old == new).all()) for old, new in zip(before, network.parameters(), strict=True))


def test_the_rate_search_is_not_counted() -> None:
    dataset = load_dataset("iris")
    network = build_network((4, 8, 3), "relu", random_state=0)
    found = train_gradients("adam", network, dataset, Goal("softmax_cross_entropy", 0.1, 3, 0.2), 0)
    assert found["cpu_seconds"] == pytest.approx(found["trace"][-1]["cpu_seconds"], abs=0.05)
