"""Answers to a batch, collected chunk by chunk, as the Solution that its user sees."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..formulations.subproblem import Residuals
from .canonical import Canonical
from .conic_batch import STATUSES, Checked, again
from .conic_engines import REFERENCE
from .conic_program import INFEASIBLE, POINT, UNBOUNDED, ConicProgram
from .problem_batch import Batch
from .recoveries import Recovery
from .shared_matrix import span
from .solution import Solution, Status


@dataclass
class Answers:
    """Room for the answers to all instances of a batch; rows of instances without a point stay NaN.

    `points` are x and y of the canonical programs, kept only where gradients are wanted.
    """

    form: Canonical
    variables: dict[str, Tensor]
    duals: dict[str, Tensor]
    objective: Tensor
    residuals: Tensor
    claim: Tensor
    iterations: Tensor
    cold: Tensor
    reference: Tensor
    points: tuple[Tensor, Tensor] | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    rays: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @staticmethod
    def empty(form: Canonical, batch: Batch, *, keep_points: bool = False) -> Answers:
        """Room for a batch."""

        def room(*shape: int, of: torch.dtype = torch.float64) -> Tensor:
            fill = torch.nan if of.is_floating_point else 0
            return torch.full((batch.size, *shape), fill, dtype=of, device=batch.device)

        return Answers(
            form,
            {name: room(*recovery.shape) for name, recovery in form.values.items()},
            {name: room(*recovery.shape) for name, recovery in form.duals.items()},
            room(), room(3), room(of=torch.int64), room(of=torch.int64), room(of=torch.bool), room(of=torch.bool),
            (room(form.variables), room(form.rows)) if keep_points else None,
        )  # fmt: skip

    def keep(self, places: Tensor, program: ConicProgram, checked: Checked) -> None:
        """Write the answers to some instances."""
        points, at = checked.points, span(places)
        missing = (points.claim != POINT)[:, None]
        bare = bool(missing.any())
        x, y = (torch.where(missing, torch.nan, part) if bare else part for part in (points.x, points.y))
        if self.points is not None:
            self.points[0][at], self.points[1][at] = x, y
        for side, recoveries, answer in ((self.variables, self.form.values, x), (self.duals, self.form.duals, y)):
            for name, recovery in recoveries.items():
                side[name][at] = recover(recovery, answer)
        value = torch.linalg.vecdot(x, program.P.times(x) / 2 + program.q) + program.offset
        self.objective[at] = self.form.sign * value
        residuals = checked.residuals
        self.residuals[at] = torch.stack([residuals.primal, residuals.dual, residuals.gap], dim=1)
        self.claim[at], self.iterations[at] = points.claim, points.iterations
        self.cold[at], self.reference[at] = checked.cold, checked.reference
        for name, values in points.state.items():
            if name not in self.state:
                self.state[name] = values.new_full((len(self.claim), *values.shape[1:]), torch.nan)
            self.state[name][at] = values
        if bare:
            self._keep_rays(places, checked)

    def _keep_rays(self, places: Tensor, checked: Checked) -> None:
        points = checked.points
        for kind, recoveries, rays in (
            (INFEASIBLE, self.form.duals, points.y), (UNBOUNDED, self.form.values, points.x)
        ):  # fmt: skip
            for row in (points.claim == kind).nonzero()[:, 0].tolist():
                ray = rays[row : row + 1] / rays[row].abs().max()
                self.rays[int(places[row])] = {name: recover(item, ray)[0] for name, item in recoveries.items()}

    def status(self, tolerance: float) -> tuple[Status, ...]:
        """How every instance ended."""
        good = (self.residuals <= tolerance).all(1) & (self.claim == POINT)
        if bool(good.all()):
            return (Status.SOLVED,) * len(good)
        ends = [STATUSES[claim] for claim in self.claim.tolist()]
        return tuple(Status.SOLVED if ok else other for ok, other in zip(good.tolist(), ends, strict=True))

    def attach(self, x: Tensor, y: Tensor, objective: Tensor) -> None:
        """Take variables, duals and objective from points that carry gradients."""
        self.variables = {name: recover(recovery, x) for name, recovery in self.form.values.items()}
        self.duals = {name: recover(recovery, y) for name, recovery in self.form.duals.items()}
        self.objective = objective

    def solution(
        self, engine: str, tolerance: float, seconds: tuple[float, float], ids: tuple[Hashable, ...],
        state: Mapping[str, Tensor],
    ) -> Solution:  # fmt: skip
        """The Solution of the whole batch."""
        return Solution(
            self.variables, Residuals(*self.residuals.T), self.status(tolerance), self.iterations, engine, *seconds,
            self.duals, state, self.objective, again({"cold": self.cold, REFERENCE: self.reference}), self.rays, ids,
        )  # fmt: skip


def recover(recovery: Recovery, answers: Tensor) -> Tensor:
    """The values of one name, (batch, *shape), from answers (batch, entries)."""
    values = answers[:, span(torch.as_tensor(recovery.places, device=answers.device))]
    if (recovery.coefficients != 1).any():
        values = values * torch.as_tensor(recovery.coefficients, device=answers.device)
    # Adding zero makes the negative zeros of a projection plain ones.
    return (values + 0.0).reshape(len(answers), *recovery.shape)
