"""Accelerated projected gradient for boxes and squared hinges whose Hessian the batch shares.

    minimize    F(x) = 1/2 x'H x + g'x + 1/2 |(W x + w)_+|^2        over   lower <= x <= upper

With L the largest eigenvalue of H + W'W, a step is  x+ = clip(y - F'(y) / L),  y = x+ + beta (x+ - x). All work is
two or three products of (rows, n) matrices. The momentum beta is the constant (1 - r) / (1 + r), r = sqrt(mu / L),
where H is strongly convex with a modulus mu that is not too small; else it adapts and restarts, for each instance,
where it points uphill. Rows that have converged leave the batch; for rows that take long an active-set step is tried.

Source: Nesterov, "Introductory Lectures on Convex Optimization" (2004), section 2.2; O'Donoghue & Candes, "Adaptive
restart for accelerated gradient schemes", Found. Comput. Math. 15 (2015), section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .active_set import among, free_direction
from .box_runner import BoxAnswer, BoxData, aim, run_box
from .conic_engine import ConicEngine, Runner
from .conic_program import ConicProgram
from .elimination import find_stages, reduce_program, too_large
from .recognition import find_box
from .rows import pick_rows

SHORTEST_WAIT, LONGEST_WAIT = 3, 32
"""Iterations between two checks of the stopping test."""
KEPT_SHARE = 0.6
"""Share of open rows below which the others leave the batch: to leave rows out is to copy the others."""
POLISH_EVERY = (20, 400)
"""Iterations between active-set steps, without and with hinges, whose second derivatives cost more."""
MAX_ITERATIONS = 5_000
WORST_FOR_CONSTANT = 1e-3
"""Smallest mu / L for the constant momentum; below, adapting is faster."""


@dataclass(frozen=True)
class Curvature:
    """What the batch shares: the Hessian H, the rows W of the hinges, and their step length.

    Attributes
    ----------
    H : Tensor
        (n, n), or its diagonal (n,).
    W : Tensor or None
    largest, smallest : float
        Eigenvalues: the largest of H + W'W, the smallest of H.
    step : Tensor
        1 - H / L, as H is held.
    """

    H: Tensor
    W: Tensor | None
    largest: float
    smallest: float
    step: Tensor

    @staticmethod
    def of(H: Tensor, W: Tensor | None) -> Curvature:
        """Find the eigenvalues and the step."""
        whole = H if W is None else H + W.T @ W
        # The factor covers the rounding of the eigenvalue: a step that is too long by 1e-16 need not descend.
        largest = float(torch.linalg.eigvalsh(whole)[-1]) * 1.000001 if len(H) else 0.0
        smallest = max(0.0, float(torch.linalg.eigvalsh(H)[0])) if len(H) else 0.0
        diagonal = torch.diagonal(H)
        kept = diagonal.clone() if not bool((H - torch.diag(diagonal)).any()) else H
        eye = torch.ones_like(kept) if kept.ndim == 1 else torch.eye(len(kept), dtype=H.dtype, device=H.device)
        return Curvature(kept, W, largest, smallest, eye - kept / max(largest, 1e-300))

    @cached_property
    def transposed(self) -> Tensor:
        """W', laid out by its own rows, which products are quicker with."""
        assert self.W is not None
        return self.W.T.contiguous()

    @property
    def rate(self) -> float | None:
        """By how much the logarithm of the gap falls in an iteration with the constant momentum; None without it."""
        return None if self.momentum is None else -math.log1p(-((self.smallest / self.largest) ** 0.5))

    @property
    def momentum(self) -> float | None:
        """The constant momentum; None where it has to adapt."""
        if self.smallest <= WORST_FOR_CONSTANT * self.largest:
            return None
        root = (self.smallest / self.largest) ** 0.5
        return (1 - root) / (1 + root)

    def gradient(self, x: Tensor, data: BoxData) -> tuple[Tensor, Tensor | None]:
        """Gradient of F at x, and (W x + w)_+."""
        gradient = torch.addcmul(data.g, x, self.H) if self.H.ndim == 1 else torch.addmm(data.g, x, self.H)
        if self.W is None or data.w is None:
            return gradient, None
        hinge = torch.addmm(data.w, x, self.transposed).clamp_(min=0)
        return gradient.addmm_(hinge, self.W), hinge

    def descend(self, y: Tensor, pulled: Tensor, data: BoxData, new: Tensor, hinge: Tensor) -> None:
        """One projected gradient step from y into `new`; `pulled` is -g / L, and `hinge` is room for (W y + w)_+."""
        if self.step.ndim == 1:
            torch.addcmul(pulled, y, self.step, out=new)
        else:
            torch.addmm(pulled, y, self.step, out=new)
        if self.W is not None and data.w is not None:
            torch.addmm(data.w, y, self.transposed, out=hinge)
            new.addmm_(hinge.clamp_(min=0), self.W, alpha=-1 / self.largest)
        data.clip_(new)

    def hessian(self, rows: Tensor, places: Tensor, hinge: Tensor | None) -> Tensor:
        """Second derivatives of F among the given unknowns, (rows, k) places -> (rows, k, k)."""
        quadratic = among(torch.diag(self.H) if self.H.ndim == 1 else self.H, rows, places)
        if self.W is None or hinge is None:
            return quadratic
        active = self.W.T[places] * (hinge[rows] > 0)[:, None, :]
        return quadratic + active @ active.mT


