"""A web page in the user's own browser cannot reach a keyless gateway on the user's machine.

A real Chromium opens a page of a foreign site, of a neighbouring port, and of a site whose name
begins to mean 127.0.0.1 while the page is open. The same page tries an open server too: what does
not reach even that would prove nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

PAGE = Path(__file__).with_name("attack.html")
SITE = "evil.test"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", f"--host-resolver-rules=MAP {SITE} 127.0.0.1",
]  # fmt: skip
PATIENCE_S = 120


class Site:
    """A server that lets anyone in, serves the page and takes its reports."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self.reports: dict[str, dict[str, str]] = {}
        self.rebind = threading.Event()
        self.rebound = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _handler(site) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                asked = urlsplit(self.path)
                query = parse_qs(asked.query)
                if asked.path == "/report":
                    site.reports[query["name"][0]] = json.loads(body)
                elif asked.path == "/rebind":
                    site.rebind.set()
                    site.rebound.wait(30)
                elif self.command != "OPTIONS":
                    site.kinds |= set(query.get("kind", ()))
                self.send_response(200)
                for name in ("origin", "headers", "methods"):
                    self.send_header(f"access-control-allow-{name}", "*")
                page = PAGE.read_bytes() if asked.path == "/page" else b"{}"
                self.send_header("content-type", "text/html" if len(page) > 2 else "text/css")
                self.send_header("content-length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            do_GET = do_POST = do_DELETE = do_OPTIONS = do_PUT = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                return

        return Handler

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Rebinding:
    """A port whose name means the site's server first, and the gateway from then on."""

    def __init__(self, site: Site, gateway_port: int) -> None:
        self._site, self._gateway_port = site, gateway_port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._before: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._switch, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                with self._lock:
                    rebound = self._site.rebind.is_set()
                    port = self._gateway_port if rebound else self._site.port
                    server = socket.create_connection(("127.0.0.1", port))
                    if not rebound:
                        self._before += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def _switch(self) -> None:
        self._site.rebind.wait()
        with self._lock:
            for connection in self._before:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._site.rebound.set()

    def close(self) -> None:
        self._site.rebind.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@contextlib.contextmanager
def browser(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Chromium with a profile of its own."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "Chromium is missing: `make browser` installs it, or says what to install"
    command = [found, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


REACHES_AN_OPEN_SERVER = {
    "fetch", "fetch-read", "no-cors", "no-cors-read", "no-referrer", "preflight",
    "preflight-namespace", "delete", "beacon", "form", "image", "script", "style", "frame",
    "socket",
}  # fmt: skip


def test_no_page_reaches_a_keyless_gateway(
    gateway: Any, provider: Any, site: Site, tmp_path: Path
) -> None:
    rebinding = Rebinding(site, gateway.server.port)
    query = urlencode(
        {
            "name": "foreign",
            "home": f"http://{SITE}:{site.port}",
            "neighbour": f"http://127.0.0.1:{site.port}",
            "open": f"http://127.0.0.1:{site.port}",
            "gateway": gateway.url,
        }
    )
    expected = {"foreign", "foreign-open", "neighbour", "neighbour-open", "rebound"}
    try:
        with browser(tmp_path, f"http://{SITE}:{rebinding.port}/page?{query}") as process:
            end = time.monotonic() + PATIENCE_S
            while not expected <= set(site.reports):
                assert time.monotonic() < end, f"only {set(site.reports)} was reported"
                assert process.poll() is None
                time.sleep(0.1)
    finally:
        rebinding.close()
    assert site.kinds == REACHES_AN_OPEN_SERVER
    assert site.reports["foreign-open"]["preflight"] == "read 200"
    for name in ("foreign", "neighbour"):
        read = {kind: said for kind, said in site.reports[name].items() if said.startswith("read")}
        assert read == {}, name
        assert site.reports[name]["socket"] == "failed"
    rebound = site.reports["rebound"]
    assert {rebound[kind] for kind in ("fetch", "fetch-read", "preflight", "delete")} == {
        "read 403"
    }
    assert provider.seen == []
    assert gateway.captured() == []
    assert gateway.counted("requests") == 0


def test_the_user_who_types_the_address_is_served(gateway: Any, tmp_path: Path) -> None:
    with browser(tmp_path, "--dump-dom", f"{gateway.url}/v1/status") as process:
        shown, _ = process.communicate(timeout=PATIENCE_S)
    assert b'"tenant"' in shown
