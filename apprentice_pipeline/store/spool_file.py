"""One spool on disk: its SQLite file, and the locks that say who may touch it.

Belongs here: names, locks, statements of a spool. Does not: threads and futures (`spool`), the
lake (`drain`).

A spool `<id>` is `<id>.db` (rows), `<id>.arrivals` (what has come and is no row yet, see
`arrivals`), `<id>.lock` (held by its worker while it lives) and `<id>.drain` (held by whoever
drains it). A row's `seq` is never used twice, even after the file was emptied: the lake remembers
the newest that it holds.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from apprentice_pipeline.errors import StorageFull, StoreError
from apprentice_pipeline.store.private import make_private
from apprentice_pipeline.store.sealing import SealedRow

BUSY_TIMEOUT_S: Final = 10.0
LOG_SUFFIX: Final = ".arrivals"
MAX_READ_BYTES: Final = 64 * 1024 * 1024
_ASIDE: Final = ".damaged-"
_LONG_LOG: Final = 32 * 1024 * 1024
_SMALL_DISK: Final = 1024 * 1024 * 1024
_TRIM: Final = "DELETE FROM rows WHERE seq <= ? AND kind = ? AND tenant = ?"
_TRIM_ROWS: Final = 128
_BREATH_S: Final = 0.002
"""Longer than SQLite sleeps before it tries a lock again the first time (1 ms)."""
_CHECKPOINT_PAGES: Final = 32_768
"""Pages of write-ahead log at which a commit itself would move them into the file: 128 MB, which
drains seconds apart keep it from reaching (`checkpoint`)."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS rows (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, tenant TEXT NOT NULL, namespace TEXT NOT NULL, pair_id TEXT NOT NULL,
    facts BLOB NOT NULL, first BLOB, second BLOB, dedup_key BLOB
);
CREATE TABLE IF NOT EXISTS rejected (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL, tenant TEXT NOT NULL, namespace TEXT NOT NULL, pair_id TEXT NOT NULL,
    facts BLOB NOT NULL, first BLOB, second BLOB, dedup_key BLOB
);
"""
_COLUMNS: Final = "kind, tenant, namespace, pair_id, facts, first, second, dedup_key"
_MOST_A_STATEMENT: Final = 64
"""Rows a statement: each one lets go of the interpreter lock, and a commit of few rows is one."""
_READ: Final = f"SELECT seq, {_COLUMNS} FROM rows WHERE seq > ? AND seq <= ? ORDER BY seq"  # noqa: S608
_OWNED: Final = (
    "tenant = :tenant AND (:namespace IS NULL OR namespace = :namespace)"
    " AND (:ids IS NULL OR pair_id IN (SELECT value FROM json_each(:ids)))"
)
_LAST: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'rows'"
_STANDING: Final = f"SELECT (SELECT count(*) FROM rows), ({_LAST})"  # noqa: S608
_COUNT_CAPTURES: Final = f"SELECT count(*) FROM rows WHERE kind = 'captures' AND {_OWNED}"  # noqa: S608
_OWNED_IDS: Final = (
    f"SELECT pair_id FROM rows WHERE {_OWNED} UNION SELECT pair_id FROM rejected WHERE {_OWNED}"  # noqa: S608
)
_ERASE: Final = tuple(f"DELETE FROM {table} WHERE {_OWNED}" for table in ("rows", "rejected"))  # noqa: S608
_CANNOT_GROW: Final = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,  # what a quota or a limit on file sizes looks like
    sqlite3.SQLITE_IOERR_SHMSIZE,
)
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SpoolDamaged(StoreError):
    """The spool's file is not a sound SQLite database any more."""


class StoredRow(NamedTuple):
    """A sealed row with its place in the spool."""

    seq: int
    row: SealedRow


class Lock:
    """An exclusive lock on a file, held until released or until the process dies."""

    def __init__(self, file: Path, descriptor: int) -> None:
        self._file = file
        self._descriptor = descriptor

    @classmethod
    def take(cls, file: Path) -> Lock | None:
        """The lock, None while somebody else holds it. Raises: OSError."""
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if not _is_same(file, descriptor):  # removed between open and lock: not the lock any more
            os.close(descriptor)
            return None
        return cls(file, descriptor)

    @property
    def descriptor(self) -> int:
        """The descriptor that holds the lock; a process that inherits it holds it too."""
        return self._descriptor

    def release(self, *, remove: bool = False) -> None:
        """Lets go; with `remove` the file goes first, still under the lock."""
        if remove:
            self._file.unlink(missing_ok=True)
        os.close(self._descriptor)


