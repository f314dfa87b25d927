"""Certificates, as tight as they are found, against thousands of networks, corruptions and orders of the samples.

A false bound is seen where the gap is small. So networks are held against certificates within a few percent of their
incumbents, and corruptions against some within a fifth of a percent; these climb: the next one starts from the last
that raised the bound, as one who wants to prove too much would go on.
"""

from __future__ import annotations

import copy
import json
import math
import struct
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from certificate_files import Content, numbers_of, permuted, places, put
from certificate_problems import KINDS, small_problem

from convexblocks.certificates import Certificate, Incumbent, TwoLayerProblem, certify, train_incumbent
from convexblocks.certificates.certificate import make_certificate
from convexblocks.certificates.checker import NotACertificate, check_text, data_digest, main
from convexblocks.certificates.dual_polish import polish
from convexblocks.certificates.evidence import as_evidence
from convexblocks.certificates.moment_start import first_multipliers
from convexblocks.formulations.sample_pairs import nearest_pairs

NETWORKS = 10_000
"""Of each loss and activation."""
CORRUPTIONS = 1_000
"""Of all losses and activations together."""
CASES = [(*kind, rows) for kind in KINDS for rows in (False, True)]
LARGE, SMALL = (12, 0.15, 3), (8, 0.5, 1)
"""Samples, share of the weight decay and seed of problems; the relaxation is nearly exact for the small one."""
Networks = tuple[np.ndarray, np.ndarray]
"""Weights (networks, neurons, features) and output weights (networks, neurons)."""


@cache
def trained(loss: str, activation: str, size: tuple[int, float, int]) -> tuple[TwoLayerProblem, Incumbent]:
    samples, share, seed = size
    problem = small_problem(loss, activation, samples=samples, features=2, share=share, seed=seed)
    return problem, train_incumbent(problem, seconds=2)


@cache
def tight(loss: str, activation: str, rows: bool, size: tuple[int, float, int] = SMALL) -> Certificate:
    """A certificate as `certify` makes it, its samples with rows or without."""
    problem, incumbent = trained(loss, activation, size)
    pairs = nearest_pairs(problem.X, problem.y, neighbours=3, conic=True)
    start, _ = first_multipliers(problem, pairs, incumbent, 1.0, rows=rows)
    found, _ = polish(problem, pairs, start, 1.0)
    return make_certificate(problem, as_evidence(problem, pairs, found), incumbent, 0.0)


# ------------------------------------------------------------------------------------ networks


