"""A copy of a response, taken while it passes.

Belongs here: the two ways to follow a response (events, or a body as a whole), with a bound on
memory; noticing where a stream's end begins. Does not: sending, reading the copy (`reading`).
Promise: nothing here raises; what cannot be followed is `unreadable`, what is too large
`oversize`, and the response passes all the same.
"""

from __future__ import annotations

from typing import Final

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.reading.calls import Form
from apprentice_pipeline.reading.encodings import Decoder, decoder
from apprentice_pipeline.wire.forms import WireFormat


class EventTee:
    """Follows a stream of events."""

    __slots__ = ("_decoder", "_follower", "_left", "_parts", "closed", "coding", "oversize",
                 "unreadable")  # fmt: skip
    form: Final[Form] = "events"

    def __init__(self, wire: WireFormat, endpoint: str, coding: str, limit: int) -> None:
        self._follower = wire.end_finder(endpoint)
        self._left = limit
        self._parts: list[bytes] = []
        self.coding = coding
        self.closed = False
        """Whether the body came to its clean end."""
        self.oversize = False
        self.unreadable = False
        self._decoder: Decoder | None = None
        if coding:
            try:
                self._decoder = decoder(coding, limit)
            except WireError:
                self.unreadable = True

    def feed(self, chunk: bytes) -> int | None:
        """Where in `chunk` the end of the response begins; None while it has not begun."""
        if self.oversize:
            return None
        self._left -= len(chunk)
        if self._left < 0:
            self.oversize = True
            self._parts.clear()
            return None
        self._parts.append(chunk)
        if self.unreadable:
            return None
        if self._decoder is None:
            return self._follower.terminal_offset if self._follower.feed(chunk) else None
        try:
            return 0 if self._follower.feed(self._decoder.feed(chunk)) else None
        except WireError:
            self.unreadable = True
            return None

    @property
    def ended(self) -> bool:
        """Whether the terminal event has come whole."""
        return self._follower.ended

    def body(self) -> bytes:
        """What has come."""
        return b"".join(self._parts)


class WholeTee:
    """Gathers a body that is read when it is whole."""

    __slots__ = ("_left", "_parts", "closed", "coding", "oversize")
    form: Final[Form] = "whole"

    def __init__(self, coding: str, limit: int) -> None:
        self._left = limit
        self._parts: list[bytes] = []
        self.coding = coding
        self.closed = False
        self.oversize = False

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes in."""
        self._left -= len(chunk)
        if self._left < 0:
            self.oversize = True
            self._parts.clear()
        elif not self.oversize:
            self._parts.append(chunk)

    def body(self) -> bytes:
        """What has come."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
