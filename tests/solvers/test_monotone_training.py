"""Training by monotone inequalities: the operator and its convex block, what a step is, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from training_runs import (
    OUTPUTS,
    SAMPLES,
    data_for,
    half_squares,
    network_for,
    same_parameters,
    true_loss,
    without_times,
)

from convexblocks.formulations import (
    ACTIVATIONS,
    LOSSES,
    FenchelWeight,
    MonotoneInequality,
    TargetBlocks,
    UsageError,
    activation,
)
from convexblocks.formulations.catalogue import METHODS, method
from convexblocks.formulations.monotone_inequality import mirror_residual, monotone_residual, step_length
from convexblocks.networks import graph_network
from convexblocks.solvers import build_network, fit_method, fit_monotone, fit_targets, load

LIPSCHITZ = [name for name in ACTIVATIONS if activation(name).slopes[1] <= 1]
ENTRIES = [name for name in ACTIVATIONS if not activation(name).couples_units]
WHOLE = {"step": 1.0, "momentum": 0.0, "batch_size": SAMPLES}


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def in_range(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Targets inside the range of an activation: what it makes of other pre-activations."""
    return activation(name).phi(drawn(*shape, seed=1))


@pytest.mark.parametrize("torch_arrays", [False, True])
@pytest.mark.parametrize("name", ENTRIES)
def test_gradient_of_the_block_is_gamma_times_the_operator(name: str, torch_arrays: bool) -> None:
    """Where phi(u) - gamma G is in the range, for the targets of the block in formulations/fenchel_weight.py."""
    gamma, units, phi = 0.3, 4, activation(name)
    X, weight = drawn(SAMPLES, 3, seed=2), drawn(units, 3, seed=3)
    u = X @ weight.T
    G = (phi.phi(u) - in_range(name, u.shape)) / gamma
    convert = torch.tensor if torch_arrays else np.asarray
    X, weight, u, G = (convert(array) for array in (X, weight, u, G))
    residual = monotone_residual(phi, u, G, gamma)
    block = FenchelWeight(samples=SAMPLES, inputs=3, activation=phi, proximity=0.0, bias=False)
    found = block.gradient({"w": weight}, {"X": X, "v": (phi.phi(u) - residual).T, "w_old": weight})["w"]
    np.testing.assert_allclose(np.asarray(found), np.asarray(gamma * G.T @ X), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LIPSCHITZ)
def test_targets_stay_in_the_range(name: str) -> None:
    phi, u, G = activation(name), drawn(30, 3), 5 * drawn(30, 3, seed=1)
    residual = monotone_residual(phi, u, G, 1.0)
    target = phi.phi(u) - residual
    assert float(phi.violation(target).max()) < 1e-12
    if not phi.couples_units:
        np.testing.assert_allclose(target, phi.project(phi.phi(u) - G), atol=1e-12)
    else:
        np.testing.assert_allclose(residual.sum(-1), 0.0, atol=1e-12)
        centred = G - G.mean(-1, keepdims=True)
        np.testing.assert_allclose(monotone_residual(phi, u, G, 1e-5), 1e-5 * centred, rtol=1e-6)


@pytest.mark.parametrize("name", LIPSCHITZ)
def test_the_mirror_step_is_the_best_point_of_the_range(name: str) -> None:
    """It minimizes gamma <G, p> + B(p, u): no other point of the range, near or far, does better."""
    phi, gamma, rng = activation(name), 0.4, np.random.default_rng(2)
    u, G = drawn(20, 3), drawn(20, 3, seed=1)
    best = phi.phi(u) - gamma * mirror_residual(phi, u, G, gamma)
    assert float(phi.violation(best).max()) < 1e-12

    def value(p: np.ndarray) -> np.ndarray:
        return phi.gap(p, u) + gamma * (G * p).sum(-1)

    for spread in (0.01, 0.1, 1.0):
        other = phi.phi(u - gamma * G + spread * rng.standard_normal(u.shape))
        assert (value(best) <= value(other) + 1e-12).all()


