"""The student on the frozen holdout: answers, scores, single-request latency, chance.

Belongs here: the measurement. Does not: the model (`answer` is a callable), what K makes of it.
Promise: scores come from batches, latency never does: the rows timed are answered one at a time
after a warm-up, as a lone request would be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from apprentice_pipeline.corpus.rows import CorpusRow, weights
from apprentice_pipeline.errors import DistillError
from apprentice_pipeline.evaluate.kscore import NO_CHANCE, EvalRow, shuffled
from apprentice_pipeline.records import Message
from apprentice_pipeline.verify.evaluators import Evaluator, score_all

LATENCY_SAMPLE: Final = 40
_BATCH: Final = 256


class Generated(Protocol):
    """What is read of a student's answer (`evaluate.student.Generation`)."""

    @property
    def text(self) -> str:
        """The answer."""
        ...

    @property
    def confidence(self) -> float:
        """Confidence in [0, 1]."""
        ...


Conversation = list[Message]
AnswerAll = Callable[[list[Conversation]], Sequence[Generated]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scored rows in the order of the holdout, the answers' texts beside them, and chance."""

    rows: list[EvalRow]
    texts: list[str]
    chance: float


def evaluate(
    rows: Sequence[CorpusRow],
    answer: AnswerAll,
    evaluator: Evaluator,
    valid: Callable[[str], bool],
    *,
    latency_sample: int = LATENCY_SAMPLE,
    seed: int = 17,
) -> list[EvalRow]:
    """The rows of `measure`."""
    measured = measure(rows, answer, evaluator, valid, latency_sample=latency_sample, seed=seed)
    return measured.rows


def measure(
    rows: Sequence[CorpusRow],
    answer: AnswerAll,
    evaluator: Evaluator,
    valid: Callable[[str], bool],
    *,
    latency_sample: int = LATENCY_SAMPLE,
    seed: int = 17,
    now_ns: Callable[[], int] = time.perf_counter_ns,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Every row answered and scored against the teacher's captured answer.

    `answer` maps conversations to as many answers, in order; it is called with batches, then
    with `latency_sample` seeded rows one by one (`latency_us` of the others is 0). An answer
    that is not valid still has its score. `on_progress` gets the count of answered rows.

    Raises: DistillError when `answer` does not give one answer a row.
    """
    generated = _answers(rows, answer, on_progress)
    texts = [each.text for each in generated]
    references = [row.completion for row in rows]
    scores = score_all(evaluator, references, texts)
    latencies = _latencies(rows, answer, latency_sample, seed, now_ns)
    evaluated = [
        EvalRow(
            row_hash=row.row_hash,
            score=score,
            valid=valid(each.text),
            slice=row.slice,
            confidence=float(each.confidence),
            latency_us=latencies.get(at, 0),
            weight=weight,
            verified=row.verified,
        )
        for at, (row, each, score, weight) in enumerate(
            zip(rows, generated, scores, weights(rows), strict=True)
        )
    ]
    return Evaluation(evaluated, texts, _chance(references, texts, evaluator, seed))


def _answers(
    rows: Sequence[CorpusRow], answer: AnswerAll, on_progress: Callable[[int], None] | None
) -> list[Generated]:
    generated: list[Generated] = []
    for start in range(0, len(rows), _BATCH):
        batch = [row.messages for row in rows[start : start + _BATCH]]
        given = answer(batch)
        if len(given) != len(batch):
            raise DistillError(f"the student gave {len(given)} answers to {len(batch)} requests")
        generated.extend(given)
        if on_progress is not None:
            on_progress(len(generated))
    return generated


def _chance(
    references: Sequence[str], texts: Sequence[str], evaluator: Evaluator, seed: int
) -> float:
    """`kscore.chance`, in one batch for evaluators that embed."""
    pairs = shuffled(len(texts), seed)
    if not pairs:
        return NO_CHANCE
    remote, local = [references[i] for i, _ in pairs], [texts[j] for _, j in pairs]
    return math.fsum(score_all(evaluator, remote, local)) / len(pairs)


def _latencies(
    rows: Sequence[CorpusRow],
    answer: AnswerAll,
    sample: int,
    seed: int,
    now_ns: Callable[[], int],
) -> dict[int, int]:
    """Microseconds of lone requests, by row; the first request warms up and is not timed."""
    size = min(sample, len(rows))
    if size < 1:
        return {}
    picked = np.random.default_rng(seed).choice(len(rows), size=size, replace=False)
    answer([rows[int(picked[0])].messages])
    latencies = {}
    for at in sorted(int(each) for each in picked):
        started = now_ns()
        answer([rows[at].messages])
        latencies[at] = max(1, (now_ns() - started) // 1_000)
    return latencies
