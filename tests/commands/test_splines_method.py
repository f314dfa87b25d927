"""`train` and `compare` by the method that learns activations: what they say, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from convexblocks.commands.main import app
from convexblocks.solvers import SplineActivation, load

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(60, 3))
Y = (np.sin(3 * X[:, 0]) + X[:, 1] > 0).astype(int)
QUICK = ("--hidden", "4", "--sweeps", "6")


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def two(tmp_path: Path) -> Path:
    np.savez(tmp_path / "two.npz", X=X, y=Y)
    return tmp_path / "two.npz"


def test_a_run_is_trained_written_and_reported(two: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("train", two, *QUICK, "--method", "splines", "--set", "slopes=nonexpansive", "--set", "shared=true")
    result = run(*words, "--set", "knots=9", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found, again = json.loads(result.stdout.splitlines()[-1]), load(out)
    assert found["kink_price"] == again.history.last["kink_price"] > 0
    assert found["objective"] == pytest.approx(found["train_loss"] + found["penalty"])
    assert [method["name"] for method in found["baselines"]] == ["Adam", "logistic regression"]
    layer = again.module[1]
    assert isinstance(layer, SplineActivation)
    assert (layer.property.low, layer.property.high, layer.raw.shape) == (-1.0, 1.0, (8, 1))
    assert run("report", out).exit_code == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "(splines)" in page
    assert "the price of their kinks" in page
    text = run(*words, "--no-baselines")
    assert text.exit_code == 0, text.output
    assert "splines: the activations are learned" in text.stdout
    shown = run("show", out, "--layer", 1)
    assert shown.exit_code == 2
    assert "'splines'" in shown.stderr


def test_it_is_compared_on_the_loss_without_the_price_of_kinks(two: Path) -> None:
    words = ("compare", two, *QUICK, "--methods", "splines,targets", "--seeds", 1, "--set", "splines.tv2=0.5")
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout.splitlines()[-1])["methods"]
    ours = figures["splines"]
    assert ours["objective"] == pytest.approx(ours["train_loss"] + ours["penalty"])
    assert ours["kink_price"] > 0
    assert "kink_price" not in figures["targets"]
    text = " ".join(run(*words).stdout.split())
    assert "is minimized too and not in these figures" in text


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "even knots": (("--set", "knots=10"), "knots is 10; expected an odd number"),
    "slopes": (("--set", "slopes=steep"), "unknown property of slopes 'steep'"),
    "exact": (("--set", "exact=true"), "leave it out"),
    "softmax": (("--activation", "softmax"), "acts on whole rows"),
    "lenet5": (("--network", "lenet5"), "3 features"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_it_cannot_train_is_refused(case: str, two: Path, tmp_path: Path) -> None:
    words, message = WRONG[case]
    result = run("train", two, "--method", "splines", *words, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == [two]


def test_pictures_are_refused_with_the_methods_that_train_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "pictures.npz", X=GENERATOR.normal(size=(20, 784)), y=np.arange(20) % 2)
    result = run("train", tmp_path / "pictures.npz", "--method", "splines", "--network", "lenet5")
    assert result.exit_code == 2
    assert "trained by the method 'targets' or 'monotone'" in " ".join(result.stderr.split())
