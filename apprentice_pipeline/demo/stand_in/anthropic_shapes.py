"""Writes replies as Anthropic does: messages, whole and streamed, token counts and errors.

Formats only. Written from the provider's public reference; checked by its own SDK in tests.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import orjson

from apprentice_pipeline.demo.stand_in.reply import Reply, pieces

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def write_error(status: int, message: str, request_id: str) -> bytes:
    """Anthropic's error body."""
    error = {"type": _ERRORS.get(status, "api_error"), "message": message}
    return orjson.dumps({"type": "error", "error": error, "request_id": request_id})


def write_models(models: tuple[str, ...]) -> bytes:
    """The body of `GET /v1/models`."""
    data = [
        {
            "type": "model",
            "id": model,
            "display_name": model,
            "created_at": "2025-01-01T00:00:00Z",
            "lifecycle": "active",
        }
        for model in models
    ]
    ends = {"first_id": models[0], "last_id": models[-1]} if models else {}
    return orjson.dumps({"data": data, "has_more": False, **ends})


def write_count(input_tokens: int) -> bytes:
    """The body of `POST /v1/messages/count_tokens`."""
    return orjson.dumps({"input_tokens": input_tokens})


def write_message(reply: Reply) -> bytes:
    """A whole message."""
    message = _message(reply, reply.output_tokens)
    return orjson.dumps({**message, "content": _blocks(reply), "stop_reason": _stop(reply)})


def message_events(reply: Reply, chunk_chars: int) -> Iterator[bytes]:
    """A streamed message, `message_stop` last."""
    yield _event("message_start", {"message": _message(reply, 1)})
    for index, block in enumerate(_blocks(reply)):
        yield _event("content_block_start", {"index": index, "content_block": _begun(block)})
        if index == 0:
            yield _event("ping", {})
        for delta in _deltas(block, chunk_chars):
            yield _event("content_block_delta", {"index": index, "delta": delta})
        yield _event("content_block_stop", {"index": index})
    delta = {"stop_reason": _stop(reply), "stop_sequence": None}
    usage = {"output_tokens": reply.output_tokens}
    yield _event("message_delta", {"delta": delta, "usage": usage})
    yield _event("message_stop", {})


def _begun(block: dict[str, Any]) -> dict[str, Any]:
    """A block as a stream opens it: empty."""
    empty: dict[str, Any] = {"text": "", "thinking": "", "signature": "", "input": {}}
    return {name: empty.get(name, value) for name, value in block.items()}


def _deltas(block: dict[str, Any], chunk_chars: int) -> Iterator[dict[str, Any]]:
    if block["type"] == "tool_use":
        for piece in pieces(orjson.dumps(block["input"]).decode(), chunk_chars):
            yield {"type": "input_json_delta", "partial_json": piece}
        return
    kind = block["type"]
    for piece in pieces(block[kind], chunk_chars):
        yield {"type": f"{kind}_delta", kind: piece}
    if kind == "thinking":
        yield {"type": "signature_delta", "signature": block["signature"]}


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    body = orjson.dumps({"type": kind, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"


def _message(reply: Reply, output_tokens: int) -> dict[str, Any]:
    return {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": reply.input_tokens - reply.cached_tokens - reply.written_tokens,
            "cache_creation_input_tokens": reply.written_tokens,
            "cache_read_input_tokens": reply.cached_tokens,
            "output_tokens": output_tokens,
            "service_tier": "standard",
        },
    }


def _blocks(reply: Reply) -> list[dict[str, Any]]:
    """Thought, what was said (or the refusal, which is text here), the tool calls."""
    blocks: list[dict[str, Any]] = []
    if reply.thinking:
        signature = b64encode(reply.thinking.encode()).decode()
        blocks.append({"type": "thinking", "thinking": reply.thinking, "signature": signature})
    text, calls = reply.refusal or reply.said(), reply.calls()
    if text or not calls:
        blocks.append({"type": "text", "text": text})
    for at, (name, arguments) in enumerate(calls):
        identity = f"toolu_{reply.id}{at}"
        use = {"type": "tool_use", "id": identity, "name": name, "input": _arguments(arguments)}
        blocks.append(use)
    return blocks


def _arguments(text: str) -> dict[str, Any]:
    """A tool's input is an object: the answer where it is one, else the text under `answer`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"answer": value}


def _stop(reply: Reply) -> str:
    if reply.cut[0]:
        return "max_tokens"
    if reply.refusal or reply.parts.stop:
        return reply.parts.stop or "refusal"
    return "tool_use" if reply.calls() else "end_turn"
