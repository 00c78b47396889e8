"""Chat completions: reading and writing answers, streamed or not.

Belongs here: choices, deltas, their usage. Does not: requests and errors (`openai`).
An unstreamed message is read as one delta that holds everything, so that both readings of an
answer are the same code. Log-probabilities and annotations are not part of an output.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Answer, Usage
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
)
from apprentice_pipeline.wire.outputs import (
    calls_of,
    choices_form,
    choices_of,
    gravest,
    normal_form,
    pieces,
    refusal_of,
    text_of,
)

DONE = b"[DONE]"


def is_terminal(event: sse.Event) -> bool:
    """Whether an event is the last of a completion; none is without `DONE`."""
    return event.data.startswith(DONE)


class _Choice:
    """One answer, delta by delta."""

    __slots__ = ("_calls", "_others", "_texts", "finish_reason")

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._others: list[dict[str, Any]] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self.finish_reason: str | None = None

    def add(self, delta: dict[str, Any], *, whole: bool) -> None:
        """Takes in a delta, or a `whole` message. Raises: TypeError and its like if malformed."""
        content = delta.get("content")
        if len(delta) == 1 and isinstance(content, str):  # nearly every event of a stream
            self._add_text("text", content)
            return
        if isinstance(content, list):
            self._add_parts(content)
        else:
            self._add_text("text", content)
        self._add_text("refusal", delta.get("refusal"))
        self._add_text("reasoning", delta.get("reasoning_content"))
        if (audio := delta.get("audio")) is not None:
            self._add_text("audio", as_text(as_object(audio).get("transcript")))
        for position, call in enumerate(as_list(delta.get("tool_calls"))):
            numbered = {**as_object(call), "index": position} if whole else as_object(call)
            self._add_call(numbered, position)
        if (call := delta.get("function_call")) is not None:
            self._add_call({"index": 0, "function": call}, 0)

    def output(self) -> Any:
        """The normal form of what has come."""
        texts = {kind: "".join(parts) for kind, parts in self._texts.items()}
        blocks: list[dict[str, Any]] = []
        if reasoning := texts.get("reasoning"):
            blocks.append({"type": "reasoning", "text": reasoning})
        if text := texts.get("text"):
            blocks.append({"type": "text", "text": text})
        blocks += self._others
        if refusal := texts.get("refusal"):
            blocks.append({"type": "refusal", "refusal": refusal})
        if transcript := texts.get("audio"):
            blocks.append({"type": "audio", "transcript": transcript})
        return normal_form(blocks, [self._calls[index] for index in sorted(self._calls)])

    def _add_text(self, kind: str, value: Any) -> None:
        if text := as_text(value):
            self._texts.setdefault(kind, []).append(text)

    def _add_parts(self, parts: list[Any]) -> None:
        for part in parts:
            if part["type"] == "text":
                self._add_text("text", part["text"])
            elif part["type"] == "refusal":
                self._add_text("refusal", part["refusal"])
            else:
                self._others.append(part)

    def _add_call(self, call: dict[str, Any], position: int) -> None:
        index = count(call.get("index"))
        kind = "custom" if "custom" in call else "function"
        text_field = "input" if kind == "custom" else "arguments"
        if index is None:
            index = self._unnumbered(call, position)
        known = self._calls.setdefault(
            index, {"id": "", "type": kind, kind: {"name": "", text_field: ""}}
        )
        known["id"] = known["id"] or as_text(call.get("id"))
        said = as_object(call.get(kind))
        known[kind]["name"] = known[kind]["name"] or as_text(said.get("name"))
        known[kind][text_field] += as_text(said.get(text_field))

    def _unnumbered(self, call: dict[str, Any], position: int) -> int:
        """Some servers leave the index out: an id opens a call, its absence continues the last."""
        if not call.get("id"):
            return max(self._calls, default=position)
        same = (index for index, known in self._calls.items() if known["id"] == call["id"])
        return next(same, max(self._calls, default=-1) + 1)


class ChatAssembly:
    """A `streams.Assembly` of `chat.completion.chunk` events up to `[DONE]`."""

    __slots__ = ("_choices", "_model", "_tier", "_usage")

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._model = ""
        self._tier: Any = None
        self._usage = Usage()

    def is_terminal(self, event: sse.Event) -> bool:
        """See `Assembly`."""
        return is_terminal(event)

    def add(self, event: sse.Event) -> None:
        """See `Assembly`."""
        if is_terminal(event):
            if not self._choices:
                raise WireError("the stream held no choice")
            return
        document = json_object(event.data)
        if document.get("error"):
            raise WireError("the provider reported an error in the stream")
        self.take(document, "delta")

    def take(self, document: dict[str, Any], key: str) -> None:
        """One chunk (`key` is `delta`) or one whole completion (`message`)."""
        self._model = self._model or as_text(document.get("model"))
        self._tier = document.get("service_tier") or self._tier
        for choice in as_list(document.get("choices")):
            index = count(choice.get("index")) or 0
            known = self._choices.get(index)
            if known is None:
                known = self._choices[index] = _Choice()
            known.add(as_object(choice.get(key)), whole=key == "message")
            known.finish_reason = as_text(choice.get("finish_reason")) or known.finish_reason
        if (usage := document.get("usage")) is not None:
            self._usage = read_usage(usage)

    def response(self) -> WireResponse | None:
        """See `Assembly`."""
        if not self._choices:
            return None
        choices = [self._choices[index] for index in sorted(self._choices)]
        output = choices_form([choice.output() for choice in choices])
        reason = gravest(choice.finish_reason for choice in choices)
        return WireResponse(output, in_tier(self._usage, self._tier), self._model, reason)


@reads
def read_document(document: dict[str, Any]) -> WireResponse:
    """A whole `chat.completion`. Raises: WireError."""
    if (usual := _text_alone(document)) is not None:
        return usual
    assembly = ChatAssembly()
    assembly.take(document, "message")
    response = assembly.response()
    if response is None:
        raise WireError("the completion holds no choice")
    return response


def _text_alone(document: dict[str, Any]) -> WireResponse | None:
    """The usual answer, one choice of text alone, in a third of the time the assembly takes."""
    choices, usage = document.get("choices"), document.get("usage")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if choice is None or not isinstance(message, dict) or message.keys() - _OF_TEXT:
        return None
    text, reason, model = message.get("content"), choice.get("finish_reason"), document.get("model")
    if not (isinstance(text, str) and isinstance(reason, str) and isinstance(model, str)):
        return None
    if not reason or message.get("refusal") is not None or choice.get("index") != 0:
        return None
    read = Usage() if usage is None else in_tier(read_usage(usage), document.get("service_tier"))
    return WireResponse(text, read, model, reason)


_OF_TEXT = frozenset({"role", "content", "refusal", "annotations"})


def read_usage(usage: Any) -> Usage:
    """Usage of a completion; OpenAI's `prompt_tokens` count cached tokens already."""
    said = as_object(usage)
    details = as_object(said.get("prompt_tokens_details"))
    read = Usage(
        input_tokens=count(said.get("prompt_tokens")),
        output_tokens=count(said.get("completion_tokens")),
        cached_tokens=count(details.get("cached_tokens")),
        source="provider",
    )
    return Usage() if read.input_tokens is None and read.output_tokens is None else read


