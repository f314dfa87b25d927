"""Inequality lifting, its own two blocks: pre-activations within an interval, activations within a box.

The relation a = phi(z) is relaxed to |phi(z) - a| <= epsilon, entry by entry. phi is monotone, so that for a fixed a
this is an interval of z, and for a fixed z an interval of a: both blocks are convex, although the set of pairs is not.
See inequality_lifting.py for the lifted problem that they are blocks of.
"""

from __future__ import annotations

from collections.abc import Mapping

import cvxpy as cp

from .activations import Activation, Array, largest_entry, library
from .description import Symbol
from .subproblem import PER_INSTANCE, SHARED, Residuals, Subproblem, require_nonnegative, require_size

PAPER = "Wang, Li & Zhao, arXiv 1811.04187, Neurocomputing 2022 (mDLAM)"


def interval(phi: Activation, a: Array, epsilon: float) -> tuple[Array, Array]:
    """Ends of {z : |phi(z) - a| <= epsilon}, infinite where the set is not bounded.

    The lower end is the least z with phi(z) >= a - epsilon, the upper end the greatest with phi(z) <= a + epsilon. The
    set is empty where a is farther than epsilon from the range of phi.

    Examples
    --------
    >>> import numpy as np
    >>> from convexblocks.formulations.activations import activation
    >>> [end.tolist() for end in interval(activation("relu"), np.array([0.5, 2.0]), 1.0)]
    [[-inf, 1.0], [1.5, 3.0]]
    """
    return _preimage(phi, a - epsilon, upper=False), _preimage(phi, a + epsilon, upper=True)


def _preimage(phi: Activation, values: Array, *, upper: bool) -> Array:
    """The greatest z with phi(z) <= value (`upper`), or the least with phi(z) >= value; +-inf where all z are so."""
    open_side = values >= phi.high if upper else values <= phi.low
    xp, end = library(values), float("inf") if upper else -float("inf")
    if phi.name == "leaky_relu":
        assert phi.parameter is not None
        found = xp.where(values >= 0, values, values / phi.parameter)
    elif phi.name == "soft_shrink":
        assert phi.parameter is not None
        above = values >= 0 if upper else values > 0
        found = values + xp.where(above, phi.parameter, -phi.parameter)
    elif phi.inverse is None:
        # The others without an inverse clip their argument to their range.
        found = values
    else:
        # Open sides are replaced below; a value in the middle of the range keeps the inverse quiet there.
        low, high = max(phi.low, -1.0), min(phi.high, 1.0)
        found = phi.inverse(xp.where(open_side | (values >= phi.high) | (values <= phi.low), (low + high) / 2, values))
    return xp.where(open_side, end + 0.0 * values, found)


def interval_data(phi: Activation, a: Array, epsilon: float) -> dict[str, Array]:
    """The ends of the intervals as data of `IntervalPreActivation`: sides that are open have a zero in both arrays."""
    lower, upper = interval(phi, a, epsilon)
    xp, data = library(a), {}
    for name, end in (("low", lower), ("high", upper)):
        bounded = abs(end) < float("inf")
        data[name] = xp.where(bounded, end, 0.0 * a)
        data[f"has_{name}"] = bounded + 0.0 * a
    return data


