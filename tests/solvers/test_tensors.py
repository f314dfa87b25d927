"""Products of every instance's own matrix, and Newton steps on free unknowns, against dense numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from convexblocks.solvers import tensors
from convexblocks.solvers.active_set import GROUP, among, free_direction
from convexblocks.solvers.tensors import gram_own, times_own

SHAPES = [(1, 1, 1), (4, 3, 5), (3, 8, 2), (5, 0, 3), (5, 3, 0), (0, 2, 2)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_matrix_times_its_own_row(shape: tuple[int, int, int], transposed: bool) -> None:
    batch, m, n = shape
    matrices = draw(batch, n, m).mT if transposed else draw(batch, m, n)
    rows = draw(batch, 2 * n, seed=1)[:, :n]
    torch.testing.assert_close(times_own(matrices, rows), torch.einsum("bmn,bn->bm", matrices, rows))


def test_one_matrix_or_one_row_stands_for_all() -> None:
    matrices, rows = draw(4, 3, 2), draw(4, 2)
    torch.testing.assert_close(times_own(matrices[:1], rows), rows @ matrices[0].T)
    torch.testing.assert_close(times_own(matrices, rows[:1]), torch.einsum("bmn,n->bm", matrices, rows[0]))


def test_numbers_that_are_not_finite_stay_in_their_row_without_a_warning() -> None:
    matrices, rows = draw(3, 2, 2), draw(3, 2)
    rows[1, 0] = torch.inf
    matrices[2, 0, 0] = torch.nan
    assert times_own(matrices, rows).isfinite().all(1).tolist() == [True, False, False]
    assert gram_own(matrices).isfinite().flatten(1).all(1).tolist() == [True, True, False]


def test_gradients_flow() -> None:
    matrices, rows = draw(3, 2, 4).requires_grad_(), draw(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(times_own, (matrices, rows))
    assert torch.autograd.gradcheck(gram_own, (matrices,))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gram_matrices(
    shape: tuple[int, int, int], transposed: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, m, n = shape
    matrices = draw(batch, n, m).mT if transposed else draw(batch, m, n)
    monkeypatch.setattr(tensors.torch, "get_num_threads", lambda: threads)
    torch.testing.assert_close(gram_own(matrices), matrices.mT @ matrices)


@pytest.mark.parametrize("batch", [1, 7, 2 * GROUP + 3])
@pytest.mark.parametrize("shared", [False, True])
def test_free_directions_solve_their_own_system(batch: int, shared: bool) -> None:
    n, rng = 9, np.random.default_rng(batch)
    factors = draw(n, n) if shared else draw(batch, n, n)
    H = factors.mT @ factors + 0.1 * torch.eye(n, dtype=torch.float64)
    gradient = draw(batch, n, seed=2)
    free = torch.as_tensor(rng.random((batch, n)) < rng.random((batch, 1)))
    found = free_direction(lambda rows, places: among(H, rows, places), gradient, free)
    for row in range(batch):
        chosen = free[row].nonzero()[:, 0]
        own = (H if shared else H[row])[chosen][:, chosen]
        torch.testing.assert_close(found[row, chosen], -torch.linalg.solve(own, gradient[row, chosen]))
        assert not found[row, ~free[row]].any()


def test_rows_without_a_factor_and_without_free_unknowns_do_not_move() -> None:
    H = torch.stack([torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.eye(2)]).double()
    free = torch.tensor([[True, True], [True, True], [False, False]])
    found = free_direction(lambda rows, places: among(H, rows, places), torch.ones(3, 2, dtype=torch.float64), free)
    torch.testing.assert_close(found, torch.tensor([[-1.0, -1.0], [0, 0], [0, 0]], dtype=torch.float64))


def test_padding_does_not_reach_the_others() -> None:
    """A row with one free unknown beside one with all; its neighbours, which are held, are curved far more."""
    H = torch.tensor([[1e12, 1e6, 0], [1e6, 2, 0], [0, 0, 4]], dtype=torch.float64)
    free = torch.tensor([[False, True, False], [True, True, True]])
    found = free_direction(lambda rows, places: among(H, rows, places), torch.ones(2, 3, dtype=torch.float64), free)
    torch.testing.assert_close(found[0], torch.tensor([0, -0.5, 0], dtype=torch.float64))
