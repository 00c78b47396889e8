"""Uvicorn's HTTP/1.1 protocol, where what it does by default is not what a gateway may do.

Belongs here: what is told apart while bytes are parsed. Does not: what follows from it (`guard`).
Promise: a request without trailers costs nothing more; one that is malformed is answered by
`guard`, not as plain text.
"""

from __future__ import annotations

from collections import deque
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_NOWHERE: deque[Any] = deque(maxlen=0)


class Protocol(HttpToolsProtocol):
    """One connection's. `malformed`: what came is not HTTP; `in_chunk`: a chunk has not ended.

    The parser tells of trailers as of headers, and uvicorn adds them to the headers of a request
    that may be on its way already: whether they come with it would be a matter of when they come.
    They are dropped (RFC 9110, section 6.5.1: never merged unless their definition allows it),
    so that nobody can bring a key, a namespace or a length past a proxy in front of us.
    """

    malformed = False
    in_chunk = False

    def on_chunk_header(self) -> None:
        """A chunk begins; after the last one come trailers. The request's own headers are in."""
        self.headers = cast(list[tuple[bytes, bytes]], _NOWHERE)
        self.in_chunk = True

    def on_chunk_complete(self) -> None:
        """A chunk, or the last one's trailers, have ended."""
        self.in_chunk = False

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Leaves the answer to the guard."""
        self.malformed = True
