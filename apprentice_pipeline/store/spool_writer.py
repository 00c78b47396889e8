"""Reading, sealing and committing: what a spool's writer does with a batch, wherever it runs.

Belongs here: unread rows to their reader, fresh keys, sealing, one transaction a batch, opening
the file again after a failure. Does not: who waits (`spool`, `spool_client`), SQLite
(`spool_file`), what a reader knows (`unread`).
Promise: a record is committed once, however often it is handed over under the same number; one
that cannot be sealed fails alone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from apprentice_pipeline.errors import ApprenticeError, StorageFull, Unstorable
from apprentice_pipeline.store.arrivals import (
    MOST_TRIES,
    empty_log,
    set_log_aside,
    tried,
    unread_batches,
)
from apprentice_pipeline.store.sealing import PlainRow, seal
from apprentice_pipeline.store.spool_file import (
    BUSY_TIMEOUT_S,
    SpoolDamaged,
    SpoolFile,
    StoredRow,
)
from apprentice_pipeline.store.spool_frames import NumberedRow, Written
from apprentice_pipeline.store.unread import UNREAD, Reader, Stream, add_all, add_counts, no_reader
from apprentice_pipeline.vault import Vault

MAX_PENDING_ROWS: Final = 16_384
MAX_PENDING_BYTES: Final = 256 * 1024 * 1024
MAX_COMMIT_ROWS: Final = 1_024
KEY_REFRESH_S: Final = 2.0
"""How long a tenant's key is used before it is looked up again: another process may have erased
the tenant, and what is sealed with a forgotten key never opens."""
REFRESH_PATIENCE_S: Final = 0.05
_FEW_ROWS: Final = 16
_FEW_BYTES: Final = 1024 * 1024


class _Refreshing:
    """Looks tenants' keys up again beside the commits: a state database that is slow delays the
    first of them by `REFRESH_PATIENCE_S`, and no other. Used by one thread at a time."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._due: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, tenants: set[str]) -> None:
        """These are due."""
        with self._lock:
            self._due |= tenants
            if self._thread is not None:
                return
            self._thread = thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        thread.join(REFRESH_PATIENCE_S)

    def _run(self) -> None:
        while (tenant := self._next()) is not None:
            with contextlib.suppress(ApprenticeError):  # no state: the key at hand is good
                self._vault.refresh(tenant)

    def _next(self) -> str | None:
        with self._lock:
            if not self._due:
                self._thread = None
                return None
            return self._due.pop()


def counts_of(batch: Sequence[NumberedRow], written: Written) -> dict[Stream, dict[str, float]]:
    """What a batch adds to the counters whose records nobody waits for: its losses among them."""
    for each, error in zip(batch, written.outcome, strict=True):
        if error is not None:
            stream = (each.row.tenant, each.row.namespace)
            add_counts(written.counts, stream, {"lost": 1, "at_risk": 1})
    return written.counts


