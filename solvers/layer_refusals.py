"""What the reader of networks refuses, naming the layer, what was expected, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..formulations.activations import Activation
from ..formulations.errors import UsageError
from .graph_convolution import GraphConvolution
from .linear_maps import FIXED, LinearMap
from .spline_activation import SplineActivation

NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d)
ACTIVATIONS = (
    "Identity, ReLU, LeakyReLU (slope in (0, 1]), ReLU6, Hardtanh(-1, 1), Hardtanh(0, c), Softshrink, Sigmoid, Tanh, "
    "Softmax(dim=-1), ELU(1), Softsign, CatalogueActivation('arctan' | 'probit' | 'exponential')"
)
WIDE_METHODS = "'targets' or 'monotone'"


def check_layer(place: int, module: nn.Module, before: Sequence[LinearMap]) -> None:
    """Refuse a layer whose weights are not its own, or that does not fit the layers before it.

    Raises
    ------
    UsageError
        Naming the layer.
    """
    if "weight" not in module._parameters:
        raise UsageError(
            f"the weights of layer {place} ({module}) are computed from other parameters (a parametrization); expected "
            "plain weights: remove it with torch.nn.utils.parametrize.remove_parametrizations."
        )
    if any(module.weight is other.module.weight for other in before):
        raise UsageError(
            f"layer {place} ({module}) shares its weights with an earlier layer; expected weights of its own for each "
            "layer, because each is a block: make a separate Linear layer."
        )
    if not before:
        return
    last, first = before[-1].module, before[0].module
    if isinstance(module, nn.Linear) and isinstance(last, nn.Linear) and last.out_features != module.in_features:
        raise UsageError(
            f"layer {place} reads {module.in_features} inputs, but the layer before it has "
            f"{last.out_features} outputs; make them equal."
        )
    if (module.weight.dtype, module.weight.device) != (first.weight.dtype, first.weight.device):  # type: ignore[union-attr]
        raise UsageError(f"layer {place} differs from the first one in dtype or device; move the network as a whole.")
    if isinstance(module, GraphConvolution) is not isinstance(last, GraphConvolution) and nn.Conv2d in (
        type(module), type(last),
    ):  # fmt: skip
        raise UsageError(f"layer {place} ({module}) follows {last}; expected graphs or pictures, not both.")
    graphs = [layer.module.adjacency for layer in before if isinstance(layer.module, GraphConvolution)]
    if isinstance(module, GraphConvolution) and graphs and module.adjacency.shape != graphs[0].shape:
        raise UsageError(
            f"layer {place} mixes {len(module.adjacency)} nodes, but an earlier layer {len(graphs[0])}; expected the "
            "same graph in all layers."
        )


def check_fixed(place: int, module: nn.Module) -> None:
    """Refuse a change of shape that mixes samples.

    Raises
    ------
    UsageError
        Naming the layer.
    """
    first = module.start_dim if isinstance(module, nn.Flatten) else getattr(module, "dim", 1)
    if first == 0:
        raise UsageError(
            f"layer {place} ({module}) changes the first axis, that of the samples; expected it to be left alone: "
            "start from axis 1."
        )


def check_softmax(maps: Sequence[LinearMap], activations: Sequence[Activation]) -> None:
    """Refuse softmax between convolutions: it would act on rows of pixels.

    Raises
    ------
    UsageError
        Naming the layer.
    """
    for layer, phi in zip(maps, activations, strict=False):
        if phi.couples_units and isinstance(layer.module, nn.Conv2d):
            raise UsageError(
                f"{phi.label} follows {layer.module}; expected an activation of single entries after a convolution, "
                "because its last axis holds pixels, not channels: take another activation, e.g. ReLU."
            )


def refusal(
    place: int, module: nn.Module, row: Activation | None, *, dense: bool, fixed: Sequence[nn.Module] = ()
) -> str:
    """Why a module cannot stand where it does; `row` is its activation, `fixed` the operations since the last layer."""
    where = f"layer {place} ({module})"
    if row is not None and fixed:
        return (
            f"{where} follows {fixed[-1]}; expected an activation right after its layer with weights: put it before "
            "the operation."
        )
    if row is not None:
        return (
            f"{where} does not follow a Linear layer; expected Linear layers with one activation between each two: "
            "remove it."
        )
    if isinstance(module, SplineActivation):
        return (
            f"{where} is a learned activation; expected one of the table: train this network by the method 'splines' "
            "(fit_spline_network), or its splines alone by polish."
        )
    if isinstance(module, NORMALIZATIONS):
        why = (
            "in training mode normalizes by the statistics of each batch, so that it is no linear map: call "
            "network.eval() first, and then fold_batch_norm"
            if module.training
            else "is affine in evaluation mode, and belongs to the layer before it: train fold_batch_norm"
        )
        return f"{where} {why}(network), which computes the same without it."
    if isinstance(module, MAXIMA):
        return (
            f"{where} takes a maximum over several entries: no monotone function of single entries, so it has no "
            "Fenchel lifting, and it is not linear either: replace it by AvgPool2d, or by a larger stride."
        )
    supported = f"Supported: Linear, {ACTIVATIONS}."
    if dense and isinstance(module, (nn.Conv2d, GraphConvolution, *FIXED)):
        return (
            f"{where} cannot be trained by this method, which is for dense networks. {supported} Convolutions, graph "
            f"convolutions and average pooling are trained by the method {WIDE_METHODS}: take it (fit_targets), or "
            "replace or remove the layer."
        )
    more = "" if dense else " Beside them: Conv2d, GraphConvolution, AvgPool2d, Flatten, Unflatten."
    return (
        f"{where} cannot be trained by convex blocks. {supported}{more} Activations that are not "
        "monotone (GELU, SiLU) have no Fenchel lifting: replace or remove the layer."
    )
