"""Lower bounds of others on the same tiny training problems, beside our proven ones.

    python -m benchmarks.certificate_peers [INSTANCE ...] [--seconds 10] [--limit 60]

Squared loss, ReLU, a bias column; weight decay relative to the one above which the zero network is optimal (estimated).
Gaps are 100 (1 - bound / incumbent), both of the widest network that training wants. One thread; times are wall times.

ours        `certify` in --seconds, the training of the incumbent apart, proven again by the checker in exact arithmetic
            (in the time). It holds for every width.
DNN         the doubly nonnegative relaxation of Prakhya, Birdal and Yurtsever (ICLR 2025, arXiv 2410.22311), written
            here by us from the mathematics (`doubly_nonnegative`), solved by SCS at eps 1e-4 and 1e-6 and by Clarabel,
            each within --limit. It holds for every width too, if it is solved; what a solver returns is an ESTIMATE,
            which may lie above the relaxation and even above the incumbent. "worst" is the largest violation of a
            constraint at the point returned, the smallest eigenvalue included: how far the estimate may be trusted.
SCIP        the training problem of a FIXED width by spatial branch and bound (`pyscipopt`), --limit seconds: ReLUs as
            binaries with big-M, outputs as bilinear terms, neurons balanced and in order, the incumbent given as a
            cutoff. Its dual bound is in floating-point arithmetic. A bound for every width cannot be above the optimum
            without a width; the "width gap" is the part of our gap that is due to that. SCIP has none.

Measured on two shared cores, --seconds 10, and --limit 60 but 20 for the first four: gaps in %, seconds in brackets.

    for every width     ours, proven    DNN, SCS 1e-4    DNN, SCS 1e-6    DNN, Clarabel
    synth-25-0.1        1.38 (10)       1.38 (.5)        1.31 (3)         1.31 (.9)
    synth-25-0.02       9.68 (10)       16.2 (.5)        16.4 (16)        16.4 (.9)
    diabetes-30-0.1     4.52 (10)       6.77 (.9)        6.73 (1.4)       6.73 (3), inaccurate
    diabetes-30-0.02    17.0 (9)        21.4 (1.4)       21.4 (3)         21.4 (3)
    diabetes-100-0.1    6.89 (10)       11.4 (33)        11.3 (49)        not solved in 60 s

    for a width         ours, proven    of it due to the width    SCIP
    synth-6-3-2         11.0 (10)       10.9                      .10 (13)
    synth-10-3-2        15.2 (10)       14.9                      36.7 (60)
    synth-20-3-3        4.6 (10)        .2                        100 (60)
    synth-10-3-6        .4 (10)         0                         100 (60)

Neither relaxation for every width is always the tighter one: on the first instance DNN is, on the others paired moments
are.

Needs the extra `benchmark` (pyscipopt) for the rows of SCIP.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes
from threadpoolctl import threadpool_limits

from convexblocks.certificates import (
    Incumbent,
    TwoLayerProblem,
    certify,
    largest_weight_decay,
    prepare,
    train_incumbent,
)
from convexblocks.certificates.checker import check_text
from convexblocks.certificates.incumbent import train_width

FITS = 10
"""Calls of `train_width`, each with a few starts, for the incumbent of a fixed width."""
CLOSE = 1e-3
"""Relative gap at which SCIP may stop."""
EXACT = 1e-9
"""Rounding, relative to numbers of the size of 1."""


def synth(count: int, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth and a kinked function of two inputs, with noise; the last feature is the bias column."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((count, features - 1))
    y = np.sin(2 * X[:, 0]) + np.abs(X[:, 1]) + 0.3 * rng.standard_normal(count)
    return np.hstack([X, np.ones((count, 1))]), y - y.mean()


def diabetes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Some patients."""
    X, y = load_diabetes(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(y))[:count]
    return prepare(X[chosen], y[chosen], "squared")[:2]


