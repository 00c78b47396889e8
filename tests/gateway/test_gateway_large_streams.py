"""Streams larger than `capture.max_bytes`: they pass whole, are counted, and are not captured."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

GEMINI = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
LIMIT = 100_000
PIECES = [hashlib.shake_256(bytes([n])).hexdigest(2_000) for n in range(100)]
"""Twice the limit at least, however well they are compressed."""
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "ping"}],
    "contents": [{"parts": [{"text": "ping"}]}],
    "model": "gpt-4o",
    "stream": True,
}


def chat() -> Iterator[bytes]:
    for piece in PIECES:
        choice = {"index": 0, "delta": {"content": piece}}
        yield b"data: " + orjson.dumps({"model": "gpt-4o", "choices": [choice]}) + b"\n\n"
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield b"data: " + orjson.dumps({"model": "gpt-4o", "choices": [last]}) + b"\n\n"
    yield b"data: [DONE]\n\n"


def message() -> Iterator[bytes]:
    for piece in PIECES:
        delta = {"type": "text_delta", "text": piece}
        event = {"type": "content_block_delta", "index": 0, "delta": delta}
        yield b"event: content_block_delta\ndata: " + orjson.dumps(event) + b"\n\n"
    yield b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def generation(before: bytes, between: bytes, after: bytes) -> Iterator[bytes]:
    for number, piece in enumerate(PIECES):
        reason = {"finishReason": "STOP"} if piece is PIECES[-1] else {}
        candidate = {"content": {"parts": [{"text": piece}]}, **reason}
        yield (between if number else before) + orjson.dumps({"candidates": [candidate]})
    yield after


@dataclass(frozen=True)
class Stream:
    """One way to stream: where it is asked for, what comes."""

    provider: str
    path: str
    kind: bytes
    events: tuple[bytes, ...]


STREAMS = {
    "chat": Stream("openai", "/v1/chat/completions", b"text/event-stream", tuple(chat())),
    "message": Stream("anthropic", "/v1/messages", b"text/event-stream", tuple(message())),
    "generation": Stream(
        "gemini",
        f"{GEMINI}?alt=sse",
        b"text/event-stream",
        tuple(generation(b"data: ", b"\r\n\r\ndata: ", b"\r\n\r\n")),
    ),
    "array": Stream("gemini", GEMINI, b"application/json", tuple(generation(b"[", b",", b"]"))),
}


def streaming(stream: Stream, *, compressed: bool) -> Callable[..., Any]:
    """A provider that sends this stream, as an ASGI application."""

    async def provider(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        kind = [(b"content-type", stream.kind)]
        coding = [(b"content-encoding", b"gzip")] if compressed else []
        await send({"type": "http.response.start", "status": 200, "headers": [*kind, *coding]})
        for part in parts(stream, compressed=compressed):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return provider


def parts(stream: Stream, *, compressed: bool) -> Iterator[bytes]:
    """The stream as it goes over the wire."""
    if not compressed:
        yield from stream.events
        return
    press = zlib.compressobj(wbits=31)
    for event in stream.events:
        yield press.compress(event) + press.flush(zlib.Z_SYNC_FLUSH)
    yield press.flush()


@pytest.fixture
def before(start: Any, server_type: Any) -> Iterator[Any]:
    """`before(provider)`: a gateway before this provider."""
    servers: list[Any] = []

    def make(provider: Any) -> Any:
        servers.append(server_type(provider))
        return start(url=servers[-1].url, capture={"max_bytes": LIMIT})

    yield make
    for server in servers:
        server.stop()


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", list(STREAMS))
def test_a_stream_beyond_the_capture_limit_passes_whole_and_uncaptured(
    before: Any, ask: Any, name: str, compressed: bool
) -> None:
    stream = STREAMS[name]
    gateway = before(streaming(stream, compressed=compressed))
    whole = b"".join(parts(stream, compressed=compressed))
    assert len(whole) > 2 * LIMIT
    for calls in (1, 2):
        answer = ask(gateway.capture(stream.provider), stream.path, ASKED)
        assert (answer.status, answer.body) == (200, whole)
        assert gateway.counted("oversize") == calls
    assert gateway.captured() == []
    assert gateway.counted("requests") == 2
