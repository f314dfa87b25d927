"""Networks in layered form: what is read, what is refused, and that modules and table compute the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from training_runs import data_for, network_for, output_of

from convexblocks.formulations import ACTIVATIONS, LOSSES, UsageError, activation
from convexblocks.formulations.formulation import forward
from convexblocks.solvers import CatalogueActivation, build_network
from convexblocks.solvers.layered import activation_module, read_activation, read_network

# Every torch module that is read, with the label of its row.
MODULES: list[tuple[nn.Module, str]] = [
    (nn.Identity(), "identity"),
    (nn.ReLU(), "relu"),
    (nn.ReLU(inplace=True), "relu"),
    (nn.LeakyReLU(), "leaky_relu(0.01)"),
    (nn.LeakyReLU(0.3), "leaky_relu(0.3)"),
    (nn.LeakyReLU(1), "leaky_relu(1)"),
    (nn.LeakyReLU(1e-5), "leaky_relu(1e-05)"),
    (nn.ReLU6(), "clipped_relu(6)"),
    (nn.Hardtanh(), "hardtanh"),
    (nn.Hardtanh(0.0, 1.5), "clipped_relu(1.5)"),
    (nn.Hardtanh(0, 2), "clipped_relu(2)"),
    (nn.Softshrink(), "soft_shrink(0.5)"),
    (nn.Softshrink(0.0), "soft_shrink(0)"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.Tanh(), "tanh"),
    (nn.Softmax(dim=-1), "softmax"),
    (nn.Softmax(dim=1), "softmax"),
    (nn.ELU(), "elu"),
    (nn.Softsign(), "softsign"),
    *((CatalogueActivation(name), activation(name).label) for name in ACTIVATIONS),
]
IDS = [str(module) for module, _ in MODULES]
WITH_PARAMETER: list[Any] = [nn.LeakyReLU, lambda level: nn.Hardtanh(0, level), nn.Softshrink]
DTYPES = [torch.float32, torch.float64]


def points(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Rows around zero, on kinks and far out."""
    ladder = torch.linspace(-8, 8, 65, dtype=dtype)
    return torch.stack([ladder, ladder.flip(0) / 3, torch.zeros_like(ladder)])


def chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


@pytest.mark.parametrize(("module", "label"), MODULES, ids=IDS)
@pytest.mark.parametrize("place", [1, 3])
def test_every_supported_module_is_read(module: nn.Module, label: str, place: int) -> None:
    modules: list[nn.Module] = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)]
    modules[place] = module
    read = read_network(chain(*modules))
    assert read.widths == (4, 5, 6, 3)
    assert read.activations[place // 2].label == activation(label).label
    assert read.activations[1 - place // 2].label == "tanh"
    # The module stays the owner: what is read are its own layers, not copies.
    assert all(mine is theirs for mine, theirs in zip(read.linears, modules[::2], strict=True))


@pytest.mark.parametrize(("module", "label"), MODULES, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_module_and_row_compute_the_same(module: nn.Module, label: str, dtype: torch.dtype) -> None:
    row = read_activation(module)
    assert row is not None
    assert (row.name, row.parameter) == (activation(label).name, activation(label).parameter)
    u = points(dtype)
    found = module(u.clone())
    assert found.dtype == dtype
    tolerance = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), row.phi(u.double()), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(row.phi(u.double().numpy()), row.phi(u.double()).numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.3)", "clipped_relu(1.5)", "soft_shrink(0.2)"])
def test_module_of_a_row_is_read_back_as_that_row(name: str) -> None:
    found = read_activation(activation_module(name))
    assert found is not None
    assert found.label == activation(name).label


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("arctan", math.atan),
        ("probit", lambda u: (1 + math.erf(u / math.sqrt(2))) / 2),
        ("exponential", math.exp),
    ],
)
def test_values_of_activations_that_torch_lacks(name: str, expected: Any) -> None:
    u = [-3.0, -0.5, 0.0, 0.25, 2.0]
    found = CatalogueActivation(name)(torch.tensor(u, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), [expected(value) for value in u], rtol=1e-13)


def test_catalogue_activation_says_which_one_it_is_and_can_be_differentiated() -> None:
    module = CatalogueActivation("leaky_relu(0.3)")
    assert "leaky_relu(0.3)" in repr(module)
    u = torch.tensor([-2.0, 3.0], requires_grad=True)
    module(u).sum().backward()
    torch.testing.assert_close(u.grad, torch.tensor([0.3, 1.0]))


