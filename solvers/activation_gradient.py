"""Accelerated projected gradient for activation blocks whose range map has a closed form (the ReLU family).

    minimize_x   below [Phi*(x) - <u, x>]  +  h(x),      h(x) = above [Phi_next(W x + b) - <v, W x + b>].

With L = above * sup phi_next' * |W|_2^2, one step from y is the exact minimizer of the first bracket plus the
quadratic majorizer of h at y. It is `shrink` of the table: a scaled clip for ReLU, so that every iterate is
exactly in the range. Momentum restarts for each instance when it points uphill, and rows that have
converged leave the batch (rows.py). All work is two matrix products per iteration.

Source: O'Donoghue & Candes, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15
(2015), section 3.2 (gradient restart); Beck & Teboulle's FISTA for the step.
"""

from __future__ import annotations

import torch

from ..formulations.fenchel_activation import FenchelActivation
from ..formulations.spectral_norm import squared_norm_above
from ..formulations.subproblem import Subproblem
from .engine import Answer, Data, Engine
from .projected_gradient import adapt
from .rows import Answers, pick_rows, wanted_gap
from .solution import decisive

MAX_CHECKS, CHECK_EVERY = 2_000, 10


def missing(subproblem: Subproblem) -> str:
    """What keeps this engine from solving the subproblem; empty where it can."""
    if not isinstance(subproblem, FenchelActivation):
        return "an activation block (fenchel.activation)"
    if subproblem.activation.shrink is None:
        return f"a closed-form proximal map of the conjugate of {subproblem.activation.label!r}"
    if subproblem.next_activation.slopes[1] == float("inf"):
        return f"a bounded slope of {subproblem.next_activation.label!r} (the step length needs one)"
    return ""


def run(subproblem: FenchelActivation, data: Data, start: Data, tolerance: float) -> Answer:
    """Solve a batch; see `Engine.run`."""
    phi, below, above = subproblem.activation, subproblem.below, subproblem.above
    assert phi.shrink is not None
    u, v, W, b = (data[name] for name in ("u", "v", "W", "b"))
    # The factor covers the rounding of the norm: a step that is too long by 1e-16 need not descend.
    lipschitz = above * subproblem.next_activation.slopes[1] * squared_norm_above(W) * 1.000001
    scale = lipschitz / below

    x = phi.project(start["x"]) if "x" in start else phi.phi(u)
    answers = Answers({"x": x})
    wanted = wanted_gap(subproblem, {"x": phi.phi(u)}, data, tolerance)
    y, age = x.clone(), torch.ones_like(u[:, :1])
    for check in range(MAX_CHECKS + 1):
        part = {"u": u, "v": v, "W": W, "b": b}
        good = (decisive(subproblem.residuals({"x": x}, part)) <= wanted) | (check == MAX_CHECKS)
        keep = answers.take(good, {"x": x}, check)
        if answers.complete:
            break
        if keep is not None:
            x, y, age, u, v, wanted = pick_rows(keep, x, y, age, u, v, wanted)
        for _ in range(CHECK_EVERY):
            push = above * (subproblem.next_activation.phi(torch.addmm(b, y, W.T)) - v) @ W
            new = phi.shrink(u + scale * y - push / below, scale)
            x, y, age = adapt(x, y, new, age)
    x = answers.values["x"]
    return Answer({"x": x, "z": x @ W.T + b}, CHECK_EVERY * answers.iterations, answers.values)


ENGINE = Engine(
    "projected_gradient",
    "activation blocks of ReLU-like activations: accelerated projected gradient with restart",
    missing,
    run,
)
