"""What is recognized in a program, and which engines solve it: asked of the engines themselves.

The canonical form is filled with a small batch of parameters drawn at random, and shown to the functions that
`solve_problem` asks. Where structure rests on values (hinges that stay smooth), it is that of the drawn ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch

from ..formulations.errors import UsageError
from ..formulations.subproblem import Subproblem
from .batch import ENGINES, choose_engine
from .canonical import Canonical, ParameterEntry
from .conic_engine import ConicEngine
from .conic_engines import CONIC_ENGINES, choose
from .conic_program import Cones, ConicProgram
from .elimination import find_stages, reduce_program, too_large
from .log_sum_exp import LogSumExp, find_log_sum_exp
from .matrix import Matrix
from .parametrized import Sharing
from .problem_batch import check_batch
from .problems import compile_problem
from .recognition import Box, find_box
from .shared_matrix import SharedMatrix

EXAMPLES = 3


@dataclass(frozen=True)
class Fit:
    """Whether an engine solves a program; else what it needs. `warm` says what a warm start does for it."""

    name: str
    fits: bool
    needs: str
    warm: str


@dataclass(frozen=True)
class EngineReport:
    """What was recognized in a program, in words, and which engines solve it.

    Attributes
    ----------
    title : str
        Name of the subproblem; empty for a cvxpy problem.
    per_instance, shared : tuple of str
        Parameters that vary over the batch, and those that it shares.
    canonical, reduced, structure : str, str, tuple of str
        Sizes of the canonical program and of the one without definitions; what was found there.
    solve, solve_problem : str
        The engines that these functions pick. Empty where none can; the first also for a cvxpy problem.
    block_engines, program_engines : tuple of Fit
        All of `ENGINES` (none for a cvxpy problem), and all of `CONIC_ENGINES`.
    """

    title: str
    per_instance: tuple[str, ...]
    shared: tuple[str, ...]
    canonical: str
    reduced: str
    structure: tuple[str, ...]
    solve: str
    solve_problem: str
    block_engines: tuple[Fit, ...]
    program_engines: tuple[Fit, ...]

    def __str__(self) -> str:
        """The report in lines: what was found, which engine is picked, and what the others need."""
        lines = [
            f"{self.title or 'problem'}: {self.canonical}",
            f"without definitions: {self.reduced}",
            *(f"  {found}" for found in self.structure),
            f"engine: {self.solve or self.solve_problem or 'none'}",
        ]
        width = max(len(fit.name) for fit in (*self.block_engines, *self.program_engines))
        for fit in (*self.block_engines, *self.program_engines):
            lines.append(f"  {fit.name:{width}}  {'can' if fit.fits else f'needs {fit.needs}'}")
        return "\n".join(lines)


def report_engines(target: Subproblem | cp.Problem, shared: Sequence[str] = ()) -> EngineReport:
    """Say what is recognized in a program, and which engines solve it. Nothing is solved.

    Parameters
    ----------
    target : Subproblem or cvxpy.Problem
    shared : sequence of str
        Of a cvxpy problem, the parameters that the batch shares; a Subproblem's symbols say it themselves.

    Raises
    ------
    UsageError
        If the target is neither, has no convex model or is not DCP and DPP, or `shared` names no parameters of it.

    Examples
    --------
    >>> x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    >>> report_engines(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])).structure
    ('3 unknowns in a box (lower bounds on all, no upper bounds)', 'a Hessian shared by the batch')
    """
    problem = target.program() if isinstance(target, Subproblem) else target
    if not isinstance(problem, cp.Problem):
        raise UsageError(f"the program is {target!r}; expected a Subproblem or a cvxpy.Problem.")
    form = compile_problem(problem).form
    known = () if isinstance(target, Subproblem) else tuple(form.parameters)
    if unknown := [name for name in shared if name not in known]:
        expected = ", ".join(known) or "none, because the program has none or its symbols say it"
        raise UsageError(f"shared names {unknown[0]!r}; expected parameters of the problem: {expected}.")
    if isinstance(target, Subproblem):
        shared = [name for name in form.parameters if target.is_shared(name)]
    program = _example(form, shared)
    fits = tuple(_fit(engine, program) for engine in CONIC_ENGINES.values())
    picked = choose(program, None)[0] if any(fit.fits for fit in fits) else ""
    title, solve, block_engines = _ask_block(target, picked) if isinstance(target, Subproblem) else ("", "", ())
    return EngineReport(
        title, tuple(name for name in form.parameters if name not in shared), tuple(shared),
        f"{_count(form.variables, 'variable')}, {form.cones}", *_recognize(program), solve, picked, block_engines, fits,
    )  # fmt: skip


def install_command(engine: ConicEngine) -> str:
    """How to install the package that an engine lacks, by its own refusal; empty where it lacks none."""
    one, first = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    P, A = (Matrix(SharedMatrix(first, first, sign * one, (1, 1))) for sign in (1, -1))
    made = engine.prepare(ConicProgram(P, one[None], A, one[None], one, Cones(nonnegative=1), 1))
    found = re.search(r"pip install [^)]*", made) if isinstance(made, str) else None
    return found.group() if found else ""


def _ask_block(block: Subproblem, picked: str) -> tuple[str, str, tuple[Fit, ...]]:
    """Name, what `solve` picks, and how the package's own engines fit."""
    chosen, missing = choose_engine(block), {name: engine.missing(block) for name, engine in ENGINES.items()}
    warm = "starts from the values of an earlier answer"
    fits = tuple(Fit(name, not needs, needs, warm) for name, needs in missing.items())
    return block.name, (chosen if isinstance(chosen, str) else chosen.name) or picked, fits


