"""Invertible residual layers y = x + c f(x), the branch f certified to be 1-Lipschitz or so.

Let q < 1 be a bound of the Lipschitz constant of the branch c f. Then x = y - c f(x) is a fixed point of a contraction,
for every y there is exactly one, and the iteration from anywhere comes nearer by the factor q in each step (Banach):

    x_k = y - c f(x_{k-1}) + r,      |x_k - x|  <=  (q |x_k - x_{k-1}| + |r|) / (1 - q),

which says when to stop. The layer moves points apart by factors between 1 - q and 1 + q. In exact arithmetic r = 0 and
the bound is rigorous. The rounding r of an iteration is amplified by 1/(1 - q); it is estimated here, not proven:

    |r|  ~  e (1 + layers of f) (|y| + |x_k|),      e the precision of the type.

Source: Behrmann, Grathwohl, Chen, Duvenaud & Jacobsen, "Invertible residual networks", ICML 2019 (with norms by power
iteration, which are estimates; the bound here is a certificate).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from .layer_bounds import open_chain
from .lipschitz import LipschitzCertificate, lipschitz_certificate


@dataclass(frozen=True)
class Inverted:
    """What `InvertibleResidual.inverse` found.

    Attributes
    ----------
    points : Tensor, shape (batch, ...)
        The x with layer(x) = y, as far as they were found.
    error_bound : Tensor, shape (batch,)
        Bound of the Euclidean distance to the inverse: rigorous in exact arithmetic, with an estimate of what rounding
        adds.
    iterations : int
        Of the whole batch.
    rate : float
        q, by which the error falls in an iteration at least.
    """

    points: Tensor
    error_bound: Tensor
    iterations: int
    rate: float


class InvertibleResidual(nn.Module):
    """The layer x + contraction * branch(x), invertible if contraction * Lip(branch) < 1.

    Parameters
    ----------
    branch : torch.nn.Module
        With outputs of the shape of its inputs, of layers that `lipschitz_certificate` knows; e.g. a `lipschitz_mlp`.
    contraction : float
        c, above 0 and below 1.

    Raises
    ------
    UsageError
        If the contraction is none, or the branch has no certificate below 1/contraction; in use, if the branch gives
        another shape than it gets.

    Examples
    --------
    >>> from .lipschitz import lipschitz_mlp
    >>> layer, x = InvertibleResidual(lipschitz_mlp((2, 16, 2))), torch.randn(5, 2)
    >>> found = layer.inverse(layer(x).detach(), tolerance=1e-4)
    >>> bool(((found.points - x).norm(dim=1) <= 2e-4).all())
    True
    """

    def __init__(self, branch: nn.Module, *, contraction: float = 0.9) -> None:
        super().__init__()
        self.branch, self.contraction = branch, contraction
        self.rate()

    def forward(self, x: Tensor) -> Tensor:
        return x + self._move(x)

    def certificate(self) -> LipschitzCertificate:
        """The certificate of the branch, before it is multiplied by the contraction."""
        return lipschitz_certificate(self.branch)

    def rate(self) -> float:
        """A certified bound q < 1 of the Lipschitz constant of contraction * branch, for the weights as they are.

        Raises
        ------
        UsageError
            If the bound is not below 1, or a layer has none; or the contraction is out of range.
        """
        if not 0 < self.contraction < 1:
            raise UsageError(f"contraction is {self.contraction:g}; expected a number above 0 and below 1.")
        certificate = self.certificate()
        rate = math.nextafter(self.contraction * certificate.bound, math.inf)
        if not rate < 1:
            raise UsageError(
                f"the branch times {self.contraction:g} is only known to be {rate:.6g}-Lipschitz; expected a bound "
                "below 1, for else the layer need not have an inverse: settle(branch), or divide its weights.\n"
                f"{certificate}"
            )
        return rate

    @torch.no_grad()
    def inverse(self, y: Tensor, *, tolerance: float = 1e-5) -> Inverted:
        """The x with layer(x) = y, by the fixed-point iteration.

        It stops when the error bound of every sample is at most the tolerance, or after as many iterations as that
        takes in exact arithmetic, or when the iterates move by no more than rounding: a bound still above the tolerance
        is then the rounding of the type, and returned.

        Parameters
        ----------
        y : Tensor, shape (batch, ...)
            Outputs of the layer.
        tolerance : float
            Of the Euclidean distance of a whole sample.

        Raises
        ------
        UsageError
            If the weights as they are have no certificate, y is not finite or no batch, the tolerance is not above
            zero; if the branch joins samples, or the iterates overflow.
        """
        if not bool(torch.isfinite(y).all()) or not tolerance > 0:
            raise UsageError(f"y is not finite, or the tolerance {tolerance:g} not above zero; expected both.")
        rate = self.rate()
        _refuse_joined_samples(self.branch, y)
        precision = torch.finfo(y.dtype).eps * (1 + len(list(open_chain(self.branch))))
        x, size, iteration, limit = y, _norms(y), 0, 1
        while True:
            new = y - self._move(x)
            step, rounding = _norms(new - x), precision * (size + _norms(new))
            if not bool(torch.isfinite(step + rounding).all()):
                raise UsageError(f"the iterates leave the range of {y.dtype}; expected a smaller y, or a wider type.")
            x, error, iteration = new, (rate * step + rounding) / (1 - rate), iteration + 1
            worst = float(error.max()) if len(error) else 0.0
            if iteration == 1 and worst > tolerance:
                limit = 1 + math.ceil((math.log(tolerance) - math.log(worst)) / math.log(rate))
            if worst <= tolerance or iteration >= limit or bool((rate * step <= rounding).all()):
                return Inverted(x, error, iteration, rate)

    def _move(self, x: Tensor) -> Tensor:
        """contraction * branch(x), of the shape of x."""
        # A copy, for layers that work in place would change the x to which this is added.
        moved: Tensor = self.branch(x.clone())
        if moved.shape != x.shape:
            raise UsageError(
                f"the branch makes shape {tuple(moved.shape)} of {tuple(x.shape)}; expected the same, for the two are "
                "added: change the sizes of its layers."
            )
        return self.contraction * moved

    def extra_repr(self) -> str:
        """What torch prints between the parentheses."""
        return f"contraction={self.contraction:g}"


def _norms(points: Tensor) -> Tensor:
    """Euclidean norms of the samples, in float64 because squares overflow sooner than numbers."""
    return points.double().flatten(1).norm(dim=1)


def _refuse_joined_samples(branch: nn.Module, y: Tensor) -> None:
    """Refuse branches that make one sample of several: the error of each would not be bounded by its own step."""
    axes = y.dim()
    if axes < 2:
        raise UsageError(f"y has shape {tuple(y.shape)}; expected a batch of samples, (batch, ...): add an axis.")
    for place, layer in open_chain(branch):
        first = 1
        if isinstance(layer, nn.Flatten):
            first, last = (axis % axes for axis in (layer.start_dim, layer.end_dim))
            axes -= max(last - first, 0)
        elif isinstance(layer, nn.Unflatten):
            first = layer.dim % axes if isinstance(layer.dim, int) else 0
            axes += len(layer.unflattened_size) - 1
        if first < 1 or axes < 2 or (isinstance(layer, nn.Conv2d) and axes != 4):
            raise UsageError(
                f"layer {place}, {type(layer).__name__} joins the first axis of shape {tuple(y.shape)} with others; "
                "expected a batch of samples, (batch, ...), of images (batch, channels, rows, columns), that stay "
                "apart: add an axis to y, or change the layer."
            )
