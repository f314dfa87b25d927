"""Batches of small convex programs: `solve_problem` and its engines against other solvers, on the same instances.

    python -m benchmarks.batched [MODEL ...] [--batch 1024] [--instances 12] [--repeats 5] [--peers moreau osqp]
    python -m benchmarks.batched --roofline | --scaling | --compile | --device cuda

One process, one thread, CPU time (but for --device), medians over repeats. Every solver runs at its loosest
tolerance, among powers of ten, at which the residuals that WE measure (primal, dual and gap, relative, on cvxpy's whole
canonical program) are at most 1e-6 for every instance; the worst of them stands beside its time. Peers are described
in peers.py, which says too what is measured where a peer gives no duals. A peer whose answers stay off by more than
1e-3 is WRONG; one that comes nearer, but not to 1e-6, "misses".

"ours, solve" is the engine alone: canonical programs in, points of them out, what depends on the shared matrices kept
from before, as in the peers' update loops. "ours, end to end" is `solve_problem`, from parameters to verified values
and duals, on a problem that was solved before. "warm" starts from the answers to the same instances before their
parameters moved by 2 %.

A peer on the "reduced" form got it for nothing. The figures say, beside what they judge by, what the ratio is where
taking the definitions out is charged to such peers: where every instance has matrices of its own, that is a part of
solving it, and our times contain it.

Needs the extra `benchmark`, which brings osqp, moreau, cvxpylayers (with diffcp), piqp and proxsuite; one that is not
installed is left out. qpth is no part of it: it asks for numpy < 2, though it runs with newer ones, so that it is
installed by `pip install --no-deps qpth`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from convexblocks.solvers import solve_problem
from convexblocks.solvers.conic_engines import CONIC_ENGINES
from convexblocks.solvers.conic_program import ConicProgram, Points
from convexblocks.solvers.elimination import find_stages, reduce_program
from convexblocks.solvers.solution import Solution

from .batched_figures import END_TO_END, SOLVE, judged
from .batched_forms import Instances, whole_form
from .batched_limits import compile_table, device_table, one_size, roofline_table, scaling_table
from .batched_models import MODELS, Model
from .peers import PEERS, Peer

ACCURACY = 1e-6
WRONG = 1e-3
EXPONENTS = range(3, 12)
LONG = 5.0
"""Seconds of runs after which none is repeated."""
MOST_TOGETHER = 64
"""Instances of a batched peer."""
REDUCTION = "taking definitions out (not in 'reduced')"


@dataclass(frozen=True)
class Measurement:
    """CPU milliseconds for an instance, the tolerance asked for (0: none), and the worst residual of the answers."""

    milliseconds: float
    tolerance: float
    worst: float
    note: str = ""

    @property
    def right(self) -> bool:
        """Whether every instance is as accurate as asked."""
        return self.worst <= ACCURACY


Row = Measurement | str


def loosest(
    prepare: Callable[[float], tuple[Callable[[], Any], Callable[[Any], float]]], count: int, repeats: int
) -> Measurement:
    """Time a solver at its loosest tolerance that reaches the accuracy, else at the one that comes nearest to it."""
    nearest = None
    for exponent in EXPONENTS:
        run, worst = prepare(10.0**-exponent)
        found, seconds = _timed(run)
        reached = worst(found)
        if nearest is None or reached < nearest[0]:
            nearest = (reached, 10.0**-exponent, run, seconds)
        if reached <= ACCURACY or (reached > WRONG and 10.0**-exponent <= ACCURACY):
            break
    assert nearest is not None
    reached, tolerance, run, seconds = nearest
    times = [seconds] if seconds > LONG else [_timed(run)[1] for _ in range(repeats)]
    note = "" if reached <= ACCURACY else "WRONG" if reached > WRONG else "misses"
    return Measurement(1e3 * statistics.median(times) / count, tolerance, reached, note)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    found = run()
    return found, time.process_time() - began


def peer_rows(model: Model, peers: list[Peer], instances: int, repeats: int) -> Iterator[tuple[Peer, Row]]:
    """Run the peers on the first instances of a model; a string says why one did not run."""
    sets: dict[int, tuple[Instances, Instances]] = {}
    for peer in peers:
        count = min(MOST_TOGETHER if peer.batched else instances, model.batch)
        if count not in sets:
            before = Instances.of(model.first(count))
            sets[count] = (before, Instances.of(model.moved().first(count), before))
        chosen = sets[count][peer.warm]
        if peer.linear and not chosen.whole.cones.linear:
            yield peer, "takes linear cones only"
            continue

        def prepare(tolerance: float, peer: Peer = peer, chosen: Instances = chosen) -> tuple[Any, Any]:
            trial = peer.prepare(chosen, tolerance)
            return trial.run, trial.worst

        try:
            yield peer, loosest(prepare, count, max(1, repeats // 2))
        except ImportError as error:
            yield peer, f"not installed ({error.name})"
        except Exception as error:  # a peer that breaks must not take the table with it
            yield peer, f"failed: {type(error).__name__}: {str(error).splitlines()[0][:60]}"


def our_rows(model: Model, repeats: int) -> Iterator[tuple[str, Measurement]]:
    """Our engine and `solve_problem` on the whole batch, cold and warm."""
    later = model.moved()
    solution = solve_problem(model.problem, model.parameters)
    yield "ours, end to end", _end_to_end(model, None, repeats)
    yield "ours, end to end, warm", _end_to_end(later, solution, repeats)
    runner = CONIC_ENGINES[solution.engine].prepare(model.program)
    assert not isinstance(runner, str)

    def prepare(program: ConicProgram, start: dict[str, Any], tolerance: float) -> tuple[Any, Any]:
        form = whole_form(program)
        return lambda: runner(program, start, tolerance), lambda points: _points_worst(form.measure, points)

    name = f"ours, solve ({solution.engine})"
    yield name, loosest(lambda tolerance: prepare(model.program, {}, tolerance), model.batch, repeats)
    state = dict(runner(model.program, {}, ACCURACY).state)
    yield REDUCTION, _reduction(model.program, repeats)
    yield "ours, solve, warm", loosest(lambda tolerance: prepare(later.program, state, tolerance), model.batch, repeats)


def _reduction(program: ConicProgram, repeats: int) -> Measurement:
    """Time of the reduction, whose stages are known: of the vectors alone where the batch shares its matrices."""
    stages = find_stages(program)
    kept = reduce_program(program, stages) if program.shared else None

    def run() -> None:
        (kept or reduce_program(program, stages)).vectors(program.q, program.b)

    seconds = statistics.median(_timed(run)[1] for _ in range(repeats))
    return Measurement(1e3 * seconds / program.batch, 0.0, 0.0)


def _end_to_end(model: Model, start: Solution | None, repeats: int) -> Measurement:
    def prepare(tolerance: float) -> tuple[Any, Any]:
        return lambda: solve_problem(model.problem, model.parameters, warm_start=start, tolerance=tolerance), _worst

    return loosest(prepare, model.batch, repeats)


def _worst(solution: Solution) -> float:
    parts = solution.residuals
    return float(torch.stack([parts.primal, parts.dual, parts.gap]).nan_to_num(torch.inf).max())


def _points_worst(measure: Callable[[Any, Any], float], points: Points) -> float:
    return measure(points.x.numpy(), points.y.numpy())


def model_table(key: str, model: Model, rows: list[tuple[str, Row]]) -> Table:
    """All solvers on one model; the ratios are a solver's time divided by ours."""
    made = {name: row for name, row in rows if isinstance(row, Measurement)}
    ours = [_ours(made, side) for side in (SOLVE, END_TO_END)]
    table = Table(title=f"{key}: {model.name}; CPU ms for an instance, {model.batch} of ours")
    for heading in ("solver", "ms", "tolerance", "worst residual", "of our solve", "of our end to end"):
        table.add_column(heading, justify="left" if heading == "solver" else "right")
    for name, row in rows:
        if isinstance(row, str):
            table.add_row(name, row)
            continue
        ratios = ["" if row.note == "WRONG" else f"{row.milliseconds / part:.3g}x" for part in ours]
        worst = f"{row.worst:.0e} {row.note}".strip()
        asked = f"{row.tolerance:.0e}" if row.tolerance else ""
        table.add_row(name, f"{row.milliseconds:.3g}", asked, worst if asked else "", *ratios)
    return table


