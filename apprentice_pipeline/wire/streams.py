"""Following one streamed answer while its bytes pass by.

Belongs here: feeding events to a provider's assembly, finding the terminal event, with or without
reading what comes before it. Does not: what the events of a provider mean (its module's assembly
knows).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.wire.forms import MALFORMED, WireResponse
from apprentice_pipeline.wire.sse import Event, EventParser


class Assembly(Protocol):
    """Puts one answer together from its events."""

    def is_terminal(self, event: Event) -> bool:
        """Whether an event is the last, told from its name and as much data as has come."""
        ...

    def add(self, event: Event) -> None:
        """Takes one event in. Raises: WireError or any of `forms.MALFORMED`."""
        ...

    def response(self) -> WireResponse | None:
        """The answer as far as it came, None while there is none."""
        ...


class Parser(Protocol):
    """Turns chunks of a stream into events, the same ones however the bytes are cut."""

    @property
    def open_event(self) -> Event | None:
        """The event whose end has not come yet, as far as it can be told; else None."""
        ...

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes, in order."""
        ...

    def close(self) -> list[Event]:
        """At the clean end of the bytes: what that end completes."""
        ...


class Follower(Protocol):
    """Knows where the end of a stream begins: a `StreamReader`, or an `EndFinder`."""

    @property
    def terminal_offset(self) -> int | None:
        """Where, in the chunk fed last, the end begins (0 when it began before); else None."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the terminal event came whole."""
        ...

    def feed(self, chunk: bytes) -> bool:
        """Takes the next bytes in; True once the end has begun. Never raises."""
        ...


class EndFinder:
    """Finds where the end of a stream of events begins, and reads next to nothing before it.

    No terminal event is without one of `marks`: chunks that hold none are passed over, and only
    the event around a mark is parsed and asked about. What a `StreamReader` says of the same bytes,
    it says too, at a tenth of the cost.
    """

    __slots__ = ("_carried", "_is_terminal", "_marks", "_overlap", "_parser", "_tail", "ended",
                 "terminal_offset")  # fmt: skip

    def __init__(self, is_terminal: Callable[[Event], bool], *marks: bytes) -> None:
        self._is_terminal = is_terminal
        self._marks = marks
        self._overlap = max(map(len, marks)) - 1
        self._carried: list[bytes] = []
        """What came since the last event's end, while nothing is parsed."""
        self._tail = b""
        self._parser: EventParser | None = EventParser()
        self.ended = False
        self.terminal_offset: int | None = None

    def feed(self, chunk: bytes) -> bool:
        """See `Follower`."""
        seen = self.terminal_offset is not None
        if seen:
            self.terminal_offset = 0
        if self.ended or not chunk:
            return seen
        if self._parser is None:
            seam = self._tail + chunk[: self._overlap]
            if not any(mark in chunk or mark in seam for mark in self._marks):
                self._pass_over(chunk)
                return False
        self._parse(chunk)
        return self.terminal_offset is not None

    def _pass_over(self, chunk: bytes) -> None:
        """Keeps what belongs to the open event, and nothing of those before it."""
        seam = self._tail[-1:] + chunk
        end = max(seam.rfind(blank) for blank in _BLANK_LINES)
        if end < 0:
            self._carried.append(chunk)
        else:
            self._carried = [seam[end + 2 :]]
        self._tail = (self._tail + chunk if len(chunk) < self._overlap else chunk)[-self._overlap :]

    def _parse(self, chunk: bytes) -> None:
        before = 0
        if self._parser is None:
            before = sum(map(len, self._carried))
            self._parser = EventParser(within=True)
            chunk = b"".join((*self._carried, chunk))
            self._carried.clear()
        for event in self._parser.feed(chunk):
            if self._is_terminal(event):
                self._begin_end(event.start - before)
                self.ended = True
                return
        opened = self._parser.open_event
        if opened is not None and self._is_terminal(opened):
            self._begin_end(opened.start - before)
        if self.terminal_offset is None and self._parser.between:
            self._parser, self._tail = None, b""

    def _begin_end(self, offset: int) -> None:
        if self.terminal_offset is None:
            self.terminal_offset = max(0, offset)


class StreamReader:
    """Reads one stream. `feed` never raises: what it cannot read makes it `malformed`.

    `terminal_offset` is where, in the chunk fed last, the terminal event begins (0 when it
    began before): a tee holds back from there until the exchange is committed. `complete`
    turns true once the terminal event has come whole, after a stream that was well-formed
    and reported no error.

    Where a provider has no last word (Gemini's `finishReason` may be followed by more), the
    stream ends with its body: `ends` then says whether all has come that was to come.
    """

    __slots__ = ("_assembly", "_ended", "_ends", "_parser", "malformed", "terminal_offset")

    def __init__(
        self,
        assembly: Assembly,
        *,
        parser: Parser | None = None,
        ends: Callable[[], bool] | None = None,
    ) -> None:
        self._assembly = assembly
        self._parser = EventParser() if parser is None else parser
        self._ends = ends
        self._ended = False
        self.malformed = False
        self.terminal_offset: int | None = None

    @property
    def complete(self) -> bool:
        """Whether the answer came whole."""
        return self._ended and not self.malformed

    @property
    def ended(self) -> bool:
        """Whether the terminal event came whole, be the stream well-formed or not."""
        return self._ended

    def feed(self, chunk: bytes) -> bool:
        """Takes the next bytes in; True once the terminal event has been seen, even in part."""
        if self._ended:
            self.terminal_offset = 0
            return True
        seen = self.terminal_offset is not None
        self.terminal_offset = 0 if seen else None
        for event in self._parser.feed(chunk):
            self._take(event)
        self._look_ahead()
        return self.terminal_offset is not None

    def close(self) -> None:
        """At a clean end of the bytes: takes in an event whose closing blank line is absent."""
        if not self._ended:
            for event in self._parser.close():
                self._take(event)
            if self._ends is not None:
                self._ended = self._ends()

    def result(self) -> WireResponse | None:
        """The answer, in part when the stream is not `complete`; None when nothing is readable."""
        try:
            return self._assembly.response()
        except (WireError, *MALFORMED):
            self.malformed = True
            return None

    def _take(self, event: Event) -> None:
        if self._ended:
            return
        terminal = False
        try:
            terminal = self._assembly.is_terminal(event)
            self._ended = terminal and self._ends is None
            self._assembly.add(event)
        except (WireError, *MALFORMED):
            self.malformed = True
        if terminal and self.terminal_offset is None:
            self.terminal_offset = event.start

    def _look_ahead(self) -> None:
        """Some clients act on a terminal line before the blank line that ends its event."""
        event = self._parser.open_event if self.terminal_offset is None else None
        if event is None:
            return
        try:
            if self._assembly.is_terminal(event):
                self.terminal_offset = event.start
        except MALFORMED:
            return


_BLANK_LINES: Final = (b"\n\n", b"\n\r", b"\r\r")
"""The end of a line and what begins with it an empty one, however lines end."""
