"""solve(subproblem, data): check the data, pick an engine, run it, measure the residuals.

The package's own blocks have batched engines and residuals by their own formulas. Every other Subproblem is a DPP
program like any, and is solved by `solve_problem`.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..formulations.errors import UsageError
from ..formulations.subproblem import Subproblem
from . import activation_gradient, activation_newton, ball_newton, clipping, output_newton, ridge, weight_newton
from .conic import SETTINGS
from .conic_engines import CONIC_ENGINES, REFERENCE
from .engine import Data, Engine
from .measured import Measured
from .problems import solve_problem
from .reference import batch_size, solve_reference
from .solution import Solution, join_solutions
from .tensors import as_tensor, one_device
from .warm_starts import check_ids, recall, remember

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        activation_gradient.ENGINE,
        activation_newton.ENGINE,
        weight_newton.ENGINE,
        output_newton.ENGINE,
        ridge.ENGINE,
        clipping.ENGINE,
        ball_newton.ENGINE,
    )
}
"""Engines of the package's own blocks, in the order in which `solve` asks them; see also `CONIC_ENGINES`."""


def solve(
    subproblem: Subproblem,
    data: Mapping[str, Any],
    *,
    engine: str | None = None,
    warm_start: Solution | Mapping[str, Any] | None = None,
    ids: Sequence[Hashable] | None = None,
    tolerance: float = 1e-6,
) -> Solution:
    """Solve a batch of instances of one subproblem.

    Parameters
    ----------
    subproblem : Subproblem
        The program, for one instance.
    data : mapping of arrays
        Name -> numpy array or tensor; what is per instance has a leading batch axis, what is shared has none.
        Solved in float64 on the device of the tensors.
    engine : str, optional
        A name of `ENGINES` or `CONIC_ENGINES`. By default the first of `ENGINES` that can solve the subproblem, else
        the first of `CONIC_ENGINES`, found by the structure of its canonical program; `Solution.engine` says which ran.
    warm_start : Solution or mapping, optional
        An earlier solution of the same instances, or (for `ENGINES`) values of variables to start from. Clarabel has
        no starting point and leaves it unused; SCS, for the package's own blocks, starts from the instance before.
    ids : sequence, optional
        A distinct name for every instance; they are then found by name in the warm start. See `solve_problem`.
    tolerance : float
        An instance is solved when its gap, relative to 1 + the size of the objective, and its violation are at most
        this. Where nothing bounds the gap (weights without decay or proximal term) the relative gradient decides.
        The batched engines go on to a hundredth of their plain start's gap where that is less, so that a start whose
        gap is small by its scale alone is not taken for the solution.

    Returns
    -------
    Solution
        With residuals measured on the original program. Instances that miss the tolerance are
        marked, never hidden: `Solution.require_solved` raises for them.

    Raises
    ------
    UsageError
        If a name, shape or value of the data does not fit, or the engine is unknown or cannot solve the subproblem.

    Examples
    --------
    >>> import numpy as np
    >>> from convexblocks.formulations import FenchelOutput
    >>> block = FenchelOutput(outputs=2, loss="squared", multiplier=1.0)
    >>> solve(block, {"u": np.zeros((1, 2)), "y": np.ones((1, 2))}).variables["z"]
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    if not isinstance(subproblem, Subproblem):
        raise UsageError(
            f"the subproblem is {subproblem!r}; expected a Subproblem, e.g. FenchelActivation(width=4) (a "
            "cvxpy.Problem is for solve_problem)."
        )
    if not isinstance(tolerance, Real) or not 0 < tolerance < 1:
        raise UsageError(f"tolerance is {tolerance!r}; expected a number between 0 and 1, e.g. 1e-6.")
    tensors = check_data(subproblem, data)
    chosen = choose_engine(subproblem, engine)
    if isinstance(chosen, str):
        return _solve_as_program(subproblem, tensors, chosen, warm_start, ids, tolerance)
    batch, device = batch_size(subproblem, tensors), one_device(subproblem.name, tensors)
    names = check_ids(ids, batch)
    if names and isinstance(warm_start, Solution):
        return _solve_by_name(subproblem, tensors, chosen, warm_start, names, tolerance)
    start = _starting_point(subproblem, warm_start, batch, device)
    return replace(_run(subproblem, tensors, chosen, start, tolerance), ids=names)


def _run(subproblem: Subproblem, data: Data, engine: Engine, start: Data, tolerance: float) -> Solution:
    """Run an engine of the package's own blocks, and judge its answers."""
    return solve_checked(subproblem, data, engine, start, tolerance).solution(tolerance)


