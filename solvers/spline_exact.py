"""fit_spline_exact: the best of *all* functions with bounded slopes, as a linear spline with few knots.

With the knots at the samples the finite program equals the continuous one (`formulations.SlopeSpline`): its dual value
is a lower bound for every function with these slopes, not only for splines. What solves it has jumps at few samples:

1. Between samples with a jump the spline is replaced by the straight line through its values there. The slopes become
   averages of slopes: they stay within their bounds, and vary no more.
2. Of two jumps of one sign at neighbouring samples the lines before and after cross between them: one knot at the
   crossing serves for both. Values at the samples and the variation of the slope stay as they are.

The result is measured again, on the samples themselves, so that the gap is that of the spline that is given back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..formulations.errors import UsageError
from ..formulations.slope_properties import SlopeProperty
from ..formulations.spline_losses import SplineLoss, spline_loss
from .solution import Status
from .spline_certificate import relative_gap
from .splines import SplineFit, fit_splines

THRESHOLDS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 0.0)


def fit_spline_exact(
    x: Any, y: Any, *,
    slopes: str | tuple[float, float] | SlopeProperty = "firmly_nonexpansive", penalty: float = 1.0,
    loss: str | SplineLoss = "squared", weights: Any = None, tolerance: float = 1e-9,
) -> SplineFit:  # fmt: skip
    """Fit one activation over all functions with bounded slopes.

    Parameters
    ----------
    x, y : array, shape (samples,)
        Inputs and targets; equal inputs are fine.
    slopes, penalty, loss, weights, tolerance
        As for `fit_splines`.

    Returns
    -------
    SplineFit
        One channel; its knots are the first sample, the kinks and the last sample. `dual_value` is a lower bound for
        all functions with these slopes.

    Raises
    ------
    UsageError
        For arrays of another shape, and whatever `fit_splines` refuses.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 200)
    >>> fit_spline_exact(x, np.maximum(x, 0), penalty=0.01).knots.shape
    (3, 1)
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.ndim != 1 or y.shape != x.shape:
        raise UsageError(f"x has shape {x.shape} and y has {y.shape}; expected (samples,) for both: one activation.")
    w = np.ones(x.shape) if weights is None else np.asarray(weights, dtype=float)
    knots = np.unique(x)
    if len(knots) < 2:
        # One input, or none to speak of: any straight line through it will do.
        knots = np.array([*knots, *(knots + 1.0)])
    settings: dict[str, Any] = {"slopes": slopes, "penalty": penalty, "loss": loss, "weights": w}
    dense = fit_splines(x, y, knots, tolerance=tolerance / 4, **settings)
    for threshold in THRESHOLDS:
        t, s = thin_out(dense, threshold)
        sparse = _measured(dense, t, s, (x, y, w, penalty, spline_loss(loss)), tolerance)
        if sparse.relative_gap[0] <= max(tolerance, 1.5 * dense.relative_gap[0]):
            return sparse
    return replace(dense, status=sparse.status) if dense.relative_gap[0] > tolerance else dense


def thin_out(dense: SplineFit, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Knots, with both ends, and slopes of a spline that forgets jumps up to a threshold times the largest slope."""
    t, v, s = dense.knots[:, 0], dense.coefficients[:, 0], dense.slopes[:, 0]
    jumps = np.diff(s)
    kinks = 1 + np.flatnonzero(np.abs(jumps) > threshold * np.abs(s).max())
    places = np.concatenate([[0], kinks, [len(t) - 1]])
    lines = np.clip(np.diff(v[places]) / np.diff(t[places]), s.min(), s.max())
    knots, slopes, k = [], [lines[0]], 0
    while k < len(kinks):
        before = lines[k]
        pair = k + 1 < len(kinks) and kinks[k + 1] == kinks[k] + 1
        if pair and np.sign(lines[k + 1] - before) == np.sign(lines[k + 2] - lines[k + 1]) != 0:
            left, right, after = kinks[k], kinks[k + 1], lines[k + 2]
            cross = t[left] + (v[right] - v[left] - after * (t[right] - t[left])) / (before - after)
            knots.append(min(max(cross, t[left]), t[right]))
            k += 2
        else:
            after = lines[k + 1]
            knots.append(t[kinks[k]])
            k += 1
        slopes.append(after)
    inner, pieces = np.array(knots), np.array(slopes)
    # A crossing may round to the end, or to the knot before.
    kept = np.diff(np.concatenate([[t[0]], inner, [t[-1]]])) > 0
    return np.concatenate([[t[0]], inner[kept[1:]], [t[-1]]]), pieces[np.concatenate([[True], kept[1:]])]


def _measured(
    dense: SplineFit, t: np.ndarray, s: np.ndarray, data: tuple[Any, ...], tolerance: float
) -> SplineFit:
    """The spline of knots and slopes, its objective formed on the samples."""
    x, y, w, penalty, loss = data
    rises = np.concatenate([[0.0], np.cumsum(np.diff(t) * s)])
    start = dense.coefficients[0, 0]
    if loss.is_quadratic and w.sum() > 0:
        cell = np.clip(np.searchsorted(t, x, side="right") - 1, 0, len(s) - 1)
        start = (w * (y - rises[cell] - s[cell] * (x - t[cell]))).sum() / w.sum()
    sparse = replace(dense, knots=t[:, None], coefficients=(start + rises)[:, None], slopes=s[:, None])
    f = sparse.values(x[:, None])[:, 0]
    objective = np.array([(w * loss.value(f, y)).sum() + float(penalty) * np.abs(np.diff(s)).sum()])
    level = np.average(y, weights=w) if w.sum() > 0 else 0.0
    lowest = (w * loss.lowest(y)).sum()
    constant = (w * loss.value(level + 0 * y, y)).sum() if loss.curvature is None else lowest
    gap = relative_gap(objective, dense.dual_value, lowest, constant)
    status = (Status.SOLVED if gap[0] <= tolerance else Status.INACCURATE,)
    return replace(sparse, objective=objective, relative_gap=gap, status=status)
