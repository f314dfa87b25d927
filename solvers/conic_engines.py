"""The engines of conic programs, in the order in which `solve_problem` asks them."""

from __future__ import annotations

import importlib

from ..formulations.errors import UsageError
from .conic_engine import ConicEngine, Runner
from .conic_program import ConicProgram

REFERENCE = "clarabel"
CONIC_ENGINES: dict[str, ConicEngine] = {}
for _module, _names in (("projected_gradient", ["ENGINE"]), ("projected_newton", ["ENGINE"]), ("softmax_newton", ["ENGINE"]), ("shared_admm", ["ENGINE"]), ("moreau_batch", ["ENGINE", "MOREAU"]), ("conic_loop", ["CLARABEL", "SCS", "OSQP"]), ("clarabel_loop", ["ENGINE", "CLARABEL"]), ("scs_loop", ["ENGINE", "SCS"]), ("osqp_loop", ["ENGINE", "OSQP"])):
    try:
        _m = importlib.import_module("convexblocks.solvers." + _module)
    except ImportError:
        continue
    for _n in _names:
        if hasattr(_m, _n):
            CONIC_ENGINES[getattr(_m, _n).name] = getattr(_m, _n)


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


def spread(name: str, runner: Runner, processes: int) -> Runner:
    """The runner of an engine, over processes where it solves one by one."""
    from .conic_loop import in_processes

    if name not in ("clarabel", "scs", "osqp"):
        return runner
    return lambda program, start, tolerance: in_processes(name, program, start, tolerance, processes)
