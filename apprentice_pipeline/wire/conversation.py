"""A provider-neutral reading of captured inputs and outputs.

Belongs here: messages as text, the answer as text, what a request needs of whoever answers
it, estimates of tokens. Does not: bytes, and any one provider's format.
Everything here takes `input` and `output` as the wire modules return them and never raises:
what is not understood is None, or a need that no local backend has.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from apprentice_pipeline.control.eligibility import RequestFacts
from apprentice_pipeline.records import Message, Usage
from apprentice_pipeline.wire.outputs import THOUGHT_TYPES, blocks_of, calls_of

TOKEN_BYTES = 4
"""Bytes of UTF-8 that an estimate takes for one token, for want of the model's tokenizer."""

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SERVER_SIDE = ("previous_response_id", "conversation", "prompt", "container", "cachedContent")
_TOOLS = ("tools", "functions", "mcp_servers")
_HARMLESS = frozenset(
    {
        "background", "context_management", "function_call", "functions", "generationConfig",
        "include", "inference_geo", "labels", "logprobs", "max_completion_tokens",
        "max_output_tokens",
        "max_tokens", "mcp_servers", "mediaResolution", "metadata", "n", "output_config",
        "output_format", "parallel_tool_calls", "prediction", "prompt_cache_key",
        "prompt_cache_retention", "reasoning", "reasoning_effort", "responseJsonSchema",
        "responseMimeType", "responseSchema", "response_format", "safetySettings",
        "safety_identifier", "seed", "serviceTier", "service_tier", "store", "temperature", "text",
        "thinking", "toolConfig", "tool_choice", "tools", "top_k", "top_logprobs", "top_p",
        "truncation", "user", "verbosity",
    }
)  # fmt: skip


def prompt_messages(input: dict[str, Any]) -> list[Message] | None:
    """The conversation as `{"role", "content"}` text messages, for training and serving.

    Roles are system, user and assistant (`developer` is system). None when it holds anything
    but text, uses tools, or continues a conversation that the provider keeps.
    """
    parameters = input.get("parameters") or {}
    if any(parameters.get(name) for name in (*_TOOLS, *_SERVER_SIDE)):
        return None
    messages: list[Message] = []
    for message in _messages(input):
        role = _ROLES.get(str(message.get("role")))
        text = _content_text(message.get("content"))
        if role is None or text is None or message.get("tool_calls"):
            return None
        messages.append({"role": role, "content": text})
    return messages


def answer_text(output: Any) -> str | None:
    """The answer as text; None when it calls tools, refuses, or is more than text.

    What the model thought before it answered is not part of the text.
    """
    if isinstance(output, str):
        return output
    said = [block for block in blocks_of(output) if str(block.get("type")) not in THOUGHT_TYPES]
    if calls_of(output) or not said or any(block.get("type") != "text" for block in said):
        return None
    return "".join(str(block.get("text", "")) for block in said)