def _fit(engine: ConicEngine, program: ConicProgram) -> Fit:
    made = engine.prepare(program)
    # Engines repeat the sizes, which the report states once.
    needs = re.sub(rf" \(\w+ program has {re.escape(str(program.cones))}\)", "", made) if isinstance(made, str) else ""
    return Fit(engine.name, not needs, needs, engine.warm)


def _example(form: Canonical, shared: Sequence[str]) -> ConicProgram:
    """A batch of programs with parameters drawn at random."""
    rng = np.random.default_rng(0)
    drawn = {name: _draw(entry, rng) for name, entry in form.parameters.items()}
    batch = check_batch(form, {name: value[0] if name in shared else value for name, value in drawn.items()})
    sharing = Sharing(form, batch.batched, batch.device)
    return sharing.program(sharing.constants(batch.shared), batch.own(torch.arange(batch.size)), batch.size)


def _draw(entry: ParameterEntry, rng: np.random.Generator) -> np.ndarray:
    """Values of a parameter that have its attributes, and no zeros but those of its pattern."""
    attributes, values = set(entry.attributes), np.zeros((EXAMPLES, int(np.prod(entry.shape))))
    values[:, entry.places] = rng.standard_normal((EXAMPLES, len(entry.places)))
    signed = bool(attributes & {"nonneg", "pos", "nonpos", "neg"})
    drawn = (np.abs(values) if signed else values).reshape(EXAMPLES, *entry.shape)
    drawn = drawn + drawn.mT if "symmetric" in attributes else drawn
    if attributes & {"PSD", "NSD"}:
        drawn = drawn @ drawn.mT + np.eye(entry.shape[0])
    return -drawn if attributes & {"nonpos", "neg", "NSD"} else drawn


def _recognize(program: ConicProgram) -> tuple[str, tuple[str, ...]]:
    """Sizes without definitions, and the structure."""
    quadratic = "quadratic" if program.P.own is not None or bool(program.P.common.values.any()) else "linear"
    kind = f"a {quadratic} program" if program.cones.linear else f"a general conic program, {quadratic} objective"
    own = " and ".join(name for name in "PA" if not getattr(program, name).shared)
    sharing = f"every instance with its own {own}" if own else "P and A shared by the batch"
    if lacking := too_large(program):
        return f"not looked for, which needs {lacking}", (kind, sharing)
    terms = find_log_sum_exp(program)
    reduction = reduce_program(program, find_stages(program)) if isinstance(terms, str) else terms.reduction
    sizes = f"{_count(reduction.P.shape[-1], 'variable')}, {reduction.cones}"
    if isinstance(terms, LogSumExp):
        return sizes, (*_say_terms(terms), sharing)
    box = find_box(reduction, *reduction.vectors(program.q, program.b))
    if isinstance(box, str):
        return sizes, (kind, sharing)
    hessian = "every instance with its own Hessian" if reduction.P.ndim > 2 else "a Hessian shared by the batch"
    return sizes, (*_say_box(box), hessian if bool(reduction.P.any()) else "a linear objective")


def _say_box(box: Box) -> tuple[str, ...]:
    size = len(box.columns)
    counts = {side: len(getattr(box, side).unknowns.unique()) for side in ("lower", "upper")}
    bounds = (f"{side} bounds on {'all' if count == size else count}" if count else f"no {side} bounds"
              for side, count in counts.items())  # fmt: skip
    where = f"in a box ({', '.join(bounds)})" if any(counts.values()) else "without bounds"
    hinges = () if box.hinges is None else (_count(len(box.hinges.columns), "squared hinge"),)
    return f"{_count(size, 'unknown')} {where}", *hinges


def _say_terms(terms: LogSumExp) -> tuple[str, ...]:
    least, most = map(int, torch.bincount(terms.places // terms.width, minlength=terms.terms).aminmax())
    arguments = f"{most if least == most else f'{least} to {most}'} arguments"
    said = f"log-sum-exp of {arguments}" if terms.terms == 1 else f"{terms.terms} log-sum-exp terms of {arguments} each"
    if most == 2 and int((terms.arguments[terms.places] == 0).all(1).sum()) == terms.terms:
        said += " (logistic: one is constant)"
    return said, f"a positive definite quadratic of {_count(len(terms.unknowns), 'unknown')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
