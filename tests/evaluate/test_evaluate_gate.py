"""The gate: passes when all holds, and names each failing condition with its remedy."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from apprentice_pipeline.config import KScoreGate
from apprentice_pipeline.errors import GateRefused
from apprentice_pipeline.evaluate.gate import GateDecision, check_gate, paired_difference
from apprentice_pipeline.evaluate.kscore import EvalRow, ScoreInputs, k_score

INPUTS = ScoreInputs(size_bytes=1, bootstrap=200)


def rows_with(scores: list[float], **facts: Any) -> list[EvalRow]:
    values: dict[str, Any] = {
        "valid": True,
        "slice": "",
        "confidence": 0.9,
        "latency_us": 0,
        "weight": 1.0,
        "verified": True,
    }
    return [
        EvalRow(row_hash=f"{n:064x}", score=s, **{**values, **facts}) for n, s in enumerate(scores)
    ]


def decide(rows: list[EvalRow], **changes: Any) -> GateDecision:
    facts: dict[str, Any] = {
        "holdout": len(rows),
        "newer_than_champion": None,
        "champion_rows": None,
        "rows": rows,
        "leaked": False,
    }
    gate = changes.pop("gate", KScoreGate())
    return check_gate(k_score(rows, INPUTS), gate, **{**facts, **changes})


GOOD = rows_with([1.0] * 190 + [0.0] * 10)


def test_a_good_student_passes() -> None:
    decision = decide(GOOD, newer_than_champion=True, champion_rows=GOOD)
    assert decision == GateDecision(True, (), "")
    decision.raise_if_refused()


def test_advice_that_two_conditions_share_is_given_once() -> None:
    decision = decide(rows_with([0.0] * 190 + [1.0] * 10))
    assert len(decision.failures) == 2
    assert decision.remedy.count("more verified pairs") == 1


def test_a_low_k_names_the_weakest_component() -> None:
    rows = [*rows_with([1.0] * 100), *rows_with([1.0] * 200, valid=False)]
    decision = decide(rows)
    assert decision.failures == ("K-score 0.776 is below the gate of 0.85",)
    assert "component V is weakest" in decision.remedy


def test_a_low_bound_of_fidelity_is_refused() -> None:
    decision = decide(rows_with([1.0] * 120 + [0.0] * 80), gate=KScoreGate(gate=0.0))
    assert decision.failures[0].startswith("lower bound of fidelity 0.53")
    assert "more verified pairs" in decision.remedy


def test_a_wide_interval_asks_for_more_rows() -> None:
    rows = rows_with([1.0] * 15 + [0.0] * 5)
    decision = decide(rows, gate=KScoreGate(gate=0.0, min_holdout=10))
    assert "interval is too wide" in decision.remedy


def test_too_small_a_holdout_is_refused_with_the_counts() -> None:
    decision = decide(rows_with([1.0] * 60))
    assert decision.failures == ("60 verified holdout rows of 100 needed",)
    assert "capture 40 more" in decision.remedy


def test_a_holdout_older_than_the_champion_is_refused() -> None:
    decision = decide(GOOD, newer_than_champion=False)
    assert decision.failures == ("no holdout row is newer than the champion",)
    assert decision.remedy


def test_leakage_is_refused() -> None:
    decision = decide(GOOD, leaked=True)
    assert decision.failures == ("train and holdout share inputs",)
    assert "build the corpus again" in decision.remedy


def test_a_clearly_worse_challenger_is_refused() -> None:
    champion = rows_with([1.0] * 200)
    decision = decide(GOOD, champion_rows=champion)
    assert decision.failures[0].startswith("may be worse than the champion: difference -0.050")
    assert "keep the champion" in decision.remedy


def test_an_unclear_comparison_asks_for_more_rows() -> None:
    dice = random.Random(5)
    scores = [float(dice.random() < 0.9) for _ in range(120)]
    other = scores[:]
    dice.shuffle(other)
    decision = decide(rows_with(scores), champion_rows=rows_with(other))
    assert "more rows are needed to tell" in decision.remedy
    assert "instead of 120" in decision.remedy


def test_an_equal_challenger_is_not_inferior() -> None:
    assert decide(GOOD, champion_rows=list(reversed(GOOD))).passed


def test_rows_are_matched_by_their_hash() -> None:
    strangers = [replace(row, row_hash="f" + row.row_hash[1:]) for row in GOOD]
    decision = decide(GOOD, champion_rows=strangers)
    assert decision.failures == ("no row was answered by both challenger and champion",)
    assert "evaluate the champion" in decision.remedy


def test_the_paired_bound_is_tighter_than_two_separate_ones() -> None:
    """Both wrong on the same rows: the difference is known far better than either score."""
    champion = rows_with([1.0] * 99 + [0.0] + [1.0] * 80 + [0.0] * 20)
    challenger = rows_with([1.0] * 98 + [0.0] * 2 + [1.0] * 80 + [0.0] * 20)
    paired = paired_difference(champion, challenger)
    assert paired is not None
    assert paired.difference == pytest.approx(-0.005)
    assert paired.low > -0.02


def test_every_failing_condition_is_named_at_once() -> None:
    rows = rows_with([0.0] * 50, valid=False)
    decision = decide(
        rows, leaked=True, newer_than_champion=False, champion_rows=rows_with([1.0] * 50)
    )
    assert len(decision.failures) == 6
    with pytest.raises(GateRefused, match="K-score gate refused: train and holdout") as refused:
        decision.raise_if_refused()
    assert refused.value.failures == decision.failures
    assert refused.value.remedy == decision.remedy
