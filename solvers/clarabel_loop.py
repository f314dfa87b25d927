"""Clarabel on a batch: one solver whose data are updated from instance to instance; the reference of all engines.

Clarabel refines the solution of every linear system, which takes a third of its time on small programs. That is left
out where the first instances meet the tolerance without it; an instance that misses is solved anew, with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import clarabel
import numpy as np
import torch

from .conic_engine import ConicEngine, Runner, Start
from .conic_program import ConicProgram, Points
from .conic_residuals import measure
from .layouts import Layouts, layouts
from .short_form import choose_form
from .single_programs import MARGIN, SIMPLE_FACTOR, TIGHTEST, Table, clarabel_cones, solve_twice, unknown_cones

LEAST_RAY = 1e-8
"""Rays are asked for as well as by Clarabel's default, however loose the tolerance."""


def _prepare(program: ConicProgram) -> Runner | str:
    if lacking := unknown_cones(program.cones):
        return lacking
    form, whole = choose_form(program), layouts(program)
    simple = form.factor <= SIMPLE_FACTOR
    kits = [_kit(form.example, simple, narrow=narrow) for narrow in (True, False)]

    def run(program: ConicProgram, start: Start, tolerance: float) -> Points:
        def updated(short: ConicProgram, start: Start) -> Points:
            return _update(next(kit for kit in kits if kit.layouts.hold(short)), short, tolerance)

        def attempt(part: ConicProgram, start: Start, tight: bool) -> Points:
            return _anew(part, whole) if tight else form.solve(part, {}, updated)

        return solve_twice(program, {}, tolerance, attempt)

    return run


@dataclass(frozen=True)
class _Kit:
    """What makes solvers for one pattern, and solvers that wait to be used again.

    Attributes
    ----------
    layouts : Layouts
    example : ConicProgram
        The first instances.
    solver : callable
        Tolerance, whether linear systems are refined and an instance's data (None: the first example's) -> a solver.
    spare : dict
        Solvers by tolerance and whether they refine.
    refined : dict
        Tolerance -> whether the examples need refinement.
    """

    layouts: Layouts
    example: ConicProgram
    solver: Callable[[float, bool, dict[str, np.ndarray] | None], Any]
    spare: dict[tuple[float, bool], list[Any]] = field(default_factory=dict)
    refined: dict[float, bool] = field(default_factory=dict)

    def refines(self, tolerance: float) -> bool:
        """Whether linear systems have to be refined; found out once."""
        if tolerance not in self.refined:
            points = _loop(self, self.example, tolerance, refine=False)
            _, residuals = measure(self.example, points, tolerance)
            worst = torch.stack([residuals.primal, residuals.dual, residuals.gap])
            self.refined[tolerance] = not bool((worst <= tolerance).all())
        return self.refined[tolerance]


def _kit(example: ConicProgram, simple: bool, *, narrow: bool) -> _Kit:
    both, cones = layouts(example, narrow=narrow), clarabel_cones(example.cones)
    # Set up on the same data always, so that an answer does not depend on its neighbours.
    first = next(both.instances(example))

    def solver(tolerance: float, refine: bool, data: dict[str, np.ndarray] | None) -> Any:
        settings = _settings(max(MARGIN * tolerance, TIGHTEST), simple)
        settings.iterative_refinement_enable = refine
        return _solver(first if data is None else data, both, cones, settings)

    return _Kit(both, example, solver)


def _update(kit: _Kit, program: ConicProgram, tolerance: float) -> Points:
    return _loop(kit, program, tolerance, refine=kit.refines(tolerance))


def _loop(kit: _Kit, program: ConicProgram, tolerance: float, *, refine: bool) -> Points:
    """Solve instance after instance by one solver."""
    table, kept = Table.of(program), kit.spare.setdefault((tolerance, refine), [])
    solver = kept.pop() if kept else kit.solver(tolerance, refine, None)
    allowed = solver.is_data_update_allowed()
    own = [name for name, part in (("P", program.P), ("A", program.A)) if not part.shared] + ["q", "b"]
    for place, data in enumerate(kit.layouts.instances(program)):
        if allowed:
            solver.update(**{name: data[name] for name in own})
        _note(table, place, (solver if allowed else kit.solver(tolerance, refine, data)).solve())
    kept.append(solver)
    return table.points(program)


def _anew(program: ConicProgram, both: Layouts) -> Points:
    """Solve each instance by a solver of its own, scaled for it, as accurately as goes."""
    table = Table.of(program)
    cones, settings = clarabel_cones(program.cones), _settings(TIGHTEST, False)
    for place, data in enumerate(both.instances(program)):
        _note(table, place, _solver(data, both, cones, settings).solve())
    return table.points(program)


def _note(table: Table, place: int, answer: Any) -> None:
    table.note(place, str(answer.status), answer.x, answer.z, answer.iterations)


def _solver(data: dict[str, np.ndarray], both: Layouts, cones: list[Any], settings: Any) -> Any:
    P, A = both.P.columns(data["P"]), both.A.columns(data["A"])
    return clarabel.DefaultSolver(P, data["q"], A, data["b"], cones, settings)


def _settings(asked: float, simple: bool) -> Any:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    # A presolve drops rows by their values, after which data cannot be updated.
    settings.presolve_enable = False
    settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = asked
    settings.tol_infeas_abs = settings.tol_infeas_rel = min(LEAST_RAY, asked)
    if simple:
        settings.direct_solve_method = "qdldl"
    return settings


CLARABEL = ConicEngine(
    "clarabel",
    "every program, one instance after the other on the CPU, by an interior-point method",
    "nothing: Clarabel takes no starting point, every solve is cold",
    _prepare,
)
