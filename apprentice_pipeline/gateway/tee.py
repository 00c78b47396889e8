"""Reading a response while it passes.

Belongs here: the two ways to follow a response (events, or a body as a whole), with a bound on
memory. Does not: sending, recording.
Promise: nothing here raises; what cannot be read is `unreadable`, what is too large `oversize`,
and the response passes all the same.
"""

from __future__ import annotations

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.gateway.encodings import Decoder, decoded, decoder
from apprentice_pipeline.wire.forms import WireFormat, WireResponse


class EventTee:
    """Follows a stream of events."""

    __slots__ = ("_decoder", "_left", "_reader", "oversize", "unreadable")

    def __init__(self, wire: WireFormat, endpoint: str, coding: str, limit: int) -> None:
        self._reader = wire.stream_reader(endpoint)
        self._left = limit
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
        if self.oversize or self.unreadable:
            return None
        self._left -= len(chunk)
        if self._left < 0:
            self.oversize = True
            return None
        if self._decoder is None:
            return self._reader.terminal_offset if self._reader.feed(chunk) else None
        try:
            return 0 if self._reader.feed(self._decoder.feed(chunk)) else None
        except WireError:
            self.unreadable = True
            return None

    @property
    def ended(self) -> bool:
        """Whether the terminal event has come whole."""
        return self._reader.ended

    def close(self) -> None:
        """At the clean end of the body."""
        self._reader.close()

    def result(self) -> tuple[WireResponse | None, bool]:
        """The answer as far as it came, and whether it came whole: an end alone is no answer."""
        response = self._reader.result()
        empty = self._reader.complete and response is None
        self.unreadable = self.unreadable or self._reader.malformed or empty
        return response, self._reader.complete and not self.unreadable


class WholeTee:
    """Gathers a body that is read when it is whole."""

    __slots__ = ("_coding", "_left", "_limit", "_parts", "oversize", "unreadable")

    def __init__(self, coding: str, limit: int) -> None:
        self._coding = coding
        self._limit = limit
        self._left = limit
        self._parts: list[bytes] = []
        self.oversize = False
        self.unreadable = False

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes in."""
        self._left -= len(chunk)
        if self._left < 0:
            self.oversize = True
            self._parts.clear()
        elif not self.oversize:
            self._parts.append(chunk)

    def read(self, wire: WireFormat, endpoint: str) -> WireResponse | None:
        """The answer in the body, None (and `unreadable`) where there is none to be read."""
        try:
            body = decoded(b"".join(self._parts), self._coding, self._limit)
            return wire.read_response(endpoint, body)
        except WireError:
            self.unreadable = True
            return None
