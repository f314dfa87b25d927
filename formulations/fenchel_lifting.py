"""Fenchel lifting of a whole network: the lifted problem and the order of its blocks.

Training a network x_l = phi_l(W_l x_{l-1} + b_l), l = 1, ..., L-1, with a linear last layer
u_L = W_L x_{L-1} + b_L, means

    minimize  loss(u_L; y)  +  (weight_decay / 2) sum_l |W_l|^2               (sums over samples).

Every activation is replaced by a multiple of its Fenchel-Young gap B >= 0 (activations.py):

    minimize  loss(u_L; y)  +  (weight_decay / 2) sum_l |W_l|^2  +  multiplier sum_{l<L} B_l(x_l, W_l x_{l-1} + b_l)

over weights and activations x_l in the range of phi_l. Feed-forward points have B = 0, so the MINIMUM of the
lifted problem is at most that of training. Its value at any other point, block descent included, is
an estimate from above of that minimum and bounds nothing. With `output_multiplier` the output is
lifted as well: loss(z; y) + output_multiplier/2 |z - u_L|^2 with a variable z (FenchelOutput).

The problem is convex in all weights for fixed activations, and in one layer's activations for fixed neighbours. A sweep
starts from the forward pass and solves the blocks

    output (where it is lifted), activations L-1, ..., 1, then weights 1, ..., L.

The weight blocks read either the lifted activations, as published (then they do not depend on each other and the
lifted value never rises within a sweep), or, by default, the forward activations of the weights just found below
them: each layer then fits its wanted activations from the inputs that it will really receive.

Source: Gu, Askari & El Ghaoui, "Fenchel Lifted Networks: A Lagrange Relaxation of Neural Network Training",
AISTATS 2020, arXiv 1811.08039. The authors' code has twice our B (its multiplier 1 is 2 here), proximal
terms without the 1/2, and W of shape (in, out); here W is (out, in).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .activations import Array, activation
from .errors import UsageError
from .fenchel_activation import FenchelActivation
from .fenchel_output import FenchelOutput
from .fenchel_weight import FenchelWeight
from .formulation import Architecture, Block, Formulation, LiftedState, Step, forward, penalty
from .subproblem import FENCHEL_PAPER, require_positive

FORWARD, LIFTED = "forward", "lifted"


@dataclass(frozen=True)
class FenchelLifting(Formulation):
    """Train by alternating the convex blocks of the Fenchel lifting.

    Parameters
    ----------
    multiplier : float
        Factor of the Fenchel-Young gaps of the hidden layers. Small: activations move far towards what the
        loss wants; large: they stay near the forward pass.
    output_multiplier : float or None
        Factor of 1/2 |z - u_L|^2 where the output is lifted too; None keeps the loss exact.
    weight_inputs : str
        ``"forward"`` or ``"lifted"``: what the weight blocks read (see the module's text).

    Raises
    ------
    UsageError
        If a multiplier is not positive or `weight_inputs` is unknown.
    """

    name = "fenchel"
    paper = FENCHEL_PAPER
    limits = "activations must be monotone; values of block descent are estimates, not bounds"
    penalty = "Fenchel-Young gap B(x, u)"
    relaxation = "yes, for every multiplier (without a ridge on all weights a trivial one)"
    parallel = "all weights where weight_inputs is lifted; samples and units in a block"

    multiplier: float = 0.1
    output_multiplier: float | None = None
    weight_inputs: str = FORWARD

    def __post_init__(self) -> None:
        require_positive(multiplier=self.multiplier)
        if self.output_multiplier is not None:
            require_positive(output_multiplier=self.output_multiplier)
        if self.weight_inputs not in (FORWARD, LIFTED):
            raise UsageError(f"weight_inputs is {self.weight_inputs!r}; expected 'forward' or 'lifted'.")

    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        output = ((Step("output", architecture.layers),),) if self.output_multiplier else ()
        activations = tuple((Step("activation", layer),) for layer in range(architecture.hidden, 0, -1))
        weights = tuple(Step("weight", layer) for layer in range(1, architecture.layers + 1))
        parallel = (weights,) if self.weight_inputs == LIFTED else tuple((step,) for step in weights)
        return output + activations + parallel

    def start(self, architecture: Architecture, state: LiftedState) -> None:
        state.activations, output = forward(architecture, state.weights, state.biases, state.inputs)
        state.output = output if self.output_multiplier else None

    def gather(self, step: Step, architecture: Architecture, state: LiftedState) -> Block:
        if step.block == "activation":
            return self._gather_activation(step.layer, architecture, state)
        if step.block == "weight":
            return self._gather_weight(step.layer, architecture, state)
        assert self.output_multiplier is not None
        subproblem = FenchelOutput(
            outputs=architecture.widths[-1], loss=architecture.loss, multiplier=self.output_multiplier
        )
        data = {"u": _pre_activation(step.layer, state), "y": state.targets}
        return Block(subproblem, data, {})

    def _gather_activation(self, layer: int, architecture: Architecture, state: LiftedState) -> Block:
        last = layer == architecture.hidden
        lifted_output = last and self.output_multiplier is not None
        subproblem = FenchelActivation(
            width=architecture.widths[layer],
            next_width=architecture.widths[layer + 1],
            activation=architecture.activations[layer - 1],
            next_activation=activation("identity") if last else architecture.activations[layer],
            loss=architecture.loss if last and not lifted_output else None,
            below=self.multiplier,
            above=self._above(layer + 1, architecture),
        )
        data = {
            "u": _pre_activation(layer, state),
            "v": self._wanted(layer + 1, architecture, state),
            "W": state.weights[layer],
            "b": state.biases[layer],
        }
        # x = phi(t): engines start from the activations or from the pre-activations.
        return Block(subproblem, data, {"x": state.activations[layer - 1], "t": data["u"]})

    def _gather_weight(self, layer: int, architecture: Architecture, state: LiftedState) -> Block:
        last, wanted = layer == architecture.layers, self._wanted(layer, architecture, state)
        inputs = _inputs(layer, architecture, state, self.weight_inputs)
        exact_loss = last and self.output_multiplier is None
        subproblem = FenchelWeight(
            samples=inputs.shape[0],
            inputs=inputs.shape[1],
            units=architecture.widths[layer],
            activation=activation("identity") if last else architecture.activations[layer - 1],
            loss=architecture.loss if exact_loss else None,
            multiplier=self._above(layer, architecture),
            weight_decay=architecture.weight_decay,
            proximity=state.proximity[layer - 1],
            bias=architecture.biases[layer - 1],
        )
        weight, bias = state.weights[layer - 1], state.biases[layer - 1]
        # A coupled layer is one instance: a batch of one. Otherwise the units are the batch.
        v, w, c = (wanted[None], weight[None], bias[None]) if subproblem.coupled else (wanted.T, weight, bias)
        data, start = {"X": inputs, "v": v, "w_old": w}, {"w": w}
        if subproblem.bias:
            data["c_old"] = start["c"] = c
        return Block(subproblem, data, start)

    def scatter(
        self, step: Step, architecture: Architecture, state: LiftedState, values: Mapping[str, Array]
    ) -> None:
        place = step.layer - 1
        if step.block == "activation":
            state.activations[place] = values["x"]
        elif step.block == "output":
            state.output = values["z"]
        else:
            shape = state.weights[place].shape
            state.weights[place] = values["w"].reshape(shape)
            if architecture.biases[place]:
                state.biases[place] = values["c"].reshape(shape[0])

    def tightened(self, factor: float) -> FenchelLifting:
        output = None if self.output_multiplier is None else self.output_multiplier * factor
        return replace(self, multiplier=self.multiplier * factor, output_multiplier=output)

    def factors(self, architecture: Architecture) -> list[float]:
        return [self._above(layer, architecture) for layer in range(1, architecture.layers + 1)]

    def layer_gaps(self, architecture: Architecture, state: LiftedState) -> list[Array]:
        gaps = [
            phi.gap(state.activations[layer - 1], _pre_activation(layer, state)).sum()
            for layer, phi in enumerate(architecture.activations, start=1)
        ]
        if state.output is not None:
            distance = state.output - _pre_activation(architecture.layers, state)
            gaps.append((distance**2).sum() / 2)
        return gaps

    def lifted_value(self, architecture: Architecture, state: LiftedState) -> Array:
        gaps = self.layer_gaps(architecture, state)
        output = _pre_activation(architecture.layers, state) if state.output is None else state.output
        loss = architecture.loss.values(output, state.targets).sum()
        lifted = sum(factor * gap for factor, gap in zip(self.factors(architecture), gaps, strict=False))
        return loss + penalty(architecture, state.weights) + lifted

    def _above(self, layer: int, architecture: Architecture) -> float:
        """Factor of the term that ties layer `layer` to the one below it."""
        if layer < architecture.layers:
            return self.multiplier
        return 1.0 if self.output_multiplier is None else self.output_multiplier

    def _wanted(self, layer: int, architecture: Architecture, state: LiftedState) -> Array:
        """What layer `layer` is to become: lifted activations, the output variable, or the targets."""
        if layer < architecture.layers:
            return state.activations[layer - 1]
        return state.targets if state.output is None else state.output


def _pre_activation(layer: int, state: LiftedState) -> Array:
    below = state.inputs if layer == 1 else state.activations[layer - 2]
    return below @ state.weights[layer - 1].T + state.biases[layer - 1]


def _inputs(layer: int, architecture: Architecture, state: LiftedState, source: str) -> Array:
    if source == LIFTED:
        return state.inputs if layer == 1 else state.activations[layer - 2]
    below = state.inputs
    for place in range(layer - 1):
        phi = architecture.activations[place].phi
        below = phi(below @ state.weights[place].T + state.biases[place])
    return below
