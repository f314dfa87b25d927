"""Devices: a GPU gives what the processor gives, a step waits for nothing, and missing float64 is refused in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from convexblocks.commands.training import make_network
from convexblocks.formulations import TargetBlocks, UsageError
from convexblocks.formulations.catalogue import METHODS, method
from convexblocks.networks import load_dataset
from convexblocks.solvers import build_network, coordinator, fit, fit_lifted, fit_method, fit_targets, target_steps
from convexblocks.solvers.batch import solve_checked
from convexblocks.solvers.devices import finest, require_double, usable_devices
from convexblocks.solvers.layered import LayeredNetwork
from convexblocks.solvers.measured import Measured

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(60, 5))
Y = np.arange(60) % 3
# What makes the processor wait for the device: reading a number, or an output whose size depends on values.
WAITING = {
    "aten._local_scalar_dense", "aten.nonzero", "aten.item", "aten.masked_select", "aten.is_nonzero", "aten.equal",
    "aten.unique2", "aten._unique2", "aten._linalg_check_errors", "aten._linalg_eigh", "aten._linalg_svd",
}  # fmt: skip
COPYING = {torch.Tensor.tolist: "tolist", torch.Tensor.cpu: "cpu"}

BLOCKS = {
    "fenchel": 5, "inequality": 6, "contrastive": 7, "square": 4, "penalty": 1, "admm": 1, "dladmm": 2, "lpom": 0,
    "targets": 0, "monotone": 0,
}  # fmt: skip
"""Block solves of a sweep of `network` that iterate until they are exact: each waits once. The others wait for nothing.

Inequality lifting has two boxes, each of which takes a decomposition too, and the output, and compares two objectives
to extrapolate.
"""
TAME: dict[str, dict[str, float]] = {"inequality": {"multiplier": 1e-3, "decay": 0.5, "least_epsilon": 1e-3}}
"""Settings whose blocks are all solved when an engine looks for the first time."""
BESIDE = {"fenchel": 6}
OTHERS = 5
"""As counted, all but the looks of the engines: safeguards, and figures for the record of a sweep. Not to grow."""


class _Copies(TorchFunctionMode):
    """Counts copies to the processor, which dispatch no operation where tensors are there already."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in COPYING:
            self.seen[COPYING[func]] += 1
        return func(*args, **(kwargs or {}))


