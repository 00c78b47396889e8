"""One number under the home that rises whenever a key changes.

Belongs here: the number, shared by every process of the node through a mapped file. Does not:
keys, or what a process forgets when the number rises (`gateway.access`).
Promise: a reader that looks after `advance` has returned sees a new number; a look costs no
system call. Processes of other nodes do not see it: they go by how long they may remember.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

from apprentice_pipeline.errors import StoreError

_SIZE = 8


class KeyChanges:
    """The number of one home. Reading is for any thread, also while another process advances."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: memoryview[int] | None = None

    def number(self) -> int:
        """How often a key has changed. Raises: StoreError when the file cannot be made or read."""
        if self._seen is None:
            self._seen = self._mapped()
        return self._seen[0]

    def advance(self) -> None:
        """Says that a key has changed. Raises: StoreError; then others notice by time alone."""
        try:
            descriptor = self._opened()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                number = int.from_bytes(os.pread(descriptor, _SIZE, 0), "little")
                os.pwrite(descriptor, (number + 1).to_bytes(_SIZE, "little"), 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Lets go of the file. Safe twice."""
        self._seen = None

    def _opened(self) -> int:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(descriptor).st_size < _SIZE:
            self._begin(descriptor)
        return descriptor

    def _begin(self, descriptor: int) -> None:
        """Writes the first number: reading a mapped hole on a full disk would end the process."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size < _SIZE:
                os.pwrite(descriptor, bytes(_SIZE), 0)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except OSError:
            os.close(descriptor)
            raise

    def _mapped(self) -> memoryview[int]:
        try:
            descriptor = self._opened()
            try:
                mapped = mmap.mmap(descriptor, _SIZE, prot=mmap.PROT_READ)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._failure(error) from None
        return memoryview(mapped).cast("Q")

    def _failure(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._file.name} cannot be used: {error.strerror}",
            remedy="running gateways notice the change within gateway.key_cache_s; check the "
            "permissions of APPRENTICE_HOME/run",
        )
