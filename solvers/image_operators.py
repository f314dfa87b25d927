"""What measures images: blur, missing pixels, a part of the Fourier transform, sums along lines.

Each is a torch module: `forward` takes images (batch, 1, rows, columns) to real measurements (batch, ...), `adjoint`
takes measurements back, <H x, y> = <x, H'y>, and `norm_bound` is at least |H|, up to rounding.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from ..formulations.errors import UsageError


class ImageOperator(nn.Module):
    """A linear map of images with its adjoint."""

    @property
    def norm_bound(self) -> float:
        """At least the operator norm, up to rounding."""
        raise NotImplementedError

    def adjoint(self, measured: Tensor) -> Tensor:
        """H'y, of the shape of the images."""
        raise NotImplementedError

    def matrix(self, rows: int, columns: int) -> Tensor:
        """H as a matrix, (measurements, rows * columns), in float64; for small images."""
        units = torch.eye(rows * columns, dtype=torch.float64).reshape(-1, 1, rows, columns)
        return self(units).flatten(1).T


class Blur(ImageOperator):
    """Circular convolution of the whole picture with a kernel.

    |H| <= sum |kernel|, which the symbol of a kernel of entries >= 0 reaches at the frequency zero.

    Parameters
    ----------
    kernel : Tensor, shape (side, side)
        Side odd; the middle is the pixel itself.

    Raises
    ------
    UsageError
        If the kernel has another shape, or is not finite or zero.
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        if kernel.dim() != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
            raise UsageError(f"the kernel has shape {tuple(kernel.shape)}; expected a square of odd side.")
        self.register_buffer("kernel", kernel)
        # Refuses what has none.
        _ = self.norm_bound

    @property
    def norm_bound(self) -> float:
        """The sum of |kernel|, of the kernel as it is now: files may bring another one."""
        size = float(self.kernel.double().abs().sum())
        if not 0 < size < math.inf:
            raise UsageError(f"the sizes of the kernel's entries sum to {size:g}; expected a number above 0.")
        return size

    def forward(self, images: Tensor) -> Tensor:
        return self._filter(images, conjugate=False)

    def adjoint(self, measured: Tensor) -> Tensor:
        return self._filter(measured, conjugate=True)

    def _filter(self, images: Tensor, *, conjugate: bool) -> Tensor:
        size, reach = images.shape[-2:], len(self.kernel) // 2
        if min(size) < len(self.kernel):
            raise UsageError(f"the image has {size[0]} x {size[1]} pixels; expected no fewer than the kernel.")
        placed = images.new_zeros(size)
        placed[: len(self.kernel), : len(self.kernel)] = self.kernel.to(images.dtype)
        symbol = torch.fft.rfft2(placed.roll((-reach, -reach), (0, 1)))
        return torch.fft.irfft2(torch.fft.rfft2(images) * (symbol.conj() if conjugate else symbol), s=size)


class Inpainting(ImageOperator):
    """Pixels that are known; the others are measured as zero.

    Parameters
    ----------
    mask : Tensor, shape (rows, columns)
        True where a pixel is known.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.bool())

    @property
    def norm_bound(self) -> float:
        """A projection has the norm 1, or 0."""
        return 1.0

    def forward(self, images: Tensor) -> Tensor:
        return images * self.mask

    def adjoint(self, measured: Tensor) -> Tensor:
        return measured * self.mask


