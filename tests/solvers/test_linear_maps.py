"""Layers as linear maps with rows: against torch's own layers and gradients, adjoints, blocks, training, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from convexblocks.formulations import TargetBlocks, UsageError
from convexblocks.formulations.formulation import Architecture
from convexblocks.formulations.losses import LOSSES, find_loss
from convexblocks.formulations.target_blocks import explicit_target, target_block
from convexblocks.networks import graph_network, lenet5, normalized_adjacency, train_adam
from convexblocks.solvers import agree, fit, fit_targets, fold_batch_norm, load
from convexblocks.solvers.graph_convolution import GraphConvolution
from convexblocks.solvers.graph_reach import restrict
from convexblocks.solvers.layer_pass import layer_output, layer_pass
from convexblocks.solvers.layered import read_network
from convexblocks.solvers.linear_maps import LinearMap, linear_map
from convexblocks.solvers.whitening import whiten

SAMPLES, NODES = 6, 9
EDGES = np.array([[0, 1, 2, 3, 4, 5, 6, 0], [1, 2, 3, 4, 5, 6, 7, 4]])
ADJACENCY = normalized_adjacency(EDGES, NODES)
WHOLE: dict[str, Any] = {"step": 1.0, "momentum": 0.0, "proximity": 0.3}
CONVOLUTIONS = {
    "plain": {"kernel_size": 3}, "strides": {"kernel_size": 3, "stride": (2, 1)},
    "padding": {"kernel_size": (3, 2), "padding": (1, 2)}, "dilation": {"kernel_size": 2, "dilation": 2},
    "same": {"kernel_size": 3, "padding": "same"}, "valid": {"kernel_size": 3, "padding": "valid"},
    "left over": {"kernel_size": 2, "stride": 2},
}  # fmt: skip
POOLS = {
    "tiles": nn.AvgPool2d(2), "left over": nn.AvgPool2d((2, 3)), "overlap": nn.AvgPool2d(3, stride=1),
    "padding": nn.AvgPool2d(2, padding=1, count_include_pad=False), "divisor": nn.AvgPool2d(2, divisor_override=3),
}  # fmt: skip


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer_and_input(kind: str, name: str) -> tuple[LinearMap, Tensor]:
    if kind == "convolution":
        return linear_map(nn.Conv2d(2, 4, **CONVOLUTIONS[name]).double()), drawn(SAMPLES, 2, 7, 8)
    adjacency = ADJACENCY if name == "sparse" else ADJACENCY.toarray()
    return linear_map(GraphConvolution(3, 4, adjacency).double()), drawn(2, NODES, 3)


LAYERS = [*(("convolution", name) for name in CONVOLUTIONS), ("graph", "sparse"), ("graph", "dense")]


@pytest.mark.parametrize(("kind", "name"), LAYERS)
def test_rows_times_weights_is_the_layer_and_its_gradients_are_those_of_torch(kind: str, name: str) -> None:
    layer, x = layer_and_input(kind, name)
    x.requires_grad_()
    u = layer.module(x)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    same = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(layer.apply(x.detach(), weight, bias), u.detach(), **same)
    rows = layer.rows(x.detach())
    torch.testing.assert_close(rows @ weight.T + bias, layer.as_rows(u.detach()), **same)
    slopes = drawn(*u.shape, seed=1)
    wanted = torch.autograd.grad(u, [x, layer.module.weight, layer.module.bias], slopes)
    torch.testing.assert_close(layer.pull_back(slopes, weight, x.detach()), wanted[0], **same)
    torch.testing.assert_close(layer.gradient(slopes, x.detach()), wanted[1].flatten(1), **same)
    torch.testing.assert_close(layer.as_rows(slopes).T @ rows, wanted[1].flatten(1), **same)
    torch.testing.assert_close(layer.bias_gradient(slopes), wanted[2], **same)


@pytest.mark.parametrize("name", POOLS)
def test_fixed_operations_and_their_adjoints(name: str) -> None:
    x = drawn(3, 2, 6, 8)
    before = (POOLS[name], nn.Flatten())
    layer = LinearMap(nn.Linear(1, 1), before)
    arrived = layer.arrive(x)
    slopes = drawn(*arrived.shape, seed=1)
    assert float((arrived * slopes).sum()) == pytest.approx(float((x * layer.depart(slopes, x)).sum()), rel=1e-10)


def pictures(loss: str = "softmax_cross_entropy") -> tuple[nn.Sequential, np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 1 if loss == "logistic" else 3),
    ).double()  # fmt: skip
    rng = np.random.default_rng(0)
    y = rng.standard_normal((SAMPLES, 3)) if loss == "squared" else rng.integers(0, 2, SAMPLES)
    y = np.arange(SAMPLES) % (2 if loss == "logistic" else 3) if loss != "squared" else y
    return network, rng.standard_normal((SAMPLES, 1, 6, 6)), y


def graphs() -> tuple[nn.Sequential, np.ndarray, np.ndarray]:
    network = graph_network(ADJACENCY, (4, 5, 3), "tanh", random_state=0, dtype=torch.float64)
    rng = np.random.default_rng(0)
    return network, rng.standard_normal((NODES, 4)), np.array([0, 1, 2, -1, -1, -1, -1, -1, -1])


@pytest.mark.parametrize("loss", LOSSES)
def test_pass_of_a_convolutional_network_is_that_of_autograd(loss: str) -> None:
    network, X, y = pictures(loss)
    read, inputs = read_network(network, dense=False), torch.tensor(X)
    weights, biases = read.parameters()
    wanted = torch.as_tensor(find_loss(loss).encode(y, read.widths[-1]))
    found = layer_pass(
        read.maps, read.activations, lambda u: find_loss(loss).gradient(u, wanted), weights, biases, inputs
    )
    kept, x = [], inputs
    for module in network:
        x = module(x)
        kept.append(x)
        x.retain_grad()
    find_loss(loss).values(x, wanted).sum().backward()
    for slopes, place in zip(found.slopes, (0, 3, 6), strict=True):
        torch.testing.assert_close(slopes, kept[place].grad, rtol=1e-9, atol=1e-12)
    for slopes, place in zip(found.activation_slopes, (1, 4), strict=True):
        torch.testing.assert_close(slopes, kept[place].grad, rtol=1e-9, atol=1e-12)
    output = layer_output(read.maps, read.activations, weights, biases, inputs)
    torch.testing.assert_close(output, network(inputs).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 2.0])
@pytest.mark.parametrize("make", [pictures, graphs], ids=["pictures", "graphs"])
def test_a_step_is_the_gradient_times_the_inverse_of_the_matrix_of_the_rows(make: Any, weight_decay: float) -> None:
    """All rows of all samples that the loss depends on, divided by the number of samples (labelled nodes)."""
    network, X, y = make()
    before = copy.deepcopy(network)
    method = TargetBlocks(batch_size=SAMPLES, **WHOLE)
    fit_targets(network, (X, y), method, loss="softmax_cross_entropy", weight_decay=weight_decay, sweeps=1)
    read, known = read_network(before, dense=False), y >= 0
    samples, x = int(known.sum()), torch.tensor(X)
    value = nn.functional.cross_entropy(before(x)[torch.tensor(known)], torch.tensor(y[known]), reduction="sum")
    (value + weight_decay / 2 * sum((layer.weight**2).sum() for layer in read.maps)).backward()
    # Of the graph the first three nodes are in the loss; it sees their neighbours 3 and 4 in the first layer.
    reached = [[0, 1, 2, 3, 4], [0, 1, 2]] if make is graphs else [slice(None)] * 3
    for place, (layer, now) in enumerate(zip(read.maps, read_network(network, dense=False).maps, strict=True)):
        rows = layer.rows(layer.arrive(x.detach()))[reached[place]]
        columns = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
        ridge = torch.full((columns.shape[1],), 0.3 + weight_decay / samples, dtype=torch.float64)
        ridge[-1] = 0.3
        hessian = columns.T @ columns / samples + torch.diag(ridge)
        gradient = torch.cat([layer.module.weight.grad.flatten(1), layer.module.bias.grad[:, None]], 1) / samples
        packed = torch.cat([layer.weight, layer.bias[:, None]], 1) - torch.linalg.solve(hessian, gradient.T).T
        torch.testing.assert_close(torch.cat([now.weight, now.bias[:, None]], 1), packed, rtol=1e-8, atol=1e-10)
        x = layer.module(layer.arrive(x))
        x = read.activations[place].phi(x) if place < len(read.activations) else x


def test_the_block_of_a_convolution_is_a_weight_block_on_patches() -> None:
    """The engine against Clarabel on the rows of a convolution, and its gradient against autograd."""
    network, X, y = pictures()
    read, loss = read_network(network, dense=False), find_loss("softmax_cross_entropy")
    wanted = torch.as_tensor(loss.encode(y, 3))
    found = layer_pass(
        read.maps, read.activations, lambda u: loss.gradient(u, wanted), *read.parameters(), torch.tensor(X)
    )
    architecture: Architecture = read.architecture(loss, 0.5)
    for place, layer in enumerate(read.maps[:2]):
        rows, slopes = layer.rows(found.arriving[place]), layer.as_rows(found.slopes[place])
        sizes = {"rows": len(rows), "inputs": rows.shape[1], "batch": SAMPLES, "samples": SAMPLES}
        block = target_block(architecture, place + 1, proximity=0.3, **sizes)
        target = explicit_target(block.activation, layer.as_rows(found.pre_activations[place]), slopes)
        data = {"X": rows, "v": target.T, "w_old": layer.weight.detach(), "c_old": layer.bias.detach()}
        assert agree(block, data).agrees


@pytest.mark.parametrize("make", [pictures, graphs], ids=["pictures", "graphs"])
def test_exact_blocks_agree_with_steps_where_the_proximal_term_is_large(make: Any) -> None:
    ends = []
    for exact in (False, True):
        network, X, y = make()
        start = [parameter.detach().clone() for parameter in network.parameters()]
        method = TargetBlocks(**{**WHOLE, "proximity": 1e4}, exact=exact)
        fit_targets(network, (X, y), method, loss="softmax_cross_entropy", sweeps=1)
        ends.append([now.detach() - old for now, old in zip(network.parameters(), start, strict=True)])
    for step, solved in zip(*ends, strict=True):
        assert float((step - solved).norm()) < 1e-2 * float(step.norm())


@pytest.mark.parametrize("make", [pictures, graphs], ids=["pictures", "graphs"])
def test_training_falls_and_a_run_is_written_and_loaded(make: Any, tmp_path: Path) -> None:
    network, X, y = make()
    history = fit_targets(network, (X, y), weight_decay=0.01, sweeps=60, out=tmp_path / "run", validation=(X, y))
    assert history.last["objective"] < 0.7 * history.records[0]["objective"]
    assert history.last["train_accuracy"] == history.last["test_accuracy"]
    assert history.settings["samples"] == (y >= 0).sum()
    run = load(tmp_path / "run")
    assert str(run.module) == str(network)
    with torch.no_grad():
        wanted = network(torch.tensor(X))
        torch.testing.assert_close(run.module(torch.tensor(X)), wanted)
    np.testing.assert_array_equal(run.predict(X), wanted.argmax(-1).numpy())
    weights, _ = run.saved.weights_after(60)
    for weight, layer in zip(weights, read_network(network, dense=False).maps, strict=True):
        torch.testing.assert_close(weight, layer.weight.detach())


def test_several_graphs_and_nodes_without_target_in_some_of_them() -> None:
    network, X, y = graphs()
    many, labels = np.stack([X, -X, X + 1]), np.stack([y, np.roll(y, 1), np.roll(y, 2)])
    history = fit_targets(network, (many, labels), TargetBlocks(batch_size=2), weight_decay=0.0, sweeps=60)
    assert history.last["true_loss"] < 0.7 * history.records[0]["true_loss"]
    output = network(torch.tensor(many)).detach()
    known = torch.tensor(labels >= 0)
    wanted = nn.functional.cross_entropy(output[known], torch.tensor(labels)[known], reduction="sum")
    assert history.last["true_loss"] == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize("sparse", [True, False])
def test_the_part_of_a_graph_that_the_loss_sees_computes_the_same(sparse: bool) -> None:
    network = graph_network(ADJACENCY if sparse else ADJACENCY.toarray(), (4, 5, 6, 3), random_state=0).double()
    read, X = read_network(network, dense=False), drawn(1, NODES, 4)
    labelled = torch.zeros(1, NODES, dtype=torch.bool)
    labelled[0, [0, 8]] = True
    maps, inputs, targets = restrict(read.maps, X, drawn(1, NODES, 3), labelled)
    assert targets.shape == (1, 2, 3)
    assert inputs.shape[1] < NODES
    output = layer_output(maps, read.activations, *read.parameters(), inputs)
    torch.testing.assert_close(output, network(X).detach()[:, [0, 8]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_whitened_steps_are_steps_in_the_coordinates_of_the_network(decay: float, bias: bool) -> None:
    X, slopes, weights = drawn(30, 5), drawn(30, 3, seed=1), drawn(3, 5, seed=2)
    ridge = torch.full((5,), decay + 0.1, dtype=torch.float64)
    kept = torch.ones(5, dtype=torch.float64)
    if bias:
        X[:, -1], ridge[-1], kept[-1] = 1.0, 0.1, 0.0
    hessian = X.T @ X / 30 + torch.diag(ridge)
    found = whiten(hessian, decay, bias=bias)
    torch.testing.assert_close(found.inputs(X) @ found.weights(weights).T, X @ weights.T)
    torch.testing.assert_close(found.restore(found.weights(weights)), weights)
    wanted = weights - torch.linalg.solve(hessian, (slopes.T @ X / 30 + decay * weights * kept).T).T
    white = found.weights(weights)
    torch.testing.assert_close(found.restore(white - slopes.T @ found.inputs(X) / 30 - white * found.decay), wanted)


@pytest.mark.parametrize("weight_decay", [0.0, 5.0])
def test_whitened_training_is_training_without(weight_decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for pays in (True, False):
        monkeypatch.setattr("convexblocks.solvers.target_steps._whitening_pays", lambda training, pays=pays: pays)
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        X, y = drawn(40, 4).numpy(), np.arange(40) % 3
        fit_targets(network, (X, y), TargetBlocks(batch_size=10), weight_decay=weight_decay, sweeps=5)
        ends.append([parameter.detach() for parameter in network.parameters()])
    for with_them, without in zip(*ends, strict=True):
        torch.testing.assert_close(with_them, without, rtol=1e-8, atol=1e-10)


def test_folded_batch_normalization_computes_the_same() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.BatchNorm1d(4),
        nn.Tanh(), nn.Linear(4, 2),
    ).double()  # fmt: skip
    X = drawn(20, 1, 6, 6)
    network(X)
    with pytest.raises(UsageError, match=r"layer 1 .*training mode.*network.eval\(\).*fold_batch_norm"):
        read_network(network, dense=False)
    with pytest.raises(UsageError, match=r"layer 1 .*statistics of each batch.*network.eval\(\)"):
        fold_batch_norm(network)
    with pytest.raises(UsageError, match=r"layer 1 .*affine in evaluation mode.*train fold_batch_norm"):
        read_network(network.eval(), dense=False)
    folded = fold_batch_norm(network)
    torch.testing.assert_close(folded(X), network(X), rtol=1e-10, atol=1e-10)
    assert len(read_network(folded, dense=False).maps) == 3
    with pytest.raises(UsageError, match="does not follow a layer of its kind"):
        fold_batch_norm(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.BatchNorm1d(3)).eval())


LAST = [nn.Flatten(), nn.Linear(8, 2)]
REFUSED = {
    "max pooling": ([nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), *LAST], "maximum .* no monotone .*AvgPool2d"),
    "groups": ([nn.Conv2d(2, 2, 3, groups=2), *LAST], "has 2 groups; expected 1"),
    "padding mode": ([nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), *LAST], "pads by 'reflect'"),
    "uneven": ([nn.Conv2d(1, 2, 2, padding="same"), *LAST], "one side more than the other"),
    "pool first": ([nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.ReLU(), *LAST], "right after its layer"),
    "pool last": ([nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2)], "ends with AvgPool2d"),
    "softmax": ([nn.Conv2d(1, 2, 3), nn.Softmax(dim=-1), *LAST], "softmax follows Conv2d"),
    "sample axis": ([nn.Flatten(0), nn.Linear(8, 2)], "first axis, that of the samples"),
    "dropout": ([nn.Conv2d(1, 2, 3), nn.Dropout(), *LAST], "Beside them: Conv2d, GraphConvolution"),
    "both": ([nn.Conv2d(1, 2, 3), nn.ReLU(), GraphConvolution(2, 2, np.eye(3))], "graphs or pictures, not both"),
    "other graph": ([GraphConvolution(2, 2, np.eye(3)), GraphConvolution(2, 2, np.eye(4))], "expected the same graph"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_cannot_be_read_are_refused(name: str) -> None:
    modules, words = REFUSED[name]
    with pytest.raises(UsageError, match=words):
        read_network(nn.Sequential(*modules), dense=False)


@pytest.mark.parametrize("make", [pictures, graphs], ids=["pictures", "graphs"])
def test_methods_for_dense_networks_refuse_and_name_the_others(make: Any) -> None:
    network, X, y = make()
    with pytest.raises(UsageError, match=r"layer 0 \(.*Convolution|Conv2d.*for dense networks.*'targets'.*fit_targets"):
        fit(network, (X, y))


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.zeros((SAMPLES, 36)), np.arange(SAMPLES) % 3, r"expected \(samples, 1, any, any\)"),
        (np.zeros((SAMPLES, 2, 6, 6)), np.arange(SAMPLES) % 3, r"expected \(samples, 1, any, any\)"),
        (np.zeros((SAMPLES, 1, 9, 9)), np.arange(SAMPLES) % 3, "the network cannot read samples of shape"),
    ],
    ids=["flat", "channels", "size"],
)
def test_pictures_that_do_not_fit_are_refused(X: np.ndarray, y: np.ndarray, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fit_targets(pictures()[0], (X, y))


def test_graphs_that_do_not_fit_are_refused() -> None:
    network, X, y = graphs()
    cases = ((X[:5], y[:5], "expected"), (X, y[:5], "one target for each node"), (X, 0 * y - 1, "no node"))
    for inputs, targets, words in cases:
        with pytest.raises(UsageError, match=words):
            fit_targets(network, (inputs, targets))


def test_a_network_whose_output_is_a_picture_is_refused() -> None:
    _, X, y = pictures()
    with pytest.raises(UsageError, match="flatten the pictures"):
        fit_targets(nn.Sequential(nn.Conv2d(1, 3, 3)).double(), (X, y))


@pytest.mark.parametrize("matrix", [np.ones((2, 3)), np.full((2, 2), np.nan)], ids=["shape", "nan"])
def test_matrices_that_are_no_adjacency_are_refused(matrix: np.ndarray) -> None:
    with pytest.raises(UsageError, match="the adjacency"):
        GraphConvolution(2, 2, matrix)


@pytest.mark.parametrize("make", [sp.csr_array, np.asarray, torch.as_tensor], ids=["scipy", "numpy", "torch"])
def test_graph_convolution_takes_any_matrix(make: Any) -> None:
    dense = ADJACENCY.toarray()
    layer, x = GraphConvolution(3, 2, make(dense)).double(), drawn(NODES, 3)
    wanted = torch.tensor(dense) @ x @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(x), wanted, rtol=1e-6, atol=1e-6)


def test_lenet_reads_rows_and_is_drawn_from_the_seed() -> None:
    first, again, other = (lenet5(random_state=seed) for seed in (0, 0, 1))
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)
    read = read_network(first, dense=False)
    assert read.widths == (784, 6, 16, 120, 84, 10)
    assert [phi.label for phi in read.activations] == ["relu"] * 4


@pytest.mark.parametrize("make", [pictures, graphs], ids=["pictures", "graphs"])
def test_adam_trains_the_same_networks(make: Any) -> None:
    network, X, y = make()
    options: dict[str, Any] = {"learning_rates": (1e-2,), "steps": 200, "validation": (X, y)}
    found = train_adam(network, (X, y), loss="softmax_cross_entropy", **options)
    assert found["train_accuracy"] == found["test_accuracy"] > 0.9