@pytest.mark.parametrize("make", [CatalogueActivation, activation_module])
def test_unknown_activation_is_refused_with_the_known_ones(make: Any) -> None:
    with pytest.raises(UsageError, match=r"unknown activation 'gelu'.*relu"):
        make("gelu")


@pytest.mark.parametrize("convert", [float, np.float64, np.float32], ids=["float", "float64", "float32"])
@pytest.mark.parametrize("make", WITH_PARAMETER, ids=["leaky", "clipped", "shrink"])
def test_parameters_may_be_numbers_of_numpy(make: Any, convert: Any) -> None:
    row = read_activation(make(convert(0.25)))
    assert row is not None
    assert row.parameter == 0.25


@pytest.mark.parametrize("parameter", [1 / 3, 0.1 + 0.2, 1e-7 / 3])
@pytest.mark.parametrize("make", WITH_PARAMETER, ids=["leaky", "clipped", "shrink"])
def test_label_gives_the_parameter_back_to_the_last_bit(make: Any, parameter: float) -> None:
    # A run keeps labels; a rounded one would be another network.
    row = read_activation(make(parameter))
    assert row is not None
    assert row.parameter == parameter
    assert activation(row.label).parameter == parameter


UNSUPPORTED: list[tuple[nn.Module, str]] = [
    (nn.GELU(), "GELU"),
    (nn.SiLU(), "SiLU"),
    (nn.Dropout(0.1), "Dropout"),
    (nn.Conv2d(1, 2, 3), "Conv2d"),
    (nn.Flatten(), "Flatten"),
    (nn.Sequential(nn.ReLU()), "Sequential"),
    (nn.LeakyReLU(0.0), "LeakyReLU"),
    (nn.LeakyReLU(-0.1), "LeakyReLU"),
    (nn.LeakyReLU(1.5), "LeakyReLU"),
    (nn.Hardtanh(-2, 2), "Hardtanh"),
    (nn.Hardtanh(-1, 0), "Hardtanh"),
    (nn.ELU(0.5), "ELU"),
    (nn.Softmax(dim=0), "Softmax"),
    (nn.Softplus(), "Softplus"),
]


@pytest.mark.parametrize(("module", "name"), UNSUPPORTED, ids=lambda value: str(value).splitlines()[0])
@pytest.mark.parametrize("place", [1, 3])
def test_unsupported_layer_is_refused_by_index_and_name_with_the_remedy(
    module: nn.Module, name: str, place: int
) -> None:
    modules: list[nn.Module] = [nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)]
    modules[place] = module
    with pytest.raises(UsageError) as refusal:
        read_network(chain(*modules))
    message = str(refusal.value)
    assert f"layer {place} ({name}" in message
    assert "Supported: Linear" in message
    assert "replace or remove" in message


@pytest.mark.parametrize(
    ("network", "fragments"),
    [
        (nn.Linear(4, 3), ["is a Linear", "expected torch.nn.Sequential", "Wrap the layers"]),
        (nn.ModuleList([nn.Linear(4, 3)]), ["is a ModuleList", "expected torch.nn.Sequential", "Wrap"]),
        (chain(), ["has no Linear layer", "expected a Linear layer"]),
        (chain(nn.ReLU()), ["layer 0 (ReLU())", "does not follow a Linear layer", "remove it"]),
        (chain(nn.Tanh(), nn.Linear(4, 3)), ["layer 0 (Tanh())", "does not follow a Linear layer", "remove it"]),
        (
            chain(nn.Linear(4, 5), nn.ReLU(), nn.Tanh(), nn.Linear(5, 3)),
            ["layer 2 (Tanh())", "does not follow a Linear layer", "remove it"],
        ),
        (
            chain(nn.Linear(4, 3), nn.Softmax(dim=-1)),
            ["ends with Softmax", "expected a Linear layer at the end", "remove what follows"],
        ),
        (chain(nn.Linear(4, 3), nn.Identity()), ["ends with Identity", "remove what follows"]),
        (
            chain(nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 3)),
            ["layer 2 reads 6 inputs", "has 5 outputs", "make them equal"],
        ),
        (chain(nn.Linear(4, 5), nn.Linear(6, 3)), ["layer 1 reads 6 inputs", "has 5 outputs", "make them equal"]),
        (
            chain(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, dtype=torch.float64)),
            ["layer 2 differs", "dtype or device", "move the network as a whole"],
        ),
    ],
)
def test_network_of_another_form_is_refused(network: nn.Module, fragments: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        read_network(network)
    assert [fragment for fragment in fragments if fragment not in str(refusal.value)] == []


def test_layer_that_is_used_twice_is_refused() -> None:
    # Its two places would be trained as two layers, and the second would overwrite the first.
    shared = nn.Linear(4, 4)
    with pytest.raises(UsageError, match="layer 2"):
        read_network(chain(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 3)))


