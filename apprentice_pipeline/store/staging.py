"""Records safe first, and rows as soon as there is time.

Belongs here: what waits between a spool's log and its rows, in which order, and when each step is
due. Does not: the log (`arrivals`), reading, sealing and committing (`spool_writer`), the socket
(`spool_process`).
Promise: what `take` tells of as committed survives a crash of the process and of the machine;
rows come in the order of their numbers; what waits here stands in the log, so that memory and disk
are bounded by it.

Whoever waits for a commit waits for one write of the log. To read and seal first would take
longer than the commit itself, and one transaction for many rows costs little more than for one.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.store.arrivals import Arrivals
from apprentice_pipeline.store.spool_file import BUSY_TIMEOUT_S, SpoolDamaged, StoredRow
from apprentice_pipeline.store.spool_frames import NumberedRow, Written
from apprentice_pipeline.store.spool_writer import SpoolWriter, counts_of
from apprentice_pipeline.store.unread import Counts, Stream, add_all
from apprentice_pipeline.vault import Vault

STEP_ROWS: Final = 8
"""Rows read and sealed at a time: a record that comes meanwhile waits about half a millisecond."""
COMMIT_ROWS: Final = 128
COMMIT_S: Final = 0.01
"""After so long without a record rows are committed, however few."""
MOST_TAKEN: Final = 512
"""Records that wait to be read; with more, each batch has twice as many read as it brings."""
REST_S: Final = 1.0
"""After so long without a record nothing is left in the log."""
PATIENCE_S: Final = 0.05
RETRY_S: Final = 0.1
"""For a lock of another process's, and between two tries: records are taken meanwhile."""


class Staging:
    """What one spool's writer has under way. Used by one thread."""

    def __init__(self, path: Path, vault: Vault, writer: SpoolWriter, *, ahead: bool) -> None:
        """`ahead`: whether records may stand in the log, unread as they are."""
        self._path = path
        self._vault = vault
        self._writer = writer
        self._ahead = ahead
        self._log: Arrivals | None = None
        self._taken: deque[NumberedRow] = deque()
        self._rows: list[StoredRow] = []
        self._read_until = 0
        self._counts: dict[Stream, dict[str, float]] = {}
        """What was read and is no row yet adds to the counters."""
        self._untold: dict[Stream, dict[str, float]] = {}
        """The same of rows that are committed: after a crash they are not read again."""
        self._retry_at = 0.0

    @property
    def wait_s(self) -> float | None:
        """How long to wait for the next record before `work`; None: until there is one."""
        if self._taken:
            return 0.0
        if self._rows or self._counts:
            return COMMIT_S
        return REST_S if self._log is not None and not self._log.is_empty else None

    def take(self, batch: Sequence[NumberedRow], frames: bytes | None = None) -> Written:
        """Commits a batch, to the log where that will do. Numbers rise from call to call.

        `frames`: the bytes that the batch came in, where they are at hand.
        Raises: SpoolDamaged, as `SpoolWriter.write`.
        """
        if self._append(batch, frames):
            return self._took(batch)
        failure = self.finish()
        if failure is not None:  # later rows before these would make these pass for stored
            return Written([failure] * len(batch), self._told())
        if self._log is not None:
            if self._log.is_deleted:
                self.close()
            else:
                self._log.restart()
            if self._append(batch, frames):
                return self._took(batch)
        written = self._writer.write(batch)
        add_all(written.counts, self._told())
        return written

    def work(self) -> Mapping[Stream, Counts]:
        """The next step, a short one. What rows have added to the counters goes with the
        acknowledgement that follows a commit (`take`); after a while without, it is returned.

        Raises: SpoolDamaged.
        """
        if self._taken:
            self._read(STEP_ROWS)
            if len(self._rows) >= COMMIT_ROWS:
                self._commit_soon()
            return {}
        if not self._rows and not self._counts:
            return self.rest()
        self._commit_soon()
        return self._told()

    def finish(self) -> Exception | None:
        """Makes rows of all that was taken; what fails is returned, and stays.

        Raises: SpoolDamaged.
        """
        self._read(len(self._taken))
        return self._commit() if self._read_until else None

    def rest(self) -> Mapping[Stream, Counts]:
        """As `finish`, and where that succeeds nothing is left in the log. What rows have added
        to the counters and nobody was told.

        Raises: SpoolDamaged.
        """
        if self._log is not None and self.finish() is None:
            with contextlib.suppress(OSError):
                self._log.empty()
        return self._told()

    def close(self) -> None:
        """Lets go of the log. Safe twice."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _append(self, batch: Sequence[NumberedRow], frames: bytes | None) -> bool:
        if not self._ahead:
            return False
        try:
            if self._log is None:
                self._writer.recover()
                add_all(self._untold, self._writer.recovered())
                self._log = Arrivals.open(self._path, self._vault)
            self._writer.refresh_keys(batch)
            return self._log.append(batch, frames)
        except SpoolDamaged:
            raise
        except ApprenticeError:  # each record is told its own, when it is written
            return False

    def _took(self, batch: Sequence[NumberedRow]) -> Written:
        self._taken.extend(batch)
        if len(self._taken) > MOST_TAKEN:
            self._read(2 * len(batch))
        return Written([None] * len(batch), self._told())

    def _read(self, most: int) -> None:
        batch = [self._taken.popleft() for _ in range(min(most, len(self._taken)))]
        if batch:
            rows, written = self._writer.sealed(batch)
            self._rows += rows
            self._read_until = batch[-1].seq
            add_all(self._counts, counts_of(batch, written))

    def _commit_soon(self) -> None:
        """Now, unless that failed a moment ago or somebody else has the file."""
        now = time.monotonic()
        if now >= self._retry_at and self._commit(patience_s=PATIENCE_S) is not None:
            self._retry_at = now + RETRY_S

    def _commit(self, patience_s: float = BUSY_TIMEOUT_S) -> Exception | None:
        failure = self._writer.commit(self._rows, until=self._read_until, patience_s=patience_s)
        if failure is None:
            self._rows.clear()
            add_all(self._untold, self._counts)
            self._counts = {}
        return failure

    def _told(self) -> dict[Stream, dict[str, float]]:
        if not self._untold:
            return {}
        told, self._untold = self._untold, {}
        return told
