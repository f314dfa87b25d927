"""Networks with a Lipschitz constant: 1-Lipschitz multilayer perceptrons, and certificates of any chain of layers.

In Euclidean norms of whole inputs and outputs the constant of a chain is at most the product of those of its layers. A
linear map has its largest singular value, an activation that acts entry by entry its largest slope in size. Each is
bounded from above for the weights as they are, and the bound says how well it is known:

    proven     dense layers: certificates/operator_norm.py, every rounding counted
    exact      splines, from their coefficients; activations of the table, from their formula; Flatten, Identity
    verified   convolutions: solvers/convolution_norm.py, valid in exact arithmetic, computed with a margin for rounding
               that is not itself proven

A power iteration would only say how large a norm is at least; it is used nowhere. Certified is the function that the
stored numbers define in exact arithmetic: the forward pass rounds.

Source: products over layers, Szegedy et al., arXiv 1312.6199 (2014); orthogonal weights with learned 1-Lipschitz
splines, Ducotterd et al., "Improving Lipschitz-constrained neural networks by learning activation functions", JMLR 25
(2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from ..formulations.errors import UsageError
from ..formulations.slope_properties import slope_property
from ..solvers.spline_activation import SplineActivation
from .layer_bounds import EVIDENCE, LayerBound, layer_bound, open_chain

SETTLING_STEPS = 20


@dataclass(frozen=True)
class LipschitzCertificate:
    """Bounds of all layers of a network, and their product.

    Attributes
    ----------
    layers : tuple of LayerBound
        In order.
    """

    layers: tuple[LayerBound, ...]

    @property
    def bound(self) -> float:
        """The network's Lipschitz constant is at most this; every product is rounded up."""
        product = 1.0
        for layer in self.layers:
            # A factor of one changes nothing; other products are rounded.
            exact = 1 in (product, layer.upper)
            product = product * layer.upper if exact else math.nextafter(product * layer.upper, math.inf)
        return product

    @property
    def evidence(self) -> str:
        """How well the bound is known: as well as that of the weakest layer."""
        order = list(EVIDENCE)
        return order[max((order.index(layer.evidence) for layer in self.layers), default=0)]

    def __str__(self) -> str:
        lines = [*map(str, self.layers), f"Lipschitz constant <= {self.bound:.9g} ({EVIDENCE[self.evidence]})"]
        return "\n".join(lines)


def lipschitz_mlp(
    widths: Sequence[int], *, knots: int = 21, span: tuple[float, float] = (-2.0, 2.0), slopes: str = "nonexpansive"
) -> nn.Sequential:
    """A 1-Lipschitz multilayer perceptron: orthogonal weights, splines with bounded slopes between them.

    Any optimizer trains it. The weights are orthogonal up to the rounding of their type (torch's parametrization), so
    that a certificate may read 1.000001; `settle` makes plain weights of them, of norm at most 1.

    Parameters
    ----------
    widths : sequence of int
        Inputs, hidden widths, outputs; two or more.
    knots, span
        Of the splines, see SplineActivation.
    slopes : str
        A property with slopes in [-1, 1]: ``"nonexpansive"`` or ``"firmly_nonexpansive"``, or ``"contraction(0.9)"``.

    Raises
    ------
    UsageError
        If there are fewer than two widths, or the slopes may exceed 1 in size.

    Examples
    --------
    >>> network = settle(lipschitz_mlp((2, 8, 1)))
    >>> lipschitz_certificate(network).bound <= 1
    True
    """
    if len(widths) < 2 or min(widths) < 1:
        raise UsageError(f"widths is {tuple(widths)}; expected two or more numbers above zero: inputs, ..., outputs.")
    bounds = slope_property(slopes)
    if max(-bounds.low, bounds.high) > 1:
        raise UsageError(f"slopes is {slopes!r}; expected bounds within [-1, 1], e.g. 'nonexpansive'.")
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        if place:
            layers.append(SplineActivation(inputs, knots=knots, span=span, slopes=slopes))
        layers.append(parametrizations.orthogonal(nn.Linear(inputs, outputs)))
    return nn.Sequential(*layers)


def lipschitz_certificate(network: nn.Module) -> LipschitzCertificate:
    """Bound the Lipschitz constant of a network for the weights that it has now.

    Parameters
    ----------
    network : torch.nn.Module
        A layer, or a Sequential (of Sequentials) of Linear; Conv2d with zero padding, or circular padding that
        repeats no output; SplineActivation; activations of the table; Flatten, Unflatten and Identity. Parametrized
        weights are those of now: in training mode only orthogonal and weight_norm are read, which give them again; in
        evaluation any, which have to.

    Raises
    ------
    UsageError
        If a layer is of another kind, naming it and why it has no bound here; or a number is not finite.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Sigmoid())
    >>> _ = nn.init.constant_(network[0].weight, 4.0)
    >>> certificate = lipschitz_certificate(network)
    >>> 1 <= certificate.bound < 1 + 1e-12, certificate.evidence
    (True, 'proven')
    """
    with torch.no_grad():
        return LipschitzCertificate(tuple(layer_bound(place, layer) for place, layer in open_chain(network)))


def settle(network: nn.Module) -> nn.Module:
    """Make all weights plain, and divide those of a norm bound above 1 until it is at most 1; in place.

    After it every Linear and Conv2d is certified to be 1-Lipschitz. For a network trained with orthogonal weights that
    is a change of the last digits; weights of a larger norm, with whatever parametrization, become another network's.

    Parameters
    ----------
    network : torch.nn.Module
        As for `lipschitz_certificate`.

    Returns
    -------
    torch.nn.Module
        The same network.

    Raises
    ------
    UsageError
        As for `lipschitz_certificate`, or if a weight in its type cannot be brought to a norm of at most 1; the network
        is then as it was.
    """
    with torch.no_grad():
        chain = list(open_chain(network))
        settled = [(layer, _settled(place, layer)) for place, layer in chain]
        for layer, weight in settled:
            if weight is None:
                continue
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight")
            stored = layer.weight
            assert isinstance(stored, Tensor)
            stored.copy_(weight)
    return network


def _settled(place: str, layer: nn.Module) -> Tensor | None:
    """The weight that a layer gets; None for layers without, which only have to have a bound."""
    upper = layer_bound(place, layer).upper
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        return None
    weight = layer.weight.detach().clone()
    for step in range(SETTLING_STEPS):
        if upper <= 1:
            return weight
        # The quotient is rounded to the type of the weights, which may leave the norm a digit above one. In double, for
        # the bound may be beyond the type itself, and in two quotients, for their product may be beyond double.
        excess = 1 + 2.0**step * torch.finfo(weight.dtype).eps
        weight = (weight.double() / upper / excess).to(weight.dtype)
        upper = layer_bound(place, layer, weight).upper
    if upper <= 1:
        return weight
    raise UsageError(
        f"layer {place} is still only known to be {upper:.6g}-Lipschitz after {SETTLING_STEPS} divisions in "
        f"{weight.dtype}; expected at most 1: use a type with more digits."
    )
