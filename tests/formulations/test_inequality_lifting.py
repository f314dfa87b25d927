"""Inequality lifting: intervals by brute force, blocks against Clarabel, and an objective that never rises."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from lifted_runs import ACTIVATIONS_BY_ENTRY, lifted_problem, run_sweeps, solve_model

from convexblocks.formulations import LOSSES, FenchelWeight, InequalityLifting, UsageError, activation
from convexblocks.formulations.catalogue import method
from convexblocks.formulations.inequality_blocks import BoxActivation, IntervalPreActivation, interval, interval_data
from convexblocks.solvers import agree, solve

GRID = np.linspace(-12, 12, 24001)
WITH_PARAMETERS = (*ACTIVATIONS_BY_ENTRY, "leaky_relu(0.3)", "clipped_relu(1.5)", "soft_shrink(0.2)")
SOFTMAX = "softmax"
KINDS = ("random", "ill-scaled", "degenerate")


# --------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("epsilon", [0.02, 0.4, 3.0])
@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_intervals_are_what_brute_force_finds(name: str, epsilon: float) -> None:
    phi, rng = activation(name), np.random.default_rng(0)
    a = phi.phi(rng.normal(size=40) * 2) + rng.uniform(-0.95, 0.95, 40) * epsilon
    for wanted, lower, upper in zip(a, *interval(phi, a, epsilon), strict=True):
        inside = np.abs(phi.phi(GRID) - wanted) <= epsilon
        by_ends = (lower <= GRID) & (upper >= GRID)
        # Points of the grid that lie on an end may fall on either side by rounding.
        off = inside != by_ends
        assert np.abs(np.abs(phi.phi(GRID[off]) - wanted) - epsilon).max(initial=0.0) < 1e-9


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_clipping_is_the_nearest_point_by_brute_force(name: str) -> None:
    phi, rng, epsilon = activation(name), np.random.default_rng(1), 0.3
    u = rng.normal(size=(1, 30)) * 2
    a = phi.phi(rng.normal(size=(1, 30)) * 2)
    block = IntervalPreActivation(width=30)
    found = solve(block, {"u": u, **interval_data(phi, a, epsilon)})
    assert found.engine == "clipping"
    for z, arriving, wanted in zip(found.variables["z"][0].numpy(), u[0], a[0], strict=True):
        inside = GRID[np.abs(phi.phi(GRID) - wanted) <= epsilon]
        assert abs(z - arriving) == pytest.approx(np.abs(inside - arriving).min(), abs=1.1e-3)


# --------------------------------------------------------------------------------------------- blocks


def interval_instances(kind: str, width: int = 5, batch: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    phi = activation("relu")
    scale = np.geomspace(1e-3, 1e2, width) if kind == "ill-scaled" else 1.0
    u, a = rng.normal(size=(batch, width)) * scale, phi.phi(rng.normal(size=(batch, width)) * scale)
    if kind == "degenerate":
        u[:, 0], a[:, :2] = 0.0, 0.0
    return {"u": u, **interval_data(phi, a, 0.1)}


def box_instances(kind: str, n: int, m: int, batch: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    W = rng.normal(size=(m, n))
    if kind == "ill-scaled":
        W = W * np.geomspace(1e-2, 1e1, n)
    if kind == "degenerate":
        W[:, 1], W[:, 2] = W[:, 0], 0.0
    return {"h": rng.normal(size=(batch, n)), "v": rng.normal(size=(batch, m)), "W": W, "b": rng.normal(size=m)}


@pytest.mark.parametrize("kind", KINDS)
def test_interval_block_agrees_with_clarabel(kind: str) -> None:
    agreement = agree(IntervalPreActivation(width=5), interval_instances(kind))
    assert agreement.agrees, str(agreement)


@pytest.mark.parametrize("epsilon", [1e-3, 0.3, 50.0])
@pytest.mark.parametrize("shape", [(5, 3), (4, 9)], ids=["wide", "tall"])
@pytest.mark.parametrize("kind", KINDS)
def test_box_block_agrees_with_clarabel(kind: str, shape: tuple[int, int], epsilon: float) -> None:
    n, m = shape
    block, data = BoxActivation(width=n, next_width=m, epsilon=epsilon), box_instances(kind, n, m)
    solution = solve(block, data, tolerance=1e-8)
    assert solution.engine == "clipping"
    assert solution.solved
    for row in range(len(data["h"])):
        wanted = solve_model(block, {**data, "h": data["h"][row], "v": data["v"][row]})
        sent = data["W"] @ solution.variables["x"][row].numpy() + data["b"]
        found = 0.5 * float(((sent - data["v"][row]) ** 2).sum())
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("singular", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("epsilon", [0.1, 3.0])
def test_boxes_are_solved_where_weights_are_nearly_singular(epsilon: float, singular: float) -> None:
    """Corners of the boxes that only small singular values decide, below what W'W resolves."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (4, 5))
    W = left @ np.diag([150.0, 90.0, 100 * singular, singular]) @ right[:4]
    data = {"h": rng.normal(size=(50, 5)), "v": rng.normal(size=(50, 4)) * 100, "W": W, "b": rng.normal(size=4)}
    block = BoxActivation(width=5, next_width=4, epsilon=epsilon)
    solution = solve(block, data, tolerance=1e-9)
    assert solution.solved
    for row in (0, 20, 40):
        wanted = solve_model(block, {**data, "h": data["h"][row], "v": data["v"][row]})
        sent = W @ solution.variables["x"][row].numpy() + data["b"]
        assert 0.5 * float(((sent - data["v"][row]) ** 2).sum()) == pytest.approx(wanted, rel=1e-6)


