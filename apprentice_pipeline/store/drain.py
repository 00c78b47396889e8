"""Spools into the lake, each row exactly once.

Belongs here: the order of steps that makes a crash between any two of them harmless. Does not:
statements (`spool_file`), Delta (`lake`), when to drain.

For every spool, tenant and table: read which seq the lake holds already, append what is newer
under the stamp (spool id, newest seq) in one Delta commit, then trim the spool. A crash before
the append repeats it, a crash after it finds the stamp. Two drains at once take different
spools. A spool whose worker is dead is removed once it is empty; what that worker had taken in and
not yet read (`arrivals`) is made rows of first. A living one does so by itself, and is waited for:
a response that was delivered before the drain began is in the lake after it.

Rows that were erased, by whichever node, are dropped. An erasure leaves its tombstone before it
deletes, and a drain looks before its append and after: one of the two sees the other's work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from apprentice_pipeline.errors import StoreError, VaultError
from apprentice_pipeline.store.arrivals import arrived_rows
from apprentice_pipeline.store.erased import NOTHING, ErasedOf, nothing_erased
from apprentice_pipeline.store.lake import Lake
from apprentice_pipeline.store.recovery import (
    Recover,
    gone_spools,
    make_rows,
    nothing_to_recover,
    revive,
)
from apprentice_pipeline.store.rows import fitting
from apprentice_pipeline.store.sealing import TABLES
from apprentice_pipeline.store.spool_file import (
    Lock,
    SpoolDamaged,
    SpoolFile,
    StoredRow,
    mapping_errors,
    remove_files,
    set_aside,
)

STEPS: Final = (
    "locked",
    "recovered",
    "read",
    "version-read",
    "appended",
    "trimmed",
    "emptied",
    "removed",
)
"""Names handed to `on_step`, in the order of a drain."""


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain did. Everything but the first three and `erased` deserves an alert.

    `failed`: tables of a tenant that could not be appended to (their rows stay); `rejected`: rows
    set aside because they fit no table; `unknown`: rows of a kind this version does not know
    (they stay); `damaged`: spool files that are not sound, set aside where their worker is dead;
    `erased`: rows that were dropped because they had been erased.
    """

    rows: int = 0
    spools: int = 0
    failed: int = 0
    removed: int = 0
    rejected: int = 0
    unknown: int = 0
    damaged: int = 0
    erased: int = 0
    error: str = ""

    def __add__(self, other: DrainReport) -> DrainReport:
        """The sum of two reports; the first error text is kept."""
        return DrainReport(
            rows=self.rows + other.rows,
            spools=self.spools + other.spools,
            failed=self.failed + other.failed,
            removed=self.removed + other.removed,
            rejected=self.rejected + other.rejected,
            unknown=self.unknown + other.unknown,
            damaged=self.damaged + other.damaged,
            erased=self.erased + other.erased,
            error=self.error or other.error,
        )


def drain(
    folder: Path,
    lake: Lake,
    *,
    erased_of: ErasedOf = nothing_erased,
    recover: Recover = nothing_to_recover,
    max_rows: int = 5_000,
    on_step: Callable[[str], None] = lambda _step: None,
) -> DrainReport:
    """Moves what every spool in `folder` holds now into the lake, `max_rows` an append.

    `erased_of` tells what must not go there any more (`State.erased_of`); `recover` makes rows of
    what a dead worker left unread. `on_step` is told each step as it is done (see `STEPS`). One
    spool's or tenant's failure is reported and holds no other up.
    """
    report = DrainReport()
    for path in gone_spools(folder):
        try:
            revive(path)
        except StoreError as error:
            report += DrainReport(failed=1, error=error.message)
    for path in sorted(folder.glob("*.db")):
        try:
            report += _drain_file(path, lake, erased_of, recover, max_rows, on_step)
        except (StoreError, VaultError) as error:
            report += DrainReport(failed=1, error=error.message)
    _remove_strays(folder)
    return report


def waiting_rows(folder: Path) -> int:
    """Rows in all sound spools that the lake does not have yet."""
    total = 0
    for path in folder.glob("*.db"):
        try:
            file = SpoolFile.open(path)
        except StoreError:  # damaged, or drained and removed just now
            continue
        with contextlib.closing(file):
            arrived = arrived_rows(path)  # before the rows: what becomes one meanwhile is no more
            count, last = file.standing()
            total += count + arrived(last)
    return total


def _drain_file(
    path: Path,
    lake: Lake,
    erased_of: ErasedOf,
    recover: Recover,
    max_rows: int,
    on_step: Callable[[str], None],
) -> DrainReport:
    with mapping_errors():
        drain_lock = Lock.take(path.with_suffix(".drain"))
    if drain_lock is None:  # another drain is at it
        return DrainReport()
    removed = False
    try:
        if not path.exists():
            removed = True
            return DrainReport()
        with mapping_errors():
            owner_lock = Lock.take(path.with_suffix(".lock"))
        on_step("locked")
        try:
            transfer = partial(_Transfer, path.stem, lake, erased_of, on_step)
            orphaned, failed = owner_lock is not None, DrainReport()
            damage: tuple[DrainReport, bool] | None = None
            try:
                damage = _make_rows(path, recover, orphaned=orphaned)
            except (StoreError, VaultError) as error:  # its log stays, what are rows goes on
                orphaned, failed = False, DrainReport(failed=1, error=error.message)
            on_step("recovered")
            report, removed = damage or _drain_locked(
                path, transfer, max_rows, on_step, orphaned=orphaned
            )
            report = failed + report
        finally:
            if owner_lock is not None:
                owner_lock.release(remove=removed)
        return report
    finally:
        drain_lock.release(remove=removed)


