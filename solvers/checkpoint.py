"""A run as a folder of plain data: written sweep by sweep, so that an interrupted run loses nothing.

    run.json              settings, seed, versions, notes (where the data come from), results; warm and cold iterations
    history.jsonl         one record a sweep
    audits.jsonl          comparisons with Clarabel
    network.safetensors   the trained network: weights of the linear maps "0.weight", "0.bias", "2.weight", ...
                          (of a network that is not dense: named by the places of its layers in run.json);
                          of learned splines knots, slopes and values in the middle "1.positions", "1.raw", "1.middle"
    graph.npz             the matrix of graph convolutions, where there are some
    weights/0007.safetensors      the same after sweep 7 (0000: before training)
    data.npz              the training data as the network saw them (left out above 64 MB)

No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import zipfile
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..formulations.errors import UsageError
from .history import History, finite, to_line
from .layer_files import GRAPH_FILE, build_layers, layer_places, load_graph_matrix, save_graph
from .layered import activation_module, read_network
from .spline_activation import SplineActivation
from .spline_network import without_splines
from .training_data import TrainingData

LARGEST_SAVED_DATA = 64 * 2**20
REQUIRED_KEYS = ("settings", "notes", "data_sha256", "stop_reason")
PACKAGES = ("convexblocks", "cvxpy", "clarabel", "scs", "numpy", "scipy", "torch", "scikit-learn")


class RunWriter:
    """Writes a run folder as training goes on.

    Parameters
    ----------
    out : path
        The folder; it must be new or empty.
    network : torch.nn.Module
        The network in training.
    history : History
        The record that training fills.
    data : TrainingData
        What the network is trained on.
    notes : dict
        JSON data for run.json.

    Raises
    ------
    UsageError
        If the folder holds something already or cannot be written; nothing is left behind then.
    """

    def __init__(
        self, out: str | Path, network: nn.Module, history: History, data: TrainingData, notes: dict[str, Any]
    ) -> None:
        self.out, self.history, self.notes = Path(out), history, notes
        # Copied from the device and hashed once, not after every sweep.
        self._inputs, self._targets = data.inputs.cpu().numpy(), data.plain
        self._fingerprint = fingerprint(self._inputs, self._targets)
        self.module, self.network = network, read_network(without_splines(network), dense=False)
        self._sweeps_written = self._sweep = 0
        self._weights: dict[str, Tensor] = {}
        prepare_folder(self.out)

    def start(self, weights: list[Tensor], biases: list[Tensor]) -> None:
        """Write everything that is known before the first sweep."""
        self.sweep(0, weights, biases)

    def sweep(self, sweep: int, weights: list[Tensor], biases: list[Tensor]) -> None:
        """Write the weights after a sweep, and bring the other files up to date."""
        self._sweep, self._weights = sweep, self._tensors(weights, biases)
        self._write()
        lines = "".join(to_line(record) + "\n" for record in self.history.records[self._sweeps_written :])
        with (self.out / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(lines)
        self._sweeps_written = len(self.history.records)

    def finish(self) -> None:
        """Write everything anew: an interrupt may have stopped an earlier write half-way."""
        self._write()
        lines = "".join(to_line(record) + "\n" for record in self.history.records)
        _replace(self.out / "history.jsonl", lambda path: path.write_text(lines, encoding="utf-8"))

    def _write(self) -> None:
        """The latest weights and everything but the history, each file whole or not at all."""
        (self.out / "weights").mkdir(exist_ok=True)
        if self._inputs.nbytes <= LARGEST_SAVED_DATA and not (self.out / "data.npz").exists():
            _replace(self.out / "data.npz", lambda path: _save_arrays(path, self._inputs, self._targets))
        if len(self.network.input_shape) == 2 and not (self.out / GRAPH_FILE).exists():
            _replace(self.out / GRAPH_FILE, lambda path: save_graph(path, self.network))
        for path in (self.out / "weights" / f"{self._sweep:04d}.safetensors", self.out / "network.safetensors"):
            _replace(path, lambda path: save_file(self._weights, path))
        lines = "".join(to_line(audit) + "\n" for audit in self.history.audits)
        _replace(self.out / "audits.jsonl", lambda path: path.write_text(lines, encoding="utf-8"))
        self._describe()

    def _tensors(self, weights: list[Tensor], biases: list[Tensor]) -> dict[str, Tensor]:
        tensors = {}
        places = layer_places(self.history.settings)
        for place, weight, bias, layer in zip(places, weights, biases, self.network.maps, strict=True):
            shaped = weight.reshape(layer.shape)
            tensors[f"{place}.weight"] = shaped.to(self.network.dtype).cpu().contiguous()
            if layer.bias is not None:
                tensors[f"{place}.bias"] = bias.to(self.network.dtype).cpu().contiguous()
        # By places: a network built from a dict has names of its own.
        for place, part in enumerate(self.module.children()):
            if isinstance(part, SplineActivation):
                tensors |= {f"{place}.{key}": array.cpu().clone() for key, array in part.state_dict().items()}
        return tensors

    def _describe(self) -> None:
        last = {key: value for key, value in self.history.last.items() if not isinstance(value, (dict, list))}
        described = {
            "format": 1,
            "settings": self.history.settings,
            "random_state": self.history.settings["random_state"],
            "versions": versions(),
            "notes": self.notes,
            "data_sha256": self._fingerprint,
            "stop_reason": self.history.stop_reason or "running, or stopped from outside",
            "last": last,
            "iterations_warm_and_cold": self.history.warm_and_cold(),
        }
        text = json.dumps(finite(described), indent=2, allow_nan=False)
        _replace(self.out / "run.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))


def _save_arrays(path: Path, X: np.ndarray, y: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, X=X, y=y)


def prepare_folder(out: Path) -> None:
    """Make a folder for a run.

    Raises
    ------
    UsageError
        If it holds something already or cannot be written.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            seen = "is not a folder" if not out.is_dir() else "is not empty"
            raise UsageError(f"the output {str(out)!r} {seen}; expected a new or empty folder: choose another --out.")
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"the output folder {str(out)!r} cannot be written ({error.strerror}); choose another --out."
        ) from None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def fingerprint(X: np.ndarray, y: np.ndarray) -> str:
    """SHA-256 of training data: of their shapes, types and bytes."""
    digest = hashlib.sha256()
    for array in (X, y):
        digest.update(f"{array.shape} {array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class SavedRun:
    """The files of a run, read and checked; `load` makes a `Run` of them."""

    path: Path
    described: dict[str, Any]
    history: History
    module: nn.Sequential

    @property
    def settings(self) -> dict[str, Any]:
        """What `fit` was asked for."""
        settings: dict[str, Any] = self.described["settings"]
        return settings

    def weights_after(self, sweep: int) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases in float64 after a sweep (0: before training).

        Raises
        ------
        UsageError
            If the run has no such sweep.
        """
        path = self.path / "weights" / f"{sweep:04d}.safetensors"
        if not path.is_file():
            raise UsageError(f"the run {str(self.path)!r} has no weights after sweep {sweep} ({path.name} is missing).")
        tensors = _read_tensors(path)
        places = layer_places(self.settings)
        weights = [tensors[f"{place}.weight"].double().flatten(1) for place in places]
        biases = [
            tensors.get(f"{place}.bias", weight.new_zeros(len(weight))).double()
            for place, weight in zip(places, weights, strict=True)
        ]
        return weights, biases

    def training_data(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The training data that were saved with the run; None where they were too large.

        Raises
        ------
        UsageError
            If the file is damaged or holds other data than the run was trained on.
        """
        path = self.path / "data.npz"
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                X, y = arrays["X"], arrays["y"]
        except (OSError, EOFError, KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(f"the file {str(path)!r} is damaged or unreadable: {error}.") from None
        self.check_data(X, y)
        return X, y

    def check_data(self, X: np.ndarray, y: np.ndarray) -> None:
        """Compare data with the run's fingerprint.

        Raises
        ------
        UsageError
            If they are not the data that the run was trained on.
        """
        if fingerprint(X, y) != self.described["data_sha256"]:
            raise UsageError(
                f"these are not the training data of the run {str(self.path)!r}: their fingerprint differs."
            )


def read_run(path: str | Path) -> SavedRun:
    """Read the files of a run.

    Raises
    ------
    UsageError
        If the folder is no run, or a file of it is damaged.
    """
    path = Path(path)
    if not (path / "run.json").is_file():
        raise UsageError(
            f"{str(path)!r} is not a run: it has no run.json. Give the --out folder of `convexblocks train`."
        )
    try:
        described = json.loads((path / "run.json").read_text(encoding="utf-8"))
        records, audits = _read_lines(path / "history.jsonl"), _read_lines(path / "audits.jsonl")
        missing = [key for key in REQUIRED_KEYS if key not in described]
        if missing or not records or not all(isinstance(record["sweep"], int) for record in records):
            raise ValueError(f"run.json lacks {missing}" if missing else "history.jsonl holds no sweeps")
        history = History(described["settings"], records, audits)
        history.stop_reason = described["stop_reason"]
        module = _module(path, described["settings"])
        module.load_state_dict(_read_tensors(path / "network.safetensors"))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise UsageError(f"the run {str(path)!r} is damaged: {error}. Train it again.") from None
    return SavedRun(path, described, history, module)


def _module(path: Path, settings: dict[str, Any]) -> nn.Sequential:
    widths, dtype = settings["widths"], getattr(torch, settings["dtype"])
    if "layers" in settings:
        adjacency = load_graph_matrix(path / GRAPH_FILE) if (path / GRAPH_FILE).is_file() else None
        return build_layers(settings["layers"], dtype, adjacency)
    modules: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        modules.append(nn.Linear(inputs, outputs, bias=settings["biases"][place], dtype=dtype))
        if place < len(settings["activations"]):
            modules.append(activation_module(settings["activations"][place]))
    return nn.Sequential(*modules)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UsageError(f"the file {str(path)!r} is damaged or unreadable: {error}.") from None
    return tensors


def _replace(path: Path, write: Any) -> None:
    """Write beside the file and move over it, so that an interrupt leaves the old or the new one, whole."""
    new = path.with_name(path.name + ".new")
    write(new)
    os.replace(new, path)
