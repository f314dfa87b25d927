"""The Newton step of a spline fit as a control problem, solved by a Riccati sweep over the knots.

The state of cell k is z_k = (v_k, s_k); the jump a_j of the slope at a knot is the control:

    minimize    sum_k 1/2 z_k'Q_k z_k + g_k'z_k  +  sum_j a_j^2 / (2 S_j) + l_j a_j
    subject to  v_(k+1) = v_k + h_k s_k,    s_(k+1) = s_k + a_j,  j = k

with Q_k = [Q0 Q1; Q1 Q2] and g_k = (g0, g1). One sweep backwards eliminates the cells from the last to the first, one
sweep forwards finds the states. All channels go along in each step.

S is the reciprocal of the weight of a jump. At an interior point's end some jumps are pinned (S -> 0) and some slopes
(Q2 -> infinity); the formulas below are arranged so that neither makes differences of nearly equal numbers. (The
pentadiagonal normal equations of the same step lose their definiteness long before that.)
"""

from __future__ import annotations

from typing import NamedTuple

from ..formulations.activation_row import Array, library


class Sweep(NamedTuple):
    """What the sweep backwards leaves for the solutions: arrays of shape (cells or cells - 1, channels)."""

    widths: Array
    P11: Array
    P12: Array
    P22: Array
    damping: Array
    gain: Array
    gain12: Array
    gain22: Array


def factorize(widths: Array, Q0: Array, Q1: Array, Q2: Array, S: Array) -> Sweep:
    """Eliminate the cells from the last to the first.

    Parameters
    ----------
    widths : array, shape (cells, 1) or (cells, channels)
    Q0, Q1, Q2 : array, shape (cells, channels)
        Entries of the quadratic of each cell.
    S : array, shape (cells - 1, channels)
        Reciprocal weights of the jumps, at least zero.
    """
    empty = library(Q0).empty_like
    P12, P22, damping, gain = empty(Q0), empty(Q0), empty(S), empty(S)
    p11, p12, p22 = Q0[-1], Q1[-1], Q2[-1]
    P12[-1], P22[-1] = p12, p22
    for k in range(len(S) - 1, -1, -1):
        e = 1.0 / (1.0 + S[k] * p22)
        Se = S[k] * e
        damping[k], gain[k] = e, Se
        h = widths[k]
        m11 = p11 - p12 * p12 * Se
        m12 = p12 * e
        hm = h * m11
        p22 = p22 * e + h * (2.0 * m12 + hm) + Q2[k]
        p12 = m12 + hm + Q1[k]
        p11 = m11 + Q0[k]
        P12[k], P22[k] = p12, p22
    return Sweep(widths, p11, P12, P22, damping, gain, gain * P12[1:], gain * P22[1:])


def substitute(sweep: Sweep, g0: Array, g1: Array, jumps: Array, *, pinned: bool) -> tuple[Array, Array, Array]:
    """Solve for one linear term.

    Parameters
    ----------
    sweep : Sweep
        What `factorize` gave.
    g0, g1 : array, shape (cells, channels)
        Linear terms of values and slopes.
    jumps : array, shape (cells - 1, channels)
        Linear terms l of the jumps.
    pinned : bool
        Whether the first value stays at zero.

    Returns
    -------
    tuple
        The values and the slopes, each (cells, channels), and the jumps *divided by S* (cells - 1, channels):
        differences of the slopes would cancel.
    """
    widths, p11, P12, P22, damping, gain, gain12, gain22 = sweep
    empty = library(g0).empty_like
    shifted, values, slopes = empty(jumps), empty(g0), empty(g0)
    q1, q2 = g0[-1], g1[-1]
    for k in range(len(jumps) - 1, -1, -1):
        m = q2 + jumps[k]
        shifted[k] = m
        m1 = q1 - gain12[k] * m
        q2 = q2 - gain22[k] * m + widths[k] * m1 + g1[k]
        q1 = m1 + g0[k]
    if pinned:
        v = 0 * q1
        s = -q2 / P22[0]
    else:
        r = P12[0] / P22[0]
        v = -(q1 - r * q2) / (p11 - r * P12[0])
        s = -(q2 + P12[0] * v) / P22[0]
    values[0], slopes[0] = v, s
    pushed = gain * shifted
    for k in range(len(jumps)):
        v = v + widths[k] * s
        s = s * damping[k] - gain12[k] * v - pushed[k]
        values[k + 1], slopes[k + 1] = v, s
    forces = -damping * (P12[1:] * values[1:] + shifted + P22[1:] * slopes[:-1])
    return values, slopes, forces
