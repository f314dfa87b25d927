"""Small training problems for the tests: data, networks, and figures computed without the package."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from convexblocks.solvers import build_network, fit
from convexblocks.solvers.history import History

SAMPLES, FEATURES = 24, 4
OUTPUTS = {"squared": 2, "logistic": 1, "softmax_cross_entropy": 3}
TIMES = ("seconds", "cpu_seconds")

Pair = tuple[np.ndarray, np.ndarray]


def data_for(loss: str, samples: int = SAMPLES, seed: int = 0) -> Pair:
    """Data that a network can learn, with noise; every class occurs."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((samples, FEATURES))
    scores = np.tanh(X @ rng.standard_normal((FEATURES, 3))) + 0.3 * rng.standard_normal((samples, 3))
    if loss == "squared":
        return X, scores[:, :2]
    y = (scores[:, 0] > 0).astype(int) if loss == "logistic" else scores.argmax(axis=1)
    y[:3] = (0, 1, 0) if loss == "logistic" else (0, 1, 2)
    return X, y


def network_for(
    loss: str = "softmax_cross_entropy",
    activation: str = "relu",
    hidden: tuple[int, ...] = (5,),
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> nn.Sequential:
    return build_network((FEATURES, *hidden, OUTPUTS[loss]), activation, random_state=seed, dtype=dtype)


def small_fit(
    loss: str = "softmax_cross_entropy",
    activation: str = "relu",
    hidden: tuple[int, ...] = (5,),
    *,
    dtype: torch.dtype = torch.float64,
    **settings: Any,
) -> tuple[nn.Sequential, History]:
    """A network trained on the small data of a loss for a few sweeps; nothing but the sweeps stops it."""
    network = network_for(loss, activation, hidden, dtype=dtype)
    settings = {"sweeps": 3, "tolerance": 0, **settings}
    return network, fit(network, data_for(loss), loss=loss, **settings)


def output_of(network: nn.Module, X: np.ndarray) -> Tensor:
    """What torch itself computes for the inputs, in the type of the network."""
    dtype = next(network.parameters()).dtype
    with torch.no_grad():
        return network(torch.as_tensor(X, dtype=dtype)).double()


def summed_loss(loss: str, output: Tensor, y: np.ndarray) -> float:
    """The sum of a loss over samples by torch's own functions; the squared one has its 1/2."""
    if loss == "squared":
        return float(((output - torch.as_tensor(y).reshape(output.shape)) ** 2).sum()) / 2
    if loss == "logistic":
        wanted = torch.as_tensor(y, dtype=torch.float64)
        return float(nn.functional.binary_cross_entropy_with_logits(output[:, 0], wanted, reduction="sum"))
    return float(nn.functional.cross_entropy(output, torch.as_tensor(y), reduction="sum"))


def true_loss(network: nn.Module, loss: str, data: Pair) -> float:
    """The training loss of a network as anybody would deploy it."""
    return summed_loss(loss, output_of(network, data[0]), data[1])


def half_squares(network: nn.Module, weight_decay: float) -> float:
    """(weight_decay / 2) times the sum of squares of all weights, the biases left out."""
    squares = sum(float((m.weight.detach().double() ** 2).sum()) for m in network if isinstance(m, nn.Linear))
    return weight_decay / 2 * squares


def labels_of(output: Tensor) -> np.ndarray:
    """Predicted labels: the largest of several outputs, or the sign of a single one."""
    return ((output[:, 0] > 0).long() if output.shape[1] == 1 else output.argmax(dim=1)).numpy()


def without_times(record: Any) -> Any:
    """A record without its seconds, the only figures that may differ between equal runs."""
    if isinstance(record, dict):
        return {key: without_times(value) for key, value in record.items() if key not in TIMES}
    return [without_times(value) for value in record] if isinstance(record, list) else record


def same_parameters(first: nn.Module, second: nn.Module) -> bool:
    """Whether the parameters are equal to the last bit, in order."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@cache
def digits_split(seed: int) -> tuple[Pair, Pair]:
    """Digits with pixels in [0, 1]: a stratified fifth is kept for testing."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, test_size=0.2, stratify=y, random_state=seed)
    return (X_train, y_train), (X_test, y_test)


@cache
def digits_run(activation: str, hidden: tuple[int, ...], seed: int, audit_every: int = 0) -> tuple[nn.Module, History]:
    """A network trained on digits with the default settings; made once for all tests that look at it."""
    train, test = digits_split(seed)
    network = build_network((64, *hidden, 10), activation, random_state=seed)
    return network, fit(network, train, validation=test, random_state=seed, audit_every=audit_every)
