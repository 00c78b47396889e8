"""A remote call of ours, within the budget: authorise, reserve, call, settle.

Belongs here: the order of those four around any call. Does not: the ledger (`store`), the
arithmetic (`control.budget`), prices (`remote.prices`), the customer's own pass-through calls.

Promise: nothing is called unless the most it can cost was held first; whatever happens
afterwards, cancellation included, the reservation is settled, in full where the cost is unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

import orjson

from apprentice_pipeline.config import Budget, Price
from apprentice_pipeline.control.budget import Limits
from apprentice_pipeline.errors import RemoteError
from apprentice_pipeline.records import Answer, now_us
from apprentice_pipeline.remote.prices import maximum_cost_usd, most_output_tokens
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.wire.conversation import request_facts

Kind = Literal["run", "sample", "shadow", "resample"]


@dataclass(frozen=True, slots=True)
class Call:
    """A call we would start: for whom, what for, which model, and its input."""

    tenant: str
    namespace: str
    kind: Kind
    model: str
    input: dict[str, Any]


class Spending:
    """The budget of one workspace as callers of remote models use it."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._zone = ZoneInfo(workspace.config.budget.timezone)

    async def call(self, call: Call, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """`ask()`, paid for.

        Raises: BudgetExhausted, PriceUnknown (nothing was called); StoreError; what `ask` raises.
        """
        reservation = await asyncio.to_thread(self._reserve, call)
        charged: float | None = None
        try:
            answer = await ask()
            charged = answer.cost_usd
            return answer
        except RemoteError as error:
            charged = 0.0 if error.status else None  # an error answer is not billed
            raise
        finally:
            settle = asyncio.to_thread(self._workspace.state.settle, reservation, charged)
            await asyncio.shield(asyncio.ensure_future(settle))

    def _reserve(self, call: Call) -> str:
        config = self._workspace.config
        task = config.task(call.namespace)
        maximum = most_usd(call, config.remote.prices)
        return self._workspace.state.reserve(
            tenant=call.tenant,
            namespace=call.namespace,
            kind=call.kind,
            maximum_usd=maximum,
            overall=limits_of(config.budget),
            task=limits_of(task.budget) if task and task.budget else None,
            zone=self._zone,
            now_us=now_us(),
            count_passthrough=config.budget.enforce_passthrough,
        )


def most_usd(call: Call, prices: Mapping[str, Price]) -> Decimal:
    """The most that one answered attempt can cost: as many answers as it asks for, each as long
    as it allows or as the model gives. Raises: PriceUnknown."""
    facts = request_facts(call.input)
    tokens = facts.max_output_tokens or most_output_tokens(call.model)
    size = len(orjson.dumps(call.input))
    return maximum_cost_usd(call.model, size, tokens * max(1, facts.n), prices)


def limits_of(budget: Budget) -> Limits:
    """The limits a budget section sets."""
    return Limits(budget.daily, budget.weekly, budget.monthly, budget.currency)
