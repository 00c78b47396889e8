"""Logs of OpenAI's and Anthropic's own bodies, and OpenAI's files.

    {"request": {…}, "response": {…}}       bodies as they went over the wire, also as
                                            request_body and response_body, or inside "body"
    a batch's output line with its input    {"custom_id", "body", "response"} (`joined`)
    stored completions                      a completion with its `messages` beside its `choices`
    {"messages": […, the answer]}           the fine-tuning file

An answer that ended early, a refusal, an error and a call to another endpoint are no pairs.
"""

from __future__ import annotations

from typing import Any

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.wire.forms import as_object, reads, without
from apprentice_pipeline.wire.imports import plain
from apprentice_pipeline.wire.imports.calls import (
    MESSAGES,
    PastCall,
    bare_model,
    is_fit,
    provider_name,
)
from apprentice_pipeline.wire.imports.conversations import (
    body_endpoint,
    request_input,
    response_answer,
)
from apprentice_pipeline.wire.imports.values import (
    between_us,
    first_of,
    json_value,
    moment_us,
    real,
    seconds_us,
    text_or_empty,
    tokens,
)

_ANSWER = (
    "id", "object", "created", "choices", "usage", "system_fingerprint", "request_id", "metadata",
    "output", "status", "error", "created_at", "incomplete_details", "input_user", "service_tier",
)  # fmt: skip


@reads
def read(record: dict[str, Any]) -> list[PastCall]:
    """The call of a record. Raises: WireError."""
    request = json_value(first_of(record, "request", "request_body"))
    response = json_value(first_of(record, "response", "response_body"))
    if request is not None or response is not None:
        return _logged(record, request, response)
    if body_endpoint(record) is not None:
        return of_bodies(without(record, *_ANSWER), record)
    return plain.read(record)


def joined(asked: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
    """A batch's input line and its output line as one record."""
    return {"custom_id": asked.get("custom_id"), "request": asked, **without(answered, "request")}


def of_bodies(request: dict[str, Any], response: dict[str, Any], **facts: Any) -> list[PastCall]:
    """The call of two whole bodies; `facts` are fields of `PastCall` that the source knows.

    Raises: WireError.
    """
    endpoint = body_endpoint(response)
    if response.get("error") or response.get("type") == "error":
        return []
    if endpoint is None:
        raise WireError("the response is not one of a chat, response or message")
    answer = response_answer(response)
    if not is_fit(answer):
        return []
    model = answer.model or text_or_empty(request.get("model"))
    provider = "anthropic" if endpoint == MESSAGES else "openai"
    read_facts = {
        "provider": provider,
        "endpoint": endpoint,
        "model": bare_model(model, provider),
        "created_at_us": moment_us(first_of(response, "created", "created_at")),
        "usage": answer.usage,
        "streamed": request.get("stream") is True,
        "record_id": text_or_empty(response.get("id")),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return [
        PastCall(
            input=request_input(endpoint, request), output=answer.output, **{**read_facts, **known}
        )
    ]


def _logged(record: dict[str, Any], request: Any, response: Any) -> list[PastCall]:
    asked, answered = as_object(request), as_object(response)
    status = tokens(first_of(answered, "status_code", "status") or record.get("status"))
    request_body = json_value(asked.get("body", asked))
    response_body = json_value(answered.get("body", answered))
    if record.get("error") or (status is not None and not 200 <= status < 300):
        return []
    if request is None:
        raise WireError("the answer comes without its request; a batch needs its input file")
    started = moment_us(first_of(record, "created_at", "timestamp", "time", "started_at"))
    ended = moment_us(first_of(record, "completed_at", "ended_at"))
    model = text_or_empty(record.get("model"))
    named = record.get("provider")
    return of_bodies(
        as_object(request_body),
        as_object(response_body),
        created_at_us=started,
        latency_us=_latency(record) or between_us(started, ended) or None,
        cost_usd=real(record.get("cost_usd")),
        provider=provider_name(named, model) if named else None,
    )


def _latency(record: dict[str, Any]) -> int:
    if milliseconds := real(record.get("latency_ms")):
        return seconds_us(milliseconds / 1_000)
    return tokens(record.get("latency_us")) or seconds_us(record.get("latency"))
