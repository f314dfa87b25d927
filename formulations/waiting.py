"""Arrays on devices that work on their own: to read a number off one is to wait for all that was asked of it before."""

from __future__ import annotations

from collections.abc import Sequence

from .activations import Array, library

AT_HAND: tuple[str, ...] = ("cpu",)
"""Devices whose numbers are there as soon as they are asked for."""


def reading_waits(array: Array) -> bool:
    """Whether to read a number of an array is to wait for its device; not so for numpy and the processor.

    Loops then look rarely whether they are done, and go on with masks meanwhile.

    Examples
    --------
    >>> import numpy as np
    >>> reading_waits(np.zeros(3))
    False
    """
    return str(getattr(array, "device", "cpu")).partition(":")[0] not in AT_HAND


def read_floats(numbers: Sequence[Array]) -> list[float]:
    """Numbers on one device as floats, waiting for it once."""
    found: list[float] = library(numbers[0]).stack(list(numbers)).tolist()
    return found
