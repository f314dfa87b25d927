"""What is said of a program: its structure in words, and engines that do what the report promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from instances import data_of

from convexblocks.formulations import FenchelActivation, FenchelOutput, FenchelWeight, Subproblem
from convexblocks.formulations.catalogue import subproblem
from convexblocks.formulations.description import Symbol
from convexblocks.formulations.errors import NoConvexModelError, NotDisciplinedError, UsageError
from convexblocks.solvers import CONIC_ENGINES, ENGINES, elimination, solve, solve_problem
from convexblocks.solvers.conic_engine import ConicEngine
from convexblocks.solvers.engine_report import EngineReport, install_command, report_engines

GENERAL = "clarabel" if install_command(CONIC_ENGINES["moreau"]) else "moreau"
WIDE = {"width": 5, "next_width": 3}
SHARED_HESSIAN = "a Hessian shared by the batch"
SHARED_BOTH = "P and A shared by the batch"

# Block, settings, sizes without definitions, structure, what solve and solve_problem pick.
BLOCKS = [
    ("fenchel.activation", WIDE, "8 variables, 11 inequalities",
     ("5 unknowns in a box (lower bounds on all, no upper bounds)", "3 squared hinges", SHARED_HESSIAN),
     "projected_gradient", "projected_gradient"),
    ("fenchel.activation", {**WIDE, "activation": "clipped_relu", "loss": "squared"}, "5 variables, 10 inequalities",
     ("5 unknowns in a box (lower bounds on all, upper bounds on all)", SHARED_HESSIAN),
     "projected_gradient", "projected_gradient"),
    ("fenchel.activation", {**WIDE, "activation": "tanh"}, "18 variables, 6 inequalities, 10 exponential cones",
     ("a general conic program, quadratic objective", SHARED_BOTH), "newton", GENERAL),
    ("fenchel.weight", {"samples": 7, "inputs": 2}, "10 variables, 14 inequalities",
     ("3 unknowns without bounds", "7 squared hinges", SHARED_HESSIAN), "weight_newton", "projected_gradient"),
    ("fenchel.weight", {"samples": 7, "inputs": 2, "loss": "logistic"},
     "24 variables, 7 inequalities, 14 exponential cones",
     ("7 log-sum-exp terms of 2 arguments each (logistic: one is constant)",
      "a positive definite quadratic of 3 unknowns", SHARED_BOTH), "weight_newton", "log_sum_exp"),
    ("fenchel.weight", {"samples": 4, "inputs": 2, "units": 3, "loss": "softmax_cross_entropy"},
     "25 variables, 4 inequalities, 12 exponential cones",
     ("4 log-sum-exp terms of 3 arguments each", "a positive definite quadratic of 9 unknowns", SHARED_BOTH),
     "weight_newton", "log_sum_exp"),
    ("fenchel.output", {"outputs": 10}, "21 variables, 1 inequalities, 10 exponential cones",
     ("log-sum-exp of 10 arguments", "a positive definite quadratic of 10 unknowns", SHARED_BOTH),
     "sherman_morrison", "log_sum_exp"),
    ("fenchel.output", {"outputs": 4, "loss": "squared"}, "4 variables, no constraints",
     ("4 unknowns without bounds", SHARED_HESSIAN), "sherman_morrison", "projected_gradient"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "reduced", "structure", "by_solve", "by_program"), BLOCKS)
def test_blocks_of_the_catalogue(
    name: str, settings: dict[str, Any], reduced: str, structure: tuple[str, ...], by_solve: str, by_program: str
) -> None:
    block = subproblem(name, settings)
    report = report_engines(block)
    assert report.title == name
    assert (report.reduced.replace("1 inequality", "1 inequalities"), report.structure) == (reduced, structure)
    assert (report.solve, report.solve_problem) == (by_solve, by_program)
    data = data_of(block, batch=4)
    assert solve(block, data, tolerance=1e-3).engine == by_solve
    known = {*report.per_instance, *report.shared}
    assert set(report.shared) == {name for name in known if block.is_shared(name)}
    program = {name: value for name, value in data.items() if name in known}
    assert solve_problem(block.program(), program, tolerance=1e-3).engine == by_program


@pytest.mark.parametrize("block", [FenchelActivation(), FenchelWeight(), FenchelOutput()], ids=lambda block: block.name)
def test_every_engine_keeps_what_the_report_says(block: Subproblem) -> None:
    report = report_engines(block)
    assert [fit.name for fit in report.block_engines] == list(ENGINES)
    assert [fit.name for fit in report.program_engines] == list(CONIC_ENGINES)
    data = data_of(block, batch=4)
    calls: list[tuple[Any, Callable[[str], Any]]] = [
        (report.block_engines, lambda name: solve(block, data, engine=name, tolerance=1e-3)),
        (report.program_engines, lambda name: solve_problem(block.program(), data, engine=name, tolerance=1e-3)),
    ]
    for fits, call in calls:
        assert any(fit.fits for fit in fits)
        assert any(not fit.fits for fit in fits)
        for fit in fits:
            assert fit.warm
            assert bool(fit.needs) != fit.fits
            if fit.fits:
                call(fit.name).require_solved()
            elif fits is report.program_engines or fit.name not in CONIC_ENGINES:
                with pytest.raises(UsageError, match="needs"):
                    call(fit.name)


def least_squares() -> cp.Problem:
    x, A, y = cp.Variable(4, name="x"), cp.Parameter((9, 4), name="A"), cp.Parameter(9, name="y")
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - y)), [x >= 0, x[:2] <= 1])


def test_what_the_batch_shares_decides() -> None:
    box = "4 unknowns in a box (lower bounds on all, upper bounds on 2)"
    own, shared = report_engines(least_squares()), report_engines(least_squares(), shared=["A"])
    assert own.structure == (box, "every instance with its own Hessian")
    assert shared.structure == (box, SHARED_HESSIAN)
    assert (own.solve_problem, shared.solve_problem) == ("projected_newton", "projected_gradient")
    assert (own.per_instance, own.shared) == (("A", "y"), ())
    assert (shared.per_instance, shared.shared) == (("y",), ("A",))
    assert (own.title, own.solve, own.block_engines) == ("", "", ())


def quadratic_form(**attributes: Any) -> cp.Problem:
    x, P = cp.Variable(3, name="x"), cp.Parameter((3, 3), name="P", **attributes)
    sign = -1 if "NSD" in attributes else 1
    return cp.Problem(cp.Minimize(sign * cp.quad_form(x, P) + cp.sum(x)), [x <= 1])


@pytest.mark.parametrize("attribute", ["PSD", "NSD"])
@pytest.mark.parametrize("shared", [True, False])
def test_definite_parameters(attribute: str, shared: bool) -> None:
    report = report_engines(quadratic_form(**{attribute: True}), ["P"] if shared else [])
    whose = SHARED_HESSIAN if shared else "every instance with its own Hessian"
    assert report.structure == ("3 unknowns in a box (no lower bounds, upper bounds on all)", whose)


ATTRIBUTES = [
    {"nonneg": True}, {"pos": True}, {"nonpos": True}, {"neg": True}, {"symmetric": True}, {"diag": True},
    {"sparsity": ([0, 1], [1, 2])}, {"symmetric": True, "nonneg": True}, {},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Reading from a sparse CVXPY expression")
@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_parameters_are_drawn_with_their_attributes(attributes: dict[str, Any], shared: bool) -> None:
    """Were a sign or a symmetry missed, the draw would be refused; where all is dense, all of it is seen."""
    x, A = cp.Variable(3, name="x"), cp.Parameter((3, 3), name="A", **attributes)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x <= 1])
    report = report_engines(problem, ["A"] if shared else [])
    single = "diag" in attributes or "sparsity" in attributes
    if shared and single:
        assert report.structure[0].startswith("3 unknowns in a box")
    else:
        assert report.structure == ("a quadratic program", SHARED_BOTH if shared else "every instance with its own A")


def cones() -> list[tuple[cp.Problem, str]]:
    x, p, X = cp.Variable(3, name="x"), cp.Parameter(3, name="p"), cp.Variable((2, 2), PSD=True, name="X")
    return [
        (cp.Problem(cp.Minimize(p @ x), [cp.norm(x) <= 1]), "a general conic program, linear objective"),
        (cp.Problem(cp.Minimize(cp.trace(X) + cp.sum_squares(x - p)), [X[0, 1] == 1]),
         "a general conic program, quadratic objective"),
        (cp.Problem(cp.Minimize(p @ x), [cp.sum(x) == 1, x >= 0]), "a linear program"),
        (cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(x) == 1, x >= 0]), "a quadratic program"),
    ]  # fmt: skip


@pytest.mark.parametrize(("problem", "kind"), cones(), ids=[kind for _, kind in cones()])
def test_programs_without_structure(problem: cp.Problem, kind: str) -> None:
    report = report_engines(problem)
    assert report.structure == (kind, SHARED_BOTH)
    assert not any(fit.fits for fit in report.program_engines if fit.name in ("projected_gradient", "log_sum_exp"))
    assert report.solve_problem in [fit.name for fit in report.program_engines if fit.fits]


def test_refusals_leave_out_the_sizes_that_are_said_before() -> None:
    report = report_engines(FenchelOutput())
    assert "exponential cones" in report.canonical
    needs = {fit.name: fit.needs for fit in report.program_engines}
    assert needs["projected_newton"] == "bounds alone"
    assert not any("program has 3 equalities" in told for told in needs.values())


def test_linear_objective_in_a_box() -> None:
    x, p = cp.Variable(2, name="x"), cp.Parameter(2, name="p")
    report = report_engines(cp.Problem(cp.Minimize(p @ x), [x >= 0]))
    assert report.structure == ("2 unknowns in a box (lower bounds on all, no upper bounds)", "a linear objective")


def test_problem_without_parameters() -> None:
    x = cp.Variable(name="x")
    report = report_engines(cp.Problem(cp.Minimize(cp.square(x - 1)), [x >= 2]))
    assert (report.per_instance, report.shared) == ((), ())
    assert report.structure[0] == "1 unknown in a box (lower bounds on all, no upper bounds)"


def test_log_sum_exp_terms_of_different_lengths() -> None:
    x, p = cp.Variable(4, name="x"), cp.Parameter(4, name="p")
    cost = cp.log_sum_exp(x) + cp.log_sum_exp(x[:2]) + cp.sum_squares(x - p)
    report = report_engines(cp.Problem(cp.Minimize(cost)))
    assert report.structure[0] == "2 log-sum-exp terms of 2 to 4 arguments each"


class Ridge(Subproblem):
    """A user's own program."""

    name = "ridge"
    symbols = (Symbol("A", "features", "shared"),)

    def write(self) -> cp.Problem:
        return least_squares()


