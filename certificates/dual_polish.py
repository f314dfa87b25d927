"""The dual of the paired-moment relaxation by L-BFGS: better and better evidence, without a solver for matrices.

With A, g and G of evidence.py the largest value of a sign is, by a price t on tr U = R,

    H  <=  2 lambda_max [ G + b t,  g'/2 ;  g/2,  A - b t I ],      b the weight decay,

(the trace of the moment matrix is 2). Maximized is D((b / H) v) over v, the multipliers, the widths and t, with the
largest eigenvalue of both signs smoothed, H_mu = 2 mu b log sum exp(eigenvalues / (mu b)), and the corners of
lh = max(0, .) rounded, for smaller and smaller mu. Every iterate is valid evidence; the best is kept.

Rows w_i have l4 times a direction, of which l4 alone is varied: the best direction is that of U x_i, and it is taken
between the descents from the moments U that belong to the multipliers, as the widths are. To vary all of w_i takes
features times as many variables, and gets less far in the same time.
"""

from __future__ import annotations

import time
from itertools import repeat

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ..formulations.sample_pairs import Pairs
from .descent import minimize_until
from .evidence import Multipliers, value_estimate
from .moment_start import Data
from .problem import TwoLayerProblem

SMOOTHINGS = (1e-2, 2e-3, 5e-4, 1e-4, 3e-5)
ITERATIONS = 400
MOST_REPEATS, SETTLED = 20, 1e-6
"""The last smoothing is repeated, with new widths, until it gains less than this share."""
WIDEST = 30.0
"""Largest logarithm of a width, in size."""
NARROWEST = 1e-3
"""Smallest new width, relative to the length of its sample or pair."""
CORNER = 0.3
"""How far lh is from its corner at zero, relative to the smoothing and to the mean size of v."""
EDGE = 1e-6
"""How far the probabilities y v of a start are kept from 0 and 1."""
DIRECTIONS = "directions"
"""Of the rows (2, samples, features): the one part of the values that a descent leaves as it is."""
Values = dict[str, Tensor]


def polish(
    problem: TwoLayerProblem, pairs: Pairs, start: Multipliers, seconds: float
) -> tuple[Multipliers, float]:
    """Improve multipliers for a time; the best ones and the lower bound that they will give (an estimate)."""
    deadline, data = time.perf_counter() + seconds, Data.of(problem, pairs)
    values = variables_of(problem, start)
    best, estimate = start, value_estimate(problem, pairs, start)
    if start.rows is not None:
        values[DIRECTIONS] = _units(torch.as_tensor(start.rows))
    values["price"] = best_prices(problem, data, values)
    for smoothing in (*SMOOTHINGS, *repeat(SMOOTHINGS[-1], MOST_REPEATS)):
        values = _ascend(problem, data, values, smoothing, deadline)
        found, before = multipliers_of(problem, values), estimate
        reached = value_estimate(problem, pairs, found)
        if reached > estimate:
            best, estimate = found, reached
        settled = smoothing == SMOOTHINGS[-1] and estimate - before <= SETTLED * abs(estimate)
        if settled or time.perf_counter() > deadline:
            break
        values |= from_moments(problem, data, values, smoothing)
    return best, estimate


def variables_of(problem: TwoLayerProblem, start: Multipliers) -> Values:
    """What is varied: v by its logits for the logistic loss, widths by their logarithms."""
    v = start.v
    if problem.loss == "logistic":
        shares = np.clip(v * problem.y, EDGE, 1 - EDGE)
        v = np.log(shares / (1 - shares))
    made = {
        "v": v, "pairs": start.pairs, "mean": start.mean, "width": np.log(start.width),
        "pair_width": np.log(start.pair_width),
        "local": start.local if start.rows is None else np.linalg.norm(start.rows, axis=2),
    }  # fmt: skip
    return {name: torch.as_tensor(np.array(part, dtype=float)) for name, part in made.items()}


def multipliers_of(problem: TwoLayerProblem, values: Values) -> Multipliers:
    """The multipliers that the variables stand for."""
    parts = {name: part.numpy() for name, part in values.items()}
    v = _point(problem, torch.as_tensor(problem.y), values["v"]).numpy()
    local = parts["local"]
    rows = None if DIRECTIONS not in parts else local[..., None] * parts[DIRECTIONS]
    width, pair_width = (np.exp(np.clip(parts[name], -WIDEST, WIDEST)) for name in ("width", "pair_width"))
    return Multipliers(v, parts["pairs"], parts["mean"], local, width, pair_width, rows)


def _point(problem: TwoLayerProblem, y: Tensor, variable: Tensor) -> Tensor:
    return variable if problem.loss == "squared" else y * torch.sigmoid(variable)


