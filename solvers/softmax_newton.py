"""Batched Newton for quadratics with log-sum-exp terms (softmax cross-entropy, logistic), P and A shared.

    minimize_x   1/2 x'P x + q'x + sum_k w_k log sum_{i in k} exp(z_i),        z = A x + c .

With p the softmax of every term the gradient is P x + q + A'(w p), the Hessian P + A' diag(w) (diag(p) - p p') A.
Steps are taken as dx = T dv in coordinates with T'P T = I that span only what the arguments see, so that their Hessian
is I + S' diag(w) (diag(p) - p p') S with S = A T of full column rank: 10 unknowns for 10 arguments of 500 features.

Where A P^{-1} A' is diagonal (proximal maps) dv has one entry for each argument, S = diag(s), and Newton's equations
are solved by Sherman-Morrison in each term: with D = 1 / (1 + w s^2 p) and gradient F,

    direction = -D (F + w s p sigma),        sigma = sum(D s p F) / sum(D p),

where sum(D p) = 1 - w sum(D s^2 p^2) does not cancel. Otherwise by a Cholesky factor for each instance. The start is
the better of two: the minimizer of the quadratic, and the point where x does not move the arguments (A x = 0).
Where a term is saturated it is nearly linear and Newton's step far too long; steps are therefore bisected until they
descend (Armijo) and the slope at their end is at most a quarter of that at their start. Descent alone crawls there: the
step may end anywhere behind the kink. Rows that have converged leave the batch.

Most steps need no look at the objective. Let a step change the arguments of no term by amounts that differ by more than
r. The third derivative of a term along it is a third central moment, at most r times the second, so that the curvature
of the terms at t is within exp(+-r t) of that at 0. Let s be their share of the curvature d = F''(0), and F'(0) = -d,
as it is for Newton's step. A full step then ends with a slope of at most s r e^r d / 2 in size, and decreases the
objective by at least (1 - s (e^r - 1)) d / 2. Where s r e^r <= 1/2 it passes both tests.

Sources: Nocedal & Wright, "Numerical Optimization", sections 3.1 (strong Wolfe conditions) and 3.3; Boyd &
Vandenberghe, "Convex Optimization", appendix C.4.3 (diagonal plus low rank); Bach, "Self-concordant analysis for
logistic regression", Electron. J. Statist. 4 (2010), for the third derivative.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .conic_engine import ConicEngine, Runner, Start
from .conic_program import NOTHING, POINT, ConicProgram, Points
from .log_sum_exp import LogSumExp, Shared, find_log_sum_exp, log_sum_exp, pulled, share, times
from .rows import pick_rows

MAX_ITERATIONS = 100
MARGIN = 1e-4
"""Share of the tolerance at which a row stops; convergence is quadratic, so that it costs one iteration."""
FINEST = 1e-13
"""Where a row stops at the latest, relative to 1 + its largest weight."""
ROUNDING = 4 * torch.finfo(torch.float64).eps
DESCENT, FLATTER = 1e-4, 0.25
"""Share of the linear decrease that a step must reach, and most of the slope that it may leave."""
MAX_BISECTIONS = 40
SURE = 0.5
"""The s r e^r up to which a full step passes both tests."""
LEAST_SHARE = 1e-12
"""Added to s, which is a difference: rounding must not make a step look safe."""
KEPT_SHARE = 0.5
"""Share of open rows below which the others leave the batch: to leave rows out is to copy the others."""
DENSE_ENTRIES = 4_000_000
"""Largest work space of the dense Newton equations; batches are split to fit."""


@dataclass(frozen=True)
class Rows:
    """The instances that are still open: q (rows, unknowns), c (rows, arguments), w (rows, terms).

    One row may stand for all.
    """

    q: Tensor
    offsets: Tensor
    weights: Tensor

    def pick(self, keep: Tensor) -> Rows:
        """The instances for which `keep` holds."""
        return Rows(*pick_rows(keep, self.q, self.offsets, self.weights))


@dataclass(frozen=True)
class Slopes:
    """First derivatives at a point.

    log p and p (rows, terms, width), w p (rows, arguments), P x + q and P x + q + A'(w p) (rows, unknowns).
    """

    logs: Tensor
    p: Tensor
    forces: Tensor
    quadratic: Tensor
    gradient: Tensor

    def pick(self, keep: Tensor) -> Slopes:
        """The instances for which `keep` holds."""
        return Slopes(*pick_rows(keep, self.logs, self.p, self.forces, self.quadratic, self.gradient))


@dataclass(frozen=True)
class Line:
    """The objective along the direction of every row.

    Attributes
    ----------
    logs : Tensor, shape (rows, terms, width)
        log p at step length zero. The objective is taken relative to it: large arguments would drown it in rounding.
    change : Tensor, shape (rows, terms, width)
        What a full step adds to the arguments.
    weights : Tensor, shape (rows, terms)
    along, square : Tensor, shape (rows,)
        Slope of the quadratic at zero, and its curvature.
    slope, slack : Tensor, shape (rows,)
        Slope of the whole at zero, and what counts as rounding.
    """

    logs: Tensor
    change: Tensor
    weights: Tensor
    along: Tensor
    square: Tensor
    slope: Tensor
    slack: Tensor

    def at(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Change of the objective, and its slope, at step lengths (rows,)."""
        moved = self.logs + steps[:, None, None] * self.change
        terms = torch.logsumexp(moved, 2)
        drift = ((moved - terms[..., None]).exp() * self.change).sum(2)
        value = steps * self.along + steps**2 / 2 * self.square + (self.weights * terms).sum(1)
        return value, self.along + steps * self.square + (self.weights * drift).sum(1)

    def pick(self, keep: Tensor) -> Line:
        """The rows for which `keep` holds."""
        return Line(*pick_rows(keep, *(getattr(self, field.name) for field in fields(self))))


