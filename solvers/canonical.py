"""A disciplined parametrized program, canonicalized once; the parameters of a whole batch to its conic programs.

cvxpy reduces a DPP program to a cone program whose P, q, A and b are affine in the parameters. Here those affine maps
are taken out once and applied to all instances together; what depends on no batched parameter stays unbatched. The
values of variables and duals are linear in the answers x and y (recoveries.py).

This module and recoveries.py are the only ones that read cvxpy's internals (`param_prob`). At compile time programs
are compared with cvxpy's own on random parameters; where they differ, the program is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.utilities import scopes

from ..formulations.errors import NotDisciplinedError, UsageError
from ..formulations.explanation import explain_not_dcp, explain_not_dpp
from .conic_program import Cones
from .recoveries import CLOSE, CanonicalFormError, Recovery, find_recoveries, plain_array, reduced_places, unknown_form

SOLVER = "CLARABEL"
"""Whose canonical form is taken: no variable bounds, no cones on variables directly, a quadratic objective."""
TEST_SETS = 2


@dataclass(frozen=True)
class ParameterEntry:
    """Where a parameter stands in the vector of all parameters.

    Attributes
    ----------
    shape : tuple of int
        Shape that its user knows.
    column : int
        First column.
    places : array of int
        Places of its reduced entries in the C-ordered whole, ascending: the order in which users' arrays lie in memory.
    attributes : tuple of str
        Attributes that it was given: nonneg, nonpos, PSD, NSD, symmetric, diag, sparsity, ...
    """

    shape: tuple[int, ...]
    column: int
    places: np.ndarray
    attributes: tuple[str, ...]

    @cached_property
    def whole(self) -> bool:
        """Whether all entries are kept."""
        return len(self.places) == int(np.prod(self.shape, dtype=int))


@dataclass(frozen=True)
class Affine:
    """Entries that are affine in the parameters: ``values = map @ [parameters, 1]``.

    Attributes
    ----------
    rows, columns : array of int, shape (entries,)
        Places of the entries in their matrix; for vectors the columns are zero.
    map : csr_array, shape (entries, parameters + 1)
    """

    rows: np.ndarray
    columns: np.ndarray
    map: sp.csr_array


@dataclass(frozen=True)
class Canonical:
    """The canonical form of a program, with its affine maps; holds no cvxpy objects.

    Attributes
    ----------
    variables, rows : int
        Columns and rows of A.
    cones : Cones
    P, A : Affine
    q, b, offset : Affine
    parameters : dict of ParameterEntry
    size : int
        Length of the parameter vector, without its constant.
    values, duals : dict of Recovery
        Variable name or constraint label -> recovery from x or y.
    sign : float
        -1 where the program is a maximization, else 1.
    """

    variables: int
    rows: int
    cones: Cones
    P: Affine
    A: Affine
    q: Affine
    b: Affine
    offset: Affine
    parameters: Mapping[str, ParameterEntry]
    size: int
    values: Mapping[str, Recovery]
    duals: Mapping[str, Recovery]
    sign: float


def canonicalize(problem: cp.Problem) -> Canonical:
    """Canonicalize a program.

    Parameters
    ----------
    problem : cvxpy.Problem
        DCP and DPP, continuous and real. Parameters and variables need distinct names.

    Raises
    ------
    NotDisciplinedError
        If the program is not DCP or not DPP; the message names the expression to blame.
    UsageError
        For integer or complex variables, or names that are not distinct.
    CanonicalFormError
        If the form read from this version of cvxpy is not the one that cvxpy solves.
    """
    with warnings.catch_warnings(), scopes.quad_form_dpp_scope():
        # cvxpy warns when sparse parameters are read, and of solvers that are not used here.
        warnings.simplefilter("ignore")
        return _canonicalize(problem)


def _canonicalize(problem: cp.Problem) -> Canonical:
    with _kept_parameters(problem):
        _check(problem)
        rng = np.random.default_rng(0)
        _set_randomly(problem, rng)
        data, chain, inverse = problem.get_problem_data(SOLVER, solver_opts={})
        form = _read(problem, data["param_prob"], chain, inverse)
        for _ in range(TEST_SETS if problem.parameters() else 1):
            _set_randomly(problem, rng)
            data, chain, inverse = problem.get_problem_data(SOLVER, solver_opts={})
            _compare(form, problem, data, inverse)
    return form


def parameter_vector(form: Canonical, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The vector of all parameters with its constant, of one instance."""
    vector = np.zeros(form.size + 1)
    vector[-1] = 1
    for name, entry in form.parameters.items():
        vector[entry.column : entry.column + len(entry.places)] = np.ravel(values[name])[entry.places]
    return vector


