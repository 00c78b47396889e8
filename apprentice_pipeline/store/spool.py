"""The spool: where a process's records are safe before the lake has them.

Belongs here: the writer thread, group commit, waking those who wait. Does not: sealing and
committing a batch (`spool_writer`), a writer in a process of its own (`spool_client`), moving
rows on (`drain`).
Promises: a record whose future resolved survives a crash of the process and of the machine; no
content reaches the disk unsealed; a full disk fails the records of that moment and nothing else;
memory is bounded. Once for what gathered while the previous commit ran: one transaction, one
wake-up per event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from apprentice_pipeline.errors import ApprenticeError, StoreError, VaultError
from apprentice_pipeline.store.sealing import PlainRow, Record, plain_row
from apprentice_pipeline.store.spool_file import Lock, SpoolDamaged, claim, set_aside
from apprentice_pipeline.store.spool_frames import NumberedRow, Written
from apprentice_pipeline.store.spool_writer import (
    MAX_COMMIT_ROWS,
    MAX_PENDING_BYTES,
    MAX_PENDING_ROWS,
    SpoolWriter,
)
from apprentice_pipeline.store.unread import Counts, OnCounts, Reader, Stream, no_reader
from apprentice_pipeline.vault import Vault

T = TypeVar("T")
Waiter = asyncio.Future[None] | Future[None]


class RecordSink(Protocol):
    """Where records are handed over: a `Spool`, or a worker's `SpoolClient`."""

    on_counts: OnCounts
    """Is told what the exchanges that were handed over unread add to the counters."""

    @property
    def pending(self) -> int:
        """Records that wait for their commit."""
        ...

    def put(self, record: Record, *, tenant: str) -> Waiter:
        """Hands a record over; the future resolves once it is committed."""
        ...

    def put_row(self, row: PlainRow) -> Waiter:
        """The same for a record as bytes, or an exchange unread (`store.unread`)."""
        ...

    async def commit(self, record: Record, *, tenant: str) -> None:
        """Returns once the record is committed."""
        ...


def _ignore(_: object) -> None:
    """Nobody counts."""


@dataclass(slots=True)
class Waiting:
    """One record on its way to the disk, and who waits for it."""

    numbered: NumberedRow
    size: int
    loop: asyncio.AbstractEventLoop | None
    waiter: Waiter


