"""What keeps a sweep honest: monotone steps, rebalanced layers, proximal factors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..formulations.formulation import Architecture, LiftedState, forward, penalty
from ..formulations.waiting import read_floats
from .layered import LayeredNetwork

HALVINGS = 12


def rebalance(architecture: Architecture, weights: list[Tensor], biases: list[Tensor]) -> None:
    """Rescale the units of homogeneous layers so that their incoming and outgoing weights have like norms, in place.

    phi(t u) = t phi(u) for t > 0 lets a unit's weights and bias be multiplied by t and its outgoing weights divided
    by t without changing the network. The penalty is least at t = sqrt(|outgoing| / |incoming|); t is rounded to
    a power of two, so that the network is preserved to the last bit. Units without incoming or outgoing weights
    stay as they are.
    """
    for layer, phi in enumerate(architecture.activations):
        if not phi.homogeneous:
            continue
        incoming, outgoing = weights[layer].norm(dim=1), weights[layer + 1].norm(dim=0)
        ratio = outgoing / incoming
        alive = (incoming > 0) & (outgoing > 0) & ratio.isfinite() & (ratio > 0)
        scale = torch.exp2(torch.round(torch.log2(torch.where(alive, ratio, 1.0)) / 2))
        weights[layer] = weights[layer] * scale[:, None]
        biases[layer] = biases[layer] * scale
        weights[layer + 1] = weights[layer + 1] / scale


def all_finite(arrays: Iterable[Tensor]) -> bool:
    """Whether no entry of any array is NaN or infinite."""
    flags = [array.isfinite().all() for array in arrays]
    return bool(torch.stack(flags).all()) if flags else True


class Sight(NamedTuple):
    """What one look at a network says.

    Attributes
    ----------
    objective : float
        The training objective of the weights as the network would hold them (rounded to its dtype).
    finite : bool
        Whether all weights and biases are.
    squares : list of float
        For each layer the mean square of its inputs over the features, summed over the samples.
    """

    objective: float
    finite: bool
    squares: list[float]


def look(architecture: Architecture, network: LayeredNetwork, state: LiftedState) -> Sight:
    """Look at the network of a state's weights; waits for its device once."""
    weights, biases = network.round(state.weights), network.round(state.biases)
    activations, output = forward(architecture, weights, biases, state.inputs)
    below = [state.inputs, *activations]
    loss, decay, finite, *squares = read_floats([
        architecture.loss.values(output, state.targets).sum(),
        penalty(architecture, weights),
        torch.stack([array.isfinite().all() for array in [*weights, *biases]]).all().to(output.dtype),
        *((inputs**2).sum() / inputs.shape[1] for inputs in below),
    ])
    return Sight(loss + decay, bool(finite), squares)


def accept(
    architecture: Architecture,
    network: LayeredNetwork,
    state: LiftedState,
    old: tuple[list[Tensor], list[Tensor]],
    before: float,
) -> float:
    """Move from the old weights towards the state's weights as far as the training objective falls.

    The full move is tried first, then halves of it. The state ends with the accepted weights, rounded to the
    network's dtype; without any descent with the old ones.

    Returns
    -------
    float
        Fraction of the move: 1, 1/2, 1/4, ..., or 0.
    """
    new = (state.weights, state.biases)
    step = 1.0
    for _ in range(HALVINGS):
        state.weights, state.biases = (
            network.round([a + step * (b - a) for a, b in zip(was, now, strict=True)])
            for was, now in zip(old, new, strict=True)
        )
        sight = look(architecture, network, state)
        # Saturating activations can hide an infinite weight from the objective.
        if sight.finite and sight.objective < before:
            return step
        step /= 2
    state.weights, state.biases = list(old[0]), list(old[1])
    return 0.0


def curvature(architecture: Architecture, squares: list[float], factors: list[float]) -> list[float]:
    """Scale of each weight block: its multiplier times the mean diagonal of its Gram matrix, plus the weight decay.

    Proximal factors are fractions of it, so that they mean the same for all data sizes and feature scales. The diagonal
    is that of all samples (`Sight.squares`), also for mini-batches.
    """
    return [factor * square + architecture.weight_decay for square, factor in zip(squares, factors, strict=True)]
