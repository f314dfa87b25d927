"""Whitened inputs: coordinates of a layer with fixed inputs in which its majorizer's Hessian is the identity.

A step on the majorizer of a block is W <- W - share * (G'X/n + c W D) H^-1 with H = X'X/n + c D + proximity I, where
c is the weight decay's share and D the identity, but zero for the bias. With H = L L' and an orthogonal Q,

    X~ = X L^-T Q,      W~ = W L Q,      so that  X~ W~' = X W',

the same step is the plain gradient step  W~ <- W~ - share * (G'X~/n + c W~ Q' L^-1 D L^-T Q). The columns of Q are the
eigenvectors of L^-1 D L^-T, so that the weight decay's term is one factor for each column.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Whitening:
    """The change of coordinates, and the weight decay in them.

    Attributes
    ----------
    back : Tensor
        Q' L^-1: it turns rows X into X~ = X back', and weights W~ into W = W~ back; shape (columns, columns).
    forth : Tensor
        L Q, the inverse of `back`.
    decay : Tensor
        c times the eigenvalues of L^-1 D L^-T: the weight decay's gradient is W~ times this, shape (columns,).
    """

    back: Tensor
    forth: Tensor
    decay: Tensor

    def inputs(self, rows: Tensor) -> Tensor:
        """X~ of rows X, the column of the bias among them."""
        return rows @ self.back.T

    def weights(self, packed: Tensor) -> Tensor:
        """W~ of weights W."""
        return packed @ self.forth

    def restore(self, whitened: Tensor) -> Tensor:
        """W of weights W~."""
        return whitened @ self.back


def whiten(hessian: Tensor, decay: float, *, bias: bool) -> Whitening:
    """Make the change of coordinates.

    Parameters
    ----------
    hessian : Tensor
        H, shape (columns, columns).
    decay : float
        c, the weight decay's share of H.
    bias : bool
        Whether the last column is that of a bias, which does not decay.
    """
    exact = hessian.double()
    # A failed factorization gives NaN, which are noticed after the sweep.
    factor, failed = torch.linalg.cholesky_ex(exact)
    factor = torch.where(failed == 0, factor, torch.nan)
    eye = torch.eye(len(exact), dtype=exact.dtype, device=exact.device)
    back = torch.linalg.solve_triangular(factor, eye, upper=False)
    values = torch.zeros_like(exact[0])
    if decay:
        kept = back[:, :-1] if bias else back
        values, vectors = torch.linalg.eigh(kept @ kept.T)
        back, factor = vectors.T @ back, factor @ vectors
    return Whitening(back.to(hessian.dtype), factor.to(hessian.dtype), (decay * values).to(hessian.dtype))
