"""Reads and writes as Google's Gemini API does: generateContent whole, streamed as events or as a
JSON array, token counts, models and errors.

Formats only. Written from the provider's public reference; checked by its own SDK in tests.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

import orjson

from apprentice_pipeline.demo.stand_in.reply import Reply, pieces
from apprentice_pipeline.demo.stand_in.request import Call, read_turns
from apprentice_pipeline.errors import WireError

_PATH = re.compile(r"/v1(?:beta|alpha)?/models/([^/:]+):(\w+)")
MODELS = "gemini:/models"
_ERRORS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


def is_gemini(path: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request is this provider's."""
    named = path.startswith(("/v1beta/", "/v1alpha/")) or _PATH.fullmatch(path) is not None
    return named or b"x-goog-api-key" in headers


def bare(path: str) -> str:
    """A path without its version, that no other provider has."""
    return "gemini:" + re.sub(r"^/v1\w*", "", path)


def counts(path: str) -> bool:
    """Whether a bare path asks for a count of tokens."""
    return path.startswith("gemini:") and path.endswith(":countTokens")


def asked(path: str) -> tuple[str, str]:
    """The model and the method that a path names, both "" where it names none."""
    found = _PATH.fullmatch(path)
    return (found[1], found[2]) if found else ("", "")


def key_in(query: bytes) -> bytes:
    """The API key in a query, empty where there is none."""
    return parse_qs(query).get(b"key", [b""])[0]


def as_events(query: bytes) -> bool:
    """Whether a stream is asked for as server-sent events."""
    return parse_qs(query).get(b"alt") == [b"sse"]


def reader(model: str, *, streamed: bool) -> Callable[[bytes], Call]:
    """A reader of generateContent requests to `model`."""
    return lambda body: _read(body, model, streamed)


def _read(body: bytes, model: str, streamed: bool) -> Call:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise WireError("Invalid JSON payload received.") from None
    contents = value.get("contents") if isinstance(value, dict) else None
    if not isinstance(contents, list) or not contents:
        raise WireError("* GenerateContentRequest.contents: contents is not specified")
    config = value.get("generationConfig") or {}
    thinking = config.get("thinkingConfig") or {}
    system = value.get("systemInstruction")
    head = [_turn({**system, "role": "system"})] if isinstance(system, dict) else []
    text, prefix, count = read_turns([*head, *map(_turn, contents)])
    tools = value.get("tools") or []
    mode = ((value.get("toolConfig") or {}).get("functionCallingConfig") or {}).get("mode")
    return Call(
        model=model,
        text=text,
        prefix=prefix,
        messages=count,
        streamed=streamed,
        choices=config.get("candidateCount") or 1,
        tool=_forced(tools) if mode == "ANY" else None,
        max_tokens=config.get("maxOutputTokens"),
        thinks=True in (thinking.get("includeThoughts"), thinking.get("include_thoughts")),
        offers_tools=bool(tools) and mode != "NONE",
    )


def _turn(content: Any) -> dict[str, Any]:
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list):
        raise WireError("* GenerateContentRequest.contents: parts must not be empty")
    return {"role": content.get("role", "user"), "content": parts}


def _forced(tools: list[Any]) -> str | None:
    declared = [each for tool in tools for each in tool.get("functionDeclarations", ())]
    return str(declared[0]["name"]) if declared else None


def write_error(status: int, message: str) -> bytes:
    """Google's error body."""
    error = {"code": status, "message": message, "status": _ERRORS.get(status, "UNKNOWN")}
    return orjson.dumps({"error": error}, option=orjson.OPT_INDENT_2)


def write_models(models: tuple[str, ...]) -> bytes:
    """The body of `GET /v1beta/models`."""
    methods = ["generateContent", "countTokens"]
    data = [
        {"name": f"models/{model}", "displayName": model, "supportedGenerationMethods": methods}
        for model in models
    ]
    return orjson.dumps({"models": data})


def write_count(input_tokens: int) -> bytes:
    """The body of `:countTokens`."""
    return orjson.dumps({"totalTokens": input_tokens})


