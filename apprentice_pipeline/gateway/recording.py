"""From a finished call to a committed exchange.

Belongs here: handing the call's bytes over, waiting for the commit as long as a response may be
held, counting what was lost. Does not: HTTP, reading the bytes (`reading`).
Promise: nothing here raises or takes longer than the commit timeout, whatever fails.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from apprentice_pipeline.errors import StorageFull, WireError
from apprentice_pipeline.gateway.tally import Tally
from apprentice_pipeline.gateway.tee import EventTee, WholeTee
from apprentice_pipeline.reading.calls import ExchangeReader, Passed, Told
from apprentice_pipeline.reading.encodings import decoded
from apprentice_pipeline.records import Answer, Exchange
from apprentice_pipeline.store.sealing import PlainRow
from apprentice_pipeline.store.spool import RecordSink
from apprentice_pipeline.wire.forms import WireFormat, WireRequest

_READ_HERE = 1 << 18
"""Bytes of a response that the event loop takes the time to read; more goes to a thread."""
_LOOK_AGAIN_S = 0.001
"""The shortest timer, after which an event loop has looked at its sockets."""


@dataclass(slots=True)
class Call:
    """One captured call, from its admission to its end; times are `perf_counter_ns`.

    `watched`: somebody wants to know what it was, in this process (`observing`).
    """

    pair_id: str
    tenant: str
    namespace: str
    provider: str
    endpoint: str
    wire: WireFormat
    target: str
    created_at_us: int
    began_ns: int
    body: bytes = b""
    coding: str = ""
    inclusion_probability: float = 1.0
    first_byte_ns: int = 0
    watched: bool = False
    exchange: Exchange | None = None
    finish_reason: str | None = None
    known_request: WireRequest | None = None
    """What `request` has read."""
    _was_read: bool = False

    def elapsed_us(self) -> int:
        """Microseconds since the request went out."""
        return (time.perf_counter_ns() - self.began_ns) // 1_000

    def request(self, most_bytes: int) -> WireRequest | None:
        """What is asked, read when first wanted; None where it cannot be read."""
        if not self._was_read:
            self._was_read = True
            try:
                plain = decoded(self.body, self.coding, most_bytes)
                self.known_request = self.wire.read_request(self.endpoint, plain, self.target)
            except WireError:
                self.known_request = None
        return self.known_request


class Deadlines:
    """Waits with one common time limit, and one timer for all of them.

    A timer for each wait costs more than the wait. Limits are kept to a quarter of their length.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._waiting: deque[tuple[float, asyncio.Future[None], asyncio.Future[None]]] = deque()
        self._given_up: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, waiter: asyncio.Future[None]) -> bool:
        """True once `waiter` is done, False when the limit came first. Raises: what it raises.

        Giving up leaves `waiter` as it is: its outcome comes all the same.
        """
        outcome = asyncio.shield(waiter)
        self._waiting.append((time.monotonic() + self._limit_s, waiter, outcome))
        if self._timer is None:
            self._set_timer(self._limit_s / 4, self._look)
        try:
            await outcome
        except asyncio.CancelledError:
            if outcome not in self._given_up:
                raise
            self._given_up.discard(outcome)
            return False
        return True

    def _look(self) -> None:
        """A loop that stood still may have limits behind it, and word from the writer unread."""
        self._set_timer(_LOOK_AGAIN_S, self._give_up)

    def _give_up(self) -> None:
        now, waiting = time.monotonic(), self._waiting
        while waiting and (waiting[0][2].done() or waiting[0][0] <= now):
            _, waiter, outcome = waiting.popleft()
            if not waiter.done() and not outcome.done():
                self._given_up.add(outcome)
                outcome.cancel()
        self._timer = None
        if waiting:
            self._set_timer(self._limit_s / 4, self._look)

    def _set_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, then)


