"""A worker's end of its spool: the writer is a process of its own.

Belongs here: starting the writer, handing records over, waking those who wait, going on without
it. Does not: what the writer does (`spool_process`), bytes (`spool_frames`).

Reading, sealing and committing take the interpreter from an event loop that shares it; in another
process they take another core. Promises are the spool's (`spool`). When the writer dies, what it
had not acknowledged, and what follows, is written by a thread of this process under the same
numbers, so that nothing is lost or doubled, until a new writer is ready: then the thread commits
what it has and lets go, and what came meanwhile is the new one's. Both are counted
(`spool_writers_lost`, `spool_writers_started`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from apprentice_pipeline.errors import ApprenticeError, StoreError
from apprentice_pipeline.store.sealing import PlainRow, Record, plain_row
from apprentice_pipeline.store.spool import Spool, Waiter, Waiting, refuse_overflow, resolve
from apprentice_pipeline.store.spool_file import Lock, claim
from apprentice_pipeline.store.spool_frames import AcknowledgementReader, NumberedRow, record_frame
from apprentice_pipeline.store.spool_writer import SpoolWriter
from apprentice_pipeline.store.unread import OnCounts, Reader, no_reader
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.store.writer_start import (
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    Writer,
    WriterStart,
    start_writer,
)

PROGRAM = "apprentice_pipeline.store.spool_process"
_READ_BYTES = 1 << 16
_CLOSE_S = 20.0
_FIRST_READY_S = 10.0
"""How long opening waits for the writer: what it gets sooner may not be committed in time."""
_STEADY_S = 10.0
"""A writer that lived so long is followed by the next one soon."""
_MOST_UNDERWAY = 4
"""Batches handed over and not acknowledged; what comes meanwhile gathers here, for each hand-over
wakes another process, which costs more than it does."""


class SpoolClient:
    """One gateway worker's spool. All calls but `open` and `close` on one event loop."""

    def __init__(
        self,
        workspace: Workspace,
        spool_id: str,
        lock: Lock,
        writer: Writer,
        program: str,
        on_loss: Callable[[], None],
        read: Reader,
    ) -> None:
        self.on_counts: OnCounts = lambda _: None
        self._spool_id = spool_id
        self._workspace = workspace
        self._lock = lock
        self._channel: socket.socket | None = writer.channel
        self._writer = writer.process
        self._program = program
        self._on_loss = on_loss
        self._reader = read
        self._acknowledged = AcknowledgementReader()
        self._numbers = itertools.count(1)
        self._waiting: deque[Waiting] = deque()
        self._pending_bytes = 0
        self._failed = 0
        self._outgoing: list[bytes] = []
        self._underway: deque[int] = deque()
        self._unsent = memoryview(b"")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Spool | None = None
        self._takeover: threading.Thread | None = None
        """Brings about who writes next; what comes meanwhile waits here."""
        self._leaving: Spool | None = None
        """Who wrote, between `_hand_back` and `_adopt`."""
        self._next: Writer | None = None
        """Who will write, once it is ready and until `_adopt`."""
        self._start: WriterStart | None = None
        self._pause_s = FIRST_PAUSE_S / 2
        self._since = time.monotonic()
        self._closing = False

    @classmethod
    def open(
        cls,
        workspace: Workspace,
        on_loss: Callable[[], None] = lambda: None,
        *,
        program: str = PROGRAM,
        read: Reader = no_reader,
    ) -> SpoolClient:
        """A new spool of `workspace`, its writer ready. `on_loss`: the writer has died.

        `program` is the module that runs as the writer; `read` is the reader that it uses, for
        when it has died.
        Raises: StorageFull, StoreError.
        """
        spool_id, lock = claim(workspace.home.spool)
        path = workspace.home.spool / f"{spool_id}.db"
        try:
            file = SpoolWriter(path, workspace.vault)
            file.create()
            file.close()
            writer = start_writer(workspace, spool_id, lock, program)
        except BaseException:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            lock.release(remove=True)
            raise
        writer.is_ready(_FIRST_READY_S)  # else a thread writes in its stead, or it comes late
        return cls(workspace, spool_id, lock, writer, program, on_loss, read)

    @property
    def spool_id(self) -> str:
        """The id of the file that is written now."""
        return self._thread.spool_id if self._thread is not None else self._spool_id

    @property
    def pending(self) -> int:
        """Records that wait for their commit."""
        return len(self._waiting) + sum(each.pending for each in self._spools())

    @property
    def failed(self) -> int:
        """Records that were refused or could not be committed."""
        return self._failed + sum(each.failed for each in self._spools())

    @property
    def writer_pid(self) -> int | None:
        """The writer's process, None once it is gone."""
        return self._writer.pid if self._channel is not None else None

    def put(self, record: Record, *, tenant: str) -> Waiter:
        """See `Spool.put`; for a running event loop."""
        if self._thread is not None:
            return self._thread.put(record, tenant=tenant)
        try:
            row = plain_row(record, tenant)
        except ApprenticeError as error:
            return self._refused(error)
        return self.put_row(row)

    def put_row(self, row: PlainRow) -> Waiter:
        """See `Spool.put_row`; for a running event loop."""
        if self._thread is not None:
            return self._thread.put_row(row)
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        try:
            self._hand_over(row, loop, waiter)
        except ApprenticeError as error:
            return self._refused(error)
        return waiter

    async def commit(self, record: Record, *, tenant: str) -> None:
        """See `Spool.commit`."""
        waiter = self.put(record, tenant=tenant)
        assert isinstance(waiter, asyncio.Future)
        await waiter

    def close(self) -> None:
        """Waits until the writer has committed everything. For after the event loop's end."""
        self._closing = True
        if self._start is not None:
            self._start.stop()
        if self._channel is not None:
            self._channel.setblocking(True)
            with contextlib.suppress(OSError):
                self._channel.sendall(b"".join((self._unsent, *self._outgoing)))
                self._channel.shutdown(socket.SHUT_WR)
            self._finish()
        if self._takeover is not None:
            self._takeover.join(_CLOSE_S)
            if self._next is not None:
                self._next.end()
                self._next = None
            if self._leaving is None or not self._takeover.is_alive():  # never two at a time
                self._take_over()
        if self._thread is not None:
            self._thread.close()

    def _spools(self) -> Iterator[Spool]:
        return filter(None, (self._thread, self._leaving))

    def _refused(self, error: ApprenticeError) -> Waiter:
        self._failed += 1
        waiter: Waiter = asyncio.get_running_loop().create_future()
        resolve([(waiter, error)])
        return waiter

    def _hand_over(
        self, row: PlainRow, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]
    ) -> None:
        if self._channel is None and self._takeover is None:
            raise StoreError("the spool is closed")
        size = row.size
        refuse_overflow(len(self._waiting), self._pending_bytes + size)
        numbered = NumberedRow(next(self._numbers), row)
        self._waiting.append(Waiting(numbered, size, loop, waiter))
        self._pending_bytes += size
        if self._channel is None:  # it waits for the thread that takes over
            return
        if not self._outgoing and len(self._underway) < _MOST_UNDERWAY:
            loop.call_soon(self._send)
        self._outgoing.append(record_frame(numbered))
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self._channel, self._receive)

    def _send(self) -> None:
        """What gathered since the last time, in one call."""
        if self._channel is None or self._loop is None:
            return
        had_rest = bool(self._unsent)
        if self._outgoing and not had_rest:
            self._unsent = memoryview(b"".join(self._outgoing))
            self._outgoing.clear()
            self._underway.append(self._waiting[-1].numbered.seq)
        try:
            sent = self._channel.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._receive()  # what it said last
            self._lose_writer()
            return
        self._unsent = self._unsent[sent:]
        if self._unsent and not had_rest:
            self._loop.add_writer(self._channel, self._send)
        elif had_rest and not self._unsent:
            self._loop.remove_writer(self._channel)
            if self._outgoing:
                self._loop.call_soon(self._send)

    def _receive(self) -> None:
        if self._channel is None:
            return
        try:
            data = self._channel.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose_writer()
            return
        for newest, failed, counts in self._acknowledged.feed(data):
            if counts:
                self.on_counts(counts)
            self._decide(newest, failed)
            while self._underway and self._underway[0] <= newest:
                self._underway.popleft()
        if self._outgoing and len(self._underway) < _MOST_UNDERWAY:
            self._send()

    def _decide(self, newest: int, failed: Mapping[int, Exception]) -> None:
        """Everything up to `newest` is committed, or failed."""
        self._failed += len(failed)
        while self._waiting and self._waiting[0].numbered.seq <= newest:
            done = self._waiting.popleft()
            self._pending_bytes -= done.size
            waiter = done.waiter
            if failed or waiter.done():
                resolve([(waiter, failed.get(done.numbered.seq))])
            else:
                waiter.set_result(None)

    def _lose_writer(self) -> None:
        """A thread of this process writes, until there is another writer."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        steady = time.monotonic() - self._since > _STEADY_S
        self._pause_s = FIRST_PAUSE_S if steady else min(2 * self._pause_s, LAST_PAUSE_S)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(channel)
            self._loop.remove_writer(channel)
        channel.close()
        self._writer.kill()  # no second writer: it may live, and only its socket be broken
        self._outgoing.clear()
        self._unsent = memoryview(b"")
        self._takeover = threading.Thread(target=self._outlive_writer, daemon=True)
        self._takeover.start()

    def _outlive_writer(self) -> None:
        """Waits for the writer's end, and tells: neither is for the event loop's time."""
        self._writer.wait()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed: `close` takes over
                self._loop.call_soon_threadsafe(self._take_over)
        self._on_loss()

    def _take_over(self) -> None:
        """What waits, and what comes, is for a thread of this process."""
        if self._thread is not None:
            return
        self._thread = Spool.resume(
            self._workspace.home.spool,
            self._workspace.vault,
            self._spool_id,
            self._lock,
            self._waiting,
            self._numbers,
            self._reader,
            self.on_counts,
            self._loop,
        )
        self._waiting.clear()
        self._pending_bytes = 0
        if self._loop is not None and not self._closing:
            self.on_counts({("", ""): {"spool_writers_lost": 1}})
            self._start = WriterStart(self._launch, self._pause_s, self._is_ready)

    def _launch(self) -> Writer:
        spool_id, lock = self._thread.place if self._thread else (self._spool_id, self._lock)
        return start_writer(self._workspace, spool_id, lock, self._program)

    def _is_ready(self, writer: Writer) -> None:
        """Called in the thread that started it."""
        assert self._loop is not None
        self._next = writer
        with contextlib.suppress(RuntimeError):  # the loop is closed: `close` ends it
            self._loop.call_soon_threadsafe(self._hand_back)

    def _hand_back(self) -> None:
        """The thread is to let go, which takes as long as the disk; what comes waits here."""
        self._leaving, self._thread = self._thread, None
        self._takeover = threading.Thread(target=self._outlive_thread, daemon=True)
        self._takeover.start()

    def _outlive_thread(self) -> None:
        assert self._leaving is not None
        assert self._loop is not None
        self._spool_id, self._lock = self._leaving.let_go()
        with contextlib.suppress(RuntimeError):  # the loop is closed: `close` goes on from here
            self._loop.call_soon_threadsafe(self._adopt)

    def _adopt(self) -> None:
        """What waits, and what comes, is for the new writer."""
        leaving, writer, loop = self._leaving, self._next, self._loop
        assert leaving is not None
        assert writer is not None
        assert loop is not None
        self._failed += leaving.failed
        self._leaving = self._next = None
        if writer.spool_id != self._spool_id:  # the thread had to begin another file meanwhile
            threading.Thread(target=writer.end, daemon=True).start()
            self._take_over()
            return
        self._channel, self._writer, self._since = writer.channel, writer.process, time.monotonic()
        self._acknowledged = AcknowledgementReader()
        self._underway.clear()
        self._outgoing = [record_frame(each.numbered) for each in self._waiting]
        self._takeover = None
        loop.add_reader(writer.channel, self._receive)
        self._send()
        self.on_counts({("", ""): {"spool_writers_started": 1}})

    def _finish(self) -> None:
        """Reads what the writer says last. What it leaves open, a thread writes."""
        assert self._channel is not None
        self._channel.settimeout(_CLOSE_S)
        with contextlib.suppress(OSError):
            while data := self._channel.recv(_READ_BYTES):
                for newest, _, counts in self._acknowledged.feed(data):
                    self.on_counts(counts)
                    while self._waiting and self._waiting[0].numbered.seq <= newest:
                        self._waiting.popleft()
        if self._waiting:
            self._loop = None
            self._lose_writer()
            return
        self._channel.close()
        self._channel = None
        self._writer.wait()
        self._lock.release()
