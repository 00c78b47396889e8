"""Clients that speak old, odd or hostile HTTP: each gets what it can read, and nothing else's."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

TARGET = b"/v1/capture/openai/v1/chat/completions"
ASK = b'{"model":"gpt-4o","messages":[{"role":"user","content":"ping"}]}'
OTHER = ASK.replace(b"ping", b"pong")
LAST = b"connection: close"
H2C = (b"upgrade: h2c", b"connection: Upgrade, HTTP2-Settings", b"http2-settings: AAMAAABkAAQ")


def request(
    *lines: bytes,
    method: bytes = b"POST",
    target: bytes = TARGET,
    version: bytes = b"HTTP/1.1",
    host: bytes = b"host: 127.0.0.1",
    body: bytes = ASK,
) -> bytes:
    length = [b"content-length: %d" % len(body)] if body else []
    head = [method + b" " + target + b" " + version, host, *lines, *length]
    return b"\r\n".join([*head, b"", b""]) + body


def connect(gateway: Any) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", gateway.server.port), timeout=60)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def told(client: socket.socket) -> bytes:
    """All that comes until the gateway ends the connection."""
    received = b""
    while piece := client.recv(1 << 16):
        received += piece
    return received


def exchange(gateway: Any, *pieces: bytes) -> bytes:
    with closing(connect(gateway)) as client:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.02)
        return told(client)


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (b"connection: keep-alive",),
        (b"x-behave: chunked",),
        (b"x-behave: stream",),
        (b"x-behave: waiting-stream",),
        (b"expect: 100-continue",),
    ],
    ids=lambda lines: b" ".join(lines).decode() or "plain",
)
def test_a_client_of_http_1_0_gets_no_chunks_and_no_100(
    gateway: Any, provider: Any, lines: tuple[bytes, ...]
) -> None:
    provider.go_on.set()
    received = exchange(gateway, request(*lines, version=b"HTTP/1.0"))
    head, _, body = received.partition(b"\r\n\r\n")
    assert statuses(received) == [200]
    assert b"transfer-encoding" not in head
    assert body.startswith((b'{"id"', b"data: {"))
    assert body.endswith((b"}}", b"data: [DONE]\n\n"))
    wait_for(lambda: gateway.counted("pairs") == 1)
    assert len(gateway.captured()) == 1


@pytest.mark.parametrize("behave", [b"cut-stream", b"cut-body"])
def test_a_client_of_http_1_0_cannot_take_a_cut_answer_for_whole(
    gateway: Any, behave: bytes
) -> None:
    """Its only end is the connection's: that must not be a clean one, or lack what was told."""
    with closing(connect(gateway)) as client:
        client.sendall(request(b"x-behave: " + behave, version=b"HTTP/1.0"))
        try:
            received = told(client)
        except ConnectionResetError:
            return
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    assert len(body) < int(length[1])


OFFERS = {
    "once": [request(*H2C, LAST)],
    "head and body apart": [request(*H2C)[: -len(ASK)], ASK, request(LAST, body=OTHER)],
    "again": [request(*H2C), request(*H2C, body=OTHER), request(LAST)],
    "pipelined": [request(*H2C) + request(*H2C, body=OTHER) + request(LAST)],
    "chunked": [
        request(*H2C, b"transfer-encoding: chunked", body=b"")
        + b"%x\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (len(ASK), ASK)
        + request(LAST, body=OTHER)
    ],
    "without a body": [request(*H2C, method=b"GET", body=b"") + request(LAST)],
    "of length 0": [request(*H2C, b"content-length: 0", body=b"") + request(LAST)],
    "websocket": [
        request(b"upgrade: websocket", b"connection: upgrade", method=b"GET", body=b""),
        request(LAST),
    ],
}


