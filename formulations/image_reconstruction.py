"""Images from linear measurements as disciplined convex programs: total variation, and learned convex regularizers.

Of an image x of pixels between 0 and 1 the measurements y = H x + noise are known: blurred, incomplete, a part of its
Fourier transform, or sums along lines. Both programs weigh 1/2 |H x - y|^2 against what images are like.
"""

from __future__ import annotations

from typing import Any, ClassVar

import cvxpy as cp
import numpy as np

from .description import Symbol
from .errors import UsageError
from .ridge_regularizer import CONVEX_PAPER
from .subproblem import PER_INSTANCE, SHARED, Subproblem, require_nonnegative, require_size

TOTAL_VARIATION_PAPER = "Rudin, Osher & Fatemi, Physica D 60 (1992), for the total variation of images"


class TotalVariationReconstruction(Subproblem):
    """The image between 0 and 1 that fits its measurements and has little total variation.

        minimize    1/2 |H x - y|^2  +  price sum_i |(v_i, h_i)|
        subject to  v = D1 x,   h = D2 x,   0 <= x <= 1

    Variables   x (pixels,)                the image
                v, h (pixels,)             differences to the next row, the next column
    Data        y (measurements,)          what was measured                              per instance
                H (measurements, pixels)   the measuring                                  shared
                D1, D2 (pixels, pixels)    matrices of these differences                  shared
                price                      >= 0                                           shared
    Convex: a sum of squares and of Euclidean norms of linear functions (the isotropic total variation).

    The reference for small images; `reconstruct_tv` (solvers/total_variation.py) is the fast solver.
    Source      Rudin, Osher & Fatemi, "Nonlinear total variation based noise removal algorithms", Physica D 60 (1992).

    Parameters
    ----------
    pixels, measurements : int
        Sizes.

    Raises
    ------
    UsageError
        For a size below 1.

    Examples
    --------
    >>> block = TotalVariationReconstruction(pixels=4, measurements=4)
    >>> data = block.data([[0.1, 0.1, 0.9, 0.9]], np.eye(4), columns=1, price=0.1)
    >>> for parameter in block.program().parameters():
    ...     value = data[parameter.name()]
    ...     parameter.value = value if block.is_shared(parameter.name()) else value[0]
    >>> print(f"{block.program().solve():.4f}", block.program().var_dict["x"].value.round(3))
    0.0750 [0.15 0.15 0.85 0.85]
    """

    name: ClassVar[str] = "image.tv"
    source = TOTAL_VARIATION_PAPER
    instance = "one image"
    symbols = (
        Symbol("x", "the image", PER_INSTANCE, r"\mathbf{x}"),
        Symbol("v", "differences to the next row", PER_INSTANCE, r"\mathbf{v}"),
        Symbol("h", "differences to the next column", PER_INSTANCE, r"\mathbf{h}"),
        Symbol("y", "measurements", PER_INSTANCE, r"\mathbf{y}"),
        Symbol("H", "the measuring", SHARED),
        Symbol("D1", "matrix of the differences to the next row", SHARED, "D_1"),
        Symbol("D2", "matrix of the differences to the next column", SHARED, "D_2"),
        Symbol("price", "price of the total variation", SHARED, r"\lambda"),
    )

    def __init__(self, *, pixels: int = 9, measurements: int = 6) -> None:
        require_size(pixels=pixels, measurements=measurements)
        self.pixels, self.measurements = pixels, measurements
        self.prepare()

    def write(self) -> cp.Problem:
        n, m = self.pixels, self.measurements
        x, v, h = (cp.Variable(n, name=name) for name in "xvh")
        y = cp.Parameter(m, name="y")
        H, price = cp.Parameter((m, n), name="H"), cp.Parameter(nonneg=True, name="price")
        D1, D2 = cp.Parameter((n, n), name="D1"), cp.Parameter((n, n), name="D2")

        fit = (0.5 * cp.sum_squares(H @ x - y)).set_label("misfit")
        variation = (price * cp.sum(cp.norm(cp.vstack([v, h]), 2, axis=0))).set_label("total variation")
        rows = [
            (v == D1 @ x).set_label("differences to the next row"),
            (h == D2 @ x).set_label("differences to the next column"),
            (x >= 0).set_label("black"),
            (x <= 1).set_label("white"),
        ]
        return cp.Problem(cp.Minimize(fit + variation), rows)

    def data(self, measured: Any, H: Any, *, columns: int, price: float) -> dict[str, np.ndarray]:
        """Name -> array, as `solve` takes it: a batch of measurements.

        Parameters
        ----------
        measured : array, shape (batch, measurements)
        H : array, shape (measurements, pixels)
        columns : int
            Of the image, whose pixels are numbered row by row; rows = pixels / columns.
        price : float
            Of the total variation.

        Raises
        ------
        UsageError
            If the shapes do not fit, or the price is below zero.
        """
        require_nonnegative(price=price)
        if columns < 1 or self.pixels % columns:
            raise UsageError(f"columns is {columns}; expected a divisor of {self.pixels}, the number of pixels.")
        y, H = _measured(measured, H, self.measurements, self.pixels)
        rows = self.pixels // columns
        D1 = np.kron(_differences(rows), np.eye(columns))
        D2 = np.kron(np.eye(rows), _differences(columns))
        return {"y": y, "H": H, "D1": D1, "D2": D2, "price": np.asarray(float(price))}


