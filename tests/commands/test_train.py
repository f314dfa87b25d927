"""`convexblocks train`: runs, their figures, and what is refused before anything is written."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import summed_loss
from typer.testing import CliRunner, Result

from convexblocks.commands.main import app
from convexblocks.commands.train import train
from convexblocks.solvers import fit, load

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(40, 3))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
QUICK = ["--hidden", "4", "--sweeps", "2", "--no-baselines"]


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def last_json(result: Result) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1], parse_constant=refuse)
    return found


def test_digits_run_is_written_and_reported(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run("train", "digits", "--hidden", 8, "--sweeps", 2, "--audit-every", 2, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found = last_json(result)
    assert set(found) >= {"test_accuracy", "train_loss", "lifted_estimate", "sweeps", "cpu_seconds", "seed"}
    assert found["sweeps"] == 2
    assert found["seed"] == 0
    assert found["test_accuracy"] > 0.5
    assert [method["name"] for method in found["baselines"]] == ["Adam", "logistic regression"]
    assert all(method["test_accuracy"] > 0.8 for method in found["baselines"])

    for name in ("network.safetensors", "history.jsonl", "run.json", "baselines.json"):
        assert (out / name).is_file()
    loaded = load(out)
    assert loaded.history.last["true_loss"] == found["train_loss"]
    assert loaded.notes["scaling"]["scale"] == [16.0] * 64
    assert loaded.notes["data"]["split"]["random_state"] == 0


def test_text_says_what_was_done(tmp_path: Path) -> None:
    result = run("train", save(tmp_path / "two.npz", X=X, y=Y), *QUICK, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    for words in ("two: 32 samples for training, 8 for testing", "standardized", "3 - 4 - 2, relu", "all 2 sweeps done",
                  "lifted value (estimate)", "test accuracy", "convexblocks report"):  # fmt: skip
        assert words in result.stdout
    assert "bound" not in result.stdout
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= 80


def test_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    path = save(tmp_path / "two.npz", X=X, y=Y)
    losses = [last_json(run("train", path, *QUICK, "--seed", seed, "--json"))["train_loss"] for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_a_loaded_run_predicts_from_raw_features(tmp_path: Path) -> None:
    raw = 50 + 10 * X
    path = save(tmp_path / "two.npz", X=raw, y=Y)
    found = last_json(run("train", path, "--hidden", 6, "--sweeps", 8, "--no-split", "--no-baselines",
                          "--out", tmp_path / "run", "--json"))  # fmt: skip
    predicted = load(tmp_path / "run").predict(raw)
    assert float(np.mean(predicted == Y)) == found["train_accuracy"] > 0.8
    assert found["test_accuracy"] is None


def test_csv_regression(tmp_path: Path) -> None:
    rows = "".join(f"{a},{b},{a - b}\n" for a, b, _ in X.tolist())
    result = run("train", write(tmp_path / "a.csv", "a,b,y\n" + rows), *QUICK[:4], "--activation", "tanh", "--json")
    found = last_json(result)
    assert found["task"] == "regression"
    assert found["test_error"] >= 0
    assert [method["name"] for method in found["baselines"]] == ["Adam", "ridge regression"]


@pytest.mark.parametrize(
    "options",
    [
        ["--loss", "logistic"],
        ["--loss", "squared"],
        ["--task", "regression"],
        ["--hidden", "3", "--activation", "sigmoid"],
        ["--set", "output_multiplier=1.0", "--set", "weight_inputs=lifted", "--set", "multiplier=0.5"],
        ["--batch-size", "8"],
        ["--no-split", "--no-standardize"],
        ["--activation", "arctan", "--audit-every", "1"],
        ["--tolerance", "0", "--time-limit", "0.001", "--weight-decay", "0", "--device", "cpu"],
    ],
    ids=" ".join,
)
def test_options(options: list[str], tmp_path: Path) -> None:
    path = save(tmp_path / "two.npz", X=X, y=Y)
    result = run("train", path, *QUICK, *options, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    assert np.isfinite(last_json(result)["train_loss"])
    assert load(tmp_path / "run").history.records


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--set", "step=0.2", "--set", "proximity=2", "--batch-size", "8", "--weight-decay", "0", "--time-limit", "99"],
        ["--hidden", "3", "--activation", "arctan", "--loss", "logistic"],
        ["--task", "regression", "--no-split"],
    ],
    ids=" ".join,
)
def test_targets(options: list[str], tmp_path: Path) -> None:
    """The figures are those of the network itself, and the run is written, loaded and reported."""
    path, out = save(tmp_path / "two.npz", X=X, y=Y), tmp_path / "run"
    words = ["--hidden", "4", "--sweeps", "20", "--method", "targets", *options, "--out", out]
    found = last_json(run("train", path, *words, "--json"))
    loaded = load(out)
    assert found["lifted_estimate"] is None
    assert (found["sweeps"], found["baselines"][0]["name"]) == (20, "Adam")
    assert loaded.settings["method"] == "targets"
    assert loaded.settings["formulation"]["batch_size"] == (8 if "--batch-size" in options else 125)
    first, last = loaded.history.records[0], loaded.history.last
    assert last["objective"] < first["objective"]
    targets = loaded.data[1]
    inputs = torch.as_tensor(loaded.data[0], dtype=torch.float32)
    with torch.no_grad():
        output = loaded.module(inputs).double()
    assert summed_loss(found["loss"], output, targets) == pytest.approx(found["train_loss"], rel=1e-5)

    assert run("report", out).exit_code == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "lifted value" not in page.replace("and the lifted value (estimate) where there is one", "")
    assert ("the weights of one unit of layer 1, one mini-batch" in page) is ("arctan" not in options)
    shown = run("show", out)
    assert shown.exit_code == 2
    assert "no activation blocks" in shown.stderr.replace("\n", " ")


def test_targets_say_what_was_done(tmp_path: Path) -> None:
    result = run("train", save(tmp_path / "two.npz", X=X, y=Y), *QUICK, "--method", "targets")
    assert result.exit_code == 0, result.output
    assert "all 2 sweeps done" in result.stdout
    assert "lifted" not in result.stdout
    assert "bound" not in result.stdout


def test_own_test_part_is_used(tmp_path: Path) -> None:
    path = save(tmp_path / "two.npz", X=X, y=Y, X_test=X[:5], y_test=Y[:5])
    assert run("train", path, *QUICK, "--out", tmp_path / "run").exit_code == 0
    loaded = load(tmp_path / "run")
    assert loaded.settings["samples"] == 40
    assert loaded.notes["data"]["split"] == "the data's own"


def test_defaults_are_those_of_fit() -> None:
    ours, theirs = (inspect.signature(function).parameters for function in (train, fit))
    for name in ("weight_decay", "sweeps", "tolerance", "time_limit", "batch_size", "audit_every", "loss", "task"):
        assert ours[name].default == theirs[name].default, name


def with_nan(array: np.ndarray) -> np.ndarray:
    changed = array.astype(float)
    changed.flat[5] = np.nan
    return changed


def npz(**arrays: Any) -> Callable[[Path], list[Any]]:
    return lambda folder: [save(folder / "a.npz", **arrays)]


def csv(text: str) -> Callable[[Path], list[Any]]:
    return lambda folder: [write(folder / "a.csv", text)]


def good(*options: Any) -> Callable[[Path], list[Any]]:
    return lambda folder: [save(folder / "a.npz", X=X, y=Y), *options]


# What is given -> the words that must be in the message: what was seen, and what to do.
BAD: dict[str, tuple[Callable[[Path], list[Any]], tuple[str, ...]]] = {
    "NaN in X": (npz(X=with_nan(X), y=Y), ("NaN", "row 1", "expected finite", "remove")),
    "infinity in X": (npz(X=with_nan(X) * np.inf, y=Y), ("infinite", "expected finite")),
    "labels that are no integers": (
        lambda folder: [save(folder / "a.npz", X=X, y=Y + 0.5), "--task", "classification"],
        ("0.5", "expected integers", "regression"),
    ),
    "labels out of range": (npz(X=X, y=3 * Y), ("0, 3", "expected 0, 1", "Number the classes")),
    "negative labels": (npz(X=X, y=Y - 1), ("-1, 0", "expected 0, 1")),
    "labels out of the range of the loss": (
        lambda folder: ["iris", "--loss", "logistic"],
        ("0 to 2", "expected 0 to 1"),
    ),
    "unequal lengths": (npz(X=X, y=Y[:30]), ("40 samples", "30 targets", "expected one for each")),
    "empty": (npz(X=X[:0], y=Y[:0]), ("empty", "expected at least one")),
    "one class": (npz(X=X, y=0 * Y), ("only one class", "expected at least two")),
    "hidden 0": (good("--hidden", 0), ("(3, 4, 0, 2)", "expected 1 unit or more")),
    "unknown method": (good("--method", "magic"), ("'magic'", "known: fenchel, targets")),
    "setting of another method": (
        good("--method", "targets", "--set", "multiplier=1"),
        ("'targets'", "no setting 'multiplier'", "known: step"),
    ),
    "step of a method without": (good("--set", "step=1"), ("'fenchel'", "no setting 'step'", "known: multiplier")),
    "targets with a tolerance": (
        good("--method", "targets", "--tolerance", 0),
        ("--tolerance is 0", "expected", "leave --tolerance out"),
    ),
    "targets with audits": (
        good("--method", "targets", "--audit-every", 2),
        ("--audit-every is 2", "expected no audits", "leave --audit-every out"),
    ),
    "targets with a step of zero": (good("--method", "targets", "--set", "step=0"), ("step is 0", "expected")),
    "targets with mini-batches of zero": (good("--method", "targets", "--batch-size", 0), ("batch_size is 0",)),
    "targets with steep slopes": (
        good("--method", "targets", "--activation", "exponential"),
        ("'exponential'", "expect at most 1", "fenchel"),
    ),
    "unknown activation": (good("--activation", "magic"), ("'magic'", "known: identity")),
    "activation that is not monotone": (good("--activation", "gelu"), ("'gelu'", "known: identity")),
    "unknown loss": (good("--loss", "magic"), ("'magic'", "known: squared")),
    "unknown task": (good("--task", "magic"), ("'magic'", "expected 'classification'")),
    "loss against task": (good("--loss", "squared", "--task", "classification"), ("squared", "classification", "drop")),
    "unknown data": (lambda folder: ["magic"], ("'magic'", "known: digits", ".npz")),
    "unknown device": (good("--device", "magic"), ("'magic'", "usable: cpu")),
    "zero sweeps": (good("--sweeps", 0), ("sweeps is 0", "expected")),
    "negative weight decay": (good("--weight-decay", -1), ("weight_decay is -1", "expected")),
    "negative multiplier": (good("--set", "multiplier=-1"), ("multiplier is -1", "expected")),
    "weight inputs": (good("--set", "weight_inputs=magic"), ("'magic'", "expected 'forward'")),
    "negative seed": (good("--seed", -1), ("-1", "expected", "--seed")),
    "text column": (csv("a,b,y\n1,red,0\n2,blue,1\n"), ("column 'b'", "'red'", "line 2", "expected numbers")),
    "ragged csv": (csv("a,b,y\n1,2,0\n1,2\n"), ("line 3", "2 fields", "expected")),
    "npz without X": (npz(inputs=X, y=Y), ("lacks X", "inputs", "numpy.savez")),
    "npz without y": (npz(X=X), ("lacks y", "numpy.savez")),
    "pickled objects": (npz(X=np.array([[None]] * 40), y=Y), ("pickled", "expected plain arrays")),
    "missing path": (lambda folder: [folder / "absent.npz"], ("absent.npz", "no such file", "expected")),
    "no data folder": (lambda folder: ["mnist", "--data-dir", folder / "absent"], ("does not exist", "--data-dir")),
    "overflow": (
        lambda folder: [save(folder / "a.npz", X=1e200 * X, y=Y), "--no-standardize"],
        ("expected",),
    ),
}


def refused(result: Result, words: tuple[str, ...]) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert len(result.stderr) < 80 * 24
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(("given", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_and_nothing_is_written(
    given: Callable[[Path], list[Any]], words: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = given(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused(run("train", *QUICK, *arguments, "--out", tmp_path / "deep" / "run"), words)
    assert sorted(tmp_path.rglob("*")) == before


def test_output_under_a_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "FILE", "mine")
    refused(run("train", "iris", *QUICK, "--out", file / "run"), ("cannot be written", "choose another --out"))
    refused(run("train", "iris", *QUICK, "--out", file), ("is not a folder", "choose another --out"))
    assert file.read_text(encoding="utf-8") == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_output_that_holds_something_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.txt", "mine")
    refused(run("train", "iris", *QUICK, "--out", tmp_path), ("not empty", "choose another --out"))
    assert list(tmp_path.iterdir()) == [file]


def test_empty_output_folder_is_used_and_left_empty_by_a_refusal(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    path = save(tmp_path / "a.npz", X=1e200 * X, y=Y)
    refused(run("train", path, *QUICK, "--no-standardize", "--out", out), ("expected",))
    assert list(out.iterdir()) == []
    assert run("train", "iris", *QUICK, "--out", out).exit_code == 0


@pytest.mark.parametrize("words", [["--hidden", "many"], ["--no-such-option"], []])
def test_wrong_command_lines_end_with_two(words: list[str]) -> None:
    result = run("train", *words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
