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
from .cone_points import into_cone
from .conic_program import ConicProgram
from .elimination import find_stages, reduce_program, too_large
from .parametrized import BatchedMap, Sharing
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
        The adjoint: the gradient is -w in q and u in b.
    """

    x: Tensor
    y: Tensor
    w: Tensor
    u: Tensor

    def p_entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Gradient in some entries of P, (batch, entries), along symmetric changes: (i, j) and (j, i) share it."""
        return -(self.w[:, rows] * self.x[:, columns] + self.x[:, rows] * self.w[:, columns]) / 2

    def a_entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Gradient in some entries of A, (batch, entries)."""
        return -(self.y[:, rows] * self.w[:, columns] + self.u[:, rows] * self.x[:, columns])

    def summed(self) -> dict[str, Tensor]:
        """Gradients in P, A, q and b that the whole batch shares, dense."""
        square = self.w.T @ self.x
        return {
            "P": -(square + square.T) / 2, "A": -(self.y.T @ self.w + self.u.T @ self.x),
            "q": -self.w.sum(0), "b": self.u.sum(0),
        }  # fmt: skip


def conic_vector_jacobian(
    program: ConicProgram, x: Tensor, y: Tensor, grad_x: Tensor, grad_y: Tensor | None = None
) -> ProgramGradient:
    """Gradients in the data of conic programs, given those in their solutions.

    Parameters
    ----------
    program : ConicProgram
    x, y : Tensor, shapes (batch, n) and (batch, m)
        Solutions, with y in the dual cone; the gradient is about as exact as they are.
    grad_x, grad_y : Tensor, shapes (batch, n) and (batch, m)
        Gradients of a scalar in them; none in y where it is not given.

    Raises
    ------
    UsageError
        For programs too large to be held densely, or with cones that are not known here; it names them.
    """
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
    w, u = torch.empty_like(x), torch.empty_like(y)
    side = len(rows) + n + len(rows) - m
    chunk = max(1, CHUNK_ENTRIES // max(side * side, 1 if shared else n * m, 1))
    for places in torch.arange(program.batch, device=x.device).split(chunk):
        reduced = shared or reduce_program(program.take(places), stages)
        costs = -grad_x[places]
        sides = torch.zeros_like(y[places]) if grad_y is None else grad_y[places]
        costs_left, sides_left = reduced.vectors(costs, sides)
        system = AdjointSystem.of(reduced, s[places][:, rows], y[places][:, rows])
        w[places], u[places] = reduced.lift(*system.solve(-costs_left, sides_left), costs, sides)
    return ProgramGradient(x, y, w, u)


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
    own = [name for name in names if name in sharing.batched]
    common = [name for name in names if name not in sharing.batched]
    entries = sharing.form.parameters
    if own:
        flat = _pull_own(sharing, gradient)
        first = np.cumsum([0, *(len(entries[name].places) for name in sharing.batched)])
        for place, name in enumerate(sharing.batched):
            if name in own:
                found[name] = _whole(sharing, name, flat[:, first[place] : first[place + 1]])
    if common:
        flat = _pull_shared(sharing, gradient, common)
        for name in common:
            first_column = entries[name].column
            part = flat[first_column : first_column + len(entries[name].places)]
            found[name] = _whole(sharing, name, part[None])[0]
    return found


def _pull_own(sharing: Sharing, gradient: ProgramGradient) -> Tensor:
    """Gradient in the batched parameters' reduced entries, (batch, columns)."""

    def pull(part: BatchedMap, entries: Callable[[Tensor, Tensor], Tensor]) -> Tensor | int:
        if not len(part.places):
            return 0
        rows, columns = (torch.as_tensor(index[part.places], device=gradient.x.device)
                         for index in (part.affine.rows, part.affine.columns))  # fmt: skip
        return part.scatter.transposed_times(entries(rows, columns))

    width = sharing.q.scatter.shape[1]
    return gradient.x.new_zeros(len(gradient.x), width) + sum((
        pull(sharing.P, gradient.p_entries), pull(sharing.A, gradient.a_entries),
        pull(sharing.q, lambda rows, _: -gradient.w[:, rows]), pull(sharing.b, lambda rows, _: gradient.u[:, rows]),
    ))  # fmt: skip


