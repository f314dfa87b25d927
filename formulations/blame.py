"""Which sub-expression makes a program fail DCP or DPP, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import cvxpy as cp
from cvxpy.utilities import scopes

from .naming import Names, assign_names, printable
from .plain_text import Limits, constraint_text, expression_text, relation_of
from .reading import attempt, read, strip, walk

# How many offending places a message names.
NAMED_PLACES = 3
SHORT = 6
LINEAR = ("constant", "affine")

PRODUCT_REMEDY = (
    "fold the product into one Parameter, fix one factor as a number, "
    "or introduce a variable tied by an equality (z == W @ x) and multiply that"
)
FUNCTION_REMEDY = "compute it outside the program and make its value a Parameter"
QUOTIENT_REMEDY = "make the reciprocal a Parameter and multiply by it"
QUADRATIC_REMEDY = (
    "fix the matrix as a number, or write sum_squares(R @ x) with a Parameter R, where P = R.T @ R"
)


def explain_not_dpp(problem: Any) -> str | None:
    """Say why a problem is not DPP: the smallest offending sub-expression, where it stands, and the remedy.

    Parameters
    ----------
    problem : cvxpy.Problem
        Any problem.

    Returns
    -------
    str or None
        None when the problem is DPP.
    """
    if attempt(lambda: bool(problem.is_dcp(dpp=True)), False):
        return None
    not_dcp = explain_not_dcp(problem)
    if not_dcp is not None:
        return f"not DPP, for it is {not_dcp}"
    return _message("not DPP", problem, dpp=True)


def explain_not_dcp(problem: Any) -> str | None:
    """Say why a problem is not DCP: the smallest offending sub-expression and where it stands.

    Parameters
    ----------
    problem : cvxpy.Problem
        Any problem.

    Returns
    -------
    str or None
        None when the problem is DCP.
    """
    if attempt(lambda: bool(problem.is_dcp()), False):
        return None
    return _message("not DCP", problem, dpp=False)


def smallest_offender(item: Any, *, dpp: bool) -> Any | None:
    """Return the first sub-expression that breaks the rules though its arguments keep them.

    Parameters
    ----------
    item : cvxpy.Expression or cvxpy.Constraint
        Where to look.
    dpp : bool
        Whether parameters count as variables.

    Returns
    -------
    cvxpy.Expression or None
        None when every expression in it keeps the rules.
    """
    return next(_offenders(item, dpp), None)


def describe_offender(node: Any, names: Names, *, dpp: bool) -> str:
    """Write an offending expression with its fault in parentheses."""
    return f"{_short(node, names)} ({_fault(node, names, dpp)})"


def _offenders(item: Any, dpp: bool) -> Iterator[Any]:
    for root in item.args if isinstance(item, cp.Constraint) else [item]:
        for node in walk(root):
            if not _keeps(node, dpp) and all(_keeps(argument, dpp) for argument in getattr(node, "args", ())):
                yield node


def _keeps(expression: Any, dpp: bool) -> bool:
    return attempt(lambda: bool(expression.is_dcp(dpp=dpp)), True)


def _message(title: str, problem: Any, dpp: bool) -> str:
    names = attempt(lambda: assign_names(problem), Names())
    found: list[str] = attempt(lambda: list(_places(problem, names, dpp)), [])
    places = list(dict.fromkeys(found))
    if not places:
        return f"{title}: cvxpy refuses it, but no single sub-expression is to blame"
    left_out = len(places) - NAMED_PLACES
    text = "; and ".join(places[:NAMED_PLACES])
    return f"{title}: {text}" + (f"; and {left_out} more" if left_out > 0 else "")


def _places(problem: Any, names: Names, dpp: bool) -> Iterator[str]:
    objective = problem.objective.args[0]
    found = list(_offenders(objective, dpp))
    yield from (_offence(node, objective, "the objective", names, dpp) for node in found)
    if not found and not attempt(partial(problem.objective.is_dcp, dpp=dpp), True):
        yield _wrong_objective(problem, names, dpp)
    for position, constraint in enumerate(problem.constraints, start=1):
        label = printable(constraint.label) if constraint.label is not None else str(position)
        place = f"constraint {label!r}" if constraint.label is not None else f"constraint {label}"
        found = list(_offenders(constraint, dpp))
        yield from (_offence(node, constraint, place, names, dpp) for node in found)
        if not found and not attempt(partial(constraint.is_dcp, dpp=dpp), True):
            yield _wrong_constraint(constraint, place, names, dpp)


def _offence(node: Any, item: Any, place: str, names: Names, dpp: bool) -> str:
    what = describe_offender(node, names, dpp=dpp)
    around = _enclosing(node, item)
    inside = "" if around is None else f" inside {_short(around, names)}"
    remedy = f"; remedy: {_remedy(node)}" if dpp else ""
    return f"{what}{inside}, in {place}{remedy}"


def _short(expression: Any, names: Names) -> str:
    return expression_text(expression, names, Limits(items=SHORT, depth=8))


def _enclosing(node: Any, item: Any) -> Any | None:
    """Return the nearest expression around a node that reads differently from it, unless it is a sum."""
    current: Any = node
    roots = list(item.args) if isinstance(item, cp.Constraint) else [item]
    for candidate in (candidate for root in roots for candidate in walk(root)):
        if any(argument is current for argument in getattr(candidate, "args", ())):
            if strip(candidate) is not strip(current):
                return None if read(candidate).operation == "add" else candidate
            current = candidate
    return None


def _fault(node: Any, names: Names, dpp: bool) -> str:
    reading = read(node)
    if reading.operation in ("scale", "multiply", "product", "divide") and len(reading.arguments) == 2:
        verb = "divided by" if reading.operation == "divide" else "times"
        left, right = (_kind(argument, names, dpp) for argument in reading.arguments)
        return f"{left} {verb} {right}"
    if reading.operation == "quad_form":
        matrix = reading.arguments[1]
        if matrix.parameters():
            return f"quadratic form with a matrix of Parameters: {_short(matrix, names)}"
        return "quadratic form whose matrix is not semidefinite"
    if reading.operation == "add":
        curvatures = dict.fromkeys(_curvature(argument, dpp) for argument in reading.arguments)
        return f"a sum of {' and '.join(kind for kind in curvatures if kind not in LINEAR)} terms"
    return _composition_fault(node, reading.operation, dpp)


def _composition_fault(node: Any, operation: str, dpp: bool) -> str:
    kind = "convex" if node.is_atom_convex() else "concave" if node.is_atom_concave() else ""
    if not kind:
        return f"{operation} is neither convex nor concave"
    for position, argument in enumerate(node.args):
        curvature = _curvature(argument, dpp)
        if curvature in LINEAR:
            continue
        increasing, decreasing = node.is_incr(position), node.is_decr(position)
        other = "concave" if kind == "convex" else "convex"
        needed = kind if increasing else other if decreasing else "affine"
        if curvature != needed:
            step = "nondecreasing" if increasing else "nonincreasing" if decreasing else "not monotone"
            return f"{operation} is {kind} and {step}, so its argument must be {needed}; it is {curvature}"
    return f"the arguments of {operation} do not fit its rule"


def _curvature(expression: Any, dpp: bool) -> str:
    def curvature() -> str:
        for kind in ("constant", "affine", "convex", "concave"):
            if getattr(expression, f"is_{kind}")():
                return kind
        return "unknown"

    if not dpp:
        return curvature()
    with scopes.dpp_scope():
        return curvature()


def _kind(expression: Any, names: Names, dpp: bool) -> str:
    expression = strip(expression)
    if isinstance(expression, cp.Variable | cp.Parameter):
        return "Variable" if isinstance(expression, cp.Variable) else "Parameter"
    variables, parameters = expression.variables(), expression.parameters()
    parameter_names = ", ".join(dict.fromkeys(names.plain.get(leaf.id, "?") for leaf in parameters))
    if variables and parameters and dpp:
        return f"an expression with variables and the Parameter {parameter_names}"
    if variables:
        return "an expression with variables"
    nonlinear = "" if _curvature(expression, True) in LINEAR else "nonlinear "
    return f"a {nonlinear}function of the Parameter {parameter_names}" if parameters else "constant"


def _remedy(node: Any) -> str:
    operation = read(node).operation
    if operation == "quad_form":
        return QUADRATIC_REMEDY
    if operation == "divide":
        return QUOTIENT_REMEDY
    curved = any(not part.variables() and _curvature(part, True) not in LINEAR for part in node.args)
    return PRODUCT_REMEDY if operation in ("scale", "multiply", "product") and not curved else FUNCTION_REMEDY


def _wrong_objective(problem: Any, names: Names, dpp: bool) -> str:
    minimizes = isinstance(problem.objective, cp.Minimize)
    verb, needed = ("minimizes", "convex") if minimizes else ("maximizes", "concave")
    objective = problem.objective.args[0]
    text = f"the objective {verb} a {_curvature(objective, dpp)} expression where a {needed} one is needed"
    return text + _culprit([objective], needed, names, dpp)


def _wrong_constraint(constraint: Any, place: str, names: Names, dpp: bool) -> str:
    relation = relation_of(constraint)
    written = constraint_text(constraint, names, Limits(items=SHORT, depth=8))
    if relation is None:
        culprit = _culprit(constraint.args, "affine", names, dpp)
        return f"{written}, in {place}: its arguments must be affine{culprit}"
    left, sign, right = relation
    needed = {"<=": "convex <= concave", ">=": "concave >= convex"}.get(sign, f"affine {sign} affine")
    seen = f"{_curvature(left, dpp)} {sign} {_curvature(right, dpp)}"
    culprit = _culprit((left, right), "affine", names, dpp)
    return f"{written}, in {place}: {seen} where {needed} is needed{culprit}"


def _culprit(expressions: Any, needed: str, names: Names, dpp: bool) -> str:
    """Name the functions of parameters alone that DPP takes for functions of variables."""
    if not dpp:
        return ""
    nodes = [node for expression in expressions for node in walk(expression)]
    found = [
        node
        for node in nodes
        if node.parameters()
        and not node.variables()
        and _curvature(node, True) not in (*LINEAR, needed)
        and not any(_curvature(argument, True) == _curvature(node, True) for argument in node.args)
    ]
    if not found:
        return ""
    shown = ", ".join(dict.fromkeys(_short(node, names) for node in found))
    return f"; {shown} is curved, since for DPP a Parameter counts as a variable; remedy: {FUNCTION_REMEDY}"
