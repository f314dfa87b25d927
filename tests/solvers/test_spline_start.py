"""Spline fits that start from an earlier fit: fewer iterations, and never worse than from nothing."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexblocks.formulations import UsageError
from convexblocks.solvers import SplineFit, fit_splines

KNOTS = np.linspace(-1, 1, 41)
SLOPES: list[Any] = [(0, 1), (-0.5, 0.5), "monotone", "free", (-inf, 0.5)]


def make(channels: int = 8, samples: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.2, 1.2, size=(samples, channels))
    return x, np.sign(x) * np.maximum(np.abs(x) - 0.3, 0) + 0.05 * rng.normal(size=x.shape)


def never_worse(warm: SplineFit, cold: SplineFit, tolerance: float) -> None:
    for mine, other, gap, least in zip(warm.status, cold.status, warm.relative_gap, cold.relative_gap, strict=True):
        assert mine is other or gap <= least
        assert gap <= max(tolerance, least)
    assert (warm.slope_violation == 0).all()


@pytest.mark.parametrize("slopes", SLOPES, ids=str)
def test_the_same_data_take_no_iteration(slopes: Any) -> None:
    x, y = make()
    fit = fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1)
    again = fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1, start=fit)
    assert again.solved
    assert (again.iterations == 0).all()
    assert np.allclose(again.slopes, fit.slopes, atol=1e-9)


@pytest.mark.parametrize("slopes", SLOPES, ids=str)
@pytest.mark.parametrize(("moved", "factor"), [(0.001, 1.0), (0.01, 1.0), (0.05, 1.0), (0.0, 1.1), (0.0, 2.0)])
def test_data_that_moved_take_fewer_iterations(slopes: Any, moved: float, factor: float) -> None:
    x, y = make()
    fit = fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1)
    y = y + moved * y.std() * np.random.default_rng(1).normal(size=y.shape)
    cold = fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1 * factor)
    warm = fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1 * factor, start=fit)
    assert warm.solved
    assert warm.objective == pytest.approx(cold.objective, rel=3e-9)
    assert warm.iterations.mean() < (0.8 if factor < 2 else 0.95) * cold.iterations.mean()


@pytest.mark.parametrize("loss", ["logistic", "poisson"])
def test_smooth_losses_start_from_an_earlier_fit(loss: str) -> None:
    x, y = make()
    y = np.clip(np.round(y + 0.5), 0, 1)
    fit = fit_splines(x, y, KNOTS, slopes=(0, 5), penalty=1.0, loss=loss)
    cold = fit_splines(x, y, KNOTS, slopes=(0, 5), penalty=1.1, loss=loss)
    warm = fit_splines(x, y, KNOTS, slopes=(0, 5), penalty=1.1, loss=loss, start=fit)
    assert warm.solved
    assert warm.objective == pytest.approx(cold.objective, rel=3e-9)
    assert warm.iterations.mean() < 0.8 * cold.iterations.mean()


@pytest.mark.parametrize(("loss", "slopes"), [("absolute", (0, 1)), ("huber(0.1)", (0, 1)), ("squared", "convex")])
def test_other_programs_start_from_nothing(loss: str, slopes: Any) -> None:
    x, y = make(2)
    fit = fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1, loss=loss)
    again = fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1, loss=loss, start=fit)
    assert again.iterations.tolist() == fit.iterations.tolist()
    assert np.array_equal(again.slopes, fit.slopes)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), knots=st.integers(2, 30), samples=st.integers(1, 60), unit=st.floats(-3, 3),
    price=st.floats(-8, 0), kind=st.integers(0, 5), moved=st.floats(-4, 1), factor=st.floats(-3, 3),
    empty=st.booleans(),
)  # fmt: skip
def test_never_worse_than_from_nothing(
    seed: int, knots: int, samples: int, unit: float, price: float, kind: int, moved: float, factor: float, empty: bool
) -> None:
    rng = np.random.default_rng(seed)
    unit = 10**unit
    z = rng.normal(size=(samples, 3))
    x, y = unit * z, np.tanh(z) + 0.1 * rng.normal(size=z.shape)
    t = np.unique(unit * np.concatenate([[-2.0, 2.0], rng.uniform(-2, 2, knots - 2)]))
    low, high = [(0, 1), (-1, 1), (0.01, 10), (-inf, 0.1), (0, inf), (-inf, inf)][kind]
    slopes, penalty = (low / unit, high / unit), samples * unit * 10**price
    weights = 10.0 ** rng.uniform(-3, 3, size=z.shape)
    fit = fit_splines(x, y, t, slopes=slopes, penalty=penalty, weights=weights, tolerance=1e-7)
    y = y + 10**moved * rng.normal(size=y.shape)
    weights[:, 0] *= not empty
    arguments: dict[str, Any] = {
        "slopes": slopes, "penalty": penalty * 10**factor, "weights": weights, "tolerance": 1e-7
    }  # fmt: skip
    cold, warm = fit_splines(x, y, t, **arguments), fit_splines(x, y, t, start=fit, **arguments)
    never_worse(warm, cold, 1e-7)


@pytest.mark.parametrize("slopes", [(0, 1), "free"], ids=str)
@pytest.mark.parametrize("kind", ["constant", "one input", "few samples", "far away", "nonsense"])
def test_degenerate_data_and_starts(kind: str, slopes: Any) -> None:
    x, y = make(3, 40)
    fit = fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1)
    if kind == "constant":
        y = 0 * y + 3.0
    if kind == "one input":
        x = 0 * x
    if kind == "few samples":
        x, y = x[:2], y[:2]
    if kind == "far away":
        y = 1e8 + 1e4 * y
    if kind == "nonsense":
        vars(fit)["multipliers"][:] = 1e30
    cold = fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1)
    never_worse(fit_splines(x, y, KNOTS, slopes=slopes, penalty=0.1, start=fit), cold, 1e-9)


def test_bounds_and_weights_may_be_others() -> None:
    x, y = make()
    fit = fit_splines(x, y, KNOTS, slopes="free", penalty=0.1)
    cold = fit_splines(x, y, KNOTS, slopes=(0, 0.4), penalty=0.1, weights=2.0 + x)
    warm = fit_splines(x, y, KNOTS, slopes=(0, 0.4), penalty=0.1, weights=2.0 + x, start=fit)
    never_worse(warm, cold, 1e-9)
    assert warm.objective == pytest.approx(cold.objective, rel=3e-9)


def test_multipliers_are_at_the_penalty_where_the_spline_bends() -> None:
    x, y = make()
    fit = fit_splines(x, y, KNOTS, slopes="free", penalty=0.1)
    assert (np.abs(fit.multipliers) <= 0.1 * (1 + 1e-9)).all()
    jumps = np.diff(fit.slopes, axis=0)
    assert fit.multipliers[fit.kinks] == pytest.approx(0.1 * np.sign(jumps[fit.kinks]), rel=1e-3)


def test_tensors_start_from_arrays_and_odd_splines_from_odd_ones() -> None:
    x, y = make(2)
    fit = fit_splines(x, y, KNOTS, penalty=0.1)
    again = fit_splines(torch.tensor(x), torch.tensor(y), torch.tensor(KNOTS), penalty=0.1, start=fit)
    assert again.iterations.tolist() == [0, 0]
    odd = fit_splines(x, y, KNOTS[20:], penalty=0.1, odd=True)
    assert fit_splines(x, y, KNOTS[20:], penalty=0.1, odd=True, start=odd).iterations.tolist() == [0, 0]


def test_odd_splines_start_at_zero_whatever_the_earlier_fit_did() -> None:
    x = np.linspace(0, 2, 60)[:, None]
    knots = np.linspace(0, 2, 6)
    plain = fit_splines(x, 0.5 * x + 0.5, knots)
    cold = fit_splines(x, 0.5 * x + 1, knots, odd=True)
    warm = fit_splines(x, 0.5 * x + 1, knots, odd=True, start=plain)
    assert warm.coefficients[0] == 0
    assert warm.objective == pytest.approx(cold.objective, rel=3e-9)
    assert warm.dual_value <= warm.objective


@pytest.mark.parametrize(
    ("words", "knots", "channels"), [("slopes of shape", KNOTS[:-1], 2), ("slopes of shape", KNOTS, 3),
                                     ("other knots", 2 * KNOTS, 2)], ids=["fewer knots", "channels", "knots"]
)  # fmt: skip
def test_other_knots_and_channels_are_refused(words: str, knots: np.ndarray, channels: int) -> None:
    fit = fit_splines(*make(2), KNOTS)
    with pytest.raises(UsageError, match=words):
        fit_splines(*make(channels), knots, start=fit)
