"""`convexblocks demo`: the main job, small: show a block, train on digits, audit, certify, report."""

from __future__ import annotations

import copy
from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from ..formulations.fenchel_activation import FenchelActivation
from ..formulations.fenchel_lifting import FenchelLifting
from .console import heading, output, say, say_lines, sweep_progress, working
from .report import write_report
from .results import audit_notes, audit_table, own_figures, result_table, save_baselines, warm_and_cold_table
from .train import tell_notes
from .training import INTERRUPTED, check_seed, limit_threads, make_network, train_baselines, train_method

Option = typer.Option
HIDDEN = 64
AUDIT_EVERY = 10
SWEEPS = 30
CERTIFICATE = "certificate.json"
SHARE, SECONDS = 0.3, 12.0
"""Weight decay of the certified problem, relative to the one above which zero is optimal, and time for its bound."""


def demo(
    out: Annotated[Path | None, Option(metavar="RUN", help="New folder; default runs/demo, runs/demo-2, ...")] = None,
    seed: Annotated[int, Option(metavar="N", help="Seed of split and start.")] = 0,
) -> None:
    """Show a block, train 64-64-10 on digits by alternating convex blocks, audit, compare, certify, report."""
    # Imported here because torch takes a second, which --help need not wait for.
    from ..solvers.checkpoint import prepare_folder

    check_seed(seed)
    folder = out or _free_folder()
    prepare_folder(folder)
    limit_threads()
    multiplier = FenchelLifting().multiplier
    heading("1. One block: a convex program that can be read")
    say_lines(FenchelActivation(width=HIDDEN, next_width=10, loss="softmax_cross_entropy", below=multiplier).show())

    heading(f"2. Train 64-{HIDDEN}-10 on digits by alternating such blocks")
    from ..networks.datasets import load_dataset

    dataset = load_dataset("digits", random_state=seed)
    network = make_network(dataset, [HIDDEN], "relu", outputs=dataset.outputs, seed=seed, device="cpu")
    start = copy.deepcopy(network)
    with sweep_progress(SWEEPS) as on_event:
        history = train_method(
            network, dataset, FenchelLifting(), out=folder, on_event=on_event, sweeps=SWEEPS, audit_every=AUDIT_EVERY,
            random_state=seed,
        )  # fmt: skip
    say(f"{len(dataset.X_train)} samples, {history.last['sweep']} sweeps: {history.stop_reason}.")
    if history.stop_reason.startswith(INTERRUPTED):
        say(f"Saved in {folder}: network.safetensors, history.jsonl, run.json.")
        raise typer.Exit(130)

    heading("3. Audit: the fast engines against Clarabel, on instances of this run")
    output().print(audit_table(history.audits), "")
    for note in audit_notes(history.audits):
        say(note)
    output().print(warm_and_cold_table(history.warm_and_cold()))

    heading("4. The network beside the baselines")
    with working("Adam and logistic regression ..."):
        compared = train_baselines(start, dataset, history.settings, outputs=dataset.outputs)
    save_baselines(folder, compared)
    output().print(result_table([own_figures(history.last), *compared]), "")
    tell_notes(compared)

    heading("5. A bound that no network beats: two layers of any width on diabetes")
    proved = _certify(folder / CERTIFICATE, seed)

    heading("6. Files")
    with working("report ..."):
        page = write_report(folder)
    say(f"{folder}: network.safetensors, history.jsonl, run.json")
    say(f"Open {page}")
    say(f"Look at an instance: convexblocks show {folder} --layer 1 --sample 17")
    say(f"Prove the bound again: convexblocks check {folder / CERTIFICATE}")
    if not proved:
        raise typer.Exit(1)


def _certify(path: Path, seed: int) -> bool:
    """Search for a bound, write it and prove it again from the file alone; whether that succeeded."""
    from ..certificates.checker import check, describe
    from .certificate_data import load_prepared
    from .certificate_problem import make_problem
    from .certify import search

    problem = make_problem(load_prepared("diabetes"), weight_decay=SHARE, relative=True, seed=seed)
    certificate = search(problem, None, hidden=None, seconds=SECONDS, seed=seed, quiet=False)
    bound = check(certificate.write(path))
    say_lines(describe(bound))
    return bound.proven


def _free_folder() -> Path:
    """A folder that no earlier demo has taken."""
    names = (Path("runs") / ("demo" if place == 1 else f"demo-{place}") for place in count(1))
    return next(path for path in names if not path.exists())
