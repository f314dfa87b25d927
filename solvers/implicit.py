"""Gradients through a batch of solves, by implicit differentiation of the optimality system.

At a solution x, y of  min 1/2 x'Px + q'x,  A x + s = b,  s in K  the point v = s - y solves

    P x + q + A'(Π(v) - v) = 0,        A x + Π(v) - b = 0.

With D the derivative of Π at v and the gradients g, h of a scalar in x and y, the adjoint system of its linearization,

    P w + A'u = g,        (I - D)(A w - h) = D u,

gives the gradients -w in q, u in b, -(w x' + x w')/2 in P and -(y w' + u x') in A. It is the optimality system of a
quadratic program with cost -g and right side h, so that its definitions are taken out (elimination.py) before it is
solved (adjoint_system.py).

Where the system is singular (several solutions or multipliers, or strict complementarity fails, so that a constraint
is held with multiplier zero) no derivative need exist; then one generalized derivative, of least norm, is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..formulations.errors import UsageError
from .adjoint_system import AdjointSystem
from .canonical import Canonical
from .cone_points import into_cone
from .conic_program import ConicProgram
from .elimination import find_stages, reduce_program, too_large
from .parametrized import Sharing
from .solution import SolveError, Status

CHUNK_ENTRIES = 2**23
"""Entries of the systems that are held together."""


@dataclass(frozen=True)
class ProgramGradient:
    """Gradient of a scalar in the data of every program of a batch, in factors.

    Attributes
    ----------
    x, y : Tensor, shapes (batch, n) and (batch, m)
        The solution.
    w, u : Tensor, shapes (batch, n) and (batch, m)
        The adjoint.
    value : Tensor, shape (batch,)
        Gradient in the optimal value. By the envelope theorem its own gradient is x in q, -y in b, x x'/2 in P, y x'
        in A and 1 in the offset, which is added.
    """

    x: Tensor
    y: Tensor
    w: Tensor
    u: Tensor
    value: Tensor

    @property
    def q(self) -> Tensor:
        """Gradient in q, (batch, n)."""
        return self.value[:, None] * self.x - self.w

    @property
    def b(self) -> Tensor:
        """Gradient in b, (batch, m)."""
        return self.u - self.value[:, None] * self.y

    def p_entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Gradient in some entries of P, (batch, entries), along symmetric changes: (i, j) and (j, i) share it."""
        half = self._half
        return (half[:, rows] * self.x[:, columns] + self.x[:, rows] * half[:, columns]) / 2

    def a_entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Gradient in some entries of A, (batch, entries)."""
        return -(self.y[:, rows] * self.w[:, columns] + self.b[:, rows] * self.x[:, columns])

    def p_summed(self) -> Tensor:
        """Gradient in a P that the whole batch shares, (n, n)."""
        square = self._half.T @ self.x
        return (square + square.T) / 2

    def a_summed(self) -> Tensor:
        """Gradient in an A that the whole batch shares, (m, n)."""
        return -(self.y.T @ self.w + self.b.T @ self.x)

    @property
    def _half(self) -> Tensor:
        return self.value[:, None] * self.x / 2 - self.w


def conic_vector_jacobian(
    program: ConicProgram, x: Tensor, y: Tensor, grad_x: Tensor, grad_y: Tensor | None = None,
    grad_value: Tensor | None = None,
) -> ProgramGradient:  # fmt: skip
    """Gradients in the data of conic programs, given those in their solutions.

    Parameters
    ----------
    program : ConicProgram
    x, y : Tensor, shapes (batch, n) and (batch, m)
        Solutions, with y in the dual cone; the gradient is about as exact as they are.
    grad_x, grad_y : Tensor, shapes (batch, n) and (batch, m)
        Gradients of a scalar in them; zero in y where it is not given.
    grad_value : Tensor, shape (batch,)
        Gradient in the optimal value, the offset included; zero where it is not given.

    Raises
    ------
    UsageError
        For programs too large to be held densely, or with cones that are not known here; it names them.
    """
    value = x.new_zeros(len(x)) if grad_value is None else grad_value
    w, u = torch.zeros_like(x), torch.zeros_like(y)
    if not bool((grad_x != 0).any()) and (grad_y is None or not bool((grad_y != 0).any())):
        return ProgramGradient(x, y, w, u, value)
    if program.cones.others:
        raise UsageError(f"no gradient is known for {program.cones.others}; leave that constraint out of the program.")
    if too_large(program):
        raise UsageError(f"the gradient of a batch of solves needs {too_large(program)}.")
    (m, n), stages = program.A.shape, find_stages(program)
    rows = torch.arange(m, device=x.device)
    for stage in stages:
        rows = rows[stage.other_rows]
    s = into_cone(program.b - program.A.times(x), program.cones)
    shared = reduce_program(program, stages) if program.shared else None
    # The largest system has all variables that remain and all rows.
    side = n - m + 2 * len(rows)
    chunk = max(1, CHUNK_ENTRIES // max(side * side, 1 if shared else n * (n + m)))
    for places in torch.arange(program.batch, device=x.device).split(chunk):
        reduced = shared or reduce_program(program.take(places), stages)
        costs = -grad_x[places]
        sides = torch.zeros_like(y[places]) if grad_y is None else grad_y[places]
        system = AdjointSystem.of(reduced, s[places][:, rows], y[places][:, rows])
        left, below = reduced.vectors(costs, sides)
        w[places], u[places] = reduced.lift(*system.solve(-left, below), costs, sides)
    return ProgramGradient(x, y, w, u, value)


def pull_back(sharing: Sharing, gradient: ProgramGradient, names: Sequence[str]) -> dict[str, Tensor]:
    """Gradients in the parameters, from those in the programs' data.

    Symmetric and semidefinite parameters get a symmetric gradient, right along symmetric changes; diagonal and sparse
    ones get zeros where they have no entries.

    Returns
    -------
    dict of Tensor
        Name -> (batch, *shape) for the parameters that vary over the batch, (*shape) for the shared ones, summed.
    """
    found = {}
    entries = sharing.form.parameters
    common = [name for name in names if name not in sharing.batched]
    if len(common) < len(names):
        parts = _pull_own(sharing, gradient).split([len(entries[name].places) for name in sharing.batched], dim=1)
        found = {name: _whole(sharing.form, name, part)
                 for name, part in zip(sharing.batched, parts, strict=True) if name in names}  # fmt: skip
    if common:
        ranges = [np.arange(len(entries[name].places)) + entries[name].column for name in common]
        parts = _pull_shared(sharing.form, gradient, np.concatenate(ranges)).split([len(part) for part in ranges])
        found |= {name: _whole(sharing.form, name, part[None])[0] for name, part in zip(common, parts, strict=True)}
    return found


def _pull_own(sharing: Sharing, gradient: ProgramGradient) -> Tensor:
    """Gradient in the batched parameters' reduced entries, (batch, columns)."""
    found = gradient.x.new_zeros(len(gradient.x), sharing.q.scatter.shape[1])
    for part, entries in (
        (sharing.P, gradient.p_entries), (sharing.A, gradient.a_entries),
        (sharing.q, lambda rows, _: gradient.q[:, rows]), (sharing.b, lambda rows, _: gradient.b[:, rows]),
        (sharing.offset, lambda rows, _: gradient.value[:, None]),
    ):  # fmt: skip
        if len(part.places):
            rows, columns = (torch.as_tensor(index[part.places], device=found.device)
                             for index in (part.affine.rows, part.affine.columns))  # fmt: skip
            found += part.scatter.transposed_times(entries(rows, columns))
    return found


