"""From a finished call to a committed exchange.

Belongs here: making the record, committing it within the time a response may be held, counting
what it was. Does not: HTTP.
Promise: nothing here raises or takes longer than the commit timeout, whatever fails.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from apprentice_pipeline.errors import ApprenticeError, StorageFull, Unstorable
from apprentice_pipeline.gateway.pricing import Pricing
from apprentice_pipeline.gateway.tally import Tally
from apprentice_pipeline.records import CUT, REFUSED, WHOLE, Exchange, Usage
from apprentice_pipeline.store.spool import RecordSink
from apprentice_pipeline.wire.conversation import estimate_usage
from apprentice_pipeline.wire.forms import WireRequest, WireResponse
from apprentice_pipeline.wire.outputs import ending_of

NO_CONTENT: dict[str, Any] = {"messages": [], "parameters": {}}


@dataclass(slots=True)
class Call:
    """One captured call, from its admission to its end; times are `perf_counter_ns`."""

    pair_id: str
    tenant: str
    namespace: str
    provider: str
    endpoint: str
    created_at_us: int
    began_ns: int
    request: WireRequest | None = None
    inclusion_probability: float = 1.0
    first_byte_ns: int = 0
    finish_reason: str | None = None
    exchange: Exchange | None = None

    def elapsed_us(self) -> int:
        """Microseconds since the request went out."""
        return (time.perf_counter_ns() - self.began_ns) // 1_000


class Deadlines:
    """Waits with one common time limit, and one timer for all of them.

    A timer for each wait costs more than the wait. Limits are kept to a quarter of their length.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._given_up: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, waiter: asyncio.Future[None]) -> bool:
        """True once `waiter` is done, False when the limit came first. Raises: what it raises.

        Giving up leaves `waiter` as it is: its outcome comes all the same.
        """
        outcome = asyncio.shield(waiter)
        self._waiting.append((time.monotonic() + self._limit_s, outcome))
        if self._timer is None:
            self._tick()
        try:
            await outcome
        except asyncio.CancelledError:
            if outcome not in self._given_up:
                raise
            self._given_up.discard(outcome)
            return False
        return True

    def _tick(self) -> None:
        now, waiting = time.monotonic(), self._waiting
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now):
            _, waiter = waiting.popleft()
            if not waiter.done():
                self._given_up.add(waiter)
                waiter.cancel()
        self._timer = None
        if waiting:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._limit_s / 4, self._tick)


