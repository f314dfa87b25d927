"""`convexblocks list`: what can be shown, trained and solved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..formulations.activations import ACTIVATIONS, WITH_PARAMETER, activation
from ..formulations.catalogue import METHODS, SUBPROBLEMS
from ..formulations.losses import LOSSES
from .console import cells, output, print_json, table


def list_everything(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List formulations, blocks, engines, activations, losses and data sets."""
    found = catalogue()
    if json:
        print_json(found)
        return
    console = output()
    for title, columns in HEADINGS.items():
        shown = table(*columns, title=title)
        for row in found[title]:
            shown.add_row(*cells(*(row[column] for column in columns)))
        console.print(shown, "")


HEADINGS = {
    "formulations": ("name", "penalty", "relaxation", "parallel", "paper"),
    "blocks": ("name", "one instance is", "program"),
    "engines": ("name", "takes", "solves"),
    "activations": ("name", "range", "convex model"),
    "losses": ("name", "task"),
    "data sets": ("name", "what", "from"),
}


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """Everything that has a name, as plain data."""
    # Importing these brings torch and scikit-learn.
    from ..networks.data_files import FOLDER_VARIABLE
    from ..networks.datasets import BUILT_IN, FROM_FOLDER

    folder = f"--data-dir or {FOLDER_VARIABLE}"
    blocks = {name: block() for name, block in SUBPROBLEMS.items()}
    return {
        "formulations": [
            {
                "name": name, "penalty": made.penalty, "relaxation": made.relaxation, "parallel": made.parallel,
                "limits": made.limits, "paper": made.paper,
            }
            for name, made in METHODS.items()
        ],
        "blocks": [
            {"name": name, "one instance is": block.instance, "program": _first_line(block.__doc__)}
            for name, block in blocks.items()
        ],
        "engines": _engine_rows(),
        "activations": [_activation_row(name) for name in ACTIVATIONS],
        "losses": [{"name": name, "task": loss.task} for name, loss in LOSSES.items()],
        "data sets": [
            *({"name": name, "what": what, "from": "scikit-learn"} for name, what in BUILT_IN.items()),
            *({"name": name, "what": what, "from": folder} for name, what in FROM_FOLDER.items()),
            {"name": "PATH.npz", "what": "arrays X, y (and X_test, y_test)", "from": "a file"},
            {"name": "PATH.csv", "what": "a header; the target last", "from": "a file"},
        ],
    }  # fmt: skip


def _engine_rows() -> list[dict[str, str]]:
    """The engines of the package's own blocks, and those of any program; they may have names in common."""
    from ..solvers.batch import ENGINES
    from ..solvers.conic_engines import CONIC_ENGINES
    from ..solvers.engine_report import install_command

    rows = [{"name": name, "takes": "blocks", "solves": made.solves, "install": ""} for name, made in ENGINES.items()]
    for name, engine in CONIC_ENGINES.items():
        install = install_command(engine)
        solves = f"{engine.solves} (not installed: {install})" if install else engine.solves
        rows.append({"name": name, "takes": "programs", "solves": solves, "install": install})
    return rows


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _activation_row(name: str) -> dict[str, str]:
    row = activation(name)
    ends = "simplex" if row.couples_units else f"{row.low:.4g} to {row.high:.4g}"
    label = f"{name}(number), default {row.parameter:g}" if name in WITH_PARAMETER else name
    return {"name": label, "range": ends, "convex model": "yes" if row.has_model else "no"}
