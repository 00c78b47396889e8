"""The stand-in frontier as an ASGI application: routes, faults, limits, latency, headers.

Raw ASGI, because it stands behind benchmarks and must not be their bottleneck. What it answers
is `answers`, how it words it the two shape modules. It logs nothing and keeps no request.
"""

from __future__ import annotations

import asyncio
import gzip
import hmac
import math
import os
import random
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from apprentice_pipeline.demo.stand_in import anthropic_shapes, gemini_shapes, openai_shapes
from apprentice_pipeline.demo.stand_in.answers import TEXT_ALONE, Answers, FrontierSettings
from apprentice_pipeline.demo.stand_in.compression import Send, accepts_gzip, compressed
from apprentice_pipeline.demo.stand_in.reply import Reply, build_reply
from apprentice_pipeline.demo.stand_in.request import (
    Call,
    read_chat,
    read_message,
    read_responses,
)
from apprentice_pipeline.demo.stand_in.shelf import Kept, Shelf
from apprentice_pipeline.errors import ApprenticeError, WireError

Receive = Callable[[], Awaitable[dict[str, Any]]]
Headers = list[tuple[bytes, bytes]]

COUNTERS_PATH = "/stand-in/calls"
_REPEATED_S = 1_700_000_000
_UNLIMITED = 10_000
_REMEMBERED_PREFIXES = 100_000
_JSON = (b"content-type", b"application/json")
_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


