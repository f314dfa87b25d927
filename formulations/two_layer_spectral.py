"""Two-layer training relaxed to the one inequality that needs no more than a norm of the data.

Let Z = phi(X W') A be the predictions of a network with hidden weights w_j (rows of W), output weights a_j (rows of A)
and an activation with |phi(t)| <= |t|. For a unit vector u, |phi(X u)| <= |X u| <= |X|_2, the largest singular value.
So Z is a sum of matrices phi(X w_j) a_j' of rank one, whose nuclear norms are at most |X|_2 |w_j| |a_j|:

    |Z|_*  <=  |X|_2 R,      R = sum_j |a_j| |w_j|  <=  sum_j (|w_j|^2 + |a_j|^2) / 2 .

With one output the nuclear norm is the length of Z.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import cvxpy as cp
import numpy as np

from .description import Symbol
from .errors import UsageError
from .lipschitz_regression import checked_inputs, set_data
from .losses import Loss, find_loss
from .subproblem import PER_INSTANCE, SHARED, Subproblem, require_nonnegative, require_size


class SpectralRegression(Subproblem):
    """Training of two layers of any width and number of outputs, relaxed to a bound on the norm of all predictions.

        minimize    loss(Z; Y)  +  weight_decay R
        subject to  |Z|_* <= R |X|_2             (nuclear norm; with one output the Euclidean norm)

    Variables   Z (samples, outputs)     predictions
                R                        sum of |a_j| |w_j| over the hidden units
    Data        spectral_norm            |X|_2, largest singular value                        shared
                Y (samples, outputs)     encoded targets of the loss                          per instance
                weight_decay             >= 0                                                 per instance
    Convex because the loss is convex in Z, and a norm is bounded by an affine expression.

    In exact arithmetic the optimal value is a lower bound on loss + weight_decay/2 * sum (|w_j|^2 + |a_j|^2) of EVERY
    network, whatever its width, for activations with |phi(t)| <= |t|. It is a weak one: nothing of X but its largest
    singular value enters. A solver's value is an *estimate* of it and may lie above.
    Source      Srebro, Rennie & Jaakkola, "Maximum-Margin Matrix Factorization", NeurIPS 2004 (the nuclear norm as the
                least sum of products of lengths); the rest follows from the opening of this file.

    Parameters
    ----------
    samples, outputs : int
        Rows and columns of Y.
    loss : str or Loss
        ``"squared"`` (with its 1/2), ``"logistic"`` (one output, labels 0 and 1) or ``"softmax_cross_entropy"``.

    Raises
    ------
    UsageError
        For an unknown loss, several outputs of the logistic one, or a size below 1.

    Examples
    --------
    >>> block = SpectralRegression.of([[2.0, 0.0], [0.0, 1.0]], [3.0, 4.0], weight_decay=2.0)
    >>> print(f"{block.program().solve():.4f}")
    4.5000
    """

    name: ClassVar[str] = "two_layer.spectral"
    source = 'Srebro, Rennie & Jaakkola, "Maximum-Margin Matrix Factorization", NeurIPS 2004 (the nuclear norm)'
    instance = "one training set"

    def __init__(self, *, samples: int = 4, outputs: int = 1, loss: str | Loss = "squared") -> None:
        require_size(samples=samples, outputs=outputs)
        self.samples, self.outputs, self.loss = samples, outputs, find_loss(loss)
        if self.loss.name == "logistic" and outputs > 1:
            raise UsageError(f"the logistic loss has one output, not {outputs}; expected 'softmax_cross_entropy'.")
        self.symbols = (
            Symbol("Z", "predictions", PER_INSTANCE, r"\mathbf{Z}"),
            Symbol("R", "sum of |a_j| |w_j|", PER_INSTANCE),
            Symbol("Y", "encoded targets of the loss", PER_INSTANCE, r"\mathbf{Y}"),
            Symbol("weight_decay", "price of R", PER_INSTANCE, r"\beta"),
            Symbol("spectral_norm", "largest singular value of X", SHARED, r"\sigma"),
        )
        self.prepare()

    @classmethod
    def of(cls, X: Any, y: Any, *, weight_decay: float, loss: str | Loss = "squared") -> Self:
        """The program of a training set, its parameters set.

        Parameters
        ----------
        X : array, shape (samples, features)
            Inputs; add a column of ones for a bias.
        y : array, shape (samples,) or (samples, outputs)
            Numbers; labels 0 and 1 with the logistic loss, from 0 with the softmax cross-entropy.
        weight_decay : float
            Factor of half the sum of squares of all weights.
        loss : str or Loss

        Raises
        ------
        UsageError
            For data of the wrong shape, with NaN, or with labels that do not fit the loss.
        """
        X, y, found = checked_inputs(X), np.asarray(y), find_loss(loss)
        outputs = int(np.max(y)) + 1 if found.activation.couples_units else int(np.prod(y.shape[1:]))
        made = cls(samples=len(X), outputs=outputs, loss=found)
        set_data(made, made.data(X, y, weight_decay))
        return made

    def data(self, X: Any, y: Any, weight_decay: float) -> dict[str, np.ndarray]:
        """Name -> array, as `solve` takes it: a batch of one instance.

        Raises
        ------
        UsageError
            For data of the wrong shape, with NaN, or with labels that do not fit the loss, or a negative weight decay.
        """
        X, targets = checked_inputs(X), self.loss.encode(y, self.outputs)
        if not len(X) == len(targets) == self.samples:
            raise UsageError(
                f"X has {len(X)} rows and y {len(targets)} targets; expected {self.samples} of each, the samples that "
                f"{self.name} was made for: make it with SpectralRegression.of(X, y, ...)."
            )
        require_nonnegative(weight_decay=weight_decay)
        return {
            "Y": targets[None], "weight_decay": np.array([weight_decay], dtype=float),
            "spectral_norm": np.array(np.linalg.norm(X, 2)),
        }  # fmt: skip

    def write(self) -> cp.Problem:
        shape = self.samples, self.outputs
        Z, R = cp.Variable(shape, name="Z"), cp.Variable(name="R")
        Y, weight_decay = cp.Parameter(shape, name="Y"), cp.Parameter(nonneg=True, name="weight_decay")
        spectral_norm = cp.Parameter(nonneg=True, name="spectral_norm")
        # The factor 1 keeps the term in one piece: cvxpy would flatten a bare sum into its parent and drop the label.
        loss = (1.0 * self.training_loss(Z, Y)).set_label("training loss")
        penalty = (weight_decay * R).set_label("weight decay")
        size = cp.norm(Z, "fro") if self.outputs == 1 else cp.norm(Z, "nuc")
        rows = [(R >= 0).set_label("nonnegative R"), (size <= R * spectral_norm).set_label("all predictions")]
        return cp.Problem(cp.Minimize(loss + penalty), rows)

    def training_loss(self, Z: Any, Y: Any) -> Any:
        """The sum of the losses of all samples."""
        if self.loss.name == "squared":
            return 0.5 * cp.sum_squares(Z - Y)
        if self.loss.name == "logistic":
            return cp.sum(cp.logistic(Z)) - cp.sum(cp.multiply(Y, Z))
        return cp.sum(cp.log_sum_exp(Z, axis=1)) - cp.sum(cp.multiply(Y, Z))
