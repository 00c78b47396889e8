"""Counting off the hot path: additions in memory, written out once a second.

Belongs here: sums by stream and day, spending, alerts, and their flush into state and metrics.
Does not: deciding what counts (`recording`, `capture`).
Promise: counting never blocks or fails a request; what the state database refuses is kept, in
bounded memory, and tried again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.gateway.metrics import Metrics
from apprentice_pipeline.records import date_of, now_us
from apprentice_pipeline.store.state import State
from apprentice_pipeline.store.unread import Counts, Stream

FLUSH_S = 1.0
MOST_STREAMS = 20_000
_DAY_US = 86_400_000_000


@dataclass(slots=True)
class _Sums:
    """What gathered since the last flush."""

    events: dict[tuple[str, str, str], dict[str, float]] = field(default_factory=dict)
    spending: dict[Stream, tuple[float, int]] = field(default_factory=dict)
    alerts: dict[tuple[str, str, str], str] = field(default_factory=dict)


@dataclass(slots=True)
class _Observed:
    """What only the metrics want: never kept over a flush."""

    events: dict[Stream, dict[str, float]] = field(default_factory=dict)
    responses: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    durations_s: list[float] = field(default_factory=list)
    commits_s: list[float] = field(default_factory=list)


class Tally:
    """The sums of one process. Lives on one event loop."""

    def __init__(self, state: State, metrics: Metrics, timezone: str) -> None:
        self._state = state
        self._metrics = metrics
        self._zone = ZoneInfo(timezone)
        self._sums = _Sums()
        self._observed = _Observed()
        self._day = ("", 0, 0)
        self.dropped = 0

    def add(self, tenant: str, namespace: str, **increments: float) -> None:
        """Adds to the counters of a stream, for today."""
        place = (tenant, namespace, self._today())
        sums = self._sums.events.get(place)
        if sums is None:
            if len(self._sums.events) >= MOST_STREAMS:
                self.dropped += 1
                return
            sums = self._sums.events[place] = defaultdict(float)
        seen = self._observed.events.get((tenant, namespace))
        if seen is None:
            seen = self._observed.events[tenant, namespace] = defaultdict(float)
        for name, value in increments.items():
            sums[name] += value
            seen[name] += value

    def take_in(self, counts: Mapping[Stream, Counts]) -> None:
        """Adds what the spool's writer found passed calls to be (`reading.counts_of`)."""
        for (tenant, namespace), increments in counts.items():
            told = dict(increments)
            if priced := int(told.pop("priced", 0)):
                total, calls = self._sums.spending.get((tenant, namespace), (0.0, 0))
                spent = total + told.get("cost_usd", 0.0)
                self._sums.spending[tenant, namespace] = (spent, calls + priced)
            self.add(tenant, namespace, **told)

    def alert(self, tenant: str, namespace: str, kind: str, message: str) -> None:
        """Raises an alert; repeated within a flush it is one."""
        self._sums.alerts[tenant, namespace, kind] = message

    def failed(self, tenant: str, namespace: str) -> None:
        """A call that a failure of ours ended, which nobody foresaw."""
        self.add(tenant, namespace, unexpected=1)
        self.alert(tenant, namespace, "call_failed", "a call failed inside the gateway")

    def respond(self, provider: str, served_by: str, status: int, seconds: float) -> None:
        """One response, for the metrics."""
        self._observed.responses[provider, served_by, f"{status // 100}xx"] += 1
        self._observed.durations_s.append(seconds)

    def committed(self, seconds: float) -> None:
        """How long one response's end waited, for the metrics."""
        self._observed.commits_s.append(seconds)

    def flush(self) -> None:
        """Writes everything out. Blocks; never raises. For the thread that also adds."""
        sums, observed = self._take()
        if not self._write_out(sums, observed):
            self._keep(sums)

    async def flush_aside(self) -> None:
        """`flush` with the writing in another thread."""
        sums, observed = self._take()
        if not await asyncio.to_thread(self._write_out, sums, observed):
            self._keep(sums)

    async def run(self) -> None:
        """Flushes every second until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush_aside()

    def _take(self) -> tuple[_Sums, _Observed]:
        taken = self._sums, self._observed
        self._sums, self._observed = _Sums(), _Observed()
        return taken

    def _write_out(self, sums: _Sums, observed: _Observed) -> bool:
        """Whether all of it could be written; what could is taken out of `sums`."""
        for (tenant, namespace), increments in observed.events.items():
            self._metrics.add_events(tenant, namespace, increments)
        self._metrics.add_responses(observed.responses)
        self._metrics.observe(observed.durations_s, observed.commits_s)
        try:
            self._write(sums)
        except ApprenticeError:
            self._metrics.add_events("", "", {"state_failures": 1})
            return False
        return True

    def _write(self, sums: _Sums) -> None:
        for place in list(sums.events):
            self._state.count(*place, sums.events[place])
            del sums.events[place]
        at_us = now_us()
        for (tenant, namespace), (usd, calls) in list(sums.spending.items()):
            self._state.meter(
                tenant, namespace, "passthrough", usd, at_us, zone=self._zone, calls=calls
            )
            del sums.spending[tenant, namespace]
        for (tenant, namespace, kind), message in list(sums.alerts.items()):
            self._state.add_alert(tenant, namespace, kind, message, now_us=at_us)
            del sums.alerts[tenant, namespace, kind]

    def _keep(self, sums: _Sums) -> None:
        """Puts back what could not be written, under what came meanwhile."""
        newer, self._sums = self._sums, sums
        for place, increments in newer.events.items():
            known = sums.events.setdefault(place, defaultdict(float))
            for name, value in increments.items():
                known[name] += value
        for stream, (usd, calls) in newer.spending.items():
            total, before = sums.spending.get(stream, (0.0, 0))
            sums.spending[stream] = (total + usd, before + calls)
        sums.alerts |= newer.alerts

    def _today(self) -> str:
        at_us = now_us()
        day, since_us, until_us = self._day
        if not since_us <= at_us < until_us:  # the next day, or the clock was set
            day, since_us = date_of(at_us), at_us - at_us % _DAY_US
            self._day = (day, since_us, since_us + _DAY_US)
        return day
