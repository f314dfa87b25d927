"""Check a certificate: a lower bound on the training loss of neural networks, proved again from one file.

    python checker.py CERTIFICATE.json [--data FILE] [--json]      exit 0: proven, 1: not proven, 2: not a certificate

This file needs the standard library alone. It computes with integers and rationals: the numbers of a certificate are
floats, hence rationals, and no floating-point operation stands between them and the bound.

How to read it
--------------
What has to be believed are the proof that follows and, for a certificate, the section of its kind ("the proof" and, for
few features, "the proof by cones"; "the proof for several outputs"; "the proof for any depth"), with "numbers" and
"what the statement says": 76 to 168 lines each. The rest of the file reads files strictly and prints answers.

What is proven
--------------
For every width m, all hidden weights w_1, ..., w_m and all output weights a_1, ..., a_m,

    loss(z) + (weight_decay / 2) sum_j (|w_j|^2 + a_j^2)  >=  lower_bound,        z = sum_j a_j phi(X w_j).

loss(z) is sum_i (z_i - y_i)^2 / 2 or, with labels +-1, sum_i log(1 + exp(-y_i z_i)). The activation phi(z) is z for
z >= 0 and q z for z <= 0, that is (1 - q) (z)_+ + q z, with q = 0 (relu), slope (leaky_relu) or -1 (absolute_value).

Proof
-----
1. Duality. Let D(v) = min_z loss(z) + v'z, and let H be at least |v'phi(X u)| for all |u| = 1. As phi(c z) = c phi(z)
   for c >= 0, |v'z| <= H sum_j |a_j| |w_j| <= H sum_j (|w_j|^2 + a_j^2) / 2. So for t >= 0 with t H <= weight_decay the
   objective is at least D(t v) - t v'z + (weight_decay / 2) sum_j (|w_j|^2 + a_j^2) >= D(t v).
   Squared loss: D(v) = v'y - |v|^2 / 2. Logistic loss: with p_i = y_i v_i in [0, 1], D(v) is the sum of the entropies
   -p_i log p_i - (1 - p_i) log(1 - p_i). Loss and penalty are never negative, so 0 is a bound too.

2. For each sign s and all |u| = 1 we bound s v'phi(X u) = sum_i v0_i (x_i'u)_+ + s q v'X u, v0 = s (1 - q) v. Positive
   parts are subadditive: for a datum i, numbers c_j >= 0 and delta = x_i - sum_j c_j x_j,

       (x_i'u)_+  <=  sum_j c_j (x_j'u)_+ + (delta'u)_+ .

   So a pair of weight pi >= 0 may take pi from v0_i and add pi c_j to each v0_j, at the price of pi (z)_+, z = delta'u.
   That is at most quadratic z^2 + linear z + gamma, where quadratic > 0 and gamma is the largest value of
   pi (z)_+ - quadratic z^2 - linear z.

3. For a datum, z = x_i'u has |z| <= r_i if r_i >= |x_i|. With its row w_i (zero if there is none) and l_i >= |w_i|,
   |z w_i'u| <= l_i |z|. So v0_i (z)_+ <= quadratic z^2 + linear z - z w_i'u + gamma, where gamma is the largest value
   of v0_i (z)_+ + l_i |z| - quadratic z^2 - linear z on |z| <= r_i.

4. Together, s v'phi(X u) <= G + g'u + u'A u. Let rho be any number, B = rho I - A, and let e be such that the bordered
   matrix M = [B, g/2; g'/2, e] is positive semidefinite. For |u| = 1, where rho = rho u'u whatever the sign of rho,

       G + g'u + u'A u  =  G + g'u + rho - u'B u  =  G + rho + e - (u, -1)'M (u, -1)  <=  G + rho + e.

   `_peak` finds e, and proves that M is positive semidefinite.

5. Rounding. A and g are sums of integers over powers of two, without any error. The numbers r, l, gamma and e are
   rounded up, which can only make the bounds of steps 2 to 4 larger; t and D(t v) are rounded down.

Proof by cones
--------------
For data with few features evidence of the kind "cone_search" replaces steps 2 to 4. With v0 = s (1 - q) v and
l = s q X'v, F(u) = s v'phi(X u) = l'u + sum_i v0_i (x_i'u)_+.

6. The orthants cover all u. A cone, all u = sum_k l_k u_k with l_k >= 0, is the union of the two cones in which w =
   a u_j + b u_k with a, b > 0 takes the place of u_j, and of u_k. So the cones that are not split cover all u.

7. On such a cone (x_i'u)_+ is linear where x_i'u_k has one sign for all k. Else, if v0_i > 0, it is at most
   sum_k l_k (x_i'u_k)_+, as it is convex; if v0_i < 0, it is at least 0 and at least x_i'u, and we take one of these.
   In all F(u) <= sum_k l_k c_k with numbers c_k. Let w'u_k > 0 for all k, theta >= 0 and theta >= c_k / w'u_k. Then
   F(u) <= theta sum_k l_k w'u_k = theta w'u <= theta |w| for |u| <= 1. Only |w| is not rational; it is rounded up.
   Any w will do, so that floats may propose some.

This file by itself goes through cones in exact arithmetic, or refuses. `check_text` can be given a `replay` that goes
through more of them in floating point; the answer then says that it is not exact.

Several outputs
---------------
With K outputs f(x) = sum_j a_j phi(w_j'x), a_j in R^K, whose penalty is |a_j|^2. loss(Z) is sum_i |z_i - y_i|^2 / 2
or, with class numbers y_i from 0 to K - 1, the softmax cross-entropy sum_i (log sum_k exp z_ik - z_{i, y_i}).

8. Let D(V) = min_Z loss(Z) + <V, Z>, v_k the columns of V, and H_k at least |v_k'phi(X u)| for all |u| = 1, by steps 2
   to 4 for each k. Let H^2 be at least the sum of the H_k^2. As Z = sum_j phi(X w_j) a_j',

       |<V, Z>|  =  |sum_j a_j'V'phi(X w_j)|  <=  sum_j |a_j| |w_j| H  <=  H sum_j (|w_j|^2 + |a_j|^2) / 2,

   so that the objective is at least D(t V) for t >= 0 with t H <= weight_decay, as in step 1. Squared loss: D(V) is the
   sum of v_k'y_k - |v_k|^2 / 2. Softmax: row i of V is onehot(y_i) - P_i, where P_i is not negative and sums to 1, and
   D(V) is the sum of the entropies of all P_i, since log sum_k exp z_k - P_i'z >= -sum_k P_ik log P_ik. Stored is P_ik
   for the classes k other than y_i; the last one is what they leave of 1. t V, t in [0, 1], has t P_ik in their place.

9. Another H, where all g = V'phi(X u) lie in a plane: all of R^2 for K = 2; for the softmax loss with K = 3 the g
   with g_1 + g_2 + g_3 = 0, as the rows of V sum to 0. For directions a_1, ..., a_N in R^K let H_j be at least |a_j'g|,
   by steps 2 to 4 for the vector V a_j in place of v. As a point x of the plane is known by (x_1, x_2), every linear
   form on it is c'(x_1, x_2) for one c in R^2; that of a_j'x is c_j = a_j (K = 2), (a_j1 - a_j3, a_j2 - a_j3) (K = 3).

   Let a_{N+1} = -a_1 and H_{N+1} = H_1. It is checked that det(c_j, c_{j+1}) > 0 for j = 1, ..., N: every turn from c_j
   to c_{j+1} is counterclockwise and less than a half turn. All of them lead from c_1 to -c_1, so they make a half turn
   or more, and every c in R^2 or its negative is l c_j + m c_{j+1} for some j and l, m >= 0. Take for c the form g'x,
   and -g for g if need be, which has the same length: g'x = l a_j'x + m a_{j+1}'x for all x of the plane. Let w_j be
   the point of the plane with a_j'w_j = H_j and a_{j+1}'w_j = H_{j+1}. Then

       |g|^2  =  l a_j'g + m a_{j+1}'g  <=  l H_j + m H_{j+1}  =  g'w_j  <=  |g| |w_j|.

   So H may be the largest |w_j|; |x|^2 is x_1^2 + x_2^2 (K = 2) or x_1^2 + x_2^2 + (x_1 + x_2)^2 (K = 3). If all H_j
   are exact, that is at most h(V) / cos(turn / 2), turn the largest angle between consecutive a_j, seen in the plane:
   where two lines meet that touch a set within a circle, the touching points are seen under the angle pi - turn, and
   no such place is farther out than the corner of two tangents of the circle.

Proof for any depth
-------------------
The statement is about f(x) = W_L phi(W_{L-1} ... phi(W_1 x)), any widths, one output, and the penalty
(weight_decay / 2) sum_l |W_l|^2 of Frobenius norms. phi acts on each entry, |phi(a) - phi(b)| <= |a - b|, phi(0) = 0:
relu, leaky_relu, absolute_value and tanh. With free biases, phi(W_l h + b_l) and a last b_L, no bias is penalized.

10. Let R = |W_1| ... |W_L| and z_i = f(x_i). No layer stretches a difference by more than |W_l|, with or without
    biases. Without them f(0) = 0, and for the matrix H of the outputs of a layer |phi(H W')| <= |H W'| <= |H| |W|,
    where for the first one |X W_1'| <= |X|_2 |W_1|, |X|_2 the largest singular value of X. Hence

        |z_i - z_j| <= R |x_i - x_j|,   and without free biases   |z_i| <= R |x_i|,   |z| <= R |X|_2.

11. A cut is a vector v = sum_e f_e (1_i - 1_j) + r + s: amounts f_e on edges e = (i, j), r for each sample, s for all
    together; with free biases r and s must not be there. By step 10, |v'z| <= R h with

        h = sum_e |f_e| |x_i - x_j| + sum_i |r_i| |x_i| + |s| |X|_2.

    So loss(z) >= D(v) - v'z >= D(v) - R h. Whatever the amounts are, that holds. v is added up here, exactly.

12. The mean of the |W_l|^2 is at least their geometric mean R^(2/L). So the objective is at least the least value over
    R >= 0 of m(R) + weight_decay (L/2) R^(2/L), where m(R) is the largest of 0 and all D(v) - R h. As L >= 2, the power
    is concave, and m is linear between its breakpoints: on each piece the least value is at an end. After the last
    breakpoint m is constant, and the sum increases. So it is enough to look at R = 0 and at the breakpoints, which are
    rational. (For L = 2 this solves a linear program.)

13. Rounding. Distances, norms and h are rounded up, D(v) and R^(2/L) down. |X|_2 is replaced by a number sigma of the
    file, with which `_peak` proves sigma^2 I - X'X (or, if it is smaller, sigma^2 I - X X') positive semidefinite.

The file
--------
One JSON object. Real numbers are texts as float.hex() writes them, indices are integers from 0; no key may be missing.

    format       "convexblocks certificate 1"
    statement    network ("two_layer", or "two_layer_outputs" or "deep", see below), activation, slope (of leaky_relu
                 alone), loss, weight_decay, bias ("column": the last column of X is constant; or "none"), samples,
                 features, data_sha256 (see `data_digest`), lower_bound, incumbent (the objective of the best network
                 known, or null), preparation (a text)
    data         X (a list for each sample) and y
    evidence     kind, v, and for the signs + and -, plus and minus. Of the kind "paired_moments" they hold: rho,
                 quadratic and linear (one for each datum), pairs, rows (null, or w_i or null for each datum). A pair
                 has the keys of (the datum), partners ([j, c_j] each), weight, quadratic and linear.
                 Of the kind "cone_search": a text for each level, a character for each of its cones; 0 if it is not
                 split, the k-th of 123...z if it is split along the k-th of its edges (1, 2), (1, 3), ..., (d - 1, d).
                 Level 0 are the orthants, u_k = +-e_k, - where binary digit k of the number of the orthant is 1. A
                 level has two cones for each one that the level before splits, in that order: first w for u_j
    network      null, or weights (a list for each neuron) and outputs of the network whose objective is the incumbent

What is different for "two_layer_outputs":

    statement    has the key outputs too, K; loss is "squared" or "softmax"
    data         y has K numbers for each sample (squared), or its class number (softmax)
    evidence     in place of v, plus and minus: columns, with plus and minus for each output, and v (squared), K numbers
                 for each sample, or probabilities (softmax), the K - 1 numbers P_ik, k other than y_i, for each sample.
                 For K = 2 (squared) and K = 3 (softmax), directions may stand in place of columns, at most 64 objects
                 with direction (a_j, K numbers), plus and minus
    network      outputs has K numbers for each neuron

What is different for "deep":

    statement    has the key depth too, L; activation may be "tanh", and bias "free": biases everywhere, not penalized
    evidence     kind ("lipschitz"), spectral_norm (sigma, or null) and cuts. A cut has the keys edges ([i, j, f_e] for
                 each), each (r, or null) and all (s, or null)
    network      weights (a matrix (out, in) for each layer) and biases (a list for each layer, or null); with tanh,
                 which is not rational, it must be null
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import re
import reprlib
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from fractions import Fraction
from itertools import combinations, pairwise
from operator import index, mul
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = "convexblocks certificate 1"
ACTIVATIONS = ("relu", "leaky_relu", "absolute_value")
DEEP_ACTIVATIONS = (*ACTIVATIONS, "tanh")
LOSSES = {
    "two_layer": ("squared", "logistic"), "two_layer_outputs": ("squared", "softmax"), "deep": ("squared", "logistic"),
}  # fmt: skip
"""Of every network."""
SIGNS = {1: "plus", -1: "minus"}
PLANES = (("squared", 2), ("softmax", 3))
"""Loss and number of outputs where all V'phi(X u) lie in a plane."""
MOST_BYTES = 2**26
"""Of a file, and of an array in a file of data."""
MOST_PRODUCTS = 100_000_000
"""Of integers, to prove a bound. Their size is bounded because that of floats is."""
MOST_OUTPUTS_PRODUCTS = 500_000_000
"""The same, for several outputs."""
MOST_NETWORK_PRODUCTS = 100_000_000
"""Of integers, to compute the objective of the network in a file."""
MOST_DIRECTIONS = 64
MOST_CUTS = 64
MOST_LAYERS = 64
ENTROPY = 1_000
"""Products of integers that a logarithm is counted as."""
MOST_CONE_FEATURES = 8
MOST_CONES, MOST_CONE_SAMPLES = 1_000_000, 50_000_000
"""Cones, and cones times samples, that are gone through here; `convexblocks check` takes more, in floating point."""
MOST_LEVEL_SAMPLES = 2_000_000
"""Levels of cones times samples: so much is held in memory here."""
MOST_REPLAYED = 100_000_000_000
"""Cones times samples that are gone through in floating point."""
LONGEST_GENERATOR = 2**50
"""Largest entry of a generator, so that floats hold it too."""
SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyz"
LEAF = SYMBOLS[0]
PROPOSAL_BITS, PROPOSAL_UNIT, INWARD = 900, 1 << 60, 2.0**-50
LONGEST_TEXT = 10_000
PRECISION = 128
"""Bits that are kept where a number is rounded."""

