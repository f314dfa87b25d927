"""Incumbents at any depth: the best networks that are found, whose objective no proven lower bound exceeds.

From several seeds, Adam on all matrices together, then L-BFGS; the norms of the layers are made equal, which the
penalty wants and a positively homogeneous activation allows, and neurons that do nothing are dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formulations.errors import UsageError
from .deep_problem import DeepProblem
from .descent import minimize_until

if TYPE_CHECKING:
    from torch import Tensor, nn

WIDTH = 64
STEPS, RATE = 2_000, 3e-3
ITERATIONS = 2_000
SPREAD = 0.7
"""Of the random weights, as a share of what keeps the size of the hidden layers of a ReLU network."""
ADAM = 0.6
"""Share of the time of one seed."""
MOST_SEEDS = 6
NEGLIGIBLE = 1e-8
"""Neurons whose product of norms is below this share of the largest are dropped."""


@dataclass(frozen=True)
class DeepIncumbent:
    """A network and its training objective.

    Attributes
    ----------
    weights : list of array, shape (out, in)
    biases : list of array, shape (out,), or None
        One for each layer where they are free.
    objective : float
    seconds : float
    """

    weights: list[np.ndarray]
    biases: list[np.ndarray] | None
    objective: float
    seconds: float = 0.0


def train_deep(
    problem: DeepProblem, *, seconds: float = 30.0, random_state: int = 0, width: int = WIDTH
) -> DeepIncumbent:
    """Train networks from several seeds as well as goes in a time; the zero network is tried too.

    Parameters
    ----------
    problem : DeepProblem
    seconds : float
        About how long at most.
    random_state : int
    width : int
        Neurons of every hidden layer.

    Raises
    ------
    UsageError
        If the width is below 1.
    """
    if width < 1:
        raise UsageError(f"the width is {width}; expected 1 neuron or more in a hidden layer.")
    began = time.perf_counter()
    best = _zero_network(problem)
    for seed in range(random_state, random_state + MOST_SEEDS):
        left = seconds - (time.perf_counter() - began)
        if left <= 0:
            break
        found = make_deep_incumbent(problem, *_train(problem, width, seed, min(left, 2 * seconds / MOST_SEEDS)))
        best = min(best, found, key=lambda incumbent: incumbent.objective)
    return replace(best, seconds=time.perf_counter() - began)


def make_deep_incumbent(
    problem: DeepProblem, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray] | None = None
) -> DeepIncumbent:
    """The incumbent that a network is, its layers balanced where the activation allows that."""
    weights, biases = list(weights), None if biases is None else list(biases)
    if biases is None:
        weights = _without_idle_neurons(weights)
    if problem.activation != "tanh":
        weights, biases = _balanced(weights, biases)
    return DeepIncumbent(weights, biases, problem.objective(weights, biases))


def network_deep_incumbent(problem: DeepProblem, network: nn.Module) -> DeepIncumbent:
    """A torch network as an incumbent; the objective is that of the problem, whatever it was trained for.

    Parameters
    ----------
    problem : DeepProblem
    network : torch.nn.Sequential
        As many Linear layers as the problem is deep, its activation between them, one output. With a bias column in X
        the network may read the other columns and have biases in its first layer.

    Raises
    ------
    UsageError
        For any other network, or biases that the problem does not have.
    """
    # torch takes a second to import.
    from ..solvers.layered import read_network

    layered = read_network(network)
    rows = [(row.name, row.parameter) for row in layered.activations]
    slope = problem.slope if problem.activation == "leaky_relu" else None
    if len(layered.linears) != problem.depth or layered.widths[-1] != 1 or set(rows) != {(problem.activation, slope)}:
        raise UsageError(
            f"the network has the widths {layered.widths} and the activations "
            f"{[row.label for row in layered.activations]}; this bound is for {problem.depth} Linear layers, one "
            f"output and the activation {problem.activation}{'' if slope is None else f'({slope:g})'}."
        )
    weights, biases = ([part.numpy() for part in parts] for parts in layered.parameters())
    features = problem.X.shape[1]
    if problem.bias == "column" and weights[0].shape[1] == features - 1:
        weights[0] = np.hstack([weights[0], (biases[0] / problem.X[0, -1])[:, None]])
        biases[0] = np.zeros_like(biases[0])
    if weights[0].shape[1] != features:
        raise UsageError(f"the network reads {weights[0].shape[1]} features, but X has {features} columns.")
    if problem.bias == "free":
        return make_deep_incumbent(problem, weights, biases)
    if any(bias.any() for bias in biases):
        raise UsageError(
            f"the network has biases, and the problem's are {problem.bias!r}; expected bias='free', where every layer "
            "may have them, or layers made with bias=False."
        )
    return make_deep_incumbent(problem, weights)


def _zero_network(problem: DeepProblem) -> DeepIncumbent:
    widths = [problem.X.shape[1], *[1] * problem.depth]
    weights = [np.zeros((outputs, inputs)) for inputs, outputs in pairwise(widths)]
    biases = None
    if problem.bias == "free":
        share = float(np.mean(problem.y > 0))
        constant = float(np.mean(problem.y))
        if problem.loss == "logistic":
            constant = float(np.log(share / (1 - share))) if 0 < share < 1 else 40 * constant
        biases = [*(np.zeros(1) for _ in weights[1:]), np.array([constant])]
    return DeepIncumbent(weights, biases, problem.objective(weights, biases))


def _train(
    problem: DeepProblem, width: int, seed: int, seconds: float
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """One network from one seed."""
    import torch

    began = time.perf_counter()
    rng = np.random.default_rng(seed)
    widths = [problem.X.shape[1], *[width] * (problem.depth - 1), 1]
    weights = [SPREAD * np.sqrt(2 / a) * rng.standard_normal((b, a)) for a, b in pairwise(widths)]
    biases = [np.zeros(b) for b in widths[1:]] if problem.bias == "free" else []
    tensors = [torch.tensor(part, requires_grad=True) for part in (*weights, *biases)]
    objective = _torch_objective(problem)
    optimizer = torch.optim.Adam(tensors, lr=RATE)
    for step in range(STEPS):
        spent = max(step / STEPS, (time.perf_counter() - began) / (ADAM * seconds))
        if spent >= 1:
            break
        optimizer.param_groups[0]["lr"] = RATE * (1 + np.cos(np.pi * spent)) / 2
        optimizer.zero_grad()
        objective(tensors).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    shapes = [tensor.shape for tensor in tensors]
    ends = np.cumsum([0, *(tensor.numel() for tensor in tensors)])

    def of_vector(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parts = [torch.tensor(part, requires_grad=True) for part in _split(flat, ends, shapes)]
        value = objective(parts)
        slopes = torch.autograd.grad(value, parts)
        return float(value.detach()), np.concatenate([slope.numpy().ravel() for slope in slopes])

    first = np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])
    found = _split(minimize_until(of_vector, first, began + seconds, iterations=ITERATIONS), ends, shapes)
    return found[: problem.depth], found[problem.depth :] or None


def _torch_objective(problem: DeepProblem) -> Callable[[list[Tensor]], Tensor]:
    """The training objective of matrices, and biases after them if there are any."""
    import torch
    from torch.nn.functional import softplus

    X, y, depth = torch.tensor(problem.X), torch.tensor(problem.y), problem.depth

    def objective(tensors: list[Tensor]) -> Tensor:
        hidden = X
        for place, matrix in enumerate(tensors[:depth]):
            hidden = hidden @ matrix.T
            if len(tensors) > depth:
                hidden = hidden + tensors[depth + place]
            if place < depth - 1:
                hidden = torch.tanh(hidden) if problem.activation == "tanh" else torch.where(
                    hidden >= 0, hidden, problem.slope_below_zero * hidden
                )
        z = hidden[:, 0]
        loss = ((z - y) ** 2).sum() / 2 if problem.loss == "squared" else softplus(-y * z).sum()
        squares: Any = sum((matrix**2).sum() for matrix in tensors[:depth])
        total: Tensor = loss + problem.weight_decay / 2 * squares
        return total

    return objective


def _split(flat: np.ndarray, ends: np.ndarray, shapes: Sequence[Any]) -> list[np.ndarray]:
    return [flat[a:b].reshape(tuple(shape)) for (a, b), shape in zip(pairwise(ends), shapes, strict=True)]


def _without_idle_neurons(weights: list[np.ndarray]) -> list[np.ndarray]:
    """The network without hidden neurons that nothing enters or that nothing reads; one is left in each layer."""
    weights = list(weights)
    for place in range(len(weights) - 1):
        products = np.linalg.norm(weights[place], axis=1) * np.linalg.norm(weights[place + 1], axis=0)
        kept = products > NEGLIGIBLE * float(products.max(initial=0.0))
        kept[int(products.argmax())] = True
        weights[place], weights[place + 1] = weights[place][kept], weights[place + 1][:, kept]
    return weights


def _balanced(
    weights: list[np.ndarray], biases: list[np.ndarray] | None
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """The same function with equal norms of all matrices."""
    norms = np.array([np.linalg.norm(matrix) for matrix in weights])
    if not norms.all():
        return weights, biases
    scales = np.exp(np.log(norms).mean()) / norms
    weights = [scale * matrix for scale, matrix in zip(scales, weights, strict=True)]
    if biases is not None:
        biases = [scale * bias for scale, bias in zip(np.cumprod(scales), biases, strict=True)]
    return weights, biases
