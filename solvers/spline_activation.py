"""SplineActivation: a learnable linear spline as a torch module, its slopes between bounds in every forward pass."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..formulations.slope_properties import SlopeProperty, slope_property
from ..formulations.subproblem import require_size
from .spline_statistics import sort_samples


class SplineActivation(nn.Module):
    """A linear spline for every channel, or one that all share; the channels are the last axis of the input.

    The parameters are the value at the middle knot and one raw number for each slope, so that a slope moves the spline
    on its own side alone; the forward pass clips the slopes into the bounds, which thus hold after every step of any
    optimizer, and exactly. A slope at its bound gets no gradient from beyond it: `project` brings the raw numbers back
    to the bounds, after which it moves freely inside.

    Parameters
    ----------
    channels : int
        Width of the layer; 1 is one spline for all channels.
    knots : int
        Number of knots, spread evenly.
    span : pair of float
        First and last knot; beyond them the spline goes on straight.
    slopes : str, pair of float, or SlopeProperty
        Bounds on the slopes (`formulations.slope_properties`).
    start : str
        ``"identity"`` or ``"relu"``, as near to it as the bounds admit.

    Raises
    ------
    UsageError
        For sizes below 1, fewer than two knots, a span or bounds that are not in order, or an unknown start.

    Examples
    --------
    >>> SplineActivation(2, knots=5)(torch.tensor([[0.5, -3.0]])).tolist()
    [[0.5, -3.0]]
    """

    positions: Tensor

    def __init__(
        self, channels: int = 1, *, knots: int = 21, span: tuple[float, float] = (-2.0, 2.0),
        slopes: str | tuple[float, float] | SlopeProperty = "free", start: str = "identity",
    ) -> None:  # fmt: skip
        super().__init__()
        require_size(channels=channels, knots=knots)
        if knots < 2 or not -inf < span[0] < span[1] < inf:
            raise UsageError(f"{knots} knots on {span}; expected two or more, on an interval (low, high).")
        if start not in ("identity", "relu"):
            raise UsageError(f"start is {start!r}; expected 'identity' or 'relu'.")
        self.property = slope_property(slopes)
        if self.property.convex:
            raise UsageError("slopes is 'convex'; expected bounds on each slope, e.g. (0, 1).")
        self.register_buffer("positions", torch.linspace(*span, knots))
        centres = (self.positions[1:] + self.positions[:-1]) / 2
        wanted = torch.ones(knots - 1) if start == "identity" else (centres > 0).to(centres.dtype)
        s = wanted.clamp(self.property.low, self.property.high)[:, None].repeat(1, channels)
        self.raw = nn.Parameter(s)
        # The value at the middle knot so that f(0) = 0 where 0 is among the knots' span.
        zero = sort_samples(self.positions[:, None], torch.zeros(1, channels), *[torch.zeros(1, channels)] * 2)
        self.middle = nn.Parameter(torch.zeros(channels))
        with torch.no_grad():
            self.middle.sub_(zero.values(self.coefficients()[:-1], self.slopes())[0])

    def slopes(self) -> Tensor:
        """The slopes, within their bounds: (knots - 1, channels)."""
        return self.raw.clamp(self.property.low, self.property.high)

    def coefficients(self) -> Tensor:
        """Values at the knots, (knots, channels)."""
        sums = torch.cumsum(torch.diff(self.positions)[:, None] * self.slopes(), 0)
        rises = torch.cat([torch.zeros_like(sums[:1]), sums])
        return self.middle + rises - rises[len(rises) // 2]

    def set_coefficients(self, coefficients: Tensor) -> None:
        """Take the values at the knots, (knots, channels); slopes beyond their bounds are clipped.

        Raises
        ------
        UsageError
            If the shape is another.
        """
        if coefficients.shape != (len(self.positions), self.raw.shape[1]):
            seen, expected = tuple(coefficients.shape), (len(self.positions), self.raw.shape[1])
            raise UsageError(f"the coefficients have shape {seen}; expected {expected}: knots, channels.")
        slopes = torch.diff(coefficients, dim=0) / torch.diff(self.positions)[:, None]
        self.set_slopes(coefficients[len(coefficients) // 2], slopes)

    def set_slopes(self, middle: Tensor, slopes: Tensor) -> None:
        """Take values at the middle knot, of place knots // 2, (channels,) and slopes (knots - 1, channels)."""
        with torch.no_grad():
            self.middle.copy_(middle)
            self.raw.copy_(slopes)
        self.project()

    def move_knots(self, positions: Tensor) -> None:
        """Take other knots (knots,), as many as before, and the spline that agrees with the present one at them.

        Its slopes are means of the present slopes, and so within the bounds.
        """
        with torch.no_grad():
            values = self(positions[:, None].expand(-1, self.raw.shape[1]))
            self.positions.copy_(positions)
        self.set_coefficients(values)

    def project(self) -> None:
        """Bring the raw numbers behind the slopes into the bounds; the function stays as it is."""
        with torch.no_grad():
            self.raw.clamp_(self.property.low, self.property.high)

    def tv2(self) -> Tensor:
        """Sum over all channels of the jumps of the slope, to be added to a loss with a price."""
        return torch.diff(self.slopes(), dim=0).abs().sum()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        return self._values(rows, self.positions[:, None], self.coefficients()[:-1], self.slopes()).reshape(x.shape)

    def inverse(self, y: Tensor) -> Tensor:
        """The x with f(x) = y.

        Raises
        ------
        UsageError
            If the bounds admit slopes of zero or below.
        """
        if not self.property.low > 0:
            raise UsageError(
                f"the slopes may go down to {self.property.low:g}; an inverse needs a bound above zero: slopes="
                "'invertible(0.1)'."
            )
        rows, c = y.reshape(-1, y.shape[-1]), self.coefficients()
        return self._values(rows, c, self.positions[:-1, None].expand_as(c[:-1]), 1 / self.slopes()).reshape(y.shape)

    def _values(self, rows: Tensor, knots: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Splines at rows of inputs; the one column of a shared spline stands for all."""
        if v.shape[1] == 1 and rows.shape[1] > 1:
            return self._values(rows.reshape(-1, 1), knots, v, s).reshape(rows.shape)
        if rows.shape[1] != v.shape[1]:
            raise UsageError(f"the input has {rows.shape[1]} channels; expected {v.shape[1]}.")
        with torch.no_grad():
            cell = sort_samples(knots, rows, rows, rows).cell
        left = torch.take_along_dim(knots.expand(-1, v.shape[1]), cell, 0)
        return torch.take_along_dim(v, cell, 0) + (rows - left) * torch.take_along_dim(s, cell, 0)

    def extra_repr(self) -> str:
        """What torch prints between the parentheses."""
        return f"channels={self.raw.shape[1]}, knots={len(self.positions)}, slopes={self.property.name!r}"


def tv2_penalty(network: nn.Module) -> Any:
    """The sum of `tv2` over all spline activations of a network; zero where there are none."""
    return sum(module.tv2() for module in network.modules() if isinstance(module, SplineActivation))
