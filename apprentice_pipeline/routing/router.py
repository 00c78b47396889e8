"""`attempt` before the remote call, `settle` after it: the router the gateway and `run` share.

Belongs here: gathering for one request, comparing the two answers, counting. Does not: who may
answer, what is served, when to sample (`control`); asking (`local`); writing (`recording`).

How the two are used, for each request:

    attempt = await router.attempt(tenant, namespace, input, pair_id)
    if attempt.answer is not None:            # served locally
        ...give it to the caller, record the exchange (served_by "local")...
        await router.settle(attempt, duplicate=Duplicate(ask, provider, endpoint, model))
    else:                                     # the remote model answers, as without a router
        ...
        await router.settle(attempt, remote_output, remote_latency_us)

`settle` queues work and returns at once. `Duplicate.ask` is bound to the request in flight (for
the gateway: with the customer's own headers), is called at most once, only when the request
was sampled (`attempt.sampled`) and the budget allows, and is forgotten afterwards; no key is kept.

Promises: neither ever raises to the caller (cancellation apart); whatever fails, the remote
model answers and a counter says why; background work is bounded, and dropped when full.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

from apprentice_pipeline.control.eligibility import eligible, obstacle
from apprentice_pipeline.control.phases import Plan, Verdict, inclusion_probability, judge, plan
from apprentice_pipeline.control.sampling import keyed_draw
from apprentice_pipeline.control.state import ControlState
from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.records import Answer, ComparisonRow, now_us
from apprentice_pipeline.remote.prices import cost_usd
from apprentice_pipeline.routing import tail
from apprentice_pipeline.routing.attempt import Attempt, Duplicate, Local, sampled_exchange
from apprentice_pipeline.routing.background import Background
from apprentice_pipeline.routing.local import LocalModel, served_answer
from apprentice_pipeline.routing.recording import Recorder
from apprentice_pipeline.routing.spending import Call, Spending
from apprentice_pipeline.routing.standing import Standing, Standings
from apprentice_pipeline.serving.backend import Backend
from apprentice_pipeline.store.spool import RecordSink
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.verify.evaluators import Embed
from apprentice_pipeline.wire.conversation import prompt_messages, request_facts
from apprentice_pipeline.wire.redaction import redactor


class Router:
    """Routes the requests of one process. Lives on one event loop; `close` it.

    `counts` are this process's counters since its start, for metrics; the same go to the state
    database by namespace and day, but for those of namespaces without a champion.
    """

    def __init__(
        self,
        workspace: Workspace,
        backend: Backend,
        spool: RecordSink,
        *,
        embed: Embed | None = None,
        most_background: int = 64,
    ) -> None:
        self._config = workspace.config
        self._local = LocalModel(workspace, backend)
        self._spool = spool
        self._recorder = Recorder(workspace, spool, self._control_changed)
        self._standings = Standings(workspace, embed, self._recorder.announce)
        self._spending = Spending(workspace)
        self._background = Background(most=most_background)
        self.counts: Counter[str] = Counter()

    async def attempt(
        self, tenant: str, namespace: str, input: dict[str, Any], pair_id: str
    ) -> Attempt:
        """Answer locally if the controller allows it. Never raises."""
        blank = Attempt(tenant, namespace, pair_id, input, reason="no champion")
        try:
            standing = await self._standings.get(tenant, namespace)
            if standing is not None:
                return await self._attempt(standing, blank)
        except ApprenticeError as error:
            return self._to_remote(blank, error.message, f"failed_{type(error).__name__}")
        except Exception as error:  # fail open: the customer's call goes on
            self._count(blank, unexpected=1)
            return self._to_remote(blank, type(error).__name__, "failed_unexpected")
        self.counts["remote_no_champion"] += 1
        return blank

    async def settle(
        self,
        attempt: Attempt,
        remote_output: Any = None,
        remote_latency_us: int = 0,
        *,
        duplicate: Duplicate | None = None,
    ) -> None:
        """Learn from a request: queue the comparison it owes, if any. Never raises.

        `remote_output` is None when the remote call failed or was not made; `duplicate` is
        wanted for a request that was served locally.
        """
        decided, standing = attempt.plan, attempt.standing
        if decided is None or standing is None:
            return
        count = partial(self._count_one, attempt)
        if attempt.answer is not None:
            if attempt.sampled and duplicate is not None:
                self._background.start("sample", self._sample(attempt, duplicate), count)
        elif remote_output is not None and (decided.shadow or attempt.local is not None):
            kind = "shadow" if decided.shadow else "escalated"
            work = self._compare(attempt, remote_output, remote_latency_us)
            self._background.start(kind, work, count)

    async def warm(self, tenant: str, namespace: str, *, wait_s: float) -> bool:
        """Whether the namespace's champion is loaded, waiting at most so long. Never raises."""
        try:
            standing = await self._standings.get(tenant, namespace)
        except ApprenticeError:
            return False
        return standing is not None and await self._local.ready(standing, wait_s=wait_s)

    def count_quality_risk(self, attempt: Attempt) -> None:
        """Note that the caller gave out `attempt.fallback`, for want of budget."""
        self._count(attempt, quality_risk=1)

    def phase(self, tenant: str, namespace: str) -> str:
        """The phase as this process last knew it; `collect` where it knows of no champion."""
        standing = self._standings.peek(tenant, namespace)
        return "collect" if standing is None else standing.control.phase.value

    async def settled(self) -> None:
        """Returns once all background work is done and written.

        Raises: StoreError when the state database cannot take it now.
        """
        await self._background.finished()
        await self._recorder.flush()

    async def close(self, timeout_s: float = 5.0) -> None:
        """Finish what is under way within the time, drop the rest, write what is known."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._background.finished()
        except TimeoutError:
            self.counts["dropped_at_close"] += await self._background.stop()
        await self._recorder.close()

    async def _attempt(self, standing: Standing, blank: Attempt) -> Attempt:
        facts = self._local.facts(standing, blank.input)
        conversation = prompt_messages(blank.input)
        reason, kind = (ask(facts, standing.eligibility) for ask in (eligible, obstacle))
        if reason is None and conversation is None:
            reason = kind = "not a conversation of text alone"
        draw = keyed_draw(standing.draw_key, blank.pair_id)
        decided = plan(standing.control, draw, reason, now_us=now_us())
        attempt = replace(blank, plan=decided, standing=standing)
        if kind is not None:
            self._count(attempt, **{tail.ineligible(standing.champion.version, kind): 1})
        if decided.answer_from == "remote" or conversation is None:
            counter = decided.reason if decided.shadow else "ineligible"
            return self._to_remote(attempt, decided.reason, counter)
        count = partial(self._count_one, attempt)
        local = await self._local.ask(
            standing, conversation, facts.max_output_tokens, count, background=False
        )
        if local is None:
            self._say_refusal(attempt, standing)
            return self._to_remote(attempt, "the local model did not answer", "local_failed")
        return self._judge(replace(attempt, local=local), standing, decided, local)

    def _judge(self, attempt: Attempt, standing: Standing, decided: Plan, local: Local) -> Attempt:
        newest = self._standings.peek(attempt.tenant, attempt.namespace)
        control = newest.control if newest is not None else standing.control
        verdict = judge(control, decided, local.confidence)
        served = verdict is Verdict.SERVED and local.valid
        self._recorder.watch(attempt.tenant, attempt.namespace, local.confidence, not served)
        answer = served_answer(standing, local)
        if not served:
            attempt = replace(attempt, fallback=answer if local.valid else None)
            self._count(attempt, **{tail.escalated(standing.champion.version): 1})
            return self._to_remote(attempt, "below the confidence threshold", "escalated")
        self._count(attempt, served_local=1, saved_usd=self._saved_usd(standing, answer))
        share = inclusion_probability(decided, verdict)
        return replace(attempt, answer=answer, reason="served", inclusion_probability=share)

    async def _compare(self, attempt: Attempt, remote_output: Any, remote_latency_us: int) -> None:
        """Score the local answer (asking for it first, in shadow) against the remote one."""
        decided, standing, local = attempt.plan, attempt.standing, attempt.local
        if decided is None or standing is None:
            return
        conversation = prompt_messages(attempt.input)
        if local is None and conversation is not None:
            room = self._local.room(request_facts(attempt.input))
            count = partial(self._count_one, attempt)
            local = await self._local.ask(standing, conversation, room, count, background=True)
        if local is None:
            self._say_refusal(attempt, standing)
            return
        score = await asyncio.to_thread(standing.evaluator.score, remote_output, local.answer.text)
        row = ComparisonRow(
            pair_id=attempt.pair_id,
            namespace=attempt.namespace,
            created_at_us=now_us(),
            version=standing.champion.version,
            phase=standing.control.phase.value,
            confidence=local.confidence,
            score=score,
            sampled=decided.sampled,
            served=attempt.answer is not None,
            tau=decided.tau,
            pi=decided.pi,
            remote_latency_us=remote_latency_us,
            local_latency_us=local.answer.latency_us,
        )
        await self._recorder.compared(attempt.tenant, row)
        self._count(attempt, compared=1)

    async def _sample(self, attempt: Attempt, duplicate: Duplicate) -> None:
        """Ask the remote model what was answered locally: a pair, and a comparison."""
        call = Call(attempt.tenant, attempt.namespace, "sample", duplicate.model, attempt.input)
        answer = await self._spending.call(call, duplicate.ask)
        exchange = sampled_exchange(attempt, duplicate, answer)
        exchange = redactor(self._config.capture).redacted(exchange)
        await self._spool.commit(exchange, tenant=attempt.tenant)
        if exchange.is_pair:
            await self._compare(attempt, answer.output, answer.latency_us)

    def _saved_usd(self, standing: Standing, answer: Answer) -> float:
        """About what the remote answer would have cost; 0 where no price is known."""
        if standing.facts.remote_cost_usd is not None:
            return standing.facts.remote_cost_usd
        remote = self._config.remote
        return cost_usd(remote.provider, remote.model, answer.usage, remote.prices) or 0.0

    def _say_refusal(self, attempt: Attempt, standing: Standing) -> None:
        if (why := self._local.refusal(standing)) is not None:
            self._recorder.alert(attempt.tenant, attempt.namespace, "champion_refused", why)

    def _to_remote(self, attempt: Attempt, reason: str, counter: str) -> Attempt:
        self._count(attempt, **{f"remote_{counter}": 1})
        return replace(attempt, reason=reason)

    def _count_one(self, attempt: Attempt, name: str) -> None:
        self._count(attempt, **{name: 1})

    def _count(self, attempt: Attempt, **increments: float) -> None:
        for name, value in increments.items():
            self.counts[name] += value  # type: ignore[assignment]
        self._recorder.count(attempt.tenant, attempt.namespace, **increments)

    def _control_changed(self, tenant: str, namespace: str, control: ControlState) -> None:
        self._standings.replace_control(tenant, namespace, control)
