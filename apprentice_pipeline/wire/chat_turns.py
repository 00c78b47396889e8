"""Any provider's conversation as OpenAI chat messages: what fine-tuning tools read.

Belongs here: messages, tools and answers into that one shape, whole. Does not: the styles made of
it (`styles`). What the shape has no form for raises `WireError`, in words that count well (no
content): nothing is cut. The one exception is what a model thought before it said something,
which is no part of a conversation's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Message
from apprentice_pipeline.wire.forms import as_list, as_object, as_text, reads
from apprentice_pipeline.wire.outputs import (
    THOUGHT_TYPES,
    blocks_of,
    calls_of,
    choices_of,
    function_call,
    refusal_of,
)

_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
_KEPT_BY_PROVIDER: Final = (
    "previous_response_id", "conversation", "prompt", "container", "cachedContent",
)  # fmt: skip
_ROLES: Final = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "model": "assistant", "tool": "tool", "function": "tool",
}  # fmt: skip


@reads
def turns(given: Mapping[str, Any]) -> list[Message]:
    """The messages of an input. Raises: WireError for what a chat cannot hold."""
    parameters = as_object(given.get("parameters"))
    if any(parameters.get(name) for name in _KEPT_BY_PROVIDER):
        raise WireError("a conversation that the provider keeps")
    found = [turn for message in as_list(given["messages"]) for turn in _turns(as_object(message))]
    if not found:
        raise WireError("no messages")
    return _joined_calls(found)


@reads
def answer(output: Any) -> Message:
    """The assistant's message of an output. Raises: WireError for what a chat cannot hold."""
    if len(choices_of(output)) > 1:
        raise WireError("several answers to one request")
    if refusal_of(output) is not None:
        raise WireError("a refusal")
    if isinstance(output, dict) and not ({"content", "tool_calls"} & output.keys()):
        return {"role": "assistant", "content": _json(output)}  # a person's corrected answer
    if isinstance(output, list):
        return {"role": "assistant", "content": _json(output)}
    calls = calls_of(output)
    content = _content(blocks_of(output)) if not isinstance(output, str) else output
    if not isinstance(content, str):
        raise WireError("an answer that is more than text")
    if not content and not calls:
        raise WireError("an empty answer")
    message: Message = {"role": "assistant", "content": content or None}
    return {**message, "tool_calls": [_call(call) for call in calls]} if calls else message


@reads
def tools(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools of an input as chat completions declare them. Raises: WireError."""
    parameters = as_object(given.get("parameters"))
    if parameters.get("mcp_servers"):
        raise WireError("tools that the provider runs")
    found = [_tool(as_object(tool)) for tool in as_list(parameters.get("tools"))]
    legacy = as_list(parameters.get("functions"))
    return [*found, *({"type": "function", "function": function} for function in legacy)]


def _turns(message: Message) -> Iterator[Message]:
    """One message as one or more: results of tools come apart from what the user says."""
    kind = message.get("type")
    if "role" not in message and kind == "function_call":
        call = function_call(
            as_text(message.get("call_id")), as_text(message["name"]), as_text(message["arguments"])
        )
        yield {"role": "assistant", "content": None, "tool_calls": [call]}
    elif "role" not in message and kind == "function_call_output":
        said = _texts_only(message.get("output"))
        yield {"role": "tool", "tool_call_id": as_text(message.get("call_id")), "content": said}
    elif kind not in THOUGHT_TYPES:
        yield from _spoken(message)


def _spoken(message: Message) -> Iterator[Message]:
    role = _ROLES.get(str(message.get("role")))
    if role is None:
        raise WireError("a message of an unknown kind")
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    for block in blocks:
        if as_object(block).get("type") == "tool_result":
            said = _texts_only(block.get("content"))
            yield {"role": "tool", "tool_call_id": as_text(block["tool_use_id"]), "content": said}
    rest = [b for b in blocks if b.get("type") not in {"tool_result", "tool_use"}]
    calls = [_call(call) for call in as_list(message.get("tool_calls"))]
    calls += [_use(block) for block in blocks if block.get("type") == "tool_use"]
    if blocks and not rest and not calls:
        return
    turn: Message = {"role": role, "content": _content(rest) if blocks else content}
    if role == "tool":
        turn["content"] = _texts_only(content)
    for name in ("name", "tool_call_id", "refusal"):
        if message.get(name):
            turn[name] = message[name]
    if calls:
        turn |= {"content": turn["content"] or None, "tool_calls": calls}
    yield turn


def _content(blocks: list[Any]) -> str | list[dict[str, Any]]:
    """Text alone where all of it is text, else OpenAI's parts."""
    said = [as_object(b) for b in blocks if as_object(b).get("type") not in THOUGHT_TYPES]
    if all(block.get("type") in _TEXTS for block in said):
        return "".join(as_text(block.get("text")) for block in said)
    return [_part(block) for block in said]


def _part(block: dict[str, Any]) -> dict[str, Any]:
    kind = block.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": as_text(block.get("text"))}
    if kind == "image_url":
        return {"type": "image_url", "image_url": as_object(block["image_url"])}
    if kind == "input_image" and isinstance(block.get("image_url"), str):
        detail = {"detail": block["detail"]} if block.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": block["image_url"], **detail}}
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": _source_url(as_object(block["source"]))}}
    if kind == "inlineData":
        data = as_object(block["inlineData"])
        if as_text(data.get("mimeType")).startswith("image/"):
            url = f"data:{data['mimeType']};base64,{as_text(data['data'])}"
            return {"type": "image_url", "image_url": {"url": url}}
    raise WireError("audio, files or other parts")


def _source_url(source: dict[str, Any]) -> str:
    if source.get("type") == "base64":
        return f"data:{as_text(source['media_type'])};base64,{as_text(source['data'])}"
    if source.get("type") == "url":
        return as_text(source["url"])
    raise WireError("audio, files or other parts")


def _texts_only(content: Any) -> str:
    """A tool's result as text."""
    if isinstance(content, list):
        found = _content(content)
        if isinstance(found, str):
            return found
        raise WireError("a tool's result that is more than text")
    return content if isinstance(content, str) else _json(content) if content is not None else ""


def _call(call: Any) -> dict[str, Any]:
    found = as_object(call)
    function = as_object(found["function"])
    return function_call(
        as_text(found.get("id")), as_text(function["name"]), as_text(function.get("arguments"))
    )


def _use(block: dict[str, Any]) -> dict[str, Any]:
    arguments = _json(as_object(block.get("input")))
    return function_call(as_text(block.get("id")), as_text(block["name"]), arguments)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") == "function" and isinstance(tool.get("function"), dict):
        return {"type": "function", "function": tool["function"]}
    named = "input_schema" in tool and tool.get("type", "custom") == "custom"
    if not named and tool.get("type") != "function":
        raise WireError("tools that the provider runs")
    function = {"name": as_text(tool["name"])}
    if tool.get("description"):
        function["description"] = tool["description"]
    schema = tool.get("input_schema", tool.get("parameters"))
    strict = {"strict": tool["strict"]} if tool.get("strict") is not None else {}
    return {"type": "function", "function": {**function, "parameters": schema or {}, **strict}}


def _joined_calls(messages: list[Message]) -> list[Message]:
    """Calls that come one item at a time (Responses) as the calls of one message."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else {}
        bare = message["content"] is None and "tool_calls" in message
        if bare and last.get("role") == "assistant":
            calls = [*last.get("tool_calls", []), *message["tool_calls"]]
            joined[-1] = {**last, "tool_calls": calls}
        else:
            joined.append(message)
    return joined


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
