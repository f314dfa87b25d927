"""How good a spline fit is: a lower bound on the optimum that costs O(samples + knots) and needs no solver.

The fit minimizes sum_i w_i loss(f(x_i); y_i) + penalty * TV2(f) over splines with slopes in [low, high]. For any
multipliers theta_i in the domain of the conjugate loss with sum_i w_i theta_i = 0 and any |nu_j| <= penalty,

    loss(f; y) >= theta f - loss*(theta; y),     penalty |a| >= nu a,

and the sum of all w_i theta_i f(x_i) is sum_k p_k s_k, because the first value of the spline drops out:

    p_k = sum over cell k of w theta u  +  h_k * (sum over later cells of w theta).

What is left is linear in the slopes, with the coefficients gamma_k = p_k + nu_(k-1) - nu_k, so that

    optimum >= - sum_i w_i loss*(theta_i; y_i) + sum_k min(low gamma_k, high gamma_k).

This is exact arithmetic's inequality; it is evaluated in floating point, so it *verifies* a fit and proves nothing.
For convex splines nu may be any number up to the penalty.

**An infinite slope bound** leaves no price for a gamma_k of the wrong sign, and rounding makes one. There a finite
`reach` stands in: the bound then holds for all functions whose slopes are at most the reach in size. For the squared
loss and a positive penalty the reach is taken so large that the best function is among them. Its slope of regression on
x is a mean of its slopes; it differs from that of y by at most sqrt(2 U / Sxx), where U is the objective of a function
at hand and Sxx the weighted sum of squares of x about its mean; and no slope is farther from another than TV2 <= U /
penalty. Hence

    reach = |slope of regression of y on x| + sqrt(2 U / Sxx) + U / penalty.

**Without any bounds**, for the squared loss, no reach is needed. Any straight line may be added to f, so that sum_i w_i
theta_i x_i is zero too. Then nu_k = p_1 + ... + p_k makes every gamma zero, and c theta and c nu are feasible where c
|nu| <= penalty:

    optimum >= - c sum w theta y - c^2 sum w theta^2 / 2.
"""

from __future__ import annotations

from ..formulations.activation_row import Array, library
from .spline_statistics import running_sums


def dual_value(
    conjugates: Array, sums: tuple[Array, Array], widths: Array, nu: Array, penalty: Array, low: Array, high: Array,
    *, convex: bool = False, pinned: bool = False,
) -> Array:  # fmt: skip
    """The lower bound of every channel, (channels,).

    Parameters
    ----------
    conjugates : array, shape (channels,)
        sum_i w_i loss*(theta_i; y_i).
    sums : pair of array, shape (cells, channels)
        Sums over each cell of w theta, whose total over the cells is zero, and of w theta u.
    widths : array, shape (cells, 1) or (cells, channels)
    nu : array, shape (cells - 1, channels)
        Any multipliers of the jumps; clipped to what is allowed.
    penalty, low, high : array, shape (channels,)
        Price of the kinks; finite bounds of the slopes.
    convex : bool
        Whether slopes may only rise.
    pinned : bool
        Whether the first value is fixed at zero; then the total of w theta need not be zero.
    """
    nu = library(nu).minimum(nu, penalty) if convex else library(nu).clip(nu, -penalty, penalty)
    gamma = slope_forces(sums, widths, nu)
    return library(gamma).minimum(low * gamma, high * gamma).sum(0) - conjugates


def slope_forces(sums: tuple[Array, Array], widths: Array, nu: Array) -> Array:
    """The coefficients gamma of the slopes, (cells, channels); see `dual_value`."""
    first, second = sums
    later = first.sum(0) - running_sums(first)
    gamma = second + widths * later
    gamma[1:] += nu
    gamma[:-1] -= nu
    return gamma


def free_dual_value(loss: Array, linear: Array, forces: Array, penalty: Array, regression: Array) -> Array:
    """The lower bound of every channel that has the squared loss and no bounds of its slopes; it needs no reach.

    Parameters
    ----------
    loss : array, shape (channels,)
        1/2 sum w theta^2, theta = f - y; both sum w theta and sum w theta x are zero up to rounding.
    linear : array, shape (channels,)
        sum w theta y.
    forces : array, shape (cells, channels)
        p of the opening of this file.
    penalty, regression : array, shape (channels,)
        Price of the kinks; slope of regression of y on x.
    """
    arrays = library(forces)
    nu = running_sums(forces)
    # What rounding leaves of sum w theta x. Taken out of theta, it would change nu by no more than that.
    rest = abs(nu[-1])
    largest = arrays.amax(abs(nu), 0) + rest
    best = arrays.clip(-linear, 0.0, None) / (2 * arrays.where(loss > 0, loss, 1 + 0 * loss))
    scale = arrays.where(best * largest > penalty, penalty / arrays.where(largest > 0, largest, 1 + 0 * largest), best)
    return -scale * (linear + scale * loss + rest * abs(regression))


def balance(weighted: Array) -> Array:
    """Multipliers w theta with the sum zero: those of the sign that prevails are shrunk.

    Zero is in the domain of every conjugate, which is convex: so they stay in it.
    """
    arrays = library(weighted)
    up, down = arrays.clip(weighted, 0.0, None).sum(0), -arrays.clip(weighted, None, 0.0).sum(0)
    least = arrays.minimum(up, down)
    shrink_up = arrays.where(up > 0, least / arrays.where(up > 0, up, 1 + 0 * up), 0 * up)
    shrink_down = arrays.where(down > 0, least / arrays.where(down > 0, down, 1 + 0 * down), 0 * down)
    return arrays.where(weighted > 0, weighted * shrink_up, weighted * shrink_down)


def total_variation(s: Array) -> Array:
    """TV2 of every channel: the sum of |jumps of the slope|."""
    return abs(s[1:] - s[:-1]).sum(0)


def relative_gap(objective: Array, dual: Array, lowest: Array, start: Array) -> Array:
    """Objective minus dual value, relative to the objective above what a perfect fit leaves.

    Where the fit is all but perfect, this is relative to a millionth of what a constant leaves (`start`): the gap is a
    difference of numbers of that size, and rounding sees no more.
    """
    arrays = library(objective)
    gap = arrays.clip(objective - dual, 0.0, None)
    size = arrays.maximum(objective - lowest, 1e-6 * (start - lowest))
    return arrays.where(gap > 0, gap / arrays.clip(size, 1e-300, None), 0 * gap)
