"""What the stand-in frontier answers: settings, the table of known answers, token estimates.

No HTTP and no provider format here. Promises: the same settings, table and order of calls give
the same answers, and an answer's text never appears in a message or a log.
"""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from apprentice_pipeline.errors import UsageError

MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001")
_SHARES = ("error_share", "overload_share", "cut_share", "uncertain_share")
_DURATIONS = ("latency_ms", "jitter_ms", "chunk_delay_ms")
_LABEL_LIMIT = 4096
PARTS = "$reply"
"""The one key of a table answer that is more than text (see `Parts`)."""


@dataclass(frozen=True, slots=True)
class FrontierSettings:
    """How the stand-in behaves; the defaults are a fast, faultless, certain frontier.

    latency_ms, jitter_ms: every answer waits `latency_ms` plus a seeded draw from
        [0, `jitter_ms`]; chunk_delay_ms: the wait before every event of a stream.
    chunk_chars: characters of text in one stream event.
    error_share: share of requests answered 500; overload_share: answered 529 (Anthropic) or 503
        (OpenAI); cut_share: share of streams that break off before their end.
    rate_limit: requests allowed in each window of `rate_window_s` seconds, then 429; None is no
        limit.
    uncertain_share: share of known texts, by a keyed hash, whose first answer is the table's and
        whose every further answer is another one of the table's answers.
    fallback_text: the answer to an unknown text; None echoes the text.
    require_key: the only API key accepted; None accepts any, or none.
    cache_min_tokens: a prompt prefix of at least so many tokens counts as cached when it comes
        again (Anthropic: only where the request marks `cache_control`).
    compress: answers are compressed with gzip where the request accepts it.
    repeatable: ids count from zero and every time is the same, so that two stand-ins that are
        asked the same in the same order answer the same bytes.

    Raises: UsageError on a share outside [0, 1] or a negative duration or limit.
    """

    seed: int = 7
    models: tuple[str, ...] = MODELS
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    chunk_delay_ms: float = 0.0
    chunk_chars: int = 16
    error_share: float = 0.0
    overload_share: float = 0.0
    cut_share: float = 0.0
    rate_limit: int | None = None
    rate_window_s: float = 60.0
    uncertain_share: float = 0.0
    fallback_text: str | None = '{"answer":"I cannot tell"}'
    require_key: str | None = field(default=None, repr=False)
    cache_min_tokens: int = 1024
    compress: bool = False
    repeatable: bool = False

    def __post_init__(self) -> None:
        faults = [f"{n} must be in [0, 1]" for n in _SHARES if not 0 <= getattr(self, n) <= 1]
        faults += [f"{n} must not be negative" for n in _DURATIONS if getattr(self, n) < 0]
        if self.error_share + self.overload_share > 1:
            faults.append("error_share and overload_share together must not exceed 1")
        if self.chunk_chars < 1 or self.cache_min_tokens < 1 or self.rate_window_s <= 0:
            faults.append("chunk_chars, cache_min_tokens and rate_window_s must be positive")
        if self.rate_limit is not None and self.rate_limit < 0:
            faults.append("rate_limit must not be negative")
        if faults:
            raise UsageError("frontier settings: " + "; ".join(faults), remedy="correct them")


def fold(text: str) -> str:
    """The form texts are looked up by: NFC, every run of white space one blank, no edges."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def estimate_tokens(text: str) -> int:
    """A deterministic token figure: one for every four bytes of UTF-8, begun ones counted."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return (size + 3) // 4


def answer_text(answer: Any) -> str:
    """An answer as the frontier words it: a string as it is, anything else as compact JSON."""
    if isinstance(answer, dict) and PARTS in answer:
        answer = answer[PARTS].get("text", "")
    return answer if isinstance(answer, str) else orjson.dumps(answer).decode()


@dataclass(frozen=True, slots=True)
class Parts:
    """What an answer has beside its text, as a table writes it under `$reply`.

    `thinking` is given where the request asks the model to think, `calls` (name and arguments as
    JSON text) where it offers tools; `refusal` replaces the text, `stop` the provider's own word
    for how the answer ended.
    """

    thinking: str = ""
    refusal: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    stop: str = ""


TEXT_ALONE = Parts()


@dataclass(frozen=True, slots=True)
class Drawn:
    """One answer: its text, whether the table knew the request, whether it was a resample."""

    text: str
    known: bool
    resample: bool
    parts: Parts = TEXT_ALONE


class Answers:
    """The table of known answers, and the memory of how often an uncertain text was asked."""

    def __init__(self, settings: FrontierSettings, table: Mapping[str, Any]) -> None:
        self._settings = settings
        self._parts = {
            fold(text): _parts(answer[PARTS])
            for text, answer in table.items()
            if isinstance(answer, dict) and PARTS in answer
        }
        self._table = {fold(text): answer_text(answer) for text, answer in table.items()}
        labels = sorted(set(self._table.values()))
        random.Random(settings.seed).shuffle(labels)
        self._labels = labels[:_LABEL_LIMIT]
        self._places = {label: place for place, label in enumerate(self._labels)}
        self._asked: dict[str, int] = {}
        self._key = settings.seed.to_bytes(16, "big", signed=True)

    def __len__(self) -> int:
        return len(self._table)

    def draw(self, text: str) -> Drawn:
        """The answer to `text`, which may be the text itself or a JSON object with a `text`."""
        key = fold(text)
        right = self._table.get(key)
        if right is None:
            key, right = self._within(text)
        if right is None:
            fallback = self._settings.fallback_text
            return Drawn(text if fallback is None else fallback, known=False, resample=False)
        if (parts := self._parts.get(key)) is not None:
            return Drawn(right, known=True, resample=False, parts=parts)
        return self._sample(key, right)

    def _within(self, text: str) -> tuple[str, str | None]:
        """Looks inside a JSON object, as sent by callers whose input has several fields."""
        if not text.lstrip().startswith("{"):
            return "", None
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return "", None
        inner = value.get("text") if isinstance(value, dict) else None
        key = fold(inner) if isinstance(inner, str) else ""
        return key, self._table.get(key)

    def _sample(self, key: str, right: str) -> Drawn:
        if not self._settings.uncertain_share or len(self._labels) < 2:
            return Drawn(right, known=True, resample=False)
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), key=self._key).digest()
        if int.from_bytes(digest[:8], "big") >= self._settings.uncertain_share * 2**64:
            return Drawn(right, known=True, resample=False)
        turn = self._asked.get(key, 0)
        self._asked[key] = turn + 1
        if turn == 0:
            return Drawn(right, known=True, resample=False)
        others = len(self._labels) - 1
        step = (int.from_bytes(digest[8:16], "big") + turn) % others
        place = (self._places.get(right, 0) + 1 + step) % len(self._labels)
        return Drawn(self._labels[place], known=True, resample=True)


def _parts(given: Mapping[str, Any]) -> Parts:
    calls = [
        (call["name"], orjson.dumps(call["arguments"]).decode()) for call in given.get("calls", ())
    ]
    return Parts(
        thinking=given.get("thinking", ""),
        refusal=given.get("refusal", ""),
        calls=tuple(calls),
        stop=given.get("stop", ""),
    )
