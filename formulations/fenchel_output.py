"""Fenchel lifting, the output block: the output of one sample as a variable of its own.

    minimize    loss(z; y)  +  multiplier/2 |z - u|^2

See fenchel_lifting.py for the lifted problem that it is a block of.
"""

from __future__ import annotations

from collections.abc import Mapping

import cvxpy as cp

from .activations import Array, largest_entry
from .description import Symbol
from .errors import UsageError
from .losses import Loss, find_loss
from .subproblem import (
    FENCHEL_PAPER,
    PER_INSTANCE,
    Residuals,
    Subproblem,
    require_positive,
    require_size,
)


class FenchelOutput(Subproblem):
    """Output of one sample, the network's own output held fixed: the proximal map of the loss.

        minimize    loss(z; y)  +  multiplier/2 |z - u|^2

    Variables   z (outputs,)       output variable
    Data        u (outputs,)       output that arrives from below      per instance
                y (outputs,)       encoded target of the loss          per instance
                multiplier         > 0, a number fixed when the block is made
    The second term is the Fenchel-Young gap of the identity: the output layer is lifted like any other.
    Convex because the loss is convex in z; strongly convex with modulus `multiplier`.
    Source      Gu, Askari & El Ghaoui, AISTATS 2020: the output variable of the authors' released code.

    Parameters
    ----------
    outputs : int
        Outputs of the network.
    loss : str or Loss
        The training loss.
    multiplier : float
        Factor of the squared distance.

    Raises
    ------
    UsageError
        For an unknown loss, a size below 1, a multiplier that is not positive, or several outputs with the
        logistic loss.

    Examples
    --------
    >>> FenchelOutput(outputs=3, loss="squared").program().is_qp()
    True
    """

    name = "fenchel.output"
    source = FENCHEL_PAPER + ", the output variable of the released code"
    instance = "one sample"

    def __init__(
        self, *, outputs: int = 3, loss: str | Loss = "softmax_cross_entropy", multiplier: float = 1.0
    ) -> None:
        require_size(outputs=outputs)
        require_positive(multiplier=multiplier)
        self.outputs, self.multiplier, self.loss = outputs, multiplier, find_loss(loss)
        if self.loss.name == "logistic" and outputs != 1:
            raise UsageError(
                f"the logistic loss has 1 output, not {outputs}; take the loss 'softmax_cross_entropy' for several."
            )
        self.symbols = (
            Symbol("z", "output variable", PER_INSTANCE, r"\mathbf{z}"),
            Symbol("u", "output that arrives from below", PER_INSTANCE, r"\mathbf{u}"),
            Symbol("y", "encoded target of the loss", PER_INSTANCE, r"\mathbf{y}"),
        )
        self.prepare()

    def write(self) -> cp.Problem:
        z = cp.Variable(self.outputs, name="z")
        u, y = cp.Parameter(self.outputs, name="u"), cp.Parameter(self.outputs, name="y")
        term = self.loss.model(z, y)
        # The factor 1 keeps the term in one piece: cvxpy would flatten a bare sum into its parent and drop the label.
        loss, stay = 1.0 * self.use(term), self.multiplier / 2 * cp.sum_squares(z - u)
        loss.set_label("training loss")
        stay.set_label("stay near the network's output")
        return cp.Problem(cp.Minimize(loss + stay), list(term.constraints))

    def data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"u": (self.outputs,), "y": (self.outputs,)}

    def start_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"z": (self.outputs,)}

    def objective(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        z = values["z"]
        return self.loss.values(z, data["y"]) + self.multiplier / 2 * ((z - data["u"]) ** 2).sum(-1)

    def gradient(self, z: Array, data: Mapping[str, Array]) -> Array:
        """Gradient of the objective of every sample."""
        return self.loss.gradient(z, data["y"]) + self.multiplier * (z - data["u"])

    def residuals(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Residuals:
        """Feasibility (nothing to violate: zero), relative gradient, and the gap |gradient|^2 / (2 multiplier)."""
        gradient = self.gradient(values["z"], data)
        size = largest_entry(gradient)
        gap = (gradient**2).sum(-1) / (2 * self.multiplier)
        scale = 1 + self.multiplier * largest_entry(data["u"])
        return Residuals(0.0 * size, size / scale, gap / (1 + self.size(values, data)))

    def size(self, values: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        return self.objective(values, data)
