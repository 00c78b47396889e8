"""What the cases of the `anthropic` SDK share: what is asked, and how a case is made of a call."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic

from tests.conformance.conftest import Row, Side

MODEL = "claude-haiku-4-5-20251001"
LONG = "a long answer that comes in more than one piece: é, 漢字, 😀 and so on, to its end"
TOOLS: Any = [
    {
        "name": name,
        "description": "",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    for name in ("weather", "time")
]
CALLS = [
    {"name": "weather", "arguments": {"city": "Zürich"}},
    {"name": "time", "arguments": {"city": "Lima"}},
]
THOUGHT = "Two places, so two look-ups."
EVERYTHING: Any = {"$reply": {"text": "Looking.", "thinking": THOUGHT, "calls": CALLS}}
REFUSAL: Any = {"$reply": {"refusal": "I will not help with that."}}
PIXEL = base64.b64encode(bytes(range(200))).decode()


def user(content: Any, *before: Any) -> Any:
    return [*before, {"role": "user", "content": content}]


def sync(work: Callable[[anthropic.Anthropic], Any], **settings: Any) -> Callable[[Side], Any]:
    """A case with the synchronous client."""

    def call(side: Side) -> Any:
        given: Any = {**side.given, "max_retries": 0, **settings}
        with anthropic.Anthropic(base_url=side.anthropic, **given) as client:
            return work(client)

    return call


def asynchronous(
    work: Callable[[anthropic.AsyncAnthropic], Awaitable[Any]],
) -> Callable[[Side], Any]:
    """A case with the asynchronous client."""

    async def run(side: Side) -> Any:
        given: Any = {"base_url": side.anthropic, **side.given, "max_retries": 0}
        async with anthropic.AsyncAnthropic(**given) as client:
            return await work(client)

    return lambda side: asyncio.run(run(side))


def ask(**more: Any) -> Callable[[Side], Any]:
    """A message, whole or as its events, as plain values."""

    def work(client: anthropic.Anthropic) -> Any:
        answer = client.messages.create(**{"model": MODEL, "max_tokens": 2_000, **more})
        if more.get("stream"):
            return [event.model_dump() for event in answer]
        return answer.model_dump()

    return sync(work)


def calls_of(row: Row) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in row.output["tool_calls"]]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]
