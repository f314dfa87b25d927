"""certify and check as a user calls them: rightly, and wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from convexblocks.certificates import certificate, checker, incumbent
from convexblocks.commands.main import app

Invoke = Callable[..., Any]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "small.npz"
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 2))
    np.savez(path, X=X, y=np.abs(X[:, 0]) + 0.1 * rng.standard_normal(30))
    return path


@pytest.fixture(scope="module")
def made(data: Path) -> tuple[Path, dict[str, Any]]:
    out = data.parent / "cert.json"
    result = invoke("certify", data, "--weight-decay", "0.3", "--relative", "--seconds", "3", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout.splitlines()[-1])


def test_what_certify_reports(made: tuple[Path, dict[str, Any]]) -> None:
    _, found = made
    assert {"lower_bound", "incumbent", "gap_percent", "proven", "exact", "statement", "seconds"} <= set(found)
    assert found["proven"] is True
    assert found["exact"] is True
    assert 0 < found["lower_bound"] <= found["incumbent"]
    assert "from where on zero is best (estimated)" in found["statement"]["preparation"]


def test_check_proves_it_again_and_says_the_whole_statement(made: tuple[Path, dict[str, Any]]) -> None:
    result = invoke("check", made[0])
    assert result.exit_code == 0
    for words in ("PROVEN in exact arithmetic", "For every width m", "weight_decay / 2 times", "sha256", "lower bound"):
        assert words in result.stdout
    found = json.loads(invoke("check", made[0], "--json").stdout.splitlines()[-1])
    assert found["proven"] is True
    assert found["exact"] is True
    assert found["lower_bound"] == made[1]["lower_bound"]


def test_the_data_are_compared(made: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path) -> None:
    assert invoke("check", made[0], "--data", data).exit_code == 0
    with np.load(data) as arrays:
        other = {name: arrays[name].copy() for name in arrays}
    other["y"][3] += 0.5
    np.savez(tmp_path / "other.npz", **other)
    result = invoke("check", made[0], "--data", tmp_path / "other.npz")
    assert result.exit_code == 1
    assert "NOT PROVEN" in result.stdout
    assert "in the data to compare with" in result.stdout


def test_wrong_classes_of_the_data_are_told(made: tuple[Path, dict[str, Any]], data: Path) -> None:
    result = invoke("check", made[0], "--data", data, "--samples", "1000")
    assert result.exit_code == 2
    assert "expected 2 to 30" in " ".join(result.stderr.split())


def test_a_claim_that_is_too_high_is_not_proven(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    content = json.loads(made[0].read_text())
    content["statement"]["lower_bound"] = (1.01 * made[1]["lower_bound"]).hex()
    (tmp_path / "greedy.json").write_text(json.dumps(content))
    result = invoke("check", tmp_path / "greedy.json")
    assert result.exit_code == 1
    assert "its evidence proves" in result.stdout


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "convexblocks certificate 1"}'])
def test_what_is_no_certificate(text: str, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text(text)
    result = invoke("check", tmp_path / "no.json")
    assert result.exit_code == 2
    assert "is not a certificate" in result.stderr
    assert invoke("check", tmp_path / "absent.json").exit_code == 2


def test_a_width_limits_the_network_that_is_compared(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.json"
    result = invoke("certify", data, "--weight-decay", "0.05", "--relative", "--hidden", "1", "--seconds", "2",
                    "--out", out, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(json.loads(out.read_text())["network"]["outputs"]) <= 1


@pytest.mark.parametrize("method", ["cone_search", "paired_moments"])
def test_a_method_is_chosen(method: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "cert.json"
    result = invoke("certify", data, "--weight-decay", "0.3", "--relative", "--seconds", "2", "--method", method,
                    "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["evidence"]["kind"] == method


def test_a_proof_in_floating_point_says_so(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "MOST_CONES", 10)
    result = invoke("certify", data, "--weight-decay", "0.3", "--relative", "--seconds", "2", "--out",
                    tmp_path / "cert.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PROVEN in floating-point arithmetic")
    words = " ".join(result.stdout.split())
    assert "cones were gone through in floating point, all roundings counted" in words


def test_a_run_is_judged_on_its_own_data(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = invoke("train", data, "--task", "regression", "--hidden", "8", "--weight-decay", "2", "--sweeps", "3",
                     "--no-baselines", "--out", run)  # fmt: skip
    assert trained.exit_code == 0, trained.output
    result = invoke("certify", "--run", run, "--seconds", "2", "--out", tmp_path / "cert.json", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["proven"]
    assert found["statement"]["weight_decay"] == 2
    assert "the training data of the run run" in found["statement"]["preparation"]


def test_what_is_too_large_to_check_is_refused_before_any_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "MOST_PRODUCTS", 200)
    monkeypatch.setattr(incumbent, "train_incumbent", None)
    result = invoke("certify", data, "--weight-decay", "1", "--out", tmp_path / "cert.json")
    assert result.exit_code == 2
    assert "more than the exact checker takes" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diabetes",), "no weight decay is given"),
        (("--weight-decay", "1"), "no data are named"),
        (("diabetes", "--weight-decay", "-1"), "expected a number above 0"),
        (("digits", "--weight-decay", "1"), "choose two"),
        (("digits", "--classes", "3,11", "--weight-decay", "1"), "expected two different ones of"),
        (("digits", "--classes", "3", "--weight-decay", "1"), "expected two labels"),
        (("diabetes", "--samples", "1", "--weight-decay", "1"), "expected 2 to 442"),
        (("diabetes", "--activation", "tanh", "--weight-decay", "1"), "no bound is known for the activation 'tanh'"),
        (("diabetes", "--hidden", "0", "--weight-decay", "1"), "expected 1 neuron or more"),
        (("diabetes", "--seconds", "0", "--weight-decay", "1"), "expected a number above 0"),
        (("nothing", "--weight-decay", "1"), "unknown data set"),
        (("diabetes", "--method", "cones", "--weight-decay", "1"), "expected one of auto, cone_search, paired_moments"),
        (("diabetes", "--method", "cone_search", "--weight-decay", "1"), "X has 11 columns, and cones are for at most"),
        (("diabetes", "--run", "somewhere"), "with --run data and network are those of the run; leave DATA out"),
        (("--run", "somewhere", "--samples", "0"), "leave --samples out"),
        (("--run", "somewhere", "--activation", "relu"), "leave --activation out"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = tmp_path / "cert.json"
    result = invoke("certify", *arguments, "--out", out)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not out.exists()