def test_residuals_of_the_box_block_see_wrong_answers() -> None:
    block = BoxActivation(width=5, next_width=3, epsilon=0.3)
    data = {name: torch.as_tensor(value) for name, value in box_instances("random", 5, 3).items()}
    good = solve(block, data).variables["x"]
    residuals = block.residuals({"x": good + 1.0}, data)
    assert float(residuals.primal.min()) > 0.3
    middle = block.residuals({"x": data["h"]}, data)
    excess = block.objective({"x": data["h"]}, data) - block.objective({"x": good}, data)
    assert bool((middle.gap * (1 + block.objective({"x": data["h"]}, data)) >= excess - 1e-9).all())
    assert float(middle.gap.min()) > 1e-4


RIDGES = {
    f"{samples} x {inputs}, {'bias' if bias else 'no bias'}, proximity {proximity:g}, {kind}": (
        samples, inputs, bias, proximity, kind
    )
    for samples, inputs in ((30, 6), (9, 40))
    for bias in (True, False)
    for proximity in (0.0, 0.7)
    for kind in KINDS
}  # fmt: skip


@pytest.mark.parametrize("case", RIDGES.values(), ids=RIDGES)
def test_ridge_is_the_optimum_of_the_model(case: tuple[int, int, bool, float, str]) -> None:
    """Normal equations of the program as cvxpy states it, to 1e-10; and Clarabel, to its own accuracy."""
    samples, inputs, bias, proximity, kind = case
    rng = np.random.default_rng(4)
    X, v = rng.normal(size=(samples, inputs)) + 1.0, rng.normal(size=(3, samples))
    if kind == "ill-scaled":
        X = X * np.geomspace(1e-2, 1e1, inputs)
    if kind == "degenerate":
        X[:, 1], X[:, 2] = X[:, 0], 0.0
    data = {"X": X, "v": v, "w_old": rng.normal(size=(3, inputs))} | ({"c_old": rng.normal(size=3)} if bias else {})
    block = FenchelWeight(
        samples=samples, inputs=inputs, activation="identity", multiplier=0.3, weight_decay=0.05, proximity=proximity,
        bias=bias,
    )  # fmt: skip
    solution = solve(block, data, engine="ridge")
    assert solution.solved
    tensors = {name: torch.as_tensor(value) for name, value in data.items()}
    slopes = block.gradient(solution.variables, tensors)
    assert max(float(slope.abs().max()) for slope in slopes.values()) < 1e-10
    w = solution.variables["w"][0].numpy()
    row = {name: value if name == "X" else value[0] for name, value in data.items()}
    solve_model(block, row)
    np.testing.assert_allclose(w, block.program().var_dict["w"].value, atol=2e-5)


def test_ridge_keeps_the_factor_of_unchanged_inputs_alone() -> None:
    from convexblocks.solvers.ridge import FACTORS

    X = torch.randn(8, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = {"X": X, "v": torch.ones(2, 8, dtype=torch.float64).cumsum(1), "w_old": torch.zeros(2, 20)}
    block = FenchelWeight(samples=8, inputs=20, activation="identity", weight_decay=0.1, proximity=0.0, bias=False)
    before = solve(block, data, engine="ridge").variables["w"]
    kept = FACTORS[X]
    solve(block, data, engine="ridge")
    assert FACTORS[X] is kept
    X.mul_(2.0)
    after = solve(block, data, engine="ridge").variables["w"]
    assert FACTORS[X] is not kept
    assert not torch.allclose(before, after)
    flat = FenchelWeight(samples=8, inputs=20, activation="identity", weight_decay=0.0, proximity=0.0, bias=False)
    with pytest.raises(UsageError, match="weight decay or a proximal term"):
        solve(flat, data, engine="ridge")


@pytest.mark.parametrize("block", [IntervalPreActivation(), BoxActivation()], ids=["interval", "box"])
def test_programs_are_disciplined(block: Any) -> None:
    assert block.program().is_dcp(dpp=True)
    assert "1811.04187" in block.show()


# --------------------------------------------------------------------------------------------- sweeps


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ACTIVATIONS_BY_ENTRY)
@pytest.mark.parametrize("steps", ["exact", "majorized"])
def test_the_objective_never_rises_at_a_fixed_epsilon(name: str, loss: str, steps: str) -> None:
    settings = InequalityLifting(multiplier=1.0, epsilon=0.5, decay=1.0, steps=steps, extrapolate=True)
    architecture, state = lifted_problem(name, loss, hidden=(6, 5))
    values = [np.inf]
    extrapolated = 0
    for _ in run_sweeps(settings, architecture, state, 12):
        values.append(settings.lifted_value(architecture, state))
        extrapolated += settings.figures(state)["extrapolation"] > 0
        for phi, z, a in zip(architecture.activations, state.pre_activations, state.activations, strict=False):
            assert float((phi.phi(z) - a).abs().max()) <= 0.5 + 1e-9
    falls = np.diff(values[1:])
    assert falls.max() <= 1e-7 * (1 + abs(values[1]))
    assert values[-1] < values[1]
    assert extrapolated


