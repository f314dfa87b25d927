"""Devices and the precision that they have: blocks are solved in float64, which not every device knows."""

from __future__ import annotations

import torch

from ..formulations.errors import UsageError

WITHOUT_DOUBLE = ("mps",)
"""Types of devices without float64."""


def usable_devices() -> list[str]:
    """Names of the devices of this machine: the processor, NVIDIA (or AMD) GPUs by number, and Apple's GPU."""
    return [
        "cpu",
        *(f"cuda:{place}" for place in range(torch.cuda.device_count())),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]


def require_double(device: torch.device, what: str) -> None:
    """Refuse devices without float64.

    Raises
    ------
    UsageError
        Saying what needs it, and where it can run.
    """
    if device.type in WITHOUT_DOUBLE:
        raise UsageError(
            f"the network is on the device {str(device)!r}, which has no float64, and {what} in float64; expected a "
            "network on 'cpu' or 'cuda': move it with network.to('cpu'), or take the method 'targets', which works in "
            "the network's own precision."
        )


def finest(device: torch.device) -> torch.dtype:
    """The finest floating type of a device, in which losses are summed."""
    return torch.float32 if device.type in WITHOUT_DOUBLE else torch.float64
