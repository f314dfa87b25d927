"""Derivatives of the projections onto cones, for batches, at solutions of conic programs.

At a solution s in K, y in K*, s'y = 0 the point v = s - y has the projection s. The derivative D of the projection at v
is symmetric, 0 <= D <= I; it is given by its eigenvectors and eigenvalues. On a smooth surface f(s) = 0 of the cone,
with y = λ g, g the gradient of f and H its Hessian, the projection's own optimality system, v = s - λ g(s), f(s) = 0,
gives D = (I - λ H)^-1 on the tangent plane and 0 along g. At kinks of the projection (s and y both on a face's edge) D
is one of its generalized derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from .conic_program import Cones

EDGE = 1e-20
"""Relative to the point: entries below are moved here, so that derivatives at the edge of a cone are finite limits."""
MOST_EXPONENT = 700.0


@dataclass(frozen=True)
class Curved:
    """Derivatives for a stretch of rows with cones of one kind and size.

    Attributes
    ----------
    first, last : int
        The rows.
    values : Tensor, shape (batch, cones, size)
        Eigenvalues, in [0, 1].
    vectors : Tensor, shape (batch, cones, size, size)
        Eigenvectors, as columns.
    """

    first: int
    last: int
    values: Tensor
    vectors: Tensor

    def turn(self, rows: Tensor) -> Tensor:
        """Rows (batch, rows of this stretch, columns) in the basis of eigenvectors."""
        cones, size = self.values.shape[1:]
        return (self.vectors.mT @ rows.reshape(len(rows), cones, size, -1)).reshape(len(self.values), cones * size, -1)

    def turn_back(self, rows: Tensor) -> Tensor:
        """Entries (batch, rows of this stretch) in the basis of eigenvectors, as rows of the program."""
        return (self.vectors @ rows.reshape(*self.values.shape, 1)).reshape(len(rows), -1)


def held_rows(s: Tensor, y: Tensor, cones: Cones) -> Tensor:
    """Which zero and nonnegative rows a solution holds at their limit, (batch, rows): those with D = 0, not 1."""
    linear = cones.zero + cones.nonnegative
    held = s[:, :linear] <= y[:, :linear]
    held[:, : cones.zero] = True
    return held


def curved_derivatives(s: Tensor, y: Tensor, cones: Cones) -> list[Curved]:
    """Derivatives for the rows of all other cones, in their order; s and y have shape (batch, rows)."""
    first = cones.zero + cones.nonnegative
    stretches = [("second", size, size, len(list(group))) for size, group in groupby(cones.second_order)]
    stretches += [("semi", order, order * (order + 1) // 2, len(list(group)))
                  for order, group in groupby(cones.semidefinite)]  # fmt: skip
    stretches += [("exponential", 3, 3, cones.exponential)] * bool(cones.exponential)
    stretches += [("power", 3, 3, len(cones.power))] * bool(cones.power)
    found = []
    for kind, order, size, count in stretches:
        last = first + count * size
        points, duals = (part[:, first:last].reshape(len(part), count, size) for part in (s, y))
        if kind == "second":
            values, vectors = _second_order(points - duals)
        elif kind == "semi":
            values, vectors = _semidefinite(points - duals, order)
        elif kind == "exponential":
            values, vectors = _exponential(points, duals)
        else:
            values, vectors = _power(points, duals, torch.tensor(cones.power).to(s))
        found.append(Curved(first, last, values, vectors))
        first = last
    return found


def _second_order(v: Tensor) -> tuple[Tensor, Tensor]:
    """Outside of the cone and its polar: 1 along (1, u), 0 along (1, -u), (1 + t / r) / 2 across u = x / r."""
    t, x = v[..., :1], v[..., 1:]
    size = v.shape[-1]
    if size == 1:
        return (t >= 0).to(v), torch.ones_like(v)[..., None]
    r = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    frame = _frame(x)
    vectors = v.new_zeros(*v.shape, size)
    along = frame[..., 0] * 0.5**0.5
    vectors[..., 0, 0] = vectors[..., 0, 1] = 0.5**0.5
    vectors[..., 1:, 0], vectors[..., 1:, 1] = along, -along
    vectors[..., 1:, 2:] = frame[..., 1:]
    inside, polar = r <= t, r <= -t
    across = (1 + t / torch.where(inside | polar, torch.ones_like(r), r)) / 2
    values = torch.cat([torch.ones_like(t), torch.zeros_like(t), across.expand(*t.shape[:-1], size - 2)], -1)
    # The frame's first vector may be -u: which of the two is which then changes places.
    flipped = (along * x).sum(-1, keepdim=True) < 0
    values = torch.where(flipped, values[..., [1, 0, *range(2, size)]], values)
    return _settled(values, inside, polar), vectors


def _semidefinite(v: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Across the eigenvectors k and l of the matrix: (λ_k^+ + λ_l^+) / (|λ_k| + |λ_l|)."""
    columns, rows = torch.tril_indices(order, order, device=v.device)
    scale = torch.where(rows == columns, 1.0, 0.5**0.5).to(v.dtype)
    matrices = v.new_zeros(*v.shape[:-1], order, order)
    matrices[..., rows, columns] = v * scale
    matrices[..., columns, rows] = v * scale
    sizes, basis = torch.linalg.eigh(matrices)
    positive = sizes.clamp_min(0)
    total = sizes.abs()[..., rows] + sizes.abs()[..., columns]
    values = (positive[..., rows] + positive[..., columns]) / total.clamp_min(torch.finfo(v.dtype).tiny)
    left, right = basis[..., rows, :], basis[..., columns, :]
    products = left[..., rows] * right[..., columns] + left[..., columns] * right[..., rows]
    norms = torch.where(rows == columns, 0.5, 0.5**0.5).to(v.dtype)
    return values, products * norms / scale[:, None]


