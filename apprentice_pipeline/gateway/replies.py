"""Responses of our own on the hot path, in the provider's shape.

Belongs here: sending a body, refusing. Does not: deciding to.
"""

from __future__ import annotations

from starlette.types import Send

from apprentice_pipeline.gateway.headers import PAIR_ID, SERVED_BY
from apprentice_pipeline.wire.forms import WireFormat

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"

Header = tuple[bytes, bytes]


async def start(send: Send, status: int, headers: list[Header]) -> None:
    """Begins a response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def piece(send: Send, body: bytes, *, more: bool = True) -> None:
    """Sends bytes of a body; without `more` they are its last."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def whole(
    send: Send, status: int, body: bytes, content_type: bytes = JSON, *headers: Header
) -> None:
    """Sends a response in one piece."""
    length = str(len(body)).encode()
    lines = [(b"content-type", content_type), (b"content-length", length), *headers]
    await start(send, status, lines)
    await piece(send, body, more=False)


async def refuse(send: Send, wire: WireFormat, status: int, message: str, *headers: Header) -> None:
    """Sends an error of ours as the provider would word one."""
    await whole(send, status, wire.write_error(status, message), JSON, *headers)


def marks(served_by: bytes, pair_id: str = "") -> tuple[Header, ...]:
    """The response headers that are ours."""
    served = (SERVED_BY, served_by)
    return (served, (PAIR_ID, pair_id.encode())) if pair_id else (served,)
