"""Batched Newton for quadratics with log-sum-exp terms (softmax cross-entropy, logistic), P and A shared.

    minimize_x   1/2 x'P x + q'x + sum_k w_k log sum_{i in k} exp(z_i),        z = A x + c .

With P = C C' and x = -P^{-1} q + T v, T'P T = I, this is 1/2 |v|^2 + sum_k w_k lse_k(S v + c - A P^{-1} q): only the
part of x that the arguments see remains (S = A T has the rank of A), and nothing cancels where P is small. With p the
softmax of every term, the gradient is v + S'(w p), the Hessian I + S' diag(w) (diag(p) - p p') S.

Where A P^{-1} A' is diagonal (proximal maps) v has one entry for each argument, S = diag(s), and Newton's equations
are solved by Sherman-Morrison in each term: with D = 1 / (1 + w s^2 p) and gradient F,

    direction = -D (F + w s p sigma),        sigma = sum(D s p F) / sum(D p),

where sum(D p) = 1 - w sum(D s^2 p^2) does not cancel. Otherwise by a Cholesky factor for each instance. Steps are
damped by Armijo backtracking; rows that have converged leave the batch.

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
"""Between these the gradient stops, relative to 1 + the largest weight."""
ROUNDING = 4 * torch.finfo(torch.float64).eps
DENSE_ENTRIES = 4_000_000
"""Largest work space of the dense Newton equations; batches are split to fit."""


@dataclass(frozen=True)
class Whitened:
    """The program in the coordinates v.

    Attributes
    ----------
    spread : Tensor, shape (arguments,) or (arguments, coordinates)
        S; a vector is the diagonal of a diagonal one.
    back : Tensor, shape (unknowns, coordinates)
        T.
    pull : Tensor, shape (unknowns, coordinates)
        P T: the gradient in v to the one in x.
    width : int
        Arguments of every term.
    """

    spread: Tensor
    back: Tensor
    pull: Tensor
    width: int

    def scores(self, v: Tensor) -> Tensor:
        """What v adds to the arguments, (batch, arguments)."""
        return v * self.spread if self.spread.ndim == 1 else v @ self.spread.T

    def pulled(self, forces: Tensor) -> Tensor:
        """S' times forces on the arguments, (batch, coordinates)."""
        return forces * self.spread if self.spread.ndim == 1 else forces @ self.spread

    def grouped(self, arguments: Tensor) -> Tensor:
        """Arguments as (batch, terms, width)."""
        return arguments.unflatten(1, (-1, self.width))


def whiten(structure: LogSumExp) -> Whitened:
    """Coordinates in which the quadratic is 1/2 |v|^2 and every direction moves an argument."""
    factor = torch.linalg.cholesky(structure.P)
    seen = torch.linalg.solve_triangular(factor, structure.arguments.T, upper=False)
    lengths = torch.linalg.vector_norm(seen, dim=0)
    gram = seen.T @ seen
    if not bool((gram - torch.diag(torch.diagonal(gram))).any()):
        spread, basis = lengths, seen / torch.where(lengths > 0, lengths, 1.0)
    else:
        left, sizes, right = torch.linalg.svd(seen, full_matrices=False)
        kept = sizes > torch.finfo(sizes.dtype).eps * max(seen.shape) * sizes[0]
        basis = left[:, kept]
        spread = right[kept].T * sizes[kept]
    back = torch.linalg.solve_triangular(factor.T, basis, upper=True)
    return Whitened(spread, back, factor @ basis, structure.width)


def prepare(program: ConicProgram) -> Runner | str:
    """Recognize the structure and factor what the batch shares; see `ConicEngine`."""
    structure = find_log_sum_exp(program)
    if isinstance(structure, str):
        return structure
    whitened, factor = whiten(structure), torch.linalg.cholesky(structure.P)

    def run(program: ConicProgram, start: Start, tolerance: float) -> Points:
        q, offsets, weights, fits = structure.data(program)
        lowest = -torch.cholesky_solve(q.T, factor).T
        base = (offsets + lowest @ structure.arguments.T).expand(program.batch, -1)
        # Rows that do not fit get no claim; without their weights they still converge.
        factors = weights.clamp_min(0).expand(program.batch, -1)
        v = _start(structure, whitened, start, factors)
        wanted = min(max(MARGIN * tolerance, FINEST), COARSEST) * (1 + factors.amax(1))
        v, iterations = newton(whitened, base, factors, v, wanted)
        x, y, probabilities = structure.lift(program, lowest + v @ whitened.back.T, offsets, weights)
        claim = torch.where(fits, POINT, NOTHING).expand(program.batch).clone()
        return Points(x, y, iterations, claim, {"probabilities": probabilities})

    return run


