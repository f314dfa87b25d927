"""How subproblems are solved, and how well: batched engines, the reference, the coordinator."""

from .agreement import Agreement, agree
from .batch import ENGINES, solve
from .solution import Solution, SolveError, Status

__all__ = ["ENGINES", "Agreement", "Solution", "SolveError", "Status", "agree", "solve"]