@pytest.mark.parametrize("name", [name for name in LIPSCHITZ if name not in ("relu", "leaky_relu")])
def test_single_precision_does_not_drown_small_slopes(name: str) -> None:
    phi, u = activation(name), drawn(200, 3)
    for size in (1.0, 1e-4, 1e-9):
        G = size * drawn(200, 3, seed=1)
        single = mirror_residual(phi, *(torch.tensor(array, dtype=torch.float32) for array in (u, G)), 0.03)
        np.testing.assert_allclose(single.double(), mirror_residual(phi, u, G, 0.03), atol=2e-3 * size)


def test_the_step_is_no_longer_than_the_pre_activations() -> None:
    u = torch.tensor([[1.0, -2.0], [2.0, 1.0]])
    assert step_length(u, 0.1 * u, 0.3).item() == pytest.approx(0.3)
    assert step_length(u, 100 * u, 0.3).item() == pytest.approx(0.003)
    nothing = mirror_residual(activation("tanh"), 0 * u, u, step_length(0 * u, u, 0.3))
    torch.testing.assert_close(nothing, u)


def test_short_mirror_steps_are_those_of_target_blocks() -> None:
    networks = [network_for("squared", "tanh", (5, 4)) for _ in range(2)]
    settings = {"proximity": 0.5, "batch_size": 8}
    fit_monotone(networks[0], data_for("squared"), MonotoneInequality(gamma=1e-12, **settings), sweeps=4)
    fit_targets(networks[1], data_for("squared"), TargetBlocks(**settings), sweeps=4)
    assert same_parameters(*networks)


def moons(noise: float) -> tuple[np.ndarray, np.ndarray]:
    X, y = make_moons(500, noise=noise, random_state=0)
    return (X - X.mean(0)) / X.std(0), y


@pytest.mark.parametrize(("width", "noise", "most"), [(64, 0.1, 0.01), (8, 0.1, 0.03), (8, 0.2, 0.12)])
def test_the_hidden_layer_helps_in_two_moons(width: int, noise: float, most: float) -> None:
    """With its defaults, but for the batches; a hidden layer that hardly moves, and projected targets, do worse."""
    losses = {}
    for name, settings in {
        "default": {},
        "left": {"targets": "projected", "gamma": 1e-9},
        "projected": {"targets": "projected", "gamma": 1.0},
    }.items():
        network = build_network((2, width, 2), "relu", random_state=0)
        history = fit_monotone(
            network, moons(noise), MonotoneInequality(batch_size=100, **settings), weight_decay=0.0, sweeps=100
        )
        losses[name] = history.last["true_loss"] / 500
    assert losses["default"] < most
    assert losses["default"] < 0.7 * losses["left"]
    assert losses["left"] < losses["projected"]


def test_a_unit_at_zero_is_pushed_up_but_not_down() -> None:
    u, G = torch.tensor([-1.0, -1.0, 2.0, 2.0]), torch.tensor([0.5, -0.5, 1e-9, 3.0])
    # The third one is far below the rounding of the activations.
    assert monotone_residual(activation("relu"), u, G, 1.0).tolist() == [0.0, -0.5, G[2].item(), 2.0]


def pictures() -> tuple[nn.Sequential, np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 3),
    ).double()  # fmt: skip
    return network, drawn(SAMPLES, 1, 6, 6), np.arange(SAMPLES) % 3


def graph() -> tuple[nn.Sequential, np.ndarray, np.ndarray]:
    ring = np.roll(np.eye(7), 1, 0) + np.roll(np.eye(7), -1, 0) + np.eye(7)
    network = graph_network(ring / 3, (4, 5, 3), "relu", random_state=0, dtype=torch.float64)
    return network, drawn(7, 4), np.arange(7) % 3


def dense() -> tuple[nn.Sequential, np.ndarray, np.ndarray]:
    return network_for("softmax_cross_entropy", "relu", (5, 4)), *data_for("softmax_cross_entropy")