def _start(structure: LogSumExp, whitened: Whitened, start: Start, weights: Tensor) -> Tensor:
    """The v that belongs to the softmax of an earlier answer; zero, the minimizer of the quadratic, without one."""
    count, shape = len(weights), (len(weights), len(structure.places))
    p = weights.new_zeros(count, structure.terms * structure.width)
    if "probabilities" in start and start["probabilities"].shape == shape:
        p[:, structure.places] = start["probabilities"].nan_to_num(0.0)
    return -whitened.pulled((weights[..., None] * whitened.grouped(p)).flatten(1))


def newton(
    whitened: Whitened, base: Tensor, weights: Tensor, v: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Minimize 1/2 |v|^2 + sum_k w_k lse_k(S v + base) for every row.

    Parameters
    ----------
    whitened : Whitened
    base : Tensor, shape (batch, arguments)
        Minus infinity for padded arguments.
    weights : Tensor, shape (batch, terms)
        At least zero.
    v : Tensor, shape (batch, coordinates)
        Start.
    wanted : Tensor, shape (batch,)
        Largest entry of the gradient in x at which a row stops.

    Returns
    -------
    v : Tensor, shape (batch, coordinates)
    iterations : Tensor of int64, shape (batch,)
    """
    result, iterations = v.clone(), torch.zeros(len(v), dtype=torch.int64, device=v.device)
    rows = torch.arange(len(v), device=v.device)
    settled = torch.zeros(len(v), dtype=torch.bool, device=v.device)
    before = torch.full_like(wanted, torch.inf)
    for done in range(MAX_ITERATIONS + 1):
        logs = torch.log_softmax(whitened.grouped(base + whitened.scores(v)), 2)
        forces = (weights[..., None] * logs.exp()).flatten(1)
        gradient = v + whitened.pulled(forces)
        size = _largest(gradient @ whitened.pull.T)
        good = (size <= wanted) | (settled & (size > before / 2)) | (done == MAX_ITERATIONS)
        if bool(good.any()):
            result[rows[good]], iterations[rows[good]] = v[good], done
            rows, base, weights, v, wanted = pick_rows(~good, rows, base, weights, v, wanted)
            logs, forces, gradient, size = pick_rows(~good, logs, forces, gradient, size)
        if not len(rows):
            break
        v, settled = _step(whitened, weights, v, logs, forces, gradient)
        before = size
    return result, iterations


def _step(
    whitened: Whitened, weights: Tensor, v: Tensor, logs: Tensor, forces: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """One damped step of every row, and which rows are so near that the objective no longer shows their progress."""
    solve = _sherman_morrison if whitened.spread.ndim == 1 else _cholesky
    direction = solve(whitened, weights, logs.exp(), forces, gradient)
    change = whitened.grouped(whitened.scores(direction))
    along, square = (v * direction).sum(1), (direction * direction).sum(1)
    level = weights.sum(1)

    def objective(steps: Tensor) -> Tensor:
        # Relative to the present log-probabilities: large arguments would drown the difference in rounding. The
        # weights are added for `backtrack`, which takes their size for the scale of rounding.
        terms = torch.logsumexp(logs + steps[:, None, None] * change, 2)
        return steps * along + steps**2 / 2 * square + (weights * terms).sum(1) + level

    slope = (gradient * direction).sum(1)
    steps, _ = backtrack(objective, level, slope)
    return v + steps[:, None] * direction, (steps == 0) | (slope >= -ROUNDING * (1 + level))


def _sherman_morrison(
    whitened: Whitened, weights: Tensor, p: Tensor, forces: Tensor, gradient: Tensor
) -> Tensor:  # fmt: skip
    spread, forces, gradient = whitened.spread.reshape(-1, whitened.width), whitened.grouped(forces), whitened.grouped(gradient)
    pushed = spread * forces
    D = 1 / (1 + spread * pushed)
    scaled = D * gradient
    sigma = (spread * p * scaled).sum(2, keepdim=True) / (D * p).sum(2, keepdim=True)
    return -(scaled + D * pushed * sigma).flatten(1)


def _cholesky(whitened: Whitened, weights: Tensor, p: Tensor, forces: Tensor, gradient: Tensor) -> Tensor:
    """S'diag(w)(diag(p) - pp')S as a Gram matrix: rows of S minus their mean under p, times sqrt(w p)."""
    arguments, size = whitened.spread.shape
    rows = whitened.spread.reshape(-1, whitened.width, size)
    parts = []
    for chosen in torch.arange(len(p), device=p.device).split(max(1, DENSE_ENTRIES // (arguments * size))):
        means = torch.einsum("bgk,gkr->bgr", p[chosen], rows)
        centred = (rows - means[:, :, None]).flatten(1, 2) * forces[chosen].sqrt()[..., None]
        hessian = centred.mT @ centred
        torch.diagonal(hessian, dim1=1, dim2=2).add_(1)
        parts.append(torch.cholesky_solve(gradient[chosen, :, None], torch.linalg.cholesky(hessian))[..., 0])
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
