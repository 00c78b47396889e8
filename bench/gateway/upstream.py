"""An upstream that costs next to nothing: `python -m bench.gateway.upstream`.

Belongs here: canned answers over raw sockets. Does not: being a provider (the stand-in of
`apprentice_pipeline.demo` is one). It prints its port, and leaves when its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import cast

import uvloop

from bench.gateway.aside import stand_aside
from bench.gateway.messages import plain_answer, streamed_answer

_PLAIN = plain_answer()
_STREAMED = streamed_answer()


class Upstream(asyncio.Protocol):
    """Answers each request when its body is whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self._data = b""

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._data += data
        while (split := self._data.find(b"\r\n\r\n")) >= 0:
            body, end = split + 4, _end_of_body(self._data, split)
            if end is None or len(self._data) < end:
                return
            streamed = self._data.find(b'"stream"', body, end) >= 0
            self._data = self._data[end:]
            self._answer(streamed)

    def _answer(self, streamed: bool) -> None:
        if not streamed:
            self._transport.write(_PLAIN)
            return
        for part in _STREAMED:
            self._transport.write(part)


def _end_of_body(data: bytes, split: int) -> int | None:
    """Where the request ends that starts at 0; None while a chunked one has not ended."""
    head = data[:split].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        line_end = head.find(b"\r\n", at)
        return split + 4 + int(head[at + 15 : line_end if line_end >= 0 else None])
    if b"transfer-encoding: chunked" in head:
        last = data.find(b"0\r\n\r\n", split)
        return last + 5 if last >= 0 else None
    return split + 4


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    threading.Thread(
        target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True
    ).start()
    await ended.wait()


if __name__ == "__main__":
    stand_aside()
    uvloop.run(_serve())
