"""The second table of `python -m benchmarks.certificates --depth`: bounds for networks of any depth.

200 samples, `numpy.random.default_rng(0).permutation`, columns scaled, no biases. "breast cancer" is its 10 principal
components and 60 of its samples once more, the labels of a random half of the copies flipped: label noise, where the
bound is strong. diabetes is a plain data set, where it is weak. "spectral" is the gap of the constraint |z| <= R |X|_2
alone, that of no certificate.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cvxpy as cp
import numpy as np
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_diabetes

from convexblocks.certificates import DeepProblem, certify_deep, checker, prepare, train_deep

SAMPLES, COPIES = 200, 60
ROWS = [
    ("breast cancer", 2, 0.3, 47.0), ("breast cancer", 2, 0.03, 24.0), ("breast cancer", 3, 0.3, 31.0),
    ("breast cancer", 3, 0.03, 7.2), ("diabetes", 2, 1.0, 90.0), ("diabetes", 3, 1.0, 87.0),
]  # fmt: skip
"""Data, depth, weight decay, and the largest gap in percent that is asked for."""


def deep_problem(name: str, depth: int, weight_decay: float) -> DeepProblem:
    """One instance."""
    load, loss, components = {
        "breast cancer": (load_breast_cancer, "logistic", 10), "diabetes": (load_diabetes, "squared", None),
    }[name]  # fmt: skip
    X, y = load(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(y))[:SAMPLES]
    X, y, words = prepare(X[chosen], y[chosen], loss, components=components, bias=False)
    if loss == "logistic":
        flips = np.where(np.random.default_rng(0).random(COPIES) < 0.5, -1, 1)
        X, y = np.vstack([X, X[:COPIES]]), np.concatenate([y, y[:COPIES] * flips])
        words += f"; {COPIES} samples copied, the labels of a random half of the copies flipped"
    return DeepProblem(X, y, loss, weight_decay, depth, preparation=f"{name}, {SAMPLES} random samples; {words}")


def spectral_value(problem: DeepProblem) -> float:
    """The bound of |z| <= R |X|_2 alone, over a grid of R: an estimate."""
    z, R, y = cp.Variable(len(problem.y)), cp.Parameter(nonneg=True), problem.y
    loss = cp.sum_squares(z - y) / 2 if problem.loss == "squared" else cp.sum(cp.logistic(-cp.multiply(y, z)))
    program = cp.Problem(cp.Minimize(loss), [cp.norm(z, 2) <= R * float(np.linalg.norm(problem.X, 2))])
    heights = [problem.loss_value(np.zeros(len(y)))]
    for R.value in np.geomspace(1e-3, 1e3, 60):
        heights.append(program.solve(solver=cp.CLARABEL) + problem.penalty(R.value))
    return min(heights)


def row(
    name: str, depth: int, weight_decay: float, most: float, seconds: float, incumbent_seconds: float
) -> list[str]:
    """Certify one instance, check its file in a process of its own."""
    problem = deep_problem(name, depth, weight_decay)
    incumbent = train_deep(problem, seconds=incumbent_seconds)
    made = certify_deep(problem, incumbent, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = made.write(Path(folder) / "certificate.json")
        began = time.perf_counter()
        command = [sys.executable, "-I", str(checker.__file__), str(path)]
        code = subprocess.run(command, capture_output=True, check=False).returncode
        checked = time.perf_counter() - began
    met = "NOT PROVEN" if code else "met" if made.gap_percent <= most else "NOT MET"
    spectral = 100 * (1 - spectral_value(problem) / incumbent.objective)
    return [
        name, f"{len(problem.y)} x {problem.X.shape[1]}", str(depth), f"{weight_decay:g}", f"{made.lower_bound:.6f}",
        f"{made.incumbent:.6f}", f"{made.gap_percent:.2f}", f"{most:g}", f"{spectral:.1f}", f"{incumbent.seconds:.0f}",
        f"{made.seconds:.1f}", f"{checked:.1f}", met,
    ]  # fmt: skip


def deep_table(seconds: float, incumbent_seconds: float) -> Table:
    """All rows."""
    table = Table(title="Certificates at any depth: lower bounds for all widths, proven by the checker")
    headings = (
        "data", "n x d", "depth", "decay", "proven", "incumbent", "gap %", "asked", "spectral %", "trained s",
        "found s", "checked s", "",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("data", "") else "right")
    for name, depth, weight_decay, most in ROWS:
        table.add_row(*row(name, depth, weight_decay, most, seconds, incumbent_seconds))
    return table
