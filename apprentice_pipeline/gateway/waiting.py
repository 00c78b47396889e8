"""A worker whose state database does not answer yet: it refuses politely until it can serve.

Belongs here: refusing meanwhile, trying again, saying so, passing on from then on. Does not: what
is opened (`worker`), a database that fails later (`access`).
Promise: while keys cannot be checked nobody is let in, with keys or without, for it is not known
whether there are any; nothing could be sealed either. Callers get 503 in their provider's shape
with Retry-After, which SDKs heed; each is counted once there is something to count in.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from typing import Protocol

from starlette.types import Receive, Scope, Send

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.gateway import replies
from apprentice_pipeline.gateway.app import GatewayApp
from apprentice_pipeline.gateway.refusals import refuse

RETRY_S = 1.0
SAY_S = 60.0
_MESSAGE = "the gateway's state database does not answer, so keys cannot be checked; try again"


class Opened(Protocol):
    """What a worker opens: its application, and what is closed when that is over."""

    @property
    def app(self) -> GatewayApp:
        """The application, not started yet."""
        ...

    def close(self) -> None:
        """Closes everything."""
        ...


class WaitingApp:
    """An ASGI application that becomes another once `open_parts` succeeds; `why` is why not yet."""

    def __init__(self, open_parts: Callable[[], Opened], why: ApprenticeError) -> None:
        self.opened: Opened | None = None
        self._open_parts = open_parts
        self._app: GatewayApp | None = None
        self._refused = 0
        self._said_at = 0.0
        self._say(why)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3.0."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/healthz":
            await replies.whole(send, 200, b'{"status":"ok"}')
        elif scope["type"] == "http":
            self._refused += 1
            await refuse(scope, send, 503, _MESSAGE)

    def malformed(self) -> None:
        """See `GatewayApp.malformed`; not counted while nothing can be."""
        if self._app is not None:
            self._app.malformed()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        trying = asyncio.create_task(self._try_again())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        trying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await trying
        if self._app is not None:
            await self._app.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _try_again(self) -> None:
        while not await self._serves():  # noqa: ASYNC110 - nothing tells of a database
            await asyncio.sleep(RETRY_S)
        sys.stderr.write("gateway worker: the state database answers; calls are served\n")

    async def _serves(self) -> bool:
        """Tries once, and tells whether that was enough. A database that comes back may do so by
        half, and go again before the application has started."""
        try:
            await asyncio.to_thread(self._open)
            assert self.opened is not None
            await self.opened.app.start()
        except Exception as error:  # the edge: whatever it is, the next try may fare better
            if time.monotonic() - self._said_at >= SAY_S:
                self._say(error)
            await asyncio.to_thread(self._close)
            return False
        self._app = self.opened.app
        self._app.was_waiting(self._refused)
        return True

    def _open(self) -> None:
        """In a thread, which a shutdown does not end: what it opens then `worker` closes."""
        self.opened = self._open_parts()

    def _close(self) -> None:
        opened, self.opened = self.opened, None
        if opened is not None:
            with contextlib.suppress(Exception):  # the edge, again: it goes on trying
                opened.close()

    def _say(self, error: Exception) -> None:
        self._said_at = time.monotonic()
        told = f"opening failed: {type(error).__name__}"
        if isinstance(error, ApprenticeError):
            told = f"{error.message}; {error.remedy}" if error.remedy else error.message
        sys.stderr.write(f"gateway worker: {told}; until then calls are refused with 503\n")
        sys.stderr.flush()
