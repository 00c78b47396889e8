"""Answers compressed with gzip, streams event by event, as real providers' edges do.

Formats only: what is compressed and when is the server's to decide.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]


def accepts_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request names gzip among the codings that it takes."""
    given = [value for name, value in headers if name == b"accept-encoding"]
    return b"gzip" in {coding.strip() for value in given for coding in value.split(b",")}


def compressed(send: Send) -> Send:
    """An ASGI `send` that compresses one response on its way; every part can be read at once."""
    press = zlib.compressobj(wbits=31)

    async def pressed(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"] if pair[0] != b"content-length"]
            await send({**message, "headers": [*kept, (b"content-encoding", b"gzip")]})
            return
        last = not message.get("more_body")
        body = press.compress(message.get("body", b""))
        body += press.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        await send({**message, "body": body})

    return pressed
