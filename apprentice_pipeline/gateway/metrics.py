"""Prometheus metrics, right with any number of workers.

Belongs here: the metrics' names and their exposition. Does not: what is counted (`tally`).
With several processes the values live in a folder of memory-mapped files, one set a process,
summed at exposition; the client library reads the folder's name from the environment when it
is first imported, so the server sets it before a worker starts. Names of tenants appear in
metrics of the `apprentice_tenant_` family only, and those only to an operator.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TENANT_FAMILY = b"apprentice_tenant_"


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
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
        self._by_tenant = Counter(
            "apprentice_tenant_events_total",
            "What happened, by tenant and namespace.",
            ["tenant", "namespace", "event"],
            registry=self._registry,
        )
        self._durations = Histogram(
            "apprentice_response_seconds",
            "Time from the request to the provider's last byte.",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._commits = Histogram(
            "apprentice_commit_seconds",
            "Time a response's end waited for its pair to be committed.",
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def add_events(self, tenant: str, namespace: str, increments: Mapping[str, float]) -> None:
        """Adds to the counters of a stream."""
        for event, value in increments.items():
            if value > 0:
                self._events.labels(event).inc(value)
                self._by_tenant.labels(tenant, namespace, event).inc(value)

    def add_responses(self, counts: Mapping[tuple[str, str, str], int]) -> None:
        """Adds responses by (provider, served by, status class)."""
        for labels, value in counts.items():
            self._responses.labels(*labels).inc(value)

    def observe(self, durations_s: Iterable[float], commits_s: Iterable[float]) -> None:
        """Adds durations, seconds."""
        for seconds in durations_s:
            self._durations.observe(seconds)
        for seconds in commits_s:
            self._commits.observe(seconds)

    def exposition(self, *, tenants: bool) -> bytes:
        """All processes' metrics as Prometheus text, tenants' names only where asked for."""
        registry = self._registry
        if folder := os.environ.get(FOLDER_VARIABLE):
            registry = CollectorRegistry()
            MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
        text = generate_latest(registry)
        return text if tenants else _without_tenants(text)


def _without_tenants(text: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    return b"".join(
        line
        for line in lines
        if not line.removeprefix(b"# HELP ").removeprefix(b"# TYPE ").startswith(_TENANT_FAMILY)
    )
