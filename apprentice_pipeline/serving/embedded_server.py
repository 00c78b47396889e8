"""The embedded model server: one supervised process a node, behind a Unix socket.

    python -m apprentice_pipeline.serving.embedded_server --socket PATH

Belongs here: the life of the process: configuration, lock, socket, end. Does not: answering
(`engine`), starting it (`supervisor`), talking to it (`embedded`).

The configuration arrives as one line of JSON on standard input, which then stays open: its end,
or a change of parent, means the starter is gone, and the server leaves too. No customer text
and no secret is in an argument, the environment, a file or the log.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import importlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from apprentice_pipeline.errors import ApprenticeError, ServingError
from apprentice_pipeline.serving.engine import Engine
from apprentice_pipeline.serving.frames import private_folder
from apprentice_pipeline.serving.pace import Pace
from apprentice_pipeline.serving.shelf import Shelf, wipe_leftovers
from apprentice_pipeline.serving.waiting import WaitingRoom
from apprentice_pipeline.store.secrecy import keep_memory_private

_SLOW_TO_IMPORT = (
    "peft",
    "transformers.models.auto.modeling_auto",
    "model_signing.verifying",
    "apprentice_pipeline.artifact.kolm",
    "apprentice_pipeline.evaluate.student",
)
PARENT_CHECK_S = 1.0
LOCK_WAIT_S = 15.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server is started with; `threads` 0 leaves torch its own choice.

    `model_dir` holds further bases, by name.
    """

    base: str
    public_key: str
    scratch: str
    model_dir: str = ""
    queue_size: int = 64
    max_batch: int = 8
    max_adapters: int = 4
    threads: int = 0


async def _parent_gone(parent: int, stdin: asyncio.StreamReader) -> None:
    """Returns once standard input ended or this process was given another parent."""
    while os.getppid() == parent:
        try:
            if not await asyncio.wait_for(stdin.read(1), PARENT_CHECK_S):
                return
        except TimeoutError:
            continue


async def _stdin() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    return reader


async def serve(socket_path: Path) -> None:
    """Read the configuration, listen, answer until the parent is gone."""
    parent, stdin = os.getppid(), await _stdin()
    line = await stdin.readline()
    settings = ServerSettings(**orjson.loads(line))
    shelf = Shelf(
        base=settings.base,
        model_dir=settings.model_dir,
        public_key=settings.public_key.encode(),
        scratch=private_folder(Path(settings.scratch)),
        capacity=settings.max_adapters,
    )
    wipe_leftovers(Path(settings.scratch))
    await asyncio.to_thread(_prepare_torch, settings.threads)
    await _hold_lock(private_folder(socket_path.parent) / "server.lock")
    engine = Engine(shelf, WaitingRoom(settings.queue_size), Pace(settings.max_batch))
    listening = await asyncio.start_unix_server(engine.connected, sock=_bound(socket_path))
    generating = asyncio.ensure_future(engine.generate_forever())
    watching = asyncio.ensure_future(_parent_gone(parent, stdin))
    await asyncio.wait([generating, watching], return_when=asyncio.FIRST_COMPLETED)
    listening.close()
    _unlink(socket_path)
    wipe_leftovers(Path(settings.scratch))


def _bound(path: Path) -> socket.socket:
    """A socket at `path` that only our user may connect to; what is there is a dead server's."""
    _unlink(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    path.chmod(0o600)
    return bound


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _hold_lock(file: Path) -> None:
    """Wait until no other server of this home runs; the lock is held until this process ends.

    Raises: ServingError when another one stays.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    give_up = time.monotonic() + LOCK_WAIT_S
    while time.monotonic() < give_up:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(0.05)
    raise ServingError("another embedded server of this home is running")


def _prepare_torch(threads: int) -> None:
    """The slow imports, and quiet: libraries may not write to the log what they were given."""
    import warnings

    warnings.simplefilter("ignore")
    for name in _SLOW_TO_IMPORT:  # the first load would wait for them
        importlib.import_module(name)
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """The process. Leaves without waiting for a batch under way."""
    keep_memory_private()
    parser = argparse.ArgumentParser(prog="embedded_server", description="The embedded model.")
    parser.add_argument("--socket", type=Path, required=True)
    try:
        asyncio.run(serve(parser.parse_args(arguments).socket))
    except ApprenticeError as error:
        sys.stderr.write(f"embedded server: {error.message}. {error.remedy}\n")
    except Exception as error:  # the process edge: a traceback could quote its values
        sys.stderr.write(f"embedded server: {type(error).__name__}\n")
    else:
        sys.stderr.flush()
        os._exit(0)
    os._exit(1)


if __name__ == "__main__":
    main()
