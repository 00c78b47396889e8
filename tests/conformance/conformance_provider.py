"""The stand-in frontier as a conformance case needs it: swapped between cases, never two alike.

Belongs here: serving a stand-in on a fixed port, headers that real providers' edges add, what
it was asked. Does not: its answers (`apprentice_pipeline.demo.stand_in`).
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import uvicorn

from apprentice_pipeline.demo.stand_in.answers import FrontierSettings
from apprentice_pipeline.demo.stand_in.server import Frontier
from tests.conformance.conformance_tap import Request

EDGE = [
    (b"date", b"Tue, 14 Nov 2023 22:13:20 GMT"),
    (b"server", b"edge"),
    (b"set-cookie", b"__cf_bm=a; path=/"),
    (b"set-cookie", b"_cfuvid=b; path=/"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"alt-svc", b'h3=":443"; ma=86400'),
    (b"cf-ray", b"0-\xe9\xa9"),
]


class Provider:
    """A stand-in behind uvicorn, as many after each other as `restart` is called.

    `seen` holds the requests in the order in which they came whole; `left` counts clients that
    went before their response was whole.
    """

    def __init__(self) -> None:
        self._frontier: Frontier | None = None
        self.seen: list[Request] = []
        self.left = 0
        listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            self,
            lifespan="off",
            log_config=None,
            log_level="critical",
            server_header=False,
            date_header=False,
            timeout_keep_alive=3_600,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, daemon=True
        )
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def restart(self, table: dict[str, Any], **settings: Any) -> None:
        """Another stand-in, which remembers nothing."""
        self.seen, self.left = [], 0
        self._frontier = Frontier(FrontierSettings(repeatable=True, **settings), table)

    def wait_left(self, clients: int, timeout_s: float = 60.0) -> None:
        """Returns once so many clients have left; fails when they do not."""
        end = time.monotonic() + timeout_s
        while self.left < clients:
            assert time.monotonic() < end, "the provider's call goes on without a client"
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        frontier, body = self._frontier, b""
        assert frontier is not None
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        target = scope["raw_path"].decode()
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode()
        headers = [(k.decode(), v.decode("latin-1")) for k, v in scope["headers"]]
        self.seen.append(Request(scope["method"], target, headers, body, cut=False))
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Any:
            return next(given, None) or await receive()

        edge = _Edge(send)
        answering = asyncio.create_task(frontier(scope, replay, edge))
        leaving = asyncio.create_task(receive())
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done() or edge.finished:
            leaving.cancel()
            await answering
            return
        self.left += 1
        answering.cancel()


class _Edge:
    """What stands before a provider: adds headers."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.finished = False

    async def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *EDGE]}
        ends = message["type"] == "http.response.body" and not message.get("more_body")
        self.finished = self.finished or ends
        await self._send(message)
