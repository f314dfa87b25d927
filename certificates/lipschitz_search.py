"""certify_deep: the best bound that is found for networks of any depth, by cuts on the product of their norms.

Let phi(R) be the least loss that `formulations/lipschitz_regression.py` allows for a product R of the norms. Its dual,

    maximize    D(v) - R h,     v = sum_e f_e (1_i - 1_j) + r + s,
                                h = sum_e |f_e| |x_i - x_j| + sum_i |r_i| |x_i| + |s| |X|_2,

gives a cut: phi(R') >= D(v) - R' h for all R'. The bound is the least value over R' of the best cut plus the penalty
weight_decay L/2 R'^(2/L). Where that is, the next cut is made, until it adds nothing. Edges that the predictions of a
cut violate join the next one, so that all pairs of samples count. What the solver returns is an estimate: cuts are
rounded so that they hold, and the checker adds them up again.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import cvxpy as cp
import numpy as np
from scipy import sparse

from ..formulations.errors import UsageError
from ..formulations.lipschitz_regression import nearest_edges
from .certificate import Certificate
from .checker import ENTROPY, MOST_CUTS, MOST_PRODUCTS
from .deep_certificate import make_deep_certificate, require_checkable
from .deep_incumbent import DeepIncumbent, train_deep
from .deep_problem import DeepProblem

NEIGHBOURS = 2
"""Nearest samples of each sample, of any and of the other target, that the first edges go to."""
LEAST = 1e-4
"""Share of the zero network's loss that the penalty has at the least R for which a cut is made."""
FIRST = (1 / 8, 1 / 2, 2, 8)
"""The first R, over the median slope from a sample to its nearest ones on the other side."""
BLOCK = 500
"""Samples whose distances to all others are held together."""
CLOSE = 1e-5
"""Relative improvement that is none."""
INSIDE = 1e-12
"""How far the probabilities y v of the logistic loss stay from 0 and 1."""
MIXED = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""Shares of a plain flow that bring a flow inside."""
ABOVE = 1e-9
"""By this share the spectral norm is stated larger than computed."""
NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Cut:
    """The parts of v, and the line D(v) - R h.

    Attributes
    ----------
    edges : array of int, shape (edges, 2)
    amounts : array, shape (edges,)
    each, together : array, shape (samples,)
        r and s; zero with free biases.
    value, slope : float
        D(v) and h, in floating point.
    """

    edges: np.ndarray
    amounts: np.ndarray
    each: np.ndarray
    together: np.ndarray
    value: float = 0.0
    slope: float = 0.0

    @property
    def v(self) -> np.ndarray:
        """The dual point."""
        v = self.each + self.together
        np.add.at(v, self.edges[:, 0], self.amounts)
        np.subtract.at(v, self.edges[:, 1], self.amounts)
        return v


def certify_deep(
    problem: DeepProblem, incumbent: DeepIncumbent | None = None, *, seconds: float = 30.0, random_state: int = 0
) -> Certificate:
    """Prove a lower bound on the training objective of every network of this depth, of any widths.

    Parameters
    ----------
    problem : DeepProblem
    incumbent : DeepIncumbent, optional
        A good network to compare with; by default one is trained, in half of the time.
    seconds : float
        About how long at most; checking comes on top.
    random_state : int
        Seed of the training.

    Returns
    -------
    Certificate
        Its `lower_bound` is proven, by exact arithmetic (checker.py); 0, which always holds, where nothing better was
        found.

    Raises
    ------
    UsageError
        If the time is not above zero, or the problem is larger than the checker takes.
    CertificateError
        If the proven bound is above the incumbent: please report that.
    """
    if not seconds > 0:
        raise UsageError(f"seconds is {seconds!r}; expected a number above 0.")
    require_checkable(problem)
    if incumbent is None:
        incumbent = train_deep(problem, seconds=seconds / 2, random_state=random_state)
        seconds /= 2
    began = time.perf_counter()
    cuts = find_cuts(problem, seconds)
    return make_deep_certificate(problem, as_evidence(problem, cuts), incumbent, time.perf_counter() - began)


def find_cuts(problem: DeepProblem, seconds: float = 30.0) -> list[Cut]:
    """Cuts whose bound is the best that is found in a time; at least one is made."""
    deadline = time.perf_counter() + seconds
    most = MOST_CUTS if problem.loss == "squared" else min(MOST_CUTS, MOST_PRODUCTS // (2 * ENTROPY * len(problem.y)))
    edges, cuts, idle = first_edges(problem), list[Cut](), 0
    lowest, first = _first_products(problem, edges)
    while idle < 2 and len(cuts) < most and (not cuts or time.perf_counter() < deadline):
        least, R = least_over_norms(problem, cuts)
        chosen = not first
        R = max(R, lowest) if chosen else first.pop()
        cut = best_cut(problem, edges, R, max(1.0, deadline - time.perf_counter()))
        if cut is None:
            idle += chosen
            continue
        more = violated_edges(problem, cut, R)
        edges = np.unique(np.vstack([edges, more]), axis=0)
        cuts = on_envelope([*cuts, cut])
        if chosen:
            gained = cut.value - R * cut.slope + problem.penalty(R) - least > CLOSE * max(least, 0)
            idle = 0 if gained else 2 if not len(more) else idle + 1
    return cuts


def _first_products(problem: DeepProblem, edges: np.ndarray) -> tuple[float, list[float]]:
    """The least R that is looked at, and the first ones."""
    zero = problem.loss_value(np.zeros(len(problem.y)))
    unit = 2 * zero / (problem.weight_decay * problem.depth)
    lowest, highest = ((share * unit) ** (problem.depth / 2) for share in (LEAST, 1.0))
    lengths, apart = _lengths(problem.X, edges), np.abs(problem.y[edges[:, 0]] - problem.y[edges[:, 1]])
    slopes = apart[(lengths > 0) & (apart > 0)] / lengths[(lengths > 0) & (apart > 0)]
    found = float(np.median(slopes)) * np.array(FIRST) if len(slopes) else np.zeros(0)
    return lowest, found[(found > lowest) & (found < highest)].tolist()


def least_over_norms(problem: DeepProblem, cuts: list[Cut]) -> tuple[float, float]:
    """The bound that cuts prove, in floating point, and the R where it is."""
    values, slopes = (np.array([0.0, *(getattr(cut, name) for cut in cuts)]) for name in ("value", "slope"))
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = ((values[:, None] - values) / (slopes[:, None] - slopes)).ravel()
    R = np.append(crossings[np.isfinite(crossings) & (crossings > 0)], 0.0)
    heights = (values[:, None] - slopes[:, None] * R).max(axis=0) + [problem.penalty(product) for product in R]
    place = int(np.argmin(heights))
    return float(heights[place]), float(R[place])


def on_envelope(cuts: list[Cut]) -> list[Cut]:
    """The cuts that are above 0 and above all others somewhere."""
    kept: list[Cut] = []
    here, R = max(cuts, key=lambda cut: (cut.value, -cut.slope)), 0.0
    while here.value - R * here.slope > 0:
        kept.append(here)
        crossings = [((here.value - cut.value) / (here.slope - cut.slope), cut.slope) for cut in cuts
                     if cut.slope < here.slope]  # fmt: skip
        if not crossings:
            break
        R, slope = min(crossings)
        here = max((cut for cut in cuts if cut.slope == slope), key=lambda cut: cut.value)
    return kept


def first_edges(problem: DeepProblem) -> np.ndarray:
    """Edges to the nearest samples, and to the nearest ones whose targets are on the other side of the median."""
    X, above = problem.X, problem.y > np.median(problem.y)
    if problem.loss == "logistic":
        above = problem.y > 0
    found = [nearest_edges(X, NEIGHBOURS)] if len(X) > 1 else [np.zeros((0, 2), dtype=int)]
    for i in range(len(X)):
        others = np.flatnonzero(above != above[i])
        nearest = others[np.argsort(np.linalg.norm(X[others] - X[i], axis=1), kind="stable")[:NEIGHBOURS]]
        found.append(np.sort(np.column_stack([np.full(len(nearest), i), nearest]), axis=1))
    return np.unique(np.vstack(found), axis=0)


def best_cut(problem: DeepProblem, edges: np.ndarray, R: float, seconds: float = 60.0) -> Cut | None:
    """The cut that is the highest at R, as far as Clarabel finds it, rounded so that it holds; None where it fails."""
    n, m = len(problem.y), len(edges)
    signs, rows = np.repeat([1.0, -1.0], m), edges.T.ravel()
    pulled = sparse.csr_matrix((signs, (rows, np.tile(np.arange(m), 2))), shape=(n, m))
    # An empty variable is none for cvxpy.
    amounts, each, together = cp.Variable(max(m, 1)), cp.Variable(n), cp.Variable(n)
    if not m:
        pulled = sparse.csr_matrix((n, 1))
    v, price = pulled @ amounts, np.append(_lengths(problem.X, edges), [] if m else [1.0]) @ cp.abs(amounts)
    if problem.bias != "free":
        v += each + together
        price += np.linalg.norm(problem.X, axis=1) @ cp.abs(each) + spectral_norm(problem) * cp.norm(together, 2)
    if problem.loss == "squared":
        dual = problem.y @ v - cp.sum_squares(v) / 2
    else:
        p = cp.multiply(problem.y, v)
        dual = cp.sum(cp.entr(p)) + cp.sum(cp.entr(1 - p))
    program = cp.Problem(cp.Maximize(dual - R * price))
    with warnings.catch_warnings():
        # An inaccurate solution is a cut as good as it is.
        warnings.simplefilter("ignore")
        try:
            program.solve(solver=cp.CLARABEL, time_limit=seconds)
        except cp.SolverError:
            return None
    if amounts.value is None:
        return None
    r, s = (np.zeros(n) if part.value is None else part.value for part in (each, together))
    return rounded(problem, Cut(edges, amounts.value[:m], r, s))


def rounded(problem: DeepProblem, cut: Cut) -> Cut | None:
    """The cut without its negligible amounts, changed a little so that v is where D is finite; None where it cannot."""
    kept = np.abs(cut.amounts) > NEGLIGIBLE * np.abs(cut.amounts).max(initial=0.0)
    flow = replace(cut, edges=cut.edges[kept], amounts=cut.amounts[kept])
    if problem.bias != "free":
        rest = np.zeros(len(problem.y))
        wanted = cut.v
        if problem.loss == "logistic":
            wanted = problem.y * np.clip(problem.y * wanted, INSIDE, 1 - INSIDE)
        return _valued(problem, replace(flow, each=wanted - replace(flow, each=rest).v))
    flow = replace(flow, each=np.zeros(len(problem.y)), together=np.zeros(len(problem.y)))
    if problem.loss == "squared":
        return _valued(problem, flow)
    plain = plain_flow(problem)
    for share in MIXED:
        mixed = replace(
            flow, edges=np.vstack([flow.edges, plain.edges]),
            amounts=np.append((1 - share) * flow.amounts, share * plain.amounts),
        )  # fmt: skip
        p = problem.y * mixed.v
        # Twice as far inside as sums of floats may be wrong.
        if (p > INSIDE).all() and (p < 1 - INSIDE).all():
            return _valued(problem, mixed)
    return None


def plain_flow(problem: DeepProblem) -> Cut:
    """A flow from the samples of one label to those of the other, the same from each and the same to each."""
    plus, minus, none = np.flatnonzero(problem.y > 0), np.flatnonzero(problem.y < 0), np.zeros(len(problem.y))
    if not (len(plus) and len(minus)):
        return Cut(np.zeros((0, 2), dtype=int), np.zeros(0), none, none)
    # All of one label on an interval, all of the other too: where two of them overlap, there is an edge.
    ends = np.unique(np.concatenate([np.linspace(0, 1, len(plus) + 1), np.linspace(0, 1, len(minus) + 1)]))
    middles = (ends[1:] + ends[:-1]) / 2
    edges = np.column_stack([plus[(middles * len(plus)).astype(int)], minus[(middles * len(minus)).astype(int)]])
    return Cut(edges, min(len(plus), len(minus)) / 2 * np.diff(ends), none, none)


def violated_edges(problem: DeepProblem, cut: Cut, R: float) -> np.ndarray:
    """For each sample the pair that the predictions of a cut stretch the most beyond R, if any."""
    v, y, X = cut.v, problem.y, problem.X
    if problem.loss == "squared":
        z = y - v
    else:
        p = np.clip(y * v, INSIDE, 1 - INSIDE)
        z = y * np.log((1 - p) / p)
    found = [np.zeros((0, 2), dtype=int)]
    squares = np.einsum("nd,nd->n", X, X)
    for start in range(0, len(X), BLOCK):
        here = np.arange(start, min(start + BLOCK, len(X)))
        distances = np.sqrt(np.maximum(squares[here, None] + squares - 2 * X[here] @ X.T, 0))
        excess = np.abs(z[here, None] - z) - R * distances
        excess[np.arange(len(here)), here] = -np.inf
        worst = excess.argmax(axis=1)
        beyond = excess[np.arange(len(here)), worst] > CLOSE * (1 + np.abs(z[here]))
        found.append(np.sort(np.column_stack([here[beyond], worst[beyond]]), axis=1))
    return np.unique(np.vstack(found), axis=0)


def spectral_norm(problem: DeepProblem) -> float:
    """|X|_2, rounded up so far that the checker can prove it."""
    return float(np.linalg.norm(problem.X, 2)) * (1 + ABOVE)


def as_evidence(problem: DeepProblem, cuts: list[Cut]) -> dict[str, Any]:
    """The evidence as it stands in a certificate file."""
    together = any(cut.together.any() for cut in cuts)
    return {
        "kind": "lipschitz", "spectral_norm": spectral_norm(problem).hex() if together else None,
        "cuts": [
            {
                "edges": [[i, j, f.hex()] for (i, j), f in zip(cut.edges.tolist(), cut.amounts.tolist(), strict=True)],
                "each": [r.hex() for r in cut.each.tolist()] if cut.each.any() else None,
                "all": [s.hex() for s in cut.together.tolist()] if cut.together.any() else None,
            }
            for cut in cuts
        ],
    }  # fmt: skip


def _valued(problem: DeepProblem, cut: Cut) -> Cut:
    slope = float(_lengths(problem.X, cut.edges) @ np.abs(cut.amounts))
    slope += float(np.linalg.norm(problem.X, axis=1) @ np.abs(cut.each))
    slope += spectral_norm(problem) * float(np.linalg.norm(cut.together))
    return replace(cut, value=problem.dual(cut.v), slope=slope)


def _lengths(X: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.linalg.norm(X[edges[:, 0]] - X[edges[:, 1]], axis=1)
