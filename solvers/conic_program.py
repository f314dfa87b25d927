"""A batch of conic programs of one form, as solvers see them.

    minimize    1/2 x'P x + q'x + d        subject to   A x + s = b,   s in K

K is a product of cones in the order of the rows: zero, nonnegative, second-order, positive semidefinite (upper
triangle by columns, off-diagonal entries times sqrt 2), exponential (x, y, z with y exp(x / y) <= z), power. y in
the dual cone K* is the dual of the rows; optimal where P x + q + A'y = 0, s in K, y in K* and s'y = 0. The gap
x'Px + q'x + b'y is then zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .matrix import Matrix


@dataclass(frozen=True)
class Cones:
    """Sizes of the cones of the rows, in their order.

    Attributes
    ----------
    zero, nonnegative : int
        Numbers of rows.
    second_order : tuple of int
        Rows of each second-order cone, (t, x) with |x| <= t.
    semidefinite : tuple of int
        Order of the matrix of each cone; k (k + 1) / 2 rows.
    exponential : int
        Number of cones, three rows each.
    power : tuple of float
        Exponent of each three-dimensional power cone, three rows each.
    others : str
        Names of further cones, which no engine here takes; empty where there are none.
    """

    zero: int = 0
    nonnegative: int = 0
    second_order: tuple[int, ...] = ()
    semidefinite: tuple[int, ...] = ()
    exponential: int = 0
    power: tuple[float, ...] = ()
    others: str = ""

    @property
    def linear(self) -> bool:
        """Whether there are zero and nonnegative rows alone."""
        return not (self.second_order or self.semidefinite or self.exponential or self.power or self.others)

    @property
    def rows(self) -> int:
        """Rows in all."""
        triangles = sum(order * (order + 1) // 2 for order in self.semidefinite)
        return self.zero + self.nonnegative + sum(self.second_order) + triangles + 3 * (
            self.exponential + len(self.power)
        )  # fmt: skip

    def __str__(self) -> str:
        counted = {
            "equalities": self.zero,
            "inequalities": self.nonnegative,
            "second-order cones": len(self.second_order),
            "semidefinite cones": len(self.semidefinite),
            "exponential cones": self.exponential,
            "power cones": len(self.power),
        }
        parts = [f"{count} {_singular(name) if count == 1 else name}" for name, count in counted.items() if count]
        return ", ".join([*parts, *([self.others] if self.others else [])]) or "no constraints"


def _singular(name: str) -> str:
    return name.replace("ities", "ity").removesuffix("s")


@dataclass(frozen=True)
class ConicProgram:
    """A batch of conic programs of one form; see the module for the mathematics.

    Attributes
    ----------
    P, A : Matrix
        P (n, n), symmetric, whole; A (m, n).
    q, b : Tensor, shapes (batch, n) and (batch, m)
        A length of 1 stands for the whole batch.
    offset : Tensor, shape (batch,)
        The constant d; a length of 1 stands for the whole batch.
    cones : Cones
    batch : int
    """

    P: Matrix
    q: Tensor
    A: Matrix
    b: Tensor
    offset: Tensor
    cones: Cones
    batch: int

    @property
    def shared(self) -> bool:
        """Whether the batch shares P and A."""
        return self.P.shared and self.A.shared

    def take(self, places: Tensor) -> ConicProgram:
        """The programs of some instances."""

        def pick(rows: Tensor) -> Tensor:
            return rows if len(rows) == 1 and self.batch > 1 else rows[places]

        return ConicProgram(
            self.P.take(places), pick(self.q), self.A.take(places), pick(self.b), pick(self.offset),
            self.cones, len(places),
        )  # fmt: skip


@dataclass(frozen=True)
class Points:
    """What an engine gives back for a batch of conic programs.

    Attributes
    ----------
    x, y : Tensor, shapes (batch, n) and (batch, m)
        Primal and dual points. Where `claim` says INFEASIBLE, y is the ray that shows it; where UNBOUNDED, x is.
    iterations : Tensor of int64, shape (batch,)
    claim : Tensor of int64, shape (batch,)
        POINT, INFEASIBLE, UNBOUNDED or NOTHING. Residuals decide what is believed.
    state : dict of Tensor
        What the engine wants to see again as a warm start, batch axis first.
    """

    x: Tensor
    y: Tensor
    iterations: Tensor
    claim: Tensor
    state: dict[str, Tensor]


POINT, INFEASIBLE, UNBOUNDED, NOTHING = range(4)
"""An engine's claim about an instance."""


def no_points(program: ConicProgram) -> Points:
    """Points to be filled in: NaN, with the claim NOTHING."""
    like = program.q
    m, n = program.A.shape
    return Points(
        like.new_full((program.batch, n), torch.nan),
        like.new_full((program.batch, m), torch.nan),
        torch.zeros(program.batch, dtype=torch.int64, device=like.device),
        torch.full((program.batch,), NOTHING, dtype=torch.int64, device=like.device),
        {},
    )
