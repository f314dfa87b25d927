"""`convexblocks fit-spline`: the best function of one feature with bounded slopes, drawn and verified."""

from __future__ import annotations

import json as plain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formulations.errors import UsageError
from ..formulations.slope_properties import slope_property
from ..formulations.spline_losses import spline_loss
from ..formulations.subproblem import require_nonnegative
from .console import cells, number, output, print_json, say, small, table, working

if TYPE_CHECKING:
    import numpy as np

    from ..solvers.splines import SplineFit

Option = typer.Option


def fit_spline(
    data: Annotated[Path, typer.Argument(metavar="DATA", help=".csv with a header: one feature, and the target last.")],
    slopes: Annotated[
        str, Option(metavar="LOW,HIGH", help="Bounds (0,inf), or a property: monotone, convex, nonexpansive, ...")
    ] = "free",
    tv: Annotated[float, Option("--tv", metavar="X", help="Price of the kinks.")] = 1.0,
    loss: Annotated[str, Option(metavar="NAME", help="squared, huber(1), absolute, quantile(0.9), ...")] = "squared",
    knots: Annotated[int | None, Option(metavar="N", help="On an even grid; by default the best function.")] = None,
    out: Annotated[Path | None, Option(metavar="RUN", help="New folder for spline.json and spline.png.")] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a linear spline with few kinks and bounded slopes to one feature, with a verified gap."""
    chosen, measured = slope_property(slopes), spline_loss(loss)
    require_nonnegative(tv=tv)
    x, y = _read(data)
    if out is not None and out.exists():
        raise UsageError(f"{str(out)!r} is there already; expected a new folder: choose another name or remove it.")
    from ..networks.spline_regressor import even_knots
    from ..solvers.spline_exact import fit_spline_exact
    from ..solvers.splines import fit_splines

    settings: dict[str, Any] = {"slopes": chosen, "penalty": tv, "loss": measured}
    with working("fitting ...", quiet=json):
        if knots is None:
            fit = fit_spline_exact(x, y, **settings)
        else:
            fit = fit_splines(x, y, even_knots(x, knots), **settings)
    summary = _summary(fit, exact=knots is None)
    if out is not None:
        _save(out, fit, summary, x, y)
    if json:
        print_json(summary)
        return
    shown = table("", "")
    shown.show_header = False
    over = "every function with these slopes" if knots is None else "every spline on these knots"
    for row in (
        ("objective", number(summary["objective"], 8)),
        ("dual value", f"{number(summary['dual_value'], 8)}, below {over}"),
        ("relative gap", f"{small(summary['relative_gap'])}, verified in floating point"),
        ("kinks", str(summary["kinks"])),
        ("slopes", f"{summary['least_slope']:.4g} to {summary['greatest_slope']:.4g}, violation "
                   f"{small(summary['slope_violation'])}"),
    ):  # fmt: skip
        shown.add_row(*cells(*row))
    output().print(shown)
    if summary["slope_reach"] is not None:
        say(f"A bound is infinite: the dual value holds for slopes up to {summary['slope_reach']:.3g} in size.")
    say("Nothing was saved: give --out RUN." if out is None else f"Saved in {out}: spline.json, spline.png.")
    if not summary["solved"]:
        say("The gap misses its tolerance, 1e-9: this spline may not be the best.")


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    from ..networks.data_files import read_file

    (X, y), _ = read_file(path)
    X = np.asarray(X, dtype=float).reshape(len(y), -1)
    if X.shape[1] != 1:
        raise UsageError(
            f"{str(path)!r} has {X.shape[1]} features; a spline is a function of one: keep one column and the target."
        )
    bad = np.flatnonzero(~(np.isfinite(X[:, 0]) & np.isfinite(y)))
    if len(bad):
        raise UsageError(
            f"sample {bad[0] + 1} of {str(path)!r} is empty, NaN or infinite; expected finite numbers: remove "
            + ("that line." if len(bad) == 1 else f"the {len(bad)} lines like that.")
        )
    return X[:, 0], y


def _summary(fit: SplineFit, *, exact: bool) -> dict[str, Any]:
    reach = float(fit.reach[0])
    return {
        "objective": float(fit.objective[0]), "dual_value": float(fit.dual_value[0]),
        "relative_gap": float(fit.relative_gap[0]), "knots": len(fit.knots), "kinks": int(fit.kinks.sum()),
        "slope_violation": float(fit.slope_violation[0]), "least_slope": float(fit.slopes.min()),
        "greatest_slope": float(fit.slopes.max()), "slope_reach": reach if reach < float("inf") else None,
        "exact": exact, "solved": fit.solved,
    }  # fmt: skip


def _save(out: Path, fit: SplineFit, summary: dict[str, Any], x: np.ndarray, y: np.ndarray) -> None:
    out.mkdir(parents=True)
    spline = {
        "knots": fit.knots[:, 0].tolist(), "values": fit.coefficients[:, 0].tolist(),
        "slopes": fit.slopes[:, 0].tolist(),
    }  # fmt: skip
    (out / "spline.json").write_text(plain.dumps({"summary": summary, "spline": spline}, indent=1), encoding="utf-8")
    _draw(out / "spline.png", fit, x, y)


def _draw(path: Path, fit: SplineFit, x: np.ndarray, y: np.ndarray) -> None:
    import matplotlib as mpl
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .figures import COLOURS, QUIET, STYLE

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(x, y, ".", color=QUIET, alpha=0.5, markersize=4, label="samples")
        ends = np.array([min(x.min(), fit.knots[0, 0]), max(x.max(), fit.knots[-1, 0])])
        line = np.unique(np.concatenate([fit.knots[:, 0], ends]))
        axes.plot(line, fit.values(line[:, None])[:, 0], color=COLOURS[0], label="spline", linewidth=2)
        bent = fit.knots[1:-1, 0][fit.kinks[:, 0]]
        axes.plot(bent, fit.values(bent[:, None])[:, 0], "o", color=COLOURS[1], markersize=5, label="kinks")
        axes.set_xlabel("feature")
        axes.set_ylabel("target")
        axes.legend()
        figure.savefig(path, dpi=150)
