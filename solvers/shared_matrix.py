"""A sparse matrix that a whole batch shares, and its products with the rows of a batch.

What cvxpy writes is a dense block or two (the user's matrices) among pieces of diagonals (the identities that tie its
variables). Both are multiplied as what they are; only what is neither goes through compressed rows.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

DENSE_ROW = 8
"""Rows with more entries than this are multiplied as a dense block."""
DENSE_SHARE = 0.25
"""A block with at least this share of nonzeros is multiplied densely."""
MOST_KEPT, MOST_BLOCKS = 2**22, 64
"""Entries of the blocks of a matrix that are kept, and how many blocks."""
MOST_RUNS, SHORTEST_RUNS = 12, 16
"""Pieces of diagonals are taken one by one where they are few, and long on average."""

Span = slice | Tensor


@dataclass(frozen=True)
class SharedMatrix:
    """A sparse matrix that a whole batch shares.

    Attributes
    ----------
    rows, columns : Tensor of int64, shape (entries,)
        Places of the entries.
    values : Tensor, shape (entries,)
    shape : tuple of int
    blocks : dict
        Dense blocks that were asked for; batch after batch wants the same.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]
    blocks: dict[tuple[int, int], Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    def times(self, x: Tensor) -> Tensor:
        """``x S'``: S times every row of x, (batch, columns) -> (batch, rows)."""
        return self._forward.times(x)

    def transposed_times(self, y: Tensor) -> Tensor:
        """``y S``: S' times every row of y, (batch, rows) -> (batch, columns)."""
        return self._backward.times(y)

    def dense(self) -> Tensor:
        """The whole matrix."""
        return self.values.new_zeros(self.shape).index_put((self.rows, self.columns), self.values, accumulate=True)

    def block(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, bool]:
        """The dense block of some rows and columns, which must not be written to, and whether it is zero."""
        key = id(rows), id(columns)
        if key not in self.blocks:
            kept = sum(block.numel() for _, (block, _) in self.blocks.values())
            if kept + len(rows) * len(columns) > MOST_KEPT or len(self.blocks) >= MOST_BLOCKS:
                self.blocks.clear()
            down = places_among(self.rows, rows, self.shape[0])
            across = places_among(self.columns, columns, self.shape[1])
            inside = (down >= 0) & (across >= 0)
            block = self.values.new_zeros(len(rows), len(columns)).index_put(
                (down[inside], across[inside]), self.values[inside], accumulate=True
            )
            # The index tensors are kept with the block, so that their identity stays theirs.
            self.blocks[key] = (rows, columns), (block, not bool(block.any()))
        found: tuple[Tensor, bool] = self.blocks[key][1]
        return found

    @cached_property
    def _forward(self) -> _Product:
        return _Product.of(self.rows, self.columns, self.values, self.shape, self._dense_entries)

    @cached_property
    def _backward(self) -> _Product:
        flipped = self.shape[1], self.shape[0]
        return _Product.of(self.columns, self.rows, self.values, flipped, self._dense_entries)

    @cached_property
    def _dense_entries(self) -> Tensor:
        """Which entries belong to the dense block: those of rows with many, where they fill their block."""
        lengths = torch.bincount(self.rows, minlength=self.shape[0])
        chosen: Tensor = lengths[self.rows] > DENSE_ROW
        rows, columns = self.rows[chosen].unique(), self.columns[chosen].unique()
        if int(chosen.sum()) < DENSE_SHARE * len(rows) * len(columns):
            return torch.zeros_like(chosen)
        return chosen


@dataclass(frozen=True)
class _Run:
    """A piece of a diagonal with one value."""

    row: int
    column: int
    length: int
    value: float


@dataclass(frozen=True)
class _Product:
    """The product of one matrix with rows: a dense block, and the rest as pieces of diagonals or compressed rows."""

    rows: int
    block: tuple[Tensor, Span, Span] | None
    runs: tuple[_Run, ...]
    rest: Tensor | None

    @staticmethod
    def of(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], dense: Tensor) -> _Product:
        block = None
        if bool(dense.any()):
            down, row_places = rows[dense].unique(return_inverse=True)
            across, column_places = columns[dense].unique(return_inverse=True)
            empty = values.new_zeros(len(across), len(down))
            filled = empty.index_put((column_places, row_places), values[dense], accumulate=True)
            block = filled, span(down), span(across)
        parts = rows[~dense], columns[~dense], values[~dense]
        runs = _runs(*parts)
        rest = None if runs is not None else compressed(*parts, shape)
        return _Product(shape[0], block, runs or (), rest)

    def times(self, x: Tensor) -> Tensor:
        product = x.new_zeros(len(x), self.rows) if self.rest is None else (self.rest @ x.T).T
        if self.block is not None:
            matrix, rows, columns = self.block
            product[:, rows] += x[:, columns] @ matrix
        for run in self.runs:
            here = product[:, run.row : run.row + run.length]
            here.add_(x[:, run.column : run.column + run.length], alpha=run.value)
        return product


def _runs(rows: Tensor, columns: Tensor, values: Tensor) -> tuple[_Run, ...] | None:
    """All entries as pieces of diagonals; None where these are many or short."""
    if not len(rows):
        return ()
    r, c, v = (part.cpu().numpy() for part in (rows, columns, values))
    order = np.lexsort((r, c - r))
    r, c, v = r[order], c[order], v[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(r) != 1) | (np.diff(c) != 1) | (np.diff(v) != 0)])
    if len(starts) > MOST_RUNS or len(r) < SHORTEST_RUNS * len(starts):
        return None
    lengths = np.diff(np.r_[starts, len(r)])
    pieces = zip(r[starts], c[starts], lengths, v[starts], strict=True)
    return tuple(_Run(int(row), int(column), int(length), float(value)) for row, column, length, value in pieces)


def places_among(entries: Tensor, chosen: Tensor, size: int) -> Tensor:
    """Place of every entry's index among the chosen ones; -1 where it is not among them."""
    places = torch.full((size,), -1, dtype=torch.int64, device=entries.device)
    places[chosen] = torch.arange(len(chosen), device=entries.device)
    return places[entries]


def span(places: Tensor) -> slice | Tensor:
    """A run of consecutive indices as a slice, which is a view and costs nothing; other indices as they are."""
    if len(places) and bool((torch.diff(places) == 1).all()):
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def compressed(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A torch matrix in compressed sparse rows; entries that share a place add up."""
    made = sp.csr_array((values.cpu().numpy(), (rows.cpu().numpy(), columns.cpu().numpy())), shape)
    pointers, places, entries = (torch.as_tensor(np.asarray(part)) for part in (
        made.indptr.astype(np.int64), made.indices.astype(np.int64), made.data
    ))  # fmt: skip
    with warnings.catch_warnings():
        # torch says once that its compressed rows are in beta; the products used here are tested.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        return torch.sparse_csr_tensor(pointers, places, entries, shape, check_invariants=False).to(values.device)