class SpoolWriter:
    """Writes one spool's file. Used by one thread at a time."""

    def __init__(self, path: Path, vault: Vault, read: Reader = no_reader) -> None:
        self.commits = 0
        """Transactions so far: records committed ÷ this is what group commit saves."""
        self._path = path
        self._vault = vault
        self._read = read
        self._file: SpoolFile | None = None
        self._newest = 0
        self._is_recovered = False
        self._recovered: dict[Stream, dict[str, float]] = {}
        """What those add to the counters that were made rows of after a crash, until it is told."""
        self._recovered_after = self._recovered_until = 0
        """Their numbers. Whoever had no word of them hands them over again."""
        self._key_seen: dict[str, float] = {}
        self._refreshing = _Refreshing(vault)

    def create(self) -> None:
        """Makes the file. Raises: StorageFull, StoreError."""
        self._file = SpoolFile.open(self._path, create=True)

    def write(self, batch: Sequence[NumberedRow]) -> Written:
        """Reads what is unread, seals and commits.

        Numbers rise from call to call; records up to the newest in the file are in it already.
        Raises: SpoolDamaged when the file is gone or not sound: nothing of the batch is stored.
        """
        failure = self.commit(()) if self._file is None else None  # what the log has comes first
        self.refresh_keys(batch)
        sealed, written = self.sealed(batch)
        failure = failure or (self.commit(sealed) if sealed else None)
        if failure is not None:
            written.outcome[:] = [error or failure for error in written.outcome]
        add_all(written.counts, self.recovered())
        return written

    def sealed(self, batch: Sequence[NumberedRow]) -> tuple[list[StoredRow], Written]:
        """Reads what is unread and seals: the rows of those that did not fail, and that no log
        brought already. Keys: see `refresh_keys`, which comes before."""
        written = Written([None] * len(batch), {})
        sealed: list[StoredRow] = []
        for places in _few_at_once(batch):
            for at, row in self._all_read(batch, places, written):
                try:
                    sealed.append(StoredRow(batch[at].seq, seal(self._vault, row)))
                except Exception as error:  # the writer's edge: whatever it is, its waiter gets it
                    written.outcome[at] = error
        return sealed, written

    def _all_read(
        self, batch: Sequence[NumberedRow], places: range, written: Written
    ) -> list[tuple[int, PlainRow]]:
        """What is to be sealed of these, with its place. All are read before any is sealed: a
        processor does one thing again faster than two in turn."""
        found: list[tuple[int, PlainRow]] = []
        for at in places:
            each = batch[at]
            if self._recovered_after < each.seq <= self._recovered_until:
                continue
            try:
                row = each.row
                if row.table == UNREAD:
                    row, counts = self._read(row)
                    add_counts(written.counts, (row.tenant, row.namespace), counts)
                found.append((at, row))
            except Exception as error:  # the writer's edge: whatever it is, its waiter gets it
                written.outcome[at] = error
        return found

    def commit(
        self, rows: Sequence[StoredRow], *, until: int = 0, patience_s: float = BUSY_TIMEOUT_S
    ) -> Exception | None:
        """One transaction; its failure is returned, for the writer outlives every failure.

        `until`: the number up to which all is stored, or never will be, where that may be more
        than the last row's. `patience_s`: how long to wait for another process's lock.
        Raises: SpoolDamaged.
        """
        try:
            file = self._opened()
            file.set_patience(patience_s)
            newest = max(self._newest, until, rows[-1].seq if rows else 0)
            if newest > self._newest:
                file.append([row for row in rows if row.seq > self._newest], until=newest)
                self._newest = newest
                self.commits += 1
        except StorageFull as error:  # the file is sound: it goes on when there is room again
            return error
        except SpoolDamaged:
            self.close()
            raise
        except Exception as error:  # the writer's edge
            self.close()
            return error
        return None

    def recover(self) -> None:
        """Opens the file, and makes rows of what a writer that died had only taken in.

        Raises: SpoolDamaged, StorageFull, StoreError, KeyMissing: then it can be done again.
        """
        self._opened()

    def recovered(self) -> dict[Stream, dict[str, float]]:
        """What those add to the counters that were recovered since this was asked."""
        told, self._recovered = self._recovered, {}
        return told

    def refresh_keys(self, batch: Sequence[NumberedRow]) -> None:
        """Has keys looked up again that were not for a while: before anything is sealed."""
        now, due = time.monotonic(), set[str]()
        for tenant in {each.row.tenant for each in batch}:
            seen = self._key_seen.setdefault(tenant, now)
            if now - seen >= KEY_REFRESH_S:
                self._key_seen[tenant] = now
                due.add(tenant)
        if due:
            self._refreshing.add(due)

    def close(self) -> None:
        """Lets go of the file. Safe twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> SpoolFile:
        """The file, opened again after a failure; what went to an unlinked one would be lost."""
        if not self._path.exists():
            raise SpoolDamaged("a spool file is gone")
        if self._file is None:
            file = SpoolFile.open(self._path)
            try:
                self._newest = file.last_number()
                if not self._is_recovered:  # later it is `staging` that has them
                    if not self._recovered_until:
                        self._recovered_after = self._newest
                    self._make_rows(file)
            except BaseException:
                file.close()
                raise
            self._file, self._is_recovered = file, True
        return self._file

    def _make_rows(self, file: SpoolFile) -> None:
        """Of what the log of arrivals still has above the file's last number."""
        with tried(self._path) as times:
            is_fatal = times >= MOST_TRIES
            for newest, batch in unread_batches(self._path, self._vault, self._newest):
                self.refresh_keys(batch)
                rows, written = _given_up(batch) if is_fatal else self.sealed(batch)
                file.append(rows, until=newest)
                self._newest = self._recovered_until = newest
                add_all(self._recovered, counts_of(batch, written))
            if is_fatal:
                set_log_aside(self._path)
        empty_log(self._path)


def _few_at_once(batch: Sequence[NumberedRow]) -> Iterator[range]:
    """The places of a batch, few at a time: what is read waits in memory until it is sealed."""
    start = size = 0
    for at, each in enumerate(batch):
        if at - start == _FEW_ROWS or (at > start and size + each.row.size > _FEW_BYTES):
            yield range(start, at)
            start, size = at, 0
        size += each.row.size
    yield range(start, len(batch))


def _given_up(batch: Sequence[NumberedRow]) -> tuple[list[StoredRow], Written]:
    return [], Written([Unstorable("whoever read this record died of it") for _ in batch], {})
