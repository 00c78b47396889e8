"""Records to sealed rows and back: what a disk may see of an exchange.

Belongs here: canonical JSON, which fields are sealed, which parameters make two requests equal.
Does not: ciphers and keys (`vault`), where rows are kept.
Promise: content leaves this module sealed, or not at all; what goes in comes out equal.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from apprentice_pipeline.errors import CannotOpen, StoreError, Unstorable
from apprentice_pipeline.records import (
    ComparisonRow,
    Exchange,
    Feedback,
    Verdict,
    date_of,
    is_name,
)
from apprentice_pipeline.vault import Vault

Record = Exchange | ComparisonRow | Verdict | Feedback

CAPTURES: Final = "captures"
VERDICTS: Final = "verdicts"
COMPARISONS: Final = "comparisons"
FEEDBACK: Final = "feedback"
TABLES: Final = (CAPTURES, VERDICTS, COMPARISONS, FEEDBACK)

MOST_LEVELS: Final = 254
"""How deeply content may nest: what orjson writes. Deeper content could not be exported again."""
INDIFFERENT: Final = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "seed",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)
"""Parameters that do not change what is asked: requests that differ in these alone are equal."""


class PlainRow(NamedTuple):
    """A record as bytes, content still readable: lives in memory only.

    `facts` is the JSON of every column that holds no content; `first` and `second` are the
    content to seal: input and output, or nothing and the edit. `asked` is what makes requests
    equal (`dedup_bytes`), where it is known already.
    """

    table: str
    tenant: str
    namespace: str
    pair_id: str
    facts: bytes
    first: bytes | None = None
    second: bytes | None = None
    asked: bytes | None = None

    def __repr__(self) -> str:
        """Without its content: it may end in a message."""
        return f"PlainRow({self.table!r}, {self.pair_id!r}, {self.size} bytes)"

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        return len(self.facts) + len(self.first or b"") + len(self.second or b"") + 200


class SealedRow(NamedTuple):
    """A record as it may be stored: `first`, `second` sealed, `dedup_key` keyed."""

    table: str
    tenant: str
    namespace: str
    pair_id: str
    facts: bytes
    first: bytes | None = None
    second: bytes | None = None
    dedup_key: bytes | None = None


def canonical(value: Any) -> bytes:
    """`value` as JSON with sorted keys: equal values, equal bytes.

    Raises: Unstorable when it is not JSON, or has more than `MOST_LEVELS`.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):
        pass
    try:  # what orjson refuses and JSON allows: huge integers, lone surrogates
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unstorable(
            f"a record's content is not JSON ({type(error).__name__})",
            remedy="hand over what the provider's JSON was parsed to",
        ) from None
    if not _nests_within(value, MOST_LEVELS):
        raise Unstorable(f"a record's content has more than {MOST_LEVELS} levels")
    return _SLOW + text.encode()


def parse(data: bytes) -> Any:
    """The value of `canonical` bytes."""
    return json.loads(data) if data.startswith(_SLOW) else orjson.loads(data)


def dedup_bytes(request: Mapping[str, Any]) -> bytes:
    """What makes two requests equal: messages, and the parameters that change the answer."""
    parameters = request.get("parameters") or {}
    kept = {name: value for name, value in parameters.items() if name not in INDIFFERENT}
    return canonical({"messages": request.get("messages"), "parameters": kept})


