"""One row of the table of activations: phi, its potential Phi and its conjugate Phi*, for arrays and as models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import scipy.special

from .errors import NoConvexModelError
from .potential_models import MODELS, ModelTerm

Array = Any
"""A numpy array or a torch tensor; no module here may ask for torch, so the type stays open."""


def library(array: Array) -> Any:
    """The library that made an array: the module ``numpy`` or ``torch``."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def special(array: Array) -> Any:
    """The special functions for an array: ``scipy.special`` or ``torch.special``."""
    return scipy.special if library(array).__name__ == "numpy" else library(array).special


def largest_entry(values: Array) -> Array:
    """Largest magnitude of every instance (first axis), over all its entries."""
    flat = abs(values).reshape(values.shape[0], -1)
    return library(flat).amax(flat, -1)


@dataclass(frozen=True)
class Activation:
    """One row of the table.

    The functions act entry by entry, except for softmax, which acts on the last axis and whose
    potentials are one number per row. `parameter` is the slope, level or threshold of the rows that
    have one.

    Attributes
    ----------
    name : str
        Name in the table.
    phi, potential, conjugate : callable
        phi, Phi and Phi* of an array; Phi* is +inf outside its domain.
    slope : callable
        phi' of an array (at a kink the larger of its one-sided values, so that a start at u = 0 feels the
        curvature). For softmax, softmax itself:
        `jacobian` is what solvers use.
    low, high : float
        Ends of the closure of the range of phi; for softmax the range is the simplex.
    slopes : tuple of float
        inf phi' and sup phi' (softmax: of the quadratic form of its Jacobian).
    latex : str
        Formula of phi.
    shrink : callable or None
        ``shrink(c, s)`` solves ``phi^{-1}(x) + s x = c`` for s >= 0 in closed form: the proximal map of Phi*.
    inverse : callable or None
        phi^{-1} inside the range, for the smooth rows (softmax: up to a number per row).
    homogeneous : bool
        Whether phi(t u) = t phi(u) for every t > 0.
    couples_units : bool
        Whether phi acts on whole rows (softmax).
    parameter : float or None
        Slope, level or threshold of the rows that have one.
    refusal : str
        Why the row has no convex model, where it has none.
    """

    name: str
    phi: Callable[[Array], Array]
    potential: Callable[[Array], Array]
    conjugate: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    low: float
    high: float
    slopes: tuple[float, float]
    latex: str
    shrink: Callable[[Array, float], Array] | None = None
    inverse: Callable[[Array], Array] | None = None
    homogeneous: bool = False
    couples_units: bool = False
    parameter: float | None = None
    refusal: str = field(default="", repr=False)

    @property
    def label(self) -> str:
        """The name with its parameter, as `activation` reads it: ``leaky_relu(0.1)``."""
        return self.name if self.parameter is None else f"{self.name}({float(self.parameter)!r})"

    @property
    def has_model(self) -> bool:
        """Whether Phi and Phi* can be written with cvxpy atoms."""
        return self.name in MODELS

    def model_potential(self, u: Any) -> ModelTerm:
        """Phi of a cvxpy expression (a vector, or a matrix with samples as rows), summed."""
        return self._models()[0](u, self.parameter)

    def model_conjugate(self, v: Any) -> ModelTerm:
        """Phi* of a cvxpy expression with the constraints of its domain, summed."""
        return self._models()[1](v, self.parameter)

    def _models(self) -> tuple[Callable[..., ModelTerm], Callable[..., ModelTerm]]:
        if not self.has_model:
            raise NoConvexModelError(
                f"the activation {self.label!r} has no disciplined convex model: {self.refusal}. "
                "Engines that use only phi (newton, weight_newton) solve its blocks; to read, audit or certify "
                "a block as a convex model take another activation, e.g. 'tanh' or 'sigmoid'."
            )
        return MODELS[self.name]

    def gap(self, v: Array, u: Array) -> Array:
        """Fenchel-Young gap B(v, u) of every row, summed over the last axis; never below zero.

        Rounding can make a true zero a tiny negative number; it is clipped, because B >= 0 is a theorem.
        """
        total = self.row_sum(self.potential(u)) + self.row_sum(self.conjugate(v)) - (u * v).sum(-1)
        return library(total).clip(total, 0.0, None)

    def row_sum(self, values: Array) -> Array:
        """Sum of potentials over the last axis (softmax potentials are one number a row already)."""
        return values if self.couples_units else values.sum(-1)

    def jacobian(self, u: Array) -> Callable[[Array], Array]:
        """The map d -> phi'(u) d."""
        slope = self.slope(u)
        if not self.couples_units:
            return lambda d: slope * d
        return lambda d: slope * d - slope * (slope * d).sum(-1)[..., None]

    def project(self, v: Array) -> Array:
        """The range's point at (or, for the simplex, near) v: entries clipped, simplex rows rescaled."""
        clipped = library(v).clip(v, self.low, self.high)
        if not self.couples_units:
            return clipped
        total = clipped.sum(-1)[..., None]
        # A row without any positive entry has no nearest direction: give it the uniform distribution.
        empty = total == 0
        return library(v).where(empty, 1.0 / v.shape[-1], clipped / (total + empty))

    def violation(self, v: Array) -> Array:
        """Largest distance of an entry (simplex: or of a row sum) to the range, for every row."""
        distance = abs(v - library(v).clip(v, self.low, self.high))
        distance = library(v).amax(distance, -1)
        return library(v).maximum(distance, abs(v.sum(-1) - 1.0)) if self.couples_units else distance
