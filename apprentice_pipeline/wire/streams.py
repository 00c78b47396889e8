"""Reading one streamed answer while its bytes pass by.

Belongs here: feeding events to a provider's assembly, finding the terminal event. Does not:
what the events of a provider mean (its module's assembly knows).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

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


class StreamReader:
    """Follows one stream. `feed` never raises: what it cannot read makes it `malformed`.

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
