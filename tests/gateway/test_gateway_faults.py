"""What is not HTTP, and what fails inside the gateway: told in the provider's own shape."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
PATHS = {"gemini": "/v1beta/models/gemini-2.5-flash:generateContent"}
BODY = orjson.dumps(ASK)
SHAPES = {
    "openai": lambda error: set(error["error"]) == {"message", "type", "param", "code"},
    "anthropic": lambda error: error["type"] == "error" and set(error["error"]) == {
        "message", "type",
    },
    "gemini": lambda error: set(error["error"]) == {"code", "message", "status"},
}  # fmt: skip
BY_PROVIDER = pytest.mark.parametrize("provider_name", SHAPES)
Say = Callable[..., tuple[int, dict[str, str], Any]]


@pytest.fixture
def say() -> Iterator[Say]:
    """`say(gateway, *segments)`: these bytes, and the answer: status, headers, JSON body."""
    with ExitStack() as stack:

        def send(gateway: Any, *segments: bytes) -> tuple[int, dict[str, str], Any]:
            address = ("127.0.0.1", gateway.server.port)
            client = stack.enter_context(socket.create_connection(address, timeout=60))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for segment in segments:
                client.sendall(segment)
                time.sleep(0.02)
            response = http.client.HTTPResponse(client)
            response.begin()
            return response.status, dict(response.getheaders()), orjson.loads(response.read())

        yield send


def head(provider_name: str, *lines: str) -> bytes:
    start = f"POST /v1/capture/{provider_name} HTTP/1.1"
    return "\r\n".join([start, "host: 127.0.0.1", *lines, "", ""]).encode()


def alerts(gateway: Any, tenant: str) -> list[str]:
    gateway.flush()
    return [alert.kind for alert in gateway.workspace.state.alerts(tenant)]


@BY_PROVIDER
@pytest.mark.parametrize(
    "lines",
    [
        ["bad header: x"],
        ["content-length: 3", "content-length: 4"],
        ["content-length: 3", "transfer-encoding: chunked"],
    ],
    ids=["blank-in-a-name", "two-lengths", "length-and-chunks"],
)
def test_a_malformed_head_is_400_in_the_provider_s_shape(
    gateway: Any, provider: Any, say: Say, provider_name: str, lines: list[str]
) -> None:
    status, headers, error = say(gateway, head(provider_name, *lines))
    assert (status, headers["connection"]) == (400, "close")
    assert headers["content-type"] == "application/json"
    assert SHAPES[provider_name](error)
    assert provider.seen == []
    assert gateway.counted("malformed", "", "") == 1
    assert alerts(gateway, "") == ["malformed_http"]


def test_a_malformed_chunk_is_400_though_the_head_was_well(
    gateway: Any, provider: Any, say: Say
) -> None:
    chunked = head("anthropic", "transfer-encoding: chunked")
    status, _, error = say(gateway, chunked, b"3\r\nabc\r\n", b"not a number\r\n")
    assert status == 400
    assert SHAPES["anthropic"](error)
    assert provider.seen == []
    assert gateway.counted("malformed", "", "") == 1


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x02\x00", b"GET /v1/status HTTP/9.9\r\n\r\n"])
def test_what_names_no_provider_is_400_in_the_control_plane_s_shape(
    gateway: Any, say: Say, said: bytes
) -> None:
    status, _, error = say(gateway, said)
    assert status == 400
    assert set(error["error"]) == {"message", "type", "remedy"}


class Breaking:
    """An ASGI server that does what none should: the header `x-break` says what."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        broken = dict(scope.get("headers", ())).get(b"x-break", b"")
        if broken == b"admission":
            scope["query_string"] = None

        async def receiving() -> Any:
            if broken == b"body":
                raise LookupError("private words")
            return await receive()

        async def sending(message: Any) -> None:
            if broken == b"response" and message.get("body"):
                raise LookupError("private words")
            await send(message)

        await self._app(scope, receiving, sending)


@BY_PROVIDER
@pytest.mark.parametrize(("broken", "stream"), [("admission", ""), ("body", "default")])
def test_a_failure_that_nobody_foresaw_is_500_in_the_provider_s_shape(
    start: Any, ask: Any, provider_name: str, broken: str, stream: str
) -> None:
    gateway = start(around=Breaking)
    path = PATHS.get(provider_name, "")
    answer = ask(gateway.capture(provider_name), path, ASK, {"x-break": broken})
    assert answer.status == 500
    assert SHAPES[provider_name](answer.json())
    assert b"private" not in answer.body
    assert gateway.counted("unexpected", stream, stream) == 1
    assert alerts(gateway, stream) == ["call_failed"]
    assert ask(gateway.capture(provider_name), path, ASK).status == 200


def test_a_call_that_failed_inside_is_an_exchange_and_no_pair(start: Any, ask: Any) -> None:
    gateway = start(around=Breaking)
    answer = ask(gateway.capture(), CHAT, ASK, {"x-break": "body"})
    [row] = gateway.captured()
    assert row["pair_id"] == answer.header("x-apprentice-pair-id")
    assert (row["status"], row["is_pair"]) == (500, False)


def test_a_response_that_fails_inside_is_cut_and_never_ended(start: Any, ask: Any) -> None:
    gateway = start(around=Breaking)
    with pytest.raises(http.client.IncompleteRead):
        ask(gateway.capture(), CHAT, {**ASK, "stream": True}, {
            "x-break": "response", "x-behave": "stream",
        })  # fmt: skip
    assert gateway.counted("unexpected") == 1
    assert alerts(gateway, "default") == ["call_failed"]
    assert len(gateway.captured()) == 1


