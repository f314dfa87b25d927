"""The table of activations: its inequalities, derivatives and limits, for arrays and as cvxpy expressions."""

from __future__ import annotations

from math import e, exp, inf, log, pi, sqrt
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from instances import ALL, MODELLED, OTHER_PARAMETERS, QUADRATIC, UNMODELLED

from convexblocks.formulations import NoConvexModelError, UsageError, activation
from convexblocks.formulations.activations import Activation

ROWS = (*ALL, *OTHER_PARAMETERS)
MODELLED_ROWS = (*MODELLED, *OTHER_PARAMETERS)
ENTRYWISE = tuple(name for name in ROWS if name != "softmax")
SMOOTH = ("sigmoid", "tanh", "elu", "softsign", "exponential", "arctan", "probit")
KINKED = tuple(name for name in ENTRYWISE if name not in SMOOTH)

# Seeded, so that a run can be repeated; without deadline, because machines differ.
property_test = settings(deadline=None, derandomize=True, max_examples=60)

# exp grows out of every tolerance beyond this; the others are tried far out.
HIGHEST = {"exponential": 4.0}


def points(name: str, shape: tuple[int, ...] = (2, 3)) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, shape, elements=st.floats(-15, HIGHEST.get(name, 15), allow_subnormal=False))


def in_range(phi: Activation, raw: np.ndarray) -> np.ndarray:
    """A point of the closed range for any numbers, its ends included; for softmax vertices, too."""
    if phi.couples_units:
        weights = np.maximum(raw, 0) + (raw.max(-1, keepdims=True) <= 0)
        return weights / weights.sum(-1, keepdims=True)
    # Half of the points are values of phi, half are just clipped: these hit the ends of the range.
    return np.where(raw > 2, np.clip(raw, phi.low, phi.high), phi.phi(raw))