def _make_rows(path: Path, recover: Recover, *, orphaned: bool) -> tuple[DrainReport, bool] | None:
    """See `recovery.make_rows`; None, or the report of a dead worker's spool that is not sound."""
    try:
        make_rows(path, recover, orphaned=orphaned)
    except SpoolDamaged as error:
        if not orphaned:  # its writer finds out
            return None
        set_aside(path)
        return DrainReport(damaged=1, failed=1, error=error.message), True
    return None


def _drain_locked(
    path: Path,
    transfer: Callable[[SpoolFile], _Transfer],
    max_rows: int,
    on_step: Callable[[str], None],
    *,
    orphaned: bool,
) -> tuple[DrainReport, bool]:
    """The report, and whether the spool is gone. `orphaned`: its worker is dead."""
    try:
        file = SpoolFile.open(path, durable=False)  # a trim undone is a trim done again
        try:
            report = transfer(file).run(max_rows)
            empty = orphaned and file.is_empty()
            if not empty and file.log_is_due(idle=not report.rows):
                file.checkpoint()
        finally:
            file.close()
    except SpoolDamaged as error:
        if orphaned:
            set_aside(path)
        return DrainReport(damaged=1, failed=1, error=error.message), orphaned
    if not empty:
        return report, False
    on_step("emptied")
    remove_files(path)
    on_step("removed")
    return report + DrainReport(removed=1), True


class _Transfer:
    """The rows of one spool on their way, while its drain lock is held."""

    def __init__(
        self,
        spool_id: str,
        lake: Lake,
        erased_of: ErasedOf,
        on_step: Callable[[str], None],
        file: SpoolFile,
    ) -> None:
        self._file = file
        self._spool_id = spool_id
        self._lake = lake
        self._erased_of = erased_of
        self._on_step = on_step
        self._blocked: set[tuple[str, str]] = set()

    def run(self, max_rows: int) -> DrainReport:
        """Everything up to the newest row of now."""
        report = DrainReport(spools=1)
        after, until = 0, self._file.newest()
        while rows := self._file.read(after, until, max_rows):
            self._on_step("read")
            after = rows[-1].seq
            for (kind, tenant), group in _grouped(rows).items():
                if kind in TABLES:
                    report += self._move(kind, tenant, group)
                else:
                    report += DrainReport(unknown=len(group))
        return report

    def _move(self, kind: str, tenant: str, group: Sequence[StoredRow]) -> DrainReport:
        """One append. A group that failed once waits for the next drain as a whole: to append
        its later rows would make the lake's stamp pass over the earlier ones."""
        if (kind, tenant) in self._blocked:
            return DrainReport()
        try:
            return self._append(kind, tenant, group)
        except SpoolDamaged:
            raise
        except StoreError as error:
            self._blocked.add((kind, tenant))
            return DrainReport(failed=1, error=error.message)

    def _append(self, kind: str, tenant: str, group: Sequence[StoredRow]) -> DrainReport:
        version = self._lake.transaction_version(tenant, kind, self._spool_id)
        self._on_step("version-read")
        newest = group[-1].seq
        there = [stored for stored in group if version is not None and stored.seq <= version]
        rest = group[len(there) :]
        gone = self._erased(tenant, rest)
        fresh = [stored for stored in rest if stored.seq not in gone]
        table, misfits = fitting(kind, [stored.row for stored in fresh])
        if misfits:
            self._file.reject([fresh[at].seq for at in misfits])
        if table.num_rows:
            self._lake.append(tenant, kind, table, app_id=self._spool_id, version=newest)
            self._on_step("appended")
        late = self._take_back(tenant, [*there, *fresh])
        self._file.trim(kind, tenant, [stored.seq for stored in group])
        self._on_step("trimmed")
        return DrainReport(rows=table.num_rows, rejected=len(misfits), erased=len(gone) + late)

    def _erased(self, tenant: str, group: Sequence[StoredRow]) -> set[int]:
        """Seqs of the rows that are erased as of now."""
        erased = self._erased_of(tenant, [stored.row for stored in group])
        if erased == NOTHING:
            return set()
        return {stored.seq for stored in group if erased.covers(stored.row)}

    def _take_back(self, tenant: str, appended: Sequence[StoredRow]) -> int:
        """Removes from the lake what was erased while it was appended; returns how many rows.

        After a crash the rows come by again, for they are trimmed only after this.
        """
        late = self._erased(tenant, appended)
        by_namespace: dict[str, set[str]] = {}
        for stored in appended:
            if stored.seq in late:
                by_namespace.setdefault(stored.row.namespace, set()).add(stored.row.pair_id)
        for namespace, ids in by_namespace.items():
            self._lake.erase(tenant, namespace=namespace, pair_ids=sorted(ids))
        return len(late)


def _grouped(rows: Sequence[StoredRow]) -> dict[tuple[str, str], list[StoredRow]]:
    groups: dict[tuple[str, str], list[StoredRow]] = {}
    for stored in rows:
        groups.setdefault((stored.row.table, stored.row.tenant), []).append(stored)
    return groups


def _remove_strays(folder: Path) -> None:
    """Lock files whose spool is gone: a crash came between the two."""
    for path in [*folder.glob("*.lock"), *folder.glob("*.drain")]:
        if path.with_suffix(".db").exists():
            continue
        with mapping_errors():
            lock = Lock.take(path)
        if lock is not None:
            lock.release(remove=not path.with_suffix(".db").exists())
