"""The Newton step of a few spline fits as a banded system, solved by LAPACK, channel by channel.

The problem is that of `spline_riccati`, whose sweeps take all channels along and cost, of few channels, as much as of
many. With multipliers y_k of v_(k+1) = v_k + h_k s_k and the jumps divided by S, f_k = a_k / S_k, its optimality
conditions are

    Q0 v_k + Q1 s_k + y_k - y_(k-1)                  =  -g0
    Q1 v_k + Q2 s_k + h_k y_k - f_k + f_(k-1)        =  -g1 + l_k - l_(k-1)
    v_k + h_k s_k - v_(k+1)                          =  0
    -s_k + s_(k+1) - S_k f_k                         =  0

in the order v_0, s_0, y_0, f_0, v_1, ... a symmetric matrix with two diagonals on either side. Large weights stand in S
as reciprocals and in Q2 on the diagonal, and the jumps are unknowns: nothing is a difference of nearly equal numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dgbtrf, dgbtrs

from ..formulations.activation_row import Array

SIDE = 2
DIAGONAL = 2 * SIDE


class Bands(NamedTuple):
    """LU factors of every channel, and their row interchanges."""

    factors: list[np.ndarray]
    pivots: list[np.ndarray]


def factorize(widths: Array, Q0: Array, Q1: Array, Q2: Array, S: Array, *, pinned: bool) -> Bands | None:
    """Factorize the matrix of every channel; None where one of them is singular.

    Parameters
    ----------
    widths, Q0, Q1, Q2, S
        As for `spline_riccati.factorize`, of numpy.
    pinned : bool
        Whether the first value stays at zero.
    """
    cells, channels = Q0.shape
    h = np.broadcast_to(widths, Q0.shape)
    factors, pivots = [], []
    for channel in range(channels):
        # Row DIAGONAL + i - j of column j holds entry (i, j); LAPACK wants columns contiguous and SIDE rows to spare.
        bands = np.zeros((4 * cells, 3 * SIDE + 1))
        v, s, y, f = (bands[place::4] for place in range(4))
        v[:, DIAGONAL], v[:, DIAGONAL + 1] = Q0[:, channel], Q1[:, channel]
        v[:, DIAGONAL + 2], v[1:, DIAGONAL - 2] = 1, -1
        s[:, DIAGONAL], s[:, DIAGONAL - 1], s[:, DIAGONAL + 1] = Q2[:, channel], Q1[:, channel], h[:, channel]
        s[:, DIAGONAL + 2], s[1:, DIAGONAL - 2] = -1, 1
        y[:, DIAGONAL - 2], y[:, DIAGONAL - 1], y[:, DIAGONAL + 2] = 1, h[:, channel], -1
        f[:-1, DIAGONAL], f[:, DIAGONAL - 2], f[:, DIAGONAL + 2] = -S[:, channel], -1, 1
        if pinned:
            v[0, DIAGONAL], s[0, DIAGONAL - 1], y[0, DIAGONAL - 2] = 1, 0, 0
        # The last cell has no jump behind it.
        lu, pivot, info = dgbtrf(bands[:-2].T, SIDE, SIDE, overwrite_ab=True)
        if info:
            return None
        factors.append(lu)
        pivots.append(pivot)
    return Bands(factors, pivots)


def substitute(bands: Bands, g0: Array, g1: Array, jumps: Array, *, pinned: bool) -> tuple[Array, Array, Array]:
    """Solve for one linear term; arguments and answers are those of `spline_riccati.substitute`."""
    cells, channels = g0.shape
    right = np.zeros((cells, 4, channels))
    right[:, 0], right[:, 1] = -g0, -g1
    right[:-1, 1] += jumps
    right[1:, 1] -= jumps
    if pinned:
        right[0, 0] = 0.0
    found = np.zeros_like(right)
    flat, answers = right.reshape(4 * cells, channels), found.reshape(4 * cells, channels)
    for channel, (lu, pivot) in enumerate(zip(*bands, strict=True)):
        answers[:-2, channel], _ = dgbtrs(lu, SIDE, SIDE, flat[:-2, channel], pivot)
    return found[:, 0], found[:, 1], found[:-1, 3]
