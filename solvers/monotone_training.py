"""Training of all layers by monotone variational inequalities: the loop of target blocks with other residuals.

See formulations/monotone_inequality.py for the operator and the convex program of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..formulations.losses import Loss
from ..formulations.monotone_inequality import MonotoneInequality, mirror_residual, monotone_residual, step_length
from .history import History
from .layer_pass import LayerPass
from .target_steps import StepRule, Training
from .target_training import Event, train_in_steps


def fit_monotone(
    network: nn.Module,
    data: tuple[Any, Any],
    method: MonotoneInequality | None = None,
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
    """Train a network by monotone variational inequalities; afterwards it is an ordinary trained torch module.

    The objective is that of `fit`: the SUM of the loss over samples plus (weight_decay / 2) times the sum of squares of
    all weights (not biases). The steps are none of its gradient, and it may rise in a sweep.

    Parameters
    ----------
    network, data
        As for `fit_targets`: dense, convolution and graph convolution layers.
    method : MonotoneInequality, optional
        Convexified or surrogate steps, and their lengths.
    loss, task, weight_decay, sweeps, time_limit, validation, random_state, out, notes, on_event
        As for `fit_targets`; surrogate steps keep their length over all sweeps.

    Returns
    -------
    History
        As of `fit_targets`.

    Raises
    ------
    UsageError
        If the network, the data or a setting cannot be used; nothing is changed or written then. Convexified steps
        refuse activations with slopes above 1.

    Examples
    --------
    >>> import numpy as np
    >>> from convexblocks.solvers import build_network
    >>> X = np.linspace(-1, 1, 100)[:, None]
    >>> history = fit_monotone(build_network((1, 8, 1), "tanh", random_state=0), (X, abs(X)), sweeps=20)
    >>> history.last["true_loss"] < history.records[0]["true_loss"] / 2
    True
    """
    method = MonotoneInequality() if method is None else method
    if method.steps == "surrogate":
        rule = StepRule(_operators, plain=True)
    else:
        # With the weight decay scaled alike, gamma leaves the zeros of the operator where they are.
        rule = StepRule(_residuals, hidden_decay=method.gamma if method.targets == "projected" else 1.0)
    return train_in_steps(
        network, data, method, rule, loss=loss, task=task, weight_decay=weight_decay, sweeps=sweeps,
        time_limit=time_limit, validation=validation, random_state=random_state, out=out, notes=notes,
        on_event=on_event,
    )  # fmt: skip


def _residuals(training: Training, passed: LayerPass, samples: float) -> list[Tensor]:
    """phi(u) - v of every layer, v its target; at the output, where v is the encoded target, its slopes."""
    assert isinstance(training.method, MonotoneInequality)
    gamma, hidden = training.method.gamma, []
    layers = zip(training.architecture.activations, passed.pre_activations, passed.activation_slopes, strict=False)
    for phi, u, slopes in layers:
        if training.method.targets == "mirror":
            hidden.append(mirror_residual(phi, u, slopes, step_length(u, slopes, gamma)))
        else:
            hidden.append(monotone_residual(phi, u, slopes, gamma))
    return [*hidden, passed.slopes[-1]]


def _operators(training: Training, passed: LayerPass, samples: float) -> list[Tensor]:
    """What the surrogate operator multiplies with the rows of every layer."""
    assert isinstance(training.method, MonotoneInequality)
    again = samples if training.method.hidden_average == "twice" else 1
    return [*(slopes / again for slopes in passed.activation_slopes), passed.slopes[-1]]
