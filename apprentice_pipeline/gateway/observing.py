"""What is told of each request to those who watch: facts about it, never what is in it.

Belongs here: watching a request pass, and the facts there are when it is over. Does not: what is
done with them (`access_log`, `telemetry`), counting (`tally`). Promise: nothing of this exists
while nobody watches; a watcher neither delays nor fails a request, and sees no header, no query,
no body, and of the path only which endpoint it names.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apprentice_pipeline.config import Config
from apprentice_pipeline.records import Exchange

if TYPE_CHECKING:
    from apprentice_pipeline.gateway.recording import Call

OBSERVED = "apprentice.observation"
"""Where a request's scope holds its `Observation`, while somebody watches."""
UNKNOWN = "-"


@dataclass(slots=True)
class Observation:
    """One request while it passes; who serves it writes down whom it serves, and what."""

    began_us: int
    began_ns: int
    traceparent: str = ""
    tenant: str = UNKNOWN
    namespace: str = UNKNOWN
    provider: str = UNKNOWN
    endpoint: str = UNKNOWN
    call: Call | None = None
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    whole: bool = False
    ended_ns: int = 0

    def admitted(
        self, tenant: str, namespace: str, provider: str, endpoint: str | None, call: Call | None
    ) -> None:
        """Whom and what the request turned out to be for."""
        self.tenant, self.namespace, self.provider = tenant, namespace, provider
        self.endpoint, self.call = endpoint or UNKNOWN, call
        if call is not None:
            call.watched = True

    @property
    def latency_us(self) -> int:
        """From the request's head to the response's end, microseconds."""
        return (self.ended_ns - self.began_ns) // 1_000

    @property
    def pair_id(self) -> str:
        """The exchange's id, `-` where nothing was to be captured."""
        return self.call.pair_id if self.call is not None else UNKNOWN

    @property
    def exchange(self) -> Exchange | None:
        """What was recorded; None where nothing was."""
        return self.call.exchange if self.call is not None else None


class Watcher(Protocol):
    """Takes in what is over."""

    def take(self, seen: Observation) -> None:
        """Returns at once; never raises."""
        ...

    def close(self) -> None:
        """Hands on what is still here. May block for seconds."""
        ...


class Observer:
    """Stands around the application and tells the watchers. One per process."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = tuple(watchers)

    async def observe(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request with `app`, watched."""
        seen = Observation(time.time_ns() // 1_000, time.perf_counter_ns())
        seen.traceparent = _traceparent(scope)
        scope[OBSERVED] = seen

        async def receiving() -> Message:
            message = await receive()
            seen.bytes_in += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                seen.status = message["status"]
            else:
                seen.bytes_out += len(message.get("body", b""))
                seen.whole = not message.get("more_body", False)

        try:
            await app(scope, receiving, sending)
        finally:
            seen.ended_ns = time.perf_counter_ns()
            for watcher in self._watchers:
                watcher.take(seen)

    def close(self) -> None:
        """Closes the watchers."""
        for watcher in self._watchers:
            watcher.close()


def observer(config: Config) -> Observer | None:
    """The observer that the configuration asks for; None, and nothing loaded, by default.

    Raises: UsageError when telemetry is asked for and its packages are not installed.
    """
    wanted = config.gateway
    watchers: list[Watcher] = []
    if wanted.access_log != "off":
        from apprentice_pipeline.gateway.access_log import AccessLog

        watchers.append(AccessLog(wanted.access_log))
    if wanted.telemetry.otlp_endpoint:
        from apprentice_pipeline.gateway.telemetry import Spans

        watchers.append(Spans(wanted.telemetry))
    return Observer(watchers) if watchers else None


def _traceparent(scope: Scope) -> str:
    """The trace the client is in (W3C Trace Context); it is forwarded like any header."""
    for name, value in scope["headers"]:
        if name == b"traceparent":
            text: str = value.decode("latin-1")
            return text
    return ""
