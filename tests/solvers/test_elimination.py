"""Definitions taken out of programs: structures x what varies, by identities at random points and by Clarabel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import clarabel
import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convexblocks.solvers import elimination
from convexblocks.solvers.canonical import canonicalize
from convexblocks.solvers.conic_program import INFEASIBLE, UNBOUNDED, Cones, ConicProgram, Points
from convexblocks.solvers.conic_residuals import conic_residuals, measure
from convexblocks.solvers.elimination import Reduction, find_stages, reduce_program, too_large
from convexblocks.solvers.matrix import Matrix, OwnEntries
from convexblocks.solvers.parametrized import Sharing
from convexblocks.solvers.shared_matrix import SharedMatrix

BATCH = 3
Rows = list[tuple[dict[str, np.ndarray], np.ndarray]]
Draw = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Parts:
    """A batch of programs in named blocks of variables.

    Rows are pairs of coefficients by block, (batch, rows, size) each, and right-hand sides (batch, rows). `factors`
    are F in the curvature F'F.
    """

    sizes: dict[str, int]
    factors: list[dict[str, np.ndarray]]
    equalities: Rows
    inequalities: Rows
    second_order: Rows
    eliminated: set[str]


@dataclass(frozen=True)
class Case:
    """A program, its data one by one in plain numpy, and how many variables are to remain."""

    program: ConicProgram
    P: np.ndarray
    A: np.ndarray
    q: np.ndarray
    b: np.ndarray
    remaining: int


def matrix_of(values: np.ndarray) -> Matrix:
    """What is the same for the whole batch is shared, the rest own."""
    varying = (values != values[0]).any(0)
    shape = (values.shape[1], values.shape[2])
    rows, columns = (torch.as_tensor(part) for part in np.nonzero((values[0] != 0) & ~varying))
    common = SharedMatrix(rows, columns, torch.as_tensor(values[0])[rows, columns], shape)
    if not varying.any():
        return Matrix(common)
    rows, columns = (torch.as_tensor(part) for part in np.nonzero(varying))
    return Matrix(common, OwnEntries(rows, columns, torch.as_tensor(values)[:, rows, columns], shape))


def identity(size: int) -> np.ndarray:
    return np.repeat(np.eye(size)[None], BATCH, axis=0)


# ------------------------------------------------------------------------------------ the structures


def squares(drawn: Draw) -> Parts:
    """y == W x - v, with nothing else of y but squares."""
    rows: Rows = [({"y": identity(4), "x": -drawn(4, 3)}, drawn(4))]
    bounds: Rows = [({"x": identity(3)}, 1 + drawn(3) ** 2), ({"x": -identity(3)}, 1 + drawn(3) ** 2)]
    return Parts({"x": 3, "y": 4}, [{"y": identity(4)}, {"x": drawn(3, 3)}], rows, bounds, [], {"y"})


def weighted_squares(drawn: Draw) -> Parts:
    parts = squares(drawn)
    return replace(parts, factors=[{"y": np.diag([1.0, 2, 0.5, 0]) + np.zeros((BATCH, 4, 4))}, {"x": drawn(3, 3)}])


def coupled_squares(drawn: Draw) -> Parts:
    """Curvature between what is taken out and what remains."""
    parts = squares(drawn)
    return replace(parts, factors=[{"y": drawn(6, 4), "x": drawn(6, 3)}, {"x": identity(3)}])


def pivots(drawn: Draw) -> Parts:
    parts = coupled_squares(drawn)
    scale = np.array([2.0, -3.0, 0.25, -1.0])[:, None] * np.eye(4)
    return replace(parts, equalities=[({"y": np.broadcast_to(scale, (BATCH, 4, 4)), "x": drawn(4, 3)}, drawn(4))])


def hinges(drawn: Draw) -> Parts:
    """z == W x + v in z <= t and -z <= t + 1, squares of t."""
    rows: Rows = [({"z": identity(4), "x": -drawn(4, 3)}, drawn(4))]
    inequalities: Rows = [
        ({"z": identity(4), "t": -identity(4)}, np.zeros((BATCH, 4))),
        ({"z": -2 * identity(4), "t": -identity(4)}, np.ones((BATCH, 4))),
        ({"t": -identity(4)}, np.zeros((BATCH, 4))),
    ]
    factors = [{"t": identity(4)}, {"x": drawn(3, 3)}, {"x": 0.5 * identity(3)}]
    return Parts({"x": 3, "z": 4, "t": 4}, factors, rows, inequalities, [], {"z"})


def curved_hinges(drawn: Draw) -> Parts:
    """The same with curvature of z, and own coefficients of z in the inequalities."""
    parts = hinges(drawn)
    first = ({"z": identity(4) * (1 + drawn(4, 1) ** 2), "t": -identity(4)}, drawn(4))
    factors = [*parts.factors, {"z": drawn(3, 4), "x": drawn(3, 3), "t": drawn(3, 4)}]
    return replace(parts, factors=factors, inequalities=[first, *parts.inequalities[1:]])


def chain(drawn: Draw) -> Parts:
    """z == W x + b, then y == z - v; z in a row of its own besides."""
    rows: Rows = [
        ({"z": identity(3), "x": -drawn(3, 2)}, drawn(3)), ({"y": identity(3), "z": -identity(3)}, drawn(3)),
    ]  # fmt: skip
    mixed: Rows = [({"z": drawn(1, 3), "x": drawn(1, 2)}, 2 + drawn(1) ** 2)]
    factors = [{"y": identity(3)}, {"x": identity(2)}, {"z": 0.3 * drawn(2, 3), "y": drawn(2, 3)}]
    return Parts({"x": 2, "z": 3, "y": 3}, factors, rows, mixed, [], {"z", "y"})


def long_chain(drawn: Draw) -> Parts:
    """Four definitions one after the other, their own rows in no order, pivots other than one."""
    names, rows = ["x", "a", "c", "d", "e"], []
    for above, below in pairwise(names):
        rows.append(({below: -2.5 * identity(3), above: drawn(3, 3)}, drawn(3)))
    bounds: Rows = [({"x": identity(3)}, 1 + drawn(3) ** 2)]
    factors = [{name: identity(3)} for name in names] + [{name: 0.4 * drawn(4, 3) for name in names}]
    return Parts(dict.fromkeys(names, 3), factors, rows[::-1], bounds, [], set(names[1:]))


def other_cones(drawn: Draw) -> Parts:
    """Squares, an equality that stays (its variables have bounds), and a second-order cone over what remains."""
    parts = squares(drawn)
    total = ({"x": np.ones((BATCH, 1, 3))}, 0.3 * np.ones((BATCH, 1)))
    ball = ({"x": -np.eye(4, 3, -1) + np.zeros((BATCH, 4, 3))}, np.array([2.0, 0, 0, 0]) + np.zeros((BATCH, 4)))
    return replace(parts, equalities=[total, *parts.equalities], second_order=[ball])


def in_a_cone(drawn: Draw) -> Parts:
    """y == W x - v within |y + x_0| <= t: it stands in rows that are no inequalities, and stays."""
    parts = squares(drawn)
    rows, shift = np.zeros((BATCH, 5, 4)), np.zeros((BATCH, 5, 3))
    rows[:, 1:], shift[:, 1:, 0] = -np.eye(4), -1
    ball = ({"y": rows, "x": shift, "t": -np.eye(5, 1) + np.zeros((BATCH, 5, 1))}, np.zeros((BATCH, 5)))
    return replace(
        parts, sizes=parts.sizes | {"t": 1}, factors=[*parts.factors, {"t": identity(1)}], second_order=[ball],
        eliminated=set(),
    )  # fmt: skip


def no_equalities(drawn: Draw) -> Parts:
    bounds: Rows = [({"x": drawn(5, 3)}, 1 + drawn(5) ** 2)]
    return Parts({"x": 3}, [{"x": identity(3)}], [], bounds, [], set())


def bounded(drawn: Draw) -> Parts:
    """An equality whose variables all have bounds: to take one out would make its bound a wide row."""
    bounds: Rows = [({"x": -identity(3)}, np.zeros((BATCH, 3)))]
    total: Rows = [({"x": np.ones((BATCH, 1, 3))}, np.ones((BATCH, 1)))]
    return Parts({"x": 3}, [{"x": drawn(3, 3)}], total, bounds, [], set())


STRUCTURES: dict[str, Callable[[Draw], Parts]] = {
    structure.__name__: structure
    for structure in (
        squares, weighted_squares, coupled_squares, pivots, hinges, curved_hinges, chain, long_chain, other_cones,
        in_a_cone, no_equalities, bounded,
    )
}  # fmt: skip
VARYING = ("vectors", "everything", "nothing")


@cache
def case_of(structure: str, varying: str, seed: int = 0) -> Case:
    """A program with its variables and equalities in a random order."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        if varying == "everything" or (varying == "vectors" and len(shape) == 1):
            return rng.standard_normal((BATCH, *shape))
        return np.broadcast_to(rng.standard_normal(shape), (BATCH, *shape))

    parts = STRUCTURES[structure](drawn)
    n = sum(parts.sizes.values())
    order, starts = rng.permutation(n), dict(zip(parts.sizes, np.cumsum([0, *parts.sizes.values()]), strict=False))

    def stacked(rows: Rows, shuffled: bool = False) -> tuple[np.ndarray, np.ndarray]:
        A, b = [np.zeros((BATCH, 0, n))], [np.zeros((BATCH, 0))]
        for blocks, sides in rows:
            A.append(placed(blocks, sides.shape[1]))
            b.append(np.broadcast_to(sides, (BATCH, sides.shape[1])))
        left, right = np.concatenate(A, axis=1), np.concatenate(b, axis=1)
        mixed = rng.permutation(right.shape[1]) if shuffled else np.arange(right.shape[1])
        return left[:, mixed], right[:, mixed]

    def placed(blocks: dict[str, np.ndarray], count: int) -> np.ndarray:
        whole = np.zeros((BATCH, count, n))
        for name, block in blocks.items():
            whole[:, :, order[starts[name] : starts[name] + parts.sizes[name]]] += block
        return whole

    P = np.zeros((BATCH, n, n))
    for factor in parts.factors:
        F = placed(factor, next(iter(factor.values())).shape[1])
        P += F.swapaxes(1, 2) @ F
    groups = [stacked(parts.equalities, True), stacked(parts.inequalities), stacked(parts.second_order)]
    A, b = (np.concatenate([group[side] for group in groups], axis=1) for side in (0, 1))
    cones = Cones(len(groups[0][1][0]), len(groups[1][1][0]), tuple(sides.shape[1] for _, sides in parts.second_order))
    q = drawn(n)
    vectors = [torch.tensor(part[:1] if varying == "nothing" else part) for part in (q, b)]
    program = ConicProgram(matrix_of(P), vectors[0], matrix_of(A), vectors[1], torch.zeros(1).double(), cones, BATCH)
    return Case(program, P, A, q, b, n - sum(parts.sizes[name] for name in parts.eliminated))