def problem_of(data: tuple[np.ndarray, np.ndarray], share: float) -> TwoLayerProblem:
    """The training problem with a share of the weight decay that makes zero optimal."""
    problem = TwoLayerProblem(*data, "squared", 1.0, bias="column")
    return replace(problem, weight_decay=share * largest_weight_decay(problem))


ANY_WIDTH = {
    "synth-25-0.1": lambda: problem_of(synth(25, 3, 0), 0.1),
    "synth-25-0.02": lambda: problem_of(synth(25, 3, 0), 0.02),
    "diabetes-30-0.1": lambda: problem_of(diabetes(30), 0.1),
    "diabetes-30-0.02": lambda: problem_of(diabetes(30), 0.02),
    "diabetes-100-0.1": lambda: problem_of(diabetes(100), 0.1),
}
"""By name; the numbers are those of the samples and the share."""
FIXED_WIDTH = {f"synth-{n}-{d}-{m}": (n, d, m) for n, d, m in ((6, 3, 2), (10, 3, 2), (20, 3, 3), (10, 3, 6))}
"""Samples, features and neurons; share .1."""


# ------------------------------------------------------------------------------------ the peers


def doubly_nonnegative(problem: TwoLayerProblem) -> cp.Problem:
    """Training of any width, lifted to doubly nonnegative second moments.

    A neuron with weights u and output weight v has X u = alpha - beta, where alpha = (X u)_+ >= 0, beta = (-X u)_+ >= 0
    and alpha_i beta_i = 0. Summed over the neurons, the matrix of second moments of (alpha, beta, u, v) is positive
    semidefinite, its blocks of alpha and beta are nonnegative, the diagonal of alpha beta' is zero, the predictions are
    alpha v, and X u = alpha - beta holds for all its columns. That makes the moments of beta affine in those of
    (alpha, u, v), which alone are the variable here: the same set as with the order 2 n + d + 1, and easier to solve.
    """
    X, n, d = problem.X, *problem.X.shape
    moments = cp.Variable((n + d + 1, n + d + 1), PSD=True, name="moments")
    alpha_alpha, alpha_u, u_u = moments[:n, :n], moments[:n, n : n + d], moments[n : n + d, n : n + d]
    z, v_v = moments[:n, -1], moments[-1, -1]
    alpha_beta = alpha_alpha - alpha_u @ X.T
    beta_beta = alpha_beta - X @ alpha_u.T + X @ u_u @ X.T
    penalty = problem.weight_decay / 2 * (cp.trace(u_u) + v_v)
    constraints = [alpha_alpha >= 0, alpha_beta >= 0, beta_beta >= 0, cp.diag(alpha_beta) == 0]
    return cp.Problem(cp.Minimize(cp.sum_squares(z - problem.y) / 2 + penalty), constraints)


def require_relaxation(problem: TwoLayerProblem, incumbent: Incumbent) -> None:
    """A relaxation admits the moments of every network, at its objective; that of the incumbent shows a slip."""
    model = doubly_nonnegative(problem)
    alpha = np.maximum(incumbent.weights @ problem.X.T, 0)
    lifted = np.hstack([alpha, incumbent.weights, incumbent.outputs[:, None]])
    (moments,) = model.variables()
    moments.save_value(lifted.T @ lifted)
    worst = max(float(np.max(constraint.violation())) for constraint in model.constraints)
    if worst > EXACT or abs(model.objective.value - incumbent.objective) > EXACT * incumbent.objective:
        raise RuntimeError(f"the incumbent is no point of the relaxation: {worst:.1e}, {model.objective.value}")


SOLVERS: dict[str, Callable[[float], dict[str, Any]]] = {
    "DNN, SCS 1e-4": lambda limit: scs(1e-4, limit),
    "DNN, SCS 1e-6": lambda limit: scs(1e-6, limit),
    "DNN, Clarabel": lambda limit: {"solver": cp.CLARABEL, "time_limit": limit, "max_threads": 1},
}


