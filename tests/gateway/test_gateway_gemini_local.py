"""With a champion in service, Google's SDK gets local answers in Google's shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from google import genai

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

TENANT, NAMESPACE, MODEL = "default", "tickets", "gemini-2.5-flash"
THRESHOLDS = {"phase2_to_phase3": 0.2, "coaching_trigger": 0.1, "emergency_threshold": 0.05}
TASK = {
    "name": NAMESPACE,
    "output_schema": {"category": "str"},
    "confidence_thresholds": THRESHOLDS,
}
TEXT = '{"category":"billing"}'
HEADERS = {"x-apprentice-namespace": NAMESPACE}
CALL = f"/v1beta/models/{MODEL}"
BODY = {"contents": [{"parts": [{"text": "my invoice is wrong"}]}]}
Ask = Callable[..., Any]


class Sure:
    """A `Backend` that always says the same, with confidence."""

    async def answer(self, request: LocalRequest) -> LocalAnswer:
        return LocalAnswer(TEXT, 0.9, 20, 8, 12_000, True)

    async def ready(self, champion: ChampionRecord, *, wait_s: float = 0.0) -> bool:
        return True

    def refusal(self, champion: ChampionRecord) -> str | None:
        return None

    async def close(self) -> None:
        return None


@pytest.fixture
def gateway(start: Any, server_type: Any) -> Any:
    """A gateway with a champion that has agreed for long."""
    server = server_type(
        create_frontier(FrontierSettings(), {"my invoice is wrong": {"category": "billing"}})
    )
    made = start(
        url=server.url,
        make_router=lambda workspace, spool: Router(workspace, Sure(), spool),
        tasks=[TASK],
    )
    _promote(made.workspace)
    yield made
    server.stop()


def _promote(workspace: Any) -> None:
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
        for _ in range(200):
            seen = Comparison(new_pair_id(now_us()), 0.9, 1.0, True, True, 0.5, 1.0, now_us())
            control, _ = phases.observe(control, seen, policy)
        return str(control.to_json())

    workspace.state.update_control(TENANT, NAMESPACE, change)


def until_local(ask: Ask, gateway: Any) -> Any:
    """The first answer that is local: the gateway polls for champions."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        said = ask(gateway.capture("gemini"), f"{CALL}:generateContent", BODY, HEADERS)
        if said.header("x-apprentice-served-by") == "local":
            return said
        time.sleep(0.1)
    raise AssertionError("never served locally")


def test_local_answers_have_googles_shape_whole_and_streamed(gateway: Any, ask: Ask) -> None:
    whole = until_local(ask, gateway).json()
    assert whole["candidates"][0]["finishReason"] == "STOP"
    assert whole["modelVersion"] == MODEL
    options: Any = {"base_url": gateway.capture("gemini"), "headers": HEADERS}
    with genai.Client(api_key="AIza-x", http_options=options) as sdk:
        answer = sdk.models.generate_content(model=MODEL, contents="my invoice is wrong")
        assert answer.sdk_http_response is not None
        assert (answer.sdk_http_response.headers or {})["x-apprentice-served-by"] == "local"
        assert answer.text == TEXT
        assert answer.usage_metadata is not None
        assert answer.usage_metadata.candidates_token_count == 8
        chunks = sdk.models.generate_content_stream(model=MODEL, contents="my invoice is wrong")
        assert "".join(chunk.text or "" for chunk in chunks) == TEXT
    array = ask(gateway.capture("gemini"), f"{CALL}:streamGenerateContent", BODY, HEADERS)
    assert array.header("x-apprentice-served-by") == "local"
    assert array.header("content-type") == "application/json"
    assert array.json()[-1]["candidates"][0]["finishReason"] == "STOP"
    local = [row for row in gateway.captured() if row["served_by"] == "local"]
    assert {(row["provider"], row["endpoint"]) for row in local} == {("gemini", "generateContent")}
    assert len(local) == 4
    assert not any(row["is_pair"] for row in local)
