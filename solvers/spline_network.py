"""Networks with learned activations: how they start as an ordinary network, and how trainers and run folders read them.

A SplineActivation has no row in the table of activations, because it changes in training. Two views make up for that:
a network without its splines, of which the linear maps alone are read, and a row that calls a module.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.activations import Activation
from ..formulations.errors import NoConvexModelError, UsageError
from ..formulations.spline_blocks import SplineBlocks
from .layered import LayeredNetwork, read_activation, read_network
from .spline_activation import SplineActivation

COVERED = 0.999
"""Share of the pre-activations of a layer that lie between its first knot and its last."""
TOO_SHORT, TOO_LONG = 1.25, 0.5
"""Knots move where the pre-activations reach farther than the last knot by this factor, or less far."""


def without_splines(network: nn.Module) -> nn.Module:
    """A network of the same layers with the identity in the place of its splines, for those who read its linear maps.

    Others come back as they are.
    """
    if not isinstance(network, nn.Sequential):
        return network
    return nn.Sequential(*(nn.Identity() if isinstance(part, SplineActivation) else part for part in network))


def check_splines(network: nn.Sequential) -> None:
    """Refuse splines that are frozen, or that stand in two places: each place has a block of its own.

    Raises
    ------
    UsageError
        Naming the layer.
    """
    seen: list[nn.Module] = []
    for place, module in enumerate(network):
        if not isinstance(module, SplineActivation):
            continue
        if any(module is other for other in seen):
            raise UsageError(
                f"layer {place} ({module}) stands in an earlier place too; expected a spline of its own for each layer:"
                " copy it (copy.deepcopy)."
            )
        if not all(parameter.requires_grad for parameter in module.parameters()):
            raise UsageError(
                f"layer {place} ({module}) is frozen (requires_grad is False); expected splines that may be trained: "
                "call requires_grad_(True)."
            )
        seen.append(module)


def reach(pre_activations: Tensor) -> float:
    """How far from 0 nearly all entries lie; 1 where all are 0."""
    sizes = pre_activations.detach().abs().flatten()
    found = float(sizes.kthvalue(max(1, round(COVERED * len(sizes)))).values)
    return found if found > 0 else 1.0


def spread_knots(like: Tensor, end: float) -> Tensor:
    """As many knots as `like` has, evenly from -end to end; of an odd number the middle one is 0 exactly."""
    half = (len(like) - 1) / 2
    return (torch.arange(len(like), dtype=like.dtype, device=like.device) - half) * (end / half)


def moved_knots(module: SplineActivation, pre_activations: Tensor) -> Tensor | None:
    """Knots for pre-activations that have outgrown those of the module, or shrunk; None where these still do."""
    needed, end = reach(pre_activations), float(module.positions[-1])
    if TOO_LONG * end <= needed <= TOO_SHORT * end:
        return None
    return spread_knots(module.positions, needed)


def learned_activations(network: nn.Sequential, inputs: Tensor, method: SplineBlocks) -> dict[int, SplineActivation]:
    """Splines that start as the activations of a network, by their places in it; the network is left as it is.

    They agree with the activations at the knots, where the bounds admit it: ReLU, whose kink is a knot, is the same
    function. The knots cover the pre-activations of the inputs. Splines that the network has already stay.

    Raises
    ------
    UsageError
        For an activation of whole rows (softmax), which has no spline for each entry.
    """
    found, below = {}, inputs
    for place, module in enumerate(network):
        row = read_activation(module)
        if row is not None and row.couples_units:
            raise UsageError(
                f"layer {place} ({module}) acts on whole rows; expected activations of single entries, in whose place "
                "splines are learned: take e.g. ReLU."
            )
        if row is not None:
            channels = 1 if method.shared else below.shape[-1]
            made = SplineActivation(channels, knots=method.knots, slopes=method.slopes).to(below)
            made.positions.copy_(spread_knots(made.positions, reach(below)))
            made.set_coefficients(row.phi(made.positions)[:, None].repeat(1, channels))
            found[place] = made
        with torch.no_grad():
            below = found.get(place, module)(below)
    return found


def read_spline_network(network: nn.Sequential) -> LayeredNetwork:
    """A network with splines in layered form; the rows of its activations are the splines as they are now.

    Raises
    ------
    UsageError
        As `read_network`.
    """
    layered = read_network(without_splines(network))
    rows: list[Activation] = []
    for module, following in pairwise(network):
        if isinstance(module, SplineActivation):
            rows.append(spline_row(module))
        elif not isinstance(module, nn.Linear) or isinstance(following, nn.Linear):
            rows.append(layered.activations[len(rows)])
    return LayeredNetwork(layered.maps, tuple(rows))


def spline_row(module: SplineActivation) -> Activation:
    """A spline as a row that steps of the weights can use: values and slopes; it has no potential in the table."""
    with torch.no_grad():
        slopes, left, coefficients = module.slopes().clone(), module.positions[:-1].clone(), module.coefficients()
    inner, channels = left[1:], slopes.shape[1]
    columns = torch.arange(channels, device=left.device)

    def pick(table: Tensor, cell: Tensor) -> Tensor:
        return torch.take(table, cell * channels + columns)

    def values(u: Tensor) -> Tensor:
        cell = torch.bucketize(u, inner, right=True)
        return pick(coefficients, cell) + (u - left[cell]) * pick(slopes, cell)

    def slope(u: Tensor) -> Tensor:
        return pick(slopes, torch.bucketize(u, inner, right=True))

    def none(_: Any) -> Any:
        raise NoConvexModelError("the activation 'spline' is learned and has no potential in the table.")

    bounds = (module.property.low, module.property.high)
    return Activation("spline", values, none, none, slope, -inf, inf, bounds, r"f(u)", refusal="it is learned")