def published_directions(network: nn.Sequential, X: np.ndarray, y: np.ndarray) -> list[Tensor]:
    """The published pseudo code: the gradient of sum(g(x) * G), g the layer, G the slope after its activation."""
    modules, x, kept = list(network), torch.tensor(X), []
    layers = [place for place, module in enumerate(modules) if len(list(module.parameters()))]
    for place, module in enumerate(modules):
        arriving, x = x, module(x)
        if place in layers:
            kept.append([module, arriving.detach(), None])
        elif place - 1 in layers:
            x.retain_grad()
            kept[-1][2] = x
    nn.functional.cross_entropy(x, torch.tensor(y), reduction="sum").backward()
    encoded = nn.functional.one_hot(torch.tensor(y), 3)
    found = []
    for module, arriving, activated in kept:
        slopes = x.detach().softmax(-1) - encoded if activated is None else activated.grad
        surrogate = (module(arriving) * slopes.detach()).sum()
        found += torch.autograd.grad(surrogate, list(module.parameters()))
    return found


@pytest.mark.parametrize("average", ["once", "twice"])
@pytest.mark.parametrize("make", [dense, pictures, graph], ids=["dense", "pictures", "graph"])
def test_a_surrogate_step_is_that_of_the_published_pseudo_code(make: Any, average: str) -> None:
    network, X, y = make()
    before = copy.deepcopy(network)
    chosen = MonotoneInequality(**{**WHOLE, "step": 0.01}, steps="surrogate", hidden_average=average)
    fit_monotone(network, (X, y), chosen, loss="softmax_cross_entropy", weight_decay=0.0, sweeps=1)
    wanted = published_directions(copy.deepcopy(before), X, y)
    for place, (new, old, direction) in enumerate(zip(network.parameters(), before.parameters(), wanted, strict=True)):
        again = len(y) if average == "twice" and place < len(wanted) - 2 else 1
        torch.testing.assert_close(new, old - 0.01 * direction / len(y) / again, rtol=1e-9, atol=1e-12)


def test_surrogate_steps_are_those_of_stochastic_gradient_descent_with_momentum() -> None:
    network, X, y = dense()
    other = copy.deepcopy(network)
    chosen = MonotoneInequality(step=0.1, momentum=0.9, batch_size=SAMPLES, steps="surrogate")
    fit_monotone(network, (X, y), chosen, loss="softmax_cross_entropy", weight_decay=0.0, sweeps=5)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        for parameter, direction in zip(
            other.parameters(), published_directions(copy.deepcopy(other), X, y), strict=True
        ):
            parameter.grad = direction / SAMPLES
        optimizer.step()
    for parameter, wanted in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted, rtol=1e-9, atol=1e-12)


def test_of_linear_layers_the_steps_are_those_of_target_blocks() -> None:
    networks = [network_for("squared", "identity", (5, 4)) for _ in range(2)]
    settings = {"proximity": 0.5, "batch_size": 8}
    fit_monotone(networks[0], data_for("squared"), MonotoneInequality(**settings), sweeps=4)
    fit_targets(networks[1], data_for("squared"), TargetBlocks(**settings), sweeps=4)
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["relu", "tanh", "softmax"])
def test_exact_steps_solve_the_block(name: str, loss: str) -> None:
    """With a large proximal factor the minimizer and the majorizer's agree; with a small one they do not."""
    start = network_for(loss, name)
    for proximity, agrees in ((1e4, True), (0.05, False)):
        moves = []
        for exact in (False, True):
            network = copy.deepcopy(start)
            chosen = MonotoneInequality(proximity=proximity, exact=exact, **WHOLE)
            fit_monotone(network, data_for(loss), chosen, loss=loss, sweeps=1)
            moves.append((network[0].weight - start[0].weight).detach())
        assert (float((moves[0] - moves[1]).norm()) < 1e-2 * float(moves[0].norm())) is agrees


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", LIPSCHITZ)
@pytest.mark.parametrize("settings", [{}, {"step": 0.05, "steps": "surrogate"}], ids=["convexified", "surrogate"])
def test_the_objective_falls(settings: dict[str, Any], name: str, loss: str) -> None:
    network = network_for(loss, name, (5,), dtype=torch.float32)
    chosen = MonotoneInequality(batch_size=8, **settings)
    history = fit_monotone(network, data_for(loss), chosen, loss=loss, sweeps=40)
    first, last = history.records[0], history.last
    # Without its Jacobian softmax hardly follows: what slopes share over a row is most of them, and does nothing.
    slow = name == "softmax" and settings
    assert last["objective"] < (1.0 if slow else 0.97) * first["objective"]
    assert last["true_loss"] == pytest.approx(true_loss(network, loss, data_for(loss)), rel=1e-5)
    assert last["penalty"] == pytest.approx(half_squares(network, 0.1), rel=1e-6)


