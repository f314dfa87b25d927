"""`convexblocks train`: train a network by alternating convex blocks, and its baselines beside it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formulations.catalogue import METHODS
from ..formulations.catalogue import method as find_method
from ..formulations.errors import UsageError
from ..formulations.formulation import Formulation
from ..formulations.losses import find_loss
from .console import LIFTED, cells, number, output, print_json, read_settings, say, sweep_progress, table, working
from .results import kink_note, own_figures, result_table, save_baselines
from .training import (
    DENSE,
    INTERRUPTED,
    check_seed,
    limit_threads,
    load_data,
    make_network,
    outputs_for,
    train_baselines,
    train_method,
)
from .training_options import (
    COURSE,
    DATA,
    GOAL,
    NETWORK,
    ActivationName,
    DataFolder,
    DataName,
    Device,
    Hidden,
    Json,
    LossName,
    NetworkKind,
    NoStandardize,
    Sweeps,
    Task,
    WeightDecay,
)

if TYPE_CHECKING:
    from ..networks.datasets import Dataset
    from ..solvers.history import History

Option = typer.Option
LEAST_DECREASE = 1e-4


def train(
    data: DataName,
    task: Task = None,
    no_split: Annotated[bool, Option("--no-split", help="Train on all samples.", rich_help_panel=DATA)] = False,
    no_standardize: NoStandardize = False,
    data_dir: DataFolder = None,
    kind: NetworkKind = DENSE,
    hidden: Hidden = [64],  # noqa: B006 - typer reads the default and hands out a copy
    activation: ActivationName = "relu",
    seed: Annotated[int, Option(metavar="N", help="Of split, start, mini-batches.", rich_help_panel=NETWORK)] = 0,
    device: Device = "cpu",
    loss: LossName = None,
    weight_decay: WeightDecay = 0.1,
    method: Annotated[str, Option(metavar="NAME", help="See `list`.", rich_help_panel=GOAL)] = "fenchel",
    settings: Annotated[
        list[str] | None, Option("--set", metavar="NAME=VALUE", help="Setting of the method.", rich_help_panel=GOAL)
    ] = None,
    sweeps: Sweeps = 30,
    tolerance: Annotated[
        float, Option(metavar="X", help="Least relative decrease; 0 never stops.", rich_help_panel=COURSE)
    ] = LEAST_DECREASE,
    time_limit: Annotated[float | None, Option(metavar="S", help="Seconds.", rich_help_panel=COURSE)] = None,
    batch_size: Annotated[
        int | None, Option(metavar="N", help="Mini-batches; fenchel: default all.", rich_help_panel=COURSE)
    ] = None,
    audit_every: Annotated[
        int, Option(metavar="N", help="Audit each N-th sweep by Clarabel; 0 never.", rich_help_panel=COURSE)
    ] = 0,
    no_baselines: Annotated[
        bool, Option("--no-baselines", help="Without Adam and the linear model.", rich_help_panel=COURSE)
    ] = False,
    out: Annotated[Path | None, Option(metavar="RUN", help="New folder; without it nothing is kept.")] = None,
    json: Json = False,
) -> None:
    """Train a network by convex blocks, e.g. alternating (fenchel), or a step of every layer's block (targets)."""
    check_seed(seed)
    given: dict[str, Any] = dict(read_settings(settings or []))
    alternates = method not in METHODS or issubclass(METHODS[method], Formulation)
    if not alternates:
        _refuse_alternation(method, tolerance, audit_every)
        given |= {} if batch_size is None else {"batch_size": batch_size}
    chosen = find_method(method, **given)
    wanted_task = task if task or loss is None else find_loss(loss).task
    dataset = load_data(data, kind, data_dir=data_dir, random_state=seed, task=wanted_task,
                        split=not no_split, standardize=not no_standardize)  # fmt: skip
    limit_threads(dataset.X_train.size)
    outputs = outputs_for(dataset, loss)
    network = make_network(dataset, hidden, activation, outputs=outputs, seed=seed, device=device, kind=kind)
    start = copy.deepcopy(network)
    common: dict[str, Any] = {
        "out": out, "loss": loss, "task": dataset.task, "weight_decay": weight_decay, "sweeps": sweeps,
        "time_limit": time_limit, "random_state": seed,
    }  # fmt: skip
    with sweep_progress(sweeps, quiet=json) as on_event:
        if alternates:
            common |= {"tolerance": tolerance, "batch_size": batch_size, "audit_every": audit_every}
        history = train_method(network, dataset, chosen, on_event=on_event, **common)
    interrupted = history.stop_reason.startswith(INTERRUPTED)
    compared: list[dict[str, Any]] = []
    try:
        if not (no_baselines or interrupted):
            with working("baselines: Adam and a linear model ...", quiet=json):
                compared = train_baselines(start, dataset, history.settings, outputs=outputs)
            save_baselines(out, compared)
    except KeyboardInterrupt:
        interrupted = True
    if json:
        print_json(_summary(history, compared, out))
    else:
        _tell(dataset, history, compared, out)
    if interrupted:
        raise typer.Exit(130)


