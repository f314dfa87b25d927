"""Networks that are not dense as plain data: what run.json says of their layers, and the file of a graph's matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .graph_convolution import GraphConvolution
from .layered import LayeredNetwork, activation_module, read_activation
from .linear_maps import GraphMap, padding_of
from .spline_activation import SplineActivation

GRAPH_FILE = "graph.npz"


def describe_layers(network: nn.Module) -> list[dict[str, Any]] | None:
    """Every module of a network that `read_network` has read, as JSON data; None for a dense network.

    Of a dense network widths, activations and biases say all.
    """
    # Not `children`, which leave out a module that stands in two places.
    modules = [module for module in network._modules.values() if module is not None]
    if all(isinstance(module, nn.Linear) or read_activation(module) for module in modules):
        return None
    return [_describe(module) for module in modules]


def build_layers(described: list[dict[str, Any]], dtype: torch.dtype, adjacency: Tensor | None) -> nn.Sequential:
    """The network of such a description; its weights are still to be loaded.

    Raises
    ------
    ValueError
        For a kind of layer that is unknown, or a graph convolution without its matrix.
    """
    return nn.Sequential(*(_build(dict(layer), dtype, adjacency) for layer in described))


def layer_places(settings: dict[str, Any]) -> list[int]:
    """Places in the network of the layers with weights, as the names of a run's weights give them."""
    described = settings.get("layers")
    if described is None:
        return [2 * place for place in range(len(settings["widths"]) - 1)]
    return [place for place, layer in enumerate(described) if "bias" in layer]


def save_graph(path: Path, network: LayeredNetwork) -> None:
    """Write the matrix of the graph convolutions of a network."""
    mixing = next(layer.mixing for layer in network.maps if isinstance(layer, GraphMap))
    entries = mixing.to_sparse_coo().coalesce().cpu()
    with path.open("wb") as file:
        np.savez_compressed(
            file, indices=entries.indices().numpy(), values=entries.values().numpy(), nodes=len(mixing),
            sparse=mixing.is_sparse,
        )  # fmt: skip


def load_graph_matrix(path: Path) -> Tensor:
    """Read the matrix that `save_graph` wrote.

    Raises
    ------
    ValueError, KeyError, OSError
        If the file is damaged.
    """
    with np.load(path, allow_pickle=False) as arrays:
        nodes = int(arrays["nodes"])
        entries = torch.sparse_coo_tensor(
            torch.as_tensor(arrays["indices"]), torch.as_tensor(arrays["values"]), (nodes, nodes), check_invariants=True
        ).coalesce()
        return entries if bool(arrays["sparse"]) else entries.to_dense()


def _describe(module: nn.Module) -> dict[str, Any]:
    row = read_activation(module)
    if row is not None:
        return {"kind": "activation", "name": row.label}
    if isinstance(module, SplineActivation):
        low, high = module.property.low, module.property.high
        # As text: JSON has no infinity.
        sizes = {"channels": module.raw.shape[1], "knots": len(module.positions)}
        return {"kind": "spline", **sizes, "slopes": f"{low!r},{high!r}"}
    if isinstance(module, nn.Conv2d):
        return {
            "kind": "convolution", "in_channels": module.in_channels, "out_channels": module.out_channels,
            "kernel_size": list(module.kernel_size), "stride": list(module.stride), "padding": list(padding_of(module)),
            "dilation": list(module.dilation), "bias": module.bias is not None,
        }  # fmt: skip
    if isinstance(module, nn.AvgPool2d):
        names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
        return {"kind": "average pooling", **{name: getattr(module, name) for name in names}}
    if isinstance(module, nn.Flatten):
        return {"kind": "flatten", "start_dim": module.start_dim, "end_dim": module.end_dim}
    if isinstance(module, nn.Unflatten):
        return {"kind": "unflatten", "dim": module.dim, "unflattened_size": list(module.unflattened_size)}
    assert isinstance(module, (nn.Linear, GraphConvolution))
    kind = "linear" if isinstance(module, nn.Linear) else "graph convolution"
    sizes = {"in_features": module.in_features, "out_features": module.out_features}
    return {"kind": kind, **sizes, "bias": module.bias is not None}


def _build(layer: dict[str, Any], dtype: torch.dtype, adjacency: Tensor | None) -> nn.Module:
    kind = layer.pop("kind")
    if kind == "activation":
        return activation_module(layer["name"])
    if kind == "spline":
        return SplineActivation(**layer).to(dtype)
    if kind == "convolution":
        return nn.Conv2d(**layer, dtype=dtype)
    if kind == "average pooling":
        return nn.AvgPool2d(**layer)
    if kind == "flatten":
        return nn.Flatten(**layer)
    if kind == "unflatten":
        return nn.Unflatten(**layer)
    if kind == "linear":
        return nn.Linear(**layer, dtype=dtype)
    if kind == "graph convolution" and adjacency is not None:
        return GraphConvolution(**layer, adjacency=adjacency, dtype=dtype)
    raise ValueError(f"the layer kind {kind!r} is unknown, or {GRAPH_FILE} is missing")