def _check(problem: cp.Problem) -> None:
    why = explain_not_dcp(problem) or explain_not_dpp(problem)
    if why:
        raise NotDisciplinedError(why)
    if not problem.variables():
        raise UsageError("the problem has no variables; expected at least one.")
    for leaf in (*problem.variables(), *problem.parameters()):
        if len(leaf.shape) > 2 and any(leaf.attributes.get(name) for name in ("symmetric", "PSD", "NSD")):
            raise UsageError(f"{leaf.name()!r} is a stack of symmetric matrices; expected a single matrix.")
        for attribute in ("boolean", "integer", "complex", "imag", "hermitian"):
            if leaf.attributes.get(attribute):
                raise UsageError(f"{leaf.name()!r} is {attribute}; expected a continuous real program.")
    if _loses_quadratics(problem):
        raise CanonicalFormError(
            f"cvxpy {cp.__version__} silently loses quadratic terms of symmetric, diagonal and sparse variables, which "
            "this problem has; expected 1.9.3 or newer: pip install --upgrade cvxpy."
        )
    for kind, leaves in (("Variable", problem.variables()), ("Parameter", problem.parameters())):
        names = [leaf.name() for leaf in leaves]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(
                f"two {kind.lower()}s are named {twice[0]!r}; expected distinct names: cp.{kind}(..., name=...)."
            )


def _loses_quadratics(problem: cp.Problem) -> bool:
    """Whether this version of cvxpy may canonicalize the problem to another one (mended in 1.9.3)."""
    version = tuple(int(part) for part in cp.__version__.split(".")[:3] if part.isdigit())
    reduced = any(variable._has_dim_reducing_attr for variable in problem.variables())
    return version < (1, 9, 3) and reduced and not problem.objective.expr.is_affine()


@contextmanager
def _kept_parameters(problem: cp.Problem) -> Iterator[None]:
    kept = [(parameter, parameter.value) for parameter in problem.parameters()]
    try:
        yield
    finally:
        for parameter, value in kept:
            parameter.value = value


def _set_randomly(problem: cp.Problem, rng: np.random.Generator) -> None:
    for parameter in problem.parameters():
        drawn = rng.standard_normal(parameter.shape)
        if parameter.attributes["PSD"] or parameter.attributes["NSD"]:
            drawn = (drawn @ drawn.T + np.eye(len(drawn))) * (1 if parameter.attributes["PSD"] else -1)
        parameter.value = parameter.project(drawn)


def _read(problem: cp.Problem, program: Any, chain: Any, inverse: Any) -> Canonical:
    """Take the maps out of cvxpy's parametrized program."""
    # Newer versions can keep cones outside, older ones do not have the attribute.
    if getattr(program, "dir_cones", None) or program.lower_bounds is not None or program.upper_bounds is not None:
        raise unknown_form("it keeps bounds or cones outside of its matrix")
    n, m = program.x.size, program.constr_size
    parameters, columns = _parameter_entries(problem, program, chain)
    # Entries of [A | b] with A x + b in K, so that the matrix of  A x + s = b  is minus the first.
    rows, places, mapped = _entries(program.reduced_A, n)
    bound = places == n
    A = _affine(rows[~bound], places[~bound], -mapped[~bound], columns)
    b = _affine(rows[bound], np.zeros(int(bound.sum()), dtype=int), mapped[bound], columns)
    P = _affine(*_entries(program.reduced_P, n), columns)
    costs = sp.csr_array(program.q)
    q = _affine(np.arange(n), np.zeros(n, dtype=int), costs[:n], columns)
    offset = _affine(np.zeros(1, dtype=int), np.zeros(1, dtype=int), costs[n:], columns)
    values, duals = find_recoveries(problem, program, chain, inverse)
    return Canonical(
        n, m, _cones(program.cone_dims), P, A, q, b, offset, parameters, program.total_param_size, values, duals,
        -1.0 if isinstance(problem.objective, cp.Maximize) else 1.0,
    )  # fmt: skip


