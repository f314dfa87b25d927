"""The models of `python -m benchmarks.batched`: disciplined cvxpy programs, with parameters drawn for a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import cvxpy as cp
import numpy as np
import torch

from convexblocks.solvers.canonical import canonicalize
from convexblocks.solvers.conic_program import ConicProgram
from convexblocks.solvers.parametrized import Sharing

PERTURBATION = 0.02
"""Of the mean absolute value of a parameter: how far instances move before they are solved again."""


@dataclass(frozen=True)
class Model:
    """A parametrized program with parameters for a batch.

    `moves` names the parameters that change from one solve to the next; the others stay.
    """

    name: str
    problem: cp.Problem
    parameters: Mapping[str, np.ndarray]
    moves: tuple[str, ...]

    def first(self, count: int) -> Model:
        """The same model with its first instances alone."""
        return Model(self.name, self.problem, {key: rows[:count] for key, rows in self.parameters.items()}, self.moves)

    def moved(self) -> Model:
        """The same instances, a little later."""
        rng = np.random.default_rng(1)
        later = dict(self.parameters)
        for key in self.moves:
            step = PERTURBATION * np.abs(later[key]).mean()
            later[key] = later[key] + step * rng.standard_normal(later[key].shape)
        return Model(self.name, self.problem, later, self.moves)

    @property
    def batch(self) -> int:
        """Number of instances."""
        return len(next(iter(self.parameters.values())))

    @cached_property
    def best(self) -> np.ndarray:
        """The least objective of every instance, by Clarabel at 1e-10."""
        found = []
        for _ in self.each():
            self.problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
            found.append(self.problem.value)
        return np.array(found)

    def each(self) -> Iterator[int]:
        """Give the problem the parameters of one instance after the other."""
        for place in range(self.batch):
            for parameter in self.problem.parameters():
                parameter.value = self.parameters[parameter.name()][place]
            yield place

    @cached_property
    def program(self) -> ConicProgram:
        """The instances as conic programs."""
        sharing = Sharing(canonicalize(self.problem), tuple(self.parameters))
        own = {name: torch.as_tensor(values) for name, values in self.parameters.items()}
        return sharing.program(sharing.constants({}), own, self.batch)


def fenchel(size: int, batch: int, curvature: float = 1.0) -> Model:
    """Activations of a ReLU layer of `size` units between a layer of as many, in a Fenchel lifting."""
    rng = np.random.default_rng(0)
    W, shift = rng.standard_normal((size, size)) / np.sqrt(size), 0.1 * rng.standard_normal(size)
    before = rng.standard_normal((batch, size))
    sent = np.maximum(np.maximum(before, 0) @ W.T + shift, 0)
    after = sent + 0.3 * rng.standard_normal((batch, size))
    x = cp.Variable(size, nonneg=True, name="x")
    u, v = (cp.Parameter(size, name=name) for name in "uv")
    z = W @ x + shift
    fit = curvature * (0.5 * cp.sum_squares(x) - u @ x)
    problem = cp.Problem(cp.Minimize(fit + 0.5 * cp.sum_squares(cp.pos(z)) - v @ z))
    eigenvalues = np.linalg.eigvalsh(W.T @ W)
    condition = (curvature + eigenvalues[-1]) / curvature
    name = f"fenchel n={size}, condition {condition:.0f}"
    return Model(name, problem, {"u": before, "v": after}, ("u", "v"))


def mdlam(size: int, batch: int) -> Model:
    """Activations of a mDLAM layer: least squares near a pre-activation, in a box of their own."""
    rng = np.random.default_rng(0)
    W, shift = rng.standard_normal((size, size)) / np.sqrt(size), 0.1 * rng.standard_normal(size)
    before = np.maximum(rng.standard_normal((batch, size)), 0)
    after = before @ W.T + shift + 0.5 * rng.standard_normal((batch, size))
    a = cp.Variable(size, name="a")
    z, p, lower, upper = (cp.Parameter(size, name=name) for name in ("z", "p", "lower", "upper"))
    objective = 0.5 * cp.sum_squares(W @ a + shift - z) + 0.005 * cp.sum_squares(a - p)
    problem = cp.Problem(cp.Minimize(objective), [a >= lower, a <= upper])
    values = {"z": after, "p": before, "lower": before - 0.2, "upper": before + 0.2}
    return Model(f"mdlam n={size}", problem, values, ("z", "p"))


def nonnegative_least_squares(size: int, batch: int) -> Model:
    """Nonnegative least squares, a matrix of its own for every instance."""
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((batch, 2 * size, size)) / np.sqrt(2 * size)
    targets = (matrices @ np.maximum(rng.standard_normal((batch, size, 1)), 0))[..., 0]
    targets += 0.3 * rng.standard_normal(targets.shape)
    x = cp.Variable(size, name="x")
    A, y = cp.Parameter((2 * size, size), name="A"), cp.Parameter(2 * size, name="y")
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(A @ x - y)), [x >= 0])
    return Model(f"NNLS {2 * size} x {size}", problem, {"A": matrices, "y": targets}, ("y",))


def spline(knots: int, batch: int) -> Model:
    """A linear spline with slopes in [0, 1] and few kinks, fitted to samples of each instance's own."""
    rng = np.random.default_rng(0)
    samples, places = 200, np.linspace(-3, 3, knots)
    width = places[1] - places[0]
    t = rng.standard_normal((batch, samples)).clip(-2.99, 2.99)
    y = np.maximum(t, 0) * 1.5 * np.sin(t) + 0.1 * rng.standard_normal(t.shape)
    hats = np.maximum(0, 1 - np.abs(t[..., None] - places) / width)
    factors = np.linalg.cholesky(hats.mT @ hats / samples + 1e-6 * np.eye(knots))
    targets = np.linalg.solve(factors, hats.mT @ y[..., None] / samples)[..., 0]
    slopes = (np.eye(knots, knots, 1) - np.eye(knots))[:-1] / width
    c = cp.Variable(knots, name="c")
    R, r = cp.Parameter((knots, knots), name="R"), cp.Parameter(knots, name="r")
    objective = 0.5 * cp.sum_squares(R @ c - r) + 0.05 * cp.norm1((slopes[1:] - slopes[:-1]) @ c)
    problem = cp.Problem(cp.Minimize(objective), [slopes @ c <= 1, slopes @ c >= 0])
    return Model(f"spline, {knots} knots", problem, {"R": np.ascontiguousarray(factors.mT), "r": targets}, ("r",))