def plain_row(record: Record, tenant: str) -> PlainRow:
    """`record` as bytes, taken now: later changes to its parts are not seen.

    Raises: Unstorable when it is not JSON; StoreError when its tenant or namespace is no name.
    """
    if not _is_name(tenant) or not _is_name(record.namespace):
        raise StoreError("a record's tenant or namespace is not a name", remedy=_NAME_REMEDY)
    if isinstance(record, Exchange):
        return _exchange_row(record, tenant)
    if isinstance(record, Feedback):
        return _feedback_row(record, tenant)
    names = _VERDICT if isinstance(record, Verdict) else _COMPARISON
    at_us = record.decided_at_us if isinstance(record, Verdict) else record.created_at_us
    facts = {name: getattr(record, name) for name in names}
    return PlainRow(
        table=VERDICTS if isinstance(record, Verdict) else COMPARISONS,
        tenant=tenant,
        namespace=record.namespace,
        pair_id=record.pair_id,
        facts=orjson.dumps(facts | {"date": _date(at_us // _DAY_US)}),
    )


def seal(vault: Vault, row: PlainRow) -> SealedRow:
    """The row with its content sealed. Raises: VaultError, StoreError from the key store."""
    first, second = _SEALED[row.table]
    named = ((first, row.first), (second, row.second))
    contents = {field: content for field, content in named if content is not None}
    sealed: dict[str, bytes] = {}
    if contents:
        sealed = vault.seal_row(
            contents, tenant=row.tenant, namespace=row.namespace, pair_id=row.pair_id
        )
    key = None
    if row.table == CAPTURES and row.first is not None:
        asked = dedup_bytes(parse(row.first)) if row.asked is None else row.asked
        key = vault.fingerprint(row.tenant, "dedup", asked)
    return SealedRow(
        row.table,
        row.tenant,
        row.namespace,
        row.pair_id,
        row.facts,
        sealed.get(first),
        sealed.get(second),
        key,
    )


def open_field(
    vault: Vault, sealed: bytes, *, tenant: str, namespace: str, pair_id: str, field: str
) -> Any:
    """The value that was sealed as `field` (`input`, `output` or `edit`).

    Raises: KeyMissing when the tenant's key is gone; CannotOpen when it does not open.
    """
    plaintext = vault.open(sealed, tenant=tenant, namespace=namespace, pair_id=pair_id, field=field)
    try:
        return parse(plaintext)
    except ValueError:
        raise CannotOpen(f"{field} of pair {pair_id} is not JSON") from None


def _nests_within(value: Any, most: int) -> bool:
    """Whether `value`, which has no cycles, has no more than `most` levels."""
    level = [value]
    for _ in range(most):
        level = [
            part
            for whole in level
            if isinstance(whole, dict | list | tuple)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
    return not any(isinstance(part, dict | list | tuple) for part in level)


def _exchange_row(exchange: Exchange, tenant: str) -> PlainRow:
    if exchange.tenant != tenant:
        raise StoreError(f"an exchange of tenant {exchange.tenant!r} was put for {tenant!r}")
    usage = exchange.usage
    facts = {  # written out, for it is done for each
        "pair_id": exchange.pair_id,
        "namespace": exchange.namespace,
        "created_at_us": exchange.created_at_us,
        "provider": exchange.provider,
        "endpoint": exchange.endpoint,
        "model": exchange.model,
        "status": exchange.status,
        "complete": exchange.complete,
        "ending": exchange.ending,
        "streamed": exchange.streamed,
        "served_by": exchange.served_by,
        "origin": exchange.origin,
        "latency_us": exchange.latency_us,
        "first_byte_us": exchange.first_byte_us,
        "cost_usd": exchange.cost_usd,
        "inclusion_probability": exchange.inclusion_probability,
        "is_pair": exchange.is_pair,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "usage_source": usage.source,
        "date": _date(exchange.created_at_us // _DAY_US),
    }
    first = canonical(exchange.input)
    return PlainRow(
        table=CAPTURES,
        tenant=tenant,
        namespace=exchange.namespace,
        pair_id=exchange.pair_id,
        facts=orjson.dumps(facts),
        first=first,
        second=None if exchange.output is None else canonical(exchange.output),
        asked=first if _is_asked_alone(exchange.input) else None,
    )


def _is_asked_alone(request: Mapping[str, Any]) -> bool:
    """Whether there is nothing in the input but what `dedup_bytes` keeps of it."""
    parameters = request.get("parameters")
    return (
        request.keys() == _ASKED
        and isinstance(parameters, dict)
        and INDIFFERENT.isdisjoint(parameters)
    )


def _feedback_row(feedback: Feedback, tenant: str) -> PlainRow:
    facts = {
        "pair_id": feedback.pair_id,
        "namespace": feedback.namespace,
        "created_at_us": feedback.created_at_us,
        "action": feedback.action,
        "date": _date(feedback.created_at_us // _DAY_US),
    }
    return PlainRow(
        table=FEEDBACK,
        tenant=tenant,
        namespace=feedback.namespace,
        pair_id=feedback.pair_id,
        facts=orjson.dumps(facts),
        second=canonical(feedback.edit) if feedback.action == "edit" else None,
    )


@functools.lru_cache(maxsize=16)
def _date(day: int) -> str:
    return date_of(day * _DAY_US)


_is_name = functools.lru_cache(maxsize=1_024)(is_name)
_ASKED: Final = {"messages", "parameters"}
_SLOW: Final = b" "
"""Marks JSON that orjson would read as something else (huge integers) or not at all."""
_DAY_US: Final = 86_400_000_000
_NAME_REMEDY: Final = "names match [a-z0-9][a-z0-9_-]{0,62}"
_SEALED: Final[Mapping[str, Sequence[str]]] = {
    CAPTURES: ("input", "output"),
    FEEDBACK: ("", "edit"),
    VERDICTS: ("", ""),
    COMPARISONS: ("", ""),
}
_VERDICT: Final = (
    "pair_id",
    "namespace",
    "decided_at_us",
    "verifier",
    "verdict",
    "confidence",
    "resamples",
    "reason",
)
_COMPARISON: Final = (
    "pair_id",
    "namespace",
    "created_at_us",
    "version",
    "phase",
    "confidence",
    "score",
    "sampled",
    "served",
    "tau",
    "pi",
    "remote_latency_us",
    "local_latency_us",
)
