"""Contrastive lifting: the difference of two lifted minima, free and clamped to the targets.

With the energy of a network and its loss weighed by `nudge`,

    E(a)  =  sum_{l<L} B_l(a_l, W_l a_{l-1} + b_l),
    J     =  (1/nudge) ( min_a [ E(a) + nudge * loss(W_L a_{L-1} + b_L; y) ]  -  min_a E(a) )  +  penalty.

The free minimum is the forward pass, where E = 0 and its gradient in the weights vanishes (B_l = 0 and phi(u) = v), so
that the contrast has one convex half: dJ/dW_l = (1/nudge) (phi_l(u_l) - a_l)' a_{l-1} at the clamped activations, by
Danskin's theorem. Towards nudge = 0 this is the gradient of backpropagation; a larger one lets the activations move.

**Blocks.** A sweep sets the activations to the forward pass (the free minimum), solves `fenchel.activation` for layers
L-1, ..., 1, `rounds` times (the clamped minimum, up to what alternating leaves), and then for all layers at once
`fenchel.weight` with the factor 1/nudge and a proximal term: its gradient at the present weights is dJ/dW, and its
minimizer is an implicit step along it.

**Relaxation.** J is at most the training objective for every weight, and so is its minimum: E = 0 is feasible.

Source: Zach & Estellers, "Contrastive learning for lifted networks", BMVC 2019; there layers have geometrically falling
factors, here one for all.
"""

from __future__ import annotations

from dataclasses import dataclass

from .activations import Array
from .formulation import Architecture, Step
from .lifted_blocks import fit_activations, fit_by_gap, gap_values, lifted_loss
from .lifted_method import LiftedMethod, LiftedVariables, SolveBlock
from .subproblem import require_positive, require_size


@dataclass(frozen=True)
class ContrastiveLifting(LiftedMethod):
    """Settings of contrastive lifting; see the module's text.

    Parameters
    ----------
    nudge : float
        Factor of the loss in the clamped energy.
    rounds : int
        Passes over the activation blocks of the clamped minimum.
    proximity : float
        Factor of the proximal term of a weight block, relative to its factor 1/nudge and the number of samples.

    Raises
    ------
    UsageError
        If a setting is out of range.
    """

    name = "contrastive"
    paper = "Zach & Estellers, Contrastive learning for lifted networks, BMVC 2019"
    limits = "activations must be monotone; full-batch implicit gradient steps"
    penalty = "(clamped minus free minimum of sum B) / nudge"
    relaxation = "yes, at every weight: J is at most the training objective"
    parallel = "all weights; samples and units in a block"

    nudge: float = 1.0
    rounds: int = 2
    proximity: float = 0.1

    def __post_init__(self) -> None:
        require_positive(nudge=self.nudge, proximity=self.proximity)
        require_size(rounds=self.rounds)

    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        activations = tuple((Step("activation", layer),) for layer in range(architecture.hidden, 0, -1))
        return (*activations * self.rounds, tuple(Step("weight", layer) for layer in range(1, architecture.layers + 1)))

    def sweep(self, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        self.start(architecture, state)
        super().sweep(architecture, state, solve)

    def update(self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        if step.block == "activation":
            fit_activations(step, architecture, state, solve, multiplier=1 / self.nudge)
            return
        factor = 1.0 if step.layer == architecture.layers else 1 / self.nudge
        proximity = self.proximity * factor * len(state.inputs)
        fit_by_gap(step, architecture, state, solve, multiplier=1 / self.nudge, proximity=proximity)

    def layer_gaps(self, architecture: Architecture, state: LiftedVariables) -> list[Array]:
        """B_l of every hidden layer, summed over samples."""
        return gap_values(architecture, state)

    def lifted_value(self, architecture: Architecture, state: LiftedVariables) -> Array:
        """J at the activations that the sweep found, before the forward pass replaces them."""
        return lifted_loss(architecture, state) + sum(gap_values(architecture, state)) / self.nudge