def test_a_rejected_extrapolation_is_done_again_from_the_point_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extrapolated point replaced by nonsense, the guard gives exactly the sweeps without extrapolation."""
    import convexblocks.formulations.inequality_lifting as module

    plain, guarded = (lifted_problem("relu", "softmax_cross_entropy", hidden=(6,)) for _ in range(2))
    settings = {"multiplier": 1.0, "epsilon": 0.1, "decay": 1.0}
    for _ in run_sweeps(InequalityLifting(**settings, extrapolate=False), *plain, 5):
        pass
    monkeypatch.setattr(module, "_beyond", lambda now, before, share: [1e3 * array + 1e3 for array in now])
    for _ in run_sweeps(InequalityLifting(**settings), *guarded, 5):
        pass
    for first, second in zip(plain[1].weights, guarded[1].weights, strict=True):
        assert torch.allclose(first, second, atol=1e-6)


def test_extrapolation_reaches_a_lower_objective_in_as_many_sweeps() -> None:
    ends = []
    for extrapolate in (False, True):
        settings = InequalityLifting(multiplier=1.0, epsilon=2.0, decay=1.0, extrapolate=extrapolate)
        architecture, state = lifted_problem("relu", "softmax_cross_entropy", hidden=(6,))
        for _ in run_sweeps(settings, architecture, state, 30):
            pass
        ends.append(settings.lifted_value(architecture, state))
    assert ends[1] < ends[0]


def test_the_schedule_of_epsilon() -> None:
    settings = InequalityLifting(epsilon=1.0, least_epsilon=0.2, decay=0.5)
    architecture, state = lifted_problem("tanh", "squared", hidden=(4,))
    seen = [settings.figures(state)["epsilon"] for _ in run_sweeps(settings, architecture, state, 4)]
    assert seen == [1.0, 0.5, 0.25, 0.2]
    assert settings.figures(state)["extrapolation"] == 0.0


@pytest.mark.parametrize("loss", LOSSES)
def test_feed_forward_points_cost_what_the_network_costs(loss: str) -> None:
    """So that the least lifted value is at most the training objective: a relaxation."""
    settings = InequalityLifting()
    architecture, state = lifted_problem("relu", loss, hidden=(5,))
    settings.start(architecture, state)
    wanted = float(architecture.loss.values(state.pre_activations[-1], state.targets).sum())
    wanted += architecture.weight_decay / 2 * sum(float((weight**2).sum()) for weight in state.weights)
    assert settings.lifted_value(architecture, state) == pytest.approx(wanted)
    assert settings.layer_gaps(architecture, state) == pytest.approx([0.0, 0.0], abs=1e-20)


REFUSED = {
    "decay": ({"decay": 1.5}, "decay is 1.5"),
    "epsilon": ({"epsilon": 0.0}, "epsilon is 0.0"),
    "least above": ({"epsilon": 0.1, "least_epsilon": 0.2}, "least_epsilon is 0.2, above epsilon"),
    "steps": ({"steps": "fast"}, "expected 'exact' or 'majorized'"),
    "extrapolate": ({"extrapolate": 1}, "extrapolate is 1"),
    "multiplier": ({"multiplier": -1.0}, "multiplier is -1"),
    "unknown": ({"rho": 1.0}, "no setting 'rho'"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        method("inequality", **settings)


def test_softmax_layers_are_refused() -> None:
    architecture, _ = lifted_problem(SOFTMAX, "squared", hidden=(4,))
    with pytest.raises(UsageError, match="'softmax' couples the units"):
        InequalityLifting().check(architecture)


def test_clarabel_finds_no_lower_point_of_a_block_sweep() -> None:
    """After a sweep's last block, the output, cvxpy finds the same output for one sample."""
    settings = InequalityLifting(multiplier=0.5, epsilon=0.3, decay=1.0)
    architecture, state = lifted_problem("relu", "softmax_cross_entropy", hidden=(5,))
    for _ in run_sweeps(settings, architecture, state, 2):
        pass
    arrives, y = state.sent(2)[0].numpy(), state.targets[0].numpy()
    z = cp.Variable(3)
    cp.Problem(cp.Minimize(cp.log_sum_exp(z) - y @ z + 0.25 * cp.sum_squares(z - arrives))).solve(cp.CLARABEL)
    np.testing.assert_allclose(z.value, state.pre_activations[-1][0].numpy(), atol=2e-3)
