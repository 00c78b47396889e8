"""The bounded queue in front of the embedded model, and which requests go together.

Belongs here: admission, deadlines, lanes, batches: plain values, no I/O, the clock an argument.
Does not: generation, connections.

Promises: at most `capacity` requests wait; a full queue refuses at once; a request past its
deadline is never handed out; requests somebody waits for go before background work; a batch
holds one adapter and one token limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from apprentice_pipeline.errors import Overloaded
from apprentice_pipeline.records import Message

AdapterKey = tuple[str, str, int]
"""Tenant, namespace, version."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """One admitted request; times are seconds of a monotonic clock."""

    adapter: AdapterKey
    conversation: list[Message]
    max_new_tokens: int
    arrived_s: float
    expires_s: float
    background: bool
    reply: Callable[[dict[str, Any]], None]

    @property
    def kind(self) -> tuple[AdapterKey, int]:
        """What must be equal within a batch."""
        return self.adapter, self.max_new_tokens


class WaitingRoom:
    """Two first-in-first-out lanes under one bound; background work fills at most half."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lanes: tuple[deque[Waiting], deque[Waiting]] = (deque(), deque())

    def __len__(self) -> int:
        return len(self._lanes[0]) + len(self._lanes[1])

    def admit(self, request: Waiting) -> None:
        """Queue a request.

        Raises: Overloaded when its lane has no room.
        """
        full = len(self) >= self._capacity
        crowded = request.background and len(self._lanes[1]) >= max(1, self._capacity // 2)
        if full or crowded:
            raise Overloaded("the local model's queue is full")
        self._lanes[request.background].append(request)

    def next_batch(self, now_s: float, most: int) -> tuple[list[Waiting], list[Waiting]]:
        """The oldest request with up to `most` in all that go along; and those that expired."""
        expired = self._drop_expired(now_s)
        first = next((lane[0] for lane in self._lanes if lane), None)
        if first is None:
            return [], expired
        batch: list[Waiting] = []
        for lane in self._lanes:
            alike = [each for each in lane if each.kind == first.kind]
            batch += alike[: most - len(batch)]
        self._remove(batch)
        return batch, expired

    def _drop_expired(self, now_s: float) -> list[Waiting]:
        expired = [each for lane in self._lanes for each in lane if each.expires_s <= now_s]
        self._remove(expired)
        return expired

    def _remove(self, gone: list[Waiting]) -> None:
        if not gone:
            return
        identities = set(map(id, gone))
        for lane in self._lanes:
            kept = [each for each in lane if id(each) not in identities]
            lane.clear()
            lane.extend(kept)
