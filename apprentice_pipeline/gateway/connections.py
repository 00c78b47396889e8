"""Connections to providers: HTTP/1.1, kept open, as few steps a call as can be.

Belongs here: writing a request, keeping connections for the next call, giving silent ones up. Does
not: addresses, what a failure means (`upstream`), parsing (`parsing`), who reads a response
(`response`).
Promises: bytes of a body are given on as they arrive and never changed; what is not read holds the
provider up, and memory is bounded; a response that ends before its framing says so is an error; a
request is sent once. A general client does far more for each call, which is time that a worker's
event loop has not (`docs/LOG.md`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from apprentice_pipeline.gateway.parsing import Parsing
from apprentice_pipeline.gateway.response import HIGH_WATER, Broken, Header, Response, Silent

LOOK_S: Final = 1.0
IDLE_S: Final = 15.0

_TURNS: Final = 3
"""Turns of the event loop until a connection that was ended is closed."""

Body = bytes | AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections lead to."""

    host: str
    port: int
    tls: bool


class Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    __slots__ = (
        "_alive",
        "_began",
        "_head",
        "_parsing",
        "_paused",
        "_pool",
        "_response",
        "_sending",
        "_transport",
        "_writable",
        "loop",
        "origin",
        "seen",
    )

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self.loop = pool.loop
        self.origin = origin
        self.seen = 0.0
        """When it last did anything."""
        self._pool = pool
        self._parsing = Parsing()
        self._transport: asyncio.Transport | None = None
        self._alive = True
        self._began = 0.0
        self._head: asyncio.Future[Response] | None = None
        self._response: Response | None = None
        self._sending: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False

    @property
    def usable(self) -> bool:
        """Whether another call may go over it."""
        transport = self._transport
        if not self._alive or not self._parsing.reusable or transport is None:
            return False
        return not transport.is_closing()

    async def call(self, method: str, head: bytes, body: Body, *, chunked: bool) -> Response:
        """Sends a request and returns the response once its head has come.

        Raises: Broken, Silent.
        """
        transport = self._transport
        if transport is None or not self.usable:
            raise Broken("the connection is closed")
        self._response = Response(self)
        self._parsing.expect(self._response, method)
        self._head = self.loop.create_future()
        self.seen = self._began = self.loop.time()
        if isinstance(body, bytes):
            transport.write(head + body if len(body) < HIGH_WATER else head)
            if len(body) >= HIGH_WATER:
                transport.write(body)
        else:
            transport.write(head)
            self._sending = self.loop.create_task(self._send(transport, body, chunked=chunked))
        try:
            return await self._head
        except BaseException:
            self.close()
            raise

    async def _send(
        self, transport: asyncio.Transport, body: AsyncIterator[bytes], *, chunked: bool
    ) -> None:
        """A body as it arrives; one that fails ends the call."""
        try:
            async for piece in body:
                if self._writable is not None:
                    await self._writable
                self.seen = self.loop.time()
                if not chunked:
                    transport.write(piece)
                elif piece:
                    transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if chunked:
                transport.write(b"0\r\n\r\n")
        except Exception as error:
            self._fail(error)

    def let_go(self) -> None:
        """The call is over, or given up."""
        response, sending = self._response, self._sending
        sent = sending is None or sending.done()
        if response is not None and response.is_whole and sent and self.usable:
            self._response, self._sending = None, None
            self.resume()
            self._pool.take_back(self)
        else:
            self.close()

    def close(self) -> None:
        """Ends the connection at once."""
        self._alive = False
        if self._sending is not None:
            self._sending.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._pool.forget(self)

    def resume(self) -> None:
        """What had come has been read."""
        if self._paused and self._transport is not None:
            self._paused = False
            with contextlib.suppress(RuntimeError):  # it is closing
                self._transport.resume_reading()

    def silent_since(self, moment: float) -> bool:
        """Whether a call waits for the provider, and has since `moment`."""
        return self._response is not None and not self._paused and self.seen < moment

    def under_way_since(self, moment: float) -> bool:
        """Whether a call has not ended that began before `moment`."""
        return self._response is not None and self._began < moment

    def give_up(self) -> None:
        """Fails the call under way: the provider has taken too long."""
        self._fail(Silent("the provider sent nothing"))

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self.seen = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.seen = self.loop.time()
        response = self._response
        if response is None or response.is_whole:
            self.close()  # nobody asked
            return
        try:
            self._parsing.feed(data)
        except Broken as error:
            self._fail(error)
        else:
            if response.is_full and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        self._tell()

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._alive = False
        response = self._response
        if response is not None and not response.is_whole:
            if self._head is None and exc is None and self._ends_by_closing(response):
                response.is_whole = True
                response.wake()
            else:
                self._fail(Broken("the provider closed the connection"))
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(Broken("the provider closed the connection"))
            self._writable.exception()
        self._pool.forget(self)

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        waiter, self._writable = self._writable, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _tell(self) -> None:
        """Who waits, for the head or for the body, may look."""
        response, head = self._response, self._head
        if response is None:
            return
        if head is None:
            response.wake()
        elif response.status >= 200 and not head.done():
            self._head = None
            head.set_result(response)

    def _ends_by_closing(self, response: Response) -> bool:
        framed = {b"content-length", b"transfer-encoding"}
        return not any(name.lower() in framed for name, _ in response.raw_headers)

    def _fail(self, error: Exception) -> None:
        self._alive = False
        if not self._parsing.in_head:
            self._tell()  # the head had come whole: what is wrong comes after it
        head, self._head = self._head, None
        if head is not None and not head.done():
            head.set_exception(error)
        elif self._response is not None:
            self._response.wake(error)
        if self._transport is not None:
            self._transport.abort()


