"""Rendering is total: whatever the problem, all four forms exist, are safe, and say the same."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from latex2mathml.converter import convert

from convexblocks.formulations.description import Description, Symbol
from convexblocks.formulations.rendering import render_html, render_json, render_latex, render_text


def assert_renders(problem: cp.Problem, description: Description | None = None) -> dict[str, Any]:
    """Render in every form and check what each form promises; return the JSON form."""
    text = render_text(problem, description)
    assert text.isprintable() or "\n" in text
    for latex in (render_latex(problem, description, cap=None), render_latex(problem, description, cap=2)):
        ElementTree.fromstring(convert(latex))
    html = render_html(problem, description)
    # A fragment that is well-formed XML has every character of names and labels escaped.
    ElementTree.fromstring(html)
    data = render_json(problem, description)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    for item in (*data["objective"], *data["constraints"]):
        ElementTree.fromstring(convert(item["latex"]))
    for symbol in data["symbols"]:
        if symbol["latex"]:
            ElementTree.fromstring(convert(symbol["latex"]))
    assert len(data["convexity"]) == len(data["objective"]) + len(data["constraints"])
    return data


def fenchel_like() -> tuple[cp.Problem, Description]:
    x, z = cp.Variable(6, name="x"), cp.Variable(4, name="z", nonneg=True)
    u, W = cp.Parameter(6, name="u"), cp.Parameter((4, 6), name="W")
    match = (2 * (0.5 * cp.sum_squares(x) - u @ x)).set_label("match below")
    fit = cp.norm1(z).set_label("fit <above> & beyond")
    problem = cp.Problem(cp.Minimize(match + fit), [(z == W @ x).set_label("sent on"), x >= 0])
    symbols = (
        Symbol("x", "activations of this layer", "per instance"),
        Symbol("W", "weights", "shared", r"\mathbf{W}"),
    )
    return problem, Description(
        "fenchel.activation", "one sample", symbols, "Gu & others, section 4", "Math."
    )


def test_every_form_says_the_same() -> None:
    problem, description = fenchel_like()
    data = assert_renders(problem, description)
    assert [term["label"] for term in data["objective"]] == ["match below", "fit <above> & beyond"]
    assert data["objective"][0]["text"] == "2 * (0.5 * sum_squares(x) - u @ x)"
    assert data["constraints"][1]["text"] == "x >= 0"
    by_name = {symbol["name"]: symbol for symbol in data["symbols"]}
    assert by_name["x"]["sharing"] == "per instance"
    assert by_name["W"]["sharing"] == "shared"
    assert by_name["W"]["shape"] == [4, 6]
    assert by_name["z"]["attributes"] == ["nonneg"]
    assert by_name["u"]["sharing"] == by_name["u"]["meaning"] == ""
    assert data["properties"] == {
        "convex": True,
        "dcp": True,
        "dpp": True,
        "qp": True,
        "mixed_integer": False,
        "why_not_dcp": None,
        "why_not_dpp": None,
    }
    text, latex, html = (
        render_text(problem, description),
        render_latex(problem, description),
        render_html(problem, description),
    )
    for shown in (text, latex, html):
        for word in (
            "match below",
            "sent on",
            "activations of this layer",
            "per instance",
            "nonneg",
            "section 4",
        ):
            assert word in shown
        assert "sum" in shown
        assert "DPP yes" in shown
        assert "quadratic objective" in shown
    assert "fit &lt;above&gt; &amp; beyond" in html


def test_text_stays_within_a_terminal() -> None:
    problem, description = fenchel_like()
    assert max(map(len, render_text(problem, description).splitlines())) <= 100
    assert render_text(problem, description).splitlines()[0].startswith("fenchel.activation")


def test_rendering_leaves_the_problem_alone() -> None:
    problem, description = fenchel_like()
    render_text(problem, description)
    assert all(parameter.value is None for parameter in problem.parameters())
    assert all(variable.value is None for variable in problem.variables())
    assert problem.status is None


def test_rows_left_out_are_counted() -> None:
    x = cp.Variable(40, name="x")
    problem = cp.Problem(cp.Minimize(cp.norm1(x)), [(x[i] >= i).set_label(f"row {i}") for i in range(36)])
    assert "... and 12 more constraints" in render_html(problem)
    assert "and 12 more constraints" in render_latex(problem)
    assert "row 35" not in render_latex(problem)
    assert "row 35" in render_latex(problem, cap=None)
    assert "more constraints" not in render_latex(problem, cap=None)
    assert "... and 35 more constraints" in render_text(problem, cap=1)
    assert len(render_json(problem)["constraints"]) == 36


def test_every_row_survives_the_conversion_to_mathml() -> None:
    # latex2mathml drops a last row that ends in an empty cell.
    x = cp.Variable(3, name="x")
    problem = cp.Problem(cp.Minimize(cp.norm1(x)), [x >= 0, x <= 5])
    converted = convert(render_latex(problem))
    latex_rows = render_latex(problem).count(r"\\") + 3  # three arrays
    assert converted.count("<mtr>") == latex_rows


def test_entries_of_arrays_are_never_shown() -> None:
    entries = np.full((3, 4), 7.25)
    x = cp.Variable(4, name="x")
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(entries @ x - np.array([8.5, 9.5, 8.5]))), [x >= np.zeros(4)]
    )
    data = assert_renders(problem)
    shown = render_text(problem) + render_latex(problem, cap=None) + render_html(problem) + json.dumps(data)
    assert not re.search(r"7\.25|8\.5|9\.5", shown)
    assert [(s["name"], s["shape"]) for s in data["symbols"] if s["kind"] == "constant"] == [
        ("C_1", [3, 4]),
        ("C_2", [3]),
    ]
    assert r"C_{1} \in \mathbb{R}^{3 \times 4}" in render_latex(problem)
    assert data["constraints"][0]["text"] == "x >= 0"


def test_symbols_of_equal_name_are_told_apart() -> None:
    a, b = cp.Variable(2, name="x"), cp.Variable(2, name="x")
    data = assert_renders(cp.Problem(cp.Minimize(cp.norm1(a - b) + cp.sum_squares(b))))
    assert data["objective"][0]["text"] == "norm1(x - x')"


NASTY = [
    "a_b_c",
    "_",
    "x_",
    "__init__",
    "x^2",
    "λ",
    "𝒜😀",
    "}{",
    r"\end{array}",
    r"\input{/etc/passwd}",
    "$x$",
    "%comment",
    "a & b \\\\ c",
    "<script>alert(1)</script>",
    "&lt;script&gt;",
    '"><img src=x onerror=alert(1)>',
    "two\nlines\tand tabs",
    "~#'`",
    "x" * 300,
    "a <= b >= c",
    "\u202eright to left",
    "\x00\x07",
    "",
    "{{ 7 * 7 }}",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_names_and_labels_cannot_break_out(nasty: str) -> None:
    x, p = cp.Variable(3, name=nasty or "x"), cp.Parameter(3, name=nasty or "p")
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(x - p).set_label(nasty)), [(x >= 0).set_label(nasty), x[0] == 1]
    )
    symbol = Symbol(nasty, nasty, "shared", nasty)
    description = Description(nasty, nasty, (symbol,), nasty, nasty)
    for given_description in (None, description):
        assert_renders(problem, given_description)
        html = render_html(problem, given_description)
        assert "<script" not in html
        assert "<img" not in html
        assert "/etc/passwd" not in html or nasty == r"\input{/etc/passwd}"
        assert "49" not in html


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30))
def test_any_text_can_be_a_name_a_label_and_a_description(text: str) -> None:
    x = cp.Variable(2, name=text or None)
    problem = cp.Problem(cp.Minimize(cp.norm1(x).set_label(text)), [(x >= 1).set_label(text)])
    assert_renders(problem, Description(text, text, (Symbol(text, text, "shared", text),), text, text))


class Broken(cp.Variable):
    """A variable that refuses to be shown."""

    def name(self) -> str:
        raise RuntimeError("no name")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BrokenAtom(cp.atoms.elementwise.abs.abs):
    """An atom of somebody else's whose every description fails."""

    def name(self) -> str:
        raise RuntimeError("no name")

    def get_data(self) -> list[Any]:
        raise RuntimeError("no data")


