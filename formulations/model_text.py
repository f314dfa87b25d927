"""The summary of a program as aligned text."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from .cones import cone_text

WIDTH = 80
INDENT = 12
LABEL_WIDTH = 30


def summary_text(summary: dict[str, Any], cap: int | None) -> str:
    """Lay out the summary of `render_json` as text of `WIDTH` columns."""
    blocks = [
        _headline(summary),
        *_opening_block(summary),
        _section(summary["sense"], _labelled(summary, "objective", "terms", cap)),
        _section("subject to", _labelled(summary, "constraints", "constraints", cap) or ["(no constraints)"]),
        *_symbol_blocks(summary["symbols"], cap),
        "why convex",
        *convexity_lines(summary["convexity"], cap),
        _section("cones", _wrapped(f"after canonicalization: {cone_text(summary['cones'])}")),
        _section(
            "properties", [part for line in property_lines(summary["properties"]) for part in _wrapped(line)]
        ),
    ]
    if summary["source"]:
        blocks.append(_section("source", _wrapped(summary["source"])))
    return "\n".join(blocks)


def property_lines(properties: dict[str, Any]) -> list[str]:
    """Say whether a program is convex, DCP, DPP and a quadratic program, and why not where it is not."""
    answers = [f"{name.upper()} {'yes' if properties[name] else 'no'}" for name in ("dcp", "dpp", "qp")]
    if properties["mixed_integer"]:
        answers.append("mixed-integer, hence not convex")
    reasons = (properties["why_not_dcp"], properties["why_not_dpp"])
    return [", ".join(answers), *(reason for reason in reasons if reason)]


def opening(mathematics: str) -> str:
    """Return the first paragraph and the display below it: what follows in a docstring repeats the tables."""
    lines = (line.rstrip() for line in inspect.cleandoc(mathematics).splitlines())
    visible = ("".join(filter(str.isprintable, line)) for line in lines)
    first, _, rest = "\n".join(visible).partition("\n\n")
    first = "\n".join(textwrap.wrap(first, WIDTH))
    display = rest.partition("\n\n")[0]
    indented = display.startswith(" ")
    return f"{first}\n\n{textwrap.indent(textwrap.dedent(display), '    ')}" if indented else first


def left_out(total: int, cap: int | None, what: str) -> str:
    """Say how many rows are not shown, or nothing."""
    return f"... and {total - cap} more {what}" if cap is not None and total > cap else ""


def _headline(summary: dict[str, Any]) -> str:
    instance = summary["instance"]
    kind = "convex program" if summary["properties"]["convex"] else "program, not proven convex,"
    title = summary["title"]
    if not instance and title == "convex program":
        return kind.rstrip(",")
    right = f"{kind} for {instance}" if instance else kind.rstrip(",")
    return f"{title}{right:>{max(WIDTH - len(title), len(right) + 2)}}"


def _opening_block(summary: dict[str, Any]) -> list[str]:
    text = opening(summary["mathematics"])
    return ["", *text.splitlines(), ""] if text else []


def _section(head: str, lines: Sequence[str]) -> str:
    first, *others = lines or [""]
    return "\n".join([f"{head:<{INDENT}}{first}".rstrip(), *(" " * INDENT + line for line in others)])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False) or [""]


def _labelled(summary: dict[str, Any], part: str, what: str, cap: int | None) -> list[str]:
    labels = [item["label"] or "" for item in (*summary["objective"][:cap], *summary["constraints"][:cap])]
    width = min(max(map(len, labels), default=0), LABEL_WIDTH)
    lines = []
    for position, item in enumerate(summary[part][:cap]):
        text = _signed(item["text"], position) if part == "objective" else item["text"]
        label = f"{item['label'] or '':<{width}}  " if width else ""
        room = max(WIDTH - INDENT - len(label), LABEL_WIDTH)
        first, *others = textwrap.wrap(text, room, subsequent_indent="      ", break_long_words=False) or [""]
        lines += [label + first, *(" " * len(label) + other for other in others)]
    rest = left_out(len(summary[part]), cap, what)
    return [*lines, rest] if rest else lines


def _signed(text: str, position: int) -> str:
    if text.startswith("-"):
        return f"- {text[1:]}"
    return f"+ {text}" if position else text


def _symbol_blocks(symbols: Sequence[dict[str, Any]], cap: int | None) -> list[str]:
    blocks = []
    columns = [
        (row["name"], _shape(row["shape"]), row["meaning"], row["sharing"], ", ".join(row["attributes"]))
        for row in symbols
    ]
    widths = [min(max((len(row[i]) for row in columns), default=0), 44) for i in range(5)]
    for head, kind in (("variables", "variable"), ("data", "data"), ("constants", "constant")):
        rows = [row for row, symbol in zip(columns, symbols, strict=True) if symbol["kind"] == kind]
        if not rows:
            continue
        lines = [_aligned(row, widths) for row in rows[:cap]]
        rest = left_out(len(rows), cap, head)
        blocks.append(_section(head, [*lines, rest] if rest else lines))
    return blocks


def _shape(shape: Iterable[int]) -> str:
    sizes = ", ".join(map(str, shape))
    return f"({sizes},)" if sizes and "," not in sizes else f"({sizes})" if sizes else "scalar"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True) if width).rstrip()


def convexity_lines(rows: Sequence[dict[str, str]], cap: int | None) -> list[str]:
    """Lay out the convexity table, the rule wrapped in its own column."""
    shown = rows[:cap]
    heads = {"term": "term", "sign": "sign", "curvature": "curvature", "rule": "rule"}
    width = {
        key: min(max([len(heads[key]), *(len(row[key]) for row in shown)]), limit)
        for key, limit in (("term", 26), ("sign", 11), ("curvature", 9))
    }
    lines = []
    for row in [heads, *shown]:
        cells = [textwrap.wrap(row[key], width[key]) or [""] for key in width]
        cells.append(textwrap.wrap(row["rule"], WIDTH - 4 - sum(width.values()) - 6) or [""])
        height = max(map(len, cells))
        padded = [cell + [""] * (height - len(cell)) for cell in cells]
        lines += ["    " + _aligned(line, [*width.values(), 1]) for line in zip(*padded, strict=True)]
    rest = left_out(len(rows), cap, "rows")
    return [*lines, f"    {rest}"] if rest else lines
