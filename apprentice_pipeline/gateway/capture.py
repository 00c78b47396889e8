"""One call through the gateway: admit, read, try locally, forward, relay.

Belongs here: the order of these steps, for captured and uncaptured calls. Does not: any step
(`access`, `intake`, `local`, `upstream`, `relay`). This is the hot path: no framework.

A client that leaves a stream ends the upstream call; one that leaves an unstreamed call does
not: that answer is paid for, and kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import ApprenticeError, RemoteError, WireError
from apprentice_pipeline.gateway import replies
from apprentice_pipeline.gateway.access import Access, Caller, Refusal
from apprentice_pipeline.gateway.allowance import Allowance
from apprentice_pipeline.gateway.headers import Incoming, read_headers
from apprentice_pipeline.gateway.intake import ClientGone, Intake, TooLarge
from apprentice_pipeline.gateway.load import RETRY_LATER, Load
from apprentice_pipeline.gateway.local import LocalAnswers
from apprentice_pipeline.gateway.observing import OBSERVED
from apprentice_pipeline.gateway.passage import Passage
from apprentice_pipeline.gateway.query_keys import query_token, without_token
from apprentice_pipeline.gateway.recording import Call
from apprentice_pipeline.gateway.relay import Relay
from apprentice_pipeline.gateway.tally import Tally
from apprentice_pipeline.gateway.upstream import Outgoing, Upstream, climbs
from apprentice_pipeline.records import Answer, new_pair_id, now_us
from apprentice_pipeline.wire import openai
from apprentice_pipeline.wire.forms import WireFormat, WireRequest
from apprentice_pipeline.wire.providers import PROVIDERS, wire_format

PREFIX = "/v1/capture/"
_NOT_PASSED_ON = frozenset({"CONNECT", "TRACE"})
"""One would make a tunnel of a connection that others use; one tells what the gateway sent, with
the tenant's provider key."""
CLIENT_LEFT = 499
SHUT_DOWN = 503
CUT_S = 1.0
_FAILED = "this gateway failed; its operator has been told"
_NAMES = ", ".join(PROVIDERS)
_FORMATS: dict[str, WireFormat] = {name: wire_format(name) for name in PROVIDERS}


