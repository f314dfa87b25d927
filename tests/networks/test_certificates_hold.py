"""Certificates of networks under what would make them untrue: repeated or replaced layers, extreme numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from convexblocks.formulations import UsageError
from convexblocks.networks.invertible import InvertibleResidual
from convexblocks.networks.lipschitz import lipschitz_certificate, lipschitz_mlp, settle
from convexblocks.solvers.layered import CatalogueActivation
from convexblocks.solvers.spline_activation import SplineActivation


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(factor: float, units: int = 2) -> nn.Linear:
    layer = nn.Linear(units, units, bias=False)
    nn.init.eye_(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(factor)
    return layer


def test_repeated_layers_count_each_time() -> None:
    layer = dense(3.0)
    certificate = lipschitz_certificate(nn.Sequential(layer, nn.Identity(), layer))
    assert certificate.bound == pytest.approx(9.0)
    assert len(certificate.layers) == 3
    spline = SplineActivation(2, slopes="free")
    with torch.no_grad():
        spline.raw.fill_(3.0)
    assert lipschitz_certificate(nn.Sequential(spline, nn.Sequential(spline))).bound == pytest.approx(9.0)
    half = dense(1.05)
    with pytest.raises(UsageError, match="only known to be"):
        InvertibleResidual(nn.Sequential(half, half), contraction=0.92)


def test_layers_that_work_in_place_leave_the_input() -> None:
    x = torch.randn(5, 2, generator=seeded(1))
    layer = InvertibleResidual(nn.Sequential(nn.ReLU(inplace=True), dense(1.0)), contraction=0.5)
    expected = x + 0.5 * x.relu()
    before = x.clone()
    y = layer(x).detach()
    assert torch.equal(x, before)
    torch.testing.assert_close(y, expected)
    kept = y.clone()
    found = layer.inverse(y, tolerance=1e-5)
    assert torch.equal(y, kept)
    torch.testing.assert_close(found.points, x, rtol=0, atol=1e-5)


def test_branches_have_to_keep_the_shape() -> None:
    layer = InvertibleResidual(settle(nn.Sequential(nn.Linear(4, 1))))
    for use in (layer, layer.inverse):
        with pytest.raises(UsageError, match=r"shape \(3, 1\) of \(3, 4\)"):
            use(torch.randn(3, 4))


SUBCLASSES: list[tuple[type[nn.Module], tuple[object, ...]]] = [
    (nn.Linear, (2, 2)),
    (nn.Conv2d, (1, 1, 3)),
    (nn.LeakyReLU, (0.1,)),
    (nn.Hardtanh, ()),
    (nn.Softshrink, (0.5,)),
    (nn.ELU, ()),
    (nn.Softmax, (-1,)),
    (nn.ReLU, ()),
    (nn.Flatten, ()),
    (CatalogueActivation, ("arctan",)),
    (SplineActivation, (2,)),
]


@pytest.mark.parametrize(("kind", "settings"), SUBCLASSES, ids=[kind.__name__ for kind, _ in SUBCLASSES])
def test_subclasses_and_replaced_methods_are_not_believed(kind: type[nn.Module], settings: tuple[object, ...]) -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return 2 * kind.forward(self, x)

    doubled = type("Doubled", (kind,), {"forward": forward})
    with pytest.raises(UsageError, match="layer 1, Doubled has no Lipschitz bound"):
        lipschitz_certificate(nn.Sequential(nn.Identity(), doubled(*settings)))
    layer = kind(*settings)
    assert lipschitz_certificate(layer).bound > 0
    layer.forward = lambda x: 2 * x  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="its own forward"):
        lipschitz_certificate(layer)


def test_replaced_methods_of_a_sequence_are_not_believed() -> None:
    network = nn.Sequential(dense(1.0))
    network.forward = lambda x: 9 * x  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="network has its own forward"):
        lipschitz_certificate(network)


@pytest.mark.parametrize("contraction", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("kind", ["slow", "dense", "biased"])
def test_the_error_bound_counts_rounding(contraction: float, kind: str) -> None:
    """In float32 against the answer in float64: what rounding adds is amplified by 1/(1 - q)."""
    torch.manual_seed(2)
    branch: nn.Module = nn.Sequential(dense(-1.0, 4))
    if kind != "slow":
        branch = settle(lipschitz_mlp((4, 16, 16, 4)))
    if kind == "biased":
        with torch.no_grad():
            branch[0].bias.add_(3.0)
    layer = InvertibleResidual(branch, contraction=contraction)
    y = torch.randn(20, 4, generator=seeded(3)) * torch.logspace(-2, 3, 20)[:, None]
    exact = copy.deepcopy(layer).double().inverse(y.double(), tolerance=1e-9)
    found = layer.inverse(y, tolerance=1e-12)
    error = (found.points.double() - exact.points).norm(dim=1)
    assert bool((error <= found.error_bound + exact.error_bound).all())
    assert bool((found.error_bound > 0).all())
    # Not without a use: within the precision of the type, amplified.
    size = y.norm(dim=1) + exact.points.norm(dim=1)
    assert bool((found.error_bound <= 20 * torch.finfo(torch.float32).eps / (1 - contraction) * size).all())


@pytest.mark.parametrize(
    ("branch", "shape"),
    [
        (nn.Sequential(nn.Flatten(0, -1), nn.Unflatten(0, (3, 4))), (3, 4)),
        (nn.Sequential(nn.Flatten(-2, -1), nn.Unflatten(0, (3, 4))), (3, 4)),
        (nn.Sequential(nn.Unflatten(0, (1, 3)), nn.Flatten(0, 1)), (3, 4)),
        (nn.Conv2d(3, 3, 1, bias=False), (3, 5, 5)),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv2d(3, 3, 1, bias=False), nn.Flatten()), (3, 4)),
    ],
    ids=["flatten", "negative", "unflatten", "one image", "one image inside"],
)
def test_branches_that_join_samples_are_refused(branch: nn.Module, shape: tuple[int, ...]) -> None:
    layer = InvertibleResidual(settle(branch), contraction=0.5)
    with pytest.raises(UsageError, match="joins the first axis"):
        layer.inverse(torch.randn(shape, generator=seeded(4)))


def test_flattened_images_stay_apart() -> None:
    branch = settle(
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten(-3, -1), nn.Linear(18, 18), nn.Unflatten(-1, (2, 3, 3)))
    )
    layer, x = InvertibleResidual(branch, contraction=0.5), torch.randn(4, 2, 3, 3, generator=seeded(5))
    found = layer.inverse(layer(x).detach(), tolerance=1e-4)
    assert bool(((found.points - x).flatten(1).norm(dim=1) <= found.error_bound).all())


def test_inverses_of_impossible_inputs_are_refused() -> None:
    layer = InvertibleResidual(settle(nn.Sequential(nn.Linear(2, 2))), contraction=0.5)
    with pytest.raises(UsageError, match="add an axis"):
        layer.inverse(torch.ones(2))
    with pytest.raises(UsageError, match="range of"):
        layer.inverse(torch.full((1, 2), 3.4e38))
    with pytest.raises(UsageError, match="range of"):
        copy.deepcopy(layer).double().inverse(torch.full((1, 2), 1.7e308, dtype=torch.float64))
    assert bool(torch.isfinite(layer.inverse(torch.full((1, 2), 1e30)).error_bound).all())
    assert layer.inverse(torch.full((1, 2), 1e10), tolerance=5e-324).iterations < 100
    layer.contraction = 1.5
    for use in (layer.rate, lambda: layer.inverse(torch.ones(1, 2))):
        with pytest.raises(UsageError, match="contraction is"):
            use()


def broken_spline(change: Callable[[SplineActivation], object]) -> SplineActivation:
    layer = SplineActivation(2, slopes="free")
    with torch.no_grad():
        change(layer)
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        broken_spline(lambda layer: layer.raw[3].fill_(math.nan)),
        broken_spline(lambda layer: layer.raw[3].fill_(math.inf)),
        broken_spline(lambda layer: layer.middle.fill_(math.nan)),
        broken_spline(lambda layer: layer.positions[3].fill_(math.inf)),
        broken_spline(lambda layer: layer.positions.copy_(layer.positions.flip(0))),
        broken_spline(lambda layer: layer.positions[3].copy_(layer.positions[2])),
        nn.Linear(2, 2).apply(lambda layer: nn.init.constant_(layer.bias, math.nan)),
        nn.Conv2d(1, 1, 1).apply(lambda layer: nn.init.constant_(layer.bias, math.inf)),
        nn.Linear(2, 2).apply(lambda layer: nn.init.constant_(layer.weight, math.inf)),
        nn.Conv2d(1, 1, 1).apply(lambda layer: nn.init.constant_(layer.weight, math.nan)),
    ],
    ids=["slope", "infinite slope", "value", "knot", "falling", "twice", "bias", "conv bias", "weight", "conv weight"],
)
def test_numbers_that_are_none_are_refused_by_the_name_of_the_layer(layer: nn.Module) -> None:
    with pytest.raises(UsageError, match=f"layer 1, {type(layer).__name__}"):
        lipschitz_certificate(nn.Sequential(nn.Identity(), layer))


def test_weights_that_change_by_themselves_are_refused() -> None:
    dropped = nn.Linear(3, 3)
    parametrize.register_parametrization(dropped, "weight", nn.Dropout(0.5))
    for layer in (dropped, parametrizations.spectral_norm(nn.Linear(3, 3))):
        with pytest.raises(UsageError, match="in training mode"):
            lipschitz_certificate(layer)
        assert lipschitz_certificate(layer.eval()).bound > 0
    for layer in (parametrizations.orthogonal(nn.Linear(3, 3)), parametrizations.weight_norm(nn.Linear(3, 3))):
        assert lipschitz_certificate(layer.train()).bound > 0


@pytest.mark.parametrize(
    ("layer", "factor"),
    [
        (nn.Linear(6, 6), 8e38),
        (nn.Linear(6, 6).double(), 1e200),
        (nn.Conv2d(2, 2, 3).double(), 1e200),
        (nn.Conv2d(2, 2, 3), 1e39),
        (nn.Linear(6, 6).bfloat16(), 10.0),
    ],
    ids=["dense float32", "dense float64", "convolution float64", "convolution float32", "bfloat16"],
)
def test_settle_keeps_the_direction_of_huge_weights(layer: nn.Linear | nn.Conv2d, factor: float) -> None:
    torch.manual_seed(7)
    layer.reset_parameters()
    direction = layer.weight.detach().double()
    with torch.no_grad():
        layer.weight.copy_(direction * factor)
    assert bool(torch.isfinite(layer.weight).all())
    bound = lipschitz_certificate(settle(layer)).bound
    assert 0.9 < bound <= 1
    share = layer.weight.detach().double() / direction
    assert float(share.max() / share.min()) == pytest.approx(1, abs=0.05)


def test_settle_changes_nothing_where_it_refuses() -> None:
    network = nn.Sequential(dense(5.0), parametrizations.orthogonal(nn.Linear(2, 2)), nn.BatchNorm1d(2))
    with pytest.raises(UsageError, match="layer 2, BatchNorm1d has no"):
        settle(network)
    assert torch.equal(network[0].weight, dense(5.0).weight)
    assert parametrize.is_parametrized(network[1], "weight")


def test_settle_says_where_a_type_has_too_few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convexblocks.networks.lipschitz.SETTLING_STEPS", 0)
    with pytest.raises(UsageError, match="layer 0 is still only known"):
        settle(dense(2.0))


def test_slopes_are_checked_without_hidden_layers_too() -> None:
    with pytest.raises(UsageError, match=r"within \[-1, 1\]"):
        lipschitz_mlp((3, 1), slopes="free")
