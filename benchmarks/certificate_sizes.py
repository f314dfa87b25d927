"""The proven gap against the number of samples, as a table and a figure.

    python -m benchmarks.certificate_sizes FILE.png [--series diabetes mnist38 ...] [--most 5000]

The first n samples of each data set (a fixed permutation of them where they are sorted), prepared as in
`benchmarks.certificates`: standardized columns, of MNIST 19 principal components, a bias column; weight decay relative
to the one above which the zero network is optimal for these n samples (estimated). The search has 10 s, or n / 50 s
where that is more; one thread. MNIST is read from the folder that CONVEXBLOCKS_DATA names.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from convexblocks.certificates import (
    Certificate,
    TwoLayerProblem,
    certify,
    largest_weight_decay,
    prepare,
    train_incumbent,
)
from convexblocks.formulations import UsageError

from .certificates import Arrays, diabetes, mnist, two_digits

SHARES = (0.3, 0.1)
LEAST_SECONDS, SAMPLES_A_SECOND = 10.0, 50


@dataclass(frozen=True)
class Series:
    """A data set and the numbers of its samples that are taken."""

    title: str
    loss: str
    sizes: tuple[int, ...]
    components: int | None = None


SERIES = {
    "diabetes": Series("diabetes, d = 11, squared", "squared", (25, 50, 100, 200, 442)),
    "digits38": Series("digits 3 against 8, d = 55, logistic", "logistic", (50, 100, 200, 357)),
    "mnist38": Series("MNIST 3 against 8, d = 20, logistic", "logistic", (250, 500, 1000, 2000, 5000), 19),
}


def data(name: str, most: int) -> Arrays:
    """All samples of a series, in the order in which they are taken."""
    if name == "mnist38":
        return mnist(most)
    X, y = diabetes() if name == "diabetes" else two_digits()
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], y[order]


def certificates(name: str, most: int) -> Iterator[tuple[float, int, Certificate]]:
    """Share of the weight decay, number of samples and certificate."""
    series = SERIES[name]
    sizes = [size for size in series.sizes if size <= most]
    all_X, all_y = data(name, max(sizes))
    for size in sizes:
        X, y, words = prepare(all_X[:size], all_y[:size], series.loss, components=series.components)
        problem = TwoLayerProblem(X, y, series.loss, 1.0, bias="column", preparation=words)
        largest = largest_weight_decay(problem)
        for share in SHARES:
            this = replace(problem, weight_decay=share * largest)
            seconds = max(LEAST_SECONDS, size / SAMPLES_A_SECOND)
            yield share, size, certify(this, train_incumbent(this, seconds=seconds / 2), seconds=seconds)


def figure(gaps: dict[tuple[str, float], list[tuple[int, float]]]) -> Figure:
    """One line for each data set and weight decay."""
    made = Figure(figsize=(9, 5.5), layout="constrained")
    axes = made.add_subplot()
    for (name, share), points in gaps.items():
        color = f"C{list(SERIES).index(name)}"
        line, marker = ("-", "o") if share == SHARES[0] else ("--", "s")
        axes.plot(*zip(*points, strict=True), line, marker=marker, color=color,
                  label=f"{SERIES[name].title}, weight decay {share:g}")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="samples n", ylabel="proven gap, 100 (1 - bound / incumbent), in %",
             title="Lower bounds for two layers of every width, proven in exact arithmetic")  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    axes.grid(alpha=0.3, which="both")
    made.legend(fontsize="small", loc="outside lower center", ncols=2)
    return made


def main() -> None:
    """Print the table and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE.png")
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES))
    parser.add_argument("--most", type=int, default=5_000, help="samples")
    arguments = parser.parse_args()
    if arguments.most < (least := max(min(SERIES[name].sizes) for name in arguments.series)):
        parser.error(f"--most is {arguments.most}; expected at least {least}")
    torch.set_num_threads(1)
    table = Table(title="Proven gaps by the number of samples")
    for heading in ("data", "weight decay", "n", "proven", "incumbent", "gap %", "found s", "proved s"):
        table.add_column(heading, justify="left" if heading == "data" else "right")
    gaps: dict[tuple[str, float], list[tuple[int, float]]] = {}
    with threadpool_limits(1):
        for name in arguments.series:
            try:
                for share, size, made in certificates(name, arguments.most):
                    gaps.setdefault((name, share), []).append((size, made.gap_percent))
                    table.add_row(
                        name, f"{share:g}", f"{size:,}", f"{made.lower_bound:.6f}", f"{made.incumbent:.6f}",
                        f"{made.gap_percent:.3f}", f"{made.seconds:.0f}", f"{made.bound.seconds:.1f}",
                    )  # fmt: skip
            except UsageError as error:
                table.add_row(name, "", "", str(error))
            # As far as it is, for this takes a while.
            figure(gaps).savefig(arguments.file, dpi=150)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
