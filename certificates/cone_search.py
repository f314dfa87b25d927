"""The support function bounded by branch and bound over cones: sharp where the data have few features.

For a sign s let F(u) = s v'phi(X u) = l'u + sum_i v0_i (x_i'u)_+ with v0 = s p v and l = s q X'v. On the cone of
generators u_1, ..., u_d the terms with v0_i > 0 are below their chords, and those with v0_i < 0 below v0_i x_i'u or 0,
whichever holds at the centre: for u = sum_k l_k u_k, l >= 0,

    F(u) <= sum_k l_k c_k,      c_k = l'u_k + sum_{v0_i > 0} v0_i (x_i'u_k)_+ + sum_{v0_i < 0, active} v0_i x_i'u_k,

an error of second order in the size of the cone. The largest value of that for |u| <= 1 is at most |w| for every w with
w'u_k >= c_k; the shortest such w gives it exactly. The 2^d orthants are split along their longest edges until that is
below a threshold. Every tree of cones proves a bound, the largest on its leaves.

Values here are floating-point ESTIMATES. What is proven is what checker.py or cone_replay.py find.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .checker import INWARD, LONGEST_GENERATOR, MOST_REPLAYED, SYMBOLS

MOST_TOGETHER, MOST_ENTRIES = 8_192, 2**22
"""Cones that are worked off together, and these times samples."""
MOST_CONES = 20_000_000
"""For each sign: a byte each in the file."""
MARGIN = 1e-10
"""How far below its threshold a bound has to be, relatively, to end a cone: for the rounding of whoever checks."""


@dataclass(frozen=True)
class Terms:
    """F of one sign as tensors: the samples with positive weight, those with negative weight, and l.

    Attributes
    ----------
    above : Tensor, shape (features, samples with v0 > 0)
        v0_i x_i.
    below : Tensor, shape (features, samples with v0 < 0)
        x_i.
    below_gradients : Tensor, shape (samples with v0 < 0, features)
        v0_i x_i.
    linear : Tensor, shape (features,)
    """

    above: Tensor
    below: Tensor
    below_gradients: Tensor
    linear: Tensor

    @staticmethod
    def of(X: np.ndarray, v0: np.ndarray, linear: np.ndarray) -> Terms:
        """From arrays."""
        gradients, up, down = X * v0[:, None], v0 > 0, v0 < 0
        parts = (gradients[up].T, X[down].T, gradients[down], linear)
        return Terms(*(torch.as_tensor(np.ascontiguousarray(part)) for part in parts))

    def convex(self, U: Tensor) -> Tensor:
        """l'u + sum_{v0_i > 0} v0_i (x_i'u)_+ for the rows u."""
        return torch.relu(U @ self.above).sum(-1) + U @ self.linear

    def concave_gradient(self, centres: Tensor) -> Tensor:
        """sum of v0_i x_i over the samples with v0_i < 0 that are active at a centre: (cones, features)."""
        return (centres @ self.below > 0).to(centres.dtype) @ self.below_gradients


@dataclass(frozen=True)
class Cones:
    """A tree of cones.

    Attributes
    ----------
    levels : list of str
        A character for each cone of a level: how it is split (SYMBOLS of the checker).
    bound : float
        Largest bound on a leaf.
    """

    levels: list[str]
    bound: float


def together(samples: int) -> int:
    """How many cones are worked off together."""
    return max(16, min(MOST_TOGETHER, MOST_ENTRIES // samples))


def search_cones(
    X: np.ndarray, v0: np.ndarray, linear: np.ndarray, threshold: float, *, deadline: float = np.inf
) -> Cones | None:
    """Split cones until F is at most a threshold on each of them; None where time or number do not suffice.

    Parameters
    ----------
    X : array, shape (samples, features)
    v0 : array, shape (samples,)
    linear : array, shape (features,)
    threshold : float
        Above zero.
    deadline : float
        On `time.perf_counter`.
    """
    terms, (samples, features) = Terms.of(X, v0, linear), X.shape
    batch, most = together(samples), min(MOST_CONES, MOST_REPLAYED // (2 * samples))
    edges = torch.tensor(list(itertools.combinations(range(features), 2))).reshape(-1, 2)
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=features)), dtype=torch.float64)
    # Entry k is negative where binary digit k of the number of the orthant is 1.
    U = torch.diag_embed(signs.flip(1))
    todo = [(0, U, terms.convex(U))]
    levels: list[list[bytes]] = []
    alphabet = np.frombuffer(SYMBOLS.encode(), dtype=np.uint8)
    count, largest = 0, 0.0
    while todo:
        level, U, values = todo.pop()
        if len(U) > batch:
            todo += [(level, U[batch:], values[batch:]), (level, U[:batch], values[:batch])]
            continue
        count += len(U)
        if count > most or time.perf_counter() > deadline:
            return None
        if level == len(levels):
            levels.append([])
        units = U / torch.linalg.vector_norm(U, dim=2, keepdim=True)
        bounds = _bounds(terms, U, units, values, threshold)
        split = bounds > threshold * (1 - MARGIN)
        if bool(split.any()) and not len(edges):
            # The two rays of a line are not split; their bounds are exact.
            return None
        longest = (units @ units.mT)[:, edges[:, 0], edges[:, 1]].argmin(1) if len(edges) else split.long()
        symbols = torch.where(split, longest + 1, 0).cpu().numpy()
        levels[level].append(alphabet[symbols].tobytes())
        largest = max(largest, float(torch.where(split, 0.0, bounds).max()))
        if bool(split.any()):
            halves = _halves(terms, U[split], values[split], edges[longest[split]])
            if halves is None:
                return None
            todo.append((level + 1, *halves))
    return Cones([b"".join(parts).decode() for parts in levels], largest)


def proposals(units: Tensor, c: Tensor) -> Iterator[Tensor]:
    """For each cone vectors w that meet w'u_k >= c_k, after scaling, and are short.

    They are w = sum of l_k u_k with w'u_k = c_k for fewer and fewer k, until all l_k are positive: that w is the
    shortest one where it also meets the inequalities of the other k.

    Parameters
    ----------
    units : Tensor, shape (cones, features, features)
        Unit generators, as rows.
    c : Tensor, shape (cones, features)
        For unit generators.
    """
    kept = torch.ones_like(c, dtype=torch.bool)
    gram, eye = units @ units.mT, torch.eye(c.shape[1], dtype=c.dtype)
    for _ in range(c.shape[1]):
        system = torch.where(kept[:, :, None] & kept[:, None, :], gram, eye)
        factors = torch.linalg.solve_ex(system, torch.where(kept, c, 0.0)[..., None])[0]
        w = (units.mT @ factors)[..., 0]
        # A little inward, so that no w'u_k is zero by chance, or by rounding.
        yield w / torch.linalg.vector_norm(w, dim=1, keepdim=True) + INWARD * units.sum(1)
        positive = kept & (factors[..., 0] > 0)
        going_on = positive.any(1) & (positive != kept).any(1)
        if not bool(going_on.any()):
            return
        kept = torch.where(going_on[:, None], positive, kept)


def _bounds(terms: Terms, U: Tensor, units: Tensor, values: Tensor, threshold: float) -> Tensor:
    """Bounds on F over each cone, good ones where they may be below the threshold."""
    c = (values + (U @ terms.concave_gradient(U.sum(1))[..., None])[..., 0]) / torch.linalg.vector_norm(U, dim=2)
    bounds = _reached(units, c, units.sum(1))
    # No bound is below max c: where that is above the threshold no w helps.
    near = ((bounds > threshold * (1 - MARGIN)) & (c.amax(1) <= threshold)).nonzero()[:, 0]
    if len(near):
        found = [_reached(units[near], c[near], w) for w in proposals(units[near], c[near])]
        bounds[near] = torch.fmin(bounds[near], torch.stack(found).amin(0))
    return bounds


def _reached(units: Tensor, c: Tensor, w: Tensor) -> Tensor:
    """The bound that w gives on each cone."""
    inner = (units @ w[..., None])[..., 0]
    theta = torch.where(inner > 0, c / inner, torch.inf).amax(1).clamp_min(0)
    return (theta * torch.linalg.vector_norm(w, dim=1)).nan_to_num(torch.inf)


def _halves(terms: Terms, U: Tensor, values: Tensor, edges: Tensor) -> tuple[Tensor, Tensor] | None:
    """The two cones that each is split into along an edge, one after the other; None where numbers get too large."""
    place = torch.arange(len(U))
    first, second = edges.unbind(1)
    sizes = U.abs().amax(2)
    a, b = sizes[place, first], sizes[place, second]
    # Whole factors that make the two about equally long: the new generator is near the middle, and exact.
    factors = [torch.clamp(torch.floor((2 * other + size) / (2 * size)), min=1) for size, other in ((a, b), (b, a))]
    middle = factors[0][:, None] * U[place, first] + factors[1][:, None] * U[place, second]
    if float(middle.abs().max()) > LONGEST_GENERATOR:
        return None
    U, values, there = (torch.repeat_interleave(part, 2, 0) for part in (U, values, terms.convex(middle)))
    middle = torch.repeat_interleave(middle, 2, 0)
    replaced = torch.stack([first, second], 1).ravel()
    place = torch.arange(len(U))
    U[place, replaced], values[place, replaced] = middle, there
    return U, values