def prepare(program: ConicProgram) -> Runner | str:
    """Recognize the structure and factor what the batch shares; see `ConicEngine`."""
    structure = find_log_sum_exp(program)
    if isinstance(structure, str):
        return structure
    shared, factor = share(structure), torch.linalg.cholesky(structure.P)

    def run(program: ConicProgram, start: Start, tolerance: float) -> Points:
        q, offsets, weights, fits = structure.data(program)
        # Rows that do not fit get no claim; without their weights they still converge.
        rows = Rows(q, offsets, weights.clamp_min(0))
        x = (-torch.cholesky_solve(q.T, factor).T).expand(program.batch, -1)
        probabilities = start.get("probabilities")
        if probabilities is not None and probabilities.shape == (program.batch, len(structure.places)):
            x = x + _warm(structure, shared, probabilities, rows.weights)
        else:
            x = _better_start(shared, rows, x)
        x, iterations = newton(shared, rows, x, tolerance)
        x, y, probabilities = structure.lift(program, x, offsets, weights)
        claim = torch.where(fits, POINT, NOTHING).expand(program.batch).clone()
        return Points(x, y, iterations, claim, {"probabilities": probabilities})

    return run


def _warm(structure: LogSumExp, shared: Shared, probabilities: Tensor, weights: Tensor) -> Tensor:
    """How far from the minimizer of the quadratic an earlier softmax pulls, -P^{-1}A'(w p)."""
    p = weights.new_zeros(len(probabilities), structure.terms * structure.width)
    p[:, structure.places] = probabilities.nan_to_num(0.0)
    return -times(shared.back, pulled(shared.spread, (weights[..., None] * shared.grouped(p)).flatten(1)))


def _better_start(shared: Shared, rows: Rows, x: Tensor) -> Tensor:
    """Of the minimizer x of the quadratic and the point that shares its unseen part, with A x = 0, the better one."""
    lift = pulled(shared.back, times(shared.P, x))
    other = x - times(shared.back, lift)

    def terms(x: Tensor) -> Tensor:
        return torch.logsumexp(shared.grouped(rows.offsets + times(shared.arguments, x)), 2)

    rise = (lift * lift).sum(1) / 2 + (rows.weights * (terms(other) - terms(x))).sum(1)
    return torch.where(rise[:, None] < 0, other, x)


