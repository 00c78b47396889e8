"""The Responses API: reading and writing answers, streamed or not.

Belongs here: input and output items, the events of a streamed response. Does not: errors and
paths (`openai`). The last event of a stream carries the whole response, so that both readings
are the same code; what came before it matters only when the stream was cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Answer, Message, Usage
from apprentice_pipeline.wire import sse
from apprentice_pipeline.wire.forms import (
    WireRequest,
    WireResponse,
    as_list,
    as_object,
    as_text,
    count,
    in_tier,
    json_object,
    reads,
    without,
)
from apprentice_pipeline.wire.outputs import (
    calls_of,
    function_call,
    normal_form,
    pieces,
    refusal_of,
    text_of,
)

NOT_PARAMETERS = ("model", "input", "instructions", "stream", "stream_options")
_ANSWERED = {"completed", "incomplete"}
TERMINAL = {
    b"response.completed", b"response.incomplete", b"response.failed", b"response.cancelled",
    b"error",
}  # fmt: skip


def request_messages(document: dict[str, Any]) -> list[Message]:
    """`instructions` and `input` as messages; items that are no messages stay as they are."""
    given = document.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else as_list(given)
    messages = [_input_item(as_object(item)) for item in items]
    instructions = document.get("instructions")
    if isinstance(instructions, str) and instructions:
        return [{"role": "system", "content": instructions}, *messages]
    return messages


def _input_item(item: Message) -> Message:
    return without(item, "type") if item.get("type") == "message" else item


def is_terminal(event: sse.Event) -> bool:
    """Whether an event is the last of a response; none is without a name of `TERMINAL`."""
    if event.name:
        return event.name in TERMINAL
    head = event.data[:80]
    return any(b'"' + name + b'"' in head for name in TERMINAL)


class ResponsesAssembly:
    """A `streams.Assembly` of Responses events."""

    __slots__ = ("_final", "_items", "_texts")

    def __init__(self) -> None:
        self._items: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, list[str]] = {}
        self._final: dict[str, Any] | None = None

    def is_terminal(self, event: sse.Event) -> bool:
        """See `Assembly`."""
        return is_terminal(event)

    def add(self, event: sse.Event) -> None:
        """See `Assembly`."""
        document = json_object(event.data)
        kind = as_text(document.get("type"))
        if kind == "error" or document.get("error"):
            raise WireError("the provider reported an error in the stream")
        if kind == "response.output_item.done":
            index = count(document.get("output_index")) or 0
            self._items[index] = as_object(document["item"])
        elif kind == "response.output_text.delta":
            index = count(document.get("output_index")) or 0
            self._texts.setdefault(index, []).append(as_text(document["delta"]))
        elif kind.encode() in TERMINAL:
            self._final = as_object(document["response"])
            if self._final.get("status") not in _ANSWERED:
                raise WireError("the response failed")

    def response(self) -> WireResponse | None:
        """See `Assembly`."""
        final = self._final or {}
        if final and (final.get("output") or not self._items):
            return read_document(final)
        if not self._items and not self._texts:
            return None
        for index, texts in self._texts.items():
            part = {"type": "output_text", "text": "".join(texts)}
            self._items.setdefault(index, {"type": "message", "content": [part]})
        items = [self._items[index] for index in sorted(self._items)]
        return read_document({**final, "output": items})


@reads
def read_document(document: dict[str, Any]) -> WireResponse:
    """A whole response. Its output is None where it failed or is still under way.

    Raises: WireError.
    """
    items = [as_object(item) for item in as_list(document["output"])]
    status = as_text(document.get("status")) or "completed"
    reason = as_object(document.get("incomplete_details")).get("reason")
    return WireResponse(
        output=_output(items) if status in _ANSWERED else None,
        usage=in_tier(_usage(document.get("usage")), document.get("service_tier")),
        model=as_text(document.get("model")),
        finish_reason=as_text(reason) or status,
    )


def _output(items: list[dict[str, Any]]) -> Any:
    blocks: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for item in items:
        kind = item["type"]
        if kind == "message":
            blocks += [_part(as_object(part)) for part in as_list(item.get("content"))]
        elif kind == "function_call":
            calls.append(
                function_call(
                    as_text(item.get("call_id")),
                    as_text(item["name"]),
                    as_text(item.get("arguments")),
                )
            )
        elif kind != "reasoning" or item.get("summary") or item.get("encrypted_content"):
            blocks.append(without(item, "id", "status"))
    return normal_form(blocks, calls)


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "output_text":
        return {"type": "text", "text": as_text(part["text"])}
    if part["type"] == "refusal":
        return {"type": "refusal", "refusal": as_text(part["refusal"])}
    return part


def _usage(usage: Any) -> Usage:
    said = as_object(usage)
    read = Usage(
        input_tokens=count(said.get("input_tokens")),
        output_tokens=count(said.get("output_tokens")),
        cached_tokens=count(as_object(said.get("input_tokens_details")).get("cached_tokens")),
        source="provider",
    )
    return Usage() if read.input_tokens is None and read.output_tokens is None else read


def document(
    request: WireRequest, answer: Answer, response_id: str, created_s: int
) -> dict[str, Any]:
    """A whole response that carries `answer`, under the model name that was asked for."""
    return _envelope(request, response_id, created_s) | {
        "status": "completed",
        "output": _items(answer.output, response_id),
        "usage": _usage_document(answer.usage),
    }


def events(
    request: WireRequest, answer: Answer, response_id: str, created_s: int
) -> Iterator[bytes]:
    """The events that carry `answer`."""
    started = _envelope(request, response_id, created_s)
    bodies: list[dict[str, Any]] = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
    ]
    for index, item in enumerate(_items(answer.output, response_id)):
        bodies += _item_events(index, item)
    whole = document(request, answer, response_id, created_s)
    bodies.append({"type": "response.completed", "response": whole})
    for number, body in enumerate(bodies):
        yield sse.encode(orjson.dumps({**body, "sequence_number": number}), body["type"])


def _envelope(request: WireRequest, response_id: str, created_s: int) -> dict[str, Any]:
    parameters = request.input["parameters"]
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_s,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": request.max_output_tokens,
        "metadata": parameters.get("metadata") or {},
        "model": request.model,
        "output": [],
        "parallel_tool_calls": parameters.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "temperature": parameters.get("temperature"),
        "text": parameters.get("text") or {"format": {"type": "text"}},
        "tool_choice": parameters.get("tool_choice") or "auto",
        "tools": parameters.get("tools") or [],
        "top_p": parameters.get("top_p"),
        "usage": None,
    }


def _items(output: Any, response_id: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    calls, refusal = calls_of(output), refusal_of(output)
    text = text_of(output)
    if text or not (calls or refusal):
        parts.append({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    if refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    items: list[dict[str, Any]] = []
    if parts:
        items.append({"id": f"msg_{response_id}", "type": "message", "role": "assistant"})
        items[0] |= {"status": "completed", "content": parts}
    for index, call in enumerate(calls):
        function = as_object(call.get("function"))
        items.append(
            {
                "id": f"fc_{index}_{response_id}",
                "type": "function_call",
                "call_id": call.get("id", ""),
                "name": function.get("name", ""),
                "arguments": function.get("arguments", ""),
                "status": "completed",
            }
        )
    return items


def _item_events(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    place = {"output_index": index, "item_id": item["id"]}
    opened = {**item, "status": "in_progress"}
    if item["type"] == "message":
        opened["content"] = []
    else:
        opened["arguments"] = ""
    found: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": index, "item": opened}
    ]
    if item["type"] == "message":
        for number, part in enumerate(item["content"]):
            found += _part_events({**place, "content_index": number}, part)
    else:
        kind, said = "response.function_call_arguments", item["arguments"]
        found.append({"type": f"{kind}.delta", **place, "delta": said})
        found.append({"type": f"{kind}.done", **place, "name": item["name"], "arguments": said})
    return [*found, {"type": "response.output_item.done", "output_index": index, "item": item}]


def _part_events(place: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
    field = "text" if part["type"] == "output_text" else "refusal"
    kind = f"response.{part['type']}"
    extra: dict[str, Any] = {"logprobs": []} if field == "text" else {}
    deltas = [
        {"type": f"{kind}.delta", **place, "delta": piece, **extra} for piece in pieces(part[field])
    ]
    return [
        {"type": "response.content_part.added", **place, "part": {**part, field: ""}},
        *deltas,
        {"type": f"{kind}.done", **place, field: part[field], **extra},
        {"type": "response.content_part.done", **place, "part": part},
    ]


def _usage_document(usage: Usage) -> dict[str, Any]:
    given, made = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + made,
    }