@cache
def reduced(structure: str, varying: str) -> Reduction:
    program = case_of(structure, varying).program
    return reduce_program(program, find_stages(program))


def full(tensor: Tensor, ndim: int) -> np.ndarray:
    """With the batch axis, whether or not it varies."""
    array = tensor.numpy()
    array = array if array.ndim == ndim else array[None]
    return np.broadcast_to(array, (BATCH, *array.shape[1:]))


def written_out(reduction: Reduction, program: ConicProgram) -> tuple[np.ndarray, ...]:
    """P, A, q, b and the constant of the reduced programs, one by one."""
    q, b, constant = reduction.vectors_and_constant(program.q, program.b)
    return full(reduction.P, 3), full(reduction.A, 3), full(q, 2), full(b, 2), full(constant, 1)


def kept_rows(case: Case, reduction: Reduction) -> np.ndarray:
    rows = np.arange(case.A.shape[1])
    for stage, _ in reduction.stages:
        rows = rows[stage.other_rows.numpy()]
    return rows


# ------------------------------------------------------------------------------------ what is taken out


@pytest.mark.parametrize("varying", VARYING)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_all_definitions_and_nothing_else_are_taken_out(structure: str, varying: str) -> None:
    case, reduction = case_of(structure, varying), reduced(structure, varying)
    taken = case.A.shape[2] - case.remaining
    assert len(reduction.columns) == case.remaining
    assert reduction.cones == replace(case.program.cones, zero=case.program.cones.zero - taken)
    assert reduction.A.shape[-2:] == (case.A.shape[1] - taken, case.remaining)
    assert reduction.P.shape[-2:] == (case.remaining, case.remaining)
    assert bool(reduction.stages) is (taken > 0)
    if varying != "everything":
        assert reduction.P.ndim == reduction.A.ndim == 2


