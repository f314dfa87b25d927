"""What is trained, seen by the person who owns the network: data sets, and the baselines to compare with."""

from ..solvers.spline_activation import SplineActivation, tv2_penalty
from ..solvers.spline_polish import polish
from .baselines import linear_baseline, train_adam, train_sgd
from .datasets import BUILT_IN, FROM_FOLDER, Dataset, load_dataset
from .graph import GraphConvolution, graph_network
from .graph_data import Graph, augmented_features, load_graph, normalized_adjacency
from .graph_signals import GraphSignals, load_solar
from .invertible import InvertibleResidual
from .lenet import lenet5
from .lipschitz import lipschitz_certificate, lipschitz_mlp, settle
from .ridge_denoiser import RidgeDenoiser
from .ridge_models import load_denoiser, save_denoiser
from .spline_regressor import SplineRegressor

__all__ = [
    "BUILT_IN",
    "FROM_FOLDER",
    "Dataset",
    "Graph",
    "GraphConvolution",
    "GraphSignals",
    "InvertibleResidual",
    "RidgeDenoiser",
    "SplineActivation",
    "SplineRegressor",
    "augmented_features",
    "graph_network",
    "lenet5",
    "linear_baseline",
    "lipschitz_certificate",
    "lipschitz_mlp",
    "load_dataset",
    "load_denoiser",
    "load_graph",
    "load_solar",
    "normalized_adjacency",
    "polish",
    "save_denoiser",
    "settle",
    "train_adam",
    "train_sgd",
    "tv2_penalty",
]
