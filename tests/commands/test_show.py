"""`convexblocks show`: blocks, and instances of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from convexblocks.commands.main import app
from convexblocks.formulations import FenchelActivation
from convexblocks.solvers import CONIC_ENGINES, ENGINES, load


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "iris"
    result = run("train", "iris", "--hidden", 5, "--hidden", 4, "--sweeps", 3, "--no-baselines", "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize("block", ["fenchel.activation", "fenchel.weight", "fenchel.output"])
def test_block_as_text(block: str) -> None:
    result = run("show", block)
    assert result.exit_code == 0, result.output
    for word in (block, "minimize", "subject to", "why convex", "source"):
        assert word in result.stdout


def test_settings_reach_the_block() -> None:
    expected = FenchelActivation(width=64, activation="tanh").show()
    assert run("show", "fenchel.activation", "--set", "width=64", "--set", "activation=tanh").stdout == expected + "\n"


def test_other_forms() -> None:
    assert json.loads(run("show", "fenchel.weight", "--json").stdout)["title"] == "fenchel.weight"
    assert r"\mathbf" in run("show", "fenchel.weight", "--latex").stdout
    assert run("show", "fenchel.weight", "--html").stdout.lstrip().startswith("<")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["fenchel.activation", "--set", "width=12", "--set", "next_width=10"],
         ["12 unknowns in a box (lower bounds on all, no upper bounds)", "10 squared hinges",
          "a Hessian shared by the batch", "solve takes          projected_gradient"]),
        (["fenchel.activation", "--set", "activation=tanh"],
         ["a general conic program, quadratic objective", "solve takes          newton"]),
        (["fenchel.weight", "--set", "loss=logistic"], ["6 log-sum-exp terms of 2 arguments each (logistic"]),
        (["fenchel.output", "--set", "outputs=10"],
         ["log-sum-exp of 10 arguments", "solve takes          sherman_morrison", "solve_problem takes  log_sum_exp"]),
    ],
)  # fmt: skip
def test_engines_of_a_block_as_text(words: list[str], found: list[str]) -> None:
    result = run("show", *words, "--engine")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    for line in found:
        assert line in result.stdout
    report = json.loads(run("show", *words, "--engine", "--json").stdout)
    for title, taken in (("block_engines", "solve"), ("program_engines", "solve_problem")):
        for fit in report[title]:
            answer = "no" if not fit["fits"] else "yes, taken" if fit["name"] == report[taken] else "yes"
            assert re.search(rf"^{fit['name']} +{answer}  ", result.stdout, re.MULTILINE)


def test_engines_of_a_block_as_data() -> None:
    found = json.loads(run("show", "fenchel.weight", "--engine", "--json").stdout)
    assert list(found) == [
        "title", "per_instance", "shared", "canonical", "reduced", "structure", "solve", "solve_problem",
        "block_engines", "program_engines",
    ]  # fmt: skip
    assert found["structure"] == ["5 unknowns without bounds", "6 squared hinges", "a Hessian shared by the batch"]
    assert [fit["name"] for fit in found["block_engines"]] == list(ENGINES)
    assert [fit["name"] for fit in found["program_engines"]] == list(CONIC_ENGINES)
    assert all(set(fit) == {"name", "fits", "needs", "warm"} for fit in found["program_engines"])


def test_instance_as_text(trained: Path) -> None:
    result = run("show", trained, "--layer", 2, "--sample", 17, "--sweep", 2)
    assert result.exit_code == 0, result.output
    for words in ("minimize", "x[3]", "projected_gradient", "clarabel", "Duals", "sent to the next layer",
                  "dual", "agrees with Clarabel"):  # fmt: skip
        assert words in result.stdout


def test_instance_as_data_is_the_instance_of_the_run(trained: Path) -> None:
    found = json.loads(run("show", trained, "--layer", 1, "--sample", 3, "--json").stdout)
    instance = load(trained).instance(1, 3)
    np.testing.assert_array_equal(found["data"]["u"], instance.data["u"][0].numpy())
    np.testing.assert_array_equal(found["data"]["W"], instance.data["W"].numpy())
    ours, reference = found["answers"]["projected_gradient"], found["answers"]["clarabel"]
    np.testing.assert_allclose(ours["values"]["x"], reference["values"]["x"], atol=0.02)
    assert reference["duals"]["sent to the next layer"]
    assert found["agreement"]["agrees"]
    assert ours["residuals"]["gap"] < 1e-6


def test_instance_as_html_and_latex(trained: Path) -> None:
    assert run("show", trained, "--html").stdout.lstrip().startswith("<")
    assert r"\mathbf" in run("show", trained, "--latex").stdout


def test_large_data_are_read_again(trained: Path, tmp_path: Path) -> None:
    """A run that does not hold its data finds them by its notes."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in trained.rglob("*"):
        if path.is_file() and path.name != "data.npz":
            target = copy / path.relative_to(trained)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert run("show", copy, "--sample", 5).stdout == run("show", trained, "--sample", 5).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fenchel.magic"], "neither a block nor the folder of a run; known blocks: fenchel.activation"),
        (["absent/run"], "neither a block nor the folder of a run"),
        (["fenchel.activation", "--set", "width"], "expected NAME=VALUE"),
        (["fenchel.activation", "--set", "=3"], "expected NAME=VALUE"),
        (["fenchel.activation", "--set", "depth=3"], "no setting 'depth'; known: width"),
        (["fenchel.activation", "--set", "width=wide"], "expected a whole number"),
        (["fenchel.activation", "--set", "width=0"], "expected a whole number, 1 or more"),
        (["fenchel.activation", "--set", "below=nan"], "expected a finite number above zero"),
        (["fenchel.activation", "--set", "activation=magic"], "known: identity"),
        (["fenchel.activation", "--set", "activation=arctan"], "no disciplined convex model"),
        (["fenchel.activation", "--layer", "1"], "is a block"),
        (["fenchel.activation", "--html", "--json"], "choose one"),
        (["fenchel.activation", "--engine", "--html"], "--engine has no form in LaTeX or HTML"),
        (["fenchel.activation", "--engine", "--latex"], "expected it alone or with --json"),
        (["fenchel.activation", "--engine", "--sweep", "1"], "is a block"),
        (["fenchel.activation", "--engine", "--set", "activation=arctan"], "no disciplined convex model"),
        (["fenchel.magic", "--engine"], "neither a block nor the folder of a run"),
    ],
)
def test_bad_requests_of_blocks(words: list[str], message: str) -> None:
    result = run("show", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "3"], "one of the layers 1, 2"),
        (["--layer", "0"], "one of the layers 1, 2"),
        (["--sample", "120"], "samples 0 to 119"),
        (["--sample", "-1"], "samples 0 to 119"),
        (["--sweep", "4"], "sweeps 1 to 3"),
        (["--sweep", "0"], "sweeps 1 to 3"),
        (["--set", "width=3"], "--set is for blocks"),
        (["--engine"], "--engine is for blocks"),
        (["--engine", "--json"], "--engine is for blocks"),
    ],
)
def test_bad_requests_of_runs(words: list[str], message: str, trained: Path) -> None:
    result = run("show", trained, *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    for command in ("show", "report"):
        result = run(command, tmp_path)
        assert result.exit_code == 2
        assert "is not a run" in result.stderr
    assert list(tmp_path.iterdir()) == []
