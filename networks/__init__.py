"""What is trained, seen by the person who owns the network: data sets, and the baselines to compare with."""

from .baselines import linear_baseline, train_adam, train_sgd
from .datasets import BUILT_IN, FROM_FOLDER, Dataset, load_dataset
from .graph import GraphConvolution, graph_network
from .graph_data import Graph, augmented_features, load_graph, normalized_adjacency
from .lenet import lenet5

__all__ = [
    "BUILT_IN",
    "FROM_FOLDER",
    "Dataset",
    "Graph",
    "GraphConvolution",
    "augmented_features",
    "graph_network",
    "lenet5",
    "linear_baseline",
    "load_dataset",
    "load_graph",
    "normalized_adjacency",
    "train_adam",
    "train_sgd",
]
