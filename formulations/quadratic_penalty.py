"""Quadratic penalties, block by block (BCD): both halves of a layer relaxed to squares.

    minimize    loss(z_L; y)  +  (weight_decay/2) sum_l |W_l|^2
                +  (multiplier/2) sum_l |z_l - W_l a_{l-1} - b_l|^2  +  (coupling/2) sum_{l<L} |a_l - phi_l(z_l)|^2

over weights, biases, z_1, ..., z_L and a_1, ..., a_{L-1}. Feed-forward points cost what the network costs, so that the
MINIMUM is at most that of training; it tends to it as both factors grow (the quadratic-penalty method; MAC raises
them). With z_l replaced by W_l a_{l-1} + b_l this is MAC, whose weight blocks are no longer convex.

**Blocks**, from the output down to the first layer, the objective falling in each:

    z_L            proximal map of the loss                            fenchel.output
    (W_l, b_l)     ridge regression, with a proximal term              fenchel.weight with the identity
    a_l            least squares, all samples share the matrix         fenchel.activation between two identities
    z_l, l < L     the best of the pieces of phi                       penalty.pre_activation

Source: Zeng, Lau, Lin & Yao, "Global convergence of block coordinate descent in deep learning", ICML 2019 (three-way
splitting; their rho and gamma are `multiplier` and `coupling`, their alpha is `proximity`); Carreira-Perpinan & Wang,
"Distributed optimization of deeply nested systems", AISTATS 2014, for MAC.
"""

from __future__ import annotations

from dataclasses import dataclass

from .activations import Array
from .formulation import Architecture, Step, penalty
from .lifted_blocks import (
    activation_residuals,
    fit_between,
    fit_output,
    fit_weights,
    network_residuals,
    output_loss,
)
from .lifted_method import LiftedMethod, LiftedVariables, SolveBlock
from .penalty_blocks import best_pre_activation, pieces
from .subproblem import require_nonnegative, require_positive


@dataclass(frozen=True)
class QuadraticPenalty(LiftedMethod):
    """Settings of block coordinate descent on quadratic penalties; see the module's text.

    Parameters
    ----------
    multiplier, coupling : float
        Factors of the squares of the linear maps and of the activations.
    proximity : float
        Factor of 1/2 |(W, b) - (W, b)_old|^2.

    Raises
    ------
    UsageError
        If a factor is out of range.
    """

    name = "penalty"
    paper = "Zeng, Lau, Lin & Yao, Global convergence of block coordinate descent in deep learning, ICML 2019"
    limits = "piecewise linear activations; dense networks, all data in each sweep"
    penalty = "1/2 |z - W a - b|^2 and 1/2 |a - phi(z)|^2"
    relaxation = "yes; towards training as both factors grow"
    parallel = "samples and units in a block; blocks in turn"

    multiplier: float = 1.0
    coupling: float = 1.0
    proximity: float = 5.0

    def __post_init__(self) -> None:
        require_positive(multiplier=self.multiplier, coupling=self.coupling)
        require_nonnegative(proximity=self.proximity)

    def check(self, architecture: Architecture) -> None:
        for phi in architecture.activations:
            pieces(phi)

    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        top = (Step("pre_activation", architecture.layers), Step("weight", architecture.layers))
        hidden = [
            Step(block, layer)
            for layer in range(architecture.hidden, 0, -1)
            for block in ("activation", "pre_activation", "weight")
        ]
        return tuple((step,) for step in (*top, *hidden))

    def update(self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        layer, place, r = step.layer, step.layer - 1, self.multiplier
        if step.block == "weight":
            wanted = state.pre_activations[place]
            fit_weights(step, architecture, state, solve, multiplier=r, wanted=wanted, proximity=self.proximity)
        elif step.block == "activation":
            wanted = state.pre_activations[layer]
            fit_between(step, architecture, state, solve, below=self.coupling, above=r, wanted=wanted)
        elif layer == architecture.layers:
            fit_output(architecture, state, solve, multiplier=r, arrives=state.sent(layer))
        else:
            phi, a = architecture.activations[place], state.activations[place]
            state.pre_activations[place] = best_pre_activation(phi, state.sent(layer), a, r, self.coupling)

    def layer_gaps(self, architecture: Architecture, state: LiftedVariables) -> list[Array]:
        """1/2 |z_l - W_l a_{l-1} - b_l|^2, for hidden layers with 1/2 |a_l - phi_l(z_l)|^2."""
        gaps, below = network_residuals(architecture, state), activation_residuals(architecture, state)
        return [gap + (below[place] if place < len(below) else 0.0) for place, gap in enumerate(gaps)]

    def lifted_value(self, architecture: Architecture, state: LiftedVariables) -> Array:
        maps = self.multiplier * sum(network_residuals(architecture, state))
        activations = self.coupling * sum(activation_residuals(architecture, state))
        return output_loss(architecture, state) + penalty(architecture, state.weights) + maps + activations
