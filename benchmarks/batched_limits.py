"""How near `python -m benchmarks.batched` comes to limits: matrix products, memory, time per instance, compiling."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convexblocks.solvers import solve_problem
from convexblocks.solvers.box_runner import box_data
from convexblocks.solvers.elimination import find_stages, reduce_program
from convexblocks.solvers.projected_gradient import ENGINE, Curvature, minimize
from convexblocks.solvers.recognition import Box, find_box

from .batched_models import MODELS, fenchel

SIZES = (1_000, 10_000, 100_000)
WIDTHS = (64, 128, 256, 512)
ROWS = 256
"""About as many as `solve_problem` gives an engine at a time."""
MOST_MEMORY, MOST_GROWTH, LEAST_SHARE = 4.0, 1.3, 0.7


def roofline_table(repeats: int) -> Table:
    """The share of the machine's rate of products that projected gradient with constant momentum reaches.

    Counted are the operations of all matrix products, those of the checks between iterations too, and no others.
    """
    table = Table(title=f"Projected gradient, constant momentum, {ROWS} rows; GF are 1e9 operations per CPU second")
    for heading in ("n", "peak GF", "minimize GF", "share", "engine GF", "share", "minimize >= 0.7, n >= 128"):
        table.add_column(heading, justify="right")
    for width in WIDTHS:
        program = fenchel(width, ROWS).program
        reduction = reduce_program(program, find_stages(program))
        q, b, constant = reduction.vectors_and_constant(program.q, program.b)
        box = find_box(reduction, q, b)
        assert isinstance(box, Box)
        assert box.hinges is not None
        curvature = Curvature.of(reduction.P[box.columns][:, box.columns], box.hinges.W)
        assert curvature.momentum is not None
        data = box_data(box, {}, q, b, constant.expand(ROWS))
        runner = ENGINE.prepare(program)
        assert not isinstance(runner, str)
        with Products() as counted:
            minimize(curvature, data, 1e-6)
        operations = counted.operations
        left, right = torch.randn(ROWS, width, dtype=torch.float64), torch.randn(width, width, dtype=torch.float64)
        # Taken in turn, so that a machine that slows down slows all of them.
        peak, inner, whole = _rates({
            "product": (partial(_products, left, right, torch.empty_like(left)), 20 * 2 * ROWS * width**2),
            "minimize": (partial(minimize, curvature, data, 1e-6), operations),
            "engine": (partial(runner, program, {}, 1e-6), operations),
        }, max(repeats, 5)).values()  # fmt: skip
        verdict = "" if width < 128 else "met" if inner / peak >= LEAST_SHARE else "NOT MET"
        table.add_row(str(width), f"{peak:.1f}", f"{inner:.1f}", f"{inner / peak:.2f}", f"{whole:.1f}",
                      f"{whole / peak:.2f}", verdict)  # fmt: skip
    return table


class Products(TorchDispatchMode):
    """Counts the operations of products of two matrices, whichever function they are written with."""

    operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__.rstrip("_") in ("mm", "addmm"):
            left, right = [part for part in args if isinstance(part, Tensor)][-2:]
            self.operations += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return function(*args, **(kwargs or {}))


def _products(left: Tensor, right: Tensor, result: Tensor) -> None:
    for _ in range(20):
        torch.mm(left, right, out=result)


def _rates(runs: Mapping[str, tuple[Callable[[], Any], float]], repeats: int) -> dict[str, float]:
    """Median rate of each run, in 1e9 operations for a CPU second."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (run, _) in runs.items():
            began = time.process_time()
            run()
            times[name].append(time.process_time() - began)
    return {name: operations / statistics.median(times[name]) / 1e9 for name, (_, operations) in runs.items()}


def scaling_table() -> Table:
    """Time for an instance and memory of the process, one process for every size."""
    table = Table(title="fenchel n=128, end to end, parameters drawn in the process included in its memory")
    for heading in ("instances", "CPU ms for one", "of the first", "peak GiB", "unsolved", "<= 1.3x, <= 4 GiB"):
        table.add_column(heading, justify="right")
    first = None
    for size in SIZES:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.batched", "--one-size", str(size)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        first = first or found["milliseconds"]
        growth = found["milliseconds"] / first
        met = growth <= MOST_GROWTH and found["gibibytes"] <= MOST_MEMORY and not found["unsolved"]
        table.add_row(f"{size:,}", f"{found['milliseconds']:.4f}", f"{growth:.2f}x", f"{found['gibibytes']:.2f}",
                      str(found["unsolved"]), "met" if met else "NOT MET")  # fmt: skip
    return table


def one_size(size: int) -> str:
    """Solve so many instances in this process; milliseconds for one and peak memory, as JSON."""
    model = fenchel(128, size)
    few = {name: values[:100] for name, values in model.parameters.items()}
    solution, times = solve_problem(model.problem, few), list[float]()
    while len(times) < 3 and sum(times) < 20:
        began = time.process_time()
        solution = solve_problem(model.problem, model.parameters)
        times.append(time.process_time() - began)
    unsolved = sum(status.name != "SOLVED" for status in solution.status)
    # ru_maxrss counts KiB, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    milliseconds = 1e3 * statistics.median(times) / size
    return json.dumps({"milliseconds": milliseconds, "gibibytes": memory, "unsolved": unsolved})


def compile_table(keys: list[str]) -> Table:
    """What the first solve of a model costs beyond the second, which has other parameters."""
    table = Table(title=f"First and second solve, {ROWS} instances, CPU seconds (compile: wall seconds)")
    for heading in ("model", "first", "of it compile", "second", "of it compile", "engine"):
        table.add_column(heading, justify="right" if heading not in ("model", "engine") else "left")
    for key in keys:
        model = MODELS[key](ROWS)
        row, engine = [key], ""
        for parameters in (model.parameters, model.moved().parameters):
            began = time.process_time()
            solution = solve_problem(model.problem, parameters)
            row += [f"{time.process_time() - began:.3f}", f"{solution.compile_seconds:.4f}"]
            engine = solution.engine
        table.add_row(*row, engine)
    return table


def device_table(device: str, keys: list[str], batch: int, repeats: int) -> Table | str:
    """Wall time of end-to-end solves on a device and on the processor, and how far the answers are apart."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        return "torch sees no CUDA device here."
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    table = Table(title=f"End to end, {batch} instances, wall ms for one; {name} in float64")
    for heading in ("model", "engine", device, "cpu", "largest difference of a value"):
        table.add_column(heading)
    for key in keys:
        model = MODELS[key](batch)
        found = {}
        for place in (device, "cpu"):
            values = {name: torch.as_tensor(part, device=place) for name, part in model.parameters.items()}
            solution = solve_problem(model.problem, values)
            times = [_wall(model.problem, values, place) for _ in range(repeats)]
            found[place] = (1e3 * statistics.median(times) / batch, solution)
        theirs, ours = found[device][1].variables, found["cpu"][1].variables
        apart = max(float((theirs[name].cpu() - ours[name]).abs().max()) for name in ours)
        cells = [f"{found[place][0]:.4f}" for place in (device, "cpu")]
        table.add_row(key, found[device][1].engine, *cells, f"{apart:.0e}")
    return table


def _wall(problem: Any, values: Mapping[str, Tensor | np.ndarray], device: str) -> float:
    began = time.perf_counter()
    solve_problem(problem, values)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began
