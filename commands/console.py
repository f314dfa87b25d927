"""What all commands share: consoles, tables, progress bars, and how figures are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..formulations.errors import UsageError

LIFTED = "lifted value (estimate)"

Event = dict[str, Any]


def output() -> Console:
    """The console of results; made anew for each use, because tests and pipes exchange the stream."""
    return Console(highlight=False)


def messages() -> Console:
    """The console of errors and progress bars."""
    return Console(stderr=True, highlight=False)


def complain(message: str) -> None:
    """Print an error of use."""
    console = messages()
    text = Text("Error: ", style="bold red")
    # no_wrap is off: long messages wrap at the width of the terminal, words and paths stay whole.
    console.print(text.append(message, style="default"), soft_wrap=not console.is_terminal)


def heading(text: str) -> None:
    """Print a headline with a rule, and a blank line before it."""
    console = output()
    console.print()
    console.rule(f"[bold]{escape(text)}", align="left", style="blue")


def read_settings(pairs: list[str]) -> dict[str, str]:
    """What the options --set NAME=VALUE say.

    Raises
    ------
    UsageError
        If one of them has another form.
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--set {pair!r} cannot be read; expected NAME=VALUE, e.g. --set width=64.")
        settings[name] = value
    return settings


def say(text: str) -> None:
    """Print plain text; square brackets in it are no markup."""
    output().print(text, markup=False)


def say_lines(text: str) -> None:
    """Print a text whose lines are already broken, e.g. a model, as it is."""
    typer.echo(text)


def print_json(data: Any) -> None:
    """Print one JSON object on one line; numbers that are not finite become null."""
    from ..solvers.history import finite

    typer.echo(json.dumps(finite(data), allow_nan=False))


def table(*columns: str, numbers: tuple[str, ...] = (), title: str | None = None) -> Table:
    """A table in the style of all commands; the columns of `numbers` are set to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def cells(*values: Any) -> list[str]:
    """Values as cells of a table, safe from markup."""
    return [escape(str(value)) for value in values]


def number(value: Any, digits: int = 4) -> str:
    """A figure with some significant digits, in positional notation where that is short; a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, float) and (value == 0 or 1e-3 <= abs(value) < 1e7):
        decimals = max(0, digits - len(str(int(abs(value)))))
        return f"{value:.{decimals}f}"
    return str(value) if isinstance(value, int) else f"{value:.1e}"


def percent(value: Any) -> str:
    """A fraction as a percentage; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.2f} %"


def small(value: float | None) -> str:
    """A residual: its order of magnitude matters; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.1e}" if value else "0"


@contextmanager
def sweep_progress(sweeps: int, *, quiet: bool = False) -> Iterator[Callable[[Event], None]]:
    """A progress bar over sweeps on a terminal; nothing in a pipe. Gives what `fit` wants for `on_event`."""
    console = messages()
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"), TimeElapsedColumn(),
        console=console, disable=quiet or not console.is_terminal,
    )  # fmt: skip
    with progress:
        task = progress.add_task("sweep", total=sweeps, figures="")

        def on_event(event: Event) -> None:
            if event["event"] == "sweep":
                progress.update(task, completed=event["record"]["sweep"], figures=_figures(event["record"]))
            elif event["event"] == "audit":
                progress.update(task, figures=f"audit: {event['audit']['block']}")

        yield on_event
        progress.update(task, total=progress.tasks[0].completed or 1)


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """A spinner on a terminal while something without known length goes on; nothing in a pipe."""
    console = messages()
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def _figures(record: dict[str, Any]) -> str:
    shown = f"objective {number(record['objective'])}"
    if record.get("test_accuracy") is not None:
        return f"{shown}  test {percent(record['test_accuracy'])}"
    return shown if record.get("test_error") is None else f"{shown}  test error {number(record['test_error'])}"