Matrix = Sequence[Sequence[float]]
Replay = Callable[[Matrix, Sequence[float], float, int, Sequence[str]], float]
"""X, v, the slope of the activation below zero, a sign and the levels of cones -> what `_cone_bound` would say."""


class NotACertificate(ValueError):  # noqa: N818 (it says what the file is, and no more)
    """The file cannot be read as a certificate; the message says where and why."""


class TooManyCones(NotACertificate):
    """A search over more cones than exact arithmetic goes through here."""


class _Rejected(Exception):  # noqa: N818 (an answer, caught in `check_text`)
    """The certificate can be read, and does not prove what it states."""


@dataclass(frozen=True)
class Bound:
    """What a certificate proves.

    Attributes
    ----------
    proven : bool
        Whether all that the certificate states was proved again.
    lower_bound : float
        The bound that was proved here, rounded down. It is 0, which always holds, where the evidence proves nothing.
    claim : float
        The lower bound that the certificate states.
    incumbent : float or None
        Training objective of the best network known, as the certificate states it.
    statement : dict
        The statement of the certificate, its real numbers as floats.
    reason : str
        Why the certificate is not proven; empty if it is.
    notes : tuple of str
        What else a reader should know.
    seconds : float
        Time spent.
    exact : bool
        Whether all was computed in exact arithmetic; if not, cones were gone through by the `replay` of `check_text`.
    """

    proven: bool
    lower_bound: float
    claim: float
    incumbent: float | None
    statement: dict[str, Any]
    reason: str
    notes: tuple[str, ...]
    seconds: float
    exact: bool = True

    @property
    def gap_percent(self) -> float | None:
        """100 (1 - lower_bound / incumbent); 0 where both are 0, None where there is no incumbent."""
        if self.incumbent is None:
            return None
        return 100 * (1 - self.lower_bound / self.incumbent) if self.incumbent > 0 else 0.0


class _Pair(NamedTuple):
    of: int
    partners: list[tuple[int, float]]
    weight: float
    quadratic: float
    linear: float


class _Side(NamedTuple):
    """The evidence for one sign."""

    rho: float
    quadratic: list[float]
    linear: list[float]
    pairs: list[_Pair]
    rows: list[list[float]]
    """Empty where there is none."""


class _Cut(NamedTuple):
    """The parts of v in step 11; r and s are empty where the file has null."""

    edges: list[tuple[int, int]]
    amounts: list[float]
    each: list[float]
    together: list[float]


class _Cuts(NamedTuple):
    """The evidence for a deep network."""

    spectral_norm: float | None
    cuts: list[_Cut]


class _Layers(NamedTuple):
    weights: list[list[list[float]]]
    biases: list[list[float]] | None


class _Cones(NamedTuple):
    """The evidence for one sign: how the cones of every level are split."""

    levels: list[str]


class _Certificate(NamedTuple):
    statement: dict[str, Any]
    X: list[list[float]]
    y: list[Any]
    """A number for each sample, or a list of them."""
    v: Sequence[Any]
    """Empty where there are several outputs."""
    sides: Mapping[int, _Side | _Cones]
    """By sign, 1 and -1."""
    network: tuple[list[list[float]], list[Any]] | None
    duals: list[list[float]] = []  # noqa: RUF012 (never written to)
    """Of several outputs, a list for each sample: v or probabilities."""
    columns: list[dict[int, _Side]] = []  # noqa: RUF012
    """Of several outputs, the sides of each, or of each direction."""
    directions: list[list[float]] = []  # noqa: RUF012
    """The a_j of step 9, or empty."""
    lipschitz: _Cuts | None = None
    """Of a deep network, which has neither v nor sides; its network is `layers`."""
    layers: _Layers | None = None


class _Term(NamedTuple):
    """quadratic z^2 + linear z + constant, z = row'u; the row is in the unit of the integers that stand for X."""

    row: list[int]
    quadratic: Fraction
    linear: Fraction
    constant: Fraction


# ------------------------------------------------------------------------------------ the answer


def check(path: str | Path, data: Any = None) -> Bound:
    """Prove the bound of a certificate again.

    Parameters
    ----------
    path : str or Path
        The certificate.
    data : (X, y), optional
        The data that the certificate should be about: rows of numbers, and one number for each row.

    Returns
    -------
    Bound

    Raises
    ------
    NotACertificate
        If the file cannot be read as a certificate.
    """
    return check_text(read_text(path), data)


def read_text(path: str | Path) -> str:
    """The text of a file; NotACertificate is raised if it is too large, or not in UTF-8."""
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    _limit("bytes", len(content), MOST_BYTES)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotACertificate(f"not a text in UTF-8: {error}") from None


def check_text(text: str, data: Any = None, replay: Replay | None = None) -> Bound:
    """`check` for the text of a certificate.

    With `replay` cones are gone through by that, in floating point, in place of exact arithmetic.

    Raises
    ------
    TooManyCones
        If there are more than exact arithmetic goes through, and there is no `replay`.
    """
    start = time.perf_counter()
    certificate = _read(text)
    trees = [side.levels for side in certificate.sides.values() if isinstance(side, _Cones)]
    if replay is None:
        if too_many := too_many_cones(trees, len(certificate.y)):
            raise TooManyCones(
                f"too large: {too_many}; `convexblocks check` goes through more in floating point, with all roundings "
                "counted"
            )
    else:
        _limit("cones times samples", _count(trees) * len(certificate.y), MOST_REPLAYED)
    lower_bound, notes, reason = 0.0, [], ""
    try:
        notes.append(_check_data(certificate, data))
        if certificate.lipschitz is not None:
            value, R = _least_over_norms(certificate, certificate.lipschitz)
            how = "a linear program" if certificate.statement["depth"] == 2 else "convex pieces plus a concave power"
            notes.append(f"least over the product R = |W_1| ... |W_L| ({how}), at R about {_float_below(R):.6g}")
        else:
            value = _outputs_value(certificate) if certificate.columns else _one_output_value(certificate, replay)
            if certificate.columns:
                notes.append(_what_outputs_lose(certificate))
        lower_bound = max(0.0, _float_below(value))
        notes.append(_check_incumbent(certificate, lower_bound))
        _check_claim(certificate, lower_bound)
    except _Rejected as rejection:
        reason = str(rejection)
    statement, seconds = certificate.statement, time.perf_counter() - start
    claim, incumbent = statement["lower_bound"], statement["incumbent"]
    exact = not trees or replay is None
    return Bound(not reason, lower_bound, claim, incumbent, statement, reason, tuple(notes), seconds, exact)


