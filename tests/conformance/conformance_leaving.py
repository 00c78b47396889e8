"""Tasks of asyncio that are cancelled with a call of an SDK under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest


async def cancelled_in(streaming: Awaitable[Any]) -> Any:
    """Cancels a task while it waits for more of a stream; the type of its first event."""
    first: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        async for event in await streaming:
            if not first.done():
                first.set_result(getattr(event, "type", None))

    task = asyncio.create_task(read())
    await asyncio.wait({task, first}, return_when=asyncio.FIRST_COMPLETED)
    await _cancelled(task)
    return first.result()


async def cancelled_after(asked: Awaitable[Any], seconds: float) -> None:
    """Cancels a task while it waits for its answer."""
    task = asyncio.ensure_future(asked)
    await asyncio.sleep(seconds)
    await _cancelled(task)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
