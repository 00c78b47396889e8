"""A spool's writer as a process.

Belongs here: records from the worker's socket into the spool's file, acknowledgements back.
Does not: starting it (`spool_client`), what committing a batch means (`spool_writer`), reading an
exchange: the program that the client is told to start brings the reader (`gateway.writer`).
Promise: it leaves when its worker does, and commits first what the worker had handed over, even
if the worker was killed. It shares the worker's lock on the spool until then.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.store.handover import taken_over
from apprentice_pipeline.store.secrecy import keep_memory_private
from apprentice_pipeline.store.spool_file import SpoolDamaged
from apprentice_pipeline.store.spool_frames import READY, RecordReader, acknowledgement
from apprentice_pipeline.store.spool_writer import MAX_COMMIT_ROWS, NumberedRow, SpoolWriter
from apprentice_pipeline.store.unread import Reader, no_reader
from apprentice_pipeline.store.workspace import Workspace

_READ_BYTES = 1 << 20
_BATCH_BYTES = 16 << 20


def serve(descriptor: int, make_reader: Callable[[Config], Reader] | None = None) -> int:
    """Serves one worker. Returns the exit status; not 0 makes the worker write itself."""
    for number in (signal.SIGTERM, signal.SIGINT):  # it is the worker that is told to stop
        signal.signal(number, signal.SIG_IGN)
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
        gc.freeze()  # what start-up made lives as long as the process: never look at it again
        try:
            with contextlib.suppress(OSError):  # a worker that was killed is served all the same
                channel.sendall(READY)
            _serve(channel, writer)
        except SpoolDamaged:  # nothing of that batch is stored: the worker still has it
            return 1
        finally:
            writer.close()
            workspace.close()
    return 0


def _serve(channel: socket.socket, writer: SpoolWriter) -> None:
    """Batch after batch until the worker is gone and all it sent is committed."""
    reader, waiting = RecordReader(), list[NumberedRow]()
    while data := _received(channel):
        waiting += reader.feed(data)
        _gather(channel, reader, waiting)
        for start in range(0, len(waiting), MAX_COMMIT_ROWS):
            batch = waiting[start : start + MAX_COMMIT_ROWS]
            told = acknowledgement(batch, writer.write(batch))
            with contextlib.suppress(OSError):  # the worker is gone: the rest is still committed
                channel.sendall(told)
        waiting.clear()


def _gather(channel: socket.socket, reader: RecordReader, waiting: list[NumberedRow]) -> None:
    """What came while the last batch was written, up to a bound."""
    size = 0
    while len(waiting) < MAX_COMMIT_ROWS and size < _BATCH_BYTES:
        try:
            data = channel.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except OSError:  # nothing more for now, or the worker was killed: what waits is written
            return
        if not data:
            return
        size += len(data)
        waiting += reader.feed(data)


def _received(channel: socket.socket) -> bytes:
    """What the worker sent next; b"" once it is gone, if it was killed with our word unread too."""
    try:
        return channel.recv(_READ_BYTES)
    except OSError:
        return b""


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
