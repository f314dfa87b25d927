"""Why a program is convex, what it becomes for a solver, and what is to blame when it is not disciplined."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest

from convexblocks.formulations.cones import cone_sizes, cone_text
from convexblocks.formulations.explanation import convexity_table, explain_not_dcp, explain_not_dpp
from convexblocks.formulations.naming import assign_names

x, y, t = cp.Variable(3, name="x"), cp.Variable(3, name="y"), cp.Variable(name="t")
gamma, P = cp.Parameter(name="gamma", nonneg=True), cp.Parameter((3, 3), name="P", PSD=True)
W = cp.Parameter((2, 3), name="W")


def rule_of(expression: Any) -> str:
    problem = cp.Problem(cp.Minimize(expression) if expression.is_convex() else cp.Maximize(expression))
    return convexity_table(problem, assign_names(problem))[0].rule


@pytest.mark.parametrize(
    ("expression", "rule"),
    [
        (cp.sum_squares(x - 1), "sum_squares is convex, and its argument is affine"),
        (x @ cp.Parameter(3), "affine in the variables"),
        (cp.square(gamma), "constant in the variables"),
        (
            gamma * cp.norm1(x),
            "nonnegative multiple of a convex term; norm1 is convex, and its argument is affine",
        ),
        (1 * (cp.norm1(x) - t), "convex plus affine; norm1 is convex, and its argument is affine"),
        (-cp.sqrt(t), "negative of a concave term; sqrt is concave, and its argument is affine"),
        (cp.quad_over_lin(x, t), "quad_over_lin is convex, and its arguments are affine"),
        (
            cp.logistic(cp.square(t)),
            "composition: logistic is convex and nondecreasing, its argument is convex "
            "(square is convex, and its argument is affine)",
        ),
        (
            cp.inv_pos(cp.sqrt(t)),
            "composition: inv_pos is convex and nonincreasing, its argument is concave "
            "(sqrt is concave, and its argument is affine)",
        ),
        (
            cp.exp(cp.neg(t)),
            "composition: exp is convex and nondecreasing, its argument is convex "
            "(neg is convex, and its argument is affine)",
        ),
        (cp.sum(cp.log(x)), "sum over entries; log is concave, and its argument is affine"),
    ],
)
def test_rules(expression: Any, rule: str) -> None:
    assert rule_of(expression) == rule


def test_the_table_has_a_row_for_every_term_and_constraint() -> None:
    objective = 0.5 * cp.sum_squares(x).set_label("distance") - t
    problem = cp.Problem(cp.Minimize(objective), [(cp.norm2(x) <= t).set_label("ball"), cp.square(t) == 1])
    rows = convexity_table(problem, assign_names(problem))
    assert [(row.part, row.term, row.sign, row.curvature) for row in rows] == [
        ("objective", "distance", "nonnegative", "convex"),
        ("objective", "-t", "unknown", "affine"),
        ("constraint", "ball", "", "convex"),
        ("constraint", "square(t) == 1", "", "unknown"),
    ]
    assert rows[2].rule == "convex <= affine; norm2 is convex, and its argument is affine"
    assert rows[3].rule.startswith("not proven")


@pytest.mark.parametrize(
    ("problem", "parts"),
    [
        (
            cp.Problem(cp.Minimize(cp.sum(gamma * W @ x))),
            [
                "gamma * W (Parameter times Parameter) inside gamma * W @ x",
                "fold the product into one Parameter",
            ],
        ),
        (
            cp.Problem(cp.Minimize(cp.norm1(y)), [(gamma * (W @ x) == 1).set_label("tied")]),
            ["gamma * (W @ x)", "constraint 'tied'", "the Parameter W", "variable tied by an equality"],
        ),
        (
            cp.Problem(cp.Minimize(cp.quad_form(x, P))),
            ["quad_form(x, P)", "matrix of Parameters: P", "sum_squares(R @ x)"],
        ),
        (
            cp.Problem(cp.Minimize(cp.sum(x / gamma))),
            ["x / gamma (Variable divided by Parameter)", "reciprocal"],
        ),
        (
            cp.Problem(cp.Minimize(cp.exp(gamma) * t)),
            ["exp(gamma) * t", "nonlinear function of the Parameter gamma", "outside the program"],
        ),
        (
            cp.Problem(cp.Minimize(t), [cp.square(t) <= cp.square(gamma)]),
            ["square(t) <= square(gamma), in constraint 1", "convex <= convex", "square(gamma) is curved"],
        ),
        (
            cp.Problem(cp.Minimize(cp.sqrt(gamma) + t)),
            ["the objective minimizes a concave expression", "sqrt(gamma)"],
        ),
        (cp.Problem(cp.Minimize(gamma * t * t)), ["not DPP", "not DCP"]),
    ],
)
def test_not_dpp_names_the_culprit(problem: cp.Problem, parts: list[str]) -> None:
    message = explain_not_dpp(problem)
    assert message is not None
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("problem", "part"),
    [
        (cp.Problem(cp.Minimize(cp.sum(cp.multiply(x, y)))), "x * y (Variable times Variable)"),
        (
            cp.Problem(cp.Minimize(cp.sqrt(cp.sum_squares(x)))),
            "sqrt is concave and nondecreasing, so its argument must be concave; it is convex",
        ),
        (
            cp.Problem(cp.Maximize(cp.sum_squares(x))),
            "maximizes a convex expression where a concave one is needed",
        ),
        (
            cp.Problem(cp.Minimize(t), [(cp.norm1(x) >= 1).set_label("out")]),
            "norm1(x) >= 1, in constraint 'out': convex >= constant",
        ),
        (cp.Problem(cp.Minimize(cp.quad_form(x, np.diag([1.0, -1.0, 0.0])))), "quadratic form"),
        (cp.Problem(cp.Minimize(cp.norm1(x) + cp.sqrt(t))), "a sum of convex and concave terms"),
    ],
)
def test_not_dcp_names_the_culprit(problem: cp.Problem, part: str) -> None:
    message = explain_not_dcp(problem)
    assert message is not None
    assert part in message


def test_a_disciplined_problem_needs_no_explanation() -> None:
    problem = cp.Problem(cp.Minimize(gamma * cp.norm1(x) + cp.sum_squares(W @ x)), [x >= 0])
    assert problem.is_dpp()
    assert explain_not_dcp(problem) is None
    assert explain_not_dpp(problem) is None


def test_several_culprits_are_counted() -> None:
    problem = cp.Problem(cp.Minimize(0), [gamma * (gamma * t) <= bound for bound in range(5)])
    assert "and 2 more" in (explain_not_dpp(problem) or "")


def test_cone_sizes_of_every_kind() -> None:
    S = cp.Variable((2, 2), symmetric=True)
    constraints = [x == 1, t >= 0, cp.norm2(x) <= t, cp.sum(cp.exp(y)) <= 3, S >> np.eye(2)]
    sizes = cone_sizes(cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.trace(S)), constraints))
    assert sizes["quadratic_objective"] is True
    assert (sizes["zero"], sizes["exponential"]) == (3, 3)
    assert (sizes["second_order"], sizes["semidefinite"]) == ([4], [2])
    assert "1 second-order cone (1 of size 4)" in cone_text(sizes)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (cp.Problem(cp.Maximize(cp.norm1(x))), "not DCP"),
        (cp.Problem(cp.Minimize(gamma * gamma * cp.norm1(x))), "parameters need values"),
        (cp.Problem(cp.Minimize(cp.sum(cp.Variable(2, integer=True)))), "integer"),
        (cp.Problem(cp.Minimize(0)), "no variables"),
    ],
)
def test_what_has_no_cones_says_why(problem: cp.Problem, message: str) -> None:
    assert message in cone_sizes(problem)["message"]


def test_parameters_of_a_dpp_problem_need_no_values() -> None:
    sizes = cone_sizes(cp.Problem(cp.Minimize(cp.sum_squares(W @ x) + gamma * cp.norm1(x))))
    assert sizes["variables"] > 3
    assert W.value is None
