"""Semismooth Newton with line search for weight blocks: all units of a layer at once, samples shared.

    minimize_w   multiplier [Phi(X w) - <v, X w>]  +  weight_decay/2 |w|^2  +  proximity/2 |w - w_old|^2

(the bias is one more column of X, without weight decay). The generalized Hessian of one unit is
multiplier X' D X + diag, with D = phi'(X w), 0/1 for ReLU. Newton's equations are solved by conjugate gradients
for all units together, preconditioned by ONE Cholesky factor of the shared Gram matrix
multiplier sup phi' X' X + diag: it majorizes every unit's Hessian, and takes the scaling of the features away.
A unit's step is damped by Armijo backtracking; units that have converged leave the batch. Softmax couples the
units of a layer: then the layer is one instance and D is the Jacobian of softmax.

Source: Gu, Askari & El Ghaoui, AISTATS 2020, for the block; semismooth Newton with line search as in
Qi & Sun, Math. Programming 58 (1993).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..formulations.fenchel_weight import FenchelWeight
from ..formulations.subproblem import Subproblem
from .engine import Answer, Data, Engine
from .rows import Answers, Pace, backtrack, wanted_gap
from .solution import decisive

MAX_ITERATIONS = 100
MAX_INNER_ITERATIONS, FIRST_INNER_ITERATIONS = 250, 24


def missing(subproblem: Subproblem) -> str:
    """What keeps this engine from solving the subproblem; empty where it can."""
    return "" if isinstance(subproblem, FenchelWeight) else "a weight block (fenchel.weight)"


def run(subproblem: FenchelWeight, data: Data, start: Data, tolerance: float) -> Answer:
    """Solve a batch; see `Engine.run`."""
    batch = len(data["v"])
    values = {name: start[name] if name in start else torch.zeros_like(data[old]) for name, old in _pairs(subproblem)}
    answers = Answers(values)
    stalled = torch.zeros(batch, dtype=torch.bool, device=data["X"].device)
    factor = _gram_factor(subproblem, data["X"])
    names = ["v", *(old for _, old in _pairs(subproblem))]
    part = dict(data)
    wanted = wanted_gap(subproblem, {name: data[old] for name, old in _pairs(subproblem)}, data, tolerance)
    u = subproblem.pre_activations(values, data)
    for done in range(MAX_ITERATIONS + 1):
        gradient = subproblem.gradient(values, part, u)
        gap = _decisive(subproblem, gradient, values, part, u)
        good = (gap <= wanted) | stalled | (done == MAX_ITERATIONS)
        keep = answers.take(good, values, done)
        if answers.complete:
            break
        if keep is not None:
            wanted, gap, u = (array[keep] for array in (wanted, gap, u))
            values, gradient = ({name: array[keep] for name, array in some.items()} for some in (values, gradient))
            part |= {name: part[name][keep] for name in names}
        values, u, stalled = _step(subproblem, part, values, u, gradient, factor, wanted / gap, answers.pace(done))
    found = answers.values
    return Answer(found | {"u": subproblem.pre_activations(found, data)}, answers.iterations, found)


def _decisive(subproblem: FenchelWeight, gradient: Data, values: Data, data: Data, u: Tensor) -> Tensor:
    """What decides whether an instance is solved, as `decisive`, without products that are known already."""
    if subproblem.proximity:
        gap: Tensor = subproblem.gap(gradient, values, data, u)
        return gap
    return decisive(subproblem.residuals(values, data))


def _pairs(subproblem: FenchelWeight) -> tuple[tuple[str, str], ...]:
    return (("w", "w_old"), ("c", "c_old")) if subproblem.bias else (("w", "w_old"),)


def _with_ones(subproblem: FenchelWeight, X: Tensor) -> Tensor:
    return torch.cat([X, torch.ones_like(X[:, :1])], 1) if subproblem.bias else X


def _pack(subproblem: FenchelWeight, values: Data) -> Tensor:
    """Weights and bias as one array (batch, units, inputs + 1); units is 1 where they are instances."""
    w = values["w"] if subproblem.coupled else values["w"][:, None]
    if not subproblem.bias:
        return w
    c = values["c"] if subproblem.coupled else values["c"][:, None]
    return torch.cat([w, c[:, :, None]], 2)


def _unpack(subproblem: FenchelWeight, packed: Tensor) -> dict[str, Tensor]:
    place = (slice(None), slice(None)) if subproblem.coupled else (slice(None), 0)
    values = {"w": packed[(*place, slice(0, subproblem.inputs))]}
    if subproblem.bias:
        values["c"] = packed[(*place, subproblem.inputs)]
    return values


def _ridge(subproblem: FenchelWeight, like: Tensor) -> Tensor:
    """Curvature of the quadratic terms on every column of X with ones."""
    ridge = like.new_full((subproblem.inputs + subproblem.bias,), subproblem.weight_decay + subproblem.proximity)
    if subproblem.bias:
        ridge[-1] = subproblem.proximity
    return ridge


def _gram_factor(subproblem: FenchelWeight, X: Tensor) -> Tensor:
    """Cholesky factor of the Gram matrix that majorizes every unit's Hessian (exponential: with slope one)."""
    columns = _with_ones(subproblem, X)
    steepest = min(subproblem.activation.slopes[1], 1.0)
    gram = subproblem.multiplier * steepest * columns.T @ columns
    gram.diagonal().add_(_ridge(subproblem, X))
    # Dependent columns without any ridge leave the matrix singular; a preconditioner only has to be definite.
    gram.diagonal().mul_(1 + 1e-12).add_(torch.finfo(X.dtype).tiny)
    factor, failed = torch.linalg.cholesky_ex(gram)
    scaling = torch.diag(gram.diagonal().clamp_min(torch.finfo(X.dtype).tiny).sqrt())
    return torch.where(failed > 0, scaling, factor)


