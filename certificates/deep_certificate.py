"""Certificates of networks of any depth: the content of their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..formulations.errors import UsageError
from .certificate import HEX_BYTES, ROUNDING, Certificate, certificate_of, hexes
from .checker import (
    FORMAT,
    MOST_BYTES,
    MOST_NETWORK_PRODUCTS,
    MOST_PRODUCTS,
    data_digest,
    deep_objective,
    deep_products,
)
from .deep_incumbent import DeepIncumbent
from .deep_problem import DeepProblem

MOST_SAMPLES = 6_000
"""With more, too few cuts would be checked in the time that is accepted."""
MOST_SHARE = 4
"""The spectral norm may take this part of what the checker computes; the rest is for the cuts."""


def make_deep_certificate(
    problem: DeepProblem, evidence: Mapping[str, Any], incumbent: DeepIncumbent | None, seconds: float
) -> Certificate:
    """A certificate of what the evidence proves.

    Raises
    ------
    UsageError
        If it is too large for the checker.
    CertificateError
        If the checker rejects the evidence, or proves more than the incumbent allows.
    """
    X, y = problem.X.tolist(), problem.y.tolist()
    statement = {
        "network": "deep", "depth": problem.depth, "activation": problem.activation,
        **({"slope": float(problem.slope).hex()} if problem.activation == "leaky_relu" else {}),
        "loss": problem.loss, "weight_decay": float(problem.weight_decay).hex(), "bias": problem.bias,
        "samples": len(y), "features": len(X[0]), "data_sha256": data_digest(X, y), "lower_bound": (0.0).hex(),
        "incumbent": None if incumbent is None else _rounded_up(problem, incumbent).hex(),
        "preparation": problem.preparation,
    }  # fmt: skip
    network = None
    if incumbent is not None and problem.activation != "tanh":
        biases = incumbent.biases
        network = {
            "weights": [hexes(matrix.tolist()) for matrix in incumbent.weights],
            "biases": None if biases is None else [[b.hex() for b in bias.tolist()] for bias in biases],
        }
    made = {
        "format": FORMAT, "statement": statement, "data": {"X": hexes(problem.X.tolist()), "y": [a.hex() for a in y]},
        "evidence": evidence, "network": network,
    }  # fmt: skip
    return certificate_of(made, seconds)


def require_checkable(problem: DeepProblem) -> None:
    """Refuse a problem that the checker would not take, before anything is searched for.

    Raises
    ------
    UsageError
        Saying what is too large, and the remedy.
    """
    samples, features = problem.X.shape
    if samples > MOST_SAMPLES:
        raise UsageError(
            f"the problem has {samples} samples; the bound for any depth is computed for at most {MOST_SAMPLES:,}: "
            "take fewer (--samples)."
        )
    least = min(samples, features)
    products = samples * features * least + least**3
    if MOST_SHARE * products > MOST_PRODUCTS or MOST_SHARE * HEX_BYTES * samples * features > MOST_BYTES:
        raise UsageError(
            f"{samples} samples of {features} features are more than the exact checker takes ({products:,} products, "
            f"at most {MOST_PRODUCTS // MOST_SHARE:,}); take fewer samples (--samples) or principal components "
            "(--components)."
        )


def _rounded_up(problem: DeepProblem, incumbent: DeepIncumbent) -> float:
    """The objective of the incumbent or a little more, in exact arithmetic where that does not take long."""
    sizes = [matrix.size for matrix in incumbent.weights]
    if problem.activation == "tanh" or deep_products(len(problem.X), sizes) > MOST_NETWORK_PRODUCTS:
        return incumbent.objective * (1 + ROUNDING)
    statement = {
        "activation": problem.activation, "slope": problem.slope, "loss": problem.loss,
        "weight_decay": problem.weight_decay,
    }  # fmt: skip
    biases = None if incumbent.biases is None else [bias.tolist() for bias in incumbent.biases]
    weights = [matrix.tolist() for matrix in incumbent.weights]
    return deep_objective(statement, problem.X.tolist(), problem.y.tolist(), weights, biases)
