"""Points of cones: exact projections, near points of the curved cones, and pairs of points of a cone and its dual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convexblocks.solvers.cone_points import (
    into_cone,
    into_dual_cone,
    into_dual_exponential,
    into_exponential,
    into_power,
    onto_second_order,
    onto_semidefinite,
)
from convexblocks.solvers.conic_program import Cones

ROUNDING = 1e-12
EXPONENTS = (0.5, 0.2, 0.9, 0.03)
Map = Callable[[Tensor], Tensor]


def svec(matrix: np.ndarray) -> np.ndarray:
    """The upper triangle by columns, off-diagonal entries times sqrt 2."""
    return np.array(
        [matrix[i, j] * (1 if i == j else np.sqrt(2)) for j in range(len(matrix)) for i in range(j + 1)]
    )


def smat(vector: np.ndarray, order: int) -> np.ndarray:
    matrix, places = np.zeros((order, order)), iter(vector)
    for j in range(order):
        for i in range(j + 1):
            matrix[i, j] = matrix[j, i] = next(places) / (1 if i == j else np.sqrt(2))
    return matrix


@dataclass(frozen=True)
class Exact:
    """A cone that is its own dual, with its projection."""

    size: int
    onto: Map
    member: Callable[[np.ndarray], float]


def below_length(point: np.ndarray) -> float:
    return float(np.linalg.norm(point[1:]) - point[0])


def below_zero(point: np.ndarray, order: int) -> float:
    return float(-np.linalg.eigvalsh(smat(point, order))[0])


EXACT = {
    "second-order, 1": Exact(1, onto_second_order, below_length),
    "second-order, 2": Exact(2, onto_second_order, below_length),
    "second-order, 5": Exact(5, onto_second_order, below_length),
    "nonnegative": Exact(4, lambda points: into_cone(points, Cones(nonnegative=4)), lambda point: -point.min()),
} | {
    f"semidefinite, {order}": Exact(
        order * (order + 1) // 2,
        partial(onto_semidefinite, order=order),
        partial(below_zero, order=order),
    )
    for order in (1, 2, 4)
}


def points_of(size: int, seed: int = 0, count: int = 60) -> Tensor:
    """Points of several sizes, with the special ones: zero, unit vectors, and points on an axis of the cone."""
    rng = np.random.default_rng(seed)
    scattered = rng.standard_normal((count, size)) * 10.0 ** rng.uniform(-3, 3, (count, 1))
    return torch.tensor(np.concatenate([scattered, np.zeros((1, size)), np.eye(size), -np.eye(size)]))


# ------------------------------------------------------------------------------------ exact projections


@pytest.mark.parametrize("name", EXACT)
def test_projections_are_members_and_leave_members_alone(name: str) -> None:
    cone, points = EXACT[name], points_of(EXACT[name].size)
    onto = cone.onto(points)
    for point in onto.numpy():
        assert cone.member(point) <= ROUNDING * (1 + np.abs(point).max())
    torch.testing.assert_close(cone.onto(onto), onto, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_projections_split_a_point_into_two_members_at_right_angles(name: str) -> None:
    # Moreau: v = P(v) - P(-v) with <P(v), P(-v)> = 0, for a cone that is its own dual.
    cone, points = EXACT[name], points_of(EXACT[name].size, seed=1)
    up, down = cone.onto(points), cone.onto(-points)
    torch.testing.assert_close(up - down, points, rtol=1e-12, atol=1e-12)
    sizes = torch.linalg.vector_norm(points, dim=1) ** 2
    assert bool(((up * down).sum(1).abs() <= ROUNDING * (1 + sizes)).all())


@pytest.mark.parametrize("name", EXACT)
def test_projections_bring_no_two_points_further_apart(name: str) -> None:
    cone = EXACT[name]
    first, second = points_of(cone.size, seed=2), points_of(cone.size, seed=3)
    before = torch.linalg.vector_norm(first - second, dim=1)
    after = torch.linalg.vector_norm(cone.onto(first) - cone.onto(second), dim=1)
    assert bool((after <= before * (1 + 1e-12) + 1e-12).all())


def test_known_projections() -> None:
    points = torch.tensor([[0.0, 3, 4], [6, 3, 4], [-6, 3, 4], [1, 3, 4]], dtype=torch.float64)
    expected = torch.tensor([[2.5, 1.5, 2], [6, 3, 4], [0, 0, 0], [3, 1.8, 2.4]], dtype=torch.float64)
    torch.testing.assert_close(onto_second_order(points), expected)
    # [[0, 1], [1, 0]] has the eigenvalues 1 and -1.
    swap, half = torch.tensor(svec(np.array([[0.0, 1], [1, 0]]))), torch.tensor(svec(np.full((2, 2), 0.5)))
    torch.testing.assert_close(onto_semidefinite(swap[None], 2)[0], half)


def test_the_scaled_triangle_keeps_inner_products() -> None:
    rng = np.random.default_rng(0)
    a, b = (part + part.T for part in rng.standard_normal((2, 3, 3)))
    assert svec(a) @ svec(b) == pytest.approx(np.sum(a * b))
    # Rank one, and therefore its own projection: the order of the entries has to be the right one.
    lone = np.outer([1.0, 2, 3], [1.0, 2, 3])
    np.testing.assert_allclose(onto_semidefinite(torch.tensor(svec(lone))[None], 3)[0], svec(lone), atol=1e-13)


@pytest.mark.parametrize("size", [1e-150, 1e-30, 1e30, 1e150])
@pytest.mark.parametrize("name", EXACT)
def test_projections_scale_with_their_points(name: str, size: float) -> None:
    points = points_of(EXACT[name].size, seed=4)
    scaled = EXACT[name].onto(points * size) / size
    torch.testing.assert_close(scaled, EXACT[name].onto(points), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------ exponential and power cones


def outside_exponential(points: np.ndarray) -> np.ndarray:
    """Least change, of a single entry or onto the face, that makes points members of the exponential cone."""
    x, y, z = np.asarray(points, dtype=float).T
    with np.errstate(all="ignore"):
        face = np.maximum.reduce([x, np.abs(y), -z, np.zeros_like(x)])
        left = np.where((y > 0) & (z > 0), np.maximum(x - y * (np.log(z) - np.log(y)), 0), np.inf)
        up = np.where(y > 0, np.maximum(np.exp(np.log(y) + x / y) - z, 0), np.inf)
    return np.fmin(face, np.fmin(left, up))


def outside_dual_exponential(points: np.ndarray) -> np.ndarray:
    u, v, w = np.asarray(points, dtype=float).T
    with np.errstate(all="ignore"):
        face = np.maximum.reduce([np.abs(u), -v, -w, np.zeros_like(u)])
        right = np.where((u < 0) & (w > 0), np.maximum(u * (1 + np.log(w) - np.log(-u)) - v, 0), np.inf)
        up = np.where(u < 0, np.maximum(np.exp(np.log(-u) + v / u - 1) - w, 0), np.inf)
    return np.fmin(face, np.fmin(right, up))


def outside_power(points: np.ndarray, exponent: float, dual: bool = False) -> np.ndarray:
    x, y, z = np.asarray(points, dtype=float).T
    x, y = (x / exponent, y / (1 - exponent)) if dual else (x, y)
    negative = np.maximum(np.maximum(-x, -y), 0)
    # The smallest number counts as zero: next to it the root of a power is large.
    most = np.maximum(x, 1e-300) ** exponent * np.maximum(y, 1e-300) ** (1 - exponent)
    return np.maximum(negative, np.maximum(np.abs(z) - most, 0))


@dataclass(frozen=True)
class Curved:
    """A three-dimensional cone, its dual, their tests, and what draws members of both."""

    into: Map
    into_dual: Map
    outside: Callable[[np.ndarray], np.ndarray]
    outside_dual: Callable[[np.ndarray], np.ndarray]
    members: Callable[[np.random.Generator, int], np.ndarray]
    dual_members: Callable[[np.random.Generator, int], np.ndarray]


def exponential_members(rng: np.random.Generator, count: int) -> np.ndarray:
    y = 10.0 ** rng.uniform(-2, 1, count)
    x = y * rng.uniform(-5, 5, count)
    curved = np.stack([x, y, y * np.exp(x / y) * (1 + np.where(rng.random(count) < 0.5, 0, rng.random(count)))], 1)
    face = np.stack([-rng.random(count), np.zeros(count), rng.random(count)], 1)
    return np.where(rng.random((count, 1)) < 0.8, curved, face)


def dual_exponential_members(rng: np.random.Generator, count: int) -> np.ndarray:
    u = -(10.0 ** rng.uniform(-2, 1, count))
    v = -u * rng.uniform(-5, 5, count)
    low = -u * np.exp(v / u - 1)
    curved = np.stack([u, v, low * (1 + np.where(rng.random(count) < 0.5, 0, rng.random(count)))], 1)
    face = np.stack([np.zeros(count), rng.random(count), rng.random(count)], 1)
    return np.where(rng.random((count, 1)) < 0.8, curved, face)


def power_members(exponent: float, dual: bool) -> Callable[[np.random.Generator, int], np.ndarray]:
    def drawn(rng: np.random.Generator, count: int) -> np.ndarray:
        x, y = 10.0 ** rng.uniform(-2, 2, (2, count)) * (rng.random((2, count)) < 0.9)
        share = np.where(rng.random(count) < 0.5, 1, rng.random(count)) * rng.choice([-1, 1], count)
        z = share * x**exponent * y ** (1 - exponent)
        return np.stack([exponent * x, (1 - exponent) * y, z] if dual else [x, y, z], 1)

    return drawn


def power_cone(exponent: float) -> Curved:
    tensor = torch.tensor([exponent], dtype=torch.float64)

    def into(points: Tensor, dual: bool) -> Tensor:
        return into_power(points[:, None], tensor, dual=dual)[:, 0]

    return Curved(
        lambda points: into(points, False), lambda points: into(points, True),
        lambda points: outside_power(points, exponent), lambda points: outside_power(points, exponent, dual=True),
        power_members(exponent, False), power_members(exponent, True),
    )  # fmt: skip


EXPONENTIAL = Curved(
    into_exponential, into_dual_exponential, outside_exponential, outside_dual_exponential,
    exponential_members, dual_exponential_members,
)  # fmt: skip
# Each cone and, with the roles exchanged, its dual.
CURVED: dict[str, Curved] = {}
for title, shape in ({"exponential": EXPONENTIAL} | {f"power {a}": power_cone(a) for a in EXPONENTS}).items():
    CURVED[title] = shape
    CURVED[f"dual {title}"] = replace(
        shape, into=shape.into_dual, into_dual=shape.into, outside=shape.outside_dual, outside_dual=shape.outside,
        members=shape.dual_members, dual_members=shape.members,
    )  # fmt: skip


def distances(points: Tensor, others: Tensor) -> np.ndarray:
    return (points - others).abs().amax(-1).numpy()


@pytest.mark.parametrize("name", CURVED)
def test_points_of_a_curved_cone_are_members_of_it(name: str) -> None:
    near = CURVED[name].into(points_of(3, count=500)).numpy()
    assert bool((CURVED[name].outside(near) <= ROUNDING * (1 + np.abs(near).max(1))).all())


@pytest.mark.parametrize("name", CURVED)
def test_members_stay_where_they_are(name: str) -> None:
    members = CURVED[name].members(np.random.default_rng(0), 500)
    assert bool((CURVED[name].outside(members) <= ROUNDING * (1 + np.abs(members).max(1))).all())
    moved = distances(CURVED[name].into(torch.tensor(members)), torch.tensor(members))
    assert bool((moved <= ROUNDING * (1 + np.abs(members).max(1))).all())


@pytest.mark.parametrize("name", CURVED)
def test_points_of_a_cone_and_of_its_dual_have_no_negative_product(name: str) -> None:
    first, second = CURVED[name].into(points_of(3)), CURVED[name].into_dual(points_of(3, seed=5))
    sizes = first.abs().sum(1)[:, None] * second.abs().sum(1)
    assert bool((first @ second.T >= -ROUNDING * (1 + sizes)).all())
    # The duals are not smaller than they have to be: some member is at a right angle to a curved one.
    members, duals = (torch.tensor(draw(np.random.default_rng(7), 2000))
                      for draw in (CURVED[name].members, CURVED[name].dual_members))  # fmt: skip
    cosines = (members @ duals.T) / (members.norm(dim=1)[:, None] * duals.norm(dim=1)).clamp_min(1e-12)
    assert bool((cosines >= -1e-12).all())
    assert float(cosines[:50].amin(1).median()) <= 0.02


@pytest.mark.parametrize("name", CURVED)
def test_a_distance_is_never_smaller_than_a_dual_member_shows(name: str) -> None:
    # For b in the dual cone <b, v> >= -|b|_1 times the largest change that makes v a member.
    points = points_of(3, seed=6, count=300)
    moved = distances(points, CURVED[name].into(points))
    duals = torch.tensor(CURVED[name].dual_members(np.random.default_rng(1), 3000))
    shown = -(points @ duals.T) / duals.abs().sum(1).clamp_min(1e-300)
    least = shown.amax(1).numpy()
    assert bool((moved >= least - ROUNDING * (1 + points.abs().amax(1).numpy())).all())
    assert int((least > 1e-3).sum()) >= 50


@pytest.mark.parametrize("size", [1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("name", CURVED)
def test_points_near_a_cone_are_found_near(name: str, size: float) -> None:
    rng = np.random.default_rng(2)
    members = CURVED[name].members(rng, 2000)
    # Where entries are of order one, so that the surface has a slope of order one.
    largest, smallest = np.abs(members).max(1), np.abs(members).min(1)
    members = members[(largest < 4) & (smallest > 0.25)]
    assert len(members) >= 20
    points = torch.tensor(members + size * rng.uniform(-1, 1, members.shape))
    assert float(distances(points, CURVED[name].into(points)).max()) <= 40 * size


@pytest.mark.parametrize("name", CURVED)
def test_no_change_of_a_single_entry_would_be_smaller(name: str) -> None:
    points = points_of(3, seed=9, count=500)
    if "power" in name:
        # The other two entries have to be right already.
        points[:, :2] = points[:, :2].abs()
    moved = distances(points, CURVED[name].into(points))
    assert bool((moved <= CURVED[name].outside(points.numpy()) * (1 + 1e-9) + 1e-12).all())


def test_near_the_edge_of_a_power_cone_the_first_entry_is_changed() -> None:
    # 1e-10 ^ 0.2 = 0.01, while the last entry would have to move by 0.01.
    point = torch.tensor([[0.0, 1.0, 0.01]], dtype=torch.float64)
    near = CURVED["power 0.2"].into(point)
    expected = torch.tensor([[1e-10, 1.0, 0.01]], dtype=torch.float64)
    torch.testing.assert_close(near, expected, rtol=1e-9, atol=0)


@cache
def reference(name: str) -> tuple[cp.Problem, cp.Parameter]:
    point, member = cp.Parameter(3), cp.Variable(3)
    x, y, z = member[0], member[1], member[2]
    cone: cp.Constraint
    if name == "exponential":
        cone = cp.ExpCone(x, y, z)
    elif name == "dual exponential":
        cone = cp.ExpCone(-y, -x, np.e * z)
    else:
        exponent = float(name.split()[-1])
        dual = name.startswith("dual")
        cone = cp.PowCone3D(x / exponent, y / (1 - exponent), z, exponent) if dual else cp.PowCone3D(x, y, z, exponent)
    return cp.Problem(cp.Minimize(cp.norm_inf(member - point)), [cone]), point


@pytest.mark.parametrize("name", ["exponential", "dual exponential", "power 0.2", "dual power 0.2", "power 0.9"])
def test_a_distance_is_never_smaller_than_the_one_of_a_solver(name: str) -> None:
    points = torch.tensor(np.random.default_rng(8).standard_normal((12, 3)))
    moved = distances(points, CURVED[name].into(points))
    problem, point = reference(name)
    for row, found in zip(points, moved, strict=True):
        point.value = row.numpy()
        least = problem.solve(solver="CLARABEL")
        assert found >= least - 1e-6
        assert found <= 4 * least + 1e-6


# ------------------------------------------------------------------------------------ extreme points


SIZES = (0.0, 5e-324, 1e-305, 1e-300, 1e-150, 1e-9, 1.0, 30.0, 1000.0, 1e9, 1e150, 1e300)
EXTREME = np.array(list(product([sign * size for size in SIZES for sign in (1, -1)], repeat=3)))


@pytest.mark.parametrize("name", CURVED)
def test_extreme_points_give_numbers_that_are_members(name: str) -> None:
    near = CURVED[name].into(torch.tensor(EXTREME)).numpy()
    assert bool(np.isfinite(near).all())
    # Below 1e-290 anything is rounding of zero.
    outside = CURVED[name].outside(near)
    wrong = outside > 1e-9 * np.abs(near).max(1) + 1e-290
    assert not wrong.any(), f"{int(wrong.sum())}, e.g. {EXTREME[wrong][0]} -> {near[wrong][0]}: {outside[wrong][0]}"


@pytest.mark.parametrize("point", [(1000.0, 1e-305, 1.0), (1000.0, 1e-300, 2e8), (1.0, 5e-324, 1.0)])
def test_a_tiny_middle_entry_makes_no_member_of_the_exponential_cone(point: tuple[float, ...]) -> None:
    points = torch.tensor([point], dtype=torch.float64)
    # On the cone x <= y log(z / y), which is next to zero.
    assert distances(points, into_exponential(points))[0] >= 0.05


@pytest.mark.parametrize("point", [(-1e-305, -1000.0, 1.0), (-1e-300, -1000.0, 2e8), (-5e-324, -1.0, 1.0)])
def test_a_tiny_first_entry_makes_no_member_of_the_dual_exponential_cone(point: tuple[float, ...]) -> None:
    points = torch.tensor([point], dtype=torch.float64)
    assert distances(points, into_dual_exponential(points))[0] >= 0.05


@settings(max_examples=300, deadline=None)
@given(st.tuples(*[st.floats(-1e6, 1e6, allow_subnormal=False)] * 3), st.sampled_from(list(CURVED)))
def test_any_point_gives_a_member_and_members_stay(point: tuple[float, float, float], name: str) -> None:
    near = CURVED[name].into(torch.tensor([point], dtype=torch.float64))
    assert float(CURVED[name].outside(near.numpy())[0]) <= 1e-9 * (1 + float(near.abs().max()))
    assert distances(CURVED[name].into(near), near)[0] <= 1e-9 * (1 + float(near.abs().max()))


# ------------------------------------------------------------------------------------ products of cones


MIXED = Cones(2, 3, (3, 3, 1, 4), (2, 2, 1, 3), 2, (0.5, 0.2))


def apart(cones: Cones, points: np.ndarray, dual: bool) -> np.ndarray:
    """One instance and one cone after the other."""
    pieces = [np.zeros_like(points[:, : cones.zero]) if not dual else points[:, : cones.zero]]
    first = cones.zero + cones.nonnegative
    pieces.append(np.maximum(points[:, cones.zero : first], 0))
    exponential = into_dual_exponential if dual else into_exponential
    maps: list[tuple[int, Map]] = [(size, onto_second_order) for size in cones.second_order]
    maps += [(k * (k + 1) // 2, partial(onto_semidefinite, order=k)) for k in cones.semidefinite]
    maps += [(3, exponential)] * cones.exponential
    maps += [(3, partial(into_power, exponents=torch.tensor(a), dual=dual)) for a in cones.power]
    for size, into in maps:
        pieces.append(np.stack([into(torch.tensor(row)).numpy() for row in points[:, first : first + size]]))
        first += size
    assert first == points.shape[1]
    return np.concatenate(pieces, axis=1)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dual", [False, True], ids=["cone", "dual cone"])
def test_cones_of_a_product_do_not_know_of_each_other(dual: bool, batch: int) -> None:
    points = np.random.default_rng(3).standard_normal((batch, MIXED.rows))
    given_points = torch.tensor(points)
    ours = (into_dual_cone if dual else into_cone)(given_points, MIXED)
    np.testing.assert_allclose(ours.numpy(), apart(MIXED, points, dual), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(given_points.numpy(), points)


def test_no_rows_and_equalities_alone() -> None:
    assert into_cone(torch.zeros(3, 0), Cones()).shape == (3, 0)
    points = torch.randn(3, 2)
    assert not into_cone(points, Cones(2)).any()
    assert torch.equal(into_dual_cone(points, Cones(2)), points)


KINDS = {
    "zero": Cones(3), "nonnegative": Cones(0, 3), "second-order": Cones(0, 0, (3,)),
    "semidefinite, 2": Cones(semidefinite=(2,)), "semidefinite, 3": Cones(semidefinite=(3,)),
    "exponential": Cones(exponential=1), "power": Cones(power=(0.3,)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_numbers_leaves_the_others_alone(kind: str) -> None:
    cones = KINDS[kind]
    points = torch.tensor(np.random.default_rng(4).standard_normal((3, cones.rows)))
    spoiled = points.clone()
    spoiled[1] = torch.nan
    for into in (into_cone, into_dual_cone):
        good, mixed = into(points, cones), into(spoiled, cones)
        assert torch.equal(mixed[[0, 2]], good[[0, 2]])


def test_lengths_that_overflow_are_no_missing_numbers() -> None:
    points = torch.tensor(EXTREME)
    for near in (onto_second_order(points), into_cone(points, Cones(0, 3))):
        assert not bool(near.isnan().any())
        assert bool((near[:, 0] >= 0).all())
