"""Inputs and outputs as SDKs, proxies and tracers write them, into our normal forms.

Belongs here: shapes that several sources share: whole request and response bodies, bare messages,
LangChain's messages. Does not: a source's own fields. Everything raises `WireError` for what it
does not understand, and guesses at nothing.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Message, Usage
from apprentice_pipeline.wire import anthropic, openai, openai_chat, openai_responses
from apprentice_pipeline.wire.anthropic_stream import normal_output
from apprentice_pipeline.wire.forms import (
    WireFormat,
    WireResponse,
    as_list,
    as_object,
    as_text,
    reads,
    without,
)
from apprentice_pipeline.wire.imports.calls import CHAT, MESSAGES, RESPONSES
from apprentice_pipeline.wire.outputs import function_call

_LANGCHAIN: Final = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_TRANSPORT: Final = ("model", "stream", "stream_options")
_NOT_SENT: Final = ("extra_headers", "extra_query", "extra_body", "timeout", "api_key", "headers")
"""Arguments of SDK calls that tracers record beside the request."""


def body_endpoint(response: dict[str, Any]) -> str | None:
    """Which endpoint a response body is of, None where it is none we know."""
    if response.get("type") == "message" and isinstance(response.get("content"), list):
        return MESSAGES
    if isinstance(response.get("choices"), list):
        return CHAT
    if response.get("object") == "response" or isinstance(response.get("output"), list):
        return RESPONSES
    return None


def request_input(endpoint: str, request: dict[str, Any]) -> dict[str, Any]:
    """The input of a whole request body. Raises: WireError."""
    wire: WireFormat = anthropic if endpoint == MESSAGES else openai
    found = wire.read_request(endpoint, orjson.dumps(without(request, *_NOT_SENT)))
    if not found.input["messages"]:
        raise WireError("the request holds no message")
    return found.input


@reads
def response_answer(response: dict[str, Any]) -> WireResponse:
    """The answer in a whole response body. Raises: WireError."""
    endpoint = body_endpoint(response)
    if endpoint == MESSAGES:
        return anthropic.read_response(MESSAGES, orjson.dumps(response))
    if endpoint == RESPONSES:
        return openai_responses.read_document(response)
    if endpoint is None:
        raise WireError("not a provider's response")
    return openai_chat.read_document({**response, "choices": _plain_choices(response["choices"])})


@reads
def loose_input(value: Any, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """The input in what a tracer recorded: a prompt, messages, or the arguments of a call.

    Raises: WireError.
    """
    given = dict(parameters or {})
    if isinstance(value, dict) and "role" not in value and "type" not in value:
        given = {**given, **without(value, "messages", "input", "instructions", "system")}
        value = _argument_messages(value)
    messages = _messages(value)
    if not messages:
        raise WireError("the input holds no message")
    return {"messages": messages, "parameters": without(given, *_TRANSPORT, *_NOT_SENT)}


@reads
def loose_answer(value: Any) -> WireResponse:
    """The answer in what a tracer recorded: text, a message, or a response body.

    Raises: WireError.
    """
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict | list):
        if isinstance(value[0], dict) and _is_block(value[0]):
            break
        value = value[0]
    if isinstance(value, str):
        return WireResponse(value, Usage(), "", None)
    if isinstance(value, list):
        return WireResponse(normal_output([as_object(block) for block in value]), Usage(), "", None)
    found = as_object(value)
    if "generations" in found:
        return loose_answer(found["generations"])
    if "message" in found and "choices" not in found:
        return loose_answer(found["message"])
    if body_endpoint(found) is not None:
        return response_answer(found)
    if "text" in found and "content" not in found:
        return WireResponse(as_text(found["text"]), Usage(), "", None)
    return _message_answer(found)


def message_of(value: Any) -> Message:
    """One message, LangChain's included. Raises: WireError, TypeError."""
    found = as_object(value)
    if found.get("type") in _LANGCHAIN and "role" not in found:
        return _langchain_message(found)
    if not isinstance(found.get("role"), str) and not isinstance(found.get("type"), str):
        raise WireError("a message has no role")
    return found


def _argument_messages(value: dict[str, Any]) -> Any:
    """The messages in the keyword arguments of an SDK call."""
    if "messages" in value:
        system = value.get("system")
        head = [{"role": "system", "content": system}] if system else []
        given = value["messages"]
        nested = isinstance(given, list) and len(given) == 1 and isinstance(given[0], list)
        return [*head, *(given[0] if nested else as_list(given))]
    if "input" in value:
        return openai_responses.request_messages(value)
    for name in ("prompt", "prompts", "text"):
        if isinstance(value.get(name), str):
            return value[name]
    raise WireError("the input holds no messages")


def _messages(value: Any) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}] if value else []
    if isinstance(value, dict):
        return [message_of(value)]
    listed = as_list(value)
    if len(listed) == 1 and isinstance(listed[0], list):
        listed = listed[0]
    return [message_of(item) for item in listed]


def _message_answer(message: dict[str, Any]) -> WireResponse:
    said = message_of(message) if "role" in message or "type" in message else message
    if said.get("role", "assistant") not in {"assistant", "model"}:
        raise WireError("the answer is not the assistant's")
    if not ("content" in said or said.get("tool_calls") or said.get("refusal")):
        raise WireError("the answer holds neither content nor tool calls")
    metadata = as_object(message.get("response_metadata"))
    reason = metadata.get("finish_reason") or metadata.get("stop_reason")
    content = said.get("content")
    if isinstance(content, list) and all(isinstance(block, dict) for block in content):
        found = normal_output(content)
        if not said.get("tool_calls"):
            return WireResponse(found, Usage(), "", reason)
    calls = [_whole_call(as_object(call)) for call in as_list(said.get("tool_calls"))]
    choice = {"index": 0, "message": {**said, "tool_calls": calls}, "finish_reason": reason}
    return openai_chat.read_document({"choices": [choice]})


def _plain_choices(choices: list[Any]) -> list[Any]:
    """Choices of the legacy completions, whose text stands beside the index, as messages."""
    return [
        {**choice, "message": {"role": "assistant", "content": choice["text"]}}
        if isinstance(choice, dict) and "text" in choice and "message" not in choice
        else choice
        for choice in choices
    ]


def _langchain_message(message: dict[str, Any]) -> Message:
    found: Message = {
        "role": _LANGCHAIN[message["type"]],
        "content": message.get("content") or None,
    }
    if calls := message.get("tool_calls"):
        found["tool_calls"] = [_langchain_call(as_object(call)) for call in as_list(calls)]
    if identity := message.get("tool_call_id"):
        found["tool_call_id"] = identity
    return found


def _langchain_call(call: dict[str, Any]) -> dict[str, Any]:
    if "function" in call:
        return call
    arguments = call.get("args")
    said = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
    return function_call(as_text(call.get("id")), as_text(call["name"]), said)


def _whole_call(call: dict[str, Any]) -> dict[str, Any]:
    """A call with its arguments as JSON text, which some write as an object."""
    function = as_object(call.get("function"))
    if not isinstance(function.get("arguments"), dict):
        return call
    arguments = orjson.dumps(function["arguments"]).decode()
    return {**call, "function": {**function, "arguments": arguments}}


def _is_block(value: dict[str, Any]) -> bool:
    return "role" not in value and value.get("type") in {"text", "tool_use", "thinking"}
