"""Many samples on one graph: convexified inequalities on the solar data of the paper, against what was published.

    python -m benchmarks.training_monotone --only solar [--seeds 3]

The published protocol: 10 sites in California, a label for each site and day, features the labels of the last 5
days, 2017 for training (360 days) and 2018 for testing (365); a graph network 5-64-64-1, ReLU, batches of 30 days, 100
passes. The published SGD has a rate of .001 with Nesterov momentum .99 on the mean squared error of the chances, and an
optimizer made anew in every pass; kept, it is another method. All others have the logistic loss. Their settings (weight
decay and passes; the surrogate's rate) are those with the least mean squared error on the quarters of 2017, each held
out in turn while the others train; 2018 chooses nothing. Logistic regression sees the features of a node averaged over
its neighbours. CPU time is that of the training with the chosen settings; Adam's includes its search for a rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from statistics import mean
from typing import Any

import numpy as np
import torch
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from torch import nn

from convexblocks.formulations import MonotoneInequality, TargetBlocks
from convexblocks.networks import GraphSignals, graph_network, load_solar, normalized_adjacency, train_adam
from convexblocks.solvers import fit_method

HIDDEN, BATCH, PASSES = (64, 64), 30, 100
DECAYS, LENGTHS, RATES = (1.0, 10.0, 100.0), (10, 30, 100), (1e-3, 1e-2, 1e-1)
PUBLISHED_RATE, PUBLISHED_MOMENTUM = 1e-3, 0.99
LOSS = "logistic"

Chances = Callable[[GraphSignals, int], np.ndarray]
"""Of data and a seed: chances of label 1 on the test part."""


def solar(seeds: int) -> Table:
    """Errors of all methods."""
    data = load_solar()
    table = Table(title=f"solar ramping, California, mean (least to most) of {seeds} seeds")
    for heading in ("method", "test MSE", "test error", "chosen", "CPU s"):
        table.add_column(heading, justify="left" if heading in ("method", "chosen") else "right")
    for name, candidates in methods().items():
        chosen = choose(candidates, data)
        squares, errors, began = [], [], time.process_time()
        for seed in range(seeds):
            chances = candidates[chosen](data, seed)
            squares.append(squared_error(chances, data.y_test))
            errors.append(float(np.mean((chances > 0.5) != data.y_test)))
        seconds = (time.process_time() - began) / seeds
        spread = f"{mean(squares):.4f} ({min(squares):.4f} to {max(squares):.4f})"
        table.add_row(name, spread, f"{mean(errors):.3f}", chosen, f"{seconds:.2f}")
    return table


def methods() -> dict[str, dict[str, Chances]]:
    """Name -> what was tried -> how it is trained."""
    small: dict[str, Any] = {"batch_size": BATCH}

    def blocks(make: Callable[[], Any]) -> dict[str, Chances]:
        return {
            f"decay {decay:g}, {passes} passes": by_blocks(make(), decay, passes)
            for decay, passes in product(DECAYS, LENGTHS)
        }

    return {
        "convexified": blocks(lambda: MonotoneInequality(**small)),
        "projected targets": blocks(lambda: MonotoneInequality(**small, targets="projected", gamma=1.0)),
        "surrogate": {
            f"rate {rate:g}, {PASSES} passes": by_blocks(
                MonotoneInequality(**small, steps="surrogate", step=rate), 0.0, PASSES
            )
            for rate in RATES
        },
        "target blocks": blocks(lambda: TargetBlocks(**small)),
        "Adam": {
            f"decay {decay:g}, {passes} passes": by_adam(decay, passes) for decay, passes in product(DECAYS, LENGTHS)
        },
        "SGD as published": {"": by_sgd(kept=False)},
        "SGD, optimizer kept": {"": by_sgd(kept=True)},
        "logistic regression": {f"decay {decay:g}": logistic(decay) for decay in DECAYS},
    }


def choose(candidates: dict[str, Chances], data: GraphSignals) -> str:
    """The candidate with the least error on quarters of the training year, each held out in turn."""
    if len(candidates) == 1:
        return next(iter(candidates))
    quarters = np.array_split(np.arange(len(data.X_train)), 4)
    errors = dict.fromkeys(candidates, 0.0)
    for held in quarters:
        X, y = (np.delete(part, held, axis=0) for part in (data.X_train, data.y_train))
        part = replace(data, X_train=X, y_train=y, X_test=data.X_train[held], y_test=data.y_train[held])
        for name, train in candidates.items():
            errors[name] += squared_error(train(part, 0), part.y_test)
    return min(errors, key=lambda name: errors[name])


def squared_error(chances: np.ndarray, y: np.ndarray) -> float:
    """Mean squared error of chances."""
    return float(np.mean((chances - y) ** 2))


def network_for(data: GraphSignals, seed: int) -> nn.Sequential:
    """A fresh network."""
    adjacency = normalized_adjacency(data.edges, data.nodes)
    return graph_network(adjacency, (data.X_train.shape[2], *HIDDEN, 1), random_state=seed)


def chances_of(network: nn.Module, X: np.ndarray) -> np.ndarray:
    """Sigmoid of the network's outputs, (samples, nodes)."""
    with torch.no_grad():
        return np.asarray(torch.sigmoid(network(torch.as_tensor(X).float()))[..., 0])


def by_blocks(method: MonotoneInequality | TargetBlocks, decay: float, passes: int) -> Chances:
    def train(data: GraphSignals, seed: int) -> np.ndarray:
        network = network_for(data, seed)
        fit_method(
            network, (data.X_train, data.y_train), method, loss=LOSS, weight_decay=decay, sweeps=passes,
            random_state=seed,
        )  # fmt: skip
        return chances_of(network, data.X_test)

    return train


def by_adam(decay: float, passes: int) -> Chances:
    def train(data: GraphSignals, seed: int) -> np.ndarray:
        network, steps = network_for(data, seed), passes * -(-len(data.X_train) // BATCH)
        train_adam(
            network, (data.X_train, data.y_train), loss=LOSS, weight_decay=decay, steps=steps, batch_size=BATCH,
            random_state=seed,
        )  # fmt: skip
        return chances_of(network, data.X_test)

    return train


def by_sgd(*, kept: bool) -> Chances:
    def optimizer(network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(network.parameters(), lr=PUBLISHED_RATE, momentum=PUBLISHED_MOMENTUM, nesterov=True)

    def train(data: GraphSignals, seed: int) -> np.ndarray:
        network, generator = network_for(data, seed), torch.Generator().manual_seed(seed)
        X, y = torch.as_tensor(data.X_train).float(), torch.as_tensor(data.y_train).float()
        stepper = optimizer(network)
        for _ in range(PASSES):
            stepper = stepper if kept else optimizer(network)
            for rows in torch.randperm(len(X), generator=generator).split(BATCH):
                stepper.zero_grad()
                nn.functional.mse_loss(torch.sigmoid(network(X[rows]))[..., 0], y[rows]).backward()
                stepper.step()
        return chances_of(network, data.X_test)

    return train


def logistic(decay: float) -> Chances:
    def train(data: GraphSignals, seed: int) -> np.ndarray:
        smooth = normalized_adjacency(data.edges, data.nodes).toarray()
        X, X_test = ((smooth @ part).reshape(-1, part.shape[2]) for part in (data.X_train, data.X_test))
        model = LogisticRegression(C=1 / decay).fit(X, data.y_train.ravel())
        return np.asarray(model.predict_proba(X_test)[:, 1].reshape(data.y_test.shape))

    return train
