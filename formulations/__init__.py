"""What is solved: convex training subproblems, each written once as a cvxpy model that a person can read."""

from .activations import ACTIVATIONS, Activation, activation
from .description import Description, Symbol
from .errors import NoConvexModelError, NotDisciplinedError, UsageError
from .fenchel_activation import FenchelActivation
from .fenchel_lifting import FenchelLifting
from .fenchel_output import FenchelOutput
from .fenchel_weight import FenchelWeight
from .formulation import Architecture, Block, Formulation, LiftedState, Step
from .inequality_lifting import InequalityLifting
from .lipschitz_regression import LipschitzRegression
from .losses import LOSSES, Loss
from .monotone_affine import AffineInequality
from .monotone_gap import proven_gap
from .monotone_inequality import MonotoneInequality
from .monotone_layer import MonotoneLayer
from .slope_properties import SlopeProperty, slope_property
from .spline_blocks import SplineBlocks
from .spline_fit import SlopeSpline
from .spline_losses import SPLINE_LOSSES, SplineLoss, spline_loss
from .subproblem import Residuals, Subproblem
from .target_blocks import TargetBlocks
from .two_layer_moments import SecondMoments
from .two_layer_outputs import OutputMoments
from .two_layer_pairs import PairedMoments
from .two_layer_spectral import SpectralRegression

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "SPLINE_LOSSES",
    "Activation",
    "AffineInequality",
    "Architecture",
    "Block",
    "Description",
    "FenchelActivation",
    "FenchelLifting",
    "FenchelOutput",
    "FenchelWeight",
    "Formulation",
    "InequalityLifting",
    "LiftedState",
    "LipschitzRegression",
    "Loss",
    "MonotoneInequality",
    "MonotoneLayer",
    "NoConvexModelError",
    "NotDisciplinedError",
    "OutputMoments",
    "PairedMoments",
    "Residuals",
    "SecondMoments",
    "SlopeProperty",
    "SlopeSpline",
    "SpectralRegression",
    "SplineBlocks",
    "SplineLoss",
    "Step",
    "Subproblem",
    "Symbol",
    "TargetBlocks",
    "UsageError",
    "activation",
    "proven_gap",
    "slope_property",
    "spline_loss",
]
