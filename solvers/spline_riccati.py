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
    arrays = library(Q0)
    P12, P22 = 1.0 * Q1, 1.0 * Q2
    damping, gain, gain12 = (arrays.empty_like(S) for _ in range(3))
    p11, p12, p22 = 1.0 * Q0[-1], P12[-1], P22[-1]
    for k in range(len(S) - 1, -1, -1):
        h, e = widths[k], damping[k]
        arrays.multiply(S[k], p22, out=e)
        e += 1.0
        arrays.reciprocal(e, out=e)
        p11 -= p12 * arrays.multiply(p12, arrays.multiply(S[k], e, out=gain[k]), out=gain12[k])
        m12, m22 = p12 * e, p22 * e
        p12, p22 = P12[k], P22[k]
        # The rest: m11 + Q0, m12 + h m11 + Q1, and m22 + h (2 m12 + h m11) + Q2.
        hm = h * p11
        hm += m12
        p12 += hm
        hm += m12
        hm *= h
        p22 += m22
        p22 += hm
        p11 += Q0[k]
    return Sweep(widths, p11, P12, P22, damping, gain, gain12, gain * P22[1:])


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
    arrays = library(g0)
    shifted, values, slopes = (arrays.empty_like(part) for part in (jumps, g0, g0))
    q1, q2, part = 1.0 * g0[-1], 1.0 * g1[-1], arrays.empty_like(g0[-1])
    for k in range(len(jumps) - 1, -1, -1):
        m = arrays.add(q2, jumps[k], out=shifted[k])
        q1 -= arrays.multiply(gain12[k], m, out=part)
        q2 -= arrays.multiply(gain22[k], m, out=part)
        q2 += arrays.multiply(widths[k], q1, out=part)
        q2 += g1[k]
        q1 += g0[k]
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
        v = arrays.multiply(widths[k], s, out=values[k + 1])
        v += values[k]
        s = arrays.multiply(damping[k], s, out=slopes[k + 1])
        s -= pushed[k]
        s -= arrays.multiply(gain12[k], v, out=part)
    forces = -damping * (P12[1:] * values[1:] + shifted + P22[1:] * slopes[:-1])
    return values, slopes, forces
