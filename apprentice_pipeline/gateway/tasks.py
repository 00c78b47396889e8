"""`POST /v1/tasks/{task}`: the unified interface over HTTP.

Belongs here: one open `AsyncApprentice` a tenant, bounded. Does not: running a task.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from apprentice_pipeline.apprentice import AsyncApprentice, Result
from apprentice_pipeline.settings import Settings

MOST_OPEN = 32


class Apprentices:
    """The interface for each tenant that uses it; opened at first use, the idlest closed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: OrderedDict[str, AsyncApprentice] = OrderedDict()
        self._running: dict[str, int] = {}
        self._opening = asyncio.Lock()

    async def run(self, tenant: str, task: str, input: Mapping[str, Any]) -> Result:
        """See `AsyncApprentice.run`."""
        self._running[tenant] = self._running.get(tenant, 0) + 1
        try:
            apprentice = await self._of(tenant)
            return await apprentice.run(task, input)
        finally:
            self._running[tenant] -= 1

    async def close(self) -> None:
        """Closes all of them."""
        while self._open:
            await self._open.popitem()[1].close()

    async def _of(self, tenant: str) -> AsyncApprentice:
        async with self._opening:
            known = self._open.get(tenant)
            if known is None:
                await self._make_room()
                known = AsyncApprentice(self._settings, tenant=tenant, alone=False)
                await known.__aenter__()
                self._open[tenant] = known
            self._open.move_to_end(tenant)
            return known

    async def _make_room(self) -> None:
        idle = [tenant for tenant in self._open if not self._running.get(tenant)]
        if len(self._open) >= MOST_OPEN and idle:
            await self._open.pop(idle[0]).close()
