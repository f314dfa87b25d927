"""Moreau on a batch: one compiled solver for many instances, by an interior-point method.

It is given our own canonical program. cvxpy's form for it keeps ``x >= 0`` apart from the rows (in `dir_cones`), and
who does not read those loses the constraint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .conic_engine import ConicEngine, Runner, Start
from .conic_program import NOTHING, Cones, ConicProgram, Points
from .layouts import Layouts, layouts, vectors
from .short_form import Form, choose_form, joined
from .single_programs import (
    CLAIMS,
    MARGIN,
    SIMPLE_FACTOR,
    TIGHTEST,
    Table,
    optional_package,
    solve_twice,
    starts,
    unknown_cones,
)

MOST_CHUNK = 512
"""Instances of one compiled solver."""
MOST_ENTRIES = 30_000_000
"""Entries of the factors that one compiled solver holds: each instance has its own, even where matrices are shared."""
LEAST_RAY = 1e-8
"""Rays are asked for as well as by Moreau's default, however loose the tolerance."""
KEPT_SOLVERS = 4
SHORTER_STEP = 0.9
"""Share of the way to the boundary of the cones that a second attempt goes at most: .99 can end too near to it."""

Key = tuple[bool, float, bool, int]
"""Of a compiled solver: whether of the narrow pattern, its tolerance, whether for a second attempt, and its batch."""


def _prepare(program: ConicProgram) -> Runner | str:
    moreau = optional_package("moreau")
    if moreau is None:
        return "the package moreau (pip install 'convexblocks[moreau]')"
    if lacking := unknown_cones(program.cones):
        return lacking
    if min(program.cones.second_order, default=2) < 2:
        return "second-order cones of at least two rows (write t >= 0 for one)"
    form = choose_form(program)
    kit = _Kit(moreau, form, [layouts(form.example, narrow=narrow, by_rows=True) for narrow in (True, False)], {})

    def run(program: ConicProgram, start: Start, tolerance: float) -> Points:
        def attempt(part: ConicProgram, start: Start, tight: bool) -> Points:
            asked = TIGHTEST if tight else max(MARGIN * tolerance, TIGHTEST)
            # A second time is cold: where a warm start went wrong, it would again.
            first = {} if tight else start
            return form.solve(part, first, lambda short, start: _solve(kit, short, start, asked, tight))

        return solve_twice(program, start, tolerance, attempt)

    return run


@dataclass(frozen=True)
class _Kit:
    """Moreau, the patterns of a form (narrow, wide), and compiled solvers that wait to be used again."""

    moreau: Any
    form: Form
    patterns: list[Layouts]
    spare: dict[Key, Any]


def _solve(kit: _Kit, program: ConicProgram, start: Start, tolerance: float, again: bool) -> Points:
    """Solve a batch chunk by chunk; those with a start and those without apart."""
    before = starts(start, ("x", "y", "s"), program)
    warm = np.zeros(program.batch, bool)
    if before:
        warm = np.logical_and.reduce([np.isfinite(rows).all(axis=1) for rows in before.values()])
    rows = max(1, min(MOST_CHUNK, MOST_ENTRIES // max(1, kit.form.factor)))
    parts, places = [], []
    for group in (np.flatnonzero(warm), np.flatnonzero(~warm)):
        for first in range(0, len(group), rows):
            chosen = group[first : first + rows]
            point = {name: values[chosen] for name, values in before.items()} if warm[chosen[0]] else {}
            some = torch.as_tensor(chosen, device=program.q.device)
            parts.append(_chunk(kit, program.take(some), point, tolerance, again))
            places.append(some)
    return _in_order(joined(parts), torch.cat(places))


def _in_order(points: Points, places: Tensor) -> Points:
    order = places.argsort()
    state = {name: rows[order] for name, rows in points.state.items()}
    return Points(points.x[order], points.y[order], points.iterations[order], points.claim[order], state)


def _chunk(kit: _Kit, program: ConicProgram, point: dict[str, np.ndarray], tolerance: float, again: bool) -> Points:
    narrow = kit.patterns[0].hold(program)
    both = kit.patterns[0 if narrow else 1]
    key = (narrow, tolerance, again, program.batch)
    kept = kit.spare.pop(key, None)
    solver = kept or _compile(kit, both, program, tolerance, again)
    if kept is None or not program.shared:
        P, A = both.P.values(program.P), both.A.values(program.A)
        if not program.shared:
            # One of them shared and the other not is refused.
            P, A = (np.broadcast_to(part, (program.batch, part.shape[-1])) for part in (P, A))
        solver.setup(P, A)
    begin = kit.moreau.BatchedWarmStart(x=point["x"], z=point["y"], s=point["s"]) if point else None
    answer = solver.solve(*vectors(program), warm_start=begin)
    table = _table(program, answer, solver.info)
    while len(kit.spare) >= KEPT_SOLVERS:
        kit.spare.pop(next(iter(kit.spare)), None)
    kit.spare[key] = solver
    return table.points(program, ("x", "y", "s"))


def _table(program: ConicProgram, answer: Any, info: Any) -> Table:
    claims = [CLAIMS.get(str(status), NOTHING) for status in info.status]
    return Table(
        np.asarray(answer.x), np.asarray(answer.z), np.asarray(answer.s),
        np.broadcast_to(np.asarray(info.iterations, dtype=np.int64), program.batch).copy(), np.array(claims),
    )  # fmt: skip


def _compile(kit: _Kit, both: Layouts, program: ConicProgram, tolerance: float, again: bool) -> Any:
    m, n = program.A.shape
    moreau = kit.moreau
    ray = min(LEAST_RAY, tolerance)
    method = moreau.IPMSettings(
        tol_feas=tolerance, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_infeas_abs=ray, tol_infeas_rel=ray,
        **({"max_step_fraction": SHORTER_STEP} if again else {}),
        direct_solve_method="qdldl" if kit.form.factor <= SIMPLE_FACTOR else "auto",
        # The caller starts cold again where it must.
        warm_start_no_retry=frozenset(moreau.SolverStatus),
    )  # fmt: skip
    settings = moreau.Settings(solver="ipm", device="cpu", batch_size=program.batch, ipm_settings=method)
    patterns = (part for layout in (both.P, both.A) for part in (layout.pointers, layout.indices))
    return moreau.CompiledSolver(n, m, *patterns, _cones(moreau, program.cones), settings)


def _cones(moreau: Any, cones: Cones) -> Any:
    return moreau.Cones(
        num_zero_cones=cones.zero, num_nonneg_cones=cones.nonnegative, so_cone_dims=list(cones.second_order),
        psd_dims=list(cones.semidefinite), num_exp_cones=cones.exponential, power_alphas=list(cones.power),
    )  # fmt: skip


SMALL = 128
"""Unknowns up to which a quadratic program is left to Clarabel, unless this engine is named."""

ENGINE = ConicEngine(
    "moreau",
    "every program, a batch at once on the CPU, by an interior-point method; needs the package moreau",
    "starts every instance from its last x, y and s, moved inside the cones; helps where the data moved little",
    _prepare,
    # Small quadratic programs are Clarabel's, one by one.
    lambda program: not program.cones.linear or program.A.shape[1] > SMALL,
)
