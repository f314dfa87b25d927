"""Sparse matrices of a batch: one pattern, a part that all instances share, and entries of their own.

What does not vary over the batch stays unbatched: sharing is what the fast engines live on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from .shared_matrix import SharedMatrix, places_among, span
from .tensors import times_own

MOST_LAYOUTS = 64
DENSE_SHARE = 0.25
"""A block with at least this share of nonzeros is multiplied densely."""


@dataclass(frozen=True)
class OwnEntries:
    """Entries that every instance of a batch has of its own, at distinct places.

    Attributes
    ----------
    rows, columns : Tensor of int64, shape (entries,)
    values : Tensor, shape (batch, entries)
    shape : tuple of int
    layouts : dict
        What is found out about the pattern; entries of one pattern may share it.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]
    layouts: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def times(self, x: Tensor) -> Tensor:
        """Every instance's entries times its own row of x."""
        result = x.new_zeros(len(self.values), self.shape[0])
        if self._block is None:
            return result.index_add_(1, self.rows, self.values * x[:, self.columns])
        block, rows, columns = self._block
        return result.index_copy_(1, rows, times_own(block, x[:, columns]))

    def transposed_times(self, y: Tensor) -> Tensor:
        """Every instance's entries, transposed, times its own row of y."""
        result = y.new_zeros(len(self.values), self.shape[1])
        if self._block is None:
            return result.index_add_(1, self.columns, self.values * y[:, self.rows])
        block, rows, columns = self._block
        return result.index_copy_(1, columns, times_own(block.mT, y[:, rows]))

    @cached_property
    def _block(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """A dense block (batch, rows, columns), where the entries fill one."""
        if "whole" not in self.layouts:
            rows, row_places = self.rows.unique(return_inverse=True)
            columns, column_places = self.columns.unique(return_inverse=True)
            self.layouts["whole"] = rows, columns, Filling.of(row_places, column_places, (len(rows), len(columns)))
        rows, columns, filling = self.layouts["whole"]
        if not filling.size or self.values.shape[1] < DENSE_SHARE * filling.size:
            return None
        return filling.block(self.values), rows, columns

    def inside(self, rows: Tensor, columns: Tensor) -> tuple[Tensor | None, Filling]:
        """Which entries are in the block of some rows and columns (None: all), and how they fill it."""
        key = id(rows), id(columns)
        if key not in self.layouts:
            if len(self.layouts) >= MOST_LAYOUTS:
                self.layouts.clear()
            down = places_among(self.rows, rows, self.shape[0])
            across = places_among(self.columns, columns, self.shape[1])
            chosen = (down >= 0) & (across >= 0)
            filling = Filling.of(down[chosen], across[chosen], (len(rows), len(columns)))
            every = None if bool(chosen.all()) else chosen.nonzero()[:, 0]
            # The index tensors are kept with what was found, so that their identity stays theirs.
            self.layouts[key] = (rows, columns), (every, filling)
        found: tuple[Tensor | None, Filling] = self.layouts[key][1]
        return found


@dataclass(frozen=True)
class Filling:
    """Where entries stand in a dense block: its shape, their places row by row, and whether they fill it in order.

    `order` is "rows" or "columns" where they do, one after the other, and empty where they do not.
    """

    shape: tuple[int, int]
    places: Tensor
    order: str

    @property
    def size(self) -> int:
        """Entries of the block."""
        return self.shape[0] * self.shape[1]

    @staticmethod
    def of(rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Filling:
        """From the places of the entries in the block."""
        by_rows, by_columns = rows * shape[1] + columns, columns * shape[0] + rows
        full = len(rows) == shape[0] * shape[1]
        order = next((name for name, places in (("rows", by_rows), ("columns", by_columns))
                      if full and isinstance(span(places), slice)), "")  # fmt: skip
        return Filling(shape, by_rows, order)

    def block(self, values: Tensor) -> Tensor:
        """The block, (batch, rows, columns), of values (batch, entries); a view where they fill it in order."""
        height, width = self.shape
        if self.order == "columns":
            # A view, where copies of every instance's matrix would cost most.
            return values.reshape(-1, width, height).mT
        if self.order == "rows":
            return values.reshape(-1, height, width)
        return values.new_zeros(len(values), self.size).index_add_(1, self.places, values).reshape(-1, height, width)


@dataclass(frozen=True)
class Matrix:
    """A matrix for every instance of a batch: a shared part, and own entries where they vary.

    Attributes
    ----------
    common : SharedMatrix
    own : OwnEntries or None
        None where the whole batch shares the matrix. Own entries add to the common part.
    """

    common: SharedMatrix
    own: OwnEntries | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.common.shape

    @property
    def shared(self) -> bool:
        """Whether the batch shares the matrix."""
        return self.own is None

    def times(self, x: Tensor) -> Tensor:
        """The matrix times every row of x."""
        product = self.common.times(x)
        return product if self.own is None else product + self.own.times(x)

    def transposed_times(self, y: Tensor) -> Tensor:
        """The transposed matrix times every row of y."""
        product = self.common.transposed_times(y)
        return product if self.own is None else product + self.own.transposed_times(y)

    def absolute(self) -> Matrix:
        """The matrix of the sizes of the entries; for own entries that add to common ones, of both."""
        common = replace(self.common, values=self.common.values.abs())
        return Matrix(common, None if self.own is None else replace(self.own, values=self.own.values.abs()))

    def dense(self) -> Tensor:
        """Shape (rows, columns) where it is shared, else (batch, rows, columns)."""
        common = self.common.dense()
        if self.own is None:
            return common
        result = common.expand(len(self.own.values), -1, -1).clone()
        result[:, self.own.rows, self.own.columns] += self.own.values
        return result

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The dense block of some rows and columns; (batch, rows, columns) only where entries of it vary.

        It may be a view, and must not be written to.
        """
        common, empty = self.common.block(rows, columns)
        if self.own is None:
            return common
        chosen, filling = self.own.inside(rows, columns)
        if not len(filling.places):
            return common
        own = filling.block(self.own.values if chosen is None else self.own.values[:, chosen])
        return own if empty else own + common

    @property
    def _parts(self) -> list[SharedMatrix | OwnEntries]:
        return [self.common] if self.own is None else [self.common, self.own]

    def take(self, places: Tensor) -> Matrix:
        """The matrices of some instances."""
        if self.own is None:
            return self
        values = self.own.values[span(places)]
        own = OwnEntries(self.own.rows, self.own.columns, values, self.shape, self.own.layouts)
        return Matrix(self.common, own)

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and values in column-major order, as solvers of single programs want them.

        The values have shape (entries,) where the matrix is shared, else (batch, entries). Every place of the pattern
        is kept, whatever its value, so that all instances have one pattern.
        """
        rows, columns = (np.concatenate([getattr(part, name).cpu().numpy() for part in self._parts])
                         for name in ("rows", "columns"))  # fmt: skip
        places, inverse = np.unique(columns * self.shape[0] + rows, return_inverse=True)
        values = self.common.values.cpu().numpy()
        if self.own is not None:
            own = self.own.values.cpu().numpy()
            values = np.concatenate([np.broadcast_to(values, (len(own), len(values))), own], axis=1)
        # Adds up the entries that share a place.
        summed = sp.csr_array((np.ones(len(inverse)), (inverse, np.arange(len(inverse)))), (len(places), len(inverse)))
        return places % self.shape[0], places // self.shape[0], (summed @ values.T).T

