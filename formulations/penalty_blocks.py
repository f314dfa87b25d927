"""Quadratic penalties, their block in z_l: a convex program on every piece of a piecewise linear activation.

    minimize_z   below/2 (z - u)^2  +  above/2 (a - phi(z))^2       (one entry)

is not convex, but on a piece where phi(z) = slope z + offset it is, with the minimizer

    clip( (below u + above slope (a - offset)) / (below + above slope^2), piece ),

and the best piece wins: for ReLU z = min(u, 0), or max((below u + above a) / (below + above), 0).

Source: Taylor, Burmeister, Xu, Singh, Patel & Goldstein, ICML 2016, section 3 (ReLU); derived here for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

import cvxpy as cp

from .activations import Activation, Array, largest_entry, library
from .activations import activation as find_activation
from .description import Symbol
from .errors import UsageError
from .subproblem import PER_INSTANCE, Residuals, Subproblem, require_positive, require_size


class Piece(NamedTuple):
    """phi(z) = slope z + offset for low <= z <= high."""

    low: float
    high: float
    slope: float
    offset: float


def pieces(phi: Activation) -> tuple[Piece, ...]:
    """The pieces of a piecewise linear activation, from left to right.

    Raises
    ------
    UsageError
        If the activation is curved.
    """
    middle, p = Piece(phi.low, phi.high, 1.0, 0.0), phi.parameter
    if phi.name == "leaky_relu":
        assert p is not None
        return Piece(-inf, 0.0, p, 0.0), Piece(0.0, inf, 1.0, 0.0)
    if phi.name == "soft_shrink":
        assert p is not None
        return Piece(-inf, -p, 1.0, p), Piece(-p, p, 0.0, 0.0), Piece(p, inf, 1.0, -p)
    if phi.name not in ("identity", "relu", "clipped_relu", "hardtanh"):
        raise UsageError(
            f"the activation {phi.label!r} is curved; a quadratic penalty has its closed form for identity, relu, "
            "leaky_relu, clipped_relu, hardtanh and soft_shrink: take one of these, or the method 'inequality'."
        )
    left = () if phi.low == -inf else (Piece(-inf, phi.low, 0.0, phi.low),)
    right = () if phi.high == inf else (Piece(phi.high, inf, 0.0, phi.high),)
    return (*left, middle, *right)


def best_pre_activation(phi: Activation, u: Array, a: Array, below: float, above: float) -> Array:
    """The minimizer over all pieces, entry by entry; of equal ones the leftmost.

    Examples
    --------
    >>> import numpy as np
    >>> best_pre_activation(find_activation("relu"), np.array([-1.0, -1.0]), np.array([3.0, 1.0]), 1.0, 1.0).tolist()
    [1.0, -1.0]
    """
    xp, best, least = library(u), u, inf + 0.0 * u
    for piece in pieces(phi):
        z = PenaltyPreActivation.minimizer(piece, u, a, below, above)
        value = below * (z - u) ** 2 + above * (a - piece.slope * z - piece.offset) ** 2
        best, least = xp.where(value < least, z, best), xp.minimum(value, least)
    return best


class PenaltyPreActivation(Subproblem):
    """Pre-activations of one hidden layer on one piece of its activation; one sample.

        minimize    below/2 |z - u|^2  +  above/2 |slope z + offset - a|^2
        subject to  z on the piece

    Variables   z (width,)       pre-activations
    Data        u (width,)       what arrives from below, W a + b       per instance
                a (width,)       activations of this layer              per instance
                below, above     factors, > 0; slope, offset and ends of the piece: numbers fixed when the block is made
    Convex on the piece; the block of a method is the best of its pieces (`best_pre_activation`).
    Source      Taylor et al., ICML 2016, section 3, for ReLU: its two pieces.

    Parameters
    ----------
    width : int
        Units of the layer.
    activation : str or Activation
        A piecewise linear row of the table.
    piece : int
        Piece 0, 1, ... from left to right.
    below, above : float
        Factors of the two squares.

    Raises
    ------
    UsageError
        For a curved activation, an unknown piece, a width below 1 or a factor that is not positive.
    """

    name = "penalty.pre_activation"
    source = "Taylor, Burmeister, Xu, Singh, Patel & Goldstein, ICML 2016, arXiv 1605.02026, section 3"
    instance = "one sample"

    def __init__(
        self, *, width: int = 4, activation: str | Activation = "relu", piece: int = 1, below: float = 1.0,
        above: float = 1.0,
    ) -> None:  # fmt: skip
        require_size(width=width)
        require_positive(below=below, above=above)
        found = pieces(find_activation(activation))
        if piece not in range(len(found)):
            raise UsageError(f"piece is {piece!r}; expected one of 0 to {len(found) - 1}, from left to right.")
        self.width, self.piece, self.below, self.above = width, found[piece], below, above
        self.symbols = (
            Symbol("z", "pre-activations", PER_INSTANCE, r"\mathbf{z}"),
            Symbol("u", "what arrives from below", PER_INSTANCE, r"\mathbf{u}"),
            Symbol("a", "activations of this layer", PER_INSTANCE, r"\mathbf{a}"),
        )
        self.prepare()

    def write(self) -> cp.Problem:
        z = cp.Variable(self.width, name="z")
        u, a = cp.Parameter(self.width, name="u"), cp.Parameter(self.width, name="a")
        stay = self.below / 2 * cp.sum_squares(z - u)
        fit = self.above / 2 * cp.sum_squares(self.piece.slope * z + self.piece.offset - a)
        stay.set_label("stay near what arrives")
        fit.set_label("fit the activations")
        ends = [z >= self.piece.low] * (self.piece.low > -inf) + [z <= self.piece.high] * (self.piece.high < inf)
        for end in ends:
            end.set_label("on the piece")
        return cp.Problem(cp.Minimize(stay + fit), ends)

    def data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"u": (self.width,), "a": (self.width,)}

    def start_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"z": (self.width,)}

    @staticmethod
    def minimizer(piece: Piece, u: Array, a: Array, below: float, above: float) -> Array:
        """The closed form on a piece."""
        free = (below * u + above * piece.slope * (a - piece.offset)) / (below + above * piece.slope**2)
        return library(u).clip(free, piece.low, piece.high)

    def objective(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        z = values["z"]
        stay, fit = z - data["u"], self.piece.slope * z + self.piece.offset - data["a"]
        return self.below / 2 * (stay**2).sum(-1) + self.above / 2 * (fit**2).sum(-1)

    def size(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        return self.objective(values, data)

    def residuals(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Residuals:
        """Distance to the piece; distance to the minimizer, relative to 1 + its size; objective minus optimum."""
        z, xp = values["z"], library(values["z"])
        best = self.minimizer(self.piece, data["u"], data["a"], self.below, self.above)
        inside, optimum = xp.clip(z, self.piece.low, self.piece.high), self.objective({"z": best}, data)
        gap = xp.clip(self.objective({"z": inside}, data) - optimum, 0.0, None)
        return Residuals(
            largest_entry(z - inside), largest_entry(z - best) / (1 + largest_entry(best)), gap / (1 + optimum)
        )
