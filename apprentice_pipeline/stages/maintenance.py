"""Keeping the lake's files few, and its retention promises.

Belongs here: which stream keeps its exchanges for how long, and the nightly round. Does not:
removing rows (`store.erasure`), files (`store.lake`). What expired is gone as if it had been
erased; models that learnt from it stay as they are, and keep serving.
"""

from __future__ import annotations

from dataclasses import dataclass

from apprentice_pipeline.config import Config
from apprentice_pipeline.records import date_of, now_us
from apprentice_pipeline.store import erasure
from apprentice_pipeline.store.workspace import Workspace

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Compacted:
    """Files merged away over all tenants, and exchanges removed because they were too old."""

    tables: int
    expired_pairs: int


def compact(workspace: Workspace, *, at_us: int | None = None) -> Compacted:
    """Applies retention, then compacts and vacuums every tenant's tables.

    `at_us`: the moment that ages are counted from, now by default. Repeating it is harmless.
    Raises: StoreError.
    """
    at_us = now_us() if at_us is None else at_us
    expired = merged = 0
    for tenant in workspace.lake.tenants():
        expired += _expire(workspace, tenant, at_us)
        merged += workspace.lake.compact(tenant)
        workspace.lake.vacuum(tenant)
    return Compacted(merged, expired)


def retention_days(config: Config, namespace: str) -> int | None:
    """How long a stream keeps its exchanges: its task's own rule, else everybody's; None is for
    good."""
    for task in config.tasks:
        if task.name == namespace and task.retention_days is not None:
            return task.retention_days
    return config.capture.retention_days


def _expire(workspace: Workspace, tenant: str, at_us: int) -> int:
    """Exchanges removed; counted as `expired` in the stream's counters as well."""
    expired = 0
    for namespace in workspace.lake.namespaces(tenant):
        days = retention_days(workspace.config, namespace)
        if days is None:
            continue
        before_us = at_us - days * DAY_US
        gone = erasure.expire(workspace, tenant, namespace, before_us=before_us, now_us=at_us)
        if gone:
            workspace.state.count(tenant, namespace, date_of(at_us), {"expired": gone})
        expired += gone
    return expired
