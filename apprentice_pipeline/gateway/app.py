"""The gateway's ASGI application.

Belongs here: putting the parts of one worker together, and sending captures past the framework.
Does not: any route's work. Nothing happens at import; the application opens its connections at
ASGI start-up and closes what it opened at shutdown (the workspace and spool are the caller's).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from apprentice_pipeline.gateway.access import Access
from apprentice_pipeline.gateway.allowance import Allowance
from apprentice_pipeline.gateway.capture import PREFIX, Captures
from apprentice_pipeline.gateway.guard import OVERSIZE
from apprentice_pipeline.gateway.local import Champions, LocalAnswers
from apprentice_pipeline.gateway.metrics import Metrics
from apprentice_pipeline.gateway.observing import OBSERVED, observer
from apprentice_pipeline.gateway.recording import Recorder
from apprentice_pipeline.gateway.refusals import refuse
from apprentice_pipeline.gateway.relay import Relay
from apprentice_pipeline.gateway.routes import ControlPlane
from apprentice_pipeline.gateway.tally import Tally
from apprentice_pipeline.gateway.tasks import Apprentices
from apprentice_pipeline.gateway.upstream import Upstream
from apprentice_pipeline.reading.calls import ExchangeReader
from apprentice_pipeline.reading.pricing import Pricing
from apprentice_pipeline.routing import Router
from apprentice_pipeline.store.loss_files import LossFile
from apprentice_pipeline.store.spool import RecordSink
from apprentice_pipeline.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Running:
    """What exists between ASGI start-up and shutdown."""

    captures: Captures
    upstream: Upstream
    tally: Tally
    background: tuple[asyncio.Task[None], ...]


class GatewayApp:
    """Captures go straight through; everything else goes to the control plane."""

    def __init__(
        self, workspace: Workspace, spool: RecordSink, make_router: Callable[[], Router] | None
    ) -> None:
        self._workspace = workspace
        self._spool = spool
        self._make_router = make_router
        self._router: Router | None = None
        config = workspace.config
        self._most_headers = config.gateway.max_headers
        self._observer = observer(config)
        self._metrics = Metrics()
        self._losses = LossFile.open(workspace.home.losses)
        self._tally = Tally(workspace.state, self._metrics, config.budget.timezone, self._losses)
        spool.on_counts = self._tally.take_in
        self._access = Access(workspace)
        self._apprentices = Apprentices(workspace.settings)
        self._control: ASGIApp = ControlPlane(
            workspace,
            self._access,
            self._tally,
            self._metrics,
            self._apprentices,
            lambda: spool.pending,
        ).application()
        self._running: Running | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3.0."""
        if self._observer is not None and scope["type"] == "http" and OBSERVED not in scope:
            await self._observer.observe(self, scope, receive, send)
        elif scope["type"] == "http":
            running = self._running
            if len(scope["headers"]) > self._most_headers or OVERSIZE in scope:
                await refuse(scope, send, 431, "the request's head is larger than this takes")
            elif running is not None and scope["path"].startswith(PREFIX):
                await running.captures(scope, receive, send)
            else:
                await self._control(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    def malformed(self) -> None:
        """Counts a request that was refused because it is not HTTP."""
        self._tally.add("", "", malformed=1)
        self._tally.alert("", "", "malformed_http", "requests that are not HTTP were refused")

    def was_waiting(self, refused: int) -> None:
        """Counts the requests that came before this application could be made."""
        self._tally.add("", "", refused_unready=refused)
        self._tally.alert("", "", "state_unreachable", "a worker waited for the state database")

    async def start(self) -> None:
        """Opens the connections and begins counting. Raises: what making a router does."""
        workspace, config = self._workspace, self._workspace.config
        champions, allowance = Champions(workspace.state), Allowance(workspace)
        if allowance.binding:
            await allowance.refresh()
        if self._make_router is not None:  # after it nothing fails: `close` need not know of it
            await champions.refresh()
            self._router = self._make_router()
        upstream = Upstream(config.remote.endpoints, config.gateway)
        timeout_s = config.gateway.commit_timeout_ms / 1_000
        recorder = Recorder(self._spool, self._tally, ExchangeReader.of(config), timeout_s)
        local: LocalAnswers | None = None
        if self._router is not None:
            pricing = Pricing(config.remote.prices)
            local = LocalAnswers(self._router, champions, upstream, recorder, pricing, self._tally)
        relay = Relay(recorder, self._tally, local, config.capture.max_bytes)
        captures = Captures(config, self._access, upstream, relay, self._tally, allowance, local)
        background = [self._tally.run()]
        if local is not None:
            background.append(champions.run())
        if allowance.binding:
            background.append(allowance.run())
        tasks = tuple(map(asyncio.create_task, background))
        self._running = Running(captures, upstream, self._tally, tasks)

    async def stop(self) -> None:
        """Closes what `start` opened and writes the last counts."""
        running, self._running = self._running, None
        if running is None:
            return
        await running.captures.ended()
        await self._apprentices.close()
        if self._router is not None:
            await self._router.close()
        for task in running.background:
            task.cancel()
        await asyncio.gather(*running.background, return_exceptions=True)
        await running.upstream.close()
        await running.tally.flush_aside()
        await asyncio.to_thread(self._close_observer)

    def close(self) -> None:
        """Lets go of what it was made with, started or not. The last counts are written: those
        that came with the spool's end."""
        self._tally.flush()
        if self._losses is not None:
            self._losses.close()
        self._access.close()
        self._close_observer()

    def _close_observer(self) -> None:
        closing, self._observer = self._observer, None
        if closing is not None:
            closing.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def create_app(
    workspace: Workspace, spool: RecordSink, make_router: Callable[[], Router] | None = None
) -> GatewayApp:
    """The application of one worker; `make_router` is called on its event loop, None means
    that nothing is ever answered locally.
    """
    return GatewayApp(workspace, spool, make_router)
