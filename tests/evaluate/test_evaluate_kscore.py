"""The K-score: its components, its mathematics, its interval, its words."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.errors import TooFewPairs
from apprentice_pipeline.evaluate.kscore import (
    WEIGHTS,
    EvalRow,
    KScore,
    ScoreInputs,
    chance,
    compose,
    cost_per_call,
    k_score,
    k_score_v1,
    statement,
)

SHARE = st.floats(0.0, 1.0)
COMPONENTS = st.fixed_dictionaries({name: st.none() | SHARE for name in WEIGHTS})
INPUTS = ScoreInputs(
    size_bytes=50_000_000,
    target_size_bytes=50_000_000,
    teacher_latency_us=900_000,
    local_cost_usd=0.0001,
    remote_cost_usd=0.001,
    bootstrap=200,
)


def rows_with(scores: list[float], **facts: Any) -> list[EvalRow]:
    values: dict[str, Any] = {
        "valid": True,
        "slice": "",
        "confidence": 0.9,
        "latency_us": 50_000,
        "weight": 1.0,
        "verified": True,
    }
    return [
        EvalRow(row_hash=f"{n:064x}", score=s, **{**values, **facts}) for n, s in enumerate(scores)
    ]


@given(COMPONENTS)
def test_k_lies_between_0_and_1(components: dict[str, float | None]) -> None:
    assert 0.0 <= compose(components) <= 1.0


@given(COMPONENTS, st.sampled_from(sorted(WEIGHTS)))
def test_a_zero_anywhere_is_zero(components: dict[str, float | None], name: str) -> None:
    assert compose({**components, name: 0.0}) == 0.0


@given(COMPONENTS, st.sampled_from(sorted(WEIGHTS)), SHARE, SHARE)
def test_k_never_falls_as_a_component_rises(
    components: dict[str, float | None], name: str, one: float, two: float
) -> None:
    low, high = sorted((one, two))
    assert compose({**components, name: low}) <= compose({**components, name: high}) + 1e-12


@given(st.floats(0.01, 1.0), st.sets(st.sampled_from(sorted(WEIGHTS)), min_size=1))
def test_equal_components_give_their_value_whatever_is_dropped(
    value: float, present: set[str]
) -> None:
    components = {name: value if name in present else None for name in WEIGHTS}
    assert compose(components) == pytest.approx(value)


def test_k_is_the_weighted_geometric_mean() -> None:
    components = {"A": 0.9, "V": 0.98, "R": 0.85, "S": 1.0, "L": 1.0, "C": 0.95}
    expected = math.prod(components[name] ** WEIGHTS[name] for name in WEIGHTS)
    assert compose(components) == pytest.approx(expected)
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


def test_the_components_of_a_plain_case() -> None:
    rows = rows_with([1.0] * 93 + [0.0] * 7, slice="")
    score = k_score(rows, INPUTS)
    assert score.components["A"] == pytest.approx(0.93)
    assert score.components["V"] == 1.0
    assert score.components["R"] is None
    assert score.components["S"] == 1.0
    assert score.components["L"] == 1.0
    assert score.components["C"] == pytest.approx(0.9)
    assert (score.n, score.p50_us) == (100, 50_000)
    assert score.dropped == ("R dropped: no slice or cluster has 20 rows",)


def test_robustness_is_the_worst_slice_over_the_whole() -> None:
    rows = [
        *rows_with([1.0] * 40, slice="label-a"),
        *rows_with([1.0] * 30 + [0.0] * 10, slice="label-b"),
        *rows_with([0.0] * 5, slice="label-small"),
    ]
    score = k_score(rows, INPUTS)
    assert score.worst_slice == "label-b"
    assert score.components["R"] == pytest.approx(0.75 / (70 / 85))


def test_a_student_that_is_always_wrong_scores_zero() -> None:
    score = k_score(rows_with([0.0] * 50, slice="label-a"), INPUTS)
    assert (score.k, score.low) == (0.0, 0.0)
    assert score.components["R"] == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=40, max_size=80), st.data())
def test_k_never_falls_when_one_more_answer_is_right(
    right: list[bool], data: st.DataObject
) -> None:
    """In any slice but the worst; the worst slice's gain raises R as well."""
    rows = [
        replace(row, slice=f"label-{n % 2}")
        for n, row in enumerate(rows_with([float(each) for each in right]))
    ]
    at = data.draw(st.integers(0, len(rows) - 1))
    better = [replace(row, score=1.0) if n == at else row for n, row in enumerate(rows)]
    inputs = replace(INPUTS, bootstrap=0)
    assert k_score(better, inputs).k >= k_score(rows, inputs).k - 1e-12


def test_rows_weigh_by_their_inverse_inclusion_probability() -> None:
    rows = [*rows_with([1.0] * 10, weight=1.0), *rows_with([0.0] * 10, weight=3.0)]
    assert k_score(rows, INPUTS).fidelity == pytest.approx(0.25)


