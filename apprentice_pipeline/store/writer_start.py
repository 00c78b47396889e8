"""A new writer process for a spool whose writer died, while a thread writes.

Belongs here: starting it, waiting for its word that it is ready, trying again after longer and
longer pauses. Does not: who writes when (`spool_client`), what the process does (`spool_process`).
Promise: nothing here is for the event loop's time; once `stop` has returned no process is left
that was not handed on.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from apprentice_pipeline.errors import ApprenticeError, StoreError
from apprentice_pipeline.store.handover import handed_over
from apprentice_pipeline.store.spool_file import Lock
from apprentice_pipeline.store.spool_frames import READY
from apprentice_pipeline.store.workspace import Workspace

FIRST_PAUSE_S, LAST_PAUSE_S = 0.25, 30.0
_READY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer process and the socket to it; it writes the spool of that id."""

    spool_id: str
    channel: socket.socket
    process: subprocess.Popen[bytes]

    def is_ready(self, seconds: float) -> bool:
        """Waits that long for its word, and tells whether it came; the socket blocks no more."""
        try:
            self.channel.settimeout(seconds)
            return _received(self.channel)
        except OSError:
            return False
        finally:
            self.channel.setblocking(False)

    def end(self) -> None:
        """Ends it. What it was not handed it cannot lose."""
        self.channel.close()
        self.process.kill()
        self.process.wait()


def start_writer(workspace: Workspace, spool_id: str, lock: Lock, program: str) -> Writer:
    """A new writer of that spool. Raises: StoreError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            writer = subprocess.Popen(
                [sys.executable, "-m", program, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), lock.descriptor],
            )
        except OSError as error:
            ours.close()
            raise StoreError(f"the spool's writer does not start: {error.strerror}") from None
    with contextlib.suppress(OSError):  # it is dead already, which its socket tells
        ours.sendall(handed_over(workspace.settings, spool_id=spool_id))
    return Writer(spool_id, ours, writer)


class WriterStart:
    """Tries until a process is ready; `on_ready` gets it, in a thread of this object's own."""

    def __init__(
        self, start: Callable[[], Writer], pause_s: float, on_ready: Callable[[Writer], None]
    ) -> None:
        self._start = start
        self._pause_s = pause_s
        self._on_ready = on_ready
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._starting: Writer | None = None
        self._thread = threading.Thread(target=self._run, name="writer-start", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Gives up, and ends a process that was not handed on."""
        self._stopping.set()
        with self._lock:
            if self._starting is not None:
                self._starting.process.kill()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._pause_s):
            self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)
            try:
                writer = self._start()
            except (ApprenticeError, OSError):  # no process can be had now
                continue
            if self._is_ready(writer):
                self._on_ready(writer)
                return
            writer.end()

    def _is_ready(self, writer: Writer) -> bool:
        with self._lock:
            if self._stopping.is_set():
                return False
            self._starting = writer
        ready = writer.is_ready(_READY_S)
        with self._lock:
            self._starting = None
            return ready and not self._stopping.is_set()


def _received(channel: socket.socket) -> bool:
    """Whether its word came whole. Raises: OSError."""
    word = b""
    while len(word) < len(READY):
        data = channel.recv(len(READY) - len(word))
        if not data:
            return False
        word += data
    return word == READY
