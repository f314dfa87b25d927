"""Small helpers of the batched engines: rows that leave the batch, and line search for each row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..formulations.subproblem import Subproblem
from .engine import Data
from .solution import decisive


def pick_rows(keep: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
    """The rows of every array for which `keep` holds; a single row that stands for all stays."""
    return tuple(array if len(array) == 1 < len(keep) else array[keep] for array in arrays)


def wanted_gap(subproblem: Subproblem, values: Data, data: Data, tolerance: float) -> Tensor:
    """Gap at which an engine stops, for every instance: the tolerance, and a hundredth of the gap at a plain start.

    The second matters where multipliers are large: the lifted activations then move so little that the start already
    meets the tolerance. It is never below rounding.
    """
    residuals = subproblem.residuals(values, data)
    assert residuals is not None, "an engine needs a subproblem with batched residuals"
    return (decisive(residuals) / 100).clamp(1e-14, tolerance).nan_to_num(tolerance)


def backtrack(
    objective: Callable[[Tensor], Tensor], before: Tensor, descent: Tensor, halvings: int = 30
) -> tuple[Tensor, Tensor]:
    """Armijo backtracking of every row on its own.

    Parameters
    ----------
    objective : callable
        Step lengths (rows,) -> objective of every row at its step length.
    before : Tensor, shape (rows,)
        Objective at step length zero.
    descent : Tensor, shape (rows,)
        Directional derivative at zero, at most zero.
    halvings : int
        How often a step is halved before its row counts as stalled.

    Returns
    -------
    steps, after : Tensor, shape (rows,)
        Step lengths, zero for rows that could not descend, and the objectives there.
    """
    steps = torch.ones_like(before)
    # Near the optimum the true decrease drowns in rounding; a step is then taken if it does not climb above it.
    slack = 4 * torch.finfo(before.dtype).eps * (1 + before.abs())
    after, bad = before, torch.ones_like(before, dtype=torch.bool)
    for _ in range(halvings):
        after = objective(steps)
        bad = ~(after <= before + 1e-4 * steps * descent + slack)
        if not bool(bad.any()):
            return steps, after
        steps = torch.where(bad, steps / 2, steps)
    steps = torch.where(bad, 0.0, steps)
    return steps, torch.where(bad, before, after)
