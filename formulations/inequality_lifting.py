"""Inequality lifting (mDLAM): activations within epsilon of what their pre-activations give.

    minimize    loss(z_L; y)  +  (weight_decay/2) sum_l |W_l|^2  +  (multiplier/2) sum_l |z_l - W_l a_{l-1} - b_l|^2
    subject to  |phi_l(z_l) - a_l| <= epsilon      (every entry, l < L)

over weights, biases, z_1, ..., z_L and a_1, ..., a_{L-1} (sums over samples; a_0 the inputs). Feed-forward points are
feasible and cost what the network costs, so that the MINIMUM is at most that of training, for every multiplier and
epsilon. A value found by alternating is an estimate and bounds nothing. Towards an infinite multiplier and
epsilon = 0 the problem becomes that of training.

**Blocks.** In the order (W_1, b_1), z_1, a_1, (W_2, b_2), z_2, ..., z_L, every one convex:

    (W_l, b_l)     ridge regression of z_l on a_{l-1}                         fenchel.weight with the identity
    z_l, l < L     clip W_l a_{l-1} + b_l to an interval                      inequality.pre_activation
    z_L            proximal map of the loss                                   fenchel.output
    a_l            least squares over a box, all samples share the matrix     inequality.activation

`steps="majorized"` takes the paper's steps in the place of the exact W and a: one step on a quadratic majorizer, whose
curvature is computed (the released code finds one by doubling).

**Extrapolation with a guard.** A sweep starts from T + w (T - T_previous), T all variables after the last sweep, with
Nesterov's weights w = (s_k - 1)/s_{k+1}, s_{k+1} = (1 + sqrt(1 + 4 s_k^2))/2; the activations are put back into their
boxes. Where that sweep does not lower the objective it is done again from T itself, which cannot raise it, and s starts
anew: for a fixed epsilon the objective never rises. The paper extrapolates and guards block by block; the exact
minimizer of a block does not depend on where its own variable starts, so that only extrapolating the others does
anything. In the released code the extrapolation is always zero (the old point is set to the new one before it).

**Epsilon** starts large, where the activations hardly matter, and is multiplied by `decay` after each sweep down to
`least_epsilon` (the paper halves it). When it shrinks, the pre-activations are clipped to the smaller intervals around
the activations, the objective may rise, and the next sweep does not extrapolate. Once it is small, a layer moves by
about epsilon in a sweep where it is dead.

**Multiplier.** The weight block is ridge regression with the factor weight_decay/multiplier beside the Gram matrix of
its inputs. For N standardized samples that is about N times the identity: where weight_decay/multiplier is not far
below N the weights shrink for no reason of the training problem. The paper's 1e-3 suits its features, counts of words
whose Gram matrix is large; the default suits standardized ones.

Source: J. Wang, H. Li & L. Zhao, "Accelerated gradient-free neural network training by multi-convex alternating
optimization" (mDLAM), Neurocomputing 487 (2022), arXiv 1811.04187; columns there are rows here, its rho is
`multiplier`, and its Omega is our weight decay (counted twice in the released code).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Any

from .activations import Array, library
from .errors import UsageError
from .formulation import Architecture, Block, Step, penalty
from .inequality_blocks import PAPER, BoxActivation, IntervalPreActivation, interval, interval_data
from .lifted_blocks import fit_output, fit_weights, move_weights, network_residuals, output_loss, squared_norm
from .lifted_method import LiftedMethod, LiftedVariables, SolveBlock, layer_by_layer
from .subproblem import require_positive

EXACT, MAJORIZED = "exact", "majorized"
Point = dict[str, list[Array]]
PARTS = ("weights", "biases", "pre_activations", "activations")


@dataclass(frozen=True)
class InequalityLifting(LiftedMethod):
    """Settings of inequality lifting; see the module's text for what a sweep does.

    Parameters
    ----------
    multiplier : float
        Factor of 1/2 |z_l - W_l a_{l-1} - b_l|^2 (the paper's rho, there 1e-3).
    epsilon, least_epsilon : float
        Half-width of the boxes in the first sweep, and in the end (the paper's are 100 and 1e-3).
    decay : float
        Factor of epsilon from sweep to sweep, at most 1; the paper's is 0.5, slower schedules use a larger one.
    steps : str
        ``"exact"`` blocks, or the paper's ``"majorized"`` steps for weights and activations.
    extrapolate : bool
        Whether sweeps start from an extrapolated point (the objective falls monotonically in either case).

    Raises
    ------
    UsageError
        If a setting is out of range.
    """

    name = "inequality"
    paper = PAPER
    limits = "activations must be monotone, softmax layers are refused; dense networks, all data in each sweep"
    penalty = "1/2 |z - W a - b|^2, and |phi(z) - a| <= epsilon"
    relaxation = "yes, for every multiplier and epsilon; its values are estimates from above of its minimum"
    parallel = "samples and units in a block; blocks in turn"

    multiplier: float = 0.1
    epsilon: float = 100.0
    least_epsilon: float = 1e-2
    decay: float = 0.3
    steps: str = EXACT
    extrapolate: bool = True

    def __post_init__(self) -> None:
        require_positive(
            multiplier=self.multiplier, epsilon=self.epsilon, least_epsilon=self.least_epsilon, decay=self.decay
        )
        if self.decay > 1:
            raise UsageError(f"decay is {self.decay!r}; expected a number above 0, at most 1: epsilon must not grow.")
        if self.least_epsilon > self.epsilon:
            raise UsageError(
                f"least_epsilon is {self.least_epsilon!r}, above epsilon, {self.epsilon!r}; expected at most that."
            )
        if self.steps not in (EXACT, MAJORIZED):
            raise UsageError(f"steps is {self.steps!r}; expected 'exact' or 'majorized'.")
        if not isinstance(self.extrapolate, bool):
            raise UsageError(f"extrapolate is {self.extrapolate!r}; expected True or False.")

    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        return layer_by_layer(architecture, ("weight", "pre_activation", "activation"))

    def start(self, architecture: Architecture, state: LiftedVariables) -> None:
        super().start(architecture, state)
        state.epsilon = self.epsilon

    def sweep(self, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        shrunk = self._shrink(architecture, state)
        present, before = _point(state), self.lifted_value(architecture, state)
        previous, s = state.memory.get("previous"), state.memory.get("s", 1.0)
        following = (1 + sqrt(1 + 4 * s * s)) / 2
        # From an earlier epsilon the variables moved for other reasons.
        share = (s - 1) / following if self.extrapolate and previous and not shrunk else 0.0
        state.memory |= {"previous": present, "s": following, "extrapolation": share}
        if share:
            assert previous is not None
            _place(state, {name: _beyond(present[name], previous[name], share) for name in PARTS})
            _into_boxes(architecture, state)
        super().sweep(architecture, state, solve)
        # Written so that a NaN counts as a rise.
        if share and not self.lifted_value(architecture, state) < before:
            _place(state, present)
            state.memory |= {"s": 1.0, "extrapolation": 0.0}
            super().sweep(architecture, state, solve)

    def _shrink(self, architecture: Architecture, state: LiftedVariables) -> bool:
        """The epsilon of this sweep, and the pre-activations clipped to its intervals; whether it is a new one.

        They follow the activations, not the other way round: those carry what the layers above want.
        """
        before = state.epsilon
        if "previous" in state.memory:
            state.epsilon = max(self.least_epsilon, self.decay * state.epsilon)
            if state.epsilon == before:
                return False
        for place, phi in enumerate(architecture.activations):
            a, z, xp = state.activations[place], state.pre_activations[place], library(state.inputs)
            # Farther than epsilon from the range of phi no pre-activation would do.
            a = state.activations[place] = xp.clip(a, phi.low - state.epsilon, phi.high + state.epsilon)
            lower, upper = interval(phi, a, state.epsilon)
            state.pre_activations[place] = xp.minimum(xp.maximum(z, lower), upper)
        return True

    def update(self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        layer, place = step.layer, step.layer - 1
        if step.block == "weight":
            move = {"multiplier": self.multiplier, "wanted": state.pre_activations[place]}
            if self.steps == EXACT:
                fit_weights(step, architecture, state, solve, **move)
            else:
                move_weights(step, architecture, state, **move)
        elif layer == architecture.layers:
            fit_output(architecture, state, solve, multiplier=self.multiplier, arrives=state.sent(layer))
        elif step.block == "pre_activation":
            phi = architecture.activations[place]
            data = {"u": state.sent(layer), **interval_data(phi, state.activations[place], state.epsilon)}
            block = Block(_interval_block(architecture.widths[layer]), data, {})
            state.pre_activations[place] = solve(step.label, block)["z"]
        else:
            self._activation(step, architecture, state, solve)

    def _activation(self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        place, (width, next_width) = step.layer - 1, architecture.widths[step.layer : step.layer + 2]
        block = _box_block(width, next_width, state.epsilon)
        data = {
            "h": architecture.activations[place].phi(state.pre_activations[place]),
            "v": state.pre_activations[place + 1], "W": state.weights[place + 1], "b": state.biases[place + 1],
        }  # fmt: skip
        present = block.clip(state.activations[place], data)
        if self.steps == EXACT:
            state.activations[place] = solve(step.label, Block(block, data, {"x": present}))["x"]
            return
        curvature, where = squared_norm(data["W"]), library(present).where
        move = block.gradient(present, data) / where(curvature > 0, curvature, 1.0)
        state.activations[place] = block.clip(present - move, data)

    def layer_gaps(self, architecture: Architecture, state: LiftedVariables) -> list[Array]:
        """1/2 |z_l - W_l a_{l-1} - b_l|^2 of every layer."""
        return network_residuals(architecture, state)

    def lifted_value(self, architecture: Architecture, state: LiftedVariables) -> Array:
        gaps = self.multiplier * sum(network_residuals(architecture, state))
        return output_loss(architecture, state) + penalty(architecture, state.weights) + gaps

    def figures(self, state: LiftedVariables) -> dict[str, Any]:
        return {"epsilon": state.epsilon, "extrapolation": state.memory.get("extrapolation", 0.0)}


def _into_boxes(architecture: Architecture, state: LiftedVariables) -> None:
    """Clip the activations to within epsilon of phi(z)."""
    for place, phi in enumerate(architecture.activations):
        block = _box_block(architecture.widths[place + 1], architecture.widths[place + 2], state.epsilon)
        h = phi.phi(state.pre_activations[place])
        state.activations[place] = block.clip(state.activations[place], {"h": h})


def _point(state: LiftedVariables) -> Point:
    """All variables; arrays are replaced in a sweep, never changed, so that the lists alone are copied."""
    return {name: list(getattr(state, name)) for name in PARTS}


def _place(state: LiftedVariables, point: Point) -> None:
    for name, arrays in point.items():
        setattr(state, name, list(arrays))


def _beyond(present: list[Array], previous: list[Array], share: float) -> list[Array]:
    return [now + share * (now - before) for now, before in zip(present, previous, strict=True)]


@lru_cache(maxsize=64)
def _interval_block(width: int) -> IntervalPreActivation:
    return IntervalPreActivation(width=width)


@lru_cache(maxsize=256)
def _box_block(width: int, next_width: int, epsilon: float) -> BoxActivation:
    return BoxActivation(width=width, next_width=next_width, epsilon=epsilon)
