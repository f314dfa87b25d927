"""A torch network in layered form: linear map, activation, linear map, ..., linear map.

Only networks whose layers all have a Fenchel lifting are read; the rest is refused early, naming the layer. Methods for
dense networks read Linear layers alone; the others read convolutions and graph convolutions too, as the linear maps
with rows of linear_maps.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from ..formulations.activations import Activation, activation
from ..formulations.errors import UsageError
from ..formulations.formulation import Architecture
from ..formulations.losses import Loss
from .layer_refusals import check_fixed, check_layer, check_softmax, refusal
from .linear_maps import FIXED, TRAINABLE, GraphMap, LinearMap, linear_map


class CatalogueActivation(nn.Module):
    """An activation of the table as a torch module, for those that torch itself lacks.

    Parameters
    ----------
    which : str or Activation
        Row of the table, e.g. ``"arctan"``.

    Raises
    ------
    UsageError
        If there is no such row.
    """

    def __init__(self, which: str | Activation) -> None:
        super().__init__()
        self.row = activation(which)

    def forward(self, u: Tensor) -> Tensor:
        """Apply phi; u has shape (..., width)."""
        result: Tensor = self.row.phi(u)
        return result

    def extra_repr(self) -> str:
        """The row's label."""
        return self.row.label


def activation_module(which: str | Activation) -> nn.Module:
    """The torch module of an activation: torch's own where it has one.

    Raises
    ------
    UsageError
        If there is no such activation.
    """
    row = activation(which)
    parameter = row.parameter or 0.0
    plain: dict[str, type[nn.Module]] = {
        "identity": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU,
        "softsign": nn.Softsign, "hardtanh": nn.Hardtanh,
    }  # fmt: skip
    if row.name in plain:
        return plain[row.name]()
    if row.name == "leaky_relu":
        return nn.LeakyReLU(parameter)
    if row.name == "clipped_relu":
        return nn.Hardtanh(0.0, parameter)
    if row.name == "soft_shrink":
        return nn.Softshrink(parameter)
    return nn.Softmax(dim=-1) if row.name == "softmax" else CatalogueActivation(row)


def read_activation(module: nn.Module) -> Activation | None:
    """The row of the table that a torch module computes; None where there is none."""
    plain: dict[type[nn.Module], str] = {
        nn.Identity: "identity", nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh",
        nn.Softsign: "softsign", nn.ReLU6: "clipped_relu(6)",
    }  # fmt: skip
    if type(module) in plain:
        return activation(plain[type(module)])
    # Of exactly these types: a subclass may compute something else.
    if type(module) is CatalogueActivation:
        return module.row
    if type(module) is nn.LeakyReLU and 0 < module.negative_slope <= 1:
        return activation(f"leaky_relu({float(module.negative_slope)!r})")
    if type(module) is nn.Hardtanh:
        ends = (module.min_val, module.max_val)
        if ends == (-1, 1):
            return activation("hardtanh")
        return activation(f"clipped_relu({float(ends[1])!r})") if ends[0] == 0 and ends[1] > 0 else None
    if type(module) is nn.Softshrink:
        return activation(f"soft_shrink({float(module.lambd)!r})")
    if type(module) is nn.ELU and module.alpha == 1:
        return activation("elu")
    return activation("softmax") if type(module) is nn.Softmax and module.dim in (1, -1) else None


@dataclass(frozen=True)
class LayeredNetwork:
    """The linear maps of a network and the activations between them; the module itself stays the owner."""

    maps: tuple[LinearMap, ...]
    activations: tuple[Activation, ...]

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """The layers with weights, of a dense network."""
        return tuple(cast(nn.Linear, layer.module) for layer in self.maps)

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden widths, outputs; of convolutions the channels, of graphs the features of a node."""
        shape = self.input_shape
        inputs = shape[0] if None in shape else shape[-1]
        assert inputs is not None
        return (inputs, *(layer.units for layer in self.maps))

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample: (features,); pictures (channels, height, width); graphs (nodes, features).

        None where the network reads any size. What begins with Unflatten or Flatten reads flat rows of features.
        """
        first = self.maps[0]
        if first.before and isinstance(first.before[0], nn.Unflatten):
            return (prod(first.before[0].unflattened_size),)
        if isinstance(first.module, nn.Conv2d):
            return (first.module.in_channels, None, None)
        graphs = [layer.mixing for layer in self.maps if isinstance(layer, GraphMap)]
        if graphs:
            return (len(graphs[0]), first.inputs)
        return (first.inputs,)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's weights."""
        return self.maps[0].weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the network's weights are; the blocks are solved there."""
        return self.maps[0].weight.device

    def architecture(self, loss: Loss, weight_decay: float) -> Architecture:
        """The shape of the training problem."""
        biases = tuple(layer.bias is not None for layer in self.maps)
        return Architecture(self.widths, self.activations, biases, loss, weight_decay)

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Copies in float64: weights as matrices (units, inputs of a row), and biases, zero where there are none."""
        weights = [layer.weight.detach().double().clone() for layer in self.maps]
        biases = [
            weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().clone()
            for weight, layer in zip(weights, self.maps, strict=True)
        ]
        return weights, biases

    def round(self, arrays: list[Tensor]) -> list[Tensor]:
        """Arrays rounded to the network's dtype, in float64 again: what will really be deployed."""
        return [array.to(self.dtype).double() for array in arrays]

    def write(self, weights: list[Tensor], biases: list[Tensor]) -> None:
        """Put weights and biases into the network."""
        with torch.no_grad():
            for layer, weight, bias in zip(self.maps, weights, biases, strict=True):
                layer.weight.copy_(weight)
                if layer.bias is not None:
                    layer.bias.copy_(bias)


