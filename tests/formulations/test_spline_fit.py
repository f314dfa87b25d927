"""The block of spline fits: its losses, its properties, and what it refuses."""

from __future__ import annotations

import warnings
from math import inf
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from typer.testing import CliRunner

from convexblocks.commands.main import app
from convexblocks.formulations import SlopeSpline, UsageError, slope_property, spline_loss

LOSSES = ("squared", "huber(0.3)", "absolute", "quantile(0.9)", "logistic", "poisson")


@pytest.mark.parametrize("name", LOSSES)
def test_arrays_and_models_of_a_loss_agree(name: str) -> None:
    loss, rng = spline_loss(name), np.random.default_rng(0)
    f, y = 2 * rng.standard_normal(30), rng.random(30)
    model = loss.model(cp.Constant(f - y if loss.curvature is None else f)).value
    assert np.allclose(model - (0 if loss.curvature is None else y * f), loss.value(f, y), atol=1e-12)
    # Fenchel: equality at the derivative, an inequality elsewhere in the domain.
    theta = loss.slope(f, y)
    assert np.allclose(loss.value(f, y), theta * f - loss.conjugate(theta, y), atol=1e-12)
    assert (loss.value(f, y) - (0.3 * theta * f - loss.conjugate(0.3 * theta, y)) > -1e-12).all()
    assert (loss.value(f, y) >= loss.lowest(y) - 1e-12).all()


def test_properties_are_bounds() -> None:
    assert (slope_property("weakly_convex_gradient(0.5)").low, slope_property("monotone").high) == (-0.5, inf)
    assert (slope_property("contraction(0.3)").low, slope_property((0, 1)).high) == (-0.3, 1.0)
    assert slope_property("convex").convex


WRONG_SLOPES = ["1,0", "nan,1", "0,0", "lipschitz", "contraction(2)", "contraction", "1,2,3", "inf,inf"]


@pytest.mark.parametrize("wrong", WRONG_SLOPES)
def test_wrong_slopes_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        slope_property(wrong)


@pytest.mark.parametrize("wrong", ["cubic", "huber(0)", "quantile(1)", "squared(2)", "huber(x)"])
def test_wrong_losses_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError):
        spline_loss(wrong)


@pytest.mark.parametrize("settings", [{"knots": 1}, {"samples": 0}, {"knots": 2.5}])
def test_wrong_sizes_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SlopeSpline(**settings)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("slopes", ["firmly_nonexpansive", "monotone", "convex", "free"])
def test_every_model_is_disciplined_and_shown(loss: str, slopes: str) -> None:
    block = SlopeSpline(loss=loss, slopes=slopes)
    assert block.program().is_dcp(dpp=True)
    assert "penalty of kinks" in block.show()


def test_two_knots_are_a_line_without_kinks() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-1, 1, 20), rng.standard_normal(20)
    block = SlopeSpline.of(x, y, knots=[-1.0, 1.0], penalty=5.0)
    assert SlopeSpline(knots=2, slopes="convex").program().is_dcp(dpp=True)
    assert "penalty of kinks" not in block.show()
    problem = block.program()
    problem.solve(solver=cp.CLARABEL)
    slope, value = np.polyfit(x, y, 1)
    np.testing.assert_allclose(problem.var_dict["c"].value, [value - slope, value + slope], atol=1e-6)


def test_sums_over_cells_are_the_same_program() -> None:
    """The 2 x 2 Cholesky factors of the cells, and the constant that they leave."""
    rng = np.random.default_rng(1)
    x, t = rng.uniform(-1, 1, 60), np.linspace(-1, 1, 8)
    y = np.tanh(3 * x) + 0.1 * rng.standard_normal(60)
    rows = SlopeSpline.of(x, y, knots=t, penalty=0.2, slopes=(0, 1)).program().solve(solver=cp.CLARABEL)
    cell = np.clip(np.searchsorted(t, x, side="right") - 1, 0, 6)
    u, v, s, total = x - t[cell], cp.Variable(7), cp.Variable(7), 0.5 * y @ y
    loss: Any = 0
    for k in range(7):
        A = np.stack([np.ones((cell == k).sum()), u[cell == k]], 1)
        Q, R = np.linalg.qr(A)
        d = Q.T @ y[cell == k]
        loss += 0.5 * cp.sum_squares(R @ cp.hstack([v[k], s[k]]) - d)
        total -= 0.5 * d @ d
    rules = [v[1:] == v[:-1] + cp.multiply(np.diff(t)[:-1], s[:-1]), s >= 0, s <= 1]
    sums = cp.Problem(cp.Minimize(loss + 0.2 * cp.norm1(cp.diff(s))), rules).solve(solver=cp.CLARABEL)
    assert sums + total == pytest.approx(rows, rel=1e-7)


def test_the_command_shows_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(app, ["show", "spline.fit", "--latex"])
    assert result.exit_code == 0
    assert r"\mathbf{s}" in result.stdout
