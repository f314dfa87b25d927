"""Solution: values, duals, residuals, status and costs of a batch of solves.

Sign of duals, as in cvxpy: the Lagrangian of a minimization adds <dual, lhs - rhs> for ``lhs <= rhs`` (dual >= 0)
and for ``lhs == rhs``, and subtracts <dual, lhs - rhs> for ``lhs >= rhs`` (dual >= 0). They are given under the
labels of the constraints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from ..formulations.subproblem import Residuals


class Status(Enum):
    """How one instance ended; the value says what it means and what to do."""

    SOLVED = "solved: the residuals on the original program meet the tolerance"
    INACCURATE = (
        "inaccurate: the best point found misses the tolerance; loosen `tolerance`, take engine='clarabel', rescale "
        "the data, or choose multipliers less far apart"
    )
    INFEASIBLE = "infeasible: no point meets the constraints; look at this instance's data"
    UNBOUNDED = "unbounded: the objective falls without end; add a proximal term, weight decay or bounds"
    FAILED = "failed: the solver gave no point; try another engine ('clarabel', 'scs') or rescale the data"


@dataclass(frozen=True, repr=False)
class Solution:
    """Solutions of a batch of instances of one subproblem.

    Attributes
    ----------
    variables : dict of Tensor
        Variable name -> values, batch axis first. Rows of instances without a point are NaN.
    residuals : Residuals
        Measured on the original program, whichever engine ran.
    status : tuple of Status
        One for each instance.
    iterations : Tensor, shape (batch,)
        Iterations of the engine.
    engine : str
        Which engine ran.
    seconds, compile_seconds : float
        Wall time of the solves, and of writing and canonicalizing the model where that was needed.
    duals : dict of Tensor
        Constraint label -> dual values, batch axis first; only engines that compute duals give them. A cone with
        several dual parts (second-order, exponential) has ``"label[0]"``, ``"label[1]"``, ...
    state : dict of Tensor
        What the engine wants to see again as a warm start.
    objective : Tensor, shape (batch,), or None
        Value of the objective at the points; NaN where there is none. None where it was not asked for (`solve`).
    again : dict of Tensor
        Places of the instances whose first answer missed the tolerance: ``"cold"`` -> solved again without the warm
        start, ``"clarabel"`` -> solved again by the reference, which was tried last. Empty where none was.
    rays : dict of dict of Tensor
        Place of an infeasible or unbounded instance -> the checked ray that shows it, as duals by constraint label
        (infeasible) or as a direction by variable name (unbounded).
    ids : tuple
        Names of the rows of `state`, by which a later solve finds its warm starts: those of this batch first, then
        those that it was warm-started with and did not meet. Empty where none were given.
    """

    variables: dict[str, Tensor]
    residuals: Residuals
    status: tuple[Status, ...]
    iterations: Tensor
    engine: str
    seconds: float
    compile_seconds: float = 0.0
    duals: dict[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    objective: Tensor | None = None
    again: Mapping[str, Tensor] = field(default_factory=dict)
    rays: Mapping[int, dict[str, Tensor]] = field(default_factory=dict)
    ids: tuple[Hashable, ...] = ()

    def __repr__(self) -> str:
        """A few lines: how many ended how, by which engine, and how well."""
        counts = ", ".join(f"{count} {status.name}" for status, count in Counter(self.status).items())
        rows = self.solved_rows
        shown = ", ".join(f"{name} {float(part[rows].max()):.0e}" for name, part in vars(self.residuals).items()
                          if bool(rows.any()))  # fmt: skip
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.variables.items())
        again = "".join(f"; {len(places)} again by {name!r}" for name, places in self.again.items())
        return (
            f"Solution of {len(self.status)} instances: {counts}; engine {self.engine!r}, {self.seconds:.3g} s{again}\n"
            f"  variables {shapes}\n  worst residuals of the solved ones: {shown or 'none is solved'}"
        )

    @property
    def solved_rows(self) -> Tensor:
        """Which instances are solved, (batch,): a mask for ``values[solution.solved_rows]``."""
        found = [status is Status.SOLVED for status in self.status]
        return torch.tensor(found, device=self.iterations.device)

    @property
    def solved(self) -> bool:
        """Whether every instance is solved."""
        return all(status is Status.SOLVED for status in self.status)

    def require_solved(self) -> Solution:
        """Give the solution back, or raise if an instance is not solved.

        Raises
        ------
        SolveError
            Naming the first such instance, how many there are, and the remedy.
        """
        bad = [(place, status) for place, status in enumerate(self.status) if status is not Status.SOLVED]
        if bad:
            place, status = bad[0]
            raise SolveError(
                f"{len(bad)} of {len(self.status)} instances are not solved by {self.engine!r}; "
                f"instance {place} is {status.value}."
            )
        return self


class SolveError(RuntimeError):
    """An instance was not solved to the tolerance that was asked for."""


def join_solutions(parts: Sequence[Solution], order: Tensor) -> Solution:
    """One solution of batches that the same engine solved apart; row k of it is row ``order[k]`` of all in a row."""

    def joined(pick: Callable[[Solution], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([pick(part)[name] for part in parts])[order] for name in pick(parts[0])}

    residuals = joined(lambda part: vars(part.residuals))
    statuses = [status for part in parts for status in part.status]
    return Solution(
        joined(lambda part: part.variables), Residuals(**residuals), tuple(statuses[row] for row in order.tolist()),
        torch.cat([part.iterations for part in parts])[order], parts[0].engine, sum(part.seconds for part in parts),
        state=joined(lambda part: part.state),
    )  # fmt: skip


def judge(residuals: Residuals, tolerance: float) -> tuple[Status, ...]:
    """Status of every instance of the package's own blocks."""
    return tuple(Status.SOLVED if ok else Status.INACCURATE for ok in good_rows(residuals, tolerance).tolist())


def good_rows(residuals: Residuals, tolerance: float) -> Tensor:
    """Which instances of the package's own blocks are solved: the gap decides, because it bounds the error."""
    good: Tensor = (residuals.primal <= tolerance) & (decisive(residuals) <= tolerance)
    return good


def decisive(residuals: Residuals) -> Tensor:
    """What decides whether an instance is solved: its gap, or its dual residual where nothing bounds the gap.

    That is the case for weights without any curvature (no weight decay and no proximal term).
    """
    gap: Tensor = residuals.gap
    return torch.where(gap.isfinite(), gap, residuals.dual)
