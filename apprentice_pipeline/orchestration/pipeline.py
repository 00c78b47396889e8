"""The resource every asset receives: the opened workspace and the callables stages need.

Opened at first use, so that loading the definitions reads no file and no environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.settings import load_settings

if TYPE_CHECKING:
    from apprentice_pipeline.registry import Registry
    from apprentice_pipeline.store.workspace import Workspace

Progress = Callable[[str, int, int, str], None]


def _silent(stage: str, done: int, total: int, note: str) -> None:
    """Progress that nobody watches."""


class Pipeline:
    """What a run works on. `environment` defaults to the process's; `progress` reports steps."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        base_model: str | None = None,
        target_bytes: int | None = None,
        progress: Progress = _silent,
    ) -> None:
        self._environment = environment
        self.base_model = base_model
        self.target_bytes = target_bytes
        self.progress = progress
        self.failure: ApprenticeError | None = None
        self._held: set[tuple[str, str]] = set()

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace of this process's settings."""
        from apprentice_pipeline.store.workspace import Workspace

        environment = os.environ if self._environment is None else self._environment
        return Workspace.open(load_settings(environment))

    @cached_property
    def registry(self) -> Registry:
        """The model registry of the workspace."""
        from apprentice_pipeline.routing.following import open_registry

        return open_registry(self.workspace)

    @contextmanager
    def alone(self, tenant: str, namespace: str) -> Iterator[None]:
        """Keeps every other run from the stream meanwhile, in this process and others; what holds
        it already (a run within `distill`) holds it on.

        Raises: DistillError when another run has it.
        """
        from apprentice_pipeline.stages.results import exclusively

        key = (tenant, namespace)
        if key in self._held:
            yield
            return
        with exclusively(self.workspace, tenant, namespace):
            self._held.add(key)
            try:
                yield
            finally:
                self._held.discard(key)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns an error of ours into Dagster's failure, with its remedy, and remembers it."""
        try:
            yield
        except ApprenticeError as error:
            self.failure = error
            raise dg.Failure(
                description=error.message,
                metadata={"remedy": error.remedy or "none known", "error": type(error).__name__},
                allow_retries=False,
            ) from error
