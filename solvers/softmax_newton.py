"""Batched Newton for quadratics with log-sum-exp terms (softmax cross-entropy, logistic), P and A shared.

    minimize_x   1/2 x'P x + q'x + sum_k w_k log sum_{i in k} exp(z_i),        z = A x + c .

With p the softmax of every term the gradient is P x + q + A'(w p), the Hessian P + A' diag(w) (diag(p) - p p') A.
Steps are taken as dx = T dv in coordinates with T'P T = I that span only what the arguments see, so that their Hessian
is I + S' diag(w) (diag(p) - p p') S with S = A T of full column rank: 10 unknowns for 10 arguments of 500 features.

Where A P^{-1} A' is diagonal (proximal maps) dv has one entry for each argument, S = diag(s), and Newton's equations
are solved by Sherman-Morrison in each term: with D = 1 / (1 + w s^2 p) and gradient F,

    direction = -D (F + w s p sigma),        sigma = sum(D s p F) / sum(D p),

where sum(D p) = 1 - w sum(D s^2 p^2) does not cancel. Otherwise by a Cholesky factor for each instance. Steps are
damped by Armijo backtracking; rows that have converged leave the batch. The start is the minimizer of the quadratic.

Sources: Nocedal & Wright, "Numerical Optimization", section 3.3 (damped Newton); Boyd & Vandenberghe, "Convex
Optimization", appendix C.4.3 (diagonal plus low rank).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .conic_engine import ConicEngine, Runner, Start
from .conic_program import NOTHING, POINT, ConicProgram, Points
from .log_sum_exp import LogSumExp, find_log_sum_exp
from .rows import backtrack, pick_rows

MAX_ITERATIONS = 100
MARGIN = 1e-4
"""Share of the tolerance at which a row stops; convergence is quadratic, so that it costs one iteration."""
FINEST, COARSEST = 1e-13, 1e-10
"""Between these a row stops, relative to 1 + its largest weight."""
ROUNDING = 4 * torch.finfo(torch.float64).eps
DENSE_ENTRIES = 4_000_000
"""Largest work space of the dense Newton equations; batches are split to fit."""


@dataclass(frozen=True)
class Shared:
    """What the batch shares. A vector stands for a diagonal matrix.

    Attributes
    ----------
    P : Tensor, shape (unknowns, unknowns)
    arguments : Tensor, shape (arguments, unknowns)
        A.
    back : Tensor, shape (unknowns, coordinates)
        T.
    spread : Tensor, shape (arguments, coordinates)
        S = A T.
    width : int
        Arguments of every term.
    """

    P: Tensor
    arguments: Tensor
    back: Tensor
    spread: Tensor
    width: int

    def grouped(self, arguments: Tensor) -> Tensor:
        """Arguments as (batch, terms, width)."""
        return arguments.unflatten(1, (-1, self.width))


@dataclass(frozen=True)
class Rows:
    """The instances that are still open: q (rows, unknowns), c (rows, arguments), w (rows, terms)."""

    q: Tensor
    offsets: Tensor
    weights: Tensor

    def pick(self, keep: Tensor) -> Rows:
        """The instances for which `keep` holds."""
        return Rows(*pick_rows(keep, self.q, self.offsets, self.weights))


@dataclass(frozen=True)
class Slopes:
    """First derivatives at a point: log p (rows, terms, width), w p (rows, arguments), P x + q, and its sum with A'(w p)."""

    logs: Tensor
    forces: Tensor
    quadratic: Tensor
    gradient: Tensor

    def pick(self, keep: Tensor) -> Slopes:
        """The instances for which `keep` holds."""
        return Slopes(*pick_rows(keep, self.logs, self.forces, self.quadratic, self.gradient))


def prepare(program: ConicProgram) -> Runner | str:
    """Recognize the structure and factor what the batch shares; see `ConicEngine`."""
    structure = find_log_sum_exp(program)
    if isinstance(structure, str):
        return structure
    shared, factor = share(structure), torch.linalg.cholesky(structure.P)

    def run(program: ConicProgram, start: Start, tolerance: float) -> Points:
        q, offsets, weights, fits = structure.data(program)
        # Rows that do not fit get no claim; without their weights they still converge.
        rows = Rows(*(part.expand(program.batch, -1) for part in (q, offsets, weights.clamp_min(0))))
        x = (-torch.cholesky_solve(q.T, factor).T).expand(program.batch, -1)
        probabilities = start.get("probabilities")
        if probabilities is not None and probabilities.shape == (program.batch, len(structure.places)):
            x = x + _warm(structure, shared, probabilities, rows.weights)
        x, iterations = newton(shared, rows, x, tolerance)
        x, y, probabilities = structure.lift(program, x, offsets, weights)
        claim = torch.where(fits, POINT, NOTHING).expand(program.batch).clone()
        return Points(x, y, iterations, claim, {"probabilities": probabilities})

    return run


def share(structure: LogSumExp) -> Shared:
    """Coordinates in which the quadratic is 1/2 |v|^2 and every direction moves an argument."""
    factor = torch.linalg.cholesky(structure.P)
    seen = torch.linalg.solve_triangular(factor, structure.arguments.T, upper=False)
    lengths = torch.linalg.vector_norm(seen, dim=0)
    gram = seen.T @ seen
    if not bool((gram - torch.diag(torch.diagonal(gram))).any()):
        basis, spread = seen / torch.where(lengths > 0, lengths, 1.0), lengths
    else:
        left, sizes, right = torch.linalg.svd(seen, full_matrices=False)
        kept = sizes > torch.finfo(sizes.dtype).eps * max(seen.shape) * sizes[0]
        basis, spread = left[:, kept], right[kept].T * sizes[kept]
    back = torch.linalg.solve_triangular(factor.T, basis, upper=True)
    return Shared(_thin(structure.P), _thin(structure.arguments), _thin(back), spread, structure.width)


