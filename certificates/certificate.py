"""Certificates: a statement, the data it is about, and evidence; one JSON file that checker.py proves again.

The lower bound that a certificate states is the one that the checker has proven, not the value that the
search computed. A proven bound above the objective of a network is a contradiction, and stops everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..formulations.errors import UsageError
from .checker import (
    FORMAT,
    MOST_BYTES,
    MOST_NETWORK_PRODUCTS,
    MOST_OUTPUTS_PRODUCTS,
    MOST_PRODUCTS,
    Bound,
    NotACertificate,
    TooManyCones,
    check_text,
    data_digest,
    describe,
    objective,
)
from .cone_replay import replay
from .incumbent import Incumbent
from .outputs_problem import OutputsProblem
from .problem import TwoLayerProblem

HEX_BYTES = 24
"""Of a number in the file, about."""
ROUNDING = 1e-9
"""By this share what was computed in floating point is stated larger (an incumbent), or smaller (a bound)."""


class CertificateError(RuntimeError):
    """The search contradicts itself: a mistake of this package, to be reported."""


@dataclass(frozen=True)
class Certificate:
    """A certificate and what the checker found in it.

    Attributes
    ----------
    text : str
        The file.
    bound : Bound
        What the checker has proven of it.
    seconds : float
        Of the search, the training of the incumbent apart.
    """

    text: str
    bound: Bound
    seconds: float

    def __str__(self) -> str:
        """The statement in words."""
        return describe(self.bound)

    @property
    def lower_bound(self) -> float:
        """The proven lower bound on the training objective, for every width."""
        return self.bound.lower_bound

    @property
    def incumbent(self) -> float | None:
        """Training objective of the best network found."""
        return self.bound.incumbent

    @property
    def gap_percent(self) -> float:
        """100 (1 - lower bound / incumbent); NaN where there is no incumbent."""
        gap = self.bound.gap_percent
        return np.nan if gap is None else gap

    def write(self, path: str | Path) -> Path:
        """Write the file.

        Raises
        ------
        UsageError
            If it cannot be written there.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the certificate cannot be written to {str(path)!r}: {error}.") from None
        return path


def make_certificate(
    problem: TwoLayerProblem | OutputsProblem, evidence: Mapping[str, Any], incumbent: Incumbent | None, seconds: float
) -> Certificate:
    """A certificate of what the evidence proves.

    Raises
    ------
    CertificateError
        If the checker rejects the evidence, or proves more than the incumbent allows.
    """
    return certificate_of(_content(problem, evidence, incumbent), seconds)


def certificate_of(made: dict[str, Any], seconds: float) -> Certificate:
    """A certificate of the content of a file, whose lower bound becomes what the checker proves.

    Raises
    ------
    UsageError
        If it is too large for the checker.
    CertificateError
        If the checker rejects the evidence, or proves more than the incumbent allows.
    """
    try:
        # Nearly what exact arithmetic proves of cones, and much faster.
        first = check_text(_text(made), replay=replay)
    except NotACertificate as refusal:
        raise UsageError(f"the problem is too large for the checker ({refusal}); take fewer samples.") from None
    if not first.proven:
        raise CertificateError(
            f"the checker does not accept this certificate ({first.reason}). This is a mistake of convexblocks: please "
            "report it, with the data if you can."
        )
    claim = first.lower_bound if first.exact else first.lower_bound * (1 - ROUNDING)
    made["statement"]["lower_bound"] = claim.hex()
    text = _text(made)
    bound = prove(text) if first.lower_bound > 0 else first
    if not bound.proven and 0 < bound.lower_bound < claim:
        # Where the centre of a cone is orthogonal to a sample, exact arithmetic may bound that one differently.
        made["statement"]["lower_bound"] = bound.lower_bound.hex()
        text = _text(made)
        bound = prove(text)
    if not bound.proven:
        raise CertificateError(f"the checker contradicts itself ({bound.reason}); please report this.")
    return Certificate(text, bound, seconds)


