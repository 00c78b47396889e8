"""The corpus over HTTP: JSON lines or Parquet, streamed, never in memory or on disk as a whole.

Belongs here: from `stages.export` to pieces of a response body. Does not: rows.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Full, Queue
from threading import Event

from starlette.concurrency import iterate_in_threadpool

from apprentice_pipeline.stages import export
from apprentice_pipeline.store.workspace import Workspace

PIECE = 1 << 16
MOST_WAITING = 16
CONTENT_TYPES = {
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}


async def pieces(workspace: Workspace, request: export.Request) -> AsyncIterator[bytes]:
    """The export, piece by piece. The first piece is made before this returns its first value.

    A reader that leaves in between costs the event loop nothing: what has to be closed, or waited
    for, is in a thread. Raises: UsageError for a bad time; StoreError, VaultError.
    """
    make = _parquet if request.form == "parquet" else _lines
    made = make(workspace, request)
    try:
        async for piece in iterate_in_threadpool(made):
            yield piece
    finally:
        threading.Thread(target=made.close, name="export-close", daemon=True).start()


def _lines(workspace: Workspace, request: export.Request) -> Generator[bytes]:
    waiting, size = [], 0
    for line in export.lines(workspace, request):
        waiting.append(line)
        size += len(line)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _parquet(workspace: Workspace, request: export.Request) -> Generator[bytes]:
    pipe = _Pipe()
    pool = ThreadPoolExecutor(1, thread_name_prefix="export")
    try:
        writing = pool.submit(_write, workspace, request, pipe)
        yield from pipe.pieces()
        writing.result()
    finally:
        pipe.abandon()
        pool.shutdown(wait=False)


def _write(workspace: Workspace, request: export.Request, pipe: _Pipe) -> None:
    try:
        export.write(workspace, request, pipe)  # type: ignore[arg-type]
    finally:
        pipe.finish()


class _Pipe:
    """What a writer in another thread writes, in bounded memory."""

    def __init__(self) -> None:
        self._queue: Queue[bytes] = Queue(MOST_WAITING)
        self._abandoned = Event()
        self._finished = Event()

    def write(self, data: bytes) -> int:
        """Raises: BrokenPipeError once nobody reads any more."""
        piece = bytes(data)
        while not self._abandoned.is_set():
            try:
                self._queue.put(piece, timeout=0.2)
            except Full:
                continue
            return len(piece)
        raise BrokenPipeError("nobody reads the export any more")

    def finish(self) -> None:
        self._finished.set()

    def abandon(self) -> None:
        self._abandoned.set()

    def pieces(self) -> Iterator[bytes]:
        while True:
            try:
                yield self._queue.get(timeout=0.05)
            except Empty:
                if self._finished.is_set() and self._queue.empty():
                    return


async def led_by(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`first`, then `rest`."""
    yield first
    async for piece in rest:
        yield piece
