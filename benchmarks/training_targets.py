"""Training loss and test accuracy at equal CPU time: target blocks against Adam.

    python -m benchmarks.training_targets [--data mnist] [--seeds 3] [--seconds 5 10]

784-300-10 ReLU, softmax cross-entropy, no weight decay, the data's own split, one thread, float32. Adam takes
mini-batches of 128 and a cosine schedule, at four learning rates; its best one is that with the least mean training
loss. Target blocks run with their defaults. Both get as many steps as fit into the CPU seconds,
measured in short runs beforehand (target blocks whole passes over the data, rounded down; Adam by the fastest of four
runs); the seconds that were really spent are in the table. Measuring losses is not counted for either.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from convexblocks.networks import Dataset, load_dataset, train_adam
from convexblocks.solvers import build_network, fit_targets

HIDDEN, LOSS = 300, "softmax_cross_entropy"
LEARNING_RATES = (1e-3, 2e-3, 3e-3, 5e-3)
PROBES, PROBE_STEPS = 4, 300
SECONDS = (5.0, 10.0)

Figures = dict[str, Any]


def network_for(data: Dataset, seed: int) -> torch.nn.Sequential:
    return build_network((data.X_train.shape[1], HIDDEN, data.outputs), "relu", random_state=seed)


def adam(data: Dataset, rate: float, steps: int, seed: int) -> Figures:
    return train_adam(
        network_for(data, seed), data.train, loss=LOSS, weight_decay=0.0, validation=data.test, learning_rates=(rate,),
        steps=steps, random_state=seed,
    )  # fmt: skip


def targets(data: Dataset, sweeps: int, seed: int) -> Figures:
    history = fit_targets(
        network_for(data, seed), data.train, loss=LOSS, weight_decay=0.0, validation=data.test, sweeps=sweeps,
        random_state=seed,
    )  # fmt: skip
    return history.last


def sweeps_for(data: Dataset, seconds: float) -> int:
    """Whole sweeps that fit: the first one also prepares the inputs."""
    history = fit_targets(network_for(data, 0), data.train, loss=LOSS, weight_decay=0.0, sweeps=2)
    first, both = history.column("cpu_seconds")[1:]
    return max(1, 1 + int((seconds - first) / (both - first)))


def steps_for(data: Dataset, seconds: float) -> int:
    # The fastest of some probes: where other work disturbs the measurement, Adam gets more steps, not fewer.
    fastest = min(adam(data, LEARNING_RATES[0], PROBE_STEPS, 0)["cpu_seconds"] for _ in range(PROBES))
    return max(1, round(PROBE_STEPS * seconds / fastest))


def row(name: str, runs: list[Figures], samples: int, best: float | None) -> tuple[str, ...]:
    loss = mean(run["true_loss"] for run in runs) / samples
    accuracies = [run["test_accuracy"] for run in runs]
    return (
        name, f"{mean(run['cpu_seconds'] for run in runs):.1f}", f"{loss:.5f}",
        "" if best is None else f"{loss * samples / best:.2f}", f"{mean(accuracies):.4f}",
        f"{min(accuracies):.4f} to {max(accuracies):.4f}",
    )  # fmt: skip


def compare(data: Dataset, seconds: float, seeds: int) -> Table:
    """All methods with the same CPU time."""
    samples, steps, sweeps = len(data.X_train), steps_for(data, seconds), sweeps_for(data, seconds)
    baselines = {rate: [adam(data, rate, steps, seed) for seed in range(seeds)] for rate in LEARNING_RATES}
    ours = [targets(data, sweeps, seed) for seed in range(seeds)]
    best = min(mean(run["true_loss"] for run in runs) for runs in baselines.values())
    table = Table(title=f"{data.name}, {seconds:g} CPU seconds, mean of {seeds} seeds")
    for heading in ("method", "CPU s", "training loss", "ratio to best Adam", "test accuracy", "least to most"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for rate, runs in baselines.items():
        table.add_row(*row(f"Adam {rate:g}, {steps} steps", runs, samples, best))
    table.add_row(*row(f"target blocks, {sweeps} sweeps", ours, samples, best))
    return table


def tables(seeds: int) -> Iterator[Table]:
    """MNIST and Fashion-MNIST, at two budgets each."""
    for name in ("mnist", "fashion_mnist"):
        data = load_dataset(name)
        for seconds in SECONDS:
            yield compare(data, seconds, seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, nargs="+", default=list(SECONDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset(arguments.data)
    for seconds in arguments.seconds:
        Console(width=120).print(compare(data, seconds, arguments.seeds))


if __name__ == "__main__":
    main()
