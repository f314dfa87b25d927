"""Baselines, always shown beside ours: Adam on the same network, and the best linear model.

All minimize the same objective, the SUM of the loss over samples plus (weight_decay / 2) times the sum of squares of
the weights (not biases), so that their figures can be compared line by line.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from torch import Tensor, nn

from ..formulations.losses import Loss, find_loss
from ..solvers.layered import LayeredNetwork, check_passage, read_network
from ..solvers.training_data import TrainingData, prepare, prepare_validation

LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
HELD_OUT = 0.2
STEPS, EPOCHS = 3000, 20
LINEAR_ITERATIONS = 200
MEASURED_AT_ONCE = 5000

Data = tuple[Any, Any]


def train_adam(
    network: nn.Module,
    data: Data,
    *,
    loss: str | Loss,
    weight_decay: float = 0.1,
    validation: Data | None = None,
    learning_rates: tuple[float, ...] = LEARNING_RATES,
    steps: int | None = None,
    batch_size: int = 128,
    random_state: int = 0,
) -> dict[str, Any]:
    """Train a network by Adam on mini-batches; its present weights are the start.

    The learning rate is chosen on a held-out fifth of the TRAINING data (a quarter of the steps each); then the network
    is trained on all of them, the rate falling to zero along a cosine. The test data are only measured at the end.

    Parameters
    ----------
    network : torch.nn.Sequential
        Trained in place.
    data : pair of arrays
        X and y, as for `fit`.
    loss : str or Loss
        The training loss.
    weight_decay : float
        Factor of the penalty.
    validation : pair of arrays, optional
        Test data.
    learning_rates : tuple of float
        Candidates; where there is one it is taken without a trial.
    steps : int, optional
        Steps of the final training; by default 3000, or 20 passes over the data if that is more.
    batch_size : int
        Samples of a mini-batch.
    random_state : int
        Seed of the mini-batches and of the held-out part.

    Returns
    -------
    dict
        `name`, `true_loss`, `penalty`, `objective`, `train_accuracy` or `train_error`, the same for the test data where
        there are some, `cpu_seconds` (trials included), `learning_rate`, `steps`, and a `note` in words.

    Raises
    ------
    UsageError
        If the network or the data cannot be used.
    """
    layered, found = read_network(network, dense=False), find_loss(loss)
    widths, device, shape = layered.widths, layered.device, layered.input_shape
    checked = prepare(data, widths, device, loss=found, task=None, shape=shape)
    tested = None if validation is None else prepare_validation(validation, widths, device, found, shape=shape)
    check_passage(network, checked.inputs, widths[-1])
    X, y = checked.inputs.to(layered.dtype), checked.targets.to(layered.dtype)
    samples = len(X)
    decay = weight_decay / checked.samples
    steps = max(STEPS, EPOCHS * math.ceil(samples / batch_size)) if steps is None else steps
    began = time.process_time()
    rate = learning_rates[0]
    if len(learning_rates) > 1 and samples > 1:
        rate = _choose_rate(network, X, y, found, weight_decay, learning_rates, steps // 4, batch_size, random_state)
    _descend(network, X, y, found, decay, rate, steps, batch_size, random_state)
    seconds = time.process_time() - began
    with torch.no_grad():
        test_output = None if tested is None else _output(network, tested.inputs.to(X))
        figures = _figures(_output(network, X).double(), test_output, checked, tested)
    candidates = ", ".join(f"{rate:g}" for rate in learning_rates)
    return {
        "name": "Adam",
        **_with_penalty(figures, _penalty(layered, weight_decay)),
        "cpu_seconds": seconds,
        "learning_rate": rate,
        "steps": steps,
        "note": f"same network, start, split and objective; {steps} steps of {min(batch_size, samples)} samples; "
        f"learning rate {rate:g}, chosen among {candidates} on a held-out fifth of the training data",
    }


def linear_baseline(
    data: Data, *, loss: str | Loss, weight_decay: float = 0.1, outputs: int, validation: Data | None = None
) -> dict[str, Any]:
    """Fit the linear model of the same objective by scikit-learn: logistic or ridge regression on the features.

    Parameters
    ----------
    data : pair of arrays
        X and y, as for `fit`.
    loss : str or Loss
        Squared loss gives ridge regression; the others logistic regression.
    weight_decay : float
        Factor of the penalty.
    outputs : int
        Outputs of the network that it is compared with.
    validation : pair of arrays, optional
        Test data.

    Returns
    -------
    dict
        The figures of `train_adam`, as far as they apply.

    Raises
    ------
    UsageError
        If the data do not fit the loss.
    """
    found, device = find_loss(loss), torch.device("cpu")
    features = np.shape(data[0])[1]
    checked = prepare(data, (features, outputs), device, loss=found, task=None)
    tested = None if validation is None else prepare_validation(validation, (features, outputs), device, found)
    began = time.process_time()
    model, note = _fit_linear(checked, weight_decay)
    seconds = time.process_time() - began
    # With two classes scikit-learn fits one difference of scores; half of it for each class is the same model of
    # the softmax, and the least penalty among those.
    weights, biases = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if found.name == "softmax_cross_entropy" and len(weights) == 1:
        weights, biases = np.vstack([-weights, weights]) / 2, np.concatenate([-biases, biases]) / 2
    W, b = torch.as_tensor(weights), torch.as_tensor(biases)
    test_output = None if tested is None else tested.inputs @ W.T + b
    figures = _figures(checked.inputs @ W.T + b, test_output, checked, tested)
    name = "ridge regression" if found.name == "squared" else "logistic regression"
    return {
        "name": name,
        **_with_penalty(figures, weight_decay / 2 * float((W**2).sum())),
        "cpu_seconds": seconds,
        "note": note,
    }


def _fit_linear(checked: TrainingData, weight_decay: float) -> tuple[Any, str]:
    X, y = checked.inputs.numpy(), checked.plain
    if checked.loss.name == "squared":
        model = Ridge(alpha=weight_decay) if weight_decay else LinearRegression()
        return model.fit(X, checked.targets.numpy()), "no hidden layer; same split and objective; solved exactly"
    # The penalty on a difference of two scores is half of that on two rows of weights.
    halves = 2.0 if checked.loss.name == "softmax_cross_entropy" and len(np.unique(y)) == 2 else 1.0
    strength = halves / weight_decay if weight_decay else math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=LINEAR_ITERATIONS).fit(X, y)
    taken = int(np.max(model.n_iter_))
    end = f"stopped after {taken} iterations" if taken >= LINEAR_ITERATIONS else f"converged in {taken} iterations"
    return model, f"no hidden layer; same split and objective; L-BFGS {end}"


def _choose_rate(
    network: nn.Module, X: Tensor, y: Tensor, loss: Loss, weight_decay: float, rates: tuple[float, ...],
    steps: int, batch_size: int, random_state: int,
) -> float:  # fmt: skip
    """The rate with the least loss on a held-out part of the training data; a diverged trial is never chosen."""
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(random_state)).to(X.device)
    held = max(1, round(HELD_OUT * len(X)))
    inside, outside = order[held:], order[:held]
    losses = {}
    for rate in rates:
        trial = copy.deepcopy(network)
        decay = weight_decay / len(X)
        _descend(trial, X[inside], y[inside], loss, decay, rate, steps, batch_size, random_state)
        with torch.no_grad():
            value = float(loss.values(trial(X[outside]), y[outside]).sum())
        losses[rate] = value if math.isfinite(value) else math.inf
    return min(losses, key=lambda rate: losses[rate])


def _descend(
    network: nn.Module, X: Tensor, y: Tensor, loss: Loss, decay: float, rate: float, steps: int, batch_size: int,
    random_state: int,
) -> None:  # fmt: skip
    """Adam on the objective divided by the number of samples; `decay` is the weight decay divided likewise."""
    weights = [layer.weight for layer in read_network(network, dense=False).maps]
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps))
    generator = torch.Generator().manual_seed(random_state)
    batches: list[Tensor] = []
    for _ in range(steps):
        if not batches:
            batches = list(torch.randperm(len(X), generator=generator).to(X.device).split(batch_size))
        rows = batches.pop()
        optimizer.zero_grad()
        output, wanted = network(X[rows]), y[rows]
        if wanted.ndim == 3:
            # Nodes of a graph that are not in the loss have NaN as targets.
            known = ~wanted.isnan().any(-1)
            output, wanted = output[known], wanted[known]
        value = loss.values(output, wanted).mean() + decay / 2 * sum((w**2).sum() for w in weights)
        value.backward()
        optimizer.step()
        schedule.step()


def _output(network: nn.Module, inputs: Tensor) -> Tensor:
    # In parts: the pictures between the layers of all samples at once would take much memory.
    return torch.cat([network(part) for part in inputs.split(MEASURED_AT_ONCE)])


def _figures(
    output: Tensor, test_output: Tensor | None, checked: TrainingData, tested: TrainingData | None
) -> dict[str, float]:
    values = checked.loss.values(checked.in_loss(output), checked.in_loss(checked.targets))
    figures = {"true_loss": float(values.sum())}
    figures |= {f"train_{name}": value for name, value in checked.score(output).items()}
    if tested is not None and test_output is not None:
        figures |= {f"test_{name}": value for name, value in tested.score(test_output).items()}
    return figures


def _with_penalty(figures: dict[str, float], penalty: float) -> dict[str, float]:
    loss = figures.pop("true_loss")
    return {"true_loss": loss, "penalty": penalty, "objective": loss + penalty, **figures}


def _penalty(layered: LayeredNetwork, weight_decay: float) -> float:
    return weight_decay / 2 * sum(float((layer.weight.detach().double() ** 2).sum()) for layer in layered.maps)
