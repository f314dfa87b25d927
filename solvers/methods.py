"""One call for every training method of the catalogue: which trainer runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..formulations.catalogue import Method
from ..formulations.errors import UsageError
from ..formulations.formulation import Formulation
from ..formulations.lifted_method import LiftedMethod
from ..formulations.monotone_inequality import MonotoneInequality
from ..formulations.spline_blocks import SplineBlocks
from ..formulations.target_blocks import TargetBlocks
from .coordinator import fit
from .history import History
from .lifted_training import fit_lifted
from .monotone_training import fit_monotone
from .spline_training import fit_spline_network
from .target_training import fit_targets

Trainer = Callable[..., History]
TRAINERS: tuple[tuple[type, Trainer], ...] = (
    (Formulation, fit),
    (MonotoneInequality, fit_monotone),
    (SplineBlocks, fit_spline_network),
    (TargetBlocks, fit_targets),
    (LiftedMethod, fit_lifted),
)
"""The class of a method's settings -> what trains by it; all trainers share the keywords of `fit_targets`.

The first class that fits counts, so that a class stands before those it inherits from.
"""


def fit_method(network: nn.Module, data: tuple[Any, Any], method: Method, **settings: Any) -> History:
    """Train a network by any method of the catalogue; afterwards it is an ordinary trained torch module.

    Parameters
    ----------
    network : torch.nn.Module
        Trained in place; its present weights are the start.
    data : pair of arrays
        X and y, as for the method's own trainer (`fit`, `fit_targets`, ...).
    method : settings of a method
        E.g. ``FenchelLifting()``, ``TargetBlocks()``, or what `convexblocks.formulations.catalogue.method` makes.
    **settings
        What all trainers take: `loss`, `task`, `weight_decay`, `sweeps`, `time_limit`, `validation`, `random_state`,
        `out`, `notes`, `on_event`; and what the method's own trainer takes beside them.

    Returns
    -------
    History
        The true training loss of the network after each sweep.

    Raises
    ------
    UsageError
        If nothing trains by such settings, or as the method's own trainer.
    """
    for kind, trainer in TRAINERS:
        if isinstance(method, kind):
            return trainer(network, data, method, **settings)
    raise UsageError(
        f"the method is a {type(method).__name__}; expected the settings of a method, e.g. FenchelLifting() or "
        "TargetBlocks()."
    )
