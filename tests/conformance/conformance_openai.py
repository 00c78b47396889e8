"""What the cases of the `openai` SDK share: what is asked, and how a case is made of a call."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pydantic

from tests.conformance.conftest import Row, Side

MODEL = "gpt-4o"
LONG = "a long answer that comes in more than one piece: é, 漢字, 😀 and so on, to its end"
PIXEL = base64.b64encode(bytes(range(200))).decode()
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "time")
]
FLAT_TOOLS: Any = [{"type": "function", "strict": False, **tool["function"]} for tool in TOOLS]
CALLS = [
    {"name": "weather", "arguments": {"city": "Zürich"}},
    {"name": "time", "arguments": {"city": "Lima"}},
]
TWO_CALLS: Any = {"$reply": {"calls": CALLS}}
TALKING_CALLS: Any = {"$reply": {"text": "Looking both up.", "calls": CALLS}}
REFUSAL: Any = {"$reply": {"refusal": "I will not help with that."}}


class Ticket(pydantic.BaseModel):
    """What structured outputs are asked for."""

    category: str
    priority: int


def user(content: Any, *before: Any) -> Any:
    return [*before, {"role": "user", "content": content}]


def sync(work: Callable[[openai.OpenAI], Any], **settings: Any) -> Callable[[Side], Any]:
    """A case with the synchronous client."""

    def call(side: Side) -> Any:
        given = {**side.given, "max_retries": 0, **settings}
        with openai.OpenAI(base_url=side.openai, **given) as client:
            return work(client)

    return call


def asynchronous(work: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> Callable[[Side], Any]:
    """A case with the asynchronous client."""

    async def run(side: Side) -> Any:
        given: Any = {"base_url": side.openai, **side.given, "max_retries": 0}
        async with openai.AsyncOpenAI(**given) as client:
            return await work(client)

    return lambda side: asyncio.run(run(side))


def ask(**more: Any) -> Callable[[Side], Any]:
    """A chat completion, whole or streamed, as plain values."""

    def work(client: openai.OpenAI) -> Any:
        answer = client.chat.completions.create(**{"model": MODEL, **more})
        if more.get("stream"):
            return [chunk.model_dump() for chunk in answer]
        return answer.model_dump()

    return sync(work)


def respond(**more: Any) -> Callable[[Side], Any]:
    """A response, whole or streamed, as plain values."""

    def work(client: openai.OpenAI) -> Any:
        answer = client.responses.create(**{"model": MODEL, **more})
        if more.get("stream"):
            return [event.model_dump() for event in answer]
        return answer.model_dump()

    return sync(work)


def calls_of(row: Row) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in row.output["tool_calls"]]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]
