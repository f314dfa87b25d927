"""`convexblocks report`: one page, self-contained, well-formed, with everything in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from convexblocks.commands.main import app

VOID = {"meta", "link", "br", "img", "input", "hr"}


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


class Page(HTMLParser):
    """Checks that elements close in order, and keeps what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset", "data", "action"} and not (value or "").startswith("#"):
                self.fetched.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def self_contained(text: str) -> Page:
    page = Page(text)
    assert page.fetched == []
    assert "script" not in page.tags
    assert "url(http" not in text
    assert "@import" not in text
    # Names of XML dialects look like addresses, but nothing fetches them.
    assert set(re.findall(r'https?://[^"<>\s]+', text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/1998/Math/MathML",
    }
    return page


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "iris"
    result = run("train", "iris", "--hidden", 5, "--sweeps", 4, "--audit-every", 2, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_report_holds_everything(trained: Path) -> None:
    result = run("report", trained)
    assert result.exit_code == 0, result.output
    text = (trained / "report.html").read_text(encoding="utf-8")
    page = self_contained(text)
    assert page.tags.count("svg") == 6
    assert page.tags.count("math") > 3
    for words in ("lifted value (estimate)", "Adam", "logistic regression", "projected_gradient", "Layer gaps",
                  "Warm and cold starts", "weight decay", "cvxpy", "test accuracy", "scikit-learn"):  # fmt: skip
        assert words in text
    assert not (trained / "report.html.new").exists()


def test_report_is_reproducible_and_replaces_the_old_one(trained: Path) -> None:
    run("report", trained)
    first = (trained / "report.html").read_bytes()
    run("report", trained)
    assert (trained / "report.html").read_bytes() == first


def test_identifiers_of_figures_do_not_clash(trained: Path) -> None:
    run("report", trained)
    text = (trained / "report.html").read_text(encoding="utf-8")
    clips = re.findall(r'<clipPath id="([^"]+)"', text)
    assert len(clips) == len(set(clips)) > 0


def test_bare_run_has_a_report_too(tmp_path: Path) -> None:
    """Regression, no test part, no baselines, no audits, an activation without a model."""
    np.savez(tmp_path / "a.npz", X=np.eye(4), y=np.array([0.5, 1.5, 2.5, 3.5]))
    out = tmp_path / "run"
    words = ["--hidden", "3", "--sweeps", "1", "--no-split", "--no-baselines", "--activation", "arctan"]
    assert run("train", tmp_path / "a.npz", *words, "--out", out).exit_code == 0
    assert run("report", out).exit_code == 0
    text = (out / "report.html").read_text(encoding="utf-8")
    self_contained(text)
    for words_found in ("without baselines", "without audits", "training error"):
        assert words_found in text


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "<b>x&y"
    folder.mkdir()
    np.savez(folder / "<i>data.npz", X=np.random.default_rng(0).normal(size=(20, 2)), y=np.arange(20) % 2)
    out = tmp_path / "run"
    words = ["--hidden", "2", "--sweeps", "1", "--no-baselines", "--out", out]
    assert run("train", folder / "<i>data.npz", *words).exit_code == 0
    assert run("report", out).exit_code == 0
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "<i>" not in text
    assert "&lt;i&gt;data" in text


@pytest.mark.parametrize("broken", ["run.json", "history.jsonl", "network.safetensors"])
def test_damaged_runs_are_refused(broken: str, trained: Path, tmp_path: Path) -> None:
    for path in trained.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "report.html").unlink(missing_ok=True)
    (tmp_path / broken).write_text("{", encoding="utf-8")
    result = run("report", tmp_path)
    assert result.exit_code == 2
    assert "damaged" in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_damaged_baselines_are_refused(trained: Path, tmp_path: Path) -> None:
    for path in trained.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for text in ("{", json.dumps({"a": 1}), json.dumps([1])):
        (tmp_path / "baselines.json").write_text(text, encoding="utf-8")
        result = run("report", tmp_path)
        assert result.exit_code == 2
        assert "damaged" in result.stderr


def test_a_run_of_a_network_that_is_not_dense_has_a_page(tmp_path: Path) -> None:
    from torch import nn

    from convexblocks.solvers import fit_targets

    X, y = np.random.default_rng(0).standard_normal((12, 1, 4, 4)), np.arange(12) % 3
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    fit_targets(network, (X, y), sweeps=2, out=tmp_path / "run", validation=(X, y))
    assert run("report", tmp_path / "run").exit_code == 0
    self_contained((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
