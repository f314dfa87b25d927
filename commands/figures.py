"""Figures of a run's report, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .console import LIFTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from ..solvers.history import History

# Colours that stay apart for colour-blind readers (Okabe & Ito).
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
QUIET = "#6b7680"
CAPTIONS = {
    "loss": f"Training loss of the deployed network, with and without the penalty, and the {LIFTED} "
    "where there is one. "
    "Dotted: the training loss of the baselines.",
    "accuracy": "Share of right predictions of the deployed network. Dotted: the baselines on the test part.",
    "error": "Mean squared error of the deployed network. Dotted: the baselines on the test part.",
    "gaps": "Fenchel-Young gaps B_l summed over samples, after the activation blocks: "
    "how far the lifted activations moved from the forward pass.",
    "residuals": "Largest relative gap over the instances of a block, measured on the original program; "
    "dashed: the tolerance.",
    "seconds": "Wall time of the solves of each block.",
    "starts": "Mean iterations of each block, counted in the audited sweeps (or in one sweep).",
}
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": QUIET, "axes.labelcolor": "#333b42", "xtick.color": QUIET, "ytick.color": QUIET,
    "axes.grid": True, "grid.color": "#e6eaee", "axes.axisbelow": True,
    "legend.edgecolor": "none", "legend.framealpha": 0.85, "legend.fontsize": 8, "lines.linewidth": 1.6,
}  # fmt: skip

Draw = Callable[["Axes", "History", list[dict[str, Any]]], None]


def draw_all(history: History, baselines: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Every figure that the run has data for: its `title`, `caption` and `svg`."""
    classified = history.settings["task"] == "classification"
    plans: list[tuple[str, str, Draw]] = [
        ("Loss", CAPTIONS["loss"], _losses),
        ("Accuracy" if classified else "Error", CAPTIONS["accuracy" if classified else "error"], _scores),
    ]
    if len(history.records) > 1 and "layer_gaps" in history.last:
        plans.append(("Layer gaps", CAPTIONS["gaps"], _gaps))
    # Some methods take all their steps in closed form and send no block to an engine.
    if len(history.records) > 1 and history.last.get("blocks"):
        plans += [
            ("Residuals", CAPTIONS["residuals"], _residuals),
            ("Seconds of the blocks", CAPTIONS["seconds"], _seconds),
        ]
    if history.warm_and_cold():
        plans.append(("Warm and cold starts", CAPTIONS["starts"], _warm_and_cold))
    return [
        {"title": title, "caption": caption, "svg": _svg(title, draw, history, baselines)}
        for title, caption, draw in plans
    ]


def _svg(title: str, draw: Draw, history: History, baselines: list[dict[str, Any]]) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The salt keeps the identifiers of several figures in one page apart, and equal from run to run.
    with mpl.rc_context(STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(5.4, 3.1), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot(), history, baselines)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    # What stands before the element is a document type with an address, which has no place in HTML.
    return text[text.index("<svg") :]


def _line(axes: Axes, history: History, key: str, label: str, colour: str) -> None:
    points = [(record["sweep"], record[key]) for record in history.records if record.get(key) is not None]
    if points:
        sweeps, values = zip(*points, strict=True)
        axes.plot(sweeps, values, label=label, color=colour, marker="o" if len(points) == 1 else "", markersize=4)


def _baseline_lines(axes: Axes, baselines: list[dict[str, Any]], key: str) -> None:
    for place, method in enumerate(baselines):
        if method.get(key) is not None:
            axes.axhline(method[key], label=method["name"], color=COLOURS[3 + place], linestyle=":")


def _heights(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata(), dtype=float)]


def _finish(axes: Axes, ylabel: str, *, logarithmic: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("sweep")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lowest = [min(_heights(line)) for line in axes.lines]
    if logarithmic and lowest and min(lowest) > 0:
        axes.set_yscale("log")
    axes.legend()


def _losses(axes: Axes, history: History, baselines: list[dict[str, Any]]) -> None:
    _line(axes, history, "objective", "loss + penalty", COLOURS[0])
    _line(axes, history, "true_loss", "training loss", COLOURS[1])
    _line(axes, history, "lifted_estimate", LIFTED, COLOURS[2])
    _baseline_lines(axes, baselines, "true_loss")
    _finish(axes, "sum over samples", logarithmic=True)


def _scores(axes: Axes, history: History, baselines: list[dict[str, Any]]) -> None:
    classified = history.settings["task"] == "classification"
    measure = "accuracy" if classified else "error"
    _line(axes, history, f"train_{measure}", "training", COLOURS[0])
    _line(axes, history, f"test_{measure}", "test", COLOURS[1])
    _baseline_lines(axes, baselines, f"test_{measure}")
    _finish(axes, measure, logarithmic=not classified)
    if classified:
        _leave_out_the_start(axes, history, measure)


def _leave_out_the_start(axes: Axes, history: History, measure: str) -> None:
    """Untrained networks guess; the axis begins where training does, so that the end can be read."""
    trained = [record[f"{part}_{measure}"] for record in history.records[1:] for part in ("train", "test")
               if record.get(f"{part}_{measure}") is not None]  # fmt: skip
    if trained:
        low = min([*trained, *(_heights(line)[0] for line in axes.lines if line.get_linestyle() == ":")])
        axes.set_ylim(max(0.0, low - 0.02), 1.005)


def _gaps(axes: Axes, history: History, baselines: list[dict[str, Any]]) -> None:
    records = history.records[1:]
    for place in range(len(records[0]["layer_gaps"])):
        values = [record["layer_gaps"][place] for record in records]
        axes.plot([record["sweep"] for record in records], values, label=f"B_{place + 1}", color=COLOURS[place % 6])
    _finish(axes, "gap, summed", logarithmic=True)


def _block_lines(axes: Axes, history: History, figure: str) -> None:
    records = history.records[1:]
    for place, label in enumerate(records[0]["blocks"]):
        points = [(r["sweep"], r["blocks"][label][figure]) for r in records if r["blocks"][label][figure] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=COLOURS[place % 6])


def _residuals(axes: Axes, history: History, baselines: list[dict[str, Any]]) -> None:
    _block_lines(axes, history, "gap")
    axes.axhline(history.settings["block_tolerance"], color=QUIET, linestyle="--", linewidth=1)
    _finish(axes, "relative gap", logarithmic=True)


def _seconds(axes: Axes, history: History, baselines: list[dict[str, Any]]) -> None:
    _block_lines(axes, history, "seconds")
    axes.set_ylim(bottom=0)
    _finish(axes, "seconds in a sweep")


def _warm_and_cold(axes: Axes, history: History, baselines: list[dict[str, Any]]) -> None:
    means = history.warm_and_cold()
    for shift, (start, colour) in enumerate((("warm", COLOURS[0]), ("cold", COLOURS[5]))):
        places = [place + 0.38 * (shift - 0.5) for place in range(len(means))]
        axes.bar(places, [mean[start] for mean in means.values()], 0.36, label=start, color=colour)
    axes.set_xticks(range(len(means)), list(means))
    axes.set_ylabel("iterations")
    axes.grid(axis="x", visible=False)
    axes.legend()
