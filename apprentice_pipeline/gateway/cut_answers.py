"""An answer that the token limit cut, said so in its provider's own words.

Belongs here: the words that differ from those of a whole answer. Does not: the rest of the
shape (`wire`), whose writers this takes the bodies and events of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from apprentice_pipeline.wire import sse

_DATA = b"data: "


def cut_body(body: bytes) -> bytes:
    """The whole answer `body`, marked as cut."""
    return orjson.dumps(_cut(orjson.loads(body)))


def cut_events(events: Iterable[bytes]) -> Iterator[bytes]:
    """The events of a streamed answer, marked as cut."""
    for event in events:
        name, _, data = event.partition(_DATA)
        if not data.startswith(b"{"):
            yield event
            continue
        document = _cut(orjson.loads(data))
        yield sse.encode(orjson.dumps(document), document["type"] if name else "")


def _cut(document: dict[str, Any]) -> dict[str, Any]:
    """A body, or an event's data: chat completions, messages or responses."""
    if document.get("stop_reason") == "end_turn":
        return document | {"stop_reason": "max_tokens"}
    if document.get("object") == "response" and document["status"] == "completed":
        details = {"incomplete_details": {"reason": "max_output_tokens"}}
        output = [_cut_item(item) for item in document["output"]]
        return document | {"status": "incomplete", "output": output} | details
    match document.get("type"):
        case "message_delta":
            return document | {"delta": _cut(document["delta"])}
        case "response.output_item.done":
            return document | {"item": _cut_item(document["item"])}
        case "response.completed":
            return document | {
                "type": "response.incomplete",
                "response": _cut(document["response"]),
            }
    if choices := document.get("choices"):
        return document | {"choices": [_cut_choice(choice) for choice in choices]}
    return document


def _cut_choice(choice: dict[str, Any]) -> dict[str, Any]:
    return choice | {"finish_reason": "length"} if choice.get("finish_reason") else choice


def _cut_item(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"status": "incomplete"}
