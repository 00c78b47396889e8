"""One call through the gateway: admit, forward, tee, commit, release.

Belongs here: the order of these steps, for captured and uncaptured calls. Does not: any step
(`access`, `upstream`, `tee`, `recording`, `local`). This is the hot path: no framework.

The end of a response (a stream's terminal event, a body's last piece) is released once its
exchange is committed, or the commit timeout is over. A client that leaves a stream ends the
upstream call; one that leaves an unstreamed call does not: that answer is paid for, and kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
from starlette.types import Receive, Scope, Send

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import RemoteError, WireError
from apprentice_pipeline.gateway import replies
from apprentice_pipeline.gateway.access import Access, Caller, Refusal
from apprentice_pipeline.gateway.encodings import decoded
from apprentice_pipeline.gateway.headers import Incoming, read_headers, response_headers
from apprentice_pipeline.gateway.intake import ClientGone, Intake, TooLarge
from apprentice_pipeline.gateway.local import LocalAnswers
from apprentice_pipeline.gateway.recording import Call, Recorder
from apprentice_pipeline.gateway.tally import Tally
from apprentice_pipeline.gateway.tee import EventTee, WholeTee
from apprentice_pipeline.gateway.upstream import Outgoing, Upstream
from apprentice_pipeline.records import new_pair_id, now_us
from apprentice_pipeline.routing.attempt import Attempt
from apprentice_pipeline.wire import openai
from apprentice_pipeline.wire.forms import WireFormat, WireResponse
from apprentice_pipeline.wire.providers import PROVIDERS, wire_format

PREFIX = "/v1/capture/"
CLIENT_LEFT = 499
_FORMATS: dict[str, WireFormat] = {name: wire_format(name) for name in PROVIDERS}
_CUT = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(slots=True)
class Passage:
    """One request on its way. `call` is None where nothing is captured."""

    wire: WireFormat
    caller: Caller
    namespace: str
    headers: Incoming
    outgoing: Outgoing
    intake: Intake
    send: Send
    call: Call | None = None
    routed: Attempt | None = None
    began: bool = False
    recorded: bool = False
    left: bool = False
    watcher: asyncio.Task[None] | None = field(default=None)


class Captures:
    """The ASGI application below `/v1/capture/`. One per process."""

    def __init__(
        self,
        config: Config,
        access: Access,
        upstream: Upstream,
        recorder: Recorder,
        tally: Tally,
        local: LocalAnswers | None,
    ) -> None:
        self._limits = config.gateway
        self._capture = config.capture
        self._access = access
        self._upstream = upstream
        self._recorder = recorder
        self._tally = tally
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        provider, _, rest = scope["path"][len(PREFIX) :].partition("/")
        wire = _FORMATS.get(provider)
        if wire is None:
            await replies.refuse(send, openai, 404, "no such provider: use openai or anthropic")
            return
        passage = await self._admit(scope, receive, send, provider, wire)
        if passage is None:
            return
        try:
            await self._pass(passage)
        except ClientGone:
            return
        except TooLarge:
            await self._refuse(passage, 413, "the body is larger than this gateway passes on")
        except asyncio.CancelledError:
            await self._cancelled(passage)
        finally:
            _unwatch(passage)

    async def _admit(
        self, scope: Scope, receive: Receive, send: Send, provider: str, wire: WireFormat
    ) -> Passage | None:
        """The request as a passage; None where it was refused."""
        began_ns, headers = time.perf_counter_ns(), read_headers(scope["headers"])
        path = _raw_path(scope)[len(PREFIX) + len(provider) :]
        endpoint = wire.endpoint_of(path) if scope["method"] == "POST" else None
        try:
            caller = self._access.admit_cached(headers) or await self._access.admit(headers)
            caller.require("tenant", "capture")
            namespace = caller.stream(headers.namespace)
            if headers.sdk_token:
                await self._use_sealed_key(caller, headers, provider, endpoint)
        except Refusal as refusal:
            await replies.refuse(send, wire, refusal.status, _worded(refusal))
            return None
        outgoing = Outgoing(
            method=scope["method"],
            provider=provider,
            path=wire.upstream_path(path),
            query=scope["query_string"].decode("latin-1"),
            headers=headers.forward,
            body=b"",
            content_length=headers.content_length,
        )
        intake = Intake(receive, self._limits.max_body_bytes)
        passage = Passage(wire, caller, namespace, headers, outgoing, intake, send)
        if endpoint is not None:
            at_us = now_us()
            passage.call = Call(
                pair_id=new_pair_id(at_us),
                tenant=caller.tenant,
                namespace=namespace,
                provider=provider,
                endpoint=endpoint,
                created_at_us=at_us,
                began_ns=began_ns,
            )
        return passage

    async def _use_sealed_key(
        self, caller: Caller, headers: Incoming, provider: str, endpoint: str | None
    ) -> None:
        """Puts the tenant's sealed provider key in the place of an apprentice token.

        Raises: Refusal; 403 where a capture key would reach more than captures with it.
        """
        if caller.role == "capture" and endpoint is None:
            raise Refusal(403, "a capture key may only post captures with the stored provider key")
        headers.replace_credentials(provider, await self._access.provider_key(caller, provider))

    async def _pass(self, passage: Passage) -> None:
        declared = passage.headers.content_length or 0
        if declared > self._limits.max_body_bytes:
            raise TooLarge
        body = await self._read_body(passage, declared)
        if body is None:
            given = passage.intake.stream() if passage.headers.has_body else b""
            await self._forward(passage, _replaced(passage.outgoing, given))
            return
        try:
            self._read_request(passage, body)
            if await self._answered_locally(passage, body):
                return
        except Exception:  # fail open: whatever fails of ours, the call goes through
            self._fail_open(passage)
            if passage.began:
                return
        await self._forward(passage, _replaced(passage.outgoing, self._with_usage(passage, body)))

    def _fail_open(self, passage: Passage) -> None:
        self._tally.add(passage.caller.tenant, passage.namespace, unexpected=1)
        self._tally.alert(
            passage.caller.tenant, passage.namespace, "capture_failed", "a call was not understood"
        )

    async def _read_body(self, passage: Passage, declared: int) -> bytes | None:
        """The body of a call to capture; None where it is passed on as it arrives."""
        call, limit = passage.call, self._capture.max_bytes
        if call is None:
            self._tally.add(passage.caller.tenant, passage.namespace, passed_uncaptured=1)
            return None
        body = None if declared > limit else await passage.intake.whole(limit)
        if body is None:
            self._tally.add(call.tenant, call.namespace, requests=1, oversize=1)
            passage.call = None
        return body

    def _read_request(self, passage: Passage, body: bytes) -> None:
        call = passage.call
        assert call is not None
        try:
            plain = decoded(body, passage.headers.content_encoding, self._capture.max_bytes)
            call.request = passage.wire.read_request(call.endpoint, plain)
        except WireError:
            self._tally.add(call.tenant, call.namespace, unreadable=1)
        if call.request is not None and call.request.streamed:
            _watch(passage)

    async def _answered_locally(self, passage: Passage, body: bytes) -> bool:
        """Lets the router try; True where the response has been sent."""
        call, local = passage.call, self._local
        if local is None or call is None or not local.may_answer(call):
            return False
        passage.routed = attempt = await local.attempt(call)
        call.inclusion_probability = attempt.inclusion_probability
        if attempt.answer is None:
            call.began_ns = time.perf_counter_ns()
            return False
        try:
            parts = local.written(call, attempt, passage.wire)
        except WireError:
            self._tally.add(call.tenant, call.namespace, local_unwritable=1)
            passage.routed = None
            return False
        _unwatch(passage)
        passage.began = passage.recorded = True
        await local.serve(call, attempt, parts, passage.send)
        await local.settle_served(call, attempt, passage.wire, passage.outgoing, body)
        return True

    def _with_usage(self, passage: Passage, body: bytes) -> bytes:
        """The body as sent; with usage asked for only where the configuration says to."""
        call = passage.call
        request = call.request if call is not None else None
        if not self._capture.inject_usage or request is None or not request.streamed:
            return body
        if request.include_usage or call is None or call.endpoint != openai.CHAT:
            return body
        return openai.with_usage(body)

    async def _forward(self, passage: Passage, outgoing: Outgoing) -> None:
        try:
            response = await self._upstream.send(outgoing)
        except RemoteError as error:
            await self._unreachable(passage, error)
            return
        try:
            await self._relay(passage, response)
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def _unreachable(self, passage: Passage, error: RemoteError) -> None:
        if passage.intake.fault is not None:
            raise passage.intake.fault
        self._tally.add(passage.caller.tenant, passage.namespace, upstream_failures=1)
        await self._record(passage, error.status, None, None)
        await self._refuse(passage, error.status, error.message)

    async def _relay(self, passage: Passage, response: aiohttp.ClientResponse) -> None:
        pair_id = passage.call.pair_id if passage.call is not None else ""
        passage.began = True
        headers = response_headers(response.raw_headers, *replies.marks(b"remote", pair_id))
        await replies.start(passage.send, response.status, headers)
        events = response.content_type == "text/event-stream"
        if events and passage.intake.ended:
            _watch(passage)
        if passage.call is None:
            await self._relay_plain(passage, response)
        elif events:
            await self._relay_events(passage, passage.call, response)
        else:
            await self._relay_whole(passage, passage.call, response)

    async def _relay_plain(self, passage: Passage, response: aiohttp.ClientResponse) -> None:
        with contextlib.suppress(*_CUT):
            async for chunk in response.content.iter_any():
                await replies.piece(passage.send, chunk)
            await _finish(passage, b"")

    async def _relay_events(
        self, passage: Passage, call: Call, response: aiohttp.ClientResponse
    ) -> None:
        coding = response.headers.get("content-encoding", "")
        tee = EventTee(passage.wire, call.endpoint, coding, self._capture.max_bytes)
        held: list[bytes] = []
        whole = False
        try:
            async for chunk in _timed(response, call):
                hold_from = None if passage.recorded else self._hold_from(passage, tee, chunk)
                if hold_from is None:
                    await replies.piece(passage.send, chunk)
                    continue
                if hold_from:
                    await replies.piece(passage.send, chunk[:hold_from])
                held.append(chunk[hold_from:])
                if tee.ended:
                    await self._record(passage, response.status, tee, None)
                    await replies.piece(passage.send, b"".join(held))
                    held.clear()
            tee.close()
            whole = True
        except _CUT:
            self._tally.add(call.tenant, call.namespace, cut_by_provider=1)
        finally:
            await self._record(passage, response.status, tee, None)
        if whole:
            await _finish(passage, b"".join(held))

    def _hold_from(self, passage: Passage, tee: EventTee, chunk: bytes) -> int | None:
        try:
            return tee.feed(chunk)
        except Exception:  # fail open: the stream goes on, uncaptured
            self._fail_open(passage)
            tee.unreadable = True
            return None

    async def _relay_whole(
        self, passage: Passage, call: Call, response: aiohttp.ClientResponse
    ) -> None:
        coding = response.headers.get("content-encoding", "")
        tee = WholeTee(coding, self._capture.max_bytes)
        length, seen, last = response.content_length, 0, b""
        try:
            async for chunk in _timed(response, call):
                seen += len(chunk)
                tee.feed(chunk)
                if length is not None and seen >= length:
                    last = chunk
                else:
                    await replies.piece(passage.send, chunk)
        except _CUT:
            self._tally.add(call.tenant, call.namespace, cut_by_provider=1)
            await self._record(passage, response.status, None, None)
            return
        await self._record(passage, response.status, None, tee)
        await _finish(passage, last)

    async def _record(
        self, passage: Passage, status: int, events: EventTee | None, whole: WholeTee | None
    ) -> None:
        """Commits the exchange, once, and lets the router learn from it. Never raises."""
        call = passage.call
        if call is None or passage.recorded:
            return
        passage.recorded = True
        tee = events or whole
        if tee is not None and tee.oversize:
            self._tally.add(call.tenant, call.namespace, requests=1, oversize=1)
            return
        latency_us = call.elapsed_us()
        try:
            response, complete = _read(passage, call, status, events, whole)
            if tee is not None and tee.unreadable:
                self._tally.add(call.tenant, call.namespace, unreadable=1)
            output = await self._recorder.remote(call, status, response, complete=complete)
            if passage.routed is not None and self._local is not None:
                await self._local.settle_remote(passage.routed, output, latency_us)
        except Exception:  # fail open: the answer goes out
            self._fail_open(passage)

    async def _cancelled(self, passage: Passage) -> None:
        """The client left: what came is recorded. A shutdown goes on as a cancellation."""
        task = asyncio.current_task()
        if not passage.left or task is None:
            raise asyncio.CancelledError
        task.uncancel()
        if passage.call is not None:
            self._tally.add(passage.call.tenant, passage.call.namespace, client_left=1)
        await self._record(passage, CLIENT_LEFT, None, None)

    async def _refuse(self, passage: Passage, status: int, message: str) -> None:
        if not passage.began:
            pair_id = passage.call.pair_id if passage.call is not None else ""
            marks = replies.marks(b"remote", pair_id)
            await replies.refuse(passage.send, passage.wire, status, message, *marks)


def _read(
    passage: Passage, call: Call, status: int, events: EventTee | None, whole: WholeTee | None
) -> tuple[WireResponse | None, bool]:
    """What was answered, as far as it can be read, and whether it came whole."""
    if events is not None:
        return events.result()
    if whole is None or not 200 <= status < 300:
        return None, whole is not None
    return whole.read(passage.wire, call.endpoint), True


async def _finish(passage: Passage, last: bytes) -> None:
    """Sends the end of the response; from here on a client that leaves has all it came for."""
    _unwatch(passage)
    await replies.piece(passage.send, last, more=False)


def _unwatch(passage: Passage) -> None:
    if passage.watcher is not None:
        passage.watcher.cancel()


def _watch(passage: Passage) -> None:
    """Ends the passage when its client leaves."""
    task = asyncio.current_task()
    if passage.watcher is None and task is not None:
        passage.watcher = asyncio.create_task(_end_when_gone(passage, task))


async def _end_when_gone(passage: Passage, task: asyncio.Task[object]) -> None:
    await passage.intake.gone()
    passage.left = True
    task.cancel()


async def _timed(response: aiohttp.ClientResponse, call: Call) -> AsyncIterator[bytes]:
    """The body as it arrives; notes when its first byte came."""
    content = response.content
    while chunk := await content.readany():
        if not call.first_byte_ns:
            call.first_byte_ns = time.perf_counter_ns()
        yield chunk


def _replaced(outgoing: Outgoing, body: bytes | AsyncIterator[bytes]) -> Outgoing:
    return Outgoing(
        outgoing.method,
        outgoing.provider,
        outgoing.path,
        outgoing.query,
        outgoing.headers,
        body,
        outgoing.content_length,
    )


def _raw_path(scope: Scope) -> str:
    raw = scope.get("raw_path")
    return raw.decode("latin-1") if raw else str(scope["path"])


def _worded(refusal: Refusal) -> str:
    return f"{refusal.message}: {refusal.remedy}" if refusal.remedy else refusal.message
