"""Cones: every tree is a proof, searched ones are sharp, floating point agrees with exact arithmetic, tampering."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from certificate_problems import random_network, small_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from convexblocks.certificates import Certificate, TwoLayerProblem, certificate, certify, checker, cone_search
from convexblocks.certificates.certificate import make_certificate, prove
from convexblocks.certificates.checker import NotACertificate, TooManyCones, check_text
from convexblocks.certificates.cone_replay import replay
from convexblocks.certificates.cone_search import Cones, search_cones
from convexblocks.certificates.evidence import SIGNS
from convexblocks.certificates.incumbent import train_incumbent
from convexblocks.certificates.support import worst_neurons
from convexblocks.commands.main import app
from convexblocks.formulations import UsageError

Levels = list[str]
ACTIVATIONS = ("relu", "leaky_relu", "absolute_value")
HUGE, TINY = 1.7e308, 5e-324


# ------------------------------------------------------------------------------------ problems and trees made here


def drawn(activation: str, features: int, seed: int, samples: int = 8) -> tuple[TwoLayerProblem, np.ndarray]:
    """Data and a v, one of whose entries is zero."""
    rng = np.random.default_rng(seed)
    problem = TwoLayerProblem(
        rng.standard_normal((samples, features)), rng.standard_normal(samples), "squared", 0.5, activation, 0.2
    )
    v = rng.standard_normal(samples)
    v[rng.integers(samples)] = 0.0
    return problem, v


def any_tree(features: int, seed: int, splits: int = 40) -> Levels:
    """A well-formed tree that knows nothing of the data."""
    rng = np.random.default_rng(seed)
    edges, levels, width = features * (features - 1) // 2, [], 1 << features
    while width:
        split = (rng.random(width) < 0.5) & (edges > 0) & (np.arange(width) < splits)
        splits -= int(split.sum())
        chosen = np.where(split, rng.integers(1, max(edges, 1) + 1, width), 0)
        levels.append("".join(checker.SYMBOLS[k] for k in chosen))
        width = 2 * int(split.sum())
    return levels


def made_of(problem: TwoLayerProblem, v: np.ndarray, plus: Any, minus: Any) -> dict[str, Any]:
    """The certificate, which claims nothing."""
    evidence = {"kind": "cone_search", "v": [float(entry).hex() for entry in v], "plus": plus, "minus": minus}
    return certificate._content(problem, evidence, None)


def exact(problem: TwoLayerProblem, v: np.ndarray, levels: Levels, sign: float) -> float:
    content = made_of(problem, v, levels, levels)
    return checker._float_above(checker._cone_bound(checker._read(json.dumps(content)), levels, int(sign)))


def floating(problem: TwoLayerProblem, v: np.ndarray, levels: Levels, sign: float) -> float:
    return replay(problem.X.tolist(), v.tolist(), problem.coefficients[1], int(sign), levels)


def reached(problem: TwoLayerProblem, v: np.ndarray, sign: float, seed: int = 0) -> float:
    """The largest value of sign v'phi(Xu) at random directions u, at the axes, and where ascents end."""
    U = np.random.default_rng(seed).standard_normal((4_000, problem.X.shape[1]))
    axes = np.eye(problem.X.shape[1])
    U = np.vstack([U / np.linalg.norm(U, axis=1, keepdims=True), axes, -axes])
    found = worst_neurons(problem, v, count=16)
    values = sign * (problem.phi(U @ problem.X.T) @ v)
    return max(float(values.max()), float(found.values[found.signs == sign].max()))


def searched(problem: TwoLayerProblem, v: np.ndarray, sign: float, threshold: float) -> Cones:
    p, q = problem.coefficients
    tree = search_cones(problem.X, sign * p * v, sign * q * (problem.X.T @ v), threshold)
    assert tree is not None
    return tree


# ------------------------------------------------------------------------------------ every tree is a proof


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(ACTIVATIONS), st.integers(1, 4), st.integers(0, 10_000))
def test_every_tree_bounds_all_neurons(activation: str, features: int, seed: int) -> None:
    problem, v = drawn(activation, features, seed)
    levels = any_tree(features, seed)
    for sign in SIGNS:
        bound = exact(problem, v, levels, sign)
        rounding = 1e-14 * float((np.abs(v) @ np.abs(problem.X)).sum())
        assert bound >= reached(problem, v, sign, seed) - rounding
        again = floating(problem, v, levels, sign)
        assert again >= reached(problem, v, sign, seed)
        # Near a degenerate cone the vectors w differ by more than rounding, and all of them are valid.
        assert again == pytest.approx(bound, rel=1e-10, abs=1e-10)


