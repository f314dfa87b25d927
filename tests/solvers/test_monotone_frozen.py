"""The last layer of any module refitted on the outputs of its frozen layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from convexblocks.formulations import UsageError
from convexblocks.solvers import frozen_features, refit_last_layer


def convolutional() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(16, 2),
        )  # fmt: skip


def pictures(classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 1, 8, 8, generator=generator), torch.arange(60) % classes


def test_features_are_those_of_evaluation_and_the_module_is_left_as_it_was() -> None:
    module, (X, _) = convolutional(), pictures()
    module[3].eval()
    modes, before = [part.training for part in module.modules()], copy.deepcopy(module.state_dict())
    found = frozen_features(module, X, batch_size=7)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(found, module.eval()[:-1](X).double(), rtol=1e-5, atol=1e-6)
    assert not module[-1]._forward_pre_hooks


def test_the_new_layer_is_stationary_and_the_others_are_untouched() -> None:
    module, (X, y) = convolutional(), pictures(4)
    before = copy.deepcopy(module)
    found = refit_last_layer(module, (X, y), weight_decay=0.5)
    assert (module[-1].out_features, module[-1].weight.shape) == (4, (4, 16))
    assert torch.equal(module[0].weight, before[0].weight)
    assert found.operator_residual < 1e-9
    module.double().eval()
    loss = nn.functional.cross_entropy(module(X.double()), y, reduction="sum")
    (loss + 0.25 * (module[-1].weight ** 2).sum()).backward()
    # The weights were rounded to float32.
    assert float(module[-1].weight.grad.norm()) < 1e-3
    assert float(module[-1].bias.grad.norm()) < 1e-3


def test_a_ball_is_kept_and_regression_works() -> None:
    module, (X, y) = convolutional(), pictures()
    found = refit_last_layer(module, (X, y.double() + 0.5), loss="squared", radius=0.3)
    assert module[-1].out_features == 1
    size = (found.weight.norm() ** 2 + found.bias.norm() ** 2) ** 0.5
    assert float(size) == pytest.approx(0.3)
    assert found.natural_residual < 1e-9


def test_refusals_say_what_is_wrong() -> None:
    X, y = pictures()
    with pytest.raises(UsageError, match="has no Linear layer"):
        frozen_features(nn.Sequential(nn.Conv2d(1, 1, 3)), X)
    with pytest.raises(UsageError, match="one row for each sample"):
        frozen_features(nn.Sequential(nn.Linear(8, 2)), X)
    module = convolutional()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UsageError, match="neither a ball nor weight decay"):
        refit_last_layer(module, (X, y))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
