"""Instances of a model in the forms that solvers take: whole, as cvxpy canonicalizes them, and reduced.

The reduced form is without definitions such as ``y == W x + b``. An answer to either is measured on the whole program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from convexblocks.solvers.cone_points import into_dual_cone
from convexblocks.solvers.conic_program import Cones, ConicProgram
from convexblocks.solvers.conic_residuals import conic_residuals
from convexblocks.solvers.elimination import find_stages, reduce_program
from convexblocks.solvers.matrix import Matrix

from .batched_models import Model


@dataclass(frozen=True)
class Entries:
    """A sparse matrix for every instance, all of one pattern; `values` is (entries,) where the batch shares it."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    @property
    def shared(self) -> bool:
        """Whether the batch shares the matrix."""
        return self.values.ndim == 1

    def of(self, place: int) -> sp.csc_matrix:
        """The matrix of one instance."""
        values = self.values if self.shared else self.values[place]
        pointers = _pointers(self.columns, self.shape[1])
        return sp.csc_matrix((values, self.rows, pointers), self.shape)

    def dense(self, place: int) -> np.ndarray:
        """The matrix of one instance, by columns."""
        return np.asfortranarray(self.of(place).toarray())

    @property
    def row_pointers(self) -> np.ndarray:
        """Where each row begins, in row-major order."""
        return _pointers(self.rows, self.shape[0])

    def for_each(self, batch: int) -> np.ndarray:
        """The values of every instance, (batch, entries)."""
        return np.ascontiguousarray(np.broadcast_to(self.values, (batch, len(self.rows))))

    def upper(self) -> Entries:
        """The upper triangle."""
        kept = self.rows <= self.columns
        return Entries(self.rows[kept], self.columns[kept], self.values[..., kept], self.shape)

    def by_rows(self) -> Entries:
        """The same entries, in row-major order."""
        order = np.lexsort((self.columns, self.rows))
        return Entries(self.rows[order], self.columns[order], self.values[..., order], self.shape)


def _pointers(lines: np.ndarray, count: int) -> np.ndarray:
    return np.r_[0, np.cumsum(np.bincount(lines, minlength=count))]


@dataclass(frozen=True)
class Form:
    """Instances in one canonical form, as numpy arrays.

    `measure` gives the largest residual (primal, dual, gap) over all instances of points x, y of this form, measured
    on the whole program; duals are moved into the dual cone first, as for our own engines.
    """

    name: str
    P: Entries
    A: Entries
    q: np.ndarray
    b: np.ndarray
    cones: Cones
    measure: Callable[[np.ndarray, np.ndarray], float]

    @property
    def batch(self) -> int:
        """Number of instances."""
        return len(self.q)

    @property
    def shared(self) -> bool:
        """Whether the batch shares both matrices."""
        return self.P.shared and self.A.shared


def whole_form(program: ConicProgram) -> Form:
    """The canonical programs as they are."""

    def measure(x: np.ndarray, y: np.ndarray) -> float:
        return _worst(program, torch.as_tensor(x), torch.as_tensor(y))

    q, b = (_rows(part, program.batch) for part in (program.q, program.b))
    return Form("whole", _entries(program.P), _entries(program.A), q, b, program.cones, measure)


def reduced_form(program: ConicProgram) -> Form:
    """The canonical programs without their definitions."""
    reduction = reduce_program(program, find_stages(program))

    def measure(x: np.ndarray, y: np.ndarray) -> float:
        return _worst(program, *reduction.lift(torch.as_tensor(x), torch.as_tensor(y), program.q, program.b))

    q, b = (_rows(part, program.batch) for part in reduction.vectors(program.q, program.b))
    P, A = (_dense_entries(part.numpy()) for part in (reduction.P, reduction.A))
    return Form("reduced", P, A, q, b, reduction.cones, measure)


def _worst(program: ConicProgram, x: Tensor, y: Tensor) -> float:
    residuals = conic_residuals(program, x, into_dual_cone(y, program.cones))
    worst = torch.stack([residuals.primal, residuals.dual, residuals.gap]).nan_to_num(torch.inf).max()
    return float(worst)


def _rows(part: Tensor, batch: int) -> np.ndarray:
    return np.ascontiguousarray(part.expand(batch, -1).numpy())


def _entries(matrix: Matrix) -> Entries:
    rows, columns, values = matrix.entries()
    return Entries(rows, columns, np.ascontiguousarray(values), matrix.shape)


def _dense_entries(matrices: np.ndarray) -> Entries:
    pattern = matrices != 0 if matrices.ndim == 2 else (matrices != 0).any(0)
    columns, rows = np.nonzero(pattern.T)
    return Entries(rows, columns, np.ascontiguousarray(matrices[..., rows, columns]), pattern.shape)


@dataclass(frozen=True)
class Instances:
    """Some instances of a model, in both forms; `before` holds the same instances a little earlier."""

    model: Model
    whole: Form
    reduced: Form
    before: Instances | None = None

    @staticmethod
    def of(model: Model, before: Instances | None = None) -> Instances:
        """All instances of a model."""
        return Instances(model, whole_form(model.program), reduced_form(model.program), before)


@dataclass(frozen=True)
class Trial:
    """A prepared solver: `run` solves all instances, `worst` measures the answers that it gave."""

    run: Callable[[], Any]
    worst: Callable[[Any], float]
