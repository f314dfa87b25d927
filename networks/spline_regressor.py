"""SplineRegressor: the best function of one feature with bounded slopes and few kinks, as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..formulations.errors import UsageError
from ..solvers.spline_exact import fit_spline_exact
from ..solvers.splines import fit_splines


class SplineRegressor(RegressorMixin, BaseEstimator):
    """A linear spline of one feature.

    Parameters
    ----------
    slopes : str or pair of float
        Bounds on the slope (`formulations.slope_properties`), e.g. ``"monotone"`` or ``(0, 1)``.
    penalty : float
        Price of the kinks, beside a SUM of losses over samples.
    loss : str
        See `formulations.spline_losses`; of the logistic and the Poisson loss the natural parameter is predicted.
    knots : int, optional
        Knots on an even grid; by default the best of all functions is found.
    tolerance : float
        Of the relative gap.

    Attributes
    ----------
    spline_ : SplineFit
        The spline, with its verified gap.

    Examples
    --------
    >>> X = np.linspace(0, 1, 50)[:, None]
    >>> SplineRegressor(slopes="free", penalty=1e-3).fit(X, abs(X[:, 0] - 0.5)).predict([[0.0]]).round(2).tolist()
    [0.5]
    """

    def __init__(
        self, slopes: Any = "free", penalty: float = 1.0, *, loss: str = "squared", knots: int | None = None,
        tolerance: float = 1e-9,
    ) -> None:  # fmt: skip
        self.slopes, self.penalty, self.loss, self.knots, self.tolerance = slopes, penalty, loss, knots, tolerance

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the spline.

        Parameters
        ----------
        X : array, shape (samples, 1)
        y : array, shape (samples,)
        sample_weight : array, shape (samples,), optional

        Raises
        ------
        UsageError
            If there is more than one feature, or the settings do not fit.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        x = self._feature(X)
        settings: dict[str, Any] = {
            "slopes": self.slopes, "penalty": self.penalty, "loss": self.loss, "weights": sample_weight,
            "tolerance": self.tolerance,
        }  # fmt: skip
        if self.knots is None:
            self.spline_ = fit_spline_exact(x, y, **settings)
        else:
            self.spline_ = fit_splines(x, y, even_knots(x, self.knots), **settings)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Values of the spline at X, shape (samples, 1)."""
        check_is_fitted(self)
        x = self._feature(validate_data(self, X, dtype=np.float64, reset=False))
        values: np.ndarray = self.spline_.values(x[:, None])[:, 0]
        return values

    def _feature(self, X: np.ndarray) -> np.ndarray:
        if X.shape[1] != 1:
            raise UsageError(f"X has {X.shape[1]} features; a spline is a function of one: choose a column, X[:, [0]].")
        return X[:, 0]


def even_knots(x: np.ndarray, knots: int) -> np.ndarray:
    """Knots spread evenly over the inputs.

    Raises
    ------
    UsageError
        If there are fewer than two, or all inputs are equal.
    """
    if knots < 2 or not np.ptp(x) > 0:
        raise UsageError(
            f"{knots} knots from {x.min():g} to {x.max():g}; expected two or more, and inputs that differ."
        )
    return np.linspace(x.min(), x.max(), knots)
