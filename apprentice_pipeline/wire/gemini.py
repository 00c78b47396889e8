"""The Gemini wire format: generateContent and streamGenerateContent.

Belongs here: paths, requests, answers (streamed or not), errors. Offers `forms.WireFormat`.
The model and the way to stream stand in the address: `models/MODEL:generateContent`, or
`:streamGenerateContent`, a JSON array unless the query asks `alt=sse`. Of `generationConfig`
what other providers have too goes by the name it has there (`max_output_tokens`, `n`, …), the
rest stays as it came; contents become messages (`gemini_parts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Answer, Message, Usage
from apprentice_pipeline.wire import sse
from apprentice_pipeline.wire.forms import (
    WireRequest,
    WireResponse,
    as_list,
    as_object,
    count,
    json_object,
    reads,
    without,
)
from apprentice_pipeline.wire.gemini_parts import (
    Parts,
    blocks_in,
    camel,
    content_of,
    contents_of,
    messages_of,
    parts_of,
)
from apprentice_pipeline.wire.gemini_settings import (
    read_settings,
    write_settings,
)
from apprentice_pipeline.wire.gemini_stream import (
    STOP,
    AnswerParser,
    ContentAssembly,
    read_documents,
)
from apprentice_pipeline.wire.outputs import blocks_of, calls_of, choices_of, pieces, refusal_of
from apprentice_pipeline.wire.streams import StreamReader

GENERATE: Final = "generateContent"
STREAM: Final = "streamGenerateContent"
ENDPOINTS = (GENERATE,)
_CALL: Final = re.compile(
    r"(?:.*/)?(models/|tunedModels/)([^/:]+):(generate|streamGenerate)Content"
)
_VERSIONED: Final = re.compile(r"/(?:v\d\w*|upload|download)/.+")
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def endpoint_of(path: str) -> str | None:
    """The endpoint of a path below the provider prefix, None where it is not captured."""
    return GENERATE if _CALL.fullmatch(unquote(path)) else None


def upstream_path(path: str) -> str:
    """The path to ask of Google for a path below the provider prefix, with its version.

    Raises: WireError for a bare path, which names no model.
    """
    if _VERSIONED.fullmatch(path):
        return path
    if not path.strip("/") or re.fullmatch(r"/v\d\w*/?", path):
        raise WireError(
            "the path names no model",
            remedy="ask …/v1beta/models/MODEL:generateContent, as Google's own clients do",
        )
    return "/v1beta/" + path.lstrip("/")


def call_path(model: str) -> str:
    """The path of a call of our own, unstreamed."""
    return f"/v1beta/{model if '/' in model else f'models/{model}'}:{GENERATE}"


def unstreamed(target: str, body: bytes) -> tuple[str, bytes]:
    """The same request, its answer asked for in one piece."""
    path, _, query = target.partition("?")
    head, _, _ = path.rpartition("streamGenerateContent")
    kept = "&".join(part for part in query.split("&") if not part.startswith(("alt=", "$alt=")))
    path = f"{head}{GENERATE}" if head else path
    return (f"{path}?{kept}" if kept else path), body


@reads
def read_request(endpoint: str, body: bytes, target: str = "") -> WireRequest:  # noqa: ARG001
    """The request in `body` to `target`; `systemInstruction` becomes the first message.

    Raises: WireError.
    """
    path, _, query = target.partition("?")
    named = _CALL.fullmatch(unquote(path))
    document = camel(json_object(body))
    given = document.get("contents")
    messages = [
        message
        for content in ([given] if isinstance(given, dict) else as_list(given))
        for message in messages_of(as_object(content))
    ]
    if (system := _system(document.get("systemInstruction"))) is not None:
        messages.insert(0, {"role": "system", "content": system})
    if not messages:
        raise WireError("the request holds no content")
    parameters = read_settings(without(document, "contents", "systemInstruction", "model"))
    streamed = named is not None and named[3] == "streamGenerate"
    return WireRequest(
        model=_model(named[1], named[2]) if named else "",
        streamed=streamed,
        input={"messages": messages, "parameters": parameters},
        max_output_tokens=count(parameters.get("max_output_tokens")),
        include_usage=True,
        as_array=streamed and not _asks_events(query),
    )


@reads
def read_response(endpoint: str, body: bytes) -> WireResponse:  # noqa: ARG001 - one endpoint
    """The answer in `body`, all of a streamed array's included. Raises: WireError."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise WireError("the body is not JSON") from None
    return read_documents(document if isinstance(document, list) else [document])


def stream_reader(endpoint: str) -> StreamReader:  # noqa: ARG001 - one endpoint
    """A reader of one streamed answer, of events or of an array."""
    assembly = ContentAssembly()
    return StreamReader(assembly, parser=AnswerParser(), ends=assembly.whole)


