"""The summary of a program in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cones import cone_text
from .model_text import left_out, property_lines
from .naming import text_latex

ROW_END = " \\\\\n"


def summary_latex(summary: dict[str, Any], cap: int | None) -> str:
    """Lay out the summary of `render_json` as arrays, one below the other."""
    title = ", ".join(filter(None, (summary["title"], summary["instance"])))
    blocks = [rf"{text_latex(title)}", _model(summary, cap), _convexity(summary["convexity"], cap)]
    notes = [
        f"cones after canonicalization: {cone_text(summary['cones'])}",
        *property_lines(summary["properties"]),
    ]
    if summary["source"]:
        notes.append(f"source: {summary['source']}")
    return _array("l", [[block] for block in [*filter(None, blocks), *map(text_latex, notes)]])


def _array(columns: str, rows: Sequence[Sequence[str]]) -> str:
    # An empty cell at the end of the last row makes latex2mathml drop that row: {} keeps it.
    lines = [" & ".join(cell or "{}" for cell in row) for row in rows]
    return f"\\begin{{array}}{{{columns}}}\n{ROW_END.join(lines)}\n\\end{{array}}"


def _model(summary: dict[str, Any], cap: int | None) -> str:
    rows = _items(summary["sense"], summary["objective"], cap, "terms", signs=True)
    rows += _items("subject to", summary["constraints"], cap, "constraints")
    for head, kind in (("variables", "variable"), ("data", "data"), ("constants", "constant")):
        symbols = [symbol for symbol in summary["symbols"] if symbol["kind"] == kind]
        for position, symbol in enumerate(symbols[:cap]):
            words = [symbol["meaning"], symbol["sharing"], *symbol["attributes"]]
            rows.append(
                [
                    text_latex(head) if position == 0 else "",
                    rf"{symbol['latex'] or text_latex(symbol['name'])} \in {symbol['set_latex']}",
                    text_latex(", ".join(filter(None, words))),
                ]
            )
        rows += _rest(len(symbols), cap, head)
    return _array("lll", rows)


def _items(
    head: str, items: Sequence[dict[str, Any]], cap: int | None, what: str, signs: bool = False
) -> list[list[str]]:
    rows = []
    for position, item in enumerate(items[:cap]):
        latex = item["latex"]
        if signs and position and not latex.startswith("-"):
            latex = f"{{}} + {latex}"
        rows.append([text_latex(head) if position == 0 else "", latex, text_latex(item["label"] or "")])
    return rows + _rest(len(items), cap, what)


def _rest(total: int, cap: int | None, what: str) -> list[list[str]]:
    text = left_out(total, cap, what)
    return [["", text_latex(text), ""]] if text else []


def _convexity(rows: Sequence[dict[str, str]], cap: int | None) -> str:
    if not rows:
        return ""
    heads = [text_latex(head) for head in ("why convex", "sign", "curvature", "rule")]
    table = [[text_latex(row[key]) for key in ("term", "sign", "curvature", "rule")] for row in rows[:cap]]
    rest = left_out(len(rows), cap, "rows")
    return _array("llll", [heads, *table, *([[text_latex(rest), "", "", ""]] if rest else [])])