def _refuse_alternation(method: str, tolerance: float, audit_every: int) -> None:
    """Refuse options of the coordinator of formulations, which the other methods cannot follow."""
    if tolerance != LEAST_DECREASE:
        raise UsageError(
            f"--tolerance is {tolerance:g}, but the method {method!r} runs its whole schedule; expected --sweeps "
            "alone: leave --tolerance out."
        )
    if audit_every:
        raise UsageError(
            f"--audit-every is {audit_every}, but the blocks of the method {method!r} are not audited; expected no "
            "audits: leave --audit-every out, or take --method fenchel."
        )


def _summary(history: History, compared: list[dict[str, Any]], out: Path | None) -> dict[str, Any]:
    """What --json prints; others rely on these keys."""
    last, settings = history.last, history.settings
    measure = "accuracy" if settings["task"] == "classification" else "error"
    return {
        f"test_{measure}": last.get(f"test_{measure}"),
        f"train_{measure}": last[f"train_{measure}"],
        "train_loss": last["true_loss"],
        "penalty": last["penalty"],
        "objective": last["objective"],
        "kink_price": last.get("kink_price"),
        "lifted_estimate": last.get("lifted_estimate"),
        "sweeps": last["sweep"],
        "cpu_seconds": last["cpu_seconds"],
        "seed": settings["random_state"],
        "task": settings["task"],
        "loss": settings["loss"],
        "stop_reason": history.stop_reason,
        "out": None if out is None else str(out),
        "baselines": compared,
    }


def _tell(dataset: Dataset, history: History, compared: list[dict[str, Any]], out: Path | None) -> None:
    settings = history.settings
    facts = table("", "")
    tested = "no test part" if dataset.X_test is None else f"{dataset.sizes[1]} for testing"
    for row in (
        ("data", f"{dataset.name}: {dataset.sizes[0]} samples for training, {tested}"),
        ("features", f"{dataset.X_train.shape[1]}, {dataset.source['features']}"),
        ("task", f"{settings['task']}, loss {settings['loss']}, weight decay {settings['weight_decay']:g}"),
        ("network", f"{' - '.join(map(str, settings['widths']))}, {', '.join(settings['activations'])}"),
        ("ended", f"after sweep {history.last['sweep']}: {history.stop_reason}"),
    ):
        facts.add_row(*cells(*row))
    facts.show_header = False
    output().print(facts, "")
    output().print(result_table([own_figures(history.last), *compared]), "")
    tell_notes(compared, lifted="lifted_estimate" in history.last)
    if "kink_price" in history.last:
        say(kink_note(settings["method"], history.last["kink_price"]))
    unsolved = sum(block["unsolved"] for block in history.last.get("blocks", {}).values())
    if unsolved:
        say(f"{number(unsolved)} block instances of the last sweep missed their tolerance; see history.jsonl.")
    if out is None:
        say("Nothing was saved: give --out RUN to keep the network and its history.")
    else:
        say(f"Saved in {out}: network.safetensors, history.jsonl, run.json. Next: convexblocks report {out}")


def tell_notes(compared: list[dict[str, Any]], *, lifted: bool = True) -> None:
    """Say what the lifted value is, where there is one, and how the baselines were trained."""
    if lifted:
        say(
            f"The {LIFTED}, penalty included, is where the activation blocks of the last sweep left it; it proves "
            "nothing about the least loss."
        )
    for method in compared:
        say(f"{method['name']}: {method['note']}.")
