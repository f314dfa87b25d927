"""First multipliers of the paired-moment relaxation: its primal by an augmented Lagrangian, from the incumbent.

Each sign has a mass R, a first moment m and a second moment U = V V' of its neurons, R = |V|^2 and m = |V| V a with
|a| <= 1, so that [R, m'; m, U] is positive semidefinite and tr U = R by construction. Over V, a and s

    minimize    loss(z) + weight_decay (R+ + R-),      z = p (s+ - s-) + q X (m+ - m-)

subject to, with mu = X m, w = 2 s - mu, q_i = |V'x_i|^2 and the pairs S,

    w <= |V| sqrt(q)     lh        mu <= s     lm        0 <= s     l0        q / r <= w     l4
    S w <= |V| |V'delta|     pi ,

or, instead of q / r <= w, with |U x_i| <= w (SOC-RLT), which is tighter: then l4 times the direction of U x_i is the
row of the sample.

Few rounds of L-BFGS are made. As a bound their multipliers are poor; what they are good for is to start dual_polish.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..formulations.sample_pairs import Pairs
from .descent import minimize_until
from .evidence import SIGNS, Multipliers
from .incumbent import Incumbent
from .problem import TwoLayerProblem

ROUNDS, ITERATIONS = 8, 150
PENALTY = {"squared": 2.0, "logistic": 1.0}
MOST_PENALTY = 50.0
NARROWEST = 1e-6
"""Smallest width tau."""
FEASIBLE = 1e-3
"""Largest violation at which the rounds may end."""
SHORTEST = 1e-9
"""Length of an idle row, which keeps its direction."""


@dataclass(frozen=True)
class Data:
    """What the programs of a problem share, as tensors.

    Attributes
    ----------
    X, y, norms : Tensor
        norms (samples,) of the rows of X.
    pair, sample, value, differences : Tensor
        Of the pairs.
    p, q : float
        phi(z) = p (z)_+ + q z.
    """

    X: Tensor
    y: Tensor
    norms: Tensor
    pair: Tensor
    sample: Tensor
    value: Tensor
    differences: Tensor
    p: float
    q: float

    @staticmethod
    def of(problem: TwoLayerProblem, pairs: Pairs) -> Data:
        """From a problem and its pairs."""
        X, (p, q) = torch.as_tensor(problem.X), problem.coefficients
        return Data(
            X, torch.as_tensor(problem.y), torch.linalg.vector_norm(X, dim=1).clamp_min(1e-300),
            torch.as_tensor(pairs.pair), torch.as_tensor(pairs.sample), torch.as_tensor(pairs.value),
            torch.as_tensor(pairs.differences), p, q,
        )  # fmt: skip

    def paired(self, rows: Tensor) -> Tensor:
        """S times the columns of rows: (..., samples) -> (..., pairs)."""
        parts = rows[..., self.sample] * self.value
        return rows.new_zeros(*rows.shape[:-1], len(self.differences)).index_add(-1, self.pair, parts)

    def pulled(self, weights: Tensor) -> Tensor:
        """S' times: (..., pairs) -> (..., samples)."""
        parts = weights[..., self.pair] * self.value
        return weights.new_zeros(*weights.shape[:-1], len(self.X)).index_add(-1, self.sample, parts)


@dataclass(frozen=True)
class Point:
    """Moments of both signs: V (2, features, rank), a (2, rank), s (2, samples)."""

    V: Tensor
    a: Tensor
    s: Tensor

    def flat(self) -> np.ndarray:
        """As one vector."""
        return torch.cat([part.reshape(-1) for part in (self.V, self.a, self.s)]).numpy()

    def like(self, flat: Tensor) -> Point:
        """A vector as moments of these shapes."""
        sizes = [self.V.numel(), self.a.numel(), self.s.numel()]
        parts = flat.split(sizes)
        return Point(parts[0].view(self.V.shape), parts[1].view(self.a.shape), parts[2].view(self.s.shape))


@dataclass(frozen=True)
class Terms:
    """What the program is made of at a point.

    R (2,), q (2, samples), those of the pairs, U x_i (2, samples, features) where there are rows, z, the constraints.
    """

    R: Tensor
    squares: Tensor
    pair_squares: Tensor
    images: Tensor | None
    z: Tensor
    violations: list[Tensor]


def first_multipliers(
    problem: TwoLayerProblem, pairs: Pairs, incumbent: Incumbent, seconds: float, *, rows: bool = False
) -> tuple[Multipliers, float]:
    """Multipliers from a few rounds of the augmented Lagrangian, with rows (SOC-RLT) or without.

    Returns
    -------
    Multipliers
    float
        The objective of the relaxation at the last, nearly feasible point: an estimate of what the relaxation can give.
    """
    deadline, data = time.perf_counter() + seconds, Data.of(problem, pairs)
    point = _moments(problem, incumbent)
    multipliers, penalty, worst = _guess(problem, incumbent, len(pairs)), PENALTY[problem.loss], np.inf
    terms, value = _terms(data, point, rows), incumbent.objective
    for _ in range(ROUNDS):
        point = _descend(problem, data, point, multipliers, penalty, deadline, rows)
        with torch.no_grad():
            terms = _terms(data, point, rows)
            steps = zip(multipliers, terms.violations, strict=True)
            multipliers = [torch.relu(multiplier + penalty * part) for multiplier, part in steps]
            violation = max((float(part.max()) for part in terms.violations if part.numel()), default=0.0)
            value = float(_loss(problem, data, terms.z) + problem.weight_decay * terms.R.sum())
        if violation < FEASIBLE or time.perf_counter() > deadline:
            break
        if violation > 0.3 * worst:
            penalty = min(2 * penalty, MOST_PENALTY)
        worst = violation
    return _read_off(problem, terms, multipliers), value


