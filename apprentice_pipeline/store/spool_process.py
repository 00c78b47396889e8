"""A spool's writer as a process.

Belongs here: records from the worker's socket into the spool, acknowledgements back. Does not:
starting it (`spool_client`), in which steps a record is stored (`staging`), reading an exchange:
the program that the client is told to start brings the reader (`gateway.writer`).
Promise: it leaves when its worker does, and commits first what the worker had handed over, even
if the worker was killed. It shares the worker's lock on the spool until then.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.store.handover import taken_over
from apprentice_pipeline.store.secrecy import keep_memory_private
from apprentice_pipeline.store.spool_file import SpoolDamaged
from apprentice_pipeline.store.spool_frames import (
    READY,
    NumberedRow,
    RecordReader,
    acknowledgement,
    later_counts,
)
from apprentice_pipeline.store.spool_writer import MAX_COMMIT_ROWS, SpoolWriter
from apprentice_pipeline.store.staging import Staging
from apprentice_pipeline.store.unread import Counts, Reader, Stream, no_reader
from apprentice_pipeline.store.workspace import Workspace

_READ_BYTES: Final = 1 << 16
"""A buffer this small comes from memory at hand, a larger one from the kernel at each read."""
_MOST_READS: Final = 16
_NICE: Final = 5
"""Rows can wait a little, calls cannot: on busy cores the worker and who talks to it go first."""


def serve(descriptor: int, make_reader: Callable[[Config], Reader] | None = None) -> int:
    """Serves one worker. Returns the exit status; not 0 makes the worker write itself."""
    for number in (signal.SIGTERM, signal.SIGINT):  # it is the worker that is told to stop
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    keep_memory_private()
    with socket.socket(fileno=descriptor) as channel:
        settings, more = taken_over(_line(channel))
        try:
            workspace = Workspace.open(settings)
        except ApprenticeError as error:
            sys.stderr.write(f"spool writer: {error.message}\n")
            return 1
        path = workspace.home.spool / f"{more['spool_id']}.db"
        read = make_reader(settings.config) if make_reader is not None else no_reader
        writer = SpoolWriter(path, workspace.vault, read)
        ahead = not settings.config.capture.redaction  # what is never kept is in no log either
        staging = Staging(path, workspace.vault, writer, ahead=ahead)
        gc.freeze()  # what start-up made lives as long as the process: never look at it again
        try:
            with contextlib.suppress(OSError):  # a worker that was killed is served all the same
                channel.sendall(READY)
            _serve(channel, staging)
        except SpoolDamaged:  # nothing of that batch is stored: the worker still has it
            return 1
        finally:
            staging.close()
            writer.close()
            workspace.close()
    return 0


def _serve(channel: socket.socket, staging: Staging) -> None:
    """Batch after batch until the worker is gone and all it sent is committed."""
    incoming, reader = Incoming(channel), RecordReader()
    while (data := incoming.next(staging.wait_s)) != b"":
        if data is None:
            told = _later(staging.work())
        else:
            arrived = reader.feed(data)
            told = _taken(staging, arrived, reader.frames())
        _tell(channel, told)
    _tell(channel, _later(staging.rest()))  # a worker that closes reads to the end


def _taken(staging: Staging, arrived: Sequence[NumberedRow], frames: bytes) -> bytes:
    """Has records committed, and what is to be said of them."""
    of_batch = frames if len(arrived) <= MAX_COMMIT_ROWS else None
    batches = (
        arrived[start : start + MAX_COMMIT_ROWS]
        for start in range(0, len(arrived), MAX_COMMIT_ROWS)
    )
    return b"".join(acknowledgement(batch, staging.take(batch, of_batch)) for batch in batches)


def _later(counts: Mapping[Stream, Counts]) -> bytes:
    return later_counts(counts) if counts else b""


def _tell(channel: socket.socket, told: bytes) -> None:
    if told:
        with contextlib.suppress(OSError):  # the worker is gone: the rest is still committed
            channel.sendall(told)


class Incoming:
    """What the worker sends, waited for as long as is due."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._wait_s: float | None = None

    def next(self, wait_s: float | None) -> bytes | None:
        """What came next; None when nothing did in that time (None: there is no limit); b"" once
        the worker is gone, if it was killed with our word unread too."""
        try:
            if wait_s == 0:
                data = self._channel.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            else:
                self._set(wait_s)
                data = self._channel.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        return data if len(data) < _READ_BYTES else self._with_more(data)

    def _with_more(self, data: bytes) -> bytes:
        """And what came behind it: the more there is in a batch, the less each record costs. An
        end is found when nothing else is left to read."""
        parts = [data]
        with contextlib.suppress(OSError):
            while len(parts[-1]) == _READ_BYTES and len(parts) < _MOST_READS:
                parts.append(self._channel.recv(_READ_BYTES, socket.MSG_DONTWAIT))
        return b"".join(parts)

    def _set(self, wait_s: float | None) -> None:
        """The kernel keeps the time: a timeout of Python's own costs three more calls of it."""
        if wait_s == self._wait_s:
            return
        seconds = wait_s or 0.0  # 0 is for ever
        whole = int(seconds)
        timeout = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._wait_s = wait_s


def _line(channel: socket.socket) -> bytes:
    """The first line; what follows it stays in the socket."""
    line = b""
    while not line.endswith(b"\n"):
        ahead = channel.recv(1 << 16, socket.MSG_PEEK)
        if not ahead:
            sys.exit(1)
        line += channel.recv(ahead.find(b"\n") + 1 or len(ahead))
    return line


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1])))
