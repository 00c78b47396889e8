"""Gemini's parts: the pieces that its requests and answers are made of, both directions.

Belongs here: parts as content blocks and tool calls, contents as messages, and back. Does not:
requests, candidates, streams (`gemini`, `gemini_stream`).
Google reads names in either case (`inlineData`, `inline_data`), and its own SDK sends both; here
they are in the first.

A text part is a `text` block, a thought a `thinking` block, each with the `signature` the part
carries; a function call is a tool call; whatever else a part holds (`inlineData`, `fileData`,
`executableCode`, …) is a block of that type that holds the part as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Message
from apprentice_pipeline.wire.forms import as_list, as_object, as_text, without
from apprentice_pipeline.wire.outputs import THOUGHT_TYPES, function_call

_SNAKE: Final = re.compile(r"_([a-z])")
_OPAQUE: Final = frozenset(
    {
        "args", "labels", "parameters", "parametersJsonSchema", "partMetadata", "response",
        "responseJsonSchema", "responseSchema",
    }
)  # fmt: skip
_MANNERS: Final = ("thought", "thoughtSignature", "videoMetadata", "partMetadata")
_ROLES: Final = {"model": "assistant", "user": "user", "function": "user"}
_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
_DATA_URL: Final = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)


def camel(value: Any) -> Any:
    """A JSON value, its names in the case that Google writes; schemas and what the customer named
    (arguments, responses, labels) as they came.
    """
    if isinstance(value, list):
        return [camel(each) for each in value]
    if not isinstance(value, dict):
        return value
    named = ((_SNAKE.sub(lambda m: m[1].upper(), name), each) for name, each in value.items())
    return {name: each if name in _OPAQUE else camel(each) for name, each in named}


class Parts:
    """The parts of one answer or message, in order; neighbouring texts of one kind are one."""

    __slots__ = ("_blocks", "calls")

    def __init__(self) -> None:
        self._blocks: list[tuple[dict[str, Any], list[str]]] = []
        self.calls: list[dict[str, Any]] = []

    def add(self, part: dict[str, Any]) -> None:
        """Takes one part in. Raises: TypeError and its like where it is malformed."""
        if _is_call(part):
            self.calls.append(_call(part))
            return
        kind = next((name for name in part if name != "text" and name not in _MANNERS), None)
        if kind is not None:
            self._blocks.append(({"type": kind, **part}, []))
            return
        field = "thinking" if part.get("thought") is True else "text"
        self._text(field, as_text(part.get("text")), as_text(part.get("thoughtSignature")))

    def blocks(self) -> list[dict[str, Any]]:
        """The content blocks of what has come."""
        found: list[dict[str, Any]] = []
        for block, texts in self._blocks:
            kind = block["type"]
            if kind not in {"text", "thinking"}:
                found.append(block)
            elif (text := "".join(texts)) or block.get("signature"):
                found.append({"type": kind, kind: text, **without(block, "type")})
        return found

    def _text(self, kind: str, text: str, signature: str) -> None:
        last = self._blocks[-1][0] if self._blocks else {}
        if last.get("type") != kind or last.get("signature"):
            opened: dict[str, Any] = {"type": kind}
            self._blocks.append((opened | ({"signature": ""} if kind == "thinking" else {}), []))
        block, texts = self._blocks[-1]
        texts.append(text)
        if signature:
            block["signature"] = signature


def _is_call(part: dict[str, Any]) -> bool:
    """Whether a part is a whole function call (one whose arguments are streamed is not)."""
    call = part.get("functionCall")
    return isinstance(call, dict) and not ({"partialArgs", "willContinue"} & call.keys())


def _call(part: dict[str, Any]) -> dict[str, Any]:
    said = as_object(part["functionCall"])
    arguments = orjson.dumps(as_object(said.get("args"))).decode()
    call = function_call(as_text(said.get("id")), as_text(said["name"]), arguments)
    signature = as_text(part.get("thoughtSignature"))
    return {**call, "signature": signature} if signature else call


def messages_of(turn: dict[str, Any]) -> list[Message]:
    """One content as messages: each function response is one of its own, of role `tool`."""
    role = _ROLES.get(as_text(turn.get("role")) or "user")
    if role is None:
        raise WireError("a content of an unknown role")
    parts, messages = Parts(), []
    given = turn.get("parts")
    for part in [given] if isinstance(given, dict) else as_list(given):
        if "functionResponse" in part:
            messages.append(_tool_message(as_object(part["functionResponse"])))
        else:
            parts.add(part)
    blocks = parts.blocks()
    if blocks or parts.calls or not messages:
        said: Message = {"role": role, "content": content_of(blocks)}
        messages.append({**said, "tool_calls": parts.calls} if parts.calls else said)
    return messages


def content_of(blocks: list[dict[str, Any]]) -> Any:
    """A message's content: text where it is text alone, else the blocks."""
    if not blocks:
        return ""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return blocks[0]["text"]
    return blocks


