"""A spool that could not be opened yet: what is handed over fails, until one can be.

Belongs here: failing records meanwhile, trying again, passing on from then on. Does not: any
spool's work (`spool_client`).
Promise: whoever hands a record over learns at once that it was not kept; nothing is held back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping

from apprentice_pipeline.errors import ApprenticeError, StoreError
from apprentice_pipeline.store.sealing import PlainRow, Record
from apprentice_pipeline.store.spool import Waiter, resolve
from apprentice_pipeline.store.spool_client import SpoolClient
from apprentice_pipeline.store.unread import Counts, OnCounts, Stream

RETRY_S = 1.0


class LateSpool:
    """A `spool.RecordSink` for one event loop; `error` is why there is no spool yet."""

    def __init__(
        self, open_spool: Callable[[], SpoolClient], error: StoreError, retry_s: float = RETRY_S
    ) -> None:
        self.on_counts: OnCounts = lambda _: None
        self.failed = 0
        """Records that came before there was a spool."""
        self._open_spool = open_spool
        self._error: ApprenticeError = error
        self._retry_s = retry_s
        self._spool: SpoolClient | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._try_again, name="late-spool", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Records that wait for their commit."""
        return self._spool.pending if self._spool is not None else 0

    @property
    def is_open(self) -> bool:
        """Whether records are kept by now."""
        return self._spool is not None

    def put(self, record: Record, *, tenant: str) -> Waiter:
        """See `RecordSink.put`."""
        spool = self._spool
        return self._refused() if spool is None else spool.put(record, tenant=tenant)

    def put_row(self, row: PlainRow) -> Waiter:
        """See `RecordSink.put_row`."""
        spool = self._spool
        return self._refused() if spool is None else spool.put_row(row)

    async def commit(self, record: Record, *, tenant: str) -> None:
        """See `RecordSink.commit`."""
        waiter = self.put(record, tenant=tenant)
        assert isinstance(waiter, asyncio.Future)
        await waiter

    def close(self) -> None:
        """Commits what waits, if there is a spool. For after the event loop's end."""
        self._closing.set()
        self._thread.join()
        if self._spool is not None:
            self._spool.close()

    def _refused(self) -> Waiter:
        self.failed += 1
        waiter: Waiter = asyncio.get_running_loop().create_future()
        resolve([(waiter, self._error)])
        return waiter

    def _try_again(self) -> None:
        while not self._closing.wait(self._retry_s):
            try:
                spool = self._open_spool()
            except ApprenticeError as error:
                self._error = error
                continue
            spool.on_counts = self._count
            self._spool = spool
            return

    def _count(self, counts: Mapping[Stream, Counts]) -> None:
        self.on_counts(counts)
