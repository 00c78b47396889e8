"""`Apprentice`: one request of a declared task in, its output out, from whichever model may.

    with Apprentice.from_config("apprentice.yaml") as apprentice:
        result = apprentice.run("classify_ticket", {"text": "..."})

Belongs here: the interface for plain code. Does not: anything but handing calls to an event loop
in a thread of its own, where `asynchronous.AsyncApprentice` does the work.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from apprentice_pipeline.asynchronous import AsyncApprentice, Result
from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.records import DEFAULT_TENANT
from apprentice_pipeline.routing import Router
from apprentice_pipeline.settings import Settings, load_settings

__all__ = ["Apprentice", "AsyncApprentice", "Result", "Router"]

T = TypeVar("T")


class Apprentice:
    """The interface for plain code: the same, on an event loop in a thread of its own.

    Safe to use from several threads. Use as `with`.
    """

    def __init__(self, settings: Settings, *, tenant: str = DEFAULT_TENANT) -> None:
        self._inner = AsyncApprentice(settings, tenant=tenant)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def from_config(
        cls,
        path: str | Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Self:
        """See `AsyncApprentice.from_config`."""
        given = os.environ if environment is None else environment
        return cls(load_settings(given, path), tenant=tenant)

    def __enter__(self) -> Self:
        """See `AsyncApprentice.__aenter__`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="apprentice")
        self._thread.daemon = True
        self._thread.start()
        try:
            self._call(self._inner.__aenter__())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See `AsyncApprentice.__aexit__`."""
        self.close()

    def close(self) -> None:
        """See `AsyncApprentice.close`."""
        if self._loop is not None:
            try:
                self._call(self._inner.close())
            finally:
                self._end_loop()

    def run(self, task: str, input: Mapping[str, Any]) -> Result:
        """See `AsyncApprentice.run`."""
        return self._call(self._inner.run(task, input))

    def feedback(self, pair_id: str, action: str, *, task: str, edit: Any = None) -> None:
        """See `AsyncApprentice.feedback`."""
        self._call(self._inner.feedback(pair_id, action, task=task, edit=edit))

    def warm(self, task: str, *, wait_s: float = 30.0) -> bool:
        """See `AsyncApprentice.warm`."""
        return self._call(self._inner.warm(task, wait_s=wait_s))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise UsageError(
                "this Apprentice is not open", remedy="use it as a context manager (`with`)"
            )
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _end_loop(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
