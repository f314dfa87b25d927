"""Training of networks with learned activations: target blocks for the weights, and spline fits between their sweeps.

See formulations/spline_blocks.py for the two kinds of convex blocks; the fits are those of `polish`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.losses import Loss
from ..formulations.spline_blocks import SplineBlocks
from .checkpoint import prepare_folder
from .devices import require_double
from .history import History
from .layer_files import describe_layers
from .layered import check_passage, read_network
from .spline_activation import SplineActivation, tv2_penalty
from .spline_network import check_splines, learned_activations, moved_knots, read_spline_network, without_splines
from .spline_polish import Refit, refit_layer
from .target_steps import Training, start_training
from .target_training import TOWARDS_TARGETS, measure, sweep_weights, undone_reason
from .training_data import TrainingData, prepare, prepare_validation
from .training_run import Event, check_goal, check_weights, first_record, network_settings, run_sweeps

FITTED = ("spline_steps", "spline_gaps")


def fit_spline_network(
    network: nn.Module,
    data: tuple[Any, Any],
    method: SplineBlocks | None = None,
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
    """Train a network and its activations, which become learned splines; afterwards it is a trained torch module.

    The objective is that of `fit`, the SUM of the loss over samples plus (weight_decay / 2) times the sum of squares of
    all weights (not biases), and the price of the kinks of the splines. It may rise in a sweep of the weights, as
    mini-batches let it, and never in a fit of the splines.

    Parameters
    ----------
    network : torch.nn.Sequential
        Linear layers with activations of single entries between them. Its activations are replaced by
        `SplineActivation` that start as they are: ReLU exactly, others between the knots nearly, and all as near to it
        as the bounds admit. Splines that it has already stay, with their own knots and bounds.
    data : pair of arrays
        X of shape (samples, features) and y: labels 0, 1, ..., K-1, or real targets (samples,) or (samples, outputs).
    method : SplineBlocks, optional
        Knots, bounds and price of the splines, and the settings of target blocks.
    loss, task, weight_decay, sweeps, time_limit, validation, random_state, out, notes, on_event
        As for `fit_targets`.

    Returns
    -------
    History
        As of `fit_targets`: `objective` is loss and weight decay alone, as for all other methods. Beside it stand
        `kink_price`, the price of the kinks, and in sweeps with a pass over the splines `spline_steps`, how far each
        layer went towards the solution of its block, and `spline_gaps`, the largest relative gap of its solution.

    Raises
    ------
    UsageError
        If the network, the data or a setting cannot be used; nothing is changed or written then.

    Examples
    --------
    >>> import numpy as np
    >>> from convexblocks.solvers import build_network
    >>> X = np.linspace(-1, 1, 100)[:, None]
    >>> history = fit_spline_network(build_network((1, 4, 1), "relu", random_state=0), (X, np.sin(6 * X)), sweeps=20)
    >>> history.last["true_loss"] < history.records[0]["true_loss"] / 2
    True
    """
    method = SplineBlocks() if method is None else method
    check_goal(
        weight_decay=weight_decay, sweeps=sweeps, time_limit=time_limit, random_state=random_state, notes=notes
    )  # fmt: skip
    given = read_network(without_splines(network))
    require_double(given.device, "the splines of this method are fitted")
    check_weights(given)
    assert isinstance(network, nn.Sequential)
    check_splines(network)
    widths, device = given.widths, given.device
    checked = prepare(data, widths, device, loss=loss, task=task)
    tested = None if validation is None else prepare_validation(validation, widths, device, checked.loss)
    check_passage(network, checked.inputs, widths[-1])
    trained = _with_splines(network, checked.inputs.to(given.dtype), method)
    layered = read_spline_network(trained)
    architecture = layered.architecture(checked.loss, float(weight_decay))
    history = History({
        "method": method.name, "formulation": asdict(method), **network_settings(layered, architecture, checked.loss),
        "sweeps": sweeps, "time_limit": time_limit, "batch_size": min(method.batch_size, len(checked.inputs)),
        "random_state": random_state, "samples": checked.samples,
    })  # fmt: skip
    if (layers := describe_layers(trained)) is not None:
        history.settings["layers"] = layers
    batch_size = history.settings["batch_size"]
    training = start_training(layered, architecture, method, TOWARDS_TARGETS, checked, batch_size, sweeps)
    history.records.append(first_record(measure(training, checked, tested)))
    history.records[0]["kink_price"] = _kink_price(trained, method)
    if out is not None:
        prepare_folder(Path(out))
    # Replaced only now, where nothing is refused any more; the copies change in a sweep, the network after it.
    for place, module in enumerate(trained):
        if isinstance(module, SplineActivation):
            network[place] = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(random_state)

    def sweep_once(sweep: int) -> tuple[dict[str, Any], float]:
        record, seconds = sweep_weights(training, checked, tested, history, generator, sweep)
        # A sweep that was undone has the figures of the one before it.
        record = {key: value for key, value in record.items() if key not in FITTED}
        if (sweeps - sweep) % method.every == 0:
            before = time.process_time()
            refits = _fit_splines(trained, training, checked)
            training.architecture = replace(architecture, activations=read_spline_network(trained).activations)
            seconds += time.process_time() - before
            steps, gaps = [refit.fraction for refit in refits], [refit.gap for refit in refits]
            record |= measure(training, checked, tested) | dict(zip(FITTED, (steps, gaps), strict=True))
        record |= {"kink_price": _kink_price(trained, method)}
        for own, found in zip(network, trained, strict=True):
            own.load_state_dict(found.state_dict())
        return record, seconds

    run_sweeps(
        history, sweep_once, training.copies, stop_reason=lambda: undone_reason(history), time_limit=time_limit,
        emit=on_event, run=(out, network, checked, notes),
    )  # fmt: skip
    return history


def _with_splines(network: nn.Sequential, inputs: Tensor, method: SplineBlocks) -> nn.Sequential:
    """A copy of the network with learned activations."""
    learned = learned_activations(network, inputs, method)
    modules = [learned.get(place, module) for place, module in enumerate(network)]
    return copy.deepcopy(nn.Sequential(*modules))


def _fit_splines(trained: nn.Sequential, training: Training, data: TrainingData) -> list[Refit]:
    """The blocks of all layers of splines, in order; their knots follow the pre-activations where that helps."""
    method, dtype = training.method, training.network.dtype
    assert isinstance(method, SplineBlocks)
    pair = (data.inputs.to(dtype), data.targets.to(dtype))
    refits = []
    for place, module in enumerate(trained):
        if not isinstance(module, SplineActivation):
            continue
        with torch.no_grad():
            positions = moved_knots(module, trained[:place](pair[0]))
        refit = refit_layer(trained, place, pair, loss=data.loss, penalty=method.tv2, positions=positions)
        if positions is not None and not refit.fraction:
            refit = refit_layer(trained, place, pair, loss=data.loss, penalty=method.tv2)
        refits.append(refit)
    return refits


def _kink_price(trained: nn.Sequential, method: SplineBlocks) -> float:
    with torch.no_grad():
        return method.tv2 * float(tv2_penalty(trained))
