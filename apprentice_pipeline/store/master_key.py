"""The master key: where it is kept, whether it is the right one, and replacing it.

Belongs here: the key file, the comparison with the mark in the state database, the steps of a
rotation. Does not: wrapping (`vault`), the table (`data_keys`).
Promises: a key file is made only where nothing was ever sealed; a missing or wrong key is an
error with its remedy, never a new key and never another one than the one given. A rotation that
is cut at any step leaves a home that opens, with the key file or the key that was in force: the
new file lies on the disk before the data keys are re-wrapped in one transaction, and takes its
place afterwards, at the latest when the home is next opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from apprentice_pipeline.errors import CannotOpen, KeyMissing, MasterKeyChanged, StoreError
from apprentice_pipeline.store.data_keys import DataKeys, master_key_changed
from apprentice_pipeline.vault import MasterKey

FILE: Final = "master.key"
DRAFT: Final = "master.key.next"
STEPS: Final = ("drafted", "rewrapped", "settled")
"""Names handed to `on_step`, in the order of a rotation; without a file there is no draft."""
_LOOKS: Final = 3


def load_master_key(
    given: bytes | None, folder: Path, keys: DataKeys, *, has_data: bool
) -> MasterKey:
    """The master key in force: `given`, else the 0600 file in `folder`, made at first start.

    `has_data`: sealed rows are known to exist. Processes that start at once agree: the first to
    link its file wins.
    Raises: KeyMissing where the file is gone, unreadable or no key; MasterKeyChanged where the
    key is not the one that wraps the data keys.
    """
    for _ in range(_LOOKS):  # a rotation may come between the two looks
        mark = keys.mark()
        if given is not None:
            found = MasterKey(given)
        else:
            unused = mark is None and not has_data and keys.some_key() is None
            found = _from_file(folder, mark, may_create=unused)
        if mark is None:
            _check_unmarked(found, keys)
            return found
        if found.mark == mark:
            return found
    if given is not None and mark in _marks_of_files(folder):
        raise MasterKeyChanged(
            "APPRENTICE_MASTER_KEY is not the key of this home",
            remedy="unset it: the key file of this home is the one in force",
        )
    raise master_key_changed()


def rotate_master_key(
    current: MasterKey,
    folder: Path,
    keys: DataKeys,
    *,
    new: bytes | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> int:
    """Re-wraps every data key by `new`, else by a new key in the key file; returns how many.

    With `new` the caller keeps the key, and the old key's file goes. `on_step` is told each step
    as it is done (see `STEPS`). Rows are not touched.
    Raises: MasterKeyChanged when `current` is not the key in force; StoreError.
    """
    with _alone(folder), _mapping_errors(folder):
        if keys.mark() not in (None, current.mark):  # the draft may be the key in force
            raise master_key_changed()
        fresh = secrets.token_bytes(32) if new is None else new
        successor = MasterKey(fresh)
        if new is None:
            _write_new(folder / DRAFT, fresh)
            on_step("drafted")
        done = keys.rewrap(
            current.mark,
            successor.mark,
            lambda tenant, version, wrapped: successor.wrap(
                tenant, version, current.unwrap(tenant, version, wrapped)
            ),
        )
        on_step("rewrapped")
        if new is None:
            _settle(folder)
        else:
            (folder / FILE).unlink(missing_ok=True)
            _flush_folder(folder)
        on_step("settled")
    return done


def _from_file(folder: Path, mark: str | None, *, may_create: bool) -> MasterKey:
    draft, file = folder / DRAFT, folder / FILE
    if mark is not None and draft.exists():
        with contextlib.suppress(KeyMissing):  # half-written: that rotation changed nothing
            if _read(draft).mark == mark:
                _settle(folder)
    if not file.exists():
        if not may_create:
            raise KeyMissing(
                f"the master key of this home is missing: there is no {file}",
                remedy="restore the file, or set APPRENTICE_MASTER_KEY; without it nothing that "
                "is sealed opens",
            )
        _create(file)
    return _read(file)


def _check_unmarked(found: MasterKey, keys: DataKeys) -> None:
    """A home without a mark: unused, or made before there were marks."""
    known = keys.some_key()
    if known is None:
        return
    try:
        found.unwrap(*known)
    except CannotOpen:
        raise master_key_changed() from None
    keys.claim(found.mark)


def _marks_of_files(folder: Path) -> set[str]:
    marks = set()
    for name in (FILE, DRAFT):
        with contextlib.suppress(KeyMissing):
            marks.add(_read(folder / name).mark)
    return marks


def _read(file: Path) -> MasterKey:
    try:
        key = file.read_bytes()
    except OSError as error:
        raise KeyMissing(f"cannot read {file}: {error.strerror}") from None
    if len(key) != 32:
        raise KeyMissing(
            f"{file} is not a 32-byte key", remedy="restore it; without it nothing sealed opens"
        )
    return MasterKey(key)


def _create(file: Path) -> None:
    """The first key file; another process's, where that was quicker."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        _write_new(draft, secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def _write_new(file: Path, key: bytes) -> None:
    """`file` with `key`, mode 0600, on the disk when this returns; replaces what stood there."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(key)
        handle.flush()
        os.fsync(handle.fileno())
    _flush_folder(file.parent)


def _settle(folder: Path) -> None:
    """The draft in the file's place; another process may have put it there already."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder / DRAFT, folder / FILE)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One rotation at a time; a second waits."""
    with _mapping_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / ".rotation", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _mapping_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            f"the key file in {folder} cannot be written: {error.strerror}",
            remedy="free space on that disk" if full else "check the folder's permissions",
        ) from None