def _ours(made: dict[str, Measurement], side: str) -> float:
    """Our cold time for the solve or the whole way."""
    return next(row.milliseconds for name, row in made.items()
                if name.startswith(f"ours, {side}") and "warm" not in name)  # fmt: skip


def figure_rows(key: str, peers: list[tuple[Peer, Row]], made: dict[str, Measurement]) -> Iterator[list[str]]:
    """Target, measured, met, for the figures of one model."""
    free: dict[str, float] = {}
    charged: dict[str, float] = {}
    for peer, row in peers:
        if not isinstance(row, Measurement) or not row.right:
            continue
        more = made[REDUCTION].milliseconds if "reduced" in peer.name else 0.0
        for times, cost in ((free, row.milliseconds), (charged, row.milliseconds + more)):
            times[peer.family] = min(cost, times.get(peer.family, float("inf")))
    ours = {side: _ours(made, side) for side in (SOLVE, END_TO_END)}
    for figure, ratios in judged(key, ours, free, charged):
        met = ratios[0 if figure.ours == SOLVE else 1] >= figure.factor
        yield [key, figure.family, f">= {figure.factor:.3g}x {figure.ours}", *(f"{ratio:.3g}x" for ratio in ratios),
               "met" if met else "NOT MET"]  # fmt: skip


