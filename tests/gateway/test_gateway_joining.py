"""A response's head and what follows it at once are one write; a head alone does not wait."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from apprentice_pipeline.gateway.protocol import Joining

Turn = Callable[[Joining], Coroutine[Any, Any, None]]


@pytest.fixture
def received() -> Callable[[Turn], list[bytes]]:
    """`received(turn)`: the datagrams, one a write, that `turn` made of a transport."""

    async def run(turn: Turn, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        await turn(Joining(transport, loop))
        await asyncio.sleep(0.05)
        transport.close()

    def make(turn: Turn) -> list[bytes]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(run(turn, _Stream(ours)))
            theirs.setblocking(False)
            found = []
            while piece := theirs.recv(1 << 16):
                found.append(piece)
            return found

    return make


class _Stream(socket.socket):
    """A socket that keeps writes apart and passes for a stream."""

    def __init__(self, inner: socket.socket) -> None:
        super().__init__(inner.family, inner.type, inner.proto, fileno=inner.detach())

    @property
    def type(self) -> int:  # type: ignore[override]
        return socket.SOCK_STREAM


def test_a_head_and_its_body_are_one_write(received: Any) -> None:
    async def turn(transport: Joining) -> None:
        transport.for_response()
        transport.write(b"head")
        transport.write(b"body")
        transport.write(b"more")

    assert received(turn) == [b"headbody", b"more"]


def test_a_head_that_nothing_follows_goes_alone_and_at_once(received: Any) -> None:
    async def turn(transport: Joining) -> None:
        transport.for_response()
        transport.write(b"head")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        transport.write(b"body")

    assert received(turn) == [b"head", b"body"]


def test_each_response_of_a_connection_is_joined(received: Any) -> None:
    async def turn(transport: Joining) -> None:
        for number in (b"1", b"2"):
            transport.for_response()
            transport.write(b"head" + number)
            transport.write(b"body" + number)

    assert received(turn) == [b"head1body1", b"head2body2"]


def test_a_response_that_is_a_head_only_comes_before_the_next(received: Any) -> None:
    async def turn(transport: Joining) -> None:
        transport.for_response()
        transport.write(b"head1")
        transport.for_response()
        transport.write(b"head2")
        transport.write(b"body2")

    assert received(turn) == [b"head1", b"head2body2"]


def test_closing_sends_what_is_held(received: Any) -> None:
    async def turn(transport: Joining) -> None:
        transport.for_response()
        transport.write(b"head")
        transport.close()

    assert received(turn) == [b"head"]


def test_nothing_is_sent_over_a_connection_that_was_cut(received: Any) -> None:
    async def turn(transport: Joining) -> None:
        transport.for_response()
        transport.write(b"head")
        transport.abort()

    assert received(turn) == []


def test_a_client_gets_head_and_body_together(start: Any, provider: Any) -> None:
    """Over TCP, from a gateway: nobody is woken twice for one answer."""
    gateway = start()
    ask = b'{"model":"gpt-4o","messages":[{"role":"user","content":"ping"}]}'
    head = (
        b"POST /v1/capture/openai/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        b"content-length: %d\r\n\r\n" % len(ask)
    )
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=60) as client:
        for _ in range(3):
            client.sendall(head + ask)
            first = client.recv(1 << 16)
            assert first.startswith(b"HTTP/1.1 200")
            assert first.partition(b"\r\n\r\n")[2], "the body came by itself"
    assert len(provider.seen) == 3


@pytest.mark.parametrize("path", ["/healthz", "/nothing", "/v1/capture/nobody/x"])
def test_a_head_request_is_answered_though_its_client_has_ended_its_side(
    start: Any, path: str
) -> None:
    gateway = start()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=60) as client:
            client.sendall(f"HEAD {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 ")
