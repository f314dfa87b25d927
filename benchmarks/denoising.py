"""Denoising of the 68 images of BSD68 by the denoisers that ship with the package.

    python -m benchmarks.denoising [--models wcrr,crr,one_step] [--sigmas 5,15,25] [--images 68] [--out FILE.json]

Reads bsd68.npz from the folder CONVEXBLOCKS_DATA. Noise is Gaussian, of seed 0, and not clipped; PSNR is averaged over
images. One thread. `one_step` takes the step of each level; its Lipschitz constant is bounded (up to rounding). A model
may also be a file of `benchmarks.train_ridge`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from convexblocks.networks.ridge_models import load_denoiser
from convexblocks.networks.ridge_training import psnr
from convexblocks.solvers.ridge_denoising import denoise
from convexblocks.solvers.ridge_refit import OneStep


def test_images(count: int) -> list[Tensor]:
    """The first of the images test001 ... test068, each of shape (1, 1, rows, columns), values in [0, 1]."""
    with np.load(Path(os.environ["CONVEXBLOCKS_DATA"]) / "bsd68.npz", allow_pickle=False) as file:
        named = dict(zip(file["landscape_names"], file["landscape"], strict=True))
        named |= dict(zip(file["portrait_names"], file["portrait"], strict=True))
    return [torch.tensor(named[name][None, None] / 255, dtype=torch.float32) for name in sorted(named)[:count]]


def denoiser(name: str, sigma: float) -> tuple[Callable[[Tensor], Tensor], str]:
    """What denoises a batch, and what is guaranteed of it, up to rounding."""
    model, _ = load_denoiser(f"one_step_{sigma:g}" if name == "one_step" else name)
    if isinstance(model, OneStep):
        return model, f"Lipschitz <= {model.lipschitz_bound():.6f}"
    if model.steps is not None:
        return lambda noisy: model(noisy, sigma), f"Lipschitz <= {model.lipschitz_bound():.6f}"
    regularizer, modulus = model.regularizer(sigma), model.modulus()
    guarantee = "firmly non-expansive" if model.rho == 0 else f"convex, modulus >= {modulus:.4f}"
    return lambda noisy: denoise(noisy, regularizer, tolerance=1e-3, max_iterations=300).images, guarantee


def main() -> None:
    """Print the table, and write the figures of every image where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="wcrr,crr,one_step")
    parser.add_argument("--sigmas", default="5,15,25")
    parser.add_argument("--images", type=int, default=68)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = test_images(arguments.images)
    table = Table(title=f"BSD68, mean PSNR in dB over {len(images)} images")
    for heading in ("model", "sigma", "noisy", "PSNR", "guarantee, up to rounding", "CPU s"):
        table.add_column(heading, justify="left" if heading in ("model", "guarantee, up to rounding") else "right")
    figures = []
    for name in arguments.models.split(","):
        for sigma in map(float, arguments.sigmas.split(",")):
            apply, guarantee = denoiser(name, sigma)
            generator, start = torch.Generator().manual_seed(0), time.process_time()
            before, after = [], []
            for clean in images:
                noisy = clean + sigma / 255 * torch.randn(clean.shape, generator=generator)
                before.append(psnr(noisy, clean).item())
                after.append(psnr(apply(noisy), clean).item())
            spent = time.process_time() - start
            row = {"model": name, "sigma": sigma, "noisy": np.mean(before), "psnr": np.mean(after)}
            figures.append({**row, "guarantee": guarantee, "cpu_seconds": spent, "each": after})
            table.add_row(
                name, f"{sigma:g}", f"{np.mean(before):.3f}", f"{np.mean(after):.3f}", guarantee, f"{spent:.0f}"
            )
            if arguments.out:
                arguments.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
