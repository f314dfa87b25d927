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

import torch
from torch import Tensor

from .active_set import among, free_direction
from .box_runner import BoxAnswer, BoxData, run_box
from .conic_engine import ConicEngine, Runner
from .conic_program import ConicProgram
from .elimination import find_stages, reduce_program, too_large
from .recognition import find_box
from .rows import pick_rows

SHORTEST_WAIT, LONGEST_WAIT = 4, 24
"""Iterations between two checks of the stopping test."""
POLISH_EVERY = (20, 150)
"""Iterations between active-set steps, without and with hinges, whose second derivatives cost more."""
MAX_ITERATIONS = 5_000
WORST_FOR_CONSTANT = 1e-2
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

    @property
    def momentum(self) -> float | None:
        """The constant momentum; None where it has to adapt."""
        if self.smallest <= WORST_FOR_CONSTANT * self.largest:
            return None
        root = (self.smallest / self.largest) ** 0.5
        return (1 - root) / (1 + root)

    def gradient(self, x: Tensor, data: BoxData) -> tuple[Tensor, Tensor | None]:
        """Gradient of F at x, and (W x + w)_+."""
        gradient = data.g + x * self.H if self.H.ndim == 1 else torch.addmm(data.g, x, self.H)
        if self.W is None or data.w is None:
            return gradient, None
        hinge = torch.addmm(data.w, x, self.W.T).clamp_(min=0)
        return torch.addmm(gradient, hinge, self.W), hinge

    def descend(self, y: Tensor, pulled: Tensor, data: BoxData) -> Tensor:
        """One projected gradient step from y; `pulled` is -g / L."""
        new = torch.addcmul(pulled, y, self.step) if self.step.ndim == 1 else torch.addmm(pulled, y, self.step)
        if self.W is not None and data.w is not None:
            hinge = torch.addmm(data.w, y, self.W.T).clamp_(min=0)
            new.addmm_(hinge, self.W, alpha=-1 / self.largest)
        return data.clip_(new)

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
    lacking = uncurved(H, curvature.W)
    if lacking:
        return lacking
    return lambda program, start, tolerance: run_box(
        program, reduction, box, lambda data, tolerance: minimize(curvature, data, tolerance), start, tolerance
    )


def uncurved(H: Tensor, W: Tensor | None = None) -> str:
    """What the program lacks where the objective is linear in some unknowns; empty where it curves in all."""
    curved = H.diagonal(dim1=-2, dim2=-1) != 0
    if W is not None:
        curved = curved | (W != 0).any(0)
    straight = int((~curved).any(0).sum() if curved.ndim > 1 else (~curved).sum())
    return f"an objective that is quadratic in every unknown (it is linear in {straight} of them)" if straight else ""


def minimize(curvature: Curvature, data: BoxData, tolerance: float) -> BoxAnswer:
    """Minimize F over the boxes of a batch, from ``data.start``."""
    answer = BoxAnswer.empty(data)
    rows = torch.arange(len(data.start), device=data.start.device)
    x = y = data.clip_(data.start.clone())
    age, beta = torch.ones_like(x[:, :1]), curvature.momentum
    pulled = data.g / -curvature.largest
    done, wait, polished, before = 0, 0 if bool(x.any()) else LONGEST_WAIT // 2, 0, torch.inf
    while len(rows):
        for _ in range(wait):
            new = curvature.descend(y, pulled, data)
            if beta is None:
                x, y, age = adapt(x, y, new, age)
            else:
                x, y = new, torch.lerp(x, new, 1 + beta)
        done += wait
        gradient, hinge = curvature.gradient(x, data)
        if done - polished >= POLISH_EVERY[curvature.W is not None]:
            x, y, age, gradient, hinge = _polish(curvature, data, x, y, age, gradient, hinge)
            polished = done
        excess = data.excess(x, gradient, hinge, tolerance)
        good = excess <= 1
        if done >= MAX_ITERATIONS:
            good = torch.ones_like(good)
        if bool(good.any()):
            answer.keep(rows, good, x, gradient, hinge, done)
            rows, x, y, age, excess = pick_rows(~good, rows, x, y, age, excess)
            data = data.pick(~good)
            pulled = data.g / -curvature.largest
        wait, before = _wait(excess, before, wait)
    return answer


def _wait(excess: Tensor, before: float, waited: int) -> tuple[int, float]:
    """Iterations until the next check, from how fast the middle row came down since the last; and where it is now."""
    if not len(excess):
        return 0, before
    now = float(excess.median())
    if not 1 < now < before < torch.inf:
        return SHORTEST_WAIT, now
    left = waited * math.log(now) / math.log(before / now)
    return int(min(max(left / 2, SHORTEST_WAIT), LONGEST_WAIT)), now


def adapt(x: Tensor, y: Tensor, new: Tensor, age: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One adaptive momentum update of every row; a row whose momentum points uphill starts afresh."""
    move = new - x
    uphill = ((y - new) * move).sum(1, keepdim=True) > 0
    age = torch.where(uphill, 1.0, age)
    older = (1 + torch.sqrt(1 + 4 * age**2)) / 2
    return new, torch.addcmul(new, (age - 1) / older, move), older


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
