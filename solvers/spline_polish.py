"""polish: one convex pass over the splines of a trained network, which never raises the loss.

The block of a layer is that of formulations/spline_blocks.py: with the gradient G of the loss in the outputs v of the
activations, and the diagonal D of the Gauss-Newton matrix in them,

    minimize  1/2 sum_i D_ij (f_j(u_ij) - v_ij + G_ij / D_ij)^2  +  penalty TV2(f_j)     subject to the bounds,

for all channels j at once, by `fit_splines` on the knots of the module. That its solution lowers the loss of the
network is not known before: the layer goes towards it as far as the loss, penalty included, falls the most, or stays.
In `polish` the loss alone may not rise either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..formulations.losses import Loss, find_loss
from .spline_activation import SplineActivation, tv2_penalty
from .splines import SplineFit, fit_splines

HALVINGS = 10
TOLERANCE = 1e-5
"""Relative gap asked of a fit; what it gives is tried on the network anyway."""
DAMPING = 1e-3
"""What is added to the curvature of every sample, as a fraction of their mean: samples that are fitted have none."""


@dataclass(frozen=True)
class Refit:
    """What became of a layer of splines.

    Attributes
    ----------
    before, after : float
        Loss and penalty of the network.
    fraction : float
        How far the layer went towards the solution of its block: 1, 1/2, 1/4, ..., or 0.
    gap : float
        Largest relative gap of the fits; NaN where the outputs of the layer had no influence and nothing was fitted.
    """

    before: float
    after: float
    fraction: float
    gap: float


def polish(
    network: nn.Sequential, data: tuple[Tensor, Tensor], *, loss: str | Loss = "squared", penalty: float = 1e-3
) -> dict[str, Any]:
    """Fit every spline activation anew, in order, and keep what lowers the loss with its penalty, and raises neither.

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
        ``"before"`` and ``"after"``, loss and penalty of the network; ``"accepted"``, of each activation, the fraction
        of the way to the solution of its block that was taken, or None.

    Raises
    ------
    UsageError
        If the network has no spline activation, or the targets do not have the shape of its outputs.
    """
    measured = find_loss(loss)
    # A slice of a subclass would call its constructor.
    network = nn.Sequential(*network)
    places = [place for place, module in enumerate(network) if isinstance(module, SplineActivation)]
    if not places:
        raise UsageError("the network has no SplineActivation in its sequence; expected one or more: see networks.")
    with _evaluating(network):
        _check_targets(network, data)
        refits = [refit_layer(network, place, data, loss=measured, penalty=penalty, trade=False) for place in places]
    accepted = [refit.fraction or None for refit in refits]
    return {"before": refits[0].before, "after": refits[-1].after, "accepted": accepted}


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: dropout draws anew in every pass, and batch norm goes on averaging."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _check_targets(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        made = network(data[0]).shape
    if data[1].shape != made:
        raise UsageError(
            f"the targets have shape {tuple(data[1].shape)}; expected {tuple(made)}, that of the outputs: reshape "
            "them, and give labels as the loss encodes them (find_loss(...).encode)."
        )


def refit_layer(
    network: nn.Sequential, place: int, data: tuple[Tensor, Tensor], *, loss: Loss, penalty: float,
    positions: Tensor | None = None, trade: bool = True,
) -> Refit:  # fmt: skip
    """Solve the block of one layer of splines and go towards its solution as far as the objective falls the most.

    Parameters
    ----------
    network, data, loss, penalty
        As for `polish`.
    place : int
        Of the SplineActivation in the network.
    positions : Tensor, shape (knots,), optional
        Other knots to move the layer to; it stays on its own ones where the objective does not fall.
    trade : bool
        Whether the loss may rise where the penalty falls by more.
    """
    module: Any = network[place]
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    # A spline that stands in two places changes what comes before the second one too.
    first = next(earlier for earlier, part in enumerate(network) if part is module)
    with torch.no_grad():
        below = network[:first](data[0])
        u = network[first:place](below)

    def figures() -> tuple[float, float]:
        with torch.no_grad():
            total = loss.values(network[first:](below).double(), data[1].double()).sum()
            return float(total), float(total + penalty * tv2_penalty(network))

    limit, before = figures()
    if trade:
        limit = inf

    def objective() -> float:
        found, value = figures()
        return value if found <= limit else inf

    after, fraction, gap = inf, 0.0, nan
    try:
        if positions is not None:
            module.move_knots(positions)
        v, gradient, curvature = _quadratic(network, place, u, data[1], loss)
        if bool(gradient.isfinite().all() & curvature.isfinite().all() & (curvature > 0).all()):
            fit = _fit(module, u, v - gradient / curvature, curvature, penalty)
            gap = float(fit.relative_gap.max())
            after, fraction = _line_search(module, fit, objective)
    finally:
        # Also where a refusal or an interrupt ends it half-way.
        improved = after < before
        if not improved:
            module.load_state_dict(kept)
    return Refit(before, after, fraction, gap) if improved else Refit(before, before, 0.0, gap)


@torch.enable_grad()
def _quadratic(
    network: nn.Sequential, place: int, u: Tensor, targets: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of an activation; the loss's gradient in them, and its damped Gauss-Newton matrix's diagonal."""
    with torch.no_grad():
        v = network[place](u)
    v.requires_grad_()
    # A copy, which a layer that works in place may overwrite.
    output = network[place + 1 :](v.clone())
    (gradient,) = torch.autograd.grad(loss.values(output, targets).sum(), v, retain_graph=True)
    curvature = torch.zeros_like(v)
    for column in _hessian_root(loss, output.detach()).unbind(-1):
        (pulled,) = torch.autograd.grad(output, v, column.contiguous(), retain_graph=True)
        curvature += pulled**2
    return v.detach(), gradient, curvature + DAMPING * curvature.mean()


def _hessian_root(loss: Loss, output: Tensor) -> Tensor:
    """A matrix S of every sample with S S' the Hessian of its loss in the output: (samples, outputs, outputs)."""
    phi = loss.activation
    if not phi.couples_units:
        return torch.diag_embed(phi.slope(output).sqrt())
    p: Tensor = phi.phi(output)
    # S S' = diag(p) - p p', as the p sum to one.
    return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None]


def _fit(module: SplineActivation, u: Tensor, targets: Tensor, weights: Tensor, penalty: float) -> SplineFit:
    """The splines of the block; one column holds the samples of all channels where they share a spline."""
    if module.raw.shape[1] == 1:
        u, targets, weights = (part.reshape(-1, 1) for part in (u, targets, weights))
    bounds = (module.property.low, module.property.high)
    return fit_splines(
        u, targets, module.positions, slopes=bounds, penalty=penalty, weights=weights, tolerance=TOLERANCE
    )  # fmt: skip


def _line_search(module: SplineActivation, fit: SplineFit, objective: Callable[[], float]) -> tuple[float, float]:
    """Leave the module between its splines and those of a fit, where the objective is least: its value, the fraction.

    The fractions 1, 1/2, 1/4, ... are tried until the objective rises again.
    """
    middle, slopes = module.middle.detach().clone(), module.slopes().detach().clone()
    goal = fit.coefficients[len(fit.coefficients) // 2]

    def go(fraction: float) -> float:
        module.set_slopes(middle + fraction * (goal - middle), slopes + fraction * (fit.slopes - slopes))
        return objective()

    best, fraction = inf, 0.0
    for halvings in range(HALVINGS):
        value = go(0.5**halvings)
        if isfinite(best) and not value < best:
            break
        if value < best:
            best, fraction = value, 0.5**halvings
    return go(fraction), fraction
