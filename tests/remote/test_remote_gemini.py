"""Our own calls to Gemini, against the stand-in frontier on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from apprentice_pipeline import config
from apprentice_pipeline.demo.frontier import FrontierSettings, RunningFrontier, start_frontier
from apprentice_pipeline.errors import RemoteError
from apprentice_pipeline.records import Usage
from apprentice_pipeline.remote.client import Remote
from apprentice_pipeline.remote.prices import cost_usd
from apprentice_pipeline.wire import gemini

KEY = "AIza-secret-77"
INPUT = {
    "messages": [
        {"role": "system", "content": "Classify."},
        {"role": "user", "content": "my invoice is wrong"},
    ],
    "parameters": {"max_output_tokens": 50, "temperature": 0.7, "n": 1},
}
TABLE: dict[str, Any] = {
    "my invoice is wrong": "billing",
    "unsafe": {"$reply": {"text": "half of", "stop": "SAFETY"}},
}


@pytest.fixture(scope="module")
def frontier() -> Iterator[RunningFrontier]:
    with start_frontier(FrontierSettings(require_key=KEY), TABLE) as running:
        yield running


@asynccontextmanager
async def remote(
    frontier: RunningFrontier, key: str = KEY, **changes: Any
) -> AsyncIterator[Remote]:
    values: dict[str, Any] = {
        "provider": "gemini",
        "model": "gemini-2.5-flash",
        "api_key_env": "GEMINI_API_KEY",
        "endpoints": {"gemini": frontier.url},
        "timeout_s": 60,
        "max_retries": 0,
    }
    settings = config.Remote.model_validate({**values, **changes})
    client = Remote(settings, {"GEMINI_API_KEY": key}.get)
    try:
        yield client
    finally:
        await client.close()


async def test_gemini_answers_with_usage_and_cost(frontier: RunningFrontier) -> None:
    async with remote(frontier) as client:
        answer = await client.ask(INPUT)
    assert (answer.output, answer.model, answer.ending) == ("billing", "gemini-2.5-flash", "whole")
    assert answer.usage.source == "provider"
    assert answer.cost_usd == cost_usd("gemini", "gemini-2.5-flash", answer.usage)
    assert answer.cost_usd


async def test_what_was_cut_or_refused_says_so(frontier: RunningFrontier) -> None:
    async with remote(frontier) as client:
        refused = await client.ask({"messages": [{"role": "user", "content": "unsafe"}]})
        short = {**INPUT, "parameters": {"max_output_tokens": 1}}
        cut = await client.ask(short)
    assert (refused.ending, cut.ending) == ("refused", "cut")


async def test_a_captured_request_is_asked_again_as_it_was(frontier: RunningFrontier) -> None:
    body = b'{"contents": [{"role": "user", "parts": [{"text": "my invoice is wrong"}]}]}'
    asked = gemini.read_request("generateContent", body)
    async with remote(frontier) as client:
        assert (await client.ask(asked.input, temperature=0.9)).output == "billing"


async def test_a_refused_key_is_said_without_the_key(frontier: RunningFrontier) -> None:
    async with remote(frontier, "AIza-wrong") as client:
        with pytest.raises(RemoteError, match=r"401 \(UNAUTHENTICATED\)") as refused:
            await client.ask(INPUT)
    assert "AIza" not in f"{refused.value} {refused.value.remedy}"


def test_a_long_prompt_costs_more_with_pro_alone() -> None:
    def cost(model: str, prompt: int) -> float:
        said = cost_usd("gemini", model, Usage(prompt, 1_000, 0, None, "provider"))
        assert said is not None
        return said

    assert cost("gemini-2.5-pro", 200_000) == pytest.approx(0.26)
    assert cost("gemini-2.5-pro", 200_001) == pytest.approx(0.515, rel=1e-4)
    assert cost("gemini-2.5-flash", 400_000) == pytest.approx(
        2 * cost("gemini-2.5-flash", 200_000), rel=0.03
    )
