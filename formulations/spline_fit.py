"""Fitting one learnable activation: a linear spline, few kinks, slopes between bounds."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import cvxpy as cp
import numpy as np

from .description import Symbol
from .errors import UsageError
from .slope_properties import SlopeProperty, slope_property
from .spline_losses import SplineLoss, spline_loss
from .subproblem import PER_INSTANCE, Subproblem, require_nonnegative, require_size


class SlopeSpline(Subproblem):
    """One linear spline with knots t_0 < ... < t_(knots-1), fitted to samples under slope constraints.

        minimize    sum_i w_i loss(f_i; y_i)  +  penalty * sum_j |s_(j+1) - s_j|
        subject to  f = B c,    c_(k+1) - c_k = h_k s_k,    low <= s_k <= high

    Variables   c (knots,)           values of the spline at its knots
                s (knots - 1,)       its slopes between them
                f (samples,)         its values at the samples
                r (samples,)         residuals f - y, of the losses that are functions of them
    Data        B (samples, knots)   hat functions at the samples: f(x) = B c, two entries a row       per instance
                y (samples,)         targets; of a smooth loss wy, weights times targets             per instance
                w (samples,)         weights >= 0 of the samples                                     per instance
                h (knots - 1,)       widths t_(k+1) - t_k > 0                                        per instance
                penalty              >= 0, price of the kinks                                        per instance
    Convex because the loss is convex in f, and everything else is linear or a norm of linear functions.

    The sum of |jumps of the slope| is TV2(f), the total variation of f'. Beyond its knots the spline goes on straight.
    Slopes stand in the model as variables: with second differences of c divided by the widths, solvers fail on
    clustered knots. `slopes` names a property (`formulations.slope_properties`): 1-Lipschitz, monotone, ...; for
    "convex" the slopes may only rise.

    With the knots at the samples the program is exact: *no function* with these slopes does better. Let g interpolate
    any such function f at the samples, linearly between them and straight beyond. Its values there are those of f;
    its slopes are averages of f' over cells, hence within the bounds, and vary no more than f' does.
    Source      Unser, Goujon & Ducotterd, "Controlled learning of pointwise nonlinearities in neural-network-like
                architectures", arXiv 2408.13114 (the problem, and that linear splines solve it).

    Parameters
    ----------
    knots, samples : int
        Sizes; at least two knots.
    loss : str or SplineLoss
        See `formulations.spline_losses`; each is a SUM over samples, the squared loss with 1/2.
    slopes : str, pair of float, or SlopeProperty
        A property or two bounds, e.g. ``"monotone"``, ``(0, 1)``, ``"0,inf"``.

    Raises
    ------
    UsageError
        For sizes that are too small, an unknown loss or property, or bounds that are not in order.

    Examples
    --------
    >>> x, y = [0.0, 1.0, 2.0], [0.0, 2.0, 2.0]
    >>> block = SlopeSpline.of(x, y, knots=[0.0, 1.0, 2.0], penalty=0.0, slopes=(0, 1))
    >>> print(f"{block.program().solve():.4f}")
    0.2500
    """

    name: ClassVar[str] = "spline.fit"
    source = (
        'Unser, Goujon & Ducotterd, "Controlled learning of pointwise nonlinearities in neural-network-like '
        'architectures", arXiv 2408.13114'
    )
    instance = "one activation"

    def __init__(
        self, *, knots: int = 5, samples: int = 8, loss: str | SplineLoss = "squared",
        slopes: str | tuple[float, float] | SlopeProperty = "firmly_nonexpansive",
    ) -> None:  # fmt: skip
        require_size(knots=knots, samples=samples)
        if knots < 2:
            raise UsageError(f"knots is {knots}; expected 2 or more, the ends of at least one piece.")
        self.knots, self.samples = knots, samples
        self.loss, self.slopes = spline_loss(loss), slope_property(slopes)
        self.symbols = self._symbols()
        self.prepare()

    @classmethod
    def of(
        cls, x: Any, y: Any, *, knots: Any, penalty: float, weights: Any = None,
        loss: str | SplineLoss = "squared", slopes: str | tuple[float, float] | SlopeProperty = "firmly_nonexpansive",
    ) -> Self:  # fmt: skip
        """The program of samples, its parameters set.

        Parameters
        ----------
        x, y : array, shape (samples,)
            Inputs and targets.
        knots : array, shape (knots,)
            Where the spline may bend, increasing; and its two ends, from where it goes on straight.
        penalty : float
            Price of the kinks.
        weights : array, shape (samples,), optional
            Weights of the samples; by default 1.
        loss, slopes
            As for the class.

        Raises
        ------
        UsageError
            For a negative penalty, or knots that do not increase.
        """
        x, y, knots = (np.asarray(values, dtype=float) for values in (x, y, knots))
        require_nonnegative(penalty=penalty)
        made = cls(knots=len(knots), samples=len(x), loss=loss, slopes=slopes)
        weights = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=float)
        data = {
            "B": hat_matrix(knots, x), "y": y, "h": np.diff(knots), "penalty": np.asarray(float(penalty)),
            "w": weights, "wy": weights * y,
        }  # fmt: skip
        for parameter in made.program().parameters():
            parameter.value = data[parameter.name()]
        return made

    def write(self) -> cp.Problem:
        c, s = cp.Variable(self.knots, name="c"), cp.Variable(self.knots - 1, name="s")
        f = cp.Variable(self.samples, name="f")
        B, h = cp.Parameter((self.samples, self.knots), name="B"), cp.Parameter(self.knots - 1, nonneg=True, name="h")
        w, y = cp.Parameter(self.samples, nonneg=True, name="w"), cp.Parameter(self.samples, name="y")
        penalty = cp.Parameter(nonneg=True, name="penalty")

        rows = {"values at the samples": f == B @ c, "slopes": cp.diff(c) == cp.multiply(h, s)}
        # A weight times a loss is disciplined in the parameters only where the loss has no other parameter.
        if self.loss.curvature is None:
            r = cp.Variable(self.samples, name="r")
            rows["residuals"] = r == f - y
            total = cp.sum(cp.multiply(w, self.loss.model(r)))
        else:
            wy = cp.Parameter(self.samples, name="wy")
            total = cp.sum(cp.multiply(w, self.loss.model(f)) - cp.multiply(wy, f))
        rows |= self._slope_rows(s)
        # The factor 1 keeps the term in one piece: cvxpy would flatten a bare sum into its parent and drop the label.
        loss = (1.0 * total).set_label("loss")
        objective = loss
        if self.knots > 2:
            objective = loss + (penalty * cp.norm1(cp.diff(s))).set_label("penalty of kinks")
        return cp.Problem(cp.Minimize(objective), [row.set_label(label) for label, row in rows.items()])

    def _slope_rows(self, s: Any) -> dict[str, Any]:
        rows = {}
        if self.slopes.low > -np.inf:
            rows["least slope"] = s >= self.slopes.low
        if self.slopes.high < np.inf:
            rows["greatest slope"] = s <= self.slopes.high
        if self.slopes.convex and self.knots > 2:
            rows["slopes rise"] = cp.diff(s) >= 0
        return rows

    def _symbols(self) -> tuple[Symbol, ...]:
        own = (
            Symbol("r", "residuals", PER_INSTANCE, r"\mathbf{r}"), Symbol("y", "targets", PER_INSTANCE, r"\mathbf{y}")
        )  # fmt: skip
        if self.loss.curvature is not None:
            own = (Symbol("wy", "weights times targets", PER_INSTANCE, r"\mathbf{q}"),)  # type: ignore[assignment]
        # A line through two knots has no kinks, and nothing that price.
        price = (Symbol("penalty", "price of the kinks", PER_INSTANCE, r"\lambda"),) if self.knots > 2 else ()
        return (
            Symbol("c", "values at the knots", PER_INSTANCE, r"\mathbf{c}"),
            Symbol("s", "slopes between the knots", PER_INSTANCE, r"\mathbf{s}"),
            Symbol("f", "values at the samples", PER_INSTANCE, r"\mathbf{f}"),
            Symbol("B", "hat functions at the samples", PER_INSTANCE),
            *own,
            Symbol("w", "weights of the samples", PER_INSTANCE, r"\mathbf{w}"),
            Symbol("h", "widths between the knots", PER_INSTANCE, r"\mathbf{h}"),
            *price,
        )


def hat_matrix(knots: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values at x of the hat functions of the knots, (samples, knots); beyond the ends they go on straight.

    Raises
    ------
    UsageError
        If the knots do not increase.

    Examples
    --------
    >>> hat_matrix(np.array([0.0, 1.0, 2.0]), np.array([0.25, 3.0])).tolist()
    [[0.75, 0.25, 0.0], [0.0, -1.0, 2.0]]
    """
    if np.ndim(knots) != 1 or len(knots) < 2 or not (np.diff(knots) > 0).all():
        raise UsageError("the knots do not increase; expected two or more, each above the last: numpy.unique(knots).")
    cell = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    share = (x - knots[cell]) / (knots[cell + 1] - knots[cell])
    matrix = np.zeros((len(x), len(knots)))
    rows = np.arange(len(x))
    matrix[rows, cell], matrix[rows, cell + 1] = 1 - share, share
    return matrix
