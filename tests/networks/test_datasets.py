"""Data sets: what is read, how it is split and scaled, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convexblocks.formulations import UsageError
from convexblocks.networks import BUILT_IN, Dataset, load_dataset

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(40, 3))
Y = np.arange(40) % 2


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def raw(dataset: Dataset) -> np.ndarray:
    """The features before scaling."""
    assert dataset.scaling is not None
    return dataset.X_train * np.asarray(dataset.scaling["scale"]) + np.asarray(dataset.scaling["shift"])


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_sets_are_split_and_scaled(name: str) -> None:
    dataset = load_dataset(name)
    assert dataset.X_test is not None
    assert dataset.y_test is not None
    share = len(dataset.X_test) / (len(dataset.X_train) + len(dataset.X_test))
    assert share == pytest.approx(0.2, abs=0.01)
    assert dataset.task == ("regression" if name == "diabetes" else "classification")
    if name == "digits":
        assert dataset.scaling == {"shift": [0.0] * 64, "scale": [16.0] * 64}
        assert dataset.X_train.max() == 1.0
    else:
        np.testing.assert_allclose(dataset.X_train.mean(axis=0), 0.0, atol=1e-9)
        np.testing.assert_allclose(dataset.X_train.std(axis=0), 1.0)


def test_split_is_stratified_and_follows_the_seed() -> None:
    first, again, other = (load_dataset("iris", random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(np.bincount(first.y_train), [40, 40, 40])
    np.testing.assert_array_equal(first.X_train, again.X_train)
    assert not np.array_equal(first.y_train, other.y_train)
    assert first.source["split"] == {"test_fraction": 0.2, "random_state": 0, "stratified": True}


def test_scaling_comes_from_the_training_part_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", X=X, y=Y, X_test=X + 100, y_test=Y)
    dataset = load_dataset(path)
    assert dataset.scaling is not None
    assert dataset.X_test is not None
    np.testing.assert_allclose(dataset.scaling["shift"], X.mean(axis=0))
    np.testing.assert_allclose(raw(dataset), X)
    assert dataset.X_test.min() > 50
    assert dataset.source["split"] == "the data's own"


def test_split_and_scaling_can_be_left_out(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path / "a.npz", X=X, y=Y), split=False, standardize=False)
    assert dataset.test is None
    assert dataset.scaling is None
    np.testing.assert_array_equal(dataset.X_train, X)
    assert dataset.source["features"] == "raw"
    assert dataset.source["split"] == "none: all samples are for training"


def test_arguments_of_the_source_give_the_data_again(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path / "a.npz", X=X, y=Y), random_state=3)
    again = load_dataset(**dataset.source["arguments"])
    np.testing.assert_array_equal(again.X_train, dataset.X_train)
    assert len(dataset.source["sha256"]) == 64


def test_constant_feature_has_scale_one(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path / "a.npz", X=np.hstack([X, np.full((40, 1), 7.0)]), y=Y))
    assert dataset.scaling is not None
    assert dataset.scaling["shift"][3] == 7.0
    assert dataset.scaling["scale"][3] == 1.0
    assert not dataset.X_train[:, 3].any()


def test_csv_is_read_with_the_target_last(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    # A byte order mark, a quoted name with a comma, an empty line: what spreadsheets write.
    lines = ["\ufeff" + '"a, b",c,price', "", *(f"{a},{b},{a + b}" for a, b, _ in X.tolist())]
    path.write_text("\n".join(lines), encoding="utf-8")
    dataset = load_dataset(path, split=False, standardize=False)
    assert (dataset.task, dataset.outputs) == ("regression", 1)
    np.testing.assert_allclose(dataset.X_train, X[:, :2])
    np.testing.assert_allclose(dataset.y_train, X[:, 0] + X[:, 1])


def test_task_is_inferred_and_can_be_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", X=X, y=np.arange(40) % 4)
    assert (load_dataset(path).task, load_dataset(path).outputs) == ("classification", 4)
    said = load_dataset(path, task="regression")
    assert (said.task, said.outputs) == ("regression", 1)
    several = save(tmp_path / "b.npz", X=X, y=X[:, :2])
    assert (load_dataset(several).task, load_dataset(several).outputs) == ("regression", 2)


def test_folder_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = GENERATOR.integers(0, 256, size=(30, 4, 4), dtype=np.uint8)
    labels = (np.arange(30) % 10).astype(np.uint8)
    save(tmp_path / "mnist.npz", x_train=pictures, y_train=labels, x_test=pictures[:10], y_test=labels[:10])
    monkeypatch.setenv("CONVEXBLOCKS_DATA", str(tmp_path))
    dataset = load_dataset("mnist")
    assert dataset.X_train.shape == (30, 16)
    np.testing.assert_allclose(dataset.X_train * 255, pictures.reshape(30, 16))
    assert dataset.scaling == {"shift": [0.0] * 16, "scale": [255.0] * 16}
    np.testing.assert_array_equal(load_dataset(**dataset.source["arguments"]).X_train, dataset.X_train)


@pytest.mark.parametrize("folder", [None, "absent", "."])
def test_missing_folder_or_file_says_how_to_name_it(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONVEXBLOCKS_DATA", raising=False)
    with pytest.raises(UsageError, match=r"--data-dir.*CONVEXBLOCKS_DATA"):
        load_dataset("mnist", data_dir=None if folder is None else tmp_path / folder)


def with_entry(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(float)
    changed.flat[4] = value
    return changed


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "NaN in X": ({"X": with_entry(X, np.nan), "y": Y}, r"NaN or infinite.*row 1, column 1"),
    "infinity in X": ({"X": with_entry(X, np.inf), "y": Y}, "NaN or infinite"),
    "NaN in y": ({"X": X, "y": with_entry(X[:, 0], np.nan)}, "NaN or infinite"),
    "lengths differ": ({"X": X, "y": Y[:-1]}, "40 samples.*39 targets"),
    "empty": ({"X": X[:0], "y": Y[:0]}, "empty"),
    "no features": ({"X": X[:, :0], "y": Y}, "empty"),
    "one class": ({"X": X, "y": 0 * Y}, "only one class"),
    "labels with a gap": ({"X": X, "y": 2 * Y}, r"0, 2; expected 0, 1"),
    "labels from one": ({"X": X, "y": Y + 1}, r"1, 2; expected 0, 1"),
    "text labels": ({"X": X, "y": np.array(["a", "b"] * 20)}, "type <U1; expected"),
    "text features": ({"X": np.full((40, 2), "a"), "y": Y}, "type <U1; expected numbers"),
    "pictures": ({"X": X.reshape(20, 2, 3), "y": Y[:20]}, "reshape it"),
    "pickled": ({"X": np.array([[1, None]] * 40, dtype=object), "y": Y}, "pickled objects"),
    "no X": ({"inputs": X, "y": Y}, r"lacks X \(it holds inputs, y\)"),
    "no y": ({"X": X}, "lacks y"),
    "half a test part": ({"X": X, "y": Y, "X_test": X}, "lacks y_test"),
    "other test features": ({"X": X, "y": Y, "X_test": X[:, :2], "y_test": Y}, "2 features, but X has 3"),
    "too few to split": ({"X": X[:3], "y": np.array([0, 1, 1])}, "cannot be split.*--no-split"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_dataset(save(tmp_path / "a.npz", **arrays))


def test_labels_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", X=X, y=Y + 0.5)
    with pytest.raises(UsageError, match=r"not whole numbers \(seen 0.5\).*regression"):
        load_dataset(path, task="classification")


BAD_CSV = {
    "text column": ("a,b,y\n1,red,0\n2,blue,1\n", r"column 'b'.*'red' \(line 2\)"),
    "text target": ("a,y\n1,yes\n2,no\n", "column 'y'.*'yes'"),
    "ragged": ("a,b,y\n1,2,0\n1,2,3,1\n", "line 3.*4 fields.*3"),
    "no header": ("1,2,0\n3,4,1\n", "header"),
    "header alone": ("a,b,y\n", "1 lines"),
    "nothing": ("", "0 lines"),
    "one column": ("y\n1\n2\n", "1 column"),
    "semicolons": ("a;b;y\n1;2;0\n", "separated by commas"),
    "empty cell": ("a,b,y\n1,,0\n2,3,1\n", "NaN or infinite"),
}


@pytest.mark.parametrize(("text", "message"), BAD_CSV.values(), ids=BAD_CSV)
def test_bad_csv_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_dataset(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"no archive at all", "pickled objects or is damaged|no readable"),
        ("a.npz", b"", "no readable"),
        ("a.npz", b"PK\x03\x04 cut off", "no readable"),
        ("a.csv", b"\xff\xfe\x00a", "no readable csv"),
        ("a.txt", b"1 2 3", "unknown data set"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_dataset(path)


def test_one_array_instead_of_an_archive_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(UsageError, match="one array"):
        load_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("which", "message"), [("absent.npz", "no such file"), ("digitz", "unknown data set 'digitz'; known: digits")]
)
def test_unknown_names_and_paths_are_refused(which: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_dataset(which)


def test_unknown_task_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown task"):
        load_dataset("iris", task="ranking")
