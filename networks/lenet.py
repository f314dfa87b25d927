"""A convolutional network like LeNet-5, for pictures of 28 x 28 pixels in rows.

Source: LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86, 1998.
"""

from __future__ import annotations

import torch
from torch import nn

from ..formulations.activations import Activation
from ..formulations.errors import UsageError
from ..solvers.layered import activation_module

SIDE = 28


def lenet5(
    classes: int = 10, which: str | Activation = "relu", *, random_state: int, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Two convolutions with average pooling, and three dense layers.

    As in LeNet-5 there are 6 and 16 channels, kernels of 5 x 5 pixels and 120 and 84 hidden units. Unlike there, pixels
    around the picture are zeros, pooling has no weights, every channel of the second convolution reads all six, and the
    outputs are linear. Pictures are rows of 784 pixels, as the data sets of the package have them.

    Parameters
    ----------
    classes : int
        Outputs.
    which : str or Activation
        Activation after each layer but the last.
    random_state : int
        Seed; the global generator is not touched.
    dtype : torch.dtype
        Type of the weights.

    Raises
    ------
    UsageError
        If there is no class, or the activation is unknown.

    Examples
    --------
    >>> import torch
    >>> lenet5(10, random_state=0)(torch.zeros(3, 784)).shape
    torch.Size([3, 10])
    """
    if classes < 1:
        raise UsageError(f"the classes are {classes}; expected 1 or more.")

    def phi() -> nn.Module:
        return activation_module(which)

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(random_state)
        return nn.Sequential(
            nn.Unflatten(1, (1, SIDE, SIDE)),
            nn.Conv2d(1, 6, 5, padding=2, dtype=dtype), phi(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5, dtype=dtype), phi(), nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120, dtype=dtype), phi(),
            nn.Linear(120, 84, dtype=dtype), phi(),
            nn.Linear(84, classes, dtype=dtype),
        )  # fmt: skip
