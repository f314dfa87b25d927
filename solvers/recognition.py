"""Box and piecewise-quadratic structure, found in a reduced canonical program.

    minimize    1/2 x'H x + g'x + 1/2 |(W x + w)_+|^2        over   lower <= x <= upper

Rows of A with one entry are bounds. A column t that the Hessian does not couple, p = P_tt > 0, with one wide row
a'x - c t <= d (and perhaps a bound t >= l) is the epigraph of a squared hinge: minimizing over t leaves

    p/2 (z + f / p)_+^2 - f^2 / (2 p),      z = (a'x - d) / c,   f its cost,

provided that l <= -f / p. So a cvxpy model of ReLU potentials, ``sum_squares(pos(W @ x + b))``, needs no registration.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .elimination import Reduction
from .shared_matrix import span

ROUNDING = 1e-12


@dataclass(frozen=True)
class Hinges:
    """Squared hinges, once columns t of the program; W and the offsets contain the factor sqrt(p).

    Attributes
    ----------
    columns, rows : Tensor of int64, shape (hinges,)
        Column t and wide row of each.
    bound_rows, bounded : Tensor of int64, shape (bounds,)
        Rows that bound a t from below, and which of the hinges that is.
    bound_coefficients : Tensor, shape (bounds,)
        Entries of those rows, below zero.
    roots, scales : Tensor, shape (hinges,)
        sqrt(p), and sqrt(p) / c.
    W : Tensor, shape (hinges, unknowns)
    """

    columns: Tensor
    rows: Tensor
    bound_rows: Tensor
    bounded: Tensor
    bound_coefficients: Tensor
    roots: Tensor
    scales: Tensor
    W: Tensor

    @cached_property
    def spans(self) -> tuple[slice | Tensor, slice | Tensor]:
        """Columns and rows, with runs as slices."""
        return span(self.columns), span(self.rows)


@dataclass(frozen=True)
class Bounds:
    """Rows of one entry that bound the unknowns from one side.

    Attributes
    ----------
    sign : int
        1 for lower bounds (entries below zero), -1 for upper bounds.
    rows, unknowns : Tensor of int64, shape (bounds,)
    coefficients : Tensor, shape (bounds,)
    repeated : bool
        Whether an unknown has several.
    """

    sign: int
    rows: Tensor
    unknowns: Tensor
    coefficients: Tensor
    repeated: bool

    @cached_property
    def spans(self) -> tuple[slice | Tensor, slice | Tensor]:
        """Rows and unknowns, with runs as slices."""
        return span(self.rows), span(self.unknowns)

    def limits(self, b: Tensor, size: int) -> Tensor:
        """The tightest bound of every unknown, (batch, unknowns)."""
        worst = b.new_full((len(b), size), -self.sign * torch.inf)
        if not len(self.rows):
            return worst
        rows, unknowns = self.spans
        values = b[:, rows] / self.coefficients
        if not self.repeated:
            worst[:, unknowns] = values
            return worst
        how = "amax" if self.sign > 0 else "amin"
        return worst.scatter_reduce(1, self.unknowns.expand(len(b), -1), values, how)

    def fill_duals(self, y: Tensor, gradient: Tensor, b: Tensor) -> None:
        """Give the gradient's part that pushes against these bounds to their rows; of several to the tightest."""
        if not len(self.rows):
            return
        push = (self.sign * gradient).clamp_(min=0)
        if not self.repeated:
            rows, unknowns = self.spans
            y[:, rows] = push[:, unknowns] / self.coefficients.abs()
            return
        limits = self.limits(b, gradient.shape[1])
        for row, unknown, coefficient in zip(self.rows, self.unknowns, self.coefficients, strict=True):
            tight = b[:, row] / coefficient == limits[:, unknown]
            y[:, row] = torch.where(tight, push[:, unknown], 0) / coefficient.abs()
            push[:, unknown] = torch.where(tight, 0, push[:, unknown])


