"""Real servers on loopback ports: a provider that does as it is told, and the gateway before it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn

from apprentice_pipeline.config import Config
from apprentice_pipeline.gateway.app import GatewayApp, create_app
from apprentice_pipeline.gateway.listening import server_config
from apprentice_pipeline.reading.calls import ExchangeReader
from apprentice_pipeline.settings import Home, Settings
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.workspace import Workspace

CHAT = "/v1/chat/completions"
CHAT_ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
CHAT_BODY = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "pong"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }
)
CHAT_EVENTS = [
    b'data: {"model":"gpt-4o","choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n',
    b'data: {"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"po"}}]}\n\n',
    b'data: {"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"ng"},'
    b'"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]


@dataclass
class Seen:
    """One request as the provider got it."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Upstream:
    """The provider. The header `x-behave` of a request says what it does."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    bytes_seen: int = 0
    digests: list[str] = field(default_factory=list)
    """SHA-256 of each body that was swallowed."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(k.decode(), v.decode("latin-1")) for k, v in scope["headers"]]
        behave = dict(headers).get("x-behave", "json")
        body, digest = b"", hashlib.sha256()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            self.bytes_seen += len(message["body"])
            if behave == "swallow":
                digest.update(message["body"])
            else:
                body += message["body"]
            if not message["more_body"]:
                break
        if behave == "swallow":
            self.digests.append(digest.hexdigest())
        path = scope["raw_path"].decode()
        self.seen.append(Seen(scope["method"], path, scope["query_string"].decode(), headers, body))
        await getattr(self, f"do_{behave.replace('-', '_')}")(send, receive)

    async def reply(self, send: Any, status: int, headers: Any, *parts: bytes) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, send: Any, status: int, body: bytes, *headers: Any) -> None:
        kind = (b"content-type", b"application/json")
        length = (b"content-length", str(len(body)).encode())
        await self.reply(send, status, [kind, length, *headers], body)

    async def do_json(self, send: Any, _: Any) -> None:
        twice = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-apprentice-x", b"no")]
        await self.whole(send, 200, CHAT_BODY, (b"x-request-id", b"req_1"), *twice)

    do_swallow = do_json

    async def do_gzip(self, send: Any, _: Any) -> None:
        await self.whole(
            send, 200, gzip.compress(CHAT_BODY, mtime=0), (b"content-encoding", b"gzip")
        )

    async def do_chunked(self, send: Any, _: Any) -> None:
        kind = [(b"content-type", b"application/json")]
        await self.reply(send, 200, kind, CHAT_BODY[:50], CHAT_BODY[50:])

    async def do_stream(self, send: Any, _: Any) -> None:
        await self.reply(send, 200, [(b"content-type", b"text/event-stream")], *CHAT_EVENTS)

    async def do_gzip_stream(self, send: Any, _: Any) -> None:
        kind = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
        data = gzip.compress(b"".join(CHAT_EVENTS), mtime=0)
        await self.reply(send, 200, kind, data[:40], data[40:])

    async def do_waiting_stream(self, send: Any, receive: Any) -> None:
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]})
        for event in CHAT_EVENTS[:2]:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        gone = asyncio.ensure_future(receive())
        while not self.go_on.is_set():
            if gone.done():
                self.cancelled.set()
                return
            await asyncio.sleep(0.01)
        gone.cancel()
        for event in CHAT_EVENTS[2:]:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def do_slow_chunked(self, send: Any, _: Any) -> None:
        kind = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        for part in (CHAT_BODY[:50], CHAT_BODY[50:]):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def do_download(self, send: Any, receive: Any) -> None:
        """A file without end: until its reader leaves."""
        kind = [(b"content-type", b"application/octet-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 1_000, "more_body": True})
            await asyncio.sleep(0.01)
        self.cancelled.set()

    async def do_waiting_json(self, send: Any, receive: Any) -> None:
        await asyncio.to_thread(self.go_on.wait, 10)
        await self.do_json(send, receive)

    async def do_cut_stream(self, send: Any, _: Any) -> None:
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-type", b"text/event-stream")]})
        for event in CHAT_EVENTS[:2]:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(0.05)

    async def do_cut_body(self, send: Any, _: Any) -> None:
        length = (b"content-length", str(len(CHAT_BODY)).encode())
        kind = (b"content-type", b"application/json")
        await send({"type": "http.response.start", "status": 200, "headers": [kind, length]})
        await send({"type": "http.response.body", "body": CHAT_BODY[:30], "more_body": True})
        await asyncio.sleep(0.05)

    async def do_error(self, send: Any, _: Any) -> None:
        body = b'{"error": {"message": "slow down", "type": "rate_limit_error"}}'
        await self.whole(send, 429, body, (b"retry-after", b"7"))

    async def do_redirect(self, send: Any, _: Any) -> None:
        await self.whole(send, 307, b"", (b"location", b"/elsewhere"))

    async def do_not_json(self, send: Any, _: Any) -> None:
        await self.whole(send, 200, b"<html>")

    async def do_big(self, send: Any, _: Any) -> None:
        kind = [(b"content-type", b"application/json")]
        await self.reply(send, 200, kind, *([b"x" * 100_000] * 100))


class Server:
    """An ASGI application behind uvicorn, in a thread."""

    def __init__(self, app: Any, config: uvicorn.Config | None = None) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        config = config or uvicorn.Config(
            app,
            lifespan="auto",
            log_config=None,
            log_level="critical",
            server_header=False,
            date_header=False,
        )
        config.timeout_graceful_shutdown = 2
        self.url = f"{'https' if config.is_ssl else 'http'}://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


@dataclass
class Gateway:
    """A running gateway, its stores, and ways to ask it."""

    workspace: Workspace
    spool: Spool
    app: GatewayApp
    server: Server

    @property
    def url(self) -> str:
        return self.server.url

    def capture(self, provider: str = "openai") -> str:
        return f"{self.url}/v1/capture/{provider}"

    def captured(self) -> list[dict[str, Any]]:
        """The rows of the lake after a drain, oldest first."""
        while self.spool.pending:
            time.sleep(0.005)
        drain(self.workspace.home.spool, self.workspace.lake)
        rows: list[dict[str, Any]] = []
        for tenant in self.workspace.lake.tenants():
            found = self.workspace.lake.scan(tenant, "captures").collect().to_dicts()
            rows += [{**row, "tenant": tenant} for row in found]
        return sorted(rows, key=lambda row: row["created_at_us"])

    def opened(self, row: dict[str, Any], field_name: str) -> Any:
        """A sealed field of a row, opened."""
        plain = self.workspace.vault.open(
            row[field_name],
            tenant=row["tenant"],
            namespace=row["namespace"],
            pair_id=row["pair_id"],
            field=field_name,
        )
        return orjson.loads(plain)

    def counted(self, name: str, namespace: str = "default", tenant: str = "default") -> float:
        """A counter, once what is in memory has been written out."""
        self.flush()
        return self.workspace.state.counters(tenant, namespace).get(name, 0.0)

    def flush(self) -> None:
        self.app._tally.flush()


@dataclass
class Answer:
    """A response, byte by byte."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def json(self) -> Any:
        return orjson.loads(self.body)


Ask = Callable[..., Answer]


@pytest.fixture
def ask() -> Ask:
    """`ask(url, path, body, headers, method)`: one request over a plain connection."""

    def send(
        url: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> Answer:
        port = int(url.rpartition(":")[2].partition("/")[0])
        prefix = "/" + url.partition("://")[2].partition("/")[2]
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            sent = {"content-type": "application/json", **(headers or {})}
            verb = method or ("GET" if data is None else "POST")
            connection.request(verb, prefix.rstrip("/") + path, data, sent)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    return send


@pytest.fixture(scope="session")
def provider_server() -> Iterator[Upstream]:
    upstream = Upstream()
    server = Server(upstream)
    upstream.url = server.url
    yield upstream
    server.stop()


@pytest.fixture
def provider(provider_server: Upstream) -> Upstream:
    provider_server.seen.clear()
    provider_server.bytes_seen = 0
    provider_server.digests.clear()
    provider_server.cancelled.clear()
    provider_server.go_on.clear()
    return provider_server


Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path, provider: Upstream) -> Iterator[Start]:
    """`start(url=…, make_router=…, around=…, **sections)`: a gateway with these parts of a
    configuration, behind the ASGI application that `around(app)` is.
    """
    running: list[Gateway] = []

    def make(
        url: str = "", make_router: Any = None, around: Any = None, **sections: Any
    ) -> Gateway:
        base = url or provider.url
        document = {
            "remote": {"endpoints": {"openai": base, "anthropic": base, "gemini": base}},
            **sections,
        }
        settings = Settings(
            config=Config.model_validate(document),
            home=Home(tmp_path / f"home{len(running)}"),
            master_key=b"k" * 32,
            signing_secret=None,
            environment={},
            source="defaults",
        )
        workspace = Workspace.open(settings)
        read = ExchangeReader.of(workspace.config)
        spool = Spool.open(workspace.home.spool, workspace.vault, read=read)
        router = (lambda: make_router(workspace, spool)) if make_router else None
        app = create_app(workspace, spool, router)
        served = around(app) if around else app
        listening = server_config(served, settings.config.gateway, app.malformed)
        running.append(Gateway(workspace, spool, app, Server(served, listening)))
        return running[-1]

    yield make
    for gateway in running:
        gateway.server.stop()
        gateway.spool.close()
        gateway.workspace.close()


@pytest.fixture
def gateway(start: Start) -> Gateway:
    """A gateway with the defaults, keyless."""
    return start()


@pytest.fixture(scope="session")
def server_type() -> type[Server]:
    """`server_type(app)` starts an ASGI application in a thread."""
    return Server


@dataclass
class Command:
    """`apprentice serve` in a process of its own."""

    process: subprocess.Popen[bytes]
    home: Path
    log: Path
    url: str = ""

    def capture(self, provider: str = "openai") -> str:
        return f"{self.url}/v1/capture/{provider}"

    def said(self) -> str:
        """Its standard error so far, its workers' too."""
        return self.log.read_text()

    def workers(self) -> list[int]:
        """The workers' process ids, from the kernel."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = " ".join(task.read_text() for task in tasks).split()
        return [int(pid) for pid in children if "gateway.worker" in _command_line(pid)]

    def wait_until_ready(self) -> None:
        end = time.monotonic() + 90
        while not (found := re.search(r"listening on (http\S+)", self.said())):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end
            time.sleep(0.05)
        self.url = found.group(1)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)


Serve = Callable[..., Command]


@pytest.fixture
def serve(tmp_path: Path, provider: Upstream) -> Iterator[Serve]:
    """`serve(*options, environment=…, **sections)`: `apprentice serve` with this configuration."""
    commands: list[Command] = []

    def make(
        *options: str,
        environment: dict[str, str] | None = None,
        ready: bool = True,
        **sections: Any,
    ) -> Command:
        folder = tmp_path / f"served{len(commands)}"
        folder.mkdir()
        endpoints = dict.fromkeys(("openai", "anthropic"), provider.url)
        document = {"remote": {"endpoints": endpoints}, **sections}
        (folder / "apprentice.yaml").write_bytes(orjson.dumps(document))
        named = {
            "APPRENTICE_HOME": str(folder / "home"),
            "APPRENTICE_CONFIG": str(folder / "apprentice.yaml"),
        }
        with open(folder / "stderr", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "apprentice_pipeline.cli", "serve", "--port", "0", *options],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=folder,
                env={**os.environ, **named, **(environment or {})},
            )
        commands.append(Command(process, folder / "home", folder / "stderr"))
        if ready:
            commands[-1].wait_until_ready()
        return commands[-1]

    yield make
    for command in commands:
        command.stop()


def _command_line(pid: str) -> str:
    """A process's command line, "" where it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
