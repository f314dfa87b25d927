"""Why a program is convex, term by term; what it becomes for a conic solver; what breaks DCP or DPP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import cvxpy as cp

from .blame import describe_offender, explain_not_dcp, explain_not_dpp, smallest_offender
from .naming import Names, printable
from .plain_text import Limits, constraint_text, expression_text, relation_of
from .reading import attempt, read, scalar_value, strip

__all__ = [
    "ConvexityRow",
    "convexity_table",
    "explain_not_dcp",
    "explain_not_dpp",
    "label_of",
    "objective_terms",
]

# Beyond this many compositions an argument is only said to be convex or concave: the rule must stay readable.
EXPLAINED_DEPTH = 3
# Which set a cone constraint puts its affine arguments in.
CONES = {
    "SOC": "second-order cone",
    "ExpCone": "exponential cone",
    "PowCone3D": "power cone",
    "PowCone3DApprox": "power cone",
    "PowConeND": "power cone",
    "PSD": "positive semidefinite cone",
    "SvecPSD": "positive semidefinite cone",
}


@dataclass(frozen=True)
class ConvexityRow:
    """One term of the objective or one constraint, and the rule that proves it convex.

    Parameters
    ----------
    part : str
        ``"objective"`` or ``"constraint"``.
    term : str
        Its label, or its text where it has none.
    sign : str
        Sign of a term, empty for a constraint.
    curvature : str
        Curvature of a term; of a constraint, that of the function it bounds.
    rule : str
        The rule of disciplined convex programming that applies.
    """

    part: str
    term: str
    sign: str
    curvature: str
    rule: str


def objective_terms(problem: Any) -> list[Any]:
    """Return the summands of the objective; a labelled sum stays one term."""
    expression = strip(problem.objective.args[0])
    is_sum = type(expression).__name__ == "AddExpression" and expression.label is None
    return list(read(expression).arguments) if is_sum else [expression]


def label_of(item: Any) -> str | None:
    """Return the label of a constraint or a term; a multiple of a labelled term is known by that label."""
    label = getattr(item, "label", None)
    if label is not None:
        return printable(label) or None
    if isinstance(item, cp.Constraint) or not getattr(item, "args", None):
        return None
    reading = read(item)
    if reading.operation == "add":
        labels = list(dict.fromkeys(filter(None, map(label_of, reading.arguments))))
        return " + ".join(labels) or None
    if reading.operation in ("negate", "scale", "divide", "sum", "multiply"):
        return next(filter(None, map(label_of, reading.arguments)), None)
    return None


def convexity_table(problem: Any, names: Names) -> list[ConvexityRow]:
    """Explain every term of the objective and every constraint.

    Parameters
    ----------
    problem : cvxpy.Problem
        Any problem.
    names : Names
        The names of its leaves.

    Returns
    -------
    list of ConvexityRow
        One row each, objective first.
    """
    wanted = "concave" if isinstance(problem.objective, cp.Maximize) else "convex"
    terms: list[Any] = attempt(lambda: objective_terms(problem), [])
    rows = [attempt(partial(_term_row, term, wanted, names), UNKNOWN_TERM) for term in terms]
    constraints: list[Any] = attempt(lambda: list(problem.constraints), [])
    rows += [attempt(partial(_constraint_row, item, names), UNKNOWN_CONSTRAINT) for item in constraints]
    return rows


UNKNOWN_TERM = ConvexityRow("objective", "?", "unknown", "unknown", "no rule found")
UNKNOWN_CONSTRAINT = ConvexityRow("constraint", "?", "", "unknown", "no rule found")


def _term_row(term: Any, wanted: str, names: Names) -> ConvexityRow:
    title = label_of(term) or expression_text(term, names, Limits(items=6))
    rule = proof(term, wanted, names)
    return ConvexityRow("objective", title, term.sign.lower(), curvature_of(term), rule)


def _constraint_row(constraint: Any, names: Names) -> ConvexityRow:
    title = label_of(constraint) or constraint_text(constraint, names, Limits(items=6))
    curvature, rule = _constraint_rule(constraint, names)
    return ConvexityRow("constraint", title, "", curvature, rule)


def _constraint_rule(constraint: Any, names: Names) -> tuple[str, str]:
    if type(constraint).__name__ == "FiniteSet":
        return "unknown", "not proven: a finite set of points is not convex"
    if not constraint.is_dcp():
        return "unknown", f"not proven: {offence(constraint, names) or 'these sides bound no convex set'}"
    relation = relation_of(constraint)
    if relation is None:
        cone = CONES.get(type(constraint).__name__, "cone")
        return "affine", f"affine arguments in the {cone}, a convex set"
    left, sign, right = relation
    sides = f"{curvature_of(left)} {sign} {curvature_of(right)}"
    if left.is_affine() and right.is_affine():
        return "affine", sides
    lower, upper = (left, right) if sign == "<=" else (right, left)
    clauses = [sides]
    clauses += [] if lower.is_affine() else _clauses(lower, "convex", names, 0)
    clauses += [] if upper.is_affine() else _clauses(upper, "concave", names, 0)
    return "convex", "; ".join(dict.fromkeys(clauses))


def curvature_of(expression: Any) -> str:
    """Return constant, affine, convex, concave or unknown."""
    curvature: str = expression.curvature.lower()
    return curvature if curvature in ("constant", "affine", "convex", "concave") else "unknown"


def proof(expression: Any, wanted: str, names: Names) -> str:
    """Say by which rules an expression is convex or concave, the outermost first.

    Parameters
    ----------
    expression : cvxpy.Expression
        Any expression.
    wanted : str
        ``"convex"`` or ``"concave"``.
    names : Names
        The names of its leaves.

    Returns
    -------
    str
        One line.
    """
    # Nested multiples and sums repeat the same rule; once is enough.
    return "; ".join(dict.fromkeys(_clauses(expression, wanted, names, 0)))


def _clauses(expression: Any, wanted: str, names: Names, depth: int) -> list[str]:
    if expression.is_constant():
        return ["constant in the variables"]
    if expression.is_affine():
        return ["affine in the variables"]
    if not (expression.is_convex() if wanted == "convex" else expression.is_concave()):
        fault = offence(expression, names) or f"it is {curvature_of(expression)}, not {wanted}"
        return [f"not proven: {fault}"]
    expression = strip(expression)
    reading = read(expression)
    if reading.operation == "add":
        parts = [part for part in reading.arguments if not part.is_affine()]
        inner = [clause for part in parts for clause in _clauses(part, wanted, names, depth)]
        return [f"sum of {wanted} terms" if len(parts) > 1 else f"{wanted} plus affine", *inner]
    if reading.operation == "negate":
        other = _other(wanted)
        return [f"negative of a {other} term", *_clauses(reading.arguments[0], other, names, depth)]
    if reading.operation == "sum":
        return ["sum over entries", *_clauses(reading.arguments[0], wanted, names, depth)]
    if reading.operation in ("scale", "multiply", "product", "divide"):
        return _multiple(reading.arguments, wanted, names, depth)
    return [_composition(expression, reading.operation, wanted, names, depth)]


def _multiple(arguments: tuple[Any, ...], wanted: str, names: Names, depth: int) -> list[str]:
    factor, term = sorted(arguments, key=lambda argument: not argument.is_constant())
    if scalar_value(factor) == 1:
        return _clauses(term, wanted, names, depth)
    sign, kind = ("nonnegative", wanted) if factor.is_nonneg() else ("nonpositive", _other(wanted))
    return [f"{sign} multiple of a {kind} term", *_clauses(term, kind, names, depth)]


def _composition(expression: Any, operation: str, wanted: str, names: Names, depth: int) -> str:
    if operation == "neg":
        # neg(x) is stored as -minimum(x, 0): its own rule is that of the whole.
        arguments, steps, kind = list(read(expression).arguments), ["nonincreasing"], "convex"
    else:
        arguments = list(expression.args)
        steps = [_monotone(expression, position) for position in range(len(arguments))]
        kind = "affine" if expression.is_atom_affine() else wanted
    curved = {
        id(argument): (argument, step)
        for argument, step in zip(arguments, steps, strict=True)
        if not argument.is_affine()
    }.values()
    many = sum(not argument.is_constant() for argument in arguments) > 1
    if not curved:
        return f"{operation} is {kind}, and {'its arguments are' if many else 'its argument is'} affine"
    monotone = " and ".join(dict.fromkeys(step for _, step in curved if step))
    kinds = " or ".join(dict.fromkeys(curvature_of(argument) for argument, _ in curved))
    noun = "each argument is affine or" if many else "its argument is"
    text = f"composition: {operation} is {kind} and {monotone}, {noun} {kinds}"
    if depth >= EXPLAINED_DEPTH:
        return text
    reasons = [
        clause
        for argument, _ in curved
        for clause in _clauses(argument, curvature_of(argument), names, depth + 1)
    ]
    return f"{text} ({'; '.join(dict.fromkeys(reasons))})"


def _monotone(expression: Any, position: int) -> str:
    if expression.is_incr(position):
        return "nondecreasing"
    return "nonincreasing" if expression.is_decr(position) else ""


def _other(wanted: str) -> str:
    return "concave" if wanted == "convex" else "convex"


def offence(item: Any, names: Names) -> str:
    """Name the smallest part of a term or constraint that breaks DCP, or return an empty text."""
    offender = smallest_offender(item, dpp=False)
    return "" if offender is None else describe_offender(offender, names, dpp=False)
