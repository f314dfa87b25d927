"""Blocks of inequality lifting: intervals by clipping, least squares over boxes by accelerated projected gradient.

    minimize    1/2 |W x + b - v|^2      over   h - epsilon <= x <= h + epsilon

for many samples with the same W: FISTA with step 1 / |W|^2 and a restart of the momentum of every sample whose gradient
points against its move. Samples that miss their gap after 200 iterations go on with projected Newton, whose
iterations are few and dear.

Source: Beck & Teboulle, SIAM J. Imaging Sciences 2 (2009); O'Donoghue & Candes, "Adaptive restart for accelerated
gradient schemes", Foundations of Computational Mathematics 15 (2015).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..formulations.inequality_blocks import BoxActivation, IntervalPreActivation
from ..formulations.spectral_norm import squared_norm_above
from ..formulations.subproblem import Subproblem
from .box_runner import BoxData
from .engine import Answer, Data, Engine
from .projected_newton import minimize
from .rows import Answers, pick_rows

CHECKS, CHECK_EVERY = 20, 10


def missing(subproblem: Subproblem) -> str:
    """What keeps this engine from solving the subproblem; empty where it can."""
    fits = isinstance(subproblem, (BoxActivation, IntervalPreActivation))
    return "" if fits else "a block of inequality lifting (inequality.pre_activation, inequality.activation)"


def run(subproblem: Any, data: Data, start: Data, tolerance: float) -> Answer:
    """Solve a batch; see `Engine.run`."""
    if isinstance(subproblem, IntervalPreActivation):
        z = subproblem.clip(data["u"], data)
        return Answer({"z": z}, torch.ones(len(z), dtype=torch.long, device=z.device), {"z": z})
    x = subproblem.clip(start.get("x", data["h"]), data)
    answers, all_met = _accelerate(subproblem, dict(data), x, tolerance)
    result, iterations = answers.values["x"], CHECK_EVERY * answers.iterations
    if subproblem.epsilon and not all_met:
        late = (subproblem.residuals({"x": result}, data).gap > tolerance).nonzero()[:, 0]
        if len(late):
            rest = {name: data[name][late] for name in ("h", "v")} | {name: data[name] for name in ("W", "b")}
            answer = minimize(data["W"].T @ data["W"], _box(subproblem, rest, result[late], tolerance), tolerance)
            result[late] = subproblem.clip(answer.x, rest)
            iterations[late] += answer.iterations
    return Answer({"x": result}, iterations, {"x": result})


def _accelerate(
    subproblem: BoxActivation, data: dict[str, Tensor], x: Tensor, tolerance: float
) -> tuple[Answers, bool]:
    """Accelerated projected gradient, where rows that have converged leave; and whether all were seen to converge."""
    length = 1 / (squared_norm_above(data["W"]) + 1e-300)
    answers, y, s = Answers({"x": x}), x, torch.ones_like(x[:, :1])
    for check in range(CHECKS):
        good = subproblem.residuals({"x": x}, data).gap <= tolerance
        keep = answers.take(good, {"x": x}, check)
        if answers.complete:
            return answers, True
        if keep is not None:
            x, y, s, data["h"], data["v"] = pick_rows(keep, x, y, s, data["h"], data["v"])
        for _ in range(CHECK_EVERY):
            gradient = subproblem.gradient(y, data)
            after = subproblem.clip(y - length * gradient, data)
            following = (1 + (1 + 4 * s**2).sqrt()) / 2
            # Restart where the step from y goes against the move.
            against = ((y - after) * (after - x)).sum(1, keepdim=True) > 0
            share = torch.where(against, 0.0, (s - 1) / following)
            y, x, s = after + share * (after - x), after, torch.where(against, 1.0, following)
    # The others give the point that they have reached.
    answers.take(torch.ones_like(x[:, 0], dtype=torch.bool), {"x": x}, CHECKS)
    return answers, False


def _box(subproblem: BoxActivation, data: Data, start: Tensor, tolerance: float) -> BoxData:
    offset = data["b"] - data["v"]
    g = offset @ data["W"]
    wanted = torch.full_like(g[:, 0], tolerance)
    return BoxData(
        g=g, w=None, lower=data["h"] - subproblem.epsilon, upper=data["h"] + subproblem.epsilon, start=start,
        constant=(offset**2).sum(1) / 2, weight=g.abs().amax(1), wanted=wanted, has_lower=True, has_upper=True,
        bounded=True, boxed=True, floor=None, warm=True,
    )  # fmt: skip


ENGINE = Engine(
    "clipping",
    "blocks of inequality lifting: clipping, accelerated projected gradient, projected Newton",
    missing,
    run,
)