def solve_checked(subproblem: Subproblem, data: Data, engine: Engine, start: Data, tolerance: float) -> Measured:
    """Run an engine of the package's own blocks, and measure its answers.

    Parameters
    ----------
    subproblem : Subproblem
        The program, for one instance.
    data, start : mappings of Tensor
        Float64 on one device, in the shapes that `solve` expects; nothing of them is checked.
    engine : Engine
        See `choose_engine`.
    tolerance : float
        As for `solve`.

    Returns
    -------
    Measured
        Where the device works on its own, nothing was read off it but what the engine had to see.
    """
    began = time.perf_counter()
    answer = engine.run(subproblem, data, start, tolerance)
    seconds = time.perf_counter() - began
    residuals = subproblem.residuals(answer.values, data)
    assert residuals is not None, "an engine needs a subproblem with batched residuals"
    return Measured(answer, residuals, engine.name, seconds)


def _solve_as_program(
    subproblem: Subproblem, data: Data, engine: str, warm_start: Any, ids: Sequence[Hashable] | None, tolerance: float
) -> Solution:
    """Solve a subproblem as any other DPP program; the package's own blocks by the reference, with their residuals."""
    if engine in SETTINGS and has_own_residuals(subproblem):
        return solve_reference(subproblem, data, solver=engine, tolerance=tolerance)
    if warm_start is not None and not isinstance(warm_start, Solution):
        raise UsageError(
            f"{subproblem.name}: a warm start by values is for the engines {', '.join(ENGINES)}; give a Solution."
        )
    known = {parameter.name() for parameter in subproblem.program().parameters()}
    return solve_problem(
        subproblem.program(), {name: value for name, value in data.items() if name in known}, engine=engine or None,
        warm_start=warm_start, ids=ids, tolerance=tolerance,
    )  # fmt: skip


def _solve_by_name(
    subproblem: Subproblem, data: Data, engine: Engine, previous: Solution, ids: tuple[Hashable, ...], tolerance: float
) -> Solution:
    """Solve instances with a past from there, and the others cold."""
    state, known = recall(previous, engine.name, ids, len(ids), one_device(subproblem.name, data))
    groups = [(places, warm) for places, warm in ((known.nonzero()[:, 0], True), ((~known).nonzero()[:, 0], False))
              if len(places)]  # fmt: skip
    parts = []
    for places, warm in groups:
        some = {name: value if subproblem.is_shared(name) else value[places] for name, value in data.items()}
        start = {name: values[places] for name, values in state.items()} if warm else {}
        parts.append(_run(subproblem, some, engine, start, tolerance))
    order = torch.argsort(torch.cat([places for places, _ in groups]))
    joined = join_solutions(parts, order)
    kept, kept_state = remember(previous, engine.name, ids, dict(joined.state))
    return replace(joined, ids=kept, state=kept_state)


