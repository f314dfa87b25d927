"""The engines of conic programs, in the order in which `solve_problem` asks them."""

from __future__ import annotations

from ..formulations.errors import UsageError
from . import moreau_batch, projected_gradient, projected_newton, shared_admm, softmax_newton
from .conic_engine import ConicEngine, Runner
from .conic_loop import LOOPS, in_processes
from .conic_program import ConicProgram

CONIC_ENGINES: dict[str, ConicEngine] = {
    engine.name: engine
    for engine in (
        projected_gradient.ENGINE,
        projected_newton.ENGINE,
        softmax_newton.ENGINE,
        shared_admm.ENGINE,
        moreau_batch.ENGINE,
        *LOOPS.values(),
    )
}
REFERENCE = "clarabel"
"""The engine that is asked last for what another one missed."""


def choose(program: ConicProgram, name: str | None) -> tuple[str, Runner]:
    """The engine of a name, or the first that can solve the program, prepared.

    Raises
    ------
    UsageError
        If the name is unknown, or the engine lacks something that the program needs.
    """
    if name is not None and name not in CONIC_ENGINES:
        raise UsageError(f"unknown engine {name!r}; known: {', '.join(CONIC_ENGINES)}.")
    refusals = {}
    for engine in CONIC_ENGINES.values() if name is None else (CONIC_ENGINES[name],):
        if name is None and not engine.suits(program):
            continue
        made = engine.prepare(program)
        if not isinstance(made, str):
            return engine.name, made
        refusals[engine.name] = made
    if name is None:
        told = "; ".join(f"{engine} needs {lacking}" for engine, lacking in refusals.items())
        raise UsageError(f"no engine can solve this problem ({program.cones}): {told}.")
    able = [engine.name for engine in CONIC_ENGINES.values() if not isinstance(engine.prepare(program), str)]
    raise UsageError(
        f"the engine {name!r} cannot solve this problem ({program.cones}): it needs {refusals[name]}. "
        f"Engines that can: {', '.join(able)}."
    )


def spread(name: str, processes: int) -> Runner:
    """The runner of one of `LOOPS`, over processes."""
    return lambda program, start, tolerance: in_processes(name, program, start, tolerance, processes)
