"""Reads a provider request into one neutral `Call`.

Only what changes the answer is read; everything else a provider accepts is accepted. No
validation beyond what both providers refuse. Raises `WireError`, never anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from apprentice_pipeline.demo.stand_in.answers import estimate_tokens
from apprentice_pipeline.errors import WireError

MESSAGE_OVERHEAD_TOKENS = 4
_MAX_CHOICES = 128


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `text` is the last user message, `prefix` all that stands before it."""

    model: str
    text: str
    prefix: str
    messages: int
    streamed: bool
    choices: int = 1
    tool: str | None = None
    max_tokens: int | None = None
    logprobs: bool = False
    include_usage: bool = False
    cache_marked: bool = False
    thinks: bool = False
    offers_tools: bool = False

    @property
    def prefix_tokens(self) -> int:
        """The estimate for all that stands before the last user message."""
        return estimate_tokens(self.prefix)

    @property
    def input_tokens(self) -> int:
        """The estimate for the whole request."""
        overhead = MESSAGE_OVERHEAD_TOKENS * self.messages
        return self.prefix_tokens + estimate_tokens(self.text) + overhead


def read_chat(body: bytes) -> Call:
    """Reads OpenAI chat completions. Raises: WireError."""
    value = _object(body)
    text, prefix, count = read_turns(_messages(value, "messages"))
    choices = value.get("n") or 1
    if not isinstance(choices, int) or not 1 <= choices <= _MAX_CHOICES:
        raise WireError("'n' must be an integer from 1 to 128")
    options = value.get("stream_options")
    return Call(
        model=_model(value),
        text=text,
        prefix=prefix,
        messages=count,
        streamed=value.get("stream") is True,
        choices=choices,
        tool=_chat_tool(value),
        max_tokens=_limit(value.get("max_completion_tokens") or value.get("max_tokens")),
        logprobs=value.get("logprobs") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        offers_tools=bool(value.get("tools")) and value.get("tool_choice") != "none",
    )


def read_responses(body: bytes) -> Call:
    """Reads OpenAI responses: `input` is a text or a list of items. Raises: WireError."""
    value = _object(body)
    given = value.get("input")
    if not isinstance(given, str | list):
        raise WireError("Missing required parameter: 'input'.")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    instructions = value.get("instructions")
    head = [{"role": "system", "content": instructions}] if instructions else []
    text, prefix, count = read_turns([*head, *items])
    return Call(
        model=_model(value),
        text=text,
        prefix=prefix,
        messages=count,
        streamed=value.get("stream") is True,
        tool=_chat_tool(value),
        max_tokens=_limit(value.get("max_output_tokens")),
        thinks=isinstance(value.get("reasoning"), dict),
        offers_tools=bool(value.get("tools")) and value.get("tool_choice") != "none",
    )


def read_message(body: bytes, *, counting: bool = False) -> Call:
    """Reads Anthropic messages, or with `counting` a `count_tokens` request, which has no limit.

    Raises: WireError.
    """
    value = _object(body)
    system = value.get("system")
    head = [{"role": "system", "content": system}] if system else []
    text, prefix, count = read_turns([*head, *_messages(value, "messages")])
    limit = _limit(value.get("max_tokens"))
    if limit is None and not counting:
        raise WireError("max_tokens: Field required")
    return Call(
        model=_model(value),
        text=text,
        prefix=prefix,
        messages=count,
        streamed=value.get("stream") is True,
        tool=_message_tool(value),
        max_tokens=limit,
        cache_marked=b'"cache_control"' in body,
        thinks=_thinks(value.get("thinking")),
        offers_tools=bool(value.get("tools")),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise WireError("We could not parse the JSON body of your request.") from None
    if not isinstance(value, dict):
        raise WireError("The body of the request must be a JSON object.")
    return value


def _model(value: dict[str, Any]) -> str:
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise WireError("you must provide a model parameter")
    return model


def _messages(value: dict[str, Any], name: str) -> list[Any]:
    messages = value.get(name)
    if not isinstance(messages, list) or not messages:
        raise WireError(f"{name}: at least one message is required")
    return messages


def _limit(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WireError("the token limit must be a positive integer")
    return value


def read_turns(messages: list[Any]) -> tuple[str, str, int]:
    """The last user message's text, the text of all others in order, their number."""
    texts, last = [], -1
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise WireError(f"messages.{place}: must be an object")
        texts.append(_content(message.get("content")))
        if message.get("role") == "user" and texts[-1]:
            last = place
    text = texts.pop(last) if last >= 0 else ""
    return text, "\n".join(texts), len(messages)


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))


def _chat_tool(value: dict[str, Any]) -> str | None:
    """The tool that must be called: the named one, or the first where one is required."""
    choice = value.get("tool_choice")
    if isinstance(choice, dict):
        return _tool_name(choice)
    tools = value.get("tools")
    if choice == "required" and isinstance(tools, list) and tools:
        return _tool_name(tools[0])
    return None


def _message_tool(value: dict[str, Any]) -> str | None:
    choice, tools = value.get("tool_choice"), value.get("tools")
    if not isinstance(choice, dict):
        return None
    if choice.get("type") == "tool":
        return _tool_name(choice)
    if choice.get("type") == "any" and isinstance(tools, list) and tools:
        return _tool_name(tools[0])
    return None


def _thinks(thinking: Any) -> bool:
    return isinstance(thinking, dict) and thinking.get("type") in {"enabled", "adaptive"}


def _tool_name(tool: Any) -> str | None:
    """A tool's name, flat (`responses`, Anthropic) or under `function` (chat completions)."""
    if not isinstance(tool, dict):
        return None
    function = tool.get("function")
    name = (function if isinstance(function, dict) else tool).get("name")
    return name if isinstance(name, str) else None
