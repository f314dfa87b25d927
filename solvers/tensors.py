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


def _is_plain(values: Tensor) -> bool:
    return values.dtype == torch.float64 and not values.requires_grad


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
        # Itself where nothing has to change: engines may know it again (ridge keeps the factor of its inputs).
        return values if _is_plain(values) else values.detach().to(torch.float64)
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


def times_own(matrices: Tensor, rows: Tensor) -> Tensor:
    """Every matrix times its own row: (batch, m, n) and (batch, n) -> (batch, m); a batch of 1 stands for any."""
    if matrices.device.type != "cpu" or matrices.requires_grad or rows.requires_grad:
        return (matrices @ rows[..., None])[..., 0]
    # On a CPU numpy is up to seven times quicker: torch hands single columns to a routine for matrices.
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.matmul(matrices.numpy(), rows.numpy()[..., None])[..., 0])


def gram_own(matrices: Tensor) -> Tensor:
    """``S'S`` of every matrix, (batch, m, n) -> (batch, n, n)."""
    plain = matrices.device.type == "cpu" and not matrices.requires_grad
    if not plain or torch.get_num_threads() > 1:
        return matrices.mT @ matrices
    # numpy sees that the product is symmetric and saves half the operations, but has one thread for a batch.
    with np.errstate(all="ignore"):
        array = matrices.numpy()
        return torch.from_numpy(np.matmul(array.swapaxes(-1, -2), array))
