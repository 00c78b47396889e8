"""With a champion in service the local model answers in the provider's own shape."""

from __future__ import annotations

import time
from typing import Any

import anthropic
import openai
import pytest

from apprentice_pipeline.control import phases
from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.control.state import Comparison
from apprentice_pipeline.demo.frontier import FrontierSettings, create_frontier
from apprentice_pipeline.records import new_pair_id, now_us
from apprentice_pipeline.routing import Router
from apprentice_pipeline.routing.champion import (
    ServingFacts,
    bring_into_force,
    control_of,
    keyed_prompt_digest,
    policy_of,
)
from apprentice_pipeline.serving.backend import LocalAnswer, LocalRequest
from apprentice_pipeline.store.state import ChampionRecord

TENANT, NAMESPACE = "default", "tickets"
TASK = {
    "name": NAMESPACE,
    "output_schema": {"category": "str"},
    "confidence_thresholds": {
        "phase2_to_phase3": 0.2,
        "coaching_trigger": 0.1,
        "emergency_threshold": 0.05,
    },
}
TEXT = '{"category":"billing"}'
MESSAGES: Any = [{"role": "user", "content": "my invoice is wrong"}]
HEADERS = {"x-apprentice-namespace": NAMESPACE}


class Scripted:
    """A `Backend` that always says the same, with a confidence that can be set."""

    confidence = 0.9

    async def answer(self, request: LocalRequest) -> LocalAnswer:
        return LocalAnswer(TEXT, self.confidence, 20, 8, 12_000, True)

    async def ready(self, champion: ChampionRecord, *, wait_s: float = 0.0) -> bool:
        return True

    def refusal(self, champion: ChampionRecord) -> str | None:
        return None

    async def close(self) -> None:
        return None


@pytest.fixture
def backend() -> Scripted:
    return Scripted()


@pytest.fixture
def gateway(start: Any, backend: Scripted, server_type: Any) -> Any:
    """A gateway before the stand-in frontier, with a router over the scripted backend."""
    server = server_type(
        create_frontier(FrontierSettings(), {"my invoice is wrong": {"category": "billing"}})
    )

    def make_router(workspace: Any, spool: Any) -> Router:
        return Router(workspace, backend, spool)

    yield start(url=server.url, make_router=make_router, tasks=[TASK])
    server.stop()


def promote(gateway: Any, *, agreements: int) -> None:
    workspace = gateway.workspace
    facts = ServingFacts(
        chance=0.1,
        certificate=Certificate(0.5, 100, 0.9, 0.04, 0.05, 0.05, 1),
        system_prompt_digests=frozenset({keyed_prompt_digest(workspace.vault, TENANT, "")}),
        context_tokens=512,
        evaluator="structured_match",
        calibration_rows=111,
    )
    record = ChampionRecord(TENANT, NAMESPACE, 1, "d" * 64, "x", facts.to_plain(), 0)
    workspace.state.set_champion(TENANT, NAMESPACE, record)
    policy = policy_of(workspace.config, NAMESPACE)
    bring_into_force(workspace.state, TENANT, NAMESPACE, policy, now_us())

    def change(text: str | None) -> str:
        control = control_of(text)
        for _ in range(agreements):
            seen = Comparison(new_pair_id(now_us()), 0.9, 1.0, True, True, 0.5, 1.0, now_us())
            control, _ = phases.observe(control, seen, policy)
        return control.to_json()

    workspace.state.update_control(TENANT, NAMESPACE, change)
    time.sleep(0.8)  # the gateway polls for champions


def client(gateway: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=gateway.capture() + "/v1", api_key="sk-x", default_headers=HEADERS, max_retries=0
    )


def test_without_a_champion_the_provider_answers(gateway: Any) -> None:
    with client(gateway) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert raw.headers["x-apprentice-served-by"] == "remote"


