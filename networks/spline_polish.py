"""polish: one convex pass over the spline activations of a trained network, which never raises the loss.

The channels of an activation act together on the loss, and through the layers after it. So each is fitted by itself to
a target, a step of gradient descent on its own outputs from where they are,

    v = f(u) - step * dloss/df(u),

by `fit_splines` on the knots and with the bounds of the module. The fit is a convex program with a verified gap; that
it lowers the loss of the network is not known before, so it is tried: with the first of several steps for which the
loss of the whole network, penalty included, falls, the channels are taken over; with none they stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..formulations.losses import Loss, find_loss
from ..solvers.splines import fit_splines
from .spline_activation import SplineActivation, tv2_penalty

STEPS = (4.0, 1.0, 0.25, 0.06)


def polish(
    network: nn.Sequential, data: tuple[Tensor, Tensor], *, loss: str | Loss = "squared", penalty: float = 1e-3
) -> dict[str, Any]:
    """Fit every spline activation anew, in order, and keep what lowers the loss.

    Parameters
    ----------
    network : torch.nn.Sequential
        Of linear layers and spline activations; changed in place.
    data : pair of Tensor
        Inputs (samples, features) and targets as the loss encodes them, (samples, outputs).
    loss : str or Loss
        See `formulations.losses`; a SUM over samples.
    penalty : float
        Price of the kinks of all activations.

    Returns
    -------
    dict
        ``"before"`` and ``"after"``, loss and penalty of the network; ``"accepted"``, of each activation, the step
        that was taken, or None.

    Raises
    ------
    UsageError
        If the network has no spline activation.
    """
    measured, (X, y) = find_loss(loss), data
    places = [place for place, module in enumerate(network) if isinstance(module, SplineActivation)]
    if not places:
        raise UsageError("the network has no SplineActivation in its sequence; expected one or more: see networks.")

    def objective() -> float:
        with torch.no_grad():
            return float(measured.values(network(X), y).sum() + penalty * tv2_penalty(network))

    before = best = objective()
    accepted: list[float | None] = []
    for place in places:
        module: Any = network[place]
        u, gradient, curvature = _pull(network, place, X, y, measured)
        start, kept = module.state_dict(), None
        start = {name: value.clone() for name, value in start.items()}
        for step in STEPS:
            _refit(module, u, gradient, curvature / step, penalty)
            value = objective()
            if value < best:
                best, kept = value, step
                break
            module.load_state_dict(start)
        accepted.append(kept)
    return {"before": before, "after": best, "accepted": accepted}


def _pull(network: nn.Sequential, place: int, X: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of an activation, the gradient of the loss at its outputs, and how strongly each channel is coupled."""
    with torch.no_grad():
        u = network[:place](X)
    v = network[place](u).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss.values(network[place + 1 :](v), y).sum(), v)
    following = next((module for module in network[place + 1 :].children() if isinstance(module, nn.Linear)), None)
    W = torch.ones(1, v.shape[1]) if following is None else following.weight.detach()
    # |W|_2^2 bounds the curvature of the squared loss of a linear layer; that of a channel lies below.
    return u, gradient, torch.linalg.matrix_norm(W, 2) ** 2


def _refit(module: SplineActivation, u: Tensor, gradient: Tensor, curvature: Tensor, penalty: float) -> None:
    """Take curvature/2 |f(u) - f_old(u) + gradient / curvature|^2 + penalty TV2 for the loss, and minimize it."""
    with torch.no_grad():
        wanted = module(u) - gradient / curvature
    shared = module.raw.shape[1] == 1
    inputs, targets = (part.reshape(-1, 1) if shared else part for part in (u, wanted))
    bounds = (module.property.low, module.property.high)
    scale = float(curvature)
    fit = fit_splines(inputs, targets, module.positions, slopes=bounds, penalty=penalty / scale, tolerance=1e-6)
    module.set_slopes(fit.coefficients[0], fit.slopes)
