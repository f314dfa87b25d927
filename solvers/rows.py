"""Small helpers of the batched engines: rows that are done, when to look for them, and line search for each row.

On the processor an engine looks after every iteration which rows are done; they leave the batch. On a device that works
on its own every look waits for it. There all rows stay, those that are done no longer change their answers, and the
engine looks after 4, 12, 28, ... iterations; loops within an iteration run a fixed number of times, which doubles from
look to look, and change nothing once they would have ended. As long as that number suffices, every row gets the very
values that it gets on the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..formulations.subproblem import Subproblem
from ..formulations.waiting import reading_waits
from .engine import Data
from .solution import decisive

FIRST_LOOK = 4
HALVINGS, FIRST_HALVINGS = 30, 8
"""How often a step is halved before its row counts as stalled, and before the first look at a device."""


@dataclass(frozen=True)
class Pace:
    """How far an iteration goes without a look at the device.

    Attributes
    ----------
    reads : bool
        Whether numbers are read at once.
    looks : int
        How often the engine has looked so far; not used where it reads.
    left : Tensor of bool, shape (rows,), or None
        Which of the rows at hand are not done; None where it reads, since there all are open.
    """

    reads: bool = True
    looks: int = 0
    left: Tensor | None = None

    def repeats(self, most: int, first: int) -> int:
        """How often a loop within an iteration runs at most."""
        return most if self.reads else min(most, first << self.looks)

    def all_open(self, met: Tensor) -> Tensor:
        """Whether all open rows meet something, a number on the device; `met` has one entry for each row."""
        return met.all() if self.left is None else (met.flatten() | ~self.left).all()

    @property
    def whole(self) -> bool:
        """Whether a line search tries all of its steps, so that a row without one has stalled."""
        return self.repeats(HALVINGS, FIRST_HALVINGS) == HALVINGS


class Answers:
    """Answers of the rows of a batch, each taken in the iteration in which its row is done.

    Attributes
    ----------
    values : dict of Tensor
        The answers; those of rows that are not done are the start's.
    iterations : Tensor, shape (batch,)
        After how many iterations each row was done.
    complete : bool
        Whether the last look found all rows done.
    """

    def __init__(self, start: Data) -> None:
        some = next(iter(start.values()))
        self.values = {name: value.clone() for name, value in start.items()}
        self.iterations = torch.zeros(len(some), dtype=torch.long, device=some.device)
        self.complete = False
        self._reads = not reading_waits(some)
        self._rows = torch.arange(len(some), device=some.device)
        self._left = torch.ones(len(some), dtype=torch.bool, device=some.device)

    def take(self, good: Tensor, values: Data, done: int) -> Tensor | None:
        """Take the answers of rows that are done; which rows of the present ones are to go on, or None for all."""
        if not self._reads:
            self._mask(good, values, done)
            return None
        if not bool(good.any()):
            return None
        places = self._rows[good]
        for name, value in values.items():
            self.values[name][places] = value[good]
        self.iterations[places] = done
        self._rows = self._rows[~good]
        self.complete = not len(self._rows)
        return ~good

    def pace(self, done: int) -> Pace:
        """How the iteration after `done` others is to go."""
        if self._reads:
            return Pace()
        return Pace(False, (done + FIRST_LOOK).bit_length() - FIRST_LOOK.bit_length(), self._left)

    def _mask(self, good: Tensor, values: Data, done: int) -> None:
        fresh = good & self._left
        for name, value in values.items():
            mask = fresh.reshape(-1, *[1] * (value.ndim - 1))
            self.values[name] = torch.where(mask, value, self.values[name])
        self.iterations = torch.where(fresh, done, self.iterations)
        self._left = self._left & ~good
        whole = done + FIRST_LOOK
        if done and whole & (whole - 1) == 0:
            self.complete = not bool(self._left.any())


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
    objective: Callable[[Tensor], Tensor], before: Tensor, descent: Tensor, pace: Pace = Pace()
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
    pace : Pace
        Whether the search may end as soon as all rows have their steps.

    Returns
    -------
    steps, after : Tensor, shape (rows,)
        Step lengths, zero for rows that could not descend, and the objectives there.
    """
    steps = torch.ones_like(before)
    # Near the optimum the true decrease drowns in rounding; a step is then taken if it does not climb above it.
    slack = 4 * torch.finfo(before.dtype).eps * (1 + before.abs())
    after, bad = before, torch.ones_like(before, dtype=torch.bool)
    for _ in range(pace.repeats(HALVINGS, FIRST_HALVINGS)):
        after = objective(steps)
        bad = ~(after <= before + 1e-4 * steps * descent + slack)
        if pace.reads and not bool(bad.any()):
            return steps, after
        steps = torch.where(bad, steps / 2, steps)
    steps = torch.where(bad, 0.0, steps)
    return steps, torch.where(bad, before, after)
