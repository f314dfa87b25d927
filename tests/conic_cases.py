"""What the tests of conic engines share: programs of models for a batch, and what an engine's answers are held to."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor
from zoo import BATCH, Data, Model

from convexblocks.solvers.canonical import Canonical, canonicalize
from convexblocks.solvers.conic_engine import ConicEngine, Runner, Start
from convexblocks.solvers.conic_program import INFEASIBLE, POINT, UNBOUNDED, ConicProgram, Points
from convexblocks.solvers.conic_residuals import measure
from convexblocks.solvers.parametrized import Sharing
from convexblocks.solvers.recoveries import Recovery

TIGHT = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}


@dataclass(frozen=True)
class Case:
    """A model with the data of a batch, in the model's own words and as conic programs."""

    problem: cp.Problem
    data: Data
    form: Canonical
    program: ConicProgram

    def instance(self, place: int) -> None:
        """Give the model's parameters the values of one instance."""
        for parameter in self.problem.parameters():
            value = self.data[parameter.name()]
            parameter.value = value[place] if value.ndim > len(parameter.shape) else value


def case(problem: cp.Problem, data: Data, form: Canonical | None = None) -> Case:
    form = form or canonicalize(problem)
    given = {name: torch.as_tensor(np.asarray(value, dtype=float)) for name, value in data.items()}
    shapes = {parameter.name(): parameter.shape for parameter in problem.parameters()}
    own = {name: value for name, value in given.items() if value.ndim > len(shapes[name])}
    sharing = Sharing(form, tuple(own))
    constants = sharing.constants({name: value for name, value in given.items() if name not in own})
    batch = len(next(iter(own.values()))) if own else 1
    return Case(problem, data, form, sharing.program(constants, own, batch))


@cache
def form_of(model: Model) -> tuple[cp.Problem, Canonical]:
    problem = model.write()
    return problem, canonicalize(problem)


@cache
def zoo_case(model: Model, seed: int = 0) -> Case:
    problem, form = form_of(model)
    return case(problem, model.draw(seed), form)


def ends(model: Model, batch: int = BATCH) -> list[int]:
    """The claims that are to come, instance by instance."""
    kinds = dict.fromkeys(model.infeasible, INFEASIBLE) | dict.fromkeys(model.unbounded, UNBOUNDED)
    return [kinds.get(place, POINT) for place in range(batch)]


def runner_of(engine: ConicEngine, program: ConicProgram) -> Runner:
    made = engine.prepare(program)
    assert not isinstance(made, str), made
    return made


def solve(engine: ConicEngine, program: ConicProgram, tolerance: float = 1e-6, start: Start | None = None) -> Points:
    return runner_of(engine, program)(program, start or {}, tolerance)


def worst(program: ConicProgram, points: Points, tolerance: float) -> tuple[list[int], Tensor]:
    """Claims that hold, and the worst residual of each instance."""
    checked, residuals = measure(program, points, tolerance)
    return checked.claim.tolist(), torch.stack([residuals.primal, residuals.dual, residuals.gap]).amax(0)


def recovered(recovery: Recovery, rows: Tensor) -> np.ndarray:
    """Values of one name, batch axis first."""
    values = recovery.coefficients * rows.numpy()[:, recovery.places]
    return values.reshape(len(values), *recovery.shape)


def objectives(made: Case, x: Tensor) -> Tensor:
    program = made.program
    return made.form.sign * (0.5 * (x * program.P.times(x)).sum(1) + (program.q * x).sum(1) + program.offset)


def answers_of_cvxpy(made: Case, place: int) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Objective, variables and duals (where they are single arrays) of one instance, by cvxpy with Clarabel."""
    made.instance(place)
    with warnings.catch_warnings():
        # Clarabel calls an answer inaccurate that meets 1e-8 and misses the 1e-10 that is asked of it.
        warnings.simplefilter("ignore")
        made.problem.solve(solver=cp.CLARABEL, **TIGHT)
    duals = {c.label: c.dual_value for c in made.problem.constraints if isinstance(c.dual_value, (float, np.ndarray))}
    return made.problem.value, {v.name(): v.value for v in made.problem.variables()}, duals
