"""Directions in which V'phi(X u) is bounded, and what the bounds give for h(V) = max over |u| = 1 of |V'phi(X u)|.

With H_j at least |a_j'V'phi(X u)|, a bound of one output for the vector V a_j, h(V) is at most

    (H_1^2 + ... + H_K^2)^(1/2)     where a_1, ..., a_K are the columns of the identity: as many as there are outputs;
    max_j |w_j|                     where all V'phi(X u) lie in a plane and the a_j are spread evenly over its half
                                    turn; w_j is the corner a_j'w = H_j, a_{j+1}'w = H_{j+1}, with a_{N+1} = -a_1.

They lie in a plane for two outputs, and for the softmax loss of three classes, where the rows of V sum to zero. Then N
directions lose no more than a factor of 1 / cos(pi / (2 N)) in h, the columns up to the root of K. The proof is in
checker.py, step 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .checker import PLANES
from .evidence import Multipliers
from .outputs_problem import OutputsProblem

COUNT = 8
"""Of the directions in a plane."""


@dataclass(frozen=True)
class Directions:
    """Directions of length one, and how their bounds are put together.

    Attributes
    ----------
    rows : array, shape (directions, outputs)
    turn : float or None
        Angle from each direction to the next one in a plane; None for the columns of the identity.
    """

    rows: np.ndarray
    turn: float | None

    def bound(self, supports: Tensor, soft: float = 0.0) -> Tensor:
        """The bound on h(V) that those of all directions give; a maximum is smoothed upward by about `soft`."""
        if self.turn is None:
            return supports.square().sum().sqrt()
        following, cosine = supports.roll(-1), np.cos(self.turn)
        squares = supports.square() + following.square() - 2 * cosine * supports * following
        lengths = squares.sqrt() / np.sin(self.turn)
        return lengths.max() if not soft else soft * torch.logsumexp(lengths / soft, 0)

    def together(self, parts: Sequence[Multipliers]) -> np.ndarray:
        """V, from the vectors V a_j."""
        return np.column_stack([part.v for part in parts]) @ np.linalg.pinv(self.rows.T)


def output_directions(problem: OutputsProblem, count: int = COUNT) -> Directions:
    """The directions in which a problem is bounded."""
    if (problem.loss, problem.outputs) not in PLANES:
        return Directions(np.eye(problem.outputs), None)
    # In the coordinates of the checker the second one is to the left of the first.
    basis = np.eye(2)
    if problem.loss == "softmax":
        basis = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
    angles = np.pi / count * np.arange(count)
    return Directions(np.column_stack([np.cos(angles), np.sin(angles)]) @ basis, np.pi / count)
