"""Monotone variational inequalities of all layers: targets that skip the slope of a layer's own activation.

With u_l = W_l x_{l-1} + b_l, x_l = phi_l(u_l) and the slopes of the loss after the activation, one row for each of the
n samples of a batch, G_l = dloss/dx_l, the surrogate operator of a layer is

    F_l = G_l' X      and  1' G_l  for the bias,      X = x_{l-1}        (hidden layers: G_l by backpropagation)
    F_L = (phi(u_L) - y)' X                                              (output layer: phi of the loss, y encoded)

The gradient is (G_l * phi_l'(u_l))' X: the operator leaves out phi_l' of the own layer, and of that one alone. At the
output it is the monotone operator of monotone_layer.py and, the losses here being Fenchel-Young gaps, the gradient.

**As a convex program.** Every hidden layer gets a target for its activations, and the weight block of fenchel_weight.py
(Phi_l' = phi_l) as in target_blocks.py; the output layer has the target y:

    minimize    (1/n) [Phi_l(U) - <v_l, U>]  +  decay_l/(2 N) |W|^2  +  proximity/2 |(W, b) - (W_l, b_l)|^2
    subject to  U = X W' + b

with decay_l = weight_decay, but for hidden layers with projected targets (below). There are two kinds of targets, both
steps of the inequality in the activations themselves, over the range of phi_l:

    projected   v = argmin_v gamma <G_l, v> + 1/2 |v - x_l|^2    =  P_dom(x_l - gamma G_l)
    mirror      p = argmin_p gamma <G_l, p> + B(p, u_l)          =  phi_l(u_l - gamma G_l)
                v = x_l - (x_l - p)/gamma

P_dom is the projection to the closed range of phi_l, and B the Fenchel-Young gap of activations.py: the mirror step, as
of mirror descent, measures distances as the block does. It never leaves the range, and no derivative of phi_l enters it
either: at the present weights the block has the gradient S' X/n, where S = (phi_l(u_l) - phi_l(u_l - gamma G_l))/gamma
is G_l times the mean slope of phi_l on the way of the step. Dividing by gamma keeps the length of a step; v is in the
range for gamma >= 1, and otherwise it is the proximal term that bounds the block. For small gamma S is the gradient's
G_l * phi_l'(u_l), and mirror targets are those of target_blocks.py. A unit of ReLU that is zero is pushed up by G < 0
where the step reaches the kink, u > gamma G. Losses have slopes of any size, pre-activations less so: in a batch where
the slopes are larger, gamma is shortened by the ratio of both root mean squares.

Of the block with projected targets the gradient is gamma (F_l/n + (weight_decay/N) W_l), with decay_l = gamma
weight_decay, wherever x_l - gamma G_l is in the range: the published step is a gradient step of the block, and gamma
does not change where it ends. Elsewhere P_dom keeps the block from falling without end, and clips what the operator
asks for: a unit of ReLU at zero with G > 0 stays, but every one with G < 0 is pushed up, however far it is below zero.
Softmax does not see a number added to a whole row: the mean of each row of G is taken off before.

**What the operator does not see.** With one hidden layer G_1 = (phi(u_2) - y) W_2, and F_1 = W_2' (phi(u_2) - y)' X:
zero as soon as the residuals at the output are uncorrelated with the inputs themselves, whatever the hidden units do,
and until then all of them move in a space of as many directions as there are outputs. Projected targets add that units
are pushed up freely and down no further than to zero: ever more of them are active everywhere, and the network becomes
a linear one. In two moons it ends there for every gamma at which the hidden layer moves at all, and leaving that layer
as it was drawn is better (benchmarks/training_monotone.py). Mirror targets see on which side of the kink a unit is, and
the hidden layer helps. Where a linear model is as good as any, as in the solar data (benchmarks/training_solar.py), the
same defect keeps projected targets from fitting noise, and they have the lower test error.

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
TARGETS = ("mirror", "projected")
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
    targets : str
        ``"mirror"`` or ``"projected"``: the targets of hidden layers; surrogate steps, which have no targets, have no
        use for them or for gamma.
    gamma : float
        Length of the step in the activations that makes the targets, in the slopes of the loss of a sample; for mirror
        targets shortened where slopes are larger than pre-activations (see above). Projected targets need not have the
        same one.
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
    targets: str = "mirror"
    gamma: float = 0.03
    hidden_average: str = "once"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(gamma=self.gamma)
        for key, known in (("steps", STEPS), ("targets", TARGETS), ("hidden_average", AVERAGES)):
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


def step_length(u: Array, slopes: Array, gamma: float) -> Array:
    """gamma, shortened where the slopes of the loss are larger than the pre-activations (in root mean square).

    Examples
    --------
    >>> import numpy as np
    >>> float(step_length(np.array([1.0, -1.0]), np.array([4.0, 4.0]), 0.2))
    0.05
    """
    numbers = library(u)
    tiny = float(numbers.finfo(u.dtype).tiny) ** 0.5
    ratio = ((u**2).mean() ** 0.5 + tiny) / ((slopes**2).mean() ** 0.5 + tiny)
    return gamma * numbers.clip(ratio, None, 1.0)


def mirror_residual(phi: Activation, u: Array, slopes: Array, gamma: Array) -> Array:
    """phi(u) - v for the mirror target v: (phi(u) - phi(u - gamma G))/gamma, G times the mean slope on the way.

    Parameters
    ----------
    phi : Activation
        Activation of the layer.
    u, slopes : array
        Pre-activations, and G, the slopes of the loss in the activations phi(u); of one shape.
    gamma : float or array of one number
        Factor of G: a number above zero, such as `step_length` gives.

    Examples
    --------
    The unit of ReLU at -0.25 is within reach of its step, the one at -1 is not.

    >>> import numpy as np
    >>> from convexblocks.formulations.activations import activation
    >>> u, G = np.array([2.0, 2.0, -0.25, -1.0]), np.array([0.5, 4.0, -0.5, -0.5])
    >>> mirror_residual(activation("relu"), u, G, 1.0).tolist()
    [0.5, 2.0, -0.25, 0.0]
    """
    move = gamma * slopes
    quotient = (phi.phi(u) - phi.phi(u - move)) / gamma
    # Far below the pre-activations the difference would be rounding; the slope at u is the quotient's limit.
    numbers = library(u)
    short = abs(move) <= float(numbers.finfo(u.dtype).eps) ** 0.5 * (1 + abs(u))
    if phi.couples_units:
        short = short.all(-1)[..., None]
    return numbers.where(short, phi.jacobian(u)(slopes), quotient)


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
