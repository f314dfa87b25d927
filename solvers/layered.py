"""A torch network in layered form: linear map, activation, linear map, ..., linear map.

Only networks whose layers all have a Fenchel lifting are read; the rest is refused early, naming the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..formulations.activations import Activation, activation
from ..formulations.errors import UsageError
from ..formulations.formulation import Architecture
from ..formulations.losses import Loss


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
    if isinstance(module, CatalogueActivation):
        return module.row
    if isinstance(module, nn.LeakyReLU) and 0 < module.negative_slope <= 1:
        return activation(f"leaky_relu({float(module.negative_slope)!r})")
    if isinstance(module, nn.Hardtanh):
        ends = (module.min_val, module.max_val)
        if ends == (-1, 1):
            return activation("hardtanh")
        return activation(f"clipped_relu({float(ends[1])!r})") if ends[0] == 0 and ends[1] > 0 else None
    if isinstance(module, nn.Softshrink):
        return activation(f"soft_shrink({float(module.lambd)!r})")
    if isinstance(module, nn.ELU) and module.alpha == 1:
        return activation("elu")
    return activation("softmax") if isinstance(module, nn.Softmax) and module.dim in (1, -1) else None


@dataclass(frozen=True)
class LayeredNetwork:
    """The linear maps of a network and the activations between them; the module itself stays the owner."""

    linears: tuple[nn.Linear, ...]
    activations: tuple[Activation, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden widths, outputs."""
        return (self.linears[0].in_features, *(linear.out_features for linear in self.linears))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's weights."""
        return self.linears[0].weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the network's weights are; the blocks are solved there."""
        return self.linears[0].weight.device

    def architecture(self, loss: Loss, weight_decay: float) -> Architecture:
        """The shape of the training problem."""
        biases = tuple(linear.bias is not None for linear in self.linears)
        return Architecture(self.widths, self.activations, biases, loss, weight_decay)

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Copies of weights and biases in float64; zeros where a layer has no bias."""
        weights = [linear.weight.detach().double().clone() for linear in self.linears]
        biases = [
            weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach().double().clone()
            for weight, linear in zip(weights, self.linears, strict=True)
        ]
        return weights, biases

    def round(self, arrays: list[Tensor]) -> list[Tensor]:
        """Arrays rounded to the network's dtype, in float64 again: what will really be deployed."""
        return [array.to(self.dtype).double() for array in arrays]

    def write(self, weights: list[Tensor], biases: list[Tensor]) -> None:
        """Put weights and biases into the network."""
        with torch.no_grad():
            for linear, weight, bias in zip(self.linears, weights, biases, strict=True):
                linear.weight.copy_(weight)
                if linear.bias is not None:
                    linear.bias.copy_(bias)


def read_network(network: nn.Module) -> LayeredNetwork:
    """Read an `nn.Sequential` of Linear layers and known activations.

    Two Linear layers in a row have the identity between them.

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
    linears: list[nn.Linear] = []
    activations: list[Activation] = []
    for place, module in enumerate(network):
        if isinstance(module, nn.Linear):
            if len(linears) > len(activations):
                activations.append(activation("identity"))
            _check_linear(place, module, linears)
            linears.append(module)
            continue
        row = read_activation(module)
        if row is None or len(activations) == len(linears):
            raise UsageError(_refusal(place, module, row))
        activations.append(row)
    if not linears or len(activations) == len(linears):
        seen = "has no Linear layer" if not linears else f"ends with {network[-1]}"
        raise UsageError(
            f"the network {seen}; expected a Linear layer at the end, whose outputs the loss reads directly "
            "(cross-entropy includes its softmax): remove what follows the last Linear layer."
        )
    return LayeredNetwork(tuple(linears), tuple(activations))


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


def _check_linear(place: int, module: nn.Linear, before: list[nn.Linear]) -> None:
    if "weight" not in module._parameters:
        raise UsageError(
            f"the weights of layer {place} ({module}) are computed from other parameters (a parametrization); expected "
            "plain weights: remove it with torch.nn.utils.parametrize.remove_parametrizations."
        )
    if any(module.weight is other.weight for other in before):
        raise UsageError(
            f"layer {place} ({module}) shares its weights with an earlier layer; expected weights of its own for each "
            "layer, because each is a block: make a separate Linear layer."
        )
    if before and before[-1].out_features != module.in_features:
        raise UsageError(
            f"layer {place} reads {module.in_features} inputs, but the layer before it has "
            f"{before[-1].out_features} outputs; make them equal."
        )
    if before and (module.weight.dtype, module.weight.device) != (before[0].weight.dtype, before[0].weight.device):
        raise UsageError(f"layer {place} differs from the first one in dtype or device; move the network as a whole.")


def _refusal(place: int, module: nn.Module, row: Activation | None) -> str:
    if row is not None:
        return (
            f"layer {place} ({module}) does not follow a Linear layer; expected Linear layers with one activation "
            "between each two: remove it."
        )
    return (
        f"layer {place} ({module}) cannot be trained by convex blocks. Supported: Linear, Identity, ReLU, LeakyReLU "
        "(slope in (0, 1]), ReLU6, Hardtanh(-1, 1), Hardtanh(0, c), Softshrink, Sigmoid, Tanh, Softmax(dim=-1), "
        "ELU(1), Softsign, CatalogueActivation('arctan' | 'probit' | 'exponential'). Activations that are not "
        "monotone (GELU, SiLU) have no Fenchel lifting: replace or remove the layer."
    )