def _pull_shared(form: Canonical, gradient: ProgramGradient, columns: np.ndarray) -> Tensor:
    """Gradient in some columns of the vector of all parameters, summed over the batch."""
    found = np.zeros(len(columns))
    for part, summed in (
        (form.P, gradient.p_summed), (form.A, gradient.a_summed), (form.q, lambda: gradient.q.sum(0)[:, None]),
        (form.b, lambda: gradient.b.sum(0)[:, None]), (form.offset, lambda: gradient.value.sum()[None, None]),
    ):  # fmt: skip
        # Without parameters in it, a map has its constant column alone.
        own = part.map[:, columns] if part.map.shape[1] > 1 else None
        if own is not None and own.nnz:
            found += own.T @ summed().cpu().numpy()[part.rows, part.columns]
    return torch.as_tensor(found).to(gradient.x)


def _whole(form: Canonical, name: str, reduced: Tensor) -> Tensor:
    """Reduced entries (batch, entries) as gradients of the whole parameter, (batch, *shape)."""
    entry = form.parameters[name]
    whole = reduced.new_zeros(len(reduced), int(np.prod(entry.shape, dtype=int)))
    whole[:, torch.as_tensor(entry.places, device=reduced.device)] = reduced
    whole = whole.reshape(-1, *entry.shape)
    return (whole + whole.mT) / 2 if {"symmetric", "PSD", "NSD"} & set(entry.attributes) else whole


