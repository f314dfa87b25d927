"""The bound of the spectral norm by products."""

import numpy as np
import pytest
import torch

from convexblocks.formulations.spectral_norm import SQUARINGS, squared_norm_above


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(("rows", "columns", "rank"), [(1, 1, 1), (7, 3, 3), (40, 60, 60), (30, 30, 1), (64, 64, 64)])
def test_it_is_close_above(rows: int, columns: int, rank: int, scale: float, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(rows)
    matrix = scale * rng.standard_normal((rows, rank)) @ np.eye(rank, columns)
    found = float(squared_norm_above(torch.as_tensor(matrix, dtype=dtype)))
    exact = np.linalg.norm(matrix, 2) ** 2
    rounding = 1e-4 if dtype == torch.float32 else 1e-12
    assert exact * (1 - rounding) <= found <= exact * min(rows, columns) ** (0.5 ** (SQUARINGS + 1)) * (1 + rounding)
    np.testing.assert_allclose(squared_norm_above(torch.as_tensor(matrix)), squared_norm_above(matrix), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_of_zeros_has_the_norm_zero(dtype: torch.dtype) -> None:
    assert float(squared_norm_above(torch.zeros(3, 2, dtype=dtype))) == pytest.approx(0, abs=1e-30)
