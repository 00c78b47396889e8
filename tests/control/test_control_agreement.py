"""Correlation and its anytime-valid bounds."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.control import agreement

scores = st.floats(0.0, 1.0)
CHANCE = 1 / 15


def follow(values: list[float], delta: float = 0.05) -> list[tuple[float, float]]:
    sequence, track = agreement.Sequence(), []
    for value in values:
        sequence = agreement.observe(sequence, value, delta=delta)
        track.append(agreement.bounds(sequence))
    return track


@pytest.mark.parametrize("chance", [0.0, CHANCE, 0.3, 0.5])
def test_correlation_is_one_at_full_agreement_and_zero_at_chance(chance: float) -> None:
    assert agreement.correlation(1.0, chance) == 1.0
    assert agreement.correlation(chance, chance) == 0.0


def test_agreement_below_chance_is_anti_correlation_and_at_worst_minus_one() -> None:
    assert agreement.correlation(0.4, 0.5) == pytest.approx(-0.2)
    assert agreement.correlation(0.0, 0.5) == -1.0


def test_chance_counts_for_at_most_one_half() -> None:
    assert agreement.correlation(0.75, 0.9) == agreement.correlation(0.75, 0.5) == 0.5


@given(scores, scores, st.floats(0.0, 1.0))
def test_correlation_never_falls_as_agreement_rises(a: float, b: float, chance: float) -> None:
    low, high = sorted((a, b))
    assert agreement.correlation(low, chance) <= agreement.correlation(high, chance)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_required_agreement_inverts_correlation(kappa: float, chance: float) -> None:
    needed = agreement.required_agreement(kappa, chance)
    assert agreement.correlation(needed, chance) == pytest.approx(kappa, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(scores, max_size=40))
def test_bounds_only_ever_tighten(values: list[float]) -> None:
    track = [(0.0, 1.0), *follow(values)]
    assert all(a[0] <= b[0] and b[1] <= a[1] for a, b in pairwise(track))


@settings(max_examples=50, deadline=None)
@given(st.lists(scores, max_size=30))
def test_a_sequence_survives_plain_values_and_goes_on_the_same(values: list[float]) -> None:
    straight = resumed = agreement.Sequence()
    for value in values:
        straight = agreement.observe(straight, value)
        resumed = agreement.observe(agreement.Sequence.from_plain(resumed.to_plain()), value)
    assert straight == resumed
    assert straight.n == len(values)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1 / 3, 0.5, 1.0]), min_size=1, max_size=60))
def test_the_lower_bound_is_where_the_betting_capital_reaches_its_threshold(
    values: list[float],
) -> None:
    """Against the definition: a product over observations for each fraction, summed."""
    need = 1 / 0.05
    fractions, weights = agreement._FRACTIONS, agreement._WEIGHTS / agreement._WEIGHTS.sum()

    def capital(m: float) -> float:
        factors = 1.0 - fractions[:, None] + fractions[:, None] * np.array(values) / m
        return float(weights @ factors.prod(axis=1))

    bound = agreement.lower_bound(values, 0.05)
    if bound > 0.0:
        assert capital(bound) >= need * (1 - 1e-9)
    if bound < 1.0 - 1e-4:
        assert capital(bound + 1e-4) < need * (1 + 1e-9)


@pytest.mark.parametrize("score", [-0.01, 1.01, math.nan, math.inf])
def test_a_score_outside_the_unit_interval_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        agreement.observe(agreement.Sequence(), score)


@pytest.mark.parametrize(("mu", "allowed"), [(0.97, 100), (0.91, 320)])
def test_graduation_takes_the_comparisons_that_the_design_names(mu: float, allowed: int) -> None:
    """About 100 at agreement .97 and 300 at .91 until the lower bound of kappa exceeds .85."""
    target = agreement.required_agreement(0.85, CHANCE)
    needed, rng = [], np.random.default_rng(11)
    for _ in range(51):
        sequence = agreement.Sequence()
        while agreement.bounds(sequence)[0] < target and sequence.n < 1500:
            sequence = agreement.observe(sequence, float(rng.random() < mu))
        needed.append(sequence.n)
    assert median(needed) <= allowed


@pytest.mark.parametrize(
    ("name", "mean"), [("binary", 0.97), ("binary", 0.6), ("beta", 0.9), ("thirds", 2 / 3)]
)
def test_bounds_hold_at_every_moment_together(name: str, mean: float) -> None:
    """A watcher who stops at the worst moment is wrong in at most delta of the streams."""
    rng = np.random.default_rng(7)
    streams, length, delta = 80, 120, 0.1
    draws = {
        "binary": lambda: (rng.random(length) < mean).astype(float),
        "beta": lambda: rng.beta(9.0, 1.0, length),
        "thirds": lambda: rng.integers(1, 4, length) / 3,
    }[name]
    missed = sum(
        any(low > mean or high < mean for low, high in follow(list(draws()), delta))
        for _ in range(streams)
    )
    assert missed / streams <= delta + 2 * math.sqrt(delta * (1 - delta) / streams)


def test_scores_that_contradict_a_constant_mean_cross_the_bounds() -> None:
    low, high = follow([0.0] * 100 + [1.0] * 2000)[-1]
    assert low > high