def matrices(problem: TwoLayerProblem, data: Data, values: Values, corner: float = 0.0) -> Tensor:
    """[G, g'/2; g/2, A] of both signs, (2, features + 1, features + 1); or of many vectors v, with an axis in front."""
    signs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    v, weights = _point(problem, data.y, values["v"])[..., None, :], values["pairs"]
    v0 = data.p * signs * v - data.pulled(weights)
    local = values["local"]
    rows = None if DIRECTIONS not in values else local[..., None] * values[DIRECTIONS]
    raw = (v0 + 2 * local + values["mean"]) / 2
    # More than max(0, raw) is valid too; without its corner the search does not get stuck.
    half = torch.relu(raw) if not corner else (raw + (raw.square() + corner**2).sqrt()) / 2
    # Within limits, so that a long step of the search makes no infinite entries.
    width, pair_width = (values[name].clamp(-WIDEST, WIDEST).exp() for name in ("width", "pair_width"))
    quadratic, linear = half / (2 * width), half - local - values["mean"]
    if rows is None:
        quadratic = quadratic - local / data.norms
    A = data.X.T @ (quadratic[..., None] * data.X)
    A = A + data.differences.T @ ((weights / (4 * pair_width))[..., None] * data.differences)
    if rows is not None:
        mixed = data.X.T @ rows
        A = A - (mixed + mixed.mT) / 2
    g = (linear + data.q * signs * v) @ data.X + weights @ data.differences / 2
    G = (half * width).sum(-1) / 2 + (weights * pair_width).sum(-1) / 4
    top = torch.cat([G[..., None], g / 2], -1)[..., None, :]
    return torch.cat([top, torch.cat([g[..., None] / 2, A], -1)], -2)


def from_moments(problem: TwoLayerProblem, data: Data, values: Values, smoothing: float) -> Values:
    """Widths tau^2 = x'U x / R, and directions U x, from the moments that belong to the multipliers.

    The widths of idle multipliers were lost.
    """
    J = problem.weight_decay * price_matrix(data.X.shape[1] + 1)
    try:
        eigenvalues, vectors = torch.linalg.eigh(matrices(problem, data, values) + values["price"][:, None, None] * J)
    except torch.linalg.LinAlgError:
        # Very rarely the routine does not converge; all then stays.
        return {}
    soft = smoothing * problem.weight_decay
    shares = torch.softmax(eigenvalues.reshape(-1) / soft, 0).view(eigenvalues.shape)
    scaled = vectors * shares.sqrt()[:, None]
    masses = scaled[:, :1].square().sum(2).clamp_min(1e-12)
    found = {}
    for name, rows in (("width", data.X), ("pair_width", data.differences)):
        lengths = torch.linalg.vector_norm(rows, dim=1)
        squares = (rows @ scaled[:, 1:]).square().sum(2) / masses
        found[name] = squares.sqrt().clamp(NARROWEST * lengths.clamp_min(1e-12), lengths.clamp_min(1e-12)).log()
    if DIRECTIONS in values:
        found[DIRECTIONS] = _units(data.X @ scaled[:, 1:] @ scaled[:, 1:].mT)
    return found


def _units(rows: Tensor) -> Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=2, keepdim=True).clamp_min(1e-300)


def price_matrix(size: int) -> Tensor:
    """J = diag(1, -I)."""
    diagonal = -torch.ones(size, dtype=torch.float64)
    diagonal[0] = 1
    return torch.diag(diagonal)


def best_prices(problem: TwoLayerProblem, data: Data, values: Values) -> Tensor:
    """The best price of each sign, relative to the weight decay."""
    made = matrices(problem, data, values).numpy()
    J = problem.weight_decay * price_matrix(made.shape[1]).numpy()

    def largest(price: float, matrix: np.ndarray) -> float:
        return float(np.linalg.eigvalsh(matrix + price * J)[-1])

    found = [minimize_scalar(largest, bounds=(-2, 2), args=(matrix,), method="bounded").x for matrix in made]
    return torch.tensor(found, dtype=torch.float64)


def _dual(problem: TwoLayerProblem, data: Data, v: Tensor) -> Tensor:
    if problem.loss == "squared":
        return (v * data.y).sum() - v.square().sum() / 2
    shares = (v * data.y).clamp(1e-300, 1 - 1e-14)
    return -(torch.xlogy(shares, shares) + torch.xlogy(1 - shares, 1 - shares)).sum()


def _ascend(
    problem: TwoLayerProblem, data: Data, values: Values, smoothing: float, deadline: float
) -> Values:
    """L-BFGS on the smoothed dual until it converges or the time is over."""
    fixed = {name: values[name] for name in (DIRECTIONS,) if name in values}
    values = {name: part for name, part in values.items() if name not in fixed}
    names, shapes = list(values), [part.shape for part in values.values()]
    lengths = [part.numel() for part in values.values()]
    soft, J = smoothing * problem.weight_decay, problem.weight_decay * price_matrix(data.X.shape[1] + 1)
    corner = CORNER * smoothing * float(_point(problem, data.y, values["v"]).abs().mean())

    def unpacked(flat: Tensor) -> Values:
        return {name: part.view(shape) for name, part, shape in zip(names, flat.split(lengths), shapes, strict=True)}

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        variable = torch.tensor(flat, requires_grad=True)
        here = unpacked(variable) | fixed
        shifted = matrices(problem, data, here, corner) + here["price"][:, None, None] * J
        try:
            eigenvalues = torch.linalg.eigvalsh(shifted)
        except torch.linalg.LinAlgError:
            return np.inf, np.zeros_like(flat)
        bound = 2 * soft * torch.logsumexp(eigenvalues.reshape(-1) / soft, 0)
        value = -_dual(problem, data, problem.weight_decay / bound * _point(problem, data.y, here["v"]))
        value.backward()  # type: ignore[no-untyped-call]
        assert variable.grad is not None
        return float(value.detach()), variable.grad.numpy()

    bounds = [(0, None) if name in ("pairs", "mean", "local") else (None, None)
              for name, length in zip(names, lengths, strict=True) for _ in range(length)]  # fmt: skip
    first = torch.cat([values[name].reshape(-1) for name in names]).numpy()
    found = minimize_until(objective, first, deadline, iterations=ITERATIONS, bounds=bounds)
    return fixed | unpacked(torch.as_tensor(found))
