"""Newton's method over a ball for monotone layers: every step minimizes a quadratic model over the whole ball.

    minimize    J(th) = Phi(X th') - <y, X th'> + weight_decay/2 |W|^2      subject to  |th| <= radius

(th: weights with the biases as last column). At th the model is <F, x - th> + 1/2 (x - th)' H (x - th) with
H = X' D X + diag, D = phi'(X th'); its minimizer over the ball is x(mu) = (H + mu)^{-1} (H th - F), where mu is zero or
the root of the secular equation 1/|x(mu)| = 1/radius, found by Newton's method, warm started (More & Sorensen, 1983).
The step towards x is damped by Armijo backtracking and never leaves the ball.

The units of a layer meet in the ball alone, so that H is one block for each; softmax couples them to a single block.
Without a ball x is Newton's point itself. Where H would be large, or neither a ball nor softmax joins the units, the
layer goes to weight_newton.py instead; there the multiplier mu is found from outside: without the ball, mu/2 |th|^2 is
the proximal term of a weight block, and |th(mu)| falls with mu.
"""

from __future__ import annotations

from math import exp, log
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from ..formulations.fenchel_weight import FenchelWeight
from ..formulations.monotone_layer import MonotoneLayer
from ..formulations.subproblem import Subproblem
from . import weight_newton
from .engine import Answer, Data, Engine
from .rows import backtrack
from .solution import decisive

MAX_ITERATIONS = 100
MAX_SECULAR = 60
LARGEST_DENSE = 700
"""Unknowns of a block up to which its Hessian is factorized."""
ROWS_AT_ONCE = 500
NEGLIGIBLE_MULTIPLIER = 1e-13
NEGLIGIBLE_DESCENT = 1e-13
ROUNDING = 1e-13


def missing(subproblem: Subproblem) -> str:
    """What keeps this engine from solving the subproblem; empty where it can."""
    return "" if isinstance(subproblem, MonotoneLayer) else "a layer (monotone.layer)"


def run(subproblem: MonotoneLayer, data: Data, start: Data, tolerance: float) -> Answer:
    """Solve a batch, one layer after the other; see `Engine.run`."""
    found, iterations = [], []
    width, coupled = subproblem.inputs + subproblem.bias, subproblem.activation.couples_units
    # Without a ball nothing joins the units of most activations, and weight_newton.py is the quicker one.
    dense = width * (subproblem.units if coupled else 1) <= LARGEST_DENSE and (coupled or subproblem.radius is not None)
    for place in range(len(data["y"])):
        one = {"X": data["X"], "y": data["y"][place : place + 1]}
        zero = data["X"].new_zeros(1, subproblem.units, subproblem.inputs + subproblem.bias)
        first = zero if not start else subproblem.pack({name: start[name][place : place + 1] for name in start})
        if dense:
            packed, count = _dense(subproblem, one, subproblem.project(first), tolerance)
        elif subproblem.radius is None:
            packed, count = _unconstrained(subproblem, one, first, 0.0, tolerance)
        else:
            packed, count = _by_multiplier(subproblem, one, first, tolerance)
        found.append(packed)
        iterations.append(count)
    values = subproblem.unpack(torch.cat(found))
    u = subproblem.pre_activations(values, data)
    return Answer(values | {"U": u}, torch.tensor(iterations, device=u.device), values)


# ------------------------------------------------------------------------------------ quadratic models over the ball


class Model(NamedTuple):
    """Hessians of a layer's independent blocks, (blocks, size, size)."""

    hessian: Tensor

    def apply(self, packed: Tensor) -> Tensor:
        """H th, in the shape of th."""
        return (self.hessian @ packed.reshape(*self.hessian.shape[:2], 1)).reshape(packed.shape)


