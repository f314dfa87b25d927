"""Warm starts by the name of the instance: mini-batches find their own past."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from ..formulations.errors import UsageError
from .solution import Solution

State = dict[str, Tensor]


def check_ids(ids: Sequence[Hashable] | None, batch: int) -> tuple[Hashable, ...]:
    """The names of the instances as a tuple; empty where none were given.

    Raises
    ------
    UsageError
        If their number is not that of the instances, or they are not distinct.
    """
    if ids is None:
        return ()
    if not isinstance(ids, Iterable):
        raise UsageError(f"ids is {ids!r}; expected a sequence of names, one for each instance.")
    names = tuple(ids.tolist() if isinstance(ids, Tensor) else ids)
    if len(names) != batch:
        raise UsageError(f"{len(names)} ids were given for {batch} instances; expected one for each.")
    try:
        distinct = len(set(names))
    except TypeError:
        raise UsageError("an id cannot be hashed; expected numbers, strings or tuples.") from None
    if distinct < batch:
        raise UsageError(f"only {distinct} of {batch} ids are distinct; expected a name of its own for each instance.")
    return names


def recall(
    previous: Solution | None, engine: str, ids: tuple[Hashable, ...], batch: int, device: torch.device
) -> tuple[State, Tensor]:
    """The states of the instances in an earlier solution, and which instances have one.

    Returns
    -------
    state : dict of Tensor
        Batch axis first, in the order of the batch; rows without a past are arbitrary. Empty where there is none.
    known : Tensor of bool, shape (batch,)

    Raises
    ------
    UsageError
        If the earlier solution has another number of instances, and ids do not say which are which.
    """
    nothing: State = {}
    if previous is None or previous.engine != engine or not previous.state:
        return nothing, torch.zeros(batch, dtype=torch.bool, device=device)
    if bool(ids) != bool(previous.ids):
        given, lacking = ("this batch", "the warm start") if ids else ("the warm start", "this batch")
        raise UsageError(f"{given} has ids and {lacking} has none; expected ids for both, or for neither.")
    rows = len(next(iter(previous.state.values())))
    if not ids and rows != batch:
        raise UsageError(
            f"the warm start has {rows} instances and this batch {batch}; expected the same instances in the same "
            "order: name them with ids=."
        )
    if ids:
        place = {name: row for row, name in enumerate(previous.ids)}
        places = torch.tensor([place.get(name, -1) for name in ids], device=device)
    else:
        places = torch.arange(batch, device=device)
    state = {name: values.to(device)[places.clamp(min=0)] for name, values in previous.state.items()}
    known = places >= 0
    for values in state.values():
        known = known & values.reshape(batch, -1).isfinite().all(1)
    return (state, known) if bool(known.any()) else (nothing, known)


def remember(previous: Solution | None, engine: str, ids: tuple[Hashable, ...], state: State) -> tuple[
    tuple[Hashable, ...], State
]:  # fmt: skip
    """Names and states to keep: those of this batch, then those of instances met only earlier."""
    if not ids or previous is None or previous.engine != engine or not previous.ids:
        return ids, state
    if not state:
        return previous.ids, dict(previous.state)
    new = set(ids)
    older = [(row, name) for row, name in enumerate(previous.ids) if name not in new]
    # States of another width come from a program of another structure.
    alike = previous.state.keys() == state.keys() and all(
        previous.state[name].shape[1:] == values.shape[1:] for name, values in state.items()
    )
    if not older or not alike:
        return ids, state
    rows = torch.tensor([row for row, _ in older])
    joined = {name: torch.cat([values, previous.state[name][rows.to(previous.state[name].device)].to(values.device)])
              for name, values in state.items()}  # fmt: skip
    return (*ids, *(name for _, name in older)), joined
