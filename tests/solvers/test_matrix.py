"""Matrices of a batch against dense numpy: patterns x what varies, products, blocks, and entries in order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convexblocks.solvers import shared_matrix
from convexblocks.solvers.matrix import Matrix, OwnEntries
from convexblocks.solvers.shared_matrix import DENSE_ROW, SharedMatrix, compressed, span

BATCH = 3
Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Pattern:
    """Places of the shared entries, which may repeat, and of the own ones, which do not; None where all is shared."""

    shape: tuple[int, int]
    common: Pairs
    own: Pairs | None


def scattered(rng: np.random.Generator, shape: tuple[int, int], share: float) -> Pairs:
    places = np.argwhere(rng.random(shape) < share)
    return [(int(row), int(column)) for row, column in rng.permutation(places)]


def full(rows: range, columns: range, by_columns: bool = False) -> Pairs:
    if by_columns:
        return [(row, column) for column in columns for row in rows]
    return [(row, column) for row in rows for column in columns]


def patterns() -> dict[str, Pattern]:
    rng, wide = np.random.default_rng(0), DENSE_ROW + 4
    block = full(range(2, 7), range(3, 3 + wide))
    return {
        "empty": Pattern((4, 3), [], None),
        "no rows": Pattern((0, 3), [], None),
        "no columns": Pattern((3, 0), [], None),
        "single": Pattern((1, 1), [(0, 0)], None),
        "sparse": Pattern((9, 7), scattered(rng, (9, 7), 0.2), None),
        "repeated": Pattern((5, 4), [(1, 2), (0, 0), (1, 2), (1, 2), (4, 3), (0, 0)], None),
        "dense": Pattern((6, wide), full(range(6), range(wide)), None),
        "dense block": Pattern((9, 20), [*block, *scattered(rng, (9, 3), 0.4)], None),
        "dense block, repeated": Pattern((9, 20), [*block, *block[::3], (0, 0)], None),
        "long rows far apart": Pattern(
            (40, 200), [*full(range(1, 2), range(10)), *full(range(30, 31), range(99, 109))], None
        ),
        "long rows, mostly empty block": Pattern(
            (20, 300), [(row, 12 * row + k) for row in range(20) for k in range(DENSE_ROW + 1)], None
        ),
        "own, sparse": Pattern((9, 7), scattered(rng, (9, 7), 0.2), scattered(rng, (9, 7), 0.1)),
        "own alone": Pattern((9, 7), [], scattered(rng, (9, 7), 0.3)),
        "own, none of them": Pattern((4, 3), [(0, 1), (3, 2)], []),
        "own block by columns": Pattern((9, 20), [], full(range(2, 7), range(3, 8), by_columns=True)),
        "own block by rows": Pattern((9, 20), [(0, 0)], full(range(2, 7), range(3, 8))),
        "own block, shuffled": Pattern(
            (9, 20), [(3, 4), (0, 1)], [full(range(2, 7), range(3, 8))[k] for k in rng.permutation(25)]
        ),
        "own block over shared entries": Pattern(
            (9, 20), [(4, 5), (8, 8)], full(range(2, 7), range(3, 8), by_columns=True)
        ),
        "own block with holes": Pattern((9, 20), block, full(range(2, 7), range(3, 8))[::2]),
        "own diagonal": Pattern((8, 8), [(k, k) for k in range(8)], [(k, k) for k in range(8)]),
        "own over a dense block": Pattern((9, 20), block, [*block[::4], (0, 0), (8, 19)]),
    }


PATTERNS = patterns()


@cache
def made(name: str) -> tuple[Matrix, np.ndarray]:
    """A matrix, and all its instances as dense numpy arrays."""
    return matrix_of(PATTERNS[name], np.random.default_rng(1))


def matrix_of(pattern: Pattern, rng: np.random.Generator) -> tuple[Matrix, np.ndarray]:
    values = rng.standard_normal(len(pattern.common))
    dense = np.zeros((BATCH, *pattern.shape))
    for place, value in zip(pattern.common, values, strict=True):
        dense[:, place[0], place[1]] += value
    common = SharedMatrix(*split(pattern.common), torch.tensor(values), pattern.shape)
    if pattern.own is None:
        return Matrix(common), dense
    own = rng.standard_normal((BATCH, len(pattern.own)))
    for place, column in zip(pattern.own, own.T, strict=True):
        dense[:, place[0], place[1]] += column
    return Matrix(common, OwnEntries(*split(pattern.own), torch.tensor(own), pattern.shape)), dense


def split(places: Pairs) -> tuple[Tensor, Tensor]:
    table = torch.tensor(places, dtype=torch.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def full_diagonal(length: int, row: int, column: int, value: float) -> dict[tuple[int, int], float]:
    return {(row + k, column + k): value for k in range(length)}


def instances(matrix: Matrix, dense: np.ndarray) -> np.ndarray:
    """What `Matrix.dense` is to give."""
    return dense[0] if matrix.shared else dense


def close(ours: Tensor | np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PATTERNS)
def test_products(name: str) -> None:
    matrix, dense = made(name)
    rng = np.random.default_rng(2)
    x, y = (rng.standard_normal((BATCH, length)) for length in (matrix.shape[1], matrix.shape[0]))
    for _ in range(2):
        # The second time from what was kept of the first.
        close(matrix.times(torch.tensor(x)), np.einsum("bmn,bn->bm", dense, x))
        close(matrix.transposed_times(torch.tensor(y)), np.einsum("bmn,bm->bn", dense, y))
    close(matrix.times(torch.tensor(x[:1]).expand(BATCH, -1)), np.einsum("bmn,n->bm", dense, x[0]))


@pytest.mark.parametrize("name", [name for name in PATTERNS if PATTERNS[name].own is None])
def test_shared_products_take_any_number_of_rows(name: str) -> None:
    matrix, dense = made(name)
    for count in (0, 1, 7):
        x, y = (np.random.default_rng(3).standard_normal((count, length)) for length in matrix.shape[::-1])
        close(matrix.times(torch.tensor(x)), x @ dense[0].T)
        close(matrix.transposed_times(torch.tensor(y)), y @ dense[0])


@pytest.mark.parametrize("name", PATTERNS)
def test_dense(name: str) -> None:
    matrix, dense = made(name)
    ours = matrix.dense()
    assert ours.shape == instances(matrix, dense).shape
    close(ours, instances(matrix, dense))


def own_part(matrix: Matrix) -> np.ndarray:
    assert matrix.own is not None
    part = np.zeros((BATCH, *matrix.shape))
    part[:, matrix.own.rows.numpy(), matrix.own.columns.numpy()] = matrix.own.values.numpy()
    return part


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", PATTERNS)
def test_blocks_of_any_rows_and_columns(name: str, seed: int) -> None:
    matrix, dense = made(name)
    rng = np.random.default_rng(seed)
    # All of them in order, then some in any order, then few, then none.
    rows, columns = (
        np.arange(size) if seed == 0 else rng.permutation(size)[: size // seed if seed < 3 else 0]
        for size in matrix.shape
    )
    ours = matrix.block(torch.tensor(rows), torch.tensor(columns)).numpy()
    expected = dense[:, rows[:, None], columns]
    if ours.ndim == 2:
        # Only where entries of the block vary is it written out for all instances.
        assert matrix.own is None or not own_part(matrix)[:, rows[:, None], columns].any()
        expected = expected[0]
    close(ours, expected)


@pytest.mark.parametrize(
    "name", ["own block by columns", "own block by rows", "own block, shuffled", "own block over shared entries"]
)
def test_a_block_of_all_own_entries(name: str) -> None:
    matrix, dense = made(name)
    for rows, columns in ((range(2, 7), range(3, 8)), (range(6, 1, -1), range(3, 8)), (range(1, 8), range(2, 9))):
        ours = matrix.block(torch.tensor(list(rows)), torch.tensor(list(columns)))
        close(ours, dense[:, list(rows)][:, :, list(columns)])


@pytest.mark.parametrize("name", PATTERNS)
def test_instances_that_are_taken(name: str) -> None:
    matrix, dense = made(name)
    for places in ([2], [2, 0], [], [1, 1, 0]):
        taken = matrix.take(torch.tensor(places, dtype=torch.int64))
        assert taken.shape == matrix.shape
        assert taken.shared is matrix.shared
        close(taken.dense(), dense[0] if matrix.shared else dense[places])
        x = np.random.default_rng(4).standard_normal((len(places), matrix.shape[1]))
        close(taken.times(torch.tensor(x)), np.einsum("bmn,bn->bm", dense[places], x))


@pytest.mark.parametrize("name", PATTERNS)
def test_entries_come_by_columns_and_once(name: str) -> None:
    matrix, dense = made(name)
    rows, columns, values = matrix.entries()
    keys = columns * max(1, matrix.shape[0]) + rows
    assert (np.diff(keys) > 0).all()
    assert values.shape == ((len(rows),) if matrix.shared else (BATCH, len(rows)))
    pattern = PATTERNS[name]
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {*pattern.common, *(pattern.own or [])}
    for place, row in enumerate(values if not matrix.shared else values[None]):
        close(sp.coo_array((row, (rows, columns)), matrix.shape).toarray(), dense[place])


def test_places_of_the_pattern_are_kept_where_the_values_cancel() -> None:
    here = split([(1, 0), (0, 1)])
    common = SharedMatrix(*here, torch.tensor([1.0, 0.0]), (2, 2))
    rows, columns, values = Matrix(common, OwnEntries(*here, torch.tensor([[-1.0, 0.0], [2.0, 0.0]]), (2, 2))).entries()
    assert (rows.tolist(), columns.tolist()) == ([1, 0], [0, 1])
    np.testing.assert_array_equal(values, [[0.0, 0.0], [3.0, 0.0]])


def test_arguments_are_left_alone() -> None:
    for name in ("dense block", "own block by columns", "own, sparse"):
        matrix, dense = made(name)
        x, y = torch.ones(BATCH, matrix.shape[1]).double(), torch.ones(BATCH, matrix.shape[0]).double()
        matrix.times(x), matrix.transposed_times(y), matrix.dense().add_(1)
        assert bool((x == 1).all())
        assert bool((y == 1).all())
        close(matrix.dense(), instances(matrix, dense))


RUNS = {
    "identity": full_diagonal(40, 0, 0, 1.0),
    "tied variables": full_diagonal(40, 0, 20, 1.0) | full_diagonal(40, 10, 0, -1.0),
    "below one another": full_diagonal(18, 0, 0, 2.0) | full_diagonal(18, 20, 0, -1.0) | full_diagonal(18, 20, 30, 3.0),
    "with a change of value": full_diagonal(20, 0, 0, 1.0) | full_diagonal(20, 20, 20, -1.0),
    "with a gap": full_diagonal(20, 0, 0, 1.0) | full_diagonal(20, 25, 25, 1.0),
    "with a block": full_diagonal(48, 12, 12, 1.0) | {(row, column): 0.5 for row in range(9) for column in range(12)},
    "around a block": full_diagonal(48, 12, 12, 1.0) | {(row, k): 0.5 for row in (3, 20, 50) for k in range(30, 42)},
    "with a single entry": full_diagonal(50, 0, 5, 1.0) | {(3, 0): 7.0},
    "of many values": {(k, k): float(k) for k in range(60)},
}


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("name", RUNS)
def test_pieces_of_diagonals(name: str, twice: bool) -> None:
    shape, entries = (60, 62), list(RUNS[name].items()) * (2 if twice else 1)
    entries = [entries[place] for place in np.random.default_rng(5).permutation(len(entries))]
    dense = np.zeros(shape)
    for place, value in entries:
        dense[place] += value
    matrix = SharedMatrix(
        *split([place for place, _ in entries]), torch.tensor([value for _, value in entries]).double(), shape
    )
    x, y = (np.random.default_rng(6).standard_normal((4, length)) for length in shape[::-1])
    x[2], y[1] = 0, 0
    close(matrix.times(torch.tensor(x)), x @ dense.T)
    close(matrix.transposed_times(torch.tensor(y)), y @ dense)


# Entries that share a place are taken one by one: sizes are those of what adds up.
APART = [
    name for name, pattern in PATTERNS.items()
    if len({*pattern.common, *(pattern.own or [])}) == len(pattern.common) + len(pattern.own or [])
]  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_absolute_values(name: str) -> None:
    matrix, dense = made(name)
    x = np.random.default_rng(8).random((len(dense), dense.shape[2]))
    close(matrix.absolute().times(torch.tensor(x)), np.einsum("bmn,bn->bm", np.abs(dense), x))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_pattern(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 24))
    place = st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))
    common = data.draw(st.lists(place, max_size=80))
    own = data.draw(st.none() | st.lists(place, min_size=1, max_size=60, unique=True))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    matrix, dense = matrix_of(Pattern((rows, columns), common, own), rng)
    x, y = rng.standard_normal((BATCH, columns)), rng.standard_normal((BATCH, rows))
    close(matrix.times(torch.tensor(x)), np.einsum("bmn,bn->bm", dense, x))
    close(matrix.transposed_times(torch.tensor(y)), np.einsum("bmn,bm->bn", dense, y))
    close(matrix.dense(), instances(matrix, dense))
    some = [data.draw(st.permutations(range(size)).map(lambda order: order[: len(order) // 2 + 1]))
            for size in (rows, columns)]  # fmt: skip
    expected = dense[:, some[0]][:, :, some[1]]
    block = matrix.block(torch.tensor(some[0]), torch.tensor(some[1])).numpy()
    close(block, expected[0] if block.ndim == 2 else expected)


# ------------------------------------------------------------------------------------ small helpers


def test_compressed_rows_add_up_what_shares_a_place() -> None:
    rows, columns = split([(2, 1), (0, 0), (2, 1)])
    made = compressed(rows, columns, torch.tensor([1.0, 2.0, 4.0]), (3, 2))
    assert made.layout == torch.sparse_csr
    close(made.to_dense(), np.array([[2.0, 0], [0, 0], [0, 5.0]]))


@pytest.mark.parametrize(
    ("places", "expected"),
    [([3, 4, 5], slice(3, 6)), ([2], slice(2, 3)), ([], None), ([3, 5], None), ([4, 3], None), ([1, 1], None)],
)
def test_runs_of_indices_are_slices(places: list[int], expected: slice | None) -> None:
    given_places = torch.tensor(places, dtype=torch.int64)
    found = span(given_places)
    if expected is None:
        assert found is given_places
    else:
        assert found == expected
    assert torch.equal(torch.arange(9)[found], torch.arange(9)[given_places])


def test_blocks_are_made_once_and_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = matrix_of(PATTERNS["dense"], np.random.default_rng(0))[0].common
    rows, columns = torch.arange(3), torch.arange(4)
    first, empty = matrix.block(rows, columns)
    assert matrix.block(rows, columns)[0] is first
    assert not empty
    monkeypatch.setattr(shared_matrix, "MOST_KEPT", 30)
    for _ in range(5):
        matrix.block(torch.arange(3), columns)
    assert sum(block.numel() for _, (block, _) in matrix.blocks.values()) <= 30
