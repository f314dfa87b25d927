"""SplineActivation, polish and SplineRegressor."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convexblocks.formulations import UsageError
from convexblocks.networks import SplineActivation, SplineRegressor, polish, tv2_penalty
from convexblocks.solvers import spline_polish


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_slopes_keep_their_bounds_under_any_optimizer(name: str) -> None:
    torch.manual_seed(0)
    activation, u = SplineActivation(3, slopes=(-0.5, 0.7), start="relu"), torch.randn(60, 3)
    optimizer: Any = getattr(torch.optim, name)
    steps, losses = optimizer(activation.parameters(), lr=0.05), []
    for _ in range(60):
        loss = (activation(u) - torch.sin(3 * u)).square().mean() + 1e-3 * activation.tv2()
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
        s = activation.slopes()
        assert (float(s.detach().min()) >= -0.5) & (float(s.detach().max()) <= np.float32(0.7))
    assert losses[-1] < losses[0]


def test_gradients_are_right() -> None:
    torch.manual_seed(0)
    activation = SplineActivation(2, knots=5, slopes=(-1, 1)).double()
    with torch.no_grad():
        activation.raw.uniform_(-0.9, 0.9)
    u = (1.3 * torch.randn(7, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(activation, (u,))
    activation(u).sum().backward()
    assert activation.raw.grad is not None
    assert activation.middle.grad is not None


def test_coefficients_there_and_back() -> None:
    activation = SplineActivation(2, knots=7, slopes=(-1, 1)).double()
    wanted = torch.stack([torch.sin(activation.positions), activation.positions.abs() / 2], 1)
    activation.set_coefficients(wanted)
    assert torch.allclose(activation.coefficients(), wanted)
    assert torch.allclose(activation(activation.positions[:, None].expand(-1, 2)), wanted)
    with pytest.raises(UsageError, match="expected"):
        activation.set_coefficients(wanted[:, 0])


def test_beyond_the_knots_it_goes_on_straight_and_relu_is_relu() -> None:
    u = torch.linspace(-9, 9, 37)[:, None]
    assert torch.allclose(SplineActivation(start="relu")(u), u.clamp(min=0), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_the_inverse(channels: int) -> None:
    torch.manual_seed(0)
    activation, u = SplineActivation(channels, slopes="invertible(0.2)").double(), 3 * torch.randn(2, 5, 4).double()
    with torch.no_grad():
        activation.raw += torch.randn_like(activation.raw)
    assert torch.allclose(activation.inverse(activation(u)), u)
    with pytest.raises(UsageError, match="above zero"):
        SplineActivation(slopes=(0, 1)).inverse(u)


BAD: list[dict[str, Any]] = [
    {"knots": 1}, {"span": (1.0, 0.0)}, {"channels": 0}, {"start": "tanh"}, {"slopes": "convex"}
]  # fmt: skip


@pytest.mark.parametrize("wrong", BAD, ids=["knots", "span", "channels", "start", "convex"])
def test_bad_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SplineActivation(**wrong)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(UsageError, match="expected 3"):
        SplineActivation(3)(torch.zeros(2, 4))


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_polish_never_raises_the_loss_and_helps_a_trained_network(loss: str, shared: bool) -> None:
    torch.manual_seed(0)
    X = torch.randn(300, 3)
    y = torch.sin(2 * X[:, :1]) + X[:, 1:2].abs()
    y = (y > 0.5).float() if loss == "logistic" else y
    network = nn.Sequential(
        nn.Linear(3, 8), SplineActivation(1 if shared else 8, slopes="nonexpansive", start="relu"),
        nn.Linear(8, 5), SplineActivation(1 if shared else 5, slopes=(0, 1)), nn.Linear(5, 1),
    )  # fmt: skip
    steps = torch.optim.Adam(network.parameters(), 1e-2)
    function = nn.BCEWithLogitsLoss(reduction="sum") if loss == "logistic" else nn.MSELoss(reduction="sum")
    for _ in range(40):
        steps.zero_grad()
        (function(network(X), y) + 1e-3 * tv2_penalty(network)).backward()
        steps.step()
    weights = [module.weight.clone() for module in network if isinstance(module, nn.Linear)]

    def measured(penalty: float) -> float:
        """The objective without the catalogue: half of a square for torch's square."""
        with torch.no_grad():
            loss_sum = function(network(X), y) * (1.0 if loss == "logistic" else 0.5)
            return float(loss_sum + penalty * tv2_penalty(network))

    found, seen = [], [measured(1e-3)]
    for _ in range(3):
        found.append(polish(network, (X, y), loss=loss, penalty=1e-3))
        seen.append(measured(1e-3))
    assert [one["before"] for one in found] == pytest.approx(seen[:-1], rel=1e-5)
    assert [one["after"] for one in found] == pytest.approx(seen[1:], rel=1e-5)
    assert found[0]["after"] < found[0]["before"]
    assert all(one["after"] <= one["before"] for one in found)
    assert found[1]["before"] == pytest.approx(found[0]["after"])
    assert all(torch.equal(a, m.weight) for a, m in zip(weights, network[::2], strict=True))
    # With a huge penalty nothing but straighter splines is accepted, and the loss still falls.
    before = measured(10.0)
    again = polish(network, (X, y), loss=loss, penalty=10.0)
    assert again["after"] <= again["before"]
    assert measured(10.0) <= before


