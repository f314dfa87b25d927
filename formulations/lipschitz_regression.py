"""Training at any depth relaxed to Lipschitz regression: a convex program below every width and depth.

A network z_i = f(x_i) of matrices W_1, ..., W_L, whose activations are 1-Lipschitz with phi(0) = 0, stretches no
distance by more than R = |W_1| ... |W_L| (Frobenius norms). Without biases f(0) = 0 too, and |f(X)| <= R |X|_2, because
|phi(X W_1')| <= |X|_2 |W_1| and no later layer stretches more than its norm. Hence every network meets

    |z_i - z_j| <= R |x_i - x_j|,     |z_i| <= R |x_i|,     |z| <= R |X|_2,

the last two only without biases; with them the differences remain, R the product of the norms of the matrices alone.

By the inequality of arithmetic and geometric means weight decay is a price on R:

    weight_decay/2 * sum_l |W_l|^2  >=  weight_decay * L/2 * R^(2/L),      for two layers weight_decay * R.

With v(price) the optimal value of the program below, every network has loss >= v(price) - price * R, for every price.
For more than two layers that gives the bound

    min over R >= 0 of   max over prices of (v(price) - price * R)  +  weight_decay * L/2 * R^(2/L),

a problem in one number, solved where certificates are made. Samples that coincide but for their targets keep the loss
above zero at any R: what label noise costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import cvxpy as cp
import numpy as np

from .description import Description, Symbol
from .errors import UsageError
from .losses import Loss, find_loss
from .subproblem import PER_INSTANCE, SHARED, Subproblem, require_nonnegative, require_size


class LipschitzRegression(Subproblem):
    """Training of networks of any depth and width, relaxed to Lipschitz regression.

        minimize    loss(z; y)  +  price R
        subject to  |z_i - z_j| <= R |x_i - x_j|     for the chosen pairs (i, j)
                    |z_i| <= R |x_i|                 without biases
                    |z| <= R |X|_2                   without biases

    Variables   z (samples,)             predictions
                R                        product of the norms of all weight matrices, a Lipschitz constant
    Data        distances (edges,)       |x_i - x_j| of the chosen pairs                      shared
                norms (samples,)         |x_i|, without biases                                shared
                spectral_norm            |X|_2, largest singular value, without biases        shared
                y (samples,)             encoded targets of the loss                          per instance
                price                    >= 0, of one unit of R                               per instance
    Constant    E (edges, samples)       1 at i and -1 at j for every chosen pair, fixed when the object is made
    Convex because the loss is convex in z, and norms of affine expressions are bounded by affine ones.

    Holds for 1-Lipschitz activations with phi(0) = 0 (relu, leaky_relu, tanh, ...). In exact arithmetic
    value - price * R is a lower bound on the loss of EVERY network whose norms have the product R; with two layers and
    price = weight_decay, the value itself is one on its training objective. The value that a solver returns is an
    *estimate* of it and may lie above. A bound is proven by a certificate, see certificates/checker.py.
    Source      von Luxburg & Bousquet, "Distance-Based Classification with Lipschitz Functions", JMLR 5 (2004); that
                every network is a feasible point follows from the opening of this file.

    Parameters
    ----------
    samples : int
        Rows of X.
    loss : str or Loss
        ``"squared"`` (with its 1/2), ``"logistic"`` (labels 0 and 1), or a Loss of your own with one output.
    biases : bool
        Whether the networks have biases: then only the differences hold. (A bias that weight decay includes may
        instead be a column of ones in X.)
    edges : array of int, shape (edges, 2), or None
        The pairs (i, j) whose difference is bounded; None takes all.

    Raises
    ------
    UsageError
        For an unknown loss or one of several outputs, a size below 1, or pairs that are no pairs of samples.

    Examples
    --------
    >>> X, y = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [1.0, -1.0, 0.5]
    >>> print(f"{LipschitzRegression.of(X, y, price=0.0).program().solve():.4f}")
    1.0000
    """

    name: ClassVar[str] = "deep.lipschitz_regression"
    source = (
        'von Luxburg & Bousquet, "Distance-Based Classification with Lipschitz Functions", JMLR 5 (2004) (the program)'
    )
    instance = "one training set"

    def __init__(
        self, *, samples: int = 4, loss: str | Loss = "squared", biases: bool = False, edges: Any = None
    ) -> None:
        require_size(samples=samples)
        self.samples, self.loss, self.biases = samples, one_output_loss(loss), biases
        self.edges = checked_edges(np.transpose(np.triu_indices(samples, 1)) if edges is None else edges, samples)
        self.symbols = self._symbols()
        self.prepare()

    @classmethod
    def of(cls, X: Any, y: Any, *, price: float, **settings: Any) -> Self:
        """The program of a training set, its parameters set.

        Parameters
        ----------
        X : array, shape (samples, features)
            Inputs.
        y : array, shape (samples,)
            Numbers, or labels 0 and 1 with the logistic loss.
        price : float
            Price of one unit of R; for two layers the weight decay.
        **settings
            `loss`, `biases`, `edges`.

        Raises
        ------
        UsageError
            For data of the wrong shape, with NaN, or with labels that do not fit the loss.
        """
        X, y = training_set(X, y, one_output_loss(settings.get("loss", "squared")))
        made = cls(samples=X.shape[0], **settings)
        set_data(made, made.data(X, y, price))
        return made

    def data(self, X: Any, y: Any, price: float) -> dict[str, np.ndarray]:
        """Name -> array, as `solve` takes it: a batch of one instance.

        Raises
        ------
        UsageError
            For data of the wrong shape, with NaN, or with labels that do not fit the loss, or a negative price.
        """
        X, y = training_set(X, y, self.loss)
        if len(X) != self.samples:
            raise UsageError(
                f"X has {len(X)} rows; expected {self.samples}, the samples that {self.name} was made for: make it "
                "with LipschitzRegression.of(X, y, ...)."
            )
        require_nonnegative(price=price)
        data = {"y": y[None], "price": np.array([price], dtype=float)}
        if len(self.edges):
            data["distances"] = np.linalg.norm(X[self.edges[:, 0]] - X[self.edges[:, 1]], axis=1)
        if not self.biases:
            data |= {"norms": np.linalg.norm(X, axis=1), "spectral_norm": np.linalg.norm(X, 2)}
        return data

    def write(self) -> cp.Problem:
        n, count = self.samples, len(self.edges)
        z, R = cp.Variable(n, name="z"), cp.Variable(name="R")
        y, price = cp.Parameter(n, name="y"), cp.Parameter(nonneg=True, name="price")

        term = self.loss.model(z, y)
        # The factor 1 keeps the term in one piece: cvxpy would flatten a bare sum into its parent and drop the label.
        loss = (1.0 * self.use(term)).set_label("training loss")
        stretching = (price * R).set_label("price of R")
        rows = {"nonnegative R": R >= 0}
        if count:
            E = cp.Constant(incidence(self.edges, n), name="E")
            distances = cp.Parameter(count, nonneg=True, name="distances")
            rows["differences"] = cp.abs(E @ z) <= R * distances
        if not self.biases:
            norms = cp.Parameter(n, nonneg=True, name="norms")
            spectral_norm = cp.Parameter(nonneg=True, name="spectral_norm")
            rows["each prediction"] = cp.abs(z) <= R * norms
            rows["all predictions"] = cp.norm(z, 2) <= R * spectral_norm
        labelled = [constraint.set_label(label) for label, constraint in rows.items()]
        return cp.Problem(cp.Minimize(loss + stretching), [*labelled, *term.constraints])

    def describe(self) -> Description:
        known = super().describe()
        edges = Symbol("E", "differences: 1 at i, -1 at j", SHARED)
        return replace(known, symbols=(*known.symbols, edges))

    def _symbols(self) -> tuple[Symbol, ...]:
        symbols = [
            Symbol("z", "predictions", PER_INSTANCE, r"\mathbf{z}"),
            Symbol("R", "product of the weights' norms", PER_INSTANCE),
            Symbol("y", "encoded targets of the loss", PER_INSTANCE, r"\mathbf{y}"),
            Symbol("price", "price of one unit of R", PER_INSTANCE, r"\pi"),
        ]
        if len(self.edges):
            symbols.append(Symbol("distances", "|x_i - x_j|", SHARED, r"\mathbf{d}"))
        if not self.biases:
            symbols.append(Symbol("norms", "|x_i|", SHARED, r"\mathbf{r}"))
            symbols.append(Symbol("spectral_norm", "largest singular value of X", SHARED, r"\sigma"))
        return tuple(symbols)


def nearest_edges(X: Any, neighbours: int = 10) -> np.ndarray:
    """Pairs (i, j), i < j, of samples one of which is among the `neighbours` nearest of the other.

    Raises
    ------
    UsageError
        If `neighbours` is no whole number of at least 1, or X has the wrong shape.

    Examples
    --------
    >>> nearest_edges([[0.0], [1.0], [5.0]], neighbours=1).tolist()
    [[0, 1], [1, 2]]
    """
    require_size(neighbours=neighbours)
    X = checked_inputs(X)
    found = set()
    for i, x in enumerate(X):
        distances = np.linalg.norm(X - x, axis=1)
        distances[i] = np.inf
        nearest = np.argsort(distances, kind="stable")[: min(neighbours, len(X) - 1)]
        found |= {(min(i, j), max(i, j)) for j in nearest.tolist()}
    return np.array(sorted(found), dtype=int).reshape(-1, 2)


def incidence(edges: np.ndarray, samples: int) -> np.ndarray:
    """The matrix that takes differences: 1 at i and -1 at j in the row of the pair (i, j)."""
    return np.eye(samples)[edges[:, 0]] - np.eye(samples)[edges[:, 1]]


def checked_edges(edges: Any, samples: int) -> np.ndarray:
    """Pairs of samples as an array of shape (edges, 2).

    Raises
    ------
    UsageError
        If they are no pairs of two different samples.
    """
    found = np.asarray(edges)
    if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iu":
        raise UsageError(
            f"edges has shape {found.shape} and type {found.dtype}; expected whole numbers of shape (edges, 2), the "
            "samples i and j of each pair: make them with nearest_edges(X)."
        )
    wrong = (found < 0) | (found >= samples) | (found[:, :1] == found[:, 1:])
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        raise UsageError(
            f"row {row} of edges is {found[row].tolist()}; expected two different samples, from 0 to {samples - 1}."
        )
    return found


def one_output_loss(which: str | Loss) -> Loss:
    """The loss of a name, where it has one output.

    Raises
    ------
    UsageError
        If there is no such loss, or it is of several outputs.
    """
    loss = find_loss(which)
    if loss.activation.couples_units:
        raise UsageError(
            f"the loss {loss.name!r} has several outputs, and this program has one; expected 'squared', 'logistic' "
            "(for one class against another), or a Loss of your own with one output."
        )
    return loss


def training_set(X: Any, y: Any, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of shape (samples, features) and encoded targets of shape (samples,), both float64.

    Raises
    ------
    UsageError
        For data of the wrong shape, with NaN or infinite entries, or labels that do not fit the loss.
    """
    X, targets = checked_inputs(X), loss.encode(y, 1)[:, 0]
    if len(targets) != len(X):
        raise UsageError(f"y has {len(targets)} targets, but X has {len(X)} rows; expected one target for each row.")
    return X, targets


def checked_inputs(X: Any) -> np.ndarray:
    """Inputs of shape (samples, features) as float64.

    Raises
    ------
    UsageError
        If the shape or the type is wrong, or an entry is not finite.
    """
    found = np.asarray(X)
    if found.dtype.kind not in "biuf" or found.ndim != 2 or not found.size:
        raise UsageError(
            f"X has shape {found.shape} and type {found.dtype}; expected numbers of shape (samples, features), one "
            "row for each sample."
        )
    if not np.isfinite(found).all():
        raise UsageError("X holds NaN or infinite values; expected finite numbers: remove or fill these samples.")
    return found.astype(float)


def set_data(block: Subproblem, data: Mapping[str, np.ndarray]) -> None:
    """Give the parameters of a program the first instance of its data."""
    for parameter in block.program().parameters():
        value = data[parameter.name()]
        parameter.value = value if block.is_shared(parameter.name()) else value[0]