def softmax(classes: int, batch: int) -> Model:
    """The output block of a classifier: cross-entropy near a point."""
    rng = np.random.default_rng(0)
    near = 2 * rng.standard_normal((batch, classes))
    labels = np.eye(classes)[rng.integers(0, classes, batch)]
    z = cp.Variable(classes, name="z")
    w, y = cp.Parameter(classes, name="w"), cp.Parameter(classes, name="y")
    problem = cp.Problem(cp.Minimize(cp.log_sum_exp(z) - y @ z + 0.5 * cp.sum_squares(z - w)))
    return Model(f"softmax K={classes}", problem, {"w": near, "y": labels}, ("w",))


def absolute_deviations(size: int, batch: int) -> Model:
    """Least absolute deviations, a linear program with a matrix of its own for every instance."""
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((batch, 3 * size, size))
    targets = matrices.sum(2) + rng.standard_t(2, (batch, 3 * size))
    x = cp.Variable(size, name="x")
    A, y = cp.Parameter((3 * size, size), name="A"), cp.Parameter(3 * size, name="y")
    problem = cp.Problem(cp.Minimize(cp.norm1(A @ x - y)))
    return Model(f"least absolute deviations {3 * size} x {size}", problem, {"A": matrices, "y": targets}, ("y",))


def portfolio(assets: int, batch: int) -> Model:
    """The largest return at a bounded risk, a second-order cone of its own for every instance."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((batch, assets // 2, assets)) / np.sqrt(assets)
    returns = 0.1 + 0.1 * rng.standard_normal((batch, assets))
    w = cp.Variable(assets, name="w")
    F, r = cp.Parameter((assets // 2, assets), name="F"), cp.Parameter(assets, name="r")
    problem = cp.Problem(cp.Maximize(r @ w), [cp.norm2(F @ w) <= 0.15, cp.sum(w) == 1, w >= 0])
    return Model(f"portfolio, {assets} assets", problem, {"F": factors, "r": returns}, ("r",))


def entropy(size: int, batch: int) -> Model:
    """The distribution of largest entropy with given moments of every instance's own."""
    rng = np.random.default_rng(0)
    moments = rng.standard_normal((batch, size // 4, size))
    values = (moments @ rng.dirichlet(np.ones(size), batch)[..., None])[..., 0]
    p = cp.Variable(size, name="p")
    M, v = cp.Parameter((size // 4, size), name="M"), cp.Parameter(size // 4, name="v")
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(p))), [M @ p == v, cp.sum(p) == 1])
    return Model(f"largest entropy, {size} outcomes", problem, {"M": moments, "v": values}, ("v",))


def max_cut(nodes: int, batch: int) -> Model:
    """The semidefinite relaxation of the largest cut of a graph."""
    rng = np.random.default_rng(0)
    weights = rng.random((batch, nodes, nodes))
    weights = np.triu(weights, 1) + np.triu(weights, 1).mT
    X, L = cp.Variable((nodes, nodes), PSD=True, name="X"), cp.Parameter((nodes, nodes), name="L")
    problem = cp.Problem(cp.Maximize(cp.trace(L @ X) / 4), [cp.diag(X) == 1])
    laplacians = weights.sum(2)[..., None] * np.eye(nodes) - weights
    return Model(f"maximum cut, {nodes} nodes", problem, {"L": laplacians}, ("L",))


MODELS: dict[str, Callable[[int], Model]] = {
    "fenchel64": lambda batch: fenchel(64, batch),
    "fenchel128": lambda batch: fenchel(128, batch),
    "fenchel256": lambda batch: fenchel(256, batch),
    "fenchel128-400": lambda batch: fenchel(128, batch, curvature=0.01),
    "mdlam128": lambda batch: mdlam(128, batch),
    "nnls64": lambda batch: nonnegative_least_squares(64, batch),
    "spline32": lambda batch: spline(32, batch),
    "deviations16": lambda batch: absolute_deviations(16, batch),
    "portfolio24": lambda batch: portfolio(24, batch),
    "entropy24": lambda batch: entropy(24, batch),
    "maxcut8": lambda batch: max_cut(8, batch),
    "softmax10": lambda batch: softmax(10, batch),
}
"""Names for the command line -> the model for a number of instances."""
