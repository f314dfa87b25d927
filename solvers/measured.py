"""Answers of engines with their residuals, before anything is read off their device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..formulations.subproblem import Residuals
from .engine import Answer
from .solution import Solution, good_rows, judge


@dataclass(frozen=True)
class Measured:
    """What an engine answered, and how well.

    Attributes
    ----------
    answer : Answer
    residuals : Residuals
        Measured on the original program.
    engine : str
        Its name.
    seconds : float
        Wall time of the engine; on a device that works on its own, until its last look.
    """

    answer: Answer
    residuals: Residuals
    engine: str
    seconds: float

    def solution(self, tolerance: float) -> Solution:
        """The answers with their statuses; waits for the device."""
        answer, status = self.answer, judge(self.residuals, tolerance)
        return Solution(
            answer.values, self.residuals, status, answer.iterations, self.engine, self.seconds,
            state=answer.state or answer.values,
        )  # fmt: skip

    def figures(self, tolerance: float) -> dict[str, Any]:
        """What a record says of a block; numbers that the device still holds are tensors (see `plain_record`)."""
        parts = {name: getattr(self.residuals, name).max() for name in ("primal", "dual", "gap")}
        return {
            "engine": self.engine, "iterations": self.answer.iterations.double().mean(), "seconds": self.seconds,
            "instances": len(self.answer.iterations), "unsolved": (~good_rows(self.residuals, tolerance)).sum(),
            **parts,
        }  # fmt: skip


def plain_record(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose numbers are plain ones: those that a device still holds are read at once."""
    held: list[Tensor] = []

    def gather(part: Any) -> None:
        if isinstance(part, Tensor):
            held.append(part)
        elif isinstance(part, (dict, list)):
            for inner in part.values() if isinstance(part, Mapping) else part:
                gather(inner)

    gather(record)
    if not held:
        return record
    numbers = iter(torch.stack([number.double() for number in held]).tolist())

    def replaced(part: Any) -> Any:
        if isinstance(part, Tensor):
            number = next(numbers)
            return number if part.is_floating_point() else int(number)
        if isinstance(part, dict):
            return {key: replaced(inner) for key, inner in part.items()}
        return [replaced(inner) for inner in part] if isinstance(part, list) else part

    found: dict[str, Any] = replaced(record)
    return found