class RidgeReconstruction(Subproblem):
    """The image between 0 and 1 that fits its measurements, with a convex ridge regularizer.

        minimize    1/2 |H x - y|^2  +  sum_r a_r huber(v_r, 1)
        subject to  v = A x,   0 <= x <= 1

    Variables   x (pixels,)                the image
                v (responses,)             filter responses over the width of the quadratic part
    Data        y (measurements,)          what was measured                                      per instance
                H (measurements, pixels)   the measuring                                          shared
                A (responses, pixels)      rows of W, times slope_r/height_r                      shared
                a (responses,)             price height^2/(2 slope)                               shared
    Convex: a sum of squares and of Huber functions of linear functions.

    The potential price (slope/2) huber(u, height/slope) is that of formulations/ridge_regularizer.py with rho = 0. The
    reference for small images; `reconstruct_ridge` (solvers/ridge_reconstruction.py) is the fast solver.
    Source      Goujon et al., "A neural-network-based convex regularizer for inverse problems", IEEE TCI 2023.

    Parameters
    ----------
    pixels, measurements, responses : int
        Sizes.

    Raises
    ------
    UsageError
        For a size below 1.
    """

    name: ClassVar[str] = "image.ridge"
    source = CONVEX_PAPER
    instance = "one image"
    symbols = (
        Symbol("x", "the image", PER_INSTANCE, r"\mathbf{x}"),
        Symbol("v", "filter responses over the width of the quadratic part", PER_INSTANCE, r"\mathbf{v}"),
        Symbol("y", "measurements", PER_INSTANCE, r"\mathbf{y}"),
        Symbol("H", "the measuring", SHARED),
        Symbol("A", "filters, scaled", SHARED),
        Symbol("a", "weights of the Huber functions", SHARED, r"\mathbf{a}"),
    )

    def __init__(self, *, pixels: int = 9, measurements: int = 6, responses: int = 18) -> None:
        require_size(pixels=pixels, measurements=measurements, responses=responses)
        self.pixels, self.measurements, self.responses = pixels, measurements, responses
        self.prepare()

    def write(self) -> cp.Problem:
        n, m, k = self.pixels, self.measurements, self.responses
        x, v = cp.Variable(n, name="x"), cp.Variable(k, name="v")
        y, H = cp.Parameter(m, name="y"), cp.Parameter((m, n), name="H")
        A, a = cp.Parameter((k, n), name="A"), cp.Parameter(k, nonneg=True, name="a")

        fit = (0.5 * cp.sum_squares(H @ x - y)).set_label("misfit")
        prior = cp.sum(cp.multiply(a, cp.huber(v, 1))).set_label("regularizer")
        rows = [
            (v == A @ x).set_label("scaled responses"),
            (x >= 0).set_label("black"),
            (x <= 1).set_label("white"),
        ]
        return cp.Problem(cp.Minimize(fit + prior), rows)

    def data(
        self, measured: Any, H: Any, W: Any, *, slope: Any, height: Any, price: float = 1.0
    ) -> dict[str, np.ndarray]:
        """Name -> array, as `solve` takes it: a batch of measurements and one regularizer.

        Parameters
        ----------
        measured : array, shape (batch, measurements)
        H : array, shape (measurements, pixels)
        W : array, shape (responses, pixels)
        slope, height : array, shape (responses,)
            Of the potentials, above zero.
        price : float
            Of the regularizer.

        Raises
        ------
        UsageError
            If the shapes do not fit, the price is below zero, or slope or height is not above zero.
        """
        require_nonnegative(price=price)
        y, H = _measured(measured, H, self.measurements, self.pixels)
        W, slope, height = (np.asarray(value, dtype=float) for value in (W, slope, height))
        seen = (W.shape, slope.shape, height.shape)
        expected = ((self.responses, self.pixels), (self.responses,), (self.responses,))
        if seen != expected:
            raise UsageError(f"W, slope and height have the shapes {seen}; expected {expected}.")
        if not (slope > 0).all() or not (height > 0).all():
            raise UsageError("slope or height has entries that are not above zero; expected numbers above zero.")
        return {"y": y, "H": H, "A": W * (slope / height)[:, None], "a": price * height**2 / (2 * slope)}


def _measured(measured: Any, H: Any, measurements: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    y, H = np.asarray(measured, dtype=float), np.asarray(H, dtype=float)
    if y.shape[1:] != (measurements,) or H.shape != (measurements, pixels):
        raise UsageError(
            f"measured and H have the shapes {y.shape} and {H.shape}; expected (batch, {measurements}) and "
            f"({measurements}, {pixels})."
        )
    return y, H


def _differences(size: int) -> np.ndarray:
    """To the next entry; zero at the last."""
    matrix = np.eye(size, k=1) - np.eye(size)
    matrix[-1] = 0
    return matrix
