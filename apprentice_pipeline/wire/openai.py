"""The OpenAI wire format: chat completions and responses.

Belongs here: paths, requests, errors, and the choice between the two endpoints. Does not:
the shapes of answers (`openai_chat`, `openai_responses`). Offers `forms.WireFormat`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Answer, Message
from apprentice_pipeline.wire import openai_chat, openai_responses
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
from apprentice_pipeline.wire.streams import EndFinder, StreamReader

CHAT, RESPONSES = "chat.completions", "responses"
ENDPOINTS = (CHAT, RESPONSES)
_PATHS = {"": CHAT, "chat/completions": CHAT, "responses": RESPONSES}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}
_ERROR_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def endpoint_of(path: str) -> str | None:
    """The endpoint of a path below the provider prefix, None where it is not captured."""
    return _PATHS.get(_bare(path))


def upstream_path(path: str) -> str:
    """The path to ask of OpenAI for a path below the provider prefix, with its `/v1`."""
    bare = path.removeprefix("/v1") if path == "/v1" or path.startswith("/v1/") else path
    return "/v1/chat/completions" if bare in {"", "/"} else "/v1" + bare


def call_path(model: str) -> str:  # noqa: ARG001 - the body names the model
    """The path of a chat completion."""
    return "/v1/chat/completions"


def unstreamed(target: str, body: bytes) -> tuple[str, bytes]:
    """The same request, its answer asked for in one piece. Raises: WireError."""
    return target, unstreamed_body(body)


@reads
def read_request(endpoint: str, body: bytes, target: str = "") -> WireRequest:  # noqa: ARG001
    """The request in `body`. Raises: WireError."""
    document = json_object(body)
    if endpoint == RESPONSES:
        messages = openai_responses.request_messages(document)
        parameters = without(document, *openai_responses.NOT_PARAMETERS)
        limit = count(document.get("max_output_tokens"))
    else:
        messages = [as_object(message) for message in as_list(document["messages"])]
        parameters = without(document, "model", "messages", "stream", "stream_options")
        limit = count(document.get("max_completion_tokens"))
        limit = count(document.get("max_tokens")) if limit is None else limit
    options = as_object(document.get("stream_options"))
    return WireRequest(
        model=as_text(document.get("model")),
        streamed=document.get("stream") is True,
        input={"messages": messages, "parameters": parameters},
        max_output_tokens=limit,
        include_usage=options.get("include_usage") is True,
    )


def read_response(endpoint: str, body: bytes) -> WireResponse:
    """The answer in `body`. Raises: WireError."""
    document = json_object(body)
    if endpoint == RESPONSES:
        return openai_responses.read_document(document)
    return openai_chat.read_document(document)


def stream_reader(endpoint: str) -> StreamReader:
    """A reader of one streamed answer."""
    if endpoint == RESPONSES:
        return StreamReader(openai_responses.ResponsesAssembly())
    return StreamReader(openai_chat.ChatAssembly())


def end_finder(endpoint: str) -> EndFinder:
    """What finds the end of one streamed answer."""
    if endpoint == RESPONSES:
        return EndFinder(openai_responses.is_terminal, *openai_responses.TERMINAL)
    return EndFinder(openai_chat.is_terminal, openai_chat.DONE)


def write_response(
    endpoint: str, request: WireRequest, answer: Answer, *, response_id: str, created_s: int
) -> bytes:
    """The unstreamed body that carries `answer`."""
    write = openai_responses.document if endpoint == RESPONSES else openai_chat.document
    return orjson.dumps(write(request, answer, response_id, created_s))


def write_stream(
    endpoint: str, request: WireRequest, answer: Answer, *, response_id: str, created_s: int
) -> Iterator[bytes]:
    """The server-sent events that carry `answer`."""
    write = openai_responses.events if endpoint == RESPONSES else openai_chat.events
    return write(request, answer, response_id, created_s)


def write_error(status: int, message: str) -> bytes:
    """An error body as OpenAI writes it."""
    kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": _ERROR_CODES.get(status)}
    return orjson.dumps({"error": error})


def write_request(
    model: str,
    messages: Sequence[Message],
    parameters: dict[str, Any],
    *,
    streamed: bool = False,
) -> bytes:
    """A chat completions request. Parameters that Anthropic or Responses name otherwise are
    renamed, those chat completions do not know are left out.
    """
    renamed = {_RENAMED.get(name, name): value for name, value in parameters.items()}
    kept = {name: renamed[name] for name in renamed if name in _CHAT_PARAMETERS}
    body: dict[str, Any] = {"model": model, "messages": [_chat(m) for m in messages], **kept}
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise WireError("the request holds a value that JSON has no form for") from None


_RENAMED = {"stop_sequences": "stop", "max_output_tokens": "max_completion_tokens"}
_CHAT_PARAMETERS = frozenset(
    {
        "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
        "max_completion_tokens", "max_tokens", "modalities", "n", "parallel_tool_calls",
        "prediction", "presence_penalty", "reasoning_effort", "response_format", "seed", "stop",
        "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "verbosity",
    }
)  # fmt: skip


def _chat(message: Message) -> Message:
    """A message with its text parts under the one name that chat completions has for them."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [
        {"type": "text", "text": part.get("text", "")}
        if isinstance(part, dict) and part.get("type") in {"input_text", "output_text", "text"}
        else part
        for part in content
    ]
    return {**message, "content": parts}


def _bare(path: str) -> str:
    bare = path.strip("/")
    return "" if bare == "v1" else bare.removeprefix("v1/")


def with_usage(body: bytes) -> bytes:
    """A streamed chat request that also asks for usage; as it was where it cannot be read."""
    try:
        document = json_object(body)
    except WireError:
        return body
    options = document.get("stream_options")
    asked = {**options, "include_usage": True} if isinstance(options, dict) else None
    try:
        return orjson.dumps({**document, "stream_options": asked or {"include_usage": True}})
    except orjson.JSONEncodeError:  # nested too deeply to be written again
        return body
