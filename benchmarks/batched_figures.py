"""What `python -m benchmarks.batched` is to show: how much faster than which peer, and whether it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SOLVE, END_TO_END = "solve", "end to end"


@dataclass(frozen=True)
class Figure:
    """A target: the fastest of a family of peers takes at least `factor` times as long as we do."""

    model: str
    family: str
    factor: float
    ours: str = SOLVE


MOREAU = ("Moreau batch", "Moreau active set")
"""Its interior-point method, and the dual active-set method that it takes by itself up to 500 variables."""


def _figures() -> Iterator[Figure]:
    for size in (64, 128, 256):
        for family, factor in (("cvxpy Clarabel", 300), ("cvxpy OSQP", 40), ("raw OSQP", 12)):
            yield Figure(f"fenchel{size}", family, factor)
        for family in MOREAU:
            yield Figure(f"fenchel{size}", family, 100)
    for family, factor in (("cvxpy Clarabel", 150), ("cvxpy OSQP", 20), ("raw OSQP", 6)):
        yield Figure("fenchel128", family, factor, END_TO_END)
    yield Figure("fenchel128-400", "cvxpy Clarabel", 50)
    yield Figure("fenchel128-400", "raw OSQP", 6)
    yield Figure("mdlam128", "cvxpy Clarabel", 200)
    yield Figure("mdlam128", "raw OSQP", 8)
    for family in MOREAU:
        yield Figure("nnls64", family, 5)
    yield Figure("nnls64", "piqp", 1)
    for ours in (SOLVE, END_TO_END):
        yield Figure("softmax10", "cvxpylayers", 50, ours)
    # The generic tier is one of these engines: at most 1.2 times slower than the best of them.
    for model in ("spline32", "deviations16", "portfolio24", "entropy24", "maxcut8"):
        yield Figure(model, "best engine", 1 / 1.2)


FIGURES = tuple(_figures())
ENGINES = ("raw Clarabel", "raw OSQP", *MOREAU)
"""Families that `solve_problem` itself can take."""


def judged(
    model: str, ours: Mapping[str, float], peers: Mapping[str, float], charged: Mapping[str, float]
) -> Iterator[tuple[Figure, tuple[float, float, float]]]:
    """The figures of a model with the ratio of the solve, of the whole way, and of the solve to a charged peer.

    From milliseconds by name. `peers` holds the fastest right answer of every family; `charged` the same with the time
    of taking definitions out added where the peer got them taken out.
    """
    known = [{**times, "best engine": min((times[name] for name in ENGINES if name in times), default=float("nan"))}
             for times in (peers, charged)]  # fmt: skip
    for figure in FIGURES:
        if figure.model != model or figure.family not in known[0]:
            continue
        free, paid = (times[figure.family] for times in known)
        yield figure, (free / ours[SOLVE], free / ours[END_TO_END], paid / ours[SOLVE])
