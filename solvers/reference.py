"""The reference: any subproblem through cvxpy and a conic solver, one instance after the other, in float64.

The cvxpy model is the specification; what this engine gives is what the fast engines are compared with. A program is
canonicalized once (it is DPP); Clarabel then reuses the setup, SCS also starts from its last iterate.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from ..formulations.subproblem import Residuals, Subproblem
from .engine import Data
from .solution import Solution, Status, judge

SETTINGS: dict[str, dict[str, Any]] = {
    "clarabel": {"solver": cp.CLARABEL, "tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10},
    "scs": {"solver": cp.SCS, "eps_abs": 1e-9, "eps_rel": 1e-9, "max_iters": 100_000},
}
MANY_PARAMETERS = 5_000
"""Above this many parameter entries cvxpy's parametrized form costs more than canonicalizing each instance anew."""
_STATUS = {
    cp.INFEASIBLE: Status.INFEASIBLE,
    cp.INFEASIBLE_INACCURATE: Status.INFEASIBLE,
    cp.UNBOUNDED: Status.UNBOUNDED,
    cp.UNBOUNDED_INACCURATE: Status.UNBOUNDED,
}


def solve_reference(
    subproblem: Subproblem, data: Data, *, solver: str = "clarabel", tolerance: float = 1e-6
) -> Solution:
    """Solve every instance of a batch with cvxpy.

    Parameters
    ----------
    subproblem : Subproblem
        The program.
    data : mapping of Tensor
        Name -> data, batch axis first on what is per instance.
    solver : {"clarabel", "scs"}
        The conic solver.
    tolerance : float
        Residuals at most this large count as solved.

    Returns
    -------
    Solution
        With duals under the labels of the constraints.

    Raises
    ------
    NoConvexModelError
        If the subproblem has no convex model.
    """
    start = time.perf_counter()
    problem = subproblem.program()
    shared = [name for name in data if subproblem.is_shared(name)]
    parameters = {parameter.name(): parameter for parameter in problem.parameters()}
    for name in shared:
        parameters[name].value = data[name].cpu().numpy()
    batch = batch_size(subproblem, data)
    per_instance = {name: data[name].cpu().numpy() for name in data if name not in shared}
    seconds, records = 0.0, []
    for place in range(batch):
        for name, values in per_instance.items():
            parameters[name].value = values[place]
        began = time.perf_counter()
        records.append(solve_one(problem, solver))
        seconds += time.perf_counter() - began
    compiled = time.perf_counter() - start - seconds + sum(record["compile"] for record in records)
    return _collect(subproblem, problem, data, records, solver, tolerance, seconds, compiled)


def batch_size(subproblem: Subproblem, data: Data) -> int:
    """Length of the batch axis; 1 where every symbol is shared."""
    return next((len(values) for name, values in data.items() if not subproblem.is_shared(name)), 1)


def has_many_parameters(problem: cp.Problem) -> bool:
    """Whether the parametrized canonical form is not worth its memory (it can take gigabytes)."""
    return sum(parameter.size for parameter in problem.parameters()) > MANY_PARAMETERS


def solve_one(problem: cp.Problem, solver: str) -> dict[str, Any]:
    """Solve a program whose parameters have values; status, values, duals and measurements as plain data."""
    status, message = Status.FAILED, ""
    try:
        with warnings.catch_warnings():
            # The status says what the warning would; residuals are measured by ourselves.
            warnings.simplefilter("ignore")
            problem.solve(warm_start=True, ignore_dpp=has_many_parameters(problem), **SETTINGS[solver])
        status = _STATUS.get(problem.status, Status.SOLVED)
    except cp.SolverError as error:
        message = str(error)
    usable = status is Status.SOLVED and all(variable.value is not None for variable in problem.variables())
    stats = problem.solver_stats
    return {
        "status": status if usable or status is not Status.SOLVED else Status.FAILED,
        "message": message,
        "values": {v.name(): np.array(v.value) for v in problem.variables()} if usable else {},
        "duals": dict(_duals(problem)) if usable else {},
        "objective": float(problem.value) if usable else np.nan,
        "violation": max((float(np.max(c.violation(), initial=0.0)) for c in problem.constraints), default=0.0)
        if usable
        else np.inf,
        "iterations": (stats.num_iters or 0) if stats is not None else 0,
        "compile": problem.compilation_time or 0.0,
    }


def constraint_labels(problem: cp.Problem) -> list[str]:
    """A name for every constraint: its label, made unique, or its place."""
    labels: list[str] = []
    for place, constraint in enumerate(problem.constraints):
        label = constraint.label or f"constraint {place + 1}"
        labels.append(label if label not in labels else f"{label} ({place + 1})")
    return labels


def _duals(problem: cp.Problem) -> list[tuple[str, np.ndarray]]:
    pairs = zip(constraint_labels(problem), problem.constraints, strict=True)
    return [(label, np.array(c.dual_value)) for label, c in pairs if isinstance(c.dual_value, (float, np.ndarray))]


def _collect(
    subproblem: Subproblem, problem: cp.Problem, data: Data, records: list[dict[str, Any]],
    solver: str, tolerance: float, seconds: float, compiled: float,
) -> Solution:  # fmt: skip
    device = next(iter(data.values())).device
    values = {
        variable.name(): _stack([record["values"].get(variable.name()) for record in records], variable.shape, device)
        for variable in problem.variables()
    }
    shapes = dict(zip(constraint_labels(problem), (c.shape for c in problem.constraints), strict=True))
    duals = {
        label: _stack([record["duals"].get(label) for record in records], shape, device)
        for label, shape in shapes.items()
        if any(label in record["duals"] for record in records)
    }
    residuals = subproblem.residuals(values, data) or _plain_residuals(records, device)
    statuses = tuple(
        record["status"] if record["status"] is not Status.SOLVED else judged
        for record, judged in zip(records, judge(residuals, tolerance), strict=True)
    )
    iterations = torch.tensor([record["iterations"] for record in records], device=device)
    return Solution(values, residuals, statuses, iterations, solver, seconds, compiled, duals)


def _stack(rows: list[np.ndarray | None], shape: tuple[int, ...], device: torch.device) -> Tensor:
    filled = [np.full(shape, np.nan) if row is None else np.asarray(row, float).reshape(shape) for row in rows]
    return torch.tensor(np.stack(filled), dtype=torch.float64, device=device)


def _plain_residuals(records: list[dict[str, Any]], device: torch.device) -> Residuals:
    """Violations measured by cvxpy; for a program without batched formulas nothing else is measured yet.

    Stationarity and gap are then the solver's own word (zero where it reports an optimum), not a measurement.
    """
    violation = torch.tensor([record["violation"] for record in records], dtype=torch.float64, device=device)
    unmeasured = torch.where(violation.isfinite(), 0.0, torch.inf)
    return Residuals(violation, unmeasured, unmeasured)
