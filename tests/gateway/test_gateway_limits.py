"""Limits on heads, bodies, calls and time, each refused in the provider's own shape."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import openai
import pytest

from apprentice_pipeline.records import now_us

CHAT = "/v1/chat/completions"
ASK = b'{"model":"gpt-4o","messages":[{"role":"user","content":"ping"}]}'
SHAPES = {
    "openai": lambda error: set(error["error"]) == {"message", "type", "param", "code"},
    "anthropic": lambda error: error["type"] == "error" and set(error["error"]) == {
        "message", "type",
    },
    "gemini": lambda error: set(error["error"]) == {"code", "message", "status"},
}  # fmt: skip
BELOW = {"openai": "", "anthropic": "", "gemini": "/v1beta/models/gemini-2.5-flash:generateContent"}
"""The paths that are captured; a bare one names no model of Gemini's."""
BY_PROVIDER = pytest.mark.parametrize("provider_name", SHAPES)


class Raw:
    """A client that speaks bytes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)

    def send(self, *pieces: bytes) -> Raw:
        for piece in pieces:
            self.socket.sendall(piece)
        return self

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """The response up to the end of the connection: status, headers, JSON body."""
        received = b""
        try:
            while piece := self.socket.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(status.split()[1]), headers, json.loads(body)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def raw() -> Iterator[Callable[[Any], Raw]]:
    """`raw(gateway)`: a connection to it."""
    with ExitStack() as stack:
        yield lambda gateway: stack.enter_context(closing(Raw(gateway.server.port)))


def head(provider_name: str = "openai", *lines: str, length: int | None = None) -> bytes:
    """The head of a call, unfinished."""
    start = [
        f"POST /v1/capture/{provider_name}{BELOW[provider_name]} HTTP/1.1",
        "host: 127.0.0.1",
        *lines,
    ]
    if length is not None:
        start.append(f"content-length: {length}")
    return "\r\n".join(start).encode() + b"\r\n"


@BY_PROVIDER
def test_too_many_headers_are_431(
    start: Any, raw: Any, provider: Any, ask: Any, provider_name: str
) -> None:
    gateway = start(gateway={"max_headers": 20})
    many = {f"x-{n}": "1" for n in range(30)}
    refused = ask(gateway.capture(provider_name), BELOW[provider_name], ASK, many)
    assert refused.status == 431
    assert SHAPES[provider_name](refused.json())
    assert provider.seen == []
    assert ask(gateway.capture(provider_name), BELOW[provider_name], ASK).status == 200
    assert ask(gateway.url, "/v1/status", None, many).status == 431


@BY_PROVIDER
@pytest.mark.parametrize("pieces", [1, 7], ids=["at-once", "in-pieces"])
def test_a_large_head_is_431(
    start: Any, raw: Any, provider: Any, ask: Any, provider_name: str, pieces: int
) -> None:
    gateway = start(gateway={"max_header_bytes": 10_000})
    whole = head(provider_name, "x-long: " + "y" * 12_000, length=len(ASK)) + b"\r\n" + ASK
    size = len(whole) // pieces + 1
    client = raw(gateway)
    for place in range(0, len(whole), size):
        client.send(whole[place : place + size])
        time.sleep(0.02)
    status, headers, error = client.answer()
    assert (status, headers["connection"]) == (431, "close")
    assert SHAPES[provider_name](error)
    assert provider.seen == []


def test_a_head_without_end_is_431_before_it_ends(start: Any, raw: Any) -> None:
    gateway = start(gateway={"max_header_bytes": 10_000})
    client = raw(gateway).send(head(), b"x-endless: ")
    hang_up(client, b"z" * 1_000)


def test_heads_below_the_limit_pass_however_they_are_cut(
    start: Any, raw: Any, provider: Any
) -> None:
    """Each call of a reused connection may be as large as the first."""
    gateway = start(gateway={"max_header_bytes": 10_000})
    whole = head("openai", "x-long: " + "y" * 8_000, length=len(ASK)) + b"\r\n" + ASK
    client = raw(gateway)
    for call in range(1, 5):
        for place in range(0, len(whole), 3_000):
            client.send(whole[place : place + 3_000])
            time.sleep(0.01)
        received = b""
        while not received.endswith(b"}}"):
            received += client.socket.recv(65536)
        assert received.startswith(b"HTTP/1.1 200")
        assert len(provider.seen) == call


@BY_PROVIDER
def test_a_head_that_does_not_end_is_408(start: Any, raw: Any, provider_name: str) -> None:
    gateway = start(gateway={"header_timeout_s": 0.5})
    status, _, error = raw(gateway).send(head(provider_name)).answer()
    assert status == 408
    assert SHAPES[provider_name](error)


@BY_PROVIDER
@pytest.mark.parametrize("framing", ["content-length: 900", "transfer-encoding: chunked"])
def test_a_body_that_does_not_go_on_is_408(
    start: Any, raw: Any, provider: Any, provider_name: str, framing: str
) -> None:
    gateway = start(gateway={"body_timeout_s": 0.5})
    client = raw(gateway).send(head(provider_name, framing), b"\r\n", b'5\r\n{"mod')
    status, _, error = client.answer()
    assert status == 408
    assert SHAPES[provider_name](error)
    assert provider.seen == []


def test_a_body_that_comes_slowly_but_steadily_passes(start: Any, raw: Any, provider: Any) -> None:
    gateway = start(gateway={"body_timeout_s": 1.5})
    client = raw(gateway).send(head(length=len(ASK)), b"\r\n")
    for place in range(0, len(ASK), 20):
        client.send(ASK[place : place + 20])
        time.sleep(0.8)
    assert client.socket.recv(65536).startswith(b"HTTP/1.1 200")
    assert provider.seen[0].body == ASK


def test_a_client_that_says_nothing_is_let_go(start: Any, raw: Any) -> None:
    gateway = start(gateway={"header_timeout_s": 0.5})
    assert raw(gateway).answer()[0] == 408


def test_bytes_after_a_refusal_do_not_keep_a_connection(start: Any, raw: Any) -> None:
    """A body that goes on after its 413, and line feeds after an answer."""
    gateway = start(gateway={"body_timeout_s": 0.5, "max_body_bytes": 1_000})
    for first, more in (
        (head(length=10_000_000) + b"\r\n", b"x" * 10),
        (head(length=len(ASK)) + b"\r\n" + ASK, b"\r\n"),
    ):
        client = raw(gateway).send(first)
        assert client.socket.recv(65536)
        hang_up(client, more)


def hang_up(client: Raw, piece: bytes) -> None:
    """Sends a piece again and again until the other side has closed."""
    end = time.monotonic() + 60
    while True:
        try:
            client.send(piece)
        except OSError:
            return
        assert time.monotonic() < end
        time.sleep(0.01)


@BY_PROVIDER
def test_a_call_that_takes_too_long_is_504(
    start: Any, raw: Any, provider: Any, provider_name: str
) -> None:
    """Whoever notices first says so: the door ends the connection, the pool only its call."""
    gateway = start(gateway={"total_timeout_s": 0.5})
    lines = ("x-behave: waiting-json", "connection: close")
    call = head(provider_name, *lines, length=len(ASK)) + b"\r\n" + ASK
    status, _, error = raw(gateway).send(call).answer()
    provider.go_on.set()
    assert status == 504
    assert SHAPES[provider_name](error)


@BY_PROVIDER
def test_a_body_beyond_the_limit_is_413(
    start: Any, provider: Any, ask: Any, provider_name: str
) -> None:
    gateway = start(gateway={"max_body_bytes": 1_000})
    refused = ask(gateway.capture(provider_name), BELOW[provider_name], b"x" * 2_000)
    assert refused.status == 413
    assert SHAPES[provider_name](refused.json())
    assert provider.seen == []


@BY_PROVIDER
def test_a_provider_that_nobody_can_reach_is_502(start: Any, ask: Any, provider_name: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gateway = start(url=f"http://127.0.0.1:{unused.getsockname()[1]}")
        refused = ask(gateway.capture(provider_name), BELOW[provider_name], ASK)
    assert refused.status == 502
    assert SHAPES[provider_name](refused.json())


def waiting_calls(gateway: Any, raw: Any, provider: Any, number: int, *lines: str) -> list[Raw]:
    """So many calls that the provider has not answered yet."""
    before = len(provider.seen)
    streamed = ASK[:-1] + b',"stream":true}'
    call = head("openai", "x-behave: waiting-stream", *lines, length=len(streamed)) + b"\r\n"
    made = [raw(gateway).send(call + streamed) for _ in range(number)]
    end = time.monotonic() + 60
    while len(provider.seen) < before + number:
        assert time.monotonic() < end
        time.sleep(0.01)
    return made


@BY_PROVIDER
def test_a_full_worker_says_503_and_when_to_come_again(
    start: Any, raw: Any, provider: Any, ask: Any, provider_name: str
) -> None:
    gateway = start(gateway={"max_in_flight": 3})
    waiting_calls(gateway, raw, provider, 3)
    refused = ask(gateway.capture(provider_name), BELOW[provider_name], ASK)
    assert (refused.status, refused.header("retry-after")) == (503, "1")
    assert SHAPES[provider_name](refused.json())
    assert len(provider.seen) == 3
    assert ask(gateway.url, "/healthz").status == 200
    provider.go_on.set()
    end = time.monotonic() + 60
    while ask(gateway.capture(provider_name), BELOW[provider_name], ASK).status != 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert gateway.counted("turned_away") >= 1


def test_a_tenant_at_its_share_is_429_and_others_are_served(
    start: Any, raw: Any, provider: Any, ask: Any
) -> None:
    gateway = start(gateway={"max_in_flight": 10, "max_in_flight_per_tenant": 2})
    keys = {
        tenant: gateway.workspace.state.create_key(
            tenant=tenant, namespace=None, role="tenant", now_us=now_us()
        ).key
        for tenant in ("acme", "other")
    }
    busy = waiting_calls(gateway, raw, provider, 2, f"x-apprentice-key: {keys['acme']}")
    refused = ask(gateway.capture("anthropic"), "", ASK, {"x-apprentice-key": keys["acme"]})
    assert (refused.status, refused.header("retry-after")) == (429, "1")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    served = ask(gateway.capture(), CHAT, ASK, {"x-apprentice-key": keys["other"]})
    assert served.status == 200
    for client in busy:  # clients that leave give their places back
        client.close()
    end = time.monotonic() + 60
    while ask(gateway.capture(), CHAT, ASK, {"x-apprentice-key": keys["acme"]}).status != 200:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_oldest_idle_connection_makes_room_and_a_busy_one_never(
    start: Any, raw: Any, provider: Any
) -> None:
    gateway = start(gateway={"max_clients": 64})
    (busy,) = waiting_calls(gateway, raw, provider, 1)
    idle = [raw(gateway) for _ in range(80)]
    last = raw(gateway).send(head(length=len(ASK)) + b"\r\n" + ASK)
    assert last.socket.recv(65536).startswith(b"HTTP/1.1 200")
    hang_up(idle[0], b"x")
    provider.go_on.set()
    received = b""
    while b"[DONE]" not in received:
        received += busy.socket.recv(65536)


def test_hundreds_of_hostile_clients_do_not_hurt_an_sdks_call(
    start: Any, raw: Any, provider: Any
) -> None:
    """While they hang there an SDK streams its answers; at their deadlines they are gone."""
    gateway = start(gateway={"header_timeout_s": 4, "body_timeout_s": 4, "write_timeout_s": 3})
    hostile = [start_hostile(raw(gateway), kind) for kind in KINDS for _ in range(KINDS[kind])]
    stopping = threading.Event()
    dripping = threading.Thread(target=drip, args=(hostile, stopping))
    dripping.start()
    try:
        with openai.OpenAI(
            base_url=gateway.capture() + "/v1", api_key="sk-own", max_retries=0, timeout=60
        ) as sdk:
            end = time.monotonic() + 60
            while left := sum(not gone(client) for client in hostile):
                assert streamed(sdk) == "pong"
                assert time.monotonic() < end, f"{left} are still there"
                time.sleep(0.05)
    finally:
        stopping.set()
        dripping.join()


KINDS = {"silent": 100, "slow-head": 100, "slow-body": 100, "slow-reader": 15}


def start_hostile(client: Raw, kind: str) -> Raw:
    """One that says nothing, sends its head or body without end, or reads nothing."""
    if kind == "slow-head":
        client.send(head())
    elif kind == "slow-body":
        client.send(head(length=5_000_000), b"\r\n", b'{"model":')
    elif kind == "slow-reader":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.send(head("openai", "x-behave: big", length=len(ASK)) + b"\r\n" + ASK)
    return client


def drip(clients: list[Raw], stopping: threading.Event) -> None:
    """A line of a head again and again from those who send one slowly."""
    first = KINDS["silent"]
    while not stopping.wait(0.5):
        for client in clients[first : first + KINDS["slow-head"]]:
            with suppress(OSError):
                client.send(b"x: 1\r\n")


def streamed(sdk: openai.OpenAI) -> str:
    chunks = sdk.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "ping"}],
        stream=True,
        extra_headers={"x-behave": "stream"},
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def gone(client: Raw) -> bool:
    """Whether the gateway has let the connection go."""
    return client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED


ESTABLISHED = 1
