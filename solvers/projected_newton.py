"""Projected Newton for least squares over a box, every instance with a matrix of its own.

    minimize    1/2 x'H_i x + g_i'x        over   lower <= x <= upper

An iteration is a projected gradient step with the length 1 / |H_i| (Frobenius norm), which finds out what is held at a
bound, and a Newton step on the rest, projected and halved until the objective falls. The first alone converges; with
the second the iterations end, in exact arithmetic, once the right unknowns are held: mostly after three or four.

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

MAX_ITERATIONS = 200
MOST_TOGETHER = 2**22
"""Entries of the matrices of the instances solved together."""
SHORTEST_STEP = 1e-4
KEPT_SHARE = 0.6
"""Share of open rows below which the others leave the batch."""


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

    def run(program: ConicProgram, start: Start, tolerance: float) -> Points:
        most = max(1, MOST_TOGETHER // reduction.P.shape[-1] ** 2)
        if program.batch > most and not program.shared:
            places = torch.arange(program.batch, device=program.q.device).split(most)
            parts = [(program.take(some), {name: rows[some] for name, rows in start.items()}) for some in places]
            return joined([run(part, first, tolerance) for part, first in parts])
        again = reduction if program.shared else reduce_program(program, stages)
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
    data = aim(data, plain, _times(H, plain) + data.g, None, tolerance)
    x = data.clip_(data.start.clone())
    gradient = _times(H, x) + data.g
    left = torch.ones_like(rows, dtype=torch.bool)
    for done in range(MAX_ITERATIONS + 1):
        excess = data.excess(x, gradient, None)
        good = left & (~(excess > 1) | excess.isinf() | (done == MAX_ITERATIONS))
        if bool(good.any()):
            answer.keep(rows, good, x, gradient, None, done)
            left = left & ~good
            if not bool(left.any()):
                break
        if int(left.sum()) < KEPT_SHARE * len(left):
            # Not sooner: to leave rows out is to copy the matrices of the others.
            data, H = data.pick(left), H if H.ndim == 2 else H[left]
            rows, x, gradient, length, left = pick_rows(left, rows, x, gradient, length, left)
        x = data.clip_(x - gradient / length)
        gradient = _times(H, x) + data.g
        x, gradient = _newton(H, data, x, gradient)
    return answer


def _newton(H: Tensor, data: BoxData, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """A Newton step on the unknowns that are not held, halved in rows where the objective would not fall."""
    move = free_direction(lambda rows, places: among(H, rows, places), gradient, data.free(x, gradient))
    before = data.objective(x, gradient, None)
    tried = data.clip_(x + move)
    there = _times(H, tried) + data.g
    falls = data.objective(tried, there, None) < before
    step = 1.0
    while not bool(falls.all()) and step > SHORTEST_STEP:
        step /= 2
        rest = (~falls).nonzero()[:, 0]
        part = data.pick(~falls)
        tried[rest] = part.clip_(x[rest] + step * move[rest])
        there[rest] = _times(H if H.ndim == 2 else H[rest], tried[rest]) + part.g
        falls[rest] = part.objective(tried[rest], there[rest], None) < before[rest]
    return torch.where(falls[:, None], tried, x), torch.where(falls[:, None], there, gradient)


def _times(H: Tensor, x: Tensor) -> Tensor:
    return x @ H if H.ndim == 2 else (H @ x[..., None])[..., 0]


ENGINE = ConicEngine(
    "projected_newton",
    "least squares over a box, every instance with a matrix of its own: projected Newton",
    "starts from the last values of the unknowns",
    prepare,
)
