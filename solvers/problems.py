"""solve_problem: any disciplined parametrized cvxpy problem, solved for a batch of parameters."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import cvxpy as cp
import torch
from torch import Tensor

from ..formulations.errors import UsageError
from .canonical import Canonical, canonicalize
from .conic_batch import solve_conic_batch
from .conic_engine import Runner, Start
from .conic_engines import REFERENCE, choose, spread
from .conic_loop import LOOPS
from .conic_program import ConicProgram
from .implicit import differentiable
from .parametrized import Constants, Sharing
from .problem_answers import Answers
from .problem_batch import Batch, check_batch
from .solution import Solution
from .warm_starts import check_ids, recall, remember

CHUNK_ENTRIES = 2**18, 2**21
"""Entries of the vectors, and of own matrices, of the instances solved together: what a processor's caches hold."""
LEAST_ROWS, MOST_ROWS = 64, 2048
DEVICE_ENTRIES = 2**24
"""The same on another device, which is kept busy by large chunks."""
KEPT_RUNNERS = 16
"""Prepared runners, and as many sets of shared constants, that a problem keeps."""
MOST_RESCUED = 0.5
"""Share of a batch solved again by the reference above which the next batch chooses its engine anew."""


Made = TypeVar("Made")


@dataclass
class Compiled:
    """A problem's canonical form, and the work that later solves of it use again."""

    form: Canonical
    sharings: dict[tuple[Any, ...], Sharing] = field(default_factory=dict)
    constants: dict[tuple[Any, ...], Constants] = field(default_factory=dict)
    runners: dict[tuple[Any, ...], tuple[str, Runner]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a batch is solved: its maps, its engine, and the reference that is asked last (None where that is it)."""

    sharing: Sharing
    constants: Constants
    engine: str
    runner: Runner
    reference: Runner | None
    rows: int

    def program(self, batch: Batch, places: Tensor) -> ConicProgram:
        """The conic programs of some instances."""
        return self.sharing.program(self.constants, batch.own(places), len(places))


_COMPILED: WeakKeyDictionary[cp.Problem, Compiled] = WeakKeyDictionary()


def solve_problem(
    problem: cp.Problem,
    parameters: Mapping[str, Any] | None = None,
    *,
    engine: str | None = None,
    warm_start: Solution | None = None,
    ids: Sequence[Hashable] | None = None,
    tolerance: float = 1e-6,
    processes: int = 1,
) -> Solution:
    """Solve a cvxpy problem for a batch of parameters.

    The problem is canonicalized at its first solve; later ones, with whatever parameters, use the same form. An
    engine is found by the structure of the canonical program.

    Parameters
    ----------
    problem : cvxpy.Problem
        DCP and DPP; its Parameters have names.
    parameters : mapping of arrays
        Parameter name -> numpy array or tensor; those that vary over the batch have a leading batch axis, the others
        their own shape. Solved in float64 on the device of the tensors.
    engine : str, optional
        A name of `CONIC_ENGINES`; by default the first that can solve the program.
    warm_start : Solution, optional
        An earlier solution of the same instances, or of instances with the same `ids`. Used by the engines that have
        warm starts, when the same engine made it; `CONIC_ENGINES[name].warm` says what it does.
    ids : sequence, optional
        A distinct name for every instance. Instances are then found by name in `warm_start`, whatever its order; the
        solution remembers those of earlier batches too.
    tolerance : float
        An instance is solved when its primal and dual residual and its gap, relative, on the canonical program,
        are at most this (see conic_residuals.py). They are relative to 1 at least: scale data that are much smaller.
    processes : int
        Processes among which the engines that solve one by one (Clarabel, SCS, OSQP) share the batch; what is solved
        again is solved by one.

    Returns
    -------
    Solution
        Instances that miss the tolerance are solved again, at last by Clarabel, and `Solution.again` says which; what
        still misses is marked in `Solution.status`. Infeasible and unbounded ones come with a checked ray. Variables
        and objective carry gradients where parameters require them (see implicit.py).

    Raises
    ------
    NotDisciplinedError
        If the problem is not DCP or not DPP.
    UsageError
        If a name, shape or value does not fit, or the engine is unknown or cannot solve the problem.
    CanonicalFormError
        If this version of cvxpy canonicalizes the problem to a form that is not understood.

    Examples
    --------
    >>> import numpy as np
    >>> x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    >>> solution = solve_problem(problem, {"p": np.array([[-1.0, 2.0, -3.0]])})
    >>> solution.variables["x"]
    tensor([[0., 2., 0.]], dtype=torch.float64)
    >>> solution.engine
    'projected_gradient'
    """
    _check_arguments(problem, parameters, engine, warm_start, tolerance, processes)
    began = time.perf_counter()
    compiled = compile_problem(problem)
    compiling = time.perf_counter() - began
    batch = check_batch(compiled.form, parameters or {})
    names = check_ids(ids, batch.size)
    began = time.perf_counter()
    # Names as cvxpy writes them are taken too: cp.CLARABEL.
    plan = make_plan(compiled, batch, None if engine is None else engine.lower(), processes)
    prepared = time.perf_counter()
    gradients = torch.is_grad_enabled() and any(
        isinstance(values, Tensor) and values.requires_grad for values in (parameters or {}).values()
    )
    if gradients:
        # The backward pass reads the parameters again, whatever became of the user's arrays by then.
        batch = replace(batch, values={name: values.clone() for name, values in batch.values.items()})
    answers = Answers.empty(compiled.form, batch, keep_points=gradients)
    for places, start in _chunks(batch, plan, *recall(warm_start, plan.engine, names, batch.size, batch.device)):
        program = plan.program(batch, places)
        answers.keep(places, program, solve_conic_batch(program, plan.runner, start, tolerance, plan.reference))
    if answers.points is not None:
        _attach_gradients(answers, plan, batch, parameters or {}, tolerance)
    if engine is None and float(answers.reference.double().mean()) > MOST_RESCUED:
        compiled.runners.clear()
    kept, state = remember(warm_start, plan.engine, names, answers.state)
    seconds = time.perf_counter() - prepared, compiling + prepared - began
    return answers.solution(plan.engine, tolerance, seconds, kept, state)


def _attach_gradients(
    answers: Answers, plan: Plan, batch: Batch, parameters: Mapping[str, Any], tolerance: float
) -> None:
    assert answers.points is not None
    sign = answers.form.sign
    x, y, value = differentiable(
        plan.sharing, parameters, lambda places: plan.program(batch, places), *answers.points,
        sign * answers.objective, answers.status(tolerance),
    )  # fmt: skip
    answers.attach(x, y, sign * value)


def compile_problem(problem: cp.Problem) -> Compiled:
    """The canonical form of a problem; made once, and kept as long as the problem lives."""
    if problem not in _COMPILED:
        _COMPILED[problem] = Compiled(canonicalize(problem))
    return _COMPILED[problem]


def make_plan(compiled: Compiled, batch: Batch, engine: str | None, processes: int = 1) -> Plan:
    """Choose an engine for a batch, with all work that depends on the shared parameters alone.

    Raises
    ------
    UsageError
        If the engine is unknown or cannot solve the problem.
    """
    key = (batch.batched, str(batch.device))
    if key not in compiled.sharings:
        compiled.sharings[key] = Sharing(compiled.form, batch.batched, batch.device)
    sharing = compiled.sharings[key]
    shared = hashlib.blake2b(b"".join(value.cpu().numpy().tobytes() for value in batch.shared.values())).digest()
    constants = _kept(compiled.constants, (*key, shared), lambda: sharing.constants(batch.shared))
    varying = sum(len(part.places) for part in (sharing.P, sharing.A))
    rows = _chunk_rows(compiled.form.variables + compiled.form.rows, varying, batch.device)

    def runner(name: str | None) -> tuple[str, Runner]:
        def make() -> tuple[str, Runner]:
            some = torch.arange(min(rows, batch.size), device=batch.device)
            return choose(sharing.program(constants, batch.own(some), len(some)), name)

        return _kept(compiled.runners, (name, *key, shared), make)

    used, run = runner(engine)
    reference = None if used == REFERENCE else runner(REFERENCE)[1]
    if processes > 1 and used in LOOPS:
        run, rows = spread(used, processes), batch.size
    return Plan(sharing, constants, used, run, reference, rows)


def _kept(store: dict[tuple[Any, ...], Made], key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
    """What is kept under a key, made where it is not; what was not asked for the longest goes when there are many."""
    made = store.pop(key) if key in store else make()
    if len(store) >= KEPT_RUNNERS:
        store.pop(next(iter(store)))
    store[key] = made
    return made


def _chunk_rows(length: int, varying: int, device: torch.device) -> int:
    """How many instances are solved together, given the entries of the vectors and of the own matrices of each."""
    if device.type != "cpu":
        return max(1, DEVICE_ENTRIES // (length + varying))
    rows = min(CHUNK_ENTRIES[0] // max(1, length), CHUNK_ENTRIES[1] // max(1, varying), MOST_ROWS)
    # Very large instances are solved few at a time, whatever that costs.
    return max(rows, min(LEAST_ROWS, 16 * CHUNK_ENTRIES[1] // (length + varying)), 1)


def _chunks(batch: Batch, plan: Plan, state: dict[str, Tensor], known: Tensor) -> Iterator[tuple[Tensor, Start]]:
    """Places of instances that are solved together, with their warm start; those with and without a past apart."""
    every = torch.arange(batch.size, device=batch.device)
    for places, warm in ((every[known], True), (every[~known], False)) if bool(known.any()) else ((every, False),):
        for some in torch.split(places, plan.rows) if len(places) else ():
            yield some, {name: values[some] for name, values in state.items()} if warm else {}


def _check_arguments(
    problem: Any, parameters: Any, engine: Any, warm_start: Any, tolerance: Any, processes: Any
) -> None:
    if not isinstance(problem, cp.Problem):
        raise UsageError(
            f"the problem is {problem!r}; expected a cvxpy.Problem (a Subproblem is for solve(subproblem, data))."
        )
    if parameters is not None and not isinstance(parameters, Mapping):
        raise UsageError(f"parameters is {type(parameters).__name__}; expected a dict of names and arrays.")
    if engine is not None and not isinstance(engine, str):
        raise UsageError(f"engine is {engine!r}; expected a name, e.g. 'clarabel'.")
    if not isinstance(tolerance, Real) or not 0 < float(tolerance) < 1:
        raise UsageError(f"tolerance is {tolerance!r}; expected a number between 0 and 1, e.g. 1e-6.")
    if warm_start is not None and not isinstance(warm_start, Solution):
        raise UsageError(f"warm_start is {type(warm_start).__name__}; expected a Solution of an earlier solve.")
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise UsageError(f"processes is {processes!r}; expected a whole number, 1 or more.")
