"""Networks with learned activations at the edges: unusual networks, splines that are there already, refusals."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convexblocks.formulations import SplineBlocks, UsageError
from convexblocks.networks import SplineActivation
from convexblocks.solvers import build_network, fit_spline_network, fit_targets, load
from convexblocks.solvers.spline_network import spread_knots
from convexblocks.solvers.training_data import prepare

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(120, 4))
REAL = np.sin(2 * X[:, :1]) + np.abs(X[:, 1:2] - X[:, 2:3])


def outputs(trained: nn.Sequential) -> Tensor:
    with torch.no_grad():
        result: Tensor = trained(torch.as_tensor(X, dtype=next(trained.parameters()).dtype))
        return result


def test_a_network_without_hidden_layers_is_read_again(tmp_path: Path) -> None:
    trained = nn.Sequential(nn.Linear(4, 1))
    fit_spline_network(trained, (X, REAL), sweeps=2, out=tmp_path / "run")
    assert torch.equal(outputs(load(tmp_path / "run").module), outputs(trained))


def test_a_network_with_names_of_its_own_is_trained_and_read_again(tmp_path: Path) -> None:
    trained = nn.Sequential(OrderedDict(below=nn.Linear(4, 5), act=nn.Tanh(), above=nn.Linear(5, 1)))
    fit_spline_network(trained, (X, REAL), sweeps=2, out=tmp_path / "run")
    assert torch.equal(outputs(load(tmp_path / "run").module), outputs(trained))


def test_a_folder_that_is_refused_leaves_the_network(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trained = build_network((4, 8, 1), "tanh", random_state=0)
    with pytest.raises(UsageError, match="is not empty"):
        fit_spline_network(trained, (X, REAL), out=tmp_path)
    assert isinstance(trained[1], nn.Tanh)


@pytest.mark.parametrize("knots", [2, 3, 20])
@pytest.mark.parametrize("span", [(-0.1, 0.1), (-20.0, 20.0), (-3.0, -1.0)], ids=["narrow", "wide", "left"])
def test_splines_that_are_there_may_have_any_knots(knots: int, span: tuple[float, float]) -> None:
    torch.manual_seed(0)
    spline = SplineActivation(5, knots=knots, span=span, start="relu", slopes="nonexpansive")
    trained = nn.Sequential(nn.Linear(4, 5), spline, nn.Linear(5, 1))
    history = fit_spline_network(trained, (X, REAL), SplineBlocks(every=1), sweeps=3)
    assert history.last["objective"] < history.records[0]["objective"]
    assert spread_knots(torch.zeros(4), 3.0).tolist() == [-3.0, -1.0, 1.0, 3.0]


def test_splines_in_two_places_and_frozen_ones_are_refused() -> None:
    spline = SplineActivation(5)
    twice = nn.Sequential(nn.Linear(4, 5), spline, nn.Linear(5, 5), spline, nn.Linear(5, 1))
    with pytest.raises(UsageError, match="an earlier place too"):
        fit_spline_network(twice, (X, REAL))
    spline.requires_grad_(False)
    with pytest.raises(UsageError, match="is frozen"):
        fit_spline_network(nn.Sequential(nn.Linear(4, 5), spline, nn.Linear(5, 1)), (X, REAL))


def test_weights_go_on_where_a_fit_has_paid_for_fewer_kinks_with_loss() -> None:
    trained = build_network((4, 20, 1), "relu", random_state=0)
    fit_targets(trained, (X, REAL), sweeps=100, weight_decay=0.01)
    history = fit_spline_network(trained, (X, REAL), SplineBlocks(tv2=1e3, every=1), sweeps=12, weight_decay=0.01)
    totals = [record["objective"] + record["kink_price"] for record in history.records]
    assert history.records[0]["objective"] < history.last["objective"]
    assert max(history.column("step")[-4:]) > 0
    assert max(totals) == totals[0]


def test_an_activation_in_two_places_is_written_twice(tmp_path: Path) -> None:
    relu = nn.ReLU()
    trained = nn.Sequential(nn.Conv2d(1, 2, 3), relu, nn.Conv2d(2, 2, 2), relu, nn.Flatten(), nn.Linear(2, 1))
    pictures = GENERATOR.normal(size=(30, 1, 4, 4))
    fit_targets(trained, (pictures, pictures.sum((1, 2, 3))), sweeps=1, out=tmp_path / "run")
    assert len(load(tmp_path / "run").module) == 6


def test_outputs_that_diverged_have_an_error_and_no_warning() -> None:
    data = prepare((X, REAL), (4, 1), torch.device("cpu"), loss="squared", task=None)
    assert data.score(torch.full((120, 1), 1e200, dtype=torch.float64)) == {"error": np.inf}
