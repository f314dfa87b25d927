"""What is trained, seen by the person who owns the network: data sets, and the baselines to compare with."""

from .baselines import linear_baseline, train_adam, train_sgd
from .datasets import BUILT_IN, FROM_FOLDER, Dataset, load_dataset

__all__ = [
    "BUILT_IN",
    "FROM_FOLDER",
    "Dataset",
    "linear_baseline",
    "load_dataset",
    "train_adam",
    "train_sgd",
]
