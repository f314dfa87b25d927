"""Reading data files: npz (no pickle is ever read) and csv, with messages that name the place of what is wrong."""

from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path

import numpy as np

from ..formulations.errors import UsageError

FOLDER_VARIABLE = "CONVEXBLOCKS_DATA"

Arrays = tuple[np.ndarray, np.ndarray]


def read_file(path: Path) -> tuple[Arrays, Arrays | None]:
    """Read the user's own file.

    Parameters
    ----------
    path : Path
        An .npz file with X and y (optionally X_test and y_test), or a .csv file with a header and the target last.

    Returns
    -------
    pair
        (X, y), and (X_test, y_test) or None.

    Raises
    ------
    UsageError
        If the file is missing, unreadable or holds something else.
    """
    if not path.is_file():
        seen = "it is a folder" if path.is_dir() else "there is no such file"
        raise UsageError(f"the data {str(path)!r} cannot be read: {seen}; expected an .npz or .csv file: see the path.")
    if path.suffix.lower() == ".csv":
        return _read_csv(path), None
    arrays = read_arrays(path)
    require_arrays(path, arrays, ("X", "y"))
    if not {"X_test", "y_test"} & set(arrays):
        return (arrays["X"], arrays["y"]), None
    require_arrays(path, arrays, ("X_test", "y_test"))
    return (arrays["X"], arrays["y"]), (arrays["X_test"], arrays["y_test"])


def find_in_folder(name: str, data_dir: str | Path | None) -> Path:
    """The file of a data set in the folder that is given, or that ``CONVEXBLOCKS_DATA`` names.

    Raises
    ------
    UsageError
        If no folder is named, or it holds no such file.
    """
    folder = data_dir if data_dir is not None else os.environ.get(FOLDER_VARIABLE)
    how = f"give the folder that holds {name}.npz with --data-dir, or in the environment variable {FOLDER_VARIABLE}"
    if not folder:
        raise UsageError(f"{name!r} is read from a folder, and none is named: {how}.")
    path = Path(folder) / f"{name}.npz"
    if not path.is_file():
        seen = "has no such file" if Path(folder).is_dir() else "does not exist"
        raise UsageError(f"{name!r} is expected in {str(path)!r}, but that folder {seen}: {how}.")
    return path


def read_image_file(path: Path) -> tuple[Arrays, Arrays]:
    """Read a file of the data folder: x_train, y_train, x_test and y_test, pictures of any shape.

    Returns
    -------
    pair
        Training and test part, each picture a row of its pixels.

    Raises
    ------
    UsageError
        If an array is missing.
    """
    arrays = read_arrays(path)
    names = ("x_train", "y_train", "x_test", "y_test")
    require_arrays(path, arrays, names)
    x_train, y_train, x_test, y_test = (arrays[name] for name in names)
    return (x_train.reshape(len(x_train), -1), y_train), (x_test.reshape(len(x_test), -1), y_test)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; pickled objects are refused.

    Raises
    ------
    UsageError
        If the file is unreadable, damaged or holds something else.
    """
    try:
        # Opened here because numpy leaves a damaged file open.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise UsageError(f"{str(path)!r} holds one array; expected several: write it with numpy.savez.")
            return {name: loaded[name] for name in loaded.files}
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{str(path)!r} is no readable .npz file ({error}); write it with numpy.savez.") from None
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{str(path)!r} holds pickled objects or is damaged; expected plain arrays of numbers, because pickles can "
            "run code. Save X and y with a number type, e.g. numpy.savez(path, X=X.astype(float), y=y)."
        ) from None


def require_arrays(path: Path, arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    """Refuse the arrays of a file unless all names are there.

    Raises
    ------
    UsageError
        Naming the arrays that are missing.
    """
    missing = [name for name in names if name not in arrays]
    if missing:
        seen = ", ".join(arrays) or "no arrays"
        raise UsageError(
            f"{str(path)!r} lacks {' and '.join(missing)} (it holds {seen}); expected the arrays {', '.join(names)}: "
            "save them under these names with numpy.savez."
        )


def _read_csv(path: Path) -> Arrays:
    try:
        # utf-8-sig drops the mark that spreadsheets put in front.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{str(path)!r} is no readable csv file ({error}); expected UTF-8 text with commas: save it so."
        ) from None
    if len(rows) < 2:
        raise UsageError(f"{str(path)!r} has {len(rows)} lines; expected a header and one line for each sample.")
    header = [name.strip() for name in rows[0][1]]
    if len(header) < 2:
        raise UsageError(
            f"{str(path)!r} has 1 column, {header[0]!r}; expected features and, last, the target, separated by commas."
        )
    if all(_number(name) is not None for name in header):
        raise UsageError(
            f"the first line of {str(path)!r} is all numbers; expected the names of the columns: put a header above it."
        )
    values = np.array([_csv_row(path, header, line, row) for line, row in rows[1:]])
    return values[:, :-1], values[:, -1]


def _csv_row(path: Path, header: list[str], line: int, row: list[str]) -> list[float]:
    if len(row) != len(header):
        raise UsageError(
            f"line {line} of {str(path)!r} has {len(row)} fields, but the header has {len(header)}; expected the same "
            "number in every line: mend that line."
        )
    values = [_number(field) for field in row]
    for name, field, value in zip(header, row, values, strict=True):
        if value is None:
            raise UsageError(
                f"the column {name!r} of {str(path)!r} holds the text {field[:40]!r} (line {line}); expected numbers: "
                "encode the column (sklearn.preprocessing.OrdinalEncoder or OneHotEncoder) or leave it out."
            )
    return [value for value in values if value is not None]


def _number(field: str) -> float | None:
    """The number that a field says; NaN where it is empty, None where it is text."""
    if not field.strip():
        return float("nan")
    try:
        return float(field)
    except ValueError:
        return None
