"""Graphs: the normalized adjacency, augmented features, the data set made of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from convexblocks.formulations import UsageError
from convexblocks.networks import Graph, augmented_features, load_dataset, load_graph, normalized_adjacency

NODES, WIDTH = 12, 5
ONCE = np.array([[0, 0, 1, 3, 4, 9], [1, 2, 2, 4, 10, 11]])


def dense(edges: np.ndarray, nodes: int = NODES) -> np.ndarray:
    """D^-1/2 (A + I) D^-1/2 by its definition."""
    joined = np.eye(nodes)
    for first, second in edges.T:
        joined[first, second] = joined[second, first] = 1.0
    scale = np.diag(joined.sum(1) ** -0.5)
    return np.asarray(scale @ joined @ scale)


def graph_arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    features = sp.random_array((NODES, WIDTH), density=0.4, rng=rng, format="csr", dtype=np.float32)
    masks = np.arange(NODES) % 3
    return {
        "feat_data": features.data, "feat_indices": features.indices, "feat_indptr": features.indptr,
        "feat_shape": np.array(features.shape), "edges": ONCE, "labels": np.arange(NODES, dtype=np.int8) // 3 % 2,
        "train_mask": masks == 0, "val_mask": masks == 1, "test_mask": masks == 2,
    }  # fmt: skip


def save_graph(folder: Path, **changes: Any) -> None:
    arrays = {name: value for name, value in (graph_arrays() | changes).items() if value is not None}
    np.savez(folder / "cora.npz", **arrays)


def read(folder: Path) -> Graph:
    save_graph(folder)
    return load_graph("cora", folder)


EDGES = {
    "each edge once": ONCE,
    "in the other direction": ONCE[::-1],
    "in both directions": np.hstack([ONCE, ONCE[::-1]]),
    "repeated": np.hstack([ONCE, ONCE, ONCE[::-1, :2]]),
    "with loops": np.hstack([ONCE, [[3, 3, 7], [3, 3, 7]]]),
}


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
def test_adjacency_is_the_same_however_the_edges_are_given(edges: np.ndarray) -> None:
    found = normalized_adjacency(edges.astype(np.int32), NODES)
    assert found.format == "csr"
    np.testing.assert_allclose(found.toarray(), dense(ONCE), atol=1e-15)


def test_nodes_without_edges_keep_their_features() -> None:
    assert np.array_equal(normalized_adjacency(np.zeros((2, 0), dtype=int), 3).toarray(), np.eye(3))


@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize("hops", [0, 1, 3])
def test_augmented_features_are_powers_of_the_adjacency(hops: int, extra: bool, tmp_path: Path) -> None:
    graph = read(tmp_path)
    smooth, features = dense(ONCE) + extra * np.eye(NODES), graph.features.toarray()
    wanted = np.hstack([np.linalg.matrix_power(smooth, power) @ features for power in range(hops, -1, -1)])
    np.testing.assert_allclose(augmented_features(graph, hops, extra_self_loop=extra), wanted, atol=1e-12)


def test_the_data_set_has_the_public_split_and_raw_features(tmp_path: Path) -> None:
    graph, data = read(tmp_path), load_dataset("cora", data_dir=tmp_path)
    features = augmented_features(graph)
    assert data.X_test is not None
    assert np.array_equal(data.X_train, features[graph.train_mask])
    assert np.array_equal(data.X_test, features[graph.test_mask])
    assert np.array_equal(data.y_train, graph.labels[graph.train_mask])
    assert (data.task, data.scaling, data.source["split"]) == ("classification", None, "the data's own")
    again = load_dataset(**data.source["arguments"])
    assert np.array_equal(again.X_train, data.X_train)


REFUSED = {
    "no split": ({"val_mask": None}, "lacks val_mask"),
    "short labels": ({"labels": np.zeros(3, dtype=int)}, r"labels .* shape \(3,\); expected \(12,\)"),
    "unknown node": ({"edges": ONCE + 1}, "nodes 1 to 12; expected 0 to 11"),
    "edges as rows": ({"edges": ONCE.T}, r"shape \(6, 2\).*expected whole numbers of shape \(2, edges\)"),
    "no sparse matrix": ({"feat_indptr": np.arange(5)}, "no sparse matrix of 12 x 5"),
    "column out of range": ({"feat_shape": np.array([NODES, 2])}, "no sparse matrix of 12 x 2"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_damaged_graphs_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_graph(tmp_path, **changes)
    with pytest.raises(UsageError, match=message):
        load_graph("cora", tmp_path)


def test_other_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no such file"):
        load_graph("cora", tmp_path)
    with pytest.raises(UsageError, match="hops is -1"):
        augmented_features(read(tmp_path), -1)
    with pytest.raises(UsageError, match="type float64"):
        normalized_adjacency(np.zeros((2, 1)), 3)
