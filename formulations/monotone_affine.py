"""An affine monotone variational inequality as a convex program: its gap function is minimized.

A variational inequality VI(F, C) over a compact convex set C asks for z in C with <F(w), w - z> >= 0 for all w in C;
for continuous monotone F the same points are those with <F(z), w - z> >= 0. With F(z) = M z + q the *gap function*

    g(z) = sup_{w in C} <F(z), z - w>  =  z'S z + q'z + sigma_C(-(M z + q)),        S = (M + M')/2,

is at least zero on C, and zero exactly at the solutions; sigma_C(y) = sup_{w in C} <y, w> is the support function. The
skew part of M drops out of z'M z, so that g is convex exactly where S is positive semidefinite, that is where F is
monotone. No F with a skew part is a gradient: no function is minimized by following -F, but g is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import cvxpy as cp
import numpy as np

from .activations import Array, library
from .description import Symbol
from .errors import UsageError
from .subproblem import PER_INSTANCE, Subproblem, require_positive, require_size

SETS = ("ball", "box")
ROUNDING = 1e-10


class AffineInequality(Subproblem):
    """A monotone affine variational inequality over a ball or a box, solved by minimizing its gap function.

        minimize    |R z|^2 + q'z + sigma_C(-y)
        subject to  y = M z + q,    z in C

    with sigma_C(-y) = radius |y| for the ball |z| <= radius, and sum_i max(-low_i y_i, -high_i y_i) for the box
    low <= z <= high.

    Variables   z (unknowns,)                the solution
                y (unknowns,)                values F(z) = M z + q of the operator
    Data        M (unknowns, unknowns)       matrix of the operator; M + M' positive semidefinite      per instance
                R (unknowns, unknowns)       factor of its symmetric part: R'R = (M + M')/2            per instance
                q (unknowns,)                the operator at zero                                      per instance
                radius > 0                   of the ball                                               per instance
                low, high (unknowns,)        ends of the box                                           per instance
    The objective is the gap function g(z) = sup_{w in C} <F(z), z - w>. It is zero exactly at the solutions, so its
    value at any z in C says how far z is from solving the inequality; `proven_gap` bounds it in exact arithmetic.
    Convex because |R z|^2 is, and a support function of an affine expression is.
    Source      Auslender, "Optimisation: methodes numeriques" (1976), for the gap function; Xu, Cheng & Xie, "Training
                neural networks is solving monotone variational inequalities" (arXiv 2202.08876), for their use.

    Parameters
    ----------
    unknowns : int
        Length of z.
    over : str
        The set C: ``"ball"`` or ``"box"``.

    Raises
    ------
    UsageError
        For a size below 1 or an unknown set.

    Examples
    --------
    A quarter turn is no gradient; over the unit ball around zero only z = q turned back solves it.

    >>> block = AffineInequality(unknowns=2)
    >>> data = block.data([[0.0, -1.0], [1.0, 0.0]], [0.3, 0.2], radius=1.0)
    >>> for parameter in block.program().parameters():
    ...     parameter.value = data[parameter.name()][0]
    >>> gap = block.program().solve()
    >>> print(block.program().var_dict["z"].value.round(3))
    [-0.2  0.3]
    """

    name: ClassVar[str] = "monotone.affine_vi"
    source = (
        'Auslender, "Optimisation: methodes numeriques" (1976) (gap function); Xu, Cheng & Xie, arXiv 2202.08876 '
        "(monotone variational inequalities for training)"
    )
    instance = "one variational inequality"

    def __init__(self, *, unknowns: int = 3, over: str = "ball") -> None:
        require_size(unknowns=unknowns)
        if over not in SETS:
            raise UsageError(f"over is {over!r}; expected one of {', '.join(map(repr, SETS))}.")
        self.unknowns, self.over = unknowns, over
        ends = (
            [Symbol("radius", "radius of the ball", PER_INSTANCE, r"\rho")]
            if over == "ball"
            else [
                Symbol("low", "lower ends of the box", PER_INSTANCE, r"\mathbf{l}"),
                Symbol("high", "upper ends of the box", PER_INSTANCE, r"\mathbf{h}"),
            ]
        )
        self.symbols = (
            Symbol("z", "the solution", PER_INSTANCE, r"\mathbf{z}"),
            Symbol("y", "values of the operator at z", PER_INSTANCE, r"\mathbf{y}"),
            Symbol("M", "matrix of the operator", PER_INSTANCE, r"\mathbf{M}"),
            Symbol("R", "factor of its symmetric part, R'R = (M + M')/2", PER_INSTANCE, r"\mathbf{R}"),
            Symbol("q", "the operator at zero", PER_INSTANCE, r"\mathbf{q}"),
            *ends,
        )
        self.prepare()

    def write(self) -> cp.Problem:
        n = self.unknowns
        z, y = cp.Variable(n, name="z"), cp.Variable(n, name="y")
        M, R = cp.Parameter((n, n), name="M"), cp.Parameter((n, n), name="R")
        q = cp.Parameter(n, name="q")
        if self.over == "ball":
            radius = cp.Parameter(nonneg=True, name="radius")
            support = radius * cp.norm(y, 2)
            inside = [cp.norm(z, 2) <= radius]
        else:
            low, high = cp.Parameter(n, name="low"), cp.Parameter(n, name="high")
            support = cp.sum(cp.maximum(-cp.multiply(low, y), -cp.multiply(high, y)))
            inside = [z >= low, z <= high]
        # The factor 1 keeps the term in one piece: cvxpy would flatten a bare sum into its parent and drop the label.
        own = (1.0 * (cp.sum_squares(R @ z) + q @ z)).set_label("<F(z), z>")
        against = (1.0 * support).set_label("support function at -F(z)")
        tie = (y == M @ z + q).set_label("values of the operator")
        labels = ("the set",) if self.over == "ball" else ("low end", "high end")
        for constraint, label in zip(inside, labels, strict=True):
            constraint.set_label(label)
        return cp.Problem(cp.Minimize(own + against), [tie, *inside])

    def data(self, M: Any, q: Any, *, radius: Any = None, low: Any = None, high: Any = None) -> dict[str, np.ndarray]:
        """Name -> array, as `solve` takes it, of one inequality or of a batch with a leading axis.

        Parameters
        ----------
        M : array, shape (unknowns, unknowns) or (batch, unknowns, unknowns)
            Matrix of the operator.
        q : array, shape (unknowns,) or (batch, unknowns)
            The operator at zero.
        radius : float or array, shape (batch,)
            For the ball.
        low, high : float or array
            For the box; a number stands for all unknowns.

        Raises
        ------
        UsageError
            For data of the wrong shape, not finite, or of another set; for an empty box; or if F is not monotone.
        """
        M = _finite("M", M)
        M = M[None] if M.ndim == 2 else M
        batch, n = len(M), self.unknowns
        if M.shape != (batch, n, n):
            raise UsageError(f"M has shape {M.shape[1:]}; expected ({n}, {n}), a square matrix of {n} unknowns.")
        found = {"M": M, "R": np.stack([symmetric_factor(each) for each in M]), "q": _spread("q", q, (batch, n))}
        given = {"radius": radius} if self.over == "ball" else {"low": low, "high": high}
        others = {"low": low, "high": high} if self.over == "ball" else {"radius": radius}
        missing = [name for name, value in given.items() if value is None]
        extra = [name for name, value in others.items() if value is not None]
        if missing or extra:
            seen = f"{missing[0]} is missing" if missing else f"{extra[0]} is given"
            raise UsageError(f"{self.name}: {seen}; over a {self.over} expected {', '.join(given)} beside M and q.")
        for name, value in given.items():
            found[name] = _spread(name, value, (batch,) if name == "radius" else (batch, n))
        if self.over == "ball":
            require_positive(radius=float(found["radius"].min()))
        elif (found["low"] > found["high"]).any():
            raise UsageError("low is above high somewhere; expected a box that is not empty: exchange them.")
        return found

    def operator(self, z: Array, data: Mapping[str, Array]) -> Array:
        """F(z) = M z + q of every instance; z of shape (batch, unknowns)."""
        return (data["M"] @ z[..., None])[..., 0] + data["q"]

    def objective(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """The gap function at z, from F(z) itself: what a point is measured by, whatever found it."""
        z = values["z"]
        y = self.operator(z, data)
        if self.over == "ball":
            return (y * z).sum(-1) + data["radius"] * (y**2).sum(-1) ** 0.5
        return (y * z).sum(-1) + library(y).maximum(-data["low"] * y, -data["high"] * y).sum(-1)


def symmetric_factor(M: np.ndarray) -> np.ndarray:
    """R with R'R = (M + M')/2.

    Raises
    ------
    UsageError
        If the symmetric part has a negative eigenvalue (beyond rounding): the operator is not monotone.
    """
    values, vectors = np.linalg.eigh((M + M.T) / 2)
    if values[0] < -ROUNDING * (1 + abs(values).max()):
        raise UsageError(
            f"the operator is not monotone: (M + M')/2 has the eigenvalue {values[0]:.3g}; expected none below zero, "
            "or its gap function is not convex. Add a multiple of the identity to M, or take another operator."
        )
    factor: np.ndarray = np.sqrt(values.clip(0))[:, None] * vectors.T
    return factor


def modulus_of(M: Any) -> float:
    """Modulus of strong monotonicity of z -> M z + q: the least eigenvalue of (M + M')/2.

    Where it is positive, a point z in C with gap g lies within sqrt(g / modulus) of the only solution.
    """
    M = np.asarray(M, dtype=float)
    return float(np.linalg.eigvalsh((M + M.T) / 2)[0])


def _finite(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise UsageError(f"{name} holds NaN or infinite values; expected finite numbers.")
    return array


def _spread(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.broadcast_to(_finite(name, values), shape).copy()
    except ValueError:
        seen = np.shape(values)
        raise UsageError(f"{name} has shape {seen}; expected {shape}.") from None
