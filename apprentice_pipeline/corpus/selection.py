"""From pairs to rows: what is readable, what repeats, what contradicts itself.

Belongs here: conversion of pairs, exact deduplication, coherence. Does not: the split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from apprentice_pipeline.corpus.rows import CorpusRow, row_hash
from apprentice_pipeline.errors import Incoherent
from apprentice_pipeline.records import Pair
from apprentice_pipeline.verify.evaluators import Evaluator, agree
from apprentice_pipeline.wire.conversation import (
    answer_text,
    prompt_messages,
    system_prompt_digest,
)

COHERENT_SHARE: Final = 0.8
"""An input whose answers agree by at least this share is learnt from its majority."""

_RANK: Final = {"approved": 2, "verified": 1}
_MOST_COMPARED: Final = 50


@dataclass(frozen=True, slots=True)
class Selection:
    """One row an input, and what was left out on the way; see `rows.CorpusReport`."""

    rows: tuple[CorpusRow, ...]
    inputs: int
    duplicates: int
    disagreeing_inputs: int
    disagreeing: int
    unsupported: int
    rejected: int


def select(
    pairs: Iterable[Pair],
    *,
    evaluator: Evaluator,
    row_key: bytes,
    max_disagreeing_inputs: float,
) -> Selection:
    """One row for each distinct input: the newest of the best trusted, of the answer given most.

    An approved pair speaks for its input alone. Otherwise, where less than `COHERENT_SHARE` of
    an input's trusted answers agree, the input is left out.

    Raises: Incoherent when more than `max_disagreeing_inputs` of the inputs contradict
    themselves: such a stream cannot be learnt from its inputs alone.
    """
    groups: dict[bytes, list[CorpusRow]] = defaultdict(list)
    unsupported = rejected = disagreeing = contradictory = 0
    for pair in pairs:
        if pair.verdict == "rejected":
            rejected += 1
            continue
        row = to_row(pair, row_key)
        if row is None:
            unsupported += 1
        else:
            groups[pair.dedup_key].append(row)
    kept: list[CorpusRow] = []
    for group in groups.values():
        row = _spokesman(group, evaluator)
        if row is None:
            contradictory += 1
            disagreeing += len(group)
        else:
            kept.append(row)
    _require_coherence(contradictory, len(groups), max_disagreeing_inputs)
    kept.sort(key=lambda row: (row.created_at_us, row.pair_id))
    return Selection(
        rows=tuple(kept),
        inputs=len(groups),
        duplicates=sum(map(len, groups.values())) - disagreeing - len(kept),
        disagreeing_inputs=contradictory,
        disagreeing=disagreeing,
        unsupported=unsupported,
        rejected=rejected,
    )


def to_row(pair: Pair, row_key: bytes) -> CorpusRow | None:
    """The pair as a row without a slice; None where input or output is more than text."""
    messages = prompt_messages(pair.input)
    completion = answer_text(pair.output)
    if not messages or completion is None or not completion.strip():
        return None
    return CorpusRow(
        pair_id=pair.pair_id,
        row_hash=row_hash(messages, completion, row_key),
        messages=messages,
        completion=completion,
        system_digest=system_prompt_digest(pair.input) or "",
        slice="",
        verdict=pair.verdict,
        confidence=pair.confidence,
        inclusion_probability=pair.inclusion_probability,
        latency_us=pair.latency_us,
        cost_usd=pair.cost_usd,
        created_at_us=pair.created_at_us,
    )


def _spokesman(group: list[CorpusRow], evaluator: Evaluator) -> CorpusRow | None:
    best = max(_RANK.get(row.verdict, 0) for row in group)
    trusted = [row for row in group if _RANK.get(row.verdict, 0) == best]
    if best != _RANK["approved"] and len(trusted) > 1:
        trusted = _majority(trusted, evaluator)
    return max(trusted, key=lambda row: (row.created_at_us, row.pair_id), default=None)


def _majority(rows: Sequence[CorpusRow], evaluator: Evaluator) -> list[CorpusRow]:
    """The rows of the answer given most, none where it is not given often enough.

    Of an input that came very often, the newest 50 answers are compared.
    """
    recent = sorted(rows, key=lambda row: row.created_at_us)[-_MOST_COMPARED:]
    camps: list[list[CorpusRow]] = []
    for row in recent:
        camp = next((each for each in camps if _same(evaluator, each[0], row)), None)
        if camp is None:
            camps.append([row])
        else:
            camp.append(row)
    largest = max(camps, key=len)
    return largest if len(largest) >= COHERENT_SHARE * len(recent) else []


def _same(evaluator: Evaluator, left: CorpusRow, right: CorpusRow) -> bool:
    if left.completion == right.completion:
        return True
    return agree(evaluator, evaluator.score(left.completion, right.completion))


def _require_coherence(contradictory: int, inputs: int, most: float) -> None:
    if contradictory <= most * inputs:
        return
    raise Incoherent(
        f"{contradictory} of {inputs} inputs ({contradictory / inputs:.0%}) have answers that "
        f"contradict each other, more than the {most:.0%} allowed",
        remedy="give the frontier the context its answers depend on, lower its temperature, "
        "compare fewer fields (match_fields), or raise distill.max_disagreeing_inputs",
    )
