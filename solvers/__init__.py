"""How subproblems are solved, and how well: batched engines, the reference, the coordinator."""

from .agreement import Agreement, agree
from .batch import ENGINES, solve
from .conic_engines import CONIC_ENGINES
from .coordinator import fit
from .history import History
from .layered import CatalogueActivation, build_network
from .methods import fit_method
from .problems import solve_problem
from .run import Instance, Run, load
from .solution import Solution, SolveError, Status
from .spline_exact import fit_spline_exact
from .splines import SplineFit, fit_splines
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
    "SplineFit",
    "Status",
    "agree",
    "build_network",
    "fit",
    "fit_method",
    "fit_spline_exact",
    "fit_splines",
    "fit_targets",
    "load",
    "solve",
    "solve_problem",
]
