"""OSQP on a batch of quadratic programs: one factorization, vectors updated from instance to instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .conic_engine import ConicEngine, Runner, Start
from .conic_program import INFEASIBLE, NOTHING, POINT, UNBOUNDED, ConicProgram, Points
from .layouts import Layouts, layouts
from .short_form import Form, choose_form
from .single_programs import Table, optional_package, solve_twice, starts, unknown_cones

CLAIMS = {1: POINT, 2: POINT, 3: INFEASIBLE, 5: UNBOUNDED, 7: POINT}
"""OSQP's status values; the others are failures, or guesses of a ray when its iterations are spent."""
SOLVED = 1
SHARES = (0.5, 0.002)
"""Of the tolerance, for the first and the second time."""
ITERATIONS = (4_000, 40_000)
LEAST_RAY = 1e-9
"""Rays are asked for so well, however loose the tolerance: programs whose scales lie far apart have false ones."""
CHECK_EVERY = 10
"""Iterations between tests; OSQP's own 25 are more than a warm start needs."""
STEP = 0.1
"""OSQP's rho at the start of a batch."""
INFINITE = 1e30
"""OSQP's infinity; it does not take another."""


_Settings = tuple[float, int]
"""Tolerance and most iterations."""


@dataclass(frozen=True)
class _Kit:
    """One pattern, with the solvers that wait to be used again, by settings."""

    layouts: Layouts
    first: dict[str, np.ndarray]
    spare: dict[_Settings, list[Any]]


def _prepare(program: ConicProgram) -> Runner | str:
    osqp = optional_package("osqp")
    if osqp is None:
        return "the package osqp (pip install 'convexblocks[osqp]')"
    if lacking := unknown_cones(program.cones):
        return lacking
    if not program.cones.linear:
        return f"equalities and inequalities alone (this program has {program.cones})"
    form = choose_form(program)
    kits = [_kit(form, narrow=narrow) for narrow in (True, False)]

    def run(program: ConicProgram, start: Start, tolerance: float) -> Points:
        def attempt(part: ConicProgram, start: Start, tight: bool) -> Points:
            settings = SHARES[tight] * tolerance, ITERATIONS[tight]

            def loop(short: ConicProgram, start: Start) -> Points:
                kit = next(kit for kit in kits if kit.layouts.hold(short))
                return _loop(osqp, kit, short, start, settings)

            return form.solve(part, start, loop)

        return solve_twice(program, start, tolerance, attempt)

    return run


def _kit(form: Form, *, narrow: bool) -> _Kit:
    both = layouts(form.example, narrow=narrow)
    return _Kit(both, next(both.instances(form.example)), {})


def _loop(osqp: Any, kit: _Kit, program: ConicProgram, start: Start, settings: _Settings) -> Points:
    table, before = Table.of(program), starts(start, ("x", "y"), program)
    kept = kit.spare.setdefault(settings, [])
    solver = kept.pop() if kept else None
    for place, data in enumerate(kit.layouts.instances(program)):
        try:
            solver = _ready(osqp, kit, solver, data, program, settings)
        except osqp.OSQPException:
            solver = None
            continue
        solver.warm_start(**_point(before, place, data))
        answer = solver.solve(raise_error=False)
        _note(table, place, answer)
        if answer.info.status_val != SOLVED:
            # Rho follows the instances; one without a solution leaves it anywhere.
            solver = None
    if program.shared and solver is not None:
        # As new, so that the next batch does not depend on this one; with other matrices it would.
        solver.update_settings(rho=STEP)
        kept.append(solver)
    return table.points(program, ("x", "y"))


def _ready(
    osqp: Any, kit: _Kit, solver: Any, data: dict[str, np.ndarray], program: ConicProgram, settings: _Settings
) -> Any:
    """A solver that holds an instance: the given one, or a new one."""
    zero = program.cones.zero
    if not program.shared and solver is None:
        return _solver(osqp, kit, data, zero, settings)
    solver = solver or _solver(osqp, kit, kit.first, zero, settings)
    matrices = {} if program.P.shared else {"Px": data["P"]}
    if not program.A.shared:
        matrices["Ax"] = data["A"]
    solver.update(q=data["q"], l=_lower(data["b"], zero), u=data["b"], **matrices)
    return solver


def _point(before: dict[str, np.ndarray], place: int, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where an instance starts; zeros for a cold start, because OSQP would go on from its neighbour."""
    point = {name: rows[place] for name, rows in before.items()}
    if point and all(np.isfinite(part).all() for part in point.values()):
        return point
    return {"x": np.zeros(len(data["q"])), "y": np.zeros(len(data["b"]))}


def _note(table: Table, place: int, answer: Any) -> None:
    claim = CLAIMS.get(int(answer.info.status_val), NOTHING)
    table.claim[place], table.iterations[place] = claim, answer.info.iter
    if claim in (POINT, UNBOUNDED):
        table.x[place] = answer.x if claim == POINT else answer.dual_inf_cert
    if claim in (POINT, INFEASIBLE):
        table.y[place] = answer.y if claim == POINT else answer.prim_inf_cert


def _solver(osqp: Any, kit: _Kit, data: dict[str, np.ndarray], zero: int, settings: _Settings) -> Any:
    tolerance, iterations = settings
    solver = osqp.OSQP()
    P, A = kit.layouts.P.columns(data["P"]), kit.layouts.A.columns(data["A"])
    solver.setup(
        P, data["q"].copy(), A, _lower(data["b"], zero), data["b"].copy(), verbose=False, rho=STEP, eps_abs=tolerance,
        eps_rel=tolerance, eps_prim_inf=LEAST_RAY, eps_dual_inf=LEAST_RAY, max_iter=iterations,
        check_termination=CHECK_EVERY,
    )  # fmt: skip
    return solver


def _lower(b: np.ndarray, zero: int) -> np.ndarray:
    lower = np.full(len(b), -INFINITE)
    lower[:zero] = b[:zero]
    return lower


OSQP = ConicEngine(
    "osqp",
    "equalities and inequalities with a quadratic objective, one instance after the other on the CPU, by an operator "
    "splitting method; needs the package osqp",
    "starts every instance from its last x and y; helps where the data moved little",
    _prepare,
)
