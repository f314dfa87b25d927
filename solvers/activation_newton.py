"""Safeguarded Newton for activation blocks of smooth activations, in the coordinates of their pre-activations.

    minimize_x   below [Phi*(x) - <u, x>]  +  above [Phi_next(z) - <v, z>],      z = W x + b.

Write x = phi(t). The optimality condition is then an equation in t without any inverse of phi,

    F(t) = t - u + r W' (phi_next(W phi(t) + b) - v) = 0,          r = above / below,

and x = phi(t) never leaves the range. With D = phi'(t), E = phi_next'(z), Newton's direction solves
(I + r W' E W D) dt = -F. That operator is self-adjoint and at least one in the inner product <s, D s>, so conjugate
gradients IN THAT INNER PRODUCT need no division by D: saturated units (D = 0) and the simplex (D singular)
are no special cases.

The step is damped by Armijo backtracking on the objective along a path whose tangent is Newton's direction
(to the accuracy of the conjugate gradients). A
unit whose own equation is nearly linear in t moves as t + step dt; one whose equation is nearly linear in x (the
term above dominates: r (W' E W)_ii D_i >= 1) moves as x + step dx, and never more than 0.9 of the way to an end of the
range. Moving all units by t stalls on stiff blocks, moving all by x stalls near the ends.

Source: derived here from the optimality condition of Gu, Askari & El Ghaoui's block; conjugate gradients
in a semi-definite inner product as in Nocedal & Wright, "Numerical Optimization", section 5.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..formulations.fenchel_activation import FenchelActivation
from ..formulations.subproblem import Subproblem
from .engine import Answer, Data, Engine
from .rows import Answers, Pace, backtrack, pick_rows, wanted_gap
from .solution import decisive

MAX_ITERATIONS = 100
MAX_INNER_ITERATIONS, FIRST_INNER_ITERATIONS = 200, 8


def missing(subproblem: Subproblem) -> str:
    """What keeps this engine from solving the subproblem; empty where it can."""
    if not isinstance(subproblem, FenchelActivation):
        return "an activation block (fenchel.activation)"
    if subproblem.activation.shrink is not None:
        return f"a smooth activation ({subproblem.activation.label!r} has kinks: take projected_gradient)"
    return ""


def run(subproblem: FenchelActivation, data: Data, start: Data, tolerance: float) -> Answer:
    """Solve a batch; see `Engine.run`."""
    u, v, W, b = (data[name] for name in ("u", "v", "W", "b"))
    if "t" in start:
        t = start["t"]
    else:
        t = subproblem.stationary_point(start["x"], data) if "x" in start else u
    answers = Answers({"t": t})
    stalled = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    wanted = wanted_gap(subproblem, {"x": subproblem.activation.phi(u)}, data, tolerance)
    for done in range(MAX_ITERATIONS + 1):
        part = {"u": u, "v": v, "W": W, "b": b}
        gap = decisive(subproblem.residuals({"x": subproblem.activation.phi(t)}, part))
        good = (gap <= wanted) | stalled | (done == MAX_ITERATIONS)
        keep = answers.take(good, {"t": t}, done)
        if answers.complete:
            break
        if keep is not None:
            t, u, v, wanted = pick_rows(keep, t, u, v, wanted)
            part = {"u": u, "v": v, "W": W, "b": b}
        t, stalled = _step(subproblem, part, t, answers.pace(done))
    x = subproblem.activation.phi(answers.values["t"])
    return Answer({"x": x, "z": x @ W.T + b}, answers.iterations, {"x": x, **answers.values})


def _step(subproblem: FenchelActivation, data: Data, t: Tensor, pace: Pace) -> tuple[Tensor, Tensor]:
    """One damped Newton step of every row, and which rows could not move."""
    phi = subproblem.activation
    residual = t - subproblem.stationary_point(phi.phi(t), data)
    direction, image, linear_in_x = _direction(subproblem, data, t, residual, pace)
    x, inverse = phi.phi(t), phi.inverse
    assert inverse is not None
    down, up = 0.9 * (phi.low - x), 0.9 * (phi.high - x)
    if phi.couples_units:
        # Softmax does not see a number added to a row of t: take it out, so that both kinds of move fit together.
        t = t - torch.logsumexp(t, 1, keepdim=True)
        direction = direction - (x * direction).sum(1, keepdim=True)

    def path(steps: Tensor) -> Tensor:
        move = torch.minimum(torch.maximum(steps[:, None] * image, down), up)
        # Where t moves linearly x may sit on an end of the range; its inverse is not asked for there.
        safe = torch.where(linear_in_x, x + move, 0.5 * (x + move + phi.phi(0.0 * t)))
        return torch.where(linear_in_x, inverse(safe), t + steps[:, None] * direction)

    slope = subproblem.below * (residual * image).sum(1)
    start = _objective(subproblem, data, t)
    steps, _ = backtrack(lambda steps: _objective(subproblem, data, path(steps)), start, slope, pace)
    return torch.where(steps[:, None] > 0, path(steps), t), (steps == 0) & pace.whole


def _objective(subproblem: FenchelActivation, data: Data, t: Tensor) -> Tensor:
    """The objective at x = phi(t); Phi*(phi(t)) = <t, phi(t)> - Phi(t) avoids logarithms near the ends of the range."""
    phi, after = subproblem.activation, subproblem.next_activation
    x = phi.phi(t)
    z = x @ data["W"].T + data["b"]
    match = ((t - data["u"]) * x).sum(1) - phi.row_sum(phi.potential(t))
    fit = after.row_sum(after.potential(z)) - (z * data["v"]).sum(1)
    return subproblem.below * match + subproblem.above * fit


def _direction(
    subproblem: FenchelActivation, data: Data, t: Tensor, residual: Tensor, pace: Pace
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's direction dt of every row, its image dx, and the units that are to move linearly in x."""
    W, ratio = data["W"], subproblem.above / subproblem.below
    through = subproblem.activation.jacobian(t)
    z = subproblem.activation.phi(t) @ W.T + data["b"]
    after = subproblem.next_activation.jacobian(z)

    def couple(image: Tensor) -> Tensor:
        return ratio * after(image @ W.T) @ W

    solution, image = torch.zeros_like(t), torch.zeros_like(t)
    error, search = -residual, -residual
    size = first = (error * through(error)).sum(1, keepdim=True)
    # Superlinear convergence needs inner accuracy that grows as the residual falls.
    wanted = first * torch.clamp(first, 1e-8, 1e-2)
    going = torch.ones_like(first[0].reshape(()), dtype=torch.bool)
    for _ in range(pace.repeats(MAX_INNER_ITERATIONS, FIRST_INNER_ITERATIONS)):
        search_image = through(search)
        product = search + couple(search_image)
        curvature = (search_image * product).sum(1, keepdim=True)
        step = torch.where(going & (curvature > 0), size / curvature.clamp_min(1e-300), 0.0)
        solution, image = solution + step * search, image + step * search_image
        error = error - step * product
        new_size = (error * through(error)).sum(1, keepdim=True)
        going = going & ~pace.all_open((new_size <= wanted) | (step == 0))
        if pace.reads and not bool(going):
            break
        search = error + torch.where(size > 0, new_size / size.clamp_min(1e-300), 0.0) * search
        size = new_size
    # One exact application fills in the components that D hides from the inner product.
    direction = -residual - couple(image)
    own = ratio * subproblem.next_activation.slope(z) @ W**2 * subproblem.activation.slope(t)
    return direction, image, own >= 1


ENGINE = Engine(
    "newton",
    "activation blocks of smooth activations (sigmoid, tanh, softmax rows, ...): safeguarded Newton",
    missing,
    run,
)
