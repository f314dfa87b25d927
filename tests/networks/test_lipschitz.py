"""Certified Lipschitz constants: what they bound, how well they are known, what is refused; invertible layers."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import make_moons
from torch import nn
from torch.nn.utils import parametrizations

from convexblocks.formulations import UsageError
from convexblocks.formulations.activations import activation
from convexblocks.networks.invertible import InvertibleResidual
from convexblocks.networks.lipschitz import LipschitzCertificate, lipschitz_certificate, lipschitz_mlp, settle
from convexblocks.solvers.layered import CatalogueActivation
from convexblocks.solvers.spline_activation import SplineActivation


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def convolutional() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 5, padding=2, padding_mode="circular", groups=2), SplineActivation(1)),
        nn.Conv2d(4, 6, 3, stride=2, dilation=2, padding="valid"),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 3),
        nn.Softmax(dim=1),
    )


def jacobian_norms(network: nn.Module, points: torch.Tensor) -> torch.Tensor:
    """Largest singular values of the Jacobian at every point."""
    function = torch.func.jacrev(lambda x: network(x[None])[0])
    return torch.linalg.matrix_norm(torch.stack([function(x) for x in points]).detach(), 2)


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_no_jacobian_exceeds_the_bound(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "dense":
        network = nn.Sequential(nn.Linear(64, 20), SplineActivation(20, slopes="free"), nn.Linear(20, 5), nn.ELU())
        with torch.no_grad():
            network[1].raw.copy_(torch.randn(20, 20, generator=seeded(3)))
    else:
        network = convolutional()
    certificate = lipschitz_certificate(network)
    points = torch.randn(20, 64, generator=seeded(2))
    found = float(jacobian_norms(network.double(), points.double()).max())
    assert 0 < found <= certificate.bound
    assert all(0 < layer.lower <= layer.upper * (1 + 1e-12) for layer in certificate.layers)
    assert max(layer.margin for layer in certificate.layers) < 0.01


def test_linear_chains_are_tight() -> None:
    """A product of orthogonal layers is as large as its certificate says."""
    network = lipschitz_mlp((6, 6, 6), slopes="nonexpansive").double()
    certificate = lipschitz_certificate(network)
    found = float(jacobian_norms(network, torch.full((1, 6), 0.1).double()))
    assert found == pytest.approx(certificate.bound, rel=1e-6)
    assert 1 <= certificate.bound < 1 + 1e-6


def test_the_weakest_evidence_counts() -> None:
    network = convolutional()
    certificate = lipschitz_certificate(network)
    assert certificate.evidence == "verified"
    assert {layer.evidence for layer in certificate.layers} == {"exact", "proven", "verified"}
    text = str(certificate)
    assert text.splitlines()[-1].endswith("(verified up to rounding)")
    assert "layer 3.0, Conv2d" in text
    assert "margin" in text
    assert lipschitz_certificate(nn.Sequential(nn.Flatten(), nn.ReLU())).evidence == "exact"
    assert lipschitz_certificate(nn.ReLU()).bound == 1
    assert LipschitzCertificate(()).bound == 1


def test_a_stride_or_groups_are_parts_of_a_convolution() -> None:
    """The matrix of the layer itself, on small images."""
    for layer in (
        nn.Conv2d(2, 4, 3, stride=2, padding=2, groups=2),
        nn.Conv2d(2, 3, (3, 2), dilation=(1, 3), padding=(1, 1), padding_mode="circular"),
        nn.Conv2d(2, 3, 5, padding="same", padding_mode="circular"),
    ):
        units = torch.eye(2 * 49).reshape(-1, 2, 7, 7)
        matrix = (layer(units) - layer(torch.zeros(1, 2, 7, 7))).flatten(1).detach()
        assert float(torch.linalg.matrix_norm(matrix, 2)) <= lipschitz_certificate(layer).bound


def test_circular_padding_that_repeats_outputs_does_expand() -> None:
    """It is refused for a reason: the outputs at the border are there twice."""
    layer = nn.Conv2d(1, 1, 1, padding=2, padding_mode="circular", bias=False)
    nn.init.ones_(layer.weight)
    units = torch.eye(16).reshape(-1, 1, 4, 4)
    assert float(torch.linalg.matrix_norm(layer(units).flatten(1).detach(), 2)) > 1.5
    with pytest.raises(UsageError, match="repeat"):
        lipschitz_certificate(layer)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(3), "layer 1, BatchNorm1d has no Lipschitz bound"),
        (nn.Dropout(), "layer 1, Dropout has no"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "reflect"),
        (nn.PReLU(), "PReLU"),
        (nn.Linear(1, 1).register_forward_hook, "hooks"),
        (nn.Sequential(nn.Linear(2, 2), nn.MaxPool2d(2)), "layer 1.1, MaxPool2d"),
    ],
    ids=["batch norm", "dropout", "reflect", "prelu", "hook", "nested"],
)
def test_what_has_no_bound_is_refused(layer: object, message: str) -> None:
    if not isinstance(layer, nn.Module):
        hooked = nn.Linear(1, 1)
        hooked.register_forward_hook(lambda module, given, output: 5 * output)
        layer = hooked
    with pytest.raises(UsageError, match=message):
        lipschitz_certificate(nn.Sequential(nn.Linear(2, 2), layer))


def test_subclasses_are_not_believed() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    with pytest.raises(UsageError, match="Doubled"):
        lipschitz_certificate(Doubled(2, 2))
    with pytest.raises(UsageError, match="NaN"):
        lipschitz_certificate(nn.Linear(2, 2).apply(lambda layer: nn.init.constant_(layer.weight, math.nan)))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "leaky_relu(0.3)", "softmax", "arctan"])
def test_activations_have_their_slope(name: str) -> None:
    bound = lipschitz_certificate(CatalogueActivation(name)).bound
    assert bound == max(map(abs, activation(name).slopes)) <= 1


def test_settle_makes_plain_weights_of_norm_one() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), parametrizations.orthogonal(nn.Linear(75, 9)), nn.Linear(9, 2)
    )
    with torch.no_grad():
        network[0].weight.mul_(40)
        network[3].weight.mul_(0.01)
    last = network[3].weight.clone()
    inputs = torch.randn(4, 1, 5, 5, generator=seeded())
    middle = network[2].weight.clone()
    assert settle(network) is network
    assert [name for name, _ in network.named_parameters()] == [
        "0.weight", "0.bias", "2.bias", "2.weight", "3.weight", "3.bias",
    ]  # fmt: skip
    torch.testing.assert_close(network[2].weight, middle, rtol=0, atol=1e-5)
    assert torch.equal(network[3].weight, last)
    certificate = lipschitz_certificate(network)
    assert certificate.bound <= certificate.layers[3].upper
    assert certificate.layers[0].upper == pytest.approx(1, abs=1e-5)
    assert network(inputs).shape == (4, 2)


def test_widths_and_slopes_are_checked() -> None:
    with pytest.raises(UsageError, match="widths"):
        lipschitz_mlp((3,))
    with pytest.raises(UsageError, match=r"within \[-1, 1\]"):
        lipschitz_mlp((3, 3, 1), slopes="monotone")


def test_two_moons_certified_after_training() -> None:
    """Scores of a 1-Lipschitz network: |score| is a radius in which the class cannot change."""
    X, y = make_moons(400, noise=0.1, random_state=0)
    inputs, signs = torch.tensor(X, dtype=torch.float32), torch.tensor(2.0 * y - 1, dtype=torch.float32)
    torch.manual_seed(0)
    network = lipschitz_mlp((2, 32, 32, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(250):
        optimizer.zero_grad()
        # The margin wanted is the radius: 0.3 of a distance of about 0.5 between the moons.
        torch.relu(0.3 - signs * network(inputs)[:, 0]).mean().backward()
        optimizer.step()
    certificate = lipschitz_certificate(settle(network))
    assert certificate.bound <= 1
    assert certificate.evidence == "proven"
    scores = network(inputs)[:, 0].detach()
    assert float((scores * signs > 0).float().mean()) > 0.97
    assert float((scores * signs > 0.1).float().mean()) > 0.9

    # No step towards the other class, of less than the radius, changes the class.
    moved = inputs.clone().requires_grad_(True)
    for _ in range(20):
        gradient = torch.autograd.grad((network(moved)[:, 0] * scores.sign()).sum(), moved)[0]
        direction = gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
        offset = moved.detach() - 0.05 * scores.abs()[:, None] * direction - inputs
        length = offset.norm(dim=1, keepdim=True).clamp(min=1e-12)
        offset = offset * (0.999 * scores.abs()[:, None] / length).clamp(max=1)
        moved = (inputs + offset).requires_grad_(True)
    assert bool((network(moved)[:, 0] * scores.sign() > 0).all())


@pytest.mark.parametrize("contraction", [0.5, 0.9])
def test_inverse_goes_round_trip_within_its_bound(contraction: float) -> None:
    torch.manual_seed(4)
    layer = InvertibleResidual(settle(lipschitz_mlp((6, 24, 6))), contraction=contraction).double()
    with torch.no_grad():
        layer.branch[1].raw.copy_(torch.randn(20, 24, generator=seeded(5)))
    x = 3 * torch.randn(50, 6, generator=seeded(6), dtype=torch.float64)
    y = layer(x).detach()
    for tolerance in (1e-2, 1e-10):
        found = layer.inverse(y, tolerance=tolerance)
        error = (found.points - x).norm(dim=1)
        assert float(found.error_bound.max()) <= tolerance
        assert bool((error <= found.error_bound + 1e-14).all())
    assert found.rate <= contraction
    # The rate is geometric, and no worse than certified.
    assert found.iterations <= math.ceil(math.log(1e-13) / math.log(contraction))
    other = layer.inverse(y.flip(0)).points.flip(0)
    torch.testing.assert_close(other, found.points, rtol=0, atol=2e-5)


def test_images_go_through_a_convolutional_branch_and_back() -> None:
    torch.manual_seed(5)
    branch = settle(nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), SplineActivation(1), nn.Conv2d(8, 2, 3, padding=1)))
    layer, x = InvertibleResidual(branch, contraction=0.8), torch.randn(3, 2, 9, 7, generator=seeded(7))
    found = layer.inverse(layer(x).detach(), tolerance=1e-4)
    assert float((found.points - x).flatten(1).norm(dim=1).max()) <= 1e-4
    # Beyond what float32 can do the bound that was reached is returned, and the loop ends.
    assert layer.inverse(layer(x).detach(), tolerance=1e-12).iterations < 200


def test_a_tampered_weight_is_refused() -> None:
    layer = InvertibleResidual(settle(lipschitz_mlp((3, 8, 3))))
    y = torch.randn(2, 3, generator=seeded(8))
    assert layer.inverse(y).rate < 1
    with torch.no_grad():
        layer.branch[2].weight[0, 0] += 0.8
    with pytest.raises(UsageError, match="only known to be"):
        layer.inverse(y)
    with pytest.raises(UsageError, match="only known"):
        InvertibleResidual(layer.branch)
    with pytest.raises(UsageError, match="contraction"):
        InvertibleResidual(nn.Identity(), contraction=1.0)
    with pytest.raises(UsageError, match="finite"):
        InvertibleResidual(nn.Identity()).inverse(torch.full((1, 2), math.nan))
    assert InvertibleResidual(nn.Identity(), contraction=0.5).inverse(torch.empty(0, 3)).points.shape == (0, 3)


def test_the_layer_stays_invertible_while_it_is_trained() -> None:
    torch.manual_seed(6)
    layer = InvertibleResidual(lipschitz_mlp((2, 16, 2)), contraction=0.9)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    x = torch.randn(64, 2, generator=seeded(9))
    first = last = math.inf
    for step in range(40):
        optimizer.zero_grad()
        loss = (layer(x) - x.sin()).square().mean()
        loss.backward()
        optimizer.step()
        first, last = (float(loss.detach()) if step == 0 else first), float(loss.detach())
        if step % 10 == 0:
            assert layer.rate() < 0.9001
    assert last < first
