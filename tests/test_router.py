"""The router over real stores, with a scripted backend in place of a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.config import Budget, Config, Serving, Task
from apprentice_pipeline.control import phases
from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.control.state import Comparison, ControlState, Phase
from apprentice_pipeline.errors import DeadlineMissed, Overloaded, ServingError
from apprentice_pipeline.records import Answer, Usage, new_pair_id, now_us
from apprentice_pipeline.routing import Attempt, Duplicate, Router, tail
from apprentice_pipeline.routing.champion import (
    ServingFacts,
    bring_into_force,
    control_of,
    keyed_prompt_digest,
    policy_of,
)
from apprentice_pipeline.serving.backend import LocalAnswer, LocalRequest
from apprentice_pipeline.settings import Home, Settings
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.wire.conversation import system_prompt_digest

TENANT, NAMESPACE = "default", "tickets"
TASK = Task(
    name=NAMESPACE,
    output_schema={"category": "str"},
    confidence_thresholds={
        "phase2_to_phase3": 0.2,
        "coaching_trigger": 0.1,
        "emergency_threshold": 0.05,
    },
)
CERTIFICATE = Certificate(0.5, 100, 0.9, 0.04, 0.05, 0.05, 1)
INPUT = {
    "messages": [
        {"role": "system", "content": "Sort the ticket."},
        {"role": "user", "content": "My card was charged twice."},
    ],
    "parameters": {"max_tokens": 32},
}
GOOD, WRONG = '{"category": "billing"}', '{"category": "shipping"}'


class Scripted:
    """A `Backend` that says what it was told to."""

    def __init__(self) -> None:
        self.text, self.confidence, self.complete = GOOD, 0.9, True
        self.loaded = True
        self.refused: str | None = None
        self.error: Exception | None = None
        self.asked: list[LocalRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, request: LocalRequest) -> LocalAnswer:
        self.asked.append(request)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return LocalAnswer(self.text, self.confidence, 20, 8, 12_000, self.complete)

    async def ready(self, champion: ChampionRecord, *, wait_s: float = 0.0) -> bool:
        return self.loaded

    def refusal(self, champion: ChampionRecord) -> str | None:
        return self.refused

    async def close(self) -> None:
        pass


class Setup:
    """A workspace with a router, and short ways to put it into a phase."""

    def __init__(self, home: Path, config: Config) -> None:
        settings = Settings(config, Home(home), bytes(32), None, {}, "test")
        self.workspace = Workspace.open(settings)
        self.spool = Spool.open(self.workspace.home.spool, self.workspace.vault)
        self.backend = Scripted()
        self.router = Router(self.workspace, self.backend, self.spool, most_background=4)

    def promote(self, version: int = 1, **facts: Any) -> None:
        digest = keyed_prompt_digest(self.workspace.vault, TENANT, system_prompt_digest(INPUT))
        served = ServingFacts(
            chance=0.1,
            certificate=facts.pop("certificate", CERTIFICATE),
            system_prompt_digests=frozenset({digest}),
            context_tokens=512,
            evaluator=facts.pop("evaluator", "structured_match"),
            calibration_rows=111,
            **facts,
        )
        record = ChampionRecord(TENANT, NAMESPACE, version, "d" * 64, "x", served.to_plain(), 0)
        self.workspace.state.set_champion(TENANT, NAMESPACE, record)
        bring_into_force(self.workspace.state, TENANT, NAMESPACE, self.policy, now_us())

    def serve(self, **facts: Any) -> None:
        """Promote, and agree until the controller serves; π then falls to its floor."""
        self.promote(**facts)
        self.observe(200, score=1.0)
        assert self.control.phase is Phase.SERVE

    def observe(self, count: int, score: float) -> None:
        def change(text: str | None) -> str:
            control = control_of(text)
            for _ in range(count):
                seen = Comparison(new_pair_id(now_us()), 0.9, score, True, True, 0.5, 1.0, now_us())
                control, _ = phases.observe(control, seen, self.policy)
            return control.to_json()

        self.workspace.state.update_control(TENANT, NAMESPACE, change)

    @property
    def policy(self) -> phases.Policy:
        return policy_of(self.workspace.config, NAMESPACE)

    @property
    def control(self) -> ControlState:
        return control_of(self.workspace.state.control(TENANT, NAMESPACE))

    def counter(self, name: str) -> float:
        return self.workspace.state.counters(TENANT, NAMESPACE).get(name, 0.0)

    async def attempt(self, **changes: Any) -> Attempt:
        pair_id = changes.pop("pair_id", None) or new_pair_id(now_us())
        return await self.router.attempt(TENANT, NAMESPACE, INPUT | changes, pair_id)

    def table(self, name: str) -> list[dict[str, Any]]:
        drain(self.workspace.home.spool, self.workspace.lake)
        return self.workspace.lake.scan(TENANT, name).collect().to_dicts()

    async def close(self) -> None:
        await self.router.close()
        self.spool.close()
        self.workspace.close()


def configured(**changes: Any) -> Config:
    sections: dict[str, Any] = {"tasks": (TASK,), "serving": Serving(registry_poll_s=0.05)}
    return Config(**(sections | changes))


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path, configured())
    yield made
    await made.close()


async def always_sampled(setup: Setup) -> None:
    """Hold π at 1."""

    def change(text: str | None) -> str:
        return phases.force_full(control_of(text), now_us() + 10**12).to_json()

    setup.workspace.state.update_control(TENANT, NAMESPACE, change)


async def test_without_a_champion_the_remote_model_answers_and_nothing_is_asked(
    setup: Setup,
) -> None:
    attempt = await setup.attempt()
    assert attempt.answer is None
    assert attempt.reason == "no champion"
    assert attempt.inclusion_probability == 1.0
    await setup.router.settle(attempt, GOOD, 900_000)
    await setup.router.settled()
    assert setup.backend.asked == []
    assert setup.router.phase(TENANT, NAMESPACE) == "collect"


async def test_in_shadow_the_local_model_is_asked_behind_the_remote_answer(setup: Setup) -> None:
    setup.promote()
    attempt = await setup.attempt()
    assert attempt.answer is None
    assert setup.backend.asked == []
    await setup.router.settle(attempt, GOOD, 900_000)
    await setup.router.settled()
    assert [request.background for request in setup.backend.asked] == [True]
    (row,) = setup.table("comparisons")
    assert row["score"] == 1.0
    assert row["phase"] == "shadow"
    assert row["sampled"]
    assert not row["served"]
    assert row["remote_latency_us"] == 900_000
    assert row["local_latency_us"] == 12_000
    assert setup.control.n == 1


async def test_a_confident_answer_is_served_and_its_saving_counted(setup: Setup) -> None:
    setup.serve(remote_cost_usd=0.004)
    attempt = await setup.attempt()
    assert attempt.answer is not None
    assert attempt.answer.output == GOOD
    assert attempt.answer.served_by == "local"
    assert attempt.answer.cost_usd == 0.0
    assert 0.0 < attempt.inclusion_probability < 1.0
    await setup.router.settled()
    assert setup.counter("served_local") == 1
    assert setup.counter("saved_usd") == pytest.approx(0.004)
    (asked,) = setup.backend.asked
    assert asked.max_new_tokens == 32
    assert asked.conversation == INPUT["messages"]


async def test_a_hesitant_answer_is_escalated_and_compared(setup: Setup) -> None:
    setup.serve()
    setup.backend.confidence = 0.3
    attempt = await setup.attempt()
    assert attempt.answer is None
    assert attempt.fallback is not None
    assert attempt.inclusion_probability == 1.0
    await setup.router.settle(attempt, WRONG, 800_000)
    await setup.router.settled()
    (row,) = setup.table("comparisons")
    assert row["score"] == 0.0
    assert row["confidence"] == pytest.approx(0.3)
    assert setup.counter("remote_escalated") == 1
    assert setup.counter(tail.escalated(1)) == 1
    assert len(setup.backend.asked) == 1, "the answer at hand is compared, not asked again"


@pytest.mark.parametrize(
    ("text", "complete", "confidence"),
    [
        ("not JSON at all", True, 0.99),
        ('{"category": 3}', True, 0.99),
        (GOOD, False, 0.99),
        (GOOD, True, float("nan")),
    ],
)
async def test_an_answer_that_may_not_be_given_is_escalated_however_confident(
    setup: Setup, text: str, complete: bool, confidence: float
) -> None:
    setup.serve()
    setup.backend.text, setup.backend.complete = text, complete
    setup.backend.confidence = confidence
    attempt = await setup.attempt()
    assert attempt.answer is None
    assert attempt.fallback is None
    await setup.router.settle(attempt, GOOD, 800_000)
    await setup.router.settled()
    assert setup.counter("local_invalid") == 1
    assert setup.table("comparisons")[0]["confidence"] == 0.0


@pytest.mark.parametrize(
    ("change", "reason", "kind"),
    [
        (
            {"messages": [{"role": "user", "content": "hi"}]},
            "system prompt not seen",
            "system prompt not seen in training",
        ),
        ({"parameters": {"tools": [{"name": "f"}]}}, "tools", "tools"),
        ({"parameters": {"n": 2}}, "does not support n", "n"),
        (
            {"messages": [INPUT["messages"][0], {"role": "user", "content": "x" * 9_000}]},
            "tokens needed",
            "more tokens than the context holds",
        ),
    ],
)
async def test_what_the_local_model_may_not_be_asked_goes_remote_with_the_reason(
    setup: Setup, change: dict[str, Any], reason: str, kind: str
) -> None:
    setup.serve()
    attempt = await setup.attempt(**change)
    assert attempt.answer is None
    assert reason in attempt.reason
    await setup.router.settle(attempt, GOOD, 800_000)
    await setup.router.settled()
    assert setup.backend.asked == []
    assert setup.counter("remote_ineligible") == 1
    counters = setup.workspace.state.counters(TENANT, NAMESPACE)
    assert tail.ineligible_by_kind(counters, 1) == {kind: 1}
    assert tail.ineligible_by_kind(counters, 2) == {}, "each champion has its own"


@pytest.mark.parametrize(
    ("error", "counter"),
    [
        (Overloaded("full"), "local_overloaded"),
        (DeadlineMissed("late"), "local_late"),
        (ServingError("down"), "local_error"),
    ],
)
async def test_a_backend_in_trouble_means_remote_and_is_counted(
    setup: Setup, error: Exception, counter: str
) -> None:
    setup.serve()
    setup.backend.error = error
    attempt = await setup.attempt()
    assert attempt.answer is None
    await setup.router.settled()
    assert setup.counter(counter) == 1
    assert setup.counter("remote_local_failed") == 1


async def test_an_adapter_that_still_loads_means_remote(setup: Setup) -> None:
    setup.serve()
    setup.backend.loaded = False
    assert (await setup.attempt()).answer is None
    assert not await setup.router.warm(TENANT, NAMESPACE, wait_s=0.0)
    setup.backend.loaded = True
    assert (await setup.attempt()).answer is not None


async def test_a_refused_artifact_raises_one_alert(setup: Setup) -> None:
    setup.serve()
    setup.backend.loaded, setup.backend.refused = False, "the signature does not match"
    for _ in range(3):
        assert (await setup.attempt()).answer is None
    await setup.router.settled()
    alerts = setup.workspace.state.alerts(TENANT, NAMESPACE)
    (alert,) = [alert for alert in alerts if alert.kind == "champion_refused"]
    assert alert.message == "the signature does not match"
    assert alert.count == 1
    assert setup.counter("local_refused") == 3


async def test_a_fault_nobody_foresaw_still_means_remote(setup: Setup) -> None:
    setup.serve()
    setup.backend.error = RuntimeError("surprise")
    attempt = await setup.attempt()
    assert attempt.answer is None
    assert attempt.reason == "RuntimeError"
    assert setup.router.counts["unexpected"] == 1


async def test_a_state_database_out_of_reach_means_remote(setup: Setup) -> None:
    setup.serve()
    facts = {"chance": "none"}
    broken = ChampionRecord(TENANT, NAMESPACE, 2, "d" * 64, "x", facts, 0)
    setup.workspace.state.set_champion(TENANT, NAMESPACE, broken)
    attempt = await setup.attempt()
    assert attempt.answer is None
    assert "cannot be read" in attempt.reason


async def test_a_sampled_request_also_goes_remote_in_the_background(setup: Setup) -> None:
    setup.serve()
    await always_sampled(setup)
    attempt = await setup.attempt()
    assert attempt.sampled
    calls = []

    async def ask() -> Answer:
        calls.append(1)
        usage = Usage(100, 10, source="provider")
        return Answer(WRONG, "gpt-4o", "remote", 700_000, usage, cost_usd=0.002)

    await setup.router.settle(attempt, duplicate=Duplicate(ask, "openai", "chat", "gpt-4o"))
    await setup.router.settled()
    assert calls == [1]
    (row,) = setup.table("comparisons")
    assert (row["score"], row["served"], row["sampled"]) == (0.0, True, True)
    (pair,) = setup.table("captures")
    assert pair["is_pair"]
    assert pair["origin"] == "sample"
    assert pair["pair_id"] != attempt.pair_id
    assert pair["inclusion_probability"] == attempt.inclusion_probability
    spent = setup.workspace.state.lifetime_spending(TENANT, NAMESPACE)
    assert spent["sample"] == (Decimal("0.002"), 1)


async def test_what_was_not_sampled_is_not_asked_twice(setup: Setup) -> None:
    setup.serve()
    served = [await setup.attempt() for _ in range(60)]

    async def ask() -> Answer:
        return Answer(GOOD, "gpt-4o", "remote", 1, Usage(1, 1), cost_usd=0.0)

    for attempt in served:
        await setup.router.settle(attempt, duplicate=Duplicate(ask, "openai", "chat", "gpt-4o"))
        await setup.router.settled()
    sampled = sum(attempt.sampled for attempt in served)
    assert sampled < 30
    assert len(setup.table("comparisons")) == sampled


@pytest.mark.parametrize(
    ("budget", "model"),
    [(Budget(daily=Decimal("0.000001")), "gpt-4o"), (Budget(), "a-model-nobody-priced")],
)
async def test_a_sample_beyond_the_budget_or_without_a_price_is_not_bought(
    tmp_path: Path, budget: Budget, model: str
) -> None:
    setup = Setup(tmp_path, configured(budget=budget))
    try:
        setup.serve()
        await always_sampled(setup)
        attempt = await setup.attempt()

        async def ask() -> Answer:
            raise AssertionError("not affordable")

        await setup.router.settle(attempt, duplicate=Duplicate(ask, "openai", "chat", model))
        await setup.router.settled()
        assert setup.counter("sample_unaffordable") == 1
        assert setup.table("comparisons") == []
    finally:
        await setup.close()


async def test_background_work_is_bounded_and_what_is_dropped_is_counted(setup: Setup) -> None:
    setup.promote()
    setup.backend.gate.clear()
    for _ in range(10):
        attempt = await setup.attempt()
        await asyncio.wait_for(setup.router.settle(attempt, GOOD, 1), 1.0)
    await asyncio.sleep(0)
    setup.backend.gate.set()
    await setup.router.settled()
    assert setup.counter("shadow_dropped") == 6
    assert len(setup.table("comparisons")) == 4


async def test_enough_agreement_in_shadow_graduates_to_serving(setup: Setup) -> None:
    setup.promote()
    for _ in range(60):
        attempt = await setup.attempt()
        await setup.router.settle(attempt, GOOD, 900_000)
        await setup.router.settled()
        if attempt.answer is not None:
            break
    assert attempt.answer is not None
    kinds = {alert.kind for alert in setup.workspace.state.alerts(TENANT, NAMESPACE)}
    assert "phase_serve" in kinds


async def test_a_fall_of_agreement_suspends_serving_at_once(setup: Setup) -> None:
    setup.serve()
    await always_sampled(setup)
    assert (await setup.attempt()).answer is not None
    setup.observe(400, score=0.0)
    await asyncio.sleep(0.15)
    attempt = await setup.attempt()
    assert attempt.answer is None
    assert setup.router.phase(TENANT, NAMESPACE) == "suspended"
    await setup.router.settle(attempt, GOOD, 900_000)
    await setup.router.settled()
    assert len(setup.table("comparisons")) == 1, "comparisons go on"


async def test_a_champion_that_moved_is_followed_and_withdrawn_ones_stop(setup: Setup) -> None:
    setup.serve()
    assert (await setup.attempt()).answer is not None
    setup.promote(version=2)
    await asyncio.sleep(0.15)
    assert (await setup.attempt()).answer is None
    assert setup.router.phase(TENANT, NAMESPACE) == "shadow"
    setup.workspace.state.set_champion(TENANT, NAMESPACE, None)
    await asyncio.sleep(0.15)
    assert (await setup.attempt()).reason == "no champion"
    assert setup.control.champion is None


async def test_a_namespace_left_alone_is_read_anew_before_it_serves(setup: Setup) -> None:
    setup.serve()
    assert (await setup.attempt()).answer is not None
    setup.workspace.state.set_champion(TENANT, NAMESPACE, None)
    await asyncio.sleep(0.2)
    assert (await setup.attempt()).answer is None, "not even once from what was known"


async def test_scores_of_another_evaluator_than_the_champion_s_are_refused(setup: Setup) -> None:
    setup.serve(evaluator="exact_match")
    attempt = await setup.attempt()
    assert attempt.answer is None
    assert "measured with exact_match" in attempt.reason


async def test_without_a_certificate_nothing_is_served(setup: Setup) -> None:
    setup.promote(certificate=None)
    setup.observe(200, score=1.0)
    attempt = await setup.attempt()
    assert attempt.answer is None
    assert attempt.plan is not None
    assert attempt.plan.shadow


async def test_closing_finishes_what_is_under_way(tmp_path: Path) -> None:
    setup = Setup(tmp_path, configured())
    setup.promote()
    for _ in range(3):
        await setup.router.settle(await setup.attempt(), GOOD, 900_000)
    await setup.router.close()
    assert len(setup.table("comparisons")) == 3
    assert setup.control.n == 3
    await setup.close()


def test_serving_facts_survive_their_json() -> None:
    from apprentice_pipeline.verify.answers import shape_of

    facts = ServingFacts(
        chance=0.07,
        certificate=CERTIFICATE,
        system_prompt_digests=frozenset({"", "ab" * 32}),
        context_tokens=512,
        evaluator="structured_match",
        shape=shape_of([GOOD] * 20),
        features=frozenset({"response_format:json_object"}),
        calibration_rows=240,
        remote_cost_usd=0.003,
    )
    assert ServingFacts.from_plain(facts.to_plain()) == facts
