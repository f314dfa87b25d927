"""Incumbents: the best two-layer networks that are found, whose objective no proven lower bound exceeds.

Wide training by L-BFGS on weights and output weights together, in rounds: neurons whose product has gone to zero are
dropped, the weights of each neuron balanced (|w_j| = |a_j|, which the penalty wants), and the worst neurons of the
current residual added (column generation). Between the rounds D(t v) with v = -grad loss and t = weight_decay / h(v)
estimates how far from the optimum the network is; h is estimated, so that this is no bound.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from ..formulations.errors import UsageError
from .problem import TwoLayerProblem
from .support import worst_neurons

if TYPE_CHECKING:
    from torch import nn

    from .outputs_problem import OutputsProblem

WIDTHS = (200, 60)
"""Neurons at the start, for up to and above LARGE samples."""
LARGE = 1_000
MOST_ROUNDS = 30
STARTS = 3
"""Random starts of a network whose width is given."""
NEW_NEURONS = 30
SMALL_NEURON = 3e-2
"""Weight with which a neuron is added."""
NEGLIGIBLE = 1e-8
"""Neurons whose product of weights is below this share of the largest are dropped."""
CLOSE = 1e-4
"""Estimated relative distance to the optimum at which training stops."""
ITERATIONS = 3_000


@dataclass(frozen=True)
class Incumbent:
    """A network and its training objective.

    Attributes
    ----------
    weights : array, shape (neurons, features)
    outputs : array, shape (neurons,) or (neurons, outputs)
    objective : float
    v : array, shape (samples,) or (samples, outputs)
        -grad loss at its predictions.
    estimated_gap : float
        Relative distance to the optimum as far as the worst neurons found tell; an estimate. NaN where unknown.
    seconds : float
    """

    weights: np.ndarray
    outputs: np.ndarray
    objective: float
    v: np.ndarray
    estimated_gap: float
    seconds: float


def train_incumbent(
    problem: TwoLayerProblem, *, seconds: float = 30.0, random_state: int = 0, start: Incumbent | None = None
) -> Incumbent:
    """Train a network of any width as well as goes in a time.

    Parameters
    ----------
    problem : TwoLayerProblem
    seconds : float
        About how long; a round is finished.
    random_state : int
    start : Incumbent, optional
        Where to begin; by default random neurons.
    """
    began = time.perf_counter()
    width = WIDTHS[len(problem.y) > LARGE]
    weights, outputs = _random(problem, width, random_state) if start is None else (start.weights, start.outputs)
    best, dual = make_incumbent(problem, np.zeros((0, problem.X.shape[1])), np.zeros(0)), -np.inf
    if start is not None and start.objective < best.objective:
        best = start
    for round_number in range(MOST_ROUNDS):
        weights, outputs = merge(problem, *balance(*_descend(problem, weights, outputs)))
        found = make_incumbent(problem, weights, outputs)
        best = min(best, found, key=lambda incumbent: incumbent.objective)
        units = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-300)
        worst = worst_neurons(problem, found.v, random_state=random_state + round_number, starts=units)
        scale = problem.best_scale(found.v, problem.weight_decay / max(float(worst.values[0]), 1e-300))
        dual = max(dual, problem.dual(scale * found.v))
        if _gap(dual, best) < CLOSE or time.perf_counter() - began > seconds:
            break
        wanted = worst.distinct(NEW_NEURONS)
        kept = wanted.values > problem.weight_decay * (1 + 1e-6)
        weights = np.vstack([weights, SMALL_NEURON * wanted.directions[kept]])
        outputs = np.concatenate([outputs, SMALL_NEURON * wanted.signs[kept]])
    return replace(best, estimated_gap=_gap(dual, best), seconds=time.perf_counter() - began)


def _gap(dual: float, incumbent: Incumbent) -> float:
    """How far, relative, an estimate of the optimum is below the incumbent."""
    return max(0.0, 1 - dual / incumbent.objective) if incumbent.objective > 0 else 0.0


def train_width(
    problem: TwoLayerProblem, width: int, *, seconds: float = 30.0, random_state: int = 0
) -> Incumbent:
    """The best of a few networks with at most so many neurons, trained from random starts; at least one is finished."""
    began = time.perf_counter()
    best: Incumbent | None = None
    for place in range(STARTS):
        start = _random(problem, width, random_state + place)
        found = make_incumbent(problem, *merge(problem, *balance(*_descend(problem, *start))))
        best = found if best is None or found.objective < best.objective else best
        if time.perf_counter() - began > seconds:
            break
    assert best is not None
    return replace(best, seconds=time.perf_counter() - began)


def make_incumbent(problem: TwoLayerProblem, weights: np.ndarray, outputs: np.ndarray) -> Incumbent:
    """The incumbent that a network is."""
    v = problem.negative_gradient(problem.predictions(weights, outputs))
    return Incumbent(weights, outputs, problem.objective(weights, outputs), v, np.nan, 0.0)


def network_incumbent(problem: TwoLayerProblem, network: nn.Module) -> Incumbent:
    """A torch network as an incumbent, its neurons balanced and merged.

    The objective is that of the problem, whatever the network was trained for: a hidden bias belongs to the penalized
    weights (it is the weight of the bias column), and an output bias c is one more neuron on that column, which costs
    weight_decay |c| over the column's entry.

    Parameters
    ----------
    problem : TwoLayerProblem
    network : torch.nn.Sequential
        Linear, the problem's activation, Linear with one output. Its inputs are the columns of X, without the bias
        column where it has a hidden bias of its own.

    Raises
    ------
    UsageError
        For any other network, or biases where the problem has no bias column.
    """
    weights, biases = two_layer_parameters(problem, network, 1)
    hidden, outputs = with_bias(problem, weights[0], biases[0]), weights[1][0]
    if biases[1][0]:
        hidden, outputs = _constant_neuron(problem, hidden, outputs, float(biases[1][0]))
    return make_incumbent(problem, *merge(problem, *balance(hidden, outputs)))


def two_layer_parameters(
    problem: TwoLayerProblem | OutputsProblem, network: nn.Module, count: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights and biases of both layers of a torch network with so many outputs and the problem's activation.

    Raises
    ------
    UsageError
        For any other network.
    """
    # torch takes a second to import.
    from ..solvers.layered import read_network

    layered = read_network(network)
    seen = [row.label for row in layered.activations]
    wanted = f"leaky_relu({problem.slope:g})" if problem.activation == "leaky_relu" else problem.activation
    if len(layered.linears) != 2 or layered.widths[-1] != count or [row.name for row in layered.activations] != [
        problem.activation
    ]:
        raise UsageError(
            f"the network has the widths {layered.widths} and the activations {seen}; this bound is for two layers "
            f"with {'one output' if count == 1 else f'{count} outputs'} and the activation {wanted}."
        )
    slope = layered.activations[0].parameter
    if problem.activation == "leaky_relu" and slope != problem.slope:
        raise UsageError(f"the network's leaky ReLU has the slope {slope}; expected the problem's, {problem.slope}.")
    weights, biases = ([part.numpy() for part in parts] for parts in layered.parameters())
    return weights, biases


