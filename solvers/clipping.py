"""Blocks of inequality lifting: intervals by clipping, least squares over boxes by accelerated projected gradient.

    minimize    1/2 |W x + b - v|^2      over   h - epsilon <= x <= h + epsilon

for many samples with the same W: FISTA with step 1 / |W|^2 and a restart of the momentum of every sample whose gradient
points against its move. Samples that miss their gap after `FIRST_ORDER` iterations go on with projected Newton, whose
iterations are few and dear.

Source: Beck & Teboulle, SIAM J. Imaging Sciences 2 (2009); O'Donoghue & Candes, "Adaptive restart for accelerated
gradient schemes", Foundations of Computational Mathematics 15 (2015).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..formulations.inequality_blocks import BoxActivation, IntervalPreActivation
from ..formulations.subproblem import Subproblem
from .box_runner import BoxData
from .engine import Answer, Data, Engine
from .projected_newton import minimize
from .rows import pick_rows

FIRST_ORDER, CHECK_EVERY = 200, 10


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
    result, iterations = _accelerate(subproblem, dict(data), x, tolerance)
    late = (iterations == FIRST_ORDER).nonzero()[:, 0]
    if len(late) and subproblem.epsilon:
        rest = {name: data[name][late] for name in ("h", "v")} | {name: data[name] for name in ("W", "b")}
        answer = minimize(data["W"].T @ data["W"], _box(subproblem, rest, result[late], tolerance), tolerance)
        result[late] = subproblem.clip(answer.x, rest)
        iterations[late] += answer.iterations
    return Answer({"x": result}, iterations, {"x": result})


def _accelerate(
    subproblem: BoxActivation, data: dict[str, Tensor], x: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Accelerated projected gradient; rows that have converged leave the batch."""
    length = 1 / float(torch.linalg.matrix_norm(data["W"], 2) ** 2 + 1e-300)
    result, rows = x.clone(), torch.arange(len(x), device=x.device)
    iterations = torch.full_like(rows, FIRST_ORDER)
    y, s = x, torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
    for done in range(FIRST_ORDER + 1):
        if done % CHECK_EVERY == 0:
            good = subproblem.residuals({"x": x}, data).gap <= tolerance
            if done == FIRST_ORDER:
                result[rows] = x
                iterations[rows[good]] = done - 1
                break
            if bool(good.any()):
                result[rows[good]], iterations[rows[good]] = x[good], done
                rows, x, y, s, data["h"], data["v"] = pick_rows(~good, rows, x, y, s, data["h"], data["v"])
            if not len(rows):
                break
        gradient = subproblem.gradient(y, data)
        after = subproblem.clip(y - length * gradient, data)
        following = (1 + (1 + 4 * s**2).sqrt()) / 2
        # Restart where the step from y goes against the move.
        against = ((y - after) * (after - x)).sum(1, keepdim=True) > 0
        share = torch.where(against, 0.0, (s - 1) / following)
        y, x, s = after + share * (after - x), after, torch.where(against, 1.0, following)
    return result, iterations


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