def plain_gap(phi: Activation, v: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gap straight from its definition, not clipped, and the size of what rounding can do to it."""
    first, second = phi.row_sum(phi.potential(u)), phi.row_sum(phi.conjugate(v))
    third = (u * v).sum(-1)
    return first + second - third, 1e-13 * (1 + abs(first) + abs(second) + abs(u * v).sum(-1))


# ------------------------------------------------------------------------------------ values by hand


BY_HAND = [
    # name, u, phi(u), Phi(u)
    ("identity", -3.0, -3.0, 4.5),
    ("relu", 3.0, 3.0, 4.5),
    ("relu", -3.0, 0.0, 0.0),
    ("leaky_relu", -2.0, -0.02, 0.02),
    ("leaky_relu(0.3)", -2.0, -0.6, 0.6),
    ("leaky_relu(0.3)", 2.0, 2.0, 2.0),
    ("clipped_relu", 8.0, 6.0, 30.0),
    ("clipped_relu(1.5)", 1.0, 1.0, 0.5),
    ("clipped_relu(1.5)", 3.0, 1.5, 3.375),
    ("hardtanh", -3.0, -1.0, 2.5),
    ("hardtanh", 0.5, 0.5, 0.125),
    ("soft_shrink", -2.0, -1.5, 1.125),
    ("soft_shrink(0.2)", 1.2, 1.0, 0.5),
    ("soft_shrink(0.2)", 0.1, 0.0, 0.0),
    ("sigmoid", 0.0, 0.5, log(2)),
    ("sigmoid", log(3), 0.75, log(4)),
    ("tanh", 0.0, 0.0, 0.0),
    ("tanh", log(3), 0.8, log(5 / 3)),
    ("elu", 2.0, 2.0, 2.0),
    ("elu", -1.0, 1 / e - 1, 1 / e),
    ("softsign", -3.0, -0.75, 3 - log(4)),
    ("exponential", 1.0, e, e),
    ("arctan", 1.0, pi / 4, pi / 4 - log(2) / 2),
    ("probit", 0.0, 0.5, 1 / sqrt(2 * pi)),
]

CONJUGATES_BY_HAND = [
    ("identity", -3.0, 4.5),
    ("relu", 2.0, 2.0),
    ("relu", -1e-9, inf),
    ("leaky_relu(0.3)", -0.6, 0.6),
    ("leaky_relu(0.3)", 2.0, 2.0),
    ("clipped_relu", 6.0, 18.0),
    ("clipped_relu", 6.1, inf),
    ("clipped_relu", -0.1, inf),
    ("hardtanh", -1.0, 0.5),
    ("hardtanh", 1.1, inf),
    ("hardtanh", -1.1, inf),
    ("soft_shrink", -2.0, 3.0),
    ("sigmoid", 0.5, -log(2)),
    ("sigmoid", 0.0, 0.0),
    ("sigmoid", 1.0, 0.0),
    ("sigmoid", 1.1, inf),
    ("sigmoid", -0.1, inf),
    ("tanh", 0.0, 0.0),
    ("tanh", 1.0, log(2)),
    ("tanh", -1.0, log(2)),
    ("tanh", 1.1, inf),
    ("tanh", -1.1, inf),
    ("elu", 2.0, 2.0),
    ("elu", -1.0, 1.0),
    ("elu", -0.5, 0.5 - log(2) / 2),
    ("elu", -1.1, inf),
    ("softsign", -0.5, log(2) - 0.5),
    ("softsign", 1.0, inf),
    ("softsign", -1.0, inf),
    ("softsign", 3.0, inf),
    ("exponential", 1.0, -1.0),
    ("exponential", 0.0, 0.0),
    ("exponential", -0.1, inf),
    ("arctan", pi / 4, log(2) / 2),
    ("arctan", 1.6, inf),
    ("arctan", -1.6, inf),
    ("probit", 0.5, -1 / sqrt(2 * pi)),
    ("probit", 0.0, 0.0),
    ("probit", 1.0, 0.0),
    ("probit", 1.1, inf),
    ("probit", -0.1, inf),
]


@pytest.mark.parametrize(("name", "u", "value", "potential"), BY_HAND)
def test_values_by_hand(name: str, u: float, value: float, potential: float) -> None:
    phi = activation(name)
    assert phi.phi(np.array([u]))[0] == pytest.approx(value, abs=1e-14)
    assert phi.potential(np.array([u]))[0] == pytest.approx(potential, abs=1e-14)


@pytest.mark.parametrize(("name", "v", "expected"), CONJUGATES_BY_HAND)
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_conjugates_by_hand_and_infinite_outside_the_domain(
    name: str, v: float, expected: float, library: str, precision: str
) -> None:
    array = np.array([v], precision) if library == "numpy" else torch.tensor([v], dtype=getattr(torch, precision))
    seen = float(activation(name).conjugate(array)[0])
    assert seen == pytest.approx(expected, rel=1e-13 if precision == "float64" else 1e-5, abs=1e-14)


def test_softmax_by_hand() -> None:
    phi = activation("softmax")
    u = np.log([[1.0, 2.0, 5.0]])
    np.testing.assert_allclose(phi.phi(u), [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-14)
    np.testing.assert_allclose(phi.potential(u), [log(8)], rtol=1e-14)
    np.testing.assert_allclose(phi.conjugate(np.array([[0.5, 0.5, 0.0]])), [-log(2)], rtol=1e-14)
    outside = np.array([[0.5, 0.6, 0.0], [-0.1, 0.6, 0.5], [0.2, 0.2, 0.2]])
    assert (phi.conjugate(outside) == inf).all()


@pytest.mark.parametrize("name", ["identity", "leaky_relu", "soft_shrink"])
def test_activations_onto_the_whole_line_have_a_finite_conjugate_everywhere(name: str) -> None:
    assert np.isfinite(activation(name).conjugate(np.array([-1e6, -1.0, 0.0, 1.0, 1e6]))).all()


# ------------------------------------------------------------------------------------ inequalities


@pytest.mark.parametrize("name", ROWS)
@property_test
@given(data=st.data())
def test_p1_gap_is_never_negative_and_is_its_definition(name: str, data: st.DataObject) -> None:
    phi = activation(name)
    u, v = data.draw(points(name)), in_range(phi, data.draw(points(name)))
    plain, rounding = plain_gap(phi, v, u)
    assert (plain >= -rounding).all()
    np.testing.assert_array_equal(phi.gap(v, u), np.maximum(plain, 0))


@pytest.mark.parametrize("name", ROWS)
@property_test
@given(data=st.data())
def test_p1_gap_vanishes_at_the_activation(name: str, data: st.DataObject) -> None:
    # The same fact as Fenchel-Young equality, Phi(u) + Phi*(phi(u)) = <u, phi(u)>.
    phi = activation(name)
    u = data.draw(points(name))
    plain, rounding = plain_gap(phi, phi.phi(u), u)
    assert (abs(plain) <= rounding).all()


@pytest.mark.parametrize("name", ROWS)
@property_test
@given(data=st.data())
def test_p3_gap_bounds_the_squared_distance_to_the_activation(name: str, data: st.DataObject) -> None:
    phi = activation(name)
    u, w = data.draw(points(name)), data.draw(points(name))
    # exp has no bounded slope; between u and w its slope is at most that of the larger one.
    v = phi.phi(w) if name == "exponential" else in_range(phi, w)
    steepest = np.exp(np.maximum(u, w)) if name == "exponential" else phi.slopes[1]
    plain, rounding = plain_gap(phi, v, u)
    assert (plain >= ((v - phi.phi(u)) ** 2 / (2 * steepest)).sum(-1) - rounding).all()


@pytest.mark.parametrize("name", [name for name in ROWS if activation(name).slopes[0] > 0])
@property_test
@given(data=st.data())
def test_p4_gap_of_a_strongly_increasing_activation_is_bounded_by_the_squared_distance(
    name: str, data: st.DataObject
) -> None:
    phi = activation(name)
    u, v = data.draw(points(name)), data.draw(points(name))
    plain, rounding = plain_gap(phi, v, u)
    assert (plain <= ((v - phi.phi(u)) ** 2).sum(-1) / (2 * phi.slopes[0]) + rounding).all()


def test_p4_speaks_of_the_strongly_increasing_rows() -> None:
    assert {name for name in ROWS if activation(name).slopes[0] > 0} == {
        "identity", "leaky_relu", "leaky_relu(0.3)", "leaky_relu(1)",
    }  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_gap_is_above_zero_away_from_the_activation(name: str) -> None:
    phi = activation(name)
    u = np.random.default_rng(0).uniform(-2, 2, (50, 3))
    v = phi.phi(u[::-1])
    assert (phi.gap(v, u)[abs(v - phi.phi(u)).max(-1) > 1e-3] > 1e-9).all()


# ------------------------------------------------------------------------------------ derivatives


def difference(function: Any, at: np.ndarray, entry: int, step: float) -> np.ndarray:
    """Central difference of one number per row, in one entry of the row."""
    shift = np.zeros_like(at)
    shift[:, entry] = step
    return (function(at + shift) - function(at - shift)) / (2 * step)


@pytest.mark.parametrize("name", ROWS)
@property_test
@given(data=st.data())
def test_p2_gradients_of_the_potential_and_of_the_gap_in_u(name: str, data: st.DataObject) -> None:
    phi = activation(name)
    u, v = data.draw(points(name)), in_range(phi, data.draw(points(name)))
    # A point where Phi* is infinite has no gradient (softsign at the end of its range).
    assume(np.isfinite(phi.conjugate(v)).all())
    expected = phi.phi(u)
    size = 1 + abs(u).max() * (1 + abs(v).max()) + abs(phi.potential(u)).max() + abs(phi.conjugate(v)).max()
    for entry in range(u.shape[1]):
        slope = difference(lambda at: phi.row_sum(phi.potential(at)), u, entry, 1e-5)
        np.testing.assert_allclose(slope, expected[:, entry], rtol=1e-5, atol=1e-9 * size + 1e-5)
        change = difference(lambda at: plain_gap(phi, v, at)[0], u, entry, 1e-5)
        np.testing.assert_allclose(change, expected[:, entry] - v[:, entry], rtol=1e-5, atol=1e-9 * size + 1e-5)


@pytest.mark.parametrize("name", SMOOTH)
@property_test
@given(data=st.data())
def test_p2_gradient_of_the_conjugate_is_the_inverse_activation(name: str, data: st.DataObject) -> None:
    phi = activation(name)
    u = data.draw(arrays(np.float64, (2, 3), elements=st.floats(-2, 2)))
    v = phi.phi(u)
    for entry in range(u.shape[1]):
        slope = difference(lambda at: phi.row_sum(phi.conjugate(at)), v, entry, 1e-6)
        np.testing.assert_allclose(slope, u[:, entry], atol=1e-5)


def kinks(phi: Activation) -> tuple[float, ...]:
    level = phi.parameter or 0.0
    known = {"relu": (0,), "leaky_relu": (0,), "clipped_relu": (0, level), "hardtanh": (-1, 1)}
    return {**known, "soft_shrink": (-level, level)}.get(phi.name, ())


@pytest.mark.parametrize("name", ENTRYWISE)
@property_test
@given(data=st.data())
def test_slope_is_the_derivative_away_from_kinks(name: str, data: st.DataObject) -> None:
    phi = activation(name)
    u = data.draw(points(name, (4,)))
    # Moved off the kinks: filtering them out would discard most of what hypothesis likes to draw.
    for kink in kinks(phi):
        u = np.where(abs(u - kink) < 1e-3, kink + 0.01, u)
    numeric = (phi.phi(u + 1e-5) - phi.phi(u - 1e-5)) / 2e-5
    # atol: ELU is smooth with a jump of its second derivative, which the difference sees.
    np.testing.assert_allclose(phi.slope(u), numeric, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", KINKED)
def test_slope_at_a_kink_lies_between_the_slopes_on_both_sides(name: str) -> None:
    phi = activation(name)
    for kink in kinks(phi):
        left, at, right = phi.slope(np.array([kink - 1e-6, kink, kink + 1e-6]))
        assert min(left, right) <= at <= max(left, right)


@pytest.mark.parametrize("name", ENTRYWISE)
def test_slopes_are_the_smallest_and_the_largest_slope(name: str) -> None:
    phi = activation(name)
    least, most = phi.slopes
    # An even number of steps: 0, where the smooth ones are steepest, is among the points.
    slope = phi.slope(np.linspace(-700 if most == inf else -60, 700 if most == inf else 60, 4001))
    assert slope.min() >= least
    assert slope.max() <= most * (1 + 1e-15)
    if name != "soft_shrink(0)":  # the identity as a limit: 0 is then a bound that is not reached
        assert slope.min() == pytest.approx(least, abs=1e-3)
    assert slope.max() > 1e300 if most == inf else slope.max() == pytest.approx(most, rel=1e-6)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_largest_slope_of_softmax_is_the_largest_curvature_of_its_potential(size: int) -> None:
    # diag(p) - p p' has norm at most 1/2, reached where two entries share all the weight.
    phi = activation("softmax")
    rng = np.random.default_rng(size)
    for scale in (0.1, 1.0, 10.0):
        p = phi.phi(scale * rng.standard_normal((1, size)))[0]
        assert np.linalg.eigvalsh(np.diag(p) - np.outer(p, p)).max() <= phi.slopes[1] + 1e-15
    p = phi.phi(np.array([[0.0, 0.0, *[-60.0] * (size - 2)]]))[0]
    assert np.linalg.eigvalsh(np.diag(p) - np.outer(p, p)).max() == pytest.approx(phi.slopes[1])


@pytest.mark.parametrize("name", ["softmax", "tanh", "leaky_relu(0.3)"])
@property_test
@given(data=st.data())
def test_jacobian_is_the_directional_derivative(name: str, data: st.DataObject) -> None:
    phi = activation(name)
    u = data.draw(arrays(np.float64, (2, 4), elements=st.floats(-5, 5)))
    d = data.draw(arrays(np.float64, (2, 4), elements=st.floats(-2, 2)))
    u = np.where(abs(u) < 1e-3, 1e-3, u)  # away from the kink of leaky ReLU
    numeric = (phi.phi(u + 1e-5 * d) - phi.phi(u - 1e-5 * d)) / 2e-5
    np.testing.assert_allclose(phi.jacobian(u)(d), numeric, atol=1e-8)


def test_jacobian_of_softmax_is_symmetric_and_blind_to_constants() -> None:
    phi, rng = activation("softmax"), np.random.default_rng(1)
    u = rng.standard_normal((3, 5))
    matrix = np.stack([phi.jacobian(u)(np.tile(unit, (3, 1))) for unit in np.eye(5)], -1)
    np.testing.assert_allclose(matrix, matrix.transpose(0, 2, 1), atol=1e-16)
    np.testing.assert_allclose(phi.jacobian(u)(np.ones((3, 5))), 0, atol=1e-16)


# ------------------------------------------------------------------------------------ range


@pytest.mark.parametrize("name", ROWS)
@property_test
@given(data=st.data())
def test_activations_lie_in_their_range_and_are_their_own_projection(name: str, data: st.DataObject) -> None:
    phi = activation(name)
    v = phi.phi(data.draw(points(name)))
    assert (v >= phi.low).all()
    assert (v <= phi.high).all()
    assert (phi.violation(v) <= 1e-15).all()
    np.testing.assert_allclose(phi.project(v), v, rtol=1e-15)


@pytest.mark.parametrize("name", ENTRYWISE)
def test_ends_of_the_range_are_tight(name: str) -> None:
    phi = activation(name)
    far = np.array([-700.0, 700.0])
    for value, end in zip(phi.phi(far), (phi.low, phi.high), strict=True):
        assert abs(value) > 5 if abs(end) == inf else value == pytest.approx(end, abs=2e-3)


@pytest.mark.parametrize("name", ENTRYWISE)
@property_test
@given(data=st.data())
def test_projection_is_the_nearest_point_of_the_range(name: str, data: st.DataObject) -> None:
    phi = activation(name)
    v = data.draw(points(name))
    projected = phi.project(v)
    assert (projected >= phi.low).all()
    assert (projected <= phi.high).all()
    assert (phi.violation(projected) == 0).all()
    np.testing.assert_array_equal(phi.violation(v), abs(v - projected).max(-1))


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [-1.0, -2.0, -0.5]])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_projection_of_softmax_is_a_point_of_the_simplex_also_where_no_entry_is_positive(
    row: list[float], library: str
) -> None:
    v = np.array([row]) if library == "numpy" else torch.tensor([row], dtype=torch.float64)
    projected = np.asarray(activation("softmax").project(v))
    assert (projected >= 0).all()
    assert projected.sum() == pytest.approx(1)


def test_projection_of_softmax_rescales_to_the_simplex() -> None:
    phi = activation("softmax")
    projected = phi.project(np.array([[0.5, -0.1, 0.3], [0.2, 0.2, 0.4]]))
    np.testing.assert_allclose(projected, [[0.625, 0, 0.375], [0.25, 0.25, 0.5]], rtol=1e-15)


VIOLATIONS = [
    ("identity", [-9.0, 9.0], 0.0),
    ("relu", [-0.3, 2.0], 0.3),
    ("clipped_relu", [-0.3, 7.0], 1.0),
    ("hardtanh", [-1.5, 1.25], 0.5),
    ("sigmoid", [-0.25, 1.0], 0.25),
    ("elu", [-1.5, 9.0], 0.5),
    ("exponential", [-0.5, 9.0], 0.5),
    ("softmax", [0.5, 0.75], 0.25),
    ("softmax", [-0.5, 1.5], 0.5),
    ("softmax", [0.25, 0.5], 0.25),
    ("softmax", [0.25, 0.75], 0.0),
]


@pytest.mark.parametrize(("name", "v", "expected"), VIOLATIONS)
def test_violations_by_hand(name: str, v: list[float], expected: float) -> None:
    assert activation(name).violation(np.array([v]))[0] == expected


# ------------------------------------------------------------------------------------ the proximal map


WITH_SHRINK = (*QUADRATIC, *OTHER_PARAMETERS)


def test_closed_form_proximal_maps_are_those_of_the_piecewise_linear_activations() -> None:
    assert {name for name in ROWS if activation(name).shrink} == set(WITH_SHRINK)


@pytest.mark.parametrize("name", WITH_SHRINK)
@property_test
@given(c=st.floats(-20, 20), s=st.floats(0, 50))
def test_shrink_solves_its_equation(name: str, c: float, s: float) -> None:
    # phi^{-1}(x) + s x = c means x = phi(c - s x), and phi is nondecreasing: at most one x does it.
    phi = activation(name)
    assert phi.shrink is not None
    x = phi.shrink(np.array([[c]]), s)
    np.testing.assert_allclose(x, phi.phi(c - s * x), atol=1e-13 * (1 + abs(c)) * (1 + s))


@pytest.mark.parametrize("name", WITH_SHRINK)
@pytest.mark.parametrize("s", [0.0, 0.5, 4.0])
def test_shrink_minimizes_over_a_grid(name: str, s: float) -> None:
    phi = activation(name)
    assert phi.shrink is not None
    grid = np.linspace(-12, 12, 24_001)
    for c in (-7.0, -0.4, 0.0, 0.3, 1.1, 8.0):
        with np.errstate(invalid="raise"):
            costs = phi.conjugate(grid) + s / 2 * grid**2 - c * grid
        found = float(phi.shrink(np.array([c]), s)[0])
        assert found == pytest.approx(grid[np.argmin(costs)], abs=1e-3)


# ------------------------------------------------------------------------------------ the two libraries


FUNCTIONS = ("phi", "potential", "conjugate", "slope", "project", "violation")


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_numpy_and_torch_agree(name: str, function: str) -> None:
    phi, rng = activation(name), np.random.default_rng(0)
    argument = np.vstack([rng.uniform(-4, 4, (40, 3)), np.zeros((1, 3)), rng.uniform(-30, 30, (5, 3))])
    if function == "conjugate":
        argument = np.vstack([phi.phi(argument), argument])  # inside the domain, and mostly outside
    if name == "softmax" and function == "project":
        argument = abs(argument) + 0.1  # rows without a positive entry have a test of their own
    numpy_value = getattr(phi, function)(argument)
    torch_value = getattr(phi, function)(torch.tensor(argument))
    assert numpy_value.dtype == np.float64
    assert torch_value.dtype == torch.float64
    np.testing.assert_allclose(torch_value.numpy(), numpy_value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ROWS)
def test_numpy_and_torch_agree_on_gap_jacobian_and_shrink(name: str) -> None:
    phi, rng = activation(name), np.random.default_rng(0)
    u, w, d = rng.uniform(-4, 4, (3, 40, 3))
    v = phi.phi(w)
    tensors = [torch.tensor(array) for array in (u, v, d)]
    np.testing.assert_allclose(phi.gap(tensors[1], tensors[0]).numpy(), phi.gap(v, u), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(phi.jacobian(tensors[0])(tensors[2]).numpy(), phi.jacobian(u)(d), atol=1e-13)
    if phi.shrink:
        np.testing.assert_allclose(phi.shrink(tensors[0], 0.7).numpy(), phi.shrink(u, 0.7), atol=1e-15)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_single_precision_stays_single_precision(name: str, library: str) -> None:
    phi, rng = activation(name), np.random.default_rng(0)
    wide = rng.uniform(-3, 3, (200, 5))
    narrow = wide.astype(np.float32)
    u = narrow if library == "numpy" else torch.tensor(narrow)
    v = phi.phi(u)
    seen = {
        "phi": v,
        "potential": phi.potential(u),
        "conjugate": phi.conjugate(v),
        "slope": phi.slope(u),
        "project": phi.project(abs(u)),
        "violation": phi.violation(u),
        "gap": phi.gap(v, u),
        "jacobian": phi.jacobian(u)(u),
    }
    if phi.shrink:
        seen["shrink"] = phi.shrink(u, 0.5)
    assert {name: value.dtype for name, value in seen.items() if value.dtype != u.dtype} == {}
    np.testing.assert_allclose(np.asarray(seen["phi"]), phi.phi(wide), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.asarray(seen["potential"]), phi.potential(wide), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_gap_vanishes_at_the_activation_in_single_precision(name: str, library: str) -> None:
    # Networks are float32 by default: a forward pass there must not look infinitely far from itself.
    phi = activation(name)
    narrow = np.random.default_rng(0).uniform(-3, 3, (200, 5)).astype(np.float32)
    u = narrow if library == "numpy" else torch.tensor(narrow)
    assert float(phi.gap(phi.phi(u), u).max()) < 1e-4


# ------------------------------------------------------------------------------------ flags and extremes


@pytest.mark.parametrize("name", ALL)
def test_homogeneous_says_whether_phi_commutes_with_positive_factors(name: str) -> None:
    phi = activation(name)
    u = np.random.default_rng(0).uniform(-4, 4, (30, 3))
    commutes = all(np.allclose(phi.phi(t * u), t * phi.phi(u), rtol=1e-13) for t in (0.2, 3.0))
    assert phi.homogeneous == commutes


EXTREMES = np.array([[-700.0, 0.0, 700.0], [-50.0, -700.0, -700.0], [300.0, 700.0, 700.0], [40.0, -40.0, 0.0]])


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_extreme_arguments_give_finite_numbers_and_no_warning(name: str, library: str) -> None:
    phi = activation(name)
    u = EXTREMES if library == "numpy" else torch.tensor(EXTREMES)
    v = phi.phi(u)
    for value in (v, phi.potential(u), phi.conjugate(v), phi.slope(u), phi.project(v), phi.violation(u), phi.gap(v, u)):
        assert bool(np.isfinite(np.asarray(value)).all())
    if name != "exponential":  # e^700 leaves no digit for a difference
        rounding = 1e-12 * (1 + abs(np.asarray(u * v)).sum(-1))
        assert (np.asarray(phi.gap(v, u)) <= rounding).all()


@pytest.mark.parametrize(
    ("name", "u", "expected"),
    [
        ("sigmoid", -700.0, exp(-700)),
        ("sigmoid", 700.0, exp(-700)),
        ("tanh", 40.0, 4 * exp(-80)),
        ("tanh", -40.0, 4 * exp(-80)),
        ("elu", -300.0, exp(-300)),
        ("probit", 30.0, exp(-450) / sqrt(2 * pi)),
    ],
)
def test_slopes_keep_their_relative_accuracy_where_units_saturate(name: str, u: float, expected: float) -> None:
    assert activation(name).slope(np.array([u]))[0] == pytest.approx(expected, rel=1e-12)
    assert float(activation(name).slope(torch.tensor([u], dtype=torch.float64))[0]) == pytest.approx(
        expected, rel=1e-12
    )


def test_softmax_is_blind_to_a_common_shift() -> None:
    phi = activation("softmax")
    u = np.array([[1.0, -2.0, 0.5]])
    np.testing.assert_allclose(phi.phi(u + 600), phi.phi(u), rtol=1e-12)
    np.testing.assert_allclose(phi.potential(u + 600), phi.potential(u) + 600, rtol=1e-14)


# ------------------------------------------------------------------------------------ cvxpy forms


def completed(term: Any) -> float:
    """Value of a model term, its auxiliary variables being tight; its constraints must then hold."""
    for variable, tight in term.completions:
        variable.value = tight()
    assert all(float(np.max(c.violation(), initial=0.0)) <= 1e-12 for c in term.constraints)
    return float(term.expression.value)


@pytest.mark.parametrize("name", MODELLED_ROWS)
@pytest.mark.parametrize("shape", [(5,), (4, 3), (1, 3), (3, 1)])
def test_models_have_the_values_of_the_arrays(name: str, shape: tuple[int, ...]) -> None:
    phi, rng = activation(name), np.random.default_rng(0)
    for _ in range(3):
        u = rng.uniform(-3, 8 if name != "exponential" else 3, shape)
        v = phi.phi(rng.uniform(-3, 3, shape))
        U, V = cp.Variable(shape, value=u), cp.Variable(shape, value=v)
        assert completed(phi.model_potential(U)) == pytest.approx(float(phi.potential(u).sum()), rel=1e-12, abs=1e-12)
        assert completed(phi.model_conjugate(V)) == pytest.approx(float(phi.conjugate(v).sum()), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", MODELLED_ROWS)
@pytest.mark.parametrize("shape", [(5,), (4, 3)])
def test_models_are_convex(name: str, shape: tuple[int, ...]) -> None:
    phi, x = activation(name), cp.Variable(shape)
    for term in (phi.model_potential(x), phi.model_conjugate(x)):
        assert term.expression.is_scalar()
        assert term.expression.is_convex()
        assert cp.Problem(cp.Minimize(term.expression), list(term.constraints)).is_dcp(dpp=True)
        assert all(constraint.label for constraint in term.constraints)


@pytest.mark.parametrize("name", QUADRATIC)
def test_models_of_the_piecewise_linear_activations_are_quadratic_programs(name: str) -> None:
    phi, x = activation(name), cp.Variable(3)
    for term in (phi.model_potential(x), phi.model_conjugate(x)):
        problem = cp.Problem(cp.Minimize(term.expression), list(term.constraints))
        dims = problem.get_problem_data("CLARABEL")[0]["dims"]
        assert (dims.soc, dims.exp, dims.psd) == ([], 0, [])


OUTSIDE = [
    ("relu", -0.5), ("clipped_relu", -0.5), ("clipped_relu", 6.5), ("hardtanh", 1.5), ("hardtanh", -1.5),
    ("sigmoid", -0.5), ("sigmoid", 1.5), ("tanh", 1.5), ("tanh", -1.5), ("softmax", 0.9), ("softmax", -0.5),
    ("elu", -1.5), ("softsign", 1.5), ("softsign", -1.5), ("exponential", -0.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "entry"), OUTSIDE)
def test_models_refuse_points_outside_the_domain(name: str, entry: float) -> None:
    # Either a constraint is violated, or the expression is infinite there.
    V = cp.Variable(3, value=np.full(3, entry))
    term = activation(name).model_conjugate(V)
    for variable, tight in term.completions:
        variable.value = tight()
    violated = max((float(np.max(c.violation(), initial=0.0)) for c in term.constraints), default=0.0)
    with np.errstate(invalid="ignore"):
        value = float(term.expression.value)
    assert violated > 0.1 or not value < inf


@pytest.mark.parametrize("name", ["elu", "softsign"])
@pytest.mark.parametrize("which", ["potential", "conjugate"])
def test_models_with_an_auxiliary_variable_are_exact(name: str, which: str) -> None:
    # Minimizing over the auxiliary variable alone must give the function itself.
    phi = activation(name)
    argument = np.array([-0.9, -0.3, 0.0, 0.4, 0.8])
    fixed = cp.Constant(argument)
    term = phi.model_potential(fixed) if which == "potential" else phi.model_conjugate(fixed)
    problem = cp.Problem(cp.Minimize(term.expression), list(term.constraints))
    optimum = problem.solve(solver=cp.CLARABEL)
    assert optimum == pytest.approx(float(getattr(phi, which)(argument).sum()), abs=1e-6)


@pytest.mark.parametrize("name", UNMODELLED)
def test_activations_without_a_model_say_why_and_what_else_to_take(name: str) -> None:
    phi = activation(name)
    assert not phi.has_model
    for ask in (phi.model_potential, phi.model_conjugate):
        with pytest.raises(NoConvexModelError, match=r"composition of cvxpy atoms.*'tanh' or 'sigmoid'") as seen:
            ask(cp.Variable(3))
        assert repr(name) in str(seen.value)
        assert isinstance(seen.value, UsageError)


def test_which_activations_have_no_model() -> None:
    assert set(UNMODELLED) == {"arctan", "probit"}
    assert len(ALL) == 14


# ------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("name", ALL)
def test_every_name_finds_its_row(name: str) -> None:
    assert activation(name).name == name
    assert activation(f"  {name} ").name == name
    row = activation(name)
    assert activation(row) is row


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("leaky_relu", 0.01),
        ("leaky_relu(0.1)", 0.1),
        ("leaky_relu ( 1e-3 )", 1e-3),
        ("leaky_relu(1)", 1.0),
        ("clipped_relu", 6.0),
        ("clipped_relu(2.5)", 2.5),
        ("clipped_relu(1e+6)", 1e6),
        ("soft_shrink", 0.5),
        ("soft_shrink(0)", 0.0),
    ],
)
def test_parameters_are_read(text: str, parameter: float) -> None:
    assert activation(text).parameter == parameter


@pytest.mark.parametrize("name", ROWS)
def test_labels_of_the_table_read_back(name: str) -> None:
    row = activation(name)
    assert activation(row.label).name == row.name
    assert activation(row.label).parameter == row.parameter


@property_test
@given(slope=st.floats(1e-6, 1))
def test_label_keeps_the_whole_parameter(slope: float) -> None:
    # A saved network is rebuilt from its labels: a rounded slope would be another network.
    row = activation(f"leaky_relu({slope!r})")
    assert row.parameter == slope
    assert activation(row.label).parameter == slope


@pytest.mark.parametrize("text", ["swish", "", "ReLU", "relu relu", "42", "gelu(1)"])
def test_unknown_names_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match="unknown activation") as seen:
        activation(text)
    assert repr(text) in str(seen.value)
    assert all(name in str(seen.value) for name in ALL)


@pytest.mark.parametrize("text", ["relu(0.1)", "tanh(2)", "softmax(1)"])
def test_parameter_where_there_is_none_is_refused(text: str) -> None:
    name = text.partition("(")[0]
    with pytest.raises(UsageError, match=f"'{name}' has no parameter.*write '{name}'"):
        activation(text)


@pytest.mark.parametrize("text", ["leaky_relu(1e)", "leaky_relu(1.2.3)", "clipped_relu(--1)", "soft_shrink(e)"])
def test_numbers_that_cannot_be_read_are_refused(text: str) -> None:
    name = text.partition("(")[0]
    with pytest.raises(UsageError, match=f"not a number; write e.g. '{name}"):
        activation(text)


@pytest.mark.parametrize("text", ["leaky_relu(abc)", "leaky_relu(nan)", "clipped_relu()", "soft_shrink(0,5)"])
def test_a_bad_parameter_of_a_known_activation_is_not_called_an_unknown_activation(text: str) -> None:
    with pytest.raises(UsageError) as seen:
        activation(text)
    assert "unknown activation" not in str(seen.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("leaky_relu(0)", "0 < slope <= 1, not 0"),
        ("leaky_relu(-0.1)", "0 < slope <= 1, not -0.1"),
        ("leaky_relu(1.5)", "0 < slope <= 1, not 1.5"),
        ("clipped_relu(0)", "level > 0, not 0"),
        ("clipped_relu(-1)", "level > 0, not -1"),
        ("soft_shrink(-0.5)", "threshold >= 0, not -0.5"),
    ],
)
def test_parameters_out_of_range_are_refused(text: str, expected: str) -> None:
    with pytest.raises(UsageError) as seen:
        activation(text)
    assert expected in str(seen.value)
    assert repr(text.partition("(")[0]) in str(seen.value)


@pytest.mark.parametrize("text", ["clipped_relu(1e999)", "soft_shrink(1e999)"])
def test_infinite_parameters_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        activation(text)
