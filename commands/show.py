"""`convexblocks show`: a block as a readable model, or one instance of it out of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formulations.catalogue import SUBPROBLEMS, subproblem
from ..formulations.errors import UsageError
from .console import (
    cells,
    heading,
    number,
    output,
    print_json,
    read_settings,
    say,
    say_lines,
    small,
    table,
    working,
)

if TYPE_CHECKING:
    from ..formulations.subproblem import Subproblem
    from ..solvers.agreement import Agreement
    from ..solvers.engine_report import Fit
    from ..solvers.run import Instance
    from ..solvers.solution import Solution

    Pair = tuple[Solution, Solution]

Option = typer.Option
MOST_ENTRIES = 12


def show(
    target: Annotated[str, typer.Argument(help="A block from `convexblocks list`, or the folder of a run.")],
    settings: Annotated[list[str] | None, Option("--set", metavar="NAME=VALUE", help="Setting of a block.")] = None,
    layer: Annotated[int | None, Option(metavar="N", help="Of a run: hidden layer 1, 2, ...; default 1.")] = None,
    sample: Annotated[int | None, Option(metavar="N", help="Of a run: row of the training data; default 0.")] = None,
    sweep: Annotated[int | None, Option(metavar="N", help="Of a run: sweep; by default the last.")] = None,
    latex: Annotated[bool, Option("--latex", help="The model in LaTeX.")] = False,
    html: Annotated[bool, Option("--html", help="The model as an HTML fragment.")] = False,
    engine: Annotated[bool, Option("--engine", help="Of a block: its structure, and which engines solve it.")] = False,
    json: Annotated[bool, Option("--json", help="Plain data; of a run, all values too.")] = False,
) -> None:
    """Show a block as a readable model; or, of a run, one instance with values, duals and residuals."""
    if latex + html + json > 1:
        raise UsageError("more than one of --latex, --html and --json was given; expected at most one: choose one.")
    if engine and (latex or html):
        raise UsageError("--engine has no form in LaTeX or HTML; expected it alone or with --json: choose one.")
    if target in SUBPROBLEMS or not Path(target).exists():
        _refuse_run_options(target, layer, sample, sweep)
        block = subproblem(target, read_settings(settings or []))
        if engine:
            _tell_engines(block, json=json)
        elif json:
            print_json(block.json())
        else:
            say_lines(block.latex() if latex else block.html() if html else block.show())
        return
    if settings:
        raise UsageError(f"--set is for blocks, but {target!r} is a path; the blocks of a run have the run's settings.")
    if engine:
        raise UsageError(
            f"--engine is for blocks, but {target!r} is a path; without it, an instance of a run is shown with the "
            "engine that solved it."
        )
    instance = _instance(target, 1 if layer is None else layer, 0 if sample is None else sample, sweep)
    if latex or html:
        say_lines(instance.subproblem.latex() if latex else instance.subproblem.html())
        return
    agreement = _agreement(instance)
    if json:
        print_json(_as_data(instance, agreement))
    else:
        _tell(instance, agreement)


def _refuse_run_options(target: str, *options: int | None) -> None:
    if target not in SUBPROBLEMS:
        raise UsageError(
            f"{target!r} is neither a block nor the folder of a run; known blocks: {', '.join(SUBPROBLEMS)}. "
            "A run is the --out folder of `convexblocks train`."
        )
    if any(option is not None for option in options):
        raise UsageError(
            f"--layer, --sample and --sweep choose an instance of a run, but {target!r} is a block: "
            "give the folder of a run, or leave them out."
        )


def _tell_engines(block: Subproblem, *, json: bool) -> None:
    """What is recognized in a block, and which engines solve it."""
    from dataclasses import asdict

    from ..solvers.engine_report import report_engines

    with working("looking for structure"):
        report = report_engines(block)
    if json:
        print_json(asdict(report))
        return
    heading(f"{report.title}: structure and engines")
    shown = table("", "")
    shown.show_header = False
    for name, lines in {
        "canonical program": [report.canonical],
        "without definitions": [report.reduced],
        "what varies": [", ".join(report.per_instance) or "nothing"],
        "what a batch shares": [", ".join(report.shared) or "no data"],
        "recognized": report.structure,
        "solve takes": [report.solve or "none"],
        "solve_problem takes": [report.solve_problem or "none"],
    }.items():
        shown.add_row(*cells(name, "\n".join(lines)))
    output().print(shown, "")
    _tell_fits("Engines of the package's own blocks: solve(block, data)", report.block_engines, report.solve)
    title = "Engines of any program: solve_problem(block.program(), parameters)"
    _tell_fits(title, report.program_engines, report.solve_problem)


def _tell_fits(title: str, fits: tuple[Fit, ...], taken: str) -> None:
    shown = table("engine", "solves it", "what a warm start does, or what is missing", title=title)
    for fit in fits:
        answer = "no" if not fit.fits else "yes, taken" if fit.name == taken else "yes"
        shown.add_row(*cells(fit.name, answer, fit.warm if fit.fits else f"needs {fit.needs}"))
    output().print(shown, "")


def _instance(run: str, layer: int, sample: int, sweep: int | None) -> Instance:
    from ..networks.datasets import load_dataset
    from ..solvers.run import load

    loaded = load(run)
    arguments = loaded.notes.get("data", {}).get("arguments")
    if loaded.data is None and arguments:
        # Large data are not kept with a run; they are read again from where they came, and compared with it.
        loaded = load(run, data=load_dataset(**arguments).train)
    instance = loaded.instance(layer, sample, sweep)
    if instance.reference is None:
        # Raises the refusal with its reason: an activation without a convex model cannot be shown as one.
        instance.subproblem.program()
    return instance


def _reference(instance: Instance) -> Solution:
    """Clarabel's answer; instances without one are refused before."""
    assert instance.reference is not None
    return instance.reference