class SpoolFile:
    """The rows of one spool, open. One connection, used by one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._patience_s = BUSY_TIMEOUT_S

    @classmethod
    def open(cls, path: Path, *, create: bool = False, durable: bool = True) -> SpoolFile:
        """Opens the file; makes it with `create`.

        What is written through a file that is not `durable` may be undone by a crash of the
        machine: for what would then only be done again.
        Raises: StorageFull, SpoolDamaged, StoreError.
        """
        with mapping_errors():
            if create:
                make_private(path)
            path.stat()  # says more clearly than SQLite why it cannot be opened
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
                connection.executescript(_SCHEMA)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def append(self, rows: Sequence[StoredRow], *, until: int = 0) -> None:
        """Commits all rows or none, under numbers above `last_number`.

        Numbers up to `until` that no row has are never used. Raises: StorageFull, SpoolDamaged,
        StoreError.
        """
        skipped = until > (rows[-1].seq if rows else 0)
        if len(rows) <= _MOST_A_STATEMENT and not skipped:  # a statement alone is a transaction
            with mapping_errors():
                self._insert(rows)
            return
        with self._write():
            for start in range(0, len(rows), _MOST_A_STATEMENT):
                self._insert(rows[start : start + _MOST_A_STATEMENT])
            if skipped:
                self._note(until)

    def set_patience(self, seconds: float) -> None:
        """How long to wait for a lock that somebody else holds, before it is a StoreError."""
        if seconds != self._patience_s:
            with mapping_errors():
                self._connection.execute(f"PRAGMA busy_timeout={seconds * 1_000:.0f}")
            self._patience_s = seconds

    def read(self, after: int, until: int, limit: int) -> list[StoredRow]:
        """Up to `limit` rows (and about 64 MB) with `after` < seq ≤ `until`, in order."""
        found: list[StoredRow] = []
        size = 0
        with mapping_errors():
            cursor = self._connection.execute(_READ, (after, until))
            try:
                for seq, *columns in cursor:
                    row = SealedRow._make(columns)
                    found.append(StoredRow(seq, row))
                    size += len(row.facts) + len(row.first or b"") + len(row.second or b"")
                    if len(found) >= limit or size >= MAX_READ_BYTES:
                        break
            finally:
                cursor.close()
        return found

    def newest(self) -> int:
        """The newest seq, 0 when there is no row."""
        return self._number("SELECT coalesce(max(seq), 0) FROM rows")

    def last_number(self) -> int:
        """The newest seq that was ever used, trimmed rows among them; 0 in a new file."""
        return self._number(_LAST)

    def standing(self) -> tuple[int, int]:
        """Rows that wait for a drain, and `last_number`, at one moment."""
        with mapping_errors():
            count, last = self._connection.execute(_STANDING).fetchone()
        return int(count), int(last)

    def is_empty(self) -> bool:
        """Whether neither a row nor a rejected row is left."""
        rows = "EXISTS (SELECT 1 FROM rows) OR EXISTS (SELECT 1 FROM rejected)"
        return not self._number(f"SELECT {rows}")

    def trim(self, kind: str, tenant: str, seqs: Sequence[int]) -> None:
        """Deletes the rows of a kind and tenant up to the last of `seqs`, which rise.

        A few at a time, with a breath between: a writer waits for none of them, nor for all.
        """
        for end in range(_TRIM_ROWS, len(seqs) + _TRIM_ROWS, _TRIM_ROWS):
            if end > _TRIM_ROWS:
                time.sleep(_BREATH_S)
            with self._write():
                self._connection.execute(_TRIM, (seqs[min(end, len(seqs)) - 1], kind, tenant))

    def reject(self, seqs: Sequence[int]) -> None:
        """Sets rows aside that fit no table, so that they hold nobody up and are not lost."""
        with self._write():
            for seq in seqs:
                self._connection.execute(
                    f"INSERT INTO rejected SELECT seq, {_COLUMNS} FROM rows WHERE seq = ?",  # noqa: S608
                    (seq,),
                )
                self._connection.execute("DELETE FROM rows WHERE seq = ?", (seq,))

    def erase(
        self,
        tenant: str,
        namespace: str | None,
        pair_ids: Sequence[str] | None,
        erased: set[str] | None = None,
    ) -> int:
        """Deletes rows of a tenant; returns how many captures. `erased` gets the pairs' ids.

        Then writes the file anew, so that neither they nor what earlier trims left behind can
        be found in it.
        """
        values = {
            "tenant": tenant,
            "namespace": namespace,
            "ids": None if pair_ids is None else json.dumps(list(pair_ids)),
        }
        with self._write():
            gone = int(self._connection.execute(_COUNT_CAPTURES, values).fetchone()[0])
            if erased is not None:
                erased.update(each for (each,) in self._connection.execute(_OWNED_IDS, values))
            for statement in _ERASE:
                self._connection.execute(statement, values)
        with mapping_errors():
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return gone

    def log_is_due(self, *, idle: bool) -> bool:
        """Whether to `checkpoint` now: the log is long, room is short, or nobody waits."""
        try:
            size = os.stat(f"{self.path}-wal").st_size
            disk = os.statvfs(self.path)
        except OSError:
            return False
        tight = disk.f_bavail * disk.f_frsize < _SMALL_DISK
        return size > _LONG_LOG or (size > 0 and (idle or tight))

    def checkpoint(self) -> None:
        """Moves the write-ahead log into the file, most of it beside a writer that goes on.

        The log then begins anew at its own beginning: a commit overwrites it, and syncs faster
        than one that makes a file grow. A writer who commits just then is waited for next time.
        """
        with mapping_errors():
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def owned(
        self, tenant: str, namespace: str | None, pair_ids: Sequence[str] | None
    ) -> tuple[int, set[str]]:
        """What `erase` would delete now: how many captures, and the pairs' ids."""
        values = {
            "tenant": tenant,
            "namespace": namespace,
            "ids": None if pair_ids is None else json.dumps(list(pair_ids)),
        }
        with mapping_errors():
            captures = int(self._connection.execute(_COUNT_CAPTURES, values).fetchone()[0])
            return captures, {each for (each,) in self._connection.execute(_OWNED_IDS, values)}

    def close(self) -> None:
        """Closes the connection. Safe to call twice."""
        self._connection.close()

    def _insert(self, rows: Sequence[StoredRow]) -> None:
        if rows:
            values = [value for seq, row in rows for value in (seq, *row)]
            self._connection.execute(_insert(len(rows)), values)

    def _note(self, number: int) -> None:
        noted = self._connection.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'rows'", (number,)
        )
        if not noted.rowcount:
            self._connection.execute("INSERT INTO sqlite_sequence VALUES ('rows', ?)", (number,))

    def _number(self, query: str) -> int:
        with mapping_errors():
            return int(self._connection.execute(query).fetchone()[0])

    @contextmanager
    def _write(self) -> Iterator[None]:
        with mapping_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def mapping_errors() -> Iterator[None]:
    """SQLite's and the file system's errors leave as StorageFull, SpoolDamaged or StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if code in _CANNOT_GROW:
            raise _full() from None
        if code & 0xFF in _DAMAGED:
            raise SpoolDamaged(f"a spool file is damaged ({name})") from None
        raise StoreError(f"the spool failed: {name}", remedy=_REMEDY) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full() from None
        raise StoreError(f"the spool failed: {error.strerror}", remedy=_REMEDY) from None


def claim(folder: Path) -> tuple[str, Lock]:
    """A new spool id and the lock that shows its worker lives. Raises: StorageFull, StoreError."""
    with mapping_errors():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            spool_id = uuid.uuid4().hex
            lock = Lock.take(folder / f"{spool_id}.lock")
            if lock is not None:
                return spool_id, lock


def set_aside(path: Path) -> Path:
    """Renames a damaged spool file, with its journal, out of the way; returns its new name.

    What its log holds can still be read, and stays (`recovery.revive`).
    """
    aside = path.with_name(f"{path.name}{_ASIDE}{time.time_ns() // 1_000_000}")
    with mapping_errors():
        for suffix in ("-wal", "-shm", ""):
            source = path.with_name(path.name + suffix)
            if source.exists():
                source.rename(aside.with_name(aside.name + suffix))
    return aside


def files_aside(folder: Path) -> list[Path]:
    """The files in `folder` that were set aside, journals among them."""
    return sorted(folder.glob(f"*{_ASIDE}*"))


def remove_files(path: Path) -> None:
    """Deletes a spool whose rows are safe elsewhere. Its database goes last, for it is what
    names the spool. Raises: OSError."""
    path.with_suffix(LOG_SUFFIX).unlink(missing_ok=True)
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@functools.cache
def _insert(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?)"] * rows)
    return f"INSERT INTO rows (seq, {_COLUMNS}) VALUES {values}"  # noqa: S608


def _full() -> StorageFull:
    return StorageFull(
        "the spool cannot grow: its disk is full, or over its quota",
        remedy="free space under APPRENTICE_HOME/spool",
    )


def _is_same(file: Path, descriptor: int) -> bool:
    try:
        there = os.stat(file)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


_REMEDY: Final = "check the disk under APPRENTICE_HOME/spool"
