"""Exchanges that are handed over as the bytes of their call, and read by whoever writes them.

Belongs here: what such a row is, and what a reader makes of it. Does not: reading (who opens a
spool brings the reader). A gateway worker passes bytes on; to parse them there would take its event
loop's time from other calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from apprentice_pipeline.errors import Unstorable
from apprentice_pipeline.store.sealing import PlainRow

UNREAD: Final = "unread"
"""The table of a row that is an exchange unread: `first` and `second` are the request's and the
response's bytes, `facts` what its reader needs besides."""

Counts = Mapping[str, float]
Stream = tuple[str, str]


class Reading(NamedTuple):
    """The row that an unread one turned out to be, and what it adds to its stream's counters."""

    row: PlainRow
    counts: Counts


Reader = Callable[[PlainRow], Reading]
"""Reads an unread row. Whatever it raises, that row alone fails."""

OnCounts = Callable[[Mapping[Stream, Counts]], None]
"""Is told, once for each row that was read, what it adds; streams are (tenant, namespace)."""


def no_reader(row: PlainRow) -> Reading:
    """For a spool that gets no unread rows. Raises: Unstorable."""
    raise Unstorable(f"this spool cannot read an exchange of {row.namespace!r}")


def add_counts(sums: dict[Stream, dict[str, float]], stream: Stream, counts: Counts) -> None:
    """Adds `counts` to those of `stream`."""
    known = sums.setdefault(stream, {})
    for name, value in counts.items():
        known[name] = known.get(name, 0) + value


def add_all(sums: dict[Stream, dict[str, float]], more: Mapping[Stream, Counts]) -> None:
    """`add_counts` of every stream in `more`."""
    for stream, counts in more.items():
        add_counts(sums, stream, counts)


def spent(counts: Counts) -> tuple[dict[str, float], tuple[float, int] | None]:
    """What adds to the counters, and the spending in it: US dollars, and of how many calls."""
    told = dict(counts)
    priced = int(told.pop("priced", 0))
    return told, (told.get("cost_usd", 0.0), priced) if priced else None
