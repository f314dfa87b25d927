"""The largest singular value of a matrix, from above: every rounding counted, tight to about ten digits.

Power iteration and a singular value decomposition in floating point say how large |W|_2 is, not how large it can be at
most. Here a Cholesky factorization proves it. With G = fl(W'W) and a trial value c, let B = fl(c I - G). If the
factorization of B runs to its end, then

    W'W  <=  ( c  +  cholesky  +  products  +  subtraction ) I        (in the order of symmetric matrices)

    cholesky     gamma_{n+1} / (1 - gamma_{n+1}) trace(B)      the factorization is exact for B plus less than this
    products     gamma_m times the largest row sum of |W|'|W|  |G - W'W| <= gamma_m |W|'|W|, entry by entry
    subtraction  e c                                           only the diagonal is subtracted from

with gamma_k = k e / (1 - k e), e = 2^-53, W of shape (m, n), n the smaller of its sides. The bound is the square root
of the bracket. W is first scaled by a power of two, which is exact, so that nothing that matters underflows.

Source: Rump, "Verification of positive definiteness", BIT Numerical Mathematics 46 (2006), theorem 2.3; Higham,
"Accuracy and Stability of Numerical Algorithms" (2002), section 3.5 and theorem 10.3, which hold for sums in any order
and for blocked algorithms. Assumed is IEEE double precision and a factorization made of sums of products.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..formulations.errors import UsageError

UNIT_ROUNDOFF = 2.0**-53
SAFETY = 4.0
"""Error terms are taken so many times: that covers the roundings of the terms themselves, and underflow."""
TRIALS = 30
LARGEST_EXPONENT = 900
"""Entries have to be below 2 to this power in size: their scaling has to be a number itself."""


def matrix_norm_bound(weight: Any) -> float:
    """A number that the largest singular value of a matrix is proven not to exceed.

    Parameters
    ----------
    weight : array or tensor, shape (m, n)
        Finite numbers; float32 is read exactly.

    Returns
    -------
    float
        At least |W|_2, and at most about 1 + 1e-15 max(m, n)^2 times as much.

    Raises
    ------
    UsageError
        If `weight` is no matrix of finite numbers, or they are beyond 2^900.

    Examples
    --------
    >>> bound = matrix_norm_bound([[3.0, 0.0], [0.0, 4.0]])
    >>> 4.0 <= bound < 4.0 * (1 + 1e-12)
    True
    """
    W = _matrix(weight)
    largest = float(np.abs(W).max(initial=0.0))
    if largest == 0:
        return 0.0
    exponent = math.frexp(largest)[1]
    W = np.ldexp(W, -exponent)
    if W.shape[1] > W.shape[0]:
        W = W.T
    rows, columns = W.shape
    gram = W.T @ W
    size = np.abs(W)
    products = SAFETY * _gamma(rows) * float((size.T @ size.sum(1)).max()) + SAFETY * rows * columns * 2.0**-1022
    trial = float(np.linalg.eigvalsh(gram)[-1])
    step = columns * UNIT_ROUNDOFF
    for _ in range(TRIALS):
        step *= 2
        shifted = trial * (1 + step)
        remainder = -gram
        remainder[np.diag_indices(columns)] += shifted
        if _factorizes(remainder):
            break
    else:
        # Even where no factorization ends, the sum of squares of all entries is a bound.
        shifted, remainder = float((W**2).sum()) * (1 + SAFETY * _gamma(rows * columns)), np.zeros((1, 1))
    cholesky = SAFETY * _gamma(columns + 1) * float(np.trace(remainder))
    squared = (shifted + cholesky + products + SAFETY * UNIT_ROUNDOFF * shifted) * (1 + SAFETY * UNIT_ROUNDOFF)
    # The root is rounded, and scaled back the bound may be subnormal: one step up covers both.
    return math.nextafter(math.ldexp(math.sqrt(squared), exponent), math.inf)


def _matrix(weight: Any) -> np.ndarray:
    if hasattr(weight, "detach"):
        weight = weight.detach().cpu()
        # By way of double, for numpy has no bfloat16.
        weight = (weight.double() if weight.is_floating_point() else weight).numpy()
    W = np.asarray(weight)
    if W.dtype.kind not in "iubf" or W.ndim != 2 or 0 in W.shape:
        raise UsageError(f"the weight has type {W.dtype} and shape {W.shape}; expected a matrix of numbers.")
    W = W.astype(np.float64)
    if not np.isfinite(W).all() or float(np.abs(W).max()) >= 2.0**LARGEST_EXPONENT:
        raise UsageError(
            f"the weight holds entries that are NaN, infinite or beyond 2^{LARGEST_EXPONENT}; expected finite numbers: "
            "a bound of such a matrix would mean nothing."
        )
    return W


def _gamma(terms: int) -> float:
    return terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)


def _factorizes(matrix: np.ndarray) -> bool:
    try:
        factor = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(factor).all())
