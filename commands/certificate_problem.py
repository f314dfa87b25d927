"""The training problems that `certify` is asked about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..formulations.errors import UsageError
from .certificate_data import Prepared
from .certify_deep import deep_problem_of_run

if TYPE_CHECKING:
    from ..certificates import DeepIncumbent, DeepProblem, Incumbent, OutputsProblem, TwoLayerProblem

SLOPE = 0.01


def problem_of_run(
    run: Path, weight_decay: float | None, *, relative: bool, seed: int
) -> tuple[TwoLayerProblem | OutputsProblem, Incumbent] | tuple[DeepProblem, DeepIncumbent]:
    """The training problem of a run and its network; of two layers the hidden bias is penalized, of more it is free.

    Raises
    ------
    UsageError
        If the run is none, or its network or loss are not covered.
    """
    import numpy as np

    from ..certificates import OutputsProblem
    from ..certificates.incumbent import network_incumbent
    from ..certificates.outputs_incumbent import network_outputs_incumbent
    from ..solvers.run import load

    loaded = load(run)
    if loaded.data is None:
        raise UsageError(f"the run {str(run)!r} was saved without its data; a bound needs them.")
    X, y = loaded.data
    settings, widths = loaded.settings, loaded.settings["widths"]
    loss = {"softmax_cross_entropy": "softmax"}.get(settings["loss"], settings["loss"])
    outputs = widths[-1] if widths[-1] > 1 else None
    if loss not in ("squared", "logistic", "softmax") or len(widths) < 3 or (len(widths) > 3 and outputs):
        raise UsageError(
            f"the run has the widths {widths} and the loss {settings['loss']}; a bound is known for two layers, "
            "squared, logistic or softmax, and for more layers with one output."
        )
    y = np.where(y == 1, 1.0, -1.0) if loss == "logistic" else np.asarray(y, dtype=float)
    y = y if outputs and loss == "squared" else y.ravel()
    decay = settings["weight_decay"] if weight_decay is None else weight_decay
    if len(widths) > 3:
        return deep_problem_of_run(run, loaded.module, X, y, settings, decay, relative=relative)
    name, _, slope = settings["activations"][0].partition("(")
    prepared = Prepared(
        np.hstack([X, np.ones((len(X), 1))]), y, loss, "column",
        f"the training data of the run {run.name} as its network sees them; a column of ones appended", outputs,
    )  # fmt: skip
    problem = make_problem(
        prepared, weight_decay=decay, relative=relative, activation=name,
        slope=float(slope.rstrip(")")) if slope else SLOPE, seed=seed,
    )  # fmt: skip
    if isinstance(problem, OutputsProblem):
        return problem, network_outputs_incumbent(problem, loaded.module)
    return problem, network_incumbent(problem, loaded.module)


def make_problem(
    prepared: Prepared, *, weight_decay: float | None, relative: bool, activation: str = "relu", slope: float = SLOPE,
    seed: int = 0,
) -> TwoLayerProblem | OutputsProblem:  # fmt: skip
    """A training problem, its weight decay absolute or a share of the one above which the zero network is optimal.

    Raises
    ------
    UsageError
        If there is no weight decay, or no bound is known for the problem.
    """
    from ..certificates import OutputsProblem, TwoLayerProblem, largest_outputs_weight_decay, largest_weight_decay

    if weight_decay is None:
        raise UsageError("no weight decay is given: --weight-decay X, or with --relative a share, such as 0.3.")
    further = weight_decay, activation, slope, prepared.bias, prepared.words
    problem: TwoLayerProblem | OutputsProblem
    if prepared.outputs is None:
        problem = TwoLayerProblem(prepared.X, prepared.y, prepared.loss, *further)
    else:
        problem = OutputsProblem(prepared.X, prepared.y, prepared.loss, prepared.outputs, *further)
    if not relative:
        return problem
    if isinstance(problem, OutputsProblem):
        most = largest_outputs_weight_decay(problem, random_state=seed)
    else:
        most = largest_weight_decay(problem, random_state=seed)
    words = f"{prepared.words}; weight decay {weight_decay:g} times {most:.6g}, from where on zero is best (estimated)"
    return replace(problem, weight_decay=weight_decay * most, preparation=words)