def objectives(problem: TwoLayerProblem, weights: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Training objectives of many networks at once, written again here: (networks,)."""
    hidden = problem.phi(np.einsum("nd,bmd->bnm", problem.X, weights))
    z = np.einsum("bnm,bm->bn", hidden, outputs)
    losses = (z - problem.y) ** 2 / 2 if problem.loss == "squared" else np.logaddexp(0, -problem.y * z)
    squares = (weights**2).sum((1, 2)) + (outputs**2).sum(1)
    return losses.sum(1) + problem.weight_decay / 2 * squares


def drawn(problem: TwoLayerProblem, rng: np.random.Generator, count: int) -> Networks:
    """Random networks of up to 8 neurons, of many sizes."""
    sizes = 10.0 ** rng.uniform(-3, 0.5, (count, 1, 1))
    used = np.arange(8) < rng.integers(1, 9, (count, 1))
    weights = sizes * used[..., None] * rng.standard_normal((count, 8, problem.X.shape[1]))
    return weights, sizes[..., 0] * used * rng.standard_normal((count, 8))


def disturbed(incumbent: Incumbent, rng: np.random.Generator, count: int) -> Networks:
    """The incumbent with relative noise from 1e-8 to 3, or some neurons left out, or all rescaled."""
    noise = 10.0 ** rng.uniform(-8, 0.5, (count, 1, 1))
    size = float(np.abs(incumbent.weights).mean())
    weights = incumbent.weights + size * noise * rng.standard_normal((count, *incumbent.weights.shape))
    outputs = incumbent.outputs + size * noise[..., 0] * rng.standard_normal((count, len(incumbent.outputs)))
    kept = (rng.random((count, len(incumbent.outputs))) < 0.7) | (rng.random((count, 1)) < 0.7)
    scale = np.exp(0.2 * rng.standard_normal((count, 1)) * (rng.random((count, 1)) < 0.3))
    return weights * (kept * scale)[..., None], outputs * kept * scale


def short_runs(problem: TwoLayerProblem, rng: np.random.Generator, count: int, snapshots: int) -> Networks:
    """Networks on their way: `count` runs of Adam side by side, `snapshots` of each."""
    start = drawn(problem, rng, count)
    parts = [torch.tensor(part, requires_grad=True) for part in start]
    X, y, (p, q) = torch.as_tensor(problem.X), torch.as_tensor(problem.y), problem.coefficients
    optimizer = torch.optim.Adam(parts, lr=0.03)
    kept = []
    for step in range(40 * snapshots):
        weights, outputs = parts
        inner = torch.einsum("nd,bmd->bnm", X, weights)
        z = torch.einsum("bnm,bm->bn", p * torch.relu(inner) + q * inner, outputs)
        loss = (z - y).square() / 2 if problem.loss == "squared" else torch.nn.functional.softplus(-y * z)
        penalty = problem.weight_decay / 2 * (weights.square().sum() + outputs.square().sum())
        optimizer.zero_grad()
        (loss.sum() + penalty).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 40 == 39:
            kept.append([part.detach().numpy().copy() for part in parts])
    weights, outputs = (np.concatenate(part) for part in zip(*kept, strict=True))
    return weights, outputs


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "activation"), KINDS)
def test_ten_thousand_networks_are_above_the_certificate(loss: str, activation: str) -> None:
    problem, incumbent = trained(loss, activation, LARGE)
    bound = max(tight(loss, activation, rows, LARGE).lower_bound for rows in (False, True))
    rng = np.random.default_rng(0)
    groups = {
        "drawn": drawn(problem, rng, NETWORKS // 4),
        "disturbed": disturbed(incumbent, rng, NETWORKS // 2),
        "short runs": short_runs(problem, rng, NETWORKS // 40, 10),
    }
    assert sum(len(outputs) for _, outputs in groups.values()) == NETWORKS
    least = {name: float(objectives(problem, *networks).min()) for name, networks in groups.items()}
    assert min(least.values()) >= bound, least
    # The networks come close enough for that to mean something.
    assert least["disturbed"] <= incumbent.objective * (1 + 1e-6)
    assert least["short runs"] <= 1.02 * incumbent.objective
    assert incumbent.objective <= 1.05 * bound


# ------------------------------------------------------------------------------------ corruptions

Corruption = Callable[[Content, np.random.Generator], None]


def number(content: Content, rng: np.random.Generator) -> tuple[str | int, ...]:
    """The place of a number of the evidence; pairs have most of them, and get half."""
    found = [path for path in places(content) if path != ("kind",)]
    in_pairs = [path for path in found if "pairs" in path]
    chosen = in_pairs if in_pairs and rng.random() < 0.5 else found
    return chosen[int(rng.integers(len(chosen)))]


def scaled(content: Content, rng: np.random.Generator) -> None:
    factor = float(rng.choice([-1.0, 0.0, 0.5, 2.0, 1e-300, 1e9, 1 + 1e-9, 1 - 1e-9, np.exp(rng.standard_normal())]))
    put(content, number(content, rng), lambda x: x * factor)


def shifted(content: Content, rng: np.random.Generator) -> None:
    step = float(rng.standard_normal() * 10.0 ** rng.uniform(-6, 1))
    put(content, number(content, rng), lambda x: x + step)


def flipped(content: Content, rng: np.random.Generator) -> None:
    """One bit of a float."""
    bit = 1 << int(rng.integers(64))

    def change(x: float) -> float:
        (other,) = struct.unpack("<d", struct.pack("<Q", struct.unpack("<Q", struct.pack("<d", x))[0] ^ bit))
        return float(other) if math.isfinite(other) else -x

    put(content, number(content, rng), change)


def exchanged(content: Content, rng: np.random.Generator) -> None:
    """Two numbers change places."""
    first, second = number(content, rng), number(content, rng)
    values: list[float] = []
    for path in (first, second):
        put(content, path, lambda x: values.append(x) or x)  # type: ignore[func-returns-value]
    put(content, first, lambda _: values[1])
    put(content, second, lambda _: values[0])


def sides_exchanged(content: Content, rng: np.random.Generator) -> None:
    content["plus"], content["minus"] = content["minus"], content["plus"]


def _side(content: Content, rng: np.random.Generator) -> Content:
    side: Content = content[str(rng.choice(["plus", "minus"]))]
    return side


def pair_moved(content: Content, rng: np.random.Generator) -> None:
    """A pair of another datum, or with another partner."""
    pairs, n = _side(content, rng)["pairs"], len(content["v"])
    if pairs:
        pair = pairs[int(rng.integers(len(pairs)))]
        if rng.random() < 0.5 or not pair["partners"]:
            pair["of"] = int(rng.integers(n))
        else:
            pair["partners"][int(rng.integers(len(pair["partners"])))][0] = int(rng.integers(n))


def pair_lost(content: Content, rng: np.random.Generator) -> None:
    pairs = _side(content, rng)["pairs"]
    if pairs:
        pairs.pop(int(rng.integers(len(pairs))))


def pair_added(content: Content, rng: np.random.Generator) -> None:
    """A pair with any numbers, also such that no pair may have."""
    of, partner = rng.choice(len(content["v"]), 2, replace=False).tolist()
    size = 10.0 ** rng.uniform(-4, 0)
    factor, weight, quadratic, linear = size * rng.standard_normal(4) / (size, 1, 1, 1)
    _side(content, rng)["pairs"].append({
        "of": of, "partners": [[partner, float(factor).hex()]],
        **{key: float(value).hex() for key, value in
           (("weight", weight), ("quadratic", quadratic), ("linear", linear))},
    })  # fmt: skip


def row_lost(content: Content, rng: np.random.Generator) -> None:
    side = _side(content, rng)
    if side["rows"] is not None:
        side["rows"][int(rng.integers(len(side["rows"])))] = None


def row_added(content: Content, rng: np.random.Generator) -> None:
    side, n = _side(content, rng), len(content["v"])
    if side["rows"] is None:
        side["rows"] = [None] * n
    w = 10.0 ** rng.uniform(-4, 0) * rng.standard_normal(2)
    side["rows"][int(rng.integers(n))] = [float(entry).hex() for entry in w]


def all_disturbed(content: Content, rng: np.random.Generator) -> None:
    """Every number a little."""
    size = 10.0 ** rng.uniform(-9, -1)
    for path in places(content):
        if path != ("kind",):
            put(content, path, lambda x: x * float(1 + size * rng.standard_normal()))


CORRUPT: tuple[Corruption, ...] = (
    scaled, shifted, flipped, exchanged, sides_exchanged, pair_moved, pair_lost, pair_added, row_lost, row_added,
    all_disturbed,
)  # fmt: skip


@pytest.mark.slow
def test_a_thousand_corruptions_prove_nothing_above_the_incumbent() -> None:
    seen: Counter[str] = Counter()
    for case in CASES:
        made, (_, incumbent) = tight(*case), trained(*case[:2], SMALL)
        best, bound_of_best = bare(made.text), made.lower_bound
        rng = np.random.default_rng(len(made.text))
        for _ in range(-(-CORRUPTIONS // len(CASES))):
            content = copy.deepcopy(best)
            for corruption in rng.choice(len(CORRUPT), int(rng.choice([1, 1, 2, 3]))):
                CORRUPT[corruption](content["evidence"], rng)
            try:
                bound = check_text(json.dumps(content))
            except NotACertificate:
                seen["no certificate"] += 1
                continue
            assert 0 <= bound.lower_bound <= incumbent.objective, case
            seen["rejected" if not bound.proven else "weaker" if bound.lower_bound < bound_of_best else "as good"] += 1
            if bound.lower_bound >= bound_of_best:
                best, bound_of_best = content, bound.lower_bound
    assert sum(seen.values()) >= CORRUPTIONS
    assert min(seen[answer] for answer in ("rejected", "weaker", "as good")) > CORRUPTIONS // 50, seen


def bare(text: str) -> Content:
    """A certificate whose claim and incumbent reject nothing: what is proven is what counts."""
    content: Content = json.loads(text)
    content["statement"] |= {"lower_bound": (0.0).hex(), "incumbent": None}
    return content | {"network": None}


# ------------------------------------------------------------------------------------ the statement


def said(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *data: str) -> tuple[int, str]:
    """Exit code and what the checker prints, the time left out."""
    path = tmp_path / "certificate.json"
    path.write_text(text, encoding="utf-8")
    code = main([str(path), *data])
    return code, capsys.readouterr().out.rpartition("time ")[0]


@pytest.mark.slow
def test_corrupted_data_and_problems_are_shown_and_caught(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case in CASES:
        made = tight(*case)
        X, y = numbers_of(json.loads(made.text))
        np.savez(tmp_path / "data.npz", X=np.array(X), y=np.array(y))
        data = ("--data", str(tmp_path / "data.npz"))
        proven, original = said(made.text, tmp_path, capsys, *data)
        assert proven == 0
        rng = np.random.default_rng(len(made.text))
        for field in ("weight_decay", "loss", *("X", "y") * 4):
            content = bare(made.text)
            if field == "weight_decay":
                put(content, ("statement", field), lambda x: math.nextafter(x, math.inf))
            elif field == "loss":
                content["statement"][field] = "logistic" if case[0] == "squared" else "squared"
            else:
                chosen = [path for path in places(content["data"]) if path[0] == field]
                put(content["data"], chosen[int(rng.integers(len(chosen)))], lambda x: math.nextafter(x, math.inf))
                # Whoever corrupts the data mends the hash.
                content["statement"]["data_sha256"] = data_digest(*numbers_of(content))
                assert said(json.dumps(content), tmp_path, capsys, *data)[0] == 1
            text = json.dumps(content)
            lines = said(text, tmp_path, capsys, *data)[1].splitlines()
            word = {"weight_decay": "penalty", "loss": "loss"}.get(field, "data")
            before, after = ([line for line in some if line.startswith(f"{word} ")] for some in
                             (original.splitlines(), lines))  # fmt: skip
            assert len(before) == len(after) == 1
            assert before != after


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_the_samples_does_not_matter(case: tuple[str, str, bool]) -> None:
    made, rng = tight(*case), np.random.default_rng(0)
    content = json.loads(made.text)
    for _ in range(10):
        bound = check_text(json.dumps(permuted(content, rng.permutation(len(content["data"]["y"])).tolist())))
        assert bound.proven
        assert bound.lower_bound == made.lower_bound


# ------------------------------------------------------------------------------------ one feature


def closed_form(x: np.ndarray, y: np.ndarray, decay: float, activation: str) -> float:
    """The least objective with one feature and the squared loss.

    Neurons are +1 and -1. Those of the ReLU see different samples, those of the absolute value are the same; so what is
    left is min over c of |c h - y|^2 / 2 + decay |c| for each hidden feature h alone.
    """
    hidden = [np.abs(x)] if activation == "absolute_value" else [np.maximum(x, 0), np.maximum(-x, 0)]
    savings = [max(0.0, abs(float(h @ y)) - decay) ** 2 / (2 * float(h @ h)) for h in hidden if h.any()]
    return float(y @ y) / 2 - sum(savings)


@pytest.mark.parametrize("activation", ["relu", "absolute_value"])
@pytest.mark.parametrize("seed", range(5))
def test_one_feature_agrees_with_the_closed_form(activation: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, signs = rng.standard_normal(10), rng.choice([-1.0, 1.0], 2)
    y = np.where(x > 0, signs[0], signs[1]) * np.abs(x) * 2 + 0.5 * rng.standard_normal(10)
    problem = TwoLayerProblem(x[:, None], y, "squared", 0.3 * float(np.abs(x) @ np.abs(y)) / 2, activation)
    optimum = closed_form(x, y, problem.weight_decay, activation)
    made = certify(problem, seconds=1.5)
    assert made.lower_bound <= optimum * (1 + 1e-14)
    assert made.lower_bound == pytest.approx(optimum, rel=5e-3)
    assert made.incumbent == pytest.approx(optimum, rel=1e-9)
