"""Denoisers that ship with the package, and files of denoisers: safetensors, with the kind in their metadata."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..formulations.errors import UsageError
from ..solvers.ridge_refit import OneStep
from .ridge_denoiser import RidgeDenoiser

SHIPPED: dict[str, str] = {
    "wcrr": "weakly convex regularizer, convex objective: the best of these",
    "crr": "convex regularizer: the denoiser is firmly non-expansive",
    "one_step_5": "one non-expansive step, for sigma = 5",
    "one_step_15": "one non-expansive step, for sigma = 15",
    "one_step_25": "one non-expansive step, for sigma = 25",
}
"""Denoisers of grey images that ship with the package: name -> what they are. How they were trained: NAME.json."""

FOLDER = Path(__file__).parent


def save_denoiser(model: RidgeDenoiser | OneStep, path: str | Path, *, sigma: float | None = None) -> None:
    """Write a denoiser to a safetensors file.

    Parameters
    ----------
    model : RidgeDenoiser or OneStep
        What to write.
    path : path
        Where to.
    sigma : float, optional
        Of a OneStep: the noise level that it is made for, on the scale 0..255.

    Raises
    ------
    UsageError
        If a OneStep comes without its noise level, a number above 0.
    """
    if isinstance(model, OneStep):
        if sigma is None or not 0 < sigma < math.inf:
            raise UsageError(f"sigma is {sigma}; expected the noise level of the step, above 0 on the scale 0..255.")
        tensors = {"filters": model.filters, "knots": model.knots, "slopes": model.slopes}
        metadata = {"kind": "one step", "sigma": f"{sigma:g}"}
    else:
        tensors = model.state_dict()
        metadata = {"kind": "ridge", "rho": f"{model.rho:g}"}
        if model.steps is not None:
            metadata["steps"] = str(model.steps)
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, path, metadata)


def load_denoiser(which: str | Path) -> tuple[RidgeDenoiser | OneStep, float | None]:
    """Load a denoiser that ships with the package, or one of a file.

    Parameters
    ----------
    which : str or path
        A name of `SHIPPED`, or a file that `save_denoiser` wrote.

    Returns
    -------
    pair
        The denoiser, a module in evaluation mode or a step; and the noise level of a step, else None.

    Raises
    ------
    UsageError
        If there is no such name or file, or the file holds something else.
    """
    path = FOLDER / f"{which}.safetensors" if str(which) in SHIPPED else Path(which)
    if not path.is_file():
        raise UsageError(
            f"{str(which)!r} is neither a denoiser of the package nor a file; expected one of {', '.join(SHIPPED)}, or "
            "a file written by save_denoiser."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        if metadata["kind"] == "one step":
            return OneStep(tensors["filters"], tensors["knots"], tensors["slopes"]), float(metadata["sigma"])
        pairs, side = tensors["raw"].shape[:2]
        steps = int(metadata["steps"]) if "steps" in metadata else None
        model = RidgeDenoiser(pairs=pairs, side=side, rho=float(metadata["rho"]), steps=steps)
        model.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{str(path)!r} holds no denoiser ({error}); expected a safetensors file written by save_denoiser."
        ) from None
    # The bound of the norm is computed, not believed.
    return model.requires_grad_(False).eval(), None


def require_level(which: str, level: float | None, sigma: float) -> None:
    """Refuse noise levels that a denoiser is not made for.

    Raises
    ------
    UsageError
        If sigma is not above zero, or a one-step denoiser is made for another level (by more than a tenth).
    """
    if not 0 < sigma <= 100:
        raise UsageError(f"sigma is {sigma:g}; expected a noise level above 0 and up to 100, on the scale 0..255.")
    if level is not None and not 0.9 * level <= sigma <= 1.1 * level:
        raise UsageError(
            f"sigma is {sigma:g}, but {which!r} is one step for sigma = {level:g}; expected about that level: take "
            "'wcrr' or 'crr', which take any."
        )
