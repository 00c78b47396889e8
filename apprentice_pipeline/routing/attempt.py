"""What one request's routing leaves behind, from `attempt` to `settle`.

Belongs here: frozen records and the exchange a sample becomes. Does not: any call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from apprentice_pipeline.control.phases import Plan
from apprentice_pipeline.records import Answer, Exchange, new_pair_id, now_us
from apprentice_pipeline.routing.standing import Standing
from apprentice_pipeline.serving.backend import LocalAnswer


@dataclass(frozen=True, slots=True)
class Local:
    """What the local model said; `confidence` is 0 where its answer may not be served at all."""

    answer: LocalAnswer
    confidence: float
    valid: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a request before any remote call.

    `answer`: the local answer to serve, None when the remote model must answer; `reason` says
    why (never content). `fallback`: a valid local answer below the threshold, to be given,
    marked as a quality risk, only where no remote answer may be bought. `inclusion_probability`
    belongs on the exchange that this request becomes.
    """

    tenant: str
    namespace: str
    pair_id: str
    input: dict[str, Any]
    answer: Answer | None = None
    reason: str = ""
    fallback: Answer | None = None
    inclusion_probability: float = 1.0
    plan: Plan | None = None
    standing: Standing | None = None
    local: Local | None = None

    @property
    def sampled(self) -> bool:
        """Whether a request served locally is to be asked remotely as well."""
        return self.answer is not None and self.plan is not None and self.plan.sampled


@dataclass(frozen=True, slots=True)
class Duplicate:
    """How to ask the remote model the same request, in the background, and what to call it.

    `ask` is called at most once, within the budget, and forgotten afterwards.
    """

    ask: Callable[[], Awaitable[Answer]]
    provider: str
    endpoint: str
    model: str


def sampled_exchange(attempt: Attempt, remote: Duplicate, answer: Answer) -> Exchange:
    """The pair a sample leaves, under an id of its own: its request's has a local answer."""
    at_us = now_us()
    return Exchange(
        pair_id=new_pair_id(at_us),
        tenant=attempt.tenant,
        namespace=attempt.namespace,
        created_at_us=at_us,
        provider=remote.provider,
        endpoint=remote.endpoint,
        model=answer.model or remote.model,
        status=200,
        complete=True,
        streamed=False,
        served_by="remote",
        input=attempt.input,
        output=answer.output,
        latency_us=answer.latency_us,
        first_byte_us=None,
        usage=answer.usage,
        cost_usd=answer.cost_usd,
        inclusion_probability=attempt.inclusion_probability,
        origin="sample",
        ending=answer.ending,
    )
