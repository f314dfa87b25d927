"""Ridge regularizers of images on tensors: values, gradients and Hessian products, for any batch and device.

    R(x) = sum over channels c and pixels of psi_c(u_c),   u_c = k_c * x  (cross-correlation),
    psi_c(u) = slope_c/2 huber(u, height_c/slope_c) - rho/2 huber(u, height_c),
    huber(v, M) = v^2 up to M, 2M|v| - M^2 after

With rho = 0 psi is Huber's function; with rho > 0 it is flat beyond `height` where rho = 1 (the minimax concave penalty
with its kink rounded off), and the sum is rho |W|^2-weakly convex, W the analysis operator of all channels.

Images are mirrored at the border, the border pixel repeated: let E be that extension to a torus of twice the sides.
E/2 is an isometry, hence |W E|/2 <= |W| of the plane. If the bank is closed under both mirrorings (up to signs), the
four quadrants of W E x hold the same responses, and the sum over one quadrant is a quarter of that over the torus:
the operator here, on images of any size, is bounded by the supremum of its symbol (solvers/convolution_norm.py). Of
other banks it is not: the mirrored borders may nearly double what the symbol says.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from ..formulations.errors import UsageError


@dataclass(frozen=True)
class RidgeRegularizer:
    """A convex (rho = 0) or weakly convex (rho > 0) ridge regularizer with Huber potentials.

    Attributes
    ----------
    filters : Tensor, shape (channels, side, side)
        Correlation kernels, side odd.
    slope : Tensor, shape (channels,) or (batch, channels)
        Slope of psi' at zero, before rho is subtracted.
    height : Tensor, shape (channels,) or (batch, channels)
        Largest value of slope * clip(u): with rho = 1 also where psi becomes flat. In units of the pixels.
    rho : float
        Weight of the concave part.
    """

    filters: Tensor
    slope: Tensor
    height: Tensor
    rho: float = 0.0

    def analysis(self, images: Tensor) -> Tensor:
        """Responses W x, shape (batch, channels, rows, columns), of images (batch, 1, rows, columns)."""
        responses: Tensor = _Analysis.apply(images, self.filters)
        return responses

    def synthesis(self, responses: Tensor) -> Tensor:
        """The adjoint W'u, shape (batch, 1, rows, columns)."""
        images: Tensor = _Synthesis.apply(responses, self.filters)
        return images

    def potential(self, responses: Tensor) -> Tensor:
        """psi_c of every response."""
        slope, height = _by_channel(self.slope), _by_channel(self.height)
        value = slope / 2 * huber(responses, height / slope)
        return value - self.rho / 2 * huber(responses, height) if self.rho else value

    def activation(self, responses: Tensor) -> Tensor:
        """psi'_c of every response: slope clip(u, height/slope) - rho clip(u, height)."""
        slope, height = _by_channel(self.slope), _by_channel(self.height)
        value = torch.clamp(slope * responses, -height, height)
        return value - self.rho * torch.clamp(responses, -height, height) if self.rho else value

    def curvature(self, responses: Tensor) -> Tensor:
        """psi''_c of every response; at a kink the value outside."""
        slope, height, size = _by_channel(self.slope), _by_channel(self.height), responses.abs()
        value = slope * (slope * size < height)
        return value - self.rho * (size < height) if self.rho else value

    def value(self, images: Tensor) -> Tensor:
        """R of every image, shape (batch,)."""
        return self.potential(self.analysis(images)).flatten(1).sum(1)

    def gradient(self, images: Tensor) -> Tensor:
        """W' psi'(W x), of the shape of the images."""
        return self.synthesis(self.activation(self.analysis(images)))

    def matrix(self, rows: int, columns: int) -> Tensor:
        """W as a matrix, shape (channels * rows * columns, rows * columns); for small images."""
        pixels = rows * columns
        units = torch.eye(pixels, dtype=self.filters.dtype, device=self.filters.device)
        return self.analysis(units.reshape(pixels, 1, rows, columns)).reshape(pixels, -1).T

    def energy(self, images: Tensor, noisy: Tensor) -> Tensor:
        """1/2 |x - y|^2 + R(x) of every image, shape (batch,)."""
        return (images - noisy).square().flatten(1).sum(1) / 2 + self.value(images)