def _exponential(s: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The surface is f = y log(z / y) - x."""
    v0, v1, v2 = (s - y).unbind(-1)
    inside = (v1 > 0) & (_times_exp(v1, v0) <= v2)
    polar = (v0 > 0) & (_times_exp(v0, v1) <= -torch.e * v2) | (v0 == 0) & (v1 <= 0) & (v2 <= 0)
    floor = _floor(s, y)
    b, c = s[..., 1].clamp_min(floor), s[..., 2].clamp_min(floor)
    one, none = torch.ones_like(b), torch.zeros_like(b)
    gradient = torch.stack([-one, torch.log(c / b) - 1, b / c], -1)
    hessian = torch.stack([none, none, none, none, -1 / b, 1 / c, none, 1 / c, -b / c**2], -1)
    values, vectors = _surface(gradient, hessian.reshape(*s.shape, 3), y)
    # Points with x <= 0 and y <= 0 go to the face y = 0, where the cone is a quadrant.
    face = ((v0 <= 0) & (v1 <= 0))[..., None]
    values = torch.where(face, torch.stack([one, none, (v2 > 0).to(s)], -1), values)
    vectors = torch.where(face[..., None], torch.eye(3).to(s), vectors)
    return _settled(values, inside[..., None], polar[..., None]), vectors


def _times_exp(scale: Tensor, other: Tensor) -> Tensor:
    """``scale exp(other / scale)`` where scale > 0."""
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return safe * torch.exp((other / safe).clamp(max=MOST_EXPONENT))


def _power(s: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The surface is f = x^a y^(1 - a) - |z|."""
    v0, v1, v2 = (s - y).unbind(-1)
    inside = (v0 >= 0) & (v1 >= 0) & (v0.clamp_min(0) ** a * v1.clamp_min(0) ** (1 - a) >= v2.abs())
    dual = (-v0 / a).clamp_min(0) ** a * (-v1 / (1 - a)).clamp_min(0) ** (1 - a)
    polar = (v0 <= 0) & (v1 <= 0) & (dual >= v2.abs())
    floor = _floor(s, y)
    b, c = s[..., 0].clamp_min(floor), s[..., 1].clamp_min(floor)
    mean, bend = b**a * c ** (1 - a), a * (1 - a)
    none = torch.zeros_like(b)
    gradient = torch.stack([a * mean / b, (1 - a) * mean / c, torch.where(v2 > 0, -1.0, 1.0).to(s)], -1)
    mixed = bend * mean / (b * c)
    hessian = torch.stack([-bend * mean / b**2, mixed, none, mixed, -bend * mean / c**2, none, none, none, none], -1)
    values, vectors = _surface(gradient, hessian.reshape(*s.shape, 3), y)
    return _settled(values, inside[..., None], polar[..., None]), vectors


def _surface(gradient: Tensor, hessian: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """D at a point of a smooth surface, from the derivatives of f there and the dual, which is λ times the gradient."""
    length = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    pull = torch.linalg.vector_norm(y, dim=-1, keepdim=True) / length
    frame = _frame(gradient / length)
    tangent = frame[..., 1:]
    bent = torch.eye(2).to(y) - tangent.mT @ ((pull[..., None] * hessian) @ tangent)
    sizes, turned = torch.linalg.eigh(bent)
    values = torch.cat([torch.zeros_like(length), 1 / sizes.clamp_min(1)], -1)
    return values, torch.cat([frame[..., :1], tangent @ turned], -1)


def _frame(x: Tensor) -> Tensor:
    """Orthonormal matrices whose first columns are ± x / |x| (Householder)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    u = x / torch.where(length > 0, length, torch.ones_like(length))
    first = torch.zeros_like(u)
    first[..., 0] = torch.where(u[..., 0] < 0, -1.0, 1.0)
    w = u + first
    outer = w[..., :, None] * w[..., None, :]
    return torch.eye(x.shape[-1]).to(x) - 2 * outer / (w * w).sum(-1)[..., None, None]


def _floor(s: Tensor, y: Tensor) -> Tensor:
    return EDGE * torch.maximum(s.abs().amax(-1), y.abs().amax(-1)).clamp_min(EDGE)


def _settled(values: Tensor, inside: Tensor, polar: Tensor) -> Tensor:
    """All ones inside of the cone, all zeros where the projection is its tip."""
    return torch.where(inside, torch.ones_like(values), torch.where(polar, torch.zeros_like(values), values))
