"""Points of cones near a given point, for batches.

Exact Euclidean projections onto zero, nonnegative, second-order and semidefinite cones. For exponential and power
cones a point of the cone that is near, not nearest: of the candidates that change a single entry, the closest. A
distance measured with it is then never too small, which is what residuals need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import groupby

import torch
from torch import Tensor

from .conic_program import Cones

TINY = 1e-300
"""Keeps logarithms and quotients finite at the boundary of a cone."""


def into_cone(points: Tensor, cones: Cones) -> Tensor:
    """Points of K near the rows of ``points`` (batch, rows)."""
    return _into(points, cones, dual=False)


def into_dual_cone(points: Tensor, cones: Cones) -> Tensor:
    """Points of the dual cone K* near the rows of ``points`` (batch, rows)."""
    return _into(points, cones, dual=True)


def _into(points: Tensor, cones: Cones, *, dual: bool) -> Tensor:
    result = points.clone()
    linear = cones.zero + cones.nonnegative
    if not dual:
        result[:, : cones.zero] = 0
    result[:, cones.zero : linear].clamp_(min=0)
    for first, last, size, project in _blocks(cones, linear, dual):
        part = points[:, first:last].reshape(len(points), -1, size)
        result[:, first:last] = project(part).reshape(len(points), -1)
    return result


def _blocks(cones: Cones, first: int, dual: bool) -> Iterator[tuple[int, int, int, Callable[[Tensor], Tensor]]]:
    """Slices of rows with cones of one kind and size, and the map onto them."""
    for size, group in groupby(cones.second_order):
        last = first + size * len(list(group))
        yield first, last, size, onto_second_order
        first = last
    for order, group in groupby(cones.semidefinite):
        size = order * (order + 1) // 2
        last = first + size * len(list(group))
        yield first, last, size, lambda part, order=order: onto_semidefinite(part, order)  # type: ignore[misc]
        first = last
    if cones.exponential:
        last = first + 3 * cones.exponential
        yield first, last, 3, into_dual_exponential if dual else into_exponential
        first = last
    if cones.power:
        exponents = torch.tensor(cones.power, dtype=torch.float64)
        yield first, first + 3 * len(cones.power), 3, lambda part: into_power(part, exponents, dual=dual)


def onto_second_order(points: Tensor) -> Tensor:
    """Projection onto |x| <= t; the last axis holds (t, x)."""
    t, x = points[..., :1], points[..., 1:]
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    half = (1 + t / length.clamp_min(TINY)) / 2
    boundary = torch.cat([half * length, half * x], dim=-1)
    outside = torch.where(length <= -t, torch.zeros_like(points), boundary)
    return torch.where(length <= t, points, outside)


def onto_semidefinite(points: Tensor, order: int) -> Tensor:
    """Projection onto positive semidefinite matrices; the last axis holds the scaled upper triangle by columns."""
    columns, rows = torch.tril_indices(order, order, device=points.device)
    scale = torch.where(rows == columns, points.new_tensor(1.0), points.new_tensor(0.5).sqrt())
    matrices = points.new_zeros(*points.shape[:-1], order, order)
    matrices[..., rows, columns] = points * scale
    matrices[..., columns, rows] = points * scale
    # Rows without numbers must not take the batch with them; their residuals are no numbers either.
    values, vectors = torch.linalg.eigh(matrices.nan_to_num(0.0, 0.0, 0.0))
    projected = (vectors * values.clamp_min(0)[..., None, :]) @ vectors.mT
    return projected[..., rows, columns] / scale


def into_exponential(points: Tensor) -> Tensor:
    """A near point of the cone of (x, y, z) with y > 0, y exp(x / y) <= z, and its closure."""
    x, y, z = points.unbind(-1)
    face = x.clamp(max=0), torch.zeros_like(y), z.clamp(min=0)
    # Logarithms apart: a quotient of a tiny y overflows.
    inside = y >= TINY
    within = y.clamp_min(TINY)
    depth = within.log()
    least = torch.exp(depth + x / within)
    higher = x, y, torch.maximum(z, least)
    lower = torch.minimum(x, y * (z.clamp_min(TINY).log() - depth)), y, z
    return _closest((x, y, z), face, (higher, inside & least.isfinite()), (lower, inside & (z >= TINY)))


def into_dual_exponential(points: Tensor) -> Tensor:
    """A near point of the dual cone: (u, v, w) with u < 0, -u exp(v / u - 1) <= w, and its closure."""
    u, v, w = points.unbind(-1)
    face = torch.zeros_like(u), v.clamp(min=0), w.clamp(min=0)
    inside = u <= -TINY
    below = u.clamp(max=-TINY)
    size = (-below).log()
    least = torch.exp(size + v / below - 1)
    higher = u, v, torch.maximum(w, least)
    later = u, torch.maximum(v, u * (1 + w.clamp_min(TINY).log() - size)), w
    return _closest((u, v, w), face, (higher, inside & least.isfinite()), (later, inside & (w >= TINY)))


def into_power(points: Tensor, exponents: Tensor, *, dual: bool = False) -> Tensor:
    """A near point of x^a y^(1-a) >= |z|; of the dual, (x/a)^a (y/(1-a))^(1-a) >= |z|."""
    a = exponents.to(points)
    factors = (a, 1 - a) if dual else (torch.ones_like(a), torch.ones_like(a))
    x, y, z = points[..., 0].clamp(min=0), points[..., 1].clamp(min=0), points[..., 2]
    most = (x / factors[0]) ** a * (y / factors[1]) ** (1 - a)
    wanted = factors[0] * (z.abs() / ((y / factors[1]) ** (1 - a)).clamp_min(TINY)) ** (1 / a)
    wider = (torch.maximum(x, wanted), y, z), (y > 0) & wanted.isfinite()
    return _closest(points.unbind(-1), (x, y, z.clamp(-most, most)), wider)


def _closest(
    point: tuple[Tensor, ...], first: tuple[Tensor, ...], *others: tuple[tuple[Tensor, ...], Tensor]
) -> Tensor:
    """Of the first candidate and of the others that hold, the closest to each point; all given entry by entry."""
    best, distance = list(first), _distance(point, first)
    for candidate, holds in others:
        other = _distance(point, candidate)
        closer = holds & (other < distance)
        best = [torch.where(closer, new, old) for new, old in zip(candidate, best, strict=True)]
        distance = torch.where(closer, other, distance)
    return torch.stack(best, -1)


def _distance(point: tuple[Tensor, ...], candidate: tuple[Tensor, ...]) -> Tensor:
    """The largest change of an entry; those that are the same tensor have not changed."""
    changes = [(new - old).abs_() for new, old in zip(candidate, point, strict=True) if new is not old]
    return reduce(torch.maximum, changes)
