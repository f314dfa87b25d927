"""What a program becomes for a conic solver."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import cvxpy as cp


def cone_sizes(problem: Any) -> dict[str, Any]:
    """Count what Clarabel would be given: variables after canonicalization, and rows in each cone.

    Parameters
    ----------
    problem : cvxpy.Problem
        Any problem; its parameters need values only when it is not DPP.

    Returns
    -------
    dict
        ``variables``, ``quadratic_objective``, and for each cone its sizes; or a single ``message`` that says
        why the problem has no such form.
    """
    try:
        return _counted(problem)
    except cp.DCPError:
        return {"message": "no conic form: the problem is not DCP"}
    except cp.error.ParameterError:
        return {"message": "not known: the problem is not DPP, so its parameters need values first"}
    except cp.SolverError as error:
        return {"message": f"Clarabel does not take this problem: {_first_line(error)}"}
    except Exception as error:
        return {"message": f"not canonicalized: {type(error).__name__}: {_first_line(error)}"}


def _counted(problem: Any) -> dict[str, Any]:
    if not problem.variables():
        return {"message": "no variables: there is nothing to solve"}
    if problem.is_mixed_integer():
        return {"message": "Clarabel does not take this problem: it has integer variables"}
    # A copy: canonicalization is cached on the object, and showing a problem must not change it.
    copy = cp.Problem(problem.objective, problem.constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data, _, _ = copy.get_problem_data(cp.CLARABEL)
    cones = data["dims"]
    quadratic = data.get("P")
    return {
        "variables": int(data["c"].shape[0]),
        "quadratic_objective": quadratic is not None and quadratic.nnz > 0,
        "zero": int(cones.zero),
        "nonnegative": int(cones.nonneg),
        "second_order": sorted(map(int, cones.soc), reverse=True),
        "exponential": int(cones.exp),
        "semidefinite": sorted(map(int, cones.psd), reverse=True),
        "power": len(cones.p3d) + len(cones.pnd),
    }


def cone_text(sizes: dict[str, Any]) -> str:
    """Write cone sizes in one sentence."""
    if "message" in sizes:
        return str(sizes["message"])
    cones = [f"{name} {sizes[name]}" for name in ("zero", "nonnegative") if sizes[name]]
    cones += [_grouped(sizes["second_order"], "second-order")] * bool(sizes["second_order"])
    cones += [_counted_cones(sizes["exponential"], "exponential")] * bool(sizes["exponential"])
    cones += [_grouped(sizes["semidefinite"], "semidefinite")] * bool(sizes["semidefinite"])
    cones += [_counted_cones(sizes["power"], "power")] * bool(sizes["power"])
    objective = "quadratic objective" if sizes["quadratic_objective"] else "linear objective"
    return ", ".join([f"{sizes['variables']} variables", *(cones or ["no cones"]), objective])


def _counted_cones(count: int, kind: str) -> str:
    return f"{count} {kind} cone{'s' if count > 1 else ''}"


def _grouped(sizes: list[int], kind: str) -> str:
    """Write the sizes of many cones, equal ones together."""
    counts = list(Counter(sizes).items())
    shown = [f"{count} of size {size}" for size, count in counts[:4]] + ["..."] * (len(counts) > 4)
    return f"{_counted_cones(len(sizes), kind)} ({', '.join(shown)})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]
