"""The reference: the package's own blocks through cvxpy and a conic solver, one instance after the other, in float64.

The cvxpy model is the specification; what this engine gives is what the fast engines are compared with. A program is
canonicalized once (it is DPP); SCS then starts from its last iterate, Clarabel has no starting point.
"""

from __future__ import annotations

import time

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from ..formulations.subproblem import Subproblem
from .conic import ConicAnswer, constraint_labels, solve_conic
from .engine import Data
from .solution import Solution, Status, judge


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
    began = time.perf_counter()
    problem = subproblem.program()
    shared = [name for name in data if subproblem.is_shared(name)]
    parameters = {parameter.name(): parameter for parameter in problem.parameters()}
    # A weight block without a proximal term does not mention the present weights.
    for name in (name for name in shared if name in parameters):
        parameters[name].value = data[name].cpu().numpy()
    batch = batch_size(subproblem, data)
    per_instance = {name: data[name].cpu().numpy() for name in data if name in parameters and name not in shared}
    answers, first = [], 0.0
    for place in range(batch):
        for name, values in per_instance.items():
            parameters[name].value = values[place]
        answers.append(solve_conic(problem, solver, warm=place > 0))
        if place == 0:
            first = time.perf_counter() - began
    seconds = time.perf_counter() - began
    # The first instance is canonicalized; the others show what a solve costs.
    compiled = max(0.0, first - (seconds - first) / (batch - 1)) if batch > 1 else 0.0
    return _collect(subproblem, problem, data, answers, solver, tolerance, (seconds - compiled, compiled))


def batch_size(subproblem: Subproblem, data: Data) -> int:
    """Length of the batch axis; 1 where every symbol is shared."""
    return next((len(values) for name, values in data.items() if not subproblem.is_shared(name)), 1)


def _collect(
    subproblem: Subproblem, problem: cp.Problem, data: Data, answers: list[ConicAnswer],
    solver: str, tolerance: float, seconds: tuple[float, float],
) -> Solution:  # fmt: skip
    device = next(iter(data.values())).device
    values = {
        variable.name(): _stack([answer.values.get(variable.name()) for answer in answers], variable.shape, device)
        for variable in problem.variables()
    }
    shapes = dict(zip(constraint_labels(problem), (c.shape for c in problem.constraints), strict=True))
    duals = {
        label: _stack([answer.duals.get(label) for answer in answers], shape, device)
        for label, shape in shapes.items()
        if any(label in answer.duals for answer in answers)
    }
    residuals = subproblem.residuals(values, data)
    assert residuals is not None, "programs without residuals of their own are solved by solve_problem"
    statuses = tuple(
        answer.status if answer.status is not Status.SOLVED else judged
        for answer, judged in zip(answers, judge(residuals, tolerance), strict=True)
    )
    iterations = torch.tensor([answer.iterations for answer in answers], device=device)
    return Solution(values, residuals, statuses, iterations, solver, *seconds, duals)


def _stack(rows: list[np.ndarray | None], shape: tuple[int, ...], device: torch.device) -> Tensor:
    filled = [np.full(shape, np.nan) if row is None else np.asarray(row, float).reshape(shape) for row in rows]
    return torch.tensor(np.stack(filled), dtype=torch.float64, device=device)