def differentiable(
    sharing: Sharing, parameters: Mapping[str, Any], program_of: Callable[[Tensor], ConicProgram],
    x: Tensor, y: Tensor, value: Tensor, status: Sequence[Status],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Connect solutions to the parameters that require gradients; the work is done in the backward pass.

    Parameters
    ----------
    sharing : Sharing
    parameters : dict
        The parameters as their user gave them, batch axis first on those that `sharing` has batched. The tensors that
        require gradients get them, in their own type; one that is changed in place before the backward pass raises
        there.
    program_of : callable
        Places of instances -> their conic programs.
    x, y, value : Tensor, shapes (batch, n), (batch, m) and (batch,)
        The solutions, and the values of the canonical programs, offset included.
    status : sequence of Status
        A gradient into an instance that is not SOLVED raises SolveError in the backward pass.

    Returns
    -------
    tuple of Tensor
        x, y and value, with gradients.
    """
    tensors = {name: given for name, given in parameters.items() if isinstance(given, Tensor)}
    shapes = {name: given.shape for name, given in tensors.items() if given.requires_grad}
    points, entries = (x.detach(), y.detach()), len(sharing.P.places) + len(sharing.A.places)
    chunk = max(1, CHUNK_ENTRIES // (entries + x.shape[1] + y.shape[1] + 1))

    def pull(grad_x: Tensor, grad_y: Tensor, grad_value: Tensor) -> list[Tensor | None]:
        reached = ((grad_x != 0).any(1) | (grad_y != 0).any(1) | (grad_value != 0)).nonzero()[:, 0]
        _require_solved(reached, status)
        found = {name: points[0].new_zeros(shape) for name, shape in shapes.items()}
        for places in reached.split(chunk):
            of = [part[places] for part in (*points, grad_x, grad_y, grad_value)]
            gradient = conic_vector_jacobian(program_of(places), *of)
            for name, part in pull_back(sharing, gradient, tuple(shapes)).items():
                if name in sharing.batched:
                    found[name][places] = part
                else:
                    found[name] += part
        return [found.get(name) for name in tensors]

    attached: tuple[Tensor, Tensor, Tensor] = _Attached.apply(pull, *points, value.detach(), *tensors.values())
    return attached


def _require_solved(places: Tensor, status: Sequence[Status]) -> None:
    bad = [place for place in places.tolist() if status[place] is not Status.SOLVED]
    if bad:
        raise SolveError(
            f"the loss depends on {len(bad)} of the instances that are not solved, which have no gradient; instance "
            f"{bad[0]} is {status[bad[0]].value}. Leave them out: take values[solution.solved_rows] of the variables, "
            "the duals and the objective."
        )



class _Attached(torch.autograd.Function):
    """Hands solutions through; the backward pass calls `pull` with their gradients."""

    @staticmethod
    def forward(
        ctx: Any, pull: Callable[..., list[Tensor | None]], x: Tensor, y: Tensor, value: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.pull = pull
        # The backward pass reads them through `program_of`; saved ones raise if they were changed in place since.
        ctx.save_for_backward(*tensors)
        return x.clone(), y.clone(), value.clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        found = ctx.pull(*gradients)
        pairs = zip(found, tensors, strict=True)
        return None, None, None, None, *(None if part is None else part.to(tensor) for part, tensor in pairs)
