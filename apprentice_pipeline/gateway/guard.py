"""What stands between a socket and uvicorn: patience with clients, and its limits.

Belongs here: limits on a request's head, on the time a client takes to send and to read, on open
connections. Does not: HTTP (uvicorn's protocol does that), limits that need to know who calls
(`load`, `intake`).
Promise: a request that arrives whole costs a few comparisons; a client that is slow, silent or
endless costs one dictionary entry, is looked at once a second, and holds nobody else up. Uvicorn
has no such limits for this parser.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config as ServerConfig
from uvicorn.server import ServerState

from apprentice_pipeline.config import Gateway as Limits
from apprentice_pipeline.gateway import refusals
from apprentice_pipeline.gateway.passage import WATCHED
from apprentice_pipeline.gateway.protocol import Protocol, reset

LOOK_S = 1.0
OVERSIZE = "apprentice.oversize"
"""In a scope: the head came at once, and is larger than it may be. The application refuses it."""


class Door:
    """Lets connections in. One per worker; lives on its event loop.

    Uvicorn calls it where it would make a protocol.
    """

    def __init__(self, limits: Limits, most_clients: int, on_malformed: Callable[[], None]) -> None:
        self.limits = limits
        self.on_malformed = on_malformed
        self.guards: dict[Guard, None] = {}
        self.sending: dict[Guard, float] = {}
        """Whose request is unfinished, and since when it is waited for."""
        self.stalled: dict[Guard, tuple[float, int]] = {}
        """Who does not read: since when, and how many bytes waited then."""
        self._most = most_clients
        self._timer: asyncio.TimerHandle | None = None

    def __call__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Guard:
        """See `uvicorn.Config.http`."""
        return Guard(self, Protocol(config, server_state, app_state, _loop))

    def admit(self, guard: Guard) -> bool:
        """Whether there is room; where there is none, the oldest idle connection makes it."""
        if len(self.guards) >= self._most:
            idle = next((each for each in self.guards if each.idle), None)
            if idle is None:
                return False
            self.leave(idle)
            idle.abort()
        self.guards[guard] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        return True

    def leave(self, guard: Guard) -> None:
        """Forgets a connection."""
        self.guards.pop(guard, None)
        self.sending.pop(guard, None)
        self.stalled.pop(guard, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = loop.call_later(LOOK_S, self._look) if self.guards else None
        for guard, since in list(self.sending.items()):
            guard.wait_for_request(now, now - since)
        for guard, (since, waiting) in list(self.stalled.items()):
            guard.wait_for_reader(now, now - since, waiting)
        for guard in list(self.guards):
            if guard.busy_s(now) > self.limits.total_timeout_s:
                guard.end_overdue()


class Guard(asyncio.Protocol):
    """One connection: hands everything to uvicorn's protocol, and watches how it arrives."""

    __slots__ = (
        "_aside",
        "_began",
        "_door",
        "_head_bytes",
        "_inner",
        "_time",
        "_transport",
        "refused",
    )

    def __init__(self, door: Door, inner: Protocol) -> None:
        self._door = door
        self._inner = inner
        self._time: Callable[[], float] = inner.loop.time
        self._transport: asyncio.Transport | None = None
        self._began = 0.0
        self._head_bytes = 0
        self._aside = 0
        self.refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        if self._door.admit(self):
            self._door.sending[self] = self._time()
            self._inner.connection_made(self._transport)
        else:
            self.refuse(503, "this gateway has too many clients; try again")

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._door.leave(self)
        if self._inner.transport is not None:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.refused:
            return
        inner, door = self._inner, self._door
        before = inner.scope
        held = len(inner.cycle.body) if inner.in_chunk else -1
        inner.data_received(data)
        cycle, scope = inner.cycle, inner.scope
        if cycle is not None and cycle.scope is scope and not cycle.response_complete:
            if scope is not before or self._head_bytes:
                self._head_has_come(len(data))
            if not cycle.more_body:
                if self in door.sending:
                    del door.sending[self]
                return
            door.sending[self] = self._time()
            if inner.in_chunk:
                self._beside_the_body(len(data), progress=len(cycle.body) != held)
        else:
            self._unfinished(before is scope, len(data))
        if inner.malformed:
            door.on_malformed()
            self.refuse(400, "this is not HTTP/1.1 as it is defined")

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`. Who ends only their own side wait for their answer, unless the
        end is how the application notices that they leave. Over TLS there are no two sides."""
        inner = self._inner
        owed, last = inner.owes, inner.cycle
        if owed is None or owed.more_body or WATCHED in owed.scope or inner.scheme == "https":
            return None
        whole = last.scope is inner.scope and not last.more_body
        (last if whole else owed).keep_alive = False
        return True

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._door.stalled[self] = self._time(), self._unread()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._door.stalled.pop(self, None)
        self._inner.resume_writing()

    @property
    def idle(self) -> bool:
        """Whether no request is under way: nothing is lost with the connection."""
        cycle = self._inner.cycle
        return cycle is None or cycle.response_complete

    def busy_s(self, now: float) -> float:
        """Seconds since the head of the request under way."""
        return 0.0 if self.idle else now - self._began

    def wait_for_request(self, now: float, waited_s: float) -> None:
        """Ends a connection whose client has taken too long to go on."""
        cycle, limits = self._inner.cycle, self._door.limits
        if cycle is None or cycle.scope is not self._inner.scope:
            if waited_s > limits.header_timeout_s:
                self.refuse(408, "the request's head did not come in time")
        elif self._inner.flow.read_paused and not cycle.response_complete:
            self._door.sending[self] = now  # it is the provider who is slow
        elif waited_s > limits.body_timeout_s:
            self.refuse(408, "the request's body did not come in time")

    def wait_for_reader(self, now: float, waited_s: float, waiting: int) -> None:
        """Ends a connection whose client has not read for too long."""
        unread = self._unread()
        if unread < waiting:
            self._door.stalled[self] = now, unread
        elif waited_s > self._door.limits.write_timeout_s:
            self.abort()

    def refuse(self, status: int, message: str) -> None:
        """Ends the connection; says why unless a response is on its way. Where an earlier request
        waits for its answer, the connection ends with that: nothing else may be taken for it."""
        if self._transport is None or self.refused:
            return
        self.refused = True
        inner = self._inner
        owed, last = inner.owes, inner.cycle
        of_last = last is not None and last.scope is inner.scope and last.more_body
        if owed is None or (owed is last and of_last):
            self._end(status, message, begun=of_last and last.response_started)
        else:
            owed.keep_alive = False

    def end_overdue(self) -> None:
        """Ends a connection whose call has taken too long; says why unless its response began."""
        owed = self._inner.owes
        begun = self.refused or (owed is not None and owed.response_started)
        self.refused = True
        self._end(504, "the call took longer than this gateway allows", begun=begun)

    def _end(self, status: int, message: str, *, begun: bool) -> None:
        if begun or self._transport is None:
            self.abort()
            return
        head = self._inner.url if self._inner.scope is not None else b""
        self._transport.write(refusals.on_the_wire(head, status, message))
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once; the system does not keep what the client did not read."""
        if self._transport is not None:
            reset(self._transport)

    def _head_has_come(self, last: int) -> None:
        self._began = self._time()
        most = self._door.limits.max_header_bytes
        if self._head_bytes + last > most:
            scope = self._inner.scope
            if refusals.head_bytes(scope["headers"], self._inner.url) > most:
                scope[OVERSIZE] = True  # type: ignore[literal-required]
        self._head_bytes = 0

    def _unfinished(self, same: bool, received: int) -> None:
        """A head that has not ended, or bytes after a request's end or refusal."""
        door = self._door
        if self not in door.sending:
            door.sending[self] = self._time()
        cycle, scope = self._inner.cycle, self._inner.scope
        if scope is None or (cycle is not None and cycle.scope is scope):
            return
        known = refusals.head_bytes(scope["headers"], self._inner.url) + 1
        self._head_bytes = self._head_bytes + received if same else known
        if self._head_bytes > door.limits.max_header_bytes:
            self.refuse(431, "the request's head is larger than this gateway takes")

    def _beside_the_body(self, received: int, *, progress: bool) -> None:
        """Trailers and what else may stand between chunks count as a head does."""
        self._aside = 0 if progress else self._aside + received
        if self._aside > self._door.limits.max_header_bytes:
            self.refuse(431, "the request's trailers are larger than this gateway takes")

    def _unread(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0
