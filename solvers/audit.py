"""Audit of a block of a running training: its engine against Clarabel, and warm against cold starts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ..formulations.fenchel_weight import FenchelWeight
from ..formulations.formulation import Block, Step
from .agreement import agree, compare, draw, take
from .batch import solve
from .solution import Solution

INSTANCES = 3
LARGEST_COUPLED_LAYER = 100_000


def audit_block(step: Step, block: Block, warm: Solution, tolerance: float, *, seed: int) -> dict[str, Any]:
    """Compare the run's own answers to a few instances with Clarabel's, and count iterations from a cold start (zero).

    Parameters
    ----------
    step, block : Step, Block
        The block as the run solved it.
    warm : Solution
        The run's own solution, from its warm start.
    tolerance : float
        Tolerance of the run's solves.
    seed : int
        Seed of the draw of instances.

    Returns
    -------
    dict
        `block`, `engine`, mean `warm_iterations` and `cold_iterations`, and the figures of `Agreement`;
        `note` where the comparison was reduced (the part is then solved again) or is impossible, and why.
    """
    found = {"block": step.label, "engine": warm.engine, **count_iterations(block, warm, tolerance)}
    if not block.subproblem.has_model:
        return found | {"agrees": None, "note": "the activation has no convex model to compare with"}
    subproblem, data, note = _within_reach(block)
    if note:
        result = agree(subproblem, data, sample=INSTANCES, random_state=seed)
    else:
        places = draw(subproblem, data, INSTANCES, seed)
        answers = {name: value[places.to(value.device)] for name, value in warm.variables.items()}
        result = compare(subproblem, take(subproblem, data, places), answers, warm.engine)
    return found | asdict(result) | {"agrees": result.agrees, "note": note}


def count_iterations(block: Block, warm: Solution, tolerance: float) -> dict[str, Any]:
    """Mean iterations of the run's own solution and of one from a cold start: zero in every variable."""
    zeros = {name: torch.zeros_like(value) for name, value in warm.state.items()}
    cold = solve(block.subproblem, block.data, warm_start=zeros, tolerance=tolerance)
    return {
        "warm_iterations": float(warm.iterations.double().mean()),
        "cold_iterations": float(cold.iterations.double().mean()),
    }


def _within_reach(block: Block) -> tuple[Any, dict[str, Any], str]:
    """The block, or the same block on fewer samples where Clarabel would need minutes for one instance.

    A softmax layer is one instance over all samples, with an exponential cone for each entry.
    """
    whole = block.subproblem
    if not isinstance(whole, FenchelWeight) or not whole.coupled:
        return whole, block.data, ""
    units = whole.data_shapes()["w_old"][0]
    samples = max(1, LARGEST_COUPLED_LAYER // (units * whole.inputs))
    if samples >= whole.samples:
        return whole, block.data, ""
    part = FenchelWeight(
        samples=samples, inputs=whole.inputs, units=units, activation=whole.activation, loss=whole.loss,
        multiplier=whole.multiplier, weight_decay=whole.weight_decay, proximity=whole.proximity, bias=whole.bias,
    )  # fmt: skip
    data = block.data | {"X": block.data["X"][:samples], "v": block.data["v"][:, :samples]}
    return part, data, f"compared on the first {samples} of {whole.samples} samples"
