"""`convexblocks certify --depth L`: what it does for more than two weight matrices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..formulations.errors import UsageError
from .certificate_data import Prepared
from .console import working

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ..certificates import Certificate, DeepIncumbent, DeepProblem


def deep_problem(
    prepared: Prepared, depth: int, *, weight_decay: float | None, relative: bool, activation: str
) -> DeepProblem:
    """A training problem of networks of a depth.

    Raises
    ------
    UsageError
        If there is no weight decay, it is a share, there are several outputs, or no bound is known for the problem.
    """
    from ..certificates import DeepProblem

    if weight_decay is None:
        raise UsageError("no weight decay is given: --weight-decay X, such as 0.1.")
    if prepared.outputs is not None:
        raise UsageError(
            f"{prepared.outputs} outputs are asked for; more than two layers are bounded with one output: choose two "
            "classes, --classes 3,8."
        )
    _refuse_shares(relative)
    return DeepProblem(
        prepared.X, prepared.y, prepared.loss, weight_decay, depth, activation, bias=prepared.bias,
        preparation=prepared.words,
    )  # fmt: skip


def deep_problem_of_run(
    run: Path, module: nn.Module, X: np.ndarray, y: np.ndarray, settings: dict[str, Any], weight_decay: float, *,
    relative: bool,
) -> tuple[DeepProblem, DeepIncumbent]:  # fmt: skip
    """The training problem of a run of more than two layers, its biases free, and its network.

    Raises
    ------
    UsageError
        If the weight decay is a share, or the network is not covered.
    """
    from ..certificates import DeepProblem
    from ..certificates.deep_incumbent import network_deep_incumbent

    _refuse_shares(relative)
    seen = settings["activations"]
    if len(set(seen)) > 1:
        raise UsageError(f"the network of the run has the activations {seen}; this bound is for one activation.")
    name, _, slope = seen[0].partition("(")
    problem = DeepProblem(
        X, y, settings["loss"], weight_decay, len(settings["widths"]) - 1, name,
        **({"slope": float(slope.rstrip(")"))} if slope else {}), bias="free",
        preparation=f"the training data of the run {run.name} as its network sees them",
    )  # fmt: skip
    return problem, network_deep_incumbent(problem, module)


def search_deep(
    problem: DeepProblem, network: DeepIncumbent | None, *, hidden: int | None, seconds: float, seed: int, quiet: bool
) -> Certificate:
    """Train what the bound is compared with, where there is no network to judge, then search for the bound."""
    from ..certificates import certify_deep
    from ..certificates.deep_certificate import require_checkable
    from ..certificates.deep_incumbent import WIDTH, train_deep

    require_checkable(problem)
    if network is None:
        with working("training networks to compare with ...", quiet=quiet):
            network = train_deep(problem, seconds=seconds / 2, random_state=seed, width=hidden or WIDTH)
    with working("searching for a lower bound ...", quiet=quiet):
        return certify_deep(problem, network, seconds=seconds / 2)


def _refuse_shares(relative: bool) -> None:
    if relative:
        raise UsageError(
            "--relative is a share of the weight decay above which the zero network is optimal, which is estimated for "
            "two layers only (with more the zero network is a local optimum at any weight decay, and where it becomes "
            "the best one is not known); leave it out and give the weight decay itself."
        )
