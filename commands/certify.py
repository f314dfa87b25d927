"""`convexblocks certify`: a proven lower bound on the training objective, in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formulations.errors import UsageError
from .certificate_data import Prepared, load_prepared
from .console import number, print_json, say, say_lines, working
from .training import check_seed, limit_threads

if TYPE_CHECKING:
    from ..certificates import Certificate, Incumbent, TwoLayerProblem

Option = typer.Option
SLOPE = 0.01
DATA, NETWORK, SEARCH = "Data", "Network and objective", "Search"


def certify(
    out: Annotated[Path, Option(metavar="CERT.json", help="The certificate.")],
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="A name of `list`, .npz or .csv; not with --run.")
    ] = None,
    run: Annotated[
        Path | None, Option(metavar="RUN", help="Judge this run, on its data.", rich_help_panel=DATA)
    ] = None,
    classes: Annotated[
        str | None, Option(metavar="A,B", help="Two classes of the data.", rich_help_panel=DATA)
    ] = None,
    samples: Annotated[int | None, Option(metavar="N", help="Take the first N.", rich_help_panel=DATA)] = None,
    components: Annotated[
        int | None, Option(metavar="N", help="Principal components.", rich_help_panel=DATA)
    ] = None,
    no_bias: Annotated[
        bool, Option("--no-bias", help="Without a column of ones.", rich_help_panel=DATA)
    ] = False,
    data_dir: Annotated[
        Path | None, Option(metavar="DIR", help="Has mnist.npz; or CONVEXBLOCKS_DATA.", rich_help_panel=DATA)
    ] = None,
    hidden: Annotated[
        int | None, Option(metavar="N", help="Most neurons of the network to compare.", rich_help_panel=NETWORK)
    ] = None,
    activation: Annotated[
        str | None, Option(metavar="NAME", help="relu, leaky_relu, absolute_value.", rich_help_panel=NETWORK)
    ] = None,
    loss: Annotated[
        str | None, Option(metavar="NAME", help="squared, logistic; else from y.", rich_help_panel=NETWORK)
    ] = None,
    weight_decay: Annotated[
        float | None, Option(metavar="X", help="Times sum (w^2 + a^2) / 2.", rich_help_panel=NETWORK)
    ] = None,
    relative: Annotated[
        bool,
        Option("--relative", help="As a share of the one that makes zero optimal.", rich_help_panel=NETWORK),
    ] = False,
    seconds: Annotated[float, Option(metavar="S", help="About how long.", rich_help_panel=SEARCH)] = 60,
    method: Annotated[
        str, Option(metavar="NAME", help="auto, cone_search, paired_moments.", rich_help_panel=SEARCH)
    ] = "auto",
    seed: Annotated[int, Option(metavar="N", help="Of the training.", rich_help_panel=SEARCH)] = 0,
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove a lower bound on the training objective of all two-layer networks, of any width."""
    check_seed(seed)
    if hidden is not None and hidden < 1:
        raise UsageError(f"--hidden is {hidden}; expected 1 neuron or more.")
    if not seconds > 0:
        raise UsageError(f"--seconds is {seconds:g}; expected a number above 0.")
    limit_threads()
    if run is not None:
        fixed = {"DATA": data, "--classes": classes, "--samples": samples, "--components": components,
                 "--no-bias": no_bias or None, "--data-dir": data_dir, "--hidden": hidden, "--activation": activation,
                 "--loss": loss}  # fmt: skip
        if given := [name for name, value in fixed.items() if value is not None]:
            raise UsageError(f"with --run data and network are those of the run; leave {', '.join(given)} out.")
        problem, network = problem_of_run(run, weight_decay, relative=relative, seed=seed)
    elif data is None:
        raise UsageError("no data are named: give DATA, a name of `convexblocks list` or a file, or --run RUN.")
    else:
        prepared = load_prepared(data, classes=classes, samples=samples, components=components, bias=not no_bias,
                                 loss=loss, data_dir=data_dir)  # fmt: skip
        problem, network = make_problem(
            prepared, weight_decay=weight_decay, relative=relative, activation=activation or "relu", seed=seed
        ), None
    certificate = search(problem, network, hidden=hidden, seconds=seconds, seed=seed, quiet=json, method=method)
    certificate.write(out)
    if json:
        print_json(summary(certificate, out))
        return
    say_lines(str(certificate))
    say(
        f"Found in {number(certificate.seconds, 3)} s, the training of networks apart. "
        f"Anybody can prove it again: convexblocks check {out}"
    )


