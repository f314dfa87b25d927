"""Batch normalization with fixed statistics, folded into the layer before it."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ..formulations.errors import UsageError


def fold_batch_norm(network: nn.Sequential) -> nn.Sequential:
    """A network that computes the same without batch normalization.

    In evaluation mode batch normalization is affine, x -> scale * (x - mean) + shift for every channel, and after a
    linear layer the two are one layer with other weights and a bias. That layer is trained in their place, and a weight
    decay is on its weights.

    Parameters
    ----------
    network : torch.nn.Sequential
        A network in evaluation mode; it is left as it is.

    Returns
    -------
    torch.nn.Sequential
        New layers where there was batch normalization, copies of the others.

    Raises
    ------
    UsageError
        If a batch normalization is in training mode, has no statistics, or does not follow a Linear or Conv2d layer.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    >>> fold_batch_norm(network)
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    modules: list[nn.Module] = []
    for place, module in enumerate(network):
        if not isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            modules.append(copy.deepcopy(module))
            continue
        if module.training or module.running_mean is None:
            raise UsageError(
                f"layer {place} ({module}) normalizes by the statistics of each batch; expected fixed ones, with which "
                "it is affine: keep running statistics and call network.eval()."
            )
        before = modules[-1] if modules else None
        if isinstance(before, nn.Conv2d) and isinstance(module, nn.BatchNorm2d):
            modules[-1] = fuse_conv_bn_eval(before, module)
        elif isinstance(before, nn.Linear) and isinstance(module, nn.BatchNorm1d):
            modules[-1] = fuse_linear_bn_eval(before, module)
        else:
            raise UsageError(
                f"layer {place} ({module}) does not follow a layer of its kind; expected BatchNorm2d right after "
                "Conv2d, or BatchNorm1d right after Linear: move it there."
            )
    return nn.Sequential(*modules)