def test_polish_wants_a_spline() -> None:
    with pytest.raises(UsageError, match="SplineActivation"):
        polish(nn.Sequential(nn.Linear(2, 1)), (torch.zeros(3, 2), torch.zeros(3, 1)))


@pytest.mark.parametrize("knots", [None, 15])
def test_the_regressor(knots: int | None) -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (200, 1))
    y = np.clip(X[:, 0], -1, 0.5) + 0.05 * rng.standard_normal(200)
    model = SplineRegressor(slopes=(0, 1), penalty=0.1, knots=knots).fit(X, y)
    assert model.score(X, y) > 0.95
    assert model.spline_.solved
    with pytest.raises(UsageError, match="one: choose"):
        SplineRegressor().fit(np.hstack([X, X]), y)


class Perceptron(nn.Sequential):
    """A subclass whose constructor takes something else."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(3, width), SplineActivation(width, start="relu"), nn.Linear(width, 1))


TIED = SplineActivation(6, start="relu")
MIXED: dict[str, tuple[nn.Module, ...]] = {
    "dropout": (nn.Linear(3, 6), SplineActivation(6, start="relu"), nn.Dropout(0.5), nn.Linear(6, 1)),
    "batch norm": (nn.Linear(3, 6), nn.BatchNorm1d(6), SplineActivation(6, start="relu"), nn.Linear(6, 1)),
    "in place": (nn.Linear(3, 6), SplineActivation(6), nn.ReLU(inplace=True), nn.Linear(6, 1)),
    "last": (nn.Linear(3, 6), SplineActivation(6, start="relu"), nn.Linear(6, 1), SplineActivation(1)),
    "row": (nn.Flatten(), nn.Linear(3, 6), SplineActivation(6, knots=2), SplineActivation(1, knots=4), nn.Linear(6, 1)),
    "tied": (nn.Linear(3, 6), TIED, nn.Linear(6, 6), TIED, nn.Linear(6, 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", [*MIXED, "subclass"])
def test_polish_never_raises_the_loss_beside_other_layers(case: str) -> None:
    torch.manual_seed(0)
    X = torch.randn(80, 3)
    y = torch.sin(2 * X[:, :1]) + X[:, 1:2].abs()
    network = Perceptron(6) if case == "subclass" else nn.Sequential(*copy.deepcopy(MIXED[case]))

    def measured() -> float:
        evaluated = copy.deepcopy(network).eval()
        with torch.no_grad():
            return float((evaluated(X) - y).square().sum() / 2 + 1e-3 * tv2_penalty(evaluated))

    averages = {name: part.clone() for name, part in network.state_dict().items() if "running" in name}
    for _ in range(3):
        before = measured()
        with torch.no_grad():
            found = polish(network, (X, y))
        assert found["before"] == pytest.approx(before, rel=1e-5)
        assert found["after"] == pytest.approx(measured(), rel=1e-5)
        assert found["after"] <= found["before"]
    assert all(module.training for module in network.modules())
    assert all(torch.equal(network.state_dict()[name], part) for name, part in averages.items())


def test_polish_refuses_targets_of_another_shape() -> None:
    network = Perceptron(4)
    with pytest.raises(UsageError, match=r"shape \(9,\); expected \(9, 1\)"):
        polish(network, (torch.randn(9, 3), torch.randn(9)))


@pytest.mark.parametrize("channels", [1, 2])
def test_nan_stays_nan(channels: int) -> None:
    u = torch.tensor([[np.nan, 0.5], [np.inf, -np.inf]])
    values = SplineActivation(channels)(u).tolist()
    assert values[1] == [np.inf, -np.inf]
    assert np.isnan(values[0][0])
    assert values[0][1] == pytest.approx(0.5)
    network = nn.Sequential(nn.Linear(2, 2), SplineActivation(channels), nn.Linear(2, 1))
    before = copy.deepcopy(network.state_dict())
    assert polish(network, (u, torch.zeros(2, 1)))["accepted"] == [None]
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_polish_leaves_the_network_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(module: SplineActivation, *arguments: Any) -> Any:
        module.set_slopes(module.middle, 0 * module.raw)
        raise KeyboardInterrupt

    monkeypatch.setattr(spline_polish, "_line_search", interrupted)
    network = Perceptron(4)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(KeyboardInterrupt):
        polish(network, (torch.randn(9, 3), torch.randn(9, 1)))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