def _tool_message(said: dict[str, Any]) -> Message:
    answered = orjson.dumps(said.get("response")).decode()
    head = {"role": "tool", "tool_call_id": as_text(said.get("id")), "name": as_text(said["name"])}
    return {**head, "content": answered, **without(said, "id", "name", "response")}


def contents_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The contents that carry messages without a system prompt. Raises: WireError."""
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    answering = False
    for message in messages:
        if answers := message.get("role") == "tool":
            part = _response_part(message, names)
            if answering:
                contents[-1]["parts"].append(part)
            else:
                contents.append({"role": "user", "parts": [part]})
        else:
            calls = as_list(message.get("tool_calls"))
            names |= {str(call.get("id")): call["function"]["name"] for call in calls}
            role = "model" if message.get("role") == "assistant" else "user"
            parts = parts_of(blocks_in(message.get("content")), calls)
            contents.append({"role": role, "parts": parts or [{"text": ""}]})
        answering = answers
    return contents


def _response_part(message: Message, names: dict[str, str]) -> dict[str, Any]:
    call_id = as_text(message.get("tool_call_id"))
    said = "".join(str(block.get("text", "")) for block in blocks_in(message.get("content")))
    try:
        answered = orjson.loads(said)
    except orjson.JSONDecodeError:
        answered = said
    response = answered if isinstance(answered, dict) else {"result": answered}
    name = as_text(message.get("name")) or names.get(call_id, "")
    head = {"id": call_id} if call_id else {}
    others = without(message, "role", "tool_call_id", "name", "content")
    return {"functionResponse": {**head, "name": name, "response": response, **others}}


def blocks_in(content: Any) -> list[dict[str, Any]]:
    """A message's content as blocks."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [as_object(block) for block in as_list(content)]


def parts_of(
    blocks: Iterable[dict[str, Any]], calls: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The parts that carry blocks and tool calls. Raises: WireError for a block of no form."""
    return [*map(_part_of_block, blocks), *map(_part_of_call, calls)]


def _part_of_block(block: dict[str, Any]) -> dict[str, Any]:
    kind = str(block.get("type"))
    signature = block.get("signature")
    signed = {"thoughtSignature": signature} if signature else {}
    if kind in _TEXTS:
        return {"text": as_text(block.get("text")), **signed}
    if kind in THOUGHT_TYPES:
        said = block.get("thinking", block.get("text"))
        return {"text": as_text(said), "thought": True, **signed}
    if kind == "refusal":
        return {"text": as_text(block.get("refusal"))}
    if kind in block:
        return _image_url(block) if kind == "image_url" else without(block, "type")
    source = as_object(block.get("source"))
    if kind == "image" and source.get("type") == "base64":
        return {"inlineData": {"mimeType": source["media_type"], "data": source["data"]}}
    raise WireError("the request holds a part that Gemini has no form for")


def _image_url(block: dict[str, Any]) -> dict[str, Any]:
    url = as_text(as_object(block["image_url"]).get("url"))
    inline = _DATA_URL.fullmatch(url)
    if inline is None:
        return {"fileData": {"fileUri": url}}
    return {"inlineData": {"mimeType": inline[1], "data": inline[2]}}


def _part_of_call(call: dict[str, Any]) -> dict[str, Any]:
    function = as_object(call.get("function"))
    try:
        arguments = as_object(orjson.loads(function.get("arguments") or "{}"))
    except (orjson.JSONDecodeError, TypeError):
        raise WireError("a tool call's arguments are not a JSON object") from None
    head = {"id": call["id"]} if call.get("id") else {}
    said = {"functionCall": {**head, "name": function.get("name", ""), "args": arguments}}
    return {**said, "thoughtSignature": call["signature"]} if call.get("signature") else said
