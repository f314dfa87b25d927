"""A layer as a monotone variational inequality: operator, modulus, gap, model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convexblocks.formulations import ACTIVATIONS, LOSSES, MonotoneLayer, UsageError, activation

SAMPLES, INPUTS, UNITS = 9, 3, 2
ALL = (*ACTIVATIONS, *LOSSES)
MODELLED = [name for name in ALL if name in LOSSES or activation(name).has_model]


def block_of(which: str, **settings: Any) -> MonotoneLayer:
    role = {"loss": which} if which in LOSSES else {"activation": which}
    return MonotoneLayer(samples=SAMPLES, inputs=INPUTS, units=UNITS, **role, **{"radius": 1.5, **settings})


def data_of(block: MonotoneLayer, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((SAMPLES, INPUTS))
    return {"X": X, "y": block.activation.phi(rng.standard_normal((1, SAMPLES, UNITS)))}


def point(block: MonotoneLayer, seed: int = 0, size: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    packed = rng.standard_normal((1, UNITS, INPUTS + block.bias))
    return block.unpack(size * packed / np.linalg.norm(packed))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("which", ALL)
def test_the_operator_is_the_gradient(which: str, bias: bool) -> None:
    block = block_of(which, bias=bias, weight_decay=0.3)
    data, values = data_of(block), point(block)
    found, packed, step = block.operator(values, data), block.pack(values), 1e-6
    for place in np.ndindex(packed.shape[1:]):
        shift = np.zeros_like(packed)
        shift[(0, *place)] = step
        ends = [float(block.objective(block.unpack(packed + sign * shift), data)[0]) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(found[(0, *place)], abs=1e-6)


@pytest.mark.parametrize("which", ALL)
def test_the_operator_is_monotone_with_its_modulus(which: str) -> None:
    for decay, bias in ((0.0, True), (0.5, False)):
        block = block_of(which, weight_decay=decay, bias=bias)
        data = data_of(block)
        modulus = block.modulus(data["X"])
        assert modulus >= (decay / SAMPLES) * (1 - 1e-9) if not bias else modulus >= 0
        for seed in range(50):
            a, b = point(block, seed, 1.5), point(block, 100 + seed, 1.5 * (seed % 3 + 0.1) / 3)
            rise = (block.operator(a, data) - block.operator(b, data)) / SAMPLES
            move = block.pack(a) - block.pack(b)
            assert float((rise * move).sum()) >= modulus * float((move**2).sum()) - 1e-12


def test_moduli_of_known_layers() -> None:
    X = data_of(block_of("identity"))["X"]
    columns = np.hstack([X, np.ones((SAMPLES, 1))])
    least = np.linalg.eigvalsh(columns.T @ columns / SAMPLES)[0]
    assert block_of("identity").modulus(X) == pytest.approx(least)
    assert block_of("leaky_relu(0.1)").modulus(X) == pytest.approx(0.1 * least)
    for flat in ("relu", "soft_shrink", "hardtanh", "clipped_relu", "softmax"):
        assert block_of(flat).modulus(10 * X) == pytest.approx(0.0, abs=1e-12)
    # In a ball too small to leave the straight part a hardtanh layer is linear.
    assert block_of("hardtanh", radius=0.01).modulus(X) == pytest.approx(least)
    assert 0 < block_of("sigmoid").modulus(X) < 0.25 * least
    # Without a ball any pre-activation can be reached.
    assert block_of("sigmoid", radius=None, weight_decay=0.9, bias=False).modulus(X) == pytest.approx(0.9 / SAMPLES)


@pytest.mark.parametrize("which", MODELLED)
def test_the_model_has_the_objective_of_the_formulas(which: str) -> None:
    block = block_of(which, weight_decay=0.3)
    data, values, problem = data_of(block), point(block), block.program()
    assert problem.is_dcp(dpp=True)
    for parameter in problem.parameters():
        parameter.value = data["X"] if parameter.name() == "X" else data["y"][0]
    for name, variable in problem.var_dict.items():
        if name in ("W", "c"):
            variable.value = values[name][0]
    problem.var_dict["U"].value = block.pre_activations(values, data)[0]
    block.complete()
    assert problem.objective.value == pytest.approx(float(block.objective(values, data)[0]), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("which", ["relu", "probit", "softmax", "squared"])
def test_the_gap_is_a_supremum_and_bounds_the_objective(which: str) -> None:
    block = block_of(which)
    data, values = data_of(block), point(block)
    gap, F = float(block.gap(values, data)[0]), block.operator(values, data)
    best = -1.5 * F / np.linalg.norm(F)
    assert gap == pytest.approx(float((F * (block.pack(values) - best)).sum()))
    here = float(block.objective(values, data)[0])
    for seed in range(50):
        rival = point(block, 7 + seed, 1.5 * (seed + 1) / 50)
        assert here - float(block.objective(rival, data)[0]) <= gap + 1e-12


def test_without_a_ball_weight_decay_bounds_the_objective() -> None:
    block = block_of("tanh", radius=None, weight_decay=0.7, bias=False)
    data, values = data_of(block), point(block)
    here, gap = float(block.objective(values, data)[0]), float(block.gap(values, data)[0])
    assert all(here - float(block.objective(point(block, s, 3.0), data)[0]) <= gap for s in range(50))
    assert np.isinf(block_of("tanh", radius=None, weight_decay=0.7).gap(point(block_of("tanh")), data))


def test_refusals_say_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="neither a ball nor weight decay"):
        block_of("sigmoid", radius=None)
    with pytest.raises(UsageError, match=r"0\.25 away from the range of 'relu'.*clip the targets"):
        block_of("relu").require_targets(np.array([[[1.0, -0.25]]]))
    with pytest.raises(UsageError, match="the simplex"):
        block_of("softmax").require_targets(np.array([[[1.0, 0.5]]]))
    with pytest.raises(UsageError, match="radius is -1"):
        block_of("relu", radius=-1.0)