class Captures:
    """The ASGI application below `/v1/capture/`. One per process."""

    def __init__(
        self,
        config: Config,
        access: Access,
        upstream: Upstream,
        relay: Relay,
        tally: Tally,
        allowance: Allowance,
        local: LocalAnswers | None,
    ) -> None:
        self._limits = config.gateway
        self._load = Load(self._limits.max_in_flight, self._limits.max_in_flight_per_tenant)
        self._capture = config.capture
        self._access = access
        self._upstream = upstream
        self._relay = relay
        self._tally = tally
        self._allowance = allowance
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        provider = scope["path"][len(PREFIX) :].partition("/")[0]
        wire = _FORMATS.get(provider)
        if wire is None:
            await replies.refuse(send, openai, 404, f"no such provider: use one of {_NAMES}")
            return
        try:
            passage = await self._admit(scope, receive, send, provider, wire)
        except Exception:  # the edge: nobody foresaw it
            self._tally.failed("", "")
            await replies.refuse(send, wire, 500, _FAILED)
            return
        if passage is None:
            return
        tenant = passage.caller.tenant
        if (no_room := self._load.enter(tenant)) is not None:
            self._tally.add(tenant, passage.namespace, turned_away=1)
            await replies.refuse(send, wire, no_room.status, no_room.message, RETRY_LATER)
            return
        try:
            await self._pass(passage)
        except ClientGone:
            return
        except TooLarge:
            await passage.refuse(413, "the body is larger than this gateway passes on")
        except asyncio.CancelledError:
            await self._cancelled(passage)
        except Exception:  # the edge: nobody foresaw it
            await self._failed(passage)
            if passage.began:  # the server cuts the response: nobody takes it for whole
                raise
        finally:
            self._load.leave(tenant)
            passage.unwatch()

    async def ended(self) -> None:
        """Returns once no call is under way; soon in any case. For a shutdown that has cut them:
        what came is recorded first, and their clients told."""
        limit = time.monotonic() + self._limits.commit_timeout_ms / 1_000 + CUT_S
        while self._load.under_way and time.monotonic() < limit:  # noqa: ASYNC110 - once a life
            await asyncio.sleep(0.01)

    async def _admit(
        self, scope: Scope, receive: Receive, send: Send, provider: str, wire: WireFormat
    ) -> Passage | None:
        """The request as a passage; None where it was refused."""
        began_ns, headers = time.perf_counter_ns(), read_headers(scope["headers"])
        path = _path_below(scope, PREFIX + provider)
        query = scope["query_string"].decode("latin-1")
        endpoint = wire.endpoint_of(path) if scope["method"] == "POST" else None
        headers.query_key = query_token(provider, query)
        try:
            caller = self._access.admit_cached(headers) or await self._access.admit(headers)
            caller.require("tenant", "capture")
            namespace = caller.stream(headers.namespace)
            if headers.sdk_token:
                await self._use_sealed_key(caller, headers, provider, endpoint)
            upstream_path = wire.upstream_path(_downward(path))
        except Refusal as refusal:
            later = (RETRY_LATER,) if refusal.status == 503 else ()
            await replies.refuse(send, wire, refusal.status, _worded(refusal), *later)
            return None
        except WireError as error:
            await replies.refuse(send, wire, 404, _worded(error))
            return None
        if scope["method"] in _NOT_PASSED_ON:
            await replies.refuse(
                send,
                wire,
                405,
                "CONNECT and TRACE are not passed on; use the provider's own methods",
            )
            return None
        outgoing = Outgoing(
            method=scope["method"],
            provider=provider,
            path=upstream_path,
            query=without_token(provider, query) if headers.query_key else query,
            headers=headers.forward,
            content_length=headers.content_length,
        )
        intake = Intake(receive, self._limits.max_body_bytes)
        passage = Passage(wire, caller, namespace, headers, outgoing, intake, send, scope)
        if endpoint is not None:
            passage.call = _new_call(passage, provider, endpoint, began_ns)
        if OBSERVED in scope:
            scope[OBSERVED].admitted(caller.tenant, namespace, provider, endpoint, passage.call)
        return passage

    async def _use_sealed_key(
        self, caller: Caller, headers: Incoming, provider: str, endpoint: str | None
    ) -> None:
        """Puts the tenant's sealed provider key in the place of an apprentice token.

        Raises: Refusal; 403 where a capture key would reach more than captures with it.
        """
        if caller.role == "capture" and endpoint is None:
            raise Refusal(
                403,
                "a capture key may only post captures with the stored provider key",
                remedy="token counts, models, files and batches need a tenant key, or the "
                "provider's own key and the capture key in x-apprentice-key",
            )
        headers.replace_credentials(provider, await self._access.provider_key(caller, provider))

    async def _pass(self, passage: Passage) -> None:
        declared = passage.headers.content_length or 0
        if declared > self._limits.max_body_bytes:
            raise TooLarge
        body = await self._read_body(passage, declared)
        if body is not None and passage.call is not None:
            if await self._answered_locally(passage, passage.call, body):
                return
            await self._forward(passage, self._with_usage(passage.call, body))
        else:
            given = passage.intake.stream() if passage.headers.has_body else b""
            await self._forward(passage, given)

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

    async def _answered_locally(self, passage: Passage, call: Call, body: bytes) -> bool:
        """Lets the router try; True where the response has been sent."""
        call.body = body
        try:
            if self._asks_for_stream(call):
                passage.watch()
            local = self._local
            if local is None or not local.may_answer(call):
                return False
            request = call.request(self._capture.max_bytes)
            if request is None:
                return False
            attempt = passage.attempt = await local.attempt(call, request)
            call.inclusion_probability = attempt.inclusion_probability
            given = attempt.answer
            if given is not None and await self._serve(passage, call, request, given):
                await local.settle_served(call, attempt, passage.outgoing, request)
                return True
            if attempt.fallback is not None and self._allowance.exhausted(call.namespace):
                return await self._serve(passage, call, request, attempt.fallback, risky=True)
            call.began_ns = time.perf_counter_ns()
        except Exception:  # fail open: whatever fails of ours, the call goes through
            self._relay.fail_open(passage)
        return passage.began

    def _asks_for_stream(self, call: Call) -> bool:
        """Whether a stream is asked for; a request is only read where it may be."""
        if call.provider != "gemini" and not call.coding and b'"stream"' not in call.body:
            return False
        request = call.request(self._capture.max_bytes)
        return request is not None and request.streamed

    async def _serve(
        self,
        passage: Passage,
        call: Call,
        request: WireRequest,
        answer: Answer,
        *,
        risky: bool = False,
    ) -> bool:
        """Sends a local answer; False where the provider's format has no form for it."""
        local = self._local
        assert local is not None
        try:
            parts = local.written(call, request, answer)
        except WireError:
            self._tally.add(call.tenant, call.namespace, local_unwritable=1)
            passage.attempt = None
            return False
        passage.unwatch()
        passage.began = passage.recorded = True
        await local.serve(call, request, answer, parts, passage.send, risky=risky)
        return True

    def _with_usage(self, call: Call, body: bytes) -> bytes:
        """The body as sent; with usage asked for only where the configuration says to."""
        if not self._capture.inject_usage or call.endpoint != openai.CHAT:
            return body
        request = call.request(self._capture.max_bytes)
        if request is None or not request.streamed or request.include_usage:
            return body
        return openai.with_usage(body)

    async def _forward(self, passage: Passage, body: bytes | AsyncIterator[bytes]) -> None:
        if passage.call is not None and self._allowance.exhausted(passage.namespace):
            self._tally.add(passage.caller.tenant, passage.namespace, budget_refused=1)
            await passage.refuse(429, "the budget is exhausted (budget.enforce_passthrough)")
            return
        try:
            response = await self._upstream.send(passage.outgoing, body)
        except RemoteError as error:
            await self._unreachable(passage, error)
            return
        try:
            await self._relay.relay(passage, response)
        finally:
            response.done()

    async def _unreachable(self, passage: Passage, error: RemoteError) -> None:
        if passage.intake.fault is not None:
            raise passage.intake.fault
        self._tally.add(passage.caller.tenant, passage.namespace, upstream_failures=1)
        await self._relay.record(passage, error.status)
        await passage.refuse(error.status, error.message)

    async def _cancelled(self, passage: Passage) -> None:
        """The client left, or the server shuts down: what came is recorded, and counted."""
        task = asyncio.current_task()
        if task is None:
            raise asyncio.CancelledError
        task.uncancel()
        tenant, namespace = passage.caller.tenant, passage.namespace
        if passage.left:
            if passage.call is not None:
                self._tally.add(tenant, namespace, client_left=1)
            await self._relay.record(passage, CLIENT_LEFT)
            return
        self._tally.add(tenant, namespace, cut_by_shutdown=1)
        await self._relay.record(passage, SHUT_DOWN)
        await passage.refuse(SHUT_DOWN, "the gateway was shut down before the provider answered")
        if passage.began:  # the server cuts the response: nobody takes it for whole
            raise asyncio.CancelledError

    async def _failed(self, passage: Passage) -> None:
        """A failure of ours that ends the call: counted, recorded, and told unless it is late."""
        self._tally.failed(passage.caller.tenant, passage.namespace)
        await self._relay.record(passage, 500)
        await passage.refuse(500, _FAILED)


def _new_call(passage: Passage, provider: str, endpoint: str, began_ns: int) -> Call:
    at_us, outgoing = now_us(), passage.outgoing
    return Call(
        pair_id=new_pair_id(at_us),
        tenant=passage.caller.tenant,
        namespace=passage.namespace,
        provider=provider,
        endpoint=endpoint,
        wire=passage.wire,
        target=f"{outgoing.path}?{outgoing.query}" if outgoing.query else outgoing.path,
        created_at_us=at_us,
        began_ns=began_ns,
        coding=passage.headers.content_encoding,
    )


def _path_below(scope: Scope, prefix: str) -> str:
    """The path as it was sent, below `prefix`; decoded where the prefix itself was disguised."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else str(scope["path"])
    if not path.startswith(prefix):
        path = quote(str(scope["path"]))
    return path[len(prefix) :]


def _downward(path: str) -> str:
    """The path, unless it climbs. Raises: WireError.

    Behind an endpoint with a path of its own, `..` would leave what the configuration names.
    """
    if climbs(path):
        raise WireError("a path with `..` or a backslash is not passed on")
    return path


def _worded(error: ApprenticeError) -> str:
    return f"{error.message}: {error.remedy}" if error.remedy else error.message
