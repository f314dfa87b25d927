"""The figure of `compare`: loss and test score of every run against CPU time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import COLOURS, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..networks.comparison import Run

INK = "#333b42"
EARLIEST = 1e-3
"""CPU seconds at which a logarithmic axis begins at the earliest."""


def draw(path: Path, runs: dict[str, list[Run]], task: str) -> None:
    """Write a PNG file: training loss (left) and test score (right) against CPU seconds, a line for each run.

    Methods that do not iterate are horizontal lines.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    score = "accuracy" if task == "classification" else "error"
    tested = any(f"test_{score}" in run for found in runs.values() for run in found)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6 if tested else 5.4, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2 if tested else 1, squeeze=False)[0]
        _panel(axes[0], runs, "true_loss", "training loss (sum over samples)")
        if tested:
            _panel(axes[1], runs, f"test_{score}", f"test {score}")
            if score == "accuracy":
                axes[1].set_yscale("linear")
                _leave_out_the_start(axes[1])
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 7))
        figure.savefig(path, dpi=150)


def _panel(axes: Axes, runs: dict[str, list[Run]], key: str, label: str) -> None:
    for place, (name, found) in enumerate(runs.items()):
        colour: Any = COLOURS[place % len(COLOURS)]
        style = ("-", "--", "-.")[place // len(COLOURS) % 3]
        for count, run in enumerate(found):
            legend = "_nolegend_" if count else name
            if not math.isfinite(run.get(key, math.nan)):
                continue
            if not run.get("trace"):
                axes.axhline(run[key], label=legend, color=INK, linestyle=":", linewidth=1.2)
                continue
            # The untrained network has spent no time, which a logarithmic axis cannot show.
            points = [
                (point["cpu_seconds"], point[key]) for point in run["trace"]
                if point["cpu_seconds"] > EARLIEST and math.isfinite(point[key])
            ]  # fmt: skip
            times, values = zip(*(points or [(EARLIEST, run[key])]), strict=True)
            axes.plot(times, values, label=legend, color=colour, linestyle=style, linewidth=1.3, alpha=0.85)
            axes.plot(times[-1], values[-1], color=colour, marker="o", markersize=4)
    axes.set_xscale("log")
    if all(value > 0 for line in axes.lines for value in _heights(line)):
        axes.set_yscale("log")
    axes.set_xlabel("CPU seconds")
    axes.set_ylabel(label)


def _heights(line: Any) -> list[float]:
    import numpy as np

    return [float(value) for value in np.asarray(line.get_ydata(), dtype=float)]


def _leave_out_the_start(axes: Axes) -> None:
    """The axis begins a little below where the worst method ends, so that the ends can be read."""
    ends = [_heights(line)[-1] for line in axes.lines]
    low, high = min(ends), max(value for line in axes.lines for value in _heights(line))
    axes.set_ylim(max(0.0, low - 0.6 * (high - low) - 0.01), min(1.002, high + 0.1 * (high - low) + 0.002))
