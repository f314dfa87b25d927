"""Devices: a GPU gives what the processor gives, a step waits for nothing, and missing float64 is refused in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convexblocks.commands.training import make_network
from convexblocks.formulations import TargetBlocks, UsageError
from convexblocks.formulations.catalogue import METHODS, method
from convexblocks.networks import load_dataset
from convexblocks.solvers import ENGINES, build_network, fit, fit_method, fit_targets, target_steps
from convexblocks.solvers.devices import finest, require_double, usable_devices
from convexblocks.solvers.layered import LayeredNetwork

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(60, 5))
Y = np.arange(60) % 3
# What makes the processor wait for the device: reading a number, or an output whose size depends on values.
WAITING = {
    "aten._local_scalar_dense", "aten.nonzero", "aten.item", "aten.masked_select", "aten.is_nonzero", "aten.equal",
    "aten.unique2", "aten._unique2", "aten._linalg_check_errors",
}  # fmt: skip

SOLVES = 5
"""Block solves of a batch of `network`: activations of two layers, weights of three."""
WAITS_OF_A_SOLVE = 21
"""As counted: checks of data, starts and answers, and figures for the record. Not to grow."""


class Waits(TorchDispatchMode):
    """Counts operations for which a processor waits for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

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
                 lambda: torch.linalg.cholesky(torch.eye(2))):  # fmt: skip
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


def test_waits_of_a_sweep_beside_its_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of data, residuals and figures: a fixed number for every block solve, whatever the data."""
    inside: Counter[str] = Counter()

    def counting(run: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            with Waits() as waits:
                found = run(*arguments)
            inside.update(waits.seen)
            return found

        return counted

    for name, engine in ENGINES.items():
        monkeypatch.setitem(ENGINES, name, replace(engine, run=counting(engine.run)))

    def waits_of_a_sweep(samples: int, batches: int) -> int:
        """The difference between runs of five sweeps and of four, which start alike; mini-batches are never undone."""
        totals = []
        for sweeps in (4, 5):
            inside.clear()
            trained, data = network(activation="tanh"), (X[:samples], Y[:samples])
            with Waits() as waits:
                fit(trained, data, sweeps=sweeps, tolerance=0, batch_size=samples // batches)
            totals.append(waits.seen.total() - inside.total())
        return totals[1] - totals[0]

    few, many, more = waits_of_a_sweep(30, 2), waits_of_a_sweep(60, 2), waits_of_a_sweep(60, 4)
    assert few == many
    assert (more - many) / 2 <= WAITS_OF_A_SOLVE * SOLVES


def test_devices_without_float64_are_refused_where_blocks_are_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    apple = torch.device("mps")
    assert (finest(apple), finest(torch.device("cpu"))) == (torch.float32, torch.float64)
    require_double(torch.device("cuda"), "blocks are solved")
    monkeypatch.setattr(LayeredNetwork, "device", property(lambda self: apple))
    for train in (
        lambda: fit(network(), (X, Y)),
        lambda: fit_targets(network(), (X, Y), TargetBlocks(exact=True)),
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
