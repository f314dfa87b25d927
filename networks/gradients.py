"""Gradient methods, the baselines of training by blocks: Adam, and stochastic gradient descent with momentum.

Both take mini-batches of the objective divided by the number of samples, along a cosine to a rate of zero. The rate
is chosen on a held-out part of the training data.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.losses import Loss, find_loss
from ..formulations.subproblem import require_positive
from ..solvers.devices import finest
from ..solvers.layered import check_passage, read_network
from ..solvers.training_data import TrainingData, prepare, prepare_validation

HELD_OUT = 0.2
STEPS, EPOCHS = 3000, 20
PROBES, PROBE_STEPS = 3, 100
MOMENTUM = 0.9
MEASURED_AT_ONCE = 5000

Data = tuple[Any, Any]


@dataclass(frozen=True)
class GradientMethod:
    """A name, the candidates for the learning rate, and what makes the optimizer of a network at a rate."""

    name: str
    learning_rates: tuple[float, ...]
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer]


def _adam(network: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=rate, fused=True)


def _sgd(network: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=rate, momentum=MOMENTUM, fused=True)


GRADIENT_METHODS = {
    "adam": GradientMethod("Adam", (1e-3, 3e-3, 1e-2, 3e-2), _adam),
    "sgd": GradientMethod("SGD", (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1), _sgd),
}
"""Baselines by the name that the command line gives them."""


def train_adam(network: nn.Module, data: Data, **settings: Any) -> dict[str, Any]:
    """Train a network by Adam; see `train_by_gradients`, which takes and returns the same.

    Raises
    ------
    UsageError
        If the network or the data cannot be used.
    """
    return train_by_gradients(network, data, "adam", **settings)


def train_sgd(network: nn.Module, data: Data, **settings: Any) -> dict[str, Any]:
    """Train a network by stochastic gradient descent with momentum 0.9; see `train_by_gradients`.

    Raises
    ------
    UsageError
        If the network or the data cannot be used.
    """
    return train_by_gradients(network, data, "sgd", **settings)


def train_by_gradients(
    network: nn.Module,
    data: Data,
    method: str,
    *,
    loss: str | Loss,
    weight_decay: float = 0.1,
    validation: Data | None = None,
    learning_rates: tuple[float, ...] | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    batch_size: int = 128,
    random_state: int = 0,
    measurements: int = 0,
) -> dict[str, Any]:
    """Train a network by a gradient method on mini-batches; its present weights are the start.

    The learning rate is chosen on a held-out fifth of the TRAINING data (a quarter of the steps each); then the network
    is trained on all of them, the rate falling to zero along a cosine. The test data never choose anything.

    Parameters
    ----------
    network : torch.nn.Sequential
        Trained in place.
    data : pair of arrays
        X and y, as for `fit`.
    method : str
        A name of `GRADIENT_METHODS`.
    loss : str or Loss
        The training loss.
    weight_decay : float
        Factor of the penalty.
    validation : pair of arrays, optional
        Test data.
    learning_rates : tuple of float, optional
        Candidates, by default those of the method; where there is one it is taken without a trial.
    steps : int, optional
        Steps of the final training; by default 3000, or 20 passes over the data if that is more.
    seconds : float, optional
        CPU seconds of the final training, in the place of `steps`: as many steps as fit, by the fastest of three short
        runs. The trials of rates come on top.
    batch_size : int
        Samples of a mini-batch.
    random_state : int
        Seed of the mini-batches and of the held-out part.
    measurements : int
        How often the network is measured in training, for the `trace`.

    Returns
    -------
    dict
        `name`, `true_loss`, `penalty`, `objective`, `train_accuracy` or `train_error`, the same for the test data where
        there are some, `cpu_seconds` (trials included) and `search_seconds` (the trials alone), `learning_rate`,
        `steps`, and a `note` in words. With `measurements` also `trace`: the same figures during training, with the
        steps and the CPU seconds of training until then; measuring is not counted.

    Raises
    ------
    UsageError
        If the network or the data cannot be used.
    """
    chosen = GRADIENT_METHODS[method]
    layered, found = read_network(network, dense=False), find_loss(loss)
    widths, device, shape = layered.widths, layered.device, layered.input_shape
    checked = prepare(data, widths, device, loss=found, task=None, shape=shape)
    tested = None if validation is None else prepare_validation(validation, widths, device, found, shape=shape)
    check_passage(network, checked.inputs, widths[-1])
    X, y = checked.inputs.to(layered.dtype), checked.targets.to(layered.dtype)
    job = _Job(chosen, X, y, found, weight_decay / checked.samples, min(batch_size, len(X)), random_state)
    if seconds is not None:
        require_positive(seconds=seconds)
        steps = max(1, round(PROBE_STEPS * seconds / _probe(job, network, chosen.learning_rates[0])))
    elif steps is None:
        steps = max(STEPS, EPOCHS * math.ceil(len(X) / batch_size))
    rates = chosen.learning_rates if learning_rates is None else learning_rates
    began = time.process_time()
    parts = _hold_out(job) if len(rates) > 1 else None
    rate = rates[0] if parts is None else _choose_rate(*parts, network, rates, steps // 4)
    searched = 0.0 if parts is None else time.process_time() - began

    def measure() -> dict[str, float]:
        with torch.no_grad():
            test_output = None if tested is None else _output(network, tested.inputs.to(X))
            figures = figures_of(_output(network, X).to(finest(X.device)), test_output, checked, tested)
        weights = [layer.weight.detach().to(finest(X.device)) for layer in layered.maps]
        return with_penalty(figures, weight_decay / 2 * sum(float((weight**2).sum()) for weight in weights))

    spent, trace = job.descend(network, rate, steps, measure if measurements else None, measurements)
    chosen_how = "not chosen among others"
    if parts is not None:
        candidates = ", ".join(f"{rate:g}" for rate in rates)
        chosen_how = f"chosen among {candidates} on a held-out fifth of the training data"
    whole = "with all samples" if job.batch_size == len(X) else f"of {job.batch_size} samples"
    return {
        "name": chosen.name,
        **measure(),
        "cpu_seconds": searched + spent,
        "search_seconds": searched,
        "learning_rate": rate,
        "steps": steps,
        "note": f"same network, start, split and objective; {steps} steps {whole}; learning rate {rate:g}, "
        f"{chosen_how}",
        **({"trace": trace} if measurements else {}),
    }


@dataclass(frozen=True)
class _Job:
    """What all descents of one training share; `decay` is the weight decay divided by the number of samples."""

    method: GradientMethod
    inputs: Tensor
    targets: Tensor
    loss: Loss
    decay: float
    batch_size: int
    random_state: int

    def descend(
        self, network: nn.Module, rate: float, steps: int, measure: Callable[[], dict[str, float]] | None = None,
        measurements: int = 0,
    ) -> tuple[float, list[dict[str, float]]]:  # fmt: skip
        """Descend on the objective divided by the number of samples; the CPU seconds spent, and the figures on the way.

        Measurements are equally far apart, the first before any step; their time is not counted.
        """
        X, y = self.inputs, self.targets
        weights = [layer.weight for layer in read_network(network, dense=False).maps]
        optimizer = self.method.optimizer(network, rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps))
        generator = torch.Generator().manual_seed(self.random_state)
        due = {round(steps * place / measurements) for place in range(measurements + 1)} if measure else set()
        batches: list[Tensor] = []
        trace: list[dict[str, float]] = []
        spent, began = 0.0, time.process_time()
        for step in range(steps + 1):
            if measure and step in due:
                spent += time.process_time() - began
                trace.append({"steps": step, "cpu_seconds": spent, **measure()})
                began = time.process_time()
            if step == steps:
                break
            if not batches:
                batches = list(torch.randperm(len(X), generator=generator).to(X.device).split(self.batch_size))
            rows = batches.pop()
            optimizer.zero_grad()
            output, wanted = _in_loss(network(X[rows]), y[rows])
            fit = self.loss.values(output, wanted).mean()
            (fit + self.decay / 2 * sum((weight**2).sum() for weight in weights)).backward()
            optimizer.step()
            schedule.step()
        return spent + time.process_time() - began, trace


def _output(network: nn.Module, inputs: Tensor) -> Tensor:
    # In parts: the pictures between the layers of all samples at once would take much memory.
    return torch.cat([network(part) for part in inputs.split(MEASURED_AT_ONCE)])


def _in_loss(output: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Without the nodes of graphs that are not in the loss: they have NaN as targets."""
    if wanted.ndim < 3:
        return output, wanted
    known = ~wanted.isnan().any(-1)
    return output[known], wanted[known]


