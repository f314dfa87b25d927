"""Proven lower bounds on training objectives, each with its incumbent, its gap and its times.

    python -m benchmarks.certificates [INSTANCE ...] [--seconds 30] [--incumbent-seconds 25]
    python -m benchmarks.certificates --depth       # networks of any depth: the table of deep_certificates.py

MNIST is read from the folder that CONVEXBLOCKS_DATA names.

All samples are taken, or the first 5,000 of MNIST, or 300 of the digits for the rows with principal components. Columns
are centred and scaled (of MNIST, and where the name says pca, the principal components), with a bias column, everything
over the root of the number of columns; the columns of synth are as drawn, with a bias column. Weight decay is relative
to the one above which the zero network is optimal (estimated). One thread. "found" is the wall time of the search, the
training of the incumbent apart. "exact" proofs are checked by the standard-library checker, run here as a script of its
own; it refuses the "floating" ones, cones that are too many for it, which `convexblocks.certificates.certificate.prove`
checks in this process. "checked" is the time of that. The gap is 100 (1 - proven bound / incumbent), the incumbent
rounded upward. diabetes2 has two outputs, iris3 and wine3 have three classes, which are bounded in directions of their
plane; digits10 has ten, each of which is bounded by itself, and the gap is mostly what that loses.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from threadpoolctl import threadpool_limits

from convexblocks.certificates import (
    Certificate,
    OutputsProblem,
    TwoLayerProblem,
    certify,
    checker,
    largest_outputs_weight_decay,
    largest_weight_decay,
    prepare,
    train_incumbent,
    train_outputs,
)
from convexblocks.certificates.certificate import prove
from convexblocks.formulations import UsageError
from convexblocks.networks.datasets import load_dataset

from .deep_certificates import deep_table

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Instance:
    """Data, loss, the relative weight decay, the largest gap in percent that is asked for, and how it is prepared."""

    load: Callable[[], Arrays]
    loss: str
    share: float
    most: float
    components: int | None = None
    seconds: float = 30.0
    scaled: bool = True


def two_digits() -> Arrays:
    """Digits 3 against 8."""
    X, y = load_digits(return_X_y=True)
    chosen = np.isin(y, (3, 8))
    return X[chosen], y[chosen]


def diabetes() -> Arrays:
    """442 patients."""
    X, y = load_diabetes(return_X_y=True)
    return X, y


def cancer() -> Arrays:
    """569 tumours."""
    X, y = load_breast_cancer(return_X_y=True)
    return X, y


def ten_digits() -> Arrays:
    """All digits."""
    X, y = load_digits(return_X_y=True)
    return X, y


def flowers() -> Arrays:
    """150 irises of three kinds."""
    X, y = load_iris(return_X_y=True)
    return X, y


def wines() -> Arrays:
    """178 wines of three kinds."""
    X, y = load_wine(return_X_y=True)
    return X, y


def two_targets() -> Arrays:
    """442 patients: disease progression and blood pressure from the other features."""
    X, y = load_diabetes(return_X_y=True)
    return np.delete(X, 3, axis=1), np.column_stack([y, X[:, 3]])
def some_digits() -> Arrays:
    """300 digits 3 and 8, drawn."""
    X, y = two_digits()
    chosen = np.random.default_rng(0).permutation(len(y))[:300]
    return X[chosen], y[chosen]


def synthetic() -> Arrays:
    """500 noisy values of sin(2 x_1) + |x_2|, x in R^4, centred."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 4))
    y = np.sin(2 * X[:, 0]) + np.abs(X[:, 1]) + 0.3 * rng.standard_normal(500)
    return X, y - y.mean()


def mnist(count: int | None) -> Arrays:
    """MNIST 3 against 8, the first so many training images of the two classes."""
    X, y = load_dataset("mnist", split=False, standardize=False).train
    chosen = np.flatnonzero(np.isin(y, (3, 8)))[:count]
    return X[chosen], y[chosen]


