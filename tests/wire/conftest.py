"""What the wire tests share: ways of cutting bytes, and a server that says what it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Reply = tuple[str, bytes]


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, bytes], Reply]], str]]:
    """Starts a loopback server whose POST answers come from a function; gives its base URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Callable[[str, bytes], Reply]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                content_type, data = reply(self.path, body)
                self.send_response(200)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