def system_prompt_digest(input: dict[str, Any]) -> str:
    """SHA-256 (hex) of the system prompt's text, "" when there is none."""
    parts = [
        _any_text(message.get("content"))
        for message in _messages(input)
        if str(message.get("role")) in {"system", "developer"}
    ]
    text = "\n".join(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else ""


def request_facts(input: dict[str, Any]) -> RequestFacts:
    """What a request needs of whoever answers it. Token counts are estimates."""
    parameters = input.get("parameters") or {}
    messages = _messages(input)
    unsupported = sorted(
        name
        for name, value in (parameters | _generation_config(parameters)).items()
        if name not in _HARMLESS and value not in _UNSET
    )
    if _asks_thoughts(parameters):
        unsupported.append("thinking")
    n = parameters.get("n")
    return RequestFacts(
        system_prompt_digest=system_prompt_digest(input),
        uses_tools=_uses_tools(messages, parameters),
        has_images=any(_has_other_parts(message.get("content")) for message in messages),
        n=n if isinstance(n, int) else 1,
        logprobs=bool(parameters.get("logprobs") or parameters.get("top_logprobs")),
        response_format=_response_format(parameters),
        prompt_tokens_estimate=estimate_tokens(input.get("messages")),
        max_output_tokens=_max_output_tokens(parameters),
        unsupported=tuple(unsupported),
    )


_UNSET: tuple[Any, ...] = (None, False, [], {}, "", 0)


def estimate_tokens(value: Any) -> int:
    """About how many tokens a text, or the JSON of a value, takes: four bytes each, rounded up."""
    if isinstance(value, str):
        size = len(value.encode("utf-8", "surrogatepass"))
    else:
        size = sum(map(_text_size, value)) if isinstance(value, list) else _text_size(value)
    return -(-size // TOKEN_BYTES)


def estimate_usage(input: dict[str, Any], output: Any) -> Usage:
    """Usage of a call whose answer carried none, marked as estimated."""
    return Usage(
        input_tokens=estimate_tokens(input.get("messages")),
        output_tokens=estimate_tokens(output if output is not None else ""),
        source="estimated",
    )


def _messages(input: dict[str, Any]) -> list[Message]:
    given = input.get("messages")
    return [message for message in given if isinstance(message, dict)] if given else []


def _content_text(content: Any) -> str | None:
    """The text of a message's content, None when there is anything but text in it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or _has_other_parts(content):
        return None
    return _any_text(content)


def _any_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _has_other_parts(content: Any) -> bool:
    if not isinstance(content, list):
        return False
    return any(not isinstance(p, dict) or str(p.get("type")) not in _TEXT_PARTS for p in content)


def _uses_tools(messages: list[Message], parameters: dict[str, Any]) -> bool:
    if any(parameters.get(name) for name in _TOOLS):
        return True
    return any(
        str(message.get("role")) not in _ROLES or message.get("tool_calls") for message in messages
    )


def _generation_config(parameters: dict[str, Any]) -> dict[str, Any]:
    """What only Gemini has among its settings, but for those that change no text answer."""
    config = parameters.get("generationConfig")
    if not isinstance(config, dict):
        return {}
    texts_only = config.get("responseModalities") in (None, [], ["TEXT"])
    left_out = {"thinkingConfig", *(["responseModalities"] if texts_only else [])}
    return {name: value for name, value in config.items() if name not in left_out}


def _asks_thoughts(parameters: dict[str, Any]) -> bool:
    """Whether the answer is to hold what the model thought."""
    thinking = parameters.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") != "disabled":
        return True
    config = parameters.get("generationConfig")
    asked = config.get("thinkingConfig") if isinstance(config, dict) else None
    return isinstance(asked, dict) and asked.get("includeThoughts") is True


def _response_format(parameters: dict[str, Any]) -> str | None:
    config = _generation_config(parameters)
    if (kind := config.get("responseMimeType")) not in (None, "text/plain"):
        named = config.get("responseJsonSchema") or config.get("responseSchema")
        return (
            str(kind) if kind != "application/json" else "json_schema" if named else "json_object"
        )
    for holder in ("response_format", "output_format"):
        if isinstance(named := parameters.get(holder), dict):
            return str(named.get("type"))
    for holder in ("text", "output_config"):
        inner = parameters.get(holder)
        if isinstance(inner, dict) and isinstance(named := inner.get("format"), dict):
            return str(named.get("type"))
    return None


def _max_output_tokens(parameters: dict[str, Any]) -> int:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = parameters.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _text_size(value: Any) -> int:
    """Bytes of text in a message (its content where that is text, else its JSON)."""
    content = value.get("content") if isinstance(value, dict) else value
    if isinstance(content, str):
        return len(content.encode("utf-8", "surrogatepass")) + TOKEN_BYTES
    try:
        return len(orjson.dumps(value))
    except (orjson.JSONEncodeError, TypeError):
        return len(str(value))
