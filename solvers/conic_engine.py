"""ConicEngine: a solver of batches of conic programs, recognized in their canonical form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .conic_program import ConicProgram, Points

Start = Mapping[str, Tensor]
"""State of an earlier answer to the same instances, batch axis first; empty for a cold start."""

Runner = Callable[[ConicProgram, Start, float], Points]
"""Solves a batch to a tolerance on the residuals of conic_residuals.py; gives points of the whole canonical program."""


@dataclass(frozen=True)
class ConicEngine:
    """A solver of batches of conic programs.

    Attributes
    ----------
    name : str
        Name in `solve_problem(engine=...)`.
    solves : str
        What it solves, in words.
    warm : str
        What a warm start does for it, in words; says so where it cannot use one.
    prepare : callable
        Program -> a Runner, or what the program lacks for this engine, in words that follow "it needs". The runner may
        keep work that depends on the matrices alone (factorizations); it is used for all batches whose shared
        parameters have the same values. The program it is made from is one batch of them.
    suits : callable
        Program -> whether the engine should be taken where none was named; False where another is known to be quicker.
    """

    name: str
    solves: str
    warm: str
    prepare: Callable[[ConicProgram], Runner | str]
    suits: Callable[[ConicProgram], bool] = lambda program: True
