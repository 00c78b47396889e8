"""Uvicorn's HTTP/1.1 protocol, where what it does by default is not what a gateway may do.

Belongs here: what is told apart while bytes are parsed; requests that ask for another protocol;
answers to old or waiting clients; a response's head and body as one write. Does not: what follows
from it (`guard`).
Promise: a request without trailers costs nothing more; one that is malformed is answered by
`guard`, not as plain text; no request loses its body.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Any, cast

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_NOWHERE: deque[Any] = deque(maxlen=0)
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_RESET = struct.pack("ii", 1, 0)


class Protocol(HttpToolsProtocol):
    """One connection's. `malformed`: what came is not HTTP; `in_chunk`: a chunk has not ended;
    `answering`: the request whose turn it is, or was last.

    The parser tells of trailers as of headers, and uvicorn adds them to the headers of a request
    that may be on its way already: whether they come with it would be a matter of when they come.
    They are dropped (RFC 9110, section 6.5.1: never merged unless their definition allows it),
    so that nobody can bring a key, a namespace or a length past a proxy in front of us.
    """

    malformed = False
    in_chunk = False
    answering: RequestResponseCycle | None = None
    joining: Joining

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.joining = Joining(transport, self.loop)

    @property
    def owes(self) -> RequestResponseCycle | None:
        """The request whose turn it is, while its answer has not ended."""
        turn = self.answering
        return None if turn is None or turn.response_complete else turn

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.malformed = True

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. Uvicorn tells the last of several requests only."""
        turn = self.owes
        if turn is not None:
            turn.disconnected = True
            turn.message_event.set()
        super().connection_lost(exc)

    def on_chunk_header(self) -> None:
        """A chunk begins; after the last one come trailers. The request's own headers are in."""
        self.headers = cast(list[tuple[bytes, bytes]], _NOWHERE)
        self.in_chunk = True

    def on_chunk_complete(self) -> None:
        """A chunk, or the last one's trailers, have ended."""
        self.in_chunk = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.answering = cycle
        if cycle.scope["method"] != "HEAD":  # there it is the head that completes the answer
            cycle.transport = self.joining.for_response()
        if cycle.waiting_for_100_continue or cycle.scope["http_version"] != "1.1":
            app = _Fitting(cycle, app)
        super()._start_asgi_task(cycle, app)

    def _stay(self, rest: bytes) -> None:
        """Goes on in HTTP/1.1 with a client that offered another protocol (RFC 9110, 7.8).

        Java's own client does so with every first request. The parser has taken the request's end
        to be its head's: its body follows, which a new parser reads behind the same framing.
        """
        framing = [header for header in self.headers if header[0] in _FRAMING]
        behind = _Behind(self)
        self.parser = httptools.HttpRequestParser(behind)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if framing:
            self.cycle.more_body = True
            lines = [b"%b: %b\r\n" % header for header in framing]
            close = b"" if self.cycle.keep_alive else b"connection: close\r\n"
            self.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *lines, close, b"\r\n"]))
        behind.in_known_head = False
        if rest:
            self.data_received(rest)


class Joining:
    """A transport that sends a response's head with what follows it in the same turn of the loop.

    Uvicorn writes them one after the other, and each write is a system call, a segment, and a
    client that is woken. A head that nothing follows at once goes alone, before the loop waits.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._is_head = False
        self._held = b""

    def for_response(self) -> asyncio.Transport:
        """Itself: what is written next is a head."""
        self._send_held()
        self._is_head = True
        return cast(asyncio.Transport, self)

    def write(self, data: bytes) -> None:
        """See `asyncio.WriteTransport`."""
        if self._is_head:
            self._is_head, self._held = False, data
            self._loop.call_soon(self._send_held)
        elif self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """See `asyncio.BaseTransport`."""
        self._send_held()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _send_held(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)


class _Behind:
    """What a parser tells, to a protocol that knows the first head already."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self.in_known_head = True
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete
        self.on_chunk_header = protocol.on_chunk_header
        self.on_chunk_complete = protocol.on_chunk_complete

    def on_message_begin(self) -> None:
        """See `httptools`."""
        if not self.in_known_head:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """See `httptools`."""
        if not self.in_known_head:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools`."""
        if not self.in_known_head:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        if not self.in_known_head:
            self._protocol.on_headers_complete()


class _Fitting:
    """An application, its answers fitted to a client that waits to send its body, or that speaks
    HTTP/1.0: that one knows neither chunks nor 100, and an answer without a length ends by closing.
    """

    def __init__(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:
        self._cycle = cycle
        self._app = app
        self._old = cycle.scope["http_version"] != "1.1"
        self._unframed = False
        if self._old:
            cycle.waiting_for_100_continue = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3.0."""

        async def sending(message: Message) -> None:
            self._fit(message)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            if self._unframed and not self._cycle.response_complete:
                reset(self._cycle.transport)  # else the client would take it for whole

    def _fit(self, message: Message) -> None:
        cycle = self._cycle
        if message["type"] != "http.response.start":
            if self._unframed:
                cycle.expected_content_length = len(message.get("body", b""))
            return
        if cycle.waiting_for_100_continue and cycle.more_body:
            # It may send its body all the same, or not: nobody can tell what comes next.
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        if self._old and all(name.lower() != b"content-length" for name, _ in message["headers"]):
            self._unframed = True
            cycle.chunked_encoding = False


def reset(transport: Any) -> None:
    """Ends a connection at once; the system does not keep what the client did not read."""
    raw = transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
