"""What is trained, seen by the person who owns the network: data sets, and the baselines to compare with."""

from .baselines import linear_baseline, train_adam
from .datasets import BUILT_IN, FROM_FOLDER, Dataset, load_dataset
from .spline_activation import SplineActivation, tv2_penalty
from .spline_polish import polish
from .spline_regressor import SplineRegressor

__all__ = [
    "BUILT_IN",
    "FROM_FOLDER",
    "Dataset",
    "SplineActivation",
    "SplineRegressor",
    "linear_baseline",
    "load_dataset",
    "polish",
    "train_adam",
    "tv2_penalty",
]
