"""A solver for cvxpylayers: `CvxpyLayer(problem, parameters, variables, solver=layer_solver())` runs on our engines.

cvxpylayers canonicalizes the problem itself and hands over the entries of P, q, A and b for every instance. Which of
them vary over the batch is found by comparison, so that what is shared is shared again. At the layer's creation its
canonical form is compared with ours (canonical.py): a form that keeps constraints outside of A would lose them here.
"""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from ..formulations.errors import UsageError
from .canonical import SOLVER, Canonical, canonicalize
from .conic_batch import solve_conic_batch
from .conic_engine import Runner
from .conic_engines import CONIC_ENGINES, REFERENCE, choose
from .conic_program import ConicProgram
from .implicit import conic_vector_jacobian
from .matrix import Matrix, OwnEntries
from .recoveries import CanonicalFormError
from .shared_matrix import SharedMatrix
from .single_programs import optional_package
from .solution import SolveError, Status

MOST_ROWS = 1024
"""Largest number of instances that an engine is given at a time."""


def layer_solver(engine: str | None = None, tolerance: float = 1e-6) -> Any:
    """A solver for `CvxpyLayer(..., solver=...)` of cvxpylayers.

    Its answers are checked on the canonical program, and its gradients are those of implicit.py. An instance that is
    not solved raises SolveError, because a layer has no other way to tell. One solver may serve several layers.

    Parameters
    ----------
    engine : str, optional
        A name of `CONIC_ENGINES`; by default the first that can solve the layer's program.
    tolerance : float
        On the primal and dual residual and the gap of every instance.

    Returns
    -------
    cvxpylayers.interfaces.base.SolverInterface

    Raises
    ------
    UsageError
        If cvxpylayers is not installed or too old, the engine is unknown, or the tolerance is no small number; and,
        when a layer is made or called, for what cannot be done through it.
    """
    if engine is not None and engine not in CONIC_ENGINES:
        raise UsageError(f"unknown engine {engine!r}; known: {', '.join(CONIC_ENGINES)}.")
    if not 0 < tolerance < 1:
        raise UsageError(f"tolerance is {tolerance!r}; expected a number between 0 and 1, e.g. 1e-6.")
    interfaces = optional_package("cvxpylayers.interfaces.base")
    if interfaces is None:
        raise UsageError(
            "layer_solver needs cvxpylayers, 1.2 or newer, which is not installed: pip install 'cvxpylayers>=1.2'"
        )

    class LayerSolver(interfaces.SolverInterface):  # type: ignore[misc, name-defined]
        """What cvxpylayers calls."""

        canon_solver = SOLVER
        supports_quad_obj = True

        def __init__(self) -> None:
            # A call names its layer by the cones alone, which are one object for each layer.
            self.forms: dict[int, tuple[object, Canonical]] = {}
            self.prepared: tuple[tuple[int, bytes], tuple[Runner, Runner | None]] | None = None

        def setup(self, ctx: Any) -> None:
            self.forms[id(ctx.cone_dims)] = ctx.cone_dims, _checked_form(ctx)

        def solve_torch_batch(
            self, P: Tensor | None, q: Tensor, A: Tensor, dims: object, solver_args: dict[str, Any], needs_grad: bool
        ) -> tuple[Tensor, Tensor, Any]:
            if solver_args:
                raise UsageError(f"unexpected solver_args {sorted(solver_args)}; give layer_solver(engine, tolerance).")
            form = self.forms[id(dims)][1]
            program = layer_program(form, P, q, A)
            key = id(dims), _shared_bytes(program)
            if self.prepared is None or self.prepared[0] != key:
                some = torch.arange(min(program.batch, MOST_ROWS), device=program.q.device)
                self.prepared = key, _prepare(program.take(some), engine)
            x, y = _solve(program, *self.prepared[1], tolerance)
            return x.to(q), y.to(q), (form, program, x, y) if needs_grad else None

        def derivative_torch_batch(
            self, dprimal: Tensor, ddual: Tensor, saved_state: Any
        ) -> tuple[Tensor | None, Tensor, Tensor]:
            form, program, x, y = saved_state
            gradient = conic_vector_jacobian(program, x, y, dprimal.to(x), ddual.to(x))
            P, A, b = form.P, form.A, form.b
            dP = gradient.p_entries(*_indices(P.rows, P.columns, like=x)).to(dprimal) if len(P.rows) else None
            dq = torch.cat([gradient.q, gradient.value[:, None]], 1)
            dA = torch.cat([-gradient.a_entries(*_indices(A.rows, A.columns, like=x)), gradient.b[:, b.rows]], 1)
            return dP, dq.to(dprimal), dA.to(dprimal)

    return LayerSolver()