def _dense(block: MonotoneLayer, data: Data, packed: Tensor, tolerance: float) -> tuple[Tensor, int]:
    multiplier, best, least, idle = 0.0, packed, float("inf"), 0
    for done in range(MAX_ITERATIONS + 1):
        values = block.unpack(packed)
        operator = block.operator(values, data)
        gap = float(decisive(block.residuals(values, data)))
        if gap < least:
            best, least = packed, gap
        # Once a step promises less than the rounding of the objective, the gap soon only wanders.
        if gap <= tolerance or idle > 2 or done == MAX_ITERATIONS:
            break
        moved, promised = None, 0.0
        for model in (_hessian, _majorizer):
            curve = model(block, data, values)
            if curve is not None:
                target, multiplier = _minimize_model(curve, packed, operator, block.radius, multiplier)
                promised = -float((operator * (target - packed)).sum())
                moved = _towards(block, data, packed, target - packed, operator)
            if moved is not None:
                break
        if moved is None:
            break
        idle += promised <= NEGLIGIBLE_DESCENT * (1 + abs(float(block.objective(values, data))))
        packed = moved
    return best, done


def _towards(block: MonotoneLayer, data: Data, packed: Tensor, move: Tensor, operator: Tensor) -> Tensor | None:
    """The damped step, or None where the objective does not fall."""
    slope = (operator * move).sum((1, 2))

    def objective(steps: Tensor) -> Tensor:
        return block.objective(block.unpack(packed + steps[:, None, None] * move), data)

    step = backtrack(objective, objective(torch.zeros_like(slope)), slope.clamp_max(0.0))[0]
    return packed + step[:, None, None] * move if float(step) > 0 else None


def _hessian(block: MonotoneLayer, data: Data, values: Data) -> Model:
    columns, u = block.columns(data["X"]), block.pre_activations(values, data)[0]
    slope, units, width = block.activation.slope(u), block.units, block.inputs + block.bias
    if not block.activation.couples_units:
        # An exponential may overflow far from the solution; backtracking then shortens the step.
        found = torch.stack([_weighted_gram(columns, slope[:, unit]) for unit in range(units)])
        return Model(_with_ridge(block, found))
    found, last = columns.new_zeros(units, width, units, width), units - 1
    for one in range(last):
        for other in range(one, last):
            found[one, :, other] = _weighted_gram(columns, slope[:, one] * (float(one == other) - slope[:, other]))
            found[other, :, one] = found[one, :, other].T
    # The chances of a row add to one: what is moved by all units together does not bend.
    found[:last, :, last] = -found[:last, :, :last].sum(2)
    found[last] = -found[:last].sum(0)
    blocks = torch.zeros_like(found)
    for unit in range(units):
        blocks[unit, :, unit] = _ridge(block, columns)
    return Model((found + blocks).reshape(1, units * width, units * width))


def _weighted_gram(columns: Tensor, weight: Tensor) -> Tensor:
    """X' diag(weight) X, in parts that stay in the cache."""
    found = columns.new_zeros(columns.shape[1], columns.shape[1])
    for part, its_weight in zip(columns.split(ROWS_AT_ONCE), weight.split(ROWS_AT_ONCE), strict=True):
        found.addmm_((part * its_weight[:, None]).T, part)
    return found


def _majorizer(block: MonotoneLayer, data: Data, values: Data) -> Model | None:
    """The Hessian with the steepest slope everywhere: where kinks mislead Newton's, this one still descends."""
    steepest = block.activation.slopes[1]
    if not steepest < float("inf"):
        return None
    columns = block.columns(data["X"])
    one = _with_ridge(block, (steepest * columns.T @ columns)[None])[0]
    if block.activation.couples_units:
        return Model(torch.block_diag(*[one] * block.units)[None])
    return Model(one.expand(block.units, -1, -1))


def _with_ridge(block: MonotoneLayer, hessian: Tensor) -> Tensor:
    return hessian + _ridge(block, hessian)


def _ridge(block: MonotoneLayer, like: Tensor) -> Tensor:
    diagonal = like.new_full((block.inputs + block.bias,), block.weight_decay)
    if block.bias:
        diagonal[-1] = 0.0
    return torch.diag(diagonal)