class Spool:
    """One process's spool, open until closed. Safe across threads and event loops."""

    def __init__(
        self,
        folder: Path,
        vault: Vault,
        spool_id: str,
        lock: Lock,
        read: Reader = no_reader,
    ) -> None:
        self.spool_id = spool_id
        self.on_counts: OnCounts = _ignore
        self.failed = 0
        """Records that were refused or could not be committed."""
        self.damaged = 0
        """Times the file was found damaged or gone and begun anew."""
        self._folder = folder
        self._vault = vault
        self._lock = lock
        self._reader = read
        self._file_writer = self._writer_of(spool_id)
        self._numbers: Iterator[int] = itertools.count(1)
        self._queue: deque[Waiting] = deque()
        self._pending_rows = 0
        self._pending_bytes = 0
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where it is told what was recovered; None: where that is done."""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    @classmethod
    def open(cls, folder: Path, vault: Vault, *, read: Reader = no_reader) -> Spool:
        """A new spool in `folder`, which is made if need be; `read` reads unread exchanges.

        Raises: StorageFull, StoreError.
        """
        spool_id, lock = claim(folder)
        spool = cls(folder, vault, spool_id, lock, read)
        try:
            spool._file_writer.create()
        except BaseException:
            lock.release(remove=True)
            raise
        spool._thread.start()
        return spool

    @classmethod
    def resume(
        cls,
        folder: Path,
        vault: Vault,
        spool_id: str,
        lock: Lock,
        waiting: Iterable[Waiting],
        numbers: Iterator[int],
        read: Reader,
        on_counts: OnCounts,
        loop: asyncio.AbstractEventLoop | None,
    ) -> Spool:
        """The spool of another writer that died, and what waited for it, in order.

        What that writer had committed already is not committed again; what it had only taken in
        is made rows of at once. `numbers`: those that it gave to no record; one given twice would
        make the second record pass for the first. `on_counts` is told on `loop`.
        """
        spool = cls(folder, vault, spool_id, lock, read)
        spool.on_counts = on_counts
        spool._loop = loop
        spool._queue.extend(waiting)
        spool._pending_rows = len(spool._queue)
        spool._pending_bytes = sum(each.size for each in spool._queue)
        spool._numbers = numbers
        spool._thread.start()
        return spool

    @property
    def pending(self) -> int:
        """Records that wait for their commit."""
        return self._pending_rows

    @property
    def commits(self) -> int:
        """Transactions so far."""
        return self._file_writer.commits

    def put(self, record: Record, *, tenant: str) -> Waiter:
        """Hands a record over; the future resolves once it is committed.

        In an event loop the future is that loop's, elsewhere a `concurrent.futures.Future`. The
        record is read now: changing it later changes nothing. The future fails with StorageFull,
        StoreError or VaultError; a refusal because too much waits fails it at once.
        """
        return self._put(lambda: plain_row(record, tenant))

    def put_row(self, row: PlainRow) -> Waiter:
        """`put` of a record as bytes."""
        return self._put(lambda: row)

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
        _, lock = self.let_go()
        lock.release()

    def let_go(self) -> tuple[str, Lock]:
        """Commits what waits and closes the file; its id and lock are for another writer."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._file_writer.close()
        return self.spool_id, self._lock

    @property
    def place(self) -> tuple[str, Lock]:
        """The id of the file that is written now, and its lock."""
        return self.spool_id, self._lock

    def _put(self, make_row: Callable[[], PlainRow]) -> Waiter:
        loop = _running_loop()
        waiter = _own_future() if loop is None else loop.create_future()
        try:
            self._enqueue(make_row(), loop, waiter)
        except ApprenticeError as error:
            with self._changed:
                self.failed += 1
            resolve([(waiter, error)])
        return waiter

    def _enqueue(
        self, row: PlainRow, loop: asyncio.AbstractEventLoop | None, waiter: Waiter
    ) -> None:
        size = row.size
        with self._changed:
            if self._closing:
                raise StoreError("the spool is closed")
            refuse_overflow(self._pending_rows, self._pending_bytes + size)
            self._pending_rows += 1
            self._pending_bytes += size
            numbered = NumberedRow(next(self._numbers), row)
            self._queue.append(Waiting(numbered, size, loop, waiter))
            if len(self._queue) == 1:
                self._changed.notify()

    def _run(self) -> None:
        self._recover()
        while batch := self._next_batch():
            outcome, counts = self._write([waiting.numbered for waiting in batch])
            with self._changed:
                self._pending_rows -= len(batch)
                self._pending_bytes -= sum(each.size for each in batch)
                self.failed += sum(error is not None for error in outcome)
            self._tell(counts, batch[0].loop)
            _wake(batch, outcome)

    def _recover(self) -> None:
        """Of what a writer before had only taken in; where that fails, the next record's commit
        tries again."""
        with contextlib.suppress(ApprenticeError):
            try:
                self._file_writer.recover()
            except SpoolDamaged:
                self._begin_anew()
            except VaultError:  # it may never open: drains try on, and tell
                self._begin_anew(is_sound=True)
        self._tell(self._file_writer.recovered(), self._loop)

    def _tell(
        self, counts: Mapping[Stream, Counts], loop: asyncio.AbstractEventLoop | None
    ) -> None:
        if counts:  # where the loop is closed, whoever counts waits for this thread's end
            over = loop is None or loop.is_closed()
            _call(None if over else loop, self.on_counts, counts)

    def _next_batch(self) -> list[Waiting]:
        """Everything that waits, up to one commit's worth; empty once closed and done."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            count = min(len(self._queue), MAX_COMMIT_ROWS)
            return [self._queue.popleft() for _ in range(count)]

    def _write(self, batch: Sequence[NumberedRow]) -> Written:
        try:
            try:
                return self._file_writer.write(batch)
            except SpoolDamaged:
                self._begin_anew()
                return self._file_writer.write(batch)
        except ApprenticeError as error:
            return Written([error] * len(batch), {})

    def _begin_anew(self, *, is_sound: bool = False) -> None:
        """A new file under a new id; a damaged one is set aside, a sound one left to drains.

        Never a new file under an old id: its rows would have numbers that the lake passes over.
        """
        old = self._folder / f"{self.spool_id}.db"
        if not is_sound and old.exists():
            set_aside(old)
        spool_id, lock = claim(self._folder)
        self._lock.release(remove=True)
        self.spool_id, self._lock = spool_id, lock
        self._file_writer = self._writer_of(spool_id)
        self.damaged += not is_sound
        self._file_writer.create()

    def _writer_of(self, spool_id: str) -> SpoolWriter:
        return SpoolWriter(self._folder / f"{spool_id}.db", self._vault, self._reader)


def refuse_overflow(rows: int, size: int) -> None:
    """Raises: StoreError when `rows` wait already, or `size` bytes would with one more."""
    if rows >= MAX_PENDING_ROWS or (rows and size > MAX_PENDING_BYTES):
        raise StoreError(
            f"{rows} records wait for the disk already",
            remedy="the disk is too slow for this traffic: move APPRENTICE_HOME",
        )


def _own_future() -> Future[None]:
    """A future for a caller without a loop. Running from birth: nobody can cancel it meanwhile."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _wake(batch: Sequence[Waiting], outcome: Sequence[Exception | None]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[Waiter, Exception | None]]] = {}
    for waiting, error in zip(batch, outcome, strict=True):
        by_loop.setdefault(waiting.loop, []).append((waiting.waiter, error))
    for loop, outcomes in by_loop.items():
        _call(loop, resolve, outcomes)


def _call(loop: asyncio.AbstractEventLoop | None, told: Callable[[T], None], value: T) -> None:
    """Tells on the event loop of those who wait, here where they have none."""
    if loop is None:
        told(value)
    elif not loop.is_closed():
        with contextlib.suppress(RuntimeError):  # it closed just now: nobody waits any more
            loop.call_soon_threadsafe(told, value)


def resolve(outcomes: Iterable[tuple[Waiter, Exception | None]]) -> None:
    """Tells each waiter what became of its record, unless it waits no more."""
    for waiter, error in outcomes:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(_own(error))
            waiter.exception()  # counted here: an abandoned future need not complain again


def _own(error: Exception) -> Exception:
    """A copy for one waiter: a shared exception would gather the traceback of each."""
    if isinstance(error, ApprenticeError):
        return type(error)(error.message, remedy=error.remedy)
    return StoreError(f"the spool failed: {type(error).__name__}")
