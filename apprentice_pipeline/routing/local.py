"""Asking the local model: the request as it wants it, its answer as it may be used.

Belongs here: facts, readiness, deadlines, validity of the answer. Does not: serving decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from apprentice_pipeline.control.eligibility import RequestFacts
from apprentice_pipeline.errors import ApprenticeError, DeadlineMissed, Overloaded
from apprentice_pipeline.records import Answer, Message, Usage
from apprentice_pipeline.routing.attempt import Local
from apprentice_pipeline.routing.champion import keyed_prompt_digest
from apprentice_pipeline.routing.standing import Standing
from apprentice_pipeline.serving.backend import Backend, LocalAnswer, LocalRequest
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.verify.evaluators import output_valid
from apprentice_pipeline.wire.conversation import request_facts

BACKGROUND_DEADLINE_MS = 60_000
Count = Callable[[str], None]


class LocalModel:
    """The backend as the router asks it."""

    def __init__(self, workspace: Workspace, backend: Backend) -> None:
        self._settings = workspace.config.local
        self._vault = workspace.vault
        self._backend = backend

    def facts(self, standing: Standing, input: dict[str, Any]) -> RequestFacts:
        """The request's facts; room is kept for at most as many tokens as we would generate."""
        facts, tenant = request_facts(input), standing.champion.tenant
        return replace(
            facts,
            system_prompt_digest=keyed_prompt_digest(
                self._vault, tenant, facts.system_prompt_digest
            ),
            max_output_tokens=self.room(facts),
        )

    def room(self, facts: RequestFacts) -> int:
        """Tokens an answer may have: what the request allows, at most what is configured."""
        most = self._settings.max_new_tokens
        return min(facts.max_output_tokens or most, most)

    async def ready(self, standing: Standing, *, wait_s: float = 0.0) -> bool:
        """Whether the champion is loaded; begins to load it if not. Never raises."""
        return await self._backend.ready(standing.champion, wait_s=wait_s)

    def refusal(self, standing: Standing) -> str | None:
        """Why the backend will not load the champion, None when it has not refused it."""
        return self._backend.refusal(standing.champion)

    async def ask(
        self,
        standing: Standing,
        conversation: list[Message],
        max_new_tokens: int,
        count: Count,
        *,
        background: bool,
    ) -> Local | None:
        """The local model's answer; None, and counted why, when there is none."""
        champion, settings = standing.champion, self._settings
        request = LocalRequest(
            tenant=champion.tenant,
            namespace=champion.namespace,
            version=champion.version,
            conversation=conversation,
            max_new_tokens=max_new_tokens,
            deadline_ms=BACKGROUND_DEADLINE_MS if background else settings.deadline_ms,
            background=background,
        )
        try:
            if not await self.ready(standing):
                count("local_refused" if self.refusal(standing) else "local_loading")
                return None
            answer = await self._backend.answer(request)
        except Overloaded:
            count("local_overloaded")
        except DeadlineMissed:
            count("local_late")
        except ApprenticeError:
            count("local_error")
        else:
            return _checked(standing, answer, count)
        return None


def _checked(standing: Standing, answer: LocalAnswer, count: Count) -> Local:
    """An answer cut short, not valid for the task, or without a sane confidence weighs 0."""
    sane = answer.complete and math.isfinite(answer.confidence)
    valid = sane and output_valid(standing.task, answer.text, standing.facts.shape)
    if not valid:
        count("local_invalid")
    return Local(answer, answer.confidence if valid else 0.0, valid)


def served_answer(standing: Standing, local: Local) -> Answer:
    """A local answer as callers of either model get it; it costs nothing a call."""
    champion, answer = standing.champion, local.answer
    return Answer(
        output=answer.text,
        model=f"{champion.namespace}-v{champion.version}",
        served_by="local",
        latency_us=answer.latency_us,
        usage=Usage(answer.input_tokens, answer.output_tokens, source="estimated"),
        cost_usd=0.0,
        confidence=answer.confidence,
    )
