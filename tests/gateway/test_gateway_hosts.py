"""Only the configuration names a provider's host: no request can choose another."""

from __future__ import annotations

import posixpath
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apprentice_pipeline.gateway.upstream import climbs

CHAT = "/v1/chat/completions"
ASK = b'{"model":"gpt-4o","messages":[{"role":"user","content":"ping"}]}'
PREFIX = "/v1/capture/openai"
PARTS = [
    PREFIX, "/v1/capture/anthropic", "/v1", CHAT, "/", "//", "///", "\\", "@", ":", ";", "?", "#",
    "..", "/../", "/./", "%2e%2e", "%2E.", "%252e%252e", "%2f", "%5c", "%40", "%00", "%0d%0a", "%",
    "http:", "http://", "https://", "DECOY", "user:pass@DECOY", "[::ffff:127.0.0.1]", "é", "．．",
    "／", "\u2025", "x",
]  # fmt: skip
HEADERS = [
    "Host", "X-Forwarded-Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Server",
    "X-Forwarded-Port", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "X-Host", "Referer",
    "X-Upstream", "X-Portkey-Custom-Host", "X-Apprentice-Upstream", "OpenAI-Base-URL", "Proxy",
    "Via", "Content-Location", ":authority",
]  # fmt: skip
VALUES = ["DECOY", "http://DECOY/v1", "host=DECOY;proto=http", "127.0.0.1, DECOY", "DECOY\t"]


class Decoy:
    """Listens, and counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.visits = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def decoy() -> Iterator[Decoy]:
    made = Decoy()
    yield made
    made.close()


def exchanged(port: int, target: str, headers: list[tuple[str, str]], method: str) -> bytes:
    """The beginning of what the gateway answers to exactly these bytes."""
    lines = [f"{method} {target} HTTP/1.1", "connection: close", *(f"{k}: {v}" for k, v in headers)]
    if not any(name == "Host" for name, _ in headers):
        lines.append(f"host: 127.0.0.1:{port}")
    if method == "POST":
        lines.append(f"content-length: {len(ASK)}")
    request = "\r\n".join([*lines, "", ""]).encode() + (ASK if method == "POST" else b"")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(request)
        try:
            return client.recv(65536)
        except ConnectionResetError:
            return b""


def test_no_request_reaches_a_host_that_the_configuration_does_not_name(
    start: Any, provider: Any, decoy: Decoy
) -> None:
    """Nor a path above the endpoint's own. Bytes from a plain socket, for no client writes them."""
    gateway = start(url=f"{provider.url}/team")
    own = provider.url.removeprefix("http://")

    targets = st.one_of(
        st.lists(st.sampled_from(PARTS), max_size=6).map(lambda parts: PREFIX + "".join(parts)),
        st.lists(st.sampled_from(PARTS), min_size=1, max_size=7).map("".join),
    )
    given_headers = st.lists(
        st.tuples(st.sampled_from(HEADERS), st.sampled_from(VALUES)), max_size=3
    )

    @settings(
        max_examples=250,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(targets, given_headers, st.sampled_from(["GET", "POST", "CONNECT", "OPTIONS"]))
    def try_it(target: str, headers: list[tuple[str, str]], method: str) -> None:
        named = [(name, value.replace("DECOY", decoy.place)) for name, value in headers]
        exchanged(gateway.server.port, target.replace("DECOY", decoy.place), named, method)

    try_it()
    assert decoy.visits == 0
    assert len(provider.seen) > 20
    for seen in provider.seen:
        assert dict(seen.headers)["host"] == own
        plain = unquote(unquote(unquote(seen.path))).replace("\\", "/")
        assert posixpath.normpath("/" + plain.lstrip("/")).startswith("/team/v1")


CLIMBING = [
    "/../x", "/..", "/a/../../b", "/%2e%2e/x", "/%2E./x", "/.%2e/x", "/..%2fx", "/%252e%252e/x",
    "/..\\x", "/a%5c..%5cb", "\\..\\x",
]  # fmt: skip


@pytest.mark.parametrize("path", CLIMBING)
@pytest.mark.parametrize("provider_name", ["openai", "anthropic"])
def test_a_path_that_climbs_is_refused_in_the_providers_shape(
    gateway: Any, provider: Any, path: str, provider_name: str
) -> None:
    target = f"/v1/capture/{provider_name}{path}"
    answer = exchanged(gateway.server.port, target, [], "POST")
    assert answer.startswith(b"HTTP/1.1 404")
    assert b'"error"' in answer
    assert provider.seen == []


@pytest.mark.parametrize(
    "path", ["/files/a..b", "/files/...", "/x/%2F", "/a%20b", "/files/v1.2", "/models/x:y", ""]
)
def test_a_path_that_does_not_climb_is_passed_on(path: str) -> None:
    assert not climbs(path)


def test_an_absolute_target_is_read_as_its_path(gateway: Any, provider: Any, decoy: Decoy) -> None:
    target = f"http://{decoy.place}{PREFIX}{CHAT}"
    assert exchanged(gateway.server.port, target, [], "POST").startswith(b"HTTP/1.1 200")
    assert provider.seen[0].path == CHAT
    assert decoy.visits == 0


def test_a_redirect_of_the_providers_is_passed_on_and_not_followed(
    gateway: Any, provider: Any, ask: Any
) -> None:
    answer = ask(gateway.capture(), CHAT, ASK, {"x-behave": "redirect"})
    assert (answer.status, answer.header("location")) == (307, "/elsewhere")
    assert len(provider.seen) == 1


@pytest.mark.parametrize(
    "claim",
    [
        {"x-forwarded-host": "127.0.0.1"},
        {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"},
        {"forwarded": "host=127.0.0.1;for=127.0.0.1"},
        {"x-forwarded-proto": "https", "x-forwarded-host": "localhost:8710"},
    ],
)
def test_forwarding_headers_open_nothing(
    gateway: Any, provider: Any, ask: Any, claim: dict[str, str]
) -> None:
    foreign = {"host": "evil.example", **claim}
    assert ask(gateway.capture(), CHAT, ASK, foreign).status == 403
    assert provider.seen == []


def test_a_disguised_prefix_leads_to_the_same_path(gateway: Any, provider: Any) -> None:
    target = f"/v1/%63apture/openai{CHAT}"
    assert exchanged(gateway.server.port, target, [], "POST").startswith(b"HTTP/1.1 200")
    assert provider.seen[0].path == CHAT