def _minimize_model(
    model: Model, packed: Tensor, operator: Tensor, radius: float | None, multiplier: float
) -> tuple[Tensor, float]:
    """The minimizer of a quadratic model over the ball (or everywhere), and its multiplier."""
    diagonal = model.hessian.diagonal(dim1=1, dim2=2)
    # Dependent columns, flat activations, or the biases of softmax leave H singular; what is added is below rounding,
    # of every unknown on its own scale.
    tiny = torch.finfo(diagonal.dtype).tiny
    hessian = model.hessian + torch.diag_embed(ROUNDING * diagonal + tiny)
    if radius is None:
        slope = operator.reshape(*hessian.shape[:2], 1)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        move = torch.cholesky_solve(slope, factor) if not bool(failed.any()) else torch.full_like(slope, torch.nan)
        return packed - move.reshape(packed.shape), 0.0
    wanted = (model.apply(packed) - operator).reshape(*model.hessian.shape[:2], 1)
    # Below the rounding of the multiplier |F| / radius that the ball has where H is zero.
    least = ROUNDING * float(wanted.norm()) / radius + tiny
    multiplier = max(multiplier, least)
    point = torch.zeros_like(wanted)
    for _ in range(MAX_SECULAR):
        shifted = hessian + multiplier * torch.eye(diagonal.shape[1]).to(diagonal)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if bool(failed.any()):
            multiplier *= 10
            continue
        point = torch.cholesky_solve(wanted, factor)
        size = float(point.norm())
        inside = size <= radius * (1 + ROUNDING)
        if inside and (multiplier <= least or size >= radius * (1 - ROUNDING)):
            break
        steep = float(torch.linalg.solve_triangular(factor, point, upper=False).square().sum())
        multiplier = max(multiplier + (size / radius - 1) * size**2 / steep, least) if steep else least
    size = float(point.norm())
    return (point * min(1.0, radius / size) if size else point).reshape(packed.shape), multiplier


# ------------------------------------------------------------------------------------ through weight blocks


def _unconstrained(
    block: MonotoneLayer, data: Data, first: Tensor, multiplier: float, tolerance: float
) -> tuple[Tensor, int]:
    """The layer without its ball and with multiplier/2 |th|^2: a weight block around zero."""
    inner = FenchelWeight(
        samples=block.samples, inputs=block.inputs, units=block.units, activation=block.activation,
        weight_decay=block.weight_decay, proximity=multiplier, bias=block.bias,
    )  # fmt: skip
    # Units are instances of their own unless softmax couples them.
    coupled = inner.coupled
    start = {"w": block.unpack(first)["W"] if coupled else block.unpack(first)["W"][0]}
    if block.bias:
        start["c"] = block.unpack(first)["c"] if coupled else block.unpack(first)["c"][0]
    inner_data = {"X": data["X"], "v": data["y"] if coupled else data["y"][0].T.contiguous()}
    inner_data |= {f"{name}_old": torch.zeros_like(value) for name, value in start.items()}
    answer = weight_newton.run(inner, inner_data, start, tolerance)
    shaped = {"W": answer.values["w"].reshape(first.shape[0], block.units, block.inputs)}
    if block.bias:
        shaped["c"] = answer.values["c"].reshape(first.shape[0], block.units)
    return block.pack(shaped), int(answer.iterations.max())


def _by_multiplier(block: MonotoneLayer, data: Data, first: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """Root search for the multiplier of the ball; each trial starts from the answer of the one before."""
    radius, count, packed = block.radius or 0.0, 0, first

    def excess(exponent: float) -> float:
        nonlocal packed, count
        packed, steps = _unconstrained(block, data, packed, exp(exponent), tolerance)
        count += steps
        return log(max(float(packed.norm()), 1e-300) / radius)

    # The objective with the multiplier is strongly convex: |th(mu)| <= |F(0)| / mu.
    pull = float(block.operator(block.unpack(torch.zeros_like(first)), data).norm())
    high = low = log(max(pull / radius, 1e-300))
    while excess(low) <= 0:
        if low < log(NEGLIGIBLE_MULTIPLIER * max(pull / radius, 1e-300)):
            return block.project(packed), count
        high, low = low, low - log(10.0)
    brentq(excess, low, high, xtol=1e-13, rtol=1e-14)
    return block.project(packed), count


ENGINE = Engine(
    "ball_newton",
    "layers as monotone variational inequalities: Newton over the ball (secular equation), or its multiplier by search",
    missing,
    run,
)