def nested(levels: int) -> Any:
    inmost: Any = []
    for _ in range(levels - 1):
        inmost = [inmost]
    return inmost


@pytest.mark.parametrize("levels", [253, 600, 1_000, 1_015])
def test_a_request_that_nests_too_deeply_is_unreadable_and_not_lost(
    gateway: Any, provider: Any, ask: Any, levels: int
) -> None:
    body = b'{"model":"gpt-4o","metadata":' + b"[" * levels + b"]" * levels + b","
    body += orjson.dumps(ASK)[1:]
    assert ask(gateway.capture(), CHAT, body).status == 200
    assert provider.seen[0].body == body
    [row] = gateway.captured()
    assert (row["status"], row["is_pair"]) == (200, False)
    assert gateway.opened(row, "input") == {"messages": [], "parameters": {}}
    counted = {name: gateway.counted(name) for name in ("unreadable", "lost", "pairs", "requests")}
    assert counted == {"unreadable": 1, "lost": 0, "pairs": 0, "requests": 1}
    assert alerts(gateway, "default") == []


def test_an_answer_that_nests_too_deeply_is_unreadable_and_not_lost(
    start: Any, server_type: Any, ask: Any
) -> None:
    said = [{"type": "another", "extra": nested(500)}]
    message = {"role": "assistant", "content": said}
    whole = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    body = json.dumps(whole).encode()

    async def deep(_: Any, receive: Any, send: Any) -> None:
        await receive()
        kind = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        await send({"type": "http.response.body", "body": body})

    server = server_type(deep)
    try:
        gateway = start(server.url)
        assert ask(gateway.capture(), CHAT, ASK).body == body
        [row] = gateway.captured()
        assert (row["is_pair"], row["output"]) == (False, None)
        counted = [gateway.counted(name) for name in ("unreadable", "lost", "pairs")]
        assert counted == [1, 0, 0]
    finally:
        server.stop()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_deepest_pair_there_can_be_is_exported(gateway: Any, ask: Any, form: str) -> None:
    """A client's own odd request must not end the export of everything else."""
    deepest = nested(252)
    assert ask(gateway.capture(), CHAT, {**ASK, "metadata": deepest}).status == 200
    assert [row["is_pair"] for row in gateway.captured()] == [True]
    path = f"/v1/labels/synthesize-corpus?namespace=default&format={form}"
    exported = ask(gateway.url, path)
    assert exported.status == 200
    if form == "jsonl":
        assert exported.json()["input"]["parameters"]["metadata"] == deepest
    else:
        assert exported.body.startswith(b"PAR1")
        assert exported.body.endswith(b"PAR1")


TRAILERS = b"x-apprentice-namespace: other\r\nauthorization: Bearer sk-2\r\nx-late: 1\r\n\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize("path", [CHAT, "/v1/files"], ids=["captured", "uncaptured"])
@pytest.mark.parametrize("cut", [1, 2, 3], ids=["at-once", "after-the-head", "in-three"])
def test_trailers_are_dropped_whenever_they_come(
    gateway: Any, provider: Any, say: Say, path: str, cut: int
) -> None:
    """They are no headers (RFC 9110, section 6.5.1): no key, no namespace comes with them."""
    named = ("transfer-encoding: chunked", "authorization: Bearer sk-1", "trailer: x-late")
    parts = [head("openai" + path, *named), CHUNKS, TRAILERS]
    segments = [b"".join(parts[: 4 - cut]), *parts[4 - cut :]]
    assert say(gateway, *segments)[0] == 200
    [seen] = provider.seen
    assert seen.body == BODY
    assert [value for name, value in seen.headers if name == "authorization"] == ["Bearer sk-1"]
    assert not {"x-late", "trailer", "x-apprentice-namespace"} & {name for name, _ in seen.headers}
    assert {row["namespace"] for row in gateway.captured()} <= {"default"}


def test_the_next_request_of_a_connection_has_its_headers(
    gateway: Any, provider: Any, say: Say
) -> None:
    named = head("openai" + CHAT, "transfer-encoding: chunked")
    after = head("openai" + CHAT, "x-own: 1", f"content-length: {len(BODY)}")
    say(gateway, named + CHUNKS + TRAILERS + after + BODY)
    end = time.monotonic() + 60
    while len(provider.seen) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert ("x-own", "1") in provider.seen[1].headers
    assert provider.seen[1].body == BODY


def test_trailers_without_end_are_431(start: Any, say: Say, provider: Any) -> None:
    gateway = start(gateway={"max_header_bytes": 10_000})
    chunked = head("openai" + CHAT, "transfer-encoding: chunked")
    status, _, error = say(gateway, chunked, CHUNKS, b"x-endless: ", *[b"z" * 1_000] * 11)
    assert status == 431
    assert SHAPES["openai"](error)
    assert provider.seen == []


def test_a_body_of_many_small_chunks_is_no_head(start: Any, say: Say, provider: Any) -> None:
    gateway = start(gateway={"max_header_bytes": 2_000})
    chunked = head("openai" + CHAT, "transfer-encoding: chunked")
    small = [b"1;%b\r\n%c\r\n" % (b"e" * 100, byte) for byte in BODY]
    assert say(gateway, chunked, *small, b"0\r\n\r\n")[0] == 200
    assert provider.seen[0].body == BODY
