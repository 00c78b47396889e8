"""The access log: a line a request on standard error, without content.

Belongs here: the line and its writing. Does not: what is known of a request (`observing`).
Promise: writing never holds a request up: lines wait in bounded memory for a thread of their
own, and where nobody reads them fast enough they are dropped and counted in a line that says so.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Any, Literal

import orjson

from apprentice_pipeline.gateway.observing import UNKNOWN, Observation
from apprentice_pipeline.records import rfc3339

MOST_WAITING = 20_000
PAUSE_S = 0.2
STANDARD_ERROR = 2
_ATOMIC = 4_096
"""A pipe takes so many bytes in one piece: lines of several workers do not mix."""


class AccessLog:
    """Writes lines. One per process."""

    def __init__(self, form: Literal["text", "json"]) -> None:
        self._write = _text if form == "text" else _json
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def take(self, seen: Observation) -> None:
        """See `Watcher`."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
        else:
            self._waiting.append(self._write(facts(seen)))

    def close(self) -> None:
        """See `Watcher`."""
        self._closing.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._closing.wait(PAUSE_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._waiting.append(self._write({"dropped_lines": dropped}))
        while self._waiting:
            lines = self._waiting.popleft()
            while self._waiting and len(lines) + len(self._waiting[0]) <= _ATOMIC:
                lines += self._waiting.popleft()
            try:
                os.write(STANDARD_ERROR, lines)
            except OSError:  # nobody reads: the lines are gone, the calls are not
                return


def facts(seen: Observation) -> dict[str, Any]:
    """What a line says, in its order."""
    exchange = seen.exchange
    return {
        "time": rfc3339(seen.began_us),
        "tenant": seen.tenant,
        "namespace": seen.namespace,
        "provider": seen.provider,
        "endpoint": seen.endpoint,
        "status": seen.status,
        "whole": seen.whole,
        "latency_ms": seen.latency_us / 1_000,
        "bytes_in": seen.bytes_in,
        "bytes_out": seen.bytes_out,
        "served_by": exchange.served_by if exchange is not None else UNKNOWN,
        "pair_id": seen.pair_id,
    }


def _json(told: dict[str, Any]) -> bytes:
    return orjson.dumps(told) + b"\n"


def _text(told: dict[str, Any]) -> bytes:
    return " ".join(f"{name}={_word(value)}" for name, value in told.items()).encode() + b"\n"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
