"""Writes replies as OpenAI does: chat completions and responses, whole and streamed, and errors.

Formats only. Written from the provider's public reference; checked by its own SDK in tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from apprentice_pipeline.demo.stand_in.reply import Reply, pieces

_DONE = b"data: [DONE]\n\n"
_ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "unknown_url"),
    405: ("invalid_request_error", "method_not_supported"),
    429: ("requests", "rate_limit_exceeded"),
}


def write_error(status: int, message: str) -> bytes:
    """OpenAI's error body."""
    kind, code = _ERRORS.get(status, ("server_error", None))
    error = {"message": message, "type": kind, "param": None, "code": code}
    return orjson.dumps({"error": error})


def write_models(models: tuple[str, ...]) -> bytes:
    """The body of `GET /v1/models`."""
    data = [
        {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": "stand-in"}
        for model in models
    ]
    return orjson.dumps({"object": "list", "data": data})


# --- chat completions -------------------------------------------------------------------------


def write_chat(reply: Reply) -> bytes:
    """A whole chat completion."""
    choices = [_choice(reply, index) for index in range(len(reply.texts))]
    head = _chat_head(reply, "chat.completion")
    return orjson.dumps({**head, "choices": choices, "usage": _chat_usage(reply)})


def chat_events(reply: Reply, chunk_chars: int) -> Iterator[bytes]:
    """A streamed chat completion, event by event, `[DONE]` last."""
    head = _chat_head(reply, "chat.completion.chunk")
    for index in range(len(reply.texts)):
        for delta, logprobs in _deltas(reply, index, chunk_chars):
            yield _chunk(reply, head, [_delta(index, delta, None, logprobs)])
        yield _chunk(reply, head, [_delta(index, {}, _finish(reply, index), None)])
    if reply.include_usage:
        yield _event({**head, "choices": [], "usage": _chat_usage(reply)})
    yield _DONE


def _chat_head(reply: Reply, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{reply.id}",
        "object": kind,
        "created": reply.created_s,
        "model": reply.model,
        "service_tier": "default",
        "system_fingerprint": "fp_standin",
    }


def _choice(reply: Reply, index: int) -> dict[str, Any]:
    text, calls = reply.said(index), reply.calls(index)
    nothing_said = not text and (calls or reply.refusal)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if nothing_said else text,
        "refusal": reply.refusal or None,
    }
    if calls:
        message["tool_calls"] = [_tool_call(reply, index, at) for at in range(len(calls))]
    logprobs = _logprobs([text]) if reply.logprobs else None
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": _finish(reply, index),
    }


def _tool_call(reply: Reply, index: int, at: int) -> dict[str, Any]:
    name, arguments = reply.calls(index)[at]
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{reply.id}{index}{at}", "type": "function", "function": function}


def _finish(reply: Reply, index: int) -> str:
    if reply.cut[index]:
        return "length"
    if reply.parts.stop:
        return reply.parts.stop
    return "tool_calls" if reply.calls(index) else "stop"