def _warm(structure: LogSumExp, shared: Shared, probabilities: Tensor, weights: Tensor) -> Tensor:
    """How far from the minimizer of the quadratic an earlier softmax pulls, -P^{-1}A'(w p)."""
    p = weights.new_zeros(len(weights), structure.terms * structure.width)
    p[:, structure.places] = probabilities.nan_to_num(0.0)
    return -_times(shared.back, _pulled(shared.spread, (weights[..., None] * shared.grouped(p)).flatten(1)))


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
    places = torch.arange(len(x), device=x.device)
    wanted = min(max(MARGIN * tolerance, FINEST), COARSEST) * (1 + rows.weights.amax(1)) + ROUNDING * _largest(rows.q)
    settled, before = torch.zeros_like(places, dtype=torch.bool), torch.full_like(wanted, torch.inf)
    for done in range(MAX_ITERATIONS + 1):
        slopes = _differentiate(shared, rows, x)
        size = _largest(slopes.gradient)
        good = (size <= wanted) | (settled & (size > before / 2)) | (done == MAX_ITERATIONS)
        if bool(good.any()):
            result[places[good]], iterations[places[good]] = x[good], done
            rows, slopes = rows.pick(~good), slopes.pick(~good)
            places, x, wanted, size = pick_rows(~good, places, x, wanted, size)
        if not len(places):
            break
        x, settled = _step(shared, rows, x, slopes)
        before = size
    return result, iterations


def _differentiate(shared: Shared, rows: Rows, x: Tensor) -> Slopes:
    logs = torch.log_softmax(shared.grouped(rows.offsets + _times(shared.arguments, x)), 2)
    forces = (rows.weights[..., None] * logs.exp()).flatten(1)
    quadratic = rows.q + _times(shared.P, x)
    return Slopes(logs, forces, quadratic, quadratic + _pulled(shared.arguments, forces))


def _step(shared: Shared, rows: Rows, x: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
    """One damped step of every row, and which rows are so near that the objective no longer shows their progress."""
    gradient = _pulled(shared.back, slopes.gradient)
    solve = _sherman_morrison if shared.spread.ndim == 1 else _cholesky
    direction = solve(shared, slopes, gradient)
    move, change = _times(shared.back, direction), shared.grouped(_times(shared.spread, direction))
    along, square = (slopes.quadratic * move).sum(1), (direction * direction).sum(1)
    level = rows.weights.sum(1)

    def objective(steps: Tensor) -> Tensor:
        # Relative to the present log-probabilities: large arguments would drown the difference in rounding. The
        # weights are added for `backtrack`, which takes their size for the scale of rounding.
        terms = torch.logsumexp(slopes.logs + steps[:, None, None] * change, 2)
        return steps * along + steps**2 / 2 * square + (rows.weights * terms).sum(1) + level

    slope = (gradient * direction).sum(1)
    steps, _ = backtrack(objective, level, slope)
    return x + steps[:, None] * move, (steps == 0) | (slope >= -ROUNDING * (1 + level))


def _sherman_morrison(shared: Shared, slopes: Slopes, gradient: Tensor) -> Tensor:
    spread, p = shared.spread.reshape(-1, shared.width), slopes.logs.exp()
    pushed = spread * shared.grouped(slopes.forces)
    D = 1 / (1 + spread * pushed)
    scaled = D * shared.grouped(gradient)
    sigma = (spread * p * scaled).sum(2, keepdim=True) / (D * p).sum(2, keepdim=True)
    return -(scaled + D * pushed * sigma).flatten(1)


def _cholesky(shared: Shared, slopes: Slopes, gradient: Tensor) -> Tensor:
    """S'diag(w)(diag(p) - pp')S as a Gram matrix: rows of S minus their mean under p, times sqrt(w p)."""
    arguments, size = shared.spread.shape
    rows = shared.grouped(shared.spread[None])[0]
    parts = []
    for chosen in torch.arange(len(gradient), device=gradient.device).split(max(1, DENSE_ENTRIES // (arguments * size))):
        means = torch.einsum("bgk,gkr->bgr", slopes.logs[chosen].exp(), rows)
        centred = (rows - means[:, :, None]).flatten(1, 2) * slopes.forces[chosen].sqrt()[..., None]
        hessian = centred.mT @ centred
        torch.diagonal(hessian, dim1=1, dim2=2).add_(1)
        parts.append(torch.cholesky_solve(gradient[chosen, :, None], torch.linalg.cholesky(hessian))[..., 0])
    return -torch.cat(parts)


def _thin(matrix: Tensor) -> Tensor:
    """A diagonal matrix as the vector of its diagonal."""
    diagonal = torch.diagonal(matrix)
    plain = matrix.shape[0] == matrix.shape[1] and not bool((matrix - torch.diag(diagonal)).any())
    return diagonal.contiguous() if plain else matrix


def _times(matrix: Tensor, rows: Tensor) -> Tensor:
    return rows * matrix if matrix.ndim == 1 else rows @ matrix.T


def _pulled(matrix: Tensor, rows: Tensor) -> Tensor:
    return rows * matrix if matrix.ndim == 1 else rows @ matrix


def _largest(rows: Tensor) -> Tensor:
    return rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(len(rows))


ENGINE = ConicEngine(
    name="log_sum_exp",
    solves="quadratic costs with log_sum_exp and logistic terms (softmax cross-entropy) and no constraints but "
    "definitions, P and A shared by the batch: Newton, with Sherman-Morrison for proximal maps",
    warm="starts from the softmax of the earlier answer: one or two iterations where the data have moved little",
    prepare=prepare,
)