INSTANCES = {
    "diabetes-0.3": Instance(diabetes, "squared", 0.3, 0.3),
    "diabetes-0.1": Instance(diabetes, "squared", 0.1, 9.0),
    "cancer-0.1": Instance(cancer, "logistic", 0.1, 0.45),
    "digits38-0.3": Instance(two_digits, "logistic", 0.3, 0.61),
    "digits38-0.1": Instance(two_digits, "logistic", 0.1, 2.0),
    "diabetes2-0.3": Instance(two_targets, "squared", 0.3, 1.0),
    "iris3-0.3": Instance(flowers, "softmax", 0.3, 0.5),
    "wine3-0.3": Instance(wines, "softmax", 0.3, 0.5),
    "digits10-0.3": Instance(ten_digits, "softmax", 0.3, 47.0, 20, 60.0),
    "digits10-0.1": Instance(ten_digits, "softmax", 0.1, 53.0, 20, 60.0),
    "synth-5-0.3": Instance(synthetic, "squared", 0.3, 0.1, seconds=60.0, scaled=False),
    "synth-5-0.03": Instance(synthetic, "squared", 0.03, 0.7, seconds=60.0, scaled=False),
    "digits38-pca-0.3": Instance(some_digits, "logistic", 0.3, 0.15, 5, 60.0),
    "digits38-pca-0.03": Instance(some_digits, "logistic", 0.03, 0.3, 5, 60.0),
    "digits38-pca-0.003": Instance(some_digits, "logistic", 0.003, 3.0, 5, 90.0),
    "mnist38-5000-0.3": Instance(partial(mnist, 5_000), "logistic", 0.3, 0.4, 19, 120.0),
    "mnist38-5000-0.1": Instance(partial(mnist, 5_000), "logistic", 0.1, 4.1, 19, 120.0),
    "mnist38-all-0.1": Instance(partial(mnist, None), "logistic", 0.1, 4.6, 31, 270.0),
}


def row(name: str, instance: Instance, seconds: float | None, incumbent_seconds: float) -> list[str]:
    """Certify one instance, check its file."""
    try:
        X, y = instance.load()
    except UsageError as missing:
        return [name, str(missing)]
    if instance.scaled:
        X, y, words = prepare(X, y, instance.loss, components=instance.components)
    else:
        X, words = np.hstack([X, np.ones((len(X), 1))]), "a column of ones appended"
    problem: TwoLayerProblem | OutputsProblem
    if instance.loss == "softmax" or y.ndim > 1:
        outputs = len(np.unique(y)) if instance.loss == "softmax" else y.shape[1]
        problem = OutputsProblem(X, y, instance.loss, outputs, 1.0, bias="column", preparation=words)
        problem = replace(problem, weight_decay=instance.share * largest_outputs_weight_decay(problem))
        incumbent = train_outputs(problem, seconds=incumbent_seconds)
    else:
        problem = TwoLayerProblem(X, y, instance.loss, 1.0, bias="column", preparation=words)
        problem = replace(problem, weight_decay=instance.share * largest_weight_decay(problem))
        incumbent = train_incumbent(problem, seconds=incumbent_seconds)
    made = certify(problem, incumbent, seconds=seconds or instance.seconds)
    proven, checked = check_again(made)
    assert made.incumbent is not None
    met = proven and made.gap_percent <= instance.most
    return [
        name, f"{len(y)} x {X.shape[1]}", f"{made.lower_bound:.6f}", f"{made.incumbent:.6f}", f"{made.gap_percent:.3f}",
        f"{instance.most:g}", f"{incumbent.seconds:.0f}", f"{made.seconds:.0f}",
        "exact" if made.bound.exact else "floating", f"{checked:.1f}",
        "met" if met else "NOT MET" if proven else "NOT PROVEN",
    ]  # fmt: skip


def check_again(made: Certificate) -> tuple[bool, float]:
    """Whether a certificate is proven again, and how long that takes."""
    began = time.perf_counter()
    if not made.bound.exact:
        return prove(made.text).proven, time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        path = made.write(Path(folder) / "certificate.json")
        began = time.perf_counter()
        command = [sys.executable, "-I", str(checker.__file__), str(path)]
        code = subprocess.run(command, capture_output=True, check=False).returncode
        return code == 0, time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", nargs="*", metavar="INSTANCE", help=f"of {', '.join(INSTANCES)}; all by default")
    parser.add_argument("--seconds", type=float, help="for the search; by default what the instance has")
    parser.add_argument("--incumbent-seconds", type=float, default=25)
    parser.add_argument("--depth", action="store_true", help="the table for any depth; without INSTANCE")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.instances) - set(INSTANCES))
    if unknown:
        parser.error(f"unknown instance {unknown[0]!r}; known: {', '.join(INSTANCES)}")
    torch.set_num_threads(1)
    if arguments.depth:
        if arguments.instances:
            parser.error("--depth has its own instances; leave INSTANCE out")
        with threadpool_limits(1):
            Console(width=160).print(deep_table(arguments.seconds or 30, arguments.incumbent_seconds))
        return
    table = Table(title="Certificates: lower bounds for every width, proven again from their files")
    headings = ("instance", "n x d", "proven", "incumbent", "gap %", "asked", "trained s", "found s", "proof",
                "checked s", "")  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("instance", "proof", "") else "right")
    with threadpool_limits(1):
        for name in arguments.instances or INSTANCES:
            table.add_row(*row(name, INSTANCES[name], arguments.seconds, arguments.incumbent_seconds))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
