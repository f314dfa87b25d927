"""Read a cvxpy expression as a person would: which operation, of which arguments.

cvxpy stores ``sum_squares(x)`` as ``quad_over_lin(x, 1.0)``, ``norm(x)`` as ``PnormApprox(x, 2)``, and wraps
scalars in ``Promote``. Text, LaTeX and explanations all speak of what was meant, and this file knows it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from numbers import Number
from typing import Any, NamedTuple, TypeVar

import cvxpy as cp
import numpy as np
from cvxpy.atoms.axis_atom import AxisAtom
from cvxpy.expressions.leaf import Leaf

Result = TypeVar("Result")

WRAPPERS = {
    "Promote",
    "broadcast_to",
    "symmetric_wrap",
    "hermitian_wrap",
    "psd_wrap",
    "nsd_wrap",
    "nonneg_wrap",
    "nonpos_wrap",
    "skew_symmetric_wrap",
}
PLAIN_NAMES = {
    "NegExpression": "negate",
    "DivExpression": "divide",
    "Sum": "sum",
    "QuadForm": "quad_form",
    "SymbolicQuadForm": "quad_form",
    "MatrixFrac": "matrix_frac",
    "Hstack": "hstack",
    "Vstack": "vstack",
    "Concatenate": "concatenate",
    "Trace": "trace",
    "normNuc": "norm_nuc",
    "Prod": "prod",
    "GeoMean": "geo_mean",
    "GeoMeanApprox": "geo_mean",
}


class Reading(NamedTuple):
    """An operation, the expressions it is applied to, and its settings as short texts."""

    operation: str
    arguments: tuple[Any, ...]
    details: tuple[str, ...] = ()


def attempt(compute: Callable[[], Result], otherwise: Result) -> Result:
    """Return ``compute()``, or `otherwise` when it raises: showing a model must not fail for one odd atom."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compute()
    except Exception:
        return otherwise


def strip(expression: Any) -> Any:
    """Take off wrappers that change no entry: promotion, broadcasting, declarations of symmetry or sign."""
    while _is_wrapper(expression):
        expression = expression.args[0]
    return expression


def read(expression: Any) -> Reading:
    """Return the operation that an atom stands for.

    Parameters
    ----------
    expression : cvxpy.Expression
        An expression with arguments, not a leaf.

    Returns
    -------
    Reading
        For an unknown atom, its class name with its arguments and settings.
    """
    expression = strip(expression)
    name = type(expression).__name__
    arguments = tuple(expression.args)
    general = Reading(PLAIN_NAMES.get(name, name), arguments, attempt(lambda: _details(expression), ()))
    reader = READERS.get(name)
    if reader is None:
        return general
    # A class of the user's own may share a name with an atom of cvxpy and yet be built otherwise.
    return attempt(lambda: reader(expression) or general, general)


def is_leaf(expression: Any) -> bool:
    """Say whether an expression is a Variable, a Parameter or a Constant."""
    return isinstance(expression, Leaf)


def scalar_value(expression: Any) -> complex | float | None:
    """Return the number that a constant stands for: a single entry, or an array of zeros; None otherwise."""
    expression = strip(expression)
    if type(expression).__name__ == "NegExpression":
        value = scalar_value(expression.args[0])
        return None if value is None else -value
    if not isinstance(expression, cp.Constant):
        return None
    value = expression.value
    if expression.size == 1:
        entry = value.toarray().item() if hasattr(value, "toarray") else np.asarray(value).item()
        return complex(entry) if isinstance(entry, complex) else float(entry)
    stored = value.data if hasattr(value, "toarray") else value
    return 0.0 if expression.size and not np.any(stored) else None


def format_number(value: complex | float) -> str:
    """Write a number in at most six digits."""
    if isinstance(value, complex):
        sign = "-" if value.imag < 0 else "+"
        return f"({value.real:.6g} {sign} {abs(value.imag):.6g}j)"
    return f"{value + 0.0:.6g}"


