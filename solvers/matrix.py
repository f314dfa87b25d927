"""Sparse matrices of a batch: one pattern, a part that all instances share, and entries of their own.

What does not vary over the batch stays unbatched: sharing is what the fast engines live on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
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
        return result.index_copy_(1, rows, times_own(block.mT, x[:, columns]))

    def transposed_times(self, y: Tensor) -> Tensor:
        """Every instance's entries, transposed, times its own row of y."""
        result = y.new_zeros(len(self.values), self.shape[1])
        if self._block is None:
            return result.index_add_(1, self.columns, self.values * y[:, self.rows])
        block, rows, columns = self._block
        return result.index_copy_(1, columns, times_own(block, y[:, rows]))

    @cached_property
    def _block(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """A dense block (batch, columns, rows), where the entries fill one."""
        if "whole" not in self.layouts:
            rows, row_places = self.rows.unique(return_inverse=True)
            columns, column_places = self.columns.unique(return_inverse=True)
            self.layouts["whole"] = rows, columns, span(column_places * len(rows) + row_places)
        rows, columns, places = self.layouts["whole"]
        count = len(rows) * len(columns)
        if not count or self.values.shape[1] < DENSE_SHARE * count:
            return None
        if isinstance(places, slice) and self.values.shape[1] == count:
            return self.values.reshape(-1, len(columns), len(rows)), rows, columns
        block = self.values.new_zeros(len(self.values), count)
        block[:, places] = self.values
        return block.reshape(-1, len(columns), len(rows)), rows, columns

    def inside(self, rows: Tensor, columns: Tensor) -> tuple[Tensor | None, Tensor, bool]:
        """Which entries are in the block of some rows and columns (None: all), and where; and whether they fill it.

        Places go by columns where the entries fill the block in that order, else by rows.
        """
        key = id(rows), id(columns)
        if key not in self.layouts:
            if len(self.layouts) >= MOST_LAYOUTS:
                self.layouts.clear()
            down, across = (places_among(*part) for part in (
                (self.rows, rows, self.shape[0]), (self.columns, columns, self.shape[1])
            ))  # fmt: skip
            chosen = (down >= 0) & (across >= 0)
            down, across = down[chosen], across[chosen]
            by_columns = across * len(rows) + down
            filled = len(down) == len(rows) * len(columns) and isinstance(span(by_columns), slice)
            every = None if bool(chosen.all()) else chosen.nonzero()[:, 0]
            # The index tensors are kept with what was found, so that their identity stays theirs.
            self.layouts[key] = (rows, columns), (every, by_columns if filled else down * len(columns) + across, filled)
        found: tuple[Tensor | None, Tensor, bool] = self.layouts[key][1]
        return found


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
        chosen, places, filled = self.own.inside(rows, columns)
        if not len(places):
            return common
        own = self.own.values if chosen is None else self.own.values[:, chosen]
        if filled and empty:
            # They are the block, column by column: a view, where copies of every instance's matrix would cost most.
            return own.reshape(-1, len(columns), len(rows)).mT
        if filled:
            return own.reshape(-1, len(columns), len(rows)).mT + common
        made = common.reshape(1, -1).repeat(len(own), 1)
        return made.index_add_(1, places, own).reshape(-1, len(rows), len(columns))

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

