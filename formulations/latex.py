"""Typeset cvxpy expressions and constraints in LaTeX that both TeX and latex2mathml accept."""

from __future__ import annotations

from typing import Any

import cvxpy as cp

from .latex_atoms import (
    BARE,
    CALL,
    SUBSCRIPTED,
    SUM,
    SUPERSCRIPTED,
    TYPESETTERS,
    Piece,
    Place,
    number_latex,
    parenthesized,
    setting,
)
from .naming import Names, key_of, leaf_name, name_latex, shape_latex, text_latex
from .plain_text import Limits, cone_details, relation_of
from .reading import Reading, attempt, is_leaf, read, scalar_value, strip


def expression_latex(expression: Any, names: Names, limits: Limits | None = None) -> str:
    """Typeset an expression.

    Parameters
    ----------
    expression : cvxpy.Expression
        Any expression.
    names : Names
        The names of its leaves.
    limits : Limits, optional
        Where to stop.

    Returns
    -------
    str
        LaTeX for mathematics mode.
    """
    return _at(expression, names, limits or Limits(depth=24), SUM)


def constraint_latex(constraint: Any, names: Names, limits: Limits | None = None) -> str:
    """Typeset a constraint, the constant side on the right.

    Parameters
    ----------
    constraint : cvxpy.Constraint
        Any constraint.
    names : Names
        The names of its leaves.
    limits : Limits, optional
        Where to stop.

    Returns
    -------
    str
        LaTeX for mathematics mode.
    """
    limits = limits or Limits(depth=24)

    def typeset() -> str:
        relation = relation_of(constraint)
        if relation is not None:
            left, sign, right = relation
            symbol = {"==": "=", "<=": r"\le", ">=": r"\ge", ">>": r"\succeq"}[sign]
            return rf"{_at(left, names, limits, SUM)} {symbol} {_at(right, names, limits, SUM)}"
        shown, left_out = limits.shown(tuple(constraint.args))
        parts = [_at(argument, names, limits, SUM) for argument in shown] + [r"\cdots"] * bool(left_out)
        kind = type(constraint).__name__
        if kind == "SOC" and len(shown) == 2:
            return rf"\left\|{parts[1]}\right\|_{{2}} \le {parts[0]}"
        cone = {"ExpCone": r"\mathcal{K}_{\exp}", "PowCone3D": r"\mathcal{K}_{\mathrm{pow}}"}.get(kind)
        details = "".join(rf",\ {text_latex(detail)}" for detail in cone_details(constraint, names))
        return rf"{parenthesized(', '.join(parts))} \in {cone or text_latex(kind)}{details}"

    return attempt(typeset, text_latex(f"{type(constraint).__name__}(...)"))


def _at(expression: Any, names: Names, limits: Limits, place: int) -> str:
    if not limits.visit():
        return r"\cdots"
    limits.depth -= 1
    fallback = (text_latex(f"{type(expression).__name__}(...)"), CALL)
    latex, level = attempt(lambda: _typeset(expression, names, limits), fallback)
    limits.depth += 1
    return parenthesized(latex) if level < place else latex


def _typeset(expression: Any, names: Names, limits: Limits) -> Piece:
    expression = strip(expression)
    if is_leaf(expression):
        return _leaf(expression, names)
    reading = read(expression)
    if reading.operation == "scale" and scalar_value(reading.arguments[0]) == 1:
        return _typeset(reading.arguments[1], names, limits)

    def at(argument: Any, place: int) -> str:
        return _at(argument, names, limits, place)

    if reading.operation == "add":
        return _sum(reading, limits, at)
    if reading.operation in ("hstack", "vstack"):
        return _stack(reading, limits, at)
    typesetter = TYPESETTERS.get(reading.operation)
    # The forms below have no room for an axis: an atom along one axis is shown by name.
    if typesetter is not None and (reading.operation == "sum" or not _has_axis(reading)):
        return typesetter(reading, at)
    return _call(reading, limits, at)


def _leaf(leaf: Any, names: Names) -> Piece:
    number = scalar_value(leaf)
    if key_of(leaf) in names.latex:
        latex = names.latex[key_of(leaf)]
    elif number is not None:
        return number_latex(number)
    elif isinstance(leaf, cp.Constant):
        latex = rf"\left[{shape_latex(leaf)}\right]"
    else:
        latex = name_latex(leaf_name(leaf))
    if "^" in latex or "'" in latex:
        return latex, SUPERSCRIPTED
    return latex, SUBSCRIPTED if "_" in latex else BARE


def _has_axis(reading: Reading) -> bool:
    return any("axis=" in detail for detail in reading.details)


def _sum(reading: Reading, limits: Limits, at: Place) -> Piece:
    shown, left_out = limits.shown(reading.arguments)
    latex = ""
    for position, argument in enumerate(shown):
        part = at(argument, SUM)
        negative = part.startswith("-")
        sign = (" - " if negative else " + ") if position else "-" if negative else ""
        latex += sign + part.removeprefix("-")
    return latex + (r" + \cdots" if left_out else ""), SUM


def _stack(reading: Reading, limits: Limits, at: Place) -> Piece:
    shown, left_out = limits.shown(reading.arguments)
    parts = [at(argument, SUM) for argument in shown]
    if reading.operation == "vstack":
        vectors = (argument.ndim == 1 for argument in shown)
        parts = [
            rf"{at(argument, SUBSCRIPTED)}^{{\top}}" if vector else part
            for argument, part, vector in zip(shown, parts, vectors, strict=True)
        ]
        parts += [r"\vdots"] * bool(left_out)
        rows = r" \\ ".join(parts)
        return rf"\begin{{bmatrix}} {rows} \end{{bmatrix}}", SUBSCRIPTED
    parts += [r"\cdots"] * bool(left_out)
    if all(argument.ndim <= 1 for argument in shown):
        return parenthesized(", ".join(parts)), SUBSCRIPTED
    return rf"\begin{{bmatrix}} {' & '.join(parts)} \end{{bmatrix}}", SUBSCRIPTED


def _call(reading: Reading, limits: Limits, at: Place) -> Piece:
    shown, left_out = limits.shown(reading.arguments)
    parts = [at(argument, SUM) for argument in shown] + [r"\cdots"] * bool(left_out)
    parts += [setting(detail) for detail in reading.details]
    return operator_latex(reading.operation) + parenthesized(", ".join(parts)), CALL


def operator_latex(name: str) -> str:
    """Typeset the name of a function."""
    return rf"\operatorname{{{name}}}" if name.isascii() and name.isalpha() else text_latex(name)
