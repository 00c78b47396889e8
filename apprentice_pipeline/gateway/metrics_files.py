"""Where the metrics of several processes live, so that a full disk cannot end a process.

Belongs here: choosing their folder, taking the space of a file before it is mapped. Does not:
what the files say (`metrics`, the client library).

The library maps its files into memory. Touching a page of a mapped file for which the disk has no
room kills the process (SIGBUS), so the files are in memory where the system has a folder for that,
and everywhere their space is taken with a write, which can fail and be noticed, before it is used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
import threading
from pathlib import Path

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a 0700 folder of its own in it
_PREFIX = "apprentice-metrics"
_FIRST_BYTES = 1 << 16
_MARGIN = 1 << 14
"""More than one series takes: labels are bounded, and so is what a metric says of itself."""
_USED = struct.Struct("i")


def make_folder(run: Path) -> Path:
    """A new 0700 folder for this server's metrics: in memory, else in `run`.

    Folders that dead servers of this system left are removed. Raises: OSError.
    """
    here = _process_space()
    for place in (_IN_MEMORY, run):
        _remove_left_over(place, here)
    name = f"{_PREFIX}-{here}-{os.getpid()}-"
    with contextlib.suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix=name, dir=_IN_MEMORY))
        try:
            _make(folder / "trial")
            (folder / "trial").unlink()
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder
    return Path(tempfile.mkdtemp(prefix=name, dir=run))


class Room:
    """The space that one process's files have for certain. Safe across threads."""

    def __init__(self, folder: Path) -> None:
        self._counters = folder / f"counter_{os.getpid()}.db"
        self._histograms = folder / f"histogram_{os.getpid()}.db"
        self._lock = threading.Lock()

    def reserve(self) -> bool:
        """Takes what the files begin with; False where there is no room. Before they are used."""
        try:
            for file in (self._counters, self._histograms):
                if not file.exists():
                    _make(file)
        except OSError:
            return False
        return True

    def for_one_more(self) -> bool:
        """Whether there is room for another counter; takes it where need be.

        The library doubles a file that is full: the second half is there before it does.
        """
        try:
            with self._lock:
                self._grow_when_full()
        except OSError:
            return False
        return True

    def _grow_when_full(self) -> None:
        size = self._counters.stat().st_size
        with self._counters.open("rb", buffering=0) as file:
            (used,) = _USED.unpack(file.read(_USED.size))
        if size - used < _MARGIN:
            _take_space(self._counters, size, 2 * size)


def _make(file: Path) -> None:
    """A new file of zeros; nobody reads a shorter one meanwhile. Raises: OSError."""
    part = file.with_suffix(".part")
    try:
        _take_space(part, 0, _FIRST_BYTES)
        part.rename(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _take_space(file: Path, begin: int, end: int) -> None:
    """Writes zeros from `begin` to `end`, all or none. Raises: OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        done = begin
        while done < end:
            done += os.pwrite(descriptor, bytes(end - done), done)
    except OSError:
        os.ftruncate(descriptor, begin)
        raise
    finally:
        os.close(descriptor)


def _process_space() -> str:
    """Where process ids mean what they mean here: containers may share a folder."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "0"


def _remove_left_over(place: Path, here: str) -> None:
    for old in place.glob(f"{_PREFIX}-{here}-*"):
        pid = old.name.removeprefix(f"{_PREFIX}-{here}-").partition("-")[0]
        if not _alive(pid):
            shutil.rmtree(old, ignore_errors=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
