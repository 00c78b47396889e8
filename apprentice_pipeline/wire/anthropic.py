"""The Anthropic wire format: messages.

Belongs here: paths, requests, answers (streamed or not), errors. Offers `forms.WireFormat`.
Anthropic counts cached prompt tokens apart from `input_tokens`; here they are added to it, so
that `Usage.input_tokens` is the whole prompt as it is for OpenAI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Answer, Message, Usage
from apprentice_pipeline.wire import sse
from apprentice_pipeline.wire.anthropic_stream import (
    STOP,
    MessagesAssembly,
    is_terminal,
    normal_output,
    read_usage,
)
from apprentice_pipeline.wire.forms import (
    WireRequest,
    WireResponse,
    as_list,
    as_object,
    as_text,
    count,
    json_object,
    reads,
    unstreamed_body,
    without,
)
from apprentice_pipeline.wire.outputs import THOUGHT_TYPES, blocks_of, calls_of, pieces
from apprentice_pipeline.wire.streams import EndFinder, StreamReader

MESSAGES = "messages"
ENDPOINTS = (MESSAGES,)
DEFAULT_MAX_TOKENS = 1_024
_PATHS = {"": MESSAGES, "messages": MESSAGES}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def endpoint_of(path: str) -> str | None:
    """The endpoint of a path below the provider prefix, None where it is not captured."""
    bare = path.strip("/")
    return _PATHS.get("" if bare == "v1" else bare.removeprefix("v1/"))


def upstream_path(path: str) -> str:
    """The path to ask of Anthropic for a path below the provider prefix, with its `/v1`."""
    bare = path.removeprefix("/v1") if path == "/v1" or path.startswith("/v1/") else path
    return "/v1/messages" if bare in {"", "/"} else "/v1" + bare


def call_path(model: str) -> str:  # noqa: ARG001 - the body names the model
    """The path of a message."""
    return "/v1/messages"


def unstreamed(target: str, body: bytes) -> tuple[str, bytes]:
    """The same request, its answer asked for in one piece. Raises: WireError."""
    return target, unstreamed_body(body)


@reads
def read_request(endpoint: str, body: bytes, target: str = "") -> WireRequest:  # noqa: ARG001
    """The request in `body`; its `system` becomes the first message. Raises: WireError."""
    document = json_object(body)
    messages = [as_object(message) for message in as_list(document["messages"])]
    if system := document.get("system"):
        messages.insert(0, {"role": "system", "content": system})
    return WireRequest(
        model=as_text(document.get("model")),
        streamed=document.get("stream") is True,
        input={
            "messages": messages,
            "parameters": without(document, "model", "messages", "system", "stream"),
        },
        max_output_tokens=count(document.get("max_tokens")),
        include_usage=True,
    )


@reads
def read_response(endpoint: str, body: bytes) -> WireResponse:  # noqa: ARG001 - one endpoint
    """The answer in `body`. Raises: WireError."""
    document = json_object(body)
    if document.get("type") != "message":
        raise WireError("the body is not a message")
    return WireResponse(
        output=normal_output([as_object(block) for block in as_list(document["content"])]),
        usage=read_usage(as_object(document.get("usage"))),
        model=as_text(document.get("model")),
        finish_reason=as_text(document.get("stop_reason")) or None,
    )


def stream_reader(endpoint: str) -> StreamReader:  # noqa: ARG001 - one endpoint
    """A reader of one streamed answer."""
    return StreamReader(MessagesAssembly())


def end_finder(endpoint: str) -> EndFinder:  # noqa: ARG001 - one endpoint
    """What finds the end of one streamed answer."""
    return EndFinder(is_terminal, STOP)


def write_response(
    endpoint: str,  # noqa: ARG001 - one endpoint
    request: WireRequest,
    answer: Answer,
    *,
    response_id: str,
    created_s: int,  # noqa: ARG001 - a message carries no time
) -> bytes:
    """The unstreamed body that carries `answer`."""
    return orjson.dumps(
        _envelope(request, answer, response_id)
        | {
            "content": _content(answer.output),
            "stop_reason": _stop_reason(answer.output),
            "usage": _usage_document(answer.usage),
        }
    )


def write_stream(
    endpoint: str,  # noqa: ARG001 - one endpoint
    request: WireRequest,
    answer: Answer,
    *,
    response_id: str,
    created_s: int,  # noqa: ARG001 - a message carries no time
) -> Iterator[bytes]:
    """The server-sent events that carry `answer`."""
    usage = _usage_document(answer.usage)
    started = _envelope(request, answer, response_id)
    started["usage"] = {**usage, "output_tokens": 1}
    yield _event({"type": "message_start", "message": started})
    yield _event({"type": "ping"})
    for index, block in enumerate(_content(answer.output)):
        yield from map(_event, _block_events(index, block))
    delta = {"stop_reason": _stop_reason(answer.output), "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": delta, "usage": usage})
    yield _event({"type": "message_stop"})


def write_error(status: int, message: str) -> bytes:
    """An error body as Anthropic writes it."""
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})


def write_request(
    model: str,
    messages: Sequence[Message],
    parameters: dict[str, Any],
    *,
    streamed: bool = False,
) -> bytes:
    """A messages request. Parameters that OpenAI names otherwise are renamed, those Anthropic
    does not know are left out; `max_tokens`, which it demands, is 1,024 where none is given.
    """
    system = [m.get("content") for m in messages if m.get("role") in {"system", "developer"}]
    turns = [m for m in messages if m.get("role") not in {"system", "developer"}]
    kept = {name: value for name, value in parameters.items() if name in _MESSAGES_PARAMETERS}
    for name in ("max_completion_tokens", "max_output_tokens"):
        kept.setdefault("max_tokens", parameters.get(name))
    kept["max_tokens"] = kept.get("max_tokens") or DEFAULT_MAX_TOKENS
    if (stop := parameters.get("stop")) and "stop_sequences" not in kept:
        kept["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    body: dict[str, Any] = {"model": model, "messages": turns, **kept}
    if system:
        body["system"] = system[0] if len(system) == 1 else _joined_system(system)
    if streamed:
        body["stream"] = True
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise WireError("the request holds a value that JSON has no form for") from None


_MESSAGES_PARAMETERS = frozenset(
    {
        "container", "context_management", "max_tokens", "mcp_servers", "metadata",
        "output_config", "output_format", "service_tier", "stop_sequences", "temperature",
        "thinking", "tool_choice", "tools", "top_k", "top_p",
    }
)  # fmt: skip


def _joined_system(contents: list[Any]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for content in contents:
        blocks += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return blocks


def _envelope(request: WireRequest, answer: Answer, response_id: str) -> dict[str, Any]:
    return {
        "id": response_id,
        "type": "message",
        "role": "assistant",
        "model": request.model or answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _content(output: Any) -> list[dict[str, Any]]:
    blocks = [_known_block(block) for block in blocks_of(output)]
    for call in calls_of(output):
        function = as_object(call.get("function"))
        blocks.append(
            {
                "type": "tool_use",
                "id": call.get("id", ""),
                "name": function.get("name", ""),
                "input": _arguments(function.get("arguments")),
            }
        )
    return blocks


def _known_block(block: dict[str, Any]) -> dict[str, Any]:
    """Anthropic has no refusal block: it refuses in text, with the stop reason `refusal`."""
    if block.get("type") == "refusal":
        return {"type": "text", "text": block.get("refusal", "")}
    return block


def _arguments(text: Any) -> dict[str, Any]:
    try:
        return as_object(orjson.loads(text or "{}"))
    except (orjson.JSONDecodeError, TypeError):
        raise WireError("a tool call's arguments are not a JSON object") from None


def _stop_reason(output: Any) -> str:
    if calls_of(output):
        return "tool_use"
    refused = any(block.get("type") == "refusal" for block in blocks_of(output))
    return "refusal" if refused else "end_turn"


def _block_events(index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    place = {"type": "content_block_delta", "index": index}
    kind = block.get("type")
    opened, deltas = block, []
    if kind == "text":
        opened = {**block, "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
    elif kind == "tool_use":
        opened = {**block, "input": {}}
        said = orjson.dumps(block["input"]).decode()
        deltas = [{"type": "input_json_delta", "partial_json": said}]
    elif kind in THOUGHT_TYPES and "thinking" in block:
        opened = {**block, "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
        deltas.append({"type": "signature_delta", "signature": block.get("signature", "")})
    yield {"type": "content_block_start", "index": index, "content_block": opened}
    for delta in deltas:
        yield {**place, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _event(body: dict[str, Any]) -> bytes:
    return sse.encode(orjson.dumps(body), body["type"])


def _usage_document(usage: Usage) -> dict[str, Any]:
    read, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    return {
        "input_tokens": max(0, (usage.input_tokens or 0) - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.output_tokens or 0,
    }