def choose_engine(subproblem: Subproblem, name: str | None = None) -> Engine | str:
    """The engine of a name, or the first that can solve the subproblem.

    Returns
    -------
    Engine or str
        An engine of the package's own blocks, or the name of one of `CONIC_ENGINES`; an empty name leaves the choice
        to the structure of the canonical program.

    Raises
    ------
    UsageError
        If the name is unknown, or the engine lacks something that the subproblem needs.
    """
    if name is None:
        fallback = REFERENCE if has_own_residuals(subproblem) else ""
        return next((engine for engine in ENGINES.values() if not engine.missing(subproblem)), fallback)
    if name in ENGINES and not ENGINES[name].missing(subproblem):
        return ENGINES[name]
    if name in CONIC_ENGINES and (name not in ENGINES or not has_own_residuals(subproblem)):
        return name
    able = [engine.name for engine in ENGINES.values() if not engine.missing(subproblem)]
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; known: {', '.join(dict.fromkeys([*ENGINES, *CONIC_ENGINES]))}.")
    raise UsageError(
        f"the engine {name!r} cannot solve {subproblem.name!r}: it needs {ENGINES[name].missing(subproblem)}. "
        f"Engines that can: {', '.join([*able, *SETTINGS])}."
    )


def has_own_residuals(subproblem: Subproblem) -> bool:
    """Whether a subproblem measures residuals by formulas of its own."""
    return type(subproblem).residuals is not Subproblem.residuals


def check_data(subproblem: Subproblem, data: Mapping[str, Any]) -> dict[str, Tensor]:
    """The data as float64 tensors of the right names, shapes and finite values.

    Raises
    ------
    UsageError
        Naming the symbol, what was seen and what was expected.
    """
    shapes = subproblem.data_shapes()
    wrong = [f"unexpected {name!r}" for name in data if name not in shapes]
    wrong += [f"missing {name!r}" for name in shapes if name not in data]
    if wrong:
        raise UsageError(f"{subproblem.name}: {', '.join(wrong)}; expected the data {', '.join(map(repr, shapes))}.")
    tensors, batch, device = {}, None, one_device(subproblem.name, data)
    for name, shape in shapes.items():
        array = as_tensor(f"{subproblem.name}: {name!r}", data[name], device)
        if subproblem.is_shared(name):
            if tuple(array.shape) != shape:
                raise UsageError(
                    f"{subproblem.name}: {name!r} has shape {tuple(array.shape)}; expected {shape}, one for all."
                )
        elif tuple(array.shape[1:]) != shape or array.ndim == 0 or len(array) == 0:
            raise UsageError(
                f"{subproblem.name}: {name!r} has shape {tuple(array.shape)}; expected {('batch', *shape)}, "
                "one row or more for the instances."
            )
        elif batch is not None and len(array) != batch:
            raise UsageError(f"{subproblem.name}: {name!r} has {len(array)} instances; data before it have {batch}.")
        else:
            batch = len(array)
        if not bool(array.isfinite().all()):
            raise UsageError(f"{subproblem.name}: {name!r} holds NaN or infinite values; expected finite numbers.")
        tensors[name] = array
    return tensors


def _starting_point(
    subproblem: Subproblem, warm_start: Solution | Mapping[str, Any] | None, batch: int, device: torch.device
) -> dict[str, Tensor]:
    """The warm start as checked tensors; empty where there is none."""
    if warm_start is None:
        return {}
    shapes = subproblem.start_shapes()
    if isinstance(warm_start, Solution):
        # Answers of the reference hold auxiliary variables of the model too, which engines do not have.
        values = warm_start.state or warm_start.variables
        given: Mapping[str, Any] = {name: value for name, value in values.items() if name in shapes}
    else:
        given = warm_start
    start = {name: as_tensor(f"the warm start {name!r}", value, device) for name, value in given.items()}
    for name, value in start.items():
        if name not in shapes:
            raise UsageError(f"the warm start has an unknown {name!r}; known: {', '.join(map(repr, shapes))}.")
        if tuple(value.shape) != (batch, *shapes[name]):
            raise UsageError(
                f"the warm start {name!r} has shape {tuple(value.shape)}; expected {(batch, *shapes[name])}, "
                "one row for each instance."
            )
        if not bool(value.isfinite().all()):
            raise UsageError(f"the warm start {name!r} holds NaN or infinite values; solve from a cold start instead.")
    return start
