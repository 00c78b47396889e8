"""Keeping the lake's files few, and its retention promises."""

from __future__ import annotations

from dataclasses import dataclass

from apprentice_pipeline.records import now_us
from apprentice_pipeline.store import erasure
from apprentice_pipeline.store.workspace import Workspace

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Compacted:
    """Files merged away over all tenants, and exchanges removed because they were too old."""

    tables: int
    expired_pairs: int


def compact(workspace: Workspace) -> Compacted:
    """Applies retention, then compacts and vacuums every tenant's tables."""
    expired = merged = 0
    for tenant in workspace.lake.tenants():
        expired += _expire(workspace, tenant)
        merged += workspace.lake.compact(tenant)
        workspace.lake.vacuum(tenant)
    return Compacted(merged, expired)


def _expire(workspace: Workspace, tenant: str) -> int:
    days = workspace.config.capture.retention_days
    if days is None:
        return 0
    at = now_us()
    rows = workspace.lake.sql(
        tenant,
        "select namespace, pair_id from captures where created_at_us < $before",
        before=at - days * DAY_US,
    )
    by_namespace: dict[str, list[str]] = {}
    for row in rows:
        by_namespace.setdefault(row["namespace"], []).append(row["pair_id"])
    return sum(
        erasure.erase(workspace, tenant, namespace=namespace, pair_ids=ids, now_us=at).rows
        for namespace, ids in by_namespace.items()
    )
