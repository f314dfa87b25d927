"""Test accuracy of networks trained by convex blocks on digits, beside logistic regression on the same splits.

    python -m benchmarks.digits [--seeds 5]

Pixels / 16, seeded stratified 80/20 splits, `fit` with its defaults, one thread. CPU seconds are the largest of the
runs. "falls" counts the runs in which the training loss of the network falls in each of the first 10 sweeps.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from convexblocks.solvers import History, build_network, fit

NETWORKS: tuple[tuple[tuple[int, ...], str], ...] = (
    ((64,), "relu"),
    ((64,), "leaky_relu"),
    ((64,), "tanh"),
    ((64,), "sigmoid"),
    ((64, 64, 64), "relu"),
)


def split(seed: int) -> list[object]:
    """Training and test inputs and labels: X_train, X_test, y_train, y_test."""
    X, y = load_digits(return_X_y=True)
    parts: list[object] = train_test_split(X / 16, y, test_size=0.2, stratify=y, random_state=seed)
    return parts


def trained(hidden: tuple[int, ...], activation: str, seed: int) -> History:
    """One run with the defaults of `fit`."""
    X_train, X_test, y_train, y_test = split(seed)
    network = build_network((64, *hidden, 10), activation, random_state=seed)
    return fit(network, (X_train, y_train), validation=(X_test, y_test), random_state=seed)


def table(seeds: int) -> Table:
    """Run everything."""
    result = Table(title=f"digits, mean test accuracy over {seeds} splits")
    for heading in ("network", "test accuracy", "least", "loss + penalty", "CPU s", "falls"):
        result.add_column(heading, justify="left" if heading == "network" else "right")
    for hidden, activation in NETWORKS:
        runs = [trained(hidden, activation, seed) for seed in range(seeds)]
        accuracies = [run.last["test_accuracy"] for run in runs]
        falls = [all(b < a for a, b in pairwise(run.column("true_loss")[:11])) for run in runs]
        result.add_row(
            f"64-{'-'.join(map(str, hidden))}-10 {activation}",
            f"{mean(accuracies):.4f}",
            f"{min(accuracies):.4f}",
            f"{mean(run.last['objective'] for run in runs):.2f}",
            f"{max(run.last['cpu_seconds'] for run in runs):.1f}",
            f"{sum(falls)} of {seeds}",
        )
    accuracies = []
    for seed in range(seeds):
        X_train, X_test, y_train, y_test = split(seed)
        model = LogisticRegression(max_iter=5000).fit(X_train, y_train)
        accuracies.append(float(model.score(X_test, y_test)))
    result.add_row("logistic regression", f"{mean(accuracies):.4f}", f"{min(accuracies):.4f}", "", "", "")
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    torch.set_num_threads(1)
    Console(width=110).print(table(parser.parse_args().seeds))


if __name__ == "__main__":
    main()