def prepare(program: ConicProgram) -> Runner | str:
    """See `ConicEngine.prepare`."""
    if not program.shared:
        return "a Hessian and a constraint matrix shared by the batch"
    lacking = too_large(program)
    if lacking:
        return lacking
    if not program.cones.linear:
        return f"bounds and smooth squared hinges alone (this program has {program.cones})"
    reduction = reduce_program(program, find_stages(program))
    q, b = reduction.vectors(program.q, program.b)
    box = find_box(reduction, q, b)
    if isinstance(box, str):
        return box
    H = reduction.P[box.columns][:, box.columns]
    curvature = Curvature.of(H, None if box.hinges is None else box.hinges.W)
    if not curvature.largest > 0:
        return "a quadratic objective"
    straight = H.diagonal() == 0
    if curvature.W is not None:
        straight = straight & ~(curvature.W != 0).any(0)

    def solve(data: BoxData, tolerance: float) -> BoxAnswer:
        return minimize(curvature, data, tolerance)

    return lambda program, start, tolerance: run_box(program, reduction, box, straight, solve, start, tolerance)


def minimize(curvature: Curvature, data: BoxData, tolerance: float) -> BoxAnswer:
    """Minimize F over the boxes of a batch, from ``data.start``."""
    answer = BoxAnswer.empty(data)
    rows = torch.arange(len(data.start), device=data.start.device)
    plain = data.clip_(torch.zeros_like(data.start))
    data = aim(data, plain, *curvature.gradient(plain, data), tolerance)
    x = data.clip_(data.start.clone())
    y, age, beta = x.clone(), torch.ones_like(x[:, :1]), curvature.momentum
    pulled, new, hinge = data.g / -curvature.largest, torch.empty_like(x), _room(curvature, x)
    # A warm start of a program that takes long is first tried by an active-set step.
    pause = POLISH_EVERY[curvature.W is not None]
    polished = -pause if data.warm and beta is None else 0
    done, before = 0, math.inf
    wait = 0 if data.warm else min(_first_wait(tolerance, curvature.rate), pause)
    left = torch.ones_like(rows, dtype=torch.bool)
    while True:
        for _ in range(wait):
            curvature.descend(y, pulled, data, new, hinge)
            if beta is None:
                new, (x, y, age) = x, adapt(x, y, new, age)
            else:
                torch.lerp(x, new, 1 + beta, out=y)
                x, new = new, x
        done += wait
        gradient, bent = curvature.gradient(x, data)
        excess = data.excess(x, gradient, bent)
        if done - polished >= pause and bool((excess[left] > 1).any()):
            x, y, age, gradient, bent = _polish(curvature, data, x, y, age, gradient, bent)
            excess, polished = data.excess(x, gradient, bent), done
        # Rows that overflow end here; their residuals will say what they are.
        good = left & (~(excess > 1) | excess.isinf() | (done >= MAX_ITERATIONS))
        if bool(good.any()):
            answer.keep(rows, good, x, gradient, bent, done)
            left = left & ~good
            if not bool(left.any()):
                return answer
        wait, before = _wait(excess[left], before, wait, curvature.rate)
        wait = min(wait, max(SHORTEST_WAIT, polished + pause - done))
        if int(left.sum()) < KEPT_SHARE * len(left):
            rows, x, y, age, left, data = *pick_rows(left, rows, x, y, age, left), data.pick(left)
            pulled, new, hinge = data.g / -curvature.largest, torch.empty_like(x), _room(curvature, x)


def _first_wait(tolerance: float, rate: float | None) -> int:
    """Iterations before the first check: nearly what the gap takes from 1 to the tolerance."""
    return LONGEST_WAIT // 2 if rate is None else int(min(math.log(1 / tolerance) / rate, LONGEST_WAIT))


def _room(curvature: Curvature, x: Tensor) -> Tensor:
    return x.new_empty(len(x), 0 if curvature.W is None else len(curvature.W))


def _wait(excess: Tensor, before: float, waited: int, rate: float | None) -> tuple[int, float]:
    """Iterations until the next check, from where most rows are now and how fast they come down; and where that is."""
    # A quantile, without torch's own, which takes as long as a product.
    now = max(float(excess.sort().values[3 * len(excess) // 4]), 1.0)
    if rate is None:
        if not 1 < now < before < math.inf:
            return SHORTEST_WAIT, now
        rate = 2 * math.log(before / now) / waited
    return int(min(max(math.ceil(math.log(now) / rate) + 1, SHORTEST_WAIT), LONGEST_WAIT)), now


def adapt(x: Tensor, y: Tensor, new: Tensor, age: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One adaptive momentum update of every row; a row whose momentum points uphill starts afresh. Overwrites y."""
    move = new - x
    uphill = torch.linalg.vecdot(y.sub_(new), move)[:, None] > 0
    age = torch.where(uphill, 1.0, age)
    older = (1 + torch.sqrt(1 + 4 * age**2)) / 2
    return new, torch.addcmul(new, (age - 1) / older, move, out=y), older


def _polish(
    curvature: Curvature, data: BoxData, x: Tensor, y: Tensor, age: Tensor, gradient: Tensor, hinge: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Solve for the unknowns that are not at a bound; kept in the rows where the objective falls."""
    move = free_direction(
        lambda rows, places: curvature.hessian(rows, places, hinge), gradient, data.free(x, gradient)
    )
    tried = data.clip_(x + move)
    there, bent = curvature.gradient(tried, data)
    better = (data.objective(tried, there, bent) < data.objective(x, gradient, hinge))[:, None]
    x = torch.where(better, tried, x)
    kept = None if hinge is None or bent is None else torch.where(better, bent, hinge)
    return x, torch.where(better, x, y), torch.where(better, 1.0, age), torch.where(better, there, gradient), kept


ENGINE = ConicEngine(
    "projected_gradient",
    "boxes and squared hinges with a shared Hessian, found in any model: accelerated projected gradient",
    "starts from the last values of the unknowns",
    prepare,
)
