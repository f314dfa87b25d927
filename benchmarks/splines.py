"""Slope-constrained spline fits beside cvxpy, on one thread, in CPU seconds.

    python -m benchmarks.splines [--channels 512] [--reference 64] [--stress 1000]

512 channels, 101 knots, 1000 samples each, slopes in [0, 1], penalty 0.3. The peers run on the first `--reference`
channels and are scaled; their gaps are against our dual values. Then: how time grows, fits that start from an earlier
one, exact fits (beside splineops, where that is installed: pip install --no-deps splineops==2.2.0), and random
configurations (clustered knots, scales, tiny penalties, binding slopes, weights over six orders).
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
from rich.console import Console
from rich.table import Table

from convexblocks.formulations.spline_fit import SlopeSpline
from convexblocks.solvers import fit_spline_exact, fit_splines

PENALTY, SLOPES = 0.3, (0.0, 1.0)


def make_data(channels: int, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Six kinds of noisy activations of inputs clipped to [-1, 1]."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(size=(samples, channels)) * rng.uniform(0.25, 0.6, size=channels), -1, 1)
    return x, noisy_activations(x, rng)


def make_distinct_data(channels: int, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The same at a jittered grid: increasing inputs, no two of them closer than 0.4 of its spacing."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, samples)[:, None]
    x = grid + (2 / samples) * rng.uniform(-0.3, 0.3, size=(samples, channels))
    return x, noisy_activations(x, rng)


def noisy_activations(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Six kinds in turn, one a channel, with noise of the deviation 0.05."""
    channels = x.shape[1]
    a = rng.uniform(0.1, 0.5, size=channels)
    kinds = [
        np.sign(x) * np.maximum(np.abs(x) - a, 0), np.maximum(x, -0.2 * a), np.clip(x, -a, a), a * np.sin(3 * x),
        np.tanh(2 * x / (a + 0.3)), np.abs(x) - a,
    ]  # fmt: skip
    y = np.choose(np.arange(channels) % 6, kinds)
    return np.asarray(y + 0.05 * rng.normal(size=x.shape))


