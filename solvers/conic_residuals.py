"""Residuals and rays of a batch of conic programs, measured on the program itself, unscaled.

With s the point of K at b - A x, and y in K*, relative to the terms that cancel, in the infinity norm:

    primal   A x + s - b      over 1 + max(|A x|, |s|, |b|)
    dual     P x + q + A'y    over 1 + max(|P x|, |A'y|, |q|)
    gap      x'Px + q'x + b'y over 1 + max(|x'Px|, |q'x|, |b'y|)

A ray y in K* with A'y = 0 and b'y < 0 shows that no point meets the constraints (Farkas). A ray x with P x = 0,
-A x in K and q'x < 0 shows that the objective falls without end from every feasible point. In floating point the
zeros have to be small both against the fall, -b'y or -q'x, and row by row against the terms that cancel in them: the
second does not change when the data are scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..formulations.subproblem import Residuals
from .cone_points import into_cone, into_dual_cone
from .conic_program import INFEASIBLE, NOTHING, POINT, UNBOUNDED, Cones, ConicProgram, Points

RAY_TOLERANCE = 1e-7
"""Rays are not asked for more than this: solvers do not give them more accurately."""
NOISE = (0.0, 1e-9, 1e-7, 1e-5)
"""Entries of a ray below this share of its largest may be noise: the ray is tried without them too."""


def conic_residuals(program: ConicProgram, x: Tensor, y: Tensor) -> Residuals:
    """Relative residuals of every instance; y must be in the dual cone (see `believe`)."""
    sent, curved, pulled = program.A.times(x), program.P.times(x), program.A.transposed_times(y)
    outside, inside = _split(program.b - sent, program.cones)
    primal = outside / (1 + torch.maximum(torch.maximum(_largest(sent), inside), _largest(program.b)))
    scale = torch.maximum(torch.maximum(_largest(curved), _largest(pulled)), _largest(program.q))
    dual = _largest(curved + program.q + pulled) / (1 + scale)
    dots = torch.linalg.vecdot(x, curved), torch.linalg.vecdot(program.q, x), torch.linalg.vecdot(program.b, y)
    terms = torch.stack([dot.expand(program.batch) for dot in dots])
    gap = terms.sum(0).abs() / (1 + terms.abs().amax(0))
    return Residuals(primal, dual, gap)


def measure(program: ConicProgram, points: Points, tolerance: float) -> tuple[Points, Residuals]:
    """Points with their duals moved into the dual cone, their residuals, and claims only where they hold.

    A claim of a ray that does not meet the tolerance becomes NOTHING. Residuals are infinite where there is no point.
    """
    x, y = points.x, into_dual_cone(points.y, program.cones)
    claim = torch.where((points.claim >= POINT) & (points.claim <= NOTHING), points.claim, NOTHING)
    for kind, held in ((INFEASIBLE, _infeasible), (UNBOUNDED, _unbounded)):
        places = (claim == kind).nonzero()[:, 0]
        if len(places):
            rays, good = _clean(program.take(places), (y if kind == INFEASIBLE else x)[places], held, tolerance)
            claim[places[~good]] = NOTHING
            if kind == INFEASIBLE:
                y = y.index_copy(0, places, rays)
            else:
                x = x.index_copy(0, places, rays)
    residuals = conic_residuals(program, x, y)
    nothing = claim != POINT
    cleaned = (torch.where(nothing, torch.inf, part.nan_to_num(torch.inf, torch.inf))
               for part in (residuals.primal, residuals.dual, residuals.gap))  # fmt: skip
    return replace(points, x=x, y=y, claim=claim), Residuals(*cleaned)


def _clean(
    program: ConicProgram, rays: Tensor, held: Callable[[ConicProgram, Tensor, float], Tensor], tolerance: float
) -> tuple[Tensor, Tensor]:
    """Rays without their noise, and which of them hold: the first that does, of those with less and less left out."""
    tolerance = max(tolerance, RAY_TOLERANCE)
    result, good = rays, torch.zeros(len(rays), dtype=torch.bool, device=rays.device)
    for share in NOISE:
        kept = torch.where(rays.abs() < share * _largest(rays)[:, None], 0.0, rays)
        better = held(program, kept, tolerance) & ~good
        result, good = torch.where(better[:, None], kept, result), good | better
    return result, good


def _infeasible(program: ConicProgram, y: Tensor, tolerance: float) -> Tensor:
    y = into_dual_cone(y, program.cones)
    fall = -torch.linalg.vecdot(program.b, y)
    left, terms = program.A.transposed_times(y).abs(), program.A.absolute().transposed_times(y.abs())
    return (fall > 0) & (_largest(left) <= tolerance * fall) & (left <= tolerance * terms).all(1)


def _unbounded(program: ConicProgram, x: Tensor, tolerance: float) -> Tensor:
    fall = -torch.linalg.vecdot(program.q, x)
    slack = -program.A.times(x)
    outside, curved = (slack - into_cone(slack, program.cones)).abs(), program.P.times(x).abs()
    small = torch.maximum(_largest(curved), _largest(outside)) <= tolerance * fall
    sizes = _by_cone(program.A.absolute().times(x.abs()), program.cones)
    bent = program.P.absolute().times(x.abs())
    return (fall > 0) & small & (outside <= tolerance * sizes).all(1) & (curved <= tolerance * bent).all(1)


def _by_cone(sizes: Tensor, cones: Cones) -> Tensor:
    """The rows of a curved cone move together: each takes the largest size of its cone."""
    triangles = [order * (order + 1) // 2 for order in cones.semidefinite]
    lengths = [*cones.second_order, *triangles, *[3] * (cones.exponential + len(cones.power))]
    first = cones.zero + cones.nonnegative
    parts = [sizes[:, :first]]
    for part in sizes[:, first:].split(lengths, dim=1) if lengths else ():
        parts.append(part.amax(1, keepdim=True).expand_as(part))
    return torch.cat(parts, dim=1)


def _split(slack: Tensor, cones: Cones) -> tuple[Tensor, Tensor]:
    """How far b - A x is from the cone, and the size of the point s of the cone."""
    if not cones.linear:
        s = into_cone(slack, cones)
        return _largest(slack - s), _largest(s)
    outside = _largest(slack[:, : cones.zero])
    if not cones.nonnegative:
        return outside, torch.zeros_like(outside)
    rest = slack[:, cones.zero :]
    return torch.maximum(outside, -rest.amin(1)), rest.amax(1).clamp(min=0)


def _largest(rows: Tensor) -> Tensor:
    # Two passes without a copy are quicker than the absolute values or torch's infinity norm.
    return torch.maximum(rows.amax(1), -rows.amin(1)) if rows.shape[1] else rows.new_zeros(len(rows))