def odd_problems() -> dict[str, Callable[[], cp.Problem]]:
    x, t, S = cp.Variable(3, name="x"), cp.Variable(name="t"), cp.Variable((3, 3), name="S", symmetric=True)
    X, p = cp.Variable((2, 3), name="X"), cp.Parameter(3, name="p")
    g = cp.Parameter(name="g", nonneg=True)
    nested: Any = x
    for _ in range(100):
        nested = cp.abs(nested) + 1
    doubled: Any = t
    for _ in range(9):
        doubled = cp.maximum(doubled, doubled)
    return {
        "feasibility": lambda: cp.Problem(cp.Minimize(0), [x >= 1]),
        "nothing": lambda: cp.Problem(cp.Minimize(0)),
        "no constraints": lambda: cp.Problem(cp.Minimize(t)),
        "maximize": lambda: cp.Problem(cp.Maximize(cp.sum(cp.log(x)) - t), [cp.norm(x) <= t]),
        "complex": lambda: cp.Problem(cp.Minimize(cp.norm(cp.Variable(3, complex=True) - (1 + 2j)))),
        "integers": lambda: cp.Problem(
            cp.Minimize(cp.sum(cp.Variable(3, integer=True))), [cp.Variable(2, boolean=True) <= 1]
        ),
        "partly integer": lambda: cp.Problem(cp.Minimize(cp.sum(cp.Variable(3, integer=[(0,)])))),
        "bounds": lambda: cp.Problem(cp.Minimize(cp.sum(cp.Variable(3, bounds=[0, 1])))),
        "semidefinite": lambda: cp.Problem(cp.Minimize(cp.trace(S)), [S >> 0, np.eye(3) >> S]),
        "second-order cone": lambda: cp.Problem(cp.Minimize(t), [cp.SOC(t, x)]),
        "exponential cone": lambda: cp.Problem(cp.Minimize(t), [cp.ExpCone(t, t, t)]),
        "power cones": lambda: cp.Problem(
            cp.Minimize(t),
            [cp.PowCone3D(t, t, t, 0.3), cp.constraints.PowConeND(x, t, np.array([0.2, 0.3, 0.5]))],
        ),
        "one-sided": lambda: cp.Problem(cp.Minimize(t), [cp.NonNeg(x), cp.NonPos(t), cp.Zero(x - 1)]),
        "finite set": lambda: cp.Problem(cp.Minimize(t), [cp.FiniteSet(t, [1, 2])]),
        "relative entropy": lambda: cp.Problem(
            cp.Minimize(t), [cp.constraints.RelEntrConeQuad(t, t, t, 3, 3)]
        ),
        "not convex": lambda: cp.Problem(cp.Minimize(cp.sqrt(cp.norm(x))), [cp.square(x) == 1]),
        "not DPP": lambda: cp.Problem(cp.Minimize(g * g * cp.norm1(x)), [cp.quad_form(x, np.eye(3)) <= g]),
        "not DPP with values": lambda: _with_value(cp.Problem(cp.Minimize(g * g * cp.norm1(x)))),
        "geometric": lambda: cp.Problem(cp.Minimize(cp.Variable(pos=True) * cp.Variable(pos=True))),
        "empty array": lambda: cp.Problem(cp.Minimize(cp.sum(cp.Variable(0))), [cp.Variable((0, 3)) >= 0]),
        "three axes": lambda: cp.Problem(cp.Minimize(cp.sum_squares(cp.Variable((2, 3, 4))[0, :, ::2]))),
        "slices": lambda: cp.Problem(
            cp.Minimize(cp.sum(x[::-1]) + cp.sum(X[[0, 1], 1:]) + cp.sum(X[X.value is None]) + x[-1]),
            [X[np.array([[True, False, True], [False, True, False]])] >= 0, x[None, :] <= 1],
        ),
        "not a number": lambda: cp.Problem(cp.Minimize(t * np.nan), [t <= np.inf, t >= -np.inf, x <= np.nan]),
        "small numbers": lambda: cp.Problem(cp.Minimize(1e-9 * t + 1e30), [t >= -2.5e-7]),
        "broken leaf": lambda: cp.Problem(cp.Minimize(cp.norm1(Broken(3))), [Broken(2) >= 0]),
        "broken atom": lambda: cp.Problem(cp.Minimize(cp.sum(BrokenAtom(x)))),
        "deep": lambda: cp.Problem(cp.Minimize(cp.sum(nested))),
        "shared": lambda: cp.Problem(cp.Minimize(doubled)),
        "long": lambda: cp.Problem(cp.Minimize(cp.max(cp.hstack([t + i for i in range(200)])))),
        "named constant": lambda: cp.Problem(
            cp.Minimize(cp.sum(cp.Constant(np.arange(3.0), name="w_0") @ x))
        ),
        "name taken": lambda: cp.Problem(cp.Minimize(cp.norm1(np.arange(3.0) @ x - cp.Variable(name="C_1")))),
        "huber with parameter": lambda: cp.Problem(cp.Minimize(cp.sum(cp.huber(x - p, g)))),
        "sparse": lambda: cp.Problem(cp.Minimize(cp.norm1(_sparse_identity() @ x))),
        "constant constraint": lambda: cp.Problem(cp.Minimize(t), [cp.Constant(1) <= 2, t >= 0]),
    }


