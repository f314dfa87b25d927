"""Spline blocks: networks whose activations are learned, by target blocks for the weights and spline fits between.

The network x_l = phi_l(W_l x_{l-1} + b_l) has learned activations: in every channel, or for all channels of a layer, a
linear spline on evenly spaced knots with slopes s within bounds. Trained is

    loss (sum over samples)  +  weight_decay/2 sum of squares of the weights  +  tv2 TV2,

TV2 the sum of all |jumps of the slope|, tv2 its price. It falls in two ways that alternate.

**Weights** take the mini-batch steps of target blocks (target_blocks.py) with the splines as they are. Where slopes
exceed 1 the quadratic of a step need not majorize its block any more; a step still goes down along the gradient, in
the metric of the inputs, and a sweep that ends above the untrained network is undone.

**Splines** of a layer, all channels at once: with the inputs u and the outputs v of the activations, one row for each
sample, let G be the gradient of the loss in v and D the diagonal of its Gauss-Newton matrix J' H J (J the derivative
of the network's output in v, H the Hessian of the loss in the output, to which a thousandth of the mean of D is
added). For the squared loss and one layer after it the quadratic of J' H J is the loss itself; its diagonal takes the
channels apart, and each is the convex program `spline.fit` with weights:

    minimize    1/2 sum_i D_ij (f_j(u_ij) - v_ij + G_ij / D_ij)^2  +  tv2 TV2(f_j)
    subject to  low <= f_j' <= high

over splines f_j on the layer's knots. Channels act together, which the diagonal leaves out: so the layer goes from its
present splines towards the solutions by the fraction of 1, 1/2, 1/4, ... for which the objective of the whole network
over all samples is least, and stays where none lowers it. Bounds hold on the way, as a mean of splines within bounds is
one, and for a small fraction the objective falls: what is minimized is convex and has the gradient of the loss.

Source: the problem, and that splines solve it: Unser, Goujon & Ducotterd, arXiv 2408.13114; the alternation with target
blocks and the weighted fits are derived here. A proximal Newton method with a diagonal metric in the outputs of the
activations is what the second kind of block is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .errors import UsageError
from .slope_properties import slope_property
from .subproblem import require_nonnegative, require_size
from .target_blocks import TargetBlocks


@dataclass(frozen=True)
class SplineBlocks(TargetBlocks):
    """Settings of training with learned activations: those of target blocks, and of the splines.

    Parameters
    ----------
    step, proximity, momentum, batch_size, factorize_every : float, float, float, int, int
        As for target blocks.
    knots : int
        Knots of each spline, an odd number: they are spread evenly around 0, as far as the pre-activations reach.
    tv2 : float
        Price of TV2, the sum of all jumps of the slope, beside the SUM of the loss.
    slopes : str
        A property or two bounds (`formulations.slope_properties`), e.g. ``"monotone"`` or ``"0,1"``. With ``"free"``
        ones slopes grow in the place of weights, which have a price, and the steps of the weights become rough.
    shared : bool
        One spline for all channels of a layer, instead of one for each.
    every : int
        Sweeps of the weights for each pass over the splines of all layers; the last sweep has one.

    Raises
    ------
    UsageError
        If a setting is out of range.
    """

    name: ClassVar[str] = "splines"
    paper: ClassVar[str] = (
        'ours; the activations: Unser, Goujon & Ducotterd, "Controlled learning of pointwise nonlinearities", '
        "arXiv 2408.13114"
    )
    limits: ClassVar[str] = "dense networks; it learns their activations; mini-batches: the loss may rise"
    penalty: ClassVar[str] = "TV2 of the activations; for the weights a quadratic majorizer in every step"
    relaxation: ClassVar[str] = "no: steps and fits of the training objective itself"
    parallel: ClassVar[str] = "all layers of weights; all channels of a layer of splines"

    knots: int = 21
    tv2: float = 0.1
    slopes: str = "-2,2"
    shared: bool = False
    every: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_size(knots=self.knots, every=self.every)
        require_nonnegative(tv2=self.tv2)
        if self.knots < 3 or self.knots % 2 == 0:
            raise UsageError(f"knots is {self.knots}; expected an odd number from 3, e.g. 21, so that 0 is a knot.")
        if slope_property(self.slopes).convex:
            raise UsageError(f"slopes is {self.slopes!r}; expected bounds on each slope, e.g. 'monotone' or '0,1'.")
        if not isinstance(self.shared, bool):
            raise UsageError(f"shared is {self.shared!r}; expected True or False.")
        if self.exact:
            raise UsageError(
                "exact is True, but the weights of learned activations take steps on a quadratic; expected exact=False:"
                " leave it out."
            )