def read_network(network: nn.Module, *, dense: bool = True) -> LayeredNetwork:
    """Read an `nn.Sequential` of layers with weights and known activations.

    Two layers with weights in a row have the identity between them.

    Parameters
    ----------
    network : torch.nn.Sequential
        The network.
    dense : bool
        Whether Linear layers alone are read. Otherwise also Conv2d, GraphConvolution, and between an activation and the
        next layer AvgPool2d, Flatten and Unflatten.

    Raises
    ------
    UsageError
        Naming the first layer that cannot be trained by blocks, what is supported, and the remedy.
    """
    if not isinstance(network, nn.Sequential):
        raise UsageError(
            f"the network is a {type(network).__name__}; expected torch.nn.Sequential: Linear layers and activations. "
            "Wrap the layers: torch.nn.Sequential(torch.nn.Linear(...), torch.nn.ReLU(), torch.nn.Linear(...))."
        )
    maps: list[LinearMap] = []
    activations: list[Activation] = []
    fixed: list[nn.Module] = []
    for place, module in enumerate(network):
        if isinstance(module, nn.Linear) or (not dense and isinstance(module, TRAINABLE)):
            if len(maps) > len(activations):
                activations.append(activation("identity"))
            check_layer(place, module, maps)
            maps.append(linear_map(module, tuple(fixed)))
            fixed.clear()
            continue
        if not dense and isinstance(module, FIXED):
            check_fixed(place, module)
            fixed.append(module)
            continue
        row = read_activation(module)
        if row is None or len(activations) == len(maps) or fixed:
            raise UsageError(refusal(place, module, row, dense=dense, fixed=fixed))
        activations.append(row)
    if not maps or len(activations) == len(maps) or fixed:
        seen = "has no Linear layer" if not maps else f"ends with {network[-1]}"
        raise UsageError(
            f"the network {seen}; expected a Linear layer at the end, whose outputs the loss reads directly "
            "(cross-entropy includes its softmax): remove what follows the last Linear layer."
        )
    check_softmax(maps, activations)
    return LayeredNetwork(tuple(maps), tuple(activations))


def build_network(
    widths: tuple[int, ...], which: str | Activation, *, random_state: int, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """A fresh network with torch's own initialization, drawn from a seed without touching the global generator.

    Parameters
    ----------
    widths : tuple of int
        Inputs, hidden widths, outputs.
    which : str or Activation
        Activation of every hidden layer.
    random_state : int
        Seed.
    dtype : torch.dtype
        Type of the weights.

    Raises
    ------
    UsageError
        If a width is below 1 or the activation is unknown.
    """
    if any(width < 1 for width in widths):
        raise UsageError(f"the layer widths are {widths}; expected 1 unit or more in every layer: choose more.")
    modules: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the generators of all CUDA devices too, and nothing would restore them.
        torch.random.default_generator.manual_seed(random_state)
        for inputs, outputs in pairwise(widths):
            modules += [nn.Linear(inputs, outputs, dtype=dtype), activation_module(which)]
    return nn.Sequential(*modules[:-1])


def check_passage(network: nn.Module, inputs: Tensor, outputs: int) -> None:
    """Refuse data that do not pass through a network to one row of outputs for each sample or node.

    Parameters
    ----------
    network : torch.nn.Module
        A network that `read_network` has read.
    inputs : Tensor
        The data; the first sample is passed.
    outputs : int
        Outputs of the last layer.

    Raises
    ------
    UsageError
        With torch's own words where a layer cannot read what comes.
    """
    sample = inputs[:1].to(next(network.parameters()).dtype)
    try:
        with torch.no_grad():
            made = tuple(network(sample).shape)
    except RuntimeError as error:
        raise UsageError(
            f"the network cannot read samples of shape {tuple(sample.shape[1:])}: {error}; change the sizes of its "
            "layers or the data."
        ) from None
    wanted = (*sample.shape[:-1], outputs) if sample.ndim == 3 else (1, outputs)
    if made != wanted:
        raise UsageError(
            f"the network makes an array of shape {made[1:]} of one sample; expected {wanted[1:]}, which the loss "
            "reads: flatten the pictures before a last Linear layer."
        )
