"""Whether a customer's own call may still be paid for: only with `budget.enforce_passthrough`.

Belongs here: a poll of what was spent against the limits. Does not: the ledger (`store`).
A customer's call is metered and never blocked unless the configuration asks for it; then a
limit binds within a poll's length, not to the cent. While the state database is silent the last
answer holds.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from zoneinfo import ZoneInfo

from apprentice_pipeline.config import Budget
from apprentice_pipeline.control.budget import Limits, Period
from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.store.workspace import Workspace

POLL_S = 1.0


class Allowance:
    """What may still be spent, as of the last poll."""

    def __init__(self, workspace: Workspace) -> None:
        config = workspace.config
        self._workspace = workspace
        self._overall = config.budget if config.budget.enforce_passthrough else None
        self._tasks = {
            task.name: task.budget
            for task in config.tasks
            if task.budget is not None and task.budget.enforce_passthrough
        }
        self._all_spent = False
        self._spent: frozenset[str] = frozenset()

    @property
    def binding(self) -> bool:
        """Whether the configuration makes any limit bind customers' own calls."""
        return self._overall is not None or bool(self._tasks)

    def exhausted(self, namespace: str) -> bool:
        """Whether a remote call of this namespace may no longer be paid for."""
        return self._all_spent or namespace in self._spent

    async def refresh(self) -> None:
        """Compares what was spent with the limits."""
        try:
            await asyncio.to_thread(self._compare)
        except ApprenticeError:
            return

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(POLL_S)

    def _compare(self) -> None:
        if self._overall is not None:
            self._all_spent = self._over(self._overall, None)
        self._spent = frozenset(n for n, budget in self._tasks.items() if self._over(budget, n))

    def _over(self, budget: Budget, namespace: str | None) -> bool:
        limits = Limits(budget.daily, budget.weekly, budget.monthly)
        found = self._workspace.state.spent(
            namespace=namespace,
            now_us=now_us(),
            zone=ZoneInfo(budget.timezone),
            count_passthrough=True,
        )
        for period in Period:
            limit = limits.of(period)
            used = found.spent.get(period, Decimal(0)) + found.reserved.get(period, Decimal(0))
            if limit is not None and used >= limit:
                return True
        return False
