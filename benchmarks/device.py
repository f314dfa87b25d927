"""Sweep times on the processor and on a GPU, and by how much the trained networks differ.

    python -m benchmarks.device [--device cuda] [--data digits] [--hidden 256] [--sweeps 5]

Every method of the catalogue with its defaults, from the same network in float64. Wall seconds of a sweep, the median
of all but the first (which warms up libraries); the device is waited for before a clock is read. The last column is the
largest difference between a weight or bias on the processor and on the GPU after all sweeps.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from convexblocks.formulations import UsageError
from convexblocks.formulations.catalogue import METHODS, method
from convexblocks.networks import Dataset, load_dataset
from convexblocks.solvers import build_network, fit_method
from convexblocks.solvers.devices import usable_devices


def trained(name: str, data: Dataset, hidden: int, sweeps: int, device: str) -> tuple[float, list[torch.Tensor]]:
    """Median seconds of a sweep, and the parameters afterwards."""
    widths = (data.X_train.shape[1], hidden, data.outputs)
    network = build_network(widths, "relu", random_state=0, dtype=torch.float64).to(device)
    clock = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "sweep":
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            clock.append(time.perf_counter())

    fit_method(network, data.train, method(name), sweeps=sweeps, on_event=on_event)
    lengths = [after - before for before, after in pairwise(clock)]
    return median(lengths), [parameter.detach().cpu() for parameter in network.parameters()]


def table(data: Dataset, hidden: int, sweeps: int, device: str) -> Table:
    """All methods on both devices."""
    result = Table(title=f"{data.name}, {data.X_train.shape[1]}-{hidden}-{data.outputs} ReLU, float64")
    for heading in ("method", "cpu, ms a sweep", f"{device}, ms a sweep", "largest difference"):
        result.add_column(heading, justify="left" if heading == "method" else "right")
    for name in METHODS:
        try:
            (here, weights), (there, others) = (trained(name, data, hidden, sweeps, each) for each in ("cpu", device))
        except UsageError as error:
            result.add_row(name, "", "", str(error))
            continue
        difference = max(float((a - b).abs().max()) for a, b in zip(weights, others, strict=True))
        result.add_row(name, f"{1e3 * here:.1f}", f"{1e3 * there:.1f}", f"{difference:.1e}")
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--sweeps", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.device not in usable_devices():
        parser.error(f"the device {arguments.device!r} cannot be used here; usable: {', '.join(usable_devices())}")
    if arguments.sweeps < 2:
        parser.error("--sweeps is below 2; the first sweep is not timed")
    Console(width=120).print(table(load_dataset(arguments.data), arguments.hidden, arguments.sweeps, arguments.device))


if __name__ == "__main__":
    main()