def test_openai_clients_get_local_answers_in_openais_shape(gateway: Any) -> None:
    promote(gateway, agreements=200)
    with client(gateway) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
        assert raw.headers["x-apprentice-served-by"] == "local"
        completion = raw.parse()
        assert completion.choices[0].message.content == TEXT
        assert completion.model == "gpt-4o"
        with sdk.chat.completions.stream(model="gpt-4o", messages=MESSAGES) as events:
            assert events.get_final_completion().choices[0].message.content == TEXT
    local = [row for row in gateway.captured() if row["served_by"] == "local"]
    assert len(local) == 2
    assert raw.headers["x-apprentice-pair-id"] == local[0]["pair_id"]
    assert not any(row["is_pair"] for row in local)
    assert gateway.counted("local", NAMESPACE) == 2


def test_anthropic_clients_get_local_answers_in_anthropics_shape(gateway: Any) -> None:
    promote(gateway, agreements=200)
    ask: Any = {"model": "claude-haiku-4-5-20251001", "max_tokens": 90, "messages": MESSAGES}
    with anthropic.Anthropic(
        base_url=gateway.capture("anthropic"), api_key="sk-x", default_headers=HEADERS
    ) as sdk:
        raw = sdk.messages.with_raw_response.create(**ask)
        assert raw.headers["x-apprentice-served-by"] == "local"
        with sdk.messages.stream(**ask) as events:
            assert events.get_final_text() == TEXT


def test_in_shadow_the_provider_answers_and_both_are_compared(gateway: Any) -> None:
    promote(gateway, agreements=0)
    with client(gateway) as sdk:
        for _ in range(3):
            raw = sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
            assert raw.headers["x-apprentice-served-by"] == "remote"
    end = time.monotonic() + 10
    while gateway.workspace.lake.scan(TENANT, "comparisons").collect().height < 3:
        assert time.monotonic() < end
        gateway.captured()
        time.sleep(0.05)
    scores = gateway.workspace.lake.scan(TENANT, "comparisons").collect()["score"].to_list()
    assert scores == [1.0, 1.0, 1.0]


def test_an_answer_below_the_threshold_is_escalated(gateway: Any, backend: Scripted) -> None:
    promote(gateway, agreements=200)
    backend.confidence = 0.1
    with client(gateway) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert raw.headers["x-apprentice-served-by"] == "remote"
    assert [row["is_pair"] for row in gateway.captured()] == [True]


def test_without_budget_a_hesitant_answer_is_given_and_marked(
    start: Any, backend: Scripted, server_type: Any
) -> None:
    server = server_type(
        create_frontier(FrontierSettings(), {"my invoice is wrong": {"category": "billing"}})
    )
    gateway = start(
        url=server.url,
        make_router=lambda workspace, spool: Router(workspace, backend, spool),
        tasks=[TASK],
        budget={"daily": 0.000001, "enforce_passthrough": True},
    )
    promote(gateway, agreements=200)
    backend.confidence = 0.1
    with client(gateway) as sdk:
        create = sdk.chat.completions.with_raw_response.create
        paid = create(model="gpt-4o", messages=MESSAGES)
        assert paid.headers["x-apprentice-served-by"] == "remote"
        assert "x-apprentice-quality-risk" not in paid.headers
        gateway.flush()
        end = time.monotonic() + 10
        while (raw := create(model="gpt-4o", messages=MESSAGES)).headers[
            "x-apprentice-served-by"
        ] == "remote":
            assert time.monotonic() < end
            time.sleep(0.1)
        assert raw.headers["x-apprentice-quality-risk"] == "true"
        backend.confidence = 0.9
        sure = create(model="gpt-4o", messages=MESSAGES)
        assert "x-apprentice-quality-risk" not in sure.headers, "above the threshold is no risk"
    server.stop()
    assert gateway.counted("quality_risk", NAMESPACE) >= 1


def test_what_the_champion_was_not_trained_for_goes_to_the_provider(gateway: Any) -> None:
    promote(gateway, agreements=200)
    with client(gateway) as sdk:
        unseen: Any = [{"role": "system", "content": "be rude"}, *MESSAGES]
        raw = sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=unseen)
        assert raw.headers["x-apprentice-served-by"] == "remote"
        raw = sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES, n=2)
        assert raw.headers["x-apprentice-served-by"] == "remote"
        responses = sdk.responses.with_raw_response.create(model="gpt-4o", input=MESSAGES)
        assert responses.headers["x-apprentice-served-by"] == "remote"