@pytest.mark.parametrize("pieces", OFFERS.values(), ids=OFFERS)
def test_an_offer_of_another_protocol_is_left_and_no_body_is_lost(
    gateway: Any, provider: Any, pieces: list[bytes]
) -> None:
    """Java's own client offers h2c with the first request of each connection."""
    received = exchange(gateway, *pieces)
    sent = re.findall(rb"(?:POST|GET) /|(\{.*?\}\]\})", b"".join(pieces))
    bodies = [body for body in sent if body]
    assert statuses(received) == [200] * len(provider.seen)
    assert [each.body for each in provider.seen if each.body] == bodies
    assert len(provider.seen) == b"".join(pieces).count(b" HTTP/1.1\r\n")
    assert not any(name in ("upgrade", "http2-settings") for name, _ in provider.seen[0].headers)


def test_a_trailing_request_is_no_part_of_an_offer(gateway: Any, provider: Any) -> None:
    """Frames of the other protocol, sent on trust, are no request; the one before is answered."""
    offer = request(b"upgrade: websocket", b"connection: upgrade", method=b"GET", body=b"")
    assert statuses(exchange(gateway, offer + b"\x81\x05hello")) == [200]
    assert gateway.counted("malformed", "", "") == 1


def test_pipelined_calls_are_answered_in_order_and_captured(gateway: Any, provider: Any) -> None:
    slow = request(b"x-behave: slow-chunked")
    received = exchange(gateway, slow + request(LAST, b"x-behave: gzip", body=OTHER))
    assert statuses(received) == [200, 200]
    assert received.index(b"chunked") < received.index(b"content-encoding: gzip")
    wait_for(lambda: gateway.counted("pairs") == 2)
    inputs = [str(gateway.opened(row, "input")) for row in gateway.captured()]
    assert ["ping" in inputs[0], "pong" in inputs[1]] == [True, True]


