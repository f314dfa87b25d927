"""Arrays of the user as float64 tensors on one device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..formulations.errors import UsageError


def one_device(what: str, data: Mapping[str, Any]) -> torch.device:
    """The one device of the tensors among the data; numpy arrays go there (the CPU where there are no tensors).

    Raises
    ------
    UsageError
        If they are on several devices.
    """
    devices = {value.device for value in data.values() if isinstance(value, Tensor)}
    if len(devices) > 1:
        seen = ", ".join(sorted(map(str, devices)))
        raise UsageError(f"{what}: the data are on several devices ({seen}); expected one: move them.")
    return devices.pop() if devices else torch.device("cpu")


def as_tensor(what: str, values: Any, device: torch.device) -> Tensor:
    """Real numbers as a detached float64 tensor on a device.

    Raises
    ------
    UsageError
        For other types, or a tensor on another device.
    """
    if isinstance(values, Tensor):
        if values.device != device:
            raise UsageError(f"{what} is on {values.device}, but the data are on {device}; move it there.")
        if values.layout != torch.strided:
            raise UsageError(f"{what} is a sparse tensor; expected a dense one: values.to_dense().")
        if values.is_complex():
            raise UsageError(f"{what} has type {values.dtype}; expected real numbers.")
        return values.detach().to(torch.float64)
    if np.ma.is_masked(values):
        raise UsageError(f"{what} has masked entries; expected all numbers: fill them in first.")
    try:
        array = np.asarray(values)
    except ValueError as refusal:
        raise UsageError(f"{what} cannot be read as an array ({refusal}); expected rows of one length.") from None
    if array.dtype.kind not in "iubf":
        raise UsageError(f"{what} has type {array.dtype}; expected real numbers.")
    # Copied only where it has to be: torch warns of arrays that cannot be written.
    return torch.as_tensor(np.require(array, np.float64, ["C", "W"]), device=device)