def _logprobs(tokens: list[str]) -> dict[str, Any]:
    content = [
        {"token": token, "logprob": -0.01, "bytes": list(token.encode()), "top_logprobs": []}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _deltas(
    reply: Reply, index: int, chunk_chars: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    text, calls = reply.said(index), reply.calls(index)
    opened: dict[str, Any] = {"role": "assistant", "content": None if reply.tool else ""}
    yield {**opened, "refusal": None}, None
    for piece in pieces(text, chunk_chars) if text or not (calls or reply.refusal) else ():
        yield {"content": piece}, _logprobs([piece]) if reply.logprobs else None
    for piece in pieces(reply.refusal, chunk_chars) if reply.refusal else ():
        yield {"refusal": piece}, None
    for at, (_, arguments) in enumerate(calls):
        yield {"tool_calls": [_opened_call(reply, index, at)]}, None
        for piece in pieces(arguments, chunk_chars):
            yield {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}, None


def _opened_call(reply: Reply, index: int, at: int) -> dict[str, Any]:
    """A tool call as a stream begins it: without its arguments."""
    call = {"index": at, **_tool_call(reply, index, at)}
    return {**call, "function": {**call["function"], "arguments": ""}}


def _delta(
    index: int, delta: dict[str, Any], finish: str | None, logprobs: dict[str, Any] | None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _chunk(reply: Reply, head: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
    usage = {"usage": None} if reply.include_usage else {}
    return _event({**head, "choices": choices, **usage})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _chat_usage(reply: Reply) -> dict[str, Any]:
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


# --- responses --------------------------------------------------------------------------------


def write_response(reply: Reply) -> bytes:
    """A whole response."""
    return orjson.dumps(_response(reply, "completed"))


def responses_events(reply: Reply, chunk_chars: int) -> Iterator[bytes]:
    """A streamed response, `response.completed` (or `.incomplete`) last."""
    for number, (kind, fields) in enumerate(_response_steps(reply, chunk_chars)):
        body = orjson.dumps({"type": kind, "sequence_number": number, **fields})
        yield b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"


def _response_steps(reply: Reply, chunk_chars: int) -> Iterator[tuple[str, dict[str, Any]]]:
    opened = _response(reply, "in_progress")
    yield "response.created", {"response": opened}
    yield "response.in_progress", {"response": opened}
    for index, item in enumerate(_items(reply)):
        yield "response.output_item.added", {"output_index": index, "item": _begun(item)}
        yield from _item_steps(item, index, chunk_chars)
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield f"response.{_status(reply)}", {"response": _response(reply, "completed")}


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """An output item as a stream opens it: empty."""
    empty: dict[str, Any] = {"arguments": ""} if "arguments" in item else {"content": []}
    return {**item, **({"summary": []} if item["type"] == "reasoning" else empty), **_UNDER_WAY}


_UNDER_WAY = {"status": "in_progress"}


def _item_steps(
    item: dict[str, Any], index: int, chunk_chars: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    place: dict[str, Any] = {"item_id": item["id"], "output_index": index}
    if item["type"] == "function_call":
        kind, text = "response.function_call_arguments", item["arguments"]
        for piece in pieces(text, chunk_chars):
            yield f"{kind}.delta", {**place, "delta": piece}
        yield f"{kind}.done", {**place, "name": item["name"], "arguments": text}
    elif item["type"] == "message":
        yield from _part_steps(item["content"][0], {**place, "content_index": 0}, chunk_chars)


def _part_steps(
    part: dict[str, Any], place: dict[str, Any], chunk_chars: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    field = "text" if part["type"] == "output_text" else "refusal"
    extra: dict[str, Any] = {"logprobs": []} if field == "text" else {}
    yield "response.content_part.added", {**place, "part": {**part, field: ""}}
    for piece in pieces(part[field], chunk_chars):
        yield f"response.{part['type']}.delta", {**place, "delta": piece, **extra}
    yield f"response.{part['type']}.done", {**place, field: part[field], **extra}
    yield "response.content_part.done", {**place, "part": part}


def _status(reply: Reply) -> str:
    return "incomplete" if reply.cut[0] or reply.parts.stop else "completed"


def _items(reply: Reply) -> list[dict[str, Any]]:
    """Reasoning, what was said (or the refusal), the function calls: what there is of them."""
    items: list[dict[str, Any]] = []
    if reply.thinking:
        summary = [{"type": "summary_text", "text": reply.thinking}]
        items.append({"id": f"rs_{reply.id}", "type": "reasoning", "summary": summary})
    text, calls = reply.said(), reply.calls()
    if text or not calls:
        items.append(
            {
                "type": "message",
                "id": f"msg_{reply.id}",
                "role": "assistant",
                "status": _status(reply),
                "content": [_part(reply, text)],
            }
        )
    for at, (name, arguments) in enumerate(calls):
        items.append(
            {
                "type": "function_call",
                "id": f"fc_{reply.id}{at}",
                "call_id": f"call_{reply.id}{at}",
                "name": name,
                "arguments": arguments,
                "status": _status(reply),
            }
        )
    return items


def _part(reply: Reply, text: str) -> dict[str, Any]:
    if reply.refusal:
        return {"type": "refusal", "refusal": reply.refusal}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response(reply: Reply, stage: str) -> dict[str, Any]:
    finished = stage == "completed"
    status = _status(reply) if finished else stage
    reason = reply.parts.stop or ("max_output_tokens" if reply.cut[0] else "")
    return {
        "id": f"resp_{reply.id}",
        "object": "response",
        "created_at": reply.created_s,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reason} if finished and reason else None,
        "instructions": None,
        "metadata": {},
        "model": reply.model,
        "output": _items(reply) if finished else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": _response_usage(reply) if finished else None,
    }


def _response_usage(reply: Reply) -> dict[str, Any]:
    return {
        "input_tokens": reply.input_tokens,
        "input_tokens_details": {"cached_tokens": reply.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": reply.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }
