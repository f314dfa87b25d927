"""Patterns of the matrices of a batch, as solvers of sparse programs want them.

All instances have one pattern, found once; what is left for an instance is a row of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .conic_program import ConicProgram
from .matrix import Matrix

MOST_VALUES = 4_000_000
"""Values of own matrices that are written out at a time."""


@dataclass(frozen=True)
class Layout:
    """The compressed sparse columns, or rows, of a matrix of a batch: one pattern for all instances.

    Attributes
    ----------
    pointers, indices : array of int
        As in scipy's compressed formats.
    base : Tensor, shape (entries,)
        Values of the part that the batch shares.
    own, places : Tensor of int64
        Which of the matrix's own entries are kept, and where in the values they go.
    dropped : Tensor of int64
        Own entries that were zero in all instances that the pattern was made from.
    shape : tuple of int
    """

    pointers: np.ndarray
    indices: np.ndarray
    base: Tensor
    own: Tensor
    places: Tensor
    dropped: Tensor
    shape: tuple[int, int]

    def holds(self, matrix: Matrix) -> bool:
        """Whether a matrix has no entries outside of the pattern."""
        return matrix.own is None or not bool(matrix.own.values[:, self.dropped.to(matrix.own.values.device)].any())

    def values(self, matrix: Matrix) -> np.ndarray:
        """Values of a matrix with this pattern: (entries,) where it is shared, else (batch, entries)."""
        if matrix.own is None:
            return self.base.numpy()
        own = matrix.own.values.detach().cpu()
        kept = own if len(self.own) == own.shape[1] else own[:, self.own]
        return self.base.repeat(len(own), 1).index_add_(1, self.places, kept).numpy()

    def rows(self, matrix: Matrix) -> Iterator[np.ndarray]:
        """The values of one instance after the other, written out for a few at a time; endless where it is shared."""
        if matrix.own is None:
            yield from repeat(self.base.numpy())
            return
        for part in torch.arange(len(matrix.own.values)).split(max(1, MOST_VALUES // max(1, len(self.base)))):
            yield from self.values(matrix.take(part))

    def columns(self, values: np.ndarray) -> sp.csc_matrix:
        """One instance as a matrix of scipy."""
        return sp.csc_matrix((values, self.indices, self.pointers), self.shape)


def lay_out(
    matrix: Matrix,
    *,
    upper: bool = False,
    by_rows: bool = False,
    narrow: bool = False,
    new_rows: np.ndarray | None = None,
) -> Layout:
    """The pattern of a matrix, for one solver.

    Parameters
    ----------
    matrix : Matrix
    upper : bool
        Whether the upper triangle alone is kept.
    by_rows : bool
        Whether rows are compressed, not columns.
    narrow : bool
        Whether own entries that are zero in all these instances are left out (`Layout.holds` tells of others whether
        they fit). A parameter that is a triangular factor is half zeros, and solvers of sparse programs gain from it.
    new_rows : array of int, shape (rows,), or None
        Where each row goes; None where all stay.
    """
    height, width = matrix.shape
    common, own = matrix.common, matrix.own
    rows, columns = common.rows.cpu().numpy(), common.columns.cpu().numpy()
    if own is not None:
        rows, columns = np.r_[rows, own.rows.cpu().numpy()], np.r_[columns, own.columns.cpu().numpy()]
    rows = rows if new_rows is None else new_rows[rows]
    fixed = common.values.detach().cpu().to(torch.float64).numpy()
    varying = np.ones(len(rows) - len(fixed), bool)
    if own is not None and narrow:
        varying = (own.values != 0).any(0).cpu().numpy()
    present = np.concatenate([fixed != 0, varying])
    inside = rows <= columns if upper else np.ones(len(rows), bool)
    kept = np.flatnonzero(present & inside)
    keys = rows * width + columns if by_rows else columns * height + rows
    found, places = np.unique(keys[kept], return_inverse=True)
    major, minor = np.divmod(found, width if by_rows else height)
    shared = kept < len(fixed)
    base = np.bincount(places[shared], fixed[kept[shared]], len(found)).astype(float)
    return Layout(
        np.searchsorted(major, np.arange((height if by_rows else width) + 1)), minor, torch.as_tensor(base),
        torch.as_tensor(kept[~shared] - len(fixed)), torch.as_tensor(places[~shared]),
        torch.as_tensor(np.flatnonzero(~varying)), matrix.shape,
    )  # fmt: skip


@dataclass(frozen=True)
class Layouts:
    """The patterns of both matrices of a batch of programs, for one solver.

    Attributes
    ----------
    P, A : Layout
    """

    P: Layout
    A: Layout

    def hold(self, program: ConicProgram) -> bool:
        """Whether the programs have no entries outside of the patterns."""
        return self.P.holds(program.P) and self.A.holds(program.A)

    def instances(self, program: ConicProgram) -> Iterator[dict[str, np.ndarray]]:
        """P, q, A and b of one instance after the other, matrices as their values."""
        rows = (self.P.rows(program.P), vectors(program)[0], self.A.rows(program.A), vectors(program)[1])
        # The rows of a shared matrix have no end.
        for P, q, A, b in zip(*rows, strict=False):
            yield {"P": P, "q": q, "A": A, "b": b}


def layouts(
    program: ConicProgram, *, narrow: bool = False, by_rows: bool = False, new_rows: np.ndarray | None = None
) -> Layouts:
    """The patterns of P (its upper triangle, unless by rows) and A; see `lay_out`."""
    return Layouts(
        lay_out(program.P, upper=not by_rows, by_rows=by_rows, narrow=narrow),
        lay_out(program.A, by_rows=by_rows, narrow=narrow, new_rows=new_rows),
    )


def vectors(program: ConicProgram) -> tuple[np.ndarray, np.ndarray]:
    """q and b of all instances, (batch, n) and (batch, m)."""
    q, b = (part.detach().to("cpu", torch.float64).numpy() for part in (program.q, program.b))
    m, n = program.A.shape
    return np.broadcast_to(q, (program.batch, n)), np.broadcast_to(b, (program.batch, m))
