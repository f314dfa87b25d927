"""Square lift: a squared distance in the place of the Fenchel-Young gap.

    minimize    loss(W_L a_{L-1} + b_L; y)  +  (weight_decay/2) sum_l |W_l|^2
                +  (multiplier/2) sum_{l<L} |a_l - W_l a_{l-1} - b_l|^2
    subject to  a_l in the range of phi_l

over weights, biases and activations. For activations that project onto an interval (ReLU and its clipped relatives)
the nearest a_l to the pre-activation u is phi(u): without a layer above, minimizing over a_l gives the forward pass.
But the least VALUE is |phi(u) - u|^2 / 2 and not zero: for ReLU, u_-^2/2 of every negative pre-activation.

**No relaxation.** A feed-forward point therefore costs more here than in training, and the minimum bounds nothing from
below. The term pulls pre-activations towards the range of phi, towards a linear network: the published use is to find
a start for other methods. The Fenchel-Young gap removes it by u_+^2/2 in the place of u^2/2 (fenchel_lifting.py).

**Blocks**, each the same program as one of Fenchel lifting: a_l is `fenchel.activation` with the identity above (where
the output follows, with the loss), (W_l, b_l) is `fenchel.weight` with the identity (ridge regression), and
(W_L, b_L) `fenchel.weight` with the loss.

Source: Askari, Negiar, Sambharya & El Ghaoui, "Lifted neural networks", arXiv 1805.01532. There the squares have no
1/2: their lambda is half our multiplier, their rho half our weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass

from .activations import Array
from .errors import UsageError
from .formulation import Architecture, Step
from .lifted_blocks import IDENTITY, fit_activations, fit_by_gap, fit_weights, lifted_loss, squared_distance
from .lifted_method import LiftedMethod, LiftedVariables, SolveBlock
from .subproblem import require_positive

PROJECTIONS = ("identity", "relu", "clipped_relu", "hardtanh")
"""Activations that are the projection onto their range: Phi* = v^2/2 there."""


@dataclass(frozen=True)
class SquareLift(LiftedMethod):
    """Settings of the square lift; see the module's text.

    Parameters
    ----------
    multiplier : float
        Factor of 1/2 |a_l - W_l a_{l-1} - b_l|^2.
    proximity : float
        Factor of 1/2 |(W_L, b_L) - (W_L, b_L)_old|^2 in the block of the output.

    Raises
    ------
    UsageError
        If a setting is not positive.
    """

    name = "square"
    paper = "Askari, Negiar, Sambharya & El Ghaoui, Lifted neural networks, arXiv 1805.01532"
    limits = "ReLU and other projections; penalizes negative pre-activations: a start for other methods"
    penalty = "1/2 |a - u|^2, a in the range of phi"
    relaxation = "no: feed-forward points cost u_-^2/2 more than the network"
    parallel = "all weights; samples and units in a block"

    multiplier: float = 0.1
    proximity: float = 1e-3

    def __post_init__(self) -> None:
        require_positive(multiplier=self.multiplier, proximity=self.proximity)

    def check(self, architecture: Architecture) -> None:
        for phi in architecture.activations:
            if phi.name not in PROJECTIONS:
                raise UsageError(
                    f"the activation {phi.label!r} is no projection onto its range; the square lift expects one of "
                    f"{', '.join(PROJECTIONS)}: take one of these, or the method 'fenchel'."
                )

    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        activations = tuple((Step("activation", layer),) for layer in range(architecture.hidden, 0, -1))
        return (*activations, tuple(Step("weight", layer) for layer in range(1, architecture.layers + 1)))

    def update(self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        if step.block == "activation":
            fit_activations(step, architecture, state, solve, multiplier=self.multiplier, above=IDENTITY)
        elif step.layer == architecture.layers:
            fit_by_gap(step, architecture, state, solve, multiplier=1.0, proximity=self.proximity)
        else:
            wanted = state.activations[step.layer - 1]
            fit_weights(step, architecture, state, solve, multiplier=self.multiplier, wanted=wanted)

    def layer_gaps(self, architecture: Architecture, state: LiftedVariables) -> list[Array]:
        """1/2 |a_l - W_l a_{l-1} - b_l|^2 of every hidden layer."""
        return [squared_distance(a, state.sent(layer)) for layer, a in enumerate(state.activations, start=1)]

    def lifted_value(self, architecture: Architecture, state: LiftedVariables) -> Array:
        return lifted_loss(architecture, state) + self.multiplier * sum(self.layer_gaps(architecture, state))
