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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from ..certificates.operator_norm import matrix_norm_bound
from ..formulations.errors import UsageError
from ..solvers.convolution_norm import convolution_norm_bound
from ..solvers.layered import read_activation
from .spline_activation import SplineActivation

EVIDENCE = {
    "exact": "exact",
    "proven": "proven, every rounding counted",
    "verified": "verified up to rounding",
}
"""How well a bound is known -> in words; the weakest of the layers holds for the product."""
SETTLING_STEPS = 20


@dataclass(frozen=True)
class LayerBound:
    """What is known of the Lipschitz constant of one layer.

    Attributes
    ----------
    layer : str
        Place and type.
    lower, upper : float
        The constant lies between them; `lower` is computed in floating point and only shows how tight `upper` is.
    evidence : str
        Of `upper`, a key of `EVIDENCE`.
    """

    layer: str
    lower: float
    upper: float
    evidence: str

    @property
    def margin(self) -> float:
        """Relative distance of the bounds, (upper - lower)/upper, at least 0."""
        return max(0.0, self.upper - self.lower) / self.upper if self.upper else 0.0

    def __str__(self) -> str:
        return f"{self.layer}: <= {self.upper:.9g} (margin {self.margin:.1e}; {EVIDENCE[self.evidence]})"


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
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        if place:
            spline = SplineActivation(inputs, knots=knots, span=span, slopes=slopes)
            if max(-spline.property.low, spline.property.high) > 1:
                raise UsageError(f"slopes is {slopes!r}; expected bounds within [-1, 1], e.g. 'nonexpansive'.")
            layers.append(spline)
        layers.append(parametrizations.orthogonal(nn.Linear(inputs, outputs)))
    return nn.Sequential(*layers)


def lipschitz_certificate(network: nn.Module) -> LipschitzCertificate:
    """Bound the Lipschitz constant of a network for the weights that it has now.

    Parameters
    ----------
    network : torch.nn.Module
        A layer, or a Sequential (of Sequentials) of Linear; Conv2d with zero padding, or circular padding that
        repeats no output; SplineActivation; activations of the table; Flatten, Unflatten and Identity.

    Raises
    ------
    UsageError
        If a layer is of another kind, naming it and why it has no bound here; or a weight is not finite.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Sigmoid())
    >>> _ = nn.init.constant_(network[0].weight, 4.0)
    >>> certificate = lipschitz_certificate(network)
    >>> 1 <= certificate.bound < 1 + 1e-12, certificate.evidence
    (True, 'proven')
    """
    with torch.no_grad():
        return LipschitzCertificate(tuple(_bound(place, layer) for place, layer in _chain(network)))


def settle(network: nn.Module) -> nn.Module:
    """Make all weights plain, and divide those of a norm bound above 1 until it is at most 1; in place.

    After it every Linear and Conv2d is certified to be 1-Lipschitz. For a network trained with orthogonal or otherwise
    parametrized weights that is a change of the last digits.

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
        As for `lipschitz_certificate`.
    """
    for place, layer in _chain(network):
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
        with torch.no_grad():
            for step in range(SETTLING_STEPS):
                upper = _bound(place, layer).upper
                if upper <= 1:
                    break
                # The quotient is rounded to the type of the weights, which may leave the norm a digit above one.
                layer.weight.div_(upper * (1 + 2.0**step * torch.finfo(layer.weight.dtype).eps))
    return network


def _chain(network: nn.Module, place: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Place and layer, nested sequences opened."""
    if type(network) is not nn.Sequential:
        yield place or "0", network
        return
    _refuse_hooks(place or "network", network)
    for name, layer in network.named_children():
        yield from _chain(layer, f"{place}.{name}" if place else name)


def _bound(place: str, layer: nn.Module) -> LayerBound:
    kind = parametrize.type_before_parametrizations(layer)
    name = f"layer {place}, {kind.__name__}"
    _refuse_hooks(name, layer)
    if kind is nn.Linear:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        upper = matrix_norm_bound(weight)
        return LayerBound(name, float(torch.linalg.matrix_norm(weight.double(), 2)), upper, "proven")
    if isinstance(layer, nn.Conv2d) and kind is nn.Conv2d:
        return _convolution(name, layer)
    if isinstance(layer, SplineActivation) and kind is SplineActivation:
        size = float(layer.slopes().abs().max())
        return LayerBound(name, size, size, "exact")
    if kind in (nn.Flatten, nn.Unflatten, nn.Identity):
        return LayerBound(name, 1.0, 1.0, "exact")
    row = read_activation(layer)
    if row is None or not math.isfinite(max(row.slopes)):
        raise UsageError(
            f"{name} has no Lipschitz bound here; expected Linear, Conv2d, SplineActivation, an activation of "
            "the table with bounded slopes, Flatten, Unflatten, Identity, or a Sequential of these: replace the layer."
        )
    # Of softmax the slopes are those of its Jacobian, which is symmetric: the larger in size is its norm.
    size = max(map(abs, row.slopes))
    # 1, 1/2 and 1/4 are what they are; others are rounded formulas.
    return LayerBound(name, size, size if (4 * size).is_integer() else math.nextafter(size, math.inf), "exact")


def _convolution(name: str, layer: nn.Conv2d) -> LayerBound:
    """The bound of all convolutions of the plane and of tori, whose parts strides and zero padding are.

    A stride keeps some of the outputs, a dilation only stretches the symbol, and groups act on inputs of their own.
    """
    reaches = [d * (side - 1) for d, side in zip(layer.dilation, layer.kernel_size, strict=True)]
    # "same" and "valid" pad by no more than the reach.
    padding = (0, 0) if isinstance(layer.padding, str) else layer.padding
    repeats = layer.padding_mode == "circular" and any(2 * p > r for p, r in zip(padding, reaches, strict=True))
    if layer.padding_mode not in ("zeros", "circular") or repeats:
        raise UsageError(
            f"{name} pads by {layer.padding_mode!r}, {layer.padding} pixels; expected zeros, or circular padding by at "
            "most half of the kernel's reach: others repeat inputs or outputs, which may raise the norm above that of "
            "the convolution."
        )
    # The degree of the symbol is that of the kernel; the grid has to be finer than twice that.
    grid = max(256, 8 * max(layer.kernel_size))
    found = [convolution_norm_bound(part, grid=grid) for part in layer.weight.chunk(layer.groups)]
    return LayerBound(name, max(f.lower for f in found), max(f.upper for f in found), "verified")


def _refuse_hooks(name: str, layer: nn.Module) -> None:
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise UsageError(
            f"{name} has forward hooks, which may change what it computes; expected none: remove them (weights by "
            "torch.nn.utils.parametrizations need none)."
        )
