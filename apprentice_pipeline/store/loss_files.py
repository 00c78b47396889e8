"""Counts of what was not kept, where they outlive the process that counts.

Belongs here: a worker's file of them, the marks that tell what of it the state database has,
adding what dead workers left. Does not: what is a loss (`gateway.recording`), when sums are
written (`gateway.tally`).
Promise: what a worker counted before it was killed comes into the state database once, at
whatever instant it was killed, or who adds it. Counting here never fails, and waits for no disk.

A worker's sums wait in its memory for a second, and longer while the state database takes
nothing, as on a full disk. These few stand at once in a file besides, in the system's shared
memory: its folder outlives a server, but not the machine, or the container that has it. A
transaction that adds a worker's sums to the state database adds the same to marks, counters that
are named after the worker's file: what the file holds beyond its marks is not counted yet.
"""

from __future__ import annotations

import contextlib
import os
import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.store.journal import Place
from apprentice_pipeline.store.spool_file import Lock, claim

if TYPE_CHECKING:
    from apprentice_pipeline.store.state import State

NAMES: Final = ("lost", "at_risk")
_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a 0700 folder of its own, under a random name
_PREFIX: Final = "apprentice-losses"
_SLOT: Final = struct.Struct("=QQ240s")
"""The totals of `NAMES`, and their place. No slot lies on two pages: a write is all or nothing."""
_MOST_SLOTS: Final = 20_000


def make_folder(folder: Path) -> None:
    """Makes `folder` a link to one in memory, the same one from server to server; where that
    cannot be done there is none, and nothing is kept here."""
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            folder.symlink_to(_IN_MEMORY / f"{_PREFIX}-{uuid.uuid4().hex}")
        folder.readlink().mkdir(mode=0o700, exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Removes what `make_folder` made in memory, unless there is something in it."""
    with contextlib.suppress(OSError):
        folder.readlink().rmdir()


class LossFile:
    """One process's file. Lives on one event loop; `marks` is for any thread."""

    def __init__(self, file_id: str, lock: Lock) -> None:
        self._file_id = file_id
        self._lock = lock
        self._totals: dict[Place, list[int]] = {}
        self._slots: dict[Place, int] = {}
        self._is_closed = False

    @classmethod
    def open(cls, folder: Path) -> LossFile | None:
        """A new one, this process's until it dies; None where there is no folder for it."""
        if not folder.is_dir():
            return None
        try:
            return cls(*claim(folder))
        except StoreError:
            return None

    def add(self, place: Place, increments: Mapping[str, float]) -> None:
        """Adds what is a loss of `increments`. A total that finds no room comes with the next."""
        if "lost" not in increments and "at_risk" not in increments:  # as for almost every call
            return
        if self._is_closed:  # its descriptor may be another file's by now
            return
        totals = self._totals.get(place)
        if totals is None:
            if len(self._totals) >= _MOST_SLOTS:
                return
            totals = self._totals[place] = [0] * len(NAMES)
            self._slots[place] = len(self._slots)
        for at, name in enumerate(NAMES):
            totals[at] += int(increments.get(name, 0))
        slot = _SLOT.pack(*totals, "\0".join(place).encode())
        with contextlib.suppress(OSError):
            os.pwrite(self._lock.descriptor, slot, self._slots[place] * _SLOT.size)

    def close(self) -> None:
        """Lets go of it. What the counters may not have had of it yet is added later, as a dead
        process's. Safe twice."""
        if not self._is_closed:
            self._is_closed = True
            self._lock.release(remove=not self._totals)

    def marks(self, entries: Mapping[Place, Mapping[str, float]]) -> dict[Place, dict[str, float]]:
        """What is to be added to the counters in one transaction with `entries`."""
        return _marks(self._file_id, entries)


def add_left_over(folder: Path, state: State) -> None:
    """Adds to the counters what dead processes left, and removes their files.

    Raises: StoreError; what is left then can be added later.
    """
    for file in sorted(folder.glob("*.lock")):
        with _taken(file) as lock:
            if lock is not None:
                _add(file.stem, _content(lock), state)
                file.unlink(missing_ok=True)
                state.forget_counters(_mark(file.stem))


@contextlib.contextmanager
def _taken(file: Path) -> Iterator[Lock | None]:
    """The lock of a file whose process is dead."""
    try:
        lock = Lock.take(file)
    except OSError:
        lock = None
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()


def _add(file_id: str, content: bytes, state: State) -> None:
    entries: dict[Place, dict[str, float]] = {}
    for place, totals in _slots(content):
        tenant, namespace, day = place
        marked = state.counters(
            _mark(file_id), f"{tenant}.{namespace}", since_day=day, until_day=day
        )
        rest = {
            name: total - marked.get(name, 0) for name, total in zip(NAMES, totals, strict=True)
        }
        if rest := {name: value for name, value in rest.items() if value > 0}:
            entries[place] = rest
    state.count_all(entries | _marks(file_id, entries))
    for (tenant, namespace, _), rest in entries.items():
        if "lost" in rest:
            state.add_alert(tenant, namespace, "capture_failed", _UNTOLD, now_us=now_us())


def _slots(content: bytes) -> Iterator[tuple[Place, tuple[int, ...]]]:
    """Places and their totals; a slot that could not be written holds no place."""
    for *totals, place in _SLOT.iter_unpack(content[: len(content) // _SLOT.size * _SLOT.size]):
        if named := place.rstrip(b"\0"):
            tenant, namespace, day = named.decode().split("\0")
            yield (tenant, namespace, day), tuple(totals)


def _content(lock: Lock) -> bytes:
    return os.pread(lock.descriptor, _MOST_SLOTS * _SLOT.size, 0)


def _marks(
    file_id: str, entries: Mapping[Place, Mapping[str, float]]
) -> dict[Place, dict[str, float]]:
    found: dict[Place, dict[str, float]] = {}
    for (tenant, namespace, day), increments in entries.items():
        if losses := {name: increments[name] for name in NAMES if increments.get(name)}:
            found[_mark(file_id), f"{tenant}.{namespace}", day] = losses
    return found


def _mark(file_id: str) -> str:
    """In a tenant's place: no tenant's name begins so."""
    return f"~{file_id}"


_UNTOLD: Final = "exchanges could not be stored; their worker died before it told"
