"""The engine of the embedded server: connections, the generating loop, loading.

Belongs here: what happens between a frame that came in and the one that goes out. Does not: the
process (`embedded_server`), the queue (`waiting`), the door for adapters (`shelf`).

Operations (`op`): `answer`, `prepare` (load a champion, optionally wait), `facts`. An error has a
`kind`: overloaded, deadline, not_loaded, refused, failed; its `message` never holds content.
One thread generates, one loads: adapters load while others answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from apprentice_pipeline.errors import ApprenticeError, Overloaded, ServingError
from apprentice_pipeline.serving.backend import NOT_LOADED
from apprentice_pipeline.serving.champions import Wanted
from apprentice_pipeline.serving.frames import frame, read_frame
from apprentice_pipeline.serving.pace import Pace
from apprentice_pipeline.serving.shelf import Model, Shelf
from apprentice_pipeline.serving.waiting import AdapterKey, Waiting, WaitingRoom

REFUSAL_HOLDS_S = 30.0
MOST_REFUSALS = 256
Reply = Callable[[dict[str, Any]], None]


class Engine:
    """The queue, the shelf and the two threads of one process."""

    def __init__(self, shelf: Shelf, room: WaitingRoom, pace: Pace) -> None:
        self._shelf = shelf
        self._room = room
        self._pace = pace
        self._arrived = asyncio.Event()
        self._generator = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._loads: dict[tuple[AdapterKey, str], asyncio.Future[None]] = {}
        self._refused: dict[tuple[AdapterKey, str], tuple[float, str]] = {}
        self._counts: Counter[str] = Counter()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends. Answers come back in any order, by id."""
        pending: set[asyncio.Task[None]] = set()
        try:
            if not _same_user(writer.get_extra_info("socket")):
                return
            while (message := await read_frame(reader)) is not None:
                self._dispatch(message, _replier(writer, message.get("id")), pending)
                await writer.drain()
        except (ServingError, ConnectionError):
            self._counts["bad_connections"] += 1
        finally:
            for task in pending:
                task.cancel()
            writer.close()

    def _dispatch(
        self, message: dict[str, Any], reply: Reply, pending: set[asyncio.Task[None]]
    ) -> None:
        try:
            operation = message.get("op")
            if operation == "answer":
                self._admit(message, reply)
            elif operation == "prepare":
                wanted = Wanted(**{name: message["champion"][name] for name in Wanted.__slots__})
                wait_s = float(message.get("wait_s", 0.0))
                task = asyncio.ensure_future(self._prepare(wanted, wait_s, reply))
                pending.add(task)
                task.add_done_callback(pending.discard)
            elif operation == "facts":
                reply({"facts": self._facts()})
            else:
                reply(_error("refused", "unknown operation"))
        except Overloaded as error:
            self._counts["overloaded"] += 1
            reply(_error("overloaded", error.message))
        except (KeyError, TypeError, ValueError):
            self._counts["malformed"] += 1
            reply(_error("refused", "malformed request"))

    def _admit(self, message: dict[str, Any], reply: Reply) -> None:
        adapter = (str(message["tenant"]), str(message["namespace"]), int(message["version"]))
        if self._shelf.get(adapter) is None:
            self._counts["not_loaded"] += 1
            reply(_error("not_loaded", NOT_LOADED))
            return
        now = time.monotonic()
        self._room.admit(
            Waiting(
                adapter=adapter,
                conversation=[
                    {"role": str(turn["role"]), "content": str(turn["content"])}
                    for turn in message["conversation"]
                ],
                max_new_tokens=max(1, int(message["max_new_tokens"])),
                arrived_s=now,
                expires_s=now + int(message["deadline_ms"]) / 1_000,
                background=bool(message.get("background")),
                reply=reply,
            )
        )
        self._arrived.set()

    async def _prepare(self, wanted: Wanted, wait_s: float, reply: Reply) -> None:
        load = self._start_load(wanted)
        if load is not None and wait_s > 0:
            await asyncio.wait([load], timeout=wait_s)
        refusal = self._refused.get((wanted.key, wanted.digest))
        if refusal is not None:
            reply(_error("refused", refusal[1]))
        else:
            reply({"ready": self._shelf.holds(wanted)})

    def _start_load(self, wanted: Wanted) -> asyncio.Future[None] | None:
        """The load under way, or a new one; None when there is nothing to load (again)."""
        key = (wanted.key, wanted.digest)
        if self._shelf.holds(wanted) or key in self._loads:
            return self._loads.get(key)
        refusal = self._refused.get(key)
        if refusal is not None and time.monotonic() - refusal[0] < REFUSAL_HOLDS_S:
            return None
        loop = asyncio.get_running_loop()
        load = loop.run_in_executor(self._loader, self._load, wanted)
        self._loads[key] = load
        load.add_done_callback(lambda _: self._loads.pop(key, None))
        return load

    def _load(self, wanted: Wanted) -> None:
        key = (wanted.key, wanted.digest)
        try:
            self._shelf.load(wanted)
            self._refused.pop(key, None)
            self._counts["loads"] += 1
        except ApprenticeError as error:
            self._refuse(key, f"{error.message}. {error.remedy}".strip())
        except Exception as error:
            self._refuse(key, f"the adapter does not load ({type(error).__name__})")

    def _refuse(self, key: tuple[AdapterKey, str], why: str) -> None:
        self._counts["refused_loads"] += 1
        self._refused[key] = (time.monotonic(), why)
        while len(self._refused) > MOST_REFUSALS:
            self._refused.pop(next(iter(self._refused)))

    async def generate_forever(self) -> None:
        """Answer what waits, batch after batch."""
        while True:
            size = self._pace.batch_size() if len(self._room) > 1 else 1
            batch, expired = self._room.next_batch(time.monotonic(), size)
            for request in expired:
                self._counts["expired"] += 1
                request.reply(_error("deadline", "the deadline passed in the queue"))
            if batch:
                await self._answer(batch)
            elif not self._room:
                self._arrived.clear()
                await self._arrived.wait()

    async def _answer(self, batch: list[Waiting]) -> None:
        model = self._shelf.get(batch[0].adapter)
        if model is None:
            for request in batch:
                request.reply(_error("not_loaded", NOT_LOADED))
            return
        for request, answer in zip(batch, await self._generated(model, batch), strict=True):
            request.reply(answer)

    async def _generated(self, model: Model, batch: list[Waiting]) -> list[dict[str, Any]]:
        """Each request's answer or error. One that breaks its batch fails alone."""
        loop, started = asyncio.get_running_loop(), time.monotonic()
        try:
            answers = await loop.run_in_executor(self._generator, _generate, model, batch)
            self._pace.note(len(batch), time.monotonic() - started)
        except Exception as error:
            if len(batch) > 1:
                return [one for each in batch for one in await self._generated(model, [each])]
            self._counts["failed"] += 1
            return [_error("failed", f"generation failed ({type(error).__name__})")]
        self._counts["batches"] += 1
        self._counts["answers"] += len(batch)
        return [{"answer": answer} for answer in answers]

    def _facts(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "waiting": len(self._room),
            "adapters": len(self._shelf),
        } | dict(self._counts)


def _generate(model: Model, batch: Sequence[Waiting]) -> list[dict[str, Any]]:
    generations = model.generate(
        [request.conversation for request in batch],
        max_new_tokens=batch[0].max_new_tokens,
        batch_size=len(batch),
    )
    now = time.monotonic()
    return [
        {
            "text": generation.text,
            "confidence": generation.confidence,
            "input_tokens": generation.input_tokens,
            "output_tokens": generation.output_tokens,
            "latency_us": int((now - request.arrived_s) * 1_000_000),
            "complete": generation.finish_reason != "length",
        }
        for request, generation in zip(batch, generations, strict=True)
    ]


def _replier(writer: asyncio.StreamWriter, identity: Any) -> Reply:
    def reply(message: dict[str, Any]) -> None:
        if not writer.is_closing():
            writer.write(frame({"id": identity} | message))

    return reply


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message}}


def _same_user(connection: socket.socket) -> bool:
    """Whether the other end runs as our user, where the system can tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == os.getuid())
