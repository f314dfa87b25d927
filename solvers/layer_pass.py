"""Forward and backward pass of a batch through a layered network, layer by layer, without autograd's graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from ..formulations.activations import Activation
from .linear_maps import LinearMap


class LayerPass(NamedTuple):
    """What a batch makes at every layer l = 1, ..., L; slopes are those of the SUM of the loss over the batch.

    Attributes
    ----------
    arriving : list of Tensor
        What arrives at the layer, after the fixed operations before it: `LinearMap.rows` makes rows of it.
    pre_activations : list of Tensor
        u_l, in the layout of the layer; `LinearMap.as_rows` makes rows of it. The last one is the output.
    slopes : list of Tensor
        G_l = dloss/du_l, in the same layout.
    activation_slopes : list of Tensor
        dloss/dx_l for the activations x_l = phi_l(u_l) of the hidden layers l = 1, ..., L-1, in the same layout.
    """

    arriving: list[Tensor]
    pre_activations: list[Tensor]
    slopes: list[Tensor]
    activation_slopes: list[Tensor]


def layer_pass(
    maps: Sequence[LinearMap],
    activations: Sequence[Activation],
    gradient: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    inputs: Tensor,
) -> LayerPass:
    """Forward and backward pass of a batch.

    Parameters
    ----------
    maps : sequence of LinearMap
        The layers' linear maps.
    activations : sequence of Activation
        phi_1, ..., phi_{L-1}.
    gradient : callable
        Gradient of the loss of every sample with respect to the network's output.
    weights, biases : sequence of Tensor
        Of every layer: matrices (units, inputs of a row), and vectors (units,).
    inputs : Tensor
        The batch.
    """
    arriving, pre_activations, activated = [], [], [inputs]
    for place, layer in enumerate(maps):
        arriving.append(layer.arrive(activated[-1]))
        pre_activations.append(layer.apply(arriving[-1], weights[place], biases[place]))
        if place < len(activations):
            activated.append(activations[place].phi(pre_activations[-1]))
    slopes = [gradient(pre_activations[-1])]
    activation_slopes: list[Tensor] = []
    for place in range(len(maps) - 1, 0, -1):
        below = maps[place].pull_back(slopes[0], weights[place], arriving[place])
        activation_slopes.insert(0, maps[place].depart(below, activated[place]))
        slopes.insert(0, activations[place - 1].jacobian(pre_activations[place - 1])(activation_slopes[0]))
    return LayerPass(arriving, pre_activations, slopes, activation_slopes)


def layer_output(
    maps: Sequence[LinearMap],
    activations: Sequence[Activation],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    inputs: Tensor,
) -> Tensor:
    """The forward pass alone; the activations are not kept."""
    for place, layer in enumerate(maps):
        inputs = layer.apply(layer.arrive(inputs), weights[place], biases[place])
        if place < len(activations):
            inputs = activations[place].phi(inputs)
    return inputs
