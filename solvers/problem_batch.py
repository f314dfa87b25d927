"""The parameters of a batch of problems: checked, and told apart into what varies and what is shared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..formulations.errors import UsageError
from .canonical import Canonical
from .parametrized import check_parameters
from .shared_matrix import span
from .tensors import as_tensor, one_device


@dataclass(frozen=True)
class Batch:
    """Checked parameters of a batch.

    Attributes
    ----------
    values : dict of Tensor
        Parameter name -> values, batch axis first where they vary.
    batched : tuple of str
        Names of those that vary.
    size : int
        Number of instances; 1 where nothing varies.
    device : torch.device
    """

    values: dict[str, Tensor]
    batched: tuple[str, ...]
    size: int
    device: torch.device

    def own(self, places: Tensor) -> dict[str, Tensor]:
        """The parameters that vary, of some instances."""
        chosen = span(places)
        return {name: self.values[name][chosen] for name in self.batched}

    @property
    def shared(self) -> dict[str, Tensor]:
        """The parameters that the whole batch shares."""
        return {name: values for name, values in self.values.items() if name not in self.batched}


def check_batch(form: Canonical, parameters: Mapping[str, Any]) -> Batch:
    """Check the parameters of a batch.

    Raises
    ------
    UsageError
        For missing or unknown names, shapes that fit neither one instance nor a batch, batches of different lengths,
        NaN or infinite values, or values that miss the attributes of their parameter.
    """
    known = form.parameters
    wrong = [f"unexpected {name!r}" for name in parameters if name not in known]
    wrong += [f"missing {name!r}" for name in known if name not in parameters]
    if wrong:
        unnamed = any(re.fullmatch(r"param\d+", name) for name in known)
        raise UsageError(
            f"{', '.join(wrong)}; expected the parameters {', '.join(map(repr, known)) or '(none)'}"
            + (": name them, cp.Parameter(..., name='p')." if unnamed else ".")
        )
    device = one_device("parameters", parameters)
    values = {name: as_tensor(f"the parameter {name!r}", parameters[name], device) for name in known}
    batched: list[str] = []
    for name, value in values.items():
        if _is_batched(name, tuple(value.shape), known[name].shape):
            batched.append(name)
            first = values[batched[0]]
            if len(value) != len(first):
                raise UsageError(
                    f"the parameter {name!r} has {len(value)} instances and {batched[0]!r} has {len(first)}; expected "
                    f"as many, or one value of shape {known[name].shape} for all."
                )
        # A finite sum is quicker to see; only where it is not, is every entry looked at.
        if not bool(value.sum().isfinite()) and not bool(value.isfinite().all()):
            bad = int((~value.isfinite()).nonzero()[0, 0]) if name in batched else None
            where = "" if bad is None else f" in instance {bad}"
            raise UsageError(f"the parameter {name!r} holds NaN or infinite values{where}; expected finite numbers.")
    check_parameters(form, values, {name: name in batched for name in values})
    size = len(values[batched[0]]) if batched else 1
    return Batch(values, tuple(batched), size, device)


def _is_batched(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    if shape == expected:
        return False
    if shape[1:] == expected and shape[0] > 0 and len(shape) == len(expected) + 1:
        return True
    raise UsageError(
        f"the parameter {name!r} has shape {shape}; expected {('batch', *expected)} where it varies, "
        f"or {expected} where all instances share it."
    )
