"""What a spool's writer has taken in and not yet made rows of: a write-ahead log, sealed.

Belongs here: entries to bytes and back, appending one durably, what a crash left, emptying.
Does not: reading an exchange (`spool_writer`), when to do which (`staging`).
Promise: an entry that was appended survives a crash of the process and of the machine; nothing
readable reaches the disk.

`<spool>.arrivals` is entry after entry from the start, each `crc(4) | length(4) | newest(8) |
rows(4)` and then `length` bytes: sealed parts, one a tenant, each `tenant length(1) | tenant |
length(4) | sealed record frames`. `newest` is the entry's last number in the spool. Numbers rise
from entry to entry: the first that does not rise, or does not check, is the end, and what follows
it is of an earlier round or was never acknowledged. Rows up to the spool's last number are in the
spool; the rest are still to be read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from apprentice_pipeline.errors import CannotOpen, KeyErased, StoreError
from apprentice_pipeline.store.private import make_private
from apprentice_pipeline.store.spool_file import LOG_SUFFIX, SpoolFile, mapping_errors
from apprentice_pipeline.store.spool_frames import NumberedRow, RecordReader, record_frame
from apprentice_pipeline.vault import Vault

MOST_BYTES: Final = 8 * 1024 * 1024
MOST_ENTRY_BYTES: Final = 2 * 1024 * 1024
"""More than this at once is better written once, as rows, than twice."""
SETTLE_S: Final = 2.0
MOST_TRIES: Final = 5
_TRIES_SUFFIX: Final = ".tries"
_ASIDE: Final = ".unread-"
_LOOK_AGAIN_S: Final = 0.002
_HEAD: Final = struct.Struct(">IIQI")
_CHECKED: Final = struct.Struct(">IQI")
_SIZE: Final = struct.Struct(">I")
_FIELD: Final = "arrivals"


class Entry(NamedTuple):
    """One entry as it stands in the log, sealed."""

    newest: int
    rows: int
    body: bytes


class Unread(NamedTuple):
    """What an entry holds, opened: up to `newest`, with what its tenants took their keys with left
    out."""

    newest: int
    rows: list[NumberedRow]


class Arrivals:
    """One spool's log, open. Used by one thread of one process at a time."""

    def __init__(self, path: Path, vault: Vault, descriptor: int) -> None:
        self._spool_id = path.stem
        self._vault = vault
        self._descriptor = descriptor
        self._at = 0
        self._broken = False

    @classmethod
    def open(cls, path: Path, vault: Vault) -> Arrivals:
        """The log of the spool at `path`; made if need be. The next entry is its first.

        Raises: StorageFull, StoreError.
        """
        log = path.with_suffix(LOG_SUFFIX)
        with mapping_errors():
            make_private(log)
            _sync_folder(log.parent)
            descriptor = os.open(log, os.O_RDWR | os.O_CLOEXEC)
        return cls(path, vault, descriptor)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it, not even what has become rows."""
        return os.fstat(self._descriptor).st_size == 0

    @property
    def is_deleted(self) -> bool:
        """Whether the file is gone: nobody will find what is appended to it."""
        return os.fstat(self._descriptor).st_nlink == 0

    def append(self, batch: Sequence[NumberedRow], frames: bytes | None = None) -> bool:
        """Makes a batch durable; False where it has no room, or cannot be written just now, or
        the log is not what it was: then what stands in it is to be made rows of, and it to be
        begun anew.

        Numbers rise from call to call. `frames`: the batch as bytes, where it came as such.
        Raises: VaultError, and StoreError from the key store.
        """
        if self._broken or sum(each.row.size for each in batch) > MOST_ENTRY_BYTES:
            return False
        entry = _entry(self._vault, self._spool_id, batch, frames)
        if self._at + len(entry) > MOST_BYTES:
            return False
        try:
            with _alone(self._descriptor):
                found = os.fstat(self._descriptor)
                if found.st_size < self._at or not found.st_nlink:  # by an erasure, or by hand
                    return False
                try:
                    _write(self._descriptor, entry, self._at)
                    self._sync()
                except OSError:  # not told as stored: then it should not come back either
                    os.ftruncate(self._descriptor, self._at)
                    raise
        except OSError:
            return False
        self._at += len(entry)
        return True

    def restart(self) -> None:
        """All of it is in the spool, durably: the next entry takes the place of the first."""
        self._at = 0

    def empty(self) -> None:
        """As `restart`, and leaves nothing of it behind. Raises: OSError."""
        os.ftruncate(self._descriptor, 0)
        self._at = 0

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)

    def _sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            if error.errno != errno.ENOSPC:  # what a later sync says would be of no worth
                self._broken = True
            raise


def entries(path: Path) -> Iterator[Entry]:
    """The entries in the log of the spool at `path`, as far as they go on. Raises: OSError."""
    return _entries_in(path.with_suffix(LOG_SUFFIX))


def _entries_in(log: Path) -> Iterator[Entry]:
    try:
        file = log.open("rb")
    except FileNotFoundError:
        return
    with file:
        newest = 0
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            crc, length, number, rows = _HEAD.unpack(head)
            if number <= newest or length > MOST_BYTES:
                return
            body = file.read(length)
            if crc != zlib.crc32(body, zlib.crc32(head[_SIZE.size :])):
                return
            newest = number
            yield Entry(number, rows, body)


def newest_arrival(path: Path) -> int:
    """The newest number in the log of the spool at `path`; 0 when there is none."""
    with mapping_errors():
        return max((entry.newest for entry in entries(path)), default=0)


def arrived_rows(path: Path) -> Callable[[int], int]:
    """Tells how many rows the log of the spool at `path` has now above a number."""
    with mapping_errors():
        found = [(entry.newest, entry.rows) for entry in entries(path)]
    return lambda after: sum(
        min(rows, newest - after) for newest, rows in found if newest > after
    )  # the numbers of an entry are without gaps


def settle(path: Path, limit_s: float = SETTLE_S) -> bool:
    """Waits until the spool at `path` has rows of all that is in its log now; whether it has.

    For a spool whose writer lives. Raises: SpoolDamaged, StoreError.
    """
    newest, limit = newest_arrival(path), time.monotonic() + limit_s
    if not newest:
        return True
    with contextlib.closing(SpoolFile.open(path)) as file:
        while file.last_number() < newest:
            if time.monotonic() > limit:
                return False
            time.sleep(_LOOK_AGAIN_S)
    return True


def unread_batches(path: Path, vault: Vault, after: int) -> Iterator[Unread]:
    """What the log of the spool at `path` has above the number `after`, an entry at a time.

    Raises: KeyMissing, StoreError; CannotOpen when it is not this spool's.
    """
    with mapping_errors():
        for entry in entries(path):
            if entry.newest <= after:
                continue
            rows = _opened(vault, path.stem, entry)
            rows = sorted((row for row in rows if row.seq > after), key=lambda each: each.seq)
            yield Unread(entry.newest, rows)


@contextmanager
def tried(path: Path) -> Iterator[int]:
    """How often it was tried before to read the log of the spool at `path`, and never ended.

    A record of which a reader dies (of too little memory, or of a fault in a library) would
    otherwise take with it every worker and every drain that meets it. Raises: OSError as
    StoreError.
    """
    marks = path.with_suffix(_TRIES_SUFFIX)
    if not newest_arrival(path):
        yield 0
        return
    with mapping_errors():
        times = marks.stat().st_size if marks.exists() else 0
        make_private(marks)
        with marks.open("ab") as file:
            file.write(b".")
    try:
        yield times
    finally:
        with mapping_errors():
            marks.unlink(missing_ok=True)


def set_log_aside(path: Path) -> None:
    """Renames the log of the spool at `path`, so that nobody reads it any more. What stands
    behind its entries is of the time before it began anew, and in the spool: that goes."""
    log = path.with_suffix(LOG_SUFFIX)
    with mapping_errors():
        with log.open("r+b") as file:
            file.truncate(sum(map(_size, _entries_in(log))))
            os.fsync(file.fileno())
        log.rename(log.with_name(f"{log.name}{_ASIDE}{time.time_ns() // 1_000_000}"))


def rows_aside(log: Path, vault: Vault, tenant: str) -> Iterator[NumberedRow]:
    """A tenant's records in a log that `set_log_aside` renamed, unread as they are; none once
    the tenant is erased. Raises: StoreError; CannotOpen where there is more in it, KeyMissing."""
    end = 0
    with mapping_errors():
        for entry in _entries_in(log):
            yield from _opened(vault, log.name.partition(".")[0], entry, tenant)
            end += _size(entry)
        if log.stat().st_size > end:
            raise CannotOpen("a log goes on behind its entries")


def logs_aside(folder: Path) -> list[Path]:
    """The logs in `folder` that were set aside."""
    return sorted(folder.glob(f"*{LOG_SUFFIX}{_ASIDE}*"))


def empty_log(path: Path) -> None:
    """Leaves nothing in the log of the spool at `path`, once the spool has rows of all of it.

    A writer that lives does without the log meanwhile, and begins it anew.
    Raises: SpoolDamaged; StoreError where its writer does not get on.
    """
    with mapping_errors(), contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path.with_suffix(LOG_SUFFIX), os.O_RDWR | os.O_CLOEXEC)
        try:
            if not _becomes_ours(descriptor) or not settle(path):
                raise StoreError(
                    "a spool's writer does not get on with what has arrived",
                    remedy="look whether the disk under APPRENTICE_HOME is slow, then do it again",
                )
            os.ftruncate(descriptor, 0)
            os.fsync(descriptor)  # a crash of the machine does not bring it back
        finally:
            os.close(descriptor)


def _entry(
    vault: Vault, spool_id: str, batch: Sequence[NumberedRow], frames: bytes | None
) -> bytes:
    newest, parts = batch[-1].seq, list[bytes]()
    for tenant, records in _by_tenant(batch, frames).items():
        sealed = vault.seal_transient(
            records, tenant=tenant, place=f"{spool_id}/{newest}", field=_FIELD
        )
        name = tenant.encode()
        parts += (bytes((len(name),)), name, _SIZE.pack(len(sealed)), sealed)
    body = b"".join(parts)
    checked = _CHECKED.pack(len(body), newest, len(batch))
    return b"".join((_SIZE.pack(zlib.crc32(body, zlib.crc32(checked))), checked, body))


def _by_tenant(batch: Sequence[NumberedRow], frames: bytes | None) -> dict[str, bytes]:
    """The records of each tenant as bytes: those that came, where all are of one."""
    tenants = {each.row.tenant for each in batch}
    if frames is not None and len(tenants) == 1:
        return {tenants.pop(): frames}
    parts: dict[str, list[bytes]] = {}
    for each in batch:
        parts.setdefault(each.row.tenant, []).append(record_frame(each))
    return {tenant: b"".join(records) for tenant, records in parts.items()}


def _size(entry: Entry) -> int:
    """Its bytes in the log."""
    return _HEAD.size + len(entry.body)


def _opened(
    vault: Vault, spool_id: str, entry: Entry, wanted: str | None = None
) -> list[NumberedRow]:
    """The records of an entry, or one tenant's of them. Raises: CannotOpen, KeyMissing."""
    body, at, found = entry.body, 0, list[NumberedRow]()
    while at < len(body):
        start = at + 1 + body[at]
        tenant = body[at + 1 : start].decode()
        (length,) = _SIZE.unpack_from(body, start)
        at = start + _SIZE.size + length
        if wanted not in (None, tenant):
            continue
        with contextlib.suppress(KeyErased):
            frames = vault.open(
                body[start + _SIZE.size : at],
                tenant=tenant,
                namespace="",
                pair_id=f"{spool_id}/{entry.newest}",
                field=_FIELD,
            )
            found += RecordReader().feed(frames)
    return found


def _write(descriptor: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """While no erasure empties the log. Raises: BlockingIOError while one does."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _becomes_ours(descriptor: int) -> bool:
    """Waits for `_alone`'s lock; False where whoever has it does not let go."""
    limit = time.monotonic() + SETTLE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > limit:
                return False
            time.sleep(_LOOK_AGAIN_S)
        else:
            return True


def _sync_folder(folder: Path) -> None:
    """A file made just now is found again after a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
