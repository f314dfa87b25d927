"""Subproblem: one convex program with named symbols, for one instance (one sample, one unit)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import cvxpy as cp

from .activations import Array, library
from .description import Description, Symbol
from .errors import NoConvexModelError, NotDisciplinedError, UsageError
from .explanation import explain_not_dcp, explain_not_dpp
from .potential_models import ModelTerm
from .rendering import render_html, render_json, render_latex, render_text
from .waiting import reading_waits

PER_INSTANCE, SHARED = "per instance", "shared"
NOTEBOOK_ROWS = 24
FENCHEL_PAPER = 'Gu, Askari & El Ghaoui, "Fenchel Lifted Networks", AISTATS 2020, arXiv 1811.08039'


@dataclass(frozen=True)
class Residuals:
    """How good values are, one number for each instance, measured on the original program.

    Attributes
    ----------
    primal : array, shape (batch,)
        Largest violation of a constraint on the unknowns. Variables that only stand for an affine expression
        (z = W x + b) are computed from it.
    dual : array, shape (batch,)
        How far a point is from stationary: zero exactly at an optimum, relative to the scale of its own terms. For
        the package's own blocks the natural residual of the unknowns; for other programs that of the dual equation
        P x + q + A'y = 0 of the canonical program.
    gap : array, shape (batch,)
        Upper estimate of objective minus optimum, relative to the size of the objective. For the package's own blocks
        it is a Fenchel-Young gap, computed in floating point: it *verifies* an answer, it proves nothing. For other
        programs it is the primal-dual gap of the canonical program, which means something only together with a small
        dual residual.
    """

    primal: Array
    dual: Array
    gap: Array

    def worst(self) -> dict[str, float]:
        """The largest value of each over the batch."""
        return {name: float(getattr(self, name).max()) for name in ("primal", "dual", "gap")}


class Subproblem(ABC):
    """One convex program, written once as a cvxpy model; everything else is derived from or checked against it.

    A subclass sets `name`, `source`, `instance` and `symbols`, and writes the program in `write`. Data are
    named cvxpy Parameters, never raw arrays in the formula. Parameters whose symbol is "shared" have one
    value for a whole batch; those "per instance" carry a leading batch axis in `data`. Subclasses that
    have batched formulas for their objective and residuals override `objective` and `residuals`; a user's
    own program needs neither.
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""
    instance: str = "one instance"
    symbols: tuple[Symbol, ...] = ()

    @abstractmethod
    def write(self) -> cp.Problem:
        """Write the program with cvxpy; called once, when the object is made."""

    def prepare(self) -> None:
        """Write the program and refuse it unless it is disciplined; subclasses call it at the end of __init__.

        Raises
        ------
        NotDisciplinedError
            If the program is not DCP or not DPP; the message names the expression to blame.
        """
        self._completions: list[Any] = []
        try:
            self._problem: cp.Problem | NoConvexModelError = self.write()
        except NoConvexModelError as refusal:
            self._problem = refusal
            return
        why = explain_not_dcp(self._problem) or explain_not_dpp(self._problem)
        if why:
            raise NotDisciplinedError(f"{self.name}: {why}")
        self._check_symbols()

    def _check_symbols(self) -> None:
        known = {item.name() for item in (*self.program().variables(), *self.program().parameters())}
        lost = [symbol.name for symbol in self.symbols if symbol.name not in known | set(self.data_shapes())]
        if lost:
            raise UsageError(
                f"{self.name}: the symbol {lost[0]!r} names no variable or parameter of the program, which has "
                f"{', '.join(sorted(known))}; give the variable that name: cp.Variable(..., name={lost[0]!r})."
            )

    def program(self) -> cp.Problem:
        """The cvxpy Problem of one instance; its Parameters have no values until somebody sets them.

        Raises
        ------
        NoConvexModelError
            If an activation of it has no disciplined convex form.
        """
        if not hasattr(self, "_problem"):
            self.prepare()
        if isinstance(self._problem, NoConvexModelError):
            raise self._problem
        return self._problem

    @property
    def has_model(self) -> bool:
        """Whether `program` gives a convex model."""
        if not hasattr(self, "_problem"):
            self.prepare()
        return isinstance(self._problem, cp.Problem)

    def use(self, term: ModelTerm) -> Any:
        """The expression of a model term; its auxiliary variables are remembered for `complete`."""
        self._completions += term.completions
        return term.expression

    def complete(self) -> None:
        """Give the auxiliary variables of the model their tight values at the current point."""
        for variable, tight in self._completions:
            variable.value = tight()

    def data_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the data of one instance."""
        return {parameter.name(): parameter.shape for parameter in self.program().parameters()}

    def start_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of what a warm start of one instance may hold: values of the variables."""
        return {variable.name(): variable.shape for variable in self.program().variables()}

    def into_domain(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> dict[str, Array]:
        """The values moved to the domain of the objective, where rounding may have left it; by default as they are."""
        return dict(values)

    def is_shared(self, name: str) -> bool:
        """Whether a symbol has one value for the whole batch."""
        return any(symbol.name == name and symbol.sharing == SHARED for symbol in self.symbols)

    def objective(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """Objective of every instance, shape (batch,); only subproblems with batched formulas have it."""
        raise NotImplementedError(f"{self.name} has no batched formula of its objective")

    def size(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """The objective with its constants, at least zero, of every instance: what gaps are relative to (1 + size)."""
        raise NotImplementedError(f"{self.name} has no batched formula of its size")

    def residuals(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Residuals | None:
        """Residuals of every instance by batched formulas, or None where the subproblem has none."""
        return None

    def describe(self) -> Description:
        """What the displays say beside the program itself."""
        return Description(self.name, self.instance, self.symbols, self.source, (self.__doc__ or "").strip())

    def show(self) -> str:
        """The model as text."""
        return render_text(self.program(), self.describe())

    def latex(self) -> str:
        """The whole model in LaTeX."""
        return render_latex(self.program(), self.describe(), cap=None)

    def html(self) -> str:
        """The model as a self-contained HTML fragment."""
        return render_html(self.program(), self.describe())

    def json(self) -> dict[str, Any]:
        """The model as plain data."""
        return render_json(self.program(), self.describe())

    def _repr_latex_(self) -> str:
        return "$$" + render_latex(self.program(), self.describe(), cap=NOTEBOOK_ROWS) + "$$"

    def _repr_html_(self) -> str:
        return render_html(self.program(), self.describe())


def relative_gap(gap: Array, size: Array, objective: Callable[[], Array]) -> Array:
    """A gap over 1 + size, or over 1 + |objective| where a target out of range makes the size infinite."""
    finite = size < float("inf")
    if not reading_waits(size) and bool(finite.all()):
        return gap / (1 + size)
    return gap / (1 + library(gap).where(finite, size, abs(objective())))


def require_size(**sizes: int) -> None:
    """Refuse sizes that are not whole numbers above zero.

    Raises
    ------
    UsageError
        Naming the size, what was seen and what was expected.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise UsageError(f"{name} is {size!r}; expected a whole number, 1 or more.")


def require_count(**numbers: int) -> None:
    """Refuse numbers that are not whole numbers of at least zero.

    Raises
    ------
    UsageError
        Naming the number, what was seen and what was expected.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
            raise UsageError(f"{name} is {number!r}; expected a whole number, 0 or more.")


def require_positive(**numbers: float) -> None:
    """Refuse numbers that are not finite and above zero.

    Raises
    ------
    UsageError
        Naming the number, what was seen and what was expected.
    """
    for name, number in numbers.items():
        if not isinstance(number, Real) or not 0 < number < float("inf"):
            raise UsageError(f"{name} is {number!r}; expected a finite number above zero.")


def require_nonnegative(**numbers: float) -> None:
    """Refuse numbers that are not finite and at least zero.

    Raises
    ------
    UsageError
        Naming the number, what was seen and what was expected.
    """
    for name, number in numbers.items():
        if not isinstance(number, Real) or not 0 <= number < float("inf"):
            raise UsageError(f"{name} is {number!r}; expected a finite number, zero or more.")
