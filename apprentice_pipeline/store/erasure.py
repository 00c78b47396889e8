"""Erasure: rows out of every spool and table, keys forgotten, a tombstone left.

Belongs here: the places and their order. Does not: marking corpora and artifacts that used what
was erased (`stages`).
Promise: when this returns, no spool, table or file version of this workspace holds the rows, and
what another node's spool still has of them does not come back; a file that was set aside because
nobody could read it is a refusal of its own (`refuse_what_lies_aside`); a crash on the way leaves
an erasure that can simply be repeated. Tombstones come first, then the keys, then the rows:
whatever is appended meanwhile is found by the drain that appended it, or deleted here.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apprentice_pipeline.errors import StoreError, UsageError, VaultError
from apprentice_pipeline.store.arrivals import empty_log, logs_aside, rows_aside
from apprentice_pipeline.store.lake import Removal
from apprentice_pipeline.store.recovery import (
    Recover,
    gone_spools,
    make_rows,
    nothing_to_recover,
    orphaned_or_not,
    revive,
)
from apprentice_pipeline.store.rollup import COUNTS_FILE
from apprentice_pipeline.store.sealing import CAPTURES, PlainRow
from apprentice_pipeline.store.spool_file import (
    Lock,
    SpoolDamaged,
    SpoolFile,
    files_aside,
    mapping_errors,
)

if TYPE_CHECKING:
    from apprentice_pipeline.store.workspace import Workspace

_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """Exchanges that were removed, by place; the ids of all pairs that had a row anywhere; what
    each table lost.

    `+` puts together what an erasure found that was cut short and what its repetition took: all
    ids of both, and of each count the greater.
    """

    spool_rows: int
    lake_rows: int
    pair_ids: tuple[str, ...] = ()
    tables: tuple[Removal, ...] = ()

    @property
    def rows(self) -> int:
        """All of them."""
        return self.spool_rows + self.lake_rows

    def __add__(self, later: ErasureReport) -> ErasureReport:
        """This erasure, cut short, with its repetition."""
        tables = {each.table: replace(each, version_after=-1) for each in self.tables}
        for each in later.tables:
            first = tables.get(each.table, each)
            tables[each.table] = Removal(
                each.table,
                max(first.rows, each.rows),
                first.version_before,
                each.version_after,
                first.pair_ids | each.pair_ids,
            )
        return ErasureReport(
            max(self.spool_rows, later.spool_rows),
            max(self.lake_rows, later.lake_rows),
            tuple(sorted({*self.pair_ids, *later.pair_ids})),
            tuple(tables.values()),
        )


def erasable(
    workspace: Workspace,
    tenant: str,
    *,
    namespace: str | None = None,
    pair_ids: Sequence[str] | None = None,
    recover: Recover = nothing_to_recover,
) -> ErasureReport:
    """What `erase` would remove now. Raises: StoreError."""
    spool_rows, ids = 0, set[str]()
    for path in gone_spools(workspace.home.spool):
        with contextlib.suppress(StoreError):
            revive(path)
    for path in sorted(workspace.home.spool.glob("*.db")):
        try:
            with orphaned_or_not(path) as orphaned:
                make_rows(path, recover, orphaned=orphaned)
            file = SpoolFile.open(path)
        except StoreError:  # drained and removed just now, or damaged, which `erase` reports
            continue
        with closing(file):
            captures, owned = file.owned(tenant, namespace, pair_ids)
        spool_rows += captures
        ids |= owned
    tables = workspace.lake.erasable(tenant, namespace=namespace, pair_ids=pair_ids)
    ids.update(*(each.pair_ids for each in tables))
    lake_rows = sum(each.rows for each in tables if each.table == CAPTURES)
    return ErasureReport(spool_rows, lake_rows, tuple(sorted(ids)), tuple(tables))


def erase(
    workspace: Workspace,
    tenant: str,
    *,
    namespace: str | None = None,
    pair_ids: Sequence[str] | None = None,
    now_us: int,
    recover: Recover = nothing_to_recover,
    on_step: Callable[[str], None] = lambda _step: None,
) -> ErasureReport:
    """Erases pairs, a namespace, or (neither given) the tenant with its data keys.

    `recover` makes rows of what a dead worker left unread, so that it is found; `on_step` is told
    each step as it is done.
    Raises: UsageError when pairs are named without their namespace; StoreError.
    """
    from apprentice_pipeline.store.tombstones import Tombstone

    if pair_ids is not None and namespace is None:
        raise UsageError("pairs are erased within a namespace", remedy="give --namespace")
    ids = pair_ids if pair_ids is not None else [""]
    stones = [Tombstone(tenant, namespace or "", each, now_us, 0) for each in ids]
    workspace.state.add_tombstones(stones)
    if namespace is None:
        workspace.vault.forget(tenant)
    on_step("buried")
    erased, tables = set[str](), list[Removal]()
    spool_rows = _erase_spools(workspace.home.spool, recover, tenant, namespace, pair_ids, erased)
    on_step("spools-erased")
    lake_rows = workspace.lake.erase(
        tenant, namespace=namespace, pair_ids=pair_ids, removals=tables
    )
    on_step("lake-erased")
    _forget_counts(workspace.home.work / tenant, namespace)
    erased.update(*(removal.pair_ids for removal in tables))
    report = ErasureReport(spool_rows, lake_rows, tuple(sorted(erased)), tuple(tables))
    workspace.state.count_erased([replace(stone, rows=report.rows) for stone in stones])
    return report


def expire(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    *,
    before_us: int,
    now_us: int,
    recover: Recover = nothing_to_recover,
) -> int:
    """Erases what the namespace captured before that time; returns how many exchanges.

    As thorough as `erase`. The tombstones come first, one a pair: after a crash in between, the
    next time finds the rows still there and makes no second tombstone, nor does another process
    that is at the same. What a spool holds that never reached the lake is found once it has.
    Raises: StoreError.
    """
    from apprentice_pipeline.store.tombstones import Tombstone

    ids = workspace.lake.older(tenant, namespace, before_us)
    if not ids:
        return 0
    known = workspace.state.erased_pairs(tenant, namespace, ids)
    stones = [Tombstone(tenant, namespace, each, now_us, 1) for each in ids if each not in known]
    workspace.state.add_tombstones(stones, once=True)
    _erase_spools(workspace.home.spool, recover, tenant, namespace, ids)
    gone = workspace.lake.expire(tenant, namespace, before_us, ids)
    _forget_counts(workspace.home.work / tenant, namespace)
    return gone


def refuse_what_lies_aside(
    workspace: Workspace, tenant: str, namespace: str | None, pair_ids: Sequence[str] | None
) -> None:
    """For the end of an erasure that is to be proven.

    Raises: StoreError where a file was set aside that may hold what should be erased. Of a
    damaged spool nobody can tell; a log that no reader survived says whose its records are.
    """
    if namespace is None:  # what a tenant's forgotten keys sealed is gone wherever it lies
        return

    def is_meant(row: PlainRow) -> bool:
        return row.namespace == namespace and (pair_ids is None or row.pair_id in pair_ids)

    found = files_aside(workspace.home.spool)
    for log in logs_aside(workspace.home.spool):
        try:
            meant = any(is_meant(each.row) for each in rows_aside(log, workspace.vault, tenant))
        except (VaultError, ValueError, struct.error):  # nobody can tell
            meant = True
        found += [log] if meant else []
    if found:
        raise StoreError(
            f"{found[0].name} was set aside and may hold rows that should be erased; "
            "all others are erased",
            remedy="look at it under APPRENTICE_HOME/spool, delete it and what else is set aside "
            "there, then erase again",
        )


def _forget_counts(folder: Path, namespace: str | None) -> None:
    """Kept counts hold ids and keyed hashes of pairs; the next look counts anew."""
    with mapping_errors():
        for file in folder.glob(f"{namespace or '*'}/{COUNTS_FILE}"):
            file.unlink(missing_ok=True)


def _erase_spools(
    folder: Path,
    recover: Recover,
    tenant: str,
    namespace: str | None,
    pair_ids: Sequence[str] | None,
    erased: set[str] | None = None,
) -> int:
    """Under each spool's drain lock: a drain that holds rows in memory would bring them back."""
    for path in gone_spools(folder):
        revive(path)
    return sum(
        _erase_spool(path, recover, tenant, namespace, pair_ids, erased)
        for path in sorted(folder.glob("*.db"))
    )


def _erase_spool(
    path: Path,
    recover: Recover,
    tenant: str,
    namespace: str | None,
    pair_ids: Sequence[str] | None,
    erased: set[str] | None,
) -> int:
    lock = _drain_lock(path)
    gone = not path.exists()
    try:
        if gone:
            return 0
        with orphaned_or_not(path) as orphaned:
            make_rows(path, recover, orphaned=orphaned)
            empty_log(path)
            with closing(SpoolFile.open(path)) as file:
                return file.erase(tenant, namespace, pair_ids, erased)
    except SpoolDamaged as error:
        raise StoreError(
            f"{error.message}: it may hold rows that should be erased",
            remedy="run a drain, which sets it aside, look at it, and delete it",
        ) from None
    finally:
        lock.release(remove=gone)


def _drain_lock(path: Path) -> Lock:
    deadline = time.monotonic() + _WAIT_S
    while True:
        with mapping_errors():
            lock = Lock.take(path.with_suffix(".drain"))
        if lock is not None:
            return lock
        if time.monotonic() > deadline:
            raise StoreError(
                f"a spool is being drained for more than {_WAIT_S:.0f} s",
                remedy="find the process that drains it, then erase again",
            )
        time.sleep(0.02)