def with_bias(problem: TwoLayerProblem | OutputsProblem, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Hidden weights on the columns of X, the hidden bias among them."""
    features = problem.X.shape[1]
    if weights.shape[1] == features and not bias.any():
        return weights
    if problem.bias == "column" and weights.shape[1] == features - 1:
        return np.hstack([weights, (bias / problem.X[0, -1])[:, None]])
    raise UsageError(
        f"the network reads {weights.shape[1]} features and has {'a' if bias.any() else 'no'} hidden bias, but X has "
        f"{features} columns and its bias is {problem.bias!r}; expected all columns and no bias, or one less and a "
        "bias column in X (bias='column'): a bias that is not penalized is not covered by the bound."
    )


def _constant_neuron(
    problem: TwoLayerProblem, weights: np.ndarray, outputs: np.ndarray, constant: float
) -> tuple[np.ndarray, np.ndarray]:
    require_bias_column(problem, constant)
    entry = float(problem.X[0, -1])
    length = np.sqrt(abs(constant / entry))
    neuron = np.zeros((1, weights.shape[1]))
    neuron[0, -1] = np.sign(entry) * length
    return np.vstack([weights, neuron]), np.append(outputs, np.sign(constant) * length)


def require_bias_column(problem: TwoLayerProblem | OutputsProblem, constant: float) -> None:
    """Refuse an output bias that no neuron can stand for.

    Raises
    ------
    UsageError
        If the problem has no bias column.
    """
    if problem.bias != "column":
        raise UsageError(
            f"the network has an output bias ({constant:.3g}), but X has no bias column; append a column of ones and "
            "say bias='column', or train without the bias: an output bias is not covered by this bound."
        )


def balance(weights: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same network with |w_j| = |a_j|, without neurons that do nothing."""
    norms = np.linalg.norm(weights, axis=1)
    products = norms * np.abs(outputs)
    kept = products > NEGLIGIBLE * float(products.max(initial=0.0))
    scale = np.sqrt(np.abs(outputs[kept]) / norms[kept])
    return weights[kept] * scale[:, None], outputs[kept] / scale


def merge(problem: TwoLayerProblem, weights: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One neuron for all that are active on the same samples with the same sign.

    On these samples the sum of such neurons is the neuron of the sum of a_j w_j, and its penalty is not larger.
    """
    if not len(outputs):
        return weights, outputs
    active = np.packbits(problem.X @ weights.T > 0, axis=0)
    keys = np.vstack([active, (outputs > 0).astype(np.uint8)])
    group = np.unique(keys, axis=1, return_inverse=True)[1].ravel()
    sums = np.zeros((int(group.max()) + 1, weights.shape[1]))
    np.add.at(sums, group, np.abs(outputs)[:, None] * weights)
    signs = np.zeros(len(sums))
    signs[group] = np.sign(outputs)
    lengths = np.linalg.norm(sums, axis=1)
    return balance(sums / np.maximum(lengths, 1e-300)[:, None], signs * lengths)


def _random(problem: TwoLayerProblem, width: int, random_state: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(random_state)
    weights = 0.1 * rng.standard_normal((width, problem.X.shape[1]))
    return weights, np.linalg.norm(weights, axis=1) * rng.choice([-1.0, 1.0], width)


def _descend(problem: TwoLayerProblem, weights: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L-BFGS on the objective."""
    neurons, features = weights.shape
    if not neurons:
        return weights, outputs
    X, (p, q), decay = problem.X, problem.coefficients, problem.weight_decay

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        W, a = flat[:-neurons].reshape(neurons, features), flat[-neurons:]
        Z = X @ W.T
        hidden = problem.phi(Z)
        z = hidden @ a
        v = problem.negative_gradient(z)
        in_weights = -(v[:, None] * (p * (Z > 0) + q) * a).T @ X + decay * W
        in_outputs = -hidden.T @ v + decay * a
        value = problem.loss_value(z) + 0.5 * decay * float(flat @ flat)
        return value, np.concatenate([in_weights.ravel(), in_outputs])

    options = {"maxiter": ITERATIONS, "maxfun": 4 * ITERATIONS // 3, "maxcor": 50, "ftol": 1e-14, "gtol": 1e-10}
    first = np.concatenate([weights.ravel(), outputs])
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    return found.x[:-neurons].reshape(neurons, features), found.x[-neurons:]
