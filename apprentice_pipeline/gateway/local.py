"""Answers of the local model, in the provider's shape, and what the router learns.

Belongs here: which streams have a champion (cheaply), asking the router, sending its answer,
handing it the other side of a comparison. Does not: routing decisions (`routing`).
Promise: without a champion this costs one set look-up a request; nothing here raises.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import Send

from apprentice_pipeline.errors import ApprenticeError, RemoteError
from apprentice_pipeline.gateway import replies
from apprentice_pipeline.gateway.headers import QUALITY_RISK
from apprentice_pipeline.gateway.recording import Call, Recorder
from apprentice_pipeline.gateway.tally import Tally
from apprentice_pipeline.gateway.upstream import Outgoing, Upstream
from apprentice_pipeline.reading.encodings import decoded
from apprentice_pipeline.reading.pricing import Pricing
from apprentice_pipeline.records import Answer
from apprentice_pipeline.routing.attempt import Attempt, Duplicate
from apprentice_pipeline.routing.router import Router
from apprentice_pipeline.store.state import State
from apprentice_pipeline.wire.forms import WireFormat, WireRequest
from apprentice_pipeline.wire.outputs import ending_of

ROUTED = frozenset({"chat.completions", "messages", "generateContent"})
"""Endpoints the local model may answer: Responses are kept by the provider and asked for again."""
POLL_S = 0.5
MOST_DUPLICATE_BYTES = 32_000_000


class Champions:
    """Which streams have a model in service, as of the last poll."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._streams: frozenset[tuple[str, str]] = frozenset()
        self.failures = 0

    def __contains__(self, stream: tuple[str, str]) -> bool:
        return stream in self._streams

    async def refresh(self) -> None:
        """Reads the champions; keeps the last known while the state database is silent."""
        try:
            found = await asyncio.to_thread(self._state.champions)
        except ApprenticeError:
            self.failures += 1
            return
        self._streams = frozenset((record.tenant, record.namespace) for record in found)

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class LocalAnswers:
    """The router as the hot path sees it."""

    router: Router
    champions: Champions
    upstream: Upstream
    recorder: Recorder
    pricing: Pricing
    tally: Tally

    def may_answer(self, call: Call) -> bool:
        """Whether it is worth asking the router at all."""
        return call.endpoint in ROUTED and (call.tenant, call.namespace) in self.champions

    async def attempt(self, call: Call, request: WireRequest) -> Attempt:
        """What the router makes of a call; `answer` is set where the local model serves it."""
        return await self.router.attempt(call.tenant, call.namespace, request.input, call.pair_id)

    def written(self, call: Call, request: WireRequest, answer: Answer) -> list[bytes]:
        """The local answer as the provider would have written it: one body, or events.

        Raises: WireError when the provider's format has no form for it.
        """
        write = call.wire.write_stream if request.streamed else _write_whole(call.wire)
        created_s = call.created_at_us // 1_000_000
        return list(
            write(call.endpoint, request, answer, response_id=_id_of(call), created_s=created_s)
        )

    async def serve(
        self,
        call: Call,
        request: WireRequest,
        answer: Answer,
        parts: list[bytes],
        send: Send,
        *,
        risky: bool,
    ) -> None:
        """Commits the exchange, then sends what `written` made of the answer.

        `risky` marks an answer below the threshold, given because the budget is exhausted.
        """
        await self.recorder.local(call, request, answer)
        marks = replies.marks(b"local", call.pair_id)
        if risky:
            self.tally.add(call.tenant, call.namespace, quality_risk=1)
            marks = (*marks, (QUALITY_RISK, b"true"))
        if not request.streamed:
            await replies.whole(send, 200, b"".join(parts), replies.JSON, *marks)
            return
        kind = replies.JSON if request.as_array else replies.EVENTS
        headers = [(b"content-type", kind), (b"cache-control", b"no-cache"), *marks]
        await replies.start(send, 200, headers)
        for event in parts:
            await replies.piece(send, event)
        await replies.piece(send, b"", more=False)

    async def settle_served(
        self, call: Call, attempt: Attempt, outgoing: Outgoing, request: WireRequest
    ) -> None:
        """After a local answer: the router may ask the provider too, in the background."""
        if not attempt.sampled or len(call.body) > MOST_DUPLICATE_BYTES:
            return
        duplicate = Duplicate(
            ask=self._duplicate(call, outgoing),
            provider=call.provider,
            endpoint=call.endpoint,
            model=request.model,
        )
        await self.router.settle(attempt, duplicate=duplicate)

    async def settle_remote(self, attempt: Attempt, output: Any, latency_us: int) -> None:
        """After a remote answer: the router compares it, in the background, where it owes that."""
        await self.router.settle(attempt, output, latency_us)

    def _duplicate(self, call: Call, outgoing: Outgoing) -> Callable[[], Awaitable[Answer]]:
        """The customer's own request again, unstreamed, with the customer's own credentials."""

        async def ask() -> Answer:
            began = time.perf_counter_ns()
            response = await self.upstream.send(*_unstreamed(call.wire, outgoing, call.body))
            try:
                data = await response.read()
            finally:
                response.done()
            if response.status != 200:
                raise RemoteError("the provider refused a sample", status=response.status)
            read = call.wire.read_response(
                call.endpoint, decoded(data, response.content_encoding, MOST_DUPLICATE_BYTES)
            )
            return Answer(
                output=read.output,
                model=read.model,
                served_by="remote",
                latency_us=(time.perf_counter_ns() - began) // 1_000,
                usage=read.usage,
                cost_usd=self.pricing.cost_usd(call.provider, read.model, read.usage),
                ending=ending_of(read),
            )

        return ask


def _write_whole(wire: WireFormat) -> Callable[..., list[bytes]]:
    return lambda *args, **kwargs: [wire.write_response(*args, **kwargs)]


def _unstreamed(wire: WireFormat, outgoing: Outgoing, body: bytes) -> tuple[Outgoing, bytes]:
    coding = next((v.decode() for n, v in outgoing.headers if n == b"content-encoding"), "")
    given = f"{outgoing.path}?{outgoing.query}" if outgoing.query else outgoing.path
    target, plain = wire.unstreamed(given, decoded(body, coding, MOST_DUPLICATE_BYTES))
    path, _, query = target.partition("?")
    headers = [header for header in outgoing.headers if header[0] != b"content-encoding"]
    return Outgoing(outgoing.method, outgoing.provider, path, query, headers), plain


def _id_of(call: Call) -> str:
    """A response id as the provider's look."""
    prefix = {"openai": "chatcmpl-", "anthropic": "msg_"}.get(call.provider, "")
    return prefix + call.pair_id.replace("-", "")
