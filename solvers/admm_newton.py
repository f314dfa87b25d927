"""Newton steps on the fixed points of ADMM, for rows that take long; on linear programs they are active-set steps.

With v = T c + y / rho the point (c, y) is optimal where  p c + g + T'y = 0  and  T c = z(v), the nearest point with
h - z in K. D, the derivative of z, leaves of the second equation

    (I - D) T c - D y / rho = z - D v .

Rows with D = I have y = 0 and leave the system; so do unknowns with a curvature p that is not small. What remains is
regularized as by the proximal method of multipliers. Steps are kept where the distance to a fixed point, which ADMM
itself never increases, falls.

Source: Xiao, Li, Wen & Zhang, "A regularized semi-smooth Newton method with projection steps for composite convex
programs", J. Sci. Comput. 76 (2018); Rockafellar, "Augmented Lagrangians and applications of the proximal point
algorithm in convex programming", Math. Oper. Res. 1 (1976).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .admm_basis import Basis
from .cone_derivatives import curved_derivatives

REGULARIZATION = (1e-10, 1e-4, 1e-3, 1e-2)
"""Tried in turn: almost none is quick near the solution, more leads there where active sets are hard to find."""
STEPS, REFINEMENTS = 10, 3
WILD = 1e4
"""Growth of the distance at which steps are given up; until then the active set may still settle."""
CLOSE = 1e-9
"""Relative to the state: distances below it that shrink no more are rounding and regularization."""
ENOUGH = 0.9
"""Share of the distance to which steps have to come down."""
GROUP_ENTRIES = 2**20


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
    first = distance(basis, v, g, h, rho)
    best, least = v.clone(), ENOUGH * first
    # Rows with few entries in the system come together, so that little is padded.
    order = torch.argsort(basis.within(v, h).ne(v).sum(1))
    for group in order.split(max(1, GROUP_ENTRIES // (sum(basis.T.shape) ** 2))):
        live, at = group, v[group]
        for _ in range(STEPS):
            at = _step(basis, at, g[live], h[live], rho[live], amount)
            here = distance(basis, at, g[live], h[live], rho[live])
            before = least[live]
            better = here < before
            best[live[better]], least[live[better]] = at[better], here[better]
            arrived = (here < CLOSE * (1 + at.norm(dim=1))) & (here > before / 2)
            going = (here < WILD * first[live]) & (here > 0) & ~arrived
            live, at = live[going], at[going]
            if not len(live):
                break
    return best


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
    z = basis.within(v, h)
    held, bend = _held_rows(basis, h - v)
    places = torch.argsort(held.to(torch.int8), dim=1, descending=True, stable=True)[:, : int(held.sum(1).max())]
    real = torch.gather(held, 1, places)
    e = torch.gather(z if bend is None else z - (bend @ v[..., None])[..., 0], 1, places)
    y = torch.gather(rho[:, None] * (v - z), 1, places) * real
    if bend is not None:
        bend = torch.gather(bend, 1, places[:, :, None].expand(-1, -1, bend.shape[2]))
        bend = torch.gather(bend, 2, places[:, None].expand(-1, places.shape[1], -1))
    y, c = _solve(basis, c, y, g, e, places, real, bend, rho, amount)
    spread = torch.zeros_like(v).scatter(1, places, y)
    weak = basis.weak
    rest = -(g + spread @ basis.T) / torch.where(weak, 1.0, basis.p)
    rest[:, weak] = c
    return rest @ basis.transposed + spread / rho[:, None]


def _held_rows(basis: Basis, s: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows where the derivative D of z is not the identity, and D where there are second-order cones."""
    if basis.cones.linear:
        return s <= 0, None
    linear = basis.cones.nonnegative
    D = torch.diag_embed((s > 0).to(s))
    D[:, linear:, linear:] = 0
    held = s <= 0
    for part in curved_derivatives(s, torch.zeros_like(s), basis.cones):
        count, size = part.values.shape[1:]
        blocks = (part.vectors * part.values[..., None, :]) @ part.vectors.mT
        rows = torch.arange(part.first, part.last, device=s.device).reshape(count, size)
        D[:, rows[:, :, None], rows[:, None, :]] = blocks
        held[:, part.first : part.last] = (part.values < 1).any(2, keepdim=True).expand(-1, -1, size).flatten(1)
    return held, D


def _solve(
    basis: Basis, c: Tensor, y: Tensor, g: Tensor, e: Tensor, places: Tensor, real: Tensor, bend: Tensor | None,
    rho: Tensor, amount: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Duals of the held rows, and the unknowns with little curvature."""
    weak, (strong, compliance) = basis.weak, basis.compliance
    size = int(weak.sum())
    among = compliance[places[:, :, None], places[:, None, :]] * (real[:, :, None] & real[:, None, :])
    sent = basis.T[:, weak][places] * real[..., None]
    fixed = torch.gather(g[:, ~weak] @ strong.T, 1, places) * real
    system = among.new_zeros(len(c), size + places.shape[1], size + places.shape[1])
    system[:, :size, size:] = sent.mT
    if bend is not None:
        # Rows of D among the held ones; D couples no held row with another.
        bend = bend * (real[:, :, None] & real[:, None, :])
        stiff = torch.eye(places.shape[1]).to(among) - bend
        sent, fixed = stiff @ sent, (stiff @ fixed[..., None])[..., 0]
        among = stiff @ among + bend / rho[:, None, None]
    system[:, size:, :size], system[:, size:, size:] = sent, -among
    diagonal = torch.diagonal(system, dim1=1, dim2=2)
    diagonal[:, :size] += basis.p[weak] + amount
    diagonal[:, size:] -= torch.where(real, amount, 1.0)
    factors, pivots, _ = torch.linalg.lu_factor_ex(system)
    c = c[:, weak]
    for _ in range(REFINEMENTS if amount == REGULARIZATION[0] else 1):
        wanted = torch.cat([amount * c - g[:, weak], e * real - amount * y + fixed], 1)
        found = torch.linalg.lu_solve(factors, pivots, wanted[..., None])[..., 0]
        c, y = found[:, :size], found[:, size:]
    return y * real, c
