"""The adjoint systems of a batch of conic programs at their solutions, dense.

    P w + A'u = cost,        (I - D)(A w - side) = D u,

D the derivative of the projection onto the cone (cone_derivatives.py). With u = S û, S = (I - D)^(1/2), the system is
symmetric, [P, A'S; S A, -D], and quasi-definite. Rows with D = 1 have u = 0 and leave it; a held row with a single
entry gives its variable. What is left is solved by one factorization, slightly regularized, with refinement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cone_derivatives import Curved, curved_derivatives, held_rows
from .elimination import Reduction
from .tensors import times_own

REGULARIZATION = 1e-8
"""Added to the scaled system, and taken out again by refinement."""
REFINEMENTS = 3
SCALINGS = 5
RESIDUAL = 1e-9
"""Systems that refinement leaves with more than this, relative, are solved for the least norm."""
RANK = 1e-12
"""Relative size of the eigenvalues that count as zero there."""


@dataclass(frozen=True)
class AdjointSystem:
    """The adjoint systems of a batch of reduced programs.

    Attributes
    ----------
    P, A : Tensor
        (n, n) and (m, n), with a leading batch axis where entries vary.
    held : Tensor of bool, shape (batch, linear rows)
        Rows with D = 0, those with a single entry left out.
    curved : list of Curved
        D on the rows of the other cones.
    bounds, columns : Tensor of int64
        Linear rows with a single entry, and its column.
    owner : Tensor of int64, shape (batch, n)
        Which of them fixes a variable; -1 where none does.
    """

    P: Tensor
    A: Tensor
    held: Tensor
    curved: list[Curved]
    bounds: Tensor
    columns: Tensor
    owner: Tensor

    @staticmethod
    def of(reduced: Reduction, s: Tensor, y: Tensor) -> AdjointSystem:
        """The systems at points s of the cone with duals y, (batch, m)."""
        A, held = reduced.A, held_rows(s, y, reduced.cones)
        linear = held.shape[1]
        pattern = A[..., :linear, :] != 0
        pattern = pattern.any(0) if pattern.ndim == 3 else pattern
        bounds = (pattern.sum(1) == 1).nonzero()[:, 0]
        columns = pattern[bounds].int().argmax(1) if len(bounds) else bounds
        owner = torch.full((len(s), A.shape[-1]), -1, device=s.device)
        hit = held[:, bounds] & (A[..., bounds, columns] != 0)
        places = torch.where(hit, torch.arange(len(bounds), device=s.device), -1)
        owner = owner.scatter_reduce(1, columns.expand(len(s), -1), places, "amax")
        held[:, bounds] = False
        return AdjointSystem(reduced.P, A, held, curved_derivatives(s, y, reduced.cones), bounds, columns, owner)

    def solve(self, cost: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """w and u with P w + A'u = cost and (I - D)(A w - side) = D u."""
        fixed = self.owner >= 0
        w, u, owner = torch.zeros_like(cost), torch.zeros_like(side), self.owner.clamp_min(0)
        value = self.A[..., self.bounds, self.columns].expand(len(cost), -1)
        if len(self.bounds):
            w = torch.where(fixed, (side[:, self.bounds] / value).gather(1, owner), 0)
        variables, free = _first(~fixed)
        linear, kept = _first(self.held)
        rest = _times(self.A, w)
        K, sides, signs = self._matrix(variables, free, linear, kept, side - rest)
        costs = (cost - _times(self.P, w)).gather(1, variables) * free
        z = _solve_symmetric(K, torch.cat([costs, sides], 1), signs)
        f, k = variables.shape[1], linear.shape[1]
        w = w.scatter_add(1, variables, z[:, :f] * free)
        u = u.scatter_add(1, linear, z[:, f : f + k] * kept)
        place = f + k
        for part in self.curved:
            size = part.last - part.first
            turned = z[:, place : place + size] * (1 - part.values.flatten(1)).sqrt()
            u[:, part.first : part.last] = part.turn_back(turned)
            place += size
        if len(self.bounds):
            left = (cost - _times(self.P, w) - _times(self.A.mT, u)) * fixed
            of_variables = left / torch.where(fixed, value.gather(1, owner), 1)
            u[:, self.bounds] = torch.zeros_like(value).scatter_add(1, owner, of_variables)
        return w, u

    def _matrix(
        self, variables: Tensor, free: Tensor, linear: Tensor, kept: Tensor, side: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The symmetric matrices, the right sides of their rows below, and the signs of their blocks."""
        rows = [_pick(self.A, linear, variables) * kept[..., None]]
        sides = [side.gather(1, linear) * kept]
        diagonals = [(~kept).to(side)]
        for part in self.curved:
            scale = (1 - part.values.flatten(1)).sqrt()
            block = self.A[..., part.first : part.last, :].expand(len(side), -1, -1)
            turned = part.turn(block.gather(2, variables[:, None].expand(-1, block.shape[1], -1)))
            rows.append(turned * scale[..., None])
            sides.append(part.turn(side[:, part.first : part.last, None])[..., 0] * scale)
            diagonals.append(part.values.flatten(1))
        f = variables.shape[1]
        below, diagonal = torch.cat(rows, 1) * free[:, None], torch.cat(diagonals, 1)
        K = side.new_zeros(len(side), f + below.shape[1], f + below.shape[1])
        K[:, :f, :f] = _pick(self.P, variables, variables) * (free[:, None] & free[..., None])
        K[:, f:, :f], K[:, :f, f:] = below, below.mT
        torch.diagonal(K, dim1=1, dim2=2).add_(torch.cat([(~free).to(side), -diagonal], 1))
        signs = torch.cat([side.new_ones(f), -side.new_ones(below.shape[1])])
        return K, torch.cat(sides, 1), signs


def _first(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the chosen entries of every row, filled up to one length, and which of them are chosen."""
    most = int(chosen.sum(1).max()) if chosen.numel() else 0
    order = torch.argsort((~chosen).byte(), dim=1, stable=True)[:, :most]
    return order, chosen.gather(1, order)


def _pick(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Blocks (batch, rows, columns) of a matrix that is shared or of every instance's own."""
    if matrix.ndim == 2:
        return matrix[rows[:, :, None], columns[:, None, :]]
    instances = torch.arange(len(matrix), device=matrix.device)[:, None, None]
    return matrix[instances, rows[:, :, None], columns[:, None, :]]


def _times(matrix: Tensor, rows: Tensor) -> Tensor:
    return rows @ matrix.T if matrix.ndim == 2 else times_own(matrix, rows)


def _solve_symmetric(K: Tensor, sides: Tensor, signs: Tensor) -> Tensor:
    """Solve quasi-definite systems; singular ones for the least norm, after scaling, of the best solution."""
    if not K.numel():
        return torch.zeros_like(sides)
    scale = _equilibrium(K)
    scaled = K * scale[:, :, None] * scale[:, None, :]
    factors, pivots, _ = torch.linalg.lu_factor_ex(scaled + torch.diag(signs * REGULARIZATION))
    wanted = (sides * scale)[..., None]
    z, left = torch.zeros_like(wanted), wanted
    for _ in range(REFINEMENTS):
        z = z + torch.linalg.lu_solve(factors, pivots, left)
        left = wanted - scaled @ z
    bad = (~(left.abs().amax((1, 2)) <= RESIDUAL * wanted.abs().amax((1, 2)))).nonzero()[:, 0]
    if len(bad):
        sizes, vectors = torch.linalg.eigh(scaled[bad])
        nonzero = sizes.abs() > RANK * sizes.abs().amax(1, keepdim=True)
        inverse = torch.where(nonzero, 1 / torch.where(nonzero, sizes, 1), 0)
        z[bad] = vectors @ (inverse[..., None] * (vectors.mT @ wanted[bad]))
    return z[..., 0] * scale


def _equilibrium(K: Tensor) -> Tensor:
    """Scales that bring the largest entry of every row and column near one (Ruiz)."""
    sizes, scale = K.abs(), torch.ones_like(K[:, 0])
    for _ in range(SCALINGS):
        largest = sizes.amax(2)
        factor = torch.where(largest > 0, largest, torch.ones_like(largest)).rsqrt()
        sizes.mul_(factor[:, :, None]).mul_(factor[:, None, :])
        scale = scale * factor
    return scale
