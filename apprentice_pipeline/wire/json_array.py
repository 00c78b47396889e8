"""A stream of JSON objects, incrementally: in an array, one a line, or one alone.

Belongs here: finding where one object ends and the next begins. Does not: what is in them.
Offers `streams.Parser`. Promise: the same objects for the same bytes, however they are cut.
"""

from __future__ import annotations

import re
from typing import Final

from apprentice_pipeline.wire.sse import Event

_QUOTE, _BACKSLASH, _OPEN = b'"'[0], b"\\"[0], b"{"[0]
_IN_TEXT: Final = re.compile(rb'["\\]')
_OUTSIDE: Final = re.compile(rb'["{}]')
_LOOK_BACK: Final = 64
"""Bytes of an open object's earlier chunks that are looked at again with the next one."""


class ObjectParser:
    """Turns chunks into events, one an outermost object; what stands between objects is skipped."""

    __slots__ = ("_depth", "_escaped", "_in_text", "_parts", "_start", "_tail")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._depth = 0
        self._in_text = False
        self._escaped = False
        self._start = 0
        self._tail = b""

    @property
    def open_event(self) -> Event | None:
        """The object whose end has not come yet: its newest bytes only; else None."""
        return Event(b"", self._tail, self._start) if self._depth else None

    def feed(self, chunk: bytes) -> list[Event]:
        """The objects that `chunk` completes, in order."""
        if not chunk:
            return []
        events: list[Event] = []
        self._start = 0
        position, self._escaped = int(self._escaped), False
        while found := (_IN_TEXT if self._in_text else _OUTSIDE).search(chunk, position):
            at = found.start()
            position = at + 1
            if chunk[at] == _BACKSLASH:
                position += 1
            elif chunk[at] == _QUOTE:
                self._in_text = not self._in_text
            elif (event := self._brace(chunk, at)) is not None:
                events.append(event)
        self._escaped = position > len(chunk)
        self._keep(chunk)
        return events

    def close(self) -> list[Event]:
        """At the end of the bytes: an object without its end is none."""
        return []

    def _brace(self, chunk: bytes, at: int) -> Event | None:
        if chunk[at] == _OPEN:
            if not self._depth:
                self._start = at
            self._depth += 1
            return None
        if not self._depth:
            return None
        self._depth -= 1
        if self._depth:
            return None
        data = b"".join((*self._parts, chunk[self._start : at + 1]))
        begun = 0 if self._parts else self._start
        self._parts.clear()
        return Event(b"", data, begun)

    def _keep(self, chunk: bytes) -> None:
        """Remembers the open object's bytes of this chunk."""
        if not self._depth:
            self._tail = b""
            return
        newest = chunk[self._start :]
        self._tail = (self._tail if self._parts else b"")[-_LOOK_BACK:] + newest
        self._parts.append(newest)
