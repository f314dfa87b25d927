"""Coordinates in which ADMM on programs with shared matrices costs two products with one matrix.

Rows and columns of the reduced program are scaled to entries of size one, a second-order cone by one number. The
equalities are solved for once, x = x0 + N w with A_eq N = 0. In w the Hessian and the Gram matrix of the inequalities
are made diagonal together: with x = x0 + U c and A the scaled inequalities,

    U'P U = diag(p),    U'A'A U = diag(r),    p + r = 1,

so that (P + rho A'A)^-1 is U diag(1 / (p + rho r)) U' for every rho: each instance has its own, without a new
factorization. The program in c is

    minimize    1/2 c'diag(p) c + g'c     subject to     T c <= h  in the order of K,      T = A U .

Scaling: Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", RAL-TR-2001-034 (2001).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from .cone_points import into_cone
from .conic_program import Cones
from .elimination import Reduction

SCALINGS = 15
DEPENDENT = 1e-9
"""Equalities with singular values below this share of the largest follow from the others."""
FLAT = 1e-12
"""Directions in which Hessian and Gram matrix together are below this share of their largest have no influence."""
CURVED = 1e-3


@dataclass(frozen=True)
class Basis:
    """The coordinates c of a reduced program.

    Attributes
    ----------
    P, A : Tensor
        Matrices of the reduced program, (n, n) and (m, n).
    cones : Cones
        Those of the inequalities, which follow the ``equalities`` first rows.
    equalities : int
    directions : Tensor, shape (n, unknowns)
        U: x = x0 + U c.
    particular : Tensor, shape (n, equalities)
        x0 of the right sides of the equalities.
    contradictions : Tensor, shape (equalities, equalities)
        Of right sides that no x meets, minus a ray which shows it; zero of all others.
    flat : Tensor, shape (n, flat)
        Orthonormal directions without any influence on Hessian and constraints.
    scales : Tensor, shape (inequalities,)
        Factors of the inequalities.
    T : Tensor, shape (inequalities, unknowns)
    transposed : Tensor, shape (unknowns, inequalities)
        T', contiguous.
    p, r : Tensor, shape (unknowns,)
    """

    P: Tensor
    A: Tensor
    cones: Cones
    equalities: int
    directions: Tensor
    particular: Tensor
    contradictions: Tensor
    flat: Tensor
    scales: Tensor
    T: Tensor
    transposed: Tensor
    p: Tensor
    r: Tensor

    @staticmethod
    def of(reduction: Reduction) -> Basis:
        """Find the coordinates of a reduced program with shared matrices."""
        P, A, equalities = reduction.P, reduction.A, reduction.cones.zero
        columns, rows = equilibrate(P, A, reduction.cones)
        tied = rows[:equalities, None] * A[:equalities] * columns
        left, sizes, right = torch.linalg.svd(tied)
        rank = int((sizes > DEPENDENT * _largest(sizes)).sum())
        particular = columns[:, None] * (right[:rank].T / sizes[:rank]) @ left[:, :rank].T * rows[:equalities]
        against = left[:, rank:] * rows[:equalities, None]
        free = columns[:, None] * right[rank:].T
        sides = rows[equalities:, None] * A[equalities:]
        curved = _cleaned(free.T @ P @ free, columns[:, None] * P * columns)
        image = _cleaned(sides @ free, sides * columns)
        # Both parts get the same weight, so that rho = 1 is a good first guess.
        weight = _ratio(curved.trace(), (image * image).sum())
        image, scales = weight**0.5 * image, weight**0.5 * rows[equalities:]
        turned, flat = _diagonalize(curved, image.T @ image)
        directions, T = free @ turned, image @ turned
        p, r = (directions * (P @ directions)).sum(0).clamp_min(0), (T * T).sum(0)
        return Basis(
            P, A, replace(reduction.cones, zero=0), equalities, directions, particular, against @ against.T,
            _orthonormal(free @ flat), scales, T, T.T.contiguous(), p, r,
        )  # fmt: skip

    @cached_property
    def weak(self) -> Tensor:
        """Which unknowns stay in the linear systems of `admm_newton`.

        Those with so little curvature of their own that dividing by it would lose digits; all, where there are
        second-order cones, which give them curvature in common.
        """
        return self.p < CURVED if self.cones.linear else torch.ones_like(self.p, dtype=torch.bool)

    @cached_property
    def compliance(self) -> tuple[Tensor, Tensor]:
        """T / p in the other unknowns, and T / p T'."""
        strong = self.T[:, ~self.weak] / self.p[~self.weak]
        return strong, strong @ self.T[:, ~self.weak].T

    def vectors(self, q: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x0, g and h of reduced vectors q and b."""
        x0 = b[:, : self.equalities] @ self.particular.T
        g = (q + x0 @ self.P) @ self.directions
        return x0, g, (b[:, self.equalities :] - x0 @ self.A[self.equalities :].T) * self.scales

    def within(self, v: Tensor, h: Tensor) -> Tensor:
        """The nearest z with h - z in K."""
        return torch.minimum(v, h) if self.cones.linear else h - into_cone(h - v, self.cones)

    def nearest(self, mirrored: Tensor, g: Tensor, rho: Tensor) -> Tensor:
        """The c that minimizes ``1/2 c'diag(p) c + g'c + rho/2 |T c - mirrored|^2``, for every row."""
        rho = rho[:, None]
        return (rho * (mirrored @ self.T) - g) / (self.p + rho * self.r)

    def lower(self, x: Tensor, y: Tensor, x0: Tensor, rho: Tensor) -> Tensor:
        """The state v = T c + y / rho of a point of the reduced program."""
        sent = (x - x0) @ self.A[self.equalities :].T * self.scales
        return sent + y[:, self.equalities :] / self.scales / rho[:, None]

    def raise_ray(self, y: Tensor) -> Tensor:
        """A ray of the duals of all rows of the reduced program, from one of the scaled inequalities."""
        own = y * self.scales
        return torch.cat([-(own @ self.A[self.equalities :]) @ self.particular, own], 1)


def equilibrate(P: Tensor, A: Tensor, cones: Cones) -> tuple[Tensor, Tensor]:
    """Scales of columns and rows that bring the largest entries of all to one; rows of one cone share theirs."""
    columns, rows = P.new_ones(P.shape[0]), P.new_ones(A.shape[0])
    if not len(columns):
        return columns, rows
    for _ in range(SCALINGS):
        scaled = rows[:, None] * A * columns
        sizes = (columns[:, None] * P * columns).abs().amax(0)
        if len(rows):
            sizes = torch.maximum(sizes, scaled.abs().amax(0))
        columns, rows = columns / _root(sizes), rows / _root(_of_cones(scaled.abs().amax(1), cones))
    return columns, rows


def _root(sizes: Tensor) -> Tensor:
    return torch.where(sizes > 0, sizes, 1.0).sqrt()


def _of_cones(sizes: Tensor, cones: Cones) -> Tensor:
    """The largest entry of each second-order cone, for all of its rows."""
    first, sizes = cones.zero + cones.nonnegative, sizes.clone()
    for size, group in groupby(cones.second_order):
        last = first + size * len(list(group))
        sizes[first:last] = sizes[first:last].reshape(-1, size).amax(1, keepdim=True).expand(-1, size).reshape(-1)
        first = last
    return sizes


def _diagonalize(curved: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Columns that make both matrices diagonal with a sum of one, and a basis of what both send to zero."""
    sizes, vectors = torch.linalg.eigh(curved + gram)
    kept = sizes > FLAT * _largest(sizes)
    whitened = vectors[:, kept] / sizes[kept].sqrt()
    small = whitened.T @ gram @ whitened
    return whitened @ torch.linalg.eigh((small + small.T) / 2)[1], vectors[:, ~kept]


def _cleaned(part: Tensor, whole: Tensor) -> Tensor:
    """What is left of a matrix in some directions, without rounding."""
    return torch.where(part.abs() <= FLAT * _largest(whole.abs().flatten()), 0.0, part)


def _orthonormal(columns: Tensor) -> Tensor:
    return torch.linalg.qr(columns)[0] if columns.shape[1] else columns


def _largest(sizes: Tensor) -> Tensor:
    return sizes.amax() if len(sizes) else sizes.new_zeros(())


def _ratio(above: Tensor, below: Tensor) -> float:
    return float(above / below) if float(above) > 0 and float(below) > 0 else 1.0
