"""Train the denoisers that ship with the package; one CPU core, no more than an hour for each.

    python -m benchmarks.train_ridge wcrr --minutes 57 --side 11
    python -m benchmarks.train_ridge crr --minutes 57 --side 11
    python -m benchmarks.train_ridge crr --minutes 20 --steps 10 --out FOLDER
    python -m benchmarks.train_ridge one_step --sigma 25 --minutes 10

Reads bsd400_train.npz from the folder CONVEXBLOCKS_DATA: 390 images to train, the next 6 to watch; BSD68 is not looked
at. Writes NAME.safetensors and NAME.json (settings and log) to --out, by default the folder networks, at every record,
so that an interrupted training leaves a model.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexblocks.networks.one_step_denoiser import OneStepDenoiser
from convexblocks.networks.ridge_denoiser import RidgeDenoiser
from convexblocks.networks.ridge_models import load_denoiser, save_denoiser
from convexblocks.networks.ridge_training import train_denoiser, validation_psnr
from convexblocks.solvers.ridge_refit import KNOTS, OneStep, refit, refit_statistics

NETWORKS = Path(__file__).resolve().parents[1] / "networks"


def training_images() -> Tensor:
    """The 400 images, shape (400, 1, 180, 180), values in [0, 1]."""
    with np.load(Path(os.environ["CONVEXBLOCKS_DATA"]) / "bsd400_train.npz", allow_pickle=False) as file:
        return torch.tensor(file["images"][:, None] / 255, dtype=torch.float32)


class Log:
    """Settings and records of a training, in a file."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
        settings.pop("out")
        name = f"one_step_{arguments.sigma:g}" if arguments.kind == "one_step" else arguments.kind
        self.weights, self.path = arguments.out / f"{name}.safetensors", arguments.out / f"{name}.json"
        self.content: dict[str, Any] = {"settings": settings, "records": []}

    def add(self, record: dict[str, Any]) -> None:
        """Note a record and write the file."""
        print(json.dumps(record), flush=True)
        self.content["records"].append(record)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")


def train_ridge(arguments: argparse.Namespace, images: Tensor, log: Log) -> None:
    """A (weakly) convex regularizer at noise levels from 4 to 30: as a deep equilibrium, or through some steps."""
    rho = 0.0 if arguments.kind == "crr" else 1.0
    model = RidgeDenoiser(
        pairs=arguments.pairs, side=arguments.side, rho=rho, steps=arguments.steps, random_state=arguments.random_state
    )
    if arguments.start:
        start, _ = load_denoiser(arguments.start)
        assert isinstance(start, RidgeDenoiser)
        model.load_state_dict(start.state_dict())
        log.content["start"] = json.loads(Path(log.path.parent / f"{Path(arguments.start).stem}.json").read_text())
        if rho < start.rho:
            # A convex potential of the same height never becomes flat: it has to be lower.
            model.log_height.data -= 1.1

    def keep(record: dict[str, Any]) -> None:
        save_denoiser(model.eval(), log.weights)
        model.train()
        log.add(record)

    train_denoiser(
        model, images[:390], images[390:396], cpu_minutes=arguments.minutes, learning_rate=arguments.learning_rate,
        random_state=arguments.random_state, on_record=keep,
    )  # fmt: skip


def train_one_step(arguments: argparse.Namespace, images: Tensor, log: Log) -> None:
    """Filters of one step at one level by gradients, then all activations by one convex program."""
    sigma, validation = arguments.sigma, images[390:396]
    model = OneStepDenoiser(
        pairs=arguments.pairs, side=arguments.side, sigma=sigma, random_state=arguments.random_state
    )
    if arguments.start:
        start, _ = load_denoiser(arguments.start)
        assert isinstance(start, OneStep)
        model.raw.data = start.filters[: arguments.pairs].clone()
        log.content["start"] = json.loads(Path(log.path.parent / f"{Path(arguments.start).stem}.json").read_text())

    def keep(record: dict[str, Any]) -> None:
        save_denoiser(model.step(), log.weights, sigma=sigma)
        log.add(record)

    train_denoiser(
        model, images[:390], validation, cpu_minutes=arguments.minutes, levels=(sigma, sigma),
        learning_rate=arguments.learning_rate, random_state=arguments.random_state, on_record=keep,
    )  # fmt: skip
    with torch.no_grad():
        filters, knots = model.filters(), model.knots(KNOTS)
    statistics = refit_statistics(filters, knots, images[: arguments.refit_images], sigma)
    made = refit(filters, knots, statistics)
    save_denoiser(made, log.weights, sigma=sigma)
    score = {f"{sigma:g}": validation_psnr(lambda noisy, _: made(noisy), validation, sigma)}
    log.add({"convex refit": True, "psnr": score, "lipschitz_bound": made.lipschitz_bound()})


def main() -> None:
    """Train one denoiser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["wcrr", "crr", "one_step"])
    parser.add_argument("--minutes", type=float, default=30.0, help="CPU minutes")
    parser.add_argument("--sigma", type=float, default=25.0, help="of one_step")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--side", type=int, default=7)
    parser.add_argument("--steps", type=int, help="of wcrr and crr: train that many steps, not the minimizer")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--refit-images", type=int, default=24)
    parser.add_argument("--random-state", type=int, default=0)
    parser.add_argument("--start", help="a denoiser to begin with: a name, or a file of the same kind and sizes")
    parser.add_argument("--out", type=Path, default=NETWORKS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    log = Log(arguments)
    (train_one_step if arguments.kind == "one_step" else train_ridge)(arguments, training_images(), log)


if __name__ == "__main__":
    main()
