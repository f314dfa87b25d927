"""How each common atom is typeset, by the operation that it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .naming import text_latex
from .reading import Reading, format_number, scalar_value

# What a piece of LaTeX can stand beside without parentheses; TeX refuses a second superscript.
SUM, HADAMARD, PRODUCT, CALL, SUPERSCRIPTED, SUBSCRIPTED, BARE = range(1, 8)
Piece = tuple[str, int]
# Typesets an argument for a place that asks for the given tightness.
Place = Callable[[Any, int], str]


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


def parenthesized(latex: str) -> str:
    """Put parentheses of the right size around a piece."""
    return rf"\left({latex}\right)"


def setting(detail: str) -> str:
    """Typeset a setting: numbers and slices as mathematics, anything else as text."""
    return detail if re.fullmatch(r"[-\d.:,\[\] ]+", detail) else text_latex(detail)


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
    # 3 before a bold 1 would read as 31.
    dot = r" \cdot " if right[:1].isdigit() or right.startswith(r"\mathbf{1}") else " "
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
    return _norm_piece(reading.arguments[0], at, setting(reading.details[0])), SUBSCRIPTED


def _power(exponent: str | None) -> Callable[[Reading, Place], Piece]:
    def typeset(reading: Reading, at: Place) -> Piece:
        written = exponent or setting(reading.details[0])
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
    return f"{at(reading.arguments[0], BARE)}_{{[{setting(', '.join(reading.details))}]}}", SUBSCRIPTED


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
    threshold = setting(reading.details[0])
    return rf"\operatorname{{huber}}_{{{threshold}}}{parenthesized(at(reading.arguments[0], SUM))}", CALL


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
