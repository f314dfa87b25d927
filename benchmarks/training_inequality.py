"""Inequality lifting (mDLAM) and its relatives: Cora as published, MNIST, digits, and the rate at a fixed epsilon.

    python -m benchmarks.training_inequality [FILE.png] [--seeds 3] [--only cora]

**Cora.** The protocol of mDLAM: augmented features, 7165-100-100-7 ReLU, weights and biases N(0, .1), the public split
with 140 training and 1000 test nodes, multiplier 1e-3, epsilon halved from 100 to 1e-3. Weight decays, and the rate of
Adam, are chosen by the mean accuracy on the 500 validation nodes over the seeds; the published steps run with the
paper's weight decay, 0.05, and with 1. CPU seconds are those of one fit at the chosen settings. Published: mDLAM .742,
pdADMM-G .784 (.788 quantized); logistic regression with a weight decay fixed beforehand: .802 to .807.

**MNIST.** 8,000 pictures for training and 2,000 for testing, as in benchmarks/training_fenchel.py.

**Digits.** All methods that keep lifted variables with their defaults, 64-64-10 ReLU, 30 sweeps, weight decay 0.1.

**Rates.** Iris, 4-4-3 tanh, multiplier 0.1, weight decay 1, exact blocks without extrapolation at a fixed epsilon: the
excess of the lifted objective over its value after 300 sweeps, and the factor by which it falls in a sweep, from a line
through the logarithms over the first half. FILE.png gets the picture.

One thread, CPU time, means over seeds. Test data choose nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.training_fenchel import adam as mnist_adam
from benchmarks.training_fenchel import network_for, row, split
from convexblocks.formulations import InequalityLifting
from convexblocks.formulations.catalogue import LIFTED, method
from convexblocks.networks import augmented_features, linear_baseline, load_dataset, load_graph, train_adam
from convexblocks.networks.datasets import Dataset
from convexblocks.solvers import build_network, fit_lifted

LOSS = "softmax_cross_entropy"
CORA_WIDTHS = (7165, 100, 100, 7)
LIFTED_DECAYS, MAJORIZED_DECAYS = (0.1, 0.3, 1.0, 3.0), (0.05, 1.0)
LINEAR_DECAYS = (0.1, 1.0, 10.0, 100.0, 1000.0)
ADAM_DECAYS, ADAM_RATES, ADAM_STEPS = (1.0, 10.0), (3e-4, 1e-3, 3e-3), 200
EXACT_SWEEPS, MAJORIZED_SWEEPS = 15, 200
EPSILONS, RATE_SWEEPS, RATE_MULTIPLIER, RATE_DECAY = (10.0, 1.0, 0.3, 0.1, 0.03), 300, 0.1, 1.0
SETTLED, FLOOR = 20, 1e-4
"""A rate is measured from this sweep on, down to this excess: blocks are not solved more accurately."""

Arrays = tuple[np.ndarray, np.ndarray]
Figures = dict[str, Any]
Fit = Callable[[nn.Sequential, int], Figures]


def cora_parts() -> dict[str, Arrays]:
    """Training, validation and test nodes."""
    graph = load_graph("cora")
    X = augmented_features(graph)
    masks = {"train": graph.train_mask, "validation": graph.val_mask, "test": graph.test_mask}
    return {name: (X[mask], graph.labels[mask]) for name, mask in masks.items()}


def normal_start(seed: int) -> nn.Sequential:
    """The published start of the network for Cora."""
    network, generator = build_network(CORA_WIDTHS, "relu", random_state=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def torch_start(seed: int) -> nn.Sequential:
    """The start that torch gives it."""
    return build_network(CORA_WIDTHS, "relu", random_state=seed)


def accuracy(network: nn.Module, data: Arrays) -> float:
    """Share of right labels."""
    with torch.no_grad():
        predicted = network(torch.as_tensor(data[0], dtype=torch.float32)).argmax(1).numpy()
    return float(np.mean(predicted == data[1]))


def cora(seeds: int) -> Table:
    """All methods on Cora."""
    parts = cora_parts()
    test = parts["test"]
    table = Table(title=f"Cora, {'-'.join(map(str, CORA_WIDTHS))}, mean (least to most) of {seeds} seeds")
    for heading in ("method", "chosen on validation", "validation", "test accuracy", "training loss", "CPU s"):
        table.add_column(heading, justify="left" if heading in ("method", "chosen on validation") else "right")

    def lifted(sweeps: int, decay: float, **settings: Any) -> Fit:
        chosen = InequalityLifting(multiplier=1e-3, epsilon=100.0, decay=0.5, least_epsilon=1e-3, **settings)
        return lambda network, seed: fit_lifted(network, parts["train"], chosen, weight_decay=decay, sweeps=sweeps).last

    def adam(decay: float, rate: float) -> Fit:
        settings: Figures = {"learning_rates": (rate,), "steps": ADAM_STEPS, "batch_size": len(parts["train"][0])}
        common: Figures = {"loss": LOSS, "weight_decay": decay, **settings}
        return lambda network, seed: train_adam(network, parts["train"], random_state=seed, **common)

    def best(name: str, start: Callable[[int], nn.Sequential], candidates: dict[str, Fit]) -> None:
        found = []
        for setting, fit in candidates.items():
            runs = []
            for seed in range(seeds):
                network = start(seed)
                figures = fit(network, seed)
                runs.append({**figures, "on_validation": accuracy(network, parts["validation"]),
                             "on_test": accuracy(network, test)})  # fmt: skip
            found.append((setting, runs))
        setting, runs = max(found, key=lambda pair: mean(run["on_validation"] for run in pair[1]))
        accuracies = [run["on_test"] for run in runs]
        table.add_row(
            name, setting, f"{mean(run['on_validation'] for run in runs):.3f}",
            f"{mean(accuracies):.4f} ({min(accuracies):.3f} to {max(accuracies):.3f})",
            f"{mean(run['true_loss'] for run in runs):.2f}", f"{mean(run['cpu_seconds'] for run in runs):.1f}",
        )  # fmt: skip

    exact = {f"weight decay {decay:g}": lifted(EXACT_SWEEPS, decay) for decay in LIFTED_DECAYS}
    best(f"exact blocks, {EXACT_SWEEPS} sweeps", normal_start, exact)
    for name, extrapolate in (("published steps", False), ("published steps, true momentum", True)):
        steps: Figures = {"steps": "majorized", "extrapolate": extrapolate}
        for decay in MAJORIZED_DECAYS:
            taken = {f"(weight decay {decay:g})": lifted(MAJORIZED_SWEEPS, decay, **steps)}
            best(f"{name}, {MAJORIZED_SWEEPS} sweeps", normal_start, taken)
    rates = {f"decay {d:g}, rate {r:g}": adam(d, r) for d in ADAM_DECAYS for r in ADAM_RATES}
    best(f"Adam, {ADAM_STEPS} steps", normal_start, rates)
    best(f"Adam, {ADAM_STEPS} steps, torch's start", torch_start, rates)
    _logistic(table, parts)
    return table


def _logistic(table: Table, parts: dict[str, Arrays]) -> None:
    def fitted(decay: float, where: str) -> Figures:
        return linear_baseline(parts["train"], loss=LOSS, weight_decay=decay, outputs=7, validation=parts[where])

    scores = {decay: fitted(decay, "validation")["test_accuracy"] for decay in LINEAR_DECAYS}
    decay = max(scores, key=lambda found: scores[found])
    run = fitted(decay, "test")
    figures = f"{scores[decay]:.3f}", f"{run['test_accuracy']:.4f}", f"{run['true_loss']:.2f}"
    table.add_row("logistic regression", f"weight decay {decay:g}", *figures, f"{run['cpu_seconds']:.1f}")


MNIST_LIFTED: Figures = {"multiplier": 1e-2}
MNIST_SWEEPS, MNIST_DECAY = 20, 0.1


def pictures(seeds: int) -> Table:
    """MNIST beside Adam."""
    table = Table(title=f"MNIST, 8000 pictures for training, 2000 for testing, mean of {seeds} seeds")
    for heading in ("method", "test accuracy", "least to most", "training loss", "CPU s"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    train, test = split()
    runs = []
    for seed in range(seeds):
        common: Figures = {"weight_decay": MNIST_DECAY, "sweeps": MNIST_SWEEPS, "validation": test}
        runs.append(fit_lifted(network_for(seed), train, InequalityLifting(**MNIST_LIFTED), **common).last)
    table.add_row(*row(f"inequality, {MNIST_SWEEPS} sweeps", runs))
    table.add_row(*row("Adam, best of 4 rates", [mnist_adam(seed) for seed in range(seeds)]))
    return table


def relatives(seeds: int) -> Table:
    """All methods with kept variables on digits."""
    table = Table(title=f"digits, 64-64-10, defaults, 30 sweeps, mean of {seeds} seeds")
    for heading in ("method", "test accuracy", "least to most", "training loss", "CPU s"):
        table.add_column(heading, justify="left" if heading == "method" else "right")

    def digits_row(name: str, fit: Callable[[nn.Sequential, Any, int], Figures]) -> None:
        runs = []
        for seed in range(seeds):
            data = load_dataset("digits", random_state=seed)
            network = build_network((64, 64, 10), "relu", random_state=seed)
            runs.append(fit(network, data, seed))
        *cells, _ = row(name, runs)
        table.add_row(*cells, f"{mean(run['cpu_seconds'] for run in runs):.2f}")

    for name in LIFTED:
        chosen = method(name)
        digits_row(name, partial(_lifted_on, chosen))
    digits_row("Adam", _adam_on)
    digits_row("logistic regression", _linear_on)
    return table


def _lifted_on(chosen: Any, network: nn.Sequential, data: Dataset, seed: int) -> Figures:
    return fit_lifted(network, data.train, chosen, validation=data.test, random_state=seed).last


def _adam_on(network: nn.Sequential, data: Dataset, seed: int) -> Figures:
    found = train_adam(network, data.train, loss=LOSS, validation=data.test, random_state=seed)
    return found | {"cpu_seconds": found["cpu_seconds"] - found["search_seconds"]}


def _linear_on(network: nn.Sequential, data: Dataset, seed: int) -> Figures:
    return linear_baseline(data.train, loss=LOSS, outputs=10, validation=data.test)


def excesses(epsilon: float, sweeps: int = RATE_SWEEPS) -> np.ndarray:
    """Lifted objective after each sweep, minus that after the last one, at a fixed epsilon."""
    data = load_dataset("iris", split=False)
    network = build_network((4, 4, 3), "tanh", random_state=0, dtype=torch.float64)
    fixed = InequalityLifting(RATE_MULTIPLIER, epsilon, epsilon, 1.0, extrapolate=False)
    history = fit_lifted(network, data.train, fixed, weight_decay=RATE_DECAY, sweeps=sweeps)
    values = np.array(history.column("lifted_estimate")[1:])
    return values - values[-1]


def measured_rate(excess: np.ndarray) -> tuple[float, int]:
    """Factor per sweep from a line through the logarithms, and the sweeps that it was measured over."""
    seen = np.arange(SETTLED, len(excess) // 2)
    low = np.flatnonzero(excess[seen] <= FLOOR)
    seen = seen[: low[0]] if len(low) else seen
    return float(np.exp(np.polyfit(seen, np.log(excess[seen]), 1)[0])), len(seen)


def rates(picture: str | Path | None = None) -> Table:
    """Rates by epsilon, and their picture."""
    table = Table(title=f"iris, 4-4-3 tanh, fixed epsilon, {RATE_SWEEPS} sweeps without extrapolation")
    shown = (20, 60, 120)
    for heading in ("epsilon", *(f"excess after {sweep}" for sweep in shown), "factor per sweep", "over sweeps"):
        table.add_column(heading, justify="right")
    curves = {epsilon: excesses(epsilon) for epsilon in EPSILONS}
    for epsilon, excess in curves.items():
        factor, over = measured_rate(excess)
        found = (f"{excess[sweep - 1]:.1e}" for sweep in shown)
        table.add_row(f"{epsilon:g}", *found, f"{factor:.4f}", f"{SETTLED} to {SETTLED + over}")
    if picture is not None:
        draw(curves, picture)
    return table


def draw(curves: dict[float, np.ndarray], picture: str | Path) -> None:
    """Excess against sweeps, logarithmic."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for epsilon, excess in curves.items():
        half = excess[: len(excess) // 2]
        axis.semilogy(np.arange(1, len(half) + 1), np.where(half > FLOOR, half, np.nan), label=f"epsilon {epsilon:g}")
    axis.set(xlabel="sweep", ylabel="objective minus its value in the end")
    axis.legend()
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def tables(seeds: int) -> Iterator[Table]:
    """All tables, the quick ones first."""
    yield rates()
    yield relatives(seeds)
    yield cora(seeds)
    yield pictures(seeds)


def main() -> None:
    """Print the tables, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", metavar="FILE.png", help="where to draw the rates, alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=ONLY)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.picture and arguments.only not in (None, "rates"):
        parser.error("FILE.png is a picture of the rates: leave --only out")
    if arguments.picture or arguments.only == "rates":
        shown = iter([rates(arguments.picture)])
    else:
        shown = iter([ONLY[arguments.only](arguments.seeds)]) if arguments.only else tables(arguments.seeds)
    for table in shown:
        Console(width=130).print(table)


ONLY: dict[str, Callable[[int], Table]] = {
    "rates": lambda seeds: rates(), "digits": relatives, "cora": cora, "mnist": pictures,
}  # fmt: skip

if __name__ == "__main__":
    main()