def test_weight_that_is_shared_by_two_layers_is_refused() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    with pytest.raises(UsageError, match="layer 2"):
        read_network(chain(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(4, 3)))


def test_weight_that_is_computed_from_other_parameters_is_refused() -> None:
    # What is written into such a weight is lost at the next forward pass.
    with pytest.raises(UsageError, match="layer 0"):
        read_network(chain(weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 3)))


def test_linear_layers_in_a_row_have_the_identity_between_them() -> None:
    network = chain(nn.Linear(4, 5), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2), nn.Linear(2, 3))
    read = read_network(network.double())
    assert [row.name for row in read.activations] == ["identity", "relu", "identity"]
    X = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    architecture = read.architecture(LOSSES["squared"], 0.0)
    _, output = forward(architecture, *read.parameters(), X)
    torch.testing.assert_close(output, network(X).detach(), rtol=1e-13, atol=1e-14)


def test_one_linear_layer_is_a_network() -> None:
    read = read_network(chain(nn.Linear(4, 3)))
    assert (read.widths, read.activations) == ((4, 3), ())


@pytest.mark.parametrize("biases", [(True, True), (False, True), (True, False), (False, False)])
def test_layers_without_bias_are_read_and_written(biases: tuple[bool, bool]) -> None:
    network = chain(nn.Linear(4, 5, bias=biases[0]), nn.ReLU(), nn.Linear(5, 3, bias=biases[1]))
    read = read_network(network)
    assert read.architecture(LOSSES["squared"], 0.1).biases == biases
    weights, found = read.parameters()
    for place, has in enumerate(biases):
        assert found[place].shape == (len(weights[place]),)
        assert has or not found[place].any()
    read.write([weight + 1 for weight in weights], [bias + 1 for bias in found])
    for layer, weight, bias, has in zip(read.linears, weights, found, biases, strict=True):
        assert torch.equal(layer.weight.double(), (weight + 1).to(layer.weight.dtype).double())
        assert (layer.bias is not None) is has
        assert not has or torch.equal(layer.bias.double(), (bias + 1).to(layer.bias.dtype).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_type_of_the_network_is_kept(dtype: torch.dtype) -> None:
    network = build_network((4, 5, 3), "relu", random_state=0, dtype=dtype)
    read = read_network(network)
    assert read.dtype == dtype
    weights, biases = read.parameters()
    assert {array.dtype for array in (*weights, *biases)} == {torch.float64}
    read.write([weight / 3 for weight in weights], biases)
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    # What is compared by the safeguard is what the network then really holds.
    rounded = read.round([weight / 3 for weight in weights])
    for array, layer in zip(rounded, read.linears, strict=True):
        assert torch.equal(array, layer.weight.detach().double())


def test_parameters_are_copies() -> None:
    network = network_for()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    weights, biases = read_network(network).parameters()
    for array in (*weights, *biases):
        array.fill_(7.0)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("hidden", [(), (5,), (5, 4, 3)])
def test_forward_pass_of_the_lifted_form_is_that_of_torch(name: str, hidden: tuple[int, ...]) -> None:
    network = network_for("softmax_cross_entropy", name, hidden)
    read = read_network(network)
    X, _ = data_for("softmax_cross_entropy")
    _, output = forward(read.architecture(LOSSES["softmax_cross_entropy"], 0.1), *read.parameters(), torch.tensor(X))
    torch.testing.assert_close(output, output_of(network, X), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", [0, 1])
def test_built_network_is_what_torch_would_draw_from_the_seed(seed: int) -> None:
    built = build_network((4, 5, 3), "tanh", random_state=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = chain(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    assert str(built) == str(expected)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), expected.parameters(), strict=True))


def test_built_networks_differ_with_the_seed_only() -> None:
    first, again, other = (build_network((4, 5, 3), "relu", random_state=seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_network((4, 5, 3), "relu", random_state=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("widths", [(4, 0, 3), (0, 3), (4, -1)])
def test_width_below_one_is_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="expected 1 unit or more"):
        build_network(widths, "relu", random_state=0)
