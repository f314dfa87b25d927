"""Ridge regularizers as disciplined programs: the potentials, the certificate of convexity, refusals."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from convexblocks.formulations import UsageError
from convexblocks.formulations.ridge_regularizer import RidgeDenoising, RidgeRefit, convexity_root


def huber(v: np.ndarray, width: float) -> np.ndarray:
    return np.where(np.abs(v) <= width, v**2, 2 * width * np.abs(v) - width**2)


def test_identity_behind_the_concave_part() -> None:
    u, height = np.linspace(-3, 3, 61), 0.7
    right = np.maximum(np.abs(u) - height, 0) ** 2 / 2
    np.testing.assert_allclose(u**2 / 2 - huber(u, height) / 2, right, atol=1e-14)


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_value_is_the_energy_at_any_image(rho: float) -> None:
    rng = np.random.default_rng(0)
    W = rng.normal(size=(7, 5))
    W /= np.linalg.norm(W, 2)
    slope, height = rng.uniform(2, 9, 7), rng.uniform(0.1, 1, 7)
    block = RidgeDenoising(pixels=5, responses=7, weakly_convex=rho > 0)
    y, x = rng.normal(size=5), rng.normal(size=5)
    problem = block.program()
    for parameter in problem.parameters():
        value = block.data([y], W, slope=slope, height=height, rho=rho)[parameter.name()]
        parameter.value = value if block.is_shared(parameter.name()) else value[0]
    fixed = cp.Problem(problem.objective, [*problem.constraints, problem.var_dict["x"] == x])
    u = W @ x
    potentials = [
        k / 2 * huber(v, h / k) - rho / 2 * huber(v, h) for k, h, v in zip(slope, height, u, strict=True)
    ]
    expected = ((x - y) ** 2).sum() / 2 + sum(potentials)
    assert fixed.solve(solver=cp.CLARABEL) == pytest.approx(expected, rel=1e-7)


def test_certificate_of_convexity() -> None:
    W = np.random.default_rng(1).normal(size=(6, 4))
    W /= np.linalg.norm(W, 2)
    S = convexity_root(W, 1.0)
    np.testing.assert_allclose(S.T @ S, np.eye(4) - W.T @ W, atol=1e-12)
    with pytest.raises(UsageError, match="expected at most 1"):
        convexity_root(1.01 * W, 1.0)


def test_refusals() -> None:
    block = RidgeDenoising(pixels=2, responses=1, weakly_convex=False)
    good = {"slope": [1.0], "height": [1.0]}
    with pytest.raises(UsageError, match="W has shape"):
        block.data([[0.0, 1.0]], np.ones((2, 2)), **good)
    with pytest.raises(UsageError, match="above zero"):
        block.data([[0.0, 1.0]], np.ones((1, 2)), slope=[0.0], height=[1.0])
    with pytest.raises(UsageError, match="weakly_convex is False"):
        block.data([[0.0, 1.0]], np.ones((1, 2)), rho=1.0, **good)
    with pytest.raises(UsageError, match="pixels"):
        RidgeDenoising(pixels=0)


def test_refit_keeps_to_the_cap() -> None:
    rng = np.random.default_rng(2)
    block = RidgeRefit(channels=2, cells=3, frequencies=5)
    problem, H = block.program(), rng.uniform(size=(5, 2))
    data = {"R": rng.normal(size=(6, 6)), "d": 10 * rng.uniform(size=6), "H": H, "price": 0.1, "cap": 2.0}
    for name, value in data.items():
        problem.param_dict[name].value = value
    problem.solve(solver=cp.CLARABEL)
    s = problem.var_dict["s"].value
    assert s.min() > -1e-7
    assert (H @ s.max(axis=1)).max() == pytest.approx(2.0, abs=1e-6)


def test_refit_of_one_cell_has_no_jumps() -> None:
    """Slopes of linear activations: projected least squares, against its closed form without the cap."""
    block = RidgeRefit(channels=2, cells=1, frequencies=3)
    assert block.program().is_dcp(dpp=True)
    assert "error of the denoiser" in block.show()
    problem = block.program()
    data = {"R": np.diag([2.0, 1.0]), "d": np.array([1.0, -3.0]), "H": np.full((3, 2), 0.01), "cap": 2.0}
    for parameter in problem.parameters():
        parameter.value = data[parameter.name()]
    problem.solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(problem.var_dict["s"].value.ravel(), [0.5, 0.0], atol=1e-6)
