"""The command line: `convexblocks COMMAND`. Errors of use go to stderr, with exit code 2."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..formulations.errors import UsageError
from .certify import certify
from .check import check
from .compare import compare
from .console import complain
from .demo import demo
from .denoise import denoise
from .fit_spline import fit_spline
from .listing import list_everything
from .report import report
from .show import show
from .train import train


class Commands(TyperGroup):
    """The group of commands; what a person can act on is printed without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error of use ends it with exit code 2, a failed solve with 1."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            complain(str(error))
            raise typer.Exit(2) from None
        except RuntimeError as error:
            # Imported here because it comes with torch, which light commands do without.
            from ..solvers.solution import SolveError

            if not isinstance(error, SolveError):
                raise
            complain(str(error))
            raise typer.Exit(1) from None


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as installed

        try:
            typer.echo(f"convexblocks {installed('convexblocks')}")
        except PackageNotFoundError:
            typer.echo("convexblocks (from a checkout that is not installed)")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo)
app.command("list")(list_everything)
app.command("show")(show)
app.command("train")(train)
app.command("compare")(compare)
app.command("report")(report)
app.command("certify")(certify)
app.command("check")(check)
app.command("fit-spline")(fit_spline)
app.command("denoise")(denoise)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train neural networks by solving convex problems that you can read."""


def main() -> None:
    """Entry point of the `convexblocks` script."""
    app(prog_name="convexblocks")


if __name__ == "__main__":
    main()
