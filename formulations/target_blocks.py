"""Target blocks: a mini-batch step of training as one proximal Fenchel weight block for every layer.

With the pre-activations u_l = W_l x_{l-1} + b_l of a batch of n samples and the slopes of the loss, one row for each
sample, G_l = dloss/du_l, every layer gets explicit targets and the weight block of fenchel_weight.py:

    v_l = phi_l(u_l) - G_l      (output layer: phi of the loss, so that v_L is the encoded target itself)

    minimize    (1/n) [Phi_l(U) - <v_l, U>]  +  weight_decay/(2 N) |W|^2  +  proximity/2 |(W, b) - (W_l, b_l)|^2
    subject to  U = X W' + b,      X = x_{l-1}

over W and b. At the present weights its gradient is (1/n) G_l' X + (weight_decay/N) W_l: that of the training
objective (sum of the loss over all N samples, plus the penalty) on this batch, divided by N. Given their targets, the
layers of a step are independent of each other.

**The step.** phi is 1-Lipschitz, so the Hessian of every unit is at most

    H = X'X/n + diag(weight_decay/N + proximity)      (a bias is one more column of X, of ones, without weight decay),

one matrix for all units: the quadratic with this Hessian majorizes the block, and its minimizer is the present weights
minus gradient H^-1. The trainer (solvers/target_training.py) averages the Gram matrix X'X/n over batches and factorizes
H every few steps, so that there H majorizes the block of an average batch rather than of this one; it moves a fraction
of the way, with momentum and a cosine schedule. The inputs of a dense first layer never change: its H is made once, and
so are inputs in coordinates where H is the identity, after which a step costs no more than a plain gradient step.
`exact` takes the minimizer of the block itself instead.

**Rows.** A convolution and a graph convolution are the same block, with other rows X than the activations below
(solvers/linear_maps.py): a row for each sample and position of the kernel, or for each node. Sums go over all rows, and
n stays the number of samples of the batch, because G is the slope of the loss of a sample in one of its rows: X'X/n is
then the sum of the patches' Gram matrices over positions, averaged over samples. In a graph the samples are the nodes
with a target, and the rows of a layer those of the nodes that these targets depend on.

**Relatives.** Preconditioning the gradient of every layer by the second moments of its inputs is one-sided K-FAC (that
of Martens & Grosse, 2015, with its input side alone), also known as gradient descent on neurons (Benzing, 2022);
explicit targets through Fenchel conjugates are in Fenchel back-propagation (Zach, 2021). What the block adds is what
the step means: it minimizes a quadratic that majorizes a convex program, which can be read, and solved exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .activations import Activation, Array
from .errors import UsageError
from .fenchel_weight import FenchelWeight
from .formulation import Architecture
from .losses import Loss
from .subproblem import require_nonnegative, require_positive, require_size


@dataclass(frozen=True)
class TargetBlocks:
    """Settings of training by target blocks; see the module's text for what a step solves.

    Parameters
    ----------
    step : float
        First fraction of the way to the minimizer, before momentum; it falls to zero along a cosine.
    proximity : float
        Factor of the proximal term of every block, in the units of a squared input: large, steps are plain gradient
        steps; small, all directions of the inputs count alike.
    momentum : float
        Share of the last move that is kept.
    batch_size : int
        Samples of a mini-batch.
    factorize_every : int
        Steps between two factorizations of the majorizer (more often in the beginning).
    exact : bool
        Solve every block instead of taking one step on its majorizer: slower, and every step waits for the solves.

    Raises
    ------
    UsageError
        If a setting is out of range.
    """

    name: ClassVar[str] = "targets"
    paper: ClassVar[str] = (
        "ours; as a step on the inputs' Gram matrix: F. Benzing, Gradient Descent on Neurons and its Link to "
        "Approximate Second-Order Optimization, ICML 2022"
    )
    limits: ClassVar[str] = "activations must be monotone with slopes of at most 1; mini-batches: the loss may rise"
    penalty: ClassVar[str] = "none: a quadratic majorizer in every step"
    relaxation: ClassVar[str] = "no: a step of the training objective itself"
    parallel: ClassVar[str] = "all layers, given their targets"

    step: float = 0.5
    proximity: float = 1.0
    momentum: float = 0.9
    batch_size: int = 125
    factorize_every: int = 30
    exact: bool = False

    def __post_init__(self) -> None:
        require_positive(step=self.step, proximity=self.proximity)
        require_nonnegative(momentum=self.momentum)
        if self.momentum >= 1:
            raise UsageError(f"momentum is {self.momentum!r}; expected a number from 0 to below 1, e.g. 0.9.")
        require_size(batch_size=self.batch_size, factorize_every=self.factorize_every)
        if not isinstance(self.exact, bool):
            raise UsageError(f"exact is {self.exact!r}; expected True or False.")


def require_lipschitz(activations: tuple[Activation, ...]) -> None:
    """Refuse activations whose slopes exceed 1: the shared matrix would not majorize their blocks.

    Raises
    ------
    UsageError
        Naming the first such activation.
    """
    for phi in activations:
        if phi.slopes[1] > 1:
            raise UsageError(
                f"the activation {phi.label!r} has slopes up to {phi.slopes[1]:g}; target blocks expect at most 1, or "
                "one step on their shared quadratic could raise them: take another activation, or the method 'fenchel'."
            )


def explicit_target(phi: Activation, pre_activations: Array, slopes: Array) -> Array:
    """The target v = phi(u) - G of a layer; outside the range of phi the proximal term still bounds the block."""
    return phi.phi(pre_activations) - slopes


def target_block(
    architecture: Architecture, layer: int, *, batch: float, samples: int, proximity: float,
    rows: int | None = None, inputs: int | None = None,
) -> FenchelWeight:  # fmt: skip
    """The convex program of a layer on a mini-batch.

    Parameters
    ----------
    architecture : Architecture
        The network.
    layer : int
        Layer 1, 2, ..., L; L is the output.
    batch, samples : int
        Samples of the mini-batch, and of all training data (which share the weight decay).
    rows, inputs : int, optional
        Rows that the weights multiply and their length; by default, as in a dense layer, the samples of the batch and
        the width below.
    proximity : float
        Factor of the proximal term itself.

    Examples
    --------
    >>> from convexblocks.formulations.activations import activation
    >>> from convexblocks.formulations.losses import find_loss
    >>> network = Architecture((3, 4, 2), (activation("tanh"),), (True, True), find_loss("squared"), 0.1)
    >>> target_block(network, 1, batch=5, samples=50, proximity=1.0).program().is_dcp(dpp=True)
    True
    """
    of_output = layer == architecture.layers
    loss: Loss | None = architecture.loss if of_output else None
    return FenchelWeight(
        samples=int(batch) if rows is None else rows,
        inputs=architecture.widths[layer - 1] if inputs is None else inputs, units=architecture.widths[layer],
        activation=architecture.loss.activation if of_output else architecture.activations[layer - 1], loss=loss,
        multiplier=1 / batch, weight_decay=architecture.weight_decay / samples, proximity=proximity,
        bias=architecture.biases[layer - 1],
    )  # fmt: skip