def newton(shared: Shared, rows: Rows, x: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Minimize the objective of every row.

    Parameters
    ----------
    shared : Shared
    rows : Rows
        Offsets are minus infinity for padded arguments; weights at least zero.
    x : Tensor, shape (batch, unknowns)
        Start; P x + q must be zero where no argument sees it.
    tolerance : float
        On relative residuals; rows stop with a margin.

    Returns
    -------
    x : Tensor, shape (batch, unknowns)
    iterations : Tensor of int64, shape (batch,)
    """
    result, iterations = x.clone(), torch.zeros(len(x), dtype=torch.int64, device=x.device)
    places, left = torch.arange(len(x), device=x.device), torch.ones(len(x), dtype=torch.bool, device=x.device)
    wanted = max(MARGIN * tolerance, FINEST) * (1 + rows.weights.amax(1))
    settled = ~left
    for done in range(MAX_ITERATIONS + 1):
        slopes = _differentiate(shared, rows, x)
        good = left & ((_largest(slopes.gradient) <= wanted) | settled | (done == MAX_ITERATIONS))
        if bool(good.any()):
            result[places[good]], iterations[places[good]] = x[good], done
            left = left & ~good
            if not bool(left.any()):
                break
            if int(left.sum()) < KEPT_SHARE * len(left):
                rows, slopes = rows.pick(left), slopes.pick(left)
                places, x, wanted, left = pick_rows(left, places, x, wanted, left)
        x, settled = _step(shared, rows, x, slopes, left)
    return result, iterations


def _differentiate(shared: Shared, rows: Rows, x: Tensor) -> Slopes:
    arguments = shared.grouped(rows.offsets + times(shared.arguments, x))
    tops, p = log_sum_exp(arguments)
    forces = (rows.weights[..., None] * p).flatten(1)
    quadratic = rows.q + times(shared.P, x)
    return Slopes(arguments - tops[..., None], p, forces, quadratic, quadratic + pulled(shared.arguments, forces))


def _step(shared: Shared, rows: Rows, x: Tensor, slopes: Slopes, left: Tensor) -> tuple[Tensor, Tensor]:
    """One damped step of the open rows, and which are done: after a step too small to show in the objective."""
    gradient = pulled(shared.back, slopes.gradient)
    solve = _sherman_morrison if shared.spread.ndim == 1 else _cholesky
    direction = solve(shared, slopes, gradient)
    move, change = times(shared.back, direction), shared.grouped(times(shared.spread, direction))
    slope, slack = torch.linalg.vecdot(gradient, direction), ROUNDING * (1 + rows.weights.sum(1))
    settled, square = slope >= -slack, torch.linalg.vecdot(direction, direction)
    share, apart = (1 + square / slope).clamp(0, 1) + LEAST_SHARE, (change.amax(2) - change.amin(2)).amax(1)
    unsure = left & ~(share * apart * apart.exp() <= SURE)
    if not bool(unsure.any()):
        return x + move, settled
    line = Line(
        slopes.logs, change, rows.weights, torch.linalg.vecdot(slopes.quadratic, move), square, slope, slack
    )
    steps = torch.ones_like(slope)
    steps[unsure] = _search(line.pick(unsure))
    return x + steps[:, None] * move, settled | (steps == 0)


def _search(line: Line) -> Tensor:
    """Step lengths of every row by bisection of [0, 1]; zero where none was found."""
    result = torch.zeros_like(line.slope)
    open_rows, steps = torch.arange(len(result), device=result.device), torch.ones_like(result)
    low, high = torch.zeros_like(result), torch.ones_like(result)
    for _ in range(MAX_BISECTIONS):
        value, rise = line.at(steps)
        far = ~(value <= DESCENT * steps * line.slope + line.slack) | (rise > -FLATTER * line.slope + line.slack)
        near = ~far & (rise < FLATTER * line.slope - line.slack) & (steps < 1)
        bad = far | near
        result[open_rows[~bad]] = steps[~bad]
        if not bool(bad.any()):
            break
        low, high = torch.where(near, steps, low), torch.where(far, steps, high)
        open_rows, steps, low, high = pick_rows(bad, open_rows, (low + high) / 2, low, high)
        line = line.pick(bad)
    return result


def _sherman_morrison(shared: Shared, slopes: Slopes, gradient: Tensor) -> Tensor:
    spread, p = shared.spread.reshape(-1, shared.width), slopes.p
    pushed = spread * shared.grouped(slopes.forces)
    D = 1 / (1 + spread * pushed)
    scaled = D * shared.grouped(gradient)
    sigma = (spread * p * scaled).sum(2, keepdim=True) / (D * p).sum(2, keepdim=True)
    return -(scaled + D * pushed * sigma).flatten(1)


def _cholesky(shared: Shared, slopes: Slopes, gradient: Tensor) -> Tensor:
    """S'diag(w)(diag(p) - pp')S as a Gram matrix: rows of S minus their mean under p, times sqrt(w p)."""
    arguments, size = shared.spread.shape
    rows, parts = shared.spread.unflatten(0, (-1, shared.width)), []
    at_once = max(1, DENSE_ENTRIES // (arguments * size))
    for chosen in torch.arange(len(gradient), device=gradient.device).split(at_once):
        means = torch.einsum("bgk,gkr->bgr", slopes.p[chosen], rows)
        centred = (rows - means[:, :, None]).flatten(1, 2) * slopes.forces[chosen].sqrt()[..., None]
        hessian = centred.mT @ centred
        torch.diagonal(hessian, dim1=1, dim2=2).add_(1)
        # Does not raise where a row holds no numbers; the search then finds no step for it.
        factor, _ = torch.linalg.cholesky_ex(hessian)
        parts.append(torch.cholesky_solve(gradient[chosen, :, None], factor)[..., 0])
    return -torch.cat(parts)


def _largest(rows: Tensor) -> Tensor:
    return rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(len(rows))


ENGINE = ConicEngine(
    name="log_sum_exp",
    solves="quadratic costs with log_sum_exp and logistic terms (softmax cross-entropy) and no constraints but "
    "definitions, P and A shared by the batch: Newton, with Sherman-Morrison for proximal maps",
    warm="starts from the softmax of the earlier answer: one or two iterations where the data have moved little",
    prepare=prepare,
)
