"""Prometheus metrics, right with any number of workers.

Belongs here: the metrics' names and their exposition. Does not: what is counted (`tally`).
With several processes the values live in a folder of memory-mapped files, one set a process,
summed at exposition; the client library reads the folder's name from the environment when it
is first imported, so the server sets it before a worker starts. What a dead worker counted
stays. Where the disk has no room (`metrics_files`) new series are not counted.
Names of tenants appear in metrics of the `apprentice_tenant_` families only, and those only to an
operator; past `MOST_STREAMS` further streams are one, for a client may name as many as it likes.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from apprentice_pipeline.gateway.metrics_files import Room
from apprentice_pipeline.store.rounds import Round

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
MEDIA_TYPE = "text/plain"
CONTENT_TYPE = f"{MEDIA_TYPE}; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TENANT_FAMILY = b"apprentice_tenant_"
MOST_STREAMS = 10_000
OTHER = ("_other", "_other")
_TOKENS = {"input_tokens": "input", "output_tokens": "output"}
_COST = "cost_usd"


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._room = _room()
        self._series: set[tuple[str, ...]] = set()
        self._registry = CollectorRegistry()
        self._events = Counter(
            "apprentice_events_total",
            "What happened, by kind (see docs: requests, pairs, at_risk, ...).",
            ["event"],
            registry=self._registry,
        )
        self._responses = Counter(
            "apprentice_responses_total",
            "Responses by provider, who served them and status class.",
            ["provider", "served_by", "status"],
            registry=self._registry,
        )
        self._tokens = Counter(
            "apprentice_tokens_total", "Tokens by type.", ["type"], registry=self._registry
        )
        self._cost = Counter(
            "apprentice_cost_usd_total",
            "What passed calls cost, US dollars.",
            registry=self._registry,
        )
        self._by_tenant = Counter(
            "apprentice_tenant_events_total",
            "What happened, by tenant and namespace.",
            ["tenant", "namespace", "event"],
            registry=self._registry,
        )
        self._tokens_by_tenant = Counter(
            "apprentice_tenant_tokens_total",
            "Tokens by type, tenant and namespace.",
            ["tenant", "namespace", "type"],
            registry=self._registry,
        )
        self._cost_by_tenant = Counter(
            "apprentice_tenant_cost_usd_total",
            "What passed calls cost, US dollars, by tenant and namespace.",
            ["tenant", "namespace"],
            registry=self._registry,
        )
        self._streams: set[tuple[str, str]] = set()
        self._durations = _Histogram(
            "apprentice_response_seconds",
            "Time from the request to the provider's last byte.",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._commits = _Histogram(
            "apprentice_commit_seconds",
            "Time a response's end waited for its pair to be committed.",
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def add_events(self, tenant: str, namespace: str, increments: Mapping[str, float]) -> None:
        """Adds to the counters of a stream."""
        stream = self._known(tenant, namespace)
        for event, value in increments.items():
            if value <= 0 or not self._fits(*stream, event):
                continue
            if event == _COST:
                self._cost.inc(value)
                self._cost_by_tenant.labels(*stream).inc(value)
            elif event in _TOKENS:
                self._tokens.labels(_TOKENS[event]).inc(value)
                self._tokens_by_tenant.labels(*stream, _TOKENS[event]).inc(value)
            else:
                self._events.labels(event).inc(value)
                self._by_tenant.labels(*stream, event).inc(value)

    def add_responses(self, counts: Mapping[tuple[str, str, str], int]) -> None:
        """Adds responses by (provider, served by, status class)."""
        for labels, value in counts.items():
            if self._fits(*labels, ""):
                self._responses.labels(*labels).inc(value)

    def observe(self, durations_s: Iterable[float], commits_s: Iterable[float]) -> None:
        """Adds durations, seconds."""
        self._durations.observe_all(durations_s)
        self._commits.observe_all(commits_s)

    def _known(self, tenant: str, namespace: str) -> tuple[str, str]:
        """The stream's labels; those of all others once there are too many."""
        stream = (tenant, namespace)
        if stream not in self._streams:
            if len(self._streams) >= MOST_STREAMS:
                return OTHER
            self._streams.add(stream)
        return stream

    def _fits(self, *series: str) -> bool:
        """Whether this was counted before, or has room to be."""
        if self._room is None or series in self._series:
            return True
        if not self._room.for_one_more():
            return False
        self._series.add(series)
        return True

    def exposition(self, *, tenants: bool, of: str | None = None) -> bytes:
        """All processes' metrics as Prometheus text, tenants' names only where asked for.

        With `of`, the counters of that tenant alone, unnamed: totals less one's own would tell
        what the others do.
        """
        registry = self._registry
        if folder := os.environ.get(FOLDER_VARIABLE):
            registry = CollectorRegistry()
            MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
        if of is not None:
            own = CollectorRegistry()
            own.register(_Own(registry, of))
            return generate_latest(own)
        text = generate_latest(registry)
        return text if tenants else _without_tenants(text)


