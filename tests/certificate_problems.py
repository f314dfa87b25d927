"""Small training problems for the tests of certificates: losses x activations."""

from __future__ import annotations

import numpy as np

from convexblocks.certificates.losses import LOSSES
from convexblocks.certificates.problem import ACTIVATIONS, TwoLayerProblem

KINDS = [(loss, activation) for loss in LOSSES for activation in ACTIVATIONS]


def small_problem(
    loss: str = "squared", activation: str = "relu", *, samples: int = 12, features: int = 3, share: float = 0.2,
    seed: int = 0,
) -> TwoLayerProblem:  # fmt: skip
    """Noisy targets of a small network, with a bias column; `share` is about the relative weight decay."""
    rng = np.random.default_rng(seed)
    X = np.hstack([rng.standard_normal((samples, features - 1)), np.ones((samples, 1))])
    y = np.abs(X[:, 0]) - 0.7 + 0.3 * rng.standard_normal(samples)
    if loss == "logistic":
        y = np.where(y > 0, 1.0, -1.0)
    decay = share * float(np.linalg.norm(X.T @ (y if loss == "squared" else y / 2)))
    return TwoLayerProblem(X, y, loss, decay, activation, 0.2, "column")


def random_network(problem: TwoLayerProblem, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A network of some width and scale."""
    width, scale = int(rng.integers(1, 9)), 10.0 ** rng.uniform(-2, 0.3)
    return scale * rng.standard_normal((width, problem.X.shape[1])), scale * rng.standard_normal(width)