def search(
    problem: TwoLayerProblem, network: Incumbent | None, *, hidden: int | None, seconds: float, seed: int, quiet: bool,
    method: str = "auto",
) -> Certificate:  # fmt: skip
    """Train what the bound is compared with, then search for the bound."""
    from ..certificates import certify as certified
    from ..certificates.certificate import require_checkable
    from ..certificates.incumbent import train_incumbent, train_width
    from ..certificates.search import require_method

    # Before the training, which takes half of the time.
    require_method(problem, method)
    require_checkable(problem)
    with working("training networks to compare with ...", quiet=quiet):
        best = train_incumbent(problem, seconds=seconds / 2, random_state=seed)
        compared = network
        if network is None and hidden is not None and len(best.outputs) > hidden:
            compared = train_width(problem, hidden, seconds=seconds / 4, random_state=seed)
    with working("searching for a lower bound ...", quiet=quiet):
        return certified(problem, best, seconds=seconds / 2, stated=compared, method=method)


def problem_of_run(
    run: Path, weight_decay: float | None, *, relative: bool, seed: int
) -> tuple[TwoLayerProblem, Incumbent]:
    """The training problem of a run, its hidden bias penalized, and its network.

    Raises
    ------
    UsageError
        If the run is none, or its network or loss are not covered.
    """
    import numpy as np

    from ..certificates.incumbent import network_incumbent
    from ..solvers.run import load

    loaded = load(run)
    if loaded.data is None:
        raise UsageError(f"the run {str(run)!r} was saved without its data; a bound needs them.")
    X, y = loaded.data
    settings = loaded.settings
    if settings["loss"] not in ("squared", "logistic") or settings["widths"][-1] != 1 or len(settings["widths"]) != 3:
        raise UsageError(
            f"the run has the widths {settings['widths']} and the loss {settings['loss']}; a bound is known for two "
            "layers with one output, squared or logistic."
        )
    y = np.where(y == 1, 1.0, -1.0) if settings["loss"] == "logistic" else np.asarray(y, dtype=float).ravel()
    name, _, slope = settings["activations"][0].partition("(")
    prepared = Prepared(
        np.hstack([X, np.ones((len(X), 1))]), y, settings["loss"], "column",
        f"the training data of the run {run.name} as its network sees them; a column of ones appended",
    )  # fmt: skip
    problem = make_problem(
        prepared, weight_decay=settings["weight_decay"] if weight_decay is None else weight_decay, relative=relative,
        activation=name, slope=float(slope.rstrip(")")) if slope else SLOPE, seed=seed,
    )  # fmt: skip
    return problem, network_incumbent(problem, loaded.module)


def make_problem(
    prepared: Prepared, *, weight_decay: float | None, relative: bool, activation: str = "relu", slope: float = SLOPE,
    seed: int = 0,
) -> TwoLayerProblem:  # fmt: skip
    """A training problem, its weight decay absolute or a share of the one above which the zero network is optimal.

    Raises
    ------
    UsageError
        If there is no weight decay, or no bound is known for the problem.
    """
    from ..certificates import TwoLayerProblem, largest_weight_decay

    if weight_decay is None:
        raise UsageError("no weight decay is given: --weight-decay X, or with --relative a share, such as 0.3.")
    problem = TwoLayerProblem(
        prepared.X, prepared.y, prepared.loss, weight_decay, activation, slope, prepared.bias, prepared.words
    )
    if not relative:
        return problem
    most = largest_weight_decay(problem, random_state=seed)
    words = f"{prepared.words}; weight decay {weight_decay:g} times {most:.6g}, from where on zero is best (estimated)"
    return replace(problem, weight_decay=weight_decay * most, preparation=words)


def summary(certificate: Certificate, out: Path | None) -> dict[str, Any]:
    """What --json prints; others rely on these keys."""
    bound = certificate.bound
    return {
        "lower_bound": bound.lower_bound, "incumbent": bound.incumbent, "gap_percent": certificate.gap_percent,
        "proven": bound.proven, "exact": bound.exact, "statement": bound.statement, "seconds": certificate.seconds,
        "out": None if out is None else str(out),
    }  # fmt: skip
