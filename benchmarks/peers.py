"""Other solvers on the instances of a model, for `python -m benchmarks.batched`.

A peer is prepared for instances and a tolerance (setting up, factorizing and tuning are not timed) and gives a trial:
a run, which is timed, and the worst residual of its answers. Peers that give x and y are measured on the whole
canonical program; cvxpy's loops too, whose raw answers are kept as they pass. cvxpylayers gives values of variables
alone; these are measured by the violation of the constraints and the error of the objective, relative to 1 + its size,
both against a reference at 1e-10. That asks less of them than of the others.

"reduced" is the canonical program without its definitions; taking them out is not in a peer's time. Batched peers take
64 instances at once. Loops over piqp and proxsuite have bounds and matrices as these want them. A peer that is not
installed raises ImportError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import cvxpy as cp
import numpy as np
import torch
from cvxpy.reductions.solvers.solving_chain import SolvingChain

from .batched_forms import Instances, Trial
from .batched_models import Model
from .raw_peers import (
    ITERATIONS,
    interior_settings,
    moreau_batch,
    piqp_loop,
    point_of,
    proxsuite_batch,
    qpth_batch,
    raw_clarabel,
    raw_osqp,
)


@dataclass(frozen=True)
class Peer:
    """A solver as its users would call it.

    `family` names it in the figures, which take the fastest of a family; `linear` says that it takes no cones but
    linear ones; `warm` that it needs the instances of before.
    """

    name: str
    family: str
    prepare: Callable[[Instances, float], Trial]
    batched: bool = False
    linear: bool = True
    warm: bool = False


def cvxpy_loop(solver: str) -> Callable[[Instances, float], Trial]:
    """One parametrized problem, solved for every instance in turn."""

    def prepare(instances: Instances, tolerance: float) -> Trial:
        problem, settings = instances.model.problem, _cvxpy_settings(solver, tolerance)

        def run() -> tuple[np.ndarray, np.ndarray]:
            with _recorded() as answers:
                for _ in instances.model.each():
                    problem.solve(solver=solver, warm_start=True, **settings)
            x, y = zip(*(point_of(answer) for answer in answers), strict=True)
            return np.array(x), np.array(y)

        return Trial(run, lambda found: instances.whole.measure(*found))

    return prepare


def _cvxpy_settings(solver: str, tolerance: float) -> dict[str, Any]:
    if solver == cp.CLARABEL:
        return interior_settings(tolerance)
    limit = "max_iter" if solver == cp.OSQP else "max_iters"
    return {"eps_abs": tolerance, "eps_rel": tolerance, limit: ITERATIONS}


@contextmanager
def _recorded() -> Iterator[list[Any]]:
    """Keeps what solvers give to cvxpy, before it is turned into values of variables."""
    answers: list[Any] = []
    solve = SolvingChain.solve_via_data

    def recorded(*arguments: Any, **settings: Any) -> Any:
        answers.append(solve(*arguments, **settings))
        return answers[-1]

    with patch.object(SolvingChain, "solve_via_data", recorded):
        yield answers


def layer(solver: str) -> Callable[[Instances, float], Trial]:
    """cvxpylayers: parameters in, values of variables out."""

    def prepare(instances: Instances, tolerance: float) -> Trial:
        from cvxpylayers.torch import CvxpyLayer

        model = instances.model
        problem, variables = model.problem, model.problem.variables()
        settings: dict[str, Any] = {"eps_abs": tolerance, "eps_rel": tolerance, "n_jobs_forward": 1}
        if solver == "MOREAU":
            settings = {"ipm_settings": interior_settings(tolerance)}
        made = CvxpyLayer(problem, problem.parameters(), variables, solver=solver, solver_args=settings)
        values = [torch.as_tensor(model.parameters[parameter.name()]) for parameter in problem.parameters()]

        def run() -> tuple[torch.Tensor, ...]:
            with torch.no_grad():
                answer: tuple[torch.Tensor, ...] = made(*values)
            return answer

        return Trial(run, lambda found: _error(model, [part.numpy() for part in found]))

    return prepare


def _error(model: Model, found: list[np.ndarray]) -> float:
    """The worst violation of a constraint, or error of the objective, of values of the variables."""
    worst = 0.0
    variables = model.problem.variables()
    best = model.best
    for place in model.each():
        pairs = [(variable, values[place]) for variable, values in zip(variables, found, strict=True)]
        for variable, values in pairs:
            variable.save_value(values)
        outside = [np.max(constraint.violation()) for constraint in model.problem.constraints]
        outside += [np.max(-values) for variable, values in pairs if variable.attributes["nonneg"]]
        largest = max(np.abs(values).max() for _, values in pairs)
        error = abs(model.problem.objective.value - best[place]) / (1 + abs(best[place]))
        worst = max(worst, error, *(part / (1 + largest) for part in outside))
    return float(worst)


PEERS = (
    Peer("cvxpy loop, Clarabel", "cvxpy Clarabel", cvxpy_loop(cp.CLARABEL), linear=False),
    Peer("cvxpy loop, OSQP", "cvxpy OSQP", cvxpy_loop(cp.OSQP)),
    Peer("cvxpy loop, SCS", "cvxpy SCS", cvxpy_loop(cp.SCS), linear=False),
    Peer("Clarabel update, whole", "raw Clarabel", raw_clarabel("whole"), linear=False),
    Peer("Clarabel update, reduced", "raw Clarabel", raw_clarabel("reduced"), linear=False),
    Peer("OSQP update, reduced", "raw OSQP", raw_osqp(polished=False)),
    Peer("OSQP update, reduced, polished", "raw OSQP", raw_osqp(polished=True)),
    Peer("OSQP update, reduced, warm", "raw OSQP warm", raw_osqp(polished=False), warm=True),
    Peer("Moreau batch, whole", "Moreau batch", moreau_batch("whole"), batched=True, linear=False),
    Peer("Moreau batch, reduced", "Moreau batch", moreau_batch("reduced"), batched=True, linear=False),
    Peer("Moreau active set, whole", "Moreau active set", moreau_batch("whole", "active_set"), batched=True),
    Peer("Moreau active set, reduced", "Moreau active set", moreau_batch("reduced", "active_set"), batched=True),
    Peer("Moreau batch, whole, warm", "Moreau warm", moreau_batch("whole"), batched=True, linear=False, warm=True),
    Peer("cvxpylayers DIFFCP", "cvxpylayers", layer("DIFFCP"), linear=False),
    Peer("cvxpylayers MOREAU", "cvxpylayers", layer("MOREAU"), batched=True, linear=False),
    Peer("proxsuite BatchQP, reduced", "proxsuite", proxsuite_batch),
    Peer("piqp update, reduced", "piqp", piqp_loop),
    Peer("qpth batch, reduced", "qpth", qpth_batch, batched=True),
)
