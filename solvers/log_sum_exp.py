"""Log-sum-exp structure, found in a reduced canonical program.

    minimize    1/2 x'P x + q'x + sum_k w_k log sum_{i in k} exp(z_i),        z = arguments x + offsets

cvxpy writes each term as ``w t`` with an exponential cone (z_i - t, 1, u_i) for every argument and sum_i u_i <= 1; a
logistic term log(1 + e^z) is one with the constant argument 0. Then t is the log-sum-exp and u_i = p_i = exp(z_i - t),
the softmax of the term. With the dual w of the sum, stationarity in u_i, t and complementarity leave one choice for
the dual of every cone,

    (-w p_i,  w p_i (log p_i - 1),  w),

which is on the boundary of K*: w p exp(-log p + 1 - 1) = w. The dual equation becomes P x + q + arguments'(w p) = 0,
and the gap is x times its residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .conic_program import ConicProgram
from .elimination import SMALLEST_PIVOT, Reduction, Stage, find_stages, reduce_program, too_large
from .shared_matrix import span

ROUNDING = 1e-13
"""Eigenvalues of P below this share of the largest are zero."""
SMALLEST_DEFINITION = 1e-8
"""As SMALLEST_PIVOT, for variables without curvature: substituting one moves no rounding into P."""
OTHER_CONES = "exponential cones of log_sum_exp and logistic terms alone (not of exp, log, entropy, ...)"


@dataclass(frozen=True)
class LogSumExp:
    """Log-sum-exp terms and the quadratic that they are added to.

    Terms are padded to the same number of arguments, so that those of a whole batch are one tensor (batch, terms,
    width); a padded argument is minus infinity.

    Attributes
    ----------
    reduction : Reduction
        The reduced program. The indices below are into it.
    unknowns, tops, shares : Tensor of int64
        Columns of x, of t (one for each term) and of u (one for each cone).
    terms, width : int
    places : Tensor of int64, shape (cones,)
        Place of every cone's argument among the terms * width padded ones.
    P : Tensor, shape (unknowns, unknowns)
        Positive definite.
    arguments : Tensor, shape (terms * width, unknowns)
    """

    reduction: Reduction
    unknowns: Tensor
    tops: Tensor
    shares: Tensor
    terms: int
    width: int
    places: Tensor
    P: Tensor
    arguments: Tensor

    @cached_property
    def _spans(self) -> tuple[slice | Tensor, ...]:
        return tuple(map(span, (self.unknowns, self.tops, self.shares, self.places)))

    def data(self, program: ConicProgram) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What may vary over the batch.

        Returns
        -------
        q : Tensor, shape (batch or 1, unknowns)
        offsets : Tensor, shape (batch or 1, terms * width)
        weights : Tensor, shape (batch or 1, terms)
        fits : Tensor of bool, shape (batch or 1,)
            Where the weights are at least zero and the constants are those of log-sum-exp terms.
        """
        q, b = self.reduction.vectors(program.q, program.b)
        unknowns, tops, shares, places = self._spans
        cones = b[:, self.terms :].unflatten(1, (-1, 3))
        offsets = b.new_full((len(b), self.terms * self.width), -torch.inf)
        offsets[:, places] = cones[..., 0]
        weights = q[:, tops]
        plain = (b[:, : self.terms] == 1).all(1) & (cones[..., 1] == 1).all(1) & (cones[..., 2] == 0).all(1)
        return q[:, unknowns], offsets, weights, (weights >= 0).all(1) & (q[:, shares] == 0).all(1) & plain

    def lift(self, program: ConicProgram, x: Tensor, offsets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The point of the whole program, with its dual, and the softmax of every cone.

        Parameters
        ----------
        program : ConicProgram
        x : Tensor, shape (batch, unknowns)
        offsets : Tensor, shape (batch or 1, terms * width)
        weights : Tensor, shape (batch or 1, terms)

        Returns
        -------
        x, y : Tensor, shapes (batch, n) and (batch, m)
        probabilities : Tensor, shape (batch, cones)
        """
        unknowns, tops, shares, places = self._spans
        grouped = (offsets + x @ self.arguments.T).unflatten(1, (self.terms, self.width))
        t, _ = log_sum_exp(grouped)
        logs = (grouped - t[..., None]).flatten(1)[:, places]
        # Of the rounded logarithms: the points of the cones have to fit each other to the last digit.
        p = logs.exp()
        point = x.new_empty(len(x), self.reduction.P.shape[-1])
        point[:, unknowns], point[:, tops], point[:, shares] = x, t, p
        factors = weights[:, :, None].expand(-1, -1, self.width).flatten(1)[:, places]
        pulled = factors * p
        dual = x.new_empty(len(x), self.reduction.cones.rows)
        dual[:, : self.terms] = weights
        cones = dual[:, self.terms :].unflatten(1, (-1, 3))
        cones[..., 0], cones[..., 1], cones[..., 2] = -pulled, pulled * (logs - 1), factors
        return *self.reduction.lift(point, dual, program.q, program.b), p


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


def find_log_sum_exp(program: ConicProgram) -> LogSumExp | str:
    """The log-sum-exp structure of a program, or what it lacks, in words that follow "it needs"."""
    cones = program.cones
    if not cones.exponential:
        return f"log_sum_exp or logistic terms (the program has {cones})"
    if cones.second_order or cones.semidefinite or cones.power or cones.others:
        return f"no other cones than those of log_sum_exp and logistic terms (the program has {cones})"
    if not program.shared:
        return "one P and one A for the whole batch: no batch axis on parameters that multiply variables"
    reduction = too_large(program) or _reduce(program)
    if isinstance(reduction, str):
        return reduction
    found = _find_terms(reduction)
    if isinstance(found, str):
        return found
    missing = _missing(found, program)
    return missing or found


def _reduce(program: ConicProgram) -> Reduction | str:
    """Take out all equalities; also those that define arguments of exponential cones."""
    stages = find_stages(program)
    reduction = reduce_program(program, stages)
    while reduction.cones.zero:
        stage = _argument_definitions(reduction)
        if stage is None:
            return f"equalities that each define a variable ({reduction.cones.zero} are left that do not)"
        stages.append(stage)
        reduction = reduce_program(program, stages)
    return reduction


def _argument_definitions(reduction: Reduction) -> Stage | None:
    """For each equality a variable that stands in no other one, without curvature if there is such a variable."""
    equalities = reduction.A[: reduction.cones.zero].cpu().numpy()
    sizes = np.abs(equalities)
    alone = np.where((equalities != 0).sum(0) == 1, sizes, 0)
    straight = (reduction.P == 0).all(0).cpu().numpy()
    least = np.where(straight, SMALLEST_DEFINITION, SMALLEST_PIVOT) * sizes.max(1, keepdims=True)
    usable = np.where(alone > least, alone, 0)
    chosen = np.where((usable * straight).any(1, keepdims=True), usable * straight, usable)
    rows = np.flatnonzero(chosen.any(1))
    if not len(rows):
        return None
    columns = chosen[rows].argmax(1)
    others = (np.setdiff1d(np.arange(size), taken)
              for size, taken in zip(reduction.A.shape, (rows, columns), strict=True))  # fmt: skip
    return Stage(*(torch.as_tensor(part, device=reduction.A.device) for part in (rows, columns, *others)))


def _find_terms(reduction: Reduction) -> LogSumExp | str:
    """Match the pattern of A and P; the entries of q and b are checked afterwards."""
    A, terms = reduction.A.cpu().numpy(), reduction.cones.nonnegative
    straight = (reduction.P == 0).all(0).cpu().numpy()
    sums, (firsts, seconds, thirds) = A[:terms], (A[terms + part :: 3] for part in range(3))
    shares = (thirds != 0).argmax(1)
    # Where a share stands: once in its cone, with -1, and once in a sum, with 1.
    own = np.zeros_like(thirds)
    own[np.arange(len(shares)), shares] = -1
    if seconds.any() or (thirds != own).any() or len(set(shares)) < len(shares):
        return OTHER_CONES
    members = sums[:, shares] == 1
    in_sums = np.zeros_like(sums)
    in_sums[:, shares] = members
    foreign = int(((sums != in_sums).any(1) | ~members.any(1)).sum())
    if foreign:
        return f"no inequalities but those of log_sum_exp and logistic terms (there are {foreign}, bounds included)"
    lonely = (members.sum(0) == 1) & straight[shares] & ((A[:, shares] != 0).sum(0) == 2)
    if not lonely.all():
        return OTHER_CONES
    counts = members.sum(1, keepdims=True)
    at_tops = (members.astype(float) @ (firsts == 1) == counts) & ((A != 0).sum(0) == counts) & straight
    if not at_tops.any(1).all():
        return "log_sum_exp and logistic terms that stand in the objective alone, as summands"
    tops = at_tops.argmax(1)
    unknowns = np.setdiff1d(np.arange(A.shape[1]), np.concatenate([tops, shares]))
    return _padded(reduction, members, (unknowns, tops, shares), -firsts[:, unknowns])


def _padded(
    reduction: Reduction, members: np.ndarray, columns: tuple[np.ndarray, ...], arguments: np.ndarray
) -> LogSumExp:
    terms, width = len(members), int(members.sum(1).max())
    term = members.argmax(0)
    places = term * width + (np.cumsum(members, axis=1) - 1)[term, np.arange(len(term))]
    padded = np.zeros((terms * width, arguments.shape[1]))
    padded[places] = arguments
    unknowns, tops, shares, at = (torch.as_tensor(part, device=reduction.P.device) for part in (*columns, places))
    P = reduction.P[unknowns[:, None], unknowns]
    return LogSumExp(reduction, unknowns, tops, shares, terms, width, at, P, torch.as_tensor(padded).to(P))


def _missing(found: LogSumExp, program: ConicProgram) -> str:
    """What P, q and b lack; empty where they lack nothing."""
    curvatures = torch.linalg.eigvalsh(found.P)
    if not bool((curvatures > ROUNDING * curvatures[-1:].clamp_min(0)).all()):
        return (
            "a quadratic cost that is positive definite in the variables, such as a proximal term or weight decay "
            f"(its curvatures run from {float(curvatures[0]):.1e} to {float(curvatures[-1]):.1e})"
        )
    _, _, weights, fits = found.data(program)
    if bool((weights < 0).any()):
        return f"weights of log_sum_exp and logistic terms of at least zero (here one is {float(weights.min()):.3g})"
    numbers = program.q.isfinite().all(1) & program.b.isfinite().all(1)
    if bool((numbers & ~fits).any()):
        return "log_sum_exp and logistic terms alone (the constants of some cones are others)"
    return ""


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


def _thin(matrix: Tensor) -> Tensor:
    """A diagonal matrix as the vector of its diagonal."""
    diagonal = torch.diagonal(matrix)
    plain = matrix.shape[0] == matrix.shape[1] and not bool((matrix - torch.diag(diagonal)).any())
    return diagonal.contiguous() if plain else matrix


def log_sum_exp(arguments: Tensor) -> tuple[Tensor, Tensor]:
    """log sum exp over the last axis, and the softmax; in this way half as long as torch's own take for few entries."""
    most = arguments.amax(-1, keepdim=True)
    parts = (arguments - most).exp()
    total = parts.sum(-1, keepdim=True)
    return (most + total.log())[..., 0], parts / total


def times(matrix: Tensor, rows: Tensor) -> Tensor:
    """The matrix, or the diagonal one that a vector stands for, times every row."""
    return rows * matrix if matrix.ndim == 1 else rows @ matrix.T


def pulled(matrix: Tensor, rows: Tensor) -> Tensor:
    """The transposed matrix times every row."""
    return rows * matrix if matrix.ndim == 1 else rows @ matrix
