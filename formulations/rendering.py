"""Show a convex program: as text, LaTeX, HTML, or plain data. Rendering is total: it never raises.

All forms are views of one summary, `render_json`, so that none can say what another leaves out.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import cvxpy as cp

from .blame import explain_not_dcp, explain_not_dpp
from .cones import cone_sizes
from .description import Description
from .explanation import ConvexityRow, convexity_table, label_of, objective_terms
from .latex import constraint_latex, expression_latex
from .model_html import summary_html
from .model_latex import summary_latex
from .model_text import summary_text
from .naming import Names, assign_names, key_of, leaf_name, printable, shape_latex, symbols_of
from .plain_text import Limits, constraint_text, expression_text
from .reading import attempt

__all__ = ["render_html", "render_json", "render_latex", "render_text"]

# The rows of each table that a notebook shows.
NOTEBOOK_ROWS = 24


def render_text(
    problem: cp.Problem, description: Description | None = None, *, cap: int | None = None
) -> str:
    """Show a program as text for a terminal.

    Parameters
    ----------
    problem : cvxpy.Problem
        Any problem, convex or not.
    description : Description, optional
        The words that go with it.
    cap : int or None
        Rows shown of each table; None shows all.

    Returns
    -------
    str
        Lines of at most 96 characters, formulas that are longer excepted.
    """
    return summary_text(render_json(problem, description), cap)


def render_latex(
    problem: cp.Problem, description: Description | None = None, *, cap: int | None = NOTEBOOK_ROWS
) -> str:
    """Show a program in LaTeX.

    Parameters
    ----------
    problem : cvxpy.Problem
        Any problem, convex or not.
    description : Description, optional
        The words that go with it.
    cap : int or None
        Rows shown of each table; None shows all.

    Returns
    -------
    str
        LaTeX for mathematics mode (no dollar signs), which latex2mathml accepts too.
    """
    return summary_latex(_summary(problem, description, cap), cap)


def render_html(
    problem: cp.Problem, description: Description | None = None, *, cap: int | None = NOTEBOOK_ROWS
) -> str:
    """Show a program as one self-contained HTML fragment with formulas in MathML.

    Parameters
    ----------
    problem : cvxpy.Problem
        Any problem, convex or not.
    description : Description, optional
        The words that go with it.
    cap : int or None
        Rows shown of each table; None shows all.

    Returns
    -------
    str
        A fragment for a notebook or a page.
    """
    return summary_html(_summary(problem, description, cap), cap)


def render_json(problem: cp.Problem, description: Description | None = None) -> dict[str, Any]:
    """Show a program as plain data.

    Parameters
    ----------
    problem : cvxpy.Problem
        Any problem, convex or not.
    description : Description, optional
        The words that go with it.

    Returns
    -------
    dict
        Texts, whole numbers, lists and dictionaries: ``title``, ``instance``, ``mathematics``, ``source``,
        ``sense``, ``objective``, ``constraints``, ``symbols``, ``convexity``, ``cones``, ``properties``,
        ``latex``. Arrays of numbers appear by name and shape, never by their entries.
    """
    summary = _summary(problem, description, None)
    return {**summary, "latex": summary_latex(summary, None)}


def _summary(problem: Any, description: Description | None, cap: int | None) -> dict[str, Any]:
    names = attempt(lambda: assign_names(problem, description), Names())
    terms: list[Any] = attempt(lambda: objective_terms(problem), [])
    constraints: list[Any] = attempt(lambda: list(problem.constraints), [])
    rows: list[ConvexityRow] = attempt(lambda: convexity_table(problem, names), [])
    return {
        "title": printable(description.title) if description else "convex program",
        "instance": printable(description.instance) if description else "",
        "mathematics": str(description.mathematics) if description else "",
        "source": printable(description.source) if description else "",
        "sense": "maximize" if isinstance(problem.objective, cp.Maximize) else "minimize",
        "objective": [
            {
                "label": attempt(partial(label_of, term), None),
                "text": expression_text(term, names, Limits(items=cap)),
                "latex": expression_latex(term, names, Limits(items=cap, depth=24)),
            }
            for term in terms
        ],
        "constraints": [
            {
                "label": attempt(partial(label_of, item), None),
                "text": constraint_text(item, names, Limits(items=cap)),
                "latex": constraint_latex(item, names, Limits(items=cap, depth=24)),
            }
            for item in constraints
        ],
        "symbols": _symbols(problem, names, description),
        "convexity": [asdict(row) for row in rows],
        "cones": attempt(lambda: cone_sizes(problem), {"message": "not known"}),
        "properties": _properties(problem),
    }


def _symbols(problem: Any, names: Names, description: Description | None) -> list[dict[str, Any]]:
    leaves: list[Any] = attempt(lambda: symbols_of(problem), [])
    if description is not None:
        order = {symbol.name: position for position, symbol in enumerate(description.symbols)}
        leaves = sorted(leaves, key=lambda leaf: order.get(leaf_name(leaf), len(order)))
    no_attributes: list[str] = []
    rows = []
    for leaf in [*leaves, *names.constants]:
        name = names.plain.get(key_of(leaf)) or leaf_name(leaf)
        symbol = description.symbol(leaf_name(leaf)) if description else None
        kind = "variable" if isinstance(leaf, cp.Variable) else "data"
        constant = isinstance(leaf, cp.Constant)
        rows.append(
            {
                "name": name,
                "kind": "constant" if constant else kind,
                "shape": [int(size) for size in leaf.shape],
                "meaning": printable(symbol.meaning) if symbol else "",
                "sharing": symbol.sharing if symbol else "",
                "attributes": [] if constant else attempt(partial(_attributes, leaf), no_attributes),
                "latex": names.latex.get(key_of(leaf), ""),
                "set_latex": attempt(partial(shape_latex, leaf), r"\mathbb{R}"),
            }
        )
    return rows


def _attributes(leaf: Any) -> list[str]:
    declared = []
    for name, value in leaf.attributes.items():
        if value is None or value is False:
            continue
        declared.append(name if value is True or name == "bounds" else f"{name} in part")
    return declared


def _properties(problem: Any) -> dict[str, Any]:
    dcp = attempt(lambda: bool(problem.is_dcp()), False)
    mixed_integer = attempt(lambda: bool(problem.is_mixed_integer()), False)
    return {
        "convex": dcp and not mixed_integer,
        "dcp": dcp,
        "dpp": attempt(lambda: bool(problem.is_dcp(dpp=True)), False),
        "qp": attempt(lambda: bool(problem.is_qp()), False),
        "mixed_integer": mixed_integer,
        "why_not_dcp": attempt(lambda: explain_not_dcp(problem), None),
        "why_not_dpp": attempt(lambda: explain_not_dpp(problem), None) if dcp else None,
    }
