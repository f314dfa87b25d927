"""`convexblocks report`: a run as one self-contained HTML page."""

from __future__ import annotations

import json as plain_json
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formulations.catalogue import FORMULATIONS
from ..formulations.catalogue import LIFTED as KEPT
from ..formulations.errors import UsageError
from .console import LIFTED, number, say, small, working
from .results import audit_row, kink_note, own_figures, read_baselines, side_by_side

if TYPE_CHECKING:
    from ..solvers.run import Run

REPORT = "report.html"


def report(run: Annotated[Path, typer.Argument(help="The --out folder of `convexblocks train`.")]) -> None:
    """Write RUN/report.html: the run as one page that needs no network and no server."""
    with working("report ..."):
        path = write_report(run)
    say(f"Written: {path}")


def write_report(folder: Path) -> Path:
    """Write the report of a run into its folder, and give its path.

    Raises
    ------
    UsageError
        If the folder is no run or cannot be written.
    """
    from ..solvers.run import load

    page = render(load(folder))
    path, new = folder / REPORT, folder / (REPORT + ".new")
    try:
        new.write_text(page, encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        raise UsageError(
            f"the report {str(path)!r} cannot be written ({error.strerror}); make the folder writable."
        ) from None
    return path


def render(run: Run) -> str:
    """The page of a run."""
    from jinja2 import Environment
    from markupsafe import Markup

    from .figures import draw_all

    baselines = read_baselines(run.path)
    names, rows = side_by_side([own_figures(run.history.last), *baselines])
    figures = draw_all(run.history, baselines)
    block_title, block = _block(run)
    price = run.history.last.get("kink_price")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    return template.render(
        title=_title(run),
        stop_reason=run.history.stop_reason,
        sweeps=run.history.last["sweep"],
        lifted=LIFTED,
        has_lifted=run.settings["method"] in {**FORMULATIONS, **KEPT},
        names=names,
        rows=rows,
        baselines=baselines,
        kinks="" if price is None else kink_note(run.settings["method"], price),
        # Both are markup by construction: matplotlib escapes the text of figures, and the model's page its own.
        figures=[{**figure, "svg": Markup(figure["svg"])} for figure in figures],
        block_title=block_title,
        block=Markup(block),
        audits=[(audit_row(audit), audit.get("note", "")) for audit in run.history.audits],
        last_blocks=_last_blocks(run.history.last),
        settings=_rows(run.settings),
        data=_rows(run.notes.get("data", {})),
        versions=_rows(run.saved.described["versions"]),
    )


def _title(run: Run) -> str:
    name = run.notes.get("data", {}).get("name", "a network")
    return f"{name}: {'-'.join(map(str, run.settings['widths']))} by convex blocks ({run.settings['method']})"


def _block(run: Run) -> tuple[str, str]:
    """A block of the first hidden layer in words and as a model; empty where the run has none to show."""
    from ..formulations.catalogue import formulation
    from ..formulations.errors import NoConvexModelError
    from ..formulations.formulation import LiftedState, Step
    from ..formulations.losses import find_loss
    from ..formulations.target_blocks import target_block
    from ..solvers.layered import read_network

    # Of convolutions and graphs a block has too many rows to be read, and learned activations have no row in the table.
    if len(run.settings["widths"]) < 3 or "layers" in run.settings or run.settings["method"] in KEPT:
        return "", ""
    layered = read_network(run.module)
    architecture = layered.architecture(find_loss(run.settings["loss"]), run.settings["weight_decay"])
    settings = run.settings["formulation"]
    try:
        if run.settings["method"] not in FORMULATIONS:
            sizes = {"batch": run.settings["batch_size"], "samples": run.settings["samples"]}
            block = target_block(architecture, 1, proximity=settings["proximity"], **sizes)
            return f"the weights of {block.instance} of layer 1, one mini-batch", block.html()
        method = formulation(run.settings["method"], **settings)
        weights, biases = layered.parameters()
        empty = weights[0].new_zeros((1, layered.widths[0])), weights[0].new_zeros((1, layered.widths[-1]))
        state = LiftedState(*empty, weights, biases)
        method.start(architecture, state)
        shown = method.gather(Step("activation", 1), architecture, state).subproblem
        return "the activations of hidden layer 1, one sample", shown.html()
    except NoConvexModelError:
        return "", ""


def _last_blocks(last: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            label, block["engine"], str(block["instances"]),
            number(block["iterations"], 3), number(block["seconds"], 3),
            *(small(block[name]) for name in ("primal", "dual", "gap")), str(block["unsolved"]),
        )
        for label, block in last.get("blocks", {}).items()
    ]  # fmt: skip


def _rows(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Settings as texts, JSON for what is nested."""
    return [
        (name.replace("_", " "), value if isinstance(value, str) else plain_json.dumps(value))
        for name, value in settings.items()
    ]
