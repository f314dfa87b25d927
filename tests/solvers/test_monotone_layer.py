"""Exact solutions of a layer's variational inequality, and the published stochastic steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from instances import conditioned

from convexblocks.formulations import ACTIVATIONS, LOSSES, MonotoneLayer, UsageError, activation
from convexblocks.solvers import ball_newton, fit_layer, solve, stochastic_steps

ALL = (*ACTIVATIONS, *LOSSES)
MODELLED = [name for name in ALL if name in LOSSES or activation(name).has_model]
KINDS = ("random", "ill-scaled", "degenerate", "separable")
SAMPLES, INPUTS, UNITS = 15, 4, 3


def block_of(which: str, **settings: Any) -> MonotoneLayer:
    role = {"loss": which} if which in LOSSES else {"activation": which}
    units = 1 if which == "logistic" else UNITS
    return MonotoneLayer(samples=SAMPLES, inputs=INPUTS, units=units, **role, **{"radius": 0.7, **settings})


def data_of(block: MonotoneLayer, kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Two layers of targets for the same features."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((SAMPLES, INPUTS))
    if kind == "ill-scaled":
        X = conditioned(rng, SAMPLES, INPUTS, 1e4, 10.0)
    elif kind == "degenerate":
        X[:, 0] = 0
        X[2] = X[1]
        X[:, -1] = X[:, -2]
    u = rng.standard_normal((2, SAMPLES, block.units))
    # What a layer far outside of the ball gives: it saturates, the ball is active.
    y = block.activation.phi(u if kind != "separable" else 20 * X @ rng.standard_normal((2, INPUTS, block.units)))
    return {"X": X, "y": y.clip(-5, 5) if not block.activation.couples_units else y}


def reference(block: MonotoneLayer, data: dict[str, np.ndarray]) -> np.ndarray:
    """Optimal values by Clarabel; where it gives up (saturated layers with kinks in a ball) by SCS."""
    found = np.full(len(data["y"]), np.nan)
    for engine, tolerance in (("clarabel", 1e-5), ("scs", 1e-7)):
        failed = ~np.isfinite(found)
        if failed.any():
            part = {"X": data["X"], "y": data["y"][failed]}
            solution = solve(block, part, engine=engine, tolerance=tolerance)
            values = {name: solution.variables[name].numpy() for name in ("W", "c") if name in solution.variables}
            found[failed] = block.objective(values, part)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", MODELLED)
def test_agrees_with_clarabel(which: str, kind: str) -> None:
    for settings in ({}, {"weight_decay": 0.3, "bias": False}, {"radius": None, "weight_decay": 0.3}):
        block = block_of(which, **settings)
        data = data_of(block, kind)
        found = solve(block, data, tolerance=1e-9)
        assert found.engine == "ball_newton"
        assert found.solved, (settings, found.residuals.worst())
        ours = block.objective({name: value.numpy() for name, value in found.variables.items()}, data)
        theirs = reference(block, data)
        # They may leave the ball by their own tolerance, and be lower by as much.
        assert (ours <= theirs + 1e-6 * (1 + abs(theirs))).all()
        np.testing.assert_allclose(ours, theirs, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ALL)
def test_the_natural_residual_is_small_whatever_the_scale(which: str, kind: str) -> None:
    block = block_of(which)
    data = data_of(block, kind, 3)
    found = solve(block, data, tolerance=1e-13)
    scale = 1 + abs(data["X"]).max() * (1 + abs(data["y"]).max())
    values = {name: value.numpy() for name, value in found.variables.items()}
    assert (block.natural_residual(values, data) <= 1e-6 * scale).all()
    assert (np.linalg.norm(block.pack(values), axis=(1, 2)) <= 0.7 * (1 + 1e-12)).all()
    if kind == "separable":
        np.testing.assert_allclose(np.linalg.norm(block.pack(values), axis=(1, 2)), 0.7, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["relu", "sigmoid", "probit", "softmax", "squared"])
def test_the_search_for_the_multiplier_gives_the_same(
    which: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = block_of(which, weight_decay=0.05)
    data = data_of(block, kind, 5)
    dense = solve(block, data, tolerance=1e-12)
    monkeypatch.setattr(ball_newton, "LARGEST_DENSE", 1)
    searched = solve(block, data, tolerance=1e-12)
    ours, theirs = (block.objective(dict(each.variables), {k: torch.as_tensor(v) for k, v in data.items()})
                    for each in (searched, dense))  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
    # Weight decay leaves one solution in the weights, whatever the features.
    torch.testing.assert_close(dense.variables["W"], searched.variables["W"], rtol=2e-6, atol=2e-6)
    if kind == "separable":
        # On the boundary of the ball its multiplier bends the objective in the biases too.
        torch.testing.assert_close(dense.variables["c"], searched.variables["c"], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("radius", [None, 1e3, 1e9])
@pytest.mark.parametrize("which", ["squared", "softmax"])
def test_columns_of_any_scale_are_solved(which: str, radius: float | None) -> None:
    """What is added to a Hessian must be small beside every column, not beside their mean."""
    rng = np.random.default_rng(0)
    scales = np.logspace(-4, 4, INPUTS)
    Z = rng.standard_normal((SAMPLES, INPUTS))
    settings = {"weight_decay": 1e-12, "bias": False}
    block = block_of(which, radius=radius, **settings)
    y = rng.standard_normal((1, SAMPLES, UNITS))
    y = y if which == "squared" else np.eye(UNITS)[rng.integers(UNITS, size=SAMPLES)][None]
    found = solve(block, {"X": Z * scales, "y": y}, tolerance=1e-12)
    W = found.variables["W"][0].numpy()
    if radius is None or radius > 1e8:
        # Far from the ball, and with next to no weight decay, scales do not matter; softmax sees no common shift.
        plain = solve(block_of(which, radius=None, **settings), {"X": Z, "y": y}, tolerance=1e-12)
        ours, theirs = W * scales, plain.variables["W"][0].numpy()
        if which == "softmax":
            ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    data = {"X": Z * scales, "y": y}
    residual = block.natural_residual({"W": W[None]}, data)
    assert (residual <= 1e-6).all()


def test_a_warm_start_costs_nothing() -> None:
    block = block_of("sigmoid")
    data = data_of(block, "random")
    first = solve(block, data, tolerance=1e-10)
    again = solve(block, data, tolerance=1e-8, warm_start=first)
    assert int(again.iterations.max()) == 0
    assert int(first.iterations.min()) > 0


def simulated(p: int, samples: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(p)
    X = rng.normal(0.05, 1, (samples, p))
    chance = activation("sigmoid").phi(X @ rng.normal(-0.05, 1, p) / 2)
    return X, (rng.uniform(size=samples) < chance).astype(int)


@pytest.mark.parametrize("which", ["logistic", "sigmoid", "probit"])
def test_exact_solutions_beat_stochastic_steps(which: str) -> None:
    X, y = simulated(10)
    exact = fit_layer(X, y, which, radius=3.0)
    assert exact.natural_residual < 1e-10
    assert exact.gap < 1e-10
    steps = [stochastic_steps(X, y, which, radius=3.0, rate=rate, batch_size=50) for rate in (0.3, 3.0, 30.0)]
    assert min(found.natural_residual for found in steps) > 1e-4
    last = stochastic_steps(X, y, which, radius=3.0, rate=3.0, batch_size=50, averaged=False)
    assert last.natural_residual > 1e-4
    assert not torch.equal(last.weight, steps[1].weight)
    # They aim at the same point.
    assert min(float((found.weight - exact.weight).norm()) for found in steps) < 0.5
    # The gap bounds the distance where the modulus is positive.
    for found in steps:
        distance = float((found.weight - exact.weight).norm() ** 2 + (found.bias - exact.bias).norm() ** 2)
        assert found.modulus * distance <= found.gap + exact.gap


def test_the_strongly_monotone_rate() -> None:
    """Least squares: steps 1/(kappa (k + 1)) bring the squared distance down like 1/k."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3))
    y = X @ [1.0, -2.0, 0.5] + 0.1 * rng.standard_normal(200)
    exact = fit_layer(X, y, "squared", radius=10.0)
    np.testing.assert_allclose(exact.weight[0].numpy(), np.linalg.lstsq(np.c_[X, np.ones(200)], y)[0][:3], atol=1e-9)
    squares = [
        np.mean([float((stochastic_steps(X, y, "squared", radius=10.0, steps=steps, batch_size=5, random_state=seed)
                        .weight - exact.weight).norm() ** 2) for seed in range(5)])
        for steps in (40, 1280)
    ]  # fmt: skip
    assert squares[1] < squares[0] / 4
    assert exact.modulus > 0.5


def test_equal_seeds_give_equal_steps() -> None:
    X, y = simulated(4, 60)
    runs = [stochastic_steps(X, y, "sigmoid", radius=2.0, rate=1.0, steps=20, batch_size=10, random_state=seed)
            for seed in (1, 1, 2)]  # fmt: skip
    assert torch.equal(runs[0].weight, runs[1].weight)
    assert not torch.equal(runs[0].weight, runs[2].weight)


def test_refusals_say_what_is_wrong() -> None:
    X, y = simulated(4, 20)
    with pytest.raises(UsageError, match="neither a ball nor weight decay"):
        fit_layer(X, y, "sigmoid")
    with pytest.raises(UsageError, match="'magic' is neither an activation nor a loss"):
        fit_layer(X, y, "magic", radius=1.0)
    with pytest.raises(UsageError, match="away from the range of 'relu'"):
        fit_layer(X, y - 0.5, "relu", radius=1.0)
    with pytest.raises(UsageError, match="modulus of the operator is zero"):
        stochastic_steps(X, y, "softmax_cross_entropy", radius=1.0)
    with pytest.raises(UsageError, match="the features has shape"):
        fit_layer(X[0], y, "sigmoid", radius=1.0)
