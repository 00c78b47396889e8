"""What a gateway worker and its spool's writer process say to each other, as bytes.

Belongs here: records and acknowledgements to frames and back; pure. Does not: sockets, which
live in memory only: content is readable in these frames.

A record is `lengths(7 x 4) | number(8) | parts`; the length of a part that is None is 2³²-1. An
acknowledgement is `number(8) | length(4) | JSON`: everything up to the number is decided, and
committed but for the numbers that the JSON names with their errors; it has the counts besides.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from apprentice_pipeline.errors import (
    ApprenticeError,
    CannotOpen,
    KeyMissing,
    StorageFull,
    StoreError,
    VaultError,
)
from apprentice_pipeline.store.sealing import PlainRow
from apprentice_pipeline.store.unread import Counts, Stream

_RECORD: Final = struct.Struct(">7IQ")
_ACK: Final = struct.Struct(">QI")
_NONE: Final = 0xFFFF_FFFF
READY: Final = _ACK.pack(0, 0)
"""A writer's first word: an acknowledgement of nothing."""


class NumberedRow(NamedTuple):
    """A record still readable, with the number it will have in the spool."""

    seq: int
    row: PlainRow


class Written(NamedTuple):
    """What became of a batch: an outcome a record, in order (None is committed), and what those
    that had to be read add to the counters."""

    outcome: list[Exception | None]
    counts: dict[Stream, dict[str, float]]


def record_frame(numbered: NumberedRow) -> bytes:
    """One record for the writer."""
    row = numbered.row
    parts = (
        row.table.encode(),
        row.tenant.encode(),
        row.namespace.encode(),
        row.pair_id.encode(),
        row.facts,
        row.first,
        row.second,
    )
    lengths = [_NONE if part is None else len(part) for part in parts]
    return b"".join((_RECORD.pack(*lengths, numbered.seq), *filter(None, parts)))


class RecordReader:
    """Gathers bytes into records."""

    def __init__(self) -> None:
        self._frames = b""
        self._rest: list[bytes] = []
        self._wanted = _RECORD.size
        """Bytes without which the record that has begun cannot be whole."""
        self._have = 0

    def feed(self, data: bytes) -> list[NumberedRow]:
        """The records that are whole now."""
        self._rest.append(data)
        self._have += len(data)
        if self._have < self._wanted:
            return []
        whole = data if len(self._rest) == 1 else b"".join(self._rest)
        found, start, size = [], 0, len(whole)
        while True:
            body = start + _RECORD.size
            if size < body:
                self._wanted = _RECORD.size
                break
            *lengths, seq = _RECORD.unpack_from(whole, start)
            end = body + sum(lengths) - _NONE * lengths.count(_NONE)
            if size < end:
                self._wanted = end - start
                break
            found.append(NumberedRow(seq, _row(whole, body, lengths)))
            start = end
        self._frames = whole[:start]
        self._rest = [whole[start:]] if start < size else []
        self._have = size - start
        return found

    def frames(self) -> bytes:
        """The bytes of the records that `feed` returned last, given out once."""
        frames, self._frames = self._frames, b""
        return frames


def _row(data: bytes, start: int, lengths: Sequence[int]) -> PlainRow:
    """The record in `data` whose parts begin at `start`; written out, for it is done for each."""
    table, tenant, namespace, pair_id, facts, first, second = lengths
    at_tenant = start + table
    at_namespace = at_tenant + tenant
    at_pair = at_namespace + namespace
    at_facts = at_pair + pair_id
    at_first = at_facts + facts
    at_second = at_first if first == _NONE else at_first + first
    return PlainRow(
        data[start:at_tenant].decode(),
        data[at_tenant:at_namespace].decode(),
        data[at_namespace:at_pair].decode(),
        data[at_pair:at_facts].decode(),
        data[at_facts:at_first],
        None if first == _NONE else data[at_first:at_second],
        None if second == _NONE else data[at_second : at_second + second],
    )


class Decided(NamedTuple):
    """What became of every record up to `newest`; those not in `failed` are committed."""

    newest: int
    failed: Mapping[int, Exception]
    counts: Mapping[Stream, Counts]


def acknowledgement(batch: Sequence[NumberedRow], written: Written) -> bytes:
    """What became of a batch."""
    failed = [
        (each.seq, *_described(error))
        for each, error in zip(batch, written.outcome, strict=True)
        if error is not None
    ]
    return _told(batch[-1].seq, failed, written.counts)


def later_counts(counts: Mapping[Stream, Counts]) -> bytes:
    """What records add to the counters that were acknowledged before they were read."""
    return _told(0, [], counts)


def _told(
    newest: int, failed: Sequence[tuple[int, str, str, str]], counts: Mapping[Stream, Counts]
) -> bytes:
    sums = [(*stream, each) for stream, each in counts.items()]
    told = orjson.dumps((failed, sums)) if failed or sums else b""
    return _ACK.pack(newest, len(told)) + told


class AcknowledgementReader:
    """Gathers bytes into acknowledgements."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[Decided]:
        """The acknowledgements that are whole now."""
        self._data += data
        while len(self._data) >= _ACK.size:
            newest, length = _ACK.unpack_from(self._data)
            end = _ACK.size + length
            if len(self._data) < end:
                return
            told, self._data = self._data[_ACK.size : end], self._data[end:]
            failed, counts = orjson.loads(told) if told else ((), ())
            yield Decided(
                newest,
                {seq: _error(*described) for seq, *described in failed},
                {(tenant, namespace): sums for tenant, namespace, sums in counts},
            )


def _described(error: Exception) -> tuple[str, str, str]:
    if isinstance(error, ApprenticeError):
        return type(error).__name__, error.message, error.remedy
    return "StoreError", f"the spool failed: {type(error).__name__}", ""


def _error(kind: str, message: str, remedy: str) -> Exception:
    return _KINDS.get(kind, StoreError)(message, remedy=remedy)


_KINDS: Final[Mapping[str, type[ApprenticeError]]] = {
    kind.__name__: kind for kind in (CannotOpen, KeyMissing, StorageFull, StoreError, VaultError)
}
