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

TIGHTEST = 1e-12
THRESHOLDS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 0.0)


def fit_spline_exact(
    x: Any, y: Any, *,
    slopes: str | tuple[float, float] | SlopeProperty = "firmly_nonexpansive", penalty: float = 1.0,
    loss: str | SplineLoss = "squared", weights: Any = None, tolerance: float = 1e-9,
) -> Any:  # fmt: skip
    """Fit activations over all functions with bounded slopes.

    Parameters
    ----------
    x, y : array, shape (samples,) or (samples, channels)
        Inputs and targets; equal inputs are fine.
    slopes, penalty, loss, weights, tolerance
        As for `fit_splines`.

    Returns
    -------
    SplineFit, or list of SplineFit
        One for every channel, each with one channel. Its knots are the first sample, the kinks and the last sample.
        `dual_value` is a lower bound for all functions with these slopes.

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
    if x.ndim not in (1, 2) or y.shape != x.shape or not x.size:
        raise UsageError(
            f"x has shape {x.shape} and y has {y.shape}; expected (samples,) or (samples, channels) for both."
        )
    w = np.ones(x.shape) if weights is None else np.broadcast_to(np.asarray(weights, dtype=float), x.shape)
    single = x.ndim == 1
    x, y, w = (part[:, None] if single else part for part in (x, y, w))
    # Tighter than asked for: forgetting small jumps costs a little.
    settings: dict[str, Any] = {"slopes": slopes, "penalty": penalty, "loss": loss, "weights": w}
    dense = fit_splines(x, y, knots_at(x), tolerance=max(tolerance / 100, TIGHTEST), **settings)
    chosen = spline_loss(loss)
    fits = [
        _sparse(_channel(dense, c), (x[:, c], y[:, c], w[:, c], float(penalty), chosen), tolerance)
        for c in range(x.shape[1])
    ]
    return fits[0] if single else fits


def knots_at(x: np.ndarray) -> np.ndarray:
    """The distinct inputs of each channel, (knots, channels); shorter columns go on with empty cells."""
    columns = [np.unique(x[:, c]) for c in range(x.shape[1])]
    most = max(2, *(len(column) for column in columns))
    length = max(1.0, *(float(np.ptp(column)) for column in columns))
    width = length / most
    return np.stack(
        [np.concatenate([t, t[-1] + width * np.arange(1, most - len(t) + 1)]) for t in columns], axis=1
    )  # fmt: skip


def _channel(fit: SplineFit, c: int) -> SplineFit:
    """One channel of a fit."""
    parts = {
        name: part[:, c : c + 1] if part.ndim == 2 else part[c : c + 1]
        for name, part in vars(fit).items()
        if name != "status"
    }
    return replace(fit, **parts, status=(fit.status[c],))


def _sparse(dense: SplineFit, data: tuple[Any, ...], tolerance: float) -> SplineFit:
    """The spline with the fewest knots that still meets the tolerance, or does as well as the dense one."""
    x, y = data[:2]
    last = max(2, len(np.unique(x)))
    dense = replace(
        dense, knots=dense.knots[:last], coefficients=dense.coefficients[:last], slopes=dense.slopes[: last - 1]
    )
    # The best spline may be flat: then what the targets ask for says which slopes are small.
    scale = max(float(np.abs(dense.slopes).max()), float(np.ptp(y) / np.ptp(dense.knots)))
    for threshold in THRESHOLDS:
        found = _measured(dense, *thin_out(dense, threshold * scale), data, tolerance)
        if found.relative_gap[0] <= max(tolerance, 1.5 * dense.relative_gap[0]):
            return found
    return replace(dense, status=(Status.SOLVED if dense.relative_gap[0] <= tolerance else Status.INACCURATE,))


def thin_out(dense: SplineFit, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Knots, with both ends, and slopes of a spline that forgets jumps up to a threshold."""
    t, v, s = dense.knots[:, 0], dense.coefficients[:, 0], dense.slopes[:, 0]
    jumps = np.diff(s)
    kinks = 1 + np.flatnonzero(np.abs(jumps) > threshold)
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
