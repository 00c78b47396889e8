"""One request on its way through the gateway, and whether its client is still there.

Belongs here: the state of a passage, watching for the client to leave, sending the end. Does
not: the steps (`capture`, `relay`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import Scope, Send

from apprentice_pipeline.gateway import replies
from apprentice_pipeline.gateway.access import Caller
from apprentice_pipeline.gateway.headers import Incoming
from apprentice_pipeline.gateway.intake import Intake
from apprentice_pipeline.gateway.recording import Call
from apprentice_pipeline.gateway.upstream import Outgoing
from apprentice_pipeline.routing.attempt import Attempt
from apprentice_pipeline.wire.forms import WireFormat

WATCHED = "apprentice.watched"
"""In a scope: the call ends when its client leaves."""


@dataclass(slots=True)
class Passage:
    """One request. `call` is None where nothing is captured.

    `began`: a response has been started; `recorded`: its exchange has been handed over, or will
    not be; `left`: the client has closed the connection.
    """

    wire: WireFormat
    caller: Caller
    namespace: str
    headers: Incoming
    outgoing: Outgoing
    intake: Intake
    send: Send
    scope: Scope
    call: Call | None = None
    attempt: Attempt | None = None
    began: bool = False
    recorded: bool = False
    left: bool = False
    watcher: asyncio.Task[None] | None = None

    @property
    def pair_id(self) -> str:
        """The exchange's id, "" where nothing is captured."""
        return self.call.pair_id if self.call is not None else ""

    def watch(self) -> None:
        """From now on the client's leaving cancels the current task."""
        task = asyncio.current_task()
        if self.watcher is None and task is not None:
            self.scope[WATCHED] = True
            self.watcher = asyncio.create_task(self._end_when_gone(task))

    def unwatch(self) -> None:
        """A client that leaves from now on has all it came for."""
        if self.watcher is not None:
            self.watcher.cancel()

    async def finish(self, last: bytes) -> None:
        """Sends the end of the response."""
        self.unwatch()
        await replies.piece(self.send, last, more=False)

    async def refuse(self, status: int, message: str) -> None:
        """Answers with an error of ours, unless a response has begun."""
        if not self.began:
            self.unwatch()
            marks = replies.marks(b"remote", self.pair_id)
            await replies.refuse(self.send, self.wire, status, message, *marks)

    async def _end_when_gone(self, task: asyncio.Task[object]) -> None:
        await self.intake.gone()
        self.left = True
        task.cancel()
