"""The spool: where a gateway worker's records are safe before the lake has them.

Belongs here: the writer thread, group commit, waking those who wait. Does not: SQLite
(`spool_file`), moving rows on (`drain`), sealing (`sealing`).
Promises: a record whose future resolved survives a crash of the process and of the machine; no
content reaches the disk unsealed; a full disk fails the records of that moment and nothing else;
memory is bounded. Once for what gathered while the previous commit ran: one transaction, one
wake-up per event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apprentice_pipeline.errors import ApprenticeError, StorageFull, StoreError
from apprentice_pipeline.store.sealing import PlainRow, Record, SealedRow, plain_row, seal
from apprentice_pipeline.store.spool_file import (
    Lock,
    SpoolDamaged,
    SpoolFile,
    claim,
    set_aside,
)
from apprentice_pipeline.vault import Vault

MAX_PENDING_ROWS: Final = 16_384
MAX_PENDING_BYTES: Final = 256 * 1024 * 1024
MAX_COMMIT_ROWS: Final = 1_024
KEY_REFRESH_S: Final = 2.0
"""How long a tenant's key is used before it is looked up again: another process may have erased
the tenant, and what is sealed with a forgotten key never opens."""

Waiter = asyncio.Future[None] | Future[None]


@dataclass(slots=True)
class _Waiting:
    """One record on its way to the disk, and who waits for it."""

    row: PlainRow
    size: int
    loop: asyncio.AbstractEventLoop | None
    waiter: Waiter


class Spool:
    """One worker's spool, open until closed. Safe across threads and event loops."""

    def __init__(self, folder: Path, vault: Vault, spool_id: str, lock: Lock, file: SpoolFile):
        self.spool_id = spool_id
        self.failed = 0
        """Records that were refused or could not be committed."""
        self.commits = 0
        """Transactions so far: records committed ÷ this is what group commit saves."""
        self.damaged = 0
        """Times the file was found damaged, set aside and begun anew."""
        self._folder = folder
        self._vault = vault
        self._lock = lock
        self._file: SpoolFile | None = file
        self._key_seen: dict[str, float] = {}
        self._queue: deque[_Waiting] = deque()
        self._pending_rows = 0
        self._pending_bytes = 0
        self._closing = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    @classmethod
    def open(cls, folder: Path, vault: Vault) -> Spool:
        """A new spool in `folder`, which is made if need be.

        Raises: StorageFull, StoreError.
        """
        spool_id, lock = claim(folder)
        try:
            file = SpoolFile.open(folder / f"{spool_id}.db", create=True)
        except BaseException:
            lock.release(remove=True)
            raise
        spool = cls(folder, vault, spool_id, lock, file)
        spool._writer.start()
        return spool

    @property
    def pending(self) -> int:
        """Records that wait for their commit."""
        return self._pending_rows

    def put(self, record: Record, *, tenant: str) -> Waiter:
        """Hands a record over; the future resolves once it is committed.

        In an event loop the future is that loop's, elsewhere a `concurrent.futures.Future`. The
        record is read now: changing it later changes nothing. The future fails with StorageFull,
        StoreError or VaultError; a refusal because too much waits fails it at once.
        """
        loop = _running_loop()
        waiter = _own_future() if loop is None else loop.create_future()
        try:
            row = plain_row(record, tenant)
            self._enqueue(_Waiting(row, row.size, loop, waiter))
        except ApprenticeError as error:
            with self._changed:
                self.failed += 1
            _resolve([(waiter, error)])
        return waiter

    async def commit(self, record: Record, *, tenant: str) -> None:
        """Returns once the record is committed. Raises: StorageFull, StoreError, VaultError.

        Giving up early (a timeout) does not take the record back.
        """
        waiter = self.put(record, tenant=tenant)
        assert isinstance(waiter, asyncio.Future)  # a coroutine has a loop
        await waiter  # cancelling it cancels the waiting, not the commit

    def close(self) -> None:
        """Commits what waits, then lets go of the file; a drain takes its rows. Safe twice."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify()
        self._writer.join()
        self._shut()
        self._lock.release()

    def _enqueue(self, waiting: _Waiting) -> None:
        size = waiting.size
        with self._changed:
            if self._closing:
                raise StoreError("the spool is closed")
            full = self._pending_bytes + size > MAX_PENDING_BYTES and self._pending_rows
            if full or self._pending_rows >= MAX_PENDING_ROWS:
                raise StoreError(
                    f"{self._pending_rows} records wait for the disk already",
                    remedy="the disk is too slow for this traffic: move APPRENTICE_HOME",
                )
            self._pending_rows += 1
            self._pending_bytes += size
            self._queue.append(waiting)
            if len(self._queue) == 1:
                self._changed.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            outcome = self._write(batch)
            with self._changed:
                self._pending_rows -= len(batch)
                self._pending_bytes -= sum(each.size for each in batch)
                self.failed += sum(error is not None for error in outcome)
            _wake(batch, outcome)

    def _next_batch(self) -> list[_Waiting]:
        """Everything that waits, up to one commit's worth; empty once closed and done."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            count = min(len(self._queue), MAX_COMMIT_ROWS)
            return [self._queue.popleft() for _ in range(count)]

    def _write(self, batch: Sequence[_Waiting]) -> list[Exception | None]:
        """Seals and commits; one outcome a record. A record that cannot be sealed fails alone."""
        self._refresh_keys({waiting.row.tenant for waiting in batch})
        sealed: list[SealedRow] = []
        outcome: list[Exception | None] = []
        for waiting in batch:
            try:
                sealed.append(seal(self._vault, waiting.row))
                outcome.append(None)
            except Exception as error:  # the thread's edge: whatever it is, its waiter gets it
                outcome.append(error)
        failure = self._commit(sealed) if sealed else None
        return outcome if failure is None else [error or _again(failure) for error in outcome]

    def _refresh_keys(self, tenants: set[str]) -> None:
        now = time.monotonic()
        for tenant in tenants:
            if now - self._key_seen.get(tenant, now) >= KEY_REFRESH_S:
                with contextlib.suppress(ApprenticeError):  # no state: the key at hand is good
                    self._vault.refresh(tenant)
            elif tenant in self._key_seen:
                continue
            self._key_seen[tenant] = now

    def _commit(self, rows: Sequence[SealedRow]) -> Exception | None:
        """One transaction; its failure is returned, for the writer outlives every failure."""
        try:
            try:
                self._opened().append(rows)
            except SpoolDamaged:
                self._abandon()
                self._opened().append(rows)
            self.commits += 1
        except StorageFull as error:  # the file is sound: it goes on when there is room again
            return error
        except Exception as error:  # the thread's edge
            self._shut()
            return error
        return None

    def _opened(self) -> SpoolFile:
        """The file, opened again after a failure; a new one where the old one is gone.

        Never a new file under an old id: its rows would have numbers that the lake passes over.
        """
        path = self._folder / f"{self.spool_id}.db"
        if self._file is None and path.exists():
            self._file = SpoolFile.open(path)
        if self._file is None:
            self._lock.release(remove=True)
            self.spool_id, self._lock = claim(self._folder)
            self._file = SpoolFile.open(self._folder / f"{self.spool_id}.db", create=True)
        return self._file

    def _abandon(self) -> None:
        """Sets the damaged file aside."""
        self.damaged += 1
        self._shut()
        set_aside(self._folder / f"{self.spool_id}.db")

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _own_future() -> Future[None]:
    """A future for a caller without a loop. Running from birth: nobody can cancel it meanwhile."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


def _again(error: Exception) -> Exception:
    """A copy for one more waiter: a shared exception would gather the traceback of each."""
    if isinstance(error, ApprenticeError):
        return type(error)(error.message, remedy=error.remedy)
    return StoreError(f"the spool failed: {type(error).__name__}")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _wake(batch: Sequence[_Waiting], outcome: Sequence[Exception | None]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[Waiter, Exception | None]]] = {}
    for waiting, error in zip(batch, outcome, strict=True):
        by_loop.setdefault(waiting.loop, []).append((waiting.waiter, error))
    for loop, outcomes in by_loop.items():
        resolve: Callable[[], None] = _Resolve(outcomes)
        if loop is None:
            resolve()
        elif not loop.is_closed():
            try:
                loop.call_soon_threadsafe(resolve)
            except RuntimeError:  # it closed just now: nobody waits any more
                continue


@dataclass(frozen=True, slots=True)
class _Resolve:
    outcomes: Sequence[tuple[Waiter, Exception | None]]

    def __call__(self) -> None:
        _resolve(self.outcomes)


def _resolve(outcomes: Sequence[tuple[Waiter, Exception | None]]) -> None:
    for waiter, error in outcomes:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
            waiter.exception()  # counted here: an abandoned future need not complain again