class Recorder:
    """Commits exchanges of one process. Lives on one event loop."""

    def __init__(self, spool: RecordSink, tally: Tally, pricing: Pricing, timeout_s: float) -> None:
        self._spool = spool
        self._tally = tally
        self._pricing = pricing
        self._deadlines = Deadlines(timeout_s)

    async def remote(
        self, call: Call, status: int, response: WireResponse | None, *, complete: bool
    ) -> Any:
        """Commits what the provider answered; the output that became a pair, else None."""
        good = complete and 200 <= status < 300
        readable = response is not None and call.request is not None and 200 <= status < 300
        output = response.output if readable and response is not None else None
        usage = self._usage(call, response, good)
        model = (response.model if response is not None else "") or _asked_model(call)
        cost = self._pricing.cost_usd(call.provider, model, usage) if output is not None else None
        ending = ending_of(response) if readable and response is not None else WHOLE
        exchange = _exchange(call, status, complete, "remote", output, model, usage, cost, ending)
        call.exchange, call.finish_reason = exchange, response.finish_reason if response else None
        self._count_remote(exchange, status)
        exchange = call.exchange = await self._commit(exchange)
        return output if exchange.is_pair else None

    async def local(self, call: Call, output: Any, model: str, usage: Usage) -> None:
        """Commits what the local model answered."""
        exchange = _exchange(call, 200, True, "local", output, model, usage, 0.0, WHOLE)
        call.exchange = exchange
        self._tally.add(call.tenant, call.namespace, requests=1, local=1)
        self._tally.respond(call.provider, "local", 200, exchange.latency_us / 1e6)
        call.exchange = await self._commit(exchange)

    def _usage(self, call: Call, response: WireResponse | None, good: bool) -> Usage:
        if response is None:
            return Usage()
        if response.usage.source != "none" or not good or call.request is None:
            return response.usage
        return estimate_usage(call.request.input, response.output)

    def _count_remote(self, exchange: Exchange, status: int) -> None:
        counts: dict[str, float] = {"requests": 1, "remote": 1}
        if exchange.is_pair:
            counts["pairs"] = 1
        elif status >= 400:
            counts["errors"] = 1
        elif not exchange.complete:
            counts["incomplete"] = 1
        elif exchange.ending != WHOLE:
            counts[_NOT_WHOLE[exchange.ending]] = 1
        usage = exchange.usage
        if usage.input_tokens is not None:
            counts["input_tokens"] = usage.input_tokens
        if usage.output_tokens is not None:
            counts["output_tokens"] = usage.output_tokens
        if usage.source == "estimated":
            counts["usage_estimated"] = 1
        if exchange.cost_usd is not None:
            counts["cost_usd"] = exchange.cost_usd
            self._tally.spend(exchange.tenant, exchange.namespace, exchange.cost_usd)
        elif exchange.output is not None:
            counts["unpriced"] = 1
        self._tally.add(exchange.tenant, exchange.namespace, **counts)
        self._tally.respond(exchange.provider, "remote", status, exchange.latency_us / 1e6)

    async def _commit(self, exchange: Exchange) -> Exchange:
        """The exchange as it is kept, once it is committed, has failed, or the time is up."""
        began = time.perf_counter()
        tenant, namespace = exchange.tenant, exchange.namespace
        try:
            waiter = self._spool.put(exchange, tenant=tenant)
            assert isinstance(waiter, asyncio.Future)
            if await self._deadlines.wait(waiter):
                self._tally.committed(time.perf_counter() - began)
            else:
                self._tally.add(tenant, namespace, at_risk=1)
                self._tally.alert(tenant, namespace, "capture_at_risk", _AT_RISK)
                waiter.add_done_callback(partial(self._look_late, tenant, namespace))
        except Unstorable:
            if exchange.input is not NO_CONTENT:
                return await self._commit(self._without_content(exchange))
            self._lose(tenant, namespace, Unstorable.__name__)
        except StorageFull:
            self._lose(tenant, namespace, "storage_full")
        except ApprenticeError as error:
            self._lose(tenant, namespace, type(error).__name__)
        except Exception as error:  # fail open: the customer's answer goes out
            self._lose(tenant, namespace, type(error).__name__)
        return exchange

    def _without_content(self, exchange: Exchange) -> Exchange:
        """The exchange as one that could not be read: counted as such, and no pair any more."""
        pairs = -1 if exchange.is_pair else 0
        self._tally.add(exchange.tenant, exchange.namespace, unreadable=1, pairs=pairs)
        return replace(exchange, input=NO_CONTENT, output=None)

    def _look_late(self, tenant: str, namespace: str, waiter: asyncio.Future[None]) -> None:
        """What became of an exchange whose response did not wait for it any longer."""
        if not waiter.cancelled() and (error := waiter.exception()) is not None:
            self._lose(tenant, namespace, type(error).__name__, at_risk=0)

    def _lose(self, tenant: str, namespace: str, cause: str, *, at_risk: int = 1) -> None:
        self._tally.add(tenant, namespace, lost=1, at_risk=at_risk)
        self._tally.alert(
            tenant, namespace, "capture_failed", f"exchanges could not be stored: {cause}"
        )


_NOT_WHOLE = {CUT: "answers_cut", REFUSED: "answers_refused"}
_AT_RISK = "responses were released before their exchanges were committed: the disk is slow"


def _asked_model(call: Call) -> str:
    return call.request.model if call.request is not None else ""


def _exchange(
    call: Call,
    status: int,
    complete: bool,
    served_by: str,
    output: Any,
    model: str,
    usage: Usage,
    cost_usd: float | None,
    ending: str,
) -> Exchange:
    request, first = call.request, call.first_byte_ns
    return Exchange(
        pair_id=call.pair_id,
        tenant=call.tenant,
        namespace=call.namespace,
        created_at_us=call.created_at_us,
        provider=call.provider,
        endpoint=call.endpoint,
        model=model,
        status=status,
        complete=complete,
        streamed=request is not None and request.streamed,
        served_by=served_by,
        input=request.input if request is not None else NO_CONTENT,
        output=output,
        latency_us=call.elapsed_us(),
        first_byte_us=(first - call.began_ns) // 1_000 if first else None,
        usage=usage,
        cost_usd=cost_usd,
        inclusion_probability=call.inclusion_probability,
        ending=ending,
    )
