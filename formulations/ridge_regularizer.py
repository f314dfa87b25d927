"""Ridge regularizers as disciplined convex programs: denoising, and the fit of all activations of one step.

A ridge regularizer sums potentials of filter responses, R(x) = sum_r psi_r((W x)_r). The potentials here are

    psi(u) = slope/2 huber(u, height/slope) - rho/2 huber(u, height),     huber(v, M) = v^2 up to M, 2M|v| - M^2 after,

convex for rho = 0. Splines learned by the papers are of this form: Huber's potential for rho = 0; for rho = 1 one that
is flat for |u| >= height. The sum is then weakly convex, and 1/2 |x - y|^2 + R(x) is convex if rho |W|^2 <= 1, because

    -1/2 huber(u, height) = 1/2 pos(|u| - height)^2 - 1/2 u^2,     1/2 |x|^2 - rho/2 |W x|^2 = 1/2 x'(I - rho W'W)x.
"""

from __future__ import annotations

from typing import Any, ClassVar

import cvxpy as cp
import numpy as np

from .description import Symbol
from .errors import UsageError
from .subproblem import PER_INSTANCE, SHARED, Subproblem, require_size

CONVEX_PAPER = 'Goujon et al., "A neural-network-based convex regularizer for inverse problems", IEEE TCI 2023 (CRR)'
WEAKLY_CONVEX_PAPER = 'Goujon, Neumayer & Unser, "Learning weakly convex regularizers", SIAM J. Imaging Sci., 2024'


