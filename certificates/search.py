"""certify: the best certificate that is found for a two-layer training problem in a time."""

from __future__ import annotations

import time
from typing import Any

from ..formulations.errors import UsageError
from ..formulations.sample_pairs import nearest_pairs
from .certificate import Certificate, make_certificate, require_checkable
from .checker import MOST_CONE_FEATURES
from .cone_evidence import search_evidence
from .dual_polish import polish
from .evidence import Multipliers, as_evidence, busy, support_estimate
from .incumbent import Incumbent, train_incumbent
from .moment_start import first_multipliers
from .outputs_incumbent import train_outputs
from .outputs_problem import OutputsProblem
from .outputs_search import search_outputs
from .problem import TwoLayerProblem

FEW_FEATURES, FEW_SAMPLES = 12, 1_000
NEIGHBOURS = {(True, True): 40, (True, False): 8, (False, True): 5, (False, False): 2}
"""Of each sample, in pairs, by whether there are few samples and few features; few features get several partners too.

Most pairs are idle. Those that the first multipliers leave so are dropped where samples are few.
"""
SHARES = (0.5, 0.3, 0.5)
"""Of the time, for the incumbent and, of the rest, for the first multipliers of many samples and of few."""
CONE_SHARE = 0.7
"""Of the time, after which paired moments are tried too unless cones are fine by then."""
METHODS = ("auto", "cone_search", "paired_moments")


def certify(
    problem: TwoLayerProblem | OutputsProblem, incumbent: Incumbent | None = None, *, seconds: float = 60.0,
    random_state: int = 0, stated: Incumbent | None = None, method: str = "auto",
) -> Certificate:  # fmt: skip
    """Prove a lower bound on the training objective of every network of every width.

    Parameters
    ----------
    problem : TwoLayerProblem or OutputsProblem
    incumbent : Incumbent, optional
        A good network: its residuals are the first dual point (of one output), and the bound is compared with its
        objective. By default one is trained, in half of the time.
    seconds : float
        About how long to search; checking comes on top.
    random_state : int
        Seed of the training.
    stated : Incumbent, optional
        The network that the certificate compares the bound with, where it is another one than the incumbent.
    method : str
        "paired_moments"; "cone_search", for at most 8 features, sharp for at most 6 or so; or "auto", the better one.

    Returns
    -------
    Certificate
        Its `lower_bound` is proven: in exact arithmetic (checker.py), or for very many cones in floating point with all
        roundings counted (cone_replay.py; `bound.exact` is false). It is 0, which always holds, where nothing better
        was found.

    Raises
    ------
    UsageError
        If the time is not above zero, the problem is larger than the checker takes, or the method is unknown, has no
        use for so many features, or found nothing in the time.
    CertificateError
        If the proven bound is above the incumbent: please report that.
    """
    if not seconds > 0:
        raise UsageError(f"seconds is {seconds!r}; expected a number above 0.")
    require_method(problem, method)
    require_checkable(problem)
    if incumbent is None:
        incumbent = train(problem, seconds=SHARES[0] * seconds, random_state=random_state)
        seconds *= 1 - SHARES[0]
    began = time.perf_counter()
    if isinstance(problem, OutputsProblem):
        evidence = search_outputs(problem, incumbent, seconds, random_state=random_state)
    else:
        evidence = _search(problem, incumbent, seconds, method)
    return make_certificate(problem, evidence, stated or incumbent, time.perf_counter() - began)


def train(problem: TwoLayerProblem | OutputsProblem, *, seconds: float, random_state: int = 0) -> Incumbent:
    """`train_incumbent` or `train_outputs`."""
    if isinstance(problem, OutputsProblem):
        return train_outputs(problem, seconds=seconds, random_state=random_state)
    return train_incumbent(problem, seconds=seconds, random_state=random_state)


def require_method(problem: TwoLayerProblem | OutputsProblem, method: str) -> None:
    """Refuse a method that is unknown or of no use for a problem.

    Raises
    ------
    UsageError
        Saying what is known, or the remedy.
    """
    if method not in METHODS:
        raise UsageError(f"the method is {method!r}; expected one of {', '.join(METHODS)}.")
    if method == "cone_search" and isinstance(problem, OutputsProblem):
        raise UsageError("cones are for one output; leave the method out, or take paired_moments.")
    if method == "cone_search" and problem.X.shape[1] > MOST_CONE_FEATURES:
        raise UsageError(
            f"X has {problem.X.shape[1]} columns, and cones are for at most {MOST_CONE_FEATURES}; take fewer principal "
            "components (--components), or the method paired_moments."
        )


def _search(problem: TwoLayerProblem, incumbent: Incumbent, seconds: float, method: str) -> dict[str, Any]:
    """Evidence by cones or by paired moments, of which "auto" takes the better one."""
    began, cones = time.perf_counter(), None
    if method == "cone_search" or (method == "auto" and problem.X.shape[1] <= MOST_CONE_FEATURES):
        share = 1.0 if method == "cone_search" else CONE_SHARE
        cones = search_evidence(problem, incumbent, began + share * seconds, began + seconds)
        if cones is not None and (cones.fine or method == "cone_search"):
            return cones.as_evidence()
        if method == "cone_search":
            raise UsageError(
                f"cones found no bound in {seconds:g} s; give more time, or take paired moments (method 'auto')."
            )
    moments, estimate = _moments(problem, incumbent, max(0.1 * seconds, began + seconds - time.perf_counter()))
    return cones.as_evidence() if cones is not None and cones.estimate > estimate else moments


def _moments(problem: TwoLayerProblem, incumbent: Incumbent, seconds: float) -> tuple[dict[str, Any], float]:
    """Evidence by paired moments, and the lower bound that it will prove: an estimate."""
    began = time.perf_counter()
    samples, features = problem.X.shape
    few, low = samples <= FEW_SAMPLES, features <= FEW_FEATURES
    pairs = nearest_pairs(problem.X, problem.y, neighbours=NEIGHBOURS[few, low], conic=low)
    # Rows are tighter, and slower to find.
    start, _ = first_multipliers(problem, pairs, incumbent, SHARES[1 + few] * seconds, rows=few)
    if few:
        pairs, start = busy(pairs, start)
    left = max(0.1 * seconds, seconds - (time.perf_counter() - began))
    found, estimate = polish(problem, pairs, start, left)
    scaled = _up_to_the_decay(problem, found, support_estimate(problem, pairs, found))
    return as_evidence(problem, pairs, scaled), estimate


def _up_to_the_decay(problem: TwoLayerProblem, found: Multipliers, support: float) -> Multipliers:
    """Multipliers whose bound on h is just the weight decay, where D allows that: the checker need not scale."""
    scale = problem.best_scale(found.v, problem.weight_decay / support) if support > 0 else 1.0
    return found.scaled(scale)