def usage_document(usage: Usage) -> dict[str, Any]:
    """Usage as chat completions write it."""
    prompt, completion = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
    }


def document(
    request: WireRequest, answer: Answer, response_id: str, created_s: int
) -> dict[str, Any]:
    """A whole completion that carries `answer`, under the model name that was asked for."""
    choices = [
        {
            "index": index,
            "message": _message(output),
            "logprobs": None,
            "finish_reason": _finish_reason(output),
        }
        for index, output in enumerate(choices_of(answer.output))
    ]
    return {
        "id": response_id,
        "object": "chat.completion",
        "created": created_s,
        "model": request.model,
        "choices": choices,
        "usage": usage_document(answer.usage),
        "system_fingerprint": None,
    }


def events(
    request: WireRequest, answer: Answer, response_id: str, created_s: int
) -> Iterator[bytes]:
    """The chunks that carry `answer`, with usage where the request asked for it."""
    head = {
        "id": response_id,
        "object": "chat.completion.chunk",
        "created": created_s,
        "model": request.model,
        "system_fingerprint": None,
    }
    for index, output in enumerate(choices_of(answer.output)):
        for delta in _deltas(output):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            yield sse.encode(orjson.dumps({**head, "choices": [choice]}))
        end = {"index": index, "delta": {}, "logprobs": None}
        end["finish_reason"] = _finish_reason(output)
        yield sse.encode(orjson.dumps({**head, "choices": [end]}))
    if request.include_usage:
        usage = usage_document(answer.usage)
        yield sse.encode(orjson.dumps({**head, "choices": [], "usage": usage}))
    yield sse.encode(DONE)


def _message(output: Any) -> dict[str, Any]:
    calls, refusal = calls_of(output), refusal_of(output)
    text = text_of(output)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not (calls or refusal) else None,
        "refusal": refusal,
        "annotations": [],
    }
    return {**message, "tool_calls": calls} if calls else message


def _deltas(output: Any) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": "", "refusal": None}
    for piece in pieces(text_of(output)):
        yield {"content": piece}
    if refusal := refusal_of(output):
        yield {"refusal": refusal}
    for index, call in enumerate(calls_of(output)):
        yield {"tool_calls": [{"index": index, **call}]}


def _finish_reason(output: Any) -> str:
    return "tool_calls" if calls_of(output) else "stop"