class Recorder:
    """Commits exchanges of one process. Lives on one event loop."""

    def __init__(
        self, spool: RecordSink, tally: Tally, reader: ExchangeReader, timeout_s: float
    ) -> None:
        self._spool = spool
        self._tally = tally
        self._reader = reader
        self._deadlines = Deadlines(timeout_s)

    async def remote(
        self, call: Call, status: int, tee: EventTee | WholeTee | None, *, wanted: bool
    ) -> Any:
        """Commits what the provider answered, as `tee` has it (None: nothing that is read).

        What it was the spool's writer finds out. Where somebody here wants to know too it is also
        read here: then the output that became a pair is returned, else None.
        """
        passed = _passed(call, status, tee)
        self._tally.add(call.tenant, call.namespace, requests=1, remote=1)
        self._tally.respond(call.provider, "remote", status, passed.latency_us / 1e6)
        await self._commit(passed.row())
        if not wanted and not call.watched:
            return None
        told = await self._read(passed)
        if call.watched:
            call.request(self._reader.most_bytes)
        call.exchange, call.finish_reason = told.exchange, told.finish_reason
        return told.exchange.output if told.exchange.is_pair else None

    async def local(self, call: Call, request: WireRequest, answer: Answer) -> None:
        """Commits what the local model answered."""
        told = Told(_local_exchange(call, request, answer), None, 0)
        self._tally.add(call.tenant, call.namespace, requests=1, local=1)
        self._tally.respond(call.provider, "local", 200, told.exchange.latency_us / 1e6)
        row, told = self._reader.kept(told)
        if told.unreadable:
            self._tally.add(call.tenant, call.namespace, unreadable=told.unreadable)
        call.exchange = told.exchange
        await self._commit(row)

    async def _read(self, passed: Passed) -> Told:
        if len(passed.response) <= _READ_HERE:
            return self._reader.read(passed)
        return await asyncio.to_thread(self._reader.read, passed)

    async def _commit(self, row: PlainRow) -> None:
        """Returns once the row is committed, has failed, or the time is up."""
        began = time.perf_counter()
        tenant, namespace = row.tenant, row.namespace
        waiter: asyncio.Future[None] | None = None
        try:
            given = self._spool.put_row(row)
            assert isinstance(given, asyncio.Future)
            waiter = given
            if await self._deadlines.wait(waiter):
                self._tally.committed(time.perf_counter() - began)
            else:
                self._tally.add(tenant, namespace, at_risk=1)
                self._tally.alert(tenant, namespace, "capture_at_risk", _AT_RISK)
                waiter.add_done_callback(partial(self._look_late, tenant, namespace))
        except asyncio.CancelledError:  # nobody waits any more: its outcome is counted all the same
            if waiter is not None:
                waiter.add_done_callback(partial(self._look_late, tenant, namespace))
            raise
        except StorageFull:
            self._lose(tenant, namespace, "storage_full")
        except Exception as error:  # fail open: the customer's answer goes out
            self._lose(tenant, namespace, type(error).__name__)

    def _look_late(self, tenant: str, namespace: str, waiter: asyncio.Future[None]) -> None:
        """What became of an exchange whose response did not wait for it any longer."""
        if not waiter.cancelled() and (error := waiter.exception()) is not None:
            self._lose(tenant, namespace, type(error).__name__, at_risk=0)

    def _lose(self, tenant: str, namespace: str, cause: str, *, at_risk: int = 1) -> None:
        self._tally.add(tenant, namespace, lost=1, at_risk=at_risk)
        self._tally.alert(
            tenant, namespace, "capture_failed", f"exchanges could not be stored: {cause}"
        )


_AT_RISK = "responses were released before their exchanges were committed: the disk is slow"


def _passed(call: Call, status: int, tee: EventTee | WholeTee | None) -> Passed:
    first = call.first_byte_ns
    return Passed(
        pair_id=call.pair_id,
        tenant=call.tenant,
        namespace=call.namespace,
        provider=call.provider,
        endpoint=call.endpoint,
        target=call.target,
        created_at_us=call.created_at_us,
        status=status,
        form=tee.form if tee is not None else "none",
        ended=tee is not None and tee.closed,
        latency_us=call.elapsed_us(),
        first_byte_us=(first - call.began_ns) // 1_000 if first else None,
        inclusion_probability=call.inclusion_probability,
        request_coding=call.coding,
        response_coding=tee.coding if tee is not None else "",
        request=call.body,
        response=tee.body() if tee is not None else b"",
    )


def _local_exchange(call: Call, request: WireRequest, answer: Answer) -> Exchange:
    return Exchange(
        pair_id=call.pair_id,
        tenant=call.tenant,
        namespace=call.namespace,
        created_at_us=call.created_at_us,
        provider=call.provider,
        endpoint=call.endpoint,
        model=answer.model,
        status=200,
        complete=True,
        streamed=request.streamed,
        served_by="local",
        input=request.input,
        output=answer.output,
        latency_us=call.elapsed_us(),
        first_byte_us=None,
        usage=answer.usage,
        cost_usd=0.0,
        inclusion_probability=call.inclusion_probability,
    )