end_finder = stream_reader
"""A finish reason may stand in any event: each has to be read."""


def write_response(
    endpoint: str,  # noqa: ARG001 - one endpoint
    request: WireRequest,
    answer: Answer,
    *,
    response_id: str,
    created_s: int,  # noqa: ARG001 - a response carries no time
) -> bytes:
    """The unstreamed body that carries `answer`."""
    candidates = [
        _candidate(index, _parts(output), _finish_reason(output))
        for index, output in enumerate(choices_of(answer.output))
    ]
    return orjson.dumps(_response(request, answer, response_id, candidates))


def write_stream(
    endpoint: str,  # noqa: ARG001 - one endpoint
    request: WireRequest,
    answer: Answer,
    *,
    response_id: str,
    created_s: int,  # noqa: ARG001 - a response carries no time
) -> Iterator[bytes]:
    """The stream that carries `answer`: events, or an array where the request asks for one."""
    said = [
        _candidate(index, parts, reason)
        for index, output in enumerate(choices_of(answer.output))
        for parts, reason in _pieces(output)
    ]
    for number, candidate in enumerate(said):
        data = orjson.dumps(_response(request, answer, response_id, [candidate]))
        if not request.as_array:
            yield sse.encode(data)
        else:
            yield (b",\r\n" if number else b"[") + data
    if request.as_array:
        yield b"]"


def write_error(status: int, message: str) -> bytes:
    """An error body as Google writes it."""
    name = _STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    return orjson.dumps({"error": {"code": status, "message": message, "status": name}})


def write_request(
    model: str,  # noqa: ARG001 - the address names it
    messages: Sequence[Message],
    parameters: dict[str, Any],
    *,
    streamed: bool = False,  # noqa: ARG001 - the address says it
) -> bytes:
    """A generateContent request. Parameters that others name otherwise are renamed, those that
    Gemini does not know are left out. Raises: WireError for content it has no form for.
    """
    document = _request_document(messages, parameters)
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        raise WireError("the request holds a value that JSON has no form for") from None


@reads
def _request_document(messages: Sequence[Message], parameters: dict[str, Any]) -> dict[str, Any]:
    system = [m.get("content") for m in messages if m.get("role") in {"system", "developer"}]
    turns = [m for m in messages if m.get("role") not in {"system", "developer"}]
    body: dict[str, Any] = {"contents": contents_of(turns), **write_settings(parameters)}
    if system:
        blocks = [block for content in system for block in blocks_in(content)]
        body["systemInstruction"] = {"parts": parts_of(blocks, ())}
    return body


def _system(given: Any) -> Any:
    """The system prompt as a message's content, None where there is none."""
    if isinstance(given, str):
        return given or None
    parts, said = Parts(), as_object(given).get("parts")
    for part in [said] if isinstance(said, dict) else as_list(said):
        parts.add(part)
    return content_of(parts.blocks()) or None


def _model(kind: str, name: str) -> str:
    return name if kind == "models/" else kind + name


def _asks_events(query: str) -> bool:
    return any(name in {"alt", "$alt"} and value == "sse" for name, value in parse_qsl(query))


def _response(
    request: WireRequest, answer: Answer, response_id: str, candidates: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "candidates": candidates,
        "usageMetadata": _usage_document(answer.usage),
        "modelVersion": request.model or answer.model,
        "responseId": response_id,
    }


def _candidate(index: int, parts: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": index}
    return {**said, "finishReason": reason} if reason else said


def _pieces(output: Any) -> Iterator[tuple[list[dict[str, Any]], str | None]]:
    """One candidate in the pieces of a stream, the last with its reason."""
    parts = _parts(output)
    *before, last = parts or [{"text": ""}]
    for part in before:
        yield from (([piece], None) for piece in _cut(part))
    *others, end = _cut(last)
    yield from (([piece], None) for piece in others)
    yield [end], _finish_reason(output)


def _cut(part: dict[str, Any]) -> list[dict[str, Any]]:
    """A text part in pieces, its signature with the last; any other part in one."""
    if not part.get("text"):
        return [part]
    plain = without(part, "thoughtSignature")
    cut = [{**plain, "text": piece} for piece in pieces(part["text"])]
    cut[-1] = {**part, "text": cut[-1]["text"]}
    return cut


def _parts(output: Any) -> list[dict[str, Any]]:
    return parts_of(blocks_of(output), calls_of(output))


def _finish_reason(output: Any) -> str:
    return STOP if refusal_of(output) is None else "SAFETY"


def _usage_document(usage: Usage) -> dict[str, Any]:
    prompt, made = usage.input_tokens or 0, usage.output_tokens or 0
    said = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": made,
        "totalTokenCount": prompt + made,
    }
    cached = usage.cached_tokens
    return {**said, "cachedContentTokenCount": cached} if cached else said