class SubsampledFourier(ImageOperator):
    """Some frequencies of the orthonormal two-dimensional Fourier transform, as in magnetic resonance imaging.

    Measurements have the shape (batch, 1, rows, columns, 2), real and imaginary part, zero where nothing is measured.

    Parameters
    ----------
    mask : Tensor, shape (rows, columns)
        True where a frequency is measured; the frequency zero stands at [0, 0], as torch.fft orders them.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.bool())

    @property
    def norm_bound(self) -> float:
        """A part of an orthonormal transform."""
        return 1.0

    def forward(self, images: Tensor) -> Tensor:
        return torch.view_as_real(torch.fft.fft2(images, norm="ortho") * self.mask)

    def adjoint(self, measured: Tensor) -> Tensor:
        spectrum = torch.view_as_complex(measured.contiguous()) * self.mask
        return torch.fft.ifft2(spectrum, norm="ortho").real


class Radon(ImageOperator):
    """Integrals of the picture along lines, as in tomography with parallel beams, divided by a bound of their norm.

    An integral is the sum over points half a pixel apart of the picture between its pixels (bilinear), halved. |H| is
    at most the root of the largest row sum times the largest column sum of the matrix (Schur's test, the entries are
    >= 0), by which it is divided. Measurements have the shape (batch, angles, bins).

    Parameters
    ----------
    side : int
        Of the square image.
    angles : int
        Directions, spread evenly over half a turn.
    """

    _forward: Tensor
    _adjoint: Tensor

    def __init__(self, side: int, angles: int) -> None:
        super().__init__()
        if side < 2 or angles < 1:
            raise UsageError(f"side is {side}, angles {angles}; expected an image of 2 x 2 or more, and one or more.")
        self.side, self.angles, self.bins = side, angles, 2 * math.ceil(side * math.sqrt(0.5)) + 1
        matrix = _line_integrals(side, angles, self.bins)
        self.scale = 1 / math.sqrt(matrix.sum(1).max() * matrix.sum(0).max())
        matrix = matrix * self.scale
        self.register_buffer("_forward", _torch_sparse(matrix), persistent=False)
        self.register_buffer("_adjoint", _torch_sparse(matrix.T.tocsr()), persistent=False)

    @property
    def norm_bound(self) -> float:
        """It is divided by its bound."""
        return 1.0

    def forward(self, images: Tensor) -> Tensor:
        rows = images.reshape(len(images), -1).T
        return (self._forward.to(rows.dtype) @ rows).T.reshape(len(images), self.angles, self.bins)

    def adjoint(self, measured: Tensor) -> Tensor:
        rows = measured.reshape(len(measured), -1).T
        return (self._adjoint.to(rows.dtype) @ rows).T.reshape(len(measured), 1, self.side, self.side)


def gaussian_kernel(side: int, width: float) -> Tensor:
    """A Gaussian of standard deviation `width` pixels on a square of odd side, of sum 1; shape (side, side)."""
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    values = torch.exp(-axis.square() / (2 * width**2))
    return torch.outer(values, values) / values.sum() ** 2


def fourier_mask(rows: int, columns: int, share: float, *, random_state: int = 0) -> Tensor:
    """Whole columns of frequencies: a twelfth of all around zero, and random others up to the share of all.

    Shape (rows, columns), bool.

    Raises
    ------
    UsageError
        If the share is not above a twelfth, or above 1.
    """
    if not 1 / 12 < share <= 1:
        raise UsageError(f"share is {share:g}; expected a number above 1/12, the middle, and up to 1.")
    middle = round(columns / 12)
    distance = torch.minimum(torch.arange(columns), columns - torch.arange(columns))
    order = torch.argsort(distance, stable=True)
    others = order[middle:][torch.randperm(columns - middle, generator=torch.Generator().manual_seed(random_state))]
    kept = torch.cat([order[:middle], others])[: round(share * columns)]
    mask = torch.zeros(columns, dtype=torch.bool)
    mask[kept] = True
    return mask.expand(rows, columns).clone()


def _line_integrals(side: int, angles: int, bins: int) -> sparse.csr_matrix:
    """A point every half pixel along every line gives half of its value to the four pixels around, bilinearly."""
    offsets = np.arange(bins) - bins // 2
    along = (np.arange(2 * bins) - bins + 0.5) / 2
    middle = (side - 1) / 2
    parts = []
    for angle in np.pi * np.arange(angles) / angles:
        x = middle + np.cos(angle) * offsets[:, None] - np.sin(angle) * along
        y = middle + np.sin(angle) * offsets[:, None] + np.cos(angle) * along
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        block = sparse.csr_matrix((bins, side * side))
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            row, column = top + down, left + right
            weight = (1 - np.abs(y - row)) * (1 - np.abs(x - column)) / 2
            line = np.broadcast_to(np.arange(bins)[:, None], x.shape)
            inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
            places = (line[inside], row[inside] * side + column[inside])
            block = block + sparse.csr_matrix((weight[inside], places), shape=block.shape)
        parts.append(block)
    return sparse.vstack(parts).tocsr()


def _torch_sparse(matrix: sparse.csr_matrix) -> Tensor:
    starts, columns = (torch.as_tensor(part, dtype=torch.int64) for part in (matrix.indptr, matrix.indices))
    values = torch.as_tensor(matrix.data)
    with warnings.catch_warnings():
        # Torch calls its rows of sparse matrices new; by coordinates a product takes fifteen times as long.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, size=matrix.shape, check_invariants=True)