def write_generation(reply: Reply) -> bytes:
    """A whole answer."""
    if reply.parts.stop == "BLOCKED":
        return orjson.dumps(_blocked(reply))
    candidates = [
        _candidate(index, _parts(reply, index), _stop(reply, index))
        for index in range(len(reply.texts))
    ]
    return orjson.dumps(_response(reply, candidates), option=orjson.OPT_INDENT_2)


def generation_events(reply: Reply, chunk_chars: int) -> Iterator[bytes]:
    """A streamed answer as server-sent events; the last of each candidate says why it ended."""
    for document in _documents(reply, chunk_chars):
        yield b"data: " + orjson.dumps(document) + b"\r\n\r\n"


def generation_array(reply: Reply, chunk_chars: int) -> Iterator[bytes]:
    """A streamed answer as a JSON array, element by element."""
    for number, document in enumerate(_documents(reply, chunk_chars)):
        yield (b",\r\n" if number else b"[") + orjson.dumps(document, option=orjson.OPT_INDENT_2)
    yield b"\n]\n"


def _documents(reply: Reply, chunk_chars: int) -> Iterator[dict[str, Any]]:
    if reply.parts.stop == "BLOCKED":
        yield _blocked(reply)
        return
    for index in range(len(reply.texts)):
        said = [piece for part in _parts(reply, index) for piece in _pieces(part, chunk_chars)] or [
            {"text": ""}
        ]
        for part in said[:-1]:
            yield _response(reply, [_candidate(index, [part], None)])
        yield _response(reply, [_candidate(index, said[-1:], _stop(reply, index))])


def _pieces(part: dict[str, Any], chunk_chars: int) -> list[dict[str, Any]]:
    if "text" not in part:
        return [part]
    unsigned = {name: value for name, value in part.items() if name != "thoughtSignature"}
    cut = [{**unsigned, "text": piece} for piece in pieces(part["text"], chunk_chars)]
    return [*cut[:-1], {**part, "text": cut[-1]["text"]}]


def _parts(reply: Reply, index: int) -> list[dict[str, Any]]:
    """Thought, what was said, the function calls; as Google does, a thought signs what follows."""
    parts: list[dict[str, Any]] = []
    text, calls = reply.refusal or reply.said(index), reply.calls(index)
    if text or not calls:
        parts.append({"text": text})
    parts += [
        {"functionCall": {"id": f"fc{at}{reply.id}", "name": name, "args": _arguments(said)}}
        for at, (name, said) in enumerate(calls)
    ]
    if not reply.thinking:
        return parts
    parts[0]["thoughtSignature"] = b64encode(reply.thinking.encode()).decode()
    return [{"text": reply.thinking, "thought": True}, *parts]


def _arguments(text: str) -> dict[str, Any]:
    """Arguments are an object: the answer where it is one, else the text under `answer`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"answer": value}


def _candidate(index: int, parts: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    """Google leaves an index of zero out, as it does every zero."""
    place = {"index": index} if index else {}
    ended = {"finishReason": reason} if reason else {}
    return {"content": {"parts": parts, "role": "model"}, **ended, **place}


def _stop(reply: Reply, index: int) -> str:
    if reply.cut[index]:
        return "MAX_TOKENS"
    return reply.parts.stop or ("SAFETY" if reply.refusal else "STOP")


def _response(reply: Reply, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "candidates": candidates,
        "usageMetadata": _usage(reply, reply.output_tokens),
        "modelVersion": reply.model,
        "responseId": reply.id,
    }


def _blocked(reply: Reply) -> dict[str, Any]:
    return {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": _usage(reply, 0),
        "modelVersion": reply.model,
        "responseId": reply.id,
    }


def _usage(reply: Reply, made: int) -> dict[str, int]:
    thought = (len(reply.thinking) + 3) // 4
    said = {
        "promptTokenCount": reply.input_tokens,
        "cachedContentTokenCount": reply.cached_tokens,
        "candidatesTokenCount": made,
        "thoughtsTokenCount": thought,
        "totalTokenCount": reply.input_tokens + made + thought,
    }
    return {name: value for name, value in said.items() if value}
