"""The engines that solve one instance after the other, and the same over processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..formulations.errors import UsageError
from .clarabel_loop import CLARABEL
from .conic_engine import ConicEngine, Start
from .conic_program import Cones, ConicProgram, Points
from .matrix import Matrix, OwnEntries
from .osqp_loop import OSQP
from .scs_loop import SCS
from .shared_matrix import SharedMatrix
from .short_form import EXAMPLES, joined

LOOPS: dict[str, ConicEngine] = {engine.name: engine for engine in (CLARABEL, SCS, OSQP)}
LEAST_CHUNK = 64
"""Instances that are worth sending to another process."""
CHUNKS_EACH = 4
"""Chunks per process: instances differ in what they cost, and a process that is done early takes another."""

Arrays = dict[str, np.ndarray]


def in_processes(name: str, program: ConicProgram, start: Start, tolerance: float, processes: int) -> Points:
    """Solve a batch by an engine of `LOOPS`, shared among processes.

    Each process has one thread. Clarabel gives the same points as without processes, to the last bit; SCS and OSQP
    carry their step size from instance to instance, and agree to the tolerance.

    Parameters
    ----------
    name : str
    program : ConicProgram
    start : mapping of Tensor
    tolerance : float
    processes : int
        How many; batches of fewer than 64 instances each take fewer.

    Raises
    ------
    UsageError
        If the name is none of `LOOPS`, or the engine lacks something that the program needs.
    """
    if name not in LOOPS:
        able = ", ".join(LOOPS)
        raise UsageError(f"the engine {name!r} does not share a batch among processes; those that do: {able}.")
    runner = LOOPS[name].prepare(program)
    if isinstance(runner, str):
        raise UsageError(f"the engine {name!r} cannot solve this problem ({program.cones}): it needs {runner}.")
    chunks = min(CHUNKS_EACH * processes, program.batch // LEAST_CHUNK)
    if processes < 2 or chunks < 2:
        return runner(program, start, tolerance)
    from joblib import Parallel, delayed, parallel_config

    places = torch.arange(program.batch, device=program.q.device)
    # What a runner is prepared from decides its patterns and scaling: the same for all.
    example = _flat(program.take(places[:EXAMPLES]))
    with parallel_config(backend="loky", inner_max_num_threads=1):
        parts = Parallel(n_jobs=min(processes, chunks))(
            delayed(_solve)(name, example, _flat(program.take(some)), _numpy(start, some), tolerance)
            for some in places.tensor_split(chunks)
        )
    return joined([_points(part, program.q.device) for part in parts])


@dataclass(frozen=True)
class _FlatProgram:
    """A ConicProgram as numpy arrays, which other processes read without copies."""

    P: tuple[Arrays, Arrays, tuple[int, int]]
    A: tuple[Arrays, Arrays, tuple[int, int]]
    vectors: Arrays
    cones: Cones
    batch: int


def _solve(name: str, example: _FlatProgram, part: _FlatProgram, start: Arrays, tolerance: float) -> dict[str, Any]:
    torch.set_num_threads(1)
    runner = LOOPS[name].prepare(_program(example))
    assert not isinstance(runner, str)
    points = runner(_program(part), {key: torch.as_tensor(rows) for key, rows in start.items()}, tolerance)
    fields = {key: getattr(points, key).numpy() for key in ("x", "y", "iterations", "claim")}
    return {**fields, "state": {key: rows.numpy() for key, rows in points.state.items()}}


def _points(part: dict[str, Any], device: torch.device) -> Points:
    state = {key: torch.as_tensor(rows, device=device) for key, rows in part["state"].items()}
    x, y, iterations, claim = (torch.as_tensor(part[key], device=device) for key in ("x", "y", "iterations", "claim"))
    return Points(x, y, iterations, claim, state)


def _flat(program: ConicProgram) -> _FlatProgram:
    vectors = {key: _array(getattr(program, key)) for key in ("q", "b", "offset")}
    return _FlatProgram(_parts(program.P), _parts(program.A), vectors, program.cones, program.batch)


def _program(flat: _FlatProgram) -> ConicProgram:
    q, b, offset = (_tensor(flat.vectors[key]) for key in ("q", "b", "offset"))
    return ConicProgram(_matrix(*flat.P), q, _matrix(*flat.A), b, offset, flat.cones, flat.batch)


def _parts(matrix: Matrix) -> tuple[Arrays, Arrays, tuple[int, int]]:
    made = [
        {} if part is None else {key: _array(getattr(part, key)) for key in ("rows", "columns", "values")}
        for part in (matrix.common, matrix.own)
    ]
    return made[0], made[1], matrix.shape


def _matrix(common: Arrays, own: Arrays, shape: tuple[int, int]) -> Matrix:
    shared = SharedMatrix(_tensor(common["rows"]), _tensor(common["columns"]), _tensor(common["values"]), shape)
    if not own:
        return Matrix(shared)
    return Matrix(shared, OwnEntries(_tensor(own["rows"]), _tensor(own["columns"]), _tensor(own["values"]), shape))


def _numpy(start: Start, places: Tensor) -> Arrays:
    return {key: _array(rows[places]) for key, rows in start.items()}


def _array(rows: Tensor) -> np.ndarray:
    array: np.ndarray = rows.detach().cpu().numpy()
    return array


def _tensor(rows: np.ndarray) -> Tensor:
    # joblib maps large arrays into memory read-only, of which torch warns.
    return torch.as_tensor(rows if rows.flags.writeable else rows.copy())
