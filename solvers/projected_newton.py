"""Projected Newton for least squares over a box, every instance with a matrix of its own.

    minimize    1/2 x'H_i x + g_i'x        over   lower <= x <= upper

An iteration is a Newton step on the unknowns that the gradient does not hold at a bound, projected and halved until the
objective falls: in exact arithmetic the iterations end once the right unknowns are held, mostly after three or four.
Where such a step had to be halved, and now and then in any case, a projected gradient step of length 1 / |H_i|
(Frobenius norm) goes before it, which alone converges.

Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM J. Control
Optim. 20 (1982); More & Toraldo, "On the solution of large quadratic programming problems with bound constraints",
SIAM J. Optim. 1 (1991), for gradient steps between Newton steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .active_set import among, free_direction
from .box_runner import BoxAnswer, BoxData, aim, run_box
from .conic_engine import ConicEngine, Runner, Start
from .conic_program import ConicProgram, Points
from .elimination import find_stages, reduce_program, too_large
from .recognition import find_box
from .rows import pick_rows
from .short_form import EXAMPLES, joined
from .tensors import times_own

MAX_ITERATIONS = 200
MOST_TOGETHER = 2**21
"""Entries of the matrices of the instances solved together: a compromise between caches and calls."""
SHORTEST_STEP = 1e-4
GRADIENT_EVERY = 5
"""Iterations from one gradient step of all rows to the next."""
KEPT_SHARE = 0.25
"""Share of open rows below which the others leave the batch: that copies the matrices of those that stay."""


def prepare(program: ConicProgram) -> Runner | str:
    """See `ConicEngine.prepare`."""
    lacking = too_large(program)
    if lacking:
        return lacking
    if not program.cones.linear:
        return f"bounds alone (this program has {program.cones})"
    program = program.take(torch.arange(min(program.batch, EXAMPLES), device=program.q.device))
    stages = find_stages(program)
    reduction = reduce_program(program, stages)
    box = find_box(reduction, *reduction.vectors(program.q, program.b))
    if isinstance(box, str):
        return box
    if box.hinges is not None:
        return "bounds alone (this program has hinges)"
    if not bool(reduction.P.any()):
        return "a quadratic objective"

    # What every instance has of its own must not be kept: it is a view of what the user gave.
    size, kept = reduction.P.shape[-1], reduction if program.shared else None
    del reduction

    def run(program: ConicProgram, start: Start, tolerance: float) -> Points:
        most = max(1, MOST_TOGETHER // size**2)
        if program.batch > most and not program.shared:
            places = torch.arange(program.batch, device=program.q.device).split(most)
            parts = [(program.take(some), {name: rows[some] for name, rows in start.items()}) for some in places]
            return joined([run(part, first, tolerance) for part, first in parts])
        again = kept or reduce_program(program, stages)
        every = len(box.columns) == again.P.shape[-1]
        H = again.P if every else again.P[..., box.columns[:, None], box.columns]
        straight = H.diagonal(dim1=-2, dim2=-1) == 0
        return run_box(
            program, again, box, straight, lambda data, tolerance: minimize(H, data, tolerance), start, tolerance
        )

    return run


def minimize(H: Tensor, data: BoxData, tolerance: float) -> BoxAnswer:
    """Minimize over the boxes of a batch, from ``data.start``; H is (n, n) or (batch, n, n)."""
    answer = BoxAnswer.empty(data)
    rows = torch.arange(len(data.start), device=data.start.device)
    length = torch.linalg.vector_norm(H, dim=(-2, -1)).clamp_min(1e-300).reshape(-1, 1).expand(len(rows), 1)
    plain = data.clip_(torch.zeros_like(data.start))
    gradient = _times(H, plain) + data.g
    data = aim(data, plain, gradient, None, tolerance)
    x = data.clip_(data.start.clone())
    if not torch.equal(x, plain):
        gradient = _times(H, x) + data.g
    left, halved = torch.ones_like(rows, dtype=torch.bool), torch.zeros_like(rows, dtype=torch.bool)
    for done in range(MAX_ITERATIONS + 1):
        excess = data.excess(x, gradient, None)
        good = left & (~(excess > 1) | excess.isinf() | (done == MAX_ITERATIONS))
        if bool(good.any()):
            answer.keep(rows, good, x, gradient, None, done)
            left = left & ~good
            if not bool(left.any()):
                break
        if int(left.sum()) < KEPT_SHARE * len(left):
            data, H = data.pick(left), H if H.ndim == 2 else H[left]
            rows, x, gradient, length, halved, left = pick_rows(left, rows, x, gradient, length, halved, left)
        if bool(halved.any()) or done % GRADIENT_EVERY == GRADIENT_EVERY - 1:
            x = data.clip_(x - gradient / length)
            gradient = _times(H, x) + data.g
        x, gradient, halved = _newton(H, data, x, gradient, left)
    return answer


def _newton(
    H: Tensor, data: BoxData, x: Tensor, gradient: Tensor, left: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A Newton step of the open rows on the unknowns that are not held, and where it was halved for the objective."""
    free = data.free(x, gradient) & left[:, None]
    move = free_direction(lambda rows, places: among(H, rows, places), gradient, free)
    before = data.objective(x, gradient, None)
    tried = data.clip_(x + move)
    there = _times(H, tried) + data.g
    falls = (data.objective(tried, there, None) < before) | ~left
    halved, step = ~falls, 1.0
    while not bool(falls.all()) and step > SHORTEST_STEP:
        step /= 2
        rest = (~falls).nonzero()[:, 0]
        part = data.pick(~falls)
        tried[rest] = part.clip_(x[rest] + step * move[rest])
        there[rest] = _times(H if H.ndim == 2 else H[rest], tried[rest]) + part.g
        falls[rest] = part.objective(tried[rest], there[rest], None) < before[rest]
    return torch.where(falls[:, None], tried, x), torch.where(falls[:, None], there, gradient), halved


def _times(H: Tensor, x: Tensor) -> Tensor:
    return x @ H if H.ndim == 2 else times_own(H, x)


ENGINE = ConicEngine(
    "projected_newton",
    "least squares over a box, every instance with a matrix of its own: projected Newton",
    "starts from the last values of the unknowns",
    prepare,
)
