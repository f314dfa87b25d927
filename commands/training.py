"""What `train` and `demo` share: a network, its training by blocks, and its baselines."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..formulations.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from ..formulations.catalogue import Method
    from ..networks.datasets import Dataset
    from ..solvers.history import History

INTERRUPTED = "interrupted"
DENSE, LENET, GRAPH = KINDS = ("dense", "lenet5", "graph")
"""Kinds of networks that the command line makes."""
DEFAULT_HIDDEN = [64]
LARGEST_SEED = 2**32 - 1
SMALL = 5_000_000


def check_seed(seed: int) -> None:
    """Refuse seeds that a generator cannot take.

    Raises
    ------
    UsageError
        Saying what was expected.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"the seed is {seed}; expected a number from 0 to {LARGEST_SEED}: choose another --seed.")


def limit_threads(entries: int = 0) -> None:
    """Work with one thread on small data, unless OMP_NUM_THREADS says otherwise.

    On matrices of this size a second thread gains little on an idle machine, and on a busy one the threads wait for
    each other: many times the CPU time was seen.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ and entries < SMALL:
        torch.set_num_threads(1)


def load_data(which: str, kind: str, **options: Any) -> Dataset:
    """The data that a kind of network reads: a row for each sample, or all nodes of a graph.

    Raises
    ------
    UsageError
        As `load_dataset` and `load_nodes`; or if the kind is unknown.
    """
    # Imported here because scikit-learn and torch take a second.
    from ..networks.datasets import load_dataset
    from ..networks.node_data import load_nodes

    if kind not in KINDS:
        raise UsageError(f"unknown network {kind!r}; known: {', '.join(KINDS)}.")
    if kind != GRAPH:
        return load_dataset(which, **options)
    if options.get("task") == "regression":
        raise UsageError(
            "the task is regression, but the nodes of these graphs have classes; leave --task out, and take a loss for "
            "classes."
        )
    return load_nodes(which, data_dir=options.get("data_dir"), split=options.get("split", True))


def make_network(
    dataset: Dataset, hidden: list[int], activation: str, *, outputs: int, seed: int, device: str, kind: str = DENSE
) -> nn.Sequential:
    """A fresh network of a kind for a data set, on a device.

    Raises
    ------
    UsageError
        If a width, the activation or the device cannot be used, or the data are not for such networks.
    """
    from ..solvers.devices import usable_devices

    network = _fresh(dataset, hidden, activation, outputs, seed, kind)
    usable = usable_devices()
    if device not in usable and not (device == "cuda" and "cuda:0" in usable):
        raise UsageError(f"the device {device!r} cannot be used here; usable: {', '.join(usable)}.")
    return network.to(device)


def _fresh(
    dataset: Dataset, hidden: list[int], activation: str, outputs: int, seed: int, kind: str
) -> nn.Sequential:
    from ..networks.graph import graph_network
    from ..networks.graph_data import load_graph, normalized_adjacency
    from ..networks.lenet import SIDE, lenet5
    from ..solvers.layered import build_network

    features = dataset.X_train.shape[1]
    widths = (features, *hidden, outputs)
    if kind == DENSE:
        return build_network(widths, activation, random_state=seed)
    if kind == GRAPH:
        graph = load_graph(dataset.name, dataset.source["arguments"]["data_dir"])
        adjacency = normalized_adjacency(graph.edges, graph.nodes)
        return graph_network(adjacency, widths, activation, random_state=seed)
    if features != SIDE**2:
        raise UsageError(
            f"the data {dataset.name!r} have {features} features; the network lenet5 reads pictures of {SIDE} x {SIDE} "
            f"pixels, {SIDE**2} features: choose such data, e.g. mnist, or --network dense."
        )
    if hidden != DEFAULT_HIDDEN:
        raise UsageError("--hidden is for the networks dense and graph; lenet5 has widths of its own: leave it out.")
    return lenet5(outputs, activation, random_state=seed)


def outputs_for(dataset: Dataset, loss: str | None) -> int:
    """Outputs of the network: one for the logistic loss, else what the data need."""
    return 1 if loss == "logistic" else dataset.outputs


def train_method(
    network: nn.Module,
    dataset: Dataset,
    method: Method,
    *,
    out: Path | None,
    on_event: Callable[[dict[str, Any]], None],
    **settings: Any,
) -> History:
    """Train by a method of the catalogue; a run that is refused leaves nothing behind.

    Raises
    ------
    UsageError
        As `fit_method`.
    """
    from ..solvers.methods import fit_method

    with _leaves_nothing_if_refused(out):
        return fit_method(
            network, dataset.train, method, validation=dataset.test, out=out, notes=_notes(dataset), on_event=on_event,
            **settings,
        )  # fmt: skip


def _notes(dataset: Dataset) -> dict[str, Any]:
    return {"data": dataset.source, **({"scaling": dataset.scaling} if dataset.scaling else {})}


def train_baselines(
    start: nn.Module, dataset: Dataset, settings: dict[str, Any], *, outputs: int
) -> list[dict[str, Any]]:
    """Adam on the same network from the same start, and the linear model, on the objective of a run."""
    from ..networks.baselines import train_adam
    from ..networks.comparison import Goal, train_linear

    goal = Goal(settings["loss"], settings["weight_decay"], sweeps=settings["sweeps"], seconds=None)
    adam = train_adam(
        start, dataset.train, loss=goal.loss, weight_decay=goal.weight_decay, validation=dataset.test,
        random_state=settings["random_state"],
    )  # fmt: skip
    return [adam, train_linear(dataset, goal, outputs)]


@contextmanager
def _leaves_nothing_if_refused(out: Path | None) -> Iterator[None]:
    """Remove on a UsageError what was made since: numbers may overflow only in the first sweep."""
    missing = [] if out is None else [path for path in (out, *out.parents) if not path.exists()]
    was_empty = out is not None and out.is_dir() and not any(out.iterdir())
    try:
        yield
    except UsageError:
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        elif was_empty and out is not None:
            for path in out.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
