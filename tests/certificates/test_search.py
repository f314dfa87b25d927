"""Pairs, majorants, the dual search and whole certificates: never above a network, and as good as the model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from certificate_problems import KINDS, random_network, small_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from convexblocks.certificates import Certificate, TwoLayerProblem, certificate, certify, check, train_incumbent
from convexblocks.certificates.certificate import CertificateError, make_certificate
from convexblocks.certificates.checker import check_text
from convexblocks.certificates.descent import minimize_until
from convexblocks.certificates.dual_polish import polish
from convexblocks.certificates.evidence import (
    SIGNS,
    Multipliers,
    as_evidence,
    sides,
    support_estimate,
    value_estimate,
)
from convexblocks.certificates.incumbent import make_incumbent
from convexblocks.certificates.moment_start import first_multipliers
from convexblocks.formulations import PairedMoments, UsageError
from convexblocks.formulations.sample_pairs import Pairs, nearest_pairs


def any_multipliers(problem: TwoLayerProblem, pairs: Pairs, seed: int, rows: bool) -> Multipliers:
    """Nothing but the signs is right about them."""
    rng, n = np.random.default_rng(seed), len(problem.y)
    v = rng.standard_normal(n) if problem.loss == "squared" else problem.y * rng.random(n)
    drawn = [rng.exponential(size=(2, size)) * (rng.random((2, size)) < 0.7) for size in (len(pairs), n, n)]
    widths = [10.0 ** rng.uniform(-1, 1, (2, size)) for size in (n, len(pairs))]
    w = 0.3 * rng.standard_normal((2, *problem.X.shape)) if rows else None
    return Multipliers(v, *drawn, *widths, w)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10_000), st.booleans())
def test_any_multipliers_bound_the_support_function(kind: tuple[str, str], seed: int, rows: bool) -> None:
    problem = small_problem(*kind, seed=seed)
    pairs = nearest_pairs(problem.X, problem.y, neighbours=2)
    multipliers = any_multipliers(problem, pairs, seed, rows)
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((400, problem.X.shape[1]))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    values = problem.phi(U @ problem.X.T) @ multipliers.v
    for sign, side in zip(SIGNS, sides(problem, pairs, multipliers), strict=True):
        assert (sign * values).max() <= side.estimate * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(("loss", "activation"), KINDS)
def test_the_checker_finds_what_the_estimate_says(loss: str, activation: str, rows: bool) -> None:
    problem = small_problem(loss, activation)
    pairs = nearest_pairs(problem.X, problem.y, neighbours=2)
    incumbent = train_incumbent(problem, seconds=1)
    start, _ = first_multipliers(problem, pairs, incumbent, 1)
    if rows:
        # Any rows will do.
        directions = problem.X / np.linalg.norm(problem.X, axis=1)[:, None]
        start = replace(start, rows=(start.local + 0.01)[..., None] * directions)
    estimate, written = value_estimate(problem, pairs, start), as_evidence(problem, pairs, start)
    if rows:
        assert any(row is not None for side in ("plus", "minus") for row in written[side]["rows"])
    made = make_certificate(problem, written, incumbent, 0.0)
    assert made.lower_bound == pytest.approx(max(estimate, 0), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_dual_search_reaches_the_optimum_of_the_model(loss: str, rows: bool) -> None:
    problem = small_problem(loss, samples=10)
    pairs = nearest_pairs(problem.X, problem.y, neighbours=2)
    model = PairedMoments.of(
        problem.X, problem.y if loss == "squared" else (problem.y > 0).astype(int), weight_decay=problem.weight_decay,
        pairs=pairs, loss=loss, rlt=rows,
    )  # fmt: skip
    optimum = float(model.program().solve(solver=cp.CLARABEL))
    incumbent = train_incumbent(problem, seconds=2)
    start, relaxed = first_multipliers(problem, pairs, incumbent, 5, rows=rows)
    assert (start.rows is not None) == rows
    _, reached = polish(problem, pairs, start, 6)
    assert relaxed == pytest.approx(optimum, rel=2e-2)
    assert reached <= optimum * (1 + 1e-4)
    assert reached == pytest.approx(optimum, rel=5e-3)
    assert optimum <= incumbent.objective * (1 + 1e-6)


def test_the_best_point_is_kept_when_the_time_is_over() -> None:
    met: list[float] = []

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        met.append(float(x @ x))
        return met[-1], 2 * x

    start = np.array([3.0, -4.0])
    np.testing.assert_array_equal(minimize_until(objective, start, -np.inf, iterations=9), start)
    assert not met
    found = minimize_until(objective, start, np.inf, iterations=50, bounds=[(1, None), (None, None)])
    np.testing.assert_allclose(found, [1, 0], atol=1e-6)
    assert found @ found == min(met)


def test_polishing_never_loses() -> None:
    problem = small_problem()
    pairs = nearest_pairs(problem.X, problem.y, neighbours=1)
    start, _ = first_multipliers(problem, pairs, train_incumbent(problem, seconds=1), 1)
    before = value_estimate(problem, pairs, start)
    for seconds in (0.01, 1.0):
        found, reached = polish(problem, pairs, start, seconds)
        assert reached >= before
        assert reached == pytest.approx(value_estimate(problem, pairs, found))


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def certified(request: Any) -> tuple[TwoLayerProblem, Certificate]:
    problem = small_problem(*request.param, samples=25, share=0.3)
    return problem, certify(problem, seconds=2)


def test_a_certificate_is_proven_and_close(certified: tuple[TwoLayerProblem, Certificate]) -> None:
    _, made = certified
    assert made.bound.proven
    assert made.incumbent is not None
    assert 0 < made.lower_bound <= made.incumbent
    assert made.gap_percent == pytest.approx(100 * (1 - made.lower_bound / made.incumbent), rel=1e-6)
    assert made.gap_percent < 10
    assert "PROVEN" in str(made)


def test_no_network_falls_below_a_certificate(certified: tuple[TwoLayerProblem, Certificate]) -> None:
    problem, made = certified
    rng = np.random.default_rng(1)
    assert all(problem.objective(*random_network(problem, rng)) >= made.lower_bound for _ in range(2_000))
    best = train_incumbent(problem, seconds=2, random_state=7)
    for scale in np.linspace(0.8, 1.2, 21):
        assert problem.objective(scale * best.weights, scale * best.outputs) >= made.lower_bound


def test_a_certificate_comes_back_from_its_file(certified: tuple[TwoLayerProblem, Certificate], tmp_path: Any) -> None:
    problem, made = certified
    bound = check(made.write(tmp_path / "deep" / "cert.json"))
    assert bound.proven
    assert bound.lower_bound == made.lower_bound
    assert check(tmp_path / "deep" / "cert.json", data=(problem.X.tolist(), problem.y.tolist())).proven
    other = problem.X.copy()
    other[3, 1] += 1e-9
    assert not check(tmp_path / "deep" / "cert.json", data=(other.tolist(), problem.y.tolist())).proven


def test_one_feature_has_no_gap() -> None:
    """With one feature the relaxation is exact: neurons are +1 and -1."""
    x = np.array([1.0, -2.0, 0.5, -0.3])
    problem = TwoLayerProblem(x[:, None], np.array([1.0, 1.0, -3.0, 2.0]), "squared", 0.4)
    assert certify(problem, seconds=6).gap_percent < 0.5


def test_a_bound_above_a_network_is_a_contradiction(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = small_problem()
    made = certify(problem, seconds=2)
    evidence = json.loads(made.text)["evidence"]
    monkeypatch.setattr(certificate, "_rounded_up", lambda problem, incumbent: 0.5 * made.lower_bound)
    with pytest.raises(CertificateError, match="report"):
        make_certificate(problem, evidence, make_incumbent(problem, np.zeros((0, 3)), np.zeros(0)), 0.0)


def test_evidence_that_is_rejected_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = small_problem()
    rejected = replace(check_text(certify(problem, seconds=1).text), proven=False, reason="no")
    monkeypatch.setattr(certificate, "check_text", lambda *_, **__: rejected)
    with pytest.raises(CertificateError, match=r"does not accept this certificate \(no\)"):
        certify(problem, seconds=1)


def test_evidence_that_overflows_is_worth_nothing() -> None:
    problem = small_problem()
    pairs = nearest_pairs(problem.X, problem.y, neighbours=1)
    wild = any_multipliers(problem, pairs, 0, False)
    with np.errstate(all="ignore"):
        assert value_estimate(problem, pairs, replace(wild, width=np.full_like(wild.width, 1e-310))) == 0


def test_without_a_good_point_the_bound_is_still_true() -> None:
    problem = small_problem()
    pairs = nearest_pairs(problem.X, problem.y, neighbours=1)
    wild = any_multipliers(problem, pairs, 0, False)
    made = make_certificate(problem, as_evidence(problem, pairs, wild), train_incumbent(problem, seconds=1), 0.0)
    assert 0 <= made.lower_bound <= made.incumbent
    assert support_estimate(problem, pairs, wild) > problem.weight_decay


def test_what_is_too_large_for_the_checker_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "MOST_PRODUCTS", 200)
    with pytest.raises(UsageError, match="more than the exact checker takes"):
        certify(small_problem(), seconds=1e6)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_time_has_to_be_positive(seconds: float) -> None:
    with pytest.raises(UsageError, match="expected a number above 0"):
        certify(small_problem(), seconds=seconds)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        certify(small_problem(), seconds=1).write(tmp_path / "file" / "cert.json")