def _affine(rows: np.ndarray, places: np.ndarray, mapped: Any, columns: np.ndarray) -> Affine:
    """Entries with their map, its columns put in our order; without parameters it has its constant column alone."""
    whole = sp.csr_array(mapped)
    return Affine(rows, places, whole if whole.shape[1] == 1 else sp.csr_array(whole[:, columns]))


def _entries(reduced: Any, n: int) -> tuple[np.ndarray, np.ndarray, sp.csr_array]:
    """Rows, columns and parameter map of the entries of one of cvxpy's reduced matrices."""
    reduced.cache(False)
    none = np.zeros(0, dtype=int)
    if reduced.matrix_data is None or reduced.problem_data_index is None:
        width = 1 if reduced.matrix_data is None else reduced.matrix_data.shape[1]
        return none, none, sp.csr_array((0, width))
    indices, pointers, _ = reduced.problem_data_index
    columns = np.repeat(np.arange(len(pointers) - 1), np.diff(pointers))
    return np.asarray(indices, dtype=int), columns, sp.csr_array(reduced.reduced_mat)


def _cones(dims: Any) -> Cones:
    others = "power cones of more than three rows" if dims.pnd else ""
    return Cones(
        int(dims.zero), int(dims.nonneg), tuple(map(int, dims.soc)), tuple(map(int, dims.psd)), int(dims.exp),
        tuple(map(float, dims.p3d)), others,
    )  # fmt: skip


def _parameter_entries(problem: cp.Problem, program: Any, chain: Any) -> tuple[dict[str, ParameterEntry], np.ndarray]:
    """The parameters, and for each of our columns cvxpy's, which goes through a matrix column by column."""
    renamed = {old: new[0] for old, new in chain.compose_param_id_map().items()}
    entries, columns = {}, np.arange(program.total_param_size + 1)
    for parameter in problem.parameters():
        first = program.param_id_to_col.get(renamed.get(parameter.id, parameter.id))
        if first is None:
            raise unknown_form(f"the parameter {parameter.name()!r} is lost in it")
        given = tuple(name for name, value in parameter.attributes.items() if value is not None and value is not False)
        places = reduced_places(parameter)
        order = np.argsort(places)
        columns[first : first + len(places)] = first + order
        entries[parameter.name()] = ParameterEntry(parameter.shape, first, places[order], given)
    return entries, columns


def _compare(form: Canonical, problem: cp.Problem, data: Any, inverse: Any) -> None:
    """Refuse a form that does not give cvxpy's own program at the present parameters."""
    values = {parameter.name(): plain_array(parameter.value) for parameter in problem.parameters()}
    vector = parameter_vector(form, values)
    n, m = form.variables, form.rows
    pairs = {
        "P": (_fill(form.P, vector, (n, n)), data["P"] if data.get("P") is not None else sp.csr_array((n, n))),
        "q": (_fill(form.q, vector, (n, 1)), sp.csr_array(data["c"].reshape(-1, 1))),
        "A": (_fill(form.A, vector, (m, n)), data["A"]),
        "b": (_fill(form.b, vector, (m, 1)), sp.csr_array(data["b"].reshape(-1, 1))),
        "offset": (_fill(form.offset, vector, (1, 1)), sp.csr_array([[float(inverse[-1]["offset"])]])),
    }
    for name, (ours, theirs) in pairs.items():
        if ours.shape != theirs.shape or _largest(ours - theirs) > CLOSE * (1 + _largest(theirs)):
            raise unknown_form(f"its {name} is not the one that cvxpy solves")


def _largest(matrix: sp.csr_array) -> float:
    return float(np.abs(matrix.data).max(initial=0.0))


def _fill(affine: Affine, vector: np.ndarray, shape: tuple[int, int]) -> sp.csr_array:
    values = affine.map @ vector[-affine.map.shape[1] :]
    return sp.csr_array(sp.coo_array((values, (affine.rows, affine.columns)), shape))
