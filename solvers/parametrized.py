"""Parameters of a batch to its conic programs: the affine maps of a canonical form, applied to all instances.

Parameters given once for the whole batch are folded into the constants first; what then still varies is the only thing
that is computed, and kept, for every instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..formulations.errors import UsageError
from .canonical import Affine, Canonical, ParameterEntry
from .conic_program import ConicProgram
from .matrix import Matrix, OwnEntries
from .shared_matrix import SharedMatrix, span

WORDS = {
    "nonneg": "at least zero", "nonpos": "at most zero", "pos": "above zero", "neg": "below zero",
    "sparsity": "zero outside of its pattern",
}  # fmt: skip
"""What attributes of parameters mean, where their names do not say it."""
CPU = torch.device("cpu")
SLACK = 1e-9
"""How far a parameter may miss a sign or a symmetry, relative to its size: rounding, not an error."""


@dataclass(frozen=True)
class OwnVector:
    """The vector of all batched parameters, (batch, columns), kept in parts as long as one of them is enough."""

    parts: list[Tensor]

    @cached_property
    def whole(self) -> Tensor:
        """The parts side by side: a copy."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)

    def columns(self, chosen: slice | Tensor) -> Tensor:
        """Some columns; a view where they follow each other within a part."""
        if isinstance(chosen, slice):
            first = 0
            for part in self.parts:
                start, stop = chosen.start - first, chosen.stop - first
                if 0 <= start and stop <= part.shape[1]:
                    return part[:, start:stop]
                first += part.shape[1]
        return self.whole[:, chosen]


@dataclass(frozen=True)
class BatchedMap:
    """One affine map with its columns split into those of batched parameters and the rest.

    `places` are the entries that vary, `rows` their rows; `scatter` maps the batched parameters to them. `single` holds
    the column and coefficient of every place, where each has one; no coefficients where they are all ones.
    """

    affine: Affine
    rest: np.ndarray
    places: np.ndarray
    rows: Tensor
    scatter: SharedMatrix
    single: tuple[slice | Tensor, Tensor | None] | None
    layouts: dict[Any, Any] = field(default_factory=dict)

    @staticmethod
    def of(affine: Affine, batched: np.ndarray, device: torch.device) -> BatchedMap:
        """Split a map; `batched` holds the columns of batched parameters."""
        width = affine.map.shape[1]
        rest = np.setdiff1d(np.arange(width), batched)
        # Without parameters in it, a map has its constant column alone.
        own = affine.map[:, batched].tocsr() if width > 1 else affine.map[:, :0].tocsr()
        lengths = np.diff(own.indptr)
        places = np.flatnonzero(lengths)
        if (lengths[places] == 1).all():
            # In the order of the parameters: what varies is then often a view of what the user gave.
            places = places[np.argsort(own.indices[own.indptr[places]], kind="stable")]
        part = own[places].tocoo()
        rows, columns, values = (
            torch.as_tensor(np.asarray(item), device=device)
            for item in (part.row.astype(int), part.col.astype(int), part.data)
        )
        single = None
        if len(rows) == len(places) and bool((torch.diff(rows) == 1).all()):
            single = span(columns), None if bool((values == 1).all()) else values
        where = torch.as_tensor(affine.rows[places], device=device)
        scatter = SharedMatrix(rows, columns, values, (len(places), len(batched)))
        return BatchedMap(affine, rest, places, where, scatter, single)

    def constant(self, vector: np.ndarray) -> np.ndarray:
        """The part of every entry that does not vary."""
        return np.asarray(self.affine.map[:, self.rest] @ vector[self.rest - self.affine.map.shape[1]])

    def varying(self, batched: OwnVector) -> Tensor:
        """The part that varies, (batch, places), of the batched parameters."""
        if self.single is None:
            return self.scatter.times(batched.whole)
        columns, coefficients = self.single
        values = batched.columns(columns)
        return values if coefficients is None else values * coefficients


@dataclass(frozen=True)
class Constants:
    """What the whole batch shares, once the shared parameters have values."""

    P: SharedMatrix
    A: SharedMatrix
    q: Tensor
    b: Tensor
    offset: Tensor


