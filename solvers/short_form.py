"""The shorter of two forms of a program: as it is, or without its definitions; for solvers of sparse programs.

Taking ``y == W x + b`` out makes a program smaller, but may make its matrices fuller. What decides is the number of
entries of the factors that an interior-point solver makes of each form: measured by Clarabel, which orders and factors
both patterns once. The time of a solve follows it closely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import clarabel
import torch
from torch import Tensor

from .conic_engine import Start
from .conic_program import INFEASIBLE, UNBOUNDED, ConicProgram, Points
from .elimination import Reduction, Stage, find_stages, reduce_program, too_large
from .layouts import MOST_VALUES, layouts
from .matrix import Matrix, OwnEntries
from .shared_matrix import SharedMatrix
from .single_programs import clarabel_cones, finite_instances

EXAMPLES = 8
"""Instances of a batch from which patterns are taken."""

Places = tuple[Tensor, Tensor]
"""Rows and columns of the entries of a matrix."""


@dataclass(frozen=True)
class Form:
    """A form of the programs of a batch, found for one batch and used for others of the same pattern.

    Attributes
    ----------
    stages : list of Stage
        The definitions that are taken out; empty for the programs as they are.
    P, A : (Places, bool)
        Pattern of the reduced matrices, and whether the batch shares them. Empty where there are no stages.
    reduction : Reduction or None
        The reduction, where the whole batch shares it.
    example : ConicProgram
        The first programs of that batch, in this form.
    factor : int
        Entries of the factor of its optimality system.
    """

    stages: list[Stage]
    P: tuple[Places, bool] | None
    A: tuple[Places, bool] | None
    reduction: Reduction | None
    example: ConicProgram
    factor: int

    def shorten(self, program: ConicProgram) -> tuple[ConicProgram, Reduction | None]:
        """Programs in this form, and the reduction that leads back."""
        if self.P is None or self.A is None:
            return program, None
        reduction = self.reduction or reduce_program(program, self.stages)
        q, b = reduction.vectors(program.q, program.b)
        short = ConicProgram(
            _matrix(reduction.P, *self.P, program.batch), q, _matrix(reduction.A, *self.A, program.batch), b,
            program.offset, reduction.cones, program.batch,
        )  # fmt: skip
        return short, reduction

    def solve(self, program: ConicProgram, start: Start, solver: Callable[[ConicProgram, Start], Points]) -> Points:
        """Solve programs in this form; points of the whole programs, and the state in this form."""
        m, n = program.A.shape
        # Reduced matrices that vary are dense, one for each instance.
        rows = program.batch if self.P is None or self.reduction is not None else max(1, MOST_VALUES // (n * (m + n)))
        if rows >= program.batch:
            return self._solve(program, start, solver)
        parts = []
        for places in torch.arange(program.batch, device=program.q.device).split(rows):
            own = {name: values[places] for name, values in start.items()}
            parts.append(self._solve(program.take(places), own, solver))
        return joined(parts)

    def _solve(self, program: ConicProgram, start: Start, solver: Callable[[ConicProgram, Start], Points]) -> Points:
        short, reduction = self.shorten(program)
        points = solver(short, start)
        return points if reduction is None else _lift(points, reduction, program)


def choose_form(program: ConicProgram, *, rows: bool = False) -> Form:
    """The form of a batch whose factors have fewer entries; with `rows`, one that has rows if the program has."""
    first = _examples(program)
    whole = Form([], None, None, None, first, factor_entries(first))
    if too_large(program) or not (stages := find_stages(program)):
        return whole
    probe = reduce_program(_probe(first), stages)
    shared = reduce_program(first, stages) if program.shared else None
    form = Form(stages, _pattern(probe.P), _pattern(probe.A), shared, first, 0)
    short, _ = form.shorten(first)
    if not short.A.shape[1] or (rows and not short.A.shape[0]):
        return whole
    form = replace(form, example=short, factor=factor_entries(short))
    return form if form.factor <= whole.factor else whole


def _examples(program: ConicProgram) -> ConicProgram:
    """The first instances, without numbers that are not finite: solvers are set up on them."""
    first = program.take(torch.arange(min(EXAMPLES, program.batch), device=program.q.device))
    finite = finite_instances(first)
    if bool(finite.all()):
        return first
    if bool(finite.any()):
        return first.take(finite.nonzero()[:, 0])

    def cleaned(matrix: Matrix) -> Matrix:
        if matrix.own is None:
            return matrix
        return replace(matrix, own=replace(matrix.own, values=matrix.own.values.nan_to_num(1, 1, 1)))

    q, b = (part.nan_to_num(0, 0, 0) for part in (first.q, first.b))
    return replace(first, P=cleaned(first.P), A=cleaned(first.A), q=q, b=b)


def factor_entries(program: ConicProgram) -> int:
    """Entries of the factor that Clarabel makes of a program's optimality system; of a batch, for its first."""
    both = layouts(program, narrow=True)
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.presolve_enable, settings.chordal_decomposition_enable = False, False, False
    data, cones = next(both.instances(program)), clarabel_cones(program.cones)
    P, A = both.P.columns(data["P"]), both.A.columns(data["A"])
    solver = clarabel.DefaultSolver(P, data["q"], A, data["b"], cones, settings)
    # Versions that do not tell: the entries of the matrices, which the factor contains.
    told = getattr(getattr(solver.get_info(), "linsolver", None), "nnzL", 0) if hasattr(solver, "get_info") else 0
    return int(told) or len(data["P"]) + len(data["A"])


