"""Monotone variational inequalities of all layers: targets that skip the slope of a layer's own activation.

With u_l = W_l x_{l-1} + b_l, x_l = phi_l(u_l) and the slopes of the loss after the activation, one row for each of the
n samples of a batch, G_l = dloss/dx_l, the surrogate operator of a layer is

    F_l = G_l' X      and  1' G_l  for the bias,      X = x_{l-1}        (hidden layers: G_l by backpropagation)
    F_L = (phi(u_L) - y)' X                                              (output layer: phi of the loss, y encoded)

The gradient is (G_l * phi_l'(u_l))' X: the operator leaves out phi_l' of the own layer, and of that one alone. At the
output it is the monotone operator of monotone_layer.py and, the losses here being Fenchel-Young gaps, the gradient.

**As a convex program.** Every layer gets the target

    v_l = P_dom(phi_l(u_l) - gamma G_l),      P_dom: to the closed range of phi_l        (output layer: v_L = y)

and the weight block of fenchel_weight.py, Phi_l' = phi_l, as in target_blocks.py:

    minimize    (1/n) [Phi_l(U) - <v_l, U>]  +  decay_l/(2 N) |W|^2  +  proximity/2 |(W, b) - (W_l, b_l)|^2
    subject to  U = X W' + b,      decay_l = gamma weight_decay in hidden layers, weight_decay in the output layer

Its gradient at the present weights is gamma (F_l/n + (weight_decay/N) W_l) wherever phi_l(u_l) - gamma G_l is in the
range: the published step is a gradient step of the block, and gamma does not change where it ends. Elsewhere P_dom
keeps the block from falling without end, and clips what the operator asks for: a unit of ReLU at zero with G > 0 stays,
but one with G < 0 is pushed up, unlike by the gradient. Softmax does not see a number added to a whole row: the mean of
each row of G is taken off before.

**What the operator does not see.** With one hidden layer G_1 = (phi(u_2) - y) W_2, and F_1 = W_2' (phi(u_2) - y)' X:
zero as soon as the residuals at the output are uncorrelated with the inputs themselves, whatever the hidden units do,
and until then all of them move in a space of as many directions as there are outputs. Where the classes are far from
linear in the inputs, as in two moons, the hidden layer is drawn into that space, and the network ends no better than a
linear model. A small gamma then leaves it near its start, while a small proximal factor has the output layer solved
fast; on digits and on Cora gamma 1 is better (benchmarks/training_monotone.py has both).

**Steps.** "convexified", the default: one majorize-minimize step of every block on the shared Gram matrix of its
inputs, with momentum and a cosine, or the solution of the block itself (`exact`), exactly as for target blocks.
"surrogate": the published algorithm, stochastic steps of a constant length on F_l/n, unclipped, with momentum.

**Scale.** Sums over samples, as everywhere in this package; a step divides by n. The papers' losses are means, whose
slopes already have the factor 1/n: their first code divided the operators of the hidden layers by n once more
(`hidden_average` "twice"), later code did not ("once"). Their loss is the mean squared error of the softmax output and
its residual at the output is phi(u) - y all the same; here the hidden slopes are those of the cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .activations import Activation, Array, library
from .errors import UsageError
from .monotone_layer import SVI_PAPER
from .subproblem import require_positive
from .target_blocks import TargetBlocks

STEPS = ("convexified", "surrogate")
AVERAGES = ("once", "twice")


@dataclass(frozen=True)
class MonotoneInequality(TargetBlocks):
    """Settings of training by monotone variational inequalities: those of target blocks, and how targets are made.

    Parameters
    ----------
    step : float
        As for target blocks; with surrogate steps the learning rate, which stays.
    proximity, factorize_every, exact : float, int, bool
        As for target blocks; surrogate steps have no use for them.
    momentum, batch_size : float, int
        As for target blocks.
    steps : str
        ``"convexified"`` or ``"surrogate"``; see the module's text.
    gamma : float
        How far the targets of hidden layers lie from the activations, in the slopes of the loss; surrogate steps,
        which have no targets, have no use for it.
    hidden_average : str
        ``"once"``, or ``"twice"``: the operators of hidden layers divided by the batch size once more, as published
        first; for surrogate steps.

    Raises
    ------
    UsageError
        If a setting is out of range, or is not for the chosen steps.
    """

    name: ClassVar[str] = "monotone"
    paper: ClassVar[str] = SVI_PAPER
    limits: ClassVar[str] = "convexified: activations must be monotone with slopes of at most 1; the loss may rise"
    penalty: ClassVar[str] = "none: a quadratic majorizer in every step"
    relaxation: ClassVar[str] = "no: a step of a monotone operator, not of the training objective"
    parallel: ClassVar[str] = "all layers, given their targets"

    steps: str = "convexified"
    gamma: float = 1.0
    hidden_average: str = "once"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(gamma=self.gamma)
        for key, known in (("steps", STEPS), ("hidden_average", AVERAGES)):
            if getattr(self, key) not in known:
                expected = " or ".join(map(repr, known))
                raise UsageError(f"{key} is {getattr(self, key)!r}; expected {expected}.")
        if self.exact and self.steps != "convexified":
            raise UsageError(
                "exact is True with surrogate steps, which solve no block; expected steps='convexified': leave exact "
                "or steps out."
            )
        if self.hidden_average != "once" and self.steps != "surrogate":
            raise UsageError(
                f"hidden_average is {self.hidden_average!r} with convexified steps; expected steps='surrogate': set "
                "gamma instead, which scales the targets of hidden layers."
            )


def monotone_residual(phi: Activation, u: Array, slopes: Array, gamma: float) -> Array:
    """phi(u) - v for the target v = P_dom(phi(u) - gamma G): the gradient of a sample's block in its pre-activations.

    Parameters
    ----------
    phi : Activation
        Activation of the layer.
    u, slopes : array
        Pre-activations, and G, the slopes of the loss in the activations phi(u); of one shape.
    gamma : float
        Factor of G.

    Examples
    --------
    >>> import numpy as np
    >>> from convexblocks.formulations.activations import activation
    >>> u, G = np.array([2.0, 2.0, -1.0, -1.0]), np.array([0.5, 4.0, 0.5, -0.5])
    >>> monotone_residual(activation("relu"), u, G, 1.0).tolist()
    [0.5, 2.0, 0.0, -0.5]
    """
    activated = phi.phi(u)
    if phi.couples_units:
        centred = slopes - slopes.mean(-1)[..., None]
        return activated - phi.project(activated - gamma * centred)
    # Not phi(u) - P_dom(...): rounding of the difference would lose slopes far below the activations.
    return library(u).clip(gamma * slopes, activated - phi.high, activated - phi.low)