def report(console: Console, keys: list[str], arguments: argparse.Namespace) -> None:
    """Print a table for every model, then the figures."""
    figures = Table(title="Figures: times of the peer divided by ours")
    for heading in ("model", "peer", "target", "solve", "end to end", "solve, definitions charged", ""):
        figures.add_column(heading)
    words = [word.lower() for word in arguments.peers]
    chosen = [peer for peer in PEERS if not words or any(word in peer.name.lower() for word in words)]
    for key in keys:
        model = MODELS[key](arguments.batch)
        ours = list(our_rows(model, arguments.repeats))
        peers = list(peer_rows(model, chosen, arguments.instances, arguments.repeats))
        console.print(model_table(key, model, [*ours, *((peer.name, row) for peer, row in peers)]))
        for row in figure_rows(key, peers, dict(ours)):
            figures.add_row(*row)
    console.print(figures)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--batch", type=int, default=1024, help="instances of our solves")
    parser.add_argument("--instances", type=int, default=12, help="instances of each loop over a peer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=[], help="words in the names of the peers to run")
    parser.add_argument("--roofline", action="store_true", help="share of the peak of matrix products")
    parser.add_argument("--scaling", action="store_true", help="time and memory from 1,000 to 100,000 instances")
    parser.add_argument("--compile", action="store_true", help="first and second solve of every model")
    parser.add_argument("--device", help="wall time of end-to-end solves on a device such as cuda, and here")
    parser.add_argument("--one-size", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - set(MODELS))
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; known: {', '.join(MODELS)}")
    keys = arguments.models or list(MODELS)
    warnings.simplefilter("ignore")  # solvers at loose tolerances warn of inaccurate answers; these are measured
    torch.set_num_threads(1)
    os.environ["RAYON_NUM_THREADS"] = "1"  # read by Moreau when it first runs
    console = Console(width=140)
    with threadpool_limits(1):
        if arguments.one_size:
            print(one_size(arguments.one_size))
        elif arguments.roofline:
            console.print(roofline_table(arguments.repeats))
        elif arguments.scaling:
            console.print(scaling_table())
        elif arguments.compile:
            console.print(compile_table(keys))
        elif arguments.device:
            console.print(device_table(arguments.device, keys, arguments.batch, arguments.repeats))
        else:
            report(console, keys, arguments)


if __name__ == "__main__":
    main()
