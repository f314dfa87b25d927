"""`convexblocks certify`: a proven lower bound on the training objective, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formulations.errors import UsageError
from .certificate_data import load_prepared
from .certificate_problem import make_problem, problem_of_run
from .certify_deep import deep_problem, search_deep
from .console import number, print_json, say, say_lines, working
from .training import check_seed, limit_threads
from .weak_bounds import why_weak

if TYPE_CHECKING:
    from ..certificates import Certificate, DeepIncumbent, DeepProblem, Incumbent, OutputsProblem, TwoLayerProblem

Option = typer.Option
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
    depth: Annotated[
        int | None, Option(metavar="L", help="Weight matrices; 2 by default.", rich_help_panel=NETWORK)
    ] = None,
    hidden: Annotated[
        int | None, Option(metavar="N", help="Most neurons of the network to compare.", rich_help_panel=NETWORK)
    ] = None,
    activation: Annotated[
        str | None, Option(metavar="NAME", help="relu, leaky_relu, absolute_value, tanh.", rich_help_panel=NETWORK)
    ] = None,
    loss: Annotated[
        str | None, Option(metavar="NAME", help="squared, logistic, softmax; else from y.", rich_help_panel=NETWORK)
    ] = None,
    weight_decay: Annotated[
        float | None, Option(metavar="X", help="Times half of all weights squared.", rich_help_panel=NETWORK)
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
    """Prove a lower bound on the training objective of all networks of a depth, of any width.

    Two outputs and three classes are bounded in directions of their plane. Other outputs are bounded one by one: where
    they want the same neurons, the bound is well below the truth.
    """
    check_seed(seed)
    if hidden is not None and hidden < 1:
        raise UsageError(f"--hidden is {hidden}; expected 1 neuron or more.")
    if not seconds > 0:
        raise UsageError(f"--seconds is {seconds:g}; expected a number above 0.")
    limit_threads()
    problem: TwoLayerProblem | OutputsProblem | DeepProblem
    network: Incumbent | DeepIncumbent | None = None
    if run is not None:
        fixed = {"DATA": data, "--depth": depth, "--classes": classes, "--samples": samples, "--components": components,
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
        if depth is None or depth == 2:
            problem = make_problem(
                prepared, weight_decay=weight_decay, relative=relative, activation=activation or "relu", seed=seed
            )
        else:
            problem = deep_problem(
                prepared, depth, weight_decay=weight_decay, relative=relative, activation=activation or "relu"
            )
    certificate = search(problem, network, hidden=hidden, seconds=seconds, seed=seed, quiet=json, method=method)
    certificate.write(out)
    if json:
        print_json(summary(certificate, out))
        return
    say_lines(str(certificate))
    if reasons := why_weak(problem, certificate):
        say(reasons)
    say(
        f"Found in {number(certificate.seconds, 3)} s, the training of networks apart. "
        f"Anybody can prove it again: convexblocks check {out}"
    )


def search(
    problem: TwoLayerProblem | OutputsProblem | DeepProblem, network: Incumbent | DeepIncumbent | None, *,
    hidden: int | None, seconds: float, seed: int, quiet: bool, method: str = "auto",
) -> Certificate:  # fmt: skip
    """Train what the bound is compared with, then search for the bound."""
    from ..certificates import DeepProblem, Incumbent, TwoLayerProblem
    from ..certificates import certify as certified
    from ..certificates.certificate import require_checkable
    from ..certificates.incumbent import train_width
    from ..certificates.search import require_method, train

    if isinstance(problem, DeepProblem):
        if method != "auto":
            raise UsageError(f"--method is {method!r}, which is for two layers; leave it out.")
        deep = None if isinstance(network, Incumbent) else network
        return search_deep(problem, deep, hidden=hidden, seconds=seconds, seed=seed, quiet=quiet)
    if hidden is not None and not isinstance(problem, TwoLayerProblem):
        raise UsageError(f"--hidden is {hidden}, which is known for one output; leave it out: any width is compared.")
    # Before the training, which takes half of the time.
    require_method(problem, method)
    require_checkable(problem)
    with working("training networks to compare with ...", quiet=quiet):
        best = train(problem, seconds=seconds / 2, random_state=seed)
        compared = network if isinstance(network, Incumbent) else None
        if compared is None and isinstance(problem, TwoLayerProblem) and hidden and len(best.outputs) > hidden:
            compared = train_width(problem, hidden, seconds=seconds / 4, random_state=seed)
    with working("searching for a lower bound ...", quiet=quiet):
        return certified(problem, best, seconds=seconds / 2, stated=compared, method=method)


def summary(certificate: Certificate, out: Path | None) -> dict[str, Any]:
    """What --json prints; others rely on these keys."""
    bound = certificate.bound
    return {
        "lower_bound": bound.lower_bound, "incumbent": bound.incumbent, "gap_percent": certificate.gap_percent,
        "proven": bound.proven, "exact": bound.exact, "statement": bound.statement, "seconds": certificate.seconds,
        "out": None if out is None else str(out),
    }  # fmt: skip
