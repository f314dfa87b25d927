"""Options that `train` and `compare` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

DATA, NETWORK, GOAL, COURSE = "Data", "Network", "Objective", "Training"

DataName = Annotated[str, Argument(metavar="DATA", help="A name of `convexblocks list`, or a path: .npz, .csv")]
Task = Annotated[
    str | None, Option(metavar="NAME", help="classification, regression; else from y.", rich_help_panel=DATA)
]
NoStandardize = Annotated[bool, Option("--no-standardize", help="Leave the features raw.", rich_help_panel=DATA)]
DataFolder = Annotated[
    Path | None, Option(metavar="DIR", help="Has mnist.npz; or CONVEXBLOCKS_DATA.", rich_help_panel=DATA)
]
NetworkKind = Annotated[
    str, Option("--network", metavar="NAME", help="dense, lenet5 (28 x 28), graph.", rich_help_panel=NETWORK)
]
Hidden = Annotated[list[int], Option(metavar="N", help="Width; once for each hidden layer.", rich_help_panel=NETWORK)]
ActivationName = Annotated[str, Option(metavar="NAME", help="See `list`.", rich_help_panel=NETWORK)]
Device = Annotated[str, Option(metavar="NAME", help="cpu, cuda, cuda:0, mps.", rich_help_panel=NETWORK)]
LossName = Annotated[str | None, Option(metavar="NAME", help="By default from the task.", rich_help_panel=GOAL)]
WeightDecay = Annotated[float, Option(metavar="X", help="Times sum W^2 / 2.", rich_help_panel=GOAL)]
Sweeps = Annotated[int, Option(metavar="N", help="At most so many.", rich_help_panel=COURSE)]
Json = Annotated[bool, Option("--json", help="Print one JSON object.")]
