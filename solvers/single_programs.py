"""Answers of solvers from other packages to the programs of a batch.

A solver's own stopping test is not the one of conic_residuals.py: what misses the tolerance there is solved a second
time, more tightly.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import clarabel
import numpy as np
import torch
from torch import Tensor

from .conic_engine import Start
from .conic_program import INFEASIBLE, NOTHING, POINT, UNBOUNDED, Cones, ConicProgram, Points
from .conic_residuals import measure

CLAIMS = {
    "Solved": POINT,
    "AlmostSolved": POINT,
    "MaxIterations": POINT,
    "InsufficientProgress": POINT,
    "PrimalInfeasible": INFEASIBLE,
    "AlmostPrimalInfeasible": INFEASIBLE,
    "DualInfeasible": UNBOUNDED,
    "AlmostDualInfeasible": UNBOUNDED,
}
"""What the statuses of Clarabel and of Moreau claim; nothing where a status is not listed (numerical failures)."""
SIMPLE_FACTOR = 60_000
"""Up to so many entries in its factor a program is factored without supernodes, which is faster there (measured)."""
TIGHTEST = 1e-10
"""Interior-point solvers do not reach much less in double precision."""
MARGIN = 0.1
"""Share of the tolerance that an interior-point solver is asked for: its norms are others than ours."""

Attempt = Callable[[ConicProgram, Start, bool], Points]
"""Solves a batch from a start; the bool says whether tightly, which is for a second time."""


@dataclass(frozen=True)
class Table:
    """Answers to be filled in; zeros and the claim NOTHING where there is none.

    Attributes
    ----------
    x, y, s : array, shapes (batch, n), (batch, m) and (batch, m)
        s is NaN where the solver was not asked for it.
    iterations, claim : array of int, shape (batch,)
    """

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    iterations: np.ndarray
    claim: np.ndarray

    @staticmethod
    def of(program: ConicProgram) -> Table:
        """An empty table for a batch."""
        m, n = program.A.shape
        return Table(
            np.zeros((program.batch, n)), np.zeros((program.batch, m)), np.zeros((program.batch, m)),
            np.zeros(program.batch, dtype=np.int64), np.full(program.batch, NOTHING),
        )  # fmt: skip

    def note(self, place: int, status: str, x: Any, y: Any, iterations: int) -> None:
        """Note one answer, with the status as Clarabel and Moreau name it."""
        self.x[place], self.y[place], self.iterations[place] = x, y, iterations
        self.claim[place] = CLAIMS.get(status, NOTHING)

    def points(self, program: ConicProgram, state: tuple[str, ...] = ()) -> Points:
        """The answers as Points on the device of the program.

        `state` names the arrays that a warm start wants to see again; NaN where an answer is no point.
        """
        finite = np.isfinite(self.x).all(axis=1) & np.isfinite(self.y).all(axis=1)
        claim = np.where(finite, self.claim, NOTHING)
        # What a solver leaves beside a ray is of no use, and NaN stops eigenvalue routines.
        x = np.where(np.isin(claim, (POINT, UNBOUNDED))[:, None], self.x, 0)
        y = np.where(np.isin(claim, (POINT, INFEASIBLE))[:, None], self.y, 0)
        kept = {name: np.where((claim == POINT)[:, None], getattr(self, name), np.nan) for name in state}
        to = program.q.device
        made = {name: torch.as_tensor(rows, device=to) for name, rows in kept.items()}
        return Points(
            torch.as_tensor(x, device=to), torch.as_tensor(y, device=to), torch.as_tensor(self.iterations, device=to),
            torch.as_tensor(claim, device=to), made,
        )  # fmt: skip


def starts(start: Start, names: tuple[str, ...], program: ConicProgram) -> dict[str, np.ndarray]:
    """The rows of a start that a solver wants, NaN where an instance has none; zero instances' worth if it has no such.

    A start with other names (another engine's) or of another batch is no start.
    """
    m, n = program.A.shape
    shapes = {name: (program.batch, n if name == "x" else m) for name in names}
    if any(name not in start or tuple(start[name].shape) != shape for name, shape in shapes.items()):
        return {}
    rows = {name: start[name].detach().to("cpu", torch.float64).numpy() for name in names}
    return rows


def solve_twice(program: ConicProgram, start: Start, tolerance: float, attempt: Attempt) -> Points:
    """Solve a batch; what misses the tolerance is solved again, tightly, and the better answer kept.

    Instances with a number that is not finite are left out, with the claim NOTHING: solvers may raise on them, or
    print, and it is the others that would be lost.
    """
    finite = finite_instances(program)
    if not bool(finite.all()):
        places = finite.nonzero()[:, 0]
        rows = {name: values[places] for name, values in start.items()}
        some = solve_twice(program.take(places), rows, tolerance, attempt) if len(places) else None
        return _spread(some, places, program)
    points, scores = _scored(program, attempt(program, start, False), tolerance)
    missed = (scores > tolerance).nonzero()[:, 0]
    if not len(missed):
        return points
    part = program.take(missed)
    state = {name: values[missed] for name, values in points.state.items()}
    again, others = _scored(part, attempt(part, state, True), tolerance)
    again.iterations.add_(points.iterations[missed])
    points.iterations[missed] = again.iterations
    _replace(points, again, missed, others < scores[missed])
    return points


def finite_instances(program: ConicProgram) -> Tensor:
    """Which instances have finite numbers alone, (batch,)."""
    finite = torch.ones(program.batch, dtype=torch.bool, device=program.q.device)
    for rows in (program.q, program.b, *(part.own.values for part in (program.P, program.A) if part.own is not None)):
        # A sum is finite where all its terms are, and takes no copy.
        finite &= rows.sum(1).isfinite()
    return finite


def _spread(part: Points | None, places: Tensor, program: ConicProgram) -> Points:
    """Points of a batch from those of some of its instances."""
    points = Table.of(program).points(program)
    if part is None:
        return points
    state = {name: rows.new_full((program.batch, rows.shape[1]), torch.nan) for name, rows in part.state.items()}
    points = replace(points, state=state)
    points.iterations[places] = part.iterations
    _replace(points, part, places, torch.ones_like(places, dtype=torch.bool))
    return points


def _replace(points: Points, others: Points, places: Tensor, chosen: Tensor) -> None:
    """Take some of the others, which stand for the given places, into the points."""
    into = places[chosen]
    points.x[into], points.y[into], points.claim[into] = others.x[chosen], others.y[chosen], others.claim[chosen]
    for name, rows in points.state.items():
        rows[into] = others.state[name][chosen]


def _scored(program: ConicProgram, points: Points, tolerance: float) -> tuple[Points, Tensor]:
    """Points with claims that hold, and the worst residual of each; 0 where a ray was shown."""
    checked, residuals = measure(program, points, tolerance)
    worst = torch.stack([residuals.primal, residuals.dual, residuals.gap]).amax(0)
    ray = (checked.claim == INFEASIBLE) | (checked.claim == UNBOUNDED)
    # The solver's own y is kept for the next start; `measure` moved the one that is handed on.
    return replace(checked, state=points.state), torch.where(ray, 0.0, worst)


def unknown_cones(cones: Cones) -> str:
    """Why no solver here takes a program with such cones; empty where they can."""
    return f"cones of the kinds that solvers share (this program has {cones.others})" if cones.others else ""


def clarabel_cones(cones: Cones) -> list[Any]:
    """The cones of the rows in Clarabel's terms."""
    linear = [(clarabel.ZeroConeT, cones.zero), (clarabel.NonnegativeConeT, cones.nonnegative)]
    return [
        *(kind(size) for kind, size in linear if size),
        *map(clarabel.SecondOrderConeT, cones.second_order),
        *map(clarabel.PSDTriangleConeT, cones.semidefinite),
        *(clarabel.ExponentialConeT() for _ in range(cones.exponential)),
        *map(clarabel.PowerConeT, cones.power),
    ]


def optional_package(name: str) -> Any | None:
    """A package that may not be installed; None then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None
