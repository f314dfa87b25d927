"""How subproblems are solved, and how well: batched engines, the reference, the coordinator."""

from .agreement import Agreement, agree
from .batch import ENGINES, solve
from .batch_norm import fold_batch_norm
from .conic_engines import CONIC_ENGINES
from .coordinator import fit
from .history import History
from .layered import CatalogueActivation, build_network
from .lifted_training import fit_lifted
from .methods import fit_method
from .problems import solve_problem
from .run import Instance, Run, load
from .solution import Solution, SolveError, Status
from .target_training import fit_targets

__all__ = [
    "CONIC_ENGINES",
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
    "fit_lifted",
    "fit_method",
    "fit_targets",
    "fold_batch_norm",
    "load",
    "solve",
    "solve_problem",
]
