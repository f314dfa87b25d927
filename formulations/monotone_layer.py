"""Training of one layer as a monotone variational inequality, which is a convex program.

The generalized linear model E[y | x] = phi(W x + c) is estimated from samples (x_i, y_i) by the operator

    F(W, c) = sum_i (phi(W x_i + c) - y_i) (x_i, 1)'  +  weight_decay (W, 0)

and the variational inequality over a ball: find th = (W, c) in the ball with <F(V), V - th> >= 0 for all V in it. For
every monotone phi (each entry nondecreasing, or softmax) F is monotone: <F(a) - F(b), a - b> is at least zero. And
because phi is the derivative of a convex Phi, F is the gradient of the sum of Fenchel-Young losses below: solving the
inequality is minimizing it. No derivative of phi enters F.

**Modulus.** <F(a) - F(b), a - b> >= kappa |a - b|^2 with

    kappa = lambda_min( sum_i m_i (x_i, 1)(x_i, 1)' + diag(weight_decay, 0) ),

where m_i is the least slope of phi at pre-activations up to radius * |(x_i, 1)|: all that the ball can reach. The
slopes of every row of the table are least at an end of such an interval or at zero. Softmax does not see a number added
to all units, so that there only weight decay remains.

**Scale.** Sums over samples, as everywhere in this package; the operator F_N of the paper is a mean: F divided by the
number of samples. Natural residuals and moduli are reported for F_N.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import cvxpy as cp
import numpy as np

from .activations import Activation, Array, largest_entry, library
from .activations import activation as find_activation
from .description import Symbol
from .errors import UsageError
from .losses import Loss, find_loss
from .subproblem import (
    PER_INSTANCE,
    SHARED,
    Residuals,
    Subproblem,
    relative_gap,
    require_nonnegative,
    require_positive,
    require_size,
)

SVI_PAPER = (
    'Xu, Cheng & Xie, "Training neural networks is solving monotone variational inequalities", arXiv 2202.08876; after '
    'Juditsky & Nemirovski, "Signal recovery by stochastic optimization" (2019)'
)


class MonotoneLayer(Subproblem):
    """One layer on fixed features, as a monotone variational inequality over a ball.

        minimize    Phi(U) - <y, U>  +  weight_decay/2 |W|^2
        subject to  U = X W' + 1 c',    |(W, c)| <= radius

    Variables   W (units, inputs), c (units,)      weights and biases of the layer
                U (samples, units)                 its pre-activations
    Data        X (samples, inputs)                features, samples as rows          shared
                y (samples, units)                 what phi(U) is to be on average    per instance
                weight_decay >= 0, radius > 0 (or None, for no ball): numbers fixed when the block is made
    The gradient of the objective is the operator F = (phi(U) - y)'(X, 1) of the inequality, plus weight decay. Targets
    y have to be in the closed range of phi: a ReLU layer has no use for y < 0, where its objective falls without end
    but for the ball. `loss` names the activation of a training loss instead: its residual is phi(u) - y.
    Convex because Phi is convex and U is affine in W and c.
    Source      Xu, Cheng & Xie, arXiv 2202.08876, section 3 (the inequality); that it is a gradient: P2 of a
                Fenchel-Young gap, see activations.py.

    Parameters
    ----------
    samples, inputs, units : int
        Sizes of X and y.
    activation : str or Activation
        Row of the table; not used where `loss` is given.
    loss : str, Loss or None
        A training loss.
    weight_decay : float
        Factor of the penalty.
    radius : float or None
        Radius of the ball, in which all weights and biases together lie.
    bias : bool
        Whether the layer has biases.

    Raises
    ------
    UsageError
        For an unknown activation or loss, a size below 1, a factor out of range, or neither ball nor weight decay: then
        there need not be a solution.

    Examples
    --------
    >>> MonotoneLayer(activation="sigmoid", radius=2.0).program().is_dcp(dpp=True)
    True
    """

    name: ClassVar[str] = "monotone.layer"
    source = SVI_PAPER
    instance = "one layer"

    def __init__(
        self, *, samples: int = 6, inputs: int = 4, units: int = 3, activation: str | Activation = "sigmoid",
        loss: str | Loss | None = None, weight_decay: float = 0.0, radius: float | None = 1.0, bias: bool = True,
    ) -> None:  # fmt: skip
        require_size(samples=samples, inputs=inputs, units=units)
        require_nonnegative(weight_decay=weight_decay)
        if radius is not None:
            require_positive(radius=radius)
        elif not weight_decay:
            raise UsageError(
                "there is neither a ball nor weight decay; expected one of them, or the inequality may have no "
                "solution: give radius, or weight_decay above zero."
            )
        self.samples, self.inputs, self.units, self.bias = samples, inputs, units, bias
        self.weight_decay, self.radius = float(weight_decay), None if radius is None else float(radius)
        self.loss = None if loss is None else find_loss(loss)
        self.activation = self.loss.activation if self.loss else find_activation(activation)
        self.symbols = (
            Symbol("W", "weights of the layer", PER_INSTANCE, r"\mathbf{W}"),
            *([Symbol("c", "biases of the layer", PER_INSTANCE, r"\mathbf{c}")] if bias else []),
            Symbol("U", "pre-activations of the layer", PER_INSTANCE, r"\mathbf{U}"),
            Symbol("X", "features, samples as rows", SHARED, r"\mathbf{X}"),
            Symbol("y", "what phi(U) is to be on average", PER_INSTANCE, r"\mathbf{Y}"),
        )
        self.prepare()

    def write(self) -> cp.Problem:
        X = cp.Parameter((self.samples, self.inputs), name="X")
        y, W = cp.Parameter((self.samples, self.units), name="y"), cp.Variable((self.units, self.inputs), name="W")
        U = cp.Variable((self.samples, self.units), name="U")
        fit = self.activation.model_potential(U)
        terms = [(1.0 * (self.use(fit) - cp.sum(cp.multiply(y, U)))).set_label("Fenchel-Young loss")]
        if self.weight_decay:
            terms.append((self.weight_decay / 2 * cp.sum_squares(W)).set_label("weight decay"))
        pre_activation, parts = X @ W.T, [cp.vec(W, order="C")]
        if self.bias:
            c = cp.Variable(self.units, name="c")
            pre_activation = pre_activation + np.ones((self.samples, 1)) @ cp.reshape(c, (1, self.units), order="C")
            parts.append(c)
        constraints = [(pre_activation == U).set_label("pre-activations"), *fit.constraints]
        if self.radius is not None:
            constraints.append((cp.norm(cp.hstack(parts), 2) <= self.radius).set_label("the ball"))
        return cp.Problem(cp.Minimize(sum(terms[1:], terms[0])), constraints)

    def data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"X": (self.samples, self.inputs), "y": (self.samples, self.units)}

    def start_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"W": (self.units, self.inputs), **({"c": (self.units,)} if self.bias else {})}

    def require_targets(self, y: Array) -> None:
        """Refuse targets outside the closed range of phi.

        Raises
        ------
        UsageError
            Naming the farthest target, the range, and the remedy.
        """
        phi = self.activation
        distance = float(phi.violation(y).max())
        if distance > 1e-9:
            ends = "the simplex" if phi.couples_units else f"{phi.low:g} to {phi.high:g}"
            raise UsageError(
                f"a target y is {distance:.3g} away from the range of {phi.label!r}; expected rows of {ends}, or the "
                "objective falls without end: clip the targets, or take another activation."
            )

    def pack(self, values: Mapping[str, Array]) -> Array:
        """Weights with the biases as last column: (batch, units, inputs + 1)."""
        W = values["W"]
        return library(W).concatenate([W, values["c"][..., None]], -1) if self.bias else W

    def unpack(self, packed: Array) -> dict[str, Array]:
        """The mapping of names that `pack` packs."""
        return {"W": packed[..., :-1], "c": packed[..., -1]} if self.bias else {"W": packed}

    def columns(self, X: Array) -> Array:
        """X, with a column of ones where the layer has biases."""
        return library(X).concatenate([X, 0 * X[:, :1] + 1], 1) if self.bias else X

    def project(self, packed: Array) -> Array:
        """The point of the ball nearest to packed weights, for every instance; without a ball the weights."""
        if self.radius is None:
            return packed
        size = self._norm(packed)
        return packed * (self.radius / library(size).clip(size, self.radius, None))[:, None, None]

    def pre_activations(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """U of every instance, (batch, samples, units)."""
        W = values["W"]
        u = data["X"] @ library(W).swapaxes(W, -1, -2)
        return u + values["c"][..., None, :] if self.bias else u

    def objective(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        u = self.pre_activations(values, data)
        fit = self.activation.row_sum(self.activation.potential(u)) - (u * data["y"]).sum(-1)
        return fit.sum(-1) + self.weight_decay / 2 * (values["W"] ** 2).sum(-1).sum(-1)

    def operator(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """F at the values, packed: (batch, units, inputs + 1); divided by the samples it is F_N."""
        error = self.activation.phi(self.pre_activations(values, data)) - data["y"]
        found = {"W": library(error).swapaxes(error, -1, -2) @ data["X"] + self.weight_decay * values["W"]}
        return self.pack(found | {"c": error.sum(-2)} if self.bias else found)

    def natural_residual(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """|th - P(th - F_N(th))| of every instance, P the projection to the ball: zero exactly at a solution."""
        packed = self.pack(values)
        return self._norm(packed - self.project(packed - self.operator(values, data) / self.samples))

    def gap(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """sup over V in the ball of <F(th), th - V>: the objective is at most that far above its optimum.

        Without a ball: |F|^2 / (2 weight_decay) over the weights, and +inf where F is not zero at the biases.
        """
        F, packed = self.operator(values, data), self.pack(values)
        if self.radius is not None:
            return (F * packed).sum(-1).sum(-1) + self.radius * self._norm(F)
        of_weights = F[..., :-1] if self.bias else F
        found = (of_weights**2).sum(-1).sum(-1) / (2 * self.weight_decay)
        if not self.bias:
            return found
        return library(found).where((F[..., -1] ** 2).sum(-1) > 0, found + np.inf, found)

    def size(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        fit = self.activation.gap(data["y"], self.pre_activations(values, data))
        return fit.sum(-1) + self.weight_decay / 2 * (values["W"] ** 2).sum(-1).sum(-1)

    def residuals(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Residuals:
        """Distance out of the ball over its radius; relative natural residual of F_N; relative gap.

        Each entry of the natural residual is relative to 1 + sum_i |y_i| |x_i| / samples, what its terms could add to.
        """
        packed = self.pack(values)
        outside = 0.0 * self._norm(packed)
        if self.radius is not None:
            outside = library(packed).clip(self._norm(packed) / self.radius - 1, 0.0, None)
        residual = packed - self.project(packed - self.operator(values, data) / self.samples)
        y = abs(data["y"])
        pulls = library(y).swapaxes(y, -1, -2) @ abs(self.columns(data["X"])) / self.samples
        gap = self.gap(values, data)
        gap = library(gap).clip(gap, 0.0, None)
        relative = relative_gap(gap, self.size(values, data), lambda: self.objective(values, data))
        return Residuals(outside, largest_entry(residual / (1 + pulls)), relative)

    def modulus(self, X: Array) -> float:
        """Modulus of strong monotonicity of F_N over the ball, from below; see the module's text.

        Computed in floating point; zero where nothing bends the inequality.
        """
        columns, phi = self.columns(X), self.activation
        ridge = np.full(self.inputs + self.bias, self.weight_decay)
        if self.bias:
            ridge[-1] = 0.0
        if phi.couples_units:
            return float(ridge.min()) / self.samples
        if self.radius is None:
            least = 0.0 * columns[:, 0] + phi.slopes[0]
        else:
            reach = self.radius * (columns**2).sum(-1) ** 0.5
            ends = library(reach).minimum(phi.slope(-reach), phi.slope(reach))
            least = library(reach).minimum(ends, phi.slope(0 * reach))
        gram = np.asarray((columns * least[:, None]).T @ columns) + np.diag(ridge)
        return max(0.0, float(np.linalg.eigvalsh(gram)[0])) / self.samples

    def _norm(self, packed: Array) -> Array:
        """Frobenius norm of every instance."""
        return (packed**2).sum(-1).sum(-1) ** 0.5
