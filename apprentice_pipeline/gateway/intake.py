"""A request's body, as ASGI brings it.

Belongs here: gathering within a limit, passing on what is larger, noticing that the client
left. Does not: what the body means.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.types import Receive


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


class TooLarge(Exception):
    """The body is larger than the gateway passes on."""


class Intake:
    """The body of one request. Memory holds what `whole` gathered, never more."""

    __slots__ = ("_ended", "_most", "_parts", "_receive", "_seen", "fault")

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._parts: list[bytes] = []
        self._seen = 0
        self._ended = False
        self.fault: ClientGone | TooLarge | None = None

    async def whole(self, limit: int) -> bytes | None:
        """The body if it is no larger than `limit`, else None: `stream` has it then.

        Raises: ClientGone, TooLarge.
        """
        while not self._ended and self._seen <= limit:
            self._parts.append(await self._next())
        if self._seen > limit:
            return None
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    async def stream(self) -> AsyncIterator[bytes]:
        """What was gathered, then the rest as it arrives. Raises: ClientGone, TooLarge."""
        while self._parts:
            yield self._parts.pop(0)
        while not self._ended:
            if piece := await self._next():
                yield piece

    async def gone(self) -> None:
        """Returns once the client has left. For after the body's end."""
        while (await self._receive())["type"] != "http.disconnect":
            continue

    @property
    def ended(self) -> bool:
        """Whether the whole body has come."""
        return self._ended

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.fault = ClientGone()
            raise self.fault
        piece: bytes = message.get("body", b"")
        self._ended = not message.get("more_body", False)
        self._seen += len(piece)
        if self._seen > self._most:
            self.fault = TooLarge()
            raise self.fault
        return piece