def _probe(job: _Job, network: nn.Module, rate: float) -> float:
    """CPU seconds of some steps: the fastest of a few runs, so that other work on the machine costs no steps."""
    return min(max(job.descend(copy.deepcopy(network), rate, PROBE_STEPS)[0], 1e-6) for _ in range(PROBES))


def _hold_out(job: _Job) -> tuple[_Job, _Job] | None:
    """The job without a fifth of its samples, and with these alone: of one graph, labelled nodes; None if it has none.

    Nodes that are not in the loss have NaN as targets.
    """
    X, y = job.inputs, job.targets
    one_graph = y.ndim == 3 and len(X) == 1
    places = (~y[0].isnan().any(-1)).nonzero()[:, 0] if one_graph else torch.arange(len(X), device=X.device)
    if len(places) < 2:
        return None
    order = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(job.random_state)).to(X.device)]
    held = max(1, round(HELD_OUT * len(places)))
    parts = []
    for rows in (order[held:], order[:held]):
        if one_graph:
            targets = torch.full_like(y, math.nan)
            targets[0, rows] = y[0, rows]
            parts.append(replace(job, targets=targets))
        else:
            parts.append(replace(job, inputs=X[rows], targets=y[rows]))
    return parts[0], parts[1]


def _choose_rate(inside: _Job, outside: _Job, network: nn.Module, rates: tuple[float, ...], steps: int) -> float:
    """The rate with the least loss on the held-out part; a diverged trial is never chosen."""
    losses = {}
    for rate in rates:
        trial = copy.deepcopy(network)
        inside.descend(trial, rate, steps)
        with torch.no_grad():
            value = float(outside.loss.values(*_in_loss(trial(outside.inputs), outside.targets)).sum())
        losses[rate] = value if math.isfinite(value) else math.inf
    return min(losses, key=lambda rate: losses[rate])


def figures_of(
    output: Tensor, test_output: Tensor | None, checked: TrainingData, tested: TrainingData | None
) -> dict[str, float]:
    """Loss and scores of network outputs on the training data and, where there are some, on the test data."""
    values = checked.loss.values(checked.in_loss(output), checked.in_loss(checked.targets))
    figures = {"true_loss": float(values.sum())}
    figures |= {f"train_{name}": value for name, value in checked.score(output).items()}
    if tested is not None and test_output is not None:
        figures |= {f"test_{name}": value for name, value in tested.score(test_output).items()}
    return figures


def with_penalty(figures: dict[str, float], penalty: float) -> dict[str, float]:
    """The figures with the penalty and the objective, its sum with the loss."""
    loss = figures.pop("true_loss")
    return {"true_loss": loss, "penalty": penalty, "objective": loss + penalty, **figures}