def test_chains_take_a_stage_for_every_link() -> None:
    assert len(find_stages(case_of("squares", "vectors").program)) == 1
    assert len(find_stages(case_of("chain", "vectors").program)) == 2
    assert len(find_stages(case_of("long_chain", "vectors").program)) >= 3


@pytest.mark.parametrize(("pivot", "taken"), [(1.0, True), (1e-2, True), (-1e-2, True), (1e-4, False), (-1e-4, False)])
def test_tiny_pivots_are_not_taken(pivot: float, taken: bool) -> None:
    # x_0 + pivot y == 1 with bounds on x_0 alone: only y can be solved for.
    A = np.array([[[1.0, pivot], [-1.0, 0.0]]])
    program = small(np.eye(2)[None], A, Cones(1, 1))
    assert bool(find_stages(program)) is taken


def test_the_largest_of_several_pivots_is_taken() -> None:
    program = small(np.eye(4)[None], np.array([[[1.0, -0.3, 2.0, -0.7], [-1.0, 0.0, 0.0, 0.0]]]), Cones(1, 1))
    (stage,) = find_stages(program)
    assert stage.columns.tolist() == [2]


def test_an_entry_that_varies_is_no_pivot() -> None:
    A = np.array([[[1.0, 1.0], [-1.0, 0.0]], [[1.0, 2.0], [-1.0, 0.0]]])
    assert not find_stages(small(np.eye(2)[None], A, Cones(1, 1)))
    assert find_stages(small(np.eye(2)[None], A[1:], Cones(1, 1)))


