"""Write cvxpy expressions and constraints as short lines of text, close to the code that made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cvxpy as cp

from .naming import Names, key_of, leaf_name, printable
from .reading import Reading, attempt, format_number, is_leaf, read, scalar_value, strip

# How tightly the outermost operation binds; what binds less than its place asks for gets parentheses.
SUM, PRODUCT, CALL = 1, 2, 3
INFIX = {"scale": "*", "multiply": "*", "product": "@", "divide": "/"}
ELLIPSIS = "..."


@dataclass
class Limits:
    """What keeps a formula readable: its depth, the length of its lists, and the number of its parts.

    A formula that shares sub-expressions can be exponentially longer than the object that holds it.
    """

    items: int | None = None
    depth: int = 40
    parts: int = 5000

    def visit(self) -> bool:
        """Count one more part; say whether it may still be written."""
        self.parts -= 1
        return self.depth > 0 and self.parts > 0

    def shown(self, arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], int]:
        """Return the arguments to write and the number of those left out."""
        if self.items is None or len(arguments) <= self.items:
            return arguments, 0
        return arguments[: self.items], len(arguments) - self.items


def expression_text(expression: Any, names: Names, limits: Limits | None = None) -> str:
    """Write an expression as text.

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
        One line.
    """
    return write(expression, names, limits or Limits(), SUM)


def write(expression: Any, names: Names, limits: Limits, place: int) -> str:
    """Write an expression for a place that asks for this tightness."""
    if not limits.visit():
        return ELLIPSIS
    limits.depth -= 1
    fallback = (f"{type(expression).__name__}({ELLIPSIS})", CALL)
    text, level = attempt(lambda: _written(expression, names, limits), fallback)
    limits.depth += 1
    return f"({text})" if level < place else text


def _written(expression: Any, names: Names, limits: Limits) -> tuple[str, int]:
    expression = strip(expression)
    if is_leaf(expression):
        text = leaf_text(expression, names)
        return text, SUM if text.startswith("-") else CALL
    reading = read(expression)
    operation, arguments = reading.operation, reading.arguments
    if operation == "add":
        return _sum_text(reading, names, limits), SUM
    if operation == "negate":
        return "-" + write(arguments[0], names, limits, PRODUCT), SUM
    if operation in INFIX and len(arguments) == 2:
        left = write(arguments[0], names, limits, PRODUCT)
        right = write(arguments[1], names, limits, CALL)
        if left.startswith("(-") and scalar_value(arguments[0]) is not None:
            return f"{left[1:-1]} {INFIX[operation]} {right}", SUM
        return f"{left} {INFIX[operation]} {right}", PRODUCT
    if operation == "index":
        return f"{write(arguments[0], names, limits, CALL)}[{', '.join(reading.details)}]", CALL
    if operation == "transpose":
        return f"{write(arguments[0], names, limits, CALL)}.T", CALL
    shown, left_out = limits.shown(arguments)
    parts = [write(argument, names, limits, SUM) for argument in shown]
    parts += [f"{ELLIPSIS} {left_out} more"] * bool(left_out) + list(reading.details)
    return f"{printable(operation)}({', '.join(parts)})", CALL


def _sum_text(reading: Reading, names: Names, limits: Limits) -> str:
    shown, left_out = limits.shown(reading.arguments)
    text = ""
    for position, argument in enumerate(shown):
        part = write(argument, names, limits, SUM)
        if part.startswith("-"):
            text += f" - {part[1:]}" if position else part
        else:
            text += f" + {part}" if position else part
    return f"{text} + {ELLIPSIS} {left_out} more" if left_out else text


def leaf_text(leaf: Any, names: Names) -> str:
    """Write a leaf: its name, its number, or the shape of an array that has no name."""
    if key_of(leaf) in names.plain:
        return names.plain[key_of(leaf)]
    if isinstance(leaf, cp.Constant):
        number = scalar_value(leaf)
        return f"array{leaf.shape}" if number is None else format_number(number)
    return leaf_name(leaf)


def constraint_text(constraint: Any, names: Names, limits: Limits | None = None) -> str:
    """Write a constraint as text, the constant side on the right.

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
        One line.
    """
    limits = limits or Limits()

    def text(expression: Any) -> str:
        return expression_text(expression, names, limits)

    def written() -> str:
        relation = relation_of(constraint)
        if relation is not None:
            left, sign, right = relation
            return f"{text(left)} {sign} {text(right)}"
        shown, left_out = limits.shown(tuple(constraint.args))
        parts = [text(argument) for argument in shown] + [f"{ELLIPSIS} {left_out} more"] * bool(left_out)
        return f"{type(constraint).__name__}({', '.join(parts + cone_details(constraint, names))})"

    return attempt(written, f"{type(constraint).__name__}({ELLIPSIS})")


def relation_of(constraint: Any) -> tuple[Any, str, Any] | None:
    """Return left side, relation and right side, the constant on the right; None for other cones."""
    kind, arguments = type(constraint).__name__, constraint.args
    zero = cp.Constant(0)
    if kind in ("Equality", "Inequality"):
        left, right = arguments
        sign, turned = ("==", "==") if kind == "Equality" else ("<=", ">=")
        return (
            (right, turned, left) if left.is_constant() and not right.is_constant() else (left, sign, right)
        )
    one_sided = {"Zero": "==", "NonNeg": ">=", "NonPos": "<=", "PSD": ">>"}
    if kind in one_sided and len(arguments) == 1:
        return arguments[0], one_sided[kind], zero
    return None


def cone_details(constraint: Any, names: Names) -> list[str]:
    """Return the settings of a cone that its arguments leave open: the exponent of a power cone."""
    alpha = getattr(constraint, "alpha", None)
    return [] if alpha is None else [f"alpha={expression_text(alpha, names)}"]
