"""Fenchel lifting, the weight block: one unit's weights and bias, activations held fixed, all samples.

    minimize    multiplier * [Phi(u) - <v, u>]  +  weight_decay/2 |w|^2
                + proximity/2 [ |w - w_old|^2 + (c - c_old)^2 ]
    subject to  u = X w + c

See fenchel_lifting.py for the lifted problem that it is a block of.
"""

from __future__ import annotations

from collections.abc import Mapping

import cvxpy as cp
import numpy as np

from .activations import Activation, Array, largest_entry, library
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
    require_nonnegative,
    require_positive,
    require_size,
)


class FenchelWeight(Subproblem):
    """Weights and bias of one unit, the activations around it held fixed; all samples.

        minimize    multiplier * [Phi(u) - <v, u>]  +  weight_decay/2 |w|^2
                    + proximity/2 [ |w - w_old|^2 + (c - c_old)^2 ]
        subject to  u = X w + c

    Variables   w (inputs,), c ()      weights and bias of the unit
                u (samples,)           its pre-activations
    Data        X (samples, inputs)    activations below                  shared
                v (samples,)           activations wanted of the unit     per instance
                w_old (inputs,), c_old ()      the present weights        per instance
                multiplier > 0, weight_decay, proximity >= 0: numbers fixed when the block is made
    The bracket is the Fenchel-Young gap, summed over samples, without the constant Phi*(v). For the output
    layer `loss` gives Phi, and v is the encoded target: ridge regression or (multinomial) logistic
    regression. Softmax couples the units: one instance is then the whole layer, with w (units, inputs),
    c (units,), and u and v (samples, units). Without `bias` there is no c.
    Convex because Phi is convex and u is affine in w and c.
    Source      Gu, Askari & El Ghaoui, AISTATS 2020, section 4 (arXiv 1811.08039).

    Parameters
    ----------
    samples, inputs : int
        Rows and columns of X.
    units : int
        Units of the layer; used only where softmax couples them.
    activation : str or Activation
        Row of the table; not used where `loss` is given.
    loss : str, Loss or None
        The training loss, for the output layer.
    multiplier, weight_decay, proximity : float
        Factors of the terms.
    bias : bool
        Whether the unit has a bias.

    Raises
    ------
    UsageError
        For an unknown activation or loss, a size below 1, or a factor out of range.

    Examples
    --------
    >>> FenchelWeight(samples=5, inputs=2, activation="tanh").program().is_dcp(dpp=True)
    True
    """

    name = "fenchel.weight"
    source = FENCHEL_PAPER + ", section 4 (the block in W_l, b_l)"

    def __init__(
        self,
        *,
        samples: int = 6,
        inputs: int = 4,
        units: int = 3,
        activation: str | Activation = "relu",
        loss: str | Loss | None = None,
        multiplier: float = 1.0,
        weight_decay: float = 0.0,
        proximity: float = 1.0,
        bias: bool = True,
    ) -> None:
        require_size(samples=samples, inputs=inputs, units=units)
        require_positive(multiplier=multiplier)
        require_nonnegative(weight_decay=weight_decay, proximity=proximity)
        self.samples, self.inputs, self.bias = samples, inputs, bias
        self.multiplier, self.weight_decay, self.proximity = multiplier, weight_decay, proximity
        self.loss = None if loss is None else find_loss(loss)
        self.activation = self.loss.activation if self.loss else find_activation(activation)
        self.coupled = self.activation.couples_units
        # The shape in front of every per-instance array: nothing for one unit, (units,) for a coupled layer.
        self.lead = (units,) if self.coupled else ()
        self.instance = "one layer" if self.coupled else "one unit"
        self.symbols = self._symbols("the layer" if self.coupled else "the unit")
        self.prepare()

    def _symbols(self, whom: str) -> tuple[Symbol, ...]:
        wanted = "encoded targets of the loss" if self.loss else f"activations wanted of {whom}"
        symbols = [
            Symbol("w", f"weights of {whom}", PER_INSTANCE, r"\mathbf{w}"),
            Symbol("u", f"pre-activations of {whom}", PER_INSTANCE, r"\mathbf{u}"),
            Symbol("X", "activations below, samples as rows", SHARED, r"\mathbf{X}"),
            Symbol("v", wanted, PER_INSTANCE, r"\mathbf{v}"),
            Symbol("w_old", "present weights", PER_INSTANCE, r"\mathbf{w}_{\mathrm{old}}"),
        ]
        if self.bias:
            symbols.insert(1, Symbol("c", f"bias of {whom}", PER_INSTANCE, r"c"))
            symbols.append(Symbol("c_old", "present bias", PER_INSTANCE, r"c_{\mathrm{old}}"))
        return tuple(symbols)

    def write(self) -> cp.Problem:
        shapes = self.data_shapes()
        X, v = cp.Parameter(shapes["X"], name="X"), cp.Parameter(shapes["v"], name="v")
        w, u = cp.Variable(shapes["w_old"], name="w"), cp.Variable(shapes["v"], name="u")

        fit = self.loss.activation.model_potential(u) if self.loss else self.activation.model_potential(u)
        term = self.multiplier * (self.use(fit) - cp.sum(cp.multiply(v, u)))
        term.set_label("training loss" if self.loss else "fit the activations wanted")
        terms, pre_activation = [term], X @ w.T
        if self.weight_decay:
            decay = self.weight_decay / 2 * cp.sum_squares(w)
            decay.set_label("weight decay")
            terms.append(decay)
        moves = [(w, cp.Parameter(shapes["w_old"], name="w_old"))]
        if self.bias:
            c = cp.Variable(self.lead, name="c")
            moves.append((c, cp.Parameter(self.lead, name="c_old")))
            rows = np.ones((self.samples, 1)) @ cp.reshape(c, (1, c.size), order="C") if self.coupled else c
            pre_activation = pre_activation + rows
        if self.proximity:
            stay = self.proximity / 2 * sum(cp.sum_squares(new - old) for new, old in moves)
            stay.set_label("stay near the present weights")
            terms.append(stay)

        tie = u == pre_activation
        tie.set_label("pre-activations")
        return cp.Problem(cp.Minimize(sum(terms[1:], terms[0])), [tie, *fit.constraints])

    def data_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {
            "X": (self.samples, self.inputs),
            "v": (self.samples, *self.lead),
            "w_old": (*self.lead, self.inputs),
        }
        if self.bias:
            shapes["c_old"] = self.lead
        return shapes

    def start_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = self.data_shapes()
        return {"w": shapes["w_old"], "c": self.lead, "u": shapes["v"]}

    def pre_activations(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """u of every instance: (batch, samples), or (batch, samples, units) for a coupled layer."""
        w, X = values["w"], data["X"]
        if self.coupled:
            u = X @ library(w).swapaxes(w, -1, -2)
            return u + values["c"][:, None, :] if self.bias else u
        u = w @ X.T
        return u + values["c"][:, None] if self.bias else u

    def objective(self, values: Mapping[str, Array], data: Mapping[str, Array], u: Array = None) -> Array:
        """The objective of every instance; `u` spares a product where the pre-activations are known."""
        u, batch = self.pre_activations(values, data) if u is None else u, values["w"].shape[0]
        fit = self.activation.potential(u).reshape(batch, -1).sum(-1)
        total = self.multiplier * (fit - (u * data["v"]).reshape(batch, -1).sum(-1))
        total = total + self.weight_decay / 2 * (values["w"] ** 2).reshape(batch, -1).sum(-1)
        for new, old in self._moves():
            move = ((values[new] - data[old]) ** 2).reshape(batch, -1).sum(-1)
            total = total + self.proximity / 2 * move
        return total

    def gradient(
        self, values: Mapping[str, Array], data: Mapping[str, Array], u: Array = None
    ) -> dict[str, Array]:
        """Gradient of every instance in w and c, as a mapping of the same names and shapes; `u` as for `objective`."""
        u = self.pre_activations(values, data) if u is None else u
        error = self.multiplier * (self.activation.phi(u) - data["v"])
        if self.coupled:
            slopes = {"w": library(error).swapaxes(error, -1, -2) @ data["X"], "c": error.sum(-2)}
        else:
            slopes = {"w": error @ data["X"], "c": error.sum(-1)}
        slopes["w"] = slopes["w"] + self.weight_decay * values["w"]
        return {new: slopes[new] + self.proximity * (values[new] - data[old]) for new, old in self._moves()}

    def residuals(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Residuals:
        """Feasibility (none to violate: zero); relative size of the gradient; Fenchel-Young gap of the quadratic terms.

        Each entry of the gradient is relative to 1 + multiplier * sum_i |v_i| |X_ij|, what its terms could add up to.
        The gap is 1/2 |gradient|^2 / curvature over w and c, where the curvature is weight_decay + proximity
        (c: proximity): the objective is at most that far above its optimum, in exact arithmetic. It is
        +inf where the curvature is zero and the gradient is not, and relative to 1 + the objective with its constants.
        """
        gradient, pulls = self.gradient(values, data), self._pulls(data)
        size = largest_entry(gradient["w"] / (1 + pulls["w"]))
        if self.bias:
            size = library(size).maximum(size, largest_entry(gradient["c"] / (1 + pulls["c"])))
        return Residuals(0.0 * size, size, self.gap(gradient, values, data))

    def gap(
        self, gradient: Mapping[str, Array], values: Mapping[str, Array], data: Mapping[str, Array], u: Array = None
    ) -> Array:
        """The relative gap of `residuals`, from the gradient there; `u` as for `objective`."""
        batch = values["w"].shape[0]
        gap = 0.0 * gradient["w"].reshape(batch, -1).sum(-1)
        for name, slope in gradient.items():
            curvature = self.proximity + (self.weight_decay if name == "w" else 0.0)
            square = (slope**2).reshape(batch, -1).sum(-1) / 2
            gap = gap + (square / curvature if curvature else library(gap).where(square > 0, np.inf, 0.0 * gap))
        return relative_gap(gap, self.size(values, data, u), lambda: self.objective(values, data, u))

    def size(self, values: Mapping[str, Array], data: Mapping[str, Array], u: Array = None) -> Array:
        # multiplier * B(v, u) and the quadratic terms.
        u, v, batch = self.pre_activations(values, data) if u is None else u, data["v"], values["w"].shape[0]
        fit = self.activation.gap(v, u) if self.coupled else self.activation.gap(v[..., None], u[..., None])
        total = self.multiplier * fit.reshape(batch, -1).sum(-1)
        total = total + self.weight_decay / 2 * (values["w"] ** 2).reshape(batch, -1).sum(-1)
        for new, old in self._moves():
            total = total + self.proximity / 2 * ((values[new] - data[old]) ** 2).reshape(batch, -1).sum(-1)
        return total

    def _pulls(self, data: Mapping[str, Array]) -> dict[str, Array]:
        """multiplier * sum_i |v_i| |X_ij| for w, and multiplier * sum_i |v_i| for c, in the shapes of the gradient."""
        v, X = self.multiplier * abs(data["v"]), abs(data["X"])
        if self.coupled:
            return {"w": library(v).swapaxes(v, -1, -2) @ X, "c": v.sum(-2)}
        return {"w": v @ X, "c": v.sum(-1)}

    def _moves(self) -> tuple[tuple[str, str], ...]:
        return (("w", "w_old"), ("c", "c_old")) if self.bias else (("w", "w_old"),)
