"""Values of variables and duals out of the answers to a canonical program: linear maps, found once.

A variable's entries stand in x as cvxpy keeps them (a symmetric one by its upper triangle); how a dual is made of the
entries of y is found by running cvxpy's own inversion on two probes. Both are compared with that inversion on random
answers. With canonical.py, this is where cvxpy's internals are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from .conic import constraint_labels

CLOSE = 1e-11
"""How closely two computations of the same number have to agree."""


class CanonicalFormError(RuntimeError):
    """The canonical form that was read from cvxpy is not cvxpy's own."""


@dataclass(frozen=True)
class Recovery:
    """A linear map from answers to values of one name: ``values = coefficients * answer[places]``.

    Attributes
    ----------
    shape : tuple of int
    places : array of int
    coefficients : array
    """

    shape: tuple[int, ...]
    places: np.ndarray
    coefficients: np.ndarray


def find_recoveries(
    problem: cp.Problem, program: Any, chain: Any, inverse: Any
) -> tuple[dict[str, Recovery], dict[str, Recovery]]:
    """Maps from x to the variables and from y to the duals, compared with cvxpy's own inversion of random answers."""
    n, m = program.x.size, program.constr_size
    zero = np.zeros(n)
    _, ones = _invert(problem, chain, inverse, zero, np.ones(m))
    _, ramp = _invert(problem, chain, inverse, zero, np.arange(m) + 1.0)
    duals = {name: _selection(ones[name], ramp[name]) for name in ones}
    values = _variable_recoveries(problem, program, chain)
    drawn = np.random.default_rng(1)
    x, y = drawn.standard_normal(n), drawn.standard_normal(m)
    theirs = _invert(problem, chain, inverse, x, y)
    leaves = {variable.name(): variable for variable in problem.variables()}
    for side, (recoveries, answer) in enumerate(((values, x), (duals, y))):
        for name, recovery in recoveries.items():
            if recovery.places.max(initial=0) >= len(answer) or recovery.places.min(initial=0) < 0:
                raise unknown_form(f"the value of {name!r} is no selection of its entries")
            ours = (recovery.coefficients * answer[recovery.places]).reshape(recovery.shape)
            known = [ours] if side else [ours, plain_array(leaves[name].project(ours))]
            # cvxpy may move a value into the range of its variable's attributes.
            if not any(np.allclose(value, theirs[side][name], rtol=CLOSE, atol=CLOSE) for value in known):
                raise unknown_form(f"the value of {name!r} is no selection of its entries")
    return values, duals


def _variable_recoveries(problem: cp.Problem, program: Any, chain: Any) -> dict[str, Recovery]:
    renamed = {old: new[0] for old, new in chain.compose_var_id_map().items()}
    found = {}
    for variable in problem.variables():
        column = program.var_id_to_col.get(renamed.get(variable.id, variable.id))
        if column is None:
            raise unknown_form(f"the variable {variable.name()!r} is lost in it")
        kept = reduced_places(variable)
        places, coefficients = np.zeros(variable.size, dtype=int), np.zeros(variable.size)
        places[kept], coefficients[kept] = column + np.arange(len(kept)), 1.0
        if any(variable.attributes[name] for name in ("symmetric", "PSD", "NSD")):
            mirrored = np.arange(variable.size).reshape(variable.shape).T.ravel()
            other = coefficients == 0
            places[other], coefficients[other] = places[mirrored][other], 1.0
        found[variable.name()] = Recovery(variable.shape, places, coefficients)
    return found


def _selection(ones: np.ndarray, ramp: np.ndarray) -> Recovery:
    coefficients = ones.ravel()
    places = np.rint(np.divide(ramp.ravel(), coefficients, out=np.ones_like(coefficients), where=coefficients != 0))
    return Recovery(ones.shape, places.astype(int) - 1, coefficients)


def _invert(
    problem: cp.Problem, chain: Any, inverse: Any, x: np.ndarray, y: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Variables and duals by name, as cvxpy takes them from a solver's answer."""
    raw = SimpleNamespace(x=x, z=y, s=y, status="Solved", obj_val=0.0, obj_val_dual=0.0, solve_time=0.0, iterations=0)
    solution = chain.invert(raw, inverse)
    values = {variable.name(): plain_array(solution.primal_vars[variable.id]).reshape(variable.shape, order="F")
              for variable in problem.variables()}  # fmt: skip
    duals: dict[str, np.ndarray] = {}
    labels = constraint_labels(problem)
    for label, constraint in zip(labels, problem.constraints, strict=True):
        if constraint.id not in solution.dual_vars:
            continue
        kept = [variable.value for variable in constraint.dual_variables]
        constraint.save_dual_value(solution.dual_vars[constraint.id])
        parts = [plain_array(variable.value) for variable in constraint.dual_variables]
        for variable, value in zip(constraint.dual_variables, kept, strict=True):
            variable.save_value(value)
        while len(parts) > 1 and any(f"{label}[{place}]" in labels for place in range(len(parts))):
            label += " parts"
        names = [label] if len(parts) == 1 else [f"{label}[{place}]" for place in range(len(parts))]
        duals |= dict(zip(names, parts, strict=True))
    return values, duals


def reduced_places(leaf: Any) -> np.ndarray:
    """Places, in the C-ordered whole, of the entries that cvxpy keeps of a variable or parameter."""
    places = np.arange(leaf.size).reshape(leaf.shape)
    if leaf.sparse_idx is not None:
        places = places[leaf.sparse_idx]
    elif leaf.attributes["diag"]:
        places = np.diag(places)
    elif any(leaf.attributes[name] for name in ("symmetric", "PSD", "NSD")):
        places = places[np.triu_indices(len(places))]
    return np.asarray(places.ravel(order="F"))


def plain_array(value: Any) -> np.ndarray:
    """A value of cvxpy, which may be sparse, as an array."""
    return np.asarray(value.toarray() if sp.issparse(value) else value, dtype=float)


def unknown_form(why: str) -> CanonicalFormError:
    """The error that says why a canonical form is not understood."""
    return CanonicalFormError(
        f"cvxpy {cp.__version__} canonicalizes this program to a form that is not understood: {why}. Solve it with "
        "problem.solve() and report the program, or use a tested version of cvxpy (see constraints.txt)."
    )
