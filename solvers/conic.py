"""One instance through cvxpy and a conic solver: the reference of the package's own blocks.

The cvxpy model is the specification; nothing of canonical.py is used here, so that the one can check the other.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import cvxpy as cp
import numpy as np

from .solution import Status

SETTINGS: dict[str, dict[str, Any]] = {
    "clarabel": {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10},
    "scs": {"eps_abs": 1e-9, "eps_rel": 1e-9, "max_iters": 100_000},
}
MANY_PARAMETERS = 5_000
"""Above this many parameter entries cvxpy's parametrized form costs more than canonicalizing each instance anew."""

_STATUS = {
    cp.INFEASIBLE: Status.INFEASIBLE,
    cp.INFEASIBLE_INACCURATE: Status.INFEASIBLE,
    cp.UNBOUNDED: Status.UNBOUNDED,
    cp.UNBOUNDED_INACCURATE: Status.UNBOUNDED,
}


@dataclass(frozen=True)
class ConicAnswer:
    """A conic solver's answer to one instance: values and duals by name, and the objective.

    `status` is SOLVED where the solver gave a point; whether the point is good is for the residuals to say.
    """

    status: Status
    values: dict[str, np.ndarray] = field(default_factory=dict)
    duals: dict[str, np.ndarray] = field(default_factory=dict)
    objective: float = np.nan
    iterations: int = 0


def has_many_parameters(problem: cp.Problem) -> bool:
    """Whether the parametrized canonical form is not worth its memory (it can take gigabytes)."""
    return sum(parameter.size for parameter in problem.parameters()) > MANY_PARAMETERS


def has_exponential_cones(problem: cp.Problem) -> bool:
    """Whether Clarabel solves the program over exponential cones, where it is less accurate."""
    data, _, _ = problem.get_problem_data("CLARABEL", ignore_dpp=has_many_parameters(problem))
    return bool(data["dims"].exp)


def solve_conic(problem: cp.Problem, solver: str, *, warm: bool = False) -> ConicAnswer:
    """Solve a program whose parameters have values, by ``"clarabel"`` or ``"scs"``.

    The program is canonicalized once (it is DPP), unless it has very many parameters. With `warm` SCS starts from the
    last answer to this problem. The variables of the program
    hold the answer afterwards.
    """
    settings = SETTINGS[solver]
    with warnings.catch_warnings():
        # The status says what the warnings would, and the residuals are measured here.
        warnings.simplefilter("ignore")
        data, chain, inverse = problem.get_problem_data(
            solver.upper(), ignore_dpp=has_many_parameters(problem), solver_opts=settings
        )
        raw = chain.solve_via_data(problem, data, warm_start=warm, verbose=False, solver_opts=settings)
        try:
            problem.unpack_results(raw, chain, inverse)
        except cp.SolverError:
            return ConicAnswer(Status.FAILED)
    iterations = int(problem.solver_stats.num_iters or 0) if problem.solver_stats is not None else 0
    status = _STATUS.get(problem.status, Status.SOLVED)
    if status is Status.SOLVED and any(variable.value is None for variable in problem.variables()):
        status = Status.FAILED
    if status is not Status.SOLVED:
        return ConicAnswer(status, iterations=iterations)
    return ConicAnswer(
        status,
        {variable.name(): np.array(variable.value) for variable in problem.variables()},
        _duals(problem),
        float(problem.value),
        iterations,
    )


def largest_violation(problem: cp.Problem) -> float:
    """Largest violation of a constraint at the present values of the variables, measured by cvxpy."""
    return max((float(np.max(constraint.violation(), initial=0.0)) for constraint in problem.constraints), default=0.0)


def constraint_labels(problem: cp.Problem) -> list[str]:
    """A name for every constraint: its label, made unique, or its place."""
    labels: list[str] = []
    for place, constraint in enumerate(problem.constraints):
        label = constraint.label or f"constraint {place + 1}"
        while label in labels:
            label = f"{label} ({place + 1})"
        labels.append(label)
    return labels


def _duals(problem: cp.Problem) -> dict[str, np.ndarray]:
    """Duals by label; cones with several dual parts (second-order, exponential) are left out."""
    pairs = zip(constraint_labels(problem), problem.constraints, strict=True)
    return {label: np.array(c.dual_value) for label, c in pairs if isinstance(c.dual_value, (float, np.ndarray))}
