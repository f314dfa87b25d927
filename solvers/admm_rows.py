"""Rows of a batch on their way through ADMM, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .admm_basis import Basis
from .cone_points import into_cone
from .rows import pick_rows


@dataclass
class Rows:
    """The instances that are still open.

    Attributes
    ----------
    places : Tensor of int64, shape (rows,)
        Which instances of the batch.
    q, b : Tensor
        Vectors of the reduced program.
    x0, g, h : Tensor
        See `Basis.vectors`.
    v : Tensor, shape (rows, inequalities)
        The state.
    rho : Tensor, shape (rows,)
    wanted : Tensor, shape (rows,)
        Residual in the reduced program at which the whole one is looked at.
    rest : Tensor, shape (rows,)
        The iteration from which rho may change again: ever later, for it has to settle.
    pace : Tensor, shape (rows,)
        Size of the last steps of v.
    """

    places: Tensor
    q: Tensor
    b: Tensor
    x0: Tensor
    g: Tensor
    h: Tensor
    v: Tensor
    rho: Tensor
    wanted: Tensor
    rest: Tensor
    pace: Tensor

    def pick(self, keep: Tensor) -> Rows:
        """The rows for which `keep` holds, or those at some places."""
        return Rows(*pick_rows(keep, *(getattr(self, field.name) for field in fields(self))))

    @staticmethod
    def join(parts: list[Rows]) -> Rows:
        """Rows of several chunks."""
        return Rows(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Rows)))


@dataclass(frozen=True)
class Look:
    """Where rows stand.

    Attributes
    ----------
    z : Tensor, shape (rows, inequalities)
    x, y : Tensor
        Point of the reduced program.
    residual : Tensor, shape (rows,)
        The largest of its residuals, see `conic_residuals`.
    off : Tensor, shape (rows,)
        How much the square of rho is too small.
    """

    z: Tensor
    x: Tensor
    y: Tensor
    residual: Tensor
    off: Tensor

    @staticmethod
    def at(basis: Basis, rows: Rows) -> Look:
        """Look at rows."""
        z, first = basis.within(rows.v, rows.h), basis.equalities
        scaled = rows.rho[:, None] * (rows.v - z)
        c = basis.nearest(2 * z - rows.v, rows.g, rows.rho)
        x = rows.x0 + c @ basis.directions.T
        curved, slack, own = x @ basis.P, rows.b - x @ basis.A.T, scaled * basis.scales
        pushed = own @ basis.A[first:]
        tied = -(pushed + curved + rows.q) @ basis.particular
        pulled = pushed + tied @ basis.A[:first]
        y = torch.cat([tied, own], 1)
        outside = slack[:, first:] - into_cone(slack[:, first:], basis.cones)
        sizes = torch.maximum(largest(rows.b - slack), largest(rows.b))
        primal = torch.maximum(largest(slack[:, :first]), largest(outside)) / (1 + sizes)
        sizes = torch.maximum(torch.maximum(largest(curved), largest(pulled)), largest(rows.q))
        pairs = (x, curved), (rows.q, x), (rows.b, y)
        dots = torch.stack([torch.linalg.vecdot(*pair) for pair in pairs])
        gap = dots.sum(0).abs() / (1 + dots.abs().amax(0))
        residual = torch.maximum(torch.maximum(primal, largest(curved + rows.q + pulled) / (1 + sizes)), gap)
        # The rest of  p c + g + T'y = 0  against that of  T c = z, and y / rho against z: with much curvature, p c and
        # g cancel however wrong y is, and residuals alone say little.
        sent, pull, bent = rows.h - basis.scales * slack[:, first:], pushed @ basis.directions, basis.p * c
        sizes = torch.maximum(torch.maximum(largest(pull), largest(rows.g)), largest(bent))
        size = torch.maximum(largest(sent), largest(z))
        off = largest(sent - z) / size * sizes / largest(bent + rows.g + pull) * (largest(rows.v - z) / size)
        return Look(z, x, y, residual, off.nan_to_num(1, 1, 1))


def largest(rows: Tensor) -> Tensor:
    """Largest size of an entry of every row."""
    return torch.maximum(rows.amax(1), -rows.amin(1)) if rows.shape[1] else rows.new_zeros(len(rows))
