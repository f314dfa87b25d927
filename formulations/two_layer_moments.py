"""Two-layer training relaxed to second moments of the hidden units: a convex program below every width.

A network z_i = sum_j a_j phi(x_i'w_j) whose activation is positively homogeneous is a measure on unit vectors: unit j
puts the mass |a_j| |w_j| on u_j = w_j / |w_j|, in the measure "plus" where a_j > 0 and in "minus" where a_j < 0.
Of each measure, with E the integral over it, keep

    R = E 1,    m = E u,    U = E u u',    s_i = E max(x_i'u, 0).

Then phi(t) = left t + (right - left) max(t, 0), with `left` and `right` the slopes of phi on both sides of zero, gives

    z = (right - left) (s_plus - s_minus)  +  left X (m_plus - m_minus),

and weight_decay/2 * sum_j (|w_j|^2 + a_j^2)  >=  weight_decay * (R_plus + R_minus), with equality where |w_j| = |a_j|.
With w_i = 2 s_i - x_i'm = E |x_i'u| and q_i = x_i'U x_i = E (x_i'u)^2, the moments of every network, of any width, meet

    [R m'; m U] >= 0 (PSD),   tr U = R          because it is E (1, u) (1, u)', and |u| = 1
    s_i >= 0,   s_i >= x_i'm                    because max(t, 0) >= 0 and max(t, 0) >= t
    w_i <= sqrt(R q_i)                          Cauchy-Schwarz
    q_i <= |x_i| w_i                            because |x_i'u| <= |x_i|; or the stronger
    |U x_i| <= w_i                              because |E (x_i'u) u| <= E |x_i'u|

and the least value under these constraints is at most the training objective of every network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, ClassVar, Self

import cvxpy as cp
import numpy as np

from .activations import Activation
from .activations import activation as find_activation
from .description import Symbol
from .errors import UsageError
from .lipschitz_regression import one_output_loss, set_data, training_set
from .losses import Loss
from .subproblem import PER_INSTANCE, SHARED, Subproblem, require_nonnegative, require_size

MEASURE = 'Bach, "Breaking the Curse of Dimensionality with Convex Neural Networks", JMLR 18 (2017)'
PRODUCTS = 'Burer & Anstreicher, "Second-Order-Cone Constraints for Extended Trust-Region Subproblems", SIOPT 23 (2013)'
Moments = dict[str, np.ndarray]
SIGNS = {"plus": "+", "minus": "-"}


@dataclass(frozen=True)
class Side:
    """Moments of the hidden units whose output weight has one sign: names as in the opening of the file."""

    sign: str
    R: cp.Variable
    m: cp.Variable
    U: cp.Variable
    s: cp.Variable
    V: cp.Variable
    q: cp.Variable
    w: cp.Variable


class SecondMoments(Subproblem):
    """Training of two layers of any width, relaxed to second moments of the hidden units.

        minimize    loss(z; y)  +  weight_decay (R_plus + R_minus)
        subject to  z = (right - left) (s_plus - s_minus) + left X (m_plus - m_minus)
                    (slopes of the activation; relu: left = 0, right = 1)
        and, for plus and for minus, with w_i = 2 s_i - x_i'm and q_i = x_i'U x_i,
                    [R m'; m U] >= 0,  tr U = R
                    s_i >= 0,  s_i >= x_i'm
                    w_i <= sqrt(R q_i)       (Cauchy-Schwarz; as a cone,
                                             4 w_i^2 + (q_i - R)^2 <= (q_i + R)^2)
                    q_i <= |x_i| w_i         (unit ball)  or  |U x_i| <= w_i  (SOC-RLT)

    Variables   z (samples,)             predictions
    of plus     R, m, U                  mass, first and second moment of the hidden units
    and minus   s, w, q (samples,)       E max(x_i'u, 0), E |x_i'u| and E (x_i'u)^2
                V (samples, features)    row i is U x_i = E (x_i'u) u
    Data        X (samples, features)    inputs; a bias is a column of ones                   shared
                norms (samples,)         |x_i|, where the cut is the unit ball                shared
                y (samples,)             encoded targets of the loss                          per instance
                weight_decay             >= 0                                                 per instance
    Convex because the loss is convex in z and every constraint is affine, a second-order cone or semidefinite. V and w
    are variables tied by equations because x_i'U x_i and |x_i| x_i'm, products of two data, are not DPP.

    In exact arithmetic the optimal value is a lower bound on loss + weight_decay/2 * sum (|w_j|^2 + a_j^2) of EVERY
    network, whatever its width. The value that a solver returns is an *estimate* of that bound and may lie above it. A
    bound is proven by a certificate, see certificates/checker.py. A sample with x_i = 0 leaves a cone without interior,
    where solvers lose accuracy; every network predicts 0 there, so leave it out.
    Source      The measure: Bach, JMLR 18 (2017). SOC-RLT: Burer & Anstreicher, SIAM J. Optim. 23 (2013). The
                relaxation follows from the opening of this file.

    Parameters
    ----------
    samples, features : int
        Rows and columns of X.
    loss : str or Loss
        ``"squared"`` (with its 1/2), ``"logistic"`` (labels 0 and 1), or a Loss of your own with one output.
    activation : str or Activation
        ``"relu"``, ``"leaky_relu(0.1)"``, ``"identity"`` or ``"absolute_value"``: the positively homogeneous ones.
    rlt : bool
        Take the cut |U x_i| <= w_i in place of q_i <= |x_i| w_i: tighter, and (features + 1) numbers a row for one.

    Raises
    ------
    UsageError
        For an unknown loss or one of several outputs, an activation that is not positively homogeneous, or a size
        below 1.

    Examples
    --------
    >>> block = SecondMoments.of([[1.0], [-2.0]], [1.0, 3.0], weight_decay=0.5)
    >>> print(f"{block.program().solve():.4f}")
    1.0938
    """

    name: ClassVar[str] = "two_layer.second_moments"
    source = f"{MEASURE} (the measure); {PRODUCTS} (SOC-RLT)"
    instance = "one training set"

    def __init__(
        self,
        *,
        samples: int = 4,
        features: int = 3,
        loss: str | Loss = "squared",
        activation: str | Activation = "relu",
        rlt: bool = False,
    ) -> None:
        require_size(samples=samples, features=features)
        self.samples, self.features, self.rlt = samples, features, rlt
        self.loss, (self.left, self.right) = one_output_loss(loss), slopes_around_zero(activation)
        self.symbols = self._symbols()
        self.prepare()

    @classmethod
    def of(cls, X: Any, y: Any, *, weight_decay: float, **settings: Any) -> Self:
        """The program of a training set, its parameters set: ``SecondMoments.of(X, y, weight_decay=0.1).program()``.

        To solve a large one once, ``program().solve(ignore_dpp=True)`` saves cvxpy the map from parameters to numbers.

        Parameters
        ----------
        X : array, shape (samples, features)
            Inputs; add a column of ones for a bias.
        y : array, shape (samples,)
            Numbers, or labels 0 and 1 with the logistic loss.
        weight_decay : float
            Factor of half the sum of squares of all weights.
        **settings
            `loss`, `activation`, `rlt`, ...

        Raises
        ------
        UsageError
            For data of the wrong shape, with NaN, or with labels that do not fit the loss.
        """
        X, y = training_set(X, y, one_output_loss(settings.get("loss", "squared")))
        made = cls(samples=X.shape[0], features=X.shape[1], **settings)
        set_data(made, made.data(X, y, weight_decay))
        return made

    def data(self, X: Any, y: Any, weight_decay: float) -> dict[str, np.ndarray]:
        """Name -> array, as `solve` takes it: a batch of one instance.

        Raises
        ------
        UsageError
            For data of the wrong shape, with NaN, or with labels that do not fit the loss, or a negative weight decay.
        """
        X, y = training_set(X, y, self.loss)
        if X.shape != (self.samples, self.features):
            raise UsageError(
                f"X has shape {X.shape}; expected {(self.samples, self.features)}, the samples and features that "
                f"{self.name} was made for: make it with {type(self).__name__}.of(X, y, ...)."
            )
        require_nonnegative(weight_decay=weight_decay)
        data = {"X": X, "y": y[None], "weight_decay": np.array([weight_decay], dtype=float)}
        return data if self.rlt else data | {"norms": np.linalg.norm(X, axis=1)}

    def write(self) -> cp.Problem:
        n, d = self.samples, self.features
        X, y = cp.Parameter((n, d), name="X"), cp.Parameter(n, name="y")
        norms, weight_decay = cp.Parameter(n, nonneg=True, name="norms"), cp.Parameter(nonneg=True, name="weight_decay")
        z, plus, minus = cp.Variable(n, name="z"), self.side("plus"), self.side("minus")

        term = self.loss.model(z, y)
        # The factor 1 keeps the term in one piece: cvxpy would flatten a bare sum into its parent and drop the label.
        loss = (1.0 * self.use(term)).set_label("training loss")
        penalty = (weight_decay * (plus.R + minus.R)).set_label("weight decay")
        tie = (z == self.predictions(X, plus.m - minus.m, plus.s - minus.s)).set_label("predictions")
        sides = [*self.constraints(plus, X, norms), *self.constraints(minus, X, norms)]
        return cp.Problem(cp.Minimize(loss + penalty), [tie, *sides, *term.constraints])

    def side(self, sign: str) -> Side:
        """Variables of one side."""
        n, d = self.samples, self.features
        shapes = {"R": (), "m": (d,), "s": (n,), "V": (n, d), "q": (n,), "w": (n,)}
        made = {name: cp.Variable(shape, name=f"{name}_{sign}") for name, shape in shapes.items()}
        return Side(sign, U=cp.Variable((d, d), name=f"U_{sign}", symmetric=True), **made)

    def constraints(self, side: Side, X: Any, norms: Any) -> list[cp.Constraint]:
        """What the moments of one side meet."""
        R, m, U, s, V, q, w = side.R, side.m, side.U, side.s, side.V, side.q, side.w
        mass, mean = cp.reshape(R, (1, 1), order="C"), cp.reshape(m, (self.features, 1), order="C")
        rows = {
            "positive semidefinite": cp.bmat([[mass, mean.T], [mean, U]]) >> 0,
            "trace": cp.trace(U) == R,
            "activations at least zero": s >= 0,
            "activations at least mean": s >= X @ m,
            "absolute values": w == 2 * s - X @ m,
            "moments along samples": V == X @ U,
            "squares": q == cp.sum(cp.multiply(X, V), axis=1),
            "Cauchy-Schwarz": at_most_root(w, R, q),
        }
        if self.rlt:
            rows["SOC-RLT"] = cp.norm(V, 2, axis=1) <= w
        else:
            rows["unit ball (local)"] = q <= cp.multiply(norms, w)
        return label_side(rows, side.sign)

    def predictions(self, X: Any, m: Any, s: Any) -> Any:
        """z from the differences m_plus - m_minus and s_plus - s_minus, for arrays and for the model alike."""
        parts = ((self.right - self.left, s), (self.left, X @ m))
        return reduce(add, [multiple(factor, part) for factor, part in parts if factor])

    def network_moments(self, data: Mapping[str, np.ndarray], W: Any, a: Any) -> Moments:
        """Values of all variables at a network z = phi(X W') a, at the data that `data` gave: a feasible point.

        Its objective is that of the network with |w_j| = |a_j|, that is loss + weight_decay * sum_j |a_j| |w_j|.
        """
        lengths = np.linalg.norm(W, axis=1)
        units, masses = np.asarray(W) / np.where(lengths > 0, lengths, 1.0)[:, None], lengths * a
        plus = self.side_moments(data, units, np.maximum(masses, 0.0))
        minus = self.side_moments(data, units, np.maximum(-masses, 0.0))
        z = self.predictions(data["X"], plus["m"] - minus["m"], plus["s"] - minus["s"])
        sides = {f"{name}_{sign}": v for sign, side in (("plus", plus), ("minus", minus)) for name, v in side.items()}
        return {"z": z, **sides}

    def side_moments(self, data: Mapping[str, np.ndarray], units: np.ndarray, masses: np.ndarray) -> Moments:
        """Moments of the measure that puts these masses on these unit vectors (rows)."""
        X, R, m, U = data["X"], masses.sum(), masses @ units, (units.T * masses) @ units
        s, V = np.maximum(X @ units.T, 0.0) @ masses, X @ U
        return {"R": R, "m": m, "U": U, "s": s, "w": 2 * s - X @ m, "V": V, "q": (X * V).sum(1)}

    def _symbols(self) -> tuple[Symbol, ...]:
        moments = [
            Symbol(f"{name}_{sign}", meaning, PER_INSTANCE, f"{name}_{{{mark}}}")
            for sign, mark in SIGNS.items()
            for name, meaning in self.moment_meanings().items()
        ]
        return (Symbol("z", "predictions", PER_INSTANCE, r"\mathbf{z}"), *moments, *self.data_meanings())

    def moment_meanings(self) -> dict[str, str]:
        """Name -> meaning of the variables of one side."""
        return {
            "R": "mass E 1",
            "m": "first moment E u",
            "U": "second moment E u u'",
            "s": "activations E max(x_i'u, 0)",
            "w": "absolute values E |x_i'u|",
            "V": "rows U x_i = E (x_i'u) u",
            "q": "squares E (x_i'u)^2",
        }

    def data_meanings(self) -> list[Symbol]:
        """The symbols of the data."""
        symbols = [
            Symbol("X", "inputs, samples as rows", SHARED, r"\mathbf{X}"),
            Symbol("y", "encoded targets of the loss", PER_INSTANCE, r"\mathbf{y}"),
            Symbol("weight_decay", "price of the mass", PER_INSTANCE, r"\beta"),
        ]
        return symbols if self.rlt else [*symbols, Symbol("norms", "|x_i|", SHARED, r"\mathbf{r}")]


def multiple(factor: float, part: Any) -> Any:
    """Factor times part, as one would write it."""
    return part if factor == 1 else -part if factor == -1 else factor * part


def at_most_root(w: Any, R: Any, q: Any) -> cp.Constraint:
    """The rows w_i <= sqrt(R q_i), as 4 w_i^2 + (q_i - R)^2 <= (q_i + R)^2: a form that has a value at R = 0 too."""
    return cp.SOC(q + R, cp.vstack([2 * w, q - R]), axis=0)


def label_side(rows: dict[str, cp.Constraint], sign: str) -> list[cp.Constraint]:
    """The constraints of one side, each labelled with its name, the sign and, where there are several, the output."""
    name, _, output = sign.partition("_")
    mark = SIGNS[name] + (f", output {output}" if output else "")
    return [constraint.set_label(f"{label} ({mark})") for label, constraint in rows.items()]


def slopes_around_zero(activation: str | Activation) -> tuple[float, float]:
    """Slopes of a positively homogeneous activation for negative and for positive arguments.

    Raises
    ------
    UsageError
        If the activation is not positively homogeneous.
    """
    if activation == "absolute_value":
        return -1.0, 1.0
    found = find_activation(activation)
    if not found.homogeneous:
        raise UsageError(
            f"the activation {found.label!r} is not positively homogeneous, so that weight decay is no price on the "
            "mass of a unit; expected 'relu', 'leaky_relu(0.1)', 'identity' or 'absolute_value'. For other "
            "1-Lipschitz activations with phi(0) = 0 take deep.lipschitz_regression."
        )
    below, above = found.phi(np.array([-1.0, 1.0]))
    return -float(below), float(above)