def scs(accuracy: float, limit: float) -> dict[str, Any]:
    """SCS until an accuracy or a time is reached."""
    return {"solver": cp.SCS, "eps_abs": accuracy, "eps_rel": accuracy, "max_iters": 10**7, "time_limit_secs": limit}


def solved(model: cp.Problem, settings: dict[str, Any]) -> tuple[float, float, str, float]:
    """Value, worst violation, status and seconds."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            # An inaccurate solution is said in the table.
            warnings.simplefilter("ignore")
            model.solve(**settings)
    except cp.SolverError:
        return np.nan, np.nan, "no answer", time.perf_counter() - began
    seconds = time.perf_counter() - began
    (moments,) = model.variables()
    violations = [float(np.max(constraint.violation())) for constraint in model.constraints]
    least = float(np.linalg.eigvalsh(moments.value)[0])
    return float(model.value), max(*violations, -least, 0.0), str(model.status), seconds


def branch_and_bound(problem: TwoLayerProblem, width: int, incumbent: float, limit: float) -> tuple[float, str, int]:
    """Dual bound, status and nodes of SCIP for networks of so many neurons that are not worse than the incumbent."""
    from pyscipopt import Model, quicksum

    X, y, decay = problem.X, problem.y, problem.weight_decay
    neurons, features = range(width), range(X.shape[1])
    # The penalty alone is not above the incumbent, and |w_j| = |a_j| at an optimum.
    most = float(np.sqrt(incumbent / decay))
    model = Model()
    model.hideOutput()
    w = [[model.addVar(lb=-most, ub=most) for _ in features] for _ in neurons]
    a = [model.addVar(lb=-most, ub=most) for _ in neurons]
    squares = [quicksum(entry * entry for entry in w[j]) for j in neurons]
    errors = []
    for row, target in zip(X.tolist(), y.tolist(), strict=True):
        reach = most * float(np.linalg.norm(row))
        outputs = []
        for j in neurons:
            hidden, active = model.addVar(lb=0, ub=reach), model.addVar(vtype="B")
            inner = quicksum(x * entry for x, entry in zip(row, w[j], strict=True))
            model.addCons(hidden >= inner)
            model.addCons(hidden <= inner + reach * (1 - active))
            model.addCons(hidden <= reach * active)
            outputs.append(a[j] * hidden)
        errors.append(model.addVar(lb=None))
        model.addCons(errors[-1] == quicksum(outputs) - target)
    value = model.addVar(lb=0, ub=incumbent * (1 + 1e-6))
    penalty = decay / 2 * quicksum([*squares, *(entry * entry for entry in a)])
    model.addCons(value >= 0.5 * quicksum(error * error for error in errors) + penalty)
    for j in neurons:
        model.addCons(squares[j] == a[j] * a[j])
        if j:
            model.addCons(a[j - 1] >= a[j])
    model.setObjective(value, "minimize")
    model.setParam("limits/time", limit)
    model.setParam("limits/gap", CLOSE)
    model.optimize()
    return float(model.getDualbound()), str(model.getStatus()), int(model.getNTotalNodes())


# ------------------------------------------------------------------------------------ the tables


def gap(bound: float, incumbent: float) -> float:
    return 100 * (1 - bound / incumbent)


def ours(problem: TwoLayerProblem, incumbent: Incumbent, seconds: float) -> tuple[float, float]:
    """The proven bound, and the seconds of search and proof."""
    made = certify(problem, incumbent, seconds=seconds)
    bound = check_text(made.text)
    if not bound.proven:
        raise RuntimeError(f"the certificate is not proven: {bound.reason}")
    return bound.lower_bound, made.seconds + bound.seconds


def rows_of_any_width(name: str, seconds: float, limit: float) -> Iterator[list[str]]:
    problem = ANY_WIDTH[name]()
    incumbent = train_incumbent(problem, seconds=seconds)
    require_relaxation(problem, incumbent)
    bound, spent = ours(problem, incumbent, seconds)
    first = [name, "x".join(map(str, problem.X.shape)), f"{incumbent.objective:.6f}"]
    yield [*first, "ours", f"{bound:.6f}", f"{gap(bound, incumbent.objective):.3f}", f"{spent:.1f}", "proven"]
    for peer, settings in SOLVERS.items():
        value, worst, status, spent = solved(doubly_nonnegative(problem), settings(limit))
        said = f"estimate, {status}, worst {worst:.0e}"
        yield ["", "", "", peer, f"{value:.6f}", f"{gap(value, incumbent.objective):.3f}", f"{spent:.1f}", said]


def row_of_fixed_width(name: str, seconds: float, limit: float) -> list[str]:
    n, d, width = FIXED_WIDTH[name]
    problem = problem_of(synth(n, d, 3), 0.1)
    fits = (train_width(problem, width, seconds=seconds, random_state=10 * start) for start in range(FITS))
    best = min(fit.objective for fit in fits)
    wide = train_incumbent(problem, seconds=seconds)
    # A network of this width is one of any width.
    least = min(wide.objective, best)
    bound, spent = ours(problem, wide, seconds)
    peer = ["not installed", "", "", ""]
    if has_scip():
        began = time.perf_counter()
        dual, status, nodes = branch_and_bound(problem, width, best, limit)
        elapsed = time.perf_counter() - began
        peer = [f"{dual:.6f}", f"{gap(dual, best):.2f}", f"{elapsed:.1f}", f"{status}, {nodes:,} nodes"]
    return [
        name, f"{best:.6f}", f"{bound:.6f}", f"{gap(bound, best):.2f}", f"{gap(least, best):.2f}",
        f"{gap(bound, least):.2f}", f"{spent:.1f}", *peer,
    ]  # fmt: skip


def has_scip() -> bool:
    return importlib.util.find_spec("pyscipopt") is not None


def table(title: str, headings: tuple[str, ...], rows: Iterator[list[str]]) -> Table:
    made = Table(title=title)
    for heading in headings:
        words = heading in ("instance", "bound by", "kind", "SCIP ends")
        made.add_column(heading, justify="left" if words else "right", no_wrap=heading == "instance")
    for row in rows:
        made.add_row(*row)
    return made


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*ANY_WIDTH, *FIXED_WIDTH]
    parser.add_argument("instances", nargs="*", metavar="INSTANCE", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--seconds", type=float, default=10, help="for training, and for our search")
    parser.add_argument("--limit", type=float, default=60, help="seconds for each peer")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.instances) - set(known))
    if unknown:
        parser.error(f"unknown instance {unknown[0]!r}; known: {', '.join(known)}")
    chosen = arguments.instances or known
    torch.set_num_threads(1)
    console = Console(width=150)
    with threadpool_limits(1):
        if names := [name for name in chosen if name in ANY_WIDTH]:
            rows = (row for name in names for row in rows_of_any_width(name, arguments.seconds, arguments.limit))
            headings = ("instance", "n x d", "incumbent", "bound by", "value", "gap %", "s", "kind")
            console.print(table("Bounds for every width", headings, rows))
        if names := [name for name in chosen if name in FIXED_WIDTH]:
            if not has_scip():
                console.print("SCIP is skipped: pyscipopt is not installed; pip install '.[benchmark]'.")
            rows = (row_of_fixed_width(name, arguments.seconds, arguments.limit) for name in names)
            headings = (
                "instance", "incumbent", "ours, proven", "gap %", "width gap %", "to wide net %", "s",
                "SCIP dual", "gap %", "s", "SCIP ends",
            )  # fmt: skip
            console.print(table("Bounds for networks of a width: synth-samples-features-neurons", headings, rows))


if __name__ == "__main__":
    main()