def _pull_shared(sharing: Sharing, gradient: ProgramGradient, names: Sequence[str]) -> Tensor:
    """Gradient in the shared parameters' reduced entries, at their columns of the vector of all parameters."""
    form, total, summed = sharing.form, np.zeros(sharing.form.size), gradient.summed()
    for part, name in ((form.P, "P"), (form.A, "A"), (form.q, "q"), (form.b, "b")):
        # Without parameters in it, a map has its constant column alone.
        if part.map.shape[1] > 1:
            values = summed[name].cpu().numpy()
            at = (part.rows, part.columns) if values.ndim == 2 else (part.rows,)
            total += part.map[:, :-1].T @ values[at]
    return torch.as_tensor(total).to(gradient.x)


def _whole(sharing: Sharing, name: str, reduced: Tensor) -> Tensor:
    """Reduced entries (batch, entries) as gradients of the whole parameter, (batch, *shape)."""
    entry = sharing.form.parameters[name]
    whole = reduced.new_zeros(len(reduced), int(np.prod(entry.shape, dtype=int)))
    whole[:, torch.as_tensor(entry.places, device=reduced.device)] = reduced
    whole = whole.reshape(-1, *entry.shape)
    return (whole + whole.mT) / 2 if {"symmetric", "PSD", "NSD"} & set(entry.attributes) else whole


def differentiable(
    sharing: Sharing,
    parameters: Mapping[str, Tensor],
    program_of: Callable[[Tensor], ConicProgram],
    x: Tensor,
    y: Tensor,
    status: Sequence[Status],
) -> tuple[Tensor, Tensor]:
    """Connect solutions to the parameters that require gradients; the work is done in the backward pass.

    Parameters
    ----------
    sharing : Sharing
    parameters : dict of Tensor
        The parameters, batch axis first on those that `sharing` has batched; only those that require gradients matter.
    program_of : callable
        Places of instances -> their conic programs.
    x, y : Tensor, shapes (batch, n) and (batch, m)
        The solutions.
    status : sequence of Status
        A gradient into an instance that is not SOLVED raises SolveError in the backward pass.

    Returns
    -------
    tuple of Tensor
        x and y, with gradients.
    """
    names = [name for name in parameters if parameters[name].requires_grad]
    shapes = {name: parameters[name].shape for name in names}
    kept_x, kept_y, entries = x.detach(), y.detach(), len(sharing.P.places) + len(sharing.A.places)
    chunk = max(1, CHUNK_ENTRIES // (entries + x.shape[1] + y.shape[1] + 1))

    def pull(grad_x: Tensor, grad_y: Tensor) -> list[Tensor]:
        reached = ((grad_x != 0).any(1) | (grad_y != 0).any(1)).nonzero()[:, 0]
        _require_solved(reached, status)
        found = {name: kept_x.new_zeros(shapes[name]) for name in names}
        for places in reached.split(chunk):
            gradient = conic_vector_jacobian(
                program_of(places), kept_x[places], kept_y[places], grad_x[places], grad_y[places]
            )
            for name, part in pull_back(sharing, gradient, names).items():
                if name in sharing.batched:
                    found[name][places] = part
                else:
                    found[name] += part
        return [found[name] for name in names]

    attached: tuple[Tensor, Tensor] = _Attached.apply(pull, kept_x, kept_y, *(parameters[name] for name in names))
    return attached


def _require_solved(places: Tensor, status: Sequence[Status]) -> None:
    bad = [place for place in places.tolist() if status[place] is not Status.SOLVED]
    if bad:
        raise SolveError(
            f"{len(bad)} instances that are not solved have no gradient, but the loss depends on them; instance "
            f"{bad[0]} is {status[bad[0]].value}. Leave them out of the loss: index the solved rows first, "
            "x[solved], or torch.where(solved, x, 0)."
        )


class _Attached(torch.autograd.Function):
    """Hands solutions through; the backward pass calls `pull` with their gradients."""

    @staticmethod
    def forward(
        ctx: Any, pull: Callable[..., list[Tensor]], x: Tensor, y: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.pull = pull
        # The backward pass reads them through `program_of`; saved ones raise if they were changed in place since.
        ctx.save_for_backward(*tensors)
        return x.clone(), y.clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        found = ctx.pull(*gradients)
        return None, None, None, *(part.to(tensor) for part, tensor in zip(found, tensors, strict=True))
