"""Reading Anthropic's content blocks, whole or from a stream of deltas.

Belongs here: blocks, deltas, usage. Does not: requests, errors, writing (`anthropic`).
A stream is first put back into the blocks that an unstreamed answer has; from there on both
readings are the same code.
"""

from __future__ import annotations

from typing import Any

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Usage
from apprentice_pipeline.wire.forms import (
    WireResponse,
    as_list,
    as_object,
    as_text,
    count,
    in_tier,
    json_object,
)
from apprentice_pipeline.wire.outputs import function_call, normal_form
from apprentice_pipeline.wire.sse import Event

_TEXT_DELTAS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}


STOP = b"message_stop"
_FINISHED = frozenset({"end_turn", "stop_sequence", "tool_use"})
"""Stop reasons of an answer that came to its end: every tool call in it is whole."""


def is_terminal(event: Event) -> bool:
    """Whether an event is the last of a message; none is without `STOP`."""
    if event.name:
        return event.name == STOP
    return b'"message_stop"' in event.data[:80]


class MessagesAssembly:
    """A `streams.Assembly` of messages events up to `message_stop`."""

    __slots__ = ("_blocks", "_citations", "_message", "_stop_reason", "_texts", "_usage")

    def __init__(self) -> None:
        self._message: dict[str, Any] | None = None
        self._blocks: dict[int, dict[str, Any]] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}
        self._citations: dict[int, list[Any]] = {}
        self._usage: dict[str, Any] = {}
        self._stop_reason: str | None = None

    def is_terminal(self, event: Event) -> bool:
        """See `Assembly`."""
        return is_terminal(event)

    def add(self, event: Event) -> None:
        """See `Assembly`."""
        document = json_object(event.data)
        kind = as_text(document.get("type"))
        if kind == "content_block_delta":
            self._add_delta(document["index"], as_object(document["delta"]))
        elif kind == "content_block_start":
            self._blocks[int(document["index"])] = as_object(document["content_block"])
        elif kind == "message_start":
            self._message = as_object(document["message"])
            self._usage = dict(as_object(self._message.get("usage")))
        elif kind == "message_delta":
            delta = as_object(document.get("delta"))
            self._stop_reason = as_text(delta.get("stop_reason")) or self._stop_reason
            said = as_object(document.get("usage"))
            self._usage |= {name: value for name, value in said.items() if value is not None}
        elif kind == "message_stop" and self._message is None:
            raise WireError("the stream stopped without a start")
        elif kind == "error":
            raise WireError("the provider reported an error in the stream")

    def response(self) -> WireResponse | None:
        """See `Assembly`."""
        if self._message is None:
            return None
        return WireResponse(
            output=normal_output([self._block(index) for index in sorted(self._blocks)]),
            usage=read_usage(self._usage),
            model=as_text(self._message.get("model")),
            finish_reason=self._stop_reason,
        )

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        kind = delta["type"]
        field = _TEXT_DELTAS.get(kind)
        if index not in self._blocks or (field is None and kind != "citations_delta"):
            raise WireError("a delta that is unknown, or of no block")
        if field is None:
            self._citations.setdefault(index, []).append(delta["citation"])
        else:
            self._texts.setdefault((index, field), []).append(as_text(delta[field]))

    def _block(self, index: int) -> dict[str, Any]:
        block = dict(self._blocks[index])
        for field in ("text", "thinking", "signature"):
            if said := self._texts.get((index, field)):
                block[field] = as_text(block.get(field)) + "".join(said)
        if arguments := "".join(self._texts.get((index, "partial_json"), ())):
            block["input"] = self._input(arguments)
        if cited := self._citations.get(index):
            block["citations"] = as_list(block.get("citations")) + cited
        return block

    def _input(self, arguments: str) -> Any:
        """A tool call's input; where the answer was cut within, its text as far as it came."""
        try:
            return orjson.loads(arguments)
        except orjson.JSONDecodeError:
            if self._stop_reason in _FINISHED:
                raise
            return arguments


def normal_output(content: list[dict[str, Any]]) -> Any:
    """The normal form of content blocks; `tool_use` blocks become tool calls."""
    blocks: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in content:
        kind = block["type"]
        if kind == "tool_use":
            arguments = _arguments(block.get("input"))
            calls.append(function_call(as_text(block["id"]), as_text(block["name"]), arguments))
        elif kind == "text":
            text = {"type": "text", "text": as_text(block["text"])}
            cited = as_list(block.get("citations"))
            blocks.append({**text, "citations": cited} if cited else text)
        elif kind == "thinking":
            signature = as_text(block.get("signature"))
            thought = {"type": kind, "thinking": as_text(block.get("thinking"))}
            blocks.append({**thought, "signature": signature})
        else:
            blocks.append(block)
    return normal_form(blocks, calls)


def _arguments(said: Any) -> str:
    """A tool call's arguments as JSON text; text is what came of them before the stream was cut."""
    return said if isinstance(said, str) else orjson.dumps(as_object(said)).decode()


def read_usage(said: dict[str, Any]) -> Usage:
    """Usage of a message, cached and cache-writing tokens added to the input's."""
    fresh, made = count(said.get("input_tokens")), count(said.get("output_tokens"))
    read = count(said.get("cache_read_input_tokens"))
    written = count(said.get("cache_creation_input_tokens"))
    if fresh is None and made is None:
        return Usage()
    whole = None if fresh is None else fresh + (read or 0) + (written or 0)
    kept = said.get("cache_creation")
    for_an_hour = count(kept.get("ephemeral_1h_input_tokens")) if isinstance(kept, dict) else None
    usage = Usage(whole, made, read, written, "provider", hour_write_tokens=for_an_hour)
    return in_tier(usage, said.get("service_tier"))
