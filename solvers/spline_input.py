"""What `fit_splines` is given, checked and made a program: units, centres, and channels that say too little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..formulations.activation_row import Array, library
from ..formulations.errors import UsageError
from ..formulations.slope_properties import SlopeProperty, slope_property
from ..formulations.spline_losses import SplineLoss, spline_loss
from ..formulations.subproblem import require_positive
from .spline_program import Program
from .spline_statistics import Moments, Samples, sort_samples
from .spline_terms import IntervalTerm, SmoothTerm, SquaredTerm, Term, Units
from .tensors import as_tensor, one_device

Read = Callable[[str, Any], Array]


@dataclass(frozen=True)
class SplineData:
    """A checked batch of fits.

    Attributes
    ----------
    program : Program
        In the user's units, the targets less `centre`.
    units : Units
        In which everything is about one.
    knots, low, high : array
        As they were given: (knots, 1 or channels), (channels,).
    centre : array, shape (channels,)
        What was taken from the targets.
    empty : array of bool, shape (channels,)
        Channels without any weight; in the program they have one sample, of the target zero.
    read, back : callable
        Take arrays of the user's, with a name for errors, to the library of the program, and results to the user's.
    """

    program: Program
    units: Units
    knots: Array
    low: Array
    high: Array
    centre: Array
    empty: Array
    read: Read
    back: Callable[[Array], Array]


def check_spline_data(
    x: Any, y: Any, knots: Any, *, slopes: Any, penalty: Any, loss: Any, weights: Any, odd: bool, tolerance: float,
    as_tensors: bool = False,
) -> SplineData:  # fmt: skip
    """Check the arguments of `fit_splines`, whose docstring says what they are.

    With `as_tensors` the work is done by torch on a CPU too; it is slower there.

    Raises
    ------
    UsageError
        Naming what was seen, what was expected and the remedy.
    """
    require_positive(tolerance=tolerance)
    chosen = spline_loss(loss)
    given = {"x": x, "y": y, "knots": knots, "weights": weights, "penalty": penalty}
    read, back = _reader(given, as_tensors)
    x, y = _columns("x", read("x", x)), _columns("y", read("y", y))
    if not x.shape[0] or x.shape[0] != y.shape[0]:
        raise UsageError(f"x has {x.shape[0]} samples and y has {y.shape[0]}; expected the same number, 1 or more.")
    channels = y.shape[1]
    if x.shape[1] not in (1, channels):
        raise UsageError(f"x has {x.shape[1]} channels and y has {channels}; expected as many, or one that all share.")
    t = _check_knots(_columns("knots", read("knots", knots)), channels)
    w = 1 + 0 * y if weights is None else _check_weights(_columns("weights", read("weights", weights)), y)
    _check_targets(y, chosen)
    price = _per_channel("penalty", read("penalty", penalty), channels)
    if not bool((price >= 0).all()) or not bool((price < np.inf).all()):
        raise UsageError(f"the penalty has the entry {float(price.min()):g}; expected finite numbers of at least zero.")
    low, high, convex = _bounds(slopes, read, channels)
    x = x + 0 * y
    if odd:
        x, y = _fold(x, y, t, chosen)
    facts = _Facts.of(x, y, w, 0 * y[0] if odd or chosen.curvature is not None else None)
    program = _program(facts, sort_samples(t, x, y - facts.centre, facts.weights), t, chosen, odd)
    program = replace(program, penalty=price, low=low, high=high, convex=convex)
    program = replace(program, **_stand_ins(facts, program))
    units = _units(facts, program, x, t, chosen)
    # Targets that do not differ leave nothing to the best constant: then gaps are relative to the unit of the loss.
    least = program.lowest + units.weight * units.theta * units.y
    program = replace(program, start=library(y).maximum(program.start, least), steep=units.y / units.x)
    return SplineData(program, units, t, low, high, facts.centre, facts.empty, read, back)


def _reader(given: dict[str, Any], as_tensors: bool) -> tuple[Read, Callable[[Array], Array]]:
    """What turns arguments into float64 arrays of one library, and what gives results in the user's own.

    On a CPU that is numpy, whose small operations take less time than torch's.
    """
    device = one_device("fit_splines", {name: part for name, part in given.items() if part is not None})
    tensors = any(isinstance(part, Tensor) for part in given.values())

    def read(what: str, values: Any) -> Array:
        made = as_tensor(what, values, device)
        return made.numpy() if device.type == "cpu" and not as_tensors else made

    def back(part: Array) -> Array:
        return torch.as_tensor(part, device=device) if tensors else part

    return read, back


def _columns(what: str, values: Array) -> Array:
    """An array with a column for every channel."""
    if values.ndim not in (1, 2):
        raise UsageError(f"{what} has shape {tuple(values.shape)}; expected one or two axes: samples, channels.")
    if not bool(library(values).isfinite(values).all()):
        raise UsageError(f"{what} has NaN or infinite entries; expected finite numbers: remove these samples.")
    return values[:, None] if values.ndim == 1 else values


def _per_channel(what: str, values: Array, channels: int) -> Array:
    """One number for every channel."""
    if values.ndim > 1 or (values.ndim == 1 and len(values) not in (1, channels)):
        raise UsageError(f"{what} has shape {tuple(values.shape)}; expected one number, or one for each of {channels}.")
    zeros = values.reshape(-1)[:1] * np.nan
    blank = library(values).concatenate([zeros] * channels)
    return library(values).where(blank == blank, blank, values + 0.0)


def _check_knots(knots: Array, channels: int) -> Array:
    if len(knots) < 2 or not bool((knots[1:] > knots[:-1]).all()):
        raise UsageError("the knots do not increase; expected two or more, each above the last: numpy.unique(knots).")
    if knots.shape[1] not in (1, channels):
        raise UsageError(
            f"the knots have {knots.shape[1]} columns and y has {channels}; expected one column that all share, or one "
            "for every channel."
        )
    return knots


def _check_weights(weights: Array, y: Array) -> Array:
    if len(weights) != len(y) or weights.shape[1] not in (1, y.shape[1]):
        raise UsageError(
            f"the weights have shape {tuple(weights.shape)} and y has {tuple(y.shape)}; expected one for every sample."
        )
    if bool((weights < 0).any()):
        raise UsageError(f"the weights go down to {float(weights.min()):g}; expected numbers of at least zero.")
    return weights + 0 * y


def _check_targets(y: Array, loss: SplineLoss) -> None:
    least, most = loss.targets
    if bool(((y < least) | (y > most)).any()):
        raise UsageError(
            f"y goes from {float(y.min()):g} to {float(y.max()):g}; the loss {loss.name!r} expects {least:g} to "
            f"{most:g}: encode the targets so, or take another loss."
        )


def _bounds(slopes: Any, read: Read, channels: int) -> tuple[Array, Array, bool]:
    """Lower and upper bounds of every channel, and whether slopes may only rise."""
    own = isinstance(slopes, (tuple, list)) and len(slopes) == 2 and any(np.ndim(end) for end in slopes)
    chosen = SlopeProperty("", -np.inf, np.inf) if own else slope_property(slopes)
    ends = slopes if own else (chosen.low, chosen.high)
    low, high = (_per_channel("slopes", read("slopes", end), channels) for end in ends)
    if not bool(((low < high) & (low < np.inf) & (high > -np.inf)).all()):
        raise UsageError("the bounds of the slopes are not in order in every channel; expected low < high: see slopes.")
    return low, high, chosen.convex


def _fold(x: Array, y: Array, knots: Array, loss: SplineLoss) -> tuple[Array, Array]:
    """The samples of an odd spline, all moved to x >= 0."""
    if not loss.is_quadratic:
        raise UsageError(f"odd splines are fitted with the squared loss, not {loss.name!r}: leave out odd or the loss.")
    if bool((knots[0] != 0).any()):
        raise UsageError("the knots of an odd spline do not start at 0; expected those of its right half.")
    return abs(x), library(x).where(x < 0, -y, y)


@dataclass(frozen=True)
class _Facts:
    """What the samples of every channel say.

    Weights, where that of an empty channel's first sample is one, and their sum; what is taken from the targets; the
    deviation of y and the spread of x; the slope of regression; whether there is no weight, or a single input.
    """

    weights: Array
    total: Array
    centre: Array
    deviation: Array
    spread: Array
    regression: Array
    empty: Array
    single: Array

    @classmethod
    def of(cls, x: Array, y: Array, w: Array, centre: Array | None) -> _Facts:
        """The facts of samples; `centre` is what is taken from the targets, by default their mean."""
        arrays = library(y)
        empty = w.sum(0) == 0
        if bool(empty.any()):
            w = w + arrays.concatenate([1.0 * empty[None], 0 * w[1:]])
        total = w.sum(0)
        mean = (w * y).sum(0) / total
        dx, dy = x - (w * x).sum(0) / total, y - mean
        far = arrays.where(w > 0, x, 0 * x - np.inf), arrays.where(w > 0, -x, 0 * x - np.inf)
        single = arrays.amax(far[0], 0) + arrays.amax(far[1], 0) == 0
        square = arrays.where(single, 0 * total, (w * dx * dx).sum(0))
        regression = (w * dx * dy).sum(0) / arrays.where(square > 0, square, 1 + square)
        deviation = ((w * dy * dy).sum(0) / total) ** 0.5
        return cls(w, total, mean if centre is None else centre, deviation, square, regression, empty, single)


def _program(facts: _Facts, samples: Samples, t: Array, loss: SplineLoss, odd: bool) -> Program:
    """The program without its penalty and bounds, and what the least and the starting loss are."""
    w, y = samples.weights, samples.y
    y = library(y).where(facts.empty, 0 * y, y)
    samples = replace(samples, y=y)
    term: Term
    if loss.is_quadratic:
        term = SquaredTerm(Moments.of(samples), pinned=odd)
    else:
        term = IntervalTerm(samples, loss) if loss.curvature is None else SmoothTerm(samples, loss)
    none = 0 * facts.total
    level = _level(loss, (w * y).sum(0) / facts.total)
    lowest = (w * loss.lowest(y)).sum(0)
    start = term.moments.yy / 2 if isinstance(term, SquaredTerm) else (w * loss.value(0 * y + level, y)).sum(0)
    known = loss.is_quadratic and not odd
    return Program(
        t[1:] - t[:-1], term, none, none, none, lowest, start, level,
        facts.regression, facts.spread if known else none, none, pinned=odd,
    )  # fmt: skip


def _level(loss: SplineLoss, mean: Array) -> Array:
    """The value that a spline starts from; residual losses have centred targets."""
    arrays = library(mean)
    if loss.curvature is None:
        return 0 * mean
    if loss.targets[1] == 1:
        mean = arrays.clip(mean, 0.01, 0.99)
        return arrays.log(mean / (1 - mean))
    return arrays.log(arrays.clip(mean, 1e-2, None))


def _stand_ins(facts: _Facts, program: Program) -> dict[str, Array]:
    """Finite bounds for channels whose samples have one input: there any slope is as good as another."""
    arrays = library(facts.total)
    some = 1 + facts.deviation
    low = arrays.where(program.low > -np.inf, program.low, arrays.minimum(program.high, 0 * some) - some)
    high = arrays.where(program.high < np.inf, program.high, arrays.maximum(low, 0 * some) + some)
    return {
        "low": arrays.where(facts.single, low, program.low), "high": arrays.where(facts.single, high, program.high)
    }  # fmt: skip


def _units(facts: _Facts, program: Program, x: Array, t: Array, loss: SplineLoss) -> Units:
    """Units in which inputs, values, weights and multipliers are about one."""
    arrays = library(x)
    right, left = arrays.maximum(arrays.amax(x, 0), t[-1]), arrays.minimum(arrays.amin(x, 0), t[0])
    length = right - left if t.shape[1] > 1 else arrays.amax(right, 0).reshape(1) - arrays.amin(left, 0).reshape(1)
    one = 1 + 0 * facts.total
    if loss.curvature is not None:
        return Units(length, one, facts.total, one)
    # Slopes that the bounds force count too, where the targets hardly differ.
    forced = abs(arrays.clip(0 * one, program.low, program.high)) * (facts.spread / facts.total) ** 0.5
    y = arrays.maximum(facts.deviation, forced)
    centre = abs(facts.centre)
    y = arrays.where(y > 1e-13 * centre, arrays.clip(y, 1e-150, None), arrays.where(centre > 0, centre, one))
    if not loss.bend:
        return Units(length, y, facts.total, one)
    return Units(length, y, facts.total, y if loss.is_quadratic else arrays.clip(y, None, loss.high))