@dataclass(frozen=True)
class Box:
    """Where the parts of the structure stand in the reduced program.

    Attributes
    ----------
    columns : Tensor of int64, shape (unknowns,)
        Columns of the unknowns x.
    lower, upper : Bounds
    hinges : Hinges or None
    """

    columns: Tensor
    lower: Bounds
    upper: Bounds
    hinges: Hinges | None

    @cached_property
    def span(self) -> slice | Tensor:
        """The columns, a run as a slice."""
        return span(self.columns)

    def limits(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the unknowns, (batch, unknowns)."""
        size = len(self.columns)
        return self.lower.limits(b, size), self.upper.limits(b, size)

    def shift(self, q: Tensor, b: Tensor) -> Tensor | None:
        """The offsets w of the hinges, (batch, hinges)."""
        if self.hinges is None:
            return None
        columns, rows = self.hinges.spans
        return q[:, columns] / self.hinges.roots - b[:, rows] * self.hinges.scales

    def smooth(self, q: Tensor, b: Tensor) -> Tensor:
        """Which instances have hinges without kinks, (batch,)."""
        if self.hinges is None or not len(self.hinges.bound_rows):
            return torch.ones(max(len(q), len(b)), dtype=torch.bool, device=q.device)
        vertex = (-q[:, self.hinges.columns] / self.hinges.roots**2)[:, self.hinges.bounded]
        least = b[:, self.hinges.bound_rows] / self.hinges.bound_coefficients
        kept: Tensor = vertex >= least - ROUNDING * (1 + least.abs())
        return kept.all(1)

    def points(self, x: Tensor, gradient: Tensor, hinge: Tensor | None, q: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Primal and dual point of the reduced program at x, given the gradient and (W x + w)_+ there."""
        whole, y = x.new_zeros(len(x), q.shape[1]), x.new_zeros(len(x), b.shape[1])
        whole[:, self.span] = x
        if self.hinges is not None and hinge is not None:
            columns, rows = self.hinges.spans
            whole[:, columns] = hinge / self.hinges.roots - q[:, columns] / self.hinges.roots**2
            y[:, rows] = hinge * self.hinges.scales
        self.lower.fill_duals(y, gradient, b)
        self.upper.fill_duals(y, gradient, b)
        return whole, y

    def crossing(self, b: Tensor) -> Tensor:
        """Rays of the instances whose bounds exclude each other, (batch, rows); zero for the others.

        A lower bound above an upper one: the two rows, each over its coefficient, add up to 0'x <= upper - lower < 0.
        """
        lower, upper = self.limits(b)
        excess, worst = (lower - upper).max(1) if len(self.columns) else (b.new_zeros(len(b)), b.new_zeros(0))
        gradient = torch.zeros_like(lower)
        gradient[torch.arange(len(b)), worst] = torch.where(excess > 0, 1.0, 0.0).to(b)
        y = torch.zeros_like(b)
        self.lower.fill_duals(y, gradient, b)
        self.upper.fill_duals(y, -gradient, b)
        return y


def find_box(reduction: Reduction, q: Tensor, b: Tensor) -> Box | str:
    """The structure of a reduced program, or what it lacks, in words that follow "it needs".

    Parameters
    ----------
    reduction : Reduction
        A has to be shared by the batch; P need not be.
    q, b : Tensor
        The reduced vectors of a batch; hinges are looked for where these make them smooth.
    """
    cones = reduction.cones
    if not cones.linear:
        return f"inequalities alone (this program has {cones})"
    if cones.zero:
        return f"equalities that define variables alone ({cones.zero} of this program tie variables together)"
    if reduction.A.ndim > 2:
        return "a constraint matrix shared by the batch"
    if not len(reduction.columns):
        return "unknowns (the equalities of this program leave none)"
    A, P = reduction.A.cpu().numpy(), reduction.P.cpu().numpy()
    entries = A != 0
    single = entries.sum(1) == 1
    pairs = _hinges(A, P if P.ndim == 2 else np.abs(P).max(0), entries, single, q, b) if P.ndim == 2 else {}
    wide = int((~single & entries.any(1)).sum())
    if wide > len(pairs):
        what = "bounds and smooth squared hinges" if P.ndim == 2 else "bounds"
        return f"{what} alone ({wide - len(pairs)} inequalities of this program tie variables together otherwise)"
    return _box(reduction, entries, single, pairs)


def _hinges(
    A: np.ndarray, P: np.ndarray, entries: np.ndarray, single: np.ndarray, q: Tensor, b: Tensor
) -> dict[int, int]:
    """Wide row -> its epigraph column."""
    wide = ~single & entries.any(1)
    coupled = (P != 0).sum(0) - (np.diag(P) != 0)
    candidates = (
        (coupled == 0) & (np.diag(P) > 0) & (entries[wide].sum(0) == 1)
        & ~((A > 0) & entries).any(0)
    )  # fmt: skip
    pairs: dict[int, int] = {}
    for row in np.flatnonzero(wide):
        # An unknown may look like an epigraph; the column without a cost of its own is the one that cvxpy adds.
        columns = [int(column) for column in np.flatnonzero(entries[row] & candidates)]
        columns.sort(key=lambda column: (float(q[:, column].abs().max()), -column))
        smooth = [column for column in columns if _is_smooth(column, A, P, entries & single[:, None], q, b)]
        if smooth:
            pairs[int(row)] = smooth[0]
    return pairs


def _is_smooth(column: int, A: np.ndarray, P: np.ndarray, bounds: np.ndarray, q: Tensor, b: Tensor) -> bool:
    """Whether a column's own bounds lie below the vertex of its parabola, for every instance."""
    vertex = -q[:, column] / P[column, column]
    least = (b[:, int(row)] / A[row, column] for row in np.flatnonzero(bounds[:, column]))
    return all(bool((vertex >= bound - ROUNDING * (1 + bound.abs())).all()) for bound in least)


def _box(reduction: Reduction, entries: np.ndarray, single: np.ndarray, pairs: dict[int, int]) -> Box:
    A, device = reduction.A, reduction.A.device
    epigraphs = np.array(list(pairs.values()), dtype=int)
    columns = np.setdiff1d(np.arange(A.shape[1]), epigraphs)
    rows = np.flatnonzero(single)
    touched = entries[rows].argmax(1)
    own = np.isin(touched, epigraphs)
    place = np.full(A.shape[1], -1)
    place[columns] = np.arange(len(columns))
    values = A.cpu().numpy()[rows, touched]

    def bounds(sign: int) -> Bounds:
        chosen = ~own & (values * sign < 0)
        unknowns = place[touched[chosen]]
        repeated = len(np.unique(unknowns)) < len(unknowns)
        bounding, bounded = (torch.as_tensor(part, device=device) for part in (rows[chosen], unknowns))
        return Bounds(sign, bounding, bounded, torch.as_tensor(values[chosen], device=device), repeated)

    hinges = None
    if pairs:
        place[epigraphs] = np.arange(len(epigraphs))
        t, wide = (torch.as_tensor(part, device=device) for part in (epigraphs, np.array(list(pairs))))
        roots = reduction.P[t, t].sqrt()
        scales = roots / -A[wide, t]
        W = A[wide][:, torch.as_tensor(columns, device=device)] * scales[:, None]
        bounding, bounded = (torch.as_tensor(part, device=device) for part in (rows[own], place[touched[own]]))
        hinges = Hinges(t, wide, bounding, bounded, torch.as_tensor(values[own], device=device), roots, scales, W)
    return Box(torch.as_tensor(columns, device=device), bounds(1), bounds(-1), hinges)
