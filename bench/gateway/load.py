"""Load from one process: `python -m bench.gateway.load`, orders as JSON on standard input.

Belongs here: raw HTTP/1.1 clients, closed loop or at a fixed rate, and what they saw. Does not:
what they are pointed at. Latencies of the fixed rate count from when a request was *due*, so
that a stall is not hidden by the requests that it delayed (coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

from bench.gateway.aside import stand_aside


@dataclass(frozen=True, slots=True)
class Orders:
    """One run. `rate`: requests a second in all, 0 for as fast as they are answered; `count`
    ends a run that `seconds` does not."""

    host: str
    port: int
    request: str
    connections: int
    seconds: float
    rate: float = 0.0
    count: int = 0


@dataclass(slots=True)
class Seen:
    """What came back; times in seconds."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)


class _Client(asyncio.Protocol):
    """One connection with one request on its way at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._data = b""
        self._expected: int | None = None
        self._began = self._first = 0.0
        self.idle = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._run.free(self)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.idle:
            self._run.seen.failed += 1
            self._run.left()

    def fire(self, due: float) -> None:
        """Sends a request that was due at `due`."""
        self.idle = False
        self._began, self._first = due, 0.0
        self._transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        if not self._data:
            self._first = time.perf_counter()
        self._data = self._data + data if self._data else data
        if not self._whole():
            return
        if not self._data.startswith(b"HTTP/1.1 200"):
            self._run.seen.failed += 1
        self._data, self._expected, self.idle = b"", None, True
        self._run.done(self._began, self._first)
        self._run.free(self)

    def _whole(self) -> bool:
        if self._expected is None:
            split = self._data.find(b"\r\n\r\n")
            if split < 0:
                return False
            head = self._data[:split].lower()
            at = head.find(b"content-length:")
            if at < 0:
                self._expected = -1
            else:
                end = head.find(b"\r\n", at)
                self._expected = split + 4 + int(head[at + 15 : end if end >= 0 else None])
        if self._expected < 0:
            return self._data.endswith(b"0\r\n\r\n")
        return len(self._data) >= self._expected


class _Run:
    """All connections of one run."""

    def __init__(self, orders: Orders) -> None:
        self.request = orders.request.encode()
        self.seen = Seen()
        self._orders = orders
        self._idle: deque[_Client] = deque()
        self._due: deque[float] = deque()
        self._fired = 0
        self._open = orders.connections
        self._ended = asyncio.Event()
        self._stop = float("inf")

    async def run(self) -> Seen:
        loop, orders = asyncio.get_running_loop(), self._orders
        began = time.perf_counter()
        self._stop = began + orders.seconds if orders.seconds else float("inf")
        for _ in range(orders.connections):
            await loop.create_connection(lambda: _Client(self), orders.host, orders.port)
        if orders.rate:
            await self._pace(began)
        await self._ended.wait()
        self.seen.seconds = time.perf_counter() - began
        return self.seen

    async def _pace(self, began: float) -> None:
        """Makes requests due, evenly, until the time is over."""
        await asyncio.to_thread(self._keep_time, asyncio.get_running_loop(), began)
        self._due.clear()
        for client in list(self._idle):
            self.left()
            self._idle.remove(client)

    def _keep_time(self, loop: asyncio.AbstractEventLoop, began: float) -> None:
        """In a thread, for an event loop's timers are no finer than a millisecond: one that polls
        instead takes the core that the contestant needs."""
        for number in itertools.count():
            due = began + number / self._orders.rate
            time.sleep(max(0.0, min(due, self._stop) - time.perf_counter()))
            if due >= self._stop:
                return
            loop.call_soon_threadsafe(self._make_due, due)

    def _make_due(self, due: float) -> None:
        self._due.append(due)
        self._serve_due()

    def _serve_due(self) -> None:
        while self._due and self._idle:
            self._idle.popleft().fire(self._due.popleft())

    def free(self, client: _Client) -> None:
        """A connection has nothing to do."""
        if self._over():
            self.left()
        elif self._orders.rate:
            self._idle.append(client)
            self._serve_due()
        else:
            self._fired += 1
            client.fire(time.perf_counter())

    def _over(self) -> bool:
        count = self._orders.count
        return time.perf_counter() >= self._stop or bool(count and self._fired >= count)

    def done(self, began: float, first: float) -> None:
        """A response is whole."""
        self.seen.requests += 1
        self.seen.latencies.append(time.perf_counter() - began)
        self.seen.first_bytes.append(first - began)

    def left(self) -> None:
        """A connection will send no more."""
        self._open -= 1
        if self._open <= 0:
            self._ended.set()


async def _main() -> None:
    orders = Orders(**json.loads(sys.stdin.read()))
    if not orders.rate:  # who keeps a rate has to be in time
        stand_aside()
    seen = await asyncio.wait_for(_Run(orders).run(), (orders.seconds or 3_600) + 30)
    seen.latencies.sort()
    seen.first_bytes.sort()
    told = asdict(seen) | {
        name: {str(share): _quantile(values, share) for share in (0.5, 0.9, 0.99)}
        for name, values in (("latencies", seen.latencies), ("first_bytes", seen.first_bytes))
    }
    print(json.dumps(told))


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


if __name__ == "__main__":
    uvloop.run(_main())
