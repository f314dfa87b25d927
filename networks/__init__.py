"""What is trained, seen by the person who owns the network: data sets, and the baselines to compare with."""

from .baselines import linear_baseline, train_adam
from .datasets import BUILT_IN, FROM_FOLDER, Dataset, load_dataset
from .ridge_denoiser import RidgeDenoiser
from .ridge_models import load_denoiser, save_denoiser

__all__ = [
    "BUILT_IN",
    "FROM_FOLDER",
    "Dataset",
    "RidgeDenoiser",
    "linear_baseline",
    "load_dataset",
    "load_denoiser",
    "save_denoiser",
    "train_adam",
]
