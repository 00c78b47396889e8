"""Work that no caller waits for, bounded: what does not fit is dropped and counted.

Belongs here: the bound, the turns, the counting of what became of it. Does not: the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from apprentice_pipeline.errors import ApprenticeError, BudgetExhausted, PriceUnknown

Count = Callable[[str], None]


class Background:
    """At most `most` pieces of work at hand, `at_once` of them running."""

    def __init__(self, *, most: int = 64, at_once: int = 8) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(at_once)

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, kind: str, work: Coroutine[Any, Any, None], count: Count) -> None:
        """Take on `work`, or drop it. `count` gets `KIND_dropped`, `_failed`, `_unaffordable`."""
        if len(self._tasks) >= self._most:
            work.close()
            count(f"{kind}_dropped")
            return
        task = asyncio.create_task(self._run(kind, work, count))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finished(self) -> None:
        """Returns once nothing is at hand."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def stop(self) -> int:
        """Cancel what is at hand; how many pieces that were."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        return len(tasks)

    async def _run(self, kind: str, work: Coroutine[Any, Any, None], count: Count) -> None:
        try:
            async with self._turns:
                await work
        except (BudgetExhausted, PriceUnknown):
            count(f"{kind}_unaffordable")
        except ApprenticeError:
            count(f"{kind}_failed")
        except Exception:  # the process edge: nobody awaits this
            count(f"{kind}_failed")
            count("unexpected")
        finally:
            work.close()
