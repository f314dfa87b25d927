"""How subproblems are solved, and how well: batched engines, the reference, the coordinator."""

from .agreement import Agreement, agree
from .batch import ENGINES, solve
from .batch_norm import fold_batch_norm
from .conic_engines import CONIC_ENGINES
from .coordinator import fit
from .frozen_layers import frozen_features, refit_last_layer
from .history import History
from .layered import CatalogueActivation, build_network
from .lifted_training import fit_lifted
from .methods import fit_method
from .monotone_layer import LayerFit, fit_layer, stochastic_steps
from .monotone_training import fit_monotone
from .problems import solve_problem
from .run import Instance, Run, load
from .solution import Solution, SolveError, Status
from .spline_activation import SplineActivation
from .spline_exact import fit_spline_exact
from .spline_polish import polish
from .spline_training import fit_spline_network
from .splines import SplineFit, fit_splines
from .target_training import fit_targets

__all__ = [
    "CONIC_ENGINES",
    "ENGINES",
    "Agreement",
    "CatalogueActivation",
    "History",
    "Instance",
    "LayerFit",
    "Run",
    "Solution",
    "SolveError",
    "SplineActivation",
    "SplineFit",
    "Status",
    "agree",
    "build_network",
    "fit",
    "fit_layer",
    "fit_lifted",
    "fit_method",
    "fit_monotone",
    "fit_spline_exact",
    "fit_spline_network",
    "fit_splines",
    "fit_targets",
    "fold_batch_norm",
    "frozen_features",
    "load",
    "polish",
    "refit_last_layer",
    "solve",
    "solve_problem",
    "stochastic_steps",
]
