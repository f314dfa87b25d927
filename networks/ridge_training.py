"""Training of denoisers on patches of images, for a given CPU time.

A RidgeDenoiser is trained as a deep equilibrium: its gradient is that of the minimizer, without unrolling the solver.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

PATCH = 40
VALIDATED = (5.0, 15.0, 25.0)


def train_denoiser(
    model: nn.Module,
    images: Tensor,
    validation: Tensor,
    *,
    cpu_minutes: float,
    levels: tuple[float, float] = (4.0, 30.0),
    batch: int = 8,
    learning_rate: float = 2e-3,
    random_state: int = 0,
    on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    record_minutes: float = 2.0,
) -> list[dict[str, Any]]:
    """Train on random patches with noise levels drawn uniformly from a range, for a time.

    The loss of a patch is the root mean squared error over the noise level: between mean squared error, which textured
    patches dominate, and PSNR, which flat ones do. Adam, its step falling along a cosine over the time given; what is
    stored as a logarithm takes steps four times as long as the filters.

    Parameters
    ----------
    model : RidgeDenoiser or OneStepDenoiser
        Trained in place.
    images : Tensor, shape (images, 1, rows, columns)
        Clean, with values in [0, 1].
    validation : Tensor
        The same; only measured.
    cpu_minutes : float
        CPU time of this process to spend.
    levels : pair of float
        Smallest and largest standard deviation of the noise, on the scale 0..255.
    batch : int
        Patches in a step.
    learning_rate : float
        First step length for the filters.
    random_state : int
        Seed of patches and noise.
    on_record : callable
        Called with each record; a place to save the model.
    record_minutes : float
        CPU minutes between records.

    Returns
    -------
    list of dict
        steps, cpu_minutes, loss (mean since the last record) and the validation PSNR at those of the levels 5, 15 and
        25 that are in the range.
    """
    generator = torch.Generator().manual_seed(random_state)
    groups = [
        {"params": [parameter], "base": learning_rate * (4 if name.startswith("log_") else 1)}
        for name, parameter in model.named_parameters()
    ]
    optimizer = torch.optim.Adam(groups, lr=learning_rate, betas=(0.9, 0.99))
    low, high = levels
    records: list[dict[str, Any]] = []
    losses: list[float] = []
    begin, next_record, step = time.process_time(), record_minutes, 0
    while True:
        spent = (time.process_time() - begin) / 60
        if spent >= min(next_record, cpu_minutes):
            watched = [level for level in VALIDATED if low <= level <= high]
            scores = {f"{level:g}": validation_psnr(model, validation, level) for level in watched}
            mean = sum(losses) / max(1, len(losses))
            records.append({"steps": step, "cpu_minutes": round(spent, 2), "loss": mean, "psnr": scores})
            on_record(records[-1])
            losses, next_record = [], next_record + record_minutes
            if spent >= cpu_minutes:
                return records
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, spent / cpu_minutes))) / 2)
        clean = random_patches(images, batch, generator)
        sigma = low + (high - low) * torch.rand(batch, generator=generator)
        scale = sigma[:, None, None, None] / 255
        noisy = clean + scale * torch.randn(clean.shape, generator=generator)
        loss = ((model(noisy, sigma) - clean) / scale).square().mean((1, 2, 3)).sqrt().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        step += 1


def random_patches(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Patches of 40 x 40 pixels from random places, randomly turned and mirrored, shape (count, 1, 40, 40)."""
    patches = []
    for _ in range(count):
        which, row, column, turns, mirrored = (
            int(torch.randint(bound, (), generator=generator))
            for bound in (len(images), images.shape[-2] - PATCH + 1, images.shape[-1] - PATCH + 1, 4, 2)
        )
        patch = images[which, :, row : row + PATCH, column : column + PATCH].rot90(turns, (-2, -1))
        patches.append(patch.flip(-1) if mirrored else patch)
    return torch.stack(patches)


@torch.no_grad()
def validation_psnr(denoise: Callable[[Tensor, float], Tensor], images: Tensor, sigma: float) -> float:
    """Mean PSNR over images with noise of a fixed seed."""
    generator = torch.Generator().manual_seed(1)
    noisy = images + sigma / 255 * torch.randn(images.shape, generator=generator)
    return float(psnr(denoise(noisy, sigma), images).mean())


def psnr(images: Tensor, clean: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every image in dB, for values in [0, 1], shape (batch,)."""
    return -10 * (images - clean).square().flatten(1).mean(1).log10()
