"""L-BFGS that ends at a deadline with the best point it has met."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from scipy.optimize import minimize

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""A point -> the value there, and the gradient."""


def minimize_until(
    objective: Objective,
    first: np.ndarray,
    deadline: float,
    *,
    iterations: int,
    bounds: Sequence[tuple[int | None, None]] | None = None,
) -> np.ndarray:
    """The best point that L-BFGS meets in so many iterations, before the deadline on `time.perf_counter`."""
    best, least = first.copy(), np.inf

    def watched(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, least
        if time.perf_counter() > deadline:
            raise TimeoutError
        value, gradient = objective(flat)
        if value < least:
            best, least = flat.copy(), value
        return value, gradient

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 20, "ftol": 1e-14, "gtol": 1e-9}
    with suppress(TimeoutError):
        minimize(watched, first, jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    return best