class RidgeDenoising(Subproblem):
    """Denoising with a ridge regularizer: 1/2 |x - y|^2 + sum_r psi_r((W x)_r).

        minimize    1/2 |S x|^2 - y'x + c  +  sum_r a_r huber(v_r, 1)  +  sum_r b_r e_r^2
        subject to  v = A x,   e >= |v| - k,   e >= 0

    Variables   x (pixels,)              the image
                v (responses,)           filter responses over the width of the quadratic part, (W x)_r slope_r/height_r
                e (responses,)           how far |v| exceeds k, where the potential is flat or falling; only if rho > 0
    Data        y (pixels,)              the noisy image                                         per instance
                c                        1/2 |y|^2                                               per instance
                A (responses, pixels)    rows of W, times slope_r/height_r                       shared
                a (responses,)           height^2/(2 slope)                                      shared
                b, k (responses,)        rho (height/slope)^2/2, and the slope; only if rho > 0  shared
                S (pixels, pixels)       S'S = I - rho W'W                                       shared
    Convex because it is a sum of squares, Huber functions and positive parts of affine expressions. S exists exactly if
    rho |W|^2 <= 1: it is the certificate of convexity. Without a concave part (rho = 0) S = I.

    Meant as specification and reference for small images; `denoise` (solvers/ridge_denoising.py) is the fast solver.
    Source      Goujon et al., IEEE TCI 2023 (rho = 0); Goujon, Neumayer & Unser, SIAM J. Imaging Sci. 2024 (rho > 0);
                this form of the latter is derived at the opening of this file.

    Parameters
    ----------
    pixels : int
        Pixels of the image.
    responses : int
        Rows of W: channels times positions.
    weakly_convex : bool
        Whether there is a concave part.

    Raises
    ------
    UsageError
        For a size below 1.

    Examples
    --------
    >>> import numpy as np
    >>> W = np.array([[-1.0, 1.0]]) / 2
    >>> block = RidgeDenoising(pixels=2, responses=1, weakly_convex=False)
    >>> data = block.data([[0.0, 1.0]], W, slope=[100.0], height=[0.2])
    >>> for parameter in block.program().parameters():
    ...     value = data[parameter.name()]
    ...     parameter.value = value if block.is_shared(parameter.name()) else value[0]
    >>> print(f"{block.program().solve():.4f}", block.program().var_dict["x"].value.round(4))
    0.0898 [0.1 0.9]
    """

    name: ClassVar[str] = "ridge.denoise"
    source = f"{CONVEX_PAPER}; {WEAKLY_CONVEX_PAPER}"
    instance = "one image"

    def __init__(self, *, pixels: int = 9, responses: int = 18, weakly_convex: bool = True) -> None:
        require_size(pixels=pixels, responses=responses)
        self.pixels, self.responses, self.weakly_convex = pixels, responses, weakly_convex
        self.symbols = self._symbols()
        self.prepare()

    def write(self) -> cp.Problem:
        n, m = self.pixels, self.responses
        x, v = cp.Variable(n, name="x"), cp.Variable(m, name="v")
        y, c = cp.Parameter(n, name="y"), cp.Parameter(nonneg=True, name="c")
        A, S = cp.Parameter((m, n), name="A"), cp.Parameter((n, n), name="S")
        a = cp.Parameter(m, nonneg=True, name="a")

        fit = (0.5 * cp.sum_squares(S @ x) - y @ x + c).set_label("data and curvature")
        convex = cp.sum(cp.multiply(a, cp.huber(v, 1))).set_label("convex part")
        rows = [(v == A @ x).set_label("scaled responses")]
        if not self.weakly_convex:
            return cp.Problem(cp.Minimize(fit + convex), rows)
        e = cp.Variable(m, name="e", nonneg=True)
        b, k = cp.Parameter(m, nonneg=True, name="b"), cp.Parameter(m, nonneg=True, name="k")
        excess = cp.sum(cp.multiply(b, cp.square(e))).set_label("rest of the concave part")
        rows.append((e >= cp.abs(v) - k).set_label("excess"))
        return cp.Problem(cp.Minimize(fit + convex + excess), rows)

    def data(self, noisy: Any, W: Any, *, slope: Any, height: Any, rho: float = 0.0) -> dict[str, np.ndarray]:
        """Name -> array, as `solve` takes it: a batch of images and one regularizer.

        Parameters
        ----------
        noisy : array, shape (batch, pixels)
            Noisy images.
        W : array, shape (responses, pixels)
            Analysis operator.
        slope, height : array, shape (responses,)
            Of the potentials, above zero.
        rho : float
            Weight of the concave part, 0 if the block has none.

        Raises
        ------
        UsageError
            If the shapes do not fit, slope or height is not above zero, or I - rho W'W is not positive semidefinite.
        """
        y, W, slope, height = (np.asarray(value, dtype=float) for value in (noisy, W, slope, height))
        expected: dict[str, tuple[int, ...]] = {"noisy": (len(y), self.pixels), "W": (self.responses, self.pixels)}
        expected |= {"slope": (self.responses,), "height": (self.responses,)}
        for (name, shape), value in zip(expected.items(), (y, W, slope, height), strict=True):
            if value.shape != shape:
                raise UsageError(f"{name} has shape {value.shape}; expected {shape}: make the block for these sizes.")
        if not (slope > 0).all() or not (height > 0).all():
            raise UsageError("slope or height has entries that are not above zero; expected numbers above zero.")
        if rho < 0 or (rho > 0) is not self.weakly_convex:
            raise UsageError(
                f"rho is {rho}, but weakly_convex is {self.weakly_convex}; expected a number above zero if it is true, "
                "else zero: make the block with the other value."
            )
        data = {
            "y": y, "c": (y**2).sum(axis=1) / 2, "A": W * (slope / height)[:, None], "a": height**2 / (2 * slope),
            "S": convexity_root(W, rho),
        }  # fmt: skip
        return data | {"b": rho * (height / slope) ** 2 / 2, "k": slope} if self.weakly_convex else data

    def _symbols(self) -> tuple[Symbol, ...]:
        symbols = [
            Symbol("x", "the image", PER_INSTANCE, r"\mathbf{x}"),
            Symbol("v", "filter responses over the width of the quadratic part", PER_INSTANCE, r"\mathbf{v}"),
            Symbol("y", "the noisy image", PER_INSTANCE, r"\mathbf{y}"),
            Symbol("c", "1/2 |y|^2", PER_INSTANCE),
            Symbol("A", "filters, scaled", SHARED),
            Symbol("S", "S'S = I - rho W'W, the certificate of convexity", SHARED),
            Symbol("a", "weights of the Huber functions", SHARED, r"\mathbf{a}"),
        ]
        if self.weakly_convex:
            symbols += [
                Symbol("e", "excess of |v| over k", PER_INSTANCE, r"\mathbf{e}"),
                Symbol("b", "weights of the squared excess", SHARED, r"\mathbf{b}"),
                Symbol("k", "where the potential becomes flat", SHARED, r"\mathbf{k}"),
            ]
        return tuple(symbols)


def convexity_root(W: np.ndarray, rho: float) -> np.ndarray:
    """A symmetric matrix S with S'S = I - rho W'W: it proves that 1/2 |x|^2 - rho/2 |W x|^2 is convex.

    Raises
    ------
    UsageError
        If there is none, because rho |W|^2 > 1 (beyond rounding).
    """
    values, vectors = np.linalg.eigh(np.eye(W.shape[1]) - rho * W.T @ W)
    if values[0] < -1e-10:
        raise UsageError(
            f"rho |W|^2 is {1 - values[0]:.6g}, so that the objective need not be convex; expected at most 1: divide W "
            "by its norm, or take a smaller rho."
        )
    root: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


