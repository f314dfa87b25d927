"""Networks with learned activations: their start, the blocks of a sweep, what a run leaves behind, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convexblocks.formulations import LOSSES, SplineBlocks, UsageError
from convexblocks.formulations.slope_properties import slope_property
from convexblocks.networks import SplineActivation, polish, tv2_penalty
from convexblocks.solvers import (
    build_network,
    fit_method,
    fit_spline_network,
    fit_splines,
    fit_targets,
    load,
    spline_polish,
    spline_training,
)
from convexblocks.solvers.spline_network import learned_activations, moved_knots, spline_row, spread_knots

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(120, 4))
REAL = np.sin(2 * X[:, :1]) + np.abs(X[:, 1:2] - X[:, 2:3])
LABELS = (X[:, 0] > 0) + (X[:, 1] > 0.5) * 1
TARGETS: dict[str, np.ndarray] = {"squared": REAL, "logistic": LABELS > 0, "softmax_cross_entropy": LABELS}
OUTPUTS = {"squared": 1, "logistic": 1, "softmax_cross_entropy": 3}


def network(loss: str = "squared", activation: str = "relu", dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return build_network((4, 8, 6, OUTPUTS[loss]), activation, random_state=0, dtype=dtype)


def splines(trained: nn.Sequential) -> list[SplineActivation]:
    return [module for module in trained if isinstance(module, SplineActivation)]


def outputs(trained: nn.Sequential) -> Tensor:
    with torch.no_grad():
        result: Tensor = trained(torch.as_tensor(X, dtype=next(trained.parameters()).dtype))
        return result


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize(("activation", "error"), [("relu", 1e-6), ("leaky_relu(0.1)", 1e-6), ("tanh", 0.1)])
def test_the_start_is_the_network_that_was_given(activation: str, error: float, shared: bool) -> None:
    given = network(activation=activation)
    learned = learned_activations(given, torch.as_tensor(X).float(), SplineBlocks(shared=shared))
    assert list(learned) == [1, 3]
    assert [module.raw.shape[1] for module in learned.values()] == ([1, 1] if shared else [8, 6])
    replaced = nn.Sequential(*(learned.get(place, module) for place, module in enumerate(given)))
    assert float((outputs(replaced) - outputs(given)).abs().max()) < error
    for module in learned.values():
        assert 0.0 in module.positions.tolist()
        values = given[1](module.positions)[:, None].expand_as(module.coefficients())
        assert torch.allclose(module.coefficients(), values, atol=1e-5)
    # Of a whole run too: all methods begin with the same figures.
    if activation == "relu":
        method, data = SplineBlocks(shared=shared), (X, REAL)
        first = fit_spline_network(network(), data, method, sweeps=1).records[0]
        assert first["objective"] == pytest.approx(fit_targets(network(), data, sweeps=1).records[0]["objective"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("slopes", ["-2,2", "nonexpansive", "firmly_nonexpansive", "invertible(0.2)", "monotone"])
def test_slopes_are_within_their_bounds_after_every_sweep(slopes: str, dtype: torch.dtype) -> None:
    trained, bounds = network(dtype=dtype), slope_property(slopes)
    low, high = (torch.tensor(bound, dtype=dtype) for bound in (bounds.low, bounds.high))
    seen = []

    def check(event: dict[str, Any]) -> None:
        seen.append(event["record"]["sweep"])
        for module in splines(trained):
            assert bool(((module.slopes() >= low) & (module.slopes() <= high)).all())
            assert torch.equal(module.slopes(), module.raw)

    method = SplineBlocks(slopes=slopes, every=2, batch_size=40)
    history = fit_spline_network(trained, (X, REAL), method, sweeps=7, on_event=check)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert [record["sweep"] for record in history.records if "spline_steps" in record] == [1, 3, 5, 7]
    assert history.last["objective"] < history.records[0]["objective"]
    # What holds for the slopes holds for the function, between the knots and beyond them.
    points = torch.as_tensor(4 * GENERATOR.normal(size=(500, 2)))
    for module in splines(trained):
        for channel in range(module.raw.shape[1]):
            with torch.no_grad():
                a, b = (copy.deepcopy(module).double()(x[:, None].expand(-1, module.raw.shape[1])) for x in points.T)
            ratio = ((a - b)[:, channel] / (points[:, 0] - points[:, 1])).numpy()
            assert ratio.min() >= bounds.low - 1e-6
            assert ratio.max() <= bounds.high + 1e-6


@pytest.mark.parametrize("loss", list(LOSSES))
def test_no_fit_raises_the_objective_and_training_helps(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refit_layer, refits = spline_training.refit_layer, []

    def watched(trained: nn.Sequential, *arguments: Any, **keywords: Any) -> spline_polish.Refit:
        def measured() -> float:
            with torch.no_grad():
                values = LOSSES[loss].values(trained(arguments[1][0]).double(), arguments[1][1].double())
                return float(values.sum()) + 0.5 * float(tv2_penalty(trained))

        before = measured()
        found = refit_layer(trained, *arguments, **keywords)
        assert found.before == pytest.approx(before, rel=1e-6)
        assert found.after == pytest.approx(measured(), rel=1e-6)
        refits.append(found)
        return found

    monkeypatch.setattr(spline_training, "refit_layer", watched)
    method = SplineBlocks(tv2=0.5, every=2, batch_size=30)
    history = fit_spline_network(network(loss), (X, TARGETS[loss]), method, loss=loss, sweeps=20)
    assert all(refit.after <= refit.before for refit in refits)
    assert sum(refit.fraction > 0 for refit in refits) > len(refits) / 2
    relu = fit_targets(network(loss), (X, TARGETS[loss]), loss=loss, sweeps=20)
    assert history.last["objective"] + history.last["kink_price"] < relu.last["objective"]


@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_root_of_the_hessian(loss: str) -> None:
    row, output = LOSSES[loss], torch.as_tensor(GENERATOR.normal(size=(5, OUTPUTS[loss])))
    targets = torch.as_tensor(row.encode(TARGETS[loss][:5], OUTPUTS[loss])).double()
    root = spline_polish._hessian_root(row, output)
    for sample in range(5):
        hessian = torch.autograd.functional.hessian(
            lambda z, y=targets[sample : sample + 1]: row.values(z[None], y).sum(), output[sample]
        )
        assert torch.allclose(root[sample] @ root[sample].T, hessian, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(LOSSES)), st.booleans(), st.booleans(), st.sampled_from(["-2,2", "0,1", "monotone", "free"]),
    st.sampled_from([0.0, 1e-3, 1.0, 1e3]), st.floats(-3, 3), st.integers(0, 10_000),
)  # fmt: skip
def test_polish_never_raises_the_loss(
    loss: str, shared: bool, bias: bool, slopes: str, penalty: float, scale: float, seed: int
) -> None:
    """Whatever the network, the scale of its inputs (ten to some power) and the price."""
    torch.manual_seed(seed)
    u = 10**scale * torch.as_tensor(X)
    y = torch.as_tensor(LOSSES[loss].encode(TARGETS[loss], OUTPUTS[loss])).double()
    widths = (1, 1) if shared else (5, 3)
    some = nn.Sequential(
        nn.Linear(4, 5, bias=bias), SplineActivation(widths[0], knots=6, slopes=slopes, start="relu"),
        nn.Linear(5, 3, bias=bias), SplineActivation(widths[1], knots=9, slopes=slopes),
        nn.Linear(3, OUTPUTS[loss], bias=bias),
    ).double()  # fmt: skip

    def alone() -> float:
        with torch.no_grad():
            return float(LOSSES[loss].values(some(u), y).sum())

    def measured() -> float:
        with torch.no_grad():
            return alone() + penalty * float(tv2_penalty(some))

    before, loss_before = measured(), alone()
    found = polish(some, (u, y), loss=loss, penalty=penalty)
    assert alone() <= loss_before
    assert found["before"] == pytest.approx(before, rel=1e-9)
    assert found["after"] == pytest.approx(measured(), rel=1e-9)
    assert measured() <= before
    bounds = slope_property(slopes)
    for module in splines(some):
        assert bool(((module.raw >= bounds.low) & (module.raw <= bounds.high)).all())


def test_one_layer_alone_reaches_the_fit_of_its_program() -> None:
    """Where nothing follows the splines, the block is the problem itself but for the damping."""
    u, y = torch.as_tensor(GENERATOR.normal(size=(2, 200, 3)))
    alone = nn.Sequential(SplineActivation(3, slopes=(-0.5, 1.0), span=(-2, 2)).double())
    for _ in range(5):
        found = polish(alone, (u, y), penalty=0.7)
    best = fit_splines(u, y, alone[0].positions, slopes=(-0.5, 1.0), penalty=0.7)
    assert found["after"] == pytest.approx(float(best.objective.sum()), rel=1e-5)


def test_the_splines_of_a_network_are_found_again() -> None:
    """Data of a network with known weights: its activations are what makes the loss zero."""
    torch.manual_seed(0)
    true = nn.Sequential(nn.Linear(4, 3), SplineActivation(3, knots=9), nn.Linear(3, 1)).double()
    with torch.no_grad():
        true[1].raw.uniform_(-1, 1)
        u = torch.as_tensor(X)
        y = true(u)
    found = copy.deepcopy(true)
    found[1] = SplineActivation(3, knots=9).double()
    before = polish(found, (u, y), penalty=0.0)["before"]
    for _ in range(60):
        after = polish(found, (u, y), penalty=0.0)["after"]
    assert after < 1e-4 * before


def test_layers_without_influence_stay() -> None:
    dead = nn.Sequential(nn.Linear(4, 3), SplineActivation(3, start="relu"), nn.Linear(3, 1))
    nn.init.zeros_(dead[2].weight)
    before = copy.deepcopy(dead.state_dict())
    found = polish(dead, (torch.as_tensor(X).float(), torch.as_tensor(REAL).float()))
    assert found["accepted"] == [None]
    assert all(torch.equal(dead.state_dict()[name], value) for name, value in before.items())


def test_knots_follow_the_pre_activations() -> None:
    module = SplineActivation(2, knots=5, span=(-2.0, 2.0), start="relu", slopes=(0, 1))
    u = torch.linspace(-2, 2, 1000)[:, None].expand(-1, 2)
    assert moved_knots(module, u) is None
    moved = moved_knots(module, 10 * u)
    assert moved is not None
    assert moved.tolist() == pytest.approx([-20, -10, 0, 10, 20], rel=0.01)
    module.move_knots(moved)
    assert torch.allclose(module(10 * u), 10 * u.clamp(min=0), atol=1e-5)
    assert moved_knots(module, 0 * u) is not None
    assert spread_knots(module.positions, 3.0).tolist() == [-3.0, -1.5, 0.0, 1.5, 3.0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_has_the_values_and_slopes_of_its_module(channels: int) -> None:
    module, u = SplineActivation(channels, knots=7).double(), torch.as_tensor(2 * X[:, :3])
    with torch.no_grad():
        module.raw.uniform_(-2, 2)
    row, v = spline_row(module), u.requires_grad_()
    expected = module(v)
    (slope,) = torch.autograd.grad(expected.sum(), v)
    assert torch.equal(row.phi(u.detach()), expected.detach())
    assert torch.allclose(row.slope(u.detach()), slope)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_a_run_is_read_again(tmp_path: Path, shared: bool) -> None:
    trained = network("softmax_cross_entropy")
    method = SplineBlocks(slopes="-1,inf", shared=shared, every=2)
    history = fit_method(trained, (X, LABELS), method, sweeps=5, validation=(X, LABELS), out=tmp_path / "run")
    run = load(tmp_path / "run")
    assert torch.equal(outputs(run.module), outputs(trained))
    assert [module.property.low for module in splines(run.module)] == [-1.0, -1.0]
    assert [module.property.high for module in splines(run.module)] == [np.inf, np.inf]
    assert SplineBlocks(**run.settings["formulation"]) == method
    assert (run.predict(X) == outputs(trained).argmax(1).numpy()).all()
    assert run.history.records == history.records
    weights, _ = run.saved.weights_after(0)
    assert torch.equal(weights[0].float(), network("softmax_cross_entropy")[0].weight)
    # What is read goes on from there: its splines stay as they are.
    before = outputs(run.module)
    again = fit_spline_network(run.module, (X, LABELS), method, sweeps=1)
    assert again.records[0]["objective"] == pytest.approx(history.last["objective"])
    assert not torch.equal(outputs(run.module), before)
    with pytest.raises(UsageError, match="is a learned activation; expected one of the table"):
        fit_targets(run.module, (X, LABELS))


@pytest.mark.parametrize("where", ["between", "within"])
def test_an_interrupt_leaves_the_last_complete_sweep(
    where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained, calls = network(), []
    refit_layer = spline_training.refit_layer

    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        found = refit_layer(*arguments, **keywords)
        if where == "within" and len(calls) == 5:
            raise KeyboardInterrupt
        return found

    def on_event(event: dict[str, Any]) -> None:
        if where == "between" and event["record"]["sweep"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(spline_training, "refit_layer", interrupted)
    method, out = SplineBlocks(every=1), tmp_path / "run"
    history = fit_spline_network(trained, (X, REAL), method, sweeps=9, on_event=on_event, out=out)
    assert history.stop_reason == "interrupted after sweep 2"
    loss = float(((outputs(trained) - torch.as_tensor(REAL)) ** 2).sum() / 2)
    assert loss == pytest.approx(history.last["true_loss"], rel=1e-6)
    assert torch.equal(outputs(load(out).module), outputs(trained))


def test_sweeps_that_diverge_are_undone() -> None:
    trained = network()
    history = fit_spline_network(trained, (X, REAL), SplineBlocks(step=1e9, every=3), sweeps=6)
    assert 0.0 in history.column("step")
    assert all(record["objective"] <= history.records[0]["objective"] for record in history.records)
    assert outputs(trained).isfinite().all()


def test_the_same_seed_gives_the_same_network() -> None:
    runs = []
    for seed in (0, 0, 1):
        trained = network()
        fit_spline_network(trained, (X, REAL), SplineBlocks(batch_size=30), sweeps=5, random_state=seed)
        runs.append(outputs(trained))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_two_linear_layers_in_a_row_and_no_biases() -> None:
    torch.manual_seed(0)
    trained = nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1, bias=False)
    )  # fmt: skip
    history = fit_spline_network(trained, (X, REAL), sweeps=10)
    assert history.settings["activations"] == ["identity", "spline"]
    assert history.last["objective"] < history.records[0]["objective"]


BAD: dict[str, dict[str, Any]] = {
    "even": {"knots": 20}, "few": {"knots": 1}, "price": {"tv2": -1.0}, "convex": {"slopes": "convex"},
    "unknown": {"slopes": "steep"}, "every": {"every": 0}, "shared": {"shared": 1}, "exact": {"exact": True},
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD)
def test_bad_settings_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        SplineBlocks(**BAD[wrong])


def test_networks_that_cannot_be_trained_are_refused_and_stay() -> None:
    rows = build_network((4, 3, 1), "softmax", random_state=0)
    pictures = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    for bad, words in ((rows, "whole rows"), (pictures, "dense networks"), (nn.Linear(4, 1), "Sequential")):
        before = str(bad)
        with pytest.raises(UsageError, match=words):
            fit_spline_network(bad, (X, REAL))
        assert str(bad) == before
    overflowing = network()
    for module in overflowing[::2]:
        nn.init.constant_(module.weight, 1e20)
    with pytest.raises(UsageError, match="finite"):
        fit_spline_network(overflowing, (X, REAL))
    assert not splines(overflowing)
