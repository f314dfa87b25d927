"""Four inverse problems on pictures of BSD68, by total variation, learned regularizers and plug-and-play.

    python -m benchmarks.inverse_problems [--problems blur,inpainting,fourier,radon] [--images 3] [--out FILE.json]

Reads bsd400_train.npz and bsd68.npz from the folder CONVEXBLOCKS_DATA. Pictures are the middle 96 x 96 pixels. The
numbers of every method are tuned on three training pictures, for the largest mean PSNR, by the same climb: factors of
two, coordinate by coordinate, until no neighbour is better; with tolerances ten times those of the test. PSNR is of
pixels clipped to [0, 1], averaged over test pictures. Noise is Gaussian, of seed 0. One thread; CPU seconds are of the
test pictures, for each, without the tuning.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.denoising import test_images
from convexblocks.networks.inverse_problems import firm, plug_and_play
from convexblocks.networks.ridge_models import load_denoiser
from convexblocks.networks.ridge_training import psnr
from convexblocks.solvers.image_operators import (
    Blur,
    ImageOperator,
    Inpainting,
    Radon,
    SubsampledFourier,
    fourier_mask,
    gaussian_kernel,
)
from convexblocks.solvers.ridge_reconstruction import reconstruct_ridge
from convexblocks.solvers.total_variation import reconstruct_tv

SIDE = 96
TRAINING = (0, 133, 266)
CLIMB = 12
Solver = Callable[..., tuple[Tensor, float]]
WORST = {"TV": "gap/objective", "CRR": "gap/objective", "WCRR": "projected gradient", "PnP, one step": "residual"}


def problem(name: str) -> tuple[ImageOperator, float]:
    """The operator, and the standard deviation of the noise in its measurements."""
    if name == "blur":
        return Blur(gaussian_kernel(9, 1.6).float()), 0.01
    if name == "inpainting":
        return Inpainting(torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) < 0.5), 0.02
    if name == "fourier":
        return SubsampledFourier(fourier_mask(SIDE, SIDE, 0.3)), 0.02
    return Radon(SIDE, 45).float(), 0.005


def measure(operator: ImageOperator, noise: float, images: Tensor, seed: int) -> Tensor:
    """H x plus noise, where anything is measured."""
    exact = operator(images)
    noisy = exact + noise * torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed))
    if isinstance(operator, SubsampledFourier):
        return noisy * operator.mask[..., None]
    return noisy * operator.mask if isinstance(operator, Inpainting) else noisy


def middle(images: Tensor) -> Tensor:
    rows, columns = ((size - SIDE) // 2 for size in images.shape[-2:])
    return images[..., rows : rows + SIDE, columns : columns + SIDE]


def solvers(operator: ImageOperator, noise: float, loose: float = 1.0) -> dict[str, tuple[Solver, tuple[float, ...]]]:
    """Name -> what reconstructs, given measurements and its numbers, and where their tuning begins.

    Prices of regularizers are what the noise implies, times the number. Tolerances are multiplied by `loose`.
    """
    models = {name: load_denoiser(name)[0] for name in ("crr", "wcrr")}
    step = load_denoiser("one_step_5")[0]

    def adjoint(measured: Tensor) -> tuple[Tensor, float]:
        return operator.adjoint(measured), 0.0

    def tv(measured: Tensor, weight: float) -> tuple[Tensor, float]:
        found = reconstruct_tv(operator, measured, weight * noise**2, tolerance=1e-3 * loose, max_iterations=1500)
        return found.images, float((found.gap / found.objective).max())

    def ridge(measured: Tensor, weight: float, sigma: float, *, name: str = "crr") -> tuple[Tensor, float]:
        # Of the weakly convex one the answer depends on the start.
        start = None if name == "crr" else ridge(measured, weight, sigma)[0]
        prior = models[name].regularizer(sigma)
        price = weight * (255 * noise / sigma) ** 2
        found = reconstruct_ridge(operator, measured, prior, price, start=start, tolerance=1e-5 * loose)
        if name == "wcrr":
            return found.images, float(found.residual.max())
        return found.images, float((found.gap / found.objective).max())

    def weakly_convex(measured: Tensor, weight: float, sigma: float) -> tuple[Tensor, float]:
        return ridge(measured, weight, sigma, name="wcrr")

    def plugged(measured: Tensor, strength: float) -> tuple[Tensor, float]:
        denoiser, limit = firm(step, min(strength, 1.0)), int(300 / loose**0.5)
        step_size, stop = 0.99 / operator.norm_bound**2, 2e-5 * loose
        found = plug_and_play(
            operator, measured, denoiser, step_size, accelerate=True, tolerance=stop, max_iterations=limit
        )
        return found.images, float(found.residual.max())

    return {
        "adjoint": (adjoint, ()), "TV": (tv, (8.0,)), "CRR": (ridge, (0.5, 20.0)),
        "WCRR": (weakly_convex, (0.5, 20.0)), "PnP, one step": (plugged, (0.25,)),
    }  # fmt: skip


def tune(score: Callable[..., float], start: tuple[float, ...]) -> tuple[float, ...]:
    """Climb by factors of two, coordinate by coordinate, until no neighbour is better."""
    best, tried = start, {start: score(*start)}
    for _ in range(CLIMB):
        around = [
            (*best[:k], best[k] * factor, *best[k + 1 :]) for k in range(len(best)) for factor in (0.5, 2.0)
        ]
        for point in around:
            if point not in tried:
                tried[point] = score(*point)
        leader = max(tried, key=lambda point: tried[point])
        if leader == best:
            break
        best = leader
    return best


def main() -> None:
    """Print the table, and write the figures where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="blur,inpainting,fourier,radon")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(Path(os.environ["CONVEXBLOCKS_DATA"]) / "bsd400_train.npz", allow_pickle=False) as file:
        training = middle(torch.tensor(file["images"][list(TRAINING), None] / 255, dtype=torch.float32))
    tests = torch.cat([middle(image) for image in test_images(arguments.images)])
    table = Table(title=f"mean PSNR in dB of {len(tests)} pictures, {SIDE} x {SIDE}")
    for heading in ("problem", "method", "PSNR", "CPU s", "numbers", "worst"):
        table.add_column(heading, justify="right" if heading in ("PSNR", "CPU s") else "left")
    figures: list[dict[str, Any]] = []
    for name in arguments.problems.split(","):
        operator, noise = problem(name)
        known, given = measure(operator, noise, training, 1), measure(operator, noise, tests, 0)
        rough = solvers(operator, noise, 10.0)
        for method, (solve, start) in solvers(operator, noise).items():

            def score(*point: float, solve: Solver = rough[method][0], known: Tensor = known) -> float:
                return float(psnr(solve(known, *point)[0].clamp(0, 1), training).mean())

            numbers = tune(score, start)
            before = time.process_time()
            # One after the other, as they would come.
            answers = [solve(given[[place]], *numbers) for place in range(len(tests))]
            seconds = (time.process_time() - before) / len(tests)
            each = [float(psnr(images.clamp(0, 1), tests[[place]])) for place, (images, _) in enumerate(answers)]
            worst = max(measured for _, measured in answers)
            row = {"problem": name, "method": method, "psnr": float(np.mean(each)), "each": each}
            figures.append({**row, "cpu_seconds": seconds, "numbers": numbers, "worst": worst, "noise": noise})
            shown = ", ".join(f"{number:g}" for number in numbers)
            proof = f"{WORST[method]} {worst:.1e}" if method in WORST else ""
            table.add_row(name, method, f"{np.mean(each):.2f}", f"{seconds:.2f}", shown, proof)
            if arguments.out:
                arguments.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
