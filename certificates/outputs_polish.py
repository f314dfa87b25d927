"""Evidence for several outputs: that of one output for every V a_j, all of them improved together.

The a_j are directions of outputs_directions.py: the columns of the identity, or some that are spread over a plane. With
H the bound on h(V) that the multipliers of all directions give, and b the weight decay, D((b / H) V) is maximized over
V, all multipliers, widths and prices, smoothed as in dual_polish.py. For the softmax loss V = onehot - P, and P is
varied by its logits. Every iterate is valid evidence; the best is kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat

import numpy as np
import torch
from torch import Tensor

from ..formulations.sample_pairs import Pairs
from .descent import minimize_until
from .dual_polish import (
    CORNER,
    EDGE,
    ITERATIONS,
    MOST_REPEATS,
    SETTLED,
    SMOOTHINGS,
    Values,
    best_prices,
    from_moments,
    matrices,
    multipliers_of,
    price_matrix,
    variables_of,
)
from .evidence import Multipliers, support_estimate
from .moment_start import Data
from .outputs_directions import Directions
from .outputs_problem import OutputsProblem
from .problem import TwoLayerProblem


@dataclass(frozen=True)
class Column:
    """The problem of one output that V a_j belongs to (its weight decay is a scale, no more), and its pairs."""

    problem: TwoLayerProblem
    pairs: Pairs
    data: Data

    @staticmethod
    def of(problem: TwoLayerProblem, pairs: Pairs) -> Column:
        """With the tensors that they need."""
        return Column(problem, pairs, Data.of(problem, pairs))


def outputs_estimate(
    problem: OutputsProblem, directions: Directions, columns: Sequence[Column], found: Sequence[Multipliers]
) -> tuple[float, float]:
    """About the lower bound that the evidence of all columns will prove, and the scale of V at which it is reached."""
    pairs = zip(columns, found, strict=True)
    supports = [support_estimate(column.problem, column.pairs, part) for column, part in pairs]
    V, bound = directions.together(found), float(directions.bound(torch.tensor(supports, dtype=torch.float64)))
    scale = problem.best_scale(V, problem.weight_decay / max(bound, 1e-300))
    return problem.dual(scale * V), scale


def polish_outputs(
    problem: OutputsProblem, directions: Directions, columns: Sequence[Column], start: Sequence[Multipliers],
    seconds: float,
) -> tuple[list[Multipliers], float]:  # fmt: skip
    """Improve the multipliers of all columns for a time; the best ones and the lower bound that they will give."""
    deadline = time.perf_counter() + seconds
    best, estimate = list(start), outputs_estimate(problem, directions, columns, start)[0]
    dual, values = _dual_variable(problem, directions.together(start)), []
    for column, part in zip(columns, start, strict=True):
        own = variables_of(column.problem, part)
        values.append(own | {"price": best_prices(column.problem, column.data, own)})
    for smoothing in (*SMOOTHINGS, *repeat(SMOOTHINGS[-1], MOST_REPEATS)):
        dual, values = _ascend(problem, directions, columns, dual, values, smoothing, deadline)
        found = [multipliers_of(column.problem, own) for column, own in zip(columns, values, strict=True)]
        reached, before = outputs_estimate(problem, directions, columns, found)[0], estimate
        if reached > estimate:
            best, estimate = found, reached
        settled = smoothing == SMOOTHINGS[-1] and estimate - before <= SETTLED * abs(estimate)
        if settled or time.perf_counter() > deadline:
            break
        values = [
            own | from_moments(column.problem, column.data, own, smoothing)
            for column, own in zip(columns, values, strict=True)
        ]
    return best, estimate


def _dual_variable(problem: OutputsProblem, V: np.ndarray) -> Tensor:
    if problem.loss == "softmax":
        V = np.log(np.maximum(problem.targets - V, EDGE))
    return torch.as_tensor(V)


def _point(problem: OutputsProblem, targets: Tensor, variable: Tensor) -> Tensor:
    """V."""
    return variable if problem.loss == "squared" else targets - torch.softmax(variable, 1)


def _dual(problem: OutputsProblem, targets: Tensor, V: Tensor) -> Tensor:
    if problem.loss == "squared":
        return (V * targets).sum() - V.square().sum() / 2
    P = (targets - V).clamp(1e-300, 1)
    return -torch.xlogy(P, P).sum()


def _ascend(
    problem: OutputsProblem, directions: Directions, columns: Sequence[Column], dual: Tensor, values: list[Values],
    smoothing: float, deadline: float,
) -> tuple[Tensor, list[Values]]:  # fmt: skip
    """L-BFGS on the smoothed dual until it converges or the time is over."""
    # The v of a column is V a_j.
    parts = [own[name] for own in values for name in own if name != "v"]
    lengths, targets = [part.numel() for part in parts], torch.as_tensor(problem.targets)
    rows = torch.as_tensor(directions.rows)
    J = price_matrix(problem.X.shape[1] + 1)

    def unpacked(flat: Tensor) -> tuple[Tensor, list[Values]]:
        first, *others = flat.split([dual.numel(), *lengths])
        along = rows @ _point(problem, targets, first.view(dual.shape)).T
        pieces = iter(zip(others, parts, strict=True))
        return first.view(dual.shape), [_column_values(own, v, pieces) for own, v in zip(values, along, strict=True)]

    groups = _groups(columns)
    means = [float(own["v"].abs().mean()) for own in unpacked(_flat(dual, parts))[1]]
    corners = [CORNER * smoothing * float(np.mean(means[group])) for group in groups]
    decays = torch.tensor([column.problem.weight_decay for column in columns], dtype=torch.float64)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        variable = torch.tensor(flat, requires_grad=True)
        first, here = unpacked(variable)
        supports = []
        for group, corner in zip(groups, corners, strict=True):
            owns, decay, column = here[group], decays[group, None], columns[group.start]
            every = {name: torch.stack([own[name] for own in owns]) for name in owns[0]}
            prices = (decay * every["price"])[..., None, None]
            shifted = matrices(column.problem, column.data, every, corner) + prices * J
            try:
                eigenvalues = torch.linalg.eigvalsh(shifted)
            except torch.linalg.LinAlgError:
                return np.inf, np.zeros_like(flat)
            soft = smoothing * decay
            supports.append(2 * soft[:, 0] * torch.logsumexp(eigenvalues.flatten(1) / soft, 1))
        bound = directions.bound(torch.cat(supports), smoothing * problem.weight_decay)
        value = -_dual(problem, targets, problem.weight_decay / bound * _point(problem, targets, first))
        value.backward()  # type: ignore[no-untyped-call]
        assert variable.grad is not None
        return float(value.detach()), variable.grad.numpy()

    bounds: list[tuple[int | None, None]] = [(None, None)] * dual.numel()
    for own in values:
        for name, part in own.items():
            if name != "v":
                bounds += [(0 if name in ("pairs", "mean", "local") else None, None)] * part.numel()
    first = _flat(dual, parts).numpy()
    return unpacked(torch.as_tensor(minimize_until(objective, first, deadline, iterations=ITERATIONS, bounds=bounds)))


def _groups(columns: Sequence[Column]) -> list[slice]:
    """Consecutive columns with the same pairs, whose matrices are made together."""
    starts = [k for k, column in enumerate(columns) if not k or column.data is not columns[k - 1].data]
    return [slice(*ends) for ends in pairwise([*starts, len(columns)])]


def _flat(dual: Tensor, parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([dual.reshape(-1), *(part.reshape(-1) for part in parts)])


def _column_values(own: Values, v: Tensor, pieces: Iterator[tuple[Tensor, Tensor]]) -> Values:
    """The values of a column from the next pieces of the vector of all variables."""
    shaped = (piece.view(like.shape) for piece, like in pieces)
    return {name: v if name == "v" else next(shaped) for name in own}
