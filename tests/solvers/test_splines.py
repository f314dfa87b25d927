"""Batched spline fits: against Clarabel, their certificate, and inputs that say too little."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexblocks.formulations import SlopeSpline, UsageError
from convexblocks.formulations.spline_fit import hat_matrix
from convexblocks.formulations.spline_losses import spline_loss
from convexblocks.solvers import SplineFit, Status, fit_spline_exact, fit_splines
from convexblocks.solvers.spline_input import check_spline_data
from convexblocks.solvers.spline_interior import fit_scaled
from convexblocks.solvers.spline_program import measure_splines
from convexblocks.solvers.spline_start import start_point
from convexblocks.solvers.spline_statistics import sort_samples

LOSSES = ("squared", "huber(0.2)", "absolute", "quantile(0.9)", "logistic", "poisson")
NAMED = ["firmly_nonexpansive", "nonexpansive", "monotone", "free", "convex", "invertible(0.1)"]
SLOPES: list[Any] = [*NAMED, (-inf, 0.5)]


def data_for(loss: str, samples: int = 80, channels: int = 2, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Inputs with ties, targets and weights over two orders."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(size=(samples, channels)), -2, 2)
    y = np.tanh(2 * x) + 0.3 * rng.normal(size=x.shape)
    if loss == "logistic":
        y = (y > 0) * 1.0
    if loss == "poisson":
        y = rng.poisson(np.exp(y)).astype(float)
    return x, y, 10.0 ** rng.uniform(-1, 1, size=x.shape)


def reference(x: Any, y: Any, knots: Any, **settings: Any) -> float:
    problem = SlopeSpline.of(x, y, knots=knots, **settings).program()
    return float(problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10))


def objective_of(fit: SplineFit, x: Any, y: Any, w: Any, penalty: float, loss: str = "squared") -> np.ndarray:
    """Formed from the knot values alone."""
    columns = []
    for c in range(fit.coefficients.shape[1]):
        knots = fit.knots[:, c if fit.knots.shape[1] > 1 else 0]
        f = hat_matrix(knots, x[:, c]) @ fit.coefficients[:, c]
        kinks = np.abs(np.diff(np.diff(fit.coefficients[:, c]) / np.diff(knots))).sum()
        columns.append((w[:, c] * spline_loss(loss).value(f, y[:, c])).sum() + penalty * kinks)
    return np.array(columns)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("slopes", SLOPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("own", [False, True], ids=["shared knots", "own knots"])
def test_agrees_with_clarabel(loss: str, slopes: Any, own: bool) -> None:
    x, y, w = data_for(loss)
    rng = np.random.default_rng(3)
    knots = np.sort(rng.uniform(-2, 2, size=(9, 2)), axis=0) if own else np.linspace(-1.5, 1.5, 9)
    fit = fit_splines(x, y, knots, slopes=slopes, penalty=0.5, loss=loss, weights=w)
    assert fit.solved
    assert (fit.slope_violation == 0).all()
    assert objective_of(fit, x, y, w, 0.5, loss) == pytest.approx(fit.objective, rel=1e-9)
    for c in range(2):
        t = knots[:, c] if own else knots
        best = reference(x[:, c], y[:, c], t, weights=w[:, c], slopes=slopes, penalty=0.5, loss=loss)
        assert fit.objective[c] == pytest.approx(best, rel=1e-7)
        assert fit.dual_value[c] <= best + 1e-8 * abs(best)


def test_bounds_of_every_channel_are_its_own() -> None:
    x, y, w = data_for("squared", channels=4)
    low, high = np.array([-inf, -0.5, 0.0, -inf]), np.array([inf, inf, 0.4, 0.3])
    fit = fit_splines(x, y, np.linspace(-2, 2, 9), slopes=(low, high), penalty=0.2, weights=w)
    assert fit.solved
    assert (fit.slopes >= low).all()
    assert (fit.slopes <= high).all()
    assert np.isinf(fit.reach).tolist() == [False, False, True, False]
    for c in range(4):
        settings = {"weights": w[:, c], "slopes": (low[c], high[c]), "penalty": 0.2}
        best = reference(x[:, c], y[:, c], np.linspace(-2, 2, 9), **settings)
        assert fit.objective[c] == pytest.approx(best, rel=1e-7)


@pytest.mark.parametrize("slopes", SLOPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_any_multipliers_give_a_lower_bound(loss: str, slopes: Any) -> None:
    """At random, even infeasible, slopes and random multipliers, and beyond the penalty: never above the optimum."""
    x, y, w = data_for(loss)
    knots = np.linspace(-2, 2, 9)
    given = {"slopes": slopes, "penalty": 0.5, "loss": loss, "weights": w}
    best = fit_splines(x, y, knots, **given).objective
    program = check_spline_data(x, y, knots, odd=False, tolerance=1e-9, **given).program
    rng = np.random.default_rng(1)
    for _ in range(50):
        scale = 10.0 ** rng.uniform(-2, 1)
        s, nu = scale * rng.standard_normal((8, 2)), scale * rng.standard_normal((7, 2))
        boxes = program.term.boxes(0 * s, s)
        theta = boxes.low + (boxes.high - boxes.low) * rng.random(boxes.low.shape)
        quality = measure_splines(program, scale * rng.standard_normal(2), s, nu, theta)
        assert (quality.dual <= best + 1e-9 * abs(best)).all()


def test_numpy_and_torch_go_the_same_way() -> None:
    x, y, w = data_for("squared", channels=3)
    data = check_spline_data(
        x, y, np.linspace(-2, 2, 9), slopes=(0, 1), penalty=0.5, loss="squared", weights=w, odd=False, tolerance=1e-9
    )
    program = data.program.scaled(data.units)
    tensors = check_spline_data(
        x, y, np.linspace(-2, 2, 9), slopes=(0, 1), penalty=0.5, loss="squared", weights=w, odd=False, tolerance=1e-9,
        as_tensors=True,
    )  # fmt: skip
    other_program = tensors.program.scaled(tensors.units)
    ours = fit_scaled(program, start_point(program), 1e-9)
    other = fit_scaled(other_program, start_point(other_program), 1e-9)
    assert isinstance(other.s, torch.Tensor)
    assert np.allclose(ours.s, other.s.numpy(), atol=1e-9)
    assert ours.iterations.tolist() == other.iterations.tolist()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_cells_of_evenly_spaced_knots_are_those_that_a_search_finds(kind: str) -> None:
    rng = np.random.default_rng(0)
    for low, high, count in ((-1.0, 1.0, 101), (1e6, 1e6 + 1, 11), (-1e-9, 3e-9, 2), (0.1, 0.7, 3001)):
        knots = np.linspace(low, high, count)
        near = np.concatenate([np.nextafter(knots, -inf), knots, np.nextafter(knots, inf)])
        x = np.concatenate([near, rng.uniform(2 * low - high, 2 * high - low, 1000), [-1e12, 1e12]])[:, None]
        found = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, count - 2)
        given = (knots[:, None], x) if kind == "numpy" else (torch.tensor(knots)[:, None], torch.tensor(x))
        samples = sort_samples(given[0], given[1], given[1], given[1])
        assert np.array_equal(np.asarray(samples.cell), found)


@pytest.mark.parametrize("knots", [[-1.0, 0.0, 1.0], [-1.0, 0.1, 1.0]])
def test_the_value_at_no_number_is_none(knots: list[float]) -> None:
    fit = fit_splines([-1.0, 0.0, 1.0], [0.0, 0.0, 1.0], knots)
    assert np.array_equal(np.isnan(fit.values(np.array([[nan], [0.5], [inf]])))[:, 0], [True, False, False])


def test_tensors_come_back_as_tensors() -> None:
    x, y, _ = (torch.tensor(part) for part in data_for("squared"))
    fit = fit_splines(x.float(), y.float(), torch.linspace(-2, 2, 9), slopes=(0, 1))
    assert fit.slopes.dtype == torch.float64
    assert fit.solved
    assert torch.allclose(fit.values(fit.knots), fit.coefficients)


@pytest.mark.parametrize("penalty", [0.0, 1e-12, 1e-6, 1e4])
def test_extreme_penalties(penalty: float) -> None:
    x, y, w = data_for("squared")
    fit = fit_splines(x, y, np.linspace(-2, 2, 9), slopes=(-1, 1), penalty=penalty, weights=w)
    assert fit.solved
    best = reference(x[:, 0], y[:, 0], np.linspace(-2, 2, 9), weights=w[:, 0], slopes=(-1, 1), penalty=penalty)
    assert fit.objective[0] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("slopes", SLOPES, ids=str)
def test_a_single_input_is_a_mean(slopes: Any) -> None:
    y = np.array([[1.0, 4.0], [3.0, 4.0], [5.0, 4.0]])
    fit = fit_splines(np.full((3, 2), 0.3), y, [0.0, 1.0, 2.0], slopes=slopes)
    assert fit.solved
    assert fit.objective == pytest.approx([4.0, 0.0], abs=1e-7)
    assert fit.values(np.array([[0.3]]))[0] == pytest.approx([3.0, 4.0], abs=1e-3)


def test_a_channel_without_weight_gets_a_straight_line() -> None:
    x, y, w = data_for("poisson")
    w[:, 1] = 0
    for loss in LOSSES:
        fit = fit_splines(x, np.clip(y, 0, 1), [-1.0, 0.0, 2.0], weights=w, loss=loss)
        assert fit.solved, loss
        assert (fit.objective[1], fit.dual_value[1]) == (0, 0)
        assert np.ptp(fit.slopes[:, 1]) == 0


def test_odd_splines_are_folded() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(200)
    y = np.sign(x) * np.maximum(np.abs(x) - 0.4, 0) + 0.1 * rng.standard_normal(200)
    t = np.linspace(0, 3, 13)
    fit = fit_splines(x, y, t, slopes=(0, 1), odd=True)
    c, s = cp.Variable(13), cp.Variable(12)
    loss = cp.sum_squares(hat_matrix(t, np.abs(x)) @ c - np.sign(x) * y) / 2 + cp.norm1(cp.diff(s))
    best = cp.Problem(cp.Minimize(loss), [c[0] == 0, cp.diff(c) == cp.multiply(np.diff(t), s), s >= 0, s <= 1]).solve()
    assert fit.solved
    assert fit.coefficients[0, 0] == 0
    assert fit.objective[0] == pytest.approx(best, rel=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), knots=st.integers(2, 30), samples=st.integers(1, 60),
    unit=st.floats(-3, 3), height=st.floats(-3, 3), price=st.floats(-6, 0), kind=st.integers(0, 3),
)  # fmt: skip
def test_random_fits_are_verified(
    seed: int, knots: int, samples: int, unit: float, height: float, price: float, kind: int
) -> None:
    rng = np.random.default_rng(seed)
    unit, height = 10**unit, 10**height
    z = rng.normal(size=(samples, 2))
    x, y = unit * z, height * (np.tanh(z) + 0.1 * rng.normal(size=z.shape))
    t = np.unique(unit * np.concatenate([[-2.0, 2.0], rng.uniform(-2, 2, knots - 2)]))
    s = height / unit
    low, high = [(0, s), (-s, s), (0.01 * s, 10 * s), (-3 * s, 0.1 * s)][kind]
    weights = 10.0 ** rng.uniform(-3, 3, size=z.shape)
    fit = fit_splines(
        x, y, t, slopes=(low, high), penalty=samples * height * unit * 10**price, weights=weights, tolerance=1e-7
    )
    assert (fit.slope_violation == 0).all()
    # Rounding: sums over samples that are all but interpolated keep some digits of the sum of squares.
    squares = (weights * y**2).sum(0) / 2
    assert (fit.objective >= 0).all()
    assert (fit.objective - fit.dual_value <= 1e-7 * fit.objective + 1e-10 * squares).all(), fit


def test_what_misses_its_tolerance_says_so() -> None:
    x, y, _ = data_for("squared")
    fit = fit_splines(x, y, np.linspace(-2, 2, 9), slopes=(0, 1), tolerance=1e-30)
    assert [status is Status.SOLVED for status in fit.status] == (fit.relative_gap <= 1e-30).tolist()
    assert not fit.solved


BAD: list[tuple[str, dict[str, Any]]] = [
    ("NaN", {"y": [0.0, np.nan, 1.0]}),
    ("same number", {"y": [0.0, 1.0]}),
    ("do not increase", {"knots": [0.0, 0.0, 1.0]}),
    ("at least zero", {"weights": [1.0, -1.0, 1.0]}),
    ("penalty", {"penalty": -1.0}),
    ("penalty", {"penalty": np.nan}),
    ("below the upper", {"slopes": (1, 0)}),
    ("not in order", {"slopes": (np.array([2.0]), np.array([1.0]))}),
    ("expects 0 to 1", {"loss": "logistic", "y": [0.0, 1.0, 2.0]}),
    ("do not start at 0", {"odd": True, "knots": [1.0, 2.0]}),
    ("squared loss", {"odd": True, "loss": "absolute"}),
    ("tolerance", {"tolerance": 0.0}),
]


@pytest.mark.parametrize(("words", "given"), BAD, ids=[f"{k} {words}" for k, (words, _) in enumerate(BAD)])
def test_bad_input_is_refused(words: str, given: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 1.0], "knots": [0.0, 1.0], **given}
    with pytest.raises(UsageError, match=words):
        fit_splines(**arguments)


class TestExact:
    """Knots at the samples."""

    def make(self, samples: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x = np.clip(rng.normal(size=samples) * 0.5, -1, 1)
        return x, np.clip(1.5 * x, -0.4, 0.6) + 0.05 * rng.normal(size=samples)

    @pytest.mark.parametrize("slopes", ["firmly_nonexpansive", "nonexpansive", "free", "convex"])
    @pytest.mark.parametrize("loss", ["squared", "huber(0.1)", "absolute"])
    def test_no_grid_is_better(self, slopes: str, loss: str) -> None:
        x, y = self.make()
        fit = fit_spline_exact(x, y, slopes=slopes, penalty=0.05, loss=loss, tolerance=1e-8)
        assert fit.solved
        assert (fit.slope_violation == 0).all()
        w = np.ones((150, 1))
        assert objective_of(fit, x[:, None], y[:, None], w, 0.05, loss) == pytest.approx(fit.objective, rel=1e-7)
        assert len(fit.knots) < 60
        for knots in (5, 21, 81):
            grid = fit_splines(x, y, np.linspace(-1, 1, knots), slopes=slopes, penalty=0.05, loss=loss, tolerance=1e-8)
            assert fit.dual_value[0] <= grid.objective[0] * (1 + 1e-9)
            assert fit.objective[0] <= grid.objective[0] * (1 + 1e-7)

    def test_the_grid_comes_close(self) -> None:
        x, y = self.make()
        best = fit_spline_exact(x, y, slopes=(0, 1), penalty=0.05).objective[0]
        excess = [
            fit_splines(x, y, np.linspace(-1, 1, knots), slopes=(0, 1), penalty=0.05).objective[0] / best - 1
            for knots in (6, 21, 81, 321)
        ]
        assert excess == sorted(excess, reverse=True)
        assert excess[-1] < 1e-2 * excess[0]

    def test_few_knots_and_agreement_with_the_model(self) -> None:
        x, y = self.make(60)
        fit = fit_spline_exact(x, y, slopes=(0, 1), penalty=0.1)
        best = reference(x, y, np.unique(x), slopes=(0, 1), penalty=0.1)
        assert fit.objective[0] == pytest.approx(best, rel=1e-7)
        assert int(fit.kinks.sum()) <= 5

    def test_channels_at_once_and_single_inputs(self) -> None:
        x = np.stack([self.make(40)[0], np.zeros(40)], 1)
        fits = fit_spline_exact(x, np.stack([x[:, 0], np.arange(40.0)], 1), slopes="free")
        assert [fit.solved for fit in fits] == [True, True]
        assert fits[1].objective[0] == pytest.approx(0.5 * np.sum((np.arange(40) - 19.5) ** 2))

    def test_wrong_shapes_are_refused(self) -> None:
        with pytest.raises(UsageError, match="expected"):
            fit_spline_exact(np.zeros(3), np.zeros(4))


def test_a_predictor_that_is_cut_short_does_not_send_the_corrector_back_and_forth() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 2))
    y = np.tanh(x) + 0.1 * rng.normal(size=x.shape)
    weights = 10.0 ** rng.uniform(-3, 3, size=x.shape)
    fit = fit_splines(x, y, [-2.0, 2.0], slopes=(0, 1), penalty=0.4, weights=weights)
    assert fit.solved
    assert (fit.iterations < 12).all()


def test_the_dual_value_of_free_splines_is_that_of_multipliers_that_are_feasible() -> None:
    """Formed from samples, in another way: no multiplier is clipped and no straight line is priced."""
    x, y, w = data_for("squared")
    knots = np.linspace(-2, 2, 9)
    fit = fit_splines(x, y, knots, slopes="free", penalty=0.5, weights=w)
    program = check_spline_data(
        x, y, knots, slopes="free", penalty=0.5, loss="squared", weights=w, odd=False, tolerance=1e-9
    ).program
    rng = np.random.default_rng(0)
    for spread in (0.0, 1e-3, 1.0):
        s = fit.slopes + spread * rng.standard_normal(fit.slopes.shape)
        first = fit.coefficients[0] - np.average(y, weights=w, axis=0)
        quality = measure_splines(program, first, s, 0 * fit.multipliers, s[:0])
        for c in range(2):
            B = hat_matrix(knots, x[:, c])
            values = quality.first[c] + np.concatenate([[0.0], np.cumsum(np.diff(knots) * quality.s[:, c])])
            centred = y[:, c] - np.average(y[:, c], weights=w[:, c])
            theta = w[:, c] * (B @ values - centred)
            assert abs(theta @ B @ np.stack([np.ones(9), knots], 1)).max() < 1e-9
            # B' theta = D' nu, the second differences of nu divided by the widths.
            D = np.diff(np.diff(np.eye(9), axis=0) / np.diff(knots)[:, None], axis=0)
            nu = np.linalg.lstsq(D.T, B.T @ theta, rcond=None)[0]
            scale = np.linspace(0, min(2.0, 0.5 / np.abs(nu).max()), 100001)
            best = (-scale * (theta @ centred) - scale**2 / 2 * (theta**2 / w[:, c]).sum()).max()
            assert quality.dual[c] >= best - 1e-8 * fit.objective[c]
            assert quality.dual[c] <= fit.objective[c] * (1 + 1e-9)


def test_free_splines_close_at_penalties_that_cost_almost_nothing() -> None:
    """A reach in place of bounds is far off there: rounding times it was a hundred-thousandth of the objective."""
    rng = np.random.default_rng(0)
    for trial in range(10):
        z = rng.normal(size=(300, 4))
        x, y = 100.0 * (10 * (trial % 2) + z), np.tanh(z) + 0.1 * rng.normal(size=z.shape)
        weights = 10.0 ** rng.uniform(-3, 3, size=z.shape)
        fit = fit_splines(x, y, np.linspace(x.min(), x.max(), 5), slopes="free", penalty=1e-4, weights=weights)
        assert (fit.relative_gap <= 1e-8).all(), fit


def test_slopes_that_all_but_vanish_do_not_hide_what_they_miss() -> None:
    # At the huge penalty the iterates start with slopes of 1e-15; with two knots it costs nothing.
    rng = np.random.default_rng(0)
    x = rng.choice([0.8, 1.6], size=40)
    y = 1.0 * (rng.random(40) < np.where(x > 1, 0.7, 0.3))
    for slopes in ((-1, 1), "free"):
        fit = fit_splines(x, y, [0.8, 1.6], slopes=slopes, penalty=1e15, loss="logistic")
        best = fit_splines(x, y, [0.8, 1.6], slopes=slopes, penalty=0.0, loss="logistic")
        assert best.solved
        assert best.slopes[0, 0] > 0.99
        assert fit.dual_value <= best.objective * (1 + 1e-9)


def test_finite_bounds_count_however_far_they_are() -> None:
    # Slopes beyond a thousand times those of an iterate are among the splines that the lower bound speaks of.
    x = np.array([0.0, 1e-7, 1.0])
    y = np.array([0.0, 1.0, 0.5])
    data = check_spline_data(
        x, y, x, slopes=(-1e8, 1e8), penalty=0.0, loss="squared", weights=None, odd=False, tolerance=1e-9
    )
    for s in ([[0.0], [0.0]], [[1e-3], [1e-3]]):
        quality = measure_splines(data.program, data.program.level, np.array(s), np.zeros((1, 1)), np.zeros((0, 1)))
        assert quality.dual <= 1e-12


@pytest.mark.parametrize(("loss", "odd"), [("logistic", False), ("poisson", False), ("squared", True)])
def test_lines_without_bounds_have_no_inequalities(loss: str, odd: bool) -> None:
    x = np.linspace(0, 1, 30)
    y = 1.0 * (np.sin(40 * x) + x > 0.5)
    fit = fit_splines(x, y, [0.0, 1.0], slopes="free", loss=loss, odd=odd)
    assert fit.solved
    assert np.isfinite(fit.iterations).all()


def test_knots_are_kept_apart() -> None:
    x, knots = np.linspace(-1, 1, 20), np.linspace(-1, 1, 5)
    fit = fit_splines(x, x, knots)
    knots += 7
    np.testing.assert_array_equal(fit.knots[:, 0], np.linspace(-1, 1, 5))