@pytest.mark.parametrize("make", [pictures, graph], ids=["pictures", "graph"])
def test_convolutions_and_graphs_are_trained(make: Any) -> None:
    network, X, y = make()
    history = fit_monotone(network, (X, y), MonotoneInequality(proximity=0.1), weight_decay=0.01, sweeps=60)
    assert history.last["true_loss"] < 0.5 * history.records[0]["true_loss"]


def test_a_run_by_the_catalogue_is_written_and_loaded(tmp_path: Path) -> None:
    chosen = method("monotone", batch_size="8", steps="surrogate", step="0.05", hidden_average="twice")
    assert chosen == MonotoneInequality(batch_size=8, steps="surrogate", step=0.05, hidden_average="twice")
    network, out = network_for(), tmp_path / "run"
    history = fit_method(network, data_for("softmax_cross_entropy"), chosen, sweeps=3, out=out)
    run = load(out)
    assert same_parameters(network, run.module)
    assert run.history.records == history.records
    assert run.settings["method"] == "monotone"
    assert METHODS["monotone"](**run.settings["formulation"]) == chosen
    again = network_for()
    assert without_times(
        fit_method(again, data_for("softmax_cross_entropy"), chosen, sweeps=3).records
    ) == without_times(history.records)
    assert same_parameters(network, again)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": "plain"}, r"steps is 'plain'; expected 'convexified' or 'surrogate'"),
        ({"targets": "plain"}, r"targets is 'plain'; expected 'mirror' or 'projected'"),
        ({"gamma": 0.0}, "gamma is 0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"hidden_average": "thrice"}, "hidden_average is 'thrice'; expected 'once' or 'twice'"),
        ({"hidden_average": "twice"}, "hidden_average is 'twice' with convexified steps.*gamma"),
        ({"steps": "surrogate", "exact": True}, "exact is True with surrogate steps"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        MonotoneInequality(**settings)


def test_steep_activations_are_for_surrogate_steps_alone() -> None:
    network, data = network_for("squared", "exponential"), data_for("squared")
    before = copy.deepcopy(network)
    with pytest.raises(UsageError, match=r"'exponential' has slopes up to inf"):
        fit_monotone(network, data)
    assert same_parameters(network, before)
    chosen = MonotoneInequality(step=0.01, steps="surrogate")
    history = fit_monotone(network, data, chosen, sweeps=20)
    assert history.last["objective"] < history.records[0]["objective"]
    with pytest.raises(UsageError, match="cannot be trained by convex blocks"):
        fit_monotone(nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, OUTPUTS["squared"])), data)


@pytest.mark.parametrize("exact", [False, True])
def test_gamma_scales_the_steps_of_hidden_layers_with_their_weight_decay(exact: bool) -> None:
    """Steps short enough that nothing is clipped and the proximal term is all that bends the block."""
    start, moves = network_for("squared", "tanh"), []
    for gamma in (1e-3, 1e-4):
        network = copy.deepcopy(start)
        chosen = MonotoneInequality(targets="projected", gamma=gamma, proximity=1e4, exact=exact, **WHOLE)
        fit_monotone(network, data_for("squared"), chosen, weight_decay=30.0, sweeps=1)
        moves.append([(new - old).detach() for new, old in zip(network.parameters(), start.parameters(), strict=True)])
    for place, (one, other) in enumerate(zip(*moves, strict=True)):
        torch.testing.assert_close(one, other * (10 if place < 2 else 1), rtol=2e-2, atol=1e-11)
