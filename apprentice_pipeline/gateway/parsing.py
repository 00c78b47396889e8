"""Bytes of a provider's connection, read as one response after the other.

Belongs here: HTTP/1.1 as providers may speak it, and its bounds. Does not: sockets, who waits for
a response (`connections`).
Promises: a response is given what belongs to it and nothing of what comes behind; bytes that are
no body are bounded, however they are disguised; what cannot be passed on as HTTP is `Broken`.
"""

from __future__ import annotations

from typing import Final

import httptools

from apprentice_pipeline.gateway.response import Broken, Response

MOST_ASIDE_BYTES: Final = 1 << 18
"""Bytes that may come before a body, or between two pieces of it: heads, interim ones too, the
sizes and extensions of chunks, trailers. The parser alone would keep a line without end."""
_TOO_LARGE = "the provider's answer has too large a head"


class Parsing:
    """Reads the responses of one connection. `reusable`: another one may follow over it."""

    __slots__ = (
        "_aside",
        "_broken",
        "_head_bytes",
        "_method",
        "_parser",
        "_response",
        "in_head",
        "reusable",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._method = ""
        self._aside = 0
        self._head_bytes = 0
        self._broken = ""
        self.in_head = True
        """Whether the head of the response has not ended."""
        self.reusable = True

    def expect(self, response: Response, method: str) -> None:
        """From now on what comes is the response to a request."""
        self._response, self._method = response, method
        self._aside = self._head_bytes = 0
        self.in_head = True

    def feed(self, data: bytes) -> None:
        """Reads what has come. Raises: Broken; what was whole before stays whole."""
        self._aside += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broken = "the provider changed the protocol"
        except httptools.HttpParserError:
            self._broken = self._broken or "the provider's answer is not HTTP/1.1"
        if self._aside > MOST_ASIDE_BYTES:
            self._broken = _TOO_LARGE
        if self._broken:
            self.reusable = False
            raise Broken(self._broken)

    # httptools.HttpResponseParser
    def on_message_begin(self) -> None:
        """See `httptools`. What comes behind a whole response was asked for by nobody."""
        response = self._response
        if response is None or response.is_whole:
            self._response, self.reusable = None, False

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools`. Trailers are dropped: the head has gone on before they come."""
        if not self.in_head or self._response is None:
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MOST_ASIDE_BYTES:
            self._refuse(_TOO_LARGE)
        self._response.note_header(name, value)

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        response = self._response
        if response is None:
            return
        status = self._parser.get_status_code()
        if not 100 <= status <= 599:  # RFC 9110, section 15
            self._refuse("the provider's answer has no status of HTTP")
        self.in_head = False
        response.status = status
        if self._method == "HEAD" and status >= 200:
            self.reusable = False  # the parser waits for the body that the head speaks of
            response.is_whole = True

    def on_body(self, data: bytes) -> None:
        """See `httptools`."""
        if self._response is not None and self._method != "HEAD":
            self._aside = 0
            self._response.add(data)

    def on_message_complete(self) -> None:
        """See `httptools`."""
        response = self._response
        if response is None:
            return
        if response.status < 200:  # an interim response: the real one follows
            response.forget_head()
            self.in_head = True
            return
        response.is_whole = True
        if not self._parser.should_keep_alive():
            self.reusable = False

    def _refuse(self, why: str) -> None:
        """Stops the parser."""
        self._broken = why
        raise ValueError(why)
