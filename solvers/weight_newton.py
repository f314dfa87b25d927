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
from .rows import backtrack, pick_rows, wanted_gap
from .solution import decisive

MAX_ITERATIONS = 100
MAX_INNER_ITERATIONS = 250


def missing(subproblem: Subproblem) -> str:
    """What keeps this engine from solving the subproblem; empty where it can."""
    return "" if isinstance(subproblem, FenchelWeight) else "a weight block (fenchel.weight)"


def run(subproblem: FenchelWeight, data: Data, start: Data, tolerance: float) -> Answer:
    """Solve a batch; see `Engine.run`."""
    batch = len(data["v"])
    values = {name: start[name] if name in start else torch.zeros_like(data[old]) for name, old in _pairs(subproblem)}
    result = {name: value.clone() for name, value in values.items()}
    iterations = torch.zeros(batch, dtype=torch.long, device=data["X"].device)
    rows = torch.arange(batch, device=data["X"].device)
    stalled = torch.zeros(batch, dtype=torch.bool, device=data["X"].device)
    factor = _gram_factor(subproblem, data["X"])
    names = ["v", *(old for _, old in _pairs(subproblem))]
    part = dict(data)
    present = {name: data[old] for name, old in _pairs(subproblem)}
    wanted = wanted_gap(subproblem, present, data, tolerance)
    for done in range(MAX_ITERATIONS + 1):
        good = (decisive(subproblem.residuals(values, part)) <= wanted) | stalled | (done == MAX_ITERATIONS)
        if bool(good.any()):
            for name in result:
                result[name][rows[good]] = values[name][good]
            iterations[rows[good]] = done
            rows, stalled, wanted = pick_rows(~good, rows, stalled, wanted)
            values = {name: value[~good] for name, value in values.items()}
            part |= {name: part[name][~good] for name in names}
        if not len(rows):
            break
        values, stalled = _step(subproblem, part, values, factor)
    return Answer(result | {"u": subproblem.pre_activations(result, data)}, iterations, result)


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
    if int(failed):
        return torch.diag(gram.diagonal().clamp_min(torch.finfo(X.dtype).tiny).sqrt())
    return factor


def _step(
    subproblem: FenchelWeight, data: Data, values: dict[str, Tensor], factor: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """One damped Newton step of every instance, and which of them could not move."""
    here = _pack(subproblem, values)
    gradient = _pack(subproblem, subproblem.gradient(values, data))
    direction = _direction(subproblem, data, values, gradient, factor)

    def moved(steps: Tensor, direction: Tensor) -> Tensor:
        return torch.where(steps[:, None, None] > 0, here + steps[:, None, None] * direction, here)

    def search(direction: Tensor) -> Tensor:
        def objective(steps: Tensor) -> Tensor:
            return subproblem.objective(_unpack(subproblem, moved(steps, direction)), data)

        slope = (gradient * direction).sum((1, 2))
        return backtrack(objective, subproblem.objective(values, data), slope)[0]

    steps = search(direction)
    if bool((steps == 0).any()):
        # Far from the solution a kinked Hessian can miss most of the curvature; the majorizer never does.
        safe = torch.where((steps == 0)[:, None, None], -_precondition(gradient, factor), direction)
        steps, direction = torch.where(steps == 0, search(safe), steps), safe
    return _unpack(subproblem, moved(steps, direction)), steps == 0


def _precondition(residual: Tensor, factor: Tensor) -> Tensor:
    """Solve with the shared Gram matrix, for every unit."""
    flat = residual.reshape(-1, residual.shape[-1])
    return torch.cholesky_solve(flat.T, factor).T.reshape(residual.shape)


def _direction(
    subproblem: FenchelWeight, data: Data, values: Data, gradient: Tensor, factor: Tensor
) -> Tensor:
    """Newton's direction of every instance by preconditioned conjugate gradients."""
    columns, ridge = _with_ones(subproblem, data["X"]), _ridge(subproblem, data["X"])
    pre_activations = subproblem.pre_activations(values, data)
    curve = subproblem.activation.jacobian(pre_activations)

    def hessian(direction: Tensor) -> Tensor:
        if subproblem.coupled:
            bent = curve(columns @ direction.mT).mT
        else:
            bent = curve(direction[:, 0] @ columns.T)[:, None]
        return subproblem.multiplier * bent @ columns + ridge * direction

    def inner(left: Tensor, right: Tensor) -> Tensor:
        return (left * right).sum((1, 2))[:, None, None]

    solution, residual = torch.zeros_like(gradient), -gradient
    search = _precondition(residual, factor)
    size = first = inner(residual, search)
    wanted = first * torch.clamp(first, 1e-8, 1e-2)
    for _ in range(MAX_INNER_ITERATIONS):
        product = hessian(search)
        curvature = inner(search, product)
        step = torch.where(curvature > 0, size / curvature.clamp_min(1e-300), 0.0)
        solution, residual = solution + step * search, residual - step * product
        scaled = _precondition(residual, factor)
        new_size = inner(residual, scaled)
        if bool(((new_size <= wanted) | (step == 0)).all()):
            break
        search = scaled + torch.where(size > 0, new_size / size.clamp_min(1e-300), 0.0) * search
        size = new_size
    # A direction of zero curvature and nonzero slope only arises without any ridge: fall back to the
    # preconditioned gradient.
    flat = inner(solution, solution) == 0
    return torch.where(flat, _precondition(-gradient, factor), solution)


ENGINE = Engine(
    "weight_newton",
    "weight blocks of every activation and loss: semismooth Newton, conjugate gradients, shared Gram matrix",
    missing,
    run,
)
