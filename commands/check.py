"""`convexblocks check`: prove a certificate again. Exit 0 proven, 1 readable but not proven, 2 not a certificate."""

from __future__ import annotations

import json as json_format
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formulations.errors import UsageError
from .console import complain, print_json, say_lines, working

if TYPE_CHECKING:
    import numpy as np

Option = typer.Option
SAME = 1e-9
"""How far prepared numbers may differ: they are prepared again, and other machines round differently."""


def check(
    certificate: Annotated[Path, typer.Argument(metavar="CERT.json", help="A certificate.")],
    data: Annotated[
        str | None, Option(metavar="DATA", help="Compare with these data: a name of `list`, .npz, .csv.")
    ] = None,
    classes: Annotated[str | None, Option(metavar="A,B", help="Two classes of DATA.")] = None,
    samples: Annotated[int | None, Option(metavar="N", help="The first N of DATA.")] = None,
    data_dir: Annotated[Path | None, Option(metavar="DIR", help="Has mnist.npz; or CONVEXBLOCKS_DATA.")] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove a lower bound again with nothing but the file: exactly, or in floating point where it has many cones."""
    # Imported here because the room brings torch, which --help need not wait for.
    from ..certificates.certificate import prove
    from ..certificates.checker import NotACertificate, describe, read_text

    try:
        text = read_text(certificate)
        with working("proving ...", quiet=json):
            bound = prove(text)
            if data is not None and bound.proven:
                own = _own(text, data, classes, samples, data_dir)
                bound = bound if own is None else prove(text, own)
    except OSError as error:
        complain(f"the file {str(certificate)!r} cannot be read: {error}.")
        raise typer.Exit(2) from None
    except NotACertificate as error:
        complain(f"{str(certificate)!r} is not a certificate: {error}")
        raise typer.Exit(2) from None
    if json:
        print_json({
            "proven": bound.proven, "exact": bound.exact, "lower_bound": bound.lower_bound,
            "incumbent": bound.incumbent, "statement": bound.statement, "reason": bound.reason,
            "seconds": bound.seconds,
        })  # fmt: skip
    else:
        if data is not None and bound.proven:
            # In place of the first note, that there was nothing to compare with.
            compared = f"the data are those of {data}, prepared again: no number differs by more than {SAME:g}"
            bound = replace(bound, notes=(compared, *bound.notes[1:]))
        say_lines(describe(bound))
    if not bound.proven:
        raise typer.Exit(1)


def _own(
    text: str, data: str, classes: str | None, samples: int | None, data_dir: Path | None
) -> tuple[list[list[float]], list[Any]] | None:
    """None where the user's own data, as they are or prepared as the certificate says, agree with it; else these data.

    Raises
    ------
    UsageError
        If the data cannot be read.
    """
    import numpy as np

    made = json_format.loads(text)
    X, y = (np.vectorize(float.fromhex)(np.array(made["data"][name])) for name in ("X", "y"))
    candidates = _candidates(made["statement"], X.shape[1], data, classes, samples, data_dir)
    for own_X, own_y in candidates:
        if own_X.shape != X.shape or own_y.shape != y.shape:
            continue
        if np.abs(own_X - X).max() <= SAME * np.abs(X).max() and np.abs(own_y - y).max() <= SAME * np.abs(y).max():
            return None
    # The checker says where the first one differs.
    own_X, own_y = candidates[0]
    return own_X.tolist(), own_y.tolist()


def _candidates(
    statement: dict[str, Any], features: int, data: str, classes: str | None, samples: int | None, data_dir: Path | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The data prepared with and without principal components, and as they are."""
    import numpy as np

    from ..networks.datasets import load_dataset
    from .certificate_data import load_prepared

    bias = statement["bias"] == "column"
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for components in (None, features - bias):
        try:
            prepared = load_prepared(
                data, classes=classes, samples=samples, components=components, bias=bias, loss=statement["loss"],
                data_dir=data_dir,
            )  # fmt: skip
        except UsageError:
            # Data that cannot be prepared for this statement can still be compared as they are.
            if classes is not None or samples is not None:
                raise
            continue
        found.append((prepared.X, prepared.y))
    dataset = load_dataset(data, data_dir=data_dir, task="regression", split=False, standardize=False)
    own_y = np.asarray(dataset.y_train, dtype=float)
    plain = dataset.X_train, own_y if own_y.ndim > 1 and own_y.shape[1] > 1 else own_y.ravel()
    return [*found, plain]
