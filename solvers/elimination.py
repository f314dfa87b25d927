"""Definitions taken out of a conic program: variables that an equality ties to the others.

cvxpy writes ``sum_squares(W x - b)`` as ``y'y`` with ``y == W x - b``. Such a row r, with a variable j that no other
equality has, is solved for x_j and x_j substituted. In blocks, with the defined variables c, the others k, the
definitions r and the other rows o,

    a x_c = b_r - R x_k,    R = A_rk,    a the diagonal of A_rc.

In the scaled variables a x_c the pivots are ones: columns c of P and A, rows c of P and q_c are divided by a, and R
stays as it is, for it may be the largest part of every instance. With these the objective gets
P_kk - P_kc R - R'P_ck + R'P_cc R,  the other rows  A_ok - A_oc R,  and the duals come back as
y_r = -(P x + q + A_o'y_o)_c. The reduced program is dense: it is for engines that live on dense products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from .conic_program import Cones, ConicProgram
from .matrix import Matrix
from .shared_matrix import span
from .tensors import gram_own, times_own

MOST_ENTRIES = 4_000_000
"""Largest product of rows and columns of a program that is held densely."""
SMALLEST_PIVOT = 1e-3
"""Relative to the largest coefficient of its row: below it a definition is not solved for its variable."""


@dataclass(frozen=True)
class Stage:
    """Definitions that are taken out together; indices into the program before."""

    rows: Tensor
    columns: Tensor
    other_rows: Tensor
    other_columns: Tensor

    @cached_property
    def spans(self) -> tuple[slice | Tensor, slice | Tensor, slice | Tensor, slice | Tensor]:
        """The same four, with runs as slices."""
        return span(self.rows), span(self.columns), span(self.other_rows), span(self.other_columns)


@dataclass(frozen=True)
class StageMatrices:
    """The blocks of a stage in the scaled variables; None where one is zero. A batch axis leads where entries vary.

    The pivots, (c,), are None where they are ones. The batch shares them: they are entries that nothing touches.
    """

    pivots: Tensor | None
    R: Tensor
    A_oc: Tensor | None
    P_kc: Tensor | None
    P_cc: Tensor | None
    """Its diagonal alone, where that is all."""


@dataclass(frozen=True)
class Reduction:
    """A program without its definitions, dense.

    Attributes
    ----------
    P, A : Tensor
        (n, n) and (m, n), with a leading batch axis where entries vary.
    cones : Cones
    stages : list of (Stage, StageMatrices)
    columns : Tensor of int64
        Which variables of the original program remain.
    """

    P: Tensor
    A: Tensor
    cones: Cones
    stages: list[tuple[Stage, StageMatrices]]
    columns: Tensor

    def vectors(self, q: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The reduced q and b, (batch, n) and (batch, m); a length of 1 stands for the whole batch."""
        q, b, _ = self.vectors_and_constant(q, b)
        return q, b

    def vectors_and_constant(self, q: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reduced q and b, and what 1/2 x'P x + q'x of the original program exceeds the reduced one by."""
        total = q.new_zeros(1)
        for stage, blocks in self.stages:
            q, b, constant = _reduce_vectors(stage, blocks, q, b)
            total = total + constant
        return q, b, total

    def lift(self, x: Tensor, y: Tensor, q: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """A point (x, y) of the reduced program as one of the original program, whose q and b are given.

        With zeros for q and b (and for the other of x and y) a ray of the reduced program becomes one of the original.
        """
        before = [(q, b)]
        for stage, blocks in self.stages[:-1]:
            before.append(_reduce_vectors(stage, blocks, *before[-1])[:2])
        for (stage, blocks), (costs, sides) in zip(reversed(self.stages), reversed(before), strict=False):
            r, c, o, k = stage.spans
            defined = sides[:, r] - _product(blocks.R, x)
            cost = _over(costs[:, c], blocks.pivots)
            push = _sum(cost, (x, blocks.P_kc), (defined, blocks.P_cc), (y, blocks.A_oc))
            x, y = _join(x, k, _over(defined, blocks.pivots), c), _join(y, o, -push, r)
        return x, y


def find_stages(program: ConicProgram) -> list[Stage]:
    """Which definitions to take out, from the pattern of the program.

    Definitions whose variable stands in no other row come first; then those whose variable stands in at most two
    inequalities that are no bounds (pre-activations, z == W x + b).
    """
    pattern, fixed = _patterns(program.A)
    equalities, linear = program.cones.zero, program.cones.zero + program.cones.nonnegative
    stages: list[Stage] = []
    while True:
        chosen = _singletons(pattern, fixed, equalities) or _definitions(pattern, fixed, equalities, linear)
        if not chosen:
            return stages
        rows, columns = (np.array([pair[side] for pair in chosen]) for side in (0, 1))
        o, k = (np.setdiff1d(np.arange(size), taken)
                for size, taken in zip(pattern.shape, (rows, columns), strict=True))  # fmt: skip
        stages.append(Stage(*(torch.as_tensor(part, device=program.q.device) for part in (rows, columns, o, k))))
        uses = pattern[np.ix_(o, columns)].astype(np.float32)
        inlined = uses @ pattern[np.ix_(rows, k)].astype(np.float32) > 0
        pattern, fixed = pattern[np.ix_(o, k)] | inlined, np.where(inlined, 0, fixed[np.ix_(o, k)])
        equalities, linear = equalities - len(rows), linear - len(rows)


def reduce_program(program: ConicProgram, stages: list[Stage]) -> Reduction:
    """Take the definitions out of a program."""
    n, m = program.A.shape[1], program.A.shape[0]
    P: Matrix | Tensor = program.P
    A: Matrix | Tensor = program.A
    columns = _every(n, program.q.device)
    done = []
    for stage in stages:
        r, c, o, k = stage.rows, stage.columns, stage.other_rows, stage.other_columns
        pivots, R = _pivots(_block(A, r, c)), _block(A, r, k)
        A_oc, P_kc = (_nonzero(_over(_block(matrix, rows, c), pivots)) for matrix, rows in ((A, o), (P, k)))
        square = _block(P, c, c)
        P_cc = _compact(square if pivots is None else square / pivots / pivots[:, None])
        P, A = _block(P, k, k), _block(A, o, k)
        if P_kc is not None:
            mixed = P_kc @ R
            P = P - mixed - mixed.mT
        if P_cc is not None:
            P = _add_square(P, R, P_cc)
        if A_oc is not None:
            A = A - A_oc @ R
        columns = columns[k]
        done.append((stage, StageMatrices(pivots, R, A_oc, P_kc, P_cc)))
    if not stages:
        P, A = _block(P, columns, columns), _block(A, _every(m, program.q.device), columns)
    assert isinstance(P, Tensor)
    assert isinstance(A, Tensor)
    taken = sum(len(stage.rows) for stage in stages)
    return Reduction(P, A, replace(program.cones, zero=program.cones.zero - taken), done, columns)


def too_large(program: ConicProgram) -> str:
    """Why a program cannot be held densely; empty where it can."""
    m, n = program.A.shape
    if max(n * m, n * n) <= MOST_ENTRIES:
        return ""
    return f"a program of at most {MOST_ENTRIES:,} entries held densely (this one is {m} x {n})"


def _patterns(A: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Where A has entries, and the values of those that do not vary (0 elsewhere)."""
    fixed = A.common.dense().cpu().numpy().copy()
    pattern = fixed != 0
    if A.own is not None:
        rows, columns = A.own.rows.cpu().numpy(), A.own.columns.cpu().numpy()
        pattern[rows, columns] = True
        fixed[rows, columns] = 0
    return pattern, fixed


def _singletons(pattern: np.ndarray, fixed: np.ndarray, equalities: int) -> list[tuple[int, int]]:
    """One column for each equality that has one standing in no other row."""
    return _one_for_each_row(pattern, fixed, equalities, pattern.sum(0) == 1)


def _definitions(pattern: np.ndarray, fixed: np.ndarray, equalities: int, linear: int) -> list[tuple[int, int]]:
    """One column for each equality that stands otherwise in one or two inequalities which are no bounds."""
    wide = pattern[equalities:].sum(1) > 1
    uses = pattern[equalities:].sum(0)
    allowed = (
        (pattern[:equalities].sum(0) == 1) & (uses <= 2) & (pattern[equalities:][~wide].sum(0) == 0)
        & (pattern[linear:].sum(0) == 0)
    )  # fmt: skip
    # At most two uses each: a substitution adds at most twice the entries of the definitions.
    return _one_for_each_row(pattern, fixed, equalities, allowed)


def _one_for_each_row(
    pattern: np.ndarray, fixed: np.ndarray, equalities: int, allowed: np.ndarray
) -> list[tuple[int, int]]:
    sizes = np.abs(fixed[:equalities])
    largest = sizes.max(axis=1, initial=0.0)
    sizes = np.where(allowed, sizes, 0)
    chosen = []
    for row in np.flatnonzero((sizes > SMALLEST_PIVOT * largest[:, None]).any(axis=1)):
        chosen.append((int(row), int(sizes[row].argmax())))
    return chosen


def _reduce_vectors(stage: Stage, blocks: StageMatrices, q: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reduced q and b, and the constant that leaves the objective."""
    r, c, o, k = stage.spans
    e, costs = b[:, r], _over(q[:, c], blocks.pivots)
    slope = _sum(costs, (e, blocks.P_cc))
    reduced = q[:, k] - _pulled(slope, blocks.R)
    if blocks.P_kc is not None:
        reduced = reduced + _product(blocks.P_kc, e)
    moved = None if blocks.A_oc is None else _product(blocks.A_oc, e)
    # 1/2 e'P_cc e + q_c'e, with what is already there.
    constant = torch.linalg.vecdot(e, slope + costs) / 2
    return reduced, b[:, o] if moved is None else b[:, o] - moved, constant


@lru_cache(maxsize=64)
def _every(size: int, device: torch.device) -> Tensor:
    """All indices: the same tensor each time, by which a matrix finds the block that it has made."""
    return torch.arange(size, device=device)


def _block(matrix: Matrix | Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return matrix.block(rows, columns) if isinstance(matrix, Matrix) else matrix[..., rows[:, None], columns]


def _pivots(block: Tensor) -> Tensor | None:
    """The diagonal of a block that is diagonal, and the same for all instances; None where it is ones."""
    pivots = torch.diagonal(block if block.ndim == 2 else block[0])
    return None if bool((pivots == 1).all()) else pivots.clone()


def _nonzero(block: Tensor) -> Tensor | None:
    return block if bool(block.any()) else None


def _compact(block: Tensor) -> Tensor | None:
    """A square block; its diagonal (size,) where that is all and the batch shares it; None where it is zero."""
    if block.ndim > 2 or bool((block - torch.diag(torch.diagonal(block))).any()):
        return _nonzero(block)
    return _nonzero(torch.diagonal(block).clone())


def _add_square(P: Tensor, R: Tensor, P_cc: Tensor) -> Tensor:
    """P + R'P_cc R."""
    if P_cc.ndim > 1:
        return P + R.mT @ (P_cc @ R)
    if not bool((P_cc == P_cc[0]).all()):
        return P + R.mT @ (P_cc[:, None] * R)
    # One number: R need not be multiplied, nor zeros added; each is a pass over the matrices of all instances.
    square = gram_own(R)
    square = square if float(P_cc[0]) == 1 else square.mul_(P_cc[0])
    return P + square if bool(P.any()) else square


def _product(matrix: Tensor, rows: Tensor) -> Tensor:
    """The matrix times every row."""
    return rows @ matrix.T if matrix.ndim == 2 else times_own(matrix, rows)


def _pulled(rows: Tensor, matrix: Tensor) -> Tensor:
    """The transposed matrix times every row; a diagonal is given as such."""
    if matrix.ndim == 1:
        return rows * matrix
    return rows @ matrix if matrix.ndim == 2 else times_own(matrix.mT, rows)


def _sum(first: Tensor, *others: tuple[Tensor, Tensor | None]) -> Tensor:
    """A sum with the products of rows and transposed matrices; those of zero matrices are left out."""
    for rows, matrix in others:
        if matrix is not None:
            first = first + _pulled(rows, matrix)
    return first


def _over(rows: Tensor, pivots: Tensor | None) -> Tensor:
    """Columns divided by their pivots."""
    return rows if pivots is None else rows / pivots


def _join(left: Tensor, left_places: slice | Tensor, right: Tensor, right_places: slice | Tensor) -> Tensor:
    batch = max(len(left), len(right))
    joined = left.new_empty(batch, left.shape[1] + right.shape[1])
    joined[:, left_places] = left
    joined[:, right_places] = right
    return joined
