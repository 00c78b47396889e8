"""Connections to providers: what comes is given on as it is, once, whole or as an error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from apprentice_pipeline.gateway.connections import Origin, Pool, request_head
from apprentice_pipeline.gateway.response import HIGH_WATER, Broken, Response, Silent

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Provider:
    """A server that says just what a test wants; `connections` counts."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self.connections = 0
        self.requests: list[bytes] = []
        self._serving: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Provider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.origin = Origin("127.0.0.1", port, tls=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = 0
        task = asyncio.current_task()
        assert task is not None
        self._serving.append(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.requests.append(head + await reader.readexactly(length))
                number += 1
                await self._handle(reader, writer, number)


def says(*pieces: bytes, close: bool = False) -> Handler:
    """Answers every request with the same bytes, a pause between the pieces."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        if close:
            writer.close()
            await writer.wait_closed()

    return handle


@contextlib.asynccontextmanager
async def pool(**given: Any) -> AsyncIterator[Pool]:
    made = Pool(**({"most": 10, "silent_s": 60.0, "total_s": 60.0, "connect_s": 5.0} | given))
    try:
        yield made
    finally:
        await made.close()


async def call(
    connections: Pool, origin: Origin, method: str = "GET", body: Any = b"", chunked: bool = False
) -> Response:
    connection, _ = await connections.take(origin)
    headers = [(b"host", b"x")]
    if isinstance(body, bytes) and body:
        headers.append((b"content-length", b"%d" % len(body)))
    head = request_head(method, "/v1/x?y=1", headers)
    return await connection.call(method, head, body, chunked=chunked)


@pytest.mark.parametrize(
    ("answer", "close", "body"),
    [
        ([OK], False, b"ok"),
        ([OK[:9], OK[9:30], OK[30:]], False, b"ok"),
        (
            [CHUNKED, b"2\r\nok\r\n0\r\n\r\n"],
            False,
            b"ok",
        ),
        (
            [CHUNKED + b"2\r\nok\r\n0\r\nx-t: 1\r\n\r\n"],
            False,
            b"ok",
        ),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"ok"], True, b"ok"),
        ([b"HTTP/1.0 200 OK\r\n\r\nok"], True, b"ok"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], False, b""),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n", OK], False, b"ok"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + OK], False, b"ok"),
    ],
)
async def test_a_body_is_whole_however_it_is_framed(
    answer: list[bytes], close: bool, body: bytes
) -> None:
    async with Provider(says(*answer, close=close)) as provider, pool() as connections:
        response = await call(connections, provider.origin)
        assert response.status in (200, 204)
        assert await response.read() == body
        assert response.is_whole
        assert b"link" not in dict(response.raw_headers)
        assert b"x-t" not in dict(response.raw_headers)
        response.done()


async def test_a_connection_serves_one_call_after_the_other() -> None:
    async with Provider(says(OK)) as provider, pool() as connections:
        for _ in range(5):
            response = await call(connections, provider.origin, "POST", b"hello")
            assert await response.read() == b"ok"
            response.done()
        assert provider.connections == 1
        assert len(provider.requests) == 5
        assert provider.requests[0].endswith(b"\r\n\r\nhello")


async def test_a_response_that_is_not_read_to_its_end_ends_its_connection() -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this"
    async with Provider(says(endless)) as provider, pool() as connections:
        first = await call(connections, provider.origin)
        assert await first.read_some() == b"only this"
        first.done()
        second = await call(connections, provider.origin)
        second.done()
        assert provider.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        CHUNKED + b"4\r\nhalf\r\n",
        CHUNKED + b"4\r\nhalf\r\nnonsense\r\n",
    ],
)
async def test_a_body_that_breaks_off_is_an_error_after_what_came(answer: bytes) -> None:
    async with Provider(says(answer, close=True)) as provider, pool() as connections:
        response = await call(connections, provider.origin)
        assert await response.read_some() == b"half"
        with pytest.raises(Broken):
            await response.read()
        response.done()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nhalf a head",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
    ],
)
async def test_what_is_no_response_is_an_error(answer: bytes) -> None:
    async with Provider(says(answer, close=True)) as provider, pool() as connections:
        with pytest.raises(Broken):
            await call(connections, provider.origin)


async def test_the_answer_to_head_has_no_body_whatever_it_says() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"
    async with Provider(says(head)) as provider, pool() as connections:
        response = await call(connections, provider.origin, "HEAD")
        assert (response.content_length, await response.read()) == (1234, b"")
        response.done()
        again = await call(connections, provider.origin, "HEAD")
        assert again.status == 200


async def test_a_provider_that_is_not_read_is_held_up() -> None:
    """What waits is bounded, and all of it arrives once it is read."""
    sent = 0
    size = 64 << 20

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(1 << 16))
            sent += 1 << 16
            await writer.drain()

    async with Provider(flood) as provider, pool() as connections:
        response = await call(connections, provider.origin)
        await asyncio.sleep(0.5)
        assert sent < size / 2
        first = await response.read_some()
        assert len(first) <= 4 * HIGH_WATER
        total = len(first)
        while part := await response.read_some():
            total += len(part)
        assert total == size
        response.done()


async def test_a_body_is_sent_as_it_comes_with_its_length_or_in_chunks() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"ab"
        await asyncio.sleep(0.02)
        yield b"cd"

    got = asyncio.get_running_loop().create_future()

    async def handle(r: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        got.set_result(await r.readuntil(b"0\r\n\r\n"))
        writer.write(OK)

    async with Provider(handle) as provider, pool() as connections:
        response = await call(connections, provider.origin, "POST", pieces(), chunked=True)
        assert await response.read() == b"ok"
        assert await got == b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
        response.done()


async def test_a_body_that_fails_fails_the_call_with_its_own_error() -> None:
    async def fails() -> AsyncIterator[bytes]:
        yield b"ab"
        raise LookupError("gone")

    async def never(_: asyncio.StreamReader, __: asyncio.StreamWriter, ___: int) -> None:
        await asyncio.sleep(60)

    async with Provider(never) as provider, pool() as connections:
        with pytest.raises(LookupError, match="gone"):
            await call(connections, provider.origin, "POST", fails(), chunked=True)


async def test_a_silent_provider_is_given_up() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"

    async def stalls(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        writer.write(head)
        await asyncio.sleep(60)

    async with Provider(stalls) as provider, pool(silent_s=0.2) as connections:
        response = await call(connections, provider.origin)
        with pytest.raises(Silent):
            await response.read()
        response.done()


async def test_no_more_connections_are_open_than_may_be() -> None:
    async with Provider(says(OK)) as provider, pool(most=2) as connections:

        async def one() -> bytes:
            response = await call(connections, provider.origin)
            try:
                return await response.read()
            finally:
                response.done()

        assert await asyncio.gather(*(one() for _ in range(12))) == [b"ok"] * 12
        assert provider.connections <= 2


async def test_what_comes_unasked_ends_the_connection_and_reaches_nobody() -> None:
    async with Provider(says(OK, b"HTTP/1.1 200 OK\r\n\r\n")) as provider, pool() as connections:
        first = await call(connections, provider.origin)
        assert await first.read() == b"ok"
        first.done()
        await asyncio.sleep(0.1)
        second = await call(connections, provider.origin)
        assert await second.read() == b"ok"
        second.done()
        assert provider.connections == 2


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\nb", b"a\rb", b"a\0b"])
def test_a_header_cannot_end_its_line(value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        request_head("GET", "/", [(b"x", value)])
    with pytest.raises(ValueError, match="line break"):
        request_head("GET", "/" + value.decode(), [])
