"""History: what a training run did, sweep by sweep, as plain data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(repr=False)
class History:
    """Records of a training run.

    Attributes
    ----------
    settings : dict
        Everything that `fit` was asked for, as JSON data.
    records : list of dict
        One for each sweep; the first (sweep 0) describes the untrained network. Keys: `sweep`; `true_loss` (sum over
        the training samples, of the deployed network), `penalty` and their sum `objective`;
        `lifted_estimate` (the lifted objective after the activation blocks: an estimate, not a bound; with mini-batches
        the sum over batches, each at the weights it met) and `layer_gaps`
        (B_l, summed over samples); `blocks` (engine, iterations, seconds, worst residuals, unsolved
        instances of each block); `step` (1 unless the safeguard shortened the move), `proximity`,
        `tightening` (by how much the formulation's multipliers were raised after sweeps without descent),
        `train_accuracy` or `train_error`, the same for the test data where there are some, and `cpu_seconds`
        of the sweeps, neither measurements nor audits nor writing counted.
    audits : list of dict
        Comparisons of the engines with Clarabel on instances of the run, and iterations from warm and cold starts.
    stop_reason : str
        Why training ended.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str = ""

    def __repr__(self) -> str:
        if not self.records:
            return "History(no sweeps)"
        last = self.last
        return f"History({last['sweep']} sweeps, true_loss={last['true_loss']:.6g}, objective={last['objective']:.6g})"

    @property
    def last(self) -> dict[str, Any]:
        """The newest record."""
        return self.records[-1]

    def column(self, key: str) -> list[Any]:
        """One figure of all sweeps; None where a sweep has none (the untrained network has no lifted estimate)."""
        return [record.get(key) for record in self.records]

    def warm_and_cold(self) -> dict[str, dict[str, float]]:
        """Mean iterations of each block from warm and from cold starts.

        Over the audited sweeps; in a run without audits of its third sweep (`starts` in that record).
        """
        counted = self.audits or [start for record in self.records for start in record.get("starts", [])]
        sums: dict[str, list[tuple[float, float]]] = {}
        for found in counted:
            sums.setdefault(found["block"], []).append((found["warm_iterations"], found["cold_iterations"]))
        return {
            block: {
                "warm": sum(warm for warm, _ in pairs) / len(pairs),
                "cold": sum(cold for _, cold in pairs) / len(pairs),
                "sweeps": len(pairs),
            }
            for block, pairs in sums.items()
        }


def to_line(record: dict[str, Any]) -> str:
    """One record as a line of JSON; numbers that are not finite become null, because JSON has none."""
    return json.dumps(finite(record), allow_nan=False)


def finite(data: Any) -> Any:
    """Plain data with null in the place of numbers that are not finite."""
    if isinstance(data, dict):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    if isinstance(data, float) and not -float("inf") < data < float("inf"):
        return None
    return data
