"""fit-spline as a user calls it: rightly, and wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from convexblocks.commands.main import app


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["fit-spline", *map(str, arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=120)
    rows = np.stack([x, np.clip(1.3 * x, -1, 0.8) + 0.1 * rng.normal(size=120)], 1)
    np.savetxt(tmp_path / "data.csv", rows, delimiter=",", header="x,y", comments="")
    return tmp_path / "data.csv"


@pytest.mark.parametrize("more", [(), ("--knots", 15), ("--loss", "absolute")], ids=["exact", "grid", "absolute"])
def test_it_fits_verifies_and_draws(data: Path, tmp_path: Path, more: tuple[Any, ...]) -> None:
    out = tmp_path / "run"
    result = invoke(data, "--slopes", "0,1", "--tv", 0.3, "--out", out, "--json", *more)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert {"objective", "dual_value", "relative_gap", "knots", "slope_violation"} <= set(found)
    assert found["relative_gap"] <= 1e-9
    assert found["slope_violation"] == 0
    assert found["dual_value"] <= found["objective"]
    saved = json.loads((out / "spline.json").read_text())
    assert len(saved["spline"]["knots"]) == found["knots"] == len(saved["spline"]["slopes"]) + 1
    assert (out / "spline.png").read_bytes()[:4] == b"\x89PNG"
    assert invoke(data, "--out", out).exit_code == 2


def test_what_it_tells(data: Path) -> None:
    result = invoke(data, "--slopes", "monotone")
    assert result.exit_code == 0
    assert "below every function with these slopes" in result.stdout
    assert "A bound is infinite" in result.stdout


def test_without_a_price_it_fits_all_samples(data: Path) -> None:
    result = invoke(data, "--tv", 0, "--json")
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["objective"] < 1e-9
    assert found["dual_value"] == 0
    assert found["relative_gap"] < 1e-6


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        ("y\n1\n2\n", (), "1 column"),
        ("a,b,y\n1,2,3\n2,3,4\n", (), "2 features"),
        ("x,y\n1,2\n2,nan\n", (), "NaN or infinite; expected finite numbers: remove that line."),
        ("x,y\n1,2\n,3\n", (), "empty"),
        ("x,y\n", (), "lines"),
        ("x,y\n1,2\n2,3\n", ("--slopes", "1,0"), "below the upper"),
        ("x,y\n1,2\n2,3\n", ("--slopes", "-1,x"), "two bounds"),
        ("x,y\n1,2\n2,3\n", ("--tv", "-1"), "zero or more"),
        ("x,y\n1,2\n2,3\n", ("--loss", "cubic"), "unknown loss"),
        ("x,y\n1,2\n2,3\n", ("--loss", "logistic"), "expects 0 to 1"),
        ("x,y\n1,2\n2,3\n", ("--knots", "1"), "two or more"),
    ],
    ids=["one column", "two features", "nan", "empty", "no lines", "order", "text", "tv", "loss", "labels", "knots"],
)
def test_bad_input_is_refused(tmp_path: Path, content: str, more: tuple[str, ...], words: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    result = invoke(path, "--out", tmp_path / "run", *more)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()