def _moments(problem: TwoLayerProblem, incumbent: Incumbent) -> Point:
    """The moments of the incumbent's neurons; a little noise lets the others grow."""
    features = problem.X.shape[1]
    rank = features + 1
    V, a, s = np.zeros((2, features, rank)), np.zeros((2, rank)), np.zeros((2, len(problem.X)))
    rng = np.random.default_rng(0)
    for place, sign in enumerate(SIGNS):
        chosen = sign * incumbent.outputs > 0
        lengths = np.linalg.norm(incumbent.weights[chosen], axis=1)
        masses = np.abs(incumbent.outputs[chosen]) * lengths
        units = incumbent.weights[chosen] / np.maximum(lengths, 1e-300)[:, None]
        # F F' = [R, m'; m, U]; a triangular factor of it has no more columns than rows.
        F = np.sqrt(masses) * np.vstack([np.ones(len(masses)), units.T])
        padded = np.hstack([F, np.zeros((rank, max(0, rank - F.shape[1])))])
        lower = np.transpose(np.linalg.qr(padded.T, mode="r"))[:, :rank]
        V[place] = lower[1:]
        a[place] = lower[0] / max(float(np.linalg.norm(V[place])), 1e-12)
        s[place] = np.maximum(problem.X @ units.T, 0) @ masses
        V[place] += 1e-3 * max(float(np.abs(V[place]).max()), 1e-3) * rng.standard_normal(V[place].shape)
    return Point(*map(torch.as_tensor, (V, a, s)))


def _guess(problem: TwoLayerProblem, incumbent: Incumbent, pairs: int) -> list[Tensor]:
    pulls = torch.as_tensor(problem.coefficients[0] * np.stack([incumbent.v, -incumbent.v]))
    none = torch.zeros_like(pulls)
    return [torch.relu(pulls) / 2, none, torch.relu(-pulls) / 2, torch.relu(-pulls) / 4, pulls.new_zeros(2, pairs)]


def _descend(
    problem: TwoLayerProblem, data: Data, point: Point, multipliers: list[Tensor], penalty: float, deadline: float,
    rows: bool,
) -> Point:  # fmt: skip
    """L-BFGS on the augmented Lagrangian."""

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        variable = torch.tensor(flat, requires_grad=True)
        terms = _terms(data, point.like(variable), rows)
        value = _loss(problem, data, terms.z) + problem.weight_decay * terms.R.sum()
        for multiplier, part in zip(multipliers, terms.violations, strict=True):
            value = value + torch.relu(multiplier + penalty * part).square().sum() / (2 * penalty)
        value.backward()  # type: ignore[no-untyped-call]
        assert variable.grad is not None
        return float(value.detach()), variable.grad.numpy()

    return point.like(torch.as_tensor(minimize_until(objective, point.flat(), deadline, iterations=ITERATIONS)))


def _terms(data: Data, point: Point, rows: bool) -> Terms:
    V, s = point.V, point.s
    a = point.a / point.a.norm(dim=1, keepdim=True).clamp_min(1)
    R = V.square().sum((1, 2))
    root = (R + 1e-300).sqrt()[:, None]
    sent = data.X @ V
    squares = sent.square().sum(2)
    mu = root * (sent @ a[:, :, None])[..., 0]
    w = 2 * s - mu
    pair_squares = (data.differences @ V).square().sum(2)
    z = data.p * (s[0] - s[1]) + data.q * (mu[0] - mu[1])
    # The roots are kept differentiable at zero.
    images = sent @ V.mT if rows else None
    lengths = squares / data.norms if images is None else (images.square().sum(2) + 1e-14).sqrt()
    violations = [
        w - root * (squares + 1e-14).sqrt(), mu - s, -s, lengths - w,
        data.paired(w) - root * (pair_squares + 1e-14).sqrt(),
    ]  # fmt: skip
    return Terms(R, squares, pair_squares, images, z, violations)


def _loss(problem: TwoLayerProblem, data: Data, z: Tensor) -> Tensor:
    if problem.loss == "squared":
        return (z - data.y).square().sum() / 2
    return torch.nn.functional.softplus(-data.y * z).sum()


def _read_off(problem: TwoLayerProblem, terms: Terms, multipliers: list[Tensor]) -> Multipliers:
    R = terms.R.clamp_min(1e-300)[:, None]
    width, pair_width = (
        (part / R).sqrt().clamp_min(NARROWEST).numpy() for part in (terms.squares, terms.pair_squares)
    )
    _, mean, _, local, weights = (part.numpy() for part in multipliers)
    rows = None
    if terms.images is not None:
        lengths = torch.linalg.vector_norm(terms.images, dim=2, keepdim=True).clamp_min(1e-300)
        rows = np.maximum(local, SHORTEST)[..., None] * (terms.images / lengths).numpy()
    return Multipliers(problem.negative_gradient(terms.z.numpy()), weights, mean, local, width, pair_width, rows)
