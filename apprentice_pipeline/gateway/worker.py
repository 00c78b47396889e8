"""One gateway worker: `python -m apprentice_pipeline.gateway.worker`, started by the server.

Belongs here: opening what a worker needs, uvicorn, leaving when the server does. Does not:
the application (`app`). Orders come on standard input, which then stays open: its end means
that the server is gone.
"""

from __future__ import annotations

import gc
import socket
import sys
import threading
from typing import BinaryIO

import uvicorn

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.gateway.app import create_app
from apprentice_pipeline.gateway.orders import read_orders
from apprentice_pipeline.routing import Router
from apprentice_pipeline.serving.embedding import embedder
from apprentice_pipeline.serving.opening import open_backend
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.workspace import Workspace

GRACE_S = 15
KEEP_ALIVE_S = 75
SWITCH_S = 0.001
_COLLECT = (20_000, 20, 50)


def main(source: BinaryIO) -> int:
    """Serves until told to stop. Returns the exit status."""
    try:
        settings, descriptor = read_orders(source.readline())
        workspace = Workspace.open(settings)
        spool = Spool.open(workspace.home.spool, workspace.vault)
        backend = open_backend(workspace)
    except ApprenticeError as error:
        sys.stderr.write(f"gateway worker: {error.message}\n")
        return 1
    app = create_app(workspace, spool, lambda: Router(workspace, backend, spool, embed=embedder()))
    server = uvicorn.Server(_uvicorn_config(app))
    threading.Thread(target=_follow, args=(source, server), daemon=True).start()
    _quieten()
    server.run(sockets=[socket.socket(fileno=descriptor)])
    spool.close()
    workspace.close()
    return 0


def _uvicorn_config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="on",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="critical",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=None,
    )


def _follow(source: BinaryIO, server: uvicorn.Server) -> None:
    """Stops the server once the supervisor's end of the pipe is closed."""
    while source.read(1):
        continue
    server.should_exit = True


def _quieten() -> None:
    """What start-up made lives as long as the process: the collector need not look at it again.

    The spool's writer thread gives the interpreter back soon, so that it delays no response.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    sys.setswitchinterval(SWITCH_S)


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer))
