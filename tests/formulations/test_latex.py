"""The typesetting of common atoms, parentheses and names."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import cvxpy as cp
import numpy as np
import pytest
from latex2mathml.converter import convert

from convexblocks.formulations.latex import constraint_latex, expression_latex
from convexblocks.formulations.naming import Names, accepted_latex, assign_names, name_latex, text_latex
from convexblocks.formulations.plain_text import constraint_text, expression_text

x, y, t = cp.Variable(3, name="x"), cp.Variable(3, name="y"), cp.Variable(name="t")
X, S = cp.Variable((2, 3), name="X"), cp.Variable((3, 3), name="S", symmetric=True)
Z = cp.Variable(3, name="Z_1")
gamma, P = cp.Parameter(name="gamma", nonneg=True), cp.Parameter((3, 3), name="P", PSD=True)
W = cp.Parameter((2, 3), name="W_next")

EXPRESSIONS: list[tuple[Any, str, str]] = [
    (cp.sum_squares(x), "sum_squares(x)", r"\left\|x\right\|_{2}^{2}"),
    (cp.sum_squares(X), "sum_squares(X)", r"\left\|X\right\|_{F}^{2}"),
    (cp.norm1(x), "norm1(x)", r"\left\|x\right\|_{1}"),
    (cp.norm2(x), "norm2(x)", r"\left\|x\right\|_{2}"),
    (cp.norm_inf(x), "norm_inf(x)", r"\left\|x\right\|_{\infty}"),
    (cp.pnorm(x, 3), "pnorm(x, 3)", r"\left\|x\right\|_{3}"),
    (cp.quad_form(x, P), "quad_form(x, P)", r"x^{\top} P x"),
    (cp.quad_over_lin(x, t), "quad_over_lin(x, t)", r"\frac{\left\|x\right\|_{2}^{2}}{t}"),
    (cp.matrix_frac(x, P), "matrix_frac(x, P)", r"x^{\top} P^{-1} x"),
    (cp.sum(x), "sum(x)", r"\mathbf{1}^{\top} x"),
    (3 * cp.sum(x), "3 * sum(x)", r"3 \cdot \mathbf{1}^{\top} x"),
    (cp.sum(X), "sum(X)", r"\mathbf{1}^{\top} X \mathbf{1}"),
    (cp.sum(X, axis=0), "sum(X, axis=0)", r"\mathbf{1}^{\top} X"),
    (W @ x, "W_next @ x", r"W_{\text{next}} x"),
    (x @ y, "x @ y", r"x^{\top} y"),
    (cp.multiply(x, y), "x * y", r"x \circ y"),
    (gamma * x, "gamma * x", r"\gamma x"),
    (gamma * (x + y), "gamma * (x + y)", r"\gamma \left(x + y\right)"),
    ((t + 1) * 3, "(t + 1) * 3", r"3 \left(t + 1\right)"),
    (x - (y + 1), "x - (y + 1)", r"x - \left(y + 1\right)"),
    (-(x - y), "-(x - y)", r"-\left(x - y\right)"),
    (x - 2 * y, "x - 2 * y", r"x - 2 y"),
    (x + -2 * y, "x - 2 * y", "x - 2 y"),
    (1 * (x - y), "1 * (x - y)", "x - y"),
    (cp.multiply(x, y - x), "x * (y - x)", r"x \circ \left(y - x\right)"),
    (W @ (x - y), "W_next @ (x - y)", r"W_{\text{next}} \left(x - y\right)"),
    (W @ cp.multiply(x, y), "W_next @ (x * y)", r"W_{\text{next}} \left(x \circ y\right)"),
    (gamma * W @ x, "gamma * W_next @ x", r"\gamma W_{\text{next}} x"),
    (X.T, "X.T", r"X^{\top}"),
    (cp.square(X.T), "square(X.T)", r"\left(X^{\top}\right)^{2}"),
    (cp.square(cp.norm2(x)), "square(norm2(x))", r"\left\|x\right\|_{2}^{2}"),
    (cp.square(Z), "square(Z_1)", r"Z_{1}^{2}"),
    (Z[0], "Z_1[0]", r"\left(Z_{1}\right)_{[0]}"),
    (x[1:], "x[1:]", r"x_{[1:]}"),
    (x[::-1], "x[2::-1]", r"x_{[2::-1]}"),
    (X[:, 1], "X[:, 1]", r"X_{[:, 1]}"),
    (x[[0, 2]], "x[[0, 2]]", r"x_{[[0, 2]]}"),
    (cp.abs(x), "abs(x)", r"\left|x\right|"),
    (cp.pos(x), "pos(x)", r"\left(x\right)_{+}"),
    (cp.neg(x), "neg(x)", r"\left(x\right)_{-}"),
    (cp.max(x), "max(x)", r"\max\left(x\right)"),
    (cp.maximum(x, y), "maximum(x, y)", r"\max\left(x, y\right)"),
    (cp.huber(x, 2), "huber(x, 2)", r"\operatorname{huber}_{2}\left(x\right)"),
    (cp.exp(x), "exp(x)", "e^{x}"),
    (cp.log(x), "log(x)", r"\log\left(x\right)"),
    (cp.log1p(x), "log1p(x)", r"\log\left(1 + x\right)"),
    (cp.logistic(x), "logistic(x)", r"\log\left(1 + e^{x}\right)"),
    (cp.entr(x), "entr(x)", r"-x \circ \log\left(x\right)"),
    (cp.entr(t), "entr(t)", r"-t \log\left(t\right)"),
    (y - cp.entr(x), "y - entr(x)", r"y - \left(-x \circ \log\left(x\right)\right)"),
    (cp.kl_div(x, y), "kl_div(x, y)", r"x \circ \log \frac{x}{y} - x + y"),
    (cp.log_sum_exp(x), "log_sum_exp(x)", r"\log\left(\mathbf{1}^{\top} e^{x}\right)"),
    (cp.sqrt(x), "sqrt(x)", r"\sqrt{x}"),
    (cp.power(x, 1.5), "power(x, 1.5)", "x^{1.5}"),
    (cp.inv_pos(x), "inv_pos(x)", "x^{-1}"),
    (cp.hstack([x, y]), "hstack(x, y)", r"\left(x, y\right)"),
    (cp.vstack([X, X]), "vstack(X, X)", r"\begin{bmatrix} X \\ X \end{bmatrix}"),
    (cp.vec(X, order="F"), "vec(X)", r"\operatorname{vec}\left(X\right)"),
    (cp.trace(S), "trace(S)", r"\operatorname{tr}\left(S\right)"),
    (cp.lambda_max(S), "lambda_max(S)", r"\lambda_{\max}\left(S\right)"),
    (cp.log_det(S), "log_det(S)", r"\log \det\left(S\right)"),
    (cp.sum_largest(x, 2), "sum_largest(x, 2)", r"\text{sum}\_\text{largest}\left(x, 2\right)"),
    (1e-6 * t, "1e-06 * t", "10^{-6} t"),
    (2.5e-7 * t, "2.5e-07 * t", r"2.5 \cdot 10^{-7} t"),
    (np.ones(3) @ x, "C_1 @ x", r"C_{1}^{\top} x"),
    (np.zeros(3) + x, "x", "x"),
]

CONSTRAINTS: list[tuple[Any, str, str]] = [
    (x >= 0, "x >= 0", r"x \ge 0"),
    (x <= 1, "x <= 1", r"x \le 1"),
    (cp.norm2(x) <= t, "norm2(x) <= t", r"\left\|x\right\|_{2} \le t"),
    (y == W.T @ X[:, 0], "y == W_next.T @ X[:, 0]", r"y = W_{\text{next}}^{\top} X_{[:, 0]}"),
    (S >> 0, "S >> 0", r"S \succeq 0"),
    (cp.SOC(t, x), "SOC(t, x)", r"\left\|x\right\|_{2} \le t"),
    (cp.ExpCone(t, t, t), "ExpCone(t, t, t)", r"\left(t, t, t\right) \in \mathcal{K}_{\exp}"),
]


def names_of(*expressions: Any) -> Names:
    return assign_names(cp.Problem(cp.Minimize(0), [cp.sum(expression) >= 0 for expression in expressions]))


@pytest.mark.parametrize(("expression", "text", "latex"), EXPRESSIONS, ids=[row[1] for row in EXPRESSIONS])
def test_expressions(expression: Any, text: str, latex: str) -> None:
    names = names_of(expression)
    assert expression_text(expression, names) == text
    assert expression_latex(expression, names) == latex
    ElementTree.fromstring(convert(latex))


@pytest.mark.parametrize(("constraint", "text", "latex"), CONSTRAINTS, ids=[row[1] for row in CONSTRAINTS])
def test_constraints(constraint: Any, text: str, latex: str) -> None:
    names = names_of(*constraint.args)
    assert constraint_text(constraint, names) == text
    assert constraint_latex(constraint, names) == latex
    ElementTree.fromstring(convert(latex))


@pytest.mark.parametrize(
    ("name", "latex"),
    [
        ("x", "x"),
        ("x1", "x_{1}"),
        ("Z_1", "Z_{1}"),
        ("W_next", r"W_{\text{next}}"),
        ("W_next_2", r"W_{\text{next},2}"),
        ("gamma", r"\gamma"),
        ("lambda_b", r"\lambda_{b}"),
        ("below", r"\text{below}"),
        ("x^2", r"{\text{x}\wedge \text{2}}"),
        ("_", r"{\_}"),
    ],
)
def test_names(name: str, latex: str) -> None:
    assert name_latex(name) == latex


@pytest.mark.parametrize(
    "latex", ["}", "{", r"\end{array}", "a & b", r"a \\ b", "%", r"\foo}{", "\\", "x^", "<b>"]
)
def test_latex_of_a_symbol_that_would_break_out_is_refused(latex: str) -> None:
    assert accepted_latex(latex) is None


def test_latex_of_a_symbol_is_used() -> None:
    assert accepted_latex(r"\mathbf{x}") == r"\mathbf{x}"
    assert accepted_latex("x_0^+") == "{x_0^+}"


def test_text_keeps_every_character() -> None:
    assert text_latex("a_b <= 5%") == r"\text{a}\_\text{b } \le \text{ 5}\%"
