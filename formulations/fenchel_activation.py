"""Fenchel lifting, the activation block: activations of one hidden layer, weights held fixed, one sample.

    minimize    below * [Phi*(x) - <u, x>]  +  above * [Phi_next(z) - <v, z>]
    subject to  z = W x + b,   x in the range of the activation

See fenchel_lifting.py for the lifted problem that it is a block of.
"""

from __future__ import annotations

from collections.abc import Mapping

import cvxpy as cp

from .activations import Activation, Array, largest_entry
from .activations import activation as find_activation
from .description import Symbol
from .losses import Loss, find_loss
from .subproblem import (
    FENCHEL_PAPER,
    PER_INSTANCE,
    SHARED,
    Residuals,
    Subproblem,
    relative_gap,
    require_positive,
    require_size,
)


class FenchelActivation(Subproblem):
    """Activations of one hidden layer, the weights held fixed; one sample.

        minimize    below * [Phi*(x) - <u, x>]  +  above * [Phi_next(z) - <v, z>]
        subject to  z = W x + b,   x in the range of the activation

    Variables   x (width,)         activations of this layer
                z (next_width,)    what they send to the next layer
    Data        u (width,)         pre-activations arriving from below       per instance
                v (next_width,)    activations wanted by the next layer      per instance
                W (next_width, width), b (next_width,)                       shared
                below, above       multipliers, > 0, numbers fixed when the block is made
    The two brackets are the Fenchel-Young gaps B(x, u) and B_next(v, z) without the constants Phi(u) and
    Phi_next*(v). Where the next layer is the output, `loss` replaces B_next: v is then the encoded target.
    Convex because Phi* and Phi_next are convex and z is affine in x; strongly convex with modulus below / L where
    the slopes of phi are at most L.
    Source      Gu, Askari & El Ghaoui, AISTATS 2020, section 4 (arXiv 1811.08039).

    Parameters
    ----------
    width, next_width : int
        Units of this layer and of the next.
    activation, next_activation : str or Activation
        Rows of the table; `next_activation` is ignored where `loss` is given.
    loss : str, Loss or None
        The training loss, where the next layer is the output.
    below, above : float
        Multipliers of the two gaps.

    Raises
    ------
    UsageError
        For an unknown activation or loss, a size below 1, or a multiplier that is not positive.

    Examples
    --------
    >>> FenchelActivation(width=4, next_width=3, activation="relu").program().is_qp()
    True
    """

    name = "fenchel.activation"
    source = FENCHEL_PAPER + ", section 4 (the block in X_l)"
    instance = "one sample"

    def __init__(
        self,
        *,
        width: int = 4,
        next_width: int = 3,
        activation: str | Activation = "relu",
        next_activation: str | Activation = "relu",
        loss: str | Loss | None = None,
        below: float = 1.0,
        above: float = 1.0,
    ) -> None:
        require_size(width=width, next_width=next_width)
        require_positive(below=below, above=above)
        self.width, self.next_width, self.below, self.above = width, next_width, below, above
        self.activation = find_activation(activation)
        self.loss = None if loss is None else find_loss(loss)
        self.next_activation = find_activation(next_activation) if self.loss is None else self.loss.activation
        target = "activations wanted by the next layer" if loss is None else "encoded target of the loss"
        self.symbols = (
            Symbol("x", "activations of this layer", PER_INSTANCE, r"\mathbf{x}"),
            Symbol("z", "what they send to the next layer", PER_INSTANCE, r"\mathbf{z}"),
            Symbol("u", "pre-activations arriving from below", PER_INSTANCE, r"\mathbf{u}"),
            Symbol("v", target, PER_INSTANCE, r"\mathbf{v}"),
            Symbol("W", "weights of the next layer", SHARED, r"\mathbf{W}"),
            Symbol("b", "biases of the next layer", SHARED, r"\mathbf{b}"),
        )
        self.prepare()

    def write(self) -> cp.Problem:
        x, z = cp.Variable(self.width, name="x"), cp.Variable(self.next_width, name="z")
        u, v = cp.Parameter(self.width, name="u"), cp.Parameter(self.next_width, name="v")
        W, b = cp.Parameter((self.next_width, self.width), name="W"), cp.Parameter(self.next_width, name="b")

        match = self.activation.model_conjugate(x)
        fit = self.loss.model(z, v) if self.loss else self.next_activation.model_potential(z)
        below = self.below * (self.use(match) - u @ x)
        above = self.above * (self.use(fit) if self.loss else self.use(fit) - v @ z)
        below.set_label("match the layer below")
        above.set_label("training loss" if self.loss else "fit the layer above")

        send = z == W @ x + b
        send.set_label("sent to the next layer")
        return cp.Problem(cp.Minimize(below + above), [send, *match.constraints, *fit.constraints])

    def data_shapes(self) -> dict[str, tuple[int, ...]]:
        n, m = self.width, self.next_width
        return {"u": (n,), "v": (m,), "W": (m, n), "b": (m,)}

    def start_shapes(self) -> dict[str, tuple[int, ...]]:
        # t: pre-activations with x = phi(t), the coordinates of Newton's method.
        return {"x": (self.width,), "t": (self.width,), "z": (self.next_width,)}

    def into_domain(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> dict[str, Array]:
        x = self.activation.project(values["x"])
        return {"x": x, "z": x @ data["W"].T + data["b"]}

    def objective(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        x, z = values["x"], values["x"] @ data["W"].T + data["b"]
        match = self.activation.row_sum(self.activation.conjugate(x)) - (x * data["u"]).sum(-1)
        if self.loss:
            return self.below * match + self.above * self.loss.values(z, data["v"])
        fit = self.next_activation.row_sum(self.next_activation.potential(z)) - (z * data["v"]).sum(-1)
        return self.below * match + self.above * fit

    def stationary_point(self, x: Array, data: Mapping[str, Array]) -> Array:
        """Pre-activations t whose activations phi(t) equal x exactly at the optimum.

        Condition 0 in below (phi^{-1}(x) - u) + above W'(phi_next(W x + b) - v), solved for phi^{-1}(x).
        """
        push = (self.next_activation.phi(x @ data["W"].T + data["b"]) - data["v"]) @ data["W"]
        return data["u"] - (self.above / self.below) * push

    def residuals(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Residuals:
        """Feasibility of x; |x - phi(t)|; and below * B(x, t), which bounds objective minus optimum.

        The gap is relative to 1 + below * B(x, u) + above * B_next(v, z): the objective with its constants, which
        does not grow with the multipliers when the lifted activations stay near the network. The bound: with h the
        term above, convexity gives h(y) >= h(x) + <g, y - x>, hence every point's objective is at least that of x
        minus below * B(x, u - g / below), in exact arithmetic.
        """
        x = self.activation.project(values["x"])
        t = self.stationary_point(x, data)
        gap = self.below * self.activation.gap(x, t)
        return Residuals(
            self.activation.violation(values["x"]),
            largest_entry(x - self.activation.phi(t)) / (1 + largest_entry(x)),
            relative_gap(gap, self.size({"x": x}, data), lambda: self.objective({"x": x}, data)),
        )

    def size(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        # Two Fenchel-Young gaps, or a gap and the loss.
        x = values["x"]
        z = x @ data["W"].T + data["b"]
        fit = self.loss.values(z, data["v"]) if self.loss else self.next_activation.gap(data["v"], z)
        return self.below * self.activation.gap(x, data["u"]) + self.above * fit
