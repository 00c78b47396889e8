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
    for index, text in enumerate(reply.texts):
        for delta, logprobs in _deltas(reply, index, text, chunk_chars):
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
    text = reply.texts[index]
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if reply.tool:
        message |= {"content": None, "tool_calls": [_tool_call(reply, index, text)]}
    logprobs = _logprobs([text]) if reply.logprobs else None
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": _finish(reply, index),
    }


def _tool_call(reply: Reply, index: int, arguments: str) -> dict[str, Any]:
    function = {"name": reply.tool, "arguments": arguments}
    return {"id": f"call_{reply.id}{index}", "type": "function", "function": function}


def _finish(reply: Reply, index: int) -> str:
    if reply.cut[index]:
        return "length"
    return "tool_calls" if reply.tool else "stop"


def _logprobs(tokens: list[str]) -> dict[str, Any]:
    content = [
        {"token": token, "logprob": -0.01, "bytes": list(token.encode()), "top_logprobs": []}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _deltas(
    reply: Reply, index: int, text: str, chunk_chars: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    if reply.tool:
        opening = {"index": 0, **_tool_call(reply, index, "")}
        yield {"role": "assistant", "content": None, "tool_calls": [opening]}, None
        for piece in pieces(text, chunk_chars):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, None
        return
    yield {"role": "assistant", "content": "", "refusal": None}, None
    for piece in pieces(text, chunk_chars):
        yield {"content": piece}, _logprobs([piece]) if reply.logprobs else None


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
    item = _item(reply, "in_progress")
    yield "response.output_item.added", {"output_index": 0, "item": item}
    yield from _item_steps(reply, chunk_chars)
    done = _item(reply, _status(reply))
    yield "response.output_item.done", {"output_index": 0, "item": done}
    yield f"response.{_status(reply)}", {"response": _response(reply, "completed")}


def _item_steps(reply: Reply, chunk_chars: int) -> Iterator[tuple[str, dict[str, Any]]]:
    text = reply.texts[0]
    if reply.tool:
        place: dict[str, Any] = {"item_id": f"fc_{reply.id}", "output_index": 0}
        kind = "response.function_call_arguments"
        for piece in pieces(text, chunk_chars):
            yield f"{kind}.delta", {**place, "delta": piece}
        yield f"{kind}.done", {**place, "name": reply.tool, "arguments": text}
        return
    place = {"item_id": f"msg_{reply.id}", "output_index": 0, "content_index": 0}
    yield "response.content_part.added", {**place, "part": _part("")}
    for piece in pieces(text, chunk_chars):
        yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**place, "text": text, "logprobs": []}
    yield "response.content_part.done", {**place, "part": _part(text)}


def _status(reply: Reply) -> str:
    return "incomplete" if reply.cut[0] else "completed"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(reply: Reply, status: str) -> dict[str, Any]:
    finished = status != "in_progress"
    text = reply.texts[0] if finished else ""
    if reply.tool:
        return {
            "type": "function_call",
            "id": f"fc_{reply.id}",
            "call_id": f"call_{reply.id}",
            "name": reply.tool,
            "arguments": text,
            "status": status,
        }
    return {
        "type": "message",
        "id": f"msg_{reply.id}",
        "role": "assistant",
        "status": status,
        "content": [_part(text)] if finished else [],
    }


def _response(reply: Reply, stage: str) -> dict[str, Any]:
    finished = stage == "completed"
    status = _status(reply) if finished else stage
    cut = finished and reply.cut[0]
    return {
        "id": f"resp_{reply.id}",
        "object": "response",
        "created_at": reply.created_s,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": None,
        "metadata": {},
        "model": reply.model,
        "output": [_item(reply, status)] if finished else [],
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
