"""Samples on the nodes of a graph: windows of days, and edges between sites that agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convexblocks.formulations import MonotoneInequality, UsageError
from convexblocks.networks import graph_network, load_solar, normalized_adjacency
from convexblocks.networks.graph_signals import agreeing_pairs
from convexblocks.solvers import fit_monotone


def folder(path: Path, days: int = 30, **changes: np.ndarray) -> Path:
    """The data file with labels that mostly stay from day to day."""
    rng = np.random.default_rng(0)
    arrays = {
        f"ca_{year}": ((rng.uniform(size=(days, 4)) < 0.1).cumsum(0) % 2).astype(np.uint8) for year in (2017, 2018)
    }
    np.savez(path / "solar_ramping.npz", **(arrays | changes))
    return path


def test_features_are_the_labels_of_the_days_before(tmp_path: Path) -> None:
    data = load_solar("ca", folder(tmp_path), days=3)
    with np.load(tmp_path / "solar_ramping.npz") as arrays:
        train, test = arrays["ca_2017"], arrays["ca_2018"]
    assert data.X_train.shape == (27, 4, 3)
    assert data.X_test.shape == (30, 4, 3)
    np.testing.assert_array_equal(data.y_train, train[3:])
    np.testing.assert_array_equal(data.y_test, test)
    for day in (3, 10, 29):
        np.testing.assert_array_equal(data.X_train[day - 3], train[day - 3 : day].T)
        np.testing.assert_array_equal(data.X_test[day], test[day - 3 : day].T)
    # The test year begins with the end of the training year before it.
    np.testing.assert_array_equal(data.X_test[1], np.stack([train[28], train[29], test[0]]).T)


def test_edges_join_nodes_that_name_each_other() -> None:
    labels = np.array([[0, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]])
    # Agreements with node 0: 4 of node 1, 2 of node 2, 1 of node 3; with node 2: 3 of node 1, 2 of node 3.
    assert agreeing_pairs(labels, 2).tolist() == [[0], [1]]
    assert agreeing_pairs(labels, 4).shape == (2, 6)
    assert agreeing_pairs(labels, 1).shape == (2, 0)
    # Every node names itself, also where others agree with it everywhere.
    assert agreeing_pairs(np.zeros((3, 4), dtype=int), 1).shape == (2, 0)


@pytest.mark.parametrize("label", [np.nan, 0.5, 2.0])
def test_what_is_no_label_is_refused(label: float, tmp_path: Path) -> None:
    days = np.zeros((30, 4))
    days[7, 2] = label
    with pytest.raises(UsageError, match=f"ca_2018.* holds {label:g}; expected labels 0 and 1"):
        load_solar("ca", folder(tmp_path, ca_2018=days))


def test_graph_networks_are_trained_on_many_samples(tmp_path: Path) -> None:
    data = load_solar("ca", folder(tmp_path))
    network = graph_network(normalized_adjacency(data.edges, data.nodes), (5, 16, 1), random_state=0)
    history = fit_monotone(
        network, (data.X_train, data.y_train), MonotoneInequality(batch_size=5), loss="logistic", weight_decay=0.0,
        validation=(data.X_test, data.y_test), sweeps=60,
    )  # fmt: skip
    assert history.last["objective"] < 0.9 * history.records[0]["objective"]
    assert history.last["test_accuracy"] > max(data.y_test.mean(), 1 - data.y_test.mean())


def test_refusals_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="region is 'nv'; expected one of 'ca', 'la'"):
        load_solar("nv", tmp_path)
    with pytest.raises(UsageError, match="more than 5 days"):
        load_solar("ca", folder(tmp_path, days=5))
    folder(tmp_path, ca_2018=np.zeros((30, 3), dtype=np.uint8))
    with pytest.raises(UsageError, match="with the same sites"):
        load_solar("ca", tmp_path)
