"""Rows of all that has arrived at a spool: by its writer where that lives, here where it is dead.

Belongs here: waiting for the one, having the other's log read, a spool for a log that has lost its
own. Does not: the log (`arrivals`), reading (who opens a spool brings the reader).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.store.arrivals import empty_log, newest_arrival, settle
from apprentice_pipeline.store.spool_file import LOG_SUFFIX, Lock, SpoolFile, mapping_errors

Recover = Callable[[Path], None]
"""Makes rows of what stands unread in the log of a dead worker's spool (`SpoolWriter.recover`)."""


def nothing_to_recover(path: Path) -> None:
    """For spools whose workers hand over nothing unread. Raises: StoreError."""
    raise StoreError(
        f"spool {path.stem} has exchanges that nobody has read yet",
        remedy="start the gateway, which reads them",
    )


def make_rows(path: Path, recover: Recover, *, orphaned: bool) -> bool:
    """Of all that has arrived until now at the spool at `path`; whether that is done.

    `orphaned`: its worker is dead, and its lock is the caller's.
    Raises: SpoolDamaged, StoreError, VaultError.
    """
    if not orphaned:
        return settle(path)
    if not settle(path, 0.0):
        recover(path)
    empty_log(path)
    return True


@contextmanager
def orphaned_or_not(path: Path) -> Iterator[bool]:
    """Whether the spool at `path` is orphaned: then it is the caller's in this block."""
    with mapping_errors():
        lock = Lock.take(path.with_suffix(".lock"))
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def gone_spools(folder: Path) -> list[Path]:
    """Spools of which only the log is there: somebody deleted them, or an earlier version that
    knew no logs; or they were damaged, and set aside."""
    paths = [log.with_suffix(".db") for log in sorted(folder.glob(f"*{LOG_SUFFIX}"))]
    return [path for path in paths if not path.exists()]


def revive(path: Path) -> None:
    """Makes a spool for a dead worker's log again, if there is something in it.

    Rows that had reached the lake are known there by their numbers.
    Raises: StorageFull, StoreError.
    """
    with orphaned_or_not(path) as orphaned:
        if not orphaned:  # its worker lives, and finds out
            return
        if newest_arrival(path):
            SpoolFile.open(path, create=True).close()
        else:
            with mapping_errors():
                path.with_suffix(LOG_SUFFIX).unlink(missing_ok=True)
