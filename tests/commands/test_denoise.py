"""`convexblocks denoise`: images in and out, what is told, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from convexblocks.commands.main import app
from convexblocks.networks.ridge_denoiser import RidgeDenoiser
from convexblocks.networks.ridge_models import save_denoiser


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def clean() -> np.ndarray:
    rows, columns = np.mgrid[:40, :32]
    return np.where(rows + columns > 36, 0.7, 0.3)


@pytest.fixture
def noisy(clean: np.ndarray, tmp_path: Path) -> Path:
    pixels = np.clip(clean + 25 / 255 * np.random.default_rng(0).normal(size=clean.shape), 0, 1)
    path = tmp_path / "noisy.png"
    matplotlib.image.imsave(path, pixels, cmap="gray", vmin=0, vmax=1)
    return path


def error(path: Path, clean: np.ndarray) -> float:
    pixels = matplotlib.image.imread(path)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., :3]
    return float(((pixels - clean.reshape(*clean.shape[:2], -1)) ** 2).mean())


@pytest.mark.parametrize("model", ["wcrr", "crr", "one_step_25"])
def test_grey_image(model: str, noisy: Path, clean: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "clean.png"
    result = run("denoise", noisy, "--sigma", 25, "--model", model, "--out", out)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert "40 x 32" in told
    assert "moved apart" in told
    assert ("The objective is convex" in told) is (model != "one_step_25")
    # Grey as grey.
    assert matplotlib.image.imread(out).shape == (40, 32)
    assert error(out, clean) < error(noisy, clean) / 4


def test_steps_of_a_file_tell_no_objective(noisy: Path, clean: np.ndarray, tmp_path: Path) -> None:
    model = RidgeDenoiser(pairs=2, side=3, rho=0.0, steps=60).eval()
    save_denoiser(model, tmp_path / "steps.safetensors")
    told = run("denoise", noisy, "--sigma", 25, "--model", tmp_path / "steps.safetensors", "--out", tmp_path / "c.png")
    assert told.exit_code == 0, told.output
    assert "bjective" not in told.stdout
    assert "No two images are moved apart." in " ".join(told.stdout.split())
    assert error(tmp_path / "c.png", clean) < error(noisy, clean)


@pytest.mark.parametrize(("model", "factor"), [("crr", ""), ("wcrr", " by more than the factor 100; by --model crr")])
def test_what_two_images_do_is_told(model: str, factor: str, noisy: Path, tmp_path: Path) -> None:
    result = run("denoise", noisy, "--sigma", 25, "--model", model, "--out", tmp_path / "clean.png")
    assert f"No two images are moved apart{factor}" in " ".join(result.stdout.split())


def test_the_noisy_image_is_not_overwritten(noisy: Path) -> None:
    before = noisy.read_bytes()
    result = run("denoise", noisy, "--sigma", 25, "--out", noisy.parent / "." / noisy.name)
    assert result.exit_code == 2
    assert "the image itself" in " ".join(result.stderr.split())
    assert noisy.read_bytes() == before


def test_as_data(noisy: Path, tmp_path: Path) -> None:
    result = run("denoise", noisy, "--sigma", 25, "--out", tmp_path / "clean.png", "--json")
    report = json.loads(result.stdout)
    assert report["shape"] == [40, 32]
    assert report["modulus"] > 0
    assert 0 <= report["gap"] < report["objective"] / 100


def test_colour_is_done_channel_by_channel(clean: np.ndarray, tmp_path: Path) -> None:
    colour = np.stack([clean, 1 - clean, clean], axis=2)
    pixels = np.clip(colour + 25 / 255 * np.random.default_rng(1).normal(size=colour.shape), 0, 1)
    matplotlib.image.imsave(tmp_path / "noisy.png", pixels)
    result = run("denoise", tmp_path / "noisy.png", "--sigma", 25, "--out", tmp_path / "clean.png")
    assert result.exit_code == 0, result.output
    assert "40 x 32 x 3" in " ".join(result.stdout.split())
    assert error(tmp_path / "clean.png", colour) < error(tmp_path / "noisy.png", colour) / 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--sigma": 0}, "sigma is 0"),
        ({"--model": "one_step_5"}, "one step for sigma = 5"),
        ({"--model": "dncnn"}, "neither a denoiser"),
        ({"--out": "clean.jpg"}, "ends in .png"),
        ({"--out": "no/such/clean.png"}, "does not exist"),
    ],
)
def test_refusals(change: dict[str, Any], words: str, noisy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"--sigma": 25, "--out": "clean.png"} | change
    result = run("denoise", noisy, *(word for pair in options.items() for word in pair))
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_refused_images(clean: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    matplotlib.image.imsave(tmp_path / "tiny.png", clean[:3, :3])
    glass = np.dstack([clean, clean, clean, np.full_like(clean, 0.5)])
    matplotlib.image.imsave(tmp_path / "glass.png", glass)
    for name, words in (
        ("text.png", "cannot be read"), ("tiny.png", "3 x 3"), ("glass.png", "transparent"),
        ("photo.jpg", "expected a PNG"), ("missing.png", "cannot be read"),
    ):  # fmt: skip
        result = run("denoise", tmp_path / name, "--sigma", 25, "--out", tmp_path / "clean.png")
        assert result.exit_code == 2, result.output
        assert words in " ".join(result.stderr.split())
