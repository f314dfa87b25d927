"""The proven bound of a matrix norm: at least the norm in exact arithmetic, and tight."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexblocks.certificates import matrix_norm_bound
from convexblocks.certificates.operator_norm import LARGEST_EXPONENT
from convexblocks.formulations.errors import UsageError


def exceeds(W: np.ndarray, bound: float) -> bool:
    """Whether |W|_2 > bound, in rational arithmetic: by the pivots of bound^2 I - W'W."""
    rows = [[Fraction(value) for value in row] for row in W.tolist()]
    size, square = W.shape[1], Fraction(bound) ** 2
    A = [
        [(square if i == j else Fraction(0)) - sum((row[i] * row[j] for row in rows), Fraction()) for j in range(size)]
        for i in range(size)
    ]
    for k in range(size):
        if A[k][k] < 0 or (A[k][k] == 0 and any(A[k][j] for j in range(k + 1, size))):
            return True
        if A[k][k] == 0:
            continue
        for i in range(k + 1, size):
            for j in range(k + 1, size):
                A[i][j] -= A[i][k] * A[k][j] / A[k][k]
    return False


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 4), (9, 5), (5, 9)], ids=str)
@pytest.mark.parametrize("kind", ["random", "rank one", "orthogonal", "ill-scaled", "integers", "tiny", "huge"])
def test_bounds_the_norm_in_exact_arithmetic(shape: tuple[int, int], kind: str) -> None:
    generator = np.random.default_rng(3)
    W = generator.normal(size=shape)
    if kind == "rank one":
        W = np.outer(generator.normal(size=shape[0]), generator.normal(size=shape[1]))
    if kind == "orthogonal":
        W = np.linalg.svd(W, full_matrices=False)[0] @ np.linalg.svd(W, full_matrices=False)[2]
    if kind == "ill-scaled":
        W = W * np.logspace(-8, 8, shape[1])
    if kind == "integers":
        W = np.round(3 * W)
    W = W * {"tiny": 1e-300, "huge": 1e250}.get(kind, 1.0)
    bound = matrix_norm_bound(W)
    assert not exceeds(W, bound)
    assert bound <= np.linalg.svd(W / np.abs(W).max(), compute_uv=False)[0] * np.abs(W).max() * (1 + 1e-11)
    if bound:
        assert exceeds(W, bound * (1 - 1e-11))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_any_matrix(rows: int, columns: int, data: st.DataObject) -> None:
    # Powers of two within a range that rational numbers of a readable size cover.
    number = st.floats(-1e100, 1e100).filter(lambda value: value == 0 or abs(value) > 1e-100)
    W = np.array(data.draw(st.lists(number, min_size=rows * columns, max_size=rows * columns))).reshape(rows, columns)
    assert not exceeds(W, matrix_norm_bound(W))


def test_large_matrices_are_tight() -> None:
    for shape in ((300, 784), (512, 512)):
        W = np.random.default_rng(0).normal(size=shape)
        norm = np.linalg.norm(W, 2)
        assert norm <= matrix_norm_bound(W) <= norm * (1 + 1e-9)


def test_tensors_and_zero() -> None:
    W = torch.nn.Linear(7, 3).weight
    assert matrix_norm_bound(W) == matrix_norm_bound(W.detach().double().numpy())
    assert matrix_norm_bound(np.zeros((3, 2))) == 0
    assert matrix_norm_bound(W.bfloat16()) == matrix_norm_bound(W.bfloat16().float())
    assert matrix_norm_bound(torch.tensor([[3]])) >= 3
    assert matrix_norm_bound(np.array([[5e-324]])) >= 5e-324


@pytest.mark.parametrize(
    "wrong",
    [
        torch.ones(1, 1, dtype=torch.complex64),
        np.ones(3),
        np.ones((2, 0)),
        [["a"]],
        [[np.nan]],
        [[np.inf]],
        [[2.0**LARGEST_EXPONENT]],
    ],
    ids=["complex", "vector", "empty", "text", "nan", "infinite", "too large"],
)
def test_refusals(wrong: object) -> None:
    with pytest.raises(UsageError, match="expected"):
        matrix_norm_bound(wrong)
