"""The official SDKs, pointed at the gateway, before the stand-in frontier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from apprentice_pipeline.demo.frontier import FrontierSettings, create_frontier

ANSWER = {"category": "billing", "priority": 2, "note": "long enough to be several events: é😀"}
TEXT = '{"category":"billing","priority":2,"note":"long enough to be several events: é😀"}'
MESSAGES: Any = [{"role": "user", "content": "my invoice is wrong"}]


@pytest.fixture
def frontier(start: Any, server_type: Any) -> Iterator[Any]:
    server = server_type(
        create_frontier(FrontierSettings(require_key="sk-x"), {"my invoice is wrong": ANSWER})
    )
    yield start(url=server.url)
    server.stop()


def outputs(gateway: Any) -> list[Any]:
    return [(row["is_pair"], gateway.opened(row, "output")) for row in gateway.captured()]


def test_openai_chat(frontier: Any) -> None:
    with openai.OpenAI(base_url=frontier.capture() + "/v1", api_key="sk-x") as client:
        whole = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert whole.choices[0].message.content == TEXT
        with client.chat.completions.stream(model="gpt-4o", messages=MESSAGES) as events:
            assert events.get_final_completion().choices[0].message.content == TEXT
    assert outputs(frontier) == [(True, TEXT), (True, TEXT)]


def test_openai_responses(frontier: Any) -> None:
    with openai.OpenAI(base_url=frontier.capture() + "/v1", api_key="sk-x") as client:
        assert client.responses.create(model="gpt-4o", input=MESSAGES).output_text == TEXT
        with client.responses.stream(model="gpt-4o", input=MESSAGES) as events:
            assert events.get_final_response().output_text == TEXT
    assert outputs(frontier) == [(True, TEXT), (True, TEXT)]


def test_anthropic_messages(frontier: Any) -> None:
    ask: Any = {"model": "claude-haiku-4-5-20251001", "max_tokens": 90, "messages": MESSAGES}
    with anthropic.Anthropic(base_url=frontier.capture("anthropic"), api_key="sk-x") as client:
        block = client.messages.create(**ask).content[0]
        assert block.type == "text"
        assert block.text == TEXT
        with client.messages.stream(**ask) as events:
            assert events.get_final_text() == TEXT
    assert outputs(frontier) == [(True, TEXT), (True, TEXT)]
    assert all(row["usage_source"] == "provider" for row in frontier.captured())


async def test_async_openai(frontier: Any) -> None:
    async with openai.AsyncOpenAI(base_url=frontier.capture() + "/v1", api_key="sk-x") as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True
        )
        parts = [c.choices[0].delta.content or "" async for c in stream if c.choices]
    assert "".join(parts) == TEXT


def test_a_providers_error_is_the_sdks_own_exception(frontier: Any) -> None:
    with (
        openai.OpenAI(
            base_url=frontier.capture() + "/v1", api_key="sk-wrong", max_retries=0
        ) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert refused.value.response.headers["x-apprentice-served-by"] == "remote"


def test_our_refusal_is_the_sdks_own_exception(frontier: Any) -> None:
    frontier.workspace.state.create_key(tenant="t", namespace=None, role="tenant", now_us=1)
    with (
        anthropic.Anthropic(
            base_url=frontier.capture("anthropic"), api_key="sk-x", max_retries=0
        ) as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.messages.create(model="claude", max_tokens=5, messages=MESSAGES)
