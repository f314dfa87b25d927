"""Training by target blocks: mini-batches, one majorize-minimize step of every layer's block, momentum, cosine steps.

The steps are in target_steps.py, and the convex program of a step in formulations/target_blocks.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.losses import Loss
from ..formulations.target_blocks import TargetBlocks, require_lipschitz
from ..formulations.waiting import read_floats
from .devices import finest, require_double
from .history import History
from .layer_files import describe_layers
from .layer_pass import LayerPass, layer_output
from .layered import check_passage, read_network
from .safeguards import all_finite
from .target_steps import StepRule, Training, prepare_first_layer, run_sweep, start_training
from .training_data import TrainingData, prepare, prepare_validation
from .training_run import Event, check_goal, check_weights, first_record, network_settings, run_sweeps

SHORTER, UNDONE_PATIENCE = 0.25, 8
MEASURED_AT_ONCE = 5000


def fit_targets(
    network: nn.Module,
    data: tuple[Any, Any],
    method: TargetBlocks | None = None,
    *,
    loss: str | Loss | None = None,
    task: str | None = None,
    weight_decay: float = 0.1,
    sweeps: int = 30,
    time_limit: float | None = None,
    validation: tuple[Any, Any] | None = None,
    random_state: int = 0,
    out: str | Path | None = None,
    notes: dict[str, Any] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> History:
    """Train a network by target blocks; afterwards it is an ordinary trained torch module.

    The objective is that of `fit`: the SUM of the loss over samples plus (weight_decay / 2) times the sum of squares of
    all weights (not biases). It may rise in a sweep, as mini-batches let it.

    Parameters
    ----------
    network : torch.nn.Sequential
        Linear layers with known activations between them, or Conv2d or GraphConvolution layers, with AvgPool2d, Flatten
        and Unflatten between an activation and the next layer; its present weights are the start.
    data : pair of arrays
        X of shape (samples, features) and y: labels 0, 1, ..., K-1, or real targets (samples,) or (samples, outputs).
        Pictures: X (samples, channels, height, width). Graphs: X (nodes, features) or (graphs, nodes, features), and y
        with a label for each node, -1 where it is not in the loss (real targets: NaN); the sum is over labelled nodes,
        and mini-batches are made of graphs.
    method : TargetBlocks, optional
        Step, proximity, momentum, batch size, and whether blocks are solved exactly.
    loss, task, weight_decay : str, str, float
        As for `fit`.
    sweeps : int
        Passes over the data; the steps fall to zero along a cosine over all of them.
    time_limit : float, optional
        Stop after the sweep that passes this many seconds, wherever the cosine is then.
    validation : pair of arrays, optional
        Test data, measured after each sweep and never used for training.
    random_state : int
        Seed of the mini-batches.
    out, notes, on_event
        As for `fit`; the one event is ``"sweep"``.

    Returns
    -------
    History
        Its records hold the true training loss of the network, and no lifted values. `step` is 0 for a sweep that ended
        above the untrained network and was undone, else the fraction to which such sweeps have shortened the steps.
        `cpu_seconds` counts the steps, not the measurements between sweeps. An interrupt (Ctrl-C) ends training after
        the last complete sweep.

    Raises
    ------
    UsageError
        If the network, the data or a setting cannot be used; nothing is changed or written then.

    Examples
    --------
    >>> import numpy as np
    >>> from convexblocks.solvers import build_network
    >>> X = np.linspace(-1, 1, 100)[:, None]
    >>> history = fit_targets(build_network((1, 8, 1), "tanh", random_state=0), (X, abs(X)), sweeps=20)
    >>> history.last["true_loss"] < history.records[0]["true_loss"] / 2
    True
    """
    return train_in_steps(
        network, data, TargetBlocks() if method is None else method, TOWARDS_TARGETS, loss=loss, task=task,
        weight_decay=weight_decay, sweeps=sweeps, time_limit=time_limit, validation=validation,
        random_state=random_state, out=out, notes=notes, on_event=on_event,
    )  # fmt: skip


def _slopes(training: Training, passed: LayerPass, samples: float) -> list[Tensor]:
    """The targets are phi(u) - G: what is left of the activations are the slopes."""
    return passed.slopes


TOWARDS_TARGETS = StepRule(_slopes)

def train_in_steps(
    network: nn.Module, data: tuple[Any, Any], method: TargetBlocks, rule: StepRule, *, loss: str | Loss | None,
    task: str | None, weight_decay: float, sweeps: int, time_limit: float | None, validation: tuple[Any, Any] | None,
    random_state: int, out: str | Path | None, notes: dict[str, Any] | None, on_event: Callable[[Event], None] | None,
) -> History:  # fmt: skip
    """The run of a method that trains by steps in mini-batches; arguments, returned value and errors of `fit_targets`.

    Parameters
    ----------
    rule : StepRule
        What the steps of the method are made of.
    """
    check_goal(
        weight_decay=weight_decay, sweeps=sweeps, time_limit=time_limit, random_state=random_state, notes=notes
    )  # fmt: skip
    layered = read_network(network, dense=False)
    if method.exact:
        require_double(layered.device, "exact blocks are solved")
    check_weights(layered)
    if not rule.plain:
        require_lipschitz(layered.activations)
    widths, device, shape = layered.widths, layered.device, layered.input_shape
    checked = prepare(data, widths, device, loss=loss, task=task, shape=shape)
    tested = None if validation is None else prepare_validation(validation, widths, device, checked.loss, shape=shape)
    check_passage(network, checked.inputs, widths[-1])
    architecture = layered.architecture(checked.loss, float(weight_decay))
    history = History({
        "method": method.name, "formulation": asdict(method), **network_settings(layered, architecture, checked.loss),
        "sweeps": sweeps, "time_limit": time_limit, "batch_size": min(method.batch_size, len(checked.inputs)),
        "random_state": random_state, "samples": checked.samples,
    })  # fmt: skip
    if (layers := describe_layers(network)) is not None:
        history.settings["layers"] = layers
    training = start_training(layered, architecture, method, rule, checked, history.settings["batch_size"], sweeps)
    history.records.append(first_record(measure(training, checked, tested)))
    generator = torch.Generator().manual_seed(random_state)
    run_sweeps(
        history, lambda sweep: sweep_weights(training, checked, tested, history, generator, sweep), training.copies,
        stop_reason=lambda: undone_reason(history), time_limit=time_limit, emit=on_event,
        run=(out, network, checked, notes),
    )  # fmt: skip
    return history


def sweep_weights(
    training: Training, data: TrainingData, tested: TrainingData | None, history: History, generator: torch.Generator,
    sweep: int,
) -> tuple[dict[str, Any], float]:  # fmt: skip
    """One sweep of the weights, undone where it ends above the untrained network: its record, and its CPU seconds.

    Where other blocks have left the objective above it, for less of a price that is not in the objective, the sweep is
    undone where it ends above that.
    """
    before = time.process_time()
    if sweep == 1 and training.majorizes:
        prepare_first_layer(training, generator)
    start = [layer.packed.clone() for layer in training.layers]
    run_sweep(training, generator)
    sound = all_finite([layer.packed for layer in training.layers])
    seconds = time.process_time() - before
    figures = measure(training, data, tested) if sound else {}
    ceiling = max(history.records[0]["objective"], history.last["objective"])
    if not (sound and figures["objective"] <= ceiling):
        figures = _undo(training, start, history)
    training.network.write(training.weights(), training.biases())
    return {"step": training.shortening, **figures}, seconds


def undone_reason(history: History) -> str:
    """Why training ends where its last sweeps were all undone; empty where they were not."""
    if [record.get("step") for record in history.records[-UNDONE_PATIENCE:]] == [0.0] * UNDONE_PATIENCE:
        return f"{UNDONE_PATIENCE} sweeps in a row were undone, with ever shorter steps; take another activation"
    return ""


def _undo(training: Training, start: list[Tensor], history: History) -> dict[str, Any]:
    """Put the weights before a sweep back, and shorten the steps to come; the record of the sweep has step 0.

    Targets are made for each layer as if the others stood still. Where they do not, steps of any fixed size can be too
    long; a sweep that ends above the untrained network has left the region where they make sense.
    """
    for layer, packed in zip(training.layers, start, strict=True):
        layer.packed = packed
        layer.move.zero_()
    # Activations that overflowed would stay in the averages.
    for layer in training.layers[1:]:
        layer.gram.zero_()
    training.grams = 0
    training.shortening *= SHORTER
    return {key: value for key, value in history.last.items() if key not in ("sweep", "cpu_seconds")} | {"step": 0.0}


def measure(training: Training, data: TrainingData, tested: TrainingData | None) -> dict[str, Any]:
    """Figures of the network as deployed: its forward pass in its own dtype on the training and the test data."""
    network, architecture = training.network, training.architecture
    weights, biases = training.weights(), training.biases()

    def output(inputs: Tensor) -> Tensor:
        # In parts: the patches and the pictures of all samples at once would take much memory.
        passed = [
            layer_output(network.maps, architecture.activations, weights, biases, part.to(network.dtype))
            for part in inputs.split(MEASURED_AT_ONCE)
        ]
        return torch.cat(passed).to(finest(inputs.device))

    trained = output(data.inputs)
    loss, *squares = read_floats([
        data.loss.values(data.in_loss(trained), data.in_loss(data.targets)).sum(),
        *((weight.to(finest(weight.device)) ** 2).sum() for weight in weights),
    ])
    decay = architecture.weight_decay / 2 * sum(squares)
    figures = {"true_loss": loss, "penalty": decay, "objective": loss + decay}
    figures |= {f"train_{name}": value for name, value in data.score(trained).items()}
    if tested is not None:
        figures |= {f"test_{name}": value for name, value in tested.score(output(tested.inputs)).items()}
    return figures
