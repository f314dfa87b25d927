"""Cases in which an answer once looked solved, or a run once looked finished, and was not."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from convexblocks.formulations import (
    FenchelActivation,
    FenchelLifting,
    FenchelWeight,
    Subproblem,
    Symbol,
    UsageError,
)
from convexblocks.solvers import Status, agree, build_network, fit, solve
from convexblocks.solvers import audit as audit_module
from convexblocks.solvers.solution import Solution


def weight_data(block: FenchelWeight, X: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    data = {"X": X, "v": v[None], "w_old": np.zeros((1, X.shape[1]))}
    return data | ({"c_old": np.zeros(1)} if block.bias else {})


@pytest.mark.parametrize("loss", ["logistic", "squared"])
@pytest.mark.parametrize("weight_decay", [1e-3, 0.0])
def test_a_huge_feature_does_not_make_a_start_look_solved(loss: str, weight_decay: float) -> None:
    # Nothing bounds the gap without curvature on the bias: the relative gradient decides, feature by feature.
    rng = np.random.default_rng(0)
    X = np.column_stack([1e6 * rng.choice([-1.0, 1.0], 200), rng.normal(size=200)])
    target = X[:, 1] + 0.5 * rng.normal(size=200)
    v = (target > 0).astype(float) if loss == "logistic" else target
    block = FenchelWeight(samples=200, inputs=2, loss=loss, weight_decay=weight_decay, proximity=0.0)
    data = weight_data(block, X, v)
    solution, reference = solve(block, data), solve(block, data, engine="clarabel")
    objective = block.objective(solution.variables, {name: torch.as_tensor(value) for name, value in data.items()})
    best = block.objective(reference.variables, {name: torch.as_tensor(value) for name, value in data.items()})
    assert solution.solved
    assert objective.item() == pytest.approx(best.item(), rel=1e-5)


def test_large_multipliers_do_not_freeze_the_activations() -> None:
    # The move is about 1/below; a gap measured against the constants of the objective would call the start solved.
    rng = np.random.default_rng(0)
    data = {
        "u": rng.normal(size=(50, 16)), "v": np.eye(10)[rng.integers(0, 10, 50)],
        "W": rng.normal(size=(10, 16)), "b": np.zeros(10),
    }  # fmt: skip
    for below in (0.1, 100.0, 1e4):
        block = FenchelActivation(width=16, next_width=10, loss="softmax_cross_entropy", below=below)
        loose, exact = solve(block, data), solve(block, data, tolerance=1e-13)
        start = torch.relu(torch.as_tensor(data["u"]))
        move, error = abs(exact.variables["x"] - start).max(), abs(loose.variables["x"] - exact.variables["x"]).max()
        assert error <= 0.1 * move, below


def test_large_multipliers_still_train() -> None:
    X, y = load_digits(return_X_y=True)
    network = build_network((64, 16, 10), "relu", random_state=0)
    before = network[0].weight.detach().clone()
    fit(network, (X[:300] / 16, y[:300]), FenchelLifting(multiplier=1e4), weight_decay=0.0, sweeps=3)
    # Rebalancing alone multiplies rows by powers of two.
    ratio = torch.log2((network[0].weight.detach() / before).abs())
    assert float((ratio - ratio.round()).abs().max()) > 1e-4


class Unbounded(Subproblem):
    """Without an optimum: the objective falls along the boundary of an exponential cone."""

    name = "test.unbounded"
    symbols = (Symbol("x", "point", "per instance"), Symbol("p", "shift", "per instance"))

    def __init__(self) -> None:
        self.prepare()

    def write(self) -> cp.Problem:
        x, p = cp.Variable(2, name="x"), cp.Parameter(name="p")
        return cp.Problem(cp.Minimize(-x[0] + p), [cp.exp(x[0]) <= x[1]])


def test_a_solver_that_runs_off_is_not_called_solved() -> None:
    assert solve(Unbounded(), {"p": np.zeros(1)}).status[0] is not Status.SOLVED


def test_a_kink_at_the_start_does_not_lose_the_curvature() -> None:
    rng = np.random.default_rng(3)
    X, v = rng.normal(size=(40, 5)), np.abs(rng.normal(size=40))
    for weight_decay, proximity in ((1.0, 0.0), (0.0, 1e-8)):
        block = FenchelWeight(
            samples=40, inputs=5, activation="relu", weight_decay=weight_decay, proximity=proximity, bias=False
        )
        solution = solve(block, weight_data(block, X, v))
        assert solution.solved
        assert bool(solution.variables["w"].isfinite().all())
        assert agree(block, weight_data(block, X, v)).agrees


def test_large_finite_data_never_end_in_an_error_of_the_factorization() -> None:
    block = FenchelWeight(samples=6, inputs=2, activation="relu", proximity=0.1)
    rng = np.random.default_rng(0)
    solution = solve(block, weight_data(block, 1e160 * rng.normal(size=(6, 2)), np.ones(6)))
    assert solution.status[0] in (Status.SOLVED, Status.INACCURATE)
    assert bool(solution.variables["w"].isfinite().all())


@pytest.mark.parametrize("activation", ["elu", "softsign"])
def test_a_reference_solution_is_a_warm_start_in_spite_of_its_auxiliary_variables(activation: str) -> None:
    rng = np.random.default_rng(0)
    block = FenchelActivation(width=3, next_width=2, activation=activation, next_activation="relu")
    data = {"u": rng.normal(size=(4, 3)), "v": rng.uniform(size=(4, 2)), "W": rng.normal(size=(2, 3)), "b": np.zeros(2)}
    reference = solve(block, data, engine="clarabel")
    warm = solve(block, data, warm_start=reference)
    assert warm.solved
    assert float(warm.iterations.double().mean()) <= float(solve(block, data).iterations.double().mean())


def test_scs_gives_the_same_numbers_twice() -> None:
    rng = np.random.default_rng(0)
    block = FenchelActivation(width=3, next_width=2)
    data = {"u": rng.normal(size=(3, 3)), "v": rng.uniform(size=(3, 2)), "W": rng.normal(size=(2, 3)), "b": np.zeros(2)}
    first, second = (solve(block, data, engine="scs") for _ in range(2))
    assert torch.equal(first.variables["x"], second.variables["x"])


def test_audits_look_at_the_answers_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # An engine that returns its start must be found out, though a fresh solve of the same instances would agree.
    X, y = load_digits(return_X_y=True)
    network = build_network((64, 8, 10), "relu", random_state=0)
    real = audit_module.audit_block

    def spoiled(step, block, warm: Solution, tolerance, *, seed):  # type: ignore[no-untyped-def]
        if step.block == "activation":
            x = torch.relu(block.data["u"])
            warm.variables.update({"x": x, "z": x @ block.data["W"].T + block.data["b"]})
        return real(step, block, warm, tolerance, seed=seed)

    monkeypatch.setattr("convexblocks.solvers.sweep.audit_block", spoiled)
    history = fit(network, (X[:200] / 16, y[:200]), sweeps=1, audit_every=1)
    found = {audit["block"]: audit["agrees"] for audit in history.audits}
    assert found == {"activation 1": False, "weight 1": True, "weight 2": True}


def test_frozen_layers_and_overflowing_starts_are_refused() -> None:
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    frozen = build_network((3, 4, 2), "relu", random_state=0)
    frozen[0].requires_grad_(False)
    with pytest.raises(UsageError, match="linear layer 0 of the network is frozen"):
        fit(frozen, (X, y))
    steep = build_network((3, 4, 2), "exponential", random_state=0)
    with torch.no_grad():
        steep[0].weight.mul_(1e4)
    with pytest.raises(UsageError, match=r"objective of the untrained network is (inf|nan); expected a finite number"):
        fit(steep, (X, y))


def test_training_does_not_stop_while_raised_multipliers_still_help() -> None:
    # With this multiplier the first sweeps ask for more than the network can follow.
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 6))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    network = build_network((6, 8, 8, 2), "tanh", random_state=0)
    history = fit(network, (X, y), FenchelLifting(multiplier=1e-4), weight_decay=0.01, sweeps=40)
    undone = [record["sweep"] for record in history.records[1:] if record["step"] == 0]
    assert undone
    assert history.last["sweep"] > undone[0] + 2
    assert history.last["objective"] < history.records[undone[0]]["objective"]


def test_symbols_must_name_what_is_in_the_program() -> None:
    class Nameless(Unbounded):
        def write(self) -> cp.Problem:
            x, p = cp.Variable(2), cp.Parameter(name="p")
            return cp.Problem(cp.Minimize(cp.sum_squares(x) + p))

    with pytest.raises(UsageError, match="'x' names no variable or parameter"):
        Nameless()


def test_a_network_is_built_without_touching_any_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert isinstance(build_network((2, 3, 1), "relu", random_state=0), nn.Sequential)
    assert torch.equal(torch.rand(3), expected)


def test_solve_says_what_it_expects_instead_of_a_name() -> None:
    with pytest.raises(UsageError, match="expected a Subproblem"):
        solve("fenchel.activation", {})  # type: ignore[arg-type]


def test_every_run_counts_the_iterations_of_cold_starts() -> None:
    X, y = load_digits(return_X_y=True)
    network = build_network((64, 8, 10), "relu", random_state=0)
    history = fit(network, (X[:200] / 16, y[:200]), sweeps=4)
    found = history.warm_and_cold()
    assert set(found) == {"activation 1", "weight 1", "weight 2"}
    assert all(figures["sweeps"] == 1 for figures in found.values())
    assert found["weight 1"]["warm"] < found["weight 1"]["cold"]
    assert [record["sweep"] for record in history.records if "starts" in record] == [3]


@pytest.mark.parametrize("loss", [None, "squared", "softmax_cross_entropy"])
def test_size_of_an_activation_block_is_its_objective_with_the_constants(loss: str | None) -> None:
    rng = np.random.default_rng(0)
    block = FenchelActivation(width=4, next_width=3, next_activation="tanh", loss=loss, below=0.3, above=2.0)
    W, b, u = rng.normal(size=(3, 4)), rng.normal(size=3), rng.normal(size=(5, 4))
    v = np.eye(3)[rng.integers(0, 3, 5)] if loss == "softmax_cross_entropy" else rng.uniform(-0.9, 0.9, (5, 3))
    data = {"u": u, "v": v, "W": W, "b": b}
    x, other = {"x": rng.uniform(size=(5, 4))}, {"x": rng.uniform(size=(5, 4))}
    # The constants do not depend on x.
    np.testing.assert_allclose(
        block.size(x, data) - block.size(other, data), block.objective(x, data) - block.objective(other, data)
    )
    fits = {"x": np.maximum(u, 0)}
    z = fits["x"] @ W.T + b
    if loss != "softmax_cross_entropy":
        data["v"] = z if loss == "squared" else np.tanh(z)
        np.testing.assert_allclose(block.size(fits, data), 0.0, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "softmax"])
def test_size_of_a_weight_block_is_its_objective_with_the_constants(activation: str) -> None:
    rng = np.random.default_rng(0)
    block = FenchelWeight(samples=6, inputs=2, units=3, activation=activation, multiplier=0.7, proximity=0.5)
    lead = (1, *block.data_shapes()["w_old"])
    X, w, c = rng.normal(size=(6, 2)), rng.normal(size=lead), rng.normal(size=lead[:-1])
    phi = block.activation.phi
    u = X @ w[0].T + c[0]
    data = {"X": X, "v": phi(u)[None], "w_old": w, "c_old": c}
    present, other = {"w": w, "c": c}, {"w": w + rng.normal(size=lead), "c": c + 1.0}
    np.testing.assert_allclose(block.size(present, data), 0.0, atol=1e-12)
    np.testing.assert_allclose(
        block.size(other, data), block.objective(other, data) - block.objective(present, data), rtol=1e-10
    )