def test_an_own_entry_over_a_shared_one_is_no_pivot() -> None:
    one = torch.tensor([0])
    shared = Matrix(SharedMatrix(one, one, torch.ones(1).double(), (1, 1)))
    own = Matrix(shared.common, OwnEntries(one, one, torch.tensor([[-1.0], [1.0]]).double(), (1, 1)))
    program = small(np.eye(1)[None], np.ones((1, 1, 1)), Cones(1))
    assert find_stages(replace(program, A=shared))
    assert not find_stages(replace(program, A=own, batch=2))


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_a_variable_of_many_inequalities_stays(uses: int) -> None:
    # y == x_0 + x_1 in so many wide inequalities; x_0 and x_1 have bounds.
    wide = np.tile([[1.0, 0.0, 1.0]], (uses, 1))
    A = np.concatenate([[[-1.0, -1.0, 1.0]], -np.eye(3)[:2], wide])[None]
    stages = find_stages(small(np.eye(3)[None], A, Cones(1, 2 + uses)))
    assert [stage.columns.tolist() for stage in stages] == ([[2]] if uses <= 2 else [])


def small(P: np.ndarray, A: np.ndarray, cones: Cones) -> ConicProgram:
    m, n = A.shape[1:]
    zeros = torch.zeros(1, n).double(), torch.zeros(1, m).double()
    return ConicProgram(matrix_of(P), zeros[0], matrix_of(A), zeros[1], torch.zeros(1).double(), cones, len(A))


