"""One gateway worker: `python -m apprentice_pipeline.gateway.worker`, started by the server.

Belongs here: opening what a worker needs, uvicorn, leaving when the server does. Does not:
the application (`app`). Orders come on standard input, which then stays open: its end means
that the server is gone.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
from dataclasses import dataclass
from typing import BinaryIO

import uvicorn

from apprentice_pipeline.errors import ApprenticeError, StoreError
from apprentice_pipeline.gateway.app import GatewayApp, create_app
from apprentice_pipeline.gateway.listening import server_config
from apprentice_pipeline.gateway.waiting import WaitingApp
from apprentice_pipeline.gateway.writer import PROGRAM
from apprentice_pipeline.reading.calls import ExchangeReader
from apprentice_pipeline.records import now_us
from apprentice_pipeline.routing import Router
from apprentice_pipeline.serving.embedding import embedder
from apprentice_pipeline.serving.opening import open_backend
from apprentice_pipeline.settings import Settings
from apprentice_pipeline.store.handover import taken_over
from apprentice_pipeline.store.late_spool import LateSpool
from apprentice_pipeline.store.secrecy import keep_memory_private
from apprentice_pipeline.store.spool_client import SpoolClient
from apprentice_pipeline.store.workspace import Workspace

SWITCH_S = 0.001
_COLLECT = (20_000, 20, 50)


def main(source: BinaryIO) -> int:
    """Serves until told to stop. Returns the exit status."""
    keep_memory_private()
    try:
        settings, orders = taken_over(source.readline())
        app = _application(settings)
        serving = app.app if isinstance(app, _Parts) else app
        server = uvicorn.Server(server_config(serving, settings.config.gateway, serving.malformed))
    except ApprenticeError as error:
        sys.stderr.write(f"gateway worker: {error.message}\n")
        return 1
    threading.Thread(target=_follow, args=(source, server), daemon=True).start()
    _quieten()
    server.run(sockets=[socket.socket(fileno=orders["descriptor"])])
    opened = app if isinstance(app, _Parts) else app.opened
    if opened is not None:
        opened.close()
    return 0


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a worker opens (`waiting.Opened`)."""

    workspace: Workspace
    spool: SpoolClient | LateSpool
    app: GatewayApp

    @classmethod
    def open(cls, settings: Settings) -> _Parts:
        """Raises: StoreError where the state database does not answer; ApprenticeError."""
        with contextlib.ExitStack() as failing:
            workspace = failing.enter_context(contextlib.closing(Workspace.open(settings)))
            spool = failing.enter_context(contextlib.closing(_open_spool(workspace)))
            backend = open_backend(workspace)

            def router() -> Router:
                return Router(workspace, backend, spool, embed=embedder())

            parts = cls(workspace, spool, create_app(workspace, spool, router))
            failing.pop_all()
        return parts

    def close(self) -> None:
        """The spool's records are committed first. What fails to close holds up nothing else."""
        with contextlib.ExitStack() as closing:
            closing.callback(self.workspace.close)
            closing.callback(self.app.close)
            closing.callback(self.spool.close)


def _application(settings: Settings) -> _Parts | WaitingApp:
    """The worker's parts; while the state database does not answer, what waits for it."""
    try:
        return _Parts.open(settings)
    except StoreError as error:
        return WaitingApp(lambda: _Parts.open(settings), error)


def _follow(source: BinaryIO, server: uvicorn.Server) -> None:
    """Stops the server once the supervisor's end of the pipe is closed."""
    while source.read(1):
        continue
    server.should_exit = True


def _open_spool(workspace: Workspace) -> SpoolClient | LateSpool:
    """The worker's spool; where none can be had now, one that comes later: calls go through."""

    def opened() -> SpoolClient:
        return SpoolClient.open(
            workspace,
            on_loss=lambda: _report_loss(workspace),
            program=PROGRAM,
            read=ExchangeReader.of(workspace.config),
        )

    try:
        return opened()
    except StoreError as error:
        sys.stderr.write(f"gateway worker: {error.message}; calls go through uncaptured\n")
        return LateSpool(opened, error)


def _report_loss(workspace: Workspace) -> None:
    """For the on-call person: capture goes on, slower, until there is another writer."""
    sys.stderr.write(
        "gateway worker: its spool writer died; the worker writes itself until a new one is ready\n"
    )
    with contextlib.suppress(ApprenticeError):
        workspace.state.add_alert(
            "",
            "",
            "spool_writer_lost",
            "a spool writer died; its worker writes until a new one is ready",
            now_us=now_us(),
        )


def _quieten() -> None:
    """What start-up made lives as long as the process: the collector need not look at it again.

    Other threads give the interpreter back soon, so that they delay no response.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    sys.setswitchinterval(SWITCH_S)


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer))
