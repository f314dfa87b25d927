"""The catalogue: what can be shown and trained, by name."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from .admm_lifting import Admm, DeepAdmm
from .contrastive_lifting import ContrastiveLifting
from .errors import UsageError
from .fenchel_activation import FenchelActivation
from .fenchel_lifting import FenchelLifting
from .fenchel_output import FenchelOutput
from .fenchel_weight import FenchelWeight
from .formulation import Formulation
from .image_reconstruction import RidgeReconstruction, TotalVariationReconstruction
from .inequality_blocks import BoxActivation, IntervalPreActivation
from .inequality_lifting import InequalityLifting
from .lifted_method import LiftedMethod
from .lipschitz_regression import LipschitzRegression
from .lpom import LiftedProximalOperators
from .monotone_affine import AffineInequality
from .monotone_inequality import MonotoneInequality
from .monotone_layer import MonotoneLayer
from .penalty_blocks import PenaltyPreActivation
from .quadratic_penalty import QuadraticPenalty
from .ridge_regularizer import RidgeDenoising, RidgeRefit
from .spline_blocks import SplineBlocks
from .spline_fit import SlopeSpline
from .square_lift import SquareLift
from .subproblem import Subproblem
from .target_blocks import TargetBlocks
from .two_layer_moments import SecondMoments
from .two_layer_outputs import OutputMoments
from .two_layer_pairs import PairedMoments
from .two_layer_spectral import SpectralRegression

SUBPROBLEMS: dict[str, type[Subproblem]] = {
    block.name: block
    for block in (
        FenchelActivation,
        FenchelWeight,
        FenchelOutput,
        IntervalPreActivation,
        BoxActivation,
        PenaltyPreActivation,
        SecondMoments,
        PairedMoments,
        OutputMoments,
        SpectralRegression,
        LipschitzRegression,
        AffineInequality,
        MonotoneLayer,
        SlopeSpline,
        RidgeDenoising,
        RidgeRefit,
        TotalVariationReconstruction,
        RidgeReconstruction,
    )
}
FORMULATIONS: dict[str, type[Formulation]] = {FenchelLifting.name: FenchelLifting}
LIFTED: dict[str, type[LiftedMethod]] = {
    made.name: made
    for made in (
        InequalityLifting, LiftedProximalOperators, ContrastiveLifting, SquareLift, QuadraticPenalty, Admm, DeepAdmm
    )
}  # fmt: skip
Method = Formulation | TargetBlocks | LiftedMethod
METHODS: dict[str, type[Method]] = {
    **FORMULATIONS,
    TargetBlocks.name: TargetBlocks,
    MonotoneInequality.name: MonotoneInequality,
    SplineBlocks.name: SplineBlocks,
    **LIFTED,
}
"""All that trains: formulations, whose blocks a coordinator solves in turn, and mini-batched methods beside them."""


def subproblem(name: str, settings: dict[str, Any] | None = None) -> Subproblem:
    """Make a block of the catalogue.

    Parameters
    ----------
    name : str
        E.g. ``"fenchel.activation"``.
    settings : dict, optional
        Arguments of the block's class; numbers may be given as strings, as on the command line.

    Raises
    ------
    UsageError
        If the name or a setting is unknown, or a value cannot be read.

    Examples
    --------
    >>> subproblem("fenchel.activation", {"width": "64", "activation": "tanh"}).width
    64
    """
    if name not in SUBPROBLEMS:
        raise UsageError(f"unknown block {name!r}; known: {', '.join(SUBPROBLEMS)}.")
    block = SUBPROBLEMS[name]
    known = inspect.signature(block).parameters
    arguments = {}
    for key, value in (settings or {}).items():
        if key not in known:
            raise UsageError(f"{name} has no setting {key!r}; known: {', '.join(known)}.")
        arguments[key] = _read(name, key, value, known[key].default)
    return block(**arguments)


def formulation(name: str, **settings: Any) -> Formulation:
    """Make a formulation of the catalogue.

    Raises
    ------
    UsageError
        If the name or a setting is unknown, or the method takes mini-batch steps and has no formulation.
    """
    made = method(name, **settings)
    if not isinstance(made, Formulation):
        raise UsageError(
            f"the method {name!r} takes mini-batch steps and has no formulation that `fit` could alternate; expected "
            f"one of {', '.join(FORMULATIONS)}: call fit_targets(network, data) instead."
        )
    return made


def method(name: str, **settings: Any) -> Method:
    """Make a training method of the catalogue: a formulation, or the settings of a mini-batched method.

    Numbers may be given as strings, as on the command line.

    Raises
    ------
    UsageError
        If the name or a setting is unknown.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; known: {', '.join(METHODS)}.")
    made = METHODS[name]
    known = {field.name: field.default for field in fields(made)}  # type: ignore[arg-type]
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise UsageError(f"the method {name!r} has no setting {unknown[0]!r}; known: {', '.join(known)}.")
    return made(**{key: _read(name, key, value, known[key]) for key, value in settings.items()})


def _read(name: str, key: str, value: Any, default: Any) -> Any:
    """A setting in the type of its default: strings from a command line become numbers."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    if default is None:
        # Nothing says what is expected: a number where it reads as one, else a name.
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise UsageError(f"{name}: {key} is {value!r}; expected true or false.")
        return value.lower() == "true"
    try:
        return type(default)(value)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise UsageError(f"{name}: {key} is {value!r}; expected {kind}.") from None
