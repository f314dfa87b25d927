"""Quadratic blocks in closed form: ridge regression for weights, shared linear equations for activations.

A weight block whose activation is the identity (or whose loss is the squared one) is ridge regression,

    minimize_{w,c}   m/2 |X w + c - v|^2  +  d/2 |w|^2  +  p/2 |(w, c) - (w, c)_old|^2 .

The two squares of w are (d + p)/2 |w - t|^2 and a constant, t = p w_old / (d + p): the move from t (and c_old) fits
what is left of v. Without a proximal term the bias is the mean of what is left, and the columns of X are centred; with
one it is one more column, of ones. With D the diagonal of the quadratic terms the move is

    (m X'X + D)^{-1} m X' r   =   D^{-1} X' (m X D^{-1} X' + I)^{-1} m r ,

of which the second, the push-through form, has one equation for each sample in the place of one for each input. All
units share the matrix; its Cholesky factor is kept as long as X itself is alive and unchanged, so that the one of the
inputs, in the first layer, is made once.

An activation block between two identities is least squares with a shared matrix:

    minimize_x   below/2 |x - u|^2  +  above/2 |W x + b - v|^2,      (below I + above W'W) x = below u + above W'(v - b)

Source: the push-through identity, e.g. Henderson & Searle, "On deriving the inverse of a sum of matrices", SIAM Review
23 (1981).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..formulations.fenchel_activation import FenchelActivation
from ..formulations.fenchel_weight import FenchelWeight
from ..formulations.subproblem import Subproblem
from .engine import Answer, Data, Engine

Numbers = tuple[float, float, float, bool]


@dataclass(frozen=True)
class Factor:
    """Inputs made ready for ridge regressions with the same numbers (multiplier, weight decay, proximity, bias)."""

    numbers: Numbers
    version: int
    columns: Tensor
    mean: Tensor
    diagonal: Tensor
    pushed: bool
    cholesky: Tensor

    def solve(self, residual: Tensor) -> Tensor:
        """The move for every unit: residual (units, samples) -> (units, columns)."""
        right = self.numbers[0] * (residual.T if self.pushed else self.columns.T @ residual.T)
        solved = torch.cholesky_solve(right, self.cholesky).T
        return solved @ self.columns / self.diagonal if self.pushed else solved


FACTORS: Any = WeakTensorKeyDictionary()
"""Inputs X that are still alive -> their latest factor."""


def missing(subproblem: Subproblem) -> str:
    """What keeps this engine from solving the subproblem; empty where it can."""
    if isinstance(subproblem, FenchelWeight) and subproblem.activation.name == "identity":
        flat = subproblem.weight_decay + subproblem.proximity == 0
        return "weight decay or a proximal term" if flat else ""
    if isinstance(subproblem, FenchelActivation):
        around = {subproblem.activation.name, subproblem.next_activation.name}
        return "" if around == {"identity"} else "the identity (or the squared loss) on both sides"
    return "a weight or activation block without curved activations"


def run(subproblem: Any, data: Data, start: Data, tolerance: float) -> Answer:
    """Solve a batch; see `Engine.run`. The closed form needs no start."""
    once = torch.ones(len(data["v"]), dtype=torch.long, device=data["v"].device)
    if isinstance(subproblem, FenchelWeight):
        values = _weights(subproblem, data)
        return Answer(values | {"u": subproblem.pre_activations(values, data)}, once, values)
    W, b = data["W"], data["b"]
    matrix = subproblem.above * W.T @ W
    matrix.diagonal().add_(subproblem.below)
    right = subproblem.below * data["u"] + subproblem.above * (data["v"] - b) @ W
    x = torch.cholesky_solve(right.T, _cholesky(matrix)).T.contiguous()
    return Answer({"x": x, "z": x @ W.T + b}, once, {"x": x})


def _weights(subproblem: FenchelWeight, data: Data) -> dict[str, Tensor]:
    factor, v, p = _factor(subproblem, data["X"]), data["v"], subproblem.proximity
    if not p:
        centred = v - v.mean(1, keepdim=True) if subproblem.bias else v
        w = factor.solve(centred).contiguous()
        return {"w": w, "c": v.mean(1) - w @ factor.mean} if subproblem.bias else {"w": w}
    values = {"w": p / (p + subproblem.weight_decay) * data["w_old"]}
    if subproblem.bias:
        values["c"] = data["c_old"]
    move = factor.solve(v - subproblem.pre_activations(values, data))
    inputs = data["X"].shape[1]
    values["w"] = values["w"] + move[:, :inputs]
    if subproblem.bias:
        values["c"] = values["c"] + move[:, inputs]
    return values


def _factor(subproblem: FenchelWeight, X: Tensor) -> Factor:
    m, d, p = subproblem.multiplier, subproblem.weight_decay, subproblem.proximity
    numbers = (m, d, p, subproblem.bias)
    kept: Factor | None = FACTORS.get(X)
    if kept is not None and (kept.numbers, kept.version) == (numbers, X._version):
        return kept
    mean, columns = X.mean(0), X
    diagonal = X.new_full((X.shape[1],), d + p)
    if subproblem.bias and p:
        columns = torch.cat([X, torch.ones_like(X[:, :1])], 1)
        diagonal = torch.cat([diagonal, diagonal.new_full((1,), p)])
    elif subproblem.bias:
        columns = X - mean
    pushed = columns.shape[1] > columns.shape[0]
    if pushed:
        matrix = m * (columns / diagonal) @ columns.T
        matrix.diagonal().add_(1.0)
    else:
        matrix = m * columns.T @ columns
        matrix.diagonal().add_(diagonal)
    made = Factor(numbers, X._version, columns, mean, diagonal, pushed, _cholesky(matrix))
    FACTORS[X] = made
    return made


def _cholesky(matrix: Tensor) -> Tensor:
    """The factor; NaN where there is none, which the residuals then say, without a wait for the device."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where(failed == 0, factor, torch.nan)


ENGINE = Engine(
    "ridge",
    "quadratic weight and activation blocks in closed form: one Cholesky factor, of the smaller Gram matrix",
    missing,
    run,
)