def test_too_large_programs_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    program = case_of("squares", "vectors").program
    m, n = program.A.shape
    assert too_large(program) == ""
    monkeypatch.setattr(elimination, "MOST_ENTRIES", m * n - 1)
    assert too_large(program) == f"a program of at most {m * n - 1:,} entries held densely (this one is {m} x {n})"


# ------------------------------------------------------------------------------------ identities at random points


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(STRUCTURES)), st.sampled_from(VARYING), st.integers(0, 10**6))
def test_lifted_points_have_the_objective_the_slacks_and_the_gradients(structure: str, varying: str, seed: int) -> None:
    case, reduction, rng = case_of(structure, varying), reduced(structure, varying), np.random.default_rng(seed)
    P, A, q, b, constant = written_out(reduction, case.program)
    xr, yr = rng.standard_normal((BATCH, A.shape[2])), rng.standard_normal((BATCH, A.shape[1]))
    lifted = reduction.lift(torch.tensor(xr), torch.tensor(yr), case.program.q, case.program.b)
    x, y = (part.numpy() for part in lifted)
    rows, columns = kept_rows(case, reduction), reduction.columns.numpy()
    np.testing.assert_array_equal(x[:, columns], xr)
    np.testing.assert_array_equal(y[:, rows], yr)

    ours = product(P, xr) * xr / 2 + q * xr
    theirs = product(case.P, x) * x / 2 + case.q * x
    close(ours.sum(1) + constant, theirs.sum(1))
    slack = case.b - product(case.A, x)
    close(slack[:, rows], b - product(A, xr))
    close(np.delete(slack, rows, axis=1), 0)
    gradient = product(case.P, x) + case.q + product(case.A.swapaxes(1, 2), y)
    close(gradient[:, columns], product(P, xr) + q + product(A.swapaxes(1, 2), yr))
    close(np.delete(gradient, columns, axis=1), 0)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(STRUCTURES)), st.sampled_from(VARYING), st.integers(0, 10**6))
def test_rays_lift_to_rays(structure: str, varying: str, seed: int) -> None:
    case, reduction, rng = case_of(structure, varying), reduced(structure, varying), np.random.default_rng(seed)
    A, (_, b) = full(reduction.A, 3), reduction.vectors(case.program.q, case.program.b)
    xr, yr = rng.standard_normal((BATCH, A.shape[2])), rng.standard_normal((BATCH, A.shape[1]))
    none = torch.zeros_like(case.program.q), torch.zeros_like(case.program.b)
    _, y = reduction.lift(torch.zeros(xr.shape).double(), torch.tensor(yr), *none)
    rows, columns = kept_rows(case, reduction), reduction.columns.numpy()
    pulled = product(case.A.swapaxes(1, 2), y.numpy())
    close(pulled[:, columns], product(A.swapaxes(1, 2), yr))
    close(np.delete(pulled, columns, axis=1), 0)
    close((case.b * y.numpy()).sum(1), (full(b, 2) * yr).sum(1))

    x, _ = reduction.lift(torch.tensor(xr), torch.zeros(yr.shape).double(), *none)
    sent = product(case.A, x.numpy())
    close(sent[:, rows], product(A, xr))
    close(np.delete(sent, rows, axis=1), 0)
    # Half the curvature along a ray is that of the reduced program; it is zero where that is.
    curved = (product(case.P, x.numpy()) * x.numpy()).sum(1)
    close(curved, (product(full(reduction.P, 3), xr) * xr).sum(1))