def layer_program(form: Canonical, P: Tensor | None, q: Tensor, A: Tensor) -> ConicProgram:
    """The conic programs of a batch from the entries that cvxpylayers hands over.

    Parameters
    ----------
    form : Canonical
        Of the layer's problem.
    P : Tensor, shape (batch, entries), or None
    q : Tensor, shape (batch, n + 1)
        The last column is the offset.
    A : Tensor, shape (batch, entries)
        Entries of -A, then those of b, in the order of the form.
    """
    n, m, count = form.variables, form.rows, len(form.A.rows)
    costs, entries = (_shared_rows(part.detach().to(torch.float64)) for part in (q, A))
    b = entries.new_zeros(len(entries), m)
    b[:, form.b.rows] = entries[:, count:]
    quadratic = costs.new_zeros(1, 0) if P is None else P.detach().to(torch.float64)
    return ConicProgram(
        _matrix(form.P.rows, form.P.columns, quadratic, (n, n)), _shared_rows(costs[:, :n]),
        _matrix(form.A.rows, form.A.columns, -entries[:, :count], (m, n)), _shared_rows(b),
        _shared_rows(costs[:, n:])[:, 0], form.cones, len(q),
    )  # fmt: skip


def _matrix(rows: np.ndarray, columns: np.ndarray, values: Tensor, shape: tuple[int, int]) -> Matrix:
    """A matrix whose entries are its own where they vary over the batch."""
    row, column = _indices(rows, columns, like=values)
    varying = (values != values[:1]).any(0)
    common = SharedMatrix(row, column, torch.where(varying, 0, values[0]), shape)
    if not bool(varying.any()):
        return Matrix(common)
    return Matrix(common, OwnEntries(row[varying], column[varying], values[:, varying], shape))


def _shared_rows(values: Tensor) -> Tensor:
    """One row for the whole batch, where all are equal."""
    return values[:1] if bool((values == values[:1]).all()) else values


def _indices(rows: np.ndarray, columns: np.ndarray, *, like: Tensor) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(rows, device=like.device), torch.as_tensor(columns, device=like.device)


def _shared_bytes(program: ConicProgram) -> bytes:
    """What the instances of a layer's batch share, by which a prepared engine is used again."""
    matrices = (program.P, program.A)
    parts = [matrix.common.values for matrix in matrices]
    parts += [part for matrix in matrices if matrix.own is not None for part in (matrix.own.rows, matrix.own.columns)]
    parts += [vector for vector in (program.q, program.b) if len(vector) == 1]
    shapes = repr([(tuple(part.shape), str(part.device)) for part in parts])
    return shapes.encode() + b"".join(part.cpu().numpy().tobytes() for part in parts)


def _prepare(program: ConicProgram, engine: str | None) -> tuple[Runner, Runner | None]:
    """The engine's runner, and that of the reference, None where it is the same."""
    name, runner = choose(program, engine)
    return runner, None if name == REFERENCE else choose(program, REFERENCE)[1]


def _solve(program: ConicProgram, runner: Runner, reference: Runner | None, tolerance: float) -> tuple[Tensor, Tensor]:
    found, status = [], list[Status]()
    for places in torch.arange(program.batch, device=program.q.device).split(MOST_ROWS):
        checked = solve_conic_batch(program.take(places), runner, {}, tolerance, reference)
        found.append((checked.points.x, checked.points.y))
        status += checked.status(tolerance)
    bad = [place for place, ended in enumerate(status) if ended is not Status.SOLVED]
    if bad:
        raise SolveError(
            f"{len(bad)} of the {len(status)} instances of this layer are not solved; "
            f"instance {bad[0]} is {status[bad[0]].value}."
        )
    x, y = (torch.cat(parts) for parts in zip(*found, strict=True))
    return x, y


def _checked_form(ctx: Any) -> Canonical:
    """Our canonical form of a layer's problem, if it is the layer's own.

    Raises
    ------
    UsageError
        For duals of semidefinite constraints, which cvxpylayers unpacks in another order than they are given.
    CanonicalFormError
        If the forms differ.
    """
    if any(recovery.is_psd_dual for recovery in ctx.var_recover):
        raise UsageError(
            "this layer asks for the dual of a semidefinite constraint, which cvxpylayers would unpack wrongly; take "
            "it from solve_problem(...).duals."
        )
    problem = ctx.problem
    if ctx.gp:
        problem = cp.reductions.Dgp2Dcp(problem).apply(problem)[0]
    form = canonicalize(problem)
    n = form.variables
    ours = (
        (form.P.rows, form.P.columns),
        (np.concatenate([form.A.rows, form.b.rows]), np.concatenate([form.A.columns, np.full(len(form.b.rows), n)])),
    )
    theirs = tuple(_pattern(reduced.problem_data_index) for reduced in (ctx.reduced_P, ctx.reduced_A))
    same = all(np.array_equal(mine, other) for pair in zip(ours, theirs, strict=True)
               for mine, other in zip(*pair, strict=True))  # fmt: skip
    if not same or ctx.q.shape[0] != n + 1:
        raise CanonicalFormError(
            f"cvxpylayers canonicalizes this problem with cvxpy {cp.__version__} to a form that is not the one that "
            "cvxpy solves. Use solve_problem, which gives gradients too, and report the problem."
        )
    return form


def _pattern(index: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the entries of one of cvxpy's reduced matrices."""
    if index is None:
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    indices, pointers, _ = index
    return np.asarray(indices), np.repeat(np.arange(len(pointers) - 1), np.diff(pointers))
