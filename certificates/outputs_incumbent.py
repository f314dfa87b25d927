"""Networks with several outputs: the best that are found, and those whose neurons feed one output each.

The former are incumbents: no proven bound exceeds their objective. The latter minimize

    loss(Z) + weight_decay (R_1^2 + ... + R_K^2)^(1/2),     R_k = sum over the neurons of output k of (|w|^2 + a^2) / 2,

which is what the bound by columns can reach; -grad loss there is where the search for evidence starts. Both are trained
by L-BFGS in rounds, as in incumbent.py: with the neurons that the current residual wants most added between them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .descent import minimize_until
from .incumbent import (
    CLOSE,
    ITERATIONS,
    LARGE,
    MOST_ROUNDS,
    NEGLIGIBLE,
    NEW_NEURONS,
    SMALL_NEURON,
    WIDTHS,
    Incumbent,
    require_bias_column,
    two_layer_parameters,
    with_bias,
)
from .outputs_problem import OutputsProblem
from .outputs_support import worst_output_neurons
from .support import worst_neurons

if TYPE_CHECKING:
    from torch import nn

COLUMN_STARTS = 64


@dataclass(frozen=True)
class Neurons:
    """Weights (neurons, features), output weights (neurons, K), and the group of neurons that a neuron belongs to.

    The penalty is weight_decay times the length of the vector of the groups' sums of (|w_j|^2 + |a_j|^2) / 2: with one
    group the usual one. A neuron of group k of several feeds output k alone.
    """

    weights: np.ndarray
    outputs: np.ndarray
    groups: np.ndarray
    separate: bool

    def masses(self, count: int) -> np.ndarray:
        """The sum of every group."""
        halves = 0.5 * (np.sum(self.weights**2, axis=1) + np.sum(self.outputs**2, axis=1))
        return np.bincount(self.groups, halves, count)

    def chosen(self, kept: np.ndarray) -> Neurons:
        """Some of them."""
        return replace(self, weights=self.weights[kept], outputs=self.outputs[kept], groups=self.groups[kept])


def train_outputs(problem: OutputsProblem, *, seconds: float = 30.0, random_state: int = 0) -> Incumbent:
    """Train a network of any width as well as goes in a time; `train_incumbent` for several outputs."""
    began = time.perf_counter()
    neurons = _random(problem, random_state, separate=False)
    none = np.zeros((0, problem.X.shape[1])), np.zeros((0, problem.outputs))
    best, dual, gap = make_outputs_incumbent(problem, *none), -np.inf, 1.0
    for round_number in range(MOST_ROUNDS):
        neurons = _balanced(_descend(problem, neurons, began + seconds))
        found = make_outputs_incumbent(problem, neurons.weights, neurons.outputs)
        best = min(best, found, key=lambda incumbent: incumbent.objective)
        units = neurons.weights / np.maximum(np.linalg.norm(neurons.weights, axis=1, keepdims=True), 1e-300)
        worst = worst_output_neurons(problem, found.v, random_state=random_state + round_number, starts=units)
        scale = problem.best_scale(found.v, problem.weight_decay / max(float(worst.values[0]), 1e-300))
        dual = max(dual, problem.dual(scale * found.v))
        gap = max(0.0, 1 - dual / best.objective) if best.objective > 0 else 0.0
        if gap < CLOSE or time.perf_counter() - began > seconds:
            break
        wanted = worst.distinct(NEW_NEURONS)
        kept = wanted.values > problem.weight_decay * (1 + 1e-6)
        neurons = _with(neurons, wanted.directions[kept], wanted.outputs[kept], np.zeros(kept.sum(), dtype=int))
    return replace(best, estimated_gap=gap, seconds=time.perf_counter() - began)


def make_outputs_incumbent(problem: OutputsProblem, weights: np.ndarray, outputs: np.ndarray) -> Incumbent:
    """The incumbent that a network is."""
    V = problem.negative_gradient(problem.predictions(weights, outputs))
    return Incumbent(weights, outputs, problem.objective(weights, outputs), V, np.nan, 0.0)


def network_outputs_incumbent(problem: OutputsProblem, network: nn.Module) -> Incumbent:
    """A torch network as an incumbent; `network_incumbent` for several outputs.

    Raises
    ------
    UsageError
        If the network is of another kind, or has biases where the problem has no bias column.
    """
    weights, biases = two_layer_parameters(problem, network, problem.outputs)
    hidden, outputs = with_bias(problem, weights[0], biases[0]), weights[1].T
    length = float(np.linalg.norm(biases[1]))
    if length > 0:
        require_bias_column(problem, length)
        # The output bias is one more neuron, which sees the bias column alone.
        constant = np.zeros((1, hidden.shape[1]))
        constant[0, -1] = 1 / problem.X[0, -1]
        hidden, outputs = np.vstack([hidden, constant]), np.vstack([outputs, biases[1]])
    found = _balanced(Neurons(hidden, outputs, np.zeros(len(hidden), dtype=int), separate=False))
    return make_outputs_incumbent(problem, found.weights, found.outputs)


def train_separate(problem: OutputsProblem, *, seconds: float, random_state: int = 0) -> tuple[Neurons, float]:
    """Neurons that feed one output each, trained with the penalty above, and their objective."""
    deadline = time.perf_counter() + seconds
    neurons = _random(problem, random_state, separate=True)
    for round_number in range(MOST_ROUNDS):
        neurons = _balanced(_descend(problem, neurons, deadline))
        if time.perf_counter() > deadline:
            break
        more = _wanted(problem, neurons, random_state + round_number)
        if len(more.groups) == len(neurons.groups):
            break
        neurons = more
    length = float(np.linalg.norm(neurons.masses(problem.outputs)))
    loss = problem.loss_value(problem.predictions(neurons.weights, neurons.outputs))
    return neurons, loss + problem.weight_decay * length


def _wanted(problem: OutputsProblem, neurons: Neurons, random_state: int) -> Neurons:
    """The neurons, and small ones that the residual wants."""
    V = problem.negative_gradient(problem.predictions(neurons.weights, neurons.outputs))
    masses, more = neurons.masses(problem.outputs), neurons
    for k in range(problem.outputs):
        one = problem.column(problem.targets[:, k], problem.weight_decay)
        found = worst_neurons(one, V[:, k], random_state=random_state, starts=neurons.weights[neurons.groups == k],
                              count=COLUMN_STARTS).distinct(NEW_NEURONS // 3)  # fmt: skip
        price = problem.weight_decay * float(masses[k]) / max(float(np.linalg.norm(masses)), 1e-300)
        kept = found.values > price * (1 + CLOSE)
        outputs = np.outer(found.signs[kept], np.eye(problem.outputs)[k])
        more = _with(more, found.directions[kept], outputs, np.full(len(outputs), k))
    return more


def _random(problem: OutputsProblem, random_state: int, *, separate: bool) -> Neurons:
    rng, K = np.random.default_rng(random_state), problem.outputs
    width = max(WIDTHS[len(problem.y) > LARGE], 8 * K)
    weights = 0.1 * rng.standard_normal((width, problem.X.shape[1]))
    lengths = np.linalg.norm(weights, axis=1)
    groups = np.arange(width) % K if separate else np.zeros(width, dtype=int)
    if separate:
        outputs = np.zeros((width, K))
        outputs[np.arange(width), groups] = rng.choice([-1.0, 1.0], width)
    else:
        outputs = rng.standard_normal((width, K))
        outputs /= np.linalg.norm(outputs, axis=1, keepdims=True)
    return Neurons(weights, lengths[:, None] * outputs, groups, separate)


def _with(neurons: Neurons, directions: np.ndarray, outputs: np.ndarray, groups: np.ndarray) -> Neurons:
    return replace(
        neurons, weights=np.vstack([neurons.weights, SMALL_NEURON * directions]),
        outputs=np.vstack([neurons.outputs, SMALL_NEURON * outputs]), groups=np.concatenate([neurons.groups, groups]),
    )  # fmt: skip


def _balanced(neurons: Neurons) -> Neurons:
    """The same with |w_j| = |a_j|, without neurons that do nothing."""
    norms, lengths = (np.linalg.norm(part, axis=1) for part in (neurons.weights, neurons.outputs))
    products = norms * lengths
    kept = products > NEGLIGIBLE * float(products.max(initial=0.0))
    scale = np.sqrt(lengths[kept] / norms[kept])[:, None]
    found = neurons.chosen(kept)
    return replace(found, weights=found.weights * scale, outputs=found.outputs / scale)


def _descend(problem: OutputsProblem, neurons: Neurons, deadline: float) -> Neurons:
    """L-BFGS on the objective until it converges or the time is over."""
    if not len(neurons.groups):
        return neurons
    X, (p, q), decay, K = problem.X, problem.coefficients, problem.weight_decay, problem.outputs
    shape, size = neurons.weights.shape, neurons.weights.size
    fed = np.eye(K)[neurons.groups] if neurons.separate else np.ones(neurons.outputs.shape)

    def unpacked(flat: np.ndarray) -> Neurons:
        return replace(neurons, weights=flat[:size].reshape(shape), outputs=flat[size:].reshape(-1, K))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        here = unpacked(flat)
        inner = X @ here.weights.T
        hidden = problem.phi(inner)
        Z = hidden @ here.outputs
        V, masses = problem.negative_gradient(Z), here.masses(K)
        length = float(np.linalg.norm(masses))
        prices = decay * (masses / max(length, 1e-300))[neurons.groups][:, None]
        in_weights = -((V @ here.outputs.T) * (p * (inner > 0) + q)).T @ X + prices * here.weights
        in_outputs = (-hidden.T @ V + prices * here.outputs) * fed
        return problem.loss_value(Z) + decay * length, np.concatenate([in_weights.ravel(), in_outputs.ravel()])

    first = np.concatenate([neurons.weights.ravel(), neurons.outputs.ravel()])
    return unpacked(minimize_until(objective, first, deadline, iterations=ITERATIONS))
