"""The bare pass-through of the same stack: `python -m bench.gateway.bare UPSTREAM`.

uvicorn, an ASGI function and aiohttp's client, and nothing of a gateway: no keys, no capture, no
metrics. It is the limit that the gateway is measured against. It prints its port, and leaves
when its standard input ends.
"""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

import aiohttp
import uvicorn

_HOP = (b"connection", b"keep-alive", b"transfer-encoding", b"host", b"content-length")


class Bare:
    """The ASGI application."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI 3.0."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {
            name.decode(): value.decode() for name, value in scope["headers"] if name not in _HOP
        }
        assert self._session is not None
        url = self._upstream + scope["path"]
        async with self._session.post(url, data=body, headers=headers) as response:
            passed = [pair for pair in response.raw_headers if pair[0].lower() not in _HOP]
            if response.content_length is not None:
                passed.append((b"content-length", str(response.content_length).encode()))
            start = {"type": "http.response.start", "status": response.status, "headers": passed}
            await send(start)
            while chunk := await response.content.readany():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        self._session = aiohttp.ClientSession(auto_decompress=False)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._session.close()
        await send({"type": "lifespan.shutdown.complete"})


def main(upstream: str) -> None:
    """Serves until standard input ends."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=2_048)
    config = uvicorn.Config(
        Bare(upstream),
        http="httptools",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )
    server = uvicorn.Server(config)

    def leave() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=leave, daemon=True).start()
    print(listening.getsockname()[1], flush=True)
    server.run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1])
