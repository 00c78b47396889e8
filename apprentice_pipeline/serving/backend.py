"""What every local backend promises the router, and the two records that cross that line.

Belongs here: the `Backend` protocol, a request to a local model and its answer. Does not: any
backend, routing decisions, scoring. A backend answers or raises `ServingError`; it never asks
a remote model and never decides whether its answer is good enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from apprentice_pipeline.records import Message
from apprentice_pipeline.store.state import ChampionRecord

NOT_LOADED = "the adapter is not loaded"


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """One conversation for the adapter of one (tenant, namespace, version).

    `deadline_ms` counts from the moment of the call; what cannot be answered by then is dropped.
    `background` work (shadow, sampling) waits behind answers that a customer waits for.
    """

    tenant: str
    namespace: str
    version: int
    conversation: list[Message]
    max_new_tokens: int
    deadline_ms: int
    background: bool = False


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """A local model's text. `confidence` in [0, 1]; `latency_us` includes time in the queue.

    `complete` is False when the token limit cut the answer short.
    """

    text: str
    confidence: float
    input_tokens: int
    output_tokens: int
    latency_us: int
    complete: bool = True


class Backend(Protocol):
    """A local model server as the router sees it. Safe to call concurrently on one event loop."""

    async def answer(self, request: LocalRequest) -> LocalAnswer:
        """One answer.

        Raises: Overloaded at once when the queue is full; DeadlineMissed; ServingError when the
        adapter is not loaded or the backend is down.
        """
        ...

    async def ready(self, champion: ChampionRecord, *, wait_s: float = 0.0) -> bool:
        """Whether this champion can answer now; starts loading it in the background if not.

        `wait_s` bounds how long to wait for that. Never raises.
        """
        ...

    def refusal(self, champion: ChampionRecord) -> str | None:
        """Why the backend will not load this champion, None when it has not refused it."""
        ...

    async def close(self) -> None:
        """Lets go of connections; requests under way fail with ServingError."""
        ...