class Sharing:
    """The maps of a canonical form, for a choice of the parameters that are batched.

    Parameters
    ----------
    form : Canonical
    batched : tuple of str
        Names of the parameters that vary over the batch; the others are shared.
    device : torch.device
    """

    def __init__(self, form: Canonical, batched: tuple[str, ...], device: torch.device = CPU) -> None:
        self.form, self.batched, self.device = form, batched, device
        ranges = [np.arange(entry.column, entry.column + len(entry.places))
                  for entry in (form.parameters[name] for name in batched)]  # fmt: skip
        columns = np.concatenate([np.zeros(0, dtype=int), *ranges])
        self.P, self.A, self.q, self.b, self.offset = (
            BatchedMap.of(affine, columns, device) for affine in (form.P, form.A, form.q, form.b, form.offset)
        )

    def constants(self, shared: Mapping[str, Tensor]) -> Constants:
        """Fold the shared parameters into the constant parts."""
        form = self.form
        vector = np.zeros(form.size + 1)
        vector[-1] = 1
        for name, values in shared.items():
            entry = form.parameters[name]
            vector[entry.column : entry.column + len(entry.places)] = values.cpu().numpy().ravel()[entry.places]
        n, m = form.variables, form.rows

        def matrix(part: BatchedMap, shape: tuple[int, int]) -> SharedMatrix:
            rows, columns, values = (
                torch.as_tensor(item, device=self.device)
                for item in (part.affine.rows, part.affine.columns, part.constant(vector))
            )
            return SharedMatrix(rows, columns, values, shape)

        def filled(part: BatchedMap, length: int) -> Tensor:
            values = np.zeros(length)
            values[part.affine.rows] = part.constant(vector)
            return torch.as_tensor(values, device=self.device)

        return Constants(
            matrix(self.P, (n, n)), matrix(self.A, (m, n)), filled(self.q, n), filled(self.b, m), filled(self.offset, 1)
        )

    def program(self, constants: Constants, own: Mapping[str, Tensor], batch: int) -> ConicProgram:
        """The conic programs of instances whose batched parameters are given, (batch, ...) each."""
        none = torch.zeros(batch, 0, dtype=torch.float64, device=self.device)
        flat = [_flatten(own[name], self.form.parameters[name]) for name in self.batched]
        vector = OwnVector(flat or [none])
        return ConicProgram(
            _matrix(constants.P, self.P, vector), _vector(constants.q, self.q, vector),
            _matrix(constants.A, self.A, vector), _vector(constants.b, self.b, vector),
            _vector(constants.offset, self.offset, vector)[:, 0], self.form.cones, batch,
        )  # fmt: skip


def _flatten(values: Tensor, entry: ParameterEntry) -> Tensor:
    """A batched parameter as rows of its reduced entries."""
    rows = values.reshape(len(values), int(np.prod(entry.shape, dtype=int)))
    return rows if entry.whole else rows[:, torch.as_tensor(entry.places, device=values.device)]


def _matrix(common: SharedMatrix, part: BatchedMap, vector: OwnVector) -> Matrix:
    if not len(part.places):
        return Matrix(common)
    places = torch.as_tensor(part.places, device=common.values.device)
    rows, columns = common.rows[places], common.columns[places]
    return Matrix(common, OwnEntries(rows, columns, part.varying(vector), common.shape, part.layouts))


def _vector(common: Tensor, part: BatchedMap, vector: OwnVector) -> Tensor:
    if not len(part.places):
        return common[None]
    values = part.varying(vector)
    if len(part.rows) == len(common) and isinstance(span(part.rows), slice):
        return values + common[part.rows]
    return common.expand(len(values), -1).clone().index_add_(1, part.rows, values)


def check_parameters(form: Canonical, values: Mapping[str, Tensor], batched: Mapping[str, bool]) -> None:
    """Refuse values that miss the attributes of their parameters (signs, symmetry, definiteness).

    Convexity rests on them.

    Raises
    ------
    UsageError
        Naming the parameter, what was seen and what was expected.
    """
    for name, entry in form.parameters.items():
        value = values[name] if batched[name] else values[name][None]
        # A matrix that is not symmetric is told so, whatever its eigenvalues.
        definite = [("symmetric", name) for name in entry.attributes if name in ("PSD", "NSD")]
        for attribute, source in (*definite, *((name, name) for name in entry.attributes)):
            wrong = _misses(attribute, value, entry)
            if wrong is not None and bool(wrong.any()):
                place = int(wrong.nonzero()[0, 0])
                where = f" of instance {place}" if batched[name] else ""
                given = source if source == "sparsity" else f"{source}=True"
                raise UsageError(
                    f"the parameter {name!r}{where} is not {WORDS.get(attribute, attribute)}, as its definition says "
                    f"({given}); give such values, or define the parameter without it."
                )


def _misses(attribute: str, value: Tensor, entry: ParameterEntry) -> Tensor | None:
    """Which rows miss an attribute; None for attributes that are no matter of values."""
    rows = value.reshape(len(value), -1)
    slack = SLACK * (1 + rows.abs().amax(1)) if rows.shape[1] else rows.new_zeros(len(rows))
    if attribute in ("nonneg", "pos"):
        return rows.amin(1) < -slack
    if attribute in ("nonpos", "neg"):
        return rows.amax(1) > slack
    if attribute in ("symmetric", "PSD", "NSD"):
        skew = (value - value.mT).abs().amax((1, 2)) > slack
        if attribute == "symmetric":
            return skew
        signed = value if attribute == "PSD" else -value
        return skew | (torch.linalg.eigvalsh(signed)[:, 0] < -slack)
    if attribute == "sparsity":
        outside = torch.ones(rows.shape[1], dtype=torch.bool, device=rows.device)
        outside[torch.as_tensor(entry.places, device=rows.device)] = False
        return (rows[:, outside] != 0).any(1)
    if attribute == "diag":
        return (value - torch.diag_embed(torch.diagonal(value, dim1=1, dim2=2))).abs().amax((1, 2)) > slack
    return None
