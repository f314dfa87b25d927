"""`train` and `compare` with networks that are not dense: runs, reports, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from convexblocks.commands.main import app
from convexblocks.networks import graph_network, normalized_adjacency, train_adam
from convexblocks.networks.node_data import load_nodes
from convexblocks.solvers import load

NODES, WORDS = 40, 6


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A folder with a graph of two communities, whose words are those of their class more often."""
    generator = np.random.default_rng(0)
    labels = np.arange(NODES) % 2
    words = generator.random((NODES, WORDS)) < np.where(labels[:, None] == np.arange(WORDS) % 2, 0.7, 0.2)
    rows, columns = words.nonzero()
    masks = {f"{name}_mask": np.arange(NODES) // 10 == place for place, name in enumerate(("train", "val", "test"))}
    np.savez(
        tmp_path / "cora.npz", feat_data=np.ones(len(rows)), feat_indices=columns,
        feat_indptr=np.concatenate([[0], np.bincount(rows, minlength=NODES).cumsum()]), feat_shape=(NODES, WORDS),
        edges=np.stack([np.arange(NODES - 2), np.arange(2, NODES)]), labels=labels, **masks,
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    y = np.arange(30) % 2
    np.savez(tmp_path / "pictures.npz", X=y[:, None] * generator.random((30, 784)), y=y)
    return tmp_path / "pictures.npz"


@pytest.mark.parametrize("method", ["targets", "monotone"])
def test_a_graph_network_is_trained_compared_with_baselines_and_reported(graph: Path, method: str) -> None:
    out = graph / "run"
    result = run("train", "cora", "--network", "graph", "--data-dir", graph, "--hidden", 4, "--method", method,
                 "--sweeps", 20, "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "10 samples for training, 10 for testing" in result.output
    last = load(out).history.last
    assert last["true_loss"] < load(out).history.records[0]["true_loss"]
    assert last["test_accuracy"] > 0.6
    reported = run("report", out)
    assert reported.exit_code == 0, reported.output
    assert (out / "report.html").is_file()


def test_rates_for_a_graph_are_chosen_on_nodes_that_are_held_out(graph: Path) -> None:
    data = load_nodes("cora", data_dir=graph)
    adjacency = normalized_adjacency(np.stack([np.arange(NODES - 2), np.arange(2, NODES)]), NODES)
    network = graph_network(adjacency, (WORDS, 4, 2), random_state=0)
    X, y = data.train
    found = train_adam(network, (X, y), loss="softmax_cross_entropy", weight_decay=0.0, steps=40, random_state=0)
    assert "40 steps with all samples" in found["note"]
    assert "on a held-out fifth" in found["note"]
    assert found["search_seconds"] > 0


def test_nodes_without_a_label_are_in_no_loss_and_no_score(graph: Path) -> None:
    data = load_nodes("cora", data_dir=graph)
    assert (data.outputs, data.sizes) == (2, (10, 10))
    assert set(np.flatnonzero(data.y_train >= 0)) == set(range(10))
    assert load_nodes("cora", data_dir=graph, split=False).test is None


def test_pictures_are_trained_by_lenet5_and_reported(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run("train", pictures, "--network", "lenet5", "--method", "targets", "--sweeps", 3, "--no-baselines",
                 "--no-standardize", "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert load(out).history.last["true_loss"] < load(out).history.records[0]["true_loss"]
    assert run("report", out).exit_code == 0


def test_methods_for_dense_networks_are_left_out_of_a_comparison(graph: Path) -> None:
    result = run("compare", "cora", "--network", "graph", "--data-dir", graph, "--hidden", 4, "--seeds", 1,
                 "--sweeps", 3, "--methods", "fenchel,targets", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert list(found["methods"]) == ["targets", "logistic"]
    assert "which is for dense networks" in found["failed"]["fenchel"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digits", "--network", "lenet5"), "'digits' have 64 features; the network lenet5 reads pictures of 28 x 28"),
        (("iris", "--network", "graph"), "'iris' are no graph, which a graph network reads; expected one of cora"),
        (("iris", "--network", "tree"), "unknown network 'tree'; known: dense, lenet5, graph"),
        (("cora", "--network", "graph", "--task", "regression"), "the nodes of these graphs have classes"),
    ],
    ids=["no pictures", "no graph", "unknown", "no regression"],
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_data_that_do_not_fit_the_network_are_refused(command: str, words: tuple[str, ...], message: str) -> None:
    result = run(command, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_widths_and_methods_that_do_not_fit_are_refused_and_nothing_is_written(pictures: Path, tmp_path: Path) -> None:
    wide = run("train", pictures, "--network", "lenet5", "--method", "targets", "--hidden", 8, "--out", tmp_path / "a")
    dense = run("train", pictures, "--network", "lenet5", "--method", "fenchel", "--out", tmp_path / "b")
    assert (wide.exit_code, dense.exit_code) == (2, 2)
    assert "lenet5 has widths of its own" in " ".join(wide.output.split())
    assert "which is for dense networks" in " ".join(dense.output.split())
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
