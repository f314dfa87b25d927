"""A batch of conic programs through an engine, its answers checked and, where they miss, found again.

Residuals on the program decide, not the engine's word: rows that miss the tolerance go on from where the engine left
them, are solved again cold where they had a warm start, and at last by the reference, Clarabel. What still misses is
marked. A claim of infeasibility or unboundedness is believed only with a ray that checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..formulations.subproblem import Residuals
from .conic_engine import Runner, Start
from .conic_program import INFEASIBLE, NOTHING, POINT, UNBOUNDED, ConicProgram, Points, no_points
from .conic_residuals import measure
from .matrix import Matrix
from .solution import Status

SHARPER = (0.1, 0.01)
"""Shares of the tolerance that an engine is asked for where its first answer misses."""
STATUSES = {
    POINT: Status.INACCURATE,
    INFEASIBLE: Status.INFEASIBLE,
    UNBOUNDED: Status.UNBOUNDED,
    NOTHING: Status.FAILED,
}
"""How an instance ended, by its claim; a point that meets the tolerance is SOLVED."""


@dataclass(frozen=True)
class Checked:
    """Answers to a batch, with what was measured of them.

    Attributes
    ----------
    points : Points
        Claims are those that hold.
    residuals : Residuals
    cold, reference : Tensor of bool, shape (batch,)
        Rows that were solved again without their warm start, and by the reference.
    """

    points: Points
    residuals: Residuals
    cold: Tensor
    reference: Tensor

    def solved(self, tolerance: float) -> Tensor:
        """Rows whose point meets the tolerance."""
        return (self.points.claim == POINT) & (_worst(self.residuals) <= tolerance)

    def status(self, tolerance: float) -> tuple[Status, ...]:
        """How every instance ended."""
        pairs = zip(self.solved(tolerance).tolist(), self.points.claim.tolist(), strict=True)
        return tuple(Status.SOLVED if solved else STATUSES[claim] for solved, claim in pairs)


def solve_conic_batch(
    program: ConicProgram, runner: Runner, start: Start, tolerance: float, reference: Runner | None
) -> Checked:
    """Solve a batch and check every answer.

    Parameters
    ----------
    program : ConicProgram
    runner : callable
        From an engine's `prepare`.
    start : mapping of Tensor
        Warm start of every row, or empty.
    tolerance : float
        On the primal and dual residual and the gap.
    reference : callable or None
        The runner that is tried last; None where it is the engine itself.
    """
    none = torch.zeros(program.batch, dtype=torch.bool, device=program.q.device)
    checked = Checked(*_run(program, runner, start, tolerance), none.clone(), none.clone())
    for share in SHARPER if checked.points.state else ():
        places = _open(checked, tolerance)
        if not len(places):
            return _settle(program, checked, runner, reference, tolerance)
        state = {name: values[places] for name, values in checked.points.state.items()}
        _improve(checked, places, *_run(program.take(places), runner, state, share * tolerance, tolerance))
    places = _open(checked, tolerance)
    if len(places) and start:
        checked.cold[places] = True
        _improve(checked, places, *_run(program.take(places), runner, {}, SHARPER[0] * tolerance, tolerance))
    places = _open(checked, tolerance)
    if len(places) and reference is not None:
        checked.reference[places] = True
        _improve(checked, places, *_run(program.take(places), reference, {}, tolerance))
    return _settle(program, checked, runner, reference, tolerance)


def _run(
    program: ConicProgram, runner: Runner, start: Start, tolerance: float, asked: float | None = None
) -> tuple[Points, Residuals]:
    try:
        points = runner(program, start, tolerance)
    except torch.linalg.LinAlgError:
        # A factorization that fails takes nothing with it: the rows are open, and the reference solves them.
        points = no_points(program)
    return measure(program, points, asked or tolerance)


def _open(checked: Checked, tolerance: float) -> Tensor:
    """Places without a good point and without a ray."""
    claim = checked.points.claim
    missed = (claim == NOTHING) | ((claim == POINT) & ~checked.solved(tolerance))
    return missed.nonzero()[:, 0]


def _improve(checked: Checked, places: Tensor, points: Points, residuals: Residuals) -> None:
    """Take over the answers that are better: rays, and points with smaller residuals."""
    old = checked.points
    worst = torch.where(old.claim[places] == POINT, _worst(checked.residuals)[places], torch.inf)
    ray = (points.claim == INFEASIBLE) | (points.claim == UNBOUNDED)
    better = ray | ((points.claim == POINT) & ~(_worst(residuals) >= worst))
    old.iterations[places] += points.iterations
    _take_over(checked, places, better, points, residuals)


def _take_over(checked: Checked, places: Tensor, better: Tensor, points: Points, residuals: Residuals) -> None:
    """Write the better ones of the answers to the instances at some places."""
    old, rows = checked.points, places[better]
    old.x[rows], old.y[rows], old.claim[rows] = points.x[better], points.y[better], points.claim[better]
    for name in ("primal", "dual", "gap"):
        getattr(checked.residuals, name)[rows] = getattr(residuals, name)[better]
    for name, values in old.state.items():
        if name in points.state:
            values[rows] = points.state[name][better]


def _settle(
    program: ConicProgram, checked: Checked, runner: Runner, reference: Runner | None, tolerance: float
) -> Checked:
    """Ask once more where rays are claimed: a point that meets the tolerance beats them.

    A ray of the objective means something only from a feasible point; where there is none, the instance is infeasible.
    """
    rays = (checked.points.claim == INFEASIBLE) | (checked.points.claim == UNBOUNDED)
    claimed = (rays & ~checked.reference).nonzero()[:, 0]
    if len(claimed) and reference is not None:
        points, residuals = _run(program.take(claimed), reference, {}, tolerance)
        good = (points.claim == POINT) & (_worst(residuals) <= tolerance)
        checked.reference[claimed[good]] = True
        _take_over(checked, claimed, good, points, residuals)
    places = (checked.points.claim == UNBOUNDED).nonzero()[:, 0]
    if not len(places):
        return checked
    some = program.take(places)
    flat = replace(
        some, P=Matrix(replace(program.P.common, values=torch.zeros_like(program.P.common.values))),
        q=torch.zeros_like(some.q),
    )  # fmt: skip
    points, _ = _run(flat, reference or runner, {}, tolerance)
    infeasible = points.claim == INFEASIBLE
    checked.points.y[places[infeasible]] = points.y[infeasible]
    checked.points.claim[places[infeasible]] = INFEASIBLE
    checked.points.claim[places[points.claim == NOTHING]] = NOTHING
    return checked


def _worst(residuals: Residuals) -> Tensor:
    worst: Tensor = torch.maximum(torch.maximum(residuals.primal, residuals.dual), residuals.gap)
    return worst


def again(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> places where the mask holds; names without any are left out."""
    places = {name: mask.nonzero()[:, 0] for name, mask in parts.items()}
    return {name: found for name, found in places.items() if len(found)}
