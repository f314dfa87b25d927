"""Methods that keep their lifted variables from sweep to sweep: what they share.

Beside weights and biases such a method holds pre-activations z_l, activations a_l and, where it has one, a Lagrange
multiplier, and improves them in turn; nothing resets them to the forward pass. What is deployed is always the network:
the lifted variables are thrown away in the end, and the true loss is that of the forward pass.

    a_0 = inputs,     z_l ~ W_l a_{l-1} + b_l  (l = 1, ..., L),     a_l ~ phi_l(z_l)  (l < L),     loss(z_L; y)

How "~" is enforced, exactly, by a penalty, within an interval or by a multiplier, tells the methods apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .activations import Array
from .errors import UsageError
from .formulation import Architecture, Block, Step

SolveBlock = Callable[[str, Block], Mapping[str, Array]]
"""Label and block -> values of its variables, by the package's engines."""


@dataclass
class LiftedVariables:
    """All unknowns of a method that keeps them, as arrays of one library on one device, samples as rows.

    Attributes
    ----------
    inputs, targets : arrays
        a_0 of shape (samples, widths[0]), and the encoded targets of the loss (samples, widths[-1]).
    weights, biases : lists of arrays
        W_l of shape (widths[l], widths[l-1]) at place l-1, and b_l (zeros where the layer has none).
    pre_activations : list of arrays
        z_1, ..., z_L; the last one is the output variable.
    activations : list of arrays
        a_1, ..., a_{L-1}.
    multiplier : array or None
        Lagrange multiplier of z_L = W_L a_{L-1} + b_L, where the method has one.
    epsilon : float
        Present half-width of the intervals of an inequality.
    memory : dict
        What a method remembers between sweeps: earlier points, numbers of a schedule.
    """

    inputs: Array
    targets: Array
    weights: list[Array]
    biases: list[Array]
    pre_activations: list[Array] = field(default_factory=list)
    activations: list[Array] = field(default_factory=list)
    multiplier: Array | None = None
    epsilon: float = 0.0
    memory: dict[str, Any] = field(default_factory=dict)

    def below(self, layer: int) -> Array:
        """a_{l-1}: what layer l = 1, ..., L reads."""
        return self.inputs if layer == 1 else self.activations[layer - 2]

    def sent(self, layer: int) -> Array:
        """W_l a_{l-1} + b_l: what arrives at layer l."""
        return self.below(layer) @ self.weights[layer - 1].T + self.biases[layer - 1]


class LiftedMethod(ABC):
    """A training method that keeps its lifted variables. Final subclasses are frozen settings.

    Attributes
    ----------
    name, paper, limits : str
        As in the catalogue.
    penalty : str
        What ties the lifted variables to the network.
    relaxation : str
        Whether, and when, the minimum of the lifted problem is a lower bound of that of training.
    parallel : str
        Which blocks of a sweep do not depend on each other.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    limits: ClassVar[str]
    penalty: ClassVar[str]
    relaxation: ClassVar[str]
    parallel: ClassVar[str]

    def check(self, architecture: Architecture) -> None:
        """Refuse a network that the method cannot train, with a UsageError; by default softmax layers."""
        for phi in architecture.activations:
            if phi.couples_units:
                raise UsageError(
                    f"the activation {phi.label!r} couples the units of its layer; the method {self.name!r} expects "
                    "activations that act entry by entry: take another activation, or the method 'fenchel'."
                )

    @abstractmethod
    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        """The steps of a sweep in order; the steps of one group do not depend on each other."""

    def start(self, architecture: Architecture, state: LiftedVariables) -> None:
        """Give the lifted variables their first values: by default those of the forward pass."""
        state.pre_activations, state.activations = [], []
        for layer in range(1, architecture.layers + 1):
            state.pre_activations.append(state.sent(layer))
            if layer < architecture.layers:
                state.activations.append(architecture.activations[layer - 1].phi(state.pre_activations[-1]))

    @abstractmethod
    def update(self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        """Do one step: put new values of its block into the state."""

    def sweep(self, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        """All steps in order, and what a method does between sweeps."""
        for group in self.groups(architecture):
            for step in group:
                self.update(step, architecture, state, solve)

    @abstractmethod
    def layer_gaps(self, architecture: Architecture, state: LiftedVariables) -> list[Array]:
        """How far the variables are from the forward relation, a number for each layer; on the device."""

    @abstractmethod
    def lifted_value(self, architecture: Architecture, state: LiftedVariables) -> Array:
        """The lifted objective at the state, on its device: an ESTIMATE, never a bound."""

    def figures(self, state: LiftedVariables) -> dict[str, Any]:
        """Numbers of the method's own for the record of a sweep."""
        return {}


def layer_by_layer(architecture: Architecture, order: tuple[str, ...]) -> tuple[tuple[Step, ...], ...]:
    """Groups of one step each: for layers 1, ..., L the blocks in the given order (the output has no activations)."""
    return tuple(
        (Step(block, layer),)
        for layer in range(1, architecture.layers + 1)
        for block in order
        if not (block == "activation" and layer == architecture.layers)
    )
