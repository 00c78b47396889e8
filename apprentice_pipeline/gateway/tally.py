"""Counting off the hot path: additions in memory, written out once a second.

Belongs here: sums by stream and day, spending, alerts, and their flush into state and metrics.
Does not: deciding what counts (`recording`, `capture`).
Promise: counting never blocks or fails a request; what the state database refuses is kept, in
bounded memory, and tried again. What finds no room any more, or fails in a way nobody foresaw, is
given up, and counted in the metrics as `counts_dropped`. What was not kept is counted once and in
full, even if this process is killed (`loss_files`).
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from zoneinfo import ZoneInfo

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.gateway.metrics import Metrics
from apprentice_pipeline.records import date_of, now_us
from apprentice_pipeline.store.journal import Place
from apprentice_pipeline.store.loss_files import LossFile
from apprentice_pipeline.store.state import State
from apprentice_pipeline.store.unread import Counts, Stream, spent

FLUSH_S = 1.0
MOST_STREAMS = 20_000
MOST_ALERTS = 1_000
_DAY_US = 86_400_000_000
_DROPPED = "counts_dropped"
_UNSTORABLE = "exchanges could not be read or sealed"
_TOGETHER = 500
K = TypeVar("K")
V = TypeVar("V")


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

    def __init__(
        self, state: State, metrics: Metrics, timezone: str, losses: LossFile | None = None
    ) -> None:
        self._state = state
        self._metrics = metrics
        self._losses = losses
        self._zone = ZoneInfo(timezone)
        self._sums = _Sums()
        self._observed = _Observed()
        self._day = ("", 0, 0)
        self._writing = threading.Lock()
        self.dropped = 0

    def add(self, tenant: str, namespace: str, **increments: float) -> None:
        """Adds to the counters of a stream, for today."""
        place = (tenant, namespace, self._today())
        if self._losses is not None:
            self._losses.add(place, increments)
        sums = self._sums.events.get(place)
        if sums is None:
            if len(self._sums.events) >= MOST_STREAMS:
                self._drop()
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
            told, spending = spent(increments)
            if spending is not None:
                self._spend((tenant, namespace), *spending)
            self.add(tenant, namespace, **told)
            if "lost" in told:  # after its response had gone
                self.alert(tenant, namespace, "capture_failed", _UNSTORABLE)

    def alert(self, tenant: str, namespace: str, kind: str, message: str) -> None:
        """Raises an alert; repeated within a flush it is one."""
        alerts = self._sums.alerts
        if (tenant, namespace, kind) in alerts or len(alerts) < MOST_ALERTS:
            alerts[tenant, namespace, kind] = message
        else:
            self._drop()

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
        """Writes everything out, and waits for what another thread is writing. Never raises.

        For the thread that also adds.
        """
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
            try:
                await self.flush_aside()
            except Exception:  # the task's edge: counting outlives every failure
                self._drop()

    def _take(self) -> tuple[_Sums, _Observed]:
        taken = self._sums, self._observed
        self._sums, self._observed = _Sums(), _Observed()
        return taken

    def _write_out(self, sums: _Sums, observed: _Observed) -> bool:
        """Whether all of it could be written; what could is taken out of `sums`."""
        with self._writing:
            return self._written(sums, observed)

    def _written(self, sums: _Sums, observed: _Observed) -> bool:
        try:
            self._tell_metrics(observed)
        except Exception:  # the edge: the sums are written all the same
            self.dropped += 1
        try:
            dropped = self._write(sums)
        except ApprenticeError:
            self._metrics.add_events("", "", {"state_failures": 1})
            return False
        if dropped:
            self._metrics.add_events("", "", {_DROPPED: dropped})
        return True

    def _tell_metrics(self, observed: _Observed) -> None:
        for (tenant, namespace), increments in observed.events.items():
            self._metrics.add_events(tenant, namespace, increments)
        self._metrics.add_responses(observed.responses)
        self._metrics.observe(observed.durations_s, observed.commits_s)

    def _write(self, sums: _Sums) -> int:
        """Writes all of it; returns how many entries could not be, for a reason of their own."""
        at_us = now_us()

        def count(events: Mapping[Place, Mapping[str, float]]) -> None:
            marks = self._losses.marks(events) if self._losses is not None else {}
            self._state.count_all({**events, **marks})

        def meter(spending: Mapping[Stream, tuple[float, int]]) -> None:
            self._state.meter_all(spending, "passthrough", at_us, zone=self._zone)

        def alert(alerts: Mapping[tuple[str, str, str], str]) -> None:
            for about, message in alerts.items():
                self._state.add_alert(*about, message, now_us=at_us)

        written = (
            _in_portions(sums.events, count, _TOGETHER),
            _in_portions(sums.spending, meter, _TOGETHER),
            _in_portions(sums.alerts, alert, 1),
        )
        return sum(written)

    def _keep(self, sums: _Sums) -> None:
        """Puts back what could not be written, under what came meanwhile, as far as there is
        room."""
        newer, self._sums = self._sums, sums
        for place, increments in newer.events.items():
            if place not in sums.events and len(sums.events) >= MOST_STREAMS:
                self._drop()
                continue
            known = sums.events.setdefault(place, defaultdict(float))
            for name, value in increments.items():
                known[name] += value
        for stream, (usd, calls) in newer.spending.items():
            self._spend(stream, usd, calls)
        for about, message in newer.alerts.items():
            self.alert(*about, message)

    def _spend(self, stream: Stream, usd: float, calls: int) -> None:
        spending = self._sums.spending
        if stream not in spending and len(spending) >= MOST_STREAMS:
            self._drop()
            return
        total, before = spending.get(stream, (0.0, 0))
        spending[stream] = (total + usd, before + calls)

    def _drop(self) -> None:
        self.dropped += 1
        self._observed.events.setdefault(("", ""), defaultdict(float))[_DROPPED] += 1

    def _today(self) -> str:
        at_us = now_us()
        day, since_us, until_us = self._day
        if not since_us <= at_us < until_us:  # the next day, or the clock was set
            day, since_us = date_of(at_us), at_us - at_us % _DAY_US
            self._day = (day, since_us, since_us + _DAY_US)
        return day


def _in_portions(entries: dict[K, V], write: Callable[[dict[K, V]], None], together: int) -> int:
    """Writes entries, some together, and takes them out; returns how many were given up.

    Raises: ApprenticeError where the store fails: what is left can be tried again. An entry that
    fails in a way nobody foresaw would fail again, and hold up those beside it.
    """
    given_up = 0
    while entries:
        some = dict(itertools.islice(entries.items(), together))
        try:
            write(some)
        except ApprenticeError:
            raise
        except Exception:  # the flush outlives every failure
            given_up += _in_portions(dict(some), write, 1) if len(some) > 1 else 1
        for key in some:
            del entries[key]
    return given_up
