"""The linear maps of a network as maps with rows: dense layers, convolutions, graph convolutions.

Every layer with weights computes

    u = rows(x) W' + b,

where rows(x) is a fixed linear map of what arrives at the layer, and W has one row for each unit:

    dense layer          x itself, one row for each sample (and node)       W (units, inputs)
    convolution          the patches of the pictures, one row for           W (channels out, channels in * kernel)
                         each sample and position of the kernel
    graph convolution    A x, one row for each node                         W (units, inputs)

so that the weight block of any layer is that of a dense layer on these rows, those of all samples one below another.
The fixed operations before a layer (average pooling, a change of shape) are linear and have no weights: they stand
between the activations below and what arrives.

A map is applied, and its adjoint, without making the rows; they are made where a block is solved, and where their Gram
matrix is due.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from ..formulations.errors import UsageError
from .graph_convolution import GraphConvolution, spread

FIXED = (nn.AvgPool2d, nn.Flatten, nn.Unflatten)
TRAINABLE = (nn.Linear, nn.Conv2d, GraphConvolution)


@dataclass(frozen=True)
class LinearMap:
    """A layer with weights as a map with rows, after fixed operations; here the map of a dense layer.

    Weights are passed as matrices (units, inputs of a row), so that a map also serves weights that are not yet in the
    module.

    Attributes
    ----------
    module : torch.nn.Module
        The layer, which stays the owner of its weights.
    before : tuple of torch.nn.Module
        Fixed operations between the activations below and the layer.
    """

    module: nn.Module
    before: tuple[nn.Module, ...] = ()

    @property
    def weight(self) -> Tensor:
        """The layer's weights as a matrix (units, inputs of a row): a view."""
        return cast(Tensor, self.module.weight).flatten(1)

    @property
    def shape(self) -> torch.Size:
        """Shape of the weights in the module."""
        return cast(Tensor, self.module.weight).shape

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias, shape (units,); None where it has none."""
        return cast("Tensor | None", self.module.bias)

    @property
    def units(self) -> int:
        """Units of the layer: outputs, or channels."""
        return len(self.weight)

    @property
    def inputs(self) -> int:
        """Length of a row."""
        return self.weight.shape[1]

    def arrive(self, x: Tensor) -> Tensor:
        """What arrives at the layer: the activations below after the fixed operations."""
        for operation in self.before:
            x = operation(x)
        return x

    def depart(self, slopes: Tensor, x: Tensor) -> Tensor:
        """The adjoint of `arrive`: slopes with respect to the activations x, from those of what arrives."""
        likes = [torch.empty(x.shape, device="meta")]
        for operation in self.before:
            likes.append(operation(likes[-1]))
        for operation, like in zip(reversed(self.before), reversed(likes[:-1]), strict=True):
            slopes = _adjoint(operation, slopes, like.shape)
        return slopes

    def settled(self, x: Tensor) -> tuple[LinearMap, Tensor]:
        """The map without the operations that need no weights, and what they make of x; for data that stay."""
        return replace(self, before=()), self.arrive(x)

    def apply(self, arriving: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Pre-activations, in the layout of the layer."""
        return arriving @ weight.T + bias

    def pull_back(self, slopes: Tensor, weight: Tensor, arriving: Tensor) -> Tensor:
        """Slopes with respect to what arrives, from those with respect to the pre-activations."""
        return slopes @ weight

    def gradient(self, slopes: Tensor, arriving: Tensor) -> Tensor:
        """The product G' rows(x), shape (units, inputs): the gradient with respect to the weights."""
        return self.as_rows(slopes).T @ self.rows(arriving)

    def rows(self, arriving: Tensor) -> Tensor:
        """The rows that the weights multiply, all samples' rows one below another."""
        return arriving.reshape(-1, arriving.shape[-1])

    def as_rows(self, values: Tensor) -> Tensor:
        """Pre-activations or their slopes as a matrix (rows, units)."""
        return values.reshape(-1, values.shape[-1])

    def bias_gradient(self, slopes: Tensor) -> Tensor:
        """The sum of the slopes of every unit: the gradient with respect to the bias."""
        return self.as_rows(slopes).sum(0)


