"""load(RUN): a finished run as the trained module, its history, and every instance of its blocks, alive."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor, nn

from ..formulations.catalogue import FORMULATIONS
from ..formulations.catalogue import formulation as make_formulation
from ..formulations.errors import UsageError
from ..formulations.formulation import Architecture, Formulation, LiftedState
from ..formulations.losses import find_loss
from ..formulations.subproblem import Residuals, Subproblem
from .batch import solve
from .checkpoint import SavedRun, read_run
from .history import History
from .layered import read_network
from .reference import solve_reference
from .safeguards import rebalance
from .solution import Solution
from .spline_network import without_splines
from .training_data import check_inputs, prepare


@dataclass(frozen=True)
class Instance:
    """One block instance of a run.

    Attributes
    ----------
    subproblem : Subproblem
        The block.
    data : dict of Tensor
        Its data, with a batch axis of length one on what is per instance.
    solution : Solution
        The answer of the engine that training uses.
    reference : Solution
        Clarabel's answer to the same instance, with duals; None where the activation has no convex model.
    """

    subproblem: Subproblem
    data: dict[str, Tensor]
    solution: Solution
    reference: Solution | None

    @property
    def problem(self) -> cp.Problem:
        """The live model, its parameters set and its variables at Clarabel's answer.

        Raises
        ------
        NoConvexModelError
            If an activation of it has no disciplined convex form.
        """
        return self.subproblem.program()

    @property
    def residuals(self) -> Residuals:
        """Residuals of the engine's answer on the original program."""
        return self.solution.residuals