def prove(text: str, data: Any = None) -> Bound:
    """Check a certificate in exact arithmetic; where it has too many cones for that, in floating point.

    Parameters
    ----------
    text : str
        The file.
    data : (X, y), optional
        The data that it should be about.

    Raises
    ------
    NotACertificate
        If it is none.
    """
    try:
        return check_text(text, data)
    except TooManyCones:
        return check_text(text, data, replay)


def require_checkable(problem: TwoLayerProblem | OutputsProblem) -> None:
    """Refuse a problem that the checker would not take, before anything is searched for.

    Raises
    ------
    UsageError
        Saying what is too large, and the remedy.
    """
    samples, features = problem.X.shape
    products, most, numbers = samples * features * (features + 3), MOST_PRODUCTS, samples * features
    if isinstance(problem, OutputsProblem):
        products, most = problem.outputs * products, MOST_OUTPUTS_PRODUCTS
        # Each output has two signs, with a quadratic and a linear coefficient for each sample.
        numbers += 5 * problem.outputs * samples
    if products > most or HEX_BYTES * numbers > MOST_BYTES:
        raise UsageError(
            f"{samples} samples of {features} features are more than the exact checker takes ({products:,} products, "
            f"at most {most:,}); take fewer samples (--samples) or principal components (--components)."
        )


def _content(
    problem: TwoLayerProblem | OutputsProblem, evidence: Mapping[str, Any], incumbent: Incumbent | None
) -> dict[str, Any]:
    X, y = problem.X.tolist(), problem.y.tolist()
    statement = {
        **({"network": "two_layer_outputs", "outputs": problem.outputs}
           if isinstance(problem, OutputsProblem) else {"network": "two_layer"}),
        "activation": problem.activation,
        **({"slope": float(problem.slope).hex()} if problem.activation == "leaky_relu" else {}),
        "loss": problem.loss, "weight_decay": float(problem.weight_decay).hex(), "bias": problem.bias,
        "samples": len(y), "features": len(X[0]), "data_sha256": data_digest(X, y), "lower_bound": (0.0).hex(),
        "incumbent": None if incumbent is None else _rounded_up(problem, incumbent).hex(),
        "preparation": problem.preparation,
    }  # fmt: skip
    network = None
    if incumbent is not None:
        network = {"weights": hexes(incumbent.weights.tolist()), "outputs": hexes(incumbent.outputs.tolist())}
    return {
        "format": FORMAT, "statement": statement, "data": {"X": hexes(X), "y": hexes(y)},
        "evidence": evidence, "network": network,
    }  # fmt: skip


def _text(made: Mapping[str, Any]) -> str:
    return json.dumps(made, allow_nan=False, separators=(",", ":"))


def _rounded_up(problem: TwoLayerProblem | OutputsProblem, incumbent: Incumbent) -> float:
    """The objective of the incumbent or a little more, in exact arithmetic where that does not take long."""
    numbers = incumbent.weights.size + (incumbent.outputs.size if isinstance(problem, OutputsProblem) else 0)
    if numbers * len(problem.X) > MOST_NETWORK_PRODUCTS:
        return incumbent.objective * (1 + ROUNDING)
    statement = {
        "activation": problem.activation, "slope": problem.slope, "loss": problem.loss,
        "weight_decay": problem.weight_decay,
        **({"outputs": problem.outputs} if isinstance(problem, OutputsProblem) else {}),
    }  # fmt: skip
    return objective(
        statement, problem.X.tolist(), problem.y.tolist(), incumbent.weights.tolist(), incumbent.outputs.tolist()
    )


def hexes(numbers: Any) -> Any:
    """Numbers, however they are nested in lists, as the file has them."""
    return [hexes(entry) for entry in numbers] if isinstance(numbers, list) else float(numbers).hex()
