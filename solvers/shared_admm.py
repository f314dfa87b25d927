"""ADMM for batches of conic programs that share P and A, with one factorization and one rho for each instance.

In the coordinates of `admm_basis` an iteration on the state v = T c + y / rho (Douglas-Rachford) is

    z = the nearest point to v with h - z in K,     c = (rho T'(2 z - v) - g) / (p + rho r),     v += alpha (T c - z)

two products with T for the whole batch. Rows leave the batch when the residuals of the whole program, unscaled, meet
the tolerance, or when the steps of v, which on programs without a solution tend to a ray, show one that checks. rho is
adapted to every row. Rows that take long are brought to the end by Newton steps.

Source: Stellato, Banjac, Goulart, Bemporad & Boyd, "OSQP: an operator splitting solver for quadratic programs", Math.
Prog. Comp. 12 (2020); Garstka, Cannon & Goulart, "COSMO: a conic operator splitting method for convex conic problems",
J. Optim. Theory Appl. 190 (2021); Banjac, Goulart, Stellato & Boyd, "Infeasibility detection in the alternating
direction method of multipliers for convex optimization", J. Optim. Theory Appl. 183 (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .admm_basis import Basis
from .admm_newton import improve
from .admm_rows import Look, Rows, largest
from .cone_points import into_cone, into_dual_cone
from .conic_engine import ConicEngine, Runner, Start
from .conic_program import INFEASIBLE, POINT, UNBOUNDED, ConicProgram, Points, no_points
from .conic_residuals import measure
from .elimination import Reduction, find_stages, reduce_program, too_large

RELAXATION = 1.6
FIRST_CHECK, CHECK_EVERY = 5, 20
MAX_ITERATIONS = 2000
TOGETHER = 100
"""Iterations after which the rows that are left of all chunks are solved together."""
CHUNK_ENTRIES, SMALLEST_CHUNK = 2**19, 256
"""Entries of the states of a chunk of rows, which stay in the cache of a processor; GPUs want larger ones."""
CLEAR_RAY = 1e-6
"""A ray has to be at least this exact, however loose the tolerance."""
STEADY, STILL = 0.9, 1e-12
"""Rows whose steps shrink below the first share from check to check are on their way to a point; steps below the
second, relative to the state, are rounding."""
UNBALANCED, SMALLEST_RHO, LARGEST_RHO = 2.0, 1e-6, 1e6


@dataclass(frozen=True)
class Run:
    """What the parts of one solve share: the program, its forms, and where answers go."""

    program: ConicProgram
    reduction: Reduction
    basis: Basis
    tolerance: float
    warm: bool
    answer: Points


def prepare(program: ConicProgram) -> Runner | str:
    """See `ConicEngine.prepare`."""
    cones = program.cones
    if cones.semidefinite or cones.exponential or cones.power or cones.others:
        return f"zero, nonnegative and second-order cones alone (this program has {cones})"
    if not program.shared:
        own = [name for name, matrix in (("Hessian", program.P), ("constraint matrix", program.A)) if not matrix.shared]
        return f"a Hessian and a constraint matrix shared by the batch (every instance has its own {' and '.join(own)})"
    lacking = too_large(program)
    if lacking:
        return lacking
    reduction = reduce_program(program, find_stages(program))
    basis = Basis.of(reduction)
    return lambda program, start, tolerance: solve(reduction, basis, program, start, tolerance)


def solve(reduction: Reduction, basis: Basis, program: ConicProgram, start: Start, tolerance: float) -> Points:
    """Solve a batch; see `conic_engine.Runner`."""
    q, b = (part.expand(program.batch, -1) for part in reduction.vectors(program.q, program.b))
    state = {"x": torch.full_like(q, torch.nan), "y": torch.full_like(b, torch.nan), "rho": q.new_ones(program.batch)}
    run = Run(program, reduction, basis, tolerance, bool(start), replace(no_points(program), state=state))
    size = CHUNK_ENTRIES if q.device.type == "cpu" else 64 * CHUNK_ENTRIES
    chunk = max(SMALLEST_CHUNK, size // (3 * basis.T.shape[0] + 2 * basis.T.shape[1] + 1))
    begun = (_begin(run, places, q, b, start) for places in torch.arange(program.batch, device=q.device).split(chunk))
    left = [_iterate(run, rows, 0, TOGETHER) for rows in begun]
    together = Rows.join(left)
    for places in torch.arange(len(together.places), device=q.device).split(chunk):
        rest = _iterate(run, together.pick(places), TOGETHER, MAX_ITERATIONS)
        if len(rest.places):
            _keep(run, rest, MAX_ITERATIONS)
    return run.answer


def _begin(run: Run, places: Tensor, q: Tensor, b: Tensor, start: Start) -> Rows:
    """Rows before their first iteration, without those that linear algebra shows to have no solution."""
    basis, q, b = run.basis, q[places], b[places]
    x0, g, h = basis.vectors(q, b)
    v, rho, none = torch.zeros_like(h), q.new_ones(len(q)), q.new_zeros(len(q))
    if start and start["x"].shape[1] == q.shape[1] and start["y"].shape[1] == b.shape[1]:
        rho = start["rho"][places]
        known = basis.lower(start["x"][places], start["y"][places], x0, rho)
        v = torch.where(known.isfinite(), known, v)
    rows = Rows(places, q, b, x0, g, h, v, rho, none + run.tolerance, none, none)
    # What meets the tolerance as a point is none of these.
    missed = b[:, : basis.equalities] - x0 @ basis.A[: basis.equalities].T
    y = torch.cat([-b[:, : basis.equalities] @ basis.contradictions, torch.zeros_like(h)], 1)
    found = largest(missed) > run.tolerance * (1 + largest(b))
    done = _settle(run, rows, found & (torch.linalg.vecdot(b, y) < 0), q, y, INFEASIBLE, 0)
    x = -(q @ basis.flat) @ basis.flat.T
    found = largest(x) > run.tolerance * (1 + largest(q))
    done |= _settle(run, rows, ~done & found & (torch.linalg.vecdot(q, x) < 0), x, b, UNBOUNDED, 0)
    return rows.pick(~done)


def _iterate(run: Run, rows: Rows, first: int, last: int) -> Rows:
    """Iterate rows until all are done, or to the iteration `last`; gives those that are left."""
    basis = run.basis
    unknowns = int(basis.weak.sum()) + min(basis.T.shape) // 2
    # An attempt of Newton steps costs about as much as this many iterations.
    cost = min(2 * unknowns**3 / max(1, basis.T.numel()), MAX_ITERATIONS / 2)
    wait, done = max(1, math.ceil(max(TOGETHER, cost) / CHECK_EVERY)) * CHECK_EVERY, first
    # A warm start may know the active set already, which programs without much curvature are long in finding.
    early = CHECK_EVERY if run.warm and bool(basis.weak.any()) else 0
    while done < last and len(rows.places):
        count = FIRST_CHECK if run.warm and done < 2 * FIRST_CHECK else CHECK_EVERY - done % CHECK_EVERY
        done += count
        before = rows.v.clone()
        _advance(basis, rows, count)
        rows = _points(run, _rays(run, rows, (rows.v - before) / count, done), done)
        if (done % wait == 0 or done == early) and len(rows.places):
            rows.v = improve(basis, rows.v, rows.g, rows.h, rows.rho, max(0, done // wait - 1))
            rows = _points(run, rows, done)
    return rows


def _advance(basis: Basis, rows: Rows, count: int) -> None:
    """Some iterations of all rows."""
    v, h = rows.v, rows.h
    inverse = 1 / (basis.p + rows.rho[:, None] * basis.r)
    weights, pulled = 2 * rows.rho[:, None] * inverse, -rows.g * inverse
    z, mirrored, c = torch.empty_like(v), torch.empty_like(v), torch.empty_like(pulled)
    for _ in range(count):
        z = torch.minimum(v, h, out=z) if basis.cones.linear else basis.within(v, h)
        torch.sub(z, v, alpha=0.5, out=mirrored)
        torch.addcmul(pulled, torch.mm(mirrored, basis.T, out=c), weights, out=c)
        v.addmm_(c, basis.transposed, alpha=RELAXATION).sub_(z, alpha=RELAXATION)


def _points(run: Run, rows: Rows, done: int) -> Rows:
    """Let the rows go whose points meet the tolerance, and adapt rho of the others."""
    if not len(rows.places):
        return rows
    look = Look.at(run.basis, rows)
    near = look.residual <= rows.wanted
    good = _settle(run, rows, near, look.x, look.y, POINT, done)
    rows.wanted = torch.where(near & ~good, look.residual / 4, rows.wanted)
    _balance(rows, look, done)
    return rows.pick(~good)


def _balance(rows: Rows, look: Look, done: int) -> None:
    """Move rho to where primal and dual side are alike, see `Look.off`."""
    factor = look.off.clamp(1e-6, 1e6).sqrt()
    turn = (done >= rows.rest) & ((factor > UNBALANCED) | (factor < 1 / UNBALANCED))
    rho = torch.where(turn, (rows.rho * factor).clamp(SMALLEST_RHO, LARGEST_RHO), rows.rho)
    rows.v = torch.addcmul(look.z, rows.v - look.z, (rows.rho / rho)[:, None])
    rows.rho = rho
    rows.rest = torch.where(turn, 2.0 * done, rows.rest)


def _rays(run: Run, rows: Rows, moved: Tensor, done: int) -> Rows:
    """Let the rows go whose steps have become rays: the part in K* of a step of v is one of y, the rest one of T c."""
    pace, basis = largest(moved), run.basis
    steady = ((pace > STEADY * rows.pace) & (pace > STILL * (1 + largest(rows.v)))).nonzero()[:, 0]
    rows.pace = pace
    if not len(steady):
        return rows
    some, exact = rows.pick(steady), min(run.tolerance, CLEAR_RAY)
    scaled = into_dual_cone(moved[steady], basis.cones)
    fall = -torch.linalg.vecdot(some.h, scaled)
    y = basis.raise_ray(scaled)
    found = (fall > 0) & (largest(y @ basis.A) <= exact * fall)
    left = _settle(run, some, found, some.q, y, INFEASIBLE, done)
    x = basis.nearest(moved[steady] - 2 * scaled, torch.zeros_like(some.g), some.rho) @ basis.directions.T
    fall = -torch.linalg.vecdot(some.q, x)
    slack = -(x @ basis.A[basis.equalities :].T)
    outside = torch.maximum(largest(slack - into_cone(slack, basis.cones)), largest(x @ basis.P))
    left |= _settle(run, some, ~left & (fall > 0) & (outside <= exact * fall), x, some.b, UNBOUNDED, done)
    open_ = torch.ones_like(rows.places, dtype=torch.bool)
    open_[steady[left]] = False
    return rows.pick(open_)


def _settle(run: Run, rows: Rows, chosen: Tensor, x: Tensor, y: Tensor, claim: int, done: int) -> Tensor:
    """Keep the answers to the chosen rows that hold on the whole program; gives the rows that have one."""
    good = torch.zeros_like(chosen)
    picked = chosen.nonzero()[:, 0]
    if not len(picked):
        return good
    program = run.program.take(rows.places[picked])
    q, b, x, y = program.q, program.b, x[picked], y[picked]
    if claim != POINT:
        q, b = torch.zeros_like(q), torch.zeros_like(b)
        x, y = (x, torch.zeros_like(y)) if claim == UNBOUNDED else (torch.zeros_like(x), y)
    claims = torch.full_like(picked, claim)
    whole = Points(*run.reduction.lift(x, y, q, b), claims, claims, {})
    measured, residuals = measure(program, whole, run.tolerance)
    holds = measured.claim == claim
    if claim == POINT:
        worst = torch.maximum(torch.maximum(residuals.primal, residuals.dual), residuals.gap)
        holds = worst <= run.tolerance
    good[picked[holds]] = True
    _write(run, rows.pick(picked[holds]), x[holds], y[holds], measured.x[holds], measured.y[holds], claim, done)
    return good


def _keep(run: Run, rows: Rows, done: int) -> None:
    """Give the rows that are left as they are."""
    look, program = Look.at(run.basis, rows), run.program.take(rows.places)
    _write(run, rows, look.x, look.y, *run.reduction.lift(look.x, look.y, program.q, program.b), POINT, done)


def _write(run: Run, rows: Rows, x: Tensor, y: Tensor, whole_x: Tensor, whole_y: Tensor, claim: int, done: int) -> None:
    answer, places = run.answer, rows.places
    answer.x[places], answer.y[places] = whole_x, whole_y
    answer.claim[places], answer.iterations[places] = claim, done
    if claim == POINT:
        answer.state["x"][places], answer.state["y"][places], answer.state["rho"][places] = x, y, rows.rho


LARGE_LINEAR = 100
"""Rows above which a program without curvature is left to other engines, unless this one is named."""

ENGINE = ConicEngine(
    "shared_admm",
    "zero, nonnegative and second-order cones, with a Hessian and a constraint matrix that the batch shares",
    "starts from the last primal and dual point and the last rho; the fewer constraints become active or cease to be, "
    "the fewer iterations",
    prepare,
    # On large linear programs an interior-point method is quicker.
    lambda program: bool(program.P.common.values.any()) or program.cones.rows <= LARGE_LINEAR,
)
"""The engine, for `solve_problem`."""
