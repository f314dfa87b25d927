"""Learned activations: convex blocks beside joint Adam with the same splines.

    python -m benchmarks.training_splines [--seeds 3]

One layer: 20 inputs, 64 outputs, each a monotone link of a combination of the inputs; 2000 samples, 51 knots, slopes in
[0.02, 2]. Spline fits and Newton steps of the weights alternate; Adam has the same module, in four settings. Two
layers: a sum of six learned functions, 31 knots; Adam first, then `polish`, and beside it the least value that any
splines on these knots reach with Adam's weights, by Clarabel. Real data: `splines`, `targets` and Adam from the same
starts, with as many CPU seconds each.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from convexblocks.formulations.spline_fit import hat_matrix
from convexblocks.networks import BUILT_IN, SplineActivation, load_dataset, polish
from convexblocks.networks.comparison import Goal, read_method, train_blocks, train_gradients
from convexblocks.networks.data_files import FOLDER_VARIABLE
from convexblocks.solvers import build_network, fit_splines

ADAM_SETTINGS = ((1e-1, 1500), (3e-2, 1500), (1e-2, 1500), (3e-2, 6000))
LINKS, POLISHES = 64, 20
SETS = {"digits": 2.0, "diabetes": 1.0, "kin8nm": 5.0}
"""Name and CPU seconds; kin8nm is in uci_regression.npz of the folder CONVEXBLOCKS_DATA, and else left out."""


def tables(seeds: int) -> Iterator[Table]:
    """All tables."""
    yield one_layer()
    yield two_layers(seeds)
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in SETS.items():
            which = name if name in BUILT_IN else published(name, Path(folder))
            if which is not None:
                yield real_data(name, which, seconds, seeds)


def one_layer() -> Table:
    """Learned links of one layer, alternating and by Adam."""
    rng = np.random.default_rng(0)
    X, true = rng.normal(size=(2000, 20)), rng.normal(size=(20, LINKS))
    true /= np.linalg.norm(true, axis=0)
    Y = links(X @ true) + 0.1 * rng.normal(size=(2000, LINKS))
    X_test = rng.normal(size=(4000, 20))
    Y_test = links(X_test @ true)
    start = np.linalg.lstsq(X, Y, rcond=None)[0]
    start /= np.linalg.norm(start, axis=0)
    table = Table(title="20 -> 64 learned monotone links, 2000 samples")
    for heading in ("method", "objective", "test MSE", "CPU s"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for rounds in (2, 6):
        began = time.process_time()
        W, fit = alternate(X, Y, start, rounds)
        seconds = time.process_time() - began
        error = np.mean((fit.values(X_test @ W) - Y_test) ** 2)
        table.add_row(f"alternating, {rounds} rounds", f"{fit.objective.sum():.1f}", f"{error:.1e}", f"{seconds:.2f}")
    for rate, steps in ADAM_SETTINGS:
        began = time.process_time()
        objective, predict = joint_adam(X, Y, start, rate, steps)
        seconds = time.process_time() - began
        error = np.mean((predict(X_test) - Y_test) ** 2)
        table.add_row(f"Adam, rate {rate:g}, {steps} steps", f"{objective:.1f}", f"{error:.1e}", f"{seconds:.2f}")
    return table


def links(Z: np.ndarray) -> np.ndarray:
    """Four kinds of monotone links in turn."""
    kinds = [
        np.tanh(2 * Z), np.maximum(Z, 0.05 * Z), np.sign(Z) * np.maximum(abs(Z) - 0.7, 0) + 0.05 * Z,
        np.clip(Z, -0.5, 1) + 0.05 * Z,
    ]  # fmt: skip
    return np.choose(np.arange(Z.shape[1]) % 4, kinds)


KNOTS, SLOPES, PRICE = np.linspace(-4, 4, 51), (0.02, 2.0), 0.5


def alternate(X: np.ndarray, Y: np.ndarray, W: np.ndarray, rounds: int) -> tuple[np.ndarray, Any]:
    """Spline fits of all links at once, and between them a step of the weights that lowers the loss, link by link."""
    for _ in range(rounds - 1):
        fit = fit_splines(X @ W, Y, KNOTS, slopes=SLOPES, penalty=PRICE, tolerance=1e-7)
        candidates = [W, gauss_newton(X, Y, W, fit), matching_newton(X, Y, W, fit)]
        losses = [((fit.values(X @ V) - Y) ** 2).sum(0) for V in candidates]
        W = np.choose(np.argmin(losses, axis=0), candidates)
        W = W / np.linalg.norm(W, axis=0)
    return W, fit_splines(X @ W, Y, KNOTS, slopes=SLOPES, penalty=PRICE, tolerance=1e-7)


def slopes_at(fit: Any, Z: np.ndarray) -> np.ndarray:
    """The slope of each spline at its inputs."""
    cell = np.clip(np.searchsorted(KNOTS, Z, side="right") - 1, 0, len(KNOTS) - 2)
    return np.take_along_axis(fit.slopes, cell, 0)


def newton(X: np.ndarray, W: np.ndarray, weights: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """W less the solutions of (X' diag(weights) X) d = X' slopes, one for each column."""
    hessians = np.stack([(X * column[:, None]).T @ X for column in weights.T]) + 1e-3 * np.eye(X.shape[1])
    return W - np.linalg.solve(hessians, (X.T @ slopes).T[:, :, None])[:, :, 0].T


def gauss_newton(X: np.ndarray, Y: np.ndarray, W: np.ndarray, fit: Any) -> np.ndarray:
    """One step of the squared loss."""
    Z = X @ W
    s = slopes_at(fit, Z)
    return newton(X, W, s**2, s * (fit.values(Z) - Y))


def matching_newton(X: np.ndarray, Y: np.ndarray, W: np.ndarray, fit: Any) -> np.ndarray:
    """Three Newton steps of the matching loss sum Phi(w'x) - y w'x with Phi' = f, convex as f rises."""
    for _ in range(3):
        Z = X @ W
        W = newton(X, W, slopes_at(fit, Z), fit.values(Z) - Y)
    return W


def joint_adam(X: np.ndarray, Y: np.ndarray, start: np.ndarray, rate: float, steps: int) -> tuple[float, Any]:
    """Weights of norm 1 and splines together; the objective, and what predicts."""
    inputs, targets = torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)
    W = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    splines = SplineActivation(LINKS, knots=51, span=(-4.0, 4.0), slopes=SLOPES)
    optimizer = torch.optim.Adam([W, *splines.parameters()], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def objective() -> torch.Tensor:
        loss = (splines(inputs @ (W / W.norm(dim=0))) - targets).square().sum() / 2
        total: torch.Tensor = loss + PRICE * splines.tv2()
        return total

    for _ in range(steps):
        optimizer.zero_grad()
        objective().backward()
        optimizer.step()
        schedule.step()
        splines.project()

    def predict(inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            made: np.ndarray = splines(torch.tensor(inputs, dtype=torch.float32) @ (W / W.norm(dim=0))).numpy()
        return made

    return objective().item(), predict


TWO_KNOTS, BOUND, TWO_PRICE = 31, 2.0, 0.2


def two_layers(seeds: int) -> Table:
    """Adam and then polish, on a sum of six learned functions of combinations of eight inputs."""
    rng = np.random.default_rng(1)
    X = torch.tensor(rng.normal(size=(1500, 8)))
    waves = torch.sin(2 * (X[:, 2] + X[:, 3]) / 2**0.5)
    hinge = (0.8 * X[:, 4] + 0.6 * X[:, 5] - 0.3).clamp(min=0)
    y = (X[:, 0] - X[:, 1] / 2).abs() + waves + hinge + torch.tensor(0.1 * rng.normal(size=1500))
    table = Table(title=f"sum of 6 learned functions, 1500 samples, objective, least to most of {seeds} starts")
    headings = ("Adam's steps", "Adam", "1 polish", f"{POLISHES} polishes", "least for these weights", "CPU s: Adam",
                "1 polish", "Clarabel")  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    for steps in (600, 3000):
        runs = [polished(X, y[:, None], steps, seed) for seed in range(seeds)]
        spans = [f"{min(column):.2f} to {max(column):.2f}" for column in list(zip(*runs, strict=True))[:4]]
        times = [f"{mean(column):.2f}" for column in list(zip(*runs, strict=True))[4:]]
        table.add_row(str(steps), *spans, *times)
    return table


def polished(X: torch.Tensor, y: torch.Tensor, steps: int, seed: int) -> tuple[float, ...]:
    """Objectives after Adam, after one and after many polishes, and the least one; CPU seconds of these."""
    began = time.process_time()
    network = adam_network(X, y, steps, seed)
    times = [time.process_time() - began]
    least, seconds = least_objective(network, X, y)
    began = time.process_time()
    found = [polish(network, (X, y), penalty=TWO_PRICE)]
    times += [time.process_time() - began, seconds]
    found += [polish(network, (X, y), penalty=TWO_PRICE) for _ in range(POLISHES - 1)]
    return (found[0]["before"], found[0]["after"], found[-1]["after"], least, *times)


def adam_network(X: torch.Tensor, y: torch.Tensor, steps: int, seed: int) -> nn.Sequential:
    """Weights of norm 1, splines and a constant by Adam, as a network whose last layer sums."""
    torch.manual_seed(seed)
    W = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    splines = SplineActivation(6, knots=TWO_KNOTS, span=(-4.0, 4.0), slopes=(-BOUND, BOUND)).double()
    splines.set_slopes(torch.zeros(6), 0.1 * torch.randn(6, TWO_KNOTS - 1, dtype=torch.float64).T)
    b = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([W, *splines.parameters(), b], lr=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        made = splines(X @ (W / W.norm(dim=1, keepdim=True)).T).sum(1) + b
        ((made - y[:, 0]).square().sum() / 2 + TWO_PRICE * splines.tv2()).backward()
        optimizer.step()
        schedule.step()
        splines.project()
    network = nn.Sequential(nn.Linear(8, 6, bias=False), splines, nn.Linear(6, 1)).double()
    with torch.no_grad():
        network[0].weight.copy_(W / W.norm(dim=1, keepdim=True))
        network[2].weight.fill_(1.0)
        network[2].bias.copy_(b)
    return network


def least_objective(network: nn.Sequential, X: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """The convex program of all six splines at once, given the weights, and the CPU seconds of Clarabel."""
    with torch.no_grad():
        Z = network[0](X).numpy()
    knots = network[1].positions.numpy()
    hats = np.hstack([hat_matrix(knots, column) for column in Z.T])
    c, s = cp.Variable((6, TWO_KNOTS)), cp.Variable((6, TWO_KNOTS - 1))
    residual = hats @ cp.vec(c, order="C") - y[:, 0].numpy()
    objective = cp.sum_squares(residual) / 2 + TWO_PRICE * cp.sum(cp.abs(cp.diff(s, axis=1)))
    rows = [cp.diff(c, axis=1) == cp.multiply(np.diff(knots)[None], s), s >= -BOUND, s <= BOUND]
    began = time.process_time()
    value = cp.Problem(cp.Minimize(objective), rows).solve(solver=cp.CLARABEL)
    return float(value), time.process_time() - began


def published(name: str, folder: Path) -> str | None:
    """A regression set of the folder of data as a file that `load_dataset` reads; None where it is not there."""
    source = Path(os.environ.get(FOLDER_VARIABLE, ".")) / "uci_regression.npz"
    if not source.is_file():
        return None
    with np.load(source, allow_pickle=False) as arrays:
        X, y = arrays[f"{name}_X"], arrays[f"{name}_y"]
    np.savez(folder / f"{name}.npz", X=X, y=(y - y.mean()) / y.std())
    return str(folder / f"{name}.npz")


def real_data(name: str, which: str, seconds: float, seeds: int) -> Table:
    """A data set of `list`, one hidden layer of 64, weight decay 0.1, the same CPU seconds for each method."""
    table = Table(title=f"{name}, one hidden layer of 64, {seconds:g} CPU s, mean of {seeds} seeds")
    for heading in ("method", "training loss", "loss + weight decay", "test accuracy or error", "sweeps or steps"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in ("splines", "targets", "adam"):
        runs = [one_run(method, which, seconds, seed) for seed in range(seeds)]
        keys = ("true_loss", "objective", "test_accuracy" if "test_accuracy" in runs[0] else "test_error")
        figures = [f"{mean(run[key] for run in runs):.4g}" for key in keys]
        length = mean(run.get("sweeps", run.get("steps", 0)) for run in runs)
        table.add_row(method, *figures, f"{length:.0f}")
    return table


def one_run(method: str, which: str, seconds: float, seed: int) -> dict[str, Any]:
    """A method on the split and the start of a seed."""
    data = load_dataset(which, random_state=seed)
    start = build_network((data.X_train.shape[1], 64, data.outputs), "relu", random_state=seed)
    loss = "squared" if data.task == "regression" else "softmax_cross_entropy"
    goal = Goal(loss, 0.1, sweeps=30, seconds=seconds)
    if method == "adam":
        return train_gradients(method, start, data, goal, seed)
    return train_blocks(read_method(method, {}), start, data, goal, seed)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    torch.set_num_threads(1)
    for table in tables(parser.parse_args().seeds):
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
