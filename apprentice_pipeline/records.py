"""The records that stages hand to each other, with their Arrow schemas.

Belongs here: frozen facts in the field's words. Does not: behaviour, storage, parsing.
Times are UTC microseconds since the epoch (`_us`) unless a name says otherwise;
money is US dollars (`_usd`).
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DEFAULT_TENANT = "default"
DEFAULT_NAMESPACE = "default"

WHOLE = "whole"
CUT = "cut"
REFUSED = "refused"

Message = dict[str, Any]


def is_name(text: str) -> bool:
    """Whether `text` may name a tenant, a namespace or a task."""
    return NAME_PATTERN.fullmatch(text) is not None


def now_us() -> int:
    """The wall clock, UTC microseconds. Shells call it; pure code takes time as an argument."""
    return time.time_ns() // 1_000


def new_pair_id(at_us: int) -> str:
    """A time-ordered unique id (UUID version 7, RFC 9562) for one exchange."""
    moment = f"{(at_us // 1_000) & ((1 << 48) - 1):012x}"
    noise = _noise()
    variant = "89ab"[int(noise[3], 16) & 3]
    return f"{moment[:8]}-{moment[8:]}-7{noise[:3]}-{variant}{noise[4:7]}-{noise[7:19]}"


def _noise() -> str:
    """Ten random bytes in hexadecimal. The kernel is asked for many at a time: to ask it for each
    takes longer than all the rest of an id."""
    while True:
        try:
            return _NOISE.pop()
        except IndexError:
            drawn = os.urandom(10 * _DRAWN).hex()
            _NOISE.extend(drawn[at : at + 20] for at in range(0, len(drawn), 20))


_DRAWN = 256
_NOISE: list[str] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_NOISE.clear)  # no two processes draw the same


def date_of(at_us: int) -> str:
    """The UTC date (`YYYY-MM-DD`) that a moment falls on: the lake's partition value."""
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d")


def rfc3339(at_us: int) -> str:
    """A moment as RFC 3339 text, UTC, microseconds."""
    moment = datetime.fromtimestamp(at_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_us % 1_000_000:06d}Z"


