"""Blocks of inequality lifting: intervals by clipping, least squares over boxes by accelerated projected gradient.

    minimize    1/2 |W x + b - v|^2      over   h - epsilon <= x <= h + epsilon

for many samples with the same W, in four stages; a sample whose gap is met takes no part in the next ones.

1. The nearest minimizer without the box, x - W^+ (W x + b - v), put into the box: one decomposition for all samples.
2. FISTA with step 1 / |W|^2 and a restart of the momentum of every sample whose gradient points against its move.
3. After `FIRST_ORDER` iterations projected Newton, whose iterations are few and dear.
4. Where W is nearly singular, W'W, whose condition is that of W squared, says nothing about W's small singular values,
   and Newton steps stall. The active-set method of scipy works with W itself, sample by sample.

Source: Beck & Teboulle, SIAM J. Imaging Sciences 2 (2009); O'Donoghue & Candes, "Adaptive restart for accelerated
gradient schemes", Foundations of Computational Mathematics 15 (2015); Stark & Parker, "Bounded-variable least-squares",
Computational Statistics 10 (1995).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from ..formulations.inequality_blocks import BoxActivation, IntervalPreActivation
from ..formulations.subproblem import Subproblem
from .box_runner import BoxData
from .engine import Answer, Data, Engine
from .projected_newton import minimize
from .rows import pick_rows

FIRST_ORDER, CHECK_EVERY = 200, 10
CUTS = (1e-10, 1e-6, 1e-4, 1e-2)
"""Relative sizes of singular values below which W counts as singular for the first guess."""
ACTIVE_SET_TOLERANCE, ACTIVE_SET_STEPS = 1e-13, 20
"""The latter for each unit of the layer; by default scipy stops after one for each."""


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
    iterations = torch.ones(len(x), dtype=torch.long, device=x.device)
    result, late = _nearest(subproblem, data, x, tolerance)
    if len(late):
        result[late], iterations[late] = _accelerate(subproblem, _take(data, late), x[late], tolerance)
        late = _late(subproblem, result, data, tolerance)
    if len(late) and subproblem.epsilon:
        rest = _take(data, late)
        answer = minimize(data["W"].T @ data["W"], _box(subproblem, rest, result[late], tolerance), tolerance)
        result[late] = subproblem.clip(answer.x, rest)
        iterations[late] += answer.iterations
        late = _late(subproblem, result, data, tolerance)
    if len(late) and subproblem.epsilon:
        result[late], steps = _active_sets(subproblem, _take(data, late))
        iterations[late] += steps
    return Answer({"x": result}, iterations, {"x": result})


def _take(data: Data, rows: Tensor) -> dict[str, Tensor]:
    """The data of some samples."""
    return {name: data[name] if name in ("W", "b") else data[name][rows] for name in data}


def _late(subproblem: BoxActivation, x: Tensor, data: Data, tolerance: float) -> Tensor:
    """Samples whose gap is not met."""
    return (~(subproblem.residuals({"x": x}, data).gap <= tolerance)).nonzero()[:, 0]


def _nearest(subproblem: BoxActivation, data: Data, x: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The minimizer without the box that is nearest to x, in the box; and the samples whose gap is not met.

    A small singular value asks for a long move, out of the box, for little gain: those are left out, step by step.
    """
    U, S, Vh = torch.linalg.svd(data["W"], full_matrices=False)
    result, late = x, _late(subproblem, x, data, tolerance)
    for cut in CUTS:
        if not len(late):
            break
        kept = S > cut * S[0]
        rest = _take(data, late)
        left = (x[late] @ data["W"].T + data["b"] - rest["v"]) @ U[:, kept]
        found = subproblem.clip(x[late] - left / S[kept] @ Vh[kept], rest)
        result = result.index_copy(0, late, found)
        late = late[_late(subproblem, found, rest, tolerance)]
    return result, late


def _active_sets(subproblem: BoxActivation, data: Data) -> tuple[Tensor, Tensor]:
    """Every sample by the active-set method for least squares with bounds; and its iterations."""
    W, target = data["W"].cpu().numpy(), (data["v"] - data["b"]).cpu().numpy()
    h, epsilon = data["h"].cpu().numpy(), subproblem.epsilon
    # A box must not be empty, also where epsilon is lost in the rounding of h.
    lower, upper = h - epsilon, np.maximum(h + epsilon, np.nextafter(h - epsilon, np.inf))
    settings = {"method": "bvls", "tol": ACTIVE_SET_TOLERANCE, "max_iter": ACTIVE_SET_STEPS * W.shape[1]}
    found = [
        lsq_linear(W, *instance, **settings)
        for instance in zip(target, zip(lower, upper, strict=True), strict=True)
    ]
    x = torch.as_tensor(np.array([one.x for one in found])).to(data["h"])
    return subproblem.clip(x, data), torch.tensor([one.nit for one in found], device=x.device)


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
    "blocks of inequality lifting: clipping, accelerated projected gradient, projected Newton, active sets",
    missing,
    run,
)