def of_rounds(done: Round) -> bytes:
    """The server's rounds of retention and compaction, which the state database counts."""
    registry = CollectorRegistry()
    registry.register(_Rounds(done))
    return generate_latest(registry)


def _room() -> Room | None:
    """The room of this process's files, None where its values are in memory only: it is the one
    process, or there is no room for a file, and then nobody else sees what it counts."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    room = Room(Path(folder))
    if room.reserve():
        return room
    values.ValueClass = values.MutexValue
    return None


class _Histogram(Histogram):
    """A histogram that takes many values at once: one by one, a second's worth of them keeps the
    interpreter from the event loop for longer than a call may take."""

    def observe_all(self, amounts: Iterable[float]) -> None:
        """The same as `observe` of each."""
        ordered = sorted(amounts)
        self._sum.inc(sum(ordered))
        counted = 0
        for bound, bucket in zip(self._upper_bounds, self._buckets, strict=True):
            until = bisect_right(ordered, bound)
            if until > counted:
                bucket.inc(until - counted)
                counted = until


class _Rounds:
    """Values that no process's files hold."""

    def __init__(self, done: Round) -> None:
        self._done = done

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        last = Metric(
            "apprentice_maintenance_last_success_timestamp_seconds",
            "When retention and compaction last came to a good end, Unix time; 0: never.",
            "gauge",
        )
        last.add_sample(last.name, {}, self._done.done_us / 1_000_000)
        failures = Metric(
            "apprentice_maintenance_failures",
            "Rounds of retention and compaction that failed.",
            "counter",
        )
        failures.add_sample(f"{failures.name}_total", {}, self._done.failures)
        yield from (last, failures)


class _Own:
    """One tenant's counters under the names and labels of everybody's."""

    def __init__(self, everything: CollectorRegistry, tenant: str) -> None:
        self._everything = everything
        self._tenant = tenant

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        families = {family.name: family for family in self._everything.collect()}
        for name, family in sorted(families.items()):
            told = families.get(name.replace(_TENANT_FAMILY.decode(), "apprentice_", 1))
            if not name.startswith(_TENANT_FAMILY.decode()) or told is None:
                continue
            own = Metric(told.name, told.documentation, "counter")
            for labels, value in self._sums(family).items():
                own.add_sample(f"{told.name}_total", dict(labels), value)
            yield own

    def _sums(self, family: Metric) -> dict[tuple[tuple[str, str], ...], float]:
        """The tenant's values by the labels that are not its own."""
        sums: dict[tuple[tuple[str, str], ...], float] = defaultdict(float)
        for sample in family.samples:
            labels = dict(sample.labels)
            tenant, _ = labels.pop("tenant"), labels.pop("namespace")
            if tenant == self._tenant and sample.name.endswith("_total"):
                sums[tuple(sorted(labels.items()))] += sample.value
        return sums


def _without_tenants(text: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    return b"".join(
        line
        for line in lines
        if not line.removeprefix(b"# HELP ").removeprefix(b"# TYPE ").startswith(_TENANT_FAMILY)
    )
