"""Engine: what a solver of batches declares, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..formulations.subproblem import Subproblem

Data = Mapping[str, Tensor]


@dataclass(frozen=True)
class Answer:
    """Raw answer of a batched engine: values of the variables, iterations, and its warm-start state."""

    values: dict[str, Tensor]
    iterations: Tensor
    state: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """A batched solver of the subproblems that it accepts.

    Attributes
    ----------
    name : str
        Name in `solve(engine=...)`.
    solves : str
        What it solves, in words.
    missing : callable
        Subproblem -> "" where the engine can solve it, else what the subproblem lacks.
    run : callable
        ``run(subproblem, data, start, tolerance) -> Answer``; data are checked tensors, `start` holds values
        of variables or the state of an earlier answer, and may be empty.
    """

    name: str
    solves: str
    missing: Callable[[Subproblem], str]
    run: Callable[[Any, Data, Data, float], Answer]
