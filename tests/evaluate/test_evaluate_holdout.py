"""Measuring a student: batched scores, lone latencies, chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from apprentice_pipeline.corpus.rows import CorpusRow
from apprentice_pipeline.errors import DistillError
from apprentice_pipeline.evaluate.holdout import evaluate, measure
from apprentice_pipeline.evaluate.kscore import ScoreInputs, k_score
from apprentice_pipeline.verify.evaluators import ExactMatch


@dataclass(frozen=True)
class Said:
    """An answer of the student below."""

    text: str
    confidence: float


class Parrot:
    """A student that repeats the last turn, and the clock it takes its time from."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.clock_ns = 0

    def answer(self, conversations: list[list[dict[str, Any]]]) -> list[Said]:
        self.sizes.append(len(conversations))
        self.clock_ns += 1_000_000 * len(conversations)
        return [Said(turns[-1]["content"], 0.8) for turns in conversations]

    def now_ns(self) -> int:
        return self.clock_ns


def row(number: int, completion: str, **facts: Any) -> CorpusRow:
    values: dict[str, Any] = {
        "pair_id": f"pair-{number}",
        "row_hash": f"{number:064x}",
        "messages": [{"role": "user", "content": f"text {number}"}],
        "completion": completion,
        "system_digest": "",
        "slice": "label-a",
        "verdict": "verified",
        "confidence": None,
        "inclusion_probability": 1.0,
        "latency_us": 500_000,
        "cost_usd": 0.001,
        "created_at_us": number,
    }
    return CorpusRow(**{**values, **facts})


ROWS = [row(n, f"text {n}" if n % 10 else "something else") for n in range(300)]


def test_scores_are_those_of_the_evaluator_in_the_rows_order() -> None:
    evaluated = evaluate(ROWS, Parrot().answer, ExactMatch(), lambda text: True)
    assert [each.row_hash for each in evaluated] == [each.row_hash for each in ROWS]
    assert [each.score for each in evaluated] == [float(n % 10 > 0) for n in range(300)]


def test_answers_come_in_batches_and_latency_from_lone_requests() -> None:
    student = Parrot()
    measured = measure(
        ROWS, student.answer, ExactMatch(), bool, latency_sample=25, now_ns=student.now_ns
    )
    assert student.sizes[:2] == [256, 44]
    assert student.sizes[2:] == [1] * 26
    timed = [each.latency_us for each in measured.rows if each.latency_us]
    assert timed == [1_000] * 25
    assert k_score(measured.rows, ScoreInputs(size_bytes=1, bootstrap=20)).p50_us == 1_000


def test_facts_of_the_rows_travel_with_their_scores() -> None:
    rows = [
        row(0, "a", inclusion_probability=0.5, verdict="quarantined"),
        row(1, "b", slice="label-b"),
    ]
    first, second = evaluate(rows, Parrot().answer, ExactMatch(), lambda text: text == "text 1")
    assert first.weight == pytest.approx(2 * second.weight)
    assert (first.verified, second.verified) == (False, True)
    assert (first.valid, second.valid) == (False, True)
    assert second.slice == "label-b"
    assert first.confidence == 0.8


def test_chance_is_measured_on_shuffled_answers() -> None:
    rows = [
        row(n, f"class {n % 4}", messages=[{"role": "user", "content": f"class {n % 4}"}])
        for n in range(200)
    ]
    measured = measure(rows, Parrot().answer, ExactMatch(), bool, latency_sample=0)
    assert measured.chance == pytest.approx(0.25, abs=0.02)
    assert measured.texts == [each.completion for each in rows]


def test_a_student_that_loses_answers_is_an_error() -> None:
    with pytest.raises(DistillError, match="gave 0 answers to 2 requests"):
        evaluate(ROWS[:2], lambda conversations: [], ExactMatch(), bool)


def test_an_empty_holdout_measures_nothing() -> None:
    assert measure([], Parrot().answer, ExactMatch(), bool).rows == []
