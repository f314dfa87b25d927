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


@pytest.mark.parametrize("loss", ["softmax", "squared"])
def test_several_classes_have_several_outputs(loss: str, tmp_path: Path) -> None:
    out = tmp_path / "cert.json"
    result = invoke("certify", "iris", "--loss", loss, "--weight-decay", "0.5", "--relative", "--seconds", "2",
                    "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 outputs" in result.stdout
    assert ("in 8 directions of the plane" if loss == "softmax" else "bounded one by one") in result.stdout
    assert invoke("check", out, "--data", "iris").exit_code == 0
    result = invoke("check", out, "--data", "iris", "--samples", "100")
    assert result.exit_code == 1


def test_targets_with_several_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 2))
    np.savez(tmp_path / "two.npz", X=X, y=np.abs(X) + 0.1 * rng.standard_normal((30, 2)))
    out = tmp_path / "cert.json"
    arguments = ("certify", tmp_path / "two.npz", "--weight-decay", "0.3", "--relative", "--seconds", "2", "--out", out)
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["statement"]["outputs"] == 2
    assert invoke("check", out, "--data", tmp_path / "two.npz").exit_code == 0
    result = invoke(*arguments, "--classes", "0,1")
    assert result.exit_code == 2
    assert "no classes" in result.stderr


def test_a_run_of_several_classes_is_judged(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = invoke("train", "iris", "--hidden", "6", "--weight-decay", "5", "--sweeps", "3", "--no-baselines",
                     "--out", run)  # fmt: skip
    assert trained.exit_code == 0, trained.output
    result = invoke("certify", "--run", run, "--seconds", "2", "--out", tmp_path / "cert.json", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["proven"], found["statement"]["outputs"]) == (True, 3)


def test_what_is_too_large_to_check_is_refused_before_any_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "MOST_PRODUCTS", 200)
    monkeypatch.setattr(incumbent, "train_incumbent", None)
    result = invoke("certify", data, "--weight-decay", "1", "--out", tmp_path / "cert.json")
    assert result.exit_code == 2
    assert "more than the exact checker takes" in " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def conflicting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples that stand twice, half of the copies with the other label."""
    path = tmp_path_factory.mktemp("conflicting") / "twice.npz"
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 2))
    y = (X[:, 0] > 0).astype(int)
    np.savez(path, X=np.vstack([X, X]), y=np.concatenate([y, np.where(np.arange(20) % 2, y, 1 - y)]))
    return path


def test_a_bound_at_depth_three(conflicting: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep.json"
    result = invoke("certify", conflicting, "--depth", "3", "--weight-decay", "0.03", "--seconds", "3", "--out", out)
    assert result.exit_code == 0, result.output
    assert "For the depth L = 3, every width" in result.stdout
    assert "The gap is large" not in result.stdout
    found = json.loads(invoke("check", out, "--json").stdout.splitlines()[-1])
    assert found["proven"]
    # Ten pairs that disagree cost 2 log 2 each, whatever the network.
    assert found["lower_bound"] >= 20 * np.log(2) * (1 - 1e-6)
    assert found["statement"]["depth"] == 3
    assert invoke("check", out, "--data", conflicting).exit_code == 0


def test_a_weak_bound_says_why(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "weak.json"
    deep = invoke("certify", data, "--depth", "4", "--weight-decay", "0.01", "--seconds", "2", "--no-bias", "--hidden",
                  "4", "--activation", "tanh", "--out", out)  # fmt: skip
    assert deep.exit_code == 0, deep.output
    said = " ".join(deep.stdout.split())
    assert "The gap is large: at this depth" in said
    assert "none of these samples coincide with one that disagrees" in said
    two = invoke("certify", data, "--depth", "2", "--weight-decay", "0.0001", "--seconds", "2", "--out", out)
    assert two.exit_code == 0, two.output
    assert "The gap is large: with a small weight decay" in " ".join(two.stdout.split())


def test_a_deep_run_is_judged_with_free_biases(data: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "cert.json"
    trained = invoke("train", data, "--task", "regression", "--hidden", "6", "--hidden", "5", "--weight-decay", "2",
                     "--sweeps", "2", "--no-baselines", "--out", run)  # fmt: skip
    assert trained.exit_code == 0, trained.output
    result = invoke("certify", "--run", run, "--seconds", "2", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["proven"]
    assert (found["statement"]["depth"], found["statement"]["bias"]) == (3, "free")
    assert json.loads(out.read_text())["network"]["biases"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diabetes", "--depth", "3", "--weight-decay", "1", "--relative"), "estimated for two layers only"),
        (("diabetes", "--depth", "3"), "no weight decay is given"),
        (("diabetes", "--depth", "1", "--weight-decay", "1"), "expected a number of weight matrices, 2 to"),
        (("--run", "somewhere", "--depth", "3"), "leave --depth out"),
        (("diabetes",), "no weight decay is given"),
        (("--weight-decay", "1"), "no data are named"),
        (("diabetes", "--weight-decay", "-1"), "expected a number above 0"),
        (("digits", "--loss", "logistic", "--weight-decay", "1"), "choose two"),
        (("digits", "--hidden", "3", "--weight-decay", "1"), "--hidden is 3, which is known for one output"),
        (("diabetes", "--loss", "hinge", "--weight-decay", "1"), "no bound is known for the loss 'hinge'"),
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
