"""Two-layer training with several outputs, relaxed to paired moments of each output by itself.

With K outputs the output weights a_j of f(x) = sum_j a_j phi(w_j'x) are vectors, and the penalty is

    weight_decay/2 sum_j (|w_j|^2 + |a_j|^2)  >=  weight_decay sum_j |a_j| |w_j| .

Output k alone is a network of one output with the output weights a_jk. Its mass is R_k = sum_j |a_jk| |w_j|, and

    (R_1^2 + ... + R_K^2)^(1/2)  <=  sum_j |w_j| (a_j1^2 + ... + a_jK^2)^(1/2)  =  sum_j |a_j| |w_j|

by the triangle inequality. So with the moments of each output as in two_layer_moments.py and two_layer_pairs.py, and
the length of (R_1, ..., R_K) as the price, the optimal value is below every network. Networks whose neurons feed one
output each and those that share them cost the same here: up to a factor of K^(1/2) in the weight decay is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import cvxpy as cp
import numpy as np

from .activations import Activation
from .description import Symbol
from .errors import UsageError
from .lipschitz_regression import checked_inputs, set_data
from .losses import Loss, find_loss
from .sample_pairs import nearest_pairs
from .subproblem import PER_INSTANCE, require_nonnegative, require_size
from .two_layer_moments import SIGNS, Moments
from .two_layer_pairs import PairedMoments


class OutputMoments(PairedMoments):
    """Training of two layers of any width with several outputs, relaxed to paired moments of each output.

        minimize    loss(Z; Y)  +  weight_decay (R_1^2 + ... + R_K^2)^(1/2),     R_k = R_plus_k + R_minus_k
        subject to  for every output k, with the slopes of the activation (relu: left = 0, right = 1),
                    Z_k = (right - left) (s_plus_k - s_minus_k) + left X (m_plus_k - m_minus_k)
                    and the constraints of two_layer.paired_moments on R, m, U, s, V, q, w, t, p of plus_k and minus_k

    Variables   Z (samples, outputs)     predictions
    of plus_k   those of two_layer.paired_moments
    and minus_k
    Data        X, norms, lengths, squared_lengths, as in two_layer.paired_moments            shared
                Y (samples, outputs)     encoded targets of the loss                          per instance
                weight_decay             >= 0                                                 per instance
    Constant    P (pairs, samples)       as in two_layer.paired_moments
    Convex for the reasons given there, and because a norm of affine expressions is convex.

    In exact arithmetic the optimal value is a lower bound on loss + weight_decay/2 * sum (|w_j|^2 + |a_j|^2) of EVERY
    network, whatever its width; a solver's value is an *estimate* of it. Where outputs want the same neurons it is low,
    by what a factor of at most the root of K in the weight decay makes. Proofs: certificates/checker.py.
    Source      As two_layer.paired_moments; the outputs follow from the opening of this file.

    Parameters
    ----------
    outputs : int
        K.
    samples, features, activation, rlt, pairs
        As in two_layer.paired_moments.
    loss : str
        ``"squared"`` (with its 1/2) or ``"softmax_cross_entropy"`` (labels 0 to K - 1).

    Raises
    ------
    UsageError
        As there, and for another loss.

    Examples
    --------
    >>> block = OutputMoments.of([[1.0], [-2.0]], [[1.0, 0.0], [3.0, 1.0]], weight_decay=0.5)
    >>> print(f"{block.program().solve():.4f}")
    1.1244
    """

    name: ClassVar[str] = "two_layer.output_moments"

    def __init__(
        self,
        *,
        samples: int = 4,
        features: int = 3,
        outputs: int = 2,
        loss: str | Loss = "squared",
        activation: str | Activation = "relu",
        rlt: bool = False,
        pairs: Any = None,
    ) -> None:
        require_size(outputs=outputs)
        self.outputs, self.several = outputs, outputs_loss(loss)
        super().__init__(samples=samples, features=features, activation=activation, rlt=rlt, pairs=pairs)

    @classmethod
    def of(cls, X: Any, y: Any, *, weight_decay: float, pairs: Any = None, **settings: Any) -> Self:
        """The program of a training set, its parameters set.

        Parameters
        ----------
        X : array, shape (samples, features)
            Inputs; add a column of ones for a bias.
        y : array, shape (samples, outputs) or (samples,)
            Numbers, or labels from 0 with the softmax cross-entropy.
        weight_decay : float
            Factor of half the sum of squares of all weights.
        pairs : as in the class
            None takes the nearest neighbours, `nearest_pairs(X)`.
        **settings
            `loss`, `activation`, `rlt`.

        Raises
        ------
        UsageError
            For data of the wrong shape, with NaN, or with labels that do not fit the loss.
        """
        X, y = checked_inputs(X), np.asarray(y)
        loss = outputs_loss(settings.get("loss", "squared"))
        outputs = int(np.max(y)) + 1 if loss.activation.couples_units else int(np.prod(y.shape[1:]))
        made = cls(
            samples=X.shape[0], features=X.shape[1], outputs=outputs,
            pairs=nearest_pairs(X) if pairs is None else pairs, **settings,
        )  # fmt: skip
        set_data(made, made.data(X, y, weight_decay))
        return made

    def data(self, X: Any, y: Any, weight_decay: float) -> dict[str, np.ndarray]:
        targets = self.several.encode(y, self.outputs)
        if len(targets) != len(checked_inputs(X)):
            raise UsageError(f"y has {len(targets)} targets, but X has {len(X)} rows; expected one for each row of X.")
        require_nonnegative(weight_decay=weight_decay)
        found = super().data(X, targets[:, 0], weight_decay)
        return {name: value for name, value in found.items() if name != "y"} | {"Y": targets[None]}

    def write(self) -> cp.Problem:
        n, d, K = self.samples, self.features, self.outputs
        self.name_pairs()
        X, Y = cp.Parameter((n, d), name="X"), cp.Parameter((n, K), name="Y")
        norms, weight_decay = cp.Parameter(n, nonneg=True, name="norms"), cp.Parameter(nonneg=True, name="weight_decay")
        Z, rows, masses = cp.Variable((n, K), name="Z"), [], []
        for k in range(K):
            plus, minus = self.side(f"plus_{k}"), self.side(f"minus_{k}")
            tie = Z[:, k] == self.predictions(X, plus.m - minus.m, plus.s - minus.s)
            rows += [tie.set_label(f"predictions (output {k})")]
            rows += [*self.constraints(plus, X, norms), *self.constraints(minus, X, norms)]
            masses.append(plus.R + minus.R)
        if self.several.activation.couples_units:
            value = cp.sum(cp.log_sum_exp(Z, axis=1)) - cp.sum(cp.multiply(Y, Z))
        else:
            value = 0.5 * cp.sum_squares(Z - Y)
        # The factor 1 keeps the term in one piece: cvxpy would flatten a bare sum into its parent and drop the label.
        loss = (1.0 * value).set_label("training loss")
        penalty = (weight_decay * cp.norm(cp.hstack(masses), 2)).set_label("weight decay")
        return cp.Problem(cp.Minimize(loss + penalty), rows)

    def network_moments(self, data: Mapping[str, np.ndarray], W: Any, a: Any) -> Moments:
        """Values of all variables at a network Z = phi(X W') a, a of shape (neurons, outputs): a feasible point."""
        found: Moments = {}
        columns = [super(OutputMoments, self).network_moments(data, W, column) for column in np.transpose(a)]
        for k, column in enumerate(columns):
            found |= {f"{name}_{k}": value for name, value in column.items() if name != "z"}
        return {"Z": np.column_stack([column["z"] for column in columns])} | found

    def _symbols(self) -> tuple[Symbol, ...]:
        moments = [
            Symbol(f"{name}_{sign}_{k}", meaning, PER_INSTANCE, f"{name}_{{{mark} {k}}}")
            for k in range(self.outputs)
            for sign, mark in SIGNS.items()
            for name, meaning in self.moment_meanings().items()
        ]
        known = {symbol.name: symbol for symbol in self.data_meanings()}
        known["y"] = Symbol("Y", "encoded targets of the loss", PER_INSTANCE, r"\mathbf{Y}")
        return (Symbol("Z", "predictions", PER_INSTANCE, r"\mathbf{Z}"), *moments, *known.values())


def outputs_loss(which: str | Loss) -> Loss:
    """The loss of a name, where it is the squared loss or the softmax cross-entropy.

    Raises
    ------
    UsageError
        For any other.
    """
    loss = find_loss(which)
    if loss.name not in ("squared", "softmax_cross_entropy"):
        raise UsageError(
            f"the loss {loss.name!r} is not one of several outputs; expected 'squared' or 'softmax_cross_entropy'."
        )
    return loss
