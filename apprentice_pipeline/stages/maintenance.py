"""Keeping the lake's files few, and its retention promises.

Belongs here: which stream keeps its exchanges for how long, and the round over all tenants. Does
not: removing rows (`store.erasure`), files (`store.lake`), when a round is due (the server, or
Dagster, each in its turn). What expired is gone as if it had been erased; models that
learnt from it stay as they are, and keep serving.
"""

from __future__ import annotations

from dataclasses import dataclass

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.reading.spools import recoverer
from apprentice_pipeline.records import date_of, now_us
from apprentice_pipeline.store import erasure
from apprentice_pipeline.store.rollup import stream_counts
from apprentice_pipeline.store.rounds import LEASE_S, MAINTENANCE
from apprentice_pipeline.store.workspace import Workspace

DAY_US = 86_400_000_000
_US = 1_000_000
WORTH_MERGING = 100
"""Files that an hourly round must save: each merging writes the day's rows anew, and the old files
stay readable for a week."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """Files merged away over all tenants, and exchanges removed because they were too old."""

    tables: int
    expired_pairs: int

    def __add__(self, other: Compacted) -> Compacted:
        return Compacted(self.tables + other.tables, self.expired_pairs + other.expired_pairs)


def compact(workspace: Workspace, *, at_us: int | None = None, at_least: int = 1) -> Compacted:
    """Applies retention, then compacts and vacuums every tenant's tables.

    `at_us`: the moment that ages are counted from, now by default. Tables that `at_least` files
    would not go away from are not compacted. Repeating it is harmless. For whoever has the turn
    (`compact_in_turn`): in an object store two compactions at once would double what they merge.
    Raises: StoreError, when every tenant has had its turn.
    """
    at_us = now_us() if at_us is None else at_us
    done = Compacted(0, 0)
    failed: list[StoreError] = []
    for tenant in workspace.lake.tenants():
        try:
            done += _keep(workspace, tenant, at_us, at_least)
        except StoreError as error:
            failed.append(error)
    if failed:
        raise type(failed[0])(
            f"{len(failed)} of the lake's tenants could not be looked after: {failed[0].message}",
            remedy=failed[0].remedy,
        )
    return done


def compact_in_turn(workspace: Workspace) -> Compacted | None:
    """`compact`, due or not; None while a server, or somebody else, does the same.

    Raises: StoreError.
    """
    rounds, every_s = workspace.state.rounds, workspace.config.store.maintenance_interval_s
    mine = rounds.claim(MAINTENANCE, every_us=0, lease_us=int(LEASE_S * _US), now_us=now_us())
    if mine is None:
        return None
    try:
        with rounds.kept(MAINTENANCE, mine):
            done = compact(workspace)
    except BaseException:
        rounds.give_back(MAINTENANCE, mine)
        raise
    rounds.end(MAINTENANCE, mine, now_us=now_us(), every_us=int(every_s * _US))
    return done


def round_of_day(previous_us: int, at_us: int) -> int:
    """`at_least` for a round at that time: the day's first merges everything."""
    return 1 if date_of(previous_us) != date_of(at_us) else WORTH_MERGING


def _keep(workspace: Workspace, tenant: str, at_us: int, at_least: int) -> Compacted:
    expired = _expire(workspace, tenant, at_us)
    _count(workspace, tenant)
    merged = workspace.lake.compact(tenant, at_least)
    workspace.lake.vacuum(tenant)
    return Compacted(merged, expired)


def _count(workspace: Workspace, tenant: str) -> None:
    """Brings the kept counts up, while the tables' logs still tell what came: whoever asks for the
    status tomorrow need not wait for a counting of everything."""
    for namespace in workspace.lake.namespaces(tenant):
        stream_counts(workspace, tenant, namespace, since_us=0, recent_us=0)


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
        gone = erasure.expire(
            workspace,
            tenant,
            namespace,
            before_us=before_us,
            now_us=at_us,
            recover=recoverer(workspace),
        )
        if gone:
            workspace.state.count(tenant, namespace, date_of(at_us), {"expired": gone})
        expired += gone
    return expired