class IntervalPreActivation(Subproblem):
    """Pre-activations of one hidden layer whose activations are wanted within epsilon; one sample.

        minimize    1/2 |z - u|^2
        subject to  low <= z where has_low,   z <= high where has_high

    Variables   z (width,)         pre-activations
    Data        u (width,)         what arrives from below, W a + b                            per instance
                low, high (width,)           ends of {z : |phi(z) - a| <= epsilon}             per instance
                has_low, has_high (width,)   1 where the interval is bounded there, else 0     per instance
    Convex because a monotone phi makes the set of z an interval (`interval_data` gives its ends). Solved by clipping u.
    Source      Wang, Li & Zhao, arXiv 1811.04187, section 2: the block in z_l, l < L.

    Parameters
    ----------
    width : int
        Units of the layer.

    Raises
    ------
    UsageError
        If the width is below 1.
    """

    name = "inequality.pre_activation"
    source = PAPER + ", section 2 (the block in z_l)"
    instance = "one sample"

    def __init__(self, *, width: int = 4) -> None:
        require_size(width=width)
        self.width = width
        self.symbols = (
            Symbol("z", "pre-activations", PER_INSTANCE, r"\mathbf{z}"),
            Symbol("u", "what arrives from below", PER_INSTANCE, r"\mathbf{u}"),
            Symbol("low", "least pre-activations within epsilon", PER_INSTANCE, r"\mathbf{z}_{\min}"),
            Symbol("high", "greatest pre-activations within epsilon", PER_INSTANCE, r"\mathbf{z}_{\max}"),
            Symbol("has_low", "1 where there is a least one", PER_INSTANCE, r"\mathbf{s}_{\min}"),
            Symbol("has_high", "1 where there is a greatest one", PER_INSTANCE, r"\mathbf{s}_{\max}"),
        )
        self.prepare()

    def write(self) -> cp.Problem:
        z, u = cp.Variable(self.width, name="z"), cp.Parameter(self.width, name="u")
        low, high = cp.Parameter(self.width, name="low"), cp.Parameter(self.width, name="high")
        has_low = cp.Parameter(self.width, name="has_low", nonneg=True)
        has_high = cp.Parameter(self.width, name="has_high", nonneg=True)
        stay = 0.5 * cp.sum_squares(z - u)
        stay.set_label("stay near what arrives")
        # low and high are zero where has_low and has_high are: no constraint then.
        above, below = cp.multiply(has_low, z) >= low, cp.multiply(has_high, z) <= high
        above.set_label("activations not too small")
        below.set_label("activations not too large")
        return cp.Problem(cp.Minimize(stay), [above, below])

    def data_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(("u", "low", "high", "has_low", "has_high"), (self.width,))

    def start_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"z": (self.width,)}

    def clip(self, z: Array, data: Mapping[str, Array]) -> Array:
        """The nearest point of the interval."""
        xp = library(z)
        z = xp.where((data["has_low"] > 0) & (z < data["low"]), data["low"], z)
        return xp.where((data["has_high"] > 0) & (z > data["high"]), data["high"], z)

    def into_domain(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> dict[str, Array]:
        return {"z": self.clip(values["z"], data)}

    def objective(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        return ((values["z"] - data["u"]) ** 2).sum(-1) / 2

    def size(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        return self.objective(values, data)

    def residuals(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Residuals:
        """Distance to the interval; |z - clip(u)| relative to 1 + |z|; and objective minus optimum, which is known."""
        z, best = values["z"], self.clip(data["u"], data)
        inside = self.clip(z, data)
        off = largest_entry(z - best) / (1 + largest_entry(best))
        optimum = self.objective({"z": best}, data)
        gap = self.objective({"z": inside}, data) - optimum
        return Residuals(largest_entry(z - inside), off, library(gap).clip(gap, 0.0, None) / (1 + optimum))


class BoxActivation(Subproblem):
    """Activations of one hidden layer within epsilon of what its pre-activations give; one sample.

        minimize    1/2 |W x + b - v|^2
        subject to  h - epsilon <= x <= h + epsilon

    Variables   x (width,)         activations of this layer
    Data        h (width,)         phi(z), activations of the present pre-activations      per instance
                v (next_width,)    pre-activations of the next layer                       per instance
                W (next_width, width), b (next_width,)                                     shared
                epsilon >= 0       a number fixed when the block is made
    Least squares over a box; all samples share the matrix.
    Source      Wang, Li & Zhao, arXiv 1811.04187, section 2: the block in a_l, there one projected gradient step.

    Parameters
    ----------
    width, next_width : int
        Units of this layer and of the next.
    epsilon : float
        Half the width of the box.

    Raises
    ------
    UsageError
        If a size is below 1 or epsilon is negative.
    """

    name = "inequality.activation"
    source = PAPER + ", section 2 (the block in a_l)"
    instance = "one sample"

    def __init__(self, *, width: int = 4, next_width: int = 3, epsilon: float = 1.0) -> None:
        require_size(width=width, next_width=next_width)
        require_nonnegative(epsilon=epsilon)
        self.width, self.next_width, self.epsilon = width, next_width, epsilon
        self.symbols = (
            Symbol("x", "activations of this layer", PER_INSTANCE, r"\mathbf{x}"),
            Symbol("h", "activations of the present pre-activations", PER_INSTANCE, r"\mathbf{h}"),
            Symbol("v", "pre-activations of the next layer", PER_INSTANCE, r"\mathbf{v}"),
            Symbol("W", "weights of the next layer", SHARED, r"\mathbf{W}"),
            Symbol("b", "biases of the next layer", SHARED, r"\mathbf{b}"),
        )
        self.prepare()

    def write(self) -> cp.Problem:
        n, m = self.width, self.next_width
        x, h, v = cp.Variable(n, name="x"), cp.Parameter(n, name="h"), cp.Parameter(m, name="v")
        W, b = cp.Parameter((m, n), name="W"), cp.Parameter(m, name="b")
        fit = 0.5 * cp.sum_squares(W @ x + b - v)
        fit.set_label("give the next layer its pre-activations")
        above, below = x >= h - self.epsilon, x <= h + self.epsilon
        above.set_label("not below epsilon")
        below.set_label("not above epsilon")
        return cp.Problem(cp.Minimize(fit), [above, below])

    def data_shapes(self) -> dict[str, tuple[int, ...]]:
        n, m = self.width, self.next_width
        return {"h": (n,), "v": (m,), "W": (m, n), "b": (m,)}

    def start_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"x": (self.width,)}

    def clip(self, x: Array, data: Mapping[str, Array]) -> Array:
        """The nearest point of the box."""
        xp = library(x)
        return xp.minimum(xp.maximum(x, data["h"] - self.epsilon), data["h"] + self.epsilon)

    def into_domain(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> dict[str, Array]:
        return {"x": self.clip(values["x"], data)}

    def objective(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        return ((values["x"] @ data["W"].T + data["b"] - data["v"]) ** 2).sum(-1) / 2

    def size(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        return self.objective(values, data)

    def gradient(self, x: Array, data: Mapping[str, Array]) -> Array:
        """Gradient of the objective of every sample."""
        return (x @ data["W"].T + data["b"] - data["v"]) @ data["W"]

    def residuals(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Residuals:
        """Distance to the box; |x - clip(x - gradient)|; and <gradient, x - y> at its worst y in the box.

        The last bounds objective minus optimum because the objective is convex. The gap is relative to 1 + the
        objective, the second to 1 + the largest entries of x and of the gradient's terms.
        """
        x = self.clip(values["x"], data)
        gradient = self.gradient(x, data)
        gap = (gradient * (x - data["h"]) + abs(gradient) * self.epsilon).sum(-1)
        off = largest_entry(x - self.clip(x - gradient, data)) / (1 + largest_entry(x) + largest_entry(data["v"]))
        relative = library(gap).clip(gap, 0.0, None) / (1 + self.objective({"x": x}, data))
        return Residuals(largest_entry(values["x"] - x), off, relative)
