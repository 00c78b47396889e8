"""LangChain's and pydantic-ai's clients, straight and through the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pydantic
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.conformance.conftest import Both, Side

GPT, CLAUDE = "gpt-4o", "claude-haiku-4-5-20251001"
LONG = "a long answer that comes in more than one piece: é, 漢字, 😀 and so on, to its end"
TICKET = {"category": "billing", "priority": 2}
CALLING: Any = {"$reply": {"calls": [{"name": "weather", "arguments": {"city": "Zürich"}}]}}


class Ticket(pydantic.BaseModel):
    """A support ticket, filed."""

    category: str
    priority: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def chat(side: Side, provider: str) -> Any:
    """LangChain's model of a provider."""
    given: Any = {"api_key": "sk-x", "max_retries": 0}
    if provider == "openai":
        return ChatOpenAI(model=GPT, base_url=side.openai, **given)
    return ChatAnthropic(model_name=CLAUDE, base_url=side.anthropic, max_tokens=500, **given)


def langchain(work: Callable[[Any], Any]) -> Callable[[Side], Any]:
    """A case with the models of both providers."""
    return lambda side: [work(chat(side, provider)) for provider in ("openai", "anthropic")]


def told(message: Any) -> Any:
    """A LangChain message but for the ids that LangChain makes up."""
    return message.content, message.tool_calls, message.usage_metadata


def test_langchain_whole_and_streamed(both: Both) -> None:
    def work(model: Any) -> Any:
        whole = told(model.invoke([("system", "be brief"), ("user", "ping")]))
        return whole, [told(chunk) for chunk in model.stream("ping")]

    run = both(langchain(work), {"ping": LONG})
    assert [(row.is_pair, row.output) for row in run.rows] == [(True, LONG)] * 4
    assert [row.streamed for row in run.rows] == [False, True, False, True]
    # LangChain asks OpenAI for a stream's usage only at OpenAI's own address.
    sources = [row.usage_source for row in run.rows]
    assert sources == ["provider", "estimated", "provider", "provider"]


def test_langchain_s_tools_and_structured_output(both: Both) -> None:
    def work(model: Any) -> Any:
        called = told(model.bind_tools([weather]).invoke("umbrella?"))
        asked = model.with_structured_output(Ticket, method="function_calling")
        return called, asked.invoke("file it")

    run = both(langchain(work), {"umbrella?": CALLING, "file it": TICKET})
    assert [value[1] for value in run.value] == [Ticket(**TICKET)] * 2
    made = [row.output["tool_calls"][0]["function"] for row in run.rows]
    assert [call["name"] for call in made] == ["weather", "Ticket"] * 2
    assert [json.loads(call["arguments"]) for call in made] == [{"city": "Zürich"}, TICKET] * 2


def agents(side: Side, **more: Any) -> list[Agent[Any, Any]]:
    """pydantic-ai's agents on both providers."""
    gpt = OpenAIProvider(base_url=side.openai, api_key="sk-x")
    claude = AnthropicProvider(base_url=side.anthropic, api_key="sk-x")
    models = (OpenAIChatModel(GPT, provider=gpt), AnthropicModel(CLAUDE, provider=claude))
    return [Agent(model, **more) for model in models]


def test_pydantic_ai_whole_and_streamed(both: Both) -> None:
    async def work(side: Side) -> Any:
        got = []
        for agent in agents(side, instructions="be brief"):
            got.append((await agent.run("ping")).output)
            async with agent.run_stream("ping") as stream:
                got.append([text async for text in stream.stream_text(debounce_by=None)][-1])
            await agent.model.client.close()
        return got

    run = both(lambda side: asyncio.run(work(side)), {"ping": LONG})
    assert run.value == [LONG] * 4
    assert [(row.is_pair, row.output) for row in run.rows] == [(True, LONG)] * 4


def test_pydantic_ai_s_structured_output(both: Both) -> None:
    async def work(side: Side) -> Any:
        got = []
        for agent in agents(side, output_type=Ticket):
            got.append((await agent.run("file it")).output)
            await agent.model.client.close()
        return got

    run = both(lambda side: asyncio.run(work(side)), {"file it": TICKET})
    assert run.value == [Ticket(**TICKET)] * 2
    made = [row.output["tool_calls"][0]["function"] for row in run.rows]
    assert [json.loads(call["arguments"]) for call in made] == [TICKET] * 2
