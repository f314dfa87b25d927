"""Small lifted problems for the tests, and sweeps of a method over them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import cvxpy as cp
import torch
from training_runs import data_for, network_for

from convexblocks.formulations import ACTIVATIONS, LOSSES, Architecture, Block, activation
from convexblocks.formulations.lifted_method import LiftedMethod, LiftedVariables
from convexblocks.solvers import solve
from convexblocks.solvers.layered import read_network

ACTIVATIONS_BY_ENTRY = tuple(name for name in ACTIVATIONS if not activation(name).couples_units)
PIECEWISE = ("identity", "relu", "leaky_relu", "clipped_relu", "hardtanh", "soft_shrink")


def lifted_problem(
    name: str, loss: str, hidden: tuple[int, ...] = (5,), weight_decay: float = 0.1
) -> tuple[Architecture, LiftedVariables]:
    """A network and data of the tests as an architecture and variables, not yet started."""
    layered = read_network(network_for(loss, name, hidden))
    architecture = layered.architecture(LOSSES[loss], weight_decay)
    X, y = data_for(loss)
    targets = torch.as_tensor(LOSSES[loss].encode(y, architecture.widths[-1]))
    return architecture, LiftedVariables(torch.as_tensor(X), targets, *layered.parameters())


def solve_block(label: str, block: Block) -> Mapping[str, Any]:
    """A block to a high accuracy by the engine that `solve` chooses."""
    return solve(block.subproblem, block.data, warm_start=block.start or None, tolerance=1e-9).variables


def run_sweeps(
    method: LiftedMethod, architecture: Architecture, state: LiftedVariables, sweeps: int
) -> Iterator[int]:
    """Start the variables by the forward pass and sweep; yields after every sweep."""
    method.start(architecture, state)
    for sweep in range(1, sweeps + 1):
        method.sweep(architecture, state, solve_block)
        yield sweep


def solve_model(block: Any, data: Mapping[str, Any]) -> float:
    """Optimum of the cvxpy model of one instance, by Clarabel."""
    for parameter in block.program().parameters():
        parameter.value = data[parameter.name()]
    with warnings.catch_warnings():
        # Clarabel warns where it misses this accuracy by a little; the tests say what they need.
        warnings.simplefilter("ignore", UserWarning)
        block.program().solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    return float(block.program().value)