class Waits(TorchDispatchMode):
    """Counts operations for which a processor waits for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.copies = _Copies(self.seen)

    def __enter__(self) -> Waits:
        self.copies.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.copies.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        by_mask = name in ("aten.index", "aten.index_put", "aten.index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITING or by_mask:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def network(dtype: torch.dtype = torch.float64, activation: str = "relu") -> torch.nn.Sequential:
    return build_network((5, 8, 6, 3), activation, random_state=0, dtype=dtype)


def test_the_counter_sees_what_waits() -> None:
    numbers = torch.arange(4.0)
    for wait in (lambda: bool(numbers.sum() > 0), numbers.nonzero, lambda: numbers[numbers > 1],
                 numbers.tolist, numbers.cpu, lambda: torch.linalg.cholesky(torch.eye(2)),
                 lambda: torch.linalg.eigvalsh(torch.eye(2)),
                 lambda: torch.linalg.matrix_norm(torch.eye(2), 2)):  # fmt: skip
        with Waits() as waits:
            wait()
        assert waits.seen.total() >= 1
    with Waits() as waits:
        numbers[torch.tensor([1, 2])] + torch.linalg.cholesky_ex(torch.eye(2))[0].sum()
    assert not waits.seen


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_of_target_blocks_waits_for_nothing(
    activation: str, weight_decay: float, momentum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where factorizations are made, as in every step here."""
    run_sweep, counts = target_steps.run_sweep, []

    def counted(*arguments: Any) -> None:
        with Waits() as waits:
            run_sweep(*arguments)
        counts.append(waits.seen)

    monkeypatch.setattr("convexblocks.solvers.target_training.run_sweep", counted)
    settings = TargetBlocks(batch_size=20, factorize_every=1, momentum=momentum)
    fit_targets(network(activation=activation), (X, Y), settings, weight_decay=weight_decay, sweeps=3)
    assert counts == [Counter()] * 3


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is taken for a device that works on its own."""
    monkeypatch.setattr("convexblocks.formulations.waiting.AT_HAND", ())


def waits_of_a_sweep(name: str, activation: str, samples: int) -> int:
    """The difference between runs of five sweeps and of four, which start alike."""
    totals = []
    for sweeps in (4, 5):
        trained, data = network(activation=activation), (X[:samples], Y[:samples])
        options = {"tolerance": 0} if name == "fenchel" else {}
        with Waits() as waits:
            fit_method(trained, data, method(name, **TAME.get(name, {})), sweeps=sweeps, validation=(X, Y), **options)
        totals.append(waits.seen.total())
    return totals[1] - totals[0]


# A fit of splines looks at the gaps after every Newton step, and so waits as often as it takes steps.
@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("name", [name for name in METHODS if name != "splines"])
def test_a_sweep_waits_once_for_a_block_and_a_few_times_for_its_record(name: str) -> None:
    few = waits_of_a_sweep(name, "relu", 30)
    assert few == waits_of_a_sweep(name, "relu", 60), "the number must not depend on the data"
    assert few <= BLOCKS[name] + BESIDE.get(name, OTHERS)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("batches", [1, 2, 4])
def test_a_block_waits_once_and_the_safeguard_before_and_after_the_blocks(
    batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sweep, counts = coordinator.run_sweep, []

    def counted(*arguments: Any) -> Any:
        with Waits() as waits:
            record = run_sweep(*arguments)
        counts.append(waits.seen.total())
        return record

    monkeypatch.setattr("convexblocks.solvers.coordinator.run_sweep", counted)
    fit(network(), (X, Y), sweeps=3, tolerance=0, batch_size=len(X) // batches)
    # Early blocks may be hard, and take a second look; the last sweep counts the iterations of cold starts too.
    assert counts[1] == batches * BLOCKS["fenchel"] + 2


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", METHODS)
def test_rows_that_stay_masked_give_what_rows_that_leave_give(
    name: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a device that works on its own computes, on the processor: the same but for rounding."""
    runs = []
    for at_hand in (("cpu",), ()):
        monkeypatch.setattr("convexblocks.formulations.waiting.AT_HAND", at_hand)
        trained = network(activation=activation)
        try:
            history = fit_method(trained, (X, Y), method(name), sweeps=4, validation=(X, Y))
        except UsageError:
            pytest.skip(f"{name} refuses {activation}")
        runs.append((history, list(trained.parameters())))
    (here, weights), (there, others) = runs
    assert there.column("objective") == pytest.approx(here.column("objective"), rel=1e-9)
    for weight, other in zip(weights, others, strict=True):
        assert torch.allclose(weight, other, rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_numbers_that_overflow_undo_a_sweep_where_nothing_is_read(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Measured:
        found = solve_checked(*arguments)
        values = {name: value * torch.nan for name, value in found.answer.values.items()}
        return replace(found, answer=replace(found.answer, values=values))

    monkeypatch.setattr("convexblocks.solvers.sweep.solve_checked", broken)
    trained = network(activation=activation)
    history = fit(trained, (X, Y), sweeps=2, tolerance=0)
    assert history.column("step")[1:] == [0.0, 0.0]
    # Layers are rebalanced before a sweep, which lowers the penalty alone.
    assert history.column("true_loss") == pytest.approx([history.records[0]["true_loss"]] * 3, rel=1e-6)


def test_devices_without_float64_are_refused_where_blocks_are_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    apple = torch.device("mps")
    assert (finest(apple), finest(torch.device("cpu"))) == (torch.float32, torch.float64)
    require_double(torch.device("cuda"), "blocks are solved")
    monkeypatch.setattr(LayeredNetwork, "device", property(lambda self: apple))
    for train in (
        lambda: fit(network(), (X, Y)),
        lambda: fit_targets(network(), (X, Y), TargetBlocks(exact=True)),
        lambda: fit_lifted(network(), (X, Y)),
    ):
        with pytest.raises(UsageError, match=r"'mps', which has no float64, .* in float64; expected .*'cpu' or 'cuda'"):
            train()


def test_devices_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_devices()[0] == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert usable_devices() == ["cpu", "cuda:0", "cuda:1", "mps"]
    with pytest.raises(UsageError, match="'cuda:7' cannot be used here; usable: cpu, cuda:0, cuda:1, mps"):
        make_network(load_dataset("iris"), [4], "relu", outputs=3, seed=0, device="cuda:7")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch could use")
@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_gives_what_the_processor_gives(name: str) -> None:
    runs = []
    for device in ("cpu", "cuda"):
        trained = network().to(device)
        history = fit_method(trained, (X, Y), method(name), sweeps=3, validation=(X, Y))
        assert {parameter.device.type for parameter in trained.parameters()} == {device}
        runs.append((history, [parameter.detach().cpu() for parameter in trained.parameters()]))
    (here, weights), (there, others) = runs
    for key in ("true_loss", "objective", "test_accuracy"):
        assert there.column(key) == pytest.approx(here.column(key), rel=1e-8)
    for weight, other in zip(weights, others, strict=True):
        assert torch.allclose(weight, other, rtol=1e-8, atol=1e-8)
