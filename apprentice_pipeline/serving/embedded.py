"""The embedded backend: the router's side of the socket.

Belongs here: one multiplexed connection, its errors, its reconnects. Does not: the server
(`embedded_server`), its process (`supervisor`).

Promises: never blocks on a server that is down: it says so at once and tries again by itself,
at growing intervals; a lost connection fails what was under way, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apprentice_pipeline.errors import ApprenticeError, DeadlineMissed, Overloaded, ServingError
from apprentice_pipeline.serving.backend import LocalAnswer, LocalRequest
from apprentice_pipeline.serving.champions import Wanted
from apprentice_pipeline.serving.frames import frame, read_frame, socket_path
from apprentice_pipeline.serving.supervisor import EmbeddedSupervisor
from apprentice_pipeline.serving.waiting import AdapterKey
from apprentice_pipeline.store.state import ChampionRecord

__all__ = ["EmbeddedBackend", "EmbeddedSupervisor", "socket_path"]

CONNECT_TIMEOUT_S = 1.0
PREPARE_TIMEOUT_S = 5.0
GRACE_S = 0.05
FIRST_RETRY_S, LAST_RETRY_S = 0.05, 2.0

_ERRORS: dict[str, type[ServingError]] = {"overloaded": Overloaded, "deadline": DeadlineMissed}


class EmbeddedBackend:
    """A `Backend` that asks the embedded server behind `socket`. Lives on one event loop."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._identities = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._retry_at = 0.0
        self._retry_s = FIRST_RETRY_S
        self._ready: set[tuple[AdapterKey, str]] = set()
        self._refused: dict[AdapterKey, str] = {}

    async def answer(self, request: LocalRequest) -> LocalAnswer:
        """See `Backend.answer`."""
        message = {
            "op": "answer",
            "tenant": request.tenant,
            "namespace": request.namespace,
            "version": request.version,
            "conversation": request.conversation,
            "max_new_tokens": request.max_new_tokens,
            "deadline_ms": request.deadline_ms,
            "background": request.background,
        }
        started = time.monotonic()
        reply = await self._ask(message, request.deadline_ms / 1_000 + GRACE_S)
        if (error := reply.get("error")) is not None:
            if error["kind"] == "not_loaded":
                key = (request.tenant, request.namespace, request.version)
                self._ready = {each for each in self._ready if each[0] != key}
            raise _ERRORS.get(error["kind"], ServingError)(error["message"])
        elapsed_us = int((time.monotonic() - started) * 1_000_000)
        return LocalAnswer(**(reply["answer"] | {"latency_us": elapsed_us}))

    async def ready(self, champion: ChampionRecord, *, wait_s: float = 0.0) -> bool:
        """See `Backend.ready`."""
        key = (champion.tenant, champion.namespace, champion.version)
        if (key, champion.digest) in self._ready:
            return True
        give_up = time.monotonic() + wait_s
        while True:
            left = give_up - time.monotonic()
            with contextlib.suppress(ApprenticeError):
                if await self._prepared(champion, key, max(0.0, left)) or key in self._refused:
                    break
            if left <= 0:
                break
            await asyncio.sleep(min(left, FIRST_RETRY_S))
        return (key, champion.digest) in self._ready

    def refusal(self, champion: ChampionRecord) -> str | None:
        """See `Backend.refusal`."""
        return self._refused.get((champion.tenant, champion.namespace, champion.version))

    async def facts(self) -> dict[str, Any]:
        """The server's counters, for metrics. Raises: ServingError when it is down."""
        facts: dict[str, Any] = (await self._ask({"op": "facts"}, PREPARE_TIMEOUT_S))["facts"]
        return facts

    async def close(self) -> None:
        """See `Backend.close`."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        self._lost()

    async def _prepared(self, champion: ChampionRecord, key: AdapterKey, wait_s: float) -> bool:
        message = {"op": "prepare", "champion": asdict(Wanted.of(champion)), "wait_s": wait_s}
        reply = await self._ask(message, wait_s + PREPARE_TIMEOUT_S)
        self._refused.pop(key, None)
        if (error := reply.get("error")) is not None:
            self._refused[key] = error["message"]
            return False
        if reply["ready"]:
            self._ready = {each for each in self._ready if each[0] != key}
            self._ready.add((key, champion.digest))
        return bool(reply["ready"])

    async def _ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        writer = self._writer or await self._connect()
        identity = next(self._identities)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[identity] = reply
        try:
            writer.write(frame({"id": identity} | message))
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            raise DeadlineMissed("the local model did not answer in time") from None
        finally:
            self._replies.pop(identity, None)

    async def _connect(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is not None:
                return self._writer
            if time.monotonic() < self._retry_at:
                raise _down()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    reader, writer = await asyncio.open_unix_connection(self._socket)
            except (OSError, TimeoutError):
                self._retry_at = time.monotonic() + self._retry_s
                self._retry_s = min(LAST_RETRY_S, self._retry_s * 2)
                raise _down() from None
            self._retry_s = FIRST_RETRY_S
            self._writer = writer
            self._reading = asyncio.create_task(self._read(reader))
            return writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while (message := await read_frame(reader)) is not None:
                reply = self._replies.get(message.get("id", 0))
                if reply is not None and not reply.done():
                    reply.set_result(message)
        except (ServingError, ConnectionError):
            pass  # a broken connection is a lost one
        finally:
            self._lost()

    def _lost(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        self._ready.clear()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(_down())


def _down() -> ServingError:
    return ServingError(
        "the local model server is not running",
        remedy="it is restarted by itself; `apprentice doctor` says what is missing",
    )