def product(matrices: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.einsum("bmn,bn->bm", matrices, rows)


def close(ours: np.ndarray, theirs: np.ndarray | float) -> None:
    np.testing.assert_allclose(ours, np.broadcast_to(theirs, np.shape(ours)), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_one_point_stands_for_the_whole_batch(structure: str) -> None:
    case, reduction = case_of(structure, "everything"), reduced(structure, "everything")
    first = case.program.q[:1], case.program.b[:1]
    short = reduction.vectors_and_constant(*first)
    whole = reduction.vectors_and_constant(*(part.expand(BATCH, -1) for part in first))
    for ours, theirs in zip(short, whole, strict=True):
        torch.testing.assert_close(ours.expand_as(theirs), theirs)


# ------------------------------------------------------------------------------------ optima


def by_clarabel(P: np.ndarray, q: np.ndarray, A: np.ndarray, b: np.ndarray, cones: Cones) -> Any:
    kinds = [clarabel.ZeroConeT(cones.zero)] if cones.zero else []
    kinds += [clarabel.NonnegativeConeT(cones.nonnegative)] if cones.nonnegative else []
    kinds += [clarabel.SecondOrderConeT(size) for size in cones.second_order]
    options = clarabel.DefaultSettings()
    options.verbose, options.presolve_enable = False, False
    options.tol_feas = options.tol_gap_abs = options.tol_gap_rel = 1e-11
    options.tol_infeas_abs = options.tol_infeas_rel = 1e-11
    return clarabel.DefaultSolver(sp.csc_matrix(np.triu(P)), q, sp.csc_matrix(A), b, kinds, options).solve()


@pytest.mark.parametrize("varying", VARYING)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_optimum_lifts_to_the_optimum(structure: str, varying: str) -> None:
    case, reduction = case_of(structure, varying), reduced(structure, varying)
    program = case.program
    P, A, q, b, constant = written_out(reduction, program)
    short = [by_clarabel(P[k], q[k], A[k], b[k], reduction.cones) for k in range(BATCH)]
    whole = [by_clarabel(case.P[k], case.q[k], case.A[k], case.b[k], program.cones) for k in range(BATCH)]
    assert all("Solved" in str(answer.status) for answer in (*short, *whole))
    for answer, other, more in zip(short, whole, constant, strict=True):
        assert answer.obj_val + more == pytest.approx(other.obj_val, rel=1e-7, abs=1e-7)
    lifted = reduction.lift(*points_of(short), program.q, program.b)
    # In second-order cones Clarabel itself may reach less.
    assert worst(program, *lifted) <= max(1e-8, 2 * worst(program, *points_of(whole)))


def points_of(answers: list[Any]) -> tuple[Tensor, Tensor]:
    x, y = (torch.tensor(np.array([getattr(answer, side) for answer in answers])) for side in "xz")
    return x.reshape(BATCH, -1), y.reshape(BATCH, -1)


def worst(program: ConicProgram, x: Tensor, y: Tensor) -> float:
    residuals = conic_residuals(program, x, y)
    return float(torch.stack([residuals.primal, residuals.dual, residuals.gap]).max())


def test_a_program_of_definitions_alone() -> None:
    # minimize |W x - v|^2 / 2 + |x|^2 / 2 with an own W: by hand, x = (W'W + I)^-1 W'v.
    rng = np.random.default_rng(2)
    W, v = rng.standard_normal((BATCH, 4, 2)), rng.standard_normal((BATCH, 4))
    A = np.concatenate([-W, identity(4)], axis=2)
    zeros = torch.zeros(1, 6).double(), torch.zeros(1).double()
    program = ConicProgram(
        matrix_of(identity(6)), zeros[0], matrix_of(A), torch.tensor(-v), zeros[1], Cones(4), BATCH
    )
    reduction = reduce_program(program, find_stages(program))
    assert reduction.A.shape[-2] == 0
    q, _ = reduction.vectors(program.q, program.b)
    x = torch.linalg.solve(reduction.P, -q)
    expected = np.linalg.solve(W.swapaxes(1, 2) @ W + np.eye(2), (W.swapaxes(1, 2) @ v[..., None]))[..., 0]
    close(x.numpy(), expected)
    assert worst(program, *reduction.lift(x, torch.zeros(BATCH, 0).double(), program.q, program.b)) <= 1e-12


@pytest.mark.parametrize("kind", [INFEASIBLE, UNBOUNDED])
def test_rays_of_reduced_programs_are_believed_of_the_whole_ones(kind: int) -> None:
    # z == 2 x + y in two wide rows, r == z - 1 with a cost: z <= s and z >= s + 1 of the same s, or nothing below z.
    z, r, x, y, s = np.eye(5)
    rows = [z - 2 * x - y, r - z, z - s, (s - z if kind == INFEASIBLE else z - s) + 0 * x, -x, -y]
    A, b = np.array([rows]), torch.tensor([[0.0, -1, 0, -1, 0, 0]]).double()
    q = torch.tensor(np.array([r - 0.1 * s if kind == INFEASIBLE else -r + 0.1 * s]))
    program = ConicProgram(
        matrix_of(np.zeros((1, 5, 5))), q, matrix_of(A), b, torch.zeros(1).double(), Cones(2, 4), 1
    )
    reduction = reduce_program(program, find_stages(program))
    assert len(reduction.columns) == 3
    short = [part[0].numpy() for part in reduction.vectors(q, b)]
    answer = by_clarabel(reduction.P.numpy(), short[0], reduction.A.numpy(), short[1], reduction.cones)
    assert str(answer.status) == ("PrimalInfeasible" if kind == INFEASIBLE else "DualInfeasible")
    ray = torch.tensor([answer.z if kind == INFEASIBLE else answer.x]).double()
    n, m = len(reduction.columns), reduction.A.shape[0]
    xr, yr = (torch.zeros(1, n).double(), ray) if kind == INFEASIBLE else (ray, torch.zeros(1, m).double())
    whole = reduction.lift(xr, yr, torch.zeros_like(q), torch.zeros_like(b))
    points = Points(*whole, torch.zeros(1, dtype=torch.int64), torch.tensor([kind]), {})
    assert measure(program, points, 1e-7)[0].claim.tolist() == [kind]


# ------------------------------------------------------------------------------------ programs of cvxpy


def test_what_cvxpy_writes_for_squares_is_taken_out() -> None:
    x, W, v = cp.Variable(3, name="x"), cp.Parameter((5, 3), name="W"), cp.Parameter(5, name="v")
    hidden = cp.Variable(5, name="hidden")
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(cp.pos(hidden)) + cp.sum_squares(hidden - v) + cp.sum_squares(x)),
        [hidden == W @ x, x >= -1],
    )
    form = canonicalize(problem)
    sharing = Sharing(form, ("W", "v"))
    rng = np.random.default_rng(0)
    data = {"W": torch.tensor(rng.standard_normal((BATCH, 5, 3))), "v": torch.tensor(rng.standard_normal((BATCH, 5)))}
    program = sharing.program(sharing.constants({}), data, BATCH)
    reduction = reduce_program(program, find_stages(program))
    # What remains: x, and the positive parts with their rows.
    assert len(reduction.columns) == 3 + 5
    assert reduction.cones == Cones(0, 3 + 2 * 5)
    P, A, q, b, constant = written_out(reduction, program)
    for place in range(BATCH):
        for item in problem.parameters():
            item.value = data[item.name()][place].numpy()
        expected = problem.solve(solver="CLARABEL")
        answer = by_clarabel(P[place], q[place], A[place], b[place], reduction.cones)
        assert answer.obj_val + constant[place] == pytest.approx(expected, rel=1e-6)