class RidgeRefit(Subproblem):
    """All activations of a one-step denoiser D(y) = y - W' sigma(W y), given its filters; D without expansion.

        minimize    1/2 |R vec(s) - d|^2  +  price sum_c sum_k |s_c,k+1 - s_c,k|
        subject to  0 <= s_ck <= q_c,    H q <= cap

    Variables   s (channels, cells)      slopes of the odd piecewise linear activations on the cells of |u|
                q (channels,)            the largest slope of each channel
    Data        R (rank, channels cells) R'R = Gram matrix of the features W' ramp_ck(W y), over pixels
                d (rank,)                R'd = their products with y - x, the noise
                H (frequencies, channels)  |k_c(w)|^2 at the frequencies of a grid
                price                    >= 0, of total variation of the slopes
                cap                      2 for a non-expansive D, 1 for a firmly non-expansive one
    Convex: a least-squares problem in the slopes, because D is linear in them, with linear constraints.

    The derivative of D is I - W' diag(sigma') W. With slopes >= 0 it has eigenvalues in [-1, 1] wherever
    max_w sum_c q_c |k_c(w)|^2 <= 2. On a grid that holds up to a factor that a finer grid bounds: see
    solvers/ridge_refit.py, which divides by it.
    Source      the constraint, and that the fit is one quadratic program: derived here. The model of one step: Goujon
                et al., IEEE TCI 2023.

    Parameters
    ----------
    channels, cells, frequencies : int
        Sizes.
    rank : int, optional
        Rows of R; by default channels * cells.

    Raises
    ------
    UsageError
        For a size below 1.
    """

    name: ClassVar[str] = "ridge.refit"
    source = f"{CONVEX_PAPER} (the one-step denoiser); the convex fit is derived here"
    instance = "one set of filters"
    symbols: tuple[Symbol, ...] = (
        Symbol("s", "slopes of the activations", PER_INSTANCE),
        Symbol("q", "largest slope of each channel", PER_INSTANCE, r"\mathbf{q}"),
        Symbol("R", "factor of the Gram matrix of the features", PER_INSTANCE),
        Symbol("d", "the noise, seen by the factor", PER_INSTANCE, r"\mathbf{d}"),
        Symbol("H", "squared filters at the frequencies of a grid", PER_INSTANCE),
        Symbol("price", "price of the total variation of the slopes", PER_INSTANCE, r"\lambda"),
        Symbol("cap", "2: non-expansive; 1: firmly non-expansive", PER_INSTANCE, r"\kappa"),
    )

    def __init__(self, *, channels: int = 3, cells: int = 4, frequencies: int = 9, rank: int | None = None) -> None:
        rank = channels * cells if rank is None else rank
        require_size(channels=channels, cells=cells, frequencies=frequencies, rank=rank)
        self.channels, self.cells, self.frequencies, self.rank = channels, cells, frequencies, rank
        if cells == 1:
            # There are no jumps, and nothing has that price.
            self.symbols = tuple(symbol for symbol in self.symbols if symbol.name != "price")
        self.prepare()

    def write(self) -> cp.Problem:
        channels, cells = self.channels, self.cells
        s, q = cp.Variable((channels, cells), name="s", nonneg=True), cp.Variable(channels, name="q")
        R, d = cp.Parameter((self.rank, channels * cells), name="R"), cp.Parameter(self.rank, name="d")
        H = cp.Parameter((self.frequencies, channels), nonneg=True, name="H")
        price, cap = cp.Parameter(nonneg=True, name="price"), cp.Parameter(nonneg=True, name="cap")

        fit = (0.5 * cp.sum_squares(R @ cp.vec(s, order="C") - d)).set_label("error of the denoiser")
        rows = [
            (s <= cp.reshape(q, (channels, 1), order="C")).set_label("largest slopes"),
            (H @ q <= cap).set_label("no expansion"),
        ]
        if cells == 1:
            return cp.Problem(cp.Minimize(fit), rows)
        smoothness = (price * cp.sum(cp.abs(cp.diff(s, axis=1)))).set_label("total variation of slopes")
        return cp.Problem(cp.Minimize(fit + smoothness), rows)
