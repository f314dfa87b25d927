"""Programs of a batch for solvers that are given them one by one, or as one batch of another package.

All instances have one pattern, found once; what is left for an instance is a row of values. A solver's own stopping
test is not the one of conic_residuals.py: what misses the tolerance there is solved a second time, more tightly.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .conic_engine import Start
from .conic_program import INFEASIBLE, NOTHING, POINT, UNBOUNDED, Cones, ConicProgram, Points
from .conic_residuals import measure
from .matrix import Matrix

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
TIGHTEST = 1e-10
"""Interior-point solvers do not reach much less in double precision."""
MARGIN = 0.1
"""Share of the tolerance that an interior-point solver is asked for: its norms are others than ours."""
MOST_VALUES = 4_000_000
"""Values of own matrices that are written out at a time."""

Attempt = Callable[[ConicProgram, Start, bool], Points]
"""Solves a batch from a start; the bool says whether tightly, which is for a second time."""


@dataclass(frozen=True)
class Layout:
    """The compressed sparse columns, or rows, of a matrix of a batch: one pattern for all instances.

    Attributes
    ----------
    pointers, indices : array of int
        As in scipy's compressed formats.
    base : Tensor, shape (entries,)
        Values of the part that the batch shares.
    own, places : Tensor of int64
        Which of the matrix's own entries are kept, and where in the values they go.
    shape : tuple of int
    """

    pointers: np.ndarray
    indices: np.ndarray
    base: Tensor
    own: Tensor
    places: Tensor
    shape: tuple[int, int]

    def values(self, matrix: Matrix) -> np.ndarray:
        """Values of a matrix with this pattern: (entries,) where it is shared, else (batch, entries)."""
        if matrix.own is None:
            return self.base.numpy()
        own = matrix.own.values.detach().cpu()
        kept = own if len(self.own) == own.shape[1] else own[:, self.own]
        return self.base.repeat(len(own), 1).index_add_(1, self.places, kept).numpy()

    def rows(self, matrix: Matrix) -> Iterator[np.ndarray]:
        """The values of one instance after the other, written out for a few at a time; endless where it is shared."""
        if matrix.own is None:
            yield from repeat(self.base.numpy())
            return
        for part in torch.arange(len(matrix.own.values)).split(max(1, MOST_VALUES // max(1, len(self.base)))):
            yield from self.values(matrix.take(part))

    def columns(self, values: np.ndarray) -> sp.csc_matrix:
        """One instance as a matrix of scipy."""
        return sp.csc_matrix((values, self.indices, self.pointers), self.shape)


def lay_out(
    matrix: Matrix, *, upper: bool = False, by_rows: bool = False, new_rows: np.ndarray | None = None
) -> Layout:
    """The pattern of a matrix, for one solver.

    Parameters
    ----------
    matrix : Matrix
    upper : bool
        Whether the upper triangle alone is kept.
    by_rows : bool
        Whether rows are compressed, not columns.
    new_rows : array of int, shape (rows,), or None
        Where each row goes; None where all stay.
    """
    height, width = matrix.shape
    parts = [matrix.common] if matrix.own is None else [matrix.common, matrix.own]
    rows, columns = (np.concatenate([getattr(part, name).cpu().numpy() for part in parts]) for name in ("rows", "columns"))
    rows = rows if new_rows is None else new_rows[rows]
    keys = rows * width + columns if by_rows else columns * height + rows
    kept = np.flatnonzero(rows <= columns) if upper else np.arange(len(rows))
    found, places = np.unique(keys[kept], return_inverse=True)
    major, minor = np.divmod(found, width if by_rows else height)
    pointers = np.searchsorted(major, np.arange((height if by_rows else width) + 1))
    shared = len(matrix.common.rows)
    common = matrix.common.values.detach().cpu().to(torch.float64)
    inside = kept < shared
    base = common.new_zeros(len(found)).index_add_(
        0, torch.as_tensor(places[inside]), common[torch.as_tensor(kept[inside])]
    )
    own = torch.as_tensor(kept[~inside] - shared)
    return Layout(pointers, minor, base, own, torch.as_tensor(places[~inside]), matrix.shape)


def vectors(program: ConicProgram) -> tuple[np.ndarray, np.ndarray]:
    """q and b of all instances, (batch, n) and (batch, m)."""
    q, b = (part.detach().to("cpu", torch.float64).numpy() for part in (program.q, program.b))
    m, n = program.A.shape
    return np.broadcast_to(q, (program.batch, n)), np.broadcast_to(b, (program.batch, m))


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
    """Solve a batch; what misses the tolerance is solved again, tightly, and the better answer kept."""
    points, scores = _scored(program, attempt(program, start, False), tolerance)
    missed = (scores > tolerance).nonzero()[:, 0]
    if not len(missed):
        return points
    part = program.take(missed)
    state = {name: rows[missed] for name, rows in points.state.items()}
    again, others = _scored(part, attempt(part, state, True), tolerance)
    better = others < scores[missed]
    chosen, rows = missed[better], {name: rows[better] for name, rows in again.state.items()}
    iterations = points.iterations.clone()
    iterations[missed] += again.iterations
    merged = {name: values.index_copy(0, chosen, rows[name]) for name, values in points.state.items()}
    return Points(
        points.x.index_copy(0, chosen, again.x[better]), points.y.index_copy(0, chosen, again.y[better]),
        iterations, points.claim.index_copy(0, chosen, again.claim[better]), merged,
    )  # fmt: skip


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


def optional_package(name: str) -> Any | None:
    """A package that may not be installed; None then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None