def test_subproblem_of_a_user() -> None:
    report = report_engines(Ridge())
    assert report.shared == ("A",)
    assert report.solve == report.solve_problem == "projected_gradient"
    assert not any(fit.fits for fit in report.block_engines)


def test_program_that_no_engine_takes() -> None:
    x = cp.Variable(3, name="x")
    cone = cp.PowConeND(x, cp.Constant(1.0), np.array([0.2, 0.3, 0.5]))
    report = report_engines(cp.Problem(cp.Minimize(cp.sum(x)), [cone]))
    assert report.solve_problem == ""
    assert not any(fit.fits for fit in report.program_engines)


def test_large_programs_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "MOST_ENTRIES", 20)
    report = report_engines(least_squares(), ["A"])
    assert report.reduced.startswith("not looked for, which needs a program of at most 20 entries")
    assert report.structure == ("a quadratic program", SHARED_BOTH)
    assert report.solve_problem not in ("", "projected_gradient")


def test_a_printed_report_says_what_was_found_and_what_each_engine_needs() -> None:
    lines = str(report_engines(least_squares(), ["A"])).splitlines()
    assert lines[0].startswith("problem: ")
    assert "engine: projected_gradient" in lines
    assert any(line.split() == ["clarabel", "can"] for line in lines)
    assert any(line.split()[:2] == ["log_sum_exp", "needs"] for line in lines)


