"""Newton steps on the fixed points of ADMM, for rows that take long; on linear programs they are active-set steps.

With v = T c + y / rho the point (c, y) is optimal where  p c + g + T'y = 0  and  T c = z(v), the nearest point with
h - z in K. K is a cone, hence z = h - D (h - v) with D the derivative of the projection, and in its eigenvectors, with
eigenvalues d, the second equation is, row by row,

    (1 - d) (T c - h) = d y / rho :     d = 0 asks for T c = h,  d = 1 for y = 0,  else y = rho (1 / d - 1) (T c - h) .

Rows of the second kind leave the linear system, those of the third are quadratic costs. Without them, unknowns with a
curvature p that is not small leave it as well. What remains is regularized as by the proximal method of multipliers.
Steps are kept where the distance to a fixed point, which ADMM itself never increases, falls. Before them, the step of
ADMM is made as long as it may be.

Source: Xiao, Li, Wen & Zhang, "A regularized semi-smooth Newton method with projection steps for composite convex
programs", J. Sci. Comput. 76 (2018); Rockafellar, "Augmented Lagrangians and applications of the proximal point
algorithm in convex programming", Math. Oper. Res. 1 (1976).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .admm_basis import Basis
from .cone_derivatives import Curved, curved_derivatives

REGULARIZATION = (1e-10, 1e-4, 1e-3, 1e-2)
"""Tried in turn: almost none is quick near the solution, more leads there where active sets are hard to find."""
STEPS, REFINEMENTS = 10, 3
WILD = 1e4
"""Growth of the distance at which steps are given up; until then the active set may still settle."""
ROUNDING, CLOSE = 1e-13, 1e-9
"""Distances, relative to the state, that are rounding, and that are as good as it gets where they shrink no more."""
LENGTHENINGS, FARTHEST = 15, 1e3
"""How often a step is made four times as long, and how far it may lead, relative to the data."""
ENOUGH = 0.9
"""Share of the distance to which steps have to come down."""
HARD = 1e-6
"""Eigenvalues d below it count as zero."""
GROUP_ENTRIES = 2**19
"""Entries of the linear systems that are solved together, which stay in the cache of a processor; GPUs want more."""


@dataclass(frozen=True)
class Turned:
    """Rows of the program in the eigenvectors of D.

    Attributes
    ----------
    parts : list of Curved
        The stretches of rows that are turned.
    T : Tensor, shape (inequalities, unknowns), with a leading batch axis where rows are turned
    h, y : Tensor, shape (rows, inequalities)
    hard : Tensor of bool, shape (rows, inequalities)
        Where d = 0.
    stiffness : Tensor or None, shape (rows, inequalities)
        rho (1 / d - 1) where 0 < d, else 0; None where that is zero throughout.
    """

    parts: list[Curved]
    T: Tensor
    h: Tensor
    y: Tensor
    hard: Tensor
    stiffness: Tensor | None

    @staticmethod
    def of(basis: Basis, s: Tensor, h: Tensor, y: Tensor, rho: Tensor) -> Turned:
        """Turn the rows at s = h - v."""
        hard = s <= 0
        if basis.cones.linear:
            return Turned([], basis.T, h, y, hard, None)
        T, h, y, stiffness = basis.T.expand(len(s), -1, -1).clone(), h.clone(), y.clone(), torch.zeros_like(s)
        parts = curved_derivatives(s, torch.zeros_like(s), basis.cones)
        for part in parts:
            span = slice(part.first, part.last)
            d = part.values.flatten(1)
            T[:, span] = part.turn(T[:, span])
            h[:, span], y[:, span] = (part.turn(rows[:, span, None])[..., 0] for rows in (h, y))
            hard[:, span] = d < HARD
            stiffness[:, span] = torch.where(d < HARD, 0.0, rho[:, None] * (1 / d.clamp_min(HARD) - 1))
        return Turned(parts, T, h, y, hard, stiffness)

    def back(self, y: Tensor) -> Tensor:
        """Duals in the basis of eigenvectors as duals of the rows."""
        for part in self.parts:
            y[:, part.first : part.last] = part.turn_back(y[:, part.first : part.last])
        return y


def improve(basis: Basis, v: Tensor, g: Tensor, h: Tensor, rho: Tensor, attempt: int) -> Tensor:
    """States of ADMM nearer to a fixed point, where Newton steps find any; the given ones elsewhere.

    Parameters
    ----------
    basis : Basis
    v, h : Tensor, shape (rows, inequalities)
    g : Tensor, shape (rows, unknowns)
    rho : Tensor, shape (rows,)
    attempt : int
        Which attempt it is; the regularization depends on it.
    """
    amount = REGULARIZATION[attempt % len(REGULARIZATION)]
    v, first = _follow(basis, v, g, h, rho)
    best, least = v.clone(), ENOUGH * first
    # Rows with few entries in the system come together, so that little is padded.
    held, order = basis.within(v, h).ne(v).sum(1).sort()
    entries = max(1, (int(basis.weak.sum()) + int(held[-1])) ** 2, 0 if basis.cones.linear else basis.T.numel())
    for group in order.split(max(1, (GROUP_ENTRIES if v.device.type == "cpu" else 64 * GROUP_ENTRIES) // entries)):
        live, at = group, v[group]
        for _ in range(STEPS):
            at = _step(basis, at, g[live], h[live], rho[live], amount)
            here, before = distance(basis, at, g[live], h[live], rho[live]), least[live]
            better = here < before
            best[live[better]], least[live[better]] = at[better], here[better]
            share = here / (1 + at.norm(dim=1))
            arrived = (share < ROUNDING) | ((share < CLOSE) & (here > before / 2))
            going = (here < WILD * first[live]) & ~arrived
            live, at = live[going], at[going]
            if not len(live):
                break
    return best


def _follow(basis: Basis, v: Tensor, g: Tensor, h: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """States as far along their next step as the distance does not grow, and the distances there.

    While the active set does not change, ADMM may go straight on for long, in small equal steps.
    """
    z = basis.within(v, h)
    step = basis.nearest(2 * z - v, g, rho) @ basis.transposed - z
    first = step.norm(dim=1)
    best, now, length = v, first, 1.0
    going = torch.ones_like(first, dtype=torch.bool)
    for _ in range(LENGTHENINGS):
        length *= 4
        there = v + length * step
        here = distance(basis, there, g, h, rho)
        going = going & (here <= first * (1 + CLOSE)) & (there.norm(dim=1) <= FARTHEST * (1 + h.norm(dim=1)))
        if not bool(going.any()):
            break
        best, now = torch.where(going[:, None], there, best), torch.where(going, here, now)
    return best, now


def distance(basis: Basis, v: Tensor, g: Tensor, h: Tensor, rho: Tensor) -> Tensor:
    """How far one step of ADMM moves each row; infinite where it is not a number."""
    z = basis.within(v, h)
    moved = basis.nearest(2 * z - v, g, rho) @ basis.transposed - z
    return moved.norm(dim=1).nan_to_num(torch.inf, torch.inf)


def _step(basis: Basis, v: Tensor, g: Tensor, h: Tensor, rho: Tensor, amount: float) -> Tensor:
    """One Newton step from the point that a plain ADMM step leads to."""
    z = basis.within(v, h)
    c = basis.nearest(2 * z - v, g, rho)
    v = c @ basis.transposed + v - z
    turned = Turned.of(basis, h - v, h, rho[:, None] * (v - basis.within(v, h)), rho)
    c, y = _solve(basis, turned, c, g, amount)
    return c @ basis.transposed + turned.back(y) / rho[:, None]


def _solve(basis: Basis, turned: Turned, c: Tensor, g: Tensor, amount: float) -> tuple[Tensor, Tensor]:
    """Unknowns and duals, in the basis of eigenvectors, that solve the regularized linear system."""
    hard, weak, size = turned.hard, basis.weak, int(basis.weak.sum())
    places = torch.argsort(hard.to(torch.int8), dim=1, descending=True, stable=True)[:, : int(hard.sum(1).max())]
    real = torch.gather(hard, 1, places)
    sides, y = (torch.gather(rows, 1, places) * real for rows in (turned.h, turned.y))
    system = g.new_zeros(len(g), size + places.shape[1], size + places.shape[1])
    if size < len(weak):
        strong, compliance = basis.compliance
        among = compliance[places[:, :, None], places[:, None]]
        system[:, size:, size:] = torch.where(real[:, :, None] & real[:, None], -among, 0.0)
        sides += torch.gather(g[:, ~weak] @ strong.T, 1, places) * real
    pull = g[:, weak]
    if turned.stiffness is not None:
        system[:, :size, :size] = (turned.T * turned.stiffness[..., None]).mT @ turned.T
        pull = pull - ((turned.stiffness * turned.h)[:, None] @ turned.T)[:, 0]
    sent = _rows(turned.T, places)[..., weak] * real[..., None]
    system[:, size:, :size], system[:, :size, size:] = sent, sent.mT
    diagonal = torch.diagonal(system, dim1=1, dim2=2)
    diagonal[:, :size] += basis.p[weak] + amount
    diagonal[:, size:] -= torch.where(real, amount, 1.0)
    factors, pivots, _ = torch.linalg.lu_factor_ex(system)
    part = c[:, weak]
    for _ in range(REFINEMENTS if amount == REGULARIZATION[0] else 1):
        wanted = torch.cat([amount * part - pull, sides - amount * y], 1)
        found = torch.linalg.lu_solve(factors, pivots, wanted[..., None])[..., 0]
        part, y = found[:, :size], found[:, size:]
    return _whole(basis, turned, part, torch.zeros_like(turned.h).scatter(1, places, y * real), g)


def _whole(basis: Basis, turned: Turned, part: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """All unknowns and all duals, from those of the system."""
    weak = basis.weak
    if turned.stiffness is not None:
        return part, y + turned.stiffness * ((turned.T @ part[..., None])[..., 0] - turned.h)
    c = -(g + y @ basis.T) / torch.where(weak, 1.0, basis.p)
    c[:, weak] = part
    return c, y


def _rows(T: Tensor, places: Tensor) -> Tensor:
    return T[places] if T.ndim == 2 else torch.gather(T, 1, places[..., None].expand(-1, -1, T.shape[2]))
