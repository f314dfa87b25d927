"""Training methods on published splits: the tables of all benchmarks/training_*.py, one after the other.

    python -m benchmarks.training [--only targets,fenchel,networks,inequality,monotone,splines] [--seeds 3]

Every part says in its own file what it measures. One thread, CPU time. Data sets that are read from a folder are looked
for where CONVEXBLOCKS_DATA says; parts without their data are skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

import torch
from rich.console import Console
from rich.table import Table

from convexblocks.formulations import UsageError

PARTS = ("targets", "fenchel", "networks", "inequality", "monotone", "splines")


def tables(part: str, seeds: int) -> Iterator[Table | str]:
    """The tables of a part, or why it is skipped."""
    name = f"benchmarks.training_{part}"
    if find_spec(name) is None:
        yield f"{part}: skipped, there is no {name}."
        return
    try:
        yield from import_module(name).tables(seeds)
    except (UsageError, FileNotFoundError) as error:
        yield f"{part}: skipped, {error}"


def chosen(text: str) -> list[str]:
    """Names of parts, separated by commas."""
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
    return names


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=chosen, default=list(PARTS), metavar="A,B,...")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in arguments.only:
        for shown in tables(part, arguments.seeds):
            Console(width=120).print(shown, markup=False) if isinstance(shown, str) else Console(width=120).print(shown)


if __name__ == "__main__":
    main()
