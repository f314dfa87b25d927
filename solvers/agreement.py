"""agree(subproblem, data): an engine against the cvxpy model solved by Clarabel.

Both the objective and the violations are evaluated by cvxpy ON THE MODEL at the engine's point, so that a wrong formula
in an engine cannot agree with itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..formulations.errors import UsageError
from ..formulations.subproblem import Subproblem
from .batch import check_data, choose_engine, solve
from .conic import has_exponential_cones, largest_violation, solve_conic
from .reference import batch_size
from .solution import SolveError, Status

EXACT, EXPONENTIAL_CONE = 1e-6, 1e-5


@dataclass(frozen=True)
class Agreement:
    """How an engine's answers compare with Clarabel's on the cvxpy model.

    Attributes
    ----------
    engine : str
        The engine that was compared.
    instances : int
        How many instances were compared.
    objective_gap : float
        Largest |objective - Clarabel's objective| / max(1, |Clarabel's objective|).
    violation : float
        Largest violation of a constraint of the model at the engine's points.
    allowed_gap, allowed_violation : float
        What counts as agreement: 1e-6 and 1e-8, and a gap of 1e-5 where the reference solves over exponential cones.
    """

    engine: str
    instances: int
    objective_gap: float
    violation: float
    allowed_gap: float
    allowed_violation: float = 1e-8

    @property
    def agrees(self) -> bool:
        """Whether both figures are within what is allowed."""
        return self.objective_gap <= self.allowed_gap and self.violation <= self.allowed_violation

    def __str__(self) -> str:
        word = "agrees" if self.agrees else "DISAGREES"
        counted = "1 instance" if self.instances == 1 else f"{self.instances} instances"
        return (
            f"{self.engine} {word} with Clarabel on {counted}: relative objective gap "
            f"{self.objective_gap:.1e} (allowed {self.allowed_gap:.0e}), violation {self.violation:.1e} "
            f"(allowed {self.allowed_violation:.0e})"
        )


def agree(
    subproblem: Subproblem,
    data: Mapping[str, Any],
    *,
    engine: str | None = None,
    sample: int = 8,
    tolerance: float = 1e-8,
    random_state: int = 0,
) -> Agreement:
    """Compare an engine with Clarabel on some instances of a batch.

    Parameters
    ----------
    subproblem : Subproblem
        The specification.
    data : mapping of arrays
        As for `solve`.
    engine : str, optional
        The engine to compare; by default the one that `solve` picks.
    sample : int
        At most this many instances are drawn from the batch.
    tolerance : float
        Tolerance asked of the engine.
    random_state : int
        Seed of the draw.

    Raises
    ------
    NoConvexModelError
        If the subproblem has no convex model to compare with.
    UsageError
        For unfit data or engine, or when only the reference itself could solve it.
    SolveError
        If Clarabel fails on an instance.
    """
    # Refused here, before anything is solved, where there is no model to compare with.
    subproblem.program()
    tensors = check_data(subproblem, data)
    if isinstance(choose_engine(subproblem, engine), str) and engine is None:
        raise UsageError(f"{subproblem.name!r} has no batched engine; name one to compare: engine='scs'.")
    chosen = take(subproblem, tensors, draw(subproblem, tensors, sample, random_state))
    solution = solve(subproblem, chosen, engine=engine, tolerance=tolerance)
    return compare(subproblem, chosen, solution.variables, solution.engine)


def compare(
    subproblem: Subproblem, data: Mapping[str, Tensor], values: Mapping[str, Tensor], engine: str
) -> Agreement:
    """Compare given answers with Clarabel's, one by one; see `agree`.

    Raises
    ------
    SolveError
        If Clarabel fails on an instance.
    """
    problem = subproblem.program()
    gaps, violations = [], []
    for place in range(batch_size(subproblem, data)):
        _set_parameters(subproblem, data, place)
        reference = solve_conic(problem, "clarabel")
        # Clarabel's own point may miss the domain by rounding, where the model's objective is infinite.
        optimum = reference.objective
        if reference.status is Status.SOLVED and not np.isfinite(optimum):
            optimum, _ = evaluate(subproblem, {name: torch.as_tensor(v) for name, v in reference.values.items()})
        if not np.isfinite(optimum):
            raise SolveError(f"the reference gave no point for instance {place}: {reference.status.value}")
        objective, violation = evaluate(subproblem, {name: value[place].cpu() for name, value in values.items()})
        gaps.append(abs(objective - optimum) / max(1.0, abs(optimum)))
        violations.append(violation)
    allowed = EXPONENTIAL_CONE if has_exponential_cones(problem) else EXACT
    return Agreement(engine, len(gaps), max(gaps), max(violations), allowed)


def draw(subproblem: Subproblem, data: Mapping[str, Tensor], sample: int, seed: int) -> Tensor:
    """Places of at most `sample` instances of a batch, drawn by a seed."""
    batch = batch_size(subproblem, data)
    return torch.as_tensor(np.sort(np.random.default_rng(seed).permutation(batch)[:sample]))


def evaluate(subproblem: Subproblem, values: Mapping[str, Tensor]) -> tuple[float, float]:
    """Objective and largest violation of the cvxpy model at a point, its parameters being set.

    A point may miss the domain of entr by rounding (x = 1 + 1e-16), where the model's objective is infinite. The
    violation is then that of the point, and the objective that of the nearest point of the domain.
    """
    problem = subproblem.program()
    _assign(subproblem, values)
    violation, objective = largest_violation(problem), float(problem.objective.value)
    if not np.isfinite(objective):
        data = {parameter.name(): torch.as_tensor(parameter.value) for parameter in problem.parameters()}
        _assign(subproblem, subproblem.into_domain(values, data))
        objective = float(problem.objective.value)
    return objective, violation


def _assign(subproblem: Subproblem, values: Mapping[str, Tensor]) -> None:
    """Put values into the model's variables; auxiliary ones get their tight values."""
    variables = {variable.name(): variable for variable in subproblem.program().variables()}
    for name, value in values.items():
        variables[name].project_and_assign(value.cpu().numpy())
    subproblem.complete()


def take(subproblem: Subproblem, data: Mapping[str, Tensor], places: Tensor) -> dict[str, Tensor]:
    """The data of some instances of a batch."""
    return {
        name: value if subproblem.is_shared(name) else value[places.to(value.device)] for name, value in data.items()
    }


def _set_parameters(subproblem: Subproblem, data: Mapping[str, Tensor], place: int) -> None:
    for parameter in subproblem.program().parameters():
        value = data[parameter.name()]
        parameter.value = (value if subproblem.is_shared(parameter.name()) else value[place]).cpu().numpy()
