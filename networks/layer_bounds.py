"""What single layers multiply distances by at most: linear maps, convolutions, splines, activations of the table.

Only layers of exactly the types that are known are believed, without hooks, and without methods put on the module
itself: whatever else may compute something else than its weights say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from ..certificates.operator_norm import matrix_norm_bound
from ..formulations.errors import UsageError
from ..solvers.convolution_norm import convolution_norm_bound
from ..solvers.layered import read_activation
from ..solvers.spline_activation import SplineActivation

EVIDENCE = {
    "exact": "exact",
    "proven": "proven, every rounding counted",
    "verified": "verified up to rounding",
}
"""How well a bound is known -> in words; the weakest of the layers holds for the product."""
DETERMINISTIC = (parametrizations._Orthogonal, parametrizations._WeightNorm)
"""Parametrizations that give the same weights again in training mode; others may draw or update them."""


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


def open_chain(network: nn.Module, place: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Place and layer, nested sequences opened; a layer that stands at two places comes twice, as it acts twice.

    Raises
    ------
    UsageError
        If a sequence has hooks, or methods of its own.
    """
    if type(network) is not nn.Sequential:
        yield place or "0", network
        return
    _refuse_changes(place or "network", network)
    # named_children() would leave out what it has seen before, and forward runs it again.
    for name, layer in network._modules.items():
        if layer is not None:
            yield from open_chain(layer, f"{place}.{name}" if place else name)


def layer_bound(place: str, layer: nn.Module, weight: Tensor | None = None) -> LayerBound:
    """Bound the Lipschitz constant of one layer, for its weight or another one of the same shape.

    Raises
    ------
    UsageError
        Naming the layer, if it has no bound here, or numbers that are not finite.
    """
    kind = parametrize.type_before_parametrizations(layer)
    name = f"layer {place}, {kind.__name__}"
    _refuse_changes(name, layer)
    try:
        if isinstance(layer, nn.Linear | nn.Conv2d) and kind in (nn.Linear, nn.Conv2d):
            _refuse_values(name, bias=layer.bias)
            used = layer.weight if weight is None else weight
            return _convolution(name, layer, used) if isinstance(layer, nn.Conv2d) else _dense(name, used)
        if isinstance(layer, SplineActivation) and kind is SplineActivation:
            return _spline(name, layer)
        row = read_activation(layer)
    except UsageError as error:
        text = str(error)
        raise UsageError(text if text.startswith(name) else f"{name}: {text}") from None
    if kind in (nn.Flatten, nn.Unflatten, nn.Identity):
        return LayerBound(name, 1.0, 1.0, "exact")
    if row is None or not math.isfinite(max(map(abs, row.slopes))):
        raise UsageError(
            f"{name} has no Lipschitz bound here; expected Linear, Conv2d, SplineActivation, an activation of "
            "the table with bounded slopes, Flatten, Unflatten, Identity, or a Sequential of these: replace the layer."
        )
    # Of softmax the slopes are those of its Jacobian, which is symmetric: the larger in size is its norm.
    size = max(map(abs, row.slopes))
    # 1, 1/2 and 1/4 are what they are; others are rounded formulas.
    return LayerBound(name, size, size if (4 * size).is_integer() else math.nextafter(size, math.inf), "exact")


def _dense(name: str, weight: Tensor) -> LayerBound:
    upper = matrix_norm_bound(weight)
    return LayerBound(name, float(torch.linalg.matrix_norm(weight.double(), 2)), upper, "proven")


def _spline(name: str, layer: SplineActivation) -> LayerBound:
    _refuse_values(name, positions=layer.positions, coefficients=layer.coefficients(), slopes=layer.slopes())
    if not bool((torch.diff(layer.positions) > 0).all()):
        raise UsageError(f"{name} has knots that do not increase; expected each above the last: its positions.")
    size = float(layer.slopes().abs().max())
    return LayerBound(name, size, size, "exact")


def _convolution(name: str, layer: nn.Conv2d, weight: Tensor) -> LayerBound:
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
    found = [convolution_norm_bound(part, grid=grid) for part in weight.chunk(layer.groups)]
    return LayerBound(name, max(f.lower for f in found), max(f.upper for f in found), "verified")


def _refuse_values(name: str, **arrays: Tensor | None) -> None:
    for what, values in arrays.items():
        if values is not None and not bool(torch.isfinite(values).all()):
            raise UsageError(f"{name}: {what} holds NaN or infinity; expected finite numbers: set them anew.")


def _refuse_changes(name: str, layer: nn.Module) -> None:
    """Refuse what may make a layer compute something else than its type and weights say."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise UsageError(
            f"{name} has forward hooks, which may change what it computes; expected none: remove them (weights by "
            "torch.nn.utils.parametrizations need none)."
        )
    replaced = [method for method in vars(layer) if callable(getattr(type(layer), method, None))]
    if replaced:
        raise UsageError(
            f"{name} has its own {', '.join(replaced)}, set on the module; expected those of its class: delete it."
        )
    for tensor, parts in getattr(layer, "parametrizations", {}).items():
        unknown = [type(part).__name__ for part in parts if part.training and type(part) not in DETERMINISTIC]
        if unknown:
            raise UsageError(
                f"{name} has its {tensor} parametrized by {unknown[0]} in training mode, where it may give other "
                "weights each time; expected orthogonal or weight_norm there: call eval() first."
            )
