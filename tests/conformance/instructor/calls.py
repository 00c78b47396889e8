"""`instructor` as its users call it: `calls.py CASE,CASE OPENAI ANTHROPIC`.

Runs the cases against two base URLs and prints what the client got of each, as one JSON array.
Belongs to the environment beside it (requirements.txt); nothing of the product is imported.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic
import instructor
import openai
import pydantic

GPT, CLAUDE = "gpt-4o", "claude-haiku-4-5-20251001"
PLAIN: Any = {"api_key": "sk-x", "max_retries": 0}


class Ticket(pydantic.BaseModel):
    """A support ticket, filed."""

    category: str
    priority: int

    @pydantic.field_validator("priority")
    @classmethod
    def _known(cls, priority: int) -> int:
        if not 1 <= priority <= 3:
            raise ValueError("a priority is 1, 2 or 3")
        return priority


def asked(case: str, model: str, **more: Any) -> Any:
    """One request, with a second try where the answer does not fit."""
    messages = [{"role": "user", "content": f"file it: {case}"}]
    return {"model": model, "messages": messages, "max_retries": 2, **more}


def chat(case: str, url: str, mode: instructor.Mode) -> Any:
    """A ticket from OpenAI's chat completions."""
    with openai.OpenAI(base_url=url, **PLAIN) as plain:
        client = instructor.from_openai(plain, mode=mode)
        return client.chat.completions.create(response_model=Ticket, **asked(case, GPT))


def chat_partial(case: str, url: str) -> Any:
    """A ticket as it grows, from a stream: the last of it."""
    with openai.OpenAI(base_url=url, **PLAIN) as plain:
        client = instructor.from_openai(plain)
        return list(client.create_partial(response_model=Ticket, **asked(case, GPT)))[-1]


def message(case: str, url: str, mode: instructor.Mode) -> Any:
    """A ticket from Anthropic's messages."""
    with anthropic.Anthropic(base_url=url, **PLAIN) as plain:
        client = instructor.from_anthropic(plain, mode=mode)
        given = asked(case, CLAUDE, max_tokens=500)
        return client.messages.create(response_model=Ticket, **given)


async def message_async(case: str, url: str) -> Any:
    """A ticket by the asynchronous client."""
    async with anthropic.AsyncAnthropic(base_url=url, **PLAIN) as plain:
        client = instructor.from_anthropic(plain)
        given = asked(case, CLAUDE, max_tokens=500)
        return await client.messages.create(response_model=Ticket, **given)


def main(wanted: str, openai_url: str, anthropic_url: str) -> None:
    """Prints what the wanted cases got."""
    mode = instructor.Mode
    cases: dict[str, Callable[[str], Any]] = {
        "chat_tools": lambda case: chat(case, openai_url, mode.TOOLS),
        "chat_json": lambda case: chat(case, openai_url, mode.JSON),
        "chat_schema": lambda case: chat(case, openai_url, mode.JSON_SCHEMA),
        "chat_partial": lambda case: chat_partial(case, openai_url),
        "message_tools": lambda case: message(case, anthropic_url, mode.TOOLS),
        "message_json": lambda case: message(case, anthropic_url, mode.JSON),
        "message_async": lambda case: asyncio.run(message_async(case, anthropic_url)),
    }
    got = [cases[name](name).model_dump() for name in wanted.split(",")]
    sys.stdout.write(json.dumps(got) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