def _step(
    subproblem: FenchelWeight, data: Data, values: dict[str, Tensor], u: Tensor, gradient: Data, factor: Tensor,
    share: Tensor, pace: Pace,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:  # fmt: skip
    """One damped Newton step of every instance: weights, pre-activations, and which instances could not move.

    `share` is how much of its gap an instance may keep.
    """
    here, slopes = _pack(subproblem, values), _pack(subproblem, gradient)
    columns = _with_ones(subproblem, data["X"])
    direction, along = _direction(subproblem, u, slopes, columns, factor, share, pace)
    before = subproblem.objective(values, data, u)

    def moved(steps: Tensor, direction: Tensor, along: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        far = steps[:, None, None]
        new_values = _unpack(subproblem, torch.where(far > 0, here + far * direction, here))
        change = along.mT if subproblem.coupled else along[:, 0]
        return new_values, u + steps.reshape(-1, *[1] * (u.ndim - 1)) * change

    def search(direction: Tensor, along: Tensor) -> Tensor:
        def objective(steps: Tensor) -> Tensor:
            new_values, new_u = moved(steps, direction, along)
            return subproblem.objective(new_values, data, new_u)

        return backtrack(objective, before, (slopes * direction).sum((1, 2)), pace)[0]

    steps = search(direction, along)
    if bool((steps == 0).any()) if pace.reads else pace.looks:
        # Far from the solution a kinked Hessian can miss most of the curvature; the majorizer never does.
        safe = torch.where((steps == 0)[:, None, None], -_precondition(slopes, factor), direction)
        along = safe @ columns.T
        steps, direction = torch.where(steps == 0, search(safe, along), steps), safe
    return *moved(steps, direction, along), (steps == 0) & pace.whole


def _precondition(residual: Tensor, factor: Tensor) -> Tensor:
    """Solve with the shared Gram matrix, for every unit."""
    flat = residual.reshape(-1, residual.shape[-1])
    return torch.cholesky_solve(flat.T, factor).T.reshape(residual.shape)


def _direction(
    subproblem: FenchelWeight, u: Tensor, gradient: Tensor, columns: Tensor, factor: Tensor, share: Tensor,
    pace: Pace,
) -> tuple[Tensor, Tensor]:
    """Newton's direction of every instance by preconditioned conjugate gradients, and what it adds to u.

    They end as Newton's fast convergence asks, or where the equations hold so well that, with the same pieces of phi,
    the gap after the step is a quarter of the wanted one: 1/2 |residual|^2 over the least curvature.
    """
    ridge = _ridge(subproblem, columns)
    curve = subproblem.activation.jacobian(u)

    def bend(change: Tensor) -> Tensor:
        return curve(change.mT).mT if subproblem.coupled else curve(change[:, 0])[:, None]

    def inner(left: Tensor, right: Tensor) -> Tensor:
        return (left * right).sum((1, 2))[:, None, None]

    solution, residual = torch.zeros_like(gradient), -gradient
    along = gradient.new_zeros(*gradient.shape[:2], len(columns))
    search = _precondition(residual, factor)
    size = first = inner(residual, search)
    wanted = first * torch.clamp(first, 1e-8, 1e-2)
    # Without a proximal term nothing bounds the gap of a bias by its slope.
    enough = inner(gradient, gradient / ridge) * share[:, None, None] / 4 if subproblem.proximity else 0 * first
    going = torch.ones_like(first[0].reshape(()), dtype=torch.bool)
    for _ in range(pace.repeats(MAX_INNER_ITERATIONS, FIRST_INNER_ITERATIONS)):
        change = search @ columns.T
        product = subproblem.multiplier * bend(change) @ columns + ridge * search
        curvature = inner(search, product)
        step = torch.where(going & (curvature > 0), size / curvature.clamp_min(1e-300), 0.0)
        solution, along, residual = solution + step * search, along + step * change, residual - step * product
        scaled = _precondition(residual, factor)
        new_size = inner(residual, scaled)
        done = (new_size <= wanted) | (step == 0)
        if subproblem.proximity:
            done |= inner(residual, residual / ridge) <= enough
        going = going & ~pace.all_open(done)
        if pace.reads and not bool(going):
            break
        search = scaled + torch.where(size > 0, new_size / size.clamp_min(1e-300), 0.0) * search
        size = new_size
    # A direction of zero curvature and nonzero slope only arises without any ridge: fall back to the
    # preconditioned gradient.
    flat = inner(solution, solution) == 0
    if not pace.reads or bool(flat.any()):
        solution = torch.where(flat, _precondition(-gradient, factor), solution)
        along = torch.where(flat, solution @ columns.T, along)
    return solution, along


ENGINE = Engine(
    "weight_newton",
    "weight blocks of every activation and loss: semismooth Newton, conjugate gradients, shared Gram matrix",
    missing,
    run,
)