def cpu(run: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """The least CPU time of a few runs, and the last result."""
    times, result = [], None
    for _ in range(repeats):
        began = time.process_time()
        result = run()
        times.append(time.process_time() - began)
    return min(times), result


def value_of(c: np.ndarray, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Objective of knot values, whatever made them."""
    s = np.diff(c) / np.diff(t)
    return 0.5 * float(np.sum((np.interp(x, t, c) - y) ** 2)) + PENALTY * float(np.abs(np.diff(s)).sum())


def cvxpy_rows(t: np.ndarray, x: np.ndarray, y: np.ndarray, solver: str, **settings: Any) -> np.ndarray:
    """The readable program of one channel, written with the sparse matrix that a user would take."""
    from scipy.sparse import csr_array

    cell = np.clip(np.searchsorted(t, x, side="right") - 1, 0, len(t) - 2)
    share = (x - t[cell]) / np.diff(t)[cell]
    rows = np.arange(len(x))
    B = csr_array((np.r_[1 - share, share], (np.r_[rows, rows], np.r_[cell, cell + 1])), shape=(len(x), len(t)))
    c, s = cp.Variable(len(t)), cp.Variable(len(t) - 1)
    objective = 0.5 * cp.sum_squares(B @ c - y) + PENALTY * cp.norm1(cp.diff(s))
    rules = [cp.diff(c) == cp.multiply(np.diff(t), s), s >= SLOPES[0], s <= SLOPES[1]]
    cp.Problem(cp.Minimize(objective), rules).solve(solver=solver, **settings)
    return np.asarray(c.value)


def cvxpy_sums(t: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """One parametrized program for all channels, on the 2 x 2 Cholesky factors of each cell."""
    n, h = len(t) - 1, np.diff(t)
    v, s = cp.Variable(n), cp.Variable(n)
    A0, A1, B1, d0, d1 = (cp.Parameter(n) for _ in range(5))
    rest = cp.hstack([cp.multiply(A0, v) + cp.multiply(A1, s) - d0, cp.multiply(B1, s) - d1])
    objective = 0.5 * cp.sum_squares(rest) + PENALTY * cp.norm1(cp.diff(s))
    rules = [v[1:] == v[:-1] + cp.multiply(h[:-1], s[:-1]), s >= SLOPES[0], s <= SLOPES[1]]
    problem = cp.Problem(cp.Minimize(objective), rules)

    def solve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        cell = np.clip(np.searchsorted(t, x, side="right") - 1, 0, n - 1)
        u = x - t[cell]
        S0, S1, S2, T0, T1 = (np.bincount(cell, part, n) for part in (1 + 0 * u, u, u * u, y, y * u))
        root = np.sqrt(S0)
        safe = np.where(root > 0, root, 1)
        A1.value, d0.value = S1 / safe, T0 / safe
        lower = np.sqrt(np.maximum(S2 - A1.value**2, 0))
        fine = lower > 1e-12
        A0.value, B1.value = root, np.where(fine, lower, 0)
        d1.value = np.where(fine, (T1 - A1.value * d0.value) / np.where(fine, lower, 1), 0)
        problem.solve(solver=cp.CLARABEL)
        return np.append(v.value, v.value[-1] + h[-1] * s.value[-1])

    return solve


def race(console: Console, channels: int, reference: int) -> None:
    """The main table."""
    x, y = make_data(channels, 1000)
    t = np.linspace(-1, 1, 101)
    ours, fit = cpu(lambda: fit_splines(x, y, t, slopes=SLOPES, penalty=PENALTY), repeats=5)
    shown = Table(title=f"{channels} channels, 101 knots, 1000 samples")
    for heading in ("solver", "CPU s", "times ours", "largest gap", "slope violation"):
        shown.add_column(heading, justify="left" if heading == "solver" else "right")
    shown.add_row("fit_splines", f"{ours:.3f}", "1", f"{fit.relative_gap.max():.1e}", f"{fit.slope_violation.max():g}")
    sums = cvxpy_sums(t)
    tight = {"eps_abs": 1e-6, "eps_rel": 1e-6, "max_iter": 20000}
    peers: dict[str, tuple[int, Callable[[int], np.ndarray]]] = {
        "cvxpy + Clarabel, a program a channel": (
            reference, lambda k: cvxpy_rows(t, x[:, k], y[:, k], cp.CLARABEL)
        ),
        "cvxpy + Clarabel, DPP on sums over cells": (reference, lambda k: sums(x[:, k], y[:, k])),
        "cvxpy + OSQP at 1e-6": (max(1, reference // 4), lambda k: cvxpy_rows(t, x[:, k], y[:, k], cp.OSQP, **tight)),
    }  # fmt: skip
    for name, (count, solve) in peers.items():
        solve(0)
        spent, found = cpu(lambda solve=solve, count=count: [solve(k) for k in range(count)])
        spent *= channels / count
        low = fit.dual_value
        gap = max(value_of(c, t, x[:, k], y[:, k]) / low[k] - 1 for k, c in enumerate(found))
        slopes = np.array([np.diff(c) / np.diff(t) for c in found])
        outside = max(0.0, (SLOPES[0] - slopes).max(), (slopes - SLOPES[1]).max())
        shown.add_row(f"{name} ({count})", f"{spent:.2f}", f"{spent / ours:.0f}", f"{gap:.1e}", f"{outside:.0e}")
    console.print(shown)


def growth(console: Console) -> None:
    """Time against samples and channels."""
    t = np.linspace(-1, 1, 101)
    for channels, samples in ((512, 1000), (512, 2000), (512, 4000), (1024, 1000), (2048, 1000)):
        x, y = make_data(channels, samples)
        spent, _ = cpu(lambda x=x, y=y: fit_splines(x, y, t, slopes=SLOPES, penalty=PENALTY), repeats=2)
        console.print(f"{channels} channels x {samples} samples: {spent:.2f} s")


def warm(console: Console) -> None:
    """Fits that start from the fit of other data: noise added to the targets, or another penalty."""
    x, y = make_data(512, 1000)
    t, noise = np.linspace(-1, 1, 101), np.random.default_rng(1).normal(size=y.shape)
    shown = Table(title="512 channels from an earlier fit: iterations, mean (most), and CPU s")
    for heading in ("slopes", "what is new", "from nothing", "CPU s", "from the earlier fit", "CPU s"):
        shown.add_column(heading, justify="left" if heading in ("slopes", "what is new") else "right")
    for slopes in (SLOPES, "free", "monotone"):
        earlier = fit_splines(x, y, t, slopes=slopes, penalty=PENALTY)
        changes = [(f"targets by {moved:g} of their deviation", moved, 1.0) for moved in (0, 0.001, 0.01, 0.05, 0.3)]
        changes += [(f"penalty times {factor:g}", 0.0, factor) for factor in (1.1, 2)]
        for change, moved, factor in changes:
            row, given = [str(slopes), change], {"slopes": slopes, "penalty": factor * PENALTY}
            targets = y + moved * y.std(0) * noise
            for start in (None, earlier):
                given["start"] = start
                spent, fit = cpu(
                    lambda targets=targets, given=given: fit_splines(x, targets, t, **given), repeats=3
                )
                row += [f"{fit.iterations.mean():.1f} ({fit.iterations.max():.0f})", f"{spent:.3f}"]
            shown.add_row(*row)
    console.print(shown)


def exact(console: Console) -> None:
    """Exact fits of 60 channels of 1000 samples."""
    x, y = make_data(60, 1000, seed=1)
    spent, fits = cpu(lambda: fit_spline_exact(x, y, slopes=SLOPES, penalty=PENALTY))
    gap, kinks = max(fit.relative_gap[0] for fit in fits), [int(fit.kinks.sum()) for fit in fits]
    console.print(
        f"exact fits, 1000 samples: {1000 * spent / 60:.1f} ms each of 60, largest gap {gap:.1e}, kinks "
        f"{np.median(kinks):g} in the median, {max(kinks)} at most"
    )
    if importlib.util.find_spec("splineops") is None:
        console.print("splineops is left out: it is not installed (pip install --no-deps splineops==2.2.0)")
        return
    for samples in (200, 1000):
        beside_splineops(console, samples)


def beside_splineops(console: Console, samples: int, channels: int = 60, reference: int = 6) -> None:
    """Exact fits without slope bounds, of distinct inputs, beside the ADMM of splineops.

    Its docstring has the loss ||y - f||^2, but its steps minimize 1/2 ||y - f||^2 + lamb * TV2: lamb is our penalty. It
    fits one channel after the other, the first `reference`; its penalty parameter rho is the best of four.
    """
    x, y = make_distinct_data(channels, samples)
    settings: dict[str, Any] = {"slopes": "free", "penalty": PENALTY}
    together, fits = cpu(lambda: fit_spline_exact(x, y, **settings), repeats=2)
    one_by_one, _ = cpu(lambda: [fit_spline_exact(x[:, k], y[:, k], **settings) for k in range(reference)], repeats=2)
    values = [(fit.coefficients[:, 0], fit.knots[:, 0]) for fit in fits[:reference]]
    low = np.array([fit.dual_value[0] for fit in fits])

    def largest_gap(found: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return max(value_of(c, t, x[:, k], y[:, k]) / low[k] - 1 for k, (c, t) in enumerate(found))

    tried = []
    for rho in (0.01, 0.1, 1.0, 10.0):
        spent, found = cpu(lambda rho=rho: [splineops_fit(x[:, k], y[:, k], rho) for k in range(reference)])
        splines = [(c, x[:, k]) for k, (c, _, _) in enumerate(found)]
        tried.append((largest_gap(splines), rho, spent / reference, found))
    gap, rho, spent, found = min(tried, key=lambda each: each[0])
    converged = sum(each[2] for each in found)
    ours = one_by_one / reference
    shown = Table(title=f"exact fits, {samples} distinct inputs, no slope bounds, penalty {PENALTY}")
    for heading in ("solver", "CPU ms each", "times ours", "largest gap", "kinks, median"):
        shown.add_column(heading, justify="left" if heading == "solver" else "right")
    kinks = np.median([int(fit.kinks.sum()) for fit in fits[:reference]])
    shown.add_row("fit_spline_exact, one by one", f"{1000 * ours:.1f}", "1", f"{largest_gap(values):.1e}", f"{kinks:g}")
    each = together / channels
    shown.add_row(f"fit_spline_exact, {channels} at once", f"{1000 * each:.1f}", f"{each / ours:.2f}", "", "")
    shown.add_row(
        f"splineops, rho = {rho:g} ({converged} of {reference} converged)", f"{1000 * spent:.0f}",
        f"{spent / ours:.0f}", f"{gap:.1e}", f"{np.median([each[1] for each in found]):g}",
    )  # fmt: skip
    console.print(shown)
    others = ", ".join(f"{gap:.1e} with {other:g}" for gap, other, _, _ in tried if other != rho)
    console.print(f"its largest gaps with other rho: {others}")


def splineops_fit(x: np.ndarray, y: np.ndarray, rho: float) -> tuple[np.ndarray, int, bool]:
    """Values at the inputs, kinks after its sparsification, and whether it converged in its 10,000 iterations."""
    from splineops.adaptive_regression_splines.denoising import denoise_y
    from splineops.adaptive_regression_splines.sparsification import sparsest_interpolant

    c, report = denoise_y(x, y, PENALTY, rho=rho, return_diagnostics=True)
    return c, len(sparsest_interpolant(x, c)[0]), report.converged


def stress(console: Console, count: int, seed: int = 5) -> None:
    """Random configurations: how many close to 1e-7, and what the others say."""
    rng = np.random.default_rng(seed)
    worst, missed, silent = 0.0, [], 0
    spent = time.process_time()
    for trial in range(count):
        knots, samples = int(rng.choice([3, 5, 11, 51, 101])), int(rng.choice([3, 10, 50, 300, 1000]))
        unit, height, shift = 10.0 ** rng.uniform(-3, 3), 10.0 ** rng.uniform(-3, 3), rng.choice([0, 1, 10])
        z = rng.normal(size=(samples, 4))
        x, y = unit * (shift + z), height * (np.tanh(z) + 0.1 * rng.normal(size=z.shape))
        t = np.linspace(x.min(), x.max(), knots)
        if rng.random() < 0.6:
            inner = rng.uniform(x.min(), x.max(), knots - 2)
            if rng.random() < 0.5:
                inner[: knots // 3] = inner[0] + 1e-6 * unit * rng.random(knots // 3)
            t = np.unique(np.concatenate([[x.min()], inner, [x.max()]]))
        s = height / unit
        ends = [(0, s), (-s, s), (0.01 * s, 10 * s), (-3 * s, 0.1 * s), (2 * s, 3 * s), (0, np.inf), (-np.inf, np.inf)]
        slopes = ends[int(rng.integers(len(ends)))]
        penalty = samples * height * unit * 10.0 ** rng.uniform(-9, 0)
        weights = 10.0 ** rng.uniform(-3, 3, size=z.shape)
        fit = fit_splines(x, y, t, slopes=slopes, penalty=penalty, weights=weights, tolerance=1e-7)
        worst = max(worst, float(np.max(fit.relative_gap, initial=0, where=fit.relative_gap <= 1e-7)))
        if not fit.solved:
            gap = float(fit.relative_gap.max())
            missed.append(f"{trial}: gap {gap:.0e}, {knots} knots, {samples} samples, slopes {slopes}, {penalty:.0e}")
        silent += int(fit.slope_violation.max() > 0)
    spent = time.process_time() - spent
    console.print(
        f"{count} random configurations of 4 channels, {spent:.0f} s: {count - len(missed)} closed to 1e-7 (the worst "
        f"{worst:.0e}), {len(missed)} say that they are not; slopes outside their bounds: {silent}"
    )
    for line in missed[:10]:
        console.print(f"  {line}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--reference", type=int, default=64)
    parser.add_argument("--stress", type=int, default=1000)
    arguments = parser.parse_args()
    console = Console(width=120)
    console.print(f"the readable model is {SlopeSpline.name!r}: convexblocks show {SlopeSpline.name}")
    race(console, arguments.channels, arguments.reference)
    growth(console)
    warm(console)
    exact(console)
    stress(console, arguments.stress)


if __name__ == "__main__":
    main()