def _agreement(instance: Instance) -> Agreement | None:
    """The engine against Clarabel; None where the run itself had to take Clarabel."""
    from ..solvers.agreement import compare

    if instance.solution.engine == _reference(instance).engine:
        return None
    return compare(instance.subproblem, instance.data, instance.solution.variables, instance.solution.engine)


def _tell(instance: Instance, agreement: Agreement | None) -> None:
    say_lines(instance.subproblem.show())
    pair = (instance.solution, _reference(instance))
    heading("Values: the engine's answer and Clarabel's")
    _tell_values(pair)
    heading("Duals")
    _tell_duals(pair)
    heading("Residuals, measured on this program")
    shown = table("", instance.solution.engine, "clarabel", numbers=(instance.solution.engine, "clarabel"))
    for name, values in _measures(pair).items():
        shown.add_row(*cells(name, *values))
    output().print(shown, "")
    say(f"{agreement}." if agreement else "No batched engine solves this block; the run took Clarabel itself.")


def _tell_values(pair: Pair) -> None:
    engine, reference = pair
    numbers = (engine.engine, "clarabel", "difference")
    shown = table("variable", *numbers, numbers=numbers)
    left_out = 0
    for name in [name for name in engine.variables if name in reference.variables]:
        ours, theirs = (solution.variables[name].flatten().tolist() for solution in pair)
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if place < MOST_ENTRIES:
                entry = name if len(ours) == 1 else f"{name}[{place}]"
                shown.add_row(*cells(entry, f"{a:.6f}", f"{b:.6f}", small(abs(a - b))))
        left_out += max(0, len(ours) - MOST_ENTRIES)
    output().print(shown)
    if left_out:
        say(f"... and {left_out} more entries; all of them: --json")


def _tell_duals(pair: Pair) -> None:
    engine, reference = pair
    shown = table("constraint", "shape", "smallest", "largest", "nonzero", numbers=("smallest", "largest", "nonzero"))
    for label, dual in reference.duals.items():
        shape = " x ".join(map(str, dual.shape[1:])) or "scalar"
        nonzero = f"{int((dual.abs() > 1e-6).sum())} of {dual.numel()}"
        shown.add_row(*cells(label, shape, f"{dual.min():.6f}", f"{dual.max():.6f}", nonzero))
    output().print(shown)
    if not engine.duals:
        say(f"These are Clarabel's; {engine.engine} computes none. All entries: --json")


def _measures(pair: Pair) -> dict[str, list[str]]:
    measures = {
        name: [small(solution.residuals.worst()[name]) for solution in pair]
        for name in ("primal", "dual", "gap")
    }
    measures["iterations"] = [number(int(solution.iterations[0])) for solution in pair]
    measures["status"] = [solution.status[0].name.lower() for solution in pair]
    return measures


def _as_data(instance: Instance, agreement: Agreement | None) -> dict[str, Any]:
    from dataclasses import asdict

    pair = (instance.solution, _reference(instance))
    return {
        "model": instance.subproblem.json(),
        "data": {
            name: (value if instance.subproblem.is_shared(name) else value[0]).tolist()
            for name, value in instance.data.items()
        },
        "objective": float(instance.problem.objective.value),
        "answers": {solution.engine: _answer(solution) for solution in pair},
        "agreement": {**asdict(agreement), "agrees": agreement.agrees} if agreement else None,
    }


def _answer(solution: Solution) -> dict[str, Any]:
    return {
        "values": {name: value[0].tolist() for name, value in solution.variables.items()},
        "duals": {label: dual[0].tolist() for label, dual in solution.duals.items()},
        "residuals": solution.residuals.worst(),
        "status": solution.status[0].name,
        "iterations": int(solution.iterations[0]),
        "seconds": solution.seconds,
    }