class _Analysis(torch.autograd.Function):
    """W x; its derivative in x is the adjoint, which the usual one of a convolution computes many times as slowly."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(images, filters)
        # With channels last the convolution of one input channel is five times faster on a CPU.
        extended = extend(images, filters.shape[-1] // 2).to(memory_format=torch.channels_last)
        return functional.conv2d(extended, filters[:, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (images, filters), (responses,) = ctx.saved_tensors, gradients
        wanted = ctx.needs_input_grad
        return (
            _Synthesis.apply(responses, filters) if wanted[0] else None,
            _by_filters(images, responses, filters) if wanted[1] else None,
        )


class _Synthesis(torch.autograd.Function):
    """W'u; its derivative in u is the analysis."""

    @staticmethod
    def forward(ctx: Any, responses: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(responses, filters)
        side, (rows, columns) = filters.shape[-1], responses.shape[-2:]
        # One product, then sums over columns and over rows of the kernel: twice to ten times faster on a CPU than
        # folding, or than a transposed convolution with one output.
        pixels = responses.permute(0, 2, 3, 1).flatten(1, 2)
        # Detached: of factors that require gradients torch takes another, three times slower product.
        shifted = (filters.detach().flatten(1).T @ pixels.transpose(1, 2)).unflatten(1, (side, side))
        shifted = shifted.unflatten(-1, (rows, columns))
        by_row = shifted.new_zeros(len(responses), side, rows, columns + side - 1)
        for column in range(side):
            by_row[..., column : column + columns] += shifted[:, :, column]
        extended = shifted.new_zeros(len(responses), rows + side - 1, columns + side - 1)
        for row in range(side):
            extended[:, row : row + rows] += by_row[:, row]
        return fold_back(extended[:, None], side // 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (responses, filters), (images,) = ctx.saved_tensors, gradients
        wanted = ctx.needs_input_grad
        return (
            _Analysis.apply(images, filters) if wanted[0] else None,
            _by_filters(images, responses, filters) if wanted[1] else None,
        )


def _by_filters(images: Tensor, responses: Tensor, filters: Tensor) -> Tensor:
    """The derivative of <W x, u> in the filters."""
    extended = extend(images, filters.shape[-1] // 2).to(memory_format=torch.channels_last)
    return conv2d_weight(extended, filters[:, None].shape, responses)[:, 0]


def huber(values: Tensor, width: Tensor) -> Tensor:
    """v^2 where |v| <= width, 2 width |v| - width^2 elsewhere: twice the usual one, as cvxpy has it."""
    clipped = torch.minimum(values.abs(), width)
    return clipped * (2 * values.abs() - clipped)


def extend(images: Tensor, reach: int) -> Tensor:
    """Images mirrored at the border, the border pixel repeated, by `reach` pixels on every side.

    Raises
    ------
    UsageError
        If a side of the images is shorter than 2 `reach`, so that what is mirrored would overlap.
    """
    if min(images.shape[-2:]) < max(1, 2 * reach):
        raise UsageError(
            f"the images have {images.shape[-2]} x {images.shape[-1]} pixels; expected {max(1, 2 * reach)} or more in "
            "each direction, for the filters reach over their borders: take larger images, or smaller filters."
        )
    rows, columns = (_mirrored(size, reach, images.device) for size in images.shape[-2:])
    return images[..., rows[:, None], columns]


def is_mirrored(bank: Tensor) -> bool:
    """Whether a bank (channels, rows, columns) is closed under both mirrorings, up to signs and order, exactly."""

    def members(filters: Tensor) -> Counter[tuple[float, ...]]:
        rows = [tuple(row) for row in filters.detach().double().flatten(1).tolist()]
        # Of a filter and its negative the greater stands for both.
        return Counter(max(row, tuple(-value for value in row)) for row in rows)

    return all(members(bank) == members(bank.flip(axis)) for axis in (-2, -1))


def fold_back(extended: Tensor, reach: int) -> Tensor:
    """The adjoint of `extend`: what lies beyond the border is added where it was mirrored from."""
    for axis in (-2, -1):
        size = extended.shape[axis] - 2 * reach
        middle = extended.narrow(axis, reach, size)
        before = extended.narrow(axis, 0, reach).flip(axis)
        after = extended.narrow(axis, reach + size, reach).flip(axis)
        inner = middle.narrow(axis, reach, size - 2 * reach)
        first, last = middle.narrow(axis, 0, reach) + before, middle.narrow(axis, size - reach, reach) + after
        extended = torch.cat([first, inner, last], axis)
    return extended


def _mirrored(size: int, reach: int, device: torch.device) -> Tensor:
    places = torch.arange(-reach, size + reach, device=device)
    places = torch.where(places < 0, -1 - places, places)
    return torch.where(places >= size, 2 * size - 1 - places, places)


def _by_channel(values: Tensor) -> Tensor:
    return values[..., None, None] if values.dim() == 2 else values[:, None, None]
