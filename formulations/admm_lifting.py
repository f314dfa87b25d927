"""ADMM liftings: quadratic penalties with one Lagrange multiplier, for the output.

    minimize_{W,b,z,a} max_u   loss(z_L; y) + (weight_decay/2) sum_l |W_l|^2 + <u, z_L - W_L a_{L-1} - b_L>
                               + (output/2) |z_L - W_L a_{L-1} - b_L|^2
                               + (multiplier/2) sum_{l<L} |z_l - W_l a_{l-1} - b_l|^2
                               + (coupling/2) sum_{l<L} |a_l - phi_l(z_l)|^2

The blocks are those of quadratic_penalty.py with the wanted output z_L + u/output. After a sweep
u <- u + output (z_L - W_L a_{L-1} - b_L). The value is a saddle function's and may go either way.

`Admm` (Taylor et al.) minimizes every block exactly, in the order (W_1, b_1), a_1, z_1, (W_2, b_2), ..., (W_L, b_L),
z_L, with one factor for all linear maps (output = multiplier); its first `warm_up` sweeps leave u at zero.
`DeepAdmm` (dlADMM) goes backward, from z_L down, and forward again, takes steps on quadratic majorizers for a and W
(the released code finds their curvature by doubling, here it is computed) and means for b, and has factors of its own:
nu for the hidden layers, and a small one, rho, for the output.

Source: Taylor, Burmeister, Xu, Singh, Patel & Goldstein, "Training neural networks without gradients: a scalable ADMM
approach", ICML 2016, arXiv 1605.02026 (their beta and gamma are half of `multiplier` and `coupling`); Wang, Yu, Chen &
Zhao, "ADMM for efficient deep learning with global convergence", KDD 2019, arXiv 1905.13611 (their nu is `multiplier`,
their rho `output`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .activations import Array
from .formulation import Architecture, Step, penalty
from .lifted_blocks import (
    activation_residuals,
    fit_between,
    fit_output,
    fit_weights,
    move_weights,
    network_residuals,
    output_loss,
    squared_norm,
)
from .lifted_method import LiftedMethod, LiftedVariables, SolveBlock, layer_by_layer
from .penalty_blocks import best_pre_activation, pieces
from .subproblem import require_count, require_positive


def _known(multiplier: Array | None) -> Array:
    """The multiplier of a state that has been started."""
    assert multiplier is not None
    return multiplier


class _AdmmLifting(LiftedMethod):
    """What the two methods share; `factors` gives multiplier, coupling and the factor of the output."""

    penalty = "squares as for penalty, and a multiplier on the output"
    relaxation = "no: the value of a saddle function; for a multiplier u = 0 as penalty"

    def factors(self) -> tuple[float, float, float]:
        """Factors of the hidden linear maps, of the activations, and of the output."""
        raise NotImplementedError

    def check(self, architecture: Architecture) -> None:
        for phi in architecture.activations:
            pieces(phi)

    def start(self, architecture: Architecture, state: LiftedVariables) -> None:
        super().start(architecture, state)
        state.multiplier = 0.0 * state.targets

    def factor(self, layer: int, architecture: Architecture) -> float:
        """Factor of the linear map of a layer."""
        multiplier, _, output = self.factors()
        return output if layer == architecture.layers else multiplier

    def wanted(self, layer: int, architecture: Architecture, state: LiftedVariables) -> Array:
        """What the linear map of a layer is fitted to: z_l, or z_L + u/output."""
        z = state.pre_activations[layer - 1]
        return z + _known(state.multiplier) / self.factors()[2] if layer == architecture.layers else z

    def fit_pre_activation(
        self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock
    ) -> None:
        """z_l by its pieces, z_L by the proximal map of the loss."""
        multiplier, coupling, output = self.factors()
        place, arrives = step.layer - 1, state.sent(step.layer)
        if step.layer == architecture.layers:
            arrives = arrives - _known(state.multiplier) / output
            fit_output(architecture, state, solve, multiplier=output, arrives=arrives)
            return
        phi, a = architecture.activations[place], state.activations[place]
        state.pre_activations[place] = best_pre_activation(phi, arrives, a, multiplier, coupling)

    def raise_multiplier(self, architecture: Architecture, state: LiftedVariables) -> None:
        """u <- u + output (z_L - W_L a_{L-1} - b_L)."""
        residual = state.pre_activations[-1] - state.sent(architecture.layers)
        state.multiplier = state.multiplier + self.factors()[2] * residual

    def layer_gaps(self, architecture: Architecture, state: LiftedVariables) -> list[Array]:
        """1/2 |z_l - W_l a_{l-1} - b_l|^2, for hidden layers with 1/2 |a_l - phi_l(z_l)|^2."""
        gaps, below = network_residuals(architecture, state), activation_residuals(architecture, state)
        return [gap + (below[place] if place < len(below) else 0.0) for place, gap in enumerate(gaps)]

    def lifted_value(self, architecture: Architecture, state: LiftedVariables) -> Array:
        multiplier, coupling, output = self.factors()
        *hidden, last = network_residuals(architecture, state)
        residual = state.pre_activations[-1] - state.sent(architecture.layers)
        squares = multiplier * sum(hidden) + output * last + coupling * sum(activation_residuals(architecture, state))
        dual = (state.multiplier * residual).sum()
        return output_loss(architecture, state) + penalty(architecture, state.weights) + squares + dual


@dataclass(frozen=True)
class Admm(_AdmmLifting):
    """Settings of the ADMM of Taylor et al.; see the module's text.

    Parameters
    ----------
    multiplier, coupling : float
        Factors of the squares of the linear maps and of the activations (the paper's are 2 and 20 in these units).
    warm_up : int
        Sweeps before the multiplier of the output is first raised.

    Raises
    ------
    UsageError
        If a setting is out of range.
    """

    name = "admm"
    paper = "Taylor et al., Training neural networks without gradients: a scalable ADMM approach, ICML 2016"
    limits = "piecewise linear activations; the objective may rise"
    parallel = "samples and units in a block; blocks in turn"

    multiplier: float = 0.5
    coupling: float = 5.0
    warm_up: int = 10

    def __post_init__(self) -> None:
        require_positive(multiplier=self.multiplier, coupling=self.coupling)
        require_count(warm_up=self.warm_up)

    def factors(self) -> tuple[float, float, float]:
        return self.multiplier, self.coupling, self.multiplier

    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        return layer_by_layer(architecture, ("weight", "activation", "pre_activation"))

    def sweep(self, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        super().sweep(architecture, state, solve)
        state.memory["sweeps"] = state.memory.get("sweeps", 0) + 1
        if state.memory["sweeps"] > self.warm_up:
            self.raise_multiplier(architecture, state)

    def update(self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        layer = step.layer
        if step.block == "weight":
            factor, wanted = self.factor(layer, architecture), self.wanted(layer, architecture, state)
            fit_weights(step, architecture, state, solve, multiplier=factor, wanted=wanted)
        elif step.block == "activation":
            factor, wanted = self.factor(layer + 1, architecture), self.wanted(layer + 1, architecture, state)
            fit_between(step, architecture, state, solve, below=self.coupling, above=factor, wanted=wanted)
        else:
            self.fit_pre_activation(step, architecture, state, solve)


@dataclass(frozen=True)
class DeepAdmm(_AdmmLifting):
    """Settings of dlADMM; see the module's text.

    Parameters
    ----------
    multiplier : float
        Factor of both squares of the hidden layers (the paper's nu).
    output : float
        Factor of the square of the output (the paper's rho). Where it is small the output goes far in a sweep: it is
        what the steps of the weights follow.

    Raises
    ------
    UsageError
        If a factor is not positive.
    """

    name = "dladmm"
    paper = "Wang, Yu, Chen & Zhao, ADMM for efficient deep learning with global convergence, KDD 2019"
    limits = "piecewise linear activations; the objective may rise; slow on many samples (digits: .9 after 30 sweeps)"
    parallel = "samples and units in a block; blocks in turn, backward and forward"

    multiplier: float = 1.0
    output: float = 1e-3

    def __post_init__(self) -> None:
        require_positive(multiplier=self.multiplier, output=self.output)

    def factors(self) -> tuple[float, float, float]:
        return self.multiplier, self.multiplier, self.output

    def groups(self, architecture: Architecture) -> tuple[tuple[Step, ...], ...]:
        forth = layer_by_layer(architecture, ("weight", "pre_activation", "activation"))
        return (*reversed(forth), *forth)

    def sweep(self, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        super().sweep(architecture, state, solve)
        self.raise_multiplier(architecture, state)

    def update(self, step: Step, architecture: Architecture, state: LiftedVariables, solve: SolveBlock) -> None:
        layer, place = step.layer, step.layer - 1
        if step.block == "weight":
            factor, wanted = self.factor(layer, architecture), self.wanted(layer, architecture, state)
            move_weights(step, architecture, state, multiplier=factor, wanted=wanted)
        elif step.block == "pre_activation":
            self.fit_pre_activation(step, architecture, state, solve)
        else:
            factor, W, a = self.factor(layer + 1, architecture), state.weights[layer], state.activations[place]
            phi = architecture.activations[place].phi(state.pre_activations[place])
            error = state.sent(layer + 1) - self.wanted(layer + 1, architecture, state)
            slope = factor * error @ W + self.multiplier * (a - phi)
            state.activations[place] = a - slope / (factor * squared_norm(W) + self.multiplier)

    def figures(self, state: LiftedVariables) -> dict[str, Any]:
        return {"multiplier_size": abs(_known(state.multiplier)).max()}
