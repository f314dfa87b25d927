"""How subproblems are solved, and how well: batched engines, the reference, the coordinator."""

from .agreement import Agreement, agree
from .batch import ENGINES, solve
from .coordinator import fit
from .history import History
from .layered import CatalogueActivation, build_network
from .run import Instance, Run, load
from .solution import Solution, SolveError, Status

__all__ = [
    "ENGINES",
    "Agreement",
    "CatalogueActivation",
    "History",
    "Instance",
    "Run",
    "Solution",
    "SolveError",
    "Status",
    "agree",
    "build_network",
    "fit",
    "load",
    "solve",
]