class ConvolutionMap(LinearMap):
    """A convolution; arriving pictures have the shape (samples, channels, height, width)."""

    module: nn.Conv2d

    @property
    def _options(self) -> dict[str, Any]:
        module = self.module
        return {"stride": module.stride, "padding": padding_of(module), "dilation": module.dilation}

    def _kernel(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.module.weight.shape)

    def apply(self, arriving: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.conv2d(arriving, self._kernel(weight), bias, **self._options)

    def pull_back(self, slopes: Tensor, weight: Tensor, arriving: Tensor) -> Tensor:
        return conv2d_input(arriving.shape, self._kernel(weight), slopes, **self._options)

    def gradient(self, slopes: Tensor, arriving: Tensor) -> Tensor:
        return conv2d_weight(arriving, self.module.weight.shape, slopes, **self._options).reshape(self.units, -1)

    def rows(self, arriving: Tensor) -> Tensor:
        patches = functional.unfold(arriving, self.module.kernel_size, **self._options)
        return patches.transpose(1, 2).reshape(-1, self.inputs)

    def as_rows(self, values: Tensor) -> Tensor:
        return values.flatten(2).transpose(1, 2).reshape(-1, values.shape[1])

    def bias_gradient(self, slopes: Tensor) -> Tensor:
        return slopes.sum((0, 2, 3))


@dataclass(frozen=True)
class GraphMap(LinearMap):
    """A graph convolution; what arrives has the shape (graphs, nodes, features) or (nodes, features).

    Attributes
    ----------
    mixing : Tensor
        The matrix A, or some rows and columns of it; shape (nodes out, nodes in).
    """

    mixing: Tensor = field(kw_only=True)

    def settled(self, x: Tensor) -> tuple[LinearMap, Tensor]:
        return LinearMap(self.module), spread(self.mixing, self.arrive(x))

    def apply(self, arriving: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return spread(self.mixing, arriving @ weight.T) + bias

    def pull_back(self, slopes: Tensor, weight: Tensor, arriving: Tensor) -> Tensor:
        return spread(self.mixing.transpose(0, 1), slopes @ weight)

    def gradient(self, slopes: Tensor, arriving: Tensor) -> Tensor:
        # G'(A x) as (A'G)'x: the units are usually fewer than the inputs.
        return self.as_rows(spread(self.mixing.transpose(0, 1), slopes)).T @ self.as_rows(arriving)

    def rows(self, arriving: Tensor) -> Tensor:
        return self.as_rows(spread(self.mixing, arriving))


def linear_map(module: nn.Module, before: tuple[nn.Module, ...] = ()) -> LinearMap:
    """The map of a layer of one of the classes `TRAINABLE`.

    Raises
    ------
    UsageError
        For a convolution whose rows are not the same for all of its units, or that pads otherwise than by zeros.
    """
    if isinstance(module, nn.Conv2d):
        _check_convolution(module)
        return ConvolutionMap(module, before)
    if isinstance(module, GraphConvolution):
        return GraphMap(module, before, mixing=module.adjacency)
    return LinearMap(module, before)


def padding_of(module: nn.Conv2d) -> tuple[int, ...]:
    """The zeros around a picture, on both sides of each axis; torch also names them ``"same"`` and ``"valid"``."""
    if module.padding == "valid":
        return (0, 0)
    if module.padding == "same":
        return tuple(gap * (size - 1) // 2 for gap, size in zip(module.dilation, module.kernel_size, strict=True))
    return tuple(int(zeros) for zeros in module.padding)


def _check_convolution(module: nn.Conv2d) -> None:
    if module.groups != 1:
        raise UsageError(
            f"{module} has {module.groups} groups; expected 1, because the units of a block share their rows, and "
            "those of different groups read different channels: take groups=1."
        )
    if module.padding_mode != "zeros":
        raise UsageError(f"{module} pads by {module.padding_mode!r}; expected padding_mode 'zeros'.")
    spans = [gap * (size - 1) for gap, size in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding == "same" and any(span % 2 for span in spans):
        raise UsageError(
            f"{module} pads one side more than the other; expected the same on both: take a kernel of odd size, or "
            "give the padding as a number."
        )


def _adjoint(operation: nn.Module, slopes: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of a fixed operation on arrays of a shape."""
    if isinstance(operation, (nn.Flatten, nn.Unflatten)):
        return slopes.reshape(shape)
    assert isinstance(operation, nn.AvgPool2d)
    size = operation.kernel_size
    height, width = (size, size) if isinstance(size, int) else size
    tiles = operation.stride in (size, (height, width)) and operation.padding in (0, (0, 0))
    if tiles and shape[-2:] == (height * slopes.shape[-2], width * slopes.shape[-1]):
        # Every pixel belongs to one window, and none is left over: several times faster than the general way.
        part = slopes / (operation.divisor_override or height * width)
        lead, (down, across) = slopes.shape[:-2], slopes.shape[-2:]
        windows = part[..., :, None, :, None].expand(*lead, down, height, across, width)
        return windows.reshape(shape)
    return torch.func.vjp(operation, slopes.new_zeros(shape))[1](slopes)[0]
