"""The rows of a corpus, and the counts of how it came to be.

Belongs here: frozen records. Does not: selection.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from apprentice_pipeline.records import Message

if TYPE_CHECKING:
    from apprentice_pipeline.corpus.manifest import Manifest

MOST_WEIGHT = 10.0
"""Cap of an inverse inclusion probability: bounded variance for a little bias."""


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """One pair as the student learns it or is judged by it.

    `row_hash` is a keyed digest of messages and completion; `system_digest` that of the system
    prompt ("" for none); `slice` an opaque name ("" for none). Times in µs, money in USD.
    """

    pair_id: str
    row_hash: str
    messages: list[Message]
    completion: str
    system_digest: str
    slice: str
    verdict: str
    confidence: float | None
    inclusion_probability: float
    latency_us: int
    cost_usd: float | None
    created_at_us: int

    @property
    def verified(self) -> bool:
        """Whether the answer may be trusted as the teacher's: verified, or approved by a person."""
        return self.verdict in ("verified", "approved")


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """Where the pairs went: `given` = rows + everything else.

    `duplicates` had the input of a row that was kept; `disagreeing` belonged to one of the
    `disagreeing_inputs` whose answers contradict each other; `unsupported` hold more than text;
    `rejected` by a person; `untrusted` are neither verified nor in the holdout.
    """

    given: int
    inputs: int
    duplicates: int
    disagreeing_inputs: int
    disagreeing: int
    unsupported: int
    rejected: int
    untrusted: int
    train: int
    holdout: int
    holdout_verified: int
    slices: int

    def to_dict(self) -> dict[str, int]:
        """As JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Corpus:
    """Train and holdout rows, both in time order, with the manifest that freezes them."""

    train: tuple[CorpusRow, ...]
    holdout: tuple[CorpusRow, ...]
    manifest: Manifest
    report: CorpusReport

    @property
    def system_digests(self) -> frozenset[str]:
        """Digests of the system prompts seen in training ("" stands for none)."""
        return frozenset(row.system_digest for row in self.train)


def row_hash(messages: Sequence[Message], completion: str, row_key: bytes) -> str:
    """The keyed hash of one row (HMAC-SHA256, hex): equal rows of one key, equal hash."""
    content = orjson.dumps([list(messages), completion], option=orjson.OPT_SORT_KEYS)
    return hmac.new(row_key, b"row" + content, "sha256").hexdigest()


def weight_of(row: CorpusRow, most: float = MOST_WEIGHT) -> float:
    """The capped inverse of the row's inclusion probability, at least 1.

    Horvitz & Thompson (1952) with truncated weights. A probability of 0 gets the cap.
    """
    probability = min(1.0, max(row.inclusion_probability, 1.0 / most))
    return 1.0 / probability


def weights(rows: Iterable[CorpusRow], most: float = MOST_WEIGHT) -> list[float]:
    """`weight_of` each row, scaled to a mean of 1."""
    raw = [weight_of(row, most) for row in rows]
    mean = sum(raw) / len(raw) if raw else 1.0
    return [each / mean for each in raw]


def verdict_counts(rows: Iterable[CorpusRow]) -> Mapping[str, int]:
    """How many rows have each verdict."""
    counts: dict[str, Any] = {}
    for row in rows:
        counts[row.verdict] = counts.get(row.verdict, 0) + 1
    return dict(sorted(counts.items()))