def leaves(levels: Levels, features: int) -> list[np.ndarray]:
    """The cones that are not split, their generators as rows: the file as checker.py describes it, read slowly."""
    edges = list(itertools.combinations(range(features), 2))
    level = [
        np.diag([-1.0 if place >> k & 1 else 1.0 for k in range(features)]) for place in range(1 << features)
    ]
    found = []
    for symbols in levels:
        following = []
        for cone, symbol in zip(level, symbols, strict=True):
            if symbol == "0":
                found.append(cone)
                continue
            j, k = edges["0123456789".index(symbol) - 1]
            sizes = [int(np.abs(cone[place]).max()) for place in (j, k)]
            a, b = (max(1, (2 * other + size) // (2 * size)) for size, other in (sizes, sizes[::-1]))
            for place in (j, k):
                child = cone.copy()
                child[place] = a * cone[j] + b * cone[k]
                following.append(child)
        level = following
    assert not level
    return found


@pytest.mark.parametrize("features", [2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_bound_is_the_optimum_of_the_model_on_some_cone(activation: str, features: int) -> None:
    problem, v = drawn(activation, features, 1)
    levels, (p, q) = any_tree(features, 3, splits=8), problem.coefficients
    for sign in SIGNS:
        optima, v0 = [0.0], sign * p * v
        for U in leaves(levels, features):
            inner = problem.X @ U.T
            chords = np.where((v0 > 0)[:, None], np.maximum(inner, 0), inner * (inner.sum(1) > 0)[:, None])
            # Below its kink a sample of negative weight is zero, above it linear, on the whole cone.
            chords = np.where((inner.min(1) >= 0)[:, None], inner, chords) * (inner.max(1) > 0)[:, None]
            c, weights = v0 @ chords + sign * q * (v @ inner), cp.Variable(features, nonneg=True)
            program = cp.Problem(cp.Maximize(c @ weights), [cp.norm(U.T @ weights) <= 1])
            optima.append(float(program.solve(solver=cp.CLARABEL)))
        assert exact(problem, v, levels, sign) == pytest.approx(max(optima), rel=1e-6)


@pytest.mark.parametrize("features", [2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_searched_tree_is_sharp(activation: str, features: int) -> None:
    problem, v = drawn(activation, features, 5, samples=15)
    for sign in SIGNS:
        best = max(reached(problem, v, sign), 0.01)
        tree = searched(problem, v, sign, 1.001 * best)
        assert tree.bound <= 1.001 * best
        bound = exact(problem, v, tree.levels, sign)
        assert best * (1 - 1e-13) <= max(bound, 0.01)
        # The search looks for a better w only where the bound is above the threshold.
        assert bound <= tree.bound * (1 + 1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_on_a_line_bounds_are_exact(activation: str) -> None:
    problem, v = drawn(activation, 1, 2)
    for sign in SIGNS:
        wanted = max(0.0, *(float(sign * (v @ problem.phi(end * problem.X[:, 0]))) for end in (1, -1)))
        tree = searched(problem, v, sign, 1.001 * wanted + 1e-9)
        assert tree.levels == ["00"]
        assert exact(problem, v, tree.levels, sign) == pytest.approx(wanted, rel=1e-12)
        assert floating(problem, v, tree.levels, sign) == pytest.approx(wanted, rel=1e-12, abs=1e-140)
    # There is nothing to split.
    assert search_cones(problem.X, v, 0 * problem.X[0], 1e-9) is None


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_margins_cover_all_roundings(activation: str) -> None:
    """On a line nothing but rounding is between the two, and terms of opposite signs cancel."""
    for seed in range(50):
        problem, v = drawn(activation, 1, seed, samples=60)
        for sign in SIGNS:
            assert floating(problem, v, ["00"], sign) >= exact(problem, v, ["00"], sign)


def test_the_order_of_samples_does_not_matter() -> None:
    problem, v = drawn("leaky_relu", 3, 4)
    order, levels = np.random.default_rng(0).permutation(len(v)), any_tree(3, 4)
    other = TwoLayerProblem(problem.X[order], problem.y[order], "squared", 0.5, "leaky_relu", 0.2)
    for sign in SIGNS:
        assert exact(problem, v, levels, sign) == exact(other, v[order], levels, sign)


def test_how_many_cones_are_worked_off_together_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, v = drawn("relu", 3, 6)
    threshold = 1.001 * reached(problem, v, 1.0)
    tree = searched(problem, v, 1.0, threshold)
    value = floating(problem, v, tree.levels, 1.0)
    monkeypatch.setattr(cone_search, "together", lambda samples: 3)
    monkeypatch.setattr("convexblocks.certificates.cone_replay.together", lambda samples: 3)
    assert searched(problem, v, 1.0, threshold).levels == tree.levels
    assert floating(problem, v, tree.levels, 1.0) == pytest.approx(value, rel=1e-13)


def test_a_search_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, v = drawn("relu", 3, 6)
    best, nothing = reached(problem, v, 1.0), np.zeros(3)
    assert search_cones(problem.X, v, nothing, 1.001 * best, deadline=0.0) is None
    monkeypatch.setattr(cone_search, "MOST_CONES", 20)
    assert search_cones(problem.X, v, nothing, 1.001 * best) is None


def test_a_threshold_that_is_passed_is_never_met() -> None:
    problem, v = drawn("relu", 2, 6)
    assert search_cones(problem.X, v, np.zeros(2), 0.99 * reached(problem, v, 1.0)) is None


# ------------------------------------------------------------------------------------ hard numbers


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_exact_arithmetic_takes_the_largest_and_the_smallest_floats(activation: str) -> None:
    rng = np.random.default_rng(0)
    for features in (1, 2, 3):
        for slope in (TINY, 1 - 2**-53):
            values = [HUGE, -HUGE, TINY, -1e-310, 0.0, 1.0, -3e200]
            X, v = rng.choice(values, (6, features)), rng.choice(values, 6)
            problem = TwoLayerProblem(X, np.ones(6), "squared", 1.0, activation, slope)
            levels, q = any_tree(features, 1), Fraction(problem.coefficients[1])
            content = json.dumps(made_of(problem, v, levels, levels))
            assert check_text(content).lower_bound >= 0
            for sign, k, end in itertools.product((1, -1), range(features), (1, -1)):
                inner = [end * Fraction(entry) for entry in X[:, k].tolist()]
                value = sum(Fraction(w) * (z if z > 0 else q * z) for w, z in zip(v.tolist(), inner, strict=True))
                assert checker._cone_bound(checker._read(content), levels, sign) >= sign * value


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_badly_scaled_data_in_floating_point(activation: str) -> None:
    for features, seed in itertools.product((2, 3, 4), range(4)):
        problem, v = drawn(activation, features, seed)
        rng = np.random.default_rng(seed)
        X = problem.X * 10.0 ** rng.permutation(np.linspace(-8, 8, features))
        problem = TwoLayerProblem(X, problem.y, "squared", 0.5, activation, 0.2)
        v = v * 10.0 ** rng.uniform(-8, 8, len(v))
        for sign in SIGNS:
            bound, wanted = (way(problem, v, any_tree(features, seed), sign) for way in (floating, exact))
            assert bound >= reached(problem, v, sign)
            # Terms that cancel leave their margins.
            margin = 1e-12 * float((np.abs(v) @ np.abs(X)).sum())
            assert wanted * (1 - 1e-12) <= bound <= wanted * (1 + 1e-9) + margin


@pytest.mark.parametrize(("place", "value"), [("X", 1e61), ("X", 1e-61), ("v", -1e61), ("v", 1e-310)])
def test_floating_point_refuses_numbers_without_margins(place: str, value: float) -> None:
    problem, v = drawn("relu", 2, 0)
    (v if place == "v" else problem.X[0])[0] = value
    content = made_of(problem, v, ["0000"], ["0000"])
    bound = check_text(json.dumps(content), replay=replay)
    assert not bound.proven
    assert "evidence.plus: the data or v have entries outside of 1e-60 to 1e+60" in bound.reason
    assert check_text(json.dumps(content)).proven


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_no_finite_number_proves_nothing(value: float) -> None:
    problem, v = drawn("relu", 2, 0)
    bound = check_text(json.dumps(made_of(problem, v, ["0000"], ["0000"])), replay=lambda *_: value)
    assert not bound.proven
    assert bound.lower_bound == 0


@pytest.mark.parametrize("proved", [check_text, lambda text: check_text(text, replay=replay)])
def test_cones_that_are_split_too_finely(proved: Callable[[str], Any]) -> None:
    problem, v = drawn("relu", 2, 0)
    levels = ["1000", *["10"] * 60, "00"]
    bound = proved(json.dumps(made_of(problem, v, levels, ["0000"])))
    assert not bound.proven
    assert "evidence.plus: cones are split too finely" in bound.reason


# ------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], r"evidence.plus has 0 levels; the last one is split into 4 more cones"),
        (["1000"], "has 1 levels; the last one is split into 2 more cones"),
        (["000"], r"evidence.plus\[0\] is '000'; expected a text of 4 characters from '01'"),
        (["00000"], "expected a text of 4 characters"),
        (["1000", "000"], r"evidence.plus\[1\] is '000'; expected a text of 2 characters"),
        (["2000", "00"], "from '01'"),
        (["000٠"], "from '01'"),
        (["0000", "00"], "has 2 levels; no cone of level 0 is split"),
        (["0000", ""], "has 2 levels; no cone of level 0 is split"),
        ([["0", "0", "0", "0"]], "expected a text of 4 characters"),
        ([None], "expected a text of 4 characters"),
        ([0], "expected a text of 4 characters"),
        ("0000", "expected a list"),
        (None, "expected a list"),
    ],
)
def test_trees_that_are_none(levels: Any, message: str) -> None:
    problem, v = drawn("relu", 2, 0)
    with pytest.raises(NotACertificate, match=message):
        check_text(json.dumps(made_of(problem, v, levels, ["0000"])))


def test_cones_have_few_features() -> None:
    problem, v = drawn("relu", 9, 0)
    with pytest.raises(NotACertificate, match="at most 8 features, the data have 9"):
        check_text(json.dumps(made_of(problem, v, ["0" * 512], ["0" * 512])))


@pytest.fixture(scope="module")
def certified() -> tuple[TwoLayerProblem, Certificate]:
    problem = small_problem(samples=20, share=0.3)
    return problem, certify(problem, seconds=3, method="cone_search")


def test_cones_are_sharp(certified: tuple[TwoLayerProblem, Certificate]) -> None:
    _, made = certified
    assert json.loads(made.text)["evidence"]["kind"] == "cone_search"
    assert made.bound.proven
    assert made.bound.exact
    assert 0 < made.gap_percent < 0.5


def test_no_network_falls_below_it(certified: tuple[TwoLayerProblem, Certificate]) -> None:
    problem, made = certified
    rng = np.random.default_rng(1)
    assert all(problem.objective(*random_network(problem, rng)) >= made.lower_bound for _ in range(1_000))
    best = train_incumbent(problem, seconds=1, random_state=7)
    for scale in np.linspace(0.8, 1.2, 21):
        assert problem.objective(scale * best.weights, scale * best.outputs) >= made.lower_bound


def test_a_bare_interpreter_proves_it(certified: tuple[TwoLayerProblem, Certificate], tmp_path: Path) -> None:
    path = certified[1].write(tmp_path / "cert.json")
    command = [sys.executable, "-I", "-S", str(checker.__file__), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PROVEN in exact arithmetic")


def test_floating_point_proves_nearly_as_much(certified: tuple[TwoLayerProblem, Certificate]) -> None:
    text = certified[1].text.replace(certified[1].lower_bound.hex(), (0.0).hex())
    bound, other = check_text(text), check_text(text, replay=replay)
    assert bound.exact
    assert not other.exact
    assert bound.lower_bound * (1 - 1e-9) <= other.lower_bound <= bound.lower_bound * (1 + 1e-12)


def corrupted(content: dict[str, Any], rng: np.random.Generator) -> None:
    """Swap, move or change symbols: the tree often stays well formed."""
    evidence = content["evidence"]
    if rng.random() < 0.1:
        evidence["plus"], evidence["minus"] = evidence["minus"], evidence["plus"]
    levels = evidence[["plus", "minus"][rng.integers(2)]]
    place = int(rng.integers(len(levels)))
    symbols = list(levels[place])
    match rng.integers(4):
        case 0:
            rng.shuffle(symbols)
        case 1:
            symbols = symbols[::-1]
        case 2:
            symbols[rng.integers(len(symbols))] = str(rng.integers(4))
        case 3:
            # Another edge for each split keeps all counts.
            symbols = [symbol if symbol == "0" else str(rng.integers(1, 4)) for symbol in symbols]
    levels[place] = "".join(symbols)


def test_corrupted_trees_prove_nothing_false(certified: tuple[TwoLayerProblem, Certificate]) -> None:
    rng, proved = np.random.default_rng(0), 0
    for _ in range(300):
        content = json.loads(certified[1].text)
        content["statement"]["lower_bound"] = (0.0).hex()
        corrupted(content, rng)
        try:
            bound = check_text(json.dumps(content), replay=replay if rng.random() < 0.5 else None)
        except NotACertificate:
            continue
        assert bound.lower_bound <= certified[1].incumbent
        proved += bound.lower_bound > 0
    assert proved > 100


# ------------------------------------------------------------------------------------ very many cones


LIMITS = {"MOST_CONES": 5, "MOST_CONE_SAMPLES": 20, "MOST_LEVEL_SAMPLES": 3}


@pytest.mark.parametrize("limit", LIMITS)
def test_too_many_cones_for_exact_arithmetic(
    limit: str, certified: tuple[TwoLayerProblem, Certificate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, what = certified[1].write(tmp_path / "cert.json"), "levels of cones" if "LEVEL" in limit else " cones;"
    monkeypatch.setattr(checker, limit, LIMITS[limit])
    with pytest.raises(TooManyCones, match=f"too large: .*{what}"):
        check_text(certified[1].text)
    assert not prove(certified[1].text).exact
    # The claim is what exact arithmetic proves, and floating point a little less.
    content = json.loads(certified[1].text)
    content["statement"]["lower_bound"] = (certified[1].lower_bound * (1 - 1e-9)).hex()
    path.write_text(json.dumps(content))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PROVEN in floating-point arithmetic")
    assert "cones were gone through in floating point, all roundings counted" in result.stdout
    found = json.loads(CliRunner().invoke(app, ["check", str(path), "--json"]).stdout.splitlines()[-1])
    assert found["proven"]
    assert found["exact"] is False


def test_a_bare_interpreter_refuses_too_many_cones(
    certified: tuple[TwoLayerProblem, Certificate], tmp_path: Path
) -> None:
    path, source = certified[1].write(tmp_path / "cert.json"), Path(checker.__file__).read_text()
    limits = "MOST_CONES, MOST_CONE_SAMPLES = 1_000_000, 50_000_000"
    assert limits in source
    (tmp_path / "checker.py").write_text(source.replace(limits, "MOST_CONES, MOST_CONE_SAMPLES = 10, 50_000_000"))
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(tmp_path / "checker.py"), str(path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "exact arithmetic goes through at most 10 for these data; `convexblocks check` goes through" in done.stderr


def test_too_many_cones_for_floating_point(
    certified: tuple[TwoLayerProblem, Certificate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "MOST_REPLAYED", 10)
    with pytest.raises(NotACertificate, match="cones times samples; at most 10 are accepted"):
        check_text(certified[1].text, replay=replay)


def test_a_certificate_in_floating_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "MOST_CONES", 10)
    problem = small_problem(share=0.3)
    made = certify(problem, seconds=2, method="cone_search")
    assert made.bound.proven
    assert not made.bound.exact
    assert 0 < made.lower_bound <= made.incumbent
    assert str(made).startswith("PROVEN in floating-point arithmetic")
    assert prove(made.text).lower_bound == made.lower_bound


def test_where_exact_arithmetic_proves_less_that_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = small_problem(share=0.3)
    incumbent = train_incumbent(problem, seconds=1)
    evidence = made_of(problem, incumbent.v, ["0" * 8], ["0" * 8])["evidence"]
    monkeypatch.setattr(certificate, "replay", lambda *arguments: 0.999 * replay(*arguments))
    made = make_certificate(problem, evidence, incumbent, 0.0)
    assert made.bound.proven
    assert made.bound.exact
    assert made.lower_bound == made.bound.claim == check_text(made.text).lower_bound


# ------------------------------------------------------------------------------------ use


def test_the_better_method_is_taken() -> None:
    for features, kind in ((3, "cone_search"), (9, "paired_moments")):
        problem = small_problem(samples=15, features=features)
        assert json.loads(certify(problem, seconds=2).text)["evidence"]["kind"] == kind
    made = certify(small_problem(), seconds=2, method="paired_moments")
    assert json.loads(made.text)["evidence"]["kind"] == "paired_moments"


def test_wrong_use() -> None:
    with pytest.raises(UsageError, match="'cones'; expected one of auto, cone_search, paired_moments"):
        certify(small_problem(), seconds=1, method="cones")
    with pytest.raises(UsageError, match="X has 9 columns, and cones are for at most 8; take fewer principal"):
        certify(small_problem(features=9), seconds=1, method="cone_search")
    with pytest.raises(UsageError, match="cones found no bound in 1e-09 s; give more time"):
        certify(small_problem(), train_incumbent(small_problem(), seconds=1), seconds=1e-9, method="cone_search")
