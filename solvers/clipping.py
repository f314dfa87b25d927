"""Blocks of inequality lifting: intervals by clipping, least squares over boxes by accelerated projected gradient.

    minimize    1/2 |W x + b - v|^2      over   h - epsilon <= x <= h + epsilon

for many samples with the same W, in four stages; a sample whose gap is met is not changed by the next ones.

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
from ..formulations.spectral_norm import squared_norm_above
from ..formulations.subproblem import Subproblem
from .box_runner import BoxData
from .engine import Answer, Data, Engine
from .projected_newton import minimize
from .rows import Answers, pick_rows
from .safeguards import all_finite

CHECKS, CHECK_EVERY = 20, 10
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
    answers, all_met = _accelerate(subproblem, dict(data), _nearest(subproblem, data, x, tolerance), tolerance)
    result, iterations = answers.values["x"], 1 + CHECK_EVERY * answers.iterations
    late = result.new_zeros(0) if all_met else _late(subproblem, result, data, tolerance)
    if len(late) and subproblem.epsilon:
        rest = _take(data, late)
        answer = minimize(data["W"].T @ data["W"], _box(subproblem, rest, result[late], tolerance), tolerance)
        result[late] = subproblem.clip(answer.x, rest)
        iterations[late] += answer.iterations
        late = _late(subproblem, result, data, tolerance)
    # scipy does not end, or fails, where a number is not finite.
    if len(late) and subproblem.epsilon and all_finite([*_take(data, late).values()]):
        result[late], steps = _active_sets(subproblem, _take(data, late))
        iterations[late] += steps
    return Answer({"x": result}, iterations, {"x": result})


def _take(data: Data, rows: Tensor) -> dict[str, Tensor]:
    """The data of some samples."""
    return {name: data[name] if name in ("W", "b") else data[name][rows] for name in data}


def _late(subproblem: BoxActivation, x: Tensor, data: Data, tolerance: float) -> Tensor:
    """Samples whose gap is not met."""
    return (~(subproblem.residuals({"x": x}, data).gap <= tolerance)).nonzero()[:, 0]


def _nearest(subproblem: BoxActivation, data: Data, x: Tensor, tolerance: float) -> Tensor:
    """The minimizer without the box that is nearest to x, put into the box.

    A small singular value asks for a long move, out of the box, for little gain: those are left out, step by step,
    for the samples whose gap is not met.
    """
    U, S, Vh = torch.linalg.svd(data["W"], full_matrices=False)
    left = (x @ data["W"].T + data["b"] - data["v"]) @ U
    result, met = x, subproblem.residuals({"x": x}, data).gap <= tolerance
    for cut in CUTS:
        shares = torch.where(S > cut * S[0], 1 / S, 0.0)
        found = subproblem.clip(x - (left * shares) @ Vh, data)
        result = torch.where(met[:, None], result, found)
        met = met | (subproblem.residuals({"x": found}, data).gap <= tolerance)
    return result


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
    "blocks of inequality lifting: clipping, accelerated projected gradient, projected Newton, active sets",
    missing,
    run,
)
