"""Server-sent events, incrementally: the WHATWG event stream format on bytes.

Belongs here: lines, fields and events. Does not: what an event means.
Promise: the same events for the same bytes, however they are cut into chunks; lines end in
LF, CR or CRLF, and a CRLF may be cut in two.
"""

from __future__ import annotations

from typing import NamedTuple

_LF, _CR, _COLON = 10, 13, 58
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event. `start` is where it begins in the chunk that was fed last (0 if before)."""

    name: bytes
    data: bytes
    start: int


class EventParser:
    """Turns chunks into events. `id` and `retry` fields and comments are skipped.

    `within`: the first chunk begins at an event of a stream that has begun before.
    """

    __slots__ = ("_after_cr", "_data", "_first", "_line_parts", "_name", "_start")

    def __init__(self, *, within: bool = False) -> None:
        self._line_parts: list[bytes] = []
        self._name = b""
        self._data: list[bytes] = []
        self._start: int | None = None
        self._after_cr = False
        self._first = not within

    @property
    def open_event(self) -> Event | None:
        """The event whose end has not come yet, as far as its whole lines tell; else None."""
        if self._start is None:
            return None
        return Event(self._name, b"\n".join(self._data), self._start)

    @property
    def between(self) -> bool:
        """Whether no event is open: what comes next begins one."""
        return self._start is None and not self._line_parts and not self._after_cr

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes, in order."""
        if not chunk:
            return []
        position = 1 if self._after_cr and chunk[0] == _LF else 0
        self._after_cr = chunk[-1] == _CR
        if self._start is not None:
            self._start = 0
        events: list[Event] = []
        for piece in (chunk[1:] if position else chunk).splitlines(keepends=True):
            start, position = position, position + len(piece)
            if piece[-1] != _LF and piece[-1] != _CR:
                self._line_parts.append(piece)
                break
            line = piece.rstrip(b"\r\n")
            if self._line_parts:
                line, start = b"".join((*self._line_parts, line)), 0
                self._line_parts.clear()
            if (event := self._take(line, start)) is not None:
                events.append(event)
        return events

    def close(self) -> list[Event]:
        """At the end of the bytes: what an absent last line break would have completed."""
        tail = self.feed(b"\n") if self._line_parts else []
        event = self._take(b"", 0)
        return [*tail, event] if event is not None else tail

    def _take(self, line: bytes, start: int) -> Event | None:
        if self._first:
            self._first, line = False, line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        if line[0] == _COLON:
            return None
        field, _, value = line.partition(b":")
        if self._start is None:
            self._start = start
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")
        return None

    def _dispatch(self) -> Event | None:
        name, data, start = self._name, self._data, self._start or 0
        self._name, self._data, self._start = b"", [], None
        return Event(name, b"\n".join(data), start) if data else None


def encode(data: bytes, name: str = "") -> bytes:
    """One event on the wire; `data` holds no line break (JSON does not)."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + data + b"\n\n"