BEHIND = {
    "garbage": b"GARBAGE\r\n\r\n",
    "a call and garbage": request(body=OTHER) + b"GARBAGE\r\n\r\n",
    "a head without end": request()[:40],
    "a body without end": request()[:-5],  # it is waited for once its turn has come
    "a large head": request(b"x-long: " + b"y" * 90_000)[:-100],
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not-begun"])
def test_a_refusal_is_never_written_into_an_earlier_answer(
    start: Any, provider: Any, behind: bytes, begun: bool
) -> None:
    """The earlier answer comes whole, and its end is the connection's."""
    limits = {"header_timeout_s": 0.3, "body_timeout_s": 0.3, "total_timeout_s": 60}
    gateway = start(gateway=limits)
    behave = b"x-behave: waiting-stream" if begun else b"x-behave: waiting-json"
    with closing(connect(gateway)) as client:
        client.sendall(request(behave))
        wait_for(lambda: len(provider.seen) == 1)
        received = client.recv(1 << 16) if begun else b""
        client.sendall(behind)
        time.sleep(1.5)  # what is late by then has been looked for
        provider.go_on.set()
        received += told(client)
    answer, late, _ = received.partition(b"HTTP/1.1 408 ")
    assert statuses(answer) == [200]
    assert answer.endswith((b"data: [DONE]\n\n\r\n0\r\n\r\n", b"}}"))
    assert bool(late) == (behind == BEHIND["a body without end"])
    wait_for(lambda: gateway.counted("pairs") == 1)


def test_a_malformed_call_on_a_used_connection_is_told_so(gateway: Any, provider: Any) -> None:
    with closing(connect(gateway)) as client:
        client.sendall(request())
        received = client.recv(1 << 16)
        client.sendall(b"GARBAGE\r\n\r\n")
        received += told(client)
    assert statuses(received) == [200, 400]


def test_a_pipelining_client_that_leaves_a_stream_ends_the_call(
    gateway: Any, provider: Any
) -> None:
    client = connect(gateway)
    client.sendall(request(b"x-behave: waiting-stream") + request())
    wait_for(lambda: len(provider.seen) == 1)
    client.recv(1 << 16)
    client.close()
    assert provider.cancelled.wait(60)


@pytest.mark.parametrize("behave", ["json", "waiting-json", "slow-chunked", "gzip"])
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_a_client_that_ends_its_own_side_gets_its_answer(
    gateway: Any, provider: Any, behave: str, method: bytes
) -> None:
    with closing(connect(gateway)) as client:
        body = ASK if method == b"POST" else b""
        client.sendall(request(f"x-behave: {behave}".encode(), method=method, body=body))
        client.shutdown(socket.SHUT_WR)
        if behave == "waiting-json":
            wait_for(lambda: len(provider.seen) == 1)
            provider.go_on.set()
        received = told(client)
    assert statuses(received) == [200]
    assert received.endswith(b"0\r\n\r\n") or len(received.partition(b"\r\n\r\n")[2]) > 100


REFUSED = {
    "no key, and waits to send": (request(b"expect: 100-continue", b"x-apprentice-key: ak_x"), 401),
    "no provider, and waits": (request(b"expect: 100-continue", target=b"/v1/capture/no"), 404),
    "a tunnel": (request(LAST, method=b"CONNECT", body=b""), 405),
    "a tunnel elsewhere": (request(method=b"CONNECT", target=b"api.openai.com:443", body=b""), 400),
    "a trace": (request(LAST, method=b"TRACE", body=b""), 405),
    "all of the server": (request(LAST, method=b"OPTIONS", target=b"*", body=b""), 404),
    "HTTP/2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 400),
    "a folded header": (request(b"x-a: one\r\n two"), 400),
    "bare line feeds": (request().replace(b"\r\n", b"\n"), 400),
    "a NUL": (request(b"x-a: a\0b"), 400),
    "a namespace beyond ASCII": (request(LAST, b"x-apprentice-namespace: caf\xe9"), 400),
    "two namespaces": (
        request(LAST, b"x-apprentice-namespace: a", b"x-apprentice-namespace: b"), 400,
    ),
    "two keys": (request(LAST, b"x-apprentice-key: ak_a", b"x-apprentice-key: ak_b"), 401),
    **{
        f"the host {host.decode('latin-1')}": (request(LAST, host=host), 403)
        for host in (
            b"host: evil.example\r\nhost: 127.0.0.1", b"host: 127.0.0.1\r\nhost: evil.example",
            b"host: ", b"x-host: none", b"host: evil.example@127.0.0.1",
            b"host: 127.0.0.1@evil.example", b"host: 127.0.0.1/evil.example",
            b"host: 127.0.0.1#evil.example", b"host: localhost?evil", b"host: localhost\\evil",
            b"host: localhost.evil.example", b"host: 127.0.0.1 evil.example", b"host: \xe9",
            b"host: [::1", b"host: 0.0.0.0", b"host: 127.0.0.1:80:80",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_told_so_once_and_reaches_nobody(
    gateway: Any, provider: Any, sent: bytes, status: int
) -> None:
    """Of a body that a client waits to send nothing was read: its connection ends."""
    waits = b"expect" in sent
    received = exchange(gateway, sent[: -len(ASK)] if waits else sent)
    assert statuses(received) == [status]
    assert b'{"error":{' in received
    assert b"connection: close" in received
    assert provider.seen == []


@pytest.mark.parametrize(
    "sent",
    [
        request(LAST, host=b"host: [::1]:8710"),
        request(LAST, host=b"host: LOCALHOST:8710"),
        request(LAST, target=b"http://user:pass@127.0.0.1:1" + TARGET),
        request(LAST, b"x-a: caf\xe9\xff"),
        request(b"connection: close, x-apprentice-key, host, content-length, x-apprentice-pair-id"),
        b"\r\n\r\n" + request(LAST),
        request(LAST, b"expect: 100-continue"),
    ],
    ids=["ipv6", "capitals", "absolute", "beyond-ascii", "named", "blank-lines", "expect"],
)
def test_what_is_merely_odd_is_served(gateway: Any, provider: Any, sent: bytes) -> None:
    assert statuses(exchange(gateway, sent))[-1] == 200
    assert [each.body for each in provider.seen] == [ASK]
    wait_for(lambda: gateway.counted("pairs") == 1)