def test_unequal_weights_widen_the_interval() -> None:
    even = k_score(rows_with([1.0, 0.0] * 50), INPUTS)
    weights = [0.2, 5.0]
    uneven = [
        replace(row, weight=weights[n // 2 % 2]) for n, row in enumerate(rows_with([1.0, 0.0] * 50))
    ]
    wide = k_score(uneven, INPUTS)
    assert wide.fidelity_high - wide.fidelity_low > even.fidelity_high - even.fidelity_low


def test_only_verified_rows_count_and_all_are_told_beside_them() -> None:
    rows = [*rows_with([1.0] * 50), *rows_with([0.0] * 50, verified=False)]
    score = k_score(rows, INPUTS)
    assert (score.fidelity, score.fidelity_all, score.n, score.n_all) == (1.0, 0.5, 50, 100)
    assert score.statement.startswith("replicates 100 % of the teacher's behaviour on 50 held-out")
    assert score.statement.endswith("; 50 % on all 100, answers that are not verified included")


def test_without_verified_rows_there_is_no_score() -> None:
    with pytest.raises(TooFewPairs, match="none of 3 holdout rows is verified"):
        k_score(rows_with([1.0] * 3, verified=False), INPUTS)


def test_what_is_unknown_is_dropped_and_said() -> None:
    bare = ScoreInputs(size_bytes=1, bootstrap=50)
    score = k_score(rows_with([1.0] * 30, latency_us=0), bare)
    assert [score.components[name] for name in "LCR"] == [None, None, None]
    assert [reason[0] for reason in score.dropped] == ["L", "C", "R"]
    assert score.k == 1.0


def test_a_free_remote_call_is_an_unknown_price_not_a_division() -> None:
    inputs = replace(INPUTS, remote_cost_usd=0.0)
    assert k_score(rows_with([1.0] * 30), inputs).components["C"] is None


def test_a_machine_costs_a_call_its_share_of_the_hour() -> None:
    measured = rows_with([1.0] * 3, latency_us=50_000)
    unmeasured = rows_with([1.0] * 9, latency_us=0)
    assert cost_per_call(7.2, [*measured, *unmeasured]) == pytest.approx(0.0001)
    assert cost_per_call(7.2, unmeasured) is None
    assert cost_per_call(0.0, unmeasured) == 0.0


def test_a_dearer_local_call_scores_zero() -> None:
    inputs = replace(INPUTS, local_cost_usd=1.0)
    assert k_score(rows_with([1.0] * 30), inputs).k == 0.0


def test_a_configured_latency_target_comes_before_the_teachers() -> None:
    inputs = replace(INPUTS, target_latency_us=25_000)
    assert k_score(rows_with([1.0] * 30), inputs).components["L"] == pytest.approx(0.5)


def test_latency_is_the_median_of_the_rows_that_were_timed() -> None:
    rows = [
        *rows_with([1.0] * 50, latency_us=0),
        *rows_with([1.0], latency_us=10),
        *rows_with([1.0], latency_us=30),
    ]
    assert k_score(rows, INPUTS).p50_us == 20


def test_the_interval_holds_k_and_shrinks_with_rows() -> None:
    dice = random.Random(1)
    scores = [float(dice.random() < 0.9) for _ in range(2_000)]
    few, many = k_score(rows_with(scores[:100]), INPUTS), k_score(rows_with(scores), INPUTS)
    assert few.low <= few.k <= few.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Fidelity .9 on 240 rows, 200 draws: a 95 % interval misses about 10 of them."""
    dice = random.Random(7)
    hits = 0
    for _ in range(200):
        score = k_score(
            rows_with([float(dice.random() < 0.9) for _ in range(240)]),
            replace(INPUTS, bootstrap=0),
        )
        hits += score.fidelity_low <= 0.9 <= score.fidelity_high
    assert hits >= 183


def test_graded_scores_get_a_bootstrap_interval() -> None:
    dice = random.Random(2)
    score = k_score(rows_with([0.7 + 0.2 * dice.random() for _ in range(200)]), INPUTS)
    assert 0.78 < score.fidelity_low < score.fidelity < score.fidelity_high < 0.82


def test_equal_rows_and_seed_give_an_equal_score_after_json() -> None:
    dice = random.Random(3)
    rows = rows_with([float(dice.random() < 0.9) for _ in range(150)], slice="label-a")
    score = k_score(rows, INPUTS)
    again = k_score(
        [EvalRow.from_dict(json.loads(json.dumps(row.to_dict()))) for row in rows],
        ScoreInputs.from_dict(json.loads(json.dumps(INPUTS.to_dict()))),
    )
    assert again == score
    assert KScore.from_dict(json.loads(json.dumps(score.to_dict()))) == score


def test_fidelity_is_stated_plainly() -> None:
    assert statement(0.93, 0.8906, 0.9560, 240) == (
        "replicates 93 % of the teacher's behaviour on 240 held-out requests (95 % CI 89–96)"
    )


def test_the_older_composite_is_computed_as_it_was() -> None:
    inputs = ScoreInputs(size_bytes=1024 * 1024, local_cost_usd=0.001)
    expected = 0.4 * 0.9 + 0.15 * (1 - 10 / 30) + 0.15 * 0.5 + 0.15 * 0.5 + 0.15 * 1.0
    assert k_score_v1(0.9, 1.0, 100_000, inputs) == pytest.approx(expected)


def test_chance_of_balanced_classes_is_one_over_their_number() -> None:
    answers = [f"class {n % 15}" for n in range(450)]
    estimate = chance(answers, answers, lambda a, b: float(a == b), seed=1)
    assert estimate == pytest.approx(1 / 15, abs=0.01)


def test_chance_never_pairs_a_row_with_itself() -> None:
    answers = list(range(7))
    assert chance(answers, answers, lambda a, b: float(a == b), seed=1) == 0.0


def test_chance_cannot_be_told_from_one_row() -> None:
    assert chance(["a"], ["a"], lambda a, b: 1.0, seed=1) == 0.5