@dataclass(frozen=True)
class Run:
    """A training run that was written by `fit(..., out=...)`.

    Attributes
    ----------
    module : torch.nn.Sequential
        The trained network.
    history : History
        Its records.
    settings, notes : dict
        What `fit` was asked for, and where the data come from.
    path : Path
        The folder.
    """

    saved: SavedRun = field(repr=False)
    data: tuple[np.ndarray, np.ndarray] | None = field(repr=False)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.history!r})"

    @property
    def module(self) -> nn.Sequential:
        """The trained network."""
        return self.saved.module

    @property
    def history(self) -> History:
        """The records of the run."""
        return self.saved.history

    @property
    def settings(self) -> dict[str, Any]:
        """What `fit` was asked for."""
        return self.saved.settings

    @property
    def notes(self) -> dict[str, Any]:
        """What was noted beside the settings, e.g. where the data come from."""
        notes: dict[str, Any] = self.saved.described["notes"]
        return notes

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.saved.path

    def predict(self, X: Any) -> np.ndarray:
        """Predictions for raw inputs: the run's own scaling of the features is applied first.

        Parameters
        ----------
        X : array, shape (samples, features)
            Inputs in the units of the data that the run was started with; pictures and graphs as in training.

        Returns
        -------
        array
            Labels (samples,), or real outputs (samples, outputs).

        Raises
        ------
        UsageError
            If X is no finite numbers or has another number of features.
        """
        layered = read_network(without_splines(self.module), dense=False)
        graph = len(layered.input_shape) == 2
        one = graph and np.ndim(X) == 2
        inputs = check_inputs(X[None] if one else X, features=self.settings["widths"][0], shape=layered.input_shape)
        scaling = self.notes.get("scaling")
        if scaling:
            inputs = (inputs - np.asarray(scaling["shift"])) / np.asarray(scaling["scale"])
        with torch.no_grad():
            output = self.module(torch.as_tensor(inputs, dtype=layered.dtype, device=layered.device))
        loss = find_loss(self.settings["loss"])
        if not graph:
            return loss.predict(output)
        predicted = loss.predict(output.flatten(0, 1))
        predicted = predicted.reshape(*output.shape[:2], *predicted.shape[1:])
        return predicted[0] if one else predicted

    def subproblem(self, layer: int, sample: int, sweep: int | None = None) -> cp.Problem:
        """One activation block instance as a live cvxpy Problem with its values; see `instance`."""
        return self.instance(layer, sample, sweep).problem

    def instance(self, layer: int, sample: int, sweep: int | None = None) -> Instance:
        """The block of one layer and one training sample in a sweep of the run, solved again.

        The sweep's blocks are rebuilt from the weights before it. With mini-batches those are the weights before the
        sweep's first batch, whichever batch the sample came in.

        Parameters
        ----------
        layer : int
            Hidden layer 1, 2, ...; the output layer L where the run lifts its output.
        sample : int
            Row of the training data.
        sweep : int, optional
            Sweep 1, 2, ...; by default the last. Its blocks start from the weights after the sweep before.

        Raises
        ------
        UsageError
            If there is no such layer, sample or sweep, the method has no activation blocks, or the training data are
            needed and absent.
        """
        if self.settings["method"] not in FORMULATIONS:
            raise UsageError(
                f"the run {str(self.path)!r} was trained by the method {self.settings['method']!r}, which has no "
                "activation blocks to show; expected a run of --method fenchel. Its weight blocks are "
                "`convexblocks show fenchel.weight`."
            )
        architecture = self._architecture()
        sweep = int(self.history.last["sweep"]) if sweep is None else sweep
        state = self._state(architecture, sample, sweep)
        formulation = self._formulation(sweep)
        steps = [step for group in formulation.groups(architecture) for step in group if step.block != "weight"]
        if layer not in [step.layer for step in steps]:
            layers = ", ".join(str(step.layer) for step in reversed(steps))
            there = f"expected one of the layers {layers}" if layers else "its network has no hidden layer to show"
            raise UsageError(f"the run has no activation block of layer {layer}; {there}.")
        formulation.start(architecture, state)
        for step in steps:
            block = formulation.gather(step, architecture, state)
            solution = solve(block.subproblem, block.data, tolerance=self.settings["block_tolerance"])
            if step.layer == layer:
                return _instance(block.subproblem, block.data, solution)
            formulation.scatter(step, architecture, state, solution.variables)
        raise AssertionError("the layer was found among the steps")

    def _architecture(self) -> Architecture:
        layered = read_network(self.module)
        return layered.architecture(find_loss(self.settings["loss"]), self.settings["weight_decay"])

    def _formulation(self, sweep: int) -> Formulation:
        """The formulation as it was in a sweep."""
        formulation = make_formulation(self.settings["method"], **self.settings["formulation"])
        return formulation.tightened(self.history.records[sweep]["tightening"])

    def _state(self, architecture: Architecture, sample: int, sweep: int) -> LiftedState:
        last = int(self.history.last["sweep"])
        if last == 0:
            raise UsageError(f"the run {str(self.path)!r} ended before its first sweep; train it again.")
        if not 1 <= sweep <= last:
            raise UsageError(f"the run has no sweep {sweep}; it has the sweeps 1 to {last}.")
        X, y = self._training_data()
        if not 0 <= sample < len(X):
            raise UsageError(f"there is no training sample {sample}; the run has the samples 0 to {len(X) - 1}.")
        weights, biases = self.saved.weights_after(sweep - 1)
        rebalance(architecture, weights, biases)
        targets = architecture.loss.encode(y, architecture.widths[-1])
        rows = slice(sample, sample + 1)
        return LiftedState(torch.as_tensor(X[rows]), torch.as_tensor(targets[rows]), weights, biases)

    def _training_data(self) -> tuple[np.ndarray, np.ndarray]:
        if self.data is None:
            raise UsageError(
                f"the run {str(self.path)!r} does not hold its training data (they are large); "
                "give them: load(RUN, data=(X, y))."
            )
        return self.data


def load(path: str | Path, *, data: tuple[Any, Any] | None = None) -> Run:
    """Read a run that `fit(..., out=path)` or ``convexblocks train --out`` wrote.

    Parameters
    ----------
    path : path
        The folder.
    data : pair of arrays, optional
        The training data as the network saw them; needed only for `Run.subproblem` of runs whose data were too
        large to be saved. They are compared with the run's fingerprint.

    Raises
    ------
    UsageError
        If the folder is no run, a file is damaged, or the data are not those of the run.
    """
    saved = read_run(path)
    if data is not None:
        settings = saved.settings
        checked = prepare(data, tuple(settings["widths"]), torch.device("cpu"), loss=settings["loss"], task=None)
        saved.check_data(checked.inputs.numpy(), checked.plain)
        return Run(saved, (checked.inputs.numpy(), checked.plain))
    return Run(saved, saved.training_data())


def _instance(subproblem: Subproblem, data: dict[str, Tensor], solution: Solution) -> Instance:
    reference = solve_reference(subproblem, data) if subproblem.has_model else None
    return Instance(subproblem, data, solution, reference)
