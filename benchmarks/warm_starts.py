"""Iterations with and without a warm start, on a block of a real training run.

    python -m benchmarks.warm_starts [--instances 64] [--sweep 5]

The block is the activations of the first hidden layer (ReLU, 64 -> 64) of a run on digits, as a bare cvxpy problem.
Its instances of one sweep are solved, and then, by their ids, those of the next: the weights, the arriving
pre-activations and the targets have all moved as training moves them. Engines that are not installed or do not take
the block are left out.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from convexblocks.formulations import FenchelActivation
from convexblocks.formulations.formulation import Block
from convexblocks.solvers import CONIC_ENGINES, solve_problem
from convexblocks.solvers.problem_batch import check_batch
from convexblocks.solvers.problems import compile_problem, make_plan

from . import fenchel

TOLERANCES = (1e-4, 1e-6)


def first_activations(sweeps: int) -> Block:
    """The first activation block of the sweep after the given ones."""
    fenchel.SWEEPS = sweeps
    return next(
        block
        for _, block in fenchel.blocks((64, 64), "relu")
        if isinstance(block.subproblem, FenchelActivation) and block.subproblem.loss is None
    )


def chosen(block: Block, instances: int) -> dict[str, Tensor]:
    """The data of the first instances."""
    return {
        name: value if block.subproblem.is_shared(name) else value[:instances] for name, value in block.data.items()
    }


def table(instances: int, sweep: int) -> Table:
    """Mean iterations of every engine, cold and warm."""
    problem = first_activations(1).subproblem.program()
    before, after = (chosen(first_activations(count), instances) for count in (sweep, sweep + 1))
    ids = list(range(instances))
    shown = Table(title=f"Mean iterations of {instances} instances of sweep {sweep + 2}, from sweep {sweep + 1}")
    for heading in ("engine", "tolerance", "cold", "warm"):
        shown.add_column(heading, justify="left" if heading == "engine" else "right")
    for name, engine in CONIC_ENGINES.items():
        compiled = compile_problem(problem)
        batch = check_batch(compiled.form, before)
        program = make_plan(compiled, batch, "clarabel").program(batch, torch.arange(instances))
        if isinstance(engine.prepare(program), str):
            continue
        for tolerance in TOLERANCES:
            earlier = solve_problem(problem, before, engine=name, ids=ids, tolerance=tolerance)
            cold = solve_problem(problem, after, engine=name, tolerance=tolerance)
            warm = solve_problem(problem, after, engine=name, ids=ids, warm_start=earlier, tolerance=tolerance)
            means = (f"{solution.iterations.double().mean():.1f}" for solution in (cold, warm))
            shown.add_row(name, f"{tolerance:.0e}", *means)
    return shown


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=64)
    parser.add_argument("--sweep", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    Console(width=140).print(table(arguments.instances, arguments.sweep))


if __name__ == "__main__":
    main()
