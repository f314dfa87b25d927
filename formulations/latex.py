"""Typeset cvxpy expressions and constraints in LaTeX that both TeX and latex2mathml accept."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import cvxpy as cp

from .naming import Names, key_of, leaf_name, name_latex, shape_latex, text_latex
from .plain_text import Limits, cone_details, relation_of
from .reading import Reading, attempt, format_number, is_leaf, read, scalar_value, strip

# What a piece of LaTeX can stand beside without parentheses; TeX refuses a second superscript.
SUM, HADAMARD, PRODUCT, CALL, SUPERSCRIPTED, SUBSCRIPTED, BARE = range(1, 8)
Piece = tuple[str, int]
# Typesets an argument for a place that asks for the given tightness.
Place = Callable[[Any, int], str]


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
        return rf"{_parenthesized(', '.join(parts))} \in {cone or text_latex(kind)}{details}"

    return attempt(typeset, text_latex(f"{type(constraint).__name__}(...)"))


def _at(expression: Any, names: Names, limits: Limits, place: int) -> str:
    if not limits.visit():
        return r"\cdots"
    limits.depth -= 1
    fallback = (text_latex(f"{type(expression).__name__}(...)"), CALL)
    latex, level = attempt(lambda: _typeset(expression, names, limits), fallback)
    limits.depth += 1
    return _parenthesized(latex) if level < place else latex


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


def number_latex(value: complex | float) -> Piece:
    """Typeset a number in at most six digits, powers of ten written as such."""
    if isinstance(value, complex):
        text = format_number(value).replace("j", r"\mathrm{i}").replace("inf", r"\infty")
        return text.replace("nan", r"\text{nan}"), BARE
    text = format_number(value)
    mantissa, exponent_mark, exponent = text.partition("e")
    if exponent_mark:
        factor = {"1": "", "-1": "-"}.get(mantissa, rf"{mantissa} \cdot ")
        return f"{factor}10^{{{int(exponent)}}}", SUM if text.startswith("-") else PRODUCT
    text = text.replace("inf", r"\infty").replace("nan", r"\text{nan}")
    return text, SUM if text.startswith("-") else BARE


def _parenthesized(latex: str) -> str:
    return rf"\left({latex}\right)"


def _setting(detail: str) -> str:
    """Typeset a setting: numbers and slices as mathematics, anything else as text."""
    return detail if re.fullmatch(r"[-\d.:,\[\] ]+", detail) else text_latex(detail)


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
        return _parenthesized(", ".join(parts)), SUBSCRIPTED
    return rf"\begin{{bmatrix}} {' & '.join(parts)} \end{{bmatrix}}", SUBSCRIPTED


def _call(reading: Reading, limits: Limits, at: Place) -> Piece:
    shown, left_out = limits.shown(reading.arguments)
    parts = [at(argument, SUM) for argument in shown] + [r"\cdots"] * bool(left_out)
    parts += [_setting(detail) for detail in reading.details]
    return operator_latex(reading.operation) + _parenthesized(", ".join(parts)), CALL


def operator_latex(name: str) -> str:
    """Typeset the name of a function."""
    return rf"\operatorname{{{name}}}" if name.isascii() and name.isalpha() else text_latex(name)


def _negation(reading: Reading, at: Place) -> Piece:
    return "-" + at(reading.arguments[0], HADAMARD), SUM


def _scaling(reading: Reading, at: Place) -> Piece:
    factor, scaled = reading.arguments
    if scalar_value(scaled) is not None and scalar_value(factor) is None:
        factor, scaled = scaled, factor
    left, right = at(factor, PRODUCT), at(scaled, PRODUCT)
    if scalar_value(factor) == -1:
        return f"-{right}", SUM
    if left.startswith(r"\left(-") and scalar_value(factor) is not None:
        left = number_latex(scalar_value(factor) or 0.0)[0]
    dot = r" \cdot " if right[:1].isdigit() else " "
    return f"{left}{dot}{right}", SUM if left.startswith("-") else PRODUCT


def _matrix_product(reading: Reading, at: Place) -> Piece:
    left, right = reading.arguments
    if left.ndim == 1:
        return rf"{at(left, SUBSCRIPTED)}^{{\top}} {at(right, PRODUCT)}", PRODUCT
    return f"{at(left, PRODUCT)} {at(right, PRODUCT)}", PRODUCT


def _hadamard(reading: Reading, at: Place) -> Piece:
    left, right = reading.arguments
    return rf"{at(left, CALL)} \circ {at(right, CALL)}", HADAMARD


def _fraction(reading: Reading, at: Place) -> Piece:
    above, below = reading.arguments
    return rf"\frac{{{at(above, SUM)}}}{{{at(below, SUM)}}}", CALL


def _quotient_of_squares(reading: Reading, at: Place) -> Piece:
    above, below = reading.arguments
    return rf"\frac{{{_norm_piece(above, at, '2')}^{{2}}}}{{{at(below, SUM)}}}", CALL


def _sum_of_squares(reading: Reading, at: Place) -> Piece:
    (argument,) = reading.arguments
    return _norm_piece(argument, at, "2" if argument.ndim <= 1 else "F") + "^{2}", SUPERSCRIPTED


def _norm_piece(argument: Any, at: Place, mark: str) -> str:
    return rf"\left\|{at(argument, SUM)}\right\|_{{{mark}}}"


def _norm(mark: str) -> Callable[[Reading, Place], Piece]:
    return lambda reading, at: (_norm_piece(reading.arguments[0], at, mark), SUBSCRIPTED)


def _p_norm(reading: Reading, at: Place) -> Piece:
    return _norm_piece(reading.arguments[0], at, _setting(reading.details[0])), SUBSCRIPTED


def _power(exponent: str | None) -> Callable[[Reading, Place], Piece]:
    def typeset(reading: Reading, at: Place) -> Piece:
        written = exponent or _setting(reading.details[0])
        return f"{at(reading.arguments[0], SUBSCRIPTED)}^{{{written}}}", SUPERSCRIPTED

    return typeset


def _entry_sum(reading: Reading, at: Place) -> Piece:
    (argument,) = reading.arguments
    if not argument.ndim:
        return at(argument, SUM), SUM
    if argument.ndim == 1 and reading.details in ((), ("axis=0",)):
        return rf"\mathbf{{1}}^{{\top}} {at(argument, PRODUCT)}", PRODUCT
    if argument.ndim == 2:
        left = "" if reading.details == ("axis=1",) else r"\mathbf{1}^{\top} "
        right = "" if reading.details == ("axis=0",) else r" \mathbf{1}"
        if reading.details in ((), ("axis=0",), ("axis=1",)):
            return f"{left}{at(argument, PRODUCT)}{right}", PRODUCT
    details = "".join(f", {text_latex(detail)}" for detail in reading.details)
    return rf"\operatorname{{sum}}\left({at(argument, SUM)}{details}\right)", CALL


def _index(reading: Reading, at: Place) -> Piece:
    return f"{at(reading.arguments[0], BARE)}_{{[{_setting(', '.join(reading.details))}]}}", SUBSCRIPTED


def _quadratic_form(inverse: bool) -> Callable[[Reading, Place], Piece]:
    def typeset(reading: Reading, at: Place) -> Piece:
        vector, matrix = reading.arguments
        middle = f"{at(matrix, SUBSCRIPTED)}^{{-1}}" if inverse else at(matrix, PRODUCT)
        product = rf"{at(vector, SUBSCRIPTED)}^{{\top}} {middle} {at(vector, PRODUCT)}"
        return (
            (product, PRODUCT) if vector.ndim <= 1 else (rf"\operatorname{{tr}}\left({product}\right)", CALL)
        )

    return typeset


def _template(opening: str, closing: str, level: int) -> Callable[[Reading, Place], Piece]:
    return lambda reading, at: (
        opening + ", ".join(at(argument, SUM) for argument in reading.arguments) + closing,
        level,
    )


def _entropy(reading: Reading, at: Place) -> Piece:
    argument = reading.arguments[0]
    times = r" \circ " if argument.ndim else " "
    return rf"-{at(argument, CALL)}{times}\log\left({at(argument, SUM)}\right)", SUM


def _relative_entropy(with_linear_part: bool) -> Callable[[Reading, Place], Piece]:
    def typeset(reading: Reading, at: Place) -> Piece:
        above, below = reading.arguments
        times = r" \circ " if above.ndim or below.ndim else " "
        quotient = rf"\frac{{{at(above, SUM)}}}{{{at(below, SUM)}}}"
        latex = rf"{at(above, CALL)}{times}\log {quotient}"
        if with_linear_part:
            return f"{latex} - {at(above, HADAMARD)} + {at(below, HADAMARD)}", SUM
        return latex, HADAMARD

    return typeset


def _log_sum_exp(reading: Reading, at: Place) -> Piece:
    (argument,) = reading.arguments
    ones = r"\mathbf{1}^{\top} " if argument.ndim else ""
    return rf"\log\left({ones}e^{{{at(argument, SUM)}}}{_right_ones(argument)}\right)", CALL


def _right_ones(argument: Any) -> str:
    return r" \mathbf{1}" if argument.ndim == 2 else ""


def _huber(reading: Reading, at: Place) -> Piece:
    threshold = _setting(reading.details[0])
    return rf"\operatorname{{huber}}_{{{threshold}}}{_parenthesized(at(reading.arguments[0], SUM))}", CALL


def _product_sign(sign: str) -> Callable[[Reading, Place], Piece]:
    return lambda reading, at: (
        f"{at(reading.arguments[0], CALL)} {sign} {at(reading.arguments[1], CALL)}",
        HADAMARD,
    )


TYPESETTERS: dict[str, Callable[[Reading, Place], Piece]] = {
    "negate": _negation,
    "scale": _scaling,
    "product": _matrix_product,
    "multiply": _hadamard,
    "divide": _fraction,
    "quad_over_lin": _quotient_of_squares,
    "sum_squares": _sum_of_squares,
    "norm1": _norm("1"),
    "norm2": _norm("2"),
    "norm_inf": _norm(r"\infty"),
    "norm_fro": _norm("F"),
    "norm_nuc": _norm(r"\ast"),
    "sigma_max": _norm("2"),
    "pnorm": _p_norm,
    "square": _power("2"),
    "inv_pos": _power("-1"),
    "power": _power(None),
    "transpose": _power(r"\top"),
    "sum": _entry_sum,
    "index": _index,
    "quad_form": _quadratic_form(inverse=False),
    "matrix_frac": _quadratic_form(inverse=True),
    "abs": _template(r"\left|", r"\right|", BARE),
    "pos": _template(r"\left(", r"\right)_{+}", SUBSCRIPTED),
    "neg": _template(r"\left(", r"\right)_{-}", SUBSCRIPTED),
    "maximum": _template(r"\max\left(", r"\right)", CALL),
    "minimum": _template(r"\min\left(", r"\right)", CALL),
    "max": _template(r"\max\left(", r"\right)", CALL),
    "min": _template(r"\min\left(", r"\right)", CALL),
    "sqrt": _template(r"\sqrt{", "}", BARE),
    "exp": _template("e^{", "}", SUPERSCRIPTED),
    "log": _template(r"\log\left(", r"\right)", CALL),
    "log1p": _template(r"\log\left(1 + ", r"\right)", CALL),
    "logistic": _template(r"\log\left(1 + e^{", r"}\right)", CALL),
    "log_sum_exp": _log_sum_exp,
    "entr": _entropy,
    "rel_entr": _relative_entropy(with_linear_part=False),
    "kl_div": _relative_entropy(with_linear_part=True),
    "huber": _huber,
    "trace": _template(r"\operatorname{tr}\left(", r"\right)", CALL),
    "lambda_max": _template(r"\lambda_{\max}\left(", r"\right)", CALL),
    "lambda_min": _template(r"\lambda_{\min}\left(", r"\right)", CALL),
    "log_det": _template(r"\log \det\left(", r"\right)", CALL),
    "conj": _template(r"\overline{", "}", SUBSCRIPTED),
    "real": _template(r"\operatorname{Re}\left(", r"\right)", CALL),
    "imag": _template(r"\operatorname{Im}\left(", r"\right)", CALL),
    "kron": _product_sign(r"\otimes"),
    "conv": _product_sign(r"\ast"),
    "convolve": _product_sign(r"\ast"),
}