def too_many_cones(trees: Iterable[Sequence[str]], samples: int) -> str:
    """Why exact arithmetic does not go through trees of cones, each given by its levels; empty where it does.

    Examples
    --------
    >>> too_many_cones([["0000"], ["1000", "00"]], samples=100)
    ''
    >>> too_many_cones([["0000"]], samples=20_000_000)
    '4 cones; exact arithmetic goes through at most 2 for these data'
    """
    trees = list(trees)
    cones, most = _count(trees), min(MOST_CONES, MOST_CONE_SAMPLES // samples)
    if cones > most:
        return f"{cones:,} cones; exact arithmetic goes through at most {most:,} for these data"
    levels, most = max(map(len, trees), default=0), MOST_LEVEL_SAMPLES // samples
    if levels > most:
        return f"{levels:,} levels of cones; exact arithmetic goes through at most {most:,} for these data"
    return ""


def _count(trees: Iterable[Sequence[str]]) -> int:
    """All cones of trees."""
    return sum(len(level) for levels in trees for level in levels)


def data_digest(X: Iterable[Iterable[float]], y: Iterable[Any]) -> str:
    """The `data_sha256` of a statement: a line for each sample, its features and its targets in hexadecimal."""
    rows = ((*row, *_several(target)) for row, target in zip(X, y, strict=True))
    lines = (",".join(float(number).hex() for number in row) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def objective(
    statement: Mapping[str, Any], X: Matrix, y: Sequence[Any], weights: Matrix, outputs: Sequence[Any]
) -> float:
    """The training objective of a network, rounded up: a float that is proved to be no less.

    Parameters
    ----------
    statement : mapping
        `activation`, `slope` (leaky_relu alone), `loss`, `weight_decay` and, where there are several, `outputs`, as in
        a certificate but real numbers as floats.
    X, y : sequences of floats
        Features (n, d) and targets (n,), or (n, K) for the squared loss of several outputs.
    weights, outputs : sequences of floats
        Hidden weights (m, d), a row for each neuron, and output weights (m,), or (m, K) for several outputs.

    Examples
    --------
    >>> objective({"activation": "relu", "loss": "squared", "weight_decay": 0.5}, [[2.0]], [3.0], [[1.0]], [1.0])
    1.0
    """
    q = _slope_below_zero(statement)
    samples, bits = _integer_rows(X)
    neurons, neuron_bits = _integer_rows(weights)
    K, width = statement.get("outputs", 1), len(weights)
    columns = [[_several(output)[k] for output in outputs] for k in range(K)]
    gains = [[Fraction(float(output)) for output in column] for column in columns]
    factors, factor_bits = _integers([part * gain for column in gains for part in (1, q) for gain in column])
    # A slice for each output and each side of zero.
    parts = [factors[place * width : (place + 1) * width] for place in range(2 * K)]
    squares = sum((_dot(row, row) for row in (*columns, *weights)), Fraction())
    total = Fraction(statement["weight_decay"]) / 2 * squares
    unit = Fraction(1, 1 << (bits + neuron_bits + factor_bits))
    for sample, target in zip(samples, y, strict=True):
        inner = [sum(map(mul, sample, neuron)) for neuron in neurons]
        z = [
            unit * sum(s * (a if s >= 0 else b) for s, a, b in zip(inner, above, below, strict=True))
            for above, below in zip(parts[::2], parts[1::2], strict=True)
        ]
        total += _loss_above(statement["loss"], z, [Fraction(float(number)) for number in _several(target)])
    return _float_above(total)


def deep_objective(
    statement: Mapping[str, Any], X: Matrix, y: Sequence[float], weights: Sequence[Matrix],
    biases: Sequence[Sequence[float]] | None = None,
) -> float:  # fmt: skip
    """The training objective of a network of any depth, rounded up; of activations that are piecewise linear.

    Parameters
    ----------
    statement : mapping
        As for `objective`.
    X, y : sequences of floats
        Features (n, d) and targets (n,).
    weights : sequence of matrices
        (out, in) for each layer; the last has one row.
    biases : sequence of vectors, optional
        One for each layer, not penalized.

    Examples
    --------
    >>> statement = {"activation": "relu", "loss": "squared", "weight_decay": 0.5}
    >>> deep_objective(statement, [[2.0]], [3.0], [[[1.0]], [[1.0]], [[1.0]]])
    1.25
    """
    (q,), q_bits = _integers([_slope_below_zero(statement)])
    hidden, bits = _integer_rows(X)
    for place, matrix in enumerate(weights):
        rows, row_bits = _integer_rows(matrix)
        bits += row_bits
        shifts, shift_bits = _integers([float(b) for b in biases[place]] if biases is not None else [0.0] * len(rows))
        finer, coarser = max(shift_bits - bits, 0), max(bits - shift_bits, 0)
        hidden = [
            [(sum(map(mul, row, inputs)) << finer) + (b << coarser) for row, b in zip(rows, shifts, strict=True)]
            for inputs in hidden
        ]
        bits += finer
        if place < len(weights) - 1:
            hidden = [[z << q_bits if z >= 0 else z * q for z in outputs] for outputs in hidden]
            bits += q_bits
    squares = sum((_dot(row, row) for matrix in weights for row in matrix), Fraction())
    total = Fraction(statement["weight_decay"]) / 2 * squares
    for (z,), target in zip(hidden, y, strict=True):
        total += _loss_above(statement["loss"], [Fraction(z, 1 << bits)], [Fraction(float(target))])
    return _float_above(total)


def describe(bound: Bound) -> str:
    """The statement of a certificate, and whether it is proven, in plain words."""
    if bound.statement["network"] == "deep":
        return _describe_deep(bound)
    statement = bound.statement
    features, decay = statement["features"], repr(statement["weight_decay"])
    loss, phi = _formulas(statement)
    outputs = statement.get("outputs")
    bias = {
        "column": "the last feature is a constant, its weights are the biases and are penalized as all others are",
        "none": "none in the hidden layer",
    }
    lower_bound = _decimal(bound.lower_bound, ROUND_FLOOR)
    return "\n".join([
        _verdict(bound),
        "",
        f"For every width m, all hidden weights w_1, ..., w_m in R^{features}, all output weights a_1, ..., a_m in "
        f"R{'' if outputs is None else f'^{outputs}'},",
        "",
        f"    sum_i {loss} + ({decay} / 2) sum_j (|w_j|^2 + "
        f"{'a_j^2' if outputs is None else '|a_j|^2'})  >=  {lower_bound},",
        "",
        f"    f(x) = sum_j a_j phi(w_j'x),    phi(z) = {phi}",
        "",
        f"network      two layers, activation {statement['activation']}, "
        f"{'one output' if outputs is None else f'{outputs} outputs'} without a bias",
        f"bias         {bias[statement['bias']]}",
        f"loss         {statement['loss']}, a sum over the samples, not a mean",
        f"penalty      weight_decay / 2 times the sum of squares of all weights; weight_decay is {decay}",
        *_outcome(bound),
    ])  # fmt: skip


def _describe_deep(bound: Bound) -> str:
    statement = bound.statement
    decay, depth, free = repr(statement["weight_decay"]), statement["depth"], statement["bias"] == "free"
    loss, phi = _formulas(statement)
    f = "f(x) = W_L phi(W_{L-1} ... phi(W_1 x))"
    if free:
        f = "f(x) = W_L phi(W_{L-1} ... phi(W_1 x + b_1) ... + b_{L-1}) + b_L"
    bias = {
        "column": "the last feature is a constant, its weights are the biases of the first layer and are penalized; no "
                  "other layer has biases",
        "none": "none in any layer",
        "free": "any biases b_1, ..., b_L, not penalized; it holds all the more where they are penalized too",
    }[statement["bias"]]  # fmt: skip
    return "\n".join([
        _verdict(bound),
        "",
        f"For the depth L = {depth}, every width of every hidden layer and all matrices W_1, ..., W_L"
        f"{' and biases b_1, ..., b_L' if free else ''},",
        "",
        f"    sum_i {loss} + ({decay} / 2) sum_l |W_l|^2  >=  {_decimal(bound.lower_bound, ROUND_FLOOR)},",
        "",
        f"    {f},    phi(z) = {phi},",
        "    |W|^2 the sum of the squares of all entries of W",
        "",
        f"network      {depth} weight matrices, fully connected, activation {statement['activation']} between them, "
        "one output",
        f"bias         {bias}",
        f"loss         {statement['loss']}, a sum over the samples, not a mean",
        "penalty      weight_decay / 2 times the sum of squares of all entries of all matrices; weight_decay is "
        f"{decay}",
        *_outcome(bound),
    ])  # fmt: skip


def _verdict(bound: Bound) -> str:
    if not bound.proven:
        return f"NOT PROVEN: {bound.reason}"
    return f"PROVEN in {'exact' if bound.exact else 'floating-point'} arithmetic"


def _formulas(statement: Mapping[str, Any]) -> tuple[str, str]:
    """The loss of a sample and the activation."""
    loss = {
        "squared": "|f(x_i) - y_i|^2 / 2" if "outputs" in statement else "(f(x_i) - y_i)^2 / 2",
        "logistic": "log(1 + exp(-y_i f(x_i)))", "softmax": "(log sum_k exp f(x_i)_k - f(x_i)_{y_i})",
    }  # fmt: skip
    phi = {
        "relu": "max(z, 0)", "leaky_relu": f"max(z, {statement.get('slope')!r} z)", "absolute_value": "|z|",
        "tanh": "tanh(z)",
    }  # fmt: skip
    return loss[statement["loss"]], phi[statement["activation"]]


def _outcome(bound: Bound) -> list[str]:
    """The lines on data, bound and incumbent."""
    statement = bound.statement
    incumbent, gap = "not stated", "unknown"
    if bound.incumbent is not None and bound.gap_percent is not None:
        incumbent = _decimal(bound.incumbent, ROUND_CEILING)
        gap = f"{bound.gap_percent:.4g} %, that is 100 (1 - lower bound / incumbent)"
    return [
        f"data         {statement['samples']} samples, {statement['features']} features; sha256 "
        f"{statement['data_sha256']}",
        f"preparation  {_plain(statement['preparation'])}",
        f"claim        {bound.claim!r}, the lower bound that the file states",
        f"lower bound  {_decimal(bound.lower_bound, ROUND_FLOOR)}, proved here from the evidence in the file",
        f"incumbent    {incumbent}",
        f"gap          {gap}",
        *(f"note         {note}" for note in bound.notes),
        *([] if bound.exact else ["note         cones were gone through in floating point, all roundings counted"]),
        f"time         {bound.seconds:.2f} s",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a certificate from the command line; the exit status is 0 proven, 1 not proven, 2 not a certificate."""
    parser = argparse.ArgumentParser(description="Prove the lower bound of a certificate again, in exact arithmetic.")
    parser.add_argument("certificate", help="the file")
    parser.add_argument("--data", metavar="FILE", help="your copy of the prepared data: .csv, .json or .npz")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        data = None if options.data is None else _read_data(options.data)
        bound = check(options.certificate, data)
    except (ValueError, OSError) as error:
        print(f"{options.certificate}: {error}", file=sys.stderr)
        return 2
    text = json.dumps(asdict(bound) | {"gap_percent": bound.gap_percent}) if options.json else describe(bound)
    # A terminal need not know every character of the file.
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    return 0 if bound.proven else 1


# ------------------------------------------------------------------------------------ what the statement says


def _check_data(certificate: _Certificate, data: Any) -> str:
    """The data are what the statement says of them."""
    statement, X, y = certificate.statement, certificate.X, certificate.y
    digest = data_digest(X, y)
    if digest != statement["data_sha256"]:
        raise _Rejected(f"the data in the file have sha256 {digest}, its statement says {statement['data_sha256']}")
    if data is not None:
        _compare(X, y, data)
    if statement["loss"] == "logistic":
        for i, label in enumerate(y):
            if abs(label) != 1:
                raise _Rejected(f"the logistic loss needs labels +1 and -1, and y[{i}] is {label!r}")
    if statement["loss"] == "softmax":
        for i, label in enumerate(y):
            if label not in range(statement["outputs"]):
                raise _Rejected(
                    f"the softmax loss needs class numbers 0 to {statement['outputs'] - 1}, and y[{i}] is {label!r}"
                )
    constant = X[0][-1]
    if statement["bias"] == "column" and (constant == 0 or any(row[-1] != constant for row in X)):
        raise _Rejected("the last feature stands for the biases; it must be a constant other than 0, and is not")
    return "no copy of the data was given to compare with" if data is None else "the data are those that were given"


def _compare(X: list[list[float]], y: list[Any], data: Any) -> None:
    several = isinstance(y[0], list)
    try:
        rows, targets = data
        rows, targets = [[_number(entry) for entry in row] for row in rows], list(targets)
        targets = [[_number(entry) for entry in (target if several else [target])] for target in targets]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the data to compare with must be X, rows of numbers, and y, numbers: {error}") from None
    widths = {len(row) for row in rows}
    wanted = [_several(target) for target in y]
    if (len(rows), widths, [*map(len, targets)]) != (len(X), {len(X[0])}, [*map(len, wanted)]):
        raise _Rejected(
            f"the data to compare with are {len(rows)} rows of {sorted(widths)} numbers and {len(targets)} targets, "
            f"those in the file {len(X)} rows of {len(X[0])} numbers"
        )
    for i, (ours, theirs) in enumerate(zip(X, rows, strict=True)):
        for k, (number, other) in enumerate(zip([*ours, *wanted[i]], [*theirs, *targets[i]], strict=True)):
            if number != other:
                place = f"X[{i}][{k}]" if k < len(ours) else f"y[{i}]" + f"[{k - len(ours)}]" * several
                raise _Rejected(f"{place} is {number!r} in the file and {other!r} in the data to compare with")


def _several(target: Any) -> Sequence[float]:
    """The numbers of a target or an output weight: one, or one for each output."""
    return tuple(target) if isinstance(target, Iterable) else (target,)


def _number(value: Any) -> float:
    """A number as it is: an integer must not be rounded before it is compared."""
    try:
        return index(value)
    except TypeError:
        return float(value)


def _check_incumbent(certificate: _Certificate, lower_bound: float) -> str:
    incumbent, network = certificate.statement["incumbent"], certificate.network
    if incumbent is None:
        return "no incumbent is stated"
    if incumbent < lower_bound:
        raise _Rejected(
            f"a contradiction: the incumbent {incumbent!r} is below the lower bound {lower_bound!r} that was proved"
        )
    if network is None and certificate.layers is None:
        return "the incumbent is the word of its writer: the file holds no network"
    products = _network_products(certificate)
    if products > MOST_NETWORK_PRODUCTS:
        return (
            f"the incumbent is the word of its writer: its network takes {products:,} products, and more than "
            f"{MOST_NETWORK_PRODUCTS:,} are not computed"
        )
    value = _network_objective(certificate)
    if value > incumbent:
        raise _Rejected(f"the network in the file has an objective of {value!r}, above the incumbent {incumbent!r}")
    return "the incumbent is the objective of the network in the file, computed again in exact arithmetic, or above it"


def _network_objective(certificate: _Certificate) -> float:
    """That of the network in the file, rounded up; infinity where there is none."""
    statement, X, y, network = certificate.statement, certificate.X, certificate.y, certificate.network
    if certificate.layers is not None:
        return deep_objective(statement, X, y, *certificate.layers)
    return math.inf if network is None else objective(statement, X, y, *network)


def _network_products(certificate: _Certificate) -> int:
    """About how many products the objective of the network takes."""
    n, network, layers = len(certificate.X), certificate.network, certificate.layers
    if layers is not None:
        return deep_products(n, [len(matrix) * len(matrix[0]) for matrix in layers.weights])
    outputs = certificate.statement.get("outputs", 0)
    return len(network[1]) * n * (len(certificate.X[0]) + outputs) if network is not None else 0


def deep_products(samples: int, sizes: Iterable[int]) -> int:
    """About how many products `deep_objective` takes, with so many entries in each matrix; the integers grow."""
    return samples * sum(place * size for place, size in enumerate(sizes, 1))


def _check_claim(certificate: _Certificate, lower_bound: float) -> None:
    claim = certificate.statement["lower_bound"]
    if claim > lower_bound:
        raise _Rejected(
            f"the file claims {claim!r} ({claim.hex()}), its evidence proves {lower_bound!r} ({lower_bound.hex()})"
        )


# ------------------------------------------------------------------------------------ the proof


def _one_output_value(certificate: _Certificate, replay: Replay | None) -> Fraction:
    """What the evidence proves for one output: steps 1 to 7."""
    return _dual_value(certificate, max(_support_bound(certificate, sign, replay) for sign in (1, -1)))


def _dual_value(certificate: _Certificate, H: Fraction) -> Fraction:
    """D(t v) of step 1, with the best t for the squared loss and min(1, weight_decay / H) for the logistic loss."""
    y, v, decay = certificate.y, certificate.v, Fraction(certificate.statement["weight_decay"])
    if certificate.statement["loss"] == "squared":
        return _concave_value(_dot(v, y), _dot(v, v), H, decay)
    t = _below(min(Fraction(1), decay / H)) if H > 0 else Fraction(1)
    probabilities = [Fraction(label) * Fraction(value) for label, value in zip(y, v, strict=True)]
    for i, p in enumerate(probabilities):
        if not 0 <= p <= 1:
            raise _Rejected(f"the logistic loss needs y v in [0, 1]; y[{i}] v[{i}] is {float(p)!r}")
    return sum((_entropy_below(t * p) for p in probabilities), Fraction())


def _concave_value(slope: Fraction, curvature: Fraction, H: Fraction, decay: Fraction) -> Fraction:
    """The value of slope t - curvature t^2 / 2 at its best t >= 0 with t H <= decay, t rounded down."""
    limits = ([decay / H] if H > 0 else []) + ([slope / curvature] if curvature > 0 else [])
    t = _below(max(Fraction(), min(limits, default=Fraction())))
    return t * slope - t * t * curvature / 2


def _support_bound(certificate: _Certificate, sign: int, replay: Replay | None = None) -> Fraction:
    """A number that is at least sign * v'phi(X u) for all |u| = 1: steps 2 to 4, or the section on cones."""
    side, name = certificate.sides[sign], SIGNS[sign]
    if isinstance(side, _Cones):
        if replay is None:
            return _cone_bound(certificate, side.levels, sign)
        slope = float(_slope_below_zero(certificate.statement))
        try:
            return Fraction(replay(certificate.X, certificate.v, slope, sign, side.levels))
        # OverflowError: no finite number was proved.
        except (ValueError, OverflowError) as error:
            raise _Rejected(f"evidence.{name}: {error}") from None
    rho = Fraction(side.rho)
    q = _slope_below_zero(certificate.statement)
    X, bits = _integer_rows(certificate.X)
    W, row_bits = _integer_rows(side.rows)
    v0 = [sign * (1 - q) * Fraction(value) for value in certificate.v]
    terms = _pair_terms(X, side.pairs, v0, f"evidence.{name}.pairs")
    own = _datum_terms(X, side, v0, [_norm(row, bits) for row in X], [_norm(row, row_bits) for row in W])
    for term, value in zip(own, certificate.v, strict=True):
        terms.append(term._replace(linear=term.linear + sign * q * Fraction(value)))
    A, g = _gather(terms, bits)
    _subtract_products(A, X, W, bits + row_bits)
    B = [[rho * (k == j) - entry for j, entry in enumerate(row)] for k, row in enumerate(A)]
    peak = _peak(B, [entry / 2 for entry in g])
    if peak is None:
        raise _Rejected(f"evidence.{name}: rho I - A is not proved positive definite; a larger rho would do")
    return rho + sum((_above(term.constant) for term in terms), Fraction()) + peak


def _slope_below_zero(statement: Mapping[str, Any]) -> Fraction:
    """The q of the activation."""
    slopes: dict[str, Any] = {"relu": 0.0, "leaky_relu": statement.get("slope"), "absolute_value": -1.0}
    return Fraction(float(slopes[statement["activation"]]))


def _pair_terms(X: list[list[int]], pairs: list[_Pair], v0: list[Fraction], name: str) -> list[_Term]:
    """The prices of the pairs of step 2; what they take from v0 and add to it is done to v0."""
    terms = []
    for place, pair in enumerate(pairs):
        if pair.weight < 0 or any(c < 0 for _, c in pair.partners):
            raise _Rejected(f"{name}[{place}]: the weight and the factors of partners must not be negative")
        if pair.weight == 0:
            continue
        if pair.quadratic <= 0:
            raise _Rejected(f"{name}[{place}].quadratic is {pair.quadratic!r}; it must be above 0")
        weight, a, b = (Fraction(number) for number in (pair.weight, pair.quadratic, pair.linear))
        factors, bits = _integers([c for _, c in pair.partners])
        delta = [entry << bits for entry in X[pair.of]]
        v0[pair.of] -= weight
        for (j, c), factor in zip(pair.partners, factors, strict=True):
            v0[j] += weight * Fraction(c)
            delta = [entry - factor * other for entry, other in zip(delta, X[j], strict=True)]
        gamma = max(weight - b, b, Fraction()) ** 2 / (4 * a)
        # The row is 2^bits delta.
        terms.append(_Term(delta, a / (1 << 2 * bits), b / (1 << bits), gamma))
    return terms


def _datum_terms(
    X: list[list[int]], side: _Side, v0: list[Fraction], reaches: list[Fraction], lifts: list[Fraction]
) -> list[_Term]:
    """The majorants of step 3 without their products z w_i'u; reaches and lifts are r and l."""
    terms = []
    for row, value, a, b, reach, lift in zip(X, v0, side.quadratic, side.linear, reaches, lifts, strict=True):
        quadratic, linear = Fraction(a), Fraction(b)
        right = _ray_maximum(value + lift - linear, quadratic, reach)
        left = _ray_maximum(lift + linear, quadratic, reach)
        terms.append(_Term(row, quadratic, linear, max(right, left)))
    return terms


def _ray_maximum(slope: Fraction, curvature: Fraction, reach: Fraction) -> Fraction:
    """The largest value of slope t - curvature t^2 on 0 <= t <= reach."""
    if curvature > 0 and 0 < slope < 2 * curvature * reach:
        return slope**2 / (4 * curvature)
    return max(Fraction(), (slope - curvature * reach) * reach)


def _gather(terms: list[_Term], bits: int) -> tuple[list[list[Fraction]], list[Fraction]]:
    """The lower triangle of A, the sum of quadratic row row', and g, the sum of linear row; exactly."""
    columns = list(zip(*(term.row for term in terms), strict=True))
    quadratics, quadratic_bits = _integers([term.quadratic for term in terms])
    linears, linear_bits = _integers([term.linear for term in terms])
    A = []
    for k, column in enumerate(columns):
        weighted = list(map(mul, quadratics, column))
        sums = [sum(map(mul, weighted, other)) for other in columns[: k + 1]]
        A.append([Fraction(entry, 1 << (quadratic_bits + 2 * bits)) for entry in sums])
    return A, [Fraction(sum(map(mul, linears, column)), 1 << (linear_bits + bits)) for column in columns]


def _subtract_products(A: list[list[Fraction]], X: list[list[int]], W: list[list[int]], bits: int) -> None:
    """Take the sum of (x_i w_i' + w_i x_i') / 2 from the lower triangle A."""
    kept = [(x, w) for x, w in zip(X, W, strict=True) if w]
    if not kept:
        return
    x_columns, w_columns = (list(zip(*(pair[part] for pair in kept), strict=True)) for part in (0, 1))
    for k, row in enumerate(A):
        for j in range(k + 1):
            twice = sum(map(mul, x_columns[k], w_columns[j])) + sum(map(mul, x_columns[j], w_columns[k]))
            row[j] -= Fraction(twice, 2 << bits)


def _peak(B: list[list[Fraction]], half: list[Fraction]) -> Fraction | None:
    """A number e such that M = [B, half; half', e] is positive semidefinite; None where B is not proved to be definite.

    B is given by its lower triangle, d x d. Row and column k of M are divided by 2^scale_k, a power of two that brings
    the diagonal of B into (1/4, 2); that preserves semidefiniteness. Let N be the outcome, in units of 4^-PRECISION,
    and C the lower triangular matrix of integers computed below: the Cholesky factor of N, its entries rounded. C C' is
    positive semidefinite, whatever C. R = N - C C' is diagonally dominant, hence positive semidefinite, and so is N:

    - Below the diagonal, R_ik = N_ik - sum_{j < k} C_ij C_kj - C_ik C_kk, and C_ik is a quotient by C_kk, rounded down.
      N_ik was rounded down before, so 0 <= R_ik < C_kk. And C_kk < 2^(PRECISION + 1), as C_kk^2 < N_kk < 2 4^PRECISION.
    - On the diagonal, C_kk^2 <= N_kk - slack - sum_{j < k} C_kj^2, so R_kk >= slack. In the last row C_dd = 0, and e is
      such that R_dd = slack.
    - A row has d entries beside the diagonal, and slack = d 2^(PRECISION + 1).
    """
    d = len(B)
    if any(B[k][k] <= 0 for k in range(d)):
        return None
    scale = [(_size(B[k][k]) + 1) // 2 for k in range(d)]
    # For the border any scale does; this one makes the slack small beside e, or beside B where half is zero.
    scale.append(max((_size(entry) - scale[k] for k, entry in enumerate(half) if entry), default=max(scale)))
    slack = d << (PRECISION + 1)
    C: list[list[int]] = []
    for i, entries in enumerate([*B, half]):
        row: list[int] = []
        for k in range(min(i, d)):
            rest = _floor(entries[k], 2 * PRECISION - scale[i] - scale[k]) - sum(map(mul, row, C[k]))
            row.append(rest // C[k][k])
        if i < d:
            pivot = _floor(entries[i], 2 * PRECISION - 2 * scale[i]) - slack - sum(map(mul, row, row))
            if pivot <= 0:
                return None
            row.append(math.isqrt(pivot))
        C.append(row)
    return (sum(map(mul, C[d], C[d])) + slack) * Fraction(2) ** (2 * scale[d] - 2 * PRECISION)


# ------------------------------------------------------------------------------------ the proof by cones


class _Cone(NamedTuple):
    """A cone of the search, with what is known of F on it; see the section on cones.

    `generators` are d integer vectors; `linear` holds, for each of them, the part of F that is linear on the cone, and
    `bent` (v0_i, x_i'u for each generator u) for the samples whose positive part is not, all in integer units.
    """

    level: int
    generators: list[list[int]]
    linear: list[int]
    bent: list[tuple[int, list[int]]]


def _cone_bound(certificate: _Certificate, levels: list[str], sign: int) -> Fraction:
    """A number that is at least sign * v'phi(X u) for all |u| = 1: the largest bound on a cone that is not split."""
    name = SIGNS[sign]
    q = _slope_below_zero(certificate.statement)
    X, bits = _integer_rows(certificate.X)
    signed = [sign * Fraction(value) for value in certificate.v]
    factors, factor_bits = _integers([(1 - q) * value for value in signed] + [q * value for value in signed])
    v0, below = factors[: len(X)], factors[len(X) :]
    columns = list(zip(*X, strict=True))
    slope = [sum(map(mul, below, column)) for column in columns]
    # Each cone is followed by what it is split into, so that the cones of a level are met in their order.
    symbols, largest = [iter(level) for level in levels], Fraction()
    todo = [_first_cone(X, v0, slope, place) for place in reversed(range(1 << len(columns)))]
    while todo:
        cone = todo.pop()
        symbol = next(symbols[cone.level])
        if symbol == LEAF:
            largest = max(largest, _largest_on(cone.generators, _chord_values(cone)))
        else:
            first, second = _edges(len(columns))[SYMBOLS.index(symbol) - 1]
            todo += reversed(_split(cone, first, second, name))
    return _root_above(largest) / (1 << (bits + factor_bits))


def _edges(d: int) -> list[tuple[int, int]]:
    """The edges of a cone of d generators, in the order of their symbols."""
    return list(combinations(range(d), 2))


def _first_cone(X: list[list[int]], v0: list[int], slope: list[int], place: int) -> _Cone:
    """The orthant of a number: entry k of its vectors is negative where binary digit k of the number is 1."""
    signs = [-1 if place >> k & 1 else 1 for k in range(len(slope))]
    generators = [[sign * (k == j) for j in range(len(signs))] for k, sign in enumerate(signs)]
    bent = [(value, list(map(mul, signs, row))) for value, row in zip(v0, X, strict=True) if value]
    return _settled(_Cone(0, generators, list(map(mul, signs, slope)), bent))


def _settled(cone: _Cone) -> _Cone:
    """The same cone, the samples that are linear on it taken from `bent`."""
    linear, bent = cone.linear, []
    for value, inner in cone.bent:
        if max(inner) <= 0:
            continue
        if min(inner) >= 0:
            linear = [entry + value * z for entry, z in zip(linear, inner, strict=True)]
        else:
            bent.append((value, inner))
    return cone._replace(linear=linear, bent=bent)


def _split(cone: _Cone, first: int, second: int, name: str) -> list[_Cone]:
    """The two cones that have a u_first + b u_second in place of u_first, and of u_second."""
    sizes = [max(map(abs, cone.generators[k])) for k in (first, second)]
    a, b = (max(1, (2 * other + size) // (2 * size)) for size, other in zip(sizes, reversed(sizes), strict=True))

    def between(values: list[Any]) -> Any:
        return a * values[first] + b * values[second]

    middle = [a * x + b * y for x, y in zip(cone.generators[first], cone.generators[second], strict=True)]
    if max(map(abs, middle)) > LONGEST_GENERATOR:
        raise _Rejected(f"evidence.{name}: cones are split too finely: entries are above {LONGEST_GENERATOR}")
    new = [(value, inner, between(inner)) for value, inner in cone.bent]
    linear = between(cone.linear)
    found = []
    for k in (first, second):
        bent = [(value, [*inner[:k], z, *inner[k + 1 :]]) for value, inner, z in new]
        generators = [*cone.generators[:k], middle, *cone.generators[k + 1 :]]
        there = [*cone.linear[:k], linear, *cone.linear[k + 1 :]]
        found.append(_settled(_Cone(cone.level + 1, generators, there, bent)))
    return found


def _chord_values(cone: _Cone) -> list[int]:
    """The c of the section on cones, for each generator."""
    values = cone.linear
    for value, inner in cone.bent:
        if value > 0:
            values = [entry + value * z if z > 0 else entry for entry, z in zip(values, inner, strict=True)]
        elif sum(inner) > 0:
            values = [entry + value * z for entry, z in zip(values, inner, strict=True)]
    return values


def _largest_on(generators: list[list[int]], values: list[int]) -> Fraction:
    """At least the square of the largest value of sum_k l_k values_k, l_k >= 0 and |sum_k l_k u_k| <= 1, or of 0."""
    if max(values) <= 0:
        return Fraction()
    bounds = []
    # Generators lie in one orthant, so that their sum has a positive product with each of them.
    for w in (*_proposals(generators, values), [sum(column) for column in zip(*generators, strict=True)]):
        inner = [sum(map(mul, u, w)) for u in generators]
        if min(inner) > 0:
            theta = max(Fraction(value, product) for value, product in zip(values, inner, strict=True))
            bounds.append(theta * theta * sum(map(mul, w, w)))
    return min(bounds)


def _proposals(generators: list[list[int]], values: list[int]) -> list[list[int]]:
    """The sum of the normalized generators, and short w with w'u_k >= values_k for most k. Any w will do.

    The others are moved a little towards the first one, so that w'u_k is not zero by chance, or by rounding.
    """
    shift = max(max(map(abs, values)).bit_length() - PROPOSAL_BITS, 0)
    lengths = [math.hypot(*u) for u in generators]
    units = [[entry / length for entry in u] for u, length in zip(generators, lengths, strict=True)]
    targets = [(value >> shift) / length for value, length in zip(values, lengths, strict=True)]
    kept, found = list(range(len(units))), [[sum(column) for column in zip(*units, strict=True)]]
    while True:
        factors = _solve([[sum(map(mul, units[k], units[j])) for j in kept] for k in kept], [targets[k] for k in kept])
        found.append([sum(map(mul, factors, column)) for column in zip(*(units[k] for k in kept), strict=True)])
        positive = [k for k, factor in zip(kept, factors, strict=True) if factor > 0]
        if len(positive) in (0, len(kept)):
            return [_rounded(w, found[0]) for w in found]
        kept = positive


def _rounded(w: list[float], centre: list[float]) -> list[int]:
    """Integers about proportional to w, moved towards a centre; zeros where w is not finite, or zero."""
    size = max(map(abs, w))
    usable = size > 0 and all(map(math.isfinite, w))
    parts = zip(w, centre, strict=True)
    return [round(PROPOSAL_UNIT * (entry / size + INWARD * towards)) if usable else 0 for entry, towards in parts]


def _solve(gram: list[list[float]], targets: list[float]) -> list[float]:
    """Gaussian elimination in floating point; zeros where a pivot is not positive."""
    rows = [[*row, target] for row, target in zip(gram, targets, strict=True)]
    for k, row in enumerate(rows):
        if not row[k] > 0:
            return [0.0] * len(rows)
        for other in rows[k + 1 :]:
            factor = other[k] / row[k]
            for j in range(k + 1, len(other)):
                other[j] -= factor * row[j]
    solution: list[float] = []
    for k, row in reversed(list(enumerate(rows))):
        solution.insert(0, (row[-1] - sum(map(mul, row[k + 1 : -1], solution))) / row[k])
    return solution


# ------------------------------------------------------------------------------------ the proof for several outputs


def _outputs_value(certificate: _Certificate) -> Fraction:
    """What the evidence proves for several outputs: step 8 or 9."""
    V, directions, name = _dual_rows(certificate), certificate.directions, "columns"
    vectors: list[Sequence[Fraction]] = list(zip(*V, strict=True))
    if directions:
        _check_turns(directions)
        vectors, name = [[_dot(row, a) for row in V] for a in directions], "directions"
    supports = []
    for k, (v, sides) in enumerate(zip(vectors, certificate.columns, strict=True)):
        try:
            one = certificate._replace(v=v, sides=sides)
            supports.append(max(_support_bound(one, sign) for sign in (1, -1)))
        except _Rejected as rejection:
            raise _Rejected(f"evidence.{name}[{k}]: {rejection}") from None
    square = _corner_square(directions, supports) if directions else sum((H * H for H in supports), Fraction())
    H = _root_above(square)
    decay = Fraction(certificate.statement["weight_decay"])
    if certificate.statement["loss"] == "squared":
        slope, curvature = (sum(map(_dot, V, other), Fraction()) for other in (certificate.y, V))
        return _concave_value(slope, curvature, H, decay)
    t = _below(min(Fraction(1), decay / H)) if H > 0 else Fraction(1)
    scaled = ([t * Fraction(p) for p in probabilities] for probabilities in certificate.duals)
    return sum((_entropy_below(*probabilities) for probabilities in scaled), Fraction())


def _plane_forms(directions: list[list[float]]) -> list[list[Fraction]]:
    """The c_1, ..., c_{N+1} of step 9."""
    forms = []
    for a in directions:
        first, second, *third = map(Fraction, a)
        forms.append([first - sum(third), second - sum(third)])
    return [*forms, [-entry for entry in forms[0]]]


def _determinant(c: Sequence[Fraction], e: Sequence[Fraction]) -> Fraction:
    return c[0] * e[1] - c[1] * e[0]


def _check_turns(directions: list[list[float]]) -> None:
    """The cones of consecutive directions, the negative of the first one after the last, cover half of the plane."""
    forms = _plane_forms(directions)
    for k, (c, e) in enumerate(pairwise(forms)):
        if _determinant(c, e) <= 0:
            raise _Rejected(
                f"evidence.directions[{k}]: in the plane the turn to the next direction, from the last one to the "
                "negative of the first, must be counterclockwise and less than a half turn, and is not"
            )


def _corner_square(directions: list[list[float]], supports: list[Fraction]) -> Fraction:
    """The largest |w_j|^2 of step 9."""
    forms, bounds, largest = _plane_forms(directions), [*supports, supports[0]], Fraction()
    for k, (c, e) in enumerate(pairwise(forms)):
        unit, here, there = _determinant(c, e), bounds[k], bounds[k + 1]
        w = [(here * e[1] - there * c[1]) / unit, (there * c[0] - here * e[0]) / unit]
        # The last coordinate of three, which sum to zero.
        rest = [-w[0] - w[1]] if len(directions[0]) == 3 else []
        largest = max(largest, _dot([*w, *rest], [*w, *rest]))
    return largest


def _what_outputs_lose(certificate: _Certificate) -> str:
    """In words, beside what the bounds of its vectors lose. The turns are known: this is said of a proven H alone."""
    directions = certificate.directions
    if not directions:
        return (
            "outputs bounded one by one; where they want the same neurons, that loses at worst as much as a "
            f"weight decay over {certificate.statement['outputs']}^(1/2)"
        )
    means = [sum(map(Fraction, a)) / 3 if len(a) == 3 else Fraction() for a in directions]
    seen = [[Fraction(entry) - mean for entry in a] for a, mean in zip(directions, means, strict=True)]
    cosines = []
    for a, b in zip(seen, [*seen[1:], [-entry for entry in seen[0]]], strict=True):
        inner = _dot(a, b)
        size = math.sqrt(inner * inner / (_dot(a, a) * _dot(b, b)))
        cosines.append(size if inner >= 0 else -size)
    lost = 100 * (1 - math.sqrt((1 + min(cosines)) / 2))
    return (
        f"outputs bounded in {len(directions)} directions of the plane, which loses at worst as much as a weight decay "
        f"smaller by {lost:.2g} %"
    )


def _dual_rows(certificate: _Certificate) -> list[list[Fraction]]:
    """V of step 8, a list for each sample."""
    rows = [[Fraction(number) for number in row] for row in certificate.duals]
    if certificate.statement["loss"] == "squared":
        return rows
    V = []
    for i, (probabilities, label) in enumerate(zip(rows, certificate.y, strict=True)):
        left = sum(probabilities, Fraction())
        if any(p < 0 for p in probabilities) or left > 1:
            raise _Rejected(f"evidence.probabilities[{i}] must hold no number below 0 and sum to 1 or less")
        row = [-p for p in probabilities]
        # What onehot - P is at the class itself.
        row.insert(int(label), left)
        V.append(row)
    return V


# ------------------------------------------------------------------------------------ the proof for any depth


def _least_over_norms(certificate: _Certificate, evidence: _Cuts) -> tuple[Fraction, Fraction]:
    """The least value of step 12 over all R >= 0, rounded down, and the R where it is."""
    statement = certificate.statement
    lines = [(Fraction(), Fraction()), *_cut_lines(certificate, evidence)]
    depth, price = statement["depth"], Fraction(statement["weight_decay"]) * statement["depth"] / 2
    # Along the upper envelope of the lines D - R h: from the largest D to ever smaller h, each time the next crossing.
    R, (D, h) = Fraction(), max(lines, key=lambda line: (line[0], -line[1]))
    least = D, R
    while h > 0:
        R, h, D = min(((D - other) / (h - slope), slope, other) for other, slope in lines if slope < h)
        least = min(least, (D - R * h + price * _root_below(R * R, depth), R))
    return least


def _cut_lines(certificate: _Certificate, evidence: _Cuts) -> list[tuple[Fraction, Fraction]]:
    """D(v), rounded down, and h, rounded up, of every cut."""
    X, bits = _integer_rows(certificate.X)
    sigma = Fraction()
    if evidence.spectral_norm is not None:
        sigma = _spectral_norm(X, bits, Fraction(evidence.spectral_norm))
    norms = [_norm(row, bits) for row in X]
    edges = {edge for cut in evidence.cuts for edge in cut.edges}
    lengths = {(i, j): _norm([a - b for a, b in zip(X[i], X[j], strict=True)], bits) for i, j in edges}
    lines = []
    for place, cut in enumerate(evidence.cuts):
        name = f"evidence.cuts[{place}]"
        if cut.together and evidence.spectral_norm is None:
            raise _Rejected(f"{name}.all needs evidence.spectral_norm, which is null")
        if certificate.statement["bias"] == "free" and (cut.each or cut.together):
            raise _Rejected(f"{name}: with free biases only edges hold; each and all must be null")
        integers, unit = _integers([*cut.amounts, *cut.each, *cut.together])
        amounts, rest = integers[: len(cut.amounts)], integers[len(cut.amounts) :]
        each, together = rest[: len(cut.each)], rest[len(cut.each) :]
        h = _weighted(amounts, [lengths[edge] for edge in cut.edges]) + _weighted(each, norms if each else [])
        h = h / (1 << unit) + _norm(together, unit) * sigma
        v = [sum(parts) for parts in zip(each or [0] * len(X), together or [0] * len(X), strict=True)]
        for (i, j), amount in zip(cut.edges, amounts, strict=True):
            v[i] += amount
            v[j] -= amount
        lines.append((_below(_cut_value(certificate, v, unit, name)), _above(h)))
    return lines


def _weighted(amounts: list[int], lengths: list[Fraction]) -> Fraction:
    """The sum of |amount| length, exactly; the lengths are over powers of two."""
    integers, bits = _integers(lengths)
    return Fraction(sum(map(mul, map(abs, amounts), integers)), 1 << bits)


def _spectral_norm(X: list[list[int]], bits: int, sigma: Fraction) -> Fraction:
    """Sigma, which is proved to be at least the largest singular value of X / 2^bits."""
    rows = X if len(X) <= len(X[0]) else list(zip(*X, strict=True))
    B = [
        [sigma**2 * (k == j) - Fraction(sum(map(mul, row, rows[j])), 1 << 2 * bits) for j in range(k + 1)]
        for k, row in enumerate(rows)
    ]
    if sigma < 0 or _peak(B, [Fraction()] * len(B)) is None:
        raise _Rejected("evidence.spectral_norm is not proved to be at least that of X; a larger one would do")
    return sigma


def _cut_value(certificate: _Certificate, v: list[int], bits: int, name: str) -> Fraction:
    """D of v / 2^bits, rounded down."""
    if certificate.statement["loss"] == "squared":
        y, y_bits = _integers(certificate.y)
        return Fraction(sum(map(mul, v, y)), 1 << (bits + y_bits)) - Fraction(sum(map(mul, v, v)), 2 << 2 * bits)
    probabilities = [Fraction(value * int(label), 1 << bits) for value, label in zip(v, certificate.y, strict=True)]
    for i, p in enumerate(probabilities):
        if not 0 <= p <= 1:
            raise _Rejected(f"the logistic loss needs y v in [0, 1]; in {name} it is {float(p)!r} for datum {i}")
    return sum((_entropy_below(p) for p in probabilities), Fraction())


# ------------------------------------------------------------------------------------ numbers


def _integers(numbers: Iterable[float | Fraction]) -> tuple[list[int], int]:
    """Floats, or fractions over powers of two, as integers over 2^bits."""
    ratios = [number.as_integer_ratio() for number in numbers]
    bits = max((denominator.bit_length() - 1 for _, denominator in ratios), default=0)
    return [numerator << (bits + 1 - denominator.bit_length()) for numerator, denominator in ratios], bits


def _integer_rows(rows: Matrix) -> tuple[list[list[int]], int]:
    integers, bits = _integers([float(entry) for row in rows for entry in row])
    entries = iter(integers)
    return [[next(entries) for _ in row] for row in rows], bits


def _dot(left: Sequence[float | Fraction], right: Sequence[float | Fraction]) -> Fraction:
    """The inner product, exactly."""
    return sum((Fraction(a) * Fraction(b) for a, b in zip(left, right, strict=True)), Fraction())


def _root_above(value: Fraction) -> Fraction:
    """The square root, rounded up."""
    product = value.numerator * value.denominator << 2 * PRECISION
    root = math.isqrt(product)
    return Fraction(root + (root * root < product), value.denominator << PRECISION)


def _norm(row: list[int], bits: int) -> Fraction:
    """The Euclidean norm of row / 2^bits, rounded up."""
    square = sum(map(mul, row, row)) << 2 * PRECISION
    root = math.isqrt(square)
    return Fraction(root if root * root == square else root + 1, 1 << (bits + PRECISION))


def _size(value: Fraction) -> int:
    """L such that |value|, not 0, is in (2^(L - 1), 2^(L + 1))."""
    return value.numerator.bit_length() - value.denominator.bit_length()


def _floor(value: Fraction, bits: int) -> int:
    """The integer below 2^bits value."""
    if bits >= 0:
        return (value.numerator << bits) // value.denominator
    return value.numerator // (value.denominator << -bits)


def _below(value: Fraction) -> Fraction:
    """A value rounded down to about PRECISION significant bits."""
    bits = PRECISION - _size(value)
    return _floor(value, bits) * Fraction(2) ** -bits


def _above(value: Fraction) -> Fraction:
    return -_below(-value)


def _root_below(value: Fraction, degree: int) -> Fraction:
    """value^(1 / degree), value >= 0, rounded down to about PRECISION significant bits: Newton's method on integers.

    From any integer that is not below the root of the radicand, the iterates fall until one is its integer part.
    """
    if not value:
        return value
    bits = PRECISION - _size(value) // degree
    radicand = _floor(value, degree * bits)
    root = 1 << -(-radicand.bit_length() // degree)
    while (smaller := ((degree - 1) * root + radicand // root ** (degree - 1)) // degree) < root:
        root = smaller
    return root * Fraction(2) ** -bits


def _float_below(value: Fraction) -> float:
    """The largest float that is not above a value."""
    try:
        nearest = float(value)
    except OverflowError:
        return sys.float_info.max if value > 0 else -math.inf
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


def _float_above(value: Fraction) -> float:
    return -_float_below(-value)


def _atanh_bounds(numerator: int, denominator: int) -> tuple[int, int]:
    """Integers around 2^PRECISION atanh(x), x = numerator / denominator in [0, 1/3]: its series, rounded down and up.

    What is left out of x + x^3 / 3 + x^5 / 5 + ... from the power x^k on is at most x^k / (1 - x^2) < 2 x^k.
    """
    low = (numerator << PRECISION) // denominator
    high = low + 1
    power_low, power_high, lower, upper = low, high, 0, 0
    for k in range(1, PRECISION, 2):
        lower += power_low // k
        upper += power_high // k + 1
        power_low = power_low * low * low >> 2 * PRECISION
        power_high = (power_high * high * high >> 2 * PRECISION) + 1
    return lower, upper + 2 * power_high


_LOG_TWO = tuple(2 * bound for bound in _atanh_bounds(1, 3))
"""Integers around 2^PRECISION log 2."""


def _log_bounds(x: Fraction) -> tuple[Fraction, Fraction]:
    """Numbers around log x, x > 0: x = m 2^e with m in (1/2, 1], and log m = -2 atanh((1 - m) / (1 + m))."""
    e = _size(x)
    e += x > Fraction(2) ** e
    numerator, denominator = x.numerator << max(-e, 0), x.denominator << max(e, 0)
    lower, upper = _atanh_bounds(denominator - numerator, denominator + numerator)
    two_low, two_high = _LOG_TWO if e >= 0 else _LOG_TWO[::-1]
    unit = Fraction(1, 1 << PRECISION)
    return (e * two_low - 2 * upper) * unit, (e * two_high - 2 * lower) * unit


def _exp_above(s: Fraction) -> Fraction:
    """A number above exp(-s), s >= 0, and not far from it where s < 256: one over 2^k exp(s - k log 2) rounded down."""
    k, rest = divmod(_floor(min(s, Fraction(256)), PRECISION), _LOG_TWO[1])
    series, term, n = 0, 1 << PRECISION, 0
    while term:
        series += term
        n += 1
        term = (term * rest >> PRECISION) // n
    return Fraction(1 << PRECISION, series << k)


def _entropy_below(*shares: Fraction) -> Fraction:
    """At most the sum of -p log p over shares p in [0, 1], whose sum is at most 1, and what they leave of 1."""
    every = (*shares, 1 - sum(shares, Fraction()))
    return _below(-sum((x * _log_bounds(x)[1] for x in every if x > 0), Fraction()))


def _loss_above(loss: str, z: list[Fraction], y: list[Fraction]) -> Fraction:
    """At least the loss of one sample.

    log(1 + exp(-s)) = max(-s, 0) + log(1 + exp(-|s|)); log sum_k exp z_k = M + log sum_k exp(z_k - M), M = max_k z_k.
    """
    if loss == "squared":
        return sum(((a - b) ** 2 for a, b in zip(z, y, strict=True)), Fraction()) / 2
    if loss == "logistic":
        s = y[0] * z[0]
        return max(-s, Fraction()) + _log_bounds(1 + _exp_above(abs(s)))[1]
    largest = max(z)
    others = sum((_exp_above(largest - entry) for entry in z), Fraction())
    return largest - z[int(y[0])] + _log_bounds(others)[1]


def _decimal(value: float, rounding: str) -> str:
    return str(Context(12, rounding).create_decimal_from_float(value))


# ------------------------------------------------------------------------------------ reading a certificate


def _read(text: str) -> _Certificate:
    _limit("characters", len(text), MOST_BYTES)
    root = _object(_parse(text), "format statement data evidence network", "the certificate")
    _choice(root["format"], (FORMAT,), "format")
    statement = _read_statement(root["statement"])
    n, d = statement["samples"], statement["features"]
    data = _object(root["data"], "X y", "data")
    X = _matrix(data["X"], n, d, "data.X")
    if statement["network"] == "two_layer_outputs":
        return _read_outputs(root, statement, X, data["y"])
    y = _reals(data["y"], n, "data.y")
    if statement["network"] == "deep":
        cuts, layers = _read_cuts(root["evidence"], n), _read_layers(root["network"], statement)
        _limit("products of integers", _cut_products(cuts, statement), MOST_PRODUCTS)
        return _Certificate(statement, X, y, [], {}, None, lipschitz=cuts, layers=layers)
    evidence = _object(root["evidence"], "kind v plus minus", "evidence")
    _choice(evidence["kind"], ("paired_moments", "cone_search"), "evidence.kind")
    v = _reals(evidence["v"], n, "evidence.v")
    sides: Mapping[int, _Side | _Cones]
    if evidence["kind"] == "cone_search":
        sides = {sign: _read_cones(evidence[name], n, d, f"evidence.{name}") for sign, name in SIGNS.items()}
    else:
        sides = moments = _read_sides(evidence, n, d, "evidence")
        _limit("products of integers", sum(_products(side, n, d) for side in moments.values()), MOST_PRODUCTS)
    return _Certificate(statement, X, y, v, sides, _read_network(root["network"], statement))


def _read_outputs(root: dict[str, Any], statement: dict[str, Any], X: list[list[float]], y: Any) -> _Certificate:
    """The rest of a certificate for several outputs."""
    n, d, K = len(X), len(X[0]), statement["outputs"]
    squared = statement["loss"] == "squared"
    name, width = ("v", K) if squared else ("probabilities", K - 1)
    plane = (statement["loss"], K) in PLANES and "directions" in _keys(root["evidence"])
    parts, keys = ("directions", "direction plus minus") if plane else ("columns", "plus minus")
    evidence = _object(root["evidence"], f"kind {name} {parts}", "evidence")
    _choice(evidence["kind"], ("paired_moments",), "evidence.kind")
    duals = _matrix(evidence[name], n, width, f"evidence.{name}")
    found = _list(evidence[parts], None if plane else K, f"evidence.{parts}")
    if plane and not 1 <= len(found) <= MOST_DIRECTIONS:
        raise NotACertificate(f"evidence.directions has {len(found)} entries; expected 1 to {MOST_DIRECTIONS}")
    columns, directions = [], []
    for k, part in enumerate(found):
        where = f"evidence.{parts}[{k}]"
        columns.append(_read_sides(_object(part, keys, where), n, d, where))
        if plane:
            directions.append(_reals(part["direction"], K, f"{where}.direction"))
    products = sum(_products(side, n, d) for sides in columns for side in sides.values())
    _limit("products of integers", products, MOST_OUTPUTS_PRODUCTS)
    targets: list[Any] = _matrix(y, n, K, "data.y") if squared else _reals(y, n, "data.y")
    network = _read_network(root["network"], statement)
    return _Certificate(statement, X, targets, [], {}, network, duals, columns, directions)


def _read_network(value: Any, statement: dict[str, Any]) -> tuple[list[list[float]], list[Any]] | None:
    if value is None:
        return None
    if statement["incumbent"] is None:
        raise NotACertificate("statement.incumbent is null, so network must be null too")
    network = _object(value, "weights outputs", "network")
    outputs: list[Any] = _list(network["outputs"], None, "network.outputs")
    if statement["network"] == "two_layer_outputs":
        outputs = _matrix(outputs, len(outputs), statement["outputs"], "network.outputs")
    else:
        outputs = _reals(outputs, None, "network.outputs")
    return _matrix(network["weights"], len(outputs), statement["features"], "network.weights"), outputs


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_float=_no_number, parse_constant=_no_number)
    except NotACertificate:
        raise
    except RecursionError:
        raise NotACertificate("nested too deeply") from None
    except ValueError as error:
        raise NotACertificate(f"not JSON, or cut off: {error}") from None


def _read_statement(value: Any) -> dict[str, Any]:
    keys = "network activation loss weight_decay bias samples features data_sha256 lower_bound incumbent preparation"
    reals, deep, several = ["weight_decay", "lower_bound"], False, False
    if isinstance(value, dict):
        deep, several = (value.get("network") == name for name in ("deep", "two_layer_outputs"))
        keys += " depth" * deep + " outputs" * several
        if value.get("activation") == "leaky_relu":
            keys += " slope"
            reals.append("slope")
    statement = dict(_object(value, keys, "statement"))
    if statement["incumbent"] is not None:
        reals.append("incumbent")
    _choice(statement["network"], tuple(LOSSES), "statement.network")
    words = {
        "activation": DEEP_ACTIVATIONS if deep else ACTIVATIONS, "loss": LOSSES[statement["network"]],
        "bias": ("column", "none", "free") if deep else ("column", "none"),
    }  # fmt: skip
    for key, options in words.items():
        _choice(statement[key], options, f"statement.{key}")
    if deep:
        _whole(statement["depth"], 2, MOST_LAYERS, "statement.depth")
    for key in ("samples", "features", *["outputs"] * several):
        _whole(statement[key], 1, MOST_BYTES, f"statement.{key}")
    for key in reals:
        statement[key] = _real(statement[key], f"statement.{key}")
    digest, preparation = statement["data_sha256"], statement["preparation"]
    expected = {
        "weight_decay": (statement["weight_decay"] > 0, "a number above 0"),
        "slope": (0 <= statement.get("slope", 0) < 1, "a number in [0, 1)"),
        "data_sha256": (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest), "64 hexadecimal digits"),
        "preparation": (isinstance(preparation, str) and len(preparation) <= LONGEST_TEXT,
                        f"a text of at most {LONGEST_TEXT:,} characters"),
    }  # fmt: skip
    for key, (holds, what) in expected.items():
        if not holds:
            raise _unexpected(f"statement.{key}", value[key], what)
    return statement


def _read_sides(value: dict[str, Any], n: int, d: int, where: str) -> dict[int, _Side]:
    return {sign: _read_side(value[name], n, d, f"{where}.{name}") for sign, name in SIGNS.items()}


def _read_side(value: Any, n: int, d: int, where: str) -> _Side:
    side = _object(value, "rho quadratic linear pairs rows", where)
    pairs = _list(side["pairs"], None, f"{where}.pairs")
    rows = [None] * n if side["rows"] is None else _list(side["rows"], n, f"{where}.rows")
    return _Side(
        _real(side["rho"], f"{where}.rho"),
        _reals(side["quadratic"], n, f"{where}.quadratic"),
        _reals(side["linear"], n, f"{where}.linear"),
        [_read_pair(pair, n, f"{where}.pairs[{k}]") for k, pair in enumerate(pairs)],
        [[] if row is None else _reals(row, d, f"{where}.rows[{i}]") for i, row in enumerate(rows)],
    )


def _read_cones(value: Any, n: int, d: int, where: str) -> _Cones:
    if d > MOST_CONE_FEATURES:
        raise NotACertificate(f"{where}: cones are for at most {MOST_CONE_FEATURES} features, the data have {d}")
    levels = _list(value, None, where)
    known, expected = SYMBOLS[: 1 + len(_edges(d))], 1 << d
    for level, text in enumerate(levels):
        if not expected:
            raise NotACertificate(f"{where} has {len(levels)} levels; no cone of level {level - 1} is split")
        if not isinstance(text, str) or len(text) != expected or set(text) - set(known):
            raise _unexpected(f"{where}[{level}]", text, f"a text of {expected} characters from {known!r}")
        expected = 2 * (expected - text.count(LEAF))
    if expected:
        raise NotACertificate(f"{where} has {len(levels)} levels; the last one is split into {expected} more cones")
    return _Cones(levels)


def _read_pair(value: Any, n: int, where: str) -> _Pair:
    pair = _object(value, "of partners weight quadratic linear", where)
    of = _whole(pair["of"], 0, n - 1, f"{where}.of")
    partners = []
    for entry in _list(pair["partners"], None, f"{where}.partners"):
        j, c = _list(entry, 2, f"{where}.partners")
        partners.append((_whole(j, 0, n - 1, f"{where}.partners"), _real(c, f"{where}.partners")))
    if len({of, *(j for j, _ in partners)}) <= len(partners):
        raise NotACertificate(f"{where}: partners must differ from each other and from the datum of the pair")
    return _Pair(of, partners, *(_real(pair[key], f"{where}.{key}") for key in ("weight", "quadratic", "linear")))


def _read_cuts(value: Any, n: int) -> _Cuts:
    evidence = _object(value, "kind spectral_norm cuts", "evidence")
    _choice(evidence["kind"], ("lipschitz",), "evidence.kind")
    sigma = evidence["spectral_norm"]
    cuts = _list(evidence["cuts"], None, "evidence.cuts")
    _limit("cuts", len(cuts), MOST_CUTS)
    return _Cuts(
        None if sigma is None else _real(sigma, "evidence.spectral_norm"),
        [_read_cut(cut, n, f"evidence.cuts[{k}]") for k, cut in enumerate(cuts)],
    )


def _read_cut(value: Any, n: int, where: str) -> _Cut:
    cut = _object(value, "edges each all", where)
    edges, amounts = [], []
    for entry in _list(cut["edges"], None, f"{where}.edges"):
        i, j, amount = _list(entry, 3, f"{where}.edges")
        edges.append((_whole(i, 0, n - 1, f"{where}.edges"), _whole(j, 0, n - 1, f"{where}.edges")))
        amounts.append(_real(amount, f"{where}.edges"))
    each, together = ([] if cut[key] is None else _reals(cut[key], n, f"{where}.{key}") for key in ("each", "all"))
    return _Cut(edges, amounts, each, together)


def _cut_products(evidence: _Cuts, statement: Mapping[str, Any]) -> int:
    """About how many products of integers the proof for a deep network takes."""
    n, d, least = statement["samples"], statement["features"], min(statement["samples"], statement["features"])
    edges = sum(len(cut.edges) for cut in evidence.cuts)
    dual_values = n * len(evidence.cuts) * (ENTROPY if statement["loss"] == "logistic" else 2)
    spectral = 0 if evidence.spectral_norm is None else n * d * (least + 1) // 2 + least**3 // 6
    return (n + edges) * d + edges + dual_values + spectral


def _read_layers(value: Any, statement: Mapping[str, Any]) -> _Layers | None:
    if value is None:
        return None
    if statement["incumbent"] is None or statement["activation"] == "tanh":
        why = "statement.incumbent is null" if statement["incumbent"] is None else "tanh is not rational"
        raise NotACertificate(f"{why}, so network must be null too")
    network = _object(value, "weights biases", "network")
    weights, width = [], statement["features"]
    for place, matrix in enumerate(_list(network["weights"], statement["depth"], "network.weights")):
        weights.append(_matrix(matrix, None, width, f"network.weights[{place}]"))
        width = len(weights[-1])
        if not width:
            raise NotACertificate(f"network.weights[{place}] has no row")
    if width != 1:
        raise NotACertificate(f"the last matrix of network.weights has {width} rows; expected 1, the output")
    if network["biases"] is None:
        return _Layers(weights, None)
    if statement["bias"] != "free":
        raise NotACertificate(f"statement.bias is {statement['bias']!r}, so network.biases must be null")
    biases = _list(network["biases"], len(weights), "network.biases")
    where = "network.biases"
    return _Layers(weights, [_reals(b, len(W), where) for b, W in zip(biases, weights, strict=True)])


def _products(side: _Side, n: int, d: int) -> int:
    """About how many products of integers the proof for one sign takes."""
    rows = n + len(side.pairs) + 2 * sum(map(bool, side.rows))
    return rows * d * (d + 3) // 2 + d * sum(len(pair.partners) for pair in side.pairs) + d**3 // 6


def _unexpected(where: str, value: Any, expected: str) -> NotACertificate:
    return NotACertificate(f"{where} is {reprlib.repr(value)}; expected {expected}")


def _limit(what: str, number: int, most: int) -> None:
    if number > most:
        raise NotACertificate(f"too large: {number:,} {what}; at most {most:,} are accepted")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotACertificate("a key stands twice in one object")
    return found


def _no_number(text: str) -> None:
    raise NotACertificate(f"found the number {text[:40]}; real numbers are texts as float.hex() writes them")


def _object(value: Any, keys: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unexpected(where, value, f"an object with the keys {keys}")
    if set(value) != set(keys.split()):
        raise NotACertificate(f"{where} has the keys {reprlib.repr(sorted(value))}; expected {keys}")
    return value


def _list(value: Any, length: int | None, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _unexpected(where, value, "a list")
    if length is not None and len(value) != length:
        raise NotACertificate(f"{where} has {len(value)} entries; expected {length}")
    return value


def _keys(value: Any) -> Iterable[str]:
    return value.keys() if isinstance(value, dict) else ()


def _choice(value: Any, options: tuple[str, ...], where: str) -> None:
    if value not in options:
        raise _unexpected(where, value, " or ".join(options))


def _whole(value: Any, least: int, most: int, where: str) -> int:
    # True is an int too.
    if type(value) is not int or not least <= value <= most:
        raise _unexpected(where, value, f"an integer from {least} to {most}")
    return value


def _real(value: Any, where: str) -> float:
    try:
        number = float.fromhex(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # fromhex reads "10" as 16, and rounds: only what float.hex() writes has one meaning.
    if not math.isfinite(number) or number.hex() != value:
        raise _unexpected(where, value, f"a finite number as float.hex() writes it, such as {(1.5).hex()!r}")
    return number


def _reals(value: Any, length: int | None, where: str) -> list[float]:
    return [_real(entry, where) for entry in _list(value, length, where)]


def _matrix(value: Any, rows: int | None, columns: int, where: str) -> list[list[float]]:
    return [_reals(row, columns, f"{where}[{i}]") for i, row in enumerate(_list(value, rows, where))]


def _plain(text: str) -> str:
    """A text without what would move the cursor of a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


# ------------------------------------------------------------------------------------ reading data


def _read_data(path: str) -> tuple[Any, Any]:
    """X and y of a file: .csv with a header and the target last, .json with keys X and y, or .npz with these arrays."""
    readers = {".csv": _read_csv, ".json": _read_json, ".npz": _read_npz}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is no file of data that can be read; expected one of {', '.join(readers)}")
    try:
        return reader(path)
    # Archives, compressed streams and texts fail in many ways; whichever it is, the data cannot be read.
    except Exception as error:
        raise ValueError(f"the data in {path} cannot be read: {type(error).__name__}: {error}") from None


def _read_csv(path: str) -> tuple[Any, Any]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = [[float(entry) for entry in row] for row in list(csv.reader(file))[1:] if row]
    return [row[:-1] for row in rows], [row[-1] for row in rows]


def _read_json(path: str) -> tuple[Any, Any]:
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content["X"], content["y"]


def _read_npz(path: str) -> tuple[Any, Any]:
    with zipfile.ZipFile(path) as archive:
        X, y = (_read_array(archive.open(f"{name}.npy").read(MOST_BYTES)) for name in "Xy")
    return X, y


def _read_array(content: bytes) -> list[Any]:
    """A numpy array of numbers with one or two axes, from the bytes of its .npy file."""
    size = 2 if content[6] == 1 else 4
    start = 8 + size + int.from_bytes(content[8 : 8 + size], "little")
    header = re.fullmatch(
        r"\{'descr': '([<>|])([fiu][1248])', 'fortran_order': (True|False), 'shape': \((\d+), ?(\d*)\), \}\s*",
        content[8 + size : start].decode("latin-1"),
    )
    if header is None or content[:6] != b"\x93NUMPY":
        raise ValueError("expected arrays X and y of floats or integers, with two axes and one")
    order, kind, fortran, length, width = header.groups()
    code = dict(zip("f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8".split(), "efdbhiqBHIQ", strict=True))[kind]
    n, d = int(length), int(width or 1)
    # Not `order + n d times the code`: the header must not decide how much memory is taken.
    numbers = [number for (number,) in struct.iter_unpack(order.replace("|", "=") + code, content[start:])]
    if len(numbers) != n * d or not numbers:
        raise ValueError(f"an array of {n} x {d} numbers has {len(numbers)}")
    if not width:
        return numbers
    return [numbers[i::n] if fortran == "True" else numbers[i * d : (i + 1) * d] for i in range(n)]


if __name__ == "__main__":
    sys.exit(main())
