"""Champions on their way into a server: one preparation each, in the background.

Belongs here: which are ready, which are being prepared, which were refused and until when. Does
not: the preparation itself, a coroutine function of the backend's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.serving.waiting import AdapterKey
from apprentice_pipeline.store.state import ChampionRecord

REFUSAL_HOLDS_S = 30.0

Prepare = Callable[[ChampionRecord], Awaitable[None]]


class Preparations:
    """Runs `prepare(champion)` once for each champion that is asked for."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._ready: dict[AdapterKey, str] = {}
        self._refused: dict[AdapterKey, tuple[float, str]] = {}
        self._running: dict[AdapterKey, asyncio.Task[None]] = {}

    async def ready(self, champion: ChampionRecord, wait_s: float) -> bool:
        """Whether this champion has been prepared; begins to, and waits at most `wait_s`."""
        key = _key(champion)
        if self._ready.get(key) == champion.digest:
            return True
        task = self._running.get(key)
        if task is None and not self._refused_lately(key):
            task = asyncio.create_task(self._run(key, champion))
            self._running[key] = task
        if task is not None and wait_s > 0:
            await asyncio.wait([task], timeout=wait_s)
        return self._ready.get(key) == champion.digest

    def refusal(self, champion: ChampionRecord) -> str | None:
        """Why the last preparation failed, None when it did not."""
        refused = self._refused.get(_key(champion))
        return None if refused is None else refused[1]

    def forget(self, tenant: str, namespace: str, version: int) -> None:
        """Prepare it again before it is next used: the server has lost it."""
        self._ready.pop((tenant, namespace, version), None)

    async def close(self) -> None:
        """Gives up what is under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _refused_lately(self, key: AdapterKey) -> bool:
        refused = self._refused.get(key)
        return refused is not None and time.monotonic() - refused[0] < REFUSAL_HOLDS_S

    async def _run(self, key: AdapterKey, champion: ChampionRecord) -> None:
        try:
            await self._prepare(champion)
        except ApprenticeError as error:
            self._refused[key] = (time.monotonic(), f"{error.message}. {error.remedy}".strip())
        except Exception as error:  # the process edge: nobody awaits this
            why = f"the adapter could not be prepared ({type(error).__name__})"
            self._refused[key] = (time.monotonic(), why)
        else:
            self._refused.pop(key, None)
            self._ready[key] = champion.digest
        finally:
            self._running.pop(key, None)


def _key(champion: ChampionRecord) -> AdapterKey:
    return champion.tenant, champion.namespace, champion.version
