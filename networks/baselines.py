"""Baselines, always shown beside ours: Adam and SGD on the same network (gradients.py), and the best linear model.

All minimize the same objective, the SUM of the loss over samples plus (weight_decay / 2) times the sum of squares of
the weights (not biases), so that their figures can be compared line by line.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from ..formulations.losses import Loss, find_loss
from ..solvers.training_data import TrainingData, prepare, prepare_validation
from .gradients import Data, figures_of, train_adam, train_sgd, with_penalty

LINEAR_ITERATIONS = 200

__all__ = ["linear_baseline", "train_adam", "train_sgd"]


def linear_baseline(
    data: Data, *, loss: str | Loss, weight_decay: float = 0.1, outputs: int, validation: Data | None = None
) -> dict[str, Any]:
    """Fit the linear model of the same objective by scikit-learn: logistic or ridge regression on the features.

    Parameters
    ----------
    data : pair of arrays
        X and y, as for `fit`.
    loss : str or Loss
        Squared loss gives ridge regression; the others logistic regression.
    weight_decay : float
        Factor of the penalty.
    outputs : int
        Outputs of the network that it is compared with.
    validation : pair of arrays, optional
        Test data.

    Returns
    -------
    dict
        The figures of `train_adam`, as far as they apply.

    Raises
    ------
    UsageError
        If the data do not fit the loss.
    """
    found, device = find_loss(loss), torch.device("cpu")
    features = np.shape(data[0])[1]
    checked = prepare(data, (features, outputs), device, loss=found, task=None)
    tested = None if validation is None else prepare_validation(validation, (features, outputs), device, found)
    began = time.process_time()
    model, note = _fit_linear(checked, weight_decay)
    seconds = time.process_time() - began
    # With two classes scikit-learn fits one difference of scores; half of it for each class is the same model of
    # the softmax, and the least penalty among those.
    weights, biases = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if found.name == "softmax_cross_entropy" and len(weights) == 1:
        weights, biases = np.vstack([-weights, weights]) / 2, np.concatenate([-biases, biases]) / 2
    W, b = torch.as_tensor(weights), torch.as_tensor(biases)
    test_output = None if tested is None else tested.inputs @ W.T + b
    figures = figures_of(checked.inputs @ W.T + b, test_output, checked, tested)
    name = "ridge regression" if found.name == "squared" else "logistic regression"
    return {
        "name": name,
        **with_penalty(figures, weight_decay / 2 * float((W**2).sum())),
        "cpu_seconds": seconds,
        "note": note,
    }


def _fit_linear(checked: TrainingData, weight_decay: float) -> tuple[Any, str]:
    X, y = checked.inputs.numpy(), checked.plain
    if checked.loss.name == "squared":
        model = Ridge(alpha=weight_decay) if weight_decay else LinearRegression()
        return model.fit(X, checked.targets.numpy()), "no hidden layer; same split and objective; solved exactly"
    # The penalty on a difference of two scores is half of that on two rows of weights.
    halves = 2.0 if checked.loss.name == "softmax_cross_entropy" and len(np.unique(y)) == 2 else 1.0
    strength = halves / weight_decay if weight_decay else math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=LINEAR_ITERATIONS).fit(X, y)
    taken = int(np.max(model.n_iter_))
    end = f"stopped after {taken} iterations" if taken >= LINEAR_ITERATIONS else f"converged in {taken} iterations"
    return model, f"no hidden layer; same split and objective; L-BFGS {end}"