@dataclass(slots=True)
class FrontierCalls:
    """What the stand-in has counted since it started."""

    requests: int = 0
    answered: int = 0
    streamed: int = 0
    known: int = 0
    unknown: int = 0
    resampled: int = 0
    failed: int = 0
    limited: int = 0
    refused: int = 0
    cut: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: how it reads, writes and streams."""

    anthropic: bool
    read: Callable[[bytes], Call]
    write: Callable[[Reply], bytes]
    events: Callable[[Reply, int], Iterator[bytes]]
    stream_type: tuple[bytes, bytes] = _STREAM


_CHAT = Endpoint(False, read_chat, openai_shapes.write_chat, openai_shapes.chat_events)
_RESPONSES = Endpoint(
    False, read_responses, openai_shapes.write_response, openai_shapes.responses_events
)
_MESSAGES = Endpoint(
    True, read_message, anthropic_shapes.write_message, anthropic_shapes.message_events
)
_ENDPOINTS = {
    "/chat/completions": _CHAT,
    "/responses": _RESPONSES,
    "/messages": _MESSAGES,
}


def _gemini_endpoint(scope: dict[str, Any]) -> Endpoint | None:
    model, method = gemini_shapes.asked(scope["path"])
    if method not in {"generateContent", "streamGenerateContent"}:
        return None
    streamed = method == "streamGenerateContent"
    read = gemini_shapes.reader(model, streamed=streamed)
    write, events = gemini_shapes.write_generation, gemini_shapes.generation_events
    if streamed and not gemini_shapes.as_events(scope["query_string"]):
        return Endpoint(False, read, write, gemini_shapes.generation_array, _JSON)
    return Endpoint(False, read, write, events)


class ProviderError(ApprenticeError):
    """A request that ends in an error status, in the provider's own shape."""

    def __init__(self, status: int, message: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or []


class Frontier:
    """The application. One event loop, no threads: its state needs no locks."""

    def __init__(self, settings: FrontierSettings, table: Mapping[str, Any]) -> None:
        self._settings = settings
        self._answers = Answers(settings, table)
        self._faults = random.Random(settings.seed)
        self._delays = random.Random(settings.seed + 1)
        self._prefix = "0" * 12 if settings.repeatable else os.urandom(6).hex()
        self._shelf = Shelf()
        self._prefixes: dict[int, None] = {}
        self._window_ends = 0.0
        self._window_used = 0
        self.calls = FrontierCalls()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == COUNTERS_PATH:
            await _send(send, 200, [_JSON], orjson.dumps(asdict(self.calls)))
            return
        if self._settings.compress and accepts_gzip(scope["headers"]):
            send = compressed(send)
        headers = dict(scope["headers"])
        gemini = gemini_shapes.is_gemini(scope["path"], headers)
        if gemini and (key := gemini_shapes.key_in(scope["query_string"])):
            headers[b"x-goog-api-key"] = key
        path = scope["path"].removeprefix("/v1") or "/"
        path = gemini_shapes.bare(scope["path"]) if gemini else path
        anthropic = path.startswith("/messages") or b"anthropic-version" in headers
        body = _plain(headers, await _body(receive))
        self.calls.requests += 1
        identity = f"{self._prefix}{self.calls.requests:08x}"
        common = [_JSON] if gemini else [_JSON, *self._headers(anthropic, identity)]
        try:
            self._admit(headers)
            endpoint = _gemini_endpoint(scope) if gemini else _ENDPOINTS.get(path)
            kept = self._shelf.answer(
                scope["method"],
                path,
                anthropic=anthropic,
                body=body,
                identity=identity,
                now_s=self._now_s(),
            )
            if kept is not None:
                await self._give(kept, common, send)
            elif endpoint is None:
                await _send(send, 200, common, self._aside(scope["method"], path, anthropic, body))
            else:
                self._check_method(scope["method"], "POST")
                await self._answer(endpoint, body, identity, common, send)
        except ProviderError as error:
            shaped = _shape(error, anthropic, identity)
            if gemini:
                shaped = gemini_shapes.write_error(error.status, str(error))
            await _send(send, error.status, [*common, *error.headers], shaped)

    async def _give(self, kept: Kept, headers: Headers, send: Send) -> None:
        """A file or a batch."""
        if kept.status != 200:
            self.calls.refused += 1
            raise ProviderError(kept.status, "No such thing, or not understood")
        await _send(send, 200, [(b"content-type", kept.content_type), *headers[1:]], kept.body)

    async def _answer(
        self, endpoint: Endpoint, body: bytes, identity: str, headers: Headers, send: Send
    ) -> None:
        call = self._read(endpoint.read, body)
        self._inject(endpoint.anthropic)
        await self._wait()
        reply = self._reply(call, endpoint.anthropic, identity)
        if call.streamed:
            await self._stream(endpoint, reply, headers, send)
        else:
            await _send(send, 200, headers, endpoint.write(reply))

    def _aside(self, method: str, path: str, anthropic: bool, body: bytes) -> bytes:
        """The endpoints that answer nothing: models and token counts."""
        if path == gemini_shapes.MODELS:
            self._check_method(method, "GET")
            return gemini_shapes.write_models(self._settings.models)
        if gemini_shapes.counts(path):
            self._check_method(method, "POST")
            counted = self._read(gemini_shapes.reader("", streamed=False), body)
            return gemini_shapes.write_count(counted.input_tokens)
        if path == "/models":
            self._check_method(method, "GET")
            write = anthropic_shapes.write_models if anthropic else openai_shapes.write_models
            return write(self._settings.models)
        if path == "/messages/count_tokens":
            self._check_method(method, "POST")
            call = self._read(lambda given: read_message(given, counting=True), body)
            return anthropic_shapes.write_count(call.input_tokens)
        self.calls.refused += 1
        raise ProviderError(404, "Unknown request URL")

    def _check_method(self, method: str, expected: str) -> None:
        if method != expected and (method, expected) != ("HEAD", "GET"):
            self.calls.refused += 1
            raise ProviderError(405, f"Not allowed to {method} here; use {expected}")

    def _read(self, read: Callable[[bytes], Call], body: bytes) -> Call:
        try:
            return read(body)
        except WireError as bad:
            self.calls.refused += 1
            raise ProviderError(400, str(bad)) from None

    def _admit(self, headers: dict[bytes, bytes]) -> None:
        """The key, then the rate limit. Raises: ProviderError 401 or 429."""
        required = self._settings.require_key
        if required is not None and not _key_given(headers, required):
            self.calls.refused += 1
            raise ProviderError(401, "Incorrect API key provided")
        left_s = self._roll_window()
        self._window_used += 1
        limit = self._settings.rate_limit
        if limit is not None and self._window_used > limit:
            self.calls.limited += 1
            whole = str(max(1, math.ceil(left_s))).encode()
            exact = str(math.ceil(left_s * 1000)).encode()
            late = [(b"retry-after", whole), (b"retry-after-ms", exact)]
            raise ProviderError(429, "Rate limit reached for requests", late)

    def _roll_window(self) -> float:
        """Opens a new window where the last has ended; the seconds that are left of it."""
        if self._settings.repeatable:
            return self._settings.rate_window_s
        now = time.monotonic()
        if now >= self._window_ends:
            self._window_ends = now + self._settings.rate_window_s
            self._window_used = 0
        return self._window_ends - now

    def _inject(self, anthropic: bool) -> None:
        settings = self._settings
        if not settings.error_share and not settings.overload_share:
            return
        drawn = self._faults.random()
        if drawn < settings.error_share:
            self.calls.failed += 1
            raise ProviderError(500, "The server had an error while processing your request")
        if drawn < settings.error_share + settings.overload_share:
            self.calls.failed += 1
            raise ProviderError(529 if anthropic else 503, "Overloaded")

    async def _wait(self) -> None:
        settings = self._settings
        if settings.latency_ms or settings.jitter_ms:
            jitter_ms = self._delays.random() * settings.jitter_ms
            await asyncio.sleep((settings.latency_ms + jitter_ms) / 1000)

    def _reply(self, call: Call, anthropic: bool, identity: str) -> Reply:
        texts, parts = [], TEXT_ALONE
        for _ in range(call.choices):
            drawn = self._answers.draw(call.text)
            texts.append(drawn.text)
            parts = drawn.parts
            self.calls.known += drawn.known
            self.calls.unknown += not drawn.known
            self.calls.resampled += drawn.resample
        cached, written = self._cache(call, anthropic)
        reply = build_reply(
            call,
            texts,
            cached=cached,
            written=written,
            number=identity,
            now_s=self._now_s(),
            parts=parts,
        )
        self.calls.answered += 1
        self.calls.input_tokens += reply.input_tokens
        self.calls.output_tokens += reply.output_tokens
        return reply

    def _now_s(self) -> int:
        return _REPEATED_S if self._settings.repeatable else int(time.time())

    def _cache(self, call: Call, anthropic: bool) -> tuple[int, int]:
        """Tokens of the prompt (read from, written to) the provider's prompt cache."""
        tokens = call.prefix_tokens
        if tokens < self._settings.cache_min_tokens or (anthropic and not call.cache_marked):
            return 0, 0
        key = hash((call.model, call.prefix))
        if key in self._prefixes:
            return (tokens if anthropic else tokens - tokens % 128), 0
        if len(self._prefixes) >= _REMEMBERED_PREFIXES:
            self._prefixes.pop(next(iter(self._prefixes)))
        self._prefixes[key] = None
        return 0, tokens if anthropic else 0

    async def _stream(self, endpoint: Endpoint, reply: Reply, headers: Headers, send: Send) -> None:
        settings = self._settings
        self.calls.streamed += 1
        events = list(endpoint.events(reply, settings.chunk_chars))
        if settings.cut_share and self._faults.random() < settings.cut_share:
            self.calls.cut += 1
            del events[len(events) // 2 :]
            events.append(b"")
        started = [endpoint.stream_type, *headers[1:]]
        await send({"type": "http.response.start", "status": 200, "headers": started})
        for event in events:
            if settings.chunk_delay_ms:
                await asyncio.sleep(settings.chunk_delay_ms / 1000)
            if not event:
                return  # without an end: the server closes the connection
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _headers(self, anthropic: bool, identity: str) -> Headers:
        """The provider's request id and rate-limit headers."""
        repeatable = self._settings.repeatable
        left_s = 0.0 if repeatable else max(0.0, self._window_ends - time.monotonic())
        limit = self._settings.rate_limit
        allowed = _UNLIMITED if limit is None else limit
        left = max(0, allowed - self._window_used - 1)
        return (
            _anthropic_headers(identity, allowed, left, math.ceil(self._now_s() + left_s))
            if anthropic
            else [
                (b"x-request-id", f"req_{identity}".encode()),
                (b"openai-version", b"2020-10-01"),
                (b"openai-organization", b"stand-in"),
                (b"openai-processing-ms", b"%d" % self._settings.latency_ms),
                (b"x-ratelimit-limit-requests", b"%d" % allowed),
                (b"x-ratelimit-remaining-requests", b"%d" % left),
                (b"x-ratelimit-reset-requests", b"%dms" % math.ceil(left_s * 1000)),
            ]
        )


def _shape(error: ProviderError, anthropic: bool, identity: str) -> bytes:
    if anthropic:
        return anthropic_shapes.write_error(error.status, str(error), f"req_{identity}")
    return openai_shapes.write_error(error.status, str(error))


def _anthropic_headers(identity: str, allowed: int, left: int, ends_s: int) -> Headers:
    ends = _rfc3339(ends_s)
    return [
        (b"request-id", f"req_{identity}".encode()),
        (b"anthropic-organization-id", b"stand-in"),
        (b"anthropic-ratelimit-requests-limit", b"%d" % allowed),
        (b"anthropic-ratelimit-requests-remaining", b"%d" % left),
        (b"anthropic-ratelimit-requests-reset", ends),
    ]


@lru_cache(maxsize=4)
def _rfc3339(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def _key_given(headers: dict[bytes, bytes], required: str) -> bool:
    given = headers.get(b"x-api-key") or headers.get(b"x-goog-api-key")
    given = given or headers.get(b"authorization", b"")
    return hmac.compare_digest(given.removeprefix(b"Bearer "), required.encode())


async def _body(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _plain(headers: dict[bytes, bytes], body: bytes) -> bytes:
    """The body without the one coding that clients are known to send."""
    if headers.get(b"content-encoding") != b"gzip":
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error):
        return b""


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
