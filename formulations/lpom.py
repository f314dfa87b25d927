"""LPOM, the lifted proximal operator machine: the Fenchel-Young gap, minimized by applying phi alone.

    minimize    loss(W_L a_{L-1} + b_L; y)  +  (weight_decay/2) sum_l |W_l|^2  +  multiplier sum_{l<L} P_l(a_l, u_l)

with u_l = W_l a_{l-1} + b_l and, entry by entry, f(v) = int (phi^{-1}(t) - t) dt, g(u) = int (phi(t) - t) dt,

    P(v, u)  =  f(v) + g(u) + 1/2 (v - u)^2  =  B(v, u) + constant,

the Fenchel-Young gap of activations.py up to a constant that depends on the lower ends of the integrals alone. The
lifted problem is that of Fenchel lifting, and a relaxation like it; what differs is how it is minimized.

**Activations**, from layer L-1 down: the stationary point of the block `fenchel.activation`,

    a_l  <-  phi_l( u_l - W_{l+1}' (phi_{l+1}(W_{l+1} a_l + b_{l+1}) - a_{l+1}) ),

repeated `repeats` times (before the output: phi_{l+1} - a_{l+1} becomes the slope of the loss over the multiplier). No
derivative of phi and no solver is needed. It contracts where |W_{l+1}|^2, times the ratio of the multipliers and
the slopes, is below 1 (the published condition, too); a sample whose block does not fall keeps its activations.

**Weights**, all layers independently: the block `fenchel.weight` without a proximal term by `repeats` steps of
accelerated gradient descent of length 1 / (multiplier |a_{l-1}|^2 + weight_decay), taken together where they lower it;
(W_L, b_L) with the loss.

Source: Li, Fang & Lin, "Lifted proximal operator machines", AAAI 2019, arXiv 1811.01501. There samples are columns, the
squared loss counts like ours, and every layer has its own factor mu; one multiplier here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from .activations import Array, library
from .fenchel_activation import FenchelActivation
from .fenchel_weight import FenchelWeight
from .formulation import Architecture, Step
from .lifted_blocks import activation_block, gap_values, lifted_loss, put_weights, squared_norm, weight_block
from .lifted_method import LiftedMethod, LiftedVariables, SolveBlock
from .subproblem import require_positive, require_size
from .target_blocks import require_lipschitz


@dataclass(frozen=True)
class LiftedProximalOperators(LiftedMethod):
    """Settings of LPOM; see the module's text for what a sweep does.

    Parameters
    ----------
    multiplier : float
        Factor of the gaps of the hidden layers.
    repeats : int
        Applications of phi, and gradient steps, in a block.

    Raises
    ------
    UsageError
        If a setting is out of range.
    """

    name = "lpom"
    paper = "Li, Fang & Lin, Lifted proximal operator machines, AAAI 2019, arXiv 1811.01501"
    limits = "monotone activations, slopes at most 1 (softmax refused); inexact blocks"
    penalty = "Fenchel-Young gap B(a, u) + constant"
    relaxation = "yes, as fenchel (with a ridge on all weights: else a trivial one)"
    parallel = "all weights; samples and units in a block"

    multiplier: float = 1.0
    repeats: int = 20

    def __post_init__(self) -> None:
        require_positive(multiplier=self.multiplier)
        require_size(repeats=self.repeats)

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        require_lipschitz(architecture.activations)

    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        activations = tuple((Step("activation", layer),) for layer in range(architecture.hidden, 0, -1))
        return (*activations, tuple(Step("weight", layer) for layer in range(1, architecture.layers + 1)))

    def update(self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        place = step.layer - 1
        if step.block == "activation":
            block, data = activation_block(step, architecture, state, multiplier=self.multiplier)
            state.activations[place] = fixed_point(block, data, state.activations[place], self.repeats)
            return
        weights, data = weight_block(step, architecture, state, multiplier=self.multiplier)
        values = accelerated_gradient(weights, data, self.repeats, state.memory if step.layer == 1 else None)
        put_weights(step, architecture, state, values)

    def layer_gaps(self, architecture: Architecture, state: LiftedVariables) -> list[Array]:
        """B_l of every hidden layer, summed over samples."""
        return gap_values(architecture, state)

    def lifted_value(self, architecture: Architecture, state: LiftedVariables) -> Array:
        return lifted_loss(architecture, state) + self.multiplier * sum(self.layer_gaps(architecture, state))


def fixed_point(block: FenchelActivation, data: dict[str, Array], x: Array, repeats: int) -> Array:
    """Apply ``x <- phi(t(x))`` that often, t the pre-activations of the block's stationary point.

    Samples whose objective is not lower afterwards keep their x: where the map does not contract it may leave.
    """
    found = x
    for _ in range(repeats):
        found = block.activation.phi(block.stationary_point(found, data))
    falls = block.objective({"x": found}, data) < block.objective({"x": x}, data)
    return library(x).where(falls[:, None], found, x)


def accelerated_gradient(
    block: FenchelWeight, data: dict[str, Array], repeats: int, memory: dict[str, object] | None = None
) -> dict[str, Array]:
    """Steps of accelerated gradient descent on a weight block from the present weights, kept where they lower it.

    The length is 1 over a bound of the curvature: multiplier (|X|^2 + N for the bias) sup phi' + weight_decay.
    """
    bias = len(data["X"]) if block.bias else 0
    curvature = block.multiplier * (squared_norm(data["X"], memory) + bias) * block.activation.slopes[1]
    length = 1 / library(curvature).clip(curvature + block.weight_decay, 1e-300, None)
    start = {"w": data["w_old"]} | ({"c": data["c_old"]} if block.bias else {})
    values, ahead, s = start, start, 1.0
    for _ in range(repeats):
        slopes = block.gradient(ahead, data)
        after = {name: ahead[name] - length * slopes[name] for name in start}
        following = (1 + sqrt(1 + 4 * s * s)) / 2
        ahead = {name: after[name] + (s - 1) / following * (after[name] - values[name]) for name in start}
        values, s = after, following
    falls = block.objective(values, data) < block.objective(start, data)
    return {name: _keep(falls, values[name], start[name]) for name in start}


def _keep(falls: Array, yes: Array, no: Array) -> Array:
    shape = (-1, *[1] * (yes.ndim - 1))
    where: Callable[..., Array] = library(yes).where
    return where(falls.reshape(shape), yes, no)
