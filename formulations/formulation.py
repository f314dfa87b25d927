"""Formulation: the ordered blocks that train a network, and how its state maps to their symbols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from .activations import Activation, Array
from .losses import Loss
from .subproblem import Subproblem
from .waiting import read_floats


@dataclass(frozen=True)
class Architecture:
    """Shape of a network ``x_{l+1} = phi_{l+1}(W_l x_l + b_l)`` whose last layer is linear.

    Attributes
    ----------
    widths : tuple of int
        Inputs, hidden widths, outputs: layers + 1 numbers.
    activations : tuple of Activation
        phi_1, ..., phi_{L-1}: one for each hidden layer.
    biases : tuple of bool
        Whether each of the layers has a bias.
    loss : Loss
        The training loss.
    weight_decay : float
        The penalty is (weight_decay / 2) times the sum of squares of all weights (not biases).
    """

    widths: tuple[int, ...]
    activations: tuple[Activation, ...]
    biases: tuple[bool, ...]
    loss: Loss
    weight_decay: float

    @property
    def layers(self) -> int:
        """Number of linear maps."""
        return len(self.widths) - 1

    @property
    def hidden(self) -> int:
        """Number of hidden layers."""
        return self.layers - 1


class Step(NamedTuple):
    """One block of a sweep: its kind and its layer.

    Hidden layer l (1, 2, ...) holds the activations x_l; weight block l (1, 2, ...) the map that makes
    the pre-activations of layer l, so that weight block L belongs to the output.
    """

    block: str
    layer: int

    @property
    def label(self) -> str:
        """Short name in records: ``activation 1``."""
        return f"{self.block} {self.layer}"


class Block(NamedTuple):
    """What a step solves: a subproblem, its data (batch axis first on what is per instance), and where to start.

    `start` holds the state's present values of the variables, in the coordinates that engines start from.
    """

    subproblem: Subproblem
    data: dict[str, Array]
    start: dict[str, Array]


@dataclass
class LiftedState:
    """All unknowns of a lifted problem, as arrays of one library on one device.

    Attributes
    ----------
    inputs : array, shape (samples, widths[0])
    targets : array, shape (samples, widths[-1])
        Encoded targets of the loss.
    weights, biases : lists of arrays
        W_l of shape (widths[l], widths[l-1]) at place l-1, and b_l (zeros where the layer has none).
    activations : list of arrays
        x_1, ..., x_{L-1}, each (samples, width): variables, not the forward pass.
    output : array or None
        Output variable z (samples, outputs), where the formulation has one.
    proximity : list of float
        Factor of the proximal term of each weight block.
    """

    inputs: Array
    targets: Array
    weights: list[Array]
    biases: list[Array]
    activations: list[Array] = field(default_factory=list)
    output: Array | None = None
    proximity: list[float] = field(default_factory=list)


class Formulation(ABC):
    """How the training of a network splits into convex blocks. Final subclasses are frozen settings."""

    name: ClassVar[str]
    paper: ClassVar[str]
    limits: ClassVar[str]
    penalty: ClassVar[str]
    relaxation: ClassVar[str]
    parallel: ClassVar[str]

    @abstractmethod
    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        """The steps of a sweep in order; the steps of one group do not depend on each other."""

    @abstractmethod
    def start(self, architecture: Architecture, state: LiftedState) -> None:
        """Give the lifted variables of the state their values by a forward pass."""

    @abstractmethod
    def gather(self, step: Step, architecture: Architecture, state: LiftedState) -> Block:
        """The subproblem of a step with its data and the state's present values of its variables."""

    @abstractmethod
    def scatter(
        self, step: Step, architecture: Architecture, state: LiftedState, values: Mapping[str, Array]
    ) -> None:
        """Put the solution of a step into the state."""

    @abstractmethod
    def tightened(self, factor: float) -> Formulation:
        """The same formulation with its gaps weighed `factor` times: the lifted variables stay nearer to the network.

        Towards infinity a sweep becomes a preconditioned gradient step of the training objective.
        """

    @abstractmethod
    def factors(self, architecture: Architecture) -> list[float]:
        """Factor of the term that each weight block minimizes, for layers 1, ..., L."""

    @abstractmethod
    def layer_gaps(self, architecture: Architecture, state: LiftedState) -> list[Array]:
        """How far every lifted variable is from the forward relation: B_l summed over samples; on the device."""

    @abstractmethod
    def lifted_value(self, architecture: Architecture, state: LiftedState) -> Array:
        """The lifted objective at the state, on its device: an ESTIMATE from above of its minimum, never a bound."""


def forward(
    architecture: Architecture, weights: list[Array], biases: list[Array], inputs: Array
) -> tuple[list[Array], Array]:
    """Forward pass: the activations of the hidden layers and the output of the network."""
    activations, below = [], inputs
    for weight, bias, phi in zip(weights, biases, architecture.activations, strict=False):
        below = phi.phi(below @ weight.T + bias)
        activations.append(below)
    return activations, below @ weights[-1].T + biases[-1]


def training_objective(
    architecture: Architecture, weights: list[Array], biases: list[Array], inputs: Array, targets: Array
) -> tuple[float, float]:
    """The true training loss and the penalty of a network: the sum over samples, and (weight_decay/2) |W|^2."""
    _, output = forward(architecture, weights, biases, inputs)
    return objective_at(architecture, weights, output, targets)


def objective_at(
    architecture: Architecture, weights: list[Array], output: Array, targets: Array
) -> tuple[float, float]:
    """The same, for the output of a network."""
    loss, decay = read_floats([architecture.loss.values(output, targets).sum(), penalty(architecture, weights)])
    return loss, decay


def penalty(architecture: Architecture, weights: list[Array]) -> Array:
    """(weight_decay / 2) times the sum of squares of all weights, a number on their device."""
    return architecture.weight_decay / 2 * sum((weight**2).sum() for weight in weights)
