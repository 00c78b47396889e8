"""A provider's response while it comes: its head, its body piece by piece, or what broke it.

Belongs here: what has come and was not read yet, and waking who waits for it. Does not: sockets
and parsing (`connections`).
Promise: bytes are given on as they came; an end that did not come is an error, never an end.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

HIGH_WATER: Final = 1 << 18
"""Bytes of a body that wait to be read; more stops the provider."""

Header = tuple[bytes, bytes]


class Broken(ConnectionError):
    """The connection ended, or what came over it is not HTTP, before the response was whole."""


class Silent(TimeoutError):
    """The provider sent nothing for too long."""


class Line(Protocol):
    """What a response comes over."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it lives on."""
        ...

    def resume(self) -> None:
        """What had come has been read."""
        ...

    def let_go(self) -> None:
        """The call is over, or given up."""
        ...


class Response:
    """One response: its head, and its body as it arrives."""

    __slots__ = (
        "_connection",
        "_error",
        "_parts",
        "_size",
        "_waiter",
        "content_encoding",
        "content_length",
        "content_type",
        "is_whole",
        "raw_headers",
        "status",
    )

    def __init__(self, connection: Line) -> None:
        self._connection = connection
        self._error: Exception | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.raw_headers: list[Header] = []
        self.content_type = ""
        """The media type in lower case, without parameters."""
        self.content_encoding = ""
        self.content_length: int | None = None
        self.is_whole = False
        """Whether the end has come; some of the body may wait to be read."""

    async def read_some(self) -> bytes:
        """What has come and was not read, as soon as there is any; b"" at the end.

        Raises: Broken, Silent when the end does not come.
        """
        while not self._parts:
            if self.is_whole:
                return b""
            if self._error is not None:
                raise self._error
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._connection.resume()
        return data

    async def read(self) -> bytes:
        """The whole body, or what is left of it. Raises: Broken, Silent."""
        parts = []
        while part := await self.read_some():
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def done(self) -> None:
        """Lets go of the connection: for the next call where this one has come to its end."""
        self._connection.let_go()

    def note_header(self, name: bytes, value: bytes) -> None:
        """Takes a header in."""
        self.raw_headers.append((name, value))
        length = len(name)
        if length == 12 and name.lower() == b"content-type":
            self.content_type = value.partition(b";")[0].strip().lower().decode("latin-1")
        elif length == 14 and name.lower() == b"content-length" and value.isdigit():
            self.content_length = int(value)
        elif length == 16 and name.lower() == b"content-encoding":
            self.content_encoding = value.decode("latin-1")

    def forget_head(self) -> None:
        """What came was the head of an interim response: another follows."""
        self.raw_headers.clear()
        self.status, self.content_length = 0, None
        self.content_type = self.content_encoding = ""

    def add(self, data: bytes) -> None:
        """Takes a piece of the body in."""
        self._parts.append(data)
        self._size += len(data)

    @property
    def is_full(self) -> bool:
        """Whether as much waits to be read as may."""
        return self._size > HIGH_WATER

    def wake(self, error: Exception | None = None) -> None:
        """Something has changed."""
        self._error = self._error or error
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
