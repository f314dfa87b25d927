"""Output blocks: the proximal map of the loss, by Newton with a Sherman-Morrison solve for each sample.

    minimize_z   loss(z; y)  +  m/2 |z - u|^2 .

The Hessian is phi'(z) + m I with phi the activation of the loss: the identity (one step solves it), a diagonal
(sigmoid), or diag(p) - p p' + m I for softmax, p = softmax(z): a diagonal minus a rank-one term, whose inverse is

    (A - p p')^{-1} g = A^{-1} g + A^{-1} p <p, A^{-1} g> / (1 - <p, A^{-1} p>),      A = diag(p) + m I ,

O(outputs) work. The denominator is positive because sum p_k^2 / (p_k + m) < sum p_k = 1. Steps are damped
by Armijo backtracking.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..formulations.fenchel_output import FenchelOutput
from ..formulations.subproblem import Subproblem
from .engine import Answer, Data, Engine
from .rows import Answers, Pace, backtrack, pick_rows, wanted_gap
from .solution import decisive

MAX_ITERATIONS = 100


def missing(subproblem: Subproblem) -> str:
    """What keeps this engine from solving the subproblem; empty where it can."""
    return "" if isinstance(subproblem, FenchelOutput) else "an output block (fenchel.output)"


def run(subproblem: FenchelOutput, data: Data, start: Data, tolerance: float) -> Answer:
    """Solve a batch; see `Engine.run`."""
    u, y = data["u"], data["y"]
    z = start.get("z", u)
    answers = Answers({"z": z})
    stalled = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    wanted = wanted_gap(subproblem, {"z": u}, data, tolerance)
    for done in range(MAX_ITERATIONS + 1):
        gap = decisive(subproblem.residuals({"z": z}, {"u": u, "y": y}))
        good = (gap <= wanted) | stalled | (done == MAX_ITERATIONS)
        keep = answers.take(good, {"z": z}, done)
        if answers.complete:
            break
        if keep is not None:
            z, u, y, wanted = pick_rows(keep, z, u, y, wanted)
        z, stalled = _step(subproblem, {"u": u, "y": y}, z, answers.pace(done))
    return Answer(answers.values, answers.iterations, answers.values)


def _step(subproblem: FenchelOutput, data: Data, z: Tensor, pace: Pace) -> tuple[Tensor, Tensor]:
    gradient = subproblem.gradient(z, data)
    direction = -_solve_hessian(subproblem, z, gradient)

    def objective(steps: Tensor) -> Tensor:
        return subproblem.objective({"z": z + steps[:, None] * direction}, data)

    slope = (gradient * direction).sum(1)
    steps, _ = backtrack(objective, subproblem.objective({"z": z}, data), slope, pace)
    moved = torch.where(steps[:, None] > 0, z + steps[:, None] * direction, z)
    return moved, (steps == 0) & pace.whole


def _solve_hessian(subproblem: FenchelOutput, z: Tensor, gradient: Tensor) -> Tensor:
    phi = subproblem.loss.activation
    diagonal = phi.slope(z) + subproblem.multiplier
    solved = gradient / diagonal
    if not phi.couples_units:
        return solved
    p = phi.phi(z)
    scaled = p / diagonal
    # 1 - sum p^2/(p + m) = m sum p/(p + m): no cancellation when m is small.
    room = subproblem.multiplier * scaled.sum(1, keepdim=True)
    return solved + scaled * (p * solved).sum(1, keepdim=True) / room


ENGINE = Engine(
    "sherman_morrison",
    "output blocks of every loss: Newton, with a Sherman-Morrison solve for softmax",
    missing,
    run,
)
