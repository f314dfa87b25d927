"""SCS on a batch: vectors updated from instance to instance; where matrices vary, each has a solver of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scs

from .conic_engine import ConicEngine, Runner, Start
from .conic_program import INFEASIBLE, NOTHING, POINT, UNBOUNDED, Cones, ConicProgram, Points
from .layouts import Layouts, layouts
from .short_form import choose_form
from .single_programs import Table, solve_twice, starts, unknown_cones

CLAIMS = {1: POINT, 2: POINT, -1: UNBOUNDED, -2: INFEASIBLE}
"""SCS's status values; the others are failures, or guesses of a ray when its iterations are spent."""
SHARES = (0.5, 0.002)
"""Of the tolerance, for the first and the second time."""
ITERATIONS = (5_000, 50_000)
LEAST_RAY = 1e-9
"""Rays are asked for so well, however loose the tolerance: programs whose scales lie far apart have false ones."""
# Small programs: the plain factorization beats the one of MKL, which SCS takes where it finds it. Older versions of
# SCS have no other and no name for it.
PLAIN = {"linear_solver": "qdldl"} if hasattr(scs, "LinearSolver") else {}

Order = tuple[np.ndarray, np.ndarray]
"""Which of our rows stands at each of SCS's, and the other way round."""


def _prepare(program: ConicProgram) -> Runner | str:
    if lacking := unknown_cones(program.cones):
        return lacking
    form = choose_form(program, rows=True)
    if not form.example.cones.rows:
        return "a constraint (SCS takes no program without)"
    order = _order(form.example.cones)
    patterns = [layouts(form.example, narrow=narrow, new_rows=order[1]) for narrow in (True, False)]

    def run(program: ConicProgram, start: Start, tolerance: float) -> Points:
        def attempt(part: ConicProgram, start: Start, tight: bool) -> Points:
            settings = _settings(SHARES[tight] * tolerance, ITERATIONS[tight])

            def loop(short: ConicProgram, start: Start) -> Points:
                return _loop(next(both for both in patterns if both.hold(short)), order, short, start, settings)

            return form.solve(part, start, loop)

        return solve_twice(program, start, tolerance, attempt)

    return run


def _loop(both: Layouts, order: Order, program: ConicProgram, start: Start, settings: dict[str, Any]) -> Points:
    table, before = Table.of(program), starts(start, ("x", "y", "s"), program)
    make = _maker(both, program.cones, settings)
    ours, theirs = order
    solver: Any = None
    for place, data in enumerate(both.instances(program)):
        b, q = data["b"][ours], data["q"]
        if solver is not None and program.shared:
            solver.update(b=b, c=q)
        else:
            try:
                solver = make(data, b)
            except ValueError:
                # An objective that rounding made nonconvex cannot be factored.
                continue
        point = [before[name][place] for name in ("x", "y", "s")] if before else []
        warm = bool(point) and all(bool(np.isfinite(part).all()) for part in point)
        answer = solver.solve(True, point[0], point[1][ours], point[2][ours]) if warm else solver.solve(False)
        _note(table, place, answer, theirs)
        if answer["info"]["status_val"] != 1:
            # Its scale follows the instances; one without a solution leaves it anywhere.
            solver = None
    return table.points(program, ("x", "y", "s"))


def _note(table: Table, place: int, answer: dict[str, Any], theirs: np.ndarray) -> None:
    claim = CLAIMS.get(answer["info"]["status_val"], NOTHING)
    table.claim[place], table.iterations[place] = claim, answer["info"]["iter"]
    if claim in (POINT, UNBOUNDED):
        table.x[place] = answer["x"]
    if claim in (POINT, INFEASIBLE):
        table.y[place] = answer["y"][theirs]
    if claim == POINT:
        table.s[place] = answer["s"][theirs]


def _maker(both: Layouts, cones: Cones, settings: dict[str, Any]) -> Callable[[dict[str, np.ndarray], np.ndarray], Any]:
    kinds = {
        "z": cones.zero, "l": cones.nonnegative, "q": list(cones.second_order), "s": list(cones.semidefinite),
        "ep": cones.exponential, "p": list(cones.power),
    }  # fmt: skip
    kinds = {name: size for name, size in kinds.items() if size}

    def make(data: dict[str, np.ndarray], b: np.ndarray) -> Any:
        # SCS reads a matrix P without entries as one that is not there.
        P = {"P": both.P.columns(data["P"])} if len(data["P"]) else {}
        return scs.SCS({"A": both.A.columns(data["A"]), "b": b, "c": data["q"].copy(), **P}, kinds, **settings)

    return make


def _settings(tolerance: float, iterations: int) -> dict[str, Any]:
    return {
        "verbose": False, "eps_abs": tolerance, "eps_rel": tolerance, "eps_infeas": LEAST_RAY, "max_iters": iterations,
        **PLAIN,
    }  # fmt: skip


def _order(cones: Cones) -> Order:
    """SCS has the lower triangle of a semidefinite cone by columns where we have the upper one."""
    ours = np.arange(cones.rows)
    first = cones.zero + cones.nonnegative + sum(cones.second_order)
    for size in cones.semidefinite:
        columns, rows = np.triu_indices(size)
        ours[first : first + len(rows)] = first + rows * (rows + 1) // 2 + columns
        first += len(rows)
    return ours, np.argsort(ours)


SCS = ConicEngine(
    "scs",
    "every program with constraints, one instance after the other on the CPU, by an operator splitting method",
    "starts every instance from its last x, y and s; helps where the data moved little",
    _prepare,
)
