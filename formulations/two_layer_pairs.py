"""Second moments of the hidden units with paired samples: a tighter convex program below every width.

Second moments alone (two_layer_moments.py) let neighbours with opposite targets go their own ways. But the absolute
value is subadditive and positively homogeneous: where a sample is nearly a conic combination of others,

    x_i = sum_j c_j x_j + delta,   c_j >= 0:      |x_i'u|  <=  sum_j c_j |x_j'u|  +  |delta'u|.

Integrated over the hidden units of one side, with w_i = E |x_i'u|, and by Cauchy-Schwarz on delta,

    w_i - sum_j c_j w_j  <=  E |delta'u|  <=  sqrt(R delta'U delta).

For one partner and in terms of s_i = E max(x_i'u, 0) this is 2 (s_i - c s_j) - delta'm <= sqrt(R delta'U delta).

Row k of the matrix P holds pair k, 1 at i and -c_j at the partners, so that delta_k' is row k of P X and the left side
is P w. It is written for delta of length one, with l_k = |delta_k|:

    row k of P w  <=  l_k t_k,     t_k <= sqrt(R p_k),     l_k^2 p_k = delta_k'U delta_k.

Where delta = 0, as for samples that occur twice, the cone t <= sqrt(R delta'U delta) has no interior, and solvers lose
their accuracy. This one always has: there p_k and t_k are free of U, and only "row k of P w <= 0" is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import cvxpy as cp
import numpy as np

from .activations import Activation
from .description import Description, Symbol
from .errors import UsageError
from .lipschitz_regression import one_output_loss, training_set
from .losses import Loss
from .sample_pairs import Pairs, nearest_pairs
from .subproblem import SHARED, require_size
from .two_layer_moments import Moments, SecondMoments, Side, at_most_root, label_side


class PairedMoments(SecondMoments):
    """Training of two layers of any width, relaxed to second moments with paired samples.

        minimize    loss(z; y)  +  weight_decay (R_plus + R_minus)
        subject to  z = (right - left) (s_plus - s_minus) + left X (m_plus - m_minus)
                    (slopes of the activation; relu: left = 0, right = 1)
        and, for plus and for minus, with w_i = 2 s_i - x_i'm and q_i = x_i'U x_i,
                    [R m'; m U] >= 0,  tr U = R
                    s_i >= 0,  s_i >= x_i'm
                    w_i <= sqrt(R q_i)       (Cauchy-Schwarz; as a cone,
                                             4 w_i^2 + (q_i - R)^2 <= (q_i + R)^2)
                    q_i <= |x_i| w_i         (unit ball)  or  |U x_i| <= w_i  (SOC-RLT)
        and, for every pair, with delta = x_i - sum_j c_j x_j,
                    w_i - sum_j c_j w_j <= |delta| t,  t <= sqrt(R p),
                    |delta|^2 p = delta'U delta

    Variables   those of two_layer.second_moments, and, of plus and minus,
                t, p (pairs,)            E |d'u| and E (d'u)^2 for d = delta / |delta|
    Data        those of two_layer.second_moments, and
                lengths (pairs,)         |delta|, delta' a row of P X                     shared
                squared_lengths (pairs,) |delta|^2                                        shared
    Constant    P (pairs, samples)       1 at i and -c_j at its partners, fixed when the object is made
    Convex for the reasons given there.

    The optimal value is never below that of two_layer.second_moments, and in exact arithmetic still a lower bound on
    loss + weight_decay/2 * sum (|w_j|^2 + a_j^2) of EVERY network, whatever its width. The value that a solver returns
    is an *estimate* of that bound and may lie above it. A bound is proven by a certificate: certificates/checker.py.
    Source      As two_layer.second_moments; the pairs follow from the opening of this file.

    Parameters
    ----------
    samples, features, loss, activation, rlt
        As in two_layer.second_moments.
    pairs : Pairs, or array, shape (pairs, samples), or None
        The matrix P, dense or sparse; in every row one entry above zero, the others at most zero. Every such matrix is
        valid; `nearest_pairs` makes one that fits the data. None pairs each sample with the next one, c = 1.

    Raises
    ------
    UsageError
        As in two_layer.second_moments, and for a matrix of pairs of the wrong shape or with wrong signs.

    Examples
    --------
    >>> X, y = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [1.0, -1.0, 0.5]
    >>> for block in (SecondMoments, PairedMoments):
    ...     print(f"{block.of(X, y, weight_decay=0.1).program().solve():.4f}")
    0.8088
    1.0452
    """

    name: ClassVar[str] = "two_layer.paired_moments"

    def __init__(
        self,
        *,
        samples: int = 4,
        features: int = 3,
        loss: str | Loss = "squared",
        activation: str | Activation = "relu",
        rlt: bool = False,
        pairs: Any = None,
    ) -> None:
        require_size(samples=samples)
        self.pairs = checked_pairs(np.eye(samples)[:-1] - np.eye(samples)[1:] if pairs is None else pairs, samples)
        self.count = int(self.pairs.shape[0])
        super().__init__(samples=samples, features=features, loss=loss, activation=activation, rlt=rlt)

    @classmethod
    def of(cls, X: Any, y: Any, *, weight_decay: float, pairs: Any = None, **settings: Any) -> Self:
        """The program of a training set, its parameters set; without `pairs` those of `nearest_pairs`."""
        if pairs is None:
            pairs = nearest_pairs(*training_set(X, y, one_output_loss(settings.get("loss", "squared"))))
        return super().of(X, y, weight_decay=weight_decay, pairs=pairs, **settings)

    def data(self, X: Any, y: Any, weight_decay: float) -> dict[str, np.ndarray]:
        data = super().data(X, y, weight_decay)
        if not self.count:
            return data
        lengths = np.linalg.norm(self.pairs @ data["X"], axis=1)
        return data | {"lengths": lengths, "squared_lengths": lengths**2}

    def write(self) -> cp.Problem:
        self.name_pairs()
        return super().write()

    def name_pairs(self) -> None:
        """Make what the constraints of pairs are written with."""
        self.P = cp.Constant(self.pairs, name="P")
        self.lengths = cp.Parameter(self.count, nonneg=True, name="lengths")
        self.squared_lengths = cp.Parameter(self.count, nonneg=True, name="squared_lengths")

    def constraints(self, side: Side, X: Any, norms: Any) -> list[cp.Constraint]:
        found = super().constraints(side, X, norms)
        if not self.count:
            return found
        P, t = self.P, cp.Variable(self.count, name=f"t_{side.sign}")
        p = cp.Variable(self.count, name=f"p_{side.sign}")
        rows = {
            "pairs": P @ side.w <= cp.multiply(self.lengths, t),
            # Rows of P X and P V are delta' and (U delta)'.
            "squares of pairs": cp.multiply(self.squared_lengths, p) == cp.sum(cp.multiply(P @ X, P @ side.V), axis=1),
            "Cauchy-Schwarz of pairs": at_most_root(t, side.R, p),
        }
        return [*found, *label_side(rows, side.sign)]

    def side_moments(self, data: Mapping[str, np.ndarray], units: np.ndarray, masses: np.ndarray) -> Moments:
        moments = super().side_moments(data, units, masses)
        if not self.count:
            return moments
        along = abs((self.pairs @ data["X"]) @ units.T) / np.where(data["lengths"] > 0, data["lengths"], 1.0)[:, None]
        return moments | {"t": along @ masses, "p": along**2 @ masses}

    def moment_meanings(self) -> dict[str, str]:
        pairs = {"t": "of pairs, E |d'u|", "p": "of pairs, E (d'u)^2"}
        return super().moment_meanings() | (pairs if self.count else {})

    def data_meanings(self) -> list[Symbol]:
        pairs = [
            Symbol("lengths", "|delta|, row lengths of P X", SHARED, r"\boldsymbol{\ell}"),
            Symbol("squared_lengths", "|delta|^2", SHARED, r"\boldsymbol{\ell}^{2}"),
        ]
        return super().data_meanings() + (pairs if self.count else [])

    def describe(self) -> Description:
        known = super().describe()
        pairs = Symbol("P", "1 at i, -c_j at its partners", SHARED)
        return replace(known, symbols=(*known.symbols, pairs))


def checked_pairs(pairs: Any, samples: int) -> Any:
    """The matrix of pairs: that of `Pairs`, or an array or a sparse matrix as it was given.

    Raises
    ------
    UsageError
        If the shape does not fit, or a row has not exactly one entry above zero.
    """
    pairs = pairs.matrix if isinstance(pairs, Pairs) else pairs
    sparse = hasattr(pairs, "toarray")
    found: Any = pairs if sparse else np.asarray(pairs)
    entries = found.data if sparse else found
    if found.ndim != 2 or found.shape[1] != samples or entries.dtype.kind not in "biuf":
        raise UsageError(
            f"pairs has shape {found.shape} and type {entries.dtype}; expected numbers of shape (pairs, {samples}), "
            "one column for each sample: make them with nearest_pairs(X, y)."
        )
    if not np.isfinite(entries).all():
        raise UsageError("pairs holds NaN or infinite values; expected 1 at a sample and -c <= 0 at its partners.")
    positive = np.asarray((found > 0).sum(axis=1)).ravel()
    if (positive != 1).any():
        row = int(np.flatnonzero(positive != 1)[0])
        raise UsageError(
            f"row {row} of pairs has {positive[row]} entries above zero; expected exactly one, at the sample that is "
            "paired, and -c <= 0 at its partners: for other signs the constraint would not hold for every network."
        )
    return found
