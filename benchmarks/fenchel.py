"""The Fenchel blocks: our batched engines against loops of cvxpy solves of the same instances.

    python -m benchmarks.fenchel [--repeats 5] [--instances 12]

The instances are those of a real run (digits, sweep 5). One process, one thread, CPU time, medians over repeats.
Every solver is run at its loosest tolerance, among powers of ten, at which the Fenchel-Young gap that WE measure
on its answers is at most 1e-6 (relative to 1 + |objective|) for every instance; the worst measured gap is
printed beside its time. cvxpy loops reuse one parametrized problem, except where its parametrized form is so
large that canonicalizing each instance anew is faster. The peers start cold; our engines start by themselves
(activations from the forward pass, which is part of the data, weights from zero) and, in the column "warm", as in
training.
Needs the extra `benchmark` (OSQP).
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor

from convexblocks.formulations import FenchelActivation, FenchelLifting, FenchelWeight, LiftedState, Subproblem
from convexblocks.formulations.formulation import Block
from convexblocks.formulations.losses import find_loss
from convexblocks.solvers import build_network, fit, solve
from convexblocks.solvers.conic import has_many_parameters
from convexblocks.solvers.layered import read_network
from convexblocks.solvers.reference import batch_size
from convexblocks.solvers.safeguards import curvature, look

ACCURACY = 1e-6
SWEEPS = 4


@dataclass(frozen=True)
class Case:
    """A block of the run and the start that training would give it."""

    name: str
    subproblem: Subproblem
    data: dict[str, Tensor]
    warm: dict[str, Tensor]


@dataclass(frozen=True)
class Measurement:
    """CPU milliseconds for an instance, and the worst gap measured on the answers."""

    milliseconds: float
    gap: float


def blocks(hidden: tuple[int, ...], activation: str, **settings: Any) -> Iterator[tuple[str, Block]]:
    """The blocks of sweep 5 of a run on digits, in order."""
    X, y = load_digits(return_X_y=True)
    network = build_network((64, *hidden, 10), activation, random_state=0)
    formulation = FenchelLifting(**settings)
    history = fit(network, (X / 16, y), formulation, sweeps=SWEEPS)
    layered = read_network(network)
    architecture = layered.architecture(find_loss(history.settings["loss"]), history.settings["weight_decay"])
    weights, biases = layered.parameters()
    targets = torch.as_tensor(architecture.loss.encode(y, 10))
    state = LiftedState(torch.as_tensor(X / 16), targets, weights, biases)
    formulation.start(architecture, state)
    squares = look(architecture, layered, state).squares
    scales = curvature(architecture, squares, formulation.factors(architecture))
    state.proximity = [history.last["proximity"] * scale for scale in scales]
    for step in (step for group in formulation.groups(architecture) for step in group):
        block = formulation.gather(step, architecture, state)
        yield step.label, block
        solution = solve(block.subproblem, block.data, warm_start=block.start)
        formulation.scatter(step, architecture, state, solution.variables)


def cases() -> Iterator[Case]:
    """The cases of the table."""
    for hidden, activation, settings in (
        ((64, 64), "relu", {}),
        ((64, 64), "tanh", {}),
        ((64,), "relu", {"output_multiplier": 1.0}),
    ):
        for label, block in blocks(hidden, activation, **settings):
            if settings and not label.startswith("output"):
                continue
            block = _within_reach(block)
            name = f"{activation} {'-'.join(map(str, hidden))}: {label}"
            yield Case(name + _size(block.subproblem), block.subproblem, block.data, block.start)


def _within_reach(block: Block) -> Block:
    """The softmax layer on fewer samples: a conic solver needs half a minute for all of them."""
    whole = block.subproblem
    if not isinstance(whole, FenchelWeight) or not whole.coupled:
        return block
    part = FenchelWeight(
        samples=150, inputs=whole.inputs, units=10, loss=whole.loss, multiplier=whole.multiplier,
        weight_decay=whole.weight_decay, proximity=whole.proximity,
    )  # fmt: skip
    return Block(part, block.data | {"X": block.data["X"][:150], "v": block.data["v"][:, :150]}, block.start)


def _size(subproblem: Subproblem) -> str:
    if isinstance(subproblem, FenchelActivation):
        return f" ({subproblem.width} -> {subproblem.next_width})"
    if isinstance(subproblem, FenchelWeight):
        return f" ({subproblem.samples} x {subproblem.inputs})"
    return " (10)"


def ours(case: Case, start: dict[str, Tensor] | None, repeats: int) -> Measurement:
    """Our engine on the whole batch."""
    return _loosest(
        lambda tolerance: solve(case.subproblem, case.data, warm_start=start, tolerance=tolerance).variables,
        case.subproblem, case.data, batch_size(case.subproblem, case.data), repeats,
    )  # fmt: skip


def looped(case: Case, solver: str, instances: int, repeats: int) -> Measurement | None:
    """A loop of cvxpy solves of some instances; None where the solver cannot solve the program."""
    problem = case.subproblem.program()
    if solver == cp.OSQP and not problem.is_qp():
        return None
    count = min(instances, batch_size(case.subproblem, case.data))
    data = {
        name: value if case.subproblem.is_shared(name) else value[:count] for name, value in case.data.items()
    }

    def run(tolerance: float) -> dict[str, Tensor]:
        return _loop(case.subproblem, data, count, solver, tolerance)

    return _loosest(run, case.subproblem, data, count, repeats)


def _loop(
    subproblem: Subproblem, data: dict[str, Tensor], count: int, solver: str, tolerance: float
) -> dict[str, Tensor]:
    problem, names = subproblem.program(), [variable.name() for variable in subproblem.program().variables()]
    settings: dict[str, Any] = {"tol_gap_abs": tolerance, "tol_gap_rel": tolerance, "tol_feas": tolerance}
    if solver == cp.OSQP:
        settings = {"eps_abs": tolerance, "eps_rel": tolerance, "max_iter": 200_000}
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for place in range(count):
        for parameter in problem.parameters():
            value = data[parameter.name()]
            parameter.value = (value if subproblem.is_shared(parameter.name()) else value[place]).numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem.solve(solver=solver, warm_start=True, ignore_dpp=has_many_parameters(problem), **settings)
        for variable in problem.variables():
            found[variable.name()].append(torch.as_tensor(variable.value))
    return {name: torch.stack(values) for name, values in found.items()}


def _loosest(
    run: Callable[[float], dict[str, Tensor]], subproblem: Subproblem, data: dict[str, Tensor], count: int, repeats: int
) -> Measurement:
    """Time a solver at its loosest tolerance that reaches the accuracy (at 1e-11 whatever it reaches)."""
    gap = float("inf")
    for exponent in range(4, 12):
        tolerance = 10.0**-exponent
        residuals = subproblem.residuals(run(tolerance), data)
        assert residuals is not None
        gap = float(residuals.gap.max())
        if gap <= ACCURACY:
            break
    seconds = [_cpu(lambda: run(tolerance)) for _ in range(repeats)]
    return Measurement(1e3 * statistics.median(seconds) / count, gap)


def _cpu(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def table(instances: int, repeats: int) -> Table:
    """Run all cases; ratios are the peer's time divided by ours, without a warm start."""
    result = Table(title="CPU ms for an instance at a measured gap <= 1e-6 (in brackets: worst measured gap)")
    for heading in ("block of the run", "ours", "ours, warm", "Clarabel loop", "ratio", "OSQP loop", "ratio"):
        result.add_column(heading, justify="left" if heading.startswith("block") else "right")
    for case in cases():
        cold, warm = ours(case, None, repeats), ours(case, case.warm, repeats)
        row = [case.name, _cell(cold), _cell(warm)]
        for solver in (cp.CLARABEL, cp.OSQP):
            peer = looped(case, solver, instances, max(1, repeats // 2))
            ratio = "" if peer is None else f"{peer.milliseconds / cold.milliseconds:.0f}x"
            row += ["not a QP", ""] if peer is None else [_cell(peer), ratio]
        result.add_row(*row)
    return result


def _cell(measurement: Measurement) -> str:
    return f"{measurement.milliseconds:.3g} ({measurement.gap:.0e})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--instances", type=int, default=12, help="instances of each cvxpy loop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    Console(width=140).print(table(arguments.instances, arguments.repeats))


if __name__ == "__main__":
    main()