def walk(expression: Any) -> Iterator[Any]:
    """Yield every sub-expression once, arguments before what is made of them."""
    seen: set[int] = set()
    stack = [(expression, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(getattr(node, "args", None) or []))


def _is_wrapper(expression: Any) -> bool:
    name = type(expression).__name__
    if name == "conj":
        return not attempt(expression.is_complex, True)
    if name == "reshape":
        # A vector seen as one column: the entries, and what a product does with them, stay the same.
        return expression.args[0].ndim <= 1 and expression.shape[1:] in ((), (1,))
    return name in WRAPPERS


def _details(expression: Any) -> tuple[str, ...]:
    data = list(expression.get_data() or ())
    if isinstance(expression, AxisAtom):
        # The last two are axis and keepdims; what an atom has of its own stands before them.
        axis = () if expression.axis is None else (f"axis={expression.axis}",)
        return (*(text for text in map(_detail, data[:-2]) if text), *axis)
    return tuple(text for text in map(_detail, data) if text)


def _detail(item: Any) -> str:
    if item is None or isinstance(item, bool):
        return ""
    if isinstance(item, cp.Constant):
        number = scalar_value(item)
        return f"array {item.shape}" if number is None else format_number(number)
    if isinstance(item, cp.Parameter):
        return str(item.name())
    if isinstance(item, str | Fraction):
        return str(item)[:40]
    if isinstance(item, Number):
        return format_number(item if isinstance(item, complex) else float(item))  # type: ignore[arg-type]
    if isinstance(item, np.ndarray):
        return f"array {item.shape}"
    if isinstance(item, tuple) and all(isinstance(entry, int | np.integer) for entry in item):
        return "x".join(str(int(entry)) for entry in item)
    return ""


def _read_sum(expression: Any) -> Reading:
    # `S >> 0` is stored as `S + -0`.
    terms = tuple(term for term in expression.args if scalar_value(term) != 0)
    return Reading("add", terms or tuple(expression.args[:1]))


def _read_diagonal(expression: Any) -> Reading:
    offset = int(getattr(expression, "k", 0))
    return Reading("diag", tuple(expression.args), (f"k={offset}",) if offset else ())


def _read_multiply(expression: Any) -> Reading | None:
    left, right = map(strip, expression.args)
    if left.size == 1 and left.ndim == 0:
        return Reading("scale", (left, right))
    if right.size == 1 and right.ndim == 0:
        return Reading("scale", (right, left))
    return Reading("multiply", (left, right))


def _read_product(expression: Any) -> Reading:
    return Reading("product", tuple(expression.args))


def _read_quad_over_lin(expression: Any) -> Reading | None:
    axis = attempt(lambda: expression.axis, None)
    details = () if axis is None else (f"axis={axis}",)
    if scalar_value(expression.args[1]) == 1:
        return Reading("sum_squares", (expression.args[0],), details)
    return Reading("quad_over_lin", tuple(expression.args), details)


def _read_pnorm(expression: Any) -> Reading:
    argument = expression.args[0]
    if expression.axis is not None:
        return Reading("pnorm", (argument,), (f"{float(expression.p):.6g}", f"axis={expression.axis}"))
    if float(expression.p) != 2:
        return Reading("pnorm", (argument,), (f"{float(expression.p):.6g}",))
    flattened = type(argument).__name__ == "reshape" and argument.args[0].ndim == 2
    return Reading("norm_fro", (argument.args[0],)) if flattened else Reading("norm2", (argument,))


def _read_power(expression: Any) -> Reading:
    exponent: Any = expression.p if isinstance(expression.p, Number) else expression.p.value
    if exponent is None:
        return Reading("power", (expression.args[0],), (str(expression.p.name()),))
    number = float(exponent)
    special = {2.0: "square", 0.5: "sqrt", -1.0: "inv_pos"}.get(number)
    if special:
        return Reading(special, (expression.args[0],))
    return Reading("power", (expression.args[0],), (f"{number:.6g}",))


def _read_negation(expression: Any) -> Reading | None:
    inner = strip(expression.args[0])
    if type(inner).__name__ == "minimum" and len(inner.args) == 2 and scalar_value(inner.args[1]) == 0:
        return Reading("neg", (inner.args[0],))
    return None


def _read_maximum(expression: Any) -> Reading | None:
    if len(expression.args) == 2 and scalar_value(expression.args[1]) == 0:
        return Reading("pos", (expression.args[0],))
    return None


def _read_index(expression: Any) -> Reading:
    (argument,) = expression.args
    return Reading("index", (argument,), tuple(map(_slice_text, expression.key, argument.shape)))


def _slice_text(part: Any, size: int) -> str:
    if part is None:
        return "newaxis"
    start, stop, step = int(part.start), int(part.stop), int(part.step)
    if step == 1:
        if stop == start + 1:
            return str(start)
        return f"{'' if start == 0 else start}:{'' if stop == size else stop}"
    return f"{start}:{'' if stop < 0 else stop}:{step}"


def _read_special_index(expression: Any) -> Reading:
    key = expression.key if isinstance(expression.key, tuple) else (expression.key,)
    return Reading("index", (expression.args[0],), tuple(map(_key_text, key)))


def _key_text(part: Any) -> str:
    if isinstance(part, slice):
        ends = ("" if end is None else str(end) for end in (part.start, part.stop))
        return ":".join(ends) + ("" if part.step is None else f":{part.step}")
    entries = np.asarray(part)
    if entries.dtype == bool:
        return f"mask of {int(entries.sum())}"
    if entries.ndim == 0:
        return str(entries.item())
    return f"[{', '.join(map(str, entries))}]" if entries.ndim == 1 and entries.size <= 6 else "[...]"


def _read_transpose(expression: Any) -> Reading | None:
    if expression.axes is None or expression.args[0].ndim <= 2:
        return Reading("transpose", (expression.args[0],))
    return Reading("permute_dims", (expression.args[0],), (", ".join(str(int(a)) for a in expression.axes),))


def _read_reshape(expression: Any) -> Reading | None:
    argument = expression.args[0]
    if argument.ndim == 1 and expression.shape == (1, argument.size):
        return Reading("transpose", (argument,))
    if expression.ndim == 1:
        return Reading("vec", (argument,), () if expression.order == "F" else (expression.order,))
    shape = "x".join(map(str, expression.shape))
    return Reading("reshape", (argument,), (shape, expression.order))


def _read_geometric_mean(expression: Any) -> Reading:
    weights = [f"{float(weight):.6g}" for weight in expression.p]
    details = (f"weights={', '.join(weights)}",) if len(set(weights)) > 1 and len(weights) <= 6 else ()
    return Reading("geo_mean", tuple(expression.args), details)


READERS: dict[str, Callable[[Any], Reading | None]] = {
    "AddExpression": _read_sum,
    "diag_vec": _read_diagonal,
    "diag_mat": _read_diagonal,
    "multiply": _read_multiply,
    "MulExpression": _read_product,
    "quad_over_lin": _read_quad_over_lin,
    "Pnorm": _read_pnorm,
    "PnormApprox": _read_pnorm,
    "Power": _read_power,
    "PowerApprox": _read_power,
    "NegExpression": _read_negation,
    "maximum": _read_maximum,
    "index": _read_index,
    "special_index": _read_special_index,
    "transpose": _read_transpose,
    "reshape": _read_reshape,
    "GeoMean": _read_geometric_mean,
    "GeoMeanApprox": _read_geometric_mean,
}
