"""The last layer of any torch module, refitted exactly while the layers below it stay as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..formulations.errors import UsageError
from ..formulations.losses import Loss
from ..formulations.subproblem import require_size
from .monotone_layer import LayerFit, fit_layer


def frozen_features(module: nn.Module, X: Any, *, batch_size: int = 1000) -> Tensor:
    """What the last Linear layer of a module reads: the layers below it in evaluation mode, without gradients.

    Parameters
    ----------
    module : torch.nn.Module
        Any module that calls its last `nn.Linear` once on rows (samples, features); it is left as it was.
    X : array, shape (samples, ...)
        Inputs of the module.
    batch_size : int
        Samples that pass together.

    Returns
    -------
    Tensor, shape (samples, features)
        In float64, on the device of the module.

    Raises
    ------
    UsageError
        If the module has no Linear layer, does not call its last one once, or gives it no rows.
    """
    require_size(batch_size=batch_size)
    last = last_linear(module)
    inputs = torch.as_tensor(X).to(last.weight)
    seen: list[Tensor] = []
    training = [part for part in module.modules() if part.training]
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        module.eval()
        with torch.no_grad():
            for part in inputs.split(batch_size):
                module(part)
    finally:
        hook.remove()
        for part in training:
            part.training = True
    rows = sum(len(part) for part in seen if part.ndim == 2)
    if rows != len(inputs) or any(part.ndim != 2 for part in seen):
        shapes = [tuple(part.shape) for part in seen[:2]]
        raise UsageError(
            f"the last Linear layer ({last}) read arrays of shapes {shapes} for {len(inputs)} samples; expected one "
            "row for each sample: flatten what comes before it, and call it once."
        )
    return torch.cat(seen).double()


def refit_last_layer(
    module: nn.Module,
    data: tuple[Any, Any],
    *,
    loss: str | Loss = "softmax_cross_entropy",
    radius: float | None = None,
    weight_decay: float = 0.0,
    outputs: int | None = None,
    batch_size: int = 1000,
) -> LayerFit:
    """Replace the weights of a module's last Linear layer by the exact solution of its variational inequality.

    The layers below are frozen; the classes may be new ones, of another number. The objective is the SUM of the loss
    over samples plus (weight_decay / 2) times the sum of squares of the weights of this layer (not its biases).

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place: its last `nn.Linear` has new weights, and as many outputs as y needs.
    data : pair of arrays
        X, what the module reads, and y: labels 0, 1, ..., K-1 or real targets.
    loss : str or Loss
        The training loss, which reads the outputs of the layer directly.
    radius, weight_decay, outputs
        As for `fit_layer`; one of the first two is needed.
    batch_size : int
        Samples that pass the frozen layers together.

    Returns
    -------
    LayerFit

    Raises
    ------
    UsageError
        As `frozen_features` and `fit_layer`; the module is unchanged then.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> X = torch.linspace(-1, 1, 40)[:, None]
    >>> found = refit_last_layer(network, (X, (X[:, 0] > 0.2).int() + 2 * (X[:, 0] > 0.6).int()), weight_decay=1e-3)
    >>> network[2].out_features, found.operator_residual < 1e-8
    (4, True)
    """
    last = last_linear(module)
    X, y = data
    found = fit_layer(
        frozen_features(module, X, batch_size=batch_size), y, loss, radius=radius, weight_decay=weight_decay,
        bias=last.bias is not None, outputs=outputs,
    )  # fmt: skip
    last.out_features = len(found.weight)
    last.weight = nn.Parameter(found.weight.to(last.weight), requires_grad=last.weight.requires_grad)
    if last.bias is not None and found.bias is not None:
        last.bias = nn.Parameter(found.bias.to(last.bias), requires_grad=last.bias.requires_grad)
    return found


def last_linear(module: nn.Module) -> nn.Linear:
    """The last Linear layer of a module, in the order of its parts.

    Raises
    ------
    UsageError
        If there is none.
    """
    linears = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not linears:
        raise UsageError(
            f"the module {type(module).__name__} has no Linear layer; expected one at its end, to be "
            "refitted."
        )
    return linears[-1]