class Pool:
    """Connections by origin. One per process; lives on one event loop."""

    def __init__(self, most: int, silent_s: float, total_s: float, connect_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._most = most
        self._silent_s = silent_s
        self._total_s = total_s
        self._connect_s = connect_s
        self._tls: ssl.SSLContext | None = None
        self._idle: defaultdict[Origin, deque[Connection]] = defaultdict(deque)
        self._open: set[Connection] = set()
        self._connecting = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer = self.loop.call_later(LOOK_S, self._look)

    async def take(self, origin: Origin) -> tuple[Connection, bool]:
        """A connection for one call, and whether it has been used before.

        Raises: OSError, TimeoutError when there is none to be had.
        """
        idle = self._idle[origin]
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection, True
            self.forget(connection)
        while len(self._open) + self._connecting >= self._most:
            if not self._close_an_idle_one():
                waiter = self.loop.create_future()
                self._waiting.append(waiter)
                await waiter
                if idle:
                    return await self.take(origin)
        return await self._connect(origin), False

    def take_back(self, connection: Connection) -> None:
        """Keeps a connection for the next call."""
        connection.seen = self.loop.time()
        self._idle[connection.origin].append(connection)
        self._wake_one()

    def forget(self, connection: Connection) -> None:
        """A connection is no more."""
        if connection in self._open:
            self._open.discard(connection)
            with contextlib.suppress(ValueError):
                self._idle[connection.origin].remove(connection)
            self._wake_one()

    async def close(self) -> None:
        """Closes every connection."""
        self._timer.cancel()
        for connection in list(self._open):
            connection.close()
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _connect(self, origin: Origin) -> Connection:
        tls = self._context() if origin.tls else None
        self._connecting += 1
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self, origin), origin.host, origin.port, ssl=tls
                )
        except BaseException:
            self._wake_one()
            raise
        finally:
            self._connecting -= 1
        self._open.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _close_an_idle_one(self) -> bool:
        for connections in self._idle.values():
            if connections:
                connections[0].close()
                return True
        return False

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _look(self) -> None:
        """Once a second: who waits for too long a provider is told, idle connections go."""
        now = self.loop.time()
        self._timer = self.loop.call_later(LOOK_S, self._look)
        for connection in list(self._open):
            silent = connection.silent_since(now - self._silent_s)
            if silent or connection.under_way_since(now - self._total_s):
                connection.give_up()
        for connections in self._idle.values():
            while connections and connections[0].seen < now - IDLE_S:
                connections[0].close()


def request_head(method: str, target: str, headers: Sequence[Header]) -> bytes:
    """The head of a request. Raises: ValueError where a part of it would end its line."""
    lines = [f"{method} {target} HTTP/1.1\r\n".encode("latin-1")]
    lines += [b"%b: %b\r\n" % header for header in headers]
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
        raise ValueError("a header holds a line break")
    return head + b"\r\n"