def _with_value(problem: cp.Problem) -> cp.Problem:
    for parameter in problem.parameters():
        parameter.value = 2.0
    return problem


def _sparse_identity() -> Any:
    from scipy.sparse import eye_array

    return eye_array(3, format="csc")


@pytest.mark.parametrize("name", odd_problems())
def test_odd_problems_render(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem = odd_problems()[name]()
    assert_renders(problem)


def atoms() -> dict[str, Callable[..., Any]]:
    """Return whatever cvxpy's own list of atoms offers to call."""
    found = {}
    for name, item in vars(cp.atoms).items():
        is_atom = inspect.isclass(item) and issubclass(item, cp.atoms.atom.Atom)
        if is_atom or (inspect.isfunction(item) and item.__module__.startswith("cvxpy.atoms")):
            found[name] = item
    return dict(sorted(found.items()))


ATOMS = atoms()


def leaves() -> list[Any]:
    return [
        cp.Variable(3, name="x"),
        cp.Variable(3, name="y_1", nonneg=True),
        cp.Variable(name="t"),
        cp.Variable(name="s", pos=True),
        cp.Variable((3, 3), name="S", symmetric=True),
        cp.Variable((3, 3), name="X"),
        cp.Variable((2, 3), name="Z"),
        cp.Variable((2, 2), name="H", hermitian=True),
        cp.Parameter(3, name="p"),
        cp.Parameter(name="gamma", nonneg=True),
        cp.Parameter((3, 3), name="P", PSD=True),
        cp.Constant(np.array([1.0, -2.0, 0.5])),
        cp.Constant(np.eye(3)),
        2,
        0.5,
        -1,
    ]


def combine(name: str, arguments: list[Any]) -> Any:
    """Call an atom; return None when it takes no such arguments."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            expression = ATOMS[name](*arguments)
            # Some classes, called directly, accept what breaks their own methods later.
            usable = isinstance(expression, cp.Expression) and isinstance(expression.shape, tuple)
            usable = usable and expression.size < 500
            return expression if usable and (expression.is_convex() or expression.sign) else None
        except Exception:
            return None


@st.composite
def random_problems(draw: st.DrawFn) -> cp.Problem:
    pool = leaves()
    for _ in range(draw(st.integers(2, 10))):
        name = draw(st.sampled_from(list(ATOMS)))
        arguments = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
        for attempt_arguments in (arguments, arguments[:1], [arguments]):
            expression = combine(name, attempt_arguments)
            if expression is not None:
                pool.append(expression.set_label(draw(st.sampled_from([None, None, "a label_1"]))))
                break
        if draw(st.booleans()):
            pool.append(combine("multiply", [draw(st.sampled_from([2, -0.5])), pool[-1]]) or pool[-1])
    made = [item for item in pool[16:] if item.is_real()] or [pool[0]]
    terms = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3))
    scalars = [term if term.ndim == 0 else cp.sum(term) for term in terms]
    convex = [term for term in scalars if term.is_convex()]
    objective: Any = cp.Minimize(sum(convex)) if convex else cp.Maximize(scalars[0])
    constraints = []
    for side in draw(st.lists(st.sampled_from(made), max_size=3)):
        bound = draw(st.sampled_from([1, 0]))
        constraints.append(side <= bound if side.is_convex() else side >= bound)
    return cp.Problem(objective, constraints)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(problem=random_problems())
def test_random_problems_render(problem: cp.Problem) -> None:
    assert_renders(problem)


def applications(name: str) -> list[Any]:
    """Apply an atom to one or two leaves, or to a list of them, in every way that it accepts."""
    pool = leaves()
    choices = [[a] for a in pool] + [[a, b] for a in pool for b in pool] + [[[a, a]] for a in pool]
    made = (combine(name, choice) for choice in choices)
    return [expression for expression in made if expression is not None]


@pytest.mark.parametrize("name", ATOMS)
def test_every_atom_renders(name: str) -> None:
    made = applications(name)
    for expression in made[:3] + made[-1:]:
        scalar = cp.real(expression if expression.ndim == 0 else cp.sum(expression))
        problem = cp.Problem(cp.Minimize(scalar) if scalar.is_convex() else cp.Maximize(scalar))
        data = assert_renders(problem)
        # "..." would say that an atom could only be named, not shown.
        assert "..." not in data["objective"][0]["text"]
        assert data["convexity"][0]["rule"] != "no rule found"


def test_most_atoms_are_exercised() -> None:
    assert sum(bool(applications(name)) for name in ATOMS) > 80
