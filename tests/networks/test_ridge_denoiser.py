"""Learned denoisers: their certificates, training, files, and the ones that ship with the package."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convexblocks.formulations import UsageError
from convexblocks.networks.one_step_denoiser import OneStepDenoiser
from convexblocks.networks.ridge_denoiser import LEVELS, RidgeDenoiser, pair_bank
from convexblocks.networks.ridge_models import FOLDER, SHIPPED, load_denoiser, require_level, save_denoiser
from convexblocks.networks.ridge_training import psnr, random_patches, train_denoiser, validation_psnr
from convexblocks.solvers.convolution_norm import PROOF_GRID, convolution_norm_bound
from convexblocks.solvers.ridge_denoising import denoise
from convexblocks.solvers.ridge_refit import OneStep

RIDGES = [name for name in SHIPPED if not name.startswith("one_step")]
STEPS = [name for name in SHIPPED if name.startswith("one_step")]


def picture(size: int = 48) -> torch.Tensor:
    """Flat areas, an edge and a slope."""
    axis = torch.arange(size) / size
    return ((axis[:, None] + axis > 1).float() * 0.5 + 0.3 * axis)[None, None]


def noisy(sigma: float) -> torch.Tensor:
    clean = picture()
    return clean + sigma / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def test_bank_is_closed_under_mirrorings() -> None:
    bank = pair_bank(torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(bank[4:], bank[:4].flip(-1))
    torch.testing.assert_close(bank[:2].flip(-2, -1), bank[:2])
    torch.testing.assert_close(bank[2:4].flip(-2, -1), -bank[2:4])
    assert float(bank.sum((1, 2)).abs().max()) < 1e-5


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_modulus_is_a_certificate(rho: float) -> None:
    model = RidgeDenoiser(pairs=4, side=5, rho=rho).eval()
    assert model.modulus() == pytest.approx(1 - 0.99 * rho, abs=1e-4)
    W = model.regularizer(20.0).matrix(9, 8).detach()
    smallest = torch.linalg.eigvalsh(torch.eye(72) - rho * W.T @ W).min().item()
    assert smallest >= model.modulus() - 1e-5


def test_a_bound_is_never_below_zero() -> None:
    model = RidgeDenoiser(pairs=4, side=7, rho=1.0, random_state=1)
    with torch.no_grad():
        model.raw.copy_(torch.randn(model.raw.shape, generator=torch.Generator().manual_seed(3)))
    # In training the maximum over a grid stands for the norm, and the modulus may be negative.
    assert model.modulus() < 0
    assert model.lipschitz_bound() == float("inf")
    assert 1 <= model.eval().lipschitz_bound() < 101


def test_heights_pass_through_the_levels() -> None:
    model = RidgeDenoiser(pairs=4)
    with torch.no_grad():
        model.log_height += torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
        heights = model.heights(torch.tensor([*LEVELS, 10.0, 50.0]))
    expected = torch.cat([model.log_height, model.log_height], 1).exp()
    torch.testing.assert_close(heights[:3], expected)
    between = (heights[3] - heights[0]) * (heights[3] - heights[1])
    assert float(between.max()) <= 0
    assert bool(torch.isfinite(heights).all())


@pytest.mark.parametrize("kind", ["ridge", "ridge in steps", "step"])
def test_training_improves(kind: str) -> None:
    images = picture(64).expand(3, -1, -1, -1) + torch.tensor([0.0, 0.1, 0.2])[:, None, None, None]
    models = {"ridge": RidgeDenoiser, "ridge in steps": partial(RidgeDenoiser, steps=5), "step": OneStepDenoiser}
    model = models[kind](pairs=2, side=3)
    before = validation_psnr(model, images, 25.0)
    records = train_denoiser(model, images, images, cpu_minutes=0.08, levels=(20.0, 30.0), batch=2, learning_rate=1e-2)
    assert records[-1]["psnr"]["25"] > before
    assert records[-1]["steps"] > 5


def test_patches_come_from_the_images() -> None:
    images = torch.rand(2, 1, 50, 60, generator=torch.Generator().manual_seed(2))
    patches = random_patches(images, 5, torch.Generator().manual_seed(3))
    assert patches.shape == (5, 1, 40, 40)
    assert set(patches.flatten().tolist()) <= set(images.flatten().tolist())


def test_files_keep_denoisers(tmp_path: Path) -> None:
    model = RidgeDenoiser(pairs=4, side=5, rho=0.5, random_state=3).eval()
    save_denoiser(model, tmp_path / "a.safetensors")
    again, level = load_denoiser(tmp_path / "a.safetensors")
    assert level is None
    assert isinstance(again, RidgeDenoiser)
    y = noisy(25)
    with torch.no_grad():
        torch.testing.assert_close(again(y, 25.0), model(y, 25.0))
    model = RidgeDenoiser(pairs=2, side=3, rho=0.0, steps=4).eval()
    save_denoiser(model, tmp_path / "a.safetensors")
    again, _ = load_denoiser(tmp_path / "a.safetensors")
    assert isinstance(again, RidgeDenoiser)
    assert (again.steps, again.lipschitz_bound()) == (4, 1.0)
    with torch.no_grad():
        torch.testing.assert_close(again(y, 25.0), model(y, 25.0))
    step = OneStepDenoiser(pairs=2, side=3).step()
    save_denoiser(step, tmp_path / "b.safetensors", sigma=25)
    made, level = load_denoiser(tmp_path / "b.safetensors")
    assert level == 25
    assert isinstance(made, OneStep)
    torch.testing.assert_close(made(y), step(y))


def test_a_norm_in_a_file_is_not_believed(tmp_path: Path) -> None:
    model = RidgeDenoiser(pairs=4, side=5).eval()
    model.norm_bound /= 2
    save_denoiser(model, tmp_path / "a.safetensors")
    again, _ = load_denoiser(tmp_path / "a.safetensors")
    assert isinstance(again, RidgeDenoiser)
    assert again.modulus() > 0.009


@pytest.mark.parametrize("way", ["load", "in place", "data", "bound"])
def test_the_norm_is_that_of_the_filters_in_use(way: str) -> None:
    model = RidgeDenoiser(pairs=4, side=5).eval()
    assert convolution_norm_bound(model.filters()[:, None], grid=512).upper ** 2 <= 0.99001
    if way == "load":
        other = RidgeDenoiser(pairs=4, side=5, random_state=1)
        model.load_state_dict(other.state_dict() | {"raw": 3 * other.raw.detach()})
    elif way == "bound":
        model.norm_bound /= 2
    elif way == "data":
        model.raw.data *= 3
    else:
        with torch.no_grad():
            model.raw[0] *= 3
    assert 0.98 < convolution_norm_bound(model.filters()[:, None], grid=512).upper ** 2 <= 0.99001
    kept = model.norm_bound.clone()
    assert torch.equal(model.filters(), model.filters())
    assert torch.equal(kept, model.norm_bound)


def test_steps_are_written_with_their_level(tmp_path: Path) -> None:
    step = OneStepDenoiser(pairs=2, side=3).step()
    for sigma in (None, 0.0, float("nan")):
        with pytest.raises(UsageError, match="expected the noise level"):
            save_denoiser(step, tmp_path / "a.safetensors", sigma=sigma)
    tensors = {"filters": step.filters, "knots": step.knots, "slopes": step.slopes}
    tensors = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(tensors, tmp_path / "b.safetensors", {"kind": "one step", "sigma": "abc"})
    with pytest.raises(UsageError, match="holds no denoiser"):
        load_denoiser(tmp_path / "b.safetensors")


def test_refusals(tmp_path: Path) -> None:
    for wrong in ({"side": 4}, {"pairs": 0}, {"side": 1}, {"sigma": 0.0}):
        with pytest.raises(UsageError, match="expected one pair or more"):
            OneStepDenoiser(**wrong)
    with pytest.raises(UsageError, match="pairs is 3"):
        RidgeDenoiser(pairs=3)
    with pytest.raises(UsageError, match="steps is 0"):
        RidgeDenoiser(steps=0)
    with pytest.raises(UsageError, match="neither a denoiser"):
        load_denoiser("bm3d")
    (tmp_path / "c.safetensors").write_text("nothing")
    with pytest.raises(UsageError, match="holds no denoiser"):
        load_denoiser(tmp_path / "c.safetensors")
    with pytest.raises(UsageError, match="sigma is -1"):
        require_level("wcrr", None, -1)
    with pytest.raises(UsageError, match="one step for sigma = 25"):
        require_level("one_step_25", 25, 15)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_are_small_and_have_a_log(name: str) -> None:
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 1_000_000
    assert "settings" in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RIDGES)
def test_shipped_regularizers(name: str) -> None:
    """Convex by a bound of the norm, and as good on a picture as the others of their kind: several dB."""
    model, _ = load_denoiser(name)
    assert isinstance(model, RidgeDenoiser)
    assert model.modulus() > 0.009
    assert convolution_norm_bound(model.filters()[:, None], grid=PROOF_GRID).upper < 1.0
    for sigma, gain in ((5.0, 4.0), (15.0, 7.0), (25.0, 9.0)):
        y = noisy(sigma)
        found = denoise(y, model.regularizer(sigma), tolerance=1e-4)
        assert float(found.gradient_norm.max()) <= 1e-4 * (1 + float(y.norm()))
        assert float(psnr(found.images, picture()) - psnr(y, picture())) > gain


@pytest.mark.parametrize("name", STEPS)
def test_shipped_steps_do_not_expand(name: str) -> None:
    made, level = load_denoiser(name)
    assert isinstance(made, OneStep)
    assert level is not None
    assert made.lipschitz_bound() <= 1.00001
    y = noisy(level)
    assert float(psnr(made(y), picture()) - psnr(y, picture())) > 3