class Usage(NamedTuple):
    """Tokens of one call. `source` is `provider`, `estimated` or `none`.

    `hour_write_tokens`: those of `cache_write_tokens` that a cache keeps for an hour.
    `service_tier`: a tier that is not billed at list prices, as the provider named it. Both are
    there for the price; neither is stored.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    source: str = "none"
    hour_write_tokens: int | None = None
    service_tier: str = ""


class Exchange(NamedTuple):
    """One request and its response as they went over the wire, content unsealed.

    `input` is `{"messages": [...], "parameters": {...}}`; `output` is the answer's text, or
    `{"content": [...], "tool_calls": [...]}` where it is more than text; None when none came.
    `ending` is how the answer ended, in our words: `whole`, `cut` (by a limit, a filter or a
    pause) or `refused`. Sealed before it touches a disk (`store.spool`).
    """

    pair_id: str
    tenant: str
    namespace: str
    created_at_us: int
    provider: str
    endpoint: str
    model: str
    status: int
    complete: bool
    streamed: bool
    served_by: str
    input: dict[str, Any]
    output: Any
    latency_us: int
    first_byte_us: int | None
    usage: Usage
    cost_usd: float | None
    inclusion_probability: float = 1.0
    origin: str = "gateway"
    ending: str = WHOLE

    @property
    def is_pair(self) -> bool:
        """Complete, successful, answered in full by the remote model: fit to learn from."""
        return (
            self.complete
            and self.ending == WHOLE
            and 200 <= self.status < 300
            and self.served_by == "remote"
            and self.output is not None
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """A captured (input, output), opened in memory; `verdict` is the newest, if any."""

    pair_id: str
    tenant: str
    namespace: str
    created_at_us: int
    provider: str
    model: str
    input: dict[str, Any]
    output: Any
    latency_us: int
    input_tokens: int | None
    output_tokens: int | None
    usage_source: str
    cost_usd: float | None
    inclusion_probability: float
    dedup_key: bytes
    verdict: str = "unverified"
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier said of a pair. `verdict`: verified, quarantined, approved or rejected.

    `confidence` is the share of resamples that agreed, None when it was not resampled.
    """

    pair_id: str
    namespace: str
    decided_at_us: int
    verifier: str
    verdict: str
    confidence: float | None
    resamples: int
    reason: str


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A remote and a local answer to the same request, scored in [0, 1]; no content."""

    pair_id: str
    namespace: str
    created_at_us: int
    version: int
    phase: str
    confidence: float
    score: float
    sampled: bool
    served: bool
    tau: float | None
    pi: float
    remote_latency_us: int
    local_latency_us: int


@dataclass(frozen=True, slots=True)
class Feedback:
    """A person's label of a pair: approve, reject or edit (`edit` is the corrected output)."""

    pair_id: str
    namespace: str
    created_at_us: int
    action: str
    edit: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to one request, whoever gave it; `ending` as an `Exchange` has it."""

    output: Any
    model: str
    served_by: str
    latency_us: int
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    confidence: float | None = None
    ending: str = WHOLE


def captures_schema() -> pa.Schema:
    """Lake table `captures`: one row an exchange; `input` and `output` sealed."""
    import pyarrow as pa

    return pa.schema(
        [
            ("pair_id", pa.string()),
            ("namespace", pa.string()),
            ("date", pa.string()),
            ("created_at_us", pa.int64()),
            ("provider", pa.string()),
            ("endpoint", pa.string()),
            ("model", pa.string()),
            ("status", pa.int32()),
            ("complete", pa.bool_()),
            ("ending", pa.string()),
            ("streamed", pa.bool_()),
            ("is_pair", pa.bool_()),
            ("served_by", pa.string()),
            ("origin", pa.string()),
            ("input", pa.binary()),
            ("output", pa.binary()),
            ("dedup_key", pa.binary()),
            ("latency_us", pa.int64()),
            ("first_byte_us", pa.int64()),
            ("input_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("cached_tokens", pa.int64()),
            ("cache_write_tokens", pa.int64()),
            ("usage_source", pa.string()),
            ("cost_usd", pa.float64()),
            ("inclusion_probability", pa.float64()),
        ]
    )


def verdicts_schema() -> pa.Schema:
    """Lake table `verdicts`: append-only, newest `decided_at_us` wins."""
    import pyarrow as pa

    return pa.schema(
        [
            ("pair_id", pa.string()),
            ("namespace", pa.string()),
            ("date", pa.string()),
            ("decided_at_us", pa.int64()),
            ("verifier", pa.string()),
            ("verdict", pa.string()),
            ("confidence", pa.float64()),
            ("resamples", pa.int32()),
            ("reason", pa.string()),
        ]
    )


def comparisons_schema() -> pa.Schema:
    """Lake table `comparisons`: scores and probabilities only."""
    import pyarrow as pa

    return pa.schema(
        [
            ("pair_id", pa.string()),
            ("namespace", pa.string()),
            ("date", pa.string()),
            ("created_at_us", pa.int64()),
            ("version", pa.int64()),
            ("phase", pa.string()),
            ("confidence", pa.float64()),
            ("score", pa.float64()),
            ("sampled", pa.bool_()),
            ("served", pa.bool_()),
            ("tau", pa.float64()),
            ("pi", pa.float64()),
            ("remote_latency_us", pa.int64()),
            ("local_latency_us", pa.int64()),
        ]
    )


def feedback_schema() -> pa.Schema:
    """Lake table `feedback`: `edit` sealed, null unless the action is edit."""
    import pyarrow as pa

    return pa.schema(
        [
            ("pair_id", pa.string()),
            ("namespace", pa.string()),
            ("date", pa.string()),
            ("created_at_us", pa.int64()),
            ("action", pa.string()),
            ("edit", pa.binary()),
        ]
    )
