"""Two ways to solve for the Newton step of a spline fit agree, with each other and with its optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest

from convexblocks.solvers import fit_splines, spline_banded, spline_interior, spline_riccati


def step(cells: int, spread: int, *, shared: bool = False, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Widths, Q0, Q1, Q2, S and linear terms of three channels; weights over twice `spread` orders of magnitude."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(cells, 2, 2, 3))
    Q = np.einsum("kijc,kljc->kilc", A, A)
    slopes, jumps = (10.0 ** rng.uniform(-spread, spread, size=(size, 3)) for size in (cells, cells - 1))
    widths = rng.uniform(0.1, 2, size=(cells, 1 if shared else 3)) / cells
    g0, g1, linear = rng.normal(size=(cells, 3)), rng.normal(size=(cells, 3)), rng.normal(size=(cells - 1, 3))
    return widths, Q[:, 0, 0], Q[:, 0, 1], Q[:, 1, 1] + slopes, jumps, g0, g1, linear


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("spread", [0, 6, 12])
@pytest.mark.parametrize("cells", [1, 2, 5, 300])
def test_sweeps_and_bands_agree(cells: int, spread: int, pinned: bool) -> None:
    *matrix, g0, g1, linear = step(cells, spread, shared=cells == 5)
    bands = spline_banded.factorize(*matrix, pinned=pinned)
    assert bands is not None
    found = spline_banded.substitute(bands, g0, g1, linear, pinned=pinned)
    expected = spline_riccati.substitute(spline_riccati.factorize(*matrix), g0, g1, linear, pinned=pinned)
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-7, atol=1e-9 * np.abs(other).max(initial=1e-300))
    v, s, forces = found
    if pinned:
        np.testing.assert_allclose(v[0], 0, atol=1e-300)
    widths, S = matrix[0], matrix[-1]
    np.testing.assert_allclose(v[1:], (v + widths * s)[:-1], atol=1e-12 * np.abs(v).max())
    np.testing.assert_allclose(np.diff(s, axis=0), S * forces, atol=1e-12 * np.abs(s).max())


def test_a_singular_matrix_is_told() -> None:
    zeros = np.zeros((3, 1))
    assert spline_banded.factorize(np.ones((3, 1)), zeros, zeros, zeros, zeros[1:], pinned=False) is None


@pytest.mark.parametrize("loss", ["squared", "huber", "logistic"])
def test_fits_are_the_same_in_small_batches(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, knots = rng.normal(size=(200, 3)), np.linspace(-2, 2, 41)
    y = (np.sin(2 * x) + 0.1 * rng.normal(size=x.shape) > 0).astype(float)
    few = fit_splines(x, y, knots, slopes=(-2, 1), penalty=0.3, loss=loss)
    monkeypatch.setattr(spline_interior, "FEW", 0)
    many = fit_splines(x, y, knots, slopes=(-2, 1), penalty=0.3, loss=loss)
    assert few.solved
    assert many.solved
    np.testing.assert_allclose(few.objective, many.objective, rtol=3e-9)
