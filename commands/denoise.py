"""`convexblocks denoise`: a noisy image made clean by a convex program with learned filters."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formulations.errors import UsageError
from .console import number, print_json, say, small, working

if TYPE_CHECKING:
    import numpy as np

Option = typer.Option


def denoise(
    image: Annotated[Path, typer.Argument(help="A PNG file.", metavar="IMAGE.png")],
    sigma: Annotated[float, Option(help="Standard deviation of the noise, on the scale 0..255.")],
    out: Annotated[Path, Option(help="Where to write the clean image.", metavar="CLEAN.png")],
    model: Annotated[
        str, Option(help="wcrr, crr, one_step_5, one_step_15, one_step_25, or a file written by save_denoiser.")
    ] = "wcrr",
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Remove Gaussian noise from an image; colour is done channel by channel."""
    pixels = _read(image)
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out is {str(out)!r}; expected a file name that ends in .png: PNG is what is written.")
    if not out.resolve().parent.is_dir():
        raise UsageError(f"--out is {str(out)!r}, in a folder that does not exist; expected one that does: make it.")
    if out.resolve() == image.resolve():
        raise UsageError(f"--out is the image itself, {str(out)!r}; expected another name: the noisy image is kept.")
    with working("denoising", quiet=json):
        cleaned, facts = _denoise(pixels, sigma, model)
    _write(out, cleaned)
    given = {"image": str(image), "out": str(out), "model": model, "sigma": sigma, "shape": list(pixels.shape)}
    report = given | facts
    if json:
        print_json(report)
    else:
        _tell(report)


def _denoise(pixels: np.ndarray, sigma: float, which: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The denoised pixels, and what is known of them; colours are a batch of grey images."""
    import torch

    from ..networks.ridge_models import load_denoiser, require_level
    from ..solvers.ridge_denoising import denoise as minimize
    from ..solvers.ridge_refit import OneStep

    denoiser, level = load_denoiser(which)
    require_level(which, level, sigma)
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    noisy = torch.tensor(channels, dtype=torch.float32)[:, None]
    side = denoiser.filters.shape[-1] if isinstance(denoiser, OneStep) else denoiser.raw.shape[-1]
    if min(noisy.shape[-2:]) < side:
        size = " x ".join(map(str, pixels.shape[:2]))
        raise UsageError(f"the image has {size} pixels; expected {side} x {side} or more, the size of the filters.")
    start = time.process_time()
    facts: dict[str, Any]
    if isinstance(denoiser, OneStep):
        cleaned, facts = denoiser(noisy), {"lipschitz_bound": denoiser.lipschitz_bound()}
    elif denoiser.steps is not None:
        cleaned, facts = denoiser(noisy, sigma), {"lipschitz_bound": denoiser.lipschitz_bound()}
    else:
        modulus = denoiser.modulus()
        found = minimize(noisy, denoiser.regularizer(sigma), tolerance=1e-4)
        objective = denoiser.regularizer(sigma).energy(found.images, noisy)
        cleaned, facts = found.images, {
            "iterations": found.iterations, "objective": float(objective.sum()),
            "gap": float(found.gap(modulus).sum()), "modulus": modulus,
            "lipschitz_bound": denoiser.lipschitz_bound(),
        }  # fmt: skip
    facts["cpu_seconds"] = time.process_time() - start
    result = cleaned[:, 0].numpy()
    return (result[0] if pixels.ndim == 2 else result.transpose(1, 2, 0)), facts


def _tell(report: dict[str, Any]) -> None:
    size = " x ".join(map(str, report["shape"]))
    say(f"{report['image']} ({size}) denoised for sigma = {report['sigma']:g} by {report['model']}: {report['out']}")
    if "gap" in report:
        say(
            f"Objective {number(report['objective'])}, at most {small(report['gap'])} above the minimum (estimate, "
            f"|gradient|^2 / (2 modulus)), after {report['iterations']} iterations."
        )
        say(f"The objective is convex: its modulus of strong convexity is at least {report['modulus']:.4f}.")
    bound = report["lipschitz_bound"]
    say(
        "No two images are moved apart." if bound <= 1 else
        f"No two images are moved apart by more than the factor {bound:.4g}; by --model crr they never are."
    )  # fmt: skip
    say(f"{report['cpu_seconds']:.1f} CPU seconds.")


def _read(path: Path) -> np.ndarray:
    """Pixels in [0, 1], shape (rows, columns), or (rows, columns, 3) for colour."""
    import matplotlib.image
    import numpy as np

    if path.suffix.lower() != ".png":
        raise UsageError(f"the image is {str(path)!r}; expected a PNG file: convert it.")
    try:
        pixels = np.asarray(matplotlib.image.imread(path), dtype=float)
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{str(path)!r} cannot be read ({error}); expected a PNG image: see the path.") from None
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] in (2, 4):
        if (pixels[..., -1] < 1).any():
            raise UsageError(f"{str(path)!r} is transparent in places; expected an image without: remove that channel.")
        pixels = pixels[..., :-1]
    # Grey images are often stored as colour.
    grey = (pixels == pixels[..., :1]).all()
    return pixels[..., 0] if grey else pixels


def _write(path: Path, pixels: np.ndarray) -> None:
    import numpy as np
    from PIL import Image

    # Grey as grey: matplotlib would write four channels.
    Image.fromarray(np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)).save(path)