def test_report_is_the_same_every_time() -> None:
    first: EngineReport = report_engines(least_squares())
    assert report_engines(least_squares()) == first


@pytest.mark.parametrize(
    ("target", "shared", "error", "message"),
    [
        ("relu", (), UsageError, "expected a Subproblem or a cvxpy.Problem"),
        (least_squares(), ["B"], UsageError, "shared names 'B'; expected parameters of the problem: A, y"),
        (FenchelActivation(), ["W"], UsageError, "shared names 'W'; .* its symbols say it"),
        (FenchelActivation(activation="arctan"), (), NoConvexModelError, "arctan"),
        (cp.Problem(cp.Maximize(cp.sum_squares(cp.Variable(2)))), (), NotDisciplinedError, "maximize"),
    ],
)
def test_bad_requests(target: Any, shared: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        report_engines(target, shared)


@pytest.mark.parametrize(
    ("refusal", "command"),
    [
        ("the package magic (pip install 'convexblocks[magic]')", "pip install 'convexblocks[magic]'"),
        ("a program with a second-order cone", ""),
    ],
)
def test_install_command(refusal: str, command: str) -> None:
    assert install_command(ConicEngine("magic", "nothing", "nothing", lambda program: refusal)) == command


def test_engines_without_extras_need_no_package() -> None:
    needless = ("projected_gradient", "projected_newton", "log_sum_exp", "clarabel", "scs")
    assert [install_command(CONIC_ENGINES[name]) for name in needless] == [""] * len(needless)
