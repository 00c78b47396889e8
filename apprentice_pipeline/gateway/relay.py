"""A provider's response on its way to the client, followed and recorded.

Belongs here: passing bytes on as they arrive, holding the end back until its exchange is
committed, recording. Does not: what comes before a response (`capture`).
"""

from __future__ import annotations

import contextlib
import time

from apprentice_pipeline.gateway import replies
from apprentice_pipeline.gateway.headers import response_headers
from apprentice_pipeline.gateway.local import LocalAnswers
from apprentice_pipeline.gateway.passage import Passage
from apprentice_pipeline.gateway.recording import Call, Recorder
from apprentice_pipeline.gateway.response import Response
from apprentice_pipeline.gateway.tally import Tally
from apprentice_pipeline.gateway.tee import EventTee, WholeTee

_CUT = (TimeoutError, OSError)
_WITHOUT_BODY = frozenset({204, 304})


class Relay:
    """Passes responses on. One per process."""

    def __init__(
        self, recorder: Recorder, tally: Tally, local: LocalAnswers | None, max_bytes: int
    ) -> None:
        self._recorder = recorder
        self._tally = tally
        self._local = local
        self._max_bytes = max_bytes

    async def relay(self, passage: Passage, response: Response) -> None:
        """Sends the whole response. A cut one is left unfinished, so that the client sees it."""
        passage.began = True
        marks = replies.marks(b"remote", passage.pair_id)
        headers = response_headers(response.raw_headers, *marks)
        if response.status in _WITHOUT_BODY:  # a length would speak of a body that does not come
            headers = [header for header in headers if header[0] != b"content-length"]
        events = response.content_type == "text/event-stream" or self._is_array(passage, response)
        followed = events or passage.call is None
        if followed and (passage.intake.ended or not passage.headers.has_body):
            passage.watch()
        if passage.call is not None and not events and response.is_whole:
            await self._at_once(passage, passage.call, response, headers)
            return
        await replies.start(passage.send, response.status, headers)
        if passage.call is None:
            await self._plain(passage, response)
        elif events:
            await self._events(passage, passage.call, response)
        else:
            await self._whole(passage, passage.call, response)

    async def record(
        self, passage: Passage, status: int, tee: EventTee | WholeTee | None = None
    ) -> None:
        """Commits the exchange, once, and lets the router learn from it. Never raises."""
        call = passage.call
        if call is None or passage.recorded:
            return
        passage.recorded = True
        if tee is not None and tee.oversize:
            self._tally.add(call.tenant, call.namespace, requests=1, oversize=1)
            return
        try:
            latency_us, attempt = call.elapsed_us(), passage.attempt
            output = await self._recorder.remote(call, status, tee, wanted=attempt is not None)
            if attempt is not None and self._local is not None:
                await self._local.settle_remote(attempt, output, latency_us)
        except Exception:  # fail open: the answer goes out
            self.fail_open(passage)

    def _is_array(self, passage: Passage, response: Response) -> bool:
        """Whether the stream asked for comes as a JSON array (Gemini without `alt=sse`)."""
        call = passage.call
        if call is None or call.provider != "gemini" or response.status != 200:
            return False
        asked = call.request(self._max_bytes)
        return asked is not None and asked.as_array

    def fail_open(self, passage: Passage) -> None:
        """Notes a failure of ours that nobody foresaw; the call goes on."""
        tenant, namespace = passage.caller.tenant, passage.namespace
        self._tally.add(tenant, namespace, unexpected=1)
        self._tally.alert(tenant, namespace, "capture_failed", "a call could not be captured")

    async def _plain(self, passage: Passage, response: Response) -> None:
        with contextlib.suppress(*_CUT):
            while chunk := await response.read_some():
                await replies.piece(passage.send, chunk)
            await passage.finish(b"")

    async def _events(self, passage: Passage, call: Call, response: Response) -> None:
        tee = EventTee(passage.wire, call.endpoint, response.content_encoding, self._max_bytes)
        held: list[bytes] = []
        try:
            while chunk := await response.read_some():
                if not call.first_byte_ns:
                    call.first_byte_ns = time.perf_counter_ns()
                hold_from = None if passage.recorded else self._hold_from(passage, tee, chunk)
                if hold_from is None:
                    if held:
                        chunk = b"".join((*held, chunk))
                        held.clear()
                    await replies.piece(passage.send, chunk)
                    continue
                if hold_from:
                    await replies.piece(passage.send, chunk[:hold_from])
                held.append(chunk[hold_from:])
                if tee.ended:
                    await self.record(passage, response.status, tee)
                    if not response.is_whole:
                        await replies.piece(passage.send, b"".join(held))
                        held.clear()
            tee.closed = True
        except _CUT:
            self._tally.add(call.tenant, call.namespace, cut_by_provider=1)
        finally:
            await self.record(passage, response.status, tee)
        if tee.closed:
            await passage.finish(b"".join(held))
        elif held:
            await replies.piece(passage.send, b"".join(held))

    def _hold_from(self, passage: Passage, tee: EventTee, chunk: bytes) -> int | None:
        try:
            return tee.feed(chunk)
        except Exception:  # fail open: the stream goes on, uncaptured
            self.fail_open(passage)
            tee.unreadable = True
            return None

    async def _at_once(
        self,
        passage: Passage,
        call: Call,
        response: Response,
        headers: list[replies.Header],
    ) -> None:
        """A body that came with its head: they go on together, and wake the client once."""
        call.first_byte_ns = time.perf_counter_ns()
        tee = WholeTee(response.content_encoding, self._max_bytes)
        body = await response.read()
        tee.feed(body)
        tee.closed = True
        await self.record(passage, response.status, tee)
        await replies.start(passage.send, response.status, headers)
        await passage.finish(body)

    async def _whole(self, passage: Passage, call: Call, response: Response) -> None:
        tee = WholeTee(response.content_encoding, self._max_bytes)
        length, seen, held = response.content_length, 0, b""
        try:
            while chunk := await response.read_some():
                if not call.first_byte_ns:
                    call.first_byte_ns = time.perf_counter_ns()
                seen += len(chunk)
                tee.feed(chunk)
                if length is None:  # any byte may be the last: one is always kept back
                    await replies.piece(passage.send, held + chunk[:-1])
                    held = chunk[-1:]
                elif seen >= length:
                    held = chunk
                else:
                    await replies.piece(passage.send, chunk)
        except _CUT:
            self._tally.add(call.tenant, call.namespace, cut_by_provider=1)
            await self.record(passage, response.status)
            if held:
                await replies.piece(passage.send, held)
            return
        tee.closed = True
        await self.record(passage, response.status, tee)
        await passage.finish(held)