def joined(parts: list[Points]) -> Points:
    """Points of consecutive parts of a batch, as one."""
    if len(parts) == 1:
        return parts[0]
    x, y, iterations, claim = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "iterations", "claim")
    )
    state = {name: torch.cat([part.state[name] for part in parts]) for name in parts[0].state}
    return Points(x, y, iterations, claim, state)


def _probe(first: ConicProgram) -> ConicProgram:
    """The program with numbers drawn for what varies, so that no entry of a product is zero by chance."""
    generator = torch.Generator().manual_seed(0)

    def drawn(matrix: Matrix) -> Matrix:
        if matrix.own is None:
            return matrix
        values = torch.rand(matrix.own.values.shape, generator=generator, dtype=torch.float64) + 0.5
        return replace(matrix, own=replace(matrix.own, values=values.to(matrix.own.values)))

    return replace(first, P=drawn(first.P), A=drawn(first.A))


def _pattern(probe: Tensor) -> tuple[Places, bool]:
    rows, columns = (probe if probe.ndim == 2 else probe[0]).nonzero(as_tuple=True)
    return (rows, columns), probe.ndim == 2


def _matrix(dense: Tensor, places: Places, shared: bool, batch: int) -> Matrix:
    rows, columns = places
    shape = (dense.shape[-2], dense.shape[-1])
    if shared:
        return Matrix(SharedMatrix(rows, columns, dense[rows, columns], shape))
    none = SharedMatrix(rows[:0], columns[:0], dense.new_zeros(0), shape)
    # Blocks that are zero in a whole batch are left out of it, and the matrix then looks shared.
    values = dense.expand(batch, *shape)[:, rows, columns]
    return Matrix(none, OwnEntries(rows, columns, values, shape))


def _lift(points: Points, reduction: Reduction, program: ConicProgram) -> Points:
    """Points and rays of the reduced programs as those of the programs."""
    x, y = reduction.lift(points.x, points.y, program.q, program.b)
    x, y = x.expand(program.batch, -1).clone(), y.expand(program.batch, -1).clone()
    ray = (points.claim == INFEASIBLE) | (points.claim == UNBOUNDED)
    if bool(ray.any()):
        # A ray has no right-hand side; the other of x and y is zero in it.
        along, across = reduction.lift(points.x, points.y, torch.zeros_like(program.q), torch.zeros_like(program.b))
        x, y = torch.where(ray[:, None], along, x), torch.where(ray[:, None], across, y)
        x[points.claim == INFEASIBLE] = 0
        y[points.claim == UNBOUNDED] = 0
    return replace(points, x=x, y=y)
