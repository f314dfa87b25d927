"""Why a bound is weak, and what would make it stronger: told where the gap is large."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ..certificates import Certificate, DeepProblem, OutputsProblem, TwoLayerProblem

LARGE = 20.0
"""Gaps above this, in percent, are explained."""
BLOCK = 500
"""Samples whose distances to all others are held together."""


def why_weak(problem: TwoLayerProblem | OutputsProblem | DeepProblem, certificate: Certificate) -> str:
    """The reasons for a large gap, and remedies; empty where the gap is small."""
    from ..certificates import DeepProblem, OutputsProblem
    from ..certificates.checker import MOST_CONE_FEATURES, PLANES

    if not certificate.gap_percent > LARGE:
        return ""
    if isinstance(problem, DeepProblem):
        return _why_weak_at_depth(problem)
    if isinstance(problem, OutputsProblem) and (problem.loss, problem.outputs) not in PLANES:
        return (
            f"The gap is large: each of the {problem.outputs} outputs is bounded by itself, which loses where they "
            "want the same neurons; the network found may be optimal all the same. Two classes lose nothing "
            "(--classes A,B), three classes and two targets little. A larger --weight-decay makes the bound "
            "stronger, too."
        )
    return (
        f"The gap is large: with a small weight decay and many features ({problem.X.shape[1]} here) the relaxation "
        "loses much; the network found may be optimal all the same. A larger --weight-decay or fewer --components "
        f"make the bound stronger (with {MOST_CONE_FEATURES - 1} or fewer and the bias, cones can make it sharp); so "
        "may more --seconds."
    )


def _why_weak_at_depth(problem: DeepProblem) -> str:
    slope, conflicts = steepest(problem.X, problem.y)
    return (
        "The gap is large: at this depth the bound sees only how far apart samples with different targets are. "
        f"The steepest pair of different samples has |y_i - y_j| / |x_i - x_j| = {slope:.3g}: a function with this "
        "Lipschitz constant fits them all, and the bound cannot tell a network from it. It is strong where labels are "
        f"noise, so that samples that (nearly) coincide disagree; {conflicts or 'none'} of these samples coincide with "
        "one that disagrees. A larger --weight-decay makes it stronger; so does --depth 2, which is proven in another "
        "way, by paired moments."
    )


def steepest(X: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """The largest |y_i - y_j| / |x_i - x_j| of different samples, and how many coincide with one of another target."""
    import numpy as np

    largest, conflicting = 0.0, 0
    for start in range(0, len(X), BLOCK):
        here = X[start : start + BLOCK]
        apart = np.abs(y[start : start + BLOCK, None] - y)
        distances = np.sqrt(((here[:, None] - X) ** 2).sum(axis=2))
        same = distances == 0
        conflicting += int((same & (apart > 0)).any(axis=1).sum())
        largest = max(largest, float((apart / np.where(same, np.inf, distances)).max()))
    return largest, conflicting
