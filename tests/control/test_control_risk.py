"""The certificate: exact bounds, the walk over thresholds, what recalibration spends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from apprentice_pipeline.control import risk

GRID = tuple(i / 20 for i in range(21))


def test_59_rows_without_an_error_prove_5_percent_and_58_do_not() -> None:
    assert risk.least_rows(0.05, 0.05) == 59
    assert risk.clopper_pearson_upper(0, 59, 0.05) <= 0.05
    assert risk.clopper_pearson_upper(0, 58, 0.05) > 0.05


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0.0, 1.0), st.floats(0.001, 0.5))
def test_clopper_pearson_agrees_with_the_beta_quantile(n: int, share: float, delta: float) -> None:
    errors = min(n - 1, int(n * share))
    exact = float(beta.ppf(1 - delta, errors + 1, n - errors))
    assert risk.clopper_pearson_upper(errors, n, delta) == pytest.approx(exact, abs=1e-8)


def test_all_errors_prove_nothing_and_impossible_counts_are_refused() -> None:
    assert risk.clopper_pearson_upper(5, 5, 0.05) == 1.0
    with pytest.raises(ValueError, match="6 errors of 5"):
        risk.clopper_pearson_upper(6, 5, 0.05)


def test_what_all_calibrations_spend_sums_to_delta() -> None:
    total = sum(risk.spend(0.05, j) for j in range(1, 20_000))
    assert total == pytest.approx(0.05, abs=1e-5)
    with pytest.raises(ValueError, match="from 1"):
        risk.spend(0.05, 0)


def test_recalibration_is_due_when_the_rows_have_doubled() -> None:
    assert not risk.recalibration_due(199, 100)
    assert risk.recalibration_due(200, 100)


def test_the_most_any_router_can_serve() -> None:
    assert risk.most_servable(0.03, 0.05) == 1.0
    assert risk.most_servable(0.24, 0.05) == pytest.approx(0.8)


def test_flawless_rows_are_certified_down_to_the_least_confident() -> None:
    certificate = risk.certify([0.6] * 30 + [0.9] * 70, [1.0] * 100, grid=GRID)
    assert certificate is not None
    assert certificate.tau == 0.6
    assert (certificate.n, certificate.coverage, certificate.rows) == (100, 1.0, 100)
    assert certificate.upper_bound <= certificate.alpha


def test_the_walk_stops_at_the_first_failure_even_if_a_looser_threshold_would_pass() -> None:
    """60 good rows, 20 bad ones below them, then 3,000 good ones that would dilute the bad."""
    confidences = [0.9] * 60 + [0.8] * 20 + [0.1] * 3000
    scores = [1.0] * 60 + [0.0] * 20 + [1.0] * 3000
    certificate = risk.certify(confidences, scores, grid=GRID)
    assert certificate is not None
    assert certificate.tau == 0.9
    assert certificate.n == 60


def test_no_certificate_for_too_few_rows_or_too_many_errors_or_none() -> None:
    assert risk.certify([0.9] * 58, [1.0] * 58) is None
    assert risk.certify([0.9] * 200, [1.0, 0.0] * 100) is None
    assert risk.certify([], []) is None


def test_partial_scores_are_bounded_by_betting() -> None:
    rng = np.random.default_rng(0)
    scores = np.clip(rng.normal(0.985, 0.01, 600), 0, 1)
    certificate = risk.certify([0.9] * 600, scores.tolist(), grid=GRID)
    assert certificate is not None
    assert 1 - scores.mean() < certificate.upper_bound <= 0.05


def test_more_starts_certify_more_often_where_errors_are_evenly_spread() -> None:
    issued = {1: 0, 3: 0}
    for trial in range(25):
        rng = np.random.default_rng(trial)
        confidences = rng.random(600).tolist()
        scores = (rng.random(600) >= 0.02).astype(float).tolist()
        for starts in issued:
            issued[starts] += risk.certify(confidences, scores, starts=starts) is not None
    assert issued[3] > 2 * issued[1]


@pytest.mark.parametrize("starts", [1, 3])
def test_a_certificate_is_wrong_in_at_most_delta_of_the_trials(starts: int) -> None:
    """Risk rises as confidence falls; whatever tau is chosen, its true risk is known here."""
    trials, wrong, alpha, delta = 200, 0, 0.05, 0.1
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        confidence = rng.random(300)
        scores = (rng.random(300) >= 0.2 * (1 - confidence)).astype(float)
        found = risk.certify(confidence.tolist(), scores.tolist(), alpha, delta, starts=starts)
        wrong += found is not None and 0.1 * (1 - found.tau) > alpha
    assert wrong / trials <= delta + 2 * math.sqrt(delta * (1 - delta) / trials)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), max_size=120),
    st.integers(1, 4),
)
def test_a_certificate_keeps_its_own_promises(rows: list[tuple[float, float]], starts: int) -> None:
    certificate = risk.certify([c for c, _ in rows], [s for _, s in rows], 0.2, starts=starts, j=2)
    if certificate is None:
        return
    assert certificate.upper_bound <= 0.2
    assert certificate.n == sum(c >= certificate.tau for c, _ in rows)
    assert certificate.rows == len(rows)
    assert certificate.j == 2
    assert risk.Certificate.from_plain(certificate.to_plain()) == certificate


def test_unequal_lengths_and_impossible_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="2 confidences but 1 scores"):
        risk.certify([0.5, 0.6], [1.0])
    with pytest.raises(ValueError, match="alpha and delta"):
        risk.certify([0.5], [1.0], alpha=0.0)
    with pytest.raises(ValueError, match="score"):
        risk.certify([0.5], [1.5])
