"""What the engines of box-constrained programs share: their data, their stopping test, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .conic_engine import Start
from .conic_program import INFEASIBLE, NOTHING, POINT, ConicProgram, Points
from .elimination import Reduction
from .recognition import Box

LEAST_WANTED = 1e-14
MARGIN = 0.8
"""Share of the tolerance at which an engine stops: residuals are measured again on the whole program."""


@dataclass(frozen=True)
class BoxData:
    """The data of the instances that are still open.

    Attributes
    ----------
    g : Tensor, shape (rows, n)
    w : Tensor or None, shape (rows or 1, hinges)
    lower, upper : Tensor, shape (rows or 1, n)
    start : Tensor, shape (rows, n)
    constant : Tensor, shape (rows,)
        Objective of the whole program minus F.
    weight : Tensor, shape (rows,)
        Largest entry of g, in size.
    wanted : Tensor, shape (rows,)
        Relative gap and dual residual at which a row stops.
    has_lower, has_upper : bool
        Whether any bound is finite on that side.
    bounded, boxed : bool
        Whether all lower bounds are finite; whether all bounds are.
    floor : float or None
        The lower bound, where all have the same finite one: clipping at a number is quicker.
    warm : bool
        Whether the start is an earlier answer.
    """

    g: Tensor
    w: Tensor | None
    lower: Tensor
    upper: Tensor
    start: Tensor
    constant: Tensor
    weight: Tensor
    wanted: Tensor
    has_lower: bool
    has_upper: bool
    bounded: bool
    boxed: bool
    floor: float | None
    warm: bool

    def clip_(self, x: Tensor) -> Tensor:
        """Move x into the box, in place."""
        if self.floor is not None:
            x.clamp_(min=self.floor)
        elif self.has_lower:
            torch.maximum(x, self.lower, out=x)
        if self.has_upper:
            torch.minimum(x, self.upper, out=x)
        return x

    def pick(self, keep: Tensor) -> BoxData:
        """The instances for which `keep` holds."""

        def rows(values: Tensor) -> Tensor:
            return values if len(values) == 1 and len(keep) > 1 else values[keep]

        return BoxData(
            self.g[keep], None if self.w is None else rows(self.w), rows(self.lower), rows(self.upper),
            self.start[keep], self.constant[keep], self.weight[keep], self.wanted[keep], self.has_lower, self.has_upper,
            self.bounded, self.boxed, self.floor, self.warm,
        )  # fmt: skip

    def free(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Unknowns that are not held at a bound by the gradient."""
        return ~(((x <= self.lower) & (gradient > 0)) | ((x >= self.upper) & (gradient < 0)))

    def objective(self, x: Tensor, gradient: Tensor, hinge: Tensor | None) -> Tensor:
        """F at x, given its gradient and (W x + w)_+ there."""
        return self._objective(x, torch.linalg.vecdot(x, gradient), hinge)

    def _objective(self, x: Tensor, slope: Tensor, hinge: Tensor | None) -> Tensor:
        value = (slope + torch.linalg.vecdot(x, self.g)) / 2
        return value if hinge is None or self.w is None else value + torch.linalg.vecdot(hinge, self.w) / 2

    def excess(self, x: Tensor, gradient: Tensor, hinge: Tensor | None) -> Tensor:
        """By how much each row misses what is wanted: at most 1 where it is met.

        The bounds take the gradient's part that pushes against them as their duals; the gap is then what is left of
        complementarity. The whole program measures it relative to 1 + max(|x'Px|, |q'x|, |b'y|), which is at least
        1 + 2/3 of its objective's size.
        """
        slope = torch.linalg.vecdot(x, gradient)
        gap, left = self._complementarity(x, gradient, slope)
        size = (self._objective(x, slope, hinge) + self.constant).abs() * (2 / 3)
        excess = gap / (1 + size)
        if not self.boxed:
            excess = torch.maximum(excess, left / (1 + self.weight))
        return excess / self.wanted

    def _complementarity(self, x: Tensor, gradient: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The gap, and the largest part of the gradient that no bound takes; `slope` is x'gradient."""
        if not self.has_upper and self.bounded:
            held = 0.0 if self.floor == 0 else torch.linalg.vecdot(gradient.clamp(min=0), self.lower)
            return (slope - held).abs(), -gradient.amin(1).clamp_(max=0)
        edge = torch.where(gradient > 0, self.lower, self.upper)
        if self.boxed:
            return slope - torch.linalg.vecdot(gradient, edge), x.new_zeros(len(x))
        # What no bound takes is left in the dual residual r, and x'r in the gap.
        unbounded = edge.isinf()
        held = (gradient * torch.where(unbounded, 0.0, edge)).sum(1)
        return (slope - held).abs(), torch.where(unbounded, gradient.abs(), 0).amax(1)


@dataclass(frozen=True)
class BoxAnswer:
    """Where an engine puts its answers, in the order of the batch."""

    x: Tensor
    gradient: Tensor
    hinge: Tensor | None
    iterations: Tensor

    @staticmethod
    def empty(data: BoxData) -> BoxAnswer:
        """Room for the answers to all instances of the data."""
        rows = len(data.start)
        hinge = None if data.w is None else data.g.new_empty(rows, data.w.shape[1])
        counts = torch.zeros(rows, dtype=torch.int64, device=data.g.device)
        return BoxAnswer(torch.empty_like(data.start), torch.empty_like(data.start), hinge, counts)

    def keep(self, rows: Tensor, good: Tensor, x: Tensor, gradient: Tensor, hinge: Tensor | None, done: int) -> None:
        """Write the rows that are done."""
        if len(rows) == len(self.x) and bool(good.all()):
            # Nobody has left, and all are done: no places to look up.
            self.x.copy_(x), self.gradient.copy_(gradient), self.iterations.fill_(done)
            if self.hinge is not None and hinge is not None:
                self.hinge.copy_(hinge)
            return
        places = rows[good]
        self.x[places], self.gradient[places], self.iterations[places] = x[good], gradient[good], done
        if self.hinge is not None and hinge is not None:
            self.hinge[places] = hinge[good]


def run_box(
    program: ConicProgram,
    reduction: Reduction,
    box: Box,
    straight: Tensor,
    minimize: Callable[[BoxData, float], BoxAnswer],
    start: Start,
    tolerance: float,
) -> Points:
    """Run a minimizer over boxes and give back points of the whole program.

    Unknowns in which the objective is linear, (n,) or (batch, n) `straight`, belong at a bound. Where there is none on
    that side the objective falls without end: such an instance is left to the reference, which gives the ray.
    """
    q, b, constant = reduction.vectors_and_constant(program.q, program.b)
    data = box_data(box, start, q, b, constant.expand(program.batch))
    data, endless = settle_straight(data, straight)
    answer = minimize(data, tolerance)
    x, y = reduction.lift(*box.points(answer.x, answer.gradient, answer.hinge, q, b), program.q, program.b)
    claim = torch.full((program.batch,), POINT, device=q.device)
    claim[endless | (~box.smooth(q, b)).expand(program.batch)] = NOTHING
    crossed = (data.lower > data.upper).any(1).expand(program.batch)
    if bool(crossed.any()):
        none = torch.zeros_like(program.q[:1]), torch.zeros_like(program.b[:1])
        _, rays = reduction.lift(q.new_zeros(1, q.shape[1]), box.crossing(b), *none)
        y, claim[crossed] = torch.where(crossed[:, None], rays, y), INFEASIBLE
    return Points(x, y, answer.iterations, claim, {"x": answer.x})


def settle_straight(data: BoxData, straight: Tensor) -> tuple[BoxData, Tensor]:
    """Start unknowns without curvature at their bounds; and which instances have none there."""
    if not bool(straight.any()):
        return data, torch.zeros(len(data.g), dtype=torch.bool, device=data.g.device)
    end = torch.where(data.g > 0, data.lower, data.upper)
    belongs = straight & (data.g != 0)
    endless = (belongs & end.isinf()).any(1)
    start = torch.where(belongs & end.isfinite(), end, data.start)
    # Without its cost an endless instance is at rest, and keeps nobody waiting.
    return replace(data, start=start, g=torch.where(endless[:, None], 0.0, data.g)), endless


def box_data(box: Box, start: Start, q: Tensor, b: Tensor, constant: Tensor) -> BoxData:
    """The data of a batch; it starts from the given state, or from the point of the box nearest to zero."""
    lower, upper = box.limits(b)
    g = q[:, box.span].expand(len(constant), -1)
    if box.hinges is not None:
        constant = constant - ((q[:, box.hinges.spans[0]] / box.hinges.roots) ** 2).sum(1) / 2
    # An earlier answer of another width was to a program of another structure.
    warm = "x" in start and start["x"].shape == g.shape
    first = start["x"] if warm else torch.zeros_like(g)
    finite = lower.isfinite(), upper.isfinite()
    return BoxData(
        g, box.shift(q, b), lower, upper, first, constant, torch.maximum(g.amax(1), -g.amin(1)),
        torch.ones_like(g[:, 0]),
        bool(finite[0].any()), bool(finite[1].any()), bool(finite[0].all()), bool(finite[0].all() and finite[1].all()),
        float(lower[0, 0]) if lower.numel() and bool((lower == lower[0, 0]).all() & finite[0].all()) else None,
        warm,
    )  # fmt: skip


def aim(data: BoxData, plain: Tensor, gradient: Tensor, hinge: Tensor | None, tolerance: float) -> BoxData:
    """Set what is wanted of every row: the tolerance, and a hundredth of what a plain start misses it by.

    The second matters where the data are small: the residuals are relative to 1 at least, so that a start may meet the
    tolerance by its scale alone.
    """
    missed = replace(data, wanted=torch.ones_like(data.wanted)).excess(plain, gradient, hinge)
    return replace(data, wanted=MARGIN * (missed / 100).clamp(LEAST_WANTED, tolerance).nan_to_num(tolerance))
