"""Asking the remote model for the pipeline's own purposes: resamples, within the budget."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from apprentice_pipeline.records import Answer
from apprentice_pipeline.remote.client import Remote
from apprentice_pipeline.routing.spending import Call, Kind, Spending
from apprentice_pipeline.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Asking:
    """One stream's way to the remote model."""

    tenant: str
    namespace: str
    kind: Kind
    remote: Remote
    spending: Spending

    async def ask(self, input: dict[str, Any], *, provider: str, model: str) -> Answer:
        """The answer, paid for. Raises: BudgetExhausted, PriceUnknown, RemoteError."""
        call = Call(self.tenant, self.namespace, self.kind, model, input)
        return await self.spending.call(
            call, lambda: self.remote.ask(input, provider=provider, model=model)
        )


@asynccontextmanager
async def open_asking(
    workspace: Workspace, tenant: str, namespace: str, *, kind: Kind
) -> AsyncIterator[Asking]:
    """An `Asking`, its connections closed at the end."""
    remote = Remote(workspace.config.remote, workspace.settings.api_key)
    try:
        yield Asking(tenant, namespace, kind, remote, Spending(workspace))
    finally:
        await remote.close()
