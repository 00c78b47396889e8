"""What the cases of Google's SDK share: what is asked, and how a case is made of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google import genai

from tests.conformance.conftest import Side

MODEL = "gemini-2.5-flash"
LONG = "a long answer that comes in more than one piece: é, 漢字, 😀 and so on, to its end"
PIXEL = bytes(range(200))
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: Any = [
    {
        "function_declarations": [
            {"name": name, "description": "", "parameters_json_schema": PARAMETERS}
            for name in ("weather", "time")
        ]
    }
]
CALLS = [
    {"name": "weather", "arguments": {"city": "Zürich"}},
    {"name": "time", "arguments": {"city": "Lima"}},
]
THOUGHT = "Two places, so two look-ups."
EVERYTHING: Any = {"$reply": {"text": "Looking.", "thinking": THOUGHT, "calls": CALLS}}
REFUSAL: Any = {"$reply": {"refusal": "I will not help with that."}}
THINKING: Any = {"thinking_config": {"include_thoughts": True}}


def client(side: Side, **options: Any) -> genai.Client:
    """Google's client for a side."""
    given: Any = {"base_url": side.gemini, "headers": side.headers, **options}
    return genai.Client(api_key=side.key, http_options=given)


def sync(work: Callable[[genai.Client], Any], **options: Any) -> Callable[[Side], Any]:
    """A case with the synchronous client."""

    def call(side: Side) -> Any:
        with client(side, **options) as made:
            return work(made)

    return call


def asynchronous(work: Callable[[Any], Awaitable[Any]]) -> Callable[[Side], Any]:
    """A case with the asynchronous client."""

    async def run(side: Side) -> Any:
        made = client(side).aio
        try:
            return await work(made)
        finally:
            await made.aclose()

    return lambda side: asyncio.run(run(side))


def ask(contents: Any, *, streamed: bool = False, **config: Any) -> Callable[[Side], Any]:
    """An answer, whole or as its chunks, as plain values."""

    def work(made: genai.Client) -> Any:
        asked: Any = {"model": MODEL, "contents": contents, "config": config}
        if streamed:
            return [plain(chunk) for chunk in made.models.generate_content_stream(**asked)]
        return plain(made.models.generate_content(**asked))

    return sync(work)


def plain(answer: Any) -> Any:
    """An answer of the SDK without the headers that it keeps, which the tap compares."""
    return answer.model_dump(exclude={"sdk_http_response"})
