"""What passes the gateway is what was sent, in both directions."""

from __future__ import annotations

import socket
from typing import Any

import orjson
import pytest

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
OURS = {"x-apprentice-pair-id", "x-apprentice-served-by"}


def without_ours(answer: Any) -> Any:
    kept = [(k, v) for k, v in answer.headers if k.lower() not in OURS]
    dropped = {"x-apprentice-x"}
    return answer.status, [h for h in kept if h[0] not in dropped], answer.body


@pytest.mark.parametrize(
    "behaviour",
    ["json", "gzip", "chunked", "stream", "gzip-stream", "error", "redirect", "not-json"],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models/x"], ids=["captured", "uncaptured"])
def test_a_response_passes_unmodified(
    gateway: Any, provider: Any, ask: Any, behaviour: str, path: str
) -> None:
    headers = {"x-behave": behaviour}
    direct = ask(provider.url, path, ASK, headers)
    through = ask(gateway.capture(), path, ASK, headers)
    assert without_ours(through) == without_ours(direct)
    assert through.header("x-apprentice-served-by") == "remote"


def test_a_request_passes_unmodified(gateway: Any, provider: Any, ask: Any) -> None:
    body = b'{ "model" : "m",  "messages": [], "x": 1.0, "u": "\\u00e9\xc3\xa9" }'
    headers = {
        "authorization": "Bearer sk-1",
        "x-custom": "caf\u00c3\u00a9",
        "accept-encoding": "br",
    }
    ask(gateway.capture(), CHAT + "?a=%2F&b=", body, headers)
    ask(provider.url, CHAT + "?a=%2F&b=", body, headers)
    through, direct = provider.seen
    assert (through.method, through.path, through.query) == (
        direct.method,
        direct.path,
        direct.query,
    )
    assert through.body == body
    assert sorted(through.headers) == sorted(direct.headers)


def test_our_headers_and_hop_by_hop_headers_do_not_reach_the_provider(
    gateway: Any, provider: Any, ask: Any
) -> None:
    headers = {
        "x-apprentice-namespace": "tickets",
        "connection": "keep-alive, x-private",
        "x-private": "1",
        "te": "trailers",
    }
    ask(gateway.capture(), CHAT, ASK, headers)
    names = {name for name, _ in provider.seen[0].headers}
    assert not names & {"x-apprentice-namespace", "x-apprentice-key", "x-private", "te"}
    assert dict(provider.seen[0].headers)["host"] == provider.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("", CHAT),
        ("/", CHAT),
        ("/v1", CHAT),
        ("/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT),
        ("/responses", "/v1/responses"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/files/a%2Fb", "/v1/files/a%2Fb"),
    ],
)
def test_the_provider_is_asked_at_its_own_path(
    gateway: Any, provider: Any, ask: Any, path: str, asked: str
) -> None:
    ask(gateway.capture(), path, ASK)
    assert provider.seen[0].path == asked


def test_get_requests_pass_without_a_body(gateway: Any, provider: Any, ask: Any) -> None:
    ask(gateway.capture("anthropic"), "/v1/models?limit=2")
    seen = provider.seen[0]
    assert (seen.method, seen.path, seen.query, seen.body) == ("GET", "/v1/models", "limit=2", b"")
    assert not {"content-length", "transfer-encoding"} & {name for name, _ in seen.headers}


def test_the_first_event_passes_before_the_last_was_made(gateway: Any, provider: Any) -> None:
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=5) as client:
        client.sendall(request_bytes("waiting-stream"))
        received = b""
        while b'"content":"po"' not in received:
            received += client.recv(65536)
        assert not provider.go_on.is_set()
        provider.go_on.set()
        while b"[DONE]" not in received:
            received += client.recv(65536)


def request_bytes(behaviour: str) -> bytes:
    body = orjson.dumps({**ASK, "stream": True})
    head = (
        f"POST /v1/capture/openai{CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-behave: {behaviour}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.parametrize("path", [CHAT, "/v1/other"])
def test_a_body_that_is_cut_is_cut_for_the_client_too(gateway: Any, path: str) -> None:
    for behaviour in ("cut-body", "cut-stream"):
        with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=5) as client:
            client.sendall(request_bytes(behaviour).replace(CHAT.encode(), path.encode()))
            received = b""
            while piece := client.recv(65536):
                received += piece
        assert b"200 OK" in received
        assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("provider_name", ["openai", "anthropic"])
def test_a_provider_out_of_reach_is_a_502_in_its_own_shape(
    start: Any, ask: Any, provider_name: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gateway = start(url=f"http://127.0.0.1:{unused.getsockname()[1]}")
        answer = ask(gateway.capture(provider_name), "", ASK)
    assert answer.status == 502
    error = answer.json()["error"]
    assert error["type"] == {"openai": "server_error", "anthropic": "api_error"}[provider_name]
    assert answer.header("x-apprentice-pair-id")


def test_a_provider_that_says_nothing_in_time_is_a_504(start: Any, ask: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        gateway = start(
            url=f"http://127.0.0.1:{silent.getsockname()[1]}", gateway={"upstream_timeout_s": 0.3}
        )
        assert ask(gateway.capture(), CHAT, ASK).status == 504


def test_bodies_beyond_the_capture_limit_pass_uncaptured(
    start: Any, provider: Any, ask: Any
) -> None:
    gateway = start(capture={"max_bytes": 50_000})
    big = orjson.dumps({**ASK, "padding": "x" * 3_000_000})
    answer = ask(gateway.capture(), CHAT, big, {"x-behave": "swallow"})
    assert answer.status == 200
    assert provider.bytes_seen == len(big)
    assert dict(provider.seen[0].headers)["content-length"] == str(len(big))
    large = ask(gateway.capture(), CHAT, ASK, {"x-behave": "big"})
    assert len(large.body) == 10_000_000
    assert gateway.captured() == []
    assert gateway.counted("oversize") == 2


def test_a_chunked_upload_passes(start: Any, provider: Any, ask: Any) -> None:
    gateway = start(capture={"max_bytes": 1_000})
    pieces = [b"x" * 700, b"y" * 700, b"z"]
    connection_body = iter(pieces)
    port_url = gateway.capture()
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", gateway.server.port, timeout=5)
    connection.request(
        "POST", port_url[port_url.index("/v1/") :] + CHAT, connection_body, encode_chunked=True,
        headers={"transfer-encoding": "chunked"},
    )  # fmt: skip
    assert connection.getresponse().read()
    connection.close()
    assert provider.seen[0].body == b"".join(pieces)


def test_a_body_beyond_the_gateways_limit_is_refused_in_the_providers_shape(
    start: Any, ask: Any
) -> None:
    gateway = start(gateway={"max_body_bytes": 1_000})
    answer = ask(gateway.capture("anthropic"), "", b"x" * 2_000)
    assert answer.status == 413
    assert answer.json()["error"]["type"] == "request_too_large"


@pytest.mark.parametrize("body", [b"", b"not json", b"[1]", b'{"messages": 3}', b"\xff\xfe"])
def test_malformed_requests_pass_and_are_counted(
    gateway: Any, provider: Any, ask: Any, body: bytes
) -> None:
    assert ask(gateway.capture(), CHAT, body, method="POST").status == 200
    assert provider.seen[0].body == body
    assert gateway.counted("unreadable") == 1
    assert [row["is_pair"] for row in gateway.captured()] == [False]


def test_an_unknown_provider_is_not_found(gateway: Any, ask: Any) -> None:
    assert ask(gateway.url, "/v1/capture/acme/v1/x", ASK).status == 404
    assert ask(gateway.url, "/v1/capture/openaix", ASK).status == 404
